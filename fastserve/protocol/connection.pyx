"""Connection: one stream, from connection_made to connection_lost. It obeys the state machine in csrc/conn.c.

Room:    floor 1, stations 1 (accept) to 3 (parse), 7 (write) and 8 (end). The life of a connection is in `_consume`.
Called:  by the transport; by Exchange through Channel; by Service at shutdown. Calls the C core and the two doors.
Rules:   RFC 9112 sections 9.3 (persistence), 9.3.2 (pipelining), 9.6 (tear-down).

Borrowed memory: while `_consume` runs, `data` is the read itself or `_buffer`, and an Exchange may look at its head there
until Handler.handle() has returned; what must live longer is kept by Exchange.keep_head().
"""

import os

from cpython.object cimport PyObject_Length
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcpy, memmove

from fastserve.protocol.board cimport (
    BY_BODY, BY_HEAD, BY_IDLE, BY_RATE, BY_REQUEST, BY_SILENCE, BY_WRITE, FOR_BUFFERS, FOR_CONNECTIONS, FOR_PEER, IN_BODY, IN_CLOSE, IN_HANDLER, IN_HEAD, IN_IDLE,
    IN_NEW, IN_TUNNEL, IN_WRITE, LATENCY_BUCKETS, Seat,
)
from fastserve.protocol.core cimport (
    FS_BODY, FS_BODY_BYTES, FS_BODY_LENGTH, FS_CLOSED, FS_CLOSED_EVENT, FS_DONE_STATE, FS_END_OF_MESSAGE, FS_ERROR, FS_E_BODY_RATE, FS_E_BODY_TIMEOUT,
    FS_E_HEAD_TIMEOUT, FS_E_INCOMPLETE, FS_E_NONE, FS_E_NO_BUFFERS, FS_E_OVERLOADED, FS_E_PROXY_HEADER, FS_E_REQUEST_TIMEOUT,
    FS_FIELD_TE, FS_FIELD_TRACEPARENT, FS_FRAME_CLOSE, FS_HEAD, FS_NEED_DATA, FS_REQUEST_HEAD, FS_UPGRADED, fs_conn_body_pending,
    fs_conn_close, fs_conn_eof, fs_conn_fields_needed, fs_conn_head_begun, fs_conn_init, fs_conn_limit_body, fs_conn_next, fs_conn_receive,
    fs_conn_refuse, fs_conn_word, fs_error, fs_error_info, fs_out, fs_proxy, fs_proxy_parse, fs_request_head, fs_scan_choose, fs_side_state_name, fs_trailer_allowed,
)
from fastserve.protocol.forwarded cimport Forwarded, Trust, proxied_address
from fastserve.protocol.request cimport RequestBody
from fastserve.protocol.service cimport (
    BODY_DEADLINE, HEADER_DEADLINE, IDLE_DEADLINE, LINGER_DEADLINE, PARTING_DEADLINE, REQUEST_DEADLINE, RETIRE_DEADLINE,
    WRITE_DEADLINE,
)
from fastserve.protocol.channel cimport Tunnel
from fastserve.protocol.driver cimport Driver, SocketWire
from fastserve.protocol.exchange cimport END_AT, HANDLER_AT, HEAD_AT, Call
from fastserve.protocol.hooks cimport Observer
from fastserve.protocol.lens cimport (
    CAME_EARLIER, FIRST_REQUEST, FOR_WEBSOCKET, KERNEL_KNOWN, OVER_TLS, SAMPLING, TRACING, Arrival, Trace, fs_lens_mode,
)
from fastserve.protocol.limits cimport Limits
from fastserve.protocol.timers cimport SHED_IDLE, SHED_UNFINISHED, Timers, disarm, precise_now, precise_wall_now
from fastserve.protocol.websocket cimport asks_for_websocket
from fastserve.protocol.wire cimport TransportWire, Wire

from fastserve.errors import ClientDisconnected, RemoteProtocolError
from fastserve.protocol.board import LATENCY_BOUNDS as _LATENCY_BOUNDS

fs_scan_choose(os.environ.get("FASTSERVE_SIMD", "").encode())

cdef enum:
    FLUSH_MAX = 65536        # a batch of pipelined answers is handed over when it has grown to this
    OWN_BODY_MIN = 4096      # body bytes still to come that are worth being read into an object of their own
    WRITE_HIGH = 65536       # unsent bytes at which the transport asks us to pause
    TRACED_TEXT = 128        # bytes of "METHOD /path" that the lens is told
    TRACEPARENT_LEN = 55     # "00-" and 32 digits, "-" and 16, "-" and 2
    UNASKED = -2             # of how long a byte had lain in the kernel

cdef double LOOK_MIN = 0.004   # seconds between two looks below a TLS transport
cdef double LOOK_MAX = 0.25

cdef extern from *:
    """
    #include <stdint.h>
    #include <sys/socket.h>
    #include <netinet/in.h>
    #include <netinet/tcp.h>
    #include <time.h>
    static int64_t fs_last_data(int fd) { /* ns since bytes last came to this TCP socket, in milliseconds; -1: not known */
    #ifdef __linux__
      struct tcp_info info;
      socklen_t size = sizeof info;
      if (fd >= 0 && getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &size) == 0) return (int64_t)info.tcpi_last_data_recv * 1000000;
    #endif
      (void)fd;
      return -1;
    }
    static int64_t fs_jiffy(void) { /* ns: the grain of what the kernel says in milliseconds */
      struct timespec grain;
    #ifdef CLOCK_MONOTONIC_COARSE
      if (clock_getres(CLOCK_MONOTONIC_COARSE, &grain) == 0 && grain.tv_sec == 0 && grain.tv_nsec > 1000000) return grain.tv_nsec;
    #endif
      (void)grain;
      return 1000000;
    }
    """
    int64_t fs_last_data(int fd) noexcept
    int64_t fs_jiffy() noexcept

cdef int64_t JIFFY_NS = fs_jiffy()

cdef int64_t LATENCY_NS[LATENCY_BUCKETS - 1]
for _index, _bound in enumerate(_LATENCY_BOUNDS):
    LATENCY_NS[<int>_index] = int(_bound * 1e9)


