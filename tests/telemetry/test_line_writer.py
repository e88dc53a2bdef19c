"""LineWriter: whole lines, in order, without ever making its caller wait."""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, suppress
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


# ------------------------------------------------------------------------------------------------------ descriptors


def threads() -> set[str]:
    return set(os.listdir("/proc/self/task"))


def files(thread: str = "") -> dict[int, str]:
    """Open descriptors of this thread, or another one, and what they are."""
    folder = f"/proc/self/task/{thread}/fd" if thread else "/proc/thread-self/fd"
    found = {}
    for name in os.listdir(folder):
        with suppress(FileNotFoundError):  # the one that lists them
            found[int(name)] = os.readlink(f"{folder}/{name}")
    return found


needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="a table of its own is Linux's")


@needs_linux
@pytest.mark.parametrize("others", [0, *range(40, 64), 200])
def test_the_thread_has_the_file_to_itself(others: int, tmp_path: Path) -> None:
    """The kernel takes a lock for each use of a descriptor that may be another thread's as well."""
    path, old = tmp_path / "log", tmp_path / "log.1"
    with socket.create_server(("127.0.0.1", 0)), ExitStack() as stack:
        for number in range(others):  # its place in the table: the kernel copies that in words of 64
            stack.enter_context(open(tmp_path / f"other{number}", "w"))
        before = threads()
        writer = LineWriter(str(path))
        (thread,) = threads() - before
        assert str(path) not in files().values()
        own = files(thread)
        assert [name for fd, name in own.items() if fd > 2] == [str(path)]
        path.rename(old)
        writer.reopen()
        writer.write(b"x\n")
        assert writer.wait(5)
        assert [name for fd, name in files(thread).items() if fd > 2] == [str(path)]
        assert not {str(path), str(old)} & set(files().values())
        writer.close()
        assert (path.read_bytes(), old.read_bytes()) == (b"x\n", b"")


FORBIDDEN = """
import ctypes, os, struct, sys
libc = ctypes.CDLL(None, use_errno=True)

# seccomp(2), as a container's profile has it: close_range (436 everywhere) is not permitted
program = b"".join(struct.pack("HBBI", *step) for step in [
    (0x20, 0, 0, 0), (0x15, 0, 1, 436), (0x06, 0, 0, 0x00050000 | 1), (0x06, 0, 0, 0x7FFF0000)])
code = ctypes.create_string_buffer(program)
class Filter(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("code", ctypes.c_void_p)]
assert libc.prctl(38, 1, 0, 0, 0) == 0  # PR_SET_NO_NEW_PRIVS
assert libc.prctl(22, 2, ctypes.byref(Filter(4, ctypes.addressof(code))), 0, 0) == 0, os.strerror(ctypes.get_errno())
assert libc.syscall(436, 1000, 1001, 0) == -1 and ctypes.get_errno() == 1

from fastserve.telemetry import LineWriter
path, old = sys.argv[1], sys.argv[1] + ".1"
open_before = sorted(os.listdir("/proc/self/fd"))
writer = LineWriter(path)
writer.write(b"one\\n")
assert writer.wait(5)
os.rename(path, old)
writer.reopen()
writer.write(b"two\\n")
writer.close()
assert sorted(os.listdir("/proc/self/fd")) == open_before
print(open(old).read() + open(path).read(), writer.dropped)
"""


@needs_linux
def test_where_it_may_not_have_its_own_descriptors_it_shares(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORBIDDEN, str(tmp_path / "log")], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "one\ntwo\n 0\n", "")


def test_a_pipe_ends_with_the_writer() -> None:
    read, write = os.pipe()
    writer = LineWriter(write)
    os.close(write)
    writer.write(b"x\n")
    writer.close()
    assert os.read(read, 100) == b"x\n" and os.read(read, 100) == b""
    os.close(read)


def test_a_fifo_without_a_reader_is_no_wait(tmp_path: Path) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    writer = LineWriter(str(path))
    os.close(reader)
    with pytest.raises(OSError, match="No such device"):
        writer.reopen()
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    writer.reopen()
    writer.write(b"x\n")
    assert writer.wait(5) and os.read(reader, 100) == b"x\n"
    writer.close()
    os.close(reader)


def test_a_file_that_is_named_like_syslog_is_opened_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    writer = LineWriter("syslog.txt")
    os.rename("syslog.txt", "old")
    writer.reopen()
    writer.write(b"x\n")
    writer.close()
    assert Path("syslog.txt").read_bytes() == b"x\n"
