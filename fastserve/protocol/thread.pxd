# thread: threads in C that are nobody's but the server's, each with a table of descriptors of its own.
#
# Called by: line_writer.pyx, watchdog.pyx, lifeline.pyx, witness.pyx. Calls: the C library, the kernel, the interpreter's threads.
# Rules:     close_range(2), prctl(2).
#
# A process whose threads share one table of descriptors pays for it in every system call that is given one: the kernel counts
# the file's users atomically, and takes the table's lock to open and to close. With tables of their own for the threads of the
# server the loop is alone with its table, as if there were no thread. What is called in such a thread with the GIL must not be
# the application's, whose files and sockets are not there: no collection of garbage, with its finalizers, and no frame that is
# held until it is the last reference to what was in it.
cdef extern from *:
    """
    #include <pthread.h>
    #include <signal.h>
    #include <stdbool.h>
    #include <stddef.h>
    #ifdef __linux__
    #include <sys/prctl.h>
    #include <sys/syscall.h>
    #include <unistd.h>
    #endif

    /* An errno, or 0. No signal is delivered to the thread: they are for the main one. thread: NULL for one that nobody joins. */
    static inline int fs_thread_start(pthread_t *thread, size_t stack, void *(*run)(void *), void *argument) {
      pthread_attr_t attributes;
      pthread_t detached;
      sigset_t all, before;
      int error = pthread_attr_init(&attributes);
      if (error) return error;
      if (!thread) pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
      pthread_attr_setstacksize(&attributes, stack);
      sigfillset(&all);
      pthread_sigmask(SIG_SETMASK, &all, &before);
      error = pthread_create(thread ? thread : &detached, &attributes, run, argument);
      pthread_sigmask(SIG_SETMASK, &before, 0);
      pthread_attr_destroy(&attributes);
      return error;
    }

    /* First in such a thread: its name, 15 characters of which are seen (ps -T, top -H), and its table, with a copy of `fd` and of
     * the three standard streams. False: it is not Linux 5.9, or that is forbidden, and the process's table stays this thread's,
     * too. By close_range() rather than unshare(), which containers forbid as a rule, and which copies what is then closed. */
    static inline bool fs_thread_settle(const char *name, int fd) {
    #ifdef __linux__
    #ifndef SYS_close_range
    #define SYS_close_range 436
    #endif
      unsigned kept = fd < 2 ? 2 : (unsigned)fd;
      unsigned beyond = (kept + 64) & ~63U; /* Linux before 5.15.32 loses some of a table whose end is no multiple of 64 */
      prctl(PR_SET_NAME, name);
      if (syscall(SYS_close_range, beyond, ~0U, 2U /* CLOSE_RANGE_UNSHARE */) < 0) return false;
      if (kept + 1 < beyond) syscall(SYS_close_range, kept + 1, beyond - 1, 0U);
      if (kept > 3) syscall(SYS_close_range, 3U, kept - 1, 0U);
      return true;
    #else
      (void)name, (void)fd;
      return false;
    #endif
    }
    """

cdef extern from "Python.h":
    ctypedef struct PyCodeObject:
        pass
    ctypedef struct PyFrameObject:
        pass
    ctypedef struct PyInterpreterState:
        pass
    ctypedef struct PyThreadState:
        unsigned long thread_id
    PyInterpreterState *PyInterpreterState_Get()
    PyThreadState *PyInterpreterState_ThreadHead(PyInterpreterState *interpreter)
    PyThreadState *PyThreadState_Next(PyThreadState *state)
    PyFrameObject *PyThreadState_GetFrame(PyThreadState *state)
    PyFrameObject *PyFrame_GetBack(PyFrameObject *frame)
    PyCodeObject *PyFrame_GetCode(PyFrameObject *frame)
    int PyFrame_GetLineNumber(PyFrameObject *frame)
    unsigned long PyThread_get_thread_ident()
    int PyGC_Disable()
    int PyGC_Enable()
    void fs_release "Py_DECREF" (void *thing)


cdef inline list frames_of(unsigned long ident):
    """(code, line) of that thread's frames, the outermost first; none if it has no frame, or is gone.

    sys._current_frames() and the attributes of a frame would call the application's audit hooks.
    """
    cdef PyThreadState *state = PyInterpreterState_ThreadHead(PyInterpreterState_Get())
    cdef PyFrameObject *frame
    cdef PyFrameObject *back
    cdef PyCodeObject *code
    cdef list frames = []
    while state != NULL and state.thread_id != ident:
        state = PyThreadState_Next(state)
    if state != NULL:
        frame = PyThreadState_GetFrame(state)
        while frame != NULL:
            code = PyFrame_GetCode(frame)
            frames.append((<object>code, max(PyFrame_GetLineNumber(frame), 0)))
            fs_release(code)
            back = PyFrame_GetBack(frame)
            fs_release(frame)
            frame = back
    frames.reverse()
    return frames
