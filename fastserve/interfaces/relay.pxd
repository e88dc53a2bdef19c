# RelayExchange: an Exchange whose response is a list of ASGI events.
#
# Called by: bridge.pyx, native.pyx. Calls: Exchange.
from libc.stdint cimport int64_t

from fastserve.protocol.channel cimport Channel
from fastserve.protocol.core cimport fs_field, fs_out
from fastserve.protocol.exchange cimport Exchange
from fastserve.protocol.lens cimport Trace
from fastserve.protocol.request cimport Request

cdef enum:
    HELD_MAX = 65536   # bytes of a response that wait to be handed on, before the wing has to


cdef class RelayChannel(Channel):
    cdef object loop
    cdef object scope              # of the server that called us, or
    cdef Channel origin            # the connection that the request came in at
    cdef list events               # ASGI messages for `send`
    cdef size_t held               # bytes of body in them
    cdef object waiter             # of the coroutine that sends
    cdef object reader             # of the task that reads, while the body is full
    cdef list drain_waiters
    cdef fs_field *fields
    # --- of a WebSocket ---
    cdef object service            # a Service, of which it has its limits and its clock
    cdef fs_out frames             # what it wrote, and is not an event yet
    cdef bint left                 # the client has: what it writes now is for nobody

    cdef int sent(self) except -1  # all that was held was taken
    cdef int unframe(self) except -1
    cdef int grow(self, size_t room) except -1


cdef class RelayExchange(Exchange):
    cdef bint broken               # cut: nobody must end it cleanly
    cdef bint head_alone           # started, and no body event yet
    cdef int64_t owed              # bytes of body still due by Content-Length; -1: not declared

    cdef int event(self, object data, bint more) except -1


cdef class RelayTrace(Trace):
    # Of an application that answers within another's request: what there is to tell about it is told of that request.
    cdef readonly Trace outer
    cdef str root                  # where it is mounted


cdef enum:
    FAILED = 1000   # no answer of the parser: an exception was raised

# Read `head` into the exchange: what fs_request_head_parse says of it.
cdef int open_head(RelayExchange exchange, RelayChannel channel, bytes head, object loop) except? FAILED
# Another exchange for a request that is in hand already.
cdef RelayTrace within(Trace outer, str root)   # None, if `outer` is
cdef RelayExchange again(Request request, Channel origin, object loop)
