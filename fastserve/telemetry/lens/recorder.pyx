"""Recorder: where each traced request waits, written down while it happens.

Room:    side wing, telemetry. One per event loop; everything it knows hangs on it.
Called:  by Connection, Exchange and the wings through the door (protocol/lens.pxd); by the event loop, whose `call_soon` is ours
         while a traced request lives. Calls Area.

Theory of operation. asyncio starts every step of a Task through loop.call_soon(callback, ...), which it looks up as an
attribute of the loop. While a traced request lives the loop has another class, an heir of its own that looks like it, in which
there is a C function of ours; an attribute of the loop itself would make each look-up of any method dearer. Is the callback
one of a traced task, then the task is ready from now on, and whatever runs now has woken it. For a task that the handler has
started a Step goes to the loop in place of the callback: it looks at the clock before and after. The handler's own task needs
none, for its steps pass through HandlerCall, which tells them through the door (enter, suspend, end). A first step that is
scheduled while a traced task runs is a child of that task. Tasks and coroutines are not touched.

So the time of a task is cut without a gap: suspended, ready, running, suspended. The first slice of a handler is taken before
there is a Task (call.pyx); asyncio's first step of it hands back the future that the slice has yielded, and is no slice. What
completes that future in between is told by a Marker among its callbacks.

Where it waits: cr_await, ag_await and gi_yieldfrom lead from the coroutine down to what has yielded; each frame is a code object
and an offset in it. Their hash finds the stack's id, so that lines and names are made once per stack. Awaitables that say
nothing (a coroutine's __await__(), an asynchronous generator's asend()) are asked as the garbage collector asks them.

Who fails is switched off: an exception in here disables this recorder, is counted, logged once, and hurts no request.
"""

import asyncio
import concurrent.futures
import logging
import sys
import threading
import types
import warnings

cimport cython
from cpython.dict cimport PyDict_GetItemWithError
from cpython.object cimport PyObject, PyTypeObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from cpython.weakref cimport PyWeakref_NewRef
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memmove

from fastserve.protocol.board cimport FLIGHT_READY, FLIGHT_RUNNING, FLIGHT_WAITING, Flight
from fastserve.protocol.lens cimport (
    CANCELLED, CLIENT_LEFT, EXECUTOR_THREAD, FIRST_REQUEST, HANDLER_FAILED, HANDLER_THREAD, KERNEL_KNOWN, OF_ARRIVAL, OF_HANDLER,
    RAISED, RETURNED, SUSPENDED, TO_THE_END, TRACING, WAS_CUT, WSGI_THREAD, lens_of, lenses,
)
from fastserve.protocol.timers cimport precise_now
from fastserve.telemetry.lens.memory cimport (
    BODY, BRACKET, BROKEN, BY_CALLBACK, BY_CANCEL, BY_SELF, BY_TASK, BY_THREAD, BY_TIMER, BY_UNKNOWN, CONN_ACCEPT, CONTEXT, DRAIN, LENS_FULL,
    LENS_SAMPLE, LENS_SLOW, MARK, ORPHAN, ORPHAN_DEFINED, ORPHAN_DESTROYED, ORPHAN_UNAWAITED, RECEIVE,
    REQUEST_BEGIN, REQUEST_END, RESPONSE_BODY, RESPONSE_HEAD, ROUTE, SPAWN_ROOT, SWITCH, TASK_AWAIT, TASK_END,
    TASK_POLL, TASK_SPAWN, THREAD_RUN, TIMER, WAIT_THREAD, WAIT_TIMER, WRAPPER, Header,
)

from fastserve.protocol.lens import thread as lens_thread
from fastserve.protocol.tasks import tasks_by_loop
from fastserve.telemetry.lens.reading import request_id
from fastserve.telemetry.lens.waits import is_library, wait_of

__all__ = ["Recorder"]

cdef enum:
    FRAMES_MAX = 64      # of a stack; what is deeper loses its middle
    SLAB_FIRST = 64      # events of one request that are held back in mode slow: room at first,
    SLAB_MAX = 1024      # and at most
    TRIALS = 32
    GONE_MAX = 64        # tasks without an end of which the loop may still say, in the same collection, that they were destroyed
    EVENT_NS = 8         # an event: ten stores to memory that is at hand

cdef enum:               # how an awaitable tells what it waits for
    BY_FRAME = 1         # coroutine, generator, asynchronous generator
    BY_CR_AWAIT = 2
    BY_GI_YIELDFROM = 3
    BY_TRAVERSE = 4
    IS_FUTURE_ITERATOR = 5
    IS_END = 6
    STANDS_FOR = 7       # one of ours, in the place of a coroutine

