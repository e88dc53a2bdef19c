"""Station 3, parse: a request head by fastserve's C core, httptools and h11, on the same bytes.

Called by `pytest benchmarks/micro`. Five rows per input:
  fastserve, C        the parse alone, timed in C: no Python object is made (bench_head)
  fastserve           one call from Python, a tuple of method, target, version and field count (parse_head)
  httptools, bare     llhttp in C and one call from Python; no callback is defined, so nothing is kept
  httptools           with callbacks in Python that keep what uvicorn keeps: url, (name, value) pairs, the scope's parts
  h11                 receive_data and next_event

What the rows do not share: httptools' callbacks and h11 make objects of every field; fastserve leaves the fields in the
buffer, checked and located, and makes objects of those the application asks for. fastserve and h11 check all that
RFC 9112 asks of a head, Host and framing among it; httptools checks less. The bytes are the same each time, so
caches and branch predictors are warm: real traffic is slower for all.
"""

from typing import Any

import h11
import httptools
import pytest

from benchmarks.cases import HEADS

by_head = pytest.mark.parametrize("name", list(HEADS))


def fields_of(data: bytes) -> int:
    return data.count(b"\r\n") - 2  # all lines but the request line and the empty one


def group(benchmark: Any, name: str) -> bytes:
    data = HEADS[name]
    benchmark.group = f"parse {name}: {len(data)} B, {fields_of(data)} fields"
    return data


@by_head
def test_fastserve_c(benchmark: Any, core: Any, self_timed: Any, name: str) -> None:
    data = group(benchmark, name)
    self_timed.run(benchmark, lambda: core.bench_head(data, 10_000))


@by_head
def test_fastserve(benchmark: Any, core: Any, name: str) -> None:
    data = group(benchmark, name)
    method, target, minor_version, fields = benchmark(core.parse_head, data)
    assert (method, minor_version, fields) == (b"GET", 1, fields_of(data))
    assert target == data.split(b" ")[1]


@by_head
def test_httptools_bare(benchmark: Any, name: str) -> None:
    data = group(benchmark, name)
    parser = httptools.HttpRequestParser(object())
    benchmark(parser.feed_data, data)
    assert parser.get_method() == b"GET"


class Uvicorn:
    """The storing that uvicorn's httptools protocol does per request; running the application is left out."""

    def __init__(self) -> None:
        self.parser = httptools.HttpRequestParser(self)
        self.scope: dict[str, Any] = {}
        self.complete = 0

    def on_message_begin(self) -> None:
        self.url = b""
        self.expect_100_continue = False
        self.headers: list[tuple[bytes, bytes]] = []
        self.scope = {"type": "http", "http_version": "1.1", "scheme": "http", "headers": self.headers}

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        http_version = self.parser.get_http_version()
        self.scope["method"] = self.parser.get_method().decode("ascii")
        if http_version != "1.1":
            self.scope["http_version"] = http_version
        self.keep_alive = http_version != "1.0" and self.parser.should_keep_alive()

    def on_message_complete(self) -> None:
        self.complete += 1


@by_head
def test_httptools(benchmark: Any, name: str) -> None:
    data = group(benchmark, name)
    protocol = Uvicorn()
    benchmark(protocol.parser.feed_data, data)
    assert protocol.complete > 1 and len(protocol.headers) == fields_of(data)
    assert protocol.scope["method"] == "GET" and protocol.url == data.split(b" ")[1]


@by_head
def test_h11(benchmark: Any, name: str) -> None:
    data = group(benchmark, name)

    # A connection takes its next request only after an answer; so each round has a new one, made outside the time.
    def connection() -> tuple[tuple[h11.Connection], dict[str, Any]]:
        return (h11.Connection(h11.SERVER),), {}

    def parse(connection: h11.Connection) -> Any:
        connection.receive_data(data)
        return connection.next_event()

    event = benchmark.pedantic(parse, setup=connection, rounds=2000, warmup_rounds=100)
    assert isinstance(event, h11.Request) and len(event.headers) == fields_of(data)
