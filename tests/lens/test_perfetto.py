"""lens/perfetto.py: the JSON keeps the rules of its viewers, says what the model says, and opens in them without fault."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import socket
import time
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import urlopen

import pytest
from lens.stories import Story
from lens.test_page import random_story, shop
from lens.viewers import Viewers

from fastserve import App, StreamingResponse, cli, mark
from fastserve.lens.model import Model, build
from fastserve.lens.perfetto import render
from fastserve.lens.recording import Builder, Kind, Wait
from fastserve.testing import lens_server

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
            spans[one["pid"], one["cat"], one["id2"]["local"]].append(one)
    for parts in spans.values():
        stack: list[Trace] = []
        for one in sorted(parts, key=lambda one: float(one["ts"])):  # as a viewer reads them
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
    lengths = {track: sorted((start, end) for start, end, _ in parts if start < end) for track, parts in slices.items()}
    for parts in flows.values():  # each arrow has two ends, and a slice at both
        assert [one["ph"] for one in parts] == ["s", "f"] and parts[0]["ts"] <= parts[1]["ts"]
        for one in parts:
            at, around = ns(one["ts"]), lengths[one["pid"], one["tid"]]
            start, end = around[bisect_right(around, (at, 1 << 63)) - 1]
            assert start <= at < end, one


def tracks_of(found: list[Trace]) -> dict[str, tuple[int, int]]:
    return {one["args"]["name"]: (one["pid"], one["tid"]) for one in found if one["name"] == "thread_name"}


def test_the_rules_of_the_format_hold() -> None:
    check(events(shop().model(now=200)))


@pytest.mark.parametrize("seed", range(20))
def test_they_hold_for_random_programs(seed: int) -> None:
    check(events(random_story(seed).model()))


def torn(seed: int) -> Model:
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
    return build(builder.build())


@pytest.mark.parametrize("seed", range(20))
def test_they_hold_for_torn_recordings(seed: int) -> None:
    check(events(torn(seed)))


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
    assert '"GET /</script>\\"\\\\\u2028\u202e☕"' in render(story.model())  # Perfetto shows \\u2028 as it stands


# --------------------------------------------------------------------------------------------------- the viewers themselves


@pytest.fixture(scope="module")
def viewers() -> Iterator[Viewers]:
    with Viewers() as both:
        yield both


def opens(viewers: Viewers, text: str) -> None:
    """Both viewers take all of it, find nothing wrong, and show what we have written."""
    found = json.loads(text)["traceEvents"]
    check(found)
    slices: Counter[tuple[Any, ...]] = Counter()
    threads = {}
    for one in found:
        if one["ph"] == "X":
            slices[one["pid"], one["tid"], ns(one["ts"]), ns(one["dur"]), one["name"]] += 1
        elif one["ph"] == "i":
            slices[one["pid"], one["tid"], ns(one["ts"]), 0, one["name"]] += 1  # both have it as a slice without length
        elif one["name"] == "thread_name":
            threads[one["pid"], one["tid"]] = one["args"]["name"]
    spans: Counter[tuple[Any, ...]] = Counter()
    open_: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    begins = {}
    arrows: Counter[tuple[Any, ...]] = Counter()
    for one in found:
        if one["ph"] == "b":
            open_[one["pid"], one["id2"]["local"]].append(one)
        elif one["ph"] == "e":
            begun = open_[one["pid"], one["id2"]["local"]].pop()
            spans[one["pid"], ns(begun["ts"]), ns(one["ts"]) - ns(begun["ts"]), one["name"]] += 1
        elif one["ph"] == "s":
            begins[one["id"]] = one["pid"], one["tid"]
        elif one["ph"] == "f":
            arrows[*begins[one["id"]], one["pid"], one["tid"]] += 1
    for name, seen in viewers.both(text):
        assert seen.faults == [], name
        assert seen.slices == slices, name
        assert seen.spans == spans, name
        assert seen.arrows == arrows, name
        assert {track: seen.threads.get(track) for track in threads if track in {key[:2] for key in slices}} == {
            track: text for track, text in threads.items() if track in {key[:2] for key in slices}
        }, name


def together(texts: Iterable[str]) -> str:
    """Several traces in one file, each with processes and arrows of its own: a viewer takes seconds to open one."""
    all_: list[Trace] = []
    for number, text in enumerate(texts, 1):
        for one in json.loads(text)["traceEvents"]:
            one["pid"] += number * 100
            if one["ph"] in "sf":
                one["id"] += number * 1_000_000
            all_.append(one)
    return json.dumps({"traceEvents": all_}, ensure_ascii=False)


def test_the_viewers_do_say_what_is_wrong(viewers: Viewers) -> None:
    """Else that they say nothing means nothing."""

    def slice_(name: str, ts: float, dur: float) -> Trace:
        return {"ph": "X", "name": name, "pid": 1, "tid": 1, "ts": ts, "dur": dur}

    overlap = [slice_("one", 1, 10), slice_("other", 5, 10)]
    assert viewers.perfetto(json.dumps({"traceEvents": overlap})).faults == ["slice_drop_overlapping_complete_event: 1"]
    arrow = {"cat": "wake", "name": "wakes", "id": 1, "pid": 1, "tid": 1}
    from_nowhere = [slice_("one", 1, 10), {**arrow, "ph": "s", "ts": 12}, slice_("other", 20, 5)]
    from_nowhere += [{**arrow, "ph": "f", "bp": "e", "ts": 20}]
    faults = viewers.catapult(json.dumps({"traceEvents": from_nowhere})).faults
    assert [one.split(":")[0] for one in faults] == ["flow_slice_start_error", "flow_slice_ordering_error"]


def test_recordings_of_all_kinds_open(viewers: Viewers) -> None:
    opens(viewers, render(shop().model(now=200)))
    opens(viewers, together(render(random_story(seed).model()) for seed in range(20)))
    opens(viewers, together(render(torn(seed)) for seed in range(20)))


async def nap(seconds: float) -> str:
    await asyncio.sleep(seconds)
    return "awake"


async def naps() -> str:
    return await nap(0.002)


async def family() -> str:
    async with asyncio.TaskGroup() as group:
        for number in range(10):
            group.create_task(nap(number / 1000))
    return " ".join(await asyncio.gather(*(nap(0) for _ in range(40))))


async def in_threads() -> str:
    mark("</script> \u2028")
    await asyncio.gather(*(asyncio.to_thread(time.sleep, 0.002) for _ in range(4)))
    return "done"


async def gives_up() -> str:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.005):
            await asyncio.gather(nap(1), nap(2))
    return "given up"


async def blocks() -> str:
    time.sleep(0.06)
    return "done"


async def fails() -> str:
    await asyncio.sleep(0)
    raise RuntimeError("on purpose")


async def turns() -> str:
    for _ in range(5000):
        await asyncio.sleep(0)
    return "done"


async def streams() -> StreamingResponse:
    async def body() -> AsyncIterator[bytes]:
        for _ in range(20):
            await asyncio.sleep(0.001)
            yield b"x" * 1000

    return StreamingResponse(body())


class Gate:
    """Handlers that wake each other up."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()

    async def convoy(self) -> str:
        async with self.lock:
            await asyncio.sleep(0.001)
        return "through"


