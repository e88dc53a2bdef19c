"""lens/perfetto.py: the JSON keeps the rules of its viewers, and says what the model says."""

from __future__ import annotations

import json
import random
from collections import defaultdict
from itertools import pairwise
from typing import Any

import pytest
from lens.stories import Story
from lens.test_page import random_story, shop

from fastserve.lens.model import Model, build
from fastserve.lens.perfetto import render
from fastserve.lens.recording import Builder, Kind, Wait

Trace = dict[str, Any]


def events(model: Model, **options: Any) -> list[Trace]:
    trace = json.loads(render(model, **options))
    assert set(trace) == {"displayTimeUnit", "otherData", "traceEvents"}
    return list(trace["traceEvents"])


def ns(us: float) -> int:
    return round(us * 1000)


def check(found: list[Trace]) -> None:
    """The viewers' rules, and more: what a viewer would draw wrong, or not at all, is an error here."""
    tracks = {(one["pid"], one["tid"]) for one in found if one["ph"] == "M" and one["name"] == "thread_name"}
    slices = defaultdict(list)
    for one in found:
        assert one["ph"] in "MXbeisfC", one
        if one["ph"] != "M":
            assert one["ts"] >= 0
        if one["ph"] in "Xibe":
            assert (one["pid"], one["tid"]) in tracks, f"a track without a name: {one}"
        if one["ph"] == "X":
            assert one["dur"] >= 0
            slices[one["pid"], one["tid"]].append((ns(one["ts"]), ns(one["ts"]) + ns(one["dur"]), one["name"]))
    for track, parts in slices.items():  # complete events of a track nest, or are apart
        open_: list[tuple[int, int, str]] = []
        for part in sorted(parts, key=lambda one: (one[0], -one[1])):
            while open_ and open_[-1][1] <= part[0]:
                open_.pop()
            assert not open_ or part[1] <= open_[-1][1], f"{track}: {part} leaves {open_[-1]}"
            open_.append(part)
        if track[1] != 1:  # only the loop has slices in slices
            flat = sorted(parts)
            assert all(one[1] <= other[0] for one, other in pairwise(flat)), track
    spans: dict[Any, list[Trace]] = defaultdict(list)  # nestable async events: by their id, a stack
    for one in found:
        if one["ph"] in "be":
            spans[one["pid"], one["cat"], one["id"]].append(one)
    for parts in spans.values():
        stack: list[Trace] = []
        for one in parts:
            if one["ph"] == "b":
                assert not stack or one["ts"] >= stack[-1]["ts"]
                stack.append(one)
            else:
                begun = stack.pop()
                assert begun["name"] == one["name"] and begun["ts"] <= one["ts"]
        assert not stack
    flows: dict[Any, list[Trace]] = defaultdict(list)
    for one in found:
        if one["ph"] in "sf":
            flows[one["id"]].append(one)
    for parts in flows.values():  # each arrow has two ends, and a slice at both
        assert [one["ph"] for one in parts] == ["s", "f"] and parts[0]["ts"] <= parts[1]["ts"]
        for one in parts:
            at, around = ns(one["ts"]), slices[one["pid"], one["tid"]]
            assert any(start <= at <= end for start, end, _ in around), one


def tracks_of(found: list[Trace]) -> dict[str, tuple[int, int]]:
    return {one["args"]["name"]: (one["pid"], one["tid"]) for one in found if one["name"] == "thread_name"}


def test_the_rules_of_the_format_hold() -> None:
    check(events(shop().model(now=200)))


@pytest.mark.parametrize("seed", range(20))
def test_they_hold_for_random_programs(seed: int) -> None:
    check(events(random_story(seed).model()))


@pytest.mark.parametrize("seed", range(20))
def test_they_hold_for_torn_recordings(seed: int) -> None:
    """Events that contradict each other, as a ring that was overwritten may leave them."""
    chance = random.Random(seed)
    builder = Builder()
    worker = builder.worker()
    stacks = [worker.stack(("/a.py", line, "f"), wait=Wait(line)) for line in range(5)]
    for _ in range(400):
        worker.event(
            Kind(chance.randint(1, 19)),
            chance.randrange(10**6, 10**9),
            chance.randrange(0, 10**8),
            request=chance.randrange(4),
            flags=chance.randrange(8),
            a=chance.choice([0, chance.randrange(10**9), chance.randrange(1, 7) << 32 | chance.randrange(6)]),
            task=chance.randrange(6),
            b=chance.choice(stacks),
        )
    check(events(build(builder.build())))


