"""Driver: one epoll set of our own, nested in the event loop: accepting, and plain connections without transports.

Room:    floor 1, stations 1 (accept), 2 (read) and 7 (write). Nothing here knows HTTP.
Called:  by Service, which owns it; by the event loop, through add_reader() on the epoll set, when something is ready.
         Calls Stream (a Connection), Host (the Service), Board.

The loop stays uvloop (or asyncio's), on which every coroutine, timer and library runs; the set is one descriptor to it.
What that saves per request, beside transports: objects for each read and write, context switches of the loop's callbacks;
per idle connection: its buffers. One read buffer serves all, for the bytes are parsed where they lie.

Accepting. Each worker has a slot with listeners of its own (SO_REUSEPORT spreads connections over them), and holds those
of its siblings. It accepts from its own until none waits, a few at a time, and reads each at once, so that a handler that
blocks takes nobody with it. Two things move a connection to a sibling, and both leave it in the kernel's queue, where a
dying worker cannot lose it:
 * Balance: a worker that has more connections than the emptiest sibling asks that one to take the next (Board.want).
 * Help: the supervisor sees a queue that nobody empties and lends the listener to siblings (Board.adopt).
A listener that all slots share (Unix, inherited) is watched by the workers of two slots; the others get theirs by balance.
Our own listeners are edge-triggered, or a connection that is left to a sibling would be told to us for ever. Lent ones
are level-triggered.
"""

import asyncio
import contextlib
import errno as errno_
import logging
import os
import socket
import time

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.object cimport PyObject_Length
from cpython.ref cimport Py_DECREF, Py_INCREF, PyObject
from libc.errno cimport (
    EAGAIN, ECONNABORTED, EHOSTUNREACH, EINTR, EIO, EMFILE, ENETDOWN, ENETUNREACH, ENFILE, ENOBUFS, ENOMEM, ENOPROTOOPT,
    EOPNOTSUPP, EPERM, EPROTO, errno,
)
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, strlen

from fastserve.protocol.board cimport READY, bit, take_bits
from fastserve.protocol.core cimport fs_proxy, fs_proxy_parse
from fastserve.protocol.timers cimport precise_now

