"""What more workers cost, and what they share: CPU per request, memory and connections per worker.

Called by __main__ (the verb `scale`). Calls servers (start, stop), run (a sample). All workers run on the server's core, so
that what is told is the price of their number (the supervisor, their looks at each other, the kernel's switching), not the
speed of the machine's other cores; a last row gives two workers both cores, wrk beside them. Memory is each worker's
proportional share (PSS): pages that are shared, as with `--preload`, count once for all.
"""

from __future__ import annotations

import json
import os
import statistics
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

from . import report, run, servers
from .cases import CASES
from .progress import Progress
from .servers import _FASTAPI_APP, _LISTEN, _NATIVE, HOST, Server

WORKERS = (1, 2, 4, 8, 16)
CONNECTIONS = 64
WEIGHED: tuple[tuple[int, tuple[str, ...]], ...] = ((2, ()), (2, ("--preload",)), (8, ()), (8, ("--preload",)))
WEIGH_S = 5.0  # about: one of these
KB = 1024


def shares(pid: int) -> tuple[int, int]:
    """(PSS, private) memory of a process, in bytes; Linux 4.14."""
    figures = {"Pss": 0, "Private_Clean": 0, "Private_Dirty": 0}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        name, _, rest = line.partition(":")
        if name in figures:
            figures[name] = int(rest.split()[0]) * KB
    return figures["Pss"], figures["Private_Clean"] + figures["Private_Dirty"]


def start(app: str, workers: int, *flags: str, cores: set[int]) -> tuple[servers.Running, int]:
    """With its admin port."""
    admin = servers.free_port()
    words = (*_LISTEN, "--no-access-log", "--workers", str(workers), "--admin", f"{HOST}:{admin}", *flags)
    server = Server(f"fastserve, {workers} workers", "fastserve", words, app, False)
    running = servers.start(server, prepare=lambda: os.sched_setaffinity(0, cores))
    return running, admin


def workers_of(admin: int) -> list[dict[str, Any]]:
    with urllib.request.urlopen(f"http://{HOST}:{admin}/workers", timeout=servers.ANSWER_S) as answer:
        told: dict[str, Any] = json.load(answer)
    return [worker for worker in told["workers"] if worker["state"] == "ready"]


def until_ready(admin: int, count: int, running: servers.Running) -> list[dict[str, Any]]:
    give_up_at = time.monotonic() + servers.READY_S
    while True:
        running.must_live()
        try:
            found = workers_of(admin)
            if len(found) >= count:
                return found
        except OSError:
            pass
        if time.monotonic() > give_up_at:
            raise servers.ServerError(f"{running.server.name}: not ready in {servers.READY_S:.0f} s")
        time.sleep(0.05)


def loaded(workers: int, cores: set[int], plan: run.Plan) -> dict[str, Any]:
    """One row: what a request costs with so many workers, and where its connections lie meanwhile."""
    running, admin = start(_NATIVE, workers, cores=cores)
    case = CASES["plaintext"]
    samples: list[run.Sample] = []
    spread: list[int] = []
    try:
        until_ready(admin, workers, running)
        size = running.check(case)
        for number in range(1, plan.rounds + 1):
            look = Look(admin, plan.seconds / 2)
            samples.append(run.take_sample(plan, case, running, number, size, plan.seconds))
            spread = look.result() or spread
    finally:
        running.stop()
    return {
        "workers": workers,
        "cores": len(cores),
        "cpu_us_per_request": [sample.cpu_us_per_request for sample in samples],
        "requests_per_s": [sample.requests_per_s for sample in samples],
        "connections": spread,
    }


def row(found: dict[str, Any]) -> dict[str, Any]:
    """What `loaded` found, as it is shown."""
    costs, spread = found["cpu_us_per_request"], found["connections"]
    return {
        "workers": found["workers"],
        "cores": found["cores"],
        "CPU per request, µs": f"{statistics.median(costs):.1f} ({min(costs):.1f}-{max(costs):.1f})",
        "requests/s": f"{statistics.median(found['requests_per_s']):,.0f}",
        "connections per worker": f"{min(spread)}-{max(spread)}" if spread else "",
    }


class Look:
    """Asks the admin port in the middle of a load how many connections each worker has."""

    def __init__(self, admin: int, after_s: float) -> None:
        self._found: list[int] = []
        self._thread = threading.Thread(target=self._look, args=(admin, after_s), daemon=True)
        self._thread.start()

    def _look(self, admin: int, after_s: float) -> None:
        time.sleep(after_s)
        self._found = [worker["connections"] for worker in workers_of(admin)]

    def result(self) -> list[int]:
        self._thread.join(servers.ANSWER_S)
        return self._found


def memory(workers: int, *flags: str) -> list[float]:
    """A FastAPI application, after a few requests to each worker: MB per worker, shared out (PSS) and private."""
    running, admin = start(_FASTAPI_APP, workers, *flags, cores=os.sched_getaffinity(0))
    try:
        found = until_ready(admin, workers, running)
        for _ in range(20 * workers):
            servers.ask(running.port, CASES["fastapi"].request(running.host), 1)
        weights = [shares(worker["pid"]) for worker in found]
        return [round(statistics.mean(column) / KB / KB, 1) for column in zip(*weights, strict=True)]
    finally:
        running.stop()


def estimate_s(seconds: int, rounds: int) -> float:
    """How long all of it takes, about."""
    return (len(WORKERS) + 1) * _load_s(seconds, rounds) + len(WEIGHED) * WEIGH_S


def _load_s(seconds: int, rounds: int) -> float:
    return run.START_S + rounds * (seconds + run.AROUND_S)


def main(folder: Path | None, seconds: int, rounds: int, say: Progress) -> int:
    """Measure, print, keep with a result if there is one."""
    server_core, load_core = cores = run.choose_cores(None, None)
    plan = run.Plan(
        cases=("plaintext",), servers=(), rounds=rounds, seconds=seconds, connections=CONNECTIONS, cores=cores
    )
    loads = [*((count, {server_core}) for count in WORKERS), (2, {server_core, load_core})]
    load_s = _load_s(seconds, rounds)
    say.plan(estimate_s(seconds, rounds))
    found = []
    for count, mine in loads:
        with say.step(f"{count} workers on {len(mine)} cores", load_s):
            found.append(loaded(count, mine, plan))
        say("  ".join(f"{name} {value}" for name, value in row(found[-1]).items()))
    weights = []
    for count, flags in WEIGHED:
        with say.step(f"memory of {count} workers {' '.join(flags)}".strip(), WEIGH_S):
            pss, private = memory(count, *flags)
        weights.append({"workers": count, "": " ".join(flags), "PSS per worker, MB": pss, "private, MB": private})
        say("  ".join(f"{name} {value}".strip() for name, value in weights[-1].items()))
    if folder is not None:
        notes = [
            f"Plaintext, {CONNECTIONS} connections, {rounds} rounds of {seconds} s: median (lowest and highest). "
            "All workers on one core, wrk on the other; in the last row two workers have both, and share one with wrk."
        ]
        report.keep_extra(folder, "scale", "More workers", notes, list(map(row, found)), found)
        notes = ["A FastAPI application of one route, after 20 requests per worker."]
        report.keep_extra(folder, "scale-memory", "Memory per worker", notes, weights)
    return 0
