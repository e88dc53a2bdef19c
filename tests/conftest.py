"""Fixtures: `memory` (a Connection on a transport in memory), `raw` (a socket that speaks bytes).

FASTSERVE_TEST_LENS=full (or another mode) has every server of this process trace its requests: whatever a test expects of a
server it may expect of one whose lens is on.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest


@pytest.fixture(autouse=True)
def log_as_it_was() -> Iterator[None]:
    """The logger "fastserve", put back: fastserve.run() in this process sets it up for good."""
    logger = logging.getLogger("fastserve")
    before = (logger.handlers[:], logger.level, logger.propagate)
    yield
    logger.handlers[:], _, logger.propagate = before
    logger.setLevel(before[1])


def _with_lens(mode: str) -> list[Any]:
    """Have each Service made with a recorder. Returns the recorders."""
    import fastserve.process.server
    import fastserve.protocol
    from fastserve.telemetry.lens import LensMemory, parse_mode
    from fastserve.telemetry.lens.recorder import Recorder

    recorders: list[Any] = []
    plain = fastserve.protocol.Service

    def traced(loop: asyncio.AbstractEventLoop, *arguments: Any, **named: Any) -> Any:
        memory = LensMemory(1)
        memory.set_mode(parse_mode(mode))
        area = memory.area(0)
        area.start(0, os.getpid(), 1)
        recorder = Recorder(area, loop)
        recorders.append(recorder)
        return plain(loop, *arguments, **{"lens": recorder} | named)

    fastserve.protocol.Service = traced  # type: ignore[misc, assignment]
    fastserve.process.server.Service = traced  # type: ignore[misc, assignment]
    return recorders


RECORDERS = _with_lens(os.environ["FASTSERVE_TEST_LENS"]) if os.environ.get("FASTSERVE_TEST_LENS") else []


@pytest.fixture(autouse=True)
def lens_is_well() -> Iterator[None]:
    """No test makes the lens fail."""
    yield
    failures = sum(recorder.area.failures for recorder in RECORDERS)
    for recorder in RECORDERS:
        recorder.close()
    RECORDERS.clear()
    assert failures == 0


class MemoryTransport:
    """An asyncio transport that remembers what was done to it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, protocol: Any) -> None:
        self.loop = loop
        self.protocol = protocol
        self.writes: list[bytes] = []
        self.reading = True
        self.closed = self.aborted = self.eof = False
        self.breaks_after: int | None = None  # writes, as when the peer resets the connection

    @property
    def sent(self) -> bytes:
        return b"".join(self.writes)

    def take(self) -> bytes:
        sent = self.sent
        self.writes.clear()
        return sent

    def write(self, data: bytes) -> None:
        if self.breaks_after is not None and self.closed:
            return  # real transports drop what comes after a fault
        assert not self.closed and not self.eof, "write after close"
        self.writes.append(bytes(data))
        if len(self.writes) == self.breaks_after:
            self.abort()

    def writelines(self, pieces: list[bytes]) -> None:
        self.write(b"".join(pieces))

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return {"peername": ("192.0.2.7", 4711), "sockname": ("192.0.2.1", 80)}.get(name, default)

    def pause_reading(self) -> None:
        assert self.reading
        self.reading = False

    def resume_reading(self) -> None:
        assert not self.reading
        self.reading = True

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.eof = True

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self.loop.call_soon(self.protocol.connection_lost, None)

    def abort(self) -> None:
        self.aborted = True
        self.close()


