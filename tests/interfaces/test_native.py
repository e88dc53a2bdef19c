"""The native wing over real sockets: routing, arguments, answers, streams, errors, middleware, threads, departures."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import hashlib
import logging
import random
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, Literal

import httpx
import msgspec
import pytest
from interfaces.clients import poll

from fastserve import (
    App,
    Header,
    HTTPException,
    Json,
    JSONResponse,
    PlainTextResponse,
    Query,
    RedirectResponse,
    Request,
    Response,
    Router,
    State,
    StreamingResponse,
)
from fastserve.errors import ClientDisconnected
from fastserve.testing import live_server

TEXT = "text/plain; charset=utf-8"
OCTETS = "application/octet-stream"


@contextlib.contextmanager
def serving(app: App, **options: Any) -> Iterator[httpx.Client]:
    with live_server(app, access_log=False, **options) as url, httpx.Client(base_url=url, timeout=5) as client:
        yield client


@contextlib.contextmanager
def quiet_errors(caplog) -> Iterator[list[str]]:
    """The messages that reached the error log."""
    with caplog.at_level(logging.ERROR, "fastserve.error"):
        before = len(caplog.records)
        messages: list[str] = []
        yield messages
        messages += [record.getMessage() for record in caplog.records[before:]]


# ---------------------------------------------------------------------------------------------------------- routing


def named(name: str):
    async def handler(request: Request) -> dict:
        return {"route": name, "params": {key: str(value) for key, value in request.path_params.items()}}

    return handler


ROUTES = [
    "/",
    "/users",
    "/users/",
    "/users/me",
    "/users/{id:int}",
    "/users/{name}",
    "/users/{id:int}/posts/{slug}",
    "/users/me/settings",
    "/files/{rest:path}",
    "/files/special",
    "/n/{n:float}",
    "/n/{k:uuid}",
    "/n/{n:int}",
    "/img/{name}.{ext}",
    "/img/{name}",
    "/v{major:int}/x",
    "/caf\xe9",
    "/a b",
    "/deep/{a}/{b}/{c}/end",
    "/deep/x/y/{c}/other",
]

FOUND = [
    ("/", "/", {}),
    ("/?q=/users", "/", {}),
    ("/users", "/users", {}),
    ("/users/", "/users/", {}),
    ("/users/me", "/users/me", {}),
    ("/users/%6de", "/users/me", {}),
    ("/users/5", "/users/{id:int}", {"id": "5"}),
    ("/users/007", "/users/{id:int}", {"id": "7"}),
    ("/users/5x", "/users/{name}", {"name": "5x"}),
    ("/users/-5", "/users/{name}", {"name": "-5"}),
    ("/users/a%20b", "/users/{name}", {"name": "a b"}),
    ("/users/caf%C3%A9", "/users/{name}", {"name": "caf\xe9"}),
    ("/users/%ff", "/users/{name}", {"name": "\ufffd"}),
    # RFC 3986 section 2.2: an escaped slash is data
    ("/users/a%2Fb", "/users/{name}", {"name": "a/b"}),
    ("/users%2Fme", None, None),
    ("/users/5/posts/x", "/users/{id:int}/posts/{slug}", {"id": "5", "slug": "x"}),
    ("/users/me/settings", "/users/me/settings", {}),
    ("/users/me/posts/x", None, None),
    ("/users/5/", None, None),
    ("/users//", None, None),
    ("//users", None, None),
    ("/Users", None, None),
    ("/files/", "/files/{rest:path}", {"rest": ""}),
    ("/files/a", "/files/{rest:path}", {"rest": "a"}),
    ("/files/a/b//c/", "/files/{rest:path}", {"rest": "a/b//c/"}),
    ("/files/a%2Fb%20c", "/files/{rest:path}", {"rest": "a/b c"}),
    ("/files/special", "/files/special", {}),
    ("/files", None, None),
    ("/n/1", "/n/{n:int}", {"n": "1"}),
    ("/n/1.5", "/n/{n:float}", {"n": "1.5"}),
    ("/n/12345678123456781234567812345678", "/n/{k:uuid}", {"k": "12345678-1234-5678-1234-567812345678"}),
    ("/n/x", None, None),
    ("/img/a.b.png", "/img/{name}.{ext}", {"name": "a.b", "ext": "png"}),
    ("/img/png", "/img/{name}", {"name": "png"}),
    ("/v2/x", "/v{major:int}/x", {"major": "2"}),
    ("/vx/x", None, None),
    ("/caf%C3%A9", "/caf\xe9", {}),
    ("/caf%c3%a9", "/caf\xe9", {}),
    ("/a%20b", "/a b", {}),
    ("/deep/x/y/z/end", "/deep/{a}/{b}/{c}/end", {"a": "x", "b": "y", "c": "z"}),
    ("/deep/x/y/z/other", "/deep/x/y/{c}/other", {"c": "z"}),
    ("/nope", None, None),
]


@pytest.fixture(scope="module")
def routed() -> Iterator[httpx.Client]:
    app = App()
    for path in ROUTES:
        app.add_route(path, named(path))
    with serving(app) as client:
        yield client


@pytest.mark.parametrize(("target", "route", "params"), FOUND)
def test_routing(routed, raw, target, route, params):
    peer = raw(str(routed.base_url))
    peer.send(f"GET {target} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
    status, fields, body = peer.response()
    if route is None:
        assert (status, body, fields["content-type"]) == (404, b"Not Found", TEXT)
    else:
        assert status == 200 and msgspec.json.decode(body) == {"route": route, "params": params}


def test_absolute_form_without_a_path_is_the_root(routed, raw):
    peer = raw(str(routed.base_url)).send(b"GET http://x.example HTTP/1.1\r\nHost: a\r\n\r\n")
    assert msgspec.json.decode(peer.response()[2])["route"] == "/"


@pytest.fixture(scope="module")
def methods() -> Iterator[str]:
    app = App()

    @app.get("/get")
    async def get():
        return "body"

    @app.post("/both")
    async def post():
        return "posted"

    @app.put("/both")
    async def put():
        return "put"

    @app.get("/own")
    async def own():
        return "get"

    @app.head("/own")
    async def own_head():
        return Response(headers={"x-own": "head", "content-length": "123"})

    @app.options("/own")
    async def own_options():
        return "options"

    @app.route("/custom", methods=("PURGE",))
    async def purge():
        return "purged"

    @app.delete("/mixed/{id}")
    async def mixed(id: str):
        return id

    @app.get("/mixed/x")
    async def mixed_get():
        return "x"

    @app.get("/empty")
    async def empty():
        return Response()

    with live_server(app, access_log=False) as url:
        yield url


METHODS = [
    # method, target, status, body, allow
    ("GET", "/get", 200, b"body", None),
    ("HEAD", "/get", 200, b"", None),
    ("POST", "/get", 405, b"Method Not Allowed", "GET, HEAD, OPTIONS"),
    ("OPTIONS", "/get", 204, b"", "GET, HEAD, OPTIONS"),
    ("TRACE", "/get", 405, b"Method Not Allowed", "GET, HEAD, OPTIONS"),
    ("GET", "/both", 405, b"Method Not Allowed", "OPTIONS, POST, PUT"),
    ("HEAD", "/both", 405, b"", "OPTIONS, POST, PUT"),
    ("PUT", "/both", 200, b"put", None),
    ("POST", "/both", 200, b"posted", None),
    ("get", "/get", 405, b"Method Not Allowed", "GET, HEAD, OPTIONS"),
    ("OPTIONS", "/own", 200, b"options", None),
    ("PURGE", "/custom", 200, b"purged", None),
    ("PURG", "/custom", 405, b"Method Not Allowed", "OPTIONS, PURGE"),
    ("DELETE", "/mixed/x", 200, b"x", None),
    ("DELETE", "/mixed/y", 200, b"y", None),
    ("GET", "/mixed/x", 200, b"x", None),
    ("GET", "/mixed/y", 405, b"Method Not Allowed", "DELETE, OPTIONS"),
    ("PUT", "/mixed/x", 405, b"Method Not Allowed", "DELETE, GET, HEAD, OPTIONS"),
    ("OPTIONS", "/mixed/x", 204, b"", "DELETE, GET, HEAD, OPTIONS"),
    ("OPTIONS", "*", 204, b"", "DELETE, GET, HEAD, OPTIONS, POST, PURGE, PUT"),
    ("OPTIONS", "/nope", 404, b"Not Found", None),
    ("PURGE", "/nope", 404, b"Not Found", None),
    ("CONNECT", "b.example:443", 501, b"Not Implemented", None),
]


@pytest.mark.parametrize(("method", "target", "status", "body", "allow"), METHODS)
def test_methods(methods, raw, method, target, status, body, allow):
    peer = raw(methods).send(f"{method} {target} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
    seen, fields, content = peer.response(head_only=method == "HEAD")
    assert (seen, content, fields.get("allow")) == (status, body, allow)
    if status == 204:
        assert "content-length" not in fields and "content-type" not in fields  # RFC 9110 section 8.6


def test_head_has_the_fields_of_get_and_no_body(methods, raw):
    peer = raw(methods)
    for target in ("/get", "/empty"):
        peer.send(f"GET {target} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        _, get, _ = peer.response()
        peer.send(f"HEAD {target} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        _, head, _ = peer.response(head_only=True)
        assert {**get, "date": ""} == {**head, "date": ""}


def test_a_handler_of_head_may_declare_the_length_of_get(methods, raw):
    peer = raw(methods).send(b"HEAD /own HTTP/1.1\r\nHost: a\r\n\r\nGET /own HTTP/1.1\r\nHost: a\r\n\r\n")
    status, fields, _ = peer.response(head_only=True)
    assert status == 200 and fields["content-length"] == "123" and fields["x-own"] == "head"
    assert peer.response()[2] == b"get"


def test_routes_that_come_while_it_serves():
    app, router = App(), Router()
    app.include_router(router, prefix="/r")
    with serving(app) as client:
        assert client.get("/r/x").status_code == 404
        router.get("/x")(named("late"))
        assert client.get("/r/x").json()["route"] == "late"
        app.get("/y")(named("later"))
        assert client.get("/y").json()["route"] == "later"


def test_routers_serve_with_their_prefix_parameters():
    users = Router("/users/{user_id}")

    @users.get("/posts/{post_id:int}")
    async def post(user_id: int, post_id: int, request: Request):
        return [user_id, post_id, request.path_params]

    app = App()
    app.include_router(users, prefix="/{tenant}")
    with serving(app) as client:
        assert client.get("/t/users/5/posts/6").json() == [5, 6, {"tenant": "t", "user_id": "5", "post_id": 6}]


# -------------------------------------------------------------------------------------------------------- arguments


class Item(msgspec.Struct):
    name: str
    price: float = 0.0


class Pool: ...


@pytest.fixture(scope="module")
def arguments() -> Iterator[httpx.Client]:
    app = App(state={"pool": "from app", "both": "app"})

    @app.get("/path/{id}")
    async def path(id: int):
        return [id]

    @app.get("/typed/{a:int}/{b:uuid}")
    async def typed(b: uuid.UUID, a: int):
        return [a, str(b), type(b).__name__]

    @app.get("/choice/{kind}")
    async def choice(kind: Literal["a", "b"]):
        return [kind]

    @app.get("/query")
    async def query(q: Query[int], text: Query[str] = "none", flag: Query[bool] = False, tags: Query[list[int]] = []):  # noqa: B006
        return [q, text, flag, tags]

    @app.get("/many")
    async def many(tag: Query[list[str]]):
        return tag

    @app.get("/header")
    async def header(
        user_agent: Header[str],
        x_count: Header[int] = 7,
        accept: Header[list[str]] = [],  # noqa: B006
        *,
        x_kw: Header[str] = "",
    ):
        return [user_agent, x_count, accept, x_kw]

    @app.get("/state")
    async def state(pool: State[Pool], both: State[str], absent: State[str] = "default"):
        return [pool, both, absent]

    @app.get("/nostate")
    async def nostate(nothing: State[str]):
        return nothing

    @app.post("/bytes")
    async def whole(body: bytes, request: Request):
        return [len(body), (await request.body()) is body]

    @app.post("/json")
    async def json(item: Json[Item]):
        return [item.name, item.price]

    @app.post("/any")
    async def anything(body: Json[Any]):
        return {"got": body}

    @app.post("/sync")
    def sync(body: bytes, q: Query[int] = 0):
        return [len(body), q]

    @app.post("/inline", blocking=False)
    def inline(body: bytes):
        return len(body), 200

    with serving(app) as client:
        yield client


ARGUMENTS = [
    ("/path/5", 200, [5]),
    ("/path/-5", 200, [-5]),
    ("/path/x", 404, "Not Found"),
    ("/path/5.0", 404, "Not Found"),
    ("/path/1_0", 404, "Not Found"),
    ("/path/" + "9" * 5000, 404, "Not Found"),
    ("/typed/5/12345678123456781234567812345678", 200, [5, "12345678-1234-5678-1234-567812345678", "UUID"]),
    ("/typed/x/12345678123456781234567812345678", 404, "Not Found"),
    ("/choice/a", 200, ["a"]),
    ("/choice/c", 404, "Not Found"),
    ("/query?q=5", 200, [5, "none", False, []]),
    ("/query?q=5&text=a+b&flag=on&tags=1&tags=2", 200, [5, "a b", True, [1, 2]]),
    ("/query?q=4&q=5", 200, [5, "none", False, []]),
    ("/query", 400, "Missing query parameter 'q'"),
    ("/query?q=", 400, "Malformed query parameter 'q'"),
    ("/query?q=x", 400, "Malformed query parameter 'q'"),
    ("/query?q=1&tags=1&tags=x", 400, "Malformed query parameter 'tags'"),
    ("/query?q=1&flag=maybe", 400, "Malformed query parameter 'flag'"),
    ("/many?tag=a&tag=b", 200, ["a", "b"]),
    ("/many", 200, []),
    ("/state", 200, ["from app", "app", "default"]),
]


@pytest.mark.parametrize(("target", "status", "answer"), ARGUMENTS)
def test_arguments(arguments, target, status, answer):
    response = arguments.get(target)
    assert response.status_code == status
    assert (response.json() if status == 200 else response.text) == answer
    assert response.headers["content-type"] == ("application/json" if status == 200 else TEXT)


def test_header_arguments(arguments):
    def get(*headers):
        request = httpx.Request("GET", arguments.base_url.join("/header"), headers=[("host", "a"), *headers])
        return arguments.send(request)

    assert get(("user-agent", "me")).json() == ["me", 7, [], ""]
    assert get(("User-Agent", "me"), ("X-Count", "3"), ("accept", "a"), ("accept", "b"), ("x-kw", "k")).json() == [
        "me",
        3,
        ["a", "b"],
        "k",
    ]
    assert (get().status_code, get().text) == (400, "Missing header 'user-agent'")
    bad = get(("user-agent", "me"), ("x-count", "x"))
    assert (bad.status_code, bad.text) == (400, "Malformed header 'x-count'")


def test_state_that_is_not_there_is_our_fault(arguments, caplog):
    with quiet_errors(caplog) as messages:
        assert arguments.get("/nostate").status_code == 500
    assert "nostate" in messages[0]
    assert "neither request.state nor app.state has it" in caplog.text


@pytest.mark.parametrize("size", [0, 1, 100, 70_000, 1_000_000])
@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("path", ["/bytes", "/sync", "/inline"])
def test_whole_bodies(arguments, size, chunked, path):
    body = b"x" * size
    content = iter([body[i : i + 9000] for i in range(0, size, 9000)]) if chunked else body
    response = arguments.post(path, content=content)
    if path == "/inline":
        assert response.status_code == 500  # int is no answer: see below
    else:
        assert response.json() == [size, True if path == "/bytes" else 0]


LONG = (131_072, 262_143, 262_145, 400_000, 524_288, 528_385, 1_000_003)
CUTS = (1, 4095, 4097, 65_536, 131_072, 300_000)


@pytest.fixture(scope="module")
def long_bodies() -> Iterator[str]:
    # What is received in its place, piece by piece, late, and by one who gives up in the middle.
    app = App()

    @app.post("/argument")
    async def argument(body: bytes):
        return hashlib.sha256(body).hexdigest()

    @app.post("/request")
    async def request(request: Request):
        return hashlib.sha256(await request.body()).hexdigest()

    @app.post("/late")
    async def late(request: Request):
        await asyncio.sleep(0.03)
        return hashlib.sha256(await request.body()).hexdigest()

    @app.post("/given-up")
    async def given_up(request: Request):
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.004):
                    await request.body()
                    break
        again = b"".join([piece async for piece in request.stream()])
        assert again == await request.body()
        return hashlib.sha256(again).hexdigest()

    @app.post("/rest")
    async def rest(request: Request):
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.01):
                await request.body()
        return hashlib.sha256(b"".join([piece async for piece in request.stream()])).hexdigest()

    with live_server(app, access_log=False) as url:
        yield url


@pytest.mark.parametrize("path", ["/argument", "/request", "/late", "/given-up", "/rest"])
@pytest.mark.parametrize("size", LONG)
def test_a_long_body_comes_whole_however_it_is_cut(long_bodies, raw, path, size):
    body = random.Random(size).randbytes(size)
    for cut in CUTS:
        peer = raw(long_bodies)
        peer.send(f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {size}\r\n\r\n".encode())
        at = 0
        for number in range(40):
            piece = body[at : at + cut]
            peer.send(piece)
            at += len(piece)
            if number % 8 == 3:
                time.sleep(0.003)
        peer.send(body[at:] + b"GET /none HTTP/1.1\r\nHost: a\r\n\r\n")
        assert peer.response()[2].decode() == hashlib.sha256(body).hexdigest(), cut
        assert peer.response()[0] == 404, cut  # and not a byte of what follows was taken for it
        peer.close()


def test_a_body_that_comes_byte_by_byte(arguments, raw):
    peer = raw(str(arguments.base_url))
    for byte in b"POST /sync?q=3 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello":
        peer.send(bytes([byte]))
        time.sleep(0.0005)
    assert peer.response()[2] == b"[5,3]"


JSON = [
    (b'{"name": "x"}', 200, ["x", 0.0]),
    (b'{"name": "x", "price": 1, "more": 2}', 200, ["x", 1.0]),
    (b'{"name": 5}', 422, "Expected `str`, got `int` - at `$.name`"),
    (b"{}", 422, "Object missing required field `name`"),
    (b"[]", 422, "Expected `object`, got `array`"),
    (b"{", 400, "Malformed JSON: Input data was truncated"),
    (b"", 400, "Malformed JSON: Input data was truncated"),
    (b'{"name": "\xff"}', 400, None),
]


@pytest.mark.parametrize("cut", [0, 1, 4])
def test_a_body_argument_and_the_request_agree(memory, cut):
    # however the body comes: with the head (cut 0) or later
    app = App()

    @app.post("/")
    async def handler(body: bytes, request: Request):
        assert await request.body() is body
        return b"".join([piece async for piece in request.stream()])

    message = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"
    peer = memory(app)
    middle = len(message) - cut
    sent = peer.feed(message[:middle]) + peer.turn() + (peer.feed(message[middle:]) if cut else b"") + peer.turn()
    assert sent.startswith(b"HTTP/1.1 200 ") and sent.endswith(b"\r\n\r\nhello")


@pytest.mark.parametrize(("body", "status", "answer"), JSON)
def test_json_arguments(arguments, body, status, answer):
    response = arguments.post("/json", content=body)
    assert response.status_code == status
    if status == 200:
        assert response.json() == answer
    elif answer is not None:
        assert response.text == answer


def test_json_of_any_shape(arguments):
    assert arguments.post("/any", content=b'[1, {"a": null}]').json() == {"got": [1, {"a": None}]}
    assert arguments.post("/any", content=b"[" * 100_000).status_code == 400


def test_a_body_argument_asks_for_the_body(arguments, raw):
    # RFC 9110 section 10.1.1
    peer = raw(str(arguments.base_url))
    peer.send(b"POST /bytes HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n")
    assert peer.until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert peer.send(b"abc").response()[2] == b"[3,true]"


def test_a_body_of_which_nothing_came_is_not_an_empty_one(raw):
    app = App()
    told: list[object] = []

    @app.post("/")
    async def handler(request: Request):
        try:
            await request.body()
        except BaseException as first:
            try:
                told.append([piece async for piece in request.stream()])
            except Exception as second:
                told.append(type(second))
            raise first

    with live_server(app, access_log=False) as url:
        peer = raw(url).send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n")
        time.sleep(0.05)
        peer.socket.shutdown(socket.SHUT_WR)
        poll(lambda: told)
    assert told == [ClientDisconnected]


def test_a_client_that_leaves_before_its_body_is_whole(arguments, raw, caplog):
    with quiet_errors(caplog) as messages:
        peer = raw(str(arguments.base_url))
        peer.send(b"POST /sync HTTP/1.1\r\nHost: a\r\nContent-Length: 30\r\n\r\nabc")
        time.sleep(0.05)
        peer.close()
        time.sleep(0.05)
        assert arguments.post("/sync", content=b"ab").json() == [2, 0]
    assert messages == []


# ------------------------------------------------------------------------------------------------------ the answers


class Text(str): ...


class Shape(dict): ...


def plain_generator():
    yield "a"
    yield b"b"


async def async_generator():
    yield b"a"
    yield "b"


async def wrapped_coroutine():
    return "from a coroutine"


ANSWERS: list[tuple[str, Any, int, bytes, str | None]] = [
    ("bytes", lambda: b"\xff", 200, b"\xff", OCTETS),
    ("empty bytes", lambda: b"", 200, b"", OCTETS),
    ("str", lambda: "h\xe9", 200, b"h\xc3\xa9", TEXT),
    ("dict", lambda: {"a": 1}, 200, b'{"a":1}', "application/json"),
    ("list", lambda: [1, "\xe9"], 200, b'[1,"\xc3\xa9"]', "application/json"),
    ("None", lambda: None, 204, b"", None),
    ("str subclass", lambda: Text("a"), 200, b"a", TEXT),
    ("dict subclass", lambda: Shape(a=1), 200, b'{"a":1}', "application/json"),
    ("Response", lambda: Response(b"a", 202, {"x-a": "b"}), 202, b"a", None),
    ("JSONResponse", lambda: JSONResponse({"a": 1}, 201), 201, b'{"a":1}', "application/json"),
    ("RedirectResponse", lambda: RedirectResponse("/x"), 307, b"", None),
    ("str, status", lambda: ("a", 201), 201, b"a", TEXT),
    ("bytes, status", lambda: (b"a", 201), 201, b"a", OCTETS),
    ("dict, status", lambda: ({}, 422), 422, b"{}", "application/json"),
    ("None, status", lambda: (None, 200), 200, b"", None),
    ("None, 202", lambda: (None, 202), 202, b"", None),
    ("str, status, headers", lambda: ("a", 201, {"x-a": "b"}), 201, b"a", TEXT),
    ("content type of its own", lambda: ("<p>", 200, {"content-type": "text/html"}), 200, b"<p>", "text/html"),
    ("pairs of headers", lambda: ("a", 200, [("x-a", "b")]), 200, b"a", TEXT),
    ("dict subclass, status", lambda: (Shape(), 201), 201, b"{}", "application/json"),
    ("generator", plain_generator, 200, b"ab", OCTETS),
    ("async generator", async_generator, 200, b"ab", OCTETS),
    ("generator, status", lambda: (plain_generator(), 203), 203, b"ab", OCTETS),
    ("async generator, status, headers", lambda: (async_generator(), 203, {"x-a": "b"}), 203, b"ab", OCTETS),
    (
        "stream",
        lambda: StreamingResponse(iter(["a", "b"]), media_type="text/csv"),
        200,
        b"ab",
        "text/csv; charset=utf-8",
    ),
    ("async stream", lambda: StreamingResponse(async_generator(), 206), 206, b"ab", None),
    ("stream of a list", lambda: StreamingResponse([b"a", b"", b"b"]), 200, b"ab", None),
    ("stream of nothing", lambda: StreamingResponse([]), 200, b"", None),
    (
        "a stream whose length is known",
        lambda: StreamingResponse(plain_generator(), headers={"content-length": "2"}),
        200,
        b"ab",
        None,
    ),
    ("a coroutine", wrapped_coroutine, 200, b"from a coroutine", TEXT),
]

NO_ANSWERS: list[tuple[str, Any, str]] = [
    ("int", lambda: 5, "returned int, which is no answer"),
    ("bool", lambda: True, "returned bool, which is no answer"),
    ("set", lambda: {1}, "returned set, which is no answer"),
    ("object", lambda: SimpleNamespace(), "returned SimpleNamespace, which is no answer"),
    ("bytearray", lambda: bytearray(b"a"), "returned bytearray, which is no answer"),
    ("tuple of one", lambda: ("a",), "returned tuple, which is no answer"),
    ("tuple of four", lambda: ("a", 200, {}, 1), "returned tuple, which is no answer"),
    ("status that is text", lambda: ("a", "200"), "returned tuple, which is no answer"),
    ("status that is True", lambda: ("a", True), "returned tuple, which is no answer"),
    ("Response with status", lambda: (Response(), 200), "returned tuple, which is no answer"),
    ("nested", lambda: (("a", 200), 200), "returned tuple, which is no answer"),
    ("a value within", lambda: (5, 200), "returned int, which is no answer"),
    ("no JSON", lambda: {"a": SimpleNamespace()}, "exception in"),
    ("no UTF-8", lambda: "\ud800", "exception in"),
    ("status 99", lambda: ("a", 99), "exception in"),
    ("status 1000", lambda: ("a", 1000), "exception in"),
    ("status 101", lambda: Response(status_code=101), "exception in"),
    ("status 103", lambda: ("a", 103), "exception in"),
    ("negative status", lambda: ("a", -1), "exception in"),
    ("header with CR LF", lambda: ("a", 200, {"x": "a\r\nb"}), "exception in"),
    ("wrong length", lambda: Response(b"abc", headers={"content-length": "2"}), "exception in"),
]


def answers_app(with_middleware: bool) -> App:
    app = App()
    if with_middleware:

        @app.middleware
        async def nothing(request, call_next):
            response = await call_next(request)
            assert isinstance(response, Response)
            return response

    for index, (_, make, *_) in enumerate([*ANSWERS, *NO_ANSWERS]):

        async def handler(make=make):
            return make()

        async def asynchronous(make: State[Any] = make):  # the default is taken: there is no such state
            return make()

        def inline(make: State[Any] = make):
            return make()

        app.add_route(f"/async/{index}", asynchronous)
        app.add_route(f"/inline/{index}", inline, blocking=False)
        app.add_route(f"/thread/{index}", inline)
    return app


@pytest.fixture(scope="module", params=[False, True], ids=["bare", "middleware"])
def answers(request) -> Iterator[httpx.Client]:
    with serving(answers_app(request.param)) as client:
        yield client


@pytest.mark.parametrize("kind", ["async", "inline", "thread"])
@pytest.mark.parametrize(
    ("index", "status", "body", "content_type"),
    [(i, *answer[2:]) for i, answer in enumerate(ANSWERS)],
    ids=[answer[0] for answer in ANSWERS],
)
def test_answers(answers, kind, index, status, body, content_type):
    response = answers.get(f"/{kind}/{index}")
    assert (response.status_code, response.content) == (status, body)
    assert response.headers.get("content-type") == content_type
    head = answers.head(f"/{kind}/{index}")
    assert (head.status_code, head.content) == (status, b"")
    assert {**head.headers, "date": ""} == {**response.headers, "date": ""}


@pytest.mark.parametrize("kind", ["async", "inline", "thread"])
@pytest.mark.parametrize(
    ("index", "message"),
    [(len(ANSWERS) + i, answer[2]) for i, answer in enumerate(NO_ANSWERS)],
    ids=[answer[0] for answer in NO_ANSWERS],
)
def test_what_is_no_answer(answers, caplog, kind, index, message):
    with quiet_errors(caplog) as messages:
        response = answers.get(f"/{kind}/{index}")
    assert (response.status_code, response.text) == (500, "Internal Server Error")
    assert len(messages) == 1 and messages[0].startswith(f"GET /{kind}/{index}: ") and message in messages[0]
    if "no answer" in message:
        assert "answers_app" in messages[0] and "test_native.py:" in messages[0]  # whose handler, and where


def test_headers_of_a_tuple_and_of_a_response_are_sent():
    app = App()

    @app.get("/tuple")
    async def a_tuple():
        return "a", 200, [("x-a", "1"), ("x-a", "2")]

    @app.get("/response")
    async def a_response():
        response = PlainTextResponse("a", headers={"X-A": "1"})
        response.headers.append("x-a", "2")
        response.set_cookie("c", "d")
        response.set_cookie("e", "f")
        return response

    with serving(app) as client:
        assert client.get("/tuple").headers.get_list("x-a") == ["1", "2"]
        headers = client.get("/response").headers
        assert headers.get_list("x-a") == ["1", "2"]
        assert headers.get_list("set-cookie") == ["c=d; Path=/; SameSite=lax", "e=f; Path=/; SameSite=lax"]


# -------------------------------------------------------------------------------------------------------- streaming


def test_a_chunk_leaves_before_the_next_is_made(raw):
    app = App()

    @app.get("/async")
    async def asynchronous():
        yield b"first"
        await asyncio.sleep(0.5)
        yield b"second"

    @app.get("/plain")
    def plain():
        yield b"first"
        time.sleep(0.5)
        yield b"second"

    with live_server(app, access_log=False) as url:
        for path in ("/async", "/plain"):
            began = time.monotonic()
            peer = raw(url).send(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
            peer.until(b"5\r\nfirst\r\n")
            assert time.monotonic() - began < 0.2
            assert peer.until(b"0\r\n\r\n") == b"6\r\nsecond\r\n0\r\n\r\n"
            assert time.monotonic() - began > 0.45


def test_the_head_does_not_wait_for_a_slow_first_piece(raw):
    app = App()
    gate = threading.Event()

    @app.get("/")
    async def events():
        await asyncio.to_thread(gate.wait)
        yield b"data"

    with live_server(app, access_log=False) as url:
        peer = raw(url).send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert peer.until(b"\r\n\r\n").startswith(b"HTTP/1.1 200 OK\r\n")
        gate.set()
        assert peer.until(b"0\r\n\r\n") == b"4\r\ndata\r\n0\r\n\r\n"


def test_a_stream_that_waits_under_a_head_that_cannot_be_sent_is_closed(raw, caplog):
    app = App()
    closed = []

    async def pieces():
        try:
            await asyncio.sleep(30)
            yield b"never"
        finally:
            closed.append(True)

    @app.get("/")
    async def broken():
        return StreamingResponse(pieces(), headers={"content-length": "many"})

    with live_server(app, access_log=False) as url:
        answer = raw(url).send(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").rest()
        assert answer.startswith(b"HTTP/1.1 500 ")
        assert b"many" not in answer
        assert closed == [True]
    assert "already running" not in caplog.text


class Countdown:
    """An iterator of one's own, whose steps are what the test wants to await: a coroutine, a future, an object."""

    def __init__(self, kind):
        self.kind, self.left, self.closed = kind, 3, 0

    def __aiter__(self):
        return self

    def __anext__(self):
        if self.kind == "future":
            future = asyncio.get_running_loop().create_future()
            asyncio.get_running_loop().call_soon(self.settle, future)
            return future
        if self.kind == "object":
            return Later(self.step())
        return self.step()

    async def step(self):
        if self.kind == "coroutine that waits":
            await asyncio.sleep(0.001)
        if not self.left:
            raise StopAsyncIteration
        self.left -= 1
        return b"%d" % self.left

    def settle(self, future):
        if self.left:
            self.left -= 1
            future.set_result(b"%d" % self.left)
        else:
            future.set_exception(StopAsyncIteration())

    async def aclose(self):
        self.closed += 1


