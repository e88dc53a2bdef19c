"""shortage: what the system refuses for want of something: descriptors, processes, threads, memory, room on a disk.

Room: floor 3. Called by: cli.py and worker.py, for an exception that nobody has an answer to. Calls: nothing.
Sources: open(2), fork(2), pthread_create(3), getrlimit(2) for the errors and their limits.
"""

from __future__ import annotations

import errno
import os
import resource

__all__ = ["is_limit", "shortage"]


def shortage(error: BaseException) -> str:
    """What is missing and where its limit stands, in one line; empty if `error` is about something else."""
    if isinstance(error, MemoryError):
        return "there is no memory left (ulimit -v, the memory limit of the container)"
    if isinstance(error, RuntimeError) and str(error) == "can't start new thread":
        return "no thread can be started (ulimit -u, pids.max of the control group)"
    if isinstance(error, ImportError) and os.strerror(errno.EMFILE) in str(error):  # of the dynamic linker
        return _descriptors(errno.EMFILE)
    if not isinstance(error, OSError):
        return ""
    reason = os.strerror(error.errno or 0)
    match error.errno:
        case errno.EMFILE | errno.ENFILE:
            return _descriptors(error.errno)
        case errno.EAGAIN | errno.ENOMEM:
            return f"{reason} (ulimit -u, pids.max and the memory limit of the control group)"
        case errno.ENOSPC | errno.EDQUOT:
            return f"cannot write: {reason}"
    return ""


def is_limit(error: OSError) -> bool:
    """Is it a limit of the machine or of us, below which the server cannot be started?"""
    return error.errno in (errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM)


def _descriptors(number: int) -> str:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    more = hard if hard > soft else 65536
    advice = f"ulimit -n {more}, LimitNOFILE= of systemd, nofile of the container"
    return f"{os.strerror(number)}: ulimit -n is {soft} ({advice})"
