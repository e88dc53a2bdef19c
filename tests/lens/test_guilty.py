"""For each code programs on a real server: two guilty ones beside those of test_live.py, found with their line, and three
innocent ones that come near it and stay silent.

FS001, FS007, FS013 and FS015 have theirs in test_live.py and test_pools.py.
"""

from __future__ import annotations

import asyncio
import gc
import hashlib
import importlib
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from lens.test_live import at_once, get, line_of

from fastserve import App, StreamingResponse
from fastserve.lens import rules
from fastserve.lens.catalogue import Finding
from fastserve.lens.findings import find
from fastserve.testing import LensServer, lens_server

HERE = Path(__file__).name
HELD = 0.16  # seconds for which a loop is held, or somebody waits for it


@dataclass
class Program:
    """A class whose coroutines are handlers: /name is what `name` answers. It is asked for `asks`, at once or in turn."""

    code: str
    made: type
    asks: tuple[str, ...]
    apart: float = 0.0  # seconds between two that are asked at once
    in_turn: bool = False
    where: tuple[str, str] | str | None = None  # the method and a part of the line that is told, or the line

    def __str__(self) -> str:
        return f"{self.code}-{self.made.__name__}"

    def run(self) -> list[Finding]:
        app = App()
        made = self.made()
        for name, handler in vars(self.made).items():
            if not name.startswith("_"):
                app.get(f"/{name}")(getattr(made, name) if callable(handler) else handler)
        with lens_server(app) as server:
            self._ask(server)
        return [one for one in find(server.model, dev=False) if one.code == self.code]

    def _ask(self, server: LensServer) -> None:
        if self.in_turn:
            for path in self.asks:
                get(server.url + path)
        else:
            at_once(server, *self.asks, apart=self.apart)


# ------------------------------------------------------------------------------------------------- FS002, FS003, FS004


class Queued:
    def __init__(self) -> None:
        self._queue: asyncio.Queue[str] = asyncio.Queue()

    async def takes(self) -> str:
        return await self._queue.get()

    async def gives(self) -> str:
        self._queue.put_nowait("taken")
        time.sleep(HELD)
        return "given"

    async def only_gives(self) -> str:
        self._queue.put_nowait("taken")
        return "given"


class Announced:
    def __init__(self) -> None:
        self._condition = asyncio.Condition()

    async def waits(self) -> str:
        async with self._condition:
            await self._condition.wait()
        return "told"

    async def tells(self) -> str:
        async with self._condition:
            self._condition.notify_all()
        time.sleep(HELD)
        return "told"

    async def only_tells(self) -> str:
        async with self._condition:
            self._condition.notify_all()
        return "told"


class Holds:
    async def sleeps(self) -> str:
        time.sleep(HELD)
        return "slept"

    async def counts(self) -> str:
        until = time.perf_counter() + HELD
        while time.perf_counter() < until:
            pass
        return "counted"

    async def digests(self) -> str:
        until = time.perf_counter() + HELD
        while time.perf_counter() < until:  # in C, without the GIL
            hashlib.pbkdf2_hmac("sha256", b"secret", b"salt", 50_000)
        return "digested"

    async def naps(self) -> str:
        await asyncio.sleep(0.02)
        return "awake"

    async def gives_up(self) -> str:
        try:
            async with asyncio.timeout(0.02):
                await asyncio.get_running_loop().create_future()
        except TimeoutError:
            pass
        return "late"

    async def naps_below(self) -> str:
        await asyncio.gather(self._naps())
        return "awake"

    async def _naps(self) -> None:
        await asyncio.sleep(0.02)

    async def sleeps_elsewhere(self) -> str:
        await asyncio.to_thread(time.sleep, HELD)
        return "slept"

    async def hello(self) -> str:
        return "hello"


# -------------------------------------------------------------------------------------------------------- FS005, FS006


