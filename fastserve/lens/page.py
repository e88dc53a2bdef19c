"""page: a recording as one HTML file that needs nothing else: lanes, requests, waterfall, step by step.

Room: the top. Called by: commands, learn. Calls: model, findings, paths, recording.

What the page shows is drawn by page.js from one block of JSON; this file makes that block and puts page.html, page.css and
page.js around it. The file loads nothing, and a policy in it forbids it to: only the one script and the one style sheet
whose hashes it names are allowed. In the JSON each `<` is escaped, and the script makes text nodes only, so a path such as
`</script>` is a path. Times are written from the start of the recording for lanes, from the start of a request inside it.

Source text is not in a recording. With `with_source` the lines around each line of the user's own code are read here, from
Python files alone: a recording from elsewhere must not choose what of this machine is put into a page.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
import time
import tokenize
from collections.abc import Iterable
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from fastserve.lens.findings import Finding, find
from fastserve.lens.model import (
    OUTCOMES,
    WAKERS,
    Lane,
    Model,
    RequestTrace,
    TaskTrace,
    function_of,
    place,
    shown_frame,
    user_frame,
)
from fastserve.lens.paths import stripped
from fastserve.lens.recording import Frame, Stack, Wait

__all__ = ["render"]

LINES_AROUND = 3  # of source text, before and after a line
SOURCE_MAX = 4 << 20  # bytes of a source file that is read


def render(
    model: Model,
    *,
    with_source: bool = False,
    strip_paths: bool = False,
    title: str = "",
    select: str = "",
    compact: bool = False,
    findings: Iterable[Finding] | None = None,
) -> str:
    """The page. `strip_paths`: files without the folders they lie in. `select`: the id of the request to open it with;
    else the one with the worst finding. `compact`: without head and filters, to be shown inside another page.
    """
    shown = title or f"{model.recording.name or 'recording'}"
    found = find(model) if findings is None else findings
    data = _Data(model, list(found), with_source, strip_paths).made()
    data |= {"title": shown, "select": select, "compact": compact}
    style, script = _asset("page.css"), _asset("page.js")
    own = f"script-src '{_hash(script)}'; style-src '{_hash(style)}'"
    policy = f"default-src 'none'; {own}; base-uri 'none'; form-action 'none'"
    block = json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    parts = {"CSP": policy, "TITLE": html.escape(shown), "STYLE": style, "SCRIPT": script, "DATA": block}
    return re.sub(r"@(CSP|TITLE|STYLE|SCRIPT|DATA)@", lambda match: parts[match[1]], _asset("page.html"))


@lru_cache
def _asset(name: str) -> str:
    return files("fastserve.lens").joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


class _Numbers:
    """Each value once, in the order they came; its number stands for it."""

    def __init__(self) -> None:
        self.numbers: dict[Any, int] = {}

    def of(self, value: Any) -> int:
        return self.numbers.setdefault(value, len(self.numbers))


class _Data:
    """The JSON of one page."""

    def __init__(self, model: Model, findings: list[Finding], with_source: bool, strip_paths: bool) -> None:
        self.model = model
        self.findings = findings
        self.with_source = with_source
        self.strip_paths = strip_paths
        self.files, self.names, self.frames, self.neighbours = _Numbers(), _Numbers(), _Numbers(), _Numbers()
        self.lines: dict[str, set[int]] = {}  # of the user's own files: what is looked at
        self.stacks: list[dict[str, Any] | None] = [None]
        self.known: dict[Stack, int] = {}
        starts = [request.start for request in model.requests]
        for lane in model.lanes:
            starts += [poll[0] for poll in lane.polls[:1]] + [stall.start for stall in lane.stalls[:1]]
            starts += [pause.start for pause in lane.gc[:1]]
        self.zero = min(starts, default=model.recording.taken_ns)
        ends = [request.until for request in model.requests]
        for lane in model.lanes:
            ends += [stall.end for stall in lane.stalls] + [pause.end for pause in lane.gc]
            ends += [poll[1] for poll in lane.polls]
        self.span = max(ends, default=self.zero) - self.zero
        self.held = {(hold.task, hold.start): hold.stack for lane in model.lanes for hold in lane.holds}
        self.numbers = {request.id: number for number, request in enumerate(model.requests)}
        self.places = {lane.seat: number for number, lane in enumerate(model.lanes)}

    def made(self) -> dict[str, Any]:
        recording = self.model.recording
        taken = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(recording.taken_unix_ns / 1e9))
        found = {
            "version": recording.version,
            "python": f"Python {recording.python}",
            "taken": taken,
            "span": self.span,
            "outcomes": ["running", *OUTCOMES[1:]],
            "wakers": WAKERS,
            "waits": [wait.name.lower() for wait in Wait],
            "requests": [self.request(request) for request in self.model.requests],
            "lanes": [self.lane(lane) for lane in self.model.lanes],
            "findings": [self.finding(finding) for finding in self.findings],
        }
        found["stacks"] = self.stacks
        found["frames"] = list(self.frames.numbers)
        found["files"] = [self.file(file) for file in self.files.numbers]
        found["names"] = list(self.names.numbers)
        found["neighbours"] = list(self.neighbours.numbers)
        found["source"] = self.source()
        return found

    # ------------------------------------------------------------------------------------------------------ requests

    def request(self, request: RequestTrace) -> dict[str, Any]:
        start = request.start

        def moment(at: int | None) -> int | None:
            return None if at is None else at - start

        flags = {
            "pipelined": request.pipelined,
            "TLS": request.tls,
            "WebSocket": request.websocket,
            "WSGI": request.wsgi,
            "cut short": request.cut,
            "the client left": request.client_left,
            "the handler failed": request.failed,
            "its beginning or end is not in the recording": request.partial,
            "still in flight": request.live is not None,
        }
        return {
            "id": request.id,
            "lane": self.places[request.seat],
            "method": request.method,
            "path": request.path,
            "route": request.route_name,
            "status": request.status,
            "finished": request.finished,
            "flags": [flag for flag, there in flags.items() if there],
            "at": start - self.zero,
            "until": max(request.until - start, 1),
            "phases": {
                "first": moment(request.first_byte),
                "head": moment(request.head),
                "start": moment(request.handler_start),
                "stop": moment(request.handler_end),
                "response": moment(request.response_head),
                "end": moment(request.end),
            },
            "n": {
                "total": request.total,
                "busy": request.busy,
                "scheduled": request.scheduled,
                "idle": request.idle,
                "late": request.late,
                "kernel": request.kernel_wait or 0,
                "thread_queue": request.thread_queue,
                "thread_run": request.thread_run,
                "write": request.write_wait,
                "polls": request.polls,
            },
            "in": request.body_bytes_in,
            "out": request.body_bytes_out,
            "tasks": [self.task(task, start) for task in sorted(request.tasks.values(), key=lambda one: one.started)],
            "threads": [
                [run.submitted - start, run.start - start, run.end - start, run.name, run.kind, run.task]
                for run in request.threads
            ],
            "receives": [[span.start - start, span.end - start] for span in request.receives],
            "drains": [[span.start - start, span.end - start] for span in request.drains],
            "marks": [[mark.at - start, mark.text] for mark in request.marks],
            "timers": [[timer.due - start, timer.late, timer.task] for timer in request.timers],
            "findings": [n for n, finding in enumerate(self.findings) if request.id in finding.requests],
        }

    def task(self, task: TaskTrace, start: int) -> list[Any]:
        polls = [
            [
                poll.start - start,
                poll.end - start,
                poll.ready - start,
                OUTCOMES.index(poll.outcome) if poll.outcome in OUTCOMES else 0,
                self.stack(poll.stack),
                self.stack(self.held.get((task.id, poll.start))),
            ]
            for poll in task.polls
        ]
        awaits = [
            [
                wait.start - start,
                None if wait.ready is None else wait.ready - start,
                self.stack(wait.stack),
                WAKERS.index(wait.waker_kind),
                wait.waker_task,
                wait.late,
                int(wait.exact),
            ]
            for wait in task.awaits
        ]
        ended = None if task.ended is None else task.ended - start
        return [task.id, task.parent, task.name or f"task {task.id}", task.started - start, ended, polls, awaits]

    # ------------------------------------------------------------------------------------------------------- loops

    def lane(self, lane: Lane) -> dict[str, Any]:
        zero = self.zero
        others = [
            [start - zero, end - zero, task, self.called(request), self.stack(self.held.get((task, start)))]
            for start, end, request, task in lane.polls
            if request not in self.numbers or not self.model.by_id[request].tasks.get(task)
        ]
        return {
            "slot": lane.slot,
            "since": max(lane.since_ns - zero, 0) if lane.lost else 0,
            "lost": lane.lost,
            "others": others,
            "stalls": [
                [s.start - zero, s.end - zero, self.stack(s.stack), s.request, s.late_stack, len(s.victims)]
                for s in lane.stalls
            ],
            "gc": [[pause.start - zero, pause.end - zero, pause.generation, pause.collected] for pause in lane.gc],
        }

    def called(self, request: str) -> int:
        """A request that was recorded, and is not among those that are shown: the number of its name, from 1; 0: none."""
        found = self.model.by_id.get(request)
        return 0 if found is None else 1 + self.neighbours.of(f"{found.name} ({found.id})")

    # ------------------------------------------------------------------------------------------- findings and stacks

    def finding(self, finding: Finding) -> dict[str, Any]:
        where = f"{place(finding.frame)} {function_of(finding.frame)}" if finding.frame is not None else ""
        return {
            "code": finding.code,
            "level": finding.level,
            "title": finding.title,
            "text": finding.text,
            "fix": finding.fix,
            "sure": finding.rule.sure,
            "place": where,
            "requests": finding.requests,
        }

    def stack(self, stack: Stack | None) -> int:
        if stack is None or not stack.frames:
            return 0
        if stack not in self.known:
            self.known[stack] = len(self.stacks)
            main, own = shown_frame(stack), user_frame(stack)
            shown = max(at for at, frame in enumerate(stack.frames) if frame is main)
            frames = [self.frame(frame) for frame in stack.frames]
            self.stacks.append({"wait": int(stack.wait), "frames": frames, "shown": shown, "own": own is not None})
        return self.known[stack]

    def frame(self, frame: Frame) -> int:
        own = user_frame(Stack((frame,))) is not None
        if own:
            self.lines.setdefault(frame.file, set()).add(frame.line)
        name = self.names.of(function_of(frame))
        return self.frames.of((self.files.of(frame.file), frame.line, name, 0 if own else 1))

    def file(self, file: str) -> str:
        """As the page shows it."""
        return stripped(file) if self.strip_paths else file

    def source(self) -> dict[int, dict[int, str]]:
        """Number of a file -> line -> its text, around the lines that are shown."""
        if not self.with_source:
            return {}
        found = {}
        for file, lines in self.lines.items():
            text = _source_of(file)
            if text:
                wanted = {near for line in lines for near in range(line - LINES_AROUND, line + LINES_AROUND + 1)}
                found[self.files.of(file)] = {n: text[n - 1] for n in sorted(wanted) if 1 <= n <= len(text)}
        return found


def _source_of(file: str) -> list[str]:
    """Its lines; none if it is not there, or is no Python file."""
    path = Path(file)
    try:
        if path.suffix != ".py" or not path.is_file() or path.stat().st_size > SOURCE_MAX:
            return []
        with tokenize.open(path) as stream:
            return [line.rstrip("\n").expandtabs(4) for line in stream]
    except (OSError, SyntaxError, UnicodeError, ValueError):
        return []
