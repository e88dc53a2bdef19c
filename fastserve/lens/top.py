"""top: what a server does now: its loops, its routes, its requests in flight. `view` reckons it, `plain` prints it.

Room: floor 3. Called by: commands.py, screen.py. Calls: recording, model, findings, wording; protocol.board for the bounds.

Theory of operation. Two recordings, some time apart, give the rates: requests, latencies and errors from the board, which
counts in every mode; the processor's time of each worker from /proc; how late the loop was from the heartbeats, in mode
`stalls` and above. What is recorded of single requests in the last SPAN seconds gives the table of routes; in a sampled
server each stands for many.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from fastserve.lens.findings import Finding, Ignored, find
from fastserve.lens.model import Model, RequestTrace, build, place, shown_frame
from fastserve.lens.recording import Live, Recording, WorkerRecording, request_id
from fastserve.lens.wording import WAITS_FOR, duration, share
from fastserve.protocol.board import LATENCY_BOUNDS

__all__ = [
    "FLIGHT_COLUMNS",
    "ROUTE_COLUMNS",
    "SORTS",
    "Flight",
    "Loop",
    "Route",
    "Top",
    "View",
    "flight_cells",
    "loop_line",
    "plain",
    "route_cells",
    "sorted_routes",
    "title",
    "worst",
]

SPAN = 10.0  # seconds of single requests that the routes are made of
FLIGHTS = 12
ROUTES = 12
DELAY_NS = 250_000  # the first bucket of heartbeats' lateness; each one is twice as wide
BARS = "▁▂▃▄▅▆▇█"
STATES = {"running": "▶ running", "ready": "▲ ready", "waiting": "‖ waiting", "unknown": "-"}


@dataclass
class Loop:
    """One worker and its event loop."""

    slot: int
    pid: int
    busy: float | None  # share of a processor since the last look; None: not known yet
    delay_ns: int | None  # 99 of 100 heartbeats were less late than this; None: there are none in this mode
    stalls: int  # since the last look
    stalled_ns: int  # it stands still, for so long; 0: it turns
    at: str  # where it stands
    history: list[float] = field(default_factory=list)


@dataclass
class Route:
    """One row of the routes."""

    warn: str  # "!!", "!" or ""
    name: str
    rate: float
    p50_ns: int
    p99_ns: int
    busy: int
    scheduled: int
    idle: int
    thread: int
    total: int
    polls: float
    kernel_ns: int  # the 99th of 100
    waits_on: str


@dataclass
class Flight:
    """One request in flight."""

    id: str  # "" if it is not traced
    worker: int
    text: str
    age_ns: int
    state: str
    state_ns: int
    at: str
    holds: bool  # it has the loop, and others wait


@dataclass
class View:
    """All that is shown."""

    name: str
    pid: int
    mode: str
    seconds: float  # between the two looks
    rate: float | None
    p50_ns: int | None
    p99_ns: int | None
    errors: float | None  # answers of 5xx a second
    in_flight: int
    lost: int
    cost_ns: int  # of one traced request
    traced: int  # since the last look
    loops: list[Loop]
    routes: list[Route]
    flights: list[Flight]
    findings: list[Finding]
    model: Model


class Top:
    """Looks at one server again and again."""

    def __init__(self, ignored: Sequence[Ignored] = ()) -> None:
        self.ignored = ignored
        self._before: Recording | None = None
        self._ticks: dict[int, tuple[int, int]] = {}  # pid -> when, ns of processor
        self._history: dict[int, list[float]] = defaultdict(list)

    def look(self, recording: Recording) -> View:
        """What happened since the last look; the first one has no rates."""
        before, self._before = self._before, recording
        recent = replace(recording, workers=[_recent(worker, recording.taken_ns) for worker in recording.workers])
        model = build(recent)
        findings = find(model, ignored=self.ignored)
        seconds = (recording.taken_ns - before.taken_ns) / 1e9 if before is not None else 0.0
        old = {(worker.seat, worker.pid): worker for worker in before.workers} if before is not None else {}
        pairs = [(worker, old.get((worker.seat, worker.pid))) for worker in recording.workers]
        served = [_delta(now, then, "served") for now, then in pairs]
        buckets = [sum(column) for column in zip(*(_latency(now, then) for now, then in pairs), strict=False)]
        errors = sum(_class5(now) - _class5(then) for now, then in pairs)
        known = before is not None and seconds > 0
        return View(
            name=recording.name,
            pid=recording.pid,
            mode=recording.mode,
            seconds=seconds,
            rate=sum(served) / seconds if known else None,
            p50_ns=_quantile(buckets, 0.50),
            p99_ns=_quantile(buckets, 0.99),
            errors=errors / seconds if known else None,
            in_flight=sum(int(getattr(worker.seat_figures, "active", 0)) for worker in recording.workers),
            lost=sum(worker.lost + worker.header.get("dropped", 0) for worker in recording.workers),
            cost_ns=max((worker.header.get("cost_ns", 0) for worker in recording.workers), default=0),
            traced=sum(_header(now, "traced") - _header(then, "traced") for now, then in pairs) if known else 0,
            loops=[self._loop(now, then, recording) for now, then in pairs if now.alive],
            routes=_routes(model, findings, recording),
            flights=_flights(recording, model),
            findings=findings,
            model=model,
        )

    def _loop(self, now: WorkerRecording, then: WorkerRecording | None, recording: Recording) -> Loop:
        busy = self._busy(now.pid, recording) if recording.source == "live" else None
        beats = [a - b for a, b in zip(now.delay, then.delay, strict=True)] if then is not None else list(now.delay)
        delay = None
        if any(beat > 0 for beat in beats):
            delay = DELAY_NS << rank([max(0, beat) for beat in beats], 0.99)
        since = now.header.get("stall_since_ns", 0)
        stalled = max(0, recording.taken_ns - since) if since else 0
        at = place(now.stacks.get(now.header.get("stall_stack", 0))) if stalled else ""
        history = self._history[now.pid]
        if busy is not None:
            history.append(busy)
            del history[:-20]
        stalls = _header(now, "stalls") - _header(then, "stalls")
        return Loop(now.slot, now.pid, busy, delay, stalls, stalled, at, list(history))

    def _busy(self, pid: int, recording: Recording) -> float | None:
        used = processor_ns(pid)
        if used is None:
            return None
        then = self._ticks.get(pid)
        self._ticks[pid] = recording.taken_ns, used
        if then is None or recording.taken_ns <= then[0]:
            return None
        return max(0.0, (used - then[1]) / (recording.taken_ns - then[0]))


# -------------------------------------------------------------------------------------------------------- the figures


def _recent(worker: WorkerRecording, now: int) -> WorkerRecording:
    since = now - int(SPAN * 1e9)
    return replace(worker, events=[event for event in worker.events if event.t + event.dur >= since])


def _header(worker: WorkerRecording | None, name: str) -> int:
    return worker.header.get(name, 0) if worker is not None else 0


def _delta(now: WorkerRecording, then: WorkerRecording | None, name: str) -> int:
    count = int(getattr(now.seat_figures, name, 0))
    return count - (int(getattr(then.seat_figures, name, 0)) if then is not None else 0)


def _latency(now: WorkerRecording, then: WorkerRecording | None) -> list[int]:
    mine = list(getattr(now.seat_figures, "latency", ()))
    others = list(getattr(then.seat_figures, "latency", ())) if then is not None else [0] * len(mine)
    return [a - b for a, b in zip(mine, others, strict=False)]


def _class5(worker: WorkerRecording | None) -> int:
    found = tuple(getattr(worker.seat_figures, "by_class", ())) if worker is not None else ()
    return int(found[5]) if len(found) > 5 else 0


def rank(buckets: Sequence[int], part: float) -> int:
    """The bucket in which that part of all is reached."""
    want, seen = part * sum(buckets), 0
    for at, number in enumerate(buckets):
        seen += number
        if seen >= want:
            return at
    return len(buckets) - 1


def _quantile(buckets: Sequence[int], part: float) -> int | None:
    """Within its bucket as if they lay evenly, as Prometheus does. ns; None: nothing was counted."""
    total = sum(buckets)
    if total <= 0:
        return None
    at = rank(buckets, part)
    low = LATENCY_BOUNDS[at - 1] if at else 0.0
    if at >= len(LATENCY_BOUNDS):
        return int(LATENCY_BOUNDS[-1] * 1e9)
    below = sum(buckets[:at])
    inside = (part * total - below) / buckets[at] if buckets[at] else 1.0
    return int((low + (LATENCY_BOUNDS[at] - low) * inside) * 1e9)


def processor_ns(pid: int) -> int | None:
    """Time of the processor that a process has had; None where /proc does not tell."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) * 1_000_000_000 // os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return None


