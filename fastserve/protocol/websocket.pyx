"""WebSocket: one connection after its upgrade, as a handler sees it and as the connection feeds it.

Room:    floor 1, above Exchange and Service. Handshake, messages, close, keep-alive, compression. Frames are the core's.
Called:  by the wings (begin, and what ends in an underscore), by users, by Connection through Tunnel. Calls Exchange,
         Channel, csrc/websocket.c.
Rules:   RFC 6455 sections 4.2 (handshake), 5.4, 5.5, 7 (closing), 7.4 (codes), 8.1; RFC 7692 (permessage-deflate).

Theory of operation. The wing makes a WebSocket of an Exchange whose request asks for one, and calls the handler. `accept` writes
101 through the exchange and installs the WebSocket as the connection's Tunnel: from then on every read is given to `received`,
and what was read behind the request is given first; nothing is parsed twice. A message that lies whole in a read is unmasked
once, into the object the handler gets. Complete messages wait in a bounded queue. When it is full, the rest of the read stays
in the connection's buffer and reading pauses: back-pressure reaches the peer.

A handler that waits in `receive` is resumed inside the read that brings its message, in its own Task and Context, as long as no
other task is running: what it sends at once leaves in one write with the answers to the other messages of that read.

The exchange stays in hand until the connection is over; the log sees one request, status 101, with the bytes of all frames.
"""

import asyncio
import binascii
import os
import zlib
from asyncio import CancelledError
from base64 import b64encode
from collections import deque
from hashlib import sha1

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.contextvars cimport PyContext_Enter, PyContext_Exit
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy

from fastserve.protocol.core cimport (
    FS_METHOD_GET, FS_WS_BINARY, FS_WS_CLOSE, FS_WS_CONTROL, FS_WS_DATA, FS_WS_ERROR, FS_WS_E_compressed, FS_WS_E_none,
    FS_WS_E_text, FS_WS_E_too_big, FS_WS_HEAD_MAX, FS_WS_NEED_DATA, FS_WS_OVER, FS_WS_PING, FS_WS_PONG, FS_WS_TEXT,
    fs_request_head, fs_scan_choose, fs_utf8_check, fs_ws_close_code_valid, fs_ws_error, fs_ws_error_info, fs_ws_head,
    fs_ws_init, fs_ws_receive, fs_ws_refuse, fs_ws_unmask,
)
from fastserve.protocol.headers cimport Headers, raw_headers
from fastserve.protocol.response cimport Response
from fastserve.protocol.service cimport CLOSE_DEADLINE, PING_DEADLINE, PONG_DEADLINE
from fastserve.protocol.timers cimport disarm

from fastserve.errors import ClientDisconnected, LocalProtocolError, WebSocketDisconnect
from fastserve.protocol.request import json_decode
from fastserve.protocol.response import json_encode

cdef extern from "Python.h":
    object PyUnicode_New(Py_ssize_t size, Py_UCS4 maxchar)
    void *PyUnicode_DATA(object text)
    const char *PyUnicode_AsUTF8AndSize(object text, Py_ssize_t *size) except NULL

__all__ = ["WebSocket"]

fs_scan_choose(os.environ.get("FASTSERVE_SIMD", "").encode())

cdef enum:
    COPY_MAX = 16384            # a message up to this size is copied behind its head; a larger one is handed over as it is
    QUEUE_BYTES_MAX = 1048576   # of messages that wait, whatever their number
    TURN = 32                   # messages sent without waiting, before others get their turn

cdef tuple ENDS = (b"\x00\x00\xff\xff", b"\x00\x00\x00\xff\xff")   # what is behind the last block of a message
cdef bytes GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"   # RFC 6455 section 1.3
cdef object _current_task = asyncio.current_task


# ------------------------------------------------------------------------------------------------ handshake


cdef list _tokens(Headers headers, bytes name):
    # The elements of a list field, from all its lines (RFC 9110 section 5.6.1).
    return [item.strip() for value in headers.find_all(name) for item in value.split(b",") if item.strip()]


cdef bint asks_for_websocket(Exchange exchange) except -1:
    cdef fs_request_head *head = exchange.head()
    if not head.upgrade or head.method_id != FS_METHOD_GET:
        return False
    return any([item.lower() == b"websocket" for item in _tokens(exchange.request().headers_(), b"upgrade")])


@cython.final
cdef class DeflateTerms:
    # What was agreed on (RFC 7692 section 7.1), and the answer that says so.
    cdef int server_bits, client_bits
    cdef bint server_forgets, client_forgets      # no context takeover
    cdef bytes answer


# Our own windows (RFC 7692 section 7.1.2): 12 bits and memLevel 5 are 32 KiB to compress with, 15 and 8 would be 256 KiB. A
# client that lets us choose is asked for 12, too: 4 KiB to inflate instead of 32. The `websockets` library does the same.
cdef enum:
    WINDOW_BITS = 12
    MEMORY_LEVEL = 5
    LEVEL = 3


