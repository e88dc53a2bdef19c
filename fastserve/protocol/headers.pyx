"""Headers, and the other small values a request is read through: QueryParams, cookies, URL, Address.

Room:    floor 1. Headers is a lazy view over the parsed offsets: a look-up compares field numbers, and builds one bytes
         object for the value; the list of pairs is made only when somebody wants all of it.
Called:  by Request, Response, the wings, users. Calls core.pxd.
Rules:   RFC 9110 section 5 (names are case-insensitive, values are bytes, read as latin-1 as in WSGI, ASGI and
         Starlette); RFC 6265 section 5 (cookies, as browsers write them); RFC 3986 (URL). Names and behaviour are
         Starlette's.
"""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.stdlib cimport free
from libc.string cimport memcmp

from fastserve.protocol.core cimport FS_FIELD_COUNT, FS_FIELD_UNKNOWN, fs_field, fs_field_id, fs_field_text

import re
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

__all__ = ["Address", "Headers", "MutableHeaders", "QueryParams", "URL", "cookie_parser"]

cdef object MISSING = object()

# The known names, made once: items of a request need no allocation for them. Index: FS_FIELD_ number.
cdef list NAMES = [<bytes>(<const char *>fs_field_text[i]) for i in range(<int>FS_FIELD_COUNT)]
cdef list NAMES_TEXT = [name.decode("ascii") for name in NAMES]
# str -> bytes for the spellings that are looked up all the time.
cdef dict NAME_BYTES = {text: name for text, name in zip(NAMES_TEXT[1:], NAMES[1:])}
cdef dict NAME_TEXT = {name: text for text, name in zip(NAMES_TEXT[1:], NAMES[1:])}
NAME_BYTES.update({text.title(): name for text, name in zip(NAMES_TEXT[1:], NAMES[1:])})

# RFC 9110 section 5.6.2
cdef bytes TOKEN = b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


cdef bytes field_name(unsigned field_id):
    return <bytes>NAMES[field_id]


cdef bytes name_of(object key):
    name = NAME_BYTES.get(key)
    if name is not None:
        return <bytes>name
    if isinstance(key, str):
        try:
            return (<str>key).lower().encode("latin-1")
        except UnicodeEncodeError:
            return None
    if isinstance(key, bytes):
        return (<bytes>key).lower()
    return None


cdef bytes checked_name(object key):
    name = NAME_BYTES.get(key)
    if name is not None:
        return <bytes>name
    name = name_of(key)
    if name is None and not isinstance(key, str):
        raise TypeError(f"a header name is str or bytes, not {type(key).__name__}")
    if not name or (<bytes>name).translate(None, TOKEN):
        raise ValueError(f"header name {key!r} is not a token (RFC 9110 section 5.1)")
    return <bytes>name


cdef bytes checked_value(object value):
    cdef bytes raw
    cdef Py_ssize_t i
    cdef char c
    if isinstance(value, str):
        try:
            raw = (<str>value).encode("latin-1")
        except UnicodeEncodeError:
            raise ValueError(f"header value {value!r} cannot be written in latin-1") from None
    elif isinstance(value, bytes):
        raw = <bytes>value
    else:
        raise TypeError(f"a header value is str or bytes, not {type(value).__name__}")
    for i in range(PyBytes_GET_SIZE(raw)):
        c = PyBytes_AS_STRING(raw)[i]
        if c == c'\r' or c == c'\n' or c == 0:
            # RFC 9110 section 5.5: "a sender MUST NOT generate" them; with them a response could be split in two.
            raise ValueError(f"header value {value!r} holds CR, LF or NUL")
    return raw


cdef list raw_headers(object headers):
    cdef list out = []
    if headers is None:
        return out
    if isinstance(headers, Headers):
        return list((<Headers>headers).items_())
    if hasattr(headers, "items"):
        headers = headers.items()
    for name, value in headers:
        out.append((checked_name(name), checked_value(value)))
    return out


cdef inline bint _same(const uint8_t *p, const char *name, Py_ssize_t n) noexcept:
    # `name` is in lower case; only A-Z differ by case in a token
    cdef Py_ssize_t i
    cdef uint8_t c
    for i in range(n):
        c = p[i]
        if c >= 65 and c <= 90:
            c |= 0x20
        if c != <uint8_t>name[i]:
            return False
    return True


cdef inline str _text(bytes raw):
    return raw.decode("latin-1")


