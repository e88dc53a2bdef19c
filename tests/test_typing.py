"""Types: strict mypy over the package and over what a user writes; the stubs against the compiled modules."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import fastserve

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "fastserve"
ALLOWLIST = ROOT / "tests" / "typing" / "stubtest-allowlist.txt"
NEWER = {(3, 13): ROOT / "tests" / "typing" / "stubtest-allowlist-3.13.txt"}
"""What is different from a version of Python on."""
COMPILED = sorted(path.relative_to(ROOT).with_suffix("") for path in SOURCE.rglob("*.pyx"))


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """mypy's cache: what it found in the first run the second need not find again."""
    return tmp_path_factory.mktemp("mypy")


def checker(cache: Path, module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        env=os.environ | {"MYPY_CACHE_DIR": str(cache), "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_everything_is_typed(cache: Path) -> None:
    """tests/typing/user_code.py holds lines that must be errors: with --strict an ignore without an error is one."""
    answer = checker(cache, "mypy", "--strict", "fastserve", "tests/typing", "examples", "benchmarks/apps")
    assert answer.returncode == 0, answer.stdout + answer.stderr


def test_stubs_agree_with_the_compiled_modules(cache: Path) -> None:
    modules = [".".join(path.parts) for path in COMPILED]
    options = ["--concise", "--ignore-disjoint-bases", "--mypy-config-file=pyproject.toml", f"--allowlist={ALLOWLIST}"]
    options += [f"--allowlist={path}" for version, path in NEWER.items() if sys.version_info >= version]
    answer = checker(cache, "mypy.stubtest", *options, *modules)
    assert answer.returncode == 0, answer.stdout + answer.stderr


def test_every_compiled_module_has_a_stub() -> None:
    assert COMPILED
    assert not [str(path) for path in COMPILED if not (ROOT / path).with_suffix(".pyi").exists()]


def test_the_allowlist_gives_reasons_and_stays_small() -> None:
    files = (ALLOWLIST, *NEWER.values())
    blocks = "\n\n".join(path.read_text(encoding="utf-8").strip() for path in files).split("\n\n")
    assert all(block.startswith("# ") for block in blocks)
    assert sum(not line.startswith("#") for block in blocks for line in block.splitlines()) <= 10


def test_lazy_names_are_those_type_checkers_see() -> None:
    """fastserve/__init__.py says each name twice: in _WHERE, and in a block that only type checkers read."""
    tree = ast.parse((SOURCE / "__init__.py").read_text(encoding="utf-8"))
    guarded = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    assert len(guarded) == 1
    told = {}
    for node in guarded[0].body:
        assert isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names:
            assert alias.asname == alias.name, f"strict mode re-exports `{alias.name} as {alias.name}` only"
            told[alias.name] = node.module
    assert told == fastserve._WHERE
    assert set(fastserve.__all__) == {"__version__", *told}


@pytest.mark.parametrize("name", fastserve.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(fastserve, name) is not None
    assert name in dir(fastserve)


def test_importing_fastserve_is_cheap() -> None:
    code = "import sys, fastserve; print(*sorted(m for m in sys.modules if m.startswith(('fastserve.', 'uvloop'))))"
    command = [sys.executable, "-c", code]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert answer.stdout.split() == ["fastserve._layout", "fastserve._version"]
