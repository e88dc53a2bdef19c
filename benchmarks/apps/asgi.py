"""The small application as raw ASGI 3. Loaded by uvicorn, granian and fastserve as `benchmarks.apps.asgi:app`."""

import json
from collections.abc import Awaitable, Callable
from typing import Any

TEN_KILOBYTES = b"0123456789abcdef" * 640
ONE_MEGABYTE = b"0123456789abcdef" * 65536
CHUNK = b"0123456789abcdef" * 64

TEXT = (b"content-type", b"text/plain; charset=utf-8")
JSON = (b"content-type", b"application/json")
BINARY = (b"content-type", b"application/octet-stream")

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


async def index(receive: Receive, send: Send) -> None:
    await answer(send, TEXT, b"Hello, World!")


async def message(receive: Receive, send: Send) -> None:
    await answer(send, JSON, json.dumps({"message": "Hello, World!"}).encode())


async def echo(receive: Receive, send: Send) -> None:
    event = await receive()
    body: bytes = event.get("body", b"")
    while event.get("more_body", False):
        event = await receive()
        body += event.get("body", b"")
    await answer(send, BINARY, body)


async def ten_kilobytes(receive: Receive, send: Send) -> None:
    await answer(send, BINARY, TEN_KILOBYTES)


async def one_megabyte(receive: Receive, send: Send) -> None:
    await answer(send, BINARY, ONE_MEGABYTE)


async def stream(receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [BINARY]})
    for _ in range(10):
        await send({"type": "http.response.body", "body": CHUNK, "more_body": True})
    await send({"type": "http.response.body"})


async def websocket_echo(receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    while (event := await receive())["type"] == "websocket.receive":
        kind = "bytes" if event.get("bytes") is not None else "text"
        await send({"type": "websocket.send", kind: event[kind]})


async def nothing(receive: Receive, send: Send) -> None:
    await answer(send, TEXT, b"Not Found", 404)


async def answer(send: Send, content_type: tuple[bytes, bytes], body: bytes, status: int = 200) -> None:
    headers = [content_type, (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


ROUTES = {
    ("GET", "/"): index,
    ("GET", "/json"): message,
    ("POST", "/echo"): echo,
    ("GET", "/10k"): ten_kilobytes,
    ("GET", "/1m"): one_megabyte,
    ("GET", "/stream"): stream,
}


async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    if scope["type"] == "http":
        await ROUTES.get((scope["method"], scope["path"]), nothing)(receive, send)
    elif scope["type"] == "websocket":
        await websocket_echo(receive, send)
    elif scope["type"] == "lifespan":
        while (await receive())["type"] != "lifespan.shutdown":
            await send({"type": "lifespan.startup.complete"})
        await send({"type": "lifespan.shutdown.complete"})
