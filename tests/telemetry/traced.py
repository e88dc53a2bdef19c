"""A server in this process whose requests are traced, and what it has recorded, decoded anew: for tests of the lens."""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from fastserve import App
from fastserve.interfaces import make_handler, resolve
from fastserve.lens.recording import Area as Read
from fastserve.lens.recording import Event, Kind, Stack, Wait
from fastserve.protocol import Limits, Service
from fastserve.telemetry.lens import Area, LensMemory
from fastserve.telemetry.lens.modes import parse_mode
from fastserve.telemetry.lens.recorder import Recorder

SUSPENDED, RETURNED, RAISED, CANCELLED = 1, 2, 3, 4
WAKERS = ("unknown", "task", "timer", "callback", "thread", "cancel", "self")


@dataclass
class Slice:
    start: int
    end: int
    ready: int
    outcome: int
    stack: Stack | None


@dataclass
class Await:
    start: int
    ready: int
    stack: Stack | None
    waker: str
    waker_task: int

    @property
    def wait(self) -> Wait:
        assert self.stack is not None
        return self.stack.wait

    @property
    def function(self) -> str:
        """The innermost function."""
        assert self.stack is not None
        return self.stack.frames[-1].function


@dataclass
class Task:
    number: int
    parent: int
    name: str
    spawned: int
    slices: list[Slice] = field(default_factory=list)
    awaits: list[Await] = field(default_factory=list)
    ended: int = 0
    outcome: int = 0

    @property
    def busy(self) -> int:
        return sum(one.end - one.start for one in self.slices)

    @property
    def scheduled(self) -> int:
        return sum(one.start - one.ready for one in self.slices)

    @property
    def idle(self) -> int:
        return sum(one.ready - one.start for one in self.awaits)


@dataclass
class Request:
    number: int
    events: list[Event] = field(default_factory=list)
    tasks: dict[int, Task] = field(default_factory=dict)
    text: str = ""
    route: str = ""
    marks: list[str] = field(default_factory=list)

    @property
    def root(self) -> Task:
        return next(task for task in self.tasks.values() if task.parent == 0)

    @property
    def children(self) -> list[Task]:
        return [task for task in self.tasks.values() if task.parent]

    def all(self, kind: Kind) -> list[Event]:
        return [event for event in self.events if event.kind == kind]

    def one(self, kind: Kind) -> Event:
        (found,) = self.all(kind)
        return found


def _field(data: bytes, offset: int) -> int:
    return int.from_bytes(data[offset : offset + 8], "little")


def decode(area: Area) -> tuple[dict[int, Request], list[Event]]:
    """The requests of an area, and the events that belong to none."""
    data = area.copy()
    read = Read.unpack(data, None)
    events, bad = read.events()
    assert not bad
    texts, stacks = read.strings()
    requests: dict[int, Request] = {}
    others: list[Event] = []
    for event in events:
        if event.request == 0:
            others.append(event)
            continue
        request = requests.setdefault(event.request, Request(event.request))
        request.events.append(event)
        task = request.tasks.get(event.task)
        if event.kind == Kind.REQUEST_BEGIN:
            at = _field(data, 336) + (event.b & 0x7FFFFFFF) * 8 % _field(data, 344)
            length = int.from_bytes(data[at + 6 : at + 8], "little")
            assert int.from_bytes(data[at : at + 4], "little") == event.b
            request.text = data[at + 8 : at + 8 + length].decode("latin-1")
        elif event.kind == Kind.ROUTE:
            request.route = texts[event.b]
        elif event.kind == Kind.MARK:
            request.marks.append(texts[event.b])
        elif event.kind == Kind.TASK_SPAWN:
            assert task is None
            root = event.flags & 1
            request.tasks[event.task] = Task(event.task, 0 if root else event.b, texts[event.a], event.t)
            if root and event.b:
                request.route = texts[event.b]
        elif event.kind == Kind.TASK_POLL:
            assert task is not None
            task.slices.append(Slice(event.t, event.t + event.dur, event.a, event.flags, stacks.get(event.b)))
            if event.flags > 1:
                assert task.ended == 0
                task.ended, task.outcome = event.t + event.dur, event.flags
        elif event.kind == Kind.TASK_AWAIT:
            assert task is not None
            stack = stacks.get(event.b)
            waker = WAKERS[event.a >> 32]
            task.awaits.append(Await(event.t, event.t + event.dur, stack, waker, event.a & 0xFFFFFFFF))
        elif event.kind == Kind.TASK_END:
            assert task is not None and task.ended == 0
            task.ended, task.outcome = event.t, event.flags
    return requests, others


