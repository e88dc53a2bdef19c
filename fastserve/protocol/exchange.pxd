# Exchange: one request and its response; the one way out for all three wings: start, write, end.
#
# Called by: Connection (makes it, feeds it), the wings (answer it). Calls: Channel, core.pxd.
from libc.stdint cimport uint8_t, uint32_t, uint64_t, int64_t
from fastserve.protocol.board cimport Seat
from fastserve.protocol.core cimport fs_field, fs_out, fs_request_head, fs_response_plan
from fastserve.protocol.channel cimport Channel, Tunnel
from fastserve.protocol.forwarded cimport Forwarded
from fastserve.protocol.lens cimport Trace
from fastserve.protocol.request cimport Request, RequestBody
from fastserve.protocol.wire cimport OpenFile

# Moments, nanoseconds of the monotonic clock; 0 if not taken. Waits are derived from them, never stored.
cdef enum Moment:
    HEAD_AT        # head complete (station 3)
    HANDLER_AT     # handler entered (station 5)
    RESPONSE_AT    # response head written (station 6)
    END_AT         # last byte handed over (station 7)
    MOMENTS


cdef class Call:
    # What a wing leaves at the exchange while its handler runs.
    cdef int disconnected(self, Exchange exchange) except -1   # the peer is gone: once per call


cdef class Exchange:
    cdef Channel channel              # None once over
    # valid only inside Handler.handle(): the head in the read buffer
    cdef const uint8_t *data
    cdef fs_field *fields
    cdef object data_owner            # the bytes object that `data` points into, or None (a buffer of the connection)
    # kept
    cdef Call call
    cdef Request _request
    cdef Forwarded _forwarded
    cdef bint _forwarded_known
    cdef bytes _id
    cdef RequestBody body             # None: no body
    cdef readonly unsigned status     # of the final response; 0 before
    cdef readonly uint64_t body_sent  # response body bytes
    cdef readonly bint started        # response head written
    cdef readonly bint ended          # response complete, or cut
    cdef readonly bint disconnected   # the peer is gone
    cdef bint continue_due            # 100 Continue wanted and not yet sent
    cdef bint fields_kept             # somebody reads `fields_sent`
    cdef object fields_sent           # of the final response: pairs as the wing gave them, or None
    cdef bint timed                   # somebody reads all moments; the first and the last are always taken
    cdef int flight                   # its entry among the requests in flight on the board, or -1
    cdef Seat *seat                   # of the process that serves it
    cdef Trace trace                  # None: nobody asks where it waits
    cdef bint text_fields             # the wing's fields may be str, read as latin-1 (PEP 3333)
    cdef bytes reason                 # phrase of the final response; None: the registered one
    cdef fs_response_plan plan
    cdef int64_t moments[4]

    # --- the request ---
    cdef fs_request_head *head(self) except NULL      # valid until the exchange is over
    cdef Request request(self)                        # made once; inside handle(), or later if keep_head() was called there
    cdef Forwarded forwarded(self)                    # what a trusted proxy says of the client, or None; read in handle()
    cdef bytes id(self)                               # what a trusted proxy calls it, otherwise one of ours; made once
    cdef object peer(self)                            # the client, as getpeername() would say it
    cdef int keep_head(self) except -1
    cdef int drop_head(self) except -1                # handle() has returned: `data` is not ours any more
    # --- the response: status and headers are checked; errors raise LocalProtocolError and leave the exchange unstarted ---
    # `headers`: None or an iterable of (bytes, bytes). content_length < 0: unknown (chunked, or close for HTTP/1.0).
    cdef int start(self, unsigned status, object headers, int64_t content_length) except -1
    # The same with fields that were checked and written before: `lines` is what `headers` amount to, each with its CRLF.
    cdef int start_ready(self, unsigned status, list headers, bytes lines, int64_t content_length) except -1
    cdef int write(self, object data) except -1       # bytes-like
    # `count` bytes of the open file `fd` (duplicated) from `offset`, by sendfile. False: this wire cannot; nothing was done.
    cdef bint send_file(self, int fd, int64_t offset, int64_t count) except? False
    cdef bint send_open(self, OpenFile file, int64_t offset, int64_t count) except? False   # the same, without the duplicate
    # The whole body is the file at `path`, and whoever sends it opens it. False: nobody here can; nothing was done.
    cdef bint send_path(self, unsigned status, object headers, object path, int64_t count) except? False
    cdef int end(self) except -1
    cdef int end_with(self, object trailers) except -1   # None or pairs; sent behind a chunked body, otherwise checked and dropped
    cdef int send(self, unsigned status, object headers, object body) except -1   # start + write + end, in one write
    cdef int send_simple(self, unsigned status, bytes content_type, object body) except -1  # the cheapest answer
    cdef int send_1xx(self, unsigned status, object headers) except -1
    # 101: `tunnel` has the connection until finish_upgrade(). `protocol` is the value of Upgrade.
    cdef int upgrade(self, bytes protocol, object headers, Tunnel tunnel) except -1
    cdef int finish_upgrade(self) except -1
    cdef int fail(self, unsigned status) except -1    # the handler failed: an error answer if still possible, else cut
    cdef int cut(self) except -1                      # end it without a clean end
    cdef bint writable(self) except -1
    cdef object drained(self)                         # Future; raises ClientDisconnected
    # --- from the connection ---
    cdef int lose(self, object error) except -1       # the connection is gone
    cdef int gone(self, object error) except -1       # the peer left, or broke a rule: tell the body and the call

    cdef fs_out *_head_1xx(self, unsigned status, bytes protocol, object headers, bint *date, bint *server) except NULL
    cdef int _take_id(self) except -1
    cdef int _check_open(self) except -1
    cdef int _check_start(self, unsigned status) except -1
    cdef int _write_fields(self, fs_out **out, object headers, int64_t *content_length, bint *close, bint *date,
                           bint *server) except -1
    cdef int _write_framing(self, fs_out *out, bint date, bint server) except -1
    cdef int _refuse(self, fs_out *out, size_t mark, int error, object what) except -1
    cdef int _write_framing_with_type(self, fs_out *out, bytes content_type) except -1
    cdef int _head_written(self, unsigned status, object headers) except -1
    cdef bytes _trailer_section(self, object trailers)
    cdef int _finish(self) except -1
