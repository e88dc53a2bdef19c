"""Types of forwarded.pyx."""

from collections.abc import Iterable
from typing import Any

__all__ = ["FIELDS", "Trust"]

FIELDS: dict[str, int]

class Trust:
    def __new__(
        cls,
        peers: Iterable[str] = (),
        fields: Iterable[str] = (),
        *,
        proxy_protocol: bool = False,
        request_id: str | None = None,
    ) -> Trust: ...
    @property
    def proxy_protocol(self) -> bool: ...
    def trusts(self, peername: Any) -> bool: ...
