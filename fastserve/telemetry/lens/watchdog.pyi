"""Types of watchdog.pyx."""

import asyncio

from fastserve.protocol import Board
from fastserve.telemetry.lens.memory import Area

class Watchdog:
    stalls: int
    grabs: int

    def __init__(
        self,
        area: Area,
        loop: asyncio.AbstractEventLoop,
        *,
        board: Board | None = None,
        seat: int = 0,
        threshold: float = 0.05,
        period: float = 0.02,
    ) -> None: ...
    @property
    def running(self) -> bool: ...
    def follow(self) -> None: ...
    def close(self) -> None: ...
