"""The load for a build by profile: it is asked, answered, and ended so that what was counted can be written."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
if str(ROOT) not in sys.path:
    sys.path.append(str(ROOT))  # last: it must not hide the installed fastserve

from benchmarks import servers, train  # noqa: E402
from benchmarks.progress import Progress  # noqa: E402

OVER = """
import ctypes, os
import benchmarks.apps.trained
said = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(lambda _: os.write(1, b"over"))
ctypes.CDLL(None).__cxa_atexit(said, None, None)
os._exit(3)
"""


def test_every_case_of_ours_but_tls_is_trained() -> None:
    asked = {case for name in train.NAMES for case in train.cases_of(servers.SERVERS[name])}
    assert asked >= {"plaintext", "pipelined", "json", "browser", "stream", "echo-1k", "close", "static", "websocket"}
    assert not asked & {"tls", "tls-10k", "tls-close"}


def test_a_trained_server_ends_by_exit() -> None:
    """Which runs what compilers leave for the end of a program; _exit(2) does not."""
    done = subprocess.run([sys.executable, "-c", OVER], cwd=ROOT, capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (3, b"over"), done.stderr.decode()


def test_a_short_training(tmp_path: Path) -> None:
    """With profiles it is told how many, and without there was nothing to count: this build does not."""
    stream = io.StringIO()
    with pytest.raises(train.TrainError, match="nothing was counted: FASTSERVE_PROFILE=make builds what counts"):
        train.main(["fastserve-static"], 32, Progress(stream), tmp_path)
    (tmp_path / "core.gcda").write_bytes(b"")
    assert train.main(["fastserve", "fastserve-wsgi"], 32, Progress(stream), tmp_path) == 0
    assert "fastserve: websocket" in stream.getvalue() and "1 files were counted" in stream.getvalue()


def test_a_server_that_is_killed_has_counted_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "STOP_S", 0.0)
    with pytest.raises(train.TrainError, match=r"fastserve did not end by itself \(-9\)"):
        train.train("fastserve", ["plaintext"], 16, Progress(io.StringIO()))
