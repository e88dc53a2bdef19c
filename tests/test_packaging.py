"""The package as it is handed out: what is in the sdist and the wheel, and an installed wheel in a clone's root.

Everything is built once, from a copy of the files that git knows or would take: the sdist from the copy, the wheel from
the sdist, without optimisation (FASTSERVE_DEBUG), for only the build and the layout are looked at. The wheel goes into
an environment of its own, which has uvloop and nothing to compile with, and is used there with a PATH that holds no
compiler, in the clone and far from it.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from collections.abc import Sequence
from configparser import ConfigParser
from email.message import Message
from email.parser import Parser
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import NamedTuple

import pytest

from fastserve._version import __version__

ROOT = Path(__file__).resolve().parent.parent
MODULES = sorted(path.relative_to(ROOT).with_suffix("").as_posix() for path in (ROOT / "fastserve").rglob("*.pyx"))
NOT_HANDED_OUT = {".gitignore"}
OURS = ("FASTSERVE_", "PYTHON")  # variables that this very test may run with


def run(*command: str | Path, cwd: Path, **variables: str) -> str:
    environ = {key: value for key, value in os.environ.items() if not key.startswith(OURS)}
    answer = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env=environ | variables,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert answer.returncode == 0, f"{command}\n{answer.stdout[-2000:]}\n{answer.stderr[-4000:]}"
    return answer.stdout + answer.stderr


def files_of_the_clone() -> list[str]:
    """Tracked files and those that would be; without git (in an unpacked sdist) all but what builds and tools leave."""
    if (ROOT / ".git").exists():
        listed = run("git", "ls-files", "-co", "--exclude-standard", cwd=ROOT).splitlines()
        return sorted(name for name in listed if (ROOT / name).is_file())
    folders = r"build|dist|__pycache__|\.[^/]*_cache|\.benchmarks|\.venv|[^/]*\.egg-info"
    left = re.compile(rf"(^|/)({folders})/|\.so$|^PKG-INFO$|^setup\.cfg$")
    names = (path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*") if path.is_file())
    return sorted(name for name in names if not left.search(name))


class Built(NamedTuple):
    clone: Path
    """a clone that nothing was built in"""
    sdist: Path
    wheel: Path
    said: str
    """by the build of the sdist"""


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    place = tmp_path_factory.mktemp("packaging")
    workshop, clone = place / "workshop", place / "clone"
    for name in files_of_the_clone():
        for copy in (workshop, clone):
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, copy / name)
    hook = f"from setuptools import build_meta; build_meta.build_sdist({str(place)!r})"
    said = run(sys.executable, "-c", hook, cwd=workshop)
    sdist = next(place.glob("*.tar.gz"))
    options = ["--no-deps", "--no-build-isolation", "--disable-pip-version-check"]
    run(sys.executable, "-m", "pip", "wheel", *options, sdist, "-w", place, cwd=place, FASTSERVE_DEBUG="1")
    return Built(clone, sdist, next(place.glob("*.whl")), said)


@pytest.fixture(scope="session")
def bare_path(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A PATH with what a slim image has of use to anybody: no compiler, no make, no git."""
    folder = tmp_path_factory.mktemp("bin")
    for name in ("sh", "env", "cat", "ls"):
        (folder / name).symlink_to(str(shutil.which(name)))
    return str(folder)


