"""The bridge: an App as an ASGI 3 application, under whatever server calls it.

Room:    floor 2, beside the wings. The same NativeHandler answers as under our own server; only its Exchange is another one,
         whose response becomes ASGI events instead of bytes.
Called:  by App.__call__; so by uvicorn, hypercorn, test clients, or a framework that mounts an App. Calls NativeHandler, relay,
         WebSocket.
Rules:   ASGI 3.0 with HTTP and WebSocket messages 2.0 and later, lifespan 2.0. Request heads are judged as everywhere
         (csrc/request.c).

Theory of operation. The scope is written as a request head and parsed, so that an App sees exactly what it would see of that
request here, refusals included. The handler runs in a task of its own (HandlerCall) and fills a list of events; the
application's coroutine, which the outer server drives, hands them to `send` (relay.pyx). A second task reads the body, and hears
that the peer has left.

To a WebSocket this is a client that speaks frames: what `receive` gives becomes frames, and what it writes, events. So messages,
their order, limits of the queue, close codes and misuse are what they are here. Compression and pings are the outer server's.
"""
import asyncio
import contextvars
import traceback
import weakref
from urllib.parse import quote

from fastserve.interfaces.call cimport HandlerCall
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t

from fastserve.interfaces.relay cimport HELD_MAX, RelayChannel, RelayExchange, open_head, within
from fastserve.protocol.channel cimport Tunnel
from fastserve.protocol.core cimport (
    FS_BODY_NONE, FS_DONE, FS_MORE, FS_WS_BINARY, FS_WS_CLOSE, FS_WS_TEXT, fs_error, fs_error_info, fs_ws_close_code_valid,
)
from fastserve.protocol.hooks cimport Handler
from fastserve.protocol.lens cimport Lens, lens_of
from fastserve.protocol.request cimport Namespace, RequestBody
from fastserve.protocol.websocket cimport WebSocket

from fastserve.errors import ClientDisconnected, LocalProtocolError
from fastserve.protocol.limits import Limits
from fastserve.protocol.service import Service
from fastserve.interfaces.lifespan import Lifespan
from fastserve.interfaces.native import NativeHandler
from fastserve.interfaces.relay import relay

__all__ = ["Bridge"]

# Whoever speaks to the client has limits of its own for messages.
cdef object LIMITS = Limits(ping_interval=0.0, per_message_deflate=False, message_bytes_max=1 << 40)
cdef tuple HANDSHAKE = (
    (b"connection", b"upgrade"), (b"upgrade", b"websocket"), (b"sec-websocket-version", b"13"),
    (b"sec-websocket-key", b"AAAAAAAAAAAAAAAAAAAAAA=="),
)
cdef frozenset OURS = frozenset([name for name, _ in HANDSHAKE] + [b"sec-websocket-extensions", b"sec-websocket-protocol"])


class Bridge:
    """`app`, an App, as an ASGI application. One per App; it may be called on several loops."""

    def __init__(self, app):
        self.app = app
        self.state = {}
        self.handlers = weakref.WeakKeyDictionary()   # loop -> NativeHandler
        self.services = weakref.WeakKeyDictionary()   # loop -> Service, once there was a WebSocket

    async def __call__(self, scope, receive, send):
        kind = scope["type"]
        if kind == "http":
            await _serve(self.handler(), scope, receive, send, self.state)
        elif kind == "lifespan":
            await self.live(scope, receive, send)
        elif kind == "websocket":
            await receive()   # websocket.connect
            await _serve_websocket(self.handler(), scope, receive, send, self.state, self.service())
        else:
            raise LocalProtocolError(f"an App does not know scopes of type {kind!r}")

    def handler(self):
        loop = asyncio.get_running_loop()
        handler = self.handlers.get(loop)
        if handler is None:
            handler = self.handlers[loop] = NativeHandler(self.app)
        return handler

    def service(self):
        loop = asyncio.get_running_loop()
        service = self.services.get(loop)
        if service is None:
            service = self.services[loop] = Service(loop, self.handler(), LIMITS)
        return service

    async def live(self, scope, receive, send):
        """The lifespan of the App, told by the outer server."""
        lifespan = Lifespan(self.app)
        await receive()
        try:
            self.handler()   # routes that cannot be compiled are found now
            await lifespan.startup()
        except Exception:
            await send({"type": "lifespan.startup.failed", "message": traceback.format_exc()})
            return
        self.state = lifespan.state
        if "state" in scope:
            scope["state"].update(lifespan.state)
        await send({"type": "lifespan.startup.complete"})
        try:
            await receive()
            try:
                await lifespan.shutdown()
            except Exception:
                await send({"type": "lifespan.shutdown.failed", "message": traceback.format_exc()})
                return
            await send({"type": "lifespan.shutdown.complete"})
        finally:
            handler = self.handlers.pop(asyncio.get_running_loop(), None)
            service = self.services.pop(asyncio.get_running_loop(), None)
            if service is not None:
                service.close()   # and the handler
            elif handler is not None:
                handler.close()


