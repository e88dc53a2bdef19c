"""The ASGI wing: an Exchange, its scope, the application's call, its events.

Room:    floor 2, station 5 (handle) and 6 (respond). One application, called once per request. What a WebSocket is told and
         says is asgi_websocket.pyx; its scope begins here.
Called:  by Connection through the door Handler; by HandlerCall (returned, raised); by native.pyx for mounted applications.
         Calls the application, Exchange.
Rules:   ASGI 3.0, "HTTP & WebSocket ASGI Message Format" 2.4, and the HTTP extensions Early Hints, HTTP Trailers, Path Send
         and Zero Copy Send; RFC 9112 section 3.2.2 (the target's authority replaces Host), RFC 9110 section 9.3.6 (CONNECT).

Theory of operation. `handle` makes the scope from the parser's offsets and calls the application; HandlerCall steps it. What
`receive()` and `send()` return is an Event, an awaitable in C: awaited, it does its work at once and ends, without Future or
Task, unless it must wait for the peer (asgi_event.pyx). Everything that must not break a connection is decided by Exchange: this wing holds the
order of events (Stage), and turns what is out of order into an exception of the application's `send`.

The head is HELD until the first body event, as the specification demands: both leave in one write, a body that is one event gets
its Content-Length, and an application that fails between the two is answered with 500. An empty body event with `more_body` sends
the head alone.

Unlike a native handler, an application is not cancelled when its peer leaves: receive() says http.disconnect, and send() raises
ClientDisconnected, an OSError. It may go on after its answer (background tasks), also while the server stops.
"""
import asyncio
import contextvars
import os
import stat
from asyncio import CancelledError
from collections.abc import Coroutine
from inspect import isawaitable
from urllib.parse import quote

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.dict cimport PyDict_Copy
from cpython.list cimport PyList_New, PyList_SET_ITEM
from cpython.ref cimport Py_INCREF, PyObject
from libc.stdint cimport int64_t, uint8_t, uint32_t

from fastserve.interfaces.asgi_event cimport (
    TURNS, WAIT, Event, EventCall, check_pair, is_departure, message_body, message_headers, message_kind, message_part,
    message_status, tell_route,
)
from fastserve.interfaces.asgi_websocket cimport ASGIWebSocketCall, websocket_scope
from fastserve.interfaces.entries cimport fs_is_back, fs_put
from fastserve.protocol.channel cimport Channel
from fastserve.protocol.core cimport (
    FS_FIELD_COUNT,
    FS_FIELD_HOST,
    FS_FIELD_TE,
    FS_FIELD_UNKNOWN,
    FS_METHOD_CONNECT,
    FS_METHOD_COUNT,
    FS_METHOD_GET,
    FS_METHOD_HEAD,
    FS_TARGET_ABSOLUTE,
    FS_TARGET_ASTERISK,
    FS_TARGET_AUTHORITY,
    fs_field,
    fs_method_name,
    fs_request_head,
    fs_text_equal,
)
from fastserve.protocol.exchange cimport Exchange
from fastserve.protocol.headers cimport field_name
from fastserve.protocol.forwarded cimport Forwarded
from fastserve.protocol.hooks cimport Handler
from fastserve.protocol.request cimport RequestBody, path_text
from fastserve.protocol.websocket cimport WebSocket, asks_for_websocket
from fastserve.protocol.wire cimport OpenFile

from fastserve.errors import ClientDisconnected, LocalProtocolError, RemoteProtocolError
from fastserve.protocol.files import open_regular

__all__ = ["ASGIHandler", "asgi3"]

cdef extern from "Python.h":
    bint PyCoro_CheckExact(object coro)

cdef enum:
    FILE_BLOCK = 131072    # a file is read in a thread, in blocks of this size

cdef enum:   # places in FACTS
    AT_ASGI = 1
    AT_METHOD = 3
    AT_PATH = 5
    AT_RAW_PATH = 6
    AT_QUERY_STRING = 7
    AT_HEADERS = 9
    AT_EXTENSIONS = 12
    AT_STATE = 13