cdef class Headers:
    """Header fields: a mapping of str to str that ignores the case of names, keeps order and repetitions.

    `Headers(headers=mapping)` or `Headers(raw=[(b"name", b"value"), ...])`. `headers["name"]` and `.get()` give the
    first value of a name, `.getlist()` all of them. Names come back in lower case, values decoded as latin-1.
    Source: starlette.datastructures.Headers; RFC 9110 section 5.
    """

    def __init__(self, headers=None, raw=None):
        if headers is not None:
            if raw is not None:
                raise TypeError("either headers or raw, not both")
            self._items = raw_headers(headers)
        elif raw is not None:
            self._items = [(bytes(name).lower(), bytes(value)) for name, value in raw]
        else:
            self._items = []

    def __dealloc__(self):
        if self._ours:
            free(self._fields)

    @staticmethod
    cdef Headers over(object keeper, object owner, const uint8_t *data, fs_field *fields, uint32_t count):
        cdef Headers self = Headers.__new__(Headers)
        self._keeper = keeper
        self._owner = owner
        self._data = data
        self._fields = fields
        self._count = count
        return self

    @staticmethod
    cdef Headers adopt(object owner, const uint8_t *data, fs_field *fields, uint32_t count):
        cdef Headers self = Headers.over(None, owner, data, fields, count)
        self._ours = True
        return self

    cdef list items_(self):
        cdef uint32_t i
        cdef fs_field *field
        cdef list items
        if self._items is None:
            items = []
            for i in range(self._count):
                field = &self._fields[i]
                if field.id != FS_FIELD_UNKNOWN:
                    name = NAMES[field.id]
                else:
                    name = PyBytes_FromStringAndSize(<const char *>self._data + field.name, field.name_len).lower()
                items.append((name, PyBytes_FromStringAndSize(<const char *>self._data + field.value, field.value_len)))
            self._items = items
        return self._items

    cdef bytes find(self, bytes name):
        cdef uint32_t i
        cdef uint16_t field_id
        cdef Py_ssize_t n = PyBytes_GET_SIZE(name)
        cdef fs_field *field
        if self._items is not None:
            for item in self._items:
                if (<tuple>item)[0] == name:
                    return <bytes>(<tuple>item)[1]
            return None
        field_id = fs_field_id(<const uint8_t *>PyBytes_AS_STRING(name), n)
        for i in range(self._count):
            field = &self._fields[i]
            if field.id != field_id:
                continue
            if field_id == FS_FIELD_UNKNOWN and (
                field.name_len != n or not _same(self._data + field.name, PyBytes_AS_STRING(name), n)
            ):
                continue
            return PyBytes_FromStringAndSize(<const char *>self._data + field.value, field.value_len)
        return None

    cdef list find_all(self, bytes name):
        cdef list found = []
        for item in self.items_():
            if (<tuple>item)[0] == name:
                found.append((<tuple>item)[1])
        return found

    # --- the mapping ---

    @property
    def raw(self):
        """List of (bytes, bytes): names in lower case, values as they were received."""
        return list(self.items_())

    def keys(self):
        """All names in order, repeated ones repeated."""
        return [_name_text(<bytes>(<tuple>item)[0]) for item in self.items_()]

    def values(self):
        return [_text(<bytes>(<tuple>item)[1]) for item in self.items_()]

    def items(self):
        return [
            (_name_text(<bytes>(<tuple>item)[0]), _text(<bytes>(<tuple>item)[1])) for item in self.items_()
        ]

    def get(self, key, default=None):
        """The first value of a name, or `default`."""
        cdef bytes name = name_of(key)
        cdef bytes value = self.find(name) if name is not None else None
        return default if value is None else _text(value)

    def getlist(self, key):
        """All values of a name, in order; an empty list if there is none."""
        cdef bytes name = name_of(key)
        return [_text(<bytes>value) for value in self.find_all(name)] if name is not None else []

    def mutablecopy(self):
        return MutableHeaders(raw=list(self.items_()))

    def __getitem__(self, key):
        cdef bytes name = name_of(key)
        cdef bytes value = self.find(name) if name is not None else None
        if value is None:
            raise KeyError(key)
        return _text(value)

    def __contains__(self, key):
        cdef bytes name = name_of(key)
        return name is not None and self.find(name) is not None

    def __iter__(self):
        return iter(self.keys())

    def __len__(self):
        return len(self.items_())

    def __eq__(self, other):
        if not isinstance(other, Headers):
            return NotImplemented
        return sorted(self.items_()) == sorted((<Headers>other).items_())

    def __repr__(self):
        cdef dict single = dict(self.items())
        if len(single) == len(self.items_()):
            return f"{type(self).__name__}({single!r})"
        return f"{type(self).__name__}(raw={self.items_()!r})"


