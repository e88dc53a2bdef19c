"""What a reader makes of a worker's memory: whole, half overwritten, torn, hostile; and of files of it."""

from __future__ import annotations

import json
import os
import random
import stat
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from fastserve.errors import LensError
from fastserve.lens.recording import (
    EVENT,
    HEADER,
    PAGE,
    Area,
    Builder,
    Event,
    Frame,
    Kind,
    Recording,
    Stack,
    Wait,
    WorkerBuilder,
    WorkerRecording,
    mode_text,
    request_id,
)
from fastserve.telemetry.lens import LensMemory, Mode

SEAT = WorkerBuilder(0, 7).seat()


def demo() -> Builder:
    """One request that waited for a lock, and one in flight."""
    builder = Builder("shop", pid=100)
    worker = builder.worker()
    where = worker.stack(("/app/items.py", 41, "show"), ("/usr/lib/locks.py", 112, "Lock.acquire"), wait=Wait.LOCK)
    worker.event(Kind.REQUEST_BEGIN, 1000, 10, request=1, b=worker.text("GET /items/7"), task=3)
    worker.event(Kind.TASK_POLL, 1010, 5, request=1, task=1, a=1010, b=where, flags=1)
    worker.event(Kind.TASK_AWAIT, 1015, 100, request=1, task=1, b=where)
    worker.event(Kind.REQUEST_END, 1200, 200, request=1, a=200)
    worker.live("GET /events", 900, request=2, state="waiting", state_since_ns=950, stack=where)
    return builder


def reader(data: bytes | bytearray) -> Callable[[int, int], bytes]:
    return lambda offset, length: bytes(data[offset : offset + length])


def test_what_a_worker_wrote_is_what_is_read() -> None:
    recording = demo().build()
    (worker,) = recording.workers
    assert (recording.name, recording.pid, recording.mode, worker.mode) == ("shop", 100, "full", "full")
    assert [Kind(event.kind) for event in worker.events] == [
        Kind.REQUEST_BEGIN,
        Kind.TASK_POLL,
        Kind.TASK_AWAIT,
        Kind.REQUEST_END,
    ]
    begin = worker.events[0]
    assert begin == Event(1000, 10, 1, Kind.REQUEST_BEGIN, 0, 0, 3, begin.b) and worker.text(begin.b) == "GET /items/7"
    stack = worker.stack(worker.events[1].b)
    assert stack == Stack(
        (Frame("/app/items.py", 41, "show"), Frame("/usr/lib/locks.py", 112, "Lock.acquire")), Wait.LOCK
    )
    (live,) = worker.live
    assert (live.text, live.state, live.since_ns, live.state_since_ns, live.stack) == (
        "GET /events",
        "waiting",
        900,
        950,
        stack,
    )
    assert worker.lost == 0 and worker.alive and worker.seat_figures.active == 1


def test_the_request_that_holds_the_loop_is_shown_as_running() -> None:
    """The seat says which flight runs, traced or not."""
    builder = Builder()
    worker = builder.worker(mode="ready")
    worker.live("GET /blocks", 10)
    worker.live("GET /waits", 5)
    worker.figures = {"running": 0, "busy_since_ns": 12}
    waits, blocks = builder.build().workers[0].live
    assert (waits.text, waits.state) == ("GET /waits", "unknown")
    assert (blocks.text, blocks.state, blocks.state_since_ns) == ("GET /blocks", "running", 12)


def test_ids_and_modes_read_as_people_write_them() -> None:
    assert request_id(3, 0x18F2) == "w3-18f2" and request_id(0, 1) == "w0-0001"
    assert [mode_text(*words) for words in ((0, 0, 0), (1, 0, 0), (3, 100, 0), (4, 0, 200_000_000), (5, 0, 0))] == [
        "off",
        "ready",
        "sample:100",
        "slow:200ms",
        "full",
    ]


def test_overwritten_events_are_counted_as_lost() -> None:
    builder = Builder()
    worker = builder.worker(capacity=8)
    for index in range(20):
        worker.event(Kind.MARK, index)
    (found,) = builder.build().workers
    # Eight have room; the place of the oldest of them is where the next one may be half written by now.
    assert [event.t for event in found.events] == list(range(13, 20)) and found.lost == 13


