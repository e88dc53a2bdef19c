"""Request: what a handler sees of an exchange; RequestBody: the bytes that follow the head.

Room:    floor 1. Nothing is decoded before somebody asks; offsets point into the bytes of the head.
Called:  by Exchange (makes and feeds them), the wings, users. Calls Headers, Channel, core.pxd.
Rules:   RFC 9110 sections 3.4, 7.1, 8.6; RFC 9112 sections 3.2.2, 3.3, 8 (an incomplete body is never passed on as
         whole); RFC 3986 section 2.1. Names and behaviour are starlette.requests.Request's.
"""
cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.ref cimport Py_DECREF, Py_INCREF, PyObject
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from fastserve.protocol.channel cimport Channel
from fastserve.protocol.core cimport (
    FS_FIELD_HOST,
    FS_METHOD_COUNT,
    FS_TARGET_ABSOLUTE,
    FS_TARGET_AUTHORITY,
    fs_field,
    fs_percent_decode,
    fs_request_head,
)
from fastserve.protocol.headers cimport Headers

import os
from asyncio import get_running_loop
from codecs import lookup as lookup_codec
from collections import deque

from fastserve.errors import HTTPException
from fastserve.protocol.headers import Address, QueryParams, URL, cookie_parser

__all__ = ["Namespace", "Request", "json_decode"]


cdef extern from "Python.h":
    int _PyBytes_Resize(PyObject **object, Py_ssize_t size) except -1

cdef enum:
    PLACE_MIN = 262144   # bytes of a collected body that room is made for at first


cdef object _json_decoder():
    # msgspec first: Json[T] needs it, so both ways to a JSON body agree. All three take bytes and refuse what is not
    # UTF-8.
    try:
        from msgspec.json import decode
        return decode
    except ImportError:
        pass
    try:
        from orjson import loads
        return loads
    except ImportError:
        from json import loads
        return loads


json_decode = _json_decoder()

# Python has them among its codecs; no text is sent in them, and some need quadratic time.
cdef frozenset NO_CHARSETS = frozenset(("idna", "punycode", "raw-unicode-escape", "undefined", "unicode-escape"))
cdef tuple METHODS = ("", "GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH")


cdef const char *HEX = b"0123456789abcdef"
cdef uint64_t _next_id


def _begin_ids():
    global _next_id
    _next_id = int.from_bytes(os.urandom(8), "little")


_begin_ids()
os.register_at_fork(after_in_child=_begin_ids)   # siblings must not count from the same number


cdef bytes new_id():
    # A number of this process, from a random one on, and mixed (the last steps of splitmix64, which map each number to another
    # one): ids do not repeat here before 2^64 of them, and differ at a glance.
    global _next_id
    cdef uint64_t n = _next_id
    cdef bytes text = PyBytes_FromStringAndSize(NULL, 16)
    cdef char *out = PyBytes_AS_STRING(text)
    cdef int i
    _next_id = n + 1
    n = (n ^ (n >> 30)) * <uint64_t>0xBF58476D1CE4E5B9
    n = (n ^ (n >> 27)) * <uint64_t>0x94D049BB133111EB
    n ^= n >> 31
    for i in range(16):
        out[i] = HEX[n >> 60]
        n <<= 4
    return text


cdef object path_text(const uint8_t *p, Py_ssize_t n, bint has_percent):
    cdef bytes raw
    if has_percent:
        raw = path_bytes(p, n)
        return PyUnicode_DecodeUTF8(PyBytes_AS_STRING(raw), PyBytes_GET_SIZE(raw), "replace")
    return PyUnicode_DecodeUTF8(<const char *>p, n, "replace")


cdef bytes path_bytes(const uint8_t *p, Py_ssize_t n):
    cdef bytes out = PyBytes_FromStringAndSize(NULL, n)
    cdef size_t used = fs_percent_decode(p, n, <uint8_t *>PyBytes_AS_STRING(out))
    return out if used == <size_t>n else PyBytes_FromStringAndSize(PyBytes_AS_STRING(out), used)


