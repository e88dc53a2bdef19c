"""Types of recorder.pyx."""

import asyncio
from typing import Self, final

from fastserve.protocol.lens import Lens
from fastserve.telemetry.lens.memory import Area

__all__ = ["Recorder"]

@final
class Recorder(Lens):
    area: Area
    loop: asyncio.AbstractEventLoop
    live: int
    hooked: bool
    bracketed: bool
    server_timing: bool

    def __new__(cls, area: Area, loop: asyncio.AbstractEventLoop) -> Self: ...
    def follow(self) -> None: ...
    def close(self) -> None: ...
