"""AccessLog: one line per exchange, put together in C, handed to a writer in batches.

Room:    side wing; reads finished exchanges (station 8).
Called:  by Connection through the Observer door. Calls LineWriter, a few times a second.
Rules:   the atoms are those of the Apache and gunicorn log formats; the names of the JSON object are OpenTelemetry's semantic
         conventions for HTTP servers.

A format is taken apart once. Text of the peer's is escaped in every format (csrc/logline.c): one request is one line
whatever it holds, and a value cannot end the quotes around it.
"""

import asyncio
import base64
import errno
import logging
import os
import sys
import time

from cpython.bytearray cimport PyByteArray_AS_STRING
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.object cimport PyObject
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcmp, memcpy

from fastserve.protocol.core cimport (
    FS_LOG_BYTES, FS_LOG_BYTES_OR_DASH, FS_LOG_DASH, FS_LOG_FIELD, FS_LOG_FOUND, FS_LOG_HANDLER, FS_LOG_HOST,
    FS_LOG_ID, FS_LOG_LITERAL, FS_LOG_METHOD, FS_LOG_MS, FS_LOG_MS_DECIMAL, FS_LOG_PATH, FS_LOG_PEER, FS_LOG_PID, FS_LOG_PORT,
    FS_LOG_PROTOCOL, FS_LOG_QUERY, FS_LOG_QUEUE, FS_LOG_REQUEST_LINE, FS_LOG_S, FS_LOG_SENDING, FS_LOG_SLACK,
    FS_LOG_STATUS, FS_LOG_S_DECIMAL, FS_LOG_TIME, FS_LOG_US, FS_LOG_VERSION, fs_log_line, fs_log_line_room,
    fs_log_usual, fs_text_equal,
)
from fastserve.protocol.exchange cimport END_AT, HEAD_AT
from fastserve.protocol.forwarded cimport Forwarded
from fastserve.protocol.timers cimport wall_now

from fastserve.telemetry.line_writer import LineWriter as _LineWriter

logger = logging.getLogger("fastserve")

FLUSH_SECONDS = 0.1

cdef enum:
    BATCH = 131072       # bytes that are handed over at once, before their time; a file system takes fewer, longer writes for less
    HELD_MAX = 1 << 20   # for a stream that is no file: held back at most, beyond it lines are counted as dropped

USER, ANSWER_FIELD = -1, -2   # Python looks these up
ATOMS = {
    "h": FS_LOG_HOST, "l": FS_LOG_DASH, "u": USER, "t": FS_LOG_TIME, "r": FS_LOG_REQUEST_LINE, "m": FS_LOG_METHOD,
    "U": FS_LOG_PATH, "q": FS_LOG_QUERY, "H": FS_LOG_PROTOCOL, "s": FS_LOG_STATUS, "B": FS_LOG_BYTES,
    "b": FS_LOG_BYTES_OR_DASH, "T": FS_LOG_S, "M": FS_LOG_MS, "D": FS_LOG_US, "L": FS_LOG_S_DECIMAL, "p": FS_LOG_PID,
    "peer": FS_LOG_PEER, "port": FS_LOG_PORT, "ms": FS_LOG_MS_DECIMAL, "version": FS_LOG_VERSION,
    "queue": FS_LOG_QUEUE, "handler": FS_LOG_HANDLER, "send": FS_LOG_SENDING, "request_id": FS_LOG_ID,
}
"""Name of an atom, as in %(name)s, to what it stands for. %(f)s and %(a)s are fields of the request: Referer, User-Agent."""
FIELDS = {"f": "referer", "a": "user-agent"}

FORMATS = {
    "default": '%(peer)s - "%(r)s" %(s)s %(B)s %(ms)sms',
    "common": '%(h)s %(l)s %(u)s %(t)s "%(r)s" %(s)s %(b)s',
    "combined": '%(h)s %(l)s %(u)s %(t)s "%(r)s" %(s)s %(b)s "%(f)s" "%(a)s"',
    "json": "json",
}
JSON = [
    ("timestamp", "t"), ("client.address", "h"), ("client.port", "port"), ("http.request.method", "m"), ("url.path", "U"),
    ("url.query", "q"), ("network.protocol.version", "version"), ("http.response.status_code", "s"),
    ("http.response.body.size", "B"), ("http.server.request.duration", "L"), ("user_agent.original", "a"),
    ("http.request.id", "request_id"), ("process.pid", "p"),
]
"""Members of a line of JSON, in order, and their atoms. Durations are in seconds."""


