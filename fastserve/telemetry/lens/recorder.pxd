# Recorder: the Lens of one event loop. RequestTrace: one traced request; TaskTrace: one of its tasks.
#
# Called by: floor 1 and the wings through the door (protocol/lens.pxd); by the event loop, through the hooks. Calls: Area.
cimport cython
from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint32_t, uint64_t, uint8_t

from fastserve.protocol.lens cimport Arrival, Lens, Trace
from fastserve.telemetry.lens.memory cimport Area, Event


cdef struct Known:           # a stack that was met before
    uint64_t hash            # 0: free
    uint32_t stack
    uint32_t wait

cdef struct Place:           # of a task in the table
    PyObject *task           # NULL: free
    PyObject *trace          # its TaskTrace; the table holds a reference


@cython.final
cdef class TaskTrace:
    cdef RequestTrace of
    cdef PyObject *task          # borrowed: `watch` tells when it goes
    cdef PyObject *coro          # borrowed from the task; NULL: of the handler's, which brings it along
    cdef object watch            # weak reference to the task
    cdef TaskTrace outer         # whose slice this one's interrupts
    cdef uint32_t number
    cdef uint32_t stack          # where it waits, or was resumed
    cdef uint32_t wait           # what for
    cdef bint running
    cdef bint ended
    cdef bint listed             # in the recorder's table
    cdef bint handed             # of the handler's: asyncio drives it, and has what its first slice has yielded
    cdef bint eager              # its first step is a part of its parent's slice
    cdef int64_t began           # of the slice that runs
    cdef int64_t suspended       # since when it waits, or waited
    cdef int64_t ready           # since when it could run; 0: it waits
    cdef uint64_t waker


cdef class Slab:
    cdef Event *events
    cdef int held, room

    cdef bint add(self, Event *event) noexcept


@cython.final
cdef class RequestTrace(Trace):
    cdef Recorder recorder
    cdef TaskTrace root
    cdef int64_t head_at
    cdef bint is_over
    cdef bint muted              # it was not slow: nothing more is kept
    cdef bint straight           # events go to the ring, and nothing is added up: the usual case, asked first
    cdef Slab slab               # mode slow: what is held back until it is known whether it is worth it; None: nothing is
    cdef Slab owed               # that of one that was not slow, while its client may still take its time; or None
    cdef uint64_t stalls_before
    cdef Marker marker
    cdef object pattern          # of its route, if that is known before its task
    cdef object handler          # whose name its task has; None: that of the coroutine
    cdef int64_t in_kernel       # before its first byte was read; -1: not known
    cdef int64_t parse           # from there to the end of its head
    cdef int64_t busy, scheduled, idle   # of the handler's task, slices that are over; kept if the client may be told
    cdef uint32_t polls
    cdef uint32_t first_task     # the number of the handler's task

    cdef inline void put(self, int kind, uint64_t t, uint64_t dur, uint32_t flags, uint64_t a, uint32_t task, uint32_t b) noexcept:
        if self.straight:
            self.recorder.area.event(kind, t, dur, self.request, flags, a, task, b)
        else:
            self._put(kind, t, dur, flags, a, task, b)

    cdef void _put(self, int kind, uint64_t t, uint64_t dur, uint32_t flags, uint64_t a, uint32_t task, uint32_t b) noexcept
    cdef void _tell_route(self, object pattern) noexcept
    cdef void _hold(self, Event *event) noexcept
    cdef void _keep(self) noexcept


cdef class Marker:
    cdef TaskTrace trace


ctypedef PyObject *(*Called)(PyObject *self, PyObject **arguments, size_t count, PyObject *names) except NULL
ctypedef PyObject *(*Method)(PyObject *self, PyObject **arguments, Py_ssize_t count, PyObject *names) except NULL


cdef class Step:
    cdef TaskTrace trace
    cdef object callback
    cdef Called called


