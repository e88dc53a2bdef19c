"""Handlers that make a request wait, each in its own way. `fastserve examples.slow_handler:app`

The tour (docs/follow-one-request.md) visits them with curl; the last number of each line of the access log is the time
from the end of the head to the last byte of the answer.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

from fastserve import App, Query, Request

app = App()


@app.get("/")
async def quick() -> str:
    return "at once\n"


@app.get("/wait")
async def wait(seconds: Query[float] = 1.0) -> str:
    """Waits without being busy: others are served meanwhile. If the client leaves, CancelledError is raised here."""
    await asyncio.sleep(seconds)
    return "waited\n"


@app.get("/thread")
def thread(seconds: Query[float] = 1.0) -> str:
    """A plain function: it runs in the thread pool and may block; it is not interrupted."""
    time.sleep(seconds)
    return "blocked a thread\n"


@app.get("/block", blocking=False)
def block(seconds: Query[float] = 1.0) -> str:
    """What one should not do: blocks the event loop, and with it every connection of this worker."""
    time.sleep(seconds)
    return "blocked everybody\n"


@app.post("/upload")
async def upload(request: Request) -> str:
    """Waits for the client: the body is awaited here."""
    return f"{len(await request.body())} bytes\n"


@app.get("/drip")
async def drip(count: Query[int] = 5) -> AsyncIterator[bytes]:
    """Responds slowly: the head is on its way long before the end."""
    for number in range(count):
        yield b"%d\n" % number
        await asyncio.sleep(0.2)
