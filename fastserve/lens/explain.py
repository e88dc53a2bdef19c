"""explain: one request told in sentences, from its bytes in the kernel to the last one sent; and whose each step was.

Room: floor 3. Called by: commands.py, learn. Calls: model, wording.

Theory of operation. `steps` walks through a request's phases and its root task's slices and waits, in their order, and
makes a Step of each that took time worth telling; the rest is gathered. A Step says what happened, how sure that is, and
whose it was: your code's (it ran), the resource's (it waited for something), the client's, or the runtime's and the
neighbours' (it could have gone on, but the loop was elsewhere). An idea is explained where it is first met, and then only
named.

How sure: *measured* is a difference of two stamps; *derived* is reckoned from such; *at most* is a bound, for the loop
notices a timer or a socket only when it turns.
"""

from __future__ import annotations

import re
import textwrap
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from fastserve.errors import LensError
from fastserve.lens.model import Await, Hold, Model, Poll, RequestTrace, TaskTrace, ThreadRun, place
from fastserve.lens.recording import Recording, Wait
from fastserve.lens.wording import (
    WAITS_FOR,
    Tasks,
    count,
    duration,
    listed,
    milliseconds,
    share,
    size,
    source_line,
    spot,
)

__all__ = ["Step", "explain", "nothing_recorded", "steps"]

Owner = Literal["code", "resource", "client", "runtime"]
OWNERS: tuple[tuple[Owner, str], ...] = (
    ("code", "your code"),
    ("resource", "the resource"),
    ("client", "the client"),
    ("runtime", "the runtime and your neighbours"),
)
CLIENTS = (Wait.RECEIVE, Wait.DRAIN, Wait.MESSAGE)
WORTH_NS = 100_000  # a delay below this is the loop at its work, and not told
KERNEL_NS = 2_000_000  # the kernel's stamp has the grain of a clock tick
STEPS_MAX = 40
CHILDREN_MAX = 8
WIDTH = 100
Paint = Callable[[str, str], str]


@dataclass(slots=True)
class Step:
    """One numbered line."""

    ns: int
    word: str  # "KERNEL" | "SERVER" | "RUN" | "WAIT" | "READY" | "QUEUE" | "THREAD" | "WRITE"
    text: str
    sure: str  # "measured" | "derived" | "at most"
    owner: Owner
    start: int = 0
    late: int = 0  # of ns, at most: the runtime's
    exact: bool = False  # just so much, not at most
    ran: int = 0  # of ns: the tasks that were waited for ran, so it is the code's
    times: int = 1
    details: list[str] = field(default_factory=list)
    key: tuple[object, ...] = ()  # equal ones that follow each other are told once


def explain(
    model: Model,
    which: str = "slowest",
    *,
    source: bool = True,
    paint: Paint = lambda _code, text: text,
    width: int = WIDTH,
) -> str:
    """The request `which` ("last", "slowest" or an id) as text. LensError, in one line, if there is none.

    `source`: show the text of lines, from files on this machine that are older than the server. `width`: characters of a
    line.
    """
    if not model.requests:
        raise LensError(nothing_recorded(model.recording))
    request = model.find(which)
    if request is None:
        some = listed([one.id for one in model.requests[-3:]])
        raise LensError(f"no request {which!r} is recorded; there are {some}")
    above = [_title(request, paint), *_notes(model, request)]
    lines = [*(line for text in above for line in _wrapped(text, width)), ""]
    told = steps(model, request, source=source)
    for number, step in enumerate(told, 1):
        lines += _lines(number, step, len(told), paint, width)
    lines += ["", *_belongs(told, paint, width), *_ending(model, request, width)]
    return "\n".join(lines) + "\n"


def nothing_recorded(recording: Recording) -> str:
    """What to say, and to offer, when there is no request to tell about."""
    if recording.source == "file":
        return f"{recording.name}: no request is recorded in this file"
    mode = recording.mode
    if mode in ("off", "ready", "stalls"):
        return (
            f"nothing is recorded: the lens of {recording.name} is `{mode}`. "
            f"`fastserve lens {recording.name} full` switches recording on, then send it a request"
        )
    return f"nothing is recorded yet: the lens of {recording.name} is `{mode}`, and no request has come since"


# ------------------------------------------------------------------------------------------------------------- the steps


