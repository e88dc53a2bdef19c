"""What the lens records of a request: each kind of await, child tasks, wakers, threads, ends of every sort; and that it
does no harm: nothing leaks, nothing stays hooked, and whoever fails in there is switched off.

That its times are true is test_lens_truth.py's.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import itertools
import random
import sys
import threading
import time
import types
from collections.abc import AsyncIterator, Callable, Coroutine, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import anyio
import anyio.to_thread
import pytest
import uvloop
from telemetry.traced import CANCELLED, RAISED, RETURNED, Request, Traced, app_of, decode

import fastserve
from fastserve.lens.recording import Kind, Wait
from fastserve.process.loops import new_loop
from fastserve.telemetry.lens import Mode
from fastserve.telemetry.lens.waits import is_library, wait_of


@pytest.fixture(params=["uvloop", "asyncio"])
def run(request: pytest.FixtureRequest) -> Callable[[Any], Any]:
    """Run a coroutine on each of the loops."""

    def run(coro: Any) -> Any:
        with asyncio.Runner(loop_factory=lambda: new_loop(request.param)) as runner:
            return runner.run(asyncio.wait_for(coro, 60))

    return run


async def traced(handler: Any, **options: Any) -> Request:
    """One request to this handler, as it was recorded."""
    async with Traced.serve(app_of(handler), **options) as server:
        await server.get()
        await server.settle()
        return server.last()


def kinds(request: Request) -> list[Kind]:
    return [Kind(event.kind) for event in request.events]


# ------------------------------------------------------------------------------------------------- a plain request


def test_a_request_that_waits_for_nothing_is_one_slice(run: Any) -> None:
    async def handler() -> str:
        return "hello"

    request = run(traced(handler))
    assert kinds(request) == [
        Kind.CONN_ACCEPT,
        Kind.REQUEST_BEGIN,
        Kind.TASK_SPAWN,
        Kind.RESPONSE_HEAD,
        Kind.REQUEST_END,
        Kind.TASK_POLL,
    ]
    assert (request.text, request.route) == ("GET /", "/")
    assert request.root.name.endswith("handler") and request.root.outcome == RETURNED
    begin, end = request.one(Kind.REQUEST_BEGIN), request.one(Kind.REQUEST_END)
    assert begin.flags & 3 == 3 and end.a == 200 and end.b == 5 and end.flags == 0
    accepted = request.one(Kind.CONN_ACCEPT).t
    assert accepted <= begin.t - begin.dur <= begin.t <= request.root.spawned <= end.t == begin.t + end.dur


def test_the_query_is_not_recorded(run: Any) -> None:
    async def go() -> None:
        async with Traced.serve(app_of(lambda: "x")) as server:
            await server.get("/?password=secret", headers="authorization: secret\r\ncookie: secret\r\n")
            await server.settle()
            assert server.last().text == "GET /"
            assert b"secret" not in server.area.copy()

    run(go())


def test_requests_of_one_connection_and_pipelined_ones(run: Any) -> None:
    async def handler() -> str:
        await asyncio.sleep(0.001)
        return "x"

    async def go() -> None:
        async with Traced.serve(app_of(handler)) as server:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n" * 3)
            for _ in range(3):
                await reader.readuntil(b"\r\n\r\nx")
            await server.settle()
            writer.close()
            requests = list(server.requests().values())
            flags = [request.one(Kind.REQUEST_BEGIN).flags for request in requests]
            assert [one & 1 for one in flags] == [1, 0, 0]
            assert [one & 4 for one in flags] == [0, 4, 4]  # they have waited for the first
            assert len({request.one(Kind.REQUEST_BEGIN).task for request in requests}) == 1
            first, second, _ = requests
            waited = second.one(Kind.REQUEST_BEGIN)
            assert waited.t - waited.dur <= first.one(Kind.REQUEST_END).t
            assert waited.dur >= first.one(Kind.REQUEST_END).dur

    run(go())


def test_body_bytes_and_the_wait_for_them(run: Any) -> None:
    async def handler(request: fastserve.Request) -> str:
        begun.set()
        return str(len(await request.body()))

    begun = asyncio.Event()

    async def go() -> None:
        app = fastserve.App()
        app.post("/")(handler)
        async with Traced.serve(app) as server:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(b"POST / HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 10\r\n\r\n12345")
            await begun.wait()
            await asyncio.sleep(0.03)
            writer.write(b"67890")
            assert (await reader.read()).endswith(b"10")
            writer.close()
            await server.settle()
            request = server.last()
            assert [(event.a, event.flags) for event in request.all(Kind.BODY)] == [(5, 0), (5, 0), (0, 1)]
            wait = request.one(Kind.RECEIVE)
            assert 20_000_000 < wait.dur < 2_000_000_000
            (only,) = request.root.awaits
            assert only.waker == "callback" and only.start <= wait.t + wait.dur

    run(go())


def test_a_client_that_does_not_take_its_answer(run: Any) -> None:
    async def handler() -> Any:
        async def pieces() -> AsyncIterator[bytes]:
            for _ in range(64):
                yield bytes(262_144)

        return fastserve.StreamingResponse(pieces())

    async def go() -> None:
        async with Traced.serve(app_of(handler)) as server:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port, limit=65536)
            writer.write(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            await asyncio.sleep(0.3)
            while await reader.read(1 << 20):
                pass
            writer.close()
            await server.settle()
            request = server.last()
            assert sum(event.a for event in request.all(Kind.RESPONSE_BODY)) == 64 * 262_144
            assert max(event.dur for event in request.all(Kind.DRAIN)) > 100_000_000

    run(go())


# ----------------------------------------------------------------------------------------------------- kinds of waits


async def _sleep() -> None:
    await asyncio.sleep(0.002)


async def _turn() -> None:
    await asyncio.sleep(0)


async def _future() -> None:
    loop = asyncio.get_running_loop()
    future = loop.create_future()
    loop.call_soon(lambda: future.set_result(None))
    await future


async def _done() -> None:
    future = asyncio.get_running_loop().create_future()
    future.set_result(None)
    await asyncio.sleep(0)
    await asyncio.wait([asyncio.ensure_future(asyncio.sleep(0.001))])


async def _lock() -> None:
    lock = asyncio.Lock()

    async def hold() -> None:
        async with lock:
            await asyncio.sleep(0.002)

    other = asyncio.create_task(hold())
    await asyncio.sleep(0)
    async with lock:
        pass
    await other


async def _event() -> None:
    event = asyncio.Event()
    other = asyncio.create_task(_set_soon(event))
    await event.wait()
    await other


async def _set_soon(event: Any) -> None:
    await asyncio.sleep(0.001)
    event.set()


async def _queue() -> None:
    queue: asyncio.Queue[int] = asyncio.Queue()

    async def put() -> None:
        await asyncio.sleep(0.001)
        queue.put_nowait(1)

    other = asyncio.create_task(put())
    await queue.get()
    await other


async def _gather() -> None:
    await asyncio.gather(_sleep(), _sleep())


async def _group() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(_sleep())


async def _task() -> None:
    await asyncio.create_task(_sleep())


async def _thread() -> None:
    await asyncio.to_thread(time.sleep, 0.002)


async def _executor() -> None:
    await asyncio.get_running_loop().run_in_executor(None, time.sleep, 0.002)


async def _io() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readline())
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"line\n")
        assert await reader.readline() == b"line\n"
        writer.close()


async def _process() -> None:
    process = await asyncio.create_subprocess_exec("sleep", "0.01")
    await process.wait()


async def _anyio_sleep() -> None:
    await anyio.sleep(0.002)


async def _anyio_event() -> None:
    event = anyio.Event()
    async with anyio.create_task_group() as group:
        group.start_soon(_set_soon, event)
        await event.wait()


async def _anyio_group() -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(_sleep)


async def _anyio_thread() -> None:
    await anyio.to_thread.run_sync(time.sleep, 0.002)


class Custom:
    def __await__(self) -> Generator[Any, None, None]:
        yield from asyncio.sleep(0.002).__await__()


async def _custom() -> None:
    await Custom()


async def _wrapper() -> None:
    await _Raw(_sleep())


class _Raw:
    def __init__(self, coro: Any) -> None:
        self.coro = coro

    def __await__(self) -> Any:
        return self.coro.__await__()


async def _numbers() -> AsyncIterator[int]:
    await asyncio.sleep(0.002)
    yield 1


async def _generator() -> None:
    async for _ in _numbers():
        pass


async def _anext() -> None:
    numbers = _numbers()
    assert await anext(numbers) == 1
    await numbers.aclose()  # type: ignore[attr-defined]


async def _timeout() -> None:
    try:
        async with asyncio.timeout(0.002):
            await asyncio.Event().wait()
    except TimeoutError:
        pass


@types.coroutine
def _old_style() -> Generator[Any, None, None]:
    yield from asyncio.sleep(0.002).__await__()


async def _generator_coroutine() -> None:
    await _old_style()


WAITS: dict[str, tuple[Any, Wait, set[str], str | tuple[str, ...]]] = {
    # function, what its first long wait is for, who wakes it, the innermost function, in newer Pythons maybe another
    "sleep": (_sleep, Wait.TIMER, {"timer"}, "sleep"),
    "turn": (_turn, Wait.YIELD, {"self"}, "__sleep0"),
    "future": (_future, Wait.FUTURE, {"callback"}, "_future"),
    "lock": (_lock, Wait.LOCK, {"task"}, "Lock.acquire"),
    "event": (_event, Wait.EVENT, {"task"}, "Event.wait"),
    "queue": (_queue, Wait.QUEUE, {"task"}, "Queue.get"),
    "gather": (_gather, Wait.CHILDREN, {"task"}, "_gather"),
    "group": (_group, Wait.CHILDREN, {"task"}, ("TaskGroup.__aexit__", "TaskGroup._aexit")),
    "task": (_task, Wait.CHILDREN, {"task"}, "_task"),
    "wait": (_done, Wait.CHILDREN, {"task"}, "_wait"),
    "thread": (_thread, Wait.THREAD, {"thread"}, "to_thread"),
    "executor": (_executor, Wait.THREAD, {"thread"}, "_executor"),
    "io": (_io, Wait.IO, {"callback", "task"}, "StreamReader._wait_for_data"),
    "process": (_process, Wait.SUBPROCESS, {"callback", "task"}, ""),
    "anyio sleep": (_anyio_sleep, Wait.TIMER, {"timer"}, "sleep"),
    "anyio event": (_anyio_event, Wait.EVENT, {"task"}, "Event.wait"),
    "anyio group": (_anyio_group, Wait.CHILDREN, {"task"}, ""),
    "anyio thread": (_anyio_thread, Wait.THREAD, {"thread"}, ""),
    "custom": (_custom, Wait.TIMER, {"timer"}, "sleep"),
    "wrapper": (_wrapper, Wait.TIMER, {"timer"}, "sleep"),
    "generator": (_generator, Wait.TIMER, {"timer"}, "sleep"),
    "anext": (_anext, Wait.TIMER, {"timer"}, "sleep"),
    "timeout": (_timeout, Wait.EVENT, {"cancel"}, "Event.wait"),
    "old style": (_generator_coroutine, Wait.TIMER, {"timer"}, "sleep"),
}


@pytest.mark.parametrize("name", WAITS)
def test_each_kind_of_wait_is_named(name: str, run: Any) -> None:
    function, wait, wakers, innermost = WAITS[name]

    async def handler() -> str:
        await function()
        return "x"

    request = run(traced(handler))
    awaits = request.root.awaits
    found = [one for one in awaits if one.stack is not None and one.wait == wait]
    assert found, [(one.stack and (one.wait, [frame.function for frame in one.stack.frames])) for one in awaits]
    assert {one.waker for one in found} & wakers, [one.waker for one in found]
    assert any(one.function.endswith(innermost) for one in found), [one.function for one in found]
    outermost = found[0].stack.frames
    assert outermost[0].function.endswith("handler") and outermost[1].function.endswith(function.__name__)
    assert outermost[0].file == outermost[1].file == __file__
    first = handler.__code__.co_firstlineno
    assert all(one.stack.frames[0].line == first + 1 for one in awaits if one.stack is not None)


def test_a_stack_has_the_line_of_each_frame(run: Any) -> None:
    async def inner() -> None:
        await asyncio.sleep(0.001)
        await asyncio.sleep(0.001)

    async def handler() -> str:
        await inner()
        return "x"

    first, second = run(traced(handler)).root.awaits
    line = inner.__code__.co_firstlineno
    assert [frame.line for frame in first.stack.frames[:2]] == [handler.__code__.co_firstlineno + 1, line + 1]
    assert [frame.line for frame in second.stack.frames[:2]] == [handler.__code__.co_firstlineno + 1, line + 2]


def test_a_deep_stack_keeps_both_its_ends(run: Any) -> None:
    async def deep(depth: int) -> None:
        if depth:
            await deep(depth - 1)
        else:
            await asyncio.sleep(0.001)

    async def handler() -> str:
        await deep(150)
        return "x"

    (only,) = run(traced(handler)).root.awaits
    functions = [frame.function for frame in only.stack.frames]
    assert functions[0].endswith("handler") and functions[-1] == "sleep" and 32 <= len(functions) <= 64


@pytest.mark.parametrize(
    ("frames", "wait"),
    [
        ([("/app/x.py", "f"), ("/v/site-packages/asyncpg/pool.py", "Pool._acquire")], Wait.POOL),
        ([("/app/x.py", "f"), ("/v/site-packages/asyncpg/connection.py", "Connection.fetch")], Wait.UPSTREAM),
        ([("/app/x.py", "f"), ("/v/site-packages/asyncpg/pool.py", "Pool.release")], Wait.UPSTREAM),
        # Pools and clients are made of locks, queues, events and streams.
        (
            [
                ("/app/x.py", "f"),
                ("/v/site-packages/asyncpg/pool.py", "PoolAcquireContext.__aenter__"),
                ("/v/site-packages/asyncpg/pool.py", "Pool._acquire"),
                ("/v/site-packages/asyncpg/pool.py", "Pool._acquire.<locals>._acquire_impl"),
                ("/usr/lib/python3.12/asyncio/queues.py", "Queue.get"),
            ],
            Wait.POOL,
        ),
        (
            [
                ("/app/x.py", "f"),
                ("/v/site-packages/asyncpg/pool.py", "Pool.fetch"),
                ("/v/site-packages/asyncpg/connection.py", "Connection.fetch"),
            ],
            Wait.UPSTREAM,
        ),
        (
            [
                ("/app/x.py", "f"),
                ("/v/site-packages/psycopg_pool/pool_async.py", "AsyncConnectionPool.getconn"),
                ("/usr/lib/python3.12/asyncio/locks.py", "Event.wait"),
            ],
            Wait.POOL,
        ),
        (
            [
                ("/app/x.py", "f"),
                ("/v/site-packages/sqlalchemy/ext/asyncio/engine.py", "AsyncConnection.start"),
                ("/v/site-packages/sqlalchemy/util/_concurrency_py3k.py", "greenlet_spawn"),
                ("/usr/lib/python3.11/asyncio/tasks.py", "wait_for"),
            ],
            Wait.POOL,
        ),
        (
            [
                ("/app/x.py", "f"),
                ("/v/site-packages/sqlalchemy/util/_concurrency_py3k.py", "greenlet_spawn"),
                ("/v/site-packages/asyncpg/connection.py", "Connection.fetch"),
            ],
            Wait.UPSTREAM,
        ),
        (
            [
                ("/app/x.py", "f"),
                ("/v/site-packages/sqlalchemy/util/_concurrency_py3k.py", "greenlet_spawn"),
                ("/usr/lib/python3.12/asyncio/locks.py", "Lock.acquire"),
            ],
            Wait.LOCK,
        ),
        (
            [
                ("/app/x.py", "f"),
                ("/v/site-packages/httpx/_client.py", "AsyncClient.get"),
                ("/v/site-packages/anyio/_backends/_asyncio.py", "SocketStream.receive"),
                ("/usr/lib/python3.12/asyncio/locks.py", "Event.wait"),
            ],
            Wait.UPSTREAM,
        ),
        # But not the user's own, and not what a library does not hide.
        ([("/app/x.py", "f"), ("/usr/lib/python3.12/asyncio/queues.py", "Queue.get")], Wait.QUEUE),
        (
            [
                ("/v/site-packages/asyncpg/pool.py", "Pool._acquire"),
                ("/app/x.py", "f"),
                ("/usr/lib/python3.12/asyncio/queues.py", "Queue.get"),
            ],
            Wait.QUEUE,
        ),
        (
            [
                ("/app/x.py", "f"),
                ("/v/site-packages/starlette/middleware/base.py", "x"),
                ("/v/site-packages/anyio/streams/memory.py", "MemoryObjectReceiveStream.receive"),
                ("/usr/lib/python3.12/asyncio/locks.py", "Event.wait"),
            ],
            Wait.EVENT,
        ),
        (
            [
                ("/app/x.py", "f"),
                ("/v/site-packages/httpx/_client.py", "AsyncClient.get"),
                ("/usr/lib/python3.12/asyncio/tasks.py", "sleep"),
            ],
            Wait.TIMER,
        ),
        ([("/app/x.py", "f"), ("/v/site-packages/httpx/_client.py", "AsyncClient.send")], Wait.UPSTREAM),
        ([("/app/asyncpg_helpers.py", "Pool.acquire")], Wait.FUTURE),
        ([("/usr/lib/python3.11/asyncio/tasks.py", "wait_for"), ("/app/x.py", "f")], Wait.FUTURE),
    ],
)
def test_the_table_of_waits(frames: list[tuple[str, str]], wait: Wait) -> None:
    assert wait_of(frames, object(), None) == wait


def test_what_is_a_library() -> None:
    assert is_library(asyncio.__file__) and is_library(anyio.__file__)
    assert not is_library(__file__)


# ------------------------------------------------------------------------------------------------ tasks and wakers


def test_children_belong_to_their_request_and_know_their_parent(run: Any) -> None:
    async def grandchild() -> None:
        await asyncio.sleep(0.002)

    async def child() -> None:
        await asyncio.create_task(grandchild())

    async def handler() -> str:
        await asyncio.gather(child(), child())
        return "x"

    request = run(traced(handler))
    root = request.root
    parents = {task.name.rpartition(".")[2]: task.parent for task in request.children}
    assert len(request.children) == 4
    assert parents["child"] == root.number
    assert {request.tasks[task.parent].name for task in request.children if task.name.endswith("grandchild")} == {
        next(task.name for task in request.children if task.name.endswith(".child"))
    }
    (only,) = root.awaits
    assert only.waker == "task" and only.waker_task in request.tasks


def test_who_has_woken_it_is_named_across_requests(run: Any) -> None:
    async def go() -> None:
        app = fastserve.App()
        event = asyncio.Event()

        @app.get("/wait")
        async def wait() -> str:
            await event.wait()
            return "x"

        @app.get("/set")
        async def set_() -> str:
            event.set()
            return "x"

        async with Traced.serve(app) as server:
            waiting = asyncio.create_task(server.get("/wait"))
            await asyncio.sleep(0.02)
            await server.get("/set")
            await waiting
            await server.settle()
            waiter, setter = server.requests().values()
            (only,) = waiter.root.awaits
            assert (only.waker, only.waker_task) == ("task", setter.root.number)
            assert setter.root.slices[0].start <= only.ready <= setter.root.slices[0].end

    run(go())


def test_a_future_that_is_done_before_asyncio_waits_for_it(run: Any) -> None:
    """A handler's first slice ends before there is a Task: what completes its future meanwhile is seen all the same."""

    async def go() -> None:
        loop = asyncio.get_running_loop()
        futures: list[asyncio.Future[None]] = []
        app = fastserve.App()

        @app.get("/wait")
        async def wait() -> str:
            future = loop.create_future()
            futures.append(future)
            loop.call_soon(complete, future)  # runs before the first step of the Task that is made behind this slice
            await future
            return "x"

        def complete(future: asyncio.Future[None]) -> None:
            future.set_result(None)
            time.sleep(0.03)

        async with Traced.serve(app) as server:
            await server.get("/wait")
            await server.settle()
            root = server.last().root
            (only,) = root.awaits
            assert only.ready - only.start < 20_000_000
            assert root.scheduled > 25_000_000

    run(go())


