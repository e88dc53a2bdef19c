"""The arena's endpoints as raw ASGI 3: what the ASGI servers are asked. Loaded as `benchmarks.arena.asgi:app`.

There is no database behind it: /async-db gives the empty answer that the rules have for that.
"""

import gzip
import json
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import parse_qs

from benchmarks.arena.shared import EMPTY, GZIP_LEVEL, first_items, static_file, takes_gzip

Message = dict[str, Any]
Scope = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

TEXT, JSON = b"text/plain", b"application/json"


async def answer(send: Send, kind: bytes, body: bytes, status: int = 200, *fields: tuple[bytes, bytes]) -> None:
    headers = [(b"content-type", kind), (b"content-length", b"%d" % len(body)), *fields]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def baseline(scope: Scope, receive: Receive, send: Send) -> None:
    query = parse_qs(scope["query_string"])
    total = int(query[b"a"][0]) + int(query[b"b"][0])
    if scope["method"] == "POST":
        body = b""
        async for piece in pieces(receive):
            body += piece
        total += int(body)
    elif scope["method"] not in ("GET", "HEAD"):
        await answer(send, TEXT, b"Method Not Allowed", 405)
        return
    await answer(send, TEXT, b"%d" % total)


async def pieces(receive: Receive) -> Any:
    """The body as it comes."""
    more = True
    while more:
        event = await receive()
        yield event.get("body", b"")
        more = event.get("more_body", False)


async def pipeline(scope: Scope, receive: Receive, send: Send) -> None:
    await answer(send, TEXT, b"ok")


async def upload(scope: Scope, receive: Receive, send: Send) -> None:
    size = 0
    async for piece in pieces(receive):
        size += len(piece)
    await answer(send, TEXT, b"%d" % size)


async def items(scope: Scope, receive: Receive, send: Send) -> None:
    m = int(parse_qs(scope["query_string"]).get(b"m", [b"1"])[0])
    body = json.dumps(first_items(int(scope["path"].rpartition("/")[2]), m)).encode()
    if takes_gzip(dict(scope["headers"]).get(b"accept-encoding", b"").decode("latin-1")):
        await answer(send, JSON, gzip.compress(body, GZIP_LEVEL), 200, (b"content-encoding", b"gzip"))
    else:
        await answer(send, JSON, body)


async def rows(scope: Scope, receive: Receive, send: Send) -> None:
    await answer(send, JSON, json.dumps(EMPTY).encode())


async def static(scope: Scope, receive: Receive, send: Send) -> None:
    found = static_file(scope["path"].removeprefix("/static/"))
    if found is None:
        await answer(send, TEXT, b"Not Found", 404)
    else:
        await answer(send, found[0].encode(), found[1])


async def websocket(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    while (event := await receive())["type"] == "websocket.receive":
        kind = "bytes" if event.get("bytes") is not None else "text"
        await send({"type": "websocket.send", kind: event[kind]})


ROUTES = {"/baseline11": baseline, "/pipeline": pipeline, "/upload": upload, "/async-db": rows}


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "http":
        path = scope["path"]
        handler = ROUTES.get(path) or (items if path.startswith("/json/") else static)
        await handler(scope, receive, send)
    elif scope["type"] == "websocket":
        await websocket(scope, receive, send)
    else:
        while (await receive())["type"] != "lifespan.shutdown":
            await send({"type": "lifespan.startup.complete"})
        await send({"type": "lifespan.shutdown.complete"})
