"""rules: a function for each code, which looks through a model for it.

Room: floor 3. Called by: findings.py. Calls: catalogue, model, wording, blocking, serial.

Theory of operation. Each rule collects cases by route and line, and yields a Finding for a group of them that is worth it.
A false alarm is worse than a silence: every rule has a least time, and unless one case is grave it wants three, or a share
of the route's time. What streams, or speaks WebSocket, is not blamed for lasting. Sampled requests are a part of all:
counts are of what was recorded.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from fastserve.lens.blocking import imports, known
from fastserve.lens.catalogue import CATALOGUE, Finding
from fastserve.lens.model import Await, Hold, Lane, Model, RequestTrace, TaskTrace, place, shown_frame, user_frames
from fastserve.lens.recording import Frame, Stack, Wait
from fastserve.lens.serial import independent
from fastserve.lens.wording import WAITS_FOR, Tasks, count, duration, readable, share, size, source_line, spot

__all__ = ["RULES", "Case"]

MS = 1_000_000
BLOCK_NS, BLOCK_DEV_NS = 50 * MS, 20 * MS  # FS001: as the watchdog has it
LATE_NS, LATE_DEV_NS = 20 * MS, 10 * MS  # FS002 to FS004, FS008
OFTEN = 3
GRAVE = 2  # times the least: one such case is enough
SHARE = 10  # per cent of the route's time, for one case
PART_NS = 5 * MS  # of a wait that is counted at all: FS007, FS009, FS010
NEVER_YIELDED_NS = 500 * MS
ORPHAN_NS, ORPHAN_GRAVE_NS = 3_000 * MS, 30_000 * MS
GC_NS, GC_GRAVE_NS = 20 * MS, 50 * MS
SLOW_CLIENT_NS = 1_000 * MS
CHATTY_MESSAGES, CHATTY_BYTES, CHATTY_GAP_NS = 100, 512, 5 * MS
HUNG_NS = 30_000 * MS
SELF_WAKES = 100
STREAMS_NS = 1_000 * MS


# ------------------------------------------------------------------------------------------------------ what is looked at


class Case:
    """A model, and what several rules ask of it."""

    def __init__(self, model: Model, dev: bool) -> None:
        self.model = model
        self.block = BLOCK_DEV_NS if dev else BLOCK_NS
        self.late = LATE_DEV_NS if dev else LATE_NS
        self.tasks = Tasks(model)

    @cached_property
    def time_of(self) -> dict[str, int]:
        """Of each route: how long its requests took, together."""
        found: dict[str, int] = defaultdict(int)
        for one in self.model.requests:
            found[one.route_name] += one.total
        return found

    @cached_property
    def holds(self) -> list[tuple[Lane, Hold]]:
        """Those of the loop's holds that blocked it, without what the collector took."""
        return [(lane, hold) for lane in self.model.lanes for hold in lane.holds if hold.length - hold.gc >= self.block]

    @cached_property
    def victims(self) -> dict[int, dict[str, int]]:
        """id of a Hold -> who waited because of it, and how long."""
        found: dict[int, dict[str, int]] = defaultdict(lambda: defaultdict(int))
        for one in self.model.requests:
            if one.kernel_held_by is not None and one.kernel_wait:
                found[id(one.kernel_held_by)][one.id] += _shared(one.kernel_held_by, one.start, one.first_byte)
            for task in one.tasks.values():
                for poll in task.polls:
                    if poll.held_by is not None:
                        found[id(poll.held_by)][one.id] += _shared(poll.held_by, poll.ready, poll.start)
                for wait in task.awaits:
                    if wait.held_by is not None and wait.ready is not None:
                        found[id(wait.held_by)][one.id] += _shared(wait.held_by, wait.ready - wait.late, wait.ready)
        return found

    def route(self, hold: Hold) -> str:
        request = self.model.by_id.get(hold.request)
        return request.route_name if request is not None else ""

    def name(self, route: str, holds: Sequence[Hold]) -> str:
        """What to call who held the loop, where no request is recorded as well: the board knows what was in hand."""
        worst = max(holds, key=lambda hold: hold.length)
        return route or worst.what or "code outside any recorded request"

    def line(self, stack: Stack | None) -> str:
        return source_line(stack, self.model.recording)

    def enough(self, values: Sequence[int], route: str, least: int) -> bool:
        """Three, or one that is grave and a part of the route's time that counts."""
        return len(values) >= OFTEN or (
            max(values) >= GRAVE * least and sum(values) * 100 >= SHARE * self.time_of.get(route, 0)
        )