cdef extern from *:
    """
    #ifndef Py_BUILD_CORE
    #define Py_BUILD_CORE 1
    #endif
    #include <string.h>
    /* Where a suspended frame stands is not in the public API: the headers of the interpreter say it, of the versions that were
     * tried. Later ones are asked for a frame object, which costs more and says the same. */
    #if PY_VERSION_HEX < 0x030E0000
    #include "internal/pycore_frame.h"
    #define FS_KNOWS_FRAMES 1
    #else
    #define FS_KNOWS_FRAMES 0
    #endif

    typedef struct { PyObject *code; int lasti; } fs_frame; /* the code is borrowed from what is suspended; lasti in bytes */

    static getter fs_getter_of(PyTypeObject *type, const char *name) {
      PyGetSetDef *entry = type->tp_getset;
      for (; entry != NULL && entry->name != NULL; entry++)
        if (strcmp(entry->name, name) == 0) return entry->get;
      return NULL;
    }

    static getter fs_coro_await, fs_gen_yieldfrom, fs_asyncgen_await; /* the interpreter's own, and the same for everybody */

    static int fs_know_getters(void) {
      fs_coro_await = fs_getter_of(&PyCoro_Type, "cr_await");
      fs_gen_yieldfrom = fs_getter_of(&PyGen_Type, "gi_yieldfrom");
      fs_asyncgen_await = fs_getter_of(&PyAsyncGen_Type, "ag_await");
      return fs_coro_await != NULL && fs_gen_yieldfrom != NULL && fs_asyncgen_await != NULL;
    }

    static inline int fs_has_frame(PyObject *object) {
      return PyCoro_CheckExact(object) || PyGen_CheckExact(object) || PyAsyncGen_CheckExact(object);
    }

    static inline PyObject *fs_awaited(PyObject *object) { /* a new reference; None: nothing */
      if (PyCoro_CheckExact(object)) return fs_coro_await(object, NULL);
      if (PyGen_CheckExact(object)) return fs_gen_yieldfrom(object, NULL);
      return fs_asyncgen_await(object, NULL);
    }

    static inline int fs_frame_at(PyObject *object, fs_frame *out) { /* 0: it has ended */
    #if FS_KNOWS_FRAMES
      PyGenObject *gen = (PyGenObject *)object;
      _PyInterpreterFrame *frame;
      if (gen->gi_frame_state >= FRAME_CLEARED) return 0;
      frame = (_PyInterpreterFrame *)gen->gi_iframe;
    #if PY_VERSION_HEX >= 0x030D0000
      out->code = (PyObject *)_PyFrame_GetCode(frame);
    #else
      out->code = (PyObject *)frame->f_code;
    #endif
      out->lasti = _PyInterpreterFrame_LASTI(frame) * (int)sizeof(_Py_CODEUNIT);
      return 1;
    #else
      PyObject *frame = PyObject_GetAttrString(object, PyCoro_CheckExact(object) ? "cr_frame" : PyGen_CheckExact(object) ? "gi_frame" : "ag_frame");
      if (frame == NULL) { PyErr_Clear(); return 0; }
      if (!PyFrame_Check(frame)) { Py_DECREF(frame); return 0; }
      out->code = (PyObject *)PyFrame_GetCode((PyFrameObject *)frame);
      out->lasti = PyFrame_GetLasti((PyFrameObject *)frame);
      Py_DECREF(out->code); /* the frame of what is suspended keeps it */
      Py_DECREF(frame);
      return 1;
    #endif
    }

    static int fs_visit_coroutine(PyObject *object, void *found) {
      if (PyType_Check(object)) return 0;
      if (!fs_has_frame(object)) {
        PyAsyncMethods *methods = Py_TYPE(object)->tp_as_async;
        if (methods == NULL || methods->am_send == NULL) return 0;
      }
      *(PyObject **)found = object;
      return 1;
    }

    static int fs_visit_any(PyObject *object, void *found) {
      if (PyType_Check(object)) return 0;
      *(PyObject **)found = object;
      return 1;
    }

    static PyObject *fs_inside(PyObject *object, visitproc visit) { /* a new reference, or None */
      PyObject *found = NULL;
      traverseproc traverse = Py_TYPE(object)->tp_traverse;
      if (traverse != NULL && PyObject_IS_GC(object)) traverse(object, visit, &found);
      if (found == NULL) found = Py_None;
      Py_INCREF(found);
      return found;
    }

    static inline PyObject *fs_coroutine_inside(PyObject *object) { return fs_inside(object, fs_visit_coroutine); }
    static inline PyObject *fs_object_inside(PyObject *object) { return fs_inside(object, fs_visit_any); }

    static inline PyObject *fs_owner(PyObject *callback) { /* borrowed; of a builtin or a method: what it is bound to */
      if (PyCFunction_CheckExact(callback)) return PyCFunction_GET_SELF(callback);
      if (PyMethod_Check(callback)) return PyMethod_GET_SELF(callback);
      return NULL;
    }

    /* Borrowed: what a function, a bound method or a coroutine calls itself; NULL: it must be asked in Python. */
    static inline PyObject *fs_name_of(PyObject *thing) {
      if (PyMethod_Check(thing)) thing = PyMethod_GET_FUNCTION(thing);
      if (PyFunction_Check(thing)) return ((PyFunctionObject *)thing)->func_qualname;
    #if FS_KNOWS_FRAMES
      if (PyCoro_CheckExact(thing)) return ((PyCoroObject *)thing)->cr_qualname;
    #endif
      return NULL;
    }

    /* Future.cancelled() of asyncio's own type, without a call through Python; NULL: it is not made as it is known to be. */
    static PyTypeObject *fs_future_type;
    static PyCFunction fs_future_cancelled;
    static void fs_know_future(PyObject *type) {
      PyObject *attributes = ((PyTypeObject *)type)->tp_dict;
      PyObject *method = attributes == NULL ? NULL : PyDict_GetItemString(attributes, "cancelled"); /* borrowed; the type lives on */
      fs_future_type = (PyTypeObject *)type;
      if (method != NULL && Py_IS_TYPE(method, &PyMethodDescr_Type) && ((PyMethodDescrObject *)method)->d_method->ml_flags == METH_NOARGS)
        fs_future_cancelled = ((PyMethodDescrObject *)method)->d_method->ml_meth;
    }
    static inline int fs_is_plain_future(PyObject *thing) { return fs_future_cancelled != NULL && Py_IS_TYPE(thing, fs_future_type); }
    static inline PyObject *fs_plain_cancelled(PyObject *future) { return fs_future_cancelled(future, NULL); }

    static inline int fs_is_number(PyObject *thing) { return PyFloat_Check(thing) || PyLong_Check(thing); }

    /* Call what we stand for; `instead`, if any, in the place of the argument `at`. Of a method the function is called at once:
     * the method would copy the arguments again. */
    enum { FS_ARGUMENTS = 12 };
    static PyObject *fs_pass(PyObject *original, PyObject *instead, int at, PyObject **arguments, Py_ssize_t count, PyObject *names) {
      PyObject *some[FS_ARGUMENTS + 2], **all = some, *result;
      Py_ssize_t number = count + (names == NULL ? 0 : PyTuple_GET_SIZE(names)), i;
      if (number > FS_ARGUMENTS) {
        all = PyMem_Malloc((number + 2) * sizeof *all);
        if (all == NULL) return PyErr_NoMemory();
      }
      for (i = 0; i < number; i++) all[2 + i] = arguments[i];
      if (instead != NULL) all[2 + at] = instead;
      if (PyMethod_Check(original)) {
        all[1] = PyMethod_GET_SELF(original);
        result = PyObject_Vectorcall(PyMethod_GET_FUNCTION(original), all + 1, (count + 1) | PY_VECTORCALL_ARGUMENTS_OFFSET, names);
      } else
        result = PyObject_Vectorcall(original, all + 2, count | PY_VECTORCALL_ARGUMENTS_OFFSET, names);
      if (all != some) PyMem_Free(all);
      return result;
    }

    /* Have objects of this class called without a tuple of arguments: by the function that stands at this offset in each. method:
     * as an attribute of a class, with the object as the first argument, and no bound method is made. */
    static void fs_called_by(PyObject *type, Py_ssize_t offset, int method) {
      PyTypeObject *called = (PyTypeObject *)type;
      called->tp_vectorcall_offset = offset;
      called->tp_call = PyVectorcall_Call;
      called->tp_flags |= Py_TPFLAGS_HAVE_VECTORCALL | (method ? Py_TPFLAGS_METHOD_DESCRIPTOR : 0);
      PyType_Modified(called);
    }

    /* Traces come and go with each request. Cython keeps no free list of a class that has a base in another module. */
    enum { FS_SPARE = 64 };
    static PyObject *fs_spare[FS_SPARE];
    static int fs_spares;
    static PyObject *fs_trace_alloc(PyTypeObject *type, Py_ssize_t items) {
      PyObject *trace;
      if (fs_spares == 0) return PyType_GenericAlloc(type, items);
      trace = fs_spare[--fs_spares];
      memset(trace, 0, type->tp_basicsize);
      return PyObject_Init(trace, type);
    }
    static void fs_trace_free(void *trace) {
      if (fs_spares < FS_SPARE) fs_spare[fs_spares++] = trace;
      else PyObject_Free(trace);
    }
    static void fs_keep_spare(PyObject *type) {
      if (PyType_IS_GC((PyTypeObject *)type) || ((PyTypeObject *)type)->tp_flags & Py_TPFLAGS_HEAPTYPE) return;
      ((PyTypeObject *)type)->tp_alloc = fs_trace_alloc;
      ((PyTypeObject *)type)->tp_free = fs_trace_free;
    }

    static int fs_line_of(PyObject *code, int offset) { return PyCode_Addr2Line((PyCodeObject *)code, offset); }

    static inline int fs_is_future(PyObject *thing) { return PyObject_TypeCheck(thing, fs_future_type); }

    /* Borrowed: an attribute of the thing itself; NULL: it has none, and no dict is made to see that. */
    static inline PyObject *fs_own(PyObject *thing, PyObject *name) {
      PyObject **place = _PyObject_GetDictPtr(thing);
      return place == NULL || *place == NULL ? NULL : PyDict_GetItemWithError(*place, name);
    }

    /* A loop that has attributes of its own is asked for them before each of its methods, by every await. Once the last one is gone
     * the dict goes as well; a later Python keeps it where it cannot be taken. */
    static void fs_without_attributes(PyObject *thing) {
    #if PY_VERSION_HEX < 0x030E0000
      PyObject **place;
    #if PY_VERSION_HEX >= 0x030D0000
      if (PyType_HasFeature(Py_TYPE(thing), Py_TPFLAGS_INLINE_VALUES)) return;
    #endif
      place = _PyObject_GetDictPtr(thing);
      if (place != NULL && *place != NULL && PyDict_CheckExact(*place) && PyDict_GET_SIZE(*place) == 0 && Py_REFCNT(*place) == 1)
        Py_CLEAR(*place);
    #endif
      (void)thing;
    }

    /* as Cython writes it; in CPython the second is PyObject *const *, which is passed alike */
    typedef PyObject *(*fs_method)(PyObject *, PyObject **, Py_ssize_t, PyObject *);
    static PyMethodDef fs_methods[] = {
      {"call_soon", NULL, METH_FASTCALL | METH_KEYWORDS, NULL},
      {"call_later", NULL, METH_FASTCALL | METH_KEYWORDS, NULL},
      {"call_at", NULL, METH_FASTCALL | METH_KEYWORDS, NULL},
    };
    static PyObject *fs_bind(int which, fs_method function, PyObject *self) {
      fs_methods[which].ml_meth = (PyCFunction)(void (*)(void))function;
      return PyCFunction_New(&fs_methods[which], self);
    }
    """
    ctypedef struct fs_frame:
        PyObject *code
        int lasti
    bint fs_know_getters()
    bint fs_has_frame(object thing)
    object fs_awaited(object thing)
    bint fs_frame_at(object thing, fs_frame *out)
    object fs_coroutine_inside(object thing)
    object fs_object_inside(object thing)
    PyObject *fs_owner(PyObject *callback)
    ctypedef PyObject *(*fs_method)(PyObject *, PyObject **, Py_ssize_t, PyObject *) except NULL
    object fs_bind(int which, fs_method function, object self)
    bint fs_is_future(object thing)
    PyObject *fs_own(object thing, object name) except? NULL
    void fs_without_attributes(object thing)
    PyObject *fs_name_of(object thing)
    void fs_know_future(object kind)
    bint fs_is_plain_future(object thing)
    object fs_plain_cancelled(object future)
    int fs_line_of(PyObject *code, int offset)
    bint fs_is_number(PyObject *thing)
    PyObject *fs_pass(PyObject *original, PyObject *instead, int at, PyObject **arguments, Py_ssize_t count, PyObject *names) except NULL
    void fs_keep_spare(object kind)
    void fs_called_by(object kind, Py_ssize_t offset, bint method)

cdef extern from "Python.h":
    ctypedef struct PyFrameObject:
        pass

    PyObject *PyObject_Vectorcall(PyObject *function, PyObject **arguments, size_t count, PyObject *names) except NULL
    object PyObject_CallMethodNoArgs(object thing, object name)
    PyTypeObject *Py_TYPE(object thing)
    Py_ssize_t PyTuple_GET_SIZE(object names)
    PyFrameObject *PyEval_GetFrame()   # borrowed, or NULL
    Py_ssize_t PyDict_GET_SIZE(object entries)
    size_t PY_VECTORCALL_ARGUMENTS_OFFSET

logger = logging.getLogger("fastserve")

if not fs_know_getters():
    raise ImportError("this interpreter does not tell what a coroutine waits for")

cdef object Task = asyncio.Task
cdef object Future = asyncio.Future
cdef object _current_task = asyncio.current_task
cdef dict _current_tasks = tasks_by_loop()
fs_know_future(Future)
fs_keep_spare(RequestTrace)
cdef str ANYIO = "anyio._backends._asyncio"
cdef str UNAWAITED = "_warn_unawaited_coroutine"
cdef object _anyio_before = None    # what stood where our _run_sync stands now
cdef object _warn_before = None     # and our _warn_unawaited_coroutine
cdef str ERRORS = "call_exception_handler"
cdef dict _errors_before = {}       # class of a loop -> what it had there of its own, or None; and what it has now
cdef int _recorders = 0
cdef object FutureIterator = None   # its type; known from the first loop there is


@cython.final
@cython.freelist(64)
@cython.no_gc
cdef class TaskTrace:
    def __call__(self, reference):
        """Its task is gone: nobody has waited for its end (the weak reference calls this)."""
        cdef Recorder recorder
        if not self.ended:
            recorder = self.of.recorder
            if not recorder.broken:
                self.of.put(TASK_END, precise_now(), 0, 0, 0, self.number, 0)
                if len(recorder._gone) >= GONE_MAX:
                    recorder._gone.clear()
                recorder._gone[<size_t>self.task] = self   # the collector takes weak references first; the loop may say more of it
            recorder.forget(self)