cdef extern from *:
    """
    #include <errno.h>
    #include <string.h>
    #include <sys/socket.h>
    #include <sys/uio.h>
    #include <time.h>
    #include <netinet/in.h>
    #include <netinet/tcp.h>
    #include <arpa/inet.h>
    #include <poll.h>
    #include <unistd.h>
    #ifdef __linux__
    #include <sys/sendfile.h>
    #define fs_sendfile sendfile
    #include <sys/epoll.h>
    #define FS_HAVE_EPOLL 1
    #else /* declared so that this file compiles; Driver refuses to be made */
    #define FS_HAVE_EPOLL 0
    typedef union { void *ptr; } epoll_data_t;
    struct epoll_event { uint32_t events; epoll_data_t data; };
    enum { EPOLLIN = 1, EPOLLOUT = 4, EPOLLERR = 8, EPOLLHUP = 16, EPOLLRDHUP = 0x2000 };
    #define EPOLLET 0x80000000u
    enum { EPOLL_CTL_ADD = 1, EPOLL_CTL_DEL = 2, EPOLL_CTL_MOD = 3 };
    static inline int epoll_create1(int flags) { (void)flags; return -1; }
    static inline int epoll_ctl(int a, int b, int c, struct epoll_event *e) { (void)a; (void)b; (void)c; (void)e; return -1; }
    static inline int epoll_wait(int a, struct epoll_event *e, int n, int t) { (void)a; (void)e; (void)n; (void)t; return -1; }
    static inline int accept4(int fd, struct sockaddr *a, socklen_t *n, int flags) { (void)flags; return accept(fd, a, n); }
    static inline ssize_t fs_sendfile(int to, int from, off_t *at, size_t n) {
      (void)to; (void)from; (void)at; (void)n; errno = ENOSYS; return -1;
    }
    #define SOCK_NONBLOCK 0
    #define SOCK_CLOEXEC 0
    #endif
    #ifndef MSG_NOSIGNAL
    #define MSG_NOSIGNAL 0
    #endif
    /* recv() and send() are cancellation points of POSIX threads: with a second thread in the process, and there always is
     * one, glibc pays for that at each call. Nobody cancels us; the system call itself is asked for. */
    #if defined(__linux__) && defined(__LP64__)
    #include <sys/syscall.h>
    static inline ssize_t fs_recv(int fd, void *data, size_t size) {
      return syscall(SYS_recvfrom, fd, data, size, 0, NULL, NULL);
    }
    static inline ssize_t fs_send(int fd, const void *data, size_t size) {
      return syscall(SYS_sendto, fd, data, size, MSG_NOSIGNAL, NULL, 0);
    }
    #else
    static inline ssize_t fs_recv(int fd, void *data, size_t size) { return recv(fd, data, size, 0); }
    static inline ssize_t fs_send(int fd, const void *data, size_t size) { return send(fd, data, size, MSG_NOSIGNAL); }
    #endif

    static void fs_peer_of(const struct sockaddr_storage *from, fs_peer *peer) {
      memset(peer, 0, sizeof *peer);
      if (from->ss_family == AF_INET) {
        const struct sockaddr_in *v4 = (const struct sockaddr_in *)from;
        peer->family = 4;
        peer->port = ntohs(v4->sin_port);
        memcpy(peer->address, &v4->sin_addr, 4);
      } else if (from->ss_family == AF_INET6) {
        const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)from;
        peer->family = 6;
        peer->port = ntohs(v6->sin6_port);
        memcpy(peer->address, &v6->sin6_addr, 16);
      } else if (from->ss_family == AF_UNIX) {
        peer->family = 1;
      }
    }

    static int fs_accept(int listener, fs_peer *peer) {
      struct sockaddr_storage from;
      socklen_t size = sizeof from;
      int fd;
      from.ss_family = AF_UNIX; /* an unnamed Unix peer has no address at all */
      fd = accept4(listener, (struct sockaddr *)&from, &size, SOCK_NONBLOCK | SOCK_CLOEXEC);
      if (fd >= 0) fs_peer_of(&from, peer);
      return fd;
    }

    static int fs_waiting(int fd) { /* is there a connection to accept, or something to read? */
      struct pollfd one = {fd, POLLIN, 0};
      return poll(&one, 1, 0) > 0;
    }

    static void fs_local_of(int fd, fs_peer *local) {
      struct sockaddr_storage at;
      socklen_t size = sizeof at;
      memset(&at, 0, sizeof at);
      if (getsockname(fd, (struct sockaddr *)&at, &size) == 0) fs_peer_of(&at, local);
      else memset(local, 0, sizeof *local);
    }

    static const char *fs_peer_text(const fs_peer *peer, char *text, size_t size) { /* size: INET6_ADDRSTRLEN or more */
      if (peer->family == 4) { /* as inet_ntop() writes it; that calls sprintf(), at a tenth of what a connection costs us */
        char *p = text;
        int i;
        for (i = 0; i < 4; i++) {
          unsigned n = peer->address[i];
          if (n >= 100) *p++ = (char)('0' + n / 100);
          if (n >= 10) *p++ = (char)('0' + n / 10 % 10);
          *p++ = (char)('0' + n % 10);
          *p++ = '.';
        }
        p[-1] = 0;
        return text;
      }
      return inet_ntop(peer->family == 4 ? AF_INET : AF_INET6, peer->address, text, (socklen_t)size);
    }

    static int fs_epoll(int set, int how, int fd, uint32_t events, void *target) {
      struct epoll_event event;
      event.events = events;
      event.data.ptr = target;
      return epoll_ctl(set, how, fd, &event);
    }

    static ssize_t fs_send_pieces(int fd, struct iovec *pieces, int count, int more) {
      struct msghdr message;
      memset(&message, 0, sizeof message);
      message.msg_iov = pieces;
      message.msg_iovlen = count;
    #ifdef MSG_MORE
      return sendmsg(fd, &message, MSG_NOSIGNAL | (more ? MSG_MORE : 0));
    #else
      (void)more;
      return sendmsg(fd, &message, MSG_NOSIGNAL);
    #endif
    }

    #ifndef SO_TIMESTAMPNS
    #define SO_TIMESTAMPNS 0
    #endif

    static ssize_t fs_recv_stamped(int fd, void *data, size_t size, int64_t *came_ns) {
      /* As recv(); `came_ns`: when the last of these bytes reached this machine, by the wall clock, or 0. */
      union { struct cmsghdr align; char space[128]; } control;
      struct iovec piece = {data, size};
      struct msghdr message;
      struct cmsghdr *item;
      ssize_t got;
      memset(&message, 0, sizeof message);
      message.msg_iov = &piece;
      message.msg_iovlen = 1;
      message.msg_control = control.space;
      message.msg_controllen = sizeof control.space;
      *came_ns = 0;
      got = recvmsg(fd, &message, 0);
    #ifdef SCM_TIMESTAMPNS
      if (got > 0) {
        for (item = CMSG_FIRSTHDR(&message); item != NULL; item = CMSG_NXTHDR(&message, item)) {
          if (item->cmsg_level == SOL_SOCKET && item->cmsg_type == SCM_TIMESTAMPNS) {
            struct timespec at;
            memcpy(&at, CMSG_DATA(item), sizeof at);
            *came_ns = (int64_t)at.tv_sec * 1000000000 + at.tv_nsec;
          }
        }
      }
    #else
      (void)item;
    #endif
      return got;
    }

    #ifndef FS_UNACKED
    #define FS_UNACKED
    #include <sys/ioctl.h>
    #ifdef __linux__
    #include <linux/sockios.h>
    #endif
    static inline size_t fs_unacked(int fd) { /* of a TCP or Unix socket; 0 where nobody says */
    #ifdef SIOCOUTQ
      int bytes = 0;
      if (fd >= 0 && ioctl(fd, SIOCOUTQ, &bytes) == 0 && bytes > 0) return (size_t)bytes;
    #endif
      (void)fd;
      return 0;
    }
    #endif

    static int fs_socket_error(int fd) {
      int error = 0;
      socklen_t size = sizeof error;
      return getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) == 0 ? error : 0;
    }

    static void fs_reset_on_close(int fd) {
      struct linger now = {1, 0};
      setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof now);
    }
    """
    ctypedef struct epoll_data_t:
        void *ptr
    struct epoll_event:
        uint32_t events
        epoll_data_t data
    struct iovec:
        void *iov_base
        size_t iov_len
    const bint FS_HAVE_EPOLL
    const uint32_t EPOLLIN, EPOLLOUT, EPOLLERR, EPOLLHUP, EPOLLRDHUP, EPOLLET
    const int EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLL_CTL_MOD
    const int SHUT_WR
    int epoll_create1(int flags)
    int epoll_wait(int set, epoll_event *events, int count, int timeout)
    int fs_epoll(int set, int how, int fd, uint32_t events, void *target)
    int fs_accept(int listener, fs_peer *peer)
    bint fs_waiting(int fd) noexcept
    void fs_local_of(int fd, fs_peer *local)
    const char *fs_peer_text(const fs_peer *peer, char *text, size_t size)
    int fs_socket_error(int fd)
    const int SO_TIMESTAMPNS
    ssize_t fs_recv_stamped(int fd, void *data, size_t size, int64_t *came_ns)
    size_t fs_unacked(int fd)
    void fs_reset_on_close(int fd)
    ssize_t fs_recv(int fd, void *data, size_t size)
    ssize_t fs_send(int fd, const void *data, size_t size)
    ssize_t fs_send_pieces(int fd, iovec *pieces, int count, bint more)
    ctypedef long off_t
    ssize_t fs_sendfile(int to, int source, off_t *at, size_t size)
    ssize_t c_read "read"(int fd, void *data, size_t size)
    int c_close "close"(int fd)
    int c_shutdown "shutdown"(int fd, int how)

