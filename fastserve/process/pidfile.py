"""pidfile: `--pid FILE`, the process id of the server for whoever wants to signal it.

Room: floor 3. Called by: run.py. Calls: errors.py.

It appears whole or not at all (written beside and renamed), after the addresses are bound. A file whose
process lives is somebody else's, and refused. A stale one is replaced: its process is gone, or is us (a container
begins with the same ids again), or is younger than the file (the id was used again).
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from types import TracebackType

from fastserve.errors import ConfigError

__all__ = ["PidFile"]


class PidFile:
    """Nothing at all if `path` is None. `predecessor`: a process whose file we take over, as it has started us."""

    def __init__(self, path: str | None, predecessor: int = 0) -> None:
        self._predecessor = predecessor
        self.path = os.path.abspath(path) if path is not None else None
        self._pid = 0  # whose id we wrote

    def check(self) -> None:
        """ConfigError if a live process owns the file, or it cannot be one of ours. Before anything is started."""
        if self.path is None:
            return
        try:
            if not os.path.isdir(os.path.dirname(self.path)):
                raise ConfigError(f"pid: there is no folder {os.path.dirname(self.path)!r}", exit_code=3)
            if not os.path.lexists(self.path):
                return
            if not os.path.isfile(self.path):
                raise ConfigError(f"pid: {self.path!r} is no regular file; it was not touched", exit_code=3)
            with open(self.path, "rb") as file:
                text = file.read(64)
                written_at = os.fstat(file.fileno()).st_mtime
        except OSError as error:
            raise ConfigError(f"pid: cannot read {self.path!r}: {error.strerror or error}", exit_code=3) from None
        digits = text.strip()
        if digits and not digits.isdigit():
            raise ConfigError(f"pid: {self.path!r} holds no process id; it was not touched", exit_code=3)
        if digits and int(digits) != self._predecessor and _lives(int(digits), written_at):
            raise ConfigError(f"pid: {self.path!r} belongs to process {int(digits)}, which is running", exit_code=3)

    def write(self) -> None:
        """Write our id. ConfigError if that cannot be done, or somebody was faster than we."""
        if self.path is None:
            return
        self.check()
        beside = f"{self.path}.{os.getpid()}"
        try:
            descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
            try:
                os.write(descriptor, f"{os.getpid()}\n".encode())
            finally:
                os.close(descriptor)
            os.replace(beside, self.path)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.unlink(beside)
            raise ConfigError(f"pid: cannot write {self.path!r}: {error.strerror or error}", exit_code=3) from None
        self._pid = os.getpid()

    def remove(self) -> None:
        """Remove it if it is still ours. In a forked child it never is."""
        if self.path is None or self._pid != os.getpid():
            return
        self._pid = 0
        with contextlib.suppress(OSError, ValueError), open(self.path, "rb") as file:
            if int(file.read(64)) == os.getpid():
                os.unlink(self.path)

    def __enter__(self) -> PidFile:
        self.check()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()


def _lives(pid: int, written_at: float) -> bool:
    """Is it a process that may have written the file at that time?"""
    if pid == os.getpid() or not 0 < pid < 2**31:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # it lives, as somebody else
    if sys.platform == "linux":
        with contextlib.suppress(OSError, ValueError, IndexError):
            with open(f"/proc/{pid}/stat", "rb") as file:
                fields = file.read().rpartition(b")")[2].split()
            if fields[0] in (b"Z", b"X"):
                return False
            since_boot = int(fields[19]) / os.sysconf("SC_CLK_TCK")  # starttime, field 22 of proc_pid_stat(5)
            began_at = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + since_boot
            return began_at <= written_at + 2.0  # clocks are coarse
    return True