def test_events_written_while_the_ring_is_copied_are_not_taken_for_older_ones() -> None:
    """The writer goes on for three events between the copy of the ring and the second look at its head."""
    builder = Builder()
    worker = builder.worker(capacity=8)
    for index in range(10):
        worker.event(Kind.MARK, index)
    data = bytearray(worker.memory())
    ring_at = struct.unpack_from("<Q", data, HEADER["ring_offset"][0])[0]
    looks = 0

    def read(offset: int, length: int) -> bytes:
        nonlocal looks
        if offset == ring_at:
            for index in range(10, 13):  # before the bytes are copied: the worst case
                EVENT.pack_into(data, ring_at + index % 8 * EVENT.size, *Event(1000 + index, 0, 0, 16, 0, 0, 0, 0))
            struct.pack_into("<Q", data, HEADER["ring_head"][0], 13)
        looks += offset == 0
        return bytes(data[offset : offset + length])

    area = Area.read(read, len(data))
    events, bad = area.events()
    assert [event.t for event in events] == [6, 7, 8, 9] and (area.lost, bad, looks) == (6, 0, 2)


def test_a_worker_that_is_replaced_while_it_is_read_is_read_again() -> None:
    builder = Builder()
    worker = builder.worker()
    worker.event(Kind.MARK, 1)
    old = worker.memory()
    worker._header["started_ns"] = 2
    new = worker.memory()
    looks: list[int] = []

    def read(offset: int, length: int) -> bytes:
        looks.append(offset)
        return (old if len(looks) < 3 else new)[offset : offset + length]

    assert Area.read(read, len(old)).header["started_ns"] == 2

    turns = iter(range(1000))

    def restless(offset: int, length: int) -> bytes:
        data = bytearray(old)
        struct.pack_into("<q", data, HEADER["started_ns"][0], next(turns))
        return bytes(data[offset : offset + length])

    with pytest.raises(LensError, match="being replaced"):
        Area.read(restless, len(old))


def test_an_area_that_its_worker_has_not_begun_to_use_holds_nothing() -> None:
    """The predecessor's events are not the successor's."""
    builder = Builder()
    worker = builder.worker()
    worker.event(Kind.MARK, 1, b=worker.text("old"))
    worker.figures = {"pid": 4242}
    (found,) = builder.build().workers
    assert found.pid == 4242 and found.events == [] and found.texts == {} and found.mode == "full"


def test_texts_that_did_not_fit_are_question_marks() -> None:
    builder = Builder()
    worker = builder.worker()
    worker.event(Kind.MARK, 1, b=99)
    (found,) = builder.build().workers
    assert found.text(99) == "?" and found.stack(99) is None


@pytest.mark.parametrize(
    "entry",
    [
        struct.pack("<IHH", 5, 1, 60000) + b"short",
        struct.pack("<IHH", 0, 1, 8) + b"id zero.",
        struct.pack("<IHH", 5, 9, 8) + b"new kind",
        struct.pack("<IHH", 5, 2, 4) + b"half" + bytes(4),
        struct.pack("<IHH", 5, 2, 8) + struct.pack("<HHI", 2, 500, 0),
        struct.pack("<IHH", 5, 2, 16) + struct.pack("<HHIII", 999, 1, 0, 777, 3),
        struct.pack("<IHH", 5, 1, 2) + b"\xff\xfe" + bytes(6),
        b"\x01",
    ],
)
def test_a_damaged_text_harms_nobody(entry: bytes) -> None:
    worker = WorkerBuilder(0, 7)
    worker.text("fine")
    worker._texts += entry
    data = worker.memory()
    texts, stacks = Area.read(reader(data), len(data)).strings()
    assert texts[1] == "fine" and all(len(stack.frames) <= 1 for stack in stacks.values())


def test_events_of_unknown_kinds_are_lost_not_shown() -> None:
    worker = WorkerBuilder(0, 7)
    worker.event(Kind.MARK, 1)
    worker._events.append(Event(2, 0, 0, 0, 0, 0, 0, 0))
    worker._events.append(Event(3, 0, 0, 77, 0, 0, 0, 0))
    recording, _ = worker.build()
    assert [event.t for event in recording.events] == [1] and recording.lost == 2


def test_any_bytes_in_the_memory_give_a_recording_or_one_line() -> None:
    """Headers and texts with random bytes written over them: never anything but LensError."""
    worker = demo().worker(capacity=16)
    worker.stack(("/app/a.py", 3, "f"))
    worker.event(Kind.MARK, 1, b=worker.text("x"))
    data = worker.memory()
    generator = random.Random(7)
    read = refused = 0
    for _ in range(3000):
        broken = bytearray(data)
        for _ in range(generator.randrange(1, 6)):
            area = (8, 208) if generator.random() < 0.5 else (0, len(broken))
            broken[generator.randrange(*area)] = generator.choice((0, 1, 127, 255))
        try:
            area_ = Area.read(reader(broken), len(broken))
            area_.events(), area_.strings()
            read += 1
        except LensError as error:
            assert "\n" not in str(error)
            refused += 1
    assert read > 100 and refused > 100


