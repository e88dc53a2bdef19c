"""Compress over real sockets: what is compressed and what is not, streams that arrive piece by piece, and the fields."""

from __future__ import annotations

import asyncio
import gzip
import sys
import time
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import brotli
import httpx
import pytest
import zstandard

from fastserve import (
    App,
    EventSourceResponse,
    FileResponse,
    JSONResponse,
    Response,
    StreamingResponse,
)
from fastserve.errors import ConfigError
from fastserve.middleware import CODINGS, Compress
from fastserve.testing import live_server

TEXT = b"the same words over and over, " * 200
LARGE = TEXT * 100
DECODE: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.decompress,
    "br": brotli.decompress,
    "zstd": lambda data: zstandard.ZstdDecompressor().decompressobj().decompress(data),
}


class Steps:
    """Lets a stream go on, one piece at a time."""

    def __init__(self) -> None:
        self.loop: asyncio.AbstractEventLoop | None = None
        self.gate: asyncio.Semaphore | None = None
        self.closed = False

    def next(self) -> None:
        assert self.loop is not None and self.gate is not None
        self.loop.call_soon_threadsafe(self.gate.release)

    async def pieces(self) -> AsyncIterator[bytes]:
        self.loop, self.gate = asyncio.get_running_loop(), asyncio.Semaphore(0)
        try:
            for number in range(5):
                yield b"piece %d, " % number
                await self.gate.acquire()
        finally:
            self.closed = True


STEPS = Steps()


def make_app(folder: Path) -> App:
    app = App()
    app.middleware(Compress())
    app.static("/static", folder)

    def answer(path: str, **options: Any) -> None:
        @app.get(path, name=path)
        async def handler() -> Response:
            return Response(**options)

    answer("/text", content=TEXT, media_type="text/plain")
    answer("/large", content=LARGE, media_type="text/css")
    answer("/small", content=b"small", media_type="text/plain")
    answer("/picture", content=TEXT, media_type="image/png")
    answer("/none", content=TEXT)
    answer("/svg", content=TEXT, media_type="image/svg+xml")
    answer("/done", content=gzip.compress(TEXT), media_type="text/plain", headers={"content-encoding": "gzip"})
    answer(
        "/part", content=TEXT, status_code=206, media_type="text/plain", headers={"content-range": "bytes 0-5999/9000"}
    )
    answer("/fixed", content=TEXT, media_type="text/plain", headers={"cache-control": "public, no-transform"})
    answer(
        "/tagged",
        content=TEXT,
        media_type="text/plain",
        headers={"etag": '"a"', "vary": "cookie", "accept-ranges": "bytes"},
    )
    answer("/weak", content=TEXT, media_type="text/plain", headers={"etag": 'W/"a"', "vary": "Accept-Encoding"})
    answer("/error", content=TEXT, status_code=500, media_type="text/plain")
    answer("/length", content=TEXT, media_type="text/plain", headers={"content-length": str(len(TEXT))})

    @app.get("/json")
    async def json() -> Response:
        return JSONResponse({"words": TEXT.decode()})

    @app.get("/dict")
    async def plain() -> dict[str, str]:
        return {"words": TEXT.decode()}

    @app.get("/nothing")
    async def nothing() -> None:
        return None

    @app.get("/file")
    async def file() -> Response:
        return FileResponse(folder / "a.txt")

    @app.get("/stream")
    async def stream() -> Response:
        async def pieces() -> AsyncIterator[bytes | str]:
            yield "ä"
            yield b""
            for _ in range(200):
                yield TEXT[:3000]

        return StreamingResponse(pieces(), media_type="text/plain")

    @app.get("/plain-stream")
    def plain_stream() -> Response:
        def pieces() -> Iterator[bytes]:
            for _ in range(5):
                yield TEXT

        length = {"content-length": str(len(TEXT) * 5)}
        return StreamingResponse(pieces(), media_type="text/plain", headers=length)

    @app.get("/short-stream")
    async def short_stream() -> Response:
        return StreamingResponse(iter([b"short"]), media_type="text/plain", headers={"content-length": "5"})

    @app.get("/broken-stream")
    async def broken_stream() -> Response:
        async def pieces() -> AsyncIterator[bytes]:
            yield TEXT
            raise ValueError("half way")

        return StreamingResponse(pieces(), media_type="text/plain")

    @app.get("/steps")
    async def steps() -> Response:
        return StreamingResponse(STEPS.pieces(), media_type="text/plain")

    @app.get("/events")
    async def events() -> Response:
        return EventSourceResponse(STEPS.pieces())

    return app


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("compress")
    (folder / "a.txt").write_bytes(TEXT)
    with live_server(make_app(folder)) as url:
        yield url


@pytest.fixture
def ask(raw: Any, url: str) -> Callable[..., tuple[int, dict[str, str], bytes]]:
    def ask(path: str, accept: str | None = "gzip", method: str = "GET") -> tuple[int, dict[str, str], bytes]:
        coding = f"Accept-Encoding: {accept}\r\n" if accept is not None else ""
        conn = raw(url).send(f"{method} {path} HTTP/1.1\r\nHost: a\r\n{coding}\r\n".encode())
        answer: tuple[int, dict[str, str], bytes] = conn.response(method == "HEAD")
        assert conn.send(b"GET /small HTTP/1.1\r\nHost: a\r\n\r\n").response()[2] == b"small"
        return answer

    return ask


