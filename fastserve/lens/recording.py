"""recording: what the lens of a server holds, read from its shared memory or from a file.

Room: floor 3. Called by: model.py, top.py, commands.py, testing/. Calls: process.lensfile, telemetry.lens.modes, errors.

How a worker's memory is read without trust is in telemetry/lens/reading.py. A file (.fsx) holds the same areas, packed,
behind a head in JSON; a broken one is a LensError, never worse.

All times are ns of CLOCK_MONOTONIC, which is one clock for all processes of a machine.
"""

from __future__ import annotations

import json
import os
import struct
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from fastserve.errors import LensError
from fastserve.process import lensfile
from fastserve.telemetry.lens.modes import Mode, parse_mode
from fastserve.telemetry.lens.reading import (
    CODE,
    DELAY_OFFSET,
    DELAYS,
    ENTRY,
    EVENT,
    HEADER,
    MAGIC,
    PAGE,
    RECENT,
    STACK,
    TEXT,
    VERSION,
    Area,
    Event,
    Frame,
    Kind,
    Stack,
    Wait,
    mode_text,
    request_id,
    store,
)

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
STATES = ("unknown", "running", "ready", "waiting")
DEAD = 4  # SeatState.DEAD

FILE_MAGIC = b"FSX1"
FILE_HEAD_MAX = 32 << 20
AREAS_MAX = 1 << 30  # bytes that all areas of a file may unpack to
WORKERS_MAX = 4096


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
            numbers = {event.b for event in events if event.kind in (Kind.REQUEST_BEGIN, Kind.CONTEXT)}
            numbers |= {event.a >> 32 for event in events if event.kind == Kind.STALL}
            for number in numbers:
                if number & RECENT and (called := area.recent(number)) is not None:
                    texts[number] = called
            delay = list(struct.unpack_from(f"<{DELAYS}Q", page, DELAY_OFFSET))
        running = figures["running"]
        live = []
        for flight in flights:
            number, since = flight["state"], flight["state_since_ns"]
            traced = (
                flight["request"] != 0 and since >= flight["since_ns"]
            )  # else it is of who was in that place before
            state = STATES[number] if traced and 0 <= number < len(STATES) else "unknown"
            if flight["index"] == running:
                state, since = (
                    "running",
                    max(since if state == "running" else figures["busy_since_ns"], flight["since_ns"]),
                )
            live.append(
                Live(
                    seat,
                    slot,
                    flight["request"],
                    flight["text"],
                    flight["since_ns"],
                    state,
                    since if state != "unknown" else 0,
                    stacks.get(flight["stack"]) if traced else None,
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
    except (
        OSError,
        struct.error,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        OverflowError,
        MemoryError,
    ) as error:
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
            store(page, name, value)
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
