"""fastserve check: broken applications and narrow machines, each as one line, with the exit code."""

from __future__ import annotations

import gc
import json
import os
import re
import shlex
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from process.running import HERE

from fastserve.process import check
from fastserve.process.config import Config

DATA = HERE.parent / "data"
DOCS = HERE.parents[1] / "docs"

GOOD = """
import pathlib
async def app(scope, receive, send):
    assert scope["type"] == "lifespan"
    while True:
        word = (await receive())["type"].rpartition(".")[2]
        with open("log", "a") as log:
            log.write(word + " ")
        print("the application speaks")
        await send({"type": f"lifespan.{word}.complete"})
        if word == "shutdown":
            return
"""
FAILS = """
async def app(scope, receive, send):
    await receive()
    await send({"type": "lifespan.startup.failed", "message": "no database"})
"""
RAISES = """
from fastserve import App
async def lifespan(app):
    raise ValueError("no configuration")
    yield
app = App(lifespan=lifespan)
"""
SHUTDOWN_RAISES = """
from fastserve import App
async def lifespan(app):
    yield
    raise ValueError("still busy")
app = App(lifespan=lifespan)
"""
WSGI = "def app(environ, start_response): ...\n"


def run(folder: Path, *words: str, before: str = "") -> tuple[int, list[str], str]:
    """Exit code, lines, and stderr of a real `fastserve check`. `before`: what a shell does first."""
    command = [sys.executable, "-m", "fastserve", "check", *words]
    if before:
        command = ["sh", "-c", f"{before}; exec {shlex.join(command)}"]
    clean = {
        k: v for k, v in os.environ.items() if not k.startswith("FASTSERVE_") and k not in ("PORT", "WEB_CONCURRENCY")
    }
    result = subprocess.run(command, cwd=folder, env=clean, capture_output=True, text=True, timeout=60)
    return result.returncode, result.stdout.splitlines(), result.stderr


def of(lines: list[str], topic: str) -> list[str]:
    return [" ".join(line.split()) for line in lines if line.split()[1:2] == [topic]]


def test_a_good_application_is_started_and_stopped_once_and_nothing_stays(tmp_path: Path) -> None:
    (tmp_path / "good.py").write_text(GOOD)
    code, lines, err = run(tmp_path, "good:app", "--port", "0", "--uds", "s")
    assert code == 0 and err == "the application speaks\n" * 2
    assert (tmp_path / "log").read_text() == "startup shutdown "
    assert not (tmp_path / "s").exists()
    assert of(lines, "interface") == ["ok interface asgi, found out"]
    assert of(lines, "sockets")[1:] == ["ok sockets unix:s can be bound"]
    assert re.fullmatch(r"fastserve: \d+ ok, \d+ notes?, \d+ warnings?, 0 errors", lines[-1])
    topics = [line.split()[1] for line in lines[:-1]]
    order = [topic for topic, _ in check.CHECKS]
    assert sorted(topics, key=order.index) == topics


@pytest.mark.parametrize(
    ("source", "words", "topic", "text"),
    [
        ("raise ValueError('no configuration')", (), "import", 'cannot import "it": ValueError: no configuration'),
        ("import nothing_of_that_name", (), "import", 'cannot import "it": ModuleNotFoundError'),
        ("ap = 1", (), "import", 'module "it" has no attribute "app"; did you mean "ap"?'),
        ("import asyncio\napp = asyncio.sleep", (), "import", "sleep is async, and takes no"),
        (WSGI, ("--interface", "native"), "interface", "function is not a fastserve.App"),
        (FAILS, (), "lifespan", "the application failed to start: no database"),
        (RAISES, (), "lifespan", "the application failed to start: ValueError: no configuration"),
        (SHUTDOWN_RAISES, (), "lifespan", "the application failed to shut down: ValueError: still busy"),
        (WSGI, ("--pid", "no/such/folder"), "options", "pid: there is no folder"),
        (WSGI, ("--workers", "none"), "options", "-w/--workers: neither a whole number nor auto: 'none'"),
        (WSGI, ("--host", "192.0.2.1"), "sockets", "cannot listen on 192.0.2.1:0: it is no address of this machine"),
        (WSGI, ("--ssl-certfile", "none.pem"), "tls", "ssl-certfile: cannot read none.pem: No such file"),
    ],
)
def test_what_is_broken_is_an_error_in_one_line(
    tmp_path: Path, source: str, words: tuple[str, ...], topic: str, text: str
) -> None:
    (tmp_path / "it.py").write_text(source)
    code, lines, err = run(tmp_path, "it:app", "--port", "0", *words)
    errors = [line for line in lines if line.startswith("error ")]
    assert code == 1 and len(errors) == 1, lines
    assert " ".join(errors[0].split()).startswith(f"error {topic} {text}")
    assert ("Traceback" in err) == ("Error: " in errors[0])  # the application's own code raised
    assert "fastserve/process" not in err


def test_a_missing_application_is_an_error_too(tmp_path: Path) -> None:
    code, lines, _ = run(tmp_path)
    assert code == 1 and "error    options      an application is missing" in lines[0]


