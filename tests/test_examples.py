"""Every example is run as a user runs it, in a process of its own, and answers what its page says."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"
LIMIT = 10.0  # seconds, for anything


@contextmanager
def running(*command: str) -> Iterator[str]:
    """The URL of a server started by this command, from what it prints. It must end cleanly when it is told to."""
    environ = {key: value for key, value in os.environ.items() if key not in ("PORT", "WEB_CONCURRENCY", "NO_COLOR")}
    process = subprocess.Popen(
        [sys.executable, *command],
        cwd=ROOT,
        env={**environ, "PYTHONUNBUFFERED": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background job ignores it
    )
    assert process.stdout is not None
    said: list[str] = []
    listening = threading.Event()

    def listen() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            said.append(line)
            if "ready" in line or "listening on" in line:
                listening.set()
        listening.set()

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    try:
        assert listening.wait(LIMIT), f"not ready: {said}"
        address = re.search(r"http://127\.0\.0\.1:[0-9]+", "".join(said))
        assert address is not None, "".join(said)
        yield address[0]
        process.send_signal(signal.SIGINT)
        assert process.wait(LIMIT) in (0, 130, -signal.SIGINT), "".join(said)
    finally:
        process.kill()
        process.wait()
        listener.join(LIMIT)
        process.stdout.close()


@contextmanager
def example(name: str, *options: str) -> Iterator[httpx.Client]:
    with (
        running("-m", "fastserve", f"examples.{name}:app", "--port", "0", *options) as url,
        httpx.Client(base_url=url, timeout=LIMIT) as client,
    ):
        yield client


def address_of(client: httpx.Client) -> tuple[str, int]:
    assert client.base_url.port is not None
    return client.base_url.host, client.base_url.port


def exchange(address: tuple[str, int], *sent: bytes) -> bytes:
    """Send these, a moment apart; everything that comes back until the other side closes."""
    with socket.create_connection(address, LIMIT) as connection:
        for data in sent:
            connection.sendall(data)
            time.sleep(0.01)
        return b"".join(iter(lambda: connection.recv(65536), b""))


def test_every_example_is_tested() -> None:
    text = Path(__file__).read_text(encoding="utf-8")
    names = [path.stem for path in EXAMPLES.glob("*.py") if path.stem != "__init__"]
    assert names and not [name for name in names if not re.search(rf'"{name}"|{name}\.py|examples\.{name}:', text)]


# ------------------------------------------------------------------------------------------------ App examples


def test_hello() -> None:
    with example("hello") as client:
        answer = client.get("/")
        assert (answer.status_code, answer.text) == (200, "Hello, World!")
        assert client.get("/hello/you").json() == {"hello": "you"}
        assert client.get("/hello/a%2Fb").json() == {"hello": "a/b"}
        assert client.get("/nowhere").status_code == 404
        assert client.head("/").headers["content-length"] == "13"
        refused = client.post("/")
        assert (refused.status_code, refused.headers["allow"]) == (405, "GET, HEAD, OPTIONS")


def test_json_api() -> None:
    with example("json_api") as client:
        made = client.post("/api/notes", json={"text": "milk", "tags": ["shop"]})
        assert (made.status_code, made.json(), made.headers["location"]) == (201, {"id": 1}, "/api/notes/1")
        note = {"id": 1, "text": "milk", "tags": ["shop"]}
        assert client.get("/api/notes/1").json() == note
        assert client.get("/api/notes", params={"contains": "mi"}).json() == [note]
        assert client.get("/api/notes", params={"contains": "x"}).json() == []
        assert client.get("/api/notes", params={"limit": "many"}).status_code == 400
        missing = client.get("/api/notes/7")
        assert (missing.status_code, missing.json()) == (404, {"error": "there is no note 7"})
        assert client.get("/api/notes/seven").status_code == 404
        assert client.post("/api/notes", content=b"{").status_code == 400
        assert client.post("/api/notes", json={"text": 5}).status_code == 422
        assert client.delete("/api/notes/1", headers={"if-match": "x"}).status_code == 412
        assert client.delete("/api/notes/1").status_code == 204
        assert client.delete("/api/notes/1").status_code == 404


def test_streaming_down() -> None:
    with example("streaming") as client:
        began = time.monotonic()
        with client.stream("GET", "/ticks", params={"count": 3, "interval": 0.5}) as answer:
            pieces = answer.iter_text()
            assert next(pieces) == "tick 0\n"
            assert time.monotonic() - began < 0.4, "the first piece waited for the second"
            assert "".join(pieces) == "tick 1\ntick 2\n"
        assert answer.headers["transfer-encoding"] == "chunked"
        zeros = client.get("/zeros/1000001")
        assert zeros.content == bytes(1000001)


def test_streaming_up_and_both_ways() -> None:
    data = os.urandom(3_000_000)

    def pieces() -> Iterator[bytes]:
        for start in range(0, len(data), 70_000):
            yield data[start : start + 70_000]

    with example("streaming") as client:
        digest = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
        assert client.put("/hash", content=data).json() == digest
        assert client.post("/hash", content=pieces()).json() == digest  # chunked
        assert client.put("/upper", content=b"abc" * 100_000).content == b"ABC" * 100_000


def test_shop() -> None:
    with example("shop") as client:
        assert client.get("/items/7").json() == {"id": 7, "name": "tea number 7", "price": 6.5, "left": 33}
        assert client.get("/report", params={"rows": 2}).text.count("\n") == 1


def test_slow_handler() -> None:
    with example("slow_handler") as client:
        assert client.get("/").text == "at once\n"
        for path, text in (
            ("/wait", "waited\n"),
            ("/thread", "blocked a thread\n"),
            ("/block", "blocked everybody\n"),
        ):
            began = time.monotonic()
            assert client.get(path, params={"seconds": 0.2}).text == text
            assert time.monotonic() - began >= 0.19
        assert client.post("/upload", content=b"x" * 70_000).text == "70000 bytes\n"
        assert client.get("/drip", params={"count": 2}).text == "0\n1\n"


def test_slow_handlers_do_not_hold_others_up() -> None:
    async def both(url: str, path: str) -> float:
        async with httpx.AsyncClient(base_url=url, timeout=LIMIT) as client:
            slow = asyncio.ensure_future(client.get(path, params={"seconds": 1}))
            await asyncio.sleep(0.1)
            began = time.monotonic()
            assert (await client.get("/")).text == "at once\n"
            took = time.monotonic() - began
            await slow
            return took

    with running("-m", "fastserve", "examples.slow_handler:app", "--port", "0") as url:
        assert asyncio.run(both(url, "/wait")) < 0.5
        assert asyncio.run(both(url, "/thread")) < 0.5
        assert asyncio.run(both(url, "/block")) > 0.5


def test_slow_handler_shows_deadlines() -> None:
    """Stations 1 and 2 of the tour."""
    with example("slow_handler", "--timeout-header", "0.3") as client:
        assert exchange(address_of(client)) == b""
        assert exchange(address_of(client), b"GET / HT").startswith(b"HTTP/1.1 408 ")


# ---------------------------------------------------------------------------------------------- the doll's house


@pytest.fixture(scope="module")
def tiny() -> Iterator[tuple[str, int]]:
    with running("examples/tiny_server.py", "0") as url:
        host, _, port = url.removeprefix("http://").partition(":")
        yield host, int(port)


def test_tiny_server_serves_a_real_client(tiny: tuple[str, int]) -> None:
    with httpx.Client(base_url=f"http://{tiny[0]}:{tiny[1]}", timeout=LIMIT) as client:
        assert client.get("/abc?d=e").text == "GET /abc?d=e\n"
        assert client.post("/", content=b"hello").text == "hello"
        assert client.post("/", content=bytes(300_000)).content == bytes(300_000)
        head = client.head("/abc")
        assert (head.headers["content-length"], head.content) == ("10", b"")


def answers(received: bytes) -> list[tuple[int, bytes, bytes]]:
    """(status, head, body) of responses with Content-Length, one behind the other."""
    found = []
    while received:
        head, _, rest = received.partition(b"\r\n\r\n")
        length = re.search(rb"\r\ncontent-length: ([0-9]+)", head)
        assert length is not None, received
        size = int(length[1])
        found.append((int(head.split()[1]), head, rest[:size]))
        received = rest[size:]
    return found


HOST = b"Host: a\r\n"
LAST = HOST + b"Connection: close\r\n\r\n"


def test_websocket_chat() -> None:
    from websockets.sync.client import connect

    with running("-m", "fastserve", "examples.websocket_chat:app", "--port", "0") as url:
        assert "new WebSocket" in httpx.get(url, timeout=LIMIT).text
        room = url.replace("http", "ws") + "/rooms/7?name="
        with connect(room + "ann") as ann, connect(room + "bob") as bob:
            assert ann.recv(LIMIT) == "ann came in" and ann.recv(LIMIT) == "bob came in"
            bob.send("hello")
            assert ann.recv(LIMIT) == "bob: hello"
            bob.close()
            assert ann.recv(LIMIT) == "bob left"


def test_tiny_server_answers_a_pipelined_batch_in_order(tiny: tuple[str, int]) -> None:
    batch = b"POST /1 HTTP/1.1\r\n" + HOST + b"Content-Length: 3\r\n\r\none"
    batch += b"GET /slow HTTP/1.1\r\n" + HOST + b"\r\nGET /3 HTTP/1.1\r\n" + LAST + b"GET /never HTTP/1.1\r\n" + LAST
    found = answers(exchange(tiny, batch))
    assert [(status, body) for status, _, body in found] == [(200, b"one"), (200, b"GET /slow\n"), (200, b"GET /3\n")]
    assert [b"connection: close" in head for _, head, _ in found] == [False, False, True]


def test_tiny_server_does_not_mind_how_bytes_arrive(tiny: tuple[str, int]) -> None:
    request = b"POST / HTTP/1.1\r\nContent-Length: 5\r\n" + LAST + b"hello"
    one_by_one = [request[i : i + 1] for i in range(len(request))]
    assert [(status, body) for status, _, body in answers(exchange(tiny, *one_by_one))] == [(200, b"hello")]


def test_tiny_server_keeps_http10_open_only_if_asked(tiny: tuple[str, int]) -> None:
    assert len(answers(exchange(tiny, b"GET / HTTP/1.0\r\n\r\nGET / HTTP/1.0\r\n\r\n"))) == 1
    asked = b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"
    assert len(answers(exchange(tiny, asked + asked + b"GET / HTTP/1.0\r\n\r\n"))) == 3


@pytest.mark.parametrize(
    ("status", "request_"),
    [
        (400, b"GET / HTTP/1.1\r\n\r\n"),
        (400, b"GET / HTTP/1.1\r\n" + HOST + HOST + b"\r\n"),
        (400, b"GET / HTTP/1.1\nHost: a\n\n"),
        (400, b"GET  / HTTP/1.1\r\n" + LAST),
        (400, b"GET / http/1.1\r\n" + LAST),
        (400, b"GET /# HTTP/1.1\r\n" + LAST),
        (400, b"GET / HTTP/1.1\r\nA : b\r\n" + LAST),
        (400, b"GET / HTTP/1.1\r\nA: b\r\n c\r\n" + LAST),
        (400, b"GET / HTTP/1.1\r\nA: \0\r\n" + LAST),
        (400, b"GET / HTTP/1.1\r\nA: b\rc\r\n" + LAST),
        (400, b"POST / HTTP/1.1\r\nContent-Length: +1\r\n" + LAST + b"a"),
        (400, b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1\r\n" + LAST + b"a"),
        (413, b"POST / HTTP/1.1\r\nContent-Length: 9999999\r\n" + LAST),
        (417, b"POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 1\r\n" + LAST),
        (431, b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 100 + LAST),
        (431, b"GET / HTTP/1.1\r\nA: " + b"b" * 70_000),
        (501, b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n" + LAST + b"0\r\n\r\n"),
    ],
)
def test_tiny_server_refuses(tiny: tuple[str, int], status: int, request_: bytes) -> None:
    found = answers(exchange(tiny, request_ + b"GET /smuggled HTTP/1.1\r\n" + LAST))
    assert [status for status, _, _ in found] == [status]
    assert b"\r\nconnection: close" in found[0][1]


def test_tiny_server_cancels_when_the_client_leaves(tiny: tuple[str, int]) -> None:
    with socket.create_connection(tiny, LIMIT) as connection:
        connection.sendall(b"GET /slow HTTP/1.1\r\n" + HOST + b"\r\n")
    assert answers(exchange(tiny, b"GET / HTTP/1.1\r\n" + LAST))[0][0] == 200


def test_tiny_server_is_tiny() -> None:
    lines = (EXAMPLES / "tiny_server.py").read_text(encoding="utf-8").splitlines()
    assert sum(bool(line.strip()) for line in lines) <= 140


def test_the_apps_are_native_apps() -> None:
    """They can also be imported and served in a program: what `fastserve.testing` is for."""
    sys.path.insert(0, str(ROOT))
    try:
        from examples import hello, streaming
    finally:
        sys.path.remove(str(ROOT))
    from fastserve.testing import live_server

    for app in (hello.app, streaming.app):
        with live_server(app) as url:
            answer = httpx.get(url + "/nowhere")
            assert (answer.status_code, answer.text) == (404, "Not Found")
    assert [route.path for route in hello.app.routes] == ["/", "/hello/{name}"]
