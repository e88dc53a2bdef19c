"""wording: numbers, names and places as people read them. One manner for explain, findings and top.

Room: floor 3. Called by: explain, findings, doctor, top, commands. Calls: model, recording.
"""

from __future__ import annotations

import linecache
import os
from collections.abc import Iterable

from fastserve.lens.model import Hold, Model, RequestTrace, function_of, place, shown_frame
from fastserve.lens.recording import Frame, Recording, Stack, Wait
from fastserve.process.values import count

__all__ = [
    "WAITS_FOR",
    "Tasks",
    "count",
    "duration",
    "listed",
    "milliseconds",
    "readable",
    "share",
    "size",
    "source_line",
    "spot",
    "who",
]

WAITS_FOR: dict[Wait, str] = {
    Wait.FUTURE: "a future",
    Wait.TIMER: "a timer",
    Wait.LOCK: "a lock",
    Wait.QUEUE: "a queue",
    Wait.CHILDREN: "its child tasks",
    Wait.THREAD: "a thread",
    Wait.POOL: "a connection of a pool",
    Wait.UPSTREAM: "another service",
    Wait.RECEIVE: "the client's bytes",
    Wait.DRAIN: "the client to take bytes",
    Wait.EVENT: "an event",
    Wait.IO: "a socket or file",
    Wait.SUBPROCESS: "a subprocess",
    Wait.YIELD: "its next turn (it gave way)",
    Wait.MESSAGE: "a WebSocket message",
}


def duration(ns: int) -> str:
    """ "0.4 ms", "96.0 ms", "340 ms", "1.2 s", "5 min": as many digits as one wants to know."""
    ms = ns / 1e6
    if ms < 99.95:
        return f"{ms:.1f} ms"
    if ms < 999.5:
        return f"{ms:.0f} ms"
    if ms < 99_950:
        return f"{ms / 1000:.1f} s"
    return f"{ms / 1000:.0f} s" if ms < 600_000 else f"{ms / 60_000:.0f} min"


def milliseconds(ns: int) -> str:
    """For a column whose head says ms."""
    return f"{ns / 1e6:.1f}" if ns < 99_950_000 else f"{ns / 1e6:.0f}"


def size(count: int) -> str:
    """ "90 bytes", "1.2 kB", "3.4 MB"."""
    if count < 1000:
        return f"{count} byte{'s' * (count != 1)}"
    return f"{count / 1000:.1f} kB" if count < 999_950 else f"{count / 1e6:.1f} MB"


def share(part: int, whole: int) -> str:
    percent = 100 * part / whole if whole > 0 else 0.0
    return "<1 %" if 0 < percent < 1 else f"{percent:.0f} %"


def listed(words: Iterable[str], most: int = 3) -> str:
    """ "a, b and c"; "a, b, c and 9 others"."""
    all_words = list(words)
    if len(all_words) > most + 1:
        return ", ".join(all_words[:most]) + f" and {len(all_words) - most} others"
    return " and ".join([", ".join(all_words[:-1]), all_words[-1]]) if len(all_words) > 1 else "".join(all_words)


def spot(where: Stack | Frame | None) -> str:
    """ "reports.py:88 (render)"; "" if nothing is known."""
    frame = shown_frame(where) if isinstance(where, Stack) else where
    if frame is None:
        return ""
    function = function_of(frame)
    return f"{place(frame)} ({function})" if function and function != "?" else place(frame)


def readable(file: str, recording: Recording) -> bool:
    """Is the file on this machine, and older than the server? Else its lines may be others by now."""
    if not file or file.startswith("<"):
        return False
    starts = [worker.started_unix_ns for worker in recording.workers if worker.started_unix_ns]
    try:
        return not starts or os.stat(file).st_mtime_ns <= min(starts)
    except (OSError, ValueError):
        return False


def source_line(where: Stack | None, recording: Recording) -> str:
    """The text of the line shown, if its file is on this machine and older than the server; else ""."""
    frame = shown_frame(where)
    if frame is None or not readable(frame.file, recording):
        return ""
    text = linecache.getline(frame.file, frame.line).strip()
    return text if len(text) <= 100 else text[:99] + "…"


class Tasks:
    """Whose a task is: for "task 9 (GET /items/3)"."""

    def __init__(self, model: Model) -> None:
        self._owners = {(one.seat, task): one for one in model.requests for task in one.tasks}
        self._requests = model.by_id

    def request(self, seat: int, task: int) -> RequestTrace | None:
        return self._owners.get((seat, task))

    def named(self, seat: int, task: int, own: RequestTrace | None = None) -> str:
        """ "task 9 (GET /items/3)", without the request if it is `own`."""
        owner = self.request(seat, task)
        return f"task {task}" if owner is None or owner is own else f"task {task} ({owner.name})"

    def holder(self, hold: Hold) -> str:
        return who(hold, self._requests)


def who(hold: Hold, requests: dict[str, RequestTrace]) -> str:
    """ "GET /report at reports.py:88 (render)": what the loop was in."""
    request = requests.get(hold.request)
    name = f"{request.name} ({request.id})" if request is not None else hold.what or "code outside any recorded request"
    if hold.gc > hold.length // 2:
        return f"a collection of garbage during {name}"
    if at := spot(hold.stack):
        return f"{name} at {at}"
    before, after = place(hold.before), place(hold.after)
    if before and after:
        return f"{name} between {before} and {after}"
    if before or after:
        return f"{name} {'after' if before else 'before'} {before or after}"
    task = request.tasks.get(hold.task) if request is not None else None
    return f"{name} in {task.name}" if task is not None and task.name not in ("", "?") else name
