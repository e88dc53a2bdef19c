"""pidfile: there while the server serves; a stale one is replaced, a live one and a stranger's file are not."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from process.running import HERE, Running

from fastserve.errors import ConfigError
from fastserve.process.pidfile import PidFile

APP = ("apps:app", "--app-dir", str(HERE), "--port", "0")


@pytest.fixture
def sleeper() -> Iterator[int]:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    yield process.pid
    process.kill()
    process.wait()


@pytest.mark.parametrize("arguments", [(), ("-w", "2"), ("--reload",)])
def test_it_is_there_while_the_server_serves(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    path = tmp_path / "server.pid"
    with Running(*APP, "--pid", "server.pid", *arguments, cwd=tmp_path) as server:
        server.ready()
        assert path.read_text() == f"{server.pid}\n"
        with Running(*APP, "-p", str(path), cwd=tmp_path) as second:
            assert second.wait() == 3
            assert second.lines == [
                f"fastserve: error: pid: {str(path)!r} belongs to process {server.pid}, which is running"
            ]
        assert path.read_text() == f"{server.pid}\n"
        assert server.stop() == 0
        assert list(tmp_path.iterdir()) == []


def test_a_stale_one_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "server.pid"
    with Running(*APP, "--pid", str(path), cwd=tmp_path) as first:
        first.ready().process.kill()
        first.wait()
        assert path.exists()
    with Running(*APP, "--pid", str(path), cwd=tmp_path) as second:
        second.ready()
        assert path.read_text() == f"{second.pid}\n"
        assert second.stop() == 0
    assert not path.exists()


def test_whose_it_is(tmp_path: Path, sleeper: int) -> None:
    path = tmp_path / "p"
    path.write_text(f"{sleeper}\n")
    with pytest.raises(ConfigError, match=f"belongs to process {sleeper}"):
        PidFile(str(path)).check()
    if sys.platform == "linux":
        os.utime(path, (1e9, 1e9))  # older than the process: its id was used again
        PidFile(str(path)).check()
    for text in ("", f"{os.getpid()}\n", "999999999", "0"):
        path.write_text(text)
        PidFile(str(path)).check()
    for text in ("not a number", "-1", "1 2"):
        path.write_text(text)
        with pytest.raises(ConfigError, match="holds no process id; it was not touched"):
            PidFile(str(path)).check()
    with pytest.raises(ConfigError, match="no regular file"):
        PidFile(str(tmp_path)).check()
    with pytest.raises(ConfigError, match="there is no folder"):
        PidFile(str(tmp_path / "no" / "p")).check()


def test_somebody_elses_is_not_removed(tmp_path: Path, sleeper: int) -> None:
    path = tmp_path / "p"
    with PidFile(str(path)) as file:
        file.write()
        assert path.read_text() == f"{os.getpid()}\n" and path.stat().st_mode & 0o777 == 0o644 & ~_umask()
        path.write_text(f"{sleeper}\n")
    assert path.read_text() == f"{sleeper}\n"
    with PidFile(None) as nothing:
        nothing.write()


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def test_a_failed_start_leaves_none(tmp_path: Path) -> None:
    with Running("nosuch:app", "--port", "0", "--pid", "p", cwd=tmp_path) as server:
        assert server.wait() == 3
    assert list(tmp_path.iterdir()) == []
