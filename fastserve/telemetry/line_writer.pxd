# LineWriter: bytes of whole lines to a descriptor, by a thread without Python.
#
# Called by: AccessLog. Calls: the C library.
from libc.stdint cimport uint8_t, uint64_t

cdef extern from *:
    """
    typedef struct fs_line_writer fs_line_writer;
    """
    ctypedef struct fs_line_writer:
        pass


cdef class LineWriter:
    cdef fs_line_writer *_writer
    cdef object _destination
    cdef readonly object name     # of what is written to, for messages

    # Take `len` bytes, `lines` whole lines. Never waits for the disk; what does not fit any more is counted as dropped.
    cdef int give(self, const uint8_t *data, size_t len, uint64_t lines) except -1
    cdef int swap(self, uint8_t **data, size_t *cap, size_t len, uint64_t lines) except -1
