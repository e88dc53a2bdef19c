"""Recordings told in a few lines: requests and what became of them, in milliseconds from the beginning.

    story = Story()
    slow = story.request("GET /report", at=0)
    slow.poll(0, 340)
    slow.ends(341)

They are made by recording.Builder, so they pass through the bytes that a server's memory has.
"""

from __future__ import annotations

import re

from fastserve.lens.model import Model, build
from fastserve.lens.recording import Builder, Kind, Wait, WorkerBuilder

BASE = 1_000_000_000_000  # what the machine's clock says when a story begins, ns
ENDINGS = {"suspended": 1, "returned": 2, "raised": 3, "cancelled": 4}
WAKERS = {"unknown": 0, "task": 1, "timer": 2, "io": 3, "thread": 4, "cancel": 5, "self": 6}
APP = "/home/me/shop/"
LIBRARY = "/usr/lib/python3.11/"
PACKAGES = "/home/me/.venv/lib/python3.11/site-packages/"

Frames = list[tuple[str, int, str]]


def ns(ms: float) -> int:
    return BASE + round(ms * 1e6)


def line(text: str) -> tuple[str, int, str]:
    """A frame: "items.py:41 show" is the user's, "asyncio/locks.py:9 acquire" and "site:asyncpg/pool.py:1 x" are not."""
    found = re.fullmatch(r"(.+):(\d+)(?: (.+))?", text)
    assert found is not None, text
    file, number, function = found.groups()
    if file.startswith("site:"):
        file = PACKAGES + file.removeprefix("site:")
    elif file.startswith("lib:"):
        file = LIBRARY + file.removeprefix("lib:")
    elif not file.startswith(("/", "<", "fastserve/")):
        file = APP + file
    return file, int(number), function or "handler"


class Told:
    """One request."""

    def __init__(self, story: Story, worker: WorkerBuilder, number: int, text: str, at: float) -> None:
        self.story = story
        self.worker = worker
        self.number = number
        self.text = text
        self.at = at
        self.id = f"w{worker.slot}-{number:04x}"
        self.task = story.new_task()
        self.last: dict[int, tuple[float, int] | None] = {}  # task -> where it suspended

    def event(self, kind: Kind, start: float, end: float | None = None, **fields: int) -> Told:
        length = 0 if end is None else round(end * 1e6) - round(start * 1e6)
        self.worker.event(kind, ns(start), length, request=self.number, **fields)
        return self

    def stack(self, *frames: str, wait: Wait = Wait.FUTURE) -> int:
        return self.worker.stack(*map(line, frames), wait=wait)

    def poll(
        self,
        start: float,
        end: float,
        at: str | list[str] | None = None,
        wait: Wait = Wait.FUTURE,
        *,
        ready: float | None = None,
        by: str = "io",
        by_task: int = 0,
        task: int | None = None,
        ends: str = "",
        silent: bool = False,
    ) -> Told:
        """A slice of the root task, or of `task`. `at`: where it then waits; none: it ends. `ready`, `by`: how it got here.

        `silent`: the event of the await before it is missing.
        """
        task = self.task if task is None else task
        frames = [at] if isinstance(at, str) else at
        stack = self.stack(*frames, wait=wait) if frames else 0
        was = self.last.get(task)
        ready = start if ready is None else ready
        if was is not None and not silent:
            waker = WAKERS[by] << 32 | by_task
            self.event(Kind.TASK_AWAIT, was[0], ready, task=task, b=was[1], a=waker)
        flag = ENDINGS[ends or ("suspended" if frames else "returned")]
        self.event(Kind.TASK_POLL, start, end, task=task, a=ns(ready), b=stack, flags=flag)
        if flag == 1:
            self.last[task] = (end, stack)
        else:
            self.last[task] = None
        return self

    def wakes(self, at: float, by: str = "io", by_task: int = 0, task: int | None = None) -> Told:
        """It became ready, and has not run since."""
        task = self.task if task is None else task
        was = self.last[task]
        assert was is not None
        return self.event(Kind.TASK_AWAIT, was[0], at, task=task, b=was[1], a=WAKERS[by] << 32 | by_task)

    def child(self, at: float, name: str, parent: int | None = None) -> int:
        number = self.story.new_task()
        above = self.task if parent is None else parent
        self.event(Kind.TASK_SPAWN, at, task=number, b=above, a=self.worker.text(name))
        return number

    def route(self, pattern: str) -> Told:
        return self.event(Kind.ROUTE, self.at, b=self.worker.text(pattern))

    def head(self, at: float, status: int = 200) -> Told:
        return self.event(Kind.RESPONSE_HEAD, at, a=status)

    def body(self, at: float, count: int) -> Told:
        return self.event(Kind.RESPONSE_BODY, at, a=count)

    def drains(self, start: float, end: float) -> Told:
        return self.event(Kind.DRAIN, start, end)

    def thread(self, submitted: float, start: float, end: float, kind: str = "executor", name: str = "pool_0") -> Told:
        flag = {"wsgi": 0, "executor": 1, "handler": 2}[kind]
        return self.event(
            Kind.THREAD_RUN, start, end, a=ns(submitted), b=self.worker.text(name), flags=flag, task=self.task
        )

    def ends(self, at: float, status: int = 200, *, sent: int = 100, flags: int = 0) -> Told:
        length = round(at * 1e6) - round(self.at * 1e6)
        self.worker.event(Kind.REQUEST_END, ns(at), length, request=self.number, a=status, b=sent, flags=flags, task=0)
        return self

    def flies(self, state: str = "waiting", since: float = 0, stack: int = 0) -> Told:
        """It is in flight when the recording is taken."""
        self.worker.live(
            self.text,
            ns(self.at),
            request=self.number,
            task=self.task,
            state=state,
            state_since_ns=ns(since),
            stack=stack,
        )
        return self


