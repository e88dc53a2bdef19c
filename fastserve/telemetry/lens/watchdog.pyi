"""Types of watchdog.pyx."""

import asyncio
from typing import Self

from fastserve.protocol import Board
from fastserve.telemetry.lens.memory import Area

__all__ = ["Watchdog"]

class Watchdog:
    stalls: int
    grabs: int

    def __new__(
        cls,
        area: Area,
        loop: asyncio.AbstractEventLoop,
        *,
        board: Board | None = None,
        seat: int = 0,
        threshold: float = 0.05,
        period: float = 0.02,
    ) -> Self: ...
    @property
    def running(self) -> bool: ...
    def follow(self) -> None: ...
    def close(self) -> None: ...