def _shared(hold: Hold, start: int, end: int) -> int:
    return max(0, min(hold.end, end) - max(hold.start, start))


def streams(request: RequestTrace) -> bool:
    """It lasts because it is meant to: a WebSocket, or a body that is sent bit by bit."""
    if request.websocket:
        return True
    if request.response_head is None:
        return False
    return request.until - request.response_head >= STREAMS_NS and (
        request.body_messages_out >= 2 or not request.finished
    )


@dataclass(slots=True)
class _Group:
    """Cases of one rule on one line of one route."""

    values: list[int] = field(default_factory=list)
    requests: dict[str, int] = field(default_factory=dict)
    frame: Frame | None = None
    stack: Stack | None = None
    holders: Counter[str] = field(default_factory=Counter)
    extra: list[int] = field(default_factory=list)

    def add(self, value: int, request: str, stack: Stack | None = None) -> None:
        self.values.append(value)
        if request:
            self.requests[request] = max(value, self.requests.get(request, 0))
        if self.frame is None and stack is not None:
            self.frame, self.stack = shown_frame(stack), stack

    @property
    def worst(self) -> int:
        return max(self.values)

    @property
    def total(self) -> int:
        return sum(self.values)

    @property
    def average(self) -> int:
        return self.total // len(self.values)

    def examples(self) -> list[str]:
        return sorted(self.requests, key=lambda one: -self.requests[one])[:5]

    def times(self) -> str:
        return "" if len(self.values) == 1 else f" ({len(self.values)} times, {duration(self.worst)} at the longest)"

    def finding(self, code: str, text: str, route: str, **more: object) -> Finding:
        found = Finding(CATALOGUE[code], text, route, self.frame, len(self.values), self.worst, self.total)
        found.requests = self.examples()
        for name, value in more.items():
            setattr(found, name, value)
        return found


_Groups = dict[tuple[str, str], _Group]


def _groups() -> _Groups:
    return defaultdict(_Group)


# ------------------------------------------------------------------------------------------------------------ the loop


def _where_held(hold: Hold) -> tuple[str, Frame | None]:
    """How to say where it was, and the line, if one is known."""
    if hold.stack is not None:
        return f"at {spot(hold.stack)}", shown_frame(hold.stack)
    before, after = shown_frame(hold.before), shown_frame(hold.after)
    if before is not None and after is not None:
        return f"between {place(before)} and {place(after)}", before
    if before is not None or after is not None:
        return f"{'after' if before else 'before'} {place(before or after)}", before or after
    return "", None


def _held(case: Case, holds: Iterable[tuple[Lane, Hold]]) -> dict[tuple[str, str], list[Hold]]:
    found: dict[tuple[str, str], list[Hold]] = defaultdict(list)
    for _, hold in holds:
        found[case.route(hold), _where_held(hold)[0]].append(hold)
    return found


def _blocking(case: Case, code: str, holds: list[Hold], route: str, text: str, **more: object) -> Finding:
    """A finding of holds: its cost is what it held and what others waited."""
    group = _Group()
    victims: dict[str, int] = defaultdict(int)
    for hold in holds:
        group.add(hold.length - hold.gc, hold.request)
        for who, ns in case.victims.get(id(hold), {}).items():
            victims[who] += ns
    group.frame = _where_held(holds[0])[1]
    if victims:
        average = sum(victims.values()) // len(victims)
        some = "another request" if len(victims) == 1 else f"{len(victims)} other requests"
        text += f"; {some} waited {duration(average)}" + (" on average" if len(victims) > 1 else "")
    found = group.finding(code, text, route or max(holds, key=lambda hold: hold.length).what, **more)
    found.total_ns += sum(victims.values())
    return found


