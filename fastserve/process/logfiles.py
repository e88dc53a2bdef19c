"""logfiles: open log files anew, after logrotate has renamed them (USR1).

Room: floor 3. Called by: supervisor.py, worker.py. Calls: logging.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable

__all__ = ["REOPEN", "reopen"]

REOPEN: list[Callable[[], None]] = []
"""Called by reopen(): for files that are no logging handlers. Each may raise OSError; the old file is kept then."""


def reopen() -> int:
    """Every file of a logging handler in this process, and what is in REOPEN. Returns how many files."""
    count = 0
    for handler in _file_handlers():
        handler.acquire()
        try:
            if handler.stream is not None:  # None: not opened yet (delay=True)
                old = handler.stream
                handler.stream = handler._open()  # if it cannot be opened the old one stays
                with contextlib.suppress(OSError):
                    old.close()
                count += 1
        except OSError as error:
            logging.getLogger("fastserve").error("cannot open %s anew: %s", handler.baseFilename, error.strerror)
        finally:
            handler.release()
    for function in REOPEN:
        try:
            function()
            count += 1
        except OSError as error:
            logging.getLogger("fastserve").error("cannot open a log file anew: %s", error)
    return count


def _file_handlers() -> list[logging.FileHandler]:
    found: dict[int, logging.FileHandler] = {}
    for name in (None, *logging.root.manager.loggerDict):
        for handler in logging.getLogger(name).handlers:
            if isinstance(handler, logging.FileHandler):
                found[id(handler)] = handler
    return list(found.values())
