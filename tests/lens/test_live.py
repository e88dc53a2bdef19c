"""Real handlers on a real server, recorded by its lens: what is found, the line exact; and innocent ones stay silent."""

from __future__ import annotations

import asyncio
import gc
import importlib
import importlib.metadata
import inspect
import re
import socket
import sys
import threading
import time
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from process.test_tls import Authority, authority, local

from fastserve import App, Query, Response, StreamingResponse
from fastserve.lens import rules
from fastserve.lens.catalogue import Finding
from fastserve.lens.findings import find
from fastserve.lens.wording import duration
from fastserve.testing import LensServer, lens_server

pytest_plugins = ["pytester"]
__all__ = ["authority", "local"]  # fixtures

HERE = Path(__file__).name


def get(url: str) -> bytes:
    with urlopen(url, timeout=30) as response:
        return bytes(response.read())


def at_once(server: LensServer, *paths: str, apart: float = 0.0) -> None:
    """All of them at the same time, each from a thread of its own; `apart`: seconds between two beginnings."""
    with ThreadPoolExecutor(len(paths)) as pool:
        waiting = []
        for path in paths:
            waiting.append(pool.submit(get, server.url + path))
            time.sleep(apart)
        for one in waiting:
            one.result()


def line_of(function: Any, text: str) -> int:
    """The number of the line of `function` that contains `text`."""
    lines, first = inspect.getsourcelines(function)
    (found,) = [number for number, row in enumerate(lines, first) if text in row]
    return found


def of(server: LensServer, code: str) -> Finding:
    """The one finding of that code."""
    (found,) = [one for one in find(server.model, dev=False) if one.code == code] or [None]
    assert found is not None, [one.text for one in find(server.model, dev=False)] + [server.explain()]
    return found


# ------------------------------------------------------------------------------------------------------------ handlers


async def sleeps() -> str:
    time.sleep(0.16)
    return "done"


async def computes() -> str:
    until = time.perf_counter() + 0.16
    total = 0
    while time.perf_counter() < until:
        total += 1
    return str(total)


def below() -> None:
    time.sleep(0.16)


async def calls() -> str:
    below()
    return "done"


async def never_yields() -> str:
    time.sleep(0.6)
    return "done"


async def naps() -> str:
    await asyncio.sleep(0.02)
    return "awake"


async def imports() -> str:
    importlib.import_module("slow_to_import")
    return "done"


async def turns() -> str:
    for _ in range(300):
        await asyncio.sleep(0)
    return "done"


async def first_part(number: int) -> int:
    await asyncio.sleep(0.03)
    return number


async def in_a_row(number: Query[int] = 7) -> str:
    one = await first_part(number)
    two = await first_part(number)
    three = await first_part(number)
    return f"{one} {two} {three}"


async def crumbs() -> StreamingResponse:
    async def body() -> AsyncIterator[bytes]:
        for _ in range(300):
            yield b"x" * 20

    return StreamingResponse(body())


async def hello() -> str:
    return "hello"


