"""The small application for RSGI, granian's own interface: our native one is compared with a native one.

Loaded by granian-rsgi as `benchmarks.apps.rsgi:app`.
"""

import json
from typing import Any

TEN_KILOBYTES = b"0123456789abcdef" * 640
ONE_MEGABYTE = b"0123456789abcdef" * 65536
CHUNK = b"0123456789abcdef" * 64

TEXT = [("content-type", "text/plain; charset=utf-8")]
JSON = [("content-type", "application/json")]
BINARY = [("content-type", "application/octet-stream")]


async def index(protocol: Any) -> None:
    protocol.response_str(200, TEXT, "Hello, World!")


async def message(protocol: Any) -> None:
    protocol.response_str(200, JSON, json.dumps({"message": "Hello, World!"}))


async def echo(protocol: Any) -> None:
    protocol.response_bytes(200, BINARY, await protocol())


async def ten_kilobytes(protocol: Any) -> None:
    protocol.response_bytes(200, BINARY, TEN_KILOBYTES)


async def one_megabyte(protocol: Any) -> None:
    protocol.response_bytes(200, BINARY, ONE_MEGABYTE)


async def stream(protocol: Any) -> None:
    transport = protocol.response_stream(200, BINARY)
    for _ in range(10):
        await transport.send_bytes(CHUNK)


async def nothing(protocol: Any) -> None:
    protocol.response_str(404, TEXT, "Not Found")


ROUTES = {
    ("GET", "/"): index,
    ("GET", "/json"): message,
    ("POST", "/echo"): echo,
    ("GET", "/10k"): ten_kilobytes,
    ("GET", "/1m"): one_megabyte,
    ("GET", "/stream"): stream,
}


async def app(scope: Any, protocol: Any) -> None:
    await ROUTES.get((scope.method, scope.path), nothing)(protocol)
