"""logfiles: open log files anew, after logrotate has renamed them (USR1).

Room: floor 3. Called by: supervisor.py, worker.py, server.py. Calls: logging.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable

__all__ = ["REOPEN", "prepare", "reopen"]

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


def prepare(path: str, uid: int | None, gid: int | None) -> None:
    """Make the file, if it is one, and let that user write to it: workers open it when they are that user already.

    OSError if it cannot be made.
    """
    if path == "-" or path == "syslog" or path.startswith("syslog:"):
        return
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY, 0o644)
    try:
        if uid is not None and os.fstat(fd).st_uid != uid:
            os.fchown(fd, uid, -1 if gid is None else gid)
    finally:
        os.close(fd)


def _file_handlers() -> list[logging.FileHandler]:
    found: dict[int, logging.FileHandler] = {}
    for name in (None, *logging.root.manager.loggerDict):
        for handler in logging.getLogger(name).handlers:
            if isinstance(handler, logging.FileHandler):
                found[id(handler)] = handler
    return list(found.values())
