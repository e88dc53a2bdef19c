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

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from fastserve.lens.recording import (
    Event,
    Frame,
    Kind,
    Live,
    Recording,
    Stack,
    Wait,
    WorkerRecording,
    request_id,
)
from fastserve.telemetry.lens.reading import LIBRARY, function_of, is_library, is_ours, shown_frame, user_frame

__all__ = [
    "Await",
    "Gc",
    "Hold",
    "Lane",
    "Mark",
    "Model",
    "Orphan",
    "Poll",
    "RequestTrace",
    "Span",
    "Stall",
    "TaskTrace",
    "ThreadRun",
    "Timer",
    "build",
    "function_of",
    "is_ours",
    "place",
    "shown_frame",
    "user_frame",
    "user_frames",
]

WAKERS = ("unknown", "task", "timer", "io", "thread", "cancel", "self")
SPAWN_ROOT = 1
POLL_SUSPENDED = 1
OUTCOMES = ("", "suspended", "returned", "raised", "cancelled")
THREADS = ("wsgi", "executor", "handler")
NOTICED = ("unknown", "timer", "io", "thread")  # wakers that only a turn of the loop lets speak
HOLD_NS = 1_000_000  # a poll this long is one that others may have waited for; shorter ones are the loop at work
GAP_NS = 500_000  # between two holds: the loop did not turn in so short a time, or it made no difference
NOTICE_NS = 3_000_000  # behind a hold: until the loop has seen what came meanwhile


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
    what: str = ""  # "GET /report": what ran, where nothing is traced

    @property
    def length(self) -> int:
        return self.end - self.start


@dataclass(slots=True)
class Poll:
    """One run slice of a task."""

    start: int
    end: int
    ready: int  # since when it could have run
    outcome: str  # "suspended" | "returned" | "raised" | "cancelled"; "running": not over when the recording was taken
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
    interrupted: bool = (
        False  # it did not wait: another slice ran within its own, an eager child's, or the next request's
    )
    late: int = 0  # ns before `ready` in which the loop was held by others: it may have been due so much earlier
    exact: bool = False  # it was due so much earlier: a timer whose time is known
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
    what: str = ""  # "GET /report": what ran, also where nothing is traced; "": no request
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
class Orphan:
    """A task or coroutine that nobody will hear of."""

    at: int
    what: str  # "destroyed": a task, while it was pending | "unawaited": a coroutine that never began
    name: str
    stack: Stack | None  # where the task waited; where the coroutine was dropped, or, `defined`, where its code begins
    defined: bool = False
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
    orphans: list[Orphan] = field(default_factory=list)
    traceparent: str = ""  # as the client has sent it, W3C Trace Context; "": it has not
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
    orphans: list[Orphan] = field(default_factory=list)  # of which nobody knows whose they were
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


# ---------------------------------------------------------------------------------------------------------- reading it


def build(recording: Recording) -> Model:
    """Everything that the recording tells. Never raises for what is missing in it: such requests are `partial`."""
    lanes: list[Lane] = []
    requests: list[RequestTrace] = []
    for worker in recording.workers:
        reader = _Reader(worker, recording.taken_ns)
        lanes.append(reader.lane)
        requests += reader.read()
    requests.sort(key=lambda one: (one.start, one.id))
    return Model(recording, lanes, requests, {one.id: one for one in requests})


