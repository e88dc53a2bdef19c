# HandlerCall: one call of user code for one Exchange, stepped without an asyncio.Task as long as it never suspends.
#
# Called by: the wings (native, asgi), which subclass it. Calls: Exchange.
from fastserve.protocol.exchange cimport Call, Exchange
from fastserve.protocol.lens cimport Trace


cdef class Spares


cdef class HandlerCall(Call):
    cdef Exchange exchange     # None once answered for
    cdef object coro           # the coroutine being stepped now
    cdef object loop
    cdef object task           # HandlerTask: blank, until it is asked something or the coroutine suspends
    cdef object base_context   # contextvars.Context the request's own is a copy of: that of the server, not of some callback
    cdef object context        # contextvars.Context of this request
    cdef Trace trace           # None: nobody asks where it waits
    cdef object yielded        # what the first step yielded, until the Task takes over
    cdef bint cancel_on_disconnect
    cdef bint started_task     # the task is a real one now
    cdef bint listed           # in asyncio.all_tasks(), as a blank one
    cdef object listing        # and the weak reference by which, before Python 3.12
    cdef bint finished
    cdef bint pooled           # the wing asks reusable() after run(): the blank task is kept until then

    # Step `coro` now, in a fresh context, with current_task() working inside.
    cdef int run(self, object coro) except -1
    cdef bint reusable(self) except -1
    cdef int let_go(self) except -1
    # The same, for callers that are not the handler's task: its CancelledError was answered and ends here.
    cdef int go(self, object coro) except -1
    # What run() does with an outcome, for a call that was not run.
    cdef int settle(self, object value, object error) except -1
    # The coroutine returned / raised. Answer the exchange and return None, or return another coroutine: it goes on in the
    # same task and context (streaming a body, asynchronous error handlers). An exception from here answers 500.
    cdef object returned(self, object value)
    cdef object raised(self, object error)

    cdef int start_task(self, object task) except -1
    cdef int _list(self, object task) except -1
    cdef int _unlist(self, object task) except -1
    cdef object _step(self, object value, object error, bint *suspended)
    cdef object _ended(self, object value, object error)
    # A wing keeps calls that nobody has seen, with their blank tasks, for the next requests: kept() behind go() puts this one
    # among `spares`, reset; False: they have let go of each other.
    cdef bint kept(self, Spares spares) except -1
    cdef bint kept_by(self, Spares spares, Py_ssize_t references) except -1   # so many to this call are ours
    cdef int reset(self) except -1
    cdef int _finish(self) except -1
    cdef int _traced(self, Trace trace, bint suspended, object yielded) except -1


cdef class Spares:
    # Calls that wait for their next request. A list that grows and shrinks by one would be reallocated at each request.
    cdef list _calls           # SPARE_MAX places
    cdef Py_ssize_t _count
    cdef HandlerCall take(self)                       # None: there is none
    cdef bint put(self, HandlerCall call) except -1   # False: there is no room
    cdef int clear(self) except -1
