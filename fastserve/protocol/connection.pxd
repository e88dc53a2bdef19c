# Connection: one TCP or Unix stream; the asyncio protocol, and the Channel of its exchanges.
#
# Called by: the transport (through Wire's sibling), Exchange (through Channel), Service. Calls: the C core, the two doors.
from libc.stdint cimport uint8_t, uint32_t, uint64_t, int64_t
from fastserve.protocol.channel cimport Channel
from fastserve.protocol.core cimport fs_error, fs_event, fs_field
from fastserve.protocol.exchange cimport Exchange
from fastserve.protocol.lens cimport Trace
from fastserve.protocol.service cimport Service
from fastserve.protocol.timers cimport Timer
from fastserve.protocol.wire cimport Wire


cdef class Below:            # for the lens: the answer that a TLS transport was given last
    cdef Connection connection
    cdef Trace trace         # of its request
    cdef int64_t began       # when it was given
    cdef int64_t since       # and from when on it may be told that the kernel did not take it


cdef class Connection(Channel):
    cdef Service service
    cdef Wire wire                   # None once lost
    cdef Wire _lost_wire             # still answers who the peer was
    cdef Exchange exchange           # the one in hand, or None
    cdef readonly uint64_t served    # exchanges ended here
    cdef Timer _read_timer           # head, body, idle, linger: one at a time
    cdef Timer _write_timer          # runs while the wire holds bytes that the peer does not take
    cdef Timer *_request_timer       # NULL unless there is a deadline for whole requests
    # --- unconsumed input: bytes of a head, trailer section or later request that have to wait ---
    cdef uint8_t *_buffer
    cdef size_t _start, _end, _capacity
    cdef fs_field *_own_fields       # a half-read head keeps its fields here
    cdef fs_field *_own_trailers     # and a half-read trailer section
    # --- output that is not in the service's buffer ---
    cdef list _pieces
    # --- flags ---
    cdef bint _consuming             # inside _consume(): writes are held for the batch
    cdef bint _reading_paused
    cdef bint _writing_paused
    cdef bint _tls
    cdef bint _eof                   # the peer will send no more
    cdef bint _lingering             # our last byte is out; what comes is dropped
    cdef bint _parting               # lingering because it was idle: a request that comes has crossed our end
    cdef bint _closing               # wire.close() was called
    cdef bint _retiring              # the next response is the last
    cdef size_t _lingered
    # --- how fast the peer is: judged only while it owes us something ---
    cdef uint64_t _handed            # bytes given to the wire
    cdef uint64_t _taken             # of these: gone from the wire, at the last look,
    cdef uint64_t _window            # and when this window began
    cdef uint32_t _still, _looks     # looks without progress; looks in this window
    cdef uint64_t _pace_bytes        # of the body, in this window
    cdef int64_t _pace_since         # since when the body is waited for; 0: it is not
    cdef int64_t _pace_spent         # in this window, before that
    cdef size_t _body_held           # of the body in hand, among the bytes that the worker holds
    # --- for the figures ---
    cdef uint8_t _state              # a ConnectionState
    cdef int64_t _since              # when it began
    cdef int64_t _ended_at           # inside _consume(): when the exchange before ended; 0: there was none in this read
    cdef list _drain_waiters
    # --- for the lens; all but the first only while requests are traced ---
    cdef int64_t _accepted_at
    cdef int64_t _first_byte_at      # of what is unread, or of the head that is half read; 0: there is nothing
    cdef int64_t _in_kernel          # how long that byte had lain in the kernel; -1: not known; UNASKED
    cdef uint32_t _number            # among the connections with a traced request; 0: none yet
    cdef bint _in_read               # inside _receive_stamped()
    cdef Trace _last_trace           # of the request that was answered last, until its answer has been handed to the wire
    cdef Trace _behind               # whose answer the peer does not take,
    cdef int64_t _behind_at          # and since when; 0: it does
    cdef Below _below                # an answer that is held below a TLS transport, or may be; None: none is
    cdef bint _proxy_due             # a PROXY protocol header has to come first,
    cdef bint _proxy_taken           # or has come, before TLS began
    cdef tuple _proxied              # (peername, sockname) that it said, or None

    cdef int _begin_with(self, Wire wire) except -1
    # reading flow
    cdef int _receive(self, const uint8_t *data, size_t length, object owner) except -1
    cdef int _receive_stamped(self, const uint8_t *data, size_t length, object owner) except -1
    cdef int64_t _kernel_wait(self, int64_t now) except -2
    cdef bint _wanted(self, Exchange exchange, const uint8_t *data) except -1
    cdef int _trace(self, Exchange exchange, const uint8_t *data, int64_t now) except -1
    cdef int _falls_behind(self) except -1
    cdef Trace _answered(self)
    cdef int _watch_below(self) except -1
    cdef int _look_below(self, Below below) except -1
    cdef int _caught_up(self) except -1
    cdef int _descriptor(self) except -2
    cdef int _body_came(self, int64_t now) except -1
    cdef Py_ssize_t _take_proxy(self, const uint8_t *data, size_t length) except -2
    cdef Py_ssize_t _consume(self, const uint8_t *data, size_t length, object owner) except -1
    cdef int _resume(self) except -1
    cdef int _settle(self) except -1
    cdef bint _reads(self) except -1
    cdef void _free_buffer(self) noexcept
    cdef bint _turned_away(self, Exchange exchange, const uint8_t *data) except -1
    cdef int _store(self, const uint8_t *data, size_t length) except -1
    cdef fs_field *_fields(self) except NULL
    cdef int _keep_fields(self) except -1
    cdef void _drop_fields(self) noexcept
    cdef int _update_reading(self) except -1
    cdef int _body_bytes(self, const uint8_t *data, size_t length, object owner) except -1
    cdef int _gather(self, const uint8_t *data, size_t length) except -1
    cdef int _feed(self) except -1
    cdef int _end_of_message(self, const uint8_t *data, fs_field *fields, uint32_t count) except -1
    # one exchange
    cdef Py_ssize_t _begin(self, const uint8_t *data, size_t length, object owner, fs_field *fields) except -1
    cdef int _observe(self, Exchange exchange) except -1
    cdef int _forget(self, Exchange exchange) except -1
    cdef int _release(self, Exchange exchange) except -1
    cdef int _answer_fault(self) except -1
    # writing flow
    cdef int _flush_now(self) except -1
    cdef int _wake_drained(self, object error) except -1
    # closing flow
    cdef bint _next(self, bint more) except -1
    cdef int _close(self, bint linger) except -1
    cdef int _hang_up(self) except -1
    cdef int _expired_tls(self, int queue) except -1
    # deadlines
    cdef int _arm(self) except -1
    cdef int _watch_writing(self) except -1
    cdef int _look_at_writing(self) except -1
    cdef int _give_up(self, unsigned timeout) except -1
    cdef bint _too_slow(self) noexcept
    cdef int _refuse(self, fs_error error, unsigned timeout) except -1
    cdef void _enter(self, unsigned state, int64_t now) noexcept
