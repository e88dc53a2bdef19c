"""The WSGI wing over real sockets: PEP 3333 as a table, in threads and on the loop; the validator; bodies, deadlines."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import gzip
import io
import json
import logging
import socket
import sys
import threading
import time
import tracemalloc
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from wsgiref.validate import validator

import httpx
import pytest
from asgiref.sync import async_to_sync
from interfaces.clients import poll

from fastserve.errors import ClientDisconnected
from fastserve.interfaces import make_handler
from fastserve.interfaces.wsgi import ErrorStream, FileWrapper, WSGIHandler
from fastserve.testing import live_server

MODES = pytest.mark.parametrize("threads", [4, 0], ids=["threads", "inline"])
OK = "200 OK"
TEXT = [("Content-Type", "text/plain")]


# ---------------------------------------------------------------------------------------------------------- helpers


@contextlib.contextmanager
def serving(app: Any, **options: Any) -> Iterator[tuple[str, int]]:
    with live_server(app, interface="wsgi", **options) as url:
        host, port = url.removeprefix("http://").rsplit(":", 1)
        yield host, int(port)


def connect(address: tuple[str, int], **options: Any) -> socket.socket:
    return socket.create_connection(address, timeout=20, **options)


def talk(address: tuple[str, int], raw: bytes, *, end: bool = False) -> bytes:
    """Everything that comes back until the server closes; the request says `Connection: close`, or is the last one."""
    with connect(address) as sock:
        sock.sendall(raw)
        if end:
            sock.shutdown(socket.SHUT_WR)
        return read_all(sock)


def read_all(sock: socket.socket) -> bytes:
    data = bytearray()
    with contextlib.suppress(ConnectionResetError):
        while piece := sock.recv(262144):
            data += piece
    return bytes(data)


def get(path: str = "/", *fields: str, method: str = "GET", version: str = "1.1", body: bytes = b"") -> bytes:
    head = [f"{method} {path} HTTP/{version}", "Host: test", "Connection: close", *fields]
    if body:
        head.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*head, "", ""]).encode("latin-1") + body


def split(raw: bytes) -> tuple[str, dict[str, str], bytes]:
    """The status line, the fields, the rest."""
    head, _, rest = raw.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    return lines[0], {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines[1:])}, rest


@contextlib.contextmanager
def error_log(caplog: pytest.LogCaptureFixture) -> Iterator[list[str]]:
    """What reached the error log, as it stands in the file: message and traceback."""
    with caplog.at_level(logging.WARNING, "fastserve.error"):
        seen = Seen(caplog)
        yield seen


class Seen(list[str]):
    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        super().__init__()
        self.caplog = caplog
        self.first = len(caplog.records)

    def text(self) -> str:
        records = self.caplog.records[self.first :]
        return "\n".join(logging.Formatter().format(r) for r in records if r.name == "fastserve.error")


def dump(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    """The environ as JSON."""
    shown = {k: v if isinstance(v, str | int | bool) else repr(type(v)) for k, v in environ.items()}
    start_response(OK, [("Content-Type", "application/json")])
    return [json.dumps(shown).encode()]


# ------------------------------------------------------------------------------------------------------- the environ


ENVIRON: list[tuple[str, bytes, dict[str, Any], list[str]]] = [
    # what, the request, what must be in the environ, what must not
    (
        "plain",
        b"GET / HTTP/1.1\r\nHost: example.org:81\r\nConnection: close\r\n\r\n",
        {
            "REQUEST_METHOD": "GET",
            "SCRIPT_NAME": "",
            "PATH_INFO": "/",
            "QUERY_STRING": "",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "HTTP_HOST": "example.org:81",
            "REMOTE_ADDR": "127.0.0.1",
            "SERVER_NAME": "127.0.0.1",
            "RAW_URI": "/",
            "REQUEST_URI": "/",
            "wsgi.url_scheme": "http",
            "wsgi.input_terminated": True,
            "wsgi.run_once": False,
            "wsgi.multiprocess": False,
        },
        ["CONTENT_LENGTH", "CONTENT_TYPE", "HTTP_CONNECTION", "HTTP_CONTENT_LENGTH"],
    ),
    ("1.0", b"GET / HTTP/1.0\r\n\r\n", {"SERVER_PROTOCOL": "HTTP/1.0"}, ["HTTP_HOST"]),
    (
        "target",
        b"GET /a%20b/%C3%A9%ff%2Fx%zz;p?q=%20&r=? HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        {
            "PATH_INFO": "/a b/\xc3\xa9\xff/x%zz;p",
            "QUERY_STRING": "q=%20&r=?",
            "RAW_URI": "/a%20b/%C3%A9%ff%2Fx%zz;p?q=%20&r=?",
        },
        [],
    ),
    ("path alone", b"GET /plain HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", {"PATH_INFO": "/plain"}, []),
    ("empty query", b"GET /p? HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", {"QUERY_STRING": ""}, []),
    (
        "absolute-form",
        b"GET http://target.example:8080/x?y HTTP/1.1\r\nHost: other\r\nConnection: close\r\n\r\n",
        {"HTTP_HOST": "target.example:8080", "PATH_INFO": "/x", "QUERY_STRING": "y"},
        [],
    ),
    (
        "absolute-form without a path",
        b"GET http://target.example?y HTTP/1.1\r\nHost: other\r\nConnection: close\r\n\r\n",
        {"HTTP_HOST": "target.example", "PATH_INFO": "/", "QUERY_STRING": "y"},
        [],
    ),
    ("absolute-form in 1.0", b"GET http://a.example/ HTTP/1.0\r\n\r\n", {"HTTP_HOST": "a.example"}, []),
    (
        "asterisk",
        b"OPTIONS * HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        {"REQUEST_METHOD": "OPTIONS", "PATH_INFO": "", "RAW_URI": "*"},
        [],
    ),
    ("own method", b"BREW / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", {"REQUEST_METHOD": "BREW"}, []),
    (
        "fields",
        b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nACCEPT: a\r\naccept: b\r\nX-One: 1\r\nx-one: 2\r\nX-One: 3\r\n"
        b"Cookie: a=1\r\ncookie: b=2\r\nX.y!z-9: v\r\nUser-Agent:  spaced \t\r\nX-Latin: caf\xe9\r\nX-Empty:\r\n\r\n",
        {
            "HTTP_ACCEPT": "a, b",
            "HTTP_X_ONE": "1, 2, 3",
            "HTTP_COOKIE": "a=1; b=2",
            "HTTP_X.Y!Z_9": "v",
            "HTTP_USER_AGENT": "spaced",
            "HTTP_X_LATIN": "caf\xe9",
            "HTTP_X_EMPTY": "",
        },
        [],
    ),
    (
        "fields that are not passed on",
        b"GET / HTTP/1.1\r\nHost: x\r\nX_Forwarded_For: evil\r\nX-Forwarded_Proto: evil\r\nContent_Length: 5\r\n"
        b"Proxy: http://evil\r\nConnection: close, te\r\nKeep-Alive: 5\r\nTE: trailers\r\nUpgrade: h2c\r\n"
        b"Trailer: X-T\r\nProxy-Connection: keep-alive\r\nHTTP2-Settings: AAA\r\nX-Forwarded-For: 1.2.3.4\r\n\r\n",
        {"HTTP_X_FORWARDED_FOR": "1.2.3.4"},
        [
            *("HTTP_X_FORWARDED_PROTO", "HTTP_CONTENT_LENGTH", "CONTENT_LENGTH", "HTTP_PROXY", "HTTP_CONNECTION"),
            *("HTTP_KEEP_ALIVE", "HTTP_TE", "HTTP_UPGRADE", "HTTP_TRAILER", "HTTP_PROXY_CONNECTION"),
            "HTTP_HTTP2_SETTINGS",
        ],
    ),
    (
        "content",
        b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: a/b; c=d\r\nContent-Length: 3\r\n"
        b"Content-Encoding: gzip\r\n\r\nabc",
        {"CONTENT_TYPE": "a/b; c=d", "CONTENT_LENGTH": "3", "HTTP_CONTENT_ENCODING": "gzip"},
        ["HTTP_CONTENT_TYPE", "HTTP_CONTENT_LENGTH"],
    ),
    (
        "chunked",
        b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        {"HTTP_TRANSFER_ENCODING": "chunked"},
        ["CONTENT_LENGTH"],
    ),
]


@MODES
def test_environ(threads: int) -> None:
    with serving(dump, threads=threads) as address:
        for what, raw, expected, absent in ENVIRON:
            status, _, body = split(talk(address, raw))
            assert status.endswith("200 OK"), what
            environ = json.loads(body)
            assert {key: environ.get(key) for key in expected} == expected, what
            assert not [key for key in absent if key in environ], what
            assert environ["SERVER_PORT"] == str(address[1]) and environ["REMOTE_PORT"].isdigit()
            assert environ["wsgi.multithread"] is True
            assert all(isinstance(value, str) for key, value in environ.items() if "." not in key.replace("X.Y", ""))


def test_environ_of_one_thread() -> None:
    with serving(dump, threads=1) as address:
        assert json.loads(split(talk(address, get()))[2])["wsgi.multithread"] is False


def test_many_fields() -> None:
    """The dict grows beyond the room it was prepared with, and keeps what it held."""
    fields = [f"X-Field-{n}: {n}" for n in range(90)]
    with serving(dump, threads=0) as address:
        environ = json.loads(split(talk(address, get("/p?q", *fields)))[2])
    assert [environ[f"HTTP_X_FIELD_{n}"] for n in range(90)] == [str(n) for n in range(90)]
    assert environ["PATH_INFO"] == "/p" and environ["wsgi.url_scheme"] == "http"


def test_the_fields_of_a_browser_do_not_make_the_environ_grow() -> None:
    """It is a copy with room for them: growing, once for each request, would cost more than filling it does."""

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response(OK, TEXT)
        return [str(sys.getsizeof(environ)).encode()]

    bare = b"GET / HTTP/1.0\r\n\r\n"
    with serving(app, threads=0) as address:
        sizes = {split(talk(address, raw))[2] for raw in (bare, get(*["/", *(f"X-Field-{n}: {n}" for n in range(14))]))}
    assert len(sizes) == 1


def test_environ_belongs_to_one_request() -> None:
    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        seen = environ.get("HTTP_X_MARK", "none") + environ.get("app.mark", "-") + environ["QUERY_STRING"]
        environ["app.mark"] = "left over"
        environ["SERVER_NAME"] = environ["wsgi.url_scheme"] = "changed"
        start_response(OK, TEXT)
        return [seen.encode()]

    with serving(app, threads=0) as (host, port), httpx.Client(base_url=f"http://{host}:{port}") as client:
        assert client.get("/?q=1", headers={"X-Mark": "1"}).text == "1-q=1"
        assert client.get("/").text == "none-"


@pytest.mark.parametrize(
    ("root", "path", "script_name", "path_info"),
    [
        ("/app", "/app/x", "/app", "/x"),
        ("/app", "/app", "/app", ""),
        ("/app", "/x", "/app", "/x"),
        ("/app", "/application", "/app", "/application"),
        ("/caf\xe9", "/caf%C3%A9/x", "/caf\xc3\xa9", "/x"),
        ("", "/x", "", "/x"),
    ],
)
def test_root_path(root: str, path: str, script_name: str, path_info: str) -> None:
    with serving(dump, root_path=root, threads=0) as address:
        environ = json.loads(split(talk(address, get(path)))[2])
    assert (environ["SCRIPT_NAME"], environ["PATH_INFO"]) == (script_name, path_info)


def test_unix_socket(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with live_server(dump, interface="wsgi", uds=path), socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(20)
        sock.connect(path)
        sock.sendall(get())
        environ = json.loads(split(read_all(sock))[2])
    assert (environ["SERVER_NAME"], environ["SERVER_PORT"], environ["REMOTE_ADDR"]) == ("localhost", "80", "")
    assert "REMOTE_PORT" not in environ


def test_connect_is_refused() -> None:
    with serving(dump) as address:
        raw = talk(address, b"CONNECT a.example:1 HTTP/1.1\r\nHost: a.example:1\r\nConnection: close\r\n\r\n")
    assert raw.startswith(b"HTTP/1.1 501 ")


# ---------------------------------------------------------------------------------------------------- start_response


def responder(status: Any, headers: Any, body: Any = (b"body",)) -> Any:
    def app(environ: Any, start_response: Any) -> Any:
        start_response(status, headers)
        return body() if callable(body) else body

    return app


RESPONSES: list[tuple[str, Any, str, dict[str, str | None], bytes]] = [
    # what, application, status line, fields (None: absent), the rest of the bytes
    ("one piece", responder(OK, TEXT), "200 OK", {"content-length": "4", "content-type": "text/plain"}, b"body"),
    ("tuple", responder(OK, TEXT, (b"a", b"", b"b")), "200 OK", {"content-length": "2"}, b"ab"),
    ("list", responder(OK, TEXT, [b"a", b"b"]), "200 OK", {"content-length": "2"}, b"ab"),
    ("nothing", responder(OK, TEXT, []), "200 OK", {"content-length": "0"}, b""),
    ("empty pieces", responder(OK, TEXT, [b"", b""]), "200 OK", {"content-length": "0"}, b""),
    (
        "generator",
        responder(OK, TEXT, lambda: (x for x in (b"", b"ab", b"", b"c"))),
        "200 OK",
        {"transfer-encoding": "chunked", "content-length": None},
        b"2\r\nab\r\n1\r\nc\r\n0\r\n\r\n",
    ),
    ("empty generator", responder(OK, TEXT, lambda: iter(())), "200 OK", {"content-length": "0"}, b""),
    (
        "generator of a known length",
        responder(OK, [("Content-Length", "3")], lambda: (x for x in (b"ab", b"c"))),
        "200 OK",
        {"content-length": "3", "transfer-encoding": None},
        b"abc",
    ),
    ("own reason", responder("299 All Is Caf\xe9", TEXT), "299 All Is Caf\xe9", {}, b"body"),
    ("code alone", responder("404", TEXT), "404 Not Found", {}, b"body"),
    ("unknown code", responder("599", TEXT), "599", {}, b"body"),
    ("204", responder("204 No Content", [], []), "204 No Content", {"content-length": None}, b""),
    ("204 with a body", responder("204 No Content", []), "204 No Content", {"content-length": None}, b""),
    ("204 without an end", responder("204 No Content", [], lambda: endless()), "204 No Content", {}, b""),
    ("304", responder("304 Not Modified", [], []), "304 Not Modified", {"content-length": None}, b""),
    ("304 with a length", responder("304 Not Modified", [("Content-Length", "9")], []), "304 Not Modified",
     {"content-length": "9"}, b""),
    ("latin-1 value", responder(OK, [("X-A", "caf\xe9")]), "200 OK", {"x-a": "caf\xe9"}, b"body"),
    ("own date", responder(OK, [("Date", "then")]), "200 OK", {"date": "then"}, b"body"),
    ("connection fields", responder(OK, [("Connection", "keep-alive"), ("Keep-Alive", "timeout=5")]), "200 OK",
     {"connection": "close", "keep-alive": None}, b"body"),
    ("said to be chunked", responder(OK, [("Transfer-Encoding", "chunked")]), "200 OK", {"content-length": "4"}, b"body"),
    ("two equal lengths", responder(OK, [("Content-Length", "4"), ("content-length", "4")]), "200", {}, b"body"),
    ("too much", responder(OK, [("Content-Length", "2")]), "200 OK", {"content-length": "2"}, b"bo"),
    ("too much, in pieces", responder(OK, [("Content-Length", "2")], lambda: iter([b"b", b"ody", b"x"])), "200 OK",
     {"content-length": "2"}, b"bo"),
    ("too little", responder(OK, [("Content-Length", "9")]), "200 OK", {"content-length": "9"}, b"body"),
    ("too little, in pieces", responder(OK, [("Content-Length", "9")], lambda: iter([b"bo", b"dy"])), "200 OK",
     {"content-length": "9"}, b"body"),
]  # fmt: skip

FAULTS: list[tuple[str, Any, str]] = [
    # what, application, what the log says; the answer is 500
    ("LF in a value", responder(OK, [("X-A", "a\nSet-Cookie: b")]), "another control in the value of X-A"),
    ("CR in a value", responder(OK, [("X-A", "a\rb")]), "another control in the value"),
    ("NUL in a value", responder(OK, [("X-A", "a\0b")]), "another control in the value"),
    ("LF in a name", responder(OK, [("X-A\nX", "a")]), "not a field name"),
    ("colon in a name", responder(OK, [("X-A:", "a")]), "not a field name"),
    ("empty name", responder(OK, [("", "a")]), "not a field name"),
    ("beyond latin-1", responder(OK, [("X-A", "\u20ac")]), "latin-1 only"),
    ("bytes", responder(OK, [(b"X-A", b"a")]), "a tuple of two str"),
    ("list in the list", responder(OK, [["X-A", "a"]]), "a tuple of two str"),
    ("three", responder(OK, [("X-A", "a", "b")]), "a tuple of two str"),
    ("number", responder(OK, [("Content-Length", 4)]), "a tuple of two str"),
    ("dict", responder(OK, {"X-A": "a"}), "are a list, not dict"),
    ("upgrade", responder(OK, [("Upgrade", "h2c")]), "hop-by-hop"),
    ("te", responder(OK, [("TE", "x")]), "hop-by-hop"),
    ("trailer", responder(OK, [("Trailer", "x")]), "hop-by-hop"),
    ("proxy-authenticate", responder(OK, [("Proxy-Authenticate", "x")]), "hop-by-hop"),
    ("coding", responder(OK, [("Transfer-Encoding", "gzip, chunked")]), "transfer codings are the server's"),
    ("no length", responder(OK, [("Content-Length", "-1")]), "not a Content-Length"),
    ("digits of another script", responder(OK, [("Content-Length", "\xb2")]), "not a Content-Length"),
    ("two lengths", responder(OK, [("Content-Length", "4"), ("Content-Length", "5")]), "two values of Content-Length"),
    ("status without a code", responder("OK", TEXT), "not a status such as"),
    ("status number", responder(200, TEXT), "a status is str"),
    ("status bytes", responder(b"200 OK", TEXT), "a status is str"),
    ("status 100", responder("100 Continue", TEXT), "not the status of a final response"),
    ("status 101", responder("101 Switching Protocols", TEXT), "not the status of a final response"),
    ("status with LF", responder("200 OK\r\nX: y", TEXT), "in the reason phrase"),
    ("status without a space", responder("2000", TEXT), "not a status such as"),
    ("str", responder(OK, TEXT, ["text"]), "bytes (PEP 3333), not str"),
    ("str of a generator", responder(OK, TEXT, lambda: iter(["text"])), "bytes (PEP 3333), not str"),
    ("bytearray", responder(OK, TEXT, [bytearray(b"x")]), "bytes (PEP 3333), not bytearray"),
    ("a str as the body", responder(OK, TEXT, "text"), "bytes (PEP 3333), not str"),
    ("None", responder(OK, TEXT, None), "not iterable"),
    ("no start_response", lambda environ, start_response: [b"x"], "without calling start_response"),
    ("no start_response, generator", lambda environ, start_response: iter([b"x"]), "without calling start_response"),
    ("no start_response, no body", lambda environ, start_response: iter([]), "without calling start_response"),
    ("an exception", lambda environ, start_response: 1 / 0, "ZeroDivisionError"),
    ("SystemExit", lambda environ, start_response: exec("raise SystemExit(3)"), "SystemExit: 3"),
    ("an exception of the first step", responder(OK, TEXT, lambda: (1 / 0 for _ in "a")), "ZeroDivisionError"),
]


def pick(cases: list[Any]) -> Any:
    """One application that answers /N with case N."""

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        return cases[int(environ["PATH_INFO"][1:])][1](environ, start_response)

    return app


@MODES
def test_responses(threads: int) -> None:
    with serving(pick(RESPONSES), threads=threads) as address:
        for number, (what, _, status, fields, body) in enumerate(RESPONSES):
            line, found, rest = split(talk(address, get(f"/{number}")))
            assert line.startswith(f"HTTP/1.1 {status}"), what
            assert {name: found.get(name) for name in fields} == fields, what
            assert rest == body, what
            # HEAD: the same head, no body
            line_head, found_head, rest_head = split(talk(address, get(f"/{number}", method="HEAD")))
            assert line_head == line and rest_head == b"", what
            if "content-length" in found_head:
                assert found_head["content-length"] == found.get("content-length"), what


@MODES
def test_faults(threads: int, caplog: pytest.LogCaptureFixture) -> None:
    with serving(pick(FAULTS), threads=threads) as address:
        for number, (what, _, text) in enumerate(FAULTS):
            with error_log(caplog) as log:
                status, fields, body = split(talk(address, get(f"/{number}")))
            assert status == "HTTP/1.1 500 Internal Server Error", what
            assert body == b"Internal Server Error" and fields["content-length"] == "21", what
            assert text in log.text() and f"GET /{number}: " in log.text(), what  # type: ignore[attr-defined]
        # and the server goes on
        assert split(talk(address, get("/0")))[0].endswith("500 Internal Server Error")


@MODES
@pytest.mark.parametrize("declared", ["2", "9"], ids=["too much", "too little"])
def test_a_wrong_length_ends_the_connection(threads: int, declared: str, caplog: pytest.LogCaptureFixture) -> None:
    """The next request of the connection is never answered inside the body of this one."""
    with serving(responder(OK, [("Content-Length", declared)]), threads=threads) as address, error_log(caplog) as log:
        raw = talk(address, b"GET /1 HTTP/1.1\r\nHost: x\r\n\r\nGET /2 HTTP/1.1\r\nHost: x\r\n\r\n")
        poll(lambda: "Content-Length declared" in log.text())  # type: ignore[attr-defined]
        assert "GET /1: " in log.text()  # type: ignore[attr-defined]
    assert raw.count(b"HTTP/1.1 200") == 1 and raw.endswith(b"body"[: int(declared)])


@MODES
def test_exc_info(threads: int, caplog: pytest.LogCaptureFixture) -> None:
    import sys

    raised: list[BaseException] = []

    def app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        path = environ["PATH_INFO"]
        start_response(OK, [("X-First", "1")])
        if path == "/late":
            yield b"x" * 10
        try:
            raise KeyError(path)
        except KeyError:
            try:
                start_response("503 Sorry", [("X-Second", "2")], sys.exc_info())
            except KeyError as error:
                raised.append(error)
                raise
        yield b"sorry"

    def twice(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response(OK, TEXT)
        start_response(OK, TEXT)
        return [b"never"]

    with serving(app, threads=threads) as address, error_log(caplog):
        status, fields, body = split(talk(address, get("/early")))
        assert status == "HTTP/1.1 503 Sorry" and "x-first" not in fields and body == b"5\r\nsorry\r\n0\r\n\r\n"
        status, fields, body = split(talk(address, get("/late")))
        assert status == "HTTP/1.1 200 OK" and body == b"a\r\nxxxxxxxxxx\r\n"  # cut: no last chunk
        assert [str(error) for error in raised] == ["'/late'"]
    with serving(twice, threads=threads) as address, error_log(caplog) as log:
        assert split(talk(address, get()))[0].startswith("HTTP/1.1 500 ")
        assert "called twice" in log.text()  # type: ignore[attr-defined]


@MODES
def test_write(threads: int, caplog: pytest.LogCaptureFixture) -> None:
    errors: list[Exception] = []
    kept: list[Any] = []

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        path = environ["PATH_INFO"]
        write = start_response(OK, [("Content-Length", "5")] if path == "/more" else TEXT)
        write(b"")
        write(b"one")
        kept[:] = [write, start_response]
        if path == "/more":
            try:
                write(b"more")
            except Exception as error:
                errors.append(error)
                raise
        if path == "/str":
            write("text")
        return [b"two"] if path == "/list" else (x for x in (b"two", b"three"))

    with serving(app, threads=threads) as address, error_log(caplog) as log:
        assert split(talk(address, get("/list")))[2] == b"3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n"
        assert split(talk(address, get("/")))[2] == b"3\r\none\r\n3\r\ntwo\r\n5\r\nthree\r\n0\r\n\r\n"
        for late in kept:
            with pytest.raises(Exception, match=r"when the response was over|called twice"):
                late(b"x") if late is kept[0] else late(OK, TEXT)
        assert split(talk(address, get("/more")))[2] == b"onemo"
        until = time.monotonic() + 10
        while not errors and time.monotonic() < until:  # the client has its answer before the thread has its exception
            time.sleep(0.01)
        assert len(errors) == 1 and "Content-Length" in str(errors[0])
        poll(lambda: "GET /more: " in log.text())  # type: ignore[attr-defined]
        time.sleep(0.1)
        assert log.text().count("Content-Length") == 1  # type: ignore[attr-defined]
        assert split(talk(address, get("/str")))[2] == b"3\r\none\r\n"


@MODES
def test_http_1_0(threads: int) -> None:
    app = responder(OK, TEXT, lambda: iter([b"a", b"b"]))
    with serving(app, threads=threads) as address:
        raw = talk(address, b"GET / HTTP/1.0\r\n\r\n")
    assert raw.endswith(b"\r\n\r\nab") and b"transfer-encoding" not in raw and b"connection: close" in raw


@MODES
def test_pipelined_requests_are_answered_in_order(threads: int) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> Any:
        start_response(OK, TEXT)
        data = environ["PATH_INFO"].encode() + b"=" + environ["wsgi.input"].read() + b";"
        return [data] if environ["QUERY_STRING"] else (x for x in (data[:3], data[3:]))

    requests = []
    for number in range(60):
        body = b"b" * (number % 7)
        requests.append(
            b"POST /%d%s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s"
            % (number, b"?q" if number % 3 else b"", len(body), body)
        )
    with serving(app, threads=threads) as (host, port), connect((host, port)) as sock:
        sock.sendall(b"".join(requests) + get("/end?q"))
        raw = read_all(sock)
    for number in range(60):
        assert b"/%d=" % number in raw.replace(b"\r\n", b"") or number % 3 == 0
    assert raw.count(b"HTTP/1.1 200 OK") == 61 and raw.endswith(b"/end=;")


# ------------------------------------------------------------------------------------------------------- the input


def reading(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    """Reads as the query says; answers with what it read, as JSON."""
    source = environ["wsgi.input"]
    out: list[Any] = []
    for step in environ["QUERY_STRING"].split("&"):
        name, _, argument = step.partition("=")
        if name == "iter":
            out.append([line.decode() for line in source])
            continue
        value = getattr(source, name)(*([int(argument)] if argument else []))
        out.append([line.decode() for line in value] if isinstance(value, list) else value.decode())
    start_response(OK, TEXT)
    return [json.dumps(out).encode()]


READS: list[tuple[str, bytes, list[Any]]] = [
    ("read", b"abc", ["abc"]),
    ("read&read", b"abc", ["abc", ""]),
    ("read=-1", b"abc", ["abc"]),
    ("read=0&read=2&read=0&read=2&read=2", b"abc", ["", "ab", "", "c", ""]),
    ("read=99", b"abc", ["abc"]),
    ("readline&readline&readline&readline", b"a\nbc\nd", ["a\n", "bc\n", "d", ""]),
    ("readline=1&readline=1&readline=9", b"ab\ncd\n", ["a", "b", "\n"]),
    ("readline=3&readline=0&read", b"ab\ncd\n", ["ab\n", "", "cd\n"]),
    ("readlines", b"a\n\nb\nc", [["a\n", "\n", "b\n", "c"]]),
    ("readlines=2&readlines=1&readlines", b"a\nb\nc\nd", [["a\n"], ["b\n"], ["c\n", "d"]]),
    ("readlines=3&read", b"a\nb\nc\nd", [["a\n", "b\n"], "c\nd"]),
    ("iter&read", b"a\nb\nc", [["a\n", "b\n", "c"], ""]),
    ("read=1&iter", b"a\nb", [["a"][0], ["\n", "b"]]),
    ("read=2&readline&read=1&iter", b"abcd\nefg\nh", ["ab", "cd\n", "e", ["fg\n", "h"]]),
    ("read&readline&readlines&iter&read=5", b"", ["", "", [], [], ""]),
]


def pieces_of(body: bytes, size: int) -> list[bytes]:
    return [body[i : i + size] for i in range(0, len(body), size)]


@MODES
@pytest.mark.parametrize("how", ["at once", "bytewise", "chunked at once", "chunked bytewise"])
def test_reads(threads: int, how: str) -> None:
    """Every method gives the same whatever the framing and the cuts."""
    with serving(reading, threads=threads) as address:
        for query, body, expected in READS:
            if "chunked" in how:
                head = get(f"/?{query}", "Transfer-Encoding: chunked", method="POST")
                pieces = [b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces_of(body, 2)] + [b"0\r\n\r\n"]
            else:
                head = get(f"/?{query}", f"Content-Length: {len(body)}", method="POST")
                pieces = pieces_of(body, 1)
            with connect(address) as sock:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                if "once" in how:
                    sock.sendall(head + b"".join(pieces))
                else:
                    sock.sendall(head)
                    for piece in pieces:
                        time.sleep(0.002)
                        sock.sendall(piece)
                status, _, answer = split(read_all(sock))
            assert status.endswith("200 OK") and json.loads(answer) == expected, (query, body)


@MODES
def test_no_body(threads: int) -> None:
    with serving(reading, threads=threads) as address:
        assert json.loads(split(talk(address, get("/?read&readline&readlines&iter")))[2]) == ["", "", [], []]


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
@MODES
def test_the_body_is_read_while_it_comes(threads: int, chunked: bool) -> None:
    """The application has the first piece before the second is sent: nothing is gathered first."""
    first, second = threading.Event(), threading.Event()
    seen: list[bytes] = []

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        seen.append(environ["wsgi.input"].read(5))
        first.set()
        seen.append(environ["wsgi.input"].read1())
        second.set()
        seen.append(environ["wsgi.input"].read())
        start_response(OK, TEXT)
        return [b"".join(seen)]

    with serving(app, threads=threads) as address, connect(address) as sock:
        pieces = [b"first", b"second", b"third"]
        framing = "Transfer-Encoding: chunked" if chunked else "Content-Length: 16"
        if chunked:
            pieces = [b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces]
            pieces[2] += b"0\r\n\r\n"
        sock.sendall(get("/", framing, method="POST") + pieces[0])
        assert first.wait(10)
        sock.sendall(pieces[1])
        assert second.wait(10)
        sock.sendall(pieces[2])
        assert split(read_all(sock))[2] == b"firstsecondthird"
    assert seen == [b"first", b"second", b"third"]


@MODES
def test_a_large_body_is_held_in_bounds(threads: int) -> None:
    """The application sleeps, the client sends for all it is worth: the kernel's buffers fill, not ours."""
    go = threading.Event()
    size = 64 * 1024 * 1024

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        source = environ["wsgi.input"]
        count = len(source.read(100))
        assert go.wait(20)
        while piece := source.read(65536):
            count += len(piece)
        start_response(OK, TEXT)
        return [str(count).encode()]

    with serving(app, threads=threads) as address, connect(address) as sock:
        sock.sendall(get("/", f"Content-Length: {size}", method="POST"))
        sock.setblocking(False)
        block, sent, quiet = memoryview(bytes(1024 * 1024)), 0, 0
        while quiet < 40:  # until nothing has gone for 0.4 s
            try:
                sent += sock.send(block)
                quiet = 0
            except BlockingIOError:
                quiet += 1
                time.sleep(0.01)
        assert sent < 24 * 1024 * 1024, "the whole of it was taken"
        go.set()
        sock.settimeout(20)
        while sent < size:
            sent += sock.send(block[: size - sent])
        assert split(read_all(sock))[2] == str(size).encode()


