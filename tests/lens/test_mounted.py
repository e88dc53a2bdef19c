"""Applications behind middleware, mounted, and mounted behind middleware, on a real server: each request has a trace
of its own, complete, with its route, the lines of its handler, and the threads that worked for it.
"""

from __future__ import annotations

import asyncio
import inspect
import socket
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request as StarletteRequest
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from fastserve import App, Request, mark
from fastserve.lens import rules
from fastserve.lens.findings import find
from fastserve.lens.model import RequestTrace, place
from fastserve.testing import LensServer, lens_server

HERE = Path(__file__).name
NAP, HOLD = 0.03, 0.12


def get(server: LensServer, path: str) -> bytes:
    with urlopen(server.url + path, timeout=30) as response:
        return bytes(response.read())


def line_of(function: Any, text: str) -> str:
    lines, first = inspect.getsourcelines(function)
    (found,) = [number for number, row in enumerate(lines, first) if text in row]
    return f"{HERE}:{found}"


class Wraps(BaseHTTPMiddleware):
    async def dispatch(self, request: StarletteRequest, call_next: RequestResponseEndpoint) -> Response:
        response = await call_next(request)
        response.headers["x-wrapped"] = "yes"
        return response


class Passes:
    """Pure ASGI."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self.app(scope, receive, send)


async def naps(request: StarletteRequest) -> PlainTextResponse:
    await asyncio.sleep(NAP)
    mark("awake")
    return PlainTextResponse("slept")


async def holds(request: StarletteRequest) -> PlainTextResponse:
    time.sleep(HOLD)
    return PlainTextResponse("held")


def works(request: StarletteRequest) -> PlainTextResponse:
    time.sleep(NAP)
    return PlainTextResponse("worked")


async def streams(request: StarletteRequest) -> StreamingResponse:
    async def body() -> Any:
        for _ in range(3):
            await asyncio.sleep(NAP / 3)
            yield b"x"

    return StreamingResponse(body())


async def waits_for_ever(request: StarletteRequest) -> PlainTextResponse:
    await asyncio.Event().wait()
    return PlainTextResponse("never")


ROUTES = [
    Route("/naps/{n:int}", naps),
    Route("/holds", holds),
    Route("/works", works),
    Route("/streams", streams),
    Route("/hangs", waits_for_ever),
]


def starlette(*wrappers: Any) -> Starlette:
    return Starlette(routes=ROUTES, middleware=[Middleware(one) for one in wrappers])


def wsgi(environ: Any, start_response: Any) -> list[bytes]:
    time.sleep(NAP)
    mark("worked")
    start_response("200 OK", [("content-length", "1")])
    return [b"w"]


async def inner_naps(n: int) -> str:
    await asyncio.sleep(NAP)
    return "slept"


def inner_works() -> str:
    time.sleep(NAP)
    return "worked"


def inner() -> App:
    app = App()
    app.get("/naps/{n}")(inner_naps)
    app.get("/works")(inner_works)
    return app


def outer(*, middleware: bool) -> App:
    app = App()
    app.mount("/plain", starlette())
    app.mount("/base", starlette(Wraps))
    app.mount("/inner", inner())
    app.mount_wsgi("/old", wsgi)
    if middleware:

        @app.middleware
        async def around(request: Request, call_next: Callable[[Request], Awaitable[Any]]) -> Any:
            return await call_next(request)

    return app


APPS: dict[str, Any] = {
    "base": lambda: starlette(Wraps),
    "base twice": lambda: starlette(Wraps, Wraps),
    "pure": lambda: starlette(Passes),
    "mounted": lambda: outer(middleware=False),
    "mounted behind middleware": lambda: outer(middleware=True),
}
BELOW: dict[str, tuple[str, ...]] = {"mounted": ("/plain", "/base"), "mounted behind middleware": ("/plain", "/base")}


@pytest.fixture(params=list(APPS))
def app(request: pytest.FixtureRequest) -> tuple[Any, tuple[str, ...]]:
    """One, and below which paths Starlette's routes are."""
    return APPS[request.param](), BELOW.get(request.param, ("",))


def waits(request: RequestTrace) -> list[tuple[str, float]]:
    """Every line that one of its tasks waited on, and how long."""
    return [
        (place(wait.stack), (wait.ready - wait.start) / 1e9)
        for task in request.tasks.values()
        for wait in task.awaits
        if wait.ready is not None
    ]


