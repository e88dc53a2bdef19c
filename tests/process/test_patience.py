"""patience: what the application takes long for is said, by every kind of server and by fastserve check."""

from __future__ import annotations

import signal
import time
from http.client import HTTPException
from pathlib import Path

import pytest
from process.running import Background, Running

from fastserve.process.patience import Patience, patiently

SLOW = """\
import asyncio, time
from contextlib import asynccontextmanager
from fastserve import App

time.sleep(2.3)

@asynccontextmanager
async def lifespan(app):
    await asyncio.sleep(2.3)
    yield

app = App(lifespan=lifespan)

@app.get("/")
async def index():
    await asyncio.sleep(30)
"""
KINDS = [("--no-supervisor",), (), ("--workers", "2"), ("--reload",)]


def test_it_is_said_ever_more_seldom() -> None:
    patience = Patience()
    assert patience.due(patience.began + 1.9) == ""
    assert patience.due(patience.began + 2.1) == "2 s so far"
    told = [second for second in range(2, 100) if patience.due(patience.began + second)]
    assert told == [10, 20, 40, 80]
    patience = Patience()
    assert patience.due(patience.began + 35) == "35 s so far" and patience.until == patience.began + 40


def test_what_is_soon_over_says_nothing() -> None:
    said: list[str] = []
    with patiently(said.append, "doing it"):
        time.sleep(0.05)
    with pytest.raises(ValueError), patiently(said.append, "failing"):
        raise ValueError
    assert said == []


@pytest.mark.parametrize("kind", KINDS, ids=" ".join)
def test_a_slow_start_and_a_slow_stop_are_told(tmp_path: Path, kind: tuple[str, ...]) -> None:
    (tmp_path / "slow.py").write_text(SLOW)
    of = ", in 2 of 2 workers" if "2" in kind else ""
    with Running("slow:app", "--port", "0", *kind, cwd=tmp_path) as server:
        server.wait_for(rf"INFO: importing slow:app{of} \(2 s so far\)")
        server.ready()
        asking = Background(server.port, "/")
        time.sleep(0.3)
        server.signal(signal.SIGINT)
        server.wait_for(r"INFO: still stopping.*a second Ctrl-C or TERM ends it at once")
        server.signal(signal.SIGINT)
        assert server.wait() == 1
        assert "forced to stop" in server.err
        with pytest.raises((OSError, HTTPException)):
            asking.result()


def test_a_slow_startup_is_told(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(SLOW.replace("time.sleep(2.3)", "pass"))
    for kind in ((), ("--no-supervisor",)):
        with Running("slow:app", "--port", "0", *kind, cwd=tmp_path) as server:
            server.wait_for(r"INFO: waiting for the startup of slow:app \(2 s so far\)")
            server.ready()


def test_check_says_what_it_waits_for(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(SLOW)
    with Running("check", "slow:app", "--port", "0", cwd=tmp_path) as check:
        check.wait()
        assert "fastserve: importing slow:app (2 s so far)" in check.lines
        assert "fastserve: waiting for the application's lifespan (2 s so far)" in check.lines
