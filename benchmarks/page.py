"""The page of the documentation that tells how fast it is, docs/performance.md: made from a result, never by hand.

Called by __main__ (`report --page`) and by tests. Calls report (the figures) and misses (which aims were missed); reads the
result's folder and ideas.toml. Its pictures go into a folder `pictures` beside the page. Every figure on it comes from the
result; what is said in words here is how to read them.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from . import cases, misses, report, servers
from .report import CPU, RATE, Result, Verdict, cell, of, spread

ROOT = servers.ROOT
IDEAS = Path(__file__).parent / "ideas.toml"
CORES = 64  # of the machine that the arithmetic is for
OWNERS = ("fastserve", "CPython", "uvloop", "C library", "other")

# Who is compared with whom: a table and a picture each. Every server is in one.
FAMILIES = (
    (
        "Native handlers and servers without Python",
        "native",
        (
            *("fastserve", "fastserve-static", "epoll", "hyper", "axum", "net-http", "nginx", "h2o", "haproxy"),
            *("granian-rsgi", "picows"),
        ),
    ),
    (
        "ASGI",
        "asgi",
        (
            *("fastserve-asgi", "uvicorn", "granian", "gunicorn-asgi", "hypercorn", "fastpysgi-asgi"),
            *("socketify",),
        ),
    ),
    (
        "WSGI",
        "wsgi",
        (
            *("fastserve-wsgi-inline", "fastserve-wsgi", "granian-wsgi", "gunicorn", "bjoern", "fastwsgi"),
            *("fastpysgi-wsgi",),
        ),
    ),
    (
        "Frameworks",
        "frameworks",
        (
            *("fastserve-fastapi", "uvicorn-fastapi", "granian-fastapi", "gunicorn-fastapi", "hypercorn-fastapi"),
            *("fastserve-starlette", "uvicorn-starlette", "granian-starlette", "gunicorn-starlette"),
            *("hypercorn-starlette",),
        ),
    ),
    ("TLS", "tls", ("fastserve-tls", "fastserve-asgi-tls", "uvicorn-tls", "granian-tls", "nginx-tls")),
    (
        "Options of fastserve",
        "options",
        (
            *("fastserve-on", "fastserve-off", "fastserve-transport", "fastserve-lens-off"),
            *("fastserve-lens-stalls", "fastserve-lens-sample", "fastserve-lens-full"),
        ),
    ),
)
NOTES = {
    "tls": "`tls-close` has a handshake for each request. wrk resumes its sessions: an exchange of keys, no certificate. "
    "nginx 1.22 speaks TLS 1.2 unless it is told otherwise, whose resumed handshakes have no exchange of keys either, and "
    "was not told before 2026-11-30.",
}


def write(path: Path, page: Path) -> str:
    """Write the page of the result at `path`, and its pictures; return its text. ReportError if there is no result.

    Without matplotlib the page has no pictures, and those of before stay.
    """
    result = report.read(path)
    text = markdown(result, path, page)
    page.write_text(text, encoding="utf-8")
    pictures = page.parent / "pictures"
    pictures.mkdir(exist_ok=True)
    for _, name, members in FAMILIES:
        if has_samples(result, members):
            report.plot(result, [picture(page, name)], members)
        else:
            picture(page, name).unlink(missing_ok=True)  # of a result of before
    return text


def markdown(result: Result, path: Path, page: Path) -> str:
    """The page's text."""
    verdicts = report.judge(result)
    lines = [
        f"<!-- Made by `{command(path, page)}`: do not edit. -->",
        "# Performance",
        "",
        "Every figure here was written by the benchmark, from one result of it. What is measured in each case, and "
        f"why CPU per request, is in [benchmarks/README.md]({link(ROOT / 'benchmarks' / 'README.md', page)}).",
        "",
        *machine(result, path, page),
        *aims(verdicts),
        *where_time_goes(result, path.parent, verdicts),
        *figures(result, page),
        *report.on_off_table(result),
        *extra(path.parent, "idle", "Memory of idle connections", "idle"),
        *scaling(path.parent),
        *extra(path.parent, "instructions", "Instructions per request", "callgrind"),
        *extra(path.parent, "arena", "HttpArena's profiles", "arena"),
        *rates(path.parent),
        *not_measured(result),
        *how_made(result, path, page),
    ]
    return "\n".join(lines).rstrip() + "\n"


# ------------------------------------------------------------------------------------------------------- sections


