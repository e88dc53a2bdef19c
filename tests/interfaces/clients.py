"""What the tests of the wings share: a WebSocket client that speaks frames, well or badly; patience."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import socket
import struct
import time
from collections.abc import Callable
from typing import Any

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
KEY = base64.b64encode(bytes(range(16))).decode()
ACCEPT = base64.b64encode(hashlib.sha1((KEY + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest()).decode()


class Peer:
    """A client that speaks frames, well or badly."""

    def __init__(self, url: str, path: str = "/", head: str | None = None, **fields: str | None) -> None:
        host, port = url.removeprefix("http://").split(":")
        self.socket = socket.create_connection((host, int(port)), 5)
        self.buffer = b""
        lines: dict[str, str | None] = {
            "Host": "localhost",
            "Connection": "keep-alive, Upgrade",
            "Upgrade": "websocket",
            "Sec-WebSocket-Key": KEY,
            "Sec-WebSocket-Version": "13",
        }
        lines |= {name.replace("_", "-"): value for name, value in fields.items()}
        text = "".join(f"{name}: {value}\r\n" for name, value in lines.items() if value is not None)
        self.request = (head or f"GET {path} HTTP/1.1") + "\r\n" + text + "\r\n"

    def handshake(self, behind: bytes = b"") -> tuple[int, dict[str, str]]:
        self.socket.sendall(self.request.encode() + behind)
        head, self.buffer = self._until(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").rstrip("\r\n").split("\r\n")
        fields: dict[str, str] = {}
        for name, _, value in (line.partition(":") for line in lines):
            fields[name.lower()] = ", ".join(filter(None, (fields.get(name.lower()), value.strip())))
        return int(first.split()[1]), fields

    def open(self, behind: bytes = b"") -> Peer:
        status, fields = self.handshake(behind)
        assert status == 101 and fields["sec-websocket-accept"] == ACCEPT, (status, fields)
        return self

    def _until(self, mark: bytes) -> tuple[bytes, bytes]:
        while mark not in self.buffer:
            data = self.socket.recv(65536)
            assert data, f"closed before {mark!r}: {self.buffer!r}"
            self.buffer += data
        head, _, rest = self.buffer.partition(mark)
        return head + mark, rest

    def _exactly(self, n: int) -> bytes:
        while len(self.buffer) < n:
            data = self.socket.recv(1 << 20)
            assert data, f"closed after {self.buffer!r}"
            self.buffer += data
        data, self.buffer = self.buffer[:n], self.buffer[n:]
        return data

    @staticmethod
    def frame(opcode: int, payload: bytes = b"", first: int = 0x80, masked: bool = True) -> bytes:
        n, mask = len(payload), 0x80 if masked else 0
        if n < 126:
            head = bytes((first | opcode, mask | n))
        elif n < 65536:
            head = struct.pack("!BBH", first | opcode, mask | 126, n)
        else:
            head = struct.pack("!BBQ", first | opcode, mask | 127, n)
        if not masked:
            return head + payload
        key = os.urandom(4)
        whole = key * (n // 4 + 1)
        return head + key + (int.from_bytes(payload, "big") ^ int.from_bytes(whole[:n], "big")).to_bytes(n, "big")

    def send(self, opcode: int, payload: bytes = b"", first: int = 0x80) -> Peer:
        self.socket.sendall(self.frame(opcode, payload, first))
        return self

    def frames(self) -> tuple[int, bytes, int]:
        """The next frame: opcode, payload, the other bits of its first byte."""
        first, second = self._exactly(2)
        assert not second & 0x80, "a server masks nothing"
        n = second
        if n == 126:
            (n,) = struct.unpack("!H", self._exactly(2))
        elif n == 127:
            (n,) = struct.unpack("!Q", self._exactly(8))
        return first & 15, self._exactly(n), first & 0xF0

    def next(self) -> tuple[int, bytes]:
        return self.frames()[:2]

    def closing(self) -> tuple[int, str]:
        """The close frame that must come next, and the end of the connection behind it: code and reason."""
        opcode, payload = self.next()
        assert opcode == CLOSE, (opcode, payload)
        with contextlib.suppress(OSError):
            if payload:
                self.send(CLOSE, payload[:2])
        with contextlib.suppress(ConnectionResetError):
            assert self.socket.recv(100) == b""
        return (struct.unpack("!H", payload[:2])[0], payload[2:].decode()) if payload else (1005, "")

    def close(self) -> None:
        self.socket.close()


def poll(condition: Callable[[], Any], seconds: float = 10.0) -> None:
    """Until it is true."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.005)
