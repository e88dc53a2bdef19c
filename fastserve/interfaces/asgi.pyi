"""Types of asgi.pyx."""

from collections.abc import Callable, Mapping
from typing import Any

from fastserve.protocol.hooks import Handler
from fastserve.types import ASGIApp

__all__ = ["ASGIHandler", "asgi3"]

class ASGIHandler(Handler):
    state: Mapping[str, Any] | None
    def __init__(self, app: ASGIApp, *, state: Mapping[str, Any] | None = None, root_path: str = "") -> None: ...
    async def wait_idle(self) -> None: ...
    def cancel(self) -> None: ...
    def forget(self, call: Any) -> None: ...

def asgi3(app: Callable[..., Any]) -> ASGIApp: ...
