"""Server: one process's worth of serving: listeners, lifespan, a Service on the running loop, and a graceful stop.

Room: floor 3. Called by: worker.py; by programs that embed us (`async with fastserve.Server(app, port=0) as server`).
Calls: importer, sockets, shared; interfaces (make_handler, Lifespan), telemetry (AccessLog), protocol (Service, Limits).
It runs on any asyncio loop and touches neither signals nor logging handlers nor the process. Station 1, accept, is
here.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any

from fastserve.errors import ConfigError
from fastserve.interfaces import make_handler, resolve, with_static
from fastserve.interfaces.lifespan import Lifespan
from fastserve.process import envfile, logfiles
from fastserve.process.config import Address, Config, TcpAddress
from fastserve.process.importer import load, takes_nothing
from fastserve.process.shared import Shared
from fastserve.process.sockets import Listeners
from fastserve.process.tls import WATCH_SECONDS, Certificates
from fastserve.process.values import count
from fastserve.protocol import Board, Limits, SeatState, Service
from fastserve.telemetry import AccessLog
from fastserve.telemetry.lens import Area, Mode
from fastserve.telemetry.lens.recorder import Recorder
from fastserve.telemetry.lens.watchdog import Watchdog

__all__ = ["Server", "load_application"]

logger = logging.getLogger("fastserve")

LIFESPAN_RESERVE = 3.0  # of the graceful limit, kept for the application's shutdown after the connections are gone
LEAST = 0.25  # for a step that finds no time left
STALL, STALL_DEV = 0.05, 0.02  # seconds that the loop may be held before the lens tells of it
LENS_LOOK = 0.25  # seconds between looks whether the lens was switched, where no supervisor tells us


def load_application(config: Config) -> tuple[Any, str]:
    """The application and the interface it speaks, or a ConfigError in one line. Its env file's variables are set."""
    envfile.apply(config.variables)
    app = load(config.app, factory=config.factory, app_dir=config.app_dir)
    try:
        interface = resolve(app, config.interface)
    except ConfigError as error:
        raise ConfigError(str(error), exit_code=3) from None
    if config.interface == "auto" and interface != "native" and not config.factory and takes_nothing(app):
        raise ConfigError(f"{config.app} takes no arguments: if it makes the application, add --factory", exit_code=3)
    return app, interface


