"""Memory stays flat: ASGI requests, WebSockets that come and go, clients that leave at every stage. A server process of its
own tells its resident memory, its objects and its descriptors, before and after.

FASTSERVE_MEMORY=full: a million requests, 100,000 WebSockets, 100,000 disconnects (`make nightly`); else a part of that.
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import os
import socket
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from process.running import Running

FULL = os.environ.get("FASTSERVE_MEMORY") == "full"
REQUESTS, SOCKETS, LEAVERS = (1_000_000, 100_000, 100_000) if FULL else (40_000, 2_500, 5_000)
OBJECTS_MORE = 100  # of a few ten thousand, after a collection
RSS_MORE = 2 << 20  # bytes: what an allocator may do
LIMIT = 60.0
AS_IDLE = ("fds", "ours", "tasks")  # descriptors, our objects by type, asyncio's tasks: none may be left over

APP = """
import asyncio, gc, json, os
from collections import Counter

OURS = {"Connection", "Exchange", "ASGICall", "ASGIWebSocketCall", "WebSocket", "Request", "RequestBody", "HandlerTask"}


def memory():
    for _ in range(3):
        gc.collect()
    found = Counter(type(thing).__name__ for thing in gc.get_objects())
    return {
        "rss": int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE"),
        "objects": sum(found.values()),
        "ours": {name: found[name] for name in OURS if found[name]},
        "fds": len(os.listdir("/proc/self/fd")),
        "tasks": len(asyncio.all_tasks()),
    }


async def answer(send, body, more=False):
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": body, "more_body": more})


async def app(scope, receive, send):
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        while (event := await receive())["type"] == "websocket.receive":
            await send({**event, "type": "websocket.send"})
        return
    path = scope["path"]
    if path == "/echo":
        body, more = b"", True
        while more:
            event = await receive()
            if event["type"] == "http.disconnect":
                return
            body += event["body"]
            more = event["more_body"]
        await answer(send, body)
    elif path == "/stream":
        await answer(send, b"a", True)
        await asyncio.sleep(0)
        await send({"type": "http.response.body", "body": b"b"})
    elif path == "/forever":
        await answer(send, b"x" * 1000, True)
        while True:
            await send({"type": "http.response.body", "body": b"x" * 1000, "more_body": True})
    elif path == "/wait":
        await receive()
        await receive()
    elif path == "/memory":
        await answer(send, json.dumps(memory()).encode())
    else:
        await answer(send, b"hello")