cdef extern from "Python.h":
    int _PyBytes_Resize(PyObject **object, Py_ssize_t size) except -1

logger = logging.getLogger("fastserve")

# Of sendfile: it is the file that cannot be read, not the peer that has left.
cdef frozenset FILE_FAULTS = frozenset({errno_.EBADF, errno_.EINVAL, errno_.EIO, errno_.ENOMEM, errno_.EOVERFLOW, errno_.ESTALE})

cdef bint HAVE_SENDFILE = FS_HAVE_EPOLL   # both are Linux's, here

cdef enum:
    EVENTS_MAX = 128          # taken from the set per turn of the loop; the rest comes with the next turn
    BUFFER_SIZE = 131072      # a head and a body of 64 KiB come in one read
    OWN_MAX = 262144          # body bytes read into an object of their own at once
    READS_MAX = 4             # full buffers read of one connection before others get their turn
    WATCHERS = 2              # slots whose workers watch a listener that is shared by all
    ACCEPTS_MAX = 16          # connections taken before those that we have get their turn
    WRITE_HIGH = 65536        # unsent bytes at which the stream is told that its peer does not keep up
    WRITE_LOW = 16384
    PIECES_MAX = 64           # of one writev
    FILE_TURN = 2097152       # bytes of files sent to one peer before others get their turn
    PROXY_LOOK = 65536        # bytes looked at for a PROXY protocol header

cdef double CHECK_SECONDS = 0.03   # that a sibling has to take what was left to it: on a busy machine it is not awake at once
cdef double PAUSE_SECONDS = 0.1    # without accepting, when there are no descriptors left


cdef class Host:
    """Who makes the Stream of an accepted connection. Implemented by Service."""

    cdef Stream welcome(self, Wire wire):
        raise NotImplementedError

    cdef object protocol(self):
        raise NotImplementedError

    cdef bint introduced(self, object peername) except -1:
        return False

    cdef object protocol_of(self, bytes header):
        raise NotImplementedError

    cdef bint full(self) except -1:
        return False

    cdef bint room(self) except -1:
        return True


async def _proxy_header(loop, sock):
    """The bytes of a PROXY protocol header, or as many as say that it is none. Nothing behind it is read."""
    sock.setblocking(False)
    header = b""
    while True:
        # One byte is waited for. What has come behind it is looked at, and taken as far as it is of the header.
        more = await loop.sock_recv(sock, 1)
        if not more:
            raise ConnectionResetError("it ended inside of a PROXY protocol header")
        header += more
        behind = b""
        with contextlib.suppress(BlockingIOError):
            behind = sock.recv(PROXY_LOOK, socket.MSG_PEEK)
        size = _proxy_size(header + behind)
        if size < 0:
            return header
        missing = (size or len(header) + len(behind)) - len(header)
        if missing:
            header += sock.recv(missing)
        if size:
            return header


cdef int _proxy_size(bytes data) noexcept:
    # 0: more is needed; -1: it is none
    cdef fs_proxy found
    return fs_proxy_parse(<const uint8_t *>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), &found)


