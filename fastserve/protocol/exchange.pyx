"""Exchange: one request and its response. "Three doors in, one door out": native, ASGI and WSGI answer through start, write
and end here, so that framing, HEAD, length checks, persistence and the moments exist once.

Room:    floor 1, stations 4 (exchange), 6 (respond) and 7 (write).
Called:  by Connection, which makes and feeds it; by the wings, which answer it. Calls Channel and the C core.
Rules:   RFC 9112 sections 6, 7, 9; RFC 9110 sections 6.6.1 (Date), 8.6, 10.1.1, 15.
"""

import os

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.string cimport memchr

cdef extern from "Python.h":
    int PyUnicode_KIND(object text)
    uint8_t *PyUnicode_1BYTE_DATA(object text)
    Py_ssize_t PyUnicode_GET_LENGTH(object text)

from fastserve.protocol.core cimport (
    FS_E_NONE, FS_E_RESPONSE_FIELD_NAME, FS_E_RESPONSE_FIELD_VALUE, FS_E_RESPONSE_FRAMING, FS_E_RESPONSE_TOO_LONG, FS_E_RESPONSE_TOO_SHORT,
    FS_FRAME_CHUNKED, FS_FRAME_LENGTH, fs_conn_send_1xx, fs_conn_send_body, fs_conn_send_end, fs_conn_send_head,
    fs_error, fs_error_info, fs_field_id, fs_response_chunk, fs_response_chunk_head, fs_response_content_length, fs_response_field, fs_response_number,
    fs_response_raw, fs_response_status_line, fs_scan_choose, fs_status_reason, fs_text_equal, fs_trailer_allowed,
)
from fastserve.protocol.forwarded cimport forwarded_of, said_id
from fastserve.protocol.lens cimport CLIENT_LEFT, OF_ARRIVAL, OF_HANDLER, TO_THE_END, WAS_CUT, Trace
from fastserve.protocol.request cimport new_id
from fastserve.protocol.timers cimport precise_now
from fastserve.protocol.wire cimport FilePiece, OpenFile

from fastserve.errors import ClientDisconnected, LocalProtocolError

fs_scan_choose(os.environ.get("FASTSERVE_SIMD", "").encode())

cdef enum:
    COPY_MAX = 16384   # a body up to this size is copied behind its head; a larger one is handed over as it is
    HEAD_ROOM = 768    # status line, Date, Server, framing, Connection, Server-Timing: all that is not the application's
    KEEP_MAX = 16384   # a head is kept by keeping the read it came in, unless that is this much larger than the head

# RFC 9110 sections 6.5.1 and 10.2: control data of a response that has no number in the core's table.
cdef frozenset CONTROL_DATA = frozenset((b"age", b"allow", b"date", b"expires", b"location", b"retry-after", b"vary", b"warning"))


cdef list _with_defaults(object headers, list defaults):
    """The application's fields, and the operator's behind them where the application has not set the name."""
    cdef list fields = [] if headers is None else list(headers)
    cdef set names = {bytes(name).lower() for name, _ in fields if isinstance(name, (bytes, bytearray, memoryview))}
    fields += [field for field in defaults if field[0] not in names]
    return fields


cdef int write_timing(Trace trace, fs_out *out, unsigned parts) except -1:
    # Server-Timing (W3C): where it has waited so far.
    cdef bytes value = trace.timing(parts)
    if value is not None and PyBytes_GET_SIZE(value) + 32 < <Py_ssize_t>(out.cap - out.len):
        fs_response_field(out, <const uint8_t *>b"server-timing", 13, <const uint8_t *>PyBytes_AS_STRING(value),
                          PyBytes_GET_SIZE(value))
    return 0


cdef bint _lists_close(const char *value, Py_ssize_t length) except -1:
    # RFC 9110 section 7.6.1: Connection is a list of words
    if value == NULL or memchr(value, 44, length) == NULL:
        return False
    return b"close" in [word.strip() for word in value[:length].lower().split(b",")]


cdef class Call:
    """What a wing leaves at the exchange while its handler runs."""

    cdef int disconnected(self, Exchange exchange) except -1:
        return 0


