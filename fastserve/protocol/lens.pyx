"""Lens and Trace: the door through which is told where a request waits; and mark(), with which handlers tell it themselves.

Room:    floor 1. The lower floor draws the door, as it does for handlers and observers (hooks.pyx).
Called:  by Connection, Exchange and the wings, for a request that is traced: all others have no Trace. Implemented by
         telemetry/lens/recorder.pyx.
"""
import threading
from asyncio import _get_running_loop

cdef uint32_t NONE = 0
# An event loop: its Recorder, until that is closed. Not an attribute of the loop: one with a __dict__ is dearer to ask for any.
cdef dict lenses = {}
thread = threading.local()           # `trace`: of the request for which this thread works


cdef uint32_t *no_lens() noexcept:
    return &NONE


cdef Lens lens_of(object loop):
    return lenses.get(loop) if lenses and loop is not None else None   # None too: this loop has none, another one may


cdef class Trace:
    """One traced request."""

    cdef void body(self, size_t length, bint last) noexcept:
        pass

    cdef void received(self, int64_t since, int64_t now) noexcept:
        pass

    cdef void response(self, unsigned status) noexcept:
        pass

    cdef void sent(self, size_t length) noexcept:
        pass

    cdef void drained(self, int64_t since, int64_t now) noexcept:
        pass

    cdef void over(self, unsigned status, uint64_t sent, int64_t now) noexcept:
        pass

    cdef void route(self, object pattern, object handler) noexcept:
        pass

    cdef void enter(self, object coro) noexcept:
        pass

    cdef void suspend(self, object coro, object yielded) noexcept:
        pass

    cdef void end(self) noexcept:
        pass

    cdef void becomes(self, object task) noexcept:
        pass

    cdef void handed_over(self, object yielded) noexcept:
        pass

    cdef void ran(self, int64_t submitted, int64_t began, unsigned whose) noexcept:
        pass

    cdef void mark(self, str text) noexcept:
        pass

    cdef bytes timing(self, unsigned parts):
        return None

    cdef void parent(self, const uint8_t *text, size_t length) noexcept:
        pass


cdef class Lens:
    """Who decides which requests are traced."""

    def __cinit__(self):
        self.mode = no_lens()

    cdef bint wants(self) noexcept:
        return False

    cdef Trace begin(self, const uint8_t *text, size_t length, Arrival *arrival):
        return None

    cdef Trace here(self):
        return None

    def mark(self, str text not None):
        """Of the request whose task runs now."""


def mark(text):
    """Put a mark with this text on the timeline of the request in hand, if it is traced by the lens; otherwise do nothing.

    text: str, cut at 4096 bytes; TypeError if it is none. It costs an event when the request is traced, and next to nothing
    when it is not. Works in coroutines, in plain handlers and in WSGI applications; other threads have no request.
    """
    if not isinstance(text, str):
        raise TypeError(f"a mark is a str, not {type(text).__name__}")
    cdef Lens lens
    loop = _get_running_loop()
    if loop is None:
        trace = getattr(thread, "trace", None)
        if trace is not None:
            (<Trace?>trace).mark(text)
        return
    lens = lens_of(loop)
    if lens is not None:
        lens.mark(text)
