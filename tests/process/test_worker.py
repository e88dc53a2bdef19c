"""worker: one process without a supervisor, under signals: graceful, forced, while starting, blocked loop or thread."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from process.running import HERE, Background, Running, alive, until

from fastserve.process.worker import SAME_SECONDS

APP = ("apps:app", "--app-dir", str(HERE), "--port", "0", "--no-supervisor")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_stop_finishes_requests_in_hand(tmp_path: Path, number: int, loop: str) -> None:
    done = tmp_path / "done"
    with Running(*APP, "--loop", loop, cwd=tmp_path, TEST_SHUTDOWN_FILE=str(done)) as server:
        server.ready()
        answer = Background(server.port, "/slow")
        server.wait_for("slow begins")
        server.signal(number)
        assert answer.result() == "slow"
        assert server.wait() == 0
        assert done.read_text() == f"{server.pid}\n"
        assert "Traceback" not in server.err


def test_second_signal_forces(tmp_path: Path) -> None:
    with Running(*APP, cwd=tmp_path) as server:
        server.ready()
        answer = Background(server.port, "/endless")
        server.wait_for("endless begins")
        server.signal(signal.SIGINT)
        server.wait_for("stopping: 1 connection, 1 request in hand")
        time.sleep(2 * SAME_SECONDS)
        server.signal(signal.SIGINT)
        assert server.wait() == 1
        assert server.lines[-1] == "fastserve: forced to stop; the application's shutdown did not run"
        with pytest.raises(OSError):
            answer.result()


def test_wrapper_that_signals_twice_does_not_force(tmp_path: Path) -> None:
    """timeout(1) signals its child and then the group; a terminal and a task runner may both pass Ctrl-C on."""
    with Running(*APP, cwd=tmp_path) as server:
        server.ready()
        answer = Background(server.port, "/slow")
        server.wait_for("slow begins")
        server.signal(signal.SIGTERM)
        os.killpg(server.pid, signal.SIGTERM)
        os.killpg(server.pid, signal.SIGINT)
        assert answer.result() == "slow"
        assert server.wait() == 0


def test_quit_forces_at_once(tmp_path: Path) -> None:
    with Running(*APP, cwd=tmp_path) as server:
        server.ready().signal(signal.SIGQUIT)
        assert server.wait() == 1


def test_second_signal_forces_even_with_a_blocked_loop(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with Running(*APP, "--uds", str(path), cwd=tmp_path) as server:
        server.ready()
        Background(server.port, "/block")
        server.wait_for("block begins")
        server.signal(signal.SIGTERM)
        time.sleep(2 * SAME_SECONDS)
        assert alive(server.pid)
        server.signal(signal.SIGTERM)
        assert server.wait() == 1
        assert not path.exists()


def test_blocked_loop_does_not_hold_the_stop_beyond_its_limit(tmp_path: Path) -> None:
    with Running(*APP, "--timeout-graceful-shutdown", "0.2", cwd=tmp_path) as server:
        server.ready()
        Background(server.port, "/block")
        server.wait_for("block begins")
        server.signal(signal.SIGTERM)
        assert server.wait(4) == 1
        assert "the stop took too long" in server.err


def test_endless_request_is_cut_at_the_limit_with_exit_code_0(tmp_path: Path) -> None:
    done = tmp_path / "done"
    with Running(*APP, "--graceful-timeout", "0.5", cwd=tmp_path, TEST_SHUTDOWN_FILE=str(done)) as server:
        server.ready()
        answer = Background(server.port, "/endless")
        server.wait_for("endless begins")
        began = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - began < 2
        assert "cutting 1 connection " in server.err and done.exists()
        with pytest.raises(OSError):
            answer.result()


def test_stuck_thread_does_not_keep_the_process(tmp_path: Path) -> None:
    with Running(*APP, "--graceful-timeout", "0.5", cwd=tmp_path) as server:
        server.ready()
        Background(server.port, "/stuck")
        server.wait_for("stuck begins")
        assert server.stop() == 0
        assert "left behind" in server.err


EXECUTOR = """
from concurrent.futures import ThreadPoolExecutor

