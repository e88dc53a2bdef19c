"""model: a Recording told as requests, tasks, run slices and waits. What every view of the lens looks at.

Room: the top. Called by: explain, findings, doctor, top, page, perfetto, learn, testing. Calls: recording.

Theory of operation. A recording is a pile of events, each 40 bytes, of one worker each; some of the oldest may be
overwritten. `build` sorts them into requests and, inside those, tasks. A task's life is told by its polls: between the end
of one and the moment it became ready for the next it was *idle*, from then until it ran it was *scheduled*, and while it
ran it was *busy*; so the three add up to its life, to the nanosecond. TASK_AWAIT adds what it waited on and who woke it.

Beside the requests each worker has a Lane: everything its one loop did. From it comes who was to blame: a poll that took
long, or a stall that the watchdog saw, is a Hold, and whoever became ready, or whose bytes arrived, during a hold paid for
it. What can only be bounded says so: `late` is *at most* that much, for the loop notices a socket or a timer only when it
turns.

All times are nanoseconds of CLOCK_MONOTONIC; views convert.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastserve.lens.recording import Frame, Live, Recording, Stack, Wait

__all__ = [
    "Await",
    "Gc",
    "Hold",
    "Lane",
    "Mark",
    "Model",
    "Poll",
    "RequestTrace",
    "Span",
    "Stall",
    "TaskTrace",
    "ThreadRun",
    "Timer",
]

HOLD_NS = 1_000_000  # a poll this long is one that others may have waited for; shorter ones are the loop at work
GAP_NS = 500_000  # between two holds: the loop did not turn in so short a time, or it made no difference


# ---------------------------------------------------------------------------------------------------- what it is told in


@dataclass(slots=True)
class Hold:
    """The loop was in one place: a poll of a task, or a stall in code that no traced task ran."""

    start: int
    end: int
    request: str  # "": unknown, or none
    task: int
    stack: Stack | None  # where it was while it held the loop, if the watchdog saw it; else None
    after: Stack | None = None  # where the task suspended at its end
    before: Stack | None = None  # where it had resumed from
    gc: int = 0  # ns of it that were a collection of garbage

    @property
    def length(self) -> int:
        return self.end - self.start


@dataclass(slots=True)
class Poll:
    """One run slice of a task."""

    start: int
    end: int
    ready: int  # since when it could have run
    outcome: str  # "suspended" | "returned" | "raised" | "cancelled"
    stack: Stack | None  # where it suspended; None if it ended
    held_by: Hold | None = None  # what the loop was mostly in while this one was ready and did not run

    @property
    def length(self) -> int:
        return self.end - self.start

    @property
    def delay(self) -> int:
        return self.start - self.ready


@dataclass(slots=True)
class Await:
    """From a suspension to the next poll."""

    start: int
    ready: int | None  # None: still waiting
    end: int | None  # resumed; None: not yet
    stack: Stack | None
    wait: Wait
    waker_kind: str  # "unknown" | "task" | "timer" | "io" | "thread" | "cancel" | "self"
    waker_task: int = 0
    late: int = 0  # ns before `ready` in which the loop was held by others: it may have been due so much earlier
    held_by: Hold | None = None


@dataclass(slots=True)
class TaskTrace:
    """One task. busy + scheduled + idle is its life until its end, or until the recording was taken."""

    id: int
    parent: int  # 0: the root
    name: str
    polls: list[Poll] = field(default_factory=list)
    awaits: list[Await] = field(default_factory=list)
    started: int = 0
    ended: int | None = None
    outcome: str = ""  # of its last poll; "" while it lives
    busy: int = 0
    scheduled: int = 0
    idle: int = 0


@dataclass(slots=True)
class ThreadRun:
    """Work that a thread did for a request."""

    start: int
    end: int
    submitted: int
    name: str
    kind: str  # "wsgi" | "executor" | "handler"
    task: int = 0  # who waited for it

    @property
    def queued(self) -> int:
        return max(0, self.start - self.submitted)

    @property
    def length(self) -> int:
        return self.end - self.start


@dataclass(slots=True)
class Stall:
    """The loop did not turn: seen by the watchdog."""

    start: int
    end: int
    stack: Stack | None
    request: str  # "": not a traced request's
    late_stack: bool  # C code held the GIL: the stack is from when it gave it back
    task: int = 0
    in_flight: int = 0
    victims: list[str] = field(default_factory=list)  # requests that waited because of it

    @property
    def length(self) -> int:
        return self.end - self.start


@dataclass(slots=True)
class Gc:
    """A collection of garbage, in which nothing else runs."""

    start: int
    end: int
    generation: int
    collected: int
    request: str = ""

    @property
    def length(self) -> int:
        return self.end - self.start


@dataclass(slots=True)
class Span:
    """A stretch of time: a drain, or a wait for the client's bytes."""

    start: int
    end: int
    task: int = 0

    @property
    def length(self) -> int:
        return self.end - self.start


