"""LineWriter: whole lines to a file, a pipe, a terminal or syslog, by a thread that runs no Python.

Room:    side wing. A disk or a reader may be slow, or stand still: no request waits for it.
Called:  by AccessLog, some times a second. Calls: the C library.
Rules:   POSIX write(2): what goes to a pipe in one write of at most PIPE_BUF bytes is not mixed with other writers' bytes,
         so lines to a pipe leave in such pieces; files are opened with O_APPEND. RFC 3164 section 4.1 (syslog's PRI).

The thread needs no GIL: neither does it wait for the event loop, nor the loop for it. It has the descriptor to itself.
"""

import errno
import os
import select
import socket
import stat

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE

cimport fastserve.protocol.thread  # its C comes before what is here

cdef extern from *:
    """
    #include <errno.h>
    #include <fcntl.h>
    #include <limits.h>
    #include <poll.h>
    #include <stdint.h>
    #include <stdlib.h>
    #include <string.h>
    #include <sys/socket.h>
    #include <time.h>
    #include <unistd.h>

    enum { FS_WAITING_MAX = 4 << 20 }; /* bytes held for a reader that is slow */

    struct fs_line_writer {
      pthread_mutex_t lock;
      pthread_cond_t more, less;
      uint8_t *waiting;
      size_t waiting_len, waiting_cap;
      uint64_t dropped;
      char *path; /* of what can be opened again, or NULL */
      int fd, error;
      bool datagrams, begun, own_files, reopen, busy, stop, ended, left;
      size_t piece_max;
      char prefix[64];
      size_t prefix_len;
      pid_t owner;
    };

    /* One write, whole. False: it cannot be written, or we have been told to stop and nobody takes it. */
    static bool fs_lines_put(fs_line_writer *w, const uint8_t *data, size_t len) {
      while (len > 0) {
        ssize_t n = write(w->fd, data, len);
        if (n >= 0) {
          data += n;
          len -= (size_t)n;
        } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
          struct pollfd end = {w->fd, POLLOUT, 0};
          poll(&end, 1, 200);
          if (__atomic_load_n(&w->left, __ATOMIC_RELAXED)) return false;
        } else if (errno != EINTR) {
          w->error = errno;
          return false;
        }
      }
      return true;
    }

    static size_t fs_lines_count(const uint8_t *data, size_t len) {
      size_t lines = 0;
      const uint8_t *end = data + len;
      while ((data = memchr(data, '\\n', (size_t)(end - data)))) lines++, data++;
      return lines;
    }

    /* To syslog: a datagram per line, "<PRI>tag[pid]: " before it. A daemon that was restarted is connected to again. */
    static size_t fs_lines_datagrams(fs_line_writer *w, const uint8_t *data, size_t len, const struct sockaddr *to, socklen_t to_len) {
      static _Thread_local uint8_t message[8192];
      size_t lost = 0;
      while (len > 0) {
        const uint8_t *end = memchr(data, '\\n', len);
        size_t line = end ? (size_t)(end - data) : len;
        size_t used = line < sizeof message - w->prefix_len ? line : sizeof message - w->prefix_len;
        memcpy(message, w->prefix, w->prefix_len);
        memcpy(message + w->prefix_len, data, used);
        if (send(w->fd, message, w->prefix_len + used, MSG_NOSIGNAL) < 0
            && (connect(w->fd, to, to_len) < 0 || send(w->fd, message, w->prefix_len + used, MSG_NOSIGNAL) < 0)) {
          w->error = errno;
          lost++;
        }
        line += end ? 1 : 0;
        data += line;
        len -= line;
      }
      return lost;
    }

    static void fs_lines_free(fs_line_writer *w) {
      free(w->path);
      free(w->waiting);
      pthread_mutex_destroy(&w->lock);
      pthread_cond_destroy(&w->more);
      pthread_cond_destroy(&w->less);
      free(w);
    }

    /* The file that has the name now. A FIFO that nobody reads is an error, not a wait. */
    static void fs_lines_open(fs_line_writer *w) {
      int fd = open(w->path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOCTTY | O_NONBLOCK, 0644);
      if (fd < 0) {
        w->error = errno;
        return;
      }
      close(w->fd);
      w->fd = fd;
    }

    static void *fs_lines_thread(void *argument) {
      fs_line_writer *w = argument;
      uint8_t *data = 0;
      size_t len, cap = 0;
      struct sockaddr_storage to;
      socklen_t to_len = sizeof to;
      if (w->datagrams && getpeername(w->fd, (struct sockaddr *)&to, &to_len) < 0) to_len = 0;
      bool own_files = fs_thread_settle("fs-log", w->fd);
      pthread_mutex_lock(&w->lock);
      w->own_files = own_files;
      w->begun = true;
      for (;;) {
        w->busy = false;
        pthread_cond_broadcast(&w->less);
        while (!w->stop && w->waiting_len == 0 && !w->reopen) pthread_cond_wait(&w->more, &w->lock);
        if (w->reopen) { /* what waits goes to the new one */
          w->reopen = false;
          w->busy = true;
          pthread_mutex_unlock(&w->lock);
          fs_lines_open(w);
          pthread_mutex_lock(&w->lock);
          continue;
        }
        if (w->waiting_len == 0) {
          if (w->stop) break;
          continue;
        }
        uint8_t *swap = w->waiting;
        size_t swap_cap = w->waiting_cap;
        w->waiting = data;
        w->waiting_cap = cap;
        data = swap;
        cap = swap_cap;
        len = w->waiting_len;
        w->waiting_len = 0;
        w->busy = true;
        pthread_mutex_unlock(&w->lock);

        size_t lost = 0;
        if (w->datagrams) {
          lost = fs_lines_datagrams(w, data, len, (struct sockaddr *)&to, to_len);
        } else {
          size_t done = 0;
          while (done < len) {
            size_t size = len - done;
            if (w->piece_max && size > w->piece_max) { /* as many whole lines as fit, or one that is longer */
              const uint8_t *end = memrchr(data + done, '\\n', w->piece_max);
              if (!end) end = memchr(data + done, '\\n', size);
              if (end) size = (size_t)(end - (data + done)) + 1;
            }
            if (!fs_lines_put(w, data + done, size)) {
              lost = fs_lines_count(data + done, len - done);
              break;
            }
            done += size;
          }
        }
        if (cap > 1 << 20) {
          free(data);
          data = 0;
          cap = 0;
        }
        pthread_mutex_lock(&w->lock);
        w->dropped += lost;
      }
      pthread_mutex_unlock(&w->lock); /* a file system may write what it has only now, and whoever ends us does not wait for that */
      close(w->fd);
      pthread_mutex_lock(&w->lock);
      bool left = w->left;
      w->ended = true;
      pthread_cond_broadcast(&w->less);
      pthread_mutex_unlock(&w->lock);
      free(data);
      if (left) fs_lines_free(w);
      return 0;
    }

    /* Takes `fd`, unless it fails. path: what fs_lines_reopen() opens, or NULL. */
    static int fs_lines_start(fs_line_writer **out, int fd, const char *path, bool datagrams, size_t piece_max, const char *prefix,
                              size_t prefix_len) {
      fs_line_writer *w = calloc(1, sizeof *w);
      pthread_condattr_t clock;
      int error;
      *out = 0;
      if (!w) return ENOMEM;
      w->fd = fd;
      w->datagrams = datagrams;
      w->piece_max = piece_max;
      w->owner = getpid();
      w->prefix_len = prefix_len < sizeof w->prefix ? prefix_len : sizeof w->prefix;
      memcpy(w->prefix, prefix, w->prefix_len);
      pthread_mutex_init(&w->lock, 0);
      pthread_condattr_init(&clock);
    #ifndef __APPLE__
      pthread_condattr_setclock(&clock, CLOCK_MONOTONIC);
    #endif
      pthread_cond_init(&w->more, 0);
      pthread_cond_init(&w->less, &clock);
      pthread_condattr_destroy(&clock);
      error = path && !(w->path = strdup(path)) ? ENOMEM : fs_thread_start(0, 128 * 1024, fs_lines_thread, w);
      if (error) {
        fs_lines_free(w);
        return error;
      }
      pthread_mutex_lock(&w->lock);
      while (!w->begun) pthread_cond_wait(&w->less, &w->lock);
      if (w->own_files) close(fd); /* the thread has a copy */
      pthread_mutex_unlock(&w->lock);
      *out = w;
      return 0;
    }

    static bool fs_lines_give(fs_line_writer *w, const uint8_t *data, size_t len, uint64_t lines) {
      bool taken = false;
      pthread_mutex_lock(&w->lock);
      if (!w->stop && w->waiting_len + len <= FS_WAITING_MAX) {
        taken = true;
        if (w->waiting_len + len > w->waiting_cap) {
          size_t cap = w->waiting_cap ? w->waiting_cap : 65536;
          while (cap < w->waiting_len + len) cap *= 2;
          uint8_t *grown = realloc(w->waiting, cap);
          if (grown) {
            w->waiting = grown;
            w->waiting_cap = cap;
          } else {
            taken = false;
          }
        }
      }
      if (taken) {
        memcpy(w->waiting + w->waiting_len, data, len);
        w->waiting_len += len;
        pthread_cond_signal(&w->more);
      } else {
        w->dropped += lines;
      }
      pthread_mutex_unlock(&w->lock);
      return taken;
    }

    /* The same, but where nothing waits the buffers change hands instead: `data` is then an empty one, or NULL. */
    static bool fs_lines_swap(fs_line_writer *w, uint8_t **data, size_t *cap, size_t len, uint64_t lines) {
      bool swapped = false;
      pthread_mutex_lock(&w->lock);
      if (!w->stop && w->waiting_len == 0 && len <= FS_WAITING_MAX) {
        uint8_t *empty = w->waiting;
        size_t empty_cap = w->waiting_cap;
        w->waiting = *data;
        w->waiting_cap = *cap;
        w->waiting_len = len;
        *data = empty;
        *cap = empty_cap;
        swapped = true;
        pthread_cond_signal(&w->more);
      }
      pthread_mutex_unlock(&w->lock);
      return swapped || fs_lines_give(w, *data, len, lines);
    }

    static void fs_lines_until(fs_line_writer *w, double seconds, bool end) {
      struct timespec now;
    #ifdef __APPLE__
      clock_gettime(CLOCK_REALTIME, &now);
    #else
      clock_gettime(CLOCK_MONOTONIC, &now);
    #endif
      int64_t ns = now.tv_nsec + (int64_t)(seconds * 1e9);
      now.tv_sec += ns / 1000000000;
      now.tv_nsec = ns % 1000000000;
      while (end ? !w->ended : (w->waiting_len > 0 || w->busy || w->reopen)) {
        if (pthread_cond_timedwait(&w->less, &w->lock, &now)) break;
      }
    }

    static bool fs_lines_wait(fs_line_writer *w, double seconds) {
      pthread_mutex_lock(&w->lock);
      fs_lines_until(w, seconds, false);
      bool empty = w->waiting_len == 0 && !w->busy;
      pthread_mutex_unlock(&w->lock);
      return empty;
    }

    static void fs_lines_reopen(fs_line_writer *w) {
      pthread_mutex_lock(&w->lock);
      w->reopen = true;
      pthread_cond_signal(&w->more);
      pthread_mutex_unlock(&w->lock);
    }

    static uint64_t fs_lines_dropped(fs_line_writer *w) {
      pthread_mutex_lock(&w->lock);
      uint64_t dropped = w->dropped;
      pthread_mutex_unlock(&w->lock);
      return dropped;
    }

    static int fs_lines_error(fs_line_writer *w) {
      pthread_mutex_lock(&w->lock);
      int error = w->error;
      pthread_mutex_unlock(&w->lock);
      return error;
    }

    /* The thread writes what waits and ends. After `seconds` it is left behind, and frees all when it can. */
    static void fs_lines_close(fs_line_writer *w, double seconds) {
      if (w->owner != getpid()) return; /* a fork of the application's: the thread is not in this process */
      pthread_mutex_lock(&w->lock);
      w->stop = true;
      pthread_cond_signal(&w->more);
      fs_lines_until(w, seconds, true);
      bool ended = w->ended;
      if (!ended) w->left = true;
      pthread_mutex_unlock(&w->lock);
      if (ended) fs_lines_free(w);
    }
    """
    int fs_lines_start(fs_line_writer **out, int fd, const char *path, bint datagrams, size_t piece_max, const char *prefix,
                       size_t prefix_len)
    bint fs_lines_give(fs_line_writer *w, const uint8_t *data, size_t len, uint64_t lines)
    bint fs_lines_swap(fs_line_writer *w, uint8_t **data, size_t *cap, size_t len, uint64_t lines)
    bint fs_lines_wait(fs_line_writer *w, double seconds) nogil
    void fs_lines_reopen(fs_line_writer *w)
    uint64_t fs_lines_dropped(fs_line_writer *w)
    int fs_lines_error(fs_line_writer *w)
    void fs_lines_close(fs_line_writer *w, double seconds) nogil