@MODES
def test_100_continue_when_the_body_is_first_read(threads: int) -> None:
    go = threading.Event()

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        body = b""
        if environ["PATH_INFO"] == "/read":
            assert go.wait(10)
            body = environ["wsgi.input"].read()
        start_response(OK, TEXT)
        return [b"got " + body]

    with serving(app, threads=threads) as address:
        with connect(address) as sock:
            sock.sendall(get("/read", "Expect: 100-continue", "Content-Length: 3", method="POST"))
            sock.settimeout(0.3)
            with pytest.raises(TimeoutError):
                sock.recv(100)
            go.set()
            sock.settimeout(20)
            assert sock.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
            sock.sendall(b"abc")
            assert split(read_all(sock))[2] == b"got abc"
        with connect(address) as sock:
            sock.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n")
            status, fields, body = split(read_all(sock))
        assert status.endswith("200 OK") and body == b"got " and fields["connection"] == "close"


CUTS: list[tuple[str, bytes, bytes | None]] = [
    # what, what is sent before the end, the answer (None: none)
    ("length", get("/", "Content-Length: 10", method="POST") + b"abc", None),
    ("chunk", get("/", "Transfer-Encoding: chunked", method="POST") + b"5\r\nab", None),
    ("chunks", get("/", "Transfer-Encoding: chunked", method="POST") + b"3\r\nabc\r\n", None),
    ("bad chunk", get("/", "Transfer-Encoding: chunked", method="POST") + b"3\r\nabc\r\nzz\r\n", b"HTTP/1.1 400 "),
]


