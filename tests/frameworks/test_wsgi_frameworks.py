"""Every WSGI framework, end to end over real sockets: the small application of apps_wsgi.py, in threads and on the loop."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from wsgiref.validate import validator

import httpx
import pytest
from frameworks.apps_wsgi import MAKERS, WITHOUT, Given

from fastserve.testing import live_server

pytestmark = [
    # What Pyramid 2.1 and WebOb stand on.
    pytest.mark.filterwarnings("ignore:'cgi' is deprecated"),
    pytest.mark.filterwarnings("ignore:pkg_resources is deprecated"),
    pytest.mark.filterwarnings("ignore:Deprecated call to `pkg_resources"),
    # Bottle leaves the temporary file of a long body to the garbage collector, which from Python 3.14 on says so.
    pytest.mark.filterwarnings("ignore:Implicitly cleaning up <_TemporaryFileWrapper:ResourceWarning"),
]


def poll(condition: Callable[[], Any], seconds: float = 10.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.01)


def serve(
    name: str, threads: int, folder: Path, around: Callable[[Any], Any] | None = None
) -> Iterator[SimpleNamespace]:
    file = folder / "file.bin"
    file.write_bytes(bytes(range(256)) * 4096)
    given = Given(file)
    records: list[logging.LogRecord] = []
    handler = logging.Handler(logging.ERROR)
    handler.emit = records.append  # type: ignore[method-assign]
    logger = logging.getLogger("fastserve.error")
    logger.addHandler(handler)
    app = MAKERS[name](given)
    if around is not None:
        app = around(app)
    with live_server(app, threads=threads) as url, httpx.Client(base_url=url, timeout=20) as client:
        yield SimpleNamespace(name=name, given=given, client=client, url=url, errors=records)
    logger.removeHandler(handler)


@pytest.fixture(scope="module", params=list(MAKERS))
def threaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    yield from serve(request.param, 4, tmp_path_factory.mktemp("file"))


@pytest.fixture(scope="module", params=list(MAKERS))
def inline(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    yield from serve(request.param, 0, tmp_path_factory.mktemp("file"))


@pytest.fixture(scope="module", params=list(MAKERS))
def validated(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    yield from serve(request.param, 4, tmp_path_factory.mktemp("file"), validator)


def json(it: SimpleNamespace) -> None:
    answer = it.client.get("/json")
    assert answer.status_code == 200 and answer.json() == {"message": "hello"}
    assert answer.headers["content-type"].startswith("application/json") and "content-length" in answer.headers
    assert it.client.get("/nothing-here").status_code == 404


def echo(it: SimpleNamespace) -> None:
    for data in (b"", b"abc", bytes(range(256)) * 2000):
        assert it.client.post("/echo", content=data).content == data


def chunked(it: SimpleNamespace) -> None:
    pieces = [b"abc", bytes(range(256)) * 2000, b"def"]
    assert it.client.post("/echo", content=iter(pieces)).content == b"".join(pieces)


def stream(it: SimpleNamespace) -> None:
    with it.client.stream("GET", "/stream") as answer:
        assert answer.headers["transfer-encoding"] == "chunked"
        assert b"".join(answer.iter_raw()) == b"0123456789"


def events(it: SimpleNamespace) -> None:
    with it.client.stream("GET", "/events") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = [line for line in answer.iter_lines() if line.startswith("data:")]
    assert [line.removeprefix("data:").strip() for line in lines] == ["0", "1", "2"]


def background(it: SimpleNamespace) -> None:
    before = it.given.background
    assert it.client.post("/background").status_code == 202
    poll(lambda: it.given.background == before + 1)


def upload(it: SimpleNamespace) -> None:
    answer = it.client.post("/upload", files={"file": ("a name.bin", b"x" * 200000, "application/octet-stream")})
    assert answer.json() == {"name": "a name.bin", "size": 200000}


def download(it: SimpleNamespace) -> None:
    answer = it.client.get("/download")
    assert answer.status_code == 200 and answer.content == it.given.file.read_bytes()
    assert answer.headers["content-length"] == str(len(answer.content))


def error(it: SimpleNamespace) -> None:
    answer = it.client.get("/error")
    assert answer.status_code == 500 and "Traceback" not in answer.text
    assert it.client.get("/json").status_code == 200


def late(it: SimpleNamespace) -> None:
    before = len(it.errors)
    with pytest.raises(httpx.RemoteProtocolError):
        it.client.get("/late")
    poll(lambda: len(it.errors) > before)
    assert "in the middle" in str([record.exc_info for record in it.errors[before:]])
    assert it.client.get("/json").status_code == 200


def disconnect(it: SimpleNamespace) -> None:
    before, errors = it.given.left, len(it.errors)
    with httpx.Client(base_url=it.url, timeout=20) as client, client.stream("GET", "/forever") as answer:
        assert next(answer.iter_raw())
    poll(lambda: it.given.left == before + 1)
    assert it.errors[errors:] == []


def cut(it: SimpleNamespace) -> None:
    """An upload that ends in the middle is never answered as if it were whole."""
    host, port = it.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as sock:
        sock.sendall(b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n")
        time.sleep(0.02)
        sock.sendall(b"x" * 50)
        sock.shutdown(socket.SHUT_WR)
        assert b"HTTP/1.1 200" not in sock.recv(65536)


TRIED: dict[str, Callable[[SimpleNamespace], None]] = {
    function.__name__: function
    for function in (json, echo, chunked, stream, events, upload, download, background, error, late, disconnect, cut)
}


@pytest.mark.parametrize("case", list(TRIED))
def test_framework(threaded: SimpleNamespace, case: str) -> None:
    if (threaded.name, case) not in WITHOUT:
        TRIED[case](threaded)
    else:
        assert threaded.client.post("/" + case).status_code == 404


@pytest.mark.parametrize("case", list(TRIED))
def test_on_the_loop(inline: SimpleNamespace, case: str) -> None:
    if (inline.name, case) not in WITHOUT:
        TRIED[case](inline)
    else:
        assert inline.client.post("/" + case).status_code == 404


READS = "the framework calls read() without a size, which the validator takes for a fault"
NOT_VALID = {
    **{(name, "chunked"): READS for name in MAKERS},
    **{(name, "echo"): READS for name in ("Flask", "Django", "falcon")},
    ("falcon", "download"): "the validator hides what wsgi.file_wrapper made, and with it the length",
}
"""Cases that cannot be shown through the validator, and why it is not the server's doing."""


@pytest.mark.parametrize("case", list(TRIED))
def test_with_the_validator_between(validated: SimpleNamespace, case: str) -> None:
    """wsgiref.validate, between the server and the framework, finds no fault on either side."""
    if (validated.name, case) not in WITHOUT | NOT_VALID:
        TRIED[case](validated)


def test_the_grid_has_all_that_is_tried() -> None:
    """docs/compatibility.md is made from a run of these tests: `python docs/compatibility.py`."""
    page = (Path(__file__).resolve().parents[2] / "docs" / "compatibility.md").read_text(encoding="utf-8")
    head = next(line for line in page.splitlines() if line.startswith("| WSGI framework"))
    assert [cell.strip() for cell in head.strip("| ").split("|")][2:] == list(TRIED)
    table = page[page.index(head) :]
    for name in MAKERS:
        row = next(line for line in table.splitlines() if line.lower().startswith(f"| {name.lower()} |"))
        cells = [cell.strip() for cell in row.strip("| ").split("|")][2:]
        assert cells == ["-" if (name, case) in WITHOUT else "yes" for case in TRIED]
