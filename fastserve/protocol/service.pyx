"""Service: everything that the connections of one event loop share.

Room:    floor 1. Limits, the two doors, timers, scratch memory, the cached Date, the set of open connections.
Called:  by Connection and Exchange on the hot path; by process/server.py, which starts and stops it.
Rules:   RFC 9110 section 6.6.1 (Date).
"""

from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy

from fastserve.protocol.core cimport FS_DATE_LEN, fs_date_format

cdef extern from *:
    """
    #include <time.h>
    #ifdef CLOCK_REALTIME_COARSE
    #define FS_WALL CLOCK_REALTIME_COARSE
    #else
    #define FS_WALL CLOCK_REALTIME
    #endif
    static inline int64_t fs_wall_seconds(void) {
      struct timespec now;
      clock_gettime(FS_WALL, &now);
      return (int64_t)now.tv_sec;
    }
    """
    int64_t fs_wall_seconds() nogil


cdef class Service:
    """What serves on one event loop.

    loop: the event loop. handler: a Handler (interfaces.make_handler). limits: Limits. observer: an Observer or None.
    server_header: send "server: fastserve". half_close: a peer that shuts down its sending side is still there (by default
    its FIN means that it is gone, as in hyper and nginx).
    """

    def __cinit__(self, loop, Handler handler not None, Limits limits=None, Observer observer=None, *,
                  bint server_header=True, bint half_close=False):
        self.loop = loop
        self.handler = handler
        self.limits = Limits() if limits is None else limits
        self.observer = observer
        self.half_close = half_close
        self.timers = Timers(loop)
        self.timers.add_queue(self.limits.header_timeout)
        self.timers.add_queue(self.limits.body_timeout)
        self.timers.add_queue(self.limits.keep_alive_timeout)
        self.timers.add_queue(self.limits.write_timeout)
        self.timers.add_queue(self.limits.linger_timeout)
        self.hangups = HangupWatch(loop)
        self._connections = set()
        self._waiters = []
        self._server_line = b"server: fastserve\r\n" if server_header else b""
        self._second = -1
        self.fields = <fs_field *>calloc(self.limits.core.fields_max + 1, sizeof(fs_field))
        self.trailer_fields = <fs_field *>calloc(self.limits.core.fields_max + 1, sizeof(fs_field))
        self.out.cap = 65536
        self.out.data = <uint8_t *>malloc(self.out.cap)
        if self.fields == NULL or self.trailer_fields == NULL or self.out.data == NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self.fields)
        free(self.trailer_fields)
        free(self.out.data)
        free(self.scratch.data)

    cdef const uint8_t *common_lines(self, size_t *length) noexcept:
        cdef int64_t second = fs_wall_seconds()
        if second != self._second:
            self._second = second
            memcpy(self._common, <const char *>b"date: ", 6)
            fs_date_format(second, self._common + 6)
            memcpy(self._common + 6 + FS_DATE_LEN, <const char *>b"\r\n", 2)
            self._date_line_len = 8 + FS_DATE_LEN
            memcpy(self._common + self._date_line_len, <const char *>self._server_line, len(self._server_line))
            self._common_len = self._date_line_len + len(self._server_line)
        length[0] = self._common_len
        return self._common

    def connect(self):
        """A new Connection: the protocol factory for loop.create_server() and its siblings."""
        from fastserve.protocol.connection import Connection

        return Connection(self)

    @property
    def connections(self) -> int:
        """Open connections."""
        return len(self._connections)

    def snapshot(self) -> list:
        """The open connections, as objects whose repr() tells their state."""
        return list(self._connections)

    cdef int enter(self, object connection) except -1:
        self._connections.add(connection)
        return 0

    cdef int leave(self, object connection) except -1:
        self._connections.discard(connection)
        if not self._connections:
            for waiter in self._waiters:
                if not waiter.done():
                    waiter.set_result(None)
            self._waiters.clear()
        return 0

    def shutdown(self):
        """Stop gracefully: idle connections close, exchanges in hand finish with "connection: close"."""
        self.stopping = True
        for connection in list(self._connections):
            connection.retire()

    async def wait_closed(self):
        """Until the last connection is gone."""
        if self._connections:
            waiter = self.loop.create_future()
            self._waiters.append(waiter)
            await waiter

    def abort(self):
        """Cut every connection, whatever it is doing."""
        self.stopping = True
        for connection in list(self._connections):
            connection.abort()

    def close(self):
        """Give back timers, watches, the handler's threads and the observer's buffer. No connection may be open."""
        self.timers.close()
        self.hangups.close()
        self.handler.close()
        if self.observer is not None:
            self.observer.close()
