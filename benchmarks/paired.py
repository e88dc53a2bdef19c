"""Two servers against each other, in turns of a fraction of a second: what one costs beside the other, and how sure
that is.

Called by __main__ (the verb `paired`) and by tests. Calls servers (both are up at once, on one core, frozen between their
turns), run (a sample) and report (the interval). A round is one sample of each; who begins changes with each round, so that
a machine that gets slower or faster favours nobody. Both are started anew several times: a process is a few per cent
quicker or slower than the next one of the same program for as long as it lives, because of where its memory happened to
come to lie, and no number of rounds tells that from what is looked for. So a start is one observation: the geometric mean
of its rounds' ratios, a tenth of them left out at either end, which somebody has disturbed. What is told is the mean of
the starts with its 95 % interval.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean

from . import report, run, servers
from .cases import CASES
from .progress import Progress
from .run import Plan, Sample

LEFT_OUT = 0.1  # of the rounds of a start, at either end


@dataclass
class Pairs:
    """The rounds of one case, by start."""

    case: str
    ours: str
    other: str
    starts: list[list[tuple[Sample, Sample]]] = field(default_factory=list)

    def ratios(self) -> list[float]:
        """Our CPU per request to the other's, by start."""
        return [trimmed([a.cpu_us_per_request / b.cpu_us_per_request for a, b in each]) for each in self.starts if each]

    def above(self) -> tuple[float, float, float] | None:
        """What ours costs more, as a share: the mean and the ends of its 95 % interval; None for fewer than two starts."""
        within = report.ratio_interval(self.ratios())
        if within is None:
            return None
        return math.sqrt(within[0] * within[1]) - 1, within[0] - 1, within[1] - 1

    def __str__(self) -> str:
        us = fmean(other.cpu_us_per_request for each in self.starts for _, other in each)
        found = self.above()
        told = "one start says nothing"
        if found is not None:
            told = f"{found[0]:+.1%}, 95 % interval {found[1]:+.1%} to {found[2]:+.1%}"
        ratios = self.ratios()
        starts = (
            f"{len(ratios)} starts of {len(self.starts[0])} rounds, {min(ratios) - 1:+.1%} to {max(ratios) - 1:+.1%}"
        )
        return f"{self.case}: {self.ours} to {self.other} ({us:.2f} us): {told}; {starts}"


def trimmed(ratios: Sequence[float]) -> float:
    """The geometric mean without a tenth at either end."""
    logs = sorted(map(math.log, ratios))
    out = int(len(logs) * LEFT_OUT)
    return math.exp(fmean(logs[out : len(logs) - out]))


def measure(
    case: str, ours: str, other: str, starts: int, rounds: int, seconds: float, plan: Plan, say: Progress
) -> Pairs:
    """Start both, check and warm each, then the rounds; and again. ServerError or LoadError say why not."""
    pairs = Pairs(case, ours, other)
    for number in range(1, starts + 1):
        pairs.starts.append(_rounds(case, ours, other, rounds, seconds, plan))
        say(f"{number:4} starts: {pairs}")
    return pairs


def _rounds(case: str, ours: str, other: str, rounds: int, seconds: float, plan: Plan) -> list[tuple[Sample, Sample]]:
    taken: list[tuple[Sample, Sample]] = []
    running: dict[str, servers.Running] = {}
    sizes: dict[str, int] = {}
    try:
        for name in (ours, other):
            running[name] = servers.start(servers.SERVERS[name], run.pinned(plan.cores[0], plan.nice))
            sizes[name] = running[name].check(CASES[case])
            run.put_under_load(plan, CASES[case], running[name], sizes[name], plan.warmup_seconds)
            running[name].freeze()
        for number in range(1, rounds + 1):
            found: dict[str, Sample] = {}
            for name in (ours, other) if number % 2 else (other, ours):
                with run.awake(running[name]):
                    found[name] = run.take_sample(plan, CASES[case], running[name], number, sizes[name], seconds)
            taken.append((found[ours], found[other]))
    finally:
        for server in running.values():
            server.stop()
    return taken


def main(
    names: list[str], ours: str, other: str, starts: int, rounds: int, seconds: float, bound: float | None, plan: Plan,
    say: Progress,
) -> int:  # fmt: skip
    """All cases. 1 if there is a `bound` (a share) and the interval of one of them does not lie below it."""
    missed = 0
    each_s = starts * (rounds * 2 * (seconds + run.AROUND_S) + 2 * run.START_S)
    say.plan(each_s * len(names))
    for name in names:
        with say.step(f"{name}, {ours} and {other} in turns", each_s):
            pairs = measure(name, ours, other, starts, rounds, seconds, plan, say)
        found = pairs.above()
        shown = bound is None or (found is not None and found[2] <= bound)
        missed += not shown
        verdict = "" if bound is None else f"; below {bound:+.1%}" if shown else f"; not shown to be below {bound:+.1%}"
        say(f"{pairs}{verdict}")
    return 1 if missed else 0