class Locked:
    """A handler behind a lock; the lock belongs to the loop it is first used on."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()

    async def convoy(self) -> str:
        async with self.lock:
            await asyncio.sleep(0.03)
        return "done"


class Woken:
    """One that waits for an event, and one that sets it and does not let go."""

    def __init__(self) -> None:
        self.event = asyncio.Event()

    async def waits(self) -> str:
        await self.event.wait()
        return "woken"

    async def wakes(self) -> str:
        self.event.set()
        time.sleep(0.16)
        return "done"


def shop() -> App:
    app = App()
    for path, handler in (
        ("/sleeps", sleeps),
        ("/computes", computes),
        ("/calls", calls),
        ("/never-yields", never_yields),
        ("/naps", naps),
        ("/imports", imports),
        ("/turns", turns),
        ("/in-a-row", in_a_row),
        ("/crumbs", crumbs),
        ("/hello", hello),
        ("/convoy", Locked().convoy),
        ("/waits", (woken := Woken()).waits),
        ("/wakes", woken.wakes),
    ):
        app.get(path)(handler)
    return app


@pytest.fixture
def server() -> Iterator[LensServer]:
    with lens_server(shop()) as running:
        yield running


# -------------------------------------------------------------------------------------------------------------- guilty


@pytest.mark.parametrize(
    ("path", "function", "text"),
    [
        ("/sleeps", sleeps, "time.sleep"),
        ("/calls", below, "time.sleep"),
        ("/never-yields", never_yields, "time.sleep"),
    ],
)
def test_a_blocked_loop_is_told_with_the_line_that_blocks(
    server: LensServer, path: str, function: Any, text: str
) -> None:
    get(server.url + path)
    found = of(server, "FS001")
    assert found.at == f"{HERE}:{line_of(function, text)}" and found.route == f"GET {path}"
    assert found.frame is not None and found.frame.function == function.__name__


def test_a_loop_in_python_is_told_with_a_line_of_the_loop(server: LensServer) -> None:
    get(server.url + "/computes")
    found = of(server, "FS001")
    assert found.frame is not None and found.frame.function == "computes"
    assert line_of(computes, "while") <= found.frame.line <= line_of(computes, "total +=")


def test_time_sleep_is_named_and_what_to_use_instead(server: LensServer) -> None:
    get(server.url + "/sleeps")
    found = of(server, "FS005")
    assert found.at == f"{HERE}:{line_of(sleeps, 'time.sleep')}"
    assert found.fix == "use await asyncio.sleep() instead of time.sleep()"
    assert of(server, "FS001").within == "FS005"


def test_a_handler_that_never_yielded(server: LensServer) -> None:
    get(server.url + "/never-yields")
    assert of(server, "FS012").at == f"{HERE}:{line_of(never_yields, 'time.sleep')}"


def test_who_was_ready_knows_in_whom_the_loop_was(server: LensServer) -> None:
    at_once(server, "/waits", "/wakes", apart=0.1)
    found = of(server, "FS002")
    assert found.route == "GET /waits" and found.at == f"{HERE}:{line_of(Woken.waits, 'await')}"
    assert "the loop was in GET /wakes" in found.text
    assert f"{HERE}:{line_of(Woken.wakes, 'time.sleep')}" in found.text


def test_who_lay_in_the_kernel_knows_why(server: LensServer) -> None:
    get(server.url + "/hello")
    at_once(server, "/sleeps", "/hello", apart=0.05)
    found = of(server, "FS003")
    assert found.route == "GET /hello" and "the loop was in GET /sleeps" in found.text
    assert 60_000_000 < found.worst_ns < 160_000_000


def test_a_timer_beside_a_blocker_is_late(server: LensServer) -> None:
    at_once(server, "/naps", "/sleeps", apart=0.005)
    found = of(server, "FS004")
    assert found.route == "GET /naps" and found.at == f"{HERE}:{line_of(naps, 'asyncio.sleep')}"
    assert "a timer of 20." in found.text and "the loop was in GET /sleeps" in found.text


def test_an_import_in_a_handler(server: LensServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "slow_to_import.py").write_text("import time\ntime.sleep(0.16)\n")
    monkeypatch.syspath_prepend(tmp_path)
    try:
        get(server.url + "/imports")
    finally:
        sys.modules.pop("slow_to_import", None)
    found = of(server, "FS006")
    assert found.route == "GET /imports" and "imported a module" in found.text


def test_a_full_thread_pool() -> None:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        time.sleep(0.08)
        start_response("200 OK", [("content-length", "2")])
        return [b"ok"]

    with lens_server(app, threads=1) as server:
        at_once(server, *["/view"] * 4)
    found = of(server, "FS008")
    assert found.count == 3 and "waited" in found.text and found.worst_ns > 150_000_000


def test_a_convoy_behind_a_lock(server: LensServer) -> None:
    at_once(server, *["/convoy"] * 5)
    found = of(server, "FS009")
    assert found.at == f"{HERE}:{line_of(Locked.convoy, 'async with')}"
    assert f"who has it waits for a timer at {HERE}:{line_of(Locked.convoy, 'asyncio.sleep')} meanwhile" in found.text


def test_awaits_in_a_row(server: LensServer) -> None:
    for _ in range(3):
        get(server.url + "/in-a-row")
    found = of(server, "FS010")
    first = line_of(in_a_row, "one =")
    assert found.at == f"{HERE}:{first}" and f"{HERE}:{first} to {first + 2}" in found.text


def test_a_loop_of_sleep_0(server: LensServer) -> None:
    get(server.url + "/turns")
    found = of(server, "FS011")
    assert found.at == f"{HERE}:{line_of(turns, 'asyncio.sleep')}" and "300 times" in found.text


def test_an_orphan(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "ORPHAN_NS", 100_000_000)
    app = App()
    tasks = set()

    async def notify() -> None:
        for _ in range(4):
            await asyncio.sleep(0.05)

    @app.get("/order")
    async def order() -> str:
        tasks.add(asyncio.create_task(notify()))
        return "ordered"

    with lens_server(app) as server:
        for _ in range(3):
            get(server.url + "/order")
        time.sleep(0.5)
    found = of(server, "FS013")
    assert found.at == f"{HERE}:{line_of(notify, 'asyncio.sleep')}" and "notify() still ran" in found.text


async def never_done() -> None:
    await asyncio.get_running_loop().create_future()


async def forgotten() -> str:
    asyncio.create_task(never_done())  # noqa: RUF006 - that nobody keeps it is what is told
    await asyncio.sleep(0.01)
    return "done"


async def collects_others() -> str:
    gc.collect()
    return "done"


async def not_awaited() -> str:
    never_done()
    return "done"


async def dropped_at_its_end() -> str:
    coroutine = never_done()
    await asyncio.sleep(0.001)
    return type(coroutine).__name__


def not_awaited_in_a_thread() -> str:
    never_done()
    return "done"


@pytest.fixture
def complaints(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What others hear of it: the interpreter's warnings, whose filters would make errors of them."""
    heard: list[str] = []
    monkeypatch.setattr(warnings, "_warn_unawaited_coroutine", lambda coro: heard.append(coro.__name__))
    return heard