class _Reader:
    """The events of one worker, put in order."""

    def __init__(self, worker: WorkerRecording, now: int) -> None:
        self.worker = worker
        self.now = now
        self.lane = Lane(worker.slot, worker.pid, worker.seat, worker.mode, worker.mechanism, lost=worker.lost)
        self.lane.since_ns = worker.events[0].t if worker.lost and worker.events else worker.started_ns
        self.lane.until_ns = now
        self.requests: dict[int, RequestTrace] = {}
        self.last: dict[int, int] = {}  # request -> the latest moment that an event of it tells of
        self.begun: set[int] = set()
        self.accepted: dict[int, int] = {}  # connection -> when
        self.spawned: dict[int, dict[int, int]] = {}  # request -> task -> when
        self.live = {one.request: one for one in worker.live if one.request}

    def read(self) -> list[RequestTrace]:
        for event in self.worker.events:
            self._take(event)
        self._running_now()
        self._stalled_now()
        for live in self.live.values():
            self._live(live)
        for request in self.requests.values():
            self._finish(request)
        self._lane()
        index = _Index(self.lane.holds)
        for request in self.requests.values():
            _blame(request, index)
            _sum_up(request)
        self._victims()
        return list(self.requests.values())

    # -------------------------------------------------------------------------------------------------------- events

    def _text(self, number: int) -> str:
        return self.worker.texts.get(number, "?")

    def _stack(self, number: int) -> Stack | None:
        return self.worker.stacks.get(number) if number else None

    def _id(self, number: int) -> str:
        return request_id(self.worker.slot, number) if number else ""

    def _request(self, number: int, at: int) -> RequestTrace:
        found = self.requests.get(number)
        if found is None:
            found = self.requests[number] = RequestTrace(
                self._id(number), self.worker.slot, number, self.worker.seat, head=at, first_byte=at, partial=True
            )
        return found

    def _task(self, request: RequestTrace, number: int) -> TaskTrace:
        found = request.tasks.get(number)
        if found is None:
            found = request.tasks[number] = TaskTrace(number, 0, "")
        return found

    def _take(self, event: Event) -> None:
        kind, number = event.kind, event.request
        if kind == Kind.STALL:
            stall = Stall(
                event.t,
                event.t + event.dur,
                self._stack(event.b),
                self._id(number),
                bool(event.flags & 1),
                event.task,
                event.a & 0xFFFFFFFF,
                self.worker.text(event.a >> 32) if event.a >> 32 else "",
            )
            self.lane.stalls.append(stall)
            return
        if kind == Kind.GC_PAUSE:
            self.lane.gc.append(Gc(event.t, event.t + event.dur, event.b, event.a, self._id(number)))
            return
        if kind == Kind.SWITCH:
            if not self.lane.lost:
                self.lane.since_ns = max(self.lane.since_ns, event.t)
            return
        if not number:
            if kind == Kind.CONN_ACCEPT:
                self.accepted[event.task] = event.t
            elif kind == Kind.TASK_POLL:
                self.lane.polls.append((event.t, event.t + event.dur, "", event.task))
            elif kind == Kind.ORPHAN:
                self.lane.orphans.append(self._orphan(event))
            return
        request = self._request(number, event.t)
        over = event.t + (0 if kind in (Kind.REQUEST_BEGIN, Kind.REQUEST_END) else event.dur)
        if over > self.last.get(number, 0):
            self.last[number] = over
        self._tell(request, kind, event)

    def _tell(self, request: RequestTrace, kind: int, event: Event) -> None:
        """An event of a request; the most frequent kinds first."""
        t, flags = event.t, event.flags
        if kind == Kind.TASK_POLL:
            end = t + event.dur
            outcome = OUTCOMES[flags] if flags < len(OUTCOMES) else ""
            task = self._task(request, event.task)
            task.polls.append(Poll(t, end, min(event.a, t) or t, outcome, self._stack(event.b)))
            if flags > POLL_SUSPENDED:
                task.ended, task.outcome = end, outcome
            self.lane.polls.append((t, end, request.id, event.task))
        elif kind == Kind.TASK_AWAIT:
            stack = self._stack(event.b)
            woken = event.a >> 32
            kind_of = WAKERS[woken] if woken < len(WAKERS) else "unknown"
            wait = stack.wait if stack is not None else Wait.FUTURE
            found = Await(t, t + event.dur, None, stack, wait, kind_of, event.a & 0xFFFFFFFF)
            found.interrupted = stack is None and not event.dur and kind_of == "self"
            self._task(request, event.task).awaits.append(found)
        elif kind == Kind.REQUEST_BEGIN:
            self._begin(request, event)
        elif kind == Kind.REQUEST_END:
            request.end, request.status = t, event.a or request.status
            request.finished = True
            request.body_bytes_out = max(event.b, request.body_bytes_out)
            request.cut, request.client_left, request.failed = bool(flags & 1), bool(flags & 2), bool(flags & 4)
            if request.number not in self.begun:
                request.head = request.first_byte = min(request.head, t - event.dur)
        elif kind == Kind.RESPONSE_HEAD:
            request.response_head, request.status = t, event.a
        elif kind == Kind.RESPONSE_BODY:
            request.body_bytes_out += event.a
            request.body_messages_out += 1
        elif kind == Kind.TASK_SPAWN:
            task = self._task(request, event.task)
            task.name = self._text(event.a).rpartition("<locals>.")[2]
            if not flags & SPAWN_ROOT:
                task.parent = event.b
            elif event.b:
                request.route = self._text(event.b)
            self.spawned.setdefault(request.number, {})[event.task] = t
        elif kind == Kind.TASK_END:
            task = self._task(request, event.task)
            task.ended, task.outcome = t, OUTCOMES[flags] if flags < len(OUTCOMES) else ""
        elif kind == Kind.BODY:
            request.body_bytes_in += event.a
            if flags & 1:
                request.body_complete = t
        elif kind == Kind.ROUTE:
            request.route = self._text(event.b)
        elif kind == Kind.CONN_ACCEPT:
            request.accepted = t
        elif kind == Kind.THREAD_RUN:
            sort = THREADS[flags] if flags < len(THREADS) else "executor"
            request.threads.append(
                ThreadRun(t, t + event.dur, min(event.a, t) or t, self._text(event.b), sort, event.task)
            )
        elif kind == Kind.DRAIN:
            request.drains.append(Span(t, t + event.dur, event.task))
        elif kind == Kind.RECEIVE:
            request.receives.append(Span(t, t + event.dur, event.task))
        elif kind == Kind.MARK:
            request.marks.append(Mark(t, self._text(event.b), event.task))
        elif kind == Kind.TIMER:
            request.timers.append(Timer(t, event.dur, event.task))
        elif kind == Kind.CONTEXT:
            request.traceparent = self._text(event.b)
        elif kind == Kind.ORPHAN:
            request.orphans.append(self._orphan(event))

    def _orphan(self, event: Event) -> Orphan:
        what = "destroyed" if event.flags & 1 else "unawaited"
        name = self._text(event.a).rpartition("<locals>.")[2]
        return Orphan(event.t, what, name, self._stack(event.b), bool(event.flags & 4), event.task)

    def _begin(self, request: RequestTrace, event: Event) -> None:
        flags = event.flags
        self.begun.add(request.number)
        request.partial = False
        request.head, request.first_byte = event.t, event.t - event.dur
        request.parse = event.dur
        self._named(request, self._text(event.b))
        request.connection = event.task
        request.first, request.pipelined, request.tls = bool(flags & 1), bool(flags & 4), bool(flags & 8)
        request.websocket, request.wsgi = bool(flags & 16), bool(flags & 32)
        if flags & 2:
            request.kernel_wait = event.a
        if request.first and request.accepted is None:
            request.accepted = self.accepted.pop(event.task, None)

    @staticmethod
    def _named(request: RequestTrace, text: str) -> None:
        method, _, path = text.partition(" ")
        request.method, request.path = method or "?", path or "?"

    # ------------------------------------------------------------------------------------------ what is going on now

    def _running_now(self) -> None:
        """The poll that is not over has written nothing yet: the header tells of it."""
        header = self.worker.header
        number, task, since = (
            header.get("running_request", 0),
            header.get("running_task", 0),
            header.get("running_since_ns", 0),
        )
        if not (number and since) or since > self.now or not (number in self.requests or number in self.live):
            return
        request = self._request(number, since)
        if request.finished and task not in request.tasks:
            return
        found = self._task(request, task)
        last = found.awaits[-1] if found.awaits else None
        ready = last.ready if last is not None and last.ready is not None else since
        if found.ended is None and (not found.polls or found.polls[-1].end <= since):
            found.polls.append(Poll(since, self.now, min(ready, since), "running", None))
            self.lane.polls.append((since, self.now, request.id, task))

    def _stalled_now(self) -> None:
        header = self.worker.header
        since = header.get("stall_since_ns", 0)
        if since and since < self.now:
            stack = self._stack(header.get("stall_stack", 0))
            number = header.get("stall_request", 0) or header.get("running_request", 0)
            task = header.get("running_task", 0)
            self.lane.stalls.append(Stall(since, self.now, stack, self._id(number), False, task))

    def _live(self, live: Live) -> None:
        request = self._request(live.request, live.since_ns)
        request.live = live
        if request.partial and live.text:
            self._named(request, live.text)

    # ------------------------------------------------------------------------------------------------------ ordering

    def _finish(self, request: RequestTrace) -> None:
        if request.finished and request.end is not None:
            request.until = max([request.end, *(drain.end for drain in request.drains)])
        elif request.live is not None:
            request.until = self.now
        else:  # its end is not in the recording
            request.partial = True
            request.until = self.last.get(request.number, request.head)
        request.first_byte = min(request.first_byte, request.head)
        spawned = self.spawned.get(request.number, {})
        for task in request.tasks.values():
            alive = task.ended is None and (request.live is not None or not request.partial)
            _order(task, spawned.get(task.id), self.now if alive else self.last.get(request.number, 0))
        roots = [task for task in request.tasks.values() if task.parent == 0]
        request.root = min(roots, key=lambda task: (task.started, task.id), default=None)
        request.threads.sort(key=lambda run: run.submitted)
        request.timers.sort(key=lambda timer: timer.due + timer.late)
        own = [run for run in request.threads if run.kind != "executor"]
        if request.root is not None:
            request.handler_start, request.handler_end = request.root.started, request.root.ended
        elif own:
            request.handler_start = own[0].submitted
            request.handler_end = max(run.end for run in own) if request.finished else None

    def _lane(self) -> None:
        lane = self.lane
        lane.polls.sort()
        lane.stalls.sort(key=lambda stall: stall.start)
        lane.gc.sort(key=lambda gc: gc.start)
        lane.holds = _holds(self.requests.values(), lane)
        for stall in lane.stalls:
            found = self.requests.get(_number(stall.request))
            if found is not None:
                found.stalls.append(stall)
        for gc in lane.gc:
            found = self.requests.get(_number(gc.request))
            if found is not None:
                found.gc.append(gc)

    def _victims(self) -> None:
        """Who waited because of each stall."""
        stalls = self.lane.stalls
        if not stalls:
            return
        ends = [stall.end for stall in stalls]
        found: list[set[str]] = [set() for _ in stalls]
        for request in self.requests.values():
            for start, end in _waits(request):
                at = bisect_right(ends, start)
                while at < len(stalls) and stalls[at].start < end:
                    if min(end, stalls[at].end) - max(start, stalls[at].start) >= HOLD_NS:
                        found[at].add(request.id)
                    at += 1
        for stall, victims in zip(stalls, found, strict=True):
            stall.victims = sorted(victims - {stall.request})


