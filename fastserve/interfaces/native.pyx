"""The native wing: an Exchange, a route, a handler's arguments, its call, its answer.

Room:    floor 2, station 5 (handle). An App is compiled into tables here; per request nothing is inspected but types.
Called:  by Connection through the door Handler; by HandlerCall (returned, raised). Calls the user's code, Exchange.
Rules:   RFC 9110 sections 9.3.2 (HEAD), 9.3.7 (OPTIONS), 10.2.1 (Allow), 15.5.6 (405), 15.6.2 (501).

Theory of operation. `handle` finds an Endpoint (a compiled Route) or a Refusal (404, 405, the automatic OPTIONS).
Without middleware and hooks the endpoint is called at once: a coroutine is stepped by HandlerCall, a plain function
goes to the thread pool. With them everything, refusals too, goes through one coroutine (`_layer`). Whatever comes back
is an answer (`NativeCall.returned`), whatever is raised becomes one (`NativeCall.raised`). Both may name a coroutine
that goes on: a body that is streamed, an exception handler.
"""
import asyncio
import contextvars
import logging
import os
import traceback
from asyncio import CancelledError
from collections import deque
from collections.abc import AsyncGenerator, Coroutine, Generator
from concurrent.futures import ThreadPoolExecutor
from inspect import isawaitable, iscoroutine

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.ref cimport PyObject
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport int64_t, uint8_t, uint64_t

from fastserve.interfaces.asgi cimport ASGIHandler
from fastserve.interfaces.call cimport HandlerCall, Spares
from fastserve.interfaces.relay cimport RelayExchange, again
from fastserve.interfaces.static cimport Static

cdef extern from "Python.h":
    bint PyCoro_CheckExact(object coro)   # a coroutine of an `async def`: without the Python call that inspect costs
    bint PyAsyncGen_CheckExact(object generator)

    ctypedef enum PySendResult:
        PYGEN_RETURN
        PYGEN_ERROR
        PYGEN_NEXT

    PySendResult PyIter_Send(object it, object arg, PyObject **result) except *

cdef extern from *:
    """
    static inline PyObject *fs_took(PyObject *object) { return object; }

    /* iterator.__anext__().__await__(), by their slots: the look-ups and calls of Python's way cost as much as a generator's
     * whole step. */
    static PyObject *fs_next_awaitable(PyObject *iterator) {
      PyAsyncMethods *slots = Py_TYPE(iterator)->tp_as_async;
      PyObject *awaitable, *inner;
      if (slots == NULL || slots->am_anext == NULL) {
        PyErr_Format(PyExc_TypeError, "'%.100s' is no asynchronous iterator: it has no __anext__", Py_TYPE(iterator)->tp_name);
        return NULL;
      }
      awaitable = slots->am_anext(iterator);
      if (awaitable == NULL) return NULL;
      slots = Py_TYPE(awaitable)->tp_as_async;
      if (slots == NULL || slots->am_await == NULL) {
        PyErr_Format(PyExc_TypeError, "__anext__ returned '%.100s', which cannot be awaited", Py_TYPE(awaitable)->tp_name);
        Py_DECREF(awaitable);
        return NULL;
      }
      inner = slots->am_await(awaitable);
      Py_DECREF(awaitable);
      return inner;
    }
    """
    object fs_took(PyObject *object)     # a new reference that is given to us
    object fs_next_awaitable(object iterator)

from fastserve.protocol.board cimport FOR_AGE
from fastserve.protocol.core cimport (
    FS_METHOD_CONNECT,
    FS_METHOD_COUNT,
    FS_METHOD_DELETE,
    FS_METHOD_GET,
    FS_METHOD_HEAD,
    FS_METHOD_OPTIONS,
    FS_METHOD_OTHER,
    FS_METHOD_PATCH,
    FS_METHOD_POST,
    FS_METHOD_PUT,
    FS_METHOD_TRACE,
    FS_TARGET_ASTERISK,
    FS_TARGET_AUTHORITY,
    fs_request_head,
)
from fastserve.protocol.exchange cimport Exchange
from fastserve.protocol.headers cimport raw_headers
from fastserve.protocol.hooks cimport Handler
from fastserve.protocol.lens cimport HANDLER_THREAD, Trace
from fastserve.interfaces.asgi_event cimport tell_route
from fastserve.protocol.request cimport BodyListener, Namespace, Request, RequestBody, path_bytes
from fastserve.protocol.files cimport answer_of, send_answer
from fastserve.protocol.response cimport FileResponse, Response, StreamingResponse, content_type_of
from fastserve.protocol.timers cimport precise_now
from fastserve.protocol.websocket cimport WebSocket, asks_for_websocket
from fastserve.protocol.wire cimport OpenFile

from fastserve.errors import (
    ClientDisconnected, ConfigError, HTTPException, LocalProtocolError, RemoteProtocolError, WebSocketDisconnect,
)
from fastserve.interfaces import detect
from fastserve.interfaces.asgi import asgi3
from fastserve.interfaces.relay import relay
from fastserve.interfaces.static import static_response
from fastserve.protocol.files import open_regular
from fastserve.protocol.lens import thread as lens_thread
from fastserve.protocol.response import JSONResponse, PlainTextResponse, json_encode
from fastserve.routing import JSON_MISFITS, MISSING, describe

__all__ = ["NativeHandler"]

logger = logging.getLogger("fastserve.error")

cdef bytes TEXT = b"text/plain; charset=utf-8"
cdef bytes OCTETS = b"application/octet-stream"
cdef bytes JSON = b"application/json"

cdef dict METHOD_IDS = {
    b"GET": FS_METHOD_GET,
    b"HEAD": FS_METHOD_HEAD,
    b"POST": FS_METHOD_POST,
    b"PUT": FS_METHOD_PUT,
    b"DELETE": FS_METHOD_DELETE,
    b"CONNECT": FS_METHOD_CONNECT,
    b"OPTIONS": FS_METHOD_OPTIONS,
    b"TRACE": FS_METHOD_TRACE,
    b"PATCH": FS_METHOD_PATCH,
}

cdef object END = object()   # of an iterator
cdef enum:
    INLINE_TURN = 32         # pieces of an iterator that runs on the loop, before others get their turn


class NotAnAnswer(TypeError):
    """A handler returned something that no answer can be made of."""


# ------------------------------------------------------------------------------------------------- arguments


cdef class Getter:
    # How one argument is got. The plan of a handler is a tuple of these, made when the app is compiled.
    cdef object name, key, convert, default
    cdef bint many
    cdef Py_ssize_t index

    cdef object get(self, NativeCall call):
        raise NotImplementedError


cdef class RequestGetter(Getter):
    cdef object get(self, NativeCall call):
        return call.request()


cdef class WebSocketGetter(Getter):
    cdef object get(self, NativeCall call):
        return call.websocket


cdef class PathGetter(Getter):
    cdef object get(self, NativeCall call):
        value = call.values[self.index]
        if self.convert is None:
            return value
        try:
            return self.convert(value)
        except ValueError:
            raise HTTPException(404) from None


cdef class QueryGetter(Getter):
    cdef object get(self, NativeCall call):
        params = call.request().query_params
        if self.many:
            found = params.getlist(self.key)
            if not found and self.default is not MISSING:
                return self.default
        else:
            found = params.get(self.key, MISSING)
            if found is MISSING:
                if self.default is MISSING:
                    raise HTTPException(400, f"Missing query parameter {self.key!r}")
                return self.default
        return _converted(self, found, "query parameter")


cdef class HeaderGetter(Getter):
    cdef object get(self, NativeCall call):
        cdef bytes raw
        headers = call.request().headers_()
        if self.many:
            found = headers.getlist(self.key)
            if not found and self.default is not MISSING:
                return self.default
        else:
            raw = call.request().headers_().find(<bytes>self.name)
            if raw is None:
                if self.default is MISSING:
                    raise HTTPException(400, f"Missing header {self.key!r}")
                return self.default
            found = raw.decode("latin-1")
        return _converted(self, found, "header")


