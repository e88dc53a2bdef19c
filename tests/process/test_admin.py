"""The admin address of a real server: it answers whatever the workers do, and counts what clients did."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from process.running import HERE, LIMIT, Running, alive, free_port, get, until
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text


class Admin:
    """A client of the admin address."""

    def __init__(self, port: int) -> None:
        self.port = port

    def ask(self, path: str, method: str = "GET", **headers: str) -> tuple[int, str, dict[str, str]]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=LIMIT)
        try:
            connection.request(method, path, headers=headers)
            answer = connection.getresponse()
            fields = {name.lower(): value for name, value in answer.getheaders()}
            return answer.status, answer.read().decode(), fields
        finally:
            connection.close()

    def status(self, path: str) -> int:
        """Its status; 0 if nobody answers yet."""
        try:
            return self.ask(path)[0]
        except OSError:
            return 0

    def timed(self, path: str) -> tuple[int, float]:
        """Its status, and the least of a few durations: the machine may be loaded, the server must not be slow."""
        best, status = float("inf"), 0
        for _ in range(5):
            began = time.monotonic()
            status = self.ask(path)[0]
            best = min(best, time.monotonic() - began)
        return status, best

    def sum(self, name: str, **labels: str) -> float:
        """All samples of this name that have these labels."""
        return sum(
            sample.value
            for family in parse_text(self.ask("/metrics")[1])
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    def workers(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.ask("/workers")[1])["workers"]
        return found


@contextlib.contextmanager
def serving(*options: str, app: str = "apps:app", workers: int = 2, **environ: str) -> Iterator[tuple[Running, Admin]]:
    admin = Admin(free_port())
    arguments = (app, "--port", "0", "--workers", str(workers), "--admin", f"127.0.0.1:{admin.port}", *options)
    with Running(*arguments, cwd=HERE, **environ) as server:
        server.ready()
        until(lambda: admin.status("/healthz") == 200, "the admin address answers")
        yield server, admin


def child_of(server: Running, but: list[int]) -> int:
    """The pid of the admin process: the supervisor's child that is no worker."""
    found = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
    (pid,) = [int(text) for text in found if int(text) not in but]
    return pid


def test_one_worker_is_supervised_and_everything_answers() -> None:
    with serving(workers=1) as (server, admin):
        assert len(server.workers) == 1
        assert json.loads(admin.ask("/healthz")[1]) == {"status": "ok"}
        assert json.loads(admin.ask("/readyz")[1]) == {"status": "ok"}
        assert "/metrics" in admin.ask("/")[1]
        (worker,) = admin.workers()
        assert worker["pid"] == server.workers[0]
        assert (worker["state"], worker["worker"], worker["requests"]) == ("ready", 1, [])
        assert worker["rss_bytes"] > 1_000_000
        assert admin.ask("/nothing")[0] == 404
        assert admin.ask("/metrics", "POST")[0] == 405
        status, body, fields = admin.ask("/metrics", "HEAD")
        assert (status, body) == (200, "")
        assert fields["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        assert server.stop() == 0
        assert admin.status("/healthz") == 0


def test_figures_are_what_clients_did_and_survive_a_restart() -> None:
    with serving() as (server, admin):
        for _ in range(20):
            server.get("/")
        for _ in range(3):
            connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=LIMIT)
            connection.request("GET", "/no-such-page")
            connection.getresponse().read()
            connection.close()
        with socket.create_connection(("127.0.0.1", server.port), LIMIT) as client:
            client.sendall(b"nonsense\r\n\r\n")
            assert client.recv(4096).startswith(b"HTTP/1.1 400")

        def figures() -> dict[str, float]:
            return {
                "2xx": admin.sum("http_server_requests_total", status_class="2xx"),
                "4xx": admin.sum("http_server_requests_total", status_class="4xx"),
                "5xx": admin.sum("http_server_requests_total", status_class="5xx"),
                "durations": admin.sum("http_server_request_duration_seconds_count"),
                "in a second": admin.sum("http_server_request_duration_seconds_bucket", le="+Inf"),
                "refused": admin.sum("fastserve_requests_refused_total"),
                "accepted": admin.sum("fastserve_connections_accepted_total"),
                "starts": admin.sum("fastserve_worker_starts_total"),
                "restarts": admin.sum("fastserve_worker_restarts_total"),
            }

        expected = {
            "2xx": 20.0,
            "4xx": 4.0,
            "5xx": 0.0,
            "durations": 24.0,
            "in a second": 24.0,
            "refused": 1.0,
            "accepted": 24.0,
            "starts": 2.0,
            "restarts": 0.0,
        }
        until(lambda: figures() == expected, f"figures {figures()} become {expected}")
        received, sent = admin.sum("fastserve_received_bytes_total"), admin.sum("fastserve_sent_bytes_total")
        assert received > 24 * 20
        assert sent > 24 * 50
        # Both die, one after the other, and their successors take other seats: what they counted stays.
        for count, pid in enumerate(server.workers, 1):
            os.kill(pid, signal.SIGKILL)
            until(lambda pid=pid: not alive(pid), "the worker is gone")
            # The supervisor says when it has buried it: before that its seat still says ready.
            until(lambda n=count: admin.sum("fastserve_worker_restarts_total") == n, "its end is counted", limit=30)
            until(lambda: admin.sum("fastserve_workers", state="ready") == 2, "there are two again", limit=30)
        wanted = {**expected, "starts": 4.0, "restarts": 2.0}
        until(lambda: figures() == wanted, f"figures {figures()} become {wanted}")
        assert admin.sum("fastserve_received_bytes_total") == received
        # Reloads use every seat again and again: no seat that is given away takes its figures with it.
        for turn in range(4):
            server.signal(signal.SIGHUP)
            server.wait_for("reloaded, generation", count=turn + 1, limit=30)
        assert figures()["2xx"] == 20
        assert figures()["restarts"] == 2
        server.get("/")
        until(lambda: figures()["2xx"] == 21, "the next request is added")


