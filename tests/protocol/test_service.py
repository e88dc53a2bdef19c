"""Service: the lines every response shares: Date, Server, and the operator's own fields."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from fastserve import App, HTTPException, PlainTextResponse, StreamingResponse
from fastserve.testing import live_server

app = App()


@app.get("/plain")
def plain() -> str:
    return "plain"


@app.get("/own")
async def own() -> PlainTextResponse:
    return PlainTextResponse("own", headers={"X-Frame-Options": "SAMEORIGIN", "server": "mine", "Date": "then"})


@app.get("/stream")
async def stream() -> StreamingResponse:
    async def pieces():  # type: ignore[no-untyped-def]
        yield b"a"
        yield b"b"

    return StreamingResponse(pieces())


@app.get("/refused")
async def refused() -> str:
    raise HTTPException(403)


@app.get("/fails")
async def fails() -> str:
    raise RuntimeError("as it should")


@app.get("/empty")
async def empty() -> None:
    return None


FIELDS = ("X-Frame-Options: DENY", "X-Two: a", "x-two:b", "X-Long: " + "y" * 2000)


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    with live_server(app, header=FIELDS) as url, httpx.Client(base_url=url) as client:
        yield client


@pytest.mark.parametrize("path", ["/plain", "/stream", "/refused", "/fails", "/empty", "/nowhere"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE"])
def test_default_fields_are_on_every_response(client: httpx.Client, method: str, path: str) -> None:
    answer = client.request(method, path)
    assert answer.headers.get_list("x-frame-options") == ["DENY"]
    assert answer.headers.get_list("x-two") == ["a", "b"]
    assert answer.headers["x-long"] == "y" * 2000
    assert answer.headers["server"] == "fastserve" and answer.headers.get_list("date") != []


def test_what_the_application_has_set_wins(client: httpx.Client) -> None:
    answer = client.get("/own")
    assert answer.headers.get_list("x-frame-options") == ["SAMEORIGIN"]
    assert answer.headers.get_list("server") == ["mine"]
    assert answer.headers.get_list("date") == ["then"]
    assert answer.headers.get_list("x-two") == ["a", "b"]


def test_default_fields_are_on_refusals_of_the_server(raw: Callable[..., Any]) -> None:
    with live_server(app, header="X-A: 1") as url:
        status, fields, _ = raw(url).send(b"GET / HTTP/1.1\r\n\r\n").response()
        assert (status, fields["x-a"], fields["connection"]) == (400, "1", "close")


def test_default_fields_are_not_on_interim_responses(raw: Callable[..., Any]) -> None:
    other = App()

    @other.post("/")
    async def size(body: bytes) -> int:
        return len(body)

    with live_server(other, header="X-A: 1") as url:
        peer = raw(url).send(b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
        assert peer.until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        assert peer.send(b"ab").response()[1]["x-a"] == "1"


@pytest.mark.parametrize("date", [True, False])
@pytest.mark.parametrize("server", [True, False])
@pytest.mark.parametrize("path", ["/plain", "/own", "/stream", "/nowhere"])
def test_date_and_server_are_switches(raw: Callable[..., Any], date: bool, server: bool, path: str) -> None:
    with live_server(app, date_header=date, server_header=server) as url:
        _, fields, _ = raw(url).send(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode()).response()
        if path == "/own":
            assert (fields["date"], fields["server"]) == ("then", "mine")
        else:
            assert (("date" in fields), fields.get("server")) == (date, "fastserve" if server else None)


def test_an_operators_server_field_takes_the_place_of_ours() -> None:
    with live_server(app, header="Server: theirs") as url:
        assert httpx.get(url + "/plain").headers.get_list("server") == ["theirs"]
