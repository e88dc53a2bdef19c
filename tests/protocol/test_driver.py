"""The driver: accepting on several workers, our own wire, the board. Real sockets, real processes, no supervisor."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from conftest import Raw

from fastserve import App, Request
from fastserve.interfaces import make_handler
from fastserve.process.config import parse_bind
from fastserve.process.sockets import Listeners
from fastserve.protocol import Board, SeatState, Service

GET = b"GET /pid HTTP/1.1\r\nHost: a\r\n\r\n"

app = App()


@app.get("/pid")
async def pid() -> str:
    return str(os.getpid())


@app.get("/block/{seconds:float}")
async def block(seconds: float) -> str:
    time.sleep(seconds)
    return str(os.getpid())


@app.post("/size")
async def size(request: Request) -> str:
    return str(sum([len(piece) async for piece in request.stream()]))


@app.get("/big")
async def big() -> bytes:
    return b"x" * 5_000_000


def until(condition: Callable[[], Any], what: str, limit: float = 20.0) -> Any:
    deadline = time.monotonic() + limit
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{what}: not within {limit} s"
        time.sleep(0.005)
    return found


def cpu_ticks(pid: int) -> int:
    with open(f"/proc/{pid}/stat") as file:
        return sum(map(int, file.read().rpartition(")")[2].split()[11:13]))


class Workers:
    """Forked workers on one port, each with a seat and a slot of its own."""

    def __init__(self, count: int, address: str = "127.0.0.1:0") -> None:
        self.listeners = Listeners([parse_bind(address)], slots=count)
        self.board = Board(count)
        self.pids = [self.fork(index) for index in range(count)]
        for index in range(count):
            until(lambda index=index: self.board[index].state == SeatState.READY, f"worker {index} is ready")

    @property
    def url(self) -> str:
        return self.listeners.addresses[0].local_url

    def fork(self, index: int) -> int:
        self.board.clear(index)
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                asyncio.set_event_loop(None)
                with asyncio.Runner() as runner:
                    runner.run(self.serve(index))
                code = 0
            finally:
                os._exit(code)
        return pid

    async def serve(self, index: int) -> None:
        seat = self.board[index]
        seat.pid, seat.slot = os.getpid(), index
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, stop.set)
        service = Service(loop, make_handler(app), board=self.board, seat=index)
        await service.listen(self.listeners.by_slot(), index)
        seat.state = SeatState.READY
        await stop.wait()
        service.unlisten()
        service.abort()
        await service.wait_closed()
        service.close()

    def close(self) -> None:
        for pid in self.pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
                os.kill(pid, signal.SIGTERM)
            os.waitpid(pid, 0)
        self.listeners.close()
        self.board.close()


@pytest.fixture
def workers() -> Iterator[Callable[..., Workers]]:
    made: list[Workers] = []

    def make(count: int, address: str = "127.0.0.1:0") -> Workers:
        made.append(Workers(count, address))
        return made[-1]

    yield make
    for item in made:
        item.close()


def test_connections_are_spread_evenly(workers: Any, raw: Any) -> None:
    """Whatever the kernel's hash says: 32 connections over 4 workers, none has more than 12 or fewer than 4."""
    group = workers(4)
    for _ in range(20):
        clients = [raw(group.url) for _ in range(32)]
        counts = Counter(client.send(GET).response()[2] for client in clients)
        assert len(counts) == 4 and min(counts.values()) >= 4 and max(counts.values()) <= 12, counts
        assert sorted(counts.values()) == sorted(group.board[i].connections for i in range(4))
        for client in clients:
            client.close()
        until(lambda: not any(group.board[i].connections for i in range(4)), "all are closed")


def test_connections_of_a_unix_socket_are_spread_evenly(workers: Any, tmp_path: Any) -> None:
    path = tmp_path / "s"
    workers(3, f"unix:{path}")
    clients = []
    counts = Counter()
    for _ in range(24):
        clients.append(socket.socket(socket.AF_UNIX))
        clients[-1].settimeout(10)
        clients[-1].connect(str(path))
        clients[-1].sendall(GET)  # one after the other: on a busy machine a worker may be away for a while
        counts[clients[-1].recv(65536).rpartition(b"\r\n")[2]] += 1
    assert len(counts) == 3 and min(counts.values()) >= 5, counts
    for client in clients:
        client.close()


def test_a_sibling_helps_out(workers: Any, raw: Any) -> None:
    """While a worker is stopped, its sibling serves what queues at its listener, as long as it is told to."""
    group = workers(2)
    os.kill(group.pids[0], signal.SIGSTOP)
    group.board.adopt(1, 0)
    other = str(group.pids[1]).encode()
    for _ in range(40):  # about half of them are hashed to the stopped one
        client = raw(group.url)
        assert client.send(GET).response()[2] == other
    assert group.board[1].accepts_of_others > 0
    group.board.ping(0)
    assert not group.board[0].answers
    os.kill(group.pids[0], signal.SIGCONT)
    until(lambda: group.board[0].answers, "the loop turns again")
    group.board.drop(1, 0)
    until(lambda: group.board[1].answers, "the helper has heard")
    assert group.board[0].responsive
    helped = group.board[1].accepts_of_others
    until(lambda: raw(group.url).send(GET).response()[2] == str(group.pids[0]).encode(), "the first serves again")
    assert group.board[1].accepts_of_others - helped <= 40  # balance may still ask, but the listener was given back


