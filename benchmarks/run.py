"""The measuring itself: the rounds, interleaved; the machine, written down; all that went wrong, kept.

Called by __main__. Calls servers (start, check, stop), load (one sample) and cpu (before and after it). Returns plain
data that report.py keeps as JSON and renders. Nothing is dropped here: a sample that another process disturbed is kept
with the figure that shows it, and report.py says what it made of it.
"""

import os
import platform
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from . import cpu, load, servers
from .cases import CASES, Case
from .progress import Progress
from .servers import Running, ServerError

SCHEMA = 2
PACKAGES = (
    *("fastserve-http", "uvicorn", "granian", "httptools", "h11", "uvloop", "orjson", "msgspec", "Cython"),
    *("gunicorn", "hypercorn", "fastapi", "websockets", "wsproto"),
)
SIZE_TOLERANCE = 0.05
LOOK_S = 0.7  # about: asking one server for its version
START_S = 1.2  # about: a server's start and first answer
AROUND_S = 0.3  # about: what a sample takes beside its load


class PlanError(Exception):
    """What was asked for cannot be measured on this machine."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure. cores = (the servers' core, wrk's core)."""

    cases: tuple[str, ...]
    servers: tuple[str, ...]
    rounds: int
    seconds: int
    connections: int
    cores: tuple[int, int]
    warmup_seconds: float = 1
    nice: int = 0

    def __post_init__(self) -> None:
        if min(self.rounds, self.seconds, self.connections) < 1 or self.warmup_seconds <= 0:
            raise PlanError(
                "rounds, seconds, warm-up and connections must each be at least 1, and there must be some warm-up"
            )


@dataclass(frozen=True, slots=True)
class Sample:
    """One run of wrk against one server. The cpu fields are the server's whole process tree."""

    case: str
    server: str
    round: int
    connections: int
    requests: int
    requests_per_s: float
    bytes_per_answer: float
    transfer_per_s: float
    connections_opened: int  # on the whole machine, ours among them: many more than `connections` mean that some closed
    latency_us: dict[str, int] | None
    cpu_us_per_request: float
    user_us_per_request: float
    system_us_per_request: float
    server_busy: float  # of one core
    wrk_busy: float  # of one core
    others_busy: float  # of one core: what neither the server nor wrk used, in the time of the sample
    rss_bytes: int


def turns(names: Iterable[str], number: int) -> list[str]:
    """Everybody, in the order of this round (from 1): each begins one further on."""
    order = list(names)
    first = (number - 1) % len(order) if order else 0
    return order[first:] + order[:first]


def typed(command: list[str]) -> list[str]:
    """What one would type in a clone: the folders of this machine are nobody else's business."""
    return [Path(command[0]).name, *(word.removeprefix(f"{servers.ROOT}/") for word in command[1:])]


def choose_cores(server: int | None, wrk: int | None) -> tuple[int, int]:
    """The first two cores we may use, unless told otherwise. One core for both is possible only if asked for."""
    allowed = sorted(os.sched_getaffinity(0))
    if server is None:
        server = next((core for core in allowed if core != wrk), allowed[0])
    if wrk is None:
        wrk = next((core for core in allowed if core != server), None)
    if wrk is None:
        raise PlanError("server and wrk need a core each; to try it on one, give it as --server-core and --load-core")
    if not {server, wrk} <= set(allowed):
        raise PlanError(f"cores {server} and {wrk} are not both among those we may use: {allowed}")
    return server, wrk


def look(rows: dict[str, servers.Server], say: Progress) -> tuple[dict[str, str], dict[str, str]]:
    """The versions of those that can be started here, and why the others cannot. Builds what is compiled."""
    present: dict[str, str] = {}
    missing: dict[str, str] = {}
    say.plan(LOOK_S * len(rows))
    with say.step(f"looking for {len(rows)} servers, building what is compiled", LOOK_S * len(rows)):
        for name, server in rows.items():
            try:
                present[name] = server.version()
            except ServerError as error:
                missing[name] = str(error)
                say(f"missing: {name}: {error}")
    return present, missing


def asked(names: Iterable[str], case: str) -> list[str]:
    """Which of the servers are to be asked that case."""
    return [name for name in names if servers.SERVERS[name].can(case)]


def _case_s(plan: Plan, case: str, names: list[str]) -> float:
    return len(names) * (_start_s(plan) + plan.rounds * (plan.seconds + AROUND_S))


def _start_s(plan: Plan) -> float:
    return START_S + max(0.3, plan.warmup_seconds)