def _how_long(holds: list[Hold]) -> str:
    worst = max(hold.length - hold.gc for hold in holds)
    return duration(worst) if len(holds) == 1 else f"{len(holds)} times, {duration(worst)} at the longest,"


def blocked_loop(case: Case) -> Iterator[Finding]:
    for (route, where), holds in _held(case, case.holds).items():
        worst = max(hold.length - hold.gc for hold in holds)
        if len(holds) < OFTEN and worst < GRAVE * case.block:
            continue
        verb = "holds" if any(_is_now(case, hold) for hold in holds) else "held"
        yield _blocking(
            case, "FS001", holds, route, f"{case.name(route, holds)} {verb} the loop {_how_long(holds)} {where}".strip()
        )


def _is_now(case: Case, hold: Hold) -> bool:
    return hold.end == case.model.recording.taken_ns


def late_wake(case: Case) -> Iterator[Finding]:
    groups = _groups()
    for one in case.model.requests:
        for task in one.tasks.values():
            waits = {wait.ready: wait for wait in task.awaits}
            for poll in task.polls:
                if poll.delay < case.late:
                    continue
                wait = waits.get(poll.ready)
                if wait is not None and wait.interrupted:
                    continue
                stack = wait.stack if wait is not None else None
                group = groups[one.route_name, place(stack)]
                group.add(poll.delay, one.id, stack)
                group.holders[case.tasks.holder(poll.held_by) if poll.held_by is not None else ""] += poll.delay
    for (route, _), group in groups.items():
        if not case.enough(group.values, route, case.late):
            continue
        holder = group.holders.most_common(1)[0][0]
        loop = f"the loop was in {holder}" if holder else "the loop had many others to run, none of them for long"
        at = f" at {spot(group.frame)}" if group.frame else ""
        often = f" ({len(group.values)} times)" if len(group.values) > 1 else ""
        yield group.finding(
            "FS002", f"{route} was ready {duration(group.worst)} before it ran{at}{often}; {loop}", route
        )


def kernel_wait(case: Case) -> Iterator[Finding]:
    groups = _groups()
    for one in case.model.requests:
        hold = one.kernel_held_by
        if not one.kernel_wait or one.kernel_wait < case.late or hold is None:
            continue
        if 2 * _shared(hold, one.start, one.first_byte) < one.kernel_wait:
            continue
        group = groups[one.route_name, ""]
        group.add(one.kernel_wait, one.id)
        group.holders[case.tasks.holder(hold)] += one.kernel_wait
        if group.frame is None:
            group.frame = _where_held(hold)[1]
    for (route, _), group in groups.items():
        if case.enough(group.values, route, case.late):
            text = f"{route} lay {duration(group.worst)} in its socket before the server saw it"
            text += f" ({len(group.values)} times)" if len(group.values) > 1 else ""
            yield group.finding("FS003", f"{text}: the loop was in {group.holders.most_common(1)[0][0]}", route)


def late_timer(case: Case) -> Iterator[Finding]:
    groups = _groups()
    exact = True
    for one in case.model.requests:
        for task in one.tasks.values():
            for wait in task.awaits:
                if wait.ready is None or wait.wait != Wait.TIMER or wait.late < case.late:
                    continue
                if not wait.exact and wait.waker_kind != "timer":
                    continue
                exact = exact and wait.exact
                group = groups[one.route_name, place(wait.stack)]
                group.add(wait.late, one.id, wait.stack)
                group.extra.append(wait.ready - wait.start - wait.late)
                group.holders[case.tasks.holder(wait.held_by) if wait.held_by is not None else ""] += wait.late
    for (route, _), group in groups.items():
        if not case.enough(group.values, route, case.late):
            continue
        slept = group.extra[group.values.index(group.worst)]
        at = f" at {spot(group.frame)}" if group.frame else ""
        often = f" ({len(group.values)} times)" if len(group.values) > 1 else ""
        holder = group.holders.most_common(1)[0][0]
        bound = "" if exact else "at most "
        text = f"{route}: a timer of {duration(slept)}{at} fired {bound}{duration(group.worst)} late"
        yield group.finding("FS004", text + often + (f"; the loop was in {holder}" if holder else ""), route)