def steps(model: Model, request: RequestTrace, *, source: bool = True) -> list[Step]:
    """The request in its order."""
    teller = _Teller(model, request, source)
    teller.arrival()
    if request.root is not None:
        teller.task(request.root)
    for run in request.threads:
        if run.kind != "executor":
            teller.thread(run)
    teller.departure()
    return _shortened(_gathered(teller.steps))


class _Teller:
    def __init__(self, model: Model, request: RequestTrace, source: bool) -> None:
        self.model = model
        self.request = request
        self.source = source
        self.tasks = Tasks(model)
        self.steps: list[Step] = []
        self.told: set[str] = set()

    def once(self, idea: str, text: str) -> str:
        """The explanation of an idea, where it is first met."""
        if idea in self.told:
            return ""
        self.told.add(idea)
        return " " + text

    def arrival(self) -> None:
        request = self.request
        if request.kernel_wait and request.kernel_wait >= KERNEL_NS:
            text = "The bytes waited in the kernel: the server had not read them yet."
            if request.kernel_held_by is not None:
                text = f"The bytes waited in the kernel. The event loop was in {self.tasks.holder(request.kernel_held_by)}."
            self.steps.append(Step(request.kernel_wait, "KERNEL", text, "measured, ± a clock tick", "runtime"))
        if request.partial and not request.parse:
            return
        text = "The server parsed the head"
        if request.root is not None:
            name = request.root.name
            called = f"called {name}()" if name not in ("", "?") else "called the handler"
            text += f" and {called} as task {request.root.id}."
        elif request.threads:
            text += " and queued the call for a thread."
        else:
            text += "."
        ns = request.parse
        self.steps.append(Step(ns, "SERVER", text, "measured", "runtime"))

    def task(self, task: TaskTrace) -> None:
        awaits = {one.start: one for one in task.awaits}
        for at, poll in enumerate(task.polls):
            before = task.polls[at - 1] if at else None
            if before is not None and (gone := awaits.get(before.end)) is not None and gone.interrupted:
                self.inside(task, poll)
            elif poll.delay >= WORTH_NS:
                self.ready(task, poll)
            following = awaits.get(poll.end)
            self.run(task, poll, following, first=at == 0)
            if following is not None and not following.interrupted:
                self.wait(task, following)
                if following.ready is not None and following.end is None:
                    self.still_ready(task, following)
        if not task.polls:
            for one in task.awaits:
                self.wait(task, one)

    def run(self, task: TaskTrace, poll: Poll, following: Await | None, *, first: bool) -> None:
        text = f"Task {task.id} {'ran' if first else 'went on'}"
        if following is not None and following.interrupted:
            text += " until another slice began within its own"
            following = None
        elif following is not None:
            text += self.to_where(following)
        elif poll.outcome == "running":
            text += " and still runs: nothing else can, on this loop"
        elif poll.outcome in ("raised", "cancelled"):
            text += f" and was {poll.outcome}" if poll.outcome == "cancelled" else " and raised an exception"
        elif poll.outcome == "returned":
            text += " to its end"
        text += "."
        if following is not None and following.wait != Wait.YIELD:
            text += self.once("future", "It is now parked on a future; the loop is free for others.")
        step = Step(poll.length, "RUN", text, "measured", "code", poll.start)
        if following is not None:
            step.key = ("run", place(following.stack), following.wait)
        self.held(poll, step)
        self.steps.append(step)

    def to_where(self, following: Await) -> str:
        where = place(following.stack)
        stopped = "gave way" if following.wait == Wait.YIELD else "had to wait"
        text = f" to {where} and {stopped}" if where else f" and {stopped}"
        line = source_line(following.stack, self.model.recording) if self.source else ""
        return f"{text}: `{line}`" if line else text

    def held(self, poll: Poll, step: Step) -> None:
        """Did this slice hold the loop? Then the watchdog may know the line, and somebody waited."""
        for stall in self.request.stalls:
            if stall.start < poll.end and stall.end > poll.start:
                where = spot(stall.stack)
                text = f"It held the loop {duration(stall.length)}" + (f" at {where}." if where else ".")
                if stall.late_stack and where:
                    text = text[:-1] + ", or in C code just before: the line is from when that gave way."
                if self.source and (line := source_line(stall.stack, self.model.recording)):
                    text = f"{text[:-1]}: `{line}`."
                if stall.victims:
                    names = listed([self.named(victim) for victim in stall.victims])
                    text += f" {count(len(stall.victims), 'other request')} waited for it: {names}."
                step.details.append(text)
        for gc in self.request.gc:
            if gc.start < poll.end and gc.end > poll.start:
                step.details.append(
                    f"{duration(gc.length)} of it were a collection of garbage (generation {gc.generation})."
                )

    def named(self, which: str) -> str:
        request = self.model.by_id.get(which)
        return f"{request.name} ({which})" if request is not None else which

    def wait(self, task: TaskTrace, one: Await) -> None:
        until = one.ready if one.ready is not None else self.request.until
        if one.ready is None and self.request.partial and self.request.live is None:
            return  # nobody knows how long
        owner: Owner = "client" if one.wait in CLIENTS else "runtime" if one.wait == Wait.YIELD else "resource"
        text = f"Task {task.id} {'waited' if one.ready is not None else 'waits'} for {WAITS_FOR[one.wait]}"
        if one.ready is None:
            text += ", until now."
        elif woken := self.woken(one):
            text += f", until {woken}."
        else:
            text += "."
        if one.wait == Wait.YIELD:
            text = f"Task {task.id} stood in the ready queue again, behind the others."
        else:
            text += self.once("poll", "Nobody polls it meanwhile: it would not help, the future is not done.")
        step = Step(max(0, until - one.start), "WAIT", text, "measured", owner, one.start)
        step.key = ("wait", place(one.stack), one.wait)
        if one.late >= WORTH_NS and one.held_by is not None:
            step.late = one.late
            bound = f"{duration(one.late)} of it were" if one.exact else f"At most {duration(one.late)} of it were"
            where = self.tasks.holder(one.held_by)
            step.details.append(f"{bound} too much: the loop was in {where}, and could not notice.")
            step.exact = one.exact
        if one.wait == Wait.CHILDREN:
            step.details += self.children(task, one.start, until)
            step.ran = self.ran(task, one.start, until)
            late, hold, child, exact = self.inherited(task, one.start, until)
            if late >= WORTH_NS and hold is not None and child is not None:
                step.late, step.exact = late, exact
                bound = f"{duration(late)} of it were" if exact else f"At most {duration(late)} of it were"
                where = self.tasks.holder(hold)
                step.details.append(f"{bound} too much: task {child.id} could not go on, the loop was in {where}.")
        step.details += [
            _in_thread(run) for run in self.request.threads if run.task == task.id and one.start <= run.start < until
        ]
        self.steps.append(step)

    def woken(self, one: Await) -> str:
        kind = one.waker_kind
        if kind == "task":
            own = self.tasks.request(self.request.seat, one.waker_task)
            name = self.tasks.named(self.request.seat, one.waker_task, self.request)
            return (
                f"{name} completed the future" if own is not None or one.waker_task else "a task completed the future"
            )
        return {
            "timer": "its time had come",
            "io": "the loop brought the result",
            "thread": "a thread was done",
            "cancel": "it was cancelled",
            "self": "its next turn",
        }.get(kind, "")

    def ready(self, task: TaskTrace, poll: Poll) -> None:
        text = f"Task {task.id} could run, but the loop was "
        if poll.held_by is not None:
            text += f"in {self.tasks.holder(poll.held_by)}."
        else:
            text += "busy with others, none of them for long."
        text += self.once(
            "scheduled", "This is scheduling delay: your code was not slow, the runtime could not get to it."
        )
        self.steps.append(Step(poll.delay, "READY", text, "measured", "runtime", poll.ready, key=("ready",)))

    def inside(self, task: TaskTrace, poll: Poll) -> None:
        """What ran within a slice: the first step of an eager task, or a request that the client had pipelined."""
        lane = self.model.lane(self.request)
        polls = lane.polls if lane is not None else []
        first = bisect_left(polls, (poll.ready, 0, "", 0))
        inner: list[tuple[str, int]] = []
        for start, end, whose, number in polls[first:]:
            if start >= poll.start:
                break
            if end <= poll.start and (whose, number) != (self.request.id, task.id):
                inner.append((whose, number))
        who = listed(dict.fromkeys(self.tasks.named(self.request.seat, number, self.request) for _, number in inner))
        owner: Owner = "code" if all(whose == self.request.id for whose, _ in inner) else "runtime"
        text = f"Within that slice ran {who or 'something that is not recorded'}; task {task.id} stood still meanwhile."
        self.steps.append(Step(poll.delay, "READY", text, "measured", owner, poll.ready, key=("inside",)))

    def still_ready(self, task: TaskTrace, one: Await) -> None:
        assert one.ready is not None
        if self.request.live is None:
            return
        text = f"Task {task.id} could run since, and has not: the loop is elsewhere."
        lane = self.model.lane(self.request)
        holds = (
            [hold for hold in lane.holds if hold.end >= lane.until_ns and hold.start < lane.until_ns] if lane else []
        )
        if holds:
            text = f"Task {task.id} could run, but the loop is in {self.tasks.holder(holds[-1])}."
        self.steps.append(Step(self.request.until - one.ready, "READY", text, "measured", "runtime", one.ready))

    def inherited(self, parent: TaskTrace, start: int, until: int) -> tuple[int, Hold | None, TaskTrace | None, bool]:
        """What the loop has cost the child that came last, and so its parent: how long, in what, which, exactly so."""
        ended = [
            (task.ended, task)
            for task in self.request.tasks.values()
            if task.parent == parent.id and task.ended is not None and start < task.ended <= until
        ]
        if not ended:
            return 0, None, None, True
        _, last = max(ended, key=lambda pair: (pair[0], pair[1].id))
        parts: list[tuple[int, Hold, TaskTrace, bool]] = []
        for one in last.awaits:
            if one.ready is None or one.ready <= start:
                continue
            if one.wait == Wait.CHILDREN:
                late, hold, child, exact = self.inherited(last, max(one.start, start), one.ready)
                if hold is not None and child is not None:
                    parts.append((late, hold, child, exact))
            elif one.held_by is not None and one.late >= WORTH_NS:
                parts.append((min(one.late, one.ready - start), one.held_by, last, one.exact))
        for poll in last.polls:
            if poll.held_by is not None and poll.ready >= start and poll.delay >= WORTH_NS:
                parts.append((poll.delay, poll.held_by, last, True))
        if not parts:
            return 0, None, None, True
        _, hold, child, _ = max(parts, key=lambda part: part[0])
        return sum(part[0] for part in parts), hold, child, all(part[3] for part in parts)

    def ran(self, parent: TaskTrace, start: int, until: int) -> int:
        """How long other tasks of the request ran in that time; one loop runs one at a time."""
        found = 0
        for task in self.request.tasks.values():
            if task is not parent:
                found += sum(max(0, min(poll.end, until) - max(poll.start, start)) for poll in task.polls)
        return min(found, max(0, until - start))

    def below(self, task: TaskTrace, parent: TaskTrace) -> bool:
        """Was it started by `parent`, or by one that was?"""
        seen = {task.id}
        while task.parent and task.parent in self.request.tasks and task.parent not in seen:
            if task.parent == parent.id:
                return True
            seen.add(task.parent)
            task = self.request.tasks[task.parent]
        return False

    def children(self, parent: TaskTrace, start: int, until: int) -> list[str]:
        """What the tasks did that are waited for, and those that these wait for: the longest first."""
        found = [
            task
            for task in self.request.tasks.values()
            if self.below(task, parent) and task.started < until and (task.ended is None or task.ended > start)
        ]
        found.sort(key=lambda task: (task.started - (task.ended or until), task.id))
        lines = []
        for task in found[:CHILDREN_MAX]:
            name = f" ({task.name})" if task.name not in ("", "?") else ""
            text = f"task {task.id}{name}: ran {duration(task.busy)}, could run {duration(task.scheduled)}, "
            text += f"waited {duration(task.idle)}"
            longest = max(task.awaits, key=lambda one: (one.ready or until) - one.start, default=None)
            if longest is not None:
                at = place(longest.stack)
                text += f", mostly for {WAITS_FOR[longest.wait]}" + (f" at {at}" if at else "")
            lines.append(text + ".")
        if len(found) > CHILDREN_MAX:
            lines.append(f"… and {count(len(found) - CHILDREN_MAX, 'shorter one')}.")
        return lines

    def thread(self, run: ThreadRun) -> None:
        if run.queued >= WORTH_NS:
            text = "The call was queued: no thread was free."
            self.steps.append(Step(run.queued, "QUEUE", text, "measured", "runtime", run.submitted))
        text = f"Thread {run.name} ran it; waiting inside it is not seen."
        self.steps.append(Step(run.length, "THREAD", text, "measured", "code", run.start))

    def departure(self) -> None:
        request = self.request
        told = []
        if request.status:
            told.append(f"response head {request.status}")
        if request.body_bytes_out or request.status:
            pieces = f" in {request.body_messages_out} messages" if request.body_messages_out > 1 else ""
            told.append(f"{size(request.body_bytes_out)} of body{pieces}")
        if request.cut:
            told.append("cut short")
        if request.client_left:
            told.append("the client left")
        if not told:
            return
        text = ", ".join(told)
        if request.write_wait >= WORTH_NS:
            took = f"The client did not take it for {duration(request.write_wait)}: {text}."
            self.steps.append(Step(request.write_wait, "WRITE", took, "measured", "client"))
            return
        told_by = request.handler_end if request.handler_end is not None else request.end
        ns = max(0, request.end - told_by) if request.end is not None and told_by is not None else 0
        at_once = "" if request.client_left or request.cut else "; the client took it at once"
        self.steps.append(Step(ns, "WRITE", f"{text[0].upper()}{text[1:]}{at_once}.", "measured", "runtime"))