def machine(result: Result, path: Path, page: Path) -> list[str]:
    """What it was measured on, and with."""
    about, plan = result["machine"], result["plan"]
    rows = {
        "Machine": f"{about['cpu']}, {about['cores']} cores; the server on core {about['server_core']}, the load on "
        f"core {about['load_core']}, loopback",
        "Kernel": about["kernel"],
        "Python": about["python"],
        "Measured": f"{result['started_at'][:10]}, at commit {about['commit']}",
        "Samples": f"{plan['rounds']} interleaved rounds of {plan['seconds']} s, {plan['connections']} connections "
        f"unless the case names its own; {len(result['samples'])} samples in {result['took_s'] / 60:.0f} min",
        "Packages": ", ".join(f"{name} {version}" for name, version in result["packages"].items()),
    }
    lines = ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items()), ""]
    commits = {run["commit"] for run in result["runs"].values()}
    if len(commits) > 1:
        lines += [f"**The cases are of {len(commits)} runs, of commits {', '.join(sorted(commits))}.**", ""]
    if about["server_core"] == about["load_core"]:
        lines += ["**The server and the load shared one core: these figures say nothing about speed.**", ""]
    elif about["cores_are_siblings"]:
        lines += ["**The two cores are threads of one core: they slow each other, and the figures are too high.**", ""]
    if raw := raw_link(path, page):
        lines += [f"Latency, memory, how busy both cores were, and every command line: {raw}.", ""]
    return lines


def aims(verdicts: list[Verdict]) -> list[str]:
    """Each aim, whether it was met, and by how much it was missed."""
    known = [verdict for verdict in verdicts if verdict.found is not None]
    met = sum(verdict.met for verdict in known)
    unsure = sum(not verdict.told_apart for verdict in known)
    lines = [
        "## The aims",
        "",
        f"**{met} met, {len(known) - met} missed, {len(verdicts) - len(known)} not measured**; of those measured "
        f"{unsure} cannot be told apart from their aim: the interval holds it.",
        "",
        "Server CPU per request as a ratio to a peer in the same round; below 1 is cheaper. Median, and the 95 % "
        "interval of the rounds. Where several peers count, the cheapest does. †: other processes disturbed every "
        "round.",
        "",
        "| case | ours | peer | at most | measured | |",
        "|---|---|---|--:|--:|---|",
    ]
    for verdict in verdicts:
        target = verdict.target
        lines.append(
            f"| {target.case} | {target.ours} | {verdict.peer} | {target.ratio:.3g} | {verdict.measured()} | "
            f"{verdict.text()} |"
        )
    return [*lines, ""]


def where_time_goes(result: Result, folder: Path, verdicts: list[Verdict]) -> list[str]:
    """Of each missed aim: processor time in user space and in the kernel, instructions by owner, system calls, an "
    "idea."""
    missed = sorted((v for v in verdicts if v.found is not None and not v.met), key=lambda v: -v.missed_by)
    if not missed:
        return []
    lines = [
        "## Where the time of the misses goes",
        "",
        "Microseconds per request in user space and in the kernel, which are read from clocks of 10 ms and are "
        "coarser than their sum. The idea is the next to try, not one that was tried.",
        "",
        "| case | ours | user + kernel, µs | peer | user + kernel, µs | missed by | next idea |",
        "|---|---|--:|---|--:|--:|---|",
    ]
    ideas = tomllib.loads(IDEAS.read_text(encoding="utf-8"))
    for verdict in missed:
        case, ours = verdict.target.case, verdict.target.ours
        idea = ideas.get(ours, {}).get(case) or ideas.get(ours, {}).get("*", "")
        lines.append(
            f"| {case} | {ours} | {split(result, case, ours)} | {verdict.peer} | {split(result, case, verdict.peer)} "
            f"| {verdict.missed_by:.0%} | {idea} |"
        )
    lines += ["", *counts(folder, missed)]
    return lines


def counts(folder: Path, missed: list[Verdict]) -> list[str]:
    """Instructions and system calls of the misses, if they were counted for this result."""
    kept = report.read_extra(folder, "misses")
    by_key = {(found["ours"], found["case"]): found for found in (kept or {}).get("data") or []}
    keys = dict.fromkeys((verdict.target.ours, verdict.target.case) for verdict in missed)
    if kept is None or not by_key:
        return ["Instructions and system calls were not counted for this result: `python -m benchmarks misses`.", ""]
    lines = [
        *kept["notes"],
        "",
        "| case | ours | instructions | " + " | ".join(OWNERS) + " | most in |",
        "|---|---|" + "--:|" * (1 + len(OWNERS)) + "---|",
    ]
    calls = ["| case | server | system calls per request |", "|---|---|---|"]
    faults = []
    for ours, case in keys:
        found = by_key.get((ours, case))
        if found is None:
            faults.append(f"{ours}, {case}: not counted")
            continue
        owned = found["instructions"]
        row = " | ".join(f"{owned.get(name, 0):,}" if owned else "" for name in OWNERS)
        most = ", ".join(f"`{name}` {number:,}" for name, number in found["largest"][:3])
        lines.append(f"| {case} | {ours} | {sum(owned.values()):,} | {row} | {most} |")
        for server, told in found["syscalls"].items():
            calls.append(f"| {case} | {server} | {misses.calls_text(told)} |")
        faults += [f"{case}, {fault}" for fault in found["faults"]]
    lines += ["", *calls, ""]
    if faults:
        lines += ["Not counted:", "", *(f"- {fault}" for fault in faults), ""]
    return lines


