"""The table "Stop, crash and start" of docs/reliability.md, measured: one small ASGI application under every server that is
installed here.

    cd tests && python -m process.stop_table [fastserve uvicorn granian hypercorn gunicorn]

Two workers, defaults otherwise. Each cell is one run, of at most 40 s. No test: what others do is not ours to assert; what
we do is asserted in test_supervisor.py, test_worker.py and test_under_load.py.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from process.load import Load
from process.running import alive, get

LIMIT = 40.0
GET = b"GET %s HTTP/1.1\r\nHost: a\r\n\r\n"
APP = """
import asyncio, os, time
if os.environ.get("IMPORT_FAILS"):
    raise RuntimeError("no configuration")

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        if os.environ.get("STARTUP_FAILS"):
            return await send({"type": "lifespan.startup.failed", "message": "no database"})
        await send({"type": "lifespan.startup.complete"})
        await receive()
        with open(os.environ["SHUTDOWNS"], "a") as file:
            file.write("x")
        return await send({"type": "lifespan.shutdown.complete"})
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        while (await receive())["type"] != "websocket.disconnect":
            pass
        return
    path = scope["path"]
    if path == "/slow":
        await asyncio.sleep(3)
    if path == "/sse":
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        while True:
            await send({"type": "http.response.body", "body": b"data: x\\n\\n", "more_body": True})
            await asyncio.sleep(0.1)
    body = str(os.getpid()).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})
"""
COMMANDS: dict[str, Callable[[int, int], list[str]]] = {
    "fastserve": lambda port, workers: ["-m", "fastserve", "app:app", "--port", f"{port}", "-w", f"{workers}"],
    "uvicorn": lambda port, workers: ["-m", "uvicorn", "app:app", "--port", f"{port}", "--workers", f"{workers}"],
    "granian": lambda port, workers: [
        *("-m", "granian", "--interface", "asgi", "app:app", "--port", f"{port}", "--workers", f"{workers}")
    ],
    "hypercorn": lambda port, workers: ["-m", "hypercorn", "app:app", "-b", f"127.0.0.1:{port}", "-w", f"{workers}"],
    "gunicorn": lambda port, workers: [
        *("-m", "gunicorn", "-k", "asgi", "app:app", "-b", f"127.0.0.1:{port}", "-w", f"{workers}")
    ],
}


class Server:
    """A server in a folder and a session of its own; everything of it is gone when it is left."""

    def __init__(self, name: str, folder: Path, workers: int = 2, **environ: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port: int = probe.getsockname()[1]
        (folder / "app.py").write_text(APP)
        self.shutdowns = folder / "shutdowns"
        self.shutdowns.write_text("")
        self.process = subprocess.Popen(
            [sys.executable, *COMMANDS[name](self.port, workers)],
            cwd=folder,
            env={**os.environ, "SHUTDOWNS": str(self.shutdowns), "PYTHONPATH": str(folder), **environ},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def ready(self) -> Server:
        for _ in range(600):
            with contextlib.suppress(Exception):
                get(self.port, "/", 2.0)
                time.sleep(1.0)  # the second worker, too
                return self
            time.sleep(0.05)
        raise TimeoutError("it does not serve")

    def term(self) -> tuple[str, float]:
        """TERM it: the time until it was gone, or that it was not; its exit code."""
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(LIMIT)
            return f"{time.monotonic() - began:.1f} s", time.monotonic() - began
        return f"alive after {LIMIT:.0f} s", LIMIT

    def shut_down(self) -> str:
        """In how many of its two workers the lifespan's shutdown did not run."""
        missing = 2 - len(self.shutdowns.read_text())
        return f", **shutdown skipped in {missing}**" if missing > 0 else ""

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)  # a session of its own: nobody else is in it
        self.process.wait()


@contextlib.contextmanager
def client(port: int, data: bytes = b"", answered: bool = True) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", port), LIMIT + 5) as sock:
        if data:
            sock.sendall(data)
            if answered:
                sock.recv(65536)
        time.sleep(0.3)
        yield sock


def stop_with(path: bytes | None) -> Callable[[str, Path], str]:
    """TERM while a client has this in hand; None: it has said nothing."""

    def measure(name: str, folder: Path) -> str:
        with Server(name, folder).ready() as server, client(server.port, GET % path if path else b""):
            return server.term()[0] + server.shut_down()

    return measure