def test_a_task_of_nobody_is_not_recorded(run: Any) -> None:
    async def go() -> None:
        async def background() -> None:
            while True:
                await asyncio.sleep(0.001)

        async def handler() -> str:
            await asyncio.sleep(0.02)
            return "x"

        task = asyncio.create_task(background())
        async with Traced.serve(app_of(handler)) as server:
            await server.get()
            await server.settle()
            assert len(server.last().tasks) == 1
        task.cancel()

    run(go())


def test_a_task_that_outlives_its_request_is_followed_to_its_end(run: Any) -> None:
    kept = []

    async def later() -> None:
        await asyncio.sleep(0.05)

    async def handler() -> str:
        kept.append(asyncio.create_task(later()))
        return "x"

    request = run(traced(handler))
    (child,) = request.children
    assert child.outcome == RETURNED and child.ended > request.one(Kind.REQUEST_END).t + 20_000_000


def test_a_task_that_is_dropped_while_it_waits_ends_without_an_outcome(run: Any) -> None:
    async def go() -> None:
        async def never() -> None:
            await asyncio.get_running_loop().create_future()

        async def handler() -> str:
            task = asyncio.create_task(never())
            await asyncio.sleep(0.001)
            task._log_destroy_pending = False  # type: ignore[attr-defined]
            return "x"

        async with Traced.serve(app_of(handler)) as server:
            await server.get()
            await asyncio.sleep(0.01)
            gc.collect()
            await server.settle()
            (child,) = decode(server.area)[0][1].children
            assert child.ended and child.outcome == 0

    run(go())