def test_what_requests_are_called_is_found_in_the_ring_that_turns() -> None:
    """The server's own writer; its ring of such texts holds half a MiB, and goes round twice."""
    memory = LensMemory(1)
    area = memory.area(0)
    area.start(0, 4242, 1)
    names = [f"GET /items/{number:0{20 + number % 90}d}" for number in range(12000)]
    for number, name in enumerate(names):
        area.write(Kind.REQUEST_BEGIN, number, request=number + 1, b=area.request(name.encode()))
    area.write(Kind.MARK, 12000, b=area.text("the end"))
    data = area.copy()
    figures = {**SEAT, "pid": 4242}
    worker = WorkerRecording.of(Area.read(reader(data), len(data)), figures, [])
    assert len(worker.events) == 12001 and worker.lost == 0 and worker.text(worker.events[-1].b) == "the end"
    called = [worker.text(event.b) for event in worker.events[:-1]]
    known = [number for number, text in enumerate(called) if text != "?"]
    assert known == list(range(known[0], 12000)) and 5000 < len(known) < 9000
    assert all(called[number] == names[number] for number in known)

    packed = Area.unpack(Area.read(reader(data), len(data)).pack(), 0)
    again = WorkerRecording.of(packed, figures, [])
    assert [again.text(event.b) for event in worker.events[:-1]] == called


def test_a_builder_calls_requests_as_the_server_does() -> None:
    builder = Builder()
    worker = builder.worker()
    for number in range(3):
        worker.event(Kind.REQUEST_BEGIN, number, request=number + 1, b=worker.request_text(f"GET /{number}"))
    (found,) = builder.build().workers
    assert [found.text(event.b) for event in found.events] == ["GET /0", "GET /1", "GET /2"]


def test_readers_and_writers_agree_on_the_header() -> None:
    area = LensMemory(2).area(1)
    area.start(7, 4242, 3)
    area.set_mode(Mode.SLOW, slow_ns=5_000_000)
    data = area.copy()
    header = Area.read(reader(data), len(data)).header
    assert {name: header[name] for name in ("version", "pid", "slot", "seat", "generation", "ring_head")} == {
        "version": 1,
        "pid": 4242,
        "slot": 7,
        "seat": 1,
        "generation": 3,
        "ring_head": 0,
    }
    assert (header["ring_capacity"], header["mode"], header["slow_ns"], header["switches"]) == (65536, 4, 5_000_000, 2)


# ---------------------------------------------------------------------------------------------------------- files


def same(one: Recording, other: Recording) -> bool:
    def plain(recording: Recording) -> list[object]:
        return [
            (w.slot, w.pid, w.mode, w.events, w.lost, w.texts, w.stacks, w.live, w.delay, w.seat_figures)
            for w in recording.workers
        ]

    return plain(one) == plain(other) and (one.name, one.pid, one.taken_ns) == (other.name, other.pid, other.taken_ns)


def test_a_file_gives_back_what_was_saved(tmp_path: Path) -> None:
    builder = demo()
    second = builder.worker(mode="slow", capacity=8, slow_ns=200_000_000)
    second.delay[3] = 17
    for index in range(20):
        second.event(Kind.MARK, index, b=second.text("cache miss"))
    recording = builder.build()
    path = tmp_path / "a.fsx"
    recording.save(path)
    again = Recording.take(str(path))
    assert again.source == "file" and recording.source == "live" and same(recording, again)
    assert [worker.mode for worker in again.workers] == ["full", "slow:200ms"] and again.workers[1].lost == 13
    assert again.workers[1].header["ring_head"] == 20
    again.save(tmp_path / "b.fsx")
    assert same(recording, Recording.load(tmp_path / "b.fsx"))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and path.stat().st_size < 4000
    assert sorted(os.listdir(tmp_path)) == ["a.fsx", "b.fsx"]


def test_a_file_replaces_one_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.fsx"
    path.write_bytes(b"old")
    demo().build().save(path)
    assert Recording.load(path).name == "shop"
    with pytest.raises(LensError, match=r"cannot write .*nowhere.*: No such file"):
        demo().build().save(tmp_path / "nowhere" / "a.fsx")