def check(requests: dict[int, Request]) -> None:
    """What holds for whatever ran: a task's time is cut without a gap, and slices of a loop do not cut each other."""
    slices = []
    for request in requests.values():
        for task in request.tasks.values():
            where = f"request {request.number}, task {task.number} ({task.name})"
            assert task.parent == 0 or task.parent in request.tasks, where
            if task.parent:
                parent = request.tasks[task.parent]
                assert parent.spawned <= task.spawned, where
                assert not parent.ended or task.spawned <= parent.ended, where
            if task.ended:
                assert task.busy + task.scheduled + task.idle == task.ended - task.spawned, where
                assert task.slices[-1].outcome == task.outcome != SUSPENDED, where
                assert all(one.outcome == SUSPENDED for one in task.slices[:-1]), where
                assert len(task.awaits) == len(task.slices) - 1, where
            for one, wait, following in zip(task.slices, task.awaits, task.slices[1:], strict=False):
                assert one.ready <= one.start <= one.end == wait.start <= wait.ready == following.ready, where
                assert one.stack == wait.stack, where
            slices += [(one.start, one.end, where) for one in task.slices]
    slices.sort()
    for (_, end, one), (start, _, other) in itertools.pairwise(slices):
        assert end <= start, f"{one} and {other} run at the same time"


def app_of(handler: Any) -> App:
    """One whose only route this is."""
    app = App()
    app.get("/")(handler)
    return app


class Traced:
    """`async with Traced.serve(app) as server`: its port, and what it has recorded."""

    def __init__(self, area: Area, recorder: Recorder, service: Service, port: int) -> None:
        self.area, self.recorder, self.service, self.port = area, recorder, service, port

    @classmethod
    @asynccontextmanager
    async def serve(
        cls, app: Any, mode: str = "full", interface: str = "auto", **options: Any
    ) -> AsyncIterator[Traced]:
        loop = asyncio.get_running_loop()
        memory = LensMemory(1)
        wanted = parse_mode(mode)
        memory.set_mode(wanted)
        area = memory.area(0)
        area.start(0, 1, 1)
        recorder = Recorder(area, loop)
        service = Service(
            loop, make_handler(app, resolve(app, interface), **options), Limits(shed_after=0), lens=recorder
        )
        with socket.create_server(("127.0.0.1", 0)) as sock:
            sock.setblocking(False)
            await service.listen([[sock]])
            try:
                yield cls(area, recorder, service, sock.getsockname()[1])
            finally:
                service.shutdown()
                service.abort()
                await service.wait_closed()
                service.close()
                recorder.close()

    async def get(self, path: str = "/", *, method: str = "GET", body: bytes = b"", headers: str = "") -> bytes:
        """One request on a connection of its own: the whole answer."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            length = f"content-length: {len(body)}\r\n" if body else ""
            writer.write(
                f"{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{length}{headers}\r\n".encode() + body
            )
            return await reader.read()
        finally:
            writer.close()

    async def settle(self) -> None:
        """Until nothing that is traced lives."""
        for _ in range(200):
            if self.recorder.live == 0:
                return
            await asyncio.sleep(0.01)
        raise AssertionError(f"{self.recorder!r} does not come to rest")

    def requests(self) -> dict[int, Request]:
        requests, _ = decode(self.area)
        assert self.area.failures == 0
        check(requests)
        return requests

    def last(self) -> Request:
        requests = self.requests()
        return requests[max(requests)]
