"""Connection on a transport in memory: batches, pipelining, persistence, faults, back-pressure, disconnects."""

from __future__ import annotations

import asyncio
import gc
import re
from typing import Any

import pytest

from fastserve import App, Request, Response, StreamingResponse

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


def app_of(handler: Any, path: str = "/", methods: tuple[str, ...] = ("GET", "POST"), **options: Any) -> App:
    app = App()
    app.add_route(path, handler, methods=methods, **options)
    return app


async def hello() -> str:
    return "hello"


def statuses(data: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d\d\d) ", data)]


def test_an_answer_is_one_write_of_head_and_body(memory):
    conn = memory(app_of(hello))
    conn.receive(GET)
    assert len(conn.transport.writes) == 1
    head, _, body = conn.transport.sent.partition(b"\r\n\r\n")
    assert body == b"hello"
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert head.count(b"date: ") == 1
    assert b"content-length: 5" in head
    assert b"connection" not in head


def test_a_pipelined_batch_is_one_write_in_order(memory):
    count = 0

    async def number() -> str:
        nonlocal count
        count += 1
        return f"<{count}>"

    conn = memory(app_of(number))
    conn.receive(GET * 16)
    assert len(conn.transport.writes) == 1
    assert re.findall(rb"<(\d+)>", conn.transport.sent) == [b"%d" % i for i in range(1, 17)]


@pytest.mark.parametrize("step", [1, 2, 3, 7, 50])
def test_the_cut_of_reads_does_not_matter(memory, step):
    async def echo(body: bytes) -> bytes:
        return body

    data = (
        GET
        + b"POST /e HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"
        + b"POST /e HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\nX-T: 1\r\n\r\n"
        + GET
    )
    app = app_of(hello)
    app.add_route("/e", echo, methods=("POST",))
    whole = memory(app)
    whole.receive(data)
    cut = memory(app)
    for i in range(0, len(data), step):
        cut.receive(data[i : i + step])

    def answers(conn: Any) -> bytes:
        return re.sub(rb"date: .*?\r\n", b"", conn.turn(0))

    got = answers(cut)
    assert statuses(got) == [200] * 4
    assert got == answers(whole)


def test_a_suspended_handler_holds_back_the_next_request(memory):
    gates: list[asyncio.Future[None]] = []

    async def wait() -> str:
        gate = asyncio.get_running_loop().create_future()
        gates.append(gate)
        await gate
        return str(len(gates))

    conn = memory(app_of(wait))
    assert conn.feed(GET * 3) == b""
    conn.turn()
    assert len(gates) == 1, "one request of a connection at a time"
    for i in range(3):
        gates[i].set_result(None)
        assert conn.turn(6).endswith(str(i + 1).encode())


def test_http10_closes_unless_asked_to_keep_alive(memory):
    conn = memory(app_of(hello))
    sent = conn.feed(b"GET / HTTP/1.0\r\n\r\n")
    assert b"connection: close\r\n" in sent
    assert conn.transport.closed or conn.transport.eof
    conn = memory(app_of(hello))
    sent = conn.feed(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    assert b"connection: keep-alive\r\n" in sent
    assert not conn.transport.closed


def test_head_has_the_fields_of_get_and_no_body(memory):
    conn = memory(app_of(hello))
    get = conn.feed(GET)
    head = conn.feed(GET.replace(b"GET", b"HEAD"))
    assert head == get.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"


def test_a_refused_request_is_answered_and_lingers(memory):
    conn = memory(app_of(hello))
    sent = conn.feed(b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n" + GET)
    assert statuses(sent) == [400]
    for field in (b"date: ", b"content-length: ", b"connection: close\r\n"):
        assert field in sent
    assert conn.transport.eof and not conn.transport.closed, "the peer must be able to read the answer"
    assert conn.feed(GET) == b"", "nothing more is answered"
    conn.eof()
    assert conn.transport.closed


def test_good_requests_before_a_bad_one_are_answered(memory):
    conn = memory(app_of(hello))
    assert statuses(conn.feed(GET + GET + b"GET / HTTP/1.1\r\n\r\n")) == [200, 200, 400]


@pytest.mark.parametrize(
    ("text", "status"),
    [
        (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505),
        (b"GET /" + b"a" * 9000, 414),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 70000, 431),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 501),
        (b"POST / HTTP/1.1\r\nHost: a\r\nExpect: tea\r\nContent-Length: 1\r\n\r\n", 417),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\n", 413),
    ],
)
def test_the_right_status(memory, text, status):
    conn = memory(app_of(hello), body_bytes_max=10)
    assert statuses(conn.feed(text)) == [status]