@MODES
@pytest.mark.parametrize("case", CUTS, ids=[case[0] for case in CUTS])
@pytest.mark.parametrize("method", ["read", "readline", "readlines", "read=2", "iter"])
def test_a_cut_body_raises(threads: int, case: Any, method: str, caplog: pytest.LogCaptureFixture) -> None:
    errors: list[BaseException] = []
    started = threading.Event()

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        started.set()
        try:
            for _ in range(20):
                reading(environ | {"QUERY_STRING": method}, lambda *_: None)
        except BaseException as error:
            errors.append(error)
            raise
        start_response(OK, TEXT)
        return [b"it looked complete"]

    _, raw, answer = case
    with serving(app, threads=threads) as address, error_log(caplog) as log, connect(address) as sock:
        head, _, body = raw.partition(b"\r\n\r\n")
        sock.sendall(head + b"\r\n\r\n")
        assert started.wait(10)
        sock.sendall(body)
        if answer is None:
            sock.shutdown(socket.SHUT_WR)
        raw = read_all(sock)
        poll(lambda: errors)
        assert isinstance(errors[0], ClientDisconnected) and isinstance(errors[0], OSError)
        assert raw.startswith(answer) if answer else raw == b""
        assert log.text() == ""  # type: ignore[attr-defined]