def sync_io(case: Case) -> Iterator[Finding]:
    found: dict[tuple[str, str], list[Hold]] = defaultdict(list)
    calls: dict[tuple[str, str], tuple[str, str]] = {}
    for _, hold in case.holds:
        call = known(hold.stack, case.line(hold.stack))
        if call is not None:
            key = case.route(hold), _where_held(hold)[0]
            found[key].append(hold)
            calls[key] = call.what, call.instead
    for (route, where), holds in found.items():
        what, instead = calls[route, where]
        long = _how_long(holds).rstrip(",")
        text = f"{case.name(route, holds)} called {what} {where} on the event loop, which it held {long}"
        yield _blocking(case, "FS005", holds, route, text, fix=f"use {instead} instead of {what}")


def import_in_handler(case: Case) -> Iterator[Finding]:
    found: dict[tuple[str, str], list[Hold]] = defaultdict(list)
    for _, hold in case.holds:
        if imports(hold.stack):
            found[case.route(hold), _where_held(hold)[0]].append(hold)
    for (route, where), holds in found.items():
        text = (
            f"{case.name(route, holds)} imported a module {where}, which held the loop {_how_long(holds).rstrip(',')}"
        )
        yield _blocking(case, "FS006", holds, route, text)


# ------------------------------------------------------------------------------------------------------------- waiting


def pool_wait(case: Case) -> Iterator[Finding]:
    groups = _groups()
    for one in case.model.requests:
        for task in one.tasks.values():
            for wait in task.awaits:
                ns = (wait.ready if wait.ready is not None else one.until) - wait.start - wait.late
                if wait.wait == Wait.POOL and ns >= PART_NS and not _within(one, task, wait):
                    groups[one.route_name, place(wait.stack)].add(ns, one.id, wait.stack)
    for (route, _), group in groups.items():
        whole = case.time_of[route]
        if len(group.values) >= OFTEN and group.total * 5 >= whole and group.total >= 50 * MS:
            text = f"{share(group.total, whole)} of the time of {route} is waiting for a connection of the pool"
            text += f" at {spot(group.frame)}" if group.frame else ""
            waits = f"{len(group.values)} waits, {duration(group.average)} on average"
            yield group.finding("FS007", f"{text} ({waits})", route)


def _within(request: RequestTrace, task: TaskTrace, wait: Await) -> bool:
    """Is it waited for by a task above that waits for a pool itself? Pools have tasks of their own, for their timeouts."""
    above = request.tasks.get(task.parent) if task.parent else None
    while above is not None:
        if any(other.wait == Wait.POOL for other in _over(above, wait.start)):
            return True
        above = request.tasks.get(above.parent) if above.parent else None
    return False


def thread_queue(case: Case) -> Iterator[Finding]:
    groups = _groups()
    for lane in case.model.lanes:
        runs = [(one, run) for one in case.model.requests if one.seat == lane.seat for run in one.threads]
        for kind in {run.kind for _, run in runs}:
            starts = sorted(run.start for _, run in runs if run.kind == kind)
            ends = sorted(run.end for _, run in runs if run.kind == kind)
            for one, run in runs:
                if run.kind != kind or run.queued < case.late:
                    continue
                wait = next((w for t in one.tasks.values() if t.id == run.task for w in _over(t, run.start)), None)
                stack = wait.stack if wait is not None else None
                group = groups[one.route_name, f"{kind} {place(stack)}"]
                group.add(run.queued, one.id, stack)
                group.extra.append(bisect_right(starts, run.submitted) - bisect_right(ends, run.submitted))
    words = {"wsgi": "the call", "handler": "the plain `def` handler", "executor": "work for a thread"}
    for (route, key), group in groups.items():
        if not case.enough(group.values, route, case.late):
            continue
        at = f" at {spot(group.frame)}" if group.frame else ""
        busy = max(group.extra)
        text = f"{route}: {words[key.partition(' ')[0]]} waited {duration(group.worst)} for a thread{at}"
        text += f" ({len(group.values)} times)" if len(group.values) > 1 else ""
        text += f"; {count(busy, 'thread was', 'threads were')} busy with recorded work" if busy else ""
        yield group.finding("FS008", text, route)


