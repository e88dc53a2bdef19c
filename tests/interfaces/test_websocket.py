"""WebSockets of the native API over real sockets: handshake, messages, closing, limits, departures, real clients."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import contextvars
import gc
import json
import logging
import os
import socket
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
import websockets
from interfaces.clients import BINARY, CLOSE, PING, PONG, TEXT, Peer, poll
from websockets.sync.client import connect

from fastserve import App, HTTPException, JSONResponse, Query, Response, Router, State, WebSocket, WebSocketDisconnect
from fastserve.errors import ConfigError, LocalProtocolError
from fastserve.testing import live_server


def resident() -> int:
    """Bytes of memory of this process."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def echo_app() -> App:
    app = App()

    @app.websocket("/")
    async def echo(ws: WebSocket) -> None:
        await ws.accept()
        async for message in ws:
            await ws.send(message)

    return app


@pytest.fixture(scope="module")
def echo() -> Iterator[str]:
    with live_server(echo_app()) as url:
        yield url


# ------------------------------------------------------------------------------------------------ handshake


def test_the_answer_is_that_of_the_rfc(echo: str, peer: Callable[..., Peer]) -> None:
    status, fields = peer(echo, Sec_WebSocket_Key="dGhlIHNhbXBsZSBub25jZQ==").handshake()
    assert status == 101
    assert fields["sec-websocket-accept"] == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="  # the example of RFC 6455 section 1.3
    assert fields["upgrade"] == "websocket" and fields["connection"] == "upgrade"
    assert "date" in fields and "content-length" not in fields and "transfer-encoding" not in fields
    assert "sec-websocket-protocol" not in fields and "sec-websocket-extensions" not in fields


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"Sec-WebSocket-Key": None}, 400),
        ({"Sec-WebSocket-Key": "short"}, 400),
        ({"Sec-WebSocket-Key": base64.b64encode(bytes(15)).decode()}, 400),
        ({"Sec-WebSocket-Key": base64.b64encode(bytes(17)).decode()}, 400),
        ({"Sec-WebSocket-Version": None}, 426),
        ({"Sec-WebSocket-Version": "8"}, 426),
        ({"Sec-WebSocket-Version": "13, 8"}, 426),
        ({"Upgrade": "h2c"}, 426),
        ({"Upgrade": None}, 426),
        ({"Connection": "keep-alive"}, 426),
        ({"head": "POST / HTTP/1.1", "Content-Length": "0"}, 405),
        ({"head": "GET / HTTP/1.0"}, 426),
        ({"Content-Length": "5"}, 400),
    ],
    ids=str,
)
def test_a_bad_handshake_is_answered(echo: str, peer: Callable[..., Peer], fields: dict[str, Any], status: int) -> None:
    answered, told = peer(echo, **fields).handshake()
    assert answered == status
    if status == 426:
        assert told["sec-websocket-version"] == "13" and told["upgrade"] == "websocket"
        assert "upgrade" in told["connection"]


def test_the_field_values_are_case_insensitive_lists(echo: str, peer: Callable[..., Peer]) -> None:
    peer(echo, Upgrade="h2c, WebSocket", Connection="UPGRADE").open()


def test_frames_that_come_with_the_request_are_read(echo: str, peer: Callable[..., Peer]) -> None:
    one = peer(echo).open(behind=Peer.frame(TEXT, b"early") + Peer.frame(BINARY, b"bird"))
    assert one.next() == (TEXT, b"early") and one.next() == (BINARY, b"bird")


def test_one_byte_at_a_time(echo: str, peer: Callable[..., Peer]) -> None:
    one = peer(echo).open()
    for byte in Peer.frame(TEXT, b"slow" * 40) + Peer.frame(PING, b"p"):
        one.socket.sendall(bytes((byte,)))
    assert {one.next(), one.next()} == {(TEXT, b"slow" * 40), (PONG, b"p")}  # a pong may go in front (section 5.5.3)


def test_routes_share_a_path_with_get() -> None:
    app = App()

    @app.get("/both/{id:int}")
    async def page(id: int) -> str:
        return f"page {id}"

    @app.websocket("/both/{id:int}")
    async def live(ws: WebSocket, id: int, q: Query[int] = 1) -> None:
        await ws.accept()
        await ws.send_json([id, q, ws.path_params, ws.path, ws.scheme, ws.headers["x-me"], ws.query_params.get("q")])

    router = Router(prefix="/in")
    router.add_websocket_route("/ner", live_inner)
    app.include_router(router)

    with live_server(app) as url:
        assert httpx.get(f"{url}/both/7").text == "page 7"
        address = url.replace("http", "ws")
        with connect(f"{address}/both/7?q=5", additional_headers={"X-Me": "you"}) as ws:
            assert json.loads(ws.recv()) == [7, 5, {"id": 7}, "/both/7", "ws", "you", "5"]
            with pytest.raises(websockets.ConnectionClosedOK) as closed:
                ws.recv()
            assert closed.value.rcvd is not None and closed.value.rcvd.code == 1000
        with connect(f"{address}/in/ner") as ws:
            assert ws.recv() == "inner"
        for path, status in (("/both/x", 404), ("/nothing", 404), ("/both/7?q=x", 400)):
            with pytest.raises(websockets.InvalidStatus) as refused:
                connect(address + path)
            assert refused.value.response.status_code == status
        assert httpx.get(f"{url}/in/ner").status_code == 426


