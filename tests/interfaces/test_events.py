"""Server-sent events over real sockets: the format, pings, failures, and clients that leave."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest

from fastserve import App, EventSourceResponse
from fastserve.testing import live_server


def app_of(response: Any) -> App:
    app = App()

    @app.get("/")
    async def index() -> Any:
        return response()

    return app


EVENTS: list[tuple[Any, bytes]] = [
    ("hello", b"data: hello\n\n"),
    ("two\nlines\r\nand\rmore", b"data: two\ndata: lines\ndata: and\ndata: more\n\n"),
    ("", b"data: \n\n"),
    ({"event": "tick", "id": 7, "data": {"n": 1}}, b'event: tick\nid: 7\ndata: {"n":1}\n\n'),
    ({"retry": 3000, "comment": "soon"}, b"retry: 3000\n: soon\n\n"),
    ({"data": "x", "id": None}, b"data: x\n\n"),
    (b"data: as it is\n\n", b"data: as it is\n\n"),
]


@pytest.mark.parametrize("plain", [False, True], ids=["asynchronous", "plain"])
def test_the_format(plain: bool) -> None:
    async def asynchronous() -> AsyncIterator[Any]:
        for event, _ in EVENTS:
            yield event

    source = (lambda: iter([event for event, _ in EVENTS])) if plain else asynchronous
    with live_server(app_of(lambda: EventSourceResponse(source()))) as url:
        answer = httpx.get(url)
    assert answer.content == b"".join(text for _, text in EVENTS)
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.headers["cache-control"] == "no-store" and answer.headers["x-accel-buffering"] == "no"
    assert answer.headers["transfer-encoding"] == "chunked"


def test_silence_is_filled_with_pings_in_one_task() -> None:
    variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable", default=0)
    tasks = set()

    async def slow() -> AsyncIterator[str]:
        for n in range(2):
            tasks.add(asyncio.current_task())
            async with asyncio.timeout(5):
                await asyncio.sleep(0.35)
                assert variable.get() == n
                variable.set(n + 1)
                yield str(n)

    with live_server(app_of(lambda: EventSourceResponse(slow(), ping=0.1))) as url:
        text = httpx.get(url).text
    assert text.count(": ping\n\n") >= 4 and text.endswith("data: 1\n\n") and "data: 0\n\n" in text
    assert len(tasks) == 1


def test_a_client_that_leaves_ends_the_source() -> None:
    ended = threading.Event()

    async def endless() -> AsyncIterator[str]:
        try:
            while True:
                yield "x"
                await asyncio.sleep(0.01)
        finally:
            ended.set()

    with live_server(app_of(lambda: EventSourceResponse(endless()))) as url:
        with httpx.stream("GET", url) as answer:
            assert next(answer.iter_lines()) == "data: x"
        assert ended.wait(5)


def test_a_source_that_fails_is_seen_to_be_cut() -> None:
    async def failing() -> AsyncIterator[Any]:
        yield "one"
        yield {"event": "two\nlines"}

    with live_server(app_of(lambda: EventSourceResponse(failing()))) as url, pytest.raises(httpx.RemoteProtocolError):
        httpx.get(url)


def test_a_stop_does_not_wait_for_a_stream_that_was_left() -> None:
    def numbers() -> Iterator[str]:
        yield "1"

    with live_server(app_of(lambda: EventSourceResponse(numbers()))) as url:
        assert httpx.get(url).text == "data: 1\n\n"
        before = time.monotonic()
    assert time.monotonic() - before < 5


def test_what_is_no_stream_of_events() -> None:
    for wrong in ("text", b"bytes", {"data": 1}, 7):
        with pytest.raises(TypeError):
            EventSourceResponse(wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError):
        EventSourceResponse([], ping=0)