def measure(
    plan: Plan,
    started_at: datetime,
    say: Progress,
    before: dict[str, Any] | None = None,
    keep: Callable[[dict[str, Any]], object] = lambda result: None,
) -> dict[str, Any]:
    """Every case, every server, every round. The result is what result.json holds.

    `before` is an earlier result: its cases that are not in the plan are carried over, each with the run it is from.
    `keep` is
    called after each case, so that an interrupted run loses only the case in hand.
    """
    wrk_version = load.version()
    wanted = [name for name in plan.servers if any(servers.SERVERS[name].can(case) for case in plan.cases)]
    present, missing = look({name: servers.SERVERS[name] for name in wanted}, say)
    before = before or {}
    old = [name for name in before.get("runs", {}) if name not in plan.cases]
    result: dict[str, Any] = {
        "schema": SCHEMA,
        "started_at": started_at.isoformat(timespec="seconds"),
        "took_s": 0.0,
        "plan": {
            **asdict(plan),
            "cases": [name for name in CASES if name in (*old, *plan.cases)],
            "servers": [
                name for name in servers.SERVERS if name in (*before.get("plan", {}).get("servers", ()), *plan.servers)
            ],
        },
        "machine": describe_machine(plan.cores),
        "versions": {**before.get("versions", {}), "wrk": wrk_version, **present},
        "packages": {name: version for name in PACKAGES if (version := _package_version(name))},
        "commands": {
            **before.get("commands", {}),
            **{name: typed(servers.SERVERS[name].command(0)) for name in present},
        },
        "missing": {**{n: why for n, why in before.get("missing", {}).items() if n not in present}, **missing},
        "runs": {name: before["runs"][name] for name in old},
        "failures": [failure for failure in before.get("failures", ()) if failure["case"] in old],
        "samples": [sample for sample in before.get("samples", ()) if sample["case"] in old],
    }

    say.plan(sum(_case_s(plan, case_name, asked(present, case_name)) for case_name in plan.cases))
    for case_name in plan.cases:
        case_began_at = datetime.now().astimezone()
        samples: list[Sample] = []
        failures: list[dict[str, Any]] = []

        def fail(case: Case, name: str, number: int, error: Exception, to: list[dict[str, Any]] = failures) -> None:
            to.append({"case": case.name, "server": name, "round": number, "reason": str(error)})
            say(f"{case.name:10} {name:15} round {number}: failed: {error}")

        here = asked(present, case_name)
        _measure_case(plan, CASES[case_name], here, samples, fail, say)
        result["samples"] += [asdict(sample) for sample in samples]
        result["failures"] += failures
        now = datetime.now().astimezone()
        result["runs"][case_name] = {
            "started_at": case_began_at.isoformat(timespec="seconds"),
            "took_s": round((now - case_began_at).total_seconds(), 1),
            "commit": result["machine"]["commit"],
            "rounds": plan.rounds,
            "seconds": plan.seconds,
            "asked": here,
        }
        result["took_s"] = round(sum(run["took_s"] for run in result["runs"].values()), 1)
        keep(result)
    return result


def _measure_case(
    plan: Plan,
    case: Case,
    names: list[str],
    samples: list[Sample],
    fail: Callable[[Case, str, int, Exception], None],
    say: Progress,
) -> None:
    """Start all, check and warm each, then rounds: every server once per round, each round beginning one further on.

    Whose turn it is not is frozen. Servers are started anew for each case, so that one that was broken by a case is whole
    in the next.
    """
    running: dict[str, Running] = {}
    sizes: dict[str, int] = {}
    try:
        for name in names:
            try:
                with say.step(f"{case.name}, {name}: start and warm-up", _start_s(plan)):
                    running[name] = servers.start(servers.SERVERS[name], pinned(plan.cores[0], plan.nice))
                    sizes[name] = running[name].check(case)
                    put_under_load(plan, case, running[name], sizes[name], plan.warmup_seconds)
                    running[name].freeze()
            except (ServerError, load.LoadError) as error:
                fail(case, name, 0, error)
                say.plan(-plan.rounds * (plan.seconds + AROUND_S))
                if name in running:
                    running.pop(name).stop()
        for number in range(1, plan.rounds + 1):
            for name in turns(running, number):
                try:
                    with (
                        say.step(f"{case.name}, {name}: round {number} of {plan.rounds}", plan.seconds + AROUND_S),
                        awake(running[name], case),
                    ):
                        sample = take_sample(plan, case, running[name], number, sizes[name], plan.seconds)
                except (ServerError, load.LoadError) as error:
                    fail(case, name, number, error)
                    continue
                samples.append(sample)
                say(
                    f"{case.name:10} {name:15} round {number}: {sample.cpu_us_per_request:7.2f} us/request, "
                    f"{sample.requests_per_s:8.0f} requests/s, others {sample.others_busy:4.0%} of a core"
                )
    finally:
        for server in running.values():
            server.stop()


@contextmanager
def awake(running: Running, case: Case | None = None) -> Iterator[None]:
    """A server's turn: it goes on and answers the case, if one is named, and is frozen afterwards, even if that failed."""
    try:
        running.thaw(case)
        yield
    finally:
        running.freeze()


