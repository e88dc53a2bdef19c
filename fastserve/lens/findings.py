"""findings: FS001 to FS017, what hurts an async server, each with numbers, the line and what to do about it.

Room: floor 3. Called by: doctor, top, page, testing. Calls: catalogue, rules, model.
The rules are in rules.py, a function for each code; here is what they are asked for, and in which order it is told.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import pairwise

from fastserve.lens.catalogue import CATALOGUE, Finding, Rule, code_of
from fastserve.lens.model import Model
from fastserve.lens.rules import RULES, Case

__all__ = ["CATALOGUE", "RULES", "Finding", "Ignored", "Rule", "code_of", "find", "parse_ignored"]


OTHERS_SUFFER = 3
TELLING = ("FS012", "FS006", "FS005")
"""Codes that say why a loop was blocked; of two on the same line the later one says it better."""


@dataclass(frozen=True)
class Ignored:
    """A code that is not to be told, everywhere or for some routes."""

    code: str
    pattern: str = "*"

    def covers(self, finding: Finding) -> bool:
        if finding.code != self.code:
            return False
        path = finding.route.partition(" ")[2]
        return self.pattern == "*" or any(fnmatchcase(text, self.pattern) for text in (path, finding.route))


def parse_ignored(texts: Iterable[str]) -> list[Ignored]:
    """ "FS010" and "FS010:/path*", several with commas between. ConfigError for a code that does not exist."""
    found = []
    for text in texts:
        for word in filter(None, (word.strip() for word in text.split(","))):
            code, _, pattern = word.partition(":")
            found.append(Ignored(code_of(code), pattern or "*"))
    return found


def find(
    model: Model, *, ignored: Sequence[Ignored] = (), dev: bool | None = None, codes: Iterable[str] | None = None
) -> list[Finding]:
    """All findings, the worst first, hints last. `dev`: the thresholds of development; None: as the server was started."""
    case = Case(model, _develops(model.recording.argv) if dev is None else dev)
    wanted = set(codes) if codes is not None else set(CATALOGUE)
    found: list[Finding] = []
    for code, rule in RULES.items():
        if code in wanted:
            found += rule(case)
    found = [one for one in found if not any(some.covers(one) for some in ignored)]
    telling: dict[tuple[str, str], str] = {}
    for code in TELLING:
        telling |= {(one.route, one.at): code for one in found if one.code == code and one.at}
    for one in found:
        if one.code in ("FS001", *TELLING):
            better = telling.get((one.route, one.at), "")
            one.within = better if better != one.code else ""
    found.sort(key=lambda one: (one.rule.hint, bool(one.within), -_weight(one), one.code))
    return found


def _weight(one: Finding) -> int:
    """What it cost; that of others counts more than one's own."""
    return one.total_ns * (OTHERS_SUFFER if one.level == "error" else 1)


def _develops(argv: Sequence[str]) -> bool:
    """Was it started as `fastserve dev`?"""
    return "--dev" in argv or any(
        word == "dev" and before.rpartition("/")[2].startswith("fastserve") for before, word in pairwise(argv)
    )