def _over(task: TaskTrace, moment: int) -> Iterator[Await]:
    for wait in task.awaits:
        if wait.start <= moment and (wait.ready is None or wait.ready >= moment):
            yield wait


def lock_convoy(case: Case) -> Iterator[Finding]:
    found: dict[str, list[tuple[RequestTrace, Await]]] = defaultdict(list)
    for one in case.model.requests:
        for task in one.tasks.values():
            for wait in task.awaits:
                end = wait.ready if wait.ready is not None else one.until
                if wait.wait == Wait.LOCK and end - wait.start >= PART_NS:
                    found[place(wait.stack)].append((one, wait))
    for waits in found.values():
        group = _Group()
        edges: dict[int, list[tuple[int, int]]] = defaultdict(list)  # each worker has a lock of its own
        holders: Counter[str] = Counter()
        for one, wait in waits:
            end = wait.ready if wait.ready is not None else one.until
            group.add(end - wait.start, one.id, wait.stack)
            edges[one.seat] += ((wait.start, 1), (end, -1))
            if inside := _inside_lock(case, one, wait):
                holders[inside] += 1
        most = max(map(_at_once, edges.values()))
        if len(waits) < OFTEN or most < OFTEN or group.total < 50 * MS:
            continue
        at = spot(group.frame)
        text = f"{count(len(group.requests), 'request')} queued for the lock at {at}, up to {most} at a time, "
        text += f"{duration(group.average)} on average"
        if holders:
            text += f"; who has it waits for {holders.most_common(1)[0][0]} meanwhile"
        routes = Counter(one.route_name for one, _ in waits)
        yield group.finding("FS009", text, routes.most_common(1)[0][0])


def _at_once(edges: Iterable[tuple[int, int]]) -> int:
    """How many lasted at the same time, at most. `edges`: (when, 1 or -1)."""
    most = now = 0
    for _, change in sorted(edges):
        now += change
        most = max(most, now)
    return most


def _inside_lock(case: Case, waiting: RequestTrace, wait: Await) -> str:
    """What whoever handed the lock on was waiting for while it had it."""
    if wait.waker_kind != "task" or wait.ready is None:
        return ""
    owner = case.tasks.request(waiting.seat, wait.waker_task)
    if owner is None:
        return ""
    for other in reversed(owner.tasks[wait.waker_task].awaits):
        if other.wait in (Wait.LOCK, Wait.YIELD) or other.ready is None or other.ready > wait.ready:
            continue
        if other.ready < wait.start:
            return ""
        at = place(other.stack)
        return WAITS_FOR[other.wait] + (f" at {at}" if at else "")
    return ""


SERIAL = (Wait.IO, Wait.UPSTREAM, Wait.POOL, Wait.FUTURE, Wait.THREAD, Wait.TIMER)


def serial_awaits(case: Case) -> Iterator[Finding]:
    groups = _groups()
    lines: dict[tuple[str, str], tuple[int, ...]] = {}
    for one in case.model.requests:
        for task in one.tasks.values():
            for frame, run in _rows(task):
                spans = [end - start for _, start, end, _ in run]
                saved = sum(spans) - max(spans)
                safe = all(wait == Wait.UPSTREAM for *_, wait in run)
                numbers = tuple(line for line, *_ in run)
                if saved < 20 * MS or not readable(frame.file, case.model.recording):
                    continue
                if not independent(frame.file, numbers, shared_is_safe=safe):
                    continue
                key = one.route_name, place(frame)
                groups[key].add(saved, one.id)
                groups[key].frame = frame
                lines[key] = numbers
    for (route, at), group in groups.items():
        if len(group.values) < OFTEN and group.total * 3 < case.time_of[route]:
            continue
        numbers = lines[route, at]
        where = f"{at} to {numbers[-1]}"
        text = f"{route}: {len(numbers)} awaits in a row at {where} do not use each other's results; "
        yield group.finding("FS010", text + f"together they could save up to {duration(group.average)}", route)