cdef class Connection(Channel):
    """One TCP or Unix stream, plain or TLS. service: what it belongs to."""

    def __cinit__(self, Service service not None):
        self.service = service
        self.default_fields = service.default_fields
        self.id_field = service.id_field
        self._read_timer.queue = self._write_timer.queue = -1
        self._read_timer.owner = self._write_timer.owner = <void *>self
        self._pieces = []
        fs_conn_init(&self.conn, &service.core_limits)

    def __dealloc__(self):
        # Other objects may be cleared already: nothing but our own memory is touched here.
        disarm(&self._read_timer)
        disarm(&self._write_timer)
        if self._request_timer != NULL:
            disarm(self._request_timer)
            free(self._request_timer)
        free(self._buffer)
        self._drop_fields()

    @property
    def state(self) -> str:
        """In an operator's words: new, active, idle, upgraded or closed."""
        if self.wire is None or self._closing:
            return "closed"
        return (<bytes>fs_conn_word(&self.conn, self.served)).decode()

    def __repr__(self):
        words = [self.state]
        if self.wire is not None:
            words.append(f"peer={self.info('peername')!r}")
        words.append(f"reading={(<bytes>fs_side_state_name[self.conn.reading]).decode()}")
        words.append(f"writing={(<bytes>fs_side_state_name[self.conn.writing]).decode()}")
        if self.served:
            words.append(f"served={self.served}")
        if self._end != self._start:
            words.append(f"unread={self._end - self._start}")
        for flag, word in ((self._reading_paused, "reading_paused"), (self._writing_paused, "writing_paused"),
                           (self._eof, "eof"), (self._lingering, "lingering"), (self._retiring, "retiring"),
                           (not self.conn.keep_alive, "last")):
            if flag:
                words.append(word)
        return f"<Connection {' '.join(words)}>"

    # ------------------------------------------------------------------------------------- station 1: accept

    def connection_made(self, transport):
        self._tls = transport.get_extra_info("ssl_object") is not None
        transport.set_write_buffer_limits(WRITE_HIGH)
        self._begin_with(TransportWire.over(transport))

    def introduced(self, bytes header not None) -> bool:
        """Before it begins: a trusted proxy has said in front of TLS whose it is. False if `header` does not say it."""
        self.trust = self.service.trust
        self._proxy_taken = True
        return self._take_proxy(<const uint8_t *>PyBytes_AS_STRING(header), PyBytes_GET_SIZE(header)) \
            == PyBytes_GET_SIZE(header)

    cdef int begin(self, Wire wire) except -1:
        """Accepted, on a wire of our own driver."""
        return self._begin_with(wire)

    cdef int _begin_with(self, Wire wire) except -1:
        cdef Trust trust = self.service.trust
        self.wire = wire
        self._since = self._accepted_at = precise_now()
        self.service.seat.in_state[IN_NEW] += 1
        if trust is not None and not self._proxy_taken and trust.peer(wire.info("peername")):
            self.trust = trust
            self._proxy_due = trust.proxy_protocol
        if not self.service.enter(self, wire) and self.trust is None and not self._proxy_taken:
            self.service.seat.shed[FOR_PEER] += 1
            return self._close(False)
        if self.service.stopping:
            return self._close(False)
        return self.service.timers.arm(&self._read_timer, RETIRE_DEADLINE if self.service.retiring else HEADER_DEADLINE)

    def connection_lost(self, exc):
        self.wire_lost(exc)

    cdef int wire_lost(self, object error) except -1:
        cdef Exchange exchange = self.exchange
        cdef Tunnel tunnel = self.tunnel
        disarm(&self._read_timer)
        disarm(&self._write_timer)
        if self._request_timer != NULL:
            disarm(self._request_timer)
        if self._reading_paused and self.wire is not None:
            self.service.hangups.unwatch(self.wire.fileno(), self)
        if self.service.out_owner is self:
            self.service.out.len = 0
            self.service.out_owner = None
        self._pieces.clear()
        self._caught_up()   # or it never will
        self._below = None
        self._lost_wire = self.wire
        self.wire = None
        self._closing = True
        fs_conn_close(&self.conn)
        if tunnel is not None:
            tunnel.lost()
        if exchange is not None:
            exchange.lose(ClientDisconnected())
            self._forget(exchange)
        if self._drain_waiters is not None:   # an exception is dear, and nearly every connection ends without
            self._wake_drained(ClientDisconnected())
        self._start = self._end = 0
        self._free_buffer()
        self._enter(IN_CLOSE, precise_now())
        self.service.seat.in_state[IN_CLOSE] -= 1
        self.service.leave(self, self._lost_wire)
        return 0

    # --------------------------------------------------------------------------------------- station 2: read

    def data_received(self, data):
        cdef bytes owner = data if type(data) is bytes else bytes(data)
        self.wire_received(<const uint8_t *>PyBytes_AS_STRING(owner), PyBytes_GET_SIZE(owner), owner)

    cdef int wire_received(self, const uint8_t *data, size_t length, object owner) except -1:
        self.service.seat.bytes_in += length
        if self._lingering or self._closing:
            if self._parting and self._lingered == 0:
                self.service.seat.raced += 1  # RFC 9112 section 9.5: the client has to send it again
            self._lingered += length
            if self._lingered > self.service.limits.linger_bytes_max and self.wire is not None:
                self.wire.abort()
            return 0
        if fs_lens_mode(self.service.lens_mode) >= TRACING:
            return self._receive_stamped(data, length, owner)
        return self._receive(data, length, owner)

    cdef size_t wire_wants(self):
        # The rest of a body of known length, that somebody takes, is worth an object of its own.
        if self.conn.reading != FS_BODY or self._end != self._start or self.conn.body.framing != FS_BODY_LENGTH:
            return 0
        if self.conn.body.remaining < OWN_BODY_MIN or self.exchange is None or self.exchange.body is None:
            return 0
        return self.conn.body.remaining

    cdef uint8_t *wire_place(self, size_t *room) except? NULL:
        return self.exchange.body.place(self.conn.body.remaining, room)

    cdef int _receive(self, const uint8_t *data, size_t length, object owner) except -1:
        cdef Py_ssize_t used
        if self.conn.reading == FS_BODY:
            self._pace_bytes += length
        if self._end != self._start:
            self._store(data, length)
            return self._resume()
        used = self._consume(data, length, owner)
        if <size_t>used < length and self._reads():
            self._store(data + used, length - used)
        return self._settle()

    cdef int _receive_stamped(self, const uint8_t *data, size_t length, object owner) except -1:
        # For the lens: when did the first byte of a request come? How long it had lain in the kernel is asked for a request that
        # is traced, or that may be when the rest of it is here.
        if self.conn.reading != FS_BODY and (self._first_byte_at == 0 or (
                self._end == self._start and not fs_conn_head_begun(&self.conn))):
            self._first_byte_at = precise_now()
            self._in_kernel = UNASKED
        self._in_read = True
        try:
            return self._receive(data, length, owner)
        finally:
            self._in_read = False
            if self._end == self._start and not fs_conn_head_begun(&self.conn):
                self._first_byte_at = 0   # nothing of a request is left unread
            elif self._first_byte_at and self._in_kernel == UNASKED:
                self._in_kernel = self._kernel_wait(self._first_byte_at)

    cdef int64_t _kernel_wait(self, int64_t now) except -2:
        # How long had what is read now lain in the kernel? -1: nobody says.
        cdef Driver driver = (<Service>self.service).driver
        cdef int64_t stamped, asked, since = 0
        if driver is not None and driver.came_ns:
            stamped = precise_wall_now() - driver.came_ns
            return stamped if stamped >= 0 else 0
        if self.wire is None:
            return -1
        # What our own driver reads was there when this turn looked, and not when the one before it did, or it would have been read
        # then. With less than a jiffy between the two looks the kernel, which counts in jiffies, has nothing to add.
        if self.served and driver is not None and driver.turn_at and type(self.wire) is not TransportWire:
            since = now - driver.turn_at
            if driver.turn_before and driver.turn_at - driver.turn_before < JIFFY_NS:
                return since
        asked = fs_last_data(self._descriptor())
        return asked if asked < 0 else max(asked, since)

    cdef int _descriptor(self) except -2:
        # Of the socket; -1: it has none that can be asked.
        if type(self.wire) is SocketWire:
            return (<SocketWire>self.wire).fd
        sock = self.wire.info("socket")
        return -1 if sock is None else sock.fileno()

    cdef int _resume(self) except -1:
        # Go on with what is in the buffer.
        cdef Py_ssize_t used
        if self._consuming or not self._reads():
            return 0
        used = self._consume(self._buffer + self._start, self._end - self._start, None)
        if self._buffer != NULL:
            self._start += used
            if self._start >= self._end:
                self._start = self._end = 0
                self._first_byte_at = 0
                self._free_buffer()  # an idle connection owns no buffer
        return self._settle()

    cdef int _settle(self) except -1:
        # The input is used up as far as it goes now: what is next for this connection?
        cdef Tunnel tunnel = self.tunnel
        if not self._reads():
            return 0
        if tunnel is not None and self._eof and not tunnel.full():
            return tunnel.ended()
        if self._eof and self.exchange is None and not self._writing_paused:
            return self._close(False)
        if self._eof and self.exchange is not None and self.conn.reading == FS_BODY:
            self.exchange.gone(ClientDisconnected())  # the rest of this body will not come
            return 0
        self._keep_fields()
        self._update_reading()
        if self._pace_since and self.conn.reading == FS_BODY and self._too_slow():
            return self._refuse(FS_E_BODY_RATE, BY_RATE)
        return self._arm()

    cdef bint _reads(self) except -1:
        return self.wire is not None and not self._lingering and not self._closing

    cdef int _store(self, const uint8_t *data, size_t length) except -1:
        # Append to the buffer of unconsumed input; it grows by doubling, so n bytes one by one cost O(n).
        cdef size_t have = self._end - self._start
        cdef size_t capacity
        cdef uint8_t *grown
        if self._end + length > self._capacity:
            if have + length <= self._capacity and self._start > self._capacity // 2:
                memmove(self._buffer, self._buffer + self._start, have)
            else:
                capacity = max(1024, self._capacity)
                while capacity < have + length:
                    capacity *= 2
                grown = <uint8_t *>malloc(capacity)
                if grown == NULL:
                    raise MemoryError
                if have:
                    memcpy(grown, self._buffer + self._start, have)
                self._free_buffer()
                self._buffer = grown
                self._capacity = capacity
                self.service.seat.held += capacity
            self._start = 0
            self._end = have
        memcpy(self._buffer + self._end, data, length)
        self._end += length
        if self.service.limits.buffers_max and self.service.seat.held > self.service.limits.buffers_max:
            return self.service.relieve(self)
        return 0

    cdef void _free_buffer(self) noexcept:
        self.service.seat.held -= self._capacity
        free(self._buffer)
        self._buffer = NULL
        self._capacity = 0

    cdef size_t weight(self):
        return self._capacity if not self._consuming else 0

    cdef fs_field *_fields(self) except NULL:
        # The fields of a head, or of a trailer section: scratch of the service, or our own if one is half read.
        if self.conn.reading == FS_BODY:
            return self._own_trailers if self._own_trailers != NULL else self.service.trailer_fields
        return self._own_fields if self._own_fields != NULL else self.service.fields

    cdef int _keep_fields(self) except -1:
        # What is half read must survive the next connection's use of the scratch.
        cdef uint32_t count = fs_conn_fields_needed(&self.conn)
        cdef size_t size = (self.service.limits.core.fields_max + 1) * sizeof(fs_field)
        cdef fs_field *scratch = self._fields()
        cdef fs_field *own
        if count == 0 or scratch == self._own_fields or scratch == self._own_trailers:
            return 0
        own = <fs_field *>malloc(size)
        if own == NULL:
            raise MemoryError
        memcpy(own, scratch, count * sizeof(fs_field))
        if self.conn.reading == FS_BODY:
            self._own_trailers = own
        else:
            self._own_fields = own
        return 0

    cdef void _drop_fields(self) noexcept:
        free(self._own_fields)
        free(self._own_trailers)
        self._own_fields = self._own_trailers = NULL

    cdef int _update_reading(self) except -1:
        # Back-pressure towards the peer: stop reading while more is held than anybody takes.
        cdef Limits limits = self.service.limits
        cdef Exchange exchange = self.exchange
        cdef bint pause = False
        cdef bint short
        if exchange is not None or self._writing_paused:
            if exchange is not None and exchange.body is not None and exchange.body.buffered != self._body_held:
                self.service.seat.held += exchange.body.buffered - self._body_held
                self._body_held = exchange.body.buffered
            # Where all connections together hold too much, each holds as little as it can.
            short = limits.buffers_max and self.service.seat.held > limits.buffers_max
            # A trailer section that is half read waits here too, and is bounded by its own limit: it must be read on.
            pause = self.conn.reading != FS_BODY and self._end - self._start >= (1 if short else limits.pipeline_bytes_max)
            if self._body_held >= (1 if short else limits.body_buffer_max):
                pause = True
            if self.tunnel is not None:
                pause = self.tunnel.full()
        if pause == self._reading_paused or self.wire is None or self.wire.is_closing():
            return 0
        self._reading_paused = pause
        if pause:
            self.wire.pause_reading()
            self.service.hangups.watch(self.wire.fileno(), self)
        else:
            self.service.hangups.unwatch(self.wire.fileno(), self)
            self.wire.resume_reading()
        return 0

    # -------------------------------------------------------------------------------------- station 3: parse

    cdef Py_ssize_t _take_proxy(self, const uint8_t *data, size_t length) except -2:
        # What a trusted proxy says first (PROXY protocol): the bytes of it, 0 if there is more to come, -1 if it is none.
        cdef Trust trust = self.trust
        cdef fs_proxy found
        cdef Py_ssize_t used = fs_proxy_parse(data, length, &found)
        if used > 0:
            self._proxy_due = False
            if found.family != 0:
                self._proxied = (proxied_address(found.family, &found.source, found.source_port),
                                 proxied_address(found.family, &found.destination, found.destination_port))
                # Whose fields are believed is asked of the one who sent them.
                self.trust = trust if trust.peer(self._proxied[0]) else None
        return used

    cdef Py_ssize_t _consume(self, const uint8_t *data, size_t length, object owner) except -1:
        """One read, all its events: the life of a connection in order. Returns the bytes that were used."""
        cdef fs_event event
        cdef size_t pos = 0
        cdef fs_field *fields
        cdef Tunnel tunnel
        cdef Py_ssize_t used
        self._consuming = True
        self._ended_at = 0
        try:
            if self._proxy_due:
                used = self._take_proxy(data, length)
                if used == 0:
                    return 0
                if used < 0:
                    fs_conn_refuse(&self.conn, FS_E_PROXY_HEADER)
                    self._answer_fault()
                    return length
                pos = used
            while self._reads():
                if self.exchange is None and self._writing_paused and self.conn.reading == FS_HEAD:
                    break  # the peer does not take its answers: its next request waits
                fields = self._fields()
                fs_conn_receive(&self.conn, data + pos, length - pos, fields, &event)
                if event.type == FS_REQUEST_HEAD:
                    pos += self._begin(data + pos, length - pos, owner, fields)
                    if self.exchange is None and not self._next(pos < length):
                        break
                    continue
                if event.type == FS_BODY_BYTES:
                    self._body_bytes(data + pos + event.data_off, event.data_len, owner)
                elif event.type == FS_END_OF_MESSAGE:
                    self._end_of_message(data + pos, fields, event.trailers)
                    if self.exchange is None and not self._next(pos + event.consumed < length):
                        pos += event.consumed
                        break
                elif event.type == FS_ERROR:
                    self._answer_fault()
                    break
                elif event.type == FS_CLOSED_EVENT:
                    self._close(True)
                    break
                elif event.type == FS_UPGRADED:
                    tunnel = self.tunnel
                    if tunnel is not None:
                        pos += tunnel.received(data + pos, length - pos)
                        if self.exchange is None:
                            self._next(False)
                    break
                elif event.type != FS_NEED_DATA:  # FS_PAUSED
                    break
                pos += event.consumed
                if event.type == FS_NEED_DATA:
                    break
            self._feed()
        finally:
            self.service.scratch.len = 0  # whatever went wrong: no byte of this body for anybody else's
            self._consuming = False
            self.flush()
            if not self._tls:   # whose transport says later that it is full
                self._last_trace = None   # whoever takes no notice of it by now has all of its answer
        return pos

    cdef int _body_bytes(self, const uint8_t *data, size_t length, object owner) except -1:
        # A read that is nothing but body goes to the reader as it is; chunks are gathered, one object per read.
        cdef Exchange exchange = self.exchange
        if exchange is None or exchange.body is None:
            return 0  # nobody wants it: drained to save the connection
        if owner is not None and <size_t>PyBytes_GET_SIZE(owner) == length \
                and data == <const uint8_t *>PyBytes_AS_STRING(owner):
            exchange.body.feed(owner)
        elif exchange.body.is_place(data):
            exchange.body.placed(length)
        elif self.conn.body.framing == FS_BODY_LENGTH:
            exchange.body.feed_raw(data, length)
        else:
            return self._gather(data, length)
        if exchange.trace is not None:
            exchange.trace.body(length, False)
        return 0

    cdef int _gather(self, const uint8_t *data, size_t length) except -1:
        cdef fs_out *scratch = &self.service.scratch
        if scratch.cap - scratch.len < length:
            _grow(scratch, length)
        memcpy(scratch.data + scratch.len, data, length)
        scratch.len += length
        return 0

    cdef int _feed(self) except -1:
        cdef Exchange exchange = self.exchange
        cdef fs_out *scratch = &self.service.scratch
        if scratch.len != 0:
            if exchange is not None and exchange.body is not None:
                exchange.body.feed(PyBytes_FromStringAndSize(<const char *>scratch.data, scratch.len))
                if exchange.trace is not None:
                    exchange.trace.body(scratch.len, False)
            scratch.len = 0
            if scratch.cap > 1048576:
                free(scratch.data)
                scratch.data = NULL
                scratch.cap = 0
        return 0

    cdef int _end_of_message(self, const uint8_t *data, fs_field *fields, uint32_t count) except -1:
        # RFC 9110 6.5: trailers stay apart from the headers; those that could change the request's meaning are dropped.
        cdef Exchange exchange = self.exchange
        cdef uint32_t i
        cdef list trailers = []
        self._feed()
        if exchange is not None and exchange.body is not None:
            for i in range(count):
                if fs_trailer_allowed(fields[i].id):
                    trailers.append((
                        PyBytes_FromStringAndSize(<const char *>data + fields[i].name, fields[i].name_len).lower(),
                        PyBytes_FromStringAndSize(<const char *>data + fields[i].value, fields[i].value_len),
                    ))
            exchange.body.end(trailers)
            if exchange.trace is not None:
                exchange.trace.body(0, True)
        free(self._own_trailers)
        self._own_trailers = NULL
        return 0

    # ------------------------------------------------------------------- station 4: exchange, station 5: handle

    cdef Py_ssize_t _begin(self, const uint8_t *data, size_t length, object owner, fs_field *fields) except -1:
        """A head is complete at `data`. Make the exchange, give it what there is of its body, hand it to the handler."""
        cdef Service service = self.service
        cdef Exchange exchange = Exchange.__new__(Exchange)
        cdef fs_event event
        cdef fs_field *trailer_fields
        cdef size_t pos = self.conn.head.end
        # A pipelined request has waited here since the one before it was over; that saves a reading of the clock.
        cdef int64_t now = self._ended_at if self._ended_at else precise_now()
        exchange.channel = self
        exchange.data = data
        exchange.fields = fields
        exchange.seat = service.seat
        exchange.flight = service.take_off(data, &self.conn.head, now)
        exchange.moments[<int>HEAD_AT] = now
        # Offsets of the head count from `data`; only a read that begins there can be kept as it is.
        if owner is not None and data == <const uint8_t *>PyBytes_AS_STRING(owner):
            exchange.data_owner = owner
        self.exchange = exchange
        service.seat.active += 1
        self._enter(IN_HANDLER, now)
        if fs_lens_mode(service.lens_mode) >= TRACING and self._wanted(exchange, data):
            self._trace(exchange, data, now)
        if service.observer is not None:
            exchange.timed = service.observer.wants_moments
            exchange.fields_kept = service.observer.wants_fields
        if service.limits.request_timeout > 0:
            self._watch_request()
        if service.guarded and self._turned_away(exchange, data):
            return pos
        if fs_conn_body_pending(&self.conn):
            self._pace_bytes = 0
            self._pace_since = self._pace_spent = 0
            if service.handler.limits_bodies and fs_conn_limit_body(
                    &self.conn, service.handler.body_limit(exchange, service.limits.core.body_bytes_max)) != FS_E_NONE:
                self._answer_fault()
                return pos
            exchange.body = RequestBody.__new__(RequestBody)
            exchange.body.exchange = exchange
            exchange.continue_due = self.conn.head.expect_continue and pos == length
            trailer_fields = self._fields()
            # What came with the head is given first: a small body is complete before its handler begins.
            while self.conn.reading == FS_BODY:
                fs_conn_receive(&self.conn, data + pos, length - pos, trailer_fields, &event)
                if event.type == FS_BODY_BYTES:
                    self._body_bytes(data + pos + event.data_off, event.data_len, None)
                elif event.type == FS_END_OF_MESSAGE:
                    self._end_of_message(data + pos, trailer_fields, event.trailers)
                elif event.type == FS_ERROR:
                    self._answer_fault()
                    return pos + event.consumed
                pos += event.consumed
                if event.type != FS_BODY_BYTES:
                    break
            self._feed()
        service.seat.running = exchange.flight
        if exchange.timed:
            exchange.moments[<int>HANDLER_AT] = precise_now()
        try:
            service.handler.handle(exchange)
        finally:
            service.seat.running = -1
        if not exchange.ended:
            if service.observer is not None:
                exchange.keep_head()  # it is told of the request when it is over
            if self._eof and not service.half_close:
                exchange.gone(ClientDisconnected())
        exchange.drop_head()
        return pos

    cdef bint _wanted(self, Exchange exchange, const uint8_t *data) except -1:
        # Is it to be traced? Whoever we trust may have decided it for all who take part: in the last byte of a traceparent.
        cdef fs_field *parent
        if self.trust is not None and fs_lens_mode(self.service.lens_mode) == SAMPLING:
            parent = _parent_of(exchange)
            if parent != NULL:
                return _hex(data[parent.value + TRACEPARENT_LEN - 1]) & 1
        return self.service.lens.wants()

    cdef int _trace(self, Exchange exchange, const uint8_t *data, int64_t now) except -1:
        # The lens is on, and wants this one.
        cdef fs_request_head *head = &self.conn.head
        cdef Arrival arrival
        cdef Trace trace
        cdef fs_field *parent
        cdef uint8_t copy[TRACED_TEXT]   # "METHOD /path": what is asked for stays the client's and ours
        cdef const uint8_t *text = data + head.method.off
        cdef size_t method = head.method.len
        cdef size_t path = head.parts.path.len
        if method > TRACED_TEXT - 1:
            method = TRACED_TEXT - 1
        if path > TRACED_TEXT - 1 - method:
            path = TRACED_TEXT - 1 - method
        if head.target.off + head.parts.path.off != head.method.off + method + 1:   # absolute-form (RFC 9112 section 3.2.2)
            memcpy(copy, text, method)
            copy[method] = 32
            memcpy(copy + method + 1, data + head.target.off + head.parts.path.off, path)
            text = copy
        arrival.accepted = self._accepted_at
        arrival.first_byte = self._first_byte_at if self._first_byte_at else now
        arrival.head = now
        if self._first_byte_at and self._in_kernel == UNASKED:
            self._in_kernel = self._kernel_wait(self._first_byte_at)
        arrival.in_kernel = self._in_kernel if self._first_byte_at and self._in_kernel >= 0 else 0
        arrival.flags = 0 if self.served else FIRST_REQUEST
        if self._first_byte_at and self._in_kernel >= 0:
            arrival.flags |= KERNEL_KNOWN
        arrival.flags |= self.service.handler.arrival_flags
        if not self._in_read:
            arrival.flags |= CAME_EARLIER
        if self._tls:
            arrival.flags |= OVER_TLS
        if head.upgrade and asks_for_websocket(exchange):
            arrival.flags |= FOR_WEBSOCKET
        if self._number == 0:
            self.service.traced_connections += 1
            self._number = self.service.traced_connections
        arrival.connection = self._number
        trace = exchange.trace = self.service.lens.begin(text, method + 1 + path, &arrival)
        self._last_trace = None
        if trace is None:
            return 0
        if exchange.flight >= 0:
            trace.flight = &self.service.seat.flights[exchange.flight]
            trace.flight.request = trace.request
            trace.flight.state = 0
        if trace.tells:
            trace.tells = _is_here(exchange)
            trace.trails = trace.tells and _takes_trailers(exchange)
        parent = _parent_of(exchange)
        if parent != NULL:
            trace.parent(data + parent.value, TRACEPARENT_LEN)
        return 0

    cdef Trace _answered(self):
        # Whose answer is it that leaves? One that is complete has left the connection already.
        return self.exchange.trace if self.exchange is not None else self._last_trace

    cdef int _falls_behind(self) except -1:
        # For the lens: the peer does not take what it is sent.
        if self._behind_at == 0 and fs_lens_mode(self.service.lens_mode) >= TRACING:
            self._behind = self._answered()
            if self._behind is not None:
                self._behind_at = precise_now()
        return 0

    cdef int _caught_up(self) except -1:
        cdef int64_t now
        if self._behind_at:
            now = precise_now()
            self._behind.drained(self._behind_at, now)
            self._behind = None
            self._behind_at = 0
            if self._below is not None:
                self._below.since = now   # up to here it is told
        return 0

    cdef int _watch_below(self) except -1:
        # For the lens: a TLS transport takes an answer whole, hands it to another one below it, which nobody can ask, and calls
        # its buffer empty. So the kernel is asked.
        cdef Trace trace
        cdef Below below
        if self._below is not None or fs_lens_mode(self.service.lens_mode) < TRACING:
            return 0
        trace = self._answered()
        if trace is None:
            return 0
        below = Below.__new__(Below)
        below.connection = self
        below.trace = trace
        below.began = below.since = precise_now()
        self._below = below
        return _look_soon(below, below.began)

    cdef int _look_below(self, Below below) except -1:
        cdef int64_t now = precise_now()
        if self._below is not below or self.wire is None:
            return 0
        if self.wire.holds(self._handed):
            if self._behind_at == 0 and not self._writing_paused:
                self._behind = below.trace
                self._behind_at = below.since
            return _look_soon(below, now)
        if not self._writing_paused:
            self._caught_up()
        self._below = None
        return 0

    cdef bint _turned_away(self, Exchange exchange, const uint8_t *data) except -1:
        # More requests than this worker takes, or one that has waited too long: an answer that costs next to nothing.
        if self.service.admit(data, &self.conn.head) < 0:
            return False
        self.service.seat.refused += 1
        row = fs_error_info(FS_E_OVERLOADED)
        exchange.send(row.status, self.service.overload_fields, <bytes>row.text)
        exchange.drop_head()
        return True

    # ------------------------------------------------------------------------------- stations 6, 7: respond, write

    cdef fs_out *out(self, size_t room) except NULL:
        cdef Service service = self.service
        cdef fs_out *out = &service.out
        if service.out_owner is not self:
            if service.out_owner is not None:
                (<Connection>service.out_owner)._flush_now()
            service.out_owner = self
            out.len = 0
        if out.cap - out.len < room:
            _grow(out, room)
        return out

    cdef int put(self, object data) except -1:
        cdef fs_out *out = self.out(0)
        if out.len:
            self._pieces.append(PyBytes_FromStringAndSize(<const char *>out.data, out.len))
            out.len = 0
        self._pieces.append(data)
        return 0

    cdef int flush(self) except -1:
        # Inside a batch the answers of one read leave together, unless they grow large.
        if self._consuming and not self._pieces and \
                not (self.service.out_owner is self and self.service.out.len > FLUSH_MAX):
            return 0
        return self._flush_now()

    cdef int _flush_now(self) except -1:
        cdef Service service = self.service
        cdef size_t length = 0
        cdef list pieces
        if service.out_owner is self:
            length = service.out.len
            service.out.len = 0
            service.out_owner = None
        if self.wire is None:
            self._pieces.clear()
            return 0
        if self._pieces:
            pieces = self._pieces
            self._pieces = []
            if length != 0:
                pieces.append(PyBytes_FromStringAndSize(<const char *>service.out.data, length))
            length = 0
            for piece in pieces:
                length += PyObject_Length(piece)
            service.seat.bytes_out += length
            self._handed += length
            self.wire.write_many(pieces)
        elif length != 0:
            service.seat.bytes_out += length
            self._handed += length
            self.wire.write_raw(service.out.data, length)   # nothing below comes back to the buffer before that returns
        if self._tls and length > WRITE_HIGH:
            self._watch_below()
        return 0

    cdef const uint8_t *common_lines(self, size_t *length) noexcept:
        return self.service.common_lines(length)

    cdef bint takes_files(self) except -1:
        return self.wire is not None and self.wire.takes_files()

    cdef const uint8_t *simple_head(self, unsigned status, bytes content_type, size_t *length) noexcept:
        return self.service.simple_head(status, content_type, length)

    cdef bint closing(self) except -1:
        return self._retiring or self.service.stopping

    cdef bint writable(self) except -1:
        # A transport that met a fault is closing, and drops what it is given; connection_lost is still to come.
        return not self._writing_paused and self.wire is not None and not self.wire.is_closing()

    cdef object drained(self):
        future = self.service.loop.create_future()
        if self.wire is None:
            future.set_exception(ClientDisconnected())
        elif not self._writing_paused and not self.wire.is_closing():
            future.set_result(None)
        else:
            if self._drain_waiters is None:
                self._drain_waiters = []
            self._drain_waiters.append(future)
        return future

    cdef int _wake_drained(self, object error) except -1:
        cdef list waiters = self._drain_waiters
        self._drain_waiters = None
        if waiters is not None:
            for future in waiters:
                if not future.done():
                    if error is None:
                        future.set_result(None)
                    else:
                        future.set_exception(error)
        return 0

    def pause_writing(self):
        self.wire_full()

    def resume_writing(self):
        self.wire_drained()

    cdef int wire_behind(self) except -1:
        self._falls_behind()
        return self._watch_writing()

    cdef int wire_caught_up(self) except -1:
        return self._caught_up()

    cdef int wire_full(self) except -1:
        self._writing_paused = True
        self._falls_behind()
        if self._state == IN_HANDLER or self._state == IN_IDLE:
            self._enter(IN_WRITE, precise_now())
        return self._watch_writing()

    cdef int wire_drained(self) except -1:
        self._writing_paused = False
        if type(self.wire) is TransportWire:
            self._caught_up()   # it tells no more: what is left of its buffer is little
        if self._state == IN_WRITE:
            self._enter(IN_IDLE if self.exchange is None else IN_HANDLER, precise_now())
        self._wake_drained(None)
        if self.exchange is None:
            self._resume()
        elif not self._consuming:
            self._update_reading()
        return 0

    cdef object info(self, str name):
        if self._proxied is not None and (name == "peername" or name == "sockname"):
            return self._proxied[0 if name == "peername" else 1]
        wire = self.wire if self.wire is not None else self._lost_wire
        return None if wire is None else (<Wire>wire).info(name)

    cdef int upgraded(self) except -1:
        self._enter(IN_TUNNEL, precise_now())
        if self._request_timer != NULL:
            disarm(self._request_timer)
        # What came behind the request is the tunnel's; inside a batch `_consume` comes to it.
        return 0 if self._consuming else self._resume()

    cdef int tunnel_on(self) except -1:
        # In a turn of its own: whoever takes message after message must not keep the loop from everybody else.
        if not self._consuming and self._reads():
            self.service.loop.call_soon(self._go_on)
        return 0

    def _go_on(self):
        self._resume()

    cdef object host(self):
        return self.service

    cdef int read_on(self) except -1:
        if not self._consuming and self._reads():
            self._update_reading()
            self._arm()
        return 0

    # ------------------------------------------------------------------------------------------ station 8: end

    cdef int _observe(self, Exchange exchange) except -1:
        if self.service.observer is not None:
            _tell(self.service.observer, exchange)
        return 0

    cdef int _forget(self, Exchange exchange) except -1:
        # It is over: count it, tell the observer, and let go of each other.
        self.exchange = None
        self.tunnel = None
        if self._request_timer != NULL:
            disarm(self._request_timer)
        if self._body_held:
            self.service.seat.held -= self._body_held
            self._body_held = 0
        if self._state != IN_CLOSE:
            self._enter(IN_WRITE if self._writing_paused else IN_IDLE, exchange.moments[<int>END_AT])
        self._ended_at = exchange.moments[<int>END_AT]
        if exchange.trace is not None:
            self._last_trace = exchange.trace
            exchange.trace.flight = NULL   # it lands
            exchange.trace.over(exchange.status, exchange.body_sent, self._ended_at)
        elif self._tls:
            self._last_trace = None   # that of another, which nobody has taken yet
        _count(self.service.seat, exchange)
        self._observe(exchange)
        self.service.land(exchange.flight)
        exchange.flight = -1
        exchange.channel = None
        if exchange.body is not None:
            exchange.body.exchange = None
        return 0

    cdef int _release(self, Exchange exchange) except -1:
        # We ended it, cleanly or not; the connection is still there.
        self.served += 1
        self._forget(exchange)
        if exchange.body is not None and not exchange.body.ended:
            exchange.body.fail(ClientDisconnected("the response is complete; the rest of the request body was dropped"))
        return 0

    cdef int exchange_ended(self) except -1:
        self._release(self.exchange)
        if not self._consuming:
            self._next(self._end != self._start)
            self._flush_now()
            if not self._tls:
                self._last_trace = None
            self._resume()
        return 0

    cdef bint _next(self, bint more) except -1:
        """Both sides done? The next request, or the end. False: nothing more is read here. `more`: unread input waits."""
        if self._retiring:
            self.conn.keep_alive = False
        if fs_conn_next(&self.conn):
            self._drop_fields()
            return True
        if self.conn.reading == FS_BODY and self.conn.writing == FS_DONE_STATE and self.conn.keep_alive and not self._eof:
            return True  # read on and drop: the connection is worth a little of an unwanted body
        self._close(more or self.conn.reading != FS_CLOSED or self.conn.error != 0)
        return False

    cdef int _answer_fault(self) except -1:
        """The peer broke a rule, or a deadline passed: the answer of that row of the table, then a lingering close."""
        cdef Exchange exchange = self.exchange
        cdef Call call
        row = fs_error_info(self.conn.error)
        text = <bytes>row.text
        if exchange is None:
            if row.status == 0 or self.conn.writing != FS_HEAD:
                return self._close(False)
            exchange = Exchange.__new__(Exchange)
            exchange.channel = self
            exchange.seat = self.service.seat
            exchange.flight = -1
            exchange.moments[<int>HEAD_AT] = precise_now()
            self.exchange = exchange
            self.service.seat.active += 1
            self.service.seat.refused += 1
            self._enter(IN_HANDLER, exchange.moments[<int>HEAD_AT])
        elif row.status == 0 or exchange.started:
            exchange.gone(RemoteProtocolError(text.decode(), row.status))
            exchange.cut()
            return 0
        call = exchange.call
        if exchange.body is not None:
            exchange.body.fail(RemoteProtocolError(text.decode(), row.status))
        if exchange.ended:
            return self._close(True)  # a handler that waited for the whole body was told, and has answered
        if exchange.started:
            return 0  # it is answering; the connection ends behind that
        exchange.send_simple(row.status, b"text/plain; charset=utf-8", text)
        if call is not None:
            exchange.disconnected = True
            call.disconnected(exchange)
        return self._close(True)

    cdef int cut(self) except -1:
        cdef Exchange exchange = self.exchange
        cdef bint until_close = exchange is not None and exchange.started and exchange.plan.frame == FS_FRAME_CLOSE
        self.service.seat.cut += 1
        fs_conn_close(&self.conn)
        if exchange is not None:
            self._release(exchange)
        if self.wire is None or self._closing:
            return 0
        if until_close:
            # The end of the connection is the end of that body: a clean close would pass it off as whole.
            self._closing = True
            self.wire.reset()
            return 0
        return self._close(False)

    cdef int _close(self, bint linger) except -1:
        """Our last byte is out. With `linger` the peer may still be sending: a close would reset the connection and destroy the
        answer on its way, so only our side is shut down and what comes is dropped, for a while (RFC 9112 section 9.6)."""
        if self.wire is None or self._closing or self._lingering:
            return 0
        self._flush_now()
        fs_conn_close(&self.conn)
        if self.wire is None:
            return 0
        self._enter(IN_CLOSE, precise_now())
        self._start = self._end = 0
        if not self._consuming:
            self._free_buffer()
        if self._reading_paused:
            self._reading_paused = False
            self.service.hangups.unwatch(self.wire.fileno(), self)
            if linger and not self.wire.is_closing():
                self.wire.resume_reading()
        disarm(&self._read_timer)
        if linger and not self._eof and not self.wire.is_closing() and self.wire.shutdown_write():
            self._lingering = True
            self.service.timers.arm(&self._read_timer, PARTING_DEADLINE if self._parting else LINGER_DEADLINE)
            return 0
        return self._hang_up()

    cdef int _hang_up(self) except -1:
        # Close behind what is still to be sent; a peer that does not take it meets the write deadline.
        self._closing = True
        if self._tls:
            self._still = 0
            self.service.timers.arm(&self._write_timer, LINGER_DEADLINE)   # see _expired_tls
        elif self.wire.unsent():
            self._watch_writing()
        self.wire.close()
        return 0

    cdef int _expired_tls(self, int queue) except -1:
        # The transport has said close_notify, behind all that was to be sent, and waits for the peer's. RFC 8446 section 6.1 asks
        # for none, so it has the time to linger; but while it takes what we sent it is slow, not silent.
        cdef size_t taken = 0
        cdef size_t left = self.wire.in_flight(&taken)
        if left == 0:
            self.wire.abort()
            return 0
        self._still = self._still + 1 if queue == WRITE_DEADLINE and taken == self._taken else 0
        self._taken = taken
        if self.service.still_max and self._still >= self.service.still_max:
            return self._give_up(BY_WRITE)
        return self.service.timers.arm(&self._write_timer, WRITE_DEADLINE)

    def eof_received(self):
        return self.wire_ended()

    cdef bint wire_ended(self) except -1:
        """FIN. It means that the peer is gone, as in hyper and nginx, unless half-closed connections are served."""
        cdef Exchange exchange = self.exchange
        cdef Tunnel tunnel = self.tunnel
        cdef bint inside
        self._eof = True
        if self._lingering or self._closing or self.wire is None:
            if self._lingering and not self._closing and self.wire is not None:
                self._hang_up()
            return False
        if self._tls:
            return False  # TLS has no half: the transport closes now, and connection_lost tells the exchange
        if tunnel is not None:
            if not tunnel.full():
                tunnel.ended()
            return True
        inside = fs_conn_eof(&self.conn, self._end - self._start) == FS_E_INCOMPLETE
        if exchange is None:
            if self._writing_paused and self._end != self._start:
                return True  # whole requests wait until the peer takes its answers
            self._close(False)
            return False
        if inside or not self.service.half_close:
            exchange.gone(ClientDisconnected())
        disarm(&self._read_timer)
        return True

    def hangup(self):
        """The peer left while its connection was not being read (HangupWatch)."""
        self.wire_left()

    cdef int wire_left(self) except -1:
        if self.exchange is not None and not self.service.half_close and self.tunnel is None:
            self.exchange.gone(ClientDisconnected())
        return 0

    def retire(self, bint now):
        """Graceful end: the next response is the last. Idle connections close now, or wait for the RETIRE_DEADLINE."""
        cdef Tunnel tunnel = self.tunnel
        self._retiring = True
        if tunnel is not None:
            tunnel.retire()
        elif self._lingering and self.wire is not None and not self._closing:
            if now:
                self._hang_up()
        elif self.exchange is None and self._reads() and self._start == self._end and not fs_conn_head_begun(&self.conn) \
                and self.conn.reading == FS_HEAD:
            if now:
                self._close(False)
                if self._tls:
                    # Nothing is on its way: behind our close_notify, which leaves in this turn, nobody has to answer it.
                    self.service.loop.call_soon(self.abort)
            else:
                self.service.timers.arm(&self._read_timer, RETIRE_DEADLINE)

    def farewell(self):
        """The next response is the last. An idle connection stays."""
        self._retiring = True

    def tell(self):
        """The server is going: the handler of a stream is told as if its client had left. What it still sends is sent.

        A stream is an answer that has begun and whose end nobody knows. One that has not begun, or that has a length, ends
        by itself.
        """
        if self.exchange is not None and self.tunnel is None \
                and self.conn.writing == FS_BODY and not self.conn.length_out:
            self.exchange.gone(ClientDisconnected("the server is stopping"))

    def abort(self):
        """Cut it, whatever it is doing."""
        if self.wire is not None:
            self._closing = True
            self.wire.abort()

    # ---------------------------------------------------------------------------------------------- deadlines

    cdef int _arm(self) except -1:
        # Deadlines hang on states: which one is it now?
        cdef Timers timers = self.service.timers
        cdef int64_t now
        if not self._reads():
            return 0
        if self.conn.reading == FS_BODY:
            if self._reading_paused or _unwanted(self.exchange):
                disarm(&self._read_timer)  # we are the slow ones, or nobody waits for the body
                if self._pace_since:
                    now = precise_now()
                    self._pace_spent += now - self._pace_since
                    self._pace_since = 0
                    if self._state == IN_BODY:
                        self._body_came(now)
            else:
                timers.arm(&self._read_timer, BODY_DEADLINE)
                if not self._pace_since:
                    self._pace_since = precise_now()
                    if self._state == IN_HANDLER:
                        self._enter(IN_BODY, self._pace_since)
        elif self.exchange is not None:
            disarm(&self._read_timer)
            if self._state == IN_BODY:
                self._body_came(precise_now())  # the body is whole
        elif self.served == 0 or fs_conn_head_begun(&self.conn):
            if self._read_timer.queue != <int>HEADER_DEADLINE:
                timers.arm(&self._read_timer, HEADER_DEADLINE)
            if self._state != IN_HEAD and fs_conn_head_begun(&self.conn):
                self._enter(IN_HEAD, precise_now())
        elif self._retiring and self.service.retiring:
            timers.arm(&self._read_timer, RETIRE_DEADLINE)
        else:
            timers.arm(&self._read_timer, IDLE_DEADLINE)
        return 0

    cdef int _body_came(self, int64_t now) except -1:
        # The handler waits for bytes of the body no longer.
        if self.exchange is not None and self.exchange.trace is not None:
            self.exchange.trace.received(self._since, now)
        self._enter(IN_HANDLER, now)
        return 0

    cdef int expired(self, int queue) except -1:
        if self.wire is None:
            return 0
        if self._closing and self._tls:
            return self._expired_tls(queue)
        if queue == WRITE_DEADLINE:
            self._look_at_writing()
        elif queue == LINGER_DEADLINE or queue == PARTING_DEADLINE:
            self._hang_up()
        elif queue == BODY_DEADLINE:
            self._refuse(FS_E_BODY_TIMEOUT, BY_BODY)
        elif queue == REQUEST_DEADLINE:
            if self.exchange is not None:
                self._refuse(FS_E_REQUEST_TIMEOUT, BY_REQUEST)
        elif queue == SHED_IDLE:
            if self.wire.has_input():
                self.service.timers.arm(&self._read_timer, IDLE_DEADLINE)  # its next request is here already
                return 0
            self.service.seat.shed[FOR_CONNECTIONS] += 1
            self._close(False)
            return 1
        elif queue == SHED_UNFINISHED:
            self.service.seat.shed[FOR_BUFFERS] += 1
            fs_conn_refuse(&self.conn, FS_E_NO_BUFFERS)
            self._answer_fault()
        elif fs_conn_head_begun(&self.conn):
            self._refuse(FS_E_HEAD_TIMEOUT, BY_HEAD)
        elif self.wire.has_input():
            # The deadline was seen first, for the loop was held up. It is not idle, or it is gone: reading comes next.
            self.service.timers.arm(&self._read_timer, queue)
        else:
            self.service.seat.timeouts[BY_IDLE if self.served else BY_SILENCE] += 1
            if self.wire.unacked():
                return self._give_up(BY_WRITE)  # all this while it has not taken what the kernel holds for it
            self._parting = True
            self._close(True)
        return 0

    cdef int _refuse(self, fs_error error, unsigned timeout) except -1:
        # Time is up. Whoever waits for an answer gets one, if none was begun.
        self.service.seat.timeouts[timeout] += 1
        fs_conn_refuse(&self.conn, error)
        if self.exchange is None and self.conn.writing != FS_HEAD:
            return self._close(True)  # the answer is out already; this was the rest of a body that nobody wants
        return self._answer_fault()

    def _watch_request(self):
        if self._request_timer == NULL:
            self._request_timer = <Timer *>calloc(1, sizeof(Timer))
            if self._request_timer == NULL:
                raise MemoryError
            self._request_timer.queue = -1
            self._request_timer.owner = <void *>self
        self.service.timers.arm(self._request_timer, REQUEST_DEADLINE)

    cdef bint _too_slow(self) noexcept:
        # Bytes of a body have come. Was the time that we waited for them worth it? Judged by windows, so that a quick
        # beginning does not pay for the rest; who sends nothing meets the other deadline.
        cdef int64_t now = precise_now()
        cdef int64_t waited = self._pace_spent + now - self._pace_since
        if self.service.rate_grace_ns == 0 or waited < self.service.rate_grace_ns:
            return False
        if <double>self._pace_bytes * 1e9 < <double>self.service.limits.rate_min * waited:
            return True
        self._pace_bytes = 0
        self._pace_spent = 0
        self._pace_since = now
        return False

    cdef int _watch_writing(self) except -1:
        # From now on the wire holds bytes for this peer: it is looked at until it has taken them.
        if self.wire is None or self._write_timer.queue >= 0:
            return 0
        self._taken = self._window = self._handed - self.wire.unsent() - self.wire.unacked()
        self._still = self._looks = 0
        return self.service.timers.arm(&self._write_timer, WRITE_DEADLINE)

    cdef int _look_at_writing(self) except -1:
        cdef Service service = self.service
        cdef size_t unsent = self.wire.unsent()
        cdef uint64_t taken = self._handed - unsent - self.wire.unacked()
        if unsent == 0 and not self._closing:
            return 0
        self._still = self._still + 1 if taken == self._taken else 0
        self._taken = taken
        self._looks += 1
        if service.still_max and self._still >= service.still_max:
            return self._give_up(BY_WRITE)
        if service.rate_looks and self._looks >= service.rate_looks:
            if taken - self._window < service.rate_bytes:
                return self._give_up(BY_WRITE)
            self._window = taken
            self._looks = 0
        return service.timers.arm(&self._write_timer, WRITE_DEADLINE)

    cdef int _give_up(self, unsigned timeout) except -1:
        # Reset, not closed: the kernel need not go on holding what this peer does not take.
        self.service.seat.timeouts[timeout] += 1
        self._closing = True
        self.wire.reset()
        return 0

    cdef void _enter(self, unsigned state, int64_t now) noexcept:
        cdef Seat *seat = self.service.seat
        if now > self._since:
            seat.state_ns[self._state] += now - self._since
            self._since = now
        seat.in_state[self._state] -= 1
        seat.in_state[state] += 1
        self._state = state


