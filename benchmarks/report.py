"""From a result to something to read: result.json (raw, kept), report.md, and the plots cpu.svg and cpu.png.

Called by __main__; needs nothing but the JSON, so that an old result can be rendered again. Medians with minimum and
maximum, never a single run. Ratios are made within a round (both servers were measured within seconds of each other)
and then summed up, so that the machine's slow drift cancels.
"""

import json
import math
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

from . import targets
from .cases import CASES
from .targets import Target

CONNECTION_PER_REQUEST = {case.name for case in CASES.values() if not case.keep_alive}
# A sample in which other processes used more than this much of a core is disturbed: its caches and its batches are not
# the server's own. The figure is that of the first study (performance.md).
OTHERS_MAX = 0.12
PREFERRED_REFERENCE = ("hyper", "granian", "uvicorn")

Result = dict[str, Any]
Sample = dict[str, Any]
Field = Callable[[Sample], float | None]


class ReportError(Exception):
    """The result cannot be rendered."""


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of some samples, with the least and the greatest. `disturbed`: no undisturbed sample was to be had."""

    median: float
    least: float
    greatest: float
    count: int
    disturbed: bool = False

    @classmethod
    def of(cls, values: Iterable[float], disturbed: bool = False) -> "Spread":
        values = sorted(values)
        return cls(median(values), values[0], values[-1], len(values), disturbed)

    def text(self, form: Callable[[float], str]) -> str:
        mark = " †" if self.disturbed else ""
        if self.count == 1:
            return f"{form(self.median)} (one sample){mark}"
        return f"{form(self.median)} ({form(self.least)}-{form(self.greatest)}){mark}"


@dataclass(frozen=True, slots=True)
class Metric:
    """A table of the report: which field of a sample, and how it is written."""

    title: str
    field: "Field"
    form: Callable[[float], str]


def _microseconds(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:.0f}"


def _milliseconds(value: float) -> str:
    return f"{value:.2f}"


def _latency_ms(sample: Sample, key: str) -> float | None:
    """None for a pipelined case: load.py says why."""
    return sample["latency_us"][key] / 1e3 if sample["latency_us"] else None


def _count(value: float) -> str:
    return f"{value / 1000:.1f} k" if value >= 1000 else f"{value:.0f}"


CPU = Metric("Server CPU per request, µs", lambda s: float(s["cpu_us_per_request"]), _microseconds)
RATE = Metric("Requests per second", lambda s: float(s["requests_per_s"]), _count)
P50 = Metric("Latency at the 50th percentile under this load, ms", lambda s: _latency_ms(s, "p50"), _milliseconds)
P99 = Metric("Latency at the 99th percentile under this load, ms", lambda s: _latency_ms(s, "p99"), _milliseconds)
RSS = Metric("Resident memory at the end of a sample, MB", lambda s: s["rss_bytes"] / 1e6, lambda v: f"{v:.0f}")
BUSY = Metric("How busy the server's core was, %", lambda s: 100 * float(s["server_busy"]), lambda v: f"{v:.0f}")
WRK = Metric("How busy wrk's core was, %", lambda s: 100 * float(s["wrk_busy"]), lambda v: f"{v:.0f}")


def is_disturbed(sample: Sample) -> bool:
    return float(sample["others_busy"]) > OTHERS_MAX


def of(result: Result, case: str, server: str) -> list[Sample]:
    return [s for s in result["samples"] if s["case"] == case and s["server"] == server]


def spread(samples: list[Sample], field: Field) -> Spread | None:
    """Over the undisturbed samples; over all of them, and marked, where there is no undisturbed one."""
    clean = [s for s in samples if not is_disturbed(s)]
    values = [value for s in clean or samples if (value := field(s)) is not None]
    return Spread.of(values, disturbed=not clean) if values else None


def ratio(samples: list[Sample], references: list[Sample], field: Field) -> Spread | None:
    """Each round's own ratio to the reference, over the rounds in which both are undisturbed (else all, marked)."""
    by_round = {s["round"]: s for s in references}
    pairs = [(s, by_round[s["round"]]) for s in samples if s["round"] in by_round]
    clean = [pair for pair in pairs if not any(map(is_disturbed, pair))]
    values = [mine / theirs for m, t in clean or pairs if (mine := field(m)) is not None and (theirs := field(t))]
    return Spread.of(values, disturbed=not clean) if values else None


