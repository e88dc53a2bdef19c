"""prometheus: the Board's figures in Prometheus' text format, or OpenMetrics, from one table of families.

Room: floor 2, telemetry. Called by: control.py for each scrape, docs/generate.py for the table. Calls: protocol (Board).

Format: Prometheus text exposition 0.0.4, and OpenMetrics 1.0.0 where a client asks for it. Names: Prometheus' rules (base
units, `_total`); where OpenTelemetry's semantic conventions for HTTP servers have a name, theirs, as its exporters spell
it. Counters are of a worker's place (its slot), over all processes that sat there, so a restart takes nothing away.
"""

from __future__ import annotations

import contextlib
import os
import platform
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from fastserve._version import __version__
from fastserve.protocol.board import (
    LATENCY_BOUNDS,
    SHED_WORDS,
    STATE_WORDS,
    TIMEOUT_WORDS,
    Board,
    Figures,
    SeatState,
    SeatView,
)

__all__ = ["FAMILIES", "OPENMETRICS", "TEXT", "Family", "Scrape", "render"]

TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"

CLASSES = ("none", "1xx", "2xx", "3xx", "4xx", "5xx")
STATES = {SeatState.BOOTING: "booting", SeatState.READY: "ready", SeatState.RETIRING: "retiring"}
TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100

Labels = tuple[tuple[str, str], ...]
Sample = tuple[str, Labels, float]  # suffix of the name, labels, value


@dataclass(frozen=True, slots=True)
class Family:
    """One metric family. `name` is without `_total`; `labels` are for the documentation."""

    name: str
    type: str  # counter, gauge, histogram
    help: str
    labels: tuple[str, ...]
    samples: Callable[[Scrape], Iterable[Sample]]

    @property
    def full_name(self) -> str:
        return f"{self.name}_total" if self.type == "counter" else self.name


class Scrape:
    """The Board as it is now: counters by slot, and the seats of living processes."""

    def __init__(self, board: Board) -> None:
        self.board = board
        self.now_ns = time.monotonic_ns()
        self.figures: list[Figures] = board.figures()
        self.seats: list[SeatView] = [
            seat for seat in map(board.__getitem__, range(len(board))) if seat.state in STATES
        ]

    @property
    def start_time(self) -> float:
        """Seconds since 1970."""
        return time.time() - (self.now_ns - self.board.started_ns) / 1e9


def worker(slot: int) -> Labels:
    """Workers are numbered from 1, as in the log."""
    return (("worker", str(slot + 1)),)


def process(seat: SeatView) -> Labels:
    return (*worker(seat.slot), ("pid", str(seat.pid)))


def loop_lag(seat: SeatView, now_ns: int) -> float:
    """Seconds that a ping has been unanswered, or that the answer to the last one took."""
    asked, answered = seat.poked_ns, seat.turned_ns
    if not asked:
        return 0.0
    return max(0, (answered if seat.answers else now_ns) - asked) / 1e9


