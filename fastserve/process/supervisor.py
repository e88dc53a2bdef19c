"""supervisor: the parent of several workers. It opens the listeners, forks, watches, replaces, and stops them.

Room: floor 3. Called by: run.py, when there is more than one worker. Calls: sockets, worker (in the child).

In unicorn's shape: signal handlers only enqueue and wake; `run` is one loop that reaps, takes one signal, maintains the
workers, and sleeps. It never loads the application and has no event loop and no threads, so that forking is safe.

 * Each slot has its own SO_REUSEPORT listeners, opened before the first fork and inherited; a replacement worker takes
   over its slot's.
 * A worker that dies is replaced: the first time at once, then after 1, 2, 4 ... 30 s, until one has lived for 30 s.
 * A worker that cannot start while the server is starting ends the server with its reason and exit code 3. Later, its
   slot is tried again with back-off, as long as another worker serves.
 * TERM, INT: workers finish what they have, within the graceful limit; then, or on a second signal, or on QUIT, they
   are killed. Exit code 0 if nobody had to be killed, else 1.
 * Workers do not outlive it: PR_SET_PDEATHSIG on Linux, the end of their channel elsewhere.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import json
import logging
import os
import random
import selectors
import signal
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import FrameType
from typing import NoReturn

from fastserve.errors import ConfigError
from fastserve.process import worker
from fastserve.process.config import Address, Config
from fastserve.process.importer import ApplicationError
from fastserve.process.sockets import Listeners

__all__ = ["Supervisor"]

logger = logging.getLogger("fastserve")

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGCHLD)
BACKOFF_MAX = 30.0
SETTLED = 30.0  # seconds after which a worker's predecessors are forgiven
MESSAGE_BYTES_MAX = 1 << 20


@dataclass(eq=False)
class Slot:
    """The place of one worker: its listeners stay, its processes come and go."""

    index: int
    pid: int = 0
    channel: socket.socket | None = None
    inbox: bytearray = field(default_factory=bytearray)
    interface: str = ""
    ready: bool = False
    failure: ConfigError | None = None  # its own account of why it cannot start
    started_at: float = 0.0
    spawn_at: float = 0.0
    deaths: int = 0  # in a row

    def __str__(self) -> str:
        return f"worker {self.index + 1} (pid {self.pid})"


class Supervisor:
    """`on_ready(addresses, interface, pids)` is called once, when every worker serves."""

    def __init__(self, config: Config, on_ready: Callable[[list[Address], str, list[int]], None]) -> None:
        self._config = config
        self._on_ready = on_ready
        self._slots = [Slot(index) for index in range(config.workers)]
        self._queue: deque[int] = deque()
        self._selector = selectors.PollSelector()
        self._listeners: Listeners
        self._wakeup: tuple[socket.socket, socket.socket]
        self._booted = False  # every worker was ready once
        self._told_at = float("-inf")
        self._stopping = False
        self._deadline = 0.0
        self._forced = False
        self._failure: ConfigError | None = None

    def run(self) -> int:
        """Until the last worker is gone. Returns the exit code; raises ConfigError if the server cannot start."""
        if threading.current_thread() is not threading.main_thread():
            raise ConfigError("run() needs the main thread, for its signals; elsewhere use fastserve.Server")
        config = self._config
        self._listeners = Listeners(
            config.addresses, slots=config.workers, backlog=config.backlog, uds_permissions=config.uds_permissions
        )
        try:
            with self._signals():
                gc.collect()
                gc.freeze()  # what is here now stays shared with the workers
                while True:
                    self._reap()
                    if self._stopping and not self._living():
                        break
                    if self._queue:
                        self._obey(self._queue.popleft())
                    else:
                        self._maintain()
                        self._sleep()
        finally:
            self._kill()  # only if we leave by an exception
            self._listeners.close()
            gc.unfreeze()
        if self._failure is not None:
            raise self._failure
        if not self._forced:
            logger.info("stopped")
        return 1 if self._forced else 0

    # ------------------------------------------------------------------------------------------- signals, sleep

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        self._wakeup = socket.socketpair()
        for end in self._wakeup:
            end.setblocking(False)
        self._selector.register(self._wakeup[0], selectors.EVENT_READ)
        fd_before = signal.set_wakeup_fd(self._wakeup[1].fileno(), warn_on_full_buffer=False)
        before = {number: signal.signal(number, self._enqueue) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, signal.SIG_DFL if handler is None else handler)
            signal.set_wakeup_fd(fd_before)
            self._selector.close()
            for end in self._wakeup:
                end.close()

    def _enqueue(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGCHLD or len(self._queue) >= 16:
            return  # waking up is enough: every turn reaps
        now = time.monotonic()
        if number == signal.SIGQUIT or now - self._told_at >= worker.SAME_SECONDS:
            self._queue.append(number)
            self._told_at = now

    def _obey(self, number: int) -> None:
        if number == signal.SIGQUIT or self._stopping:
            logger.warning("forced to stop; the application's shutdown did not run in %d workers", len(self._living()))
            self._forced = self._stopping = True
            self._listeners.close()
            self._kill()
        else:
            logger.info("stopping (%s): %d workers", signal.Signals(number).name, len(self._living()))
            self._stop(self._config.timeout_graceful_shutdown)

    def _sleep(self) -> None:
        """Until a signal, a word from a worker, or the next thing to do. An idle supervisor sleeps without end."""
        if self._stopping:
            until = self._deadline
        else:
            until = min((slot.spawn_at for slot in self._slots if not slot.pid), default=float("inf"))
        timeout = None if until == float("inf") else max(0.0, until - time.monotonic())
        for key, _ in self._selector.select(timeout):
            if key.data is None:
                with contextlib.suppress(BlockingIOError):
                    while self._wakeup[0].recv(4096):
                        pass
            else:
                self._hear(key.data)

    # --------------------------------------------------------------------------------------------------- workers

    def _living(self) -> list[Slot]:
        return [slot for slot in self._slots if slot.pid]

    def _maintain(self) -> None:
        now = time.monotonic()
        if self._stopping:
            if now >= self._deadline and self._living():
                names = ", ".join(map(str, self._living()))
                logger.warning("killing %s: not gone in time, the application's shutdown did not run to its end", names)
                self._forced = True
                self._deadline = float("inf")
                self._kill()
            return
        for slot in self._slots:
            if not slot.pid and slot.spawn_at <= now:
                self._spawn(slot)

    def _spawn(self, slot: Slot) -> None:
        """Fork. Signals wait while the child still has our handlers."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        supervisor = os.getpid()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(AttributeError, OSError, ValueError):
                stream.flush()
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            pid = os.fork()
            if pid == 0:
                ours.close()
                self._become_worker(slot, theirs, supervisor)
        except OSError as error:
            ours.close()
            logger.error("cannot start worker %d: %s", slot.index + 1, error.strerror)
            slot.deaths += 1
            slot.spawn_at = time.monotonic() + _backoff(slot.deaths + 1)
            return
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
            theirs.close()
        slot.pid, slot.channel = pid, ours
        slot.inbox.clear()
        slot.ready, slot.failure = False, None
        slot.started_at = time.monotonic()
        self._selector.register(ours, selectors.EVENT_READ, slot)
        logger.debug("%s started", slot)

    def _become_worker(self, slot: Slot, channel: socket.socket, supervisor: int) -> NoReturn:
        """In the child: leave behind what is the supervisor's, and never return into it."""
        code = 1
        try:
            atexit._clear()  # the parent's farewells are not ours (as in multiprocessing's fork)
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGINT, _leave_to_supervisor)
            for number in (signal.SIGTERM, signal.SIGQUIT, signal.SIGCHLD):
                signal.signal(number, signal.SIG_DFL)
            self._queue.clear()
            self._selector.close()
            for end in self._wakeup:
                end.close()
            for other in self._slots:
                if other.channel is not None:
                    other.channel.close()
            self._listeners.keep_only(slot.index)
            gc.unfreeze()
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
            code = worker.run_supervised(self._config, self._listeners, slot.index, channel, supervisor)
        except BaseException:
            logger.exception("a worker ended with an exception")
        finally:
            try:
                atexit._run_exitfuncs()
                sys.stdout.flush()
                sys.stderr.flush()
            finally:
                os._exit(code)

    def _hear(self, slot: Slot) -> None:
        """Read what a worker says: one JSON object in a line."""
        if slot.channel is None:
            return
        try:
            while data := slot.channel.recv(65536):
                slot.inbox += data
                if len(slot.inbox) > MESSAGE_BYTES_MAX:
                    slot.inbox.clear()
            self._close_channel(slot)  # its end: the worker is dying, or has closed it
        except BlockingIOError:
            pass
        except OSError:
            self._close_channel(slot)
        while b"\n" in slot.inbox:
            line, _, rest = bytes(slot.inbox).partition(b"\n")
            slot.inbox[:] = rest
            message = json.loads(line)
            if "ready" in message:
                self._became_ready(slot, message["ready"])
            elif "failed" in message:
                slot.failure = _failure(message)

    def _became_ready(self, slot: Slot, interface: str) -> None:
        slot.ready, slot.interface = True, interface
        if self._booted or self._stopping:
            logger.info("%s is ready", slot)
        elif all(slot.ready for slot in self._slots):
            self._booted = True
            self._on_ready(list(self._listeners.addresses), interface, [slot.pid for slot in self._slots])

    def _close_channel(self, slot: Slot) -> None:
        if slot.channel is not None:
            self._selector.unregister(slot.channel)
            slot.channel.close()
            slot.channel = None

    # ---------------------------------------------------------------------------------------------- death and stop

    def _reap(self) -> None:
        """Bury every child that has died. As process 1 of a container also strangers, which are nobody else's."""
        for slot in self._living():
            with contextlib.suppress(ChildProcessError):
                pid, status = os.waitpid(slot.pid, os.WNOHANG)
                if pid:
                    self._hear(slot)
                    self._bury(slot, os.waitstatus_to_exitcode(status))
        if os.getpid() == 1:
            known = {slot.pid for slot in self._slots}
            with contextlib.suppress(ChildProcessError):
                while (found := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is not None:
                    if found.si_pid in known:
                        break  # died this instant: the next turn buries it properly
                    os.waitpid(found.si_pid, os.WNOHANG)

    def _bury(self, slot: Slot, code: int) -> None:
        name, was_ready, failure = str(slot), slot.ready, slot.failure
        self._close_channel(slot)
        slot.pid, slot.ready = 0, False
        cause = f"was killed by {_signal_name(-code)}" if code < 0 else f"ended with exit code {code}"
        if self._stopping:
            if code != 0 and not self._forced and self._failure is None:
                logger.warning("%s %s while stopping", name, cause)
                self._forced = self._forced or was_ready
            return
        if not was_ready and (not self._booted or not any(other.ready for other in self._slots)):
            self._failure = failure or ConfigError(f"{name} {cause} before it was ready", exit_code=worker.CANNOT_START)
            self._stop(min(5.0, self._config.timeout_graceful_shutdown))
            return
        now = time.monotonic()
        slot.deaths = 1 if was_ready and now - slot.started_at >= SETTLED else slot.deaths + 1
        wait = _backoff(slot.deaths)
        slot.spawn_at = now + wait
        if failure is not None:
            cause = f"could not start: {failure}"
            if isinstance(failure, ApplicationError) and slot.deaths == 1:
                logger.error("%s", failure.details.rstrip())
        again = f"another in {wait:.1f} s (death {slot.deaths} in a row)" if wait else "starting another"
        logger.error("%s %s; %s", name, cause, again)

    def _stop(self, seconds: float) -> None:
        """Our listeners first, or new clients would wait at sockets from which nobody accepts."""
        self._stopping = True
        self._deadline = time.monotonic() + seconds + 1.0  # a moment longer than the workers give themselves
        self._listeners.close()
        for slot in self._living():
            _send(slot.pid, signal.SIGTERM)

    def _kill(self) -> None:
        for slot in self._living():
            _send(slot.pid, signal.SIGKILL)


def _backoff(deaths: int) -> float:
    """At once, then 1, 2, 4 ... s, a little uneven so that workers do not come in step."""
    return 0.0 if deaths <= 1 else min(2.0 ** (deaths - 2), BACKOFF_MAX) * random.uniform(0.9, 1.1)


def _failure(message: dict[str, str | int]) -> ConfigError:
    text, details, code = str(message["failed"]), str(message["details"]), int(message["exit_code"])
    return ApplicationError(text, details) if details else ConfigError(text, exit_code=code)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _send(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _leave_to_supervisor(_number: int, _frame: FrameType | None) -> None:
    """A terminal sends Ctrl-C to the whole group; the supervisor tells its workers itself."""
