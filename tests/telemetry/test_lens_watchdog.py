"""Stalls of an event loop: seen while they last, with the line and the request that hold it; and none of them invented."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from process.running import until

from fastserve.protocol import Board
from fastserve.telemetry.lens import LensMemory, Mode
from fastserve.telemetry.lens.reading import Area as Read
from fastserve.telemetry.lens.reading import Event, Frame, Kind, Stack
from fastserve.telemetry.lens.watchdog import Watchdog

LATE = 1  # flag: the stack was taken late
HERE = Path(__file__).name


@pytest.fixture(params=["asyncio", "uvloop"])
def loop_factory(request: pytest.FixtureRequest) -> Callable[[], asyncio.AbstractEventLoop]:
    if request.param == "asyncio":
        return asyncio.new_event_loop
    import uvloop

    return uvloop.new_event_loop


class Watched:
    """A loop that is watched, and what was written about it."""

    def __init__(self, factory: Callable[[], asyncio.AbstractEventLoop], **options: Any) -> None:
        self.memory = LensMemory(1)
        self.area = self.memory.area(0)
        self.area.start(0, os.getpid(), 1)
        self.area.set_mode(Mode.STALLS)
        self.factory = factory
        self.options = options

    def run(self, main: Callable[[Watched], Awaitable[None]]) -> Watched:
        async def body() -> None:
            self.watchdog = Watchdog(self.area, asyncio.get_running_loop(), **self.options)
            self.watchdog.follow()
            await asyncio.sleep(0.1)
            try:
                await main(self)
                await asyncio.sleep(0.05)
            finally:
                self.watchdog.close()

        with asyncio.Runner(loop_factory=self.factory) as runner:
            runner.run(body())  # type: ignore[arg-type]
        return self

    def read(self) -> Read:
        data = self.area.copy()
        return Read.read(lambda offset, length: data[offset : offset + length], len(data))

    def events(self, kind: Kind) -> list[Event]:
        return [event for event in self.read().events()[0] if event.kind == kind]

    def long_stalls(self, least: float) -> list[tuple[Event, Stack]]:
        """On a machine that others use as well a loop may be late for no fault of its own, a little."""
        _, stacks = self.read().strings()
        return [
            (event, stacks.get(event.b, Stack(()))) for event in self.events(Kind.STALL) if event.dur >= least * 1e9
        ]


def line_of(mark: str) -> int:
    """The line of this file that ends with this comment."""
    lines = Path(__file__).read_text().splitlines()
    return next(number for number, line in enumerate(lines, 1) if line.endswith(f"# {mark}"))


def sleeps() -> None:
    time.sleep(0.3)  # it sleeps


def computes() -> None:
    until = time.monotonic() + 0.3
    while time.monotonic() < until:
        sum(range(100))  # it computes


def derives() -> None:
    hashlib.pbkdf2_hmac("sha256", b"secret", b"salt", 1_500_000)  # it derives


def holds() -> None:
    re.match(r"(a+)+$", "a" * 23 + "b")  # it holds the GIL


BLOCKERS = {sleeps: "it sleeps", computes: "it computes", derives: "it derives", holds: "it holds the GIL"}


@pytest.mark.parametrize("blocker", BLOCKERS, ids=lambda each: each.__name__)
def test_a_stall_names_the_line_that_holds_the_loop(
    loop_factory: Callable[[], asyncio.AbstractEventLoop], blocker: Callable[[], None]
) -> None:
    told: list[float] = []

    async def handler() -> None:
        began = time.monotonic()
        blocker()
        told.append(time.monotonic() - began)

    async def main(watched: Watched) -> None:
        await asyncio.create_task(handler())

    watched = Watched(loop_factory).run(main)
    assert told[0] > 0.15, "the machine is too fast for this test"
    stalls = watched.long_stalls(told[0] - 0.03)
    assert len(stalls) == 1
    event, stack = stalls[0]
    assert event.dur / 1e9 == pytest.approx(told[0], abs=0.1)
    own = [frame for frame in stack.frames if frame.file.endswith(HERE)]
    if blocker is computes:  # between two lines of the loop
        assert own[-1].function == "computes" and abs(own[-1].line - line_of("it computes")) <= 1
    elif not event.flags & LATE:
        assert own[-1] == Frame(__file__, line_of(BLOCKERS[blocker]), blocker.__name__)
    if blocker is holds:  # seen when it lets go: at the line, or behind it in the function that called it
        assert own[-1].function.endswith(("holds", "handler"))
    assert own[-2:][0].function.endswith(("handler", blocker.__name__))
    # What runs the loop is not shown.
    assert not [frame for frame in stack.frames if frame.function.startswith(("Runner.", "pytest"))]
    assert watched.area.failures == 0


def test_a_stall_is_seen_while_it_lasts(loop_factory: Callable[[], asyncio.AbstractEventLoop]) -> None:
    seen: list[tuple[int, int, int]] = []

    def look(watched: Watched, done: threading.Event) -> None:
        while not done.wait(0.01):
            header = watched.read().header
            if header["stall_since_ns"]:
                seen.append((header["stall_since_ns"], header["stall_stack"], time.monotonic_ns()))

    async def main(watched: Watched) -> None:
        done = threading.Event()
        thread = threading.Thread(target=look, args=(watched, done))
        thread.start()
        time.sleep(0.5)  # in flight
        await asyncio.sleep(0.05)
        assert watched.read().header["stall_since_ns"] == 0
        done.set()
        thread.join()

    watched = Watched(loop_factory).run(main)
    with_stack = [entry for entry in seen if entry[1]]
    assert with_stack, "it was not seen in half a second"
    stack = watched.read().strings()[1][with_stack[0][1]]
    assert stack.frames[-1] == Frame(__file__, line_of("in flight"), stack.frames[-1].function)
    ((event, _),) = watched.long_stalls(0.4)
    assert with_stack[0][0] == event.t and with_stack[0][2] < event.t + event.dur
    assert watched.read().header["stalls"] == watched.watchdog.stalls >= 1


def test_a_loop_that_turns_is_not_told_of(loop_factory: Callable[[], asyncio.AbstractEventLoop]) -> None:
    """Busy, but never for long: a hundred slices of 10 ms. The threshold is far above what a busy machine adds."""

    async def main(watched: Watched) -> None:
        for _ in range(100):
            time.sleep(0.01)
            await asyncio.sleep(0)

    watched = Watched(loop_factory, threshold=0.5).run(main)
    assert watched.events(Kind.STALL) == []
    delay = watched.read().page[208 : 208 + 128]
    counts = [int.from_bytes(delay[i * 8 : i * 8 + 8], "little") for i in range(16)]
    assert sum(counts) > 10 and sum(counts[11:]) == 0  # no beat was 256 ms late


def test_the_request_that_holds_the_loop_is_named(loop_factory: Callable[[], asyncio.AbstractEventLoop]) -> None:
    """By the board, also where nothing is traced: its text without the query, and how many are in flight."""
    from fastserve import App
    from fastserve.process.server import Server

    app = App()

    @app.get("/report")
    async def report() -> str:
        time.sleep(0.3)
        return "done"

    name = f"stall-{os.getpid()}-{time.monotonic_ns()}"

    async def main() -> list[Any]:
        async with Server(app, port=0, lens="stalls", name=name) as server:
            await asyncio.sleep(0.1)
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(b"GET /report?password=x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            assert b"done" in await reader.read()
            writer.close()
            await asyncio.sleep(0.1)
            from fastserve.lens.recording import Recording

            (worker,) = Recording.take(name).workers
            return [
                (worker.text(event.a >> 32), event.a & 0xFFFFFFFF, event.dur / 1e9, worker.stack(event.b))
                for event in worker.events
                if event.kind == Kind.STALL and event.dur > 0.25e9
            ]

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        ((text, flying, seconds, stack),) = runner.run(main())
    assert (text, flying) == ("GET /report", 1) and 0.25 < seconds < 0.5
    assert [frame.function for frame in stack.frames][-1].endswith("report")


def test_pauses_of_the_collector_are_told_of(loop_factory: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def main(watched: Watched) -> None:
        rings: list[Any] = [[] for _ in range(300_000)]
        for ring in rings:
            ring.append(ring)
        del rings, ring
        began = time.monotonic_ns()
        gc.collect()
        ended = time.monotonic_ns()
        pauses = [event for event in watched.events(Kind.GC_PAUSE) if began <= event.t]
        assert len(pauses) == 1 and pauses[0].b == 2 and pauses[0].a >= 300_000
        assert pauses[0].t + pauses[0].dur <= ended and pauses[0].dur > (ended - began) * 0.5

    watched = Watched(loop_factory).run(main)
    told = len(watched.events(Kind.GC_PAUSE))
    gc.collect()
    assert len(watched.events(Kind.GC_PAUSE)) == told and not [
        each for each in gc.callbacks if "Watchdog" in repr(each)
    ]


def test_it_begins_and_ends_with_the_mode(loop_factory: Callable[[], asyncio.AbstractEventLoop]) -> None:
    def threads() -> int:
        return len(os.listdir("/proc/self/task"))

    async def main(watched: Watched) -> None:
        began = threads()
        for mode in (Mode.READY, Mode.FULL, Mode.FULL, Mode.READY, Mode.STALLS):
            watched.area.set_mode(mode)
            watched.watchdog.follow()
            assert watched.watchdog.running == (mode >= Mode.STALLS)
            wanted = began - (mode < Mode.STALLS)
            until(lambda wanted=wanted: threads() == wanted, "the thread is there, or gone")  # type: ignore[misc]
        watched.area.set_mode(Mode.READY)
        watched.watchdog.follow()
        time.sleep(0.15)
        await asyncio.sleep(0.05)
        assert watched.watchdog.stalls == stalls

    stalls = 0
    watched = Watched(loop_factory, threshold=0.1).run(main)
    watched.watchdog.close()  # once more: nothing
    assert watched.read().header["heartbeat_every_ns"] == 0


def test_nothing_of_the_applications_runs_in_its_thread() -> None:
    """Which has its own descriptors: what is collected there closes others, and an audit hook writes to others."""
    code = """
