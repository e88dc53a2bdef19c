"""worker: what runs in one serving process: load the application, make a loop, mind signals, serve until told to stop.

Room: floor 3. Called by: run.py (alone), supervisor.py (in a child, after fork), zygote.py (the same, with the
application loaded). Calls: server, sockets, importer, privileges, lifeline, talk, logfiles.

Signals: TERM and INT stop gracefully, a second one or QUIT ends at once. Under a supervisor INT and a second TERM are
left to it, for a terminal or a wrapper signals the whole group; all else it says by its talk: retire (hand over to a
successor), drain (serve on, but let clients go), reopen (log files), lens (it was switched). Exit codes: 0 graceful, 1
forced, 3 could not start (2: wrong options).

A worker does not outlive its supervisor: PR_SET_PDEATHSIG (set after privileges are given up, which would clear it),
the end of the talk, and the lifeline, which works while a handler holds the GIL.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import ctypes
import faulthandler
import logging
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from types import FrameType
from typing import Any, NoReturn

from fastserve.errors import ConfigError
from fastserve.process import lifeline, logfiles
from fastserve.process.config import Config
from fastserve.process.hooks import Hooks
from fastserve.process.importer import ApplicationError
from fastserve.process.loops import close_loop, new_loop
from fastserve.process.patience import AT_ONCE, patiently, stage_of
from fastserve.process.privileges import Identity
from fastserve.process.server import Server, load_application
from fastserve.process.shortage import shortage
from fastserve.process.sockets import Listeners
from fastserve.process.talk import DETAILS_MAX, Talk
from fastserve.process.tls import Certificates
from fastserve.process.values import count
from fastserve.process.witness import testify
from fastserve.protocol import Board
from fastserve.telemetry.lens import Area, LensMemory

__all__ = ["Inheritance", "Place", "Worker", "be", "die_with", "leave_to_supervisor", "run_alone"]

logger = logging.getLogger("fastserve")

FORCED = 1
CANNOT_START = 3
PR_SET_PDEATHSIG = 1
SAME_SECONDS = 0.05  # signals this close are one: a wrapper such as timeout(1) sends two, people are slower
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
SUPERVISORS = "HUP USR2 TTIN TTOU WINCH"  # signals that mean something to a supervisor only


@dataclass(frozen=True)
class Inheritance:
    """What a worker has from its supervisor by being forked from it, or from the zygote."""

    config: Config
    hooks: Hooks
    listeners: Listeners
    board: Board
    identity: Identity
    lifeline: int  # read end of the pipe whose write end only the supervisor holds
    supervisor: int  # its pid
    lens: LensMemory | None  # where each records, by its seat
    certificates: Certificates | None = None


@dataclass(frozen=True)
class Place:
    """Where a worker stands: the slot whose listeners are its own, and its seat on the board."""

    slot: int
    seat: int

    def as_json(self) -> dict[str, int]:
        return asdict(self)


def run_alone(config: Config, listeners: Listeners, on_ready: Callable[[Server], None]) -> int:
    """The whole server in this process. Returns the exit code; raises ConfigError if it cannot start."""
    try:
        return Worker(config, listeners, on_ready).run()
    finally:
        listeners.close()


def be(
    inheritance: Inheritance, place: Place, talk: Talk, witness: Talk, loaded: tuple[Any, str] | None = None
) -> NoReturn:
    """A worker's whole life, after fork. Tells the supervisor that it is ready, or why it cannot be.

    `loaded`: the application and its interface, from a zygote, which has given up privileges already.
    """
    code = CANNOT_START
    try:
        try:
            if loaded is None:
                inheritance.identity.assume()
            die_with(inheritance.supervisor)
            lifeline.hold(inheritance.lifeline)
            faulthandler.enable(talk.fileno())  # the last words of a crash, for the supervisor's log
            for name in SUPERVISORS.split():
                signal.signal(getattr(signal, f"SIG{name}"), leave_to_supervisor)
            signal.signal(signal.SIGUSR1, lambda *_: logfiles.reopen())
            testify(witness)
            inheritance.hooks.call("post_fork", slot=place.slot, pid=os.getpid())

            def ready(server: Server) -> None:
                inheritance.hooks.call("worker_ready", slot=place.slot, pid=os.getpid())
                talk.say({"ready": server.interface})

            worker = Worker(
                inheritance.config,
                inheritance.listeners,
                ready,
                talk=talk,
                place=place,
                board=inheritance.board,
                lens=inheritance.lens.area(place.seat) if inheritance.lens is not None else None,
                loaded=loaded,
                certificates=inheritance.certificates,
            )
            signal.pthread_sigmask(signal.SIG_SETMASK, ())
            code = worker.run()
        except ConfigError as error:
            details = getattr(error, "details", "")  # what the application has to say about it
            talk.say({"failed": str(error), "details": details[-DETAILS_MAX:], "exit_code": error.exit_code})
        except BaseException as error:
            reason = traceback.format_exception_only(error)[-1].strip()
            short = shortage(error)
            details = "" if short else traceback.format_exc()[-DETAILS_MAX:]
            talk.say({"failed": f"a worker failed: {short or reason}", "details": details, "exit_code": code})
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def leave_to_supervisor(_number: int, _frame: FrameType | None) -> None:
    """A terminal signals the whole group. A handler, not SIG_IGN: programs that the application starts would inherit it."""


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
        on_ready: Callable[[Server], object],
        *,
        talk: Talk | None = None,
        place: Place = Place(0, 0),
        board: Board | None = None,
        lens: Area | None = None,
        loaded: tuple[Any, str] | None = None,
        certificates: Certificates | None = None,
    ) -> None:
        self._config = config
        self._certificates = certificates
        self._listeners = listeners
        self._on_ready = on_ready
        self._talk = talk  # to the supervisor; None: there is none
        self._place = place
        self._board = board
        self._area = lens
        self._loaded = loaded
        self._server: Server | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop = asyncio.Event()
        self._retire = asyncio.Event()
        self._loading = False
        self._told = 0  # times we were told to stop
        self._told_at = 0.0
        self._ready = False

    def run(self) -> int:
        with self._signals():
            try:
                self._loading = True
                try:
                    with self._patiently(stage_of(self._config.app, loaded=False)):
                        app, interface = self._loaded or load_application(self._config)
                finally:
                    self._loading = False
                if self._talk is not None:
                    self._talk.say({"loaded": True})
                loop = self._loop = new_loop(self._config.loop, self._config.app_dir)
                try:
                    return loop.run_until_complete(self._serve(app, interface))
                finally:
                    self._loop = None
                    close_loop(loop)
            except KeyboardInterrupt:
                if not self._told:
                    raise  # not from us
                return 0  # told to stop before there was anything to stop
            except SystemExit as error:  # from a task: asyncio lets it through
                if not self._ready:
                    raise ApplicationError.of("the application failed to start", error) from error
                logger.error("the application called sys.exit(%r) while serving", error.code)
                return error.code if isinstance(error.code, int) and error.code else FORCED

    def _patiently(self, what: str) -> contextlib.AbstractContextManager[None]:
        """A supervisor tells itself what it waits for."""
        return patiently(logger.info, what) if self._talk is None else contextlib.nullcontext()

    async def _serve(self, app: Any, interface: str) -> int:
        loop = asyncio.get_running_loop()
        place = self._place
        server = self._server = Server.of(
            self._config,
            app,
            interface,
            self._listeners,
            place.slot,
            board=self._board,
            seat=place.seat,
            lens=self._area,
            certificates=self._certificates,
        )
        if self._talk is not None:
            loop.add_reader(self._talk.fileno(), self._listen_to_supervisor, server)
        starting = loop.create_task(server.start())
        stopping = loop.create_task(self._stop.wait())
        try:
            with self._patiently(stage_of(self._config.app, loaded=True)):
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
            limit = await self._until_the_end(server, stopping)
            try:
                with self._patiently(f"still stopping; {AT_ONCE}"):
                    await server.stop(limit)
            except Exception as error:
                failure = error
                if not isinstance(error, ConfigError):  # otherwise it has said so itself
                    failure = ApplicationError.of("the application's shutdown failed", error)
                logger.error("%s\n%s", failure, getattr(failure, "details", "").rstrip())
                return FORCED
            logger.info("stopped")
            return 0
        finally:
            stopping.cancel()
            if starting.done() and not starting.cancelled():
                starting.exception()  # it was told: the loop need not mention it again
            if self._talk is not None:
                loop.remove_reader(self._talk.fileno())

    async def _until_the_end(self, server: Server, stopping: asyncio.Task[bool]) -> float | None:
        """Serve until told to stop, or until we have handed over. Returns the seconds that are left for the stop."""
        retiring = asyncio.ensure_future(self._retire.wait())
        try:
            await asyncio.wait({stopping, retiring}, return_when=asyncio.FIRST_COMPLETED)
            if not stopping.done():
                logger.info("retiring: %s", _in_hand(server))
                left = await server.hand_over(self._config.timeout_retire_idle, stopping)
                if left is not None:
                    return left
            if self._talk is None and self._config.shutdown_delay > 0:
                logger.info("serving for another %g s", self._config.shutdown_delay)
                server.farewell()
                await asyncio.sleep(self._config.shutdown_delay)
            logger.info("stopping: %s", _in_hand(server))
            return None
        finally:
            retiring.cancel()

    def _listen_to_supervisor(self, server: Server) -> None:
        assert self._talk is not None
        for message in self._talk.hear():
            if "retire" in message:
                self._retire.set()
            elif "drain" in message:
                server.farewell()
            elif "reopen" in message:
                logfiles.reopen()
            elif "lens" in message:
                server.follow_lens()
            elif "certificates" in message:
                server.adopt_certificates(message["certificates"])
        if self._talk.ended:
            os._exit(FORCED)  # the supervisor is gone

    # ------------------------------------------------------------------------------------------------- signals

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """Handlers for as long as we run. Python's own, not the loop's: they work while a handler blocks the loop."""
        before = {number: signal.signal(number, self._on_signal) for number in STOP_SIGNALS}
        if self._talk is None:
            for name in SUPERVISORS.split()[:-1]:
                before[getattr(signal, f"SIG{name}")] = signal.signal(getattr(signal, f"SIG{name}"), _explain)
            before[signal.SIGUSR1] = signal.signal(signal.SIGUSR1, lambda *_: logfiles.reopen())
            if self._config.tls:
                before[signal.SIGHUP] = signal.signal(signal.SIGHUP, self._on_hangup)
        try:
            yield
        finally:
            if self._told and self._talk is None:
                signal.setitimer(signal.ITIMER_REAL, 0)
                signal.signal(signal.SIGALRM, signal.SIG_DFL)
            for number, handler in before.items():
                signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _on_hangup(self, _number: int, _frame: FrameType | None) -> None:
        """Of a single process: new code needs a supervisor, new certificates do not."""
        if self._loop is not None and self._server is not None:
            self._loop.call_soon_threadsafe(self._server.reload_certificates)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        supervised, now = self._talk is not None, time.monotonic()
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
            delay = self._config.shutdown_delay if self._ready else 0.0
            signal.setitimer(signal.ITIMER_REAL, delay + self._config.timeout_graceful_shutdown + 2.0)
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


def _in_hand(server: Server) -> str:
    return f"{count(server.connections, 'connection')}, {count(server.active, 'request')} in hand"


def _explain(number: int, _frame: FrameType | None) -> None:
    """The kernel would end or stop us."""
    with contextlib.suppress(OSError):
        name = signal.Signals(number).name
        os.write(2, f"fastserve: {name}: only a supervisor does that, and this server is a single process\n".encode())
