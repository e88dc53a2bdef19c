"""The servers' room: the table of who is compared and how each is started, and one running server at a time.

Called by run.py. A row is a command with {port} in it. A server is started in a session of its own, pinned to one core,
and only that session is ever signalled. One that is not installed is `missing` with a reason, which the report prints.

The settings are each project's documented ones for speed: one worker, uvloop, its C or Rust parser, no access log,
nothing below warnings logged. benchmarks/README.md says which others were tried.
"""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from .cases import Case

ROOT = Path(__file__).resolve().parent.parent
HOST = "127.0.0.1"
READY_S = 20.0
STOP_S = 10.0
ANSWER_S = 5.0


class ServerError(Exception):
    """A server did not start, ended, or gave a wrong answer; the message is one line."""


@dataclass(frozen=True, slots=True)
class Server:
    """How to start one server. `tool` is its console script, or else its module; both in the running Python's place."""

    name: str
    tool: str
    arguments: tuple[str, ...]
    app: str
    # The peers find benchmarks.apps on PYTHONPATH. Ours must not: in a clone the source folder would hide the installed
    # package, and an install is what is measured.
    root_on_path: bool = True

    def command(self, port: int) -> list[str]:
        return [*tool(self.tool), *(argument.format(port=port) for argument in self.arguments), self.app]

    def environment(self) -> dict[str, str]:
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        if self.root_on_path:
            environment["PYTHONPATH"] = str(ROOT)
        return environment

    def version(self) -> str:
        """What `--version` prints, first line: it also proves that the server can be started at all."""
        try:
            shown = subprocess.run(
                [*tool(self.tool), "--version"],
                capture_output=True,
                text=True,
                timeout=30,
                check=False,
                cwd=ROOT,
                env=self.environment(),
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ServerError(str(error)) from error
        if shown.returncode != 0:
            raise ServerError(f"not installed here: {last_line(shown.stderr) or f'exit code {shown.returncode}'}")
        return (shown.stdout.strip() or shown.stderr.strip()).partition("\n")[0]


_AT = ("--host", HOST, "--port", "{port}")
_LISTEN = (*_AT, "--log-level", "warning")
_FASTSERVE = (*_LISTEN, "--no-access-log")
_UVICORN = (
    *_LISTEN,
    *("--loop", "uvloop", "--http", "httptools", "--ws", "none"),
    *("--no-proxy-headers", "--no-access-log", "--backlog", "2048"),
)
_GRANIAN = (
    *_LISTEN,
    *("--loop", "uvloop", "--http", "1", "--http1-pipeline-flush", "--no-ws"),
    *("--workers", "1", "--runtime-threads", "1", "--backlog", "2048"),
    "--interface",
)

SERVERS = {
    server.name: server
    for server in (
        Server("fastserve", "fastserve", _FASTSERVE, "benchmarks.apps.native:app", root_on_path=False),
        Server("fastserve-asgi", "fastserve", _FASTSERVE, "benchmarks.apps.asgi:app", root_on_path=False),
        Server("fastserve-wsgi", "fastserve", _FASTSERVE, "benchmarks.apps.wsgi:app", root_on_path=False),
        Server(
            "fastserve-wsgi-inline",
            "fastserve",
            (*_FASTSERVE, "--threads", "0"),
            "benchmarks.apps.wsgi:app",
            root_on_path=False,
        ),
        Server("uvicorn", "uvicorn", _UVICORN, "benchmarks.apps.asgi:app"),
        Server("granian", "granian", (*_GRANIAN, "asgi"), "benchmarks.apps.asgi:app"),
        Server("granian-rsgi", "granian", (*_GRANIAN, "rsgi"), "benchmarks.apps.rsgi:app"),
        Server("granian-wsgi", "granian", (*_GRANIAN, "wsgi"), "benchmarks.apps.wsgi:app"),
        # These call the application on their event loop, as `--threads 0` does; none of them has threads for it.
        Server("fastwsgi", "fastwsgi", (*_AT, "--loglevel", "0"), "benchmarks.apps.wsgi:app"),
        Server("fastpysgi", "fastpysgi", (*_AT, "--loglevel", "0"), "benchmarks.apps.wsgi:app"),
        Server("bjoern", "benchmarks.apps.serve_bjoern", _AT, "benchmarks.apps.wsgi:app"),
    )
}
DEFAULT = ("fastserve", "uvicorn", "granian")


@dataclass(slots=True)
class Running:
    """A started server. `process` leads a session of its own; `log` has all that the session printed."""

    server: Server
    port: int
    process: subprocess.Popen[bytes]
    log: IO[bytes] = field(repr=False)

    @property
    def host(self) -> str:
        return f"{HOST}:{self.port}"

    @property
    def url(self) -> str:
        return f"http://{self.host}/"

    @property
    def pid(self) -> int:
        return self.process.pid

    def has_ended(self) -> bool:
        """Looks without reaping: until stop() the leader's pid, the session's id, cannot become somebody else's."""
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None

    def must_live(self) -> None:
        if self.has_ended():
            raise ServerError(f"{self.server.name} ended: {self.last_words()}")

    def last_words(self) -> str:
        self.log.seek(0)
        return last_line(self.log.read().decode("utf-8", "replace")) or "it printed nothing"

    def wait_until_ready(self) -> None:
        """Return when the port takes a connection; ServerError when the process ends first or time is up."""
        give_up_at = time.monotonic() + READY_S
        while True:
            self.must_live()
            try:
                socket.create_connection((HOST, self.port), timeout=1).close()
                return
            except OSError:
                if time.monotonic() > give_up_at:
                    raise ServerError(
                        f"{self.server.name} did not listen in {READY_S:.0f} s: {self.last_words()}"
                    ) from None
                time.sleep(0.02)

    def check(self, case: Case) -> int:
        """Send the case once, read its answers. Returns the size of one, which wrk's figures are held against."""
        try:
            answers = ask(self.port, case.request(self.host), case.depth)
        except (OSError, ValueError, EOFError) as error:
            self.must_live()
            raise ServerError(f"{self.server.name} gave no proper answer to {case.name}: {error}") from error
        for answer in answers:
            if answer.status != 200 or not case.is_answered_by(answer.body):
                raise ServerError(f"{self.server.name} answered {case.name} with {answer.status} {answer.body[:60]!r}")
            if answer.closes == case.keep_alive:
                # wrk would reconnect without a word, and the figure would be one of connections.
                verb = "closes" if answer.closes else "keeps"
                raise ServerError(f"{self.server.name} {verb} the connection in {case.name}")
        sizes = {answer.size for answer in answers}
        if len(sizes) != 1:
            raise ServerError(f"{self.server.name} gives answers of {len(sizes)} sizes to {case.name}")
        return sizes.pop()

    def stop(self) -> None:
        """End the session: a polite signal to its leader, a while, then the other signal to what is left of it."""
        os.kill(self.pid, signal.SIGTERM)  # not send_signal(), which reaps
        give_up_at = time.monotonic() + STOP_S
        while not self.has_ended() and time.monotonic() < give_up_at:
            time.sleep(0.01)
        os.killpg(self.pid, signal.SIGKILL)  # our group for certain: its leader lives or is a zombie not yet waited for
        self.process.wait()
        self.log.close()


def start(server: Server, prepare: Callable[[], None] | None = None) -> Running:
    """Start it and wait until it listens. `prepare` runs in the child first (core, priority)."""
    port = free_port()
    log = tempfile.TemporaryFile(prefix="benchmarks-")  # noqa: SIM115  (Running.stop closes it)
    process = subprocess.Popen(
        server.command(port),
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        cwd=ROOT,
        env=server.environment(),
        start_new_session=True,
        preexec_fn=prepare,
    )
    running = Running(server, port, process, log)
    try:
        running.wait_until_ready()
    except BaseException:
        running.stop()
        raise
    return running


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: bytes
    size: int  # head and body, as they came
    closes: bool


def ask(port: int, raw: bytes, count: int) -> list[Answer]:
    """Write `raw` to a new connection and read `count` answers, framed by content-length or chunks of one answer."""
    with socket.create_connection((HOST, port), timeout=ANSWER_S) as connection, connection.makefile("rb") as answers:
        connection.sendall(raw)
        return [_read_answer(answers) for _ in range(count)]


def _read_answer(stream: IO[bytes]) -> Answer:
    lines = [_read_line(stream)]
    fields: dict[str, str] = {}
    while (line := _read_line(stream)) != b"\r\n":
        lines.append(line)
        name, _, value = line.decode("latin-1").partition(":")
        fields[name.lower()] = value.strip().lower()
    version, _, rest = lines[0].partition(b" ")
    body, size = b"", sum(map(len, lines)) + 2
    if fields.get("transfer-encoding") == "chunked":
        while True:
            line = _read_line(stream)
            chunk = _read_exactly(stream, int(line.split(b";")[0], 16) + 2)
            size += len(line) + len(chunk)
            body += chunk[:-2]
            if len(chunk) == 2:
                break
    else:
        body = _read_exactly(stream, int(fields["content-length"]) if "content-length" in fields else 0)
        size += len(body)
    closes = fields.get("connection") == "close" or version == b"HTTP/1.0"
    return Answer(int(rest[:3]), body, size, closes)


def _read_line(stream: IO[bytes]) -> bytes:
    line = stream.readline(65536)
    if not line.endswith(b"\n"):
        raise EOFError("the connection was closed" if not line else "a line was cut short")
    return line


def _read_exactly(stream: IO[bytes], size: int) -> bytes:
    body = stream.read(size)
    if len(body) != size:
        raise EOFError(f"{len(body)} of {size} bytes of a body, then nothing")
    return body


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def tool(name: str) -> list[str]:
    """The console script beside the running Python (links not followed: a venv's Python is one), or `python -m`."""
    script = Path(sys.executable).with_name(name)
    return [str(script)] if script.exists() else [sys.executable, "-m", name]


def last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1].strip() if lines else ""
