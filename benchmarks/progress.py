"""What a measurement that takes longer than two seconds shows meanwhile: what is measured, how far it is, the time left.

Called by __main__ (makes one per command) and by everything that measures. On a terminal it is one line with a bar, drawn
again each second; elsewhere plain lines, one for each step and one for each HEARTBEAT_S within a step. The time left is the
plan's own estimate of what remains, corrected by how long what is done has taken.

Time within a step is shown from a timer signal, not from a thread: the measurements fork.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

WIDTH = 24  # of the bar, characters
REDRAW_S = 1.0
HEARTBEAT_S = 10.0
MEASURED_S = 3.0  # of finished work, before its pace is trusted to correct the estimate


class Progress:
    """Steps of a plan, each with an estimate of its seconds. Calling it says a line, without tearing the bar.

    `stream`: where to; a terminal gets the bar. `clock`: seconds, monotonic.
    """

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._is_terminal = stream.isatty()
        self._planned_s = self._finished_s = self._took_s = 0.0
        self._parts: dict[str, float] = {}
        self._step: tuple[str, float, float] | None = None  # what, its estimate, when it began
        self._drawn = 0  # characters of the line that is on the terminal
        self._writing = False  # the timer's signal may come in the middle of a write

    def __call__(self, line: str) -> None:
        """Say one line."""
        self._write(lambda: self._erase() + line + "\n" + self._drawing())

    def plan(self, seconds: float) -> None:
        """So much work is ahead, in addition to what was planned before."""
        self._planned_s += seconds

    def foresee(self, parts: dict[str, float]) -> None:
        """Parts that will plan their own work when they begin, and how long each will take, about."""
        self._parts |= parts

    def begin(self, part: str) -> None:
        """A foreseen part begins, and plans now."""
        self._parts.pop(part, None)

    @contextmanager
    def step(self, what: str, seconds: float) -> Iterator[None]:
        """One piece of the planned work: about so many seconds of the estimate."""
        self._step = (what, seconds, self._clock())
        self._tell()
        try:
            with self._ticking():
                yield
        finally:
            self._took_s += self._clock() - self._step[2]
            self._finished_s += seconds
            self._planned_s = max(self._planned_s, self._finished_s)
            self._step = None
            self._write(self._erase)

    def left_s(self) -> float:
        """Seconds that remain, about."""
        pace = self._took_s / self._finished_s if self._took_s > MEASURED_S and self._finished_s else 1.0
        _, estimate_s, began_s = self._step or ("", 0.0, self._clock())
        ahead_s = (self._all_s() - self._finished_s - estimate_s) * pace
        return max(0.0, ahead_s) + max(0.0, estimate_s * pace - (self._clock() - began_s))

    def line(self) -> str:
        """The state in words: a bar, the share that is done, what is measured, the time left."""
        what, estimate_s, began_s = self._step or ("", 0.0, self._clock())
        within_s = min(estimate_s, self._clock() - began_s)
        share = min(1.0, (self._finished_s + within_s) / self._all_s()) if self._all_s() else 0.0
        bar = ("#" * round(share * WIDTH)).ljust(WIDTH, ".")
        return f"[{bar}] {share:4.0%}  {what}, {_duration(self.left_s())} left"

    def _all_s(self) -> float:
        return self._planned_s + sum(self._parts.values())

    def _tell(self) -> None:
        """Show the state: in its place on a terminal, as a line of its own elsewhere."""
        if self._is_terminal:
            self._write(lambda: self._erase() + self._drawing())
        else:
            self._write(lambda: self.line().partition("] ")[2].strip() + "\n")

    def _write(self, make: Callable[[], str]) -> None:
        if self._writing:
            return
        self._writing = True
        try:
            self._stream.write(make())
            self._stream.flush()
        finally:
            self._writing = False

    def _drawing(self) -> str:
        text = self.line() if self._is_terminal and self._step is not None else ""
        self._drawn = len(text)
        return text

    def _erase(self) -> str:
        text = "\r" + " " * self._drawn + "\r" if self._drawn else ""
        self._drawn = 0
        return text

    @contextmanager
    def _ticking(self) -> Iterator[None]:
        """Show time passing. Only the main thread can have a timer; elsewhere the steps alone are told."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def tick(*_: Any) -> None:
            self._tell()

        every_s = REDRAW_S if self._is_terminal else HEARTBEAT_S
        before = signal.signal(signal.SIGALRM, tick)
        signal.setitimer(signal.ITIMER_REAL, every_s, every_s)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
