"""sockets: listeners for TCP and Unix addresses, one per worker slot where the kernel can share a port.

Room: floor 3. Called by: worker.py and server.py (one slot), supervisor.py (a slot per worker), upgrade.py (hands them to
a new supervisor). Calls: config, errors.

Ownership. The supervisor opens every listener before its first fork and keeps it as long as it lives; workers inherit all
of them. So a connection that waits in a listener's accept queue survives the worker that was to take it: the next worker
of the slot, or a sibling, accepts from the same queue. Closing a listener of a SO_REUSEPORT group would reset what waits
there, so none is ever closed while the server lives, not even when its slot is removed.

Spare slots. A listener that is opened later would have to be sent to every running worker. So listeners for slots that
may be added later are bound beforehand and do not listen: such a socket is in nobody's way, and the kernel gives it no
connection. When the supervisor says listen() the socket listens in every process that holds it, for they hold the same
one. The number of slots is bounded in any case: the Board is one mapping, made before the first fork.

Exclusivity. SO_REUSEPORT lets several workers listen on one port, and would let a second server in beside us unseen.
So the first listener of an address is bound and made to listen *without* it: listen() is where the kernel decides that
nobody else listens there. Of two that ask at the same instant it never takes both, but it may refuse both, because each
counts as listening while it is judged: so who is refused there, and not when it binds, asks again. Only then is the
option set on it, and its siblings join the group. Setting the option between bind() and listen() would leave a gap: with
SO_REUSEADDR (which a restart needs, or TIME_WAIT refuses the bind) two servers can both be bound, both set the option,
and then both listen. tests/process/test_sockets.py shows either order.
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
import socket
import stat
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

from fastserve.errors import ConfigError
from fastserve.process.config import Address, TcpAddress, UnixAddress

__all__ = ["Listeners"]

Place = tuple[socket.AddressFamily, tuple[Any, ...]]  # what getaddrinfo gives and bind takes

LISTEN_TRIES = 5
LISTEN_PAUSE = 0.01  # seconds at most between two: a while that another one does not choose, too

# Elsewhere the option exists but does not spread connections (BSD, macOS): there the workers share one listener.
REUSE_PORT = sys.platform == "linux" and hasattr(socket, "SO_REUSEPORT")


class Listeners:
    """All listening sockets of a server, by worker slot. Who opened them removes the Unix sockets; a fork does not.

    `slots` of them listen; `spare` more are bound, for `listen(index)` later. Unix sockets belong to `owner`, user and
    group (-1: ours): those of the workers, as in gunicorn.
    """

    def __init__(
        self,
        addresses: Sequence[Address],
        *,
        slots: int = 1,
        spare: int = 0,
        backlog: int = 2048,
        uds_permissions: int = 0o600,
        owner: tuple[int, int] = (-1, -1),
    ) -> None:
        self.addresses: list[Address] = []  # as bound: port 0 is now a number
        self._slots: list[list[socket.socket]] = [[] for _ in range(slots + spare)]
        self._listening = slots
        self._backlog = backlog
        self._paths: list[tuple[str, int, int]] = []  # Unix sockets we made: path, device, inode
        self._owner = os.getpid()
        try:
            for address in addresses:
                if isinstance(address, UnixAddress):
                    self._open_unix(address, backlog, uds_permissions, owner)
                else:
                    self._open_tcp(address, backlog)
        except BaseException:
            self.close()
            raise

    @classmethod
    def inherited(
        cls,
        slots: Sequence[Sequence[int]],
        *,
        addresses: Sequence[Address] = (),
        paths: Sequence[tuple[str, int, int]] = (),
        wanted: int = 1,
        spare: int = 0,
        backlog: int = 2048,
    ) -> Listeners:
        """From descriptors that somebody else has opened: systemd, or the supervisor before us.

        `slots` has the descriptors of each slot; there is at least one slot. `wanted` slots will have a worker. A slot
        that is missing gets a listener of its own where the first one's can be joined, else it shares the first one's.
        `addresses` as the predecessor knew them; if there are none the sockets are asked.
        """
        found = cls((), slots=0, backlog=backlog)
        opened: dict[int, socket.socket] = {}
        try:
            for descriptors in slots:
                for descriptor in descriptors:
                    if descriptor not in opened:
                        opened[descriptor] = _take_over(descriptor)
                found._slots.append([opened[descriptor] for descriptor in descriptors])
            first = found._slots[0]
            for _ in range(len(found._slots), wanted + spare):
                found._slots.append([_join(listener, found._group(place)) for place, listener in enumerate(first)])
            for index, row in enumerate(found._slots):
                if index < wanted or all(_listens(listener) for listener in row):
                    found.listen(index)
        except OSError as error:
            found.close()
            raise ConfigError(f"cannot use an inherited socket: {error.strerror}", exit_code=3) from None
        except BaseException:
            found.close()
            raise
        found.addresses = list(addresses) or [_address_of(listener) for listener in found._slots[0]]
        found._paths = [(path, device, inode) for path, device, inode in paths]
        return found

    def _group(self, place: int) -> bool:
        """Is there a listener of its own for every slot at this place, in a SO_REUSEPORT group that others may join?"""
        return len(self._slots) > 1 and self._slots[1][place] is not self._slots[0][place]

    def __len__(self) -> int:
        """Slots, with spare ones."""
        return len(self._slots)

    @property
    def paths(self) -> list[tuple[str, int, int]]:
        """Unix sockets that we made: path, device, inode."""
        return list(self._paths)

    @property
    def listening(self) -> int:
        """Slots whose listeners listen; they stay so."""
        return self._listening

    def slot(self, index: int) -> list[socket.socket]:
        """The listeners of one worker."""
        return self._slots[index]

    def by_slot(self) -> list[list[socket.socket]]:
        """All of them. A worker knows its siblings' listeners, to take what waits there when one of them cannot."""
        return self._slots

    def listen(self, index: int) -> None:
        """Have a spare slot's listeners listen, here and in every process that has inherited them. Raises OSError."""
        for listener in self._slots[index]:
            listener.listen(self._backlog)
        self._listening = max(self._listening, index + 1)

    def disown(self) -> None:
        """Leave the Unix sockets where they are when we close: another server has them now."""
        self._paths = []

    def close(self) -> None:
        """Close every listener and remove our Unix sockets, if they are still the ones we made."""
        for listener in self._all():
            listener.close()
        self._slots = [[] for _ in self._slots]
        if os.getpid() == self._owner:
            for path, device, inode in self._paths:
                with contextlib.suppress(OSError):
                    found = os.lstat(path)
                    if (found.st_dev, found.st_ino) == (device, inode):
                        os.unlink(path)
        self._paths = []

    def _all(self) -> list[socket.socket]:
        return list({id(listener): listener for slot in self._slots for listener in slot}.values())

    # ---------------------------------------------------------------------------------------------------- TCP

    def _open_tcp(self, address: TcpAddress, backlog: int) -> None:
        places = _resolve(address)
        attempts = 10 if address.port == 0 and len(places) > 1 else 1
        while True:
            attempts -= 1
            opened: list[list[socket.socket]] = []
            try:
                self._open_places(address, places, backlog, opened)
            except OSError as error:
                for group in opened:
                    for listener in group:
                        listener.close()
                if attempts and error.errno == errno.EADDRINUSE:
                    continue  # the port the kernel chose for IPv4 is taken for IPv6: choose again
                raise _refusal(address, error) from None
            break
        self.addresses.append(TcpAddress(address.host, opened[0][0].getsockname()[1]))
        for group in opened:
            for index, slot in enumerate(self._slots):
                slot.append(group[index % len(group)])

    def _open_places(
        self,
        address: TcpAddress,
        places: list[Place],
        backlog: int,
        opened: list[list[socket.socket]],
    ) -> None:
        """A group of listeners per place. A name may stand for a family this machine lacks: one that works will do."""
        port = address.port
        missing: OSError | None = None
        for family, place in places:
            group: list[socket.socket] = []
            opened.append(group)
            try:
                first = _bind(family, (place[0], port, *place[2:]), group, reuse_port=False)
                _listen_alone(first, backlog)
                port = first.getsockname()[1]
                if REUSE_PORT and len(self._slots) > 1:
                    first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                    for index in range(1, len(self._slots)):
                        other = _bind(family, first.getsockname(), group, reuse_port=True)
                        if index < self._listening:
                            other.listen(backlog)
            except OSError as error:
                if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT) or len(places) == 1:
                    raise
                for listener in group:
                    listener.close()
                opened.remove(group)
                missing = error
        if not opened and missing is not None:
            raise missing

    # --------------------------------------------------------------------------------------------------- Unix

    def _open_unix(self, address: UnixAddress, backlog: int, permissions: int, owner: tuple[int, int]) -> None:
        """One listener for all workers. Its mode is `permissions` from its first moment; a stale socket is replaced."""
        path = address.path
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with _folder_lock(os.path.dirname(path) or "."):
                _clear_stale(address)
                with contextlib.suppress(OSError):  # Linux gives the file the mode of the descriptor, less the umask
                    os.fchmod(listener.fileno(), permissions)
                listener.bind(path)
                made = os.lstat(path)
                self._paths.append((path, made.st_dev, made.st_ino))
                if stat.S_IMODE(made.st_mode) != permissions:
                    os.chmod(path, permissions)
                if owner != (-1, -1):
                    _give(path, owner)
                listener.listen(backlog)
                listener.setblocking(False)
        except OSError as error:
            listener.close()
            raise _refusal(address, error) from None
        except BaseException:
            listener.close()
            raise
        self.addresses.append(address)
        for slot in self._slots:
            slot.append(listener)


