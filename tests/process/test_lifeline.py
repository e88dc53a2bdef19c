"""lifeline: workers do not outlive their supervisor, whatever they are doing and whoever they have become."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from process.running import FOR_OTHERS, HERE, OTHER, Background, Running, alive, until
from process.test_under_load import children

APP = ("apps:app", "--app-dir", str(HERE), "--port", "0", "-w", "2")
HOLDS = """
import os, sys, threading
from fastserve.process import lifeline
read, write = os.pipe()
if os.fork() == 0:
    os.close(write)
    lifeline.hold(read)
    os.write(1, b"%d\\n" % os.getpid())
    import re
    re.match(r"(a+)+$", "a" * 64 + "b")  # holds the GIL
os.close(read)
sys.stdin.read()
os._exit(0)  # closes the pipe, as a kill -9 does
"""


def test_it_ends_a_process_that_holds_the_gil(tmp_path: Path) -> None:
    """Without PDEATHSIG: the pipe alone."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as program:
        assert program.stdin is not None and program.stdout is not None
        pid = int(program.stdout.readline())
        assert alive(pid)
        program.stdin.close()
        until(lambda: not alive(pid), "it is gone", 5.0)


@pytest.mark.parametrize("changed", [False, True], ids=["same user", "other identity"])
@pytest.mark.parametrize("preload", [(), ("--preload",)], ids=["plain", "preload"])
def test_all_gone_after_kill_9_of_the_supervisor(tmp_path: Path, changed: bool, preload: tuple[str, ...]) -> None:
    """One of them hangs in a call that holds the GIL."""
    user = ("--user", OTHER) if changed else ()
    with Running(*APP, *user, *preload, cwd=tmp_path, command=FOR_OTHERS) as server:
        server.ready()
        Background(server.port, "/hold")
        server.wait_for("hold begins")
        pids = children(server.pid)
        assert set(server.workers) <= pids
        server.signal(signal.SIGKILL)
        until(lambda: not any(map(alive, pids)), "all are gone", 2.0)