def _nth(values: Sequence[int], part: float) -> int:
    """`values` sorted: the one that so many are not above."""
    return values[min(len(values) - 1, int(part * len(values)))] if values else 0


def _routes(model: Model, findings: Sequence[Finding], recording: Recording) -> list[Route]:
    groups: dict[str, list[RequestTrace]] = defaultdict(list)
    for one in model.requests:
        if one.finished and not one.partial:
            groups[one.route_name].append(one)
    warn: dict[str, str] = {}
    for finding in findings:
        sign = {"error": "!!", "warning": "!"}.get(finding.level, "")
        warn[finding.route] = max(warn.get(finding.route, ""), sign)
    times = _each(recording.mode)
    routes = []
    for name, requests in groups.items():
        totals = sorted(one.total for one in requests)
        kernel = sorted(one.kernel_wait or 0 for one in requests)
        span = min(SPAN, max(1.0, (recording.taken_ns - min(one.start for one in requests)) / 1e9))
        routes.append(
            Route(
                warn.get(name, ""),
                name,
                len(requests) * times / span,
                _nth(totals, 0.5),
                _nth(totals, 0.99),
                sum(one.busy for one in requests),
                sum(one.scheduled for one in requests),
                sum(one.idle for one in requests),
                sum(one.thread_run + one.thread_queue for one in requests if one.root is None),
                sum(totals),
                sum(one.polls for one in requests) / len(requests),
                _nth(kernel, 0.99),
                _waits_on(requests),
            )
        )
    routes.sort(key=lambda route: -route.total)
    return routes


