"""AccessLog: one line per exchange, written in batches off the hot path.

Room:    side wing; reads finished exchanges (station 8).
Called:  by Connection through the Observer door. Calls a text stream, a few times a second.

A line: `peer - "METHOD target HTTP/1.1" status bytes duration_ms`. Control bytes, quotes and backslashes in the target are
escaped: one request is one line whatever its target holds.
"""

import asyncio
import sys
import time

from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.unicode cimport PyUnicode_DecodeASCII
from libc.stdint cimport uint8_t

from fastserve.protocol.core cimport fs_request_head
from fastserve.protocol.exchange cimport END_AT, HEAD_AT

cdef enum:
    LINES_MAX = 10000   # held back at most; beyond it lines are counted as dropped

FLUSH_SECONDS = 0.1


cdef str _escaped(const uint8_t *text, size_t length):
    # Quotes, backslashes, controls and everything beyond ASCII as \\xHH: a line stays a line.
    cdef bytes raw
    cdef size_t i
    for i in range(length):
        if not 32 <= text[i] < 127 or text[i] == 34 or text[i] == 92:
            raw = PyBytes_FromStringAndSize(<const char *>text, length)
            return "".join([chr(c) if 32 <= c < 127 and c != 34 and c != 92 else f"\\x{c:02x}" for c in raw])
    return PyUnicode_DecodeASCII(<const char *>text, length, NULL)


cdef class AccessLog(Observer):
    """Writes to `stream` (default: standard output). Lines are written by the loop every 0.1 s, and by flush()."""

    def __init__(self, stream=None):
        self._stream = sys.stdout if stream is None else stream
        self._lines = []

    cdef int observe(self, Exchange exchange) except -1:
        cdef fs_request_head *head = NULL
        cdef const uint8_t *data = NULL
        cdef double ms = 0.0
        cdef str line = "-"  # refused before it was a request
        if len(self._lines) >= LINES_MAX:
            self.dropped += 1
            return 0
        if exchange._request is not None:
            head, data = &exchange._request.head, exchange._request._data
        elif exchange.data != NULL:
            head, data = exchange.head(), exchange.data
        if data != NULL:
            method = _escaped(data + head.method.off, head.method.len)
            target = _escaped(data + head.target.off, head.target.len)
            line = f"{method} {target} HTTP/1.{min(head.version_minor, 1)}"
        if exchange.moments[<int>HEAD_AT] and exchange.moments[<int>END_AT]:
            ms = (exchange.moments[<int>END_AT] - exchange.moments[<int>HEAD_AT]) / 1e6
        peer = exchange.channel.info("peername")
        who = f"{peer[0]}:{peer[1]}" if isinstance(peer, tuple) else (peer or "unix")
        self._lines.append(f'{who} - "{line}" {exchange.status or 499} {exchange.body_sent} {ms:.3f}ms\n')
        if self._handle is None:
            self._loop = asyncio.get_running_loop()
            self._handle = self._loop.call_later(FLUSH_SECONDS, self.flush)
        return 0

    def flush(self):
        """Write what is held back, in one write."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        if self._lines:
            lines, self._lines = self._lines, []
            if self.dropped:
                lines.append(f"- {self.dropped} access log lines were dropped\n")
                self.dropped = 0
            try:
                self._stream.write("".join(lines))
                self._stream.flush()
            except (OSError, ValueError):
                pass  # nobody listens any more; requests go on

    def close(self):
        """Write what is held back; the stream stays open."""
        self.flush()
