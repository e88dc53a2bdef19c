"""Threads of a worker that are not the application's: the loop is alone with its descriptors."""

from __future__ import annotations

import os
import signal
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest
from process.running import HERE, Running, until

pytestmark = pytest.mark.skipif(not Path("/proc/thread-self").exists(), reason="Linux tells of them in /proc")


def opened(pid: int) -> dict[int, list[str]]:
    """What each thread has open beside the standard streams, by its number.

    Not the kernel's own for io_uring: of two workers that start at the same time one may have such, by way of libuv.
    """
    found: dict[int, list[str]] = {}
    for thread in Path(f"/proc/{pid}/task").iterdir():
        if (thread / "comm").read_text().startswith("iou-"):
            continue
        with suppress(FileNotFoundError):
            found[int(thread.name)] = [
                os.readlink(thread / "fd" / name) for name in os.listdir(thread / "fd") if int(name) > 2
            ]
    return found


def test_no_thread_of_the_servers_shares_the_loops_descriptors(tmp_path: Path) -> None:
    """The lines to the supervisor, the access log and the watchdog: each has one, and the loop has the log's no more."""
    log, old = tmp_path / "log", tmp_path / "log.1"
    with Running(
        "apps:app",
        "--app-dir",
        str(HERE),
        "--port",
        "0",
        "-w",
        "2",
        "--lens",
        "stalls",
        "--access-log-file",
        str(log),
        cwd=tmp_path,
    ) as server:
        server.ready()
        for worker in server.workers:
            threads = opened(worker)
            loop = threads.pop(worker)
            assert any(name.startswith("socket:") for name in loop) and str(log) not in loop
            assert all(len(only) == 1 for only in threads.values()), threads
            kinds = Counter(only[0].partition("[")[0] for only in threads.values())
            assert kinds == {"pipe:": 2, "socket:": 1, str(log): 1}
        server.get("/pid")
        log.rename(old)
        server.signal(signal.SIGUSR1)
        until(log.exists, "the file is made anew")

        def holders(path: Path) -> list[int]:
            return [pid for pid in server.workers if any(str(path) in names for names in opened(pid).values())]

        until(
            lambda: len(holders(log)) == 2 and not holders(old),
            "all write to the new one, and nobody holds the old one",
        )
        server.get("/pid")
        until(lambda: (old.read_bytes() + log.read_bytes()).count(b"\n") == 2, "the lines are there")
        assert log.read_bytes()
