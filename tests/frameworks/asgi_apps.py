"""The small application of contract.py, in every ASGI framework. One maker each; frameworks are imported when made."""

# Names are resolved by the frameworks at run time from the annotations, so these stay real objects here.

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

from frameworks.contract import Given

Maker = Callable[[Given], Any]

DIGITS = [str(n) for n in range(10)]
EVENTS = [f"data: {n}\n\n" for n in range(3)]


async def pieces(texts: list[str]):
    for text in texts:
        await asyncio.sleep(0)
        yield text.encode()


async def forever(given: Given):
    try:
        while True:
            yield b"x" * 1024
            await asyncio.sleep(0.01)
    finally:
        given.left += 1


# ---------------------------------------------------------------------------------------------- Starlette and FastAPI


def starlette(given: Given) -> Any:
    from starlette.applications import Starlette
    from starlette.background import BackgroundTask
    from starlette.requests import Request
    from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response, StreamingResponse
    from starlette.routing import Route, WebSocketRoute
    from starlette.websockets import WebSocket

    async def json(request: Request) -> Response:
        return JSONResponse({"message": "hello"})

    async def echo(request: Request) -> Response:
        return Response(await request.body(), media_type="application/octet-stream")

    async def stream(request: Request) -> Response:
        return StreamingResponse(pieces(DIGITS), media_type="text/plain")

    async def events(request: Request) -> Response:
        return StreamingResponse(pieces(EVENTS), media_type="text/event-stream")

    async def upload(request: Request) -> Response:
        async with request.form() as form:
            file: Any = form["file"]
            return JSONResponse({"name": file.filename, "size": len(await file.read())})

    async def download(request: Request) -> Response:
        return FileResponse(given.file)

    def work() -> None:  # Starlette runs it in a thread
        given.background += 1

    async def background(request: Request) -> Response:
        return PlainTextResponse("later", 202, background=BackgroundTask(work))

    async def state(request: Request) -> Response:
        return PlainTextResponse(request.state.word)

    async def error(request: Request) -> Response:
        raise ZeroDivisionError

    async def endless(request: Request) -> Response:
        return StreamingResponse(forever(given))

    async def talk(websocket: WebSocket) -> None:
        await websocket.accept()
        while (message := await websocket.receive())["type"] == "websocket.receive":
            await websocket.send(message | {"type": "websocket.send"})
        given.left += 1

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette):
        yield {"word": "ready"}
        given.shutdowns += 1

    gets = {"json": json, "stream": stream, "events": events, "download": download, "state": state, "error": error}
    posts = {"echo": echo, "upload": upload, "background": background}
    return Starlette(
        routes=[
            *(Route(f"/{path}", function) for path, function in gets.items()),
            *(Route(f"/{path}", function, methods=["POST"]) for path, function in posts.items()),
            Route("/forever", endless),
            WebSocketRoute("/talk", talk),
        ],
        lifespan=lifespan,
    )


def fastapi(given: Given) -> Any:
    from fastapi import BackgroundTasks, FastAPI, Request, UploadFile, WebSocket, WebSocketDisconnect
    from fastapi.responses import FileResponse, PlainTextResponse, Response, StreamingResponse

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI):
        yield {"word": "ready"}
        given.shutdowns += 1

    app = FastAPI(lifespan=lifespan)

    @app.get("/json")
    async def json() -> dict[str, str]:
        return {"message": "hello"}

    @app.post("/echo")
    async def echo(request: Request) -> Response:
        return Response(await request.body(), media_type="application/octet-stream")

    @app.get("/stream")
    async def stream() -> StreamingResponse:
        return StreamingResponse(pieces(DIGITS), media_type="text/plain")

    @app.get("/events")
    async def events() -> StreamingResponse:
        return StreamingResponse(pieces(EVENTS), media_type="text/event-stream")

    @app.post("/upload")
    async def upload(file: UploadFile) -> dict[str, Any]:
        return {"name": file.filename, "size": len(await file.read())}

    @app.get("/download")
    def download() -> FileResponse:  # FastAPI calls it in a thread
        return FileResponse(given.file)

    def work() -> None:
        given.background += 1

    @app.post("/background", status_code=202)
    async def background(tasks: BackgroundTasks) -> str:
        tasks.add_task(work)
        return "later"

    @app.get("/state")
    async def state(request: Request) -> PlainTextResponse:
        return PlainTextResponse(request.state.word)

    @app.get("/error")
    async def error() -> None:
        raise ZeroDivisionError

    @app.get("/forever")
    async def endless() -> StreamingResponse:
        return StreamingResponse(forever(given))

    @app.websocket("/talk")
    async def talk(websocket: WebSocket) -> None:
        await websocket.accept()
        try:
            while True:
                await websocket.send_text(await websocket.receive_text())
                await websocket.send_bytes(await websocket.receive_bytes())
        except WebSocketDisconnect:
            given.left += 1

    return app


