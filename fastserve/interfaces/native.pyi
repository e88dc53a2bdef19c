"""Types of native.pyx."""

from asyncio import AbstractEventLoop
from collections.abc import Mapping
from contextvars import Context
from typing import Any

from fastserve.protocol.hooks import Handler

__all__ = ["NativeHandler"]

class NativeHandler(Handler):
    def __init__(
        self,
        app: Any,
        *,
        threads: int | None = None,
        state: Mapping[str, Any] | None = None,
        root_path: str = "",
        multiprocess: bool = False,
    ) -> None: ...
    def run_in(self, loop: AbstractEventLoop, context: Context) -> None: ...
    def stale(self) -> None: ...
