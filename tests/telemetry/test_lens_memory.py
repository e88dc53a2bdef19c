"""The lens's memory: what is written is where the layout says, is bounded, and is gone when a successor takes the seat."""

from __future__ import annotations

import os
import struct

import pytest

from fastserve.process import lensfile
from fastserve.telemetry.lens import LensMemory, LensMode, Mode, parse_mode
from fastserve.telemetry.lens.memory import AREA_SIZE, KIND_CODE, KIND_STACK, KIND_TEXT

EVENT = struct.Struct("<QQIHHQII")
ENTRY = struct.Struct("<IHH")


def field(area: bytes, offset: int, form: str = "<Q") -> int:
    return int(struct.unpack_from(form, area, offset)[0])


def entries(area: bytes) -> dict[int, tuple[int, bytes]]:
    """The arena of texts: id -> (kind, bytes)."""
    at, end = field(area, 104), field(area, 104) + field(area, 88)
    found = {}
    while at < end:
        number, kind, length = ENTRY.unpack_from(area, at)
        found[number] = (kind, area[at + 8 : at + 8 + length])
        at += (8 + length + 7) & ~7
    return found


def recent(area: bytes, number: int) -> bytes | None:
    at = field(area, 336) + (number & 0x7FFFFFFF) * 8 % field(area, 344)
    known, _, length = ENTRY.unpack_from(area, at)
    return area[at + 8 : at + 8 + length] if known == number else None


def test_the_header_says_who_writes_and_where_things_are() -> None:
    memory = LensMemory(3)
    area = memory.area(1)
    area.start(slot=7, pid=4242, generation=5)
    data = area.copy()
    assert len(data) == AREA_SIZE == memory.area_size
    assert data[:8] == b"FSLENS\0\1"
    assert [field(data, at, "<I") for at in (8, 12, 16, 20, 24, 28)] == [1, 4242, 7, 1, 5, 0]
    assert field(data, 80) == 65536 and field(data, 112) + 65536 * EVENT.size == AREA_SIZE
    assert memory.area(1) is area and memory.area(0).copy()[:8] == bytes(8)
    with pytest.raises(IndexError, match="seat 3 of 3"):
        memory.area(3)


def test_who_starts_leaves_what_was_switched_as_it_is() -> None:
    """Also for a moment: a supervisor that looked meanwhile took that for a switch to off."""
    memory = LensMemory(1)
    memory.set_mode(LensMode(Mode.FULL))
    area = memory.area(0)
    switched = area.switches, str(area.mode)
    looker = os.fork()
    if looker == 0:
        os._exit(any((area.switches, str(area.mode)) != switched for _ in range(200_000)))
    while (ended := os.waitpid(looker, os.WNOHANG))[0] == 0:
        area.start(0, 1, 1)
    assert ended[1] == 0


def test_the_file_can_be_mapped_by_somebody_else() -> None:
    memory = LensMemory(2, lensfile.memory("lens")[0])
    memory.area(1).start(0, os.getpid(), 1)
    assert os.pread(memory.fd, 8, AREA_SIZE) == b"FSLENS\0\1"
    assert os.fstat(memory.fd).st_size == 2 * AREA_SIZE


def test_an_area_is_sparse_until_it_is_used() -> None:
    memory = LensMemory(64, lensfile.memory("lens")[0])
    for seat in range(64):
        memory.area(seat).start(seat, os.getpid(), 1)
    assert os.fstat(memory.fd).st_blocks * 512 <= 64 * 3 * 4096


def test_an_event_is_where_the_head_says() -> None:
    area = LensMemory(1).area(0)
    area.start(0, 1, 1)
    for number in range(65540):
        area.write(10, number, dur=2, request=3, flags=4, a=5 << 40, task=6, b=7)
    data = area.copy()
    assert field(data, 72) == area.events == 65540
    ring = field(data, 112)
    assert EVENT.unpack_from(data, ring + 3 * EVENT.size) == (65539, 2, 3, 10, 4, 5 << 40, 6, 7)
    assert EVENT.unpack_from(data, ring + 4 * EVENT.size)[0] == 4