# Two-sided 95 % quantiles of Student's t, by degrees of freedom; beyond the table the normal distribution's is near enough.
T95 = (
    12.71,
    4.30,
    3.18,
    2.78,
    2.57,
    2.45,
    2.36,
    2.31,
    2.26,
    2.23,
    2.20,
    2.18,
    2.16,
    2.14,
    2.13,
    2.12,
    2.11,
    2.10,
    2.09,
    2.09,
)


def interval(values: list[float]) -> tuple[float, float] | None:
    """The 95 % interval of the mean of `values` by Student's t; None for fewer than two."""
    if len(values) < 2:
        return None
    reach = T95[min(len(values) - 1, len(T95)) - 1] * stdev(values) / math.sqrt(len(values))
    return fmean(values) - reach, fmean(values) + reach


def ratio_interval(values: list[float]) -> tuple[float, float] | None:
    """The 95 % interval of the geometric mean of ratios: of their logarithms, for a ratio and its inverse are alike."""
    found = interval([math.log(value) for value in values])
    return (math.exp(found[0]), math.exp(found[1])) if found else None


def paired(result: Result, case: str, ours: str, peers: Iterable[str]) -> tuple[list[float], bool]:
    """Our CPU per request as a ratio to the cheapest peer, once per round; and whether no undisturbed round was to be had.

    The cheapest is chosen once, by its median, so that a round's luck does not choose it.
    """
    known = {peer: found for peer in peers if (found := spread(of(result, case, peer), CPU.field))}
    if not known:
        return [], False
    best = of(result, case, min(known, key=lambda peer: known[peer].median))
    by_round = {s["round"]: s for s in best}
    pairs = [(s, by_round[s["round"]]) for s in of(result, case, ours) if s["round"] in by_round]
    clean = [pair for pair in pairs if not any(map(is_disturbed, pair))]
    return [m["cpu_us_per_request"] / t["cpu_us_per_request"] for m, t in clean or pairs], not clean


def cheapest(result: Result, case: str, peers: Iterable[str]) -> str:
    known = {peer: found.median for peer in peers if (found := spread(of(result, case, peer), CPU.field))}
    return min(known, key=lambda peer: known[peer]) if known else ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """An aim held against the rounds of a result: the median of the ratios, and the 95 % interval of their mean."""

    target: Target
    peer: str  # the one that counts; all that could, if none was measured
    found: float | None  # None: not measured
    within: tuple[float, float] | None
    disturbed: bool

    @property
    def met(self) -> bool:
        return self.found is not None and self.found <= self.target.ratio

    @property
    def told_apart(self) -> bool:
        """Does the interval lie on one side of the aim?"""
        return self.within is None or not self.within[0] < self.target.ratio < self.within[1]

    @property
    def missed_by(self) -> float:
        """The share by which the figure is above the aim; 0 if it is not."""
        return 0.0 if self.found is None else max(0.0, self.found / self.target.ratio - 1)

    def text(self) -> str:
        if self.found is None:
            return "not measured"
        told = "met" if self.met else f"**missed by {self.missed_by:.0%}**"
        return told if self.told_apart else f"{told}, not told apart"

    def measured(self) -> str:
        if self.found is None:
            return ""
        span = f" ({self.within[0]:.2f}-{self.within[1]:.2f})" if self.within else " (one round)"
        return f"{self.found:.2f}{span}{' †' if self.disturbed else ''}"


def judge(result: Result) -> list[Verdict]:
    """Every aim, in the table's order."""
    verdicts = []
    for target in targets.TARGETS:
        values, disturbed = paired(result, target.case, target.ours, target.peers)
        peer = cheapest(result, target.case, target.peers) or " / ".join(target.peers)
        found = median(values) if values else None
        verdicts.append(Verdict(target, peer, found, ratio_interval(values) if values else None, disturbed))
    return verdicts


def target_table(result: Result) -> list[str]:
    """Every aim, whether it was met, and by how much it was missed."""
    lines = [
        "## The aims",
        "",
        "Server CPU per request as a ratio to a peer in the same round (below 1 is cheaper): median and 95 "
        "% interval of the "
        "rounds. Where several peers count, the cheapest does. *Not told apart*: the interval holds the aim.",
        "",
        "| case | ours | peer | aim at most | measured | |",
        "|---|---|---|--:|--:|---|",
    ]
    for verdict in judge(result):
        target, measured = verdict.target, f" {verdict.measured()}".rstrip()
        lines.append(
            f"| {target.case} | {target.ours} | {verdict.peer} | {target.ratio:.3g} |{measured} | {verdict.text()} |"
        )
    return [*lines, ""]


