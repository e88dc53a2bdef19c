# The memory of the lens: what every worker writes and other processes read. The layout is a promise between versions of one
# server only; its `version` says which.
#
# Called by: recorder.pyx, watchdog.pyx (write), process/lensfile.py (control). Calls: nothing.
cimport cython
from cpython.object cimport PyObject
from libc.stdint cimport int32_t, int64_t, uint16_t, uint32_t, uint64_t, uint8_t

cdef enum LensKind:      # of an Event
    REQUEST_BEGIN = 1    # t head complete, dur since its first byte was read, a ns in the kernel, b text, task connection
    CONN_ACCEPT = 2
    ROUTE = 3            # b text: one that was not known when the handler's task began
    BODY = 4             # a bytes of the request's body
    RESPONSE_HEAD = 5    # a status
    RESPONSE_BODY = 6    # a bytes
    DRAIN = 7            # t, dur: the peer did not take what we had
    REQUEST_END = 8      # dur since head complete, a status, b bytes of body
    TASK_SPAWN = 9       # b parent task, a text of the coroutine's name; of the handler's own (SPAWN_ROOT): b text of the route
    TASK_POLL = 10       # t, dur: one slice; a when it became ready, b stack where it was suspended; not suspended: its last
    TASK_AWAIT = 11      # t suspended, dur until it became ready, b stack, a waker
    TASK_END = 12        # of a task that has ended outside of its slices
    THREAD_RUN = 13      # t, dur: it ran; a when it was submitted, b text of the thread's name, task who waits
    STALL = 14           # t, dur: the loop did not turn; b stack, a requests in flight, and in the high half the text of what ran
    GC_PAUSE = 15        # t, dur; b generation, a collected
    MARK = 16            # b text
    TIMER = 17           # t when it was due, dur how late it ran
    SWITCH = 18          # a mode, b sample
    RECEIVE = 19         # t, dur: the handler waited for bytes of the body
    ORPHAN = 20          # a text of a coroutine's name, b stack: nobody will hear what became of it
    CONTEXT = 21         # b text of the request's traceparent

cdef enum:               # flags of events
    BEGIN_FIRST = 1      # the first request of its connection
    BEGIN_KERNEL = 2     # the time in the kernel is known
    BEGIN_PIPELINED = 4  # its first byte came in an earlier read
    BEGIN_TLS = 8
    BEGIN_WEBSOCKET = 16
    BEGIN_WSGI = 32
    BODY_LAST = 1
    SPAWN_ROOT = 1
    END_CUT = 1
    END_LEFT = 2         # the client went away
    END_FAILED = 4       # the handler raised, or did not answer
    POLL_SUSPENDED = 1
    POLL_RETURNED = 2
    POLL_RAISED = 3
    POLL_CANCELLED = 4
    THREAD_WSGI = 0
    THREAD_EXECUTOR = 1
    THREAD_HANDLER = 2
    STALL_LATE_STACK = 1
    ORPHAN_DESTROYED = 1 # a task, while it was pending; the stack is where it waited
    ORPHAN_UNAWAITED = 2 # a coroutine that was never awaited; the stack is where it was dropped,
    ORPHAN_DEFINED = 4   # or its one frame is where it is defined

cdef enum LensWaker:     # the high half of TASK_AWAIT.a
    BY_UNKNOWN = 0
    BY_TASK = 1
    BY_TIMER = 2
    BY_CALLBACK = 3
    BY_THREAD = 4
    BY_CANCEL = 5
    BY_SELF = 6

cdef enum LensWait:      # what a stack waits for
    WAIT_FUTURE = 0
    WAIT_TIMER = 1
    WAIT_LOCK = 2
    WAIT_QUEUE = 3
    WAIT_CHILDREN = 4
    WAIT_THREAD = 5
    WAIT_POOL = 6
    WAIT_UPSTREAM = 7
    WAIT_RECEIVE = 8
    WAIT_DRAIN = 9
    WAIT_EVENT = 10
    WAIT_IO = 11
    WAIT_SUBPROCESS = 12
    WAIT_YIELD = 13
    WAIT_MESSAGE = 14

cdef enum LensMechanism:
    NOT_PROBED = 0
    BRACKET = 1          # loop.call_soon is ours while a traced request lives
    WRAPPER = 2          # the handler's own steps only
    BROKEN = 3           # it failed, and switched itself off

cdef enum:               # modes, as modes.py numbers them
    LENS_OFF = 0
    LENS_READY = 1
    LENS_STALLS = 2
    LENS_SAMPLE = 3
    LENS_SLOW = 4
    LENS_FULL = 5

cdef struct Event:
    uint64_t t           # ns of the monotonic clock: the start of the thing
    uint64_t dur
    uint32_t request
    uint16_t kind
    uint16_t flags
    uint64_t a
    uint32_t task
    uint32_t b