def hostile() -> App:
    app = App()
    through = Gate().convoy
    handlers: list[Callable[..., Any]] = [naps, family, in_threads, gives_up, blocks, fails, turns, streams, through]
    for handler in handlers:
        app.get("/" + handler.__name__.replace("_", "-"))(handler)

    @app.get("/plain")
    def plain() -> str:  # in a thread of its own
        time.sleep(0.002)
        return "done"

    return app


def wsgi(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
    time.sleep(0.002)
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]


def at_once(url: str, paths: list[str]) -> None:
    def get(path: str) -> None:
        try:
            with urlopen(url + path, timeout=60) as answer:
                answer.read()
        except HTTPError as error:  # one of them fails
            error.close()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(get, paths))


def pipelined(url: str, path: str, count: int) -> None:
    address = urlsplit(url)
    with socket.create_connection((address.hostname, address.port), timeout=60) as client:
        request = f"GET {path} HTTP/1.1\r\nhost: a\r\n\r\n".encode()
        client.sendall(request * (count - 1) + request.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n"))
        while client.recv(65536):
            pass


@pytest.mark.parametrize("kind", ["native", "overwritten", "wsgi"])
def test_what_a_server_has_recorded_opens(viewers: Viewers, tmp_path: Path, kind: str) -> None:
    """Requests that overlap, many tasks, threads, who gives up and who fails; and a ring that was overwritten."""
    out, name = tmp_path / "out.json", f"perfetto-{kind}"
    with lens_server(wsgi if kind == "wsgi" else hostile(), name=name) as server:
        if kind == "wsgi":
            at_once(server.url, ["/"] * 40)
        else:
            paths = ["/naps", "/family", "/in-threads", "/gives-up", "/blocks"]
            paths += ["/fails", "/streams", "/plain", "/convoy", "/convoy", "/naps"] * 3
            if kind == "overwritten":
                at_once(server.url, ["/turns", "/naps", "/turns", "/naps", "/family"] * 4)
            at_once(server.url, paths)
            pipelined(server.url, "/naps", 20)
        assert server.requests
        assert cli.main(["trace", name, "-o", str(out)]) == 0
    text = out.read_text(encoding="utf-8")
    assert (json.loads(text)["otherData"]["lost events"] > 0) == (kind == "overwritten")
    opens(viewers, text)
