"""Types of response.pyx."""

import os
from collections.abc import AsyncIterable, Callable, Iterable, Mapping
from datetime import datetime
from typing import Any, Literal

from fastserve.protocol.headers import URL, Headers, MutableHeaders

__all__ = [
    "EventSourceResponse",
    "FileResponse",
    "HTMLResponse",
    "JSONResponse",
    "PlainTextResponse",
    "RedirectResponse",
    "Response",
    "StreamingResponse",
    "json_encode",
]

_Headers = Mapping[str, str] | Headers | Iterable[tuple[str, str]] | None

json_encode: Callable[[Any], bytes]

class Response:
    status_code: int
    media_type: str | None
    def __init__(
        self,
        content: Any = b"",
        status_code: int = 200,
        headers: _Headers = None,
        media_type: str | None = None,
    ) -> None: ...
    def render(self, content: Any) -> bytes: ...
    @property
    def headers(self) -> MutableHeaders: ...
    @property
    def raw_headers(self) -> list[tuple[bytes, bytes]]: ...
    @property
    def body(self) -> bytes | None: ...
    @body.setter
    def body(self, value: bytes | str) -> None: ...
    def set_cookie(
        self,
        key: str,
        value: str = "",
        max_age: int | None = None,
        expires: datetime | str | int | None = None,
        path: str | None = "/",
        domain: str | None = None,
        secure: bool = False,
        httponly: bool = False,
        samesite: Literal["lax", "strict", "none"] | None = "lax",
        partitioned: bool = False,
    ) -> None: ...
    def delete_cookie(
        self,
        key: str,
        path: str | None = "/",
        domain: str | None = None,
        secure: bool = False,
        httponly: bool = False,
        samesite: Literal["lax", "strict", "none"] | None = "lax",
        partitioned: bool = False,
    ) -> None: ...

class PlainTextResponse(Response): ...
class HTMLResponse(Response): ...

class JSONResponse(Response):
    def __init__(
        self, content: Any, status_code: int = 200, headers: _Headers = None, media_type: str | None = None
    ) -> None: ...

class RedirectResponse(Response):
    def __init__(self, url: str | URL, status_code: int = 307, headers: _Headers = None) -> None: ...

class StreamingResponse(Response):
    body_iterator: Iterable[bytes | str] | AsyncIterable[bytes | str]
    def __init__(
        self,
        content: Iterable[bytes | str] | AsyncIterable[bytes | str],
        status_code: int = 200,
        headers: _Headers = None,
        media_type: str | None = None,
    ) -> None: ...

class FileResponse(Response):
    path: str | bytes | os.PathLike[str]
    filename: str | None
    def __init__(
        self,
        path: str | bytes | os.PathLike[str],
        status_code: int = 200,
        headers: _Headers = None,
        media_type: str | None = None,
        *,
        filename: str | None = None,
        content_disposition_type: str = "attachment",
        stat_result: os.stat_result | None = None,
        method: str | None = None,
    ) -> None: ...

class EventSourceResponse(StreamingResponse):
    def __init__(
        self,
        content: Iterable[Any] | AsyncIterable[Any],
        status_code: int = 200,
        headers: _Headers = None,
        media_type: str | None = None,
        *,
        ping: float | None = 15,
    ) -> None: ...
