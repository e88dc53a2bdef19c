"""The documentation is true of the code: generated pages are fresh, links lead somewhere, snippets run, names exist."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
import urllib.request
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
SKIPPED = {"build", "dist", "node_modules"}
PAGES = sorted(
    path
    for path in ROOT.rglob("*.md")
    if not any(part.startswith(".") or part in SKIPPED for part in path.relative_to(ROOT).parts)
)
OURS = [page for page in PAGES if page.parent in (ROOT, DOCS)]


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def prose(page: Path) -> str:
    """The page without its blocks of code."""
    return re.sub(r"^(```+).*?^\1", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """The names of its headings, as renderers make them."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_generated_pages_are_fresh() -> None:
    command = [sys.executable, str(DOCS / "generate.py"), "--check"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stderr


def test_the_generator_notices_a_stale_page(tmp_path: Path) -> None:
    from importlib.util import module_from_spec, spec_from_file_location

    spec = spec_from_file_location("generate", DOCS / "generate.py")
    assert spec is not None and spec.loader is not None
    generate: Any = module_from_spec(spec)
    spec.loader.exec_module(generate)
    generate.DOCS = tmp_path
    (tmp_path / "states.md").write_text(f"before\n{generate.BEGIN}\nold\n{generate.END}\nafter\n", encoding="utf-8")
    marked = f"{generate.BEGIN_OPTIONS}\nold\n{generate.END}\n"
    (tmp_path / "configuration.md").write_text(marked, encoding="utf-8")
    (tmp_path / "metrics.md").write_text(f"{generate.BEGIN_METRICS}\nold\n{generate.END}\n", encoding="utf-8")
    (tmp_path / "findings.md").write_text(f"{generate.BEGIN_FINDINGS}\nold\n{generate.END}\n", encoding="utf-8")
    marked = "<!-- the file deploy/shop.socket -->\nold\n<!-- end of the file -->\n"
    (tmp_path / "deploy.md").write_text(marked, encoding="utf-8")
    for peer in generate.migrations():
        marked = f"{generate.BEGIN_MIGRATION}\nold\n{generate.END}\n"
        (tmp_path / f"from-{peer}.md").write_text(marked, encoding="utf-8")
    assert generate.main(["--check"]) == 1
    assert "old" in (tmp_path / "states.md").read_text(encoding="utf-8")
    assert generate.main([]) == 0
    assert generate.main(["--check"]) == 0
    assert "ListenStream=" in (tmp_path / "deploy.md").read_text(encoding="utf-8")
    text = (tmp_path / "states.md").read_text(encoding="utf-8")
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text
    (tmp_path / "states.md").write_text("no marks", encoding="utf-8")
    with pytest.raises(SystemExit):
        generate.main([])


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_relative_links_lead_somewhere(page: Path) -> None:
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`\n]*`", "", prose(page))):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert not broken, f"{name(page)}: {broken}"


def test_every_page_can_be_found() -> None:
    index = (DOCS / "index.md").read_text(encoding="utf-8")
    assert not [page.name for page in DOCS.glob("*.md") if page.name != "index.md" and f"({page.name})" not in index]


@pytest.mark.parametrize("page", OURS, ids=name)
def test_python_blocks_compile(page: Path) -> None:
    for block in blocks(page, "python"):
        if not block.startswith(" "):  # an excerpt of a function: see the tour
            compile(block, name(page), "exec")


def apps() -> list[Any]:
    found = []
    for page in OURS:
        mine = [block for block in blocks(page, "python") if re.search(r"^app = ", block, re.MULTILINE)]
        found += [pytest.param(block, id=f"{name(page)}-{i}") for i, block in enumerate(mine)]
    return found


@pytest.mark.parametrize("block", apps())
def test_apps_in_the_documentation_run(block: str) -> None:
    from fastserve.testing import live_server

    space: dict[str, Any] = {"__name__": "documentation"}
    exec(compile(block, "documentation", "exec"), space)
    with live_server(space["app"]) as url, urllib.request.urlopen(url, timeout=10) as answer:
        assert answer.status == 200
    for name_, test in space.items():
        if name_.startswith("test_"):
            test()


def test_the_readme_has_the_two_commands() -> None:
    commands = "\n".join(blocks(ROOT / "README.md", "sh")).splitlines()
    assert "python3 -m venv .venv && .venv/bin/pip install . && .venv/bin/fastserve examples.hello:app" in commands
    assert "python3 -m venv .venv && .venv/bin/pip install -e '.[test]' && .venv/bin/pytest" in commands


def test_the_tour_shows_the_dolls_house_as_it_is() -> None:
    tiny = (ROOT / "examples" / "tiny_server.py").read_text(encoding="utf-8")
    excerpts = blocks(DOCS / "follow-one-request.md", "python")
    assert len(excerpts) == 8
    for number, excerpt in enumerate(excerpts, 1):
        assert excerpt in tiny, f"station {number} of the tour is not what tiny_server.py says"


def test_the_tour_names_what_exists() -> None:
    """Each station names files and functions: `_consume`, `Server.start`, `fs_conn_receive`."""
    text = (DOCS / "follow-one-request.md").read_text(encoding="utf-8")
    lines = re.findall(r"^(- \[.*(?:\n  .*)*)", text, re.MULTILINE)
    assert len(lines) >= 12
    for line in lines:
        files = re.findall(r"\]\(\.\./([^)]+)\)", line)
        sources = "".join((ROOT / file).read_text(encoding="utf-8") for file in files)
        for function in re.findall(r"`([^`]+)`", line):
            assert re.search(rf"\b{function.rpartition('.')[2]}\b", sources), f"{function} is not in {files}"


def test_architecture_names_what_exists() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    everything = "\n".join(
        path.read_text(encoding="utf-8")
        for folder in ("csrc", "fastserve")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in (".c", ".h", ".py", ".pyx", ".pxd")
    )
    rows = re.findall(r"^\| [1-8] \| \*\*\w+\*\* \| .+? \| (.+) \|$", text, re.MULTILINE)
    assert len(rows) == 8
    for function in re.findall(r"`([^`]+)`", " ".join(rows)):
        assert re.search(rf"\b{function.rpartition('.')[2]}\(", everything), f"there is no function {function}"


def test_limits_has_every_limit_and_every_flag_with_its_default() -> None:
    from fastserve.process.config import OPTIONS, Config

    text = (DOCS / "limits.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    by_flag = {row[1].strip("`"): row for row in rows if len(row) > 2 and row[1].startswith("`--")}
    names = {row[0].strip("`") for row in rows}
    config = Config(app=None)
    for option, about in OPTIONS.items():
        if about.group in ("timeouts", "limits") and about.kind not in ("flag", "texts"):
            value = getattr(config, option)
            shown = "no limit" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
            assert by_flag["--" + option.replace("_", "-")][2] == shown, option
    source = (ROOT / "fastserve" / "protocol" / "limits.pyx").read_text(encoding="utf-8")
    documented = re.findall(r"\b(\w+_(?:max|timeout))=", source)
    assert documented and not set(documented) - names


def test_flags_in_the_documentation_exist() -> None:
    from fastserve.process.arguments import help_text

    known = set(help_text().replace(",", " ").split())
    others = {"--check", "--python", "--limit-rate", "--loop"}
    for page in (DOCS / "behaviour.md", DOCS / "signals.md", DOCS / "limits.md", DOCS / "follow-one-request.md"):
        for flag in set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", page.read_text(encoding="utf-8"))) - others:
            assert flag in known, f"{name(page)}: {flag}"


def test_errors_have_their_rows() -> None:
    from fastserve.protocol.core import error_table

    text = (DOCS / "errors.md").read_text(encoding="utf-8")
    for row_name, status, words, rule in error_table()[1:]:
        assert f"| `{row_name}` | {status or '-'} | {words} | {rule} |" in text


def test_public_names_are_documented() -> None:
    import fastserve

    text = "".join((DOCS / page).read_text(encoding="utf-8") for page in ("native-api.md", "embedding.md", "lens.md"))
    missing = [
        public for public in fastserve.__all__ if public != "__version__" and not re.search(rf"\b{public}\b", text)
    ]
    assert not missing


def test_request_attributes_are_documented() -> None:
    from fastserve import Request

    text = (DOCS / "native-api.md").read_text(encoding="utf-8")
    public = [attribute for attribute in vars(Request) if not attribute.startswith("_")]
    assert public and not [attribute for attribute in public if not re.search(rf"[`.]{attribute}\b", text)]


def test_every_extra_is_explained() -> None:
    """`bench` and `lint` are for work on the server: CONTRIBUTING and benchmarks/README tell of them."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    rows = re.findall(r"^\| `(\w+)` \| .+ \| .+ \|$", (DOCS / "install.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(rows) == sorted(set(extras) - {"bench", "lint"})
