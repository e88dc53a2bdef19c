"""Types of access_log.pyx."""

from collections.abc import Iterable
from typing import Protocol, Self, type_check_only

from fastserve.protocol.hooks import Observer

FLUSH_SECONDS: float
ATOMS: dict[str, int]
FIELDS: dict[str, str]
FORMATS: dict[str, str]
JSON: list[tuple[str, str]]
USER: int
ANSWER_FIELD: int
MONTHS: tuple[str, ...]

@type_check_only
class _Stream(Protocol):
    def write(self, text: str, /) -> object: ...
    def flush(self) -> object: ...

def parse_format(text: str) -> list[tuple[int, str]]: ...

class AccessLog(Observer):
    def __new__(
        cls, to: _Stream | str | int | None = None, format: str = "default", exclude: Iterable[str] = ()
    ) -> Self: ...
    @property
    def dropped(self) -> int: ...
    def flush(self) -> None: ...
    def reopen(self) -> None: ...