@pytest.mark.parametrize("coding", CODINGS)
def test_codings(ask: Any, coding: str) -> None:
    for path, content in (("/text", TEXT), ("/large", LARGE), ("/svg", TEXT), ("/error", TEXT), ("/length", TEXT)):
        _, fields, body = ask(path, coding)
        assert (fields["content-encoding"], fields["vary"]) == (coding, "accept-encoding")
        assert fields["content-length"] == str(len(body)) and len(body) < len(content) // 2
        assert DECODE[coding](body) == content
        head = ask(path, coding, "HEAD")[1]
        assert {name: value for name, value in head.items() if name != "date"} == {
            name: value for name, value in fields.items() if name != "date"
        }
    for path, content in (("/stream", "ä".encode() + TEXT[:3000] * 200), ("/plain-stream", TEXT * 5)):
        _, fields, body = ask(path, coding)
        assert (fields["content-encoding"], fields["transfer-encoding"]) == (coding, "chunked")
        assert "content-length" not in fields
        assert DECODE[coding](body) == content
        assert ask(path, coding, "HEAD")[1]["content-encoding"] == coding


@pytest.mark.parametrize(
    ("accept", "coding"),
    [
        ("gzip, br, zstd", "zstd"),
        ("gzip, br", "br"),
        ("gzip;q=1, br;q=0.1", "gzip"),
        ("*", "zstd"),
        ("identity", None),
        ("gzip;q=0", None),
        ("", None),
        (None, None),
    ],
)
def test_what_a_client_takes(ask: Any, accept: str | None, coding: str | None) -> None:
    for path in ("/json", "/dict"):
        _, fields, body = ask(path, accept)
        assert fields.get("content-encoding") == coding
        assert fields["vary"] == "accept-encoding"
        if coding is None:
            assert TEXT in body


@pytest.mark.parametrize(
    "path", ["/small", "/picture", "/none", "/done", "/part", "/fixed", "/nothing", "/file", "/short-stream"]
)
def test_what_is_left_alone(ask: Any, path: str) -> None:
    _, fields, body = ask(path, "gzip")
    _, same, plain = ask(path, None)
    assert body == plain
    assert "vary" not in fields
    assert {**fields, "date": ""} == {**same, "date": ""}


def test_static_folders_are_left_alone(ask: Any) -> None:
    _, fields, body = ask("/static/a.txt", "gzip")
    assert body == TEXT and "content-encoding" not in fields and fields["accept-ranges"] == "bytes"
    assert ask("/static/b.txt", "gzip")[0] == 404


def test_other_fields(ask: Any) -> None:
    fields = ask("/tagged")[1]
    assert (fields["etag"], fields["vary"]) == ('W/"a"', "cookie, accept-encoding")
    assert "accept-ranges" not in fields
    fields = ask("/weak")[1]
    assert (fields["etag"], fields["vary"]) == ('W/"a"', "Accept-Encoding")
    assert ask("/tagged", "identity")[1]["etag"] == '"a"'


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("path", ["/steps", "/events"])
def test_each_piece_arrives_when_it_is_sent(url: str, path: str, coding: str) -> None:
    """The decoder has the whole of a piece before the next one is made; and a client that leaves ends the stream."""
    decoder: Any = {
        "gzip": lambda: zlib.decompressobj(31).decompress,
        "br": lambda: brotli.Decompressor().process,
        "zstd": lambda: zstandard.ZstdDecompressor().decompressobj().decompress,
    }[coding]()
    with (
        httpx.Client(base_url=url, timeout=20) as client,
        client.stream("GET", path, headers={"accept-encoding": coding}) as answer,
    ):
        assert answer.headers["content-encoding"] == coding
        pieces = answer.iter_raw()
        for number in range(4):
            got = b""
            while b"piece %d, " % number not in got:
                got += decoder(next(pieces))
            STEPS.closed = False
            STEPS.next()
    give_up_at = time.monotonic() + 10
    while not STEPS.closed:
        assert time.monotonic() < give_up_at
        STEPS.next()
        time.sleep(0.05)


def test_a_stream_that_fails_is_seen_to_be_cut(url: str, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(httpx.RemoteProtocolError):
        httpx.get(f"{url}/broken-stream", headers={"accept-encoding": "gzip"})
    assert "half way" in caplog.text


def test_options(raw: Any) -> None:
    app = App()
    app.middleware(Compress(minimum_size=10, codings=["gzip"], levels={"gzip": 9}, types=["Application/X-Mine"]))

    @app.get("/{kind:path}")
    async def mine(kind: str) -> Response:
        return Response(b"0123456789", media_type=kind)

    with live_server(app) as url:
        for kind, coding in (("application/x-mine", "gzip"), ("text/plain", "gzip"), ("application/json", None)):
            conn = raw(url).send(f"GET /{kind} HTTP/1.1\r\nHost: a\r\nAccept-Encoding: br, gzip\r\n\r\n".encode())
            assert conn.response()[1].get("content-encoding") == coding


@pytest.mark.parametrize(
    "options", [{"codings": ["deflate"]}, {"levels": {"gzip": 10}}, {"levels": {"zstd": 17}}, {"levels": {"lz4": 1}}]
)
def test_options_that_cannot_be(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="Compress"):
        Compress(**options)


def test_without_the_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    """gzip alone is offered; asking for another says what to install."""
    monkeypatch.setattr(sys, "path", [path for path in sys.path if "site-packages" not in path])
    monkeypatch.setattr(sys, "path_importer_cache", {})
    for module in ("brotli", "zstandard"):
        monkeypatch.delitem(sys.modules, module)
    assert Compress().codings == ("gzip",)
    with pytest.raises(ConfigError, match=r"pip install 'fastserve\[compress\]'"):
        Compress(codings=["br"])
