# ASGIWebSocketCall: one call of an ASGI application for one WebSocket.
#
# Called by: asgi.pyx, which makes it. Calls: EventCall, WebSocket, Exchange.
from fastserve.interfaces.asgi_event cimport Event, EventCall
from fastserve.protocol.websocket cimport WebSocket


cdef enum Progress:
    ASKED       # neither accepted nor refused
    ACCEPTED
    HELD        # refused with a response: its head is here, and waits for the first websocket.http.response.body
    BODY        # that head is written, body events are due
    OVER        # the application has closed or refused it: nothing more may come


cdef class ASGIWebSocketCall(EventCall):
    cdef WebSocket websocket
    cdef Progress progress
    cdef bint told                    # websocket.connect was given out
    cdef Event asking                 # the receive() that waits for a message, or did
    cdef unsigned status              # of a head that is HELD
    cdef object headers

    cdef int accept_event(self, object message) except -1
    cdef int send_event(self, object message) except -1
    cdef int close_event(self, object message) except -1
    cdef int start_event(self, object message) except -1
    cdef int body_event(self, object message) except -1
    cdef bint left(self) except -1               # has it ended without the application's doing?
    cdef int check_there(self, object kind) except -1
    cdef int said(self) except -1
    cdef int refuse(self, unsigned status) except -1
    cdef object disconnect(self, Event event)


cdef int websocket_scope(dict scope, WebSocket websocket) except -1   # makes one of a scope of type http
