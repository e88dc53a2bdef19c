"""The ASGI wing over real sockets: scope, events in and out, faults of applications, departures, extensions, lifespan."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import anyio
import httpx
import pytest
import sniffio
from asgiref.testing import ApplicationCommunicator
from interfaces.clients import poll

from fastserve import Server
from fastserve.errors import ClientDisconnected, ConfigError, LocalProtocolError
from fastserve.interfaces import detect
from fastserve.testing import live_server

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
LAST = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
START = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]}
BODY = {"type": "http.response.body", "body": b"hello"}


def http_only(app: Any) -> Any:
    """`app`, for scopes of type http; it knows no lifespan."""

    @functools.wraps(app)
    async def call(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "http"
        await app(scope, receive, send)

    return call


def sending(*messages: Any) -> Any:
    @http_only
    async def app(scope, receive, send):
        for message in messages:
            await send(message)

    return app


def start(status: int = 200, *headers: tuple[bytes, bytes], **more: Any) -> dict[str, Any]:
    return {"type": "http.response.start", "status": status, "headers": list(headers), **more}


def body(data: Any = b"", more: bool = False) -> dict[str, Any]:
    return {"type": "http.response.body", "body": data, "more_body": more}


@contextlib.contextmanager
def serving(app: Any, **options: Any) -> Iterator[str]:
    with live_server(app, access_log=False, **options) as url:
        yield url


# -------------------------------------------------------------------------------------------------------- the scope


def scope_of(raw, request: bytes, **options: Any) -> dict[str, Any]:
    scopes: list[dict[str, Any]] = []

    @http_only
    async def app(scope, receive, send):
        scopes.append(scope)
        await send(START)
        await send(BODY)

    with serving(app, **options) as url:
        port = urlsplit(url).port
        conn = raw(url)
        status, _, _ = conn.send(request).response(head_only=request.startswith(b"HEAD"))
        assert status == 200
        scope = scopes[0]
        assert scope["server"] == ("127.0.0.1", port)
        assert scope["client"] == conn.socket.getsockname()
    return scope


def test_scope(raw) -> None:
    scope = scope_of(
        raw,
        b"POST /caf%C3%A9/a%2Fb?x=%201&y HTTP/1.1\r\nHost: example.org:81\r\nX-Thing:  two words \r\nACCEPT: */*\r\n"
        b"Accept: text/html\r\nContent-Length: 0\r\n\r\n",
    )
    del scope["client"], scope["server"]
    assert scope == {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": "/café/a/b",
        "raw_path": b"/caf%C3%A9/a%2Fb",
        "query_string": b"x=%201&y",
        "root_path": "",
        "headers": [
            (b"host", b"example.org:81"),
            (b"x-thing", b"two words"),
            (b"accept", b"*/*"),
            (b"accept", b"text/html"),
            (b"content-length", b"0"),
        ],
        "extensions": {"http.response.pathsend": {}, "http.response.zerocopysend": {}, "http.response.early_hint": {}},
    }


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (b"GET / HTTP/1.0\r\n\r\n", {"http_version": "1.0", "headers": [], "path": "/", "raw_path": b"/"}),
        (b"GET http://b.org:1/p?q HTTP/1.1\r\nHost: evil\r\n\r\n", {"headers": [(b"host", b"b.org:1")], "path": "/p"}),
        (b"GET http://b.org HTTP/1.0\r\n\r\n", {"headers": [(b"host", b"b.org")], "path": "/", "raw_path": b"/"}),
        (b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", {"path": "*", "raw_path": b"*", "method": "OPTIONS"}),
        (b"BREW /%zz%ff HTTP/1.1\r\nHost: a\r\n\r\n", {"method": "BREW", "path": "/%zz\ufffd", "raw_path": b"/%zz%ff"}),
        (b"HEAD /? HTTP/1.1\r\nHost: a\r\n\r\n", {"method": "HEAD", "query_string": b"", "path": "/"}),
        (b"get /x HTTP/1.1\r\nHost: a\r\n\r\n", {"method": "get"}),
    ],
)
def test_scope_of_odd_requests(raw, request_: bytes, expected: dict[str, Any]) -> None:
    scope = scope_of(raw, request_)
    assert {name: scope[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("te", "version", "offered"),
    [
        (b"trailers", b"1.1", True),
        (b"gzip;q=0.5, Trailers", b"1.1", True),
        (b"trailersX", b"1.1", False),
        (b"trailers", b"1.0", False),
    ],
)
def test_trailers_are_offered_to_those_that_take_them(raw, te: bytes, version: bytes, offered: bool) -> None:
    scope = scope_of(raw, b"GET / HTTP/" + version + b"\r\nHost: a\r\nTE: " + te + b"\r\n\r\n")
    assert ("http.response.trailers" in scope["extensions"]) is offered
    assert ("http.response.early_hint" in scope["extensions"]) is (version == b"1.1")


def test_root_path_is_put_before_the_path(raw) -> None:
    """As uvicorn, and as the specification has it: `path` includes `root_path`."""
    scope = scope_of(raw, b"GET /x%20y HTTP/1.1\r\nHost: a\r\n\r\n", root_path="/api")
    assert (scope["root_path"], scope["path"], scope["raw_path"]) == ("/api", "/api/x y", b"/api/x%20y")
    with pytest.raises(ConfigError, match="root-path begins with '/'"):
        Server(sending(), root_path="api/")


ROOTED = [b"/x%20y?q=1", b"/", b"/api/x", b"/api", b"/caf%C3%A9/a%2Fb"]


def test_root_path_is_uvicorns(raw) -> None:
    """Whatever comes, `root_path` is put before it: a proxy has cut it off. Asked of uvicorn too."""
    import uvicorn

    def seen_by(serve: Callable[[Any], Any]) -> list[Any]:
        scopes: list[Any] = []

        @http_only
        async def app(scope, receive, send):
            scopes.append([scope[name] for name in ("root_path", "path", "raw_path", "query_string")])
            await send(START)
            await send(BODY)

        with serve(app) as url:
            for target in ROOTED:
                assert raw(url).send(b"GET " + target + b" HTTP/1.1\r\nHost: a\r\n\r\n").response()[0] == 200
        return scopes

    @contextlib.contextmanager
    def uvicorns(app: Any) -> Iterator[str]:
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
        config = uvicorn.Config(app, root_path="/api", log_level="critical", ws="none", lifespan="off")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=lambda: asyncio.run(server.serve([listener])), daemon=True)
        thread.start()
        poll(lambda: server.started)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        thread.join(10)
        listener.close()

    ours = seen_by(lambda app: serving(app, root_path="/api"))
    assert ours == seen_by(uvicorns)
    assert ours[2] == ["/api", "/api/api/x", b"/api/api/x", b""]


def test_a_root_path_that_is_not_ascii(raw) -> None:
    scope = scope_of(raw, b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n", root_path="/caf\xe9 1")
    assert (scope["path"], scope["raw_path"]) == ("/caf\xe9 1/x", b"/caf%C3%A9%201/x")


def test_scopes_of_one_connection_share_nothing_that_changes(raw) -> None:
    seen: list[dict[str, Any]] = []

    @http_only
    async def app(scope, receive, send):
        seen.append(scope)
        assert "spoiled" not in str(scope)
        scope["asgi"]["spoiled"] = scope["extensions"]["spoiled"] = scope["spoiled"] = 1
        scope["headers"].append((b"spoiled", b""))
        await send(START)
        await send(BODY)

    with serving(app) as url:
        conn = raw(url)
        assert [conn.send(GET).response()[0] for _ in range(3)] == [200, 200, 200]
    assert len({id(scope) for scope in seen}) == 3


def test_unix_socket(tmp_path: Path) -> None:
    scopes: list[dict[str, Any]] = []

    @http_only
    async def app(scope, receive, send):
        scopes.append(scope)
        await send(START)
        await send(BODY)

    path = str(tmp_path / "s")
    with serving(app, uds=path), httpx.Client(transport=httpx.HTTPTransport(uds=path)) as client:
        assert client.get("http://a/").text == "hello"
    assert scopes[0]["server"] == (path, None) and scopes[0]["client"] is None


def test_connect_is_refused(raw) -> None:
    with serving(sending(START, BODY)) as url:
        assert raw(url).send(b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n").response()[0] == 501


def test_each_scope_is_the_applications_own(raw) -> None:
    """What it changes, or keeps, the next request does not see."""
    whole = {
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "extensions": {"http.response.pathsend": {}, "http.response.zerocopysend": {}, "http.response.early_hint": {}},
    }
    kept: list[Any] = []

    def change(scope: dict[str, Any]) -> None:
        scope["asgi"]["mine"] = 1

    def replace(scope: dict[str, Any]) -> None:
        scope["asgi"]["version"] = "4.0"
        scope["extensions"].pop("http.response.pathsend")

    def empty(scope: dict[str, Any]) -> None:
        scope["asgi"].clear()
        scope["extensions"]["http.response.debug"] = {}

    def keep(scope: dict[str, Any]) -> None:
        kept.extend((scope["asgi"], scope["extensions"]))

    def nothing(scope: dict[str, Any]) -> None:
        pass

    programs = [change, nothing, replace, nothing, nothing, empty, keep, keep, change, nothing]
    seen: list[Any] = []

    @http_only
    async def app(scope, receive, send):
        seen.append({name: {**scope[name]} for name in whole})
        programs[len(seen) - 1](scope)
        await send(START)
        await send(BODY)

    with serving(app) as url:
        for _ in programs:
            raw(url).send(LAST).response()
    assert seen == [whole] * len(programs)
    assert len({id(one) for one in kept}) == 4 and kept[:2] == kept[2:] == list(whole.values())


def _keys(message: dict[str, Any], how: str) -> Any:
    """The same message, its keys as a program might have made them."""
    if how == "made":  # no two of them the same object
        return {"".join(list(name)): value for name, value in message.items()}
    if how == "of a subclass":
        return {type("Name", (str,), {})(name): value for name, value in message.items()}
    if how == "after holes":
        holes: dict[Any, Any] = {f"hole {number}": None for number in range(3)} | message
        for number in range(3):
            del holes[f"hole {number}"]
        return holes
    if how == "among others":
        return {**{f"other_{number}": None for number in range(20)}, **message, 7: None}
    if how == "of an instance":  # its table is the class's
        return vars(type("Message", (), {})()) | message
    return message


@pytest.mark.parametrize("how", ["plain", "made", "of a subclass", "after holes", "among others", "of an instance"])
def test_a_message_is_found_whatever_its_dict_is_like(raw, how: str) -> None:
    messages = [start(201, (b"content-length", b"10")), body(b"hello", True), body(b"world")]

    @http_only
    async def app(scope, receive, send):
        for message in messages:
            await send(_keys(message, how))

    with serving(app) as url:
        status, _, content = raw(url).send(LAST).response()
    assert (status, content) == (201, b"helloworld")


# ------------------------------------------------------------------------------------------------------------ bodies


@http_only
async def echo(scope, receive, send):
    data, more = b"", True
    while more:
        message = await receive()
        assert message["type"] == "http.request" and (message["body"] or not message["more_body"])
        data += message["body"]
        more = message["more_body"]
    await send(START)
    await send(body(data))


def test_bodies_come_whole_and_in_order(raw) -> None:
    with serving(echo) as url, httpx.Client(base_url=url) as client:
        assert client.get("/").content == b""
        large = bytes(range(256)) * 8192
        assert client.post("/", content=large).content == large
        pieces = [b"a" * n for n in (1, 70000, 3)]
        assert client.post("/", content=iter(pieces)).content == b"".join(pieces)
        conn = raw(url).send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n")
        for byte in b"slow":
            conn.send(bytes([byte]))
            time.sleep(0.01)
        assert conn.response()[2] == b"slow"


def test_100_continue_is_sent_by_the_first_receive_only(raw) -> None:
    asked = threading.Event()

    @http_only
    async def app(scope, receive, send):
        await asyncio.to_thread(asked.wait, 10)
        first = await receive()
        second = await receive() if first["more_body"] else first
        assert not second["more_body"]
        await send(START)
        await send(body(first["body"]))

    with serving(app) as url:
        conn = raw(url).send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
        conn.socket.settimeout(0.2)
        with pytest.raises(TimeoutError):
            conn.until(b"\r\n")
        conn.socket.settimeout(5)
        asked.set()
        assert conn.until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        assert conn.send(b"ok").response()[2] == b"ok"
        asked.set()


def test_upload_is_held_back_while_it_is_not_taken() -> None:
    go = threading.Event()
    taken = 0

    @http_only
    async def app(scope, receive, send):
        nonlocal taken
        await receive()
        await asyncio.to_thread(go.wait, 20)
        while (message := await receive())["more_body"]:
            taken += len(message["body"])
        await send(START)
        await send(BODY)

    with serving(app) as url:
        parts = urlsplit(url)
        with socket.create_connection((parts.hostname, parts.port), 10) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
            size = 64 << 20
            sock.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % size)
            sock.settimeout(0.5)
            sent = 0
            with pytest.raises(TimeoutError):
                while True:
                    sent += sock.send(bytes(65536))
            assert sent < 32 << 20
            go.set()
            sock.settimeout(20)
            while sent < size:
                sent += sock.send(bytes(min(65536, size - sent)))
            assert sock.recv(15) == b"HTTP/1.1 200 OK"


def test_disconnect_is_told_once_the_response_is_complete(raw) -> None:
    told: list[Any] = []

    @http_only
    async def app(scope, receive, send):
        waiting = [asyncio.create_task(receive()) for _ in range(2)]  # an awaitable of ours makes a task
        await asyncio.sleep(0)
        told.append(waiting[0].result())
        assert not waiting[1].done()
        await send(START)
        await send(BODY)
        told.append(await waiting[1])
        told.append(await receive())

    with serving(app) as url:
        conn = raw(url)
        assert conn.send(GET).response()[2] == b"hello"
        poll(lambda: len(told) == 3)
        assert conn.send(GET).response()[2] == b"hello"
    assert told[:3] == [
        {"type": "http.request", "body": b"", "more_body": False},
        {"type": "http.disconnect"},
        {"type": "http.disconnect"},
    ]


# --------------------------------------------------------------------------------------------- the response, correct


H = (b"content-type", b"text/plain")
LENGTH5 = (b"content-length", b"5")

ANSWERS = {
    # name: (messages, status, body, fields that must be there, fields that must not)
    "one body event": ([start(200, H), body(b"hello")], 200, b"hello", {"content-length": "5"}, ["transfer-encoding"]),
    "declared": ([start(200, LENGTH5), body(b"hello")], 200, b"hello", {"content-length": "5"}, ["transfer-encoding"]),
    "declared, in pieces": (
        [start(200, LENGTH5), body(b"he", True), body(b"llo", True), body()],
        200,
        b"hello",
        {"content-length": "5"},
        ["transfer-encoding"],
    ),
    "chunked": (
        [start(201), body(b"he", True), body(b"", True), body(b"llo")],
        201,
        b"hello",
        {"transfer-encoding": "chunked"},
        ["content-length"],
    ),
    "empty": ([start(200), body()], 200, b"", {"content-length": "0"}, []),
    "defaults": ([{"type": "http.response.start", "status": 404}, {"type": "http.response.body"}], 404, b"", {}, []),
    "204": ([start(204), body()], 204, b"", {}, ["content-length", "transfer-encoding"]),
    "204 with a length": ([start(204, (b"content-length", b"0")), body()], 204, b"", {}, ["content-length"]),
    "304": ([start(304, LENGTH5), body()], 304, b"", {"content-length": "5"}, []),
    "304 without": ([start(304), body()], 304, b"", {}, ["content-length"]),
    "bytes-like": ([start(), body(bytearray(b"hel"), True), body(memoryview(b"lo"))], 200, b"hello", {}, []),
    "headers of any kind": (
        [{"type": "http.response.start", "status": 200, "headers": {(b"X-A", b" b ")}}, body(b"x")],
        200,
        b"x",
        {"x-a": "b"},
        [],
    ),
    "unknown status": ([start(799), body(b"x")], 799, b"x", {}, []),
    "own date and server": (
        [start(200, (b"Date", b"Sun, 06 Nov 1994 08:49:37 GMT"), (b"server", b"mine")), body(b"x")],
        200,
        b"x",
        {"date": "Sun, 06 Nov 1994 08:49:37 GMT", "server": "mine"},
        [],
    ),
    "connection fields are ours": (
        [start(200, (b"keep-alive", b"5"), (b"transfer-encoding", b"chunked")), body(b"x")],
        200,
        b"x",
        {"content-length": "1"},
        ["keep-alive", "transfer-encoding"],
    ),
    "large": ([start(), body(b"x" * 300000)], 200, b"x" * 300000, {"content-length": "300000"}, []),
}


@pytest.mark.parametrize("wait", [False, True], ids=["at once", "after a wait"])
@pytest.mark.parametrize("name", ANSWERS)
def test_answers(raw, errors, name: str, wait: bool) -> None:
    messages, status, content, present, absent = ANSWERS[name]

    @http_only
    async def app(scope, receive, send):
        for message in messages:
            if wait:
                await asyncio.sleep(0)
            await send(message)

    with serving(app) as url:
        conn = raw(url)
        for _ in range(2):  # the connection is in order behind it
            got, fields, data = conn.send(GET).response()
            assert (got, data) == (status, content)
            assert fields.items() >= present.items() and not set(absent) & fields.keys()
        assert not errors


@pytest.mark.parametrize(
    "messages", [[start(200, H), body(b"hello")], [start(200, LENGTH5), body(b"he", True), body(b"llo")]]
)
def test_head_has_no_body(raw, errors, messages) -> None:
    with serving(sending(*messages)) as url:
        conn = raw(url)
        for _ in range(2):
            status, fields, _ = conn.send(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n").response(head_only=True)
            assert status == 200 and fields["content-length"] == "5"
        assert conn.send(GET).response()[2] == b"hello"
        assert not errors


def test_head_without_a_body_keeps_the_declared_length(raw, errors) -> None:
    with serving(sending(start(200, (b"content-length", b"77")), body())) as url:
        conn = raw(url)
        for _ in range(2):
            assert conn.send(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n").response(True)[1]["content-length"] == "77"
        assert not errors


def test_http10_gets_the_body_until_the_end(raw) -> None:
    with serving(sending(start(200), body(b"he", True), body(b"llo"))) as url:
        answer = raw(url).send(b"GET / HTTP/1.0\r\n\r\n").rest()
        assert answer.endswith(b"\r\n\r\nhello") and b"chunked" not in answer and b"connection: close" in answer


def test_head_and_first_body_leave_in_one_write(memory) -> None:
    gate = asyncio.Event()

    async def app(scope, receive, send):
        await gate.wait()
        await send(START)
        await asyncio.sleep(0)
        await send(body(b"he", True))
        await send(body(b"llo"))

    conn = memory(app, interface="asgi")
    assert conn.feed(GET) == b""
    gate.set()
    conn.loop.run_until_complete(asyncio.sleep(0))
    for _ in range(3):
        conn.loop.run_until_complete(asyncio.sleep(0))
    head, *rest = conn.transport.writes
    assert head.startswith(b"HTTP/1.1 200 OK\r\n") and head.endswith(b"\r\n\r\n2\r\nhe\r\n")
    assert b"".join(rest) == b"3\r\nllo\r\n0\r\n\r\n"


def test_a_head_alone_leaves_with_an_empty_body(raw) -> None:
    go = threading.Event()

    @http_only
    async def app(scope, receive, send):
        await send(START)
        await send(body(b"", True))
        await asyncio.to_thread(go.wait, 10)
        await send(BODY)

    with serving(app) as url:
        conn = raw(url).send(GET)
        assert b"\r\ncontent-type: text/plain\r\n" in conn.until(b"\r\n\r\n")
        go.set()
        assert conn.until(b"0\r\n\r\n") == b"5\r\nhello\r\n0\r\n\r\n"


def test_what_was_kept_of_a_request_says_nothing_in_the_next(raw) -> None:
    """`receive` and `send` belong to one request, also where the server uses its own objects again for another."""
    kept: list[tuple[Any, Any]] = []
    seen: list[Any] = []

    @http_only
    async def app(scope, receive, send):
        if scope["path"] == "/keep-both":
            kept.append((receive, send))
        elif scope["path"] == "/keep-send":
            kept.append((None, send))
        elif scope["path"] == "/keep-receive":
            kept.append((receive, None))
        for old_receive, old_send in kept if scope["path"] == "/use" else ():
            assert old_receive is not receive and old_send is not send
            if old_receive is not None:
                seen.append((await old_receive())["type"])
            if old_send is not None:
                with pytest.raises(LocalProtocolError, match="complete"):
                    await old_send(START)
                seen.append("refused")
        await send(START)
        await send(body(scope["path"].encode()))

    with serving(app) as url:
        conn = raw(url)
        for path in (b"/", b"/keep-both", b"/", b"/keep-send", b"/keep-receive", b"/", b"/use", b"/"):
            status, _, answer = conn.send(b"GET " + path + b" HTTP/1.1\r\nHost: a\r\n\r\n").response()
            assert (status, answer) == (200, path)
    assert seen == ["http.disconnect", "refused", "refused", "http.disconnect"]


def test_pipelined_requests_are_answered_in_order(raw) -> None:
    @http_only
    async def app(scope, receive, send):
        n = int(scope["path"][1:])
        if n % 3:
            await asyncio.sleep(0.001 * (n % 2))
        await send(START)
        await send(body(b"%d" % n))

    with serving(app) as url:
        conn = raw(url).send(b"".join(b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % n for n in range(200)))
        assert [int(conn.response()[2]) for _ in range(200)] == list(range(200))


def test_an_early_answer_does_not_wait_for_the_body(raw) -> None:
    with serving(sending(start(413), body(b"no"))) as url:
        conn = raw(url).send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n")
        status, fields, data = conn.response()
        assert (status, data, fields["connection"]) == (413, b"no", "close")
        conn = raw(url).send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n")
        assert conn.response()[0] == 413
        assert conn.send(b"12345" + GET).response()[0] == 413


# ---------------------------------------------------------------------------------------------- misbehaving applications

CUT = "cut"  # the connection ends without a clean end of the response
FIVE = "500"
OK = "ok"  # complete, and the connection goes on

MISTAKES: dict[str, tuple[list[Any], str, str]] = {
    "no response": ([], FIVE, "returned without sending a response"),
    "start only": ([START], FIVE, "returned without sending a response"),
    "unfinished": ([START, body(b"x", True)], CUT, "returned before its response was complete"),
    "body before start": ([BODY], FIVE, "'http.response.body' was sent before 'http.response.start'"),
    "double start": ([START, START], FIVE, "'http.response.start' was sent a second time"),
    "start after body": ([START, body(b"x", True), START], CUT, "'http.response.start' was sent a second time"),
    "send after complete": ([START, BODY, BODY], OK, "after the response was complete"),
    "start after complete": ([START, BODY, START], OK, "after the response was complete"),
    "too much at once": ([start(200, LENGTH5), body(b"123456")], FIVE, "more body than Content-Length declared"),
    "too little at once": ([start(200, LENGTH5), body(b"1234")], FIVE, "less body than Content-Length declared"),
    "too much in pieces": (
        [start(200, LENGTH5), body(b"123", True), body(b"456", True), body()],
        "exact",
        "more body than Content-Length declared",
    ),
    "too little in pieces": (
        [start(200, LENGTH5), body(b"123", True), body()],
        CUT,
        "less body than Content-Length declared",
    ),
    "CR LF in a value": ([start(200, (b"x", b"a\r\nset-cookie: b")), BODY], FIVE, "response field value"),
    "LF in a name": ([start(200, (b"x\ny", b"a")), BODY], FIVE, "response field name"),
    "empty name": ([start(200, (b"", b"a")), BODY], FIVE, "response field name"),
    "NUL": ([start(200, (b"x", b"\0")), BODY], FIVE, "response field value"),
    "CR LF, streamed": ([start(200, (b"x", b"a\r\nb")), body(b"x", True)], FIVE, "response field value"),
    "foreign transfer coding": ([start(200, (b"transfer-encoding", b"gzip")), BODY], FIVE, "framing field"),
    "malformed length": ([start(200, (b"content-length", b"-5")), BODY], FIVE, "framing field"),
    "two lengths": ([start(200, LENGTH5, (b"content-length", b"6")), BODY], FIVE, "Content-Length"),
    "headers of str": ([{**START, "headers": [("a", "b")]}, BODY], FIVE, "a header is a pair of bytes"),
    "headers of three": ([{**START, "headers": [(b"a", b"b", b"c")]}, BODY], FIVE, "a header is a pair of bytes"),
    "headers a dict": ([{**START, "headers": {"a": "b"}}, BODY], FIVE, "'headers' are pairs of bytes, not dict"),
    "headers a number": ([{**START, "headers": 5}, BODY], FIVE, "'headers' are pairs of bytes, not int"),
    "status a str": ([{**START, "status": "200"}, BODY], FIVE, "'status' of 'http.response.start'"),
    "status missing": ([{"type": "http.response.start"}, BODY], FIVE, "'status' of 'http.response.start'"),
    "status 101": ([start(101), BODY], FIVE, "'status' of 'http.response.start'"),
    "status 1000": ([start(1000), BODY], FIVE, "'status' of 'http.response.start'"),
    "body a str": ([START, body("hello")], FIVE, "'body' of 'http.response.body' is bytes, not str"),
    "body None": ([START, body(None)], FIVE, "'body' of 'http.response.body' is bytes, not NoneType"),
    "unknown type": ([{"type": "http.response.foo"}], FIVE, "no ASGI message 'http.response.foo'"),
    "no type": ([{}], FIVE, "no ASGI message None"),
    "websocket message": ([{"type": "websocket.accept"}], FIVE, "no ASGI message 'websocket.accept'"),
    "no dict": (["hello"], FIVE, "an ASGI message is a dict, not str"),
    "None": ([None], FIVE, "an ASGI message is a dict, not NoneType"),
    "trailers unannounced": (
        [START, body(b"x", True), {"type": "http.response.trailers", "headers": []}],
        CUT,
        "'http.response.trailers' was sent",
    ),
    "trailers missing": ([start(trailers=True), body(b"x")], CUT, "returned before its response was complete"),
    "hint after the head": (
        [START, body(b"x", True), {"type": "http.response.early_hint", "links": [b"<a>"]}],
        CUT,
        "after the head of the response",
    ),
    "hint that splits": (
        [{"type": "http.response.early_hint", "links": [b"<a>\r\nset-cookie: forged=1"]}],
        FIVE,
        "control character in a response field value",
    ),
    "hint of str": ([{"type": "http.response.early_hint", "links": ["<a>"]}], FIVE, "'links'"),
    "length of no bytes": ([start(200, (b"content-length", memoryview(b"9"))), BODY], FIVE, "less body than"),
}


@pytest.mark.parametrize("wait", [False, True], ids=["at once", "after a wait"])
@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes(raw, errors, name: str, wait: bool) -> None:
    """500 or a cut connection, one entry in the log, and never a byte behind it that is not of the next response."""
    messages, outcome, complaint = MISTAKES[name]

    @http_only
    async def app(scope, receive, send):
        if wait:
            await asyncio.sleep(0)
        for message in [start(200), body(b"fine")] if scope["path"] == "/fine" else messages:
            await send(message)

    with serving(app) as url:
        conn = raw(url).send(GET + b"GET /fine HTTP/1.1\r\nHost: a\r\n\r\n")
        if outcome in (CUT, "exact"):
            answer = conn.rest()
            assert answer.count(b"HTTP/1.1 ") == 1 and answer.startswith(b"HTTP/1.1 200 OK\r\n")
            if outcome == "exact":
                assert answer.endswith(b"\r\n\r\n12345")
            else:
                assert not answer.endswith(b"0\r\n\r\n")
        else:
            status, _, _ = conn.response()
            assert status == (500 if outcome == FIVE else 200)
            assert conn.response()[2] == b"fine"
        poll(lambda: errors)
    assert len(errors) == 1, [record.getMessage() for record in errors]
    record = errors[0]
    text = record.getMessage() + (str(record.exc_info[1]) if record.exc_info else "")
    assert complaint in text and record.getMessage().startswith("GET /: ")


class Unusual(BaseException):
    """As those of gevent, trio and pytest."""


@pytest.mark.parametrize("wait", [False, True], ids=["at once", "after a wait"])
@pytest.mark.parametrize(
    ("before", "outcome"),
    [([], FIVE), ([START], FIVE), ([START, body(b"x", True)], CUT), ([START, BODY], OK)],
    ids=["before start", "before body", "after start", "after the response"],
)
@pytest.mark.parametrize(
    "error",
    [ZeroDivisionError, asyncio.CancelledError, OSError, StopAsyncIteration, SystemExit, GeneratorExit, Unusual],
)
def test_exceptions(raw, errors, before: list[Any], outcome: str, wait: bool, error: type[BaseException]) -> None:
    @http_only
    async def app(scope, receive, send):
        if wait:
            await asyncio.sleep(0)
        for message in before:
            await send(message)
        if scope["path"] == "/":
            raise error("oops")
        if not before:
            await send(START)
        if before != [START, BODY]:
            await send(BODY)

    with serving(app) as url:
        conn = raw(url).send(GET)
        if outcome == CUT:
            assert not conn.rest().endswith(b"0\r\n\r\n")
        else:
            status, _, data = conn.response()
            assert status == ({FIVE: 503 if error is asyncio.CancelledError else 500}.get(outcome, 200))
            assert b"oops" not in data
            assert conn.send(b"GET /fine HTTP/1.1\r\nHost: a\r\n\r\n").response()[0] == 200
        if error is not asyncio.CancelledError or outcome != OK:
            poll(lambda: errors)
    if error is asyncio.CancelledError:
        assert len(errors) == (outcome != OK)
    else:
        assert len(errors) == 1
        assert errors[0].exc_info is not None and errors[0].exc_info[0] is error
        assert "exception in the ASGI application" in errors[0].getMessage()


@pytest.mark.parametrize(
    "app",
    [lambda scope, receive, send: None, lambda scope, receive, send: 1 / 0, lambda scope, receive, send: "text"],
    ids=["None", "raises", "text"],
)
def test_a_call_that_makes_no_awaitable(raw, errors, app) -> None:
    with serving(app, lifespan="off", interface="asgi3") as url:
        conn = raw(url)
        assert [conn.send(GET).response()[0] for _ in range(2)] == [500, 500]
    assert len(errors) == 2


def test_a_swallowed_mistake_ends_in_500(raw, errors) -> None:
    @http_only
    async def app(scope, receive, send):
        with contextlib.suppress(Exception):
            await send(BODY)

    with serving(app) as url:
        assert raw(url).send(GET).response()[0] == 500
    assert [record.getMessage() for record in errors] == [
        "GET /: the ASGI application returned without sending a response"
    ]


def test_the_log_line_cannot_be_forged(raw, errors) -> None:
    with serving(sending()) as url:
        raw(url).send(b"GET /%0aforged HTTP/1.1\r\nHost: a\r\n\r\n").response()
    assert "\n" not in errors[0].getMessage()


# -------------------------------------------------------------------------------------------------------- departures


def gone_app(results: list[Any]) -> Any:
    @http_only
    async def app(scope, receive, send):
        message = await receive()
        while message["type"] == "http.request":
            message = await receive()
        results.append(message)
        try:
            await send(START)
            await send(BODY)
        except OSError as error:
            results.append(error)
        results.append(await receive())
        results.append(asyncio.current_task().cancelling())

    return app


@pytest.mark.parametrize("request_", [GET, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhalf"])
@pytest.mark.parametrize("how", ["close", "reset", "fin"])
def test_a_peer_that_leaves(raw, errors, request_: bytes, how: str) -> None:
    results: list[Any] = []
    with serving(gone_app(results)) as url:
        conn = raw(url).send(request_)
        time.sleep(0.05)
        if how == "fin":
            conn.socket.shutdown(socket.SHUT_WR)
        else:
            if how == "reset":
                conn.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            conn.socket.close()
        poll(lambda: len(results) == 4)
    assert results[0] == results[2] == {"type": "http.disconnect"}
    assert isinstance(results[1], ClientDisconnected) and isinstance(results[1], OSError)
    assert results[3] == 0, "an application is not cancelled when its peer leaves"
    assert not errors


def test_who_does_not_listen_to_the_disconnect_lets_others_in() -> None:
    """A loop of receive() that ends for nothing holds its own request, and no other."""
    spins = []
    go = threading.Event()

    @http_only
    async def app(scope, receive, send):
        await send(START)
        await send(BODY)
        while scope["path"] == "/spin" and not go.is_set():
            await receive()
            spins.append(1)
            assert len(spins) < 50_000_000

    with serving(app) as url:
        assert httpx.get(url + "/spin").text == "hello"
        poll(lambda: len(spins) > 1000)
        try:
            for _ in range(3):
                assert httpx.get(url, timeout=5).text == "hello"
        finally:
            go.set()


def test_a_scope_that_was_emptied_harms_nobody(raw, errors) -> None:
    @http_only
    async def app(scope, receive, send):
        if scope["path"] == "/":
            scope.clear()
        else:
            scope["extensions"] = None
        await send({"type": "http.response.early_hint", "links": [b"<a>"]})
        await send(start(trailers=True))
        await send(BODY)
        await send({"type": "http.response.trailers", "headers": [(b"a", b"b")]})

    with serving(app) as url:
        for path in ("/", "/none"):
            for version in (b"1.1", b"1.0"):
                conn = raw(url).send(b"GET %s HTTP/%s\r\nHost: a\r\nTE: trailers\r\n\r\n" % (path.encode(), version))
                answer = conn.until(b"hello")
                assert answer.startswith(b"HTTP/1.1 103 ") == (version == b"1.1") and b" 200 OK" in answer
    assert not errors


def test_connection_close_in_a_list_is_obeyed(raw) -> None:
    for value in (b"close", b"keep-alive, Close", b"x,close ,y"):
        with serving(sending(start(200, (b"connection", value)), body(b"hello"))) as url:
            answer = raw(url).send(GET).rest()
            assert answer.count(b"connection:") == 1 and b"\r\nconnection: close\r\n" in answer
    with serving(sending(start(200, (b"connection", b"x, closed")), body(b"hello"))) as url:
        conn = raw(url).send(GET + LAST)
        assert conn.response()[2] == b"hello" == conn.response()[2]


@pytest.mark.parametrize("pause", [None, 0, 0.001])
@pytest.mark.parametrize("size", [1, 65536])
def test_an_abandoned_endless_stream_stops(raw, errors, size: int, pause: float | None) -> None:
    stopped = threading.Event()

    @http_only
    async def app(scope, receive, send):
        await send(START)
        try:
            while True:
                await send(body(b"x" * size, True))
                if pause is not None:
                    await asyncio.sleep(pause)
        finally:
            stopped.set()

    with serving(app) as url:
        conn = raw(url).send(GET)
        conn.exactly(100)
        conn.socket.close()
        left = time.monotonic()
        assert stopped.wait(5)
        assert time.monotonic() - left < 2  # a second, on a busy machine
    assert not errors, "a client that leaves is no fault of the application"


def test_a_stream_of_head_lets_others_in(raw) -> None:
    """HEAD drops every piece, so nothing ever waits for the peer."""
    stopped = threading.Event()

    @http_only
    async def app(scope, receive, send):
        await send(START)
        try:
            while scope["method"] == "HEAD":
                await send(body(b"x", True))
        finally:
            stopped.set()
        await send(BODY)

    with serving(app) as url:
        first = raw(url).send(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert first.response(head_only=True)[0] == 200
        assert raw(url).send(GET).response()[2] == b"hello"
        first.socket.close()
        assert stopped.wait(5)


def test_send_waits_for_a_slow_peer(raw) -> None:
    sent = 0
    total = 64 << 20

    @http_only
    async def app(scope, receive, send):
        nonlocal sent
        await send(START)
        while sent < total:
            await send(body(bytes(65536), True))
            sent += 65536
        await send(body())

    with serving(app) as url:
        conn = raw(url, 20).send(LAST)
        conn.exactly(100)
        time.sleep(0.3)
        held = sent
        time.sleep(0.2)
        assert held == sent < total // 2, "it did not wait"
        assert conn.rest().endswith(b"0\r\n\r\n") and sent == total


def test_wrapped_departures_are_no_faults(raw, errors) -> None:
    done = threading.Event()

    @http_only
    async def app(scope, receive, send):
        try:
            async with anyio.create_task_group():
                while (await receive())["type"] != "http.disconnect":
                    pass
                try:
                    await send(START)
                except OSError as error:
                    raise RuntimeError("a framework's own") from error
        finally:
            done.set()

    with serving(app) as url:
        raw(url).send(GET).socket.close()
        assert done.wait(10)
    assert not errors


def test_another_fault_after_the_departure_is_logged(raw, errors) -> None:
    @http_only
    async def app(scope, receive, send):
        while (await receive())["type"] != "http.disconnect":
            pass
        raise FileNotFoundError("a matter of its own")

    with serving(app) as url:
        raw(url).send(GET).socket.close()
        poll(lambda: errors)
    assert len(errors) == 1 and "after the client had left" in errors[0].getMessage()


def test_a_body_that_breaks_a_rule(raw, errors) -> None:
    results: list[Any] = []
    with serving(gone_app(results)) as url:
        conn = raw(url).send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n")
        time.sleep(0.05)
        assert conn.send(b"zz\r\n").response()[0] == 400
        poll(lambda: len(results) == 4)
    assert results[0] == {"type": "http.disconnect"} and isinstance(results[1], OSError)
    assert not errors


# -------------------------------------------------------------------------------------------------------- extensions


def test_trailers(raw, errors) -> None:
    messages = [
        start(200, (b"trailer", b"x-sum"), trailers=True),
        body(b"hello", True),
        body(),
        {"type": "http.response.trailers", "headers": [(b"x-sum", b"1")], "more_trailers": True},
        {"type": "http.response.trailers", "headers": [[b"X-Two", b"2"]]},
    ]
    with serving(sending(*messages)) as url:
        conn = raw(url).send(b"GET / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\n\r\n")
        assert b"transfer-encoding: chunked" in conn.until(b"\r\n\r\n")
        assert conn.until(b"2\r\n\r\n") == b"5\r\nhello\r\n0\r\nx-sum: 1\r\nX-Two: 2\r\n\r\n"
        assert conn.send(GET).response()[2] == b"hello"  # who did not ask for them gets none
        assert b"x-sum: 1" not in raw(url).send(b"GET / HTTP/1.0\r\nTE: trailers\r\n\r\n").rest()
    assert not errors


@pytest.mark.parametrize(
    "pair",
    [
        (b"content-length", b"5"),
        (b"set-cookie", b"a"),
        (b"location", b"/"),
        (b"x", b"a\r\nb"),
        (b"", b""),
        (b"a b", b"c"),
    ],
)
def test_what_cannot_be_a_trailer(raw, errors, pair) -> None:
    messages = [start(200, trailers=True), body(b"hello"), {"type": "http.response.trailers", "headers": [pair]}]
    with serving(sending(*messages)) as url:
        answer = raw(url).send(b"GET / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\n\r\n").rest()
        assert answer.endswith(b"5\r\nhello\r\n")
        poll(lambda: errors)
    assert len(errors) == 1


def test_early_hints(raw, errors) -> None:
    hint = {"type": "http.response.early_hint", "links": [b"</a.css>; rel=preload", b"</b.js>; rel=preload"]}
    with serving(sending(hint, START, hint, BODY)) as url:
        conn = raw(url).send(GET)
        one = b"HTTP/1.1 103 Early Hints\r\nlink: </a.css>; rel=preload\r\nlink: </b.js>; rel=preload\r\n\r\n"
        assert conn.exactly(len(one) * 2) == one * 2
        assert conn.response()[2] == b"hello"
        assert raw(url).send(b"GET / HTTP/1.0\r\n\r\n").rest().startswith(b"HTTP/1.1 200 OK\r\n")
    assert not errors


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(bytes(range(256)) * 4096)
    return path


@pytest.mark.parametrize("headers", [(), ((b"content-length", b"1048576"),)])
def test_pathsend(raw, errors, file: Path, headers) -> None:
    with serving(sending(start(200, *headers), {"type": "http.response.pathsend", "path": str(file)})) as url:
        conn = raw(url)
        for _ in range(2):
            status, fields, data = conn.send(GET).response()
            assert (status, fields["content-length"], data) == (200, "1048576", file.read_bytes())
        fields = conn.send(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n").response(True)[1]
        assert fields["content-length"] == "1048576"
        assert conn.send(GET).response()[0] == 200
    assert not errors


@pytest.mark.parametrize(
    ("path", "error"), [("missing", FileNotFoundError), (".", OSError), (5, Exception)], ids=["missing", "folder", "5"]
)
def test_pathsend_of_what_is_no_file(raw, errors, tmp_path: Path, path: Any, error: type[Exception]) -> None:
    @http_only
    async def app(scope, receive, send):
        await send(START)
        where = str(tmp_path / path) if isinstance(path, str) else path
        if scope["path"] == "/caught":
            try:
                await send({"type": "http.response.pathsend", "path": where})
            except error:
                await send(body(b"gone"))
            return
        await send({"type": "http.response.pathsend", "path": where})

    with serving(app) as url:
        conn = raw(url)
        assert conn.send(GET).response()[0] == 500
        assert len(errors) == 1
        assert conn.send(b"GET /caught HTTP/1.1\r\nHost: a\r\n\r\n").response()[2] == b"gone"
    assert len(errors) == 1


def test_zerocopysend(raw, errors, file: Path) -> None:
    data = file.read_bytes()

    @http_only
    async def app(scope, receive, send):
        kind = "http.response.zerocopysend"
        with file.open("rb") as opened:
            await send(start())
            if scope["path"] == "/whole":
                await send({"type": kind, "file": opened})
                return
            await send({"type": kind, "file": opened, "offset": 10, "count": 300000, "more_body": True})
            opened.seek(5)
            await send({"type": kind, "file": opened, "count": 7, "more_body": True})
            await send({"type": kind, "file": opened, "count": 3, "more_body": True})
            await send(body(b"between", True))
            await send({"type": kind, "file": opened, "offset": len(data) - 4, "count": 100})

    with serving(app) as url:
        conn = raw(url)
        expected = data[10:300010] + data[5:12] + data[12:15] + b"between" + data[-4:]
        assert conn.send(GET).response()[2] == expected
        _, fields, got = conn.send(b"GET /whole HTTP/1.1\r\nHost: a\r\n\r\n").response()
        assert got == data and fields["content-length"] == str(len(data))
    assert not errors


@pytest.mark.parametrize("wire", ["own", "transport"])
@pytest.mark.parametrize("kind", ["pathsend", "zerocopysend"])
def test_files_that_change_while_they_are_sent(
    raw, caplog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, wire: str
) -> None:
    """One that is removed is sent whole; one that becomes shorter is seen to be cut. The loop is free meanwhile."""
    monkeypatch.setenv("FASTSERVE_WIRE", wire)
    size = 24 << 20
    begun = threading.Event()

    @http_only
    async def app(scope, receive, send):
        if scope["path"] == "/":
            await send(START)
            await send(BODY)
            return
        path = tmp_path / scope["path"][1:]
        await send(start(200))
        begun.set()
        if kind == "pathsend":
            await send({"type": "http.response.pathsend", "path": str(path)})
        else:
            with path.open("rb") as opened:
                await send({"type": "http.response.zerocopysend", "file": opened, "offset": 0, "count": size})

    with serving(app) as url:
        for name, change in (("gone", Path.unlink), ("shorter", lambda path: os.truncate(path, 100_000))):
            path = tmp_path / name
            path.write_bytes(b"x" * size)
            conn = raw(url, 20)
            begun.clear()
            conn.send(f"GET /{name} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
            head = conn.until(b"\r\n\r\n")
            assert b"content-length: %d\r\n" % size in head
            assert raw(url).send(GET).response()[2] == b"hello"
            change(path)
            try:
                assert (len(conn.rest()) == size) == (name == "gone")
            except ConnectionResetError:
                assert name == "shorter"
    assert ("shorter while it was sent" in caplog.text) or ("less body than" in caplog.text)


def test_a_file_that_cannot_be_read_is_told_of(raw, tmp_path, caplog) -> None:
    """As with a disk that fails: cut, and one entry in the log."""
    path = tmp_path / "write-only"

    @http_only
    async def app(scope, receive, send):
        with path.open("wb") as opened:
            opened.write(b"x" * 1000)
            opened.flush()
            await send(start(200))
            await send({"type": "http.response.zerocopysend", "file": opened, "offset": 0})

    with serving(app) as url:
        answer = raw(url).send(GET).rest()
        assert b"content-length: 1000\r\n" in answer and answer.endswith(b"\r\n\r\n")
        poll(lambda: caplog.records)
    (record,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert "Bad file descriptor" in record.getMessage()


# ----------------------------------------------------------------------------------------------------- asyncio inside

ME: contextvars.ContextVar[str] = contextvars.ContextVar("ME", default="nobody")


def inside(check: Any) -> Any:
    """An application that answers with what `check(scope)` returns, asked before and after a wait."""

    @http_only
    async def app(scope, receive, send):
        if scope["path"] == "/wait":
            await asyncio.sleep(0)
        result = check(scope)
        if asyncio.iscoroutine(result):
            result = await result
        await send(START)
        await send(body(str(result).encode()))

    return app


async def cancels_itself(scope: Any) -> str:
    try:
        async with asyncio.timeout(0.01):
            await asyncio.sleep(10)
    except TimeoutError:
        return f"timeout {asyncio.current_task().cancelling()}"
    return "no timeout"


async def task_group(scope: Any) -> str:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(asyncio.sleep(0, n)) for n in range(3)]
    return str(sum(task.result() for task in tasks))


async def anyio_scope(scope: Any) -> str:
    with anyio.move_on_after(0.01) as cancel:
        await anyio.sleep(10)
    async with anyio.create_task_group() as group:
        group.start_soon(anyio.sleep, 0)
    return f"{cancel.cancelled_caught} {await anyio.to_thread.run_sync(lambda: 5)}"


def callbacks(scope: Any) -> str:
    task = asyncio.current_task()
    task.set_name("mine")
    task.add_done_callback(lambda done: None)
    return task.get_name()


def context(scope: Any) -> str:
    before = ME.get()
    ME.set("somebody")
    return before


INSIDE = {
    "current_task": (lambda scope: isinstance(asyncio.current_task(), asyncio.Task), "True"),
    "name": (callbacks, "mine"),
    "all_tasks": (lambda scope: asyncio.current_task() in asyncio.all_tasks(), "True"),
    "timeout": (cancels_itself, "timeout 0"),
    "TaskGroup": (task_group, "3"),
    "anyio": (anyio_scope, "True 5"),
    "sniffio": (lambda scope: sniffio.current_async_library(), "asyncio"),
    "one context each": (context, "nobody"),
}


@pytest.mark.parametrize("name", INSIDE)
def test_asyncio_is_as_in_a_task(name: str) -> None:
    check, expected = INSIDE[name]
    with serving(inside(check)) as url, httpx.Client(base_url=url) as client:
        for path in ("/", "/wait", "/", "/wait"):
            assert client.get(path).text == expected


def test_thread_sensitive_context(raw) -> None:
    """What Django needs: code of one request that is not async runs in one thread."""
    from asgiref.sync import ThreadSensitiveContext, sync_to_async

    async def check(scope: Any) -> str:
        async with ThreadSensitiveContext():
            threads = {await sync_to_async(threading.get_ident)() for _ in range(3)}
        return f"{len(threads)} {threading.get_ident() in threads}"

    with serving(inside(check)) as url:
        assert httpx.get(url).text == "1 False"


def test_background_work_goes_on_after_the_answer_and_while_the_server_stops(raw) -> None:
    done: list[str] = []

    @http_only
    async def app(scope, receive, send):
        await send(START)
        await send(BODY)
        await asyncio.sleep(0.3)
        done.append(scope["path"])

    with serving(app) as url:
        conn = raw(url)
        assert [conn.send(GET).response()[2] for _ in range(3)] == [b"hello"] * 3
        assert not done
    assert done == ["/"] * 3


def test_work_that_does_not_end_is_cancelled_when_the_server_stops(raw) -> None:
    ended: list[str] = []

    @http_only
    async def app(scope, receive, send):
        await send(START)
        await send(BODY)
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    begun = time.monotonic()
    with serving(app, timeout_graceful_shutdown=0.5) as url:
        assert raw(url).send(GET).response()[2] == b"hello"
    assert ended == ["cancelled"] and time.monotonic() - begun < 10


# ---------------------------------------------------------------------------------------------------------- lifespan


def with_lifespan(*, startup: Any = None, shutdown: Any = None) -> tuple[Any, list[str]]:
    events: list[str] = []

    async def app(scope, receive, send):
        if scope["type"] == "http":
            scope["state"]["count"] = scope["state"].get("count", 0) + 1
            scope["state"]["shared"].append(1)
            await send(START)
            await send(body(f"{scope['state']['count']} {len(scope['state']['shared'])}".encode()))
            return
        assert scope["type"] == "lifespan" and scope["asgi"]["version"] == "3.0"
        for what, message in (("startup", startup), ("shutdown", shutdown)):
            assert await receive() == {"type": f"lifespan.{what}"}
            events.append(what)
            scope["state"]["shared"] = []
            await send(message or {"type": f"lifespan.{what}.complete"})

    return app, events


def test_lifespan_and_state() -> None:
    app, events = with_lifespan()
    with serving(app, lifespan="on") as url, httpx.Client(base_url=url) as client:
        # the mapping is copied for every request, what is in it is not
        assert [client.get("/").text for _ in range(3)] == ["1 1", "1 2", "1 3"]
        assert events == ["startup"]
    assert events == ["startup", "shutdown"]


@pytest.mark.parametrize("app", [echo, sending(START, BODY)])
@pytest.mark.parametrize("mode", ["auto", "off"])
def test_without_lifespan_there_is_no_state(app, mode: str, errors) -> None:
    states: list[bool] = []

    @functools.wraps(app)
    async def watched(scope, receive, send):
        states.append("state" in scope)
        await app(scope, receive, send)

    with serving(watched, lifespan=mode) as url:
        assert httpx.get(url).status_code == 200
    assert states[-1] is False and len(states) == (2 if mode == "auto" else 1)
    assert not errors


def test_lifespan_on_is_demanded() -> None:
    with pytest.raises(AssertionError), serving(echo, lifespan="on"):
        raise RuntimeError("it started")

    async def silent(scope, receive, send):
        pass

    with pytest.raises(ConfigError, match="without an answer to startup"), serving(silent, lifespan="on"):
        raise RuntimeError("it started")


@pytest.mark.parametrize(
    "message", ["no database", "Traceback (most recent call last):\n  File x\nOSError: no database", ""]
)
@pytest.mark.parametrize("mode", ["auto", "on"])
def test_a_startup_that_fails(message: str, mode: str) -> None:
    app, events = with_lifespan(startup={"type": "lifespan.startup.failed", "message": message})
    with pytest.raises(ConfigError, match="failed to start") as info, serving(app, lifespan=mode):
        raise RuntimeError("it started")
    assert info.value.exit_code == 3 and "\n" not in str(info.value)
    assert str(info.value).endswith("no database") == bool(message)
    assert info.value.details == (message + "\n" if "\n" in message else "")
    assert events[0] == "startup"


def test_a_shutdown_that_fails() -> None:
    app, _ = with_lifespan(shutdown={"type": "lifespan.shutdown.failed", "message": "still busy"})
    with pytest.raises(ConfigError, match="failed to shut down: still busy"), serving(app) as url:
        assert httpx.get(url).status_code == 200


def test_a_lifespan_that_raises_at_startup_is_served_with_a_warning(errors) -> None:
    async def app(scope, receive, send):
        if scope["type"] == "lifespan":
            await receive()
            raise OSError("no database")
        await send(START)
        await send(BODY)

    with serving(app) as url:
        assert httpx.get(url).text == "hello"
    assert [record.levelname for record in errors] == ["WARNING"] and "no database" in errors[0].getMessage()


def test_lifespan_events_out_of_order() -> None:
    async def app(scope, receive, send):
        await receive()
        await send({"type": "lifespan.shutdown.complete"})

    with pytest.raises(Exception, match="out of order"), serving(app, lifespan="on"):
        raise RuntimeError("it started")


def test_the_lifespan_is_one_task() -> None:
    entered: list[Any] = []

    async def app(scope, receive, send):
        if scope["type"] == "lifespan":
            async with anyio.create_task_group() as group:
                group.start_soon(anyio.sleep_forever)
                entered.append(asyncio.current_task())
                await receive()
                await send({"type": "lifespan.startup.complete"})
                await receive()
                entered.append(asyncio.current_task())
                group.cancel_scope.cancel()
            await send({"type": "lifespan.shutdown.complete"})
            return
        await send(START)
        await send(BODY)

    with serving(app) as url:
        assert httpx.get(url).text == "hello"
    assert entered[0] is entered[1]


# --------------------------------------------------------------------------------------------------------- detection


async def asgi3(scope, receive, send):
    await sending(start(), body(b"asgi3"))(scope, receive, send)


def asgi3_plain(scope, receive, send):
    return asgi3(scope, receive, send)


def asgi2(scope):
    assert scope["type"] == "http"

    async def instance(receive, send):
        await send(start())
        await send(body(b"asgi2"))

    return instance


class Asgi2:
    def __init__(self, scope):
        assert scope["type"] == "http"

    async def __call__(self, receive, send):
        await send(start())
        await send(body(b"asgi2"))


class Asgi3:
    async def __call__(self, scope, receive, send):
        await asgi3(scope, receive, send)


class Awaitable3:
    """ASGI 3 by a class whose instances are awaited."""

    def __init__(self, scope, receive, send):
        self.call = asgi3(scope, receive, send)

    def __await__(self):
        return self.call.__await__()


async def configured(setting, scope, receive, send):
    await asgi3(scope, receive, send)


def configured2(setting, scope):
    return asgi2(scope)


SPOKEN = {
    "function": (asgi3, "asgi", "asgi3"),
    "plain function": (asgi3_plain, "asgi", "asgi3"),
    "instance": (Asgi3(), "asgi", "asgi3"),
    "method": (Asgi3().__call__, "asgi", "asgi3"),
    "partial": (functools.partial(configured, 5), "asgi", "asgi3"),
    "partial of a partial": (functools.partial(functools.partial(configured), 5), "asgi", "asgi3"),
    "partial of an instance": (functools.partial(Asgi3()), "asgi", "asgi3"),
    "awaitable class": (Awaitable3, "asgi", "asgi3"),
    "asgi 2 function": (asgi2, "asgi2", "asgi2"),
    "asgi 2 class": (Asgi2, "asgi2", "asgi2"),
    "asgi 2 partial": (functools.partial(configured2, 5), "asgi2", "asgi2"),
}


@pytest.mark.parametrize("name", SPOKEN)
def test_what_an_application_speaks(name: str) -> None:
    app, interface, answer = SPOKEN[name]
    assert detect(app) == interface
    for asked in ("auto", "asgi", interface, *(["asgi3"] if interface == "asgi" else [])):
        with serving(app, interface=asked) as url:
            assert httpx.get(url).text == answer
    with serving(lambda: app, factory=True) as url:
        assert httpx.get(url).text == answer


def test_a_word_that_does_not_fit() -> None:
    for interface in ("asgi", "asgi2", "asgi3"):
        with pytest.raises(ConfigError), serving(5, interface=interface):
            raise RuntimeError("it started")


# ------------------------------------------------------------------------------------------- an independent checker


class Checker:
    """ASGI middleware that holds server and application to the specification, in its own words."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self.requests = 0

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        self.requests += 1
        for key, kind in {
            "asgi": dict,
            "http_version": str,
            "method": str,
            "scheme": str,
            "path": str,
            "raw_path": bytes,
            "query_string": bytes,
            "root_path": str,
            "extensions": dict,
        }.items():
            assert type(scope[key]) is kind, key
        assert scope["http_version"] in ("1.0", "1.1") and scope["method"] == scope["method"].upper()
        for name, value in scope["headers"]:
            assert type(name) is bytes and type(value) is bytes and name == name.lower() and not name.startswith(b":")
        host, port = scope["client"]
        assert type(host) is str and type(port) is int and len(scope["server"]) == 2
        over = False

        async def checked_receive():
            nonlocal over
            message = await receive()
            if message["type"] == "http.request":
                assert not over and type(message["body"]) is bytes and type(message["more_body"]) is bool
                over = not message["more_body"]
            else:
                assert message == {"type": "http.disconnect"}
            return message

        async def checked_send(message):
            assert await send(message) is None

        return await self.app(scope, checked_receive, checked_send)


