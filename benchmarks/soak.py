"""The soak: good, slow, hostile and dying clients at once, for minutes, while memory and descriptors are watched.

Called by __main__ (the verb `soak`). Calls servers (a free port) and cpu.rss_bytes. One process of the server, on our own
wire, with deadlines short enough that every kind of client comes round many times. The well-behaved clients check every
byte that they get: whatever the others do, an answer that is missing, wrong or cut is an error.

The aims are those of a server that runs for months: less than 0.5 MB of growth a minute, no descriptor more, no error.
"""

import contextlib
import os
import random
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from . import cpu, servers
from .progress import Progress

ROOT = Path(__file__).parent.parent
RSS_AIM = 0.5  # MB a minute
FLAGS = (
    "--no-supervisor", "--no-access-log",
    "--timeout-header", "1", "--timeout-body", "1", "--timeout-write", "1", "--min-rate-grace", "1",
    "--timeout-keep-alive", "2", "--timeout-linger", "0.5", "--limit-concurrency", "200", "--limit-connections", "400",
)  # fmt: skip
RESET = struct.pack("ii", 1, 0)
GET = "GET {} HTTP/1.1\r\nHost: soak\r\n\r\n"
POST = "POST {} HTTP/1.1\r\nHost: soak\r\nContent-Length: {}\r\n\r\n"
CHUNKED = b"POST /count HTTP/1.1\r\nHost: soak\r\nTransfer-Encoding: chunked\r\n\r\n"
SETTLE_S = 10.0  # at most, for the last connections to end
BAD = (
    b"BAD\r\n\r\n",
    b"GET / HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 70000,
    CHUNKED + b"zz\r\n",
)