@cython.final
@cython.freelist(64)
cdef class Marker:
    """Stands among the callbacks of the future that a handler's first slice has yielded, until asyncio waits for that."""

    def __call__(self, future):
        pass   # the hook is gone: nobody asks


@cython.final
@cython.freelist(64)
cdef class Step:
    """A step of a traced task, in the hands of the loop."""

    def __cinit__(self):
        self.called = _run_step

    @property
    def __self__(self):
        """The task, where the loop asks a callback for it (its messages name the task)."""
        return getattr(self.callback, "__self__", None)

    def __repr__(self):
        return repr(self.callback)


# ------------------------------------------------------------------------------------------------------ a request


@cython.final
@cython.no_gc
cdef class Slab:
    """Events of one request that are held back until it is known whether it is worth keeping them (mode slow)."""

    def __cinit__(self):
        self.events = <Event *>malloc(SLAB_FIRST * sizeof(Event))
        if self.events == NULL:
            raise MemoryError
        self.room = SLAB_FIRST

    def __dealloc__(self):
        free(self.events)

    cdef bint add(self, Event *event) noexcept:
        cdef Event *grown
        if self.held == self.room:
            if self.room >= SLAB_MAX:
                return False
            grown = <Event *>realloc(self.events, 2 * self.room * sizeof(Event))
            if grown == NULL:
                return False
            self.events = grown
            self.room *= 2
        self.events[self.held] = event[0]
        self.held += 1
        return True


@cython.final
@cython.no_gc
cdef class RequestTrace(Trace):
    cdef void _put(self, int kind, uint64_t t, uint64_t dur, uint32_t flags, uint64_t a, uint32_t task, uint32_t b) noexcept:
        cdef Event event
        if self.tells and task == self.first_task:
            if kind == TASK_POLL:
                self.busy += dur
                self.scheduled += t - a
                self.polls += 1
            elif kind == TASK_AWAIT:
                self.idle += dur
        if self.slab is None and not self.muted:
            self.recorder.area.event(kind, t, dur, self.request, flags, a, task, b)
            return
        if self.slab is None and self.owed is None:
            return
        event.t = t
        event.dur = dur
        event.request = self.request
        event.kind = kind
        event.flags = flags
        event.a = a
        event.task = task
        event.b = b
        if self.slab is not None:
            self._hold(&event)
        else:
            self.owed.add(&event)   # how the handler ends, behind the answer: kept if its client made the request slow

    cdef void _hold(self, Event *event) noexcept:
        if <int64_t>(event.t + event.dur) - self.head_at >= self.recorder.area.header.slow_ns and event.kind != REQUEST_BEGIN \
                and event.kind != CONN_ACCEPT and event.kind != REQUEST_END:
            self._keep()   # it is slow already
            self.put(event.kind, event.t, event.dur, event.flags, event.a, event.task, event.b)
        elif not self.slab.add(event):
            self.recorder.area.header.dropped += 1

    cdef void _keep(self) noexcept:
        # What was held back goes to the ring, in order, and what comes goes there at once.
        cdef int i
        cdef Event *event
        cdef Slab slab = self.slab
        self.slab = None
        self.straight = not self.tells
        for i in range(slab.held):
            event = &slab.events[i]
            self.recorder.area.event(event.kind, event.t, event.dur, event.request, event.flags, event.a, event.task, event.b)

    # --- the connection ---

    cdef void body(self, size_t length, bint last) noexcept:
        self.put(BODY, precise_now(), 0, 1 if last else 0, length, 0, 0)

    cdef void received(self, int64_t since, int64_t now) noexcept:
        self.put(RECEIVE, since, now - since, 0, 0, 0, 0)

    cdef void response(self, unsigned status) noexcept:
        self.put(RESPONSE_HEAD, precise_now(), 0, 0, status, 0, 0)

    cdef void sent(self, size_t length) noexcept:
        self.put(RESPONSE_BODY, precise_now(), 0, 0, length, 0, 0)

    cdef void drained(self, int64_t since, int64_t now) noexcept:
        if self.owed is not None:
            if now - self.head_at < self.recorder.area.header.slow_ns:
                return
            self.slab, self.owed, self.muted = self.owed, None, False
            self._keep()   # it was the client who made it slow
        self.put(DRAIN, since, now - since, 0, 0, 0, 0)

    cdef void over(self, unsigned status, uint64_t sent, int64_t now) noexcept:
        cdef Header *header = self.recorder.area.header
        cdef unsigned flags = self.flags
        cdef int64_t dur = now - self.head_at
        if self.is_over:
            return
        self.is_over = True
        if self.outcome == RAISED and (status >= 500 or flags & WAS_CUT):
            flags |= HANDLER_FAILED
        if self.slab is not None and (dur >= header.slow_ns or status >= 500 or flags & (WAS_CUT | HANDLER_FAILED)
                                  or header.stall_since_ns or header.stalls != self.stalls_before):
            self._keep()
        if self.pattern is not None and self.first_task == 0:
            self._tell_route(self.pattern)   # it had no task that would have said so
        self.put(REQUEST_END, now, dur if dur > 0 else 0, flags, status, 0, sent if sent < 0xffffffffu else 0xffffffffu)
        if self.slab is not None:
            self.owed, self.slab = self.slab, None
            self.muted = True   # it was not slow; but its client may still take its time
        self.recorder.live -= 1

    # --- the handler ---

    cdef void route(self, object pattern, object handler) noexcept:
        if self.first_task == 0:
            self.handler = handler
            self.pattern = pattern   # its task will say so
        else:
            self._tell_route(pattern)

    cdef void _tell_route(self, object pattern) noexcept:
        try:
            self.put(ROUTE, precise_now(), 0, 0, 0, 0, self.recorder.area.familiar_id(pattern))
        except BaseException as error:
            self.recorder.broke(error)

    cdef void enter(self, object coro) noexcept:
        cdef Recorder recorder = self.recorder
        cdef int64_t now
        if recorder.broken:
            return
        now = precise_now()
        if self.root is None:
            if coro is None:
                return   # it has ended, and still takes steps
            if (<TakesRoot>_take_root)(self, coro, now) < 0:
                recorder.failed()
                return
        recorder.begin_slice(self.root, now)

    cdef void suspend(self, object coro, object yielded) noexcept:
        if self.root is not None and not self.recorder.broken and (<Suspends>_suspend)(self, coro, yielded) < 0:
            self.recorder.failed()

    cdef void end(self) noexcept:
        if self.root is not None and not self.recorder.broken:
            self.recorder.ended(self.root, self.outcome if self.outcome else RETURNED, precise_now())
        self.root = None

    cdef void becomes(self, object task) noexcept:
        if self.root is None or self.recorder.broken or self.root.listed:
            return
        try:
            self.recorder.list_task(self.root, task)
        except BaseException as error:
            self.recorder.broke(error)

    cdef void handed_over(self, object yielded) noexcept:
        cdef Marker marker = self.marker
        self.marker = None
        if self.root is not None:
            self.root.handed = True
        if marker is None:
            return
        try:
            yielded.remove_done_callback(marker)
        except BaseException as error:
            self.recorder.broke(error)

    # --- threads ---

    cdef void ran(self, int64_t submitted, int64_t began, unsigned whose) noexcept:
        cdef int64_t now = precise_now()
        cdef TaskTrace root = self.root
        try:
            text = self.recorder.area.text_id(threading.current_thread().name)
            self.put(THREAD_RUN, began, now - began, whose, submitted, 0 if root is None else root.number, text)
        except BaseException as error:
            self.recorder.broke(error)

    cdef void mark(self, str text) noexcept:
        cdef TaskTrace task = self.root
        try:
            self.put(MARK, precise_now(), 0, 0, 0, 0 if task is None else task.number, self.recorder.area.text_id(text))
        except BaseException as error:
            self.recorder.broke(error)

    cdef void parent(self, const uint8_t *text, size_t length) noexcept:
        self.put(CONTEXT, precise_now(), 0, 0, 0, 0, self.recorder.area.request_text(text, length))

    cdef bytes timing(self, unsigned parts_wanted):
        # Of the handler's task, up to now: its last slice may still be running. In ms, to a tenth: no clock for others.
        cdef TaskTrace root = self.root
        cdef int64_t busy = self.busy
        cdef int64_t scheduled = self.scheduled
        cdef uint32_t polls = self.polls
        cdef list parts = []
        try:
            if root is not None and root.running:
                busy += precise_now() - root.began
                scheduled += root.began - root.ready
                polls += 1
            if parts_wanted & OF_ARRIVAL:
                if self.in_kernel >= 0:
                    parts.append(f"kern;dur={self.in_kernel / 1e6:.1f}")
                parts.append(f"parse;dur={self.parse / 1e6:.1f}")
            if parts_wanted & TO_THE_END:
                parts.append(f"total;dur={(precise_now() - self.head_at) / 1e6:.1f}")
            if polls and parts_wanted & OF_HANDLER:
                parts.append(f"busy;dur={busy / 1e6:.1f}, sched;dur={scheduled / 1e6:.1f}, idle;dur={self.idle / 1e6:.1f}")
                parts.append(f'polls;desc="{polls}"')
            if parts_wanted & OF_ARRIVAL:
                parts.append(f'fs;desc="{request_id(self.recorder.area.header.slot, self.request)}"')
            return ", ".join(parts).encode()
        except BaseException as error:
            self.recorder.broke(error)
            return None


