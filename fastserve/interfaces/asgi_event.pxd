# EventCall and Event: what both ASGI wings share: the awaitables of receive() and send(), and parts of messages.
#
# Called by: asgi.pyx, asgi_websocket.pyx. Calls: HandlerCall.
from fastserve.interfaces.call cimport HandlerCall, Spares
from fastserve.protocol.exchange cimport Exchange
from fastserve.protocol.lens cimport Trace

cdef enum:
    TURNS = 64          # events without a wait, before others get their turn

cdef object WAIT        # of next_event and take_message: event.inner is to be waited for


cdef class EventCall(HandlerCall):
    cdef object wing                  # ASGIHandler: forget(call) is called when one that waited has ended
    cdef dict scope                   # for the log; None once over
    cdef unsigned turns               # events without a wait
    cdef list waiters                 # Futures of receive() that wait for the end
    cdef object receiver, sender      # what the application gets as receive and send: the bound methods, made once

    # What receive() gives / what send(event.message) does; both may ask to WAIT, and are called again.
    cdef object next_event(self, Event event)
    cdef object take_message(self, Event event)
    cdef object until_woken(self, Event event)   # WAIT, until wake()
    cdef object now_and_then(self, Event event, object message)   # `message`, and now and then a turn for others before it
    cdef int wake(self) except -1
    cdef int log(self, str what, object error) except -1


cdef class Event:
    # What receive() and send(message) return: an awaitable that ends at once when nothing has to be waited for.
    cdef EventCall call
    cdef bint sends                   # send(message); otherwise receive()
    cdef object message
    cdef object inner                 # iterator or coroutine of what is waited for
    cdef bint sent                    # the message was dealt with
    cdef bint over


# Parts of messages; what is wrong with them is a LocalProtocolError of the application's send().
cdef object message_part(object message, str name, object default)   # message.get(name, default)
cdef object message_kind(object message)
cdef unsigned message_status(object message) except 0
cdef object message_headers(object message)      # a list or tuple of pairs
cdef bytes message_body(object message)
cdef int check_pair(object pair) except -1
cdef int tell_route(Trace trace, object scope) except -1
cdef bint is_departure(object error) except -1   # is it ClientDisconnected, or made of it?