@dataclass(slots=True)
class Mark:
    """fastserve.mark("text")."""

    at: int
    text: str
    task: int = 0


@dataclass(slots=True)
class Timer:
    """A timer that ran `late` ns after it was due."""

    due: int
    late: int
    task: int = 0


@dataclass(slots=True)
class RequestTrace:
    """One request, from its bytes in the kernel to the last byte that the client took."""

    id: str  # "w1-0a31"
    worker: int  # its slot
    number: int
    seat: int = 0
    method: str = "?"
    path: str = "?"
    route: str | None = None
    status: int | None = None
    connection: int = 0
    first: bool = False  # of its connection
    pipelined: bool = False
    tls: bool = False
    websocket: bool = False
    wsgi: bool = False
    cut: bool = False
    client_left: bool = False
    failed: bool = False
    partial: bool = False  # its beginning was overwritten, or came before the recording
    accepted: int | None = None
    first_byte: int = 0
    head: int = 0
    handler_start: int | None = None
    handler_end: int | None = None
    response_head: int | None = None
    end: int | None = None
    until: int = 0  # the end, or when the recording was taken
    kernel_wait: int | None = None  # None: not known
    kernel_held_by: Hold | None = None
    parse: int = 0
    body_bytes_in: int = 0
    body_bytes_out: int = 0
    body_messages_out: int = 0
    body_complete: int | None = None  # when the last byte of its body had arrived
    tasks: dict[int, TaskTrace] = field(default_factory=dict)
    root: TaskTrace | None = None
    threads: list[ThreadRun] = field(default_factory=list)
    stalls: list[Stall] = field(default_factory=list)
    gc: list[Gc] = field(default_factory=list)
    drains: list[Span] = field(default_factory=list)
    receives: list[Span] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)
    timers: list[Timer] = field(default_factory=list)
    live: Live | None = None  # it was in flight when the recording was taken
    total: int = 0
    busy: int = 0  # handler time in which one of its tasks ran
    scheduled: int = 0  # in which none ran, and one could have
    idle: int = 0  # in which all of them waited
    late: int = 0  # of idle, at most
    thread_queue: int = 0
    thread_run: int = 0
    write_wait: int = 0
    polls: int = 0
    finished: bool = False

    @property
    def start(self) -> int:
        """When its bytes reached this machine, as far as is known."""
        return self.first_byte - (self.kernel_wait or 0)

    @property
    def name(self) -> str:
        """ "GET /items/7" """
        return f"{self.method} {self.path}"

    @property
    def route_name(self) -> str:
        """ "GET /items/{id}", or the path if no route is known."""
        return f"{self.method} {self.route or self.path}"


@dataclass(slots=True)
class Lane:
    """What one worker's loop did."""

    slot: int
    pid: int
    seat: int = 0
    mode: str = ""
    mechanism: int = 0
    polls: list[tuple[int, int, str, int]] = field(default_factory=list)  # start, end, request, task
    stalls: list[Stall] = field(default_factory=list)
    gc: list[Gc] = field(default_factory=list)
    holds: list[Hold] = field(default_factory=list)  # sorted, apart from each other
    lost: int = 0  # events that were overwritten or could not be written
    since_ns: int = 0  # from here on nothing is missing
    until_ns: int = 0


@dataclass(slots=True)
class Model:
    """All of a recording. `requests` by the time they began."""

    recording: Recording
    lanes: list[Lane]
    requests: list[RequestTrace]
    by_id: dict[str, RequestTrace]

    def find(self, which: str) -> RequestTrace | None:
        """ "last" (that ended), "slowest", or an id such as "w1-0a31"; None if there is none."""
        if which == "last":
            ended = [one for one in self.requests if one.finished]
            return max(ended, key=lambda one: one.until, default=None) or (self.requests[-1] if self.requests else None)
        if which == "slowest":
            whole = [one for one in self.requests if not one.partial and not one.websocket] or self.requests
            return max(whole, key=lambda one: one.total, default=None)
        return self.by_id.get(which.lower())

    def lane(self, request: RequestTrace) -> Lane | None:
        """The lane it ran in."""
        return next((lane for lane in self.lanes if lane.seat == request.seat), None)