cdef inline str _name_text(bytes name):
    text = NAME_TEXT.get(name)
    return <str>text if text is not None else name.decode("latin-1")


cdef class MutableHeaders(Headers):
    """Headers of a response. Names must be tokens, values must not hold CR, LF or NUL: ValueError.

    Source: starlette.datastructures.MutableHeaders.
    """

    def __init__(self, headers=None, raw=None):
        # As in Starlette the list given as `raw` is used, not copied: a Response and its headers are one list.
        if raw is not None and headers is None and type(raw) is list:
            self._items = raw
        else:
            Headers.__init__(self, headers, raw)

    @property
    def raw(self):
        """The list of (bytes, bytes) itself."""
        return self._items

    cdef int put(self, bytes name, bytes value) except -1:
        cdef Py_ssize_t i
        cdef list items = self._items
        for i in range(len(items)):
            if (<tuple>items[i])[0] == name:
                items[i] = (name, value)
                i += 1
                if i < len(items):
                    items[i:] = [item for item in items[i:] if (<tuple>item)[0] != name]
                return 0
        items.append((name, value))
        return 0

    cdef int drop(self, bytes name) except -1:
        cdef list items = self._items
        if self.find(name) is not None:
            items[:] = [item for item in items if (<tuple>item)[0] != name]
        return 0

    def __setitem__(self, key, value):
        self.put(checked_name(key), checked_value(value))

    def __delitem__(self, key):
        """No error if there is no such header."""
        cdef bytes name = name_of(key)
        if name is not None:
            self.drop(name)

    def append(self, key, value):
        """Add one more field, also if the name is there already."""
        self._items.append((checked_name(key), checked_value(value)))

    def setdefault(self, key, value):
        """The value of the name, which is set to `value` if there is none."""
        cdef bytes name = checked_name(key)
        cdef bytes found = self.find(name)
        if found is None:
            found = checked_value(value)
            self._items.append((name, found))
        return _text(found)

    def update(self, other):
        """Set every name of a mapping (or of pairs)."""
        for name, value in (other.items() if hasattr(other, "items") else other):
            self[name] = value

    def add_vary_header(self, vary):
        """Add to the list of the Vary field (RFC 9110 section 12.5.5)."""
        cdef bytes found = self.find(b"vary")
        self["vary"] = vary if found is None else f"{_text(found)}, {vary}"

    def __ior__(self, other):
        self.update(other)
        return self

    def __or__(self, other):
        merged = self.mutablecopy()
        merged.update(other)
        return merged

    def mutablecopy(self):
        return MutableHeaders(raw=list(self._items))


cdef class QueryParams:
    """The query of a URL: a mapping of str to str. Blank values are kept; of a repeated name `[]` and `.get()` give the
    last value, `.getlist()` all of them.

    `QueryParams(value)`: str or bytes of the query without "?", a mapping, or pairs. Escapes that are not UTF-8 become
    U+FFFD. Source: starlette.datastructures.QueryParams; urllib.parse.parse_qsl (WHATWG URL section 5.1).
    """
    cdef list _pairs
    cdef dict _last

    def __init__(self, value=None):
        if value is None:
            self._pairs = []
        elif isinstance(value, QueryParams):
            self._pairs = (<QueryParams>value)._pairs
        elif isinstance(value, bytes):
            self._pairs = _parse_query((<bytes>value).decode("latin-1"))
        elif isinstance(value, str):
            self._pairs = _parse_query(<str>value)
        else:
            self._pairs = [(str(k), str(v)) for k, v in (value.items() if hasattr(value, "items") else value)]
        self._last = dict(self._pairs)

    def getlist(self, key):
        """All values of a name, in order; an empty list if there is none."""
        return [(<tuple>pair)[1] for pair in self._pairs if (<tuple>pair)[0] == key]

    def multi_items(self):
        """All pairs in order."""
        return list(self._pairs)

    def get(self, key, default=None):
        return self._last.get(key, default)

    def keys(self):
        return self._last.keys()

    def values(self):
        return self._last.values()

    def items(self):
        return self._last.items()

    def __getitem__(self, key):
        return self._last[key]

    def __contains__(self, key):
        return key in self._last

    def __iter__(self):
        return iter(self._last)

    def __len__(self):
        return len(self._last)

    def __eq__(self, other):
        if not isinstance(other, QueryParams):
            return NotImplemented
        return sorted(self._pairs) == sorted((<QueryParams>other)._pairs)

    def __str__(self):
        return urlencode(self._pairs)

    def __repr__(self):
        return f"{type(self).__name__}({str(self)!r})"


