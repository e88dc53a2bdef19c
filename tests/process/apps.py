"""The application that the tests of floor 3 serve, as themselves or by name ("apps:app")."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import re
import time
from collections.abc import AsyncIterator
from pathlib import Path

from fastserve import App


def say(text: str) -> None:
    """One line on stderr in one write: several workers share it."""
    os.write(2, f"{text}\n".encode())


@contextlib.asynccontextmanager
async def lifespan(_app: object) -> AsyncIterator[None]:
    if os.environ.get("TEST_STARTUP_FAILS"):
        raise RuntimeError("no database")
    if os.environ.get("TEST_STARTUP_HANGS"):
        say("hanging")
        await asyncio.sleep(60)
    if (flag := os.environ.get("TEST_STARTUP_SLEEPS_IF")) and Path(flag).exists():
        time.sleep(5)
    yield
    if os.environ.get("TEST_SHUTDOWN_FAILS"):
        raise RuntimeError("no goodbye")
    if path := os.environ.get("TEST_SHUTDOWN_FILE"):
        with Path(path).open("a") as file:
            file.write(f"{os.getpid()}\n")


if os.environ.get("TEST_IMPORT_FAILS"):
    raise ValueError("no configuration")
if (flag := os.environ.get("TEST_IMPORT_FAILS_IF")) and Path(flag).exists():
    raise ValueError("a broken release")

app = App(lifespan=lifespan)


@app.get("/")
def hello() -> str:
    return "hello"


@app.get("/pid")
async def pid() -> str:
    return str(os.getpid())


@app.get("/slow")
async def slow() -> str:
    say("slow begins")
    await asyncio.sleep(0.5)
    return "slow"


@app.get("/endless")
async def endless() -> str:
    say("endless begins")
    await asyncio.sleep(60)
    return "never"


@app.get("/block")
async def block() -> str:
    """Blocks the loop."""
    say("block begins")
    time.sleep(60)
    return "never"


@app.get("/block/{seconds:float}")
async def block_for(seconds: float) -> str:
    """Blocks the loop for a while, in a call."""
    say("block begins")
    time.sleep(seconds)
    return "blocked"


@app.get("/burn/{seconds:float}")
async def burn_for(seconds: float) -> str:
    """Blocks the loop for a while, computing."""
    say("burn begins")
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pass
    return "burnt"


@app.get("/hold")
async def hold() -> str:
    """Holds the GIL, for longer than any test runs."""
    say("hold begins")
    re.match(r"(a+)+$", "a" * 64 + "b")
    return "never"


@app.get("/stream")
async def stream() -> AsyncIterator[bytes]:
    """A stream without an end."""
    say("stream begins")
    while True:
        yield b"tick\n"
        await asyncio.sleep(0.05)


@app.get("/segfault")
async def segfault() -> str:
    ctypes.string_at(0)
    return "never"


@app.get("/whoami")
async def whoami() -> str:
    return f"{os.getuid()} {os.getgid()} {os.umask(0o22):o}"


@app.get("/env/{name}")
async def env(name: str) -> str:
    return os.environ.get(name, "")


@app.get("/orphan")
async def orphan() -> str:
    """A process whose parent ends before it does."""
    pid = os.fork()
    if pid == 0:
        if os.fork() == 0:
            time.sleep(0.2)
        os._exit(0)
    os.waitpid(pid, 0)
    return "made"


@app.get("/stuck")
def stuck() -> str:
    """Blocks a thread."""
    say("stuck begins")
    time.sleep(60)
    return "never"


@app.get("/crash")
async def crash() -> str:
    os._exit(9)


def make() -> App:
    return app
