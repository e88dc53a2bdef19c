"""Board: what the processes of one server know of each other, in shared memory; a seat per worker process.

Room:    floor 1, beside everything; below Service and Driver, which write their own seat.
Called:  by Service and Driver on the hot path (plain stores), by process/ (gives seats, watches, publishes figures).

Made before the first fork and inherited, in a file without a name, which this user's other processes may map as well (see
process/lensfile.py). It outlives every worker: what a dead one was doing can still be read. A writer never waits for a
reader: a figure is one aligned store, and a text that is being replaced may be read torn, once.
"""

import mmap
import os
import time

from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

cdef extern from *:
    """
    #include <stdint.h>
    #include <errno.h>
    #include <unistd.h>
    static inline uint64_t fs_take(uint64_t *word) { return __atomic_exchange_n(word, 0, __ATOMIC_ACQ_REL); }
    static inline void fs_or(uint64_t *word, uint64_t bits) { __atomic_fetch_or(word, bits, __ATOMIC_ACQ_REL); }
    static inline void fs_and(uint64_t *word, uint64_t bits) { __atomic_fetch_and(word, bits, __ATOMIC_ACQ_REL); }
    static inline uint64_t fs_add(uint64_t *word) { return __atomic_fetch_add(word, 1, __ATOMIC_ACQ_REL); }
    static inline void fs_step(uint64_t *word) { __atomic_fetch_add(word, 1, __ATOMIC_SEQ_CST); }
    static inline uint64_t fs_look(uint64_t *word) {
      __atomic_thread_fence(__ATOMIC_SEQ_CST);
      return __atomic_load_n(word, __ATOMIC_SEQ_CST);
    }
    static inline int fs_wake(int fd) {
      uint64_t one = 1; /* an eventfd wants eight bytes, a pipe takes them too */
      for (;;) {
        if (write(fd, &one, sizeof one) >= 0 || errno == EAGAIN) return 0; /* full: it is awake already */
        if (errno != EINTR) return errno;
      }
    }
    """
    uint64_t fs_take(uint64_t *word) noexcept nogil
    void fs_or(uint64_t *word, uint64_t bits) noexcept nogil
    void fs_and(uint64_t *word, uint64_t bits) noexcept nogil
    uint64_t fs_add(uint64_t *word) noexcept nogil
    void fs_step(uint64_t *word) noexcept nogil
    uint64_t fs_look(uint64_t *word) noexcept nogil
    int fs_wake(int fd) noexcept nogil

cdef enum:
    PAGE = 4096
    LOOKS = 10000       # until a reader gives up waiting for the supervisor to finish two additions
    SLOW_NS = 15000000  # a loop that has not answered for this long, or is in one callback for this long, is not at hand

LATENCY_BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
"""Upper bounds of the latency buckets, seconds: those that OpenTelemetry advises for http.server.request.duration."""

STATE_WORDS = ("new", "head", "idle", "body", "handler", "write", "upgraded", "closing")
"""What connections wait for, by ConnectionState."""

TIMEOUT_WORDS = ("silence", "head", "body", "body-rate", "write", "request", "idle")
"""Deadlines, by Timeout."""

SHED_WORDS = ("concurrency", "age", "connections", "peer", "buffers")
"""Limits that turn requests and connections away, by Shed."""


cdef uint64_t take_bits(uint64_t *word) noexcept nogil:
    return fs_take(word) if word[0] else 0


cdef bint bit(uint64_t *words, int index) noexcept nogil:
    return (words[index >> 6] >> (index & 63)) & 1


