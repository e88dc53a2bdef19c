"""perfetto: a recording in the JSON that ui.perfetto.dev and chrome://tracing open.

Room: the top. Called by: commands. Calls: model, paths, recording.

A process for each worker. In it a track for the loop (all run slices), one for what held it, one for the garbage
collector, one for each thread, and one for each task: *runs*, *await ...* and *ready* take turns there, so that slices of a
track nest or are apart, which is the viewers' one rule: others they draw wrong. A torn recording may break it; then a slice
is cut: on the loop to end with the one it lies in, elsewhere to begin where the one before it ends. Each request is an
async span of its worker, with its phases inside. An arrow leads from who woke a task to where it became ready. It begins
and ends within slices, a nanosecond before the end of one at the latest: to chrome://tracing the end is outside.

Times are microseconds with three decimals, from the beginning of the recording. Text stands there as it is: of an escape
such as \\u00e9 Perfetto shows the six characters. The format: "Trace Event Format", Google, 2016; nestable async events and
flows as written there.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from typing import Any

from fastserve.lens.model import Lane, Model, RequestTrace, TaskTrace, function_of, place
from fastserve.lens.paths import stripped
from fastserve.lens.recording import Stack, Wait

__all__ = ["render"]

LOOP, HOLDS, GARBAGE, REQUESTS = 1, 2, 3, 4  # tracks of a worker beside its threads and tasks
THREADS, TASKS = 1000, 100_000  # their tracks are numbered from here

Slice = tuple[int, int, str, dict[str, Any]]


def render(model: Model, *, strip_paths: bool = False) -> str:
    """The file's text. `strip_paths`: files without the folders they lie in."""
    events = list(_Trace(model, strip_paths).events())
    recording = model.recording
    about = {
        "server": recording.name,
        "fastserve": recording.version,
        "python": recording.python,
        "lost events": sum(lane.lost for lane in model.lanes),
    }
    dumps = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
    lines = ",\n".join(map(dumps, events))
    # "ms" would be rounded to: what is shorter than a microsecond chrome://tracing would nest in what it is next to.
    head = dumps({"displayTimeUnit": "ns", "otherData": about})
    return f'{head[:-1]},"traceEvents":[\n{lines}\n]}}\n'


