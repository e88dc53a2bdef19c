"""Lifespan: what an application does before its first and after its last request, behind one face for all interfaces.

Room: floor 2. Called by: process/server.py. Calls: the lifespan of an App; an ASGI application with a lifespan scope.
Either is entered and left in one task of its own: cancel scopes and task groups must end where they began.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any

from fastserve.errors import ConfigError, LocalProtocolError

__all__ = ["Lifespan"]

logger = logging.getLogger("fastserve.error")

SPEC_VERSION = "2.0"  # of the lifespan specification; `state` belongs to it


class Lifespan:
    """The lifespan of one application in one process.

    `interface`: as from detect(). `mode`: "off": it is not entered; for ASGI "auto": an application that does not know
    the protocol is served without, "on": it does not start. `state`: dict, filled by startup(); the same object all
    the time, so a handler may be made with it before. `supported`: False after startup() if an ASGI application has
    none. Source: the ASGI lifespan specification.
    """

    def __init__(self, app: Any, interface: str = "native", mode: str = "auto") -> None:
        self.app = app
        self.interface = interface
        self.mode = mode
        self.state: dict[str, Any] = {}
        self.supported = True
        self._task: asyncio.Task[None] | None = None
        self._stop: asyncio.Event | None = None

    async def startup(self) -> None:
        """Enter it. Raises what the application raises; ConfigError if an ASGI application says that it failed."""
        if self.mode == "off":
            self.supported = False
            return
        if self.interface == "native":
            context = self.app.lifespan()
            if context is None:
                return
            lives = self._live(context)
        elif self.interface in ("asgi", "asgi2"):
            lives = self._live_asgi
        else:
            self.supported = False
            return
        started: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._stop = asyncio.Event()
        task = self._task = asyncio.create_task(lives(started, self._stop), name="fastserve-lifespan")
        try:
            await started
        except BaseException:
            self._task = None
            if not task.done():
                task.cancel()
            raise
        if self.supported:
            task.add_done_callback(self._ended)
        else:
            self._task = None

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

    # ------------------------------------------------------------------------------------------------- native

    def _live(self, context: AbstractAsyncContextManager[Mapping[str, Any] | None]) -> Any:
        async def live(started: asyncio.Future[None], stop: asyncio.Event) -> None:
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

        return live

    # --------------------------------------------------------------------------------------------------- ASGI

    async def _live_asgi(self, started: asyncio.Future[None], stop: asyncio.Event) -> None:
        asked = 0  # times it has called receive()
        failure: ConfigError | None = None  # what it says itself
        stopped = False  # it has answered the shutdown
        forever = asyncio.get_running_loop().create_future()

        async def receive() -> dict[str, Any]:
            nonlocal asked
            asked += 1
            if asked == 1:
                return {"type": "lifespan.startup"}
            if asked > 2:
                await forever
            await stop.wait()
            return {"type": "lifespan.shutdown"}

        async def send(message: Mapping[str, Any]) -> None:
            nonlocal failure, stopped
            kind = message["type"]
            what, _, outcome = kind.removeprefix("lifespan.").partition(".")
            if kind not in SENT:
                raise LocalProtocolError(f"there is no ASGI message {kind!r} to send for a scope of type 'lifespan'")
            if (what == "startup") == started.done() or (what == "shutdown" and (stopped or not stop.is_set())):
                raise LocalProtocolError(f"{kind!r} was sent out of order")
            if outcome == "failed":
                failure = _told(what, str(message.get("message") or ""))
            if what == "shutdown":
                stopped = True
            elif failure is None:
                started.set_result(None)
            else:
                started.set_exception(failure)

        app = self.app
        scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": SPEC_VERSION}, "state": self.state}
        error: BaseException | None = None
        try:
            if self.interface == "asgi2":
                await app(scope)(receive, send)
            else:
                await app(scope, receive, send)
        except asyncio.CancelledError:
            if not started.done():
                started.cancel()
            raise
        except BaseException as raised:
            error = raised
        finally:
            forever.cancel()
        if not started.done():
            self._unknown(started, error, asked > 0)
        elif failure is not None and stop.is_set():
            raise failure  # its shutdown failed; what it raises after saying so adds nothing
        elif error is not None and failure is None:
            raise error

    def _unknown(self, started: asyncio.Future[None], error: BaseException | None, asked: bool) -> None:
        """It ended without an answer to lifespan.startup."""
        self.supported = False
        if error is not None and not isinstance(error, Exception):
            started.set_exception(error)
        elif self.mode == "on":
            if error is None:
                error = ConfigError("the application ended its lifespan without an answer to startup", exit_code=3)
            started.set_exception(error)
        else:
            if error is not None and asked:
                # It may know the protocol and have failed, or not know it and have taken startup for a request.
                logger.warning(
                    "the application raised at lifespan startup and is served without (--lifespan on: it must not): %s",
                    f"{type(error).__name__}: {error}",
                )
            started.set_result(None)


SENT = {
    "lifespan.startup.complete",
    "lifespan.startup.failed",
    "lifespan.shutdown.complete",
    "lifespan.shutdown.failed",
}


def _told(what: str, message: str) -> ConfigError:
    """What an application says of its failure. Frameworks put a whole traceback there: its last line is the reason."""
    lines = message.strip().splitlines()
    doing = "failed to start" if what == "startup" else "failed to shut down"
    error = ConfigError(f"the application {doing}" + (f": {lines[-1].strip()}" if lines else ""), exit_code=3)
    if len(lines) > 1:
        error.details = message.strip() + "\n"
    return error
