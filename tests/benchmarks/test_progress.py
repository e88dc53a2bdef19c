"""What a measurement shows meanwhile: benchmarks/progress.py."""

import io
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
if str(ROOT) not in sys.path:
    sys.path.append(str(ROOT))  # last: it must not hide the installed fastserve

from benchmarks import progress  # noqa: E402
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