cdef struct Header:
    char magic[8]
    uint32_t version
    uint32_t pid             # 0: nobody yet
    int32_t slot
    uint32_t seat
    uint32_t generation
    uint32_t mechanism
    int64_t started_ns
    int64_t started_unix_ns
    uint32_t mode            # wanted; whoever switches writes it
    uint32_t sample
    int64_t slow_ns
    uint64_t switches        # bumped after the three above
    uint64_t ring_head       # events ever written
    uint64_t ring_capacity
    uint64_t text_used
    uint64_t text_capacity
    uint64_t text_offset
    uint64_t ring_offset
    uint64_t dropped
    uint64_t failures
    uint64_t traced
    uint64_t stalls
    int64_t heartbeat_ns
    int64_t heartbeat_every_ns
    int64_t stall_since_ns
    uint32_t stall_stack
    uint32_t stall_request
    uint32_t running_request
    uint32_t running_task
    uint32_t running_stack
    uint32_t cost_ns
    int64_t running_since_ns
    uint64_t delay[16]
    uint64_t recent_offset   # texts of requests: a ring of their own, see memory.pyx
    uint64_t recent_capacity
    uint64_t recent_used     # bytes ever written there

cdef extern from *:
    """
    #include <stdint.h>
    static inline void fs_lens_publish(uint64_t *word, uint64_t value) { __atomic_store_n(word, value, __ATOMIC_RELEASE); }
    /* The ring is larger than a core's cache: what is written next is fetched while other things are done. */
    static inline void fs_lens_expect(const void *line) { __builtin_prefetch(line, 1); }
    static inline uint32_t fs_lens_look(const uint32_t *word) { return __atomic_load_n(word, __ATOMIC_RELAXED); }
    """
    void fs_lens_publish(uint64_t *word, uint64_t value) noexcept nogil
    void fs_lens_expect(const void *line) noexcept nogil
    uint32_t fs_lens_look(const uint32_t *word) noexcept nogil

cdef enum:
    RING_EVENTS = 65536      # a power of two
    EVENTS_AHEAD = 4
    FAMILIAR = 512           # texts known by their address, few of which share a place; a power of two


cdef class LensMemory:
    cdef object _map
    cdef uint8_t *_data
    cdef list _areas
    cdef readonly int fd         # of the memfd
    cdef readonly int seats
    cdef readonly size_t area_size


@cython.final
cdef class Area:
    cdef LensMemory memory       # keeps the mapping
    cdef Header *header
    cdef Event *ring
    cdef uint8_t *texts
    cdef uint8_t *recents
    cdef readonly int seat
    cdef uint32_t _ids           # given out
    cdef dict _texts             # str -> id
    cdef dict _codes             # code object -> id; they are kept alive, so that no other takes the address
    cdef dict _stacks            # (wait, (code id, line), ...) -> id
    cdef PyObject *_familiar[FAMILIAR]        # by address: a text that was asked for; we hold it
    cdef uint32_t _familiar_ids[FAMILIAR]
    cdef uint32_t *_recent_ids   # by hash: the last text of a request with it
    cdef bint collecting         # the garbage collector runs, as far as the watchdog has seen

    cdef inline void event(self, int kind, uint64_t t, uint64_t dur, uint32_t request, uint32_t flags, uint64_t a, uint32_t task,
                           uint32_t b) noexcept:
        # With the GIL held: it is what makes writers take turns.
        cdef uint64_t head = self.header.ring_head
        cdef Event *event = &self.ring[head & (RING_EVENTS - 1)]
        event.t = t
        event.dur = dur
        event.request = request
        event.kind = kind
        event.flags = flags
        event.a = a
        event.task = task
        event.b = b
        fs_lens_publish(&self.header.ring_head, head + 1)
        fs_lens_expect(&self.ring[(head + EVENTS_AHEAD) & (RING_EVENTS - 1)])

    cdef inline uint32_t familiar_id(self, str text) except? 0:
        # As text_id(), of a text that comes again as the same object: the name of a function, a pattern.
        cdef size_t at = <size_t><PyObject *>text >> 4 & (FAMILIAR - 1)
        if self._familiar[at] == <PyObject *>text:
            return self._familiar_ids[at]
        return self._meet(text, at)

    cdef uint32_t _meet(self, str text, size_t at) except? 0
    cdef uint32_t text_id(self, str text) except? 0
    cdef uint32_t code_id(self, object code) except? 0
    cdef uint32_t stack_id(self, int wait, tuple frames) except? 0   # ((code id, line), ...) from the outermost
    cdef uint32_t request_text(self, const uint8_t *data, size_t length) noexcept
    cdef uint32_t _entry(self, int kind, const void *data, size_t length) noexcept
    cdef uint64_t _written(self, uint32_t recent) noexcept