def figures(result: Result, page: Path) -> list[str]:
    """A table and a picture for each family of servers."""
    lines = [
        "## The figures",
        "",
        "Median (lowest-highest) of the rounds. †: every sample was disturbed by other processes. **fails**: why is "
        "below. A blank: that server is not asked that case.",
        "",
    ]
    for title, name, members in FAMILIES:
        if not has_samples(result, members):
            continue
        shown = os.path.relpath(picture(page, name), page.parent)
        lines += [f"### {title}", "", f"![Server CPU per request, {title}]({shown})", ""]
        lines += [NOTES[name], ""] if name in NOTES else []
        for metric in (CPU, RATE):
            lines += [f"{metric.title}:", "", *table(result, members, metric)]
    return lines


def table(result: Result, members: tuple[str, ...], metric: report.Metric) -> list[str]:
    """Servers down, cases across; only what there is."""
    names = [name for name in members if name in result["plan"]["servers"] and name not in result["missing"]]
    shown = [case for case in result["plan"]["cases"] if any(of(result, case, name) for name in names)]
    lines = ["| server | " + " | ".join(shown) + " |", "|---|" + "--:|" * len(shown)]
    for name in names:
        found = [(case, spread(of(result, case, name), metric.field)) for case in shown]
        row = [cell(result, case, name, one.text(metric.form) if one else None) for case, one in found]
        if any(row):
            lines.append(f"| {name} | " + " | ".join(row) + " |")
    return [*lines, ""]


def extra(folder: Path, name: str, title: str, verb: str) -> list[str]:
    """A measurement beside the load, or how to get it."""
    kept = report.read_extra(folder, name)
    if kept is None:
        return [f"## {title}", "", f"Not measured for this result: `python -m benchmarks {verb}`.", ""]
    return report.extra_section(kept)


def rates(folder: Path) -> list[str]:
    """The arena's second table."""
    kept = report.read_extra(folder, "arena-rate")
    return [] if kept is None else report.extra_section(kept)


def scaling(folder: Path) -> list[str]:
    """More workers, as measured, and what follows for CORES cores."""
    kept, weights = report.read_extra(folder, "scale"), report.read_extra(folder, "scale-memory")
    if kept is None or not kept.get("data"):
        return ["## More workers", "", "Not measured for this result: `python -m benchmarks scale`.", ""]
    lines = report.extra_section(kept)
    if weights is not None:
        lines += report.extra_section(weights)
    return [*lines, *arithmetic(kept["data"], (weights or {}).get("rows", []))]


def arithmetic(found: list[dict[str, Any]], weights: list[dict[str, Any]]) -> list[str]:
    """What CORES cores would do, by formulas that stand beside the figures."""
    costs = {one["workers"]: median(one["cpu_us_per_request"]) for one in found if one["cores"] == 1}
    most = max(costs)
    if most == 1 or 1 not in costs:
        return []
    one, many = costs[1], costs[most]
    more = max(0.0, (many - one) / (most - 1))
    among = one + (CORES - 1) * more
    rows: list[tuple[str, str, str]] = [
        ("`c1`, CPU per request of one worker, µs", "measured", f"{one:.2f}"),
        (f"`c{most}`, CPU per request of {most} workers on one core, µs", "measured", f"{many:.2f}"),
        ("`g`, what each further worker adds, µs", f"max(0, (c{most} - c1) / {most - 1})", f"{more:.3f}"),
        (f"`c{CORES}`, CPU per request among {CORES} workers, µs", f"c1 + {CORES - 1} * g", f"{among:.2f}"),
        ("requests/s of one core", "1,000,000 / c1", f"{1e6 / one:,.0f}"),
        (
            f"requests/s of {CORES} cores, a worker each",
            f"{CORES} * 1,000,000 / c{CORES}",
            f"{CORES * 1e6 / among:,.0f}",
        ),
        (f"of what {CORES} cores would do alone", f"c1 / c{CORES}", f"{one / among:.0%}"),
    ]
    for weight in weights:
        if weight["workers"] == max(other["workers"] for other in weights):
            pss = float(weight["PSS per worker, MB"])
            flags = f" with `{weight['']}`" if weight[""] else ""
            rows.append((f"memory of {CORES} workers{flags}, MB", f"{CORES} * {pss:g}", f"{CORES * pss:,.0f}"))
    return [
        f"### Arithmetic for {CORES} cores",
        "",
        f"No machine of {CORES} cores was measured. `g` was measured with all workers on one core, where they also "
        "take turns on it; workers with a core each do not, so it is rather too high. It is taken to grow in a "
        f"straight line, also beyond {most} workers. What is left out, and lowers the result: cores that share "
        "caches, memory and a clock that falls under load, and locks of the kernel. The load is taken to be made "
        "elsewhere.",
        "",
        "| | formula | value |",
        "|---|---|--:|",
        *(f"| {name} | {formula} | {value} |" for name, formula, value in rows),
        "",
    ]