# -------------------------------------------------------------------------------------------------------------- Django


def django(given: Given) -> Any:
    import sys
    import types

    from django.conf import settings

    if not settings.configured:
        settings.configure(
            ALLOWED_HOSTS=["*"],
            ROOT_URLCONF="frameworks_django_urls",
            SECRET_KEY="for tests",
            MIDDLEWARE=["django.middleware.common.CommonMiddleware"],
            LOGGING_CONFIG=None,
        )
        import django as package

        package.setup()
    from django.core.handlers.asgi import ASGIHandler
    from django.http import FileResponse, HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse
    from django.urls import clear_url_caches, path

    def json(request: HttpRequest) -> HttpResponse:  # Django runs it in a thread
        return JsonResponse({"message": "hello"})

    async def echo(request: HttpRequest) -> HttpResponse:
        return HttpResponse(request.body, content_type="application/octet-stream")

    async def stream(request: HttpRequest) -> StreamingHttpResponse:
        return StreamingHttpResponse(pieces(DIGITS), content_type="text/plain")

    async def events(request: HttpRequest) -> StreamingHttpResponse:
        return StreamingHttpResponse(pieces(EVENTS), content_type="text/event-stream")

    async def upload(request: HttpRequest) -> HttpResponse:
        file: Any = request.FILES["file"]
        return JsonResponse({"name": file.name, "size": len(file.read())})

    async def download(request: HttpRequest) -> StreamingHttpResponse:
        async def blocks():
            with given.file.open("rb") as file:
                while block := await asyncio.to_thread(file.read, 65536):
                    yield block

        return FileResponse(blocks(), filename=given.file.name)

    async def work() -> None:
        await asyncio.sleep(0.01)
        given.background += 1

    async def background(request: HttpRequest) -> HttpResponse:
        tasks.add(asyncio.create_task(work()))
        return HttpResponse("later", status=202)

    async def error(request: HttpRequest) -> HttpResponse:
        raise ZeroDivisionError

    async def endless(request: HttpRequest) -> StreamingHttpResponse:
        return StreamingHttpResponse(forever(given))

    tasks: set[Any] = set()
    views: dict[str, Any] = {
        "json": json,
        "echo": echo,
        "stream": stream,
        "events": events,
        "upload": upload,
        "download": download,
        "background": background,
        "error": error,
        "forever": endless,
    }
    urls: Any = types.ModuleType("frameworks_django_urls")
    urls.urlpatterns = [path(name, view) for name, view in views.items()]
    sys.modules["frameworks_django_urls"] = urls
    clear_url_caches()
    return ASGIHandler()


# --------------------------------------------------------------------------------------------------------------- Quart


def quart(given: Given) -> Any:
    from quart import Quart, Response, request, send_file, websocket

    app = Quart(__name__)
    word = ""

    @app.before_serving
    async def startup() -> None:
        nonlocal word
        word = "ready"

    @app.after_serving
    async def shutdown() -> None:
        given.shutdowns += 1

    @app.get("/json")
    async def json() -> dict[str, str]:
        return {"message": "hello"}

    @app.post("/echo")
    async def echo() -> Response:
        return Response(await request.get_data(), content_type="application/octet-stream")

    @app.get("/stream")
    async def stream() -> Response:
        return Response(pieces(DIGITS), content_type="text/plain")

    @app.get("/events")
    async def events() -> Response:
        return Response(pieces(EVENTS), content_type="text/event-stream")

    @app.post("/upload")
    async def upload() -> dict[str, Any]:
        file = (await request.files)["file"]
        return {"name": file.filename, "size": len(file.read())}

    @app.get("/download")
    async def download() -> Response:
        return await send_file(given.file)

    async def work() -> None:
        given.background += 1

    @app.post("/background")
    async def background() -> tuple[str, int]:
        app.add_background_task(work)
        return "later", 202

    @app.get("/state")
    async def state() -> str:
        return word

    @app.get("/error")
    async def error() -> str:
        raise ZeroDivisionError

    @app.get("/forever")
    async def endless() -> Response:
        response = Response(forever(given))
        response.timeout = None
        return response

    @app.websocket("/talk")
    async def talk() -> None:
        try:
            while True:
                await websocket.send(await websocket.receive())
        finally:  # it is cancelled when the client has left
            given.left += 1

    return app