async def live_inner(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.send_text("inner")


def test_subprotocols_and_headers(peer: Callable[..., Peer]) -> None:
    app = App()
    failed: list[str] = []

    @app.websocket("/")
    async def choose(ws: WebSocket) -> None:
        assert ws.subprotocols == ["chat", "superchat"] and ws.origin == "https://example.com"
        for wrong in ({"subprotocol": "other"}, {"headers": {"Upgrade": "x"}}, {"headers": {"a": "b\r\nc: d"}}):
            try:
                await ws.accept(**wrong)  # type: ignore[arg-type]
            except (LocalProtocolError, ValueError) as error:
                failed.append(str(error))
        await ws.accept("superchat", headers=[("X-Seat", "7"), ("Set-Cookie", "a=b")])
        assert ws.subprotocol == "superchat"
        with pytest.raises(LocalProtocolError):
            await ws.accept()

    with live_server(app) as url:
        one = peer(url, Sec_WebSocket_Protocol="chat, superchat", Origin="https://example.com")
        status, fields = one.handshake()
        assert status == 101 and len(failed) == 3
        assert fields["sec-websocket-protocol"] == "superchat"
        assert fields["x-seat"] == "7" and fields["set-cookie"] == "a=b"
        assert one.closing() == (1000, "")


def test_a_handshake_can_be_denied(peer: Callable[..., Peer], caplog: pytest.LogCaptureFixture) -> None:
    app = App()

    @app.websocket("/{how}")
    async def deny(ws: WebSocket, how: str) -> None:
        if how == "closed":
            await ws.close()
        elif how == "exception":
            raise HTTPException(401, "who are you?", {"WWW-Authenticate": "Basic"})
        elif how == "response":
            await ws.send_denial_response(JSONResponse({"no": True}, 418, {"x-a": "b"}))
            with pytest.raises(LocalProtocolError):
                await ws.send_denial_response(Response(b""))
        elif how == "broken":
            raise ZeroDivisionError
        # "silent": returns without a word

    with live_server(app) as url:
        for how, status in (("closed", 403), ("exception", 401), ("response", 418), ("broken", 500), ("silent", 403)):
            one = peer(url, f"/{how}")
            answered, fields = one.handshake()
            assert answered == status, how
            assert one._exactly(int(fields["content-length"]))
            if how == "response":  # it is an ordinary answer: the connection goes on
                assert fields["x-a"] == "b"
                one.request = "GET /response HTTP/1.1\r\nHost: a\r\n\r\n"
                assert one.handshake()[0] == 426
    errors = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(errors) == 1 and "deny" in errors[0].getMessage()


# ------------------------------------------------------------------------------------------------- messages


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536, 1 << 20])
def test_sizes(echo: str, peer: Callable[..., Peer], size: int) -> None:
    one = peer(echo).open()
    payload = os.urandom(size)
    assert one.send(BINARY, payload).next() == (BINARY, payload)
    text = ("aé世😀" * (size // 10 + 1)).encode()
    assert one.send(TEXT, text).next() == (TEXT, text)


def test_fragments_with_control_frames_between(echo: str, peer: Callable[..., Peer]) -> None:
    one = peer(echo).open()
    text = "Käse".encode()
    one.send(TEXT, text[:2], 0).send(PING, b"now").send(0, text[2:3], 0).send(0, b"", 0).send(PONG).send(0, text[3:])
    assert one.next() == (PONG, b"now") and one.next() == (TEXT, text)


def test_many_messages_in_one_read_are_answered_in_order(echo: str, peer: Callable[..., Peer]) -> None:
    one = peer(echo).open()
    one.socket.sendall(b"".join(Peer.frame(TEXT, b"%d" % i) for i in range(5000)))
    for i in range(5000):
        assert one.next() == (TEXT, b"%d" % i)


def test_json_and_wrong_kinds(peer: Callable[..., Peer]) -> None:
    app = App()
    ends: list[tuple[str, int]] = []

    @app.websocket("/{kind}")
    async def take(ws: WebSocket, kind: str) -> None:
        await ws.accept()
        try:
            while True:
                await ws.send_json(str(await getattr(ws, f"receive_{kind}")()))
        except WebSocketDisconnect as end:
            ends.append((kind, end.code))
            raise

    with live_server(app) as url:
        one = peer(url, "/json").open()
        assert one.send(TEXT, b'{"a": 1}').next() == (TEXT, b"\"{'a': 1}\"")
        assert one.send(BINARY, b"[1]").next() == (TEXT, b'"[1]"')
        assert one.send(TEXT, b"{").closing() == (1007, "malformed JSON")
        assert peer(url, "/text").open().send(BINARY, b"x").closing() == (1003, "text was expected")
        assert peer(url, "/bytes").open().send(TEXT, b"x").closing() == (1003, "bytes were expected")
        poll(lambda: len(ends) == 3)
    assert ends == [("json", 1007), ("text", 1003), ("bytes", 1003)]


def test_misuse_is_told_to_the_application(peer: Callable[..., Peer]) -> None:
    app = App()
    told: list[str] = []

    @app.websocket("/")
    async def misuse(ws: WebSocket) -> None:
        async def tell(awaitable: Any) -> None:
            try:
                await awaitable
            except Exception as error:
                told.append(type(error).__name__)

        await tell(ws.receive())
        await tell(ws.send("early"))
        await ws.accept()
        await tell(ws.send("\ud800"))
        await tell(ws.close(1005))
        await tell(ws.close(1000, "x" * 124))
        await ws.send(memoryview(b"fine"))
        for call, argument in ((ws.send_text, b"bytes"), (ws.send_bytes, "str")):
            with pytest.raises(TypeError):
                call(argument)  # type: ignore[operator]
        waiting = asyncio.create_task(ws.receive())
        await asyncio.sleep(0)
        await tell(ws.receive())  # one reader is enough
        await ws.close(4000, "done")
        await ws.close()  # harmless
        await tell(waiting)
        await tell(ws.send("late"))
        await tell(ws.receive())

    with live_server(app) as url:
        one = peer(url).open()
        assert one.next() == (BINARY, b"fine")
        assert one.closing() == (4000, "done")
    assert told == [
        "LocalProtocolError",
        "LocalProtocolError",
        "UnicodeEncodeError",
        "LocalProtocolError",
        "LocalProtocolError",
        "RuntimeError",
        "WebSocketDisconnect",
        "WebSocketDisconnect",
        "WebSocketDisconnect",
    ]


# -------------------------------------------------------------------------------------------------- closing


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        (Peer.frame(TEXT, b"x", masked=False), 1002),
        (Peer.frame(TEXT, b"x", first=0xC0), 1002),
        (Peer.frame(3, b"x"), 1002),
        (Peer.frame(0, b"x"), 1002),
        (Peer.frame(PING, b"x" * 126), 1002),
        (Peer.frame(TEXT, b"x", first=0) + Peer.frame(TEXT, b"y"), 1002),
        (Peer.frame(CLOSE, b"\x03"), 1002),
        (Peer.frame(CLOSE, struct.pack("!H", 1006)), 1002),
        (Peer.frame(TEXT, b"\xff"), 1007),
        (Peer.frame(TEXT, b"\xed\xa0", first=0), 1007),  # told before the message is whole
        (Peer.frame(TEXT, b"\xc3", first=0) + Peer.frame(0, b""), 1007),
        (Peer.frame(CLOSE, b"\x03\xe8\xff"), 1007),
        (b"\x82\xff" + struct.pack("!Q", 1 << 40), 1009),
    ],
    ids=lambda value: value[:12].hex() if isinstance(value, bytes) else str(value),
)
def test_faults_are_closed_with_their_code(peer: Callable[..., Peer], frames: bytes, code: int) -> None:
    app = App()
    ends: list[int] = []

    @app.websocket("/")
    async def watch(ws: WebSocket) -> None:
        await ws.accept()
        try:
            while True:
                await ws.receive()
        except WebSocketDisconnect as end:
            ends.append(end.code)

    with live_server(app) as url:
        one = peer(url).open()
        one.socket.sendall(frames)
        assert one.closing()[0] == code
        poll(lambda: ends == [code])