def test_what_a_blocked_worker_does_can_be_seen(workers: Any, raw: Any) -> None:
    group = workers(1)
    client = raw(group.url)
    client.send(b"GET /block/0.5?secret HTTP/1.1\r\nHost: a\r\n\r\n")
    text, _ = until(lambda: (d := group.board[0].doing()) and d[0] and d, "it is busy")
    assert text == "GET /block/0.5?secret"
    assert [found for found, _ in group.board[0].requests()] == [text] and group.board[0].active == 1
    group.board.ping(0)
    until(lambda: not group.board[0].responsive, "it has been busy for too long to be at hand")
    assert client.response()[0] == 200
    until(lambda: group.board[0].doing() is None and group.board[0].answers, "it is idle")
    assert group.board[0].requests() == [] and group.board[0].active == 0
    assert group.board[0].by_class[2] == group.board[0].served == sum(group.board[0].latency) == 1
    assert 500_000_000 <= group.board[0].latency_ns < 5_000_000_000


def test_a_waiting_connection_outlives_its_worker(workers: Any) -> None:
    """What was in the accept queue of a worker that dies is served by the one that takes over its listener."""
    group = workers(1)
    os.kill(group.pids[0], signal.SIGSTOP)
    clients = [Raw(group.url, 20.0).send(GET) for _ in range(5)]
    os.kill(group.pids[0], signal.SIGKILL)
    os.waitpid(group.pids[0], 0)
    group.pids[0] = group.fork(0)
    for client in clients:
        assert client.response()[2] == str(group.pids[0]).encode()
        client.close()


def test_what_has_come_before_it_is_accepted(workers: Any, raw: Any) -> None:
    """A connection is read before it enters the epoll set. Whole requests, halves, silence, more than fits: all go on."""
    group = workers(1)
    last = b"GET /pid HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    pid = str(group.pids[0]).encode()
    for _ in range(3):
        blocker = raw(group.url, 20.0).send(b"GET /block/0.3 HTTP/1.1\r\nHost: a\r\n\r\n")
        until(lambda: group.board[0].active, "the worker is blocked")
        names = ("once", "twice", "half", "silent", "big", "upload", "left", "reset")
        clients = {name: raw(group.url, 20.0) for name in names}
        clients["once"].send(last)
        clients["twice"].send(GET + last)
        clients["half"].send(GET[:10])
        clients["big"].send(b"GET /big HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        clients["upload"].send(b"POST /size HTTP/1.1\r\nHost: a\r\nContent-Length: 200000\r\n\r\n" + b"z" * 100_000)
        clients["left"].close()
        clients["reset"].socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        clients["reset"].close()
        assert blocker.response()[2] == pid
        assert clients["once"].response()[2] == pid and clients["once"].rest() == b""
        assert [clients["twice"].response()[2] for _ in range(2)] == [pid, pid] and clients["twice"].rest() == b""
        assert clients["big"].response()[2] == b"x" * 5_000_000 and clients["big"].rest() == b""
        assert clients["half"].send(GET[10:]).response()[2] == pid
        assert clients["silent"].send(GET).response()[2] == pid
        assert clients["upload"].send(b"z" * 100_000).response()[2] == b"200000"
        until(lambda: group.board[0].connections == 4, "those that are over are forgotten")
        for client in (blocker, clients["half"], clients["silent"], clients["upload"]):
            assert client.send(GET).response()[2] == pid
            client.close()
        until(lambda: group.board[0].connections == 0, "all have left")


def test_out_of_descriptors(raw: Any) -> None:
    """Accepting pauses without spinning, open connections are served, and it goes on when there are descriptors again."""
    group = Workers.__new__(Workers)
    group.listeners, group.board = Listeners([parse_bind("127.0.0.1:0")], slots=1), Board(1)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 24, before[1]))
    try:
        group.pids = [group.fork(0)]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    try:
        until(lambda: group.board[0].state == SeatState.READY, "the worker is ready")
        first = raw(group.url)
        assert first.send(GET).response()[0] == 200
        crowd = [raw(group.url) for _ in range(60)]
        until(lambda: group.board[0].accept_errors >= 2, "it runs out")
        with open(f"/proc/{group.pids[0]}/stat") as file:
            ticks = sum(map(int, file.read().rpartition(")")[2].split()[11:13]))
        time.sleep(1.0)
        assert first.send(GET).response()[0] == 200
        with open(f"/proc/{group.pids[0]}/stat") as file:
            assert (
                sum(map(int, file.read().rpartition(")")[2].split()[11:13])) - ticks <= 5
            )  # of a hundred: it does not spin
        for client in crowd[:50]:
            client.close()
        began = time.monotonic()
        assert crowd[-1].send(GET).response()[0] == 200
        assert time.monotonic() - began < 2.0
    finally:
        group.close()


def test_large_bodies_both_ways(workers: Any, raw: Any) -> None:
    group = workers(1)
    client = raw(group.url, 20.0)
    body = b"y" * 3_000_000
    client.send(b"POST /size HTTP/1.1\r\nHost: a\r\nContent-Length: 3000000\r\n\r\n")
    writer = threading.Thread(target=client.send, args=(body,))
    writer.start()
    assert client.response()[2] == b"3000000"
    writer.join()
    client.send(b"GET /big HTTP/1.1\r\nHost: a\r\n\r\n")
    time.sleep(0.2)  # the peer reads late: the rest waits in the wire's queue
    assert client.response()[2] == b"x" * 5_000_000
    assert group.board[0].bytes_in > 3_000_000 and group.board[0].bytes_out > 5_000_000


def test_a_seat_is_checked() -> None:
    board = Board(2)
    with pytest.raises(IndexError):
        board[2]
    with pytest.raises(IndexError):
        board.adopt(0, 1024)
    with pytest.raises(ValueError):
        Board(0)
    assert repr(board[1]) == "<Seat 1 empty pid=0 slot=-1 connections=0>"
    board.close()
