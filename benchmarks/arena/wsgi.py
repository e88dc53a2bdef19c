"""The arena's endpoints as WSGI (PEP 3333): what the WSGI servers are asked. Loaded as `benchmarks.arena.wsgi:app`.

There is no database behind it: /async-db gives the empty answer that the rules have for that. Nor are there WebSockets.
"""

import gzip
import json
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import parse_qs

from benchmarks.arena.shared import EMPTY, GZIP_LEVEL, first_items, static_file, takes_gzip

Environ = dict[str, Any]
StartResponse = Callable[..., Any]

TEXT, JSON = "text/plain", "application/json"
PIECE = 1 << 18


def answer(
    start_response: StartResponse, kind: str, body: bytes, status: str = "200 OK", *fields: tuple[str, str]
) -> Iterable[bytes]:
    start_response(status, [("Content-Type", kind), ("Content-Length", str(len(body))), *fields])
    return [body]


def baseline(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    query = parse_qs(environ["QUERY_STRING"])
    total = int(query["a"][0]) + int(query["b"][0])
    if environ["REQUEST_METHOD"] == "POST":
        total += int(environ["wsgi.input"].read())
    elif environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
        return answer(start_response, TEXT, b"Method Not Allowed", "405 Method Not Allowed")
    return answer(start_response, TEXT, b"%d" % total)


def pipeline(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    return answer(start_response, TEXT, b"ok")


def upload(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    size = 0
    while piece := environ["wsgi.input"].read(PIECE):
        size += len(piece)
    return answer(start_response, TEXT, b"%d" % size)


def items(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    m = int(parse_qs(environ.get("QUERY_STRING", "")).get("m", ["1"])[0])
    body = json.dumps(first_items(int(environ["PATH_INFO"].rpartition("/")[2]), m)).encode()
    if takes_gzip(environ.get("HTTP_ACCEPT_ENCODING", "")):
        return answer(start_response, JSON, gzip.compress(body, GZIP_LEVEL), "200 OK", ("Content-Encoding", "gzip"))
    return answer(start_response, JSON, body)


def rows(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    return answer(start_response, JSON, json.dumps(EMPTY).encode())


def static(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    found = static_file(environ["PATH_INFO"].removeprefix("/static/"))
    if found is None:
        return answer(start_response, TEXT, b"Not Found", "404 Not Found")
    return answer(start_response, *found)


ROUTES = {"/baseline11": baseline, "/pipeline": pipeline, "/upload": upload, "/async-db": rows}


def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    path = environ["PATH_INFO"]
    handler = ROUTES.get(path) or (items if path.startswith("/json/") else static)
    return handler(environ, start_response)
