"""Load that notices every loss: keep-alive clients, a connection per request, storms. It counts what went wrong, and how.

failed: an answer that is not the expected 200. cut: a connection that ended under a request, without a whole answer.
lost: a connection that was refused, reset or not answered in time. Between them lies nothing: every request that was
begun ends in `answered` or in one of the three.

A keep-alive client that meets the end of its connection before the first byte of an answer has met the race of RFC 9112
section 9.5 if the server closed an idle connection; `raced` counts those apart, and a client that reuses its connection
within the retire-idle time must never see one.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections import Counter
from types import TracebackType

REQUEST = b"GET %s HTTP/1.1\r\nHost: a\r\n%s\r\n"
SECONDS = 10.0  # for an answer


class Load:
    """Runs beside the test until left. `counts` and `worst` are to be read after that."""

    def __init__(
        self, port: int, *, keep_alive: int = 4, fresh: int = 4, pause: float = 0.004, path: str = "/pid"
    ) -> None:
        self.port = port
        self.counts: Counter[str] = Counter()
        self.waits: list[float] = []  # seconds from connect to answer, of fresh connections
        self.faults: list[str] = []
        self.pids: Counter[str] = Counter()
        self._pause = pause
        self._path = path.encode()
        self._lock = threading.Lock()
        self._over = threading.Event()
        targets = [self._keep_alive] * keep_alive + [self._fresh] * fresh
        self._threads = [threading.Thread(target=target, daemon=True) for target in targets]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(2 * SECONDS)
        assert not any(thread.is_alive() for thread in self._threads), "a client hangs"

    @property
    def answered(self) -> int:
        return self.counts["answered"]

    def whole(self, *, least: int = 50) -> None:
        """Nothing went wrong, and something went right."""
        wrong = {name: self.counts[name] for name in ("failed", "cut", "lost", "raced") if self.counts[name]}
        assert not wrong, (wrong, self.faults[:10])
        assert self.answered >= least, self.counts

    def storm(self, count: int = 400) -> None:
        """`count` connections at once: they wait in the accept queues. Each is then answered, or counted."""
        clients: list[socket.socket] = []
        for _ in range(count):
            with self._counting("lost"):
                clients.append(socket.create_connection(("127.0.0.1", self.port), SECONDS))
        for client in clients:
            with self._counting("lost"):
                client.sendall(REQUEST % (self._path, b"Connection: close\r\n"))
        for client in clients:
            with client, self._counting("lost"):
                client.settimeout(SECONDS)
                self._judge(_answer(client))

    def _keep_alive(self) -> None:
        while not self._over.is_set():
            with self._counting("lost"), socket.create_connection(("127.0.0.1", self.port), SECONDS) as client:
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                served = 0
                while not self._over.is_set():
                    try:
                        client.sendall(REQUEST % (self._path, b""))
                        answer = _answer(client)
                    except OSError as error:
                        if not served:
                            raise
                        self._count("cut" if isinstance(error, TimeoutError) else "raced", repr(error))
                        break
                    if answer == b"" and served:
                        self._count("raced", "closed before an answer")
                        break
                    served += 1
                    self._judge(answer)
                    if b"\r\nconnection: close\r\n" in answer.lower():
                        if client.recv(1):
                            self._count("failed", "bytes behind the last answer")
                        break
                    time.sleep(self._pause)

    def _fresh(self) -> None:
        while not self._over.is_set():
            began = time.monotonic()
            with self._counting("lost"), socket.create_connection(("127.0.0.1", self.port), SECONDS) as client:
                client.sendall(REQUEST % (self._path, b"Connection: close\r\n"))
                self._judge(_answer(client))
            with self._lock:
                self.waits.append(time.monotonic() - began)
            time.sleep(self._pause)

    def _judge(self, answer: bytes) -> None:
        head, _, body = answer.partition(b"\r\n\r\n")
        if not body or not _whole(head, body):
            self._count("cut", repr(answer[:200]))
        elif not head.startswith(b"HTTP/1.1 200 "):
            self._count("failed", repr(answer[:200]))
        else:
            self._count("answered")
            with self._lock:
                self.pids[body.decode()] += 1

    @contextlib.contextmanager
    def _counting(self, name: str):  # type: ignore[no-untyped-def]
        try:
            yield
        except OSError as error:
            self._count(name, repr(error))

    def _count(self, name: str, fault: str = "") -> None:
        with self._lock:
            self.counts[name] += 1
            if fault:
                self.faults.append(f"{name}: {fault}")


def _answer(client: socket.socket) -> bytes:
    """One whole answer, or what there was of it when the connection ended."""
    data = b""
    while True:
        head, end, body = data.partition(b"\r\n\r\n")
        if end and _whole(head, body):
            return data
        more = client.recv(65536)
        if not more:
            return data
        data += more


def _whole(head: bytes, body: bytes) -> bool:
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return len(body) == int(line.partition(b":")[2])
    return False


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]
