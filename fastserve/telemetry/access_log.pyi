"""Types of access_log.pyx."""

from typing import Protocol, type_check_only

from fastserve.protocol.hooks import Observer

FLUSH_SECONDS: float

@type_check_only
class _Stream(Protocol):
    def write(self, text: str, /) -> object: ...
    def flush(self) -> object: ...

class AccessLog(Observer):
    def __init__(self, stream: _Stream | None = None) -> None: ...
    @property
    def dropped(self) -> int: ...
    def flush(self) -> None: ...