def on_off_table(result: Result) -> list[str]:
    """What everything switched on costs, from paired rounds."""
    lines = []
    for case in result["plan"]["cases"]:
        values, disturbed = paired(result, case, targets.ON, [targets.OFF])
        within = ratio_interval(values)
        if within is None:
            continue
        verdict = "met" if within[1] - 1 <= targets.ON_BOUND else "not shown"
        mark = " †" if disturbed else ""
        lines.append(
            f"| {case} | {median(values) - 1:+.1%}{mark} | {within[0] - 1:+.1%} to {within[1] - 1:+.1%} | "
            f"{len(values)} | {verdict} |"
        )
    if not lines:
        return []
    head = [
        f"## Everything on against everything off ({targets.ON} to {targets.OFF})",
        "",
        f"The aim: the 95 % interval of the paired rounds lies below {targets.ON_BOUND:+.0%}.",
        "",
        "| case | median | 95 % interval | rounds | |",
        "|---|--:|--:|--:|---|",
    ]
    return [*head, *lines, ""]


def measured(result: Result) -> tuple[list[str], list[str]]:
    """The cases and the servers of the plan of which there is anything to show, in the plan's order."""
    plan = result["plan"]
    return list(plan["cases"]), [name for name in plan["servers"] if name not in result["missing"]]


def choose_reference(result: Result, wanted: str | None) -> str:
    have = [name for name in result["plan"]["servers"] if any(s["server"] == name for s in result["samples"])]
    if wanted is not None and wanted not in have:
        raise ReportError(f"there is no sample of the reference {wanted!r}, only of: {', '.join(have) or 'none'}")
    if not have:
        raise ReportError(f"nothing was measured; missing: {result['missing']}; failures: {result['failures']}")
    return wanted or next((name for name in PREFERRED_REFERENCE if name in have), have[-1])


def cell(result: Result, case: str, server: str, text: str | None) -> str:
    """A cell of any table: the figure, and how often there was none because it failed."""
    failed = [f for f in result["failures"] if f["case"] == case and f["server"] == server]
    if text is None:
        return "**fails**" if failed else ""
    return f"{text}, **{len(failed)} failed**" if failed else text


def table(result: Result, metric: Metric) -> list[str]:
    cases, names = measured(result)
    lines = [f"## {metric.title}", "", "| server | " + " | ".join(cases) + " |", "|---|" + "--:|" * len(cases)]
    for name in names:
        row = []
        for case in cases:
            found = spread(of(result, case, name), metric.field)
            row.append(cell(result, case, name, found.text(metric.form) if found else None))
        lines.append(f"| {name} | " + " | ".join(row) + " |")
    return [*lines, ""]


def ratio_table(result: Result, reference: str, metric: Metric, title: str) -> list[str]:
    cases, names = measured(result)
    lines = [f"## {title}", "", "| server | " + " | ".join(cases) + " |", "|---|" + "--:|" * len(cases)]
    for name in names:
        row = []
        for case in cases:
            found = ratio(of(result, case, name), of(result, case, reference), metric.field)
            text = found.text("{:.2f}".format) if found else None
            row.append("1" if found and name == reference else cell(result, case, name, text))
        lines.append(f"| {name} | " + " | ".join(row) + " |")
    return [*lines, ""]


