"""talk: lines of JSON between the supervisor, its workers and its zygote, over a socket pair.

Room: floor 3. Called by: supervisor.py, zygote.py, worker.py. Calls: nothing of ours.

One object in a line. What is no JSON is kept as last words: a worker's faulthandler writes there when it crashes. Both
sides learn by the end of the stream that the other is gone. Descriptors may travel with a line (SCM_RIGHTS).
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Sequence
from typing import Any

__all__ = ["Talk"]

LINE_BYTES_MAX = 1 << 20
DETAILS_MAX = 65536  # characters of a traceback: the last ones tell most
WORDS_MAX = 400  # lines


class Talk:
    """One end. `say` never waits on the supervisor's end, where `waits` is false: a worker that hangs does not read."""

    def __init__(self, sock: socket.socket, *, waits: bool) -> None:
        self.socket = sock
        sock.setblocking(waits)
        self.words: list[str] = []  # lines that were no JSON
        self.ended = False
        self._inbox = bytearray()
        self._turn = threading.Lock()

    @classmethod
    def pair(cls) -> tuple[Talk, Talk]:
        """The supervisor's end and the other one."""
        ours, theirs = socket.socketpair()
        return cls(ours, waits=False), cls(theirs, waits=True)

    @classmethod
    def of_descriptor(cls, descriptor: int) -> Talk:
        """The end that a worker was sent."""
        return cls(socket.socket(fileno=descriptor), waits=True)

    def fileno(self) -> int:
        return self.socket.fileno()

    def say(self, message: dict[str, Any], descriptors: Sequence[int] = ()) -> bool:
        """Was it taken? Threads take turns."""
        line = json.dumps(message).encode() + b"\n"
        with self._turn, contextlib.suppress(OSError):
            if descriptors:
                return socket.send_fds(self.socket, [line], list(descriptors)) == len(line)
            if self.socket.gettimeout() is None:
                self.socket.sendall(line)
                return True
            return self.socket.send(line) == len(line)
        return False

    def hear(self) -> list[dict[str, Any]]:
        """What has come by now, without waiting. Afterwards `ended` tells whether the other side is gone."""
        while not self.ended:
            try:
                data = self.socket.recv(65536, socket.MSG_DONTWAIT)
            except BlockingIOError:
                break
            except OSError:
                data = b""
            self.ended = not data
            self._inbox += data
            if len(self._inbox) > LINE_BYTES_MAX:
                del self._inbox[: -LINE_BYTES_MAX // 2]
        return self._lines()

    def wait(self, seconds: float | None = None, room: int = 0) -> tuple[list[dict[str, Any]], list[int]]:
        """At least one message, and the descriptors that came with it; nothing if time is up or the other side is gone."""
        descriptors: list[int] = []
        waited = self.socket.gettimeout()
        self.socket.settimeout(seconds)
        try:
            while not (messages := self._lines()):
                data, found, _, _ = socket.recv_fds(self.socket, 65536, room)
                descriptors += found
                if not data:
                    self.ended = True
                    break
                self._inbox += data
        except TimeoutError:
            messages = []
        except OSError:
            self.ended, messages = True, []
        finally:
            with contextlib.suppress(OSError):
                self.socket.settimeout(waited)
        return messages, descriptors

    def close(self) -> None:
        self.socket.close()

    def _lines(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        *lines, rest = bytes(self._inbox).split(b"\n")
        if not lines:
            return found
        self._inbox[:] = rest
        for line in lines:
            try:
                message = json.loads(line)
            except ValueError:
                message = None
            if isinstance(message, dict):
                found.append(message)
            elif line.strip() and len(self.words) < WORDS_MAX:
                self.words.append(line.decode(errors="replace"))
        return found
