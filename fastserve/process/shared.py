"""shared: the memory that the processes of one server share, and where others of this user find it.

Room: floor 3. Called by: supervisor.py (for all its workers), server.py (alone, or embedded). Calls: lensfile, config;
protocol (Board), telemetry (LensMemory).

Made before the first fork. With the lens off nobody else can see it, and there is only the board.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys

from fastserve._version import __version__
from fastserve.process import lensfile
from fastserve.process.config import Address, Config
from fastserve.protocol import Board
from fastserve.telemetry.lens import Area, LensMemory, LensMode, Mode

__all__ = ["Shared"]

logger = logging.getLogger("fastserve")


class Shared:
    """The board, and the memory of the lens, of a server with so many seats. `lens` is None if it is off, or cannot be."""

    board: Board
    lens: LensMemory | None = None

    def __init__(self, config: Config, seats: int) -> None:
        self._config = config
        self._pid = os.getpid()
        self._paths: dict[str, str] = {}
        self.registration: lensfile.Registration | None = None  # where we are found; None: we are not
        self._switches = 0
        self._descriptor = -1
        if config.lens_mode.mode is not Mode.OFF:
            try:
                self._descriptor = self._file("board")
                self.lens = LensMemory(seats, self._file("lens"))
                lensfile.seal(self.lens.fd)
            except (OSError, ValueError) as error:
                logger.warning("the lens is off: there is no shared memory for it: %s", error)
                self._close_board()
        self.board = Board(seats, self._descriptor)
        if self._descriptor >= 0:
            lensfile.seal(self._descriptor)
        self.set_mode(config.lens_mode)

    def _file(self, what: str) -> int:
        descriptor, path = lensfile.memory(what)
        if path:
            self._paths[what] = path
        return descriptor

    def register(self, config: Config, addresses: list[Address]) -> None:
        """Say where we are. That it cannot be done is worth a warning, and no more."""
        if self.lens is None:
            return
        found = lensfile.Registration.of_this_process(
            name=config.called,
            argv=sys.orig_argv,
            addresses=[config.url_of(address) for address in addresses],
            version=__version__,
            fds={"board": self._descriptor, "lens": self.lens.fd},
            paths=self._paths,
            area_bytes=self.lens.area_size,
            layout=self.board.layout(),
        )
        try:
            found.write()
        except OSError as error:
            logger.warning(
                "fastserve top and its siblings will not find this server: %s: %s",
                error.filename or "no directory for its file",
                error.strerror or error,
            )
        else:
            self.registration = found

    def area(self, seat: int) -> Area | None:
        """Where the worker at this seat records."""
        return self.lens.area(seat) if self.lens is not None else None

    def set_mode(self, mode: LensMode) -> None:
        """For every worker, those to come too. They have to be told to look."""
        if self.lens is not None and mode.mode is not Mode.OFF:
            self.lens.set_mode(mode)
            self._switches = self.lens.area(0).switches

    def switched(self) -> bool:
        """Has somebody outside switched the mode since the last look?"""
        if self.lens is None or (switches := self.lens.area(0).switches) == self._switches:
            return False
        self._switches = switches
        return True

    @property
    def mode(self) -> str:
        """What is recorded now, as it is written after --lens."""
        return str(self.lens.area(0).mode) if self.lens is not None else "off"

    def close(self) -> None:
        """In the process that made it: nobody finds us any more. The memory goes with the last process that maps it."""
        if self._pid != os.getpid():
            return
        if self.registration is not None:
            self.registration.remove()
        for path in self._paths.values():
            with contextlib.suppress(OSError):
                os.unlink(path)
        self.board.close()
        self._close_board()

    def _close_board(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)
