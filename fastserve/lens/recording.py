"""recording: what the lens of a server holds, read from its shared memory or from a file.

Room: floor 3. Called by: model.py, top.py, commands.py, testing/. Calls: process.lensfile, telemetry.lens.modes, errors.

The server never waits for a reader, and a reader never trusts what it reads. Each worker has an area (offsets in HEADER): a
header page, texts, and a ring of events of 40 bytes. The writer stores an event, then the count of events ever written; so
what was overwritten while we copied is known by looking at the count again, and such events are counted as lost, not
shown. A file (.fsx) holds the same areas, packed, behind a head in JSON; a broken one is a LensError, never worse.

All times are ns of CLOCK_MONOTONIC, which is one clock for all processes of a machine.
"""

from __future__ import annotations

import json
import os
import struct
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

from fastserve.errors import LensError
from fastserve.process import lensfile
from fastserve.telemetry.lens.modes import LensMode, Mode, parse_mode

__all__ = [
    "Builder",
    "Event",
    "Frame",
    "Kind",
    "LensError",
    "Live",
    "Recording",
    "ServerInfo",
    "Stack",
    "Wait",
    "WorkerBuilder",
    "WorkerRecording",
    "request_id",
    "running",
    "switch",
]

PAGE = 4096
HEADER: dict[str, tuple[int, str]] = {
    "version": (8, "I"),
    "pid": (12, "I"),
    "slot": (16, "i"),
    "seat": (20, "I"),
    "generation": (24, "I"),
    "mechanism": (28, "I"),
    "started_ns": (32, "q"),
    "started_unix_ns": (40, "q"),
    "mode": (48, "I"),
    "sample": (52, "I"),
    "slow_ns": (56, "q"),
    "switches": (64, "Q"),
    "ring_head": (72, "Q"),
    "ring_capacity": (80, "Q"),
    "text_used": (88, "Q"),
    "text_capacity": (96, "Q"),
    "text_offset": (104, "Q"),
    "ring_offset": (112, "Q"),
    "dropped": (120, "Q"),
    "failures": (128, "Q"),
    "traced": (136, "Q"),
    "stalls": (144, "Q"),
    "heartbeat_ns": (152, "q"),
    "heartbeat_every_ns": (160, "q"),
    "stall_since_ns": (168, "q"),
    "stall_stack": (176, "I"),
    "stall_request": (180, "I"),
    "running_request": (184, "I"),
    "running_task": (188, "I"),
    "running_stack": (192, "I"),
    "cost_ns": (196, "I"),
    "running_since_ns": (200, "q"),
    "recent_offset": (336, "Q"),
    "recent_capacity": (344, "Q"),
    "recent_used": (352, "Q"),
}
"""The header of an area: name -> (offset, type in `struct`'s letters), little-endian. The server's side is memory.pyx."""

MAGIC = b"FSLENS\0\1"
VERSION = 1
DELAY_OFFSET, DELAYS = 208, 16
EVENT = struct.Struct("<QQIHHQII")
TEXT, STACK, CODE = 1, 2, 3  # kinds of entries among the texts
ENTRY = struct.Struct("<IHH")
RECENT = 1 << 31  # of a text's id: it is in the ring of what requests are called
RECENT_MARGIN = 512  # bytes of that ring that may be being overwritten, beyond what is known to be
STATES = ("unknown", "running", "ready", "waiting")
DEAD = 4  # SeatState.DEAD

FILE_MAGIC = b"FSX1"
FILE_HEAD_MAX = 32 << 20
AREAS_MAX = 1 << 30  # bytes that all areas of a file may unpack to
WORKERS_MAX = 4096
TRIES = 5  # at an area whose worker is being replaced


