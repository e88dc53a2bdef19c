"""Where the time of the missed aims goes: instructions in user space by whose code they are, and system calls, ours and the
peer's.

Called by __main__ (the verb `misses`). Calls report (which aims a result missed), callgrind and syscalls. What it finds is
kept with the result, and is what docs/performance.md tells of the misses.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from . import callgrind, load, report, run, servers, syscalls
from .progress import Progress

REQUESTS = 480
WARM = 320
CALLS_S = 4.0  # about: one server under strace
LARGEST = 5  # functions that are named


def missed(result: report.Result) -> list[report.Verdict]:
    """The aims that were measured and missed, the farthest first."""
    found = [verdict for verdict in report.judge(result) if verdict.found is not None and not verdict.met]
    return sorted(found, key=lambda verdict: -verdict.missed_by)


def profile(ours: str, case: str, peers: list[str], say: Progress) -> dict[str, Any]:
    """One of ours in one case. Whatever could not be counted is left out, its reason in `faults`."""
    found: dict[str, Any] = {
        "case": case,
        "ours": ours,
        "instructions": {},
        "largest": [],
        "syscalls": {},
        "faults": [],
    }
    try:
        with say.step(f"instructions of {ours}, {case}", callgrind.row_s(REQUESTS)):
            counted = callgrind.count(ours, case, REQUESTS, WARM)
        found["instructions"] = {name: round(number) for name, number in counted.owners.items()}
        found["largest"] = largest(counted)
    except (servers.ServerError, load.LoadError) as error:
        found["faults"].append(f"{ours}: {error}")
    for name in (ours, *peers):
        try:
            with say.step(f"system calls of {name}, {case}", CALLS_S):
                calls = syscalls.count(name, case, REQUESTS)
            found["syscalls"][name] = {call: round(number, 2) for call, number in calls.items()}
        except (servers.ServerError, load.LoadError) as error:
            found["faults"].append(f"{name}: {error}")
    return found


def largest(counted: callgrind.Count) -> list[list[Any]]:
    """The functions with most instructions of their own. callgrind may name one twice, with its object and without."""
    sums: dict[str, float] = {}
    for name, number in counted.functions.items():
        bare = name.partition(" [")[0]
        sums[bare] = sums.get(bare, 0.0) + number
    return [[name, round(number)] for name, number in sorted(sums.items(), key=lambda item: -item[1])[:LARGEST]]


def row(found: dict[str, Any]) -> dict[str, Any]:
    """What `profile` found, as it is shown in the report."""
    owners = sorted(found["instructions"].items(), key=lambda item: -item[1])
    return {
        "case": found["case"],
        "ours": found["ours"],
        "instructions": sum(found["instructions"].values()) or "",
        "by owner": ", ".join(f"{name} {number}" for name, number in owners),
        "system calls": "; ".join(f"{name}: {calls_text(calls)}" for name, calls in found["syscalls"].items()),
        "not counted": "; ".join(found["faults"]),
    }


def calls_text(calls: dict[str, float]) -> str:
    """{'recvfrom': 1.0, 'epoll_wait': 0.07} as 'recvfrom 1, epoll_wait 0.07'."""
    return ", ".join(f"{name} {number:.2g}" for name, number in calls.items()) or "none"


def main(folder: Path, say: Progress) -> int:
    """Count for each missed aim of the result in `folder`, and keep it there. 1 if something could not be counted."""
    peers: dict[tuple[str, str], list[str]] = {}
    for verdict in missed(report.read(folder / "result.json")):
        peers.setdefault((verdict.target.ours, verdict.target.case), []).append(verdict.peer)
    say.plan(sum(callgrind.row_s(REQUESTS) + CALLS_S * (1 + len(set(names))) for names in peers.values()))
    found = []
    for (ours, case), names in peers.items():
        found.append(profile(ours, case, sorted(set(names)), say))
        say("  ".join(f"{name}: {value}" for name, value in row(found[-1]).items() if value))
    notes = [
        f"User-space instructions per request of our server's process by whose code they are (callgrind), and system calls "
        f"per request (strace) of ours and of the peer, {callgrind.CONNECTIONS} connections. An application's Python code "
        f"is run by CPython, and counted there. Counted at commit {run.commit()}."
    ]
    report.keep_extra(folder, "misses", "Where the time of the missed aims goes", notes, list(map(row, found)), found)
    return 1 if any(one["faults"] for one in found) else 0