# Made once, and found in every scope.
cdef list NAMES = [field_name(i) for i in range(<int>FS_FIELD_COUNT)]
cdef list METHODS = [
    (<bytes>fs_method_name(i)).decode("ascii") if i else None for i in range(<int>FS_METHOD_COUNT)
]
cdef str SLASH = "/"
cdef bytes RAW_SLASH = b"/"
cdef dict ASGI = {"version": "3.0", "spec_version": "2.4"}
# Only what works is advertised, and only to whom it works for: an HTTP/1.0 peer knows no 1xx, and trailers are for those that
# said "TE: trailers" (RFC 9110 section 6.5.1).
cdef dict EXTENSIONS_10 = {"http.response.pathsend": {}, "http.response.zerocopysend": {}}
cdef dict EXTENSIONS = {**EXTENSIONS_10, "http.response.early_hint": {}}
cdef dict EXTENSIONS_TE = {**EXTENSIONS, "http.response.trailers": {}}
# What scopes begin with. Filled one by one: CPython makes the table of a dict display for keys of any kind, which is larger.
cdef dict FACTS = {}
for _name, _value in (
    ("type", "http"), ("asgi", {}), ("http_version", "1.1"), ("method", "GET"), ("scheme", "http"), ("path", None),
    ("raw_path", None), ("query_string", b""), ("root_path", ""), ("headers", None), ("client", None), ("server", None),
    ("extensions", None), ("state", None),
):
    FACTS[_name] = _value


def asgi3(app):
    """An ASGI 2 application, `app(scope)` and then `instance(receive, send)`, as an ASGI 3 application."""

    async def call(scope, receive, send):
        await app(scope)(receive, send)

    return call


async def _awaiting(object awaitable):
    return await awaitable


# ------------------------------------------------------------------------------------------------ the handler


