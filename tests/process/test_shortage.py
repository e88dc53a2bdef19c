"""shortage: what the system refuses is told with the place of its limit; a fault of a program is not mistaken for it."""

from __future__ import annotations

import errno
import resource

import pytest

from fastserve.process.shortage import shortage

SOFT = resource.getrlimit(resource.RLIMIT_NOFILE)[0]


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (MemoryError(), "there is no memory left (ulimit -v"),
        (RuntimeError("can't start new thread"), "no thread can be started (ulimit -u, pids.max"),
        (BlockingIOError(errno.EAGAIN, "x"), "Resource temporarily unavailable (ulimit -u, pids.max"),
        (OSError(errno.ENOSPC, "x"), "cannot write: No space left on device"),
        (
            OSError(errno.EMFILE, "x"),
            f"Too many open files: ulimit -n is {SOFT} (",
        ),
        (ImportError("a.so: cannot open shared object file: Too many open files"), "Too many open files: ulimit -n is"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_what_is_missing_is_named(error: BaseException, text: str) -> None:
    assert shortage(error).startswith(text)


@pytest.mark.parametrize(
    "error", [ValueError("x"), RuntimeError("x"), ImportError("x"), FileNotFoundError(errno.ENOENT, "x")]
)
def test_a_fault_of_a_program_is_none(error: BaseException) -> None:
    assert shortage(error) == ""
