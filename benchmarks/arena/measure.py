"""The arena's profiles measured: each contestant is validated first, then loaded in rounds, interleaved.

Called by the front door (the verb `arena`). Calls contestants (who), validate (may it?), load (one sample) and ../cpu (what
the server used). One worker each on one core, the load on another, as everything else here; the arena gives 64 cores.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .. import cpu, memory, report, run, servers
from .. import load as loads
from ..progress import Progress
from ..report import Spread
from . import data, load, validate
from .contestants import NAMES, can, contestants
from .profiles import PROFILES, Profile

VALIDATE_S = 2.0  # about: a start and the checks of a profile
WARM_MS = 200


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure. `connections`: instead of the arena's own numbers."""

    profiles: tuple[str, ...] = tuple(PROFILES)
    names: tuple[str, ...] = NAMES
    rounds: int = 3
    seconds: float = 2.0
    connections: int | None = None
    cores: tuple[int, int] = (0, 1)
    nice: int = 0


@dataclass(slots=True)
class Result:
    """What was seen: samples by (profile, server), and why there are none."""

    samples: dict[tuple[str, str], list[dict[str, float]]] = field(default_factory=dict)
    faults: dict[tuple[str, str], str] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)


def estimate_s(plan: Plan) -> float:
    """How long it takes, about."""
    return sum(can(who, profile) for profile in plan.profiles for who in plan.names) * _each_s(plan)


def _each_s(plan: Plan) -> float:
    return VALIDATE_S + plan.rounds * _turn_s(plan)


def _turn_s(plan: Plan) -> float:
    return plan.seconds + run.AROUND_S


def measure(plan: Plan, say: Progress) -> Result:
    """Every profile, every contestant, every round."""
    result = Result()
    say.plan(estimate_s(plan))
    with tempfile.TemporaryDirectory(prefix="benchmarks-") as name:
        folder = data.write(Path(name) / "data")
        rows = contestants(folder)
        present, result.missing = run.look({who: rows[who] for who in plan.names}, say)
        say.plan(-sum(can(who, profile) for profile in plan.profiles for who in result.missing) * _each_s(plan))
        for profile in plan.profiles:
            asked = {who: rows[who] for who in present if can(who, profile)}
            _measure_profile(plan, PROFILES[profile], asked, folder, result, say)
    return result


def _measure_profile(
    plan: Plan, profile: Profile, rows: dict[str, servers.Server], folder: Path, result: Result, say: Progress
) -> None:
    running: dict[str, servers.Running] = {}
    try:
        for who, server in rows.items():
            try:
                with say.step(f"{profile.name}, {who}: start and validation", VALIDATE_S):
                    running[who] = servers.start(server, run.pinned(plan.cores[0], plan.nice))
                    validate.validate(validate.Contestant(running[who].port, folder), profile.name)
                    with contextlib.suppress(loads.LoadError):  # what goes wrong again is told of the sample
                        _load(plan, profile, running[who], WARM_MS)
                    running[who].must_live()
                    running[who].freeze()
            except (servers.ServerError, validate.Invalid, loads.LoadError) as error:
                result.faults[profile.name, who] = str(error)
                say(f"{profile.name}, {who}: fails: {error}")
                say.plan(-plan.rounds * _turn_s(plan))
                if who in running:
                    running.pop(who).stop()
        for number in range(1, plan.rounds + 1):
            for who in run.turns(running, number):
                try:
                    with (
                        say.step(f"{profile.name}, {who}: round {number} of {plan.rounds}", _turn_s(plan)),
                        run.awake(running[who]),
                    ):
                        sample = take(plan, profile, running[who])
                except (servers.ServerError, loads.LoadError) as error:
                    result.faults[profile.name, who] = str(error)
                    say(f"{profile.name}, {who}: round {number}: failed: {error}")
                    continue
                result.samples.setdefault((profile.name, who), []).append(sample)
    finally:
        for started in running.values():
            started.stop()


