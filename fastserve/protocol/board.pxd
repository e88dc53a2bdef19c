# Board: what the processes of one server know of each other, in shared memory: a seat per worker process.
#
# Called by: Service and Driver (write their own seat, read the others), process/ (gives seats, reads). Calls: nothing.
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef enum:
    SLOTS_MAX = 1024        # listeners that can be lent to another worker: one bit each
    FLIGHTS_MAX = 256       # requests in flight that can be named; the others are only counted
    FLIGHT_TEXT = 80        # bytes of "METHOD target" kept of each
    LATENCY_BUCKETS = 15    # fourteen bounds and what lies above

# Life of a worker process, as the supervisor and it say it.
cpdef enum SeatState:
    EMPTY       # nobody sits here
    BOOTING     # forked; imports, starts up
    READY       # serves
    RETIRING    # accepts no more; finishes what it has
    DEAD        # reaped; the figures stand until the seat is given away

# What a connection waits for. The words are board.STATE_WORDS.
cdef enum:  # ConnectionState
    IN_NEW      # the first byte of its first request
    IN_HEAD     # the rest of a request head
    IN_IDLE     # the next request
    IN_BODY     # the client: bytes of a body that the handler waits for
    IN_HANDLER  # the handler
    IN_WRITE    # the client: to take its answer
    IN_TUNNEL   # a WebSocket; whoever speaks next
    IN_CLOSE    # the end: our last byte is out
    STATES_MAX

# Why we ended a request or a connection by the clock. The words are board.TIMEOUT_WORDS.
cdef enum:  # Timeout
    BY_SILENCE  # a new connection that said nothing
    BY_HEAD
    BY_BODY     # silence inside a body
    BY_RATE     # a body that comes too slowly
    BY_WRITE    # an answer that is not taken, or too slowly
    BY_REQUEST  # the whole of a request
    BY_IDLE     # the next request did not come
    TIMEOUTS_MAX

# Which limit turned a request or a connection away. The words are board.SHED_WORDS.
cdef enum:  # Shed
    FOR_CONCURRENCY
    FOR_AGE
    FOR_CONNECTIONS
    FOR_PEER
    FOR_BUFFERS
    SHEDS_MAX

# What a traced request does, as far as the lens has told.
cdef enum:  # FlightState
    FLIGHT_UNKNOWN
    FLIGHT_RUNNING
    FLIGHT_READY    # it could run, and waits for the loop
    FLIGHT_WAITING

cdef struct Flight:
    int64_t since_ns        # monotonic; 0: free
    # --- the lens writes; it all means nothing while `request` is 0 ---
    int64_t state_since_ns
    uint32_t request        # its number in this process, from 1; 0: it is not traced
    uint32_t task           # that did so last
    uint32_t stack          # where it waits, or where it went on
    # ---
    uint16_t length
    uint8_t state           # FlightState
    uint8_t text[FLIGHT_TEXT]

cdef struct Seat:
    # --- the supervisor writes ---
    int32_t pid
    int32_t slot            # whose listeners it accepts from by right; -1: none
    uint32_t state
    uint32_t generation
    int64_t started_ns
    int64_t ready_ns
    uint64_t adopted[16]    # SLOTS_MAX bits: accept from these slots' listeners as well, until told otherwise
    # --- anybody writes ---
    uint64_t wanted[16]     # SLOTS_MAX bits: take what waits at these slots' listeners, once
    uint64_t pokes          # times it was woken
    int64_t poked_ns        # when it was woken and had not answered yet
    # --- the worker writes ---
    uint64_t turns          # `pokes` as last seen by its event loop: equal means that the loop turns
    int64_t turned_ns
    int64_t busy_since_ns   # of the callback that runs now; 0: between callbacks
    int32_t running         # index of the flight that runs now, or -1
    uint32_t connections
    uint32_t active         # requests in flight
    uint64_t accepts
    uint64_t accepts_of_others
    uint64_t accept_errors
    uint64_t served         # exchanges ended
    uint64_t by_class[6]    # of these: 1xx to 5xx at 1..5; at 0 those that ended without a status (the client left)
    uint64_t refused        # of these: answered for a fault of the peer or a deadline, before a handler saw them
    uint64_t bytes_in
    uint64_t bytes_out
    uint64_t latency[LATENCY_BUCKETS]
    uint64_t latency_ns     # their sum
    uint64_t cut            # connections closed by us under a request
    uint64_t raced          # idle connections that we ended while a request was on its way
    uint32_t in_state[STATES_MAX]    # connections, by what they wait for
    uint64_t state_ns[STATES_MAX]    # time that connections spent so; counted when they leave the state
    uint64_t timeouts[TIMEOUTS_MAX]
    uint64_t shed[SHEDS_MAX]
    uint64_t held           # bytes of unparsed heads, unread bodies and pipelined requests
    Flight flights[FLIGHTS_MAX]

# What a slot has counted in all processes that sat for it and were cleared away: counters never go back.
cdef struct Totals:
    uint64_t starts         # processes that began to boot
    uint64_t restarts       # of these: in place of one that nobody had told to go
    uint64_t accepts
    uint64_t accepts_of_others
    uint64_t accept_errors
    uint64_t by_class[6]
    uint64_t refused
    uint64_t bytes_in
    uint64_t bytes_out
    uint64_t latency[LATENCY_BUCKETS]
    uint64_t latency_ns
    uint64_t cut
    uint64_t raced
    uint64_t state_ns[STATES_MAX]
    uint64_t timeouts[TIMEOUTS_MAX]
    uint64_t shed[SHEDS_MAX]
    int64_t queue           # connections that wait at its listeners; -1: not known
    int64_t queue_max

# Of the supervisor, who alone writes it; on a page of its own, away from what workers write.
cdef struct Head:
    uint64_t version        # odd while totals and seats are rearranged: who reads meanwhile reads again
    int64_t started_ns
    int64_t turned_ns       # when its loop last turned
    uint32_t draining
    uint32_t wanted         # slots that are to have a worker


cdef class Board:
    cdef object _memory                 # keeps the mapping
    cdef uint8_t *_data                 # the seats
    cdef Head *_head
    cdef Totals *_totals                # by slot
    cdef readonly int seats
    cdef readonly int fd                # of the file that the memory is; -1: it has none
    cdef list _wakers                   # (read, write) descriptors by seat
    cdef Seat *at(self, int index) except NULL
    cdef int wake_fd(self, int index) except -2
    cdef Totals *_slot(self, int slot) except NULL
    cdef int poke(self, int index) except -1
    cdef int want(self, int helper, int slot) except -1
    cdef bint responsive(self, Seat *seat, int64_t now) noexcept


cdef uint64_t take_bits(uint64_t *word) noexcept nogil
cdef bint bit(uint64_t *words, int index) noexcept nogil
