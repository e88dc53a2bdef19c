"""Deadlines, minimum rates and the limits of a whole worker, over real sockets, on both wires; times are scaled."""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
import struct
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from fastserve import App, Request, StreamingResponse
from fastserve.errors import ConfigError
from fastserve.process.config import Config
from fastserve.process.loops import new_loop
from fastserve.process.server import Server
from fastserve.process.sockets import Listeners
from fastserve.protocol import Board
from fastserve.protocol.board import SHED_WORDS, STATE_WORDS, TIMEOUT_WORDS
from fastserve.testing import live_server

PATIENCE = 10.0  # seconds, for anything that is to happen
POST = b"POST %s HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n"
GET = b"GET %s HTTP/1.1\r\nHost: a\r\n\r\n"


def until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {PATIENCE} s"
        time.sleep(0.01)


class Told(list[str]):
    """What handlers have to say."""


def make() -> tuple[App, Told]:
    app, told = App(), Told()

    @app.get("/")
    async def index() -> str:
        return "hello"

    @app.post("/echo")
    async def echo(request: Request) -> bytes:
        return await request.body()

    @app.post("/pieces")
    async def pieces(request: Request) -> str:
        """Takes a piece, thinks, takes the next: what a client sends meanwhile is not waited for."""
        count = 0
        async for piece in request.stream():
            count += len(piece)
            await asyncio.sleep(0.5)
        return str(count)

    @app.post("/count")
    async def count(request: Request) -> str:
        return str(sum([len(piece) async for piece in request.stream()]))

    @app.post("/deaf")
    async def deaf() -> str:
        await asyncio.sleep(0.7)
        return "never asked for it"

    @app.get("/much")
    async def much() -> StreamingResponse:
        async def body() -> AsyncIterator[bytes]:
            try:
                for _ in range(4096):
                    yield b"x" * 65536
            finally:
                told.append("stopped")

        return StreamingResponse(body())

    @app.get("/seldom")
    async def seldom() -> StreamingResponse:
        async def body() -> AsyncIterator[bytes]:
            for _ in range(3):
                yield b"tick\n"
                await asyncio.sleep(0.5)

        return StreamingResponse(body())

    @app.get("/slow")
    async def slow() -> str:
        try:
            await asyncio.sleep(PATIENCE)
        except asyncio.CancelledError:
            told.append("cancelled")
            raise
        return "at last"

    @app.get("/begun")
    async def begun() -> StreamingResponse:
        async def body() -> AsyncIterator[bytes]:
            yield b"begun"
            await asyncio.sleep(PATIENCE)

        return StreamingResponse(body())

    return app, told


@contextlib.contextmanager
def watched(app: Any, **options: Any) -> Iterator[tuple[str, Any]]:
    """A server in a thread, its URL, and its seat on a board."""
    config = Config.embedded(app, {"port": 0, "timeout_graceful_shutdown": 5.0, **options})
    board, listeners = Board(1), Listeners(config.addresses)
    board[0].slot = 0
    server = Server.of(config, app, options.get("interface", "native"), listeners, board=board)
    stop, started = asyncio.Event(), threading.Event()
    loop = new_loop("auto")

    async def serve() -> None:
        async with server:
            started.set()
            await stop.wait()

    def body() -> None:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(serve())

    thread = threading.Thread(target=body, daemon=True)
    thread.start()
    assert started.wait(PATIENCE)
    try:
        yield server.url, board[0]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(PATIENCE)
        listeners.close()
        assert not thread.is_alive()


def timeouts(seat: Any) -> dict[str, int]:
    return {word: count for word, count in zip(TIMEOUT_WORDS, seat.timeouts, strict=True) if count}


def shed(seat: Any) -> dict[str, int]:
    return {word: count for word, count in zip(SHED_WORDS, seat.shed, strict=True) if count}


def states(seat: Any) -> dict[str, int]:
    return {word: count for word, count in zip(STATE_WORDS, seat.in_state, strict=True) if count}


