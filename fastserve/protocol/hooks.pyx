"""The two doors to the upper floors: Handler (answer this Exchange) and Observer (this Exchange is over).

Room:    floor 1's ceiling. The lower floor draws the door, the upper floors implement it.
Called:  by Connection through the vtable. Implemented by interfaces/ and telemetry/.
"""
import logging

logger = logging.getLogger("fastserve.error")


cdef class Handler:
    """What answers. Subclassed in Cython by the wings; `close()` gives back what it holds (threads)."""

    cdef int handle(self, Exchange exchange) except -1:
        raise NotImplementedError

    cdef int answer(self, Exchange exchange, str mounted, object context, object state) except -1:
        raise NotImplementedError

    cdef int tell_exception(self, object error) except -1:
        if self.on_exception is not None:
            try:
                self.on_exception(error)
            except Exception:
                logger.exception("on_exception failed")
        return 0

    def watch_exceptions(self, callback):
        """Call `callback(error)` for each exception that the application did not mean to raise: those that are logged with a
        traceback. In the thread that it came up in, before the client hears of it. None: nobody."""
        self.on_exception = callback

    cdef uint64_t body_limit(self, Exchange exchange, uint64_t limit) except? 0:
        return limit

    cdef int64_t waiting_since(self):
        return 0

    async def wait_idle(self):
        """Until the calls are over that have answered and go on (background tasks). Called when the server stops, after the
        last connection; cancelled if it takes too long."""

    def cancel(self):
        """Cancel what still runs: its time is up."""

    def close(self):
        """Join threads, drop references. Called once, after the last exchange."""


cdef class Observer:
    """What watches. Subclassed in Cython by telemetry/."""

    cdef int observe(self, Exchange exchange) except -1:
        return 0

    def close(self):
        """Write out what is held back."""