cdef class Board:
    """Shared memory for `seats` worker processes, and a descriptor to wake each of them by.

    fd: an empty file to have it in, which others may map; it stays the caller's to close. -1: only our children have it.
    """

    def __cinit__(self, int seats, int fd=-1):
        cdef const uint8_t[::1] view
        cdef int index
        if seats < 1:
            raise ValueError("a board has at least one seat")
        self.seats = seats
        head = (sizeof(Head) + seats * sizeof(Totals) + PAGE - 1) // PAGE * PAGE
        self.fd = fd
        if fd >= 0:
            os.ftruncate(fd, head + seats * sizeof(Seat))
        self._memory = mmap.mmap(fd, head + seats * sizeof(Seat))
        view = self._memory
        self._head = <Head *>&view[0]
        self._totals = <Totals *>(<uint8_t *>&view[0] + sizeof(Head))
        self._data = <uint8_t *>&view[0] + <size_t>head
        self._head.started_ns = self._head.turned_ns = time.monotonic_ns()
        for index in range(seats):
            self._totals[index].queue = -1
        self._wakers = []
        for index in range(seats):
            if hasattr(os, "eventfd"):
                fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
                self._wakers.append((fd, fd))
            else:
                ends = os.pipe()
                for fd in ends:
                    os.set_blocking(fd, False)
                self._wakers.append(ends)
            self.clear(index)

    cdef Seat *at(self, int index) except NULL:
        if not 0 <= index < self.seats:
            raise IndexError(f"seat {index} of {self.seats}")
        return <Seat *>(self._data + index * sizeof(Seat))

    cdef int wake_fd(self, int index) except -2:
        return self._wakers[index][0]

    cdef int poke(self, int index) except -1:
        cdef Seat *seat = self.at(index)
        if seat.turns == seat.pokes:
            seat.poked_ns = time.monotonic_ns()
        fs_add(&seat.pokes)
        fs_wake(self._wakers[index][1])
        return 0

    cdef int want(self, int helper, int slot) except -1:
        fs_or(&self.at(helper).wanted[slot >> 6], <uint64_t>1 << (slot & 63))
        return self.poke(helper)

    cdef bint responsive(self, Seat *seat, int64_t now) noexcept:
        # Is its loop at hand? It answers what it was told, and is not long in one callback.
        if seat.state != READY:
            return False
        if seat.turns != seat.pokes and now - seat.poked_ns > SLOW_NS:
            return False
        return not (seat.busy_since_ns and now - seat.busy_since_ns > SLOW_NS)

    # ------------------------------------------------------------------------------------------ for process/

    def __len__(self):
        return self.seats

    @property
    def memory(self):
        """All of it, as bytes that may be looked at: a memoryview."""
        return memoryview(self._memory).toreadonly()

    def __getitem__(self, int index):
        return SeatView.of(self, index)

    def clear(self, int index):
        """Nobody sits here: zero everything. What was counted here is added to the totals of its slot."""
        cdef Seat *seat = self.at(index)
        fs_step(&self._head.version)
        if 0 <= seat.slot < self.seats:
            _add(&self._totals[seat.slot], seat)
        memset(seat, 0, sizeof(Seat))
        seat.slot = -1
        seat.running = -1
        fs_step(&self._head.version)

    def ping(self, int index):
        """Wake the loop of this seat. It answers by setting `turns` to `pokes`."""
        self.poke(index)

    def ask(self, int helper, int slot):
        """Have the worker at seat `helper` take what waits at the listeners of `slot` now, once."""
        if not 0 <= slot < SLOTS_MAX:
            raise IndexError(slot)
        self.want(helper, slot)

    def adopt(self, int helper, int slot):
        """Have the worker at seat `helper` accept from the listeners of `slot` as well, until drop()."""
        if not 0 <= slot < SLOTS_MAX:
            raise IndexError(slot)
        fs_or(&self.at(helper).adopted[slot >> 6], <uint64_t>1 << (slot & 63))
        self.want(helper, slot)

    def drop(self, int helper, int slot):
        """End adopt()."""
        if not 0 <= slot < SLOTS_MAX:
            raise IndexError(slot)
        fs_and(&self.at(helper).adopted[slot >> 6], ~(<uint64_t>1 << (slot & 63)))
        self.poke(helper)

    # --- of the supervisor ---

    def turn(self):
        """Its loop turns."""
        self._head.turned_ns = time.monotonic_ns()

    @property
    def started_ns(self):
        """When the board was made: the start of the server."""
        return self._head.started_ns

    @property
    def turned_ns(self):
        """When the supervisor's loop last turned."""
        return self._head.turned_ns

    @property
    def draining(self):
        """Is the server to get no more clients? It is stopping, or about to."""
        return self._head.draining != 0

    @draining.setter
    def draining(self, bint value):
        self._head.draining = value

    @property
    def wanted(self):
        """Slots that are to have a worker."""
        return self._head.wanted

    @wanted.setter
    def wanted(self, unsigned value):
        self._head.wanted = value

    def restarted(self, int slot):
        """Count: the worker of this slot ended without being told to."""
        self._slot(slot).restarts += 1

    def queue(self, int slot, int64_t length, int64_t most):
        """Publish how many connections wait at the listeners of this slot, and how many may."""
        cdef Totals *totals = self._slot(slot)
        totals.queue_max = most
        totals.queue = length

    def layout(self):
        """Where things lie in the memory, for who reads it from outside, perhaps in another version: a dict. Fields are
        name -> [offset in their struct, type in the letters of `struct`]; all else are numbers of bytes, or of things."""
        cdef Seat *seat = <Seat *>self._data
        cdef Flight *flight = &seat.flights[0]
        return {
            "seats": self.seats,
            "seats_at": <size_t>(self._data - <uint8_t *>self._head),
            "seat_bytes": sizeof(Seat),
            "flights": <int>FLIGHTS_MAX,
            "flights_at": _at(seat, seat.flights),
            "flight_bytes": sizeof(Flight),
            "flight_text": <int>FLIGHT_TEXT,
            "seat": {
                "pid": [_at(seat, &seat.pid), "i"],
                "slot": [_at(seat, &seat.slot), "i"],
                "state": [_at(seat, &seat.state), "I"],
                "generation": [_at(seat, &seat.generation), "I"],
                "started_ns": [_at(seat, &seat.started_ns), "q"],
                "ready_ns": [_at(seat, &seat.ready_ns), "q"],
                "pokes": [_at(seat, &seat.pokes), "Q"],
                "poked_ns": [_at(seat, &seat.poked_ns), "q"],
                "turns": [_at(seat, &seat.turns), "Q"],
                "turned_ns": [_at(seat, &seat.turned_ns), "q"],
                "busy_since_ns": [_at(seat, &seat.busy_since_ns), "q"],
                "running": [_at(seat, &seat.running), "i"],
                "connections": [_at(seat, &seat.connections), "I"],
                "active": [_at(seat, &seat.active), "I"],
                "accepts": [_at(seat, &seat.accepts), "Q"],
                "accepts_of_others": [_at(seat, &seat.accepts_of_others), "Q"],
                "accept_errors": [_at(seat, &seat.accept_errors), "Q"],
                "served": [_at(seat, &seat.served), "Q"],
                "by_class": [_at(seat, seat.by_class), "6Q"],
                "refused": [_at(seat, &seat.refused), "Q"],
                "bytes_in": [_at(seat, &seat.bytes_in), "Q"],
                "bytes_out": [_at(seat, &seat.bytes_out), "Q"],
                "latency": [_at(seat, seat.latency), f"{<int>LATENCY_BUCKETS}Q"],
                "latency_ns": [_at(seat, &seat.latency_ns), "Q"],
                "cut": [_at(seat, &seat.cut), "Q"],
                "raced": [_at(seat, &seat.raced), "Q"],
                "in_state": [_at(seat, seat.in_state), f"{<int>STATES_MAX}I"],
                "state_ns": [_at(seat, seat.state_ns), f"{<int>STATES_MAX}Q"],
                "timeouts": [_at(seat, seat.timeouts), f"{<int>TIMEOUTS_MAX}Q"],
                "shed": [_at(seat, seat.shed), f"{<int>SHEDS_MAX}Q"],
                "held": [_at(seat, &seat.held), "Q"],
            },
            "flight": {
                "since_ns": [_at(flight, &flight.since_ns), "q"],
                "state_since_ns": [_at(flight, &flight.state_since_ns), "q"],
                "request": [_at(flight, &flight.request), "I"],
                "task": [_at(flight, &flight.task), "I"],
                "stack": [_at(flight, &flight.stack), "I"],
                "state": [_at(flight, &flight.state), "B"],
                "length": [_at(flight, &flight.length), "H"],
                "text": [_at(flight, flight.text), f"{<int>FLIGHT_TEXT}s"],
            },
        }

    cdef Totals *_slot(self, int slot) except NULL:
        if not 0 <= slot < self.seats:
            raise IndexError(f"slot {slot} of {self.seats}")
        return &self._totals[slot]

    def figures(self):
        """What each slot has counted since the server started, in all its processes: a list of Figures, by slot.

        No figure ever falls. Slots that never had a worker are left out.
        """
        cdef Totals *copy = <Totals *>malloc(self.seats * sizeof(Totals))
        cdef uint64_t before
        cdef int i, tries
        cdef Seat *seat
        if copy == NULL:
            raise MemoryError
        try:
            for tries in range(LOOKS):
                before = fs_look(&self._head.version)
                if before & 1:
                    continue
                memcpy(copy, self._totals, self.seats * sizeof(Totals))
                for i in range(self.seats):
                    seat = <Seat *>(self._data + i * sizeof(Seat))
                    if 0 <= seat.slot < self.seats:
                        _add(&copy[seat.slot], seat)
                if fs_look(&self._head.version) == before:
                    break
            else:
                raise RuntimeError("the board is being rearranged")
            return [Figures(i, copy[i]) for i in range(self.seats) if copy[i].starts]
        finally:
            free(copy)

    def close(self):
        """Close the descriptors. The memory goes when the last process that has it mapped ends."""
        wakers, self._wakers = self._wakers, []
        for fd in {fd for ends in wakers for fd in ends}:
            os.close(fd)