class Server:
    """An HTTP server in this program's own event loop.

    `app` is an application or "module:attribute"; options are the command line's, with underscores. Port 0 takes any
    free port: `url` and `port` say which. Entering starts it, leaving stops it gracefully.
    """

    def __init__(self, app: Any, **options: Any) -> None:
        self._prepare(Config.embedded(app, options))

    @classmethod
    def of(
        cls,
        config: Config,
        app: Any,
        interface: str,
        listeners: Listeners,
        slot: int = 0,
        *,
        board: Board | None = None,
        seat: int = 0,
        lens: Area | None = None,
        certificates: Certificates | None = None,
    ) -> Server:
        """A worker's: the application is loaded and the listeners are open; whoever opened them closes them.

        `slot`: whose listeners are its own. `board`, `seat`: what it shares with its siblings, and its place there. `lens`:
        where it records. Without a board it is alone, and makes both by itself.
        `certificates`: read by somebody else, who also looks after them.
        """
        server = cls.__new__(cls)
        server._prepare(config)
        server._app, server.interface = app, interface
        server._listeners, server._slot = listeners, slot
        server._board, server._seat, server._area = board, seat, lens
        server._certificates, server._minds_certificates = certificates, certificates is None
        server._owns_listeners = False
        return server

    def _prepare(self, config: Config) -> None:
        self.config = config
        self.interface = ""
        self._app: Any = None
        self._listeners: Listeners | None = None
        self._slot = 0
        self._board: Board | None = None
        self._seat = 0
        self._area: Area | None = None
        self._watchdog: Watchdog | None = None
        self._recorder: Recorder | None = None
        self._shared: Shared | None = None  # ours, if nobody has made it for us
        self._owns_listeners = True
        self._certificates: Certificates | None = None
        self._minds_certificates = True
        self._look: asyncio.TimerHandle | None = None
        self._lens_look: asyncio.TimerHandle | None = None
        self._service: Service | None = None
        self._handler: Any = None
        self._observer: Any = None
        self._lifespan: Any = None
        self._state = "new"  # new, starting, serving, stopping, stopped
        self.on_exception: Callable[[BaseException], object] | None = None
        """Called with each exception of the application that is logged with a traceback: for trackers of errors, and
        tests. In the thread that it came up in; it must be quick. Set it before the server starts."""

    # ---------------------------------------------------------------------------------------------- what it is

    @property
    def addresses(self) -> list[Address]:
        """Where it listens; ports are real ones."""
        return list(self._listeners.addresses) if self._listeners is not None else []

    @property
    def url(self) -> str:
        """What a client on this machine can use: http://127.0.0.1:PORT (with TLS https), or unix:PATH."""
        if not self.addresses:
            raise RuntimeError("the server has not started")
        return self.config.url_of(self.addresses[0], local=True)

    @property
    def port(self) -> int:
        """The port of the first TCP address."""
        for address in self.addresses:
            if isinstance(address, TcpAddress):
                return address.port
        raise RuntimeError("the server listens on no TCP port" if self.addresses else "the server has not started")

    @property
    def connections(self) -> int:
        """Open connections."""
        return self._service.connections if self._service is not None else 0

    @property
    def active(self) -> int:
        """Exchanges in hand."""
        return self._service.active if self._service is not None else 0

    def __repr__(self) -> str:
        where = " ".join(map(str, self.addresses)) or "nowhere"
        return f"<Server {self._state} on {where}, {self.connections} connections, {self.active} active>"

    # -------------------------------------------------------------------------------------------- start and stop

    async def __aenter__(self) -> Server:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Run the application's startup, then accept. Returns when it serves. What startup raises is raised."""
        if self._state != "new":
            raise RuntimeError(f"the server is {self._state}; it starts once")
        self._state = "starting"
        loop = asyncio.get_running_loop()
        config = self.config
        try:
            if not self.interface:
                self._app, self.interface = load_application(config)
            if config.tls and self._certificates is None:
                self._certificates = Certificates(config)
            if self._listeners is None:
                self._listeners = Listeners(
                    config.addresses, backlog=config.backlog, uds_permissions=config.uds_permissions
                )
            lifespan = Lifespan(self._app, self.interface, config.lifespan)
            self._handler = make_handler(
                self._app,
                self.interface,
                threads=config.threads,
                state=lifespan.state,
                root_path=config.root_path,
                multiprocess=config.workers > 1,
            )
            self._handler.watch_exceptions(self.on_exception)
            self._begin_lens()
            await lifespan.startup()
            if self.interface.startswith("asgi") and not lifespan.supported:
                self._handler.state = None  # a scope has a state only if there is a lifespan to give it one
            self._lifespan = lifespan
            self._handler = with_static(self._handler, config.folders, config.static_max_age)
            self._observer = _access_log(config) if config.access_log else None
            if self._observer is not None:
                logfiles.REOPEN.append(self._observer.reopen)
            self._service = Service(
                loop,
                self._handler,
                Limits(**config.limits()),
                observer=self._observer,
                server_header=config.server_header,
                date_header=config.date_header,
                fields=config.response_fields,
                half_close=config.half_close,
                trust=config.trust,
                id_field=config.request_id_header.encode("ascii") if config.request_id else None,
                board=self._board,
                seat=self._seat,
                exempt=[path.encode("ascii") for path in config.limit_exempt],
                lens=self._recorder,
            )
            await self._service.listen(self._listeners.by_slot(), self._slot, self._certificates)  # station 1: accept
            if self._certificates is not None and self._minds_certificates:
                self._look = loop.call_later(WATCH_SECONDS, self._look_at_certificates)
            self.follow_lens()
            if self._shared is not None:
                self._shared.board[0].state = SeatState.READY
                self._shared.register(config, self.addresses)
                self._lens_look = loop.call_later(LENS_LOOK, self._look_at_lens)
        except BaseException:
            with contextlib.suppress(Exception):
                await self._close_all()
            raise
        self._state = "serving"

    async def stop(self, timeout: float | None = None) -> bool:
        """Stop accepting, finish what is in hand, run the application's shutdown. True if nothing had to be cut.

        `timeout`: seconds in all, timeout_graceful_shutdown if None. What the application's shutdown raises is raised,
        after everything is closed.
        """
        if self._state != "serving":
            return True
        self._state = "stopping"
        limit = self.config.timeout_graceful_shutdown if timeout is None else timeout
        reserve = min(LIFESPAN_RESERVE, limit / 5)
        deadline = asyncio.get_running_loop().time() + limit
        service = self._service
        assert service is not None
        service.unlisten()
        if self._listeners is not None:
            self._listeners.close()  # a worker's copies too, or new clients would wait at sockets that nobody empties
        service.shutdown()
        whole = await self.drain(limit - reserve)
        if not whole:
            await self._cut(limit)
        # What goes on after its answer (background tasks) has the same time; the application's shutdown comes behind it.
        whole = (
            await _within(self._handler.wait_idle(), deadline - reserve - asyncio.get_running_loop().time()) and whole
        )
        self._handler.cancel()
        await self._close_all(deadline)
        return whole

    def reload_certificates(self) -> bool:
        """Read the files of the certificates again, for connections to come. False: they cannot be used, the old ones
        stay, and the log says why. It happens by itself when the files change."""
        return self._certificates is not None and self._certificates.reread()

    def adopt_certificates(self, pairs: Any) -> None:
        """From the supervisor, which may read files that we may not."""
        if self._certificates is not None:
            self._certificates.adopt(pairs)

    def _look_at_certificates(self) -> None:
        assert self._certificates is not None
        if self._certificates.changed():
            self._certificates.reread()
        self._look = asyncio.get_running_loop().call_later(WATCH_SECONDS, self._look_at_certificates)

    def _begin_lens(self) -> None:
        """A place to record in. Who has no supervisor makes it, and the board that shows what is in flight."""
        board = self._board
        if board is None and self.config.lens_mode.mode is not Mode.OFF:
            self._shared = Shared(self.config, 1)
            board = self._board = self._shared.board
            self._area = self._shared.area(0)
            seat = board[0]
            seat.slot, seat.pid, seat.generation, seat.started_ns = self._slot, os.getpid(), 1, time.monotonic_ns()
            seat.state = SeatState.BOOTING
        if self._area is not None and board is not None:
            self._area.start(self._slot, os.getpid(), board[self._seat].generation)
            self._recorder = Recorder(self._area, asyncio.get_running_loop())
            self._recorder.server_timing = self.config.server_timing

    def follow_lens(self) -> None:
        """Record as the memory of the lens says: at the start, and when it was switched from outside."""
        if self._area is None:
            return
        if self._recorder is not None:
            self._recorder.follow()
        if self._watchdog is None:
            self._watchdog = Watchdog(
                self._area,
                asyncio.get_running_loop(),
                board=self._board,
                seat=self._seat,
                threshold=STALL_DEV if self.config.dev else STALL,
            )
        try:
            self._watchdog.follow()
        except OSError as error:
            logger.warning("stalls of the event loop are not recorded: %s", error)

    def _look_at_lens(self) -> None:
        assert self._shared is not None
        if self._shared.switched():
            logger.info("the lens was switched to %s", self._shared.mode)
            self.follow_lens()
        self._lens_look = asyncio.get_running_loop().call_later(LENS_LOOK, self._look_at_lens)

    def retire(self, idle_seconds: float) -> None:
        """Hand over to a successor: accept no more, end each connection with its next answer, or after `idle_seconds` of
        silence. Does not wait; stop() does."""
        if self._state == "serving" and self._service is not None:
            self._service.retire(idle_seconds)

    async def hand_over(self, idle_seconds: float, stopping: asyncio.Future[Any]) -> float | None:
        """retire(), and wait for the last connection, within the graceful limit. Returns the seconds that are left of it
        for stop(); None if `stopping` was done first."""
        limit = self.config.timeout_graceful_shutdown
        reserve = min(LIFESPAN_RESERVE, limit / 5)
        clock = asyncio.get_running_loop().time
        began = clock()
        self.retire(min(idle_seconds, limit - reserve))
        drained = asyncio.ensure_future(self.drain(limit - reserve))
        await asyncio.wait({stopping, drained}, return_when=asyncio.FIRST_COMPLETED)
        if stopping.done():
            drained.cancel()
            return None
        if not drained.result():
            await self._cut(limit)  # now: what is left of the limit is the application's
        return max(limit - (clock() - began), 0.0)

    async def _cut(self, limit: float) -> None:
        reserve = min(LIFESPAN_RESERVE, limit / 5)
        service = self._service
        assert service is not None
        logger.warning(
            "cutting %s after %.1f s: %s in hand",
            count(service.connections, "connection"),
            limit - reserve,
            count(service.active, "request"),
        )
        service.abort()
        await _within(service.wait_closed(), reserve / 3)

    def farewell(self) -> None:
        """Serve on, but say "connection: close" with every answer: a balancer is taking us out."""
        if self._state == "serving" and self._service is not None:
            self._service.farewell()

    async def drain(self, seconds: float) -> bool:
        """Wait for the last connection to end. True if it did in time.

        Streams do not end by themselves. After timeout_retire_idle, or half the time, their handlers are told.
        """
        service = self._service
        assert service is not None
        patience = min(self.config.timeout_retire_idle, seconds / 2)
        if await _within(service.wait_closed(), patience):
            return True
        service.tell_streams()
        return await _within(service.wait_closed(), seconds - patience)

    async def _close_all(self, deadline: float | None = None) -> None:
        """Whatever start() has opened, in reverse order, each once."""
        clock = asyncio.get_running_loop().time
        if deadline is None:
            deadline = clock() + LIFESPAN_RESERVE
        for timer in (self._look, self._lens_look):
            if timer is not None:
                timer.cancel()
        if self._watchdog is not None:
            self._watchdog.close()
        if self._recorder is not None:
            self._recorder.close()
        lifespan, self._lifespan = self._lifespan, None
        handler, self._handler = self._handler, None
        observer, self._observer = self._observer, None
        if self._service is not None:
            self._service.unlisten()
        if self._owns_listeners and self._listeners is not None:
            self._listeners.close()
        try:
            if lifespan is not None and not await _within(lifespan.shutdown(), max(deadline - clock(), LEAST)):
                logger.warning("the application's shutdown was given up: out of time")
        finally:
            self._state = "stopped"
            joined = handler is None or await _in_thread(handler.close, max(deadline - clock(), LEAST))
            if not joined:
                logger.warning("handlers are still running in threads; they were left behind")
            elif self._service is not None:
                self._service.close()  # its timers; the handler's close() has already joined the threads
            if observer is not None:
                logfiles.REOPEN.remove(observer.reopen)
                observer.close()
            if self._shared is not None and joined:  # else a thread may still write to it
                self._shared.close()


