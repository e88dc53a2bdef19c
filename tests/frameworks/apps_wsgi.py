"""The small application of test_wsgi_frameworks.py in each framework's own words.

GET  /json       {"message": "hello"}
POST /echo       the body as it came
GET  /stream     "0123456789" from a generator
GET  /events     three server-sent events, "data: 0" to "data: 2"
POST /upload     {"name": ..., "size": ...} of the file in the form's field "file"
GET  /download   the file `Given.file`, through wsgi.file_wrapper where the framework uses it
POST /background 202 at once; `Given.background` grows when the answer is over
GET  /error      an exception nobody handles
GET  /late       an exception after the first piece
GET  /forever    an endless stream; `Given.left` grows when its client has left
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass
class Given:
    """What an application and its test share: both run in one process."""

    file: Path
    background: int = 0
    left: int = 0


def digits() -> Iterator[bytes]:
    for digit in range(10):
        yield b"%d" % digit


def events() -> Iterator[bytes]:
    for n in range(3):
        yield b"data: %d\n\n" % n


def late() -> Iterator[bytes]:
    yield b"begun"
    raise RuntimeError("in the middle")


def forever(given: Given) -> Iterator[bytes]:
    try:
        while True:
            yield b"x" * 1024
    finally:
        given.left += 1


def flask(given: Given) -> Any:
    from flask import Flask, Response, jsonify, request, send_file

    app = Flask(__name__)

    @app.get("/json")
    def json_() -> Any:
        return jsonify(message="hello")

    @app.post("/echo")
    def echo() -> Any:
        return Response(request.get_data(), mimetype="application/octet-stream")

    @app.get("/stream")
    def stream() -> Any:
        return Response(digits(), mimetype="text/plain")

    @app.get("/events")
    def events_() -> Any:
        return Response(events(), mimetype="text/event-stream")

    @app.post("/background")
    def background() -> Any:
        answer = Response("later", 202)

        @answer.call_on_close
        def work() -> None:
            given.background += 1

        return answer

    @app.post("/upload")
    def upload() -> Any:
        file = request.files["file"]
        return jsonify(name=file.filename, size=len(file.read()))

    @app.get("/download")
    def download() -> Any:
        return send_file(given.file, mimetype="application/octet-stream")

    @app.get("/error")
    def error() -> Any:
        raise RuntimeError("nobody handles this")

    @app.get("/late")
    def late_() -> Any:
        return Response(late(), mimetype="text/plain")

    @app.get("/forever")
    def forever_() -> Any:
        return Response(forever(given), mimetype="text/plain")

    return app


def django(given: Given) -> Any:
    import django
    from django.conf import settings
    from django.core.handlers.wsgi import WSGIHandler
    from django.http import FileResponse, HttpResponse, JsonResponse, StreamingHttpResponse
    from django.urls import path

    if not settings.configured:
        settings.configure(
            ALLOWED_HOSTS=["*"],
            ROOT_URLCONF="",
            SECRET_KEY="for tests",
            MIDDLEWARE=["django.middleware.common.CommonMiddleware"],
            LOGGING_CONFIG=None,
        )
        django.setup()

    def echo(request: Any) -> Any:
        # Django reads as much as Content-Length says; a chunked body is there all the same.
        whole = request.body or request.environ["wsgi.input"].read()
        return HttpResponse(whole, content_type="application/octet-stream")

    def upload(request: Any) -> Any:
        file = request.FILES["file"]
        return JsonResponse({"name": file.name, "size": file.size})

    def error(request: Any) -> Any:
        raise RuntimeError("nobody handles this")

    class Later(HttpResponse):
        def close(self) -> None:
            super().close()
            given.background += 1

    class Urls:
        urlpatterns = (
            path("json", lambda request: JsonResponse({"message": "hello"})),
            path("echo", echo),
            path("stream", lambda request: StreamingHttpResponse(digits(), content_type="text/plain")),
            path("events", lambda request: StreamingHttpResponse(events(), content_type="text/event-stream")),
            path("background", lambda request: Later("later", status=202)),
            path("upload", upload),
            path("download", lambda request: FileResponse(given.file.open("rb"))),
            path("error", error),
            path("late", lambda request: StreamingHttpResponse(late())),
            path("forever", lambda request: StreamingHttpResponse(forever(given))),
        )

    class Handler(WSGIHandler):
        """With URLs of its own: the settings are the process's."""

        def get_response(self, request: Any) -> Any:
            request.urlconf = Urls
            return super().get_response(request)

    return Handler()


