"""The times of the lens against other clocks: the handler's own, taken beside each await; the thread's own; the client's,
in a thread that shares nothing with the server's loop but the machine.

An await begins and ends within 0.2 ms at the 99th percentile, busy and scheduled agree within 1 ms or 2 %, time in the
kernel within a tick of the kernel and 1 ms. A machine that is busy with others takes the processor away between two
readings of a clock; so a round that fails is measured again, a few times, and only what fails every time is wrong.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import selectors
import socket
import statistics
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from telemetry.traced import Request, Traced, app_of

import fastserve
from fastserve.lens.recording import Kind, Wait
from fastserve.process.loops import new_loop

MS = 1_000_000
ROUNDS = 8
TICK = 4 * MS  # of a kernel with HZ=250, which most are; one with HZ=100 has 10 ms

now = time.monotonic_ns


@pytest.fixture(params=["uvloop", "asyncio"])
def measured(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Run a round, each time with a server of its own, until what it says holds; fail as it fails the last time."""

    def measured(round_: Callable[[], Awaitable[None]]) -> None:
        for left in reversed(range(ROUNDS)):
            try:
                with asyncio.Runner(loop_factory=lambda: new_loop(request.param)) as runner:
                    runner.run(asyncio.wait_for(round_(), 60))
                return
            except AssertionError:
                if not left:
                    raise

    return measured