def _in_thread(run: ThreadRun) -> str:
    queued = f"queued {duration(run.queued)} for a thread, then " if run.queued >= WORTH_NS else ""
    return f"{queued}ran {duration(run.length)} in thread {run.name}."


def _gathered(told: list[Step]) -> list[Step]:
    """Rounds of the same slice and wait are told once: a loop over 900 rows is one thing."""
    found: list[Step] = []
    for step in told:
        for back in (1, 2, 3):
            if step.key and len(found) >= back and found[-back].key == step.key and not step.details:
                same = found[-back]
                same.ns += step.ns
                same.late += step.late
                same.ran += step.ran
                same.times += 1
                break
        else:
            found.append(step)
    return found


def _shortened(told: list[Step]) -> list[Step]:
    """The longest STEPS_MAX; what lies between them is one line that says so."""
    if len(told) <= STEPS_MAX:
        return told
    kept = set(sorted(range(len(told)), key=lambda at: -told[at].ns)[:STEPS_MAX]) | {0, len(told) - 1}
    found: list[Step] = []
    at = 0
    while at < len(told):
        run = at
        while run < len(told) and run not in kept:
            run += 1
        if run > at:
            between = told[at:run]
            for owner, _ in OWNERS:
                some = [step for step in between if step.owner == owner]
                if some:
                    text = f"{count(len(some), 'shorter step')}, told together."
                    word = "RUN" if owner == "code" else "WAIT" if owner != "runtime" else "READY"
                    found.append(Step(sum(step.ns for step in some), word, text, "derived", owner))
            at = run
        else:
            found.append(told[at])
            at += 1
    return found


