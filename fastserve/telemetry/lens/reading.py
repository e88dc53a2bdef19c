"""What a worker's area of the lens's memory says, for who did not write it: in another process, or from a file.

Room: side wing, telemetry; the reader's half of memory.pyx. Called by: lens/, process/blackbox.py, waits.py.
Calls: modes.py, errors.

The server never waits for a reader, and a reader never trusts what it reads. Offsets of the header are in HEADER; behind it
are texts, and a ring of events of 40 bytes. The writer stores an event, then the count of events ever written; so what was
overwritten while we copied is known by looking at the count again, and such events are counted as lost, not shown. All
times are ns of CLOCK_MONOTONIC, which is one clock for all processes of a machine.
"""

from __future__ import annotations

import re
import struct
import sysconfig
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from typing import NamedTuple

from fastserve.errors import LensError
from fastserve.telemetry.lens.modes import LensMode, Mode

__all__ = [
    "Area",
    "Event",
    "Frame",
    "Kind",
    "Stack",
    "Wait",
    "function_of",
    "is_library",
    "is_ours",
    "mode_text",
    "request_id",
    "shown_frame",
    "user_frame",
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
    ORPHAN = 20
    CONTEXT = 21


class Wait(IntEnum):
    """What a suspended task waits for, as far as its frames tell."""

    FUTURE = 0  # not known any better
    TIMER = 1
    LOCK = 2
    QUEUE = 3
    CHILDREN = 4  # other tasks
    THREAD = 5
    POOL = 6  # a free connection of a pool
    UPSTREAM = 7  # another server
    RECEIVE = 8  # the client: bytes of its body
    DRAIN = 9  # the client: to take its answer
    EVENT = 10
    IO = 11
    SUBPROCESS = 12
    YIELD = 13  # nothing: the others' turn
    MESSAGE = 14  # the client: a message of its WebSocket


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


def request_id(slot: int, request: int) -> str:
    """As people see it: w3-18f2."""
    return f"w{slot}-{request:04x}"


def mode_text(mode: int, sample: int, slow_ns: int) -> str:
    """ "sample:100", "slow:200ms", "full": as it is written after --lens."""
    try:
        return str(LensMode(Mode(mode), sample, slow_ns))
    except ValueError:  # no mode of this version
        return "off"


# ---------------------------------------------------------------------------------------------------- whose code

LIBRARY = re.compile(r"[/\\](?:lib(?:64)?[/\\](?:python|pypy)3(?:\.\d+)?t?|site-packages|dist-packages)[/\\]")
OURS = re.compile(
    r"(?:^|[/\\])fastserve[/\\](?:protocol|interfaces|telemetry|process|testing|lens[/\\](?!lessons)|\w+\.pyx?$)"
)
STDLIB = tuple(f"{path}/" for name in ("stdlib", "platstdlib") if (path := sysconfig.get_path(name)))


@lru_cache(maxsize=4096)
def is_library(file: str) -> bool:
    """Is it not the user's own? The standard library, what is installed, and this server."""
    return not file or file.startswith(("<", *STDLIB)) or bool(LIBRARY.search(file) or OURS.search(file))


def is_ours(file: str) -> bool:
    """Is it a file of the server itself?"""
    return OURS.search(file) is not None


def user_frame(stack: Stack | None) -> Frame | None:
    """The deepest frame that is the user's own: not the standard library's, an installed package's or ours."""
    if stack is not None:
        for frame in reversed(stack.frames):
            if not is_library(frame.file):
                return frame
    return None


def shown_frame(stack: Stack | None) -> Frame | None:
    """The frame to show: the user's own, or else the deepest there is."""
    return user_frame(stack) or (stack.frames[-1] if stack is not None and stack.frames else None)


def function_of(frame: Frame) -> str:
    """The function's name without where it was defined."""
    return frame.function.rpartition("<locals>.")[2] or frame.function


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
            store(page, name, value)
        return bytes(page) + texts + recents + self.ring + bytes(EVENT.size)

    def events(self) -> tuple[list[Event], int]:
        """All that can be meant, and how many cannot."""
        make = Event._make
        found = [make(fields) for fields in EVENT.iter_unpack(self.ring) if 1 <= fields[3] <= 21]
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


def store(page: bytearray, name: str, value: int) -> None:
    offset, kind = HEADER[name]
    struct.pack_into("<" + kind, page, offset, value)