# ------------------------------------------------------------------------------------------------------------ Litestar


def litestar(given: Given) -> Any:
    from litestar import Litestar, MediaType, Request, Response, WebSocket, get, post, websocket
    from litestar.background_tasks import BackgroundTask
    from litestar.datastructures import UploadFile
    from litestar.enums import RequestEncodingType
    from litestar.exceptions import WebSocketDisconnect
    from litestar.params import Body
    from litestar.response import File, ServerSentEvent, Stream

    @get("/json")
    async def json() -> dict[str, str]:
        return {"message": "hello"}

    @post("/echo", status_code=200)
    async def echo(request: Request) -> Response[bytes]:
        return Response(await request.body(), media_type="application/octet-stream")

    @get("/stream")
    async def stream() -> Stream:
        return Stream(pieces(DIGITS), media_type=MediaType.TEXT)

    @get("/events")
    async def events() -> ServerSentEvent:
        async def numbers():
            for n in range(3):
                yield str(n)

        return ServerSentEvent(numbers())

    async def upload(data: Any) -> dict[str, Any]:
        return {"name": data.filename, "size": len(await data.read())}

    # the closure's names cannot be looked up from text
    upload.__annotations__ = {
        "data": __import__("typing").Annotated[UploadFile, Body(media_type=RequestEncodingType.MULTI_PART)],
        "return": dict[str, Any],
    }

    @get("/download")
    async def download() -> File:
        return File(given.file, filename=given.file.name)

    async def work() -> None:
        given.background += 1

    @post("/background", status_code=202)
    async def background() -> Response[str]:
        return Response("later", background=BackgroundTask(work))

    @get("/state", media_type=MediaType.TEXT)
    async def state(request: Request) -> str:
        return str(request.app.state.word)

    @get("/error")
    async def error() -> None:
        raise ZeroDivisionError

    @get("/forever")
    async def endless() -> Stream:
        return Stream(forever(given))

    @websocket("/talk")
    async def talk(socket: WebSocket) -> None:
        await socket.accept()
        try:
            while True:
                await socket.send_text(await socket.receive_text())
                await socket.send_bytes(await socket.receive_bytes())
        except WebSocketDisconnect:
            given.left += 1

    @contextlib.asynccontextmanager
    async def lifespan(app: Litestar):
        app.state.word = "ready"
        yield
        given.shutdowns += 1

    return Litestar(
        [
            json,
            echo,
            stream,
            events,
            post("/upload", status_code=200)(upload),
            download,
            background,
            state,
            error,
            endless,
            talk,
        ],
        lifespan=[lifespan],
        openapi_config=None,
        logging_config=None,
    )


# -------------------------------------------------------------------------------------------------------------- Falcon


def falcon(given: Given) -> Any:
    import falcon.asgi

    class Lifespan:
        word = ""

        async def process_startup(self, scope, event) -> None:
            self.word = "ready"

        async def process_shutdown(self, scope, event) -> None:
            given.shutdowns += 1

    lives = Lifespan()

    class Json:
        async def on_get(self, req, resp) -> None:
            resp.media = {"message": "hello"}

    class Echo:
        async def on_post(self, req, resp) -> None:
            resp.content_type, resp.data = "application/octet-stream", await req.stream.read()

    class Stream:
        async def on_get(self, req, resp) -> None:
            resp.content_type, resp.stream = "text/plain", pieces(DIGITS)

    class Events:
        async def on_get(self, req, resp) -> None:
            async def emit():
                for n in range(3):
                    yield falcon.asgi.SSEvent(data=str(n).encode())

            resp.sse = emit()

    class Upload:
        async def on_post(self, req, resp) -> None:
            async for part in await req.get_media():
                if part.name == "file":
                    resp.media = {"name": part.filename, "size": len(await part.get_data())}

    class Download:
        async def on_get(self, req, resp) -> None:
            async def blocks():
                with given.file.open("rb") as file:
                    while block := await asyncio.to_thread(file.read, 65536):
                        yield block

            resp.content_type, resp.stream = "application/octet-stream", blocks()
            resp.content_length = given.file.stat().st_size

    class Background:
        async def on_post(self, req, resp) -> None:
            resp.status, resp.text = falcon.HTTP_202, "later"
            resp.schedule(self.work)

        async def work(self) -> None:
            given.background += 1

    class State:
        async def on_get(self, req, resp) -> None:
            resp.text = lives.word

    class Error:
        async def on_get(self, req, resp) -> None:
            raise ZeroDivisionError

    class Forever:
        async def on_get(self, req, resp) -> None:
            resp.stream = forever(given)

    class Talk:
        async def on_websocket(self, req, ws) -> None:
            await ws.accept()
            try:
                while True:
                    await ws.send_text(await ws.receive_text())
                    await ws.send_data(await ws.receive_data())
            except falcon.WebSocketDisconnected:
                given.left += 1

    app = falcon.asgi.App(middleware=[lives])
    for resource in (Json, Echo, Stream, Events, Upload, Download, Background, State, Error, Forever, Talk):
        app.add_route("/" + resource.__name__.lower(), resource())
    return app


