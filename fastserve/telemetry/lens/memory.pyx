"""The memory of the lens: an area per seat of a server, which its worker writes and other processes read.

Room:    side wing, telemetry. Beside everything, as the Board is.
Called:  by recorder.pyx and watchdog.pyx, which write; by process/, which makes it before the first fork and switches modes.

An area is sparse until it is used: a page with the header, the arena of texts, the ring of events. Nobody waits for anybody. An
event is written, and then the head of the ring moves (a release store); a reader copies, and then looks at the head again: what
may have been overwritten meanwhile is lost, and counted as such. Writers hold the GIL.

Texts. The arena is append-only: u32 id, u16 kind, u16 length, the bytes, up to a multiple of 8. Kind 1 is a text, 2 a stack (u16
wait, u16 frames, u32 0, then u32 code and u32 line for each frame, from the outermost), 3 a code ("file\\0qualname\\0line"). What
a request is called ("GET /items/7") may be different each time and would fill it, so these texts have a ring of their own, in
the upper half: their ids have the highest bit, and the rest of the id, times 8, is where the entry stands in that ring. One that
was overwritten has another id there.
"""

import mmap
import os
import time

from cpython.ref cimport Py_INCREF, Py_XDECREF
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy, memset

from fastserve.telemetry.lens.modes import LensMode, Mode

cdef extern from *:
    """
    #include <string.h>
    /* Of no use against an adversary: two texts of one hash only push each other out of a table. */
    static inline uint64_t fs_lens_hash(const uint8_t *data, size_t length) {
      uint64_t hash = 0xcbf29ce484222325u ^ length, word;
      for (; length >= 8; data += 8, length -= 8) {
        memcpy(&word, data, 8);
        hash = (hash ^ word) * 0x9e3779b97f4a7c15u;
        hash ^= hash >> 29;
      }
      word = 0;
      memcpy(&word, data, length);
      hash = (hash ^ word) * 0x9e3779b97f4a7c15u;
      return hash ^ hash >> 32;
    }
    """
    uint64_t fs_lens_hash(const uint8_t *data, size_t length) noexcept nogil

cdef enum:
    PAGE = 4096
    TEXT_SIZE = 524288       # bytes, append-only
    RECENT_SIZE = 524288     # bytes, the ring of what requests are called
    RECENT_BIT = 0x80000000u
    RECENT_SLOTS = 4096      # hashes remembered; a power of two
    REQUEST_MAX = 128        # bytes kept of what a request is called
    TEXT_MAX = 4096          # bytes kept of any text

KIND_TEXT, KIND_STACK, KIND_CODE = 1, 2, 3
AREA_SIZE = PAGE + TEXT_SIZE + RECENT_SIZE + RING_EVENTS * sizeof(Event)

if sizeof(Event) != 40 or sizeof(Header) > PAGE or AREA_SIZE % PAGE:
    raise ImportError("the layout of the lens's memory is not the one that its readers know")


cdef class LensMemory:
    """Shared memory for `seats` worker processes.

    fd: an empty file to have it in, which others may map, and which is closed with it; -1: only our children have it.
    area_size: bytes of one area.
    """

    def __cinit__(self, int seats, int fd=-1):
        cdef uint8_t[::1] view
        cdef int seat
        cdef Header *header
        if seats < 1:
            raise ValueError("the lens's memory has at least one seat")
        self.fd = fd
        self.seats = seats
        self.area_size = AREA_SIZE
        if fd >= 0:
            os.ftruncate(fd, seats * AREA_SIZE)
        self._map = mmap.mmap(fd, seats * AREA_SIZE)
        view = self._map
        self._data = &view[0]
        self._areas = [None] * seats
        self.set_mode(LensMode(Mode.READY))

    def __dealloc__(self):
        if self.fd >= 0:
            os.close(self.fd)

    def area(self, int seat) -> Area:
        """That of a seat: one object, whoever asks. IndexError if there is no such seat."""
        cdef Area area
        if not 0 <= seat < self.seats:
            raise IndexError(f"seat {seat} of {self.seats}")
        area = self._areas[seat]
        if area is None:
            area = self._areas[seat] = Area.__new__(Area)
            area.memory = self
            area.seat = seat
            area.header = <Header *>(self._data + <size_t>seat * self.area_size)
            area.texts = <uint8_t *>area.header + PAGE
            area.recents = area.texts + TEXT_SIZE
            area.ring = <Event *>(area.recents + RECENT_SIZE)
        return area

    def set_mode(self, mode):
        """Switch every seat, those that are empty too: who takes one later finds it so. mode: a LensMode."""
        cdef int seat
        for seat in range(self.seats):
            self.area(seat).set_mode(mode.mode, mode.sample, mode.slow_ns)


