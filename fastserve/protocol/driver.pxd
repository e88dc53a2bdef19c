# Driver: one epoll set per event loop, nested in it: the listeners, the connections on our own wire, the waker of our seat.
#
# Called by: Service (owns it), the loop (when something is ready). Calls: Stream (Connection), Host (Service), Board.
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from fastserve.protocol.board cimport Board, Seat
from fastserve.protocol.wire cimport FilePiece, Polled, Stream, Wire


cdef class Host:
    # Who makes the Stream of an accepted connection, and hears of trouble. Implemented by Service.
    cdef Stream welcome(self, Wire wire)                    # on our own wire
    cdef object protocol(self)                              # for a transport
    cdef bint introduced(self, object peername) except -1   # has this peer to say who its client is, before anything else?
    cdef object protocol_of(self, bytes header)             # for a transport whose peer has said so; None: that is no such header
    cdef bint full(self) except -1                          # as many connections as there may be?
    cdef bint room(self) except -1                          # make room for one more; False: it waits in the kernel's queue


cdef extern from *:
    """
    #ifndef FS_PEER
    #define FS_PEER
    #include <stdint.h>
    /* A socket address, small: 24 bytes where sockaddr_storage has 128. */
    typedef struct {
      uint8_t family; /* 4, 6, 1 (Unix), 0 (unknown) */
      uint32_t port;
      uint8_t address[16];
    } fs_peer;
    #endif
    """
    ctypedef struct fs_peer:
        uint8_t family
        uint32_t port
        uint8_t address[16]


cdef class Driver:
    cdef object loop
    cdef Host host
    cdef Board board
    cdef Seat *seat
    cdef int index                  # our seat
    cdef int slot                   # whose listeners are ours by right
    cdef readonly int fd            # of the epoll set; -1: closed
    cdef bint own_wire              # plain connections on SocketWire; otherwise on the loop's transports
    cdef object tls                 # None, or who has `context`, `handshake_timeout`, `shutdown_timeout`: TLS is the loop's
    cdef uint8_t *buffer            # what is being read, of one connection at a time
    cdef list _by_slot              # lists of Listener
    cdef list _gone                 # closed in this turn: kept until no event can name them
    cdef object _pause              # timer handle while out of descriptors
    cdef object _check              # timer handle while siblings have been left something,
    cdef int64_t _left_at           # the last time,
    cdef int64_t _first_left_at     # and the first since the handle was made
    cdef object _told_at
    cdef bint stamps                # reads tell when their bytes came
    cdef int64_t came_ns            # when those of the read in hand came, by the wall clock; 0: not known
    cdef int64_t turn_at            # when this turn looked into the set; 0: between turns
    cdef int64_t turn_before        # when a look before that last took all there was; 0: not known
    cdef int64_t _whole_at          # the same, of this turn
    cdef bint held                  # accepting pauses because the host has no room
    cdef set _tasks                 # transports in the making
    cdef bint _accepting
    cdef Polled _waker
    cdef fs_peer _local             # the local address asked for last, mostly that of every connection
    cdef object _local_name

    cdef int watch(self, int fd, Polled target, uint32_t events, bint again) except -1
    cdef int unwatch(self, int fd) noexcept
    cdef int bury(self, Polled target) except -1
    cdef int accept(self, Listener listener, bint wanted) except -1
    cdef int _take(self, int fd, Listener listener, fs_peer *peer) except -1
    cdef int _leave_to(self, int seat, Listener listener) except -1
    cdef int _whose(self) noexcept
    cdef int _exhausted(self, int error) except -1
    cdef int _hold(self) except -1
    cdef int room_made(self) except -1
    cdef int woken(self) except -1
    cdef int _reconcile(self) except -1
    cdef bint _own(self, Listener listener) noexcept


cdef class Listener(Polled):
    cdef Driver driver
    cdef object socket
    cdef int fd
    cdef int slot
    cdef bint shared               # one for all workers (Unix sockets, inherited descriptors)
    cdef bint watched
    cdef bint adopted


cdef class Waker(Polled):
    cdef Driver driver
    cdef int fd


cdef class SocketWire(Wire):
    cdef Driver driver
    cdef Stream stream
    cdef int fd                    # -1: closed
    cdef uint32_t events           # that the epoll set is asked for, or will be
    cdef bint _listed              # it is in the set
    cdef bint _paused
    cdef bint _ended               # FIN was seen
    cdef bint _closing
    cdef bint _shut                # our FIN is sent, or due behind the queue
    cdef bint _full
    cdef list _queue               # bytes-like, unsent; None: nothing
    cdef size_t _sent              # of the first of them
    cdef size_t _unsent
    cdef object _error
    cdef fs_peer peer
    cdef object _peername          # once asked for
    cdef object _sockname

    cdef int start(self) except -1
    cdef int _enlist(self) except -1
    cdef int read(self) except -1
    cdef int _send_queue(self) except -1
    cdef bint _send_file(self, FilePiece piece, int64_t *budget) except? False
    cdef int _enqueue(self, object data, size_t sent) except -1
    cdef int _ask(self) except -1
    cdef int _finish(self, object error) except -1
    cdef object _local_address(self)
