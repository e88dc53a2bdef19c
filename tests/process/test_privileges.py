"""privileges: workers become somebody else, the supervisor stays; what root is told."""

from __future__ import annotations

import grp
import json
import os
import pwd
from collections.abc import Callable
from pathlib import Path

import pytest
from process.running import HERE, Running

from fastserve.errors import ConfigError
from fastserve.process.config import Config
from fastserve.process.privileges import Identity

APP = ("apps:app", "--app-dir", str(HERE), "--port", "0")
root = os.geteuid() == 0
ME = pwd.getpwuid(os.geteuid()).pw_name
OTHER = "nobody" if root else ME


def in_child(function: Callable[[], object]) -> object:
    """What it returns in a process of its own."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(write, json.dumps(function()).encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        text = pipe.read()
    os.waitpid(pid, 0)
    return json.loads(text)


def test_privileges_are_given_up_for_good() -> None:
    """User, group, supplementary groups; saved ids too, so that there is no way back."""
    entry = pwd.getpwnam(OTHER)
    identity = Identity.of(Config(app=None, user=OTHER, umask=0o27))

    def become() -> object:
        identity.assume()
        back = True
        try:
            os.seteuid(0)
        except PermissionError:
            back = False
        mask = os.umask(0)
        return [os.getresuid(), os.getresgid(), sorted(os.getgroups()), back, mask]

    found = in_child(become)
    groups = sorted(os.getgrouplist(OTHER, entry.pw_gid)) if root else sorted(os.getgroups())
    assert found == [[entry.pw_uid] * 3, [entry.pw_gid] * 3, groups, False, 0o27]


def test_group_alone_and_numbers() -> None:
    group = grp.getgrgid(os.getegid()) if not root else grp.getgrnam("nogroup")
    identity = Identity.of(Config(app=None, group=str(group.gr_gid)))
    assert identity == Identity.of(Config(app=None, group=group.gr_name))

    def become() -> object:
        identity.assume()
        return os.getresgid()

    assert in_child(become) == [group.gr_gid] * 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"user": "no-such-user"}, "user: there is no user 'no-such-user'"),
        ({"group": "no-such-group"}, "group: there is no group 'no-such-group'"),
    ],
)
def test_unknown_names_are_readable(options: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Identity.of(Config(app=None, **options))  # type: ignore[arg-type]


def test_unknown_user_ends_the_start_in_one_line(tmp_path: Path) -> None:
    with Running(*APP, "--user", "no-such-user", cwd=tmp_path) as server:
        assert server.wait() == 2
        assert server.lines == ["fastserve: error: user: there is no user 'no-such-user'"]


@pytest.mark.parametrize("more", [(), ("--preload",)], ids=["plain", "preload"])
def test_workers_change_and_the_supervisor_does_not(tmp_path: Path, more: tuple[str, ...]) -> None:
    """The group, for a worker must still be able to read this interpreter, which may lie in root's home."""
    group = "nogroup" if root else grp.getgrgid(os.getegid()).gr_name
    with Running(*APP, "-w", "2", "--group", group, "--umask", "27", *more, cwd=tmp_path) as server:
        server.ready()
        assert server.get("/whoami") == f"{os.geteuid()} {grp.getgrnam(group).gr_gid} 27"
        status = Path(f"/proc/{server.pid}/status").read_text()
        assert f"Gid:\t{os.getegid()}\t{os.getegid()}" in status
        assert server.stop() == 0


@pytest.mark.parametrize("workers", ["1", "2"])
def test_root_is_told_once(tmp_path: Path, workers: str) -> None:
    with Running(*APP, "-w", workers, cwd=tmp_path) as server:
        server.ready()
        assert server.get() == "hello"
        assert server.stop() == 0
        assert server.err.count("workers run as root") == int(root)
