"""control: the application of the admin address: what probes, Prometheus and operators ask, answered from the Board.

Room: floor 2, beside app.py: an ordinary native application. Called by: process/admin.py, which loads it by name as any
application. Calls: app, telemetry (prometheus), protocol (Board, Response).

It reads shared memory and /proc, and asks no worker: so it answers while every worker is busy, or dead.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

from fastserve.app import App
from fastserve.protocol.board import STATE_WORDS, Board, SeatState, SeatView
from fastserve.protocol.request import Request
from fastserve.protocol.response import JSONResponse, PlainTextResponse, Response
from fastserve.telemetry import prometheus

__all__ = ["make"]

STALE_NS = 5_000_000_000  # a supervisor that has not turned for this long is stuck: it turns every second
LOOKS = 6  # at the workers until none is called responsive: a busy one is between two callbacks at one of them
LOOK_SECONDS = 0.01
STATES = ("empty", "booting", "ready", "retiring", "dead")
FRESH = {"cache-control": "no-store"}

INDEX = """\
fastserve: control
/healthz  200 if the supervisor turns
/readyz   200 if the server takes requests
/metrics  Prometheus
/workers  JSON
"""


def make(board: Board) -> App:
    """The application for this board."""
    app = App()

    @app.get("/")
    async def index() -> Response:
        return PlainTextResponse(INDEX, headers=FRESH)

    @app.get("/healthz")
    async def healthz() -> Response:
        age = max(0, time.monotonic_ns() - board.turned_ns)
        healthy = age <= STALE_NS
        answer: dict[str, Any] = {"status": "ok" if healthy else "failing"}
        if not healthy:
            answer["reason"] = f"the supervisor's loop has not turned for {age / 1e9:.1f} s"
        return _json(answer, 200 if healthy else 503)

    @app.get("/readyz")
    async def readyz() -> Response:
        for look in range(LOOKS):
            if look:
                await asyncio.sleep(LOOK_SECONDS)
            if (reason := _not_ready(board)) is None:
                return _json({"status": "ok"}, 200)
        return _json({"status": "failing", "reason": reason}, 503)

    @app.get("/metrics")
    async def metrics(request: Request) -> Response:
        openmetrics = "application/openmetrics-text" in request.headers.get("accept", "")
        text = prometheus.render(board, openmetrics=openmetrics)
        kind = prometheus.OPENMETRICS if openmetrics else prometheus.TEXT
        return Response(text.encode(), headers={**FRESH, "content-type": kind, "vary": "accept"})

    @app.get("/workers")
    async def workers() -> Response:
        seats = [board[index] for index in range(len(board))]
        now = time.monotonic_ns()
        return _json({"workers": [_worker(seat, now) for seat in seats if seat.state in prometheus.STATES]}, 200)

    return app


def _json(content: dict[str, Any], status: int) -> Response:
    return JSONResponse(content, status_code=status, headers=FRESH)


def _not_ready(board: Board) -> str | None:
    """Why no new request should come here; None if it may."""
    if board.draining:
        return "the server is draining"
    ready = [seat for seat in map(board.__getitem__, range(len(board))) if seat.state == SeatState.READY]
    if not ready:
        return "no worker is ready"
    if not any(seat.responsive for seat in ready):
        return f"none of {len(ready)} ready workers is responsive"
    return None


def _worker(seat: SeatView, now: int) -> dict[str, Any]:
    doing, found = seat.doing(), prometheus.memory_and_cpu(seat.pid)
    return {
        "worker": seat.slot + 1,
        "slot": seat.slot,
        "seat": seat.index,
        "pid": seat.pid,
        "state": STATES[seat.state],
        "responsive": seat.responsive,
        "generation": seat.generation,
        "age_seconds": _seconds(now - seat.started_ns),
        "connections": seat.connections,
        "connections_by_state": dict(zip(STATE_WORDS, seat.in_state, strict=True)),
        "held_bytes": seat.held,
        "active_requests": seat.active,
        "served": seat.served,
        "doing": None if doing is None else {"request": doing[0] or None, "seconds": round(doing[1], 3)},
        "requests": [{"request": text, "seconds": round(age, 3)} for text, age in seat.requests()],
        "loop_lag_seconds": round(prometheus.loop_lag(seat, now), 6),
        "rss_bytes": None if found is None else found[0],
        "cpu_seconds": None if found is None else found[1],
    }


def _seconds(ns: int) -> float:
    return round(max(0, ns) / 1e9, 3)