def test_both_formats_are_read_by_prometheus() -> None:
    with serving() as (server, admin):
        server.get("/")
        families = {family.name: family for family in parse_text(admin.ask("/metrics")[1])}
        assert families["http_server_request_duration_seconds"].type == "histogram"
        assert families["fastserve_workers_wanted"].samples[0].value == 2
        assert abs(families["fastserve_start_time_seconds"].samples[0].value - time.time()) < 120
        assert {sample.labels["worker"] for sample in families["fastserve_worker_starts"].samples} == {"1", "2"}
        assert {int(s.labels["pid"]) for s in families["fastserve_worker_resident_memory_bytes"].samples} == set(
            server.workers
        )
        _, text, fields = admin.ask("/metrics", Accept="application/openmetrics-text; version=1.0.0")
        assert fields["content-type"].startswith("application/openmetrics-text; version=1.0.0")
        assert {family.name for family in parse_openmetrics(text)} == set(families)


def test_it_answers_while_every_worker_is_busy() -> None:
    with serving("--timeout-worker-healthcheck", "0") as (server, admin):
        blocked: list[socket.socket] = []
        try:
            # Connections go to either worker; blocks are sent until both are in one.
            def all_block() -> bool:
                busy = [each for each in admin.workers() if not each["responsive"]]
                if len(busy) < 2:
                    client = socket.create_connection(("127.0.0.1", server.port), LIMIT)
                    client.sendall(b"GET /block/6 HTTP/1.1\r\nHost: a\r\n\r\n")
                    blocked.append(client)
                    time.sleep(0.1)
                return len(busy) == 2

            until(all_block, "both workers block")
            for path, wanted in (("/healthz", 200), ("/metrics", 200), ("/workers", 200), ("/readyz", 503)):
                status, seconds = admin.timed(path)
                assert (status, seconds < 0.1) == (wanted, True), (path, status, seconds)
            assert "none of 2 ready workers is responsive" in admin.ask("/readyz")[1]
            doing = [each["doing"]["request"] for each in admin.workers()]
            assert doing == ["GET /block/6"] * 2
            assert admin.sum("http_server_active_requests") >= 2
            until(
                lambda: admin.sum("fastserve_worker_loop_lag_seconds") > 0.5,
                "the lag of a loop that does not turn is seen",
            )
        finally:
            for client in blocked:
                client.close()
        until(lambda: admin.status("/readyz") == 200, "ready again", limit=60)


