"""Listeners: exclusive without a race, one per slot, port 0, both families, Unix sockets that are treated with care."""

from __future__ import annotations

import errno
import os
import socket
import stat
import struct
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from fastserve.errors import ConfigError
from fastserve.process import sockets
from fastserve.process.config import Address, TcpAddress, UnixAddress
from fastserve.process.sockets import Listeners

LOCAL = TcpAddress("127.0.0.1", 0)
linux = pytest.mark.skipif(sys.platform != "linux", reason="SO_REUSEPORT spreads connections on Linux only")


@pytest.fixture
def opening() -> Iterator[Callable[..., Listeners]]:
    with ExitStack() as stack:

        def body(*addresses: Address, **options: int) -> Listeners:
            listeners = Listeners(addresses, **options)
            stack.callback(listeners.close)
            return listeners

        yield body


def port_of(listeners: Listeners) -> int:
    address = listeners.addresses[0]
    assert isinstance(address, TcpAddress)
    return address.port


def refused(*addresses: Address, **options: int) -> str:
    with pytest.raises(ConfigError) as caught:
        Listeners(addresses, **options).close()
    assert caught.value.exit_code == 3
    assert "\n" not in str(caught.value)
    return str(caught.value)


def accepted(listener: socket.socket) -> int:
    count = 0
    while True:
        try:
            listener.accept()[0].close()
        except BlockingIOError:
            return count
        count += 1


def simultaneously(count: int, body: Callable[[int], bool]) -> int:
    """Fork processes that all run `body` at the same instant and stay until all have. How many returned True."""
    starts, goes = socket.socketpair()
    ends, results = socket.socketpair()
    release, held = socket.socketpair()
    children = []
    for index in range(count):
        pid = os.fork()
        if pid == 0:
            try:
                (at,) = struct.unpack("d", goes.recv(8))
                while time.monotonic() < at:
                    pass
                results.send(b"1" if body(index) else b"0")
                held.recv(1)  # keep what we have until everybody has tried
            finally:
                os._exit(0)
        children.append(pid)
    starts.sendall(struct.pack("d", time.monotonic() + 0.02) * count)
    ends.settimeout(10)
    answers = b""
    while len(answers) < count:
        answers += ends.recv(count)
    release.sendall(b"." * count)
    for pid in children:
        os.waitpid(pid, 0)
    for end in (starts, goes, ends, results, release, held):
        end.close()
    return answers.count(b"1")


# ------------------------------------------------------------------------------------------------------ exclusivity


def test_second_server_on_the_port_is_refused_in_one_line(opening: Callable[..., Listeners]) -> None:
    for slots in (1, 3):
        first = opening(LOCAL, slots=slots)
        taken = TcpAddress("127.0.0.1", port_of(first))
        for others in (1, 3):
            assert refused(taken, slots=others) == f"cannot listen on {taken}: the address is already in use"


def test_wildcard_and_single_address_exclude_each_other(opening: Callable[..., Listeners]) -> None:
    first = opening(LOCAL, slots=2)
    assert "in use" in refused(TcpAddress("0.0.0.0", port_of(first)), slots=2)
    second = opening(TcpAddress("0.0.0.0", 0), slots=2)
    assert "in use" in refused(TcpAddress("127.0.0.1", port_of(second)), slots=2)


@linux
def test_why_the_option_is_set_after_listen_and_not_before() -> None:
    """Interleave two servers step by step. Option before listen(): both listen. Option after listen(): one does."""

    def bound(port: int) -> socket.socket:
        made = socket.socket()
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(("127.0.0.1", port))
        return made

    def share(listener: socket.socket) -> None:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)

    with bound(0) as a, bound(a.getsockname()[1]) as b:  # neither listens yet: the kernel lets both bind
        share(a), share(b)
        a.listen(), b.listen()  # the trap
    with bound(0) as a, bound(a.getsockname()[1]) as b:
        a.listen()
        share(a)
        with pytest.raises(OSError) as caught:
            b.listen()
        assert caught.value.errno == errno.EADDRINUSE