def drip(client: Any, data: bytes, seconds: float, stop: float = PATIENCE) -> None:
    """A byte now and then, until all are sent or there is an answer."""
    end = time.monotonic() + stop
    for index in range(len(data)):
        if time.monotonic() > end or select.select([client.socket], [], [], seconds)[0]:
            return
        client.send(data[index : index + 1])


@pytest.fixture(params=["own", "transport"])
def wire(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("FASTSERVE_WIRE", request.param)
    return str(request.param)


# ------------------------------------------------------------------------------------------------------ heads


def test_a_connection_that_says_nothing_is_closed_in_silence(wire, raw) -> None:
    with watched(make()[0], timeout_header=0.3) as (url, seat):
        assert raw(url).rest() == b""
        assert timeouts(seat) == {"silence": 1}


def test_a_dripping_head_has_one_deadline_for_all_of_it(wire, raw) -> None:
    with watched(make()[0], timeout_header=0.4) as (url, seat):
        for before in (b"", GET % b"/"):
            client = raw(url)
            if before:
                client.send(before)
                assert client.response()[0] == 200
            began = time.monotonic()
            drip(client, b"GET / HTTP/1.1\r\nX: " + b"y" * 10000, 0.02, 3.0)
            assert client.response()[0] == 408
            assert time.monotonic() - began < 3.0
        assert timeouts(seat) == {"head": 2}


def test_an_idle_connection_is_closed_in_silence(wire, raw) -> None:
    with watched(make()[0], timeout_keep_alive=0.3) as (url, seat):
        client = raw(url).send(GET % b"/")
        assert client.response()[0] == 200
        assert client.rest() == b""
        assert timeouts(seat) == {"idle": 1}


# ----------------------------------------------------------------------------------------------------- bodies


def test_a_body_that_stops_is_a_408(wire, raw) -> None:
    with watched(make()[0], timeout_body=0.3) as (url, seat):
        client = raw(url).send(POST % (b"/echo", 10) + b"half")
        status, _, text = client.response()
        assert (status, text) == (408, b"request body not received in time")
        assert timeouts(seat) == {"body": 1}


@pytest.mark.parametrize("path", [b"/echo", b"/count"])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_trickled_body_is_a_408(wire, raw, path: bytes, chunked: bool) -> None:
    """Each byte in time, and yet no end in sight."""
    head = POST % (path, 10000)
    if chunked:
        head = b"POST %s HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2710\r\n" % path
    with watched(make()[0], timeout_body=5.0, min_rate=5000, min_rate_grace=0.4) as (url, seat):
        client = raw(url).send(head)
        began = time.monotonic()
        drip(client, b"x" * 10000, 0.01, 5.0)
        status, _, text = client.response()
        assert (status, text) == (408, b"request body received too slowly")
        assert time.monotonic() - began < 4.0
        assert timeouts(seat) == {"body-rate": 1}


def test_a_quick_beginning_does_not_pay_for_a_trickle(wire, raw) -> None:
    with watched(make()[0], timeout_body=5.0, min_rate=1000, min_rate_grace=0.3) as (url, seat):
        client = raw(url).send(POST % (b"/count", 10_000_000) + b"x" * 1_000_000)
        drip(client, b"x" * 10000, 0.02, 5.0)
        assert client.response()[0] == 408
        assert timeouts(seat) == {"body-rate": 1}


def test_a_slow_body_that_is_quick_enough_is_taken(wire, raw) -> None:
    with watched(make()[0], timeout_body=2.0, min_rate=100, min_rate_grace=0.2) as (url, seat):
        client = raw(url).send(POST % (b"/count", 1200))
        for _ in range(12):
            time.sleep(0.1)
            client.send(b"x" * 100)
        assert client.response()[2] == b"1200"
        assert timeouts(seat) == {}


def test_nobody_is_slow_while_the_handler_is_not_reading(wire, raw) -> None:
    options = {"timeout_body": 0.2, "min_rate": 1_000_000, "min_rate_grace": 0.2}
    with watched(make()[0], **options) as (url, seat):
        thinking = raw(url).send(POST % (b"/pieces", 2) + b"a")
        deaf = raw(url).send(POST % (b"/deaf", 10) + b"half")
        time.sleep(0.35)
        thinking.send(b"b")
        assert thinking.response()[2] == b"2"
        assert deaf.response()[2] == b"never asked for it"
        # What is left of a body that nobody wants is read on, to keep the connection; that has its deadline too.
        assert deaf.rest() == b""
        assert timeouts(seat) == {"body": 1}


# --------------------------------------------------------------------------------------------------- readers


def test_a_reader_that_stops_is_reset_and_its_handler_told(wire, raw) -> None:
    app, told = make()
    with watched(app, timeout_write=0.5, min_rate=0) as (url, seat):
        client = raw(url).send(GET % b"/much")
        until(lambda: states(seat) == {"write": 1}, "the state")
        until(lambda: told == ["stopped"], "the handler")
        with pytest.raises(ConnectionResetError):
            client.rest()
        assert timeouts(seat) == {"write": 1}


def test_a_crawling_reader_is_reset(wire, raw) -> None:
    """It makes progress all the time."""
    app, told = make()
    with watched(app, timeout_write=5.0, min_rate=50_000_000, min_rate_grace=0.5) as (url, seat):
        client = raw(url).send(GET % b"/much")
        with pytest.raises(ConnectionResetError):
            for _ in range(500):
                assert client.socket.recv(20000)
                time.sleep(0.01)
        until(lambda: told == ["stopped"], "the handler")
        assert timeouts(seat) == {"write": 1}


def test_a_reader_of_a_quiet_stream_is_not_slow(wire, raw) -> None:
    with watched(make()[0], timeout_write=0.2, min_rate=1_000_000, min_rate_grace=0.2) as (url, seat):
        assert raw(url).send(GET % b"/seldom").response()[2] == b"tick\n" * 3
        assert timeouts(seat) == {}


def test_a_reader_that_is_quick_enough_gets_it_all(wire, raw) -> None:
    with watched(make()[0], timeout_write=1.0, min_rate=1000, min_rate_grace=0.2) as (url, seat):
        client = raw(url, PATIENCE).send(GET % b"/much")
        for _ in range(20):
            client.exactly(1_000_000)
            time.sleep(0.05)
        assert timeouts(seat) == {}
        assert states(seat)


# ------------------------------------------------------------------------------------------- whole requests


def test_a_request_may_have_a_deadline(wire, raw) -> None:
    app, told = make()
    with watched(app, timeout_request=0.3) as (url, seat):
        client = raw(url).send(GET % b"/slow")
        status, fields, text = client.response()
        assert (status, fields["connection"], text) == (503, "close", b"the request took too long")
        until(lambda: told == ["cancelled"], "the handler")
        begun = raw(url).send(GET % b"/begun")
        begun.until(b"begun\r\n")
        assert begun.rest() == b""  # without the last chunk: nobody takes it for whole
        assert timeouts(seat) == {"request": 2}
        quick = raw(url)
        for _ in range(4):
            assert quick.send(GET % b"/").response()[0] == 200
            time.sleep(0.15)
        assert timeouts(seat) == {"request": 2}


# ------------------------------------------------------------------------------------------- departures


def reset(client: Any) -> None:
    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


STAGES = {
    "new": b"",
    "head": b"GET / HT",
    "idle": GET % b"/",
    "body": POST % (b"/echo", 10) + b"half",
    "handler": GET % b"/slow",
    "write": GET % b"/much",
    "closing": b"BAD\r\n\r\n",
}


@pytest.mark.parametrize("stage", STAGES)
def test_a_reset_frees_everything_at_once(wire, raw, stage: str) -> None:
    with watched(make()[0]) as (url, seat):
        for _ in range(3):
            client = raw(url).send(STAGES[stage])
            until(lambda: states(seat) == {stage: 1}, "the state")
            assert seat.connections == 1
            reset(client)
            until(lambda: not seat.connections and not states(seat) and not seat.active and not seat.held, "its end")
        assert timeouts(seat) == {}
        assert raw(url).send(GET % b"/").response()[0] == 200


# ------------------------------------------------------------------------------------------- bodies' sizes


def test_limits_for_bodies_by_server_app_and_route(wire, raw) -> None:
    app = App(limit_request_body=100)

    @app.post("/app")
    async def of_app(request: Request) -> str:
        return str(len(await request.body()))

    @app.post("/more", limit_request_body=1000)
    async def more(request: Request) -> str:
        return str(len(await request.body()))

    @app.post("/less/{name}", limit_request_body=10)
    async def less(request: Request, name: str) -> str:
        return str(len(await request.body()))

    with live_server(app, limit_request_body=50) as url:
        for path, limit in ((b"/app", 100), (b"/more", 1000), (b"/less/x", 10)):
            assert raw(url).send(POST % (path, limit) + b"x" * limit).response()[2] == b"%d" % limit
            # Judged before a byte of it is read, or asked for.
            expecting = b"POST %s HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n"
            status, fields, _ = raw(url).send(expecting % (path, limit + 1)).response()
            assert (status, fields["connection"]) == (413, "close")
            chunked = b"POST %s HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" % path
            client = raw(url).send(chunked + b"1\r\nx\r\n" * limit)
            client.send(b"0\r\n\r\n")
            assert client.response()[2] == b"%d" % limit
            client = raw(url).send(chunked + b"1\r\nx\r\n" * (limit + 1))
            assert client.response()[0] == 413


def test_a_bad_limit_is_one_readable_line() -> None:
    with pytest.raises(ConfigError, match=r"^route '/x': limit_request_body is bytes, 0 or more, not -1$"):
        App().post("/x", limit_request_body=-1)(lambda: "x")
    with pytest.raises(ConfigError, match=r"^App: limit_request_body is bytes"):
        App(limit_request_body="1k")  # type: ignore[arg-type]


# ----------------------------------------------------------------------------------------------- overload


def test_requests_over_the_limit_get_503_and_health_does_not(wire, raw) -> None:
    app, _ = make()
    app.get("/healthz")(lambda: "ok")
    with watched(app, limit_concurrency=2, limit_exempt=["/healthz"]) as (url, seat):
        held = [raw(url).send(GET % b"/slow") for _ in range(2)]
        until(lambda: seat.active == 2, "two in flight")
        client = raw(url)
        for _ in range(3):  # the connection goes on
            status, fields, text = client.send(GET % b"/").response()
            assert (status, fields["retry-after"], text) == (503, "1", b"too many requests at once")
        assert client.send(POST % (b"/echo", 5) + b"12345").response()[0] == 503
        assert client.send(GET % b"/healthz?full=1").response()[2] == b"ok"
        assert shed(seat) == {"concurrency": 4}
        assert seat.refused == 4
        reset(held.pop())
        until(lambda: seat.active == 1, "one has left")
        assert client.send(GET % b"/").response()[0] == 200


def test_idle_connections_give_way_the_oldest_first(wire, raw) -> None:
    with watched(make()[0], limit_connections=3) as (url, seat):
        old, young = raw(url), raw(url)
        for client in (old, young):
            assert client.send(GET % b"/").response()[0] == 200
        busy = raw(url).send(GET % b"/slow")
        until(lambda: states(seat) == {"idle": 2, "handler": 1}, "three connections")
        fourth = raw(url).send(GET % b"/")
        assert fourth.response()[0] == 200
        assert old.rest() == b""
        assert young.send(GET % b"/").response()[0] == 200
        assert shed(seat) == {"connections": 1}
        busy.close()


def test_where_none_is_idle_new_ones_wait_until_one_has_gone(wire, raw) -> None:
    with watched(make()[0], limit_connections=2) as (url, seat):
        held = [raw(url).send(GET % b"/slow") for _ in range(2)]
        until(lambda: seat.active == 2, "two in flight")
        waiting = raw(url, 0.4).send(GET % b"/")
        with pytest.raises(TimeoutError):
            waiting.response()
        assert seat.connections == 2
        waiting.socket.settimeout(PATIENCE)
        reset(held.pop())
        assert waiting.response()[0] == 200


def test_one_address_has_only_so_many(wire, raw) -> None:
    with watched(make()[0], limit_connections_per_peer=2, proxy_headers=False) as (url, seat):
        mine = [raw(url).send(GET % b"/") for _ in range(2)]
        assert [client.response()[0] for client in mine] == [200, 200]
        assert raw(url).rest() == b""
        other = socket.create_connection(mine[0].socket.getpeername(), source_address=("127.0.0.2", 0))
        with other:
            other.sendall(GET % b"/")
            assert other.recv(100).startswith(b"HTTP/1.1 200")
        mine.pop().close()
        until(lambda: seat.connections == 1, "one has left")
        assert raw(url).send(GET % b"/").response()[0] == 200
        assert shed(seat) == {"peer": 1}


def test_a_client_named_by_a_proxy_does_not_leave_in_place_of_a_direct_one(wire, raw) -> None:
    options = {"limit_connections_per_peer": 1, "forwarded_allow_ips": "127.0.0.1", "proxy_protocol": True}
    with watched(make()[0], **options) as (url, seat):
        proxied = raw(url).send(b"PROXY TCP4 127.0.0.2 127.0.0.1 4711 80\r\n" + GET % b"/")
        assert proxied.response()[0] == 200
        place = proxied.socket.getpeername()
        with socket.create_connection(place, source_address=("127.0.0.2", 0)) as direct:
            direct.sendall(GET % b"/")
            assert direct.recv(100).startswith(b"HTTP/1.1 200")
            proxied.close()
            until(lambda: seat.connections == 1, "the proxied one has left")
            with socket.create_connection(place, source_address=("127.0.0.2", 0)) as second:
                second.settimeout(PATIENCE)
                assert second.recv(100) == b""
        assert shed(seat) == {"peer": 1}


def test_unfinished_heads_share_a_budget(wire, raw) -> None:
    with watched(make()[0], limit_buffers=200_000) as (url, seat):
        clients = []
        for index in range(12):
            clients.append(raw(url).send(b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 30000))
            until(lambda count=index: seat.connections + shed(seat).get("buffers", 0) > count, "it was read")
        until(lambda: shed(seat).get("buffers", 0) >= 5, "room")
        assert seat.held <= 200_000 + 65536
        # The oldest had to go; the youngest is served.
        assert clients[0].response()[0] == 503
        clients[-1].send(b"\r\n\r\n")
        assert clients[-1].response()[0] == 200
        for client in clients:
            client.close()
        until(lambda: seat.held == 0, "nothing is held")


def test_unread_bodies_share_a_budget_and_are_still_whole(wire, raw) -> None:
    body = b"z" * 2_000_000
    with watched(make()[0], limit_buffers=100_000) as (url, seat):
        clients = [raw(url, PATIENCE) for _ in range(8)]

        def send(client: Any) -> None:
            with contextlib.suppress(OSError):
                client.send(POST % (b"/pieces", 4) + b"a")
                time.sleep(0.1)
                client.send(b"bcd" + GET % b"/" * 20000)  # pipelined: 700 kB that have to wait

        threads = [threading.Thread(target=send, args=[client], daemon=True) for client in clients]
        for thread in threads:
            thread.start()
        most = 0
        end = time.monotonic() + 0.6
        while time.monotonic() < end:
            most = max(most, seat.held)
            time.sleep(0.005)
        assert (
            most <= 100_000 + 8 * 3 * 65536
        )  # the budget, and what each had read, or was reading, when it was reached
        for client in clients:
            assert client.response()[2] == b"4"
        whole = raw(url, PATIENCE).send(POST % (b"/count", len(body)) + body)
        assert whole.response()[2] == b"2000000"
        for client in clients:
            client.close()
        until(lambda: seat.held == 0, "nothing is held")


def test_a_request_that_waited_too_long_is_turned_away(raw) -> None:
    """What came while the loop was busy has waited: in the kernel, which knows since when."""
    app = App()

    @app.get("/block")
    async def block() -> str:
        time.sleep(0.5)
        return "blocked"

    @app.get("/")
    async def index() -> str:
        return "hello"

    @app.get("/healthz")
    async def healthz() -> str:
        return "ok"

    with watched(app, shed_after=0.2, limit_exempt=["/healthz"]) as (url, seat):
        client, health = raw(url), raw(url)
        assert client.send(GET % b"/").response()[0] == 200
        raw(url).send(GET % b"/block")
        time.sleep(0.1)
        client.send(GET % b"/")
        health.send(GET % b"/healthz")
        status, fields, _ = client.response()
        assert (status, fields["retry-after"]) == (503, "1")
        assert health.response()[0] == 200
        assert client.send(GET % b"/").response()[0] == 200
        assert shed(seat) == {"age": 1}


def wsgi(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    if environ["PATH_INFO"] == "/thread":
        time.sleep(0.5)
    start_response("200 OK", [("Content-Length", "4")])
    return [b"done"]


def native() -> App:
    app = App()

    @app.get("/thread")
    def thread() -> str:
        time.sleep(0.5)
        return "done"

    @app.get("/plain")
    def plain() -> str:
        return "done"

    @app.get("/async")
    async def asynchronous() -> str:
        return "done"

    app.get("/healthz")(lambda: "fine")
    return app


@pytest.mark.parametrize("interface", ["native", "wsgi"])
def test_a_long_line_for_a_thread_turns_new_ones_away(wire, raw, interface: str) -> None:
    app: Any = native() if interface == "native" else wsgi
    options = {"threads": 1, "shed_after": 0.1, "limit_exempt": ["/healthz"]}
    with watched(app, interface=interface, **options) as (url, seat):
        line = [raw(url).send(GET % b"/thread")]
        until(lambda: seat.active == 1, "a thread has it")
        line.append(raw(url).send(GET % b"/plain"))
        until(lambda: seat.active == 2, "one waits")
        time.sleep(0.2)
        health = raw(url).send(GET % b"/healthz")
        status, fields, _ = raw(url).send(GET % b"/plain").response()
        assert (status, fields["retry-after"]) == (503, "1")
        if interface == "native":  # what needs no thread does not wait for one
            assert raw(url).send(GET % b"/async").response()[2] == b"done"
        assert [client.response()[2] for client in line] == [b"done", b"done"]
        assert health.response()[0] == 200
        assert raw(url).send(GET % b"/plain").response()[2] == b"done"
        assert shed(seat) == {"age": 1}


# ---------------------------------------------------------------------------------------------- statistics


def test_time_in_each_state_is_counted(wire, raw) -> None:
    with watched(make()[0]) as (url, seat):
        client = raw(url)
        time.sleep(0.2)
        client.send(b"GET /")
        until(lambda: states(seat) == {"head": 1}, "a head")
        time.sleep(0.2)
        client.send(b" HTTP/1.1\r\nHost: a\r\n\r\n")
        assert client.response()[0] == 200
        time.sleep(0.2)
        client.send(POST % (b"/echo", 3))
        until(lambda: states(seat) == {"body": 1}, "a body")
        time.sleep(0.2)
        client.send(b"abc" + POST % (b"/deaf", 1) + b"x")
        assert client.response()[2] == b"abc"
        assert client.response()[0] == 200
        spent = {word: ns / 1e9 for word, ns in zip(STATE_WORDS, seat.state_ns, strict=True)}
        for word in ("new", "head", "idle", "body"):
            assert 0.15 < spent[word] < 2.0, (word, spent)
        assert 0.65 < spent["handler"] < 3.0, spent
        assert spent["write"] == spent["upgraded"] == 0.0
        assert states(seat) == {"idle": 1}
        client.close()
        until(lambda: states(seat) == {}, "it has left")
