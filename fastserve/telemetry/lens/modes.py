"""The modes of the lens: what is recorded, of which requests.

Room: side wing, telemetry. Called by: config.py (--lens), process/lensfile.py (a running server is switched), recorder.pyx.
"""

from __future__ import annotations

import math
from enum import IntEnum
from typing import NamedTuple

__all__ = ["LensMode", "Mode", "parse_mode"]

SAMPLE_MAX = 1_000_000
SLOW_MAX = 86_400.0  # seconds
SYNTAX = "off, ready, stalls, sample:N (1 in N), slow:DURATION (200ms, 1.5s) or full"


class Mode(IntEnum):
    """As it stands in the shared memory. What is larger records more."""

    OFF = 0  # nothing is mapped
    READY = 1  # can be switched on; the table of live requests is kept
    STALLS = 2  # what concerns the whole worker: stalls of the loop, pauses of the collector
    SAMPLE = 3  # and all of 1 request in N
    SLOW = 4  # or of those that were slow, failed or stalled
    FULL = 5  # or of every one


class LensMode(NamedTuple):
    """A mode and its number. `sample`: 1 in so many requests. `slow_ns`: longer is slow, nanoseconds."""

    mode: Mode
    sample: int = 1
    slow_ns: int = 0

    def __str__(self) -> str:
        if self.mode is Mode.SAMPLE:
            return f"sample:{self.sample}"
        if self.mode is Mode.SLOW:
            return f"slow:{_duration(self.slow_ns)}"
        return self.mode.name.lower()


def parse_mode(text: str) -> LensMode:
    """What `--lens` says: off, ready, stalls, sample:0.01 or sample:100 (both 1 in 100), slow:200ms, full.

    Raises ValueError, in one line, for anything else.
    """
    word, colon, number = text.strip().lower().partition(":")
    if word in ("off", "ready", "stalls", "full") and not colon:
        return LensMode(Mode[word.upper()])
    if word == "sample" and colon:
        return LensMode(Mode.SAMPLE, sample=_one_in(number))
    if word == "slow" and colon:
        return LensMode(Mode.SLOW, slow_ns=_nanoseconds(number))
    raise ValueError(f"not a mode of the lens: {text!r}; one is {SYNTAX}")


parse = parse_mode


def _one_in(text: str) -> int:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if 0 < number < 1:
        number = 1 / number
    if not 1 <= number <= SAMPLE_MAX:
        raise ValueError(
            f"not a share of the requests: {text!r}; sample:100 and sample:0.01 are 1 in 100, up to 1 in {SAMPLE_MAX}"
        )
    return round(number)


def _nanoseconds(text: str) -> int:
    scale = 1e9
    digits = text.strip()
    for unit, factor in (("ms", 1e6), ("us", 1e3), ("s", 1e9)):
        if digits.endswith(unit):
            digits, scale = digits[: -len(unit)], factor
            break
    try:
        number = float(digits) * scale
    except ValueError:
        number = math.nan
    if not 0 <= number <= SLOW_MAX * 1e9:
        raise ValueError(f"not a duration: {text!r}; 200ms, 1.5s and 2 (seconds) are, up to a day")
    return round(number)


def _duration(nanoseconds: int) -> str:
    if nanoseconds % 1_000_000_000 == 0:
        return f"{nanoseconds // 1_000_000_000}s"
    return f"{nanoseconds / 1e6:g}ms"
