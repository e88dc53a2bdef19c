# Service: everything that the connections of one event loop share.
#
# Called by: Connection, Exchange, process/server.py. Calls: Timers, HangupWatch, the two doors.
from libc.stdint cimport int64_t, uint64_t, uint8_t
from fastserve.protocol.core cimport fs_field, fs_out
from fastserve.protocol.hooks cimport Handler, Observer
from fastserve.protocol.limits cimport Limits
from fastserve.protocol.timers cimport Timers
from fastserve.protocol.wire cimport HangupWatch

# The queues of `timers`.
cdef enum Deadline:
    HEADER_DEADLINE
    BODY_DEADLINE
    IDLE_DEADLINE
    WRITE_DEADLINE
    LINGER_DEADLINE


cdef class Service:
    cdef readonly object loop
    cdef Handler handler
    cdef Observer observer           # or None
    cdef readonly Limits limits
    cdef Timers timers
    cdef HangupWatch hangups
    cdef readonly bint half_close    # a FIN is not taken for a departure
    cdef readonly bint stopping
    cdef set _connections
    cdef list _waiters
    # counters
    cdef readonly uint64_t served    # exchanges ended
    cdef readonly int active         # exchanges in hand
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

    cdef const uint8_t *common_lines(self, size_t *length) noexcept
    cdef int enter(self, object connection) except -1
    cdef int leave(self, object connection) except -1
