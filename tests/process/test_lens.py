"""The lens of real servers, seen from outside: found, read, switched while they run, and what dead workers leave."""

from __future__ import annotations

import os
import re
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from process.running import FOR_OTHERS, HERE, OTHER, Background, Running, until

from fastserve.errors import LensError
from fastserve.lens.recording import Kind, Recording, running, switch

LIMIT = 15.0


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return tmp_path / "fastserve"


@pytest.fixture
def serve(runtime: Path) -> Iterator[Callable[..., Running]]:
    """A server of its own name, which has its files where this test looks for them."""
    started: list[Running] = []

    def start(*arguments: str, command: list[str] | None = None, **environ: str) -> Running:
        name = f"lens-{os.getpid()}-{len(started)}-{time.monotonic_ns()}"
        server = Running(
            "apps:app",
            "--port",
            "0",
            "--name",
            name,
            *arguments,
            cwd=HERE,
            command=command,
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
    assert all(worker.alive and worker.mode == "ready" for worker in recording.workers)
    assert {event.kind for worker in recording.workers for event in worker.events} <= {Kind.SWITCH}
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

    def watched(wanted: bool) -> Callable[[], bool]:
        def found() -> bool:
            workers = Recording.take(name_of(server)).workers
            return all((worker.header["heartbeat_every_ns"] > 0) is wanted for worker in workers)

        return found

    assert watched(False)()
    for mode in ("full", "slow:200ms", "stalls", "ready", "stalls", "ready"):
        switch(name_of(server), mode)
        assert mode_is(server, mode)
        until(watched(mode != "ready"), f"all workers follow to {mode}, without a request that wakes them", LIMIT)
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


def test_workers_that_became_somebody_else_are_read_by_who_started_them(serve: Callable[..., Running]) -> None:
    server = serve("--user", OTHER, "--lens", "stalls", command=FOR_OTHERS)
    assert server.get("/") == "hello"
    (worker,) = Recording.take(name_of(server)).workers
    assert worker.pid in server.workers and worker.seat_figures.served == 1
    until(lambda: Recording.take(name_of(server)).workers[0].header["heartbeat_ns"], "its loop beats", LIMIT)


def test_development_records_everything(serve: Callable[..., Running], tmp_path: Path) -> None:
    server = serve("--dev", "--reload-dir", str(tmp_path))
    assert server.get("/") == "hello"
    (worker,) = Recording.take(name_of(server)).workers
    assert worker.mode == "full" and worker.pid != server.pid
    (tmp_path / "changed.py").write_text("1\n")
    until(lambda: pid_of(server) not in (0, worker.pid), "the successor is found by the same name", LIMIT)
    assert mode_is(server, "full")


def pid_of(server: Running) -> int:
    try:
        return Recording.take(name_of(server)).pid
    except LensError:  # none of the two serves at this moment
        return 0


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


# ------------------------------------------------------------------------------------------------------ black boxes


def boxes(runtime: Path) -> list[Path]:
    return sorted(runtime.glob("blackbox-*.fsx"), key=lambda path: path.stat().st_mtime_ns)


def test_what_a_killed_worker_was_doing_is_told_and_kept(serve: Callable[..., Running], runtime: Path) -> None:
    """In the default mode, with nothing recorded: which requests were in flight, and which one ran."""
    server = serve()
    (pid,) = server.workers
    waits = Background(server.port, "/endless?token=secret")
    live(server, "GET /endless")
    blocks = Background(server.port, "/block")
    live(server, "GET /block")
    os.kill(pid, signal.SIGKILL)
    server.wait_for(rf"worker 0 \(pid {pid}\) was doing this:")
    path = Path(server.wait_for(r"kept in (\S+\.fsx); fastserve blackbox tells more").group(1))
    at = next(index for index, line in enumerate(server.lines) if "was doing this:" in line)
    endless, block = server.lines[at + 1 : at + 3]
    assert re.fullmatch(r"  GET /endless, in flight for \d+\.\d\d s", endless)
    assert re.fullmatch(r"  GET /block, in flight for (\d+\.\d\d) s, running for \d+\.\d\d s", block)
    assert path in boxes(runtime) and stat.S_IMODE(path.stat().st_mode) == 0o600
    recording = Recording.load(path)
    assert recording.note == f"worker 0 (pid {pid}) was killed by SIGKILL" and recording.name == name_of(server)
    (worker,) = recording.workers
    assert (worker.pid, worker.alive, worker.mode) == (pid, False, "ready")
    assert [(one.text, one.state) for one in worker.live] == [("GET /endless", "unknown"), ("GET /block", "running")]
    assert b"secret" not in path.read_bytes() and "secret" not in server.err
    for background in (waits, blocks):
        with pytest.raises(Exception):  # noqa: B017 - whatever a client says whose server died
            background.result()
    server.wait_for(r"worker 0 \(pid \d+\) is ready")
    assert server.get("/") == "hello"


def test_the_line_of_a_stall_is_told_of_a_worker_that_is_killed_in_it(serve: Callable[..., Running]) -> None:
    server = serve("--lens", "stalls")
    blocks = Background(server.port, "/block")
    live(server, "GET /block")
    (worker,) = Recording.take(name_of(server)).workers

    def stalled() -> Any:
        (worker,) = Recording.take(name_of(server)).workers
        return worker.header["stall_stack"] and worker.stack(worker.header["stall_stack"])

    until(stalled, "the stall is seen", LIMIT)
    stack = stalled()
    assert stack.frames[-1].function == "block" and stack.frames[-1].file.endswith("apps.py")
    os.kill(worker.pid, signal.SIGKILL)
    line = server.wait_for(r"  its event loop did not turn for the last \d+\.\d\d s at (\S+):(\d+) block")
    assert (line.group(1), int(line.group(2))) == (stack.frames[-1].file, stack.frames[-1].line)
    with pytest.raises(Exception):  # noqa: B017
        blocks.result()


def test_a_worker_that_dies_idle_is_told_of_too_and_the_newest_boxes_are_kept(
    serve: Callable[..., Running], runtime: Path
) -> None:
    server = serve("--workers", "2")
    runtime_before = set(boxes(runtime))
    for number in range(12):
        (runtime / f"blackbox-2020010{number % 9 + 1}-00000{number % 10}-{number}.fsx").write_bytes(b"old")
        os.utime(boxes(runtime)[-1])
    (runtime / "mine.fsx").write_bytes(b"a recording of somebody's")
    os.kill(server.workers[0], signal.SIGTERM)  # by a stranger: it stops gracefully, and nobody had told it to
    server.wait_for("was doing this:")
    server.wait_for("  no request was in flight")
    path = Path(server.wait_for(r"kept in (\S+\.fsx)").group(1))
    assert len(boxes(runtime)) == 8 and path in boxes(runtime) and path not in runtime_before
    assert (runtime / "mine.fsx").exists()


def test_workers_that_were_told_to_go_leave_no_black_box(serve: Callable[..., Running], runtime: Path) -> None:
    server = serve("--workers", "2")
    server.signal(signal.SIGHUP)
    server.wait_for("reloaded, generation 2")
    assert server.stop() == 0
    assert boxes(runtime) == [] and "was doing this" not in server.err


def test_one_that_crashes_on_its_way_out_is_told_of(serve: Callable[..., Running], runtime: Path) -> None:
    server = serve()
    (pid,) = server.workers
    asked = Background(server.port, "/endless")
    live(server, "GET /endless")
    server.signal(signal.SIGHUP)
    server.wait_for("reloaded, generation 2")
    os.kill(pid, signal.SIGKILL)
    server.wait_for(rf"worker 0 \(pid {pid}\) was doing this:")
    server.wait_for(r"  GET /endless, in flight for \d+\.\d\d s")
    server.wait_for("kept in ")
    assert len(boxes(runtime)) == 1
    with pytest.raises(Exception):  # noqa: B017
        asked.result()


def test_with_the_lens_off_it_is_told_and_not_kept(serve: Callable[..., Running], runtime: Path) -> None:
    server = serve("--lens", "off")
    asked = Background(server.port, "/block")
    server.wait_for("block begins")
    os.kill(server.workers[0], signal.SIGKILL)
    server.wait_for(r"  GET /block, in flight for \d+\.\d\d s, running for")
    server.wait_for(r"worker 0 \(pid \d+\) is ready")
    assert "kept in" not in server.err and not runtime.exists()
    with pytest.raises(Exception):  # noqa: B017
        asked.result()


def test_a_worker_that_hangs_is_killed_with_the_line_in_the_log(serve: Callable[..., Running]) -> None:
    server = serve("--lens", "stalls", "--timeout-worker-healthcheck", "2")
    asked = Background(server.port, "/block")
    line = server.wait_for(r"its event loop has not turned for \d+ s, .* in GET /block at (\S+):\d+ block; in flight:")
    assert line.group(1).endswith("apps.py")
    server.wait_for(r"was killed by SIGABRT \(its event loop hung for 2 s\); starting another")
    server.wait_for(r"  GET /block, in flight for \d+\.\d\d s, running for")
    with pytest.raises(Exception):  # noqa: B017
        asked.result()


# ------------------------------------------------------------------------------------------- with requests recorded


def test_a_stall_and_the_request_that_caused_it_find_each_other(serve: Callable[..., Running]) -> None:
    server = serve("--lens", "full")
    server.get("/block/0.4")
    until(
        lambda: any(event.kind == Kind.STALL and event.dur > 0.3e9 for event in events(server)), "it is written", LIMIT
    )
    (worker,) = Recording.take(name_of(server)).workers
    stall = next(event for event in worker.events if event.kind == Kind.STALL and event.dur > 0.3e9)
    begin = next(event for event in worker.events if event.kind == Kind.REQUEST_BEGIN)
    assert stall.request == begin.request != 0 and worker.text(begin.b) == "GET /block/0.4"
    # It begins with the slice that held the loop, not when the beat was missed.
    poll = next(event for event in worker.events if event.kind == Kind.TASK_POLL and event.dur > 0.3e9)
    assert stall.t == poll.t and poll.dur <= stall.dur
    stack = worker.stack(stall.b)
    assert stack is not None and stack.frames[-1].function == "block_for"


def events(server: Running) -> list[Any]:
    return [event for worker in Recording.take(name_of(server)).workers for event in worker.events]


def test_where_the_requests_of_a_killed_worker_waited_is_told(serve: Callable[..., Running]) -> None:
    server = serve("--lens", "full")
    asked = Background(server.port, "/endless")
    request = live(server, "GET /endless")
    until(lambda: live(server, "GET /endless").state == "waiting", "it waits", LIMIT)
    assert request.request == 1 and server.get("/") == "hello"
    os.kill(server.workers[0], signal.SIGKILL)
    server.wait_for(
        r"  GET /endless, in flight for \d+\.\d\d s, waiting for timer for \d+\.\d\d s, at \S*apps.py:\d+ endless, w0-0001"
    )
    path = server.wait_for(r"kept in (\S+\.fsx)").group(1)
    (worker,) = Recording.load(path).workers
    assert [(one.text, one.state) for one in worker.live] == [("GET /endless", "waiting")]
    assert sum(event.kind == Kind.REQUEST_END for event in worker.events) == 1  # of the other one
    with pytest.raises(Exception):  # noqa: B017
        asked.result()