def test_a_checker_between_server_and_application_finds_nothing(errors) -> None:
    checked = Checker(echo)
    with serving(checked) as url, httpx.Client(base_url=url) as client:
        assert client.get("/a?b").status_code == 200
        assert client.post("/", content=b"x" * 100000).content == b"x" * 100000
        assert client.post("/", content=iter([b"a", b"b"])).content == b"ab"
        assert client.head("/").status_code == 200
    assert checked.requests == 4 and not errors


def test_the_same_application_answers_the_same_to_asgirefs_communicator(raw) -> None:
    """asgiref's in-memory server drives `echo`; over a socket the events amount to the same answer."""

    async def drive() -> list[Any]:
        scopes: list[Any] = []

        @http_only
        async def spy(scope, receive, send):
            scopes.append(scope)
            await echo(scope, receive, send)

        async with Server(spy, port=0, lifespan="off") as server, httpx.AsyncClient(base_url=server.url) as client:
            real = (await client.post("/", content=b"abc")).content
        communicator = ApplicationCommunicator(echo, scopes[0])
        await communicator.send_input({"type": "http.request", "body": b"abc", "more_body": False})
        assert await communicator.receive_output(5) == START
        return [real, (await communicator.receive_output(5))["body"]]

    assert asyncio.run(drive()) == [b"abc", b"abc"]