cdef class StateGetter(Getter):
    cdef object get(self, NativeCall call):
        cdef Request request
        if call.exchange is None:
            raise RuntimeError("the response is complete already")
        request = call.exchange._request
        if request is not None and request._state is not None:
            if self.key in (<Namespace>request._state)._values:
                return (<Namespace>request._state)._values[self.key]
        elif call.wing.state is not None and self.key in call.wing.state:
            return call.wing.state[self.key]
        value = getattr(call.wing.app.state, self.key, MISSING)
        if value is MISSING:
            value = self.default
        if value is MISSING:
            raise LookupError(f"State argument {self.key!r}: neither request.state nor app.state has it")
        return value


cdef class BodyGetter(Getter):
    cdef object get(self, NativeCall call):
        return call.body


cdef class JsonGetter(Getter):
    cdef object get(self, NativeCall call):
        try:
            return self.convert(call.body)
        except JSON_MISFITS as error:
            raise HTTPException(422, str(error)) from error
        except (ValueError, RecursionError) as error:
            raise HTTPException(400, f"Malformed JSON: {error}") from error


cdef object _converted(Getter getter, object found, str what):
    if getter.convert is None:
        return found
    try:
        if getter.many:
            return [getter.convert(text) for text in found]
        return getter.convert(found)
    except ValueError:
        raise HTTPException(400, f"Malformed {what} {getter.key!r}") from None


cdef dict GETTERS = {
    "request": RequestGetter,
    "websocket": WebSocketGetter,
    "path": PathGetter,
    "query": QueryGetter,
    "header": HeaderGetter,
    "state": StateGetter,
    "body": BodyGetter,
    "json": JsonGetter,
}


cdef Getter _getter(object argument, tuple names):
    cdef Getter getter = GETTERS[argument.source]()
    getter.key = argument.key
    getter.name = argument.key.encode("latin-1", "replace").lower() if argument.source == "header" else argument.name
    getter.convert = argument.convert
    getter.default = argument.default
    getter.many = argument.many
    getter.index = names.index(argument.key) if argument.source == "path" else -1
    return getter


# ------------------------------------------------------------------------------------------------ the tables


cdef enum Kind:
    COROUTINE   # async def: stepped here
    INLINE      # plain, on the event loop
    THREAD      # plain, in the pool


@cython.final
cdef class Endpoint:
    # A compiled Route.
    cdef object handler, route
    cdef object path              # of the route
    cdef Kind kind
    cdef bint blocking            # plain generators of this handler are iterated in the pool
    cdef bint cancel_on_disconnect
    cdef bint bare                # takes no arguments
    cdef bint wants_body
    cdef object body_max          # limit_request_body of the route, or None
    cdef tuple names              # of the path parameters, from left to right
    cdef tuple getters            # arguments by position
    cdef tuple keywords           # (name, Getter)

    def __init__(self, route):
        self.route = route
        self.path = route.path
        self.handler = route.handler
        self.kind = {"coroutine": COROUTINE, "inline": INLINE, "thread": THREAD}[route.kind]
        self.blocking = route.blocking
        self.body_max = route.limit_request_body
        # A plain function is never interrupted: what it does is done to the end, and nobody could stop its thread.
        self.cancel_on_disconnect = route.cancel_on_disconnect and self.kind != THREAD
        self.names = tuple([name for name, _ in route.parameters])
        self.getters = tuple([_getter(a, self.names) for a in route.plan if not a.keyword])
        self.keywords = tuple([(a.name, _getter(a, self.names)) for a in route.plan if a.keyword])
        self.bare = not route.plan
        self.wants_body = any([a.source in ("body", "json") for a in route.plan])

    cdef object call(self, NativeCall call):
        # The handler, called; for `async def` that only makes the coroutine.
        cdef list arguments
        cdef dict named
        cdef Getter getter
        if self.bare:
            return self.handler()
        arguments = []
        for getter in self.getters:
            arguments.append(getter.get(call))
        if not self.keywords:
            return self.handler(*arguments)
        named = {}
        for name, getter in self.keywords:
            named[name] = getter.get(call)
        return self.handler(*arguments, **named)

    cdef object bind(self, NativeCall call):
        # The same for a thread: arguments are got here, the call happens there.
        return (
            tuple([(<Getter>getter).get(call) for getter in self.getters]),
            {name: (<Getter>getter).get(call) for name, getter in self.keywords},
        )


@cython.final
cdef class Refusal:
    # No handler: 404, 405, 426 (only a WebSocket is there), 501, or the automatic answer to OPTIONS (204).
    cdef int status
    cdef bytes allow   # value of Allow, or None

    cdef object error(self):
        if self.status == 426:
            return HTTPException(426, None, UPGRADE)
        return HTTPException(
            self.status, None, {"allow": self.allow.decode("ascii")} if self.allow is not None else None
        )


cdef Refusal _refusal(int status, bytes allow):
    cdef Refusal refusal = Refusal.__new__(Refusal)
    refusal.status = status
    refusal.allow = allow
    return refusal


# RFC 9110 section 15.5.22: a 426 names the protocol in Upgrade; RFC 6455 section 4.2.2: and the version.
cdef dict UPGRADE = {"upgrade": "websocket", "connection": "upgrade", "sec-websocket-version": "13"}

cdef Refusal UPGRADE_REQUIRED = _refusal(426, None)
cdef Refusal NOT_FOUND = _refusal(404, None)
cdef Refusal NOT_IMPLEMENTED = _refusal(501, None)


@cython.final
cdef class Mount:
    # An application below a prefix. It takes what no route of the App matches.
    cdef Handler handler
    cdef ASGIHandler asgi    # the same, if it is one; None: WSGI
    cdef object app          # as it was given
    cdef str prefix
    cdef list segments       # bytes
    cdef bytes raw           # the prefix as bytes; "" takes everything
    cdef str pattern         # what its requests are called, where nobody says more

    cdef bint takes(self, bytes path, bint escaped) except -1:
        cdef list segments
        if not self.segments:
            return True
        if not escaped:
            # to the end of a segment: "/api" takes "/api" and "/api/x", not "/apix"
            return path.startswith(self.raw) and (len(path) == len(self.raw) or path[len(self.raw)] == 47)
        segments = path[1:].split(b"/")[:len(self.segments)]
        return [_unescape(segment) for segment in segments] == self.segments


@cython.final
cdef class Leaf:
    # The endpoints of one path.
    cdef list by_id        # index: FS_METHOD_ number
    cdef dict by_name      # bytes -> Endpoint, for methods without a number
    cdef set methods       # bytes: what Allow lists
    cdef Endpoint websocket

    def __init__(self):
        self.by_id = [None] * <int>FS_METHOD_COUNT
        self.by_name = {}
        self.methods = {b"OPTIONS"}

    cdef int add(self, Endpoint endpoint) except -1:
        cdef bytes name
        if endpoint.route.websocket:
            self.websocket = endpoint
            self.methods.add(b"GET")   # which is what a handshake is
            return 0
        for method in endpoint.route.methods:
            name = method.encode("ascii")
            self.methods.add(name)
            if name in METHOD_IDS:
                self.by_id[<Py_ssize_t>METHOD_IDS[name]] = endpoint
            else:
                self.by_name[name] = endpoint
        return 0

    cdef int finish(self) except -1:
        # RFC 9110 section 9.3.2: HEAD is GET without the body, so the handler of GET answers it; the exchange drops the
        # body.
        if self.by_id[<int>FS_METHOD_HEAD] is None and self.by_id[<int>FS_METHOD_GET] is not None:
            self.by_id[<int>FS_METHOD_HEAD] = self.by_id[<int>FS_METHOD_GET]
            self.methods.add(b"HEAD")
        return 0

    cdef inline Endpoint find(self, unsigned method_id, bytes method):
        if method_id != FS_METHOD_OTHER:
            return <Endpoint>self.by_id[<Py_ssize_t>method_id]
        return <Endpoint>self.by_name.get(method)


