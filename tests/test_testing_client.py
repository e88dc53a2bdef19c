"""TestClient: what users of Starlette's expect of it, over a real server; and the fixtures of the pytest plugin."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib.metadata
import subprocess
import sys
import textwrap
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

import fastserve
from fastserve import App, Request, WebSocket, WebSocketDisconnect
from fastserve.errors import ConfigError
from fastserve.testing import TestClient, WebSocketDenialResponse, live_server

pytest_plugins = ["pytester"]


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("fastserve")]


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    gc.collect()
    assert not threads()


# ------------------------------------------------------------------------------- one application in every interface


def native() -> App:
    @contextlib.asynccontextmanager
    async def lifespan(app: App) -> AsyncIterator[dict[str, str]]:
        app.state.lives = True
        yield {"word": "ready"}
        app.state.lives = False

    app = App(lifespan=lifespan)
    app.state.lives = False

    @app.get("/")
    async def index(request: Request) -> dict[str, Any]:
        return {"host": request.headers["host"], "lives": app.state.lives, "cookie": request.cookies.get("a")}

    @app.post("/echo")
    async def echo(request: Request) -> bytes:
        return await request.body()

    @app.get("/boom")
    async def boom() -> str:
        raise ZeroDivisionError("native")

    @app.get("/half")
    async def half() -> AsyncIterator[bytes]:
        yield b"half"
        await asyncio.sleep(0)
        raise ZeroDivisionError("native")

    @app.get("/moved")
    async def moved() -> fastserve.Response:
        return fastserve.RedirectResponse("/", headers={"set-cookie": "a=b"})

    @app.websocket("/echo")
    async def ws(websocket: WebSocket) -> None:
        await websocket.accept("chat" if "chat" in websocket.subprotocols else None, {"x-own": "1"})
        async for message in websocket:
            await websocket.send(message)

    @app.websocket("/boom")
    async def ws_boom(websocket: WebSocket) -> None:
        await websocket.accept()
        raise ZeroDivisionError("native")

    @app.websocket("/denied")
    async def ws_denied(websocket: WebSocket) -> None:
        raise fastserve.HTTPException(418, "no")

    @app.websocket("/closes")
    async def ws_closes(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.close(4321, "done")

    return app


def starlette() -> Any:
    from starlette.applications import Starlette
    from starlette.background import BackgroundTask
    from starlette.exceptions import HTTPException
    from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response, StreamingResponse
    from starlette.routing import Route, WebSocketRoute

    @contextlib.asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[None]:
        app.state.lives = True
        yield
        app.state.lives = False

    async def index(request: Request) -> Response:
        return JSONResponse(
            {"host": request.headers["host"], "lives": app.state.lives, "cookie": request.cookies.get("a")}
        )

    async def echo(request: Request) -> Response:
        return Response(await request.body())

    async def boom(request: Request) -> Response:
        raise ZeroDivisionError("starlette")

    async def half(request: Request) -> Response:
        async def pieces() -> AsyncIterator[bytes]:
            yield b"half"
            await asyncio.sleep(0)
            raise ZeroDivisionError("starlette")

        return StreamingResponse(pieces())

    async def moved(request: Request) -> Response:
        answer = RedirectResponse("/")
        answer.set_cookie("a", "b")
        return answer

    async def later(request: Request) -> Response:
        async def task() -> None:
            await asyncio.sleep(0.05)
            app.state.done.append("background")
            if request.query_params:
                raise ZeroDivisionError("in the background")

        return PlainTextResponse("soon", background=BackgroundTask(task))

    async def ws(websocket: Any) -> None:
        chat = "chat" if "chat" in websocket.scope["subprotocols"] else None
        await websocket.accept(chat, [(b"x-own", b"1")])
        while (message := await websocket.receive())["type"] == "websocket.receive":
            await websocket.send({**message, "type": "websocket.send"})

    async def ws_boom(websocket: Any) -> None:
        await websocket.accept()
        raise ZeroDivisionError("starlette")

    async def ws_denied(websocket: Any) -> None:
        raise HTTPException(418, "no")

    async def ws_closes(websocket: Any) -> None:
        await websocket.accept()
        await websocket.close(4321, "done")

    app = Starlette(
        routes=[
            Route("/", index),
            Route("/echo", echo, methods=["POST"]),
            Route("/boom", boom),
            Route("/half", half),
            Route("/moved", moved),
            Route("/later", later),
            WebSocketRoute("/echo", ws),
            WebSocketRoute("/boom", ws_boom),
            WebSocketRoute("/denied", ws_denied),
            WebSocketRoute("/closes", ws_closes),
        ],
        lifespan=lifespan,
    )
    app.state.lives = False
    app.state.done = []
    return app


def flask() -> Any:
    from flask import Flask, Response, jsonify, redirect, request

    app = Flask("testing")
    app.config["PROPAGATE_EXCEPTIONS"] = True

    @app.get("/")
    def index() -> Any:
        return jsonify(host=request.host, lives=None, cookie=request.cookies.get("a"))

    @app.post("/echo")
    def echo() -> Any:
        return request.get_data()

    @app.get("/boom")
    def boom() -> Any:
        raise ZeroDivisionError("flask")

    @app.get("/half")
    def half() -> Any:
        def pieces() -> Iterator[bytes]:
            yield b"half"
            raise ZeroDivisionError("flask")

        return Response(pieces())

    @app.get("/moved")
    def moved() -> Any:
        answer = redirect("/")
        answer.set_cookie("a", "b")
        return answer

    return app


APPS: dict[str, Callable[[], Any]] = {"native": native, "starlette": starlette, "flask": flask}
every = pytest.mark.parametrize("make", APPS.values(), ids=APPS)
with_websockets = pytest.mark.parametrize("make", [native, starlette], ids=["native", "starlette"])


@every
def test_requests(make: Callable[[], Any]) -> None:
    with TestClient(make(), headers={"X-A": "b"}) as client:
        lives = client.get("/").json()["lives"]
        assert lives in (True, None)
        assert client.get("/").json() == {"host": "testserver", "lives": lives, "cookie": None}
        assert client.post("/echo", content=b"x" * 100_000).content == b"x" * 100_000
        assert client.post("/echo", content=iter([b"ab", b"c"])).content == b"abc"
        assert client.post("/echo", json={"a": [1]}).json() == {"a": [1]}
        answer = client.get("/moved")
        assert (answer.status_code, str(answer.url), len(answer.history)) == (200, "http://testserver/", 1)
        assert answer.json()["cookie"] == client.cookies["a"] == "b"
        assert client.get("/moved", follow_redirects=False).status_code in (302, 307)
        assert client.head("/").content == b""
        assert client.get("/nowhere").status_code == 404


@every
def test_an_exception_of_the_application_is_raised(make: Callable[[], Any]) -> None:
    app = make()
    with TestClient(app) as client:
        for _ in range(2):
            with pytest.raises(ZeroDivisionError, match=make.__name__):
                client.get("/boom")
            with pytest.raises(ZeroDivisionError, match=make.__name__):
                client.get("/half")
            assert client.get("/").status_code == 200
    with TestClient(app, raise_server_exceptions=False) as client:
        assert client.get("/boom").status_code == 500
        with pytest.raises(httpx.RemoteProtocolError):
            client.get("/half")


@pytest.mark.parametrize("interface", ["native", "asgi", "wsgi"])
def test_an_application_that_fails_the_test(interface: str) -> None:
    """What pytest raises for that is no Exception."""

    async def asgi(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "http"
        pytest.fail("from inside")

    def wsgi(environ: Any, start_response: Any) -> Any:
        pytest.fail("from inside")

    native = App()

    @native.get("/")
    async def index() -> str:
        pytest.fail("from inside")

    with TestClient({"native": native, "asgi": asgi, "wsgi": wsgi}[interface]) as client:
        for _ in range(2):
            with pytest.raises(pytest.fail.Exception, match="from inside"):
                client.get("/")


@with_websockets
def test_the_lifespan_is_that_of_the_with_block(make: Callable[[], Any]) -> None:
    app = make()
    client = TestClient(app)
    assert client.get("/").json()["lives"] is False
    for _ in range(2):
        with client:
            assert client.get("/").json()["lives"] is True
        assert app.state.lives is False
    assert client.get("/").json()["lives"] is False
    client.close()


def test_a_client_that_nobody_closes_is_let_go() -> None:
    client = TestClient(native())
    assert client.get("/").status_code == 200
    assert threads()
    del client
    gc.collect()
    assert not threads()


def test_the_response_of_asgi_comes_with_its_background_tasks() -> None:
    app = starlette()
    with TestClient(app) as client:
        assert client.get("/later").text == "soon" and app.state.done == ["background"]
        with pytest.raises(ZeroDivisionError, match="in the background"):
            client.get("/later?fails=1")


def test_a_client_behind_a_proxy_of_the_test_has_its_background_tasks() -> None:
    app = starlette()
    with TestClient(app) as client:
        for said in ({"x-forwarded-for": "192.0.2.7"}, {"x-forwarded-for": "192.0.2.7, 127.0.0.1"}):
            app.state.done.clear()
            assert client.get("/later", headers=said).text == "soon" and app.state.done == ["background"]
            with pytest.raises(ZeroDivisionError, match="in the background"):
                client.get("/later?fails=1", headers=said)


def test_how_calls_are_known_is_not_seen_by_the_application() -> None:
    seen: list[list[bytes]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append([name for name, _ in scope["headers"]])
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body"})
        else:
            await send({"type": "websocket.close"})

    client = TestClient(app)
    assert not [name for name in client.get("/").request.headers if name.startswith("fastserve")]
    with pytest.raises(WebSocketDenialResponse), client.websocket_connect("/"):
        pytest.fail("it was accepted")
    client.close()
    plain, websocket = seen
    assert sorted(plain) == [b"accept", b"accept-encoding", b"connection", b"host", b"user-agent"]
    assert not [name for name in websocket if name.startswith(b"fastserve")]


def test_templates_of_starlette_and_their_context(tmp_path: Path) -> None:
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.middleware.base import BaseHTTPMiddleware
    from starlette.responses import PlainTextResponse, Response
    from starlette.routing import Route
    from starlette.templating import Jinja2Templates

    (tmp_path / "hello.html").write_text("Hello, {{ name }}!")
    templates = Jinja2Templates(directory=str(tmp_path))

    async def hello(request: Any) -> Response:
        return templates.TemplateResponse(request, "hello.html", {"name": request.query_params["name"]})

    async def plain(request: Any) -> Response:
        return PlainTextResponse("plain")

    async def through(request: Any, call_next: Any) -> Any:
        return await call_next(request)

    routes = [Route("/", hello), Route("/plain", plain)]
    for app in (
        Starlette(routes=routes),
        Starlette(routes=routes, middleware=[Middleware(BaseHTTPMiddleware, dispatch=through)]),
    ):
        with TestClient(app) as client:
            for name in ("one", "two"):  # on one connection
                answer: Any = client.get("/", params={"name": name})
                assert answer.text == f"Hello, {name}!"
                assert answer.template.name == "hello.html" and answer.context["name"] == name
                info = answer.extensions["http.response.debug"]
                assert info["template"] is answer.template and info["context"] is answer.context
                plain_answer = client.get("/plain")
                assert not hasattr(plain_answer, "template")
                assert "http.response.debug" not in plain_answer.extensions
            with client.stream("GET", "/", params={"name": "three"}) as stream:
                assert stream.extensions["http.response.debug"]["context"]["name"] == "three"


def test_debug_is_said_once_before_the_head_and_only_where_it_is_heard() -> None:
    asked: list[str] = []
    debug = {"type": "http.response.debug", "info": {"answer": 42}}
    start = {"type": "http.response.start", "status": 200, "headers": []}
    body = {"type": "http.response.body", "body": b"."}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        asked.append(scope["path"] + (" heard" if "http.response.debug" in scope["extensions"] else ""))
        events: dict[str, list[Any]] = {
            "/": [debug, start, body],
            "/twice": [debug, debug, start, body],
            "/late": [start, debug, body],
            "/behind": [start, body, debug],
            "/nothing": [{"type": "http.response.debug"}, start, body],
            "/refused": [{**start, "status": "200"}, debug, start, body],
        }
        for message in events[scope["path"]]:
            try:
                await send(message)
            except fastserve.errors.LocalProtocolError:
                if scope["path"] != "/refused":
                    raise

    with TestClient(app) as client:
        assert client.get("/").extensions["http.response.debug"] == {"answer": 42}
        assert client.get("/refused").extensions["http.response.debug"] == {"answer": 42}
        for path, message in (
            ("/twice", "a second time"),
            ("/late", "after 'http.response.start'"),
            ("/behind", "after 'http.response.start'"),
            ("/nothing", "'info' of 'http.response.debug' is a dict, not NoneType"),
        ):
            with pytest.raises(fastserve.errors.LocalProtocolError, match=message):
                client.get(path)
            assert client.get("/").text == "."
    assert all(path.endswith(" heard") for path in asked)
    asked.clear()
    with live_server(app) as url:  # where nobody hears it, it is a message like any other unknown one
        assert httpx.get(url + "/").status_code == 500
    assert asked == ["/"]


def test_a_stream_is_read_while_it_is_written() -> None:
    go = threading.Event()
    left = threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "http"
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"one", "more_body": True})
        await asyncio.to_thread(go.wait, 20)
        await send({"type": "http.response.body", "body": b"two", "more_body": True})
        assert (await receive())["type"] == "http.request"
        assert (await receive())["type"] == "http.disconnect"
        left.set()

    with TestClient(app) as client, client.stream("GET", "/") as answer:
        pieces = answer.iter_raw()
        assert next(pieces) == b"one"
        go.set()
        assert next(pieces) == b"two"
        answer.close()
        assert left.wait(20)


# -------------------------------------------------------------------------------------------------------- WebSockets


@with_websockets
def test_websocket(make: Callable[[], Any]) -> None:
    with TestClient(make()) as client:
        with client.websocket_connect("/echo", subprotocols=["other", "chat"]) as websocket:
            assert websocket.accepted_subprotocol == "chat"
            assert websocket.extra_headers == [(b"x-own", b"1")]
            websocket.send_text("hé")
            assert websocket.receive_text() == "hé"
            for size in (0, 1, 125, 126, 65535, 65536, 300_000):
                websocket.send_bytes(b"x" * size)
                assert websocket.receive_bytes() == b"x" * size
            for mode in ("text", "binary"):
                websocket.send_json({"a": 1}, mode=mode)
                assert websocket.receive_json(mode=mode) == {"a": 1}
            websocket.send({"type": "websocket.receive", "text": "as an event"})
            assert websocket.receive() == {"type": "websocket.send", "text": "as an event"}
            websocket.send_text("text")
            with pytest.raises(TypeError, match="a text message came"):
                websocket.receive_bytes()
            assert client.get("/").status_code == 200  # beside it
        with client.websocket_connect("ws://testserver/echo") as websocket:
            assert websocket.accepted_subprotocol is None


@with_websockets
def test_the_end_of_a_websocket(make: Callable[[], Any]) -> None:
    with TestClient(make()) as client:
        with client.websocket_connect("/closes") as websocket:
            with pytest.raises(WebSocketDisconnect) as end:
                websocket.receive_text()
            assert (end.value.code, end.value.reason) == (4321, "done")
            assert websocket.receive() == {"type": "websocket.close", "code": 4321, "reason": "done"}
            with pytest.raises(WebSocketDisconnect):
                websocket.send_text("too late")
        with pytest.raises(ZeroDivisionError), client.websocket_connect("/boom") as websocket:
            websocket.receive_text()
        with pytest.raises(ZeroDivisionError), client.websocket_connect("/boom"):
            pass
        with pytest.raises(WebSocketDenialResponse) as denied, client.websocket_connect("/denied"):
            pytest.fail("it was accepted")
        assert (denied.value.status_code, denied.value.text) == (418, "no")
        with pytest.raises(WebSocketDenialResponse) as denied, client.websocket_connect("/nowhere"):
            pytest.fail("it was accepted")
        assert denied.value.status_code in (403, 404)
        with pytest.raises(RuntimeError, match="not open"):
            client.websocket_connect("/echo").send_text("never entered")


# ---------------------------------------------------------------------------------------------------------- mistakes


def test_what_is_wrong_is_said_when_the_client_is_made() -> None:
    for app, options, message in (
        (native(), {"prot": 1}, "did you mean 'port'"),
        ("nowhere:app", {}, "not found"),
        (5, {}, "not an application"),
    ):
        with pytest.raises(ConfigError, match=message):
            TestClient(app, **options)
    with pytest.raises(TypeError, match="decides about 'port' itself"):
        TestClient(native(), port=1)
    with TestClient(native(), base_url="https://testserver") as client, pytest.raises(httpx.UnsupportedProtocol):
        client.get("/")


def test_what_the_lifespan_raises_is_raised() -> None:
    def failing(where: str) -> App:
        @contextlib.asynccontextmanager
        async def lifespan(_app: App) -> AsyncIterator[None]:
            if where == "startup":
                raise LookupError(where)
            yield
            raise LookupError(where)

        return App(lifespan=lifespan)

    with pytest.raises(LookupError, match="startup"), TestClient(failing("startup")):
        pytest.fail("it started")
    with pytest.raises(LookupError, match="shutdown"), TestClient(failing("shutdown")):
        pass
    with pytest.raises(KeyError), TestClient(failing("shutdown")):
        raise KeyError("the test's own")


def test_options_reach_the_server() -> None:
    with TestClient("examples.hello:app", limit_request_body=10, header=("X-B: c",), loop="asyncio") as client:
        assert client.get("/").headers["x-b"] == "c"
    with TestClient(starlette(), root_path="/outer") as client:
        assert client.get("/").json()["lives"] is True


def test_https() -> None:
    data = Path(__file__).resolve().parent / "data"
    cert, key = str(data / "localhost.crt"), str(data / "localhost.key")
    app = App()

    @app.get("/")
    async def index(request: Request) -> dict[str, Any]:
        return {"scheme": request.scheme, "url": str(request.url), "client": request.peer_certificate}

    @app.websocket("/ws")
    async def ws(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.send(websocket.scheme)

    with TestClient(app, ssl_certfile=cert, ssl_keyfile=key) as client:
        assert client.get("/").json() == {"scheme": "https", "url": "https://testserver/", "client": None}
        with client.websocket_connect("/ws") as websocket:
            assert websocket.receive_text() == "wss"
        with pytest.raises(httpx.UnsupportedProtocol, match="speaks https"):
            client.get("http://testserver/")
    options = {"ssl_ca_certs": cert, "ssl_cert_reqs": "required", "ssl_certfile": cert, "ssl_keyfile": key}
    with TestClient(app, cert=(cert, key), **options) as client:
        assert client.get("/").json()["client"]["subject"]
    with TestClient(app, **options) as client, pytest.raises(httpx.TransportError):
        client.get("/")


def test_without_httpx_it_says_so() -> None:
    code = """
        import sys
        sys.modules["httpx"] = None
        from fastserve.testing import live_server
        try:
            from fastserve.testing import TestClient
        except ImportError as error:
            print(error)
        """
    result = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=60)
    assert result.stdout == "fastserve.testing.TestClient needs httpx: pip install httpx\n", result.stderr


# ------------------------------------------------------------------------------------------------------- the plugin


def test_the_plugin(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import sys
        import urllib.request

        def app(environ, start_response):
            start_response("200 OK", [("Content-Type", "text/plain")])
            return [environ["PATH_INFO"].encode()]

        def test_it_costs_nothing_until_it_is_used():
            assert "fastserve.pytest_plugin" in sys.modules
            assert not [name for name in sys.modules if name.startswith(("fastserve.process", "fastserve.protocol"))]

        def test_client(fastserve_client):
            client = fastserve_client(app, headers={"a": "b"})
            assert client.get("/x").text == "/x" == fastserve_client(app).get("/x").text

        def test_server(fastserve_server):
            for url in (fastserve_server(app), fastserve_server(app, threads=1)):
                with urllib.request.urlopen(url + "/y", timeout=20) as answer:
                    assert answer.read() == b"/y"

        def test_nothing_is_left():
            import threading
            assert not [thread for thread in threading.enumerate() if thread.name.startswith("fastserve")]
        """
    )
    # Installed, pytest finds it by its entry point; dash's own plugin cannot stand "-W error".
    found = importlib.metadata.entry_points(group="pytest11", name="fastserve")
    named = [] if found else ["-p", "fastserve.pytest_plugin"]
    result = pytester.runpytest_subprocess(*named, "-p", "no:dash", "-W", "error", timeout=120)
    result.assert_outcomes(passed=4)
