"""lensfile: where a running server is found from outside: a directory of this user, with a file per server in it.

Room: floor 3. Called by: run.py, supervisor.py and worker.py (to register), lens/ (to find). Calls: errors.

The file says where the server's board and lens are mapped: descriptors of its process, which /proc opens for the same user
only. Nothing listens anywhere for this, and nothing is asked of the server: it may hang. Files of servers that died
without a word are cleared by the next one that starts. That a server cannot register is no reason for it not to serve.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import stat
import struct
import sys
import time
import zlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from fastserve.errors import LensError

__all__ = [
    "Registration",
    "candidates",
    "directories",
    "figures",
    "find",
    "flights",
    "prepare",
    "registrations",
    "write_fsx",
]

FORMAT = 1  # of the files
FILE_MAX = 1 << 20
SUFFIX = ".server"
MFD_NOEXEC_SEAL = 8  # memfd_create(2), Linux 6.3
SHARED = "/tmp"  # where a directory of our own is made if the system provides none


# ------------------------------------------------------------------------------------------------ the directory


def directories() -> list[Path]:
    """Where servers of this user may be found, the preferred place first. None of them need exist.

    A server that systemd or a container starts often has another environment than the shell that asks for it. Root may
    look at everybody's.
    """
    found = [*candidates(), *sorted(Path("/run").glob("*/fastserve"))]
    if os.geteuid() == 0:
        found += [*Path("/run/user").glob("*/fastserve"), *Path(SHARED).glob("fastserve-*")]
    return list(dict.fromkeys(found))


def candidates() -> list[Path]:
    """Where a server of this user may write, the preferred place first."""
    uid, found = os.geteuid(), []
    for name in ("RUNTIME_DIRECTORY", "XDG_RUNTIME_DIR"):  # of a unit of systemd that asks for one; of a session
        place = os.environ.get(name, "").partition(":")[0]
        if os.path.isabs(place):
            found.append(Path(place) / "fastserve")
    found.append(Path("/run/fastserve") if uid == 0 else Path(f"/run/user/{uid}/fastserve"))
    found.append(Path(SHARED) / f"fastserve-{uid}")
    return found


def prepare() -> Path:
    """The directory that a server writes to, made if need be: 0700, ours, no symbolic link. OSError if there is none.

    One that is there already and open to others was made for something else, and is left as it is.
    """
    uid = os.geteuid()
    reason = OSError(0, "no directory can be used")
    for place in candidates():
        if not place.parent.is_dir():
            continue
        try:
            with contextlib.suppress(FileExistsError):
                os.mkdir(place, 0o700)
            status = os.lstat(place)
            if not stat.S_ISDIR(status.st_mode) or status.st_uid != uid:
                raise PermissionError(0, f"{str(place)!r} is somebody else's")
            if stat.S_IMODE(status.st_mode) != 0o700:
                raise PermissionError(0, f"{str(place)!r} is not closed to others (mode 700)")
            return place
        except OSError as error:
            reason = error
    raise reason


def _trusted(place: Path) -> int | None:
    """Whose directory it is, if what is in it may be believed: ours; for root anybody's, who answers for his processes."""
    try:
        status = os.lstat(place)
    except OSError:
        return None
    uid = os.geteuid()
    if not stat.S_ISDIR(status.st_mode) or stat.S_IMODE(status.st_mode) & 0o022 or (uid and status.st_uid != uid):
        return None
    return status.st_uid


def memory(what: str) -> tuple[int, str]:
    """An empty file for shared memory, and its path: without one ("") where the system has memfd_create(2). Raises OSError.

    It cannot be made smaller under those who have mapped it, once `seal` was called.
    """
    name = f"fastserve-{what}"
    if hasattr(os, "memfd_create"):
        for flags in (MFD_NOEXEC_SEAL, 0):  # older kernels do not know it, newer ones want to be told
            with contextlib.suppress(OSError):
                return os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING | flags), ""
    path = str(prepare() / f"{os.getpid()}.{secrets.token_hex(4)}.{what}")
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    return os.open(path, flags, 0o600), path


def seal(descriptor: int) -> None:
    """Let nobody change its size. Where that cannot be done it is not."""
    with contextlib.suppress(OSError, AttributeError):
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)


# ------------------------------------------------------------------------------------------------ one server's file