# ----------------------------------------------------------------------------------------- two that receive at once


@pytest.mark.parametrize("chained", [None, False, True], ids=["alone", "mounted", "behind middleware"])
def test_two_receive_at_once(raw, chained: bool | None) -> None:
    """As under uvicorn: a framework listens for the departure while its handler reads. Neither call fails, each piece of
    the body goes to one of them, and one that is cancelled takes nothing away."""
    got: list[bytes] = []
    kinds: list[str] = []
    all_listen = threading.Event()

    @http_only
    async def app(scope, receive, send):
        more = True

        async def read() -> None:
            nonlocal more
            while (message := await receive())["type"] == "http.request":
                got.append(message["body"])
                more = more and message["more_body"]
            kinds.append(message["type"])

        given_up = asyncio.create_task(receive())
        await asyncio.sleep(0)
        readers = [asyncio.create_task(read()) for _ in range(3)]
        await asyncio.sleep(0.01)
        given_up.cancel()
        await asyncio.sleep(0)
        all_listen.set()
        while more:
            await asyncio.sleep(0.005)
        await send(START)
        await send(BODY)
        await asyncio.gather(*readers)

    outer: Any = app
    if chained is not None:
        from fastserve import App

        outer = App()
        outer.mount("/", app)
        if chained:

            @outer.middleware
            async def around(request, call_next):
                return await call_next(request)

    with serving(outer) as url:
        conn = raw(url).send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\n")
        assert all_listen.wait(5)
        for piece in (b"ab", b"cd", b"ef"):
            time.sleep(0.03)
            conn.send(piece)
        assert conn.response()[0] == 200
        poll(lambda: len(kinds) == 3)
    assert b"".join(got) == b"abcdef" and set(kinds) == {"http.disconnect"}