from fastserve import App

pool = ThreadPoolExecutor(1)
app = App()


@app.get("/")
def hello():
    return pool.submit(str, "hello").result()
"""


def test_an_idle_executor_of_the_application_is_no_stuck_thread(tmp_path: Path) -> None:
    (tmp_path / "pooled.py").write_text(EXECUTOR)
    with Running("pooled:app", "--port", "0", cwd=tmp_path) as server:
        assert server.ready().get() == "hello"
        assert server.stop() == 0
        assert "left behind" not in server.err


def test_signal_during_startup_ends_it(tmp_path: Path) -> None:
    with Running(*APP, cwd=tmp_path, TEST_STARTUP_HANGS="1") as server:
        server.wait_for("^hanging")
        assert server.stop() == 0
        assert "ready" not in server.err and "Traceback" not in server.err


@pytest.mark.parametrize("more", [("--no-supervisor",), ()], ids=["alone", "supervised"])
def test_signal_during_import_ends_it(tmp_path: Path, more: tuple[str, ...]) -> None:
    (tmp_path / "sleepy.py").write_text("import sys, time\nprint('importing', file=sys.stderr)\ntime.sleep(60)\n")
    for number in (signal.SIGINT, signal.SIGTERM):
        with Running("sleepy:app", "--port", "0", *more, cwd=tmp_path) as server:
            server.wait_for("^importing")
            os.killpg(server.pid, number)  # as a terminal does
            assert server.wait() == 0
            told = [f"stopping ({signal.Signals(number).name}): 1 worker", "stopped"] if not more else []
            assert [line.partition("INFO: ")[2] or line for line in server.lines] == ["importing", *told]


def test_startup_that_fails(tmp_path: Path) -> None:
    with Running(*APP, cwd=tmp_path, TEST_STARTUP_FAILS="1") as server:
        assert server.wait() == 3
        assert server.lines[0] == "Traceback (most recent call last):"
        assert server.lines[-2:] == [
            "RuntimeError: no database",
            "fastserve: error: the application failed to start: RuntimeError: no database",
        ]
        assert "/fastserve/" not in server.err


def test_startup_that_exits(tmp_path: Path) -> None:
    (tmp_path / "quitter.py").write_text(
        "import contextlib, sys\nfrom fastserve import App\n"
        "@contextlib.asynccontextmanager\nasync def lifespan(app):\n    sys.exit(0)\n    yield\n"
        "app = App(lifespan=lifespan)\n"
    )
    with Running("quitter", "--port", "0", cwd=tmp_path) as server:
        assert server.wait() == 3
        assert server.lines[-1] == "fastserve: error: the application failed to start: it called sys.exit(0)"


def test_shutdown_that_fails_is_told(tmp_path: Path) -> None:
    with Running(*APP, cwd=tmp_path, TEST_SHUTDOWN_FAILS="1") as server:
        server.ready()
        assert server.stop() == 1
        assert "the application's shutdown failed: RuntimeError: no goodbye" in server.err
        assert "/fastserve/" not in server.err


def test_no_descriptor_is_left_to_a_child_of_the_application(tmp_path: Path) -> None:
    """A process that a handler starts does not hold the port after we are gone."""
    (tmp_path / "parent.py").write_text(
        "import subprocess, sys\nfrom fastserve import App\napp = App()\n"
        "@app.get('/')\ndef start():\n"
        "    none = subprocess.DEVNULL\n"
        "    command = [sys.executable, '-c', 'import time; time.sleep(60)']\n"
        "    return str(subprocess.Popen(command, stdout=none, stderr=none).pid)\n"
    )
    with Running("parent", "--port", "0", cwd=tmp_path) as server:
        server.ready()
        port, child = server.port, int(server.get())
        try:
            assert server.stop() == 0
            assert alive(child)
            with Running("parent", "--port", str(port), cwd=tmp_path) as second:
                second.ready()
        finally:
            os.kill(child, signal.SIGKILL)
            until(lambda: not alive(child), "the child is gone")