cdef list _parse_query(str query):
    cdef list pairs
    if not query:
        return []
    if "%" in query or "+" in query:
        return parse_qsl(query, keep_blank_values=True)
    # the same without escapes: nothing to decode
    pairs = []
    for piece in query.split("&"):
        if piece:
            name, _, value = (<str>piece).partition("=")
            pairs.append((name, value))
    return pairs


# A quoted value of http.cookies: backslash and three octal digits, or backslash and the character. CPython's own
# _unquote took quadratic time until 2024 (CVE-2024-7592), which a peer's Cookie field could use; this is one pass.
cdef object unquoted_sub = re.compile(r"\\(?:([0-3][0-7][0-7])|(.))", re.DOTALL).sub


def _unescape(match):
    octal, other = match.groups()
    return chr(int(octal, 8)) if octal else other


cdef str _cookie_value(str value):
    if len(value) < 2 or not value.startswith('"') or not value.endswith('"'):
        return value
    return unquoted_sub(_unescape, value[1:len(value) - 1])


def cookie_parser(str text):
    """The value of a Cookie field as dict of str to str; the last of equal names counts, quoted values are unquoted.

    It is as lenient as browsers are, for any site on the domain may set what we read. Source: starlette.requests.
    cookie_parser, which has it from Django; RFC 6265 section 5.4.
    """
    cdef dict cookies = {}
    for piece in text.split(";"):
        name, equals, value = (<str>piece).partition("=")
        if not equals:
            name, value = "", piece
        name = (<str>name).strip()
        value = (<str>value).strip()
        if name or value:
            cookies[name] = _cookie_value(value)
    return cookies


class Address(NamedTuple):
    """One end of a connection. Source: starlette.datastructures.Address."""
    host: str
    port: int


class URL:
    """A URL: str(url) is the text, the parts are read with urllib.parse.urlsplit when asked for.

    Source: starlette.datastructures.URL (without its set-up from a scope).
    """
    __slots__ = ("_text", "_parts")

    def __init__(self, text=""):
        self._text = str(text)
        self._parts = None

    @property
    def components(self):
        """urllib.parse.SplitResult."""
        if self._parts is None:
            self._parts = urlsplit(self._text)
        return self._parts

    @property
    def scheme(self):
        return self.components.scheme

    @property
    def netloc(self):
        return self.components.netloc

    @property
    def path(self):
        """As in the URL: not percent-decoded."""
        return self.components.path

    @property
    def query(self):
        return self.components.query

    @property
    def fragment(self):
        return self.components.fragment

    @property
    def username(self):
        return self.components.username

    @property
    def password(self):
        return self.components.password

    @property
    def hostname(self):
        return self.components.hostname

    @property
    def port(self):
        """int, or None if the URL names none."""
        return self.components.port

    @property
    def is_secure(self):
        return self.scheme in ("https", "wss")

    def replace(self, **parts):
        """A new URL with some of scheme, netloc, path, query, fragment, hostname, port, username, password replaced."""
        if "hostname" in parts or "port" in parts or "username" in parts or "password" in parts:
            hostname = parts.pop("hostname", None)
            port = parts.pop("port", self.port)
            username = parts.pop("username", self.username)
            password = parts.pop("password", self.password)
            if hostname is None:
                netloc = self.netloc.rpartition("@")[2]
                if not netloc.endswith("]"):
                    head, colon, _ = netloc.rpartition(":")
                    netloc = head if colon else netloc
            else:
                netloc = f"[{hostname}]" if ":" in hostname and not hostname.startswith("[") else hostname
            if port is not None:
                netloc += f":{port}"
            if username is not None:
                netloc = f"{username}:{password}@{netloc}" if password is not None else f"{username}@{netloc}"
            parts["netloc"] = netloc
        return URL(urlunsplit(self.components._replace(**parts)))

    def include_query_params(self, **params):
        """A new URL whose query has these names, each once, and keeps its others."""
        pairs = dict(parse_qsl(self.query, keep_blank_values=True))
        pairs.update({str(name): str(value) for name, value in params.items()})
        return self.replace(query=urlencode(pairs))

    def __str__(self):
        return self._text

    def __eq__(self, other):
        return self._text == str(other)

    def __hash__(self):
        return hash(self._text)

    def __repr__(self):
        text = self._text
        if self.password:
            text = str(self.replace(password="********"))
        return f"URL({text!r})"


Mapping.register(Headers)
Mapping.register(QueryParams)