def parse_format(text: str) -> list[tuple[int, str]]:
    """The pieces of a format: (kind, literal text or name of a field). ValueError, in one line, for what is no atom."""
    text = FORMATS.get(text, text)
    if text == "json":
        pieces = []
        for index, (name, atom) in enumerate(JSON):
            pieces.append((FS_LOG_LITERAL, ("," if index else "{") + f'"{name}":'))
            pieces.append((FS_LOG_FIELD, FIELDS[atom]) if atom in FIELDS else (ATOMS[atom], ""))
        return [*pieces, (FS_LOG_LITERAL, "}\n")]
    pieces = []
    literal = ""
    at = 0
    while at < len(text):
        if text[at] != "%":
            literal += text[at]
            at += 1
        elif text[at:at + 2] == "%%":
            literal += "%"
            at += 2
        else:
            end = text.find(")s", at)
            if text[at:at + 2] != "%(" or end < 0:
                raise ValueError(f"%(name)s expected at {text[at:at + 10]!r}; a percent sign is %%")
            if literal:
                pieces.append((FS_LOG_LITERAL, literal))
                literal = ""
            pieces.append(_atom(text[at + 2:end]))
            at = end + 2
    if any(ord(c) < 32 for c in text):
        raise ValueError("a line is one line: no control characters")
    return [*pieces, (FS_LOG_LITERAL, literal + "\n")]


def _with_tails(pieces):
    """(kind, text, the literal that stands behind it): one turn of csrc/logline.c for both."""
    found = []
    for kind, text in pieces:
        if kind == FS_LOG_LITERAL and found:
            before, name, tail = found.pop()
            found.append((before, name, tail + text))
        else:
            found.append((kind, text, ""))
    return found


def _atom(name: str):
    if name in ATOMS:
        return ATOMS[name], ""
    if name in FIELDS:
        return FS_LOG_FIELD, FIELDS[name]
    if name.startswith("{") and name.endswith(("}i", "}o")) and len(name) > 3 and name.isascii():
        return FS_LOG_FIELD if name.endswith("i") else ANSWER_FIELD, name[1:len(name) - 2].lower()
    raise ValueError(f"no atom %({name})s; there are {' '.join(sorted([*ATOMS, *FIELDS]))} and {{NAME}}i, {{NAME}}o for fields")


cdef extern from "Python.h":   # of what somebody else keeps
    char *fs_bytes "PyBytes_AS_STRING" (PyObject *text)
    Py_ssize_t fs_bytes_len "PyBytes_GET_SIZE" (PyObject *text)