@pytest.mark.parametrize("slots", [1, 4])
def test_of_servers_started_at_the_same_instant_exactly_one_runs(slots: int) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    kept: list[Listeners] = []

    def start(_index: int) -> bool:
        try:
            kept.append(Listeners([TcpAddress("127.0.0.1", port)], slots=slots))
        except ConfigError:
            return False
        return True

    assert [simultaneously(3, start) for _ in range(20)] == [1] * 20


def test_restart_over_time_wait(opening: Callable[..., Listeners]) -> None:
    first = Listeners([LOCAL], slots=2)
    port = port_of(first)
    clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(8)]
    for listener in first.slot(0) + first.slot(1):
        accepted(listener)  # the server closes first: its side goes to TIME_WAIT
    for client in clients:
        client.close()
    first.close()
    opening(TcpAddress("127.0.0.1", port), slots=2)


# ---------------------------------------------------------------------------------------------------------- slots


@linux
def test_every_slot_has_a_listener_of_its_own_and_gets_connections(opening: Callable[..., Listeners]) -> None:
    listeners = opening(LOCAL, slots=4)
    port = port_of(listeners)
    own = [listeners.slot(index)[0] for index in range(4)]
    assert len({listener.fileno() for listener in own}) == 4
    assert {listener.getsockname() for listener in own} == {("127.0.0.1", port)}
    clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(200)]
    counts = [accepted(listener) for listener in own]
    assert sum(counts) == 200 and min(counts) >= 20, counts
    for client in clients:
        client.close()


@linux
def test_one_slot_does_not_share_its_port(opening: Callable[..., Listeners]) -> None:
    listener = opening(LOCAL).slot(0)[0]
    assert not listener.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT)


def test_without_reuse_port_the_slots_share_a_listener(
    opening: Callable[..., Listeners], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sockets, "REUSE_PORT", False)
    listeners = opening(LOCAL, slots=3)
    assert listeners.slot(0) == listeners.slot(1) == listeners.slot(2)
    assert "in use" in refused(TcpAddress("127.0.0.1", port_of(listeners)), slots=3)


@linux
def test_spare_slot_gets_nobody_until_it_listens(opening: Callable[..., Listeners]) -> None:
    listeners = opening(LOCAL, slots=2, spare=1)
    assert len(listeners) == 3 and listeners.listening == 2
    clients = [socket.create_connection(("127.0.0.1", port_of(listeners))) for _ in range(32)]
    assert sum(accepted(listeners.slot(index)[0]) for index in (0, 1)) == 32
    listeners.listen(2)
    assert listeners.listening == 3
    clients += [socket.create_connection(("127.0.0.1", port_of(listeners))) for _ in range(64)]
    counts = [accepted(listeners.slot(index)[0]) for index in range(3)]
    assert sum(counts) == 64 and counts[2] > 0
    for client in clients:
        client.close()


@linux
def test_spare_listener_listens_in_a_process_that_has_inherited_it(opening: Callable[..., Listeners]) -> None:
    """The reason for binding spare ones beforehand: a running worker needs no message to get it."""
    listeners = opening(LOCAL, slots=1, spare=1)
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        listener = listeners.slot(1)[0]
        listener.settimeout(10)
        deadline = time.monotonic() + 10
        while not listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) and time.monotonic() < deadline:
            time.sleep(0.01)
        os.write(write, b"1" if listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) else b"0")
        os._exit(0)
    listeners.listen(1)
    assert os.read(read, 1) == b"1"
    os.waitpid(pid, 0)
    os.close(read)
    os.close(write)


@linux
@pytest.mark.parametrize("wanted", [1, 2, 4])
def test_inherited_slots_keep_their_queues(opening: Callable[..., Listeners], wanted: int) -> None:
    """A successor with fewer or more slots has all queues of its predecessor, with who waits there."""
    old = opening(LOCAL, slots=3, spare=1)
    clients = [socket.create_connection(("127.0.0.1", port_of(old))) for _ in range(24)]
    copies = [[os.dup(listener.fileno()) for listener in old.slot(index)] for index in range(len(old))]
    new = Listeners.inherited(copies, addresses=old.addresses, wanted=wanted, spare=2)
    old.close()
    try:
        assert new.listening == max(3, wanted) and len(new) == max(4, wanted + 2)
        assert sum(accepted(new.slot(index)[0]) for index in range(new.listening)) == 24
        clients.append(socket.create_connection(("127.0.0.1", port_of(new))))
    finally:
        new.close()
        for client in clients:
            client.close()