def _number(request: str) -> int:
    return int(request.rpartition("-")[2], 16) if request else 0


def _order(task: TaskTrace, spawned: int | None, until: int) -> None:
    """Polls and awaits in their order, awaits between polls, and the sums."""
    polls, awaits = task.polls, task.awaits
    polls.sort(key=lambda poll: poll.start)
    if len(polls) > 1:  # an event that was written twice, or a poll that began again in a torn recording
        polls[:] = [poll for at, poll in enumerate(polls) if at == 0 or poll.start >= polls[at - 1].start]
    awaits.sort(key=lambda wait: wait.start)
    known = {wait.start for wait in awaits}
    for at, poll in enumerate(polls):
        if poll.outcome != "suspended" or poll.end in known:
            continue
        following = polls[at + 1] if at + 1 < len(polls) else None
        wait = poll.stack.wait if poll.stack is not None else Wait.FUTURE
        ready = max(poll.end, following.ready) if following is not None else None
        awaits.append(Await(poll.end, ready, None, poll.stack, wait, "unknown"))
    awaits.sort(key=lambda wait: wait.start)
    starts = [poll.start for poll in polls]
    for one in awaits:
        if one.ready is not None:
            at = bisect_left(starts, one.ready)
            one.end = starts[at] if at < len(starts) else None
    first = min([poll.ready for poll in polls[:1]] + [wait.start for wait in awaits[:1]], default=until)
    task.started = min(spawned, first) if spawned is not None else first
    if polls and spawned is not None and polls[0].ready > spawned and not (awaits and awaits[0].start < polls[0].start):
        polls[0].ready = spawned  # it could have run since it was made
    if task.ended is None and polls and polls[-1].outcome in ("returned", "raised", "cancelled"):
        task.ended, task.outcome = polls[-1].end, polls[-1].outcome
    task.busy = sum(poll.length for poll in polls)
    task.scheduled = sum(poll.delay for poll in polls)
    task.idle = sum(one.ready - one.start for one in awaits if one.ready is not None)
    if task.ended is None and awaits and awaits[-1].end is None:
        last = awaits[-1]
        if last.ready is None:
            task.idle += max(0, until - last.start)
        else:
            task.scheduled += max(0, until - last.ready)