import asyncio, gc, os, sys, threading, time
from fastserve.telemetry.lens import LensMemory, Mode
from fastserve.telemetry.lens.watchdog import Watchdog

area = LensMemory(1).area(0)
area.start(0, os.getpid(), 1)
area.set_mode(Mode.STALLS)
seen = set()

def deep(levels):
    if levels:
        return deep(levels - 1)
    time.sleep(0.02)

async def main():
    watchdog = Watchdog(area, asyncio.get_running_loop(), threshold=0.005, period=0.005)
    watchdog.follow()
    await asyncio.sleep(0.02)
    gc.set_threshold(1)
    gc.callbacks.append(lambda phase, about: seen.add(threading.get_ident()))
    sys.addaudithook(lambda event, arguments: seen.add(threading.get_ident()))
    for levels in range(20):
        deep(levels * 4)
        await asyncio.sleep(0.01)
    watchdog.close()
    assert watchdog.grabs >= 10, watchdog.grabs
    assert gc.isenabled()
    gc.disable()
    watchdog.follow()
    deep(1)
    await asyncio.sleep(0.02)
    assert not gc.isenabled()
    watchdog.close()

asyncio.run(main())
print(seen == {threading.get_ident()})
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "True\n", "")


def test_a_process_that_is_forked_from_a_watched_one_ends_cleanly(
    loop_factory: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    """It has no such thread, and must not wait for it; nor write to its parent's memory."""

    async def main(watched: Watched) -> None:
        pid = os.fork()
        if pid == 0:
            watched.watchdog.close()
            os._exit(7)
        deadline = time.monotonic() + 10
        while (found := os.waitpid(pid, os.WNOHANG))[0] == 0 and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        assert os.waitstatus_to_exitcode(found[1]) == 7
        assert watched.watchdog.running

    Watched(loop_factory).run(main)


def test_an_interpreter_that_ends_while_it_is_watched_ends(tmp_path: Path) -> None:
    """Nobody has closed it, and the loop is stalled in the last moment."""
    code = """
import asyncio, os, time
from fastserve.telemetry.lens import LensMemory, Mode
from fastserve.telemetry.lens.watchdog import Watchdog

area = LensMemory(1).area(0)
area.start(0, os.getpid(), 1)
area.set_mode(Mode.STALLS)

async def main():
    global watchdog
    watchdog = Watchdog(area, asyncio.get_running_loop())
    watchdog.follow()
    await asyncio.sleep(0.05)
    time.sleep(0.1)

asyncio.run(main())
print("the end", watchdog.grabs)
"""
    for _ in range(3):
        found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
        assert (found.returncode, found.stdout, found.stderr) == (0, "the end 1\n", "")


STRESS = """
import asyncio, gc, os, random, sys, threading, time
from fastserve.telemetry.lens import LensMemory, Mode
from fastserve.telemetry.lens.watchdog import Watchdog

area = LensMemory(1).area(0)
area.start(0, os.getpid(), 1)
area.set_mode(Mode.STALLS)
seconds, wanted = float(sys.argv[1]), int(sys.argv[2])
over = False

def deep(n):
    if n == 0:
        until = time.perf_counter() + random.random() * 0.004
        while time.perf_counter() < until:
            [object() for _ in range(50)]
        return 0
    return deep(n - 1) + 1

def breaks(n):
    try:
        if n == 0:
            raise KeyError(n)
        return breaks(n - 1)
    finally:
        gc.collect(0)

def generator(n):
    for i in range(n):
        yield from (deep(j % 7) for j in range(2))

async def stream(n):
    for i in range(n):
        yield i
        if i % 3 == 0:
            deep(random.randrange(90))

def other():
    while not over:
        try:
            breaks(random.randrange(40))
        except KeyError:
            pass
        source = "def f(x):\\n" + "    x += 1\\n" * 20 + "    return x\\nf(1)"
        exec(compile(source, f"made{random.randrange(50)}", "exec"), {})

async def nasty():
    while not over:
        choice = random.randrange(5)
        if choice == 0:
            async for _ in stream(4):
                pass
        elif choice == 1:
            list(generator(2))
        elif choice == 2:
            try:
                breaks(random.randrange(60))
            except KeyError:
                pass
        elif choice == 3:
            sum(range(60_000))
        else:
            time.sleep(0.002)
        await asyncio.sleep(0)

async def main():
    global over
    watchdog = Watchdog(area, asyncio.get_running_loop(), threshold=0.0005, period=0.0005)
    threads = [threading.Thread(target=other) for _ in range(2)]
    for thread in threads:
        thread.start()
    watchdog.follow()
    tasks = [asyncio.create_task(nasty()) for _ in range(3)]
    until = time.monotonic() + seconds
    while time.monotonic() < until and watchdog.grabs < wanted:
        await asyncio.sleep(0.01)
        if random.random() < 0.02:  # begun and ended in the midst of it
            watchdog.close()
            watchdog.follow()
    over = True
    await asyncio.gather(*tasks)
    for thread in threads:
        thread.join()
    watchdog.close()
    print(watchdog.grabs, area.failures)

sys.setswitchinterval(0.0005)
asyncio.run(main())
"""


def test_thousands_of_stacks_are_taken_under_a_nasty_workload_without_a_crash() -> None:
    """Deep recursion, generators, exceptions, collections, code that is made and thrown away, in three threads."""
    found = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", STRESS, "12", "2000"], capture_output=True, text=True, timeout=120
    )
    assert found.returncode == 0, found.stderr[-3000:]
    grabs, failures = map(int, found.stdout.split())
    assert failures == 0 and grabs >= 100, found.stdout


def test_a_seat_is_checked(loop_factory: Callable[[], asyncio.AbstractEventLoop]) -> None:
    board, loop = Board(1), loop_factory()
    with pytest.raises(IndexError):
        Watchdog(LensMemory(1).area(0), loop, board=board, seat=1)
    loop.close()
    board.close()