cdef class ASGIHandler(Handler):
    """Answers exchanges with an ASGI 3 application.

    app: `async (scope, receive, send)`. state: dict that every scope gets a shallow copy of, or None; it may be filled, and the
    attribute be changed, before the first request. root_path: what a proxy has cut off the path; with it `path` is whole again.
    """

    def __init__(self, app, *, state=None, root_path=""):
        self.app = app
        self.state = state
        self.root_path = root_path
        self.raw_root_path = quote(root_path, safe="/%:@!$&'()*+,;=-._~").encode("ascii")
        self.running = set()
        self.spare = Spares.__new__(Spares)

    def close(self):
        """Let go of what was kept for the next requests."""
        self.spare.clear()

    async def wait_idle(self):
        """Until no call is waiting for anything any more."""
        while self.running:
            waiter = self.loop.create_future()
            if self._idle_waiters is None:
                self._idle_waiters = []
            self._idle_waiters.append(waiter)
            await waiter

    def forget(self, call):
        """It has ended."""
        self.running.discard(call)
        if self._idle_waiters is not None and not self.running:
            for waiter in self._idle_waiters:
                if not waiter.done():
                    waiter.set_result(None)
            self._idle_waiters = None

    def cancel(self):
        """Cancel the calls that are waiting."""
        for call in list(self.running):
            task = (<EventCall>call).task if isinstance(call, EventCall) else call
            if task is not None:
                task.cancel("the server stops")

    # --- station 5: handle ---

    cdef int handle(self, Exchange exchange) except -1:
        cdef fs_request_head *head = exchange.head()
        if self.loop is None:
            self.loop = asyncio.get_running_loop()
            # The transport's context, which is the one the server was started in.
            self.context = contextvars.copy_context()
        if head.method_id == FS_METHOD_CONNECT or head.parts.form == FS_TARGET_AUTHORITY:
            return exchange.fail(501)   # RFC 9110 section 9.3.6: we are no proxy
        return self.answer(exchange, "", self.context, self.state)

    cdef int answer(self, Exchange exchange, str mounted, object context, object state) except -1:
        cdef EventCall call
        cdef WebSocket websocket = None
        cdef object coro
        if self.loop is None:
            self.loop = asyncio.get_running_loop()
        if exchange.head().upgrade and asks_for_websocket(exchange):
            websocket = WebSocket.begin(exchange)
            if websocket is None:
                return 0   # no good handshake, and the peer was told so
            call = ASGIWebSocketCall.__new__(ASGIWebSocketCall)
            (<ASGIWebSocketCall>call).websocket = websocket
        else:
            call = <EventCall>self.spare.take()
            if call is None:
                call = ASGICall.__new__(ASGICall)
        call.wing = self
        call.exchange = exchange
        call.loop = self.loop
        call.base_context = context
        exchange.call = call
        try:
            call.scope = self.scope(exchange, mounted, state)
            if websocket is not None:
                websocket_scope(call.scope, websocket)
            if call.receiver is None:
                call.receiver, call.sender = call.receive, call.respond
            coro = self.app(call.scope, call.receiver, call.sender)
            if not PyCoro_CheckExact(coro):
                if not isawaitable(coro):
                    raise TypeError(f"an ASGI application returns an awaitable, not {type(coro).__name__}")
                if not isinstance(coro, Coroutine):
                    coro = _awaiting(coro)
        except BaseException as error:
            call.let_go()
            call.settle(None, error)
            if isinstance(error, KeyboardInterrupt):
                raise
            return 0
        call.pooled = websocket is None
        call.go(coro)
        call.pooled = False
        coro = None
        if websocket is None:
            if call.kept(self.spare):
                return 0
        else:
            call.let_go()
        if not call.finished:
            self.running.add(call)
        return 0

    cdef dict scope(self, Exchange exchange, str mounted, object state):
        cdef fs_request_head *head = exchange.head()
        cdef const uint8_t *data = exchange.data
        cdef const uint8_t *p
        cdef fs_field *fields = exchange.fields
        cdef fs_field *field
        cdef uint32_t i
        cdef uint32_t count = head.fields_count
        cdef Py_ssize_t n
        cdef dict scope
        cdef list headers
        cdef tuple pair
        cdef bytes name, raw_path
        cdef str path
        cdef bint http11 = head.version_minor > 0
        cdef bint takes_trailers = False
        cdef object facts
        cdef Forwarded said = exchange.forwarded()
        cdef str root_path = self.root_path
        cdef bytes raw_root_path = self.raw_root_path
        if data == NULL:   # a mount behind middleware: the read is gone, the request was kept
            data = exchange.request()._data
            headers = list(exchange.request().headers_().items_())
            for pair in headers:
                if pair[0] == b"te" and _says_trailers(pair[1], PyBytes_GET_SIZE(pair[1])):
                    takes_trailers = True
        else:
            headers = PyList_New(count)
            for i in range(count):
                field = &fields[i]
                if field.id != FS_FIELD_UNKNOWN:
                    name = <bytes>NAMES[field.id]
                    if field.id == FS_FIELD_TE and _says_trailers(<const char *>data + field.value, field.value_len):
                        takes_trailers = True
                else:
                    name = _lower(data + field.name, field.name_len)
                if field.id == FS_FIELD_HOST and said is not None and said.host is not None:
                    pair = (name, said.host)
                elif field.id == FS_FIELD_HOST and head.parts.form == FS_TARGET_ABSOLUTE:
                    # RFC 9112 section 3.2.2: "the received Host field value MUST be ignored and replaced with the host
                    # information of the request-target"
                    pair = (name, PyBytes_FromStringAndSize(<const char *>data + head.host.off, head.host.len))
                else:
                    pair = (name, PyBytes_FromStringAndSize(<const char *>data + field.value, field.value_len))
                Py_INCREF(pair)
                PyList_SET_ITEM(headers, i, pair)
            if head.parts.form == FS_TARGET_ABSOLUTE and not _has_host(fields, count):
                headers.append((b"host", PyBytes_FromStringAndSize(<const char *>data + head.host.off, head.host.len)))
        if exchange.channel.id_field is not None:
            name = exchange.channel.id_field
            headers = [pair for pair in headers if pair[0] != name]   # whatever the peer calls it, this is its name here
            headers.append((name, exchange.id()))
        facts = exchange.channel.facts
        if type(facts) is not dict:
            facts = exchange.channel.facts = _facts(exchange.channel)
        scope = PyDict_Copy(<dict>facts)
        if self.given is None or not fs_is_back(<PyObject *>self.given, ASGI):
            self.given = PyDict_Copy(ASGI)   # theirs to change
        fs_put(scope, AT_ASGI, "asgi", self.given)
        if not http11:
            scope["http_version"] = "1.0"
        if head.method_id == FS_METHOD_GET:
            pass   # as in the facts
        elif 0 < head.method_id < FS_METHOD_COUNT:
            fs_put(scope, AT_METHOD, "method", <object>METHODS[head.method_id])
        else:
            # As sent: methods are case-sensitive (RFC 9110 section 9.1).
            scope["method"] = PyBytes_FromStringAndSize(<const char *>data + head.method.off, head.method.len).decode("ascii")
        if said is not None:
            if said.client is not None:
                scope["client"] = said.client
            if said.scheme is not None:
                scope["scheme"] = said.scheme
            if said.prefix is not None:
                root_path = said.prefix
                raw_root_path = said.prefix.encode("ascii")
        p = data + head.target.off + head.parts.path.off
        n = head.parts.path.len
        if n == 1 and p[0] == 47:
            path, raw_path = SLASH, RAW_SLASH
        elif n == 0:
            path, raw_path = SLASH, RAW_SLASH   # absolute-form without a path (RFC 9110 section 4.2.3)
        else:
            path = path_text(p, n, head.parts.has_percent)
            raw_path = PyBytes_FromStringAndSize(<const char *>p, n)
        if root_path and head.parts.form != FS_TARGET_ASTERISK:
            path = root_path + path
            raw_path = raw_root_path + raw_path
        fs_put(scope, AT_PATH, "path", path)
        fs_put(scope, AT_RAW_PATH, "raw_path", raw_path)
        if head.parts.has_query:
            fs_put(scope, AT_QUERY_STRING, "query_string", PyBytes_FromStringAndSize(
                <const char *>data + head.target.off + head.parts.query.off, head.parts.query.len
            ))
        if root_path or mounted:
            scope["root_path"] = root_path + mounted
        fs_put(scope, AT_HEADERS, "headers", headers)
        if not http11 or takes_trailers:
            fs_put(scope, AT_EXTENSIONS, "extensions", PyDict_Copy(EXTENSIONS_TE if http11 else EXTENSIONS_10))
        else:
            if self.given_extensions is None or not fs_is_back(<PyObject *>self.given_extensions, EXTENSIONS):
                self.given_extensions = PyDict_Copy(EXTENSIONS)
            fs_put(scope, AT_EXTENSIONS, "extensions", self.given_extensions)
        if state is None:
            del scope["state"]
        else:
            fs_put(scope, AT_STATE, "state", PyDict_Copy(<dict>state) if type(state) is dict else dict(state))
        return scope