def test_a_task_that_was_destroyed_while_it_was_pending() -> None:
    heard: list[str] = []  # not what they are about: a task that is kept is not destroyed

    async def lifespan(app: App) -> AsyncIterator[None]:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: heard.append(context["message"]))
        yield

    app = App(lifespan=lifespan)
    app.get("/forgotten")(forgotten)
    app.get("/collects")(collects_others)
    gc.collect()
    gc.disable()  # when it is collected is ours to say
    try:
        with lens_server(app) as server:
            get(server.url + "/forgotten")
            get(server.url + "/collects")
    finally:
        gc.enable()
    found = of(server, "FS013")
    at = f"{HERE}:{line_of(never_done, 'await')}"
    assert found.text == f"GET /forgotten: task never_done() was destroyed while it was pending, at {at} (never_done)"
    assert found.requests == ["w0-0001"]  # and not the one in whose time it was collected
    assert f"Task never_done() was destroyed while it was pending ({at})." in server.explain("w0-0001")
    assert heard == ["Task was destroyed but it is pending!"]


@pytest.mark.parametrize(
    ("handler", "where"),
    [
        (not_awaited, "at {here}:{line} (not_awaited)"),
        (not_awaited_in_a_thread, "at {here}:{line} (not_awaited_in_a_thread)"),
        (dropped_at_its_end, "it begins at {here}:{first}"),
    ],
    ids=["by its statement", "in a thread", "with its function"],
)
def test_a_coroutine_that_was_never_awaited(handler: Any, where: str, complaints: list[str]) -> None:
    before = warnings._warn_unawaited_coroutine  # type: ignore[attr-defined]
    app = App()
    app.get("/order")(handler)
    with lens_server(app) as server:
        get(server.url + "/order")
        get(server.url + "/order")
    found = of(server, "FS013")
    first = inspect.getsourcelines(never_done)[1]
    where = where.format(here=HERE, line=line_of(handler, "never_done()"), first=first)
    assert found.text in (
        f"GET /order: coroutine never_done() was never awaited, {where} (2 times)",
        f"GET /order: coroutine never_done() was never awaited; {where} (2 times)",
    )
    assert found.fix == "await it, or give it to asyncio.create_task()"
    assert complaints == ["never_done"] * 2  # whoever was told before still is
    assert warnings._warn_unawaited_coroutine is before  # type: ignore[attr-defined]