cdef bytes _head_of(object scope):
    # The request head that the scope was made of, without the root path: routes are relative to the App.
    cdef str path = scope["path"]
    cdef str root = scope.get("root_path") or ""
    cdef object raw = scope.get("raw_path")
    cdef bint below = bool(root) and path.startswith(root) and (len(path) == len(root) or path[len(root)] == "/")
    cdef bytes target
    cdef list lines
    cdef bint host = False
    if raw and not (below and not raw.startswith(root.encode())):
        target = raw[len(root.encode()):] if below else raw
    else:
        target = quote(path[len(root):] if below else path, safe="/:@!$&'()*+,;=-._~").encode("ascii")
    if not target:
        target = b"/"
    if scope.get("query_string"):
        target += b"?" + scope["query_string"]
    version = b"1.0" if scope.get("http_version") == "1.0" else b"1.1"
    lines = [b"%b %b HTTP/%b" % (scope["method"].encode("latin-1"), target, version)]
    for name, value in scope["headers"]:
        name, value = bytes(name), bytes(value)
        if b"\r" in name or b"\n" in name or b"\r" in value or b"\n" in value:
            return None
        host = host or name.lower() == b"host"
        lines.append(name + b": " + value)
    if not host and version == b"1.1":
        server = scope.get("server") or ("localhost", None)
        name = server[0] if server[1] is not None else "localhost"
        lines.append(f"host: {f'[{name}]' if ':' in name else name}".encode("ascii", "replace"))
    return b"\r\n".join(lines) + b"\r\n\r\n"


cdef RelayExchange _open(object scope):
    # The exchange of one call; one that is refused has ended already.
    cdef RelayExchange exchange = RelayExchange.__new__(RelayExchange)
    cdef RelayChannel channel = RelayChannel.__new__(RelayChannel)
    cdef bytes head = _head_of(scope)
    cdef int answer
    channel.scope = scope
    answer = open_head(exchange, channel, head or b"", asyncio.get_running_loop())
    if head is None:
        exchange.send_simple(400, b"text/plain; charset=utf-8", b"a field holds CR or LF")
        return exchange
    if answer != FS_DONE:
        row = fs_error_info(<fs_error>-answer) if answer != FS_MORE else NULL
        exchange.send_simple(row.status if row != NULL and row.status else 400, b"text/plain; charset=utf-8",
                             <bytes>row.text if row != NULL else b"malformed request head")
        return exchange
    if channel.conn.head.framing != FS_BODY_NONE or scope.get("http_version", "1.1")[:1] in ("2", "3"):
        exchange.body = RequestBody.__new__(RequestBody)
        exchange.body.exchange = exchange
    return exchange


cdef HandlerCall _handle(Handler handler, RelayExchange exchange, scope, state):
    # Begin to answer it. None: that is over already.
    cdef RelayChannel channel = <RelayChannel>exchange.channel
    cdef HandlerCall call = None
    cdef Lens lens
    if exchange.ended:
        return None
    # Per call, for outer middleware may have put there what belongs to this request alone.
    lens = lens_of(channel.loop)
    if lens is not None:   # the outer server is ours
        exchange.trace = within(lens.here(), scope.get("root_path") or "")
    exchange.request()._state = Namespace(scope.get("state", state))
    handler.run_in(channel.loop, contextvars.copy_context())
    handler.handle(exchange)
    if isinstance(exchange.call, HandlerCall):
        call = <HandlerCall>exchange.call
    exchange.drop_head()
    return call


async def _serve(Handler handler, scope, receive, send, state):
    """One request, from its scope to its last event."""
    cdef RelayExchange exchange = _open(scope)
    cdef RelayChannel channel = <RelayChannel>exchange.channel
    cdef HandlerCall call = _handle(handler, exchange, scope, state)
    cdef object reading = None
    try:
        if not exchange.ended:
            reading = asyncio.create_task(_read(exchange, channel, receive, channel.conn.head.expect_continue))
        whole = await relay(exchange, send)
    finally:
        if reading is not None:
            reading.cancel()
        if exchange.body is not None:
            exchange.body.exchange = None
            if not exchange.body.ended:
                exchange.body.fail(ClientDisconnected("the response is complete; the rest of the request body was dropped"))
    if call is not None and call.started_task and call.task is not None:
        await asyncio.wait({call.task})   # what the handler still does is done within this request
    if not whole:
        raise LocalProtocolError("the response was cut short")   # so that the outer server does not end it as if it were whole