def test_ready_only_when_a_worker_is(tmp_path: Path) -> None:
    slow = tmp_path / "slow"  # while it is there, a worker takes 5 s to start
    slow.touch()
    admin = Admin(free_port())
    arguments = ("apps:app", "--port", "0", "--workers", "2", "--admin", f"127.0.0.1:{admin.port}")
    with Running(*arguments, cwd=HERE, TEST_STARTUP_SLEEPS_IF=str(slow)) as server:
        until(lambda: admin.status("/healthz") == 200, "it answers before any worker is ready")
        status, body, _ = admin.ask("/readyz")
        assert (status, json.loads(body)["reason"]) == (503, "no worker is ready")
        assert admin.sum("fastserve_workers", state="booting") == 2
        server.wait_for(r"^\s+ready\b", limit=30)
        until(lambda: admin.status("/readyz") == 200, "ready")
        for pid in server.workers:
            os.kill(pid, signal.SIGKILL)
        until(lambda: admin.status("/readyz") == 503, "all workers are dead or booting")
        until(lambda: admin.status("/readyz") == 200, "they are back", limit=30)


def test_draining_is_not_ready() -> None:
    with serving("--shutdown-delay", "3") as (server, admin):
        server.signal(signal.SIGTERM)
        server.wait_for("serving for another")
        until(lambda: admin.status("/readyz") == 503, "draining")
        assert json.loads(admin.ask("/readyz")[1])["reason"] == "the server is draining"
        assert admin.status("/healthz") == 200
        assert server.get("/") == "hello"
        assert admin.sum("fastserve_draining") == 1
        assert server.wait(30) == 0


def test_it_answers_until_the_last_request_is_over() -> None:
    with serving() as (server, admin), socket.create_connection(("127.0.0.1", server.port), LIMIT) as client:
        client.sendall(b"GET /block/2 HTTP/1.1\r\nHost: a\r\n\r\n")
        until(lambda: admin.sum("http_server_active_requests") == 1, "the request is in flight")
        server.signal(signal.SIGTERM)
        server.wait_for("stopping")
        until(lambda: admin.status("/readyz") == 503, "it is not ready any more")
        assert client.recv(4096).startswith(b"HTTP/1.1 200")
        assert server.wait() == 0


