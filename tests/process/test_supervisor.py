"""supervisor: several real workers: shared port, replacement, boot failure, graceful and forced stop, no orphans."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import time
from pathlib import Path

import pytest
from process.running import HERE, Background, Running, alive, get_unix, until

from fastserve.errors import ConfigError
from fastserve.process.child import BACKOFF_MAX, backoff
from fastserve.process.config import TcpAddress
from fastserve.process.sockets import Listeners
from fastserve.process.worker import SAME_SECONDS

APP = ("apps:app", "--app-dir", str(HERE))
TWO = (*APP, "--port", "0", "--workers", "2")


def gone(pids: list[int]) -> bool:
    return not any(map(alive, pids))


def answering(server: Running, wanted: int) -> set[int]:
    """The pids that answer, until there are `wanted` of them."""
    found: set[int] = set()
    until(lambda: found.add(int(server.get("/pid"))) or len(found) >= wanted, f"{wanted} workers answer")  # type: ignore[func-returns-value]
    return found


def test_workers_share_the_port_and_all_answer(tmp_path: Path) -> None:
    with Running(*APP, "--port", "0", "-w", "3", cwd=tmp_path) as server:
        server.ready()
        assert len(server.workers) == 3 and server.pid not in server.workers
        assert answering(server, 3) == set(server.workers)
        assert server.stop() == 0
        assert gone(server.workers)


def test_workers_share_a_unix_socket_that_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with Running(*APP, "--uds", str(path), "-w", "2", cwd=tmp_path) as server:
        server.ready()
        for _ in range(4):
            assert get_unix(path).endswith(b"hello")
        os.kill(server.workers[0], signal.SIGKILL)
        server.wait_for(r"worker 0 .* is ready")
        assert path.exists() and get_unix(path).endswith(b"hello")
        assert server.stop() == 0
        assert not path.exists()


def test_lending_a_shared_listener_changes_nothing_for_who_has_it(tmp_path: Path) -> None:
    """All accept from a Unix socket anyway. A sibling that is asked to help must not lose it when the help ends."""
    path = tmp_path / "s"
    with Running(*APP, "--uds", str(path), "-w", "2", cwd=tmp_path) as server:
        server.ready()
        first, sibling = server.workers
        os.kill(first, signal.SIGKILL)  # its queue is lent to the sibling, until the next one has been at hand for 1 s
        new = int(server.wait_for(r"worker 0 \(pid (\d+)\) is ready").group(1))
        time.sleep(1.5)
        os.kill(new, signal.SIGSTOP)
        try:
            for _ in range(4):
                assert get_unix(path, "/pid").endswith(b"\r\n\r\n%d" % sibling)
        finally:
            os.kill(new, signal.SIGCONT)
        assert server.stop() == 0
        assert "could not be served" not in server.err


def wakes(pids: list[int]) -> int:
    """Times that these processes have gone to sleep so far."""
    texts = [Path(f"/proc/{pid}/status").read_text() for pid in pids]
    return sum(int(text.partition("\nvoluntary_ctxt_switches:")[2].split()[0]) for text in texts)


def test_a_connection_to_a_shared_listener_does_not_wake_all_workers(tmp_path: Path) -> None:
    """Two watch it, whatever their number; a third may be asked to take what comes. All get their share."""
    path = tmp_path / "s"
    with Running(*APP, "--uds", str(path), "-w", "8", cwd=tmp_path) as server:
        server.ready()
        time.sleep(1.5)
        before, began = wakes(server.workers), time.monotonic()
        for _ in range(100):
            get_unix(path)
        idle = 8 * (time.monotonic() - began + 1)  # each is pinged every second
        assert wakes(server.workers) - before - idle < 100 * 4
        with contextlib.ExitStack() as stack:
            found = set()
            for _ in range(48):
                client = stack.enter_context(socket.socket(socket.AF_UNIX))
                client.connect(str(path))
                client.sendall(b"GET /pid HTTP/1.1\r\nHost: a\r\n\r\n")
                found.add(int(client.recv(4096).rpartition(b"\r\n\r\n")[2]))
        assert found == set(server.workers)
        assert server.stop() == 0


def test_watchers_of_a_shared_listener_that_cannot_take_are_helped_out(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with Running(*APP, "--uds", str(path), "-w", "4", cwd=tmp_path) as server:
        server.ready()
        for pid in server.workers[:2]:
            os.kill(pid, signal.SIGSTOP)
        try:
            for _ in range(20):
                began = time.monotonic()
                assert int(get_unix(path, "/pid").rpartition(b"\r\n\r\n")[2]) in server.workers[2:]
                assert time.monotonic() - began < 2  # some 60 ms on a quiet machine, and only the first of them
        finally:
            for pid in server.workers[:2]:
                os.kill(pid, signal.SIGCONT)
        time.sleep(1.5)  # what was lent is taken back
        with contextlib.ExitStack() as stack:
            found = set()
            for _ in range(24):
                client = stack.enter_context(socket.socket(socket.AF_UNIX))
                client.connect(str(path))
                client.sendall(b"GET /pid HTTP/1.1\r\nHost: a\r\n\r\n")
                found.add(int(client.recv(4096).rpartition(b"\r\n\r\n")[2]))
        assert found == set(server.workers)
        assert server.stop() == 0


def test_second_server_is_refused(tmp_path: Path) -> None:
    with Running(*TWO, cwd=tmp_path) as server:
        server.ready()
        for workers in ("1", "2"):
            with Running(*APP, "--port", str(server.port), "-w", workers, cwd=tmp_path) as second:
                assert second.wait() == 3
                assert second.lines == [
                    f"fastserve: error: cannot listen on 127.0.0.1:{server.port}: "
                    "the address is already in use (ss -ltnp tells who has it)"
                ]
        assert server.get() == "hello"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stop_finishes_requests_in_hand(tmp_path: Path, number: int) -> None:
    done = tmp_path / "done"
    with Running(*TWO, cwd=tmp_path, TEST_SHUTDOWN_FILE=str(done)) as server:
        server.ready()
        answers = [Background(server.port, "/slow") for _ in range(6)]
        server.wait_for("slow begins", count=6)
        server.signal(number)
        assert [answer.result() for answer in answers] == ["slow"] * 6
        assert server.wait() == 0
        assert sorted(map(int, done.read_text().split())) == sorted(server.workers)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_to_the_whole_group_still_stops_gracefully(tmp_path: Path, number: int) -> None:
    """A terminal does so with Ctrl-C, systemd with TERM; timeout(1) signals its child and then the group."""
    with Running(*TWO, cwd=tmp_path) as server:
        server.ready()
        answers = [Background(server.port, "/slow") for _ in range(4)]
        server.wait_for("slow begins", count=4)
        server.signal(number)
        os.killpg(server.pid, number)
        assert [answer.result() for answer in answers] == ["slow"] * 4
        assert server.wait() == 0
        assert "Traceback" not in server.err and "forced" not in server.err


def test_stopping_server_refuses_new_clients_at_once(tmp_path: Path) -> None:
    """No listener may be left open in a process that does not accept."""
    with Running(*TWO, cwd=tmp_path) as server:
        server.ready()
        answers = [Background(server.port, "/slow") for _ in range(4)]
        server.wait_for("slow begins", count=4)
        port = server.port
        server.signal(signal.SIGTERM)
        server.wait_for("stopping: ", count=2)

        def refused() -> bool:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
            except ConnectionRefusedError:
                return True
            return False

        until(refused, "new clients are refused", 0.4)
        assert [answer.result() for answer in answers] == ["slow"] * 4


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_second_signal_forces(tmp_path: Path, number: int) -> None:
    with Running(*TWO, cwd=tmp_path) as server:
        server.ready()
        Background(server.port, "/endless")
        server.wait_for("endless begins")
        server.signal(signal.SIGTERM)
        server.wait_for("stopping: 1 connection,")
        time.sleep(2 * SAME_SECONDS)
        server.signal(number)
        assert server.wait() == 1
        assert gone(server.workers) and "forced to stop" in server.err


def test_quit_forces_at_once(tmp_path: Path) -> None:
    with Running(*TWO, cwd=tmp_path) as server:
        server.ready().signal(signal.SIGQUIT)
        assert server.wait() == 1
        assert gone(server.workers)


def test_endless_request_is_cut_at_the_limit_with_exit_code_0(tmp_path: Path) -> None:
    with Running(*TWO, "--timeout-graceful-shutdown", "0.5", cwd=tmp_path) as server:
        server.ready()
        Background(server.port, "/endless")
        server.wait_for("endless begins")
        assert server.stop() == 0
        assert "cutting 1 connection " in server.err


def test_worker_with_a_blocked_loop_is_killed_at_the_limit(tmp_path: Path) -> None:
    with Running(*TWO, "--timeout-graceful-shutdown", "0.2", cwd=tmp_path) as server:
        server.ready()
        Background(server.port, "/block")
        server.wait_for("block begins")
        assert server.stop() == 1
        assert "not gone in time" in server.err and gone(server.workers)


@pytest.mark.parametrize("how", ["kill", "crash", "term"])
def test_worker_that_dies_is_replaced_at_once(tmp_path: Path, how: str) -> None:
    with Running(*TWO, cwd=tmp_path) as server:
        server.ready()
        began = time.monotonic()
        if how == "crash":
            with pytest.raises(OSError):
                server.get("/crash")
            text = "ended with exit code 9"
        else:
            os.kill(server.workers[0], signal.SIGKILL if how == "kill" else signal.SIGTERM)
            text = "was killed by SIGKILL" if how == "kill" else "ended with exit code 0"
        server.wait_for(rf"worker \d \(pid \d+\) {text}; starting another")
        new = int(server.wait_for(r"worker \d \(pid (\d+)\) is ready").group(1))
        assert time.monotonic() - began < 2
        assert new not in server.workers
        assert new in answering(server, 2)
        assert server.stop() == 0
        assert not alive(new)


def test_crash_loop_is_slowed_down(tmp_path: Path) -> None:
    with Running(*TWO, cwd=tmp_path) as server:
        server.ready()
        os.kill(server.workers[0], signal.SIGKILL)
        second = int(server.wait_for(r"worker 0 \(pid (\d+)\) is ready").group(1))
        os.kill(second, signal.SIGKILL)
        server.wait_for(r"worker 0 .* was killed by SIGKILL; another in (0\.9|1\.0|1\.1) s \(death 2 in a row\)")
        began = time.monotonic()
        server.wait_for(r"worker 0 .* is ready", count=2)
        assert time.monotonic() - began > 0.7


def test_backoff_grows_and_is_bounded() -> None:
    assert backoff(1) == 0.0
    for deaths in range(2, 40):
        assert 0.9 * min(2 ** (deaths - 2), BACKOFF_MAX) <= backoff(deaths) <= 1.1 * BACKOFF_MAX
    assert sum(backoff(deaths) < 15 for deaths in range(1, 40)) <= 6


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"TEST_IMPORT_FAILS": "1"}, 'cannot import "apps": ValueError: no configuration'),
        ({"TEST_STARTUP_FAILS": "1"}, "the application failed to start: RuntimeError: no database"),
    ],
)
def test_worker_that_cannot_start_ends_the_server(tmp_path: Path, environ: dict[str, str], message: str) -> None:
    began = time.monotonic()
    with Running(*APP, "--port", "0", "-w", "3", cwd=tmp_path, **environ) as server:
        assert server.wait() == 3
        assert time.monotonic() - began < 5
        assert server.lines[0] == "Traceback (most recent call last):"
        assert server.lines[-1] == f"fastserve: error: {message}"
        assert server.err.count("Traceback") == 1 and server.err.count("fastserve: error:") == 1
        assert "/fastserve/" not in server.err and " ready " not in server.err


def test_wrong_reference_is_one_line_with_workers_too(tmp_path: Path) -> None:
    with Running("apps:ap", "--app-dir", str(HERE), "--port", "0", "-w", "3", cwd=tmp_path) as server:
        assert server.wait() == 3
        assert server.lines == ['fastserve: error: module "apps" has no attribute "ap"; did you mean "app"?']


def test_worker_that_dies_while_starting_ends_the_server(tmp_path: Path) -> None:
    (tmp_path / "suicide.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n")
    with Running("suicide", "--port", "0", "-w", "2", cwd=tmp_path) as server:
        assert server.wait() == 3
        assert len(server.lines) == 1
        assert "was killed by SIGKILL before it was ready" in server.lines[0]


def test_replacement_that_cannot_start_leaves_the_others_serving(tmp_path: Path) -> None:
    flag = tmp_path / "broken"
    with Running(*TWO, cwd=tmp_path, TEST_IMPORT_FAILS_IF=str(flag)) as server:
        server.ready()
        flag.touch()
        os.kill(server.workers[0], signal.SIGKILL)
        server.wait_for(r"worker 0 .* could not start: .*a broken release; another in (0\.9|1\.0|1\.1) s")
        assert somebody_answers(server) == server.workers[1]
        flag.unlink()
        server.wait_for(r"worker 0 .* is ready")
        assert server.stop() == 0


def somebody_answers(server: Running) -> int:
    """Clients whom the kernel gives to a dead worker's slot wait for its successor. Ask until another answers."""
    for _ in range(50):
        with contextlib.suppress(TimeoutError):
            return int(Background(server.port, "/pid").result(0.2))
    raise AssertionError("nobody answers")