class Story:
    """One server, one worker unless more are asked for."""

    def __init__(self, workers: int = 1, *, mode: str = "full", capacity: int = 4096) -> None:
        self.builder = Builder("shop")
        self.workers = [
            self.builder.worker(mode=mode, capacity=capacity, started_ns=BASE - 10**9) for _ in range(workers)
        ]
        self.numbers = 0
        self.tasks = 0

    def new_task(self) -> int:
        self.tasks += 1
        return self.tasks

    def request(
        self,
        text: str,
        at: float,
        *,
        route: str = "",
        kernel: float | None = None,
        parse: float = 0.1,
        flags: int = 0,
        worker: int = 0,
        name: str = "",
        root: bool = True,
    ) -> Told:
        self.numbers += 1
        told = Told(self, self.workers[worker], self.numbers, text, at)
        flags |= 0 if kernel is None else 2
        told.worker.event(
            Kind.REQUEST_BEGIN,
            ns(at),
            round(parse * 1e6),
            request=told.number,
            flags=flags,
            a=round((kernel or 0) * 1e6),
            b=told.worker.text(text),
            task=1,
        )
        if route:
            told.route(route)
        if root:
            told.event(Kind.TASK_SPAWN, at, task=told.task, a=told.worker.text(name or "handler"))
        return told

    def stall(
        self,
        start: float,
        end: float,
        *frames: str,
        of: Told | None = None,
        late: bool = False,
        in_flight: int = 1,
        worker: int = 0,
    ) -> None:
        lens = self.workers[worker]
        stack = lens.stack(*map(line, frames)) if frames else 0
        lens.event(
            Kind.STALL,
            ns(start),
            round((end - start) * 1e6),
            request=of.number if of else 0,
            task=of.task if of else 0,
            b=stack,
            a=in_flight,
            flags=int(late),
        )

    def gc(self, start: float, end: float, of: Told | None = None, generation: int = 2, collected: int = 1000) -> None:
        self.workers[0].event(
            Kind.GC_PAUSE,
            ns(start),
            round((end - start) * 1e6),
            request=of.number if of else 0,
            a=collected,
            b=generation,
        )

    def model(self, now: float | None = None) -> Model:
        """Read; `now`: when it was taken, else right after the last event."""
        if now is not None:
            self.builder.taken_ns = ns(now)
        return build(self.builder.build())
