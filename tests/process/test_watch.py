"""watch: a loop that hangs is told of, with its stack and what it was doing, killed and replaced; a busy one is not."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from process.running import HERE, Background, Running, alive

APP = ("apps:app", "--app-dir", str(HERE), "--port", "0", "--no-access-log", "-w", "2")


@pytest.mark.parametrize(
    ("path", "how", "frame"),
    [
        ("/block/30", "sleeping in a call", "in block_for"),
        ("/burn/30", "burning CPU", "in burn_for"),
        ("/hold", "burning CPU", "in hold"),
    ],
)
def test_hung_loop_is_told_of_killed_and_replaced(tmp_path: Path, path: str, how: str, frame: str) -> None:
    with Running(*APP, "--timeout-worker-healthcheck", "4", cwd=tmp_path) as server:
        server.ready()
        Background(server.port, path)
        server.wait_for(f"{path.split('/')[1]} begins")
        told = server.wait_for(
            rf"worker (\d) \(pid (\d+)\): its event loop has not turned for 2 s, {how} in GET {path}"
        )
        assert f"in flight: GET {path} since " in told.string
        hung = int(told.group(2))
        server.wait_for(rf"\(pid {hung}\): its event loop has not turned for 4 s, {how} .*; killing it")
        dead = server.wait_for(
            rf"\(pid {hung}\) was killed by SIGABRT \(its event loop hung for 4 s\); starting another"
        )
        server.wait_for(rf"worker {told.group(1)} \(pid \d+\) is ready")
        before = server.err[: server.err.index(dead.string)]
        assert frame in before  # by the witness, or by faulthandler when the GIL was held
        if path != "/hold":
            assert f"(pid {hung}) is here:" in before
        assert "the application's shutdown did not run" in server.err
        assert not alive(hung) and server.get() == "hello"
        assert server.stop() == 0


def test_loop_that_computes_for_a_while_is_left_alone(tmp_path: Path) -> None:
    with Running(*APP, "--timeout-worker-healthcheck", "0", cwd=tmp_path) as server:
        server.ready()
        answer = Background(server.port, "/burn/3")
        assert answer.result() == "burnt"
        assert "WARNING" not in server.err.replace("WARNING: workers run as root", "")
        assert server.stop() == 0


@pytest.mark.parametrize("patient", [True, False])
def test_wsgi_on_the_loop_has_its_request_timeout_first(tmp_path: Path, patient: bool) -> None:
    (tmp_path / "slow.py").write_text(
        "import time\n"
        "def app(environ, start_response):\n"
        "    time.sleep(3 if environ['PATH_INFO'] == '/slow' else 0)\n"
        "    start_response('200 OK', [('Content-Length', '4')])\n"
        "    return [b'done']\n"
    )
    more = ("--threads", "0", "--timeout-worker-healthcheck", "1", *(("--timeout-request", "20") if patient else ()))
    with Running("slow:app", "--interface", "wsgi", "--port", "0", "-w", "2", *more, cwd=tmp_path) as server:
        server.ready()
        answer = Background(server.port, "/slow")
        if patient:
            assert answer.result() == "done"
            assert "has not turned" not in server.err
        else:
            server.wait_for(r"was killed by SIGABRT \(its event loop hung for 1 s\)")
        assert server.get("/fast") == "done"
        assert server.stop() == 0


def test_thread_that_is_stuck_and_slow_startup_are_no_hung_loop(tmp_path: Path) -> None:
    flag = tmp_path / "slow"
    more = ("--timeout-worker-healthcheck", "2")
    with Running(*APP, *more, cwd=tmp_path, TEST_STARTUP_SLEEPS_IF=str(flag)) as server:
        server.ready()
        Background(server.port, "/stuck")
        server.wait_for("stuck begins")
        flag.touch()
        server.signal(signal.SIGHUP)  # five seconds of startup, blocking
        server.wait_for(r"worker 0 \(pid \d+\) is ready", limit=20)
        assert "has not turned" not in server.err
        server.signal(signal.SIGQUIT)
        assert server.wait() == 1


def test_stopped_worker_is_killed_for_good(tmp_path: Path) -> None:
    """SIGSTOP holds up SIGABRT too."""
    with Running(*APP, "--timeout-worker-healthcheck", "1", cwd=tmp_path) as server:
        server.ready()
        os.kill(server.workers[0], signal.SIGSTOP)
        server.wait_for(r"worker 0 .* was killed by SIGKILL \(its event loop hung for 1 s\); starting another")
        server.wait_for(r"worker 0 \(pid \d+\) is ready")
        assert server.stop() == 0


def test_last_words_of_a_crash(tmp_path: Path) -> None:
    with Running(*APP, cwd=tmp_path) as server:
        server.ready()
        began = time.monotonic()
        with pytest.raises(OSError):
            server.get("/segfault")
        line = server.wait_for(r"worker \d \(pid \d+\) was killed by SIGSEGV \((.*)\); starting another")
        assert line.group(1).startswith("Segmentation fault, in ") and "ctypes" in line.group(1)
        server.wait_for(r"worker \d \(pid \d+\) is ready")
        assert time.monotonic() - began < 5
        assert server.stop() == 0
