"""setup.py's switches: what of them reaches the compiler, what it makes of it, and what is refused in one line.

Real builds, in a copy with the whole core and one module, `protocol.core`, at -O1 for speed. gcc writes down its options in
what it makes (-frecord-gcc-switches).
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
OURS = ("FASTSERVE_", "PYTHON", "CFLAGS", "LDFLAGS", "CC")
USE = """
import sys
from importlib.machinery import EXTENSION_SUFFIXES, ExtensionFileLoader
from importlib.util import module_from_spec, spec_from_loader
place = "fastserve/protocol/core" + EXTENSION_SUFFIXES[0]
spec = spec_from_loader("fastserve.protocol.core", ExtensionFileLoader("fastserve.protocol.core", place))
core = module_from_spec(spec)
spec.loader.exec_module(core)
print(core.simd())
"""

needs_gcc = pytest.mark.skipif(
    shutil.which("gcc") is None or sys.platform != "linux", reason="gcc is not here, or makes no ELF"
)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A tree to build in: all that protocol/core.pyx needs."""
    shutil.copytree(ROOT / "csrc", tmp_path / "csrc")
    for name in ("pyproject.toml", "README.md", "LICENSE", "fastserve/_version.py", "fastserve/__init__.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy2(ROOT / name, tmp_path / name)
    (tmp_path / "fastserve" / "protocol").mkdir()
    for path in (ROOT / "fastserve" / "protocol").glob("core.p*"):
        shutil.copy2(path, tmp_path / "fastserve" / "protocol")
    text = (ROOT / "setup.py").read_text()
    for pattern, instead in ((r"^MODULES = \[.*?^\]", 'MODULES = ["protocol.core"]'), ('"-O3"', '"-O1"')):
        text, found = re.subn(pattern, instead, text, flags=re.MULTILINE | re.DOTALL)
        assert found
    (tmp_path / "setup.py").write_text(text)
    return tmp_path


def build(copy: Path, **switches: str) -> subprocess.CompletedProcess[str]:
    environ = {key: value for key, value in os.environ.items() if not key.startswith(OURS)}
    told = {"CC": "gcc", "CFLAGS": "-frecord-gcc-switches", "FASTSERVE_BUILD_JOBS": "1"} | switches
    return subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", "--inplace"],
        cwd=copy,
        env=environ | told,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def built(copy: Path, **switches: str) -> tuple[bytes, bytes]:
    """Of a build that must go well: the object of core.c, which is in the module, and that of conn.c, in the library."""
    done = build(copy, **switches)
    assert done.returncode == 0, done.stderr[-4000:]
    module, library = (next((copy / "build").rglob(f"{name}.o")) for name in ("core", "conn"))
    return module.read_bytes(), library.read_bytes()


def use(copy: Path) -> None:
    """Import the module that was built, and let it end."""
    done = subprocess.run(
        [sys.executable, "-c", USE], cwd=copy, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() in ("swar", "sse42", "avx2", "neon")


@needs_gcc
def test_what_is_executed_is_counted_and_used(copy: Path) -> None:
    """The whole way, each step in the folder of the one before: what the flags change is made anew."""
    for made in built(copy, FASTSERVE_PROFILE="make"):
        assert b"-fprofile-generate" in made
    profiles = copy / "build" / "profile"
    assert not profiles.exists()
    use(copy)
    assert [path.name for path in profiles.glob("*#core.gcda")]
    for made in built(copy, FASTSERVE_PROFILE="use"):
        assert b"-fprofile-use" in made and b"-fprofile-partial-training" in made and b"-fprofile-generate" not in made
    use(copy)


@needs_gcc
def test_optimised_when_linking(copy: Path) -> None:
    for made in built(copy, FASTSERVE_LTO="1"):
        assert b".gnu.lto_" in made
    use(copy)
    for made in built(copy, FASTSERVE_LTO="0"):
        assert b".gnu.lto_" not in made and b"-fprofile" not in made


@pytest.mark.parametrize(
    ("switches", "told"),
    [
        ({"FASTSERVE_LTO": "thin"}, "FASTSERVE_LTO must be 0 or 1, not 'thin'"),
        ({"FASTSERVE_PROFILE": "yes"}, "FASTSERVE_PROFILE must be make or use, not 'yes'"),
        (
            {"FASTSERVE_PROFILE": "use"},
            "FASTSERVE_PROFILE=use: nothing in build/profile: `make pgo` builds, trains and uses",
        ),
        ({"FASTSERVE_PROFILE": "make", "CC": "no_such_compiler -x"}, "no_such_compiler: No such file or directory"),
        (
            {"FASTSERVE_LTO": "1", "FASTSERVE_DEBUG": "1"},
            "FASTSERVE_LTO and FASTSERVE_PROFILE do not go with FASTSERVE_DEBUG and FASTSERVE_SANITIZE",
        ),
        ({"FASTSERVE_BUILD_JOBS": "all"}, "FASTSERVE_BUILD_JOBS must be a whole number, not 'all'"),
    ],
)
def test_a_wrong_switch_is_one_line(copy: Path, switches: dict[str, str], told: str) -> None:
    if switches.get("FASTSERVE_PROFILE") and "CC" not in switches and shutil.which("gcc") is None:
        pytest.skip("gcc is not here")
    done = build(copy, **switches)
    assert (done.returncode, done.stderr) == (1, f"setup.py: {told}\n")
    assert not (copy / "build").exists()


def test_profiles_are_gccs(copy: Path) -> None:
    done = build(copy, FASTSERVE_PROFILE="make", CC=sys.executable)  # it has a version, and is no gcc
    assert (done.returncode, done.stderr) == (1, "setup.py: FASTSERVE_PROFILE needs gcc as CC\n")
