"""The flat layout's trap: sources without compiled modules, with and without an installed package elsewhere."""

from __future__ import annotations

import shutil
import subprocess
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest

from fastserve import _layout

SOURCE = Path(_layout.__file__)
INIT = """\
from fastserve._layout import ensure_compiled
ensure_compiled(__file__)
from fastserve.where import WHERE
"""
ASK = "import fastserve, fastserve.protocol.core as c; print(fastserve.WHERE, c.__file__)"


def package(root: Path, where: str, compiled: bool) -> Path:
    """A package as ours. Its compiled module is an empty file, for only the name is looked at."""
    folder = root / "fastserve"
    (folder / "protocol").mkdir(parents=True)
    shutil.copy(SOURCE, folder / "_layout.py")
    (folder / "__init__.py").write_text(INIT)
    (folder / "where.py").write_text(f"WHERE = {where!r}\n")
    (folder / "protocol" / "__init__.py").write_text("")
    (folder / "protocol" / "core.pyx").write_text("")
    if compiled:
        (folder / "protocol" / f"compiled{EXTENSION_SUFFIXES[0]}").write_text("")
        (folder / "protocol" / "core.py").write_text("")
    return folder


def ask(first: Path, *path: Path, code: str = ASK) -> subprocess.CompletedProcess[str]:
    """Run Python with the clone's root first on sys.path, as `python -m` and pytest do, and then `path`."""
    prefix = f"import sys; sys.path[:0] = {[str(first), *map(str, path)]!r}; "
    return subprocess.run(
        [sys.executable, "-I", "-S", "-c", prefix + code], capture_output=True, text=True, timeout=10, check=False
    )


def test_compiled_package_is_left_alone(tmp_path: Path) -> None:
    package(tmp_path / "clone", "clone", compiled=True)
    package(tmp_path / "site", "site", compiled=True)
    assert ask(tmp_path / "clone", tmp_path / "site").stdout.startswith("clone ")


def test_source_package_gives_way_to_the_installed_one(tmp_path: Path) -> None:
    package(tmp_path / "clone", "clone", compiled=False)
    installed = package(tmp_path / "site", "site", compiled=True)
    answer = ask(tmp_path / "clone", tmp_path / "site")
    assert answer.stdout.split() == ["site", str(installed / "protocol" / "core.py")], answer.stderr


def test_submodules_that_come_later_are_the_installed_ones(tmp_path: Path) -> None:
    package(tmp_path / "clone", "clone", compiled=False)
    installed = package(tmp_path / "site", "site", compiled=True)
    (installed / "__main__.py").write_text("import fastserve.where as w; print('main', w.WHERE)")
    code = "import runpy; runpy.run_module('fastserve', run_name='__main__')"
    assert ask(tmp_path / "clone", tmp_path / "site", code=code).stdout == "main site\n"
    code = "import fastserve, importlib.util; print(importlib.util.find_spec('fastserve.where').origin)"
    assert ask(tmp_path / "clone", tmp_path / "site", code=code).stdout == f"{installed / 'where.py'}\n"


def test_neither_compiled_nor_installed_says_what_to_do_in_one_line(tmp_path: Path) -> None:
    folder = package(tmp_path / "clone", "clone", compiled=False)
    answer = ask(tmp_path / "clone")
    assert answer.returncode == 1
    assert answer.stderr.splitlines()[-1] == (
        f"ImportError: {folder} is the source folder and its compiled modules are not built: "
        f"run `pip install -e .` in {tmp_path / 'clone'} first"
    )


def test_another_clone_is_not_taken_for_the_installed_package(tmp_path: Path) -> None:
    package(tmp_path / "clone", "clone", compiled=False)
    package(tmp_path / "other", "other", compiled=True)
    (tmp_path / "other" / "setup.py").write_text("")
    assert "ImportError" in ask(tmp_path / "clone", tmp_path / "other").stderr


def test_source_package_named_twice_is_not_its_own_installation(tmp_path: Path) -> None:
    package(tmp_path / "clone", "clone", compiled=False)
    (tmp_path / "link").symlink_to(tmp_path / "clone")
    assert "ImportError" in ask(tmp_path / "clone", tmp_path / "link", tmp_path / "clone").stderr


@pytest.mark.parametrize(
    ("file", "compiled"),
    [
        (f"core{EXTENSION_SUFFIXES[0]}", True),
        ("core.pyx", False),
        ("core.c", False),
        ("core.cpython-39-x86_64-linux-gnu.so", False),
        ("libcore.so.1", False),
    ],
)
def test_compiled_means_for_this_python(tmp_path: Path, file: str, compiled: bool) -> None:
    (tmp_path / "protocol").mkdir()
    (tmp_path / "protocol" / file).write_text("")
    assert _layout.is_compiled(str(tmp_path)) is compiled
    assert not _layout.is_compiled(str(tmp_path / "nowhere"))


def test_this_very_package_is_compiled() -> None:
    import fastserve.protocol

    assert _layout.is_compiled(fastserve.__path__[0])