@cython.final
cdef class Node:
    # One segment of the paths with parameters. Literal before pattern before parameter before path; among parameters
    # the converter that accepts least comes first.
    cdef dict literals     # bytes -> Node
    cdef list patterns     # of (match, converters, Node, text of the pattern)
    cdef list typed        # of (convert, Node, name of the converter, rank)
    cdef Node text         # {name}
    cdef Leaf rest         # {name:path}
    cdef Leaf leaf         # the path ends here

    def __init__(self):
        self.literals = {}
        self.patterns = []
        self.typed = []

    cdef Node child(self, object segment):
        cdef Node node
        if segment.kind == "literal":
            node = self.literals.get(segment.text)
            if node is None:
                node = self.literals[segment.text] = Node()
            return node
        if segment.kind == "pattern":
            text = segment.shape
            for _, _, known, known_text in self.patterns:
                if known_text == text:
                    return known
            node = Node()
            converts = tuple([converter.convert for _, converter in segment.parameters])
            self.patterns.append((segment.pattern.fullmatch, converts, node, text))
            return node
        converter = segment.parameters[0][1]
        if converter.name == "str":
            if self.text is None:
                self.text = Node()
            return self.text
        for _, known, name, _ in self.typed:
            if name == converter.name:
                return known
        node = Node()
        self.typed.append((converter.convert, node, converter.name, ("uuid", "int", "float").index(converter.name)))
        self.typed.sort(key=lambda entry: entry[3])
        return node


@cython.final
cdef class Search:
    # One walk down the tree.
    cdef list segments       # bytes, percent-decoded
    cdef Py_ssize_t count
    cdef list values         # of the parameters passed on the way
    cdef unsigned method_id
    cdef bytes method
    cdef set allowed         # methods of the paths that matched without having ours; None if there was none
    cdef bint websocket      # a WebSocket's route is looked for
    cdef bint upgrade        # passed one, with a GET that asks for none

    cdef Endpoint at(self, Leaf leaf):
        cdef Endpoint found
        if self.websocket:
            return leaf.websocket
        found = leaf.find(self.method_id, self.method)
        if found is None and leaf.websocket is not None and self.method_id == FS_METHOD_GET:
            self.upgrade = True
        if found is None:
            self.allowed = leaf.methods if self.allowed is None else self.allowed | leaf.methods
        return found

    cdef Endpoint down(self, Node node, Py_ssize_t depth):
        # Each node of the tree is visited at most once, for its depth is its place in the path: no path is expensive.
        cdef Endpoint found
        cdef Node child
        cdef bytes segment
        cdef str text
        cdef Py_ssize_t mark
        if depth == self.count:
            return self.at(node.leaf) if node.leaf is not None else None
        segment = <bytes>self.segments[depth]
        child = <Node>node.literals.get(segment)
        if child is not None:
            found = self.down(child, depth + 1)
            if found is not None:
                return found
        mark = len(self.values)
        if PyBytes_GET_SIZE(segment) != 0 and (node.text is not None or node.typed or node.patterns):
            text = _text_of(segment)
            for match, converts, child_object, _ in node.patterns:
                groups = match(text)
                if groups is not None:
                    try:
                        for convert, group in zip(converts, groups.groups()):
                            self.values.append(convert(group))
                        found = self.down(<Node>child_object, depth + 1)
                    except ValueError:
                        found = None
                    if found is not None:
                        return found
                    del self.values[mark:]
            for convert, child_object, name, _ in node.typed:
                try:
                    if name == "int":   # what its converter does, without a regular expression
                        if not segment.isdigit():
                            continue
                        self.values.append(int(segment))
                    else:
                        self.values.append(convert(text))
                except ValueError:
                    continue
                found = self.down(<Node>child_object, depth + 1)
                if found is not None:
                    return found
                del self.values[mark:]
            if node.text is not None:
                self.values.append(text)
                found = self.down(node.text, depth + 1)
                if found is not None:
                    return found
                del self.values[mark:]
        if node.rest is not None:
            self.values.append(_text_of(b"/".join(self.segments[depth:])))
            found = self.at(node.rest)
            if found is not None:
                return found
            del self.values[mark:]
        return None


cdef inline str _text_of(bytes raw):
    return PyUnicode_DecodeUTF8(PyBytes_AS_STRING(raw), PyBytes_GET_SIZE(raw), "replace")


# ----------------------------------------------------------------------------------------------- the handler