def _load(plan: Plan, profile: Profile, running: servers.Running, milliseconds: int) -> load.ArenaLoad:
    connections = memory.raise_limit(plan.connections or profile.connections)
    try:
        return load.run(running.port, profile, connections, milliseconds, run.pinned(plan.cores[1], plan.nice))
    except loads.LoadError:
        running.must_live()  # a server that ended is told so, with its last words
        raise


def take(plan: Plan, profile: Profile, running: servers.Running) -> dict[str, float]:
    """One sample: processor time of the server's tree per answered request, and requests per second."""
    running.must_live()
    machine_before_ns, before = cpu.machine_busy_ns(), cpu.snapshot(running.pid)
    seen = _load(plan, profile, running, round(1000 * plan.seconds))
    after, machine_after_ns = cpu.snapshot(running.pid), cpu.machine_busy_ns()
    running.must_live()
    used = cpu.between(before, after)
    others_ns = machine_after_ns - machine_before_ns - used.total_ns - seen.load.wrk_cpu_s * 1e9
    return {
        "requests": seen.load.requests,
        "refused": seen.refused,
        "cpu_us_per_request": round(used.total_ns / seen.load.requests / 1e3, 2),
        "requests_per_s": round(seen.load.requests_per_s, 1),
        "others_busy": round(max(0.0, others_ns / 1e9) / seen.load.duration_s, 3),
    }


def table(result: Result, names: Iterable[str], profiles: Iterable[str], metric: report.Metric) -> list[dict[str, Any]]:
    """A row per contestant: median, lowest and highest; or that it fails; blank where it was not asked."""
    rows = []
    for who in names:
        if who in result.missing:
            continue
        row = {"server": who}
        for profile in profiles:
            samples = result.samples.get((profile, who), [])
            clean = [sample for sample in samples if sample["others_busy"] <= report.OTHERS_MAX]
            values = [metric.field(sample) or 0.0 for sample in clean or samples]
            failed = "**fails**" if (profile, who) in result.faults else ""
            row[profile] = Spread.of(values, disturbed=not clean).text(metric.form) if values else failed
        rows.append(row)
    return rows


def main(plan: Plan, folder: Path | None, say: Progress) -> int:
    """Measure, print, keep with a result if there is one. 1 if one of ours failed."""
    result = measure(plan, say)
    notes = [
        "The HTTP/1.1 profiles of [HttpArena](https://github.com/MDA2AV/HttpArena), made again from its published rules; "
        f"one worker on one core, {plan.rounds} rounds of {plan.seconds:g} s, where the arena gives 64 cores. Each "
        "contestant is validated first, as the arena does. In `noisy` only the good requests are counted; what the "
        "others cost is in their figure. Behind `api` is no database. Median (lowest-highest); †: other processes "
        "disturbed every sample.",
        "",
        *(f"- {profile}: {PROFILES[profile].title}." for profile in plan.profiles),
    ]
    told = [f"- {who}, {profile}: {why}" for (profile, who), why in result.faults.items()]
    told += [f"- {who}: {why}" for who, why in result.missing.items()]
    if told:
        notes += ["", "Failed, or not here:", "", *told]
    samples = [
        {"profile": profile, "server": who, "samples": found} for (profile, who), found in result.samples.items()
    ]
    for name, title, metric, words in (
        ("arena", "HttpArena's profiles: server CPU per request, µs", report.CPU, notes),
        ("arena-rate", "HttpArena's profiles: requests per second", report.RATE, []),
    ):
        rows = table(result, plan.names, plan.profiles, metric)
        print("\n".join(report.extra_section({"title": title, "notes": words, "rows": rows})))
        if folder is not None:
            report.keep_extra(folder, name, title, words, rows, samples if name == "arena" else None)
    ours = [who for _, who in result.faults if who.startswith("fastserve")]
    return 1 if ours else 0
