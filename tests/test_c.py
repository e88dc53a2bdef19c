"""The tests of the C core, with sanitizers, by each compiler there is; a bounded fuzz run from the book's inputs.

Room:    a door from pytest to tests/c/Makefile and tests/fuzz/Makefile; builds go to temporary folders.
Calls:   make and a C compiler. Without clang, or without its libFuzzer, the fuzz targets run by tests/fuzz/main.c.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
COMPILERS = [name for name in ("gcc", "clang") if shutil.which(name)] or ["cc"]
FUZZ_TARGETS = 5
FUZZ_SECONDS = 5  # each


def make(folder: str, *arguments: str, timeout: float) -> str:
    """Run make, return its output; fail with the end of it."""
    # A surrounding make (or its -j) is not the business of this one.
    clean = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")}
    command = ["make", "-C", str(TESTS / folder), f"-j{os.cpu_count() or 1}", f"PYTHON={sys.executable}", *arguments]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
        timeout=timeout, env=clean, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        pytest.fail(f"{' '.join(command)}\n{done.stdout[-6000:]}", pytrace=False)
    return done.stdout


@pytest.mark.parametrize("compiler", COMPILERS)
def test_c_core(tmp_path: Path, compiler: str) -> None:
    output = make("c", f"CC={compiler}", f"BUILD={tmp_path}", timeout=600)
    programs = {path.stem for path in (TESTS / "c").glob("test_*.c")}
    assert {"test_cases", "test_request", "test_body", "test_conn"} <= programs
    ran = re.findall(r"^(test_\w+) +(\w+) +(\d+) passed, 0 failed", output, re.MULTILINE)
    assert {name for name, _, passed in ran if int(passed) > 0} == programs
    assert {"swar"} <= {level for _, level, passed in ran if int(passed) > 0}


def fuzz(folder: Path, seconds: int, *arguments: str) -> str:
    output = make("fuzz", "run", f"SECONDS={seconds}", f"BUILD={folder}", *arguments, timeout=600)
    summaries = re.findall(r"number_of_executed_units: [1-9]|[1-9]\d* mutations.*all invariants hold", output)
    assert len(summaries) == FUZZ_TARGETS
    return output


def test_fuzz(tmp_path: Path) -> None:
    fuzz(tmp_path, FUZZ_SECONDS)


def test_fuzz_without_libfuzzer(tmp_path: Path) -> None:
    """What a machine without clang runs."""
    assert "all invariants hold" in fuzz(tmp_path, 1, "ENGINE=driver", f"CC={COMPILERS[0]}")