cdef class NativeHandler(Handler):
    """Answers exchanges with an App.

    app: the App. threads: size of the pool for plain functions, made when the first of them is called; None means
    min(32, CPUs + 4), which is concurrent.futures's own default; each WSGI application that is mounted has as many of
    its own. state: the mapping the lifespan yielded, or None; it may be filled later. root_path, multiprocess: for what
    is mounted.
    """
    cdef object app, state, loop, context
    cdef object _pool
    cdef int _threads
    cdef bint _stale
    cdef dict _exact                # bytes -> Leaf, for paths without parameters
    cdef Node _tree                 # the others; None if there are none
    cdef Refusal _server_options    # the answer to OPTIONS *
    cdef tuple _middleware, _before, _after
    cdef bint _chained              # there are middleware or hooks
    cdef bint _websockets           # there are routes for WebSockets
    cdef dict _exception_handlers
    cdef object _body_max           # limit_request_body of the App, or None
    cdef object _line               # deque: since when each call that has no thread yet waits for one; where that is asked for
    cdef Spares _spare              # NativeCalls with their blank tasks, ready for another request
    cdef list _mounts               # of Mount, the longest prefix first
    cdef list _folders              # of Static, likewise
    cdef str root_path              # for what is mounted,
    cdef bint _multiprocess         # and whether other processes serve it too
    cdef object __weakref__

    def __init__(self, app, *, threads=None, state=None, root_path="", multiprocess=False):
        self.app = app
        self.state = state
        self.root_path = root_path
        self._multiprocess = multiprocess
        self._mounts = []
        self._folders = []
        if threads is not None and threads < 1:
            raise ValueError(f"threads must be at least 1, not {threads}")
        self._threads = threads if threads is not None else min(32, (os.cpu_count() or 1) + 4)
        self._spare = Spares.__new__(Spares)
        self._line = deque()
        self._compile()
        app._compiled.add(self)

    def stale(self):
        """The app has changed: compile it again before the next request."""
        self._stale = True

    def watch_exceptions(self, callback):
        """Also those of mounted applications."""
        self.on_exception = callback
        for mount in self._mounts:
            (<Mount>mount).handler.watch_exceptions(callback)

    def run_in(self, loop, context):
        """From now on handlers run on this loop, in copies of this context. For those that call us without a Connection."""
        self.loop = loop
        self.context = context

    async def wait_idle(self):
        """Until the mounted applications have no call that is waiting for anything."""
        for mount in self._mounts:
            await (<Mount>mount).handler.wait_idle()

    def cancel(self):
        """Cancel such calls."""
        for mount in self._mounts:
            (<Mount>mount).handler.cancel()
        for folder in self._folders:
            (<Static>folder).cancel()

    def close(self):
        """Join the threads of the pool; calls that have not begun are dropped."""
        self._spare.clear()
        for mount in self._mounts:
            (<Mount>mount).handler.close()
        for folder in self._folders:
            (<Static>folder).close()
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=True, cancel_futures=True)

    cdef int _compile(self) except -1:
        cdef dict exact = {}
        cdef list leaves = []
        cdef Node tree = None
        cdef Node node
        cdef Leaf leaf
        cdef Endpoint endpoint
        cdef set methods = {b"OPTIONS"}
        cdef bint websockets = False
        app = self.app
        app.check()
        for route in app.routes:
            endpoint = Endpoint(route)
            if not route.parameters:
                path = b"/" + b"/".join([segment.text for segment in route.segments])
                leaf = exact.get(path)
                if leaf is None:
                    leaf = exact[path] = Leaf()
                    leaves.append(leaf)
            else:
                if tree is None:
                    tree = Node()
                node = tree
                leaf = None
                for segment in route.segments:
                    if segment.kind == "path":
                        if node.rest is None:
                            node.rest = Leaf()
                            leaves.append(node.rest)
                        leaf = node.rest
                    else:
                        node = node.child(segment)
                if leaf is None:
                    if node.leaf is None:
                        node.leaf = Leaf()
                        leaves.append(node.leaf)
                    leaf = node.leaf
            leaf.add(endpoint)
        for leaf in leaves:
            leaf.finish()
            methods |= leaf.methods
            websockets = websockets or leaf.websocket is not None
        self._compile_mounts()
        self._folders = sorted([Static(prefix, directory, **options) for prefix, directory, options in app._folders],
                               key=_folder_depth, reverse=True)
        self._exact = exact
        self._tree = tree
        self._websockets = websockets
        self._server_options = _refusal(204, _allow(methods))
        self._middleware = tuple(reversed(app._middleware))   # as in Starlette: the one added last is the outermost
        self._before = tuple(app._before)
        self._after = tuple(app._after)
        self._chained = bool(self._middleware or self._before or self._after)
        self._exception_handlers = dict(app._exception_handlers)
        self._body_max = app.limit_request_body
        # Asked by the server when it starts: a route that is added later can have a lower limit than others, not a higher one.
        self.limits_bodies = self._body_max is not None or any([r.limit_request_body is not None for r in app.routes])
        self._stale = False
        return 0

    cdef int _compile_mounts(self) except -1:
        cdef dict known = {((<Mount>old).prefix, id((<Mount>old).app)): old for old in self._mounts}
        cdef list mounts = []
        cdef Mount mount
        for prefix, app, interface in self.app._mounts:
            mount = known.get((prefix, id(app)))
            if mount is None:
                mount = Mount.__new__(Mount)
                mount.app = app
                mount.prefix = prefix
                mount.raw = prefix.encode("utf-8")
                mount.pattern = prefix + "/*"
                mount.segments = mount.raw.split(b"/")[1:]
                speaks = detect(app)
                if interface == "wsgi":
                    if speaks == "native" or speaks == "asgi":
                        raise ConfigError(
                            f"mount {prefix!r}: {describe(app)} is no WSGI application; this one is given to mount()", exit_code=3
                        )
                    from fastserve.interfaces.wsgi import WSGIHandler

                    mount.handler = WSGIHandler(
                        app, threads=self._threads, root_path=self.root_path, multiprocess=self._multiprocess
                    )
                else:
                    if speaks == "wsgi":
                        raise ConfigError(
                            f"mount {prefix!r}: {describe(app)} is no ASGI application; a WSGI one is given to mount_wsgi()",
                            exit_code=3,
                        )
                    mount.handler = mount.asgi = ASGIHandler(
                        asgi3(app) if speaks == "asgi2" else app, root_path=self.root_path
                    )
                mount.handler.watch_exceptions(self.on_exception)
            mounts.append(mount)
        mounts.sort(key=_prefix_length, reverse=True)
        self._mounts = mounts
        return 0

    cdef object _below(self, bytes path, bint escaped):
        # The Mount or the Static that takes a path which no route matches: the one with the longer prefix.
        cdef Mount mount
        cdef Static folder
        cdef object found = None
        cdef Py_ssize_t depth = -1
        for mount in self._mounts:
            if mount.takes(path, escaped):
                found, depth = mount, len(mount.segments)
                break
        for folder in self._folders:
            if len(folder.segments) <= depth:
                break
            if folder.tail_of(path, escaped) is not None:
                return folder
        return found

    cdef object pool(self):
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="fastserve")
        return self._pool

    # --- station 5: handle ---

    cdef int handle(self, Exchange exchange) except -1:
        cdef NativeCall call
        cdef object found
        call = <NativeCall>self._spare.take()
        if call is None:
            call = NativeCall.__new__(NativeCall)
        if self.loop is None:
            self.loop = asyncio.get_running_loop()
            # The transport's context, which is the one the server was started in.
            self.context = contextvars.copy_context()
        try:
            if self._stale:
                self._compile()
            if self._websockets and exchange.head().upgrade and asks_for_websocket(exchange):
                found = self._find(exchange, call, True)
                if type(found) is Endpoint:
                    call.let_go()
                    return self._handle_websocket(exchange, call, <Endpoint>found)
            found = self._find(exchange, call, False)
        except Exception:
            logger.exception("the routes of %r cannot be used", self.app)
            self._give_back(call)
            return exchange.fail(500)
        if type(found) is Refusal and not self._chained and not self._exception_handlers:
            self._give_back(call)
            return _refuse(exchange, <Refusal>found)
        if exchange.trace is not None and type(found) is Mount:
            exchange.trace.route((<Mount>found).pattern, None)   # unless what is mounted there knows better
        if type(found) is Mount and (not self._chained or ((<Mount>found).asgi is not None and exchange.head().upgrade
                                                           and asks_for_websocket(exchange))):
            # Middleware and hooks are for requests: a WebSocket of a mounted application goes past them, as our own do.
            self._give_back(call)
            return (<Mount>found).handler.answer(exchange, (<Mount>found).prefix, self.context, self.state or None)
        if type(found) is Static and not self._chained and not self._exception_handlers:
            self._give_back(call)
            return (<Static>found).serve(exchange)
        call.wing = self
        call.exchange = exchange
        call.loop = self.loop
        call.base_context = self.context
        call.status = 200
        if exchange.trace is not None and type(found) is Endpoint:
            exchange.trace.route((<Endpoint>found).path, (<Endpoint>found).handler)
        if type(found) is Endpoint:
            call.endpoint = <Endpoint>found
            call.cancel_on_disconnect = call.endpoint.cancel_on_disconnect
        elif type(found) is Mount:
            call.mount = <Mount>found
            call.cancel_on_disconnect = True
        elif type(found) is Static:
            call.folder = <Static>found
            call.cancel_on_disconnect = True
        else:
            call.refusal = <Refusal>found
            call.cancel_on_disconnect = True
        exchange.call = call
        call.pooled = True
        call.start()
        call.pooled = False
        if call.kept(self._spare):
            return 0
        if not call.finished and not exchange.ended and exchange._request is None:
            # It goes on after the bytes of the head are gone; exception handlers and the log want to know whose it was.
            exchange.keep_head()
        return 0

    cdef uint64_t body_limit(self, Exchange exchange, uint64_t limit) except? 0:
        cdef NativeCall call = NativeCall.__new__(NativeCall)   # for the parameters of the path, which nobody wants yet
        cdef object found, most = self._body_max
        try:
            if self._stale:
                self._compile()
            found = self._find(exchange, call, False)
        except Exception:
            return limit   # handle() meets it too, and tells
        if type(found) is Endpoint and (<Endpoint>found).body_max is not None:
            most = (<Endpoint>found).body_max
        return limit if most is None else <uint64_t>most

    cdef int _give_back(self, NativeCall call) except -1:
        call.reset()
        call.finished = True   # its task, if it has one, is done until the next request
        if not self._spare.put(call):
            call.let_go()
        return 0

    cdef int _handle_websocket(self, Exchange exchange, NativeCall call, Endpoint endpoint) except -1:
        cdef WebSocket websocket = WebSocket.begin(exchange)
        if websocket is None:
            return 0
        call.wing = self
        call.exchange = exchange
        call.loop = self.loop
        call.base_context = self.context
        call.websocket = websocket
        call.endpoint = endpoint
        call.cancel_on_disconnect = endpoint.cancel_on_disconnect
        exchange.call = call
        if exchange.trace is not None:
            exchange.trace.route(endpoint.path, endpoint.handler)
        call.request()
        return call.start()

    cdef object _find(self, Exchange exchange, NativeCall call, bint websocket):
        # The Endpoint of the request, or a Refusal. Puts the parameters of the path into `call`.
        cdef fs_request_head *head = exchange.head()
        cdef const uint8_t *p = exchange.data + head.target.off + head.parts.path.off
        cdef bytes path, method = None
        cdef object leaf
        cdef Endpoint found
        cdef Search search
        cdef bint escaped = head.parts.has_percent
        cdef bint slashes_differ = False
        cdef set allowed = None
        if head.method_id == FS_METHOD_OTHER:
            method = PyBytes_FromStringAndSize(<const char *>exchange.data + head.method.off, head.method.len)
        elif head.method_id == FS_METHOD_CONNECT or head.parts.form == FS_TARGET_AUTHORITY:
            return NOT_IMPLEMENTED   # we are no proxy
        if head.parts.form == FS_TARGET_ASTERISK:
            return self._server_options
        if head.parts.path.len == 0:
            path = b"/"              # absolute-form without a path (RFC 9110 section 4.2.3)
            escaped = False
        else:
            path = PyBytes_FromStringAndSize(<const char *>p, head.parts.path.len)
        if escaped:
            # RFC 3986 section 2.2: "%2F" is not a separator. A path that holds one can only match a parameter.
            slashes_differ = b"%2F" in path or b"%2f" in path
            leaf = None if slashes_differ else self._exact.get(path_bytes(p, head.parts.path.len))
        else:
            leaf = self._exact.get(path)
        if leaf is not None:
            found = (<Leaf>leaf).websocket if websocket else (<Leaf>leaf).find(head.method_id, method)
            if found is not None:
                return found
            allowed = (<Leaf>leaf).methods
            if (<Leaf>leaf).websocket is not None and head.method_id == FS_METHOD_GET and not websocket:
                return UPGRADE_REQUIRED
        if self._tree is not None:
            search = Search.__new__(Search)
            search.segments = path[1:].split(b"/")
            if escaped:
                search.segments = [_unescape(segment) for segment in search.segments]
            search.count = len(search.segments)
            search.values = []
            search.method_id = head.method_id
            search.method = method
            search.allowed = allowed
            search.websocket = websocket
            found = search.down(self._tree, 0)
            if found is not None:
                call.values = search.values
                return found
            allowed = search.allowed
            if search.upgrade:
                return UPGRADE_REQUIRED
        if allowed is None:
            if self._mounts or self._folders:
                below = self._below(path, escaped)
                if below is not None:
                    return below
            return NOT_FOUND
        if head.method_id == FS_METHOD_OPTIONS:
            return _refusal(204, _allow(allowed))
        return _refusal(405, _allow(allowed))

    cdef object exception_handler(self, object error, bint *expected):
        # What the app registered for this exception, or None. `expected`: not a matter for the log.
        cdef dict handlers = self._exception_handlers
        cdef bint http = isinstance(error, HTTPException)
        expected[0] = True
        if not handlers:
            return None
        if http:
            handler = handlers.get(error.status_code)
            if handler is not None:
                return handler
        for kind in type(error).__mro__:
            if kind is Exception:
                break
            handler = handlers.get(kind)
            if handler is not None:
                return handler
            if kind is HTTPException or kind is RemoteProtocolError:
                return None   # these have an answer of their own; a handler of Exception is for the unexpected
        expected[0] = False
        handler = handlers.get(Exception)
        return handler if handler is not None else handlers.get(500)