def test_how_tasks_end(run: Any) -> None:
    async def returns() -> None:
        await asyncio.sleep(0)

    async def raises() -> None:
        await asyncio.sleep(0)
        raise LookupError

    async def waits() -> None:
        await asyncio.sleep(9)

    async def handler() -> str:
        tasks = [asyncio.create_task(function()) for function in (returns, raises, waits)]
        await asyncio.sleep(0.002)
        tasks[2].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return "x"

    request = run(traced(handler))
    ends = {task.name.rpartition(".")[2]: task.outcome for task in request.children}
    assert ends == {"returns": RETURNED, "raises": RAISED, "waits": CANCELLED}
    (wait,) = next(task for task in request.children if task.outcome == CANCELLED).awaits
    assert wait.waker == "cancel" and wait.waker_task == request.root.number


def test_the_lens_takes_no_exception_for_seen(run: Any, caplog: pytest.LogCaptureFixture) -> None:
    async def go() -> None:
        async def raises() -> None:
            await asyncio.sleep(0)
            raise LookupError("nobody asks for it")

        async def handler() -> str:
            task = asyncio.create_task(raises())
            await asyncio.sleep(0.002)
            del task
            return "x"

        async with Traced.serve(app_of(handler)) as server:
            await server.get()
            gc.collect()
            await asyncio.sleep(0.01)

    run(go())
    assert "Task exception was never retrieved" in caplog.text