cdef bint _is_bits(bytes value) except -1:
    # RFC 7692 section 7.1.2: 8 to 15, "without any leading zeros"
    return 0 < len(value) <= 2 and value.isdigit() and value[0] != 48 and 8 <= int(value) <= 15


cdef DeflateTerms _agree(Headers headers):
    """The first offer of permessage-deflate that can be taken; None without one (RFC 7692 section 5.1)."""
    cdef DeflateTerms terms
    cdef list parts
    for offer in _tokens(headers, b"sec-websocket-extensions"):
        parts = [part.strip() for part in offer.split(b";")]
        if parts[0].lower() != b"permessage-deflate":
            continue
        terms = DeflateTerms.__new__(DeflateTerms)
        terms.server_bits = WINDOW_BITS
        terms.client_bits = 15
        terms.answer = b"permessage-deflate"
        seen = set()
        for part in parts[1:]:
            name, equals, value = part.partition(b"=")
            name, value = name.strip().lower(), value.strip().strip(b'"')
            if name in seen:
                break
            seen.add(name)
            if name == b"server_no_context_takeover" and not equals:
                terms.server_forgets = True
                terms.answer += b"; server_no_context_takeover"
            elif name == b"client_no_context_takeover" and not equals:
                terms.client_forgets = True
                terms.answer += b"; client_no_context_takeover"
            elif name == b"server_max_window_bits" and _is_bits(value) and int(value) >= 9:
                # 8 is a legal wish, but zlib cannot compress raw data with so small a window.
                terms.server_bits = min(int(value), WINDOW_BITS)
            elif name == b"client_max_window_bits" and (not equals or _is_bits(value)):
                terms.client_bits = max(min(int(value) if equals else 15, WINDOW_BITS), 9)
                if equals and int(value) == 8:
                    terms.client_bits = 8
                terms.answer += b"; client_max_window_bits=%d" % terms.client_bits
                terms.client_bits = max(terms.client_bits, 9)   # a larger window inflates what a smaller one made
            else:
                break
        else:
            terms.answer += b"; server_max_window_bits=%d" % terms.server_bits
            return terms
    return None


# --------------------------------------------------------------------------------------------------- waiting


@cython.freelist(64)
@cython.final
cdef class Waiter:
    """asyncio's future protocol, for one WebSocket. A Task that waits for it is resumed inside the read, if it can be."""

    def get_loop(self):
        return self._loop

    def done(self):
        return self._done

    def cancelled(self):
        return self._cancelled

    def result(self):
        if self._cancelled:
            raise CancelledError() if self._cancel_message is None else CancelledError(self._cancel_message)
        if not self._done:
            raise asyncio.InvalidStateError("Result is not set.")
        return None

    def exception(self):
        self.result()
        return None

    def add_done_callback(self, callback, *, context=None):
        if self._done:
            self._loop.call_soon(callback, self, context=context)
        elif self._callback is None and context is not None:
            self._callback = callback
            self._context = context
        else:
            if self._more is None:
                self._more = []
            self._more.append((callback, context))

    def remove_done_callback(self, callback):
        cdef int removed = 0
        if self._callback is not None and self._callback == callback:
            self._callback = None
            self._context = None
            removed = 1
        if self._more is not None:
            kept = [pair for pair in self._more if pair[0] != callback]
            removed += len(self._more) - len(kept)
            self._more = kept
        return removed

    def cancel(self, msg=None):
        if self._done:
            return False
        self._cancelled = True
        self._cancel_message = msg
        self.wake(False)
        return True

    cdef int wake(self, bint inside) except -1:
        cdef object callback = self._callback
        cdef object context = self._context
        self._done = True
        self._callback = None
        self._context = None
        if callback is not None:
            if not inside or not _run_now(self._loop, callback, context, self):
                self._loop.call_soon(callback, self, context=context)
        if self._more is not None:
            for callback, context in self._more:
                self._loop.call_soon(callback, self, context=context)
            self._more = None
        return 0

    def __await__(self):
        if not self._done:
            self._asyncio_future_blocking = True
            yield self
        return self.result()

    def __iter__(self):
        return self.__await__()


cdef bint _run_now(object loop, object callback, object context, Waiter waiter) except -1:
    # What the loop would do with the callback in its next turn, done now. Not inside another task: that one goes first.
    if _current_task(loop) is not None:
        return False
    try:
        PyContext_Enter(context)
    except RuntimeError:   # it is entered already
        return False
    try:
        callback(waiter)
    except Exception as error:
        loop.call_exception_handler({"message": "fastserve: a handler could not be resumed", "exception": error})
    finally:
        PyContext_Exit(context)
    return True