def test_workers_die_with_a_killed_supervisor(tmp_path: Path) -> None:
    with Running(*TWO, cwd=tmp_path) as server:
        server.ready()
        Background(server.port, "/block")
        server.wait_for("block begins")  # one of them could not even look
        workers, port = server.workers, server.port
        server.signal(signal.SIGKILL)
        until(lambda: gone(workers), "workers are gone", 2.0)
        with Running(*APP, "--port", str(port), "-w", "2", cwd=tmp_path) as second:
            assert second.ready().get() == "hello"


def test_signal_during_startup_ends_it(tmp_path: Path) -> None:
    with Running(*TWO, cwd=tmp_path, TEST_STARTUP_HANGS="1") as server:
        server.wait_for("^hanging", count=2)
        assert server.stop() == 0
        assert "Traceback" not in server.err


def test_workers_do_not_inherit_each_others_talk(tmp_path: Path) -> None:
    """All hold all listeners, for they help each other out; the ends of their talks are their own."""
    if not Path("/proc/self/fd").exists():
        pytest.skip("needs /proc")
    with Running(*APP, "--port", "0", "-w", "3", cwd=tmp_path) as server:
        server.ready()
        os.kill(server.workers[0], signal.SIGKILL)
        new = int(server.wait_for(r"worker 0 \(pid (\d+)\) is ready").group(1))
        listening = {line.split()[9] for line in Path("/proc/net/tcp").read_text().splitlines()[1:]}

        def talks(pid: int) -> set[str]:
            found = set()
            for entry in Path(f"/proc/{pid}/fd").iterdir():
                with contextlib.suppress(FileNotFoundError):
                    inode = os.readlink(entry).removeprefix("socket:[").removesuffix("]")
                    if inode.isdigit() and inode not in listening:
                        found.add(inode)
            return found

        bound = talks(new) & talks(server.workers[1]) & talks(server.workers[2])  # spare listeners, which do not listen
        held = {pid: talks(pid) - bound for pid in [new, *server.workers[1:]]}
        for pid, mine in held.items():
            assert len(mine) >= 2
            for other, theirs in held.items():
                assert pid == other or not mine & theirs, (pid, other)


