"""blackbox: what a worker was doing when it ended: told in the log, and kept in a file.

Room: floor 3. Called by: supervisor.py, when it buries a worker that nobody had told to go. Calls: lensfile, shared;
telemetry (the reader's half of the lens).

The board and the lens's memory outlive the worker, however it died: a signal that cannot be caught, the kernel short of
memory, a crash. Which requests were in flight is known in every mode, the default one too; where they waited, and the last
stalls, as far as the lens recorded. The files are recordings (.fsx), which every command of the lens reads; the newest
few are kept.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from typing import Any

from fastserve._version import __version__
from fastserve.errors import LensError
from fastserve.process import lensfile
from fastserve.process.shared import Shared
from fastserve.telemetry.lens.reading import Area, Kind, Stack, Wait, function_of, request_id, shown_frame

__all__ = ["BlackBox"]

logger = logging.getLogger("fastserve")

KEPT = 8  # files
SHOWN = 10  # requests: the oldest
STATES = ("in flight", "running", "ready to run", "waiting")
WAITS = {Wait.FUTURE: "", Wait.IO: "", Wait.CHILDREN: "for its tasks", Wait.YIELD: "for its turn"}


class BlackBox:
    """What is left of the worker that sat on this seat. Read at once: the seat will be given away."""

    def __init__(self, shared: Shared, seat: int) -> None:
        layout = shared.board.layout()
        begin = layout["seats_at"] + seat * layout["seat_bytes"]
        data = bytes(shared.board.memory[begin : begin + layout["seat_bytes"]])
        self.figures = lensfile.figures(data, seat, layout)
        self.flights = sorted(lensfile.flights(data, layout), key=lambda flight: int(flight["since_ns"]))
        self.now = time.monotonic_ns()
        self._area: Area | None = None
        self._stacks: dict[int, Stack] = {}
        self._texts: dict[int, str] = {}
        if shared.lens is not None:
            descriptor, size = (
                shared.lens.fd,
                shared.lens.area_size,
            )  # read, not mapped: what was never written stays so
            with contextlib.suppress(LensError, OSError):  # it had not begun to use it
                found = Area.read(lambda offset, length: os.pread(descriptor, length, seat * size + offset), size)
                if found.header["pid"] == self.figures["pid"]:
                    self._area = found
                    self._texts, self._stacks = found.strings()

    def __str__(self) -> str:
        """For the log: several lines, each indented."""
        shown = [self._flight(flight) for flight in self.flights[:SHOWN]]
        if len(self.flights) > SHOWN:
            shown.append(f"and {len(self.flights) - SHOWN} more")
        shown = shown or ["no request was in flight"]
        return "\n".join(f"  {line}" for line in (*shown, *self._stall()))

    def _flight(self, flight: dict[str, Any]) -> str:
        state = flight["state"] if flight["request"] and 0 <= flight["state"] < len(STATES) else 0
        since = flight["state_since_ns"]
        if flight["index"] == self.figures["running"]:  # said also of requests that are not traced
            state = 1
            since = max(flight["since_ns"], since if flight["request"] else self.figures["busy_since_ns"])
        words = [f"{flight['text']}, in flight for {self._ago(flight['since_ns'])}"]
        stack = self._stacks.get(flight["stack"]) if flight["request"] else None
        if state:
            wait = WAITS.get(stack.wait, f"for {stack.wait.name.lower()}") if state == 3 and stack is not None else ""
            words.append(f"{STATES[state]} {wait}".rstrip() + f" for {self._ago(since)}")
        if (place := where(stack)) is not None:
            words.append(f"{'from' if state == 1 else 'at'} {place}")
        if flight["request"]:
            words.append(request_id(self.figures["slot"], flight["request"]))
        return ", ".join(words)

    def stalled_at(self) -> str:
        """The line that holds its loop now, as far as the lens has seen it: " at app.py:12 handler", or ""."""
        if self._area is None or not self._area.header["stall_since_ns"]:
            return ""
        return _at(where(self._stacks.get(self._area.header["stall_stack"])))

    def _stall(self) -> list[str]:
        """Of its loop: the one that lasted, or the last."""
        if self._area is None:
            return []
        header = self._area.header
        if header["stall_since_ns"]:
            since = self._ago(header["stall_since_ns"])
            return [f"its event loop did not turn for the last {since}{self.stalled_at()}"]
        stalls = [event for event in self._area.events()[0] if event.kind == Kind.STALL]
        if not stalls:
            return []
        last = stalls[-1]
        what = self._texts.get(last.a >> 32) or self._area.recent(last.a >> 32)
        return [
            f"its last stall: {last.dur / 1e9:.2f} s{f' in {what}' if what else ''}{_at(where(self._stacks.get(last.b)))}, "
            f"which ended {self._ago(last.t + last.dur)} before"
        ]

    def _ago(self, since: int) -> str:
        return f"{max(0, self.now - since) / 1e9:.2f} s"

    def save(self, shared: Shared, note: str) -> str:
        """Keep it in the runtime directory: the path, "" if there is no lens. Raises OSError."""
        registration = shared.registration
        if registration is None:
            return ""
        directory = lensfile.prepare()
        stamp = time.strftime("%Y%m%d-%H%M%S")
        path = directory / f"blackbox-{stamp}-{self.figures['pid']}.fsx"
        area = {"area": None, "lost": 0} if self._area is None else {"area": 0, "lost": self._area.lost}
        head = {
            "name": registration.name,
            "version": __version__,
            "python": registration.python,
            "pid": registration.pid,
            "argv": registration.argv,
            "note": note,
            "taken_ns": self.now,
            "taken_unix_ns": time.time_ns(),
            "workers": [{"figures": self.figures, "flights": self.flights, **area}],
        }
        lensfile.write_fsx(path, head, [] if self._area is None else [self._area.pack()])
        old = sorted(directory.glob("blackbox-*.fsx"), key=lambda file: file.stat().st_mtime_ns)
        for file in old[:-KEPT]:
            with contextlib.suppress(OSError):
                file.unlink()
        return str(path)


def where(stack: Stack | None) -> str | None:
    """The line to look at: the innermost of the application's own, else the innermost."""
    frame = shown_frame(stack)
    return None if frame is None else f"{frame.file}:{frame.line} {function_of(frame)}"


def _at(place: str | None) -> str:
    return f" at {place}" if place is not None else ""
