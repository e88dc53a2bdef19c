"""asgion, a checker of the ASGI protocol, between this server and an application that uses all of it: both sides are clean.

It judges scopes and received events, which are the server's, and sent events, which are the application's, by some 160
rules. Python 3.12 or later.
"""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from asgion import Inspector
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from fastserve.testing import live_server

EXPLAINED = {
    ("HS-013", "*"): "a path should start with a slash: that of `OPTIONS *` is an asterisk (RFC 9112 section 3.2.4)",
}
"""All that it calls an error or a warning, and why it is none."""

REMARKS = {
    "HF-006": "an answer that ends with http.response.pathsend is complete; /forever is left by its client",
    "HF-010": "a streamed answer is one",
    "HF-011": "the body in answer to HEAD is the application's; the server drops it",
    "LF-010": "there is a lifespan state",
    "SEM-005": "an application need not ask for http.disconnect",
    "SEM-011": "/forever has many pieces",
    "SEM-013": "text/plain without a charset is this application's",
    "WF-007": "a close before the accept is a 403",
}
"""Remarks that are no findings, each with what it is about; others would be news."""

HEADERS = [(b"content-type", b"text/plain")]


async def http(scope: Any, receive: Any, send: Any) -> None:
    path = scope["path"].removeprefix(scope["root_path"])
    body, more = b"", scope["method"] == "POST" and path != "/early"
    while more:
        event = await receive()
        if event["type"] == "http.disconnect":
            return
        body += event["body"]
        more = event["more_body"]
    start = {"type": "http.response.start", "status": 200, "headers": HEADERS}
    if path == "/hint" and "http.response.early_hint" in scope["extensions"]:
        await send({"type": "http.response.early_hint", "links": [b"</style.css>; rel=preload; as=style"]})
    if path == "/empty":
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})
    elif path == "/stream":
        await send(start)
        for _ in range(3):
            await send({"type": "http.response.body", "body": b"piece", "more_body": True})
        await send({"type": "http.response.body"})
    elif path == "/forever":
        await send(start)
        with contextlib.suppress(OSError):
            while True:
                await send({"type": "http.response.body", "body": b"x" * 4096, "more_body": True})
    elif path == "/file":
        await send(start)
        await send({"type": "http.response.pathsend", "path": str(Path(__file__).resolve())})
    elif path == "/wait":
        assert (await receive())["type"] == "http.request"
        assert (await receive())["type"] == "http.disconnect"
    else:
        await send(start)
        await send({"type": "http.response.body", "body": body or path.encode()})


async def websocket(scope: Any, receive: Any, send: Any) -> None:
    assert (await receive())["type"] == "websocket.connect"
    path = scope["path"].removeprefix(scope["root_path"])
    if path == "/refused":
        await send({"type": "websocket.close", "code": 1000})
        return
    if path == "/denied":
        await send({"type": "websocket.http.response.start", "status": 401, "headers": HEADERS})
        await send({"type": "websocket.http.response.body", "body": b"who are you?"})
        return
    subprotocol = scope["subprotocols"][0] if scope["subprotocols"] else None
    await send({"type": "websocket.accept", "subprotocol": subprotocol, "headers": [(b"x-seen", b"yes")]})
    while (event := await receive())["type"] == "websocket.receive":
        if event.get("text") == "close":
            await send({"type": "websocket.close", "code": 4000, "reason": "you said so"})
            return
        kind = "text" if event.get("text") is not None else "bytes"
        await send({"type": "websocket.send", kind: event[kind]})


