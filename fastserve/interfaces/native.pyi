"""Types of native.pyx."""

from collections.abc import Mapping
from typing import Any

from fastserve.protocol.hooks import Handler

__all__ = ["NativeHandler"]

class NativeHandler(Handler):
    def __init__(self, app: Any, *, threads: int | None = None, state: Mapping[str, Any] | None = None) -> None: ...
    def stale(self) -> None: ...