"""


@dataclass
class Server:
    running: Running
    port: int

    def memory(self) -> dict[str, Any]:
        """When the connections that were left are gone, and what served them: they may still have to be noticed."""
        until = time.monotonic() + 20.0
        while True:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=LIMIT)
            with contextlib.closing(connection):
                connection.request("GET", "/memory")
                found: dict[str, Any] = json.loads(connection.getresponse().read())
            if self.idle is None or all(found[name] == self.idle[name] for name in AS_IDLE) or time.monotonic() > until:
                return found
            time.sleep(0.1)

    idle: dict[str, Any] | None = None


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    (tmp_path / "leaky.py").write_text(APP)
    options = ("--port", "0", "--no-access-log", "--interface", "asgi3", "--lifespan", "off")
    with Running("leaky:app", *options, cwd=tmp_path) as running:
        found = Server(running, running.ready().port)
        found.memory()
        time.sleep(0.5)  # that connection is gone, too
        found.idle = found.memory()
        yield found
        assert running.stop() == 0, running.err
        assert "Traceback" not in running.err and "ERROR" not in running.err, running.err


def judge(server: Server, load: Callable[[Server, int], int], count: int, what: str) -> None:
    """A fifth of the load to warm up, then the rest: nothing may be more than before."""
    load(server, count // 5)
    before, began = server.memory(), time.monotonic()
    done = load(server, count)
    after, took = server.memory(), time.monotonic() - began
    print(
        f"\n{what}: {done:,} in {took:.0f} s, rss {before['rss'] / 2**20:.1f} -> {after['rss'] / 2**20:.1f} MiB, "
        f"objects {before['objects']:,} -> {after['objects']:,}, descriptors {before['fds']} -> {after['fds']}, "
        f"tasks {before['tasks']} -> {after['tasks']}"
    )
    assert done == count
    assert server.idle is not None
    for name in AS_IDLE:
        assert after[name] == before[name] == server.idle[name], (name, server.idle, before, after)
    assert after["objects"] - before["objects"] <= OBJECTS_MORE, (before, after)
    assert after["rss"] - before["rss"] <= RSS_MORE, (before, after)


# ----------------------------------------------------------------------------------------------------------- requests


def head(method: str, path: str, more: str = "") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nHost: a\r\nUser-Agent: flat\r\n{more}\r\n".encode()


MIX = [
    head("GET", "/"),
    head("GET", "/a%20b?c=d"),
    head("GET", "/stream"),
    head("POST", "/echo", "Content-Length: 5\r\n") + b"hello",
    head("POST", "/echo", "Transfer-Encoding: chunked\r\n") + b"5\r\nhello\r\n5;a=b\r\nthere\r\n0\r\n\r\n",
]
BATCH = 100


def requests(server: Server, count: int) -> int:
    """Batches of pipelined requests over a connection; a new one after every fifty."""
    batch = b"".join(itertools.islice(itertools.cycle(MIX), BATCH))
    done = 0
    while done < count:
        with socket.create_connection(("127.0.0.1", server.port), LIMIT) as sock:
            for _ in range(min(50, (count - done) // BATCH)):
                sock.sendall(batch)
                left, rest = BATCH, b""
                while left:
                    data = sock.recv(262144)
                    assert data
                    data = rest + data
                    left -= data.count(b"HTTP/1.1 200 OK\r\n")
                    rest = data[-16:] if not data.endswith(b"HTTP/1.1 200 OK\r\n") else b""
                done += BATCH
                time.sleep(0)
    return done


def test_requests(server: Server) -> None:
    judge(server, requests, REQUESTS, "ASGI requests")


# ---------------------------------------------------------------------------------------------------------- WebSockets


HANDSHAKE = head(
    "GET",
    "/talk",
    "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n%s",
)
DEFLATE = b"Sec-WebSocket-Extensions: permessage-deflate\r\n"
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close with a reset


def frame(opcode: int, data: bytes) -> bytes:
    """Masked with zeros, which leaves it as it is (RFC 6455 section 5.3)."""
    assert len(data) < 126
    return bytes((0x80 | opcode, 0x80 | len(data))) + b"\0\0\0\0" + data


MESSAGES = frame(1, b"hello") + frame(2, bytes(100)) + frame(9, b"ping")
CLOSE = frame(8, struct.pack(">H", 1000))


def dial(server: Server, n: int) -> socket.socket:
    """From one of many addresses, so that no port is used up."""
    return socket.create_connection(("127.0.0.1", server.port), LIMIT, source_address=(f"127.0.{n % 199 + 1}.9", 0))


def websockets(server: Server, count: int) -> int:
    """Opened, a few messages both ways, and then: closed, left by FIN, by reset, in the middle of a frame."""
    for n in range(count):
        with dial(server, n) as sock:
            sock.sendall(HANDSHAKE % (DEFLATE if n % 3 == 0 else b"") + MESSAGES)
            data = b""
            while b"ping" not in data:
                more = sock.recv(65536)
                assert more, data
                data += more
            match n % 4:
                case 0:
                    sock.sendall(CLOSE)
                    while sock.recv(65536):
                        pass
                case 1:
                    sock.sendall(MESSAGES[:3])
                case 2:
                    sock.sendall(MESSAGES)
            if n % 4:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET if n % 8 < 4 else struct.pack("ii", 0, 0))
    return count


def test_websockets_that_come_and_go(server: Server) -> None:
    judge(server, websockets, SOCKETS, "WebSockets")


# --------------------------------------------------------------------------------------------------- clients that leave


WHOLE = head("GET", "/")
STAGES: list[tuple[bytes, bool]] = [
    # (what is sent, is something read before leaving?)
    (b"", False),
    (WHOLE[:7], False),
    (WHOLE[:-3], False),
    (WHOLE, False),
    (WHOLE, True),
    (WHOLE * 20, False),
    (head("POST", "/echo", "Content-Length: 100000\r\n"), False),
    (head("POST", "/echo", "Content-Length: 100000\r\n") + b"x" * 30000, False),
    (head("POST", "/echo", "Content-Length: 100\r\nExpect: 100-continue\r\n"), True),
    (head("POST", "/echo", "Transfer-Encoding: chunked\r\n") + b"5\r\nhel", False),
    (head("POST", "/echo", "Transfer-Encoding: chunked\r\n") + b"5\r\nhello\r\n0\r\nTrail", False),
    (head("GET", "/wait"), False),
    (head("GET", "/wait") + WHOLE * 3, False),
    (head("GET", "/forever"), True),
    (head("GET", "/forever"), False),
    (b"GET / HTTP/9.9\r\n\r\n", False),
    (b"\x16\x03\x01\x00\x05hello", True),
    (HANDSHAKE % b"", False),
]


def leavers(server: Server, count: int) -> int:
    """Each stage in turn, left by FIN, by reset, or with the sending side shut first."""
    for n in range(count):
        data, reads = STAGES[n % len(STAGES)]
        with dial(server, n) as sock, contextlib.suppress(ConnectionError):
            if data:
                sock.sendall(data)
            if reads:
                sock.recv(1000)
            match n // len(STAGES) % 3:
                case 0:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                case 1:
                    sock.shutdown(socket.SHUT_WR)
    return count


def test_clients_that_leave_at_every_stage(server: Server) -> None:
    judge(server, leavers, LEAVERS, "clients that leave")
