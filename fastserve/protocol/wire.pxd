# Wire: the one small door through which a Connection speaks to its socket. The HTTP code never knows which kind it is.
# Stream: the same door from the other side, what a wire tells.
#
# Siblings: TransportWire (asyncio and uvloop transports: TCP, Unix, TLS), SocketWire (driver.pyx: our own epoll set, Linux).
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from fastserve.protocol.timers cimport Expiring


cdef class Polled:
    # What an epoll set can point at.
    cdef int ready(self, uint32_t events) except -1


cdef class Wire(Polled)


cdef class Stream(Expiring):
    # What hears a wire of our own driver; a transport tells the same through asyncio's protocol methods.
    cdef int begin(self, Wire wire) except -1      # accepted
    cdef int wire_received(self, const uint8_t *data, size_t length, object owner) except -1   # owner: bytes of just this, or None
    cdef size_t wire_wants(self)                   # body bytes that are to come, and worth a bytes object of their own; or 0
    cdef uint8_t *wire_place(self, size_t *room) except? NULL   # where these may be received; NULL: into a new object
    cdef bint wire_ended(self) except -1  # FIN; True: keep our side open
    cdef int wire_left(self) except -1             # the peer is gone, seen while reading is paused
    cdef int wire_behind(self) except -1           # the peer has not taken all at once: some of it is held,
    cdef int wire_caught_up(self) except -1        # and now it is all with the kernel
    cdef int wire_full(self) except -1             # more is unsent than the peer takes
    cdef int wire_drained(self) except -1
    cdef int wire_lost(self, object error) except -1


cdef class OpenFile:
    # An open file, closed with the last who holds it, and what fstat() said of it when it was opened (files.pyx).
    cdef readonly int fd
    cdef readonly int64_t size
    cdef readonly int64_t mtime_ns
    cdef int64_t ctime_ns
    cdef uint64_t dev, ino
    cdef uint32_t mode

    @staticmethod
    cdef OpenFile over(int fd)     # takes the descriptor


cdef class FilePiece:
    # A range of an open file, to be sent by the kernel.
    cdef OpenFile file
    cdef int64_t offset
    cdef int64_t count             # bytes still to send


cdef class Wire(Polled):
    cdef int write(self, object data) except -1            # bytes
    cdef int write_raw(self, const uint8_t *data, size_t length) except -1   # borrowed until it returns
    cdef int write_many(self, list pieces) except -1       # list of bytes-like and FilePiece, in order, one writev
    cdef bint takes_files(self) except -1                  # may a FilePiece be among them?
    cdef int pause_reading(self) except -1
    cdef int resume_reading(self) except -1
    cdef bint shutdown_write(self) except -1  # FIN after what is buffered; False if this wire cannot (TLS)
    cdef int close(self) except -1                         # after what is buffered
    cdef int abort(self) except -1                         # drop what is buffered
    cdef int reset(self) except -1                         # so that the peer cannot take what it has for whole: RST
    cdef bint is_closing(self) except -1
    cdef bint has_input(self) noexcept                     # does something wait to be read? Of transports it is not known: no
    cdef size_t unsent(self) except? 0                     # bytes handed over and not yet taken by the kernel
    # Behind close(), of TLS: bytes that the peer's kernel has not acknowledged; `taken`: those it ever has, to see progress.
    cdef size_t in_flight(self, size_t *taken) except? 0
    cdef size_t unacked(self)                              # bytes that the kernel holds, for the peer has not confirmed them
    cdef bint holds(self, uint64_t handed) except -1  # has the kernel not got all of so many bytes? Of TLS; no: not known
    cdef object info(self, str name)                       # get_extra_info
    cdef int fileno(self) except -2                        # for HangupWatch; -1 if it is not needed


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
