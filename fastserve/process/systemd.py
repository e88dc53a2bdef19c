"""systemd: sockets that it passes to us, and what we tell it: ready, reloading, stopping, alive.

Room: floor 3. Called by: run.py (sockets), supervisor.py (notices). Calls: errors.
Source: sd_listen_fds(3), sd_notify(3), sd_watchdog_enabled(3). No library: it is two environment variables and a socket.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Mapping, MutableMapping, Sequence

from fastserve.errors import ConfigError

__all__ = ["Notifier", "descriptors", "listen_fds"]

FIRST = 3  # SD_LISTEN_FDS_START


def listen_fds(environ: MutableMapping[str, str]) -> dict[int, str]:
    """Descriptors passed to this process and their names. The variables are removed: children must not believe them."""
    pid, count = environ.pop("LISTEN_PID", ""), environ.pop("LISTEN_FDS", "")
    names = environ.pop("LISTEN_FDNAMES", "").split(":")
    if pid != str(os.getpid()) or not count:
        return {}
    if not count.isdigit() or int(count) > 1024:
        raise ConfigError(f"LISTEN_FDS must be a small whole number, not {count!r}", exit_code=3)
    found = {}
    for index in range(int(count)):
        os.set_inheritable(FIRST + index, False)
        found[FIRST + index] = names[index] if index < len(names) and names[index] else "unknown"
    return found


def descriptors(wanted: Sequence[str], passed: Mapping[int, str]) -> list[int]:
    """What --fd names, by number or by LISTEN_FDNAMES; all that was passed if nothing is named."""
    if not wanted:
        return list(passed)
    found: list[int] = []
    for text in wanted:
        if text.isdigit():
            found.append(int(text))
            continue
        named = [descriptor for descriptor, name in passed.items() if name == text]
        if not named:
            raise ConfigError(
                f"fd: no socket named {text!r} was passed ({', '.join(passed.values()) or 'none at all'})"
            )
        found += named
    return list(dict.fromkeys(found))


class Notifier:
    """Tells the service manager, if there is one. It never fails: a manager that does not listen is not our trouble."""

    def __init__(self, environ: MutableMapping[str, str]) -> None:
        """Takes the variables out of the environment, so that applications do not speak in our name."""
        self.path = environ.pop("NOTIFY_SOCKET", "")
        usec, pid = environ.pop("WATCHDOG_USEC", ""), environ.pop("WATCHDOG_PID", "")
        ours = not pid or pid == str(os.getpid())
        self.watchdog = int(usec) / 1e6 if usec.isdigit() and int(usec) and ours and self.path else 0.0
        self._next = 0.0
        self._status = ""

    @property
    def environ(self) -> dict[str, str]:
        """For a successor, which will speak in our name."""
        found = {"NOTIFY_SOCKET": self.path} if self.path else {}
        if self.watchdog:
            found["WATCHDOG_USEC"] = str(round(self.watchdog * 1e6))
        return found

    def tell(self, *lines: str) -> None:
        if not self.path:
            return
        address = "\0" + self.path[1:] if self.path.startswith("@") else self.path
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notice:
            notice.setblocking(False)
            notice.sendto("\n".join(lines).encode(), address)

    def ready(self, status: str) -> None:
        self.tell("READY=1", f"MAINPID={os.getpid()}", f"STATUS={status}")

    def reloading(self) -> None:
        """The manager of Type=notify-reload wants to know when, by the monotonic clock."""
        self.tell("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}", "STATUS=reloading")

    def stopping(self) -> None:
        self.tell("STOPPING=1", "STATUS=stopping")

    def status(self, text: str) -> None:
        if text != self._status:
            self._status = text
            self.tell(f"STATUS={text}")

    def alive(self, now: float) -> None:
        """Called in every turn of the supervisor's loop; tells at half the interval, as the manual advises."""
        if self.watchdog and now >= self._next:
            self._next = now + self.watchdog / 2
            self.tell("WATCHDOG=1")