def test_the_close_of_a_client_is_echoed_and_told(peer: Callable[..., Peer]) -> None:
    app = App()
    ends: list[tuple[list[Any], int, str]] = []

    @app.websocket("/")
    async def watch(ws: WebSocket) -> None:
        await ws.accept()
        await asyncio.sleep(0.05)
        got = [message async for message in ws]
        try:
            await ws.send("x")
        except WebSocketDisconnect as end:
            ends.append((got, end.code, end.reason))

    with live_server(app) as url:
        for code, reason in ((1000, ""), (3999, "because"), (1005, "")):
            one = peer(url).open()
            payload = struct.pack("!H", code) + reason.encode() if code != 1005 else b""
            one.send(TEXT, b"first").send(CLOSE, payload).send(TEXT, b"behind")
            assert one.closing()[0] == code
            poll(lambda: bool(ends))
            assert ends.pop() == (["first"], code, reason)
        one = peer(url).open()
        one.close()
        poll(lambda: bool(ends))
        assert ends == [([], 1006, "")]


def test_a_client_that_does_not_answer_a_close_is_left(peer: Callable[..., Peer]) -> None:
    from fastserve.interfaces import make_handler
    from fastserve.protocol import Limits, Service

    app = App()

    @app.websocket("/")
    async def bye(ws: WebSocket) -> None:
        await ws.accept()
        await ws.close()

    async def main() -> float:
        loop = asyncio.get_running_loop()
        limits = Limits(close_timeout=0.1, linger_timeout=0.1)
        service = Service(loop, make_handler(app, "native"), limits)
        listener = socket.create_server(("127.0.0.1", 0))
        listener.setblocking(False)
        await service.listen([[listener]])
        one = await asyncio.to_thread(lambda: peer(f"http://127.0.0.1:{listener.getsockname()[1]}").open())
        assert await asyncio.to_thread(one.next) == (CLOSE, b"\x03\xe8")
        before = time.monotonic()
        await asyncio.to_thread(one.send, TEXT, b"deaf")
        assert await asyncio.to_thread(one.socket.recv, 100) == b""
        await asyncio.wait_for(service.wait_closed(), 5)
        service.close()
        listener.close()
        return time.monotonic() - before

    assert asyncio.run(main()) < 4