def _each(mode: str) -> int:
    """How many requests one that is recorded stands for."""
    word, _, number = mode.partition(":")
    return int(number) if word == "sample" and number.isdecimal() else 1


def _waits_on(requests: Iterable[RequestTrace]) -> str:
    """What takes most of their time: a wait and its line, or the handler itself."""
    spent: Counter[str] = Counter()
    for one in requests:
        for task in one.tasks.values():
            for wait in task.awaits:
                if wait.ready is not None and not task.parent:
                    at = place(wait.stack)
                    spent[WAITS_FOR[wait.wait] + (f" {at}" if at else "")] += wait.ready - wait.start
            for poll in task.polls:
                length = poll.length
                for stall in one.stalls:
                    if (shared := min(stall.end, poll.end) - max(stall.start, poll.start)) > 0:
                        spent[f"(busy) {place(stall.stack)}".rstrip()] += shared
                        length -= shared
                if not task.parent:
                    spent["(ready) the loop was elsewhere"] += poll.delay
                spent[f"(busy) {task.name}" if task.name not in ("", "?") else "(busy)"] += length
        for run in one.threads:
            if run.kind != "executor":
                spent["(queue) for a thread"] += run.queued
                spent["(thread)"] += run.length
    return spent.most_common(1)[0][0] if spent else ""


def _flights(recording: Recording, model: Model) -> list[Flight]:
    found = []
    for worker in recording.workers:
        others_wait = sum(live.state == "ready" for live in worker.live)
        for live in worker.live:
            age = max(0, recording.taken_ns - live.since_ns)
            since = max(0, recording.taken_ns - live.state_since_ns) if live.state_since_ns else 0
            number = request_id(worker.slot, live.request) if live.request else ""
            holds = live.state == "running" and (since > 50_000_000 or others_wait > 0)
            at = _where(live, worker, model.by_id.get(number))
            found.append(Flight(number, worker.slot, live.text, age, live.state, since, at, holds))
    found.sort(key=lambda flight: (not flight.holds, -flight.age_ns))
    return found


def _where(live: Live, worker: WorkerRecording, trace: RequestTrace | None) -> str:
    stack = live.stack
    if stack is None and trace is not None and trace.root is not None and trace.root.awaits:
        stack = trace.root.awaits[-1].stack
    if live.state == "running" and worker.header.get("stall_stack", 0):
        stack = worker.stacks.get(worker.header["stall_stack"]) or stack
    frame = shown_frame(stack)
    if frame is None or stack is None:
        return ""
    if live.state == "waiting":
        return f"{WAITS_FOR[stack.wait]} {place(frame)}"
    return f"{place(frame)} {frame.function.rpartition('.')[2]}"


# ------------------------------------------------------------------------------------------------------------- as text


def bars(values: Sequence[float], width: int = 5) -> str:
    """ "▁▁▂▁▁" """
    shown = list(values)[-width:]
    return "".join(BARS[min(7, max(0, int(value * 8)))] for value in shown).rjust(width, "▁")


def title(view: View) -> str:
    """The first line."""
    parts = [f"{view.name}  {len(view.loops)} worker{'s' * (len(view.loops) != 1)}"]
    if view.rate is not None:
        parts.append(f"{view.rate:,.0f} req/s")
    if view.p50_ns is not None and view.p99_ns is not None:
        parts.append(f"p50 {duration(view.p50_ns)}  p99 {duration(view.p99_ns)}")
    if view.errors:
        parts.append(f"5xx {view.errors:.1f}/s")
    parts += [f"in flight {view.in_flight}", f"lens {view.mode}", f"lost {view.lost:,}"]
    if view.cost_ns and view.traced and view.seconds:
        part = view.traced * view.cost_ns / 1e9 / view.seconds / max(1, len(view.loops))
        parts.append(
            f"the lens costs about {view.cost_ns / 1000:.1f} µs per traced request ({100 * part:.2g} % of a processor)"
        )
    return "  ".join(parts)