class Kind(IntEnum):
    """What an Event says. What its other fields mean is written in docs/lens.md."""

    REQUEST_BEGIN = 1
    CONN_ACCEPT = 2
    ROUTE = 3
    BODY = 4
    RESPONSE_HEAD = 5
    RESPONSE_BODY = 6
    DRAIN = 7
    REQUEST_END = 8
    TASK_SPAWN = 9
    TASK_POLL = 10
    TASK_AWAIT = 11
    TASK_END = 12
    THREAD_RUN = 13
    STALL = 14
    GC_PAUSE = 15
    MARK = 16
    TIMER = 17
    SWITCH = 18
    RECEIVE = 19


class Wait(IntEnum):
    """What a suspended task waits for, as far as its frames tell."""

    FUTURE = 0
    TIMER = 1
    LOCK = 2
    QUEUE = 3
    CHILDREN = 4
    THREAD = 5
    POOL = 6
    UPSTREAM = 7
    RECEIVE = 8
    DRAIN = 9
    EVENT = 10
    IO = 11
    SUBPROCESS = 12
    YIELD = 13
    MESSAGE = 14


class Event(NamedTuple):
    """One event: `t` is the start of the thing, `dur` its length, both ns."""

    t: int
    dur: int
    request: int
    kind: int
    flags: int
    a: int
    task: int
    b: int


@dataclass(frozen=True)
class Frame:
    """One line of a stack. `function` is the qualified name."""

    file: str
    line: int
    function: str


@dataclass(frozen=True)
class Stack:
    """Where a task waits, or a loop stands: outermost frame first."""

    frames: tuple[Frame, ...]
    wait: Wait = Wait.FUTURE


@dataclass
class Live:
    """A request in flight. `request` is 0 if it is not traced; then its state is known only if it runs now."""

    seat: int
    slot: int
    request: int
    text: str  # "GET /path"
    since_ns: int
    state: str  # running, ready, waiting, unknown
    state_since_ns: int
    stack: Stack | None


def request_id(slot: int, request: int) -> str:
    """As people see it: w3-18f2."""
    return f"w{slot}-{request:04x}"


def mode_text(mode: int, sample: int, slow_ns: int) -> str:
    """ "sample:100", "slow:200ms", "full": as it is written after --lens."""
    try:
        return str(LensMode(Mode(mode), sample, slow_ns))
    except ValueError:  # no mode of this version
        return "off"


# ------------------------------------------------------------------------------------------------------ one area


def _header(page: bytes) -> dict[str, int]:
    found = {name: struct.unpack_from("<" + kind, page, offset)[0] for name, (offset, kind) in HEADER.items()}
    if not page.startswith(MAGIC) or found["version"] != VERSION:
        raise LensError("this is no memory of a lens, or one of another version of fastserve")
    return found