def test_silent_clients_are_pinged_and_left(peer: Callable[..., Peer]) -> None:
    app = echo_app()
    with live_server(app, ws_ping_interval=0.1, ws_ping_timeout=0.3) as url:
        one = peer(url).open()
        assert one.next() == (PING, b"")
        one.send(PONG)
        assert one.next() == (PING, b"")
        one.send(TEXT, b"any byte is a sign of life")
        assert one.next()[0] == TEXT
        assert one.next() == (PING, b"")
        assert one.closing() == (1011, "keepalive ping timeout")
    with live_server(app, ws_ping_interval=0) as url:
        one = peer(url).open()
        one.socket.settimeout(0.5)
        with pytest.raises(TimeoutError):
            one.next()


def test_a_stop_says_1012(peer: Callable[..., Peer]) -> None:
    app = App()
    ends: list[int] = []

    @app.websocket("/")
    async def watch(ws: WebSocket) -> None:
        await ws.accept()
        try:
            await ws.receive()
        except WebSocketDisconnect as end:
            ends.append(end.code)

    told: list[tuple[int, str]] = []
    with live_server(app) as url:
        one = peer(url).open()
        threading.Thread(target=lambda: told.append(one.closing()), daemon=True).start()
        before = time.monotonic()
    poll(lambda: bool(told))
    assert told == [(1012, "")] and ends == [1012]
    assert time.monotonic() - before < 5


def test_a_failing_handler_closes_with_1011(peer: Callable[..., Peer], caplog: pytest.LogCaptureFixture) -> None:
    app = App()

    @app.websocket("/{how}")
    async def fail(ws: WebSocket, how: str) -> None:
        await ws.accept()
        if how == "late":
            await asyncio.sleep(0.01)
        raise ZeroDivisionError(how)

    with live_server(app) as url:
        for how in ("soon", "late"):
            assert peer(url, f"/{how}").open().closing() == (1011, "")
    errors = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(errors) == 2 and all("GET /" in line and "fail" in line for line in errors)


# ---------------------------------------------------------------------------------- limits and back-pressure


def test_the_limit_of_a_message(peer: Callable[..., Peer]) -> None:
    with live_server(echo_app(), ws_max_size=1000) as url:
        one = peer(url).open()
        assert one.send(BINARY, b"x" * 1000).next() == (BINARY, b"x" * 1000)
        assert one.send(BINARY, b"x" * 1001).closing()[0] == 1009
        one = peer(url).open()
        one.send(BINARY, b"x" * 600, 0).send(0, b"x" * 401)
        assert one.closing()[0] == 1009


def test_a_handler_that_does_not_read_stops_the_client(peer: Callable[..., Peer]) -> None:
    app = App()
    go = threading.Event()

    @app.websocket("/")
    async def slow(ws: WebSocket) -> None:
        await ws.accept()
        while not go.is_set():
            await asyncio.sleep(0.02)
        count = 0
        async for _ in ws:
            count += 1
            if count == 4000:
                await ws.send(str(count))

    with live_server(app, ws_max_queue=4) as url:
        one = peer(url).open()
        frame = Peer.frame(BINARY, b"x" * 16384)
        one.socket.settimeout(0.5)
        sent = 0
        with pytest.raises(TimeoutError):
            for _ in range(4000):  # 64 MB: more than all buffers of the kernel
                one.socket.sendall(frame)
                sent += 1
        assert sent < 3000
        one.socket.settimeout(20)
        # what of the last frame has left is not known: the rest is sent by a client that keeps count
        one = peer(url).open()
        go.set()
        for _ in range(4000):
            one.socket.sendall(frame)
        assert one.next() == (TEXT, b"4000")


