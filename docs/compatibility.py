"""Write docs/compatibility.md from a run of the tests: which framework shows what, which applications, which versions.

    python docs/compatibility.py       run the tests, write the page; exit code 1 if one of them fails

A cell is what the tests of that name said. To add a framework, a case or an application, add it to the tests.
"""

from __future__ import annotations

import ast
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

Frameworks and applications served as they are, end to end over real sockets. The page is made by
`python docs/compatibility.py` from a run of [tests/frameworks](../tests/frameworks/) and
[tests/applications](../tests/applications/); do not edit it. Python {python}.

## Frameworks

What the columns stand for: [contract.py](../tests/frameworks/contract.py),
[apps_wsgi.py](../tests/frameworks/apps_wsgi.py). "-": the framework has no words for it; why, stands below. A WSGI cell
is "yes" if the case holds in threads and on the event loop (`--threads 0`).
"""

APPLICATIONS = """
## Applications

Each in a process of its own, started by the `fastserve` command. Dash and NiceGUI are used through a real browser.

| application | version | interface | what is shown | |
|---|---|---|---|---|
"""

TABLES = {"test_asgi_frameworks": "ASGI framework", "test_wsgi_frameworks": "WSGI framework"}
"""Module of tests -> first heading of its table."""

NAMES = {"bottle": "Bottle", "falcon": "Falcon", "pyramid": "Pyramid"}
"""Distributions whose name is not how they are written."""

APPS = {"datasette": ("Datasette", "ASGI"), "dash": ("Dash", "WSGI"), "nicegui": ("NiceGUI", "ASGI"),
        "pypiserver": ("pypiserver", "WSGI")}  # fmt: skip
"""tests/applications/test_NAME.py -> how it is written, and what it speaks. The name is the distribution's too."""


def run(report: Path) -> int:
    command = [sys.executable, "-m", "pytest", "-q", f"--junitxml={report}"]
    command += [str(ROOT / "tests" / "frameworks"), str(ROOT / "tests" / "applications")]
    # The tests that compare this page with the tests would fail before it is written.
    return subprocess.run([*command, "-k", "not test_the_grid"], cwd=ROOT, check=False).returncode


def failed(test: ElementTree.Element) -> bool:
    return any(test.find(tag) is not None for tag in ("failure", "error", "skipped"))


def results(report: Path) -> tuple[dict[str, dict[tuple[str, str], str]], dict[str, str]]:
    """Module -> (framework, case) -> "yes" or "NO"; application -> "yes" or "NO"."""
    found: dict[str, dict[tuple[str, str], str]] = {}
    apps: dict[str, str] = {}
    for test in ElementTree.parse(report).iter("testcase"):
        module = test.get("classname", "").rpartition(".")[2]
        match = re.fullmatch(r"test_(?:framework|on_the_loop)\[(.+)-(\w+)\]", test.get("name", ""))
        if module in TABLES and match is not None:
            cells = found.setdefault(module, {})
            cells[match[1], match[2]] = "NO" if failed(test) or cells.get((match[1], match[2])) == "NO" else "yes"
        name = module.removeprefix("test_")
        if name in APPS:
            apps[name] = "NO" if failed(test) or apps.get(name) == "NO" else "yes"
    return found, apps


def table(heading: str, cells: Mapping[tuple[str, str], str], without: Mapping[tuple[str, str], str]) -> list[str]:
    names = list(dict.fromkeys(name for name, _ in cells))
    cases = list(dict.fromkeys(case for _, case in cells))
    lines = [f"| {heading} | version | {' | '.join(cases)} |", f"|---|---|{'---|' * len(cases)}"]
    for name in names:
        row = ["-" if (name, case) in without else cells.get((name, case), "NO") for case in cases]
        lines.append(f"| {NAMES.get(name, name)} | {metadata.version(name)} | {' | '.join(row)} |")
    notes = dict.fromkeys(f"`-`: {why}." for (name, _), why in without.items() if name in names)
    return [*lines, "", *notes]


def shown(name: str) -> str:
    """The first paragraph of the application's tests, behind its name."""
    text = ast.get_docstring(
        ast.parse((ROOT / "tests" / "applications" / f"test_{name}.py").read_text(encoding="utf-8"))
    )
    assert text is not None
    return " ".join(text.split("\n\n")[0].split()).partition(": ")[2].rstrip(".")


def main() -> int:
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    from frameworks import apps_wsgi, asgi_apps

    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        code = run(report)
        found, apps = results(report)
    text = HEAD.format(python=".".join(map(str, sys.version_info[:3])))
    for (module, heading), without in zip(TABLES.items(), (asgi_apps.WITHOUT, apps_wsgi.WITHOUT), strict=True):
        text += "\n" + "\n".join(table(heading, found.get(module, {}), without)) + "\n"
    text += APPLICATIONS
    for name, (written, interface) in APPS.items():
        text += f"| {written} | {metadata.version(name)} | {interface} | {shown(name)} | {apps.get(name, 'NO')} |\n"
    (DOCS / "compatibility.md").write_text(text, encoding="utf-8")
    return code


if __name__ == "__main__":
    raise SystemExit(main())
