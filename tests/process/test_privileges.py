"""privileges: workers become somebody else, the supervisor stays; what root is told."""

from __future__ import annotations

import grp
import json
import os
import pwd
import signal
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from process.running import FOR_OTHERS, HERE, OTHER, Running, alive, get_unix, until
from process.test_under_load import children

from fastserve.errors import ConfigError
from fastserve.process.config import Config
from fastserve.process.privileges import Identity

APP = ("apps:app", "--app-dir", str(HERE), "--port", "0")
root = os.geteuid() == 0


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


def ids(pid: int) -> tuple[list[int], list[int]]:
    """Real, effective, saved and file system ids: users, groups."""
    lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return [int(word) for word in lines["Uid"].split()], [int(word) for word in lines["Gid"].split()]


@pytest.mark.parametrize("more", [(), ("--preload",)], ids=["plain", "preload"])
def test_end_to_end(tmp_path: Path, more: tuple[str, ...]) -> None:
    """Socket, workers, workers after a reload and after a death: all are the other's, for good; the supervisor is not, and
    its end is still theirs."""
    entry = pwd.getpwnam(OTHER)
    uid, gid = entry.pw_uid, entry.pw_gid
    path = tmp_path / "s"
    with Running(
        *APP, "-w", "2", "--uds", str(path), "--user", OTHER, *more, cwd=tmp_path, command=FOR_OTHERS
    ) as server:
        server.ready()
        about = path.stat()
        assert (about.st_uid, about.st_gid, stat.S_IMODE(about.st_mode)) == (uid, gid, 0o600)

        def workers() -> set[int]:
            return {int(get_unix(path, "/pid").rpartition(b"\r\n\r\n")[2]) for _ in range(20)}

        def check(found: set[int]) -> None:
            for pid in found:
                assert ids(pid) == ([uid] * 4, [gid] * 4)

        first = set(server.workers)
        check(first)
        server.signal(signal.SIGHUP)
        server.wait_for("reloaded, generation 2")
        until(lambda: not workers() & first, "the old ones accept no more")
        second = workers()
        check(second)
        os.kill(second.pop(), signal.SIGKILL)
        server.wait_for(r"was killed by SIGKILL; starting another")
        until(lambda: len(children(server.pid) & workers()) == 2, "two workers answer")
        third = workers()
        check(third)
        assert ids(server.pid) == ([os.geteuid()] * 4, [os.getegid()] * 4)
        server.signal(signal.SIGKILL)
        until(lambda: not any(map(alive, third)), "the workers end with it", 2.0)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_root_is_told_once(tmp_path: Path, workers: str) -> None:
    with Running(*APP, "-w", workers, cwd=tmp_path) as server:
        server.ready()
        assert server.get() == "hello"
        assert server.stop() == 0
        assert server.err.count("workers run as root") == int(root)