def test_an_input_kept_beyond_its_request_does_not_look_complete() -> None:
    kept: list[Any] = []

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        kept.append(environ["wsgi.input"])
        assert environ["wsgi.input"].read(3) == b"abc"
        start_response(OK, TEXT)
        return [b"early"]

    with serving(app) as address:
        raw = get("/", "Content-Length: 9", method="POST")
        with connect(address) as sock:
            sock.sendall(raw)
            time.sleep(0.05)
            sock.sendall(b"abc")
            assert split(read_all(sock))[2] == b"early"
            with pytest.raises(ClientDisconnected):
                kept[0].read()


@MODES
def test_an_early_answer_drains_what_is_left(threads: int) -> None:
    with serving(responder(OK, TEXT), threads=threads) as address, connect(address) as sock:
        sock.sendall(b"POST /1 HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n" + b"x" * 400)
        assert sock.recv(1000).endswith(b"body")
        sock.sendall(b"x" * 600 + get("/2"))
        assert read_all(sock).count(b"HTTP/1.1 200 OK") == 1


def test_a_body_over_the_limit(caplog: pytest.LogCaptureFixture) -> None:
    with serving(reading, limit_request_body=10) as address, error_log(caplog) as log:
        assert talk(address, get("/?read", method="POST", body=b"x" * 11)).startswith(b"HTTP/1.1 413 ")
        raw = get("/?read", "Transfer-Encoding: chunked", method="POST")
        with connect(address) as sock:
            sock.sendall(raw)
            sock.sendall(b"6\r\nabcdef\r\n6\r\nabcdef\r\n")
            assert read_all(sock).startswith(b"HTTP/1.1 413 ")
        assert log.text() == ""  # type: ignore[attr-defined]