SYSLOG_SOCKET = "/dev/log"
PRIORITY = b"<134>"  # RFC 3164 4.1.1: facility local0 (16), severity informational (6)


cdef class LineWriter:
    """destination: "-" (standard output), the path of a file, "syslog" (/dev/log), "syslog:PATH" or "syslog:HOST:PORT" (UDP);
    or an open file descriptor, which is duplicated. OSError if it cannot be opened."""

    def __cinit__(self, destination):
        cdef int fd, error
        cdef bint datagrams = False
        cdef size_t piece_max = 0
        cdef bytes prefix = b"", path
        cdef const char *name = NULL
        self._destination = destination
        self.name = str(destination)
        if _is_syslog(destination):
            fd = _syslog(destination.partition(":")[2])
            datagrams = True
            prefix = b"%bfastserve[%d]: " % (PRIORITY, os.getpid())
        else:
            fd = _open(destination)
            if stat.S_ISFIFO(os.fstat(fd).st_mode):
                piece_max = select.PIPE_BUF
            if _has_name(destination):
                path = os.fsencode(destination)
                name = PyBytes_AS_STRING(path)
        error = fs_lines_start(&self._writer, fd, name, datagrams, piece_max, PyBytes_AS_STRING(prefix), PyBytes_GET_SIZE(prefix))
        if error:
            os.close(fd)
            raise OSError(error, "pthread_create")

    def __dealloc__(self):
        if self._writer != NULL:
            fs_lines_close(self._writer, 0.0)

    cdef int give(self, const uint8_t *data, size_t len, uint64_t lines) except -1:
        if self._writer != NULL:
            fs_lines_give(self._writer, data, len, lines)
        return 0

    cdef int swap(self, uint8_t **data, size_t *cap, size_t len, uint64_t lines) except -1:
        """As give(), of a buffer from malloc(); it may be another one afterwards, or NULL with a `cap` of 0."""
        if self._writer != NULL:
            fs_lines_swap(self._writer, data, cap, len, lines)
        return 0

    def write(self, data: bytes):
        """Whole lines, each with its end. Never blocks."""
        self.give(<const uint8_t *>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), data.count(b"\n"))

    def wait(self, double seconds) -> bool:
        """Until all is written, or for that long. True if it is."""
        cdef bint empty = True
        if self._writer != NULL:
            with nogil:
                empty = fs_lines_wait(self._writer, seconds)
        return empty

    @property
    def dropped(self) -> int:
        """Lines that were not written: too many waited, or the file could not be written."""
        return fs_lines_dropped(self._writer) if self._writer != NULL else 0

    @property
    def error(self) -> int:
        """The errno of the last write that failed, 0 if none has."""
        return fs_lines_error(self._writer) if self._writer != NULL else 0

    def reopen(self):
        """Open the file by its name again; what waits goes to the new one. OSError keeps the old one. Nothing for others."""
        if self._writer != NULL and _has_name(self._destination):
            os.close(_open(self._destination, os.O_NONBLOCK))   # can it be? By the thread then, among whose descriptors it is
            fs_lines_reopen(self._writer)

    def close(self, double seconds=1.0):
        """Write what waits; give up after `seconds`."""
        cdef fs_line_writer *writer = self._writer
        self._writer = NULL
        if writer != NULL:
            with nogil:
                fs_lines_close(writer, seconds)


def _is_syslog(destination):
    return isinstance(destination, str) and (destination == "syslog" or destination.startswith("syslog:"))


def _has_name(destination):
    return isinstance(destination, str) and destination != "-" and not _is_syslog(destination)


def _open(destination, flags=0):
    if isinstance(destination, int):
        return os.dup(destination)
    if destination == "-":
        return os.dup(1)
    return os.open(destination, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY | flags, 0o644)


def _syslog(str address):
    address = address or SYSLOG_SOCKET
    host, colon, port = address.rpartition(":")
    if address.startswith("/"):
        out = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        target = address
    elif colon and port.isdecimal():
        family, _, _, _, target = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_DGRAM)[0]
        out = socket.socket(family, socket.SOCK_DGRAM)
    else:
        raise OSError(errno.EINVAL, "syslog needs a path or HOST:PORT")
    try:
        out.connect(target)
    except OSError:
        out.close()
        raise
    return out.detach()
