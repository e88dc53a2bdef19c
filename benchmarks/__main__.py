"""The front door: `python -m benchmarks report --run` measures everything and writes the page of it. Its parts, each alone:
`run` measures, `idle` weighs, `callgrind` counts, `scale` adds workers, `misses` looks where the time goes, `arena` has the
profiles of HttpArena. Beside them: `paired` compares two, `soak` wears, `overload` overloads, `train` is the load that a
build is optimised for.

Called from a shell, at the root of the repository. Calls run.measure, report.render, page.write, paired.main, memory.main,
callgrind.main, scaling.main, misses.main, arena.measure.main, soak.main, overload.main, train.main.
"""

import argparse
import sys
from collections.abc import Callable, Collection
from datetime import datetime
from pathlib import Path

from . import (
    callgrind,
    cases,
    load,
    memory,
    misses,
    overload,
    page,
    paired,
    report,
    run,
    scaling,
    servers,
    soak,
    targets,
    train,
)
from .arena import measure as arena
from .arena.contestants import NAMES as CONTESTANTS
from .arena.profiles import PROFILES
from .progress import Progress

CONNECTIONS_IDLE = 10_000
COUNTED = 1600  # requests under callgrind
SCALE_S, SCALE_ROUNDS = 2, 5
MISSES_S = 300.0  # about: nobody knows yet how many there will be


def names(known: Collection[str]) -> Callable[[str], list[str]]:
    """An argparse type: a comma-separated list of names, each of which must be a row of the table `known`."""

    def split(text: str) -> list[str]:
        chosen = [name.strip() for name in text.split(",") if name.strip()]
        unknown = [name for name in chosen if name not in known]
        if unknown or not chosen:
            raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}; known: {', '.join(known)}")
        return chosen

    return split


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure HTTP servers side by side.")
    verbs = top.add_subparsers(dest="verb", required=True)

    _add_plan(verbs.add_parser("run", help="measure, keep the raw JSON, render the report"))

    render = verbs.add_parser(
        "report", help="with --run: measure everything, write report and page; else write them again"
    )
    render.add_argument("result", type=Path, nargs="?", help="the result.json of an earlier run")
    render.add_argument(
        "--run", action="store_true", help="measure first: run, idle, callgrind, scale, misses and arena"
    )
    render.add_argument("--page", type=Path, help="the page of the documentation to write too: docs/performance.md")
    _add_plan(render)

    pair = verbs.add_parser("paired", help="two of our servers in turns of a fraction of a second: what one costs more")
    pair.add_argument("--case", type=names(cases.CASES), default=["plaintext", "browser"], metavar="NAME,...")
    pair.add_argument("--ours", choices=servers.SERVERS, default=targets.ON, metavar="NAME")
    pair.add_argument("--other", choices=servers.SERVERS, default=targets.OFF, metavar="NAME")
    pair.add_argument(
        "--lens",
        nargs=2,
        metavar="MODE",
        help="--ours alone, with its lens in the first mode and in the second, switched while it runs",
    )
    pair.add_argument("--starts", type=int, default=12, help="times that both are started anew (default: 12)")
    pair.add_argument("--rounds", type=int, default=15, help="samples of each after a start (default: 15)")
    pair.add_argument("--milliseconds", type=int, default=200, help="length of a sample (default: 200)")
    pair.add_argument(
        "--bound",
        type=float,
        help=f"fail unless the interval lies below it (default: {targets.ON_BOUND:g} for {targets.ON} to {targets.OFF})",
    )
    pair.add_argument("-c", "--connections", type=int, default=64)
    pair.add_argument("--server-core", type=int)
    pair.add_argument("--load-core", type=int)
    pair.add_argument("--nice", type=int, default=0)

    idle = verbs.add_parser("idle", help="memory of idle connections, each after a browser's GET and a POST of 64 KB")
    idle.add_argument("--servers", type=names(memory.ROWS), default=list(memory.ROWS), metavar="NAME,...")
    idle.add_argument("-c", "--connections", type=int, default=CONNECTIONS_IDLE)
    idle.add_argument("--out", type=Path, help="folder of the result it belongs to")

    counts = verbs.add_parser("callgrind", help="instructions per request of our server, under valgrind")
    counts.add_argument("--rows", type=names(callgrind.ROWS), default=list(callgrind.ROWS), metavar="NAME,...")
    counts.add_argument("--requests", type=int, default=COUNTED, help="counted requests (default: 1600)")
    counts.add_argument("--write", action="store_true", help="make this the baseline of this Python")
    counts.add_argument("--check", action="store_true", help="fail where the baseline is exceeded by more than 5 %%")
    counts.add_argument("--out", type=Path, help="folder of the result it belongs to")
    wear = verbs.add_parser(
        "soak", help="good, slow, hostile and dying clients at once; memory and descriptors watched"
    )
    wear.add_argument("--seconds", type=float, default=300.0, help="default: 300")
    heavy = verbs.add_parser("overload", help="twice the load a worker can carry, with --shed-after and without")
    heavy.add_argument("--seconds", type=float, default=10.0, help="of each (default: 10)")
    fair = verbs.add_parser(
        "arena", help="HttpArena's HTTP/1.1 profiles; each server is validated before it is measured"
    )
    fair.add_argument("--profiles", type=names(PROFILES), default=list(PROFILES), metavar="NAME,...")
    fair.add_argument("--servers", type=names(CONTESTANTS), default=list(CONTESTANTS), metavar="NAME,...")
    fair.add_argument("--rounds", type=int, default=3, help="samples of each server in each profile (default: 3)")
    fair.add_argument("--seconds", type=float, default=2.0, help="length of a sample (default: 2)")
    fair.add_argument("-c", "--connections", type=int, help="instead of each profile's own number")
    fair.add_argument("--server-core", type=int)
    fair.add_argument("--load-core", type=int)
    fair.add_argument("--nice", type=int, default=0)
    fair.add_argument("--out", type=Path, help="folder of the result it belongs to")
    practice = verbs.add_parser("train", help="the load for a build with FASTSERVE_PROFILE=make, see `make pgo`")
    practice.add_argument("--servers", type=names(train.NAMES), default=list(train.NAMES), metavar="NAME,...")
    practice.add_argument("--requests", type=int, default=train.REQUESTS, help="of each case (default: 3000)")
    look = verbs.add_parser(
        "misses", help="where the time of the missed aims of a result goes: instructions, system calls"
    )
    look.add_argument("--out", type=Path, required=True, help="folder of the result")
    wide = verbs.add_parser("scale", help="what more workers cost: CPU per request, memory and connections per worker")
    wide.add_argument("--seconds", type=int, default=SCALE_S, help="length of a sample (default: 2)")
    wide.add_argument("--rounds", type=int, default=SCALE_ROUNDS, help="samples of each number of workers (default: 5)")
    wide.add_argument("--out", type=Path, help="folder of the result it belongs to")
    return top


