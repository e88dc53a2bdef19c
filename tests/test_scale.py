"""docs/scale.md: each number on it is worked out again, and what is given is what its source says."""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fastserve.process.check import DESCRIPTORS_OWN
from fastserve.process.config import Config

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")
HAPROXY = (ROOT / "deploy" / "haproxy.cfg").read_text(encoding="utf-8")
REPORT = ROOT / "benchmarks" / "results" / "2026-11-28" / "report.md"

NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?")
OPERATORS: dict[type[ast.AST], Callable[..., Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


def tables() -> list[list[list[str]]]:
    """Rows of cells, the heading first, of every table."""
    found = re.findall(r"(?:^\|.*\|\n)+", PAGE, re.MULTILINE)
    rows = [
        [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in table.splitlines()]
        for table in found
    ]
    return [[table[0], *table[2:]] for table in rows]


def number(text: str) -> float:
    assert NUMBER.fullmatch(text), text
    return float(text.replace(",", ""))


def worked_out(expression: str, names: dict[str, float]) -> float:
    """Numbers, names, + - * / and ceil, max."""

    def of(node: ast.AST) -> float:
        match node:
            case ast.Expression(body=body):
                return of(body)
            case ast.Constant(value=int() | float() as value):
                return float(value)
            case ast.Name(id=name):
                return names[name]
            case ast.BinOp(left=left, op=op, right=right):
                return float(OPERATORS[type(op)](of(left), of(right)))
            case ast.Call(func=ast.Name(id="ceil"), args=[only]):
                return math.ceil(round(of(only), 9))
            case ast.Call(func=ast.Name(id="max"), args=several):
                return max(map(of, several))
        raise AssertionError(f"{expression}: {ast.dump(node)}")

    return of(ast.parse(expression, mode="eval"))


def written(value: float, like: str) -> str:
    """The number with as many decimals as `like` has."""
    return f"{value:,.{len(like.partition('.')[2])}f}"


NAMES: dict[str, float] = {}
"""What each name on the page means, in the column in bold; not rounded."""
WRONG: list[str] = []
WORKED_OUT: list[tuple[str, str]] = []


def read_page() -> None:
    for heading, *rows in tables():
        if heading[-1] == "p99, ms":
            continue
        last = heading.index("how") if "what to do" in heading else len(heading) - 1
        columns: list[dict[str, float]] = [dict(NAMES) for _ in heading[1:last]]
        bold = next((index for index, cell in enumerate(heading[1:last]) if cell.startswith("**")), 0)
        for row in rows:
            name = re.match(r"`(\w+)`", row[0])
            how = re.fullmatch(r"`([^`]+)`", row[last])
            is_expression = how is not None and not how[1].startswith("python ")
            for column, cell in zip(columns, row[1:last], strict=True):
                value = worked_out(how[1], column) if is_expression and how else number(cell)
                if is_expression and how:
                    WORKED_OUT.append((row[0], how[1]))
                    if written(value, cell) != cell:
                        WRONG.append(f"{row[0]}: {cell} is written, {written(value, cell)} comes out")
                if name:
                    column[name[1]] = value
            if name:
                assert name[1] not in NAMES, f"{name[1]} is there twice"
                NAMES[name[1]] = columns[bold][name[1]]


read_page()


def test_every_number_is_what_comes_out() -> None:
    assert not WRONG, "\n".join(WRONG)
    assert len(WORKED_OUT) > 40


def test_prose_has_no_numbers_of_its_own() -> None:
    prose = re.sub(r"(?:^\|.*\|\n)+", "", PAGE, flags=re.MULTILINE)
    in_tables = set(NUMBER.findall("\n".join(line for line in PAGE.splitlines() if line.startswith("|"))))
    total = f"{sum(answered()):,}"
    assert total in prose
    assert set(re.findall(r"\d{1,3}(?:,\d{3})+", prose)) <= in_tables | {total}
    assert (
        round(NAMES["idle_s"] / (NAMES["idle_s"] + NAMES["active_s"]), 2) == 0.67
    )  # two thirds, for nothing but idling
    assert NAMES["cores_of_host"] == 32 and "a host of 32 does" in PAGE


def answered() -> list[int]:
    """The last table: how many each scenario answered; nothing in it went wrong."""
    (measured,) = [rows for heading, *rows in tables() if heading[-1] == "p99, ms"]
    assert all(row[4:8] == ["0"] * 4 for row in measured)
    return [int(number(row[3])) for row in measured]


def test_every_scenario_is_in_the_table() -> None:
    """As many rows as `FASTSERVE_DEPLOYMENTS=full` runs: each scenario behind both balancers, but for the one that is
    about health checks."""
    source = (ROOT / "tests" / "deployments" / "test_balancers.py").read_text(encoding="utf-8")
    both, scenarios = (
        len(re.findall(r"^@behind", source, re.MULTILINE)),
        len(re.findall(r"^def test_", source, re.MULTILINE)),
    )
    assert len(answered()) == 2 * both + (scenarios - both)


def test_limits_are_met_in_the_order_of_the_rows() -> None:
    (rows,) = [rows for heading, *rows in tables() if "what to do" in heading]
    rates = [number(row[1]) for row in rows]
    assert rates == sorted(rates)
    assert sum(rate < NAMES["rate"] / 4 for rate in rates) == 5 and len(rates) == 9  # "five of nine"


def test_what_is_given_is_what_was_measured() -> None:
    cpu = REPORT.read_text(encoding="utf-8").partition("## Server CPU per request")[2].partition("\n## ")[0]
    (table,) = re.findall(r"^\| server \| plaintext .*\n\|[-|:]+\n((?:\|.*\n)+)", cpu, re.MULTILINE)
    rows = {line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[2:]] for line in table.splitlines()}
    (hosts,) = [rows for heading, *rows in tables() if "native, no work" in heading]
    assert hosts[0][1:3] == [rows["fastserve"][3].split()[0], rows["fastserve-asgi"][3].split()[0]]
    report = REPORT.read_text(encoding="utf-8").partition("## Resident memory")[2]
    assert f"| fastserve-asgi | {NAMES['worker_mb']:.0f} " in report
    (kernel,) = re.findall(r"^\| `kernel_bytes`[^:]*: ([^|]+)", PAGE, re.MULTILINE)
    assert sum(map(number, re.findall(r"\d[\d,]*\d", kernel))) == NAMES["kernel_bytes"]
    assert "684 B" in (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8") and NAMES["request_bytes"] == 684


@pytest.mark.parametrize(
    ("option", "pattern"), [("idle_s", r"timeout http-keep-alive (\d+)s"), ("maxconn", r"maxconn (\d+)")]
)
def test_what_is_given_is_what_the_balancers_file_says(option: str, pattern: str) -> None:
    found = re.search(pattern, HAPROXY)
    assert found is not None
    if option == "idle_s":
        assert NAMES[option] == int(found[1])
    else:
        assert f"`maxconn` {int(found[1]):,} of" in PAGE


def test_what_is_given_is_what_the_server_does() -> None:
    assert f"`{Config(app=None).backlog} / " in PAGE
    assert f"so many descriptors and {DESCRIPTORS_OWN} more" in PAGE
