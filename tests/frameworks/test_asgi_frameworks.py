"""Every ASGI framework, end to end over real sockets: the small application of contract.py, served as it is."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from frameworks.asgi_apps import MAKERS, WITHOUT
from frameworks.contract import CASES, Given
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from fastserve.testing import live_server


def poll(condition: Callable[[], Any], seconds: float = 10.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.01)


@pytest.fixture(scope="module", params=list(MAKERS))
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    file = tmp_path_factory.mktemp("file") / "file.bin"
    file.write_bytes(bytes(range(256)) * 4096)
    given = Given(file)
    records: list[logging.LogRecord] = []
    handler = logging.Handler(logging.ERROR)
    handler.emit = records.append  # type: ignore[method-assign]
    logger = logging.getLogger("fastserve.error")
    logger.addHandler(handler)
    app = MAKERS[request.param](given)
    with live_server(app) as url, httpx.Client(base_url=url, timeout=20) as client:
        yield SimpleNamespace(name=request.param, given=given, client=client, url=url, errors=records)
    logger.removeHandler(handler)
    assert given.shutdowns == (request.param != "Django"), "the lifespan was not ended"


def json(it: SimpleNamespace) -> None:
    answer = it.client.get("/json")
    assert answer.status_code == 200 and answer.json() == {"message": "hello"}
    assert answer.headers["content-type"].startswith("application/json")
    assert it.client.head("/json").status_code in (200, 404, 405)  # not every framework makes a HEAD of a GET
    assert it.client.get("/nothing-here").status_code == 404


def echo(it: SimpleNamespace) -> None:
    for data in (b"", b"abc", bytes(range(256)) * 2000):
        assert it.client.post("/echo", content=data).content == data
    assert it.client.post("/echo", content=iter([b"abc", b"def"])).content == b"abcdef"


def stream(it: SimpleNamespace) -> None:
    with it.client.stream("GET", "/stream") as answer:
        assert answer.headers["transfer-encoding"] == "chunked"
        assert b"".join(answer.iter_raw()) == b"0123456789"


def events(it: SimpleNamespace) -> None:
    with it.client.stream("GET", "/events") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = [line for line in answer.iter_lines() if line.startswith("data:")]
    assert [line.removeprefix("data:").strip() for line in lines] == ["0", "1", "2"]


def upload(it: SimpleNamespace) -> None:
    answer = it.client.post("/upload", files={"file": ("a name.bin", b"x" * 200000, "application/octet-stream")})
    assert answer.json() == {"name": "a name.bin", "size": 200000}


def download(it: SimpleNamespace) -> None:
    answer = it.client.get("/download")
    assert answer.status_code == 200 and answer.content == it.given.file.read_bytes()


def background(it: SimpleNamespace) -> None:
    before = it.given.background
    assert it.client.post("/background").status_code == 202
    poll(lambda: it.given.background == before + 1)


def state(it: SimpleNamespace) -> None:
    assert it.client.get("/state").text == "ready"


def error(it: SimpleNamespace) -> None:
    answer = it.client.get("/error")
    assert answer.status_code == 500 and "Traceback" not in answer.text
    assert it.client.get("/json").status_code == 200


def disconnect(it: SimpleNamespace) -> None:
    before, errors = it.given.left, len(it.errors)
    with httpx.Client(base_url=it.url, timeout=20) as client, client.stream("GET", "/forever") as answer:
        assert next(answer.iter_raw())
    poll(lambda: it.given.left == before + 1)
    assert it.errors[errors:] == []


def websocket(it: SimpleNamespace) -> None:
    before, errors = it.given.left, len(it.errors)
    with connect(it.url.replace("http", "ws", 1) + "/talk") as client:
        for message in ("häßlich", bytes(range(256)), "", b"x" * 100_000):
            client.send(message)
            assert client.recv(timeout=20) == message
    poll(lambda: it.given.left == before + 1)
    assert it.errors[errors:] == []
    with pytest.raises(InvalidStatus) as refused:
        connect(it.url.replace("http", "ws", 1) + "/nothing-here")
    assert refused.value.response.status_code in (403, 404)
    assert it.client.get("/json").status_code == 200


TRIED: dict[str, Callable[[SimpleNamespace], None]] = {
    function.__name__: function
    for function in (json, echo, stream, events, upload, download, background, state, error, disconnect, websocket)
}


@pytest.mark.parametrize("case", CASES)
def test_framework(served: SimpleNamespace, case: str) -> None:
    if (served.name, case) in WITHOUT:
        assert served.client.get("/" + case).status_code == 404
        return
    TRIED[case](served)


def test_the_grid_has_all_that_is_tried() -> None:
    """docs/compatibility.md is made from a run of these tests: `python docs/compatibility.py`."""
    page = (Path(__file__).resolve().parents[2] / "docs" / "compatibility.md").read_text(encoding="utf-8")
    head = next(line for line in page.splitlines() if line.startswith("| ASGI framework"))
    assert [cell.strip() for cell in head.strip("| ").split("|")][2:] == list(CASES)
    for name in MAKERS:
        row = next(line for line in page.splitlines() if line.startswith(f"| {name} |"))
        cells = [cell.strip() for cell in row.strip("| ").split("|")][2:]
        assert cells == ["-" if (name, case) in WITHOUT else "yes" for case in CASES]