def markdown(result: Result, reference: str, extra: Iterable[str] = ()) -> str:
    """The whole report. `extra`: sections of other measurements (memory, instructions), put before the notes."""
    plan, machine = result["plan"], result["machine"]
    everything = result["samples"]
    disturbed = sum(map(is_disturbed, everything))
    lines = [
        f"# Benchmark of {result['started_at']}",
        "",
        f"{machine['cpu']}, {machine['cores']} cores, kernel {machine['kernel']}, {machine['python']}; server on core "
        f"{machine['server_core']}, wrk on core {machine['load_core']}, loopback. {plan['rounds']} rounds of "
        f"{plan['seconds']} s, interleaved, {plan['connections']} connections unless the case names its own. "
        "Median (minimum-maximum).",
        "",
        "Versions: " + "; ".join(f"{name}: {version}" for name, version in result["versions"].items()) + ".",
        "Packages: " + ", ".join(f"{name} {version}" for name, version in result["packages"].items()) + ".",
        f"Repository: commit {machine['commit']}.",
        "",
    ]
    commits = {about["commit"] for about in result.get("runs", {}).values()}
    if len(commits) > 1:
        lines += [f"**The cases are of {len(commits)} runs, of commits {', '.join(sorted(commits))}.**", ""]
    for name, reason in result["missing"].items():
        lines += [f"**Missing: {name}** ({reason}). It was asked for and is not in the tables.", ""]
    if machine["server_core"] == machine["load_core"]:
        lines += ["**The server and wrk shared one core: these figures say nothing about speed.**", ""]
    elif machine["cores_are_siblings"]:
        lines += ["**The two cores are threads of one core: they slow each other, and the figures are too high.**", ""]
    lines += target_table(result)
    lines += on_off_table(result)
    lines += table(result, CPU)
    lines += ratio_table(result, reference, CPU, f"CPU per request, as a ratio to {reference} (below 1 is cheaper)")
    for metric in (RATE, P50, P99, BUSY, WRK, RSS):
        lines += table(result, metric)
    lines += extra
    lines += [
        "## What to know about these figures",
        "",
        f"- {disturbed} of {len(everything)} samples were disturbed: other processes used more than "
        f"{OTHERS_MAX:.0%} of a core meanwhile. They are left out of the tables where undisturbed ones remain; cells "
        "marked † have none and show all.",
        "- Requests per second do not tell servers apart where wrk's core is near 100 % busy; CPU per request does.",
        "- Latency is that of a saturated server with a fixed number of connections, not that of a healthy one.",
    ]
    lines += [
        f"- {s['server']}, {s['case']}, round {s['round']}: {s['connections_opened']} connections were opened where "
        f"{s['connections']} were needed: the server closed some, or somebody else used the network meanwhile."
        for s in everything
        if s["case"] not in CONNECTION_PER_REQUEST and s["connections_opened"] > 2 * s["connections"] + 20
    ]
    lines.append("")
    lines += what_failed(result)
    lines += ["## How they were started", ""]
    lines += [f"- {name}: `{' '.join(command)}`" for name, command in result["commands"].items()]
    return "\n".join(lines) + "\n"


def what_failed(result: Result) -> list[str]:
    """A section, if anything did."""
    if not result["failures"]:
        return []
    lines = ["## What failed", ""]
    for failure in result["failures"]:
        when = f"round {failure['round']}" if failure["round"] else "before round 1"
        lines.append(f"- {failure['server']}, {failure['case']}, {when}: {failure['reason']}")
    return [*lines, ""]


