"""relay: an Exchange whose response becomes ASGI events instead of bytes, and the pump that hands them on.

Room:    floor 2, stations 5 (handle) and 6 (respond), beside the wings.
Called:  by bridge.pyx, when another server calls an App; by native.pyx, when a WSGI application is mounted behind middleware,
         which wants to see a Response. Calls Exchange's upper half, which the wings know.
Rules:   ASGI 3.0, http.response.start and http.response.body; what Exchange checks of a response is checked here alike.

Theory of operation. A wing answers a RelayExchange as it answers any: start, write, end. Each becomes an event in a list.
`relay` hands them to `send`, and tells the wing when there is room again; it returns when the response is complete.
A WebSocket writes frames, as everywhere; each becomes an event, too.
"""
import os

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint8_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memcpy

from fastserve.protocol.channel cimport Channel, Tunnel
from fastserve.protocol.core cimport (
    FS_BODY_NONE,
    FS_DONE,
    FS_METHOD_HEAD,
    FS_WS_BINARY,
    FS_WS_CLOSE,
    FS_WS_TEXT,
    fs_conn_init,
    fs_field,
    fs_out,
    fs_request_head_init,
    fs_request_head_parse,
    fs_status_reason,
)
from fastserve.protocol.exchange cimport Exchange
from fastserve.protocol.headers cimport checked_name, checked_value
from fastserve.protocol.limits cimport Limits
from fastserve.protocol.request cimport Request, RequestBody

from fastserve.errors import ClientDisconnected, LocalProtocolError

__all__ = ["relay"]

cdef enum:
    FIELDS_MAX = 1000  # whoever received the head has limits of its own; these only bound us

cdef Limits LIMITS = Limits(
    request_line_bytes_max=1 << 20, head_bytes_max=1 << 22, fields_max=FIELDS_MAX, body_bytes_max=None
)


cdef class RelayChannel(Channel):
    """What an exchange whose response is a list of events asks of its connection; there are no bytes here."""

    def __cinit__(self):
        self.events = []
        self.drain_waiters = []

    def __dealloc__(self):
        free(self.fields)
        free(self.frames.data)

    cdef fs_out *out(self, size_t room) except NULL:
        if self.tunnel is None:
            raise RuntimeError("a relay writes no bytes")
        self.grow(room)
        return &self.frames

    cdef int put(self, object data) except -1:
        cdef bytes whole = data if PyBytes_CheckExact(data) else bytes(data)
        if self.tunnel is None:
            raise RuntimeError("a relay writes no bytes")
        self.grow(PyBytes_GET_SIZE(whole))
        memcpy(self.frames.data + self.frames.len, PyBytes_AS_STRING(whole), PyBytes_GET_SIZE(whole))
        self.frames.len += PyBytes_GET_SIZE(whole)
        return 0

    cdef int grow(self, size_t room) except -1:
        cdef uint8_t *grown
        if self.frames.cap - self.frames.len < room:
            grown = <uint8_t *>realloc(self.frames.data, self.frames.len + room)
            if grown == NULL:
                raise MemoryError
            self.frames.data = grown
            self.frames.cap = self.frames.len + room
        return 0

    cdef int unframe(self) except -1:
        # Frames of our own making: whole messages, not masked (RFC 6455 section 5.2). Pings and pongs are the outer server's.
        cdef const uint8_t *p
        cdef size_t at = 0, head, length, i
        cdef unsigned opcode
        cdef bytes payload
        while self.frames.len - at >= 2:
            p = self.frames.data + at
            opcode = p[0] & 15
            length = p[1]
            head = 2
            if length > 125:
                head = 4 if length == 126 else 10
                length = 0
                for i in range(2, head):
                    length = length << 8 | p[i]
            payload = PyBytes_FromStringAndSize(<const char *>p + head, length)
            at += head + length
            if opcode == FS_WS_TEXT:
                self.events.append({"type": "websocket.send", "text": payload.decode("utf-8")})
            elif opcode == FS_WS_BINARY:
                self.events.append({"type": "websocket.send", "bytes": payload})
            elif opcode == FS_WS_CLOSE:
                self.events.append({
                    "type": "websocket.close",
                    "code": int.from_bytes(payload[:2], "big") if payload else 1000,
                    "reason": payload[2:].decode("utf-8", "replace"),
                })
            self.held += length
        self.frames.len = 0
        return 0

    cdef int upgraded(self) except -1:
        return 0

    cdef int tunnel_on(self) except -1:
        _settle(self.reader)
        return 0

    cdef object host(self):
        return self.service

    cdef const uint8_t *common_lines(self, size_t *length) noexcept:
        length[0] = 0
        return b""

    cdef bint closing(self) except -1:
        return False

    cdef int flush(self) except -1:
        if self.frames.len:
            self.unframe()
        _settle(self.waiter)
        return 0

    cdef bint writable(self) except -1:
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
        if self.origin is not None:
            return self.origin.info(name)
        if name == "peername":
            client = self.scope.get("client")
            return tuple(client) if client else None
        if name == "sockname":
            server = self.scope.get("server")
            return tuple(server) if server and server[1] is not None else None
        if name == "ssl_object":
            return True if self.scope.get("scheme") in ("https", "wss") else None
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