def test_a_client_that_stops_sending_meets_the_deadline() -> None:
    errors: list[Exception] = []

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        try:
            environ["wsgi.input"].read()
        except OSError as error:
            errors.append(error)
            raise
        return [b"never"]

    with serving(app, timeout_body=0.3) as address, connect(address) as sock:
        sock.sendall(get("/", "Content-Length: 10", method="POST") + b"abc")
        assert read_all(sock).startswith(b"HTTP/1.1 408 ")
        poll(lambda: errors)


# ---------------------------------------------------------------------------------- close(), and clients that leave


class Body:
    """An iterable that counts what is done to it."""

    def __init__(self, pieces: Iterator[bytes], fail: bool = False) -> None:
        self.pieces, self.fail = pieces, fail
        self.given = self.closed = 0

    def __iter__(self) -> Body:
        return self

    def __next__(self) -> bytes:
        piece = next(self.pieces)
        self.given += 1
        return piece

    def close(self) -> None:
        self.closed += 1
        if self.fail:
            raise ValueError("from close")


def endless(size: int = 1000) -> Iterator[bytes]:
    while True:
        yield b"x" * size


@MODES
@pytest.mark.parametrize(
    "how", ["to its end", "HEAD", "exception", "wrong type", "too much", "no start_response", "close fails"]
)
def test_close_is_called_once(threads: int, how: str, caplog: pytest.LogCaptureFixture) -> None:
    bodies: list[Body] = []

    def failing() -> Iterator[bytes]:
        yield b"x"
        raise KeyError("in the middle")

    def app(environ: dict[str, Any], start_response: Any) -> Body:
        pieces: dict[str, Any] = {"exception": failing(), "wrong type": iter([b"x", "y"]), "HEAD": endless()}
        if how != "no start_response":
            start_response(OK, [("Content-Length", "1")] if how == "too much" else TEXT)
        bodies.append(Body(pieces.get(how, iter([b"x", b"y"])), how == "close fails"))
        return bodies[-1]

    with serving(app, threads=threads) as address, error_log(caplog) as log:
        talk(address, get(method="HEAD" if how == "HEAD" else "GET"))
        poll(lambda: bodies[0].closed)
        time.sleep(0.02)
        assert [body.closed for body in bodies] == [1]
        expected = {
            "exception": "KeyError",
            "wrong type": "not str",
            "too much": "more body than Content-Length declared",
            "no start_response": "without calling start_response",
            "close fails": "close() failed",
        }.get(how, "")
        assert expected in log.text()  # type: ignore[attr-defined]
        assert (log.text() == "") == (expected == "")  # type: ignore[attr-defined]