def test_a_filter_that_makes_errors_of_warnings_still_does(monkeypatch: pytest.MonkeyPatch) -> None:
    unraisable: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda about: unraisable.append(about.exc_value))
    app = App()
    app.get("/order")(not_awaited)
    with lens_server(app) as server:
        get(server.url + "/order")
    assert of(server, "FS013").route == "GET /order"
    assert [str(error) for error in unraisable] == ["coroutine 'never_done' was never awaited"]


def test_whoever_hooked_the_warnings_above_us_stays(complaints: list[str]) -> None:
    app = App()
    seen: list[str] = []

    @app.get("/hook")
    async def hook() -> str:
        ours = warnings._warn_unawaited_coroutine  # type: ignore[attr-defined]

        def above(coro: Any) -> None:
            seen.append(coro.__name__)
            ours(coro)

        warnings._warn_unawaited_coroutine = above  # type: ignore[attr-defined]
        return "done"

    app.get("/order")(not_awaited)
    with lens_server(app) as server:
        get(server.url + "/hook")
        get(server.url + "/order")
    assert of(server, "FS013").count == 1
    not_awaited_in_a_thread()  # long after: through the one above, and ours, to whom it was
    assert seen == complaints == ["never_done"] * 2


async def awaits_all() -> str:
    await asyncio.gather(asyncio.sleep(0.001), asyncio.create_task(asyncio.sleep(0.001)))
    return "done"


async def cancels() -> str:
    task = asyncio.create_task(never_done())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    return "done"


async def closes_what_it_does_not_need() -> str:
    coroutine = never_done()
    coroutine.close()
    return "done"


async def gives_up() -> str:
    try:
        await asyncio.wait_for(never_done(), 0.01)
    except TimeoutError:
        return "late"
    return "done"


async def fails_in_a_group() -> str:
    async def fails() -> None:
        raise LookupError

    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(never_done())
            group.create_task(fails())
    except* LookupError:
        pass
    return "done"


@pytest.mark.parametrize(
    "handler",
    [awaits_all, cancels, closes_what_it_does_not_need, gives_up, fails_in_a_group],
    ids=lambda handler: handler.__name__,
)
def test_who_cleans_up_behind_himself_is_no_orphans_parent(handler: Any) -> None:
    app = App()
    app.get("/order")(handler)
    app.get("/collects")(collects_others)
    with lens_server(app) as server:
        for _ in range(3):
            get(server.url + "/order")
            get(server.url + "/collects")
    assert [one.text for one in find(server.model, dev=False) if one.code == "FS013"] == []


def test_a_collection_of_garbage() -> None:
    app = App()
    heap: list[Any] = []

    @app.get("/collects")
    async def collects() -> str:
        gc.collect()
        return "done"

    gc.disable()  # while there is so much to look at, each collection of the test's own would be one more
    try:
        heap.extend([number] for number in range(3_000_000))
        with lens_server(app) as server:
            get(server.url + "/collects")
    finally:
        heap.clear()
        gc.enable()
    found = of(server, "FS014")
    assert "a full collection of garbage stopped the worker" in found.text and "GET /collects" in found.text


def test_a_client_that_takes_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "SLOW_CLIENT_NS", 200_000_000)
    app = App()

    @app.get("/big")
    async def big() -> StreamingResponse:
        async def body() -> AsyncIterator[bytes]:
            for _ in range(200):
                yield b"x" * 100_000

        return StreamingResponse(body())

    with lens_server(app) as server:
        port = int(server.url.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(b"GET /big HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            time.sleep(0.5)
            while client.recv(1 << 20):
                pass
    assert "to take 20.0 MB" in of(server, "FS015").text


LARGE = 12_000_000  # bytes: more than the kernel holds for a client on this machine


def large_app() -> App:
    app = App()

    @app.get("/large")
    async def large() -> Response:
        return Response(b"x" * LARGE)

    return app


async def large_asgi(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % LARGE)]})
        await send({"type": "http.response.body", "body": b"x" * LARGE})


def large_wsgi(environ: Any, start_response: Any) -> list[bytes]:
    start_response("200 OK", [("content-length", str(LARGE))])
    return [b"x" * LARGE]