@cython.freelist(64)
@cython.final
cdef class Receiving:
    """What `ws.receive()` and its kin give: awaited, or made a Task of."""

    cdef object step(self):
        # The message as it was wished for; a Waiter while there is none.
        cdef WebSocket ws = self.ws
        cdef object message
        cdef Waiter waiter = self.waiter
        if ws is None:
            raise RuntimeError("cannot reuse already awaited WebSocket.receive()")
        if waiter is not None:
            self.waiter = None
            if waiter._cancelled:
                waiter.result()
        try:
            message = ws.take()
        except WebSocketDisconnect:
            self.ws = None
            if self.wish == NEXT:
                raise StopAsyncIteration from None
            raise
        if message is None:
            ws._turn = 0
            waiter = self.waiter = ws.wait()
            waiter._asyncio_future_blocking = True
            return waiter
        self.ws = None
        if self.wish == ANYTHING or self.wish == NEXT:
            return message
        if self.wish == WISH_JSON:
            try:
                return json_decode(message)
            except (ValueError, RecursionError):
                ws._fail(1007, "malformed JSON")
                raise WebSocketDisconnect(1007, "malformed JSON") from None
        if (type(message) is str) != (self.wish == WISH_TEXT):
            # RFC 6455 section 7.4.1: 1003 says that a kind of data came which cannot be accepted.
            reason = "text was expected" if self.wish == WISH_TEXT else "bytes were expected"
            ws._fail(1003, reason)
            raise WebSocketDisconnect(1003, reason)
        return message

    def __await__(self):
        return self

    def __iter__(self):
        return self

    def __next__(self):
        cdef object value = self.step()
        if type(value) is Waiter:
            return value
        raise StopIteration(value)

    def send(self, value):
        cdef object got = self.step()
        if type(got) is Waiter:
            return got
        raise StopIteration(got)

    def throw(self, error, value=None, traceback=None):
        cdef WebSocket ws = self.ws
        cdef Waiter waiter = self.waiter
        self.ws = None
        self.waiter = None
        if ws is not None and waiter is not None and ws._waiter is waiter:
            ws._waiter = None
        if isinstance(error, type):
            error = error() if value is None else value
        raise error

    def close(self):
        if self.waiter is not None and self.ws is not None and self.ws._waiter is self.waiter:
            self.ws._waiter = None
        self.ws = None
        self.waiter = None


@cython.freelist(64)
@cython.final
cdef class Sending:
    """What `ws.send()` and its kin give; the message leaves when it is awaited."""

    cdef object step(self):
        # None when the message has been handed over; else what to wait for. `self` asks for a turn of the loop.
        cdef WebSocket ws = self.ws
        cdef object future
        if ws is None:
            raise RuntimeError("cannot reuse already awaited WebSocket.send()")
        if self.drained is None and not self.pausing:
            if self.opcode:
                ws.send_bytes_(self.opcode, <bytes>self.message)
            else:
                ws.send_(self.message)
            self.message = None
            future = ws.writing()
            if future is not None:
                ws._turn = 0
                self.drained = iter(future)
            else:
                ws._turn += 1
                if ws._turn >= TURN:
                    ws._turn = 0
                    self.pausing = True
                    return self
                self.ws = None
                return None
        if self.pausing:
            self.ws = None
            return None
        try:
            return next(self.drained)
        except StopIteration:
            pass
        except ConnectionError:
            pass                 # the peer is gone; the next call says so
        except OSError:
            pass
        self.ws = None
        return None

    def __await__(self):
        return self

    def __iter__(self):
        return self

    def __next__(self):
        cdef object value = self.step()
        if value is None:
            raise StopIteration
        return None if value is self else value

    def send(self, value):
        cdef object got = self.step()
        if got is None:
            raise StopIteration
        return None if got is self else got

    def throw(self, error, value=None, traceback=None):
        cdef bint left = self.drained is not None and isinstance(error, ClientDisconnected)
        self.ws = None
        self.message = None
        self.drained = None
        if left:
            raise StopIteration   # as in step(): the next call says so
        if isinstance(error, type):
            error = error() if value is None else value
        raise error

    def close(self):
        self.ws = None
        self.message = None
        self.drained = None


# ------------------------------------------------------------------------------------------------- the class


