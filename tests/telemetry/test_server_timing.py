"""Server-Timing: a client of this machine is told where its request has waited, if that is asked for and recorded."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import Any

import httpx
import pytest

from fastserve import App, Request, Response
from fastserve.lens.model import build
from fastserve.lens.recording import Recording
from fastserve.testing import live_server

app = App()


@app.get("/json")
async def json() -> dict[str, int]:
    return {"a": 1}


@app.get("/text")
async def text() -> str:
    return "text\n"


@app.get("/wait")
async def wait() -> str:
    await asyncio.sleep(0.03)
    time.sleep(0.01)
    return "waited\n"


@app.get("/own")
async def own(request: Request) -> Response:
    return Response("own", headers={"server-timing": "db;dur=5"})


@app.get("/stream")
async def stream() -> AsyncIterator[bytes]:
    yield b"a"
    await asyncio.sleep(0.01)
    yield b"b"


async def asgi(scope: dict[str, Any], receive: Callable[[], Any], send: Callable[[Any], Any]) -> None:
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    await asyncio.sleep(0.02)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


def wsgi(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    start_response("200 OK", [("content-length", "2")])
    return [b"ok"]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with live_server(app, lens="full", server_timing=True) as address:
        yield address


def parts(answer: httpx.Response) -> dict[str, float | str]:
    """Of the field, which is as the W3C's grammar has it."""
    found: dict[str, float | str] = {}
    for entry in answer.headers["server-timing"].split(", "):
        match = re.fullmatch(r'(\w+);(?:dur=(\d+\.\d)|desc="([\w-]+)")', entry)
        assert match, entry
        found[match[1]] = float(match[2]) if match[2] else match[3]
    return found


def test_it_tells_what_is_known_when_the_head_leaves(url: str) -> None:
    began = time.perf_counter()
    told = parts(httpx.get(f"{url}/wait"))
    took = (time.perf_counter() - began) * 1000
    assert set(told) >= {"parse", "busy", "sched", "idle", "polls", "fs"}
    assert told["polls"] == "2" and re.fullmatch(r"w0-[0-9a-f]{4,}", str(told["fs"]))
    assert isinstance(told["busy"], float) and isinstance(told["idle"], float) and isinstance(told["sched"], float)
    assert told["busy"] >= 9.9 and told["idle"] >= 29 and told["busy"] + told["idle"] + told["sched"] <= took + 0.2


@pytest.mark.parametrize("path", ["/json", "/text", "/stream"])
def test_every_way_to_answer_has_it(url: str, path: str) -> None:
    told = parts(httpx.get(url + path))
    assert told["polls"] == "1" and isinstance(told["busy"], float)


def test_the_applications_own_stays(url: str) -> None:
    values = httpx.get(f"{url}/own").headers.get_list("server-timing")
    assert len(values) == 2 and values[0] == "db;dur=5" and "fs;desc=" in values[1]


def test_an_answer_without_a_handler_has_what_there_is(url: str) -> None:
    assert set(parts(httpx.get(f"{url}/nothing-here"))) >= {"parse", "fs"}


def test_the_id_is_the_recordings(url: str) -> None:
    told = parts(httpx.get(f"{url}/wait"))
    model = build(Recording.take(os.getpid()))
    request = model.by_id[str(told["fs"])]
    assert request.path == "/wait" and request.polls == 2
    assert isinstance(told["idle"], float) and abs(told["idle"] - request.idle / 1e6) < 0.2


@pytest.mark.parametrize(("application", "interface", "known"), [(asgi, "asgi3", True), (wsgi, "wsgi", False)])
def test_all_interfaces_have_it(application: Any, interface: str, known: bool) -> None:
    with live_server(application, lens="full", server_timing=True, interface=interface) as address:
        told = parts(httpx.get(address))
        assert ("busy" in told) == known and "fs" in told
        if known:
            assert isinstance(told["idle"], float) and told["idle"] >= 19


def test_clients_elsewhere_are_told_nothing(url: str) -> None:
    """As a proxy on this machine says it; httpx itself is the proxy here."""
    assert "server-timing" not in httpx.get(f"{url}/text", headers={"x-forwarded-for": "203.0.113.9"}).headers
    assert "server-timing" not in httpx.get(f"{url}/json", headers={"x-forwarded-for": "127.evil.test"}).headers
    assert "server-timing" not in httpx.get(f"{url}/wait", headers={"x-forwarded-for": "203.0.113.9"}).headers  # later
    assert "server-timing" not in httpx.get(f"{url}/text", headers={"x-forwarded-proto": "https"}).headers  # who knows
    assert "server-timing" in httpx.get(f"{url}/text", headers={"x-forwarded-for": "127.0.0.1"}).headers
    assert "server-timing" in httpx.get(f"{url}/text", headers={"x-forwarded-for": "::1"}).headers


def test_on_a_unix_socket_nobody_is_told(tmp_path: Any) -> None:
    path = str(tmp_path / "s")
    with (
        live_server(app, lens="full", server_timing=True, uds=path),
        httpx.Client(transport=httpx.HTTPTransport(uds=path)) as client,
    ):
        assert "server-timing" not in client.get("http://local/text").headers


@pytest.mark.parametrize(
    "options", [{}, {"lens": "full"}, {"lens": "ready", "server_timing": True}, {"lens": "off", "server_timing": True}]
)
def test_it_is_there_only_if_asked_for_and_recorded(options: dict[str, Any]) -> None:
    with live_server(app, **options) as address:
        for path in ("/text", "/json", "/wait"):
            assert "server-timing" not in httpx.get(address + path).headers