cdef size_t _at(void *whole, void *part) noexcept:
    return <size_t>(<uint8_t *>part - <uint8_t *>whole)


cdef int _add(Totals *totals, Seat *seat) noexcept:
    cdef int i
    totals.accepts += seat.accepts
    totals.accepts_of_others += seat.accepts_of_others
    totals.accept_errors += seat.accept_errors
    for i in range(6):
        totals.by_class[i] += seat.by_class[i]
    totals.refused += seat.refused
    totals.bytes_in += seat.bytes_in
    totals.bytes_out += seat.bytes_out
    for i in range(LATENCY_BUCKETS):
        totals.latency[i] += seat.latency[i]
    totals.latency_ns += seat.latency_ns
    totals.cut += seat.cut
    totals.raced += seat.raced
    for i in range(<int>STATES_MAX):
        totals.state_ns[i] += seat.state_ns[i]
    for i in range(<int>TIMEOUTS_MAX):
        totals.timeouts[i] += seat.timeouts[i]
    for i in range(<int>SHEDS_MAX):
        totals.shed[i] += seat.shed[i]
    return 0


class Figures:
    """What one slot has counted, in all its processes. `queue` is -1 where it is not known; times are in ns."""

    def __init__(self, int slot, dict totals):
        self.slot = slot
        self.starts = totals["starts"]
        self.restarts = totals["restarts"]
        self.accepts = totals["accepts"]
        self.accepts_of_others = totals["accepts_of_others"]
        self.accept_errors = totals["accept_errors"]
        self.by_class = tuple(totals["by_class"])
        self.refused = totals["refused"]
        self.bytes_in = totals["bytes_in"]
        self.bytes_out = totals["bytes_out"]
        self.latency = tuple(totals["latency"])
        self.latency_ns = totals["latency_ns"]
        self.cut = totals["cut"]
        self.raced = totals["raced"]
        self.state_ns = tuple(totals["state_ns"])
        self.timeouts = tuple(totals["timeouts"])
        self.shed = tuple(totals["shed"])
        self.queue = totals["queue"]
        self.queue_max = totals["queue_max"]


