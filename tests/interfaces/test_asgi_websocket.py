"""WebSockets of ASGI applications over real sockets: scope, events in and out, refusals, faults, departures, the stop."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import websockets
from interfaces.clients import BINARY, CLOSE, TEXT, Peer, poll
from websockets.sync.client import connect

from fastserve import App
from fastserve.errors import ClientDisconnected
from fastserve.testing import live_server

CONNECT = {"type": "websocket.connect"}
ACCEPT = {"type": "websocket.accept"}
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


def wsapp(app: Any) -> Any:
    """`app` for WebSockets; a request of the same path gets "http"."""

    async def call(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"http"})
            return
        assert scope["type"] == "websocket"
        await app(scope, receive, send)

    return call


def sending(*messages: Any, wait: bool = False) -> Any:
    @wsapp
    async def app(scope, receive, send):
        assert await receive() == CONNECT
        if wait:
            await asyncio.sleep(0)
        for message in messages:
            await send(message)

    return app


@wsapp
async def echo(scope, receive, send):
    assert await receive() == CONNECT
    await send(ACCEPT)
    while (message := await receive())["type"] == "websocket.receive":
        assert len(message) == 2
        await send(message | {"type": "websocket.send"})


@contextlib.contextmanager
def serving(app: Any, **options: Any) -> Iterator[str]:
    with live_server(app, access_log=False, **{"lifespan": "off", **options}) as url:
        yield url


def ws(url: str) -> str:
    return url.replace("http", "ws", 1)


def body_of(one: Peer, fields: dict[str, str]) -> bytes:
    return one._exactly(int(fields["content-length"]))


def still_http(one: Peer) -> None:
    """The connection goes on as one of HTTP, and is in step."""
    one.socket.sendall(GET)
    head, one.buffer = one._until(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"content-length: 4\r\n" in head and one._exactly(4) == b"http"


# -------------------------------------------------------------------------------------------------------- the scope


def test_the_scope(errors) -> None:
    scopes: list[dict[str, Any]] = []

    @wsapp
    async def app(scope, receive, send):
        scopes.append(scope)
        headers = [(b"x-word", b"hi"), (b"set-cookie", b"a=1")]
        await send({"type": "websocket.accept", "subprotocol": "b", "headers": headers})
        assert [await receive(), (await receive())["text"]] == [CONNECT, "that is all"]

    offered: Any = ["a", "b"]
    with serving(app, root_path="/root") as url, connect(ws(url) + "/a%20b?x=1", subprotocols=offered) as client:
        assert client.subprotocol == "b" and client.response is not None
        assert client.response.headers["x-word"] == "hi" and client.response.headers["set-cookie"] == "a=1"
        local = client.local_address
        client.send("that is all")
        with pytest.raises(websockets.ConnectionClosedOK) as end:
            client.recv(timeout=10)
        assert end.value.rcvd is not None and end.value.rcvd.code == 1000
    (scope,) = scopes
    headers = dict(scope.pop("headers"))
    assert headers[b"upgrade"].lower() == b"websocket" and headers[b"sec-websocket-version"] == b"13"
    assert scope.pop("client") == local[:2]
    assert scope.pop("server")[0] == "127.0.0.1"
    assert scope == {
        "type": "websocket",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "scheme": "ws",
        "path": "/root/a b",
        "raw_path": b"/root/a%20b",
        "query_string": b"x=1",
        "root_path": "/root",
        "subprotocols": ["a", "b"],
        "extensions": {"websocket.http.response": {}},
    }
    assert not errors


def test_the_state_of_the_lifespan() -> None:
    async def app(scope, receive, send):
        if scope["type"] == "lifespan":
            while (message := await receive())["type"] != "lifespan.shutdown":
                scope["state"]["word"] = "ready"
                await send({"type": message["type"] + ".complete"})
            await send({"type": "lifespan.shutdown.complete"})
            return
        await send(ACCEPT)
        await send({"type": "websocket.send", "text": scope["state"]["word"]})

    with live_server(app, lifespan="on") as url, connect(ws(url)) as client:
        assert client.recv(timeout=10) == "ready"


# -------------------------------------------------------------------------------------------------------- messages


def test_echo(errors) -> None:
    messages: list[str | bytes] = ["", b"", "x", "häßlich €", bytes(range(256)), "y" * 100_000, bytes(200_000)]
    with serving(echo) as url, connect(ws(url)) as client:
        for message in messages:
            client.send(message)
        for message in messages:
            assert client.recv(timeout=10) == message
        client.close(1000)
    assert not errors


def test_messages_behind_the_handshake(peer) -> None:
    """They come in one read with the request, before anything was accepted."""
    with serving(echo) as url:
        one = peer(url).open(Peer.frame(TEXT, b"a") + Peer.frame(BINARY, b"b"))
        assert one.next() == (TEXT, b"a")
        assert one.next() == (BINARY, b"b")
        assert one.send(CLOSE, b"\x03\xe8").closing() == (1000, "")


def test_a_receive_that_is_given_up_loses_nothing(peer) -> None:
    @wsapp
    async def app(scope, receive, send):
        await receive()
        await send(ACCEPT)
        for _ in range(3):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(receive(), 0.01)
        left = receive()
        left.send(None)  # it waits,
        left.close()  # and does not any more
        await send({"type": "websocket.send", "text": "now"})
        for _ in range(2):
            message = await asyncio.create_task(receive())
            await send(message | {"type": "websocket.send"})

    with serving(app) as url:
        one = peer(url).open()
        assert one.next() == (TEXT, b"now")
        assert one.send(TEXT, b"1").next() == (TEXT, b"1")
        assert one.send(TEXT, b"2").next() == (TEXT, b"2")
        assert one.closing() == (1000, "")


def test_a_receive_may_wait_before_the_accept(peer) -> None:
    @wsapp
    async def app(scope, receive, send):
        assert await receive() == CONNECT
        early = asyncio.create_task(receive())
        await asyncio.sleep(0.01)
        await send(ACCEPT)
        await send({"type": "websocket.send", "bytes": bytearray((await early)["text"].encode())})

    with serving(app) as url:
        assert peer(url).open().send(TEXT, b"x").next() == (BINARY, b"x")


def test_a_client_that_does_not_read_stops_the_application(peer) -> None:
    sent = [0]

    @wsapp
    async def app(scope, receive, send):
        await send(ACCEPT)
        with contextlib.suppress(OSError):
            while True:
                await send({"type": "websocket.send", "bytes": bytes(65536)})
                sent[0] += 1

    with serving(app) as url:
        one = peer(url).open()
        before = -1
        while before != sent[0]:
            before = sent[0]
            time.sleep(0.3)
        assert 0 < before < 1000
        assert len(one.next()[1]) == 65536
        for _ in range(before):
            one.next()
        poll(lambda: sent[0] > before, 10)
        one.close()


def test_a_sender_that_never_waits_lets_others_run(peer) -> None:
    @wsapp
    async def app(scope, receive, send):
        await send(ACCEPT)
        with contextlib.suppress(OSError):
            while scope["path"] == "/busy":
                await send({"type": "websocket.send", "text": ""})

    with serving(app) as url:
        one = peer(url, "/busy").open()
        stop = threading.Event()

        def drain() -> None:
            with contextlib.suppress(OSError):
                while not stop.is_set() and one.socket.recv(65536):
                    pass

        reader = threading.Thread(target=drain)
        reader.start()
        try:
            assert httpx.get(url, timeout=10).text == "http"
        finally:
            stop.set()
            reader.join(10)
            one.close()


# ---------------------------------------------------------------------------------------------- closing and refusing


def test_the_application_closes(peer) -> None:
    ends: list[Any] = []

    @wsapp
    async def app(scope, receive, send):
        await send(ACCEPT)
        await send({"type": "websocket.close", "code": 4001, "reason": "go"})
        await receive()
        ends.append(await receive())

    with serving(app) as url:
        assert peer(url).open().closing() == (4001, "go")
        poll(lambda: ends)
    assert ends == [{"type": "websocket.disconnect", "code": 4001, "reason": "go"}]


def test_a_close_before_the_accept_is_403(peer, errors) -> None:
    with serving(sending({"type": "websocket.close", "code": 4001, "reason": "no"})) as url:
        one = peer(url)
        status, fields = one.handshake()
        assert status == 403 and body_of(one, fields) == b"Forbidden"
        still_http(one)
    assert not errors


@pytest.mark.parametrize("wait", [False, True], ids=["at once", "after a wait"])
@pytest.mark.parametrize("pieces", [1, 3])
def test_a_refusal_with_a_response(peer, errors, pieces: int, wait: bool) -> None:
    start = {"type": "websocket.http.response.start", "status": 401, "headers": [(b"x-word", b"hi")]}
    bodies = [
        {"type": "websocket.http.response.body", "body": b"ab", "more_body": n + 1 < pieces} for n in range(pieces)
    ]
    with serving(sending(start, *bodies, wait=wait)) as url:
        one = peer(url)
        status, fields = one.handshake()
        assert status == 401 and fields["x-word"] == "hi"
        if pieces == 1:
            assert body_of(one, fields) == b"ab"
        else:
            assert fields["transfer-encoding"] == "chunked"
            data, one.buffer = one._until(b"0\r\n\r\n")
            assert data.count(b"2\r\nab\r\n") == pieces
        still_http(one)
    assert not errors


@pytest.mark.parametrize("field", [{"Sec_WebSocket_Version": "12"}, {"Sec_WebSocket_Key": "short"}])
def test_a_bad_handshake_is_not_for_the_application(peer, errors, field: dict[str, str]) -> None:
    @wsapp
    async def app(scope, receive, send):
        raise AssertionError("it was called")

    with serving(app) as url:
        one = peer(url, **field)
        status, fields = one.handshake()
        assert status == (426 if "Sec_WebSocket_Version" in field else 400)
        body_of(one, fields)
        still_http(one)
    assert not errors


# ---------------------------------------------------------------------------------------------------------- mistakes

SAY = {"type": "websocket.send", "text": "x"}
DENY = {"type": "websocket.http.response.start", "status": 404, "headers": []}
END = {"type": "websocket.http.response.body", "body": b"end"}
CLOSING = {"type": "websocket.close"}
FIVE, BROKEN, CUT, REFUSED, CLOSED = 500, 1011, "cut", 403, 1000

MISTAKES: dict[str, tuple[list[Any], Any, str]] = {
    "nothing": ([], FIVE, "returned without accepting or refusing"),
    "send first": ([SAY], FIVE, "'websocket.send' was sent before 'websocket.accept'"),
    "accept twice": ([ACCEPT, ACCEPT], BROKEN, "'websocket.accept' was sent a second time"),
    "no dict": (["hello"], FIVE, "an ASGI message is a dict, not str"),
    "http message": ([{"type": "http.response.start", "status": 200}], FIVE, "no ASGI message 'http.response.start'"),
    "http message behind": ([ACCEPT, {"type": "http.response.body"}], BROKEN, "no ASGI message 'http.response.body'"),
    "not offered": ([ACCEPT | {"subprotocol": "z"}], FIVE, "subprotocol 'z' was not offered"),
    "subprotocol of bytes": ([ACCEPT | {"subprotocol": b"z"}], FIVE, "'subprotocol'"),
    "header of str": ([ACCEPT | {"headers": [("a", "b")]}], FIVE, "a header is a pair of bytes"),
    "headers of dict": ([ACCEPT | {"headers": {b"a": b"b"}}], FIVE, "'headers' are pairs of bytes, not dict"),
    "header with CR LF": ([ACCEPT | {"headers": [(b"a", b"b\r\nc: d")]}], FIVE, "header"),
    "header with a space": ([ACCEPT | {"headers": [(b"a b", b"c")]}], FIVE, "is not a token"),
    "header of ours": ([ACCEPT | {"headers": [(b"Upgrade", b"x")]}], FIVE, "is the server's"),
    "both": ([ACCEPT, SAY | {"bytes": b"x"}], BROKEN, "not both"),
    "neither": ([ACCEPT, {"type": "websocket.send", "text": None}], BROKEN, "not neither"),
    "text of bytes": ([ACCEPT, {"type": "websocket.send", "text": b"x"}], BROKEN, "'text' of 'websocket.send'"),
    "bytes of str": ([ACCEPT, {"type": "websocket.send", "bytes": "x"}], BROKEN, "'bytes' of 'websocket.send'"),
    "half a character": ([ACCEPT, {"type": "websocket.send", "text": "\ud800"}], BROKEN, "surrogates not allowed"),
    "code of str": ([ACCEPT, CLOSING | {"code": "1000"}], BROKEN, "'code' of 'websocket.close'"),
    "code that is none": ([ACCEPT, CLOSING | {"code": 1006}], BROKEN, "close code 1006 must not be sent"),
    "long reason": ([ACCEPT, CLOSING | {"reason": "x" * 124}], BROKEN, "at most 123 bytes"),
    "reason of bytes": ([ACCEPT, CLOSING | {"reason": b"x"}], BROKEN, "'reason' of 'websocket.close'"),
    "send after close": ([ACCEPT, CLOSING, SAY], CLOSED, "'websocket.send' was sent after the WebSocket was closed"),
    "close twice": ([ACCEPT, CLOSING, CLOSING], CLOSED, "'websocket.close' was sent after"),
    "accept after close": ([CLOSING, ACCEPT], REFUSED, "'websocket.accept' was sent after"),
    "refusal after accept": ([ACCEPT, DENY], BROKEN, "sent after 'websocket.accept'"),
    "refusal twice": ([DENY, DENY], FIVE, "'websocket.http.response.start' was sent a second time"),
    "body first": ([END], FIVE, "was sent before 'websocket.http.response.start'"),
    "accept after refusal": ([DENY, ACCEPT], FIVE, "sent after 'websocket.http.response.start'"),
    "close after refusal": ([DENY, CLOSING], FIVE, "sent after 'websocket.http.response.start'"),
    "status of str": ([DENY | {"status": "404"}], FIVE, "'status' of 'websocket.http.response.start'"),
    "refusal with CR LF": ([DENY | {"headers": [(b"a", b"b\r\nc: d")]}, END], FIVE, ""),
    "refusal without body": ([DENY], FIVE, "returned before its response was complete"),
    "refusal cut short": ([DENY, END | {"more_body": True}], CUT, "returned before its response was complete"),
    "body after refusal": ([DENY, END, END], 404, "after the WebSocket was closed or refused"),
}


@pytest.mark.parametrize("wait", [False, True], ids=["at once", "after a wait"])
@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes(peer, errors, name: str, wait: bool) -> None:
    """One answer, one entry in the log, and never a byte behind it that is not of the next response."""
    messages, outcome, complaint = MISTAKES[name]
    with serving(sending(*messages, wait=wait)) as url:
        one = peer(url)
        status, fields = one.handshake()
        if outcome in (BROKEN, CLOSED):
            assert status == 101 and one.closing() == (outcome, "")
        elif outcome == CUT:
            assert status == 404
            while data := one.socket.recv(65536):
                one.buffer += data
            assert not one.buffer.endswith(b"0\r\n\r\n")
        else:
            assert status == outcome
            body_of(one, fields)
            still_http(one)
        poll(lambda: errors)
    assert len(errors) == 1, [record.getMessage() for record in errors]
    text = errors[0].getMessage() + (str(errors[0].exc_info[1]) if errors[0].exc_info else "")
    assert complaint in text and text.startswith("WebSocket /: ")


class Unusual(BaseException):
    """As those of gevent, trio and pytest."""


@pytest.mark.parametrize("error", [ZeroDivisionError, asyncio.CancelledError, OSError, SystemExit, Unusual])
@pytest.mark.parametrize("before", [[], [ACCEPT], [ACCEPT, CLOSING]], ids=["before", "accepted", "closed"])
def test_exceptions(peer, errors, before: list[Any], error: type[BaseException]) -> None:
    @wsapp
    async def app(scope, receive, send):
        for message in before:
            await send(message)
        raise error("oops")

    with serving(app) as url:
        one = peer(url)
        status, fields = one.handshake()
        if not before:
            assert status == (503 if error is asyncio.CancelledError else 500)
            assert b"oops" not in body_of(one, fields)
            still_http(one)
        else:
            assert status == 101 and one.closing() == (1011 if before == [ACCEPT] else 1000, "")
        if error is not asyncio.CancelledError or before != [ACCEPT, CLOSING]:
            poll(lambda: errors)
            assert len(errors) == 1
    if error is asyncio.CancelledError and before == [ACCEPT, CLOSING]:
        assert not errors


# -------------------------------------------------------------------------------------------- departures and the stop


@pytest.mark.parametrize(
    ("goodbye", "code", "reason"),
    [(b"\x0f\xa1bye", 4001, "bye"), (b"", 1005, ""), (None, 1006, "")],
    ids=["close", "close without code", "gone"],
)
def test_departures(peer, errors, goodbye: bytes | None, code: int, reason: str) -> None:
    """receive() says it, again and again; send() raises an OSError; if that ends the application, nothing is logged."""
    seen: list[Any] = []

    @wsapp
    async def app(scope, receive, send):
        await receive()
        await send(ACCEPT)
        seen.extend([await receive(), await receive()])
        try:
            await send(SAY)
        except OSError as error:
            seen.append(error)
            raise RuntimeError("of a framework") from error

    with serving(app) as url:
        one = peer(url).open()
        if goodbye is None:
            one.close()
        else:
            one.send(CLOSE, goodbye)
        poll(lambda: len(seen) == 3)
    end = {"type": "websocket.disconnect", "code": code, "reason": reason}
    assert seen[:2] == [end, end] and type(seen[2]) is ClientDisconnected
    assert not errors


def test_who_does_not_listen_to_the_disconnect_lets_others_in(peer) -> None:
    spins = []
    go = threading.Event()

    @wsapp
    async def app(scope, receive, send):
        await receive()
        await send(ACCEPT)
        while not go.is_set():
            await receive()
            spins.append(1)
            assert len(spins) < 50_000_000

    with serving(app) as url:
        peer(url).open().send(CLOSE, b"\x03\xe8")
        poll(lambda: len(spins) > 1000)
        try:
            assert httpx.get(url, timeout=5).text == "http"
        finally:
            go.set()


def test_a_client_that_leaves_before_the_accept(peer, errors) -> None:
    seen: list[Any] = []

    @wsapp
    async def app(scope, receive, send):
        seen.append(await receive())
        seen.append(await receive())
        await send(ACCEPT)

    with serving(app) as url:
        one = peer(url)
        one.socket.sendall(one.request.encode())
        poll(lambda: seen)
        one.close()
        poll(lambda: len(seen) == 2)
        assert httpx.get(url).text == "http"
    assert seen[1] == {"type": "websocket.disconnect", "code": 1006, "reason": ""}
    assert not errors


def test_a_stop_says_1012(peer, errors) -> None:
    ends: list[Any] = []
    told: list[tuple[int, str]] = []

    @wsapp
    async def app(scope, receive, send):
        await receive()
        await send(ACCEPT)
        ends.append(await receive())
        await asyncio.sleep(0.05)  # it is waited for
        ends.append("over")

    with serving(app) as url:
        one = peer(url).open()
        threading.Thread(target=lambda: told.append(one.closing()), daemon=True).start()
    poll(lambda: bool(told))
    assert told == [(1012, "")]
    assert ends == [{"type": "websocket.disconnect", "code": 1012, "reason": ""}, "over"]
    assert not errors


def test_a_stop_cancels_what_does_not_end(peer) -> None:
    ends: list[str] = []

    @wsapp
    async def app(scope, receive, send):
        await send(ACCEPT)
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            ends.append("cancelled")
            raise

    with serving(app, timeout_graceful_shutdown=0.5) as url:
        one = peer(url).open()
    assert ends == ["cancelled"]
    one.close()


def test_limits_apply(peer, errors) -> None:
    with serving(echo, ws_max_size=1000) as url:
        assert peer(url).open().send(TEXT, b"x" * 1001).closing()[0] == 1009
    assert not errors


# ------------------------------------------------------------------------------------------------------------- mounts


@pytest.mark.parametrize("chained", [False, True], ids=["plain", "behind middleware"])
def test_mounted(chained: bool) -> None:
    app = App()

    @wsapp
    async def inner(scope, receive, send):
        await send(ACCEPT)
        await send({"type": "websocket.send", "text": f"{scope['root_path']} {scope['path']}"})

    app.mount("/below", inner)
    if chained:

        @app.middleware
        async def through(request, call_next):
            return await call_next(request)

    with live_server(app) as url:
        with connect(ws(url) + "/below/x") as client:
            assert client.recv(timeout=10) == "/below /below/x"
        assert httpx.get(url + "/below/x").text == "http"


# ------------------------------------------------------------------------------ all of it in the read of the handshake


@pytest.mark.parametrize("slow", [False, True], ids=["at once", "later"])
@pytest.mark.parametrize("accepts", ["accept first", "answer first"])
def test_messages_and_close_behind_the_handshake(peer: Any, slow: bool, accepts: str) -> None:
    """A client that says everything in one segment, and leaves: each message reaches the application, then the end."""
    seen: list[Any] = []
    over = threading.Event()

    @wsapp
    async def app(scope, receive, send):
        assert await receive() == CONNECT
        if slow:
            await asyncio.sleep(0.05)
        await send(ACCEPT)
        if slow:
            await asyncio.sleep(0.05)
        try:
            if accepts == "answer first":
                await send({"type": "websocket.send", "text": "hello"})
        except OSError:
            seen.append("gone")
        while (message := await receive())["type"] == "websocket.receive":
            seen.append(message.get("text"))
        seen.append((message["code"], message["reason"]))
        over.set()

    frame = Peer.frame
    behind = frame(TEXT, b"one") + frame(TEXT, b"t", first=0) + frame(0, b"wo") + frame(CLOSE, b"\x0f\xa1bye")
    with serving(app) as url:
        one = peer(url).open(behind)
        assert over.wait(20)
        frames = []
        while (found := one.next())[0] != CLOSE:
            frames.append(found)
        assert found[1][:2] == b"\x0f\xa1"
    assert [item for item in seen if item != "gone"] == ["one", "two", (4001, "bye")]
    if not slow:
        assert len(frames) == (accepts == "answer first")
