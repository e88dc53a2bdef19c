"""The WSGI wing (PEP 3333): an Exchange, its environ, a thread for the application, its answer.

Room:    floor 2, station 5 (handle) and station 6 (respond).
Called:  by Connection through the door Handler, by native.pyx for mounted applications. Calls the application, in a thread or
         on the loop; Exchange, RequestBody.
Rules:   PEP 3333; RFC 3875 section 4.1 (the variables); RFC 9110 sections 7.6.1 (hop-by-hop fields), 8.6, 10.1.1.

Theory of operation. `handle` makes the environ from the offsets of the head, on the loop, while the bytes are there, and
queues the call. A Worker (a thread of our own) takes it, runs the application and leaves what it says at the WSGICall:
head, pieces of the body, the end, or that it failed. `WSGIHandler.tell` puts the call on a list and wakes the loop once,
however many calls are on that list when the loop comes (`WSGIHandler.listen`); only the loop touches the Exchange.

Who owns what. Everything here runs under the GIL, and gives it away only where it calls the application or waits at a
Gate. So a field is read and written as a whole, and a list needs no lock; what the two sides have to agree about is who
waits: `waiting` is set before a Gate is waited at, and whoever opens the Gate clears it.

Back-pressure. The thread waits when HIGH bytes are ahead of the peer; the loop waits in RequestBody, which pauses reading.

With `threads=0` the application runs on the loop, in `begin_inline`: no crossing, and no thread for it to wait in. So a
request whose body is not in memory yet goes to a thread, as do all requests of an application that writes more through
write() than the peer takes; an iterator is stepped by the loop, a turn at a time, when the peer has room. While the
application has the thread, asyncio knows of no running loop there.
"""
import asyncio
import contextvars
import io
import logging
import os
import ssl
import stat
import sys
import tempfile
import threading
from asyncio import _get_running_loop, _set_running_loop
from collections import deque

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.contextvars cimport PyContext_Copy, PyContext_Enter, PyContext_Exit
from cpython.dict cimport PyDict_Copy, PyDict_SetItem
from cpython.ref cimport PyObject
from cpython.pythread cimport (
    NOWAIT_LOCK, WAIT_LOCK, PyThread_acquire_lock, PyThread_allocate_lock, PyThread_free_lock, PyThread_release_lock,
    PyThread_type_lock,
)
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memchr

from fastserve.interfaces.entries cimport fs_put
from fastserve.protocol.channel cimport Channel
from fastserve.protocol.core cimport (
    FS_FIELD_CONNECTION, FS_FIELD_CONTENT_LENGTH, FS_FIELD_CONTENT_TYPE, FS_FIELD_COOKIE, FS_FIELD_COUNT, FS_FIELD_HOST,
    FS_FIELD_UNKNOWN, FS_METHOD_CONNECT, FS_METHOD_COUNT, FS_METHOD_GET, FS_METHOD_OTHER, FS_TARGET_ABSOLUTE, FS_TARGET_ASTERISK,
    FS_TARGET_AUTHORITY, fs_field, fs_method_name, fs_request_head, fs_scan, fs_scan_choose, fs_status_reason, fs_text_equal,
)
from fastserve.protocol.exchange cimport HANDLER_AT, Call, Exchange
from fastserve.protocol.forwarded cimport Forwarded
from fastserve.protocol.headers cimport field_name
from fastserve.protocol.hooks cimport Handler
from fastserve.protocol.lens cimport BY_WSGI, RAISED, RETURNED, WSGI_THREAD, Trace
from fastserve.protocol.request cimport RequestBody, path_bytes
from fastserve.protocol.timers cimport precise_now

from fastserve._version import __version__
from fastserve.errors import ClientDisconnected, LocalProtocolError
from fastserve.protocol.lens import thread as lens_thread

__all__ = ["ErrorStream", "FileWrapper", "Input", "WSGICall", "WSGIHandler"]

cdef extern from "Python.h":
    object PyUnicode_DecodeLatin1(const char *s, Py_ssize_t size, const char *errors)
    object PyUnicode_New(Py_ssize_t size, Py_UCS4 maxchar)
    int PyUnicode_KIND(object text)
    uint8_t *PyUnicode_1BYTE_DATA(object text)
    Py_ssize_t PyUnicode_GET_LENGTH(object text)
    Py_ssize_t PY_SSIZE_T_MAX

cdef extern from *:
    """
    /* CPython 3.11 keeps the running loop of a thread in an object of one field, which is made anew whenever the loop is set.
     * We put another value into the field instead: 100 instructions for 430. From 3.12 on there is no such object. */
    static PyTypeObject *fs_loop_holder_type; /* NULL: not known, or not there */

    static PyObject **fs_held_loop(PyObject *holder) { return (PyObject **)((char *)holder + sizeof(PyObject)); }

    static PyObject *fs_loop_holder(PyObject *key, PyObject *loop) { /* borrowed; NULL: use _set_running_loop() */
      PyObject *state = fs_loop_holder_type == NULL ? NULL : PyThreadState_GetDict();
      PyObject *holder = state == NULL ? NULL : PyDict_GetItemWithError(state, key);
      return holder != NULL && Py_TYPE(holder) == fs_loop_holder_type && *fs_held_loop(holder) == loop ? holder : NULL;
    }

    static void fs_hold_loop(PyObject *holder, PyObject *loop) {
      PyObject *before = *fs_held_loop(holder);
      Py_INCREF(loop);
      *fs_held_loop(holder) = loop;
      Py_DECREF(before);
    }

    static void fs_know_loop_holder(PyObject *key, PyObject *loop) {
    #if PY_VERSION_HEX < 0x030C0000
      PyObject *state = PyThreadState_GetDict();
      PyObject *holder = state == NULL ? NULL : PyDict_GetItemWithError(state, key);
      if (holder != NULL && Py_TYPE(holder)->tp_basicsize >= (Py_ssize_t)(sizeof(PyObject) + sizeof(PyObject *)) &&
          *fs_held_loop(holder) == loop)
        fs_loop_holder_type = Py_TYPE(holder);
    #else
      (void)key, (void)loop;
    #endif
    }

    static void fs_forget_loop_holder(void) { fs_loop_holder_type = NULL; }
    """
    PyObject *fs_loop_holder(object key, object loop)
    void fs_hold_loop(object holder, object loop)
    void fs_know_loop_holder(object key, object loop)
    void fs_forget_loop_holder()

fs_scan_choose(os.environ.get("FASTSERVE_SIMD", "").encode())

logger = logging.getLogger("fastserve.error")

cdef enum:
    HIGH = 65536             # bytes a thread may be ahead of the peer before it waits (asyncio's own high-water mark)
    LOW = 16384              # and is woken again
    HAND_OVER = 65536        # bytes of the request body that cross to the thread at a time: as many as are held for it
    BLOCK = 65536            # of a file
    TURN = 32                # pieces of an iterator that runs on the loop, before others get their turn
    WRITTEN_MAX = 65536      # what write() may leave unsent on the loop before the application is moved to threads
    LINE_MAX = 65536         # characters of a line of wsgi.errors that are held until its end comes
    STATUSES_MAX = 256       # status lines whose reading is remembered
    TEMPLATES_MAX = 64       # addresses of ours an environ was prepared for
    MOVED_THREADS = 40       # of `threads=0`: for calls that cannot run on the loop

cdef int64_t WARN_AFTER = 1_000_000_000    # ns a call may queue before the log speaks of it,
cdef int64_t WARN_EVERY = 60_000_000_000   # and how often

cdef object END = object()   # of an iterator
cdef object new_deque = deque
cdef str RUNNING_LOOP = sys.intern("__asyncio_running_event_loop__")   # where a thread's state has the object that holds it

# --------------------------------------------------------------------------------------- the loop, out of sight


cdef int _know_holder(object loop) except -1:
    # Does `loop`, which runs here, hang where we think it does? It is private, and believed only if it is seen to work.
    cdef object holder
    fs_know_loop_holder(RUNNING_LOOP, loop)
    if fs_loop_holder(RUNNING_LOOP, loop) != NULL:
        holder = _leave_loop(loop)
        hidden = _get_running_loop() is None
        _enter_loop(loop, holder)
        if not hidden or _get_running_loop() is not loop:
            fs_forget_loop_holder()
            _set_running_loop(loop)
    return 0


