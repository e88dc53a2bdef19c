"""Watchdog: sees that an event loop does not turn, on which line, and for whom; and pauses of the garbage collector.

Room:    side wing, telemetry. One per recording event loop, in the modes `stalls` and above.
Called:  by process/server.py (follow, close), on the loop. Calls: Area; reads the worker's own seat on the Board.

A timer on the loop beats every 20 ms. A thread in C, which has nothing to do with Python, looks whether it has: once a beat is
late by more than the threshold the loop is stalled, and only then the thread takes the GIL and writes down where the loop's
thread is. With the GIL no frame can go away under us; a signal handler that reads frames without it crashes sooner or later
(faulthandler in all of 3.11 to 3.13). The thread has descriptors of its own (thread.pxd). Code that holds the GIL is seen when it lets go: its caller is the right line then, but
the stack is marked as taken late. What the memory says before that, since when and of which request, needs no GIL.

The beat that ends a stall writes the event. A stall is at least as long as it is said to be: it begins when the slice began
that held the loop, if that is known, else when the beat was due.
"""

import atexit
import gc
import os

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memchr

from fastserve.protocol.board cimport FLIGHTS_MAX, FLIGHT_TEXT, Board, Seat
from fastserve.protocol.thread cimport PyGC_Disable, PyGC_Enable, PyThread_get_thread_ident, frames_of
from fastserve.protocol.timers cimport precise_now
from fastserve.telemetry.lens.memory cimport GC_PAUSE, LENS_STALLS, STALL, STALL_LATE_STACK, Area, Header

__all__ = ["Watchdog"]

cdef extern from *:
    """
    #include <errno.h>
    #include <fcntl.h>
    #include <poll.h>
    #include <stdint.h>
    #include <time.h>
    #include <unistd.h>

    typedef void (*fs_stalled)(void *owner, int64_t beat, int64_t asked);

    typedef struct {
      fs_stalled stalled;        /* takes the GIL */
      int64_t period, threshold; /* ns; set before the thread starts */
      int64_t beat;              /* the loop's last; atomic */
      int64_t noticed;           /* the beat after which a stall was noticed; atomic */
      int64_t since;             /* of that stall */
      uint32_t request, task;    /* that ran then */
      void *owner;               /* the Watchdog, which outlives the thread */
      /* of the area's header: */
      int64_t *stall_since;
      uint32_t *stall_request, *running_request, *running_task;
      int64_t *running_since;
      int ends[2];
      pthread_t thread;
      int started;
    } fs_watch;

    static int64_t fs_watch_now(void) {
      struct timespec now;
      clock_gettime(CLOCK_MONOTONIC, &now);
      return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
    }

    static inline int64_t fs_watch_get(int64_t *word) { return __atomic_load_n(word, __ATOMIC_SEQ_CST); }
    static inline void fs_watch_set(int64_t *word, int64_t value) { __atomic_store_n(word, value, __ATOMIC_SEQ_CST); }

    static void *fs_watch_run(void *argument) {
      fs_watch *watch = argument;
      struct pollfd end = {watch->ends[0], POLLIN, 0};
      fs_thread_settle("fs-watchdog", end.fd);
      for (;;) {
        int64_t beat = fs_watch_get(&watch->beat);
        int64_t due = beat + watch->period, now = fs_watch_now(), left = due + watch->threshold - now;
        if (beat == watch->noticed) left = watch->threshold; /* it lasts; the next stall begins with another beat */
        if (left <= 0) {
          int64_t running = *watch->running_since;
          watch->request = *watch->running_request;
          watch->task = *watch->running_task;
          watch->since = running > beat && running < due ? running : due;
          *watch->stall_request = watch->request;
          fs_watch_set(watch->stall_since, watch->since);
          fs_watch_set(&watch->noticed, beat);
          if (fs_watch_get(&watch->beat) != beat) { /* it has just ended, and could not know of this */
            fs_watch_set(watch->stall_since, 0);
            continue;
          }
          watch->stalled(watch->owner, beat, now);
          continue;
        }
        int found = poll(&end, 1, (int)(left / 1000000) + 1);
        if (found > 0 || (found < 0 && errno != EINTR && errno != EAGAIN)) return 0; /* told to go, or closed under us */
      }
    }

    static int fs_watch_start(fs_watch *watch) {
      int error;
      if (pipe(watch->ends) < 0) return errno;
      fcntl(watch->ends[0], F_SETFD, FD_CLOEXEC);
      fcntl(watch->ends[1], F_SETFD, FD_CLOEXEC);
      error = fs_thread_start(&watch->thread, 512 * 1024, fs_watch_run, watch); /* room to call into the interpreter */
      watch->started = !error;
      if (error) {
        close(watch->ends[0]);
        close(watch->ends[1]);
      }
      return error;
    }

    static void fs_watch_stop(fs_watch *watch, int ours) { /* without the GIL: the thread may be waiting for it */
      ssize_t written;
      if (!watch->started) return;
      watch->started = 0;
      if (ours) { /* a process that was forked has no such thread */
        do written = write(watch->ends[1], "", 1); while (written < 0 && errno == EINTR);
        pthread_join(watch->thread, 0);
      }
      close(watch->ends[0]);
      close(watch->ends[1]);
    }
    """
    ctypedef void (*fs_stalled)(void *owner, int64_t beat, int64_t asked) noexcept
    ctypedef struct fs_watch:
        fs_stalled stalled
        int64_t period, threshold, beat, noticed, since
        uint32_t request, task
        void *owner
        int64_t *stall_since
        uint32_t *stall_request
        uint32_t *running_request
        uint32_t *running_task
        int64_t *running_since
        int started
    int64_t fs_watch_get(int64_t *word) noexcept nogil
    void fs_watch_set(int64_t *word, int64_t value) noexcept nogil
    int fs_watch_start(fs_watch *watch) nogil
    void fs_watch_stop(fs_watch *watch, int ours) noexcept nogil