def test_reload_rereads_the_configuration(tmp_path: Path) -> None:
    """Also the environment file, and the number of workers; a bad file keeps what there is."""
    settings = tmp_path / "fastserve.toml"
    settings.write_text('workers = 2\nenv-file = "env"\n')
    (tmp_path / "env").write_text("TEST_NAME=old\n")
    with Running(*APP, "--port", "0", cwd=tmp_path) as server:
        server.ready()
        assert server.get("/env/TEST_NAME") == "old"
        settings.write_text("workers = nonsense\n")
        server.signal(signal.SIGHUP)
        server.wait_for("HUP: the configuration cannot be used, the old one stays: .*fastserve.toml")
        assert server.get("/env/TEST_NAME") == "old"
        settings.write_text('workers = 3\nenv-file = "env"\n')
        (tmp_path / "env").write_text("TEST_NAME=new\n")
        server.signal(signal.SIGHUP)
        server.wait_for("reloaded, generation 2")
        until(lambda: server.get("/env/TEST_NAME") == "new", "the new environment")
        assert len(answering(server, 3)) == 3
        assert server.stop() == 0


def test_usr1_opens_log_files_anew(tmp_path: Path) -> None:
    log = tmp_path / "log"
    settings = tmp_path / "log.toml"
    settings.write_text(
        "version = 1\ndisable_existing_loggers = false\n"
        f'[handlers.file]\nclass = "logging.FileHandler"\nfilename = "{log}"\n'
        '[loggers.fastserve]\nhandlers = ["file"]\nlevel = "INFO"\n'
    )
    with Running(*APP, "--port", "0", "-w", "2", "--log-config", str(settings), cwd=tmp_path) as server:
        server.ready()
        log.rename(tmp_path / "log.1")
        server.signal(signal.SIGUSR1)
        until(lambda: log.exists() and "log files were opened anew" in log.read_text(), "a new file")
        time.sleep(0.3)  # workers were told too
        assert server.stop() == 0
    text = log.read_text()
    assert text.count("stopped") >= 3  # from both workers and the supervisor
    assert "opened anew" not in (tmp_path / "log.1").read_text()