class Blocks:
    async def runs(self) -> str:
        subprocess.run([sys.executable, "-S", "-c", f"import time; time.sleep({HELD})"], check=True)
        return "ran"

    async def joins(self) -> str:
        thread = threading.Thread(target=time.sleep, args=(HELD,))
        thread.start()
        thread.join()
        return "joined"

    async def asks_the_shell(self) -> str:
        return subprocess.check_output(["sleep", str(HELD)]).decode()

    async def sleeps(self) -> str:
        await asyncio.sleep(HELD)
        return "slept"

    async def elsewhere(self) -> str:
        await asyncio.to_thread(subprocess.run, ["sleep", str(HELD)], check=True)
        return "ran"

    async def counts(self) -> str:
        until = time.perf_counter() + HELD
        while time.perf_counter() < until:
            pass
        return "counted"


class Imports:
    async def by_statement(self) -> str:
        import slow_to_import  # type: ignore[import-not-found]

        return str(slow_to_import)

    async def by_function(self) -> str:
        return str(self._module())

    def _module(self) -> Any:
        return importlib.import_module("slow_to_import")

    async def what_is_there(self) -> str:
        import json

        return str(json)

    async def elsewhere(self) -> str:
        return str(await asyncio.to_thread(importlib.import_module, "slow_to_import"))

    async def sleeps(self) -> str:
        time.sleep(HELD)
        return "slept"


# -------------------------------------------------------------------------------------------------------- FS008, FS009


class Pooled:
    def __init__(self) -> None:
        self._one = ThreadPoolExecutor(1)
        self._many = ThreadPoolExecutor(8)

    async def in_one(self) -> str:
        await asyncio.get_running_loop().run_in_executor(self._one, time.sleep, 0.08)
        return "done"

    async def several_in_one(self) -> str:
        loop = asyncio.get_running_loop()
        await asyncio.gather(*(loop.run_in_executor(self._one, time.sleep, 0.06) for _ in range(4)))
        return "done"

    async def in_many(self) -> str:
        await asyncio.get_running_loop().run_in_executor(self._many, time.sleep, 0.08)
        return "done"

    async def in_threads(self) -> str:
        await asyncio.to_thread(time.sleep, 0.08)
        return "done"


class Locked:
    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._seats = asyncio.Semaphore(1)
        self._event = asyncio.Event()

    async def locks(self) -> str:
        await self._lock.acquire()
        try:
            await asyncio.sleep(0.03)
        finally:
            self._lock.release()
        return "done"

    async def sits(self) -> str:
        async with self._seats:
            await asyncio.sleep(0.03)
        return "done"

    async def locks_briefly(self) -> str:
        async with self._lock:
            await asyncio.sleep(0)
        return "done"

    async def waits(self) -> str:
        await self._event.wait()
        return "done"

    async def sets(self) -> str:
        await asyncio.sleep(0.05)
        self._event.set()
        return "done"


# ------------------------------------------------------------------------------------------------- FS010, FS011, FS012


async def part(number: int) -> int:
    await asyncio.sleep(0.03)
    return number


class InARow:
    async def below(self) -> str:
        return await self._three(7)

    async def _three(self, number: int) -> str:
        one = await part(number)
        two = await part(number)
        three = await part(number)
        return f"{one} {two} {three}"

    async def of_four(self) -> str:
        number = 3
        one = await part(number)
        two = await part(number)
        three = await part(number)
        four = await part(number)
        return f"{one} {two} {three} {four}"

    async def of_two(self) -> str:
        number = 3
        one = await part(number)
        two = await part(number)
        return f"{one} {two}"

    async def of_what_came_before(self) -> str:
        one = await part(1)
        two = await part(one)
        three = await part(two)
        return f"{one} {two} {three}"

    async def at_once(self) -> str:
        return str(await asyncio.gather(*map(part, range(4))))