def test_the_rest_of_the_head_is_as_without_it(url: str) -> None:
    """On the quick ways too: the same fields, in the same order, and the body whole."""
    with live_server(app) as plain:
        for path in ("/text", "/json", "/own", "/stream"):
            heads = []
            for address in (url, plain):
                host, port = address.removeprefix("http://").split(":")
                with socket.create_connection((host, int(port)), timeout=10) as client:
                    client.sendall(f"GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode())
                    data = b""
                    while piece := client.recv(65536):
                        data += piece
                head, _, body = data.partition(b"\r\n\r\n")
                lines = [
                    line
                    for line in head.split(b"\r\n")
                    if not line.startswith((b"date:", b"server-timing: kern", b"server-timing: parse"))
                ]
                heads.append((lines, body))
            assert heads[0] == heads[1], path


# ---------------------------------------------------------------------------------------------------- behind the body


async def streams_asgi(scope: dict[str, Any], receive: Callable[[], Any], send: Callable[[Any], Any]) -> None:
    if scope["type"] == "lifespan":
        return await asgi(scope, receive, send)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"a", "more_body": True})
    await asyncio.sleep(0.03)
    await send({"type": "http.response.body", "body": b"b"})


def streams_wsgi(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    start_response("200 OK", [])
    yield b"a"
    time.sleep(0.03)
    yield b"b"


def raw(url: str, path: str, *fields: str, version: str = "1.1", method: str = "GET") -> tuple[list[bytes], bytes]:
    """Lines of the head, and all behind it."""
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as client:
        lines = [f"{method} {path} HTTP/{version}", "host: x", "connection: close", *fields]
        client.sendall("\r\n".join([*lines, "", ""]).encode())
        data = b""
        while piece := client.recv(65536):
            data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    return head.split(b"\r\n"), body


def timing(lines: Iterable[bytes]) -> list[dict[str, str]]:
    return [
        dict(entry.split(";", 1) for entry in line.partition(b": ")[2].decode().split(", "))
        for line in lines
        if line.startswith(b"server-timing:")
    ]


def trailers(body: bytes) -> list[bytes]:
    """The lines behind the last chunk."""
    _, found, section = body.rpartition(b"\r\n0\r\n")
    assert found and section.endswith(b"\r\n")
    return [line for line in section.split(b"\r\n") if line]


@pytest.mark.parametrize("te", ["trailers", "gzip;q=0.5, Trailers", "deflate,trailers"])
def test_what_is_not_known_yet_comes_as_a_trailer(url: str, te: str) -> None:
    head, body = raw(url, "/stream", f"te: {te}")
    assert b"trailer: server-timing" in head and b"transfer-encoding: chunked" in head
    (early,) = timing(head)
    assert "parse" in early and "fs" in early and not {"busy", "idle", "polls", "total"} & set(early)
    (late,) = timing(trailers(body))
    assert set(late) == {"total", "busy", "sched", "idle", "polls"}
    assert float(late["idle"].removeprefix("dur=")) >= 5 and late["polls"] == 'desc="2"'
    whole = sum(float(late[part].removeprefix("dur=")) for part in ("busy", "sched", "idle"))
    assert whole <= float(late["total"].removeprefix("dur=")) + 0.3
    assert body.startswith(b"1\r\na\r\n1\r\nb\r\n0\r\n")


@pytest.mark.parametrize(
    ("path", "fields", "options"),
    [
        ("/stream", [], {}),
        ("/stream", ["te: gzip"], {}),
        ("/stream", ["te: x-trailers"], {}),
        ("/text", ["te: trailers"], {}),  # of known length: there is no place for it
        ("/stream", ["te: trailers"], {"version": "1.0"}),
        ("/stream", ["te: trailers", "x-forwarded-for: 203.0.113.9"], {}),  # nobody of this machine
    ],
    ids=["no TE", "another coding", "another word", "a length", "HTTP/1.0", "a client far away"],
)
def test_who_cannot_take_a_trailer_gets_none(url: str, path: str, fields: list[str], options: dict[str, str]) -> None:
    head, body = raw(url, path, *fields, **options)
    assert not any(line.lower().startswith(b"trailer") for line in head) and b"server-timing" not in body
    if path == "/stream" and "x-forwarded-for" not in str(fields):
        (early,) = timing(head)
        assert "busy" in early  # what is known is told, as ever


def test_a_head_request_has_no_trailer(url: str) -> None:
    head, body = raw(url, "/stream", "te: trailers", method="HEAD")
    assert body == b"" and not any(line.startswith(b"trailer") for line in head)


@pytest.mark.parametrize(("application", "interface"), [(streams_asgi, "asgi3"), (streams_wsgi, "wsgi")])
def test_streams_of_all_interfaces_have_it(application: Any, interface: str) -> None:
    with live_server(application, lens="full", server_timing=True, interface=interface) as address:
        head, body = raw(address, "/", "te: trailers")
    assert b"trailer: server-timing" in head
    (late,) = timing(trailers(body))
    assert float(late["total"].removeprefix("dur=")) >= 29
    assert ("idle" in late) == (interface == "asgi3")


def test_an_applications_own_trailers_stay() -> None:
    async def application(scope: dict[str, Any], receive: Callable[[], Any], send: Callable[[Any], Any]) -> None:
        if scope["type"] == "lifespan":
            return await asgi(scope, receive, send)
        await send(
            {"type": "http.response.start", "status": 200, "headers": [(b"trailer", b"x-sum")], "trailers": True}
        )
        await send({"type": "http.response.body", "body": b"ab"})
        await send({"type": "http.response.trailers", "headers": [(b"x-sum", b"7")]})

    with live_server(application, lens="full", server_timing=True) as address:
        head, body = raw(address, "/", "te: trailers")
    assert b"trailer: x-sum" in head and b"trailer: server-timing" in head
    sent = trailers(body)
    assert b"x-sum: 7" in sent and len(timing(sent)) == 1