def bottle(given: Given) -> Any:
    from bottle import Bottle, request, response, static_file

    app = Bottle()

    @app.get("/json")
    def json_() -> Any:
        return {"message": "hello"}

    @app.post("/echo")
    def echo() -> Any:
        response.content_type = "application/octet-stream"
        # Bottle takes an unframed chunked body for a framed one.
        return request.environ["wsgi.input"].read() if request.chunked else request.body.read()

    @app.get("/stream")
    def stream() -> Any:
        yield from digits()

    @app.get("/events")
    def events_() -> Any:
        response.content_type = "text/event-stream"
        yield from events()

    @app.post("/upload")
    def upload() -> Any:
        file = request.files["file"]
        return {"name": file.raw_filename, "size": len(file.file.read())}

    @app.get("/download")
    def download() -> Any:
        return static_file(given.file.name, str(given.file.parent))

    @app.get("/error")
    def error() -> Any:
        raise RuntimeError("nobody handles this")

    @app.get("/late")
    def late_() -> Any:
        yield from late()

    @app.get("/forever")
    def forever_() -> Any:
        yield from forever(given)

    return app


def falcon(given: Given) -> Any:
    from falcon import App

    class Resource:
        def __init__(self, **methods: Callable[[Any, Any], None]) -> None:
            for name, method in methods.items():
                setattr(self, name, lambda req, resp, method=method: method(req, resp))

    def json_(req: Any, resp: Any) -> None:
        resp.media = {"message": "hello"}

    def echo(req: Any, resp: Any) -> None:
        resp.data = req.stream.read()

    def stream(req: Any, resp: Any) -> None:
        resp.stream = digits()

    def events_(req: Any, resp: Any) -> None:
        resp.content_type, resp.stream = "text/event-stream", events()

    def upload(req: Any, resp: Any) -> None:
        for part in req.get_media():
            resp.media = {"name": part.filename, "size": len(part.stream.read())}

    def download(req: Any, resp: Any) -> None:
        resp.stream = given.file.open("rb")  # a file: Falcon gives it to wsgi.file_wrapper

    def error(req: Any, resp: Any) -> None:
        raise RuntimeError("nobody handles this")

    def late_(req: Any, resp: Any) -> None:
        resp.stream = late()

    def forever_(req: Any, resp: Any) -> None:
        resp.stream = forever(given)

    app = App()
    app.add_route("/json", Resource(on_get=json_))
    app.add_route("/echo", Resource(on_post=echo))
    app.add_route("/stream", Resource(on_get=stream))
    app.add_route("/events", Resource(on_get=events_))
    app.add_route("/upload", Resource(on_post=upload))
    app.add_route("/download", Resource(on_get=download))
    app.add_route("/error", Resource(on_get=error))
    app.add_route("/late", Resource(on_get=late_))
    app.add_route("/forever", Resource(on_get=forever_))
    return app


def pyramid(given: Given) -> Any:
    from pyramid.config import Configurator
    from pyramid.response import FileResponse, Response

    def upload(request: Any) -> Any:
        form = request.POST["file"]
        with form.file, request.body_file_raw:  # WebOb put the body into a file, and leaves it to the collector
            return Response(json_body={"name": form.filename, "size": len(form.file.read())})

    def error(request: Any) -> Any:
        raise RuntimeError("nobody handles this")

    def background(request: Any) -> Any:
        class Later:
            def __iter__(self) -> Iterator[bytes]:
                yield b"later"

            def close(self) -> None:
                given.background += 1

        return Response(app_iter=Later(), content_type="text/plain", status=202)

    views: dict[str, Callable[[Any], Any]] = {
        "json": lambda request: Response(json_body={"message": "hello"}),
        "echo": lambda request: Response(request.body_file.read(), content_type="application/octet-stream"),
        "stream": lambda request: Response(app_iter=digits(), content_type="text/plain"),
        "events": lambda request: Response(app_iter=events(), content_type="text/event-stream"),
        "background": background,
        "upload": upload,
        "download": lambda request: FileResponse(str(given.file), request=request),
        "error": error,
        "late": lambda request: Response(app_iter=late(), content_type="text/plain"),
        "forever": lambda request: Response(app_iter=forever(given), content_type="text/plain"),
    }
    with Configurator() as config:
        for name, view in views.items():
            config.add_route(name, f"/{name}")
            config.add_view(view, route_name=name)
        return config.make_wsgi_app()


MAKERS: dict[str, Callable[[Given], Any]] = {
    "Flask": flask,
    "Django": django,
    "bottle": bottle,
    "falcon": falcon,
    "pyramid": pyramid,
}
"""By the name of the distribution."""

WITHOUT = {
    ("bottle", "background"): "Bottle and Falcon have no word for what happens after an answer",
    ("falcon", "background"): "Bottle and Falcon have no word for what happens after an answer",
}
"""Cases that a framework has no words for, and why."""