def test_small_messages_wait_in_the_connection_and_none_is_lost(peer: Callable[..., Peer]) -> None:
    app = App()
    go = threading.Event()

    @app.websocket("/")
    async def slow(ws: WebSocket) -> None:
        await ws.accept()
        while not go.is_set():
            await asyncio.sleep(0.02)
        got: list[int] = []
        while len(got) < 3000:
            got.append(int(await ws.receive_text()))
        await ws.send_json(got)

    with live_server(app, ws_max_queue=4) as url:
        one = peer(url).open()
        one.socket.sendall(b"".join(Peer.frame(TEXT, b"%d" % i) for i in range(3000)))
        time.sleep(0.1)
        go.set()
        assert json.loads(one.next()[1]) == list(range(3000))


def test_a_close_behind_a_full_queue_is_seen(peer: Callable[..., Peer]) -> None:
    app = App()
    ends: list[tuple[int, int]] = []

    @app.websocket("/")
    async def slow(ws: WebSocket) -> None:
        await ws.accept()
        await asyncio.sleep(0.2)
        count = 0
        try:
            while True:
                await ws.receive()
                count += 1
        except WebSocketDisconnect as end:
            ends.append((count, end.code))

    with live_server(app, ws_max_queue=2) as url:
        one = peer(url).open()
        one.socket.sendall(Peer.frame(TEXT, b"x") * 20 + Peer.frame(CLOSE, struct.pack("!H", 1001)))
        one.socket.shutdown(socket.SHUT_WR)
        poll(lambda: bool(ends))
        assert ends == [(20, 1001)]
        one = peer(url).open()
        one.socket.sendall(Peer.frame(TEXT, b"x") * 20)
        one.socket.shutdown(socket.SHUT_WR)
        poll(lambda: len(ends) == 2)
        assert ends[1] == (20, 1006)


def test_a_client_that_does_not_read_stops_the_handler(peer: Callable[..., Peer]) -> None:
    app = App()
    sent: list[int] = [0]

    @app.websocket("/")
    async def flood(ws: WebSocket) -> None:
        await ws.accept()
        while sent[0] < 4000:
            await ws.send(b"x" * 16384)
            sent[0] += 1

    with live_server(app) as url:
        one = peer(url).open()
        time.sleep(0.5)
        held = sent[0]
        assert held < 3000
        for _ in range(4000):
            assert one.next() == (BINARY, b"x" * 16384)
        assert one.closing()[0] == 1000


def test_an_endless_sender_leaves_the_loop_to_others(peer: Callable[..., Peer]) -> None:
    app = App()

    @app.websocket("/")
    async def flood(ws: WebSocket) -> None:
        await ws.accept()
        while True:
            await ws.send("x")

    @app.get("/")
    async def index() -> str:
        return "served"

    with live_server(app) as url:
        one = peer(url).open()
        reading = threading.Thread(target=lambda: _read_all(one), daemon=True)
        reading.start()
        assert httpx.get(url, timeout=5).text == "served"
        one.socket.shutdown(socket.SHUT_RDWR)
        reading.join(5)


def _read_all(one: Peer) -> None:
    with contextlib.suppress(OSError):
        while one.socket.recv(1 << 20):
            pass


# ------------------------------------------------------------------------------- tasks, contexts, departures


def test_tasks_timeouts_and_contexts(peer: Callable[..., Peer]) -> None:
    app = App()
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")
    log: list[Any] = []

    @app.websocket("/")
    async def work(ws: WebSocket) -> None:
        assert variable.get() == "unset"
        variable.set("mine")
        me = asyncio.current_task()
        assert isinstance(me, asyncio.Task)
        await ws.accept()
        try:
            async with asyncio.timeout(0.05):
                await ws.receive()
        except TimeoutError:
            log.append("timeout")
        try:
            await asyncio.wait_for(ws.receive(), 0.05)
        except TimeoutError:
            log.append("wait_for")
        async with asyncio.TaskGroup() as group:
            reader = group.create_task(ws.receive_text())
            group.create_task(ws.send_text("ready"))
        log.append(reader.result())
        assert asyncio.current_task() is me and variable.get() == "mine"
        log.append(await ws.receive())
        assert asyncio.current_task() is me and variable.get() == "mine"
        await asyncio.gather(ws.send_text("a"), ws.send_text("b"))
        waiting = asyncio.create_task(ws.receive())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait({waiting})
        assert waiting.cancelled()
        await ws.send("cancelled")
        log.append(await ws.receive())  # the one that was cancelled has taken nothing with it

    with live_server(app) as url:
        one = peer(url).open()
        assert one.next() == (TEXT, b"ready")
        one.send(TEXT, b"one").send(TEXT, b"two")
        assert [one.next()[1] for _ in range(3)] == [b"a", b"b", b"cancelled"]
        one.send(TEXT, b"three")
        assert one.closing() == (1000, "")
    assert log == ["timeout", "wait_for", "one", "two", "three"]