def test_every_truncation_of_a_file_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "a.fsx"
    demo().build().save(path)
    data = path.read_bytes()
    for length in [*range(0, len(data) - 1, 7), len(data) - 1]:
        path.write_bytes(data[:length])
        with pytest.raises(LensError) as caught:
            Recording.load(path)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_every_changed_byte_of_a_file_gives_a_recording_or_one_line(tmp_path: Path) -> None:
    path = tmp_path / "a.fsx"
    demo().build().save(path)
    data = path.read_bytes()
    refused = 0
    for position in range(len(data)):
        broken = bytearray(data)
        broken[position] ^= 0x11
        path.write_bytes(broken)
        try:
            Recording.load(path)
        except LensError as error:
            assert "\n" not in str(error)
            refused += 1
    assert refused > len(data) // 4


def file_of(head: object, *areas: bytes) -> bytes:
    text = json.dumps(head).encode()
    return b"FSX1" + struct.pack("<I", len(text)) + text + b"".join(areas)


def head(**changes: object) -> dict[str, object]:
    return {
        "name": "x",
        "version": "1",
        "python": "3",
        "pid": 1,
        "argv": [],
        "note": "",
        "taken_ns": 1,
        "taken_unix_ns": 1,
        "workers": [],
        "areas": [],
        **changes,
    }


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "no recording"),
        (b"FSX1", "no recording"),
        (b"FSX2" + bytes(100), "no recording"),
        (b"FSX1" + struct.pack("<I", 2**32 - 1) + b"{}", "cut short"),
        (b"FSX1" + struct.pack("<I", 2) + b"[]", "damaged"),
        (b"FSX1" + struct.pack("<I", 100_000) + b"[" * 100_000, "damaged"),
        (file_of(head(areas=[-1])), "cut short"),
        (file_of(head(areas=[10])), "cut short"),
        (file_of(head(areas=["a"])), "damaged"),
        (file_of(head(pid="1")), "damaged"),
        (file_of(head(workers=[{}] * 5000)), "too many"),
        (file_of(head(workers=[{"figures": SEAT, "flights": [], "area": 3, "lost": 0}])), "lacks"),
        (file_of(head(workers=[{"figures": {}, "flights": [], "area": None, "lost": 0}])), "damaged"),
        (file_of(head(workers=[{"figures": SEAT, "flights": [{}], "area": None, "lost": 0}])), "damaged"),
        (file_of(head(workers=[{"figures": {**SEAT, "x": {}}, "flights": [], "area": None, "lost": 0}])), "damaged"),
    ],
)
def test_what_is_no_recording_is_refused_in_one_line(tmp_path: Path, data: bytes, says: str) -> None:
    path = tmp_path / "a.fsx"
    path.write_bytes(data)
    with pytest.raises(LensError, match=says) as caught:
        Recording.load(path)
    assert "\n" not in str(caught.value)


def test_a_file_cannot_unpack_to_more_than_it_may(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastserve.lens.recording.AREAS_MAX", 1 << 20)
    bomb = zlib.compress(bytes(4 << 20))
    path = tmp_path / "a.fsx"
    path.write_bytes(file_of(head(areas=[len(bomb)]), bomb))
    with pytest.raises(LensError, match="too large"):
        Recording.load(path)


def test_a_file_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(LensError, match=r"cannot read .*a\.fsx.*: No such file"):
        Recording.take(str(tmp_path / "a.fsx"))


def test_the_page_of_an_area_has_room_for_its_header() -> None:
    assert max(offset for offset, _ in HEADER.values()) < 512 and EVENT.size == 40 and PAGE == 4096


def test_a_place_on_the_board_says_nothing_of_who_was_there_before() -> None:
    builder = Builder(taken_ns=1000)
    worker = builder.worker()
    where = worker.stack(("/app/main.py", 7, "show"))
    worker.live("GET /new", 900, request=0, state="waiting", state_since_ns=950, stack=where)
    worker.live("GET /newer", 910, request=3, state="running", state_since_ns=500, stack=where)
    worker.live("GET /traced", 920, request=4, state="waiting", state_since_ns=930, stack=where)
    found = [(live.state, live.stack is not None, live.state_since_ns) for live in builder.build().workers[0].live]
    assert found == [("unknown", False, 0), ("unknown", False, 0), ("waiting", True, 930)]