def not_measured(result: Result) -> list[str]:
    """What is missing, and what failed, each with its reason."""
    lines = []
    if result["missing"]:
        lines += ["## Not here", "", "Asked for and not in the tables:", ""]
        lines += [f"- {name}: {reason}" for name, reason in result["missing"].items()]
        lines.append("")
    absent = [name for name in cases.CASES if name not in result["plan"]["cases"]]
    others = [name for name in servers.SERVERS if name not in result["plan"]["servers"]]
    if absent or others:
        lines += ["## Not asked for", ""]
        lines += [f"- Cases: {', '.join(absent)}."] if absent else []
        lines += [f"- Servers: {', '.join(others)}."] if others else []
        lines.append("")
    return lines + report.what_failed(result)


def how_made(result: Result, path: Path, page: Path) -> list[str]:
    """The settings, what was left out, the commands."""
    disturbed = sum(map(report.is_disturbed, result["samples"]))
    lines = [
        "## How the figures were made",
        "",
        "- Each server answers each case once, and the answer must be the right one, before it is put under load; "
        "the size of the answers under load is held against it. A sample with any error is refused and told as "
        "failed.",
        "- Every server is in every round, each round begins one further on; ratios are made within a round.",
        f"- {disturbed} of {len(result['samples'])} samples were disturbed: other processes used more than "
        f"{report.OTHERS_MAX:.0%} of a core meanwhile. They count only where a cell has no other, and that cell has a "
        "†.",
        "- CPU is that of the server's whole process tree. The settings are each project's documented ones for speed:",
        "",
        "| server | version | started as |",
        "|---|---|---|",
    ]
    for name, words in result["commands"].items():
        note = servers.SERVERS[name].note if name in servers.SERVERS else ""
        shown = f"`{' '.join(words)}`" + (f" ({note})" if note else "")
        lines.append(f"| {name} | {result['versions'].get(name, '')} | {shown} |")
    lines += [
        "",
        "To measure all of it again, and write this page:",
        "",
        "```sh",
        "pip install -e . -r benchmarks/envs/peers.txt",
        f"python -m benchmarks report --run --page {inside(page) or 'performance.md'}",
        "```",
        "",
        "To write it again from a result:",
        "",
        "```sh",
        command(path, page),
        "```",
        "",
    ]
    return lines


# --------------------------------------------------------------------------------------------------------- pieces


def split(result: Result, case: str, server: str) -> str:
    """Median time in user space and in the kernel, of the samples that count."""
    samples = of(result, case, server)
    fields: tuple[Callable[[report.Sample], float | None], ...] = (
        lambda sample: float(sample["user_us_per_request"]),
        lambda sample: float(sample["system_us_per_request"]),
    )
    found = [spread(samples, field) for field in fields]
    return " + ".join(CPU.form(one.median) for one in found if one is not None)


def has_samples(result: Result, members: tuple[str, ...]) -> bool:
    return any(sample["server"] in members for sample in result["samples"])


def picture(page: Path, name: str) -> Path:
    return page.parent / "pictures" / f"{page.stem}-{name}.svg"


def inside(path: Path) -> str | None:
    """The path from the root of the repository; None if it is elsewhere, where it is nobody's business."""
    path = path.resolve()
    return path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else None


def link(target: Path, page: Path) -> str:
    """A link from the page, as a path."""
    return Path(os.path.relpath(target, page.resolve().parent if inside(page) else ROOT / "docs")).as_posix()


def raw_link(path: Path, page: Path) -> str:
    """The report of the same result, if it lies in the repository."""
    other = path.parent / "report.md"
    return f"[the report]({link(other, page)})" if inside(path) and other.exists() else ""


def command(path: Path, page: Path) -> str:
    """What is typed to make the page again."""
    return f"python -m benchmarks report {inside(path) or path.name} --page {inside(page) or page.name}"