cdef dict _facts(Channel channel):
    # What all scopes of one connection share, in a dict that is copied: that is cheaper than filling a new one.
    cdef dict facts
    client = channel.info("peername")
    server = channel.info("sockname")
    if isinstance(server, (bytes, bytearray)):   # an abstract socket
        server = os.fsdecode(server)
    facts = PyDict_Copy(FACTS)
    if channel.info("ssl_object") is not None:
        facts["scheme"] = "https"
    if isinstance(client, tuple) and len(client) >= 2:
        facts["client"] = (client[0], client[1])
    if isinstance(server, tuple) and len(server) >= 2:
        facts["server"] = (server[0], server[1])
    elif isinstance(server, str) and server:
        facts["server"] = (server, None)
    return facts


cdef bytes _lower(const uint8_t *p, Py_ssize_t n):
    cdef bytes name = PyBytes_FromStringAndSize(NULL, n)
    cdef char *out = PyBytes_AS_STRING(name)
    cdef Py_ssize_t i
    for i in range(n):
        out[i] = p[i] | 0x20 if 65 <= p[i] <= 90 else p[i]
    return name


cdef bint _has_host(fs_field *fields, uint32_t count) noexcept:
    cdef uint32_t i
    for i in range(count):
        if fields[i].id == FS_FIELD_HOST:
            return True
    return False


cdef bint _says_trailers(const char *p, Py_ssize_t n) except -1:
    # RFC 9110 section 10.1.4: TE is a list, "trailers" one of its words
    if n == 8:
        return fs_text_equal(<const uint8_t *>p, n, b"trailers", 8)
    return b"trailers" in [word.strip() for word in (<bytes>p[:n]).lower().split(b",")]


# ---------------------------------------------------------------------------------------------------- a call