@cython.freelist(64)
cdef class Exchange:
    """One request and its response. Made by Connection; never by users."""

    def __repr__(self):
        state = "ended" if self.ended else "started" if self.started else "open"
        return f"<Exchange {state} status={self.status} body_sent={self.body_sent}>"

    # ------------------------------------------------------------------------------------------- the request

    cdef fs_request_head *head(self) except NULL:
        if self._request is not None:
            return &self._request.head
        if self.channel is None:
            raise RuntimeError("the exchange is over")
        return &self.channel.conn.head

    cdef Request request(self):
        if self._request is None:
            self.keep_head()
        return self._request

    cdef Forwarded forwarded(self):
        cdef fs_request_head *head
        if not self._forwarded_known and self.data != NULL and self.channel is not None:
            self._forwarded_known = True
            head = &self.channel.conn.head
            if head.forwarded and self.channel.trust is not None:
                self._forwarded = forwarded_of(self.channel.trust, self.data, self.fields, head.fields_count,
                                               self.data + head.host.off, head.host.len)
        return self._forwarded

    cdef bytes id(self):
        if self._id is None:
            self._take_id()
            if self._id is None:
                self._id = new_id()
        return self._id

    cdef int _take_id(self) except -1:
        # What a trusted proxy calls this request; it can be read as long as the head lies there.
        if self._id is None and self.data != NULL and self.channel is not None and self.channel.trust is not None:
            self._id = said_id(self.channel.trust, self.data, self.fields, self.channel.conn.head.fields_count)
        return 0

    def request_id(self):
        """bytes: for Request, which is below and knows no Exchange."""
        return self.id()

    cdef object peer(self):
        cdef Forwarded said = self.forwarded()
        if said is not None and said.client is not None:
            return said.client
        return None if self.channel is None else self.channel.info("peername")

    cdef int keep_head(self) except -1:
        cdef Forwarded said
        cdef bytes host
        cdef fs_request_head *head
        cdef const uint8_t *data = self.data
        cdef bytes owner
        if self._request is not None:
            return 0
        if data == NULL or self.channel is None:
            raise RuntimeError("the head of this request was not kept")
        head = &self.channel.conn.head
        if self.data_owner is not None and PyBytes_GET_SIZE(self.data_owner) <= <Py_ssize_t>head.end + KEEP_MAX:
            owner = <bytes>self.data_owner
        else:
            owner = PyBytes_FromStringAndSize(<const char *>data, head.end)
            data = <const uint8_t *>PyBytes_AS_STRING(owner)
        said = self.forwarded()
        if said is not None and said.host is not None:
            # The host that the client asked for lies behind the head, and the Host field is there from now on.
            host = said.host
            owner = PyBytes_FromStringAndSize(<const char *>data, head.end) + host
            data = <const uint8_t *>PyBytes_AS_STRING(owner)
            self._request = Request.make(self, self.channel, owner, data, head, self.fields, self.body)
            self._request.rehost(head.end, PyBytes_GET_SIZE(host))
        else:
            self._request = Request.make(self, self.channel, owner, data, head, self.fields, self.body)
        self._request._forwarded = said
        return self._take_id()

    cdef int drop_head(self) except -1:
        self.data = NULL
        self.fields = NULL
        self.data_owner = None
        return 0

    def body_wanted(self):
        """The handler asked for the body: say 100 Continue if the peer waits for it (RFC 9110 section 10.1.1)."""
        if self.continue_due:
            self.continue_due = False
            if not self.started and not self.ended:
                self.send_1xx(100, None)
        if self.channel is not None:
            self.channel.read_on()

    def body_taken(self):
        """The handler took what was there: reading may go on."""
        if self.channel is not None:
            self.channel.read_on()

    # ------------------------------------------------------------------------------- station 6: respond

    cdef int _check_open(self) except -1:
        if self.disconnected and self.ended:
            raise ClientDisconnected()
        if self.ended or self.channel is None:
            raise LocalProtocolError("the response is complete already")
        return 0

    cdef int _check_start(self, unsigned status) except -1:
        if self.started:
            raise LocalProtocolError("the response was started already")
        if self.channel.conn.connect_request and 200 <= status < 300:
            # RFC 9110 9.3.6: it would make the bytes that follow a tunnel, and nobody here takes one.
            raise LocalProtocolError(f"{status} to CONNECT promises a tunnel")
        return 0

    cdef int _refuse(self, fs_out *out, size_t mark, int error, object what) except -1:
        # Leave no byte of a response that broke a rule.
        out.len = mark
        row = fs_error_info(<fs_error>error)
        text = (<bytes>row.text).decode()
        rule = (<bytes>row.rule).decode()
        raise LocalProtocolError(f"{text}: {what!r} ({rule})" if what is not None else f"{text} ({rule})")

    cdef int _write_fields(self, fs_out **out, object headers, int64_t *content_length, bint *close, bint *date,
                           bint *server) except -1:
        # Application fields as they are, save those that are ours: framing and the connection (RFC 9112 sections 6, 9).
        cdef const char *n
        cdef const char *v
        cdef Py_ssize_t name_len, value_len, i
        cdef int error
        cdef int64_t declared
        cdef bint ours
        for name, value in headers:
            if self.text_fields and type(name) is str and type(value) is str:
                # The bytes of a str that fits into latin-1 are its latin-1: nothing is encoded.
                if PyUnicode_KIND(name) != 1:
                    return FS_E_RESPONSE_FIELD_NAME
                if PyUnicode_KIND(value) != 1:
                    return FS_E_RESPONSE_FIELD_VALUE
                n = <const char *>PyUnicode_1BYTE_DATA(name)
                v = <const char *>PyUnicode_1BYTE_DATA(value)
                name_len = PyUnicode_GET_LENGTH(name)
                value_len = PyUnicode_GET_LENGTH(value)
            else:
                if not (PyBytes_CheckExact(name) and PyBytes_CheckExact(value)):
                    if not isinstance(name, (bytes, bytearray, memoryview)) or not isinstance(value, (bytes, bytearray, memoryview)):
                        raise LocalProtocolError(f"a header is a pair of bytes, not {name!r}: {value!r}")
                    name, value = bytes(name), bytes(value)
                n = PyBytes_AS_STRING(name)
                v = PyBytes_AS_STRING(value)
                name_len = PyBytes_GET_SIZE(name)
                value_len = PyBytes_GET_SIZE(value)
            ours = False
            if name_len == 14 and fs_text_equal(<const uint8_t *>n, name_len, b"content-length", 14):
                ours = True
                declared = 0
                if not 0 < value_len < 19:
                    return FS_E_RESPONSE_FRAMING
                for i in range(value_len):
                    if not 48 <= v[i] <= 57:
                        return FS_E_RESPONSE_FRAMING
                    declared = declared * 10 + (v[i] - 48)
                if content_length[0] >= 0 and content_length[0] != declared:
                    return FS_E_RESPONSE_FRAMING
                content_length[0] = declared
            elif name_len == 17 and fs_text_equal(<const uint8_t *>n, name_len, b"transfer-encoding", 17):
                ours = True  # chunked is what we do anyway where it is allowed; no other coding is applied here
                if not fs_text_equal(<const uint8_t *>v, value_len, b"chunked", 7):
                    return FS_E_RESPONSE_FRAMING
            elif name_len == 10 and fs_text_equal(<const uint8_t *>n, name_len, b"connection", 10):
                ours = not fs_text_equal(<const uint8_t *>v, value_len, b"upgrade", 7)  # as 426 has to say it
                if fs_text_equal(<const uint8_t *>v, value_len, b"close", 5) or _lists_close(v, value_len):
                    close[0] = True
            elif name_len == 10 and fs_text_equal(<const uint8_t *>n, name_len, b"keep-alive", 10):
                ours = True
            elif name_len == 4 and fs_text_equal(<const uint8_t *>n, name_len, b"date", 4):
                if date[0]:
                    ours = True
                date[0] = True
            elif name_len == 6 and fs_text_equal(<const uint8_t *>n, name_len, b"server", 6):
                server[0] = True
            if ours:
                continue
            if <Py_ssize_t>(out[0].cap - out[0].len) < name_len + value_len + 4:
                out[0] = self.channel.out(name_len + value_len + HEAD_ROOM)
            error = fs_response_field(out[0], <const uint8_t *>n, name_len, <const uint8_t *>v, value_len)
            if error != FS_E_NONE:
                return error
        return FS_E_NONE

    cdef int _write_framing(self, fs_out *out, bint date, bint server) except -1:
        # RFC 9110 6.6.1: Date in every response, once. Room was asked for before.
        cdef size_t length = 0
        cdef const uint8_t *common = self.channel.common_lines(&length)
        # The date line is first and has one length. "server: ..." begins otherwise: the operator may leave Date out.
        cdef size_t date_len = 37 if length >= 37 and common[0] == 100 else 0
        if not date and not server:
            fs_response_raw(out, common, length)
        elif not date:
            fs_response_raw(out, common, date_len)
        elif not server:
            fs_response_raw(out, common + date_len, length - date_len)
        if self.plan.frame == FS_FRAME_LENGTH:
            fs_response_content_length(out, self.plan.content_length)
        elif self.plan.frame == FS_FRAME_CHUNKED:
            fs_response_raw(out, <const char *>b"transfer-encoding: chunked\r\n", 28)
        if self.plan.close:
            fs_response_raw(out, <const char *>b"connection: close\r\n", 19)
        elif self.plan.say_keep_alive:
            fs_response_raw(out, <const char *>b"connection: keep-alive\r\n", 24)
        if self.trace is not None and self.trace.tells:
            self.trace.trails = self.trace.trails and self.plan.frame == FS_FRAME_CHUNKED and self.plan.body
            if self.trace.trails:   # RFC 9110 section 6.6.2; what is not known yet comes there
                fs_response_raw(out, <const char *>b"trailer: server-timing\r\n", 24)
            write_timing(self.trace, out, OF_ARRIVAL if self.trace.trails else OF_ARRIVAL | OF_HANDLER)
        fs_response_raw(out, <const char *>b"\r\n", 2)
        return 0

    cdef int _head_written(self, unsigned status, object headers) except -1:
        self.started = True
        self.status = status
        if self.fields_kept:
            self.fields_sent = headers
        self.continue_due = False
        if self.trace is not None:
            self.trace.response(status)
        if self.timed:
            self.moments[<int>RESPONSE_AT] = precise_now()
        return 0

    cdef int start(self, unsigned status, object headers, int64_t content_length) except -1:
        """Write the head of the final response. It leaves with the first body bytes, or at the end of the batch."""
        cdef fs_out *out
        cdef size_t mark
        cdef int error
        cdef bint close, date = False, server = False
        if headers is not None and not isinstance(headers, (list, tuple)):
            headers = list(headers)  # an iterator may run code that uses the buffer meanwhile
        if self.channel is not None and self.channel.default_fields is not None:
            headers = _with_defaults(headers, self.channel.default_fields)
        self._check_open()
        self._check_start(status)
        out = self.channel.out(HEAD_ROOM)
        mark = out.len
        # A peer that still waits for 100 Continue may or may not send its body now: the connection cannot go on behind it.
        close = self.continue_due or self.channel.closing()
        if self.reason is None:
            error = fs_response_status_line(out, status, NULL, 0)
        else:
            if <Py_ssize_t>(out.cap - out.len) < PyBytes_GET_SIZE(self.reason) + HEAD_ROOM:
                out = self.channel.out(PyBytes_GET_SIZE(self.reason) + HEAD_ROOM)
            error = fs_response_status_line(out, status, <const uint8_t *>PyBytes_AS_STRING(self.reason),
                                            PyBytes_GET_SIZE(self.reason))
        if error != FS_E_NONE:
            self._refuse(out, mark, error, status)
        if headers is not None:
            try:
                error = self._write_fields(&out, headers, &content_length, &close, &date, &server)
            except BaseException:
                out.len = mark
                raise
            if error != FS_E_NONE:
                self._refuse(out, mark, error, headers)
        if out.cap - out.len < HEAD_ROOM:
            out = self.channel.out(HEAD_ROOM)
        error = fs_conn_send_head(&self.channel.conn, status, content_length, close, False, &self.plan)
        if error != FS_E_NONE:
            self._refuse(out, mark, error, status)
        self._write_framing(out, date, server)
        self._head_written(status, headers)
        return 0

    cdef int start_ready(self, unsigned status, list headers, bytes lines, int64_t content_length) except -1:
        cdef fs_out *out
        cdef size_t mark
        cdef int error
        self._check_open()
        self._check_start(status)
        if self.channel.default_fields is not None or self.reason is not None:
            return self.start(status, headers, content_length)
        out = self.channel.out(HEAD_ROOM + PyBytes_GET_SIZE(lines))
        mark = out.len
        error = fs_response_status_line(out, status, NULL, 0)
        if error == FS_E_NONE:
            error = fs_conn_send_head(&self.channel.conn, status, content_length,
                                      self.continue_due or self.channel.closing(), False, &self.plan)
        if error != FS_E_NONE:
            self._refuse(out, mark, error, status)
        fs_response_raw(out, PyBytes_AS_STRING(lines), PyBytes_GET_SIZE(lines))
        self._write_framing(out, False, False)
        return self._head_written(status, headers)

    cdef int write(self, object data) except -1:
        """Write body bytes (any bytes-like object). Raises LocalProtocolError when more comes than was declared: what was
        declared goes out, the rest does not, and the connection ends behind it."""
        cdef Py_ssize_t length
        cdef fs_out *out
        cdef int error
        cdef uint64_t owed
        self._check_open()
        if not self.started:
            raise LocalProtocolError("body before the head of the response")
        if not PyBytes_CheckExact(data):
            data = bytes(memoryview(data))
        length = PyBytes_GET_SIZE(data)
        if length == 0:
            return 0
        owed = self.channel.conn.owed
        error = fs_conn_send_body(&self.channel.conn, length)
        if error == FS_E_RESPONSE_TOO_LONG:
            if owed:
                self.write(data[:owed])
            self.channel.conn.keep_alive = False
            raise LocalProtocolError(f"more body than Content-Length declared: {length - owed} bytes too many were dropped")
        if error != FS_E_NONE:
            raise LocalProtocolError((<bytes>fs_error_info(<fs_error>error).text).decode())
        if not self.plan.body:
            return 0
        self.body_sent += length
        if self.trace is not None:
            self.trace.sent(length)
        if length <= COPY_MAX:
            out = self.channel.out(length + 32)
            if self.plan.frame == FS_FRAME_CHUNKED:
                fs_response_chunk(out, PyBytes_AS_STRING(data), length)
            else:
                fs_response_raw(out, PyBytes_AS_STRING(data), length)
        elif self.plan.frame == FS_FRAME_CHUNKED:
            fs_response_chunk_head(self.channel.out(32), length)
            self.channel.put(data)
            fs_response_raw(self.channel.out(32), <const char *>b"\r\n", 2)
        else:
            self.channel.put(data)
        self.channel.flush()
        return 0

    cdef bint send_file(self, int fd, int64_t offset, int64_t count) except? False:
        """Body bytes from a file, sent by the kernel: `count` of them, which must be there. They count as written at once; wait
        with drained() before more. False if this wire cannot (TLS, transports): read and write() them instead. OSError if `fd`
        cannot be duplicated; LocalProtocolError as write()."""
        if self.started and self.channel is not None and not self.channel.takes_files():
            return False
        return self.send_open(OpenFile.over(os.dup(fd)) if count > 0 else None, offset, count)

    cdef bint send_path(self, unsigned status, object headers, object path, int64_t count) except? False:
        return False

    cdef bint send_open(self, OpenFile file, int64_t offset, int64_t count) except? False:
        cdef int error
        cdef uint64_t owed
        self._check_open()
        if not self.started:
            raise LocalProtocolError("body before the head of the response")
        if not self.channel.takes_files():
            return False
        if count <= 0:
            return True
        owed = self.channel.conn.owed
        error = fs_conn_send_body(&self.channel.conn, count)
        if error == FS_E_RESPONSE_TOO_LONG:
            if owed:
                self.send_open(file, offset, owed)
            self.channel.conn.keep_alive = False
            raise LocalProtocolError(f"more body than Content-Length declared: {count - owed} bytes too many were dropped")
        if error != FS_E_NONE:
            raise LocalProtocolError((<bytes>fs_error_info(<fs_error>error).text).decode())
        if not self.plan.body:
            return True
        self.body_sent += count
        if self.trace is not None:
            self.trace.sent(count)
        if self.plan.frame == FS_FRAME_CHUNKED:
            fs_response_chunk_head(self.channel.out(32), count)
        self.channel.put(FilePiece(file, offset, count))
        if self.plan.frame == FS_FRAME_CHUNKED:
            fs_response_raw(self.channel.out(32), <const char *>b"\r\n", 2)
        self.channel.flush()
        return True

    cdef int end(self) except -1:
        """The body is complete. Raises LocalProtocolError, and cuts the connection, if less came than was declared."""
        return self.end_with(None)

    cdef int end_with(self, object trailers) except -1:
        """The same, with trailer fields. One that may not be a trailer is a LocalProtocolError, and nothing was done. Only a
        chunked body has a place for them (RFC 9112 section 7.1.2): behind any other they are dropped."""
        cdef int error
        cdef fs_out *out
        cdef bytes section = None
        self._check_open()
        if trailers is not None:
            section = self._trailer_section(trailers)
        if not self.started:
            raise LocalProtocolError("the response has no head")
        error = fs_conn_send_end(&self.channel.conn)
        if error == FS_E_RESPONSE_TOO_SHORT:
            self.cut()
            raise LocalProtocolError("less body than Content-Length declared")
        if error != FS_E_NONE:
            raise LocalProtocolError((<bytes>fs_error_info(<fs_error>error).text).decode())
        if self.plan.body and self.plan.frame == FS_FRAME_CHUNKED:
            if self.trace is not None and self.trace.trails:
                out = self.channel.out(HEAD_ROOM + (0 if section is None else PyBytes_GET_SIZE(section)))
                fs_response_raw(out, <const char *>b"0\r\n", 3)
                if section is not None:
                    fs_response_raw(out, PyBytes_AS_STRING(section), PyBytes_GET_SIZE(section))
                write_timing(self.trace, out, OF_HANDLER | TO_THE_END)
                fs_response_raw(out, <const char *>b"\r\n", 2)
            elif section is None:
                fs_response_raw(self.channel.out(8), <const char *>b"0\r\n\r\n", 5)
            else:
                out = self.channel.out(PyBytes_GET_SIZE(section) + 8)
                fs_response_raw(out, <const char *>b"0\r\n", 3)
                fs_response_raw(out, PyBytes_AS_STRING(section), PyBytes_GET_SIZE(section))
                fs_response_raw(out, <const char *>b"\r\n", 2)
        return self._finish()

    cdef bytes _trailer_section(self, object trailers):
        # RFC 9110 section 6.5.1: a sender must not put there what frames, routes, authenticates or describes the message.
        cdef list names = []
        cdef fs_out out
        cdef bytearray space
        cdef int error
        cdef size_t size = 0
        for name, value in trailers:
            if not isinstance(name, bytes) or not isinstance(value, bytes):
                raise LocalProtocolError(f"a trailer is a pair of bytes, not {name!r}: {value!r}")
            names.append((name, value))
            size += len(name) + len(value) + 4
        space = bytearray(size + 1)
        out.data = space
        out.cap = size
        out.len = 0
        for name, value in names:
            if name.lower() in CONTROL_DATA or not fs_trailer_allowed(
                    fs_field_id(<const uint8_t *>PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name))):
                raise LocalProtocolError(f"{name!r} cannot be a trailer (RFC 9110 section 6.5.1)")
            error = fs_response_field(&out, <const uint8_t *>PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name),
                                      <const uint8_t *>PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value))
            if error != FS_E_NONE:
                row = fs_error_info(<fs_error>error)
                raise LocalProtocolError(f"{(<bytes>row.text).decode()}: {(name, value)!r} ({(<bytes>row.rule).decode()})")
        return bytes(space[:out.len])

    cdef int _finish(self) except -1:
        cdef Channel channel = self.channel
        self.ended = True
        self.call = None
        self.moments[<int>END_AT] = precise_now()
        channel.exchange_ended()
        return 0

    cdef int send(self, unsigned status, object headers, object body) except -1:
        """A whole response: head and body leave in one write."""
        cdef fs_out *out
        if not PyBytes_CheckExact(body):
            body = bytes(memoryview(body))
        # RFC 9110 8.6: a 304 may only carry the length that a 200 would have had; an empty body does not tell it.
        self.start(status, headers, -1 if status == 304 and PyBytes_GET_SIZE(body) == 0 else PyBytes_GET_SIZE(body))
        if PyBytes_GET_SIZE(body) != 0 and self.plan.body:
            if fs_conn_send_body(&self.channel.conn, PyBytes_GET_SIZE(body)) != FS_E_NONE:
                self.cut()
                raise LocalProtocolError("more body than Content-Length declared")
            self.body_sent = PyBytes_GET_SIZE(body)
            if PyBytes_GET_SIZE(body) <= COPY_MAX:
                out = self.channel.out(PyBytes_GET_SIZE(body))
                fs_response_raw(out, PyBytes_AS_STRING(body), PyBytes_GET_SIZE(body))
            else:
                self.channel.put(body)
        return self.end()

    cdef int send_simple(self, unsigned status, bytes content_type, object body) except -1:
        """The cheapest answer: no application fields but Content-Type."""
        cdef fs_out *out
        cdef Py_ssize_t length
        cdef int error
        cdef const uint8_t *head = NULL
        cdef size_t head_length = 0
        self._check_open()
        self._check_start(status)
        if self.channel.default_fields is not None:
            return self.send(status, [(b"content-type", content_type)], body)
        if not PyBytes_CheckExact(body):
            body = bytes(memoryview(body))
        length = PyBytes_GET_SIZE(body)
        error = fs_conn_send_head(&self.channel.conn, status, -1 if status == 304 and length == 0 else length,
                                  self.continue_due or self.channel.closing(), False, &self.plan)
        if error != FS_E_NONE:
            raise LocalProtocolError((<bytes>fs_error_info(<fs_error>error).text).decode() + f": {status}")
        out = self.channel.out(HEAD_ROOM + PyBytes_GET_SIZE(content_type) + (length if length <= COPY_MAX else 0))
        if self.plan.frame == FS_FRAME_LENGTH and not self.plan.close and not self.plan.say_keep_alive \
                and (self.trace is None or not self.trace.tells):
            head = self.channel.simple_head(status, content_type, &head_length)
        if head != NULL:
            fs_response_raw(out, head, head_length)
            fs_response_number(out, self.plan.content_length)
            fs_response_raw(out, <const char *>b"\r\n\r\n", 4)
        else:
            fs_response_status_line(out, status, NULL, 0)
            self._write_framing_with_type(out, content_type)
        self._head_written(status, [(b"content-type", content_type)] if self.fields_kept else None)
        if self.plan.body and length != 0:
            fs_conn_send_body(&self.channel.conn, length)
            self.body_sent = length
            if length <= COPY_MAX:
                fs_response_raw(out, PyBytes_AS_STRING(body), length)
            else:
                self.channel.put(body)
        fs_conn_send_end(&self.channel.conn)
        return self._finish()

    cdef int _write_framing_with_type(self, fs_out *out, bytes content_type) except -1:
        fs_response_raw(out, <const char *>b"content-type: ", 14)
        fs_response_raw(out, PyBytes_AS_STRING(content_type), PyBytes_GET_SIZE(content_type))
        fs_response_raw(out, <const char *>b"\r\n", 2)
        return self._write_framing(out, False, False)

    cdef fs_out *_head_1xx(self, unsigned status, bytes protocol, object headers, bint *date, bint *server) except NULL:
        # Status line and fields of an interim response, or of a 101 to `protocol`; the state machine has its say.
        cdef fs_out *out
        cdef size_t mark
        cdef int error
        cdef int64_t ignored = -1
        cdef bint close = False
        if headers is not None and not isinstance(headers, (list, tuple)):
            headers = list(headers)
        out = self.channel.out(HEAD_ROOM)
        mark = out.len
        error = fs_response_status_line(out, status, NULL, 0)
        if error == FS_E_NONE and protocol is not None:
            fs_response_raw(out, <const char *>b"connection: upgrade\r\n", 21)
            error = fs_response_field(out, <const uint8_t *>b"upgrade", 7, <const uint8_t *>PyBytes_AS_STRING(protocol),
                                      PyBytes_GET_SIZE(protocol))
        if error == FS_E_NONE and headers is not None:
            try:
                error = self._write_fields(&out, headers, &ignored, &close, date, server)
            except BaseException:
                out.len = mark
                raise
        if error == FS_E_NONE:
            if out.cap - out.len < HEAD_ROOM:
                out = self.channel.out(HEAD_ROOM)
            if protocol is None:
                error = fs_conn_send_1xx(&self.channel.conn, status)
            else:
                error = fs_conn_send_head(&self.channel.conn, status, -1, False, True, &self.plan)
        if error != FS_E_NONE:
            self._refuse(out, mark, error, status if protocol is None else headers)
        return out

    cdef int send_1xx(self, unsigned status, object headers) except -1:
        """An interim response, at once. LocalProtocolError after the head, to an HTTP/1.0 peer, and for 101."""
        cdef fs_out *out
        cdef bint date = False, server = False
        self._check_open()
        out = self._head_1xx(status, None, headers, &date, &server)
        fs_response_raw(out, <const char *>b"\r\n", 2)
        self.channel.flush()
        return 0

    cdef int upgrade(self, bytes protocol, object headers, Tunnel tunnel) except -1:
        """101 Switching Protocols (RFC 9110 sections 7.8, 15.2.2): from here on the connection is `tunnel`'s, and this exchange
        is in hand until finish_upgrade(). Raises as start() does, also if the request did not ask for an upgrade."""
        cdef fs_out *out
        cdef bint date = False, server = False
        self._check_open()
        self._check_start(101)
        out = self._head_1xx(101, protocol, headers, &date, &server)
        self._write_framing(out, date, server)
        self._head_written(101, headers)
        self.channel.tunnel = tunnel
        self.channel.flush()
        return self.channel.upgraded()

    cdef int finish_upgrade(self) except -1:
        """The tunnel has said its last: the connection ends behind it."""
        if self.ended or self.channel is None:
            return 0
        return self._finish()

    cdef int fail(self, unsigned status) except -1:
        """The handler failed: `status` with a short text if nothing was sent yet, otherwise cut."""
        if self.ended or self.channel is None:
            return 0
        if self.started:
            return self.cut()
        reason = <bytes>fs_status_reason(status)
        return self.send_simple(status, b"text/plain; charset=utf-8", reason)

    cdef int cut(self) except -1:
        """End it now. A response that is whole by its declared length ends cleanly; any other is seen to be cut short."""
        cdef Channel channel = self.channel
        if self.ended or channel is None:
            return 0
        if self.started and channel.conn.length_out and channel.conn.owed == 0 and not self.disconnected:
            channel.conn.keep_alive = False
            if fs_conn_send_end(&channel.conn) == FS_E_NONE:
                return self._finish()
        self.ended = True
        self.call = None
        self.moments[<int>END_AT] = precise_now()
        if self.trace is not None:
            self.trace.flags |= WAS_CUT
        channel.cut()
        return 0

    cdef bint writable(self) except -1:
        return self.channel is not None and self.channel.writable()

    cdef object drained(self):
        if self.channel is None:
            raise ClientDisconnected()
        return self.channel.drained()

    # ------------------------------------------------------------------------------------ from the connection

    cdef int lose(self, object error) except -1:
        """The connection is lost: whatever was to be said cannot be said any more."""
        self.ended = True
        self.moments[<int>END_AT] = precise_now()
        self.gone(error)
        self.call = None
        return 0

    cdef int gone(self, object error) except -1:
        cdef Call call = self.call
        if self.disconnected:
            return 0
        self.disconnected = True
        if self.trace is not None:
            self.trace.flags |= CLIENT_LEFT
        if self.body is not None and not self.body.ended:
            self.body.fail(error)
        if call is not None:
            call.disconnected(self)
        return 0
