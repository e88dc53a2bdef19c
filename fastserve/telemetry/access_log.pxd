# AccessLog: one line per exchange, written in batches off the hot path.
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from fastserve.protocol.core cimport fs_log_facts, fs_log_piece, fs_log_room, fs_log_text
from fastserve.protocol.exchange cimport Exchange
from fastserve.protocol.hooks cimport Observer
from fastserve.telemetry.line_writer cimport LineWriter


cdef class AccessLog(Observer):
    cdef LineWriter _writer
    cdef object _stream           # instead of a writer: anything with write(str) and flush()
    cdef object _handle           # of the next flush
    cdef fs_log_piece *_pieces
    cdef uint32_t _count
    cdef fs_log_room _needs
    cdef fs_log_facts _facts      # of the exchange at hand
    cdef list _texts              # what `_pieces` point into
    cdef dict _lookups            # index of a piece to what Python has to look up for it
    cdef fs_log_text *_found
    cdef list _kept               # what `_found` points into
    cdef bytes _named             # what `_facts.peer` points into, if a proxy names it
    cdef bint _excludes
    cdef dict _excluded           # paths as bytes, exact
    cdef tuple _excluded_prefixes
    cdef uint8_t *_out
    cdef size_t _len
    cdef size_t _cap
    cdef uint64_t _lines
    cdef uint64_t _told           # dropped lines that were written about
    cdef uint64_t _dropped
    cdef bint _complained         # the log of errors knows that this one cannot be written
    cdef bint _timed              # the format has a time,
    cdef bint _named_requests     # or the id of the request,
    cdef bint _asks               # or anything else that the default format does without; or there is a stream, or an exception
    cdef int64_t _second          # of `_clock`, seconds since 1970
    cdef bytearray _clock         # the time of that second, as the format wants it
    cdef bytes _pid

    cdef int _soon(self) except -1
    cdef int _grow(self, size_t size) except -1
    cdef bint _ask(self, Exchange exchange, size_t *source) except -1
    cdef int _tell_time(self) except -1
    cdef int _tell_peer(self, Exchange exchange) except -1
    cdef size_t _look_up(self, Exchange exchange) except? 0
    cdef bint _is_excluded(self, const uint8_t *path, size_t length) except -1
    cdef int _hand_over(self) except -1
    cdef int _complain(self) except -1
