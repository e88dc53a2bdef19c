"""prometheus: what a Board holds, as text that Prometheus' own parsers read; totals that outlive seats."""

from __future__ import annotations

import os
import re

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from fastserve.protocol.board import LATENCY_BOUNDS, Board, SeatState
from fastserve.telemetry.prometheus import FAMILIES, render


@pytest.fixture
def board() -> Board:
    made = Board(4)
    for slot in (0, 1):
        seat = made[slot]
        seat.slot, seat.pid, seat.state = slot, os.getpid(), SeatState.BOOTING
        seat.state = SeatState.READY
    made.wanted = 2
    return made


def samples(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in parse_text(text)
        for sample in family.samples
    }


def test_every_family_is_there_in_both_formats(board: Board) -> None:
    board.queue(0, 3, 100)
    found = {family.name: family for family in parse_text(render(board))}
    assert set(found) == {family.name for family in FAMILIES}
    for family in FAMILIES:
        assert found[family.name].type == family.type
        assert found[family.name].documentation == family.help
        for sample in found[family.name].samples:
            assert set(sample.labels) - {"le"} == set(family.labels), sample
    text = render(board, openmetrics=True)
    assert text.endswith("# EOF\n")
    assert {family.name: family.type for family in parse_openmetrics(text)} == {f.name: f.type for f in FAMILIES}


def test_names_follow_the_rules() -> None:
    for family in FAMILIES:
        assert re.fullmatch(r"(http_server|fastserve)_[a-z]+(_[a-z]+)*", family.name)
        assert not family.name.endswith("_total")
        assert family.help.endswith(".")
        assert all(re.fullmatch(r"[a-z_]+", label) for label in family.labels)


def test_buckets_are_cumulative_and_named_by_their_bounds(board: Board) -> None:
    buckets = [
        sample.labels["le"]
        for family in parse_text(render(board))
        for sample in family.samples
        if sample.name.endswith("_bucket") and sample.labels["worker"] == "1"
    ]
    assert [float(bound) for bound in buckets] == [*LATENCY_BOUNDS, float("inf")]


def test_gauges_of_the_dead_are_not_shown_and_starts_are_counted(board: Board) -> None:
    board[0].state = SeatState.DEAD
    board.restarted(0)
    board.clear(0)
    seat = board[2]
    seat.slot, seat.pid, seat.state = 0, os.getpid(), SeatState.BOOTING
    found = samples(render(board))
    assert found["fastserve_workers", (("state", "booting"),)] == 1
    assert found["fastserve_workers", (("state", "ready"),)] == 1
    assert found["fastserve_worker_starts_total", (("worker", "1"),)] == 2
    assert found["fastserve_worker_restarts_total", (("worker", "1"),)] == 1
    assert found["fastserve_worker_starts_total", (("worker", "2"),)] == 1
    assert found["fastserve_workers_wanted", ()] == 2


def test_an_unknown_queue_is_left_out(board: Board) -> None:
    board.queue(1, 7, 128)
    found = samples(render(board))
    assert found["fastserve_accept_queue_connections", (("worker", "2"),)] == 7
    assert found["fastserve_accept_queue_limit_connections", (("worker", "2"),)] == 128
    assert ("fastserve_accept_queue_connections", (("worker", "1"),)) not in found


def test_supervisor_words(board: Board) -> None:
    board.turn()
    assert samples(render(board))["fastserve_draining", ()] == 0
    board.draining = True
    found = samples(render(board))
    assert found["fastserve_draining", ()] == 1
    assert 0 <= found["fastserve_supervisor_turn_age_seconds", ()] < 60
    with pytest.raises(IndexError):
        board.queue(4, 0, 0)
    with pytest.raises(IndexError):
        board.restarted(-1)