class _Trace:
    def __init__(self, model: Model, strip_paths: bool) -> None:
        self.model = model
        self.strip_paths = strip_paths
        starts = [request.start for request in model.requests]
        for lane in model.lanes:
            starts += [poll[0] for poll in lane.polls] + [stall.start for stall in lane.stalls]
            starts += [pause.start for pause in lane.gc]
        for request in model.requests:  # of a torn recording, where a task may have begun before its request
            starts += [run.submitted for run in request.threads] + [timer.due for timer in request.timers]
            starts += [one.start for one in (*request.receives, *request.drains)] + [mark.at for mark in request.marks]
            for task in request.tasks.values():
                starts += [poll.ready for poll in task.polls] + [one.start for one in task.awaits[:1]]
        self.zero = min(starts, default=model.recording.taken_ns)
        self.arrows = 0
        self.tracks: dict[tuple[str, int], int] = {}  # (request, task) -> its track
        self.drawn: dict[int, list[tuple[int, int]]] = {}  # of the worker in hand: track -> its slices, in order

    def us(self, at: int) -> float:
        return round((at - self.zero) / 1000, 3)

    def events(self) -> Iterator[dict[str, Any]]:
        for lane in self.model.lanes:
            requests = [one for one in self.model.requests if one.seat == lane.seat]
            yield from self.worker(lane, requests)

    # ------------------------------------------------------------------------------------------------------ a worker

    def worker(self, lane: Lane, requests: list[RequestTrace]) -> Iterator[dict[str, Any]]:
        process = lane.seat + 1  # not the system's number: two processes may have had the seat, one after the other
        self.drawn.clear()
        yield _meta(process, 0, "process_name", name=f"worker {lane.slot} (pid {lane.pid})")
        yield _meta(process, 0, "process_sort_index", sort_index=lane.slot)
        names = {LOOP: "event loop", HOLDS: "loop held", GARBAGE: "garbage collector", REQUESTS: "requests"}
        for track, name in names.items():
            yield from _track(process, track, name, track)
        yield from self.slices(process, LOOP, "loop", self.loop(lane), nested=True)
        holds = [
            (one.start, one.end, place(one.stack) or "the loop did not turn", self.told(one.stack, request=one.request))
            for one in lane.stalls
        ]
        yield from self.slices(process, HOLDS, "stall", holds)
        pauses = [
            (one.start, one.end, f"generation {one.generation}", {"collected": one.collected, "request": one.request})
            for one in lane.gc
        ]
        yield from self.slices(process, GARBAGE, "gc", pauses)
        threads: dict[str, list[Slice]] = {}
        running: dict[int, tuple[int, list[tuple[int, int]]]] = {}  # task -> its track and polls: where arrows begin
        for request in requests:
            for run in request.threads:
                args = {"request": request.id, "waited_ms": run.queued / 1e6}
                threads.setdefault(run.name, []).append((run.start, run.end, request.name, args))
            for task in request.tasks.values():
                track = self.tracks[request.id, task.id] = TASKS + len(self.tracks)
                running[task.id] = track, [(poll.start, poll.end) for poll in task.polls]
        numbers = {name: THREADS + number for number, name in enumerate(sorted(threads))}
        for name, track in numbers.items():
            yield from _track(process, track, name, track)
            yield from self.slices(process, track, "thread", threads[name])
        for request in requests:
            yield from self.request(process, request)
            for task in request.tasks.values():
                yield from self.task(process, request, task)
        for request in requests:
            for task in request.tasks.values():
                yield from self.wakes(process, request, task, running, numbers)
        yield from self.in_flight(process, requests)

    def loop(self, lane: Lane) -> list[Slice]:
        found = []
        for start, end, number, task in lane.polls:
            request = self.model.by_id.get(number)
            name = request.name if request is not None else "not traced"
            found.append((start, end, name, {"request": number, "task": task}))
        return found

    def in_flight(self, process: int, requests: list[RequestTrace]) -> Iterator[dict[str, Any]]:
        moments = sorted([(one.start, 1) for one in requests] + [(one.until, -1) for one in requests])
        count = 0
        for at, change in moments:
            count += change
            yield {"ph": "C", "name": "in flight", "pid": process, "ts": self.us(at), "args": {"requests": count}}

    # ----------------------------------------------------------------------------------------------------- a request

    def request(self, process: int, request: RequestTrace) -> Iterator[dict[str, Any]]:
        common = {"cat": "request", "pid": process, "tid": REQUESTS}
        args = {
            "route": request.route_name,
            "status": request.status,
            "total_ms": request.total / 1e6,
            "busy_ms": request.busy / 1e6,
            "scheduled_ms": request.scheduled / 1e6,
            "idle_ms": request.idle / 1e6,
            "late_at_most_ms": request.late / 1e6,
            "polls": request.polls,
        }

        def span(number: str, name: str, start: int, end: int, **more: Any) -> Iterator[dict[str, Any]]:
            yield {**common, "ph": "b", "id2": {"local": number}, "name": name, "ts": self.us(start), **more}
            yield {**common, "ph": "e", "id2": {"local": number}, "name": name, "ts": self.us(end)}

        last = max(request.until, request.start)
        whole = list(span(request.id, request.name, request.start, last, args=args))
        yield whole[0]
        stop = request.until if request.handler_end is None else min(request.handler_end, request.until)
        begun = request.handler_start
        first = request.first_byte
        phases: list[tuple[str, int, int | None]] = [
            ("in the kernel", request.start, first),
            ("read and parsed", first, request.head),
        ]
        if begun is not None:
            phases.append(("handler", max(begun, request.head), stop))
            phases.append(("written", max(stop, begun, request.head), request.end))
        at = request.start
        for name, start, end in phases:
            if start is None or end is None:
                continue
            start, end = max(start, at), min(end, last)  # a torn recording may have them overlap
            if start < end:
                yield from span(request.id, name, start, end)
                at = end
        yield whole[1]
        for name, found in (("waits for the client's bytes", request.receives), ("client is slow", request.drains)):
            for number, part in enumerate(found):
                if part.start < part.end:
                    yield from span(f"{request.id} {name} {number}", f"{request.name}: {name}", part.start, part.end)
        for mark in request.marks:
            track = self.tracks.get((request.id, mark.task), LOOP)
            yield self.instant(process, track, mark.text, mark.at, request=request.id)
        for timer in request.timers:
            if timer.task in request.tasks:
                name = f"timer was due, {timer.late / 1e6:.1f} ms before it ran"
                yield self.instant(process, self.tracks[request.id, timer.task], name, timer.due, request=request.id)

    def instant(self, process: int, track: int, name: str, at: int, **args: Any) -> dict[str, Any]:
        return {"ph": "i", "s": "t", "name": name, "pid": process, "tid": track, "ts": self.us(at), "args": args}

    def task(self, process: int, request: RequestTrace, task: TaskTrace) -> Iterator[dict[str, Any]]:
        track = self.tracks[request.id, task.id]
        yield from _track(process, track, f"{request.name} {request.id}: task {task.id} {task.name}", track)
        parts: list[Slice] = []
        for poll in task.polls:
            if poll.delay > 0:
                held = {"loop_was_in": poll.held_by.request} if poll.held_by is not None else {}
                parts.append((poll.ready, poll.start, "ready", {"request": request.id, **held}))
            parts.append((poll.start, poll.end, "runs", self.told(poll.stack, request=request.id, then=poll.outcome)))
        for one in task.awaits:
            end = max(request.until, one.start) if one.ready is None else one.ready
            where = place(one.stack)
            name = f"await {one.wait.name.lower()}" + (f" {where}" if where else "")
            woken = f"task {one.waker_task}" if one.waker_kind == "task" else one.waker_kind
            late = {"late_at_most_ms": one.late / 1e6} if one.late else {}
            parts.append((one.start, end, name, self.told(one.stack, request=request.id, woken_by=woken, **late)))
        yield from self.slices(process, track, "task", parts)

    def wakes(
        self,
        process: int,
        request: RequestTrace,
        task: TaskTrace,
        running: dict[int, tuple[int, list[tuple[int, int]]]],
        threads: dict[str, int],
    ) -> Iterator[dict[str, Any]]:
        """Arrows: from inside a slice of the waker to the slice that begins when the task is ready."""
        for one in task.awaits:
            if one.ready is None or one.end is None:
                continue
            begins: tuple[int, int] | None = None  # track, time
            if one.waker_kind == "task":
                track, polls = running.get(one.waker_task, (0, []))
                at = bisect_right(polls, (one.ready, 1 << 63)) - 1
                if at >= 0:  # a callback of the loop may stand between the two: a task's end, and who gathers it
                    begins = track, min(one.ready, polls[at][1] - 1)
            elif one.waker_kind == "thread":
                runs = [run for run in request.threads if run.end <= one.ready]
                if runs:
                    last = max(runs, key=lambda run: (run.task == task.id, run.end))
                    begins = threads[last.name], last.end - 1
            own = self.tracks[request.id, task.id]
            if begins is None or not self.drawn_at(*begins) or not self.drawn_at(own, one.ready):
                continue
            self.arrows += 1
            common = {"cat": "wake", "name": "wakes", "id": self.arrows, "pid": process}
            yield {**common, "ph": "s", "tid": begins[0], "ts": self.us(begins[1])}
            yield {**common, "ph": "f", "bp": "e", "tid": own, "ts": self.us(one.ready)}

    def drawn_at(self, track: int, moment: int) -> bool:
        """Does a slice of this track hold that moment?"""
        drawn = self.drawn.get(track, [])
        at = bisect_right(drawn, (moment, 1 << 63)) - 1
        return at >= 0 and moment < drawn[at][1]

    # -------------------------------------------------------------------------------------------------------- slices

    def slices(
        self, process: int, track: int, kind: str, parts: Iterable[Slice], nested: bool = False
    ) -> Iterator[dict[str, Any]]:
        """Complete events of one track, made to nest (`nested`) or to be apart."""
        ends: list[int] = []  # of the slices that this one lies in, or of the one before it
        for start, end, name, args in sorted(parts, key=lambda part: (part[0], -part[1] if nested else part[1])):
            while ends and ends[-1] <= start:
                ends.pop()
            if ends and nested:
                end = min(end, ends[-1])
            elif ends:
                start = ends.pop()
                if start >= end:
                    ends.append(start)
                    continue
            ends.append(end)
            self.drawn.setdefault(track, []).append((start, end))
            yield {
                "ph": "X",
                "cat": kind,
                "name": name,
                "pid": process,
                "tid": track,
                "ts": self.us(start),
                "dur": round((end - start) / 1000, 3),
                "args": {key: value for key, value in args.items() if value not in ("", None)},
            }

    def told(self, stack: Stack | None, **args: Any) -> dict[str, Any]:
        """Arguments of a slice: where it stands, innermost last."""
        if stack is not None and stack.frames:
            args["stack"] = [f"{function_of(one)} ({self.file(one.file)}:{one.line})" for one in stack.frames]
            if stack.wait != Wait.FUTURE:
                args["waits_for"] = stack.wait.name.lower()
        return args

    def file(self, file: str) -> str:
        return stripped(file) if self.strip_paths else file


def _meta(process: int, track: int, what: str, **args: Any) -> dict[str, Any]:
    return {"ph": "M", "name": what, "pid": process, "tid": track, "args": args}


def _track(process: int, track: int, name: str, order: int) -> Iterator[dict[str, Any]]:
    yield _meta(process, track, "thread_name", name=name)
    yield _meta(process, track, "thread_sort_index", sort_index=order)