async def _read(RelayExchange exchange, RelayChannel channel, receive, bint wait):
    """Feed the body as fast as it is taken; then wait for the peer to leave."""
    cdef RequestBody body = exchange.body
    while not exchange.ended:
        if body is not None and not body.ended:
            while (wait and not body.reading) or body.buffered >= HELD_MAX * 4:
                channel.reader = channel.loop.create_future()
                await channel.reader
        message = await receive()
        if message["type"] != "http.request":
            exchange.gone(ClientDisconnected())
            channel.flush()
            return
        if body is not None and not body.ended:
            body.feed(message.get("body", b""))
            if not message.get("more_body", False):
                body.end([])


# ------------------------------------------------------------------------------------------------------ WebSockets


async def _serve_websocket(Handler handler, scope, receive, send, state, service):
    """One WebSocket, from its scope to its close. `websocket.connect` has been received."""
    cdef RelayExchange exchange
    cdef RelayChannel channel
    cdef HandlerCall call
    cdef list events
    cdef object reading = None
    cdef bint over = False
    fields = [pair for pair in scope["headers"] if bytes(pair[0]).lower() not in OURS]
    fields += HANDSHAKE
    if scope.get("subprotocols"):
        fields.append((b"sec-websocket-protocol", ", ".join(scope["subprotocols"]).encode("latin-1")))
    exchange = _open({**scope, "method": "GET", "http_version": "1.1", "headers": fields})
    channel = <RelayChannel>exchange.channel
    channel.service = service
    denies = "websocket.http.response" in (scope.get("extensions") or ())
    call = _handle(handler, exchange, scope, state)
    try:
        while not over:
            events, channel.events = channel.events, []
            for event in events:
                if channel.left:
                    break
                kind = event["type"]
                if kind.startswith("http."):
                    if not denies:
                        event = {"type": "websocket.close", "code": 1000}   # which the outer server answers with 403
                    else:
                        event = {**event, "type": "websocket." + kind}
                over = event["type"] == "websocket.close"
                try:
                    await send(event)
                except OSError:
                    channel.left = True
                    if channel.tunnel is not None:
                        channel.tunnel.lost()
                    exchange.lose(ClientDisconnected())
                if over:
                    break
            channel.sent()
            if over or (exchange.ended and not channel.events):
                break
            if channel.events:
                continue
            if channel.tunnel is not None and reading is None:
                reading = asyncio.create_task(_read_messages(exchange, channel, receive))
            channel.waiter = channel.loop.create_future()
            await channel.waiter
            channel.waiter = None
    finally:
        if reading is not None:
            reading.cancel()
        if channel.tunnel is not None:
            if over:
                (<WebSocket>channel.tunnel)._finish()   # as if the client's close frame had come
            else:
                channel.tunnel.lost()
        if not exchange.ended:
            exchange.lose(ClientDisconnected())
        channel.sent()
        channel.tunnel = None
        exchange.channel = None
    if call is not None and call.started_task and call.task is not None:
        await asyncio.wait({call.task})


async def _read_messages(RelayExchange exchange, RelayChannel channel, receive):
    """Give it what the client says, as fast as it is taken."""
    cdef Tunnel tunnel = channel.tunnel
    cdef Py_ssize_t at
    cdef bytes data
    while not exchange.ended:
        message = await receive()
        if exchange.ended:
            return
        if message["type"] == "websocket.receive":
            text = message.get("text")
            data = _frame(FS_WS_TEXT, text.encode("utf-8")) if text is not None else _frame(FS_WS_BINARY, bytes(message["bytes"]))
        else:
            code = message.get("code")
            channel.left = True
            if code != 1005 and (not isinstance(code, int) or not fs_ws_close_code_valid(code)):
                tunnel.lost()
                exchange.lose(ClientDisconnected())
                channel.flush()
                return
            data = b"" if code == 1005 else code.to_bytes(2, "big") + (message.get("reason") or "").encode("utf-8")[:123]
            data = _frame(FS_WS_CLOSE, data)
        at = 0
        while at < PyBytes_GET_SIZE(data) and not exchange.ended:
            at += tunnel.received(<const uint8_t *>PyBytes_AS_STRING(data) + at, PyBytes_GET_SIZE(data) - at)
            if tunnel.full() or at < PyBytes_GET_SIZE(data):
                channel.reader = channel.loop.create_future()
                await channel.reader


cdef bytes _frame(unsigned opcode, bytes data):
    # Of a client: masked, with zeros, which leaves the data as it is (RFC 6455 section 5.3).
    cdef Py_ssize_t n = PyBytes_GET_SIZE(data)
    if n < 126:
        head = bytes((0x80 | opcode, 0x80 | n))
    elif n < 65536:
        head = bytes((0x80 | opcode, 0xFE)) + (<object>n).to_bytes(2, "big")
    else:
        head = bytes((0x80 | opcode, 0xFF)) + (<object>n).to_bytes(8, "big")
    return head + b"\0\0\0\0" + data