def put_under_load(plan: Plan, case: Case, running: Running, answer_size: int, seconds: float) -> load.Load:
    """wrk's load; our client's where wrk cannot make it: a WebSocket, or less than a second (the warm-up)."""
    raw, prepare = case.request(running.host), pinned(plan.cores[1], plan.nice)
    connections = case.connections or plan.connections
    if case.websocket or (seconds < 1 and case.keep_alive and not case.tls):
        return load.run_client(
            running.port,
            case.message() if case.websocket else raw,
            connections=connections,
            answer_size=answer_size,
            milliseconds=round(1000 * seconds),
            each=case.depth,
            hello=raw if case.websocket else b"",
            prepare=prepare,
        )
    return load.run(
        running.url,
        raw,
        connections=connections,
        seconds=max(1, round(seconds)),
        pipelined=case.depth > 1,
        prepare=prepare,
    )


def take_sample(plan: Plan, case: Case, running: Running, number: int, answer_size: int, seconds: float) -> Sample:
    """One load of so long, and what the server used for it. LoadError, or ServerError, for one that does not count."""
    running.must_live()
    opened_before, machine_before_ns = connections_opened(), cpu.machine_busy_ns()
    before, began_at = cpu.snapshot(running.pid), time.perf_counter()
    seen = put_under_load(plan, case, running, answer_size, seconds)
    after, ended_at = cpu.snapshot(running.pid), time.perf_counter()
    opened_after, machine_after_ns = connections_opened(), cpu.machine_busy_ns()
    running.must_live()
    if abs(seen.bytes_per_answer - answer_size) > SIZE_TOLERANCE * answer_size:
        raise load.LoadError(
            f"answers of {seen.bytes_per_answer:.1f} bytes under load, of {answer_size} when asked once: not the same"
        )
    used = cpu.between(before, after)
    others_ns = machine_after_ns - machine_before_ns - used.total_ns - seen.wrk_cpu_s * 1e9
    return Sample(
        case=case.name,
        server=running.server.name,
        round=number,
        connections=case.connections or plan.connections,
        requests=seen.requests,
        requests_per_s=round(seen.requests_per_s, 1),
        bytes_per_answer=round(seen.bytes_per_answer, 2),
        transfer_per_s=round(seen.transfer_per_s),
        connections_opened=opened_after - opened_before,
        latency_us=seen.latency_us,
        cpu_us_per_request=round(used.total_ns / seen.requests / 1e3, 3),
        user_us_per_request=round(used.user_ns / seen.requests / 1e3, 2),
        system_us_per_request=round(used.system_ns / seen.requests / 1e3, 2),
        server_busy=round(used.total_ns / 1e9 / seen.duration_s, 3),
        wrk_busy=round(seen.wrk_busy, 3),
        others_busy=round(max(0.0, others_ns / 1e9) / (ended_at - began_at), 3),
        rss_bytes=cpu.rss_bytes(running.pid),
    )


def pinned(core: int, nice: int) -> Callable[[], None]:
    """For the child, before its program starts, so that every thread it makes inherits both."""

    def prepare() -> None:
        os.sched_setaffinity(0, {core})
        if nice:
            os.setpriority(os.PRIO_PROCESS, 0, nice)

    return prepare


def connections_opened() -> int:
    """TCP connections actively opened on this machine since boot: the clients' side of each."""
    names, values = (
        line.split() for line in Path("/proc/net/snmp").read_text().splitlines() if line.startswith("Tcp:")
    )
    return int(values[names.index("ActiveOpens")])


def describe_machine(cores: tuple[int, int]) -> dict[str, Any]:
    def first(path: str, default: str = "") -> str:
        try:
            return Path(path).read_text().strip()
        except OSError:
            return default

    about = [line.partition(":") for line in first("/proc/cpuinfo").splitlines()]
    model = [value.strip() for key, _, value in about if key.strip() == "model name"]
    siblings = first(f"/sys/devices/system/cpu/cpu{cores[0]}/topology/thread_siblings_list")
    return {
        "cpu": model[0] if model else platform.processor(),
        "cores": os.cpu_count(),
        "server_core": cores[0],
        "load_core": cores[1],
        # True would mean two hardware threads of one core: the server and wrk would share its execution units.
        "cores_are_siblings": str(cores[1]) in siblings.replace("-", ",").split(",") and cores[0] != cores[1],
        "governor": first(f"/sys/devices/system/cpu/cpu{cores[0]}/cpufreq/scaling_governor", "not told"),
        "kernel": platform.release(),
        "platform": platform.platform(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "load_average_at_start": list(os.getloadavg()),
        "commit": commit(),
    }


def commit() -> str:
    """The state of the repository that is measured."""

    def git(*arguments: str) -> str:
        told = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False, cwd=servers.ROOT)
        return told.stdout.strip() if told.returncode == 0 else ""

    try:
        found = git("rev-parse", "--short=12", "HEAD")
        return (found or "none yet") + (", with changes" if git("status", "--porcelain") else "")
    except OSError:
        return "unknown: no git"


def _package_version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""