class Memory:
    """One Connection in memory, answering with `app`. `feed` is the peer's sending side."""

    def __init__(self, loop: asyncio.AbstractEventLoop, app: Any, **limits: Any) -> None:
        from fastserve.interfaces import make_handler
        from fastserve.protocol import Limits, Service

        half_close = limits.pop("half_close", False)
        interface = limits.pop("interface", "native")
        self.loop = loop
        self.service = Service(
            loop, make_handler(app, interface), Limits(**limits), server_header=False, half_close=half_close
        )
        self.connection = self.service.connect()
        self.transport = MemoryTransport(loop, self.connection)
        self.connection.connection_made(self.transport)

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call it as the loop calls a protocol: from a callback, in no task."""
        done = self.loop.create_future()

        def go() -> None:
            try:
                done.set_result(function(*arguments))
            except BaseException as error:
                done.set_exception(error)

        self.loop.call_soon(go)
        return self.loop.run_until_complete(done)

    def receive(self, data: bytes) -> None:
        self.call(self.connection.data_received, data)

    def eof(self) -> None:
        self.call(self.connection.eof_received)

    def feed(self, data: bytes) -> bytes:
        """What was written in answer, at once."""

        def go() -> bytes:
            self.connection.data_received(data)
            return self.transport.take()

        answer: bytes = self.call(go)
        return answer

    def turn(self, turns: int = 3) -> bytes:
        """Let the loop go round; what was written meanwhile."""
        for _ in range(turns):
            self.loop.run_until_complete(asyncio.sleep(0))
        return self.transport.take()


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    import uvloop

    loop = uvloop.new_event_loop()
    yield loop
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()


@pytest.fixture
def memory(loop: asyncio.AbstractEventLoop) -> Iterator[Callable[..., Memory]]:
    made: list[Memory] = []

    def make(app: Any, **limits: Any) -> Memory:
        made.append(Memory(loop, app, **limits))
        return made[-1]

    yield make
    for item in made:
        item.transport.close()
        item.turn(5)
        item.service.close()


class Raw:
    """A client that speaks bytes."""

    def __init__(self, url: str, timeout: float = 5.0) -> None:
        parts = urlsplit(url)
        self.socket = socket.create_connection((parts.hostname, parts.port), timeout)
        self.buffer = b""

    def send(self, data: bytes) -> Raw:
        self.socket.sendall(data)
        return self

    def until(self, mark: bytes) -> bytes:
        """Everything up to and with `mark`."""
        while mark not in self.buffer:
            data = self.socket.recv(65536)
            assert data, f"closed before {mark!r}; got {self.buffer!r}"
            self.buffer += data
        head, _, self.buffer = self.buffer.partition(mark)
        return head + mark

    def exactly(self, size: int) -> bytes:
        while len(self.buffer) < size:
            data = self.socket.recv(65536)
            assert data, f"closed after {len(self.buffer)} of {size} bytes"
            self.buffer += data
        data, self.buffer = self.buffer[:size], self.buffer[size:]
        return data

    def response(self, head_only: bool = False) -> tuple[int, dict[str, str], bytes]:
        """The next response: status, fields, body (by Content-Length or chunked)."""
        head = self.until(b"\r\n\r\n").decode("latin-1")
        first, *lines = head[:-4].split("\r\n")
        assert first.startswith("HTTP/1.1 "), first
        fields: dict[str, str] = {}
        for line in lines:
            name, _, value = line.partition(":")
            assert name.lower() not in fields, f"{name} twice"
            fields[name.lower()] = value.strip()
        status = int(first.split()[1])
        if head_only or status < 200 or status in (204, 304):
            return status, fields, b""
        if "content-length" in fields:
            return status, fields, self.exactly(int(fields["content-length"]))
        if fields.get("transfer-encoding") == "chunked":
            body = b""
            while size := int(self.until(b"\r\n"), 16):
                body += self.exactly(size)
                assert self.exactly(2) == b"\r\n"
            assert self.exactly(2) == b"\r\n"
            return status, fields, body
        return status, fields, self.rest()

    def rest(self) -> bytes:
        """Everything up to the end; a reset is an error."""
        pieces = [self.buffer]
        self.buffer = b""
        while data := self.socket.recv(65536):
            pieces.append(data)
        return b"".join(pieces)

    def close(self) -> None:
        self.socket.close()


@pytest.fixture
def raw() -> Iterator[Callable[..., Raw]]:
    made: list[Raw] = []

    def make(url: str, timeout: float = 5.0) -> Raw:
        made.append(Raw(url, timeout))
        return made[-1]

    yield make
    for item in made:
        item.close()
