"""worker: what runs in one serving process: load the application, make a loop, mind signals, serve until told to stop.

Room: floor 3. Called by: run.py (alone), supervisor.py (in a child, after fork). Calls: server, sockets, importer.

Signals: TERM and INT stop gracefully, a second one or QUIT ends at once. Under a supervisor INT and a second TERM are
left to it, for a terminal or a wrapper signals the whole group. Exit codes: 0 graceful, 1 forced, 3 could not start
(2: wrong options).
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import logging
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from fastserve.errors import ConfigError
from fastserve.process.config import Config
from fastserve.process.importer import ApplicationError
from fastserve.process.loops import new_loop
from fastserve.process.server import Server, load_application
from fastserve.process.sockets import Listeners

__all__ = ["Worker", "run_alone", "run_supervised"]

logger = logging.getLogger("fastserve")

FORCED = 1
CANNOT_START = 3
PR_SET_PDEATHSIG = 1
SAME_SECONDS = 0.05  # signals this close are one: a wrapper such as timeout(1) sends two, people are slower
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)


def run_alone(config: Config, on_ready: Callable[[Server], None]) -> int:
    """The whole server in this process. Returns the exit code; raises ConfigError if it cannot start."""
    if threading.current_thread() is not threading.main_thread():
        raise ConfigError("run() needs the main thread, for its signals; elsewhere use fastserve.Server")
    listeners = Listeners(config.addresses, backlog=config.backlog, uds_permissions=config.uds_permissions)
    try:
        return Worker(config, listeners, 0, on_ready).run()
    finally:
        listeners.close()


def run_supervised(config: Config, listeners: Listeners, slot: int, channel: socket.socket, supervisor: int) -> int:
    """A worker's whole life after fork. Tells the supervisor over `channel` that it is ready, or why it cannot be."""
    die_with(supervisor)

    def tell(message: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):  # the supervisor is gone: so are we, soon
            channel.sendall(json.dumps(message).encode() + b"\n")

    try:
        worker = Worker(config, listeners, slot, lambda server: tell({"ready": server.interface}), channel)
        return worker.run()
    except ConfigError as error:
        details = error.details if isinstance(error, ApplicationError) else ""
        tell({"failed": str(error), "details": details, "exit_code": error.exit_code})
    except BaseException as error:
        reason = traceback.format_exception_only(error)[-1].strip()
        tell({"failed": f"a worker failed: {reason}", "details": traceback.format_exc(), "exit_code": CANNOT_START})
    return CANNOT_START


def die_with(supervisor: int) -> None:
    """Have the kernel kill us when the supervisor dies, however it dies. Off Linux the channel's end says so."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != supervisor:  # it died before we asked
        os._exit(FORCED)


class Worker:
    """One serving process, from loading the application to its last connection."""

    def __init__(
        self,
        config: Config,
        listeners: Listeners,
        slot: int,
        on_ready: Callable[[Server], None],
        channel: socket.socket | None = None,
    ) -> None:
        self._config = config
        self._listeners = listeners
        self._slot = slot
        self._on_ready = on_ready
        self._channel = channel  # to the supervisor; None: there is none
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop = asyncio.Event()
        self._loading = False
        self._told = 0  # times we were told to stop
        self._told_at = 0.0
        self._ready = False

    def run(self) -> int:
        with self._signals():
            try:
                self._loading = True
                try:
                    app, interface = load_application(self._config)
                finally:
                    self._loading = False
                loop = self._loop = new_loop(self._config.loop, self._config.app_dir)
                try:
                    return loop.run_until_complete(self._serve(app, interface))
                finally:
                    self._loop = None
                    _close_loop(loop)
            except KeyboardInterrupt:
                if not self._told:
                    raise  # not from us
                return 0  # told to stop before there was anything to stop
            except SystemExit as error:  # from a task: asyncio lets it through
                if not self._ready:
                    raise ApplicationError.of("the application failed to start", error) from error
                logger.error("the application called sys.exit(%r) while serving", error.code)
                return error.code if isinstance(error.code, int) and error.code else FORCED

    async def _serve(self, app: Any, interface: str) -> int:
        loop = asyncio.get_running_loop()
        if self._channel is not None:
            self._channel.setblocking(True)
            loop.add_reader(self._channel.fileno(), self._supervisor_gone)
        server = Server.of(self._config, app, interface, self._listeners, self._slot)
        starting = loop.create_task(server.start())
        stopping = loop.create_task(self._stop.wait())
        try:
            await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if not starting.done():
                starting.cancel()
                await asyncio.wait({starting}, timeout=self._config.timeout_graceful_shutdown)
                return 0
            try:
                starting.result()
            except ConfigError:
                raise
            except (Exception, asyncio.CancelledError) as error:
                raise ApplicationError.of("the application failed to start", error) from error
            self._ready = True
            self._on_ready(server)
            await stopping
            logger.info("stopping: %d connections, %d requests in hand", server.connections, server.active)
            try:
                await server.stop()
            except Exception as error:
                failure = ApplicationError.of("the application's shutdown failed", error)
                logger.error("%s\n%s", failure, failure.details.rstrip())
                return FORCED
            logger.info("stopped")
            return 0
        finally:
            stopping.cancel()
            if starting.done() and not starting.cancelled():
                starting.exception()  # it was told: the loop need not mention it again
            if self._channel is not None:
                loop.remove_reader(self._channel.fileno())

    # ------------------------------------------------------------------------------------------------- signals

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """Handlers for as long as we run. Python's own, not the loop's: they work while a handler blocks the loop."""
        before = {number: signal.signal(number, self._on_signal) for number in STOP_SIGNALS}
        try:
            yield
        finally:
            if self._told and self._channel is None:
                signal.setitimer(signal.ITIMER_REAL, 0)
                signal.signal(signal.SIGALRM, signal.SIG_DFL)
            for number, handler in before.items():
                signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        supervised, now = self._channel is not None, time.monotonic()
        if number == signal.SIGQUIT:
            self._force("forced to stop")
        if supervised and (number == signal.SIGINT or self._told):
            return
        if self._told and now - self._told_at < SAME_SECONDS:
            return
        self._told += 1
        self._told_at = now
        if self._told > 1:
            self._force("forced to stop")
        if not supervised:  # nobody else watches the time if a handler blocks the loop
            signal.signal(signal.SIGALRM, self._overdue)
            signal.setitimer(signal.ITIMER_REAL, self._config.timeout_graceful_shutdown + 2.0)
        if self._loading:
            raise KeyboardInterrupt  # only here: anywhere else it could land in a destructor or in the loop's own code
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._stop.set)
        else:
            self._stop.set()  # the loop has not begun, and will see it; or it is over

    def _overdue(self, _number: int, _frame: FrameType | None) -> None:
        self._force("the stop took too long")

    def _force(self, why: str) -> None:
        """End now. Inside a signal handler: no logging, no buffers."""
        shutdown = "; the application's shutdown did not run" if self._ready else ""
        with contextlib.suppress(OSError):
            os.write(2, f"fastserve: {why}{shutdown}\n".encode())
        self._listeners.close()
        os._exit(FORCED)

    def _supervisor_gone(self) -> None:
        assert self._channel is not None
        if not self._channel.recv(4096):
            os._exit(FORCED)


def _close_loop(loop: asyncio.AbstractEventLoop) -> None:
    """Cancel what the application has left running, give it a second, close. Stuck threads are not waited for."""
    try:
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task.cancel()
        if tasks:
            loop.run_until_complete(asyncio.wait(tasks, timeout=1.0))
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        loop.close()
