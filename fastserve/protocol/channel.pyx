"""Channel: all that an Exchange may ask of its connection; abstract.

Room:    floor 1, below Exchange, so that nothing under Connection needs Connection.
Called:  by Exchange. Implemented by Connection, and by fakes in tests.
"""


cdef class Tunnel(Expiring):
    cdef Py_ssize_t received(self, const uint8_t *data, size_t length) except -1:
        raise NotImplementedError

    cdef bint full(self) except -1:
        return False

    cdef int ended(self) except -1:
        raise NotImplementedError

    cdef int lost(self) except -1:
        raise NotImplementedError

    cdef int retire(self) except -1:
        raise NotImplementedError


cdef class Channel(Stream):
    cdef fs_out *out(self, size_t room) except NULL:
        raise NotImplementedError

    cdef int put(self, object data) except -1:
        raise NotImplementedError

    cdef int flush(self) except -1:
        raise NotImplementedError

    cdef const uint8_t *common_lines(self, size_t *length) noexcept:
        length[0] = 0
        return NULL

    cdef bint takes_files(self) except -1:
        return False

    cdef const uint8_t *simple_head(self, unsigned status, bytes content_type, size_t *length) noexcept:
        return NULL

    cdef bint closing(self) except -1:
        return False

    cdef bint writable(self) except -1:
        return True

    cdef object drained(self):
        raise NotImplementedError

    cdef int read_on(self) except -1:
        raise NotImplementedError

    cdef int upgraded(self) except -1:
        raise NotImplementedError

    cdef int tunnel_on(self) except -1:
        raise NotImplementedError

    cdef int exchange_ended(self) except -1:
        raise NotImplementedError

    cdef int cut(self) except -1:
        raise NotImplementedError

    cdef object info(self, str name):
        return None

    cdef object host(self):
        raise NotImplementedError
