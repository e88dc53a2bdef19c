"""websocket: the client's side of one WebSocket, for TestClient.

Room: the top. Called by: client.py; tests, which get a WebSocketSession. Calls: sockets; httpx for its types.
Rules: RFC 6455 sections 4.1 (the client's handshake), 5 (frames; a client masks), 5.5.1 and 7 (closing). No extensions.
The names are those of starlette.testclient.WebSocketTestSession.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import os
import socket
import ssl
import struct
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Protocol

import httpx

from fastserve.errors import WebSocketDisconnect

__all__ = ["WebSocketDenialResponse", "WebSocketSession"]

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 section 1.3
OURS = frozenset({"upgrade", "connection", "sec-websocket-accept", "sec-websocket-protocol", "date", "server"})
INTERNAL_ERROR = 1011
ABNORMAL = 1006


class _Calls(Protocol):
    def ticket(self) -> tuple[bytes, bytes]: ...

    def over(self, ticket: bytes) -> None: ...


class _Served(Protocol):
    calls: Any
    context: ssl.SSLContext | None  # with TLS
    tells_calls: bool  # an ASGI application is served, whose calls are known by their tickets

    @property
    def address(self) -> tuple[str, int]: ...


class WebSocketDenialResponse(httpx.Response, WebSocketDisconnect):  # type: ignore[misc]
    """The handshake was refused, and this is the answer. Starlette's of the same name."""


