"""WebSocket echo: server CPU per message, side by side in interleaved rounds. Linux only.

    python -m benchmarks.websocket [--servers fastserve,uvicorn,granian,picows] [--rounds N] [--seconds S]

Each of 16 connections sends one text message of 32 bytes and waits for its echo, so that nothing is batched. The
client is a loop of plain sockets in this process; it is slower than the servers, which is why the processor time of the
server divided by the messages is what is told (see cpu.py), not messages per second. Nobody compresses 32 bytes.
"""

from __future__ import annotations

import argparse
import selectors
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence

from benchmarks import cpu

MESSAGE = b"a message of thirty-two bytes...".ljust(32)[:32]
FRAME = b"\x81\xa0\x00\x00\x00\x00" + MESSAGE  # a key of zeros is a key
ECHO = b"\x81\x20" + MESSAGE
HANDSHAKE = (
    b"GET /ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAECAwQFBgcICQoLDA0ODw==\r\n\r\n"
)
CONNECTIONS = 16

SERVERS = {
    "fastserve": ["-m", "fastserve", "benchmarks.apps.native:app", "--no-access-log", "--no-supervisor", "--port"],
    "uvicorn": [
        "-m", "uvicorn", "benchmarks.apps.asgi:app", "--ws", "websockets", "--loop", "uvloop", "--no-access-log",
        "--log-level", "warning", "--port",
    ],
    "granian": [
        "-m", "granian", "--interface", "asgi", "benchmarks.apps.asgi:app", "--loop", "uvloop", "--log-level", "warning",
        "--port",
    ],
    "picows": ["-m", "benchmarks.websocket", "--serve"],
}  # fmt: skip


def serve_picows(port: int) -> None:
    """An echo as picows's own examples write it: callbacks, no coroutine per connection."""
    import picows
    import uvloop

    class Echo(picows.WSListener):
        def on_ws_frame(self, transport: picows.WSTransport, frame: picows.WSFrame) -> None:
            transport.send(frame.msg_type, frame.get_payload_as_bytes())

    async def main() -> None:
        server = await picows.ws_create_server(lambda _: Echo(), "127.0.0.1", port)
        await server.serve_forever()

    uvloop.run(main())


def connect(port: int) -> socket.socket:
    for _ in range(200):
        try:
            sock = socket.create_connection(("127.0.0.1", port), 5)
            break
        except OSError:
            time.sleep(0.05)
    else:
        raise RuntimeError("the server did not start")
    sock.sendall(HANDSHAKE)
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += sock.recv(1)
    if not head.startswith(b"HTTP/1.1 101"):
        raise RuntimeError(head.decode("latin-1"))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def load(port: int, pid: int, seconds: float) -> tuple[float, float]:
    """Microseconds of server CPU per message, and messages per second."""
    socks = [connect(port) for _ in range(CONNECTIONS)]
    selector = selectors.EpollSelector()
    for sock in socks:
        sock.sendall(FRAME)
        if sock.recv(100) != ECHO:
            raise RuntimeError("that was no echo")
        selector.register(sock, selectors.EVENT_READ)
    before, start, count = cpu.snapshot(pid), time.monotonic(), 0
    for sock in socks:
        sock.send(FRAME)
    while time.monotonic() - start < seconds:
        for key, _ in selector.select():
            sock = key.fileobj  # type: ignore[assignment]
            if sock.recv(100) != ECHO:
                raise RuntimeError("that was no echo")
            sock.send(FRAME)
            count += 1
    used = cpu.between(before, cpu.snapshot(pid)).total_ns
    for sock in socks:
        sock.close()
    return used / count / 1000, count / (time.monotonic() - start)


def sample(name: str, seconds: float) -> tuple[float, float]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = subprocess.Popen(
        ["taskset", "-c", "0", sys.executable, *SERVERS[name], str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        return load(port, process.pid, seconds)
    finally:
        process.terminate()
        process.wait(20)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="WebSocket echo: server CPU per message")
    parser.add_argument("--servers", default=",".join(SERVERS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--serve", type=int, metavar="PORT", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.serve is not None:
        serve_picows(given.serve)
        return 0
    names = given.servers.split(",")
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for turn in range(given.rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            found[name].append(sample(name, given.seconds))
    print("| server | us of CPU per message | spread | messages/s |\n|---|---|---|---|")
    for name, samples in found.items():
        times = sorted(each[0] for each in samples)
        rate = statistics.median(each[1] for each in samples)
        print(f"| {name} | {statistics.median(times):.2f} | {times[0]:.2f}-{times[-1]:.2f} | {rate:.0f} |")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
