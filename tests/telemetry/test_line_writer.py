"""LineWriter: whole lines, in order, without ever making its caller wait."""

from __future__ import annotations

import os
import select
import socket
import threading
import time
from pathlib import Path

import pytest

from fastserve.telemetry import LineWriter


def test_lines_arrive_in_order(tmp_path: Path) -> None:
    path = tmp_path / "log"
    writer = LineWriter(str(path))
    for number in range(1000):
        writer.write(b"%d\n" % number)
    writer.close()
    assert path.read_bytes() == b"".join(b"%d\n" % number for number in range(1000))
    assert writer.dropped == 0


def test_a_file_is_appended_to(tmp_path: Path) -> None:
    path = tmp_path / "log"
    for _ in range(2):
        writer = LineWriter(str(path))
        writer.write(b"line\n")
        writer.close()
    assert path.read_bytes() == b"line\nline\n"


def test_reopen_follows_the_name(tmp_path: Path) -> None:
    path, old = tmp_path / "log", tmp_path / "log.1"
    writer = LineWriter(str(path))
    writer.write(b"one\n")
    assert writer.wait(5)
    path.rename(old)
    writer.reopen()
    writer.write(b"two\n")
    writer.close()
    assert (old.read_bytes(), path.read_bytes()) == (b"one\n", b"two\n")


def test_reopen_that_fails_keeps_the_old_file(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    path = folder / "log"
    writer = LineWriter(str(path))
    folder.rename(tmp_path / "moved")
    with pytest.raises(FileNotFoundError):
        writer.reopen()
    writer.write(b"still\n")
    writer.close()
    assert (tmp_path / "moved" / "log").read_bytes() == b"still\n"


def test_a_reader_that_stands_still_costs_lines_not_time() -> None:
    read, write = os.pipe()
    writer = LineWriter(write)
    os.close(write)
    line = b"x" * 1023 + b"\n"
    began = time.monotonic()
    for _ in range(16):
        writer.write(line * 1024)  # 16 MiB: 4 wait, and perhaps 4 are in the thread's hands
    assert time.monotonic() - began < 5
    assert not writer.wait(0.05)
    assert 8 * 1024 <= writer.dropped < 16 * 1024
    taken = 0
    thread = threading.Thread(target=writer.close, args=[10])
    dropped = writer.dropped
    thread.start()
    while chunk := os.read(read, 1 << 20):
        taken += len(chunk)
    thread.join()
    os.close(read)
    assert taken // 1024 + dropped == 16 * 1024 and taken % 1024 == 0


def test_close_does_not_wait_for_ever() -> None:
    read, write = os.pipe()
    writer = LineWriter(write)
    os.close(write)
    writer.write(b"x\n" * 500_000)
    began = time.monotonic()
    writer.close(0.2)
    assert time.monotonic() - began < 5
    os.close(read)


def test_lines_of_two_writers_to_one_pipe_are_not_mixed() -> None:
    read, write = os.pipe()
    writers = [LineWriter(write), LineWriter(write)]
    os.close(write)
    threads = []
    for letter, writer in zip(b"ab", writers, strict=True):

        def fill(letter: int = letter, writer: LineWriter = writer) -> None:
            for _ in range(200):
                writer.write((bytes([letter]) * 700 + b"\n") * 40)
                writer.wait(5)
            writer.close()

        threads.append(threading.Thread(target=fill))
        threads[-1].start()
    data = b""
    while chunk := os.read(read, 1 << 20):
        data += chunk
    for thread in threads:
        thread.join()
    os.close(read)
    assert sorted(set(data.splitlines())) == [b"a" * 700, b"b" * 700]
    assert data.count(b"\n") == 2 * 200 * 40
    assert select.PIPE_BUF < 40 * 701  # or the test shows nothing


def test_what_cannot_be_written_is_counted() -> None:
    writer = LineWriter("/dev/full")
    writer.write(b"a\nb\n")
    assert writer.wait(5)
    assert writer.dropped == 2
    writer.close()


@pytest.mark.parametrize("destination", ["/no/such/folder/log", "syslog:/no/such/socket", "syslog:nonsense", "/"])
def test_what_cannot_be_opened_is_an_error(destination: str) -> None:
    with pytest.raises(OSError):
        LineWriter(destination)


def syslog(kind: str, tmp_path: Path) -> tuple[socket.socket, str]:
    if kind == "udp":
        server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        server.bind(("127.0.0.1", 0))
        return server, f"syslog:127.0.0.1:{server.getsockname()[1]}"
    server = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    server.bind(str(tmp_path / "log.sock"))
    return server, f"syslog:{tmp_path / 'log.sock'}"


@pytest.mark.parametrize("kind", ["udp", "unix"])
def test_syslog_gets_a_datagram_per_line(kind: str, tmp_path: Path) -> None:
    server, address = syslog(kind, tmp_path)
    server.settimeout(5)
    writer = LineWriter(address)
    writer.write(b"one\ntwo\n")
    assert [server.recv(9000) for _ in range(2)] == [
        b"<134>fastserve[%d]: %b" % (os.getpid(), text) for text in (b"one", b"two")
    ]
    writer.close()
    server.close()


def test_a_syslog_daemon_that_was_restarted_is_found_again(tmp_path: Path) -> None:
    server, address = syslog("unix", tmp_path)
    writer = LineWriter(address)
    server.close()
    (tmp_path / "log.sock").unlink()
    writer.write(b"nobody is there\n")
    assert writer.wait(5)
    assert writer.dropped == 1
    server, _ = syslog("unix", tmp_path)
    server.settimeout(5)
    writer.write(b"again\n")
    assert server.recv(9000).endswith(b"]: again")
    writer.close()
    server.close()