def _rows(task: TaskTrace) -> Iterator[tuple[Frame, list[tuple[int, int, int, Wait]]]]:
    """Stretches of waiting on three lines of one function, one line after the other: (line, start, end, wait)."""
    frames = [user_frames(wait.stack) for wait in task.awaits]
    for level in range(4):
        row: list[tuple[int, int, int, Wait]] = []
        head: Frame | None = None
        for wait, own in zip([*task.awaits, None], [*frames, ()], strict=True):
            frame = own[level] if len(own) > level else None
            fits = wait is not None and frame is not None and wait.ready is not None and wait.wait in SERIAL
            if fits and head is not None and frame is not None and wait is not None and wait.ready is not None:
                same = (frame.file, frame.function) == (head.file, head.function)
                if same and frame.line == row[-1][0]:
                    row[-1] = (frame.line, row[-1][1], wait.ready, wait.wait)
                    continue
                if same and frame.line > row[-1][0] and wait.start - row[-1][2] < 2 * PART_NS:
                    row.append((frame.line, wait.start, wait.ready, wait.wait))
                    continue
            if head is not None:
                yield from _threes(head, row)
            row, head = [], None
            if fits and frame is not None and wait is not None and wait.ready is not None:
                head, row = frame, [(frame.line, wait.start, wait.ready, wait.wait)]


def _threes(
    head: Frame, row: list[tuple[int, int, int, Wait]]
) -> Iterator[tuple[Frame, list[tuple[int, int, int, Wait]]]]:
    long = [entry for entry in row if entry[2] - entry[1] >= PART_NS]
    if len(long) >= 3 and len(long) == len(row):
        yield Frame(head.file, long[0][0], head.function), long


def self_wake(case: Case) -> Iterator[Finding]:
    groups = _groups()
    for one in case.model.requests:
        for task in one.tasks.values():
            waits = [wait for wait in task.awaits if not wait.interrupted]
            own = [wait for wait in waits if wait.waker_kind == "self" or wait.wait == Wait.YIELD]
            if len(own) < SELF_WAKES or 2 * len(own) < len(waits):
                continue
            stack, number = Counter(wait.stack for wait in own).most_common(1)[0]
            spent = task.busy + task.scheduled
            group = groups[one.route_name, place(stack)]
            group.add(spent, one.id, stack)
            group.extra.append(number)
    for (route, _), group in groups.items():
        at = f" at {spot(group.frame)}" if group.frame else ""
        loop = "; it turns in a loop of sleep(0)" if group.stack is not None and group.stack.wait == Wait.YIELD else ""
        text = f"{route} woke itself {max(group.extra)} times{at}{loop}"
        yield group.finding("FS011", text, route)


def never_yielded(case: Case) -> Iterator[Finding]:
    groups = _groups()
    for one in case.model.requests:
        if streams(one):
            continue
        lane = case.model.lane(one)
        for task in one.tasks.values():
            if len(task.polls) != 1 or task.awaits or task.polls[0].outcome == "suspended":
                continue
            poll = task.polls[0]
            hold = next(
                (hold for hold in lane.holds if hold.start == poll.start and hold.task == task.id)
                if lane
                else iter(()),
                None,
            )
            ns = poll.length - (hold.gc if hold is not None else 0)
            if ns < NEVER_YIELDED_NS:
                continue
            stack = hold.stack if hold is not None else None
            groups[one.route_name, place(stack) or task.name].add(ns, one.id, stack)
    for (route, name), group in groups.items():
        where = f"at {spot(group.frame)}" if group.frame else f"in {name}()" if name not in ("", "?") else ""
        text = f"{route} ran {duration(group.worst)} without awaiting once, {where}".rstrip(", ")
        yield group.finding("FS012", text + group.times(), route)


