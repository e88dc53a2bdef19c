"""App: what it remembers and refuses when things are registered. How it serves is in interfaces/test_native.py."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from types import SimpleNamespace

import pytest

from fastserve import App, HTTPException, Response, Router
from fastserve.errors import ConfigError
from fastserve.interfaces import detect, make_handler
from fastserve.interfaces.lifespan import Lifespan


def test_state():
    assert App(state={"a": 1}).state.a == 1
    own = SimpleNamespace(a=2)
    assert App(state=own).state is own
    app = App()
    app.state.b = 3
    assert app.state.b == 3
    with pytest.raises(AttributeError, match="no attribute 'c'"):
        app.state.c  # noqa: B018


def test_decorators_give_functions_back():
    app = App()

    async def around(request, call_next): ...

    def hook(*arguments): ...

    assert app.middleware(around) is around
    assert app.middleware("http")(around) is around
    assert app.before_request(hook) is hook and app.after_request(hook) is hook
    assert app.exception_handler(404)(hook) is hook and app.exception_handler(KeyError)(hook) is hook


class Around:
    async def __call__(self, request, call_next):
        return await call_next(request)


@pytest.mark.parametrize(
    ("register", "message"),
    [
        (lambda app: app.middleware(lambda request, call_next: None), "is not `async def`"),
        (lambda app: app.middleware(5), "is not callable"),
        (lambda app: app.middleware("websocket"), "middleware for 'http'"),
        (lambda app: app.before_request(5), "hook 5 is not callable"),
        (lambda app: app.after_request(None), "hook None is not callable"),
        (lambda app: app.exception_handler(200)(print), "from 400 to 599, not 200"),
        (lambda app: app.exception_handler(600)(print), "from 400 to 599"),
        (lambda app: app.exception_handler("x")(print), "a status or an exception class"),
        (lambda app: app.exception_handler(KeyboardInterrupt)(print), "a status or an exception class"),
        (lambda app: app.exception_handler(KeyError)(5), "exception handler 5 is not callable"),
    ],
)
def test_mistakes(register, message):
    with pytest.raises(ConfigError) as info:
        register(App())
    assert message in str(info.value) and info.value.exit_code == 3


def test_objects_can_be_middleware():
    App().middleware(Around())


# ---------------------------------------------------------------------------------------------- which interface is it


async def asgi3(scope, receive, send): ...
def asgi2(scope): ...
def asgi3_plain(scope, receive, send): ...
def wsgi(environ, start_response): ...


class Asgi:
    async def __call__(self, scope, receive, send): ...


class Wsgi:
    def __call__(self, environ, start_response): ...


class Asgi2:
    def __init__(self, scope): ...


@pytest.mark.parametrize(
    ("app", "interface"),
    [
        (App(), "native"),
        (asgi3, "asgi"),
        (asgi2, "asgi2"),
        (asgi3_plain, "asgi"),
        (Asgi(), "asgi"),
        (Asgi2, "asgi2"),
        (wsgi, "wsgi"),
        (Wsgi(), "wsgi"),
        (Wsgi().__call__, "wsgi"),
        (Asgi().__call__, "asgi"),
    ],
)
def test_detect(app, interface):
    assert detect(app) == interface


@pytest.mark.parametrize("app", [5, None, "module:app", SimpleNamespace(__fastserve_app__=True), Router()])
def test_what_is_no_application(app):
    with pytest.raises(ConfigError, match="is not an application") as info:
        detect(app)
    assert info.value.exit_code == 3


def test_make_handler():
    app = App()
    for interface in ("auto", "native"):
        make_handler(app, interface).close()
    for interface in ("auto", "wsgi"):
        make_handler(wsgi, interface, threads=0).close()
    for no_wsgi in (app, 5):
        with pytest.raises(ConfigError, match="is not a WSGI application"):
            make_handler(no_wsgi, "wsgi")
    for other, interface in ((asgi3, "auto"), (asgi3, "asgi"), (asgi2, "asgi2"), (Asgi(), "asgi3")):
        make_handler(other, interface).close()
    with pytest.raises(ConfigError, match=r"is not a fastserve\.App"):
        make_handler(asgi3, "native")
    with pytest.raises(ConfigError, match="unknown interface 'rsgi'"):
        make_handler(app, "rsgi")
    with pytest.raises(ConfigError, match="threads must be at least 1"):
        make_handler(app, threads=0)


def test_conflicts_of_grown_routers_are_found_when_the_handler_is_made():
    app, router = App(), Router()
    app.get("/a")(lambda: "a")
    app.include_router(router)
    router.get("/a")(lambda: "b")
    with pytest.raises(ConfigError, match="GET /a is registered twice"):
        make_handler(app)


# --------------------------------------------------------------------------------------------------------- lifespan


def run(coroutine):
    return asyncio.run(coroutine)


def test_lifespan_yields_state_and_ends():
    steps = []

    @contextlib.asynccontextmanager
    async def lifespan(app):
        steps.append(("up", app, asyncio.current_task()))
        yield {"db": "pool"}
        steps.append(("down", app, asyncio.current_task()))

    async def main():
        app = App(lifespan=lifespan)
        context = Lifespan(app, "native")
        state = context.state
        assert state == {}
        await context.startup()
        assert state is context.state and state == {"db": "pool"} and len(steps) == 1
        await context.shutdown()
        await context.shutdown()
        assert [step[:2] for step in steps] == [("up", app), ("down", app)]
        # in one task: cancel scopes must end where they began
        assert steps[0][2] is steps[1][2] is not asyncio.current_task()

    run(main())


def test_lifespan_as_a_plain_asynchronous_generator():
    steps = []

    async def lifespan(app):
        steps.append("up")
        yield
        steps.append("down")

    async def main():
        context = Lifespan(App(lifespan=lifespan))
        await context.startup()
        assert steps == ["up"] and context.state == {}
        await context.shutdown()
        assert steps == ["up", "down"]

    run(main())


def test_no_lifespan():
    async def main():
        for context in (Lifespan(App()), Lifespan(wsgi, "wsgi"), Lifespan(asgi3, "asgi", "off")):
            await context.startup()
            assert context.state == {} and context.supported is (context.interface == "native")
            await context.shutdown()

    run(main())


def test_lifespan_that_fails_at_startup():
    async def lifespan(app):
        raise LookupError("no database")
        yield

    async def main():
        context = Lifespan(App(lifespan=lifespan))
        with pytest.raises(LookupError, match="no database"):
            await context.startup()
        await context.shutdown()

    run(main())


def test_lifespan_that_fails_at_shutdown():
    async def lifespan(app):
        yield
        raise LookupError("not closed")

    async def main():
        context = Lifespan(App(lifespan=lifespan))
        await context.startup()
        with pytest.raises(LookupError, match="not closed"):
            await context.shutdown()

    run(main())


def test_lifespan_that_is_no_context_manager():
    async def main():
        with pytest.raises(ConfigError, match="not an asynchronous context manager"):
            await Lifespan(App(lifespan=lambda app: 5)).startup()

        async def yields_text(app):
            yield "text"

        with pytest.raises(TypeError, match="a lifespan yields a mapping or nothing, not str"):
            await Lifespan(App(lifespan=yields_text)).startup()

    run(main())


def test_lifespan_that_ends_by_itself_is_logged(caplog):
    async def lifespan(app):
        async with asyncio.TaskGroup() as group:

            async def job():
                await asyncio.sleep(0)
                raise LookupError("the job died")

            group.create_task(job())
            yield

    async def main():
        context = Lifespan(App(lifespan=lifespan))
        await context.startup()
        for _ in range(6):
            await asyncio.sleep(0)
        assert "the lifespan of the application ended by itself" in caplog.text
        with pytest.raises(BaseExceptionGroup):
            await context.shutdown()

    with caplog.at_level(logging.ERROR, "fastserve.error"):
        run(main())


def test_http_exception_defaults():
    assert HTTPException(404).detail == "Not Found" and HTTPException(499).detail == "Error"
    assert HTTPException(404, "x", {"a": "b"}).headers == {"a": "b"}
    assert Response().status_code == 200