cdef class SeatView:
    """One seat of a Board, for Python: its figures as attributes (times in ns of the monotonic clock)."""
    cdef Board board
    cdef Seat *seat
    cdef readonly int index

    @staticmethod
    cdef SeatView of(Board board, int index):
        cdef SeatView view = SeatView.__new__(SeatView)
        view.seat = board.at(index)
        view.board = board
        view.index = index
        return view

    def __repr__(self):
        state = ("empty", "booting", "ready", "retiring", "dead")[self.seat.state]
        return f"<Seat {self.index} {state} pid={self.seat.pid} slot={self.seat.slot} connections={self.seat.connections}>"

    @property
    def pid(self):
        return self.seat.pid

    @pid.setter
    def pid(self, int value):
        self.seat.pid = value

    @property
    def slot(self):
        """Index of the listeners it accepts from by right; -1: none."""
        return self.seat.slot

    @slot.setter
    def slot(self, int value):
        self.seat.slot = value

    @property
    def state(self):
        """EMPTY, BOOTING, READY, RETIRING or DEAD."""
        return self.seat.state

    @state.setter
    def state(self, unsigned value):
        if value == READY and self.seat.ready_ns == 0:
            self.seat.ready_ns = time.monotonic_ns()
        if value == BOOTING and 0 <= self.seat.slot < self.board.seats:
            self.board._totals[self.seat.slot].starts += 1
        self.seat.state = value

    @property
    def generation(self):
        return self.seat.generation

    @generation.setter
    def generation(self, unsigned value):
        self.seat.generation = value

    @property
    def started_ns(self):
        return self.seat.started_ns

    @started_ns.setter
    def started_ns(self, int64_t value):
        self.seat.started_ns = value

    @property
    def ready_ns(self):
        return self.seat.ready_ns

    @property
    def pokes(self):
        """Times its loop was woken from outside."""
        return self.seat.pokes

    @property
    def turns(self):
        """`pokes` as last seen by its loop."""
        return self.seat.turns

    @property
    def answers(self):
        """Has its loop answered the last ping?"""
        return self.seat.turns == self.seat.pokes

    @property
    def poked_ns(self):
        """When it was woken and has not answered since; meaningful while not `answers`."""
        return self.seat.poked_ns

    @property
    def turned_ns(self):
        """When its loop last answered a ping."""
        return self.seat.turned_ns

    @property
    def responsive(self):
        """READY, and its loop at hand: it answers within 15 ms and is not longer than that in one callback."""
        return self.board.responsive(self.seat, time.monotonic_ns())

    @property
    def busy_since_ns(self):
        """Since when it runs the callback that it runs now; 0 between callbacks."""
        return self.seat.busy_since_ns

    @property
    def connections(self):
        return self.seat.connections

    @property
    def active(self):
        """Requests in flight."""
        return self.seat.active

    @property
    def accepts(self):
        """Connections accepted from its own slot's listeners."""
        return self.seat.accepts

    @property
    def accepts_of_others(self):
        """Connections accepted for a sibling that could not take them."""
        return self.seat.accepts_of_others

    @property
    def accept_errors(self):
        return self.seat.accept_errors

    @property
    def served(self):
        """Exchanges ended."""
        return self.seat.served

    @property
    def by_class(self):
        """Of these, by the first digit of the status; at 0 those that ended without one."""
        return tuple([self.seat.by_class[i] for i in range(6)])

    @property
    def refused(self):
        """Of these, faults of the peer and deadlines: answered before a handler saw them."""
        return self.seat.refused

    @property
    def cut(self):
        """Connections that we closed under a request."""
        return self.seat.cut

    @property
    def raced(self):
        """Idle connections that we ended while a request was on its way (RFC 9112 section 9.5)."""
        return self.seat.raced

    @property
    def in_state(self):
        """Open connections by what they wait for (STATE_WORDS)."""
        return tuple([self.seat.in_state[i] for i in range(<int>STATES_MAX)])

    @property
    def state_ns(self):
        """Time that connections spent waiting, by what for. It is counted when the wait ends."""
        return tuple([self.seat.state_ns[i] for i in range(<int>STATES_MAX)])

    @property
    def timeouts(self):
        """Requests and connections that met a deadline (TIMEOUT_WORDS)."""
        return tuple([self.seat.timeouts[i] for i in range(<int>TIMEOUTS_MAX)])

    @property
    def shed(self):
        """Requests and connections that met a limit of the whole worker (SHED_WORDS)."""
        return tuple([self.seat.shed[i] for i in range(<int>SHEDS_MAX)])

    @property
    def held(self):
        """Bytes of unparsed heads, unread bodies and pipelined requests."""
        return self.seat.held

    @property
    def bytes_in(self):
        return self.seat.bytes_in

    @property
    def bytes_out(self):
        return self.seat.bytes_out

    @property
    def latency(self):
        """Exchanges by duration from complete head to last byte handed over: counts per bucket (LATENCY_BOUNDS, and above)."""
        return tuple([self.seat.latency[i] for i in range(LATENCY_BUCKETS)])

    @property
    def latency_ns(self):
        """The sum of these durations."""
        return self.seat.latency_ns

    def doing(self):
        """What its loop runs now: ("GET /path", seconds), ("", seconds) if that is no request, or None between callbacks."""
        cdef int64_t since = self.seat.busy_since_ns
        cdef int running = self.seat.running
        if since == 0:
            return None
        text = _text(&self.seat.flights[running]) if 0 <= running < FLIGHTS_MAX else ""
        return text, max(0, time.monotonic_ns() - since) / 1e9

    def requests(self):
        """Requests in flight: a list of ("GET /path", seconds since the head was complete), oldest first."""
        cdef int i
        cdef int64_t since
        found = []
        now = time.monotonic_ns()
        for i in range(FLIGHTS_MAX):
            since = self.seat.flights[i].since_ns
            if since != 0:
                found.append((_text(&self.seat.flights[i]), max(0, now - since) / 1e9))
        found.sort(key=lambda entry: -entry[1])
        return found


cdef str _text(Flight *flight):
    cdef int length = min(flight.length, FLIGHT_TEXT)
    return bytes(flight.text[:length]).decode("ascii", "backslashreplace")
