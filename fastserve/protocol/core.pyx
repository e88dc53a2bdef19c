"""The C core seen from Python: what it makes of given bytes, which kernels it uses, how fast it is, its tables.

Room:    floor 1; nothing on the route of a request passes here. For tests, benchmarks, documentation and the curious.
Called:  by tests/, benchmarks/, docs scripts. Calls csrc/ through core.pxd.
"""

import os

from cpython.bytes cimport PyBytes_AS_STRING
from libc.stdlib cimport calloc, free
from libc.string cimport memset
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec

__all__ = [
    "ASSERTIONS", "bench_head", "bench_response", "connection_table", "date", "error_table", "events", "parse_head", "percent_decode",
    "simd", "simd_levels", "status_reason",
]


cdef extern from *:
    """
    #ifdef FS_ASSERTIONS
    #define FS_ASSERTIONS_ARE_ON 1
    #else
    #define FS_ASSERTIONS_ARE_ON 0
    #endif
    """
    const bint FS_ASSERTIONS_ARE_ON

ASSERTIONS = bool(FS_ASSERTIONS_ARE_ON)   # a build for debugging (FASTSERVE_DEBUG, FASTSERVE_SANITIZE): its speed says nothing


def _choose_kernels(name: str | None = None) -> None:
    wanted = os.environ.get("FASTSERVE_SIMD", "") if name is None else name
    if not fs_scan_choose(wanted.encode()):
        raise ImportError(f"FASTSERVE_SIMD={wanted}: not one of {', '.join(simd_levels())} (what this processor has)")


def simd() -> str:
    """Name of the scanning kernels in use: "swar", "sse42", "avx2" or "neon"."""
    return (<bytes>fs_scan.name).decode()


def simd_levels() -> list[str]:
    """Names of the kernels usable on this processor, portable first. `FASTSERVE_SIMD` forces one of them."""
    levels = []
    cdef unsigned i = 0
    while fs_scan_level(i) != NULL:
        levels.append((<bytes>fs_scan_level(i).name).decode())
        i += 1
    return levels


_choose_kernels()


cdef fs_limits _limits(dict overrides) except *:
    cdef fs_limits limits
    limits.request_line_bytes_max = overrides.pop("request_line_bytes_max", 8192)
    limits.head_bytes_max = overrides.pop("head_bytes_max", 65536)
    limits.fields_max = overrides.pop("fields_max", 100)
    limits.leading_crlf_max = overrides.pop("leading_crlf_max", 4)
    limits.body_bytes_max = overrides.pop("body_bytes_max", FS_UNLIMITED)
    limits.chunk_ext_bytes_max = overrides.pop("chunk_ext_bytes_max", 16384)
    limits.trailer_bytes_max = overrides.pop("trailer_bytes_max", 16384)
    limits.drain_bytes_max = overrides.pop("drain_bytes_max", 65536)
    if overrides:
        raise TypeError(f"unknown limit {next(iter(overrides))!r}")
    return limits


cdef str _text(const uint8_t *data, size_t length):
    # Printable ASCII as it is; CR, LF and everything else, the backslash too, as escapes.
    cdef list out = []
    cdef size_t i
    for i in range(length):
        c = data[i]
        if c == 13:
            out.append("\\r")
        elif c == 10:
            out.append("\\n")
        elif 32 <= c < 127 and c != 92:
            out.append(chr(c))
        else:
            out.append(f"\\x{c:02x}")
    return "".join(out)


cdef list _head_lines(const uint8_t *data, fs_request_head *head, fs_field *fields):
    framing = "none"
    if head.framing == FS_BODY_CHUNKED:
        framing = "chunked"
    elif head.framing == FS_BODY_LENGTH:
        framing = f"length={head.content_length}"
    words = [
        "request_head",
        _text(data + head.method.off, head.method.len),
        _text(data + head.target.off, head.target.len),
        f"1.{min(head.version_minor, 1)}",
        framing,
        "keep_alive" if head.keep_alive else "close",
    ]
    if head.expect_continue:
        words.append("expect")
    if head.upgrade:
        words.append("upgrade")
    lines = [" ".join(words), "host " + _text(data + head.host.off, head.host.len)]
    cdef const uint8_t *target = data + head.target.off
    if head.parts.form == FS_TARGET_ABSOLUTE and head.parts.path.len == 0:
        lines.append("path /")
    else:
        lines.append("path " + _text(target + head.parts.path.off, head.parts.path.len))
    if head.parts.has_query:
        lines.append("query " + _text(target + head.parts.query.off, head.parts.query.len))
    return lines + _field_lines("field", data, fields, head.fields_count)


