"""admin: the control plane on an address of its own: a child of the supervisor that serves what the Board shows.

Room: floor 3. Called by: supervisor.py (`open`, `mind`, `publish`, `bury`, `close`). Calls: sockets, worker (die_with),
lifeline, privileges, server; control.py by its name, as any application.

The child is an ordinary Server with a small native application. It holds no code and no listeners of the user's
application, gives up privileges as workers do, dies with the supervisor, and is replaced when it dies. So its clients,
however slow, hold up neither the supervisor nor a worker, and it answers when all workers hang. It is the last to be
stopped.

In an upgrade (USR2) the address stays with the old server until that rests (WINCH) or ends; the new one then takes it.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
import os
import signal
import socket
import struct
import time
from collections.abc import Callable
from typing import NoReturn

from fastserve.errors import ConfigError
from fastserve.process import lifeline, worker
from fastserve.process.child import backoff, cause_of
from fastserve.process.config import Address, Config, parse_bind
from fastserve.process.loops import new_loop
from fastserve.process.server import Server
from fastserve.process.sockets import Listeners
from fastserve.protocol import Board

__all__ = ["Admin"]

logger = logging.getLogger("fastserve")

CONTROL = "fastserve.control"
AGAIN = 1.0  # seconds between tries for an address that a predecessor still has
SETTLED = 30.0  # seconds after which an earlier death is forgiven
BACKLOG = 128
TCP_INFO_UNACKED = (
    24  # offset in struct tcp_info: of a listener, the connections that wait; 4 bytes later, how many may
)

Fork = Callable[[Callable[[], NoReturn]], int]


class Admin:
    """The supervisor's side. Does nothing at all if no address was asked for."""

    def __init__(self, config: Config) -> None:
        self.pid = 0
        self._config = config
        self._listeners: Listeners | None = None
        self._open_at = 0.0
        self._spawn_at = 0.0
        self._started_at = 0.0
        self._deaths = 0
        self._starting = False
        self._told = False

    @property
    def addresses(self) -> list[Address]:
        return list(self._listeners.addresses) if self._listeners is not None else []

    def open(self) -> None:
        """Bind. ConfigError if that cannot be."""
        if self._config.admin:
            self._listeners = Listeners(
                [parse_bind(text) for text in self._config.admin],
                backlog=BACKLOG,
                uds_permissions=self._config.uds_permissions,
            )

    def mind(self, now: float, fork: Fork, inherit: Callable[[], worker.Inheritance], *, wanted: bool) -> None:
        """In every turn: there is a child, and an address; or neither, while another server is to have them."""
        if not self._config.admin:
            return
        if not wanted:
            self.close()
            return
        if self._listeners is None:
            if now < self._open_at:
                return
            try:
                self.open()
            except ConfigError as error:
                self._open_at = now + AGAIN
                if not self._told:
                    self._told = True
                    logger.warning("admin: %s; trying again until it is free", error)
                return
            self._told = False
            logger.info("admin: listening on %s", " ".join(address.url for address in self.addresses))
        if not self.pid and now >= self._spawn_at:
            inheritance, listeners = inherit(), self._listeners
            assert listeners is not None
            self._starting = True
            try:
                self.pid = fork(lambda: _be(inheritance, listeners))
                self._started_at = now
            except OSError as error:
                self._deaths += 1
                self._spawn_at = now + max(backoff(self._deaths), AGAIN)
                logger.error("cannot start the admin process: %s", error.strerror)
            finally:
                self._starting = False

    def publish(self, board: Board, listeners: Listeners, wanted: int) -> None:
        """What only the supervisor can see: the accept queues, which the admin process has no descriptors of."""
        if not self._config.admin:
            return
        board.wanted = wanted
        for index in range(listeners.listening):
            lengths = [length for each in listeners.slot(index) if (length := _queue(each)) is not None]
            if lengths:
                board.queue(index, sum(waiting for waiting, _ in lengths), sum(most for _, most in lengths))

    def bury(self, code: int) -> None:
        """It has ended by itself, and is replaced."""
        now = time.monotonic()
        self.pid = 0
        self._deaths = 1 if now - self._started_at >= SETTLED else self._deaths + 1
        wait = backoff(self._deaths)
        self._spawn_at = now + wait
        logger.error(
            "the admin process %s; %s", cause_of(code), f"another in {wait:.1f} s" if wait else "starting another"
        )

    def leave_behind(self) -> None:
        """In another child of the supervisor: the address is not its business."""
        if self._listeners is not None and not self._starting:
            self._listeners.close()

    def close(self) -> None:
        """End the child and free the address."""
        pid, self.pid = self.pid, 0
        if pid:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)  # it holds nothing that could be lost
                os.waitpid(pid, 0)
        if self._listeners is not None:
            self._listeners.close()
            self._listeners = None


def _queue(listener: socket.socket) -> tuple[int, int] | None:
    """How many connections wait at a TCP listener, and how many may. None for others, and where the kernel does not say."""
    if listener.family not in (socket.AF_INET, socket.AF_INET6) or not hasattr(socket, "TCP_INFO"):
        return None
    try:
        info = listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO_UNACKED + 8)
        waiting, most = struct.unpack_from("=II", info, TCP_INFO_UNACKED)
    except (OSError, struct.error):
        return None
    return waiting, most


def _be(inheritance: worker.Inheritance, listeners: Listeners) -> NoReturn:
    """The child's whole life, after fork."""
    code = worker.FORCED
    try:
        inheritance.listeners.close()  # ours of the application's: nobody may wait at a socket because we hold it
        app = importlib.import_module(CONTROL).make(inheritance.board)
        loop = new_loop("auto", inheritance.config.app_dir)
        inheritance.identity.assume()  # after our own modules are loaded: the user may not be able to read them
        worker.die_with(inheritance.supervisor)
        lifeline.hold(inheritance.lifeline)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(
                number, signal.SIG_IGN
            )  # of a terminal or a wrapper, to the whole group: we are the last to go
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        config = Config.of(
            app,
            {
                "access_log": False,
                "timeout_header": 5.0,
                "timeout_write": 10.0,
                "timeout_keep_alive": 60.0,
                "limit_request_body": 0,
                "limit_request_head": 16384,
                "threads": 1,
            },
        )
        asyncio.set_event_loop(loop)
        loop.run_until_complete(_serve(config, app, listeners))
    except BaseException:
        logger.exception("the admin process failed")
    finally:
        os._exit(code)


async def _serve(config: Config, app: object, listeners: Listeners) -> None:
    await Server.of(config, app, "native", listeners).start()
    await asyncio.Event().wait()  # until the supervisor ends us
