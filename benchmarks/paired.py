"""Two servers against each other, in turns of a fraction of a second: what one costs beside the other, and how sure
that is.

Called by __main__ (the verb `paired`) and by tests. Calls servers (both are up all the time, on one core, frozen
between their turns), run (a sample) and report (the interval). A round is one sample of each; who begins changes with
each round, so that a machine that gets slower or faster favours nobody. The ratio of a round is one observation. What
is told is their geometric mean with its 95 % interval, which a machine with other users makes wider, not wrong.
"""

from dataclasses import asdict, dataclass, field

from . import report, run, servers
from .cases import CASES
from .progress import Progress
from .run import Plan, Sample

CLEAN_MIN = 10  # undisturbed rounds that are enough to leave the others out


@dataclass
class Pairs:
    """The rounds of one case."""

    case: str
    ours: str
    other: str
    rounds: list[tuple[Sample, Sample]] = field(default_factory=list)

    def ratios(self) -> tuple[list[float], bool]:
        """Our CPU per request to the other's, by round; and whether rounds that somebody disturbed are among them."""
        clean = [pair for pair in self.rounds if not any(report.is_disturbed(asdict(sample)) for sample in pair)]
        enough = len(clean) >= CLEAN_MIN
        chosen = clean if enough else self.rounds
        return [ours.cpu_us_per_request / other.cpu_us_per_request for ours, other in chosen], not enough

    def above(self) -> tuple[float, float, float] | None:
        """What ours costs more, as a share: the mean and the ends of its 95 % interval; None for fewer than two rounds."""
        ratios, _ = self.ratios()
        within = report.ratio_interval(ratios)
        if within is None:
            return None
        return (within[0] * within[1]) ** 0.5 - 1, within[0] - 1, within[1] - 1

    def __str__(self) -> str:
        ratios, disturbed = self.ratios()
        found = self.above()
        us = sum(other.cpu_us_per_request for _, other in self.rounds) / len(self.rounds)
        told = "one round says nothing"
        if found is not None:
            told = f"{found[0]:+.1%}, 95 % interval {found[1]:+.1%} to {found[2]:+.1%}"
        mark = ", disturbed by others" if disturbed else ""
        return f"{self.case}: {self.ours} to {self.other} ({us:.2f} us): {told}; {len(ratios)} rounds{mark}"


def measure(case: str, ours: str, other: str, rounds: int, seconds: float, plan: Plan, say: Progress) -> Pairs:
    """Start both, check and warm each, then the rounds. ServerError or LoadError say why not."""
    pairs = Pairs(case, ours, other)
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
            pairs.rounds.append((found[ours], found[other]))
            if number % 10 == 0:
                say(f"{number:4} rounds: {pairs}")
    finally:
        for server in running.values():
            server.stop()
    return pairs


def main(
    names: list[str], ours: str, other: str, rounds: int, seconds: float, bound: float | None, plan: Plan,
    say: Progress,
) -> int:  # fmt: skip
    """All cases. 1 if there is a `bound` (a share) and the interval of one of them does not lie below it."""
    missed = 0
    each_s = rounds * 2 * (seconds + run.AROUND_S) + 2 * run.START_S
    say.plan(each_s * len(names))
    for name in names:
        with say.step(f"{name}, {ours} and {other} in turns", each_s):
            pairs = measure(name, ours, other, rounds, seconds, plan, say)
        found = pairs.above()
        shown = bound is None or (found is not None and found[2] <= bound)
        missed += not shown
        verdict = "" if bound is None else f"; below {bound:+.1%}" if shown else f"; not shown to be below {bound:+.1%}"
        say(f"{pairs}{verdict}")
    return 1 if missed else 0