def _prefix_length(Mount mount):
    return len(mount.segments)


def _folder_depth(Static folder):
    return len(folder.segments)


cdef bytes _unescape(bytes segment):
    return path_bytes(<const uint8_t *>PyBytes_AS_STRING(segment), PyBytes_GET_SIZE(segment))


cdef bytes _allow(set methods):
    return b", ".join(sorted(methods))


cdef int _refuse(Exchange exchange, Refusal refusal) except -1:
    # The answer nobody may change: no middleware, no exception handlers.
    cdef list headers
    if refusal.allow is None:
        if refusal.status == 404:
            return exchange.send_simple(404, TEXT, b"Not Found")
        if refusal.status == 426:
            headers = raw_headers(UPGRADE)
            headers.append((b"content-type", TEXT))
            return exchange.send(426, headers, b"a WebSocket is here")
        return exchange.fail(refusal.status)
    headers = [(b"allow", refusal.allow)]
    if refusal.status == 204:
        return exchange.send(204, headers, b"")
    headers.append((b"content-type", TEXT))
    return exchange.send(refusal.status, headers, b"Method Not Allowed")


# -------------------------------------------------------------------------------------------------- one call


@cython.final
cdef class WholeBody(BodyListener):
    # Starts a call whose handler takes the body, when that has come.
    cdef NativeCall call

    cdef int body_over(self, RequestBody body) except -1:
        cdef NativeCall call = self.call
        self.call = None
        if call is not None and call.exchange is not None:
            if body.error is not None:
                call.settle(None, body.error)
            else:
                call.start()
        return 0