class Soak:
    """Clients in threads, until told to stop."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.stop = threading.Event()
        self.done: Counter[str] = Counter()
        self.errors: list[str] = []

    def connect(self) -> socket.socket:
        client = socket.create_connection((servers.HOST, self.port), timeout=20.0)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return client

    def forever(self, kind: str, act: Callable[[random.Random], None], seed: int) -> None:
        dice = random.Random(seed)
        while not self.stop.is_set():
            try:
                act(dice)
                self.done[kind] += 1
            except Exception as error:
                if len(self.errors) < 100:
                    self.errors.append(f"{kind}: {type(error).__name__}: {error}")
                time.sleep(0.05)

    # ------------------------------------------------------------------- the well-behaved: every answer is checked

    def ask(self, client: socket.socket, stream: object, request: bytes, body: bytes, status: int = 200) -> None:
        client.sendall(request)
        answer = servers._read_answer(stream)  # type: ignore[arg-type]
        if answer.status != status or answer.body != body:
            raise AssertionError(f"{request[:60]!r} was answered {answer.status} {answer.body[:60]!r}")

    def good(self, dice: random.Random) -> None:
        with self.connect() as client, client.makefile("rb") as stream:
            for _ in range(dice.randrange(1, 30)):
                number, size = dice.randrange(10**6), dice.choice((1, 1000, 65536, 300_000))
                request, body, status = dice.choice(
                    (
                        (GET.format("/").encode(), b"hello", 200),
                        (GET.format("/thread").encode(), b"from a thread", 200),
                        (GET.format(f"/json/{number}").encode(), b'{"number":%d}' % number, 200),
                        (POST.format("/count", size).encode() + b"c" * size, b"%d" % size, 200),
                        (POST.format("/echo", size).encode() + b"e" * size, b"e" * size, 200),
                        (CHUNKED + b"3\r\nabc\r\n" * 50 + b"0\r\n\r\n", b"150", 200),
                        (GET.format("/ticks").encode(), b"tick\n" * 10, 200),
                        (GET.format("/big").encode(), b"b" * 1_000_000, 200),
                    )
                )
                self.ask(client, stream, request, body, status)

    def pipelined(self, dice: random.Random) -> None:
        with self.connect() as client, client.makefile("rb") as stream:
            count = dice.randrange(2, 40)
            client.sendall(GET.format("/").encode() * count)
            for _ in range(count):
                answer = servers._read_answer(stream)
                if (answer.status, answer.body) != (200, b"hello"):
                    raise AssertionError(f"a pipelined request was answered {answer.status} {answer.body!r}")

    # ------------------------------------------------------------------------- the others: whatever they get is right

    def slow(self, dice: random.Random) -> None:
        with contextlib.suppress(OSError), self.connect() as client:
            kind = dice.randrange(4)
            client.sendall((b"", b"GET / HT", POST.format("/count", 9999).encode(), GET.format("/big").encode())[kind])
            end = time.monotonic() + 3.0
            while time.monotonic() < end and not self.stop.is_set():
                if kind in (1, 2):
                    client.send(b"x")
                time.sleep(0.1)

    def rude(self, dice: random.Random) -> None:
        with contextlib.suppress(OSError), self.connect() as client:
            path = dice.choice(("/", "/big", "/ticks", "/wait", "/thread"))
            client.sendall(GET.format(path).encode()[: dice.choice((3, 1000))])
            if dice.random() < 0.5:
                client.sendall(POST.format("/count", 5000).encode() + b"z" * dice.randrange(5000))
            time.sleep(dice.random() * 0.02)
            if dice.random() < 0.5:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)

    def bad(self, dice: random.Random) -> None:
        with contextlib.suppress(OSError), self.connect() as client:
            client.sendall(dice.choice(BAD))
            answer = client.recv(100)
            if answer and not answer.startswith(b"HTTP/1.1 4"):
                raise AssertionError(f"nonsense was answered {answer!r}")

    def idle(self, dice: random.Random) -> None:
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            for _ in range(20):
                client = stack.enter_context(self.connect())
                client.sendall(GET.format("/").encode())
                client.recv(1000)
            self.stop.wait(dice.random() * 3)


CROWD = {"good": 6, "pipelined": 1, "slow": 8, "rude": 2, "bad": 1, "idle": 2}


def soak(seconds: float, say: Progress) -> tuple[float, int, list[str]]:
    """Returns MB of growth a minute, descriptors gained, and errors."""
    port = servers.free_port()
    command = [sys.executable, "-m", "fastserve", "benchmarks.apps.soak:app", "--port", str(port), *FLAGS]
    with tempfile.TemporaryFile() as log, subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log) as process:
        try:
            until = time.monotonic() + servers.READY_S
            while True:
                with (
                    contextlib.suppress(OSError),
                    socket.create_connection((servers.HOST, port), timeout=5.0) as client,
                ):
                    client.sendall(GET.format("/thread").encode())
                    if client.recv(1000).startswith(b"HTTP/1.1 200"):
                        break
                if process.poll() is not None or time.monotonic() > until:
                    raise servers.ServerError("the server of the soak did not start")
                time.sleep(0.05)
            return _watch(process, Soak(port), seconds, say)
        finally:
            process.terminate()
            process.wait(40.0)
            log.seek(0)
            text = log.read().decode(errors="replace")
            if "Traceback" in text or process.returncode != 0:
                say(text[-4000:])
                raise servers.ServerError(f"the server of the soak ended with {process.returncode} or wrote tracebacks")


def _watch(
    process: subprocess.Popen[bytes], crowd: Soak, seconds: float, say: Progress
) -> tuple[float, int, list[str]]:
    def descriptors() -> int:
        return len(os.listdir(f"/proc/{process.pid}/fd"))

    before = descriptors()
    threads = [
        threading.Thread(target=crowd.forever, args=[kind, getattr(crowd, kind), index], daemon=True)
        for kind, count in CROWD.items()
        for index in range(count)
    ]
    for thread in threads:
        thread.start()
    began, told = time.monotonic(), 0.0
    looks: list[tuple[float, float]] = []
    while (age := time.monotonic() - began) < seconds:
        looks.append((age, cpu.rss_bytes(process.pid) / 1e6))
        if age - told >= 30:
            told = age
            say(f"{age:5.0f} s: {looks[-1][1]:.1f} MB, {descriptors()} descriptors, {sum(crowd.done.values())} lives")
        time.sleep(min(1.0, seconds / 20))
    crowd.stop.set()
    for thread in threads:
        thread.join(30.0)
    until = time.monotonic() + SETTLE_S
    while descriptors() > before and time.monotonic() < until:
        time.sleep(0.1)
    late = [look for look in looks if look[0] >= seconds / 3]  # the first third fills pools and arenas
    slope = statistics.linear_regression(*zip(*late, strict=True)).slope * 60 if len(late) > 2 else 0.0
    say(", ".join(f"{count} {kind}" for kind, count in sorted(crowd.done.items())))
    return slope, descriptors() - before, crowd.errors


def main(seconds: float, say: Progress) -> int:
    """Soak and judge. A minute is the least that says anything of growth."""
    say.plan(seconds)
    with say.step("soak", seconds):
        slope, gained, errors = soak(seconds, say)
    say(f"{slope:+.2f} MB a minute (aim: below {RSS_AIM}), {gained:+d} descriptors, {len(errors)} errors")
    for error in errors[:20]:
        say(f"  {error}")
    grown = seconds >= 60 and slope > RSS_AIM
    return 1 if grown or gained > 0 or errors else 0
