"""Hostile clients against a server process: what it holds, what it burns, and what a healthy client notices.

Deadlines and rates are those of production divided by ten or more; `make nightly` sets FASTSERVE_REAL_TIMES and meets
the real ones.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import statistics
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from process.running import HERE, Running, until

REAL = bool(os.environ.get("FASTSERVE_REAL_TIMES"))
CROWD = 1000
RSS_MAX = 10 * 1024 * 1024
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST /count HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n"
CHUNKED = b"POST /count HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
SCALED = ("--timeout-header", "2", "--timeout-body", "2", "--timeout-write", "2", "--min-rate-grace", "2")
TICKS = os.sysconf("SC_CLK_TCK")


class Server(Running):
    """A server with one worker, and what the kernel says of that."""

    @property
    def worker(self) -> int:
        return self.workers[0]

    def rss(self) -> int:
        return int(Path(f"/proc/{self.worker}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def forget_peak(self) -> None:
        Path(f"/proc/{self.worker}/clear_refs").write_text("5")

    def peak(self) -> int:
        for line in Path(f"/proc/{self.worker}/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) * 1024
        raise AssertionError("no peak")

    def cpu(self) -> float:
        fields = Path(f"/proc/{self.worker}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.worker}/fd"))

    def connect(self, *, segment: int = 0) -> socket.socket:
        """`segment`: of TCP, in bytes; on loopback they are so large that the kernel buffers megabytes for each."""
        client = socket.socket()
        client.settimeout(30.0)
        if segment:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, segment)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", self.port))
        return client


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    options = () if REAL else SCALED
    with Server(
        "hostile_app:app", "--port", "0", "--no-access-log", "--backlog", "4096", *options, cwd=HERE
    ) as running:
        running.ready()
        for _ in range(50):  # warm: what is allocated once is no growth
            client = running.connect()
            client.sendall(GET + CHUNKED + b"3\r\nabc\r\n0\r\n\r\n")
            until(lambda held=client: b"\r\n3" in held.recv(65536), "it answers")
            client.close()
        yield running


def answer(client: socket.socket) -> bytes:
    """All that comes, up to its end; a reset is an end as well."""
    found = b""
    with contextlib.suppress(ConnectionResetError):
        while data := client.recv(65536):
            found += data
    return found


def latencies(server: Server, count: int) -> list[float]:
    found = []
    with server.connect() as client:
        for _ in range(count):
            began = time.perf_counter()
            client.sendall(GET)
            assert client.recv(65536).startswith(b"HTTP/1.1 200")
            found.append(time.perf_counter() - began)
    return sorted(found)


def test_a_large_body_is_held_once(server: Server) -> None:
    # Received where the application finds it: in no piece beside it that would have to be joined.
    size = 12 * 1024 * 1024
    with server.connect() as client:
        client.sendall(b"POST /whole HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc")
        assert client.recv(65536).endswith(b"\r\n\r\n3")
        before = server.rss()
        server.forget_peak()
        client.sendall(f"POST /whole HTTP/1.1\r\nHost: a\r\nContent-Length: {size}\r\n\r\n".encode() + b"x" * size)
        assert client.recv(65536).endswith(b"\r\n\r\n12582912")
    assert 0.9 * size < server.peak() - before < 1.25 * size


# ------------------------------------------------------------------------------------------------- a thousand slow ones


def dripping_head(client: socket.socket) -> None:
    client.send(b"y")


def dripping_body(client: socket.socket) -> None:
    client.send(b"z")


def silent(client: socket.socket) -> None:
    pass


def crawling(client: socket.socket) -> None:
    client.recv(16)


CROWDS: dict[str, tuple[bytes, Callable[[socket.socket], None], bytes]] = {
    # name: what it begins with, what it does again and again, the status it ends with (b"": none)
    "says nothing": (b"", silent, b""),
    "drips a head": (b"GET / HTTP/1.1\r\nHost: a\r\nX: ", dripping_head, b"408"),
    "stops in a body": (POST, silent, b"408"),
    "drips a body": (POST, dripping_body, b"408"),
    "drips chunks": (CHUNKED, lambda client: client.send(b"1\r\nz\r\n") and None, b"408"),
    "stops reading": (GET.replace(b"/ ", b"/much "), silent, b"200"),
    "crawls": (GET.replace(b"/ ", b"/much "), crawling, b"200"),
}


@pytest.mark.parametrize("kind", CROWDS)
def test_a_thousand_slow_clients_are_ended_and_nobody_notices(server: Server, kind: str) -> None:
    begin, again, status = CROWDS[kind]
    quiet = latencies(server, 400)
    before, descriptors = server.rss(), server.descriptors()
    clients = []
    for _ in range(CROWD):
        client = server.connect(segment=536 if status == b"200" else 0)
        client.sendall(begin)
        client.setblocking(False)
        clients.append(client)
    busy: list[float] = []
    over: set[socket.socket] = set()
    peak = 0
    end = time.monotonic() + (90.0 if REAL else 30.0)
    while time.monotonic() < end and server.descriptors() > descriptors + 10:
        for client in clients:
            if client not in over:
                try:
                    again(client)
                except BlockingIOError:
                    pass
                except OSError:
                    over.add(client)
        busy += latencies(server, 25)
        peak = max(peak, server.rss())
        time.sleep(0.1)
    assert server.descriptors() <= descriptors + 10, "they are still there"
    assert peak - before < RSS_MAX, f"{(peak - before) / 1e6:.1f} MB for {CROWD} clients"
    if status in (b"408", b""):
        for client in clients[:: CROWD // 50]:
            client.settimeout(30.0)
            got = answer(client)
            assert got[9:12] == status, got[:100]
    for client in clients:
        client.close()
    busy.sort()
    at = [f"{1000 * times[int(len(times) * 0.99)]:.1f}" for times in (quiet, busy)]
    print(
        f"{CROWD} x {kind}: {(peak - before) / 1e6:+.1f} MB; p99 of a healthy client {at[0]} ms without, {at[1]} ms with"
    )
    # A healthy client is a neighbour of a thousand, on a machine that others use: it must not be held up by them.
    assert len(busy) >= 100
    assert statistics.median(busy) < max(5 * statistics.median(quiet), 0.02), (quiet, busy)
    assert busy[int(len(busy) * 0.99)] < max(5 * quiet[int(len(quiet) * 0.99)], 0.25), (quiet[-5:], busy[-5:])


# --------------------------------------------------------------------------------------------------- giants

MEGABYTE = b"y" * 1_000_000
GIANTS: dict[str, tuple[bytes, bytes, bytes, bytes]] = {
    # name: beginning, what is sent again and again up to 10 MB, its end, status
    "head": (b"GET / HTTP/1.1\r\nHost: a\r\nX: ", MEGABYTE, b"\r\n\r\n", b"431"),
    "fields": (b"GET / HTTP/1.1\r\nHost: a\r\n", b"a: b\r\n" * 100_000, b"\r\n", b"431"),
    "target": (b"GET /", MEGABYTE, b" HTTP/1.1\r\nHost: a\r\n\r\n", b"414"),
    "method": (b"", MEGABYTE, b" / HTTP/1.1\r\n\r\n", b"414"),
    "empty lines": (b"", b"\r\n" * 500_000, GET, b"400"),
    "extension": (CHUNKED + b"1;x=", MEGABYTE, b"\r\nz\r\n0\r\n\r\n", b"400"),
    "extensions": (CHUNKED, b"1;x\r\nz\r\n" * 100_000, b"0\r\n\r\n", b"400"),
    "chunk size": (CHUNKED, b"0" * 1_000_000, b"1\r\nz\r\n0\r\n\r\n", b"400"),
    "trailers": (CHUNKED + b"0\r\n", b"a: b\r\n" * 100_000, b"\r\n", b"431"),
    "trailer": (CHUNKED + b"0\r\nX: ", MEGABYTE, b"\r\n\r\n", b"431"),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", MEGABYTE, b"", b"400"),
    "pipeline": (GET.replace(b"/ ", b"/much "), GET * 30_000, b"", b"200"),
}


@pytest.mark.parametrize("kind", GIANTS)
def test_giants_are_refused_and_not_kept(server: Server, kind: str) -> None:
    begin, again, finish, status = GIANTS[kind]
    server.forget_peak()
    before, cpu, lines = server.rss(), server.cpu(), len(server.lines)
    with server.connect() as client:
        client.settimeout(3.0)
        with contextlib.suppress(OSError):  # it hangs up on us, or does not read on
            client.sendall(begin)
            for _ in range(10):
                client.sendall(again)
            client.sendall(finish)
        got = b""
        with contextlib.suppress(OSError):
            while b"\r\n" not in got:
                data = client.recv(65536)
                if not data:
                    break
                got += data
        assert got[9:12] == status, got[:200]
    assert server.peak() - before < RSS_MAX, f"{(server.peak() - before) / 1e6:.1f} MB"
    assert server.cpu() - cpu < 1.0
    assert server.lines[lines:] == [], "a client's fault is not worth a line"


def test_half_a_million_chunks_of_one_byte(server: Server) -> None:
    server.forget_peak()
    before, cpu = server.rss(), server.cpu()
    with server.connect() as client:
        client.sendall(CHUNKED)
        for _ in range(50):
            client.sendall(b"1\r\nz\r\n" * 10_000)
        client.sendall(b"0\r\n\r\n")
        assert client.recv(65536).endswith(b"\r\n500000")
    assert server.cpu() - cpu < 1.0, f"{server.cpu() - cpu:.2f} s"
    assert server.peak() - before < RSS_MAX


# ----------------------------------------------------------------------------------------------- floods, departures

RESET = struct.pack("ii", 1, 0)
STAGES = (b"", b"GET / HT", GET, POST + b"half", CHUNKED + b"5\r\nab", GET.replace(b"/ ", b"/much "), b"BAD\r\n\r\n")


def test_floods_of_connections_that_are_reset_at_every_stage(server: Server) -> None:
    before, descriptors = server.rss(), server.descriptors()
    for turn in range(300):
        clients = []
        for stage in STAGES:
            client = server.connect(segment=536)
            client.sendall(stage)
            clients.append(client)
        if turn % 3 == 0:
            time.sleep(0.002)  # some are met in the middle of their life, some in the accept queue
        for client in clients:
            if turn % 2:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            client.close()
    until(lambda: server.descriptors() <= descriptors + 1, "they are gone")
    assert server.rss() - before < RSS_MAX
    assert latencies(server, 10)


def test_half_closed_connections_end(server: Server) -> None:
    descriptors = server.descriptors()
    clients = [server.connect() for _ in range(len(STAGES))]
    for client, stage in zip(clients, STAGES, strict=True):
        client.sendall(stage)
        client.shutdown(socket.SHUT_WR)
    for client in clients:
        ended = time.monotonic() + 20.0
        with contextlib.suppress(ConnectionResetError):
            while select.select([client], [], [], 20.0)[0] and client.recv(65536):
                assert time.monotonic() < ended, "it is served for ever"
        client.close()
    until(lambda: server.descriptors() <= descriptors + 1, "they are gone")


def test_no_hostile_client_had_anything_to_say_in_the_log(server: Server) -> None:
    """The last of this file: whatever went before, it has written no traceback."""
    assert "Traceback" not in server.err
    assert "exception" not in server.err.lower()