def memory_and_cpu(pid: int) -> tuple[int, float] | None:
    """Resident bytes and CPU seconds of a process, or None where /proc cannot tell."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        resident = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return resident, (int(fields[11]) + int(fields[12])) / TICKS
    return None


# ---------------------------------------------------------------------------------------------------- families


def _one(value: Callable[[Scrape], float], labels: Labels = ()) -> Callable[[Scrape], Iterable[Sample]]:
    return lambda scrape: [("", labels, value(scrape))]


def _counted(value: Callable[[Figures], float]) -> Callable[[Scrape], Iterable[Sample]]:
    return lambda scrape: [("_total", worker(each.slot), value(each)) for each in scrape.figures]


def _requests(scrape: Scrape) -> Iterator[Sample]:
    for each in scrape.figures:
        for name, count in zip(CLASSES, each.by_class, strict=True):
            yield "_total", (*worker(each.slot), ("status_class", name)), count


def _durations(scrape: Scrape) -> Iterator[Sample]:
    for each in scrape.figures:
        labels, below = worker(each.slot), 0
        for bound, count in zip((*map(repr, LATENCY_BOUNDS), "+Inf"), each.latency, strict=True):
            below += count
            yield "_bucket", (*labels, ("le", bound)), below
        yield "_sum", labels, each.latency_ns / 1e9
        yield "_count", labels, below


def _accepted(scrape: Scrape) -> Iterator[Sample]:
    for each in scrape.figures:
        yield "_total", (*worker(each.slot), ("listener", "own")), each.accepts
        yield "_total", (*worker(each.slot), ("listener", "sibling")), each.accepts_of_others


def _connections(scrape: Scrape) -> Iterator[Sample]:
    for seat in scrape.seats:
        for word, count in zip(STATE_WORDS, seat.in_state, strict=True):
            yield "", (*process(seat), ("state", word)), count


def _state_seconds(scrape: Scrape) -> Iterator[Sample]:
    for each in scrape.figures:
        for word, ns in zip(STATE_WORDS, each.state_ns, strict=True):
            yield "_total", (*worker(each.slot), ("state", word)), ns / 1e9


def _labelled(label: str, words: tuple[str, ...], name: str) -> Callable[[Scrape], Iterable[Sample]]:
    return lambda scrape: [
        ("_total", (*worker(each.slot), (label, word)), count)
        for each in scrape.figures
        for word, count in zip(words, getattr(each, name), strict=True)
    ]


def _workers(scrape: Scrape) -> Iterator[Sample]:
    states = [seat.state for seat in scrape.seats]
    for state, name in STATES.items():
        yield "", (("state", name),), states.count(state)


def _by_process(value: Callable[[SeatView, int], float]) -> Callable[[Scrape], Iterable[Sample]]:
    return lambda scrape: [("", process(seat), value(seat, scrape.now_ns)) for seat in scrape.seats]


def _memory(scrape: Scrape) -> Iterator[Sample]:
    for seat in scrape.seats:
        if (found := memory_and_cpu(seat.pid)) is not None:
            yield "", process(seat), found[0]


def _cpu(scrape: Scrape) -> Iterator[Sample]:
    for seat in scrape.seats:
        if (found := memory_and_cpu(seat.pid)) is not None:
            yield "_total", process(seat), found[1]


def _queues(name: str) -> Callable[[Scrape], Iterable[Sample]]:
    return lambda scrape: [("", worker(each.slot), getattr(each, name)) for each in scrape.figures if each.queue >= 0]


def _busy(seat: SeatView, now_ns: int) -> float:
    since = seat.busy_since_ns
    return max(0, now_ns - since) / 1e9 if since else 0.0


WORKER, PROCESS = ("worker",), ("worker", "pid")

FAMILIES: tuple[Family, ...] = (
    Family(
        "http_server_requests",
        "counter",
        "Requests ended, by class of status; none: the client left before an answer.",
        (*WORKER, "status_class"),
        _requests,
    ),
    Family(
        "http_server_request_duration_seconds",
        "histogram",
        "From the complete head of a request to the last byte of its answer handed over.",
        WORKER,
        _durations,
    ),
    Family(
        "http_server_active_requests",
        "gauge",
        "Requests in flight.",
        PROCESS,
        _by_process(lambda seat, _: seat.active),
    ),
    Family(
        "fastserve_connections",
        "gauge",
        "Open connections, by what they wait for.",
        (*PROCESS, "state"),
        _connections,
    ),
    Family(
        "fastserve_connection_state_seconds",
        "counter",
        "Time that connections spent in each of these states, counted when they leave it.",
        (*WORKER, "state"),
        _state_seconds,
    ),
    Family(
        "fastserve_timeouts",
        "counter",
        "Requests and connections that met a deadline or a minimum rate, by which.",
        (*WORKER, "deadline"),
        _labelled("deadline", TIMEOUT_WORDS, "timeouts"),
    ),
    Family(
        "fastserve_shed",
        "counter",
        "Requests and connections that were turned away, or closed, for a limit of the whole worker, by which.",
        (*WORKER, "limit"),
        _labelled("limit", SHED_WORDS, "shed"),
    ),
    Family(
        "fastserve_held_bytes",
        "gauge",
        "Bytes of unfinished heads, unread bodies and pipelined requests.",
        PROCESS,
        _by_process(lambda seat, _: seat.held),
    ),
    Family(
        "fastserve_connections_accepted",
        "counter",
        "Connections accepted, from the worker's own listeners or from those of a sibling that could not take them.",
        (*WORKER, "listener"),
        _accepted,
    ),
    Family(
        "fastserve_accept_errors",
        "counter",
        "Failures of accept().",
        WORKER,
        _counted(lambda each: each.accept_errors),
    ),
    Family(
        "fastserve_accept_queue_connections",
        "gauge",
        "Connections that wait to be accepted, over a worker's TCP listeners, as of the last quarter of a second.",
        WORKER,
        _queues("queue"),
    ),
    Family(
        "fastserve_accept_queue_limit_connections",
        "gauge",
        "Connections that may wait.",
        WORKER,
        _queues("queue_max"),
    ),
    Family(
        "fastserve_received_bytes",
        "counter",
        "Bytes received from clients.",
        WORKER,
        _counted(lambda each: each.bytes_in),
    ),
    Family("fastserve_sent_bytes", "counter", "Bytes sent to clients.", WORKER, _counted(lambda each: each.bytes_out)),
    Family(
        "fastserve_requests_refused",
        "counter",
        "Requests answered for a fault of the client or a deadline, before a handler saw them.",
        WORKER,
        _counted(lambda each: each.refused),
    ),
    Family(
        "fastserve_connections_cut",
        "counter",
        "Connections closed by the server under a request.",
        WORKER,
        _counted(lambda each: each.cut),
    ),
    Family(
        "fastserve_connections_raced",
        "counter",
        "Idle connections that the server ended while a request was on its way (RFC 9112 section 9.5).",
        WORKER,
        _counted(lambda each: each.raced),
    ),
    Family("fastserve_workers", "gauge", "Worker processes, by state.", ("state",), _workers),
    Family(
        "fastserve_workers_wanted",
        "gauge",
        "Workers that there are to be.",
        (),
        _one(lambda scrape: scrape.board.wanted),
    ),
    Family(
        "fastserve_worker_starts",
        "counter",
        "Worker processes begun, for whatever reason.",
        WORKER,
        _counted(lambda each: each.starts),
    ),
    Family(
        "fastserve_worker_restarts",
        "counter",
        "Worker processes that ended without being told to: crashes, kills, hung loops.",
        WORKER,
        _counted(lambda each: each.restarts),
    ),
    Family(
        "fastserve_worker_loop_lag_seconds",
        "gauge",
        "How long the event loop has not answered a ping, or took to answer the last one.",
        PROCESS,
        _by_process(loop_lag),
    ),
    Family(
        "fastserve_worker_loop_busy_seconds",
        "gauge",
        "How long the callback that the event loop runs now has run; 0: it waits.",
        PROCESS,
        _by_process(_busy),
    ),
    Family("fastserve_worker_resident_memory_bytes", "gauge", "Resident memory.", PROCESS, _memory),
    Family("fastserve_worker_cpu_seconds", "counter", "User and system CPU time.", PROCESS, _cpu),
    Family(
        "fastserve_draining",
        "gauge",
        "1 while the server is stopping or about to.",
        (),
        _one(lambda scrape: scrape.board.draining),
    ),
    Family(
        "fastserve_supervisor_turn_age_seconds",
        "gauge",
        "Seconds since the supervisor's loop last turned; at least once a second is healthy.",
        (),
        _one(lambda scrape: max(0, scrape.now_ns - scrape.board.turned_ns) / 1e9),
    ),
    Family(
        "fastserve_start_time_seconds",
        "gauge",
        "When the server started, in seconds since 1970.",
        (),
        _one(lambda scrape: scrape.start_time),
    ),
    Family(
        "fastserve_build_info",
        "gauge",
        "1, with the versions in its labels.",
        ("version", "python"),
        _one(lambda _: 1, (("version", __version__), ("python", platform.python_version()))),
    ),
)


def render(board: Board, *, openmetrics: bool = False) -> str:
    """All families. Label values here are numbers, versions and words of ours: nothing needs to be escaped."""
    scrape = Scrape(board)
    lines: list[str] = []
    for family in FAMILIES:
        name = family.name if openmetrics else family.full_name
        lines += [f"# HELP {name} {family.help}", f"# TYPE {name} {family.type}"]
        for suffix, labels, value in family.samples(scrape):
            inside = ",".join([f'{key}="{text}"' for key, text in labels])
            lines.append(
                f"{family.name}{suffix}{{{inside}}} {_number(value)}"
                if inside
                else f"{family.name}{suffix} {_number(value)}"
            )
    if openmetrics:
        lines.append("# EOF")
    return "\n".join(lines) + "\n"


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(float(value))
