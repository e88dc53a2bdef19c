"""The small application for fastserve's own interface. Loaded by `fastserve benchmarks.apps.native:app`."""

from typing import Any

from fastserve import App, WebSocket

TEN_KILOBYTES = b"0123456789abcdef" * 640

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


@app.websocket("/ws")
async def websocket_echo(ws: WebSocket) -> None:
    await ws.accept()
    async for message in ws:
        await ws.send(message)