@cython.final
cdef class NativeCall(HandlerCall):
    cdef NativeHandler wing
    cdef Endpoint endpoint     # or
    cdef Refusal refusal       # or
    cdef Mount mount           # behind middleware or hooks
    cdef Static folder         # likewise, or before exception handlers
    cdef WebSocket websocket   # its route is one for WebSockets; None otherwise
    cdef list values           # of the path parameters
    cdef bytes body            # for handlers that take it
    cdef unsigned status       # of answers that name none
    cdef bint recovering       # an exception handler is at work
    cdef bint over             # answered: what is still to come is only the end of a coroutine
    cdef object mounted        # MountedResponse of a mount behind middleware: told when all is over

    cdef int reset(self) except -1:
        self.endpoint = None
        self.refusal = None
        self.mount = None
        self.folder = None
        self.values = None
        self.body = None
        self.recovering = self.over = False
        return 0

    cdef Request request(self):
        cdef Request request
        if self.exchange is None:
            raise RuntimeError("the response is complete already")   # a call_next that outlived its middleware
        request = self.exchange.request()
        if request.app is None:
            request.app = self.wing.app
            if self.body is not None:
                request._whole_body = self.body   # taken already, for an argument
            request._base_state = self.wing.state
            if self.values is not None:
                request._path_params = dict(zip(self.endpoint.names, self.values))
        return request

    cdef int start(self) except -1:
        # Call the handler, now or when its body is here. Faults of the application are answered, not raised.
        cdef Endpoint endpoint = self.endpoint
        cdef RequestBody body
        cdef WholeBody listener
        cdef object coro
        try:
            if self.websocket is not None:
                coro = endpoint.call(self)
            elif self.wing._chained:
                coro = _layer(self, 0, self.request())
            elif self.folder is not None:
                coro = static_response(self.folder, self.exchange)
            elif endpoint is None:
                raise self.refusal.error() if self.refusal.status >= 400 else _Automatic()
            else:
                if endpoint.wants_body and self.body is None:
                    body = self.exchange.body
                    if body is None:
                        self.body = b""
                    elif body.ended or body.error is not None:
                        self.body = body.joined()
                    else:
                        self.exchange.keep_head()
                        listener = WholeBody.__new__(WholeBody)
                        listener.call = self
                        body.collect(listener)
                        return 0
                    if self.exchange._request is not None:
                        self.exchange._request._whole_body = self.body
                if endpoint.kind == COROUTINE:
                    coro = endpoint.call(self)
                    if not PyCoro_CheckExact(coro) and not iscoroutine(coro):
                        coro = _awaiting(coro)
                elif endpoint.kind == INLINE:
                    coro = _inline(self)
                else:
                    coro = _threaded(self)
        except _Automatic:
            _refuse(self.exchange, self.refusal)
            self.finished = True
            self.exchange = None
            return 0
        except BaseException as error:
            return self.settle(None, error)
        return self.go(coro)

    # --- station 6: respond ---

    cdef int _finish(self) except -1:
        if self.mounted is not None:
            self.mounted.leave()   # middleware may have answered something else, and nobody has read this answer
            self.mounted = None
        return HandlerCall._finish(self)

    cdef object returned(self, object value):
        if self.over:
            return None
        if self.websocket is not None:
            return self._hang_up(1000)
        try:
            return self._answer(value)
        except BaseException as error:
            return self.raised(error)

    cdef object _answer(self, object value):
        cdef Exchange exchange = self.exchange
        cdef StreamingResponse stream
        cdef object kind = type(value)
        if kind is bytes:
            exchange.send_simple(self.status, OCTETS, value)
        elif kind is str:
            exchange.send_simple(self.status, TEXT, (<str>value).encode("utf-8"))
        elif kind is dict or kind is list:
            exchange.send_simple(self.status, JSON, json_encode(value))
        elif value is None:
            exchange.send(204 if self.status == 200 else self.status, None, b"")
        elif isinstance(value, StreamingResponse):
            stream = <StreamingResponse>value
            return _stream(self, stream.status_code, stream._raw, stream.body_iterator)
        elif isinstance(value, FileResponse):
            return self._send_response_file(<FileResponse>value)
        elif isinstance(value, Response):
            self._send(<Response>value)
        elif kind is tuple:
            return self._answer_tuple(<tuple>value)
        elif isinstance(value, (bytes, str, dict, list)):
            self._send(to_response(self, value))
        elif isinstance(value, (AsyncGenerator, Generator)):
            return _stream(self, self.status, [(b"content-type", OCTETS)], value)
        elif isinstance(value, Coroutine):
            return value   # of a plain function that wraps an async one
        else:
            raise NotAnAnswer(self._complaint(value))
        self.done()
        return None

    cdef object _answer_tuple(self, tuple value):
        cdef bytes content_type, body
        cdef unsigned status
        if len(value) == 2 and type(value[1]) is int:
            status = value[1]
            kind = type(value[0])
            if kind is str:
                content_type, body = TEXT, (<str>value[0]).encode("utf-8")
            elif kind is dict or kind is list:
                content_type, body = JSON, json_encode(value[0])
            elif kind is bytes:
                content_type, body = OCTETS, <bytes>value[0]
            else:
                return self._answer(to_response(self, value))
            self.exchange.send_simple(status, content_type, body)
            self.done()
            return None
        return self._answer(to_response(self, value))

    cdef int _send(self, Response response) except -1:
        cdef bytes body = <bytes>response._body if response._body is not None else b""
        if PyBytes_GET_SIZE(body) == 0 and self.exchange.head().method_id == FS_METHOD_HEAD:
            for item in response._raw:
                if (<tuple>item)[0] == b"content-length":
                    # RFC 9110 section 8.6: what GET would have sent
                    self.exchange.start(response.status_code, response._raw, -1)
                    return self.exchange.end()
        return self.exchange.send(response.status_code, response._raw, body)

    cdef object _send_response_file(self, FileResponse response):
        # Open it, if the kernel can without the disk, and send it, if that needs no waiting; else a coroutine goes on.
        cdef OpenFile file = response.file
        if file is None:
            file = open_regular(response.path, True)
            if file is None:
                return _open_and_send(self, response)
        going = send_answer(self.exchange, answer_of(self.exchange, response, file))
        if going is not None:
            return _send_on(self, going)
        self.done()
        return None

    cdef str _complaint(self, object value):
        who = describe(self.endpoint.handler) if self.endpoint is not None else "an exception handler"
        return (
            f"{who} returned {type(value).__name__}, which is no answer: return str, bytes, dict, list, None, a "
            "Response, a generator, (value, status) or (value, status, headers)"
        )

    cdef int done(self) except -1:
        # The answer is complete. A request that somebody keeps must not keep the exchange (each would keep the other).
        cdef Request request = self.exchange._request
        self.over = True
        if request is not None:
            request._exchange = None
        return 0

    # --- what went wrong ---

    cdef object raised(self, object error):
        cdef Exchange exchange = self.exchange
        cdef bint expected = True
        if self.websocket is not None:
            return self._websocket_raised(error)
        if isinstance(error, CancelledError) or isinstance(error, ClientDisconnected):
            # The peer has left, or the server stops: there is nobody to answer.
            if not exchange.disconnected and not exchange.ended and isinstance(error, CancelledError):
                self.log("the handler was cancelled", None)
                exchange.fail(503)
            else:
                exchange.cut()
            self.done()
            return None
        if exchange.started or exchange.ended or self.over:
            self.log(self._where() + (
                ", after the response had begun: it is cut short" if not exchange.ended
                else ", after the client had left" if exchange.disconnected
                else ", after the response"
            ), error)
            exchange.cut()
            self.done()
            return None
        try:
            if not self.recovering:
                handler = self.wing.exception_handler(error, &expected)
                if handler is not None:
                    if not expected:
                        self.log(self._where(), error)
                    self.recovering = True
                    self.status = _status_of(error)
                    return _recover(handler, self.request(), error)
            response = _error_response(error)
            if response is not None:
                return self._answer(response)
        except BaseException as another:
            error = another
        if isinstance(error, NotAnAnswer):
            self.log(str(error), None)
            self.wing.tell_exception(error)
        else:
            self.log(self._where(), error)
        self._answer_unexpected(error)
        return None

    # --- WebSockets ---

    cdef object _hang_up(self, unsigned code):
        # The handler is done with it. What is left, the close handshake, is the WebSocket's own business.
        cdef WebSocket websocket = self.websocket
        self.websocket = None
        self.exchange = None
        self.over = True
        websocket.close_(code, "")
        return None

    cdef object _websocket_raised(self, object error):
        cdef WebSocket websocket = self.websocket
        cdef Response response
        if isinstance(error, WebSocketDisconnect):
            return self._hang_up(1000)
        if websocket.exchange is not None and not websocket.exchange.started and isinstance(error, HTTPException):
            response = _error_response(error)   # before accept: the handshake is denied with it
            websocket.deny(response.status_code, response._raw, response._body)
            return self._hang_up(1000)
        if isinstance(error, CancelledError):
            if websocket.close_code is None:
                self.log("the handler of a WebSocket was cancelled", None)
            return self._hang_up(1011 if websocket.close_code is None else 1000)
        self.log(self._where(), error)
        if websocket.exchange is not None and not websocket.exchange.started:
            websocket.deny(500, [(b"content-type", TEXT)], b"Internal Server Error")
        return self._hang_up(1011)

    cdef str _where(self):
        if self.recovering:
            return "exception in an exception handler"
        if self.endpoint is None:
            return "exception"
        return f"exception in {describe(self.endpoint.handler)}"

    cdef int _answer_unexpected(self, object error) except -1:
        cdef Exchange exchange = self.exchange
        if self.wing.app.debug and not exchange.started and not exchange.ended:
            exchange.send_simple(500, TEXT, "".join(traceback.format_exception(error)).encode("utf-8", "replace"))
        else:
            exchange.fail(500)
        return self.done()

    cdef int log(self, str what, object error) except -1:
        cdef Exchange exchange = self.exchange
        cdef fs_request_head *head
        cdef const uint8_t *data = exchange.data
        cdef str line = "a request"
        if exchange._request is not None:
            line = f"{exchange._request.method} {exchange._request.raw_target().decode('ascii', 'replace')}"
        elif data != NULL and exchange.channel is not None:
            head = exchange.head()
            line = "%s %s" % (
                (<const char *>data + head.method.off)[:head.method.len].decode("ascii", "replace"),
                (<const char *>data + head.target.off)[:head.target.len].decode("ascii", "replace"),
            )
        logger.error("%s: %s", line, what, exc_info=error)
        if error is not None:
            self.wing.tell_exception(error)
        return 0


class _Automatic(BaseException):
    """The way of a 204 to OPTIONS out of NativeCall.start."""


cdef unsigned _status_of(object error):
    status = getattr(error, "status_code", None) if isinstance(error, HTTPException) else getattr(error, "status", None)
    return status if type(status) is int and 400 <= status <= 599 else 500


cdef Response _error_response(object error):
    """The answer that an exception has by itself; None if it has none."""
    if isinstance(error, HTTPException):
        detail = error.detail
        if error.status_code in (204, 304):
            return Response(b"", error.status_code, error.headers)
        if isinstance(detail, str):
            return PlainTextResponse(detail, error.status_code, error.headers)
        return JSONResponse(detail, error.status_code, error.headers)
    if isinstance(error, RemoteProtocolError) and error.status >= 400:
        return PlainTextResponse(str(error), error.status)
    return None


cdef Response to_response(NativeCall call, object value):
    """The Response of whatever a handler may return."""
    cdef Response response
    cdef list headers
    if isinstance(value, Response):
        return <Response>value
    if type(value) is tuple and 2 <= len(<tuple>value) <= 3 and type((<tuple>value)[1]) is int \
            and not isinstance((<tuple>value)[0], (Response, tuple)):
        headers = raw_headers((<tuple>value)[2]) if len(<tuple>value) == 3 else []
        content = (<tuple>value)[0]
        response = Response(b"", 200) if content is None else to_response(call, content)
        response.status_code = (<tuple>value)[1]
        if any([(<tuple>item)[0] == b"content-type" for item in headers]):
            response._raw = [item for item in response._raw if (<tuple>item)[0] != b"content-type"]
        response._raw.extend(headers)
        return response
    if value is None:
        return Response(b"", 204 if call.status == 200 else call.status)
    if isinstance(value, str):
        return PlainTextResponse(value, call.status)
    if isinstance(value, bytes):
        return Response(value, call.status, None, "application/octet-stream")
    if isinstance(value, (dict, list)):
        return JSONResponse(value, call.status)
    if isinstance(value, (AsyncGenerator, Generator)):
        return StreamingResponse(value, call.status, None, "application/octet-stream")
    raise NotAnAnswer(call._complaint(value))