def test_cancel_on_disconnect(peer: Callable[..., Peer]) -> None:
    app = App()
    ends: list[str] = []

    @app.websocket("/", cancel_on_disconnect=True)
    async def work(ws: WebSocket) -> None:
        await ws.accept()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            ends.append("cancelled")
            raise

    with live_server(app) as url:
        one = peer(url).open()
        one.close()
        poll(lambda: ends == ["cancelled"])


def test_state_and_lifespan() -> None:
    @contextlib.asynccontextmanager
    async def lifespan(_: App) -> Any:
        yield {"pool": "from the lifespan"}

    app = App(lifespan=lifespan)

    @app.websocket("/")
    async def work(ws: WebSocket, pool: State[str]) -> None:
        await ws.accept()
        await ws.send_json([pool, ws.state.pool, ws.app is app, ws.client is not None])

    with live_server(app) as url, connect(url.replace("http", "ws")) as ws:
        assert json.loads(ws.recv()) == ["from the lifespan", "from the lifespan", True, True]


def test_bad_routes_are_refused() -> None:
    app = App()

    @app.websocket("/taken")
    async def one(ws: WebSocket) -> None: ...

    with pytest.raises(ConfigError, match="registered twice"):
        app.websocket("/taken")(one)

    def plain(ws: WebSocket) -> None: ...

    async def with_body(ws: WebSocket, body: bytes) -> None: ...

    async def twice(ws: WebSocket, websocket: WebSocket) -> None: ...

    for wrong in (plain, with_body, twice):
        with pytest.raises(ConfigError):
            app.websocket("/wrong")(wrong)
    with pytest.raises(ConfigError, match="only the handler of"):
        app.get("/wrong")(one)


# ---------------------------------------------------------------------------------------------- compression


def offer(url: str, terms: str, peer: Callable[..., Peer]) -> tuple[Peer, str]:
    one = peer(url, Sec_WebSocket_Extensions=terms)
    status, fields = one.handshake()
    assert status == 101
    return one, fields.get("sec-websocket-extensions", "")


@pytest.mark.parametrize(
    ("terms", "answer"),
    [
        ("permessage-deflate", "permessage-deflate; server_max_window_bits=12"),
        (
            "permessage-deflate; client_max_window_bits",
            "permessage-deflate; client_max_window_bits=12; server_max_window_bits=12",
        ),
        (
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover; server_max_window_bits=9",
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover; server_max_window_bits=9",
        ),
        (
            'x-webkit-deflate-frame, permessage-deflate; client_max_window_bits="10"',
            "permessage-deflate; client_max_window_bits=10; server_max_window_bits=12",
        ),
        (
            "permessage-deflate; server_max_window_bits=8, permessage-deflate",
            "permessage-deflate; server_max_window_bits=12",
        ),
        ("permessage-deflate; server_max_window_bits=16", ""),
        ("permessage-deflate; server_max_window_bits", ""),
        ("permessage-deflate; server_no_context_takeover=1", ""),
        ("permessage-deflate; client_max_window_bits=7", ""),
        ("permessage-deflate; what_is_this", ""),
        ("permessage-deflate; client_no_context_takeover; client_no_context_takeover", ""),
        ("x-webkit-deflate-frame", ""),
        ("permessage-deflate; client_max_window_bits=010", ""),
        ("permessage-deflate; client_max_window_bits=" + "0" * 5000 + "10", ""),
        ("permessage-deflate; server_max_window_bits=" + "1" * 5000, ""),
    ],
    ids=lambda text: text[-60:],
)
def test_compression_is_negotiated(echo: str, peer: Callable[..., Peer], terms: str, answer: str) -> None:
    one, agreed = offer(echo, terms, peer)
    assert agreed == answer
    text = b"hello hello hello hello " * 40
    if not answer:
        assert one.send(TEXT, text).frames() == (TEXT, text, 0x80)
        return
    squeeze = zlib.compressobj(9, zlib.DEFLATED, -10 if "bits=10" in answer else -12)
    unsqueeze = zlib.decompressobj(-9 if "server_max_window_bits=9" in answer else -12)
    lengths = []
    for _ in range(3):
        packed = (squeeze.compress(text) + squeeze.flush(zlib.Z_SYNC_FLUSH))[:-4]
        if "client_no_context_takeover" in answer:
            squeeze = zlib.compressobj(9, zlib.DEFLATED, -12)
        opcode, payload, bits = one.send(TEXT, packed[:5], 0x40).send(0, packed[5:]).frames()
        assert (opcode, bits) == (TEXT, 0xC0)
        if "server_no_context_takeover" in answer:
            unsqueeze = zlib.decompressobj(-9)
        assert unsqueeze.decompress(payload + b"\x00\x00\xff\xff") == text
        lengths.append(len(payload))
    assert (lengths[2] < lengths[0]) == ("server_no_context_takeover" not in answer)
    opcode, payload, bits = one.send(
        TEXT, b"in the clear"
    ).frames()  # which a client may send; the answer is compressed
    if "server_no_context_takeover" in answer:
        unsqueeze = zlib.decompressobj(-9)
    assert (opcode, bits) == (TEXT, 0xC0) and unsqueeze.decompress(payload + b"\x00\x00\xff\xff") == b"in the clear"