@dataclass
class Area:
    """A consistent copy of one area: texts up to where they were, events oldest first."""

    page: bytes
    header: dict[str, int]
    texts: bytes
    recents: bytes  # the ring of what requests are called, where each would fill the texts
    ring: bytes
    lost: int  # events overwritten before we came, or while we read

    @classmethod
    def read(cls, read: Callable[[int, int], bytes], size: int) -> Area:
        """`read(offset, length)` copies from a memory of `size` bytes, in which somebody may be writing."""
        for _ in range(TRIES):
            page = read(0, PAGE)
            if len(page) < PAGE:
                raise LensError("the memory of a worker is cut short")
            header = _header(page)
            head, capacity = header["ring_head"], header["ring_capacity"]
            recents_held = min(header["recent_used"], header["recent_capacity"])
            ends = (
                header["ring_offset"] + capacity * EVENT.size,
                header["text_offset"] + header["text_used"],
                header["recent_offset"] + recents_held,
            )
            if max(ends) > size or capacity == 0:
                raise LensError("the memory of a worker is damaged: its parts do not fit in it")
            held = min(head, capacity)
            ring = read(header["ring_offset"], held * EVENT.size)
            texts = read(header["text_offset"], header["text_used"])  # later: what the events name is there by now
            recents = read(header["recent_offset"], recents_held)
            again = _header(read(0, PAGE))
            if again["started_ns"] == header["started_ns"] and again["ring_head"] >= head:
                break
        else:
            raise LensError("a worker is being replaced; try again")
        # At `again` the event number ring_head may be half written, over the one `capacity` before it.
        now = again["ring_head"]
        first = max(0, head - capacity, now + 1 - capacity if now >= capacity else 0)
        first = min(first, head)
        if head > capacity:  # the oldest is where the next will be written
            cut = head % capacity * EVENT.size
            ring = ring[cut:] + ring[:cut]
        if len(ring) < held * EVENT.size or len(texts) < header["text_used"] or len(recents) < recents_held:
            raise LensError("the memory of a worker is cut short")
        header["recent_used"] = max(again["recent_used"], header["recent_used"])
        return cls(page, header, texts, recents, ring[(first - (head - held)) * EVENT.size :], first)

    @classmethod
    def unpack(cls, data: bytes, lost: int | None) -> Area:
        """From a file. `lost`: what whoever packed it knew to be lost; None: nothing was written meanwhile."""
        found = cls.read(lambda offset, length: data[offset : offset + length], len(data))
        if lost is not None:
            found.lost = lost
            found.header["ring_head"] = lost + len(found.ring) // EVENT.size
        return found

    def pack(self) -> bytes:
        """An area that holds just this, its oldest event at the ring's begin."""
        texts = self.texts + bytes(-len(self.texts) % 8)
        count = len(self.ring) // EVENT.size
        page = bytearray(self.page)
        # Room for one event more than there are: a reader, who gives up the place of the next one, loses none.
        values = {"ring_head": count, "ring_capacity": count + 1, "recent_used": self.header["recent_used"]}
        values |= {"text_offset": PAGE, "text_used": len(self.texts), "text_capacity": len(texts)}
        recents = self.recents + bytes(min(values["recent_used"], self.header["recent_capacity"]) - len(self.recents))
        recents += bytes(-len(recents) % 8)
        values |= {"recent_offset": PAGE + len(texts), "ring_offset": PAGE + len(texts) + len(recents)}
        for name, value in values.items():
            _store(page, name, value)
        return bytes(page) + texts + recents + self.ring + bytes(EVENT.size)

    def events(self) -> tuple[list[Event], int]:
        """All that can be meant, and how many cannot."""
        make = Event._make
        found = [make(fields) for fields in EVENT.iter_unpack(self.ring) if 1 <= fields[3] <= 19]
        return found, len(self.ring) // EVENT.size - len(found)

    def strings(self) -> tuple[dict[int, str], dict[int, Stack]]:
        """Texts and stacks by id. An entry that makes no sense ends the walk."""
        texts: dict[int, str] = {}
        codes: dict[int, tuple[str, str]] = {}
        raw: dict[int, bytes] = {}
        data, at = self.texts, 0
        while at + ENTRY.size <= len(data):
            number, kind, length = ENTRY.unpack_from(data, at)
            body = data[at + ENTRY.size : at + ENTRY.size + length]
            if number == 0 or len(body) < length:
                break
            if kind == TEXT:
                texts[number] = body.decode("utf-8", "backslashreplace")
            elif kind == CODE:
                parts = body.decode("utf-8", "backslashreplace").split("\0")
                codes[number] = (parts[0] or "?", parts[1] if len(parts) > 1 and parts[1] else "?")
            elif kind == STACK:
                raw[number] = body
            at += ENTRY.size + (length + 7 & ~7)
        return texts, {number: _stack(body, codes) for number, body in raw.items()}

    def recent(self, number: int) -> str | None:
        """What a request is called, if that is still there. Its id says where it stood in all that was ever written."""
        used, capacity = self.header["recent_used"], self.header["recent_capacity"]
        age = (used // 8 - number) % RECENT * 8  # bytes written since it was
        if not 0 < age <= capacity - RECENT_MARGIN:
            return None
        at = (used // 8 * 8 - age) % capacity
        if at + ENTRY.size > len(self.recents):
            return None
        found, kind, length = ENTRY.unpack_from(self.recents, at)
        body = self.recents[at + ENTRY.size : at + ENTRY.size + length]
        return (
            body.decode("utf-8", "backslashreplace")
            if found == number and kind == TEXT and len(body) == length
            else None
        )


def _stack(body: bytes, codes: Mapping[int, tuple[str, str]]) -> Stack:
    if len(body) < 8:
        return Stack(())
    wait, count = struct.unpack_from("<HH", body)
    count = min(count, (len(body) - 8) // 8)
    frames = []
    for code, line in struct.iter_unpack("<II", body[8 : 8 + count * 8]):
        file, function = codes.get(code, ("?", "?"))
        frames.append(Frame(file, line, function))
    return Stack(tuple(frames), Wait(wait) if wait <= max(Wait) else Wait.FUTURE)


def _store(page: bytearray, name: str, value: int) -> None:
    offset, kind = HEADER[name]
    struct.pack_into("<" + kind, page, offset, value)


# ------------------------------------------------------------------------------------------------------ recordings


@dataclass
class WorkerRecording:
    """What one worker process has recorded."""

    slot: int
    seat: int
    pid: int
    generation: int
    mode: str
    mechanism: int
    started_ns: int
    started_unix_ns: int
    events: list[Event]  # oldest first
    lost: int
    texts: dict[int, str]
    stacks: dict[int, Stack]
    live: list[Live]
    header: dict[str, int]
    delay: list[int]
    alive: bool
    seat_figures: Any  # the figures of its seat on the board, as attributes: see protocol.board.SeatView
    area: Area | None = field(default=None, repr=False)  # None: this server has no lens

    def text(self, number: int) -> str:
        """What an event calls by number; "?" if it did not fit."""
        return self.texts.get(number, "?")

    def stack(self, number: int) -> Stack | None:
        """The stack of that number; None: there is none, or it did not fit."""
        return self.stacks.get(number)

    @classmethod
    def of(cls, area: Area | None, figures: dict[str, Any], flights: list[dict[str, Any]]) -> WorkerRecording:
        """From a copy of its area, and its seat on the board as plain values. `flights`: each a dict of
        request, text, since_ns, state, state_since_ns, stack."""
        pid, slot, seat = figures["pid"], figures["slot"], figures["index"]
        header, delay, mode, page = dict.fromkeys(HEADER, 0), [0] * DELAYS, "off", b""
        events: list[Event] = []
        lost, texts, stacks = 0, dict[int, str](), dict[int, Stack]()
        if area is not None:
            header, page = area.header, area.page
            mode = mode_text(header["mode"], header["sample"], header["slow_ns"])
        if area is not None and header["pid"] == pid:  # else the worker has not begun to use it
            events, bad = area.events()
            lost = area.lost + bad
            texts, stacks = area.strings()
            for number in {event.b for event in events if event.b & RECENT and event.kind == Kind.REQUEST_BEGIN}:
                if (called := area.recent(number)) is not None:
                    texts[number] = called
            delay = list(struct.unpack_from(f"<{DELAYS}Q", page, DELAY_OFFSET))
        running = figures["running"]
        live = []
        for flight in flights:
            number = flight["state"]
            state = STATES[number] if 0 <= number < len(STATES) else "unknown"
            since = flight["state_since_ns"]
            if flight["index"] == running:
                state, since = "running", since if state == "running" else figures["busy_since_ns"]
            live.append(
                Live(
                    seat,
                    slot,
                    flight["request"],
                    flight["text"],
                    flight["since_ns"],
                    state,
                    since if state != "unknown" else 0,
                    stacks.get(flight["stack"]),
                )
            )
        live.sort(key=lambda entry: entry.since_ns)
        return cls(
            slot=slot,
            seat=seat,
            pid=pid,
            generation=figures["generation"],
            mode=mode,
            mechanism=header["mechanism"],
            started_ns=header["started_ns"] or figures["started_ns"],
            started_unix_ns=header["started_unix_ns"],
            events=events,
            lost=lost,
            texts=texts,
            stacks=stacks,
            live=live,
            header=header,
            delay=delay,
            alive=figures["state"] != DEAD,
            seat_figures=SimpleNamespace(**figures),
            area=area,
        )


@dataclass
class Recording:
    """All that the lens of one server holds, at one moment."""

    name: str
    pid: int
    version: str
    python: str
    taken_ns: int
    taken_unix_ns: int
    workers: list[WorkerRecording]
    source: str  # "live" or "file"
    argv: list[str] = field(default_factory=list)
    note: str = ""  # of a black box: how the worker ended
    _seats: list[dict[str, Any]] = field(default_factory=list, repr=False)

    @property
    def mode(self) -> str:
        """The mode of its workers: the same for all, save while it is being switched."""
        return self.workers[0].mode if self.workers else "off"

    @classmethod
    def take(cls, target: str | int | None = None) -> Recording:
        """Of a running server, by its pid, that of a worker, or its name; or of a file, by its path (.fsx); None: of the
        only server that runs. LensError in one line if there is no such thing."""
        if isinstance(target, str) and (target.endswith(".fsx") or os.sep in target):
            return cls.load(target)
        registration = lensfile.find(target)
        with _opened(registration) as memory:
            workers, seats = [], []
            for figures, flights in memory.seats():
                area = memory.area(figures["index"])
                workers.append(WorkerRecording.of(area, figures, flights))
                seats.append({"figures": figures, "flights": flights})
        return cls(
            registration.name,
            registration.pid,
            registration.version,
            registration.python,
            time.monotonic_ns(),
            time.time_ns(),
            workers,
            "live",
            registration.argv,
            "",
            seats,
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it to a file that load() reads, 0600: it names paths and lines. LensError if that cannot be done."""
        workers: list[dict[str, Any]] = []
        areas: list[bytes] = []
        for worker, seat in zip(self.workers, self._seats, strict=True):
            if worker.area is not None:
                workers.append({**seat, "area": len(areas), "lost": worker.area.lost})
                areas.append(worker.area.pack())
            else:
                workers.append({**seat, "area": None, "lost": 0})
        head = {
            "name": self.name,
            "version": self.version,
            "python": self.python,
            "pid": self.pid,
            "argv": self.argv,
            "note": self.note,
            "taken_ns": self.taken_ns,
            "taken_unix_ns": self.taken_unix_ns,
            "workers": workers,
        }
        try:
            lensfile.write_fsx(path, head, areas)
        except OSError as error:
            raise LensError(f"cannot write {os.fspath(path)!r}: {error.strerror or error}") from None

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Recording:
        """From a file that save() or a supervisor has written. LensError in one line if it is not one, or is broken."""
        try:
            data = Path(path).read_bytes()
        except OSError as error:
            raise LensError(f"cannot read {os.fspath(path)!r}: {error.strerror or error}") from None
        try:
            return cls._parse(data)
        except LensError as error:
            raise LensError(f"{os.fspath(path)!r}: {error}") from None
        except (ValueError, KeyError, TypeError, AttributeError, IndexError, struct.error, zlib.error, RecursionError):
            raise LensError(f"{os.fspath(path)!r} is no recording, or it is damaged") from None

    @classmethod
    def _parse(cls, data: bytes) -> Recording:
        if not data.startswith(FILE_MAGIC):
            raise LensError("this is no recording of a lens")
        (length,) = struct.unpack_from("<I", data, 4)
        if length > min(FILE_HEAD_MAX, len(data) - 8):
            raise LensError("the recording is cut short")
        head = json.loads(data[8 : 8 + length])
        entries = head["workers"]
        if len(entries) > WORKERS_MAX:
            raise LensError("the recording has too many workers")
        at, left = 8 + length, AREAS_MAX
        areas: list[bytes] = []
        for size in head["areas"]:
            if not 0 <= _int(size) <= len(data) - at:
                raise LensError("the recording is cut short")
            unpacker = zlib.decompressobj()
            areas.append(unpacker.decompress(data[at : at + size], max(left, 1)))
            if not unpacker.eof:
                raise LensError("the recording is cut short, or too large")
            at, left = at + size, left - len(areas[-1])
        workers, seats = [], []
        for entry in entries:
            figures = _figures(entry["figures"])
            flights = [_flight(flight) for flight in entry["flights"]]
            area = None
            if entry["area"] is not None:
                lost = entry["lost"]
                index = _int(entry["area"])
                if not 0 <= index < len(areas):
                    raise LensError("the recording lacks a worker's memory")
                area = Area.unpack(areas[index], None if lost is None else max(0, _int(lost)))
            workers.append(WorkerRecording.of(area, figures, flights))
            seats.append({"figures": figures, "flights": flights})
        return cls(
            str(head["name"]),
            _int(head["pid"]),
            str(head["version"]),
            str(head["python"]),
            _int(head["taken_ns"]),
            _int(head["taken_unix_ns"]),
            workers,
            "file",
            [str(word) for word in head["argv"]],
            str(head["note"]),
            seats,
        )


NUMBERS = ("index", "pid", "slot", "state", "generation", "started_ns", "busy_since_ns", "running")


def _int(value: Any) -> int:
    if type(value) is not int:
        raise TypeError(value)
    return value


def _figures(found: Any) -> dict[str, Any]:
    """Of a file: numbers, and lists of numbers; those that we need are there."""
    for value in found.values():
        for number in value if isinstance(value, list) else [value]:
            _int(number)
    for name in NUMBERS:
        _int(found[name])
    return {str(name): tuple(value) if isinstance(value, list) else value for name, value in found.items()}


def _flight(found: Any) -> dict[str, Any]:
    names = ("index", "request", "task", "stack", "state", "since_ns", "state_since_ns")
    return {"text": str(found["text"])} | {name: _int(found[name]) for name in names}


# ------------------------------------------------------------------------------------------------- running servers


@dataclass
class ServerInfo:
    """A server that runs here, as it has registered itself."""

    pid: int
    name: str
    mode: str
    workers: int
    addresses: list[str]
    started: float  # seconds since the epoch
    pids: list[int]  # of its workers


class _Memory:
    """The board and the areas of a running server, open."""

    def __init__(self, registration: lensfile.Registration, board: int, lens: int) -> None:
        self._layout = registration.layout
        self._area_bytes = registration.area_bytes
        self._lens = lens
        self._board = board

    def seats(self) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
        """Each seat that somebody has, or had last: its figures, and its requests in flight."""
        layout = self._layout
        size = layout["seat_bytes"]
        for index in range(layout["seats"]):
            data = os.pread(self._board, size, layout["seats_at"] + index * size)
            if len(data) < size:
                raise LensError("the board of the server is cut short")
            figures = lensfile.figures(data, index, layout)
            if figures["pid"] and figures["state"]:
                yield figures, lensfile.flights(data, layout)

    def area(self, seat: int) -> Area | None:
        if self._lens < 0:
            return None
        start, size = seat * self._area_bytes, self._area_bytes
        if not os.pread(self._lens, 8, start).startswith(MAGIC):
            return None  # nobody has ever sat there
        return Area.read(lambda offset, length: os.pread(self._lens, length, start + offset), size)

    def mode(self) -> str:
        """The mode that all its workers have, or will have."""
        if self._lens < 0:
            return "off"
        return mode_text(*struct.unpack("<IIq", os.pread(self._lens, 16, HEADER["mode"][0])))

    def switch(self, mode: int, sample: int, slow_ns: int) -> None:
        """For all areas, also of workers to come. `switches` last: who sees it has seen the rest."""
        for index in range(self._layout["seats"]):
            start = index * self._area_bytes
            words = struct.pack("<IIq", mode, sample, slow_ns)
            os.pwrite(self._lens, words, start + HEADER["mode"][0])
            offset = start + HEADER["switches"][0]
            (count,) = struct.unpack("<Q", os.pread(self._lens, 8, offset))
            os.pwrite(self._lens, struct.pack("<Q", (count + 1) % 2**64), offset)


@contextmanager
def _opened(registration: lensfile.Registration, *, writing: bool = False) -> Iterator[_Memory]:
    """Its memory. LensError if it cannot be had, or is not what it should be."""
    found: list[int] = []
    try:
        found.append(registration.open("board"))
        found.append(registration.open("lens", writing=writing))
        yield _Memory(registration, found[0], found[1])
    except (OSError, struct.error, KeyError, TypeError) as error:
        what = getattr(error, "strerror", None) or "it is not as this version expects it"
        raise LensError(f"cannot read the memory of {registration}: {what}") from None
    finally:
        for descriptor in found:
            if descriptor >= 0:
                os.close(descriptor)


def running() -> list[ServerInfo]:
    """The servers of this user that run here with a lens (root: of all users), the oldest first."""
    found = []
    for registration in lensfile.registrations():
        try:
            with _opened(registration) as memory:
                pids = [figures["pid"] for figures, _ in memory.seats() if figures["state"] != DEAD]
                mode = memory.mode()
        except LensError:
            continue  # it is ending
        found.append(
            ServerInfo(
                registration.pid,
                registration.name,
                mode,
                len(pids),
                registration.addresses,
                registration.started_unix,
                pids,
            )
        )
    return found


def switch(target: str | int | None, mode: str) -> None:
    """Have a running server record by `mode`: ready, stalls, sample:N, slow:DURATION, full. It follows in half a second.

    `target`: as of Recording.take(). LensError in one line if that cannot be done.
    """
    try:
        wanted = parse_mode(mode)
    except ValueError as error:
        raise LensError(str(error)) from None
    if wanted.mode is Mode.OFF:
        raise LensError("a running lens cannot be taken off; `ready` records nothing")
    registration = lensfile.find(target)
    with _opened(registration, writing=True) as memory:
        memory.switch(wanted.mode, wanted.sample, wanted.slow_ns)


# ----------------------------------------------------------------------------------------------------- made by hand


class WorkerBuilder:
    """One worker of a Builder. Texts, codes and stacks are numbered as the server does it: from 1, over all kinds."""

    def __init__(self, slot: int, pid: int, *, mode: str = "full", capacity: int = 65536, **header: int) -> None:
        self.slot = slot
        self.pid = pid
        self._capacity = capacity
        self._ids: dict[Any, int] = {}
        self._texts = bytearray()
        self._recents = bytearray()
        self._events: list[Event] = []
        self._header = {"mode": Mode[mode.upper()], "started_ns": 1, "mechanism": 1, **header}
        self._flights: list[dict[str, Any]] = []
        self.delay = [0] * DELAYS
        self.figures: dict[str, Any] = {}

    def _entry(self, kind: int, key: Any, body: bytes) -> int:
        if (kind, key) not in self._ids:
            number = self._ids[kind, key] = len(self._ids) + 1
            self._texts += ENTRY.pack(number, kind, len(body)) + body + bytes(-len(body) % 8)
        return self._ids[kind, key]

    def text(self, text: str) -> int:
        return self._entry(TEXT, text, text.encode())

    def request_text(self, text: str) -> int:
        """As text(), in the ring of what requests are called."""
        number = RECENT | len(self._recents) // 8
        self._recents += ENTRY.pack(number, TEXT, len(text.encode())) + text.encode() + bytes(-len(text.encode()) % 8)
        return number

    def code(self, file: str, function: str, first: int = 1) -> int:
        body = f"{file}\0{function}\0{first}"
        return self._entry(CODE, body, body.encode())

    def stack(self, *frames: tuple[str, int, str], wait: Wait = Wait.FUTURE) -> int:
        """Frames as (file, line, function), outermost first."""
        pairs = [(self.code(file, function), line) for file, line, function in frames]
        body = struct.pack("<HHI", wait, len(pairs), 0) + b"".join(struct.pack("<II", *pair) for pair in pairs)
        return self._entry(STACK, (wait, tuple(pairs)), body)

    def event(
        self,
        kind: Kind,
        t: int,
        dur: int = 0,
        *,
        request: int = 0,
        flags: int = 0,
        a: int = 0,
        task: int = 0,
        b: int = 0,
    ) -> None:
        self._events.append(Event(t, dur, request, kind, flags, a, task, b))

    def live(
        self,
        text: str,
        since_ns: int,
        *,
        request: int = 0,
        task: int = 0,
        state: str = "unknown",
        state_since_ns: int = 0,
        stack: int = 0,
    ) -> None:
        """A request in flight."""
        self._flights.append(
            {
                "index": len(self._flights),
                "text": text,
                "since_ns": since_ns,
                "request": request,
                "task": task,
                "state": STATES.index(state),
                "state_since_ns": state_since_ns,
                "stack": stack,
            }
        )

    def memory(self) -> bytes:
        """The area, as a server would have it."""
        texts_at, recents_at, ring_at = PAGE, PAGE + len(self._texts), PAGE + len(self._texts) + len(self._recents)
        page = bytearray(PAGE)
        page[:8] = MAGIC
        values = {
            "version": VERSION,
            "pid": self.pid,
            "slot": self.slot,
            "seat": self.slot,
            "generation": 1,
            "started_unix_ns": 1_700_000_000_000_000_000,
            "sample": 100 if self._header["mode"] == Mode.SAMPLE else 0,
            "ring_head": len(self._events),
            "ring_capacity": self._capacity,
            "text_used": len(self._texts),
            "text_capacity": len(self._texts),
            "text_offset": texts_at,
            "recent_used": len(self._recents),
            "recent_capacity": 1 << 19,
            "recent_offset": recents_at,
            "ring_offset": ring_at,
        }
        for name, value in {**values, **self._header}.items():
            _store(page, name, value)
        struct.pack_into(f"<{DELAYS}Q", page, DELAY_OFFSET, *self.delay)
        ring = bytearray(self._capacity * EVENT.size)
        for index, event in enumerate(self._events):
            EVENT.pack_into(ring, index % self._capacity * EVENT.size, *event)
        return bytes(page + self._texts + self._recents + ring)

    def seat(self) -> dict[str, Any]:
        """Its seat on the board, as plain values."""
        return {"index": self.slot, "pid": self.pid, "slot": self.slot, "state": 2, "generation": 1} | {
            "started_ns": 1,
            "busy_since_ns": 0,
            "running": -1,
            "active": len(self._flights),
            "connections": len(self._flights),
            "served": 0,
            "accepts": 0,
            "latency": (0,) * 15,
            "latency_ns": 0,
            "by_class": (0,) * 6,
            **self.figures,
        }

    def build(self) -> tuple[WorkerRecording, dict[str, Any]]:
        data = self.memory()
        area = Area.read(lambda offset, length: data[offset : offset + length], len(data))
        figures, flights = self.seat(), self._flights
        return WorkerRecording.of(area, figures, flights), {"figures": figures, "flights": flights}


class Builder:
    """A Recording made by hand: for tests of what reads one, and for lessons. It passes through a server's bytes."""

    def __init__(self, name: str = "demo", *, pid: int = 1000, taken_ns: int = 0) -> None:
        self.name = name
        self.pid = pid
        self.taken_ns = taken_ns
        self.workers: list[WorkerBuilder] = []

    def worker(self, *, mode: str = "full", **options: Any) -> WorkerBuilder:
        """Another worker, in the next slot."""
        slot = len(self.workers)
        self.workers.append(WorkerBuilder(slot, self.pid + 1 + slot, mode=mode, **options))
        return self.workers[-1]

    def build(self) -> Recording:
        made = [worker.build() for worker in self.workers]
        ends = [event.t + event.dur for worker, _ in made for event in worker.events]
        taken = self.taken_ns or max(ends, default=1)
        seats = [seat for _, seat in made]
        workers = [worker for worker, _ in made]
        unix = 1_700_000_000_000_000_000 + taken
        return Recording(self.name, self.pid, "0", "3", taken, unix, workers, "live", ["fastserve"], "", seats)