@pytest.mark.parametrize("waits", [False, True])
def test_a_handler_that_raises(waits: bool, run: Any, caplog: pytest.LogCaptureFixture) -> None:
    async def handler() -> str:
        if waits:
            await asyncio.sleep(0.001)
        raise LookupError

    request = run(traced(handler))
    end = request.one(Kind.REQUEST_END)
    assert (end.a, end.flags) == (500, 4) and request.root.outcome == RAISED


def test_a_client_that_leaves_cancels_its_handler(run: Any) -> None:
    async def go() -> None:
        async def handler() -> str:
            await asyncio.sleep(30)
            return "x"

        async with Traced.serve(app_of(handler)) as server:
            _reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            await asyncio.sleep(0.03)
            writer.close()
            await server.settle()
            request = server.last()
            assert request.root.outcome == CANCELLED and request.one(Kind.REQUEST_END).flags & 2
            assert request.root.awaits[0].waker == "cancel"

    run(go())


def test_a_task_that_is_asked_in_its_first_step(run: Any) -> None:
    """asyncio.timeout() and anyio make the blank task of a handler a real one before its first slice has ended."""

    async def handler() -> str:
        async with asyncio.timeout(5):
            await asyncio.sleep(0.001)
        with anyio.move_on_after(5):
            await anyio.sleep(0.001)
        return "x"

    request = run(traced(handler))
    assert len(request.tasks) == 1 and len(request.root.slices) >= 3


if sys.version_info >= (3, 12):  # eager tasks came with it

    def test_eager_tasks(run: Any) -> None:
        async def go() -> None:
            def eager(loop: Any, coro: Any, *, eager_start: bool = True, **named: Any) -> Any:
                # uvloop 0.23 says eager_start, which the factory of Python 3.13.0 does not take
                return asyncio.eager_task_factory(loop, coro, **named)  # type: ignore[attr-defined]

            asyncio.get_running_loop().set_task_factory(eager)

            async def child(seconds: float) -> None:
                if seconds:
                    await asyncio.sleep(seconds)

            async def handler() -> str:
                await asyncio.gather(asyncio.create_task(child(0.002)), asyncio.create_task(child(0)))
                return "x"

            async with Traced.serve(app_of(handler)) as server:
                await server.get()
                await server.settle()
                requests, _ = decode(server.area)
                (child_task,) = requests[1].children
                assert child_task.busy + child_task.scheduled + child_task.idle == child_task.ended - child_task.spawned
                assert child_task.awaits[0].waker == "timer"

        run(go())


# ------------------------------------------------------------------------------------------------------------ threads


def test_plain_handlers_executors_and_anyio_threads(run: Any) -> None:
    def plain() -> str:
        time.sleep(0.01)
        return "x"

    async def own_executor() -> str:
        with concurrent.futures.ThreadPoolExecutor(1, "mine") as pool:
            loop = asyncio.get_running_loop()
            await asyncio.gather(*(loop.run_in_executor(pool, time.sleep, 0.01) for _ in range(2)))
        return "x"

    async def to_anyio() -> str:
        await anyio.to_thread.run_sync(time.sleep, 0)  # imports its backend
        limiter = anyio.CapacityLimiter(1)
        async with anyio.create_task_group() as group:
            for _ in range(2):
                group.start_soon(lambda: anyio.to_thread.run_sync(time.sleep, 0.01, limiter=limiter))
        return "x"

    for handler, flags, runs in ((plain, 2, 1), (own_executor, 1, 2), (to_anyio, 1, 2)):
        request = run(traced(handler))
        found = request.all(Kind.THREAD_RUN)[-runs:]
        assert len(found) == runs and {event.flags for event in found} == {flags}
        for event in found:
            assert event.a <= event.t and event.dur >= 9_000_000 and event.task in request.tasks
        if runs == 2:
            first, second = sorted(found, key=lambda event: event.t)
            assert second.a < first.t + first.dur <= second.t  # it has waited for the only thread


def test_what_goes_to_another_process_goes_as_it_is(run: Any) -> None:
    async def handler() -> str:
        class Pool(concurrent.futures.Executor):
            def submit(self, function: Any, /, *arguments: Any, **named: Any) -> Any:
                assert function is len
                future: concurrent.futures.Future[int] = concurrent.futures.Future()
                future.set_result(function(*arguments))
                return future

        return str(await asyncio.get_running_loop().run_in_executor(Pool(), len, "four"))

    request = run(traced(handler))
    assert request.one(Kind.REQUEST_END).a == 200 and not request.all(Kind.THREAD_RUN)


def wsgi(environ: Any, start_response: Any) -> list[bytes]:
    time.sleep(0.01)
    fastserve.mark(f"at {environ['PATH_INFO']}")
    start_response("200 OK", [])
    return [b"x"]