cdef class Driver:
    """loop: an asyncio event loop with add_reader(). own_wire: plain connections on SocketWire, not on transports.

    tls: None, or an object whose `context` (ssl.SSLContext) is asked for at each connection, with `handshake_timeout` and
    `shutdown_timeout` in seconds: every connection is TLS, on the loop's transports.

    board, index: the shared board and our seat; None: nobody beside us. OSError if there is no epoll.
    """

    def __cinit__(self, loop, Host host not None, Board board=None, int index=0, *, bint own_wire=True, object tls=None):
        cdef Waker waker
        self.fd = -1
        if not FS_HAVE_EPOLL:
            raise OSError(errno_.ENOSYS, "no epoll here")
        self.loop = loop
        self.host = host
        self.board = board
        self.index = index
        self.seat = board.at(index) if board is not None else NULL
        self.slot = 0
        self.own_wire = own_wire and tls is None
        self.tls = tls
        self._by_slot = []
        self._gone = []
        self._tasks = set()
        self._told_at = float("-inf")
        self.buffer = <uint8_t *>malloc(BUFFER_SIZE)
        self.fd = epoll_create1(0o2000000)  # EPOLL_CLOEXEC
        if self.buffer == NULL or self.fd < 0:
            raise OSError(errno, "epoll_create1")
        if board is not None:
            waker = Waker.__new__(Waker)
            waker.driver = self
            waker.fd = board.wake_fd(index)
            self._waker = waker
            self.watch(waker.fd, waker, EPOLLIN, False)
        loop.add_reader(self.fd, self._ready)

    def __dealloc__(self):
        free(self.buffer)
        if self.fd >= 0:
            c_close(self.fd)

    def close(self):
        """Leave the loop. No connection may be open."""
        if self.fd >= 0:
            self.unlisten()
            for task in self._tasks:
                task.cancel()   # in the middle of a handshake
            self.loop.remove_reader(self.fd)
            c_close(self.fd)
            self.fd = -1
        self._waker = None

    # ------------------------------------------------------------------------------------- the set

    cdef int watch(self, int fd, Polled target, uint32_t events, bint again) except -1:
        # `target` is borrowed by the set: whoever asks keeps it alive until bury().
        if fs_epoll(self.fd, EPOLL_CTL_MOD if again else EPOLL_CTL_ADD, fd, events, <void *>target) != 0:
            raise OSError(errno, os.strerror(errno))
        return 0

    cdef int unwatch(self, int fd) noexcept:
        # Said expressly before each close(): a process that the application forked holds the same sockets, and the set
        # would go on telling of them.
        fs_epoll(self.fd, EPOLL_CTL_DEL, fd, 0, NULL)
        return 0

    cdef int bury(self, Polled target) except -1:
        # Closed. Events of this turn may still name it, and its stream is told behind them, never from inside its own call.
        if not self._gone and self.turn_at == 0:
            self.loop.call_soon(self._tell_the_gone)
        self._gone.append(target)
        return 0

    def _tell_the_gone(self):
        cdef list gone
        cdef SocketWire wire
        cdef Stream stream
        while self._gone:
            gone, self._gone = self._gone, []
            for target in gone:
                if type(target) is SocketWire:
                    wire = <SocketWire>target
                    stream = wire.stream
                    wire.stream = None
                    if stream is not None:
                        try:
                            stream.wire_lost(wire._error)
                        except Exception as error:
                            self._report(error)

    def _report(self, error):
        self.loop.call_exception_handler({"message": "fastserve: a connection could not be served", "exception": error})

    def _ready(self):
        """Something in the set is ready: station 1 (accept), 2 (read), 7 (write) for each of it."""
        cdef epoll_event events[EVENTS_MAX]
        cdef int count, i
        cdef Polled target
        if self.fd < 0 or self.turn_at:   # closed, or inside of this
            return
        count = epoll_wait(self.fd, events, EVENTS_MAX, 0)
        self.turn_at = precise_now()
        self.turn_before = self._whole_at
        self._whole_at = 0 if count == EVENTS_MAX else self.turn_at   # 0: there may have been more, which the next turn finds
        if self.seat != NULL:
            self.seat.busy_since_ns = self.turn_at
        try:
            for i in range(count):
                target = <Polled>events[i].data.ptr
                try:
                    target.ready(events[i].events)
                except Exception as error:
                    self._report(error)
        finally:
            self.turn_at = 0
            if self.seat != NULL:
                self.seat.busy_since_ns = 0
            if self._gone:
                self._tell_the_gone()

    # ----------------------------------------------------------------------------------- station 1: accept

    def listen(self, list by_slot, int slot, *, bint stamps=False):
        """Accept from the listeners of `slot`, and know those of the siblings. by_slot: lists of listening sockets.

        stamps: know when the bytes of a read came into the kernel (Linux: SO_TIMESTAMPNS)."""
        cdef Listener listener
        cdef dict known = {}
        self.slot = slot
        self.stamps = stamps
        for index, sockets in enumerate(by_slot):
            mine = []
            for sock in sockets:
                if sock.fileno() in known:
                    listener = known[sock.fileno()]
                    listener.shared = True
                else:
                    listener = Listener.__new__(Listener)
                    listener.driver = self
                    listener.socket = sock
                    listener.fd = sock.fileno()
                    listener.slot = index
                    known[listener.fd] = listener
                    if self.stamps:
                        sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)  # the accepted inherit this too
                    if sock.family in (socket.AF_INET, socket.AF_INET6):
                        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # Linux: the accepted inherit it
                mine.append(listener)
            self._by_slot.append(mine)
        self._accepting = True
        self._watch_listeners()

    def _watch_listeners(self):
        cdef Listener listener
        self._pause = None
        self.held = False
        if not self._accepting:
            return
        for own in self._by_slot[self.slot]:
            listener = own
            if not listener.watched and self._own(listener):
                listener.watched = True
                self.watch(listener.fd, listener, EPOLLIN | EPOLLET, False)
        self._reconcile()

    cdef bint _own(self, Listener listener) noexcept:
        # Do we accept from it by right? A shared one wakes everybody who watches it (EPOLLEXCLUSIVE does nothing in a set that
        # is nested in another), so two do, and balance gives the others their share.
        return self.slot < WATCHERS if listener.shared else listener.slot == self.slot

    def unlisten(self):
        """Stop accepting. The listeners stay open: what waits there is somebody else's to take."""
        cdef Listener listener
        self._accepting = False
        for handle in (self._pause, self._check):
            if handle is not None:
                handle.cancel()
        self._pause = self._check = None
        for listeners in self._by_slot:
            for known in listeners:
                listener = known
                if listener.watched:
                    listener.watched = listener.adopted = False
                    self.unwatch(listener.fd)
                    self.bury(listener)

    cdef int accept(self, Listener listener, bint wanted) except -1:
        # `wanted`: a sibling, or the supervisor, asks us to. Then one is taken whatever the balance.
        cdef fs_peer peer
        cdef int fd, taken = 0, best
        while self._accepting:
            if taken == ACCEPTS_MAX:
                # Others first. An edge is told once: ask again for what is left.
                if listener.watched and not listener.shared:
                    return self.watch(listener.fd, listener, EPOLLIN | EPOLLET if not listener.adopted else EPOLLIN, True)
                if self.board is not None:
                    return self.board.want(self.index, listener.slot)
                self.loop.call_soon(self._again, listener)
                return 0
            if not (wanted and taken == 0):
                best = self._whose()
                if best != self.index:
                    return self._leave_to(best, listener) if fs_waiting(listener.fd) else 0
            if self.host.full():
                if not fs_waiting(listener.fd):
                    return 0
                if not self.host.room():
                    return self._hold()
            fd = fs_accept(listener.fd, &peer)
            if fd < 0:
                if errno == EAGAIN:
                    return 0
                if errno in (EINTR, ECONNABORTED, EPROTO, EPERM, ENETDOWN, ENOPROTOOPT, EHOSTUNREACH, EOPNOTSUPP, ENETUNREACH):
                    continue  # that client's trouble, which Linux reports here (accept(2)); it is off the queue
                return self._exhausted(errno)
            taken += 1
            if self.seat != NULL:
                if listener.slot == self.slot or listener.shared:
                    self.seat.accepts += 1
                else:
                    self.seat.accepts_of_others += 1
            self._take(fd, listener, &peer)
        return 0

    def _again(self, listener):
        self.accept(listener, False)

    cdef int _leave_to(self, int seat, Listener listener) except -1:
        # The next one is that sibling's. It looked able to take it; whether it was is seen a moment later.
        self._left_at = precise_now()
        if self._check is None:
            self._first_left_at = self._left_at
            self._check = self.loop.call_later(CHECK_SECONDS, self._check_queues)
        return self.board.want(seat, listener.slot)

    def _check_queues(self):
        cdef int64_t now = precise_now()
        cdef int64_t rest = self._left_at + <int64_t>(CHECK_SECONDS * 1e9) - now
        self._check = None
        if rest > 0 and now - self._first_left_at < <int64_t>(3e9 * CHECK_SECONDS):
            # What waits may be what was left a moment ago; whoever came for that took the older ones first.
            self._check = self.loop.call_later(rest / 1e9, self._check_queues)
            return
        if self._accepting and self._pause is None:
            for listener in self._by_slot[self.slot]:
                if fs_waiting((<Listener>listener).fd):
                    self.accept(<Listener>listener, True)

    cdef int _take(self, int fd, Listener listener, fs_peer *peer) except -1:
        cdef SocketWire wire
        if not self.own_wire:
            task = self.loop.create_task(self._with_transport(socket.socket(fileno=fd)))
            self._tasks.add(task)
            task.add_done_callback(self._transport_made)
            return 0
        wire = SocketWire.__new__(SocketWire)
        wire.driver = self
        wire.fd = fd
        wire.peer = peer[0]
        try:
            return wire.start()
        except Exception as error:   # that one's trouble: those behind it in the queue are still to be taken
            self._report(error)
        return 0

    def _transport_made(self, task):
        self._tasks.discard(task)
        self.room_made()   # it was counted, and is a connection now, or nothing

    async def _with_transport(self, sock):
        tls = self.tls
        try:
            if tls is None:
                await self.loop.connect_accepted_socket(self.host.protocol, sock)
            elif self.host.introduced(sock.getpeername()):
                # The PROXY protocol's header comes in the clear, before the handshake. The loop's TLS begins at the first byte
                # that it sees, so the header is read here, to its last byte and not beyond.
                header = await asyncio.wait_for(_proxy_header(self.loop, sock), tls.handshake_timeout)
                connection = self.host.protocol_of(header)
                if connection is None:
                    raise ConnectionError("no PROXY protocol header came before it")
                await self._shake_hands(sock, lambda: connection)
            else:
                await self._shake_hands(sock, self.host.protocol)
        except OSError as error:
            sock.close()  # the peer left meanwhile, or there was no handshake: plain HTTP, an old version, no certificate
            if tls is not None:
                logger.debug("no TLS handshake: %s", error)
        except asyncio.CancelledError:
            sock.close()
            raise

    async def _shake_hands(self, sock, protocol):
        tls = self.tls
        await self.loop.connect_accepted_socket(
            protocol, sock, ssl=tls.context, ssl_handshake_timeout=tls.handshake_timeout,
            ssl_shutdown_timeout=tls.shutdown_timeout,
        )

    cdef int _whose(self) noexcept:
        # The seat that the next connection belongs to: ours, unless a sibling has clearly fewer connections and is at hand.
        cdef Seat *seat
        cdef Seat *best = NULL
        cdef int i, found = self.index
        cdef uint32_t least
        cdef int64_t now
        if self.board is None or self.board.seats == 1 or self.seat.connections < 2:
            return self.index
        least = self.seat.connections - 2 - self.seat.connections // 16  # at most this many are clearly fewer
        for i in range(self.board.seats):
            seat = <Seat *>(self.board._data + i * sizeof(Seat))
            if i != self.index and seat.state == READY and seat.connections <= least:
                now = precise_now()
                if self.board.responsive(seat, now):
                    if seat.connections == 0:
                        return i
                    least = seat.connections - 1
                    found = i
        return found

    cdef int _hold(self) except -1:
        # As many connections as there may be: the next waits where it is, until one has gone or has become idle.
        if self._pause is None:
            accepting = self._accepting
            self.unlisten()
            self._accepting = accepting
            self.held = True
            self._pause = self.loop.call_later(PAUSE_SECONDS, self._watch_listeners)
        return 0

    cdef int room_made(self) except -1:
        if self.held and self._pause is not None:
            self.held = False
            self._pause.cancel()
            self._pause = self.loop.call_later(0, self._watch_listeners)
        return 0

    cdef int _exhausted(self, int error) except -1:
        # No descriptor, or no memory for one: the connection stays in the queue. Level-triggered we would spin, edge-triggered
        # we would not be told again: come back by the clock.
        if self.seat != NULL:
            self.seat.accept_errors += 1
        if error != EMFILE and error != ENFILE and error != ENOBUFS and error != ENOMEM:
            raise OSError(error, f"accept: {os.strerror(error)}")
        if self._pause is None:
            accepting, now = self._accepting, time.monotonic()
            self.unlisten()
            self._accepting = accepting
            self._pause = self.loop.call_later(PAUSE_SECONDS, self._watch_listeners)
            if now - self._told_at > 10.0:
                self._told_at = now
                logger.error("cannot accept: %s; trying again every %g s", os.strerror(error), PAUSE_SECONDS)
        return 0

    # ------------------------------------------------------------------------------------ siblings

    cdef int woken(self) except -1:
        # Somebody wants something of us. Saying that our loop turns comes first.
        cdef Seat *seat = self.seat
        cdef int i, b
        cdef uint64_t bits
        seat.turns = seat.pokes
        seat.turned_ns = precise_now()
        self._reconcile()
        for i in range(16):
            bits = take_bits(&seat.wanted[i])
            b = 0
            while bits:
                if bits & 1 and i * 64 + b < len(self._by_slot):
                    for listener in self._by_slot[i * 64 + b]:
                        self.accept(<Listener>listener, True)
                bits >>= 1
                b += 1
        return 0

    cdef int _reconcile(self) except -1:
        # The listeners that are lent to us are in the set, others are not. To lend us what is our own changes nothing, and to
        # take it back must not take it from us.
        cdef Listener listener
        cdef bint lent
        if self.seat == NULL or not self._accepting or self._pause is not None:
            return 0
        for index in range(len(self._by_slot)):
            lent = bit(self.seat.adopted, index)
            for known in self._by_slot[index]:
                listener = known
                if listener.slot == index and lent != listener.adopted and not self._own(listener):
                    listener.adopted = listener.watched = lent
                    if lent:
                        self.watch(listener.fd, listener, EPOLLIN, False)
                    else:
                        self.unwatch(listener.fd)
                        self.bury(listener)
        return 0


