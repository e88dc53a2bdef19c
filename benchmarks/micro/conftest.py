"""What both files here share: the C core, and a clock for code that times itself. Called by pytest."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

# For a bare `pytest`, which leaves the root off the path. Last, so that it hides nothing that is installed.
sys.path.append(str(Path(__file__).resolve().parents[2]))


@pytest.fixture
def core() -> Any:
    """fastserve's C core; where it is not built the benchmarks of the others still run."""
    return pytest.importorskip("fastserve.protocol.core", exc_type=ImportError)


class SelfTimed:
    """A clock that moves only when told: pytest-benchmark's, while it runs C that measured its own nanoseconds.

    So the table shows ns per parse beside the others' ns per call, with the same columns.
    """

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s

    def run(self, benchmark: Any, measure: Callable[[], float], rounds: int = 100) -> None:
        """`measure` returns ns per operation, over enough operations to be a sample."""
        benchmark._timer = self
        measure()

        def once() -> None:
            self.now_s += measure() / 1e9

        benchmark.pedantic(once, rounds=rounds, iterations=1)


@pytest.fixture
def self_timed() -> SelfTimed:
    return SelfTimed()