cdef class Area:
    """What one worker writes. Made by LensMemory.area()."""

    def __cinit__(self):
        self._texts = {}
        self._codes = {}
        self._stacks = {}
        self._recent_ids = <uint32_t *>calloc(RECENT_SLOTS, sizeof(uint32_t))
        if self._recent_ids == NULL:
            raise MemoryError

    def __dealloc__(self):
        cdef int at
        free(self._recent_ids)
        for at in range(FAMILIAR):
            Py_XDECREF(self._familiar[at])

    def start(self, int slot, int pid, int generation):
        """A process takes the seat: nothing of its predecessor is left but the mode that it was switched to."""
        cdef Header *header = self.header
        cdef size_t begin = self.seat * self.memory.area_size
        cdef int at
        cdef char *control = <char *>&header.mode        # four fields that others read, and write, at any time
        cdef char *behind = <char *>&header.ring_head
        used = header.pid != 0
        header.pid = 0
        if used:
            self._wipe(begin)
        memset(header, 0, control - <char *>header)
        memset(behind, 0, <char *>header + sizeof(Header) - behind)
        header.version = 1
        header.slot = slot
        header.seat = self.seat
        header.generation = generation
        header.started_ns = time.monotonic_ns()
        header.started_unix_ns = time.time_ns()
        header.ring_capacity = RING_EVENTS
        header.text_capacity = TEXT_SIZE
        header.text_offset = PAGE
        header.recent_offset = PAGE + TEXT_SIZE
        header.recent_capacity = RECENT_SIZE
        header.ring_offset = PAGE + TEXT_SIZE + RECENT_SIZE
        self._ids = 0
        for at in range(FAMILIAR):
            Py_XDECREF(self._familiar[at])
            self._familiar[at] = NULL
        self._texts.clear()
        self._codes.clear()
        self._stacks.clear()
        memset(self._recent_ids, 0, RECENT_SLOTS * sizeof(uint32_t))
        memcpy(header.magic, <const char *>b"FSLENS\0\1", 8)
        header.pid = pid

    def _wipe(self, begin):
        # Give the pages back, or what holds them would grow with each worker that ever sat here; the header stays.
        cdef Header *header = self.header
        try:
            self.memory._map.madvise(mmap.MADV_REMOVE, begin + PAGE, self.memory.area_size - PAGE)
        except (AttributeError, OSError, ValueError):
            memset(self.texts, 0, self.memory.area_size - PAGE)

    def set_mode(self, mode, sample=1, slow_ns=0):
        """Switch it. mode: a Mode; sample: 1 in so many; slow_ns: nanoseconds. The worker sees it at its next request."""
        self.header.sample = max(1, sample)
        self.header.slow_ns = slow_ns
        self.header.mode = int(mode)
        fs_lens_publish(&self.header.switches, self.header.switches + 1)

    @property
    def mode(self):
        """The LensMode that it was switched to."""
        return LensMode(Mode(self.header.mode), self.header.sample, self.header.slow_ns)

    @property
    def switches(self):
        """Times it was switched."""
        return self.header.switches

    @property
    def events(self):
        """Events ever written; the ring holds the last 65,536."""
        return self.header.ring_head

    @property
    def dropped(self):
        """Events and texts there was no room for."""
        return self.header.dropped

    @property
    def failures(self):
        """Exceptions inside the lens."""
        return self.header.failures

    @property
    def traced(self):
        """Requests traced."""
        return self.header.traced

    @property
    def mechanism(self):
        """0 not probed, 1 call_soon is bracketed, 2 the handler's own steps only, 3 it failed and is off."""
        return self.header.mechanism

    def copy(self) -> bytes:
        """The area as it is now, for a reader in this process."""
        begin = self.seat * self.memory.area_size
        return self.memory._map[begin:begin + self.memory.area_size]

    def write(self, int kind, t, *, dur=0, request=0, flags=0, a=0, task=0, b=0):
        """Write an event. Numbers as they stand in it."""
        self.event(kind, t, dur, request, flags, a, task, b)

    # --------------------------------------------------------------------------------------------------- texts

    def text(self, str text not None) -> int:
        """The id of a text; 0 if there is no more room."""
        return self.text_id(text)

    def code(self, code) -> int:
        """The id of a code object, or of anything with co_filename, co_qualname and co_firstlineno; 0: no room."""
        return self.code_id(code)

    def stack(self, frames, int wait=0) -> int:
        """The id of a stack. frames: (code, line) pairs from the outermost; wait: what it waits for. 0: no room."""
        return self.stack_id(wait, tuple([(self.code_id(code), line) for code, line in frames]))

    def request(self, bytes text not None) -> int:
        """The id of what a request is called; it lives as long as the ring of such texts turns."""
        return self.request_text(text, len(text))

    cdef uint32_t text_id(self, str text) except? 0:
        found = self._texts.get(text)
        if found is None:
            data = text.encode("utf-8", "backslashreplace")[:TEXT_MAX]
            found = self._entry(KIND_TEXT, <const char *>data, len(data))
            if found:
                self._texts[text] = found
        return found

    cdef uint32_t _meet(self, str text, size_t at) except? 0:
        cdef uint32_t found = self.text_id(text)
        cdef PyObject *before = self._familiar[at]
        Py_INCREF(text)
        self._familiar[at] = <PyObject *>text
        self._familiar_ids[at] = found
        Py_XDECREF(before)
        return found

    cdef uint32_t code_id(self, object code) except? 0:
        found = self._codes.get(code)
        if found is None:
            data = f"{code.co_filename}\0{code.co_qualname}\0{code.co_firstlineno}".encode("utf-8", "backslashreplace")
            if len(data) > TEXT_MAX:   # the end of a path says more than its beginning
                data = data[len(data) - TEXT_MAX:]
            found = self._entry(KIND_CODE, <const char *>data, len(data))
            if found:
                self._codes[code] = found
        return found

    cdef uint32_t stack_id(self, int wait, tuple frames) except? 0:
        cdef uint32_t words[2 + 2 * 128]
        cdef uint32_t count = 0
        key = (wait, frames)
        found = self._stacks.get(key)
        if found is None:
            if len(frames) > 128:
                frames = frames[len(frames) - 128:]
            for code, line in frames:
                words[2 + 2 * count] = code
                words[3 + 2 * count] = line or 0
                count += 1
            words[0] = <uint32_t>wait | count << 16
            words[1] = 0
            found = self._entry(KIND_STACK, words, 8 + 8 * count)
            if found:
                self._stacks[key] = found
        return found

    cdef uint32_t _entry(self, int kind, const void *data, size_t length) noexcept:
        cdef Header *header = self.header
        cdef size_t size = (8 + length + 7) & ~<size_t>7
        cdef uint8_t *entry = self.texts + header.text_used
        if header.text_used + size > TEXT_SIZE:
            header.dropped += 1
            return 0
        self._ids += 1
        (<uint32_t *>entry)[0] = self._ids
        (<uint16_t *>entry)[2] = kind
        (<uint16_t *>entry)[3] = length
        memcpy(entry + 8, data, length)
        fs_lens_publish(&header.text_used, header.text_used + size)
        return self._ids

    cdef uint32_t request_text(self, const uint8_t *data, size_t length) noexcept:
        # Most requests are called as one not long ago was.
        cdef Header *header = self.header
        cdef uint64_t hash
        cdef size_t size, at
        cdef uint32_t known
        cdef uint8_t *entry
        cdef uint32_t *place
        if length > REQUEST_MAX:
            length = REQUEST_MAX
        hash = fs_lens_hash(data, length)
        place = &self._recent_ids[hash & (RECENT_SLOTS - 1)]
        known = place[0]
        if known:
            entry = self.recents + <size_t>(known & ~RECENT_BIT) * 8 % RECENT_SIZE
            if (<uint32_t *>entry)[0] == known and (<uint16_t *>entry)[3] == length and memcmp(entry + 8, data, length) == 0 \
                    and header.recent_used - self._written(known) < RECENT_SIZE // 2:
                return known   # and what names it will be read before it is overwritten
        size = (8 + length + 7) & ~<size_t>7
        at = header.recent_used % RECENT_SIZE
        if at + size > RECENT_SIZE:   # no entry goes over the end
            header.recent_used += RECENT_SIZE - at
            at = 0
        entry = self.recents + at
        known = RECENT_BIT | <uint32_t>(header.recent_used // 8 & 0x7fffffff)
        (<uint32_t *>entry)[0] = known
        (<uint16_t *>entry)[2] = KIND_TEXT
        (<uint16_t *>entry)[3] = length
        memcpy(entry + 8, data, length)
        fs_lens_publish(&header.recent_used, header.recent_used + size)
        place[0] = known
        return known

    cdef uint64_t _written(self, uint32_t recent) noexcept:
        # Where in all that was ever written there its entry begins: the last place with these low 31 bits.
        cdef uint64_t now = self.header.recent_used // 8
        return (now - ((now - recent) & 0x7fffffff)) * 8