cdef object _leave_loop(object loop):
    # To the application this thread is one like any other: asyncio.run() and async_to_sync(), which frameworks use for their
    # async views, must find no loop that runs here. Returns what _enter_loop() is given.
    cdef PyObject *holder = fs_loop_holder(RUNNING_LOOP, loop)
    if holder == NULL:
        _set_running_loop(None)
        return None
    fs_hold_loop(<object>holder, None)
    return <object>holder


cdef int _enter_loop(object loop, object holder) except -1:
    if holder is not None:
        fs_hold_loop(holder, loop)
        if fs_loop_holder(RUNNING_LOOP, loop) == <PyObject *>holder:
            return 0   # nobody has run another loop meanwhile
    _set_running_loop(loop)
    return 0


# --------------------------------------------------------------------------------------------------- the environ

# RFC 3875 section 4.1.18 lets a server remove fields "that relate solely to client-side communication issues": those that
# speak of the connection, which ends here. Transfer-Encoding stays although the body is decoded: it is how frameworks see
# that a body without a length follows. Proxy would become HTTP_PROXY, which HTTP clients believe (CVE-2016-5385).
cdef tuple DROPPED = (b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"upgrade", b"http2-settings")
cdef list KEYS = [None] * FS_FIELD_COUNT       # field id -> name in the environ; None: not passed on
cdef list METHODS = [None] * FS_METHOD_COUNT


def _fill_tables():
    for number in range(1, FS_FIELD_COUNT):
        name = field_name(number)
        if name not in DROPPED:
            KEYS[number] = sys.intern("HTTP_" + name.decode().upper().replace("-", "_"))
    KEYS[<int>FS_FIELD_CONTENT_TYPE] = sys.intern("CONTENT_TYPE")
    KEYS[<int>FS_FIELD_CONTENT_LENGTH] = sys.intern("CONTENT_LENGTH")
    for number in range(1, FS_METHOD_COUNT):
        METHODS[number] = sys.intern((<bytes>fs_method_name(number)).decode())


_fill_tables()

cdef str REQUEST_METHOD = sys.intern("REQUEST_METHOD")
cdef str SCRIPT_NAME = sys.intern("SCRIPT_NAME")
cdef str PATH_INFO = sys.intern("PATH_INFO")
cdef str URL_SCHEME = sys.intern("wsgi.url_scheme")
cdef str QUERY_STRING = sys.intern("QUERY_STRING")
cdef str RAW_URI = sys.intern("RAW_URI")
cdef str REQUEST_URI = sys.intern("REQUEST_URI")
cdef str SERVER_PROTOCOL = sys.intern("SERVER_PROTOCOL")
cdef str REMOTE_ADDR = sys.intern("REMOTE_ADDR")
cdef str REMOTE_PORT = sys.intern("REMOTE_PORT")
cdef str WSGI_INPUT = sys.intern("wsgi.input")
cdef str QUEUE_SECONDS = sys.intern("fastserve.queue_seconds")
cdef str HTTP_HOST = sys.intern("HTTP_HOST")
cdef str HTTP_10 = "HTTP/1.0"

cdef enum:   # places in the template of an environ (see _ends)
    AT_REMOTE_ADDR = 0
    AT_REQUEST_METHOD
    AT_RAW_URI
    AT_REQUEST_URI
    AT_QUERY_STRING
    AT_PATH_INFO
    AT_HOST
    AT_REMOTE_PORT


cdef inline str _latin1(const uint8_t *p, Py_ssize_t length):
    return <str>PyUnicode_DecodeLatin1(<const char *>p, length, NULL)