cdef class BodyListener:
    cdef int body_over(self, RequestBody body) except -1:
        raise NotImplementedError


@cython.freelist(64)
cdef class RequestBody:
    """The body of one request: a bounded queue between the Connection and one reader.

    Two ways to read: piece by piece (take, wait), where `buffered` lets the Connection pause reading; or the whole of
    it (collect, wait, joined), where nobody is woken before the end and the bound is the limit for bodies (413).

    Most bodies are one piece, which needs no queue. A longer one of known length that is collected is received straight into
    the object that the reader gets (place): it is not copied, and not joined.
    """

    # --- the Connection's side ---

    cdef int feed(self, object data) except -1:
        cdef Py_ssize_t n
        if self.ended or self.error is not None:
            return 0
        if type(data) is not bytes:
            data = bytes(data)
        n = PyBytes_GET_SIZE(data)
        if n == 0:
            return 0
        if self._whole is not None:
            return self._append(<const uint8_t *>PyBytes_AS_STRING(data), n)
        if self._front is None:
            self._front = data
        else:
            if self._behind is None:
                self._behind = deque()
            self._behind.append(data)
        self.received += n
        if not self._collecting:
            self.buffered += n
            self._wake()
        return 0

    cdef int feed_raw(self, const uint8_t *data, size_t length) except -1:
        if self.ended or self.error is not None or length == 0:
            return 0
        if self._whole is None:
            return self.feed(PyBytes_FromStringAndSize(<const char *>data, length))
        return self._append(data, length)

    cdef uint8_t *place(self, uint64_t remaining, size_t *room) except? NULL:
        cdef object piece
        cdef size_t held, size
        if not self._collecting or self.ended or self.error is not None:
            return NULL
        if self._whole is None:
            pieces = [] if self._front is None else [self._front, *(self._behind or ())]
            held = sum([PyBytes_GET_SIZE(piece) for piece in pieces])
            self._whole = PyBytes_FromStringAndSize(NULL, held + min(remaining, <uint64_t>PLACE_MIN))
            self._filled = 0
            self._front = self._behind = None
            for piece in pieces:
                memcpy(PyBytes_AS_STRING(self._whole) + self._filled, PyBytes_AS_STRING(piece), PyBytes_GET_SIZE(piece))
                self._filled += PyBytes_GET_SIZE(piece)
        size = PyBytes_GET_SIZE(self._whole)
        if size == self._filled:
            # By doubling: whoever announces much and sends little holds little.
            size += min(remaining, <uint64_t>size)
            self._resize(size)
        room[0] = size - self._filled
        return <uint8_t *>PyBytes_AS_STRING(self._whole) + self._filled

    cdef int placed(self, size_t length) except -1:
        self._filled += length
        self.received += length
        return 0

    cdef int _append(self, const uint8_t *data, size_t length) except -1:
        if self._filled + length > <size_t>PyBytes_GET_SIZE(self._whole):
            self._resize(self._filled + length)
        memcpy(PyBytes_AS_STRING(self._whole) + self._filled, data, length)
        return self.placed(length)

    cdef int _resize(self, size_t size) except -1:
        # What is resized must not be shared: one reference, and not this attribute's.
        cdef PyObject *whole = <PyObject *>self._whole
        Py_INCREF(self._whole)
        self._whole = None
        _PyBytes_Resize(&whole, size)
        self._whole = <bytes>whole
        Py_DECREF(self._whole)
        return 0

    cdef int end(self, object trailers) except -1:
        if self.ended or self.error is not None:
            return 0
        self.ended = True
        self.trailers = trailers
        self.exchange = None
        self._wake()
        return 0

    cdef int fail(self, object error) except -1:
        if self.ended or self.error is not None:
            return 0
        self.error = error
        self.exchange = None
        self._wake()
        return 0

    cdef int _wake(self) except -1:
        cdef BodyListener listener
        cdef list others
        waiter = self._waiter
        if waiter is not None:
            self._waiter = None
            if not waiter.done():
                waiter.set_result(None)
        if self._others is not None:
            others = self._others
            self._others = None
            for waiter in others:
                if not waiter.done():
                    waiter.set_result(None)
        if self._listener is not None:
            listener = self._listener
            self._listener = None
            listener.body_over(self)
        return 0

    # --- the reader's side ---

    cdef int _begin(self) except -1:
        if not self.reading:
            self.reading = True
            if self.exchange is not None:
                self.exchange.body_wanted()
        return 0

    cdef object take(self):
        if self._collecting:
            raise RuntimeError("the request body is already being read by another task")
        self._begin()
        data = self._front
        if data is not None:
            self._front = self._behind.popleft() if self._behind else None
            self.buffered -= PyBytes_GET_SIZE(data)
            if self._front is None and self.exchange is not None:
                self.exchange.body_taken()
            return data
        if self.ended:
            return b""
        if self.error is not None:
            raise self.error
        return None

    cdef object wait(self):
        self._begin()
        waiter = get_running_loop().create_future()
        if self.ended or self.error is not None or (self._front is not None and not self._collecting):
            waiter.set_result(None)
        elif self._waiter is None or self._waiter.done():
            self._waiter = waiter
        else:
            # Another task waits: an ASGI framework that listens for the departure while the handler reads. Each is woken, and
            # the first takes what has come.
            if self._others is None:
                self._others = []
            self._others.append(waiter)
        if self.exchange is not None and not waiter.done():
            self.exchange.body_taken()  # from now on it is the peer that is waited for
        return waiter

    cdef bint awaited(self) except -1:
        return self._collecting or (self._waiter is not None and not self._waiter.done())

    cdef int collect(self, BodyListener listener) except -1:
        if self._waiter is not None and not self._waiter.done():
            raise RuntimeError("the request body is already being read by another task")
        self._begin()
        if self.ended or self.error is not None:
            if listener is not None:
                listener.body_over(self)
            return 0
        self._collecting = True
        self._listener = listener
        self.buffered = 0
        if self.exchange is not None:
            self.exchange.body_taken()
        return 0

    cdef int uncollect(self) except -1:
        if self._collecting:
            self._collecting = False
            self._listener = None
            self._front = self._front or self._taken_whole()
            self.buffered = 0 if self._front is None else len(self._front)
            if self._behind:
                self.buffered += sum([len(data) for data in self._behind])
        return 0

    cdef bytes joined(self):
        cdef bytes whole
        if self.error is not None:
            raise self.error
        if not self.ended:
            raise RuntimeError("the request body is not complete")
        whole = self._taken_whole()
        if whole is not None:
            return whole
        if self._front is None:
            return b""
        whole = self._front if not self._behind else b"".join((self._front, *self._behind))
        self._front = self._behind = None
        self.buffered = 0
        return whole

    cdef bytes _taken_whole(self):
        cdef bytes whole
        if self._whole is not None and self._filled == 0:
            self._whole = None   # room was made, and nothing came: that is no piece, least of all the last
        if self._whole is None:
            return None
        if self._filled < <size_t>PyBytes_GET_SIZE(self._whole):
            self._resize(self._filled)
        whole, self._whole = self._whole, None
        return whole


