"""The servers' room: the table of who is compared and how each is started, and one running server at a time.

Called by run.py. A row is a command with {port} in it. A server is started in a session of its own, pinned to one core,
and only that session, with what its processes started, is ever signalled. One that is not installed is `missing` with a
reason, which the report prints.

Between its turns a server is frozen (SIGSTOP): some spin while they have nothing to do, and would be in the figures of all
others. Its whole tree stops together, and children go on before their parents: no supervisor sees a worker stand still.

The settings are each project's documented ones for speed: one worker, uvloop, its C or Rust parser, no access log,
nothing below warnings logged. benchmarks/README.md says which others were tried.
"""

import contextlib
import os
import random
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import IO

from . import build, cases, cpu
from .cases import Case

ROOT = Path(__file__).resolve().parent.parent
HOST = "127.0.0.1"
READY_S = 20.0
STOP_S = 10.0
ANSWER_S = 5.0
FREEZE_S = 5.0
FROZEN = "TtZX"  # states of a process that uses no processor
SETTLE_S = 0.05  # what became due while it was frozen: timers, the closing of the connections of its last turn


class ServerError(Exception):
    """A server did not start, ended, or gave a wrong answer; the message is one line."""


@dataclass(frozen=True, slots=True)
class Server:
    """How to start one server. `tool`: its console script, or else its module, both in the running Python's place; with
    `kind` "system" a program on PATH or in /usr/sbin, with "built" one that build.py makes.

    {port}, {folder} (its own, temporary), {www} (files to serve), {config}, {cert} and {key} are filled in. `cases`: what
    it can be asked; None for all but those of OWN.
    """

    name: str
    tool: str
    arguments: tuple[str, ...]
    app: str = ""
    # The peers find benchmarks.apps on PYTHONPATH. Ours must not: in a clone the source folder would hide the installed
    # package, and an install is what is measured.
    root_on_path: bool = True
    kind: str = "python"
    config: str = ""  # a file in peers/ whose text is filled in like the arguments
    cases: tuple[str, ...] | None = None
    package: str = ""  # where the version is not told by a command: the distribution, or the crate
    variables: tuple[tuple[str, str], ...] = ()  # of the environment
    note: str = ""  # what the report says beside the command

    def with_app(self, app: str, *options: str, variables: tuple[tuple[str, str], ...] = ()) -> "Server":
        """The same server with another application: the options before it, and more of the environment."""
        return replace(self, app=app, arguments=(*self.arguments, *options), variables=(*self.variables, *variables))

    def can(self, case: str) -> bool:
        """Is this server to be asked that case at all?"""
        return case in self.cases if self.cases is not None else case not in OWN

    def command(self, port: int, folder: str = "FOLDER") -> list[str]:
        """The words that start it on this port."""
        values = {
            "port": str(port),
            "folder": folder,
            "www": str(Path(folder) / "www"),
            "config": f"{folder}/{self.config}",
            **CERTIFICATE,
        }
        words = [_fill(argument, values) for argument in self.arguments]
        return [*self.program(), *words, *([self.app] if self.app else [])]

    def program(self) -> list[str]:
        """The first words of the command; ServerError if there is no such program."""
        if self.kind == "python":
            return tool(self.tool)
        if self.kind == "built":
            try:
                return [str(build.program(self.tool))]
            except build.BuildError as error:
                raise ServerError(f"cannot be built here: {error}") from error
        path = shutil.which(self.tool, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
        if path is None:
            raise ServerError(f"not installed here: {self.tool} is not on PATH")
        return [path]

    def prepare(self, port: int, folder: Path) -> None:
        """Write its configuration, and the files to serve, into its own folder."""
        if not self.config and not any("{www}" in argument for argument in self.arguments):
            return
        www = folder / "www"
        www.mkdir()
        for name, content in FILES.items():
            (www / name).write_bytes(content)
        for path in (folder, www):
            path.chmod(0o755)  # the system's servers read it as another user
        if not self.config:
            return
        values = {"port": str(port), "folder": str(folder), "www": str(www), **CERTIFICATE}
        text = (ROOT / "benchmarks" / "peers" / self.config).read_text(encoding="utf-8")
        (folder / self.config).write_text(_fill(text, values), encoding="utf-8")

    def environment(self) -> dict[str, str]:
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        if self.root_on_path:
            environment["PYTHONPATH"] = str(ROOT)
        return {**environment, **dict(self.variables)}

    def version(self) -> str:
        """What is known of its version; ServerError, with the reason, if it cannot be started here at all."""
        program = self.program()
        if self.kind == "built":
            return BUILT_VERSIONS[self.tool]()
        if self.package:
            try:
                return metadata.version(self.package)
            except metadata.PackageNotFoundError:
                raise ServerError(f"not installed here: no package {self.package}") from None
        try:
            shown = subprocess.run(
                [*program, "-v" if self.kind == "system" else "--version"],
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
                cwd=ROOT,
                env=self.environment(),
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ServerError(str(error)) from error
        if shown.returncode != 0:
            raise ServerError(f"not installed here: {last_line(shown.stderr) or f'exit code {shown.returncode}'}")
        return (shown.stdout.strip() or shown.stderr.strip()).partition("\n")[0]


def _fill(text: str, values: dict[str, str]) -> str:
    """Only these names: the configurations have braces of their own."""
    for name, value in values.items():
        text = text.replace("{" + name + "}", value)
    return text


def _crate(name: str) -> str:
    """The version in Cargo.lock, which is what --locked builds."""
    lines = (ROOT / "benchmarks" / "peers" / "hyper" / "Cargo.lock").read_text(encoding="utf-8").splitlines()
    return f"{name} " + lines[lines.index(f'name = "{name}"') + 1].partition('"')[2].rstrip('"')


def _go() -> str:
    return subprocess.run(["go", "version"], capture_output=True, text=True, check=False).stdout.strip()


BUILT_VERSIONS: dict[str, Callable[[], str]] = {
    "epoll": lambda: "our parser and writer under a bare epoll loop",
    "hyper": lambda: _crate("hyper"),
    "axum": lambda: f"{_crate('axum')} on {_crate('hyper')}",
    "net-http": _go,
}
FILES = {
    "index.txt": cases.HELLO,
    "10k": cases.TEN_KILOBYTES,
    "1m": cases.ONE_MEGABYTE,
    "64k.txt": cases.FILE,
}

CERTIFICATE = {
    end: str(ROOT / "tests" / "data" / f"localhost.{name}") for end, name in (("cert", "crt"), ("key", "key"))
}

# Cases that only servers started for them answer.
_TLS = ("tls", "tls-10k", "tls-close")
OWN = frozenset({"fastapi", "starlette", "websocket", "static", *_TLS})
_BASIC = ("plaintext", "pipelined", "browser", "close", "c1", "c512")
_FILES = (*_BASIC, "10k", "1m", "static")
_ASGI = (*(name for name in cases.CASES if name not in OWN), "websocket")
# What a floor or a peer of the second rank is asked: the rest would cost time and tell nothing new.
_SHORT = ("plaintext", "pipelined", "json", "browser", "echo-1k", "close", "stream")

_LISTEN = ("--host", HOST, "--port", "{port}", "--log-level", "warning")
_ALONE = (*_LISTEN, "--no-supervisor")  # one process, as those beside it: what is measured is the process that serves
_FASTSERVE = (*_ALONE, "--no-access-log")
_NO_GUARDS = (
    *("--no-proxy-headers", "--min-rate", "0", "--limit-buffers", "0", "--timeout-keep-alive", "0"),
    *("--timeout-header", "0", "--timeout-body", "0", "--timeout-write", "0", "--lens", "off"),
)
_UVICORNS_TLS = ("--ssl-certfile", "{cert}", "--ssl-keyfile", "{key}")
_UVICORN = (
    *_LISTEN,
    *("--loop", "uvloop", "--http", "httptools"),
    *("--no-proxy-headers", "--no-access-log", "--backlog", "2048"),
)
_GRANIAN = (
    *_LISTEN,
    *("--loop", "uvloop", "--http", "1", "--http1-pipeline-flush"),
    *("--workers", "1", "--runtime-threads", "1", "--backlog", "2048"),
    "--interface",
)
_GUNICORN = ("--bind", f"{HOST}:{{port}}", "--workers", "1", "--log-level", "warning", "--keep-alive", "75")
_HYPERCORN = ("--bind", f"{HOST}:{{port}}", "--workers", "1", "--worker-class", "uvloop", "--log-level", "WARNING")
_NATIVE, _ASGI_APP, _WSGI_APP, _RSGI_APP = (
    f"benchmarks.apps.{name}:app" for name in ("native", "asgi", "wsgi", "rsgi")
)
_FASTAPI_APP = "benchmarks.apps.fastapi_app:app"
_STARLETTE_APP = "benchmarks.apps.starlette_app:app"
_SERVE = ("-m", "benchmarks.apps.serve")
_PYTHON = Path(sys.executable).name

SERVERS = {
    server.name: server
    for server in (
        Server("fastserve", "fastserve", _FASTSERVE, _NATIVE, False, cases=_ASGI),
        Server("fastserve-on", "fastserve", (*_ALONE, "--access-log-file", "{folder}/access.log"), _NATIVE, False,
               cases=("plaintext", "browser"), note="as it is started by default, the access log in a file"),
        Server("fastserve-off", "fastserve", (*_FASTSERVE, *_NO_GUARDS), _NATIVE, False, cases=("plaintext", "browser"),
               note="without access log, proxy headers, deadlines, rates, budgets and lens"),
        *(Server(f"fastserve-lens-{mode.partition(':')[0]}", "fastserve", (*_FASTSERVE, "--lens", mode), _NATIVE, False,
                 cases=("plaintext", "browser"), note=note)
          for mode, note in (("off", "without the lens; fastserve has it ready"), ("stalls", "it watches the loop"),
                             ("sample:0.01", "it traces each 100th request"), ("full", "it traces every request"))),
        Server("fastserve-transport", "fastserve", _FASTSERVE, _NATIVE, False, cases=("plaintext", "browser"),
               variables=(("FASTSERVE_WIRE", "transport"),), note="on the transports of uvloop"),
        Server("fastserve-asgi", "fastserve", (*_FASTSERVE, "--interface", "asgi"), _ASGI_APP, False, cases=_ASGI),
        Server("fastserve-wsgi", "fastserve", (*_FASTSERVE, "--interface", "wsgi"), _WSGI_APP, False, cases=_SHORT),
        Server("fastserve-wsgi-inline", "fastserve",
               (*_FASTSERVE, "--interface", "wsgi", "--threads", "0"), _WSGI_APP, False),
        Server("fastserve-fastapi", "fastserve",
               (*_FASTSERVE, "--interface", "asgi"), _FASTAPI_APP, False, cases=("fastapi",)),
        Server("fastserve-starlette", "fastserve",
               (*_FASTSERVE, "--interface", "asgi"), _STARLETTE_APP, False, cases=("starlette",)),
        Server("fastserve-tls", "fastserve", (*_FASTSERVE, *_UVICORNS_TLS), _NATIVE, False, cases=_TLS),
        Server("fastserve-asgi-tls", "fastserve",
               (*_FASTSERVE, *_UVICORNS_TLS, "--interface", "asgi"), _ASGI_APP, False, cases=_TLS),
        Server("fastserve-static", "fastserve",
               (*_FASTSERVE, "--static", "/={www}"), _NATIVE, False, cases=("static",)),
        Server("epoll", "epoll", ("{port}",), kind="built"),
        Server("hyper", "hyper", ("{port}",), kind="built"),
        Server("axum", "axum", ("{port}",), kind="built", cases=_SHORT),
        Server("net-http", "net-http", ("{port}",), kind="built", cases=_SHORT, variables=(("GOMAXPROCS", "1"),)),
        Server("nginx", "nginx", ("-p", "{folder}", "-c", "{config}"), kind="system", config="nginx.conf", cases=_FILES),
        Server("h2o", "h2o",
               ("-c", "{config}"), kind="system", config="h2o.conf", cases=("plaintext", "browser", "static")),
        Server("haproxy", "haproxy",
               ("-db", "-f", "{config}"), kind="system", config="haproxy.cfg", cases=("plaintext", "browser", "close")),
        Server("uvicorn", "uvicorn", _UVICORN, _ASGI_APP, cases=_ASGI),
        Server("uvicorn-fastapi", "uvicorn", _UVICORN, _FASTAPI_APP, cases=("fastapi",)),
        Server("uvicorn-starlette", "uvicorn", _UVICORN, _STARLETTE_APP, cases=("starlette",)),
        Server("uvicorn-tls", "uvicorn", (*_UVICORN, *_UVICORNS_TLS), _ASGI_APP, cases=_TLS),
        Server("granian-tls", "granian",
               (*_GRANIAN, "asgi", "--ssl-certificate", "{cert}", "--ssl-keyfile", "{key}"), _ASGI_APP, cases=_TLS),
        Server("nginx-tls", "nginx", ("-p", "{folder}", "-c", "{config}"), kind="system", config="nginx-tls.conf",
               cases=_TLS),
        Server("granian", "granian", (*_GRANIAN, "asgi"), _ASGI_APP, cases=_ASGI),
        Server("granian-fastapi", "granian", (*_GRANIAN, "asgi"), _FASTAPI_APP, cases=("fastapi",)),
        Server("granian-starlette", "granian", (*_GRANIAN, "asgi"), _STARLETTE_APP, cases=("starlette",)),
        Server("granian-rsgi", "granian", (*_GRANIAN, "rsgi"), _RSGI_APP, cases=_SHORT),
        Server("granian-wsgi", "granian", (*_GRANIAN, "wsgi", "--no-ws"), _WSGI_APP),
        Server("gunicorn-asgi", "gunicorn", (*_GUNICORN, "--worker-class", "asgi"), _ASGI_APP, cases=_SHORT),
        Server("gunicorn", "gunicorn",
               (*_GUNICORN, "--worker-class", "gthread", "--threads", "4"), _WSGI_APP, cases=_SHORT),
        Server("hypercorn", "hypercorn", _HYPERCORN, _ASGI_APP, cases=_SHORT, package="hypercorn"),
        Server("fastpysgi-wsgi", _PYTHON, (*_SERVE, "fastpysgi-wsgi", "{port}"), package="fastpysgi"),
        Server("fastpysgi-asgi", _PYTHON, (*_SERVE, "fastpysgi-asgi", "{port}"), package="fastpysgi"),
        Server("bjoern", _PYTHON, (*_SERVE, "bjoern", "{port}"), package="bjoern"),
        Server("fastwsgi", _PYTHON, (*_SERVE, "fastwsgi", "{port}"), package="fastwsgi", cases=_SHORT),
        Server("gunicorn-fastapi", "gunicorn", (*_GUNICORN, "--worker-class", "asgi"), _FASTAPI_APP, cases=("fastapi",)),
        Server("gunicorn-starlette", "gunicorn",
               (*_GUNICORN, "--worker-class", "asgi"), _STARLETTE_APP, cases=("starlette",)),
        Server("hypercorn-fastapi", "hypercorn", _HYPERCORN, _FASTAPI_APP, cases=("fastapi",), package="hypercorn"),
        Server("hypercorn-starlette", "hypercorn", _HYPERCORN, _STARLETTE_APP, cases=("starlette",), package="hypercorn"),
        Server("picows", _PYTHON, (*_SERVE, "picows", "{port}"), package="picows", cases=("websocket",)),
        Server("socketify", _PYTHON, (*_SERVE, "socketify", "{port}"), package="socketify", cases=_SHORT),
    )
}  # fmt: skip
DEFAULT = tuple(SERVERS)
QUICK = (
    *("fastserve", "fastserve-asgi", "fastserve-wsgi-inline", "fastserve-fastapi", "epoll", "hyper", "nginx"),
    *("uvicorn", "uvicorn-fastapi", "granian", "granian-wsgi", "fastpysgi-wsgi", "fastpysgi-asgi"),
)


@dataclass(slots=True)
class Running:
    """A started server. `process` leads a session of its own; `log` has all that the session printed."""

    server: Server
    port: int
    process: subprocess.Popen[bytes]
    log: IO[bytes] = field(repr=False)
    folder: "tempfile.TemporaryDirectory[str]" = field(repr=False)

    @property
    def host(self) -> str:
        return f"{HOST}:{self.port}"

    @property
    def url(self) -> str:
        return f"{'https' if self.server.cases == _TLS else 'http'}://{self.host}/"

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
        self.log.seek(0, os.SEEK_END)
        self.log.seek(max(0, self.log.tell() - 65536))  # an access log may be in it
        return last_line(self.log.read().decode("utf-8", "replace")) or "it printed nothing"

    def wait_until_ready(self, ready_s: float = READY_S) -> None:
        """Return when the port takes a connection; ServerError when the process ends first or time is up."""
        give_up_at = time.monotonic() + ready_s
        while True:
            self.must_live()
            try:
                socket.create_connection((HOST, self.port), timeout=1).close()
                return
            except OSError:
                if time.monotonic() > give_up_at:
                    raise ServerError(
                        f"{self.server.name} did not listen in {ready_s:.0f} s: {self.last_words()}"
                    ) from None
                time.sleep(0.02)

    def check(self, case: Case, timeout_s: float = ANSWER_S) -> int:
        """Send the case once, read its answers. Returns the size of one, which wrk's figures are held against."""
        try:
            if case.websocket:
                return ask_websocket(self.port, case.request(self.host), case.message(), case.reply())
            answers = ask(self.port, case.request(self.host), case.depth, timeout_s, case.tls)
        except (OSError, ValueError, EOFError) as error:
            time.sleep(0.2)  # one that is ending says why
            self.must_live()
            raise ServerError(f"{self.server.name} gave no proper answer to {case.name}: {error}") from error
        for answer in answers:
            if answer.status != 200 or not case.is_answered_by(answer.body):
                raise ServerError(f"{self.server.name} answered {case.name} with {answer.status} {answer.body[:60]!r}")
            if answer.chunks < case.chunks_min:
                raise ServerError(f"{self.server.name} gathers the stream: {answer.chunks} chunks of {case.chunks_min}")
            if answer.closes == case.keep_alive:
                # wrk would reconnect without a word, and the figure would be one of connections.
                verb = "closes" if answer.closes else "keeps"
                raise ServerError(f"{self.server.name} {verb} the connection in {case.name}")
        sizes = {answer.size for answer in answers}
        if len(sizes) != 1:
            raise ServerError(f"{self.server.name} gives answers of {len(sizes)} sizes to {case.name}")
        return sizes.pop()

    def freeze(self) -> None:
        """Stop the whole tree until thaw(); returns when nothing of it moves."""
        give_up_at = time.monotonic() + FREEZE_S
        while moving := [pid for pid in cpu.tree(self.pid) if cpu.state(pid) not in FROZEN]:
            if time.monotonic() > give_up_at:
                raise ServerError(f"{self.server.name} could not be frozen in {FREEZE_S:.0f} s")
            _signal(moving, signal.SIGSTOP)
            time.sleep(0.001)

    def thaw(self, case: Case | None = None) -> None:
        """Go on: children, a while, then the parents; and when what was due is done, an answer to `case`, if there is one.

        The while is for the children's heartbeats: the first thing that a supervisor does is to look at them.
        """
        self._go_on(SETTLE_S)
        time.sleep(SETTLE_S)
        self.must_live()
        if case is not None:
            self.check(case)

    def _go_on(self, ahead_s: float = 0.0) -> None:
        tree = cpu.tree(self.pid)
        children = [pid for pid in tree if pid != self.pid]
        if children:
            _signal(children, signal.SIGCONT)
            time.sleep(ahead_s)
        _signal([self.pid], signal.SIGCONT)

    def stop(self) -> None:
        """End the session: a polite signal to its leader, a while, then the other signal to what is left of it."""
        self._go_on()  # who is frozen hears nothing
        os.kill(self.pid, signal.SIGTERM)  # not send_signal(), which reaps
        give_up_at = time.monotonic() + STOP_S
        while not self.has_ended() and time.monotonic() < give_up_at:
            time.sleep(0.01)
        os.killpg(self.pid, signal.SIGKILL)  # our group for certain: its leader lives or is a zombie not yet waited for
        self.process.wait()
        self.log.close()
        self.folder.cleanup()


def _signal(pids: Sequence[int], number: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def start(
    server: Server, prepare: Callable[[], None] | None = None, wrapper: Sequence[str] = (), ready_s: float = READY_S
) -> Running:
    """Start it and wait until it listens. `prepare` runs in the child first (core, priority); `wrapper` stands
    before its words.
    """
    port = free_port()
    folder = tempfile.TemporaryDirectory(prefix="benchmarks-")
    server.prepare(port, Path(folder.name))
    log = tempfile.TemporaryFile(prefix="benchmarks-")  # noqa: SIM115  (Running.stop closes it)
    process = subprocess.Popen(
        [*wrapper, *server.command(port, folder.name)],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        cwd=ROOT,
        env=server.environment(),
        start_new_session=True,
        preexec_fn=prepare,
    )
    running = Running(server, port, process, log, folder)
    try:
        running.wait_until_ready(ready_s)
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
    chunks: int = 0  # of a body that came chunked


def ask_websocket(port: int, handshake: bytes, message: bytes, reply: bytes) -> int:
    """Shake hands, send one message and expect `reply`; returns its size."""
    with socket.create_connection((HOST, port), timeout=ANSWER_S) as connection, connection.makefile("rb") as answers:
        connection.sendall(handshake)
        status = _read_line(answers)
        if not status.startswith(b"HTTP/1.1 101"):
            raise ValueError(f"no handshake: {status.decode('latin-1').strip()}")
        while _read_line(answers) != b"\r\n":
            pass
        connection.sendall(message)
        came = _read_exactly(answers, len(reply))
        if came != reply:
            raise ValueError(f"not the message's echo: {came[:20]!r}")
        return len(reply)


def ask(port: int, raw: bytes, count: int, timeout_s: float = ANSWER_S, tls: bool = False) -> list[Answer]:
    """Write `raw` to a new connection and read `count` answers, framed by content-length or chunks of one answer."""
    with contextlib.ExitStack() as stack:
        connection = stack.enter_context(socket.create_connection((HOST, port), timeout=timeout_s))
        if tls:
            context = ssl.create_default_context(cafile=CERTIFICATE["cert"])
            connection = stack.enter_context(context.wrap_socket(connection, server_hostname="localhost"))
        answers = stack.enter_context(connection.makefile("rb"))
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
    body, size, chunks = b"", sum(map(len, lines)) + 2, 0
    if fields.get("transfer-encoding") == "chunked":
        while True:
            line = _read_line(stream)
            chunk = _read_exactly(stream, int(line.split(b";")[0], 16) + 2)
            size += len(line) + len(chunk)
            body += chunk[:-2]
            if len(chunk) == 2:
                break
            chunks += 1
    else:
        body = _read_exactly(stream, int(fields["content-length"]) if "content-length" in fields else 0)
        size += len(body)
    closes = fields.get("connection") == "close" or version == b"HTTP/1.0"
    return Answer(int(rest[:3]), body, size, closes, chunks)


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
    """Below those that the kernel gives to clients: none of them takes it before the server does."""
    while True:
        with socket.socket() as probe:
            try:
                probe.bind((HOST, random.randrange(10_000, 32_768)))  # Linux's ip_local_port_range begins there
            except OSError:
                continue
            return int(probe.getsockname()[1])


def tool(name: str) -> list[str]:
    """The console script beside the running Python (links not followed: a venv's Python is one), or `python -m`."""
    script = Path(sys.executable).with_name(name)
    return [str(script)] if script.exists() else [sys.executable, "-m", name]


def last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1].strip() if lines else ""
