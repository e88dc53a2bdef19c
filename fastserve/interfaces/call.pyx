"""HandlerCall: one call of user code, stepped without an asyncio.Task as long as it never suspends.

Room:    floor 2, station 5 (handle); used by the wings that call coroutines.
Called:  by native and asgi, which subclass it. Calls the user's coroutine, Exchange.

Theory of operation. Most handlers run to their end without waiting for anything, and a Task costs more than they do. So the
first step is taken here, at once, in the request's own Context. asyncio.current_task() must work in it all the same: asyncio is
told that a HandlerTask is running, an asyncio.Task that was allocated but not initialised ("blank"). It becomes a real, scheduled
Task by its own __init__ the moment somebody asks it anything, or when the coroutine suspends. From then on asyncio drives *us*
(send, throw, close below), and we the coroutine: same object before and after, so that asyncio.timeout(), TaskGroup and anyio,
which remember the task they were entered in, cancel the right one.

The real Task's first step hands back the future that the coroutine yielded here; nothing is awaited twice. asyncio.all_tasks()
lists a blank task too. A wing may keep a call that ended so, with its task, for the next request (`pooled`, reusable()); such
a task stays entered, and says that it is done while it waits for one.
"""

import asyncio
import logging
from asyncio import CancelledError, Task, tasks

from cpython.contextvars cimport PyContext_Copy, PyContext_Enter, PyContext_Exit
from cpython.dict cimport PyDict_DelItem, PyDict_SetItem
from cpython.ref cimport PyObject
from cpython.set cimport PySet_Add, PySet_Discard
from cpython.weakref cimport PyWeakref_NewRef

from libc.stdint cimport int64_t

from fastserve.protocol.board cimport Seat
from fastserve.protocol.lens cimport CANCELLED, RAISED, Trace
from fastserve.protocol.timers cimport precise_now

from fastserve.protocol.tasks import tasks_by_loop

cdef extern from "Python.h":
    ctypedef enum PySendResult:
        PYGEN_RETURN
        PYGEN_ERROR
        PYGEN_NEXT

    PySendResult PyIter_Send(object it, object arg, PyObject **result) except *
    Py_ssize_t Py_REFCNT(object thing)

cdef enum:
    SPARE_MAX = 64   # calls kept for the next requests

cdef extern from *:
    """
    static inline PyObject *fs_take(PyObject *object) { return object; }
    /* `own` is a weak reference of ours, or None; `held` the references to `task` that we know of. */
    static inline int fs_pristine(PyObject *task, PyObject *own, Py_ssize_t held) {
      Py_ssize_t weak = Py_TYPE(task)->tp_weaklistoffset;
      PyObject **dict = _PyObject_GetDictPtr(task);
      PyObject *first;
      if (Py_REFCNT(task) != held || (dict != NULL && *dict != NULL)) return 0;
      if (weak == 0) return 1;
      first = *(PyObject **)((char *)task + weak);
      if (own == Py_None) return first == NULL;
      /* weakref.ref(task) gives out the one that is there already: ours and the set's are two references to it */
      return first == own && ((PyWeakReference *)own)->wr_next == NULL && Py_REFCNT(own) == 2;
    }
    """
    object fs_take(PyObject *object)   # a new reference that is given to us

    int fs_pristine(object task, object own, Py_ssize_t held)   # nobody else holds it, points at it weakly, or has put an attribute on it

cdef object _list_task = getattr(tasks, "_register_eager_task", None)       # Python 3.12: what eager tasks use
cdef object _unlist_task = getattr(tasks, "_unregister_eager_task", None)
# Before that, all_tasks() reads this WeakSet. Entered without the callback of its own add(), for the entry never outlives us.
cdef object _listed = getattr(tasks._all_tasks, "data", None) if _list_task is None else None
cdef object _enter_task = tasks._enter_task
cdef object _leave_task = tasks._leave_task
cdef object _current_task = asyncio.current_task
logger = logging.getLogger("fastserve.error")


def _blank_aware(name):
    # A method of Task that first makes the blank one real.
    method = getattr(Task, name)

    def call(self, *args, **kwargs):
        self._make_real()
        return method(self, *args, **kwargs)

    call.__name__ = name
    call.__doc__ = method.__doc__
    return call


def _blank_aware_attribute(name):
    attribute = getattr(Task, name)

    def get(self):
        self._make_real()
        return attribute.__get__(self)

    return property(get)


