"""A WebSocket of an ASGI application: its scope, what it is told and what it says.

Room:    floor 2, stations 5 (handle) and 6 (respond).
Called:  by ASGIHandler, which makes the call; by HandlerCall (returned, raised), Event. Calls WebSocket, Exchange.
Rules:   "HTTP & WebSocket ASGI Message Format" 2.4, section WebSocket, and the extension WebSocket Denial Response; RFC 6455
         sections 4.2.2 (subprotocols), 7.4 (close codes).

Theory of operation. The handshake, frames, limits, pings and back-pressure are WebSocket's (protocol/websocket.pyx), which is the
connection's Tunnel from 101 on; this wing turns its messages into events, and holds their order (Progress). What is out of order
or of a wrong type is an exception of the application's `send`. What the application does not catch is one entry in the log, and
500 before `websocket.accept`, 1011 behind it.

A refusal with a response is an ordinary response: WebSocket lets go of the exchange, and the connection goes on as one of HTTP.
"""
import asyncio
from asyncio import CancelledError

cimport cython
from cpython.bytes cimport PyBytes_CheckExact

from fastserve.interfaces.asgi_event cimport (
    TURNS, WAIT, Event, EventCall, is_departure, message_body, message_headers, message_kind, message_status,
    tell_route,
)
from fastserve.protocol.exchange cimport Exchange
from fastserve.protocol.websocket cimport WebSocket

from fastserve.errors import ClientDisconnected, LocalProtocolError, WebSocketDisconnect

__all__ = []

cdef dict EXTENSIONS = {"websocket.http.response": {}}


cdef int websocket_scope(dict scope, WebSocket websocket) except -1:
    scope["type"] = "websocket"
    scope["scheme"] = "wss" if scope["scheme"] == "https" else "ws"
    del scope["method"]
    scope["subprotocols"] = websocket.subprotocols
    scope["extensions"] = {name: dict(value) for name, value in EXTENSIONS.items()}
    return 0


