"""The front door: `python -m benchmarks run` measures, `python -m benchmarks report` renders what was measured.

Called from a shell, at the root of the repository. Calls run.measure and report.render; has no logic of its own.
"""

import argparse
import sys
from collections.abc import Callable, Collection
from datetime import datetime
from pathlib import Path

from . import cases, load, report, run, servers


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

    measure = verbs.add_parser("run", help="measure, keep the raw JSON, render the report")
    measure.add_argument(
        "--case",
        type=names(cases.CASES),
        default=list(cases.DEFAULT),
        metavar="NAME,...",
        help=f"of {', '.join(cases.CASES)} (default: {', '.join(cases.DEFAULT)})",
    )
    measure.add_argument(
        "--servers",
        type=names(servers.SERVERS),
        default=list(servers.DEFAULT),
        metavar="NAME,...",
        help=f"of {', '.join(servers.SERVERS)} (default: {', '.join(servers.DEFAULT)})",
    )
    measure.add_argument("--rounds", type=int, default=5, help="samples of each server in each case (default: 5)")
    measure.add_argument("--seconds", type=int, default=2, help="length of a sample, whole seconds (default: 2)")
    measure.add_argument("--warmup", type=int, default=1, help="unrecorded load before round 1, seconds (default: 1)")
    measure.add_argument(
        "-c", "--connections", type=int, default=64, help="unless the case names its own (default: 64)"
    )
    measure.add_argument("--server-core", type=int, help="default: the first core we may use")
    measure.add_argument("--load-core", type=int, help="default: the second core we may use")
    measure.add_argument("--nice", type=int, default=0, help="priority of servers and wrk; below 0 needs root")
    measure.add_argument("--reference", help="the server the ratios are made to (default: granian, if measured)")
    measure.add_argument("--out", type=Path, help="folder for the result (default: benchmarks/results/DATE-TIME)")

    render = verbs.add_parser("report", help="render a result again")
    render.add_argument("result", type=Path, help="the result.json of an earlier run")
    render.add_argument("--reference", help="the server the ratios are made to")
    render.add_argument("--out", type=Path, help="folder for the rendered files (default: beside the result)")
    return top


def main(arguments: list[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    try:
        if options.verb == "report":
            print(report.render(options.result, options.out or options.result.parent, options.reference))
            return 0
        plan = run.Plan(
            cases=tuple(options.case),
            servers=tuple(options.servers),
            rounds=options.rounds,
            seconds=options.seconds,
            warmup_seconds=options.warmup,
            connections=options.connections,
            cores=run.choose_cores(options.server_core, options.load_core),
            nice=options.nice,
        )
        started_at = datetime.now().astimezone()
        folder = options.out or Path(__file__).parent / "results" / started_at.strftime("%Y-%m-%d-%H%M%S")
        result = run.measure(plan, started_at, say=lambda line: print(line, file=sys.stderr, flush=True))
        path = report.keep(result, folder)
        print(report.render(path, folder, options.reference))
        return 1 if not result["samples"] else 0
    except (load.LoadError, servers.ServerError, run.PlanError, report.ReportError) as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("benchmarks: interrupted; nothing was kept", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