class HandlerTask(Task):
    """The asyncio.Task of a request's handler. Made by HandlerCall."""

    __slots__ = ("_call",)

    def _make_real(self):
        call = self._call
        if call is not None:
            (<HandlerCall>call).start_task(self)

    def __repr__(self):
        # asyncio prints tasks in its complaints; that must not start one.
        call = self._call
        if call is not None and not (<HandlerCall>call).started_task:
            return f"<HandlerTask in its first step coro={(<HandlerCall>call).coro!r}>"
        return super().__repr__()

    def get_loop(self):
        """The event loop it runs on."""
        call = self._call
        if call is not None and not (<HandlerCall>call).started_task:
            return (<HandlerCall>call).loop   # all_tasks() asks everybody: that makes nobody real
        return super().get_loop()

    def done(self):
        """True when the handler has ended."""
        call = self._call
        if call is not None and not (<HandlerCall>call).started_task:
            return (<HandlerCall>call).finished
        return super().done()


    def result(self):
        """None: the answer went to the peer. InvalidStateError while the handler runs."""
        return None if self._ended_blank() else super().result()

    def exception(self):
        """None: an exception of the handler was answered. InvalidStateError while it runs."""
        return None if self._ended_blank() else super().exception()

    def _ended_blank(self):
        # The handler never suspended and nobody asked while it ran. Otherwise the Task itself knows.
        call = self._call
        if call is not None and (<HandlerCall>call).finished and not (<HandlerCall>call).started_task:
            return True
        self._make_real()
        return False


for _name in ("add_done_callback", "remove_done_callback", "cancel", "cancelled", "cancelling", "get_coro", "get_context",
              "get_name", "get_stack", "print_stack", "set_name", "uncancel", "__await__", "__iter__"):
    if hasattr(Task, _name):
        setattr(HandlerTask, _name, _blank_aware(_name))


for _name in ("_callbacks", "_coro", "_exception", "_loop", "_result", "_state"):  # private, and read all the same
    if hasattr(Task, _name):
        setattr(HandlerTask, _name, _blank_aware_attribute(_name))


cdef object _new_task = Task.__new__


cdef dict _current_tasks = tasks_by_loop()


cdef inline Seat *_enter(Exchange exchange, int64_t *before) noexcept:
    # For whoever watches from outside: the loop runs this request now.
    cdef Seat *seat
    if exchange is None or exchange.seat == NULL:
        return NULL
    seat = exchange.seat
    before[0] = seat.busy_since_ns
    seat.running = exchange.flight
    seat.busy_since_ns = precise_now()
    return seat


cdef inline void _leave(Seat *seat, int64_t before) noexcept:
    if seat != NULL:
        seat.busy_since_ns = before
        seat.running = -1