class Later:
    def __init__(self, coro):
        self.coro = coro

    def __await__(self):
        return self.coro.__await__()


@pytest.mark.parametrize("kind", ["coroutine", "coroutine that waits", "future", "object"])
def test_any_asynchronous_iterator_is_a_stream(raw, kind):
    app = App()
    made = []

    @app.get("/")
    async def count():
        made.append(Countdown(kind))
        return StreamingResponse(made[-1])

    with live_server(app, access_log=False) as url:
        answer = raw(url).send(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").rest()
    assert answer.endswith(b"1\r\n2\r\n1\r\n1\r\n1\r\n0\r\n0\r\n\r\n")
    assert made[0].closed == 1


def test_what_is_no_iterator_of_pieces_is_an_error_of_the_handler(raw, caplog):
    app = App()

    class Wrong:
        def __aiter__(self):
            return self

        def __anext__(self):
            return 5

    @app.get("/")
    async def wrong():
        return StreamingResponse(Wrong())

    with live_server(app, access_log=False) as url:
        answer = raw(url).send(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").rest()
    assert answer.startswith(b"HTTP/1.1 500 ")
    assert "__anext__ returned 'int', which cannot be awaited" in caplog.text


def test_streams_that_fail(raw, caplog):
    app = App()
    closed = []

    @app.get("/at-once")
    async def at_once():
        raise LookupError("before anything")
        yield b""

    @app.get("/http")
    async def http():
        raise HTTPException(409, "not now")
        yield b""

    @app.get("/plain-at-once")
    def plain_at_once():
        raise LookupError("before anything")
        yield b""

    @app.get("/later")
    async def later():
        try:
            yield b"first"
            raise LookupError("after the head")
        finally:
            closed.append("later")

    @app.get("/plain-later")
    def plain_later():
        try:
            yield b"first"
            raise LookupError("after the head")
        finally:
            closed.append("plain-later")

    @app.get("/wrong-piece")
    async def wrong_piece():
        try:
            yield b"first"
            yield 5
        finally:
            closed.append("wrong-piece")

    @app.get("/too-long")
    async def too_long():
        return StreamingResponse(iter([b"abc", b"def"]), headers={"content-length": "4"})

    @app.get("/too-short")
    async def too_short():
        return StreamingResponse(iter([b"abc"]), headers={"content-length": "4"})

    with live_server(app, access_log=False) as url:
        for path, status, text in (
            ("/at-once", 500, "Internal Server Error"),
            ("/http", 409, "not now"),
            ("/plain-at-once", 500, "Internal Server Error"),
        ):
            with quiet_errors(caplog) as messages:
                response = httpx.get(url + path)
            assert (response.status_code, response.text) == (status, text)
            assert len(messages) == (status == 500)
        for path in ("/later", "/plain-later", "/wrong-piece"):
            told = len(caplog.records)
            with quiet_errors(caplog) as messages:
                peer = raw(url).send(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
                head, _, rest = peer.rest().partition(b"\r\n\r\n")
                poll(lambda told=told: len(caplog.records) > told)
            # the end of a chunked body is never faked
            assert head.startswith(b"HTTP/1.1 200 ") and rest == b"5\r\nfirst\r\n", path
            assert len(messages) == 1 and "after the response had begun: it is cut short" in messages[0], path
        assert closed == ["later", "plain-later", "wrong-piece"]
        for path, sent in (("/too-long", b"abcd"), ("/too-short", b"abc")):
            told = len(caplog.records)
            with quiet_errors(caplog) as messages:
                peer = raw(url).send(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
                assert peer.rest().partition(b"\r\n\r\n")[2] == sent
                poll(lambda told=told: len(caplog.records) > told)
            assert len(messages) == 1, messages


@pytest.mark.parametrize("kind", ["async", "plain", "inline"])
def test_back_pressure_and_departure(raw, kind):
    app = App()
    made = []
    closed = []

    @app.get("/async")
    async def asynchronous():
        try:
            while True:
                made.append(1)
                yield b"x" * 65536
        finally:
            closed.append("async")

    def endless():
        try:
            while True:
                made.append(1)
                yield b"x" * 65536
        finally:
            closed.append(kind)

    app.add_route("/plain", endless)
    app.add_route("/inline", endless, blocking=False)
    with live_server(app, access_log=False) as url:
        peer = raw(url).send(f"GET /{kind} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        peer.exactly(200_000)
        time.sleep(0.3)
        before = len(made)
        time.sleep(0.2)
        assert len(made) == before < 500  # it waits for the peer: what is between us is bounded
        peer.exactly(3_000_000)
        poll(lambda: len(made) > before)
        peer.close()
        poll(lambda: closed == [kind])


def test_a_stream_goes_to_http_1_0_until_the_connection_closes(raw):
    app = App()

    @app.get("/")
    async def stream():
        yield b"a"
        yield b"b"

    with live_server(app, access_log=False) as url:
        peer = raw(url).send(b"GET / HTTP/1.0\r\n\r\n")
        head, _, body = peer.rest().partition(b"\r\n\r\n")
        assert body == b"ab" and b"transfer-encoding" not in head


def test_head_does_not_run_the_generator(raw):
    app = App()
    ran = []

    @app.get("/")
    async def stream():
        ran.append(1)
        yield b"a"

    with serving(app) as client:
        response = client.head("/")
        assert response.status_code == 200 and response.headers["transfer-encoding"] == "chunked"
        assert client.head("/").content == b"" and ran == []


def test_request_bodies_stream_in_while_the_answer_streams_out():
    app = App()

    @app.post("/")
    async def upper(request: Request):
        async for piece in request.stream():
            yield piece.upper()

    with serving(app) as client:
        pieces = [bytes([97 + i % 26]) * 10_000 for i in range(100)]
        assert client.post("/", content=iter(pieces)).content == b"".join(pieces).upper()


# ----------------------------------------------------------------------------------------------------------- errors


@pytest.fixture
def failing() -> App:
    app = App()

    @app.get("/boom")
    async def boom():
        raise LookupError("secret detail")

    @app.get("/boom-later")
    async def boom_later():
        await asyncio.sleep(0.001)
        raise LookupError("secret detail")

    @app.get("/boom-thread")
    def boom_thread():
        raise LookupError("secret detail")

    @app.get("/boom-inline", blocking=False)
    def boom_inline():
        raise LookupError("secret detail")

    @app.get("/stop")
    def stop():
        raise StopIteration(5)

    @app.get("/exit")
    async def leave():
        raise SystemExit("secret detail")

    @app.get("/exit-later")
    async def leave_later():
        await asyncio.sleep(0.001)
        raise SystemExit("secret detail")

    @app.get("/exit-thread")
    def leave_thread():
        raise SystemExit("secret detail")

    @app.get("/odd")
    async def odd():
        raise BaseException("secret detail")

    @app.get("/http/{status:int}")
    async def http(status: int):
        raise HTTPException(status)

    @app.get("/teapot")
    async def teapot():
        raise HTTPException(418, "short", {"x-pot": "tea", "content-type": "text/tea"})

    @app.get("/detail")
    async def detail():
        raise HTTPException(400, {"why": [1]})

    @app.get("/key")
    async def key():
        raise KeyError("k")

    return app


BOOMS = ["/boom", "/boom-later", "/boom-thread", "/boom-inline"]


@pytest.mark.parametrize("path", [*BOOMS, "/stop", "/exit", "/exit-later", "/exit-thread", "/odd"])
def test_unexpected_exceptions(failing, caplog, path):
    with serving(failing) as client, quiet_errors(caplog) as messages:
        response = client.get(path)
        assert (response.status_code, response.text) == (500, "Internal Server Error")
        assert response.headers["content-type"] == TEXT
        assert client.get("/http/404").status_code == 404  # on the same connection
    assert len(messages) == 1 and messages[0].startswith(f"GET {path}: exception in ")
    assert ("secret detail" in caplog.text) == (path != "/stop")  # the traceback


@pytest.mark.parametrize("path", BOOMS)
def test_debug_shows_the_traceback(failing, caplog, path):
    failing.debug = True
    with serving(failing) as client:
        response = client.get(path)
    assert response.status_code == 500 and response.headers["content-type"] == TEXT
    assert response.text.startswith("Traceback") and "LookupError: secret detail" in response.text


def test_http_exceptions(failing, caplog):
    with serving(failing) as client, quiet_errors(caplog) as messages:
        assert (client.get("/http/403").status_code, client.get("/http/403").text) == (403, "Forbidden")
        teapot = client.get("/teapot")
        assert (teapot.status_code, teapot.text) == (418, "short")
        assert teapot.headers["x-pot"] == "tea" and teapot.headers["content-type"] == "text/tea"
        assert client.get("/detail").json() == {"why": [1]} and client.get("/detail").status_code == 400
        gone = client.get("/http/304")
        assert (gone.status_code, gone.content) == (304, b"")
    assert messages == []


@pytest.mark.parametrize("with_middleware", [False, True])
def test_exception_handlers(failing, caplog, with_middleware):
    if with_middleware:

        @failing.middleware
        async def around(request, call_next):
            response = await call_next(request)
            response.headers["x-around"] = str(response.status_code)
            return response

    @failing.exception_handler(404)
    async def not_found(request, error):
        await asyncio.sleep(0)
        return {"path": request.path, "detail": error.detail}

    @failing.exception_handler(405)
    def not_allowed(request, error):
        return "no", 405, error.headers

    @failing.exception_handler(HTTPException)
    def other(request, error):
        return PlainTextResponse(f"other {error.status_code}", 418)

    @failing.exception_handler(LookupError)
    async def lookup(request, error):
        return f"{type(error).__name__} at {request.path}"

    with serving(failing) as client, quiet_errors(caplog) as messages:
        # a plain value keeps the status of the exception
        nope = client.get("/nope")
        assert (nope.status_code, nope.json()) == (404, {"path": "/nope", "detail": "Not Found"})
        assert client.get("/http/404").json()["path"] == "/http/404"
        no = client.delete("/boom")
        assert (no.status_code, no.text, no.headers["allow"]) == (405, "no", "GET, HEAD, OPTIONS")
        assert (client.get("/teapot").status_code, client.get("/teapot").text) == (418, "other 418")
        # the nearest base class; 500 without one of its own
        for path in BOOMS:
            assert (client.get(path).status_code, client.get(path).text) == (500, f"LookupError at {path}")
        assert client.get("/key").text == "KeyError at /key"
        assert client.options("/boom").status_code == 204
        if with_middleware:
            assert nope.headers["x-around"] == "404" and client.get("/boom").headers["x-around"] == "500"
    assert messages == []


@pytest.mark.parametrize("key", [Exception, 500])
@pytest.mark.parametrize("with_middleware", [False, True])
def test_handlers_of_everything_keep_the_log(failing, caplog, key, with_middleware):
    if with_middleware:

        @failing.middleware
        async def around(request, call_next):
            return await call_next(request)

    @failing.exception_handler(key)
    def everything(request, error):
        return {"error": type(error).__name__}

    with serving(failing) as client, quiet_errors(caplog) as messages:
        for path in BOOMS:
            response = client.get(path)
            assert (response.status_code, response.json()) == (500, {"error": "LookupError"})
        # an HTTPException has its own answer
        assert client.get("/http/403").text == "Forbidden" and client.get("/nope").text == "Not Found"
    assert len(messages) == len(BOOMS) and "secret detail" in caplog.text


def test_exception_handlers_that_fail(failing, caplog):
    @failing.exception_handler(LookupError)
    async def lookup(request, error):
        raise ValueError("worse")

    @failing.exception_handler(404)
    def not_found(request, error):
        return 5

    with serving(failing) as client, quiet_errors(caplog) as messages:
        assert (client.get("/boom").status_code, client.get("/boom").text) == (500, "Internal Server Error")
        assert client.get("/nope").status_code == 500
    assert "exception in an exception handler" in messages[0] and "worse" in caplog.text
    assert "returned int, which is no answer" in messages[2]


def test_requests_that_are_too_long(raw):
    app = App()

    @app.post("/body")
    async def body(body: bytes):
        return "read"

    @app.post("/read")
    async def read(request: Request):
        return str(len(await request.body()))

    with live_server(app, access_log=False, limit_request_body=10) as url:
        for path in ("/body", "/read"):
            peer = raw(url).send(
                f"POST {path} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n6\r\nabcdef\r\n".encode()
            )
            time.sleep(0.02)
            peer.send(b"6\r\nabcdef\r\n")
            assert peer.rest().startswith(b"HTTP/1.1 413 "), path


# ------------------------------------------------------------------------------------------------ middleware, hooks


def test_middleware_order_and_reach():
    app = App()
    order = []

    def layer(name):
        async def around(request, call_next):
            order.append(f"{name} in")
            response = await call_next(request)
            order.append(f"{name} out")
            response.headers[f"x-{name}"] = str(response.status_code)
            return response

        return around

    app.middleware(layer("inner"))
    app.middleware(layer("outer"))

    @app.get("/")
    async def root():
        order.append("handler")
        return "root"

    with serving(app) as client:
        response = client.get("/")
        assert response.text == "root" and response.headers["x-inner"] == response.headers["x-outer"] == "200"
        # the one added last is the outermost, as in Starlette
        assert order == ["outer in", "inner in", "handler", "inner out", "outer out"]
        for method, path, status in (
            ("GET", "/nope", 404),
            ("POST", "/", 405),
            ("OPTIONS", "/", 204),
            ("HEAD", "/", 200),
        ):
            assert client.request(method, path).headers["x-outer"] == str(status), (method, path)
        assert client.options("/").headers["allow"] == "GET, HEAD, OPTIONS"


def test_middleware_may_answer_and_change():
    app = App()

    @app.middleware
    async def guard(request, call_next):
        if request.headers.get("x-key") != "k":
            raise HTTPException(401, "who are you?", {"www-authenticate": "key"})
        if request.path == "/early":
            return {"early": True}
        request.state.user = "u"
        response = await call_next(request)
        if request.path == "/replace":
            return "replaced", 203
        response.body = response.body + b"!"
        return response

    @app.get("/{name}")
    async def show(name: str, user: State[str]):
        return f"{name} {user}"

    with serving(app) as client:
        denied = client.get("/a")
        assert (denied.status_code, denied.text, denied.headers["www-authenticate"]) == (401, "who are you?", "key")
        client.headers["x-key"] = "k"
        assert client.get("/a").text == "a u!"
        assert client.get("/early").json() == {"early": True}
        assert (client.get("/replace").status_code, client.get("/replace").text) == (203, "replaced")


def test_exceptions_pass_through_middleware(caplog):
    app = App()
    seen = []

    @app.middleware
    async def watch(request, call_next):
        try:
            return await call_next(request)
        except Exception as error:
            seen.append(error)
            raise

    @app.get("/boom")
    async def boom():
        raise LookupError("x")

    @app.get("/http")
    async def http():
        raise HTTPException(409)

    with serving(app) as client, quiet_errors(caplog) as messages:
        assert client.get("/boom").status_code == 500
        assert client.get("/http").status_code == 409
    assert [type(error) for error in seen] == [LookupError]  # an HTTPException is an answer already
    assert len(messages) == 1 and "boom" in messages[0]


def test_hooks():
    app = App()
    steps = []

    @app.before_request
    def first(request):
        steps.append("first")

    @app.before_request
    async def second(request):
        steps.append("second")
        if request.path == "/stopped":
            return {"stopped": True}, 403

    @app.after_request
    async def third(request, response):
        steps.append(f"third {response.status_code}")
        response.headers["x-third"] = "yes"

    @app.after_request
    def fourth(request, response):
        steps.append("fourth")
        if request.path == "/swap":
            return Response(b"swapped")

    @app.get("/{name}")
    def show(name: str):
        steps.append("handler")
        return name

    with serving(app) as client:
        response = client.get("/a")
        assert response.text == "a" and response.headers["x-third"] == "yes"
        assert steps == ["first", "second", "handler", "third 200", "fourth"]
        steps.clear()
        stopped = client.get("/stopped")
        assert (stopped.status_code, stopped.json()) == (403, {"stopped": True})
        assert steps == ["first", "second", "third 403", "fourth"]
        assert client.get("/swap").text == "swapped"
        assert client.get("/a/b").headers["x-third"] == "yes"  # 404
        assert client.post("/a").headers["x-third"] == "yes"  # 405


def test_middleware_with_streams_and_threads():
    app = App()

    @app.middleware
    async def around(request, call_next):
        response = await call_next(request)
        response.headers["x-kind"] = type(response).__name__
        return response

    @app.get("/stream")
    async def stream():
        yield "a"
        yield "b"

    @app.get("/thread")
    def thread():
        return threading.current_thread().name

    @app.post("/body")
    async def body(item: Json[Item]):
        return item.name

    with serving(app) as client:
        response = client.get("/stream")
        assert response.text == "ab" and response.headers["x-kind"] == "StreamingResponse"
        assert client.get("/thread").text.startswith("fastserve_")
        assert client.post("/body", content=b'{"name": "n"}').text == "n"
        assert client.post("/body", content=b'{"name": 5}').status_code == 422


# -------------------------------------------------------------------------------------------------- state, lifespan


def test_lifespan_state_reaches_requests():
    ended = []

    async def lifespan(app):
        yield {"db": "pool", "shared": []}
        ended.append(True)

    app = App(lifespan=lifespan, state={"db": "overshadowed", "own": "app"})

    @app.get("/")
    async def show(request: Request, db: State[str], own: State[str]):
        request.state.shared.append(1)
        request.state.mine = len(request.state.shared)
        return [db, own, request.state.db, request.state.mine, hasattr(request.app.state, "mine")]

    @app.get("/none")
    async def none(request: Request, db: State[str]):
        return [db, hasattr(request.state, "mine")]

    with serving(app) as client:
        # what the lifespan yields comes before app.state; each request has its own names for the same objects
        assert client.get("/").json() == ["pool", "app", "pool", 1, False]
        assert client.get("/").json() == ["pool", "app", "pool", 2, False]
        assert client.get("/none").json() == ["pool", False]
        assert ended == []
    assert ended == [True]


# ---------------------------------------------------------------------------------------------------------- threads


def test_threads_and_the_loop():
    app = App()
    variable = contextvars.ContextVar("variable", default="unset")

    @app.middleware
    async def around(request, call_next):
        variable.set(request.path)
        return await call_next(request)

    @app.get("/thread")
    def thread():
        seen = [threading.current_thread().name.split("_")[0], variable.get()]
        variable.set("leaked")
        return seen

    @app.get("/inline", blocking=False)
    def inline():
        asyncio.get_running_loop()
        seen = [threading.current_thread().name, variable.get()]
        variable.set("leaked")
        return seen

    @app.get("/async")
    async def asynchronous():
        await asyncio.sleep(0)
        return [threading.current_thread().name, variable.get()]

    with serving(app) as client:
        for _ in range(3):
            assert client.get("/thread").json() == ["fastserve", "/thread"]
            assert client.get("/inline").json() == ["fastserve-live-server", "/inline"]
            assert client.get("/async").json() == ["fastserve-live-server", "/async"]


def test_contexts_do_not_leak_from_one_request_to_the_next(raw):
    app = App()
    variable = contextvars.ContextVar("variable", default="unset")

    @app.get("/inline", blocking=False)
    def inline():
        seen = variable.get()
        variable.set("leaked by inline")
        return seen

    @app.get("/async")
    async def asynchronous():
        seen = variable.get()
        variable.set("leaked by async")
        await asyncio.sleep(0)
        return seen + variable.get()

    @app.get("/now")
    async def now():
        seen = variable.get()
        variable.set("leaked by now")
        return seen

    with live_server(app, access_log=False) as url:
        order = ["inline", "now", "async", "now", "inline", "async"]
        peer = raw(url).send(b"".join(f"GET /{path} HTTP/1.1\r\nHost: a\r\n\r\n".encode() for path in order))
        assert [peer.response()[2] for _ in order] == [
            b"unset",
            b"unset",
            b"unsetleaked by async",
            b"unset",
            b"unset",
            b"unsetleaked by async",
        ]


def test_blocking_handlers_run_beside_each_other_up_to_the_number_of_threads():
    app = App()
    running = []
    highest = []
    lock = threading.Lock()

    @app.get("/")
    def slow():
        with lock:
            running.append(1)
            highest.append(len(running))
        time.sleep(0.1)
        with lock:
            running.pop()
        return "done"

    async def ask(url):
        async with httpx.AsyncClient(limits=httpx.Limits(max_connections=9)) as client:
            return [answer.text for answer in await asyncio.gather(*(client.get(url) for _ in range(9)))]

    with live_server(app, access_log=False, threads=3) as url:
        assert asyncio.run(ask(url)) == ["done"] * 9
        assert max(highest) == 3


def test_a_plain_handler_is_never_interrupted(raw):
    app = App()
    finished = []

    @app.get("/")
    def slow():
        time.sleep(0.2)
        finished.append(True)
        return "x"

    with live_server(app, access_log=False) as url:
        peer = raw(url).send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        time.sleep(0.05)
        peer.close()
        poll(lambda: finished == [True])
        assert httpx.get(url).text == "x"


# ------------------------------------------------------------------------------------------ tasks and cancellation


def test_asyncio_and_anyio_work_inside_a_handler():
    import anyio

    app = App()

    @app.get("/task")
    async def task():
        before = asyncio.current_task()
        await asyncio.sleep(0)
        return str(asyncio.current_task() is before and before is not None)

    @app.get("/timeout")
    async def timeout():
        try:
            async with asyncio.timeout(0.01):
                await asyncio.sleep(5)
        except TimeoutError:
            return "timed out"

    @app.get("/group")
    async def group():
        results = []

        async def job(i):
            await asyncio.sleep(0)
            results.append(i)

        async with asyncio.TaskGroup() as jobs:
            for i in range(3):
                jobs.create_task(job(i))
        return sorted(results)

    @app.get("/anyio")
    async def with_anyio():
        results = []
        async with anyio.create_task_group() as jobs:
            for i in range(3):
                jobs.start_soon(_append, results, i)
        with anyio.move_on_after(0.01) as scope:
            await anyio.sleep(5)
        return [sorted(results), scope.cancelled_caught]

    @app.get("/thread")
    async def to_thread():
        return await asyncio.to_thread(lambda: threading.current_thread().name.split("_")[0])

    with serving(app) as client:
        for _ in range(3):
            assert client.get("/task").text == "True"
            assert client.get("/timeout").text == "timed out"
            assert client.get("/group").json() == [0, 1, 2]
            assert client.get("/anyio").json() == [[0, 1, 2], True]
            assert client.get("/thread").text in ("asyncio", "uvloop")


async def _append(results, i):
    await asyncio.sleep(0)
    results.append(i)


@pytest.mark.parametrize("with_middleware", [False, True])
def test_cancellation_when_the_client_leaves(raw, caplog, with_middleware):
    app = App()
    outcomes = []
    started = threading.Event()
    if with_middleware:

        @app.middleware
        async def around(request, call_next):
            return await call_next(request)

    async def wait(name):
        started.set()
        try:
            await asyncio.sleep(0.3)
            outcomes.append(f"{name} finished")
        except asyncio.CancelledError:
            outcomes.append(f"{name} cancelled")
            raise
        return "late"

    @app.get("/cancelled")
    async def cancelled():
        return await wait("cancelled")

    @app.get("/kept", cancel_on_disconnect=False)
    async def kept():
        return await wait("kept")

    with live_server(app, access_log=False) as url, quiet_errors(caplog) as messages:
        for name, outcome in (("cancelled", "cancelled cancelled"), ("kept", "kept finished")):
            started.clear()
            peer = raw(url).send(f"GET /{name} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
            assert started.wait(2)
            peer.close()
            poll(lambda outcome=outcome: outcomes[-1:] == [outcome])
        assert httpx.get(url + "/nope").status_code == 404
    assert outcomes == ["cancelled cancelled", "kept finished"] and messages == []


def test_pipelined_requests_are_answered_in_order(raw):
    app = App()

    @app.get("/{n:int}")
    async def number(n: int):
        if n % 3 == 0:
            await asyncio.sleep(0.002)
        return str(n)

    @app.get("/thread/{n:int}")
    def in_thread(n: int):
        return f"thread {n}"

    with live_server(app, access_log=False) as url:
        peer = raw(url)
        paths = [f"/{n}" if n % 4 else f"/thread/{n}" for n in range(40)]
        peer.send(b"".join(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode() for path in paths))
        answers = [peer.response()[2].decode() for _ in paths]
        assert answers == [f"{n}" if n % 4 else f"thread {n}" for n in range(40)]


def test_nothing_is_left_behind(memory):
    app = App()

    @app.get("/plain")
    async def plain():
        return "x"

    @app.get("/arguments/{id}")
    async def arguments(request: Request, id: int, q: Query[int] = 1):
        request.state.x = 1
        return [request.headers["host"], id, q]

    @app.post("/body")
    async def body(item: Json[Item]):
        return item.name

    @app.get("/http")
    async def http():
        raise HTTPException(400)

    peer = memory(app)
    batch = (
        b"GET /plain HTTP/1.1\r\nHost: a\r\n\r\nGET /arguments/5?q=2 HTTP/1.1\r\nHost: a\r\n\r\n"
        b'POST /body HTTP/1.1\r\nHost: a\r\nContent-Length: 12\r\n\r\n{"name":"x"}'
        b"GET /http HTTP/1.1\r\nHost: a\r\n\r\nGET /nope HTTP/1.1\r\nHost: a\r\n\r\n"
    )
    for _ in range(20):
        sent = peer.feed(batch) + peer.turn()
    assert sent.count(b"HTTP/1.1 ") == 5
    gc.collect()
    gc.disable()
    try:
        before = len(gc.get_objects())
        for _ in range(200):
            peer.feed(batch)
            peer.turn(1)
        assert len(gc.get_objects()) - before < 20  # a thousand exchanges, without the garbage collector
    finally:
        gc.enable()
