"""What a measurement shows meanwhile: benchmarks/progress.py, and that each measurement tells it."""

import io
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
if str(ROOT) not in sys.path:
    sys.path.append(str(ROOT))  # last: it must not hide the installed fastserve

from benchmarks import callgrind, memory, overload, progress, run, scaling  # noqa: E402
from benchmarks.progress import Progress  # noqa: E402


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True

    def shown(self) -> list[str]:
        """The lines as a terminal shows them: what follows a carriage return is written over what was there."""
        lines = []
        for text in self.getvalue().split("\n"):
            screen = ""
            for part in text.split("\r"):
                screen = part + screen[len(part) :]
            lines.append(screen.rstrip())
        return lines


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_terminal_has_one_line_that_says_what_and_how_long() -> None:
    stream, clock = Terminal(), Clock()
    told = Progress(stream, clock)
    told.plan(100)
    with told.step("plaintext, hyper, round 1", 25):
        clock.now += 10
        told("a line of its own")
        assert stream.shown() == [
            "a line of its own",
            "[##......................]  10%  plaintext, hyper, round 1, 2 min left",
        ]
    assert stream.shown() == ["a line of its own", ""]
    assert (told.left_s(), clock.now) == (75 * 10 / 25, 10)  # done in 10 s instead of 25: what is ahead is shorter too


def test_elsewhere_it_is_plain_lines() -> None:
    stream, clock = io.StringIO(), Clock()
    told = Progress(stream, clock)
    told.plan(600)
    with told.step("soak", 300):
        clock.now += 300
    with told.step("scale", 300):
        pass
    assert stream.getvalue() == "0%  soak, 10 min left\n50%  scale, 5 min left\n"


def test_work_that_was_not_planned_is_planned_when_it_is_done() -> None:
    told = Progress(io.StringIO(), Clock())
    with told.step("one", 5):
        pass
    told.plan(5)
    assert told.left_s() == 5


@pytest.mark.parametrize("stream", [Terminal(), io.StringIO()], ids=["terminal", "plain"])
def test_time_passes_within_a_step(monkeypatch: pytest.MonkeyPatch, stream: io.StringIO) -> None:
    monkeypatch.setattr(progress, "REDRAW_S", 0.02)
    monkeypatch.setattr(progress, "HEARTBEAT_S", 0.02)
    told = Progress(stream)
    told.plan(60)
    with told.step("waiting", 60):
        until = time.monotonic() + 10
        while stream.getvalue().count("waiting") < 3 and time.monotonic() < until:
            time.sleep(0.01)
    many = stream.getvalue().count("waiting")
    assert many >= 3
    time.sleep(0.06)
    assert stream.getvalue().count("waiting") == many  # nothing ticks between steps


# ------------------------------------------------------------------------------------ whatever takes more than two seconds


def idle(told: Progress, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(memory, "weigh", lambda name, connections: 1000.0)
    return memory.main(["epoll", "fastserve"], 10, None, told)


def counting(told: Progress, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(callgrind, "count_row", lambda name, requests: callgrind.Count(1.0, {}))
    return callgrind.main(["native-plaintext", "asgi-plaintext"], 100, False, False, None, told)


def overloading(told: Progress, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(overload, "measure", lambda seconds, times, *flags: overload.Outcome(seconds))
    return overload.main(1.0, told)


def scale(told: Progress, monkeypatch: pytest.MonkeyPatch) -> int:
    found = {"workers": 1, "cores": 1, "cpu_us_per_request": [1.0], "requests_per_s": [1.0], "connections": [1]}
    monkeypatch.setattr(run, "choose_cores", lambda server, load: (0, 1))
    monkeypatch.setattr(scaling, "loaded", lambda workers, cores, plan: found | {"workers": workers})
    monkeypatch.setattr(scaling, "memory", lambda workers, *flags: [2.0, 1.0])
    return scaling.main(None, 1, 1, told)


MEASUREMENTS = [
    (idle, ["idle connections of epoll", "idle connections of fastserve"]),
    (counting, ["instructions of native-plaintext", "instructions of asgi-plaintext"]),
    (overloading, ["overload, nothing set", "overload, --shed-after 0.1"]),
    (scale, ["1 workers on 1 cores", "16 workers on 1 cores", "2 workers on 2 cores", "memory of 8 workers --preload"]),
]


@pytest.mark.parametrize(("measure", "steps"), MEASUREMENTS, ids=lambda value: getattr(value, "__name__", ""))
def test_each_measurement_tells_its_steps_and_plans_them_all(
    monkeypatch: pytest.MonkeyPatch, measure: Callable[[Progress, pytest.MonkeyPatch], int], steps: list[str]
) -> None:
    stream = io.StringIO()
    told = Progress(stream, Clock())
    assert measure(told, monkeypatch) == 0
    lines = [re.fullmatch(r"(\d+)%  (.+), [\d.]+ (?:s|min|h) left", line) for line in stream.getvalue().splitlines()]
    found = [(int(line[1]), line[2]) for line in lines if line]
    assert [what for _, what in found if what in steps] == steps
    shares = [share for share, _ in found]
    assert (
        shares[0] == 0 and shares == sorted(shares) and shares[-1] < 100
    )  # the last step was planned, and not done twice
    assert told.left_s() == pytest.approx(0)