cdef class HandlerCall(Call):
    """What drives one handler. To asyncio it is the Task's coroutine."""

    cdef object returned(self, object value):
        raise NotImplementedError

    cdef object raised(self, object error):
        raise NotImplementedError

    cdef int run(self, object coro) except -1:
        cdef object task = self.task
        cdef object other = None
        cdef object yielded
        cdef bint suspended = False
        if task is None:
            task = self.task = _new_task(HandlerTask)
            task._call = self
        self.coro = coro
        self.context = PyContext_Copy(self.base_context)
        if _current_tasks is not None and not _current_tasks:
            PyDict_SetItem(_current_tasks, self.loop, task)
        else:
            try:
                _enter_task(self.loop, task)
            except RuntimeError:
                # A handler ended in its own task, and this is the next request of its connection.
                other = _current_task(self.loop)
                _leave_task(self.loop, other)
                _enter_task(self.loop, task)
        if not self.listed:
            self._list(task)
        if self.exchange is not None and self.exchange.trace is not None:
            self.trace = self.exchange.trace
            self.trace.enter(coro)
        try:
            yielded = self._step(None, None, &suspended)
        finally:
            if not suspended and self.trace is not None:
                self._traced(self.trace, False, None)
            if not self.pooled:
                self._unlist(task)
            if _current_tasks is not None:
                PyDict_DelItem(_current_tasks, self.loop)
            else:
                _leave_task(self.loop, task)
            if other is not None:
                _enter_task(self.loop, other)
        if suspended:
            if self.trace is not None:
                self.trace.suspend(self.coro, yielded)
            self.yielded = yielded
            self.start_task(task)
        return 0

    cdef bint reusable(self) except -1:
        """After run(): may this call, with its blank task, serve another request? False: they have let go of each other.

        Only if nobody kept the task, made it real, points at it weakly (a WeakKeyDictionary by task holds what was said of the
        request before) or set an attribute on it. Until `finished` is reset the task is done, as far as anybody can tell.
        """
        cdef object task = self.task
        cdef object listing
        cdef bint pristine
        if task is None or self.started_task or not self.finished:
            self.let_go()
            return False
        listing, self.task, self.listing = self.listing, None, None   # so that these locals hold the only references of ours
        pristine = fs_pristine(task, listing, 2 if self.listed and listing is None else 1)
        self.listing = listing
        if not pristine:
            self._unlist(task)
            return False
        self.task = task
        self.context = None
        return True

    cdef bint kept(self, Spares spares) except -1:
        return self.kept_by(spares, 2)   # the wing's reference, and the task's

    cdef bint kept_by(self, Spares spares, Py_ssize_t references) except -1:
        # Most calls end within go(), and nobody has seen their task or kept a method of theirs.
        if self.finished and self.reusable() and Py_REFCNT(self) == references and spares._count < SPARE_MAX:
            self.reset()
            return spares.put(self)
        self.let_go()
        return False

    cdef int reset(self) except -1:
        return 0

    cdef int let_go(self) except -1:
        # Leave no circle behind: a task that asyncio has not got ends here.
        cdef object task = self.task
        if task is not None and not self.started_task:
            self._unlist(task)
            self.task = None
        return 0

    cdef int go(self, object coro) except -1:
        try:
            self.run(coro)
        except KeyboardInterrupt:
            raise
        except BaseException:
            # a CancelledError of the handler's own making: answered by raised(), and this is not the task it was meant for
            pass
        return 0

    cdef int settle(self, object value, object error) except -1:
        cdef object coro = self.returned(value) if error is None else self.raised(error)
        if coro is not None:
            return self.go(coro)
        return self._finish()

    cdef int start_task(self, object task) except -1:
        if not self.started_task:
            self.started_task = True
            self._unlist(task)  # it enters itself
            if self.trace is not None:
                self.trace.becomes(task)
            # Schedules its first step, registers it in all_tasks(). From here on asyncio calls send() and throw(). One that
            # is made real only after the handler has ended finds it finished, and is done.
            Task.__init__(task, self, loop=self.loop, context=self.context)
        return 0

    cdef int _list(self, object task) except -1:
        if _list_task is not None:
            _list_task(task)
            self.listed = True
        elif _listed is not None:
            self.listing = PyWeakref_NewRef(task, None)
            PySet_Add(_listed, self.listing)
            self.listed = True
        return 0

    cdef int _unlist(self, object task) except -1:
        cdef object listing = self.listing
        if self.listed:
            self.listed = False
            self.listing = None
            if listing is None:
                _unlist_task(task)
            else:
                PySet_Discard(_listed, listing)
        return 0

    cdef object _step(self, object value, object error, bint *suspended):
        """Step the coroutine, and those that follow it, until one suspends or all is done. Runs the first step inside the
        request's context; later ones are in it already, by the Task. Returns what was yielded."""
        cdef PyObject *result
        cdef PySendResult how
        cdef bint enter = not self.started_task
        cdef object outcome
        while True:
            result = NULL
            outcome = None
            failure = None
            if enter:
                PyContext_Enter(self.context)
            try:
                if error is None:
                    how = PyIter_Send(self.coro, value, &result)
                    outcome = fs_take(result)
                    if how == PYGEN_NEXT:
                        suspended[0] = True
                        return outcome
                else:
                    try:
                        outcome = self.coro.throw(error)
                        suspended[0] = True
                        return outcome
                    except StopIteration as stop:
                        outcome = stop.value
            except BaseException as raised:
                failure = raised
            finally:
                if enter:
                    PyContext_Exit(self.context)
            value = error = None
            if failure is not None and self.trace is not None:
                self.trace.outcome = CANCELLED if isinstance(failure, CancelledError) else RAISED
            self.coro = self._ended(outcome, failure)
            if self.coro is None:
                self._finish()
                if failure is not None and isinstance(failure, (CancelledError, KeyboardInterrupt)):
                    raise failure  # the one ends the Task as cancelled, the other goes on; the rest was answered
                return None

    cdef object _ended(self, object value, object error):
        # The wing answers, or names a coroutine to go on with. Its own faults are ours: 500.
        cdef Exchange exchange = self.exchange
        try:
            if error is None:
                return self.returned(value)
            if not isinstance(error, KeyboardInterrupt):
                return self.raised(error)   # SystemExit too: who asks for one page does not end the server
            if exchange is not None:
                exchange.cut()
        except Exception:
            logger.exception("the answer of a handler could not be sent")
            if exchange is not None:
                exchange.fail(500)
        return None

    cdef int _finish(self) except -1:
        cdef Exchange exchange = self.exchange
        self.finished = True
        self.exchange = None
        if not self.started_task and not self.pooled:
            self.task = None  # a blank one ends here; whoever kept it can still ask it, through its own reference to us
        if exchange is not None and not exchange.ended:
            # Whoever ends without an answer has none to give.
            logger.error("a handler ended without completing its response")
            exchange.fail(500)
        return 0

    cdef int disconnected(self, Exchange exchange) except -1:
        if self.cancel_on_disconnect and not self.finished and self.task is not None:
            self.start_task(self.task)
            self.task.cancel()
        return 0

    # ------------------------------------------------------------------- a coroutine, as the Task sees one

    def send(self, value):
        """One step (PEP 342)."""
        cdef bint suspended = False
        cdef object yielded = self.yielded
        cdef Trace trace = self.trace
        if yielded is not None:
            self.yielded = None
            if trace is not None:
                trace.handed_over(yielded)
            return yielded
        cdef int64_t before = 0
        cdef Seat *seat = _enter(self.exchange, &before)
        if trace is not None:
            trace.enter(None)
        try:
            if not self.finished:
                yielded = self._step(value, None, &suspended)
                if suspended:
                    return yielded
        finally:
            if trace is not None:
                self._traced(trace, suspended, yielded)
            _leave(seat, before)
            if self.finished:
                self.task = None  # the Task holds us: leave no circle behind
        raise StopIteration(None)

    def throw(self, error, value=None, traceback=None):
        """Raise inside the coroutine: how a Task delivers cancellation."""
        cdef bint suspended = False
        cdef object yielded = self.yielded
        if isinstance(error, type):
            error = error() if value is None else value
        if self.finished:
            self.task = None
            raise error
        if yielded is not None:
            # Cancelled before the Task took its first step: it would have cancelled the future it waits for.
            self.yielded = None
            if self.trace is not None:
                self.trace.handed_over(yielded)
            if isinstance(error, CancelledError):
                yielded.cancel()
        cdef int64_t before = 0
        cdef Seat *seat = _enter(self.exchange, &before)
        cdef Trace trace = self.trace
        if trace is not None:
            trace.enter(None)
        try:
            yielded = self._step(None, error, &suspended)
            if suspended:
                return yielded
        finally:
            if trace is not None:
                self._traced(trace, suspended, yielded)
            _leave(seat, before)
            if self.finished:
                self.task = None
        raise StopIteration(None)

    cdef int _traced(self, Trace trace, bint suspended, object yielded) except -1:
        # A slice is over.
        if suspended:
            trace.suspend(self.coro, yielded)
        else:
            trace.end()
            self.trace = None
        return 0

    def close(self):
        """Close the coroutine (PEP 342)."""
        if self.coro is not None:
            self.coro.close()

    def __await__(self):
        return self

    def __iter__(self):
        return self

    def __next__(self):
        return self.send(None)

    @property
    def cr_await(self):
        """What the handler's coroutine waits for; for debuggers."""
        return None if self.coro is None else self.coro.cr_await

    @property
    def lens_coroutine(self):
        """For the lens: the handler's coroutine, in whose place this one stands."""
        return self.coro

    @property
    def cr_frame(self):
        return getattr(self.coro, "cr_frame", None)

    @property
    def cr_code(self):
        return getattr(self.coro, "cr_code", None)

    @property
    def cr_running(self):
        return getattr(self.coro, "cr_running", False)

    @property
    def cr_origin(self):
        return None

    @property
    def __name__(self):
        return getattr(self.coro, "__name__", "handler")

    @property
    def __qualname__(self):
        return getattr(self.coro, "__qualname__", "handler")


cdef class Spares:
    """Calls, with their blank tasks, that wait for their next request."""

    def __cinit__(self):
        self._calls = [None] * SPARE_MAX

    cdef HandlerCall take(self):
        cdef HandlerCall call
        if self._count == 0:
            return None
        self._count -= 1
        call = <HandlerCall>self._calls[self._count]
        self._calls[self._count] = None
        call.finished = False
        return call

    cdef bint put(self, HandlerCall call) except -1:
        if self._count >= SPARE_MAX:
            return False
        self._calls[self._count] = call
        self._count += 1
        return True

    cdef int clear(self) except -1:
        cdef HandlerCall call = self.take()
        while call is not None:
            call.let_go()
            call = self.take()
        return 0