@cython.final
cdef class ASGICall(EventCall):
    """One call of the application. `receive` and `respond` are what it gets as receive and send."""

    # --- receive ---

    cdef object next_event(self, Event event):
        cdef Exchange exchange = self.exchange
        cdef RequestBody body
        cdef object data, future
        cdef bint more
        if exchange is None or self.stage == COMPLETE:
            return self.now_and_then(event, {"type": "http.disconnect"})
        if not self.body_over:
            body = exchange.body
            if body is None:
                self.body_over = True
                return {"type": "http.request", "body": b"", "more_body": False}
            try:
                data = body.take()   # the first one sends 100 Continue, if that is waited for
            except RemoteProtocolError:
                data = None          # it broke off, and will never be whole
                self.body_over = True
            else:
                if data is None:
                    event.inner = body.wait().__await__()
                    return WAIT
                more = not body.ended or body.holds()
                self.body_over = not more
                return {"type": "http.request", "body": data, "more_body": more}
        if exchange.disconnected or exchange.ended:
            return self.now_and_then(event, {"type": "http.disconnect"})
        return self.until_woken(event)

    # --- send, station 6: respond ---

    cdef object take_message(self, Event event):
        cdef object message = event.message
        cdef object kind
        cdef Exchange exchange
        if event.sent:
            return None
        event.sent = True
        kind = message_kind(message)
        if kind == "http.response.body":
            self.body_event(message)
        elif kind == "http.response.start":
            self.start_event(message)
            return None
        elif kind == "http.response.pathsend":
            self.check_there()
            self.check_body_due(kind)
            event.inner = _pathsend(self, message)
            return WAIT
        elif kind == "http.response.zerocopysend":
            self.check_there()
            self.check_body_due(kind)
            event.inner = _zerocopysend(self, message)
            return WAIT
        elif kind == "http.response.trailers":
            self.trailers_event(message)
            return None
        elif kind == "http.response.early_hint":
            self.hint_event(message)
            return None
        else:
            raise LocalProtocolError(f"there is no ASGI message {kind!r} to send for a scope of type 'http'")
        exchange = self.exchange
        if self.stage != COMPLETE:
            if not exchange.writable():
                self.turns = 0
                event.inner = exchange.drained().__await__()
                return WAIT
            self.turns += 1
            if self.turns % TURNS == 0:
                # Whoever never waits must not keep the loop from everybody else, nor from hearing that the peer has left.
                event.inner = asyncio.sleep(0)
                return WAIT
        return None

    cdef int check_there(self) except -1:
        cdef Exchange exchange = self.exchange
        if self.stage == COMPLETE:
            raise LocalProtocolError("an ASGI message was sent after the response was complete")
        if exchange is None or exchange.disconnected or exchange.ended:
            # ASGI 2.4: "If send is called after the client has disconnected the server should raise a server-specific subclass
            # of OSError"
            raise ClientDisconnected()
        return 0

    cdef int check_body_due(self, object kind) except -1:
        if self.stage == NOTHING:
            raise LocalProtocolError(f"{kind!r} was sent before 'http.response.start'")
        if self.stage == TRAILERS:
            raise LocalProtocolError(f"{kind!r} was sent after the last body event")
        return 0

    cdef int start_event(self, object message) except -1:
        self.check_there()
        if self.stage != NOTHING:
            raise LocalProtocolError("'http.response.start' was sent a second time")
        self.status = message_status(message)
        self.headers = message_headers(message)
        self.wants_trailers = message_part(message, "trailers", False)
        self.stage = HELD
        return 0

    cdef int write_head(self, int64_t content_length) except -1:
        cdef Exchange exchange = self.exchange
        cdef object headers = self.headers
        exchange.start(self.status, headers, content_length)
        self.headers = None
        self.stage = BODY
        self.sends_trailers = self.wants_trailers and self.scope is not None \
            and "http.response.trailers" in (self.scope.get("extensions") or ())
        return 0

    cdef int body_event(self, object message) except -1:
        cdef Exchange exchange = self.exchange
        cdef bytes body
        cdef bint more = message_part(message, "more_body", False)
        self.check_there()
        if self.stage != BODY and self.stage != HELD:
            self.check_body_due("http.response.body")
        body = message_body(message)
        if self.stage == HELD:
            if not more and not self.wants_trailers:
                if PyBytes_GET_SIZE(body) == 0 and exchange.head().method_id == FS_METHOD_HEAD:
                    # RFC 9110 section 8.6: the length that GET would have sent is the application's to know
                    exchange.start(self.status, self.headers, -1)
                    exchange.end()
                else:
                    self._check_length(PyBytes_GET_SIZE(body))
                    exchange.send(self.status, self.headers, body)
                return self.completed()
            self.write_head(-1)
            if PyBytes_GET_SIZE(body) == 0:
                exchange.channel.flush()
        if PyBytes_GET_SIZE(body) != 0:
            exchange.write(body)
        if not more:
            if self.wants_trailers:
                self.stage = TRAILERS
            else:
                exchange.end()
                return self.completed()
        return 0

    cdef int _check_length(self, Py_ssize_t size) except -1:
        # A body that is one event, against the length that was declared: said in words before a byte is written.
        if self.status == 304:
            return 0
        for pair in self.headers:
            name = pair[0]
            if len(name) == 14 and _is_content_length(name):
                value = pair[1]
                if PyBytes_CheckExact(value) and _is_number(PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value), size):
                    continue
                value = bytes(value).strip()
                if value.isdigit() and len(value) < 19 and int(value) != size and self.status != 204 and self.status != 205:
                    if self.exchange.head().method_id == FS_METHOD_HEAD:
                        raise LocalProtocolError(f"Content-Length {value.decode()} is declared, and the body has {size} bytes")
                    raise LocalProtocolError(
                        f"{'less' if int(value) > size else 'more'} body than Content-Length declared: {size} bytes, not "
                        f"{value.decode()}"
                    )
        return 0

    cdef int trailers_event(self, object message) except -1:
        cdef list trailers
        self.check_there()
        if self.stage != TRAILERS:
            raise LocalProtocolError("'http.response.trailers' was sent, and none were announced or the body is not complete")
        trailers = list(message.get("headers", ()))
        for pair in trailers:
            check_pair(pair)
        self.trailers = trailers if self.trailers is None else self.trailers + trailers
        if not message.get("more_trailers", False):
            self.exchange.end_with(self.trailers if self.sends_trailers else None)
            return self.completed()
        return 0

    cdef int hint_event(self, object message) except -1:
        cdef list headers = []
        self.check_there()
        if self.stage != NOTHING and self.stage != HELD:
            raise LocalProtocolError("'http.response.early_hint' was sent after the head of the response")
        for link in message.get("links", ()):
            if not isinstance(link, bytes):
                raise LocalProtocolError(f"'links' of 'http.response.early_hint' are bytes, not {type(link).__name__}")
            headers.append((b"link", link))
        if self.exchange.head().version_minor > 0:   # RFC 9110 section 15.2: the others know no 1xx
            self.exchange.send_1xx(103, headers)
        return 0

    cdef int completed(self) except -1:
        self.stage = COMPLETE
        self.headers = None
        return self.wake()

    # --- the end of the call ---

    cdef int reset(self) except -1:
        self.stage = NOTHING
        self.body_over = self.wants_trailers = self.sends_trailers = False
        self.turns = 0
        return 0

    cdef object returned(self, object value):
        cdef Exchange exchange = self.exchange
        if self.stage == COMPLETE or exchange.ended:
            return None
        if exchange.disconnected:
            exchange.cut()   # nobody is left to complain to
            return None
        if exchange.started:
            self.log("the ASGI application returned before its response was complete: it is cut short", None)
        else:
            self.log("the ASGI application returned without sending a response", None)
        exchange.fail(500)
        return None

    cdef object raised(self, object error):
        cdef Exchange exchange = self.exchange
        cdef bint left = exchange.disconnected or (exchange.ended and self.stage != COMPLETE)
        if isinstance(error, CancelledError):
            if self.stage != COMPLETE and not left:
                self.log("the ASGI application was cancelled", None)
                exchange.fail(503)
            else:
                exchange.cut()
            return None
        if left and is_departure(error):
            exchange.cut()   # our own exception, perhaps wrapped by a framework: that is no fault
            return None
        self.log("exception in the ASGI application" + (
            ", after its response" if self.stage == COMPLETE
            else ", after the client had left" if exchange.disconnected
            else ", after the response had begun: it is cut short" if exchange.started
            else ""
        ), error)
        exchange.fail(500)
        return None

    cdef int _finish(self) except -1:
        cdef Exchange exchange = self.exchange
        self.finished = True
        self.exchange = None
        if self.trace is not None:
            tell_route(self.trace, self.scope)
        self.scope = None
        self.headers = self.trailers = None
        if not self.started_task and not self.pooled:
            self.task = None
        if exchange is not None and not exchange.ended:
            exchange.fail(500)
        self.wake()
        if self.started_task:
            self.wing.forget(self)
        return 0