class Turns:
    async def below(self) -> str:
        for _ in range(300):
            await self._turn()
        return "done"

    async def _turn(self) -> None:
        await asyncio.sleep(0)

    async def until_done(self) -> str:
        task = asyncio.create_task(part(1))
        while not task.done():
            await asyncio.sleep(0)
        return str(await task)

    async def a_few(self) -> str:
        for _ in range(30):
            await asyncio.sleep(0)
        return "done"

    async def real_ones(self) -> str:
        for _ in range(150):
            await asyncio.sleep(0.001)
        return "done"

    async def results(self) -> str:
        for number in range(20):
            await asyncio.gather(part(number), asyncio.sleep(0.01)) if number == 0 else None
        return "done"


class Never:
    async def counts(self) -> str:
        until = time.perf_counter() + 0.6
        while time.perf_counter() < until:
            pass
        return "counted"

    async def below(self) -> str:
        return self._sleeps()

    def _sleeps(self) -> str:
        time.sleep(0.6)
        return "slept"

    async def yields(self) -> str:
        for _ in range(6):
            time.sleep(0.1)
            await asyncio.sleep(0.001)
        return "slept"

    async def briefly(self) -> str:
        time.sleep(0.2)
        return "slept"

    async def elsewhere(self) -> str:
        await asyncio.to_thread(time.sleep, 0.6)
        return "slept"


# ------------------------------------------------------------------------------------------------- FS014, FS016, FS017


class Crumbs:
    async def of_text(self) -> StreamingResponse:
        async def body() -> AsyncIterator[str]:
            for number in range(400):
                yield f"{number}\n"

        return StreamingResponse(body())

    async def of_bytes_and_turns(self) -> StreamingResponse:
        async def body() -> AsyncIterator[bytes]:
            for _ in range(200):
                await asyncio.sleep(0)
                yield b"x" * 100

        return StreamingResponse(body())

    async def large(self) -> StreamingResponse:
        async def body() -> AsyncIterator[bytes]:
            for _ in range(200):
                yield b"x" * 4096

        return StreamingResponse(body())

    async def few(self) -> StreamingResponse:
        async def body() -> AsyncIterator[bytes]:
            for _ in range(30):
                yield b"x" * 20

        return StreamingResponse(body())

    async def slow(self) -> StreamingResponse:
        async def body() -> AsyncIterator[bytes]:
            for _ in range(120):
                await asyncio.sleep(0.008)
                yield b"x" * 20

        return StreamingResponse(body())