cdef class AccessLog(Observer):
    """to: where the lines go: what LineWriter takes ("-": standard output), or a text stream, which is written by the loop.

    format: the name of one of FORMATS, or a text with atoms. exclude: paths without a line; one that ends with * is a prefix.
    ValueError for a format that is none, OSError for a file that cannot be opened.
    """

    def __cinit__(self, to=None, format="default", exclude=()):
        cdef uint32_t index
        cdef bytes piece, tail
        pieces = _with_tails(parse_format(format))
        self._facts.json = FORMATS.get(format, format) == "json"
        self._count = len(pieces)
        self._pieces = <fs_log_piece *>malloc(self._count * sizeof(fs_log_piece))
        self._found = <fs_log_text *>calloc(self._count, sizeof(fs_log_text))
        if self._pieces == NULL or self._found == NULL:
            raise MemoryError
        self._texts = []
        self._lookups = {}
        for index, (kind, text, behind) in enumerate(pieces):
            piece = text.encode("utf-8", "surrogateescape") + bytes(FS_LOG_SLACK)
            tail = behind.encode("utf-8", "surrogateescape") + bytes(FS_LOG_SLACK)
            self._texts += (piece, tail)
            if kind in (FS_LOG_QUEUE, FS_LOG_HANDLER, FS_LOG_SENDING):
                self.wants_moments = True
            elif kind == FS_LOG_TIME:
                self._timed = True
            elif kind == FS_LOG_ID:
                self._named_requests = True
            elif kind == ANSWER_FIELD:
                self.wants_fields = True
            if kind in (USER, ANSWER_FIELD, FS_LOG_FIELD):
                self._lookups[index] = (kind, text)
            self._pieces[index].kind = FS_LOG_FOUND if kind < 0 else kind
            self._pieces[index].text = <const uint8_t *>PyBytes_AS_STRING(piece)
            self._pieces[index].len = PyBytes_GET_SIZE(piece) - FS_LOG_SLACK
            self._pieces[index].tail = <const uint8_t *>PyBytes_AS_STRING(tail)
            self._pieces[index].tail_len = PyBytes_GET_SIZE(tail) - FS_LOG_SLACK
            self._pieces[index].found = index
        self._needs = fs_log_line_room(self._pieces, self._count, self._facts.json)
        self._facts.usual = fs_log_usual(self._pieces, self._count, self._facts.json)
        self._excluded = {os.fsencode(path): None for path in exclude if not path.endswith("*")}
        self._excluded_prefixes = tuple(os.fsencode(path.removesuffix("*")) for path in exclude if path.endswith("*"))
        self._excludes = len(exclude) != 0
        self._second = -1
        self._pid = (str(os.getpid()) if self._facts.json else f"<{os.getpid()}>").encode() + bytes(FS_LOG_SLACK)
        self._facts.pid.p = <const uint8_t *>PyBytes_AS_STRING(self._pid)
        self._facts.pid.len = PyBytes_GET_SIZE(self._pid) - FS_LOG_SLACK
        self._facts.found = self._found
        to = sys.stdout if to is None else to
        if hasattr(to, "write"):
            self._stream = to
        else:
            self._writer = _LineWriter(to)
        self._asks = self._excludes or self._stream is not None or {kind for kind, _, _ in pieces} - {
            FS_LOG_LITERAL, FS_LOG_PEER, FS_LOG_REQUEST_LINE, FS_LOG_STATUS, FS_LOG_BYTES, FS_LOG_MS_DECIMAL}

    def __dealloc__(self):
        free(self._pieces)
        free(self._found)
        free(self._out)

    # ---------------------------------------------------------------------------------------------- one exchange

    cdef int observe(self, Exchange exchange) except -1:
        cdef fs_log_facts *facts = &self._facts
        cdef size_t source = 0   # bytes that may have to be escaped
        cdef size_t written = self._len
        cdef size_t room
        cdef PyObject *peer
        if exchange.data != NULL:
            facts.head, facts.data, facts.fields = &exchange.channel.conn.head, exchange.data, exchange.fields
            source = facts.head.end
        elif exchange._request is not None:  # its fields may have been taken over by Headers
            facts.head, facts.data, facts.fields = &exchange._request.head, exchange._request._data, NULL
            source = facts.head.end
        else:
            facts.head, facts.data, facts.fields = NULL, NULL, NULL  # refused before it was a request
        if self._asks and not self._ask(exchange, &source):
            return 0
        peer = <PyObject *>exchange.channel.peer_text
        if peer == <PyObject *>None or facts.head != NULL and facts.head.forwarded:
            self._tell_peer(exchange)
        else:   # the channel keeps it
            facts.peer.p = <const uint8_t *>fs_bytes(peer)
            facts.peer.len = fs_bytes_len(peer) - FS_LOG_SLACK
        facts.ns = max(exchange.moments[<int>END_AT] - exchange.moments[<int>HEAD_AT], 0)
        facts.status = exchange.status if exchange.status else 499
        facts.body_bytes = exchange.body_sent
        room = self._needs.fixed + self._needs.each * (source + facts.peer.len)
        if self._cap - written < room:
            self._grow(room)
        written += fs_log_line(self._out + written, self._pieces, self._count, facts)
        self._len = written
        self._lines += 1
        if self._handle is None or written >= BATCH:
            self._soon()
        return 0

    cdef int _soon(self) except -1:
        if self._handle is None:
            self._handle = asyncio.get_running_loop().call_later(FLUSH_SECONDS, self.flush)
        if self._len >= BATCH and self._writer is not None:
            self._hand_over()
        return 0

    cdef bint _ask(self, Exchange exchange, size_t *source) except -1:
        # What the default format does without; its bytes are added to `source`. False: this one has no line.
        cdef fs_log_facts *facts = &self._facts
        cdef bytes name
        if self._excludes and facts.head != NULL and self._is_excluded(
                facts.data + facts.head.target.off + facts.head.parts.path.off, facts.head.parts.path.len):
            return False
        if self._stream is not None and self._len >= HELD_MAX:
            self._dropped += 1
            return False
        facts.moments = exchange.moments
        if self._timed:
            self._tell_time()
        if self._named_requests:
            name = exchange.id()   # the exchange keeps it
            facts.id.p = <const uint8_t *>PyBytes_AS_STRING(name)
            facts.id.len = PyBytes_GET_SIZE(name)
            source[0] += facts.id.len
        source[0] += facts.time.len + facts.pid.len
        if self._lookups:
            source[0] += self._look_up(exchange)
        return True

    cdef int _grow(self, size_t size) except -1:
        cdef size_t cap = self._cap if self._cap else BATCH + 4096
        cdef uint8_t *grown
        while cap - self._len < size:
            cap *= 2
        grown = <uint8_t *>realloc(self._out, cap)
        if grown == NULL:
            raise MemoryError
        self._out = grown
        self._cap = cap
        return 0

    cdef int _tell_peer(self, Exchange exchange) except -1:
        # Made once per connection, unless the peer is a proxy of ours, which may name a client with each request.
        cdef bytes text = exchange.channel.peer_text
        cdef Forwarded said = None
        if self._facts.head != NULL and self._facts.head.forwarded:
            said = exchange.forwarded()
        if said is not None and said.client is not None:
            text = self._named = _peer_text(said.client)
        elif text is None:
            text = exchange.channel.peer_text = _peer_text(exchange.channel.info("peername"))
        self._facts.peer.p = <const uint8_t *>PyBytes_AS_STRING(text)
        self._facts.peer.len = PyBytes_GET_SIZE(text) - FS_LOG_SLACK
        return 0

    cdef int _tell_time(self) except -1:
        # [28/Nov/2026:22:35:00 +0000] in local time, or RFC 3339 in UTC with milliseconds. Formatted once a second.
        cdef int64_t now = wall_now() // 1000000
        cdef uint32_t ms = now % 1000
        cdef char *text
        if now // 1000 != self._second:
            self._second = now // 1000
            if self._facts.json:
                clock = time.strftime('"%Y-%m-%dT%H:%M:%S.000Z"', time.gmtime(self._second))
            else:
                local = time.localtime(self._second)
                clock = (f"[{local.tm_mday:02d}/{MONTHS[local.tm_mon - 1]}/{local.tm_year}"
                         + time.strftime(":%H:%M:%S %z]", local))
            self._clock = bytearray(clock.encode() + bytes(FS_LOG_SLACK))
            self._facts.time.p = <const uint8_t *>PyByteArray_AS_STRING(self._clock)
            self._facts.time.len = len(self._clock) - FS_LOG_SLACK
        if self._facts.json:
            text = PyByteArray_AS_STRING(self._clock) + self._facts.time.len - 5
            text[0] = 48 + ms // 100
            text[1] = 48 + ms // 10 % 10
            text[2] = 48 + ms % 10
        return 0

    cdef size_t _look_up(self, Exchange exchange) except? 0:
        # Fields of a head that was kept, fields of the answer, the user: rare enough for Python. Returns their bytes.
        cdef size_t size = 1
        cdef uint32_t index
        cdef bytes text
        cdef bint kept = self._facts.head != NULL and self._facts.fields == NULL
        self._kept = []
        for index, (kind, name) in self._lookups.items():
            if kind == FS_LOG_FIELD and not kept:
                self._pieces[index].kind = FS_LOG_FIELD
                continue
            self._pieces[index].kind = FS_LOG_FOUND
            if kind == FS_LOG_FIELD:
                text = self._field(exchange, name)
            elif kind == USER:
                text = _user(self._field(exchange, "authorization"))
            else:
                text = _sent(exchange.fields_sent, name)
            self._found[index].p = NULL
            self._found[index].len = 0
            if text is not None:
                self._kept.append(text)
                self._found[index].p = <const uint8_t *>PyBytes_AS_STRING(text)
                self._found[index].len = PyBytes_GET_SIZE(text)
                size += PyBytes_GET_SIZE(text)
        return size

    def _field(self, Exchange exchange, str name):
        cdef fs_log_facts *facts = &self._facts
        cdef uint32_t i
        cdef bytes wanted
        if facts.head == NULL:
            return None
        if facts.fields == NULL:
            value = exchange._request.headers_().get(name)
            return None if value is None else value.encode("latin-1")
        wanted = name.encode("latin-1")
        for i in range(facts.head.fields_count):
            if facts.fields[i].name_len == PyBytes_GET_SIZE(wanted) and fs_text_equal(
                    facts.data + facts.fields[i].name, facts.fields[i].name_len, PyBytes_AS_STRING(wanted), PyBytes_GET_SIZE(wanted)):
                return PyBytes_FromStringAndSize(<const char *>facts.data + facts.fields[i].value, facts.fields[i].value_len)
        return None

    cdef bint _is_excluded(self, const uint8_t *path, size_t length) except -1:
        cdef bytes prefix
        if self._excluded:
            if PyBytes_FromStringAndSize(<const char *>path, length) in self._excluded:
                return True
        for prefix in self._excluded_prefixes:
            if length >= <size_t>PyBytes_GET_SIZE(prefix) \
                    and memcmp(path, PyBytes_AS_STRING(prefix), PyBytes_GET_SIZE(prefix)) == 0:
                return True
        return False

    # --------------------------------------------------------------------------------------------------- batches

    @property
    def dropped(self) -> int:
        """Lines that could not be written."""
        return self._dropped + (self._writer.dropped if self._writer is not None else 0)

    cdef int _hand_over(self) except -1:
        cdef uint64_t dropped = self.dropped
        cdef bytes note
        if dropped != self._told:
            note = f"{dropped - self._told} access log lines were dropped".encode()
            note = b'{"body":"%b"}\n' % note if self._facts.json else b"- %b\n" % note
            self._told = dropped
            self._complain()
            if self._cap - self._len < <size_t>PyBytes_GET_SIZE(note):
                self._grow(PyBytes_GET_SIZE(note))
            memcpy(self._out + self._len, PyBytes_AS_STRING(note), PyBytes_GET_SIZE(note))
            self._len += PyBytes_GET_SIZE(note)
        if self._len == 0:
            return 0
        if self._writer is not None:
            self._writer.swap(&self._out, &self._cap, self._len, self._lines)
        else:
            try:
                self._stream.write(PyUnicode_DecodeUTF8(<const char *>self._out, self._len, "replace"))
                self._stream.flush()
            except (OSError, ValueError):
                pass  # nobody listens any more; requests go on
        self._len = 0
        self._lines = 0
        return 0

    cdef int _complain(self) except -1:
        # Once: a disk that is full stays so. A pipe that nobody reads any more is nobody's fault.
        cdef int error = self._writer.error if self._writer is not None else 0
        if error != 0 and error != errno.EPIPE and not self._complained:
            self._complained = True
            logger.warning("the access log cannot be written: %s; lines are dropped, and counted", os.strerror(error))
        return 0

    def flush(self):
        """Hand over what is held back."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        self._hand_over()

    def reopen(self):
        """Open the file by its name again. OSError: the old one is kept."""
        if self._writer is not None:
            self._hand_over()
            self._writer.reopen()
            self._complained = False

    def close(self):
        """Write what is held back, for a second at most. A stream stays open."""
        self.flush()
        if self._writer is not None:
            self._writer.close()


cdef bytes _peer_text(peer):
    """address:port; a Unix peer has no name. With the slack that csrc/logline.h asks for."""
    return (f"{peer[0]}:{peer[1]}" if isinstance(peer, tuple) else "unix").encode() + bytes(FS_LOG_SLACK)


cdef object _user(credentials):
    """The user of RFC 7617's Basic user-id:password, or None. The password is not looked at."""
    scheme, _, rest = (credentials or b"").partition(b" ")
    if scheme.lower() != b"basic":
        return None
    try:
        user, colon, _ = base64.b64decode(rest.strip(), validate=True).partition(b":")
    except ValueError:
        return None
    return user if colon and user else None


cdef object _sent(fields, str name):
    """The first field of an answer by that name, as bytes, or None."""
    for sent, value in fields or ():
        sent = sent if isinstance(sent, str) else bytes(sent).decode("latin-1")
        if sent.lower() == name:
            return value.encode("latin-1") if isinstance(value, str) else bytes(value)
    return None


MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
