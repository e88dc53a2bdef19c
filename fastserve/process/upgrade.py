"""upgrade: a new server program takes over the sockets of the running one (USR2), as nginx and unicorn do it.

Room: floor 3. Called by: supervisor.py of the old server (start) and of the new one (heritage). Calls: sockets, config.

The old supervisor starts the same command again, with the listeners open and an environment variable that says which
they are. Both accept from the same queues, so nothing that waits is lost whichever of the two ends. The operator then
retires the old workers (WINCH), and either stops the old supervisor (TERM, QUIT) or backs out (HUP to the old one, TERM
to the new one).
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass

from fastserve.process.config import Address, TcpAddress, UnixAddress
from fastserve.process.sockets import Listeners

__all__ = ["Heritage", "heritage", "predecessor", "start"]

VARIABLE = "_FASTSERVE_UPGRADE"


@dataclass(frozen=True)
class Heritage:
    """What the old supervisor leaves to the new one."""

    predecessor: int  # its pid; it is our parent while it lives
    slots: list[list[int]]
    addresses: list[Address]
    paths: list[tuple[str, int, int]]


def predecessor(environ: Mapping[str, str]) -> int:
    """The pid of the supervisor that has started us to take over from it; 0: nobody has."""
    text = environ.get(VARIABLE, "")
    pid = int(json.loads(text)["pid"]) if text else 0
    return pid if pid == os.getppid() else 0


def heritage(environ: MutableMapping[str, str]) -> Heritage | None:
    """Removed from the environment, and believed only if our parent wrote it: a worker's child must not take over."""
    text = environ.pop(VARIABLE, "")
    if not text:
        return None
    found = json.loads(text)
    if found["pid"] != os.getppid():
        return None
    addresses: list[Address] = [
        UnixAddress(entry[0]) if len(entry) == 1 else TcpAddress(*entry) for entry in found["addresses"]
    ]
    return Heritage(found["pid"], found["slots"], addresses, [tuple(entry) for entry in found["paths"]])


def start(listeners: Listeners, environ: Mapping[str, str]) -> int:
    """Start this program again, from what lies on disk now, with this environment. Returns its pid. Raises OSError."""
    slots = [[listener.fileno() for listener in row] for row in listeners.by_slot()]
    left = {
        "pid": os.getpid(),
        "slots": slots,
        "addresses": [
            [address.path] if isinstance(address, UnixAddress) else [address.host, address.port]
            for address in listeners.addresses
        ],
        "paths": listeners.paths,
    }
    descriptors = {descriptor for row in slots for descriptor in row}
    command = [sys.executable, *sys.orig_argv[1:]]
    for descriptor in descriptors:
        os.set_inheritable(descriptor, True)
    try:
        return os.posix_spawn(
            sys.executable,
            command,
            {**environ, VARIABLE: json.dumps(left)},
            setsigmask=[],
            setsigdef=[number for number in signal.valid_signals() if number not in (signal.SIGKILL, signal.SIGSTOP)],
        )
    finally:
        for descriptor in descriptors:
            os.set_inheritable(descriptor, False)
