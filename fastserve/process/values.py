"""values: what people write for an option, in text, to what it means. `1h30m`, `64k`, `660`, `yes`.

Room: floor 3. Called by: config.py (keywords and TOML may be text too), arguments.py, sources.py. Calls: nothing.
Every function but `count` takes text and returns a value, or raises ValueError with a few words that fit behind "--flag: ".
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

__all__ = ["CONVERTERS", "count", "duration", "flag", "mode", "size", "whole", "workers"]

SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
DURATION = re.compile(r"(?:([0-9]+(?:\.[0-9]+)?)d)?(?:([0-9]+(?:\.[0-9]+)?)h)?(?:([0-9]+(?:\.[0-9]+)?)m(?!s))?"
                      r"(?:([0-9]+(?:\.[0-9]+)?)s)?(?:([0-9]+(?:\.[0-9]+)?)ms)?")  # fmt: skip
"""Parts in this order, the largest first, each at most once: 1h30m, never 30m1h."""
PLAIN = re.compile(r"-?[0-9]+(?:\.[0-9]*)?|-?\.[0-9]+")
SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*(?:([kmgt])(?:i?b)?|b)?", re.IGNORECASE)
YES = frozenset({"1", "true", "yes", "on"})
NO = frozenset({"0", "false", "no", "off"})


def count(number: int, noun: str, many: str = "") -> str:
    """ "1 request", "3 requests"."""
    return f"{number} {noun if number == 1 else many or noun + 's'}"


def whole(text: str) -> int:
    """A whole number in ASCII digits. int() alone would take other scripts' digits and underscores."""
    if not (text.isascii() and text.removeprefix("-").isdigit()) or len(text) > 20:
        raise ValueError(f"not a whole number: {text!r}")
    return int(text)


def duration(text: str) -> float:
    """Seconds: a plain number, or parts with units: `500ms`, `30s`, `5m`, `1h30m`, `2d`."""
    if PLAIN.fullmatch(text) and len(text) <= 20:
        return float(text)
    match = DURATION.fullmatch(text)
    if not text or match is None or len(text) > 40:
        raise ValueError(f"not a duration such as 30, 30s, 5m or 1h30m: {text!r}")
    days, hours, minutes, seconds, thousandths = (float(part or 0) for part in match.groups())
    return days * 86400 + hours * 3600 + minutes * 60 + seconds + thousandths / 1000


def size(text: str) -> int:
    """Bytes: a plain number, or with a unit: `64k`, `10M`, `1GiB`. A k is 1024 in every spelling, as nginx counts."""
    match = SIZE.fullmatch(text)
    if match is None or not text.isascii() or len(text) > 24:
        raise ValueError(f"not a size such as 65536, 64k, 10M or 1GiB: {text!r}")
    number, unit = match.groups()
    bytes_ = float(number) if "." in number else int(number)
    bytes_ *= 1024 ** (" kmgt".index(unit.lower()) if unit else 0)
    if bytes_ != int(bytes_):
        raise ValueError(f"not a whole number of bytes: {text!r}")
    return int(bytes_)


def mode(text: str) -> int:
    """Permissions in octal: `660`, `0660`, `0o660`."""
    if re.fullmatch(r"(?:0o)?[0-7]{1,5}", text) is None:
        raise ValueError(f"not an octal mode: {text!r}")
    return int(text.removeprefix("0o"), 8)


def flag(text: str) -> bool:
    """A switch in the environment: 1, true, yes, on; 0, false, no, off."""
    word = text.strip().lower()
    if word not in YES | NO:
        raise ValueError(f"neither true nor false: {text!r}")
    return word in YES


def workers(text: str) -> int | str:
    """A number of workers, or `auto`."""
    if text == "auto":
        return text
    try:
        return whole(text)
    except ValueError:
        raise ValueError(f"neither a whole number nor auto: {text!r}") from None


CONVERTERS: dict[str, Callable[[str], Any]] = {
    "text": str,
    "texts": str,
    "object": str,
    "whole": whole,
    "workers": workers,
    "seconds": duration,
    "bytes": size,
    "mode": mode,
    "flag": flag,
}
"""By the kind of an option. The kind "texts" is one text here; who calls gathers several."""
