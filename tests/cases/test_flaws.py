"""The list of known flaws (flaws.md): each row has its cases in the book, or its tests, and they exist.

Room:    beside the book; reads Markdown and the sources of tests, runs nothing.
Rules:   the cases' own.
"""

from __future__ import annotations

import ast
import re
import sys
from functools import cache
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cases.loader import load_cases

BOOK = Path(__file__).resolve().parent
ROOT = BOOK.parent.parent
NUMBER = re.compile(r"CVE-20(19|2\d)-\d{4,5}")


class Flaw(NamedTuple):
    number: str  # "-": none that was looked up
    where: str
    what: str
    tried_by: tuple[str, ...]


def flaws(text: str) -> list[Flaw]:
    """The rows of the tables."""
    found = []
    for line in text.splitlines():
        if not line.startswith("| ") or line.startswith("| number |"):
            continue
        number, where, what, tried_by = (cell.strip() for cell in line.strip("|").split("|"))
        found.append(Flaw(number, where, what, tuple(name.strip() for name in tried_by.split(";"))))
    return found


@cache
def headings() -> frozenset[str]:
    """Cases: those of the chapters, and of the one on responses, which has a notation of its own."""
    responses = re.findall(r"^## (.+)$", (BOOK / "responses.md").read_text(encoding="utf-8"), re.MULTILINE)
    return frozenset([*(case.heading for case in load_cases()), *responses])


@cache
def functions_of(path: str) -> frozenset[str]:
    """The names of the test functions of a file."""
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def untried(flaw: Flaw) -> list[str]:
    """What the row names and nobody runs."""
    missing = []
    for name in flaw.tried_by:
        path, colons, function = name.partition("::")
        if colons:
            known = (ROOT / path).is_file() and function.startswith("test_") and function in functions_of(path)
        else:
            known = name in headings()
        if not known:
            missing.append(name)
    return missing


LISTED = flaws((BOOK / "flaws.md").read_text(encoding="utf-8"))


def test_every_flaw_is_tried() -> None:
    missing = {(flaw.number, flaw.where, flaw.what): lost for flaw in LISTED if (lost := untried(flaw))}
    assert not missing


def test_the_list_is_in_order() -> None:
    numbers = [flaw.number for flaw in LISTED if flaw.number != "-"]
    assert all(NUMBER.fullmatch(number) for number in numbers)
    assert len(numbers) == len(set(numbers)), "a number twice"
    assert len(numbers) >= 50 and all(flaw.where and flaw.what and flaw.tried_by for flaw in LISTED)


def test_a_row_without_its_case_is_noticed() -> None:
    text = "| CVE-2020-1 | x | y | CL.TE; no such case; tests/cases/test_flaws.py::test_no; tests/none.py::test_a |\n"
    (flaw,) = flaws("| number | where | what happened | tried by |\n|---|---|---|---|\n" + text)
    assert untried(flaw) == ["no such case", "tests/cases/test_flaws.py::test_no", "tests/none.py::test_a"]