def test_a_busy_port_is_an_error_and_the_rest_is_looked_at(tmp_path: Path) -> None:
    (tmp_path / "it.py").write_text(WSGI)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, lines, _ = run(tmp_path, "it:app", "--port", str(port), "--admin", f"127.0.0.1:{port}")
    assert code == 1
    for topic in ("sockets", "admin"):
        [line] = of(lines, topic)
        assert line.startswith(f"error {topic} cannot listen on 127.0.0.1:{port}: the address is already in use (")
    assert of(lines, "kernel")


@pytest.mark.parametrize(
    ("limit", "words", "text"),
    [
        (30, (), "error descriptors ulimit -n is 30: a worker needs 33 before any connection"),
        (256, (), "warning descriptors ulimit -n is 256: a worker has at most 223 connections"),
        (
            256,
            ("--limit-connections", "250"),
            "warning descriptors ulimit -n is 256: --limit-connections 250 cannot be",
        ),
        (256, ("--limit-connections", "99"), "ok descriptors ulimit -n is 256: about 223"),
    ],
)
def test_ulimit(tmp_path: Path, limit: int, words: tuple[str, ...], text: str) -> None:
    (tmp_path / "it.py").write_text(WSGI)
    code, lines, _ = run(tmp_path, "it:app", "--port", "0", *words, before=f"ulimit -n {limit}")
    assert of(lines, "descriptors")[0].startswith(text) and code == (1 if text.startswith("error") else 0)


def test_json_is_one_object_whatever_the_application_prints(tmp_path: Path) -> None:
    (tmp_path / "good.py").write_text("print('hello')\n" + GOOD)
    code, lines, _ = run(tmp_path, "good:app", "--port", "0", "--json", "--workers", "99")
    found = json.loads("\n".join(lines))
    assert code == 0 and found["ok"] is True and sum(found["counts"].values()) == len(found["findings"])
    assert {entry["level"] for entry in found["findings"]} <= set(check.LEVELS)
    assert {"level", "topic", "text", "advice"} == set(found["findings"][0])
    assert any(entry["topic"] == "cpu" and entry["level"] == "warning" for entry in found["findings"])
    code, lines, _ = run(tmp_path, "nothing:app", "--json")
    assert code == 1 and json.loads("\n".join(lines))["ok"] is False


# ------------------------------------------------------------------------------------------------ other machines


def machine(root: Path, **numbers: object) -> Path:
    """A machine of its own, below `root`: `net_core_somaxconn=128` is proc/sys/net/core/somaxconn."""
    paths = {
        "somaxconn": "proc/sys/net/core/somaxconn",
        "syn_backlog": "proc/sys/net/ipv4/tcp_max_syn_backlog",
        "cookies": "proc/sys/net/ipv4/tcp_syncookies",
        "abort": "proc/sys/net/ipv4/tcp_abort_on_overflow",
        "ports": "proc/sys/net/ipv4/ip_local_port_range",
        "overcommit": "proc/sys/vm/overcommit_memory",
        "tracked": "proc/sys/net/netfilter/nf_conntrack_count",
        "trackable": "proc/sys/net/netfilter/nf_conntrack_max",
        "groups": "proc/self/cgroup",
        "memory": "sys/fs/cgroup/shop/memory.max",
        "memory1": "sys/fs/cgroup/memory/shop/memory.limit_in_bytes",
        "pids": "sys/fs/cgroup/shop/pids.max",
        "quota": "sys/fs/cgroup/shop/cpu.max",
        "meminfo": "proc/meminfo",
    }
    for name, value in numbers.items():
        file = root / paths[name]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{value}\n")
    return root


VERSION_2, VERSION_1 = "0::/shop", "4:memory:/shop"