cdef class WebSocket(Tunnel):
    """One WebSocket. Made by the server; a handler gets it as its argument. The names are starlette.websockets's.

    `async for message in ws` gives str and bytes until the peer closes. `receive` and its kin raise WebSocketDisconnect with
    the code and reason of the end; so does `send` when the peer is gone.
    """

    def __cinit__(self):
        self._timer.queue = -1
        self._timer.owner = <void *>self
        self._queue = deque()
        self.close_reason = ""

    def __dealloc__(self):
        disarm(&self._timer)
        free(self._part.data)

    def __repr__(self):
        words = [("connecting", "open", "closing", "closed")[<int>self._state]]
        if self.request is not None:
            words.append(self.request.path)
        if self._count:
            words.append(f"queued={self._count}")
        if self.close_code is not None:
            words.append(f"code={self.close_code}")
        return f"<WebSocket {' '.join(words)}>"

    # --------------------------------------------------------------------------------------------- handshake

    @staticmethod
    cdef WebSocket begin(Exchange exchange):
        """RFC 6455 section 4.2.1: what the request must say. HTTP/1.1 and `Connection: upgrade` are known already."""
        cdef Request request = exchange.request()
        cdef Headers headers = request.headers_()
        cdef WebSocket ws
        cdef list versions = headers.find_all(b"sec-websocket-version")
        cdef list keys = headers.find_all(b"sec-websocket-key")
        cdef bytes fault = b""
        if versions != [b"13"]:
            # Section 4.2.2: "an appropriate HTTP error code (such as 426 Upgrade Required) and a |Sec-WebSocket-Version|
            # header field indicating the version(s) the server is capable of understanding".
            exchange.send(426, [(b"upgrade", b"websocket"), (b"connection", b"upgrade"), (b"sec-websocket-version", b"13"),
                                (b"content-type", b"text/plain; charset=utf-8")], b"WebSocket version 13 is spoken here")
            return None
        if len(keys) != 1:
            fault = b"Sec-WebSocket-Key must be there once"
        else:
            try:
                if len(binascii.a2b_base64(keys[0], strict_mode=True)) != 16:
                    fault = b"Sec-WebSocket-Key must be 16 bytes in base64"
            except binascii.Error:
                fault = b"Sec-WebSocket-Key must be 16 bytes in base64"
        if not fault and exchange.body is not None:
            fault = b"a WebSocket handshake has no body"
        if fault:
            exchange.send_simple(400, b"text/plain; charset=utf-8", fault)
            return None
        ws = WebSocket.__new__(WebSocket)
        ws.exchange = exchange
        ws.channel = exchange.channel
        ws.service = <Service>exchange.channel.host()
        ws.request = request
        ws._key = keys[0]
        ws._offered = [item.decode("latin-1") for item in _tokens(headers, b"sec-websocket-protocol")]
        if ws.service.limits.per_message_deflate:
            ws._deflate = _agree(headers)
        return ws

    cdef int accept_(self, object subprotocol, object headers) except -1:
        cdef list lines
        if self._state != CONNECTING:
            if self.close_code is not None:
                raise WebSocketDisconnect(self.close_code, self.close_reason)
            raise LocalProtocolError("the WebSocket was accepted already")
        if self.exchange is None or self.exchange.disconnected:
            self._over(1006, "")
            raise WebSocketDisconnect(1006)
        lines = [(b"sec-websocket-accept", b64encode(sha1(self._key + GUID).digest()))]
        if subprotocol is not None:
            if subprotocol not in self._offered:
                raise LocalProtocolError(f"subprotocol {subprotocol!r} was not offered by the client (RFC 6455 section 4.2.2)")
            lines.append((b"sec-websocket-protocol", subprotocol.encode("latin-1")))
        if self._deflate is not None:
            lines.append((b"sec-websocket-extensions", (<DeflateTerms>self._deflate).answer))
        for name, value in raw_headers(headers):
            if name in (b"sec-websocket-accept", b"sec-websocket-extensions", b"upgrade", b"connection") \
                    or (name == b"sec-websocket-protocol" and subprotocol is not None):
                raise LocalProtocolError(f"header {name.decode()} of the handshake is the server's")
            lines.append((name, value))
        fs_ws_init(&self.ws, self.service.limits.message_bytes_max, self._deflate is not None)
        self._state = OPEN
        self.subprotocol = subprotocol
        self._heard = False
        try:
            self.exchange.upgrade(b"websocket", lines, self)
        except BaseException:
            if self.exchange is not None and not self.exchange.started:
                self._state = CONNECTING
            raise
        if self._state == OPEN and self.channel.closing():
            self.retire()
        elif self._state == OPEN and self._timer.queue < 0:
            self.service.timers.arm(&self._timer, PING_DEADLINE)
        return 0

    cdef int deny(self, unsigned status, object headers, object body) except -1:
        # An answer instead of 101: an ordinary response, and the connection goes on as one of HTTP.
        cdef Exchange exchange = self.let_go()
        exchange.send(status, headers, body)
        return 0

    cdef Exchange let_go(self):
        # It will be none: the request is to be answered as any other, by whoever asks.
        cdef Exchange exchange = self.exchange
        if self._state != CONNECTING or exchange is None:
            raise LocalProtocolError("the WebSocket was answered already")
        self._state = CLOSED
        self._over(1006, "")
        self.exchange = None
        self.channel = None
        return exchange

    async def accept(self, subprotocol=None, headers=None):
        """Answer 101. `subprotocol`: one that the client offered. `headers`: mapping or pairs of str, added to the answer.
        LocalProtocolError if it was answered already; WebSocketDisconnect if the client has left."""
        self.accept_(subprotocol, headers)

    async def send_denial_response(self, Response response not None):
        """Refuse the handshake with an HTTP response (a `Response` with a body, no stream), before `accept`."""
        if response._body is None:
            raise TypeError("a denial is a whole Response, not a stream")
        self.deny(response.status_code, response.raw_headers_(), response._body)

    # --------------------------------------------------------------------------------------------- receiving

    cdef bint full(self) except -1:
        return self._full

    cdef Py_ssize_t received(self, const uint8_t *data, size_t length) except -1:
        """One read, all its frames, up to the bound of the queue. Returns the bytes that were used."""
        cdef fs_ws_event event
        cdef size_t pos = 0
        cdef size_t at
        cdef uint32_t most = self.service.limits.message_queue_max
        cdef bint more = True
        if length != 0:
            self._heard = True
        self._receiving = True
        try:
            while True:
                while more and self._count < most and self._bytes < QUEUE_BYTES_MAX:
                    fs_ws_receive(&self.ws, data + pos, length - pos, &event)
                    at = pos
                    pos += event.consumed
                    if event.type == FS_WS_DATA:
                        self._data(data + at + event.data_off, &event)
                    elif event.type == FS_WS_CONTROL:
                        self._control(&event)
                    elif event.type == FS_WS_NEED_DATA:
                        more = False
                    else:
                        if event.type == FS_WS_ERROR and self._state != CLOSED:
                            self._fault(self.ws.error)
                        pos = length   # RFC 6455 section 7.1.7: nothing behind a fault is read
                        more = False
                # The handler may run in here, and take all that there is: then the read goes on.
                if not self._wake(True) or not more:
                    break
            self._full = more and self.close_code is None
        finally:
            self._receiving = False
        return pos

    cdef int _data(self, const uint8_t *data, fs_ws_event *event) except -1:
        cdef fs_out *part = &self._part
        cdef size_t length = event.data_len
        cdef bint text = event.opcode == FS_WS_TEXT
        cdef uint8_t *grown
        cdef size_t capacity
        cdef object message
        if self._state != OPEN:
            return 0   # our close frame is out: what still comes is dropped
        if event.first and event.last and not event.compressed:
            # The usual case. One pass: unmasked into the object, and known to be ASCII or not.
            if text:
                message = PyUnicode_New(length, 127)
                if length == 0 or fs_ws_unmask(<uint8_t *>PyUnicode_DATA(message), data, length, event.key):
                    return self._put(message, length)
            else:
                message = PyBytes_FromStringAndSize(NULL, length)
                if length:
                    fs_ws_unmask(<uint8_t *>PyBytes_AS_STRING(message), data, length, event.key)
                return self._put(message, length)
        if event.first:
            part.len = 0
            self._utf8.missing = 0
        if part.cap - part.len < length:
            # By doubling, as bytes come: a length that is only announced costs nothing.
            capacity = part.cap if part.cap else 1024
            while capacity - part.len < length:
                capacity *= 2
            grown = <uint8_t *>realloc(part.data, capacity)
            if grown == NULL:
                raise MemoryError
            part.data = grown
            part.cap = capacity
        if length:
            fs_ws_unmask(part.data + part.len, data, length, event.key)
            if text and not event.compressed and not fs_utf8_check(&self._utf8, part.data + part.len, length):
                return self._fault(FS_WS_E_text)
            part.len += length
        if not event.last:
            return 0
        if event.compressed:
            whole = self._inflate(PyBytes_FromStringAndSize(<const char *>part.data, part.len))
            if whole is None:
                return 0
            self._message(<const uint8_t *>PyBytes_AS_STRING(whole), PyBytes_GET_SIZE(whole), text)
        else:
            self._message(part.data, part.len, text)
        free(part.data)   # an idle WebSocket owns no buffer
        part.data = NULL
        part.len = part.cap = 0
        return 0

    cdef int _message(self, const uint8_t *data, size_t length, bint text) except -1:
        cdef object message
        if not text:
            message = PyBytes_FromStringAndSize(<const char *>data, length)
        else:
            try:
                message = PyUnicode_DecodeUTF8(<const char *>data, length, NULL)
            except UnicodeDecodeError:
                return self._fault(FS_WS_E_text)
        return self._put(message, length)

    cdef int _put(self, object message, size_t size) except -1:
        self._queue.append(message)
        self._count += 1
        self._bytes += size
        return 0

    cdef bint _wake(self, bint inside) except -1:
        cdef Waiter waiter = self._waiter
        if waiter is None or (self._count == 0 and self.close_code is None):
            return False
        self._waiter = None
        waiter.wake(inside)
        return True

    cdef object take(self):
        cdef object message
        if self._count:
            message = self._queue.popleft()
            self._count -= 1
            self._bytes -= len(message) if self._count else self._bytes
            if self._full and not self._receiving and self._count <= self.service.limits.message_queue_max // 2:
                self._full = False
                if self.channel is not None:
                    self.channel.tunnel_on()
            return message
        if self.close_code is not None:
            raise WebSocketDisconnect(self.close_code, self.close_reason)
        if self._state == CONNECTING:
            raise LocalProtocolError("the WebSocket was not accepted yet")
        return None

    cdef Waiter wait(self):
        cdef Waiter waiter
        if self._waiter is not None and not self._waiter._done:
            raise RuntimeError("another task waits for a message of this WebSocket already")
        waiter = Waiter.__new__(Waiter)
        waiter._loop = self.service.loop
        self._waiter = waiter
        return waiter

    cdef Receiving _wish(self, Wish wish):
        cdef Receiving receiving = Receiving.__new__(Receiving)
        receiving.ws = self
        receiving.wish = wish
        return receiving

    def receive(self):
        """The next message: str or bytes. Raises WebSocketDisconnect when there will be none."""
        return self._wish(ANYTHING)

    def receive_text(self):
        """The next message, a str. Bytes are not accepted: the WebSocket is closed with 1003."""
        return self._wish(WISH_TEXT)

    def receive_bytes(self):
        """The next message, bytes. Text is not accepted: the WebSocket is closed with 1003."""
        return self._wish(WISH_BYTES)

    def receive_json(self):
        """What the next message, text or bytes, says in JSON. If it is none, the WebSocket is closed with 1007."""
        return self._wish(WISH_JSON)

    def __aiter__(self):
        return self

    def __anext__(self):
        return self._wish(NEXT)

    # ----------------------------------------------------------------------------------------------- sending

    cdef int _refuse_application(self) except -1:
        if self._state == CONNECTING:
            raise LocalProtocolError("the WebSocket was not accepted yet")
        if self.close_code is not None:
            raise WebSocketDisconnect(self.close_code, self.close_reason)
        raise LocalProtocolError("the WebSocket is closed")

    cdef int send_(self, object message) except -1:
        cdef Py_ssize_t length = 0
        cdef const char *text
        if self._state != OPEN:
            self._refuse_application()
        if isinstance(message, str):
            text = PyUnicode_AsUTF8AndSize(message, &length)   # a lone surrogate: UnicodeEncodeError
            if self._deflate is not None:
                whole = self._compress(<const uint8_t *>text, length)
                return self._frame(FS_WS_TEXT, True, <const uint8_t *>PyBytes_AS_STRING(whole), PyBytes_GET_SIZE(whole), whole)
            whole = (<str>message).encode() if length > COPY_MAX else None
            return self._frame(FS_WS_TEXT, False, <const uint8_t *>text, length, whole)
        if not PyBytes_CheckExact(message):
            message = bytes(memoryview(message))
        return self.send_bytes_(FS_WS_BINARY, message)

    cdef int send_bytes_(self, unsigned opcode, bytes data) except -1:
        if self._state != OPEN:
            self._refuse_application()
        if self._deflate is not None:
            data = self._compress(<const uint8_t *>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))
            return self._frame(opcode, True, <const uint8_t *>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), data)
        return self._frame(opcode, False, <const uint8_t *>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), data)

    cdef int _frame(self, unsigned opcode, bint compressed, const uint8_t *data, size_t length, object whole) except -1:
        cdef Channel channel = self.channel
        cdef fs_out *out
        if channel is None:
            return 0
        out = channel.out(FS_WS_HEAD_MAX + (length if length <= COPY_MAX else 0))
        out.len += fs_ws_head(out.data + out.len, opcode, True, compressed, length)
        if length <= COPY_MAX:
            memcpy(out.data + out.len, data, length)
            out.len += length
        else:
            channel.put(whole)
        self.exchange.body_sent += length
        return channel.flush()

    cdef object writing(self):
        if self.channel is None or self.channel.writable():
            return None
        return self.channel.drained()

    cdef Sending _sending(self, object message, unsigned opcode):
        cdef Sending sending = Sending.__new__(Sending)
        sending.ws = self
        sending.message = message
        sending.opcode = opcode
        return sending

    def send(self, message):
        """Send str as text, bytes-like as binary. Waits while the peer does not take what was sent before.

        WebSocketDisconnect if the peer has closed or is gone; LocalProtocolError before `accept` and after `close`.
        """
        return self._sending(message, 0)

    def send_text(self, data):
        """Send a str."""
        if not isinstance(data, str):
            raise TypeError(f"send_text takes str, not {type(data).__name__}")
        return self._sending(data, 0)

    def send_bytes(self, data):
        """Send bytes, or anything bytes-like."""
        if isinstance(data, str):
            raise TypeError("send_bytes takes bytes, not str")
        return self._sending(data if PyBytes_CheckExact(data) else bytes(memoryview(data)), FS_WS_BINARY)

    def send_json(self, data):
        """Send what msgspec, orjson or json (whichever is installed) make of `data`, as text."""
        return self._sending(json_encode(data), FS_WS_TEXT)

    # ----------------------------------------------------------------------------------------------- closing

    cdef int _control(self, fs_ws_event *event) except -1:
        cdef unsigned code
        if event.opcode == FS_WS_PING:
            # RFC 6455 section 5.5.3: the same payload, unless a close frame is out.
            if self._state == OPEN:
                if self.channel.writable():
                    self._frame(FS_WS_PONG, False, self.ws.control, self.ws.control_len, None)
                else:
                    self._owe_pong(PyBytes_FromStringAndSize(<const char *>self.ws.control, self.ws.control_len))
        elif event.opcode == FS_WS_CLOSE:
            if self._count:
                self._wake(True)   # what came before it is answered before it
            code = self.ws.close_code
            reason = ""
            if self.ws.control_len > 2:
                reason = PyUnicode_DecodeUTF8(<const char *>self.ws.control + 2, self.ws.control_len - 2, NULL)
            if self._state == OPEN:
                # Section 5.5.1: the answer typically echoes the status code.
                self._send_close(code, b"")
            self._over(code, reason)
            self._finish()
        return 0

    cdef int _owe_pong(self, bytes payload) except -1:
        # Section 5.5.3: whoever has not answered yet may answer "only the most recently processed Ping frame". So a peer that
        # pings and does not read makes us hold one pong.
        cdef bint waits = self._pong is not None
        self._pong = payload
        if not waits:
            self.channel.drained().add_done_callback(self._pay_pong)
        return 0

    def _pay_pong(self, future):
        cdef bytes payload = self._pong
        future.exception()   # the peer has left: the handler is told in its own way
        self._pong = None
        if payload is None or self._state != OPEN:
            return
        if not self.channel.writable():
            self._owe_pong(payload)
        else:
            self._frame(FS_WS_PONG, False, <const uint8_t *>PyBytes_AS_STRING(payload), PyBytes_GET_SIZE(payload), None)

    cdef int _send_close(self, unsigned code, bytes reason) except -1:
        cdef bytes payload = b""
        if code != 1005:
            payload = bytes((code >> 8, code & 255)) + reason[:123]
        return self._frame(FS_WS_CLOSE, False, <const uint8_t *>PyBytes_AS_STRING(payload), PyBytes_GET_SIZE(payload), payload)

    cdef int _over(self, unsigned code, str reason) except -1:
        # No more messages: what the application is told, once. Those that wait in the queue are given first.
        if self.close_code is None:
            self.close_code = code
            self.close_reason = reason
        return 0

    cdef int _fault(self, int error) except -1:
        # The peer broke a rule: RFC 6455 section 7.1.7, "fail the connection".
        row = fs_ws_error_info(<fs_ws_error>error)
        if self._count and self._receiving:
            self._wake(True)   # what came before it was good, and is answered
        if self.ws.error == FS_WS_E_none:
            fs_ws_refuse(&self.ws, <fs_ws_error>error)
        return self._fail(row.code, (<bytes>row.text).decode())

    cdef int _fail(self, unsigned code, str reason) except -1:
        # Say why, and end; the peer's answer is not waited for, but read and dropped.
        if self._state == OPEN:
            self._send_close(code, reason.encode())
        self._over(code, reason)
        return self._finish()

    cdef int _finish(self) except -1:
        """The last frame is out: the connection is closed behind it, with a lingering close."""
        cdef Exchange exchange = self.exchange
        disarm(&self._timer)
        if self._state == OPEN and exchange is not None:
            exchange.gone(ClientDisconnected())   # the handler did not ask for the end: it may want to be cancelled
        self._state = CLOSED
        self._full = False
        self.exchange = None
        self.channel = None
        free(self._part.data)
        self._part.data = NULL
        self._part.len = self._part.cap = 0
        if exchange is not None:
            exchange.finish_upgrade()
            self.request._exchange = None
        if not self._receiving:
            self._wake(False)
        return 0

    cdef int ended(self) except -1:
        if self._state == CLOSED:
            return 0
        self._over(1006, "")
        return self._finish()

    cdef int lost(self) except -1:
        if self._state != CLOSED:
            disarm(&self._timer)
            self._state = CLOSED
            self._over(1006, "")
            self.exchange = None
            self.channel = None
            self._full = False
            self.request._exchange = None
        self._wake(False)
        return 0

    cdef int retire(self) except -1:
        # RFC 6455 registry: 1012, service restart. The application is told at once; the peer has the close deadline.
        if self._state == OPEN:
            self._send_close(1012, b"")
            self._state = CLOSING
            self.service.timers.arm(&self._timer, CLOSE_DEADLINE)
            self._over(1012, "")
            self.exchange.gone(ClientDisconnected("the server is stopping"))
            self._wake(False)
        return 0

    cdef int close_(self, unsigned code, str reason) except -1:
        cdef bytes text = reason.encode()
        if self._state == CONNECTING:
            return self.deny(403, [(b"content-type", b"text/plain; charset=utf-8")], b"Forbidden")
        if not fs_ws_close_code_valid(code):
            raise LocalProtocolError(f"close code {code} must not be sent (RFC 6455 section 7.4)")
        if len(text) > 123:
            raise LocalProtocolError("the reason of a close is at most 123 bytes of UTF-8 (RFC 6455 section 5.5)")
        if self._state != OPEN:
            return 0
        self._send_close(code, text)
        self._state = CLOSING
        self.service.timers.arm(&self._timer, CLOSE_DEADLINE)
        self._over(code, reason)
        self._queue.clear()
        self._count = self._bytes = 0
        if self._full:
            self._full = False
            self.channel.tunnel_on()
        self._wake(False)
        return 0

    async def close(self, code=1000, reason=""):
        """Say goodbye. Does not wait for the answer. Before `accept`: 403. Of a WebSocket that is closed already: nothing."""
        self.close_(code, reason if reason is not None else "")

    # -------------------------------------------------------------------------------------------- keep-alive

    cdef int expired(self, int queue) except -1:
        """A ping for a peer that was silent; the end for one that stays so. Any byte is a sign of life, so that a long message
        in front of the pong cannot be taken for death; while we do not read, nothing is expected."""
        if self.channel is None:
            return 0
        if queue == CLOSE_DEADLINE:
            return self._finish()
        if self._heard or self._full:
            self._heard = False
            return self.service.timers.arm(&self._timer, PING_DEADLINE)
        if queue == PONG_DEADLINE:
            return self._fail(1011, "keepalive ping timeout")
        self._frame(FS_WS_PING, False, NULL, 0, None)
        return self.service.timers.arm(
            &self._timer, PONG_DEADLINE if self.service.limits.ping_timeout > 0 else PING_DEADLINE)

    # ------------------------------------------------------------------------------------------- compression

    cdef bytes _inflate(self, bytes data):
        """A message as it was before compression; None if it was none, or more than the limit, and the peer was told."""
        cdef DeflateTerms terms = <DeflateTerms>self._deflate
        cdef size_t most = self.service.limits.message_bytes_max
        cdef bytes whole
        if self._inflater is None:
            self._inflater = zlib.decompressobj(-terms.client_bits)
        try:
            # RFC 7692 section 7.2.2: the end that the sender left out. Never more than the limit, whatever it is a bomb of.
            whole = self._inflater.decompress(data + ENDS[0], most + 1)
        except zlib.error:
            self._fault(FS_WS_E_compressed)
            return None
        if <size_t>PyBytes_GET_SIZE(whole) > most:
            self._fault(FS_WS_E_too_big)
            return None
        if self._inflater.eof and self._inflater.unused_data not in ENDS:
            # A last block of DEFLATE (BFINAL), and something behind it: section 7.2.3.4 has nothing there but the end.
            self._fault(FS_WS_E_compressed)
            return None
        if terms.client_forgets or self._inflater.eof:
            self._inflater = None
        return whole

    cdef bytes _compress(self, const uint8_t *data, Py_ssize_t length):
        cdef DeflateTerms terms = <DeflateTerms>self._deflate
        if self._deflater is None:
            self._deflater = zlib.compressobj(LEVEL, zlib.DEFLATED, -terms.server_bits, MEMORY_LEVEL)
        pieces = self._deflater.compress((<const char *>data)[:length]) + self._deflater.flush(zlib.Z_SYNC_FLUSH)
        if terms.server_forgets:
            self._deflater = None
        return pieces[: len(pieces) - 4]   # RFC 7692 section 7.2.1

    # --------------------------------------------------------------------------------------- what was asked for

    @property
    def subprotocols(self) -> list:
        """What the client offered, in its order: list of str (RFC 6455 section 11.3.4)."""
        return list(self._offered)

    @property
    def origin(self):
        """The Origin field, str or None. Browsers send it; a page of any site may open a WebSocket to yours."""
        return self.request.headers.get("origin")

    @property
    def headers(self):
        """Headers of the handshake."""
        return self.request.headers

    @property
    def query_params(self):
        """QueryParams."""
        return self.request.query_params

    @property
    def path_params(self):
        """dict of the values in the path, converted."""
        return self.request.path_params

    @property
    def cookies(self):
        """dict of str."""
        return self.request.cookies

    @property
    def path(self):
        """The decoded path, str."""
        return self.request.path

    @property
    def url(self):
        """URL of the handshake; its scheme is that of HTTP."""
        return self.request.url

    @property
    def scheme(self):
        """ "ws", or "wss" over TLS."""
        return "wss" if self.request.scheme == "https" else "ws"

    @property
    def client(self):
        """Address of the peer, or None."""
        return self.request.client

    @property
    def server(self):
        """Address that the peer connected to, or None."""
        return self.request.server

    @property
    def app(self):
        """The App."""
        return self.request.app

    @property
    def state(self):
        """As Request.state."""
        return self.request.state