# ------------------------------------------------------------------------------------------------------------- the page


def _title(request: RequestTrace, paint: Paint) -> str:
    name = request.name if request.path != "?" else "A request"
    took = f"took {duration(request.total)}" if request.finished else f"has taken {duration(request.total)} so far"
    if request.partial:
        took = f"took at least {duration(request.total)}"
    text = f"{paint('1', name)} {took} on worker {request.worker} ({request.id})."
    if request.root is not None:
        whose = "The handler" if len(request.tasks) == 1 else "The handler and its tasks"
        text += f" {whose} worked for {duration(request.busy)} of that."
    elif request.threads:
        text += f" A thread had it for {duration(request.thread_run)} of that."
    return text


def _notes(model: Model, request: RequestTrace) -> list[str]:
    notes = []
    if request.partial:
        notes.append("Parts of it are not in the recording: they were overwritten, or nothing was recorded then.")
    if request.root is None and not request.threads:
        notes.append("No task of it is recorded: only what the server itself saw.")
    lane = model.lane(request)
    if lane is not None and lane.mechanism == 3:
        notes.append("The lens of this worker has switched itself off after an error: see the server's log.")
    return notes


def _lines(number: int, step: Step, most: int, paint: Paint, width: int) -> list[str]:
    digits = len(str(most))
    column = f"{number:>{digits + 1}}. {milliseconds(step.ns):>7} ms  "
    times = f"{step.times} times: " if step.times > 1 else ""
    sure = step.sure if step.times == 1 else "derived"
    body = f"{times}{step.text} [{sure}]"
    indent = " " * (len(column) + 8)
    wrapped = _wrapped(body, width - len(indent))
    colour = {"code": "36", "resource": "33", "client": "35", "runtime": "31"}[step.owner]
    lines = [f"{column}{paint(colour, f'{step.word:<6}')}  {wrapped[0]}", *(indent + line for line in wrapped[1:])]
    for detail in step.details:
        pieces = _wrapped(detail, width - len(indent) - 2)
        lines += [indent + ("- " if at == 0 else "  ") + piece for at, piece in enumerate(pieces)]
    return lines


