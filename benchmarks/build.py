"""The workshop: builds what is compiled (peers and the load client) into a cache folder, outside the tree, when it is
asked for.

Called by servers.py and load.py. Calls cc, cargo and go. A program is named by a hash of its sources: it is built once for
each state of them, and never measured stale. The folder is $XDG_CACHE_HOME/fastserve-benchmarks (~/.cache by default).
"""

import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path

PEERS = Path(__file__).resolve().parent / "peers"
CORE = PEERS.parent.parent / "csrc"
CARGO_S = 900
CC_S = 120


class BuildError(Exception):
    """A program cannot be built here; the message is one line, fit for the report."""


def cache() -> Path:
    """The folder of the built programs, made if it is not there."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fastserve-benchmarks"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def program(name: str) -> Path:
    """The path of a built program of RECIPES, building it first where its sources have changed. BuildError if it
    cannot be.
    """
    sources, make = RECIPES[name]
    digest = hashlib.sha256()
    for path in sorted(sources()):
        digest.update(path.name.encode() + path.read_bytes())
    target = cache() / f"{name}-{digest.hexdigest()[:12]}"
    if not target.exists():
        # Made beside its place and moved there, so that an interrupted build leaves nothing that looks finished.
        half = target.with_suffix(f".{os.getpid()}")
        make(name, half)
        half.replace(target)
    return target


def _c(*extra: Path) -> Callable[[str, Path], None]:
    def make(name: str, target: Path) -> None:
        words = ["-O3", "-std=c11", "-Wall", "-Wextra", "-D_GNU_SOURCE", f"-I{CORE}", str(PEERS / f"{name}.c")]
        _run([os.environ.get("CC", "cc"), *words, *map(str, extra), "-o", str(target)], CC_S)

    return make


def _cargo(name: str, target: Path) -> None:
    folder = cache() / "cargo"
    words = ["cargo", "build", "--release", "--locked", "--bin", name]
    _run(words, CARGO_S, cwd=PEERS / "hyper", env={"CARGO_TARGET_DIR": str(folder)})
    shutil.copy2(folder / "release" / name, target)


def _go(name: str, target: Path) -> None:
    _run(["go", "build", "-o", str(target), "."], CARGO_S, cwd=PEERS / "go")


def _run(words: list[str], timeout_s: int, cwd: Path | None = None, env: dict[str, str] | None = None) -> None:
    tool = words[0].split()[0]
    if shutil.which(tool) is None:
        raise BuildError(f"{tool} is not on PATH")
    try:
        done = subprocess.run(
            [*tool.split(), *words[0].split()[1:], *words[1:]],
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
            cwd=cwd,
            env={**os.environ, **(env or {})},
        )
    except subprocess.TimeoutExpired as error:
        raise BuildError(f"{tool} did not end in {timeout_s} s") from error
    if done.returncode != 0:
        told = (
            [line for line in done.stderr.splitlines() if "error" in line.lower()]
            or done.stderr.splitlines()
            or ["nothing said"]
        )
        raise BuildError(f"{tool} failed: {told[0].strip()}")


def _files(folder: Path, *patterns: str) -> Callable[[], Iterable[Path]]:
    return lambda: [path for pattern in patterns for path in folder.rglob(pattern)]


_RUST = _files(PEERS / "hyper", "*.rs", "Cargo.*")
RECIPES: dict[str, tuple[Callable[[], Iterable[Path]], Callable[[str, Path], None]]] = {
    "client": (_files(PEERS, "client.c"), _c()),
    "arena": (_files(PEERS, "arena.c"), _c()),
    "epoll": (lambda: [PEERS / "epoll.c", *CORE.glob("*.[ch]")], _c(*sorted(CORE.glob("*.c")))),
    "hyper": (_RUST, _cargo),
    "axum": (_RUST, _cargo),
    "net-http": (_files(PEERS / "go", "*.go", "go.mod"), _go),
}
