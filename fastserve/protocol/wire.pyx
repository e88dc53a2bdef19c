"""Wire: the door through which a Connection speaks to its socket, and the watch for peers that leave unread.

Room:    floor 1. Nothing here knows HTTP.
Called:  by Connection and its exchanges. Calls asyncio or uvloop transports, epoll. Stream is what a wire calls.
"""

import fcntl
import select
import socket
import struct
import termios

from cpython.bytes cimport PyBytes_FromStringAndSize

cdef extern from *:
    """
    #include <sys/ioctl.h>
    #ifdef __linux__
    #include <linux/sockios.h>
    #endif
    #ifndef FS_UNACKED
    #define FS_UNACKED
    static inline size_t fs_unacked(int fd) { /* of a TCP or Unix socket; 0 where nobody says */
    #ifdef SIOCOUTQ
      int bytes = 0;
      if (fd >= 0 && ioctl(fd, SIOCOUTQ, &bytes) == 0 && bytes > 0) return (size_t)bytes;
    #endif
      (void)fd;
      return 0;
    }
    #endif
    """
    size_t fs_unacked(int fd)

cdef extern from "unistd.h":
    int c_close "close"(int fd)


cdef enum:
    BYTES_ACKED = 120   # where struct tcp_info of Linux has tcpi_bytes_acked


cdef class Polled:
    cdef int ready(self, uint32_t events) except -1:
        return 0


cdef class Stream(Expiring):
    cdef int begin(self, Wire wire) except -1:
        raise NotImplementedError

    cdef int wire_received(self, const uint8_t *data, size_t length, object owner) except -1:
        raise NotImplementedError

    cdef size_t wire_wants(self):
        return 0

    cdef uint8_t *wire_place(self, size_t *room) except? NULL:
        return NULL

    cdef bint wire_ended(self) except -1:
        return False

    cdef int wire_left(self) except -1:
        return 0

    cdef int wire_behind(self) except -1:
        return 0

    cdef int wire_caught_up(self) except -1:
        return 0

    cdef int wire_full(self) except -1:
        return 0

    cdef int wire_drained(self) except -1:
        return 0

    cdef int wire_lost(self, object error) except -1:
        return 0


cdef class OpenFile:
    """A descriptor that is closed with the last who holds it."""

    def __cinit__(self):
        self.fd = -1

    @staticmethod
    cdef OpenFile over(int fd):
        cdef OpenFile file = OpenFile.__new__(OpenFile)
        file.fd = fd
        return file

    def __dealloc__(self):
        if self.fd >= 0:
            c_close(self.fd)


cdef class FilePiece:
    """`count` bytes of `file` from `offset`."""

    def __cinit__(self, OpenFile file not None, int64_t offset, int64_t count):
        self.file = file
        self.offset = offset
        self.count = count

    def __len__(self):
        return self.count


cdef class Wire(Polled):
    cdef int write(self, object data) except -1:
        raise NotImplementedError

    cdef int write_raw(self, const uint8_t *data, size_t length) except -1:
        return self.write(PyBytes_FromStringAndSize(<const char *>data, length))

    cdef int write_many(self, list pieces) except -1:
        raise NotImplementedError

    cdef bint takes_files(self) except -1:
        return False

    cdef int pause_reading(self) except -1:
        raise NotImplementedError

    cdef int resume_reading(self) except -1:
        raise NotImplementedError

    cdef bint shutdown_write(self) except -1:
        return False

    cdef int close(self) except -1:
        raise NotImplementedError

    cdef int abort(self) except -1:
        raise NotImplementedError

    cdef int reset(self) except -1:
        return self.abort()

    cdef bint is_closing(self) except -1:
        return False

    cdef bint has_input(self) noexcept:
        return False

    cdef size_t unsent(self) except? 0:
        return 0

    cdef size_t in_flight(self, size_t *taken) except? 0:
        taken[0] = 0
        return 0

    cdef size_t unacked(self):
        return 0

    cdef bint holds(self, uint64_t handed) except -1:
        return False

    cdef object info(self, str name):
        return None

    cdef int fileno(self) except -2:
        return -1