@MODES
@pytest.mark.parametrize("how", ["FIN", "RST", "does not read"])
def test_an_abandoned_stream_stops_within_a_second(threads: int, how: str, caplog: pytest.LogCaptureFixture) -> None:
    bodies: list[Body] = []

    def app(environ: dict[str, Any], start_response: Any) -> Body:
        start_response(OK, TEXT)
        bodies.append(Body(endless()))
        return bodies[-1]

    with serving(app, threads=threads) as address, error_log(caplog) as log:
        sock = connect(address)
        sock.sendall(get())
        sock.recv(1000)
        if how == "does not read":
            poll(lambda: bodies and settled(bodies[0]))  # it has filled the buffers and waits
        if how == "RST":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        sock.close()
        start = time.monotonic()
        poll(lambda: bodies[0].closed)
        assert time.monotonic() - start < 3  # a second, and what a loaded machine takes
        given = bodies[0].given
        time.sleep(0.05)
        assert bodies[0].given == given and bodies[0].closed == 1
        assert log.text() == ""  # type: ignore[attr-defined]


def settled(body: Body) -> bool:
    before = body.given
    time.sleep(0.1)
    return body.given == before and before > 0


def test_write_raises_when_the_client_has_left(caplog: pytest.LogCaptureFixture) -> None:
    errors: list[Exception] = []

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        write = start_response(OK, TEXT)
        try:
            for piece in endless():
                write(piece)
        except Exception as error:
            errors.append(error)
            raise
        return []

    with serving(app) as address, error_log(caplog) as log:
        with connect(address) as sock:
            sock.sendall(get())
            sock.recv(1000)
        poll(lambda: errors)
        assert isinstance(errors[0], ClientDisconnected)
        assert log.text() == ""  # type: ignore[attr-defined]


@MODES
def test_a_client_that_has_ended_its_side_gets_an_answer_that_is_ready(threads: int) -> None:
    with serving(responder(OK, TEXT), threads=threads) as address:
        assert talk(address, get(), end=True).endswith(b"body")


@MODES
def test_a_slow_client_holds_up_the_iterator_and_nobody_else(threads: int) -> None:
    bodies: list[Body] = []

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        start_response(OK, TEXT)
        if environ["PATH_INFO"] == "/small":
            return [b"small"]
        bodies.append(Body(x for x in [b"x" * 65536] * 640))
        return bodies[-1]

    with serving(app, threads=threads) as address, connect(address) as sock:
        sock.sendall(get())
        poll(lambda: bodies and settled(bodies[0]))
        assert bodies[0].given < 480, "the answer was gathered in memory"
        for _ in range(5):
            assert talk(address, get("/small")).endswith(b"small")
        raw = read_all(sock)
        assert raw.endswith(b"0\r\n\r\n") and len(raw) > 640 * 65536
    assert bodies[0].closed == 1 and bodies[0].given == 640


# --------------------------------------------------------------------------------------------------------------- files


@MODES
@pytest.mark.parametrize("kind", ["file", "raw file", "memory", "minimal", "gzip"])
def test_file_wrapper(threads: int, kind: str, tmp_path: Path) -> None:
    data = bytes(range(256)) * 3000
    path = tmp_path / "file"
    path.write_bytes(data)
    packed = tmp_path / "file.gz"
    packed.write_bytes(gzip.compress(data))
    files: list[Any] = []

    class Minimal:
        def __init__(self) -> None:
            self.read = io.BytesIO(data).read

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        makers: dict[str, Callable[[], Any]] = {
            "file": lambda: path.open("rb"),
            "raw file": lambda: path.open("rb", buffering=0),
            "memory": lambda: io.BytesIO(data),
            "minimal": Minimal,
            # has a fileno(), of the packed file
            "gzip": lambda: gzip.open(packed, "rb"),  # noqa: SIM115  (the server closes it)
        }
        source = makers[kind]()
        files.append(source)
        name = environ["PATH_INFO"]
        source.read(10)
        start_response(OK, [("Content-Length", "1000")] if name == "/part" else TEXT)
        return environ["wsgi.file_wrapper"](source, 4096 if name == "/blocks" else 65536)

    with serving(app, threads=threads) as (host, port), httpx.Client(base_url=f"http://{host}:{port}") as client:
        for name in ("/", "/blocks", "/part"):
            answer = client.get(name)
            assert answer.content == data[10 : 1010 if name == "/part" else None]
            length = "1000" if name == "/part" else str(len(data) - 10) if "file" in kind else None
            assert answer.headers.get("content-length") == length
        assert client.head("/").content == b""
    if kind != "minimal":
        poll(lambda: all(file.closed for file in files))


@MODES
def test_a_large_file_to_a_slow_client_and_to_one_that_leaves(threads: int, tmp_path: Path) -> None:
    path = tmp_path / "file"
    size = 24 * 1024 * 1024
    with path.open("wb") as file:
        file.write(b"begin")
        file.truncate(size)
    files: list[Any] = []

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        files.append(path.open("rb"))
        start_response(OK, TEXT)
        return environ["wsgi.file_wrapper"](files[-1])

    with serving(app, threads=threads) as address:
        with connect(address) as slow:
            slow.sendall(get())
            poll(lambda: files and files[0].closed)  # the kernel has it: the thread is free before a byte is read
            status, fields, body = split(read_all(slow))
        assert status.endswith("200 OK") and fields["content-length"] == str(size)
        assert len(body) == size and body.startswith(b"begin\0")
        with connect(address) as leaving:
            leaving.sendall(get())
            leaving.recv(1000)
        poll(lambda: len(files) == 2 and all(file.closed for file in files))
        # the next request of a connection waits behind the file, and is answered
        with connect(address) as both:
            both.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" + get())
            raw = read_all(both)
        assert raw.count(b"HTTP/1.1 200 OK") == 2 and len(raw) > 2 * size


def test_the_file_wrapper_alone() -> None:
    closed: list[bool] = []

    class File(io.BytesIO):
        def close(self) -> None:
            closed.append(True)

    wrapper = FileWrapper(File(b"abcde"), 2)
    assert list(wrapper) == [b"ab", b"cd", b"e"]
    wrapper.close()
    assert closed == [True]


# ---------------------------------------------------------------------------------------------------------- wsgi.errors


@MODES
def test_errors_go_to_the_log(threads: int, caplog: pytest.LogCaptureFixture) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        errors = environ["wsgi.errors"]
        print("a line", file=errors)
        errors.write("half ")
        errors.write("a line\nand")
        errors.writelines([" the", " rest"])
        errors.flush()
        errors.write("Traceback:\n  a frame\nValueError\n")
        start_response(OK, TEXT)
        return []

    with serving(app, threads=threads) as address, error_log(caplog) as log:
        talk(address, get())
        traceback = "Traceback:\n  a frame\nValueError"
        assert log.text() == f"a line\nhalf a line\nand the rest\n{traceback}"  # type: ignore[attr-defined]
        assert traceback in [record.getMessage() for record in caplog.records]


