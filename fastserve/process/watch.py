"""watch: who cannot take what waits in its queue, and whose loop hangs. The supervisor looks; workers do not watch.

Room: floor 3. Called by: supervisor.py, in every turn of its loop. Calls: child, sockets, protocol (Board).

Queues. Each slot has an accept queue of its own, so a client whom the kernel gave to a blocked, dead or starting worker
would wait for that worker. All workers hold all listeners; when a queue is not taken it is lent to two siblings, those
with the fewest connections whose loops turn, and taken back a second after the owner is at hand again, or at once when the
slot has a new worker. Two, not all: one connection would wake every worker of a large machine. A slot without a worker is
lent for as long as it has none. A listener that all slots share is in the queue of the first one.
A queue "is not taken" if something waited at two looks in a row and its owner accepted nothing between them; or at the
first look if the owner does not answer. We look every 50 ms, and 10 ms after something was seen waiting.

Loops. An idle worker sleeps, so age alone says nothing: each is pinged every second, and one that does not answer is in a
callback. WSGI handlers and plain functions run in threads and hold up nobody's loop.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import socket
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from fastserve.process.child import Child, Slot, State
from fastserve.process.sockets import Listeners
from fastserve.protocol import Board, SeatState

__all__ = ["LOOK_IDLE", "LOOK_SOON", "Queues", "cpu_seconds", "rss_bytes", "stuck_seconds"]

logger = logging.getLogger("fastserve")

LOOK_IDLE = 0.05  # seconds between looks at the queues
LOOK_SOON = 0.01  # the same, while something waits
HELPERS = 2
TAKE_BACK = 1.0  # seconds that an owner is at hand again before its queue is its own


@dataclass
class Queue:
    """The listeners of one slot, as they were at the last look."""

    sockets: list[socket.socket]
    waited: bool = False
    accepts: int = -1
    helpers: dict[int, int] = field(default_factory=dict)  # seat -> pid of who takes from it as well
    calm_at: float = 0.0  # since when its owner needs no help; 0: it does


class Queues:
    """Lends what is not taken."""

    def __init__(self, board: Board, listeners: Listeners) -> None:
        self._board = board
        self._listeners = listeners
        self._queues: list[Queue] = []
        self._poll = select.poll()
        self._calm = False  # at the last look nothing waited and nothing was lent

    def look(self, slots: list[Slot], now: float) -> float:
        """One look at every queue. Returns the seconds until the next."""
        self._follow()
        if len(self._queues) < 2:
            return LOOK_IDLE * 4
        waiting = {descriptor for descriptor, events in self._poll.poll(0) if events & select.POLLIN}
        if not waiting and self._calm and all(slot.serves for slot in slots[: len(self._queues)]):
            return LOOK_IDLE  # nothing waits, nothing is lent, nobody is missing: nearly always
        soon = False
        self._calm = True
        for slot, queue in zip(slots, self._queues, strict=False):
            waits = any(listener.fileno() in waiting for listener in queue.sockets)
            soon = soon or waits
            if queue.helpers:
                queue.helpers = {seat: pid for seat, pid in queue.helpers.items() if self._serves(seat, pid)}
            owner = slot.current if slot.serves else None
            if owner is None:
                queue.accepts, queue.calm_at = -1, 0.0
                self._lend(slot, queue)
            else:
                self._judge(slot, queue, owner, waits, now)
            queue.waited = waits
            self._calm = self._calm and not waits and not queue.helpers
        return LOOK_SOON if soon else LOOK_IDLE

    def _judge(self, slot: Slot, queue: Queue, owner: Child, waits: bool, now: float) -> None:
        seat = self._board[owner.seat]
        accepts = seat.accepts
        if waits and ((queue.waited and accepts == queue.accepts) or not seat.responsive):
            self._board.ping(owner.seat)
            queue.calm_at = 0.0
            self._lend(slot, queue)
        elif queue.helpers:
            if waits or not seat.answers:
                queue.calm_at = 0.0
            elif queue.calm_at == 0.0:
                queue.calm_at = now
            elif now - queue.calm_at >= TAKE_BACK:
                self._take_back(slot.index, queue)
        queue.accepts = accepts

    def has_worker(self, index: int) -> None:
        """This slot has a new worker, which accepts: at once, for helpers take what comes whatever their share."""
        if index < len(self._queues):
            self._take_back(index, self._queues[index])

    def _take_back(self, index: int, queue: Queue) -> None:
        for helper, pid in queue.helpers.items():
            if self._serves(helper, pid):
                self._board.drop(helper, index)
        queue.helpers.clear()

    def _serves(self, seat: int, pid: int) -> bool:
        found = self._board[seat]
        return found.pid == pid and found.state == SeatState.READY

    def _lend(self, slot: Slot, queue: Queue) -> None:
        """Have two siblings that are at hand take from this queue. Those that were asked before and hang are no help."""
        able = sum(self._board[seat].responsive for seat in queue.helpers)
        if able >= HELPERS:
            return
        found = []
        for index in range(len(self._board)):
            seat = self._board[index]
            if index not in queue.helpers and seat.slot != slot.index and seat.responsive:
                found.append((seat.connections, index, seat.pid))
        for _, index, pid in sorted(found)[: HELPERS - able]:
            self._board.adopt(index, slot.index)
            queue.helpers[index] = pid

    def _follow(self) -> None:
        """Slots that listen by now. There may be more than have workers: a removed one listens on."""
        while len(self._queues) < self._listeners.listening:
            first = self._listeners.slot(0) if self._queues else []
            row = self._listeners.slot(len(self._queues))
            queue = Queue([listener for listener in row if not any(listener is other for other in first)])
            self._queues.append(queue)
            for listener in queue.sockets:
                self._poll.register(listener, select.POLLIN)


# ----------------------------------------------------------------------------------------------------- one process


def stuck_seconds(board: Board, child: Child, now_ns: int) -> float:
    """For how long the loop of this worker has not answered; 0: it answers. One that starts or stops is not watched.

    Nor is one that has never answered: where there is no epoll, or with a loop without add_reader(), nobody hears pings.
    """
    if child.state not in (State.READY, State.RETIRING):
        return 0.0
    seat = board[child.seat]
    return 0.0 if seat.answers or not seat.turned_ns else max(0.0, (now_ns - seat.poked_ns) / 1e9)


def cpu_seconds(pid: int) -> float | None:
    """Time that the main thread, which runs the loop, has run or waited for a processor. None where /proc cannot tell.

    On a crowded machine a loop that computes gets little of a processor, but wants it all the time (proc_pid_schedstat).
    """
    task = Path(f"/proc/{pid}/task/{pid}")
    with contextlib.suppress(OSError, ValueError, IndexError):
        ran, waited = (task / "schedstat").read_text().split()[:2]
        return (int(ran) + int(waited)) / 1e9
    with contextlib.suppress(OSError, ValueError, IndexError):  # a kernel without CONFIG_SCHED_INFO
        fields = (task / "stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return None


def rss_bytes(pid: int) -> int:
    """Resident memory. 0 where /proc cannot tell."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0


def flights(requests: Iterable[tuple[str, float]]) -> str:
    """Requests in flight, in words: the oldest, and how many more."""
    listed = list(requests)
    shown = ", ".join(f"{text} since {seconds:.1f} s" for text, seconds in listed[:5])
    more = f" and {len(listed) - 5} more" if len(listed) > 5 else ""
    return f"{shown}{more}" if listed else "no request"
