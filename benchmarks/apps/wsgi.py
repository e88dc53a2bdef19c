"""The small application as WSGI (PEP 3333). Loaded by granian-wsgi and fastserve as `benchmarks.apps.wsgi:app`."""

import json
from collections.abc import Callable, Iterable
from typing import Any

TEN_KILOBYTES = b"0123456789abcdef" * 640
ONE_MEGABYTE = b"0123456789abcdef" * 65536
CHUNK = b"0123456789abcdef" * 64

TEXT = ("Content-Type", "text/plain; charset=utf-8")
JSON = ("Content-Type", "application/json")
BINARY = ("Content-Type", "application/octet-stream")

Environ = dict[str, Any]
StartResponse = Callable[..., Any]


def index(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    return answer(start_response, TEXT, b"Hello, World!")


def message(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    return answer(start_response, JSON, json.dumps({"message": "Hello, World!"}).encode())


def echo(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    return answer(start_response, BINARY, environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0)))


def ten_kilobytes(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    return answer(start_response, BINARY, TEN_KILOBYTES)


def one_megabyte(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    return answer(start_response, BINARY, ONE_MEGABYTE)


def stream(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", [BINARY])
    return (CHUNK for _ in range(10))


def nothing(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    return answer(start_response, TEXT, b"Not Found", "404 Not Found")


def answer(
    start_response: StartResponse, content_type: tuple[str, str], body: bytes, status: str = "200 OK"
) -> Iterable[bytes]:
    start_response(status, [content_type, ("Content-Length", str(len(body)))])
    return [body]


ROUTES = {
    ("GET", "/"): index,
    ("GET", "/json"): message,
    ("POST", "/echo"): echo,
    ("GET", "/10k"): ten_kilobytes,
    ("GET", "/1m"): one_megabyte,
    ("GET", "/stream"): stream,
}


def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    return ROUTES.get((environ["REQUEST_METHOD"], environ["PATH_INFO"]), nothing)(environ, start_response)
