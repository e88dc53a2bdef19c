"""Station 6, respond: a response head and body by fastserve's C core, by h11, and by the joining that uvicorn does.

Called by `pytest benchmarks/micro`. Each makes a 200 with a date, a content-type and a content-length, and copies the
body behind the head. fastserve and h11 check names and values for CR, LF and NUL; the joining checks nothing.
"""

from typing import Any

import h11
import pytest

BODIES = {"13 B": b"Hello, World!", "1 KB": b"x" * 1024, "10 KB": b"x" * 10240}
DATE = b"Sun, 06 Nov 1994 08:49:37 GMT"
by_body = pytest.mark.parametrize("size", list(BODIES))


def group(benchmark: Any, size: str) -> bytes:
    benchmark.group = f"respond {size}"
    return BODIES[size]


@by_body
def test_fastserve_c(benchmark: Any, core: Any, self_timed: Any, size: str) -> None:
    body = group(benchmark, size)
    self_timed.run(benchmark, lambda: core.bench_response(10_000, body))


@by_body
def test_join(benchmark: Any, size: str) -> None:
    """As uvicorn's httptools protocol: a list of pieces, joined. (uvicorn writes head and body apart; here once.)"""
    body = group(benchmark, size)
    status_line = b"HTTP/1.1 200 OK\r\n"

    def respond(body: bytes) -> bytes:
        headers = [
            (b"date", DATE),
            (b"server", b"uvicorn"),
            (b"content-type", b"text/plain; charset=utf-8"),
            (b"content-length", b"%d" % len(body)),
        ]
        content = [status_line]
        for name, value in headers:
            content.extend([name, b": ", value, b"\r\n"])
        content.append(b"\r\n")
        content.append(body)
        return b"".join(content)

    assert benchmark(respond, body).endswith(body)


@by_body
def test_h11(benchmark: Any, size: str) -> None:
    body = group(benchmark, size)

    def asked() -> tuple[tuple[h11.Connection], dict[str, Any]]:
        connection = h11.Connection(h11.SERVER)
        connection.receive_data(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        connection.next_event()
        return (connection,), {}

    def respond(connection: h11.Connection) -> bytes:
        headers = [
            (b"date", DATE),
            (b"content-type", b"text/plain; charset=utf-8"),
            (b"content-length", b"%d" % len(body)),
        ]
        head = connection.send(h11.Response(status_code=200, headers=headers, reason=b"OK")) or b""
        data = connection.send(h11.Data(data=body)) or b""
        return head + data + (connection.send(h11.EndOfMessage()) or b"")

    assert benchmark.pedantic(respond, setup=asked, rounds=2000, warmup_rounds=100).endswith(body)