@pytest.fixture(scope="session")
def scripts(built: Built, bare_path: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of an environment in which the wheel is installed as a user installs it, without a compiler."""
    place = tmp_path_factory.mktemp("environment") / "venv"
    run(sys.executable, "-m", "venv", place, cwd=ROOT)
    pip = [place / "bin" / "python", "-m", "pip", "install", "--disable-pip-version-check"]
    run(*pip, built.wheel, cwd=place, PATH=bare_path)
    listed = run(place / "bin" / "python", "-m", "pip", "list", "--disable-pip-version-check", cwd=place)
    assert "ython " not in listed and "uvloop" in listed
    return place / "bin"


# -------------------------------------------------------------------------------------------------- what is inside


def test_the_sdist_is_the_clone(built: Built) -> None:
    with tarfile.open(built.sdist) as archive:
        inside = {member.name.partition("/")[2] for member in archive if member.isfile()}
    given = set(files_of_the_clone()) - NOT_HANDED_OUT
    assert not given - inside, f"MANIFEST.in forgets {sorted(given - inside)}"
    generated = {name for name in inside - given if not re.match(r"PKG-INFO$|setup\.cfg$|[^/]*\.egg-info/", name)}
    assert not generated, f"the sdist holds what is made from the rest: {sorted(generated)}"


def test_metadata_is_built_without_warnings(built: Built) -> None:
    lines = [line for line in built.said.splitlines() if re.search(r"warning|deprecat", line, re.IGNORECASE)]
    lines = [line for line in lines if "no previously-included" not in line]  # nothing to exclude from a clean clone
    assert not lines, "\n".join(lines)


def test_the_wheel_has_modules_stubs_declarations_and_the_parts_of_pages_only(built: Built) -> None:
    with zipfile.ZipFile(built.wheel) as archive:
        inside = {name for name in archive.namelist() if not name.endswith("/")}
    information = f"fastserve_http-{__version__}.dist-info/"
    package = {name for name in inside if not name.startswith(information)}
    suffix = EXTENSION_SUFFIXES[0]
    expected = {
        name
        for name in files_of_the_clone()
        if name.startswith("fastserve/") and name.endswith((".py", ".pyi", ".pxd", "py.typed", ".html", ".css", ".js"))
    } | {module + suffix for module in MODULES}
    assert package == expected
    assert {information + name for name in ("METADATA", "entry_points.txt", "licenses/LICENSE")} <= inside


def test_the_wheel_has_its_entry_points(built: Built) -> None:
    parser = ConfigParser()
    with zipfile.ZipFile(built.wheel) as archive:
        parser.read_string(archive.read(f"fastserve_http-{__version__}.dist-info/entry_points.txt").decode())
    assert {name: dict(parser[name]) for name in parser.sections()} == {
        "console_scripts": {"fastserve": "fastserve.cli:main"},
        "pytest11": {"fastserve": "fastserve.pytest_plugin"},
    }


def metadata(built: Built) -> Message:
    with zipfile.ZipFile(built.wheel) as archive:
        return Parser().parsestr(archive.read(f"fastserve_http-{__version__}.dist-info/METADATA").decode())


def test_the_wheel_needs_uvloop_only(built: Built) -> None:
    about = metadata(built)
    needed = [line for line in about.get_all("Requires-Dist", []) if "extra ==" not in line]
    assert [re.match(r"[a-z]+", line)[0] for line in needed] == ["uvloop"]  # type: ignore[index]
    assert about["Name"] == "fastserve-http" and about["Version"] == __version__
    assert about["License-Expression"] == "MIT" and about["Requires-Python"] == ">=3.11"
    assert about["Description-Content-Type"] == "text/markdown"
    assert {"json", "test", "bench", "lint"} <= set(about.get_all("Provides-Extra", []))


# ---------------------------------------------------------------- installed, and started in the root of a clone


def said_by(scripts: Path, clone: Path, command: Sequence[str], **variables: str) -> str:
    return run(scripts / command[0], *command[1:], cwd=clone, **variables).strip()


def test_the_installed_package_is_used_in_a_clone(built: Built, scripts: Path) -> None:
    code = "import fastserve.protocol.core as core, fastserve.cli as cli; print(core.__file__, cli.__file__)"
    site = str(scripts.parent / "lib")
    said = said_by(scripts, built.clone, ["python", "-c", code]).split()
    assert len(said) == 2 and all(file.startswith(site) for file in said), said


@pytest.mark.parametrize("command", [["fastserve"], ["python", "-m", "fastserve"]], ids=" ".join)
def test_version(built: Built, scripts: Path, command: list[str]) -> None:
    assert said_by(scripts, built.clone, [*command, "--version"]) == f"fastserve {__version__}"


def test_tests_can_be_collected_in_a_clone(built: Built, scripts: Path) -> None:
    """pytest is borrowed from the environment of this test, behind the installed package."""
    borrowed = sysconfig.get_path("purelib")
    code = f"import sys; sys.path.append({borrowed!r}); import pytest; sys.exit(pytest.main(sys.argv[1:]))"
    options = ["--collect-only", "-q", "-p", "no:cacheprovider"]
    said = said_by(scripts, built.clone, ["python", "-c", code, *options, "tests/test_app.py", "tests/protocol"])
    assert re.search(r"[1-9][0-9]* tests collected", said), said


@pytest.mark.parametrize(
    "command",
    [
        ["fastserve"],
        ["python", "-m", "fastserve"],
        ["fastserve", "--workers", "2"],
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("place", ["clone", "elsewhere"])
def test_the_readme_command_serves_and_stops(
    built: Built, scripts: Path, bare_path: str, tmp_path: Path, command: list[str], place: str
) -> None:
    """In the clone, whose own fastserve/ is not compiled; and where there is nothing but the file of the example."""
    if place == "elsewhere":
        (tmp_path / "examples").mkdir()
        shutil.copy(ROOT / "examples" / "hello.py", tmp_path / "examples")
    environ = {key: value for key, value in os.environ.items() if not key.startswith(OURS)}
    process = subprocess.Popen(
        [str(scripts / command[0]), *command[1:], "examples.hello:app", "--port", "0"],
        cwd=built.clone if place == "clone" else tmp_path,
        env={key: value for key, value in environ.items() if key not in ("PORT", "WEB_CONCURRENCY")}
        | {"PATH": bare_path},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    said = ""
    try:
        for line in process.stderr:
            said += line
            if "ready" in line:
                break
        address = re.search(r"http://127\.0\.0\.1:[0-9]+", said)
        assert address is not None, said
        answer = run(str(shutil.which("curl")), "-si", "--max-time", "10", address[0], cwd=tmp_path)
        assert answer.startswith("HTTP/1.1 200 OK\n") and "Hello" in answer, answer
        process.send_signal(signal.SIGTERM)
        said += process.communicate(timeout=20)[1]
        assert process.returncode == 0, said
    finally:
        process.kill()
        process.wait(10)
        process.stderr.close()


def test_the_installed_wheel_serves_every_interface(scripts: Path, bare_path: str, tmp_path: Path) -> None:
    """What cibuildwheel asks of each wheel."""
    shutil.copy(ROOT / "tests" / "installed.py", tmp_path)
    said = run(scripts / "python", "installed.py", cwd=tmp_path, PATH=bare_path).splitlines()
    assert len(said) == 6 and all(line.endswith(": served") for line in said), said


# ------------------------------------------------------------------------------------------- wheels for others

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_wheels_are_made_for_every_python_that_is_named() -> None:
    """cibuildwheel's list, and the classifiers: the same versions, the oldest of them the one that is required."""
    named = [line.rpartition(" :: ")[2] for line in PROJECT["project"]["classifiers"] if re.search(r":: 3\.\d+$", line)]
    wheels = PROJECT["tool"]["cibuildwheel"]
    assert wheels["build"] == [f"cp{version.replace('.', '')}-*" for version in named]
    assert PROJECT["project"]["requires-python"] == f">={named[0]}"
    assert wheels["test-command"] == "python {project}/tests/installed.py"
    assert wheels["linux"]["archs"] == ["x86_64", "aarch64"]