cdef class Below:
    def __call__(self):
        self.connection._look_below(self)


cdef int _look_soon(Below below, int64_t now) except -1:
    # The longer it has lasted the less it matters when exactly it ends. Through the loop's own method: one that a handler's
    # slice calls may be the lens's, which would take this for a timer of the handler's.
    loop = below.connection.service.loop
    type(loop).call_later(loop, min(max((now - below.began) / 32e9, LOOK_MIN), LOOK_MAX), below)
    return 0


cdef bint _is_here(Exchange exchange) except -1:
    # Is its client on this machine? Others are told nothing of where it waits. Of a proxy's clients only those that it names are
    # known; the peer of a Unix socket is a proxy.
    cdef Forwarded said = exchange.forwarded()
    peer = exchange.channel.info("peername") if said is None else said.client
    if type(peer) is not tuple:
        return False
    host = peer[0]
    return isinstance(host, str) and (host == "::1" or host.startswith(("127.", "::ffff:127.")))


cdef fs_field *_parent_of(Exchange exchange) noexcept:
    # W3C Trace Context, section 3.2: version, trace id, parent id, flags, in lower-case hex with "-" between. Of a later version the
    # beginning, if it looks the same; several, or one that does not, are as good as none.
    cdef const uint8_t *value
    cdef fs_field *fields = exchange.fields
    cdef fs_field *found = NULL
    cdef uint32_t i
    cdef bint trace_id = False, parent_id = False
    for i in range(exchange.head().fields_count):
        if fields[i].id == FS_FIELD_TRACEPARENT:
            if found != NULL:
                return NULL
            found = &fields[i]
    if found == NULL or found.value_len < TRACEPARENT_LEN:
        return NULL
    value = exchange.data + found.value
    for i in range(TRACEPARENT_LEN):
        if i == 2 or i == 35 or i == 52:
            if value[i] != 45:
                return NULL
        elif _hex(value[i]) < 0:
            return NULL
        elif value[i] != 48:
            trace_id = trace_id or 3 <= i < 35
            parent_id = parent_id or 36 <= i < 52
    if not trace_id or not parent_id or value[0] == 102 and value[1] == 102:   # all zero, version ff
        return NULL
    if found.value_len > TRACEPARENT_LEN and (value[0] == 48 and value[1] == 48 or value[TRACEPARENT_LEN] != 45):
        return NULL
    return found


