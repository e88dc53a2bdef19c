# The two doors to the upper floors. They subclass; Connection never learns who answers or who watches.
from libc.stdint cimport int64_t, uint32_t, uint64_t
from fastserve.protocol.exchange cimport Exchange


cdef class Handler:
    cdef readonly object on_exception   # see watch_exceptions(); None: nobody
    # Here is an Exchange, answer it: now, or later. Called with the head in place (station 5). Must not raise for faults of
    # the application: it answers them with exchange.fail().
    cdef int handle(self, Exchange exchange) except -1
    # The same, called by an App that has taken `mounted` off the path for it. `context`: what the calls run in copies of;
    # `state`: what the App's lifespan yielded, or None.
    cdef int answer(self, Exchange exchange, str mounted, object context, object state) except -1
    cdef int tell_exception(self, object error) except -1   # what the application raised goes to on_exception
    # Do some requests have a limit for their bodies of their own? Then each that has a body is asked for, before it is read:
    # bytes, or FS_UNLIMITED.
    cdef bint limits_bodies
    cdef uint64_t body_limit(self, Exchange exchange, uint64_t limit) except? 0
    # A request that has waited for longer than this is not to be begun; 0: it may be. Set by the Service, which sees to those
    # that waited in the kernel, and asks, where every call needs a thread, since when the oldest has been waiting for one
    # (precise_now(); 0: none waits). Where only some do, they are the handler's to turn away.
    cdef int64_t shed_after_ns
    cdef uint32_t arrival_flags # of its requests, for the lens: BY_WSGI, or 0
    cdef frozenset exempt       # paths to which that does not apply, as bytes
    cdef int64_t waiting_since(self)


cdef class Observer:
    cdef bint wants_moments   # all moments are to be taken; the first and the last always are
    cdef bint wants_fields    # exchange.fields_sent is to be kept
    # This exchange is over (station 8): status, body_sent, moments are final. `exchange.head()` and request() may be read.
    cdef int observe(self, Exchange exchange) except -1
