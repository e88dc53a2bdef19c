"""lifeline: a thread without Python that ends this process when its supervisor is gone.

Room:    floor 3. A worker may hang in a handler that holds the GIL, and then runs no Python code at all.
Called:  by worker.py, once, after the fork. Calls: the C library.

The supervisor holds the write end of a pipe and never writes; all workers hold the read end. When the last write end is
closed, by the kernel if it must be, the read end is told. PR_SET_PDEATHSIG says the same sooner, but is lost when the
process changes its credentials later, or runs a set-user-ID program; and there is none off Linux.
"""

cimport fastserve.protocol.thread  # its C comes before what is here

cdef extern from *:
    """
    #include <errno.h>
    #include <poll.h>
    #include <stdint.h>
    #include <unistd.h>

    static void *fs_lifeline(void *argument) {
      int fd = (int)(intptr_t)argument;
      struct pollfd end = {fd, POLLIN, 0};
      char byte;
      fs_thread_settle("fs-lifeline", fd);
      for (;;) {
        if (poll(&end, 1, -1) < 0) {
          if (errno == EINTR || errno == EAGAIN) continue;
          return 0;
        }
        if (end.revents & POLLNVAL) return 0; /* the application has closed it, and it was not ours alone: PDEATHSIG is left */
        if (read(fd, &byte, 1) <= 0 && errno != EINTR && errno != EAGAIN) _exit(1);
      }
    }

    static int fs_lifeline_start(int fd) {
      return fs_thread_start(0, 128 * 1024, fs_lifeline, (void *)(intptr_t)fd);
    }
    """
    int fs_lifeline_start(int fd) nogil


def hold(int fd):
    """End this process at once, with code 1, when the other end of the pipe `fd` is closed. OSError if no thread starts."""
    cdef int error = fs_lifeline_start(fd)
    if error:
        raise OSError(error, "pthread_create")
