"""Timers: one queue per duration, swept by one tick per worker. See timers.pxd for the idea.

Room:    floor 1. Timeouts hang on states, not on events: head, body, idle, write, linger.
Called:  by Connection and Service. Calls the loop.
"""

cdef extern from *:
    """
    #include <time.h>
    #ifdef CLOCK_MONOTONIC_COARSE
    #define FS_COARSE CLOCK_MONOTONIC_COARSE   /* 5 ns to read, exact to a kernel tick: enough for timeouts */
    #else
    #define FS_COARSE CLOCK_MONOTONIC
    #endif
    #ifdef CLOCK_REALTIME_COARSE
    #define FS_WALL CLOCK_REALTIME_COARSE
    #else
    #define FS_WALL CLOCK_REALTIME
    #endif
    static inline int64_t fs_clock_ns(clockid_t id) {
      struct timespec now;
      clock_gettime(id, &now);
      return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
    }
    """
    ctypedef int clockid_t
    clockid_t FS_COARSE
    clockid_t CLOCK_MONOTONIC
    clockid_t FS_WALL
    clockid_t CLOCK_REALTIME
    int64_t fs_clock_ns(clockid_t id) nogil


cdef int64_t coarse_now() noexcept nogil:
    return fs_clock_ns(FS_COARSE)


cdef int64_t precise_now() noexcept nogil:
    return fs_clock_ns(CLOCK_MONOTONIC)


cdef int64_t wall_now() noexcept nogil:
    return fs_clock_ns(FS_WALL)


cdef int64_t precise_wall_now() noexcept nogil:
    return fs_clock_ns(CLOCK_REALTIME)


cdef class Expiring:
    cdef int expired(self, int queue) except -1:
        raise NotImplementedError

    cdef size_t weight(self):
        return 0


cdef void disarm(Timer *timer) noexcept nogil:
    if timer.queue < 0:
        return
    timer.prev.next = timer.next
    timer.next.prev = timer.prev
    timer.queue = -1
    timer.armed[0] -= 1


cdef class Timers:
    """loop: an asyncio event loop; ticks only while at least one timer is armed."""

    def __cinit__(self, loop):
        self.loop = loop
        self._handle = None
        self._resolution = 0.5

    def __dealloc__(self):
        # Whoever is armed outlives us only when all die together, in any order: leave nobody linked to this memory.
        cdef int queue
        for queue in range(self._count):
            while self._head[queue].next != &self._head[queue]:
                disarm(self._head[queue].next)

    cdef int add_queue(self, double seconds) except -1:
        cdef int queue = self._count
        if queue == 16:
            raise ValueError("too many durations")
        self._count += 1
        self._duration[queue] = <int64_t>(seconds * 1e9)
        self._head[queue].prev = self._head[queue].next = &self._head[queue]
        if seconds > 0 and seconds / 4 < self._resolution:
            self._resolution = max(seconds / 4, 0.001)
        return queue

    cdef int arm(self, Timer *timer, int queue) except -1:
        disarm(timer)
        if self._duration[queue] == 0:
            return 0
        timer.deadline = coarse_now() + self._duration[queue]
        timer.queue = queue
        timer.prev = self._head[queue].prev
        timer.next = &self._head[queue]
        timer.prev.next = timer
        timer.next.prev = timer
        timer.armed = &self.armed
        self.armed += 1
        if self._handle is None:
            self._handle = self.loop.call_later(self._resolution, self._tick)
        return 0

    cdef Expiring first(self, int queue):
        cdef Timer *timer = self._head[queue].next
        return None if timer == &self._head[queue] else <Expiring>timer.owner

    cdef Expiring heaviest(self, int queue, int among, object but):
        cdef Timer *timer = self._head[queue].next
        cdef Expiring found = None
        cdef Expiring each
        cdef size_t most = 0
        while timer != &self._head[queue] and among > 0:
            each = <Expiring>timer.owner
            if each is not but and each.weight() > most:
                most = each.weight()
                found = each
            timer = timer.next
            among -= 1
        return found

    def _tick(self):
        cdef int64_t now = coarse_now()
        cdef Timer *timer
        cdef int queue
        self._handle = None
        for queue in range(self._count):
            while True:
                timer = self._head[queue].next
                if timer == &self._head[queue] or timer.deadline > now:
                    break
                disarm(timer)
                owner = <Expiring>timer.owner
                try:
                    owner.expired(queue)
                except Exception as error:
                    self.loop.call_exception_handler({"message": "fastserve: a deadline could not be handled",
                                                      "exception": error})
        if self.armed and self._handle is None:
            self._handle = self.loop.call_later(self._resolution, self._tick)

    def close(self):
        """Forget the tick; armed timers will not fire."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