GUILTY = [
    Program("FS002", Queued, ("/takes", "/gives"), 0.1, where=("takes", "await")),
    Program("FS002", Announced, ("/waits", "/tells"), 0.1, where=("waits", "wait()")),
    Program("FS003", Holds, ("/counts", "/hello"), 0.05),
    Program("FS003", Holds, ("/digests", "/hello", "/hello", "/hello"), 0.02),
    Program("FS004", Holds, ("/naps", "/digests"), 0.005, where=("naps", "asyncio.sleep")),
    Program("FS004", Holds, ("/naps_below", "/counts"), 0.005, where=("_naps", "asyncio.sleep")),
    Program("FS005", Blocks, ("/runs",), where=("runs", "subprocess.run")),
    Program("FS005", Blocks, ("/asks_the_shell",), where=("asks_the_shell", "check_output")),
    Program("FS006", Imports, ("/by_statement",), where="slow_to_import.py:2"),
    Program("FS006", Imports, ("/by_function",), where="slow_to_import.py:2"),
    Program("FS008", Pooled, ("/in_one",) * 4),
    Program("FS008", Pooled, ("/several_in_one",)),
    Program("FS009", Locked, ("/locks",) * 5, where=("locks", "acquire")),
    Program("FS009", Locked, ("/sits",) * 5, where=("sits", "async with")),
    Program("FS010", InARow, ("/below",) * 3, in_turn=True, where=("_three", "one =")),
    Program("FS010", InARow, ("/of_four",) * 3, in_turn=True, where=("of_four", "one =")),
    Program("FS011", Turns, ("/below",), where=("_turn", "asyncio.sleep")),
    Program("FS011", Turns, ("/until_done",), where=("until_done", "asyncio.sleep")),
    Program("FS012", Never, ("/counts",)),
    Program("FS012", Never, ("/below",), where=("_sleeps", "time.sleep")),
    Program("FS016", Crumbs, ("/of_text",)),
    Program("FS016", Crumbs, ("/of_bytes_and_turns",)),
]
INNOCENT = [
    Program("FS002", Queued, ("/takes", "/only_gives"), 0.05),
    Program("FS002", Announced, ("/waits", "/only_tells"), 0.05),
    Program("FS002", Holds, ("/naps", "/sleeps_elsewhere"), 0.005),
    Program("FS003", Holds, ("/hello",) * 8),
    Program("FS003", Holds, ("/sleeps_elsewhere", "/hello"), 0.02),
    Program("FS003", Holds, ("/naps", "/gives_up", "/hello")),
    Program("FS004", Holds, ("/naps",) * 8),
    Program("FS004", Holds, ("/gives_up", "/sleeps_elsewhere"), 0.005),
    Program("FS004", Holds, ("/naps_below", "/hello")),
    Program("FS005", Blocks, ("/sleeps",)),
    Program("FS005", Blocks, ("/elsewhere",)),
    Program("FS005", Blocks, ("/counts",)),
    Program("FS006", Imports, ("/what_is_there",)),
    Program("FS006", Imports, ("/elsewhere",)),
    Program("FS006", Imports, ("/sleeps",)),
    Program("FS008", Pooled, ("/in_many",) * 4),
    Program("FS008", Pooled, ("/in_one",) * 3, in_turn=True),
    Program("FS008", Pooled, ("/in_threads",) * 3),
    Program("FS009", Locked, ("/locks_briefly",) * 5),
    Program("FS009", Locked, ("/locks",) * 3, in_turn=True),
    Program("FS009", Locked, ("/waits", "/waits", "/waits", "/sets")),
    Program("FS010", InARow, ("/of_two",) * 3, in_turn=True),
    Program("FS010", InARow, ("/of_what_came_before",) * 3, in_turn=True),
    Program("FS010", InARow, ("/at_once",) * 3, in_turn=True),
    Program("FS011", Turns, ("/a_few",)),
    Program("FS011", Turns, ("/real_ones",)),
    Program("FS011", Turns, ("/results",)),
    Program("FS012", Never, ("/yields",)),
    Program("FS012", Never, ("/briefly",)),
    Program("FS012", Never, ("/elsewhere",)),
    Program("FS016", Crumbs, ("/large",)),
    Program("FS016", Crumbs, ("/few",)),
    Program("FS016", Crumbs, ("/slow",)),
]


def named(program: Program) -> str:
    return f"{program.code}-{program.made.__name__}-{program.asks[0].strip('/')}"