def loop_line(loop: Loop) -> str:
    """ "w1 ▁▁█▇▁  71 %  delay p99 212 ms  !! blocked 3x" """
    text = f"w{loop.slot} {bars(loop.history)} "
    text += f"{100 * loop.busy:4.0f} %" if loop.busy is not None else "     -"
    text += f"  delay p99 <{duration(loop.delay_ns)}" if loop.delay_ns is not None else ""
    if loop.stalled_ns:
        text += f"  !! stands still for {duration(loop.stalled_ns)}" + (f" at {loop.at}" if loop.at else "")
    elif loop.stalls:
        text += f"  !! blocked {loop.stalls}x"
    return text


ROUTE_COLUMNS = ("Warn", "Route", "req/s", "p50", "p99", "busy", "sched", "idle", "polls", "kernel", "mostly")


def route_cells(route: Route) -> tuple[str, ...]:
    """As ROUTE_COLUMNS."""
    return (
        route.warn,
        route.name,
        f"{route.rate:.1f}" if route.rate < 10 else f"{route.rate:,.0f}",
        duration(route.p50_ns),
        duration(route.p99_ns),
        share(route.busy, route.total),
        share(route.scheduled, route.total),
        share(route.idle, route.total),
        f"{route.polls:.0f}",
        duration(route.kernel_ns),
        route.waits_on,
    )


FLIGHT_COLUMNS = ("Request", "", "for", "state", "at")


def flight_cells(flight: Flight) -> tuple[str, ...]:
    """As FLIGHT_COLUMNS."""
    at = flight.at
    if flight.state == "ready":
        at = f"ready {duration(flight.state_ns)} ago, waits for the loop" + (f"  {at}" if at else "")
    if flight.holds:
        at += "  (holds the loop)"
    return flight.id or f"w{flight.worker}", flight.text, duration(flight.age_ns), STATES[flight.state], at.strip()


def plain(view: View, width: int = 120) -> str:
    """All of it as lines of text."""
    lines = [title(view)]
    if not view.loops:
        lines.append("  no worker is alive")
    lines += [f"  {loop_line(loop)}" for loop in view.loops]
    if view.routes:
        lines += _table(
            "routes", ROUTE_COLUMNS, [route_cells(route) for route in view.routes[:ROUTES]], width, right=range(2, 10)
        )
        if len(view.routes) > ROUTES:
            lines.append(f"  … and {len(view.routes) - ROUTES} more")
    elif view.mode in ("off", "ready", "stalls"):
        lines.append(
            f"  No single requests are recorded: `fastserve lens {view.name} full` (or sample:100) switches that on."
        )
    if view.flights:
        rows = [flight_cells(flight) for flight in view.flights[:FLIGHTS]]
        lines += _table("in flight", FLIGHT_COLUMNS, rows, width, right=(2,))
        if len(view.flights) > FLIGHTS:
            lines.append(f"  … and {len(view.flights) - FLIGHTS} more")
    lines += [_cut(f"  {line}", width) for line in worst(view)]
    return "\n".join(lines) + "\n"


def worst(view: View, most: int = 3) -> list[str]:
    """The gravest findings, a line each."""
    found = [one for one in view.findings if one.level == "error" and not one.within]
    return [f"!! {one.code} {one.text}" for one in found[:most]]


def _table(
    name: str, columns: Sequence[str], rows: Sequence[Sequence[str]], width: int, right: Iterable[int] = ()
) -> list[str]:
    right = set(right)
    widths = [max(len(row[at]) for row in [columns, *rows]) for at in range(len(columns))]
    over = sum(widths) + 2 * len(widths) + 1 - width
    if over > 0:  # the second column has what people write
        widths[1] = max(12, widths[1] - over)
    lines = [f"- {name} ".ljust(width, "-")]
    for row in [columns, *rows]:
        cells = [
            _cut(cell, widths[at]).rjust(widths[at]) if at in right else _cut(cell, widths[at]).ljust(widths[at])
            for at, cell in enumerate(row)
        ]
        lines.append(_cut("  " + "  ".join(cells), width).rstrip())
    return lines


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: max(0, width - 1)] + "…"


def sorted_routes(routes: Sequence[Route], by: str) -> list[Route]:
    """By "time" (all that they took), "p99", "rate", "busy", "sched", "name"; the largest first."""
    keys = {
        "time": lambda route: -route.total,
        "p99": lambda route: -route.p99_ns,
        "rate": lambda route: -route.rate,
        "busy": lambda route: -route.busy,
        "sched": lambda route: -route.scheduled,
        "name": lambda route: route.name,
    }
    return sorted(routes, key=keys[by])


SORTS = ("time", "p99", "rate", "busy", "sched", "name")