def test_a_tasks_track_has_its_life_without_a_gap() -> None:
    model = shop().model(now=200)
    found = events(model)
    tracks = tracks_of(found)
    for request in model.requests:
        for task in request.tasks.values():
            track = tracks[f"{request.name} {request.id}: task {task.id} {task.name}"]
            parts = sorted(
                (ns(one["ts"]), ns(one["dur"]), one["name"])
                for one in found
                if one["ph"] == "X" and (one["pid"], one["tid"]) == track
            )
            assert sum(part[1] for part in parts) == task.busy + task.scheduled + task.idle
            assert sum(part[1] for part in parts if part[2] == "runs") == task.busy
            assert sum(part[1] for part in parts if part[2] == "ready") == task.scheduled
            assert all(a[0] + a[1] == b[0] for a, b in pairwise(parts))


def test_slices_say_where_and_why() -> None:
    found = events(shop().model(now=200))
    (lock,) = [one for one in found if one["name"].startswith("await lock")]
    assert lock["name"] == "await lock shop.py:5" and lock["args"]["woken_by"].startswith("task ")
    assert lock["args"]["stack"][0] == "show (/home/me/shop/shop.py:5)" and lock["args"]["waits_for"] == "lock"
    (stall,) = [one for one in found if one.get("cat") == "stall"]
    assert stall["name"] == "shop.py:14" and ns(stall["dur"]) == 100_000_000
    (pause,) = [one for one in found if one.get("cat") == "gc"]
    assert pause["name"] == "generation 2"
    assert {one["args"]["name"] for one in found if one["ph"] == "M" and one["name"] == "process_name"} == {
        "worker 0 (pid 1001)",
        "worker 1 (pid 1002)",
    }
    assert "cache miss" in {one["name"] for one in found if one["ph"] == "i"}
    spans = [one["name"] for one in found if one["ph"] == "b"]
    assert "GET /report" in spans and "in the kernel" in spans and "GET /items/7: client is slow" in spans


def test_arrows_lead_from_who_woke_to_who_was_woken() -> None:
    story = shop()
    model = story.model(now=200)
    found = events(model)
    tracks = {track: name for name, track in tracks_of(found).items()}
    starts = {one["id"]: tracks[one["pid"], one["tid"]] for one in found if one["ph"] == "s"}
    ends = {one["id"]: tracks[one["pid"], one["tid"]] for one in found if one["ph"] == "f"}
    arrows = {(starts[number].split()[-1], ends[number].split()[-1]) for number in starts}
    assert arrows == {("asyncio_0", "stock_of"), ("show", "show"), ("price_of", "show")}  # a timer has no track


def test_requests_in_flight_are_counted() -> None:
    counts = [one["args"]["requests"] for one in events(shop().model(now=200)) if one["ph"] == "C" and one["pid"] == 1]
    assert max(counts) == 4 and counts[-1] == 0


def test_paths_can_be_stripped() -> None:
    model = shop("/home/me/private").model(now=200)
    assert "private" in render(model)
    text = render(model, strip_paths=True)
    assert "private" not in text and "/usr/lib" not in text and "(asyncio/locks.py:90)" in text


def test_an_event_costs_little(monkeypatch: pytest.MonkeyPatch) -> None:
    story = Story()
    for number in range(300):
        told = story.request(f"GET /items/{number}", at=number * 3, route="/items/{id}")
        told.poll(number * 3, number * 3 + 0.2, "shop.py:4 show", Wait.TIMER)
        told.poll(number * 3 + 2, number * 3 + 2.1, by="timer").head(number * 3 + 2).ends(number * 3 + 2.2)
    model = story.model()
    assert len(render(model)) / sum(len(one.events) for one in model.recording.workers) < 320


def test_nothing_recorded_is_a_trace_too() -> None:
    assert [one["ph"] for one in events(build(Builder("none").build()))] == []
    check(events(Story().model(now=1)))


def test_what_a_recording_says_stays_in_its_strings() -> None:
    story = Story()
    hostile = 'GET /</script>"\\\u2028\u202e☕'
    told = story.request(hostile, at=0)
    told.poll(0, 1, '/tmp/"quoted".py:3 </b>').poll(2, 3).ends(4)
    found = events(story.model())
    assert hostile in {one["name"] for one in found if one["ph"] == "b"}