# ---------------------------------------------------------------------------------------------------------- who held it


def _holds(requests: Iterable[RequestTrace], lane: Lane) -> list[Hold]:
    """Polls that took long, with the line that the watchdog saw; and stalls in which no traced task ran."""
    found: list[Hold] = []
    for request in requests:
        for task in request.tasks.values():
            for at, poll in enumerate(task.polls):
                if poll.length >= HOLD_NS:
                    before = task.polls[at - 1].stack if at else None
                    found.append(Hold(poll.start, poll.end, request.id, task.id, None, poll.stack, before))
    found.sort(key=lambda hold: (hold.start, -hold.end))
    holds: list[Hold] = []
    for hold in found:  # an eager task's first poll lies inside its parent's
        if not holds or hold.start >= holds[-1].end:
            holds.append(hold)
    extra: list[Hold] = []
    index = _Index(holds)
    for stall in lane.stalls:
        covered = list(index.over(stall.start, stall.end))
        seen = [hold for hold in covered if hold.request == stall.request and stall.request]
        guilty = max(seen or covered, key=lambda hold: _shared(hold, stall), default=None)
        free = _largest_gap(covered, stall)
        if free[1] - free[0] > stall.length // 2:
            extra.append(Hold(*free, stall.request, stall.task, stall.stack, what=stall.what))
        elif guilty is not None and (guilty.stack is None or stall.length > guilty.length // 2):
            guilty.stack = stall.stack
    holds = sorted(holds + extra, key=lambda hold: hold.start)
    index = _Index(holds)
    for gc in lane.gc:
        for hold in index.over(gc.start, gc.end):
            hold.gc += min(hold.end, gc.end) - max(hold.start, gc.start)
    return holds


def _shared(hold: Hold, other: Stall | Hold) -> int:
    return min(hold.end, other.end) - max(hold.start, other.start)


def _largest_gap(covered: list[Hold], stall: Stall) -> tuple[int, int]:
    best, at = (stall.start, stall.start), stall.start
    for hold in covered:
        if hold.start - at > best[1] - best[0]:
            best = (at, hold.start)
        at = max(at, hold.end)
    return (at, stall.end) if stall.end - at > best[1] - best[0] else best


class _Index:
    """Holds by time."""

    def __init__(self, holds: list[Hold]) -> None:
        self.holds = holds
        self.starts = [hold.start for hold in holds]
        self.ends = [hold.end for hold in holds]

    def over(self, start: int, end: int) -> Iterator[Hold]:
        """Those that share time with [start, end), in order."""
        for at in range(bisect_right(self.ends, start), len(self.holds)):
            if self.starts[at] >= end:
                return
            yield self.holds[at]

    def main(self, start: int, end: int, but: str = "") -> Hold | None:
        """The one that has most of [start, end), if it has a millisecond of it."""
        best, most = None, HOLD_NS - 1
        for hold in self.over(start, end):
            shared = min(hold.end, end) - max(hold.start, start)
            if shared > most and (not but or hold.request != but):
                best, most = hold, shared
        return best

    def back_to(self, ready: int, start: int, but: str) -> tuple[int, Hold | None]:
        """How long before `ready` the loop had not turned, and what it was mostly in; not looking before `start`."""
        at = bisect_left(self.starts, ready) - 1
        reached, best = ready, None
        gap = NOTICE_NS
        while at >= 0 and self.ends[at] > start and self.ends[at] >= reached - gap:
            hold = self.holds[at]
            if but and hold.request == but:
                break
            reached, gap = max(hold.start, start), GAP_NS
            if best is None or hold.length > best.length:
                best = hold
            at -= 1
        return (ready - reached, best) if best is not None else (0, None)


def _blame(request: RequestTrace, index: _Index) -> None:
    """Name what the loop was in while this request waited for it."""
    for task in request.tasks.values():
        for poll in task.polls:
            if poll.delay >= HOLD_NS:
                poll.held_by = index.main(poll.ready, poll.start)
        for one in task.awaits:
            if one.ready is not None and one.waker_kind in NOTICED and one.ready - one.start >= HOLD_NS:
                due = _due(request, task, one) if one.wait == Wait.TIMER and request.timers else None
                if due is not None:
                    one.late, one.exact = one.ready - due, True
                    one.held_by = index.main(due, one.ready)
                else:
                    one.late, one.held_by = index.back_to(one.ready, one.start, request.id)
    if request.kernel_wait:
        request.kernel_held_by = index.main(request.start, request.first_byte, request.id)


def _due(request: RequestTrace, task: TaskTrace, wait: Await) -> int | None:
    """When the timer that ended this wait should have."""
    assert wait.ready is not None
    ends = [timer.due + timer.late for timer in request.timers]
    for at in range(bisect_right(ends, wait.ready + HOLD_NS) - 1, -1, -1):
        timer = request.timers[at]
        if ends[at] < wait.ready - HOLD_NS:
            break
        if timer.task == task.id and wait.start <= timer.due <= wait.ready:
            return timer.due
    return None


def _waits(request: RequestTrace) -> Iterator[tuple[int, int]]:
    """When it waited for the loop."""
    if request.kernel_wait and request.kernel_held_by is not None:
        yield request.start, request.first_byte
    for task in request.tasks.values():
        for poll in task.polls:
            if poll.held_by is not None:
                yield poll.ready, poll.start
        for one in task.awaits:
            if one.held_by is not None and one.ready is not None:
                yield one.ready - one.late, one.ready


# ------------------------------------------------------------------------------------------------------------- the sums


def _sum_up(request: RequestTrace) -> None:
    """The handler's time, each moment of it once: busy if a task ran, else scheduled if one could, else idle."""
    request.total = max(0, request.until - request.start)
    request.polls = sum(len(task.polls) for task in request.tasks.values())
    request.thread_queue = sum(run.queued for run in request.threads)
    request.thread_run = sum(run.length for run in request.threads)
    request.write_wait = sum(drain.length for drain in request.drains)
    start = request.handler_start
    if start is None or request.root is None:
        return
    end = max(start, request.until if request.handler_end is None else request.handler_end)
    edges: list[tuple[int, int, int]] = []
    lates: list[tuple[int, int]] = []
    for task in request.tasks.values():
        for poll in task.polls:
            edges += ((poll.start, 1, 0), (poll.end, -1, 0))
            if poll.delay:
                edges += ((poll.ready, 0, 1), (poll.start, 0, -1))
        for one in task.awaits:
            if one.ready is not None:
                if one.end is None and task.ended is None:
                    edges += ((one.ready, 0, 1), (max(end, one.ready), 0, -1))
                if one.late:
                    lates.append((one.ready - one.late, one.ready))
    edges.sort()
    busy = scheduled = running = ready = 0
    at = start
    for when, more_running, more_ready in edges:
        stop = min(max(when, at), end)
        if running:
            busy += stop - at
        elif ready:
            scheduled += stop - at
        at = stop
        running += more_running
        ready += more_ready
    request.busy, request.scheduled = busy, scheduled
    request.idle = end - start - busy - scheduled
    at = start
    for begun, over in sorted(lates):
        request.late += max(0, min(over, end) - max(begun, at))
        at = max(at, min(over, end))
    request.late = min(request.late, request.idle)


# -------------------------------------------------------------------------------------------------------- whose code

_GENERIC = {"__init__.py", "__main__.py", "views.py", "models.py", "routes.py", "handlers.py", "utils.py", "api.py"}


def user_frames(stack: Stack | None) -> tuple[Frame, ...]:
    """All of the user's own, outermost first."""
    return tuple(frame for frame in stack.frames if not is_library(frame.file)) if stack is not None else ()


def place(where: Stack | Frame | None) -> str:
    """ "items.py:41", with the folder for file names that many folders have, or the package; "" if nothing is known."""
    frame = shown_frame(where) if isinstance(where, Stack) else where
    if frame is None:
        return ""
    library = LIBRARY.search(frame.file)
    if library is not None:
        inside = frame.file[library.end() :]
        parts = re.split(r"[/\\]", re.sub(r"^(?:site|dist)-packages[/\\]", "", inside))
        name = parts[0] if len(parts) == 1 else f"{parts[0]}/{parts[-1]}"
        return f"{name}:{frame.line}"
    parts = frame.file.replace("\\", "/").rsplit("/", 2)
    name = "/".join(parts[-2:]) if parts[-1] in _GENERIC and len(parts) > 1 else parts[-1]
    return f"{name}:{frame.line}"
