"""witness: a thread that tells the supervisor where this process is, while its loop does not turn.

Room:    floor 3. Called by: worker.py, once, after the fork. Calls: the interpreter, when it is asked.

It waits without Python, and with descriptors of its own (thread.pxd). Asked, it takes the GIL: safe at any moment, unlike a
signal handler that reads frames. Where the GIL is held there is no answer, and the supervisor has other means.
"""

import traceback

from fastserve.protocol.thread cimport PyGC_Disable, PyGC_Enable, PyThread_get_thread_ident, frames_of

__all__ = ["testify"]

cdef extern from *:
    """
    #include <errno.h>
    #include <poll.h>
    #include <stdint.h>

    typedef int (*fs_asked)(void); /* takes the GIL; may more come? */
    static fs_asked fs_witness_asked;

    static void *fs_witness(void *argument) {
      int fd = (int)(intptr_t)argument;
      struct pollfd end = {fd, POLLIN, 0};
      fs_thread_settle("fs-witness", fd);
      for (;;) {
        if (poll(&end, 1, -1) < 0) {
          if (errno == EINTR || errno == EAGAIN) continue;
          return 0;
        }
        if (end.revents & POLLNVAL || !fs_witness_asked()) return 0;
      }
    }

    static int fs_witness_start(int fd, fs_asked asked) {
      fs_witness_asked = asked;
      return fs_thread_start(0, 512 * 1024, fs_witness, (void *)(intptr_t)fd); /* room to call into the interpreter */
    }
    """
    ctypedef int (*fs_asked)() noexcept
    int fs_witness_start(int fd, fs_asked asked)

cdef enum:
    STACK_MAX = 8192   # characters that are told: the innermost frames

cdef object _talk = None
cdef unsigned long _main = 0


def testify(talk):
    """Answer what comes on `talk` (a Talk, of which nobody else reads) with {"stack": text}: where the thread is that calls this.
    OSError if no thread starts."""
    global _talk, _main
    cdef int error
    _talk = talk
    _main = PyThread_get_thread_ident()
    error = fs_witness_start(talk.fileno(), _asked)
    if error:
        raise OSError(error, "pthread_create")


cdef int _asked() noexcept with gil:
    cdef bint collects = PyGC_Disable()
    try:
        if _talk.hear():
            frames = [(code.co_filename, line, code.co_name, None) for code, line in frames_of(_main)]   # None: it looks up
            _talk.say({"stack": "".join(traceback.format_list(frames))[-STACK_MAX:]})
        return not _talk.ended
    except BaseException:   # memory is short, say
        return False
    finally:
        if collects:
            PyGC_Enable()
