"""The doll's house: a whole HTTP/1.1 server in plain Python, to be read before the real one.

It has the real one's names and the real one's eight stations, and what it takes, it takes strictly (RFC 9112). Left
out, to fit on two screens: chunked bodies, absolute-form targets, Expect, deadlines, streaming.
Run: python examples/tiny_server.py [PORT]     The tour: docs/follow-one-request.md
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus

HEAD_BYTES_MAX, FIELDS_MAX, BODY_BYTES_MAX = 65536, 100, 1 << 20
TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
REQUEST_LINE = re.compile(rb"(%b) (/[!\"$-~]*) HTTP/1\.([0-9])" % TOKEN)
FIELD = re.compile(rb"(%b):[ \t]*([^\x00-\x08\x0a-\x1f\x7f]*)" % TOKEN)


class RemoteProtocolError(Exception):
    """The peer broke a rule; (status, text) is its answer."""


@dataclass
class Request:
    method: str = ""
    target: str = ""
    headers: dict[str, str] | None = None
    length: int = 0
    keep_alive: bool = False
    body: bytes = b""


Handler = Callable[[Request], Awaitable[tuple[int, bytes]]]


def parse_head(head: bytes) -> Request:
    first, *lines = head.split(b"\r\n")
    line, fields = REQUEST_LINE.fullmatch(first), [FIELD.fullmatch(text) for text in lines]
    if line is None or None in fields:
        raise RemoteProtocolError(400, "malformed request line" if line is None else "malformed field line")
    pairs = [(field[1].decode().lower(), field[2].decode("latin-1").strip(" \t")) for field in fields if field]
    headers, names, http11 = dict(pairs), [name for name, _ in pairs], line[3] != b"0"
    length = headers.get("content-length", "0")
    if len(lines) > FIELDS_MAX:
        raise RemoteProtocolError(431, "too many fields")
    if names.count("host") > 1 or (http11 and not headers.get("host")):
        raise RemoteProtocolError(400, "missing Host, or more than one")
    if names.count("content-length") > 1 or not re.fullmatch("[0-9]{1,18}", length):
        raise RemoteProtocolError(400, "malformed Content-Length")
    for name, status in (("transfer-encoding", 501), ("expect", 417)):
        if name in headers:
            raise RemoteProtocolError(status, f"{name} is not taken here")
    if int(length) > BODY_BYTES_MAX:
        raise RemoteProtocolError(413, "request body too long")
    options = [option.strip(" \t") for option in headers.get("connection", "").lower().split(",")]
    keep_alive = "close" not in options and (http11 or "keep-alive" in options)
    return Request(line[1].decode(), line[2].decode(), headers, int(length), keep_alive)


class Connection(asyncio.Protocol):
    """One TCP stream, from connection_made to connection_lost."""

    def __init__(self, handler: Handler) -> None:
        self.handler, self.buffer, self.out = handler, bytearray(), bytearray()
        self.exchange: Exchange | None = None  # the one in hand: the next request waits its turn
        self.closing = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        # station 1: accept
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        # station 2: read
        if not self.closing:
            self.buffer += data
            self.consume()
            if self.exchange and len(self.buffer) > HEAD_BYTES_MAX:
                self.transport.pause_reading()  # a peer that sends ahead of its answers waits

    def consume(self) -> None:
        # station 3: parse
        try:
            while self.exchange is None and not self.closing:
                end = self.buffer.find(b"\r\n\r\n")  # done, need more, or wrong; the real parser never looks twice
                seen = bytes(self.buffer if end < 0 else self.buffer[: end + 4])
                if re.search(rb"(?<!\r)\n|\r[^\n]", seen):
                    raise RemoteProtocolError(400, "line not ended by CRLF")
                if len(seen) > HEAD_BYTES_MAX:
                    raise RemoteProtocolError(431, "request head too long")
                if end < 0 or len(self.buffer) < end + 4 + (request := parse_head(seen[:-4])).length:
                    return
                request.body = bytes(self.buffer[end + 4 : end + 4 + request.length])
                del self.buffer[: end + 4 + request.length]
                # station 4: exchange
                self.exchange = Exchange(self, request)
                self.exchange.task = asyncio.ensure_future(self.exchange.handle(self.handler))
        except RemoteProtocolError as error:
            Exchange(self, Request()).respond(error.args[0], error.args[1].encode())

    def flush(self) -> None:
        # station 7: write
        self.transport.write(bytes(self.out))
        self.out.clear()

    def exchange_ended(self, exchange: Exchange) -> None:
        # station 8: end
        self.exchange = None
        if exchange.request.keep_alive:
            self.transport.resume_reading()
            self.consume()  # the next of a pipelined batch may be here already
        else:  # linger: after a plain close with bytes unread, a reset would destroy the answer on its way
            self.closing = True
            self.transport.write_eof()
            asyncio.get_running_loop().call_later(5, self.transport.close)

    def connection_lost(self, exc: Exception | None) -> None:
        self.closing = True
        if self.exchange and self.exchange.task:
            self.exchange.task.cancel()  # nobody waits for this answer any more


class Exchange:
    """One request and its response."""

    def __init__(self, connection: Connection, request: Request) -> None:
        self.connection, self.request = connection, request
        self.task: asyncio.Future[None] | None = None

    async def handle(self, handler: Handler) -> None:
        # station 5: handle
        try:
            status, body = await handler(self.request)
        except Exception as error:
            print(f"{self.request.method} {self.request.target}: {error!r}", file=sys.stderr)
            status, body = 500, b"Internal Server Error"
        self.respond(status, body)

    def respond(self, status: int, body: bytes) -> None:
        # station 6: respond
        head = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\ndate: {formatdate(usegmt=True)}\r\n"
        head += f"content-type: text/plain; charset=utf-8\r\ncontent-length: {len(body)}\r\n"
        head += "\r\n" if self.request.keep_alive else "connection: close\r\n\r\n"
        self.connection.out += head.encode() + (b"" if self.request.method == "HEAD" else body)
        self.connection.flush()
        self.connection.exchange_ended(self)


async def hello(request: Request) -> tuple[int, bytes]:
    if request.target == "/slow":
        await asyncio.sleep(1)
    return 200, request.body if request.method == "POST" else f"{request.method} {request.target}\n".encode()


async def main(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(lambda: Connection(hello), "127.0.0.1", port)
    print(f"listening on http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 8000))