def taken(client: socket.socket, first: int, nap: float, more: str) -> int:
    """/large: at most so many bytes, then a nap, then the rest. How many came."""
    client.sendall(f"GET /large HTTP/1.1\r\nHost: x\r\n{more}\r\n".encode())
    got = len(client.recv(first))
    time.sleep(nap)
    while got < LARGE and (part := client.recv(1 << 20)):
        got += len(part)
    return got


def download(server: LensServer, *, nap: float, more: str = "") -> int:
    """Take /large after a nap: how many bytes came."""
    port = int(server.url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port)) as client:
        return taken(client, 65536, nap, more)


LARGE_APPS = [large_app(), large_asgi, large_wsgi]


@pytest.mark.parametrize("more", ["", "Connection: close\r\n"], ids=["kept", "closed"])
@pytest.mark.parametrize("app", LARGE_APPS, ids=["native", "asgi", "wsgi"])
def test_a_client_that_takes_its_time_over_one_large_body(app: Any, more: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The request is over for its handler long before: all of the body has been written."""
    monkeypatch.setattr(rules, "SLOW_CLIENT_NS", 400_000_000)
    with lens_server(app) as server:
        assert download(server, nap=0.6, more=more) >= LARGE
    found = of(server, "FS015")
    assert "to take 12.0 MB" in found.text and 500_000_000 < found.worst_ns < 3_000_000_000
    (one,) = server.requests
    assert one.end is not None and one.until - one.end > 500_000_000  # told although it came after the end
    assert one.total >= one.write_wait
    assert f"GET /large took {duration(one.total)}" in server.explain()
    assert "The client did not take it for" in server.explain()


@pytest.mark.parametrize("app", LARGE_APPS, ids=["native", "asgi", "wsgi"])
def test_a_client_that_takes_one_large_body_at_once_is_innocent(app: Any) -> None:
    with lens_server(app) as server:
        for more in ("", "Connection: close\r\n"):
            assert download(server, nap=0, more=more) >= LARGE
    assert [one.text for one in find(server.model, dev=False) if one.code == "FS015"] == []
    assert all(one.total < 1_000_000_000 for one in server.requests)


# Behind TLS the transport takes such a body whole, whoever the client is: the kernel is asked how much it has got.


def download_over_tls(server: LensServer, authority: Authority, *, nap: float, more: str = "") -> int:
    port = int(server.url.rpartition(":")[2])
    with (
        socket.create_connection(("127.0.0.1", port)) as plain,
        authority.client().wrap_socket(plain, server_hostname="localhost") as client,
    ):
        return taken(client, 1000, nap, more)


@pytest.mark.parametrize("more", ["", "Connection: close\r\n"], ids=["kept", "closed"])
@pytest.mark.parametrize("app", LARGE_APPS, ids=["native", "asgi", "wsgi"])
@pytest.mark.parametrize("on", ["uvloop", "asyncio"])
def test_a_client_that_takes_its_time_over_one_large_body_behind_tls(
    app: Any, more: str, on: str, authority: Authority, local: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rules, "SLOW_CLIENT_NS", 400_000_000)
    with lens_server(app, loop=on, **local) as server:
        assert download_over_tls(server, authority, nap=1.0, more=more) >= LARGE  # which begins while it encrypts
        time.sleep(0.1)  # until the kernel is asked again
    found = of(server, "FS015")
    assert "to take 12.0 MB" in found.text and 500_000_000 < found.worst_ns < 3_000_000_000
    (one,) = server.requests
    assert one.tls and one.end is not None and one.until - one.end > 500_000_000
    assert f"GET /large took {duration(one.total)}" in server.explain()
    assert "The client did not take it for" in server.explain()


@pytest.mark.parametrize("app", LARGE_APPS, ids=["native", "asgi", "wsgi"])
@pytest.mark.parametrize("on", ["uvloop", "asyncio"])
def test_a_client_that_takes_one_large_body_at_once_is_innocent_behind_tls(
    app: Any, on: str, authority: Authority, local: dict[str, str]
) -> None:
    with lens_server(app, loop=on, **local) as server:
        for more in ("", "Connection: close\r\n"):
            assert download_over_tls(server, authority, nap=0, more=more) >= LARGE
    assert [one.text for one in find(server.model, dev=False) if one.code == "FS015"] == []
    assert len(server.requests) == 2 and all(one.write_wait < 1_000_000_000 for one in server.requests)


async def streamed() -> StreamingResponse:
    async def body() -> AsyncIterator[bytes]:
        for _ in range(LARGE // 100_000):
            yield b"x" * 100_000

    return StreamingResponse(body())


def test_the_waits_of_a_stream_behind_tls_are_told_once(authority: Authority, local: dict[str, str]) -> None:
    app = App()
    app.get("/large")(streamed)
    app.get("/hello")(hello)
    with lens_server(app, **local) as server:
        began = time.monotonic_ns()
        assert download_over_tls(server, authority, nap=0.5) >= LARGE
        took = time.monotonic_ns() - began
    (one,) = server.requests
    waits = sorted((part.start, part.end) for part in one.drains)
    assert 450_000_000 < one.write_wait <= took
    assert all(end <= start for (_, end), (start, _) in pairwise(waits))  # no time twice


def test_who_is_not_traced_is_not_blamed_for_by_who_was(authority: Authority, local: dict[str, str]) -> None:
    """One connection: a request that is traced and small, and one that is slow and not traced."""
    app = large_app()
    app.get("/hello")(hello)
    with lens_server(app, lens="sample:2", **local) as server:
        port = int(server.url.rpartition(":")[2])
        with (
            socket.create_connection(("127.0.0.1", port)) as plain,
            authority.client().wrap_socket(plain, server_hostname="localhost") as client,
        ):
            client.sendall(b"GET /hello HTTP/1.1\r\nHost: x\r\n\r\n")
            assert client.recv(10000).endswith(b"hello")
            client.sendall(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
            got = len(client.recv(1000))
            time.sleep(0.5)
            while got < LARGE:
                got += len(client.recv(1 << 20))
    assert [(one.path, one.drains) for one in server.requests] == [("/hello", [])]


def test_a_client_that_leaves_with_the_rest_is_told_of_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "SLOW_CLIENT_NS", 300_000_000)
    with lens_server(large_app()) as server:
        port = int(server.url.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
            client.recv(1000)
            time.sleep(0.5)
        time.sleep(0.1)
    assert of(server, "FS015").worst_ns > 400_000_000


def test_slow_mode_keeps_a_request_that_only_its_client_made_slow() -> None:
    with lens_server(large_app(), lens="slow:300ms") as server:
        assert download(server, nap=0) >= LARGE
        assert download(server, nap=0.6) >= LARGE
        assert download(server, nap=0.6, more="Connection: close\r\n") >= LARGE
        time.sleep(0.05)
    assert [(one.id, one.write_wait > 500_000_000) for one in server.requests] == [("w0-0002", True), ("w0-0003", True)]
    assert all(one.finished and one.status == 200 and not one.partial for one in server.requests)
    for one in server.requests:  # the handler's slice ends behind the answer
        assert one.polls == 1 and one.busy > 0 and one.root is not None and one.root.outcome == "returned"


def test_a_body_of_crumbs(server: LensServer) -> None:
    get(server.url + "/crumbs")
    assert "300 messages of 20 bytes each" in of(server, "FS016").text


def test_a_request_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "HUNG_NS", 300_000_000)
    app = App()
    woken = Woken()
    app.get("/waits")(woken.waits)

    @app.get("/free")
    async def free() -> str:
        woken.event.set()
        return "free"

    with lens_server(app) as server:
        thread = threading.Thread(target=get, args=(server.url + "/waits",))
        thread.start()
        time.sleep(0.5)
        found = of(server, "FS017")
        get(server.url + "/free")
        thread.join()
    assert found.at == f"{HERE}:{line_of(Woken.waits, 'await')}" and "waited" in found.text


# ------------------------------------------------------------------------------------------------------------- innocent


async def gathers() -> str:
    return " ".join(map(str, await asyncio.gather(*map(first_part, range(5)))))


async def threads() -> str:
    await asyncio.to_thread(time.sleep, 0.1)
    return "done"


async def streams() -> StreamingResponse:
    async def body() -> AsyncIterator[bytes]:
        for _ in range(5):
            await asyncio.sleep(0.02)
            yield b"x" * 1000

    return StreamingResponse(body())


async def needs_the_other() -> str:
    one = await first_part(1)
    two = await first_part(one)
    three = await first_part(two)
    return str(three)


def plain() -> str:
    time.sleep(0.1)
    return "in a thread of its own"


INNOCENT: list[Callable[..., Any]] = [hello, naps, gathers, threads, streams, needs_the_other, plain]


@pytest.mark.parametrize("handler", INNOCENT, ids=lambda handler: handler.__name__)
def test_an_innocent_handler_has_no_finding(handler: Callable[..., Any]) -> None:
    said: list[str] = []
    for _ in range(3):  # a busy machine may itself hold the loop: it will not three times
        app = App()
        app.get("/innocent")(handler)
        with lens_server(app) as server:
            at_once(server, *["/innocent"] * 4)
            for _ in range(4):
                get(server.url + "/innocent")
        assert len(server.requests) == 8 and all(one.finished for one in server.requests)
        said = [one.text for one in find(server.model, dev=False)]
        if not said:
            return
    assert said == []


# ---------------------------------------------------------------------------------------------------- the test helper


def test_no_slice_over_names_the_line(server: LensServer) -> None:
    get(server.url + "/hello")
    get(server.url + "/sleeps")
    with pytest.raises(AssertionError) as caught:
        server.assert_no_slice_over(0.05)
    said = re.fullmatch(
        r"nothing else could run on the loop for more than 50\.0 ms:\n  GET /sleeps \(w0-0002\) ran (\d+) ms, at (.*)",
        str(caught.value),
    )
    assert said is not None and int(said[1]) >= 160, caught.value
    assert said[2] == f"{HERE}:{line_of(sleeps, 'time.sleep')} (sleeps)"
    server.assert_no_slice_over(5)


def test_a_slice_that_no_watchdog_saw_has_the_lines_around_it() -> None:
    app = App()

    @app.get("/short")
    async def short() -> str:
        await asyncio.sleep(0.001)
        time.sleep(0.015)
        await asyncio.sleep(0.001)
        return "done"

    with lens_server(app) as server:
        get(server.url + "/short")
    with pytest.raises(AssertionError, match=rf"between {HERE}:\d+ and {HERE}:\d+"):
        server.assert_no_slice_over(0.01)


def test_what_was_recorded_is_there_after_the_server() -> None:
    with lens_server(shop()) as server:
        get(server.url + "/naps")
    (one,) = server.requests
    assert one.path == "/naps" and one.finished and one.status == 200
    assert one.busy + one.scheduled + one.idle == one.handler_end - one.handler_start
    assert server.explain().startswith("GET /naps took ")
    assert server.slices[0].request == "GET /naps" and len(server.slices) == one.polls
    assert server.findings == []


def test_two_servers_do_not_mix() -> None:
    with lens_server(shop()) as one, lens_server(shop()) as two:
        get(one.url + "/hello")
        get(two.url + "/naps")
        get(two.url + "/hello")
    assert [len(server.requests) for server in (one, two)] == [1, 2]


def test_the_fixture_fails_a_test_whose_loop_was_held(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import time
        import urllib.request

        from fastserve import App

        app = App()

        @app.get("/quick")
        async def quick() -> str:
            return "quick"

        @app.get("/slow")
        async def slow() -> str:
            time.sleep(0.4)
            return "slow"

        def get(server, path):
            with urllib.request.urlopen(server.url + path, timeout=20) as answer:
                return answer.read()

        def test_quick(fastserve_lens):
            assert get(fastserve_lens(app, no_slice_over=0.3), "/quick") == b"quick"

        def test_slow(fastserve_lens):
            assert get(fastserve_lens(app, no_slice_over=0.3), "/slow") == b"slow"

        def test_without_a_limit(fastserve_lens):
            server = fastserve_lens(app)
            get(server, "/slow")
            assert [one.path for one in server.requests] == ["/slow"]
        """
    )
    found = importlib.metadata.entry_points(group="pytest11", name="fastserve")
    named = [] if found else ["-p", "fastserve.pytest_plugin"]
    result = pytester.runpytest_subprocess(*named, "-p", "no:dash", "-W", "error", timeout=120)
    result.assert_outcomes(passed=3, errors=1)  # the assertion is at the end of the fixture
    result.stdout.fnmatch_lines(
        ["*nothing else could run on the loop for more than 300 ms:*", "*GET /slow (w0-0001) ran *"]
    )