def _belongs(told: list[Step], paint: Paint, width: int) -> list[str]:
    """Whose each step was, and how much that is. What is known to have come late is the runtime's; else it is only said."""
    whole = sum(step.ns for step in told)
    known = sum(step.late for step in told if step.exact)
    perhaps = sum(step.late for step in told if not step.exact and step.late >= WORTH_NS)
    parts = []
    for owner, name in OWNERS:
        mine = [(at, step) for at, step in enumerate(told, 1) if step.owner == owner]
        numbers = [str(at) for at, step in mine if step.ns >= 1000]
        ns = sum(max(0, step.ns - step.ran - (step.late if step.exact else 0)) for _, step in mine)
        if owner == "code":
            ns += sum(step.ran for step in told)
            numbers += [f"part of {at}" for at, step in enumerate(told, 1) if step.ran >= WORTH_NS]
        if owner == "runtime":
            ns += known
            numbers += [f"part of {at}" for at, step in enumerate(told, 1) if step.late >= WORTH_NS]
        if not numbers:
            continue
        which = ", ".join(numbers[:12]) + (", …" if len(numbers) > 12 else "")
        amount = f"{duration(ns)}, {share(ns, whole)}"
        if owner == "runtime" and perhaps:
            amount = f"{duration(ns)}, and at most {duration(perhaps)} more"
        parts.append(f"{paint('1', f'to {name}')}: {which} ({amount})")
    if not parts:
        return []
    return _wrapped("Belongs " + "; ".join(parts) + ".", width + len(paint("1", "")) * len(parts))