def complete(request: RequestTrace) -> None:
    assert request.finished and not request.partial and request.status == 200 and request.root is not None
    assert request.busy + request.scheduled + request.idle == request.handler_end - request.handler_start
    assert all(task.parent in request.tasks for task in request.tasks.values() if task is not request.root)
    for task in request.tasks.values():
        if task.ended is not None:
            assert task.busy + task.scheduled + task.idle == task.ended - task.started


def test_the_lines_of_the_handler_and_its_route_are_there(app: tuple[Any, tuple[str, ...]]) -> None:
    application, prefixes = app
    with lens_server(application) as server:
        for prefix in prefixes:
            assert get(server, prefix + "/naps/7") == b"slept"
            assert get(server, prefix + "/streams") == b"xxx"
    for prefix, (first, second) in zip(prefixes, zip(*[iter(server.requests)] * 2, strict=True), strict=True):
        for request, name, function in ((first, "/naps/{n}", naps), (second, "/streams", streams)):
            assert request.route == prefix + name
            at = line_of(function, "asyncio.sleep")
            assert sum(seconds for where, seconds in waits(request) if where == at) >= NAP * 0.9, waits(request)
        assert [one.text for one in first.marks] == ["awake"]
        complete(first)


def test_a_hold_is_told_of_the_route_and_line_and_belongs_to_the_code(app: tuple[Any, tuple[str, ...]]) -> None:
    application, prefixes = app
    with lens_server(application) as server:
        for prefix in prefixes:
            get(server, prefix + "/naps/1")  # anyio imports its back end the first time
            get(server, prefix + "/holds")
    found = {one.route: one for one in find(server.model, dev=False) if one.code == "FS001"}
    for prefix in prefixes:
        assert found[f"GET {prefix}/holds"].at == line_of(holds, "time.sleep")
        (request,) = [one for one in server.requests if one.path == f"{prefix}/holds"]
        told = " ".join(server.explain(request.id).split())
        belongs = told.partition("to your code: ")[2].partition(";")[0]
        assert float(belongs.rpartition(" ms")[0].rpartition("(")[2]) >= HOLD * 1000 * 0.95, told


def test_threads_are_those_of_the_request(app: tuple[Any, tuple[str, ...]]) -> None:
    application, prefixes = app
    with lens_server(application) as server:
        for prefix in prefixes:
            assert get(server, prefix + "/works") == b"worked"
    for request in server.requests:
        (run,) = request.threads
        assert NAP * 0.9 < run.length / 1e9 < 1 and run.kind == "executor"


def test_a_request_that_hangs_behind_middleware_is_told_with_its_own_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "HUNG_NS", 300_000_000)
    with lens_server(starlette(Wraps)) as server:
        get(server, "/naps/1")
        port = int(server.url.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(b"GET /hangs HTTP/1.1\r\nHost: x\r\n\r\n")
            time.sleep(0.6)
            (found,) = [one for one in find(server.model, dev=False) if one.code == "FS017"]
    assert found.at == line_of(waits_for_ever, ".wait()")


@pytest.mark.parametrize("middleware", [False, True], ids=["", "behind middleware"])
def test_an_app_within_an_app_tells_its_routes_and_threads(middleware: bool) -> None:
    with lens_server(outer(middleware=middleware)) as server:
        assert get(server, "/inner/naps/5") == b"slept"
        assert get(server, "/inner/works") == b"worked"
    first, second = server.requests
    assert (first.route, second.route) == ("/inner/naps/{n}", "/inner/works")
    at = line_of(inner_naps, "asyncio.sleep")
    assert sum(seconds for where, seconds in waits(first) if where == at) >= NAP * 0.9
    (run,) = second.threads
    assert run.kind == "handler" and NAP * 0.9 < run.length / 1e9 < 1
    complete(first)
    complete(second)
    assert f"mostly for a timer at {at}" in " ".join(server.explain(first.id).split())
    assert [one.text for one in find(server.model, dev=False)] == []


@pytest.mark.parametrize("middleware", [False, True], ids=["", "behind middleware"])
def test_a_wsgi_application_that_is_mounted_has_the_name_of_its_mount(middleware: bool) -> None:
    with lens_server(outer(middleware=middleware)) as server:
        assert get(server, "/old/anything/1") == get(server, "/old/anything/2") == b"w"
    assert [one.route for one in server.requests] == ["/old/*", "/old/*"]
    for request in server.requests:
        (run,) = request.threads
        assert run.kind == "wsgi" and NAP * 0.9 < run.length / 1e9 < 1
        assert [one.text for one in request.marks] == ["worked"]
    assert [one.text for one in find(server.model, dev=False)] == []
