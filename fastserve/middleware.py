"""Middleware that many applications want: Compress, which codes what handlers return.

Room: floor 2, plain Python. Called by: users, who give it to `app.middleware`; the native wing, for each request. Calls:
protocol/ (Response types, Accept-Encoding). Rules: RFC 9110 sections 8.4 (Content-Encoding), 8.8.1 (a strong tag is for one
sequence of bytes), 12.5.3, 12.5.5 (Vary); RFC 9111 section 5.2.2.6 (no-transform).

gzip comes with Python; br and zstd are offered if their libraries are installed (`pip install 'fastserve[compress]'`).
Compressed secrets can leak by their length (BREACH): docs/static-files.md says when, and what to do.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Iterator
from typing import Any, Protocol

from fastserve.errors import ConfigError
from fastserve.protocol.files import accepted_codings
from fastserve.protocol.request import Request
from fastserve.protocol.response import FileResponse, Response, StreamingResponse

__all__ = ["CODINGS", "TYPES", "Compress"]

CODINGS = ("zstd", "br", "gzip")
"""What can be offered, in the order that is chosen where the client has no preference."""

TYPES = frozenset(
    {
        "application/atom+xml",
        "application/javascript",
        "application/json",
        "application/ld+json",
        "application/manifest+json",
        "application/problem+json",
        "application/rss+xml",
        "application/x-ndjson",
        "application/xhtml+xml",
        "application/xml",
        "image/svg+xml",
    }
)
"""Media types that are worth it, beside text/*. Pictures, films and archives are compressed already."""

IN_THREAD_MIN = 262144  # a body of this size takes milliseconds, which are other people's on the event loop
UNTOUCHED = frozenset({204, 205, 206, 304})  # without a body, or a range of something else


class Coder(Protocol):
    """One body on its way. What `compress` returns can be decoded at once, whatever comes later."""

    def compress(self, data: bytes) -> bytes: ...
    def finish(self) -> bytes: ...


class Gzip:
    """RFC 1952, by zlib."""

    def __init__(self, level: int) -> None:
        self._stream = zlib.compressobj(level, zlib.DEFLATED, 31)

    def compress(self, data: bytes) -> bytes:
        return self._stream.compress(data) + self._stream.flush(zlib.Z_SYNC_FLUSH)

    def finish(self) -> bytes:
        return self._stream.flush()

    @staticmethod
    def whole(data: bytes, level: int) -> bytes:
        return zlib.compress(data, level, 31)


class Brotli:
    """RFC 7932, by the library of its authors."""

    def __init__(self, level: int) -> None:
        import brotli  # type: ignore[import-untyped]

        self._stream = brotli.Compressor(quality=level, lgwin=19)  # 512 KiB for each answer on its way, not 4 MiB

    def compress(self, data: bytes) -> bytes:
        return bytes(self._stream.process(data) + self._stream.flush())

    def finish(self) -> bytes:
        return bytes(self._stream.finish())

    @staticmethod
    def whole(data: bytes, level: int) -> bytes:
        import brotli

        return bytes(brotli.compress(data, quality=level))


class Zstd:
    """RFC 8878, by zstandard. RFC 9659: windows of at most 8 MiB, which levels below 17 keep to."""

    def __init__(self, level: int) -> None:
        import zstandard

        self._block = zstandard.COMPRESSOBJ_FLUSH_BLOCK
        self._stream = zstandard.ZstdCompressor(level=level).compressobj()

    def compress(self, data: bytes) -> bytes:
        return self._stream.compress(data) + self._stream.flush(self._block)

    def finish(self) -> bytes:
        return self._stream.flush()

    @staticmethod
    def whole(data: bytes, level: int) -> bytes:
        import zstandard

        return zstandard.ZstdCompressor(level=level).compress(data)


# coding: who does it, its level, the levels there are. Dynamic answers want speed: these are where each is still quick.
CODERS: dict[str, tuple[Any, int, range]] = {
    "gzip": (Gzip, 5, range(1, 10)),
    "br": (Brotli, 4, range(12)),
    "zstd": (Zstd, 3, range(1, 17)),
}


class Compress:
    """Compresses answers for clients that take it: `app.middleware(Compress())`.

    `minimum_size`: bytes below which a body is sent as it is (streams, whose size nobody knows, are compressed).
    `codings`: those to offer, in order of preference; None: all of CODINGS whose library is installed. `levels`: by coding.
    `types`: media types beside text/* that are compressed.

    Untouched are: answers that have a Content-Encoding, ranges, 204, 205 and 304, `Cache-Control: no-transform`, files
    (FileResponse and static folders: lay compressed siblings beside them). A stream is flushed with every piece, so
    server-sent events arrive when they are sent. A strong ETag becomes a weak one. ConfigError for what cannot be.
    """

    def __init__(
        self,
        *,
        minimum_size: int = 1024,
        codings: Iterable[str] | None = None,
        levels: dict[str, int] | None = None,
        types: Iterable[str] = TYPES,
    ) -> None:
        if codings is None:
            codings = [coding for coding in CODINGS if _is_installed(coding)]
        self.codings = tuple(codings)
        self.minimum_size = minimum_size
        self.types = frozenset(kind.lower() for kind in types)
        self.levels = {coding: level for coding, (_, level, _) in CODERS.items()}
        for coding, level in (levels or {}).items():
            if coding not in CODERS or level not in CODERS[coding][2]:
                raise ConfigError(f"Compress: there is no {coding!r} of level {level!r}", exit_code=3)
            self.levels[coding] = level
        for coding in self.codings:
            if coding not in CODERS:
                raise ConfigError(f"Compress: unknown coding {coding!r}; there are {', '.join(CODINGS)}", exit_code=3)
            if not _is_installed(coding):
                raise ConfigError(f"Compress: {coding} needs a library: pip install 'fastserve[compress]'", exit_code=3)
        self._offered = tuple(coding.encode("ascii") for coding in self.codings)

    async def __call__(self, request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        response = await call_next(request)
        if not self._is_worth_it(response):
            return response
        headers = response.headers
        varies = {word.strip().lower() for word in headers.get("vary", "").split(",")}
        if not varies & {"accept-encoding", "*"}:
            headers.add_vary_header("accept-encoding")
        accepted = accepted_codings(
            ", ".join(request.headers.getlist("accept-encoding")).encode("latin-1"), self._offered
        )
        if not accepted:
            return response
        coding = accepted[0].decode("ascii")
        coder, level = CODERS[coding][0], self.levels[coding]
        if isinstance(response, StreamingResponse):
            pieces = response.body_iterator
            if isinstance(pieces, AsyncIterable):
                response.body_iterator = _coded_async(pieces, coder(level))
            else:
                response.body_iterator = _coded(pieces, coder(level))
        else:
            body = response.body or b""
            if len(body) < IN_THREAD_MIN:
                response.body = coder.whole(body, level)
            else:
                response.body = await asyncio.get_running_loop().run_in_executor(None, coder.whole, body, level)
        headers["content-encoding"] = coding
        del headers["content-length"]  # it was that of the other body
        del headers["accept-ranges"]
        tag = headers.get("etag")
        if tag is not None and not tag.startswith("W/"):
            headers["etag"] = f"W/{tag}"
        return response

    def _is_worth_it(self, response: Response) -> bool:
        headers = response.headers
        if response.status_code in UNTOUCHED or isinstance(response, FileResponse):
            return False
        if "content-encoding" in headers or "content-range" in headers:
            return False
        if "no-transform" in headers.get("cache-control", "").lower():
            return False
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if not kind.startswith("text/") and kind not in self.types:
            return False
        if not isinstance(response, StreamingResponse):
            return len(response.body or b"") >= self.minimum_size
        length = headers.get("content-length", "")
        return not length.isdigit() or int(length) >= self.minimum_size

    def __repr__(self) -> str:
        return f"Compress({', '.join(self.codings)})"


def _is_installed(coding: str) -> bool:
    from importlib.util import find_spec

    module = {"br": "brotli", "zstd": "zstandard"}.get(coding)
    return module is None or find_spec(module) is not None


def _bytes_of(piece: bytes | str) -> bytes:
    return piece.encode("utf-8") if isinstance(piece, str) else bytes(piece)


def _coded(pieces: Iterable[bytes | str], coder: Coder) -> Iterator[bytes]:
    iterator = iter(pieces)
    try:
        for piece in iterator:
            if piece:
                yield coder.compress(_bytes_of(piece))
        yield coder.finish()
    finally:
        close = getattr(iterator, "close", None)
        if close is not None:
            close()


async def _coded_async(pieces: AsyncIterable[bytes | str], coder: Coder) -> AsyncIterator[bytes]:
    iterator = aiter(pieces)
    try:
        async for piece in iterator:
            if piece:
                yield coder.compress(_bytes_of(piece))
        yield coder.finish()
    finally:
        close = getattr(iterator, "aclose", None)
        if close is not None:
            await close()