def test_wsgi_in_threads(run: Any) -> None:
    async def go() -> None:
        async with Traced.serve(wsgi, threads=1) as server:
            await asyncio.gather(*(server.get(f"/{number}") for number in range(3)))
            await server.settle()
            for _ in range(100):  # a thread tells when it has run to its end, which may be after the answer's
                requests = list(server.requests().values())
                if all(request.all(Kind.THREAD_RUN) for request in requests):
                    break
                await asyncio.sleep(0.01)
            runs = sorted((request.one(Kind.THREAD_RUN) for request in requests), key=lambda event: event.t)
            assert all(event.flags == 0 and event.dur >= 9_000_000 for event in runs)
            for one, other in itertools.pairwise(runs):
                assert other.a < one.t + one.dur <= other.t  # there is but one thread
            for request in requests:
                assert request.one(Kind.REQUEST_BEGIN).flags & 32 and not request.tasks
                assert request.marks == [f"at {request.text.removeprefix('GET ')}"]

    run(go())


def test_wsgi_on_the_loop(run: Any) -> None:
    async def go() -> None:
        async with Traced.serve(wsgi, threads=0) as server:
            await server.get("/")
            await server.settle()
            request = server.last()
            assert request.root.name == "wsgi" and request.root.busy >= 9_000_000
            assert request.marks == ["at /"]

    run(go())


# ----------------------------------------------------------------------------------------------------------- ASGI


async def asgi(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        return
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        await receive()
        return
    if scope["path"] == "/body":
        while (await receive())["more_body"]:
            pass
    if scope["path"] == "/gone":
        await receive()
        await receive()
    fastserve.mark("half way")
    scope["route"] = types.SimpleNamespace(path="/{anything}")
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"1", "more_body": True})
    await asyncio.sleep(0.002)
    await send({"type": "http.response.body", "body": b"2"})
    if scope["path"] == "/background":
        await asyncio.sleep(0.05)


def test_an_asgi_application(run: Any) -> None:
    async def go() -> None:
        async with Traced.serve(asgi) as server:
            assert (await server.get("/x")).startswith(b"HTTP/1.1 200")
            await server.settle()
            request = server.last()
            assert (request.text, request.route, request.marks) == ("GET /x", "/{anything}", ["half way"])
            assert request.root.name == "asgi" and len(request.root.awaits) == 1
            assert [event.a for event in request.all(Kind.RESPONSE_BODY)] == [1, 1]

    run(go())


def test_receive_waits_for_the_client(run: Any) -> None:
    async def go() -> None:
        async with Traced.serve(asgi) as server:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(b"POST /body HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 2\r\n\r\n1")
            while not server.area.traced:
                await asyncio.sleep(0.001)
            await asyncio.sleep(0.02)
            writer.write(b"2")
            await reader.read()
            writer.close()
            await server.settle()
            request = server.last()
            assert request.root.awaits[0].wait == Wait.RECEIVE
            assert request.one(Kind.RECEIVE).dur > 10_000_000

    run(go())


def test_an_asgi_application_goes_on_behind_its_answer(run: Any) -> None:
    async def go() -> None:
        async with Traced.serve(asgi) as server:
            await server.get("/background")
            await server.settle()
            request = server.last()
            assert request.root.ended > request.one(Kind.REQUEST_END).t + 40_000_000

    run(go())


def test_a_websocket_is_one_request(run: Any) -> None:
    async def go() -> None:
        async with Traced.serve(asgi) as server:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(
                b"GET /ws HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
                b"sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
            )
            await reader.readuntil(b"\r\n\r\n")
            await asyncio.sleep(0.02)
            writer.write(b"\x81\x81\0\0\0\0x")
            assert (await reader.readexactly(2))[0] == 0x88
            writer.close()
            await server.settle()
            request = server.last()
            assert request.one(Kind.REQUEST_BEGIN).flags & 16 and request.one(Kind.RESPONSE_HEAD).a == 101
            assert [one.wait for one in request.root.awaits][-1] == Wait.MESSAGE

    run(go())


def test_marks_belong_to_the_task_that_runs(run: Any) -> None:
    async def go() -> None:
        async def child() -> None:
            fastserve.mark("in the child")

        async def handler() -> str:
            fastserve.mark("before")
            await asyncio.create_task(child())
            await asyncio.to_thread(fastserve.mark, "in a thread")
            fastserve.mark("after")
            return "x"

        async with Traced.serve(app_of(handler)) as server:
            await server.get()
            await server.settle()
            request = server.last()
            assert request.marks == ["before", "in the child", "in a thread", "after"]
            tasks = [event.task for event in request.all(Kind.MARK)]
            root, child_task = request.root.number, request.children[0].number
            assert tasks[0] == tasks[3] == root and tasks[1] == child_task
            with pytest.raises(TypeError, match="a mark is a str, not bytes"):
                fastserve.mark(b"x")  # type: ignore[arg-type]

    run(go())
    fastserve.mark("nobody listens")


# -------------------------------------------------------------------------------------------------- random programs


class Program:
    """A tree of waits, blocks, spawns, cancels and failures, from a seed."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.lock = asyncio.Lock()
        self.queue: asyncio.Queue[int] = asyncio.Queue()
        self.tasks = 0

    async def run(self, depth: int) -> None:
        pick = self.random.random
        for _ in range(self.random.randrange(1, 5)):
            choice = self.random.randrange(11)
            if choice == 0:
                await asyncio.sleep(pick() * 0.004)
            elif choice == 1:
                await asyncio.sleep(0)
            elif choice == 2:
                time.sleep(pick() * 0.002)
            elif choice == 3:
                async with self.lock:
                    await asyncio.sleep(pick() * 0.001)
            elif choice == 4:
                self.queue.put_nowait(1)
                await self.queue.get()
            elif choice == 5:
                await asyncio.to_thread(time.sleep, pick() * 0.001)
            elif choice == 6:
                try:
                    async with asyncio.timeout(pick() * 0.002):
                        await asyncio.sleep(0.001)
                except TimeoutError:
                    pass
            elif choice == 7:
                future = asyncio.get_running_loop().create_future()
                future.set_result(None)
                await future
            elif self.tasks < 60:
                children = [asyncio.create_task(self.run(depth + 1)) for _ in range(self.random.randrange(1, 4))]
                self.tasks += len(children)
                if choice == 8 and depth < 4:
                    await asyncio.gather(*children, return_exceptions=True)
                elif choice == 9:
                    await asyncio.sleep(pick() * 0.002)
                    children[0].cancel()
                    await asyncio.wait(children)
                else:
                    await asyncio.wait(children, return_when=asyncio.FIRST_COMPLETED)
                    await asyncio.gather(*children, return_exceptions=True)
            elif depth:
                raise LookupError


@pytest.mark.parametrize("first", range(0, 60, 15))
def test_random_programs_keep_the_invariants(first: int, run: Any) -> None:
    async def go() -> None:
        app = fastserve.App()

        @app.get("/{seed}")
        async def handler(seed: int) -> str:
            await Program(seed).run(0)
            return "x"

        async with Traced.serve(app) as server:
            seeds = range(first, first + 15)
            await asyncio.gather(*(server.get(f"/{seed}") for seed in seeds))
            await server.settle()
            requests = server.requests()  # checks what always holds
            assert len(requests) == 15 and all(request.root.ended for request in requests.values())
            assert all(task.ended for request in requests.values() for task in request.tasks.values())
            assert server.area.dropped == 0

    run(go())


def test_another_loop_of_the_process_is_left_alone(run: Any) -> None:
    """What is hooked on a class of loops, or in anyio, meets loops that have no lens: those of an application's threads."""

    def elsewhere() -> list[str]:
        heard: list[str] = []

        async def program() -> None:
            loop = asyncio.get_running_loop()
            loop.set_exception_handler(lambda _, context: heard.append(context["message"]))
            loop.call_exception_handler({"message": "something failed"})
            fastserve.mark("nobody's")
            heard.append(await anyio.to_thread.run_sync(lambda: "in a thread"))

        with asyncio.Runner(loop_factory=type(main)) as runner:
            runner.run(program())
        return heard

    async def handler() -> str:
        await anyio.to_thread.run_sync(lambda: None)  # the lens learns of anyio when somebody waits for it
        return ", ".join(await asyncio.to_thread(elsewhere))

    async def go() -> None:
        nonlocal main
        main = asyncio.get_running_loop()
        async with Traced.serve(app_of(handler)) as server:
            for _ in range(2):
                assert (await server.get()).endswith(b"something failed, in a thread")
            assert server.area.failures == 0

    main: Any = None
    run(go())