cdef enum:
    FRAMES_MAX = 100             # of a stack: the innermost
    DELAYS = 16
    DELAY_NS = 250000            # the first bound of the histogram of late beats; each next is twice as far
    LATE_NS = 20000000           # a thread that waited longer than that for the GIL comes late
    PAUSE_NS = 1000000           # a collection that takes less is not told of


cdef class Watchdog:
    """Watches one event loop, from follow() on while the mode of `area` asks for it.

    area: where it writes. loop: whose loop, and thread, that is: it is made in a callback of it. board, seat: of the worker, which
    say what runs where nothing is traced; None: nobody knows. threshold: seconds that a beat may be late. period: seconds from one to
    the next. stalls: seen so far. grabs: stacks taken.
    """
    cdef fs_watch *watch
    cdef Area area
    cdef object loop
    cdef double period
    cdef Board board             # or None
    cdef Seat *seat              # on it, or NULL
    cdef object timer            # of the next beat; None: it does not run
    cdef int64_t due             # when that is
    cdef object base             # code objects of the frames in which the loop itself runs, from the outermost
    cdef unsigned long ident     # of the loop's thread
    cdef object collected        # what stands in gc.callbacks, and
    cdef object ended            # what atexit calls
    cdef object pid
    cdef int64_t grabbed         # the beat after which a stack was taken
    cdef uint32_t stack
    cdef uint32_t text           # of what ran, by the board
    cdef uint32_t flying         # requests in flight then
    cdef bint late
    cdef int64_t collecting      # since when the garbage collector runs
    cdef readonly long stalls
    cdef readonly long grabs

    def __cinit__(self, Area area not None, loop, *, Board board=None, int seat=0, double threshold=0.05, double period=0.02):
        cdef Header *header = area.header
        self.watch = <fs_watch *>calloc(1, sizeof(fs_watch))
        if self.watch == NULL:
            raise MemoryError
        self.area = area
        self.loop = loop
        self.board = board
        self.seat = board.at(seat) if board is not None else NULL
        self.pid = os.getpid()
        self.period = period
        self.watch.period = <int64_t>(period * 1e9)
        self.watch.threshold = <int64_t>(threshold * 1e9)
        self.watch.owner = <void *>self
        self.watch.stalled = _stalled
        self.watch.stall_since = &header.stall_since_ns
        self.watch.stall_request = &header.stall_request
        self.watch.running_request = &header.running_request
        self.watch.running_task = &header.running_task
        self.watch.running_since = &header.running_since_ns
        self.base = ()

    def __dealloc__(self):
        if self.watch != NULL:
            if self.watch.started:
                self._end()
            free(self.watch)

    @property
    def running(self):
        """Does it watch now?"""
        return self.timer is not None

    def follow(self):
        """Begin or end as the mode says. On the loop. OSError if there can be no thread."""
        wanted = self.area.header.mode >= LENS_STALLS
        if wanted and self.timer is None:
            self._begin()
        elif not wanted and self.timer is not None:
            self.close()

    def close(self):
        """End. On the loop, or when it is over."""
        timer, self.timer = self.timer, None
        if timer is None:
            return
        timer.cancel()
        atexit.unregister(self.ended)
        self.ended = None
        if self.collected in gc.callbacks:
            gc.callbacks.remove(self.collected)
        self.collected = None
        self.area.collecting = False
        self._end()
        if self.pid == os.getpid():
            self.area.header.heartbeat_every_ns = 0
            self.area.header.stall_since_ns = 0

    def _end(self):
        # Of the thread. A process that was forked from this one has a copy of its record, and no thread.
        cdef fs_watch *watch = self.watch
        cdef bint ours = self.pid == os.getpid()
        with nogil:
            fs_watch_stop(watch, ours)

    def _begin(self):
        cdef fs_watch *watch = self.watch
        cdef int64_t now = precise_now()
        cdef int error
        self.ident = PyThread_get_thread_ident()
        self.base = tuple([code for code, _ in frames_of(self.ident)])
        self.area.header.heartbeat_every_ns = watch.period
        self.area.header.heartbeat_ns = now
        self.area.header.stall_since_ns = 0
        self.grabbed = 0
        watch.noticed = 0
        watch.beat = now
        error = fs_watch_start(watch)
        if error:
            raise OSError(error, "pthread_create")
        self.ended = self._end
        atexit.register(self.ended)   # a thread that wants the GIL must be gone before the interpreter is
        self.collected = self._collected
        gc.callbacks.append(self.collected)
        self._arm(now)

    cdef int _arm(self, int64_t now) except -1:
        self.due = now + self.watch.period
        self.timer = self.loop.call_later(self.period, self._beat)
        return 0

    def _beat(self):
        cdef fs_watch *watch = self.watch
        cdef Header *header = self.area.header
        cdef int64_t now = precise_now()
        cdef int64_t late = now - self.due
        cdef int64_t before = watch.beat
        cdef int64_t bound = DELAY_NS
        cdef int bucket = 0
        if self.timer is None:   # closed while this was under way
            return
        fs_watch_set(&watch.beat, now)
        header.heartbeat_ns = now
        while bucket < DELAYS - 1 and late >= bound:
            bound *= 2
            bucket += 1
        header.delay[bucket] += 1
        if fs_watch_get(&watch.noticed) == before:
            self._over(watch.since, now, watch.request, watch.task)
        elif late >= watch.threshold:   # not even the thread had a processor
            self._over(self.due, now, 0, 0)
        self._arm(now)

    cdef int _over(self, int64_t since, int64_t now, uint32_t request, uint32_t task) except -1:
        cdef Header *header = self.area.header
        cdef bint known = self.grabbed != 0
        cdef uint64_t about = 0
        header.stall_since_ns = 0
        header.stalls += 1
        self.stalls += 1
        if known:
            about = <uint64_t>self.text << 32 | self.flying
        self.area.event(STALL, since, now - since, request, STALL_LATE_STACK if known and self.late else 0, about, task,
                        self.stack if known else 0)
        self.grabbed = 0
        header.stall_stack = 0
        header.stall_request = 0
        return 0

    cdef void _stalled(self, int64_t beat, int64_t asked) noexcept:
        # In the thread, with the GIL.
        cdef bint collects = PyGC_Disable()
        try:
            if fs_watch_get(&self.watch.beat) != beat:
                return   # it is over, and what is to be seen now is innocent
            self.late = precise_now() - asked > LATE_NS
            self.text = self._running()
            self.flying = self.seat.active if self.seat != NULL else 0
            self.stack = self._stack()
            self.area.header.stall_stack = self.stack
            self.grabbed = beat
            self.grabs += 1
        except BaseException:   # memory is short, say: the stall is told of without a stack
            self.area.header.failures += 1
        finally:
            if collects:
                PyGC_Enable()

    cdef uint32_t _running(self) except? 0:
        # What the loop runs, as the board has it: also what is not traced. The path only.
        cdef int running
        cdef size_t length
        cdef uint8_t *text
        cdef uint8_t *query
        if self.seat == NULL or self.seat.busy_since_ns == 0:
            return 0
        running = self.seat.running
        if not 0 <= running < FLIGHTS_MAX or self.seat.flights[running].since_ns == 0:
            return 0
        text = self.seat.flights[running].text
        length = min(<size_t>self.seat.flights[running].length, <size_t>FLIGHT_TEXT)
        query = <uint8_t *>memchr(text, b"?", length)
        if query != NULL:
            length = query - text
        return self.area.request_text(text, length)

    cdef uint32_t _stack(self) except? 0:
        cdef int shared = 0
        frames = frames_of(self.ident)
        for code in self.base:
            if shared >= len(frames) or frames[shared][0] is not code:
                break
            shared += 1
        if shared == len(frames):
            return 0   # the loop itself: whatever held it is over, and it has not come to its beat yet
        frames = frames[max(shared, len(frames) - FRAMES_MAX):]
        return self.area.stack_id(0, tuple([(self.area.code_id(code), line) for code, line in frames]))

    def _collected(self, str phase, dict about):
        # Of gc.callbacks: in whatever thread, with the GIL, and with it until the end of the collection.
        cdef int64_t now = precise_now()
        self.area.collecting = phase == "start"
        if phase == "start":
            self.collecting = now
        elif self.collecting and now - self.collecting >= PAUSE_NS:
            self.area.event(GC_PAUSE, self.collecting, now - self.collecting, self.area.header.running_request, 0,
                            about.get("collected", 0), self.area.header.running_task, about.get("generation", 0))


cdef void _stalled(void *owner, int64_t beat, int64_t asked) noexcept with gil:
    (<Watchdog>owner)._stalled(beat, asked)