def test_slow_clients_hold_up_nobody() -> None:
    with serving() as (server, admin):
        slow = [socket.create_connection(("127.0.0.1", admin.port), LIMIT) for _ in range(100)]
        try:
            for index, client in enumerate(slow):
                client.sendall(b"GET /metr" if index % 2 else b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n" * 50)
            assert server.get("/") == "hello"
            assert admin.timed("/healthz")[0] == 200
            victim = server.workers[0]
            os.kill(victim, signal.SIGKILL)
            server.wait_for(rf"worker \d \(pid {victim}\) was killed by SIGKILL")
            server.signal(signal.SIGHUP)
            server.wait_for("reloaded, generation 2", limit=30)
            assert server.stop() == 0
        finally:
            for client in slow:
                client.close()


def test_it_is_replaced_and_dies_with_the_supervisor() -> None:
    with serving() as (server, admin):
        first = child_of(server, server.workers)
        os.kill(first, signal.SIGKILL)
        server.wait_for(r"the admin process was killed by SIGKILL")
        until(lambda: admin.status("/healthz") == 200, "another answers")
        second = child_of(server, server.workers)
        os.kill(second, signal.SIGTERM)  # of a wrapper, to the whole group: it is the last to go
        assert admin.status("/readyz") == 200
        assert child_of(server, server.workers) == second
        os.kill(server.pid, signal.SIGKILL)
        until(lambda: not alive(second), "it is gone", limit=2)


def test_a_stuck_supervisor_is_unhealthy() -> None:
    with serving() as (server, admin):
        server.signal(signal.SIGSTOP)
        try:
            until(lambda: admin.status("/healthz") == 503, "its loop does not turn", limit=20)
            assert "has not turned for" in json.loads(admin.ask("/healthz")[1])["reason"]
        finally:
            server.signal(signal.SIGCONT)
        until(lambda: admin.status("/healthz") == 200, "it turns again")


def test_what_waits_in_a_queue_is_seen() -> None:
    with serving("--timeout-worker-healthcheck", "0", workers=1) as (server, admin), contextlib.ExitStack() as stack:
        first = stack.enter_context(socket.create_connection(("127.0.0.1", server.port), LIMIT))
        first.sendall(b"GET /block/4 HTTP/1.1\r\nHost: a\r\n\r\n")
        until(lambda: admin.status("/readyz") == 503, "it blocks")
        for _ in range(5):
            stack.enter_context(socket.create_connection(("127.0.0.1", server.port), LIMIT))
        until(lambda: admin.sum("fastserve_accept_queue_connections") == 5, "five wait")
        assert admin.sum("fastserve_accept_queue_limit_connections") >= 128
        until(lambda: admin.sum("fastserve_accept_queue_connections") == 0, "they were taken", limit=30)


def test_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    with Running("apps:app", "--port", "0", "--admin", f"unix:{path}", cwd=HERE) as server:
        server.ready()
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(LIMIT)
            client.connect(str(path))
            client.sendall(b"GET /readyz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            assert client.recv(4096).startswith(b"HTTP/1.1 200 ")
        assert server.stop() == 0
    assert not path.exists()


def test_a_port_in_use_is_one_line_and_the_app_is_not_touched() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with Running("apps:app", "--port", "0", "--admin", f"127.0.0.1:{port}", cwd=HERE) as server:
            assert server.wait() == 3
            assert server.err.splitlines() == [
                f"fastserve: error: cannot listen on 127.0.0.1:{port}: "
                "the address is already in use (ss -ltnp tells who has it)"
            ]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("--admin", "nonsense"), "admin must be HOST:PORT"),
        (("--admin", "127.0.0.1:9", "--reload"), "admin and reload cannot be used together"),
    ],
)
def test_what_cannot_be(options: tuple[str, ...], text: str) -> None:
    with Running("apps:app", *options, cwd=HERE) as server:
        assert server.wait() == 2
        assert text in server.err


def test_workers_hold_no_admin_socket_and_it_holds_none_of_theirs() -> None:
    with serving() as (server, admin):
        inodes = {int(line.split()[1].split(":")[1], 16): line.split()[9] for line in listening()}
        ours, theirs = inodes[server.port], inodes[admin.port]
        child = child_of(server, server.workers)
        assert sockets_of(child) & {theirs} == {theirs}
        assert ours not in sockets_of(child)
        for pid in server.workers:
            assert theirs not in sockets_of(pid)
        get(server.port)


def test_an_upgrade_hands_the_address_over() -> None:
    with serving() as (server, admin):
        server.signal(signal.SIGUSR2)
        new = int(server.wait_for(r"a new server starts \(pid (\d+)\)").group(1))
        try:
            server.wait_for(r"^\s+ready\b", count=2, limit=30)
            assert {each["pid"] for each in admin.workers()} == set(server.workers)  # the old one's
            assert server.stop() == 0
            until(lambda: admin.status("/readyz") == 200, "the new server has the address")
            assert not {each["pid"] for each in admin.workers()} & set(server.workers)
        finally:
            os.kill(new, signal.SIGTERM)
            until(lambda: not alive(new), "the new server is gone", limit=30)


def test_it_gives_up_what_workers_give_up() -> None:
    with serving("--umask", "027") as (server, _admin):
        child = child_of(server, server.workers)
        masks = {
            pid: re.search(r"Umask:\s+(\d+)", Path(f"/proc/{pid}/status").read_text()) for pid in (server.pid, child)
        }
        assert masks[child] is not None and masks[child][1] == "0027"
        assert masks[server.pid] is not None and masks[server.pid][1] != "0027"


def listening() -> list[str]:
    """Lines of /proc/net/tcp of listeners."""
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    return [line for line in lines if line.split()[3] == "0A"]


def sockets_of(pid: int) -> set[str]:
    found = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            name = os.readlink(entry)
            if name.startswith("socket:["):
                found.add(name[8:-1])
    return found
