"""Lifespan: what an application does before its first and after its last request, behind one face for all interfaces.

Room: floor 2. Called by: process/server.py. Calls: the lifespan of an App.
The context manager is entered and left in one task of its own: cancel scopes and task groups must end where they began.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

from fastserve.errors import ConfigError

__all__ = ["Lifespan"]

logger = logging.getLogger("fastserve.error")


class Lifespan:
    """The lifespan of one application in one process.

    `interface`: as from detect(). `state`: dict, filled by startup() with the mapping that the application yielded; the
    same object all the time, so a handler may be made with it before. Source: the ASGI lifespan specification.
    """

    def __init__(self, app: Any, interface: str = "native") -> None:
        if interface not in ("native", "wsgi"):
            raise ConfigError(f"{interface.upper()} applications are not supported yet by this version", exit_code=3)
        self.app = app
        self.interface = interface
        self.state: dict[str, Any] = {}
        self._task: asyncio.Task[None] | None = None
        self._stop: asyncio.Event | None = None

    async def startup(self) -> None:
        """Enter it. Raises what the application raises."""
        context = self.app.lifespan() if self.interface == "native" else None
        if context is None:
            return
        started: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        stop = self._stop = asyncio.Event()

        async def live() -> None:
            try:
                async with context as state:
                    if state is not None:
                        if not isinstance(state, Mapping):
                            raise TypeError(f"a lifespan yields a mapping or nothing, not {type(state).__name__}")
                        self.state.update(state)
                    if not started.done():
                        started.set_result(None)
                    await stop.wait()
            except BaseException as error:
                if started.done():
                    raise
                started.set_exception(error)

        task = self._task = asyncio.create_task(live(), name="fastserve-lifespan")
        try:
            await started
        except BaseException:
            self._task = None
            if not task.done():
                task.cancel()
            raise
        task.add_done_callback(self._ended)

    async def shutdown(self) -> None:
        """Leave it. Raises what the application raises. Does nothing if it was not entered."""
        task, self._task = self._task, None
        if task is None or self._stop is None:
            return
        self._stop.set()
        await task

    def _ended(self, task: asyncio.Task[None]) -> None:
        if self._task is None or task.cancelled():
            return  # shutdown() awaits it
        error = task.exception()
        if error is not None:
            logger.error("the lifespan of the application ended by itself", exc_info=error)
