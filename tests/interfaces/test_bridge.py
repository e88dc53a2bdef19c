"""An App under uvicorn behaves as under our own server: one table of requests, asked of both. And an App in an App."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import uvicorn
from interfaces.clients import BINARY, CLOSE, TEXT, Peer, poll

from fastserve import (
    App,
    FileResponse,
    HTTPException,
    Json,
    Query,
    Request,
    Response,
    State,
    StreamingResponse,
    WebSocket,
    WebSocketDisconnect,
)
from fastserve.testing import live_server


def make_app(seen: SimpleNamespace) -> App:
    @contextlib.asynccontextmanager
    async def lifespan(app: App):
        yield {"word": "ready"}
        seen.shutdowns += 1

    app = App(lifespan=lifespan)

    @app.get("/")
    async def index() -> str:
        return "hello"

    @app.get("/users/{id:int}/{rest:path}")
    async def user(id: int, rest: str, verbose: Query[bool] = False) -> dict[str, Any]:
        return {"id": id, "rest": rest, "verbose": verbose}

    @app.get("/plain")
    def plain() -> str:
        return str(threading.current_thread() is threading.main_thread())

    @app.get("/waits")
    async def waits() -> str:
        await asyncio.sleep(0.001)
        task = asyncio.current_task()
        return str(task is not None and task in asyncio.all_tasks())

    @app.get("/state")
    async def state(word: State[str]) -> str:
        return word

    @app.get("/facts")
    async def facts(request: Request) -> dict[str, Any]:
        assert request.client is not None and request.client.host == "127.0.0.1"
        return {
            "method": request.method,
            "path": request.path,
            "raw_path": request.raw_path.decode(),
            "query": request.query_string.decode(),
            "scheme": request.scheme,
            "x": request.headers.getlist("x-thing"),
        }

    @app.post("/json")
    async def json(item: Json[dict[str, int]]) -> tuple[dict[str, int], int]:
        return item, 201

    @app.post("/echo")
    async def echo(request: Request) -> bytes:
        return await request.body()

    @app.post("/count")
    async def count(request: Request) -> dict[str, int]:
        return {"bytes": sum([len(piece) async for piece in request.stream()])}

    @app.post("/unread")
    async def unread() -> str:
        return "early"

    @app.get("/stream")
    async def stream():
        for n in range(10):
            await asyncio.sleep(0)
            yield str(n)

    @app.get("/large")
    async def large():
        for _ in range(100):
            yield b"x" * 50000

    @app.get("/nothing")
    async def nothing() -> None:
        return None

    @app.get("/teapot")
    async def teapot() -> None:
        raise HTTPException(418, "short and stout", {"x-pot": "tea"})

    @app.get("/error")
    async def error() -> None:
        raise ZeroDivisionError

    @app.get("/breaks")
    async def breaks():
        yield b"begun"
        await asyncio.sleep(0.01)
        raise ZeroDivisionError

    @app.get("/forever")
    async def forever() -> StreamingResponse:
        async def pieces():
            try:
                while True:
                    yield b"x" * 100
                    await asyncio.sleep(0.01)
            finally:
                seen.left += 1

        return StreamingResponse(pieces())

    @app.get("/hangs")
    async def hangs() -> str:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            seen.cancelled += 1
            raise
        return "never"

    return app


@contextlib.contextmanager
def under_uvicorn(app: Any, http: str, ws: Any = "none") -> Iterator[str]:
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, http=http, lifespan="on", log_level="critical", ws=ws))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve([listener])), daemon=True)
    thread.start()
    poll(lambda: server.started)
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    server.should_exit = True
    thread.join(10)
    assert not thread.is_alive()
    listener.close()


@contextlib.contextmanager
def under_ourselves(app: Any) -> Iterator[str]:
    with live_server(app, access_log=False) as url:
        yield url


SERVERS: dict[str, Callable[[Any], Any]] = {
    "fastserve": under_ourselves,
    "uvicorn, httptools": lambda app: under_uvicorn(app, "httptools"),
    "uvicorn, h11": lambda app: under_uvicorn(app, "h11"),
    "fastserve, as asgi": lambda app: live_server(app, interface="asgi3", access_log=False),
}


@pytest.fixture(scope="module", params=list(SERVERS))
def served(request: pytest.FixtureRequest) -> Iterator[SimpleNamespace]:
    seen = SimpleNamespace(shutdowns=0, left=0, cancelled=0)
    logging.getLogger("uvicorn").setLevel(logging.CRITICAL)
    with SERVERS[request.param](make_app(seen)) as url, httpx.Client(base_url=url, timeout=20) as client:
        yield SimpleNamespace(name=request.param, seen=seen, client=client, url=url)
    assert seen.shutdowns == 1


ASKED: dict[str, tuple[str, str, dict[str, Any], int, Any]] = {
    # name: method, path, more, status, body
    "index": ("GET", "/", {}, 200, b"hello"),
    "path and query": (
        "GET",
        "/users/7/a%20b/c%2Fd?verbose=yes",
        {},
        200,
        {"id": 7, "rest": "a b/c/d", "verbose": True},
    ),
    "404": ("GET", "/nowhere", {}, 404, b"Not Found"),
    "404 of a converter": ("GET", "/users/x/y", {}, 404, b"Not Found"),
    "405": ("DELETE", "/", {}, 405, b"Method Not Allowed"),
    "options": ("OPTIONS", "/", {}, 204, b""),
    "head": ("HEAD", "/", {}, 200, b""),
    "thread": ("GET", "/plain", {}, 200, b"False"),
    "wait": ("GET", "/waits", {}, 200, b"True"),
    "state": ("GET", "/state", {}, 200, b"ready"),
    "json": ("POST", "/json", {"json": {"a": 1}}, 201, {"a": 1}),
    "malformed json": ("POST", "/json", {"content": b"{"}, 400, None),
    "wrong json": ("POST", "/json", {"json": {"a": "b"}}, 422, None),
    "echo": ("POST", "/echo", {"content": b"abc" * 100000}, 200, b"abc" * 100000),
    "empty echo": ("POST", "/echo", {}, 200, b""),
    "count": ("POST", "/count", {"content": b"x" * 1000000}, 200, {"bytes": 1000000}),
    "unread": ("POST", "/unread", {"content": b"x" * 10}, 200, b"early"),
    "stream": ("GET", "/stream", {}, 200, b"0123456789"),
    "large": ("GET", "/large", {}, 200, b"x" * 5000000),
    "nothing": ("GET", "/nothing", {}, 204, b""),
    "HTTPException": ("GET", "/teapot", {}, 418, b"short and stout"),
    "error": ("GET", "/error", {}, 500, b"Internal Server Error"),
}


@pytest.mark.parametrize("name", ASKED)
def test_the_same_answers(served: SimpleNamespace, name: str) -> None:
    method, path, more, status, expected = ASKED[name]
    for _ in range(2):
        answer = served.client.request(method, path, **more)
        assert answer.status_code == status
        if isinstance(expected, bytes):
            assert answer.content == expected
        elif expected is not None:
            assert answer.json() == expected
    if name == "HTTPException":
        assert answer.headers["x-pot"] == "tea"
    if name == "405":
        assert answer.headers["allow"] == "GET, HEAD, OPTIONS"
    if name == "head":
        assert answer.headers["content-length"] == "5"


def test_the_same_request(served: SimpleNamespace) -> None:
    answer = served.client.get("/facts?a=%20b", headers=[("X-Thing", "1"), ("x-thing", "2")])
    assert answer.json() == {
        "method": "GET",
        "path": "/facts",
        "raw_path": "/facts",
        "query": "a=%20b",
        "scheme": "http",
        "x": ["1", "2"],
    }


def test_a_broken_stream_is_seen_to_be_broken(served: SimpleNamespace) -> None:
    with pytest.raises(httpx.RemoteProtocolError):
        served.client.get("/breaks")


def test_departures(served: SimpleNamespace) -> None:
    left, cancelled = served.seen.left, served.seen.cancelled
    with httpx.Client(base_url=served.url, timeout=20) as client, client.stream("GET", "/forever") as answer:
        next(answer.iter_raw())
    poll(lambda: served.seen.left == left + 1)
    with httpx.Client(base_url=served.url, timeout=0.2) as client, pytest.raises(httpx.ReadTimeout):
        client.get("/hangs")
    poll(lambda: served.seen.cancelled == cancelled + 1)


def test_100_continue(served: SimpleNamespace, raw) -> None:
    conn = raw(served.url).send(
        b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n"
    )
    assert conn.until(b"\r\n\r\n").startswith(b"HTTP/1.1 100 Continue")
    assert conn.send(b"ok").rest().endswith(b"\r\n\r\nok")


def test_a_startup_that_fails_is_told() -> None:
    async def drive() -> list[Any]:
        async def lifespan(app: App):
            raise LookupError("no database")
            yield

        sent: list[Any] = []

        async def receive() -> Any:
            return {"type": "lifespan.startup"}

        async def send(message: Any) -> None:
            sent.append(message)

        await App(lifespan=lifespan)({"type": "lifespan", "asgi": {"version": "3.0"}}, receive, send)
        return sent

    (message,) = asyncio.run(drive())
    assert message["type"] == "lifespan.startup.failed" and "LookupError: no database" in message["message"]


# ------------------------------------------------------------------------------------------------------ WebSockets


def talking(ends: list[Any]) -> App:
    app = App()

    @app.websocket("/{name}")
    async def echo(ws: WebSocket, name: str) -> None:
        await ws.accept("chat" if "chat" in ws.subprotocols else None, {"x-name": name})
        try:
            async for message in ws:
                await ws.send(message)
        finally:
            ends.append((ws.close_code, ws.close_reason))

    @app.websocket("/closes/here")
    async def closes(ws: WebSocket) -> None:
        await ws.accept()
        await ws.send(f"{ws.path} {ws.scheme} {ws.query_params['a']}")
        await ws.close(4321, "done")
        try:
            await ws.receive()
        except WebSocketDisconnect as end:
            ends.append((end.code, end.reason))

    @app.websocket("/fails/here")
    async def fails(ws: WebSocket) -> None:
        await ws.accept()
        raise ZeroDivisionError

    @app.websocket("/refuses/here")
    async def refuses(ws: WebSocket) -> None:
        raise HTTPException(418, "no")

    @app.websocket("/slow/here")
    async def slow(ws: WebSocket) -> None:
        await ws.accept()
        assert await ws.receive() == "wait"
        count = size = 0
        await asyncio.sleep(0.2)
        async for message in ws:
            count, size = count + 1, size + len(message)
            if message == b"":
                break
        await ws.send_json([count, size])

    @app.websocket("/pours/here", cancel_on_disconnect=True)
    async def pours(ws: WebSocket) -> None:
        await ws.accept()
        try:
            while True:
                await ws.send(b"x" * 50_000)
        finally:
            ends.append("poured")

    return app


WITH_SOCKETS = {
    "fastserve": under_ourselves,
    "fastserve, as asgi": SERVERS["fastserve, as asgi"],
    "uvicorn, websockets": lambda app: under_uvicorn(app, "httptools", "websockets-sansio"),
    "uvicorn, auto": lambda app: under_uvicorn(app, "h11", "auto"),
}


@pytest.mark.parametrize("server", WITH_SOCKETS)
def test_websockets(peer: Callable[..., Peer], server: str) -> None:
    """The same under every server."""
    ends: list[Any] = []
    with WITH_SOCKETS[server](talking(ends)) as url:
        one = peer(url, "/me", Sec_WebSocket_Protocol="other, chat")
        status, fields = one.handshake()
        assert status == 101 and fields["sec-websocket-protocol"] == "chat" and fields["x-name"] == "me"
        for data in (b"hi", "h\xe9".encode(), b"", b"x" * 125, b"x" * 126, b"x" * 65535, b"x" * 70_000):
            assert one.send(TEXT, data).next() == (TEXT, data)
            assert one.send(BINARY, data).next() == (BINARY, data)
        for n in range(100):  # more than wait in the queue
            one.send(TEXT, b"%d" % n)
        assert [one.next() for n in range(100)] == [(TEXT, b"%d" % n) for n in range(100)]
        one.send(CLOSE, b"\x0f\xa1bye")
        assert one.closing()[0] == 4001
        poll(lambda: ends == [(4001, "bye")])
        peer(url, "/me").open().close()
        poll(lambda: len(ends) == 2)
        assert ends.pop()[0] in (1005, 1006)  # uvicorn has 1005 for both

        two = peer(url, "/closes/here?a=b").open()
        assert two.next() == (TEXT, b"/closes/here ws b") and two.closing() == (4321, "done")
        poll(lambda: ends[1:] == [(4321, "done")])
        assert peer(url, "/fails/here").open().closing()[0] == 1011
        for path, wanted in (("/refuses/here", 418), ("/no/where", 404)):
            status, _ = peer(url, path).handshake()
            assert status == wanted

        three = peer(url, "/slow/here").open().send(TEXT, b"wait")
        for _ in range(200):
            three.send(BINARY, b"x" * 10_000)
        assert three.send(BINARY, b"").next() == (TEXT, b"[201,2000000]")

        four = peer(url, "/pours/here").open()
        time.sleep(0.2)
        assert ends[2:] == []  # it waits for us
        four.close()
        poll(lambda: ends[2:] == ["poured"])


def test_websockets_of_a_mounted_app(peer: Callable[..., Peer]) -> None:
    from starlette.applications import Starlette
    from starlette.routing import Mount

    ends: list[Any] = []
    with live_server(Starlette(routes=[Mount("/in", app=talking(ends))])) as url:
        one = peer(url, "/in/me").open()
        assert one.send(TEXT, b"hi").next() == (TEXT, b"hi")
        two = peer(url, "/in/closes/here?a=b").open()
        assert two.next()[1].endswith(b"/closes/here ws b")
        assert two.closing() == (4321, "done")
        assert peer(url, "/in/refuses/here").handshake()[0] == 418
        third = peer(url, "/in/me").open()
    assert third.closing()[0] == 1012
    poll(lambda: len(ends) == 3)
    assert sorted(end[0] for end in ends) == [1012, 1012, 4321]


def test_starlettes_test_client_and_mount() -> None:
    """An App below a Starlette application: routes are relative, state comes from above."""
    from starlette.applications import Starlette
    from starlette.routing import Mount

    app = make_app(SimpleNamespace(shutdowns=0))

    @contextlib.asynccontextmanager
    async def lifespan(outer: Any):
        yield {"word": "from above"}

    with live_server(Starlette(routes=[Mount("/sub", app)], lifespan=lifespan)) as url:
        assert httpx.get(url + "/sub/").text == "hello"
        assert httpx.get(url + "/sub/state").text == "from above"
        assert httpx.get(url + "/sub/users/1/a%2Fb").json()["rest"] == "a/b"
        assert httpx.get(url + "/sub/stream").text == "0123456789"


def test_a_scope_that_would_be_refused_here() -> None:
    async def drive(headers: Any) -> Any:
        sent: list[Any] = []

        async def receive() -> Any:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {"type": "http", "method": "GET", "path": "/", "headers": headers}
        await make_app(SimpleNamespace())(scope, receive, send)
        return sent[0]["status"]

    for headers, status in (
        ([], 200),
        ([(b"host", b"a"), (b"host", b"b")], 400),
        ([(b"x", b"a\r\nb: c")], 400),
        ([(b"bad name", b"x")], 400),
        ([(b"content-length", b"-1")], 400),
    ):
        assert asyncio.run(drive(headers)) == status


# -------------------------------------------------------------------------------------------------------------- mount


async def shows(scope: Any, receive: Any, send: Any) -> None:
    """An ASGI application that shows where it was called."""
    assert scope["type"] == "http"
    text = f"{scope['root_path']}|{scope['path']}|{scope['raw_path'].decode()}|{scope.get('state')}"
    data = b""
    while (message := await receive())["type"] == "http.request":
        data += message["body"]
        if not message["more_body"]:
            break
    if scope["path"].endswith("/exit"):
        raise SystemExit(3)
    if scope["path"].endswith("/boom"):
        raise ZeroDivisionError
    if scope["path"].endswith("/silent"):
        return
    headers = [(b"content-type", b"text/plain")]
    await send({"type": "http.response.start", "status": 203, "headers": headers})
    if scope["path"].endswith("/pieces"):
        for n in range(5):
            await asyncio.sleep(0)
            await send({"type": "http.response.body", "body": b"%d" % n, "more_body": True})
        await send({"type": "http.response.body"})
        return
    if scope["path"].endswith("/half"):
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        return
    await send({"type": "http.response.body", "body": text.encode() + data})


def mounting(chained: bool) -> App:
    async def lifespan(app: App):
        yield {"word": "ready"}

    app = App(lifespan=lifespan)
    if chained:

        @app.middleware
        async def around(request: Request, call_next: Any) -> Any:
            response = await call_next(request)
            response.headers["x-around"] = "yes"
            return response

    @app.get("/api/own")
    async def own() -> str:
        return "own"

    app.mount("/api", shows)
    app.mount("/api/deep/", shows)
    app.mount("/café", shows)
    inner = App()

    @inner.get("/x/{name}")
    async def inner_x(name: str) -> str:
        return name

    app.mount("/inner", inner)
    return app


@pytest.mark.parametrize("chained", [False, True], ids=["alone", "behind middleware"])
def test_mount(chained: bool) -> None:
    state = "{'word': 'ready'}"
    with live_server(mounting(chained)) as url, httpx.Client(base_url=url, timeout=20) as client:
        for path, status, text in (
            ("/api/own", 200, "own"),
            ("/api", 203, f"/api|/api|/api|{state}"),
            ("/api/x%20y", 203, f"/api|/api/x y|/api/x%20y|{state}"),
            ("/api/deep/z", 203, f"/api/deep|/api/deep/z|/api/deep/z|{state}"),
            ("/caf%C3%A9/x", 203, f"/café|/café/x|/caf%C3%A9/x|{state}"),
            ("/apix", 404, "Not Found"),
            ("/api%2Fx", 404, "Not Found"),
            ("/api/pieces", 203, "01234"),
            ("/inner/x/a%2Fb", 200, "a/b"),
            ("/inner/nowhere", 404, "Not Found"),
            ("/api/boom", 500, "Internal Server Error"),
            ("/api/silent", 500, "Internal Server Error"),
            ("/api/exit", 500, "Internal Server Error"),
        ):
            answer = client.get(path)
            assert (answer.status_code, answer.text) == (status, text), path
            if chained and status != 500:
                assert answer.headers["x-around"] == "yes"
        data = b"x" * 300000
        assert client.post("/api/post", content=data).content == f"/api|/api/post|/api/post|{state}".encode() + data
        assert client.head("/api/x").status_code == 203
        assert client.post("/api/own").status_code == 405
        with pytest.raises(httpx.RemoteProtocolError):
            client.get("/api/half")
        assert client.get("/api/own").status_code == 200


@pytest.mark.parametrize("chained", [False, True], ids=["alone", "behind middleware"])
def test_a_mounted_starlette(chained: bool) -> None:
    """Its routes are relative to the mount, as under Starlette; links it makes hold the whole path."""
    from starlette.applications import Starlette
    from starlette.requests import Request as StarletteRequest
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route

    async def page(request: StarletteRequest) -> PlainTextResponse:
        return PlainTextResponse(f"{request.path_params['n']} {request.url_for('page', n=2).path}")

    app = mounting(chained)
    app.mount("/star", Starlette(routes=[Route("/page/{n}", page, name="page")]))
    with live_server(app) as url:
        assert httpx.get(url + "/star/page/1").text == "1 /star/page/2"
        assert httpx.get(url + "/star/none").status_code == 404


@pytest.mark.parametrize("chained", [False, True], ids=["alone", "behind middleware"])
def test_a_mounted_stream_whose_client_leaves(chained: bool) -> None:
    ended: list[str] = []

    async def endless(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200})
        try:
            while True:
                await send({"type": "http.response.body", "body": b"x" * 1000, "more_body": True})
                await asyncio.sleep(0.005)
        except OSError:
            ended.append("told")
            raise

    app = mounting(chained)
    app.mount("/endless", endless)
    with live_server(app) as url:
        with httpx.Client(base_url=url) as client, client.stream("GET", "/endless") as answer:
            next(answer.iter_raw())
        poll(lambda: ended)


def test_mount_at_the_root_takes_the_rest() -> None:
    app = mounting(False)
    app.mount("", shows)
    with live_server(app, root_path="/outer") as url:
        assert httpx.get(url + "/api/own").text == "own"
        assert httpx.get(url + "/else").text == "/outer|/outer/else|/outer/else|{'word': 'ready'}"


@pytest.mark.parametrize(
    ("path", "app", "message"),
    [
        ("api", shows, "begins with '/'"),
        ("/{x}", shows, "plain text"),
        ("/api", shows, "registered twice"),
        ("/new", 5, "not callable"),
    ],
)
def test_mistakes_in_mounting(path: str, app: Any, message: str) -> None:
    from fastserve.errors import ConfigError

    with pytest.raises(ConfigError, match=message):
        mounting(False).mount(path, app)


def test_each_kind_of_application_has_its_mount() -> None:
    from fastserve.errors import ConfigError

    def wsgi(environ, start_response): ...

    for mount, app, hint in ((App.mount, wsgi, "given to mount_wsgi"), (App.mount_wsgi, shows, r"given to mount\(\)")):
        outer = App()
        mount(outer, "/w", app)
        with pytest.raises(ConfigError, match=hint), live_server(outer):
            raise RuntimeError("it started")
    with pytest.raises(ConfigError, match="registered twice"):
        outer.mount("/w", shows)


# --------------------------------------------------------------------------------------------------------- mount_wsgi


SHOWN = ("SCRIPT_NAME", "PATH_INFO", "QUERY_STRING", "REQUEST_METHOD", "RAW_URI", "wsgi.url_scheme", "HTTP_X_FIRST")
WSGI_TEXT = [("Content-Type", "text/plain; charset=utf-8")]
word: contextvars.ContextVar[str] = contextvars.ContextVar("word", default="none")


class WSGIShows:
    """A WSGI application that shows where it was called, or does what the end of the path says."""

    def __init__(self) -> None:
        self.closed = 0
        self.errors: list[type] = []

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        what = environ["PATH_INFO"].rpartition("/")[2]
        if what == "boom":
            raise ZeroDivisionError
        if what == "late":
            start_response("200 OK", WSGI_TEXT)
            return self.late()
        if what == "endless":
            start_response("200 OK", WSGI_TEXT)
            return self.endless()
        if what == "pieces":
            start_response("203 Fine", [*WSGI_TEXT, ("X-Two", "a"), ("X-Two", "b\xe9")])
            return (b"%d" % n for n in range(5))
        if what == "written":
            start_response("200 OK", WSGI_TEXT)(b"written ")
            return [b"returned"]
        if what == "file":
            start_response("200 OK", WSGI_TEXT)
            return environ["wsgi.file_wrapper"](open(__file__, "rb"))
        if what == "thread":
            start_response("200 OK", WSGI_TEXT)
            return [f"{threading.current_thread().name.startswith('fastserve-wsgi')} {word.get()}".encode()]
        data = environ["wsgi.input"].read()
        start_response("200 OK", WSGI_TEXT)
        shown = [str(environ.get(name)).encode("latin-1").decode() for name in SHOWN]
        return [("|".join(shown)).encode(), data]

    def late(self) -> Iterator[bytes]:
        yield b"half"
        raise ZeroDivisionError

    def endless(self) -> Iterator[bytes]:
        try:
            while True:
                yield b"x" * 1000
                time.sleep(0.002)
        finally:
            self.closed += 1


def mounting_wsgi(chained: bool, inner: Any) -> App:
    app = App()
    if chained:

        @app.middleware
        async def around(request: Request, call_next: Any) -> Any:
            word.set("set in middleware")
            if request.headers.get("x-read"):
                await request.body()
            response = await call_next(request)
            if request.headers.get("x-instead"):
                return Response(b"something else")
            response.headers["x-around"] = "yes"
            return response

    @app.get("/old/own")
    async def own() -> str:
        return "own"

    app.mount_wsgi("/old", inner)
    app.mount_wsgi("/caf\xe9/", inner)
    return app


@pytest.mark.parametrize("server", ["fastserve", "uvicorn, httptools"])
@pytest.mark.parametrize("chained", [False, True], ids=["alone", "behind middleware"])
def test_mount_wsgi(server: str, chained: bool) -> None:
    inner = WSGIShows()
    with SERVERS[server](mounting_wsgi(chained, inner)) as url, httpx.Client(base_url=url, timeout=20) as client:
        for path, status, text in (
            ("/old/own", 200, "own"),
            ("/old", 200, "/old|||GET|/old|http|1"),
            ("/old/", 200, "/old|/||GET|/old/|http|1"),
            ("/old/a%20b/c%2Fd?q=1", 200, "/old|/a b/c/d|q=1|GET|/old/a%20b/c%2Fd?q=1|http|1"),
            ("/caf%C3%A9/x%C3%A9", 200, "/caf\xe9|/x\xe9||GET|/caf%C3%A9/x%C3%A9|http|1"),
            ("/older", 404, "Not Found"),
            ("/old/pieces", 203, "01234"),
            ("/old/written", 200, "written returned"),
            ("/old/thread", 200, "True " + ("set in middleware" if chained else "none")),
            ("/old/boom", 500, "Internal Server Error"),
        ):
            answer = client.get(path, headers={"X-First": "1"})
            assert (answer.status_code, answer.text) == (status, text), path
            assert answer.headers.get("x-around") == ("yes" if chained else None), path
        assert client.get("/old/pieces").headers.get_list("x-two") == ["a", "b\xe9"]
        assert client.get("/old/file").content == Path(__file__).read_bytes()
        data = b"x" * 300000
        for headers in ({}, {"X-Read": "1"}):  # the second time middleware has taken the body before
            assert client.post("/old/p", content=data, headers=headers).content.endswith(b"|http|None" + data)
            assert client.post("/old/p", content=iter([b"ab", b"c"]), headers=headers).content.endswith(b"Noneabc")
        head = client.head("/old/x")
        assert (head.status_code, head.content) == (200, b"")
        with pytest.raises(httpx.RemoteProtocolError):
            client.get("/old/late")
        assert client.get("/old/own").text == "own"


@pytest.mark.parametrize("server", ["fastserve", "uvicorn, httptools"])
@pytest.mark.parametrize("chained", [False, True], ids=["alone", "behind middleware"])
def test_a_wsgi_stream_whose_client_leaves(server: str, chained: bool) -> None:
    inner = WSGIShows()
    with SERVERS[server](mounting_wsgi(chained, inner)) as url:
        with httpx.Client(base_url=url) as client, client.stream("GET", "/old/endless") as answer:
            next(answer.iter_raw())
        poll(lambda: inner.closed)


def test_middleware_that_drops_the_answer_of_a_mount_frees_its_thread() -> None:
    inner = WSGIShows()
    with live_server(mounting_wsgi(True, inner)) as url:
        for _ in range(3):
            assert httpx.get(url + "/old/endless", headers={"X-Instead": "1"}).text == "something else"
        poll(lambda: inner.closed == 3)


def test_a_mounted_flask_and_root_path() -> None:
    import flask

    site = flask.Flask("old")

    @site.get("/page/<int:n>")
    def page(n: int) -> str:
        return f"{n} {flask.url_for('page', n=2)}"

    app = mounting_wsgi(False, WSGIShows())
    app.mount_wsgi("/flask", site)
    with live_server(app, root_path="/outer") as url:
        assert httpx.get(url + "/flask/page/1").text == "1 /outer/flask/page/2"
        assert httpx.get(url + "/flask/none").status_code == 404


def test_files(tmp_path: Path) -> None:
    """Whole ones are handed to an outer server that offers path send; parts, and for others all of it, are read."""
    data = bytes(range(256)) * 4096
    path = tmp_path / "data.bin"
    path.write_bytes(data)
    app = App()
    app.static("/s", tmp_path)

    @app.get("/file")
    async def file() -> FileResponse:
        return FileResponse(path)

    kinds: list[str] = []

    def outer(extensions: dict[str, Any]) -> Any:
        async def call(scope: Any, receive: Any, send: Any) -> None:
            async def seen(message: Any) -> None:
                kinds.append(message["type"])
                await send(message)

            await app({**scope, "extensions": extensions}, receive, seen)

        return call

    for extensions in ({"http.response.pathsend": {}}, {}):
        with live_server(outer(extensions), lifespan="off") as url, httpx.Client(base_url=url) as client:
            for target in ("/file", "/s/data.bin"):
                kinds.clear()
                answer = client.get(target)
                assert (answer.status_code, answer.content) == (200, data)
                assert ("http.response.pathsend" in kinds) == (bool(extensions) and target == "/file")
                tag = answer.headers["etag"]
                assert client.get(target, headers={"if-none-match": tag}).status_code == 304
                assert client.get(target, headers={"range": "bytes=5-9"}).content == data[5:10]
                assert client.head(target).headers["content-length"] == str(len(data))
            assert client.get("/s/missing").status_code == 404
            with client.stream("GET", "/s/data.bin") as answer:  # one that leaves
                assert answer.status_code == 200
            assert client.get("/file").content == data
