# Request: what the handler sees. Owns a copy of, or a reference to, the bytes of its head; everything is decoded
# lazily.
#
# Called by: the wings, users. Calls: Headers, Channel (facts of the transport), core.pxd.
from cpython.bytes cimport PyBytes_AS_STRING
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from fastserve.protocol.core cimport fs_field, fs_request_head
from fastserve.protocol.forwarded cimport Forwarded
from fastserve.protocol.headers cimport Headers


cdef class BodyListener:
    # Told once, from inside feed's caller, when a body that is collected has come whole or has failed. Must not raise.
    cdef int body_over(self, RequestBody body) except -1


cdef class RequestBody:
    # The bytes of one request body, in order, bounded; fed by the Connection, read by one handler.
    cdef object _front               # the next piece, bytes; None: there is none at present
    cdef object _behind              # collections.deque of those that come after it, or None
    cdef bytes _whole                # what is collected and was received in its place, or None
    cdef size_t _filled              # bytes of that which have come
    cdef size_t buffered             # bytes of these that hold up reading; 0 while the body is collected
    cdef uint64_t received           # bytes fed so far
    cdef bint ended                  # the whole body was fed
    cdef bint reading                # somebody has asked for the body (a 100 Continue was due)
    cdef bint _collecting            # the reader wants the whole body: no wake-up, no pause before its end
    cdef BodyListener _listener      # told at the end of collecting
    cdef object _waiter              # Future of the reader that waits,
    cdef list _others                # and those of others; None: there are none
    cdef object error                # exception for the reader: the peer left or broke a rule
    cdef object exchange             # Exchange or None: told when reading begins and goes on; dropped at the end
    cdef readonly object trailers    # list of (bytes, bytes) once ended

    # --- the Connection's side ---
    cdef int feed(self, object data) except -1
    cdef int feed_raw(self, const uint8_t *data, size_t length) except -1   # borrowed until it returns
    cdef uint8_t *place(self, uint64_t remaining, size_t *room) except? NULL   # where the next bytes may be received, or NULL;
    cdef inline bint is_place(self, const uint8_t *data) except -1:
        return self._whole is not None and data == <const uint8_t *>PyBytes_AS_STRING(self._whole) + self._filled

    cdef int placed(self, size_t length) except -1     # so many were received there
    cdef int _append(self, const uint8_t *data, size_t length) except -1
    cdef int _resize(self, size_t size) except -1
    cdef int end(self, object trailers) except -1
    cdef int fail(self, object error) except -1
    cdef int _wake(self) except -1
    # --- the reader's side ---
    cdef object take(self)           # the next piece without waiting: bytes, b"" at the end, None if one must wait
    cdef object wait(self)           # Future done when take() has an answer; while collecting, when the body is over
    cdef int collect(self, BodyListener listener) except -1   # ask for the whole body; `listener` may be None
    cdef int uncollect(self) except -1                        # back to piece by piece
    cdef inline bint holds(self) except -1:  # is there a piece that was not taken?
        return self._front is not None

    cdef bytes joined(self)          # all of it, once ended; raises `error`
    cdef bytes _taken_whole(self)
    cdef int _begin(self) except -1
    cdef bint awaited(self) except -1  # does the reader wait for bytes now?


cdef class Request:
    cdef bytes _owner                # the bytes that hold the head
    cdef const uint8_t *_data        # start of those bytes; offsets of `head` count from here
    cdef fs_request_head head
    cdef fs_field *_fields           # malloc'ed copy, until Headers takes it over
    cdef uint32_t _fields_count
    cdef Headers _headers
    cdef RequestBody _body           # None: this request has none
    cdef bytes _whole_body           # once read
    cdef bint _streamed              # stream() has begun
    cdef public object app           # the App, or None
    cdef dict _path_params
    cdef object _base_state          # mapping a new `state` is filled with, or None
    cdef object _state
    cdef object _method, _path, _raw_path, _query_string, _query_params, _cookies, _url, _id
    cdef object _channel             # for client, server, scheme; None once detached
    cdef object _client, _server, _scheme
    cdef object _exchange
    cdef Forwarded _forwarded        # what a trusted proxy says of the client, or None

    # `data` must lie in `owner`; `head` and `fields` are copied. In absolute-form the Host field is replaced (RFC 9112
    # 3.2.2).
    @staticmethod
    cdef Request make(object exchange, object channel, bytes owner, const uint8_t *data, fs_request_head *head,
                      fs_field *fields, RequestBody body)
    cdef int rehost(self, uint32_t offset, uint32_t length) except -1   # the host is elsewhere in `_owner`
    cdef bytes raw_target(self)
    cdef Headers headers_(self)


cdef class Namespace:
    cdef dict _values


cdef bytes new_id()                                                       # 16 hex digits that no other request has
cdef object path_text(const uint8_t *p, Py_ssize_t n, bint has_percent)   # percent-decoded UTF-8; U+FFFD for the rest
cdef bytes path_bytes(const uint8_t *p, Py_ssize_t n)                     # percent-decoded