def test_texts_codes_and_stacks_have_one_id_each() -> None:
    area = LensMemory(1).area(0)
    area.start(0, 1, 1)
    code = parse_mode.__code__
    name = area.text("wörd")
    stack = area.stack([(code, 40), (code, 41)], wait=3)
    assert area.text("wörd") == name and area.stack([(code, 40), (code, 41)], wait=3) == stack
    assert area.stack([(code, 40), (code, 41)], wait=4) != stack
    found = entries(area.copy())
    assert found[name] == (KIND_TEXT, "wörd".encode())
    kind, data = found[area.code(code)]
    assert kind == KIND_CODE
    assert data.decode().split("\0") == [code.co_filename, "parse_mode", str(code.co_firstlineno)]
    assert found[stack] == (KIND_STACK, struct.pack("<HHIIIII", 3, 2, 0, area.code(code), 40, area.code(code), 41))


def test_what_requests_are_called_lives_in_a_ring_of_its_own() -> None:
    area = LensMemory(1).area(0)
    area.start(0, 1, 1)
    often = area.request(b"GET /often")
    assert area.request(b"GET /often") == often and often & 0x80000000
    ids = {}
    for number in range(200_000):
        text = b"GET /items/%d" % number
        ids[text] = area.request(text)
    data = area.copy()
    for text in list(ids)[-10_000:]:
        assert recent(data, ids[text]) == text
    assert recent(data, often) is None and recent(data, ids[b"GET /items/0"]) is None
    again = area.request(b"GET /often")
    assert again != often and recent(area.copy(), again) == b"GET /often"
    assert area.dropped == 0 and entries(data) == {}
    long = area.request(b"GET /" + b"x" * 500)
    assert recent(area.copy(), long) == b"GET /" + b"x" * 123


def test_a_text_that_is_named_often_is_written_again_before_it_is_overwritten() -> None:
    area = LensMemory(1).area(0)
    area.start(0, 1, 1)
    for number in range(100_000):
        area.request(b"GET /items/%d" % number)
        often = area.request(b"GET /often")
        if number % 97 == 0:
            assert recent(area.copy(), often) == b"GET /often"


def test_an_arena_that_is_full_counts_what_it_drops() -> None:
    area = LensMemory(1).area(0)
    area.start(0, 1, 1)
    known = area.text("known")
    ids = [area.text(f"{number:04000d}") for number in range(200)]
    assert ids[0] and ids[-1] == 0
    assert area.dropped == ids.count(0) and area.text("known") == known


def test_a_successor_finds_the_mode_and_nothing_else() -> None:
    memory = LensMemory(1)
    area = memory.area(0)
    area.start(0, 11, 1)
    area.write(16, 1)
    area.text("secret of the one before")
    area.request(b"GET /secret")
    memory.set_mode(LensMode(Mode.SLOW, slow_ns=5))
    area.start(2, 12, 2)
    data = area.copy()
    assert (area.events, area.text("first")) == (0, 1)
    assert b"secret" not in data
    assert area.mode == LensMode(Mode.SLOW, slow_ns=5)


@pytest.mark.parametrize(
    ("text", "mode"),
    [
        ("off", LensMode(Mode.OFF)),
        ("ready", LensMode(Mode.READY)),
        ("stalls", LensMode(Mode.STALLS)),
        ("Full", LensMode(Mode.FULL)),
        ("sample:100", LensMode(Mode.SAMPLE, sample=100)),
        ("sample:0.01", LensMode(Mode.SAMPLE, sample=100)),
        ("sample:1", LensMode(Mode.SAMPLE, sample=1)),
        ("slow:200ms", LensMode(Mode.SLOW, slow_ns=200_000_000)),
        ("slow:1.5s", LensMode(Mode.SLOW, slow_ns=1_500_000_000)),
        ("slow:2", LensMode(Mode.SLOW, slow_ns=2_000_000_000)),
        ("slow:0", LensMode(Mode.SLOW, slow_ns=0)),
    ],
)
def test_modes_that_can_be_said(text: str, mode: LensMode) -> None:
    assert parse_mode(text) == mode
    assert parse_mode(str(mode)) == mode


@pytest.mark.parametrize(
    "text",
    [
        "",
        "on",
        "full:1",
        "sample",
        "sample:",
        "sample:0",
        "sample:-1",
        "sample:2e9",
        "sample:nan",
        "slow",
        "slow:soon",
        "slow:-1s",
        "slow:1e9",
        "ready:1",
        "slow:nan",
    ],
)
def test_what_is_no_mode_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_mode(text)
    said = str(caught.value)
    assert "\n" not in said and (repr(text) in said or repr(text.partition(":")[2]) in said)
