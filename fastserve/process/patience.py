"""patience: whoever waits for the application longer than two seconds is told for what.

Room: floor 3. Called by: supervisor.py and reload.py (between their turns), worker.py and check.py (beside what they do).
Calls: nothing.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

__all__ = ["AT_ONCE", "FIRST", "Patience", "patiently", "stage_of"]

FIRST = 2.0  # seconds after which silence worries
LATER = 10.0  # then, doubled each time: 2, 10, 20, 40 ...
AT_ONCE = "a second Ctrl-C or TERM ends it at once"


def stage_of(app: object, loaded: bool) -> str:
    """What a start waits for. app: as it is configured; loaded: it is imported."""
    name = app if isinstance(app, str) else "the application"
    return f"waiting for the startup of {name}" if loaded else f"importing {name}"


class Patience:
    """When the next word is due, of something that began now."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self._due = FIRST

    def due(self, now: float) -> str:
        """ "12 s so far" if it is time to say it, else nothing."""
        took = now - self.began
        if took < self._due:
            return ""
        while self._due <= took:
            self._due = LATER if self._due < LATER else 2 * self._due
        return f"{took:.0f} s so far"

    @property
    def until(self) -> float:
        """The moment (time.monotonic) of the next word."""
        return self.began + self._due


@contextlib.contextmanager
def patiently(say: Callable[[str], object], what: str) -> Iterator[None]:
    """What is inside may take long: a thread says `what`, and for how long, until it is over."""
    over = threading.Event()
    patience = Patience()

    def watch() -> None:
        while not over.wait(max(0.0, patience.until - time.monotonic())):
            if so_far := patience.due(time.monotonic()):
                say(f"{what} ({so_far})")

    thread = threading.Thread(target=watch, name="fastserve-patience", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(1.0)
