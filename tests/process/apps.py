"""The application that the tests of floor 3 serve, as themselves or by name ("apps:app")."""

from __future__ import annotations

import asyncio
import contextlib
import os
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