def test_the_error_stream_does_not_go_round_in_circles(capsys: pytest.CaptureFixture[str]) -> None:
    """An application's log handler writes to wsgi.errors, which is the log."""
    stream = ErrorStream()
    handler = logging.StreamHandler(stream)
    logger = logging.getLogger("fastserve.error")
    logger.addHandler(handler)
    try:
        stream.write("once\n")
    finally:
        logger.removeHandler(handler)
    with pytest.raises(TypeError, match="takes str, not bytes"):
        stream.write(b"x")  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------------------ threads


def test_a_slow_view_delays_nobody() -> None:
    release = threading.Event()

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        if environ["PATH_INFO"] == "/slow":
            assert release.wait(20)
        start_response(OK, TEXT)
        return [threading.current_thread().name.encode()]

    with serving(app, threads=4) as address, contextlib.ExitStack() as stack:
        slow = [stack.enter_context(connect(address)) for _ in range(3)]
        for sock in slow:
            sock.sendall(get("/slow"))
        for _ in range(20):
            assert split(talk(address, get("/")))[2].startswith(b"fastserve-wsgi-")
        release.set()
        for sock in slow:
            assert split(read_all(sock))[0].endswith("200 OK")


def test_calls_wait_for_a_thread_and_the_wait_is_seen() -> None:
    release = threading.Event()
    running = threading.Semaphore(0)
    waits: list[float] = []

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        waits.append(environ["fastserve.queue_seconds"])
        running.release()
        assert release.wait(20)
        start_response(OK, TEXT)
        return [b"done"]

    with serving(app, threads=2) as address, contextlib.ExitStack() as stack:
        wing = wing_of(app)
        socks = [stack.enter_context(connect(address)) for _ in range(5)]
        for sock in socks:
            sock.sendall(get())
        assert running.acquire(timeout=10) and running.acquire(timeout=10)
        poll(lambda: wing.queued == 3)
        assert (wing.threads, wing.busy, wing.calls) == (2, 2, 2)
        time.sleep(0.05)
        release.set()
        for sock in socks:
            assert read_all(sock).endswith(b"done")
        assert wing.calls == 5 and wing.queued == 0
        poll(lambda: wing.busy == 0)
        assert sorted(waits)[2] > 0.05 and wing.queue_seconds_max >= 0.05
        assert abs(sum(waits) - wing.queue_seconds) < 1e-6


def wing_of(app: Any) -> WSGIHandler:
    """The running handler of an application: there is no public way to it, nor need there be one."""
    return next(o for o in gc.get_objects() if type(o) is WSGIHandler and app in gc.get_referents(o))


def test_threads_are_made_when_they_are_needed_and_joined_at_the_end() -> None:
    names: set[str] = set()

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        names.add(threading.current_thread().name)
        start_response(OK, TEXT)
        return []

    with serving(app, threads=40) as address:
        for _ in range(30):
            talk(address, get())
        assert len(names) <= 2  # one at a time: a second may be woken while the first comes back
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("fastserve-wsgi")]


def test_each_request_has_a_context_of_its_own() -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        before = variable.get()
        token = variable.set("set")
        start_response(OK, TEXT)
        if environ["PATH_INFO"] == "/list":
            return [before.encode()]
        return pieces(before, token)

    def pieces(before: str, token: Any) -> Iterator[bytes]:
        for _ in range(100):  # several turns of the loop
            yield variable.get().encode()
        variable.reset(token)  # ValueError in another context
        yield before.encode()

    for threads in (1, 0):
        with serving(app, threads=threads) as (host, port), httpx.Client(base_url=f"http://{host}:{port}") as client:
            for _ in range(3):
                assert client.get("/list").text == "unset"
                assert client.get("/stream").text == "set" * 100 + "unset"