async def application(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        assert (await receive())["type"] == "lifespan.startup"
        scope["state"]["ready"] = True
        await send({"type": "lifespan.startup.complete"})
        assert (await receive())["type"] == "lifespan.shutdown"
        await send({"type": "lifespan.shutdown.complete"})
    elif scope["type"] == "http":
        await http(scope, receive, send)
    else:
        await websocket(scope, receive, send)


@pytest.fixture
def inspector() -> Inspector:
    return Inspector(application)


@pytest.fixture(params=[{}, {"root_path": "/shop"}, {"uds": True}], ids=["tcp", "root path", "unix"])
def url(inspector: Inspector, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    options = dict(request.param)
    if "uds" in options:
        options["uds"] = str(tmp_path / "socket")
    with live_server(inspector, lifespan="on", **options) as url:
        yield options.get("uds") or url


def client_of(url: str) -> httpx.Client:
    if url.startswith("/"):
        return httpx.Client(transport=httpx.HTTPTransport(uds=url), base_url="http://inner", timeout=20)
    return httpx.Client(base_url=url, timeout=20)


def stream_of(url: str) -> socket.socket:
    if url.startswith("/"):
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(20)
        sock.connect(url)
        return sock
    host, port = url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), 20)


def test_both_sides_are_clean(inspector: Inspector, url: str) -> None:
    with client_of(url) as client:
        for path in ("/", "/empty", "/stream", "/hint", "/file", "/a%20b/%E2%82%AC?q=%20&r", "/a//b/../c"):
            assert client.get(path).status_code in (200, 204)
        assert client.head("/").status_code == 200
        assert client.request("PURGE", "/").status_code == 200
        for data in (b"", b"abc", b"x" * 500_000, iter([b"a", b"b" * 70_000, b"c"])):
            assert client.post("/echo", content=data).status_code == 200
        assert client.post("/early", content=b"x" * 1000).status_code == 200
        with client.stream("GET", "/forever") as answer:
            next(answer.iter_raw())
    with stream_of(url) as sock:  # HTTP/1.0, a second field of a name, bytes beyond ASCII, no Host
        sock.sendall(b"GET /old HTTP/1.0\r\nX-One: 1\r\nx-one: \xe9\r\n\r\n")
        assert sock.recv(100).startswith(b"HTTP/1.1 200")
    with stream_of(url) as sock:
        sock.sendall(
            b"GET http://elsewhere/path HTTP/1.1\r\nHost: inner\r\n\r\nOPTIONS * HTTP/1.1\r\nHost: inner\r\n\r\n"
        )
        assert sock.recv(100).startswith(b"HTTP/1.1 200")
    with stream_of(url) as sock:
        sock.sendall(b"POST /echo HTTP/1.1\r\nHost: inner\r\nContent-Length: 10\r\n\r\nabc")
        time.sleep(0.1)  # and it leaves
    with stream_of(url) as sock:
        sock.sendall(b"GET /wait HTTP/1.1\r\nHost: inner\r\n\r\n")
        time.sleep(0.1)

    def open_(path: str, **options: Any) -> Any:
        sock = stream_of(url)
        return connect(f"ws://inner{path}", sock=sock, **options)

    with open_("/talk?a=b", subprotocols=["chat", "other"]) as ws:  # type: ignore[list-item]
        assert ws.subprotocol == "chat"
        for message in ("häßlich", b"\x00\xff", "", b"", "x" * 100_000):
            ws.send(message)
            assert ws.recv(timeout=20) == message
    with open_("/talk") as ws:
        ws.send("close")
        with pytest.raises(ConnectionClosed):
            ws.recv(timeout=20)
    for path, status in (("/refused", 403), ("/denied", 401)):
        with pytest.raises(InvalidStatus) as refused, open_(path):
            pass
        assert refused.value.response.status_code == status
    with open_("/talk") as ws:
        ws.socket.shutdown(socket.SHUT_RDWR)  # it is gone without a word
    time.sleep(0.3)
    found = {(v.rule_id, v.path): v.message for v in inspector.violations if str(v.severity) != "info"}
    assert found.keys() == EXPLAINED.keys(), found
    assert {v.rule_id for v in inspector.violations if str(v.severity) == "info"} <= REMARKS.keys()


def test_it_would_notice(tmp_path: Path) -> None:
    """The checker sees what is wrong in an application of this test's own making."""

    async def wrong(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
        await send({"type": "http.response.body", "body": json.dumps({}).encode(), "more_body": True})

    inspector = Inspector(wrong)
    with live_server(inspector, lifespan="off") as url, contextlib.suppress(httpx.HTTPError):
        httpx.get(url)
    assert inspector.violations