def orphan_task(case: Case) -> Iterator[Finding]:
    groups = _groups()
    for one in case.model.requests:
        if one.end is None or streams(one):
            continue
        for task in one.tasks.values():
            if not task.parent or task is one.root or not task.polls or task.started > one.end:
                continue
            after = task.polls[-1].end - one.end
            if after >= ORPHAN_NS:
                stack = task.awaits[-1].stack if task.awaits else None
                groups[one.route_name, task.name].add(after, one.id, stack)
    for (route, name), group in groups.items():
        if len(group.values) < OFTEN and group.worst < ORPHAN_GRAVE_NS:
            continue
        at = f", last seen at {spot(group.frame)}" if group.frame else ""
        text = f"{route}: task {name}() still ran {duration(group.worst)} after the response{at}"
        yield group.finding("FS013", text + (f" ({len(group.values)} times)" if len(group.values) > 1 else ""), route)
    yield from _lost(case)


ORPHANS = {
    "destroyed": "task {name}() was destroyed while it was pending",
    "unawaited": "coroutine {name}() was never awaited",
}


LOST_FIX = {
    "destroyed": "keep a reference to the task until it is done: a set of tasks, or a TaskGroup",
    "unawaited": "await it, or give it to asyncio.create_task()",
}


def _lost(case: Case) -> Iterator[Finding]:
    """What the interpreter itself warns of: one is enough."""
    groups: dict[tuple[str, str, str, bool], _Group] = defaultdict(_Group)
    for lane in case.model.lanes:
        for lost in lane.orphans:
            groups["", lost.name, lost.what, lost.defined].add(1, "", lost.stack)
    for one in case.model.requests:
        for lost in one.orphans:
            groups[one.route_name, lost.name, lost.what, lost.defined].add(1, one.id, lost.stack)
    for (route, name, what, defined), group in groups.items():
        text = (f"{route}: " if route else "") + ORPHANS[what].format(name=name)
        if group.frame is not None:
            text += f"; it begins at {place(group.frame)}" if defined else f", at {spot(group.frame)}"
        text += f" ({len(group.values)} times)" if len(group.values) > 1 else ""
        yield group.finding("FS013", text, route, fix=LOST_FIX[what])


# ------------------------------------------------------------------------------------------------------ everything else


def gc_pause(case: Case) -> Iterator[Finding]:
    groups: dict[int, _Group] = defaultdict(_Group)
    routes: dict[int, Counter[str]] = defaultdict(Counter)
    for lane in case.model.lanes:
        for gc in lane.gc:
            if gc.length < GC_NS:
                continue
            group = groups[gc.generation]
            group.add(gc.length, gc.request)
            hold = next((hold for hold in lane.holds if hold.start <= gc.start < hold.end), None)
            if hold is not None and group.frame is None:
                group.frame = _where_held(hold)[1]
            request = case.model.by_id.get(gc.request)
            routes[gc.generation][request.route_name if request is not None else ""] += gc.length
    for generation, group in groups.items():
        if len(group.values) < OFTEN and group.worst < GC_GRAVE_NS:
            continue
        route = routes[generation].most_common(1)[0][0]
        kind = "full" if generation == 2 else f"generation {generation}"
        text = f"a {kind} collection of garbage stopped the worker for {duration(group.worst)}"
        text += f", during {route}" if route else ""
        yield group.finding("FS014", text + (f" ({len(group.values)} of them)" if len(group.values) > 1 else ""), route)