@pytest.mark.parametrize(
    ("look", "numbers", "options", "expected"),
    [
        (check.kernel, {"somaxconn": 4096}, {}, "ok net.core.somaxconn 4096 holds --backlog 2048"),
        (check.kernel, {"somaxconn": 128}, {}, "warning net.core.somaxconn is 128: the queue of --backlog 2048 is cut"),
        (check.kernel, {"somaxconn": 128}, {"backlog": 100}, "ok net.core.somaxconn 128 holds"),
        (check.kernel, {"syn_backlog": 256, "cookies": 0}, {}, "warning net.ipv4.tcp_max_syn_backlog is 256"),
        (check.kernel, {"syn_backlog": 256, "cookies": 1}, {}, ""),
        (check.kernel, {"abort": 1}, {}, "warning net.ipv4.tcp_abort_on_overflow is 1"),
        (check.kernel, {"ports": "60000\t60999"}, {}, "note 1000 ports for outgoing connections"),
        (check.kernel, {"ports": "32768\t60999"}, {"port": 40000}, "note port 40000 lies among those"),
        (check.kernel, {"tracked": 90, "trackable": 100}, {}, "warning 90 of 100 connections are tracked"),
        (check.kernel, {"tracked": 50, "trackable": 100}, {}, ""),
        (check.memory, {"groups": VERSION_2, "memory": 1 << 20}, {}, "warning 1 MiB by the control group"),
        (check.memory, {"groups": VERSION_1, "memory1": 1 << 20}, {}, "warning 1 MiB by the control group"),
        (
            check.memory,
            {"groups": VERSION_2, "memory": "max", "meminfo": "MemAvailable: 99000000 kB"},
            {},
            "ok 94 GiB a",
        ),
        (
            check.memory,
            {"groups": VERSION_1, "memory1": 2**63 - 4096, "meminfo": "MemAvailable: 9 kB"},
            {},
            "warning 0 M",
        ),
        (check.threads, {"groups": VERSION_2, "pids": 50}, {}, "warning pids.max is 50, 2 workers may want 94 threads"),
        (check.threads, {"groups": VERSION_2, "pids": "max"}, {}, "ok at most about 94"),
        (
            check.processors,
            {"groups": VERSION_2, "quota": "100000 100000"},
            {"workers": 4},
            "warning 4 workers take turns",
        ),
        (check.balancer, {}, {"timeout_keep_alive": 5.0}, "warning idle connections are closed after 5 s"),
        (check.balancer, {}, {}, "ok idle connections stay 75 s"),
        (check.balancer, {}, {"host": "0.0.0.0"}, "note a stop refuses new connections at once"),
        (check.balancer, {}, {"host": "0.0.0.0", "shutdown_delay": 5.0}, "ok idle connections stay 75 s"),
        (check.proxies, {}, {"host": "0.0.0.0", "forwarded_allow_ips": "*"}, "warning everyone is believed"),
        (check.proxies, {}, {"forwarded_allow_ips": "*"}, "ok believed: *"),
        (check.proxies, {}, {"host": "0.0.0.0"}, "note a balancer on another machine is not believed"),
        (check.proxies, {}, {"host": "0.0.0.0", "forwarded_allow_ips": "10.0.0.0/8"}, "ok believed: 10.0.0.0/8"),
        (check.proxies, {}, {"proxy_headers": False}, "ok none is believed"),
    ],
)
def test_machines(
    tmp_path: Path, look: Any, numbers: dict[str, object], options: dict[str, Any], expected: str
) -> None:
    """The last finding, which is the one that matters; "": nothing is said."""
    found = list(look(check.Case(Config.of("it:app", options), machine(tmp_path, **numbers))))
    last = f"{found[-1].level} {found[-1].text}" if found else ""
    assert last.startswith(expected) and bool(expected) == bool(found), found
    assert all(finding.advice for finding in found if finding.level == "warning"), "a warning says what to do"


def test_overcommit_is_a_note(tmp_path: Path) -> None:
    root = machine(tmp_path, meminfo="MemAvailable: 99000000 kB", overcommit=2)
    assert [found.level for found in check.memory(check.Case(Config(app="it:app"), root))] == ["ok", "note"]


def test_a_certificate_is_read_and_its_end_is_told(tmp_path: Path) -> None:
    command = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout k.pem -out c.pem -days 3 "
        "-subj /CN=shop.example"
    )
    subprocess.run(shlex.split(command), cwd=tmp_path, check=True, capture_output=True)
    config = Config(app="it:app", ssl_certfile=(str(tmp_path / "c.pem"),), ssl_keyfile=(str(tmp_path / "k.pem"),))
    found = list(check.tls(check.Case(config, tmp_path)))
    assert [one.level for one in found] == ["ok", "warning"] and "shop.example: expires on " in found[1].text


def test_a_startup_that_does_not_end_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "LIFESPAN_SECONDS", 0.1)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await receive()  # the shutdown, which does not come

    case = check.Case(Config(app=app), tmp_path)
    case.app, case.interface, case.can_be_called = app, "asgi", True
    with pytest.raises(check.ConfigError, match=r"the application failed to start: not within 0.1 s"):
        list(check.lifespan(case))


@pytest.mark.parametrize(
    ("error", "said"),
    [(SystemExit(4), r"it called sys.exit\(4\)"), (TimeoutError("of its own"), "TimeoutError: of its own")],
)
def test_a_startup_that_exits_or_has_a_timeout_of_its_own_has_failed(
    tmp_path: Path, error: BaseException, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        raise error

    case = check.Case(Config(app=app, lifespan="on"), tmp_path)
    case.app, case.interface, case.can_be_called = app, "asgi", True
    with pytest.raises(check.ApplicationError, match=f"the application failed to start: {said}"):
        list(check.lifespan(case))
    gc.collect()
    assert "never retrieved" not in capsys.readouterr().err


def test_every_topic_is_documented() -> None:
    page = (DOCS / "check.md").read_text(encoding="utf-8")
    rows = set(re.findall(r"`(\w+)`", " ".join(re.findall(r"^\| (`\w+`.*?) \|", page, re.MULTILINE))))
    assert {topic for topic, _ in check.CHECKS} | {"admin"} | set(check.LEVELS) == rows
