# Lens and Trace: the door through which floor 1, and the wings, tell where a request waits. Abstract: whoever records is above.
#
# Implemented by: telemetry/lens/recorder.pyx. Called by: Connection, Exchange, HandlerCall, the wings.
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from fastserve.protocol.board cimport Flight

cdef enum:   # modes: from here on requests are traced
    TRACING = 3
    SAMPLING = 3     # and here one in so many

cdef enum:   # of begin(); the same numbers stand in the recording
    FIRST_REQUEST = 1
    KERNEL_KNOWN = 2
    CAME_EARLIER = 4
    OVER_TLS = 8
    FOR_WEBSOCKET = 16
    BY_WSGI = 32

cdef enum:   # of over()
    WAS_CUT = 1
    CLIENT_LEFT = 2
    HANDLER_FAILED = 4

cdef enum:   # how a slice ended
    SUSPENDED = 1
    RETURNED = 2
    RAISED = 3
    CANCELLED = 4

cdef enum:   # of timing()
    OF_ARRIVAL = 1   # what is known when it has come
    OF_HANDLER = 2   # up to now
    TO_THE_END = 4   # and now is its end

cdef enum:   # whose thread
    WSGI_THREAD = 0
    EXECUTOR_THREAD = 1
    HANDLER_THREAD = 2

cdef struct Arrival:
    # What is known of a request when its head is complete. Nanoseconds of the monotonic clock; 0: not known.
    int64_t accepted
    int64_t first_byte
    int64_t head
    int64_t in_kernel        # how long its bytes had lain there
    uint32_t flags
    uint32_t connection      # its number; 0: give it one


cdef extern from *:
    """
    #include <stdint.h>
    static inline uint32_t fs_lens_mode(const uint32_t *word) { return __atomic_load_n(word, __ATOMIC_RELAXED); }
    """
    uint32_t fs_lens_mode(const uint32_t *word) noexcept nogil


cdef class Trace:
    # One traced request. Nothing here raises: who records answers for its own faults.
    cdef readonly uint32_t request           # its number
    cdef Flight *flight                      # its entry on the board, as long as it is in flight; or NULL
    cdef unsigned flags                      # WAS_CUT ...
    cdef unsigned outcome                    # of the handler's last coroutine: RETURNED, RAISED or CANCELLED
    cdef bint tells                          # the client may be told where its request has waited (Server-Timing),
    cdef bint trails                         # and takes fields behind a chunked body
    # --- the connection ---
    cdef void body(self, size_t length, bint last) noexcept
    cdef void received(self, int64_t since, int64_t now) noexcept       # the handler had waited for bytes of the body
    cdef void response(self, unsigned status) noexcept                  # its head is written
    cdef void sent(self, size_t length) noexcept                        # of its body
    cdef void drained(self, int64_t since, int64_t now) noexcept        # the peer takes again what we have
    cdef void over(self, unsigned status, uint64_t sent, int64_t now) noexcept
    # --- the handler ---
    cdef void route(self, object pattern, object handler) noexcept      # handler: what the pattern leads to, or None
    cdef void enter(self, object coro) noexcept                         # a slice of the handler's task begins
    cdef void suspend(self, object coro, object yielded) noexcept       # it ends: `coro` waits for what it yielded
    cdef void end(self) noexcept                                        # it ends with its task
    cdef void becomes(self, object task) noexcept                       # asyncio is about to schedule this task for it
    cdef void handed_over(self, object yielded) noexcept                # and has got what the first slice yielded
    # --- threads: told in the thread, when it has run ---
    cdef void ran(self, int64_t submitted, int64_t began, unsigned whose) noexcept
    cdef void mark(self, str text) noexcept
    cdef bytes timing(self, unsigned parts)                             # where it has waited so far: the field's value, or None
    cdef void parent(self, const uint8_t *text, size_t length) noexcept # its traceparent, as the client has sent it


cdef class Lens:
    cdef uint32_t *mode                      # never NULL; TRACING or more: ask wants() about each request
    cdef bint wants(self) noexcept           # is this one to be traced? Asked once, before anything is done for it
    cdef Trace begin(self, const uint8_t *text, size_t length, Arrival *arrival)   # one that it wants; None: it cannot
    cdef Trace here(self)                    # of the request whose task runs now; None: it has none


cdef uint32_t *no_lens() noexcept            # a mode for who has none
cdef dict lenses                             # event loop -> its Lens; whoever records enters itself, and leaves
cdef Lens lens_of(object loop)               # or None