def test_one_inherited_socket_is_shared_by_all(opening: Callable[..., Listeners]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as given:
        port = given.getsockname()[1]
        listeners = Listeners.inherited([[given.detach()]], wanted=3, spare=2)
        try:
            assert listeners.addresses == [TcpAddress("127.0.0.1", port)]
            assert len({id(listeners.slot(index)[0]) for index in range(5)}) == 1
            assert not os.get_inheritable(listeners.slot(0)[0].fileno())
        finally:
            listeners.close()


def test_inherited_descriptor_must_be_a_socket_to_listen_on(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w") as file, pytest.raises(ConfigError, match="is no socket"):
        Listeners.inherited([[os.dup(file.fileno())]])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams, pytest.raises(ConfigError, match="no stream"):
        Listeners.inherited([[datagrams.fileno()]])
    one, other = socket.socketpair()
    with one, other, pytest.raises(ConfigError, match="no stream"):
        Listeners.inherited([[one.fileno()]])
    with pytest.raises(ConfigError, match="descriptor 999 is no socket"):
        Listeners.inherited([[999]])


# ------------------------------------------------------------------------------------------------------- addresses


def test_port_0_is_one_number_for_all_slots_and_families(opening: Callable[..., Listeners]) -> None:
    listeners = opening(TcpAddress("", 0), slots=2)
    ports = {listener.getsockname()[1] for slot in (0, 1) for listener in listeners.slot(slot)}
    assert ports == {port_of(listeners)} and 0 not in ports


def test_ipv6_and_ipv4_may_have_the_same_port(opening: Callable[..., Listeners]) -> None:
    if not socket.has_ipv6:
        pytest.skip("no IPv6")
    first = opening(TcpAddress("::1", 0), slots=2)
    opening(TcpAddress("127.0.0.1", port_of(first)), slots=2)
    every = opening(TcpAddress("", 0))
    assert {listener.family for listener in every.slot(0)} == {socket.AF_INET, socket.AF_INET6}


def test_name_stands_for_what_it_resolves_to(opening: Callable[..., Listeners]) -> None:
    listeners = opening(TcpAddress("localhost", 0))
    assert str(listeners.addresses[0]) == f"localhost:{port_of(listeners)}"
    socket.create_connection(("127.0.0.1", port_of(listeners))).close()


def test_several_addresses_or_none_of_them(opening: Callable[..., Listeners], tmp_path: Path) -> None:
    taken = TcpAddress("127.0.0.1", port_of(opening(LOCAL)))
    path = tmp_path / "s"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free = TcpAddress("127.0.0.1", probe.getsockname()[1])
    assert "in use" in refused(free, UnixAddress(str(path)), taken)
    assert not path.exists()
    opening(free)


@pytest.mark.parametrize(
    ("address", "text"),
    [
        (TcpAddress("192.0.2.1", 0), "it is no address of this machine"),
        (TcpAddress("no.such.host.invalid", 80), "'no.such.host.invalid' is no known host"),
        (TcpAddress("a" * 70, 80), "is no known host"),
        (UnixAddress("/no/such/folder/s"), "there is no such folder"),
        (UnixAddress("/dev/null/s"), "its folder is no folder"),
    ],
)
def test_what_cannot_be_bound_says_why(address: Address, text: str) -> None:
    assert text in refused(address)


# ------------------------------------------------------------------------------------------------------------ Unix


@pytest.fixture
def unix(tmp_path: Path) -> UnixAddress:
    return UnixAddress(str(tmp_path / "s"))


def test_unix_socket_serves_all_slots_and_is_removed(opening: Callable[..., Listeners], unix: UnixAddress) -> None:
    listeners = opening(unix, slots=2)
    assert listeners.slot(0) == listeners.slot(1) and listeners.addresses == [unix]
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(unix.path)
    listeners.close()
    assert not os.path.lexists(unix.path)


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666])
def test_unix_socket_has_the_mode_asked_for(
    opening: Callable[..., Listeners], unix: UnixAddress, mode: int, umask: int
) -> None:
    before = os.umask(umask)
    try:
        opening(unix, uds_permissions=mode)
    finally:
        os.umask(before)
    assert stat.S_IMODE(os.lstat(unix.path).st_mode) == mode