cdef class RelayExchange(Exchange):
    """An Exchange whose response is a list of events."""

    cdef int event(self, object data, bint more) except -1:
        cdef RelayChannel channel = <RelayChannel>self.channel
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
        self._head_written(status, fields)
        (<RelayChannel>self.channel).events.append(
            {"type": "http.response.start", "status": status, "headers": fields}
        )
        return 0

    cdef int start_ready(self, unsigned status, list headers, bytes lines, int64_t content_length) except -1:
        return self.start(status, headers, content_length)

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

    cdef bint send_path(self, unsigned status, object headers, object path, int64_t count) except? False:
        # The extension Path Send: the outer server opens the file and sends it better than we could read it.
        cdef RelayChannel channel = <RelayChannel>self.channel
        if channel.scope is None or "http.response.pathsend" not in (channel.scope.get("extensions") or ()) \
                or self.head().method_id == FS_METHOD_HEAD or status == 204 or status == 205 or status == 304:
            return False
        self.start(status, headers, count)
        self.head_alone = False
        self.owed = 0
        self.body_sent = count
        channel.events.append({"type": "http.response.pathsend", "path": os.path.abspath(os.fsdecode(path))})
        self._finish()
        return True

    cdef int upgrade(self, bytes protocol, object headers, Tunnel tunnel) except -1:
        cdef RelayChannel channel = <RelayChannel>self.channel
        cdef list fields = []
        cdef object subprotocol = None
        self._check_open()
        self._check_start(101)
        for key, text in headers:
            try:
                name, value = checked_name(key), checked_value(text)
            except (TypeError, ValueError) as error:
                raise LocalProtocolError(str(error)) from None
            if name == b"sec-websocket-protocol":
                subprotocol = value.decode("latin-1")
            elif name != b"sec-websocket-accept":   # the outer server has the client's key
                fields.append((name, value))
        channel.tunnel = tunnel
        self._head_written(101, fields)
        channel.events.append({"type": "websocket.accept", "subprotocol": subprotocol, "headers": fields})
        return channel.flush()

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


cdef class RelayTrace(Trace):
    """The trace of a request, for an application that answers it within another one.

    Its handler's task is a child of the outer one and seen as such; so it is told of the route and of threads only.
    """

    cdef void route(self, object pattern, object handler) noexcept:
        self.outer.route(self.root + pattern, None)

    cdef void ran(self, int64_t submitted, int64_t began, unsigned whose) noexcept:
        self.outer.ran(submitted, began, whose)

    cdef void mark(self, str text) noexcept:
        self.outer.mark(text)


cdef RelayTrace within(Trace outer, str root):
    cdef RelayTrace trace
    if outer is None:
        return None
    trace = RelayTrace.__new__(RelayTrace)
    trace.outer = (<RelayTrace>outer).outer if type(outer) is RelayTrace else outer
    trace.root = root
    return trace


# ------------------------------------------------------------------------------------------------- how to make one


cdef int open_head(RelayExchange exchange, RelayChannel channel, bytes head, object loop) except? FAILED:
    cdef int answer
    channel.loop = loop
    fs_conn_init(&channel.conn, &LIMITS.core)
    channel.fields = <fs_field *>calloc(FIELDS_MAX + 1, sizeof(fs_field))
    if channel.fields == NULL:
        raise MemoryError
    exchange.channel = channel
    exchange.owed = -1
    fs_request_head_init(&channel.conn.head)
    answer = fs_request_head_parse(&channel.conn.head, <const uint8_t *>PyBytes_AS_STRING(head), PyBytes_GET_SIZE(head),
                                   channel.fields, &LIMITS.core)
    if answer == FS_DONE:
        channel.conn.head_request = channel.conn.head.method_id == FS_METHOD_HEAD
        exchange.data_owner = head
        exchange.data = <const uint8_t *>PyBytes_AS_STRING(head)
        exchange.fields = channel.fields
    return answer


cdef RelayExchange again(Request request, Channel origin, object loop):
    """Another exchange for a request that is in hand already; it shares the body, as far as nobody has taken it."""
    cdef RelayExchange exchange = RelayExchange.__new__(RelayExchange)
    cdef RelayChannel channel = RelayChannel.__new__(RelayChannel)
    cdef RequestBody body
    channel.origin = origin
    # The head was accepted when it came; it is read again because its fields may be somewhere else by now.
    if open_head(exchange, channel, (<const char *>request._data)[:request.head.end], loop) != FS_DONE:
        raise RuntimeError("the head of a request cannot be read again")
    if origin.id_field is not None:   # one request has one id
        channel.id_field = origin.id_field
        exchange._id = (<Exchange>request._exchange).id()
    exchange.trace = within((<Exchange>request._exchange).trace, "")
    exchange.body = request._body
    if request._whole_body is not None and request._body is not None:
        body = exchange.body = RequestBody.__new__(RequestBody)
        body.feed(request._whole_body)
        body.end([])
    return exchange


async def relay(RelayExchange exchange, send):
    """Hand the response to `send`, event by event. OSError of it: the peer has left, and the wing is told.

    False: it was cut short, and nobody must end it as if it were whole.
    """
    cdef RelayChannel channel = <RelayChannel>exchange.channel
    cdef list events
    try:
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
        if not exchange.ended:
            exchange.lose(ClientDisconnected())   # cancelled
        channel.sent()
        exchange.channel = None
    return not (exchange.broken and exchange.started and not exchange.disconnected)
