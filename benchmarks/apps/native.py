"""The small application for fastserve's own interface. Loaded by `fastserve benchmarks.apps.native:app`."""

from collections.abc import AsyncIterator
from typing import Any

from fastserve import App, WebSocket

TEN_KILOBYTES = b"0123456789abcdef" * 640
ONE_MEGABYTE = b"0123456789abcdef" * 65536
CHUNK = b"0123456789abcdef" * 64

app = App()


@app.get("/")
async def index() -> str:
    return "Hello, World!"


@app.get("/json")
async def message() -> dict[str, Any]:
    return {"message": "Hello, World!"}


@app.post("/echo")
async def echo(body: bytes) -> bytes:
    return body


@app.get("/10k")
async def ten_kilobytes() -> bytes:
    return TEN_KILOBYTES


@app.get("/1m")
async def one_megabyte() -> bytes:
    return ONE_MEGABYTE


@app.get("/stream")
async def stream() -> AsyncIterator[bytes]:
    for _ in range(10):
        yield CHUNK


@app.websocket("/ws")
async def websocket_echo(ws: WebSocket) -> None:
    await ws.accept()
    async for message in ws:
        await ws.send(message)
