# Service: everything that the connections of one event loop share.
#
# Called by: Connection, Exchange, process/server.py. Calls: Timers, HangupWatch, the two doors.
from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t, uint8_t
from fastserve.protocol.board cimport Board, Seat
from fastserve.protocol.core cimport fs_field, fs_limits, fs_out, fs_request_head
from fastserve.protocol.driver cimport Driver, Host
from fastserve.protocol.forwarded cimport Trust
from fastserve.protocol.hooks cimport Handler, Observer
from fastserve.protocol.lens cimport Lens
from fastserve.protocol.limits cimport Limits
from fastserve.protocol.timers cimport Timers
from fastserve.protocol.wire cimport HangupWatch, Wire

# The queues of `timers`.
cdef enum Deadline:
    HEADER_DEADLINE
    BODY_DEADLINE
    IDLE_DEADLINE
    WRITE_DEADLINE     # when to look again how far the peer is with its response: several times in each write_timeout
    LINGER_DEADLINE
    PING_DEADLINE      # of WebSockets: when to ask,
    PONG_DEADLINE      # how long the answer may take,
    CLOSE_DEADLINE     # and the answer to our close
    PARTING_DEADLINE   # after the end of an idle connection, for what crosses it
    REQUEST_DEADLINE
    RETIRE_DEADLINE    # added when its duration is known: the last one


cdef struct SimpleHead:
    void *content_type      # the bytes object, by identity; kept alive in Service._kept_types
    unsigned status
    int64_t second          # of the date in it
    size_t length
    uint8_t text[320]


cdef class Service(Host):
    cdef readonly object loop
    cdef Handler handler
    cdef Observer observer           # or None
    cdef Lens lens                   # or None
    cdef uint32_t *lens_mode         # TRACING or more: ask it about each request
    cdef uint32_t traced_connections # numbers given out
    cdef readonly Limits limits
    cdef Timers timers
    cdef HangupWatch hangups
    cdef readonly Trust trust        # which peers are proxies of ours, and what of theirs is believed; None: nobody
    # what these looks at writers amount to: without progress the still_max'th is the last, a window of rate_looks is judged
    cdef uint32_t still_max, rate_looks
    cdef bint guarded                # some requests are turned away: ask admit()
    cdef frozenset exempt            # paths that are not, as bytes
    cdef fs_limits core_limits       # those of `limits`, save what the handler decides request by request
    cdef object overload_fields      # of the answer to those
    cdef object _peers               # connections by address, where that is limited; else None
    cdef size_t _leaving             # connections told to go that are not gone yet
    cdef object _told_full_at
    cdef uint64_t rate_bytes         # that a window of rate_looks has to move
    cdef int64_t rate_grace_ns
    cdef readonly bint half_close    # a FIN is not taken for a departure
    cdef readonly bint stopping
    cdef bint parting                # the next answer on every connection is its last
    cdef readonly bint retiring      # idle connections stay until they have carried one more request
    cdef Driver driver               # None: this platform has no epoll, or nothing is accepted here
    cdef Board board                 # shared with siblings, or None
    cdef Seat *seat                  # ours on it, or one of our own: where the figures are kept
    cdef Seat *_own_seat
    cdef int _seat_index
    cdef set _connections
    cdef list _waiters
    cdef list _servers               # of the loop, where there is no driver
    cdef uint16_t _free_flights[256]
    cdef int _free_count
    # scratch, used by one connection at a time
    cdef fs_field *fields            # of the head being parsed
    cdef fs_field *trailer_fields
    cdef fs_out out                  # responses of the batch being written
    cdef fs_out scratch              # body pieces of the read being parsed
    cdef object out_owner            # the Connection whose bytes are in `out`
    # "date: ...\r\nserver: fastserve\r\n", renewed when the second changes
    cdef uint8_t _common[128]
    cdef size_t _common_len
    cdef size_t _date_line_len
    cdef int64_t _second
    cdef bytes _server_line
    cdef readonly bint date_header   # RFC 9110 6.6.1: a server with a clock sends it; off only on an operator's word
    cdef readonly bytes id_field     # in which ASGI and WSGI applications find the id of a request, in lower case, or None
    cdef list default_fields         # [(name, value)] of every final response, or None; read by Connection

    cdef SimpleHead _simple[8]
    cdef list _kept_types

    cdef double _looks_at_writers(self) except -1
    cdef const uint8_t *common_lines(self, size_t *length) noexcept
    cdef const uint8_t *simple_head(self, unsigned status, bytes content_type, size_t *length) noexcept
    cdef bint enter(self, object connection, Wire wire) except -1   # False: it is one too many of its peer
    cdef int admit(self, const uint8_t *data, fs_request_head *head) noexcept   # -1, or the Shed that turns it away
    cdef int64_t _waited_ns(self) noexcept
    cdef bint _is_exempt(self, const uint8_t *data, fs_request_head *head) except -1
    cdef int relieve(self, object but) except -1         # of bytes held, over the budget; `but` is in use
    cdef int leave(self, object connection, Wire wire) except -1
    cdef int take_off(self, const uint8_t *data, fs_request_head *head, int64_t now) noexcept   # a flight, or -1
    cdef void land(self, int flight) noexcept
