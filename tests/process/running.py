"""A real server process for tests: started, read line by line, spoken to, ended by its pid."""

from __future__ import annotations

import atexit
import http.client
import os
import pwd
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType

HERE = Path(__file__).parent
LIMIT = 10.0  # seconds, for anything
RUNTIME = tempfile.mkdtemp(prefix="fastserve-tests-")  # where servers of tests say that they run
atexit.register(shutil.rmtree, RUNTIME, ignore_errors=True)

# Somebody whom workers may become, and a command for it: this interpreter, and these tests, may lie in root's home, where
# nobody else can read. So all modules are loaded before the first fork. Without root there is only ourselves to become.
OTHER = "nobody" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
FOR_OTHERS = [
    sys.executable,
    "-c",
    f"import sys; sys.path.insert(0, {str(HERE)!r})\n"
    "import uvloop, apps, fastserve.interfaces.native, fastserve.process.run, fastserve.process.worker\n"
    "from fastserve.cli import main; sys.exit(main())",
]


def free_port() -> int:
    """Below those that the kernel gives to clients: none of them takes it before the server does."""
    while True:
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", random.randrange(10_000, 32_768)))  # Linux's ip_local_port_range begins there
            except OSError:
                continue
            return int(probe.getsockname()[1])


def until(condition: Callable[[], object], what: str, limit: float = LIMIT) -> None:
    """Poll until it is true."""
    deadline = time.monotonic() + limit
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {limit} s")
        time.sleep(0.01)


def alive(pid: int) -> bool:
    """Is there such a process, other than a zombie?"""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        if sys.platform == "linux":
            return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


class Running:
    """`python -m fastserve` with these arguments. stderr is read by a thread; `wait_for` waits for a line in it."""

    def __init__(
        self, *arguments: str, cwd: Path, command: list[str] | None = None, pass_fds: Sequence[int] = (), **environ: str
    ) -> None:
        ours = ("PORT", "WEB_CONCURRENCY", "NO_COLOR")
        kept = ("FASTSERVE_SIMD", "FASTSERVE_WIRE")  # the suite may be run with them
        clean = {
            name: value
            for name, value in os.environ.items()
            if name not in ours and (name in kept or not name.startswith("FASTSERVE_"))
        }
        self.process = subprocess.Popen(
            [*(command or [sys.executable, "-m", "fastserve"]), *arguments],
            cwd=cwd,
            env={**clean, "XDG_RUNTIME_DIR": RUNTIME, **environ},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            pass_fds=pass_fds,
        )
        self.pid = self.process.pid
        self.lines: list[str] = []
        self._news = threading.Condition()
        self._ended = False
        self._threads = [
            threading.Thread(target=self._read, daemon=True),
            threading.Thread(target=self._out, daemon=True),
        ]
        self.out = ""
        for thread in self._threads:
            thread.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._news:
                self.lines.append(line.rstrip("\n"))
                self._news.notify_all()
        with self._news:
            self._ended = True
            self._news.notify_all()

    def _out(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.out += line

    def wait_for(self, pattern: str, limit: float = LIMIT, count: int = 1) -> re.Match[str]:
        """The `count`-th line of stderr that matches."""

        def found() -> re.Match[str] | None:
            matches = [match for line in self.lines if (match := re.search(pattern, line))]
            return matches[count - 1] if len(matches) >= count else None

        with self._news:
            self._news.wait_for(lambda: found() or self._ended, limit)
            match = found()
        if match is None:
            raise AssertionError(f"no line matches {pattern!r} in:\n" + self.err)
        return match

    def ready(self) -> Running:
        self.wait_for(r"^\s+ready\b")
        return self

    @property
    def err(self) -> str:
        return "\n".join(self.lines)

    @property
    def port(self) -> int:
        return int(self.wait_for(r"listening\s+https?://\S*:(\d+)").group(1))

    @property
    def workers(self) -> list[int]:
        return [int(pid) for pid in self.wait_for(r"workers .*\(pids ([\d ]+)\)").group(1).split()]

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def wait(self, limit: float = LIMIT) -> int:
        """Its exit code, when all of its output is read."""
        code = self.process.wait(limit)
        for thread in self._threads:
            thread.join(limit)
        return code

    def stop(self) -> int:
        self.signal(signal.SIGTERM)
        return self.wait()

    def get(self, path: str = "/", limit: float = LIMIT) -> str:
        return get(self.port, path, limit)

    def __enter__(self) -> Running:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()  # its workers die with it
            self.process.wait(LIMIT)
        for thread in self._threads:
            thread.join(LIMIT)
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()


def get(port: int, path: str = "/", limit: float = LIMIT) -> str:
    """GET over a connection of its own; the answer's body."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=limit)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        body = response.read().decode()
        assert response.status == 200, (response.status, body)
        return body
    finally:
        connection.close()


def get_unix(path: Path, target: str = "/") -> bytes:
    """GET over a Unix socket; all bytes of the answer."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(LIMIT)
        client.connect(str(path))
        client.sendall(f"GET {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
        answer = b""
        while data := client.recv(65536):
            answer += data
        return answer


class Background:
    """A GET that runs beside the test."""

    def __init__(self, port: int, path: str) -> None:
        self.body: str | None = None
        self.error: BaseException | None = None

        def body() -> None:
            try:
                self.body = get(port, path)
            except BaseException as error:
                self.error = error

        self._thread = threading.Thread(target=body, daemon=True)
        self._thread.start()

    def result(self, limit: float = LIMIT) -> str:
        self._thread.join(limit)
        if self._thread.is_alive():
            raise TimeoutError
        if self.error is not None:
            raise self.error
        assert self.body is not None
        return self.body