@pytest.fixture(autouse=True)
def slow_to_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "slow_to_import.py").write_text(f"import time\ntime.sleep({HELD})\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("slow_to_import", None)


@pytest.mark.parametrize("program", GUILTY, ids=named)
def test_a_guilty_program_is_found_with_its_line(program: Program) -> None:
    found = program.run()
    assert len(found) == 1, [one.text for one in found]
    if isinstance(program.where, str):
        assert found[0].at == program.where
    elif program.where is not None:
        function, text = program.where
        assert found[0].at == f"{HERE}:{line_of(getattr(program.made, function), text)}", found[0].text
    assert found[0].count >= 1 and found[0].worst_ns > 0


@pytest.mark.parametrize("program", INNOCENT, ids=named)
def test_an_innocent_program_is_not_accused(program: Program) -> None:
    for left in (2, 1, 0):  # a busy machine may itself hold the loop: it will not three times
        found = program.run()
        if not found or not left:
            break
    assert [one.text for one in found] == []


@pytest.fixture
def heap() -> Iterator[list[Any]]:
    """So much that a full collection takes long, and none that the test has not asked for."""
    found: list[Any] = []
    gc.disable()
    try:
        found.extend([number] for number in range(3_000_000))
        yield found
    finally:
        found.clear()
        gc.enable()


async def collects_the_young() -> str:
    return str(gc.collect(1))  # all of the heap is


async def collects_in_a_thread() -> str:
    return str(await asyncio.to_thread(gc.collect))


@pytest.mark.parametrize("handler", [collects_the_young, collects_in_a_thread], ids=lambda handler: handler.__name__)
def test_a_collection_that_stops_the_worker_is_told(handler: Callable[..., Any], heap: list[Any]) -> None:
    assert heap
    app = App()
    app.get("/collects")(handler)
    with lens_server(app) as server:
        get(server.url + "/collects")
    (found,) = [one for one in find(server.model, dev=False) if one.code == "FS014"]
    assert "stopped the worker" in found.text and found.worst_ns > rules.GC_NS


async def collects_the_youngest() -> str:
    return str(gc.collect(0))


async def collects_what_is_frozen() -> str:
    gc.freeze()
    try:
        return str(gc.collect())
    finally:
        gc.unfreeze()


async def collects_nothing() -> str:
    return "done"


@pytest.mark.parametrize(
    "handler", [collects_the_youngest, collects_what_is_frozen, collects_nothing], ids=lambda handler: handler.__name__
)
def test_a_collection_that_is_over_soon_is_not_told(handler: Callable[..., Any], heap: list[Any]) -> None:
    gc.collect()  # what is there is old
    assert heap
    app = App()
    app.get("/collects")(handler)
    with lens_server(app) as server:
        get(server.url + "/collects")
    assert [one.text for one in find(server.model, dev=False) if one.code == "FS014"] == []


class Hangs:
    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._free = asyncio.Event()

    async def holds(self) -> str:
        async with self._lock:
            await self._free.wait()
        return "free"

    async def locks(self) -> str:
        async with self._lock:
            return "free"

    async def in_a_child(self) -> str:
        await asyncio.gather(self._waits())
        return "free"

    async def _waits(self) -> None:
        await self._free.wait()

    async def sleeps(self) -> str:
        await asyncio.sleep(0.7)
        return "awake"

    async def streams(self) -> StreamingResponse:
        async def body() -> AsyncIterator[bytes]:
            for _ in range(7):
                await asyncio.sleep(0.1)
                yield b"x"

        return StreamingResponse(body())

    async def hello(self) -> str:
        return "hello"

    async def frees(self) -> str:
        self._free.set()
        return "free"


@pytest.mark.parametrize(
    ("path", "where"),
    [
        ("/locks", ("locks", "async with")),
        ("/in_a_child", ("_waits", "await")),
        ("/sleeps", None),
        ("/streams", None),
        ("/hello", None),
    ],
)
def test_who_hangs_is_told_and_who_means_to_last_is_not(
    path: str, where: tuple[str, str] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rules, "HUNG_NS", 300_000_000)
    app = App()
    made = Hangs()
    for name in ("holds", "locks", "in_a_child", "sleeps", "streams", "hello", "frees"):
        app.get(f"/{name}")(getattr(made, name))
    with lens_server(app) as server, ThreadPoolExecutor(2) as clients:
        waiting = [clients.submit(get, server.url + one) for one in (["/holds", path] if path == "/locks" else [path])]
        time.sleep(0.5)
        found = [one for one in find(server.model, dev=False) if one.code == "FS017" and one.route == f"GET {path}"]
        get(server.url + "/frees")
        for one in waiting:
            one.result()
    if where is None:
        assert [one.text for one in found] == []
    else:
        assert [one.at for one in found] == [f"{HERE}:{line_of(getattr(Hangs, where[0]), where[1])}"]