def stop_slow(name: str, folder: Path) -> str:
    with Server(name, folder).ready() as server, client(server.port, GET % b"/slow", answered=False) as sock:
        server.term()
        answer = b""
        with contextlib.suppress(OSError):
            while data := sock.recv(65536):
                answer += data
        whole = "completes" if b" 200 " in answer.partition(b"\r\n")[0] else "**cut**"
        return whole + (
            ", `connection: close`" if b"connection: close" in answer.lower() else ", no `connection: close`"
        )


def stop_websocket(name: str, folder: Path) -> str:
    from websockets.exceptions import ConnectionClosed
    from websockets.sync.client import connect

    with Server(name, folder).ready() as server:
        code: list[str] = []
        with connect(f"ws://127.0.0.1:{server.port}/", close_timeout=1) as sock:

            def listen() -> None:
                try:
                    sock.recv()
                except ConnectionClosed as error:
                    code.append(f"close {error.rcvd.code}" if error.rcvd else "**no close frame**")

            thread = threading.Thread(target=listen)
            thread.start()
            time.sleep(0.3)
            took = server.term()[0]
            thread.join(2)
        return f"{took}, {code[0] if code else 'nothing heard'}{server.shut_down()}"


def exit_code(name: str, folder: Path) -> str:
    with Server(name, folder).ready() as server:
        server.term()
        return str(server.process.returncode)


def kill_worker(name: str, folder: Path) -> str:
    with Server(name, folder).ready() as server:
        with Load(server.port, keep_alive=0, fresh=2, path="/") as load:
            time.sleep(0.5)
            old = int(get(server.port))
            os.kill(old, signal.SIGKILL)
            time.sleep(3.0)
            code = server.process.poll()
            load._over.set()
        wrong = sum(load.counts[key] for key in ("failed", "cut", "lost"))
        if code is not None:
            return f"**service exits**, code {code}"
        return f"replaced, {wrong} failed of {load.answered + wrong}"


def kill_supervisor(name: str, folder: Path) -> str:
    with Server(name, folder).ready() as server:
        worker = int(get(server.port))
        began = time.monotonic()
        server.process.kill()
        while time.monotonic() - began < 3.0:
            if not alive(worker):
                return f"workers gone after {time.monotonic() - began:.1f} s"
            time.sleep(0.01)
        try:
            get(server.port, "/", 2.0)
        except Exception:
            return "**orphaned**"
        return "**orphaned, keep serving**"


def broken(variable: str) -> Callable[[str, Path], str]:
    def measure(name: str, folder: Path) -> str:
        codes = []
        for workers in (1, 2):
            with Server(name, folder, workers, **{variable: "1"}) as server:
                try:
                    codes.append(f"{server.process.wait(8.0)}")
                except subprocess.TimeoutExpired:
                    codes.append("**does not end**")
        return " / ".join(codes)

    return measure


ROWS: dict[str, Callable[[str, Path], str]] = {
    "TERM, endless SSE stream open": stop_with(b"/sse"),
    "TERM, idle keep-alive connection": stop_with(b"/"),
    "TERM, silent connection": stop_with(None),
    "TERM, open WebSocket": stop_websocket,
    "TERM, request of 3 s in hand": stop_slow,
    "exit code after TERM": exit_code,
    "`kill -9` of one of two workers": kill_worker,
    "`kill -9` of the supervisor": kill_supervisor,
    "import raises, exit code with 1 / 2 workers": broken("IMPORT_FAILS"),
    "lifespan.startup.failed, 1 / 2": broken("STARTUP_FAILS"),
}


def main(names: list[str]) -> None:
    columns = {}
    for name in names:
        package = "fastserve-http" if name == "fastserve" else name
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            columns[name] = importlib.metadata.version(package)
    print("| event | " + " | ".join(f"{name} {version}" for name, version in columns.items()) + " |")
    print("|---" * (len(columns) + 1) + "|")
    for event, measure in ROWS.items():
        cells = []
        for name in columns:
            with tempfile.TemporaryDirectory() as folder:
                try:
                    cells.append(measure(name, Path(folder)))
                except Exception as error:
                    cells.append(f"({type(error).__name__}: {error})")
        print(f"| {event} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:] or list(COMMANDS))
