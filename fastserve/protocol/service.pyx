"""Service: everything that the connections of one event loop share.

Room:    floor 1. Limits, the two doors, timers, scratch memory, the cached Date, the set of open connections.
Called:  by Connection and Exchange on the hot path; by process/server.py, which starts and stops it.
Rules:   RFC 9110 section 6.6.1 (Date).
"""

from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy

from fastserve.protocol.board cimport FLIGHTS_MAX, FLIGHT_TEXT, FOR_AGE, FOR_CONCURRENCY, IN_TUNNEL, Flight
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE

from fastserve.protocol.core cimport (
    FS_DATE_LEN, FS_E_NONE, FS_UNLIMITED, fs_date_format, fs_response_raw, fs_response_status_line,
)
from fastserve.protocol.lens cimport no_lens
from fastserve.protocol.timers cimport (
    SHED_IDLE, SHED_UNFINISHED, Expiring, precise_now, precise_wall_now, wall_now,
)
from fastserve.protocol.wire cimport Stream, Wire

import asyncio
import logging
import os
import socket
import sys

from fastserve.errors import ConfigError


logger = logging.getLogger("fastserve")

cdef extern from *:
    """
    #include <string.h>
    /* "METHOD target" of a request line: " HTTP/1.1" follows, so whole words may be read; there is room for them, too. */
    static inline void fs_copy_line(uint8_t *out, const uint8_t *line, size_t length) {
      const uint8_t *end = out + length;
      do {
        memcpy(out, line, 8);
        out += 8;
        line += 8;
        __asm__ volatile(""); /* a few words: the compiler would set up vectors that never pay */
      } while (out < end);
    }
    """
    void fs_copy_line(uint8_t *out, const uint8_t *line, size_t length) noexcept nogil

cdef object _Connection = None   # the class, imported when the first is made: it stands above this file
cdef double TELL_SECONDS = 10.0  # between two warnings of a kind
cdef bytes MAPPED = bytes(10) + b"\xff\xff"
cdef double FOR_EVER = 1e9  # seconds; 31 years

cdef enum:
    OLDEST = 64  # unfinished heads among which the largest is sought when memory is short
    LOOKS = 4    # at a peer that takes nothing, before it is given up: so it is given up at most a quarter too late


cdef double PARTING_SECONDS = 1.0   # in which a request that crosses the end of its idle connection is counted


