"""systemd: sockets that are passed in, by number and by name, and what the service manager is told."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from pathlib import Path

import pytest
from process.running import HERE, Running, get, get_unix, until

from fastserve.errors import ConfigError
from fastserve.process.systemd import Notifier, descriptors, listen_fds

APP = ("apps:app", "--app-dir", str(HERE))

ACTIVATE = """
import os, sys
names = sys.argv[1]
for place, fd in enumerate(map(int, sys.argv[2].split(","))):
    os.dup2(fd, 3 + place)
    os.set_inheritable(3 + place, True)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(place + 1), LISTEN_FDNAMES=names)
os.execv(sys.executable, [sys.executable, "-m", "fastserve", *sys.argv[3:]])
"""  # what systemd does between fork and exec


class Manager:
    """The receiving end of NOTIFY_SOCKET."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.path)
        self.lines: list[str] = []
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        while data := self._socket.recv(4096):
            self.lines += data.decode().splitlines()

    def heard(self, line: str) -> None:
        until(lambda: line in self.lines, f"{line} in {self.lines}")


@pytest.fixture
def high_sockets() -> object:
    """Listening sockets whose numbers are above those that they get."""
    made: list[socket.socket] = []

    def make(path: Path | None = None) -> tuple[int, int]:
        listener = socket.create_server(("127.0.0.1", 0)) if path is None else socket.socket(socket.AF_UNIX)
        if path is not None:
            listener.bind(str(path))
            listener.listen()
        made.append(listener)
        number = os.dup2(listener.fileno(), 50 + len(made))
        os.set_inheritable(number, True)
        return number, listener.getsockname()[1] if path is None else 0

    yield make
    for place, listener in enumerate(made):
        os.close(51 + place)
        listener.close()


def activated(names: str, numbers: list[int], *arguments: str, cwd: Path) -> Running:
    listed = ",".join(map(str, numbers))
    return Running(names, listed, *APP, *arguments, cwd=cwd, command=[sys.executable, "-c", ACTIVATE], pass_fds=numbers)


@pytest.mark.parametrize("workers", ["1", "3"])
def test_passed_sockets_are_served(tmp_path: Path, high_sockets: object, workers: str) -> None:
    """All of them, and in place of an address of our own."""
    first, port = high_sockets()  # type: ignore[operator]
    second, _ = high_sockets(tmp_path / "s")  # type: ignore[operator]
    with activated("web:unix", [first, second], "-w", workers, cwd=tmp_path) as server:
        server.ready()
        assert server.port == port and f"unix:{tmp_path / 's'}" in server.err
        assert get(port) == "hello" and get_unix(tmp_path / "s").endswith(b"hello")
        if workers == "3":
            os.kill(server.workers[0], signal.SIGKILL)
            server.wait_for(r"worker 0 .* is ready")
        assert all(get(port) == "hello" for _ in range(10))
        assert server.stop() == 0
    assert (tmp_path / "s").exists()  # it is systemd's


def test_named_socket_is_served_alone(tmp_path: Path, high_sockets: object) -> None:
    first, port = high_sockets()  # type: ignore[operator]
    second, other = high_sockets()  # type: ignore[operator]
    with activated("web:other", [first, second], "--fd", "other", cwd=tmp_path) as server:
        server.ready()
        assert server.port == other != port
        assert server.stop() == 0


@pytest.mark.parametrize(
    ("spelling", "more"), [("--fd {}", "-w 2"), ("--bind fd://{}", "-w 2"), ("-b fd://{}", "--reload")]
)
def test_fd_by_number(tmp_path: Path, high_sockets: object, spelling: str, more: str) -> None:
    number, port = high_sockets()  # type: ignore[operator]
    flags = f"{spelling.format(number)} {more}".split()
    with Running(*APP, *flags, cwd=tmp_path, pass_fds=[number]) as server:
        assert server.ready().port == port and get(port) == "hello"
        assert server.stop() == 0


@pytest.mark.parametrize(
    ("number", "reason"), [("0", "descriptor 0 is no socket"), ("900", "descriptor 900 is no socket")]
)
def test_fd_that_is_no_socket_is_one_line(tmp_path: Path, number: str, reason: str) -> None:
    with Running(*APP, "--fd", number, cwd=tmp_path) as server:
        assert server.wait() == 3
        assert len(server.lines) == 1 and reason in server.lines[0]


def test_manager_is_told(tmp_path: Path) -> None:
    manager = Manager(tmp_path / "notify")
    environ = {"NOTIFY_SOCKET": manager.path, "WATCHDOG_USEC": "400000"}
    with Running(*APP, "--port", "0", "-w", "2", cwd=tmp_path, **environ) as server:
        server.ready()
        manager.heard("READY=1")
        assert f"MAINPID={server.pid}" in manager.lines
        assert "STATUS=2 of 2 workers serve, 0 retire" in manager.lines
        until(lambda: manager.lines.count("WATCHDOG=1") >= 3, "the watchdog is fed")
        server.signal(signal.SIGHUP)
        manager.heard("RELOADING=1")
        assert any(line.startswith("MONOTONIC_USEC=") for line in manager.lines)
        until(lambda: manager.lines.count("READY=1") == 2, "the reload is over")
        server.signal(signal.SIGTERM)
        manager.heard("STOPPING=1")
        assert server.wait() == 0


def test_upgrade_tells_the_new_main_pid(tmp_path: Path) -> None:
    manager = Manager(tmp_path / "notify")
    new = 0
    with Running(*APP, "--port", "0", "-w", "2", cwd=tmp_path, NOTIFY_SOCKET=manager.path) as server:
        server.ready()
        server.signal(signal.SIGUSR2)
        new = int(server.wait_for(r"a new server starts \(pid (\d+)\)").group(1))
        manager.heard(f"MAINPID={new}")
        os.kill(new, signal.SIGTERM)
        server.wait_for("the new server .* ended with exit code 0")
        until(
            lambda: manager.lines[-2:] and manager.lines.count(f"MAINPID={server.pid}") == 2,
            "we are the main one again",
        )
        assert server.stop() == 0


def test_variables_are_taken_out_of_the_environment() -> None:
    environ = {"LISTEN_PID": str(os.getpid() + 1), "LISTEN_FDS": "1", "LISTEN_FDNAMES": "a", "NOTIFY_SOCKET": "/x"}
    assert listen_fds(environ) == {}  # meant for another process
    Notifier(environ)
    assert environ == {}
    with pytest.raises(ConfigError, match="no socket named 'b' was passed"):
        descriptors(["b"], {3: "a"})
    assert descriptors(["a", "7", "3"], {3: "a", 4: "a"}) == [3, 4, 7]


def test_manager_that_is_gone_is_no_trouble(tmp_path: Path) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "nobody")})
    notifier.ready("x")
    Notifier({"NOTIFY_SOCKET": "@fastserve-test-nobody"}).stopping()
