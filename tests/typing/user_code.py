"""What a user writes, as a type checker sees it. Read by mypy --strict, never run.

Lines that must be errors carry `# type: ignore[code]`: strict mode complains about one that ignores nothing, or another
code. So the file passes when every line is judged as it says.
"""

# ruff: noqa: B018

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, assert_type

import fastserve
from fastserve import (
    App,
    ClientDisconnected,
    FastserveError,
    FileResponse,
    Header,
    Headers,
    HTMLResponse,
    HTTPException,
    Json,
    JSONResponse,
    PlainTextResponse,
    Query,
    RedirectResponse,
    Request,
    Response,
    Router,
    Server,
    State,
    StreamingResponse,
)
from fastserve.middleware import Compress
from fastserve.protocol.headers import URL, Address, MutableHeaders, QueryParams
from fastserve.testing import TestClient, WebSocketSession, live_server
from fastserve.types import Environ, StartResponse


class Pool:
    async def fetch(self, id: int) -> str:
        return str(id)


@dataclass
class Item:
    name: str
    price: float = 0.0


@asynccontextmanager
async def lifespan(app: App) -> AsyncIterator[Mapping[str, Any]]:
    yield {"pool": Pool()}


async def plain_lifespan(app: App) -> AsyncIterator[None]:
    yield


app = App(state={"greeting": "hello"}, lifespan=lifespan, debug=True)
assert_type(app, App)
assert_type(App(lifespan=plain_lifespan), App)


# ---------------------------------------------------------------------------------------- markers are their types


@app.get("/users/{id:int}")
async def user(id: int, pool: State[Pool], verbose: Query[bool] = False, agent: Header[str] = "") -> dict[str, object]:
    assert_type(pool, Pool)
    assert_type(verbose, bool)
    assert_type(agent, str)
    return {"id": id, "name": await pool.fetch(id)}


@app.post("/items", name="add")
async def add(item: Json[Item], tags: Query[list[str]], limit: Query[int | None] = None) -> tuple[dict[str, str], int]:
    assert_type(item, Item)
    assert_type(tags, list[str])
    assert_type(limit, int | None)
    return {"name": item.name}, 201


# A decorated handler keeps its type: it can be called and tested as what it is.
async def call_them() -> None:
    assert_type(await user(1, Pool(), verbose=True), dict[str, object])
    assert_type(await add(Item("a"), []), tuple[dict[str, str], int])
    assert_type(blocking(b""), bytes)
    await user("1", Pool())  # type: ignore[arg-type]
    await add({"name": "a"}, [])  # type: ignore[arg-type]


@app.put("/blob", blocking=True, cancel_on_disconnect=False)
def blocking(body: bytes) -> bytes:
    return body


# --------------------------------------------------------------------------------------------------------- request


@app.route("/request", methods=["GET", "POST"])
async def request_(request: Request) -> Response:
    assert_type(request.method, str)
    assert_type(request.path, str)
    assert_type(request.raw_path, bytes)
    assert_type(request.query_string, bytes)
    assert_type(request.query_params, QueryParams)
    assert_type(request.query_params["a"], str)
    assert_type(request.query_params.get("a"), str | None)
    assert_type(request.query_params.get("a", 1), str | int)
    assert_type(request.query_params.getlist("a"), list[str])
    assert_type(request.path_params, dict[str, Any])
    assert_type(request.headers, Headers)
    assert_type(request.headers["host"], str)
    assert_type(request.headers.get("accept"), str | None)
    assert_type(request.headers.raw, list[tuple[bytes, bytes]])
    assert_type(request.cookies, dict[str, str])
    assert_type(request.url, URL)
    assert_type(request.url.replace(query="").path, str)
    assert_type(request.client, Address | None)
    assert_type(await request.body(), bytes)
    assert_type(await request.text(), str)
    assert_type(await request.is_disconnected(), bool)
    async for piece in request.stream():
        assert_type(piece, bytes)
    request.headers["host"] = "other"  # type: ignore[index]
    request.method = "GET"  # type: ignore[misc]
    request.nothing  # type: ignore[attr-defined]
    request.client.host  # type: ignore[union-attr]
    Request("GET")  # type: ignore[call-arg]
    return Response(b"", 204)


# -------------------------------------------------------------------------------------------------------- response