cdef bint _is_content_length(object name) except -1:
    cdef bytes text = name if PyBytes_CheckExact(name) else bytes(name)
    return fs_text_equal(<const uint8_t *>PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text), b"content-length", 14)


cdef bint _is_number(const char *text, Py_ssize_t length, Py_ssize_t number) noexcept:
    # Does it say just this number?
    cdef Py_ssize_t i, found = 0
    if not 0 < length < 19:
        return False
    for i in range(length):
        if not 48 <= text[i] <= 57:
            return False
        found = found * 10 + (text[i] - 48)
    return found == number

# ------------------------------------------------------------------------------------------------------ files


async def _pathsend(ASGICall call, object message):
    """The whole body is a file: `path`, absolute. OSError if it cannot be opened, before anything is sent."""
    path = message.get("path")
    if not isinstance(path, (str, bytes, os.PathLike)):
        raise LocalProtocolError(f"'path' of 'http.response.pathsend' is the path of a file, not {path!r}")
    file = open_regular(path, True)
    if file is None:   # the disk has to be asked
        file = await call.loop.run_in_executor(None, open_regular, path)
    await _send_file(call, file.fd, 0, file.size, False, file)


async def _zerocopysend(ASGICall call, object message):
    """A part of the body is in an open file: `file`, `offset`, `count`. Without an offset it is read where it stands."""
    file, offset, count = message.get("file"), message.get("offset"), message.get("count")
    try:
        fd = file if isinstance(file, int) else file.fileno()
    except (AttributeError, OSError, ValueError):
        raise LocalProtocolError(f"'file' of 'http.response.zerocopysend' has no file descriptor: {file!r}") from None
    for name, number in (("offset", offset), ("count", count)):
        if number is not None and (not isinstance(number, int) or number < 0):
            raise LocalProtocolError(f"{name!r} of 'http.response.zerocopysend' is a number of bytes, not {number!r}")
    known = os.fstat(fd)
    stands = offset is None and stat.S_ISREG(known.st_mode)
    if stands:
        offset = os.lseek(fd, 0, os.SEEK_CUR)
    if stat.S_ISREG(known.st_mode):
        left = max(known.st_size - offset, 0)
        count = left if count is None else min(count, left)
    sent = await _send_file(call, fd, offset, count, bool(message.get("more_body", False)), None)
    if stands:
        os.lseek(fd, offset + sent, os.SEEK_SET)


