"""The lens beside samplers that know nothing of it: other processes, which look at the worker from outside.

One is py-spy. It reads the interpreter's frames out of the worker's memory a thousand times a second, also while a
handler sleeps or computes in C, and writes when it saw which line. What the lens calls busy must be the time in which
py-spy saw the handler, what it calls scheduled the time in which py-spy saw whoever held the loop, and the line that
it accuses the one that py-spy saw.

The other is the kernel. It counts, for each thread, the time that it had a processor and the time that it waited for
one: a handler that only computes is busy for as long as both together.

Busy and scheduled agree within 1 ms or 2 %: of py-spy, which sees nothing between two looks, over all requests
together; of the kernel for each. A machine that is busy with others may keep the sampler from looking, so a round
that fails is measured again.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from process.running import RUNTIME, Running
from telemetry import outside_app

from fastserve.lens.catalogue import Finding
from fastserve.lens.findings import find
from fastserve.lens.model import Model, build
from fastserve.lens.recording import Recording

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/proc, and reading the memory of another process")

MS = 1_000_000
ROUNDS = 6
RATE = 1000  # looks a second
SECONDS = 4
APART = 0.03  # seconds between two requests, so that a look falls between them
BLINKS_US = 15_000  # of the sampler: looks that it missed, or in which it found the frames in the middle of a change
FILE = outside_app.__file__


def within(found: float, true: float) -> bool:
    """1 ms or 2 %."""
    return abs(found - true) <= max(MS, true / 50)


def again(round_: Callable[[], None]) -> None:
    """Until what a round says holds; fail as it fails the last time."""
    for left in reversed(range(ROUNDS)):
        try:
            return round_()
        except AssertionError:
            if not left:
                raise


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    monkeypatch.setenv("XDG_RUNTIME_DIR", RUNTIME)
    arguments = ("outside_app:app", "--port", "0", "--lens", "full", "--name", f"outside-{time.monotonic_ns()}")
    with Running(*arguments, cwd=Path(FILE).parent) as running:
        running.ready()
        for path in ("/burns", "/sleeps", "/digests"):
            running.get(path)  # what is made at the first time is no one's
        yield running


def model_of(server: Running) -> Model:
    deadline = time.monotonic() + 2
    while True:
        model = build(Recording.take(server.pid))
        if all(one.finished for one in model.requests) or time.monotonic() > deadline:
            return model
        time.sleep(0.02)


def worker(server: Running) -> int:
    return server.workers[0]


# ------------------------------------------------------------------------------------------------------------- py-spy


@dataclass
class Seen:
    """What py-spy saw of one thread: stretches of time with one innermost line of the application, in its order."""

    spans: list[tuple[int, int, str, int]]  # from, to (microseconds), function, line

    def of(self, function: str) -> list[tuple[int, int]]:
        """When it was in that function; what lies between two looks that saw it is taken for it as well."""
        found: list[tuple[int, int]] = []
        for start, end, name, _ in self.spans:
            if name == function:
                if found and start - found[-1][1] <= BLINKS_US:
                    found[-1] = (found[-1][0], max(end, found[-1][1]))
                else:
                    found.append((start, end))
        return found

    def time(self, function: str) -> int:
        """Nanoseconds."""
        return 1000 * sum(end - start for start, end in self.of(function))

    def lines(self, function: str) -> Counter[int]:
        """How long on which line, microseconds."""
        found: Counter[int] = Counter()
        for start, end, name, line in self.spans:
            if name == function:
                found[line] += end - start
        return found


def watched(server: Running, tmp_path: Path, work: Callable[[], None]) -> Seen:
    """Do this while py-spy looks at the worker."""
    spy = shutil.which("py-spy", path=sysconfig.get_path("scripts")) or shutil.which("py-spy")
    assert spy is not None, "py-spy is one of the requirements of the tests"
    out = tmp_path / "seen.json"
    command = [spy, "record", "--pid", str(worker(server)), "--rate", str(RATE), "--duration", str(SECONDS)]
    looking = subprocess.Popen(
        [*command, "--idle", "--nonblocking", "--format", "chrometrace", "--output", str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, looking.pid, -19)  # or it looks late where others want its processor
    try:
        time.sleep(0.7)  # it looks for the interpreter first
        work()
        said, _ = looking.communicate(timeout=60)
    finally:
        if looking.poll() is None:
            looking.kill()
    if looking.returncode and "ermission" in said:
        pytest.skip(f"this user may not read another process's memory (kernel.yama.ptrace_scope): {said.strip()}")
    assert looking.returncode == 0, said
    return seen(json.loads(out.read_text()))


def seen(events: list[dict[str, object]]) -> Seen:
    """The stretches of the thread that ran the application: py-spy writes when a frame came and when it went."""
    open_: dict[object, list[tuple[int, str, int]]] = defaultdict(list)  # thread -> the application's frames
    spans: list[tuple[int, int, str, int]] = []
    for event in events:
        about = event.get("args")
        if event["ph"] not in ("B", "E") or not isinstance(about, dict) or about.get("filename") != FILE:
            continue
        frames, at = open_[event["tid"]], int(str(event["ts"]))
        if event["ph"] == "B":
            frames.append((at, str(event["name"]), int(str(about["line"]))))
        elif frames:
            since, name, line = frames.pop()
            spans.append((since, at, name, line))
    return Seen(sorted(spans))


@pytest.mark.parametrize("name", ["burns", "sleeps", "digests"])
def test_busy_is_when_py_spy_saw_the_handler_and_the_line_the_same(name: str, server: Running, tmp_path: Path) -> None:
    def round_() -> None:
        before = len(model_of(server).requests)

        def work() -> None:
            for _ in range(10):
                server.get(f"/{name}")
                time.sleep(APART)

        by_others = watched(server, tmp_path, work)
        model = model_of(server)
        requests = model.requests[before:]
        assert len(requests) == 10 and len(by_others.of(name)) == 10
        assert within(sum(one.busy for one in requests), by_others.time(name)), (
            [one.busy for one in requests],
            by_others.of(name),
        )
        by_request = zip(requests, by_others.of(name), strict=True)
        apart = [abs(one.busy - 1000 * (end - start)) - one.busy / 50 for one, (start, end) in by_request]
        assert sorted(apart)[-2] <= 2 * MS, apart  # a look at either end; one may have lost more to a late sampler
        told = [one for one in find(model, dev=False) if one.code == "FS001" and one.route == f"GET /{name}"]
        assert told
        found = max(told, key=lambda one: one.total_ns)  # a hold that the watchdog did not get to see is told apart
        lines = by_others.lines(name)
        assert found.frame is not None and found.frame.file == FILE
        if name == "burns":  # two lines take turns
            assert found.frame.line in lines and set(lines) <= set(lines_of(outside_app.burns))
        else:
            assert found.frame.line == lines.most_common(1)[0][0]

    again(round_)


def lines_of(function: object) -> range:
    lines, first = inspect.getsourcelines(function)  # type: ignore[arg-type]
    return range(first, first + len(lines))


def test_scheduled_is_when_py_spy_saw_who_held_the_loop(server: Running, tmp_path: Path) -> None:
    def round_() -> None:
        before = len(model_of(server).requests)

        def work() -> None:
            for _ in range(8):
                waiting = threading.Thread(target=server.get, args=("/waits",))
                waiting.start()
                time.sleep(0.05)
                server.get("/wakes")
                waiting.join()
                time.sleep(APART)

        by_others = watched(server, tmp_path, work)
        model = model_of(server)
        requests = [one for one in model.requests[before:] if one.path == "/waits"]
        assert len(requests) == 8 and len(by_others.of("holds")) == 8
        scheduled = [one.scheduled for one in requests]
        assert within(sum(scheduled), by_others.time("holds")), (scheduled, by_others.of("holds"))
        found = by_code(model)["FS002"]
        (line,) = by_others.lines("holds")
        assert found.route == "GET /waits" and f"outside_app.py:{line} (holds)" in found.text

    again(round_)


def by_code(model: Model) -> dict[str, Finding]:
    return {one.code: one for one in find(model, dev=False)}


# --------------------------------------------------------------------------------------------------------- the kernel


def accounted(pid: int) -> tuple[int, int]:
    """Nanoseconds that its first thread had a processor, and that it waited for one, since it began."""
    time.sleep(0.02)  # now it sleeps: of what runs the kernel has counted the last few milliseconds only when it stops
    on, waited, _ = map(int, Path(f"/proc/{pid}/task/{pid}/schedstat").read_text().split())
    return on, waited


def test_busy_is_what_the_kernel_has_accounted(server: Running) -> None:
    def round_() -> None:
        before = len(model_of(server).requests)
        for _ in range(5):
            server.get("/burns")
        pid = worker(server)
        start, _ = accounted(pid)
        time.sleep(0.5)
        idle = accounted(pid)[0] - start  # what it costs to do nothing: the beat of the watchdog, and the like
        accounts = []
        for _ in range(10):
            start, waited = accounted(pid)
            server.get("/burns")
            stop, waited_too = accounted(pid)
            accounts.append((stop - start, waited_too - waited))
        requests = model_of(server).requests[before + 5 :]
        assert len(requests) == 10
        for one, (on, waited) in zip(requests, accounts, strict=True):
            on -= idle * one.busy // 500_000_000
            # It may have waited for a processor before its handler began, too: then all that can be said is "between".
            assert within(one.busy, min(max(one.busy, on), on + waited)), (one.busy, on, waited)

    again(round_)