# ---------------------------------------------------------------------------------------------------------- modes


@pytest.mark.parametrize("mode", ["ready", "stalls", "sample:1", "full"])
def test_a_loop_without_attributes_has_no_dict(mode: str) -> None:
    """With one, each await of everybody's costs hundreds of instructions more."""

    # there a change of the class makes one, and nothing may take it; nothing changes the class before somebody is traced
    made = sys.version_info >= (3, 14) and mode in ("sample:1", "full")

    def dicts() -> int:  # a loop of uvloop has several inside, besides
        return sum(type(one) is dict for one in gc.get_referents(asyncio.get_running_loop()))

    async def go() -> None:
        before = dicts()

        async def handler() -> str:
            await asyncio.sleep(0)
            return str(dicts() - before <= made)  # while it is hooked, too

        async with Traced.serve(app_of(handler), mode=mode) as server:
            assert dicts() - before <= made
            assert (await server.get()).endswith(b"True")
            server.area.set_mode(Mode.STALLS)
            assert (await server.get()).endswith(b"True")
            assert dicts() - before <= made
            assert not vars(asyncio.get_running_loop())

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(go())


@pytest.mark.parametrize("mode", ["off", "ready", "stalls"])
def test_modes_that_trace_no_request_write_nothing_and_hook_nothing(mode: str, run: Any) -> None:
    async def go() -> None:
        before = type(asyncio.get_running_loop()), set(asyncio.get_running_loop().__dict__)

        async def handler() -> str:
            assert (type(asyncio.get_running_loop()), set(asyncio.get_running_loop().__dict__)) == before
            await asyncio.sleep(0)
            return "x"

        async with Traced.serve(app_of(handler), mode=mode) as server:
            assert (await server.get()).startswith(b"HTTP/1.1 200")
            assert server.area.events == 0 and server.area.traced == 0

    run(go())


def test_one_request_in_so_many(run: Any) -> None:
    async def go() -> None:
        loop = asyncio.get_running_loop()
        kind = type(loop)

        async def handler() -> str:
            await asyncio.sleep(0)
            return "x"

        async with Traced.serve(app_of(handler), mode="sample:5") as server:
            for _ in range(21):
                await server.get()
            await server.settle()
            assert server.area.traced == 5 and len(server.requests()) == 5
            await asyncio.sleep(0)
            server.recorder.follow()
            assert server.recorder.live == 0
            await asyncio.get_running_loop().run_in_executor(None, int)
            assert (type(loop) is not kind) == server.recorder.hooked

    run(go())


def test_slow_keeps_what_was_slow_or_failed_and_only_that(run: Any, caplog: pytest.LogCaptureFixture) -> None:
    async def go() -> None:
        app = fastserve.App()

        @app.get("/{name}")
        async def handler(name: str) -> str:
            await asyncio.sleep({"slow": 0.06, "quick": 0.001, "fails": 0.001}[name])
            if name == "fails":
                raise LookupError
            return "x"

        async with Traced.serve(app, mode="slow:50ms") as server:
            for name in ("quick", "slow", "quick", "fails", "quick"):
                await server.get(f"/{name}")
            await server.settle()
            requests = server.requests()
            assert [request.text for request in requests.values()] == ["GET /slow", "GET /fails"]
            assert server.area.traced == 5
            slow, failed = requests.values()
            assert len(slow.root.awaits) == 1 and slow.one(Kind.REQUEST_END).dur >= 50_000_000
            assert failed.one(Kind.REQUEST_END).a == 500 and failed.root.outcome == RAISED

    run(go())


def test_a_slow_request_shows_before_it_is_over(run: Any) -> None:
    async def go() -> None:
        async def handler() -> str:
            await asyncio.sleep(0.03)
            await asyncio.sleep(0)
            await asyncio.sleep(1)
            return "x"

        async with Traced.serve(app_of(handler), mode="slow:20ms") as server:
            asking = asyncio.create_task(server.get())
            await asyncio.sleep(0.3)
            requests, _ = decode(server.area)
            (request,) = requests.values()
            assert len(request.root.awaits) >= 2 and not request.all(Kind.REQUEST_END)
            await asking

    run(go())


def test_a_slow_request_of_very_many_waits_holds_back_no_more_than_there_is_room_for(run: Any) -> None:
    async def go() -> None:
        async def handler() -> str:
            for _ in range(3000):
                await asyncio.sleep(0)
            raise LookupError

        async with Traced.serve(app_of(handler), mode="slow:60s") as server:
            await server.get()
            await server.settle()
            assert 0 < server.area.dropped < 7000
            assert server.area.events < 1100

    run(go())


def test_switching_in_a_running_server(run: Any) -> None:
    async def go() -> None:
        loop = asyncio.get_running_loop()
        kind = type(loop)

        async def handler() -> str:
            await asyncio.sleep(0.001)
            return "x"

        async with Traced.serve(app_of(handler), mode="ready") as server:
            for mode, traced in ((Mode.READY, 0), (Mode.FULL, 2), (Mode.READY, 2), (Mode.SAMPLE, 3), (Mode.OFF, 3)):
                server.area.set_mode(mode, 2)
                await server.get()
                await server.get()
                await server.settle()
                assert server.area.traced == traced, mode
            server.recorder.follow()
            assert type(loop) is kind
            _, others = decode(server.area)
            switches = [event.a for event in others if event.kind == Kind.SWITCH]
            assert switches[0] == Mode.FULL and switches[-1] == Mode.OFF

    run(go())