# What these raise is taken where they are called, by their result: a `try` around each would cost as much as what they do.
ctypedef int (*Suspends)(RequestTrace, object, object) noexcept
ctypedef int (*TakesRoot)(RequestTrace, object, int64_t) noexcept
ctypedef PyObject *(*Sees)(Recorder, PyObject **, Py_ssize_t) noexcept
ctypedef PyObject *(*Dues)(Recorder, PyObject *, PyObject *, bint) noexcept
ctypedef PyObject *(*Begins)(Recorder, const uint8_t *, size_t, Arrival *) noexcept


cdef PyObject *_begin(Recorder self, const uint8_t *text, size_t length, Arrival *arrival) except NULL:
    cdef Header *header = self.area.header
    cdef uint32_t mode = header.mode
    cdef RequestTrace trace
    cdef int64_t parse = arrival.head - arrival.first_byte if arrival.head > arrival.first_byte else 0
    if not self.hooked or self.timers_hooked != (mode == LENS_FULL):
        self._install()
    trace = RequestTrace.__new__(RequestTrace)
    trace.recorder = self
    trace.head_at = arrival.head
    trace.tells = self.server_timing
    trace.straight = not trace.tells and mode != LENS_SLOW
    trace.in_kernel = arrival.in_kernel if arrival.flags & KERNEL_KNOWN else -1
    trace.parse = parse
    self.requests += 1
    if self.requests == 0:
        self.requests = 1
    trace.request = self.requests
    if mode == LENS_SLOW:
        trace.slab = Slab.__new__(Slab)
        trace.stalls_before = header.stalls
    self.live += 1
    header.traced += 1
    if arrival.flags & FIRST_REQUEST:
        trace.put(CONN_ACCEPT, arrival.accepted, 0, 0, 0, arrival.connection, 0)
    trace.put(REQUEST_BEGIN, arrival.head, parse, arrival.flags, arrival.in_kernel, arrival.connection,
              self.area.request_text(text, length))
    Py_INCREF(trace)
    return <PyObject *>trace


cdef int _take_root(RequestTrace self, object coro, int64_t now) except -1:
    cdef Recorder recorder = self.recorder
    cdef TaskTrace root = recorder.new_task(
        self, _name_of(coro if self.handler is None else self.handler), SPAWN_ROOT,
        0 if self.pattern is None else recorder.area.familiar_id(self.pattern), now)
    self.root = root
    self.handler = None
    root.ready = now
    self.first_task = root.number
    return 0


cdef int _suspend(RequestTrace self, object coro, object yielded) except -1:
    cdef Recorder recorder = self.recorder
    cdef TaskTrace root = self.root
    cdef int64_t now = precise_now()
    cdef Marker marker
    recorder.suspended(root, <PyObject *>coro, now)
    if root.handed:
        if yielded is None and coro is not None:
            recorder.woken(root, <uint64_t>BY_SELF << 32 | root.number, now)   # it only gave others a turn
        return 0
    if coro is None:
        return 0
    if yielded is None:
        root.handed = True   # nothing is handed back: asyncio's first step is the next slice
        recorder.woken(root, <uint64_t>BY_SELF << 32 | root.number, now)
    elif recorder.bracketed and fs_is_future(yielded):
        marker = Marker.__new__(Marker)
        marker.trace = root
        self.marker = marker
        yielded.add_done_callback(marker)
    return 0


cdef int _raised() except -1:
    return -1   # as whoever has set an exception does


cdef PyObject *_running(object loop) except? NULL:
    # Borrowed: the task that runs there; NULL: none does.
    if _current_tasks is not None:   # mostly empty here: who wakes a task is a callback
        return PyDict_GetItemWithError(_current_tasks, loop) if PyDict_GET_SIZE(_current_tasks) else NULL
    task = _current_task(loop)
    return NULL if task is None else <PyObject *>task   # the loop holds it


cdef bint _is_cancelled(object thing) except -1:
    if fs_is_plain_future(thing):
        return fs_plain_cancelled(thing) is True
    return fs_is_future(thing) and thing.cancelled()


cdef void _show(TaskTrace trace, unsigned state, int64_t now) noexcept:
    # On the board, for whoever looks at what is in flight.
    cdef Flight *flight = trace.of.flight
    flight.task = trace.number
    flight.stack = trace.stack
    flight.state = state
    flight.state_since_ns = now


cdef str _name_of(object coro):
    cdef PyObject *known = fs_name_of(coro)
    if known != NULL:
        return <str><object>known
    name = getattr(coro, "__qualname__", None) or getattr(coro, "__name__", None)
    return name if type(name) is str else type(coro).__qualname__


# ----------------------------------------------------------------------------------------------------- the recorder