cdef class Service(Host):
    """What serves on one event loop.

    loop: the event loop. handler: a Handler (interfaces.make_handler). limits: Limits. observer: an Observer or None.
    server_header: send "server: fastserve". date_header: send Date. fields: (name in lower case, value) pairs of bytes for
    every final response that does not set the name itself. half_close: a peer that shuts down its sending side is still there (by default
    its FIN means that it is gone, as in hyper and nginx). board, seat: the Board that siblings share and our seat on it;
    None: nobody beside us. trust: Trust, which peers are proxies of ours; None: nobody is. id_field: a field, in lower case, in
    which ASGI and WSGI applications find the id of each request. lens: who traces requests, or None.
    """

    def __cinit__(self, loop, Handler handler not None, Limits limits=None, Observer observer=None, *,
                  bint server_header=True, bint date_header=True, fields=(), bint half_close=False, Board board=None, int seat=0, Trust trust=None,
                  exempt=(), bytes id_field=None, Lens lens=None):
        cdef int index
        self.loop = loop
        self.handler = handler
        self.limits = Limits() if limits is None else limits
        self.observer = observer
        self.lens = lens
        self.lens_mode = lens.mode if lens is not None else no_lens()
        self.half_close = half_close
        self.trust = trust
        self.id_field = id_field
        self.core_limits = self.limits.core
        if handler.limits_bodies:
            self.core_limits.body_bytes_max = FS_UNLIMITED  # the handler is asked for each
        handler.shed_after_ns = <int64_t>(self.limits.shed_after * 1e9)
        handler.exempt = frozenset(exempt)
        self.guarded = self.limits.concurrency_max > 0 or self.limits.shed_after > 0
        self.exempt = handler.exempt
        self.overload_fields = [(b"content-type", b"text/plain; charset=utf-8"), (b"retry-after", b"1")]
        self._peers = {} if self.limits.peer_connections_max else None
        self._told_full_at = float("-inf")
        self.timers = Timers(loop)
        # Heads and idle connections stand in line even where there is no deadline, so that the oldest can be found.
        self.timers.add_queue(self.limits.header_timeout or FOR_EVER)
        self.timers.add_queue(self.limits.body_timeout)
        self.timers.add_queue(self.limits.keep_alive_timeout or FOR_EVER)
        self.timers.add_queue(self._looks_at_writers())
        self.timers.add_queue(self.limits.linger_timeout)
        self.timers.add_queue(self.limits.ping_interval)
        self.timers.add_queue(self.limits.ping_timeout)
        self.timers.add_queue(self.limits.close_timeout)
        self.timers.add_queue(PARTING_SECONDS)
        self.timers.add_queue(self.limits.request_timeout)
        self.hangups = HangupWatch(loop)
        self.board = board
        if board is None:
            # Figures only: without a board nobody watches, and the table of requests in flight is left out.
            self._own_seat = <Seat *>calloc(1, sizeof(Seat) - FLIGHTS_MAX * sizeof(Flight))
            if self._own_seat == NULL:
                raise MemoryError
        self.seat = board.at(seat) if board is not None else self._own_seat
        self.seat.running = -1
        self._seat_index = seat
        for index in range(FLIGHTS_MAX):
            self._free_flights[index] = FLIGHTS_MAX - 1 - index
        self._free_count = FLIGHTS_MAX if board is not None else 0
        self._kept_types = [None] * 8
        self._connections = set()
        self._waiters = []
        self._servers = []
        self._server_line = b"server: fastserve\r\n" if server_header else b""
        self.date_header = date_header
        self.default_fields = [(bytes(name), bytes(value)) for name, value in fields] or None
        self._second = -1
        self.fields = <fs_field *>calloc(self.limits.core.fields_max + 1, sizeof(fs_field))
        self.trailer_fields = <fs_field *>calloc(self.limits.core.fields_max + 1, sizeof(fs_field))
        self.out.cap = 65536
        self.out.data = <uint8_t *>malloc(self.out.cap)
        if self.fields == NULL or self.trailer_fields == NULL or self.out.data == NULL:
            raise MemoryError

    cdef double _looks_at_writers(self) except -1:
        # How often is a peer that is behind with its response looked at? A wire cannot be asked to tell of each byte.
        cdef Limits limits = self.limits
        cdef bint rated = limits.rate_min > 0 and limits.rate_grace > 0
        cdef double interval = 0.0
        for seconds in (limits.write_timeout, limits.rate_grace if rated else 0.0):
            if seconds > 0 and (interval == 0.0 or seconds / LOOKS < interval):
                interval = seconds / LOOKS
        if interval > 0:
            self.still_max = <uint32_t>(limits.write_timeout / interval + 0.5)
            if rated:
                self.rate_looks = <uint32_t>(limits.rate_grace / interval + 0.5)
                self.rate_bytes = <uint64_t>(limits.rate_min * limits.rate_grace)
        if rated:
            self.rate_grace_ns = <int64_t>(limits.rate_grace * 1e9)
        return interval

    def __dealloc__(self):
        free(self.fields)
        free(self.trailer_fields)
        free(self.out.data)
        free(self.scratch.data)
        free(self._own_seat)

    @property
    def served(self):
        """Exchanges ended."""
        return self.seat.served

    @property
    def active(self):
        """Exchanges in hand."""
        return self.seat.active

    cdef const uint8_t *common_lines(self, size_t *length) noexcept:
        cdef int64_t second = wall_now() // 1000000000
        if second != self._second:
            self._second = second
            self._date_line_len = 0
            if self.date_header:
                memcpy(self._common, <const char *>b"date: ", 6)
                fs_date_format(second, self._common + 6)
                memcpy(self._common + 6 + FS_DATE_LEN, <const char *>b"\r\n", 2)
                self._date_line_len = 8 + FS_DATE_LEN
            memcpy(self._common + self._date_line_len, <const char *>self._server_line, len(self._server_line))
            self._common_len = self._date_line_len + len(self._server_line)
        length[0] = self._common_len
        return self._common

    cdef const uint8_t *simple_head(self, unsigned status, bytes content_type, size_t *length) noexcept:
        # The commonest heads are made once a second. `content_type` objects are few and live long: constants of the wings.
        cdef unsigned place = (<size_t><void *>content_type >> 5 ^ status) & 7
        cdef SimpleHead *entry = &self._simple[place]
        cdef const uint8_t *common
        cdef size_t common_length = 0
        cdef fs_out out
        common = self.common_lines(&common_length)
        if entry.content_type != <void *>content_type or entry.status != status or entry.second != self._second:
            if PyBytes_GET_SIZE(content_type) + common_length + 128 > sizeof(entry.text):
                return NULL
            out.data = entry.text
            out.len = 0
            out.cap = sizeof(entry.text)
            if fs_response_status_line(&out, status, NULL, 0) != FS_E_NONE:
                return NULL
            fs_response_raw(&out, <const char *>b"content-type: ", 14)
            fs_response_raw(&out, PyBytes_AS_STRING(content_type), PyBytes_GET_SIZE(content_type))
            fs_response_raw(&out, <const char *>b"\r\n", 2)
            fs_response_raw(&out, common, common_length)
            fs_response_raw(&out, <const char *>b"content-length: ", 16)
            self._kept_types[place] = content_type
            entry.content_type = <void *>content_type
            entry.status = status
            entry.second = self._second
            entry.length = out.len
        length[0] = entry.length
        return entry.text

    def connect(self):
        """A new Connection: the protocol factory for loop.create_server() and its siblings."""
        global _Connection
        if _Connection is None:
            from fastserve.protocol.connection import Connection

            _Connection = Connection
        return _Connection(self)

    cdef Stream welcome(self, Wire wire):
        cdef Stream connection = <Stream?>self.connect()
        connection.begin(wire)
        return connection

    cdef object protocol(self):
        return self.connect()

    cdef bint introduced(self, object peername) except -1:
        return self.trust is not None and self.trust.proxy_protocol and self.trust.peer(peername)

    cdef object protocol_of(self, bytes header):
        connection = self.connect()
        return connection if connection.introduced(header) else None

    # ------------------------------------------------------------------------------------- station 1: accept

    async def listen(self, by_slot, int slot=0, object tls=None):
        """Accept connections. by_slot: for each worker slot its list of listening sockets; ours are those of `slot`. tls: see
        Driver; None: plain ones.

        FASTSERVE_WIRE=transport puts plain connections on the loop's transports too; that is for tests, and for trouble.
        """
        cdef bint own_wire = os.environ.get("FASTSERVE_WIRE", "") != "transport"
        try:
            self.driver = Driver(self.loop, self, self.board, self._seat_index, own_wire=own_wire, tls=tls)
        except (OSError, NotImplementedError):  # no epoll, or a loop without add_reader()
            if tls is not None and self.trust is not None and self.trust.proxy_protocol:
                raise ConfigError("proxy-protocol before TLS needs Linux, and a loop that has add_reader()") from None
            await self._listen_with_loop(by_slot[slot], tls)
            return
        self.driver.listen(by_slot, slot, stamps=self.limits.shed_after > 0 and own_wire)

    async def _listen_with_loop(self, sockets, tls):
        # The context is asked for once, but it chooses among the newest certificates at each handshake.
        more = {} if tls is None else {
            "ssl": tls.context, "ssl_handshake_timeout": tls.handshake_timeout, "ssl_shutdown_timeout": tls.shutdown_timeout,
        }
        for sock in sockets:
            if sock.family != socket.AF_UNIX:
                self._servers.append(await self.loop.create_server(self.connect, sock=sock, **more))
                continue
            # From 3.13 a loop removes the path when its server closes: ours is shared, and somebody else's to remove.
            keep = {"cleanup_socket": False} if sys.version_info >= (3, 13) else {}
            try:
                server = await self.loop.create_unix_server(self.connect, sock=sock, **keep, **more)
            except TypeError:  # a loop that never removes it, and knows no such word
                server = await self.loop.create_unix_server(self.connect, sock=sock, **more)
            self._servers.append(server)

    def unlisten(self):
        """Stop accepting. What waits at shared listeners is the siblings' to take."""
        if self.driver is not None:
            self.driver.unlisten()
        servers, self._servers = self._servers, []
        for server in servers:
            server.close()

    @property
    def connections(self) -> int:
        """Open connections."""
        return len(self._connections)

    def snapshot(self) -> list:
        """The open connections, as objects whose repr() tells their state."""
        return list(self._connections)

    cdef bint enter(self, object connection, Wire wire) except -1:
        self._connections.add(connection)
        self.seat.connections += 1
        if self.parting or self.retiring:
            connection.farewell()
        if self._peers is not None:  # by the wire's own peer, at both ends: a proxy may name another one in between
            key = _peer_key(wire.info("peername"))
            if key is not None:
                self._peers[key] = self._peers.get(key, 0) + 1
                return self._peers[key] <= self.limits.peer_connections_max
        return True

    cdef int leave(self, object connection, Wire wire) except -1:
        if connection in self._connections:
            self._connections.discard(connection)
            self.seat.connections -= 1
            if self._leaving:
                self._leaving -= 1
            if self._peers is not None:
                key = _peer_key(wire.info("peername"))
                if self._peers.get(key, 0) > 1:
                    self._peers[key] -= 1
                else:
                    self._peers.pop(key, None)
            if self.driver is not None and self.driver.held:
                self.driver.room_made()
        if not self._connections:
            for waiter in self._waiters:
                if not waiter.done():
                    waiter.set_result(None)
            self._waiters.clear()
        return 0

    # ------------------------------------------------------------------- more than this worker takes

    cdef bint full(self) except -1:
        # One in its handshake is a connection too: whoever opens a thousand of them and says nothing is not outside the limit.
        return self.limits.connections_max > 0 \
            and <size_t>len(self._connections) - self._leaving + <size_t>len(self.driver._tasks) >= self.limits.connections_max

    cdef bint room(self) except -1:
        # For one more connection? Idle ones give way, the oldest first.
        cdef Expiring idle
        cdef int tries = 0
        while self.full():
            idle = self.timers.first(IDLE_DEADLINE)
            tries += 1
            if idle is None or tries > OLDEST:
                now = self.loop.time()
                if now - self._told_full_at > TELL_SECONDS:
                    self._told_full_at = now
                    logger.warning("limit-connections: %d are open and none is idle; new ones wait", len(self._connections))
                return False
            self._leaving += idle.expired(SHED_IDLE)
        return True

    cdef int admit(self, const uint8_t *data, fs_request_head *head) noexcept:
        # Called with the request counted among those in flight.
        cdef Limits limits = self.limits
        cdef int reason = -1
        cdef uint32_t others = self.seat.in_state[IN_TUNNEL]   # WebSockets are no requests any more
        if limits.concurrency_max and self.seat.active > others and self.seat.active - others > limits.concurrency_max:
            reason = FOR_CONCURRENCY
        elif limits.shed_after > 0 and self._waited_ns() > self.handler.shed_after_ns:
            reason = FOR_AGE
        if reason >= 0:
            try:
                if self._is_exempt(data, head):
                    return -1
            except MemoryError:
                pass
            self.seat.shed[reason] += 1
        return reason

    cdef int64_t _waited_ns(self) noexcept:
        # How long will this request have waited when its handler begins? At least as long as it has been in the kernel, and
        # as the oldest of those that stand before it in the line for a thread has stood there.
        cdef int64_t in_kernel = 0
        cdef int64_t since
        if self.driver is not None and self.driver.came_ns:
            in_kernel = precise_wall_now() - self.driver.came_ns
        try:
            since = self.handler.waiting_since()
        except Exception:
            since = 0
        return max(in_kernel, precise_now() - since) if since else in_kernel

    cdef bint _is_exempt(self, const uint8_t *data, fs_request_head *head) except -1:
        cdef bytes path
        if not self.exempt:
            return False
        path = PyBytes_FromStringAndSize(<const char *>data + head.target.off, head.target.len)
        return path.partition(b"?")[0] in self.exempt

    cdef int relieve(self, object but) except -1:
        # More bytes are held than there may be. Bodies and pipelined requests wait in the kernel from now on; heads that are
        # not whole make room: of the oldest the largest.
        cdef Expiring found
        cdef int times
        for times in range(8):
            if self.seat.held <= self.limits.buffers_max:
                return 0
            found = self.timers.heaviest(HEADER_DEADLINE, OLDEST, but)
            if found is None:
                return 0
            found.expired(SHED_UNFINISHED)
        return 0

    # --------------------------------------------------------------------- requests in flight, for whoever watches

    cdef int take_off(self, const uint8_t *data, fs_request_head *head, int64_t now) noexcept:
        cdef int free = self._free_count - 1
        cdef int index
        cdef Flight *flight
        cdef size_t length = head.target.off + head.target.len - head.method.off   # "GET /path", as it came
        if free < 0:
            return -1
        self._free_count = free
        index = self._free_flights[free]
        flight = &self.seat.flights[index]
        if length > FLIGHT_TEXT:
            length = FLIGHT_TEXT
        fs_copy_line(flight.text, data + head.method.off, length)
        flight.length = length
        flight.request = 0  # nobody traces it, or the lens will say so
        flight.since_ns = now
        return index

    cdef void land(self, int flight) noexcept:
        cdef int free = self._free_count
        if flight >= 0:
            self.seat.flights[flight].since_ns = 0
            self._free_flights[free] = flight
            self._free_count = free + 1

    # ------------------------------------------------------------------------------------------------ the end

    def retire(self, double idle_seconds):
        """Hand over to a successor: accept no more, say "connection: close" with each answer. An idle connection stays until it
        has carried one more request, or was silent for `idle_seconds`: a close could cross a request on its way (RFC 9112
        section 9.5)."""
        if self.retiring or self.stopping:
            return
        self.unlisten()
        self.retiring = True
        self.timers.add_queue(idle_seconds)
        for connection in list(self._connections):
            connection.retire(False)

    def farewell(self):
        """Serve on, accept on, but say "connection: close" with each answer."""
        self.parting = True
        for connection in list(self._connections):
            connection.farewell()

    def tell_streams(self):
        """The server is going: handlers of streams are told as if their client had left (http.disconnect, cancellation)."""
        for connection in list(self._connections):
            connection.tell()

    def shutdown(self):
        """Stop gracefully: idle connections close, exchanges in hand finish with "connection: close"."""
        self.stopping = True
        for connection in list(self._connections):
            connection.retire(True)

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
        self.unlisten()
        if self.driver is not None:
            self.driver.close()
            self.driver = None
        self.timers.close()
        self.hangups.close()
        self.handler.close()
        if self.observer is not None:
            self.observer.close()


cdef object _peer_key(object peername):
    # Whose connection is it, where each may have only so many? An IPv6 client has a /64. None: nobody's (a Unix socket).
    if not isinstance(peername, tuple):
        return None
    host = peername[0]
    if ":" not in host:
        return host
    try:
        packed = socket.inet_pton(socket.AF_INET6, host.partition("%")[0])
    except OSError:
        return host
    return packed if packed.startswith(MAPPED) else packed[:8]  # an IPv4 client of a socket for both has its whole address
