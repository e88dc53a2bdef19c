"""An ASGI application that looks at asyncio from inside a request. `/name` answers with what CHECKS[name] says;
`/name/later` after a wait, when the task is one that the loop drives.

Called by: test_asyncio.py, through fastserve and uvicorn.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import threading
import weakref
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import sniffio
from asgiref.local import Local
from asgiref.sync import ThreadSensitiveContext, async_to_sync, sync_to_async

VALUE: contextvars.ContextVar[int] = contextvars.ContextVar("VALUE", default=0)
CHECKS: dict[str, Callable[[], Awaitable[Any]]] = {}


def check(function: Callable[[], Awaitable[Any]]) -> Callable[[], Awaitable[Any]]:
    CHECKS[function.__name__] = function
    return function


async def value() -> int:
    return VALUE.get()


def me() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task is not None
    return task


# ------------------------------------------------------------------------------------------------- the task


@check
async def current_task() -> Any:
    task = me()
    return (
        isinstance(task, asyncio.Task),
        task.done(),
        task.cancelled(),
        task.cancelling(),
        task.get_loop() is asyncio.get_running_loop(),
    )


@check
async def all_tasks() -> Any:
    return [task is me() for task in asyncio.all_tasks() if task is me()]


@check
async def name() -> Any:
    me().set_name("mine")
    await asyncio.sleep(0)
    return me().get_name(), "mine" in repr(me())


@check
async def same_task_after_a_wait() -> Any:
    task = me()
    weak, by_task = weakref.ref(task), weakref.WeakKeyDictionary({task: 1})
    await asyncio.sleep(0)
    return task is me(), weak() is task, by_task[me()], hash(task) == hash(weak())


@check
async def attribute() -> Any:
    try:
        me().of_mine = 1
    except AttributeError:
        return "no attributes"
    return me().of_mine


@check
async def coroutine_and_stack() -> Any:
    coroutine = me().get_coro()
    return hasattr(coroutine, "cr_frame"), hasattr(coroutine, "send"), len(me().get_stack()) > 0


@check
async def awaiting_itself() -> Any:
    try:
        await me()
    except RuntimeError as error:
        return str(error).partition(":")[0]


@check
async def result_while_it_runs() -> Any:
    said = []
    for ask in (me().result, me().exception):
        try:
            ask()
        except asyncio.InvalidStateError as error:
            said.append(str(error))
    return said


@check
async def done_callbacks() -> Any:
    def callback(task: Any) -> None: ...

    me().add_done_callback(callback)
    me().add_done_callback(callback)
    return me().remove_done_callback(callback)


# ------------------------------------------------------------------------------------------ cancelling, timeouts


@check
async def cancelling_itself() -> Any:
    me().cancel("why")
    try:
        await asyncio.sleep(0)
    except asyncio.CancelledError as error:
        return repr(error), me().cancelling(), me().uncancel()


@check
async def cancelled_by_another() -> Any:
    asyncio.get_running_loop().call_soon(me().cancel)
    try:
        await asyncio.sleep(5)
    except asyncio.CancelledError:
        return me().cancelling(), me().uncancel()


@check
async def timeout_of_nothing() -> Any:
    try:
        async with asyncio.timeout(0):
            await asyncio.sleep(5)
    except TimeoutError:
        return me().cancelling()


@check
async def timeout_that_moves() -> Any:
    try:
        async with asyncio.timeout(10) as limit:
            limit.reschedule(asyncio.get_running_loop().time() + 0.01)
            await asyncio.sleep(5)
    except TimeoutError:
        return limit.expired(), me().cancelling()


@check
async def wait_for_and_shield() -> Any:
    inner = asyncio.ensure_future(asyncio.sleep(0.05, "inner"))
    try:
        await asyncio.wait_for(asyncio.shield(inner), 0.01)
    except TimeoutError:
        return await inner, me().cancelling()


# -------------------------------------------------------------------------------------------------- other tasks


@check
async def task_group() -> Any:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(asyncio.sleep(0, n)) for n in range(3)]
    return [task.result() for task in tasks]


@check
async def task_group_that_fails() -> Any:
    found = []
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(asyncio.sleep(5))
            raise ValueError
    except* ValueError as error:
        found.append(len(error.exceptions))
    return found, me().cancelling()


@check
async def gather() -> Any:
    async def fails() -> None:
        raise KeyError("k")

    return repr(await asyncio.gather(fails(), asyncio.sleep(0, 1), return_exceptions=True))


@check
async def wait_for_the_first() -> Any:
    tasks = [asyncio.create_task(asyncio.sleep(0, 1)), asyncio.create_task(asyncio.sleep(5))]
    done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
    return len(done), len(pending)


@check
async def as_completed() -> Any:
    return [await each for each in asyncio.as_completed([asyncio.sleep(0.05, 2), asyncio.sleep(0.001, 1)])]


@check
async def queue_lock_and_barrier() -> Any:
    queue: asyncio.Queue[int] = asyncio.Queue(1)
    lock, barrier, order = asyncio.Lock(), asyncio.Barrier(2), []

    async def put() -> None:
        for n in range(3):
            await queue.put(n)

    async def hold(n: int) -> None:
        async with lock:
            order.append(n)
            await asyncio.sleep(0)

    putting = asyncio.create_task(put())
    got = [await queue.get() for _ in range(3)]
    await putting
    await asyncio.gather(hold(1), hold(2), hold(3))
    return got, order, sorted(await asyncio.gather(barrier.wait(), barrier.wait()))


@check
async def asynchronous_generator() -> Any:
    async def numbers() -> Any:
        try:
            for n in range(3):
                yield n
                await asyncio.sleep(0)
        finally:
            await asyncio.sleep(0)

    return [n async for n in numbers()]


@check
async def subprocess() -> Any:
    process = await asyncio.create_subprocess_exec("echo", "hi", stdout=asyncio.subprocess.PIPE)
    out, _ = await process.communicate()
    return out


@check
async def streams() -> Any:
    async def serve(_reader: Any, writer: asyncio.StreamWriter) -> None:
        writer.write(b"x")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    data = await reader.read()
    writer.close()
    server.close()
    return data


# ---------------------------------------------------------------------------------------- what is awaited wrongly


class Yields:
    def __init__(self, value: Any) -> None:
        self.value = value

    def __await__(self) -> Any:
        yield self.value


@check
async def nothing_is_yielded() -> Any:
    return await Yields(None)


@check
async def a_number_is_yielded() -> Any:
    try:
        await Yields(5)
    except RuntimeError as error:
        return str(error)


@check
async def future_of_another_loop() -> Any:
    loop = asyncio.new_event_loop()
    try:
        await loop.create_future()
    except RuntimeError as error:
        return "attached to a different loop" in str(error)
    finally:
        loop.close()


# ------------------------------------------------------------------------------------------------------ contexts


@check
async def context_is_fresh() -> Any:
    before = VALUE.get()
    VALUE.set(9)
    await asyncio.sleep(0.001)
    return before, VALUE.get()


@check
async def context_of_others() -> Any:
    VALUE.set(5)
    future = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_soon(lambda: future.set_result(VALUE.get()))
    return await asyncio.create_task(value()), await future, await asyncio.to_thread(VALUE.get)


# -------------------------------------------------------------------------------------------- anyio and asgiref


@check
async def anyio_scopes() -> Any:
    with anyio.CancelScope() as scope:
        scope.cancel()
        await anyio.sleep(5)
    with anyio.move_on_after(0.01) as late:
        await anyio.sleep(5)
    try:
        with anyio.fail_after(0.01):
            await anyio.sleep(5)
    except TimeoutError:
        return scope.cancelled_caught, late.cancelled_caught, me().cancelling()


@check
async def anyio_task_group() -> Any:
    done = []

    async def work() -> None:
        with anyio.CancelScope(shield=True):
            await anyio.sleep(0.01)
            done.append(1)

    async with anyio.create_task_group() as group:
        group.start_soon(work)
        await anyio.sleep(0)
        group.cancel_scope.cancel()
    return done, me().cancelling()


@check
async def anyio_threads() -> Any:
    VALUE.set(3)
    return await anyio.to_thread.run_sync(lambda: anyio.from_thread.run(value)), sniffio.current_async_library()


@check
async def asgiref_threads() -> Any:
    def plain() -> Any:
        return async_to_sync(value)(), threading.current_thread() is threading.main_thread()

    VALUE.set(11)
    async with ThreadSensitiveContext():
        one, two = [await sync_to_async(threading.get_ident)() for _ in range(2)]
        return await sync_to_async(plain)(), one == two


@check
async def asgiref_context_comes_back() -> Any:
    local = Local()
    local.x = 1
    await sync_to_async(VALUE.set)(77)
    return VALUE.get(), local.x


@check
async def coroutine_functions() -> Any:
    return asyncio.get_event_loop() is asyncio.get_running_loop(), inspect.iscoroutinefunction(value)


async def app(scope: Any, receive: Any, send: Any) -> None:
    assert scope["type"] == "http"
    name, _, later = scope["path"][1:].partition("/")
    if later:
        await asyncio.sleep(0)
    try:
        said = repr(await CHECKS[name]())
    except BaseException as error:
        said = f"raised {error!r}"
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": said.encode()})