@dataclass
class Registration:
    """What a server says of itself. `fds`: "board" and "lens" -> descriptor in its process, -1: it has none."""

    pid: int
    started: int  # of the process, in ticks since boot: an id that was used again is another server
    started_unix: float
    name: str
    argv: list[str]
    addresses: list[str]
    version: str
    python: str
    fds: dict[str, int]
    paths: dict[str, str]  # the same memory as files, where processes' descriptors cannot be opened
    area_bytes: int  # from one area of the lens to the next
    layout: dict[str, Any]  # of the board: protocol.board.layout()
    format: int = FORMAT
    place: str = field(default="", compare=False)

    def __str__(self) -> str:
        return f"{self.name} (pid {self.pid})"

    @classmethod
    def of_this_process(cls, **values: Any) -> Registration:
        pid = os.getpid()
        python = ".".join(map(str, sys.version_info[:3]))
        return cls(pid=pid, started=_started(pid), started_unix=time.time(), python=python, **values)

    def write(self) -> None:
        """Make or replace the file of this server, whole or not at all, and clear those of dead ones. Raises OSError."""
        directory = prepare()
        _sweep(directory)
        if not self.place:  # several servers may be embedded in one process
            self.place = str(directory / f"{self.pid}.{secrets.token_hex(4)}{SUFFIX}")
        _write(self.place, json.dumps({**asdict(self), "place": ""}).encode())

    def remove(self) -> None:
        """In the process that wrote it, not in one forked from it."""
        if self.place and self.pid == os.getpid():
            for path in (self.place, *self.paths.values()):
                with contextlib.suppress(OSError):
                    os.unlink(path)
            self.place = ""

    def alive(self) -> bool:
        """Does the process that wrote it live?"""
        return _lives(self.pid, self.started)

    def open(self, what: str, *, writing: bool = False) -> int:
        """A descriptor of its "board" or "lens"; -1 if it has none. LensError, OSError if it cannot be had."""
        number = self.fds.get(what, -1)
        if number < 0 and what not in self.paths:
            return -1
        path = self.paths.get(what) or f"/proc/{self.pid}/fd/{number}"
        found = os.open(path, (os.O_RDWR if writing else os.O_RDONLY) | os.O_CLOEXEC)
        if what not in self.paths and f"/memfd:fastserve-{what}" not in os.readlink(f"/proc/self/fd/{found}"):
            os.close(found)
            raise LensError(f"{self} has closed its {what}; it cannot be looked at")
        return found


