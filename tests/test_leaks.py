"""Nothing leaks: objects and memory after many requests of mixed kinds, and after connections that end badly."""

from __future__ import annotations

import asyncio
import gc
import resource
import sys
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

from fastserve import App, HTTPException, Request, Response, StreamingResponse

app = App()


@app.get("/")
async def index() -> str:
    return "hello"


@app.get("/user/{name}")
async def user(name: str, request: Request) -> dict[str, str]:
    return {"name": name, "agent": request.headers.get("user-agent", "")}


@app.get("/wait")
async def wait() -> str:
    await asyncio.sleep(0)
    return "waited"


@app.get("/asks")
async def asks() -> str:
    task = asyncio.current_task()
    assert task is not None
    return task.get_name()


@app.post("/echo")
async def echo(body: bytes) -> bytes:
    return body


@app.get("/stream")
async def stream() -> Response:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield b"x" * 100
            await asyncio.sleep(0)

    return StreamingResponse(chunks())


@app.get("/fails")
async def fails() -> str:
    raise HTTPException(418, "teapot")


@app.get("/forever")
async def forever() -> str:
    await asyncio.sleep(3600)
    return "never"


@app.get("/plain", blocking=False)
def plain(request: Request) -> bytes:
    return request.query_string


def head(method: str, path: str, more: str = "") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nHost: a\r\nUser-Agent: t\r\n{more}\r\n".encode()


MIX = [
    head("GET", "/"),
    head("GET", "/user/bob?x=1"),
    head("GET", "/wait"),
    head("GET", "/asks"),
    head("POST", "/echo", "Content-Length: 11\r\n") + b"hello world",
    head("POST", "/echo", "Transfer-Encoding: chunked\r\n") + b"5\r\nhello\r\n0\r\nX-T: 1\r\n\r\n",
    head("GET", "/stream"),
    head("GET", "/fails"),
    head("GET", "/plain?q"),
    head("HEAD", "/"),
    head("GET", "/missing"),
    head("DELETE", "/"),
]
PER_ROUND = len(MIX) + 2 * len(MIX)


def rss() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def objects() -> Counter[str]:
    for _ in range(3):  # what has a finalizer goes in a later pass
        gc.collect()
    return Counter(type(item).__qualname__ for item in gc.get_objects())


def one_round(memory: Any, conn: Any) -> None:
    for request in MIX:  # kept alive
        conn.receive(request)
        conn.turn(6)
        conn.transport.take()
    for request in MIX:  # on a connection of its own, cut in two, left early
        for leave in (False, True):
            other = memory(app)
            other.receive(request[: len(request) // 2])
            if not leave:
                other.receive(request[len(request) // 2 :])
            other.receive(b"") if leave else other.turn(2)
            other.eof()
            other.turn(4)


def test_objects_and_memory_stay_flat(loop):
    from conftest import Memory

    def fresh(app: App) -> Memory:
        other = Memory(loop, app)
        others.append(other)
        return other

    others: list[Memory] = []
    conn = Memory(loop, app)

    def requests(count: int) -> None:
        for done in range(0, count, len(MIX)):
            conn.receive(b"".join(MIX))
            conn.turn(14)
            conn.transport.take()
            if done % (len(MIX) * 200) == 0:
                one_round(fresh, conn)
                for other in others:
                    other.transport.close()
                    other.turn(3)
                    other.service.close()
                others.clear()

    loop.set_debug(False)
    requests(25000)
    objects(), rss()  # measuring fills caches of its own, once
    requests(25000)
    conn.turn(100)
    before, size = objects(), rss()
    served = conn.service.served
    requests(50000)
    conn.turn(100)
    after = objects()
    assert conn.service.served - served >= 50000
    del after["Counter"]  # `before` itself
    grown = {name: after[name] - before[name] for name in after if after[name] > before[name]}
    assert not grown, grown
    assert rss() - size <= 1024 * 1024
    conn.transport.close()
    conn.turn(3)
    conn.service.close()


def test_disconnects_leak_nothing(memory):
    def round() -> None:
        conns = []
        for request in (
            head("GET", "/forever"),
            head("POST", "/echo", "Content-Length: 50\r\n") + b"part",
            b"GET / HT",
        ):
            conn = memory(app)
            conn.receive(request)
            conn.turn(2)
            conns.append(conn)
        for conn in conns:
            conn.eof()
            conn.turn(4)
            assert conn.service.connections == 0
            assert conn.service.active == 0

    for _ in range(3):
        round()
    gc.collect()
    names = ("Connection", "Exchange", "NativeCall", "Request", "RequestBody", "HandlerTask", "coroutine")
    before = objects()
    for _ in range(5):
        round()
    after = objects()
    assert {name: after[name] - before[name] for name in names if after[name] > before[name]} == {"Connection": 15}, (
        "only the fixture's own connections are alive"
    )


def test_reference_counts_of_shared_objects():
    """An answer must not take a reference to what all answers share."""
    import socket
    from urllib.parse import urlsplit

    from fastserve.testing import live_server

    with live_server(app) as url:
        parts = urlsplit(url)
        with socket.create_connection((parts.hostname, parts.port)) as client:

            def ask(times: int) -> None:
                for _ in range(times):
                    client.sendall(MIX[0] + MIX[1])
                    got = b""
                    while got.count(b"HTTP/1.1 200") < 2 or not got.endswith(b"}"):
                        got += client.recv(65536)

            ask(50)
            before = [sys.getrefcount(item) for item in (None, True, b"", "", app)]
            ask(500)
            after = [sys.getrefcount(item) for item in (None, True, b"", "", app)]
    assert all(abs(b - a) < 200 for a, b in zip(before, after, strict=True)), (before, after)


def test_what_is_abandoned_is_collected_in_any_order(loop):
    """Connections with armed deadlines die with their service when the garbage collector finds them."""
    from conftest import Memory

    for _ in range(50):
        conn = Memory(loop, app)
        conn.receive(head("GET", "/") + b"GET / HT")
        del conn
    gc.collect()
    assert not [item for item in gc.get_objects() if type(item).__name__ in ("Connection", "Service")]