# ---------------------------------------------------------------------------------- coroutines of a call


async def _awaiting(object awaitable):
    return await awaitable


async def _inline(NativeCall call):
    """A plain function on the event loop."""
    return call.endpoint.call(call)


async def _threaded(NativeCall call):
    """A plain function in the pool, in a copy of the request's context."""
    cdef NativeHandler wing = call.wing
    if wing.shed_after_ns and wing._line and precise_now() - <int64_t>wing._line[0] > wing.shed_after_ns \
            and call.request().raw_path not in wing.exempt:
        # The line for a thread is so long that this one would be answered to nobody.
        call.exchange.seat.shed[FOR_AGE] += 1
        raise HTTPException(503, "too many requests at once", {"retry-after": "1"})
    arguments, named = call.endpoint.bind(call)
    return await _in_pool(call.wing, call.endpoint.handler, arguments, named, call.trace)


async def _in_pool(NativeHandler wing, object function, tuple arguments, dict named, Trace trace):
    loop = asyncio.get_running_loop()
    future = loop.create_future()
    cdef object line = None
    since = None
    if wing.shed_after_ns:
        line, since = wing._line, precise_now()
        line.append(since)
    if trace is not None:
        function = _traced(function, trace, precise_now())
    job = wing.pool().submit(_job, loop, future, contextvars.copy_context(), function, arguments, named, line)
    try:
        return await future
    except CancelledError:
        if job.cancel() and line is not None:   # if it has not begun; what has begun goes on to its end
            line.remove(since)
        raise


def _traced(object function, Trace trace, submitted):
    # It tells the lens when it ran, and in which thread.
    def run(*arguments, **named):
        cdef int64_t began = precise_now()
        lens_thread.trace = trace
        try:
            return function(*arguments, **named)
        finally:
            lens_thread.trace = None
            trace.ran(submitted, began, HANDLER_THREAD)

    return run


def _job(loop, future, context, function, arguments, named, line):
    # In the thread.
    if line is not None:
        line.popleft()   # first in, first out, as the pool's own queue
    try:
        value, error = context.run(function, *arguments, **named), None
    except StopIteration as stop:
        # no future may hold one (PEP 479)
        value, error = None, RuntimeError("a handler raised StopIteration")
        error.__cause__ = stop
    except BaseException as raised:
        value, error = None, raised
    try:
        loop.call_soon_threadsafe(_settle, future, value, error)
    except RuntimeError:
        pass   # the loop was closed: nobody waits any more


def _settle(future, value, error):
    if future.done():
        return
    if error is None:
        future.set_result(value)
    else:
        future.set_exception(error)


async def _recover(object handler, Request request, object error):
    """An exception handler, async or plain."""
    value = handler(request, error)
    if isawaitable(value):
        value = await value
    return value


# --- middleware and hooks ---


@cython.final
cdef class Next:
    # What middleware knows as `call_next`.
    cdef NativeCall call
    cdef Py_ssize_t depth

    def __call__(self, request):
        return _layer(self.call, self.depth, request)


async def _layer(NativeCall call, Py_ssize_t depth, Request request):
    """The middleware at `depth`, 0 being the outermost, and all that it surrounds. A Response."""
    cdef Next call_next
    if depth == len(call.wing._middleware):
        return await _core(call, request)
    call_next = Next.__new__(Next)
    call_next.call = call
    call_next.depth = depth + 1
    return to_response(call, await call.wing._middleware[depth](request, call_next))


async def _core(NativeCall call, Request request):
    """Hooks, handler, and the exceptions that have an answer: what the innermost middleware surrounds. A Response."""
    cdef Response response = None
    cdef bint expected = True
    try:
        for hook in call.wing._before:
            value = hook(request)
            if isawaitable(value):
                value = await value
            if value is not None:
                response = to_response(call, value)
                break
        else:
            response = to_response(call, await _endpoint(call, request))
    except Exception as error:
        if isinstance(error, ClientDisconnected) or call.exchange is None:
            raise
        handler = call.wing.exception_handler(error, &expected)
        if handler is None or not expected:
            response = _error_response(error)
            if response is None:
                raise   # through the middleware, to NativeCall.raised
        else:
            call.status = _status_of(error)
            response = to_response(call, await _recover(handler, request, error))
    for hook in call.wing._after:
        value = hook(request, response)
        if isawaitable(value):
            value = await value
        if isinstance(value, Response):
            response = value
    return response


async def _endpoint(NativeCall call, Request request):
    """The handler, or what takes its place."""
    cdef Endpoint endpoint = call.endpoint
    if call.mount is not None:
        return await _call_mounted(call, request)
    if call.folder is not None:
        return await static_response(call.folder, call.exchange)
    if endpoint is None:
        if call.refusal.status == 204:
            return Response(b"", 204, {"allow": call.refusal.allow.decode("ascii")})
        raise call.refusal.error()
    if endpoint.wants_body:
        call.body = await request.body()
    if endpoint.kind == THREAD:
        value = await _threaded(call)
    else:
        value = endpoint.call(call)
    if endpoint.kind == COROUTINE:
        value = await value
    if isinstance(value, Coroutine):
        value = await value   # of a plain function that wraps an async one
    return value


# --- mounted behind middleware ---


class MountedResponse:
    """What a mounted application sends, as a Response: middleware wants to see one."""

    def __init__(self, request):
        self.request = request
        self.started = None       # (status, headers)
        self.parts = []           # of the body, not yet taken
        self.complete = self.left = False
        self.changed = asyncio.Event()
        self.taken = asyncio.Event()
        self.over = asyncio.Event()
        self.reading = self.body_over = False

    async def receive(self):
        # Several may wait here, and be cancelled: frameworks race receive() against their handler.
        cdef Request request = self.request
        cdef RequestBody body = request._body
        while not self.body_over and not self.complete and not self.left:
            if request._whole_body is not None or body is None:
                self.body_over = True
                return {"type": "http.request", "body": request._whole_body or b"", "more_body": False}
            if not self.reading:
                if request._streamed:
                    raise RuntimeError("the request body was consumed by stream()")
                self.reading = request._streamed = True
            try:
                data = body.take()
            except RemoteProtocolError:
                self.body_over = self.left = True
                break
            if data is not None:
                self.body_over = body.ended and not body.holds()
                return {"type": "http.request", "body": data, "more_body": not self.body_over}
            await body.wait()
        if not self.complete and not self.left:
            await self.over.wait()
        return {"type": "http.disconnect"}

    async def send(self, message):
        kind = message["type"]
        if self.left:
            raise ClientDisconnected()
        if self.complete:
            raise LocalProtocolError("an ASGI message was sent after the response was complete")
        if kind == "http.response.start" and self.started is None:
            headers = [(bytes(name).lower(), bytes(value)) for name, value in message.get("headers") or ()]
            self.started = (message["status"], headers)
            return
        if kind != "http.response.body" or self.started is None:
            raise LocalProtocolError(f"{kind!r} was sent out of order")
        body = message.get("body", b"")
        if not isinstance(body, (bytes, bytearray, memoryview)):
            raise LocalProtocolError(f"'body' of 'http.response.body' is bytes, not {type(body).__name__}")
        self.parts.append(bytes(body))
        if not message.get("more_body", False):
            self.complete = True
            self.over.set()
        self.changed.set()
        while not self.complete and self.parts and not self.left:
            self.taken.clear()
            await self.taken.wait()

    def leave_quietly(self, task):
        # It has ended. What it raised behind its answer nobody awaits; before that _call_mounted and body() do.
        if self.complete and not task.cancelled() and task.exception() is not None:
            logger.error("exception in a mounted application, after its response", exc_info=task.exception())

    def leave(self):
        self.left = True
        self.over.set()
        self.taken.set()

    async def body(self, task):
        """The pieces, as the peer takes them."""
        try:
            while True:
                while self.parts:
                    piece = self.parts.pop(0)
                    self.taken.set()
                    if piece:
                        yield piece
                if self.complete:
                    return
                if task.done():
                    task.result()
                    raise RuntimeError("the mounted application returned before its response was complete")
                await self.wait(task)
        finally:
            self.leave()

    async def wait(self, task):
        self.changed.clear()
        waiting = asyncio.ensure_future(self.changed.wait())
        try:
            await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()


