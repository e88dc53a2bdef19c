"""A whole Connection under random events: fragments of good and bad requests, pauses, ends, resets, deadlines, retirement.

Nothing is asserted about what is answered, but what holds whatever happens: no exception, no byte after a close, responses
that can be parsed one after the other, and nothing left behind. FASTSERVE_FUZZ_SECONDS goes on for so long (`make
nightly`); FASTSERVE_FUZZ_SEED repeats one life.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import AsyncIterator
from typing import Any

import uvloop
from conftest import MemoryTransport

from fastserve import App, Request, StreamingResponse
from fastserve.interfaces import make_handler
from fastserve.protocol import Board, Limits, Service

LIVES = 1500  # of connections, where no time is given
SECONDS = float(os.environ.get("FASTSERVE_FUZZ_SECONDS", "0"))
SEED = os.environ.get("FASTSERVE_FUZZ_SEED")


def make() -> App:
    app = App()

    @app.get("/")
    async def index() -> str:
        return "hello"

    @app.post("/echo")
    async def echo(request: Request) -> bytes:
        return await request.body()

    @app.post("/count", limit_request_body=200)
    async def count(request: Request) -> str:
        size = 0
        async for piece in request.stream():
            size += len(piece)
            await asyncio.sleep(0)
        return str(size)

    @app.post("/early")
    async def early() -> str:
        return "not read"

    @app.get("/stream")
    async def stream() -> StreamingResponse:
        async def body() -> AsyncIterator[bytes]:
            for _ in range(5):
                yield b"piece" * 20
                await asyncio.sleep(0)

        return StreamingResponse(body())

    @app.get("/wait")
    async def wait() -> str:
        await asyncio.sleep(0.002)
        return "waited"

    @app.get("/big")
    async def big() -> bytes:
        return b"b" * 70000

    return app


GOOD = (
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET / HTTP/1.0\r\n\r\n",
    b"GET /stream HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /stream HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /big HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\nhello world",
    b"POST /echo HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\nabc",
    b"POST /count HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n2\r\nde\r\n0\r\nDate: x\r\n\r\n",
    b"POST /count HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 150 + b"0\r\n\r\n",
    b"POST /early HTTP/1.1\r\nHost: a\r\nContent-Length: 300\r\n\r\n" + b"e" * 300,
    b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /nowhere?x=y HTTP/1.1\r\nHost: a\r\n\r\n",
)
BAD = (
    b"BAD\r\n\r\n",
    b"\r\n\r\n\r\n\r\n\r\n\r\n",
    b"GET / HTTP/1.1\r\n\r\n",
    b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\nabcde",
    b"POST /count HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
    b"POST /count HTTP/1.1\r\nHost: a\r\nContent-Length: 201\r\n\r\n" + b"c" * 201,
    b"POST /count HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 201 + b"0\r\n\r\n",
    b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5000\r\n\r\n" + b"l" * 5000,
    b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 5000 + b"\r\n\r\n",
)


class Transport(MemoryTransport):
    """One whose buffer holds something now and then."""

    buffered = 0

    def write(self, data: bytes) -> None:
        if not self.aborted:  # real ones drop what comes between a fault and connection_lost()
            super().write(data)

    def get_write_buffer_size(self) -> int:
        return self.buffered


def parsed(sent: bytes, requests: list[bytes], closed: bool) -> int:
    """Complete responses in what was sent. AssertionError if a client could not tell them apart."""
    count = 0
    while sent:
        head, end, rest = sent.partition(b"\r\n\r\n")
        if not end:
            assert closed, f"half a head: {sent[:200]!r}"
            return count
        first, *lines = head.split(b"\r\n")
        assert first.startswith(b"HTTP/1.1 ") and first[9:12].isdigit(), first
        status = int(first[9:12])
        fields = {line.partition(b":")[0].lower(): line.partition(b":")[2].strip() for line in lines}
        assert len(fields) == len(lines), f"a field twice: {head!r}"
        if status < 200:
            sent = rest
            continue
        method = requests[count].split(b" ")[0] if count < len(requests) else b""
        if method == b"HEAD" and status >= 400 and b"connection" in fields:
            return count + 1  # it may have been refused before its method was whole
        if method == b"HEAD" or status in (204, 304):
            sent = rest
        elif b"content-length" in fields:
            length = int(fields[b"content-length"])
            if len(rest) < length:
                assert closed, "half a body"
                return count
            sent = rest[length:]
        elif fields.get(b"transfer-encoding") == b"chunked":
            while True:
                size, end, rest = rest.partition(b"\r\n")
                if not end:
                    assert closed, "half a chunk"
                    return count
                length = int(size, 16)
                if len(rest) < length + 2:
                    assert closed, "half a chunk"
                    return count
                assert rest[length : length + 2] == b"\r\n"
                rest = rest[length + 2 :]
                if not length:
                    break
            sent = rest
        else:
            assert fields[b"connection"] == b"close" and closed, head
            return count + 1
        count += 1
        if fields.get(b"connection") == b"close":
            assert not sent, f"bytes behind the last response: {sent[:200]!r}"
    return count


async def life(service: Service, seed: int, app: App) -> None:
    """One connection, from its beginning to its end."""
    loop = asyncio.get_running_loop()
    dice = random.Random(seed)
    requests = [dice.choice(GOOD) for _ in range(dice.randrange(1, 6))]
    if dice.random() < 0.4:
        requests.append(dice.choice(BAD))
    if dice.random() < 0.2:  # and something that was hit on its way
        broken = bytearray(dice.choice(GOOD))
        broken[dice.randrange(len(broken))] = dice.randrange(256)
        requests.append(bytes(broken))
    stream = b"".join(requests)
    connection = service.connect()
    transport = Transport(loop, connection)
    if dice.random() < 0.1:
        transport.breaks_after = dice.randrange(1, 4)
    loop.call_soon(connection.connection_made, transport)
    pos, paused, ended = 0, False, False
    for _ in range(dice.randrange(1, 60)):
        if transport.closed:
            break
        roll = dice.random()
        if roll < 0.55 and pos < len(stream) and not ended and transport.reading:
            size = dice.choice((1, 2, 7, 40, 500, 100000))
            piece, pos = stream[pos : pos + size], pos + size
            loop.call_soon(connection.data_received, piece)
        elif roll < 0.62:
            transport.buffered = 0 if paused else dice.choice((1, 70000))
            loop.call_soon(connection.resume_writing if paused else connection.pause_writing)
            paused = not paused
        elif roll < 0.65 and not ended and transport.reading:
            ended = True
            loop.call_soon(connection.eof_received)
        elif roll < 0.66:
            loop.call_soon(connection.hangup)
        elif roll < 0.67:
            loop.call_soon(connection.retire, dice.random() < 0.5)
        elif roll < 0.68:
            loop.call_soon(connection.farewell)
        elif roll < 0.69:
            loop.call_soon(connection.tell)
        elif roll < 0.70:
            loop.call_soon(connection.abort)
        elif roll < 0.71:
            await asyncio.sleep(0.006)  # deadlines pass
        else:
            for _ in range(dice.randrange(4)):
                await asyncio.sleep(0)
        await asyncio.sleep(0)  # a callback of its own for each event, as of a real loop
    if dice.random() < 0.3 and not transport.closed:  # let it finish
        if paused:
            transport.buffered = 0
            loop.call_soon(connection.resume_writing)
        await asyncio.sleep(0.004)
    repr(connection)
    transport.abort()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    parsed(transport.sent, requests, closed=True)


async def lives(first: int, failures: list[Any]) -> None:
    loop = asyncio.get_running_loop()
    app, board = make(), Board(1)
    board[0].slot = 0
    limits = Limits(
        header_timeout=0.004,
        body_timeout=0.004,
        keep_alive_timeout=0.004,
        write_timeout=0.004,
        linger_timeout=0.004,
        request_timeout=0.02,
        rate_min=10000,
        rate_grace=0.004,
        head_bytes_max=2048,
        request_line_bytes_max=1024,
        body_bytes_max=1000,
        body_buffer_max=64,
        pipeline_bytes_max=256,
        drain_bytes_max=100,
        linger_bytes_max=2000,
        buffers_max=4000,
        concurrency_max=3,
    )
    service = Service(loop, make_handler(app, "native"), limits, board=board, half_close=bool(first % 2))
    try:
        seeds = iter(range(first, first + 50))
        for seed in seeds:
            failures.append(seed)
            if seed % 5 == 0:  # several at once share the scratch memory of their worker
                await asyncio.gather(*[life(service, seed * 1000 + index, app) for index in range(4)])
            else:
                await life(service, seed, app)
            for _ in range(200):
                if not service.connections and not service.active:
                    break
                await asyncio.sleep(0.001)
            seat = board[0]
            left = (service.connections, service.active, seat.held, seat.in_state)
            assert left == (0, 0, 0, (0,) * 8), f"left behind: {left}"
            failures.remove(seed)
    finally:
        service.close()
        board.close()


def test_whatever_happens_to_a_connection() -> None:
    failures: list[Any] = []
    first, end = (int(SEED) if SEED else 0), time.monotonic() + SECONDS
    while True:
        loop = uvloop.new_event_loop()
        loop.set_exception_handler(lambda _, context: failures.append(context))
        try:
            loop.run_until_complete(lives(first, failures))
            loop.run_until_complete(asyncio.sleep(0.005))
        except AssertionError as error:
            raise AssertionError(f"FASTSERVE_FUZZ_SEED={failures}: {error}") from error
        finally:
            loop.close()
        assert not failures, failures
        first += 50
        if SEED or (first >= LIVES and time.monotonic() >= end):
            return