def test_streams_are_told_and_do_not_hold_the_stop(tmp_path: Path) -> None:
    """An endless stream, an idle connection and a silent one."""
    done = tmp_path / "done"
    more = ("--timeout-retire-idle", "0.5")
    with Running(*TWO, *more, cwd=tmp_path, TEST_SHUTDOWN_FILE=str(done)) as server:
        server.ready()
        with socket.create_connection(("127.0.0.1", server.port), 10) as stream:
            stream.sendall(b"GET /stream HTTP/1.1\r\nHost: a\r\n\r\n")
            server.wait_for("stream begins")
            with socket.create_connection(("127.0.0.1", server.port), 10):
                began = time.monotonic()
                server.signal(signal.SIGTERM)
                assert server.wait() == 0
                assert time.monotonic() - began < 5
        assert len(done.read_text().split()) == 2  # lifespan.shutdown ran in both
        assert "cutting" not in server.err


def test_retiring_workers_tell_streams_too(tmp_path: Path) -> None:
    done = tmp_path / "done"
    with Running(*TWO, "--timeout-retire-idle", "0.5", cwd=tmp_path, TEST_SHUTDOWN_FILE=str(done)) as server:
        server.ready()
        with socket.create_connection(("127.0.0.1", server.port), 10) as stream:
            stream.sendall(b"GET /stream HTTP/1.1\r\nHost: a\r\n\r\n")
            server.wait_for("stream begins")
            server.signal(signal.SIGHUP)
            server.wait_for("reloaded, generation 2")
            until(lambda: gone(server.workers), "the old workers are gone", 5)
        assert sorted(map(int, done.read_text().split())) == sorted(server.workers)
        assert server.stop() == 0