class MountedBody:
    """The body of a mounted application's answer, while it comes."""

    def __init__(self, answer, task):
        self.answer = answer
        self.task = task

    def __aiter__(self):
        return self.answer.body(self.task)


async def _sheltered(object awaitable):
    """For a task of asyncio's own, out of which SystemExit would end the loop."""
    try:
        await awaitable
    except SystemExit as error:
        raise RuntimeError(f"a mounted application called sys.exit({error.code!r})") from error


async def _relayed(RelayExchange exchange, Mount mount, object send):
    """What a WSGI application answers, as ASGI events."""
    mount.handler.answer(exchange, mount.prefix, contextvars.copy_context(), None)
    exchange.drop_head()
    if not await relay(exchange, send):
        raise LocalProtocolError("the response of a mounted application was cut short")


async def _call_mounted(NativeCall call, Request request):
    """A mounted application, called so that its answer is a Response. It runs in a task of its own."""
    cdef Mount mount = call.mount
    cdef ASGIHandler asgi = mount.asgi
    cdef StreamingResponse streamed
    cdef Response whole
    answer = MountedResponse(request)
    call.mounted = answer
    if asgi is not None:
        scope = asgi.scope(call.exchange, mount.prefix, call.wing.state or None)
        scope["extensions"] = {}
        task = asyncio.create_task(_sheltered(asgi.app(scope, answer.receive, answer.send)))
        asgi.running.add(task)
        task.add_done_callback(asgi.forget)
    else:
        task = asyncio.create_task(_relayed(again(request, call.exchange.channel, call.loop), mount, answer.send))
    task.add_done_callback(answer.leave_quietly)
    try:
        while not answer.parts and not answer.complete and not task.done():
            await answer.wait(task)
    except BaseException:
        answer.leave()
        raise
    if not answer.parts and not answer.complete:
        task.result()
        raise RuntimeError("the mounted application returned without sending a response")
    if asgi is not None and call.trace is not None:
        tell_route(call.trace, scope)   # who answers has found it
    status, headers = answer.started
    if answer.complete and len(answer.parts) == 1:
        whole = Response(answer.parts[0], status)
        whole._raw = headers
        return whole
    streamed = StreamingResponse(MountedBody(answer, task), status)
    streamed._raw = headers
    return streamed


# --- files ---


async def _open_and_send(NativeCall call, FileResponse response):
    response.file = await _in_pool(call.wing, open_regular, (response.path,), {}, call.trace)
    going = send_answer(call.exchange, answer_of(call.exchange, response, response.file))
    if going is not None:
        await going
    call.done()


async def _send_on(NativeCall call, object going):
    await going
    call.done()


# --- streaming ---


@cython.final
cdef class Pieces:
    # An asynchronous iterator, stepped without an await as long as it does not wait for anything.
    cdef object iterator
    cdef object _inner      # the step that waits, and for what: to be gone on with by `await pieces`
    cdef object _waited
    cdef bint waits

    cdef object take(self):
        """The next piece; END; or None where `waits` says that the iterator has to wait for it: then it comes of awaiting us."""
        cdef PyObject *result = NULL
        cdef PySendResult how
        cdef object outcome
        cdef object inner
        self.waits = False
        try:
            inner = fs_next_awaitable(self.iterator)
            how = PyIter_Send(inner, None, &result)
        except StopAsyncIteration:
            return END
        outcome = fs_took(result)
        if how == PYGEN_NEXT:
            self._inner = inner
            self._waited = outcome
            self.waits = True
            return None
        return outcome

    cdef int fail(self, object error) except -1:
        # The step that waits will not be gone on with. It has to end all the same: until then the iterator cannot be closed.
        inner = self._inner
        self._inner = self._waited = None
        try:
            inner.throw(error)
        except BaseException:
            pass   # its own, raised again by our caller
        return 0

    def __await__(self):
        inner, waited = self._inner, self._waited
        self._inner = self._waited = None
        while True:
            try:
                sent = yield waited
            except GeneratorExit:
                inner.close()
                raise
            except BaseException as error:
                try:
                    waited = inner.throw(error)
                except StopIteration as stop:
                    return stop.value
                except StopAsyncIteration:
                    return END
            else:
                try:
                    waited = next(inner) if sent is None else inner.send(sent)
                except StopIteration as stop:
                    return stop.value
                except StopAsyncIteration:
                    return END


cdef int _write(Exchange exchange, object piece) except -1:
    if PyBytes_CheckExact(piece):
        return exchange.write(piece)
    if isinstance(piece, str):
        piece = (<str>piece).encode("utf-8")
    elif not isinstance(piece, (bytes, bytearray, memoryview)):
        raise TypeError(f"a piece of a streamed body is bytes or str, not {type(piece).__name__}")
    return exchange.write(piece)


async def _stream(NativeCall call, unsigned status, list headers, object source):
    """Send the pieces of an iterator, as fast as the peer takes them; close it in any case."""
    if hasattr(source, "__aiter__"):
        await _stream_async(call, status, headers, source)
    else:
        await _stream_plain(call, status, headers, source)
    call.done()


async def _stream_async(NativeCall call, unsigned status, list headers, object source):
    cdef Exchange exchange = call.exchange
    cdef Pieces pieces = Pieces.__new__(Pieces)
    cdef unsigned turn = 0
    cdef bint spent = False
    iterator = pieces.iterator = source.__aiter__()
    try:
        if exchange.head().method_id == FS_METHOD_HEAD:
            exchange.start(status, headers, -1)
        else:
            while True:
                piece = pieces.take()
                if pieces.waits:
                    if not exchange.started:
                        # One that fails at once is answered with an error; one that is slow is not waited for.
                        try:
                            exchange.start(status, headers, -1)
                            exchange.channel.flush()
                        except BaseException as error:
                            pieces.fail(error)
                            raise
                    piece = await pieces
                if not exchange.started:
                    exchange.start(status, headers, -1)
                if piece is END:
                    spent = PyAsyncGen_CheckExact(iterator)
                    break
                _write(exchange, piece)
                if not exchange.writable():
                    await exchange.drained()
                turn += 1
                if turn % INLINE_TURN == 0:
                    await asyncio.sleep(0)   # an iterator that never waits must not keep the loop from everybody else
        exchange.end()
    finally:
        close = None if spent else getattr(iterator, "aclose", None)
        if close is not None:
            await close()


async def _stream_plain(NativeCall call, unsigned status, list headers, object source):
    cdef Exchange exchange = call.exchange
    cdef NativeHandler wing = call.wing
    cdef bint pooled = call.endpoint is None or call.endpoint.blocking or call.endpoint.kind == COROUTINE
    cdef unsigned turn = 0
    iterator = iter(source)
    # A thread that is inside the generator cannot be stopped; the departure is noticed at the next piece.
    call.cancel_on_disconnect = call.cancel_on_disconnect and not pooled
    try:
        if exchange.head().method_id == FS_METHOD_HEAD:
            exchange.start(status, headers, -1)
        else:
            while True:
                if pooled:
                    piece = await _in_pool(wing, next, (iterator, END), {}, call.trace)
                else:
                    piece = next(iterator, END)
                if not exchange.started:
                    exchange.start(status, headers, -1)
                if piece is END:
                    break
                _write(exchange, piece)
                if not exchange.writable():
                    await exchange.drained()
                turn += 1
                if not pooled and turn % INLINE_TURN == 0:
                    await asyncio.sleep(0)
        exchange.end()
    finally:
        close = getattr(iterator, "close", None)
        if close is not None:
            try:
                if pooled:
                    await _in_pool(wing, close, (), {}, call.trace)
                else:
                    close()
            except ValueError:
                pass   # cancelled while a thread is inside it: it ends with that piece