cdef inline int _hex(uint8_t byte) noexcept:
    return byte - 48 if 48 <= byte <= 57 else byte - 87 if 97 <= byte <= 102 else -1


cdef bint _takes_trailers(Exchange exchange) except -1:
    # RFC 9110 section 10.1.4: TE: trailers.
    cdef fs_field *fields = exchange.fields
    cdef uint32_t i
    for i in range(exchange.head().fields_count):
        if fields[i].id == FS_FIELD_TE:
            value = PyBytes_FromStringAndSize(<const char *>exchange.data + fields[i].value, fields[i].value_len)
            if b"trailers" in [part.strip().lower() for part in (<bytes>value).split(b",")]:
                return True
    return False


cdef void _tell(Observer observer, Exchange exchange) noexcept:
    # What an observer raises ends nothing: sys.unraisablehook is told. (A try statement costs the good case more than the call.)
    observer.observe(exchange)


cdef int _grow(fs_out *out, size_t room) except -1:
    cdef size_t capacity = out.cap if out.cap else 65536
    cdef uint8_t *grown
    while capacity - out.len < room:
        capacity *= 2
    grown = <uint8_t *>realloc(out.data, capacity)
    if grown == NULL:
        raise MemoryError
    out.data = grown
    out.cap = capacity
    return 0


cdef int _count(Seat *seat, Exchange exchange) noexcept:
    # The figures of one exchange that is over, where everybody can see them.
    cdef int64_t took = exchange.moments[<int>END_AT] - exchange.moments[<int>HEAD_AT]
    cdef unsigned status = exchange.status // 100
    cdef int bucket = 0
    seat.active -= 1
    seat.served += 1
    seat.by_class[status if status < 6 else 0] += 1
    if exchange.status == 101:
        return 0  # how long a WebSocket lived is no latency
    if took > 0:
        seat.latency_ns += took
        while bucket < LATENCY_BUCKETS - 1 and took > LATENCY_NS[bucket]:
            bucket += 1
    seat.latency[bucket] += 1
    return 0


cdef inline bint _unwanted(Exchange exchange) except -1:
    # Does nobody wait for the body of this exchange at present?
    return exchange is not None and exchange.body is not None and not exchange.body.awaited()