def within(found: int, true: int) -> bool:
    """1 ms or 2 %."""
    return abs(found - true) <= max(MS, true // 50)


def percentile(values: list[int], share: float) -> int:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def client(port: int, path: str) -> tuple[int, int]:
    """A request by plain blocking calls: when it was sent, when the answer was here."""
    with socket.create_connection(("127.0.0.1", port)) as sock:
        sent = now()
        sock.sendall(f"GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode())
        while sock.recv(65536):
            pass
        return sent, now()


def in_thread(function: Any, *arguments: Any) -> asyncio.Future[Any]:
    """In a thread that no hook of the lens has to do with."""
    loop = asyncio.get_running_loop()
    future = loop.create_future()

    def run() -> None:
        value = function(*arguments)
        loop.call_soon_threadsafe(future.set_result, value)

    threading.Thread(target=run, daemon=True).start()
    return future


def block(milliseconds: float) -> tuple[int, int]:
    """Hold the loop for so long, by our own clock."""
    start = now()
    while now() - start < milliseconds * MS:
        pass
    return start, now()


def by_path(server: Traced) -> dict[str, Request]:
    return {request.text.removeprefix("GET "): request for request in server.requests().values()}


def test_awaits_begin_and_end_when_the_handler_says(measured: Any) -> None:
    async def round_() -> None:
        notes: list[tuple[int, int]] = []

        async def handler() -> str:
            lock, queue = asyncio.Lock(), asyncio.Queue[int]()
            for number in range(150):
                before = now()
                if number % 5 == 0:
                    await asyncio.sleep(0)
                elif number % 5 == 1:
                    await asyncio.sleep(0.0015)
                elif number % 5 == 2:
                    asyncio.get_running_loop().call_later(0.001, queue.put_nowait, 1)
                    await queue.get()
                elif number % 5 == 3:
                    await asyncio.to_thread(time.sleep, 0.001)
                else:
                    await lock.acquire()  # free: no wait, and no await in the recording
                    lock.release()
                    continue
                notes.append((before, now()))
            return "x"

        async with Traced.serve(app_of(handler)) as server:
            await in_thread(client, server.port, "/")
            await server.settle()
            root = server.last().root
            assert len(root.awaits) == len(notes) == 120
            early = [one.start - before for one, (before, _) in zip(root.awaits, notes, strict=True)]
            late = [after - one.start for one, (_, after) in zip(root.slices[1:], notes, strict=True)]
            assert min(early) >= 0 and min(late) >= 0  # never outside what the handler saw
            # starting a thread is the handler's own work, and lies before its await
            quick = [value for number, value in enumerate(early) if root.awaits[number].wait != Wait.THREAD]
            assert percentile(quick, 0.99) <= MS // 5, quick
            assert percentile(late, 0.99) <= MS // 5, late
            assert statistics.median(quick) < 50_000 and statistics.median(late) < 50_000

    measured(round_)


@pytest.mark.parametrize("how", ["python", "sleep", "digest"])
def test_busy_is_what_the_handler_was_busy_for(how: str, measured: Any) -> None:
    async def round_() -> None:
        import hashlib

        notes: list[int] = []

        async def handler() -> str:
            for milliseconds in (2, 20, 60):
                start = now()
                if how == "python":
                    block(milliseconds)
                elif how == "sleep":
                    time.sleep(milliseconds / 1000)
                else:
                    hashlib.pbkdf2_hmac("sha256", b"x", b"y", milliseconds * 1000)
                notes.append(now() - start)
                await asyncio.sleep(0)
            return "x"

        async with Traced.serve(app_of(handler)) as server:
            await in_thread(client, server.port, "/")
            await server.settle()
            root = server.last().root
            for one, true in zip(root.slices, notes, strict=False):
                assert within(one.end - one.start, true), (one.end - one.start, true)
            assert within(root.busy, sum(notes)), (root.busy, sum(notes))

    measured(round_)


def test_scheduled_is_the_time_for_which_others_had_the_loop(measured: Any) -> None:
    async def round_() -> None:
        app = fastserve.App()
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        notes: dict[str, int] = {}

        @app.get("/waits")
        async def waits() -> str:
            notes["begun"] = now()
            await future
            notes["resumed"] = now()
            return "x"

        @app.get("/blocks")
        async def blocks() -> str:
            notes["set"] = now()
            future.set_result(None)
            block(40)
            return "x"

        async with Traced.serve(app) as server:
            waiting = in_thread(client, server.port, "/waits")
            await asyncio.sleep(0.02)
            await in_thread(client, server.port, "/blocks")
            await waiting
            await server.settle()
            requests = by_path(server)
            root = requests["/waits"].root
            (only,) = root.awaits
            assert within(root.scheduled, notes["resumed"] - notes["set"])
            assert within(root.idle, notes["set"] - notes["begun"])
            assert abs(only.ready - notes["set"]) < MS // 5
            assert (only.waker, only.waker_task) == ("task", requests["/blocks"].root.number)

    measured(round_)


def test_a_timer_that_a_blocked_loop_sees_late(measured: Any) -> None:
    async def round_() -> None:
        app = fastserve.App()
        notes: dict[str, int] = {}

        @app.get("/sleeps")
        async def sleeps() -> str:
            notes["begun"] = now()
            await asyncio.sleep(0.02)
            notes["over"] = now()
            return "x"

        @app.get("/blocks")
        async def blocks() -> str:
            notes["from"], notes["to"] = block(60)
            return "x"

        async with Traced.serve(app) as server:
            sleeping = in_thread(client, server.port, "/sleeps")
            await asyncio.sleep(0.005)
            await asyncio.gather(sleeping, in_thread(client, server.port, "/blocks"))
            await server.settle()
            timer = by_path(server)["/sleeps"].one(Kind.TIMER)
            assert abs(timer.t - (notes["begun"] + 20 * MS)) <= 2 * MS
            if notes["from"] < notes["begun"] + 20 * MS < notes["to"]:  # it did fall due while the loop was held
                assert within(timer.t + timer.dur, notes["over"])
                assert timer.dur >= notes["to"] - timer.t - MS
            else:
                raise AssertionError("the blocker came too late")

    measured(round_)


@pytest.mark.parametrize("wait", [20, 90])
@pytest.mark.parametrize("kept", [False, True], ids=["new connection", "kept alive"])
def test_time_in_the_kernel_is_told_by_the_client(kept: bool, wait: int, measured: Any) -> None:
    async def round_() -> None:
        app = fastserve.App()

        @app.get("/{name}")
        async def handler(name: str) -> str:
            return "x"

        async with Traced.serve(app) as server:
            sent: list[int] = []
            held = threading.Event()

            def late() -> None:
                sock = socket.create_connection(("127.0.0.1", server.port)) if not kept else kept_one
                held.wait()
                sent.append(now())
                sock.sendall(b"GET /late HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
                while sock.recv(65536):
                    pass
                sock.close()

            kept_one = socket.create_connection(("127.0.0.1", server.port))

            def first() -> None:
                kept_one.sendall(b"GET /first HTTP/1.1\r\nhost: x\r\n\r\n")
                assert kept_one.recv(65536)

            await in_thread(first)
            asking = in_thread(late)
            await asyncio.sleep(0.01)  # it is connected
            held.set()
            time.sleep(wait / 1000)  # the loop is held, by nobody's request
            await asking
            kept_one.close()
            await server.settle()
            begin = by_path(server)["/late"].one(Kind.REQUEST_BEGIN)
            assert begin.flags & 2
            read = begin.t - begin.dur
            assert read - sent[0] > wait * MS // 2  # it did have to wait
            assert abs(begin.a - (read - sent[0])) <= TICK + MS, (begin.a, read - sent[0])

    measured(round_)


def test_of_many_that_are_read_in_one_turn_each_is_told_how_long_it_lay_there(measured: Any) -> None:
    """Whom the turn before did not find came after it, and waits while this one serves others: the kernel, whose
    milliseconds are coarser, need not be asked."""
    clients, each = 20, 8

    async def round_() -> None:
        app = fastserve.App()

        @app.get("/{name}")
        async def handler(name: str) -> str:
            block(0.1)
            return "x"

        sent: dict[str, int] = {}

        def ask(port: int) -> None:
            with contextlib.ExitStack() as stack, selectors.DefaultSelector() as selector:
                turns: dict[socket.socket, int] = {}

                def send(sock: socket.socket) -> None:
                    name = f"/{sock.fileno()}-{turns[sock]}"
                    sent[name] = now()
                    sock.sendall(f"GET {name} HTTP/1.1\r\nhost: x\r\n\r\n".encode())

                for _ in range(clients):
                    sock = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
                    turns[sock] = 0
                    selector.register(sock, selectors.EVENT_READ)
                for sock in turns:
                    send(sock)
                while any(number < each for number in turns.values()):
                    for key, _ in selector.select():
                        one: Any = key.fileobj
                        assert one.recv(65536)
                        turns[one] += 1
                        if turns[one] < each:
                            send(one)

        async with Traced.serve(app) as server:
            await in_thread(ask, server.port)
            await server.settle()
            begins = {name: request.one(Kind.REQUEST_BEGIN) for name, request in by_path(server).items()}
        assert len(begins) == clients * each
        finer = [name for name, begin in begins.items() if begin.flags & 2 and begin.a % MS]
        assert len(finer) >= len(begins) // 2, len(finer)
        for name in finer:
            lay = begins[name].t - begins[name].dur - sent[name]
            assert 0 < begins[name].a <= lay < begins[name].a + TICK, (name, begins[name].a, lay)

    measured(round_)


def test_threads_begin_and_end_when_they_say(measured: Any) -> None:
    async def round_() -> None:
        notes: list[tuple[int, int, int]] = []
        pool = concurrent.futures.ThreadPoolExecutor(1)

        def work(submitted: int) -> None:
            start = now()
            time.sleep(0.01)
            notes.append((submitted, start, now()))

        async def handler() -> str:
            loop = asyncio.get_running_loop()
            await asyncio.gather(*(loop.run_in_executor(pool, work, now()) for _ in range(5)))
            return "x"

        async with Traced.serve(app_of(handler)) as server:
            await in_thread(client, server.port, "/")
            await server.settle()
            runs = sorted(server.last().all(Kind.THREAD_RUN), key=lambda event: event.t)
            for event, (submitted, start, end) in zip(runs, notes, strict=True):
                assert 0 <= event.a - submitted <= MS
                assert -MS <= event.t - start <= 0 and 0 <= event.t + event.dur - end <= MS
        pool.shutdown()

    measured(round_)


def test_the_whole_is_the_clients_time_and_the_sum_of_its_parts(measured: Any) -> None:
    async def round_() -> None:
        notes: list[tuple[int, int]] = []

        async def handler() -> str:
            start = now()
            await asyncio.sleep(0.005)
            block(2)
            await asyncio.gather(asyncio.sleep(0.003), asyncio.to_thread(time.sleep, 0.004))
            notes.append((start, now()))
            return "x"

        async with Traced.serve(app_of(handler)) as server:
            times = [await in_thread(client, server.port, "/") for _ in range(15)]
            await server.settle()
            requests = list(server.requests().values())
            assert len(requests) == len(times)
            differences = []
            for request, (sent, here), (start, end) in zip(requests, times, notes, strict=True):
                begin, over = request.one(Kind.REQUEST_BEGIN), request.one(Kind.REQUEST_END)
                assert sent <= begin.t and over.t <= here  # the same clock, and cause before effect
                differences.append((here - sent) - over.dur)
                root = request.root
                assert root.spawned <= start and end <= root.ended
                assert within(root.busy + root.scheduled + root.idle, end - start)
            assert statistics.median(differences) < 3 * MS

    measured(round_)