def _ending(model: Model, request: RequestTrace, width: int) -> list[str]:
    lines = []
    if request.handler_end is not None and request.end is not None and request.handler_end - request.end > KERNEL_NS:
        lines.append(f"The handler ran on for {duration(request.handler_end - request.end)} after the response.")
    others = [
        task
        for task in request.tasks.values()
        if task.parent and request.end is not None and task.polls and task.polls[-1].end - request.end > KERNEL_NS
    ]
    for task in others[:3]:
        assert request.end is not None
        after = task.polls[-1].end - request.end
        lines.append(f"Task {task.id} ({task.name}) still ran {duration(after)} after the response.")
    for lost in request.orphans[:3]:
        where = place(lost.stack)
        at = (f"; it begins at {where}" if lost.defined else f" ({where})") if where else ""
        kind = "Task" if lost.what == "destroyed" else "Coroutine"
        became = "was destroyed while it was pending" if lost.what == "destroyed" else "was never awaited"
        lines.append(f"{kind} {lost.name}() {became}{at}.")
    marks = [f"{mark.text!r} at {milliseconds(max(0, mark.at - request.start))} ms" for mark in request.marks[:8]]
    if marks:
        lines += _wrapped(f"Marks: {', '.join(marks)}.", width)
    if not request.finished and request.live is not None:
        lines.append("It is still in flight: what is told ends when the recording was taken.")
    return lines


def _wrapped(text: str, width: int) -> list[str]:
    """Lines of at most `width`; a number stays with its unit."""
    glued = re.sub(r"(?<=\d) (?=(?:ms|s|min|kB|MB|bytes?|%)\b|%)", "\xa0", text)
    lines = textwrap.wrap(glued, width, break_long_words=False, break_on_hyphens=False)
    return [line.replace("\xa0", " ") for line in lines]