def _add_plan(measure: argparse.ArgumentParser) -> None:
    """The options of what is measured."""
    measure.add_argument("--quick", action="store_true", help="the nearest peers, the main cases, 3 rounds of 1 s")
    measure.add_argument("--resume", action="store_true", help="leave out the cases that --out already has")
    measure.add_argument(
        "--case",
        type=names(cases.CASES),
        metavar="NAME,...",
        help=f"of {', '.join(cases.CASES)} (default: {', '.join(cases.DEFAULT)})",
    )
    measure.add_argument(
        "--servers",
        type=names(servers.SERVERS),
        metavar="NAME,...",
        help=f"of {', '.join(servers.SERVERS)} (default: {', '.join(servers.DEFAULT)})",
    )
    measure.add_argument("--rounds", type=int, help="samples of each server in each case (default: 5; quick: 3)")
    measure.add_argument("--seconds", type=int, help="length of a sample, whole seconds (default: 2; quick: 1)")
    measure.add_argument(
        "--warmup", type=float, default=0.3, help="unrecorded load before round 1, seconds (default: 0.3)"
    )
    measure.add_argument(
        "-c", "--connections", type=int, default=64, help="unless the case names its own (default: 64)"
    )
    measure.add_argument("--server-core", type=int, help="default: the first core we may use")
    measure.add_argument("--load-core", type=int, help="default: the second core we may use")
    measure.add_argument("--nice", type=int, default=0, help="priority of servers and wrk; below 0 needs root")
    measure.add_argument("--reference", help="the server the ratios are made to (default: granian, if measured)")
    measure.add_argument("--out", type=Path, help="folder for the result (default: benchmarks/results/DATE-TIME)")


def measure(options: argparse.Namespace, say: Progress, folder: Path, started_at: datetime) -> Path:
    """Run what is asked for and not there yet; returns the path of the result."""
    path = folder / "result.json"
    before = report.read(path) if path.exists() else None
    wanted = options.case or list(cases.QUICK if options.quick else cases.DEFAULT)
    if options.resume and before:
        wanted = [name for name in wanted if name not in before["runs"]]
    if wanted:
        plan = run.Plan(
            cases=tuple(wanted),
            servers=tuple(options.servers or (servers.QUICK if options.quick else servers.DEFAULT)),
            rounds=options.rounds or (3 if options.quick else 5),
            seconds=options.seconds or (1 if options.quick else 2),
            warmup_seconds=options.warmup,
            connections=options.connections,
            cores=run.choose_cores(options.server_core, options.load_core),
            nice=options.nice,
        )
        say(f"after each case {path} is written; --resume --out {folder} goes on after an interruption")
        result = run.measure(plan, started_at, say, before, lambda result: report.keep(result, folder))
        path = report.keep(result, folder)
    return path