class WebSocketSession:
    """One WebSocket, opened when it is entered, closed when it is left. Made by TestClient.websocket_connect().

    `accepted_subprotocol`: str or None. `headers`: httpx.Headers of the answer to the handshake; `extra_headers`: those
    of them that are the application's, as pairs of bytes. What the application raises is raised here, unless
    raise_server_exceptions is off.
    """

    def __init__(self, served: _Served, request: httpx.Request, subprotocols: Sequence[str]) -> None:
        self._served = served
        self._request = request
        self._subprotocols = tuple(subprotocols)
        self._socket: socket.socket | None = None
        self._reader: Any = None
        self._ticket = served.calls.ticket()
        self._closed = False  # we have sent a close frame
        self._ended: WebSocketDisconnect | None = None  # the server has
        self.accepted_subprotocol: str | None = None
        self.headers = httpx.Headers()
        self.extra_headers: list[tuple[bytes, bytes]] = []

    def __enter__(self) -> WebSocketSession:
        self._socket = socket.create_connection(self._served.address)
        try:
            if self._served.context is not None:
                self._socket = self._served.context.wrap_socket(self._socket, server_hostname=self._request.url.host)
            self._handshake(self._socket)
        except BaseException:
            self._drop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close(1000)
            while self._ended is None:  # the application may go on until it reads the close
                self._take()
        except OSError:
            pass
        finally:
            self._drop()
        if error is None:
            self._served.calls.over(self._ticket[1])

    # --- sending ---

    def send(self, message: dict[str, Any]) -> None:
        """An ASGI message: websocket.receive, with text or bytes, or websocket.disconnect."""
        if message["type"] == "websocket.disconnect":
            self.close(message.get("code", 1000), message.get("reason"))
        elif message.get("text") is not None:
            self.send_text(message["text"])
        else:
            self.send_bytes(message["bytes"])

    def send_text(self, data: str) -> None:
        """A text message."""
        self._send(TEXT, data.encode("utf-8"))

    def send_bytes(self, data: bytes) -> None:
        """A binary message."""
        self._send(BINARY, data)

    def send_json(self, data: Any, mode: str = "text") -> None:
        """JSON, in a text message, or a binary one if `mode` is "binary"."""
        text = json.dumps(data, separators=(",", ":"), ensure_ascii=False)
        self._send(TEXT if _checked(mode) == "text" else BINARY, text.encode("utf-8"))

    def close(self, code: int = 1000, reason: str | None = None) -> None:
        """Send a close frame; once, and not behind the server's."""
        if not self._closed:
            self._closed = True
            try:
                self._write(CLOSE, struct.pack("!H", code) + (reason or "").encode("utf-8"))
            except OSError:
                if self._ended is None:
                    self._ended = WebSocketDisconnect(ABNORMAL)

    # --- receiving ---

    def receive(self) -> dict[str, Any]:
        """The next message as the application's ASGI event: websocket.send, or websocket.close."""
        try:
            message = self._receive()
        except WebSocketDisconnect as end:
            return {"type": "websocket.close", "code": end.code, "reason": end.reason}
        return {"type": "websocket.send", "text" if isinstance(message, str) else "bytes": message}

    def receive_text(self) -> str:
        """The next message, which must be text. WebSocketDisconnect at the end."""
        message = self._receive()
        if not isinstance(message, str):
            raise TypeError(f"a binary message came, not text: {message!r}")
        return message

    def receive_bytes(self) -> bytes:
        """The next message, which must be binary. WebSocketDisconnect at the end."""
        message = self._receive()
        if not isinstance(message, bytes):
            raise TypeError(f"a text message came, not a binary one: {message!r}")
        return message

    def receive_json(self, mode: str = "text") -> Any:
        """The JSON of the next message, which must be text, or binary if `mode` is "binary"."""
        return json.loads(self.receive_text() if _checked(mode) == "text" else self.receive_bytes())

    # --- frames ---

    def _handshake(self, sock: socket.socket) -> None:
        key = base64.b64encode(os.urandom(16))
        url = self._request.url
        fields = [(k, v) for k, v in self._request.headers.raw if k.lower() not in (b"connection", b"content-length")]
        fields += [
            (b"Connection", b"Upgrade"),
            (b"Upgrade", b"websocket"),
            (b"Sec-WebSocket-Version", b"13"),
            (b"Sec-WebSocket-Key", key),
        ]
        if self._served.tells_calls:
            fields.append(self._ticket)
        if self._subprotocols:
            fields.append((b"Sec-WebSocket-Protocol", ", ".join(self._subprotocols).encode("ascii")))
        lines = [b"GET " + url.raw_path + b" HTTP/1.1", *(name + b": " + value for name, value in fields)]
        sock.sendall(b"\r\n".join([*lines, b"", b""]))
        answer = http.client.HTTPResponse(sock, method="GET")
        try:
            answer.begin()
        except (http.client.HTTPException, ConnectionError):
            self._served.calls.over(self._ticket[1])  # which is why there is no answer
            raise
        headers = answer.getheaders()
        if answer.status != 101:
            content = answer.read()
            answer.close()
            self._served.calls.over(self._ticket[1])
            denial = WebSocketDenialResponse(answer.status, headers=headers, content=content, request=self._request)
            denial.code, denial.reason = 1000, ""
            raise denial
        wanted = base64.b64encode(hashlib.sha1(key + GUID).digest()).decode()
        if answer.getheader("sec-websocket-accept") != wanted:
            raise WebSocketDisconnect(ABNORMAL, "the server's Sec-WebSocket-Accept is wrong")
        self._reader = answer.fp
        answer.fp = None  # type: ignore[assignment]  # it would close the file when it is let go, and 3.13 flush it then
        self.headers = httpx.Headers(headers)
        self.accepted_subprotocol = self.headers.get("sec-websocket-protocol")
        self.extra_headers = [(k.lower(), v) for k, v in self.headers.raw if k.lower().decode("latin-1") not in OURS]

    def _send(self, opcode: int, payload: bytes) -> None:
        if self._ended is not None:
            raise self._ended
        try:
            self._write(opcode, payload)
        except OSError:
            self._fell_off()

    def _write(self, opcode: int, payload: bytes) -> None:
        if self._socket is None:
            raise RuntimeError("the WebSocket is not open: enter it, `with client.websocket_connect(...) as websocket`")
        size = len(payload)
        if size < 126:
            head = bytes((0x80 | opcode, 0x80 | size))
        elif size < 65536:
            head = struct.pack("!BBH", 0x80 | opcode, 0x80 | 126, size)
        else:
            head = struct.pack("!BBQ", 0x80 | opcode, 0x80 | 127, size)
        mask = os.urandom(4)
        key = (mask * (size // 4 + 1))[:size]
        masked = (int.from_bytes(payload, "big") ^ int.from_bytes(key, "big")).to_bytes(size, "big")
        self._socket.sendall(head + mask + masked)

    def _receive(self) -> str | bytes:
        if self._ended is None:
            message = self._take()
            if message is not None:
                return message
        assert self._ended is not None
        if self._ended.code in (INTERNAL_ERROR, ABNORMAL):
            self._served.calls.over(self._ticket[1])  # perhaps it has raised something
        raise self._ended

    def _take(self) -> str | bytes | None:
        """The next message; None: there is none, for the server has ended it."""
        if self._reader is None:
            raise RuntimeError("the WebSocket is not open: enter it, `with client.websocket_connect(...) as websocket`")
        kind, parts = 0, []
        while True:
            opcode, final, payload = self._frame()
            if opcode == PING:
                self._write(PONG, payload)
            elif opcode == CLOSE:
                code = struct.unpack("!H", payload[:2])[0] if len(payload) >= 2 else 1005
                self._ended = WebSocketDisconnect(code, payload[2:].decode("utf-8", "replace"))
                self.close(code if code != 1005 else 1000)
                return None
            elif opcode is None:
                self._ended = WebSocketDisconnect(ABNORMAL)
                return None
            elif opcode in (TEXT, BINARY, CONTINUATION):
                kind = kind or opcode
                parts.append(payload)
                if final:
                    whole = b"".join(parts)
                    return whole.decode("utf-8") if kind == TEXT else whole

    def _frame(self) -> tuple[int | None, bool, bytes]:
        """Opcode, FIN, payload; None: the connection has ended."""
        try:
            head = self._reader.read(2)
            if len(head) < 2:
                return None, True, b""
            size = head[1] & 0x7F
            if size == 126:
                (size,) = struct.unpack("!H", self._reader.read(2))
            elif size == 127:
                (size,) = struct.unpack("!Q", self._reader.read(8))
            payload = self._reader.read(size)
            if len(payload) < size:
                return None, True, b""
        except (OSError, struct.error):
            return None, True, b""
        return head[0] & 0x0F, bool(head[0] & 0x80), payload

    def _fell_off(self) -> None:
        """The server has closed the connection: what it said before is the reason."""
        while self._take() is not None:
            pass
        self._receive()

    def _drop(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.close()
        if self._socket is not None:
            self._socket.close()


def _checked(mode: str) -> str:
    if mode not in ("text", "binary"):
        raise ValueError(f"mode is 'text' or 'binary', not {mode!r}")
    return mode