# --------------------------------------------------------------------------------------------------------- no harm


def test_somebody_elses_call_soon_is_called_and_stays(run: Any) -> None:
    async def go() -> None:
        loop = asyncio.get_running_loop()
        original = loop.call_soon
        calls = []

        def theirs(callback: Any, *arguments: Any, **named: Any) -> Any:
            calls.append(callback)
            return original(callback, *arguments, **named)

        async def handler() -> str:
            await asyncio.sleep(0.001)
            return "x"

        loop.call_soon = theirs  # type: ignore[method-assign, assignment]
        async with Traced.serve(app_of(handler)) as server:
            await server.get()
            await server.settle()
            assert calls and len(server.last().root.awaits) == 1
        assert loop.__dict__["call_soon"] is theirs

        async with Traced.serve(app_of(handler)) as server:
            await server.get()
            ours = loop.__dict__["call_soon"]
            assert ours is not theirs

            def above(callback: Any, *arguments: Any, **named: Any) -> Any:
                return ours(callback, *arguments, **named)

            loop.call_soon = above  # type: ignore[method-assign, assignment]
            await server.get()
            await server.settle()
        assert loop.__dict__["call_soon"] is above  # it was put above ours, and ours only passes on
        await asyncio.sleep(0.001)
        loop.call_soon = original  # type: ignore[method-assign]

    run(go())


@pytest.mark.parametrize("earlier", [True, False])
def test_a_class_above_ours_stays(earlier: bool, run: Any) -> None:
    async def go() -> None:
        loop = asyncio.get_running_loop()
        kind = type(loop)
        calls = []

        def above() -> None:
            class Above(type(loop)):  # type: ignore[misc]
                __slots__ = ()

                def call_soon(self, callback: Any, *arguments: Any, **named: Any) -> Any:
                    calls.append(callback)
                    return super().call_soon(callback, *arguments, **named)

            loop.__class__ = Above

        async def handler() -> str:
            await asyncio.sleep(0.001)
            return "x"

        if earlier:
            above()
        async with Traced.serve(app_of(handler)) as server:
            await server.get()
            if not earlier:
                above()
            await server.get()
            await server.settle()
            assert calls and len(server.last().root.awaits) == 1
            for mode in (Mode.READY, Mode.FULL):  # its hooks go, and others come
                server.area.set_mode(mode)
                await server.get()
                await server.settle()
                server.recorder.follow()
            assert len(server.requests()) == 3 and len(server.last().root.awaits) == 1
        assert type(loop).__name__ == "Above"
        calls.clear()
        await asyncio.sleep(0.001)
        assert calls  # and ours, beneath it, only passes on
        async with Traced.serve(app_of(handler)) as server:
            await server.get()
            await server.settle()
            assert len(server.last().root.awaits) == 1
        assert type(loop).__name__ == "Above"
        loop.__class__ = kind

    run(go())


def test_who_has_kept_our_function_puts_it_back_as_he_found_it(run: Any) -> None:
    """Who replaces loop.call_soon for a while makes an attribute of it in the end; ours goes when nobody is traced."""

    async def go() -> None:
        loop = asyncio.get_running_loop()
        own = set(vars(loop))

        async def handler() -> str:
            original = loop.call_soon
            loop.call_soon = lambda *arguments, **named: original(*arguments, **named)  # type: ignore[method-assign]
            await asyncio.sleep(0.001)
            loop.call_soon = original  # type: ignore[method-assign]
            await asyncio.sleep(0.001)
            return "x"

        async with Traced.serve(app_of(handler)) as server:
            for _ in range(2):
                await server.get()
                await server.settle()
                assert len(server.last().root.awaits) == 2
        assert set(vars(loop)) == own

    run(go())


def test_the_loop_looks_as_it_did(run: Any) -> None:
    async def go() -> None:
        loop = asyncio.get_running_loop()
        kind = type(loop)
        seen = []

        async def handler() -> str:
            now = type(loop)
            seen.extend([now, isinstance(loop, kind), (now.__name__, now.__qualname__, now.__module__), repr(loop)[:9]])
            done = loop.create_future()  # by the class, as one calls who wants none of what stands in the loop
            now.call_soon(loop, done.set_result, None)
            await done
            with closing(now()) as other:
                threads = [*asyncio.all_tasks()]
                awaited = threading.Event()  # on 3.14 a thread that is over by then is no wait
                loop.call_soon(awaited.set)
                answers = await loop.run_in_executor(
                    None, lambda: awaited.wait(10) and other.run_until_complete(_twice())
                )
            return f"{answers}{len(threads) > 0}"

        before = (kind.__name__, kind.__qualname__, kind.__module__), repr(loop)[:9]
        async with Traced.serve(app_of(handler)) as server:
            assert (await server.get()).endswith(b"2True")
            await server.settle()
            request = server.last()
            assert len(request.root.awaits) == 2 and len(request.tasks) == 1  # none of the other loop's
        assert seen[0] is not kind and seen[1:] == [True, *before] and type(loop) is kind

    run(go())


async def _twice() -> int:
    done = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_later(0, done.set_result, 2)
    await asyncio.create_task(asyncio.sleep(0))
    return int(await done)


def test_a_class_without_heirs_has_the_hooks_in_the_loop() -> None:
    class Last(asyncio.SelectorEventLoop):
        def __init_subclass__(cls) -> None:
            raise TypeError("the last of its kind")

    async def go() -> None:
        loop = asyncio.get_running_loop()

        async def handler() -> str:
            await asyncio.create_task(_sleep())
            return str("call_soon" in vars(loop))

        async with Traced.serve(app_of(handler)) as server:
            assert (await server.get()).endswith(b"True") and type(loop) is Last
            assert server.recorder.bracketed
            await server.settle()
            assert len(server.last().tasks) == 2
        assert "call_soon" not in vars(loop)

    with asyncio.Runner(loop_factory=Last) as runner:
        runner.run(go())


def test_two_loops_of_one_class_know_nothing_of_each_other(run: Any) -> None:
    async def handler() -> str:
        for _ in range(20):
            await asyncio.create_task(_sleep())
        return "x"

    async def go() -> None:
        kind = type(asyncio.get_running_loop())
        async with Traced.serve(app_of(handler)) as server:
            await asyncio.gather(*(server.get() for _ in range(5)))
            await server.settle()
            requests = server.requests()
            assert len(requests) == 5
            assert all(len(request.tasks) == 21 and len(request.root.awaits) == 20 for request in requests.values())
        assert type(asyncio.get_running_loop()) is kind

    with ThreadPoolExecutor(3) as threads:
        for done in [threads.submit(run, go()) for _ in range(3)]:
            done.result()