cdef class Request:
    """One request. All attributes are decoded when first read. Source of the names: starlette.requests.Request."""

    def __init__(self):
        raise TypeError("a Request is made by the server")

    def __dealloc__(self):
        free(self._fields)

    @staticmethod
    cdef Request make(object exchange, object channel, bytes owner, const uint8_t *data, fs_request_head *head,
                      fs_field *fields, RequestBody body):
        cdef Request self = Request.__new__(Request)
        cdef uint32_t count = head.fields_count
        cdef uint32_t i
        cdef fs_field *host = NULL
        self._exchange = exchange
        self._channel = channel
        self._owner = owner
        self._data = data
        self.head = head[0]
        self._body = body
        self._fields = <fs_field *>malloc((count + 1) * sizeof(fs_field))
        if self._fields == NULL:
            raise MemoryError()
        if count:
            memcpy(self._fields, fields, count * sizeof(fs_field))
        if head.parts.form == FS_TARGET_ABSOLUTE or head.parts.form == FS_TARGET_AUTHORITY:
            # RFC 9112 section 3.2.2: "the received Host field value MUST be ignored and replaced with the host
            # information of the request-target". Nobody above ever sees the field as it was sent.
            for i in range(count):
                if self._fields[i].id == FS_FIELD_HOST:
                    host = &self._fields[i]
                    break
            if host == NULL:
                host = &self._fields[count]
                host.id = FS_FIELD_HOST
                host.name = host.name_len = 0   # never read: the name of a known id is in the table
                count += 1
            host.value = head.host.off
            host.value_len = head.host.len
        self._fields_count = count
        return self

    cdef int rehost(self, uint32_t offset, uint32_t length) except -1:
        cdef uint32_t i
        self.head.host.off = offset
        self.head.host.len = length
        for i in range(self._fields_count):
            if self._fields[i].id == FS_FIELD_HOST:
                self._fields[i].value = offset
                self._fields[i].value_len = length
        return 0

    cdef bytes raw_target(self):
        return PyBytes_FromStringAndSize(<const char *>self._data + self.head.target.off, self.head.target.len)

    cdef Headers headers_(self):
        cdef fs_field *fields
        if self._headers is None:
            fields = self._fields
            self._headers = Headers.adopt(self._owner, self._data, fields, self._fields_count)
            self._fields = NULL
        return self._headers

    # --- the request line ---

    @property
    def method(self):
        """str, as sent (methods are case-sensitive, RFC 9110 section 9.1)."""
        if self._method is None:
            if 0 < self.head.method_id < FS_METHOD_COUNT:
                self._method = METHODS[self.head.method_id]
            else:
                self._method = PyBytes_FromStringAndSize(
                    <const char *>self._data + self.head.method.off, self.head.method.len
                ).decode("ascii")
        return self._method

    @property
    def path(self):
        """str: percent-decoded, read as UTF-8; what is not UTF-8 becomes U+FFFD. "*" for `OPTIONS *`, "" for
        CONNECT."""
        cdef const uint8_t *p
        if self._path is None:
            p = self._data + self.head.target.off + self.head.parts.path.off
            if self.head.parts.path.len == 0 and self.head.parts.form == FS_TARGET_ABSOLUTE:
                self._path = "/"
            else:
                self._path = path_text(p, self.head.parts.path.len, self.head.parts.has_percent)
        return self._path

    @property
    def raw_path(self):
        """bytes: as sent, without the query. "/" for an absolute-form target without a path (RFC 9110 section
        4.2.3)."""
        if self._raw_path is None:
            if self.head.parts.path.len == 0 and self.head.parts.form == FS_TARGET_ABSOLUTE:
                self._raw_path = b"/"
            else:
                self._raw_path = PyBytes_FromStringAndSize(
                    <const char *>self._data + self.head.target.off + self.head.parts.path.off, self.head.parts.path.len
                )
        return self._raw_path

    @property
    def query_string(self):
        """bytes: as sent, without the question mark."""
        if self._query_string is None:
            if self.head.parts.has_query:
                self._query_string = PyBytes_FromStringAndSize(
                    <const char *>self._data + self.head.target.off + self.head.parts.query.off,
                    self.head.parts.query.len,
                )
            else:
                self._query_string = b""
        return self._query_string

    @property
    def http_version(self):
        """ "1.1" or "1.0": what is spoken, not what was claimed (1.2 is served as 1.1, RFC 9110 section 2.5)."""
        return "1.1" if self.head.version_minor > 0 else "1.0"

    @property
    def query_params(self):
        """QueryParams."""
        if self._query_params is None:
            self._query_params = QueryParams(self.query_string)
        return self._query_params

    @property
    def path_params(self):
        """dict of the route's parameters, converted by the converters of the path."""
        if self._path_params is None:
            self._path_params = {}
        return self._path_params

    @property
    def url(self):
        """URL: scheme of the connection, authority of the request (RFC 9110 section 7.1), path and query as sent."""
        if self._url is None:
            host = PyBytes_FromStringAndSize(
                <const char *>self._data + self.head.host.off, self.head.host.len
            ).decode("latin-1")
            if not host and self.server is not None:
                host, port = self.server
                host = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
            path = self.raw_path.decode("latin-1")
            if path == "*":
                path = ""   # RFC 9112 section 3.3: the path and query of asterisk-form are empty
            query = self.query_string.decode("latin-1")
            self._url = URL(f"{self.scheme}://{host}{path}{'?' if query else ''}{query}")
        return self._url

    # --- the fields ---

    @property
    def headers(self):
        """Headers. In absolute-form "host" is the authority of the target (RFC 9112 section 3.2.2)."""
        return self.headers_()

    @property
    def cookies(self):
        """dict of str to str (RFC 6265 section 4.2; see cookie_parser)."""
        cdef list found
        if self._cookies is None:
            found = self.headers_().find_all(b"cookie")
            self._cookies = cookie_parser(b"; ".join(found).decode("latin-1")) if found else {}
        return self._cookies

    # --- who and where ---

    @property
    def client(self):
        """Address(host, port) of the client: as a trusted proxy says it, otherwise of the peer; None for a Unix socket."""
        if self._client is None and self._forwarded is not None and self._forwarded.client is not None:
            self._client = Address(*self._forwarded.client)
        if self._client is None and self._channel is not None:
            self._client = _address((<Channel>self._channel).info("peername"))
        return self._client

    @property
    def server(self):
        """Address(host, port) this connection came in at, or None (Unix socket)."""
        if self._server is None and self._channel is not None:
            self._server = _address((<Channel>self._channel).info("sockname"))
        return self._server

    @property
    def scheme(self):
        """ "http" or "https", as a trusted proxy says it, otherwise by the connection; the scheme of an absolute-form target
        is not trusted."""
        if self._scheme is None and self._forwarded is not None:
            self._scheme = self._forwarded.scheme
        if self._scheme is None:
            secure = self._channel is not None and (<Channel>self._channel).info("ssl_object") is not None
            self._scheme = "https" if secure else "http"
        return self._scheme

    @property
    def peer_certificate(self):
        """The client's certificate as ssl.SSLSocket.getpeercert() gives it: a dict with `subject`, `issuer`, `serialNumber`,
        `notBefore`, `notAfter`, perhaps `subjectAltName`. None without TLS, or if the client showed none (`ssl_cert_reqs`)."""
        secure = None if self._channel is None else (<Channel>self._channel).info("ssl_object")
        return None if secure is None else secure.getpeercert() or None

    @property
    def state(self):
        """Namespace of this request, filled with what the lifespan yielded."""
        if self._state is None:
            self._state = Namespace(self._base_state)
        return self._state

    @property
    def id(self):
        """str: what a trusted proxy calls this request, otherwise 16 hex digits, made when first asked for. The access log has
        the same. It tells requests apart; it is no secret."""
        if self._id is None:
            self._id = (new_id() if self._exchange is None else <bytes>self._exchange.request_id()).decode("ascii")
        return self._id

    # --- the body ---

    async def body(self):
        """The whole body as bytes; the same object again when asked again. Does not suspend if the body is here
        already.

        Raises ClientDisconnected if the peer left before its end, RemoteProtocolError if it broke a rule (its `status`
        says which answer is due), RuntimeError if stream() has begun.
        """
        if self._whole_body is None:
            if self._body is None:
                self._whole_body = b""
                return self._whole_body
            if self._streamed:
                raise RuntimeError("the request body was consumed by stream()")
            if not self._body.ended and self._body.error is None:
                self._body.collect(None)
                try:
                    await self._body.wait()
                finally:
                    # cancelled: what has come is kept for whoever reads on
                    self._body.uncollect()
            self._body._begin()
            if self._whole_body is None:
                self._whole_body = self._body.joined()
        return self._whole_body

    async def text(self):
        """The body as str, by the charset of Content-Type, else UTF-8. HTTPException(400) if it is not that."""
        data = await self.body()
        charset = _charset(self.headers.get("content-type", ""))
        try:
            if lookup_codec(charset).name in NO_CHARSETS:
                raise LookupError(charset)
            return data.decode(charset)
        except (LookupError, UnicodeError) as error:
            raise HTTPException(400, f"The body is not {charset} text") from error

    async def json(self):
        """The body as JSON, through msgspec, orjson or json, whichever is installed. HTTPException(400) if
        malformed."""
        data = await self.body()
        try:
            return json_decode(data)
        except (ValueError, RecursionError) as error:
            raise HTTPException(400, f"Malformed JSON: {error}") from error

    async def stream(self):
        """Asynchronous iterator of bytes, never empty, as they come. After body() it gives that body.

        Reading is paused while the pieces are not taken. Errors as for body(); RuntimeError the second time.
        """
        if self._whole_body is not None:
            if self._whole_body:
                yield self._whole_body
            return
        if self._streamed:
            raise RuntimeError("the request body was consumed by stream()")
        self._streamed = True
        if self._body is None:
            return
        while True:
            data = self._body.take()
            if data is None:
                await self._body.wait()
            elif data:
                yield data
            else:
                return

    @property
    def trailers(self):
        """Headers: the trailer fields that may be passed on (RFC 9110 section 6.5); empty before the body has ended."""
        if self._body is None or self._body.trailers is None:
            return Headers()
        return Headers(raw=self._body.trailers)

    async def is_disconnected(self):
        """True once the peer has left."""
        return self._exchange is None or self._exchange.disconnected

    def __repr__(self):
        return f"<Request {self.method} {self.raw_target().decode('latin-1')}>"


