"""The checks that a contestant passes before it is measured: what the arena's own validation demands of each profile.

Called by measure.py and tests. A check asks a running server and raises Invalid, which says what came instead. Inputs are
chosen anew each time, so that no answer can be kept ready.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import http.client
import json
import os
import random
import socket
import ssl
import struct
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import servers
from . import data

TIMEOUT_S = 30.0
FRAGMENT_S = 0.03  # between the writes of a request that comes in pieces
GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 section 1.3
TEXT, BINARY, CLOSE = 1, 2, 8  # opcodes, RFC 6455 section 5.2
COMPRESSIBLE = {".css": "text/css", ".js": "text/javascript", ".json": "application/json"}


class Invalid(Exception):
    """An answer that is not what the rules ask for; the message is one line."""


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    fields: Mapping[str, str]  # names in lower case
    body: bytes

    @property
    def kind(self) -> str:
        """The content type, without parameters."""
        return self.fields.get("content-type", "").partition(";")[0].strip().lower()


@dataclass(frozen=True, slots=True)
class Contestant:
    """A running server: where it listens, and the folder it was given as /data."""

    port: int
    data: Path
    tls_port: int = 0
    database: bool = False  # is there one behind it? Without, the rules want an empty answer

    def ask(
        self,
        target: str,
        body: bytes | Iterator[bytes] | None = None,
        *,
        method: str = "",
        fields: Mapping[str, str] | None = None,
        tls: bool = False,
    ) -> Reply:
        """One request on a connection of its own; a body that is an iterator goes chunked."""
        connection: http.client.HTTPConnection
        if tls:
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            context.set_alpn_protocols(["http/1.1"])
            connection = http.client.HTTPSConnection(servers.HOST, self.tls_port, timeout=TIMEOUT_S, context=context)
        else:
            connection = http.client.HTTPConnection(servers.HOST, self.port, timeout=TIMEOUT_S)
        try:
            chunked = body is not None and not isinstance(body, bytes)
            connection.request(method or ("GET" if body is None else "POST"), target, body, dict(fields or {}),
                               encode_chunked=chunked)  # fmt: skip
            answer = connection.getresponse()
            names = {name.lower(): value for name, value in answer.getheaders()}
            return Reply(answer.status, names, answer.read())
        except (OSError, http.client.HTTPException) as error:
            raise Invalid(f"{target}: {error!r}") from error
        finally:
            connection.close()


def expect(what: str, found: object, wanted: object) -> None:
    if found != wanted:
        raise Invalid(f"{what}: {found!r}, not {wanted!r}")


def text_is(what: str, reply: Reply, wanted: object) -> None:
    """200, as text, and this body."""
    expect(f"{what}, status", reply.status, 200)
    expect(f"{what}, body", reply.body.strip(), str(wanted).encode())
    expect(f"{what}, content type", reply.kind, "text/plain")


# ------------------------------------------------------------------------------------------------ baseline and noisy


def sums(server: Contestant) -> None:
    """Of the query, and of the query and a body: with a length, chunked, and never the same."""
    text_is("GET", server.ask("/baseline11?a=13&b=42"), 55)
    for _ in range(2):
        a, b, more = random.sample(range(100, 1000), 3)
        target, kind = f"/baseline11?a={a}&b={b}", {"Content-Type": "text/plain"}
        text_is(target, server.ask(target), a + b)
        body = str(more).encode()
        text_is(f"POST {target}", server.ask(target, body, fields=kind), a + b + more)
        text_is(f"chunked POST {target}", server.ask(target, iter([body]), fields=kind), a + b + more)


def fragments(server: Contestant) -> None:
    """Requests that come in pieces: in the middle of the target, before the fields, before and inside the body."""
    get = b"GET /baseline11?a=13&b=42 HTTP/1.1\r\n", b"Host: localhost\r\n", b"Connection: close\r\n\r\n"
    length = b"Host: localhost\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n"
    post = b"POST /baseline11?a=13&b=42 HTTP/1.1\r\n" + length + get[2]
    for pieces, wanted in (
        ((get[0][:11], get[0][11:], get[1] + get[2]), b"55"),
        ((get[0], get[1], b"User-Agent: pieces\r\n", get[2]), b"55"),
        ((post, b"20"), b"75"),
        ((post, b"2", b"0"), b"75"),
    ):
        with socket.create_connection((servers.HOST, server.port), timeout=TIMEOUT_S) as client:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for piece in pieces:
                client.sendall(piece)
                time.sleep(FRAGMENT_S)
            with client.makefile("rb") as stream:
                try:
                    answer = servers._read_answer(stream)
                except (OSError, ValueError, EOFError) as error:
                    raise Invalid(f"a request in {len(pieces)} pieces: {error!r}") from error
        expect(f"a request in {len(pieces)} pieces", (answer.status, answer.body.strip()), (200, wanted))


def refusals(server: Contestant) -> None:
    """An unknown method gets 400 to 499 and an unknown path 404, and good requests are still answered afterwards."""
    reply = server.ask("/baseline11?a=1&b=1", method="GETT")
    if not 400 <= reply.status < 500:
        raise Invalid(f"an unknown method: {reply.status}")
    expect("an unknown path, status", server.ask("/this/path/does/not/exist").status, 404)
    a, b = random.sample(range(100, 1000), 2)
    text_is("after the noise", server.ask(f"/baseline11?a={a}&b={b}"), a + b)


def pipeline(server: Contestant) -> None:
    text_is("/pipeline", server.ask("/pipeline"), "ok")
    raw = b"GET /pipeline HTTP/1.1\r\nHost: localhost\r\n\r\n" * 16
    try:
        answers = servers.ask(server.port, raw, 16)
    except (OSError, ValueError, EOFError) as error:
        raise Invalid(f"sixteen requests in one write: {error!r}") from error
    expect("sixteen requests in one write", {(one.status, one.body) for one in answers}, {(200, b"ok")})


# --------------------------------------------------------------------------------------------------------------- JSON


def check_items(what: str, reply: Reply, body: bytes, count: int, m: int) -> None:
    """So many items, the first of the data set, each with its total."""
    expect(f"{what}, status", reply.status, 200)
    expect(f"{what}, content type", reply.kind, "application/json")
    try:
        told = json.loads(body)
    except ValueError as error:
        raise Invalid(f"{what}: no JSON: {error}") from error
    wanted = [item | {"total": item["price"] * item["quantity"] * m} for item in data.items()[:count]]
    expect(what, told, {"items": wanted, "count": count})


def items(server: Contestant, tls: bool = False) -> None:
    for count, m in ((12, 3), (22, 7), (31, 2), (50, random.randrange(3, 90))):
        target = f"/json/{count}?m={m}"
        reply = server.ask(target, tls=tls)
        check_items(target, reply, reply.body, count, m)


def items_over_tls(server: Contestant) -> None:
    items(server, tls=True)


def compressed_items(server: Contestant) -> None:
    """Compressed if the client takes it, and only then."""
    for count, m in ((25, 3), (40, 7), (50, 2)):
        target = f"/json/{count}?m={m}"
        reply = server.ask(target, fields={"Accept-Encoding": "gzip, br"})
        if reply.fields.get("content-encoding") not in ("gzip", "br"):
            raise Invalid(f"{target}: not compressed, though the client takes gzip and br")
        check_items(f"{target}, compressed", reply, plain(reply), count, m)
    expect("no coding was asked for", server.ask("/json/50?m=1").fields.get("content-encoding"), None)


def plain(reply: Reply) -> bytes:
    """The body without its coding."""
    coding = reply.fields.get("content-encoding")
    if coding == "br":
        import brotli

        found: bytes = brotli.decompress(reply.body)
        return found
    return gzip.decompress(reply.body) if coding == "gzip" else reply.body


# ---------------------------------------------------------------------------------------------------- bodies and files


def uploads(server: Contestant) -> None:
    """The number of bytes that came: of a few, of random ones, of 500 KB to 20 MB."""
    for size in (17, random.randrange(30, 90), 512_000, 2 << 20, 10 << 20, 20 << 20):
        body = os.urandom(min(size, 1 << 16)) * (size // (1 << 16) + 1)
        reply = server.ask("/upload", body[:size], fields={"Content-Type": "application/octet-stream"})
        text_is(f"an upload of {size} bytes", reply, size)


def files(server: Contestant) -> None:
    """Each file, whole; compressed only if it is the same file; 404 for another."""
    takes = {"Accept-Encoding": "br;q=1, gzip;q=0.8"}
    for name in data.FILES:
        target, content = f"/static/{name}", (server.data / "static" / name).read_bytes()
        reply = server.ask(target)
        expect(f"{target}, status", reply.status, 200)
        expect(f"{target}, coding", reply.fields.get("content-encoding"), None)
        expect(f"{target}, bytes", reply.body == content, True)
        kind = COMPRESSIBLE.get(Path(name).suffix)
        if kind is not None:  # application/javascript is the old name (RFC 9239 section 6)
            expect(f"{target}, content type", reply.kind.replace("application/java", "text/java"), kind)
        expect(f"{target}, decompressed", plain(server.ask(target, fields=takes)) == content, True)
    expect("a file that is not there, status", server.ask("/static/nonexistent.txt").status, 404)


def rows(server: Contestant) -> None:
    """Rows of the database as items; none without a database, and none where none fit."""
    for low, high, limit in ((5, 80, 7), (20, 150, 18), (100, 400, 33), (10, 50, 50), (9999, 9999, 50)):
        target = f"/async-db?min={low}&max={high}&limit={limit}"
        reply = server.ask(target)
        expect(f"{target}, status", reply.status, 200)
        expect(f"{target}, content type", reply.kind, "application/json")
        told: dict[str, Any] = json.loads(reply.body)
        expect(f"{target}, count", told["count"], limit if server.database and low < 9999 else 0)
        expect(f"{target}, items", len(told["items"]), told["count"])
        for item in told["items"]:
            shapes = (type(item["tags"]), type(item["active"]), type(item["rating"]["score"]))
            expect(f"{target}, types", shapes, (list, bool, int))
            expect(f"{target}, price in range", low <= item["price"] <= high, True)


# ---------------------------------------------------------------------------------------------------------- WebSocket


def websocket(server: Contestant) -> None:
    """The handshake, texts and bytes there and back, a close with its code; a plain GET gets 400 to 499."""
    with Client(server.port) as client:
        text = f"validate-{random.getrandbits(64):x}".encode()
        client.send(TEXT, text)
        expect("a text's echo", client.receive(), (TEXT, text))
        content = os.urandom(256)
        client.send(BINARY, content)
        expect("the echo of 256 bytes", client.receive(), (BINARY, content))
        several = [f"{number}-{random.getrandbits(32):x}".encode() for number in range(5)]
        for one in several:
            client.send(TEXT, one)
        expect("the echoes of five at once", [client.receive() for _ in several], [(TEXT, one) for one in several])
        client.send(CLOSE, struct.pack("!H", 1000) + b"done")
        opcode, payload = client.receive()
        expect("the answer to a close", (opcode, payload[:2]), (CLOSE, struct.pack("!H", 1000)))
    status = server.ask("/ws").status
    if not 400 <= status < 500:
        raise Invalid(f"GET /ws without a handshake: {status}")
    with Client(server.port) as client:
        client.send(TEXT, b"still there")
        expect("an echo afterwards", client.receive(), (TEXT, b"still there"))


class Client:
    """A WebSocket client that sends small frames, whole."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection((servers.HOST, port), timeout=TIMEOUT_S)
        self._stream = self._socket.makefile("rb")
        try:
            self._shake_hands(base64.b64encode(os.urandom(16)))
        except BaseException:
            self.__exit__()
            raise

    def _shake_hands(self, key: bytes) -> None:
        self._socket.sendall(
            b"GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + key + b"\r\n\r\n"
        )
        status = self._stream.readline()
        fields: dict[bytes, bytes] = {}
        while (line := self._stream.readline()) not in (b"\r\n", b""):
            name, _, value = line.partition(b":")
            fields[name.lower()] = value.strip()
        wanted = base64.b64encode(hashlib.sha1(key + GUID).digest())
        expect("the handshake", status[:12], b"HTTP/1.1 101")
        expect("Sec-WebSocket-Accept", fields.get(b"sec-websocket-accept"), wanted)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()
        self._socket.close()

    def send(self, opcode: int, payload: bytes) -> None:
        mask = os.urandom(4)
        head = bytes([0x80 | opcode]) + (
            bytes([0x80 | len(payload)]) if len(payload) < 126 else b"\xfe" + struct.pack("!H", len(payload))
        )
        self._socket.sendall(head + mask + bytes(byte ^ mask[n % 4] for n, byte in enumerate(payload)))

    def receive(self) -> tuple[int, bytes]:
        first, size = self._stream.read(2)
        if size == 126:
            (size,) = struct.unpack("!H", self._stream.read(2))
        return first & 0x0F, self._stream.read(size)


# -------------------------------------------------------------------------------------------------------------- table

Check = Callable[[Contestant], None]
BASELINE: tuple[Check, ...] = (sums, fragments)
CHECKS: dict[str, tuple[Check, ...]] = {
    "baseline": BASELINE,
    "pipelined": (pipeline,),
    "limited-conn": BASELINE,
    "json": (items,),
    "json-comp": (compressed_items,),
    "json-tls": (items_over_tls,),
    "upload": (uploads,),
    "static": (files,),
    "noisy": (*BASELINE, refusals),
    "api": (*BASELINE, items, rows),
    "async-db": (rows,),
    "echo-ws": (websocket,),
}


def validate(server: Contestant, profile: str) -> None:
    """All checks of a profile; Invalid at the first that fails."""
    for check in CHECKS[profile]:
        try:
            check(server)
        except (OSError, ValueError, KeyError, EOFError) as error:
            raise Invalid(f"{check.__name__}: {error!r}") from error
