# WebSocket: what a handler sees of one, and the Tunnel that reads the connection after 101.
#
# Called by: Connection (as its Tunnel), the wings, users. Calls: Exchange, Channel, the frame codec of the core.
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from fastserve.protocol.channel cimport Channel, Tunnel
from fastserve.protocol.core cimport fs_out, fs_utf8, fs_ws, fs_ws_event
from fastserve.protocol.exchange cimport Exchange
from fastserve.protocol.limits cimport Limits
from fastserve.protocol.request cimport Request
from fastserve.protocol.service cimport Service
from fastserve.protocol.timers cimport Timer

cdef enum SocketState:
    CONNECTING      # the request is in hand, not answered
    OPEN
    CLOSING         # our close frame is out, theirs is not here
    CLOSED          # both are, or the connection is gone, or the request was refused


cdef class Waiter:
    # What a Task waits for in receive(): a future of one waiter, which may be woken inside the read that brings the message.
    cdef public bint _asyncio_future_blocking
    cdef object _loop
    cdef object _callback, _context      # of the Task
    cdef list _more                      # (callback, context) of others, which is rare
    cdef bint _done, _cancelled
    cdef object _cancel_message

    cdef int wake(self, bint inside) except -1


cdef enum Wish:
    ANYTHING
    WISH_TEXT
    WISH_BYTES
    WISH_JSON
    NEXT            # of `async for`


cdef class Receiving:
    cdef WebSocket ws            # None once it has its message
    cdef Wish wish
    cdef Waiter waiter

    cdef object step(self)


cdef class Sending:
    cdef WebSocket ws            # None once the message has been handed over
    cdef object message
    cdef unsigned opcode         # 0: by the type of `message`
    cdef object drained          # iterator over a future
    cdef bint pausing

    cdef object step(self)


cdef class WebSocket(Tunnel):
    cdef Exchange exchange               # None once over
    cdef Channel channel                 # None once over
    cdef Service service
    cdef readonly Request request
    cdef SocketState _state
    cdef fs_ws ws
    cdef Timer _timer                    # ping, pong or close: one at a time
    cdef bint _heard                     # something came since the timer was set
    # --- the handshake ---
    cdef bytes _key
    cdef list _offered                   # subprotocols, in the client's order
    cdef readonly object subprotocol     # str, or None
    cdef object _deflate                 # DeflateTerms, or None
    # --- messages received ---
    cdef object _queue                   # collections.deque of str and bytes
    cdef size_t _count, _bytes           # of messages in it
    cdef bint _full                      # it was filled; reading goes on when it is half empty
    cdef bint _receiving                 # inside received()
    cdef Waiter _waiter
    cdef fs_out _part                    # of the message that is coming
    cdef fs_utf8 _utf8
    # --- the end ---
    cdef readonly object close_code      # what the application is told: int, or None while it may still receive
    cdef readonly str close_reason
    # --- sending ---
    cdef unsigned _turn                  # messages sent without waiting
    cdef object _inflater, _deflater     # zlib objects, made when first needed
    cdef bytes _pong                     # the payload of one that is owed to a peer that does not read; None: none is

    # The WebSocket of a request that asks for one; None if the handshake was refused, and answered.
    @staticmethod
    cdef WebSocket begin(Exchange exchange)
    # --- for the wings; errors are raised as documented at the public methods ---
    cdef int accept_(self, object subprotocol, object headers) except -1
    cdef object take(self)               # a message (str or bytes), None if one must wait; raises WebSocketDisconnect
    cdef Waiter wait(self)
    cdef int send_(self, object message) except -1
    cdef int send_bytes_(self, unsigned opcode, bytes data) except -1
    cdef int close_(self, unsigned code, str reason) except -1
    cdef int deny(self, unsigned status, object headers, object body) except -1
    cdef Exchange let_go(self)           # before an answer: the exchange, to answer it in some other way than with 101
    cdef object writing(self)            # None, or a future to wait for before the next message
    # --- inside ---
    cdef int _data(self, const uint8_t *data, fs_ws_event *event) except -1
    cdef int _message(self, const uint8_t *data, size_t length, bint text) except -1
    cdef int _put(self, object message, size_t size) except -1
    cdef int _control(self, fs_ws_event *event) except -1
    cdef bint _wake(self, bint inside) except -1
    cdef int _frame(self, unsigned opcode, bint compressed, const uint8_t *data, size_t length, object whole) except -1
    cdef int _owe_pong(self, bytes payload) except -1
    cdef int _send_close(self, unsigned code, bytes reason) except -1
    cdef int _over(self, unsigned code, str reason) except -1
    cdef int _fault(self, int error) except -1
    cdef int _fail(self, unsigned code, str reason) except -1
    cdef int _finish(self) except -1
    cdef Receiving _wish(self, Wish wish)
    cdef Sending _sending(self, object message, unsigned opcode)
    cdef int _refuse_application(self) except -1
    cdef bytes _inflate(self, bytes data)
    cdef bytes _compress(self, const uint8_t *data, Py_ssize_t length)


cdef bint asks_for_websocket(Exchange exchange) except -1   # GET with Upgrade: websocket; only with head.upgrade set