def test_of_two_servers_started_at_once_exactly_one_runs(tmp_path: Path) -> None:
    """Twenty tries, the last moments of each race: both are told to bind at the same instant."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    results = []
    for _ in range(20):
        pids = []
        start_read, start_write = os.pipe()
        said_read, said_write = os.pipe()
        end_read, end_write = os.pipe()
        for _ in range(2):
            pid = os.fork()
            if pid == 0:
                os.close(start_write)
                os.close(end_write)
                os.read(start_read, 1)  # both wake at its end
                try:
                    listeners = Listeners([TcpAddress("127.0.0.1", port)], slots=4, spare=4)
                except ConfigError:
                    listeners = None
                os.write(said_write, b"x")
                os.read(end_read, 1)  # whoever has the port holds it until the other has tried, however late that was
                os._exit(3 if listeners is None else 0)
            pids.append(pid)
        time.sleep(0.02)
        os.close(start_write)
        for _ in pids:
            os.read(said_read, 1)
        os.close(end_write)
        results.append(sorted(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids))
        for end in (start_read, said_read, said_write, end_read):
            os.close(end)
    assert results == [[0, 3]] * 20


def test_hooks_of_several_workers(tmp_path: Path) -> None:
    (tmp_path / "operator_hooks.py").write_text(
        "import os\n"
        "def say(text): os.write(2, f'{text}\\n'.encode())\n"
        "def pre_fork(slot): say(f'pre {slot} {os.getpid()}')\n"
        "def post_fork(slot, pid): say(f'post {slot} {pid} {pid == os.getpid()}')\n"
        "def worker_ready(slot, pid): say(f'up {slot} {pid}')\n"
        "def worker_exit(slot, pid, code): say(f'down {slot} {pid} {code}')\n"
    )
    with Running(*TWO, "--hooks", "operator_hooks", cwd=tmp_path, PYTHONPATH=str(tmp_path)) as server:
        server.ready()
        first, second = server.workers
        os.kill(first, signal.SIGKILL)
        new = int(server.wait_for(r"worker 0 \(pid (\d+)\) is ready").group(1))
        assert server.stop() == 0
        for line in (f"pre 0 {server.pid}", f"post 0 {first} True", f"up 1 {second}", f"down 0 {first} -9"):
            assert line in server.lines
        assert f"up 0 {new}" in server.lines and f"down 0 {new} 0" in server.lines


def test_single_process_says_what_it_cannot_do(tmp_path: Path) -> None:
    with Running(*APP, "--port", "0", "--no-supervisor", cwd=tmp_path) as server:
        server.wait_for(rf"workers      1 \(this process\), pid {server.pid}$")
        server.ready()
        server.signal(signal.SIGHUP)
        server.wait_for("SIGHUP: only a supervisor does that, and this server is a single process")
        server.signal(signal.SIGUSR2)
        server.wait_for("SIGUSR2: only a supervisor does that")
        assert server.get() == "hello"
        assert server.stop() == 0


def test_single_worker_has_a_supervisor_that_replaces_it(tmp_path: Path) -> None:
    with Running(*APP, "--port", "0", cwd=tmp_path) as server:
        server.ready()
        os.kill(server.workers[0], signal.SIGKILL)
        server.wait_for(r"worker 0 \(pid \d+\) is ready")
        server.signal(signal.SIGHUP)
        server.wait_for("reloaded, generation 2")
        assert int(server.get("/pid")) not in server.workers
        server.signal(signal.SIGTTOU)
        server.wait_for("TTOU: there is one worker, and it stays")
        assert server.stop() == 0


def as_process_1(*arguments: str, cwd: Path, **environ: str) -> Running:
    """In a namespace of its own. Its pid here is that of the only child of `Running.pid`, which is unshare(1)."""
    mapped = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    unshare = ["unshare", *mapped, "--pid", "--fork", "--kill-child", "--mount-proc", sys.executable, "-m", "fastserve"]
    return Running(*arguments, cwd=cwd, command=unshare, **environ)


@pytest.mark.parametrize("more", [(), ("--preload",)], ids=["plain", "preload"])
def test_as_process_1(tmp_path: Path, more: tuple[str, ...]) -> None:
    """It reaps strangers, refuses an upgrade, needs no HOME, and ends as it should."""
    with as_process_1(*TWO, *more, cwd=tmp_path, HOME="/nowhere") as server:
        server.ready()
        (first,) = (int(pid) for pid in Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split())
        assert server.get("/orphan") == "made"  # a grandchild, whose parent is gone

        def zombies() -> list[str]:
            found = []
            for entry in Path("/proc").iterdir():
                with contextlib.suppress(OSError):
                    if entry.name.isdigit():
                        fields = (entry / "stat").read_text().rpartition(")")[2].split()
                        if fields[0] == "Z" and int(fields[1]) == first:
                            found.append(entry.name)
            return found

        time.sleep(0.5)
        until(lambda: not zombies(), "strangers are reaped")
        os.kill(first, signal.SIGUSR2)
        server.wait_for("USR2: refused, the server is process 1")
        os.kill(first, signal.SIGHUP)
        server.wait_for("reloaded, generation 2")
        os.kill(first, signal.SIGTERM)
        assert server.wait() == 0
