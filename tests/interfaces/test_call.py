"""HandlerCall: what a handler sees of asyncio is what it would see in a plain Task, suspended or not."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import time
import weakref
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from fastserve import App

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


def answer(memory: Any, handler: Any, seconds: float = 0.0, *, turns: int = 20) -> bytes:
    """In so many turns of the loop; or within so many seconds, for what waits for a timer or a thread."""
    app = App()
    app.add_route("/", handler, methods=("GET",))
    conn = memory(app)
    sent = conn.feed(GET)
    deadline = time.monotonic() + seconds
    while not sent and (turns > 0 or time.monotonic() < deadline):
        sent += conn.turn(1)
        turns -= 1
    return sent.partition(b"\r\n\r\n")[2]


ASKS = {
    "get_name": lambda t: isinstance(t.get_name(), str),
    "set_name": lambda t: t.set_name("x") is None and t.get_name() == "x",
    "get_coro": lambda t: t.get_coro() is not None,
    "get_loop": lambda t: t.get_loop() is asyncio.get_running_loop(),
    "get_stack": lambda t: isinstance(t.get_stack(), list),
    "cancelling": lambda t: t.cancelling() == 0,
    "uncancel": lambda t: t.uncancel() == 0,
    "cancelled": lambda t: t.cancelled() is False,
    "done": lambda t: t.done() is False,
    "exception": lambda t: not_done(t.exception),
    "result": lambda t: not_done(t.result),
    "repr": lambda t: "Task" in repr(t),
    "hash": lambda t: {t: 1}[t] == 1,
    "weakref": lambda t: weakref.ref(t)() is t,
    "attribute": lambda t: setattr(t, "anything", 5) is None and t.anything == 5,
    "isinstance": lambda t: isinstance(t, asyncio.Task) and isinstance(t, asyncio.Future),
    "private": lambda t: t._coro is t.get_coro() and t._state == "PENDING" and t._callbacks is None,
    "isfuture": lambda t: asyncio.isfuture(t),
}


def not_done(function: Any) -> bool:
    with pytest.raises(asyncio.InvalidStateError):
        function()
    return True


@pytest.mark.parametrize("suspend", [False, True])
@pytest.mark.parametrize("ask", ASKS)
def test_the_current_task_answers(memory, ask, suspend):
    async def handler() -> str:
        if suspend:
            await asyncio.sleep(0)
        task = asyncio.current_task()
        good = ASKS[ask](task)
        assert asyncio.current_task() is task
        return str(good)

    assert answer(memory, handler) == b"True"


@pytest.mark.parametrize("ask", [ask for ask in ASKS if ask not in ("exception", "result", "done", "private")])
def test_a_task_that_outlives_its_handler_can_be_asked(memory, loop, ask):
    kept: list[Any] = []

    async def handler() -> str:
        kept.append(asyncio.current_task())
        return "ok"

    assert answer(memory, handler) == b"ok"
    gc.collect()

    async def later() -> bool:
        await asyncio.sleep(0)
        task = kept[0]
        assert task.done()
        good = bool(ASKS[ask](task))
        await asyncio.sleep(0.001)
        assert task.done()
        assert task.result() is None
        return good

    assert loop.run_until_complete(later())


def test_it_is_the_same_task_before_and_after_suspending(memory):
    async def handler() -> str:
        first = asyncio.current_task()
        await asyncio.sleep(0)
        second = asyncio.current_task()
        await asyncio.sleep(0.001)
        return str(first is second is asyncio.current_task() and first in asyncio.all_tasks())

    assert answer(memory, handler, 5) == b"True"


def test_done_callbacks(memory, loop):
    seen: list[Any] = []

    async def handler() -> str:
        task = asyncio.current_task()
        assert task is not None
        task.add_done_callback(seen.append)
        return "ok"

    assert answer(memory, handler) == b"ok"
    loop.run_until_complete(asyncio.sleep(0.001))
    assert len(seen) == 1 and seen[0].done() and not seen[0].cancelled()


@pytest.mark.parametrize("suspend_first", [False, True])
def test_timeout(memory, suspend_first):
    async def handler() -> str:
        if suspend_first:
            await asyncio.sleep(0)
        try:
            async with asyncio.timeout(0.005):
                await asyncio.sleep(10)
        except TimeoutError:
            return f"timeout {asyncio.current_task().cancelling()}"
        return "no"

    assert answer(memory, handler, 5) == b"timeout 0"


def test_a_timeout_that_is_over_before_it_waits(memory):
    async def handler() -> str:
        try:
            async with asyncio.timeout(0):
                await asyncio.sleep(10)
        except TimeoutError:
            return "timeout"
        return "no"

    assert answer(memory, handler, 5) == b"timeout"


def test_task_group_cancels_its_siblings_and_its_parent(memory):
    async def handler() -> str:
        async def fail() -> None:
            await asyncio.sleep(0.001)
            raise ZeroDivisionError

        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(fail())
                await asyncio.sleep(10)
        except ExceptionGroup as errors:
            return "group" if errors.subgroup(ZeroDivisionError) else "other"
        return "no"

    assert answer(memory, handler, 5) == b"group"


def test_cancelling_itself(memory):
    async def handler() -> str:
        task = asyncio.current_task()
        assert task is not None
        task.cancel("why")
        try:
            await asyncio.sleep(10)
        except asyncio.CancelledError as error:
            task.uncancel()
            return f"{error.args} {task.cancelling()}"
        return "no"

    assert answer(memory, handler, 5) == b"('why',) 0"


def test_anyio_and_sniffio(memory):
    async def handler() -> str:
        with anyio.move_on_after(0.005) as scope:
            await anyio.sleep(10)
        results = []

        async def child(n: int) -> None:
            await anyio.sleep(0)
            results.append(n)

        async with anyio.create_task_group() as group:
            for n in range(3):
                group.start_soon(child, n)
        with anyio.CancelScope(shield=True):
            await anyio.lowlevel.checkpoint()
        return f"{scope.cancelled_caught} {sorted(results)} {await anyio.to_thread.run_sync(lambda: 7)}"

    assert answer(memory, handler, 5) == b"True [0, 1, 2] 7"


def test_one_context_for_all_of_a_request(memory):
    variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable", default=0)
    seen: list[int] = []

    async def handler() -> str:
        seen.append(variable.get())
        variable.set(1)
        await asyncio.sleep(0)
        seen.append(variable.get())
        await asyncio.create_task(child())
        seen.append(variable.get())
        return "ok"

    async def child() -> None:
        seen.append(variable.get())
        variable.set(2)

    for _ in range(2):
        seen.clear()
        assert answer(memory, handler) == b"ok"
        assert seen == [0, 1, 1, 1]
    assert variable.get() == 0


def test_a_future_that_is_done_at_once_costs_no_turn_more_than_one(memory):
    async def handler() -> str:
        future = asyncio.get_running_loop().create_future()
        future.set_result("done")
        return await future

    assert answer(memory, handler, turns=0) == b"done"


def test_awaiting_what_is_no_future_fails_as_in_a_task(memory):
    class Odd:
        def __await__(self):
            yield "not a future"

    async def handler() -> str:
        try:
            await Odd()
        except RuntimeError as error:
            return str(error)[:25]
        return "no"

    assert answer(memory, handler) == b"Task got bad yield: 'not "


def test_shield_and_gather(memory):
    async def handler() -> str:
        async def one(n: int) -> int:
            await asyncio.sleep(0)
            return n

        a, b = await asyncio.gather(one(1), asyncio.shield(one(2)))
        return str(a + b)

    assert answer(memory, handler) == b"3"


def test_exceptions_before_and_after_the_first_wait_are_500(memory):
    async def early() -> str:
        raise ZeroDivisionError

    async def late() -> str:
        await asyncio.sleep(0)
        raise ZeroDivisionError

    assert answer(memory, early) == b"Internal Server Error"
    assert answer(memory, late) == b"Internal Server Error"


def test_the_task_of_a_handler_that_ended_leaves_no_trace(memory):
    async def handler() -> str:
        await asyncio.sleep(0)
        return "ok"

    def tasks() -> list[object]:
        gc.collect()
        return [task for task in gc.get_objects() if type(task).__name__ == "HandlerTask"]

    before = {id(task) for task in tasks()}  # spare ones of other servers, which from Python 3.12 on asyncio keeps
    assert answer(memory, handler) == b"ok"
    assert not [task for task in tasks() if id(task) not in before]


@pytest.mark.parametrize("kind", ["native", "asgi"])
def test_a_task_that_serves_again_brings_nothing_along(memory: Any, kind: str) -> None:
    """A blank task may serve the next request: not if anybody put something on it, or remembers something of it."""
    by_task: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()
    kept: list[Any] = []
    seen: list[tuple[Any, ...]] = []
    ways = [
        lambda task: None,
        lambda task: setattr(task, "mine", len(seen)),
        lambda task: by_task.setdefault(task, len(seen)),
        kept.append,
        lambda task: kept.append(weakref.ref(task)),
        lambda task: task.add_done_callback(lambda _: None),
        lambda task: None,
    ]

    def work() -> None:
        task = asyncio.current_task()
        assert task is not None
        seen.append((hasattr(task, "mine"), task in by_task, task in kept, task.done(), task in asyncio.all_tasks()))
        ways[len(seen) % len(ways)](task)

    async def handler() -> str:
        work()
        return "x"

    async def asgi(scope: Any, receive: Any, send: Any) -> None:
        work()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x"})

    app = App()
    if kind == "native":
        app.add_route("/", handler, methods=("GET",))
    else:
        app.mount("/", asgi)
    conn = memory(app)
    for _ in range(4 * len(ways)):
        assert conn.feed(GET).endswith(b"x")
        conn.turn(2)

        async def others() -> int:
            return len(asyncio.all_tasks()) - 1

        assert conn.loop.run_until_complete(others()) == 0  # one that waits for a request is nobody's task
    assert seen == [(False, False, False, False, True)] * (4 * len(ways))
    assert all(task.done() for task in kept if isinstance(task, asyncio.Task))
    kept.clear()
    conn.transport.close()
    conn.turn(5)
    conn.service.close()
    listed = [*getattr(asyncio.tasks, "_eager_tasks", ()), *getattr(asyncio.tasks, "_all_tasks", ())]
    assert not [task for task in listed if type(task).__name__ == "HandlerTask" and task.get_loop() is conn.loop]
