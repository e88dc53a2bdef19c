"""The application behind the black-box tests."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator

from fastserve import App, Request, StreamingResponse

app = App()
MEGABYTE = bytes(range(256)) * 4096


@app.get("/")
async def index() -> str:
    return "hello"


@app.post("/")
async def ignores_its_body() -> str:
    return "hello"


@app.post("/echo")
async def echo(body: bytes) -> bytes:
    return body


@app.post("/sha")
async def sha(request: Request) -> str:
    digest = hashlib.sha256()
    async for chunk in request.stream():
        digest.update(chunk)
    return digest.hexdigest()


@app.get("/megabytes/{n}")
async def megabytes(n: int) -> StreamingResponse:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(n):
            yield MEGABYTE

    return StreamingResponse(chunks())


@app.get("/sized/{n}")
async def sized(n: int) -> StreamingResponse:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(n):
            yield MEGABYTE

    return StreamingResponse(chunks(), headers={"content-length": str(n * len(MEGABYTE))})


@app.get("/ticks")
async def ticks() -> StreamingResponse:
    async def chunks() -> AsyncIterator[bytes]:
        yield b"first"
        await asyncio.sleep(1)
        yield b"second"

    return StreamingResponse(chunks())


@app.get("/slow")
async def slow() -> str:
    await asyncio.sleep(0.5)
    return "slow"


@app.post("/late")
async def late(request: Request) -> bytes:
    await asyncio.sleep(0.7)
    return await request.body()


@app.get("/thread")
def thread() -> str:
    time.sleep(0.05)
    return "thread"


@app.get("/cancelled")
async def cancelled() -> str:
    try:
        await asyncio.sleep(30)
    except asyncio.CancelledError:
        log.append("cancelled")
        raise
    return "no"


@app.get("/log")
async def read_log() -> list[str]:
    return log


@app.get("/fails")
async def fails() -> str:
    raise ZeroDivisionError("on purpose")


@app.get("/scheme")
async def scheme(request: Request) -> str:
    return request.scheme


log: list[str] = []