@cython.final
cdef class ASGIWebSocketCall(EventCall):
    """One call of the application, for one WebSocket."""

    # --- receive ---

    cdef object next_event(self, Event event):
        cdef WebSocket websocket = self.websocket
        cdef object message
        if not self.told:
            self.told = True
            return {"type": "websocket.connect"}
        if self.progress != ACCEPTED:
            if self.progress != OVER and not self.left():
                return self.until_woken(event)   # for its own answer, or the end
            return self.disconnect(event)
        try:
            message = websocket.take()
        except WebSocketDisconnect:
            return self.disconnect(event)
        if message is None:
            if self.asking is not None and self.asking.over:
                websocket._waiter = None   # it was given up: it waits for nothing any more
            self.asking = event
            self.turns = 0
            event.inner = websocket.wait().__await__()
            return WAIT
        if type(message) is str:
            return {"type": "websocket.receive", "text": message}
        return {"type": "websocket.receive", "bytes": message}

    cdef object disconnect(self, Event event):
        cdef WebSocket websocket = self.websocket
        return self.now_and_then(event, {
            "type": "websocket.disconnect",
            "code": 1006 if websocket.close_code is None else websocket.close_code,
            "reason": websocket.close_reason,
        })

    # --- send, station 6: respond ---

    cdef object take_message(self, Event event):
        cdef object message = event.message
        cdef object kind, future
        cdef Exchange exchange
        if event.sent:
            return None
        event.sent = True
        kind = message_kind(message)
        if kind == "websocket.send":
            self.check_there(kind)
            self.send_event(message)
            future = self.websocket.writing()
            if future is not None:
                self.turns = 0
                event.inner = future.__await__()
                return WAIT
            self.turns += 1
            if self.turns % TURNS == 0:
                # Whoever never waits must not keep the loop from everybody else, nor from hearing that the peer has left.
                event.inner = asyncio.sleep(0).__await__()
                return WAIT
            return None
        if kind == "websocket.accept":
            self.check_there(kind)
            self.accept_event(message)
        elif kind == "websocket.close":
            self.check_there(kind)
            self.close_event(message)
        elif kind == "websocket.http.response.start":
            self.check_there(kind)
            self.start_event(message)
        elif kind == "websocket.http.response.body":
            self.check_there(kind)
            self.body_event(message)
            exchange = self.exchange
            if self.progress == BODY and not exchange.writable():
                event.inner = exchange.drained().__await__()
                return WAIT
        else:
            raise LocalProtocolError(f"there is no ASGI message {kind!r} to send for a scope of type 'websocket'")
        return None

    cdef bint left(self) except -1:
        cdef Exchange exchange = self.exchange
        if self.progress == OVER:
            return False
        if self.progress == ACCEPTED:
            return self.websocket.close_code is not None
        return exchange is None or exchange.disconnected or exchange.ended

    cdef int check_there(self, object kind) except -1:
        if self.progress == OVER:
            raise LocalProtocolError(f"{kind!r} was sent after the WebSocket was closed or refused")
        if self.left():
            # ASGI 2.4: "If send is called after the client has disconnected the server should raise a server-specific subclass
            # of OSError"
            raise ClientDisconnected()
        return 0

    cdef int accept_event(self, object message) except -1:
        cdef object subprotocol = message.get("subprotocol")
        cdef list headers
        if self.progress != ASKED:
            raise LocalProtocolError(
                "'websocket.accept' was sent a second time" if self.progress == ACCEPTED
                else "'websocket.accept' was sent after 'websocket.http.response.start'"
            )
        if subprotocol is not None and not isinstance(subprotocol, str):
            raise LocalProtocolError(f"'subprotocol' of 'websocket.accept' is a str, not {type(subprotocol).__name__}")
        headers = [(bytes(name), bytes(value)) for name, value in message_headers(message)]
        try:
            self.websocket.accept_(subprotocol, headers)
        except WebSocketDisconnect:
            raise ClientDisconnected() from None
        except (TypeError, ValueError) as error:
            raise LocalProtocolError(str(error)) from None
        self.progress = ACCEPTED
        return self.wake()

    cdef int send_event(self, object message) except -1:
        cdef object text = message.get("text")
        cdef object data = message.get("bytes")
        if self.progress != ACCEPTED:
            raise LocalProtocolError("'websocket.send' was sent before 'websocket.accept'")
        if (text is None) == (data is None):
            raise LocalProtocolError(f"'websocket.send' has 'text' or 'bytes', not {'both' if text is not None else 'neither'}")
        if text is not None:
            if not isinstance(text, str):
                raise LocalProtocolError(f"'text' of 'websocket.send' is a str, not {type(text).__name__}")
            data = text
        elif not PyBytes_CheckExact(data) and not isinstance(data, (bytes, bytearray, memoryview)):
            raise LocalProtocolError(f"'bytes' of 'websocket.send' is bytes, not {type(data).__name__}")
        return self.websocket.send_(data)

    cdef int close_event(self, object message) except -1:
        cdef object code = message.get("code", 1000)
        cdef object reason = message.get("reason")
        code = 1000 if code is None else code
        reason = "" if reason is None else reason
        if not isinstance(code, int) or isinstance(code, bool) or not 0 <= code <= 65535:
            raise LocalProtocolError(f"'code' of 'websocket.close' is an int (RFC 6455 section 7.4), not {code!r}")
        if not isinstance(reason, str):
            raise LocalProtocolError(f"'reason' of 'websocket.close' is a str, not {type(reason).__name__}")
        if self.progress != ASKED and self.progress != ACCEPTED:
            raise LocalProtocolError("'websocket.close' was sent after 'websocket.http.response.start'")
        self.websocket.close_(code, reason)   # before accept: 403
        return self.said()

    cdef int start_event(self, object message) except -1:
        if self.progress != ASKED:
            raise LocalProtocolError(
                "'websocket.http.response.start' was sent after 'websocket.accept'" if self.progress == ACCEPTED
                else "'websocket.http.response.start' was sent a second time"
            )
        self.status = message_status(message)
        self.headers = message_headers(message)
        self.progress = HELD
        return 0

    cdef int body_event(self, object message) except -1:
        cdef Exchange exchange = self.exchange
        cdef bytes body
        cdef bint more = bool(message.get("more_body", False))
        if self.progress != HELD and self.progress != BODY:
            raise LocalProtocolError("'websocket.http.response.body' was sent before 'websocket.http.response.start'")
        body = message_body(message)
        if self.progress == HELD:
            if not more:
                self.websocket.deny(self.status, self.headers, body)
                return self.said()
            self.websocket.let_go()
            exchange.start(self.status, self.headers, -1)
            self.progress = BODY
        if body:
            exchange.write(body)
        elif more:
            exchange.channel.flush()
        if not more:
            exchange.end()
            return self.said()
        return 0

    cdef int said(self) except -1:
        # The application has had its last word.
        self.progress = OVER
        self.headers = None
        return self.wake()

    # --- the end of the call ---

    cdef int refuse(self, unsigned status) except -1:
        # It was not accepted, and nobody says why: the request is answered, or what was begun is cut short.
        cdef Exchange exchange = self.exchange
        if self.websocket.exchange is not None:
            self.websocket.let_go()
        if exchange.disconnected:
            exchange.cut()
        else:
            exchange.fail(status)
        return 0

    cdef object returned(self, object value):
        cdef bint left = self.left()
        if self.progress == ACCEPTED:
            if not left:
                self.websocket.close_(1000, "")
        elif self.progress != OVER:
            if not left:
                self.log("the ASGI application returned without accepting or refusing the WebSocket"
                         if self.progress == ASKED else "the ASGI application returned before its response was complete", None)
            self.refuse(500)
        return None

    cdef object raised(self, object error):
        cdef bint left = self.left()
        cdef bint cancelled = isinstance(error, CancelledError)
        if cancelled:
            if not left and self.progress != OVER:
                self.log("the ASGI application was cancelled", None)
        elif not left or not is_departure(error):   # our own exception, perhaps wrapped by a framework, is no fault
            self.log("exception in the ASGI application" + (
                ", after the WebSocket had ended" if left or self.progress == OVER else ""
            ), error)
        if self.progress == ACCEPTED:
            if not left:
                self.websocket.close_(1011, "")
        elif self.progress != OVER:
            self.refuse(503 if cancelled else 500)
        return None

    cdef int _finish(self) except -1:
        # What is left of the WebSocket, the close handshake, is its own business.
        cdef Exchange exchange = self.exchange
        self.finished = True
        self.exchange = None
        if self.trace is not None:
            tell_route(self.trace, self.scope)
        self.scope = None
        self.asking = None
        if not self.started_task:
            self.task = None
        if self.progress != OVER and self.progress != ACCEPTED and exchange is not None and not exchange.ended:
            exchange.fail(500)
        self.progress = OVER
        self.wake()
        if self.started_task:
            self.wing.forget(self)
        return 0
