"""Twice the load that a worker can carry: what its clients get, with `--shed-after` and without.

Called by __main__ (the verb `overload`) and by tests. Calls servers (a free port). The handler holds its loop for 5 ms,
asleep, so that the capacity is 200 requests a second whatever the machine. Requests come by the clock (an open loop),
whether or not earlier ones were answered, as from many users who know nothing of each other. Each waits a second, then
gives up and closes. Goodput is what was answered 200 in that time.
"""

import asyncio
import contextlib
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from . import servers
from .progress import Progress

ROOT = Path(__file__).parent.parent
HANDLER_S = 0.005  # as benchmarks/apps/overload.py has it
CAPACITY = 1 / HANDLER_S
PATIENCE_S = 1.0
REQUEST = b"GET / HTTP/1.1\r\nHost: overload\r\n\r\n"


@dataclass
class Outcome:
    """Of one run: seconds of each request that was answered in time, by what; and those that were not."""

    seconds: float
    good: list[float] = field(default_factory=list)
    shed: list[float] = field(default_factory=list)
    lost: int = 0

    @property
    def goodput(self) -> float:
        """Share of the capacity that reached somebody."""
        return len(self.good) / (self.seconds * CAPACITY)

    @property
    def p99(self) -> float:
        return sorted(self.good)[int(len(self.good) * 0.99)] if self.good else float("inf")

    def __str__(self) -> str:
        return (
            f"goodput {self.goodput:.0%} of capacity, p99 of what was served {self.p99 * 1000:.0f} ms, "
            f"{len(self.shed)} turned away, {self.lost} without an answer in {PATIENCE_S:g} s"
        )


async def load(port: int, seconds: float, times: float) -> Outcome:
    """Requests at `times` the capacity for so long."""
    outcome = Outcome(seconds)
    spare: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
    tasks: set[asyncio.Task[None]] = set()

    async def one() -> None:
        began = time.perf_counter()
        pair = spare.pop() if spare else None
        try:
            async with asyncio.timeout(PATIENCE_S):
                if pair is None:
                    pair = await asyncio.open_connection(servers.HOST, port)
                pair[1].write(REQUEST)
                head = await pair[0].readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
                await pair[0].readexactly(length)
            (outcome.good if head.startswith(b"HTTP/1.1 200") else outcome.shed).append(time.perf_counter() - began)
            spare.append(pair)
        except (TimeoutError, OSError, asyncio.IncompleteReadError):
            outcome.lost += 1
            if pair is not None:
                pair[1].close()

    began, count = time.perf_counter(), 0
    while (age := time.perf_counter() - began) < seconds:
        while count < age * CAPACITY * times:
            task = asyncio.create_task(one())
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            count += 1
        await asyncio.sleep(0.002)
    if tasks:
        await asyncio.wait(tasks)
    for _, writer in spare:
        writer.close()
    return outcome


def measure(seconds: float, times: float, *flags: str) -> Outcome:
    """With a server of one process."""
    port = servers.free_port()
    command = [
        sys.executable,
        "-m",
        "fastserve",
        "benchmarks.apps.overload:app",
        "--port",
        str(port),
        "--no-access-log",
        "--no-supervisor",
        *flags,
    ]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            until = time.monotonic() + servers.READY_S
            while True:
                with contextlib.suppress(OSError):
                    if servers.ask(port, REQUEST, 1)[0].status == 200:
                        break
                if process.poll() is not None or time.monotonic() > until:
                    raise servers.ServerError("the server did not start")
                time.sleep(0.05)
            return asyncio.run(load(port, seconds, times))
        finally:
            process.kill()


def main(seconds: float, say: Progress) -> int:
    """Twice the capacity, both ways."""
    each_s = seconds + PATIENCE_S + 1
    say.plan(2 * each_s)
    for flags in ((), ("--shed-after", "0.1")):
        what = " ".join(flags) or "nothing set"
        with say.step(f"overload, {what}", each_s):
            outcome = measure(seconds, 2.0, *flags)
        say(f"{what:18} {outcome}")
    return 0