cdef str _charset(str content_type):
    """The parameter charset of a Content-Type (RFC 9110 section 8.3.1); "utf-8" if there is none. Each character is looked at
    once: email.message, which knows the syntax too, needs seconds for a long row of semicolons between quotes."""
    cdef Py_ssize_t i = 0
    cdef Py_ssize_t n = len(content_type)
    cdef Py_ssize_t start
    cdef str name
    cdef list quoted
    while i < n and content_type[i] != ";":
        i += 1
    while i < n:
        i += 1
        start = i
        while i < n and content_type[i] != ";" and content_type[i] != "=":
            i += 1
        name = content_type[start:i].strip().lower()
        if i == n or content_type[i] == ";":
            continue
        i += 1
        start = i
        if i < n and content_type[i] == '"':
            quoted = []
            i += 1
            while i < n and content_type[i] != '"':
                i += content_type[i] == "\\"
                if i < n:
                    quoted.append(content_type[i])
                    i += 1
            value = "".join(quoted)
            while i < n and content_type[i] != ";":
                i += 1
        else:
            while i < n and content_type[i] != ";":
                i += 1
            value = content_type[start:i].strip()
        if name == "charset":
            return value
    return "utf-8"


cdef object _address(object name):
    # peername is (host, port) or (host, port, flow, scope); a path or b"" for Unix sockets
    if isinstance(name, tuple) and len(<tuple>name) >= 2:
        return Address(name[0], name[1])
    return None


cdef class Namespace:
    """Attributes by any name; also by `[]`. `app.state` and `request.state`. Source: starlette.datastructures.State."""

    def __init__(self, values=None):
        self._values = dict(values) if values is not None else {}

    def __getattr__(self, name):
        try:
            return self._values[name]
        except KeyError:
            raise AttributeError(f"the state has no attribute {name!r}") from None

    def __setattr__(self, name, value):
        self._values[name] = value

    def __delattr__(self, name):
        try:
            del self._values[name]
        except KeyError:
            raise AttributeError(f"the state has no attribute {name!r}") from None

    def __getitem__(self, name):
        return self._values[name]

    def __setitem__(self, name, value):
        self._values[name] = value

    def __delitem__(self, name):
        del self._values[name]

    def __contains__(self, name):
        return name in self._values

    def __iter__(self):
        return iter(self._values)

    def __len__(self):
        return len(self._values)

    def __repr__(self):
        return f"Namespace({self._values!r})"