cdef list _field_lines(str word, const uint8_t *data, fs_field *fields, uint32_t count):
    lines = []
    for i in range(count):
        if word == "trailer" and not fs_trailer_allowed(fields[i].id):
            continue
        name = _text(data + fields[i].name, fields[i].name_len).lower()
        lines.append(f"{word} {name}: {_text(data + fields[i].value, fields[i].value_len)}")
    return lines


def events(fragments, **limits) -> list[str]:
    """Feed byte strings to a fresh connection, answer every complete request at once with an empty 200 (CONNECT: 501), and
    say what happened, in the notation of the case book (tests/cases/).

    fragments: iterable of bytes, in the order in which they arrive. limits: members of fs_limits (csrc/base.h).
    Host, path, query and field lines are always given.
    """
    cdef fs_limits lim = _limits(limits)
    cdef fs_conn conn
    cdef fs_event event
    cdef fs_response_plan plan
    cdef fs_field *fields = <fs_field *>calloc(lim.fields_max + 1, sizeof(fs_field))
    cdef bytes pending = b""
    cdef const uint8_t *data
    lines = []
    body = bytearray()
    over = False
    if fields == NULL:
        raise MemoryError
    try:
        fs_conn_init(&conn, &lim)
        for fragment in fragments:
            pending += fragment
            while not over:
                data = <const uint8_t *>PyBytes_AS_STRING(pending)
                fs_conn_receive(&conn, data, len(pending), fields, &event)
                complete = False
                if event.type == FS_REQUEST_HEAD:
                    lines += _head_lines(data, &conn.head, fields)
                    complete = not fs_conn_body_pending(&conn)
                elif event.type == FS_BODY_BYTES:
                    body += data[event.data_off:event.data_off + event.data_len]
                elif event.type == FS_END_OF_MESSAGE:
                    if body:
                        lines.append(f"body {_text(body, len(body))}" if len(body) <= 64 else f"body {len(body)} bytes")
                        body.clear()
                    lines += _field_lines("trailer", data, fields, event.trailers)
                    complete = True
                elif event.type == FS_ERROR:
                    body.clear()
                    row = fs_error_info(conn.error)
                    lines.append(f"error {(<bytes>row.name).decode()} {row.status}")
                    over = True
                if complete:
                    lines.append("end_of_message")
                    # A 200 to CONNECT would make the bytes someone else's (RFC 9110 section 9.3.6).
                    fs_conn_send_head(&conn, 501 if conn.connect_request else 200, 0, False, False, &plan)
                    fs_conn_send_end(&conn)
                    if not fs_conn_next(&conn):
                        lines.append("closed")
                        over = True
                pending = pending[event.consumed:]
                if event.type == FS_NEED_DATA:
                    break
            if over:
                break
        if not over:
            if body:
                lines.append(f"body {_text(body, len(body))}" if len(body) <= 64 else f"body {len(body)} bytes")
            if fs_conn_body_pending(&conn) or fs_conn_head_begun(&conn):
                lines.append("need_data")
        return lines
    finally:
        free(fields)


cdef int _parse(bytes data, fs_request_head *head, fs_field *fields, fs_limits *limits) except -100:
    fs_request_head_init(head)
    cdef int answer = fs_request_head_parse(head, <const uint8_t *>PyBytes_AS_STRING(data), len(data), fields, limits)
    if answer == FS_DONE:
        return answer
    if answer == FS_MORE:
        raise ValueError("incomplete head")
    row = fs_error_info(<fs_error>-answer)
    raise ValueError(f"{(<bytes>row.name).decode()}: {(<bytes>row.text).decode()} ({row.status})")