async def _send_file(ASGICall call, object fd, object offset, object count, bint more, OpenFile file):
    """`count` bytes (None: all there are) of the file from `offset` (None: it cannot be told, a pipe). Returns what was sent.
    By the kernel where that can be; otherwise by a thread that reads. `file`: who holds the descriptor; None: the application."""
    cdef Exchange exchange
    sent = 0
    call.check_there()
    if call.stage == HELD:
        call.write_head(count if not more and not call.wants_trailers and count is not None and offset is not None else -1)
    exchange = call.exchange
    silent = exchange.head().method_id == FS_METHOD_HEAD or not exchange.plan.body
    if not silent and offset is not None and count is not None and exchange.channel.takes_files():
        if file is not None:
            exchange.send_open(file, offset, count)
        else:
            exchange.send_file(fd, offset, count)   # with a descriptor of its own: the application may close this one
        sent = count
        if more and not exchange.writable():
            await exchange.drained()
    while not silent and (count is None or sent < count):
        size = FILE_BLOCK if count is None else min(FILE_BLOCK, count - sent)
        if offset is None:
            block = await call.loop.run_in_executor(None, os.read, fd, size)
        else:
            block = await call.loop.run_in_executor(None, os.pread, fd, size, offset + sent)
        if not block:
            break   # it has shrunk: end() finds that less came than was declared
        call.check_there()
        exchange.write(block)
        sent += len(block)
        if not exchange.writable():
            await exchange.drained()
    call.check_there()
    if more:
        exchange.channel.flush()
    elif call.wants_trailers:
        call.stage = TRAILERS
    else:
        exchange.end()
        call.completed()
    return sent
