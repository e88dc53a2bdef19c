"""The bridge: an App as an ASGI 3 application, under whatever server calls it.

Room:    floor 2, beside the wings. The same NativeHandler answers as under our own server; only its Exchange is another one,
         whose response becomes ASGI events instead of bytes.
Called:  by App.__call__; so by uvicorn, hypercorn, test clients, or a framework that mounts an App. Calls NativeHandler.
Rules:   ASGI 3.0 with HTTP messages 2.0 and later, lifespan 2.0. Request heads are judged as everywhere (csrc/request.c).

Theory of operation. The scope is written as a request head and parsed, so that an App sees exactly what it would see of that
request here, refusals included. The handler runs in a task of its own (HandlerCall) and fills a list of events; the
application's coroutine, which the outer server drives, hands them to `send` and tells the handler when there is room again. A
second task reads the body, and hears that the peer has left.
"""
import asyncio
import contextvars
import traceback
import weakref
from urllib.parse import quote

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint8_t
from libc.stdlib cimport calloc, free

from fastserve.interfaces.call cimport HandlerCall
from fastserve.protocol.channel cimport Channel
from fastserve.protocol.core cimport (
    FS_BODY_NONE,
    FS_DONE,
    FS_METHOD_HEAD,
    FS_MORE,
    fs_conn_init,
    fs_error,
    fs_error_info,
    fs_field,
    fs_limits,
    fs_out,
    fs_request_head_init,
    fs_request_head_parse,
    fs_status_reason,
)
from fastserve.protocol.exchange cimport Exchange
from fastserve.protocol.hooks cimport Handler
from fastserve.protocol.headers cimport checked_name, checked_value
from fastserve.protocol.limits cimport Limits
from fastserve.protocol.request cimport Namespace, RequestBody

from fastserve.errors import ClientDisconnected, LocalProtocolError
from fastserve.interfaces.lifespan import Lifespan
from fastserve.interfaces.native import NativeHandler

__all__ = ["Bridge"]

cdef enum:
    HELD_MAX = 65536   # bytes of a response that wait for the outer server, before the handler has to
    FIELDS_MAX = 1000  # the outer server has limits of its own; these only bound us

cdef Limits LIMITS = Limits(
    request_line_bytes_max=1 << 20, head_bytes_max=1 << 22, fields_max=FIELDS_MAX, body_bytes_max=None
)


class Bridge:
    """`app`, an App, as an ASGI application. One per App; it may be called on several loops."""

    def __init__(self, app):
        self.app = app
        self.state = {}
        self.handlers = weakref.WeakKeyDictionary()   # loop -> NativeHandler

    async def __call__(self, scope, receive, send):
        kind = scope["type"]
        if kind == "http":
            await _serve(self.handler(), scope, receive, send, self.state)
        elif kind == "lifespan":
            await self.live(scope, receive, send)
        elif kind == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1000})   # refused: the outer server answers 403
        else:
            raise LocalProtocolError(f"an App does not know scopes of type {kind!r}")

    def handler(self):
        loop = asyncio.get_running_loop()
        handler = self.handlers.get(loop)
        if handler is None:
            handler = self.handlers[loop] = NativeHandler(self.app)
        return handler

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
            if handler is not None:
                handler.close()


cdef class BridgeChannel(Channel):
    # All that an exchange asks of its connection; there are no bytes here.
    cdef object loop, scope
    cdef list events               # ASGI messages for `send`
    cdef size_t held               # bytes of body in them
    cdef object waiter             # of the coroutine that sends
    cdef object reader             # of the task that reads, while the body is full
    cdef list drain_waiters
    cdef fs_field *fields

    def __dealloc__(self):
        free(self.fields)

    cdef fs_out *out(self, size_t room) except NULL:
        raise RuntimeError("a bridge writes no bytes")

    cdef int put(self, object data) except -1:
        raise RuntimeError("a bridge writes no bytes")

    cdef const uint8_t *common_lines(self, size_t *length) noexcept:
        length[0] = 0
        return b""

    cdef bint closing(self):
        return False

    cdef int flush(self) except -1:
        _settle(self.waiter)
        return 0

    cdef bint writable(self):
        return self.held < HELD_MAX

    cdef object drained(self):
        future = self.loop.create_future()
        if self.held < HELD_MAX:
            future.set_result(None)
        else:
            self.drain_waiters.append(future)
        return future

    cdef int read_on(self) except -1:
        _settle(self.reader)
        return 0

    cdef int exchange_ended(self) except -1:
        return self.flush()

    cdef int cut(self) except -1:
        return self.flush()

    cdef object info(self, str name):
        if name == "peername":
            client = self.scope.get("client")
            return tuple(client) if client else None
        if name == "sockname":
            server = self.scope.get("server")
            return tuple(server) if server and server[1] is not None else None
        if name == "ssl_object":
            return True if self.scope.get("scheme") == "https" else None
        return None

    cdef int sent(self) except -1:
        # The outer server has taken all of it.
        cdef list waiters = self.drain_waiters
        self.held = 0
        self.drain_waiters = []
        for future in waiters:
            _settle(future)
        return 0