def plot(result: Result, paths: Sequence[Path], chosen: Collection[str] | None = None) -> None:
    """CPU per request, one panel per case (their scales differ), a dot for every sample, hollow if disturbed.

    Of the `chosen` servers, or of all; written to each of `paths`, whose suffixes say what is written. ImportError without
    matplotlib.
    """
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "fastserve"  # the same result makes the same file
    from matplotlib import pyplot

    cases, names = measured(result)
    names = [name for name in names if chosen is None or name in chosen]
    cases = [case for case in cases if any(s["case"] == case and s["server"] in names for s in result["samples"])]
    columns = min(4, len(cases))
    rows = -(-len(cases) // columns)
    height = 0.8 + 0.34 * len(names)
    size = (3.4 * columns + 0.8, height * rows + 0.9)
    figure, grid = pyplot.subplots(rows, columns, figsize=size, squeeze=False, sharey=True)
    for axes in list(grid.flat)[len(cases) :]:
        axes.set_axis_off()
    for axes, case in zip(grid.flat, cases, strict=False):
        for place, name in enumerate(names):
            samples = of(result, case, name)
            found = spread(samples, CPU.field)
            if found is None:
                failed = any(f["case"] == case and f["server"] == name for f in result["failures"])
                axes.text(0, place, " fails" if failed else "", va="center", fontsize=8, color="#a03030")
                continue
            ours = name.startswith("fastserve")
            axes.barh(place, found.median, height=0.62, color="#2f6f8f" if ours else "#c3cbd1", zorder=1)
            dots = [(CPU.field(sample) or 0.0, is_disturbed(sample)) for sample in samples]
            for place_x, disturbed in dots:
                face = "none" if disturbed else "#222222"
                axes.plot(place_x, place, "o", ms=3, mfc=face, mec="#222222", mew=0.6, zorder=3)
            label = f"  {CPU.form(found.median)}{' †' if found.disturbed else ''}"
            axes.text(max(dots)[0], place, label, va="center", fontsize=8, color="#222222")
        axes.set_title(case, fontsize=10, loc="left")
        axes.set_yticks(range(len(names)), names, fontsize=9)
        axes.tick_params(axis="x", labelsize=8)
        axes.set_ylim(len(names) - 0.4, -0.6)
        axes.margins(x=0.25)  # room for the figures behind the bars
        axes.set_xlim(left=0)
        axes.spines[["top", "right"]].set_visible(False)
    title = "Server CPU per request, µs (less is better). Bar: median; dots: samples, hollow if disturbed"
    figure.suptitle(title, fontsize=11, x=0.01, ha="left")
    machine = result["machine"]
    note = " · ".join((result["started_at"], machine["cpu"], f"kernel {machine['kernel']}", machine["python"]))
    figure.text(0.01, 0.01, note, fontsize=7, color="#666666")
    figure.tight_layout(rect=(0, 0.03, 1, 0.98))
    for path in paths:
        figure.savefig(path, dpi=130, metadata={"Date": None} if path.suffix == ".svg" else None)
    pyplot.close(figure)


def keep(result: Result, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "result.json"
    half = path.with_suffix(".half")  # an interrupted run leaves the result of before
    half.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    half.replace(path)
    return path


def read(path: Path) -> Result:
    """A kept result; ReportError if the file is none."""
    try:
        result: Result = json.loads(path.read_text(encoding="utf-8"))
        schema = result.get("schema")
    except (OSError, ValueError, AttributeError) as error:
        raise ReportError(f"{path} is not a result: {error}") from error
    if schema not in (1, 2):
        raise ReportError(f"{path} is not a result of this version: schema {schema!r}")
    return {"runs": {}, **result}


def render(path: Path, folder: Path, reference: str | None = None) -> str:
    """Write report.md and the plots of a kept result; return the report. Without matplotlib the report says so."""
    result = read(path)
    chosen = choose_reference(result, reference)
    text = markdown(result, chosen, extra_sections(path.parent))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        plot(result, [folder / "cpu.svg", folder / "cpu.png"])
        text = text.replace("\n## ", "\n![Server CPU per request](cpu.svg)\n\n## ", 1)
    except ImportError:
        text += "\nNo plot: matplotlib is not installed.\n"
    (folder / "report.md").write_text(text, encoding="utf-8")
    return text


def extra_sections(folder: Path) -> list[str]:
    """What was measured beside the load: NAME.json files in the folder of the result, each a title, notes and a table."""
    lines: list[str] = []
    for path in sorted(folder.glob("extra-*.json")):
        lines += extra_section(json.loads(path.read_text(encoding="utf-8")))
    return lines


def extra_section(extra: dict[str, Any]) -> list[str]:
    """One of them."""
    lines = [f"## {extra['title']}", "", *extra["notes"], ""]
    if extra["rows"]:
        heads = list(extra["rows"][0])
        lines += ["| " + " | ".join(heads) + " |", "|---|" + "--:|" * (len(heads) - 1)]
        lines += ["| " + " | ".join(str(row[head]) for head in heads) + " |" for row in extra["rows"]]
    return [*lines, ""]


def read_extra(folder: Path, name: str) -> dict[str, Any] | None:
    """A kept measurement that is no load; None if there is none."""
    path = folder / f"extra-{name}.json"
    if not path.exists():
        return None
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def has_extra(folder: Path, name: str) -> bool:
    return read_extra(folder, name) is not None


def keep_extra(
    folder: Path, name: str, title: str, notes: list[str], rows: list[dict[str, Any]], data: Any = None
) -> Path:
    """Keep a measurement that is no load, so that the report has a section of it. `data`: the numbers behind the rows."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"extra-{name}.json"
    text = json.dumps({"title": title, "notes": notes, "rows": rows, "data": data}, indent=1, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")
    return path
