"""What receive() and send() of an ASGI application return, and what the calls of both its wings share.

Room:    floor 2, stations 5 (handle) and 6 (respond).
Called:  by asgi.pyx and asgi_websocket.pyx, which subclass EventCall; by the application, and asyncio, through Event.
Rules:   ASGI 3.0: receive and send are awaitable callables; PEP 492 for what an awaitable is.

Theory of operation. An Event, awaited, does its work at once and ends, without Future or Task. If it must wait, for the peer or
for room, `next_event` or `take_message` puts an iterator into `event.inner` and answers WAIT: the Event yields what that yields,
and then asks again.
"""
import asyncio
import logging

cimport cython
from cpython.bytes cimport PyBytes_CheckExact
from cpython.ref cimport Py_DECREF, Py_INCREF, PyObject

from fastserve.interfaces.entries cimport fs_find
from fastserve.protocol.hooks cimport Handler
from fastserve.protocol.lens cimport Trace

from fastserve.errors import ClientDisconnected, LocalProtocolError

__all__ = []

cdef extern from "Python.h":
    Py_ssize_t Py_REFCNT(object thing)
    long PyLong_AsLongAndOverflow(object number, int *beyond) except? -1

    ctypedef enum PySendResult:
        PYGEN_RETURN
        PYGEN_ERROR
        PYGEN_NEXT

    PySendResult PyIter_Send(object it, object arg, PyObject **result) except PYGEN_ERROR
    ctypedef PySendResult (*sendfunc)(PyObject *, PyObject *, PyObject **) except PYGEN_ERROR

cdef extern from *:
    """
    /* PEP 492 and C API 3.10: with am_send an awaitable answers `await` directly, without raising StopIteration. */
    typedef PySendResult (*fs_sendfunc)(PyObject *, PyObject *, PyObject **);
    static inline void fs_set_am_send(PyObject *type, fs_sendfunc function) {
      ((PyTypeObject *)type)->tp_as_async->am_send = function;
    }
    static inline PyObject *fs_take_event(PyObject *object) { return object; }
    """
    void fs_set_am_send(object type, sendfunc function)
    object fs_take_event(PyObject *object)   # a new reference that is given to us

logger = logging.getLogger("fastserve.error")

WAIT = object()


# -------------------------------------------------------------------------------------------------- the calls


cdef class EventCall(HandlerCall):
    """One call of an ASGI application. `receive` and `respond` are what it gets as receive and send."""

    def receive(self):
        cdef Event event = Event.__new__(Event)
        event.call = self
        return event

    def respond(self, message):
        cdef Event event = Event.__new__(Event)
        event.call = self
        event.sends = True
        event.message = message
        return event

    cdef bint kept(self, Spares spares) except -1:
        # These two know us as we know them. Whoever kept one of them, as middleware does, has seen this call.
        cdef object receiver = self.receiver
        cdef object sender = self.sender
        if receiver is None or (Py_REFCNT(receiver) == 2 and Py_REFCNT(sender) == 2):
            return self.kept_by(spares, 2 if receiver is None else 4)
        self.let_go()
        return False

    cdef int let_go(self) except -1:
        self.receiver = self.sender = None
        return HandlerCall.let_go(self)

    cdef object next_event(self, Event event):
        raise NotImplementedError

    cdef object take_message(self, Event event):
        raise NotImplementedError

    cdef object until_woken(self, Event event):
        future = self.loop.create_future()
        if self.waiters is None:
            self.waiters = []
        self.waiters.append(future)
        event.inner = future.__await__()
        return WAIT

    cdef object now_and_then(self, Event event, object message):
        # Whoever does not listen to "disconnect" asks for ever; the loop must go on all the same.
        self.turns += 1
        if self.turns % TURNS:
            return message
        event.inner = asyncio.sleep(0).__await__()
        return WAIT

    cdef int wake(self) except -1:
        cdef list waiters = self.waiters
        if waiters is not None:
            self.waiters = None
            for future in waiters:
                if not future.done():
                    future.set_result(None)
        return 0

    cdef int disconnected(self, Exchange exchange) except -1:
        return self.wake()

    cdef int log(self, str what, object error) except -1:
        cdef str line = "a request"
        if self.scope is not None:
            line = f"{self.scope.get('method') or 'WebSocket'} {self.scope.get('path')}".encode("unicode_escape").decode("ascii")
        logger.error("%s: %s", line, what, exc_info=error)
        if error is not None:
            (<Handler>self.wing).tell_exception(error)
        return 0


# ------------------------------------------------------------------------------------------- parts of messages


cdef object message_part(object message, str name, object default):
    # message.get(name, default). Nearly every message is a dict, and a call of its method costs four times the look-up.
    cdef PyObject *found
    if type(message) is not dict:
        return message.get(name, default)
    found = fs_find(message, name)
    return default if found == NULL else <object>found


cdef object message_kind(object message):
    if type(message) is not dict and not hasattr(message, "get"):
        raise LocalProtocolError(f"an ASGI message is a dict, not {type(message).__name__}")
    return message_part(message, "type", None)


cdef unsigned message_status(object message) except 0:
    cdef int beyond = 0
    cdef long number
    status = message_part(message, "status", None)
    if type(status) is int:
        number = PyLong_AsLongAndOverflow(status, &beyond)
        if 200 <= number <= 999:
            return number
    if not isinstance(status, int) or isinstance(status, bool) or not 200 <= status <= 999:
        raise LocalProtocolError(f"'status' of {message.get('type')!r} is an int from 200 to 999, not {status!r}")
    return status