# ---------------------------------------------------------------------------------------------------------- BlackSheep


def blacksheep(given: Given) -> Any:
    from blacksheep import Application, Content, Request, Response, StreamedContent, WebSocket, WebSocketDisconnectError
    from blacksheep import json as json_response
    from blacksheep.server.responses import accepted, file, text
    from blacksheep.server.routing import Router
    from blacksheep.server.sse import ServerSentEventsResponse, TextServerSentEvent

    router = Router()
    app = Application(router=router)
    words: list[str] = []
    tasks: set[Any] = set()

    @app.on_start
    async def startup(application: Application) -> None:
        words.append("ready")

    @app.on_stop
    async def shutdown(application: Application) -> None:
        given.shutdowns += 1

    async def json() -> Response:
        return json_response({"message": "hello"})

    async def echo(request: Request) -> Response:
        return Response(200, content=Content(b"application/octet-stream", await request.read() or b""))

    async def digits():  # it wants generator functions, nothing that returns a generator
        async for piece in pieces(DIGITS):
            yield piece

    async def endless_data():
        async with contextlib.aclosing(forever(given)) as data:
            async for piece in data:
                yield piece

    async def stream() -> Response:
        return Response(200, content=StreamedContent(b"text/plain", digits))

    async def events() -> Response:
        async def emit():
            for n in range(3):
                yield TextServerSentEvent(str(n))

        return ServerSentEventsResponse(emit)

    async def upload(request: Request) -> Response:
        files = await request.files("file")
        data = files[0].data
        size = len(data if isinstance(data, bytes) else data.read())
        name = files[0].file_name
        return json_response({"name": name.decode() if isinstance(name, bytes) else name, "size": size})

    async def download() -> Response:
        return file(str(given.file), "application/octet-stream")

    async def work() -> None:
        await asyncio.sleep(0.01)
        given.background += 1

    async def background() -> Response:
        tasks.add(asyncio.create_task(work()))
        return accepted("later")

    async def state() -> Response:
        return text(words[0])

    async def error() -> Response:
        raise ZeroDivisionError

    async def endless() -> Response:
        return Response(200, content=StreamedContent(b"text/plain", endless_data))

    async def talk(websocket: WebSocket) -> None:
        await websocket.accept()
        try:
            while True:
                await websocket.send_text(await websocket.receive_text())
                await websocket.send_bytes(await websocket.receive_bytes())
        except WebSocketDisconnectError:
            given.left += 1

    for path, function in {
        "json": json,
        "stream": stream,
        "events": events,
        "download": download,
        "state": state,
        "error": error,
        "forever": endless,
    }.items():
        router.add_get("/" + path, function)
    for path, function in {"echo": echo, "upload": upload, "background": background}.items():
        router.add_post("/" + path, function)
    router.add_ws("/talk", talk)
    return app


MAKERS: dict[str, Maker] = {
    "FastAPI": fastapi,
    "Starlette": starlette,
    "Django": django,
    "Quart": quart,
    "Litestar": litestar,
    "Falcon": falcon,
    "BlackSheep": blacksheep,
}

WITHOUT = {
    ("Django", "state"): "Django has no lifespan",
    ("Django", "websocket"): "Django has no WebSocket of its own",
}
"""Cases that a framework has no words for, and why."""
