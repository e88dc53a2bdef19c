"""System calls per request of a server, counted by strace: what it asks of the kernel, which is where most time goes.

Called by misses.py. Calls servers (start, stop), callgrind.ask (so many requests) and cpu.tree (whom to count). Two loads
of different length are counted and their difference taken, so that connecting and closing fall out. A server under strace
is slower, and may find more requests waiting at each look than it would otherwise: calls like epoll_wait, which serve
several requests at once, come out too low rather than too high.
"""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from . import callgrind, cpu, servers
from .cases import CASES

WARM = 64
ATTACH_S = 10.0
LEAST = 0.005  # calls per request; below are timers and supervisors, not requests
# "% time     seconds  usecs/call     calls    errors syscall"; errors may be blank.
LINE = re.compile(r"^\s*[\d.]+\s+[\d.]+\s+\d+\s+(\d+)\s+(?:\d+\s+)?(\w+)$", re.MULTILINE)


class SyscallsError(servers.ServerError):
    """Nothing could be counted."""


def parse(text: str) -> dict[str, int]:
    """The table of `strace -c`: calls by name."""
    return {name: int(calls) for calls, name in LINE.findall(text) if name != "total"}


def count(name: str, case_name: str, requests: int) -> dict[str, float]:
    """Calls per request by name, of the server's whole process tree. ServerError or LoadError say why not."""
    if shutil.which("strace") is None:
        raise SyscallsError("strace is not on PATH (Debian: apt-get install strace)")
    case = CASES[case_name]
    if case.tls:
        raise SyscallsError("the load client does not speak TLS")
    running = servers.start(servers.SERVERS[name])
    try:
        size = running.check(case)
        callgrind.ask(running, case, size, WARM)
        short, long = (
            _traced(running, partial(callgrind.ask, running, case, size, number)) for number in (WARM, WARM + requests)
        )
    finally:
        running.stop()
    found = callgrind.between(short, long, requests)
    return {name: calls for name, calls in sorted(found.items(), key=lambda item: -item[1]) if calls >= LEAST}


def _traced(running: servers.Running, load: Callable[[], None]) -> dict[str, int]:
    """What the server called while `load()` ran."""
    with tempfile.TemporaryDirectory(prefix="benchmarks-") as folder:
        out = Path(folder) / "calls"
        words = ["strace", "-f", "-c", "-o", str(out)]
        for pid in cpu.tree(running.pid):
            words += ["-p", str(pid)]
        tracer = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
        try:
            _until_attached(running.pid, tracer)
            load()
            time.sleep(0.2)  # the closing of the connections belongs to the load it ends
        finally:
            tracer.send_signal(signal.SIGINT)
            told = tracer.communicate()[1]
        if not out.exists():
            raise SyscallsError(f"strace counted nothing: {servers.last_line(told)}")
        return parse(out.read_text())


def _until_attached(pid: int, tracer: subprocess.Popen[str]) -> None:
    """Wait until every thread of every process has a tracer."""
    give_up_at = time.monotonic() + ATTACH_S
    while time.monotonic() < give_up_at:
        if tracer.poll() is not None:
            raise SyscallsError(f"strace ended: {servers.last_line(tracer.stderr.read() if tracer.stderr else '')}")
        states = [status.read_text() for one in cpu.tree(pid) for status in Path(f"/proc/{one}/task").glob("*/status")]
        if all("TracerPid:\t0\n" not in state for state in states):
            return
        time.sleep(0.02)
    raise SyscallsError(f"strace did not attach in {ATTACH_S:.0f} s")