cdef int _settle(object future) except -1:
    if future is not None and not future.done():
        future.set_result(None)
    return 0


cdef class BridgeExchange(Exchange):
    # An Exchange whose response is a list of events.
    cdef bint broken               # cut: the outer server must not end it cleanly
    cdef bint head_alone           # started, and no body event yet
    cdef int64_t owed              # bytes of body still due by Content-Length; -1: not declared

    cdef int event(self, object data, bint more) except -1:
        cdef BridgeChannel channel = <BridgeChannel>self.channel
        self.head_alone = False
        channel.events.append({"type": "http.response.body", "body": data, "more_body": more})
        channel.held += PyBytes_GET_SIZE(data)
        self.body_sent += PyBytes_GET_SIZE(data)
        return channel.flush()

    cdef int start(self, unsigned status, object headers, int64_t content_length) except -1:
        cdef list fields = []
        cdef bytes name, value
        cdef bint silent = status == 204 or status == 205 or status == 304
        self._check_open()
        self._check_start(status)
        if not 200 <= status <= 999:
            raise LocalProtocolError(f"status {status} cannot be that of a final response")
        for key, text in headers or ():
            try:
                name, value = checked_name(key), checked_value(text)
            except (TypeError, ValueError) as error:
                raise LocalProtocolError(str(error)) from None
            if name == b"content-length":
                if not value.isdigit() or (0 <= content_length != int(value)):
                    raise LocalProtocolError("malformed or conflicting response framing field")
                content_length = int(value)
                continue
            if name == b"transfer-encoding":
                if value.lower() != b"chunked":
                    raise LocalProtocolError("malformed or conflicting response framing field")
                continue
            fields.append((name, value))
        if content_length >= 0 and (status == 304 or not silent):
            fields.append((b"content-length", b"%d" % content_length))
        self.plan.body = not silent and self.head().method_id != FS_METHOD_HEAD
        self.owed = content_length if self.plan.body else -1
        self.head_alone = True
        self._head_written(status)
        (<BridgeChannel>self.channel).events.append(
            {"type": "http.response.start", "status": status, "headers": fields}
        )
        return 0

    cdef int write(self, object data) except -1:
        cdef Py_ssize_t owed
        self._check_open()
        if not self.started:
            raise LocalProtocolError("body before the head of the response")
        if not PyBytes_CheckExact(data):
            data = bytes(memoryview(data))
        if not self.plan.body or PyBytes_GET_SIZE(data) == 0:
            return 0
        if self.owed >= 0:
            owed = self.owed
            if PyBytes_GET_SIZE(data) > owed:
                self.owed = 0
                if owed:
                    self.event(data[:owed], True)
                raise LocalProtocolError(
                    f"more body than Content-Length declared: {PyBytes_GET_SIZE(data) - owed} bytes too many were dropped"
                )
            self.owed -= PyBytes_GET_SIZE(data)
        return self.event(data, True)

    cdef int end_with(self, object trailers) except -1:
        self._check_open()
        if not self.started:
            raise LocalProtocolError("the response has no head")
        if trailers is not None:
            self._trailer_section(trailers)   # checked; the outer server has no place for them
        if self.owed > 0:
            self.cut()
            raise LocalProtocolError("less body than Content-Length declared")
        self.event(b"", False)
        return self._finish()

    cdef int send(self, unsigned status, object headers, object body) except -1:
        if not PyBytes_CheckExact(body):
            body = bytes(memoryview(body))
        self.start(status, headers, -1 if status == 304 and PyBytes_GET_SIZE(body) == 0 else PyBytes_GET_SIZE(body))
        self.event(body if self.plan.body else b"", False)
        return self._finish()

    cdef int send_simple(self, unsigned status, bytes content_type, object body) except -1:
        return self.send(status, [(b"content-type", content_type)], body)

    cdef int send_1xx(self, unsigned status, object headers) except -1:
        return 0   # the outer server's business: 100 Continue is sent by its receive()

    cdef int fail(self, unsigned status) except -1:
        if self.ended or self.channel is None:
            return 0
        if self.started:
            return self.cut()
        return self.send_simple(status, b"text/plain; charset=utf-8", <bytes>fs_status_reason(status))

    cdef int cut(self) except -1:
        if self.ended or self.channel is None:
            return 0
        if self.started and self.owed == 0 and not self.disconnected:
            self.event(b"", False)   # whole by its declared length
            return self._finish()
        self.broken = True
        self.ended = True
        self.call = None
        return self.channel.flush()


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