def _resolve(address: TcpAddress) -> list[Place]:
    try:
        found = socket.getaddrinfo(
            address.host or None,
            address.port,
            type=socket.SOCK_STREAM,
            proto=socket.IPPROTO_TCP,
            flags=socket.AI_PASSIVE,
        )
    except (socket.gaierror, UnicodeError):
        raise ConfigError(f"cannot listen on {address}: {address.host!r} is no known host", exit_code=3) from None
    places: list[Place] = list(dict.fromkeys((family, place) for family, _, _, _, place in found))
    return sorted(places, key=lambda place: place[0] != socket.AF_INET)


def _listen_alone(listener: socket.socket, backlog: int) -> None:
    """Where the kernel refuses a second server. OSError (EADDRINUSE): there is one, not only one that asks as well."""
    for left in reversed(range(LISTEN_TRIES)):
        try:
            listener.listen(backlog)
            return
        except OSError as error:
            if error.errno != errno.EADDRINUSE or not left:
                raise
        time.sleep(random.uniform(0, LISTEN_PAUSE))


def _bind(
    family: socket.AddressFamily, place: tuple[str | int, ...], group: list[socket.socket], *, reuse_port: bool
) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    group.append(listener)
    listener.setblocking(False)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)  # [::]:80 is IPv6; :80 is both
    if reuse_port:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind(place)
    return listener