@cython.final
cdef class Recorder(Lens):
    """What traces the requests of one event loop. area: where it writes; it is started. loop: its event loop.

    Nothing is hooked, and the loop is not touched, until the mode, which others may switch, says that requests are to be traced.
    """

    def __cinit__(self, Area area not None, loop):
        global FutureIterator, _recorders
        self.area = area
        self.loop = loop
        self.mode = &area.header.mode
        self._kinds = {}
        self._hooks = []
        self._made = {}
        self.thread_futures = set()
        self._gone = {}
        self._places_size = 64
        self._places = <Place *>calloc(self._places_size, sizeof(Place))
        self._known_size = 1024
        self._known = <Known *>calloc(self._known_size, sizeof(Known))
        if self._places == NULL or self._known == NULL:
            raise MemoryError
        if FutureIterator is None:
            FutureIterator = type(loop.create_future().__await__())
        lenses[loop] = self
        _recorders += 1

    def __dealloc__(self):
        cdef size_t i
        if self._places != NULL:
            for i in range(self._places_size):
                if self._places[i].task != NULL:
                    Py_DECREF(<object>self._places[i].trace)
            free(self._places)
        free(self._known)

    def __repr__(self):
        return f"<Recorder {self.area.mode} live={self.live}{' hooked' if self.hooked else ''}{' broken' if self.broken else ''}>"

    def close(self):
        """Let go of the loop."""
        cdef size_t at = 0
        global _recorders
        self._remove()
        if not self._closed:
            self._closed = True
            _recorders -= 1
            if _recorders == 0:
                _leave_anyio()
                _leave_warnings()
                _leave_errors()
        if lenses.get(self.loop) is self:
            del lenses[self.loop]
        self.broken = True   # a Step that is still to come is only a callback
        self._gone.clear()
        while self._places_used and at < self._places_size:
            if self._places[at].task != NULL:
                self.forget(<TaskTrace>self._places[at].trace)   # and another may move to its place
            else:
                at += 1
        self.current = None

    def follow(self):
        """Somebody may have switched the mode: see to it now, and not at the next request."""
        if self.switches != self.area.header.switches and not self.broken:
            self._switched()

    def mark(self, str text not None):
        """Of the request whose task runs now, if it is traced."""
        cdef TaskTrace task = self.current
        if task is None or self.broken:
            return
        task.of.put(MARK, precise_now(), 0, 0, 0, task.number, self.area.text_id(text))

    cdef void broke(self, object error) noexcept:
        # Rather no lens than a request that fails because of it.
        cdef Header *header = self.area.header
        header.failures += 1
        if self.broken:
            return
        self.broken = True
        header.mechanism = BROKEN
        header.running_request = header.running_task = header.running_stack = 0
        header.running_since_ns = 0
        self.current = None
        try:
            self._remove()
            logger.error("the lens has failed, and is off in this process until it is restarted", exc_info=error)
        except BaseException:
            pass

    cdef void failed(self) noexcept:
        # What was called has raised.
        try:
            _raised()
        except BaseException as error:
            self.broke(error)

    cdef int _calibrate(self) except -1:
        # What does one traced request cost here, that waits for nothing? An estimate, for whoever decides how much to trace.
        cdef Header *header = self.area.header
        cdef RequestTrace trace
        cdef int64_t began = precise_now()
        cdef uint32_t tasks = self.tasks
        cdef int i
        for i in range(TRIALS):
            trace = RequestTrace.__new__(RequestTrace)
            trace.recorder = self
            trace.muted = True   # all but the events, whose price is known
            trace.head_at = precise_now()
            self.live += 1
            trace.enter(self)
            trace.end()
            trace.over(200, 0, precise_now())
        self.tasks = tasks
        header.cost_ns = (precise_now() - began) // TRIALS + 5 * EVENT_NS
        return 0

    cdef int _switched(self) except -1:
        cdef Header *header = self.area.header
        self.switches = header.switches
        self.seen = 0
        if header.mode >= TRACING and not self.probed:
            self.probed = True
            self.step_type = _steps_of(self.loop)
            self.bracketed = self.step_type is not None
            fs_without_attributes(self.loop)
            header.mechanism = BRACKET if self.bracketed else WRAPPER
        if header.mode >= TRACING and header.cost_ns == 0:
            self._calibrate()
        self.area.event(SWITCH, precise_now(), 0, 0, 0, header.mode, 0, header.sample)
        if self.hooked and header.mode < TRACING and self.live == 0:
            self._remove()
        return 0

    # --- the door ---

    cdef bint wants(self) noexcept:
        cdef Header *header = self.area.header
        if self.switches != header.switches and not self._follow():
            return False
        if self.broken:
            return False
        if header.mode == LENS_SAMPLE:
            self.seen += 1
            return header.sample <= 1 or (self.seen - 1) % header.sample == 0
        return True

    cdef bint _follow(self) noexcept:
        try:
            self._switched()
        except BaseException as error:
            self.broke(error)
            return False
        return True

    cdef Trace begin(self, const uint8_t *text, size_t length, Arrival *arrival):
        cdef PyObject *begun = (<Begins>_begin)(self, text, length, arrival)
        cdef Trace trace
        if begun == NULL:
            self.failed()
            return None
        trace = <Trace>begun
        Py_DECREF(trace)   # it was ours already
        return trace

    cdef Trace here(self):
        return None if self.current is None else self.current.of

    # --- the tasks of traced requests ---

    cdef PyObject *find(self, PyObject *task) noexcept:
        """Its TaskTrace, borrowed; NULL: it has none."""
        cdef size_t mask = self._places_size - 1
        cdef size_t at = (<size_t>task >> 4) & mask
        while self._places[at].task != NULL:
            if self._places[at].task == task:
                return self._places[at].trace
            at = (at + 1) & mask
        return NULL

    cdef int list_task(self, TaskTrace trace, object task) except -1:
        cdef size_t size, mask, at, i
        cdef Place *places
        trace.task = <PyObject *>task
        trace.watch = PyWeakref_NewRef(task, trace)
        if self._places_used * 2 >= self._places_size:
            size = self._places_size * 2
            places = <Place *>calloc(size, sizeof(Place))
            if places == NULL:
                raise MemoryError
            for i in range(self._places_size):
                if self._places[i].task != NULL:
                    at = (<size_t>self._places[i].task >> 4) & (size - 1)
                    while places[at].task != NULL:
                        at = (at + 1) & (size - 1)
                    places[at] = self._places[i]
            free(self._places)
            self._places = places
            self._places_size = size
        mask = self._places_size - 1
        at = (<size_t>trace.task >> 4) & mask
        while self._places[at].task != NULL:
            at = (at + 1) & mask
        self._places[at].task = trace.task
        self._places[at].trace = <PyObject *>trace
        Py_INCREF(trace)
        self._places_used += 1
        trace.listed = True
        return 0

    cdef int forget(self, TaskTrace trace) noexcept:
        # It has ended, or nobody holds it any more.
        cdef size_t mask = self._places_size - 1
        cdef size_t at, hole, home
        if trace.ended:
            return 0
        trace.ended = True
        self.live -= 1
        trace.watch = None
        if trace.of.root is trace:
            trace.of.root = None
        if not trace.listed:
            return 0
        trace.listed = False
        at = (<size_t>trace.task >> 4) & mask
        while self._places[at].trace != <PyObject *>trace:
            if self._places[at].task == NULL:
                return 0
            at = (at + 1) & mask
        # The rest of its run moves up, so that no search ends at the hole.
        hole = at
        self._places[hole].task = NULL
        self._places_used -= 1
        while True:
            at = (at + 1) & mask
            if self._places[at].task == NULL:
                break
            home = (<size_t>self._places[at].task >> 4) & mask
            if ((at - home) & mask) >= ((at - hole) & mask):
                self._places[hole] = self._places[at]
                self._places[at].task = NULL
                hole = at
        Py_DECREF(trace)
        return 0

    cdef TaskTrace new_task(self, RequestTrace of, str name, uint32_t flags, uint32_t of_what, int64_t now):
        # of_what: the number of its parent; with SPAWN_ROOT the text of the route.
        cdef TaskTrace trace = TaskTrace.__new__(TaskTrace)
        trace.of = of
        self.tasks += 1
        if self.tasks == 0:
            self.tasks = 1
        trace.number = self.tasks
        self.live += 1
        of.put(TASK_SPAWN, now, 0, flags, self.area.familiar_id(name), trace.number, of_what)
        return trace

    cdef void begin_slice(self, TaskTrace trace, int64_t now) noexcept:
        cdef Header *header = self.area.header
        if trace.ended or trace.running:
            return
        if trace.ready == 0:
            # Nobody has told that it may go on: a wake-up that passed us by.
            self.woken(trace, BY_UNKNOWN, now)
        trace.began = now
        trace.running = True
        if self.current is not None:
            self._interrupt(self.current, now)
        trace.outer = self.current
        self.current = trace
        header.running_task = trace.number
        header.running_stack = trace.stack
        header.running_since_ns = now
        header.running_request = trace.of.request
        if trace.of.flight != NULL:
            _show(trace, FLIGHT_RUNNING, now)

    cdef void _interrupt(self, TaskTrace trace, int64_t now) noexcept:
        # In the middle of its slice another one runs: the next request of its connection, or a task that it starts eagerly. It
        # waits for nothing but its turn.
        trace.of.put(TASK_POLL, trace.began, now - trace.began, SUSPENDED, trace.ready, trace.number, 0)
        trace.of.put(TASK_AWAIT, now, 0, 0, <uint64_t>BY_SELF << 32 | trace.number, trace.number, 0)
        trace.ready = now

    cdef int _leave(self, TaskTrace trace, int64_t now) except -1:
        # Its slice is over; who was interrupted by it goes on.
        cdef Header *header = self.area.header
        cdef TaskTrace outer = trace.outer
        trace.running = False
        trace.outer = None
        if self.current is trace:
            self.current = outer
        if outer is None:
            header.running_request = 0
            header.running_since_ns = 0
        else:
            outer.began = now
            header.running_task = outer.number
            header.running_stack = outer.stack
            header.running_since_ns = now
            header.running_request = outer.of.request
        return 0

    cdef void end_slice(self, TaskTrace trace) noexcept:
        # Of a task with a Step.
        cdef int64_t now = precise_now()
        cdef object task
        if trace.ended or not trace.running:
            return
        try:
            task = <object>trace.task   # the callback that has just returned holds it
            if not task.done():
                self.suspended(trace, trace.coro, now)
            elif task.cancelled():
                self.ended(trace, CANCELLED, now)
            else:
                # not exception(): whoever asks that is taken for one who has seen it
                self.ended(trace, RETURNED if getattr(task, "_exception", None) is None else RAISED, now)
        except BaseException as error:
            self.broke(error)

    cdef int suspended(self, TaskTrace trace, PyObject *coro, int64_t now) except -1:
        cdef uint32_t wait = 0
        cdef uint32_t stack = 0
        cdef int64_t ready = trace.ready
        cdef bint again = trace.waker != 0   # it was woken while it ran: it may go on at once
        if not trace.running:
            return 0
        self._leave(trace, now)
        if coro != NULL and <object>coro is not None:
            stack = self.stack_of(<object>coro, &wait)
        trace.of.put(TASK_POLL, trace.began, now - trace.began, SUSPENDED, ready, trace.number, stack)
        trace.stack = stack
        trace.wait = wait
        trace.suspended = now
        trace.ready = 0
        if trace.of.flight != NULL:
            _show(trace, FLIGHT_WAITING, now)
        if again:
            self.woken(trace, trace.waker, now)
        return 0

    cdef void woken(self, TaskTrace trace, uint64_t waker, int64_t now) noexcept:
        if trace.ended or trace.ready and not trace.running:
            return   # the first one counts
        if trace.running:
            trace.waker = waker if waker else <uint64_t>BY_CALLBACK << 32   # by what it does itself, before it waits
            return
        trace.waker = 0
        trace.ready = now
        if trace.of.flight != NULL:
            _show(trace, FLIGHT_READY, now)
        trace.of.put(TASK_AWAIT, trace.suspended, now - trace.suspended, 0, waker, trace.number, trace.stack)

    cdef void ended(self, TaskTrace trace, unsigned outcome, int64_t now) noexcept:
        if trace.ended:
            return
        if trace.running:
            self._leave(trace, now)
            trace.of.put(TASK_POLL, trace.began, now - trace.began, outcome, trace.ready, trace.number, 0)
        else:
            trace.of.put(TASK_END, now, 0, outcome, 0, trace.number, 0)
        self.forget(trace)

    # --- the hook ---

    cdef int _wake(self, TaskTrace trace, PyObject *future) except -1:
        # A callback of this task is to run soon; future: what it gets, or NULL.
        if trace.running or trace.ready == 0:   # the first one counts
            self.woken(trace, self._waker(trace, future), 0 if trace.running else precise_now())
        return 0

    cdef uint64_t _waker(self, TaskTrace trace, PyObject *future) except? 0:
        cdef PyObject *current = <PyObject *>self.current
        cdef PyObject *running
        cdef uint64_t by = 0 if self.current is None else self.current.number
        if future != NULL and _is_cancelled(<object>future):
            return <uint64_t>BY_CANCEL << 32 | by
        if current == <PyObject *>trace:
            return <uint64_t>BY_SELF << 32 | by
        if self.current is not None:
            return <uint64_t>BY_TASK << 32 | by
        if self.cause:
            return self.cause
        if trace.wait == WAIT_TIMER:
            return <uint64_t>BY_TIMER << 32
        if trace.wait == WAIT_THREAD:
            return <uint64_t>BY_THREAD << 32
        running = _running(self.loop)
        if running == NULL:
            return <uint64_t>BY_CALLBACK << 32
        if running == trace.task:
            return <uint64_t>BY_SELF << 32 | trace.number   # what it waits for was done already
        return <uint64_t>BY_TASK << 32   # one that is not traced

    cdef TaskTrace adopt(self, object task, int64_t now):
        # A task was started by one that is traced: it belongs to the same request.
        cdef TaskTrace parent = self.current
        cdef object coro = task.get_coro()
        cdef TaskTrace trace = self.new_task(parent.of, _name_of(coro), 0, parent.number, now)
        trace.coro = <PyObject *>coro
        trace.suspended = trace.ready = now
        self.list_task(trace, task)
        return trace

    cdef int _install(self) except -1:
        cdef bint timers = self.area.header.mode == LENS_FULL
        cdef Hook hook
        if self.hooked and timers == self.timers_hooked:
            return 0
        self._remove()
        self.hooked = True
        self.timers_hooked = timers
        if not self.bracketed:
            return 0
        if self._base is None:   # these stay until the end: what is nobody's any more may be told of at any time
            self._base = tuple([code for code, _ in _frames()])
            _watch_errors(type(self.loop))
            _watch_warnings()
        if _anyio_before is None:
            _watch_anyio()
        self._hook("call_soon")
        self._hook("run_in_executor")
        if timers:
            self._hook("call_at")
            self._hook("call_later")
        if self.loop.get_task_factory() is not None:
            self._hook("create_task")
        self._swap()
        for hook in self._hooks:
            if hook.before is not None or self._below is None:
                setattr(self.loop, hook.name, hook.ours)
        fs_without_attributes(self.loop)
        return 0

    cdef int _remove(self) except -1:
        cdef PyObject *own
        cdef Hook hook
        if not self.hooked:
            return 0
        self.hooked = self.timers_hooked = False
        if self._below is not None:
            if type(self.loop) is self._kind:
                self.loop.__class__ = self._below
            else:   # somebody has put a class above ours: it stays, and its hooks only pass on; the next time others stand on top
                self._kind = None
                self._made.clear()
            self._below = None
        for hook in reversed(self._hooks):
            own = fs_own(self.loop, hook.name)
            if own == <PyObject *>hook.ours:
                _restore(self.loop, hook)
            elif own != NULL:   # somebody above us still calls us, and we pass it on for ever; the next time another one stands on top
                self._made.pop(hook.name, None)
        self._hooks.clear()
        fs_without_attributes(self.loop)
        return 0

    cdef int _hook(self, str name) except -1:
        cdef PyObject *own = fs_own(self.loop, name)
        cdef object before = <object>own if own != NULL else None
        cdef Hook hook = self._made.get(name)
        if hook is None or before is not None:   # made once: in mode sample they come and go with each request
            hook = self._made[name] = Hook.__new__(Hook)   # above somebody's a new one: that may call the last one
            hook.recorder = self
            hook.name = name
            if name == "call_soon":
                hook.function = _call_soon
                hook.ours = fs_bind(0, _call_soon, hook)
            elif name == "call_later":
                hook.function = _call_later
                hook.ours = fs_bind(1, _call_later, hook)
            elif name == "call_at":
                hook.function = _call_at
                hook.ours = fs_bind(2, _call_at, hook)
            else:
                hook.ours = WRAPPERS[name](hook)
        hook.before = before
        hook.original = getattr(self.loop, name)
        self._hooks.append(hook)
        return 0

    cdef int _swap(self) except -1:
        """Give the loop a class of its own, in which the hooks are. Where that is refused they become attributes of the loop."""
        cdef object below = type(self.loop)
        cdef Hook hook
        try:
            if self._kind is None or self._kind.__base__ is not below or self._kind_hooks != self._hooks:
                self._kind_hooks = list(self._hooks)
                self._kind = _above(below, {hook.name: hook for hook in self._hooks})
                for hook in self._hooks:
                    hook.below = below
            self.loop.__class__ = self._kind
            self._below = below
        except Exception:   # a class without heirs, or with a layout that none of them may have
            self._kind = None
        return 0

    # --- what is nobody's ---

    cdef int _destroyed(self, object task) except -1:
        # The loop says so of a pending task, while that is taken apart.
        cdef PyObject *known = self.find(<PyObject *>task)
        cdef TaskTrace trace
        cdef object coro = task.get_coro()
        cdef uint32_t stack
        if known != NULL:
            trace = <TaskTrace>known
        else:
            trace = self._gone.pop(<size_t><PyObject *>task, None)
            if trace is None or trace.coro != <PyObject *>coro:
                return 0   # another one, at the same address
        stack = trace.stack if trace.stack else self._definition(coro)
        trace.of.put(ORPHAN, precise_now(), 0, ORPHAN_DESTROYED, self.area.text_id(_name_of(coro)), trace.number, stack)
        return 0

    cdef int _unawaited(self, object coro, RequestTrace of, uint32_t task) except -1:
        # The interpreter says so of a coroutine, while that is taken apart. `of`: whose it is; None: nobody knows.
        cdef uint32_t flags = ORPHAN_UNAWAITED
        cdef uint32_t stack
        cdef uint32_t name = self.area.text_id(_name_of(coro))
        if of is None:
            stack = self._definition(coro)
            self.area.event(ORPHAN, precise_now(), 0, 0, flags | ORPHAN_DEFINED, name, 0, stack)
        else:
            stack = self._here(coro, &flags)
            of.put(ORPHAN, precise_now(), 0, flags, name, task, stack)
        return 0

    cdef uint32_t _here(self, object coro, uint32_t *flags) except? 0:
        # Where it was dropped: mostly the line that made it. What is left over when a function returns has no line any more.
        cdef list frames = _frames()
        cdef size_t shared = 0
        for code in self._base or ():
            if shared >= <size_t>len(frames) or frames[shared][0] is not code:
                break
            shared += 1
        frames = frames[max(shared, <size_t>max(0, len(frames) - FRAMES_MAX)):]
        if not any([not is_library(code.co_filename) for code, _ in frames]):
            flags[0] |= ORPHAN_DEFINED
            return self._definition(coro)
        return self.area.stack_id(0, tuple([(self.area.code_id(code), line) for code, line in frames]))

    cdef uint32_t _definition(self, object coro) except? 0:
        code = getattr(coro, "cr_code", None)
        if not isinstance(code, types.CodeType):
            return 0
        return self.area.stack_id(0, ((self.area.code_id(code), code.co_firstlineno),))

    # --- what a task waits for ---

    cdef uint32_t stack_of(self, object coro, uint32_t *wait) except? 0:
        """The id of where `coro` is suspended, from its own frame down to what has yielded."""
        cdef fs_frame frames[FRAMES_MAX]
        cdef int count = 0
        cdef int kind = BY_FRAME
        cdef int steps = 0
        cdef uint64_t hash = 0x9e3779b97f4a7c15u
        cdef object thing = coro
        cdef object through = None
        cdef object code
        cdef size_t at
        while thing is not None and steps < 1000:
            steps += 1
            if fs_has_frame(thing):
                if not fs_frame_at(thing, &frames[count]):
                    break
                hash = (hash ^ <size_t>frames[count].code) * 0xff51afd7ed558ccdu
                hash = (hash ^ (hash >> 29) ^ frames[count].lasti) * 0xc4ceb9fe1a85ec53u
                count += 1
                thing = fs_awaited(thing)
            else:
                kind = IS_FUTURE_ITERATOR if <PyObject *>Py_TYPE(thing) == <PyObject *>FutureIterator else self._kind_of(thing)
                if kind == BY_CR_AWAIT:
                    code = getattr(thing, "cr_code", None)
                    if code is not None:
                        frames[count].code = <PyObject *>code   # of a compiled coroutine: a constant of its module
                        frames[count].lasti = -1
                        hash = (hash ^ <size_t>frames[count].code) * 0xff51afd7ed558ccdu
                        count += 1
                    through = thing
                    thing = thing.cr_await
                elif kind == STANDS_FOR:
                    thing = thing.lens_coroutine
                elif kind == BY_GI_YIELDFROM:
                    thing = thing.gi_yieldfrom
                elif kind == BY_TRAVERSE:
                    code = fs_coroutine_inside(thing)
                    if code is None:
                        break
                    thing = code
                elif kind == IS_FUTURE_ITERATOR:
                    thing = fs_object_inside(thing)
                    break
                else:
                    break
            if count == FRAMES_MAX:   # the middle goes: where it began and where it stands say most
                memmove(&frames[FRAMES_MAX // 4], &frames[FRAMES_MAX // 4 + 1], (FRAMES_MAX - FRAMES_MAX // 4 - 1) * sizeof(fs_frame))
                count -= 1
        hash ^= <size_t>Py_TYPE(thing) + (1 if self.thread_futures and id(thing) in self.thread_futures else 0)
        hash ^= hash >> 32
        if hash == 0:
            hash = 1
        at = hash & (self._known_size - 1)
        while self._known[at].hash:
            if self._known[at].hash == hash:
                wait[0] = self._known[at].wait
                return self._known[at].stack
            at = (at + 1) & (self._known_size - 1)
        return self._new_stack(frames, count, thing, through, hash, wait)

    cdef uint32_t _new_stack(self, void *frames_, int count, object awaited, object through, uint64_t hash, uint32_t *wait) except? 0:
        cdef fs_frame *frames = <fs_frame *>frames_
        cdef Known *grown
        cdef size_t i, at
        cdef list found = []
        cdef list names = []
        cdef uint32_t stack
        for i in range(<size_t>count):
            code = <object>frames[i].code
            line = code.co_firstlineno if frames[i].lasti < 0 else fs_line_of(frames[i].code, frames[i].lasti)
            number = self.area.code_id(code)
            if number == 0:
                return 0   # no more room for names: the ids of these codes would not keep them alive
            found.append((number, line))
            names.append((code.co_filename, code.co_qualname))
        if _anyio_before is None and ANYIO in sys.modules:
            _watch_anyio()
        if self.thread_futures and id(awaited) in self.thread_futures:
            wait[0] = WAIT_THREAD
        else:
            wait[0] = <uint32_t><int>int(wait_of(names, awaited, getattr(through, "lens_wait", None)))
        stack = self.area.stack_id(wait[0], tuple(found))
        if stack == 0:
            return 0
        if self._known_used * 2 >= self._known_size:
            grown = <Known *>calloc(self._known_size * 2, sizeof(Known))
            if grown == NULL:
                raise MemoryError
            for i in range(self._known_size):
                if self._known[i].hash:
                    at = self._known[i].hash & (self._known_size * 2 - 1)
                    while grown[at].hash:
                        at = (at + 1) & (self._known_size * 2 - 1)
                    grown[at] = self._known[i]
            free(self._known)
            self._known = grown
            self._known_size *= 2
        at = hash & (self._known_size - 1)
        while self._known[at].hash:
            at = (at + 1) & (self._known_size - 1)
        self._known[at].hash = hash
        self._known[at].stack = stack
        self._known[at].wait = wait[0]
        self._known_used += 1
        return stack

    cdef int _kind_of(self, object thing) except -1:
        cdef object kind = type(thing)
        cdef PyObject *found = PyDict_GetItemWithError(self._kinds, kind)
        cdef int how
        if found != NULL:
            return <object>found
        if kind is FutureIterator:
            how = IS_FUTURE_ITERATOR
        elif isinstance(thing, Future):
            how = IS_END
        elif hasattr(kind, "lens_coroutine"):
            how = STANDS_FOR
        elif hasattr(kind, "cr_await"):
            how = BY_CR_AWAIT
        elif hasattr(kind, "gi_yieldfrom"):
            how = BY_GI_YIELDFROM
        else:
            how = BY_TRAVERSE
        if len(self._kinds) > 1000:   # types that are made as they go
            self._kinds.clear()
        self._kinds[kind] = how
        return how


cdef PyObject *_call_soon(PyObject *self_, PyObject **arguments, Py_ssize_t count, PyObject *names) except NULL:
    """loop.call_soon, as long as a traced request lives."""
    cdef Hook hook = <Hook>self_
    cdef Recorder self = hook.recorder
    cdef PyObject *instead
    if count < 1 or not self.hooked or self.broken:
        return fs_pass(<PyObject *>hook.original, NULL, 0, arguments, count, names)
    instead = (<Sees>_seen)(self, arguments, count)
    if instead == arguments[0]:
        return fs_pass(<PyObject *>hook.original, NULL, 0, arguments, count, names)
    if instead == NULL:
        self.failed()
        return fs_pass(<PyObject *>hook.original, NULL, 0, arguments, count, names)
    if instead == <PyObject *>None:
        Py_INCREF(None)
        return instead
    return _in_place(hook, instead, 0, arguments, count, names)


cdef PyObject *_in_place(Hook hook, PyObject *instead, int at, PyObject **arguments, Py_ssize_t count, PyObject *names) except NULL:
    cdef object kept = <object>instead
    Py_DECREF(kept)   # it was ours already
    return fs_pass(<PyObject *>hook.original, instead, at, arguments, count, names)


cdef inline PyObject *_seen(Recorder self, PyObject **arguments, Py_ssize_t count) except NULL:
    """This is to run soon: is it a step of ours? Returns what is to run: the callback, borrowed; what stands for it, a new
    reference; or None, borrowed, for nothing."""
    cdef PyObject *callback = arguments[0]
    cdef PyObject *owner = fs_owner(callback)
    cdef PyObject *known
    if owner != NULL and self._places_used:
        known = self.find(owner)
        if known != NULL and (<TaskTrace>known).coro == NULL:
            # The handler's own: HandlerCall tells its slices. Its first step hands back what the first slice has yielded.
            if (<TaskTrace>known).handed:
                self._wake(<TaskTrace>known, arguments[1] if count > 1 else NULL)
            return callback
    elif owner != NULL and self.live == 0 and self.area.header.mode < LENS_SLOW:
        self._remove()   # nobody is traced any more
        return callback
    return _seen_other(self, callback, owner, arguments[1] if count > 1 else NULL, count == 2)


cdef PyObject *_seen_other(Recorder self, PyObject *callback, PyObject *owner, PyObject *future, bint alone) except NULL:
    # alone: it is all that the callback gets
    cdef PyObject *kind = <PyObject *>Py_TYPE(<object>callback)
    cdef PyObject *known
    cdef TaskTrace trace
    cdef Step step
    cdef object task, because
    if kind == <PyObject *>self.step_type:
        if self._places_used == 0 and self.current is None:
            return callback
        task = (<object>callback).__self__
        owner = <PyObject *>task   # which the callback holds
    elif kind == <PyObject *>Marker:
        self._wake((<Marker>callback).trace, future)
        return <PyObject *>None   # to be seen was all it was there for
    known = self.find(owner) if owner != NULL else NULL
    if known != NULL:
        trace = <TaskTrace>known
        if trace.coro == NULL:   # a handler's first step
            if trace.handed:
                self._wake(trace, future)
            return callback
        self._wake(trace, future)
    elif self.current is None:
        return callback
    elif kind == <PyObject *>self.step_type and isinstance(<object>owner, Task):
        trace = self.adopt(<object>owner, precise_now())
    elif alone and fs_is_future(<object>future) and kind != <PyObject *>Because:
        # What a task has completed tells others of it: gather() and TaskGroup wake up who waits for it.
        because = _because(self, <object>callback)
        Py_INCREF(because)
        return <PyObject *>because
    else:
        return callback
    step = Step.__new__(Step)
    step.trace = trace
    step.callback = <object>callback
    Py_INCREF(step)
    return <PyObject *>step


cdef object _above(object below, dict attributes):
    """A class that looks like this one, and has these as well."""
    return type(below)(below.__name__, (below,), {
        "__slots__": (), "__module__": below.__module__, "__qualname__": below.__qualname__, **attributes})


cdef object _steps_of(loop):
    """The type of what starts a task of this loop, if that and what wakes one up can be seen, and lead to the task. Else None, and
    only the steps of the handlers themselves are known.

    Tried with a task of our own. Its two steps are taken here: nothing comes to the loop that is to run later.
    """
    cdef PyObject *own = fs_own(loop, "call_soon")
    cdef object before = <object>own if own != NULL else None
    cdef object below = type(loop), kind = None
    steps = []

    def look(callback, *arguments, **named):
        steps.append((callback, arguments))

    async def waits(future):
        await future

    future = loop.create_future()
    try:
        if before is None:
            try:
                kind = _above(below, {"call_soon": staticmethod(look)})
                loop.__class__ = kind
            except Exception:   # as in Recorder._swap()
                kind = None
        if kind is None:
            loop.call_soon = look
        task = Task(waits(future), loop=loop)
        _take(loop, steps[0])
        future.set_result(None)
        _take(loop, steps[1])
        if all([getattr(callback, "__self__", None) is task for callback, _ in steps]) and task.done():
            return type(steps[0][0])
    except Exception:   # a loop that is as it is, or does not start its tasks so
        pass
    finally:
        if kind is not None:
            if type(loop) is kind:
                loop.__class__ = below
        elif fs_own(loop, "call_soon") == <PyObject *>look:
            if before is None:
                del loop.call_soon
            else:
                loop.call_soon = before
        if not future.done():
            future.set_result(None)
    return None


def _take(loop, step):
    # A step of another task, perhaps in the middle of one.
    callback, arguments = step
    current = asyncio.current_task(loop)
    if current is not None:
        asyncio.tasks._leave_task(loop, current)
    try:
        callback(*arguments)
    finally:
        if current is not None:
            asyncio.tasks._enter_task(loop, current)


cdef PyObject *_run_step(PyObject *self_, PyObject **arguments, size_t count, PyObject *names) except NULL:
    cdef Step self = <Step>self_
    cdef TaskTrace trace = self.trace
    cdef Recorder recorder = trace.of.recorder
    if recorder.broken or trace.ended:
        return PyObject_Vectorcall(<PyObject *>self.callback, arguments, count, names)
    recorder.begin_slice(trace, precise_now())
    try:
        return PyObject_Vectorcall(<PyObject *>self.callback, arguments, count, names)
    finally:
        recorder.end_slice(trace)


# ----------------------------------------------------------------------------------------------- other hooks


@cython.final
cdef class Hook:
    """What stands in the place of a method of the loop: in the class that the loop has meanwhile, or among its attributes."""

    def __cinit__(self):
        self.called = _run_hook

    def __get__(self, loop, kind):
        if loop is self.recorder.loop:
            return self.ours
        method = getattr(self.below, self.name)   # of the class, or of a loop that was made by it: none of ours
        return method if loop is None else types.MethodType(method, loop)


cdef PyObject *_run_hook(PyObject *self_, PyObject **arguments, size_t count, PyObject *names) except NULL:
    # As a method: the loop comes first.
    cdef Hook self = <Hook>self_
    cdef object method
    count &= ~PY_VECTORCALL_ARGUMENTS_OFFSET
    if count and arguments[0] == <PyObject *>self.recorder.loop:
        if self.function != NULL:
            return self.function(self_, arguments + 1, count - 1, names)
        return PyObject_Vectorcall(<PyObject *>self.ours, arguments + 1, count - 1, names)
    method = getattr(self.below, self.name)
    return PyObject_Vectorcall(<PyObject *>method, arguments, count, names)


cdef class Job:
    """What a thread does for a traced task."""
    cdef object function
    cdef RequestTrace of
    cdef uint32_t task
    cdef int64_t submitted

    def __call__(self, *arguments, **named):
        cdef RequestTrace of = self.of
        cdef int64_t began = precise_now()
        cdef int64_t now
        before = getattr(lens_thread, "trace", None)
        lens_thread.trace = of
        try:
            return self.function(*arguments, **named)
        finally:
            lens_thread.trace = before
            now = precise_now()
            try:
                of.put(THREAD_RUN, began, now - began, EXECUTOR_THREAD, self.submitted, self.task,
                       of.recorder.area.text_id(threading.current_thread().name))
            except BaseException as error:
                of.recorder.broke(error)


cdef object _job(Recorder self, object function):
    cdef Job job = Job.__new__(Job)
    job.function = function
    job.of = self.current.of
    job.task = self.current.number
    job.submitted = precise_now()
    return job


def _run_in_executor(Hook hook):
    def run_in_executor(executor, function, *arguments):
        cdef Recorder self = hook.recorder
        original = hook.original
        if self.current is None or self.broken or not (
                executor is None or isinstance(executor, concurrent.futures.ThreadPoolExecutor)):
            return original(executor, function, *arguments)   # what goes to another process must be as it is
        future = original(executor, _job(self, function), *arguments)
        self.thread_futures.add(id(future))
        future.add_done_callback(lambda done: self.thread_futures.discard(id(done)))
        return future

    return run_in_executor


def _watch_anyio():
    # Its threads are its own, and not an executor's: Starlette and FastAPI run plain functions there.
    global _anyio_before
    backend = getattr(sys.modules.get(ANYIO), "AsyncIOBackend", None)
    before = None if backend is None else backend.__dict__.get("run_sync_in_worker_thread")
    if _anyio_before is None and isinstance(before, classmethod):
        _anyio_before = before
        backend.run_sync_in_worker_thread = classmethod(_run_sync)


def _leave_anyio():
    global _anyio_before
    backend = getattr(sys.modules.get(ANYIO), "AsyncIOBackend", None)
    if _anyio_before is not None and backend is not None:
        ours = backend.__dict__.get("run_sync_in_worker_thread")
        if isinstance(ours, classmethod) and ours.__func__ is _run_sync:
            backend.run_sync_in_worker_thread = _anyio_before
    _anyio_before = None


def _run_sync(cls, function, *arguments, **named):
    """anyio's run_sync_in_worker_thread(), which says of a traced request when it waited for the thread and when it ran."""
    cdef Recorder self
    before = _anyio_before
    lens = lens_of(asyncio._get_running_loop())
    if isinstance(lens, Recorder):
        self = <Recorder>lens
        if self.current is not None and not self.broken:
            function = _job(self, function)
    return before.__func__(cls, function, *arguments, **named)


def _watch_errors(kind):
    # Of the class, and not of the loop: it stays, and a loop with an attribute makes each await of everybody's dearer.
    original = kind.call_exception_handler
    if kind in _errors_before:
        return

    def call_exception_handler(loop, context):
        cdef Recorder self
        lens = lens_of(loop)
        if isinstance(lens, Recorder) and type(context) is dict:
            self = <Recorder>lens
            try:
                task = context.get("task")
                if not self.broken and isinstance(task, Task) and str(context.get("message")).startswith("Task was destroyed"):
                    self._destroyed(task)
            except BaseException as error:
                self.broke(error)
        return original(loop, context)

    _errors_before[kind] = kind.__dict__.get(ERRORS), call_exception_handler
    try:
        setattr(kind, ERRORS, call_exception_handler)
    except TypeError:   # a class that is as it is: such tasks are not told of
        pass


def _leave_errors():
    for kind, (before, ours) in list(_errors_before.items()):
        if kind.__dict__.get(ERRORS) is not ours:
            continue   # whoever stands above us still calls us, and we pass it on
        if before is None:
            delattr(kind, ERRORS)
        else:
            setattr(kind, ERRORS, before)
        del _errors_before[kind]


def _watch_warnings():
    # The interpreter calls it whenever a coroutine is dropped that was never awaited; what filters there are comes behind it.
    global _warn_before
    before = getattr(warnings, UNAWAITED, None)
    if _warn_before is None and before is not None:
        _warn_before = before
        setattr(warnings, UNAWAITED, _warn_unawaited_coroutine)


def _leave_warnings():
    global _warn_before
    if _warn_before is not None and getattr(warnings, UNAWAITED, None) is _warn_unawaited_coroutine:
        setattr(warnings, UNAWAITED, _warn_before)
        _warn_before = None   # whoever stands above us still calls us, and we pass it on


def _warn_unawaited_coroutine(coro):
    """That of `warnings`, which says of a traced request that it was its coroutine."""
    cdef Recorder self
    cdef TaskTrace task
    loop = asyncio._get_running_loop()
    of = getattr(lens_thread, "trace", None)
    of = getattr(of, "outer", of)   # of an application within another
    lens = (<RequestTrace>of).recorder if isinstance(of, RequestTrace) else lens_of(loop)
    if isinstance(lens, Recorder):
        self = <Recorder>lens
        try:
            if self.broken:
                pass
            elif self.area.collecting:   # anybody's
                if self.area.header.mode == LENS_FULL:
                    self._unawaited(coro, None, 0)
            elif of is not None:
                self._unawaited(coro, <RequestTrace?>of, 0)
            elif self.current is not None:
                task = self.current
                self._unawaited(coro, task.of, task.number)
        except BaseException as error:
            self.broke(error)
    return _warn_before(coro)


cdef list _frames():
    # (code, line) of what runs in this thread, from the outermost. Not sys._getframe(): while a function that has returned lets
    # go of its variables, that is a frame of the interpreter's own, without code (Python 3.13), which crashes 3.14.
    cdef list found = []
    cdef PyObject *top = <PyObject *>PyEval_GetFrame()
    frame = <object>top if top != NULL else None
    while frame is not None:
        found.append((frame.f_code, frame.f_lineno or 0))
        frame = frame.f_back
    found.reverse()
    return found


cdef int _restore(object loop, Hook hook) except -1:
    if hook.before is None:
        delattr(loop, hook.name)
    else:
        setattr(loop, hook.name, hook.before)
    hook.before = None
    return 0


@cython.final
@cython.freelist(16)
cdef class Because:
    """A callback of a future that a traced task has completed: whom it wakes, that task has woken."""
    cdef Recorder recorder
    cdef object callback
    cdef uint64_t cause
    cdef Called called

    def __cinit__(self):
        self.called = _run_because

    def __repr__(self):
        return repr(self.callback)


cdef PyObject *_run_because(PyObject *self_, PyObject **arguments, size_t count, PyObject *names) except NULL:
    cdef Because self = <Because>self_
    cdef uint64_t before = self.recorder.cause
    self.recorder.cause = self.cause
    try:
        return PyObject_Vectorcall(<PyObject *>self.callback, arguments, count, names)
    finally:
        self.recorder.cause = before


cdef object _because(Recorder self, object callback):
    cdef Because because = Because.__new__(Because)
    because.recorder = self
    because.callback = callback
    because.cause = <uint64_t>BY_TASK << 32 | self.current.number
    return because


@cython.final
@cython.freelist(64)
cdef class Due:
    """A callback of a timer that a traced task has set."""
    cdef Recorder recorder
    cdef RequestTrace of
    cdef uint32_t task
    cdef int64_t due
    cdef object callback
    cdef Called called

    def __cinit__(self):
        self.called = _run_due

    def __repr__(self):
        return repr(self.callback)


cdef PyObject *_run_due(PyObject *self_, PyObject **arguments, size_t count, PyObject *names) except NULL:
    cdef Due self = <Due>self_
    cdef int64_t now = precise_now()
    cdef uint64_t before = self.recorder.cause
    if not self.recorder.broken:
        self.of.put(TIMER, self.due, now - self.due if now > self.due else 0, 0, 0, self.task, 0)
    self.recorder.cause = <uint64_t>BY_TIMER << 32
    try:
        return PyObject_Vectorcall(<PyObject *>self.callback, arguments, count, names)
    finally:
        self.recorder.cause = before


cdef PyObject *_due(Recorder self, PyObject *callback, PyObject *moment, bint absolute) except NULL:
    """What is to run at that moment in place of the callback of a timer: a new reference."""
    cdef double seconds
    cdef Due due
    if not fs_is_number(moment) or not callable(<object>callback) or type(<object>callback) is Due:
        Py_INCREF(<object>callback)
        return callback
    seconds = <object>moment
    if absolute:
        seconds -= <double>self.loop.time()
    due = Due.__new__(Due)
    due.recorder = self
    due.of = self.current.of
    due.task = self.current.number
    due.due = precise_now() + <int64_t>(seconds * 1e9)
    due.callback = <object>callback
    Py_INCREF(due)
    return <PyObject *>due


cdef PyObject *_timed(PyObject *self_, PyObject **arguments, Py_ssize_t count, PyObject *names, bint absolute) except NULL:
    cdef Hook hook = <Hook>self_
    cdef Recorder self = hook.recorder
    cdef PyObject *instead
    if count >= 2 and self.current is not None and not self.broken:
        instead = (<Dues>_due)(self, arguments[1], arguments[0], absolute)
        if instead != NULL:
            return _in_place(hook, instead, 1, arguments, count, names)
        self.failed()
    return fs_pass(<PyObject *>hook.original, NULL, 0, arguments, count, names)


cdef PyObject *_call_later(PyObject *self, PyObject **arguments, Py_ssize_t count, PyObject *names) except NULL:
    return _timed(self, arguments, count, names, False)


cdef PyObject *_call_at(PyObject *self, PyObject **arguments, Py_ssize_t count, PyObject *names) except NULL:
    return _timed(self, arguments, count, names, True)


def _create_task(Hook hook):
    # With a task factory: eager tasks take their first step inside this, and nothing else tells of them.
    def create_task(coro, **named):
        cdef Recorder self = hook.recorder
        cdef TaskTrace parent = self.current
        cdef TaskTrace trace
        cdef int64_t began = precise_now()
        task = hook.original(coro, **named)
        if parent is None or self.broken or self.current is not parent:
            return task
        try:
            if isinstance(task, Task) and not task.done() and self.find(<PyObject *>task) == NULL:
                trace = self.adopt(task, began)
                trace.began = began
                trace.running = True
                self._interrupt(parent, began)
                trace.outer = parent
                self.current = trace
                self.suspended(trace, trace.coro, precise_now())
        except BaseException as error:
            self.broke(error)
        return task

    return create_task


cdef dict WRAPPERS = {
    "run_in_executor": _run_in_executor, "create_task": _create_task,
}


cdef int _called_by() except -1:
    cdef Step step = Step.__new__(Step)
    cdef Because because = Because.__new__(Because)
    cdef Due due = Due.__new__(Due)
    cdef Hook hook = Hook.__new__(Hook)
    fs_called_by(Step, <char *>&step.called - <char *><PyObject *>step, False)
    fs_called_by(Because, <char *>&because.called - <char *><PyObject *>because, False)
    fs_called_by(Due, <char *>&due.called - <char *><PyObject *>due, False)
    fs_called_by(Hook, <char *>&hook.called - <char *><PyObject *>hook, True)
    return 0


_called_by()
