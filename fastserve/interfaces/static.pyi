"""Types of static.pyx."""

from collections.abc import Sequence

from fastserve.protocol.hooks import Handler

__all__ = ["Static", "StaticHandler"]

class Entry: ...

class Static:
    directory: str
    prefix: str
    segments: list[bytes]
    def __init__(
        self,
        prefix: str,
        directory: str,
        *,
        index: str | None = "index.html",
        max_age: float | None = None,
        precompressed: bool = True,
        etag: bool = True,
    ) -> None: ...
    async def find_later(self, path: bytes) -> Entry | None: ...
    def cancel(self) -> None: ...
    def close(self) -> None: ...

class StaticHandler(Handler):
    def __init__(self, inner: Handler, folders: Sequence[Static]) -> None: ...

async def static_response(folder: Static, exchange: object) -> object: ...