@app.get("/responses")
async def responses() -> Response:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"piece"

    every: list[Response] = [
        Response("text", status_code=200, headers={"x-a": "b"}, media_type="text/plain"),
        Response(b"bytes", headers=[("set-cookie", "a=b")]),
        PlainTextResponse("text"),
        HTMLResponse("<p>"),
        JSONResponse({"a": [1, None]}, 201),
        RedirectResponse("/elsewhere", status_code=303),
        StreamingResponse(pieces(), media_type="text/event-stream"),
        StreamingResponse([b"a", "b"]),
    ]
    answer = every[0]
    assert_type(answer.headers, MutableHeaders)
    assert_type(answer.status_code, int)
    assert_type(answer.body, bytes | None)
    answer.headers["x-b"] = "c"
    answer.set_cookie("a", "b", max_age=60, samesite="strict")
    answer.set_cookie("a", samesite="Lax")  # type: ignore[arg-type]
    answer.headers["x-b"] = 1  # type: ignore[assignment]
    Response(b"", status_code="200")  # type: ignore[arg-type]
    StreamingResponse(b"text")  # type: ignore[arg-type]
    JSONResponse()  # type: ignore[call-arg]
    raise HTTPException(404, "no such thing", headers={"x-a": "b"})


# ------------------------------------------------------------------------------------ routers, middleware, handlers

router = Router(prefix="/v1")


@router.delete("/items/{id}")
async def remove(id: str) -> None: ...


app.include_router(router, prefix="/api")
assert_type(app.url_path_for("add"), str)


@app.middleware
async def timing(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
    answer = await call_next(request)
    assert_type(answer, Response)
    return answer


@app.middleware("http")
async def also_timing(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
    return await call_next(request)


@app.middleware  # type: ignore[type-var]
async def no_middleware(request: Request) -> Response:
    return Response()


@app.before_request
async def before(request: Request) -> Response | None:
    return None


@app.after_request
def after(request: Request, response: Response) -> None: ...


@app.exception_handler(404)
@app.exception_handler(KeyError)
async def missing(request: Request, error: Exception) -> tuple[str, int]:
    return "missing", 404


def errors(error: HTTPException, gone: ClientDisconnected) -> None:
    assert_type(error.status_code, int)
    bases: list[FastserveError] = [error, gone]
    assert bases
    app.add_exception_handler("404", errors)  # type: ignore[arg-type]


# ----------------------------------------------------------------------------------------------------------- files

app.static("/static", Path("static"), index=None, max_age=60)
app.static("/static", 5)  # type: ignore[arg-type]
app.middleware(Compress(codings=["gzip"], levels={"gzip": 6}))
Compress(minimum_size="1k")  # type: ignore[arg-type]


@app.get("/download")
async def download() -> FileResponse:
    response = FileResponse(Path("a.txt"), filename="b.txt", headers={"x-mine": "yes"})
    assert_type(response.status_code, int)
    return response


FileResponse(Path("a.txt"), 200, None, None, "b.txt")  # type: ignore[call-arg]

# --------------------------------------------------------------------------------------------------------- serving


async def embedded() -> None:
    async with Server(app, port=0) as server:
        assert_type(server, Server)
        assert_type(server.url, str)
        assert_type(server.connections, int)
        await asyncio.sleep(1)
        assert_type(await server.stop(timeout=1.0), bool)


def main() -> None:
    with live_server(app) as url:
        assert_type(url, str)
    assert_type(fastserve.__version__, str)
    fastserve.run("user_code:app", port=8000)


def old(environ: Environ, start_response: StartResponse) -> list[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"old"]


app.mount_wsgi("/old", old)
app.mount_wsgi("/old", embedded)  # type: ignore[arg-type]


def test_something(fastserve_client: Callable[..., TestClient]) -> None:
    with TestClient(app, headers={"a": "b"}, threads=2) as client:
        assert_type(client, TestClient)
        assert_type(client.get("/").status_code, int)
        with client.websocket_connect("/ws", subprotocols=["chat"]) as websocket:
            assert_type(websocket, WebSocketSession)
            assert_type(websocket.receive_text(), str)
    assert_type(fastserve_client(app).get("/").text, str)


fastserve.Nothing  # type: ignore[attr-defined]