def test_a_bad_chunk_is_a_400_not_a_500(memory):
    seen: list[BaseException] = []

    async def read(request: Request) -> bytes:
        try:
            return await request.body()
        except BaseException as error:
            seen.append(error)
            raise

    conn = memory(app_of(read))
    assert conn.feed(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc") == b""
    conn.turn()
    assert statuses(conn.feed(b"XX")) == [400]
    conn.turn()
    assert len(seen) == 1, "the handler learns that its body will not come"
    assert statuses(conn.transport.take()) == []


def test_continue_is_said_when_the_body_is_asked_for(memory):
    gate = asyncio.Event()

    async def read(request: Request) -> bytes:
        await gate.wait()
        return await request.body()

    conn = memory(app_of(read))
    head = b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"
    assert conn.feed(head) == b""
    conn.turn()
    assert conn.transport.take() == b""
    gate.set()
    assert conn.turn() == b"HTTP/1.1 100 Continue\r\n\r\n"
    conn.feed(b"ok")
    assert statuses(conn.turn()) == [200]


def test_no_continue_when_the_handler_answers_first(memory):
    conn = memory(app_of(hello))
    sent = conn.feed(b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
    assert statuses(sent) == [200]
    assert b"connection: close\r\n" in sent, "nobody knows whether the body still comes"


def test_no_continue_for_http10(memory):
    async def read(request: Request) -> bytes:
        return await request.body()

    conn = memory(app_of(read))
    conn.feed(b"POST / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
    assert conn.turn() == b""
    conn.feed(b"ok")
    assert statuses(conn.turn()) == [200]


def test_an_unread_body_is_drained_up_to_the_limit(memory):
    conn = memory(app_of(hello), drain_bytes_max=100)
    sent = conn.feed(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n")
    assert b"connection: close" not in sent
    assert conn.feed(b"x" * 100) == b""
    assert statuses(conn.feed(GET)) == [200]
    conn = memory(app_of(hello), drain_bytes_max=100)
    sent = conn.feed(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 101\r\n\r\n")
    assert b"connection: close\r\n" in sent
    assert conn.transport.eof
    conn = memory(app_of(hello), drain_bytes_max=100)
    conn.feed(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
    conn.feed(b"5a\r\n" + b"x" * 90 + b"\r\n" + b"5a\r\n" + b"x" * 90 + b"\r\n")
    assert conn.transport.eof, "chunked drains no further either"


def test_a_streamed_body_is_bounded_by_back_pressure(memory):
    gate = asyncio.Event()

    async def read(request: Request) -> str:
        total = 0
        await gate.wait()
        async for chunk in request.stream():
            total += len(chunk)
        return str(total)

    conn = memory(app_of(read), body_buffer_max=1000)
    conn.feed(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5000\r\n\r\n")
    conn.turn()
    sent = 0
    while conn.transport.reading:
        conn.feed(b"x" * 400)
        conn.turn()
        sent += 400
        assert sent <= 5000
    assert sent < 2000, "reading pauses when the buffer is full"
    gate.set()
    conn.turn()
    assert conn.transport.reading, "and goes on when it was read"
    conn.feed(b"x" * (5000 - sent))
    assert conn.turn(8).endswith(b"5000")


def test_pipelined_requests_that_wait_are_bounded(memory):
    gate = asyncio.Event()

    async def wait() -> str:
        await gate.wait()
        return "x"

    conn = memory(app_of(wait), pipeline_bytes_max=1000)
    conn.feed(GET * 100)
    assert not conn.transport.reading
    gate.set()
    answers = b""
    for _ in range(400):
        answers += conn.turn(1)
    assert statuses(answers) == [200] * 100
    assert conn.transport.reading


def test_no_new_request_while_the_peer_takes_no_answers(memory):
    conn = memory(app_of(hello))
    conn.feed(GET)
    conn.call(conn.connection.pause_writing)
    assert conn.feed(GET * 3) == b""
    conn.call(conn.connection.resume_writing)
    assert statuses(conn.transport.take()) == [200] * 3


def test_fin_cancels_a_waiting_handler(memory):
    seen: list[str] = []

    async def wait() -> str:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise
        return "never"

    conn = memory(app_of(wait))
    conn.feed(GET)
    conn.turn()
    conn.eof()
    conn.turn()
    assert seen == ["cancelled"]
    assert conn.transport.closed
    assert conn.transport.sent == b""


def test_fin_with_whole_requests_they_are_answered(memory):
    conn = memory(app_of(hello))
    conn.receive(GET * 3)
    conn.eof()
    assert statuses(conn.transport.sent) == [200] * 3
    assert conn.transport.closed


def test_half_close_keeps_the_handler(memory):
    gate = asyncio.Event()

    async def wait() -> str:
        await gate.wait()
        return "late"

    conn = memory(app_of(wait), half_close=True)
    conn.feed(GET)
    conn.turn()
    conn.eof()
    gate.set()
    assert conn.turn(6).endswith(b"late")
    assert conn.transport.closed


def test_a_route_may_outlive_its_client(memory):
    done: list[bool] = []
    gate = asyncio.Event()

    async def wait() -> str:
        await gate.wait()
        done.append(True)
        return "late"

    conn = memory(app_of(wait, cancel_on_disconnect=False))
    conn.feed(GET)
    conn.turn()
    conn.eof()
    gate.set()
    conn.turn(6)
    assert done == [True]


def test_an_incomplete_body_is_never_passed_off_as_whole(memory):
    seen: list[Any] = []

    async def read(request: Request) -> bytes:
        try:
            seen.append(await request.body())
        except BaseException as error:
            seen.append(error)
            raise
        return b""

    conn = memory(app_of(read))
    conn.feed(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc")
    conn.turn()
    conn.eof()
    conn.turn()
    assert len(seen) == 1 and isinstance(seen[0], BaseException)
    assert statuses(conn.transport.sent) == []


def test_a_response_shorter_than_declared_is_cut(memory):
    async def short() -> Response:
        async def chunks():
            yield b"abc"

        return StreamingResponse(chunks(), headers={"content-length": "10"})

    conn = memory(app_of(short))
    conn.feed(GET)
    conn.turn(8)
    assert conn.transport.closed
    assert conn.service.active == 0


def test_a_response_longer_than_declared_cannot_desynchronise(memory):
    async def long() -> Response:
        async def chunks():
            yield b"abc"
            yield b"HTTP/1.1 200 OK\r\nforged: yes\r\n\r\n"

        return StreamingResponse(chunks(), headers={"content-length": "3"})

    conn = memory(app_of(long))
    sent = conn.feed(GET) + conn.turn(8)
    assert sent.endswith(b"\r\n\r\nabc")
    assert b"forged" not in sent
    assert conn.transport.closed or conn.transport.eof


def test_graceful_end(memory):
    gate = asyncio.Event()

    async def wait() -> str:
        await gate.wait()
        return "done"

    busy = memory(app_of(wait))
    busy.feed(GET)
    busy.turn()
    busy.call(busy.service.shutdown)
    assert not busy.transport.closed
    gate.set()
    sent = busy.turn(6)
    assert b"connection: close\r\n" in sent and sent.endswith(b"done")
    assert busy.transport.closed or busy.transport.eof
    idle = memory(app_of(hello))
    idle.feed(GET)
    idle.call(idle.service.shutdown)
    assert idle.transport.closed


def test_repr_tells_the_state(memory):
    conn = memory(app_of(hello))
    assert repr(conn.connection).startswith("<Connection new peer=('192.0.2.7', 4711) reading=HEAD writing=HEAD")
    conn.feed(GET)
    assert conn.connection.state == "idle"
    conn.feed(b"GET / HT")
    assert conn.connection.state == "active"


def test_response_headers_cannot_be_split(memory):
    async def evil(request: Request) -> Response:
        response = Response(b"x")
        response.headers["x-a"] = "ok"
        response.raw_headers.append((b"x-b", b"1\r\nSet-Cookie: forged=1"))
        return response

    conn = memory(app_of(evil))
    sent = conn.feed(GET) + conn.turn()
    assert statuses(sent) == [500]
    assert b"forged" not in sent


@pytest.mark.parametrize("kind", ["async", "inline"])
def test_a_stream_that_never_waits_learns_that_its_peer_is_gone(memory, kind):
    """A transport that meets a fault is closing at once, and tells connection_lost only when the loop turns."""
    made = 0

    async def asynchronous() -> Any:
        nonlocal made
        while made < 100_000:
            made += 1
            yield b"x" * 1000

    def inline() -> Any:
        nonlocal made
        while made < 100_000:
            made += 1
            yield b"x" * 1000

    app = app_of(asynchronous) if kind == "async" else app_of(inline, blocking=False)
    conn = memory(app)
    conn.transport.breaks_after = 5
    conn.receive(GET)
    conn.turn(10)
    assert 5 <= made < 64  # the first pieces leave together, at the end of the batch
    assert conn.service.connections == 0


def test_a_stream_that_never_waits_gives_others_their_turn(memory):
    made = 0

    async def endless() -> Any:
        nonlocal made
        while made < 100_000:
            made += 1
            yield b"x"

    conn = memory(app_of(endless))
    conn.receive(GET)
    assert made < 100
    conn.eof()
    conn.turn(5)
    assert made < 1000
    assert conn.service.connections == 0


CHUNKED = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"


def on_the_service_of(conn: Any) -> Any:
    """A second connection that shares the first one's service, and with it its scratch memory."""
    from conftest import Memory, MemoryTransport

    other = Memory.__new__(Memory)
    other.loop, other.service = conn.loop, conn.service
    other.connection = conn.service.connect()
    other.transport = MemoryTransport(conn.loop, other.connection)
    other.connection.connection_made(other.transport)
    return other


@pytest.mark.parametrize("fault", [b"6\r\nSECRET\r\nZZ\r\n", b"6\r\nSECRETxx"])
def test_a_refused_body_leaves_no_byte_for_another_connection(memory, fault):
    async def echo(body: bytes) -> bytes:
        return body

    conn = memory(app_of(echo))
    conn.feed(CHUNKED + b"3\r\nabc\r\n")
    assert statuses(conn.feed(fault)) == [400]
    assert conn.transport.eof, "the peer can read the answer"
    other = on_the_service_of(conn)
    sent = other.feed(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello") + other.turn()
    assert sent.endswith(b"\r\n\r\nhello") and b"content-length: 5\r\n" in sent
    other.eof()
    other.turn()


def test_a_body_over_the_limit_behind_a_thread_is_a_413(memory):
    def size(body: bytes) -> str:
        return str(len(body))

    conn = memory(app_of(size), body_bytes_max=5)
    conn.feed(CHUNKED + b"3\r\nabc\r\n")
    assert statuses(conn.feed(b"3\r\nabc\r\n")) == [413]
    assert conn.transport.eof


def test_half_a_trailer_section_does_not_stop_the_reading(memory):
    async def read(request: Request) -> bytes:
        return await request.body()

    conn = memory(app_of(read), pipeline_bytes_max=64)
    conn.feed(CHUNKED + b"3\r\nabc\r\n")
    conn.turn()
    conn.feed(b"0\r\nX-A: " + b"v" * 100)
    assert conn.transport.reading
    conn.feed(b"\r\n\r\n")
    assert conn.turn().endswith(b"abc")


def test_a_peer_that_stops_reading_meets_a_deadline_while_we_close(memory):
    conn = memory(app_of(hello), linger_timeout=0.03, write_timeout=0.05)
    conn.transport.get_write_buffer_size = lambda: 1000
    conn.transport.close = lambda: setattr(conn.transport, "closed", True)  # waits for the flush
    conn.feed(b"BAD\r\n\r\n")
    assert conn.transport.eof
    until = conn.loop.time() + 2
    while not conn.transport.aborted and conn.loop.time() < until:
        conn.loop.run_until_complete(asyncio.sleep(0.01))
    assert conn.transport.aborted
    conn.call(conn.connection.connection_lost, None)


def test_two_readers_of_a_body_are_an_error_not_a_hang(memory):
    seen: list[str] = []

    async def both(request: Request) -> bytes:
        async def stream() -> None:
            await asyncio.sleep(0)
            try:
                async for _ in request.stream():
                    pass
            except RuntimeError as error:
                seen.append(str(error))

        task = asyncio.create_task(stream())
        try:
            return await request.body()
        finally:
            await task

    conn = memory(app_of(both))
    conn.feed(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\nabc")
    conn.turn(4)
    conn.feed(b"def")
    assert conn.turn(6).endswith(b"abcdef")
    assert seen == ["the request body is already being read by another task"]


def test_half_close_with_an_incomplete_pipelined_body(memory):
    gate = asyncio.Event()

    async def wait(request: Request) -> bytes:
        await gate.wait()
        return await request.body()

    conn = memory(app_of(wait), half_close=True)
    conn.feed(GET + b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc")
    conn.turn()
    conn.eof()
    gate.set()
    assert statuses(conn.turn(10)) == [200]
    assert conn.transport.closed and conn.service.active == 0


def test_a_cancelled_handler_leaves_no_circle(memory):
    async def wait(request: Request) -> str:
        await asyncio.sleep(60)
        return "never"

    gc.collect()
    gc.disable()
    try:
        before = {id(item) for item in gc.get_objects()}  # spare calls of other servers among them
        for _ in range(3):
            conn = memory(app_of(wait))
            conn.feed(GET)
            conn.turn()
            conn.eof()
            conn.turn(5)
        left = [type(item).__name__ for item in gc.get_objects() if id(item) not in before]
        assert left.count("HandlerTask") == left.count("NativeCall") == left.count("Request") == 0
    finally:
        gc.enable()


def test_connect_is_never_promised_a_tunnel(memory):
    app = app_of(hello)

    @app.middleware
    async def anything(request: Request, call_next: Any) -> Any:
        return Response(b"yes")

    conn = memory(app)
    sent = conn.feed(b"CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n") + conn.turn()
    assert statuses(sent) == [500]


def test_a_call_next_that_outlives_its_response_is_an_error_not_a_crash(memory):
    errors: list[str] = []
    app = App()

    @app.get("/q/{n:int}")
    async def q(request: Request, n: int) -> str:
        return str(n)

    @app.before_request
    async def slow(request: Request) -> None:
        await asyncio.sleep(0.01)

    @app.middleware
    async def impatient(request: Request, call_next: Any) -> Any:
        task = asyncio.ensure_future(call_next(request))

        def tell(done: Any) -> None:
            errors.append(str(done.exception()))

        task.add_done_callback(tell)
        await asyncio.sleep(0)
        return "timeout"

    conn = memory(app)
    sent = conn.feed(b"GET /q/1 HTTP/1.1\r\nHost: a\r\n\r\n") + conn.turn(10)
    assert sent.endswith(b"timeout")
    conn.loop.run_until_complete(asyncio.sleep(0.03))
    assert errors == ["the response is complete already"]
    assert statuses(conn.feed(b"GET /q/2 HTTP/1.1\r\nHost: a\r\n\r\n") + conn.turn(10)) == [200]
    conn.loop.run_until_complete(asyncio.sleep(0.03))
