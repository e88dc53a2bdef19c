"""values: durations, sizes, modes and switches as people write them."""

from __future__ import annotations

import pytest

from fastserve.process.values import duration, flag, mode, size, whole, workers


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0", 0.0), ("30", 30.0), ("1.5", 1.5), (".5", 0.5), ("-1", -1.0), ("30s", 30.0), ("5m", 300.0), ("1h30m", 5400.0),
     ("500ms", 0.5), ("1m500ms", 60.5), ("2d", 172800.0), ("1d2h3m4s5ms", 93784.005), ("1.5h", 5400.0), ("0s", 0.0)],
)  # fmt: skip
def test_durations(text: str, seconds: float) -> None:
    assert duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text", ["", "s", "30 s", "30m1h", "1h1h", "5x", "1e3", "nan", "inf", "٣s", "5S", "--5", "-5m", "9" * 50 + "s"]
)
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="not a duration"):
        duration(text)


@pytest.mark.parametrize(
    ("text", "count"),
    [("0", 0), ("65536", 65536), ("64k", 65536), ("64K", 65536), ("64kB", 65536), ("64KiB", 65536), ("10M", 10 * 2**20),
     ("1GiB", 2**30), ("1 GiB", 2**30), ("2g", 2**31), ("1T", 2**40), ("1.5k", 1536), ("100b", 100)],
)  # fmt: skip
def test_sizes(text: str, count: int) -> None:
    assert size(text) == count


@pytest.mark.parametrize("text", ["", "k", "-1", "10X", "1.1", "1.0001k", "0x10", "1e3", "٣", "1_000", "64 k b"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match="not a"):
        size(text)


def test_the_others() -> None:
    assert (mode("660"), mode("0660"), mode("0o660")) == (0o660,) * 3
    assert [flag(text) for text in ("1", "true", "YES", "on")] == [True] * 4
    assert [flag(text) for text in ("0", "False", "no", "OFF")] == [False] * 4
    assert (workers("auto"), workers("3")) == ("auto", 3)
    for function, text in ((mode, "8"), (mode, ""), (flag, "maybe"), (flag, ""), (workers, "many"), (whole, "1_0")):
        with pytest.raises(ValueError):
            function(text)