def parts_beside(
    options: argparse.Namespace, say: Progress, folder: Path
) -> dict[str, tuple[float, Callable[[], int]]]:
    """What is measured beside the load, each kept in the result's folder under its name: about how long, and how."""
    fair = arena.Plan(cores=run.choose_cores(options.server_core, options.load_core), nice=options.nice)
    parts: dict[str, tuple[float, Callable[[], int]]] = {
        "idle": (
            len(memory.ROWS) * memory.weigh_s(CONNECTIONS_IDLE),
            lambda: memory.main(list(memory.ROWS), CONNECTIONS_IDLE, folder, say),
        ),
        "instructions": (
            len(callgrind.ROWS) * callgrind.row_s(COUNTED),
            lambda: callgrind.main(list(callgrind.ROWS), COUNTED, False, False, folder, say),
        ),
        "scale": (
            scaling.estimate_s(SCALE_S, SCALE_ROUNDS),
            lambda: scaling.main(folder, SCALE_S, SCALE_ROUNDS, say),
        ),
        "misses": (MISSES_S, lambda: misses.main(folder, say)),
        "arena": (arena.estimate_s(fair), lambda: arena.main(fair, folder, say)),
    }
    wanted = ["misses"] if options.quick else list(parts)
    return {name: parts[name] for name in wanted if not (options.resume and report.has_extra(folder, name))}


def run_and_render(options: argparse.Namespace, say: Progress) -> int:
    """The verbs `run` and `report --run`."""
    started_at = datetime.now().astimezone()
    folder = options.out or Path(__file__).parent / "results" / started_at.strftime("%Y-%m-%d-%H%M%S")
    everything = options.verb == "report"
    parts = parts_beside(options, say, folder) if everything else {}
    say.foresee({name: seconds for name, (seconds, _) in parts.items()})
    path = measure(options, say, folder, started_at)
    for name, (_, measure_part) in parts.items():
        say.begin(name)
        try:
            measure_part()
        except (load.LoadError, servers.ServerError, run.PlanError) as error:
            say(f"{name}: {error}")  # and the report says that it was not measured
    print(report.render(path, folder, options.reference))
    if everything and options.page is not None:
        page.write(path, options.page)
        say(f"{options.page} is written")
    return 0 if report.read(path)["samples"] else 1


def render_again(options: argparse.Namespace) -> int:
    """The verb `report` with a result of before."""
    if options.result is None:
        raise report.ReportError("which result? Name its result.json, or --run to measure one")
    print(report.render(options.result, options.out or options.result.parent, options.reference))
    if options.page is not None:
        page.write(options.result, options.page)
    return 0


def measure_arena(options: argparse.Namespace, say: Progress) -> int:
    """The verb `arena`."""
    plan = arena.Plan(
        profiles=tuple(options.profiles),
        names=tuple(options.servers),
        rounds=options.rounds,
        seconds=options.seconds,
        connections=options.connections,
        cores=run.choose_cores(options.server_core, options.load_core),
        nice=options.nice,
    )
    return arena.main(plan, options.out, say)


def compare(options: argparse.Namespace, say: Progress) -> int:
    """The verb `paired`."""
    plan = run.Plan(
        cases=tuple(options.case),
        servers=(options.ours, options.other),
        rounds=options.rounds,
        seconds=1,  # of a sample as `run` takes it; these are shorter
        connections=options.connections,
        cores=run.choose_cores(options.server_core, options.load_core),
        nice=options.nice,
    )
    bound = options.bound
    modes = tuple(options.lens) if options.lens else None
    if bound is None and modes is None and (options.ours, options.other) == (targets.ON, targets.OFF):
        bound = targets.ON_BOUND
    seconds = max(options.milliseconds, 50) / 1000
    return paired.main(
        options.case, options.ours, options.other, options.starts, options.rounds, seconds, bound, plan, say, modes
    )


def main(arguments: list[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    say = Progress(sys.stderr)
    try:
        if options.verb == "run" or (options.verb == "report" and options.run):
            return run_and_render(options, say)
        if options.verb == "report":
            return render_again(options)
        if options.verb == "arena":
            return measure_arena(options, say)
        if options.verb == "paired":
            return compare(options, say)
        if options.verb == "idle":
            return memory.main(options.servers, options.connections, options.out, say)
        if options.verb == "callgrind":
            return callgrind.main(options.rows, options.requests, options.write, options.check, options.out, say)
        if options.verb == "soak":
            return soak.main(options.seconds, say)
        if options.verb == "overload":
            return overload.main(options.seconds, say)
        if options.verb == "train":
            return train.main(options.servers, options.requests, say)
        if options.verb == "scale":
            return scaling.main(options.out, options.seconds, options.rounds, say)
        return misses.main(options.out, say)
    except (load.LoadError, servers.ServerError, run.PlanError, report.ReportError) as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("benchmarks: interrupted; the cases that were finished are kept, and --resume goes on", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
