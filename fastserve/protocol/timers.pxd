# Timers: one queue per duration, swept by one tick per worker.
#
# All entries of a queue wait equally long, so appending keeps it sorted: arming and disarming are O(1), and a tick looks only
# at the front. No loop timer per request (which would cost 1.2 us each).
# Called by: Connection (arms, disarms), Service (owns). Calls: the loop's call_later.
from libc.stdint cimport int64_t


cdef struct Timer:
    Timer *prev
    Timer *next
    int64_t deadline       # ns of the coarse monotonic clock
    int queue              # which duration; -1: not armed
    int *armed             # the count it is part of
    void *owner            # an Expiring, borrowed: it disarms before it dies


cdef enum:                 # told to expired(), instead of a queue, when the worker is short of something
    SHED_IDLE = -2         # of connections
    SHED_UNFINISHED = -3   # of memory for what is half read


cdef class Expiring:
    cdef int expired(self, int queue) except -1   # to SHED_IDLE: 1 if it goes
    cdef size_t weight(self)   # bytes that it holds of what it has half read


cdef class Timers:
    cdef object loop
    cdef object _handle            # of the next tick; None while nothing is armed
    cdef int armed                 # timers armed now; a tick is due while there are any
    cdef int _count                # queues in use
    cdef int64_t _duration[16]      # ns; 0: this queue never fires
    cdef Timer _head[16]           # sentinels of the lists
    cdef double _resolution        # seconds between ticks

    cdef int add_queue(self, double seconds) except -1
    cdef int arm(self, Timer *timer, int queue) except -1
    cdef Expiring first(self, int queue)                                # who has waited longest; None: nobody
    cdef Expiring heaviest(self, int queue, int among, object but)      # of those that have waited longest


cdef void disarm(Timer *timer) noexcept nogil   # harmless if it is not armed; needs no Timers, so that a dealloc may call it
cdef int64_t coarse_now() noexcept nogil
cdef int64_t precise_now() noexcept nogil
# of the wall clock, nanoseconds since 1970: cheap and exact to a kernel tick; or what the kernel stamps packets by
cdef int64_t wall_now() noexcept nogil
cdef int64_t precise_wall_now() noexcept nogil