def slow_client(case: Case) -> Iterator[Finding]:
    groups = _groups()
    sizes: dict[tuple[str, str], int] = {}
    for one in case.model.requests:
        if one.websocket:
            continue
        receive = sum(span.length for span in one.receives)
        for way, ns, amount in (("down", one.write_wait, one.body_bytes_out), ("up", receive, one.body_bytes_in)):
            if ns >= SLOW_CLIENT_NS and 2 * ns >= one.total:
                groups[one.route_name, way].add(ns, one.id)
                sizes[one.route_name, way] = max(amount, sizes.get((one.route_name, way), 0))
    for (route, way), group in groups.items():
        much = size(sizes[route, way])
        often = f" ({len(group.values)} times)" if len(group.values) > 1 else ""
        if way == "down":
            text = f"{route}: the client took {duration(group.worst)} to take {much}{often}"
        else:
            text = f"{route}: the client took {duration(group.worst)} to send {much}{often}"
        yield group.finding("FS015", text, route)


def chatty_response(case: Case) -> Iterator[Finding]:
    groups = _groups()
    worst: dict[tuple[str, str], tuple[int, int]] = {}
    for one in case.model.requests:
        messages = one.body_messages_out
        if one.websocket or messages < CHATTY_MESSAGES or one.response_head is None:
            continue
        average, took = one.body_bytes_out // messages, (one.end or one.until) - one.response_head
        if average <= CHATTY_BYTES and took <= messages * CHATTY_GAP_NS:
            key = one.route_name, ""
            groups[key].add(max(took, 1), one.id)
            worst[key] = max(worst.get(key, (0, 0)), (messages, average))
    for (route, _), group in groups.items():
        most, small = worst[route, ""]
        text = f"{route} sent its body in {most} messages of {size(small)} each, in {duration(group.worst)}"
        yield group.finding("FS016", text, route)


def hung(case: Case) -> Iterator[Finding]:
    groups = _groups()
    now = case.model.recording.taken_ns
    for one in case.model.requests:
        live = one.live
        if live is None or one.finished or one.websocket or one.response_head is not None or one.root is None:
            continue
        last = one.root.awaits[-1] if one.root.awaits else None
        if last is None or last.ready is not None:
            continue
        if last.wait in (Wait.RECEIVE, Wait.DRAIN, Wait.MESSAGE, Wait.TIMER) or now - last.start < HUNG_NS:
            continue
        deepest = _longest_child(one, last, now)
        if deepest is not None:
            groups[one.route_name, place(deepest.stack)].add(now - deepest.start, one.id, deepest.stack)
    for (route, _), group in groups.items():
        at = f" at {spot(group.frame)}" if group.frame else ""
        waits = WAITS_FOR[group.stack.wait] if group.stack is not None else "something"
        text = f"{route} has waited {duration(group.worst)} for {waits}{at}"
        text += f" ({count(len(group.values), 'request')})" if len(group.values) > 1 else ""
        yield group.finding("FS017", text, route)


def _longest_child(request: RequestTrace, last: Await, now: int) -> Await | None:
    """What the children wait for that are waited for: the line that hangs is theirs. None: one of them is at work."""
    if last.wait != Wait.CHILDREN:
        return last
    open_tasks = [task for task in request.tasks.values() if task.parent and task.ended is None and task.awaits]
    waits = [task.awaits[-1] for task in open_tasks if task.awaits[-1].ready is None]
    if not waits:
        return last
    found = max(waits, key=lambda wait: wait.start)
    return found if now - found.start >= HUNG_NS else None


RULES: dict[str, Callable[[Case], Iterable[Finding]]] = {
    "FS001": blocked_loop,
    "FS002": late_wake,
    "FS003": kernel_wait,
    "FS004": late_timer,
    "FS005": sync_io,
    "FS006": import_in_handler,
    "FS007": pool_wait,
    "FS008": thread_queue,
    "FS009": lock_convoy,
    "FS010": serial_awaits,
    "FS011": self_wake,
    "FS012": never_yielded,
    "FS013": orphan_task,
    "FS014": gc_pause,
    "FS015": slow_client,
    "FS016": chatty_response,
    "FS017": hung,
}
"""Code -> the function that looks for it."""