def _take_over(descriptor: int) -> socket.socket:
    """A descriptor that should be a stream socket with an address, as one of ours."""
    try:
        listener = socket.socket(fileno=descriptor)
    except OSError as error:
        raise ConfigError(f"descriptor {descriptor} is no socket ({error.strerror})", exit_code=3) from None
    known = listener.family in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX)
    if not known or listener.type != socket.SOCK_STREAM or _connected(listener):
        listener.detach()
        raise ConfigError(f"descriptor {descriptor} is no stream socket that clients can connect to", exit_code=3)
    os.set_inheritable(descriptor, False)
    listener.setblocking(False)
    return listener


def _connected(sock: socket.socket) -> bool:
    try:
        sock.getpeername()
    except OSError:
        return False
    return True


def _listens(listener: socket.socket) -> bool:
    return bool(listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))


def _join(first: socket.socket, grows: bool) -> socket.socket:
    """A further listener of the group of `first`, bound and not listening; `first` itself if it is in no such group."""
    if not (grows and REUSE_PORT and first.family != socket.AF_UNIX):
        return first
    return _bind(first.family, first.getsockname(), [], reuse_port=True)


def _address_of(listener: socket.socket) -> Address:
    name = listener.getsockname()
    if listener.family == socket.AF_UNIX:
        return UnixAddress(os.fsdecode(name) or "(unnamed)")
    return TcpAddress(name[0], name[1])


def _give(path: str, owner: tuple[int, int]) -> None:
    """Change who owns a Unix socket. The folder may be the new owner's already, who could have put a link to a file of
    ours in its place: so what is changed is looked at first, and held meanwhile."""
    if not hasattr(os, "O_PATH"):
        os.chown(path, *owner, follow_symlinks=False)
        return
    descriptor = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
        os.chown(f"/proc/self/fd/{descriptor}", *owner)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _folder_lock(folder: str) -> Iterator[None]:
    """Of two servers started at once, one looks and binds at a time. A lock on the folder itself: no file is left."""
    import fcntl

    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for _ in range(200):  # somebody may hold it for reasons of their own: then go on without, after 2 s
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                time.sleep(0.01)
        yield
    finally:
        os.close(descriptor)


def _clear_stale(address: UnixAddress) -> None:
    try:
        found = os.lstat(address.path)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise ConfigError(
            f"cannot listen on {address}: there is a file that is no socket; it was not touched", exit_code=3
        )
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(address.path)
        except (ConnectionRefusedError, FileNotFoundError):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(address.path)
            return
        except OSError as error:
            if error.errno == errno.EPROTOTYPE:  # a socket of another kind, such as syslog's
                raise ConfigError(
                    f"cannot listen on {address}: there is a socket of another kind", exit_code=3
                ) from None
            if error.errno not in (errno.EAGAIN, errno.EINPROGRESS):
                raise
    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))


def _refusal(address: Address, error: OSError) -> ConfigError:
    reasons = {
        errno.EADDRINUSE: "the address is already in use",
        errno.EADDRNOTAVAIL: "it is no address of this machine",
        errno.EAFNOSUPPORT: "this machine has no such address family",
        errno.ENOENT: "there is no such folder",
        errno.ENOTDIR: "its folder is no folder",
        errno.EACCES: "permission denied",
    }
    reason = reasons.get(error.errno or 0) or error.strerror or str(error)
    if error.errno == errno.EACCES and isinstance(address, TcpAddress) and 0 < address.port < 1024:
        reason += " (a port below 1024 needs root or CAP_NET_BIND_SERVICE)"
    return ConfigError(f"cannot listen on {address}: {reason}", exit_code=3)