def test_bombs_and_rubbish(peer: Callable[..., Peer]) -> None:
    with live_server(echo_app(), ws_max_size=100_000) as url:
        one, _ = offer(url, "permessage-deflate", peer)
        squeeze = zlib.compressobj(9, zlib.DEFLATED, -15)
        bomb = (squeeze.compress(bytes(50_000_000)) + squeeze.flush(zlib.Z_SYNC_FLUSH))[:-4]
        assert len(bomb) < 100_000
        assert one.send(BINARY, bomb, 0xC0).closing()[0] == 1009
        one, _ = offer(url, "permessage-deflate", peer)
        assert one.send(BINARY, b"\xff" * 100, 0xC0).closing()[0] == 1007
        one, _ = offer(url, "permessage-deflate", peer)
        squeeze = zlib.compressobj(9, zlib.DEFLATED, -15)
        packed = (squeeze.compress(b"\xff\xfe") + squeeze.flush(zlib.Z_SYNC_FLUSH))[:-4]
        assert one.send(TEXT, packed, 0xC0).closing()[0] == 1007
        one, _ = offer(url, "permessage-deflate", peer)  # RFC 7692 section 7.2.3.4: a block with BFINAL set
        whole = zlib.compressobj(9, zlib.DEFLATED, -15)
        packed = whole.compress(b"final") + whole.flush() + b"\x00"
        unsqueeze = None
        for _ in range(2):
            opcode, payload = one.send(TEXT, packed, 0xC0).next()
            unsqueeze = unsqueeze or zlib.decompressobj(-12)
            assert (opcode, unsqueeze.decompress(payload + b"\x00\x00\xff\xff")) == (TEXT, b"final")
        more = zlib.compressobj(9, zlib.DEFLATED, -15)
        packed = packed[:-1] + (more.compress(b" and more") + more.flush(zlib.Z_SYNC_FLUSH))[:-4]
        assert one.send(TEXT, packed, 0xC0).closing()[0] == 1007  # it would be cut short in silence
    with live_server(echo_app(), ws_per_message_deflate=False) as url:
        assert offer(url, "permessage-deflate", peer)[1] == ""


# -------------------------------------------------------------------------------------------- real clients


def test_the_websockets_library(echo: str) -> None:
    async def main() -> None:
        async with websockets.connect(echo.replace("http", "ws"), max_size=None) as ws:
            for message in ("hi", "ü" * 5000, b"\x00" * 300_000, "{}" * 1000, ""):
                await ws.send(message)
                assert await ws.recv() == message
            await ws.send(["in ", "pieces"])
            assert await ws.recv() == "in pieces"
            await (await ws.ping())
        assert ws.close_code == 1000

    asyncio.run(main())


def test_the_client_of_aiohttp(echo: str) -> None:
    import aiohttp

    async def main() -> None:
        async with aiohttp.ClientSession() as session, session.ws_connect(echo + "/", compress=15) as ws:
            await ws.send_str("hi" * 500)
            assert (await ws.receive()).data == "hi" * 500
            await ws.send_bytes(b"\xff" * 100_000)
            assert (await ws.receive()).data == b"\xff" * 100_000
            await ws.ping()
            assert await ws.close(code=4001)
        assert ws.close_code == 4001

    asyncio.run(main())


def test_the_cases_of_autobahn(echo: str, tmp_path: Any) -> None:
    """All but 9 (limits), 12 and 13 (compression), which take minutes: of those one of each group. Nightly: all."""
    from conformance.autobahn import FINE, SAMPLE, run

    behaviours = run(echo, tmp_path / "quick", exclude=("9.*", "12.*", "13.*"))
    assert sum(behaviours.values()) >= 240 and set(behaviours) <= FINE, behaviours
    behaviours = run(echo, tmp_path / "sample", include=SAMPLE)
    assert behaviours == {"OK": len(SAMPLE)}, behaviours


