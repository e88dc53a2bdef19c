# Wire: the one small door through which a Connection speaks to its socket. The HTTP code never knows which kind it is.
#
# Siblings: TransportWire (asyncio and uvloop transports: TCP, Unix, TLS).
cdef class Wire:
    cdef int write(self, object data) except -1            # bytes
    cdef int write_many(self, list pieces) except -1       # list of bytes-like, in order, one writev
    cdef int pause_reading(self) except -1
    cdef int resume_reading(self) except -1
    cdef bint shutdown_write(self) except -1               # FIN after what is buffered; False if this wire cannot (TLS)
    cdef int close(self) except -1                         # after what is buffered
    cdef int abort(self) except -1                         # drop what is buffered
    cdef int reset(self) except -1                         # so that the peer cannot take what it has for whole: RST
    cdef bint is_closing(self)
    cdef size_t unsent(self) except? 0                     # bytes handed over and not yet taken by the kernel
    cdef object info(self, str name)                       # get_extra_info
    cdef int fileno(self) except -2                        # -1 if there is none


cdef class TransportWire(Wire):
    cdef object transport
    cdef object _write
    cdef bint _joins

    @staticmethod
    cdef TransportWire over(object transport)


cdef class HangupWatch:
    # Notices peers that leave while their connection is not being read: an epoll set of its own, asked only for EPOLLRDHUP,
    # nested in the loop. Where there is no epoll, such peers are noticed when reading goes on.
    cdef object _loop, _epoll
    cdef dict _watched             # fd -> object with a `hangup()` method

    cdef int watch(self, int fd, object connection) except -1
    cdef int unwatch(self, int fd, object connection) except -1