@cython.final
cdef class Hook:             # of a method of the loop
    cdef Recorder recorder
    cdef str name
    cdef Called called
    cdef Method function         # in C, of `self`; NULL: it is one in Python
    cdef object ours             # that function, as the loop's attribute
    cdef object before           # what the loop had there of its own, or None
    cdef object original         # what we call: that, or the method
    cdef object below            # the class of the loop under that which this stands in


@cython.final
cdef class Recorder(Lens):
    cdef readonly Area area
    cdef readonly object loop
    cdef TaskTrace current           # whose slice runs now; None: nobody's that is traced
    cdef uint64_t switches           # of the control word, as last seen
    cdef uint64_t seen               # requests, for sampling
    cdef uint32_t requests           # numbers given out
    cdef uint32_t tasks
    cdef readonly long live          # traced requests that are not over, and tasks that have not ended
    cdef readonly bint hooked
    cdef bint timers_hooked
    cdef bint probed                 # once somebody is to be traced
    cdef readonly bint bracketed     # tasks start and wake up where it is seen
    cdef public bint server_timing   # clients of this machine are told where their requests waited
    cdef bint broken
    cdef bint _closed
    cdef uint64_t cause              # of what is run by a timer of a traced task; 0: it is not
    cdef object step_type            # of the callback that starts a task
    cdef object _kind                # the class that the loop has while it is hooked; None: it is still to be made
    cdef list _kind_hooks            # what is in it
    cdef object _below               # the class it had before; None: it has that
    cdef list _hooks                 # what stands in the loop's place now,
    cdef dict _made                  # and all there are, by name
    cdef dict _kinds                 # type of an awaitable -> how to see what it waits for
    cdef set thread_futures          # ids of futures that a thread will settle
    cdef tuple _base                 # code objects of the frames in which the loop itself runs, from the outermost
    cdef dict _gone                  # id of a task that is gone without an end -> its TaskTrace
    cdef Place *_places
    cdef size_t _places_size, _places_used
    cdef Known *_known
    cdef size_t _known_size, _known_used

    cdef void broke(self, object error) noexcept
    cdef void failed(self) noexcept
    cdef int _calibrate(self) except -1
    cdef int _switched(self) except -1
    cdef bint _follow(self) noexcept
    cdef int _install(self) except -1
    cdef int _remove(self) except -1
    cdef PyObject *find(self, PyObject *task) noexcept
    cdef int list_task(self, TaskTrace trace, object task) except -1
    cdef int forget(self, TaskTrace trace) noexcept
    cdef TaskTrace new_task(self, RequestTrace of, str name, uint32_t flags, uint32_t of_what, int64_t now)
    cdef void begin_slice(self, TaskTrace trace, int64_t now) noexcept
    cdef void end_slice(self, TaskTrace trace) noexcept
    cdef int suspended(self, TaskTrace trace, PyObject *coro, int64_t now) except -1
    cdef void woken(self, TaskTrace trace, uint64_t waker, int64_t now) noexcept
    cdef void ended(self, TaskTrace trace, unsigned outcome, int64_t now) noexcept
    cdef TaskTrace adopt(self, object task, int64_t now)
    cdef uint32_t stack_of(self, object coro, uint32_t *wait) except? 0
    cdef uint32_t _new_stack(self, void *frames, int count, object awaited, object through, uint64_t hash, uint32_t *wait) except? 0
    cdef int _kind_of(self, object thing) except -1
    cdef int _leave(self, TaskTrace trace, int64_t now) except -1
    cdef void _interrupt(self, TaskTrace trace, int64_t now) noexcept
    cdef int _hook(self, str name) except -1
    cdef int _swap(self) except -1
    cdef int _wake(self, TaskTrace trace, PyObject *future) except -1
    cdef uint64_t _waker(self, TaskTrace trace, PyObject *future) except? 0
    cdef int _destroyed(self, object task) except -1
    cdef int _unawaited(self, object coro, RequestTrace of, uint32_t task) except -1
    cdef uint32_t _here(self, object coro, uint32_t *flags) except? 0
    cdef uint32_t _definition(self, object coro) except? 0