@linux
def test_unix_socket_is_never_wider_than_asked_for(unix: UnixAddress, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    real = os.lstat

    def watched(path: str) -> os.stat_result:
        found = real(path)
        seen.append(stat.S_IMODE(found.st_mode))
        return found

    monkeypatch.setattr(os, "lstat", watched)
    before = os.umask(0)
    try:
        Listeners([unix]).close()
    finally:
        os.umask(before)
    assert seen and set(seen) == {0o600}


def test_stale_unix_socket_is_replaced(opening: Callable[..., Listeners], unix: UnixAddress) -> None:
    with socket.socket(socket.AF_UNIX) as old:
        old.bind(unix.path)
        old.listen()
    opening(unix)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(unix.path)


def test_unix_socket_in_use_is_refused(opening: Callable[..., Listeners], unix: UnixAddress) -> None:
    opening(unix)
    assert refused(unix) == f"cannot listen on {unix}: the address is already in use"
    assert os.path.lexists(unix.path)


def test_unix_socket_with_a_full_queue_is_in_use(unix: UnixAddress) -> None:
    with ExitStack() as stack:
        busy = stack.enter_context(socket.socket(socket.AF_UNIX))
        busy.bind(unix.path)
        busy.listen(0)
        for _ in range(4):
            client = stack.enter_context(socket.socket(socket.AF_UNIX))
            client.setblocking(False)
            try:
                client.connect(unix.path)
            except BlockingIOError:
                break
        assert "in use" in refused(unix)


def test_file_is_never_touched(unix: UnixAddress, tmp_path: Path) -> None:
    Path(unix.path).write_text("precious")
    assert "no socket; it was not touched" in refused(unix)
    assert Path(unix.path).read_text() == "precious"
    link = tmp_path / "link"
    link.symlink_to(unix.path)
    assert "it was not touched" in refused(UnixAddress(str(link)))
    folder = tmp_path / "folder"
    folder.mkdir()
    assert "it was not touched" in refused(UnixAddress(str(folder)))


def test_socket_of_another_kind_is_not_touched(unix: UnixAddress) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(unix.path)
        assert "another kind" in refused(unix)
        assert os.path.lexists(unix.path)


def test_socket_that_somebody_has_replaced_is_not_removed(unix: UnixAddress) -> None:
    first = Listeners([unix])
    os.unlink(unix.path)
    second = Listeners([unix])
    first.close()
    assert os.path.lexists(unix.path)
    second.close()
    assert not os.path.lexists(unix.path)


def test_forked_child_does_not_remove_the_socket(opening: Callable[..., Listeners], unix: UnixAddress) -> None:
    listeners = opening(unix)
    pid = os.fork()
    if pid == 0:
        listeners.close()
        os._exit(0)
    os.waitpid(pid, 0)
    assert os.path.lexists(unix.path)


def test_of_servers_started_over_a_stale_socket_at_the_same_instant_exactly_one_runs(tmp_path: Path) -> None:
    kept: list[Listeners] = []

    def attempt(number: int) -> int:
        address = UnixAddress(str(tmp_path / str(number)))
        with socket.socket(socket.AF_UNIX) as old:
            old.bind(address.path)

        def start(_index: int) -> bool:
            try:
                kept.append(Listeners([address]))
            except ConfigError:
                return False
            return True

        return simultaneously(3, start)

    assert [attempt(number) for number in range(20)] == [1] * 20