def _access_log(config: Config) -> AccessLog:
    """As configured. ConfigError if its file cannot be opened."""
    to: Any = config.access_log_file
    if to == "-":
        try:
            to = sys.stdout.fileno()
        except (AttributeError, OSError, ValueError):  # replaced, or closed
            to = sys.stdout
    form = config.access_log_format or ("json" if config.log_format == "json" else "default")
    try:
        return AccessLog(to, form, config.access_log_exclude)
    except OSError as error:
        raise ConfigError(
            f"access-log-file: cannot open {config.access_log_file!r}: {error.strerror or error}", exit_code=3
        ) from None


async def _within(waiting: Awaitable[Any], seconds: float) -> bool:
    """Did it end in time? It is cancelled if not. What it raises is raised."""
    task = asyncio.ensure_future(waiting)
    try:
        done, _ = await asyncio.wait({task}, timeout=max(seconds, 0.0))
        if done:
            task.result()
            return True
    except asyncio.CancelledError:
        task.cancel()
        raise
    task.cancel()
    await asyncio.wait({task}, timeout=LEAST)
    return False


async def _in_thread(function: Any, seconds: float) -> bool:
    """Run what may block for ever, beside the loop. Did it end in time?"""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()

    def body() -> None:
        try:
            function()
        finally:
            with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
                loop.call_soon_threadsafe(ended.set)

    thread = threading.Thread(target=body, name="fastserve-close", daemon=True)
    thread.start()
    if not await _within(ended.wait(), seconds):
        return False
    thread.join()
    return True
