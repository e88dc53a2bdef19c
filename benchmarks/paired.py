"""Two servers against each other, in turns of a fraction of a second: what one costs beside the other, and how sure
that is.

Called by __main__ (the verb `paired`) and by tests. Calls servers (both are up at once, on one core, frozen between their
turns), run (a sample) and report (the interval). A round is one sample of each; who begins changes with each round, so that
a machine that gets slower or faster favours nobody. Both are started anew several times: a process is a few per cent
quicker or slower than the next one of the same program for as long as it lives, because of where its memory happened to
come to lie, and no number of rounds tells that from what is looked for. So a start is one observation: the geometric mean
of its rounds' ratios, a tenth of them left out at either end, which somebody has disturbed. What is told is the mean of
the starts with its 95 % interval.

With `modes` there is one server at a time, whose lens is switched from one mode to the other and back, as an operator
does: the same process, so the luck of its memory is not in the ratio.
"""

import math
import subprocess
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from statistics import fmean

from . import report, run, servers
from .cases import CASES
from .progress import Progress
from .run import Plan, Sample

LEFT_OUT = 0.1  # of the rounds of a start, at either end
SWITCHED_S = 0.3  # until a server has seen that its lens was switched


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
    case: str, ours: str, other: str, starts: int, rounds: int, seconds: float, plan: Plan, say: Progress,
    modes: tuple[str, str] | None = None,
) -> Pairs:  # fmt: skip
    """Start both, check and warm each, then the rounds; and again. `modes`: of ours, and it alone, in that mode of the lens
    and in this one. ServerError or LoadError say why not."""
    pairs = Pairs(case, *(modes or (ours, other)))
    for number in range(1, starts + 1):
        pairs.starts.append(_start(case, ours, other, rounds, seconds, plan, modes))
        say(f"{number:4} starts: {pairs}")
    return pairs


def _start(
    case: str, ours: str, other: str, rounds: int, seconds: float, plan: Plan, modes: tuple[str, str] | None
) -> list[tuple[Sample, Sample]]:
    running: dict[str, servers.Running] = {}
    sizes: dict[str, int] = {}
    taken = []
    try:
        for name in [ours] if modes else [ours, other]:
            running[name] = servers.start(servers.SERVERS[name], run.pinned(plan.cores[0], plan.nice))
            sizes[name] = running[name].check(CASES[case])
            run.put_under_load(plan, CASES[case], running[name], sizes[name], plan.warmup_seconds)
            if not modes:
                running[name].freeze()
        for number in range(1, rounds + 1):
            found: dict[str, Sample] = {}
            turns = modes or (ours, other)
            for turn in turns if number % 2 else reversed(turns):
                name = ours if modes else turn
                with _switch(running[name], turn) if modes else run.awake(running[name]):
                    found[turn] = run.take_sample(plan, CASES[case], running[name], number, sizes[name], seconds)
            taken.append((found[turns[0]], found[turns[1]]))
    finally:
        for server in running.values():
            server.stop()
    return taken


def _switch(running: servers.Running, mode: str) -> AbstractContextManager[None]:
    command = [*servers.tool("fastserve"), "lens", str(running.pid), mode]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise servers.ServerError(
            f"the lens of {running.server.name} was not switched to {mode}: {done.stderr.strip()}"
        )
    time.sleep(SWITCHED_S)
    return nullcontext()


def main(
    names: list[str], ours: str, other: str, starts: int, rounds: int, seconds: float, bound: float | None, plan: Plan,
    say: Progress, modes: tuple[str, str] | None = None,
) -> int:  # fmt: skip
    """All cases. 1 if there is a `bound` (a share) and the interval of one of them does not lie below it."""
    missed = 0
    turn_s = seconds + run.AROUND_S + (2 * SWITCHED_S if modes else 0)
    each_s = starts * (rounds * 2 * turn_s + 2 * run.START_S)
    say.plan(each_s * len(names))
    for name in names:
        with say.step(f"{name}, {' and '.join(modes or (ours, other))} in turns", each_s):
            pairs = measure(name, ours, other, starts, rounds, seconds, plan, say, modes)
        found = pairs.above()
        shown = bound is None or (found is not None and found[2] <= bound)
        missed += not shown
        verdict = "" if bound is None else f"; below {bound:+.1%}" if shown else f"; not shown to be below {bound:+.1%}"
        say(f"{pairs}{verdict}")
    return 1 if missed else 0
