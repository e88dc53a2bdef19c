# ASGIHandler: answers exchanges with an ASGI 3 application.
#
# Called by: Connection through the door Handler; native.pyx, for mounted applications. Calls: HandlerCall, Exchange.
from libc.stdint cimport int64_t

from fastserve.interfaces.asgi_event cimport EventCall
from fastserve.interfaces.call cimport Spares
from fastserve.protocol.exchange cimport Exchange
from fastserve.protocol.hooks cimport Handler


cdef class ASGIHandler(Handler):
    cdef object app, loop, context
    cdef public object state          # dict that every scope gets a copy of; None: no lifespan, no state
    cdef str root_path                # put before every path, as a proxy has cut it off
    cdef bytes raw_root_path
    cdef set running                  # calls that are waiting for something; tasks of mounts behind middleware
    cdef list _idle_waiters
    cdef Spares spare                 # ASGICalls with their blank tasks, ready for another request
    cdef dict given, given_extensions # what the last scope had as "asgi" and "extensions": the next one may have it, too

    # `mounted`: the part of the path that an App above has taken for itself; "" if this is the application.
    cdef dict scope(self, Exchange exchange, str mounted, object state)


cdef enum Stage:
    NOTHING     # no http.response.start yet
    HELD        # the head is here, and waits for the first http.response.body (or a failure, which takes its place)
    BODY        # the head is written, body events are due
    TRAILERS    # the body is whole, http.response.trailers is due
    COMPLETE    # nothing more may come


cdef class ASGICall(EventCall):
    cdef Stage stage
    cdef bint body_over               # the last http.request was given out, or the body broke off
    cdef bint wants_trailers          # the head said `trailers`
    cdef bint sends_trailers          # and the peer takes them
    cdef unsigned status              # of a head that is HELD
    cdef object headers
    cdef list trailers

    cdef int start_event(self, object message) except -1
    cdef int body_event(self, object message) except -1
    cdef int trailers_event(self, object message) except -1
    cdef int hint_event(self, object message) except -1
    cdef int write_head(self, int64_t content_length) except -1
    cdef int check_there(self) except -1
    cdef int check_body_due(self, object kind) except -1
    cdef int _check_length(self, Py_ssize_t size) except -1
    cdef int completed(self) except -1