def parse_head(bytes data not None) -> tuple[bytes, bytes, int, int]:
    """Parse one complete request head with the default limits: (method, target, minor version, number of fields).

    Raises ValueError naming the fault (csrc/errors.h) or "incomplete head".
    """
    cdef fs_limits limits = _limits({})
    cdef fs_field fields[100]
    cdef fs_request_head head
    _parse(data, &head, fields, &limits)
    return (data[head.method.off:head.method.off + head.method.len],
            data[head.target.off:head.target.off + head.target.len], head.version_minor, head.fields_count)


cdef double _now():
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return now.tv_sec * 1e9 + now.tv_nsec


def bench_head(bytes data not None, int n) -> float:
    """Nanoseconds per parse of `data`, n times in C, all checks included, no Python objects made."""
    cdef fs_limits limits = _limits({})
    cdef fs_field fields[100]
    cdef fs_request_head head
    cdef const uint8_t *p = <const uint8_t *>PyBytes_AS_STRING(data)
    cdef size_t length = len(data)
    cdef double start
    cdef int i
    _parse(data, &head, fields, &limits)
    start = _now()
    for i in range(n):
        fs_request_head_init(&head)
        fs_request_head_parse(&head, p, length, fields, &limits)
    return (_now() - start) / n


def bench_response(int n, bytes body not None) -> float:
    """Nanoseconds to write one 200 response (status line, Date, type, length, body), n times in C."""
    cdef bytearray space = bytearray(len(body) + 1024)
    cdef fs_out out
    cdef double start
    cdef int i
    out.data = space
    out.cap = len(space)
    start = _now()
    for i in range(n):
        out.len = 0
        fs_response_status_line(&out, 200, NULL, 0)
        fs_response_raw(&out, <const char *>b"date: Sun, 06 Nov 1994 08:49:37 GMT\r\n", 37)
        fs_response_field(&out, b"content-type", 12, b"text/plain; charset=utf-8", 25)
        fs_response_content_length(&out, len(body))
        fs_response_raw(&out, <const char *>b"\r\n", 2)
        fs_response_raw(&out, PyBytes_AS_STRING(body), len(body))
    return (_now() - start) / n


def date(int64_t seconds) -> str:
    """IMF-fixdate of `seconds` since the epoch (RFC 9110 section 5.6.7)."""
    cdef uint8_t text[FS_DATE_LEN]
    fs_date_format(seconds, text)
    return (<const char *>text)[:FS_DATE_LEN].decode("ascii")


def status_reason(unsigned status) -> str:
    """The registered reason phrase, "" if there is none (RFC 9110 section 15)."""
    return (<bytes>fs_status_reason(status)).decode()


def percent_decode(bytes data not None) -> bytes:
    """RFC 3986 section 2.1; escapes that are not two hex digits stay as they are."""
    space = bytearray(len(data) + 1)
    cdef uint8_t *out = space
    return bytes(space[:fs_percent_decode(<const uint8_t *>PyBytes_AS_STRING(data), len(data), out)])


def error_table() -> list[tuple[str, int, str, str]]:
    """Every row of csrc/errors.h: (name, HTTP status or 0, text, rule)."""
    rows = []
    for i in range(FS_E_COUNT):
        row = fs_error_info(<fs_error>i)
        rows.append(((<bytes>row.name).decode(), row.status, (<bytes>row.text).decode(), (<bytes>row.rule).decode()))
    return rows


def connection_table() -> list[dict]:
    """Every row of the connection's state machine (csrc/conn.c), for the documentation and its test."""
    def states(mask):
        return [(<bytes>fs_side_state_name[i]).decode() for i in range(4) if mask & (1 << i)]

    rows = []
    for i in range(fs_conn_table_len):
        row = fs_conn_table[i]
        rows.append({
            "happening": (<bytes>row.name).decode(),
            "reading_from": states(row.reading_from),
            "writing_from": states(row.writing_from),
            "reading_to": None if row.reading_to == FS_STAY else (<bytes>fs_side_state_name[row.reading_to]).decode(),
            "writing_to": None if row.writing_to == FS_STAY else (<bytes>fs_side_state_name[row.writing_to]).decode(),
            "why": (<bytes>row.why).decode(),
        })
    return rows
