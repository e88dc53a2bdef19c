"""Write docs/compatibility.md from a run of tests/frameworks: which framework shows what, and in which version.

    python docs/compatibility.py       run the tests, write the page; exit code 1 if one of them fails

A cell is what the test of that name said. To add a framework or a case, add it to the tests.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent

HEAD = """\
# Compatibility

Frameworks served as they are, end to end over real sockets. The page is made by `python docs/compatibility.py` from a
run of [tests/frameworks](../tests/frameworks/); do not edit it. What the columns stand for:
[contract.py](../tests/frameworks/contract.py).
"""

TABLES = {"test_asgi_frameworks": "ASGI framework"}
"""Module of tests -> first heading of its table."""


def run(report: Path) -> int:
    command = [sys.executable, "-m", "pytest", "-q", str(ROOT / "tests" / "frameworks"), f"--junitxml={report}"]
    # The test that compares this page with the tests would fail before it is written.
    return subprocess.run([*command, "-k", "test_framework"], cwd=ROOT, check=False).returncode


def results(report: Path) -> dict[str, dict[tuple[str, str], str]]:
    """Module -> (framework, case) -> "yes" or "NO"."""
    found: dict[str, dict[tuple[str, str], str]] = {}
    for test in ElementTree.parse(report).iter("testcase"):
        match = re.fullmatch(r"test_framework\[(.+)-(\w+)\]", test.get("name", ""))
        if match is not None:
            failed = test.find("failure") is not None or test.find("error") is not None
            cells = found.setdefault(test.get("classname", "").rpartition(".")[2], {})
            cells[match[1], match[2]] = "NO" if failed else "yes"
    return found


def table(heading: str, cells: Mapping[tuple[str, str], str], without: Mapping[tuple[str, str], str]) -> list[str]:
    names = list(dict.fromkeys(name for name, _ in cells))
    cases = list(dict.fromkeys(case for _, case in cells))
    lines = [f"| {heading} | version | {' | '.join(cases)} |", f"|---|---|{'---|' * len(cases)}"]
    for name in names:
        row = ["-" if (name, case) in without else cells.get((name, case), "NO") for case in cases]
        lines.append(f"| {name} | {metadata.version(name)} | {' | '.join(row)} |")
    notes = dict.fromkeys(f"`-`: {why}." for (name, _), why in without.items() if name in names)
    return [*lines, "", *notes]


def main() -> int:
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    from frameworks.asgi_apps import WITHOUT

    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        code = run(report)
        found = results(report)
    text = HEAD
    for module, heading in TABLES.items():
        text += "\n" + "\n".join(table(heading, found.get(module, {}), WITHOUT)) + "\n"
    (DOCS / "compatibility.md").write_text(text, encoding="utf-8")
    return code


if __name__ == "__main__":
    raise SystemExit(main())