cdef object message_headers(object message):
    cdef object headers = message_part(message, "headers", None)
    if headers is None:
        return ()
    if type(headers) is not list and type(headers) is not tuple:
        if isinstance(headers, (str, bytes, dict)):
            raise LocalProtocolError(f"'headers' are pairs of bytes, not {type(headers).__name__}")
        try:
            headers = list(headers)
        except TypeError:
            raise LocalProtocolError(f"'headers' are pairs of bytes, not {type(headers).__name__}") from None
    for pair in headers:
        # Exchange writes them, and looks for CR and LF; here it is only their kind, so that whoever sent them hears of it.
        if type(pair) is tuple and len(<tuple>pair) == 2:
            name, value = <tuple>pair
            if PyBytes_CheckExact(name) and PyBytes_CheckExact(value):
                continue
        check_pair(pair)
    return headers


cdef bytes message_body(object message):
    cdef object body = message_part(message, "body", b"")
    if PyBytes_CheckExact(body):
        return <bytes>body
    if not isinstance(body, (bytes, bytearray, memoryview)):
        raise LocalProtocolError(f"'body' of {message.get('type')!r} is bytes, not {type(body).__name__}")
    return bytes(body)


cdef int check_pair(object pair) except -1:
    try:
        name, value = pair
    except (TypeError, ValueError):
        raise LocalProtocolError(f"a header is a pair of bytes, not {pair!r}") from None
    if not isinstance(name, (bytes, bytearray, memoryview)) or not isinstance(value, (bytes, bytearray, memoryview)):
        raise LocalProtocolError(f"a header is a pair of bytes, not {name!r}: {value!r}")
    return 0


cdef int tell_route(Trace trace, object scope) except -1:
    # FastAPI and others leave the route that they have found in the scope; its pattern is the name of a kind of request.
    cdef object route = None if scope is None else scope.get("route")
    cdef object pattern
    if route is not None:
        pattern = getattr(route, "path_format", None) or getattr(route, "path", None)
        if type(pattern) is str:
            trace.route(scope.get("root_path", "") + pattern, None)
    return 0


cdef bint is_departure(object error) except -1:
    return _made_of_it(error, 8)


cdef bint _made_of_it(object error, int depth) except -1:
    # Is it ClientDisconnected, or made of it: raised from it, while it was handled, or a group of such?
    if isinstance(error, ClientDisconnected):
        return True
    if depth == 0 or error is None:
        return False
    if isinstance(error, BaseExceptionGroup):
        return all([_made_of_it(inner, depth - 1) for inner in error.exceptions])
    return _made_of_it(error.__cause__ if error.__cause__ is not None else error.__context__, depth - 1)


# ------------------------------------------------------------------------------------------------------ events


@cython.final
@cython.freelist(64)
cdef class Event:
    """The awaitable of one receive() or send(). Also a coroutine to asyncio: `create_task(receive())` works."""

    def __await__(self):
        return self

    def __iter__(self):
        return self

    def __next__(self):
        return self.send(None)

    def send(self, value):
        """One step (PEP 342)."""
        cdef PyObject *result = NULL
        if _am_send(<PyObject *>self, <PyObject *>value, &result) == PYGEN_NEXT:
            return fs_take_event(result)
        raise StopIteration(fs_take_event(result))

    def throw(self, error, value=None, traceback=None):
        """Raise where it waits: how a Task delivers cancellation."""
        inner = self.inner
        if isinstance(error, type):
            error = error() if value is None else value
        if inner is None or self.over:
            self.over = True
            raise error
        try:
            return inner.throw(error)
        except StopIteration:
            self.inner = None
        except BaseException:
            self.inner = None
            self.over = True
            raise
        return self.send(None)

    def close(self):
        """Wait no longer (PEP 342)."""
        inner, self.inner = self.inner, None
        self.over = True
        if inner is not None:
            inner.close()

    # What debuggers and inspect ask of a coroutine.

    @property
    def cr_await(self):
        return self.inner

    @property
    def lens_wait(self):
        """str: what it waits for if it waits, in a word of the lens."""
        return ("drain" if self.sends else "receive") if self.call.scope is None or self.call.scope["type"] == "http" \
            else "drain" if self.sends else "message"

    @property
    def cr_running(self):
        return False

    @property
    def cr_frame(self):
        return None

    @property
    def cr_code(self):
        return None


cdef PySendResult _am_send(PyObject *self_, PyObject *value, PyObject **result) except PYGEN_ERROR:
    cdef Event self = <Event>self_
    cdef PyObject *got = NULL
    cdef object outcome
    result[0] = NULL
    if self.over:
        raise RuntimeError("cannot reuse an awaitable of receive() or send(): call it again")
    try:
        while True:
            if self.inner is not None:
                if PyIter_Send(self.inner, None, &got) == PYGEN_NEXT:
                    result[0] = got
                    return PYGEN_NEXT
                Py_DECREF(<object>got)
                self.inner = None
            outcome = self.call.take_message(self) if self.sends else self.call.next_event(self)
            if outcome is not WAIT:
                break
    except BaseException:
        self.over = True
        self.inner = None
        raise
    self.over = True
    Py_INCREF(outcome)
    result[0] = <PyObject *>outcome
    return PYGEN_RETURN


fs_set_am_send(Event, _am_send)