cdef dict _with_room(dict environ):
    # Grown now, to room for as many entries again, which every copy has too; or as it is, if there is room for half as many: a
    # dict with more holes than that is not copied as it stands, but entry by entry.
    cdef dict grown = {}
    cdef size_t size
    cdef list padding = [f"padding {number}" for number in range(len(environ) // 2)]
    for name, value in environ.items():
        grown[name] = value
    size = sys.getsizeof(grown)
    for count, name in enumerate(padding, 1):
        grown[name] = None
        if sys.getsizeof(grown) != size:
            for name in padding[:count]:
                del grown[name]
            return grown
    return environ


cdef str _key(const uint8_t *name, Py_ssize_t length):
    # HTTP_ and the name of a field we have no number for; None for one that must not be passed on.
    cdef str key
    cdef uint8_t *out
    cdef uint8_t c
    cdef Py_ssize_t i
    # "X_Forwarded_For" and "X-Forwarded-For" would be one variable: the spelling with underscores is how a client gets past
    # a proxy that guards the other.
    if memchr(name, 95, length) != NULL or fs_text_equal(name, length, b"proxy", 5):
        return None
    key = <str>PyUnicode_New(length + 5, 127)   # a token is ASCII
    out = PyUnicode_1BYTE_DATA(key)
    out[0], out[1], out[2], out[3], out[4] = 72, 84, 84, 80, 95
    out += 5
    for i in range(length):
        c = name[i]
        out[i] = 95 if c == 45 else c - 32 if 97 <= c <= 122 else c
    return key


# RFC 4514 section 3: short names of the attributes of a name; OpenSSL's for those it does not list.
cdef dict SHORT_NAMES = {
    "commonName": "CN", "localityName": "L", "stateOrProvinceName": "ST", "organizationName": "O",
    "organizationalUnitName": "OU", "countryName": "C", "streetAddress": "STREET", "domainComponent": "DC", "userId": "UID",
}


cdef str _distinguished_name(object name):
    """A name as RFC 4514 writes it, the most specific part first: CN=ted,O=Example. Bytes of UTF-8, as latin-1 (PEP 3333)."""
    parts = []
    for relative in reversed(name):
        parts.append("+".join([f"{SHORT_NAMES.get(kind, kind)}={_escaped(value)}" for kind, value in relative]))
    return ",".join(parts).encode("utf-8", "replace").decode("latin-1")


cdef str _escaped(str value):
    # RFC 4514 section 2.4
    value = "".join(["\\" + c if c in '"+,;<>\\' else "\\00" if c == "\0" else c for c in value])
    if value.startswith(("#", " ")):
        value = "\\" + value
    if value.endswith(" "):
        value = value[:len(value) - 1] + "\\ "
    return value


def certificate_variables(secure):
    """What the certificate of a client says, under the names of Apache's mod_ssl; an empty dict if it showed none. `secure`: an
    ssl.SSLObject whose handshake is over."""
    certificate = secure.getpeercert()
    if not certificate:
        return {}
    found = {
        "SSL_CLIENT_VERIFY": "SUCCESS",   # or the handshake would have failed
        "SSL_CLIENT_S_DN": _distinguished_name(certificate["subject"]),
        "SSL_CLIENT_I_DN": _distinguished_name(certificate["issuer"]),
        "SSL_CLIENT_M_SERIAL": certificate["serialNumber"],
        "SSL_CLIENT_V_START": certificate["notBefore"],
        "SSL_CLIENT_V_END": certificate["notAfter"],
        "SSL_CLIENT_CERT": ssl.DER_cert_to_PEM_cert(secure.getpeercert(True)),
    }
    for relative in certificate["subject"]:
        for kind, value in relative:
            if kind == "commonName":
                found["SSL_CLIENT_S_DN_CN"] = value.encode("utf-8", "replace").decode("latin-1")
    return found


cdef class ErrorStream:
    """wsgi.errors: text that goes to the log of errors. The lines that one write() completes are one entry; lines of several
    threads do not mix."""
    cdef object _local

    def __cinit__(self):
        self._local = threading.local()

    def write(self, text):
        """Log the lines that are complete; hold the rest until its end comes. Returns the number of characters."""
        if not isinstance(text, str):
            raise TypeError(f"wsgi.errors takes str, not {type(text).__name__}")
        *lines, rest = (getattr(self._local, "rest", "") + text).split("\n")
        if len(rest) > LINE_MAX:
            lines.append(rest)
            rest = ""
        self._local.rest = rest
        if lines:
            self._log("\n".join(lines))   # a traceback that is written at once stays one entry
        return len(text)

    def writelines(self, lines):
        """Write each of them."""
        for line in lines:
            self.write(line)

    def flush(self):
        """Log what is held, as if its line had ended."""
        rest = getattr(self._local, "rest", "")
        if rest:
            self._local.rest = ""
            self._log(rest)

    def _log(self, line):
        if getattr(self._local, "inside", False):
            # A handler of the application's own logging writes here what we have just logged.
            print(line, file=sys.__stderr__)
            return
        self._local.inside = True
        try:
            logger.error("%s", line)
        finally:
            self._local.inside = False


cdef class FileWrapper:
    """wsgi.file_wrapper: an iterable over the blocks of a file, known to the server by its type.

    filelike: has read(size), and perhaps close(), fileno(), tell(). blksize: bytes of a block.
    """
    cdef readonly object filelike
    cdef readonly Py_ssize_t blksize

    def __init__(self, filelike, blksize=BLOCK):
        self.filelike = filelike
        self.blksize = blksize if blksize > 0 else BLOCK

    def __iter__(self):
        return self

    def __next__(self):
        data = self.filelike.read(self.blksize)
        if data:
            return data
        raise StopIteration

    def close(self):
        """Close the file, if it can be closed."""
        close = getattr(self.filelike, "close", None)
        if close is not None:
            close()

    cdef int64_t remaining(self, int *fd, int64_t *offset) except -2:
        # Bytes from here to the end of a regular file, and where that is; -1: one cannot know. Only of Python's own file
        # objects: others (gzip.GzipFile) have a fileno() too, and what they read is not what is in that file.
        cdef object file = self.filelike
        if type(file) is tempfile._TemporaryFileWrapper:
            file = file.file
        if type(file) is not io.FileIO and \
                not ((type(file) is io.BufferedReader or type(file) is io.BufferedRandom) and type(file.raw) is io.FileIO):
            return -1
        try:
            about = os.fstat(file.fileno())
            if not stat.S_ISREG(about.st_mode):
                return -1
            fd[0] = file.fileno()
            offset[0] = file.tell()
            return max(0, about.st_size - offset[0])
        except (OSError, ValueError):   # one that is closed, or not readable
            return -1


# ----------------------------------------------------------------------------------------------------- the input


@cython.final
cdef class Gate:
    # Closed: one thread waits in front of it, another opens it for that one.
    cdef PyThread_type_lock _lock

    def __cinit__(self):
        self._lock = PyThread_allocate_lock()
        if self._lock == NULL:
            raise MemoryError
        PyThread_acquire_lock(self._lock, NOWAIT_LOCK)

    def __dealloc__(self):
        if self._lock != NULL:
            PyThread_free_lock(self._lock)

    cdef void open(self) noexcept:
        PyThread_release_lock(self._lock)

    cdef void wait(self) noexcept:
        cdef PyThread_type_lock lock = self._lock
        with nogil:
            PyThread_acquire_lock(lock, WAIT_LOCK)


@cython.final
cdef class Input:
    """wsgi.input: the request body, read while it comes. A method that needs more than has come waits for it.

    All of them raise ClientDisconnected, an OSError, when the body was cut short: it never looks complete. One thread at a
    time may read.
    """
    # --- the reader's ---
    cdef bytes _data             # the piece in hand
    cdef Py_ssize_t _pos         # and where it is read
    cdef WSGICall _call          # None: there is nothing but `_data`
    # --- from the loop ---
    cdef list _pieces            # handed over
    cdef bint _ended             # and no more will come
    cdef object _error           # why not
    # --- between them ---
    cdef bint _wanted            # the loop is asked for more
    cdef bint _waiting           # at the gate
    cdef Gate _gate

    def __cinit__(self):
        self._data = b""

    cdef bytes _next_piece(self):
        # The piece in hand is used up: the next one, or b"" at the end.
        cdef WSGICall call = self._call
        self._pos = 0
        self._data = b""
        while not self._pieces:
            if self._error is not None:
                raise ClientDisconnected(str(self._error)) from self._error
            if self._ended or call is None:
                return b""
            self._wanted = True
            self._waiting = True
            if not call.wing.tell(call):
                raise ClientDisconnected("the server has stopped")
            self._gate.wait()
        self._data = <bytes>self._pieces.pop(0)
        return self._data

    cdef int wake(self) except -1:
        if self._waiting:
            self._waiting = False
            self._gate.open()
        return 0

    cdef bytes _some(self, Py_ssize_t most):
        # At most so many bytes of the piece in hand.
        cdef Py_ssize_t there = PyBytes_GET_SIZE(self._data) - self._pos
        cdef bytes out
        if self._pos == 0 and there <= most:
            out = self._data
            self._data = b""
            return out
        if most > there:
            most = there
        out = PyBytes_FromStringAndSize(PyBytes_AS_STRING(self._data) + self._pos, most)
        self._pos += most
        return out

    cdef bint _at_end(self) except -1:
        # Is nothing left? Waits for what comes.
        return self._pos >= PyBytes_GET_SIZE(self._data) and PyBytes_GET_SIZE(self._next_piece()) == 0

    def read(self, size=-1):
        """`size` bytes, fewer only at the end; all that is left without a size, or with a negative one."""
        cdef Py_ssize_t left = -1 if size is None else size
        cdef bytes part
        cdef list parts
        if left == 0 or self._at_end():
            return b""
        if left < 0:
            left = PY_SSIZE_T_MAX
        part = self._some(left)
        left -= PyBytes_GET_SIZE(part)
        if left == 0 or self._at_end():
            return part
        parts = [part]
        while left and not self._at_end():
            part = self._some(left)
            left -= PyBytes_GET_SIZE(part)
            parts.append(part)
        return b"".join(parts)

    def read1(self, size=-1):
        """What there is, at most `size` bytes; waits only if there is nothing. b"" at the end."""
        cdef Py_ssize_t most = -1 if size is None else size
        if most == 0 or self._at_end():
            return b""
        return self._some(PY_SSIZE_T_MAX if most < 0 else most)

    def readline(self, size=-1):
        """Up to and with the next line feed, at most `size` bytes. b"" at the end."""
        cdef Py_ssize_t left = -1 if size is None else size
        cdef Py_ssize_t there
        cdef const char *start
        cdef const char *found
        cdef bytes part
        cdef list parts = []
        if left < 0:
            left = PY_SSIZE_T_MAX
        while left and not self._at_end():
            start = PyBytes_AS_STRING(self._data) + self._pos
            there = min(PyBytes_GET_SIZE(self._data) - self._pos, left)
            found = <const char *>memchr(start, 10, there)
            if found != NULL:
                there = found - start + 1
            part = self._some(there)
            parts.append(part)
            left -= there
            if found != NULL:
                break
        return <bytes>parts[0] if len(parts) == 1 else b"".join(parts)

    def readlines(self, hint=-1):
        """The lines that are left; with a positive hint no more once they have that many bytes."""
        cdef list lines = []
        cdef Py_ssize_t most = -1 if hint is None else hint
        cdef Py_ssize_t total = 0
        while True:
            line = self.readline()
            if not line:
                return lines
            lines.append(line)
            total += len(line)
            if 0 < most <= total:
                return lines

    def __iter__(self):
        return self

    def __next__(self):
        line = self.readline()
        if line:
            return line
        raise StopIteration


cdef Input NOTHING = Input.__new__(Input)   # of requests without a body: there is nothing to remember


# --------------------------------------------------------------------------------------------------- the threads


@cython.final
cdef class Worker:
    # One thread of the pool.
    cdef WSGIHandler wing
    cdef Gate gate
    cdef object thread

    def run(self):
        """The life of the thread."""
        cdef WSGICall call
        cdef WSGIHandler wing = self.wing
        wing._waking = False
        while True:
            call = wing.take(self)
            if call is None:
                return
            call.run()
            call = None   # an idle thread keeps nothing of its last request


cdef class WSGIHandler(Handler):
    """Answers exchanges with a WSGI application.

    app: the callable. threads: the most threads it is called in, made when they are needed; None: min(32, CPUs + 4); 0: it
    is called on the event loop. root_path: SCRIPT_NAME, "" or "/mounted/here". multiprocess: other processes serve it too.
    """
    cdef object app
    cdef object loop, context
    cdef object __weakref__
    # --- the environ ---
    cdef str root_path
    cdef dict _common             # what every environ holds
    cdef dict _templates          # (address of ours, TLS?) -> that, and what the address says
    cdef dict _statuses           # "200 OK" -> (200, None)
    # --- the threads ---
    cdef bint inline              # calls run on the loop unless they cannot
    cdef int _threads_max
    cdef list _workers
    cdef list _idle               # the last to fall asleep is the first to be woken: its memory is warm
    cdef object _queue            # of calls that wait for a thread
    cdef bint _waking             # a thread was woken, and has not looked at the queue yet
    cdef bint _closing
    # --- from the threads to the loop ---
    cdef list _told               # calls that have something to say
    cdef bint _loop_told          # it was woken, and has not listened yet
    cdef object _listen
    # --- counters ---
    cdef readonly uint64_t calls          # begun
    cdef readonly uint64_t crossings      # times the loop was woken
    cdef int64_t _queued_ns, _queued_ns_max, _warned_at

    def __init__(self, app, *, threads=None, root_path="", multiprocess=False):
        if threads is not None and threads < 0:
            raise ValueError(f"threads must be 0 or more, not {threads}")
        if root_path and not root_path.startswith("/"):
            raise ValueError(f"root_path must begin with a slash, not {root_path!r}")
        if threads is None:
            threads = min(32, (os.cpu_count() or 1) + 4)
        self.app = app
        self.arrival_flags = BY_WSGI
        self.inline = threads == 0
        self._threads_max = threads or MOVED_THREADS
        self._workers = []
        self._idle = []
        self._queue = deque()
        self._told = []
        self._listen = self.listen
        self._templates = {}
        self._statuses = {}
        # PEP 3333, Unicode issues: native strings hold bytes as latin-1.
        self.root_path = root_path.rstrip("/").encode("utf-8", "surrogateescape").decode("latin-1")
        self._common = {
            "REQUEST_METHOD": "GET",
            "SCRIPT_NAME": self.root_path,
            "PATH_INFO": "/",
            "QUERY_STRING": "",
            "RAW_URI": "/",
            "REQUEST_URI": "/",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "SERVER_SOFTWARE": f"fastserve/{__version__}",
            "wsgi.version": (1, 0),
            "wsgi.input": NOTHING,
            "wsgi.input_terminated": True,   # reading ends where the body ends, with a length and without
            "wsgi.errors": ErrorStream(),
            "wsgi.multithread": self._threads_max > 1,
            "wsgi.multiprocess": bool(multiprocess),
            "wsgi.run_once": False,
            "wsgi.file_wrapper": FileWrapper,
        }

    @property
    def threads(self):
        """Threads there are now."""
        return len(self._workers)

    @property
    def busy(self):
        """Threads that are in a call."""
        return len(self._workers) - len(self._idle)

    @property
    def queued(self):
        """Calls that wait for a thread."""
        return len(self._queue)

    @property
    def queue_seconds(self):
        """Seconds that all calls together have waited for a thread."""
        return self._queued_ns / 1e9

    @property
    def queue_seconds_max(self):
        """Seconds that the call which waited longest has waited for a thread."""
        return self._queued_ns_max / 1e9

    def close(self):
        """Join the threads; calls that have not begun are dropped."""
        self._closing = True
        self._queue.clear()
        while self._idle:
            (<Worker>self._idle.pop()).gate.open()
        for worker in self._workers:
            (<Worker>worker).thread.join()
        self._workers.clear()

    # --- station 5: handle ---

    cdef int handle(self, Exchange exchange) except -1:
        cdef fs_request_head *head = exchange.head()
        if self.loop is None:
            self._know_loop()
            self.context = contextvars.copy_context()   # the transport's, which is the one the server was started in
        if head.method_id == FS_METHOD_CONNECT or head.parts.form == FS_TARGET_AUTHORITY:
            return exchange.fail(501)   # we are no proxy
        return self.answer(exchange, "", self.context, None)

    cdef int answer(self, Exchange exchange, str mounted, object context, object state) except -1:
        cdef WSGICall call
        cdef RequestBody body = exchange.body
        if self.loop is None:
            self._know_loop()
        exchange.text_fields = True
        call = WSGICall.__new__(WSGICall)
        call.wing = self
        call.exchange = exchange
        call.trace = exchange.trace
        call.base_context = context
        call.declared = call.length = -1
        call.head_request = exchange.channel.conn.head_request
        call.environ = self._environ(exchange, exchange.head(), mounted)
        exchange.call = call
        if body is not None:
            call.input = Input.__new__(Input)
            call.environ[WSGI_INPUT] = call.input
            if body.ended:
                call.input._data = body.joined()
            else:
                call.body = body
                call.input._call = call
                call.input._pieces = []
                call.input._gate = Gate.__new__(Gate)
        if self.inline and call.body is None:
            call.inline = True
            self.calls += 1
            call.begin_inline()
        else:
            call.queued_at = precise_now()
            self._queue.append(call)
            self.wake_one()
        return 0

    cdef int _know_loop(self) except -1:
        self.loop = asyncio.get_running_loop()
        return _know_holder(self.loop)

    cdef dict _environ(self, Exchange exchange, fs_request_head *head, str mounted):
        cdef const uint8_t *data = exchange.data
        cdef const uint8_t *target = data + head.target.off
        cdef fs_field *field = exchange.fields
        cdef fs_field *last = field + head.fields_count
        cdef tuple ends = exchange.channel.facts if type(exchange.channel.facts) is tuple else None
        cdef uint64_t seen[4]
        cdef dict environ
        cdef object key, value, before
        cdef bytes raw
        cdef bint absolute = head.parts.form == FS_TARGET_ABSOLUTE
        cdef bint again
        cdef Forwarded said = exchange.forwarded()
        if ends is None:
            ends = exchange.channel.facts = self._ends(exchange.channel)
        # A copy of a dict keeps its size: the template has room for the fields (see _ends).
        environ = PyDict_Copy(<dict>ends[0])
        fs_put(environ, AT_REMOTE_ADDR, REMOTE_ADDR, ends[1])
        if ends[2] is not None:
            fs_put(environ, AT_REMOTE_PORT, REMOTE_PORT, ends[2])
        if head.method_id == FS_METHOD_GET:
            pass   # as in the template
        elif head.method_id != FS_METHOD_OTHER:
            fs_put(environ, AT_REQUEST_METHOD, REQUEST_METHOD, <object>METHODS[head.method_id])
        else:
            fs_put(environ, AT_REQUEST_METHOD, REQUEST_METHOD, _latin1(data + head.method.off, head.method.len))
        value = _latin1(target, head.target.len)
        fs_put(environ, AT_RAW_URI, RAW_URI, value)
        fs_put(environ, AT_REQUEST_URI, REQUEST_URI, value)
        if head.parts.has_query:
            fs_put(environ, AT_QUERY_STRING, QUERY_STRING, _latin1(target + head.parts.query.off, head.parts.query.len))
        if head.parts.form == FS_TARGET_ASTERISK:
            value = ""   # it names no path: PEP 3333's validator takes none that does not begin with a slash
        elif head.parts.path.len == 0:
            value = "/"  # absolute-form without a path (RFC 9110 section 4.2.3)
        elif head.parts.has_percent:
            raw = path_bytes(target + head.parts.path.off, head.parts.path.len)
            value = _latin1(<const uint8_t *>PyBytes_AS_STRING(raw), PyBytes_GET_SIZE(raw))
        elif head.parts.path.len != head.target.len:
            value = _latin1(target + head.parts.path.off, head.parts.path.len)
        if mounted:
            # The App has compared the path, decoded, with just this; its bytes are latin-1 here, as those of the path.
            if not mounted.isascii():
                mounted = mounted.encode("utf-8").decode("latin-1")
            value = (<str>value)[len(mounted):]
            above = said.prefix if said is not None and said.prefix is not None else self.root_path
            PyDict_SetItem(environ, SCRIPT_NAME, above + mounted)
        elif said is not None and said.prefix is not None:
            PyDict_SetItem(environ, SCRIPT_NAME, said.prefix)
        elif self.root_path:
            value = self._below_root(<str>value)
        fs_put(environ, AT_PATH_INFO, PATH_INFO, value)
        if head.version_minor == 0:
            PyDict_SetItem(environ, SERVER_PROTOCOL, HTTP_10)
        seen[0] = seen[1] = seen[2] = seen[3] = 0
        while field != last:
            if field.id != FS_FIELD_UNKNOWN:
                key = KEYS[field.id]
                again = (seen[field.id >> 6] >> (field.id & 63)) & 1
                seen[field.id >> 6] |= <uint64_t>1 << (field.id & 63)
            else:
                key = _key(data + field.name, field.name_len)
                again = key is not None and key in environ
            if key is not None:
                value = _latin1(data + field.value, field.value_len)
                if again:
                    # RFC 9110 section 5.3; RFC 6265 has its own separator.
                    before = environ[key]
                    value = before + "; " + value if field.id == FS_FIELD_COOKIE else before + ", " + value
                if field.id == FS_FIELD_HOST:
                    fs_put(environ, AT_HOST, HTTP_HOST, value)
                else:
                    PyDict_SetItem(environ, key, value)
            field += 1
        if not (seen[<int>FS_FIELD_HOST >> 6] >> (<int>FS_FIELD_HOST & 63)) & 1:
            del environ[HTTP_HOST]
        if ends[3] is not None:   # whatever the peer calls it, this is its name here
            PyDict_SetItem(environ, ends[3], exchange.id().decode("ascii"))
        if absolute:
            # RFC 9112 section 3.2.2: the Host field "MUST be ignored and replaced with the host information of the
            # request-target".
            fs_put(environ, AT_HOST, HTTP_HOST, _latin1(data + head.host.off, head.host.len))
        if said is not None:
            if said.client is not None:
                fs_put(environ, AT_REMOTE_ADDR, REMOTE_ADDR, said.client[0])
                fs_put(environ, AT_REMOTE_PORT, REMOTE_PORT, str(said.client[1]))
            if said.scheme is not None:
                PyDict_SetItem(environ, URL_SCHEME, said.scheme)
            if said.host is not None:
                fs_put(environ, AT_HOST, HTTP_HOST, said.host.decode("latin-1"))
        return environ

    cdef str _below_root(self, str path):
        # A proxy may have cut the prefix off, or not: SCRIPT_NAME + PATH_INFO is the path either way.
        cdef Py_ssize_t length = len(self.root_path)
        if path.startswith(self.root_path) and (len(path) == length or path[length] == "/"):
            return path[length:]
        return path

    cdef tuple _ends(self, Channel channel):
        # (template of the environ, REMOTE_ADDR, REMOTE_PORT or None, key of the request's id or None) of a connection: once
        # for all its requests.
        cdef object peer = channel.info("peername")
        cdef object ours = channel.info("sockname")
        cdef bint secure = channel.info("ssl_object") is not None
        cdef object key = (ours, secure)
        cdef dict template = self._templates.get(key)
        cdef bytes id_field = channel.id_field
        cdef str id_key = None
        if template is None:
            scheme = "https" if secure else "http"
            # PEP 3333: SERVER_NAME and SERVER_PORT "can never be empty strings"; a Unix socket has neither.
            host, port = ours[:2] if isinstance(ours, tuple) else ("localhost", 443 if secure else 80)
            # Filled one by one: CPython makes the table of a dict display for keys of any kind, which is larger.
            template = dict.fromkeys((REMOTE_ADDR, REQUEST_METHOD, RAW_URI, REQUEST_URI, QUERY_STRING, PATH_INFO, HTTP_HOST), "")
            if isinstance(peer, tuple):
                template[REMOTE_PORT] = ""
            for name, value in (self._common | {
                "SERVER_NAME": host, "SERVER_PORT": str(port), "REMOTE_ADDR": "", "wsgi.url_scheme": scheme,
            }).items():
                template[name] = value
            template = _with_room(template)   # or the fields of each request would make its copy grow
            if len(self._templates) >= TEMPLATES_MAX:
                self._templates.clear()
            self._templates[key] = template
        if secure:
            said = certificate_variables(channel.info("ssl_object"))
            if said:   # this client's, and so no other connection's
                template = PyDict_Copy(template)   # with its room
                template.update(said)
        if id_field is not None:
            id_key = _key(<const uint8_t *>PyBytes_AS_STRING(id_field), PyBytes_GET_SIZE(id_field))
        if isinstance(peer, tuple):
            return template, peer[0], str(peer[1]), id_key
        return template, "", None, id_key

    # --- the pool ---

    cdef int wake_one(self) except -1:
        """Somebody must look at the queue: an idle thread, or a new one.

        One at a time: the woken one wakes the next if it leaves calls in the queue. Short calls are thus done by the thread
        that is awake already, and one that blocks holds up nobody.
        """
        cdef Worker worker
        if self._waking or self._closing:
            return 0
        if self._idle:
            self._waking = True
            worker = <Worker>self._idle.pop()
            worker.gate.open()
        elif len(self._workers) < self._threads_max:
            self._waking = True
            worker = Worker.__new__(Worker)
            worker.wing = self
            worker.gate = Gate.__new__(Gate)
            worker.thread = threading.Thread(
                target=worker.run, name=f"fastserve-wsgi-{len(self._workers) + 1}", daemon=True
            )
            self._workers.append(worker)
            try:
                worker.thread.start()
            except RuntimeError as error:   # the system gives no more threads
                self._waking = False
                self._workers.remove(worker)
                if not self._workers:
                    logger.critical("no thread for the application: %s", error)
                    while self._queue:
                        (<WSGICall>self._queue.popleft()).refuse()
        return 0

    cdef int64_t waiting_since(self):
        return (<WSGICall>self._queue[0]).queued_at if self._queue else 0   # threads take from it, but none while we look

    cdef WSGICall take(self, Worker worker):
        """The next call for a thread; waits for it. None: it is over."""
        cdef WSGICall call
        while True:
            if self._queue:
                call = <WSGICall>self._queue.popleft()
                if self._queue:
                    self.wake_one()
                return call
            if self._closing:
                return None
            self._idle.append(worker)
            worker.gate.wait()
            self._waking = False

    cdef int begun(self, WSGICall call) except -1:
        # A thread has it: how long did it wait for one?
        cdef int64_t now = precise_now()
        cdef int64_t queued = now - call.queued_at
        cdef Exchange exchange = call.exchange
        self.calls += 1
        self._queued_ns += queued
        if queued > self._queued_ns_max:
            self._queued_ns_max = queued
        if exchange is not None and exchange.timed:
            exchange.moments[<int>HANDLER_AT] = now
        call.environ[QUEUE_SECONDS] = queued / 1e9
        if queued > WARN_AFTER and now - self._warned_at > WARN_EVERY:
            self._warned_at = now
            logger.warning("a request waited %.1f s for one of %d threads, %d more are waiting: see --threads",
                           queued / 1e9, len(self._workers), len(self._queue))
        return 0

    # --- from the threads to the loop ---

    cdef bint tell(self, WSGICall call) except -1:
        """From any thread: the loop shall look at this call. False: there is no loop any more."""
        if not call.told:
            call.told = True
            self._told.append(call)
        if not self._loop_told:
            self._loop_told = True
            try:
                self.loop.call_soon_threadsafe(self._listen)
            except RuntimeError:   # it was closed
                self._loop_told = False
                call.gone = True
                return False
        return True

    def listen(self):
        """On the loop: all that the threads have said since it was woken."""
        cdef WSGICall call
        cdef list told = self._told
        self._told = []
        self._loop_told = False
        self.crossings += 1
        for call in told:
            call.told = False
            try:
                call.heard()
            except Exception:   # the others have something to say too
                logger.exception("the WSGI interface failed")


# ------------------------------------------------------------------------------------------------------ one call


@cython.final
@cython.freelist(16)
cdef class Write:
    """What start_response returns (PEP 3333): sends a piece of the body before the application has returned.

    An object of its own, and not a method of the call: nearly nobody calls it, and it costs a quarter of one to make.
    """
    cdef WSGICall call

    def __call__(self, data, /):
        self.call._write(data)


@cython.final
cdef class WSGICall(Call):
    """One call of the application; to the application it is start_response (PEP 3333)."""
    cdef WSGIHandler wing
    cdef Exchange exchange        # the loop's alone; None once it is over
    cdef object base_context      # the application runs in a copy of this contextvars.Context
    cdef RequestBody body         # the loop's alone; None: all of it is in `input`
    cdef dict environ
    cdef object method, target    # of the request, for the log
    cdef Input input
    cdef int64_t queued_at
    cdef Trace trace              # None: nobody asks where it waits
    cdef bint inline              # it runs on the loop
    cdef bint head_request
    # --- what the application stated ---
    cdef bint stated              # start_response was called
    cdef unsigned status
    cdef bytes reason
    cdef object headers
    cdef int64_t declared         # Content-Length; -1: none
    # --- its body ---
    cdef object result            # what it returned; closed at the end
    cdef object source            # the iterator of that
    cdef bint single              # of one piece
    cdef int64_t limit            # bytes of a file that are to be sent, and one; 0: none
    cdef int64_t file_count       # bytes the kernel can send
    cdef int64_t file_offset      # from here
    cdef int file_fd              # of this; the file is closed with the result
    cdef bint file_asked          # the thread asks the loop to send it,
    cdef bint file_sent           # and that was its answer
    cdef uint64_t sent            # bytes handed over
    cdef int64_t length           # Content-Length that we found
    cdef bint head_out            # the head was handed over: it is too late to change it
    cdef bint finished            # the application has nothing more to say
    # --- from the thread to the loop ---
    cdef bint told                # it is on the wing's list
    cdef object pieces            # deque of bytes, or None
    cdef size_t ahead             # bytes in it
    cdef bint whole               # complete: all of the body is in `pieces`, or has been
    cdef bint failed              # the answer cannot be completed
    cdef bint complained          # about what the application did
    # --- from the loop to the thread ---
    cdef bint gone                # the peer left, or the exchange is over: nobody takes a stream any more
    cdef bint waiting             # the thread is at the gate
    cdef Gate gate
    cdef bint draining            # the loop waits for the peer
    # --- of a call on the loop ---
    cdef object context           # contextvars.Context
    cdef object spool             # file of what write() was given and the peer did not take; None: nothing

    # --- start_response ---

    def __call__(self, status, headers, exc_info=None):
        """start_response(status, headers, exc_info=None): state the head of the response. Returns write()."""
        cdef Write write
        if exc_info is not None:
            try:
                if self.head_out:
                    raise exc_info[1].with_traceback(exc_info[2])
            finally:
                exc_info = None   # leave no circle of frames behind
        elif self.stated:
            raise LocalProtocolError("start_response was called twice, the second time without exc_info")
        if self.finished:
            raise LocalProtocolError("start_response was called when the response was over")
        self._state(status, headers)
        write = Write.__new__(Write)
        write.call = self
        return write

    cdef int _state(self, object status, object headers) except -1:
        cdef tuple known = self.wing._statuses.get(status) if type(status) is str else None
        cdef int64_t declared = -1
        cdef const uint8_t *n
        cdef const uint8_t *v
        cdef Py_ssize_t name_len, value_len
        if known is None:
            known = _read_status(status)
            if len(self.wing._statuses) < STATUSES_MAX:
                self.wing._statuses[status] = known
        if not isinstance(headers, (list, tuple)):
            raise TypeError(f"the headers of start_response are a list, not {type(headers).__name__}")
        headers = list(headers)   # whoever called may change his
        for pair in headers:
            if type(pair) is not tuple or len(<tuple>pair) != 2:
                raise TypeError(f"a header is a tuple of two str, not {pair!r}")
            name, value = <tuple>pair
            if type(name) is not str or type(value) is not str:
                raise TypeError(f"a header is a tuple of two str, not {pair!r}")
            if PyUnicode_KIND(name) != 1 or PyUnicode_KIND(value) != 1:
                raise LocalProtocolError(f"a header holds latin-1 only (PEP 3333, Unicode issues): {pair!r}")
            n = PyUnicode_1BYTE_DATA(name)
            v = PyUnicode_1BYTE_DATA(value)
            name_len = PyUnicode_GET_LENGTH(name)
            value_len = PyUnicode_GET_LENGTH(value)
            if name_len == 0 or fs_scan.token(n, n + name_len) != n + name_len:
                raise LocalProtocolError(f"not a field name (RFC 9110 section 5.1): {name!r}")
            if value_len and fs_scan.value(v, v + value_len) != v + value_len:
                raise LocalProtocolError(f"CR, LF, NUL or another control in the value of {name}: {value!r}")
            if name_len == 14:
                if fs_text_equal(n, name_len, b"content-length", 14):
                    declared = _read_length(declared, <str>value)
            elif name_len == 17:
                if fs_text_equal(n, name_len, b"transfer-encoding", 17) and value.lower() != "chunked":
                    raise LocalProtocolError(f"transfer codings are the server's (PEP 3333): {value!r}")
            elif name_len == 2 or name_len == 7 or name_len == 8 or name_len == 16 or name_len == 18 or name_len == 19:
                if name.lower() in FORBIDDEN:
                    raise LocalProtocolError(f"{name} is a hop-by-hop field, and those are the server's (PEP 3333)")
        self.status = known[0]
        self.reason = known[1]
        self.headers = headers
        self.declared = declared
        self.stated = True
        return 0

    cdef int _write(self, object data) except -1:
        if self.finished:
            raise LocalProtocolError("write() was called when the response was over")
        if not self._piece(data) and not self.head_request:
            raise LocalProtocolError("write() was given more than Content-Length declared")
        return 0

    # --- the application, in either place ---

    cdef bint _call(self) except -1:
        """Call it. True: that was all of it, and it is handed over. False: `source` is to be stepped."""
        cdef object result, kind, holder
        if self.inline:
            holder = _leave_loop(self.wing.loop)
            try:
                result = self.wing.app(self.environ, self)
            finally:
                _enter_loop(self.wing.loop, holder)
        else:
            result = self.wing.app(self.environ, self)
        kind = type(result)
        self.result = result
        if (kind is list or kind is tuple) and not self.head_out:
            self._whole(_joined(result))
            return True
        if kind is FileWrapper:
            self._open_file(<FileWrapper>result)
        else:
            try:
                self.single = len(result) == 1
            except TypeError:
                pass
        self.source = iter(result)
        return False

    cdef int _open_file(self, FileWrapper wrapper) except -1:
        # PEP 3333: a file is sent "from the current position" to its end, or until Content-Length bytes are sent.
        cdef int64_t remaining = wrapper.remaining(&self.file_fd, &self.file_offset)
        if self.stated and not self.head_out:
            # What is written through the descriptor is what is there now; of a file that is too short all is sent.
            self.file_count = remaining if self.declared < 0 else min(self.declared, remaining)
            if self.declared < 0:
                self.length = remaining
            if self.declared >= 0:
                self.limit = self.declared + 1
            elif remaining >= 0:
                self.limit = remaining + 1   # it may be growing
        return 0

    cdef bint _send_file(self) except -1:
        """Have the kernel send the file. False: this wire has no sendfile(), or nobody gets a body; it is to be read."""
        if self.file_count <= 0 or self.head_request or self.gone:
            return False
        self._commit(-1)
        if self.inline:
            self.file_sent = self.exchange.send_file(self.file_fd, self.file_offset, self.file_count)
        else:
            self.gate = Gate.__new__(Gate)
            self.waiting = True
            self.file_asked = True
            if not self.wing.tell(self):
                raise ClientDisconnected("the server has stopped")
            self.gate.wait()
            if self.gone:
                raise ClientDisconnected()
        if self.file_sent:
            self.sent = self.file_count
        return self.file_sent

    cdef int _commit(self, int64_t length) except -1:
        # The first byte, or the end, has come: the head is final now.
        if not self.stated:
            raise LocalProtocolError("the application gave its body without calling start_response")
        self.head_out = True
        if self.declared >= 0:
            self.length = -1   # it is among the headers
        elif self.length < 0:
            self.length = length
        if self.inline:
            self._start()
        return 0

    cdef bint _piece(self, object piece) except -1:
        """Hand over a piece of the body, when there is room. False: no more is wanted."""
        cdef bytes data
        cdef Py_ssize_t size
        if not PyBytes_CheckExact(piece):
            if not isinstance(piece, bytes):
                raise TypeError(f"a piece of the body is bytes (PEP 3333), not {type(piece).__name__}")
            piece = bytes(piece)
        data = <bytes>piece
        size = PyBytes_GET_SIZE(data)
        if size == 0:
            return True
        if self.gone:
            raise ClientDisconnected()
        if self.limit:
            # A file: what it has beyond the length is not a fault.
            if self.sent + size >= <uint64_t>self.limit:
                size = self.limit - 1 - self.sent
                data = data[:size]
        if not self.head_out:
            self._commit(size if self.single else -1)
        if self.head_request or self.status == 204 or self.status == 205 or self.status == 304:
            return False   # nobody gets a body: an endless stream would run for nobody
        self.sent += size
        if self.inline:
            if self.spool is None and (self.source is not None or self.sent <= WRITTEN_MAX or self.exchange.writable()):
                self.exchange.write(data)
            else:
                # write(), and nobody can wait for the peer here: memory is for what it takes soon, a file for the rest.
                if self.spool is None:
                    self.spool = tempfile.TemporaryFile()
                self.spool.write(data)
        elif size:
            self._put(data, size)
            while self.ahead >= HIGH and not self.gone:
                if self.gate is None:
                    self.gate = Gate.__new__(Gate)
                self.waiting = True
                self.gate.wait()
        if self.limit:
            return self.sent < <uint64_t>self.limit - 1
        return self.declared < 0 or self.sent <= <uint64_t>self.declared

    cdef int _put(self, bytes data, Py_ssize_t size) except -1:
        if self.pieces is None:
            self.pieces = new_deque()
        self.pieces.append(data)
        self.ahead += size
        if not self.wing.tell(self):
            raise ClientDisconnected("the server has stopped")
        return 0

    cdef int _whole(self, bytes data) except -1:
        # All of the body at once: it leaves with its head, in one write, whether the peer still sends or not.
        cdef Py_ssize_t size = PyBytes_GET_SIZE(data)
        if self.inline and self.stated and self.exchange is not None and size and (self.declared < 0 or self.declared == size):
            self.head_out = self.whole = self.finished = True
            self.exchange.reason = self.reason
            self.exchange.send(self.status, self.headers, data)
            self.headers = None
            return 0
        # RFC 9110 section 8.6: the length of a 304, or in answer to HEAD, is that of what a GET would have got.
        self._commit(-1 if size == 0 and (self.head_request or self.status == 304) else size)
        self.whole = True
        self.finished = True
        if self.inline:
            if size:
                self.exchange.write(data)
            self.exchange.end()
        elif size:
            self._put(data, size)
        else:
            self.wing.tell(self)
        return 0

    cdef int _end(self) except -1:
        # The iterator is exhausted.
        if not self.head_out:
            self._commit(-1 if self.head_request or self.status == 304 else 0)
        self.finished = True
        if self.inline:
            self.exchange.end()
        else:
            self.whole = True
            self.wing.tell(self)
        return 0

    cdef int _raised(self, object error) except -1:
        # By the application, or by us about it. It is answered with 500 if that is still possible.
        self.finished = True
        if self.trace is not None:
            self.trace.outcome = RAISED
        if self.gone and isinstance(error, ClientDisconnected):
            logger.debug("%s: the client left", self._line())
        else:
            self.complain(error)
        self.failed = True
        if self.inline:
            self._settle()
        else:
            self.wing.tell(self)
        return 0

    cdef str _line(self):
        if self.environ is None:   # a thread has ended it, and the loop complains
            return f"{self.method} {self.target}"
        return f"{self.environ.get(REQUEST_METHOD)} {self.environ.get(RAW_URI)}"

    cdef int complain(self, object error) except -1:
        if isinstance(error, LocalProtocolError):
            if self.complained:   # write() and the exchange say the same
                return 0
            self.complained = True
            logger.error("%s: %s", self._line(), error)
        else:
            logger.error("%s: %s", self._line(), "the application failed", exc_info=error)
        self.wing.tell_exception(error)
        return 0

    cdef int _close(self) except -1:
        # PEP 3333: close() is called "upon completion of the current request, whether the request was completed normally,
        # or terminated early".
        cdef object result = self.result
        cdef object holder = None
        cdef bint left = False
        self.finished = True
        self.result = self.source = None
        if self.spool is not None:
            self.spool.close()
            self.spool = None
        if result is not None and type(result) is not list and type(result) is not tuple:
            try:
                close = getattr(result, "close", None)
                if close is not None:
                    if self.inline:
                        holder = _leave_loop(self.wing.loop)
                        left = True
                    close()
            except BaseException as error:
                logger.error("%s: close() failed", self._line(), exc_info=error)
                self.wing.tell_exception(error)
            finally:
                if left:
                    _enter_loop(self.wing.loop, holder)
        if self.body is not None and not self.input._ended:
            # An application that keeps wsgi.input must not wait for ever, nor take the body for complete.
            if self.input._error is None:
                self.input._error = ClientDisconnected("the request is over")
            self.input._call = None
        self.input = None
        if not self.inline and self.environ is not None:
            self.method = self.environ.get(REQUEST_METHOD)
            self.target = self.environ.get(RAW_URI)
        self.environ = None
        return 0

    # --- in a thread ---

    cdef int run(self) except -1:
        """From the queue to the end, in the thread that took it."""
        cdef object context = PyContext_Copy(self.base_context)
        cdef int64_t began = 0
        if self.trace is not None:
            began = precise_now()
            lens_thread.trace = self.trace
        PyContext_Enter(context)
        try:
            self.wing.begun(self)
            try:
                if self.exchange is None:
                    raise ClientDisconnected()   # the connection was lost while the call queued
                if not self._call():
                    if not self._send_file():
                        while True:
                            piece = next(self.source, END)
                            if piece is END or not self._piece(piece):
                                break
                    self._end()
            except BaseException as error:
                self._raised(error)
            self._close()
        except BaseException:
            logger.exception("the WSGI interface failed")
            self.failed = True
            self.wing.tell(self)
        finally:
            if self.trace is not None:
                lens_thread.trace = None
                self.trace.ran(self.queued_at, began, WSGI_THREAD)
            PyContext_Exit(context)
        return 0

    # --- on the loop: what the thread has said ---

    cdef int heard(self) except -1:
        if self.input is not None and self.input._wanted:
            self._feed()
        if self.exchange is not None and not self.draining:
            self._settle()
        return 0

    cdef int _start(self) except -1:
        cdef Exchange exchange = self.exchange
        if exchange is None:
            raise ClientDisconnected()
        exchange.reason = self.reason
        exchange.start(self.status, self.headers, self.length)
        self.headers = None
        return 0

    cdef int _settle(self) except -1:
        # Bring the exchange to where the application is, as far as the peer lets us.
        cdef Exchange exchange = self.exchange
        cdef bytes data
        if exchange is None:
            return 0
        try:
            if not exchange.ended and not self.inline:
                if self.head_out and not exchange.started:
                    self._start()
                if self.file_asked:
                    self.file_asked = False
                    self.file_sent = exchange.send_file(self.file_fd, self.file_offset, self.file_count)
                while self.pieces:
                    if not exchange.writable():
                        self._drain()
                        return 0
                    data = <bytes>self.pieces.popleft()
                    self.ahead -= PyBytes_GET_SIZE(data)
                    exchange.write(data)
                if self.whole and not exchange.ended:
                    exchange.end()
        except Exception as error:
            if not isinstance(error, ClientDisconnected):
                self.complain(error)
            self.failed = True
        if self.failed and not exchange.ended:
            if self.gone:
                exchange.cut()
            else:
                exchange.fail(500)
        if exchange.ended:
            self._over()
        elif self.waiting and self.ahead <= LOW:
            self._wake()
        return 0

    cdef int _drain(self) except -1:
        self.draining = True
        try:
            future = self.exchange.drained()
        except ClientDisconnected:
            return self._over()
        future.add_done_callback(self._drained)
        return 0

    def _drained(self, future):
        """The peer has taken what it was sent, or has left."""
        if not future.cancelled():
            future.exception()   # it is in `gone` as well
        self.draining = False
        if self.inline:
            self._turn_in_context()
        elif self.exchange is not None:
            self._settle()

    cdef int _over(self) except -1:
        # The exchange has ended, or will never: let go of it, and the thread go on.
        self.exchange = None
        self.gone = True
        if self.pieces is not None:
            self.pieces.clear()
        self.ahead = 0
        return self._wake()

    cdef int _wake(self) except -1:
        if self.waiting:
            self.waiting = False
            self.gate.open()
        return 0

    cdef int refuse(self) except -1:
        # There is no thread for it.
        self.finished = True
        self.environ = None
        if self.exchange is not None:
            self.exchange.fail(503)
            self.exchange = None
        return 0

    cdef int disconnected(self, Exchange exchange) except -1:
        self.gone = True
        self._wake()
        if exchange.ended:
            self._over()
        if self.inline and not self.finished:
            self.wing.loop.call_soon(self._turn_in_context)
        return 0

    # --- on the loop: the request body ---

    cdef int _feed(self) except -1:
        # The thread has read all that it was given.
        cdef Input source = self.input
        cdef Py_ssize_t total = 0
        if source is None:
            return 0   # the call is over
        source._wanted = False
        try:
            while total < HAND_OVER:
                data = self.body.take()
                if data is None:
                    break
                if not data:
                    source._ended = True
                    break
                source._pieces.append(data)
                total += PyBytes_GET_SIZE(<bytes>data)
        except Exception as error:
            source._error = error
        if total == 0 and not source._ended and source._error is None:
            try:
                self.body.wait().add_done_callback(self._fed)
                return 0
            except Exception as error:
                source._error = error
        return source.wake()

    def _fed(self, future):
        """A piece has come, or none will."""
        self._feed()

    # --- on the loop: the application itself ---

    cdef int begin_inline(self) except -1:
        cdef object context = PyContext_Copy(self.base_context)
        cdef Exchange exchange = self.exchange
        cdef Trace trace = self.trace
        PyContext_Enter(context)
        if trace is not None:
            trace.outcome = RETURNED
            trace.enter(self.wing.app)
            lens_thread.trace = trace
        try:
            if exchange.timed:
                exchange.moments[<int>HANDLER_AT] = precise_now()
            try:
                if not self._call():
                    if self.sent > WRITTEN_MAX and not exchange.writable():
                        self.wing.inline = False
                        logger.warning("the application writes more through write() than a client takes at once, and "
                                       "nothing can wait for it on the event loop: from now on it runs in threads")
                    if self.spool is not None:
                        self.spool.seek(0)
                    self.context = context
                    self._turn()
                    return 0
            except BaseException as error:
                self._raised(error)
                if isinstance(error, KeyboardInterrupt):
                    raise
            finally:
                if self.source is None:
                    self._close()
                    self.exchange = None
        finally:
            if trace is not None:
                self._slice_over(trace)
            PyContext_Exit(context)
        return 0

    cdef int _slice_over(self, Trace trace) except -1:
        lens_thread.trace = None
        if self.source is None:
            trace.end()
        else:
            trace.suspend(None, None)
        return 0

    cdef int _turn(self) except -1:
        # Step the iterator while the peer takes what it gives, and not for so long that others wait.
        cdef int steps = 0
        try:
            while not self.gone:
                if not self.exchange.writable():
                    return self._drain()
                if steps == TURN:
                    self.wing.loop.call_soon(self._turn_in_context)
                    return 0
                steps += 1
                if self.spool is not None:
                    data = self.spool.read(BLOCK)   # counted when it was written
                    if data:
                        self.exchange.write(data)
                        continue
                    self.spool.close()
                    self.spool = None
                if self._send_file():
                    self._end()
                    break
                self.file_count = 0   # asked once
                holder = _leave_loop(self.wing.loop)
                try:
                    piece = next(self.source, END)
                finally:
                    _enter_loop(self.wing.loop, holder)
                if piece is END or not self._piece(piece):
                    self._end()
                    break
            else:
                raise ClientDisconnected()
        except BaseException as error:
            self._raised(error)
            if isinstance(error, KeyboardInterrupt):
                raise
        self._close()
        self.exchange = None
        return 0

    def _turn_in_context(self):
        """The next turn, in the context of the request."""
        if self.source is None or self.draining and not self.gone:
            return
        cdef Trace trace = self.trace
        PyContext_Enter(self.context)
        if trace is not None:
            trace.enter(None)
            lens_thread.trace = trace
        try:
            self._turn()
        finally:
            if trace is not None:
                self._slice_over(trace)
            PyContext_Exit(self.context)


# ------------------------------------------------------------------------------------- what the application says


# PEP 3333: "Applications and middleware are forbidden from using HTTP/1.1 "hop-by-hop" features or headers". Connection,
# Keep-Alive and "Transfer-Encoding: chunked" are not here: applications send them all the time, and Exchange knows what to
# do with them (of Connection it obeys `close`, the rest is dropped).
cdef frozenset FORBIDDEN = frozenset((
    "te", "trailer", "trailers", "upgrade", "proxy-connection", "proxy-authenticate", "proxy-authorization",
))


cdef tuple _read_status(object status):
    # (code, reason phrase or None for the registered one) of "200 OK".
    cdef bytes reason, registered
    cdef const uint8_t *p
    if type(status) is not str:
        raise TypeError(f"a status is str (PEP 3333), not {type(status).__name__}")
    code = status[:3]
    if len(code) != 3 or not code.isascii() or not code.isdigit() or (len(status) > 3 and status[3] != " "):
        raise LocalProtocolError(f"not a status such as '200 OK': {status!r}")
    if int(code) < 200:
        raise LocalProtocolError(f"not the status of a final response: {status!r}")
    if PyUnicode_KIND(status) != 1:
        raise LocalProtocolError(f"a reason phrase holds latin-1 only: {status!r}")
    reason = status[4:].strip(" ").encode("latin-1")
    p = <const uint8_t *>PyBytes_AS_STRING(reason)
    if reason and fs_scan.value(p, p + len(reason)) != p + len(reason):
        raise LocalProtocolError(f"CR, LF, NUL or another control in the reason phrase: {status!r}")
    registered = <bytes>fs_status_reason(int(code))
    return int(code), None if not reason or reason == registered else reason


cdef int64_t _read_length(int64_t before, str value) except -2:
    cdef const uint8_t *p = PyUnicode_1BYTE_DATA(value)
    cdef Py_ssize_t length = PyUnicode_GET_LENGTH(value)
    cdef Py_ssize_t i
    cdef int64_t declared = 0
    if not 0 < length < 19:
        raise LocalProtocolError(f"not a Content-Length: {value!r}")
    for i in range(length):
        if not 48 <= p[i] <= 57:
            raise LocalProtocolError(f"not a Content-Length: {value!r}")
        declared = declared * 10 + (p[i] - 48)
    if before >= 0 and before != declared:
        raise LocalProtocolError("two values of Content-Length")
    return declared


cdef bytes _joined(object pieces):
    # The body that a list or tuple is.
    if type(pieces) is list and len(<list>pieces) == 1 and type((<list>pieces)[0]) is bytes:
        return <bytes>(<list>pieces)[0]
    for piece in pieces:
        if type(piece) is not bytes and not isinstance(piece, bytes):
            raise TypeError(f"a piece of the body is bytes (PEP 3333), not {type(piece).__name__}")
    return b"".join(pieces)
