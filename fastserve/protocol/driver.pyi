"""Types of driver.pyx."""

from asyncio import AbstractEventLoop
from collections.abc import Sequence
from socket import socket

from fastserve.protocol.board import Board
from fastserve.protocol.wire import Polled, Wire

class Host: ...

class Driver:
    def __new__(
        cls,
        loop: AbstractEventLoop,
        host: Host,
        board: Board | None = None,
        index: int = 0,
        *,
        own_wire: bool = True,
        tls: object = None,
    ) -> Driver: ...
    @property
    def fd(self) -> int: ...
    def listen(self, by_slot: Sequence[Sequence[socket]], slot: int, *, stamps: bool = False) -> None: ...
    def unlisten(self) -> None: ...
    def close(self) -> None: ...

class Listener(Polled): ...
class Waker(Polled): ...
class SocketWire(Wire): ...