def test_many_clients_at_once() -> None:
    """Answers do not get mixed up; the loop is woken less often than calls end."""

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        body = environ["wsgi.input"].read()
        start_response(OK, TEXT)
        answer = environ["PATH_INFO"].encode() + b":" + body
        return [answer] if len(body) % 2 else (answer[i : i + 50] for i in range(0, len(answer), 50))

    failures: list[Any] = []

    def client(number: int, host: str, port: int) -> None:
        with httpx.Client(base_url=f"http://{host}:{port}", timeout=30) as session:
            for turn in range(40):
                body = b"%d" % number * (turn * 7 % 300)
                answer = session.post(f"/{number}/{turn}", content=body if turn % 3 else iter([body[:9], body[9:]]))
                if answer.content != b"/%d/%d:%s" % (number, turn, body):
                    failures.append((number, turn, answer))

    with serving(app, threads=4) as (host, port):
        threads = [threading.Thread(target=client, args=(n, host, port)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        wing = wing_of(app)
        assert wing.calls == 320 and not failures


def test_a_graceful_stop_waits_for_the_view() -> None:
    entered, release = threading.Event(), threading.Event()

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        entered.set()
        assert release.wait(10)
        start_response(OK, TEXT)
        return [b"finished"]

    with contextlib.ExitStack() as stack:
        with serving(app) as address:
            sock = stack.enter_context(connect(address))
            sock.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert entered.wait(10)
            threading.Timer(0.3, release.set).start()
        raw = read_all(sock)
    assert raw.endswith(b"finished") and b"connection: close" in raw


def test_nothing_is_left_of_a_request(monkeypatch: pytest.MonkeyPatch) -> None:
    # The tracebacks in captured records would hold the frames.
    monkeypatch.setattr(logging.getLogger("fastserve.error"), "disabled", True)
    seen: list[weakref.ref[Any]] = []

    class Mark:
        pass

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        environ["mark"] = mark = Mark()
        seen.append(weakref.ref(mark))
        environ["wsgi.input"].read()
        start_response(OK, TEXT)
        if environ["PATH_INFO"] == "/fail":
            raise ValueError
        return [b"x"] if environ["PATH_INFO"] == "/list" else (b"x" for _ in range(3))

    for threads in (2, 0):
        with serving(app, threads=threads) as address:
            gc.collect()
            gc.disable()  # no cycle may keep it
            try:
                for path in ("/list", "/stream", "/fail"):
                    for body in (b"", b"abc"):
                        talk(address, get(path, method="POST", body=body))
                    raw = get(path, "Transfer-Encoding: chunked", method="POST")
                    with connect(address) as sock:
                        sock.sendall(raw)
                        time.sleep(0.02)
                        sock.sendall(b"3\r\nabc\r\n0\r\n\r\n")
                        read_all(sock)
                poll(lambda: not [ref for ref in seen if ref() is not None])
            finally:
                gc.enable()


def test_memory_stays_flat() -> None:
    def app(environ: dict[str, Any], start_response: Any) -> Any:
        body = environ["wsgi.input"].read()
        start_response(OK, [("X-Length", str(len(body)))])
        return [body] if environ["PATH_INFO"] == "/list" else (b"x" for _ in range(3))

    with serving(app, threads=2) as address, connect(address) as sock:
        block = b"POST /%s HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc"
        batch = (block % b"list" + block % b"stream") * 50

        def turn(times: int) -> None:
            for _ in range(times):
                sock.sendall(batch)
                got = b""
                while got.count(b"HTTP/1.1 200 OK") < 100 or not got.endswith(b"0\r\n\r\n"):
                    got += sock.recv(65536)

        turn(5)
        gc.collect()
        tracemalloc.start()
        try:
            turn(2)
            before = tracemalloc.get_traced_memory()[0]
            turn(10)
            gc.collect()
            after = tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()
    assert after - before < 100_000


# ---------------------------------------------------------------------------------------------------------- on the loop


@MODES
def test_an_application_may_run_a_loop_of_its_own(threads: int) -> None:
    """As the async views of Flask, Django and Dash do, through async_to_sync: in the call, in a step, in close()."""
    closed: list[str] = []

    async def word(text: str) -> str:
        await asyncio.sleep(0)
        return text

    class Pieces:
        def __iter__(self) -> Iterator[bytes]:
            yield asyncio.run(word("step")).encode()
            with pytest.raises(RuntimeError):
                asyncio.get_running_loop()
            yield b" " + async_to_sync(word)("end").encode()

        def close(self) -> None:
            closed.append(asyncio.run(word("closed")))

    def app(environ: Any, start_response: Any) -> Any:
        start_response(f"200 {asyncio.run(word('fine'))}", [("X-Word", async_to_sync(word)("head"))])
        return Pieces()

    with serving(app, threads=threads) as (host, port), httpx.Client(base_url=f"http://{host}:{port}") as client:
        for count in (1, 2):
            answer = client.get("/")
            assert (answer.reason_phrase, answer.headers["x-word"], answer.text) == ("fine", "head", "step end")
            until = time.monotonic() + 10
            while len(closed) < count and time.monotonic() < until:
                time.sleep(0.01)  # close() comes behind the answer
            assert closed == ["closed"] * count


def test_inline_runs_on_the_loop_only_with_the_body_in_memory() -> None:
    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        environ["wsgi.input"].read()
        start_response(OK, TEXT)
        return [threading.current_thread().name.encode()]

    with serving(app, threads=0) as address:
        assert split(talk(address, get()))[2] == b"fastserve-live-server"
        assert split(talk(address, get(method="POST", body=b"abc")))[2] == b"fastserve-live-server"
        with connect(address) as sock:
            sock.sendall(get("/", "Content-Length: 3", method="POST"))
            time.sleep(0.05)
            sock.sendall(b"abc")
            assert split(read_all(sock))[2].startswith(b"fastserve-wsgi-")


def test_inline_an_endless_stream_leaves_turns_to_others() -> None:
    def app(environ: dict[str, Any], start_response: Any) -> Any:
        start_response(OK, TEXT)
        return endless(1) if environ["PATH_INFO"] == "/endless" else [b"small"]

    with serving(app, threads=0) as address, connect(address) as sock:
        sock.sendall(get("/endless"))
        stop = threading.Event()

        def reader() -> None:
            while not stop.is_set() and sock.recv(65536):
                pass

        thread = threading.Thread(target=reader)
        thread.start()
        for _ in range(10):
            assert talk(address, get("/small")).endswith(b"small")
        stop.set()
        thread.join()


def test_inline_the_deadlines_of_others_hold() -> None:
    """One client does not take its answer; another says nothing and is closed in time."""

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        start_response(OK, TEXT)
        return endless(65536)

    with serving(app, threads=0, timeout_header=0.5) as address, connect(address) as slow, connect(address) as silent:
        slow.sendall(get())
        start = time.monotonic()
        assert b"200" not in read_all(silent)
        assert time.monotonic() - start < 5


def test_inline_an_application_that_writes_much_is_moved_to_threads(caplog: pytest.LogCaptureFixture) -> None:
    names: list[str] = []

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        names.append(threading.current_thread().name)
        write = start_response(OK, TEXT)
        for _ in range(400):
            write(b"x" * 65536)
        return []

    with serving(app, threads=0) as address, error_log(caplog) as log, connect(address) as sock:
        sock.sendall(get())
        poll(lambda: "it runs in threads" in log.text())  # type: ignore[attr-defined]
        assert len(read_all(sock)) > 400 * 65536
        assert len(talk(address, get())) > 400 * 65536
    assert names[0] == "fastserve-live-server" and names[1].startswith("fastserve-wsgi-")


def test_inline_what_is_written_and_not_taken_is_in_a_file(caplog: pytest.LogCaptureFixture) -> None:
    """write() cannot wait on the loop: the first call's 48 MiB must not be held in memory, nor get out of order."""
    peaks: list[int] = []

    def app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        write = start_response(OK, [*TEXT, ("Content-Length", str(768 * 65536 + 4))])
        tracemalloc.start()
        for n in range(768):
            write(n.to_bytes(2, "big") * 32768)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        return iter([b"be", b"hind"[:2]])

    with serving(app, threads=0) as address, error_log(caplog), connect(address) as sock:
        sock.sendall(get())
        poll(lambda: peaks)
        body = split(read_all(sock))[2]
    assert body == b"".join(n.to_bytes(2, "big") * 32768 for n in range(768)) + b"behi"
    assert peaks[0] < 16 << 20


def test_inline_a_failure_behind_much_writing_cuts_the_connection(caplog: pytest.LogCaptureFixture) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        write = start_response(OK, TEXT)
        for _ in range(400):
            write(b"x" * 65536)
        raise ZeroDivisionError

    with serving(app, threads=0) as address, error_log(caplog) as log:
        raw = talk(address, get())
        assert raw.startswith(b"HTTP/1.1 200") and not raw.endswith(b"0\r\n\r\n")
        assert "ZeroDivisionError" in log.text()  # type: ignore[attr-defined]


# ----------------------------------------------------------------------------------------------------------- validator


VALID = [case for case in RESPONSES if case[0] in
         {"one piece", "list", "generator", "generator of a known length", "own reason", "latin-1 value"}]  # fmt: skip


@MODES
@pytest.mark.parametrize("case", VALID, ids=[case[0] for case in VALID])
def test_the_validator_is_content(threads: int, case: Any, caplog: pytest.LogCaptureFixture) -> None:
    """wsgiref.validate between us and the application: both sides keep to PEP 3333."""

    def typed(environ: Any, start_response: Any) -> Any:
        def start(status: str, headers: list[tuple[str, str]], *rest: Any) -> Any:
            if not any(name == "Content-Type" for name, _ in headers):
                headers = [*headers, ("Content-Type", "text/plain")]
            return start_response(status, headers, *rest)

        return case[1](environ, start)

    with serving(validator(typed), threads=threads) as address, error_log(caplog) as log:
        for raw in (get("/a%20b?c=d"), get(method="POST", body=b"abc"), get(method="HEAD"), get("*", method="OPTIONS")):
            assert split(talk(address, raw))[0].startswith(f"HTTP/1.1 {case[2]}"), log.text()  # type: ignore[attr-defined]
        assert log.text() == ""  # type: ignore[attr-defined]


@MODES
def test_the_validator_reads(threads: int, caplog: pytest.LogCaptureFixture) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        source, errors = environ["wsgi.input"], environ["wsgi.errors"]
        parts = [source.read(2), source.readline(), *source.readlines(3), *source, source.read(10)]
        errors.write("said\n")
        errors.writelines(["more\n"])
        errors.flush()
        write = start_response(OK, TEXT)
        write(b"written ")
        return [b"|".join(parts)]

    body = b"abcd\ne\nf\ng\nh"
    with serving(validator(app), threads=threads) as (host, port), error_log(caplog) as log:
        answer = httpx.post(f"http://{host}:{port}/", content=body)
        assert answer.text == "written ab|cd\n|e\n|f\n|g\n|h|"
        assert httpx.post(f"http://{host}:{port}/", content=iter([body[:4], body[4:]])).text == answer.text
        assert log.text() == "said\nmore\n" * 2 or log.text() == "said\nmore\nsaid\nmore"  # type: ignore[attr-defined]


# --------------------------------------------------------------------------------------------------------------- the rest


def test_the_handler_checks_its_arguments() -> None:
    for options, text in (({"threads": -1}, "0 or more"), ({"root_path": "app"}, "begin with a slash")):
        with pytest.raises(ValueError, match=text):
            WSGIHandler(dump, **options)  # type: ignore[arg-type]
    handler = make_handler(dump, "wsgi")
    assert isinstance(handler, WSGIHandler) and handler.threads == 0
    handler.close()