def _write(path: str, data: bytes) -> None:
    beside = f"{path}.{os.getpid()}.{secrets.token_hex(4)}"
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(descriptor, view) :]
        finally:
            os.close(descriptor)
        os.replace(beside, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(beside)
        raise


def _read(path: Path, owner: int) -> Registration | None:
    """None: it is none of ours, or is being written by another version."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or status.st_uid != owner or status.st_mode & 0o022:
                return None
            data = os.read(descriptor, FILE_MAX)
        finally:
            os.close(descriptor)
        found = Registration(**json.loads(data))
        if found.format != FORMAT or type(found.pid) is not int or type(found.area_bytes) is not int:
            return None
        found.name, found.place = str(found.name), str(path)
        if found.pid != os.getpid() and sys.platform == "linux" and os.stat(f"/proc/{found.pid}").st_uid != owner:
            return None  # somebody names another user's process
        return found
    except (OSError, ValueError, TypeError, RecursionError):
        return None


def registrations() -> list[Registration]:
    """Of the servers that live, the oldest first."""
    found: dict[tuple[str, int], Registration] = {}
    for place in directories():
        owner = _trusted(place)
        if owner is None:
            continue
        with contextlib.suppress(OSError):
            for path in sorted(place.glob(f"*{SUFFIX}")):
                registration = _read(path, owner)
                if registration is not None and registration.alive():
                    found.setdefault((path.name, registration.pid), registration)
    return sorted(found.values(), key=lambda one: (one.started_unix, one.pid))


def find(target: str | int | None = None) -> Registration:
    """The server of this name or pid (its own, or a worker's); None: the only one. LensError in one line."""
    found = registrations()
    if target is None or target == "":
        if len(found) == 1:
            return found[0]
        if not found:
            raise LensError(
                f"no server of fastserve runs here as this user (looked in {', '.join(map(str, candidates()))})"
            )
        raise LensError(f"{len(found)} servers run here; say which: {_listed(found)}")
    matching = [one for one in found if one.name == target]
    matching = matching or [
        one for one in found if one.name.partition(":")[0] == target
    ]  # the module of "shop.web:app"
    if len(matching) > 1:
        raise LensError(f"{len(matching)} servers are called {target!r}; say which by its pid: {_listed(matching)}")
    if matching:
        return matching[0]
    if str(target).isdecimal():
        pid = int(target)
        matching = [one for one in found if one.pid == pid] or [one for one in found if one.pid == _parent(pid)]
        if len(matching) > 1:
            raise LensError(f"{len(matching)} servers are in process {pid}; say which by its name: {_listed(matching)}")
        if matching:
            return matching[0]
    hint = f"there are: {_listed(found)}" if found else "none runs here as this user"
    what = f"with pid {target}" if str(target).isdecimal() else f"called {target!r}"
    raise LensError(f"no server {what}; {hint}")


def _listed(found: Iterable[Registration]) -> str:
    return ", ".join(map(str, found))


def _sweep(directory: Path) -> None:
    """Files of servers that died without a word."""
    for path in directory.glob(f"*{SUFFIX}*"):
        registration = _read(path, os.geteuid())
        if registration is None and path.name.partition(".")[0].isdecimal():
            pid = int(path.name.partition(".")[0])  # unreadable: it goes by its name
            if _lives(pid, 0):
                continue
        elif registration is None or registration.alive():
            continue
        for old in (str(path), *(registration.paths.values() if registration is not None else ())):
            if Path(old).parent == directory:
                with contextlib.suppress(OSError):
                    os.unlink(old)


# ------------------------------------------------------------------------------------------------------ processes


def _stat(pid: int) -> list[str]:
    """Fields of /proc/PID/stat from the third on (proc_pid_stat(5)); none if there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (OSError, ValueError):
        return []


def _started(pid: int) -> int:
    """When it started, in ticks since boot. 0 where that cannot be told."""
    fields = _stat(pid)
    return int(fields[19]) if len(fields) > 19 else 0


def _parent(pid: int) -> int:
    fields = _stat(pid)
    return int(fields[1]) if len(fields) > 1 else 0


def _lives(pid: int, started: int) -> bool:
    if sys.platform == "linux":
        fields = _stat(pid)
        return len(fields) > 19 and fields[0] not in "ZX" and started in (0, int(fields[19]))
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return pid > 0


# ---------------------------------------------------------------------------------------------- the board, as bytes


def figures(seat: bytes, index: int, layout: dict[str, Any]) -> dict[str, Any]:
    """The figures of one seat, by `layout`: numbers, and tuples of numbers. `seat`: its bytes."""
    found: dict[str, Any] = {"index": index}
    for name, (offset, kind) in layout["seat"].items():
        values = struct.unpack_from("<" + kind, seat, offset)
        found[name] = values if len(kind) > 1 else values[0]
    return found


def flights(seat: bytes, layout: dict[str, Any]) -> list[dict[str, Any]]:
    """Its requests in flight. Of their targets only the path: what a query says is nobody's business."""
    found = []
    for index in range(layout["flights"]):
        start = layout["flights_at"] + index * layout["flight_bytes"]
        (since,) = struct.unpack_from("<q", seat, start + layout["flight"]["since_ns"][0])
        if since == 0:
            continue
        entry: dict[str, Any] = {"index": index, "request": 0, "task": 0, "stack": 0, "state": 0, "state_since_ns": 0}
        for name, (offset, kind) in layout["flight"].items():
            (entry[name],) = struct.unpack_from("<" + kind, seat, start + offset)
        length = min(entry.pop("length"), layout["flight_text"])
        text = bytes(entry["text"][:length]).decode("ascii", "backslashreplace")
        entry["text"] = text.partition("?")[0]
        found.append(entry)
    return found


# --------------------------------------------------------------------------------------------------------- .fsx


def write_fsx(path: str | os.PathLike[str], head: dict[str, Any], areas: list[bytes]) -> None:
    """A recording: "FSX1", the length of the head, the head in JSON (with the lengths of the areas), the areas packed.

    0600, whole or not at all. Raises OSError.
    """
    packed = [zlib.compress(area, 1) for area in areas]
    text = json.dumps({**head, "areas": [len(one) for one in packed]}).encode()
    _write(os.fspath(path), b"FSX1" + struct.pack("<I", len(text)) + text + b"".join(packed))