cdef BridgeExchange _open(object scope):
    # The exchange of one call; one that is refused has ended already.
    cdef BridgeExchange exchange = BridgeExchange.__new__(BridgeExchange)
    cdef BridgeChannel channel = BridgeChannel.__new__(BridgeChannel)
    cdef bytes head = _head_of(scope)
    cdef int answer
    channel.loop = asyncio.get_running_loop()
    channel.scope = scope
    channel.events = []
    channel.drain_waiters = []
    fs_conn_init(&channel.conn, &LIMITS.core)
    channel.fields = <fs_field *>calloc(FIELDS_MAX + 1, sizeof(fs_field))
    if channel.fields == NULL:
        raise MemoryError
    exchange.channel = channel
    exchange.owed = -1
    fs_request_head_init(&channel.conn.head)
    if head is None:
        exchange.send_simple(400, b"text/plain; charset=utf-8", b"a field holds CR or LF")
        return exchange
    answer = fs_request_head_parse(&channel.conn.head, <const uint8_t *>PyBytes_AS_STRING(head), PyBytes_GET_SIZE(head),
                                   channel.fields, &LIMITS.core)
    if answer != FS_DONE:
        row = fs_error_info(<fs_error>-answer) if answer != FS_MORE else NULL
        exchange.send_simple(row.status if row != NULL and row.status else 400, b"text/plain; charset=utf-8",
                             <bytes>row.text if row != NULL else b"malformed request head")
        return exchange
    exchange.data_owner = head
    exchange.data = <const uint8_t *>PyBytes_AS_STRING(head)
    exchange.fields = channel.fields
    if channel.conn.head.framing != FS_BODY_NONE or scope.get("http_version", "1.1")[:1] in ("2", "3"):
        exchange.body = RequestBody.__new__(RequestBody)
        exchange.body.exchange = exchange
    return exchange


async def _serve(Handler handler, scope, receive, send, state):
    """One request, from its scope to its last event."""
    cdef BridgeExchange exchange = _open(scope)
    cdef BridgeChannel channel = <BridgeChannel>exchange.channel
    cdef HandlerCall call = None
    cdef object reading = None
    cdef list events
    if not exchange.ended:
        # Per call, for outer middleware may have put there what belongs to this request alone.
        exchange.request()._state = Namespace(scope.get("state", state))
        handler.run_in(channel.loop, contextvars.copy_context())
        handler.handle(exchange)
        call = <HandlerCall>exchange.call if exchange.call is not None else None
        exchange.drop_head()
    try:
        if not exchange.ended:
            reading = asyncio.create_task(_read(exchange, receive, channel.conn.head.expect_continue))
        while True:
            events, channel.events = channel.events, []
            if exchange.head_alone and exchange.started and not exchange.ended:
                exchange.head_alone = False
                events.append({"type": "http.response.body", "body": b"", "more_body": True})   # let the head leave
            for event in events:
                try:
                    await send(event)
                except OSError:
                    if not exchange.ended:
                        exchange.lose(ClientDisconnected())
                    channel.events.clear()
                    break
            channel.sent()
            if channel.events:
                continue
            if exchange.ended:
                break
            channel.waiter = channel.loop.create_future()
            await channel.waiter
            channel.waiter = None
    finally:
        if reading is not None:
            reading.cancel()
        if not exchange.ended:
            exchange.lose(ClientDisconnected())   # cancelled by the outer server
        channel.sent()
        exchange.channel = None
        if exchange.body is not None:
            exchange.body.exchange = None
            if not exchange.body.ended:
                exchange.body.fail(ClientDisconnected("the response is complete; the rest of the request body was dropped"))
    if call is not None and call.started_task and call.task is not None:
        await asyncio.wait({call.task})   # what the handler still does is done within this request
    if exchange.broken and exchange.started and not exchange.disconnected:
        raise LocalProtocolError("the response was cut short")   # so that the outer server does not end it as if it were whole


async def _read(BridgeExchange exchange, receive, bint wait):
    """Feed the body as fast as it is taken; then wait for the peer to leave."""
    cdef BridgeChannel channel = <BridgeChannel>exchange.channel
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