def test_pings_of_a_client_that_does_not_read_cost_nothing(peer: Callable[..., Peer]) -> None:
    """The pongs are not kept: of those that cannot be sent, the last one is (RFC 6455 section 5.5.3)."""
    with live_server(echo_app()) as url:
        one = peer(url)
        one.open()
        ping = Peer.frame(PING, b"p" * 125)
        count, rounds = 1000, 300
        before = resident()
        for _ in range(rounds):
            one.socket.sendall(ping * count)
        one.send(PING, b"last")
        time.sleep(0.2)
        assert resident() - before < 10 << 20
        pongs = 0
        while (got := one.frames()[1]) != b"last":
            assert got == b"p" * 125
            pongs += 1
        assert 0 < pongs < count * rounds / 2
        assert one.send(TEXT, b"x").next() == (TEXT, b"x")


def test_a_client_that_leaves_while_it_is_sent_to_is_no_fault(peer: Callable[..., Peer], caplog: Any) -> None:
    """send() waits for a client that does not read, and then is gone: the next call says so, nothing is logged."""
    ends: list[Any] = []
    app = App()

    @app.websocket("/")
    async def flood(ws: WebSocket) -> None:
        await ws.accept()
        sent = 0
        try:
            while True:
                await ws.send(b"x" * 100_000)
                sent += 1
        except WebSocketDisconnect as end:
            ends.append((sent, end.code))
            raise

    @app.websocket("/echo")
    async def echo(ws: WebSocket) -> None:
        await ws.accept()
        try:
            async for message in ws:
                await ws.send(message)
        finally:
            ends.append(ws.close_code)

    with live_server(app) as url:
        one = peer(url).open()
        time.sleep(0.2)
        one.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        one.close()
        poll(lambda: len(ends) == 1)
        two = peer(url, "/echo").open()
        two.socket.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                two.socket.sendall(Peer.frame(BINARY, b"x" * 50_000))
        time.sleep(0.2)
        two.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        two.close()
        poll(lambda: len(ends) == 2)
    assert ends[0][0] > 0 and ends[0][1] == 1006 == ends[1]
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


@pytest.mark.parametrize(
    "fields",
    [{"Content_Length": "5"}, {"Transfer_Encoding": "chunked"}],
    ids=["length", "chunked"],
)
def test_a_handshake_with_a_body_is_refused_however_it_comes(
    echo: str, peer: Callable[..., Peer], fields: dict[str, str]
) -> None:
    for whole in (True, False):
        one = peer(echo, **fields)
        status, _ = one.handshake(b"hello" if whole and "Content_Length" in fields else b"0\r\n\r\n" if whole else b"")
        assert status == 400


def test_churn_leaves_nothing(peer: Callable[..., Peer]) -> None:
    with live_server(echo_app()) as url:

        def churn(count: int) -> None:
            for i in range(count):
                one = Peer(url).open()
                assert one.send(TEXT, b"x").next() == (TEXT, b"x")
                if i % 2:
                    one.send(CLOSE, b"\x03\xe8")
                    one.closing()
                one.close()

        churn(50)
        time.sleep(0.2)
        gc.collect()
        before = len(gc.get_objects())
        churn(400)
        time.sleep(0.2)
        alive = [item for item in gc.get_objects() if type(item).__name__ in ("WebSocket", "Connection", "Exchange")]
        assert len(alive) < 10  # without a collection: no circle is left behind
        gc.collect()
        assert len(gc.get_objects()) - before < 200


@pytest.mark.parametrize("pause", [0, 0.05], ids=["at once", "later"])
@pytest.mark.parametrize("before", [True, False], ids=["before accept", "after accept"])
def test_messages_and_close_behind_the_handshake(peer: Callable[..., Peer], pause: float, before: bool) -> None:
    """A client that says everything in one segment: each message reaches the handler, then the end."""
    seen: list[Any] = []
    app = App()

    @app.websocket("/")
    async def handler(ws: WebSocket) -> None:
        if before:
            await asyncio.sleep(pause)
        await ws.accept()
        if not before:
            await asyncio.sleep(pause)
        try:
            while True:
                seen.append(await ws.receive())
        except WebSocketDisconnect as end:
            seen.append((end.code, end.reason))

    frame = Peer.frame
    behind = frame(TEXT, b"one") + frame(TEXT, b"t", first=0) + frame(0, b"wo") + frame(CLOSE, b"\x0f\xa1bye")
    with live_server(app) as url:
        one = peer(url).open(behind)
        assert one.next()[1][:2] == b"\x0f\xa1"
        poll(lambda: len(seen) == 3)
    assert seen == ["one", "two", (4001, "bye")]