cdef class TransportWire(Wire):
    @staticmethod
    cdef TransportWire over(object transport):
        cdef TransportWire wire = TransportWire.__new__(TransportWire)
        wire.transport = transport
        wire._write = transport.write
        # asyncio's own writelines() forgets flow control on 3.12 and 3.13 (it never calls pause_writing); joined, the
        # pieces go through write(), which does not.
        wire._joins = not type(transport).__module__.startswith("uvloop")
        return wire

    cdef int write(self, object data) except -1:
        self._write(data)
        return 0

    cdef int write_many(self, list pieces) except -1:
        if self._joins:
            self._write(b"".join(pieces))
        else:
            self.transport.writelines(pieces)
        return 0

    cdef int pause_reading(self) except -1:
        self.transport.pause_reading()
        return 0

    cdef int resume_reading(self) except -1:
        self.transport.resume_reading()
        return 0

    cdef bint shutdown_write(self) except -1:
        if not self.transport.can_write_eof():
            return False
        try:
            self.transport.write_eof()
        except OSError:  # reset meanwhile
            return False
        return True

    cdef int close(self) except -1:
        self.transport.close()
        return 0

    cdef int abort(self) except -1:
        self.transport.abort()
        return 0

    cdef int reset(self) except -1:
        sock = self.transport.get_extra_info("socket")
        if sock is not None:
            try:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            except OSError:
                pass
        return self.abort()

    cdef bint is_closing(self) except -1:
        return self.transport.is_closing()

    cdef size_t unsent(self) except? 0:
        try:
            return self.transport.get_write_buffer_size()
        except AttributeError:  # asyncio's TLS transport, once closed
            return 0

    cdef size_t in_flight(self, size_t *taken) except? 0:
        # A TLS transport has another one below it, whose buffer nobody shows; but while that holds anything, so does the kernel.
        cdef size_t left = 1
        taken[0] = 0
        sock = self.transport.get_extra_info("socket")
        try:
            left = struct.unpack("i", fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4)))[0]   # Linux: SIOCOUTQ
            if sock.family != socket.AF_UNIX:
                taken[0] = struct.unpack_from("Q", sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 128), BYTES_ACKED)[0]
            else:
                taken[0] = left   # it changes, which is what counts
        except (AttributeError, OSError, TypeError, struct.error):   # closed already, or another system: nothing can be told
            pass
        return left

    cdef size_t unacked(self):
        return fs_unacked(self.fileno())

    cdef bint holds(self, uint64_t handed) except -1:
        # What the kernel has ever got are records, which are longer than what is in them, and the handshake; the last part of a
        # hundred of an answer may escape us. Of a Unix socket it counts nothing, but says whether it would take more.
        sock = self.transport.get_extra_info("socket")
        try:
            if sock.family == socket.AF_UNIX:
                watch = select.poll()
                watch.register(sock.fileno(), select.POLLOUT)
                return not watch.poll(0)
            info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, BYTES_ACKED + 8)
            return struct.unpack_from("Q", info, BYTES_ACKED)[0] + fs_unacked(sock.fileno()) < handed
        except (AttributeError, OSError, TypeError, ValueError, struct.error):   # closed already, or another system
            return False

    cdef object info(self, str name):
        return self.transport.get_extra_info(name)

    cdef int fileno(self) except -2:
        sock = self.transport.get_extra_info("socket")
        return -1 if sock is None else sock.fileno()


cdef class HangupWatch:
    """loop: an asyncio event loop with add_reader()."""

    def __cinit__(self, loop):
        self._loop = loop
        self._watched = {}

    cdef int watch(self, int fd, object connection) except -1:
        if fd < 0 or not hasattr(select, "epoll"):
            return 0
        if self._epoll is None:
            self._epoll = select.epoll()
            self._loop.add_reader(self._epoll.fileno(), self._ready)
        # Once is enough: a hang-up does not go away, and level-triggered it would be told for ever.
        mask = select.EPOLLRDHUP | select.EPOLLONESHOT
        try:
            self._epoll.register(fd, mask)
        except FileExistsError:
            self._epoll.modify(fd, mask)
        except OSError:  # a descriptor that cannot be polled
            return 0
        self._watched[fd] = connection
        return 0

    cdef int unwatch(self, int fd, object connection) except -1:
        # The descriptor may be closed by now, and its number used again by a connection that is watched itself.
        if self._watched.get(fd) is connection:
            del self._watched[fd]
            try:
                self._epoll.unregister(fd)
            except (OSError, ValueError):
                pass
        return 0

    def _ready(self):
        for fd, _ in self._epoll.poll(0):
            connection = self._watched.pop(fd, None)
            try:
                self._epoll.unregister(fd)
            except (OSError, ValueError):
                pass
            if connection is not None:
                connection.hangup()

    def close(self):
        if self._epoll is not None:
            self._loop.remove_reader(self._epoll.fileno())
            self._epoll.close()
            self._epoll = None
        self._watched.clear()
