"""Types of recorder.pyx."""

import asyncio

from fastserve.protocol.lens import Lens
from fastserve.telemetry.lens.memory import Area

class Recorder(Lens):
    area: Area
    loop: asyncio.AbstractEventLoop
    live: int
    hooked: bool
    bracketed: bool
    server_timing: bool

    def __init__(self, area: Area, loop: asyncio.AbstractEventLoop) -> None: ...
    async def probe(self) -> None: ...
    def follow(self) -> None: ...
    def close(self) -> None: ...