def test_who_fails_is_switched_off_and_no_request_with_it(run: Any, caplog: pytest.LogCaptureFixture) -> None:
    class Nasty:
        """An awaitable that cannot be asked for its name."""

        def __getattr__(self, name: str) -> Any:
            raise RuntimeError("nobody knows") if name == "__qualname__" else AttributeError(name)

        def __init__(self, coro: Any) -> None:
            self.coro = coro

        def send(self, value: Any) -> Any:
            return self.coro.send(value)

        def throw(self, *error: Any) -> Any:
            return self.coro.throw(*error)

        def close(self) -> None:
            self.coro.close()

        def __await__(self) -> Any:
            return self.coro.__await__()

    async def child() -> None:
        await asyncio.sleep(0.001)

    async def handler() -> str:
        await asyncio.ensure_future(asyncio.create_task(Nasty(child())))  # type: ignore[arg-type]
        await asyncio.sleep(0.001)
        return "x"

    Coroutine.register(Nasty)

    async def go() -> None:
        loop = asyncio.get_running_loop()
        kind = type(loop)
        async with Traced.serve(app_of(handler)) as server:
            for _ in range(3):
                assert (await server.get()).startswith(b"HTTP/1.1 200")
            assert (server.area.failures, server.area.mechanism) == (1, 3)
            assert type(loop) is kind

    run(go())
    assert caplog.text.count("the lens has failed") == 1 and "nobody knows" in caplog.text


def test_where_steps_cannot_be_seen_the_handlers_own_are_told() -> None:
    """A loop that stays as it is: no hook, no children, and of an await nobody knows when it was over but who goes on."""

    class Own(asyncio.SelectorEventLoop):
        def __init_subclass__(cls) -> None:
            raise TypeError("the last of its kind")

        def __setattr__(self, name: str, value: Any) -> None:
            if name == "call_soon":
                raise AttributeError("as it is")
            super().__setattr__(name, value)

    async def go() -> None:
        async def handler() -> str:
            await asyncio.create_task(_sleep())
            return "x"

        loop = asyncio.get_running_loop()
        async with Traced.serve(app_of(handler)) as server:
            for _ in range(2):
                await server.get()
                await server.settle()
                assert not server.recorder.bracketed
                request = server.last()
                assert type(loop) is Own and "call_soon" not in vars(loop)
                assert [task.parent for task in request.tasks.values()] == [0]
                (only,) = request.root.awaits
                assert (only.waker, only.wait) == ("unknown", Wait.CHILDREN) and request.root.scheduled == 0

    with asyncio.Runner(loop_factory=Own) as runner:
        runner.run(go())


@pytest.mark.parametrize("mode", [Mode.FULL, Mode.SAMPLE])
def test_what_is_tried_first_leaves_nothing_behind(mode: Mode, run: Any) -> None:
    """A task of the recorder's own: in the middle of another one's step, and of a callback."""

    async def go() -> None:
        loop = asyncio.get_running_loop()
        found: list[Any] = []
        loop.set_exception_handler(lambda loop, context: found.append(context))

        async def handler() -> str:
            return str(len(asyncio.all_tasks()))

        async with Traced.serve(app_of(handler), mode="ready") as server:
            first = await server.get()
            server.area.set_mode(mode, 2)
            if mode is Mode.FULL:
                here = asyncio.current_task()
                server.recorder.follow()
                assert asyncio.current_task() is here and server.recorder.bracketed
            assert await server.get() == first
            assert server.recorder.bracketed and server.area.mechanism == 1
        gc.collect()
        await asyncio.sleep(0)
        assert not found

    run(go())


def test_what_a_traced_request_costs_is_estimated(run: Any) -> None:
    async def go() -> None:
        async def handler() -> str:
            return "x"

        async with Traced.serve(app_of(handler)) as server:
            assert int.from_bytes(server.area.copy()[196:200], "little") == 0
            await server.get()
            await server.settle()
            assert 100 < int.from_bytes(server.area.copy()[196:200], "little") < 1_000_000
            assert server.last().root.number == 1

    run(go())


def test_two_loops_in_two_threads_do_not_meet() -> None:
    failures: list[BaseException] = []

    def one(name: str) -> None:
        async def handler() -> str:
            await asyncio.gather(_sleep(), _sleep())
            return "x"

        async def go() -> None:
            async with Traced.serve(app_of(handler)) as server:
                await asyncio.gather(*(server.get() for _ in range(20)))
                await server.settle()
                requests = server.requests()
                assert len(requests) == 20 and all(len(request.tasks) == 3 for request in requests.values())

        try:
            with asyncio.Runner(loop_factory=lambda: new_loop(name)) as runner:
                runner.run(go())
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=one, args=[name]) for name in ("uvloop", "asyncio")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_a_hundred_thousand_traced_requests_leave_nothing(run: Any) -> None:
    """Objects, threads of the lens's own tables, memory: all flat. A third of them wait, some spawn."""

    async def go() -> None:
        app = fastserve.App()

        @app.get("/")
        async def plain() -> str:
            return "x"

        @app.get("/wait")
        async def wait() -> str:
            await asyncio.sleep(0)
            return "x"

        @app.get("/spawn")
        async def spawn() -> str:
            await asyncio.create_task(_turn())
            return "x"

        burst = b"".join(
            f"GET {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode() for path in ["/"] * 60 + ["/wait"] * 30 + ["/spawn"] * 10
        )
        async with Traced.serve(app) as server:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)

            async def bursts(count: int) -> None:
                for _ in range(count):
                    writer.write(burst)
                    for _ in range(100):
                        await reader.readuntil(b"\r\n\r\nx")

            await bursts(20)
            gc.collect()
            before = len(gc.get_objects())
            size = sys.getallocatedblocks()
            await bursts(980)
            await server.settle()
            gc.collect()
            assert abs(len(gc.get_objects()) - before) < 50
            assert abs(sys.getallocatedblocks() - size) < 500
            assert server.area.traced == 100_000 and server.area.failures == 0 and server.area.dropped == 0
            writer.close()

    run(go())


def test_cancel_storms(run: Any) -> None:
    async def go() -> None:
        async def handler() -> str:
            await asyncio.gather(*(asyncio.sleep(0.02 * (number % 3)) for number in range(5)))
            return "x"

        async with Traced.serve(app_of(handler)) as server:

            async def leave(number: int) -> None:
                _, writer = await asyncio.open_connection("127.0.0.1", server.port)
                writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
                await asyncio.sleep(0.001 * (number % 10))
                writer.close()

            for _ in range(4):
                await asyncio.gather(*(leave(number) for number in range(50)))
            await server.settle()
            assert len(server.requests()) == server.area.traced

    run(go())


def test_while_a_slice_runs_the_header_says_whose(run: Any) -> None:
    """What a dead worker was doing is read from there."""

    def running(server: Traced) -> tuple[int, int]:
        data = server.area.copy()
        return int.from_bytes(data[184:188], "little"), int.from_bytes(data[188:192], "little")

    async def go() -> None:
        seen: list[tuple[int, int]] = []
        box: list[Traced] = []

        async def handler() -> str:
            seen.append(running(box[0]))
            await asyncio.sleep(0.001)
            seen.append(running(box[0]))
            return "x"

        async with Traced.serve(app_of(handler)) as server:
            box.append(server)
            await server.get()
            await server.settle()
            assert seen == [(1, 1), (1, 1)]
            assert running(server)[0] == 0

    run(go())
