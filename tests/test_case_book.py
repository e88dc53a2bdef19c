"""The case book (tests/cases/) through the core: whole, byte by byte, at every split, with bytes behind, at each level.

Room:    one test per case of the book; its variants and its accepted neighbour are part of it.
Calls:   fastserve.protocol.core.events(), which feeds a fresh connection and tells what happened.
Rules:   those each case names. tests/c/test_cases.c does the same in C, the input against a page that cannot be read.

    python tests/test_case_book.py     run the book without pytest (this is how the SIMD levels are run)
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import pytest
from cases.loader import SECTION_OF_RFC, Case, load_cases

from fastserve.protocol import core

TESTS = Path(__file__).resolve().parent
BOOK = load_cases()
SECTIONS = {heading: list(cases) for heading, cases in groupby(BOOK, key=lambda case: case.heading)}

LONG_INPUT = 2000  # bytes; beyond it only some of the splits are tried
LONG_SPLITS = 60

# Behind a fault or a close nothing is read, whatever it is.
TAILS = (b"x", b"\r\n\r\n", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"0\r\n\r\n", b"\xff" * 70)

# Lines that the book may leave out. Their text may be empty: `events` then leaves its space behind.
OPTIONAL = ("host", "path", "query", "field")


def story(fragments: list[bytes], case: Case) -> list[str]:
    lines = core.events(fragments, **case.limits)
    return [line.rstrip(" ") if line.startswith((*OPTIONAL, "trailer")) else line for line in lines]


def same_story(told: list[str], wanted: tuple[str, ...]) -> bool:
    """Host, path and query are compared where the book writes them, fields where it writes one (see its README)."""
    at = 0
    fields_written = False
    for line in told:
        kind = line.split(" ", 1)[0]
        next_wanted = wanted[at] if at < len(wanted) else ""
        if kind == "request_head":
            fields_written = False
        if line == next_wanted:
            fields_written = fields_written or kind == "field"
            at += 1
        elif kind not in OPTIONAL or kind == next_wanted.split(" ", 1)[0] or (kind == "field" and fields_written):
            return False
    return at == len(wanted)


def splits(data: bytes) -> Iterator[int]:
    """Where to cut an input in two: everywhere; in a long one near some of its line ends, and at even distances."""
    if len(data) <= LONG_INPUT:
        yield from range(1, len(data))
        return
    ends = [at for at in range(len(data)) if data[at] == 0x0A]
    ends = ends[:4] + ends[4 : -4 : max(1, len(ends) // 20)] + ends[-4:]
    near = {at + step for at in ends for step in (-2, -1, 0, 1, 2)}
    even = set(range(1, len(data), len(data) // LONG_SPLITS))
    yield from sorted(at for at in near | even | {1, len(data) - 1} if 0 < at < len(data))


def check(case: Case) -> None:
    """Raise AssertionError, with place and way of feeding, unless the input causes its events however it comes."""

    def compare(how: str, fragments: list[bytes]) -> None:
        told = story(fragments, case)
        if not same_story(told, case.events):
            lines = "\n  ".join(["told:", *told, "wanted:", *case.events])
            raise AssertionError(f"{case.file}:{case.line}: {case.name}, {how}\n  {lines}")

    data = case.data
    compare("whole", [data])
    compare("byte by byte", [data[at : at + 1] for at in range(len(data))])
    for at in splits(data):
        compare(f"split at {at}", [data[:at], data[at:]])
    if case.events and (case.error or case.events[-1] == "closed"):
        for tail in TAILS:
            compare(f"with {tail[:8]!r} behind it", [data + tail])
            compare(f"with {tail[:8]!r} behind it, apart", [data, tail])


def run_book() -> int:
    """Run every input; print what fails. Returns the number of failures."""
    failures = 0
    for case in BOOK:
        try:
            check(case)
        except AssertionError as error:
            failures += 1
            print(error)
    print(f"{len(BOOK)} inputs at level {core.simd()}, {failures} failed")
    return failures


@pytest.mark.parametrize("heading", list(SECTIONS))
def test_case(heading: str) -> None:
    for case in SECTIONS[heading]:
        check(case)


def program(level: str) -> subprocess.CompletedProcess[str]:
    home = Path(core.__file__).resolve().parents[2]  # whichever installation this process uses
    path = os.pathsep.join([str(home), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    return subprocess.run(
        [sys.executable, __file__],
        env={**os.environ, "FASTSERVE_SIMD": level, "PYTHONPATH": path},
        cwd=TESTS, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("level", core.simd_levels())
def test_every_simd_level_tells_the_same(level: str) -> None:
    done = program(level)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    assert f"at level {level}, 0 failed" in done.stdout


def test_unknown_simd_level_is_refused() -> None:
    done = program("avx1024")
    assert done.returncode != 0
    assert "FASTSERVE_SIMD=avx1024" in done.stderr


def test_the_book_is_large_enough() -> None:
    """At least 250 named cases, each with its rule."""
    assert len(SECTIONS) >= 250
    for heading, cases in SECTIONS.items():
        assert SECTION_OF_RFC.search(cases[0].prose), heading
        assert cases[-1].accepted or not any(case.error for case in cases), heading


def test_the_comparison_compares() -> None:
    head = "request_head GET / 1.1 none keep_alive"
    assert same_story([head, "host a", "field host: a", "end_of_message"], (head, "end_of_message"))
    assert same_story([head, "host a", "path /"], (head, "path /"))
    for told, wanted in [
        ([head, "host a"], (head, "host b")),
        ([head, "host a"], (head, "host a", "query b")),
        ([head, "field a: b", "field c: d"], (head, "field a: b")),
        ([head, "field a: b", "field c: d"], (head, "field c: d")),
        ([head, "body a"], (head,)),
        ([head], (head, "need_data")),
        ([head, "end_of_message"], (head,)),
    ]:
        assert not same_story(told, tuple(wanted))


if __name__ == "__main__":
    sys.exit(run_book() > 0)