cdef class Listener(Polled):
    cdef int ready(self, uint32_t events) except -1:
        return self.driver.accept(self, self.adopted)


cdef class Waker(Polled):
    cdef int ready(self, uint32_t events) except -1:
        cdef uint8_t sink[256]
        c_read(self.fd, sink, sizeof(sink))
        return self.driver.woken()


# --------------------------------------------------------------------------------------------- a connection's socket


cdef class SocketWire(Wire):
    """A plain TCP or Unix connection in the set of a Driver. While it is open it holds a reference to itself."""

    cdef int start(self) except -1:
        # Make its stream, then read at once: a client's request comes hard behind its handshake. Only what is still open behind
        # that goes into the set: a connection that carries one request costs two system calls less.
        self.events = EPOLLIN | EPOLLRDHUP
        Py_INCREF(self)
        try:
            self.stream = self.driver.host.welcome(self)
            if self.fd >= 0 and not self._paused:
                self.read()
        except BaseException:
            if self.stream is None:
                self._finish(None)   # nobody would ever read it
            raise
        finally:
            if self.fd >= 0:
                self._enlist()
        return 0

    cdef int _enlist(self) except -1:
        self._listed = True
        try:
            self.driver.watch(self.fd, self, self.events, False)
        except OSError as error:
            self._listed = False
            self._finish(error)
            raise
        return 0

    cdef int ready(self, uint32_t events) except -1:
        if self.fd < 0:
            return 0
        if events & EPOLLOUT:
            self._send_queue()
            if self.fd < 0:
                return 0
        if events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR):
            if not self._paused and not self._ended:
                return self.read()
            if events & (EPOLLHUP | EPOLLERR):
                error = fs_socket_error(self.fd)
                return self._finish(OSError(error, os.strerror(error)) if error else None)
            if events & EPOLLRDHUP and self._paused and not self._ended:
                # It left while we were not reading. What it sent before is still to be read, when there is room.
                self.events &= ~EPOLLRDHUP
                self.driver.watch(self.fd, self, self.events, True)
                return self.stream.wire_left()
        return 0

    cdef int read(self) except -1:
        cdef Driver driver = self.driver
        cdef Stream stream = self.stream
        cdef ssize_t got
        cdef size_t room, wants
        cdef int reads = 0
        cdef object owner
        cdef uint8_t *place
        cdef PyObject *whole
        while reads < READS_MAX:
            reads += 1
            owner = None
            wants = stream.wire_wants()
            if wants == 0:
                place = driver.buffer
                room = BUFFER_SIZE
                if driver.stamps:
                    got = fs_recv_stamped(self.fd, place, room, &driver.came_ns)
                else:
                    got = fs_recv(self.fd, place, room)
            else:
                # The rest of a body: into the object that the application will get, without a copy: the one that is being
                # filled, or a new one.
                place = stream.wire_place(&room)
                room = min(wants if place == NULL else room, <size_t>OWN_MAX)
                if place == NULL:
                    owner = PyBytes_FromStringAndSize(NULL, room)
                    place = <uint8_t *>PyBytes_AS_STRING(owner)
                got = fs_recv(self.fd, place, room)
            if got > 0:
                if owner is None:
                    stream.wire_received(place, got, None)
                    driver.came_ns = 0   # what is run later has waited for other reasons
                else:
                    if <size_t>got < room:
                        whole = <PyObject *>owner
                        Py_INCREF(owner)
                        owner = None     # one reference: what is resized must not be shared
                        _PyBytes_Resize(&whole, got)
                        owner = <object>whole
                        Py_DECREF(owner)
                    stream.wire_received(<const uint8_t *>PyBytes_AS_STRING(owner), got, owner)
                if <size_t>got < room or self.fd < 0 or self._paused or self._ended:
                    return 0
                continue
            if got == 0:
                self._ended = True
                if stream.wire_ended():
                    return self._ask()
                return self.close()
            if errno == EAGAIN:
                return 0
            if errno == EINTR:
                continue
            return self._finish(OSError(errno, os.strerror(errno)))
        return 0

    cdef int write_raw(self, const uint8_t *data, size_t length) except -1:
        cdef ssize_t sent = 0
        if self.fd < 0 or self._closing:
            return 0
        if self._queue is None:
            sent = fs_send(self.fd, data, length)
            if sent == <ssize_t>length:
                return 0
            if sent < 0:
                if errno != EAGAIN and errno != EINTR:
                    return self._finish(OSError(errno, os.strerror(errno)))
                sent = 0
        return self._enqueue(PyBytes_FromStringAndSize(<const char *>data + sent, length - sent), 0)

    cdef int write(self, object data) except -1:
        cdef ssize_t sent = 0
        cdef bytes whole = data if PyBytes_CheckExact(data) else bytes(data)
        if self.fd < 0 or self._closing:
            return 0
        if self._queue is None:
            sent = fs_send(self.fd, PyBytes_AS_STRING(whole), PyBytes_GET_SIZE(whole))
            if sent == PyBytes_GET_SIZE(whole):
                return 0
            if sent < 0:
                if errno != EAGAIN and errno != EINTR:
                    return self._finish(OSError(errno, os.strerror(errno)))
                sent = 0
        return self._enqueue(whole, sent)

    cdef int write_many(self, list pieces) except -1:
        cdef bint idle = self._queue is None
        if self.fd < 0 or self._closing or not pieces:
            return 0
        if idle:
            self._queue = []
            self._sent = 0
        for piece in pieces:
            whole = piece if PyBytes_CheckExact(piece) or type(piece) is FilePiece else bytes(piece)
            self._queue.append(whole)
            self._unsent += PyObject_Length(whole)
        if idle:
            return self._send_queue()
        return self._ask()

    cdef int _enqueue(self, object data, size_t sent) except -1:
        # `data` waits for its turn, its first `sent` bytes are out.
        if self._queue is None:
            self._queue = []
            self._sent = sent
        self._queue.append(data)
        self._unsent += PyBytes_GET_SIZE(data) - sent
        return self._ask()

    cdef int _send_queue(self) except -1:
        cdef iovec pieces[PIECES_MAX]
        cdef int count
        cdef Py_ssize_t first
        cdef ssize_t sent
        cdef size_t asked
        cdef bint partial
        cdef int64_t budget = FILE_TURN
        while self._queue is not None and self.fd >= 0:
            if type(self._queue[0]) is FilePiece:
                if not self._send_file(<FilePiece>self._queue[0], &budget):
                    break
                continue
            asked = 0
            count = 0
            for data in self._queue:
                if type(data) is FilePiece:
                    break
                first = self._sent if count == 0 else 0
                pieces[count].iov_base = PyBytes_AS_STRING(data) + first
                pieces[count].iov_len = PyBytes_GET_SIZE(data) - first
                asked += pieces[count].iov_len
                count += 1
                if count == PIECES_MAX:
                    break
            # A head that a file follows waits for it, so that both leave in one segment.
            sent = fs_send_pieces(self.fd, pieces, count, count < len(self._queue))
            if sent < 0:
                if errno == EAGAIN or errno == EINTR:
                    break
                return self._finish(OSError(errno, os.strerror(errno)))
            partial = <size_t>sent < asked
            self._unsent -= sent
            sent += self._sent
            count = 0
            while count < len(self._queue) and PyBytes_CheckExact(self._queue[count]) \
                    and sent >= PyBytes_GET_SIZE(self._queue[count]):
                sent -= PyBytes_GET_SIZE(self._queue[count])
                count += 1
            if count == len(self._queue):
                self._queue = None
                self._sent = 0
            else:
                del self._queue[:count]
                self._sent = sent
            if partial:
                break  # the kernel has no room for more
        if self._queue is None and self.fd >= 0:
            if self._closing:
                return self._finish(None)
            if self._shut:
                c_shutdown(self.fd, SHUT_WR)
        return self._ask()

    cdef bint _send_file(self, FilePiece piece, int64_t *budget) except? False:
        # The head of the queue. False: no more of it now.
        cdef off_t at = piece.offset
        cdef ssize_t sent
        if piece.count > 0:
            if budget[0] <= 0:
                return False  # others first; the set tells us again that there is room
            sent = fs_sendfile(self.fd, piece.file.fd, &at, <size_t>min(piece.count, budget[0]))
            if sent < 0:
                if errno == EAGAIN or errno == EINTR:
                    return False
                error = OSError(errno, os.strerror(errno))
                if error.errno in FILE_FAULTS:
                    logger.error("a file could not be read while it was sent, %s; the connection was cut", error)
                self._finish(error)
                return False
            if sent == 0:
                # The file is shorter than it was: what was promised cannot be kept, and must not look whole.
                logger.error("a file became shorter while it was sent; the connection was cut")
                self._finish(OSError(EIO, "the file became shorter"))
                return False
            piece.offset += sent
            piece.count -= sent
            budget[0] -= sent
            self._unsent -= sent
            if piece.count > 0:
                return True
        del self._queue[0]
        self._sent = 0
        if not self._queue:
            self._queue = None
        return True

    cdef bint takes_files(self) except -1:
        return HAVE_SENDFILE

    cdef int _ask(self) except -1:
        # Have the set tell us what we want to know now, and the stream how far its peer is behind.
        cdef uint32_t events = 0
        if self.fd < 0:
            return 0
        if not self._ended:
            events = EPOLLIN | EPOLLRDHUP if not self._paused else self.events & EPOLLRDHUP
        if self._queue is not None:
            events |= EPOLLOUT
        if events != self.events:
            if events & EPOLLOUT & ~self.events:
                self.stream.wire_behind()
            elif self.events & EPOLLOUT & ~events:
                self.stream.wire_caught_up()
            self.events = events
            if self._listed:
                self.driver.watch(self.fd, self, events, True)
        if self._unsent > WRITE_HIGH:
            if not self._full:
                self._full = True
                self.stream.wire_full()
        elif self._full and self._unsent <= WRITE_LOW:
            self._full = False
            self.stream.wire_drained()
        return 0

    cdef int pause_reading(self) except -1:
        self._paused = True
        return self._ask()

    cdef int resume_reading(self) except -1:
        self._paused = False
        return self._ask()

    cdef bint shutdown_write(self) except -1:
        if self.fd < 0 or self._closing:
            return False
        if not self._shut:
            self._shut = True
            if self._queue is None and c_shutdown(self.fd, SHUT_WR) != 0:
                return False  # reset meanwhile
        return True

    cdef int close(self) except -1:
        if self.fd >= 0 and not self._closing:
            self._closing = True
            if self._queue is None:
                return self._finish(None)
            self._paused = True  # nothing more is read
            self.events &= ~EPOLLRDHUP
            return self._ask()
        return 0

    cdef int abort(self) except -1:
        return self._finish(None)

    cdef int reset(self) except -1:
        if self.fd >= 0:
            fs_reset_on_close(self.fd)
        return self._finish(None)

    cdef int _finish(self, object error) except -1:
        # Out of the set, closed; the stream is told at the end of this turn.
        if self.fd < 0:
            return 0
        if self._listed:
            self.driver.unwatch(self.fd)
        c_close(self.fd)
        self.fd = -1
        self._closing = True
        self._queue = None
        self._unsent = 0
        self._error = error
        self.driver.bury(self)
        Py_DECREF(self)
        return 0

    cdef bint is_closing(self) except -1:
        return self._closing or self.fd < 0

    cdef bint has_input(self) noexcept:
        return self.fd >= 0 and fs_waiting(self.fd)

    cdef size_t unsent(self) except? 0:
        return self._unsent

    cdef size_t unacked(self):
        return fs_unacked(self.fd)

    cdef object info(self, str name):
        if name == "peername":
            if self._peername is None:
                self._peername = _address(&self.peer)
            return self._peername
        if name == "sockname":
            if self._sockname is None and self.fd >= 0:
                self._sockname = self._local_address()
            return self._sockname
        return None

    cdef object _local_address(self):
        cdef Driver driver = self.driver
        cdef fs_peer local
        fs_local_of(self.fd, &local)
        if local.family == 1:
            with socket.socket(fileno=os.dup(self.fd)) as ours:
                return ours.getsockname()
        if driver._local_name is None or memcmp(&local, &driver._local, sizeof(fs_peer)) != 0:
            driver._local = local
            driver._local_name = _address(&local)
        return driver._local_name


cdef object _address(fs_peer *peer):
    # As getpeername() says it: (host, port), (host, port, 0, 0), "" for a Unix peer without a name; None if unknown.
    cdef char text[64]
    if peer.family == 4 or peer.family == 6:
        if fs_peer_text(peer, text, sizeof(text)) == NULL:
            return None
        host = text[:strlen(text)].decode("ascii")
        return (host, peer.port) if peer.family == 4 else (host, peer.port, 0, 0)
    return "" if peer.family == 1 else None
