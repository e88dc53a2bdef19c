"""The lens of real servers, seen from outside: found, read, switched while they run, and what dead workers leave."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from process.running import HERE, Background, Running, until

from fastserve.errors import LensError
from fastserve.lens.recording import Recording, running, switch

LIMIT = 15.0


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return tmp_path / "fastserve"


@pytest.fixture
def serve(runtime: Path) -> Iterator[Callable[..., Running]]:
    """A server of its own name, which has its files where this test looks for them."""
    started: list[Running] = []

    def start(*arguments: str, **environ: str) -> Running:
        name = f"lens-{os.getpid()}-{len(started)}-{time.monotonic_ns()}"
        server = Running(
            "apps:app",
            "--port",
            "0",
            "--name",
            name,
            *arguments,
            cwd=HERE,
            XDG_RUNTIME_DIR=str(runtime.parent),
            **environ,
        )
        server.name = name  # type: ignore[attr-defined]
        started.append(server)
        return server.ready()

    yield start
    for server in started:
        server.__exit__(None, None, None)


def name_of(server: Running) -> str:
    return str(server.name)  # type: ignore[attr-defined]


def live(server: Running, text: str) -> Any:
    """The request in flight of this text, once there is one."""

    def found() -> Any:
        return next(
            (one for worker in Recording.take(name_of(server)).workers for one in worker.live if one.text == text), None
        )

    until(found, f"{text} is in flight", LIMIT)
    return found()


def mode_is(server: Running, mode: str) -> bool:
    return {worker.mode for worker in Recording.take(name_of(server)).workers if worker.alive} == {mode}


@pytest.mark.parametrize("arguments", [("--workers", "2"), ("--no-supervisor",), ("--preload", "--workers", "2")])
def test_a_running_server_is_found_and_read(
    serve: Callable[..., Running], runtime: Path, arguments: tuple[str, ...]
) -> None:
    server = serve(*arguments)
    assert server.get("/") == "hello"
    (info,) = [one for one in running() if one.name == name_of(server)]
    workers = 1 if "--no-supervisor" in arguments else 2
    assert (info.pid, info.mode, info.workers) == (server.pid, "ready", workers)
    assert info.addresses == [f"http://127.0.0.1:{server.port}"] and abs(info.started - time.time()) < 60
    recording = Recording.take(name_of(server))
    assert recording.pid == server.pid and "apps:app" in recording.argv and recording.source == "live"
    assert len(recording.workers) == workers
    assert sum(worker.seat_figures.served for worker in recording.workers) == 1
    assert all(worker.alive and worker.mode == "ready" and worker.events == [] for worker in recording.workers)
    if workers > 1:
        assert sorted(worker.pid for worker in recording.workers) == sorted(server.workers) == sorted(info.pids)
        assert Recording.take(server.workers[1]).pid == server.pid
    asked = Background(server.port, "/block/1.5")
    request = live(server, "GET /block/1.5")
    assert request.state == "running" and request.since_ns <= request.state_since_ns <= time.monotonic_ns()
    asked.result()
    (path,) = runtime.glob(f"{server.pid}.*.server")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and stat.S_IMODE(runtime.stat().st_mode) == 0o700
    assert server.stop() == 0
    assert not path.exists()
    with pytest.raises(LensError, match="no server called"):
        Recording.take(name_of(server))


def test_a_server_that_was_killed_is_not_found_and_cleared_by_the_next(
    serve: Callable[..., Running], runtime: Path
) -> None:
    server = serve()
    server.process.kill()
    server.wait()
    (left,) = runtime.glob("*.server")
    with pytest.raises(LensError):
        Recording.take(name_of(server))
    serve("--no-supervisor")
    assert left not in list(runtime.glob("*.server")) and len(list(runtime.glob("*.server"))) == 1


def test_off_means_that_nothing_is_mapped_and_nobody_is_told(serve: Callable[..., Running], runtime: Path) -> None:
    server = serve("--lens", "off", "--workers", "2")
    assert server.get("/") == "hello"
    assert not runtime.exists()
    for pid in (server.pid, *server.workers):
        assert "memfd:fastserve" not in Path(f"/proc/{pid}/maps").read_text()
        names = [os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir() if os.path.lexists(path)]
        assert not [found for found in names if "memfd:fastserve" in found]


def test_another_process_reads_and_switches(serve: Callable[..., Running]) -> None:
    server = serve("--workers", "2")
    code = (
        "import sys; from fastserve.lens.recording import Recording, switch\n"
        "switch(sys.argv[1], 'sample:50'); print(Recording.take(sys.argv[1]).mode)"
    )
    found = subprocess.run(
        [sys.executable, "-c", code, name_of(server)], check=True, capture_output=True, text=True, timeout=LIMIT
    )
    assert found.stdout == "sample:50\n"
    server.wait_for("the lens was switched to sample:50")


@pytest.mark.parametrize("arguments", [("--workers", "2"), ("--no-supervisor",)])
def test_a_running_server_is_switched_and_switched_back(
    serve: Callable[..., Running], arguments: tuple[str, ...]
) -> None:
    server = serve(*arguments)
    for mode in ("full", "slow:200ms", "stalls", "ready"):
        switch(name_of(server), mode)
        assert mode_is(server, mode)
        assert server.get("/") == "hello"
    with pytest.raises(LensError, match="not a mode of the lens: 'loud'"):
        switch(name_of(server), "loud")
    with pytest.raises(LensError, match="cannot be taken off"):
        switch(name_of(server), "off")


def test_workers_that_come_later_have_the_mode_that_the_server_has(serve: Callable[..., Running]) -> None:
    server = serve("--workers", "2")
    switch(name_of(server), "sample:7")
    os.kill(server.workers[0], signal.SIGKILL)
    server.wait_for(r"worker \d \(pid \d+\) is ready")
    assert mode_is(server, "sample:7")
    pids = {worker.pid for worker in Recording.take(name_of(server)).workers if worker.alive}
    assert server.workers[0] not in pids and len(pids) == 2
    server.signal(signal.SIGHUP)
    server.wait_for("reloaded, generation 2")
    assert mode_is(server, "sample:7")  # the configuration has not changed: what was switched stays


def test_a_reload_brings_the_mode_of_a_changed_configuration(serve: Callable[..., Running], tmp_path: Path) -> None:
    file = tmp_path / "fastserve.toml"
    file.write_text('lens = "ready"\n')
    server = serve("--config", str(file))
    file.write_text('lens = "stalls"\n')
    server.signal(signal.SIGHUP)
    server.wait_for("reloaded, generation 2")
    assert mode_is(server, "stalls")


def test_an_upgrade_gives_the_new_server_a_lens_of_its_own(serve: Callable[..., Running], runtime: Path) -> None:
    server = serve()
    server.signal(signal.SIGUSR2)
    successor = int(server.wait_for(r"a new server starts \(pid (\d+)\)").group(1))
    until(lambda: len(list(runtime.glob("*.server"))) == 2, "both are registered", LIMIT)
    assert Recording.take(successor).pid == successor and Recording.take(server.pid).pid == server.pid
    with pytest.raises(LensError, match="2 servers are called"):
        Recording.take(name_of(server))
    server.wait_for(r"ready\b", count=2)
    server.signal(signal.SIGTERM)
    server.process.wait(LIMIT)
    assert Recording.take(name_of(server)).pid == successor
    os.kill(successor, signal.SIGTERM)
    until(lambda: not list(runtime.glob("*.server")), "nothing is left", LIMIT)
