"""supervisor: the parent of the workers. It opens the listeners, forks, watches, replaces, and stops them.

Room: floor 3. Called by: run.py. Calls: sockets, shared, child, talk, watch, blackbox, zygote, systemd, upgrade,
privileges, logfiles, admin, worker (in the child), protocol (Board).

In unicorn's shape: signal handlers only enqueue and wake; `run` is one loop that reaps, takes one signal, maintains, and
sleeps. It never loads the application and has no event loop and no threads, so that forking is safe.

 * Listeners belong to the supervisor, and to a slot each (sockets.py): who waits in a queue waits for the slot.
 * Replacing is always the same: the successor must be ready before its predecessor retires, one slot at a time. HUP does
   it for all slots, a worker that is due (requests, age, memory) for its own. If the successor does not come up the
   predecessor stays.
 * A worker that dies is replaced: the first time at once, then after 1, 2, 4 ... 30 s, until one has lived for 30 s.
 * A worker that cannot start while the server is starting ends the server with its reason and exit code 3. Later, its
   slot is tried again with back-off.
 * A worker that cannot take what waits is helped out, one that hangs is told of and killed (watch.py).
 * TERM, INT: workers finish what they have, within the graceful limit; then, or on a second signal, or on QUIT, they
   are killed. Exit code 0 if nobody had to be killed, else 1.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import logging
import os
import selectors
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from types import FrameType
from typing import NoReturn

from fastserve.errors import ConfigError
from fastserve.process import envfile, logfiles, systemd, upgrade, watch, worker, zygote
from fastserve.process.admin import Admin
from fastserve.process.blackbox import BlackBox
from fastserve.process.child import Child, Slot, State, backoff, cause_of, failure_of
from fastserve.process.config import Address, Config
from fastserve.process.hooks import Hooks
from fastserve.process.importer import ApplicationError
from fastserve.process.patience import AT_ONCE, Patience, stage_of
from fastserve.process.privileges import Identity
from fastserve.process.shared import Shared
from fastserve.process.sockets import Listeners
from fastserve.process.talk import Talk
from fastserve.process.tls import WATCH_SECONDS, Certificates
from fastserve.process.values import count
from fastserve.process.zygote import Zygote
from fastserve.protocol import SeatState

__all__ = ["Supervisor"]

logger = logging.getLogger("fastserve")

SIGNALS = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGHUP,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGTTIN,
    signal.SIGTTOU,
    signal.SIGWINCH,
    signal.SIGCHLD,
)
QUEUE_MAX = 32  # signals that wait; a burst of the same one means no more than a few of it
SETTLED = 30.0  # seconds after which a worker's predecessors are forgiven
WORKERS_MAX = 1024  # slots that the Board can lend
ROUND = 0.25  # seconds between looks at the health and the age of workers
PING = 1.0  # seconds between pings of a loop
STUCK = 30.0  # seconds without an answer until it is told of
STUBBORN = 1.0  # seconds that a process has to end by SIGABRT, before SIGKILL
BOOT_PATIENCE = 30.0  # a release that boots for longer than this gives way to the next HUP
RETRY = 30.0  # seconds until a worker that is due is replaced again, if its successor did not come up
RELOAD = "reload"


class Supervisor:
    """`on_ready(addresses, interface, pids)` is called once, when every worker serves.

    `reread()` gives the configuration anew at HUP, or raises ConfigError. `on_alone()` is called when a successor that was
    started (USR2) has ended, and this is the server again.
    """

    def __init__(
        self,
        config: Config,
        hooks: Hooks,
        on_ready: Callable[[list[Address], str, list[int]], None],
        reread: Callable[[], Config],
        on_alone: Callable[[], None],
    ) -> None:
        self._config = config
        self._hooks = hooks
        self._on_alone = on_alone
        self._on_ready = on_ready
        self._reread = reread
        self._slots: list[Slot] = []
        self._leaving: list[Child] = []  # retiring, beside the slots
        self._queue: deque[int] = deque()
        self._selector = selectors.DefaultSelector()
        self._booted = False  # every worker was ready once
        self._generation = 1
        self._due: dict[int, str] = {}  # slot -> why its worker is to be replaced
        self._retry_at: dict[int, float] = {}
        self._reload_again = False
        self._certificates: Certificates | None = None
        self._certificates_changed = False  # since a zygote may have been made
        self._look_at_files_at = 0.0
        self._kept: Config | None = None  # during a reload: what the old workers were started with
        self._zygote: Zygote | None = None
        self._next_zygote: Zygote | None = None
        self._zygote_at = 0.0
        self._zygote_deaths = 0
        self._admin = Admin(config)
        self._successor = 0  # pid of the supervisor that USR2 has started
        self._resting = False  # after WINCH: no workers
        self._somebody_died = False
        self._round_at = self._ping_at = self._look_at = 0.0
        self._told_at = float("-inf")
        self._drained_at = 0.0  # when the shutdown delay is over
        self._stopping = False
        self._forced = False
        self._failure: ConfigError | None = None
        self._patience = Patience()  # of the start, then of the stop

    def run(self) -> int:
        """Until the last worker is gone. Returns the exit code; raises ConfigError if the server cannot start."""
        self._pid = os.getpid()
        self._notifier = systemd.Notifier(os.environ)
        self._identity = Identity.of(self._config)
        self._prepare_access_log(self._config)
        if self._config.preload:
            zygote.become_subreaper()
        self._open()
        try:
            with self._signals():
                gc.collect()
                gc.freeze()  # what is here now stays shared with the workers
                while True:
                    if self._somebody_died:
                        self._somebody_died = False
                        self._obey_stops()
                        self._reap()
                    if self._stopping and not self._children():
                        break
                    if self._queue:
                        self._obey(self._queue.popleft())
                    else:
                        self._sleep(self._maintain(time.monotonic()))
        finally:
            self._kill(signal.SIGKILL)  # only if we leave by an exception
            self._end_zygotes()
            self._admin.close()  # the last: it answers while the others end
            self._close()
            gc.unfreeze()
        if self._failure is not None:
            raise self._failure
        if not self._forced:
            logger.info("stopped")
        return 1 if self._forced else 0

    # ------------------------------------------------------------------------------------- what stays open for life

    def _open(self) -> None:
        """Listeners, board and lifeline: all before the first fork. A predecessor's or systemd's listeners come first."""
        config = self._config
        self._certificates = Certificates(config) if config.tls else None
        spare = min(max(config.workers, 4), WORKERS_MAX - config.workers)
        self._heritage = upgrade.heritage(os.environ)
        passed = systemd.descriptors(config.descriptors, systemd.listen_fds(os.environ))
        if self._heritage is not None:
            self._listeners = Listeners.inherited(
                self._heritage.slots,
                addresses=self._heritage.addresses,
                paths=self._heritage.paths,
                wanted=config.workers,
                spare=spare,
                backlog=config.backlog,
            )
        elif passed:
            self._listeners = Listeners.inherited([passed], wanted=config.workers, spare=spare, backlog=config.backlog)
        else:
            self._listeners = Listeners(
                config.addresses,
                slots=config.workers,
                spare=spare,
                backlog=config.backlog,
                uds_permissions=config.uds_permissions,
                owner=self._identity.owner,
            )
        try:
            if self._heritage is None:  # else the predecessor may still have the address
                self._admin.open()
        except BaseException:
            self._listeners.close()
            raise
        self._slots = [Slot(index, wanted=index < config.workers) for index in range(len(self._listeners))]
        # A seat for each slot, for those that leave, for one that comes.
        self._shared = Shared(config, len(self._slots) + max(config.workers, 2) + 2)
        self._board = self._shared.board
        self._shared.register(config, list(self._listeners.addresses))
        self._queues = watch.Queues(self._board, self._listeners)
        self._lifeline, self._lifeline_end = os.pipe()

    def _close(self) -> None:
        self._listeners_gone()
        self._shared.close()
        os.close(self._lifeline)
        os.close(self._lifeline_end)

    # ------------------------------------------------------------------------------------------- signals, sleep

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        self._wakeup = socket.socketpair()
        for end in self._wakeup:
            end.setblocking(False)
        self._selector.register(self._wakeup[0], selectors.EVENT_READ)
        fd_before = signal.set_wakeup_fd(self._wakeup[1].fileno(), warn_on_full_buffer=False)
        before = {number: signal.signal(number, self._enqueue) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, signal.SIG_DFL if handler is None else handler)
            signal.set_wakeup_fd(fd_before)
            self._selector.close()
            for end in self._wakeup:
                end.close()

    def _enqueue(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGCHLD:
            self._somebody_died = True
            return
        if number in (signal.SIGTERM, signal.SIGINT):
            now = time.monotonic()
            if now - self._told_at < worker.SAME_SECONDS:
                return
            self._told_at = now
        elif number != signal.SIGQUIT and len(self._queue) >= QUEUE_MAX:
            return
        self._queue.append(number)

    def _sleep(self, until: float) -> None:
        """Until a signal, a word from a child, or the next thing to do."""
        for key, _ in self._selector.select(max(0.0, until - time.monotonic())):
            if isinstance(key.data, Child):
                self._hear(key.data)
            elif isinstance(key.data, Zygote):
                self._hear_zygote(key.data)
            else:
                with contextlib.suppress(BlockingIOError):
                    while self._wakeup[0].recv(4096):
                        pass

    def _obey(self, number: int) -> None:
        name = signal.Signals(number).name
        if number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
            self._told_to_stop(number, name)
        elif self._stopping:
            logger.info("%s: too late, the server is stopping", name)
        elif number == signal.SIGUSR1:
            self._reopen_logs()
        elif not self._booted:
            logger.warning("%s: the server is still starting; it was ignored", name)
        elif number == signal.SIGHUP:
            self._told_to_reload()
        elif number == signal.SIGTTIN:
            self._grow()
        elif number == signal.SIGTTOU:
            self._shrink()
        elif number == signal.SIGUSR2:
            self._upgrade()
        elif number == signal.SIGWINCH and self._successor:  # else it is a terminal that was resized
            self._rest()

    # --------------------------------------------------------------------------------------------------- the turn

    def _children(self) -> list[Child]:
        found = [child for slot in self._slots for child in (slot.current, slot.coming) if child is not None]
        return found + self._leaving

    def _maintain(self, now: float) -> float:
        """Whatever is due. Returns when the next thing is."""
        self._notifier.alive(now)
        self._board.turn()
        self._admin.mind(now, self._fork, self._inheritance, wanted=not self._resting)
        self._kill_the_late(now)
        if self._shared.switched():
            logger.info("the lens was switched to %s", self._shared.mode)
            self._tell_of_lens()
        if self._stopping:
            self._tell_what_stops(now)
            return min([child.deadline for child in self._children()] + [now + 1.0])
        if not self._booted:
            self._tell_what_starts(now)
        if self._drained_at and now >= self._drained_at:
            self._stop(self._config.timeout_graceful_shutdown)
            return now
        self._mind_zygote(now)
        until = now + PING
        if not self._resting and (self._zygote is not None or not self._config.preload):
            for slot in self._slots:
                if slot.wanted and slot.current is None and slot.coming is None:
                    if slot.spawn_at <= now:
                        slot.current = self._spawn(slot)
                    until = min(until, slot.spawn_at) if slot.current is None else until
            self._roll(now)
        if now >= self._round_at:
            self._round_at = now + ROUND
            self._go_round(now)
        if self._certificates is not None and now >= self._look_at_files_at:
            self._look_at_files_at = now + WATCH_SECONDS
            if self._certificates.changed() and self._certificates.reread():
                self._certificates_changed = True
                for each in self._children():
                    self._tell_certificates(each)
        if now >= self._look_at:
            self._look_at = now + self._queues.look(self._slots, now)
        return min(until, self._round_at, self._look_at, self._drained_at or until)

    def _tell_what_starts(self, now: float) -> None:
        """An import or a startup may take as long as it likes, but not in silence."""
        if not (so_far := self._patience.due(now)):
            return
        workers = [slot.current for slot in self._slots if slot.wanted]
        slow = [each for each in workers if each is None or each.state is State.BOOTING]
        loaded = bool(slow) and all(each is not None and each.loaded for each in slow)
        doing = stage_of(self._config.app, loaded)
        of = f", in {len(slow)} of {len(workers)} workers" if len(workers) > 1 else ""
        logger.info("%s%s (%s)", doing, of, so_far)

    def _tell_what_stops(self, now: float) -> None:
        if not (so_far := self._patience.due(now)) or not (left := self._children()):
            return
        seconds = max(0.0, max(child.deadline for child in left) - now)
        most = f"{seconds:.0f} s more at most, {AT_ONCE}"
        logger.info("still stopping: %s to end (%s; %s)", count(len(left), "worker has", "workers have"), so_far, most)

    def _go_round(self, now: float) -> None:
        """Health and age of every worker."""
        ping = now >= self._ping_at
        if ping:
            self._ping_at = now + PING
            self._somebody_died = True  # should a SIGCHLD have been lost
        now_ns = time.monotonic_ns()
        self._admin.publish(self._board, self._listeners, sum(slot.wanted for slot in self._slots))
        for each in self._children():
            if each.state in (State.READY, State.RETIRING):
                self._judge(each, watch.stuck_seconds(self._board, each, now_ns), now)
                if ping and self._board[each.seat].answers:
                    self._board.ping(each.seat)
        for slot in self._slots:
            child = slot.current
            if child is None or child.state is not State.READY or slot.coming is not None or slot.index in self._due:
                continue
            if now >= self._retry_at.get(slot.index, 0.0) and (why := self._due_for(child, now)):
                self._due[slot.index] = why

    # ------------------------------------------------------------------------------------------------ birth

    def _spawn(self, slot: Slot, why: str = "") -> Child | None:
        """A new worker for this slot, from the zygote if there is one. None if it cannot be made now."""
        seat = self._free_seat()
        if seat is None:
            slot.spawn_at = time.monotonic() + 0.1  # those that leave have all seats
            return None
        self._hooks.call("pre_fork", slot=slot.index)
        ours, theirs = Talk.pair()
        ask, testify = Talk.pair()
        child = Child(slot.index, seat, self._generation, self._config, ours, ask, why)
        view = self._board[seat]
        self._board.clear(seat)
        view.slot, view.generation, view.started_ns = slot.index, self._generation, time.monotonic_ns()
        view.state = SeatState.BOOTING
        place = worker.Place(slot.index, seat)
        try:
            if self._zygote is not None:
                child.pid = self._zygote.fork(place, theirs, testify)
            else:
                child.pid = self._fork(lambda: worker.be(self._inheritance(), place, theirs, testify), theirs, testify)
        except OSError as error:
            self._board.clear(seat)
            ours.close()
            ask.close()
            slot.deaths += 1
            wait = max(backoff(slot.deaths), 0.1)
            slot.spawn_at = time.monotonic() + wait
            logger.error("cannot start worker %d: %s; trying again in %.1f s", slot.index, error, wait)
            return None
        finally:
            theirs.close()
            testify.close()
        view.pid = child.pid
        if self._zygote is not None and self._certificates_changed:
            self._tell_certificates(child)
        self._selector.register(ours, selectors.EVENT_READ, child)
        self._selector.register(ask, selectors.EVENT_READ, child)
        logger.debug("%s started", child)
        return child

    def _tell_of_lens(self) -> None:
        for child in self._children():
            child.talk.say({"lens": True})

    def _tell_certificates(self, child: Child) -> None:
        assert self._certificates is not None
        if not child.talk.say({"certificates": self._certificates.as_json()}):
            logger.warning("%s could not be told of the new certificates; HUP replaces it", child)

    def _free_seat(self) -> int | None:
        """An empty seat, or one whose last owner is dead."""
        states = [self._board[index].state for index in range(len(self._board))]
        for wanted in (SeatState.EMPTY, SeatState.DEAD):
            if wanted in states:
                return states.index(wanted)
        return None

    def _inheritance(self) -> worker.Inheritance:
        return worker.Inheritance(
            self._config,
            self._hooks,
            self._listeners,
            self._board,
            self._identity,
            self._lifeline,
            self._pid,
            self._shared.lens,
            self._certificates,
        )

    def _fork(self, become: Callable[[], NoReturn], *ends: Talk) -> int:
        """Fork; the child runs `become` and keeps `ends`. Signals wait while it still has our handlers."""
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(AttributeError, OSError, ValueError):
                stream.flush()
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            pid = os.fork()
            if pid == 0:
                self._leave_behind()
                become()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        return pid

    def _leave_behind(self) -> None:
        """In a child: what is the supervisor's alone."""
        try:
            atexit._clear()  # the parent's farewells are not ours (as in multiprocessing's fork)
            signal.set_wakeup_fd(-1)
            for number in SIGNALS:
                signal.signal(number, signal.SIG_DFL)
            self._queue.clear()
            self._selector.close()
            for end in self._wakeup:
                end.close()
            for child in self._children():
                child.talk.close()
                child.witness.close()
            for found in (self._zygote, self._next_zygote):
                if found is not None:
                    found.talk.close()
            self._admin.leave_behind()
            os.close(self._lifeline_end)
            gc.unfreeze()
        except BaseException:
            os._exit(worker.FORCED)

    # ------------------------------------------------------------------------------------------------ words

    def _hear(self, child: Child) -> None:
        for message in child.talk.hear():
            if "ready" in message and child.state is State.BOOTING:
                self._became_ready(child, str(message["ready"]))
            elif "loaded" in message:
                child.loaded = True
            elif "failed" in message:
                child.failure = failure_of(message)
        for message in child.witness.hear():
            if "stack" in message:
                logger.warning("%s is here:\n%s", child, str(message["stack"]).rstrip())
        for talk in (child.talk, child.witness):
            if talk.ended:  # the worker is dying
                self._hang_up(talk)

    def _hang_up(self, talk: Talk) -> None:
        if talk.fileno() >= 0:
            self._selector.unregister(talk)
            talk.close()

    def _became_ready(self, child: Child, interface: str) -> None:
        child.state, child.interface, child.ready_at = State.READY, interface, time.monotonic()
        self._board[child.seat].state = SeatState.READY
        self._board.ping(child.seat)  # from its first answer on its loop is watched
        if self._drained_at:
            child.talk.say({"drain": True})
        self._queues.has_worker(child.slot)
        slot = self._slots[child.slot]
        if slot.coming is child:
            predecessor, slot.current, slot.coming = slot.current, child, None
            if predecessor is not None:
                logger.info("%s is ready, %s retires (%s)", child, predecessor, child.why)
                self._retire(predecessor)
            else:
                logger.info("%s is ready", child)
        elif self._booted:
            logger.info("%s is ready", child)
        elif all(slot.serves for slot in self._slots if slot.wanted):
            self._booted = True
            pids = [slot.current.pid for slot in self._slots if slot.current is not None]
            self._on_ready(list(self._listeners.addresses), interface, pids)
            self._notifier.ready(self._status())
        if self._booted:
            self._notifier.status(self._status())

    def _status(self) -> str:
        serving = sum(slot.serves for slot in self._slots)
        return f"{serving} of {sum(slot.wanted for slot in self._slots)} workers serve, {len(self._leaving)} retire"

    # ------------------------------------------------------------------------------------------------ replacing

    def _told_to_reload(self) -> None:
        if self._kept is not None:  # one is under way
            hanging = next((slot.coming for slot in self._slots if slot.coming is not None), None)
            if hanging is not None and time.monotonic() - hanging.started_at > BOOT_PATIENCE:
                logger.warning("HUP: %s has not come up; it gives way to the next reload", hanging)
                self._send(hanging, signal.SIGKILL, "it gave way to another reload")
            self._reload_again = True
            logger.info("HUP: another reload follows this one")
            return
        before = self._config
        try:
            config = self._reread()
            self._identity = Identity.of(config)
            self._prepare_access_log(config)
            certificates = Certificates(config) if config.tls else None
        except ConfigError as error:
            logger.error("HUP: the configuration cannot be used, the old one stays: %s", error)
            return
        self._kept, self._config = before, config
        self._certificates = certificates
        self._generation += 1
        self._notifier.reloading()
        number = sum(slot.wanted for slot in self._slots)
        logger.info("HUP: reloading %s, generation %d", count(number, "worker"), self._generation)
        if config.lens_mode != before.lens_mode:  # else one that was switched from outside stays
            self._shared.set_mode(config.lens_mode)
            self._tell_of_lens()
        fixed = ("preload", "addresses", "descriptors", "admin")
        if any(getattr(config, name) != getattr(before, name) for name in fixed):
            logger.warning("HUP: other addresses, and preload, need a restart or an upgrade (USR2)")
        if config.workers != before.workers:
            self._resize(config.workers)
        self._resting = False
        if before.preload:
            self._next_zygote = self._start_zygote()  # new code is loaded there; the workers follow when it is ready
        else:
            self._renew_all()

    def _renew_all(self) -> None:
        for slot in self._slots:
            if slot.wanted and slot.current is not None:
                self._due[slot.index] = RELOAD

    def _roll(self, now: float) -> None:
        """Replace the next worker that is due: one at a time, and never more retiring than there are workers."""
        if any(slot.coming is not None for slot in self._slots):
            return
        bound = max(2, sum(slot.wanted for slot in self._slots))
        while self._due and len(self._leaving) < bound:
            index, why = next(iter(self._due.items()))
            del self._due[index]
            slot = self._slots[index]
            old = slot.current
            if not slot.wanted or old is None or (why == RELOAD and old.generation == self._generation):
                continue  # removed, or died meanwhile: its place is filled anew anyway
            if old.state is State.BOOTING:  # of the old release, and not even up: begin it again
                self._send(old, signal.SIGKILL, "it was still starting when the server was reloaded")
                continue
            slot.coming = self._spawn(slot, why)
            if slot.coming is None:
                self._due[index] = why
            return
        pending = self._next_zygote is not None or RELOAD in self._due.values()
        if self._kept is not None and not pending and all(slot.serves for slot in self._slots if slot.wanted):
            text = f"reloaded, generation {self._generation}"
            if self._leaving:
                text += f"; {count(len(self._leaving), 'worker still retires', 'workers still retire')}"
            self._reload_ended(text)

    def _reload_ended(self, text: str) -> None:
        self._kept = None
        logger.info("%s", text)
        self._notifier.ready(self._status())
        if self._reload_again:
            self._reload_again = False
            self._told_to_reload()

    def _reload_failed(self, what: str, failure: ConfigError | None) -> None:
        """The old release stays."""
        assert self._kept is not None
        self._config = self._kept
        self._due = {index: why for index, why in self._due.items() if why != RELOAD}
        if isinstance(failure, ApplicationError):
            logger.error("%s", failure.details.rstrip())
        logger.error("reload given up, the old workers stay: %s; HUP tries again", what)
        self._reload_ended("the server is as it was before the reload")

    def _retire(self, child: Child) -> None:
        """Its successor serves. It finishes what it has, beside its slot."""
        self._leaving.append(child)
        child.state = State.RETIRING
        self._board[child.seat].state = SeatState.RETIRING
        child.deadline = time.monotonic() + child.config.timeout_graceful_shutdown + 1.0
        if not child.talk.say({"retire": True}):
            self._send(child, signal.SIGTERM)

    def _due_for(self, child: Child, now: float) -> str:
        """Why it is to be replaced; "" if it is not."""
        config = child.config
        served = self._board[child.seat].served
        if served >= child.requests_max:
            return f"{served} requests"
        if now - child.ready_at >= child.age_max:
            return f"{now - child.ready_at:.0f} s old"
        if config.workers_max_rss is not None:
            size = watch.rss_bytes(child.pid)
            if size > config.workers_max_rss:
                return f"{size >> 20} MiB of memory"
        return ""

    # ------------------------------------------------------------------------------------------------ scaling

    def _grow(self) -> None:
        slot = next((slot for slot in self._slots if not slot.wanted), None)
        if slot is None:
            logger.warning("TTIN: %d workers are the most this server can have; start it with more", len(self._slots))
            return
        try:
            if slot.index >= self._listeners.listening:
                self._listeners.listen(slot.index)
        except OSError as error:
            logger.error("TTIN: cannot listen: %s", error.strerror)
            return
        slot.wanted, slot.deaths, slot.spawn_at = True, 0, 0.0
        logger.info("TTIN: %s", count(sum(slot.wanted for slot in self._slots), "worker"))

    def _shrink(self) -> None:
        wanted = [slot for slot in self._slots if slot.wanted]
        if len(wanted) == 1:
            logger.warning("TTOU: there is one worker, and it stays")
            return
        slot = wanted[-1]
        slot.wanted = False
        self._due.pop(slot.index, None)
        logger.info(
            "TTOU: %s; the others serve what the queue of worker %d gets",
            count(len(wanted) - 1, "worker"),
            slot.index,
        )
        self._empty(slot)

    def _empty(self, slot: Slot) -> None:
        """Its worker leaves, without a successor."""
        coming, current = slot.coming, slot.current
        slot.coming = slot.current = None
        for child in (coming, current):
            if child is not None:
                if child.state is State.READY:
                    self._retire(child)
                else:
                    self._leaving.append(child)
                    child.deadline = time.monotonic() + child.config.timeout_graceful_shutdown + 1.0
                    self._send(child, signal.SIGTERM)

    def _resize(self, workers: int) -> None:
        for _ in range(len(self._slots)):
            number = sum(slot.wanted for slot in self._slots)
            if number < min(workers, len(self._slots)):
                self._grow()
            elif number > workers:
                self._shrink()
        if workers > len(self._slots):
            logger.warning("%s need a restart or an upgrade (USR2)", count(workers, "worker"))

    # ------------------------------------------------------------------------------------------------ upgrade, logs

    def _upgrade(self) -> None:
        if self._pid == 1:
            logger.error("USR2: refused, the server is process 1 and its container would end with it; start another")
        elif self._successor:
            logger.warning("USR2: a new server (pid %d) is already running", self._successor)
        elif isinstance(self._config.app, str):
            try:
                self._successor = upgrade.start(
                    self._listeners, {**envfile.real_environment(), **self._notifier.environ}
                )
            except OSError as error:
                logger.error("USR2: cannot start a new server: %s", error.strerror)
                return
            logger.info(
                "USR2: a new server starts (pid %d); WINCH to %d retires its workers, then TERM ends it, or HUP backs out",
                self._successor,
                self._pid,
            )
        else:
            logger.error("USR2: refused, the server was started by a program, not by the command fastserve")

    def _rest(self) -> None:
        logger.info("WINCH: workers retire; the new server (pid %d) serves alone, HUP backs out", self._successor)
        self._resting = True
        self._due.clear()
        for slot in self._slots:
            self._empty(slot)

    def _successor_ended(self, code: int) -> None:
        logger.warning("the new server (pid %d) %s", self._successor, cause_of(code))
        self._successor = 0
        if self._stopping:
            return
        self._notifier.ready(self._status())  # with our MAINPID again
        try:
            self._on_alone()
        except ConfigError as error:
            logger.error("%s", error)
        if self._resting:
            logger.warning("nobody else serves: workers start again")
            self._resting = False

    def _prepare_access_log(self, config: Config) -> None:
        if not config.access_log:
            return
        try:
            logfiles.prepare(config.access_log_file, self._identity.uid, self._identity.gid)
        except OSError as error:
            raise ConfigError(
                f"access-log-file: cannot open {config.access_log_file!r}: {error.strerror}", exit_code=3
            ) from None

    def _reopen_logs(self) -> None:
        count = logfiles.reopen()
        try:
            self._prepare_access_log(self._config)
        except ConfigError as error:
            logger.error("%s", error)
        for child in self._children():
            child.talk.say({"reopen": True})
        logger.info("USR1: log files were opened anew (%d in the supervisor)", count)

    # ------------------------------------------------------------------------------------------------ zygotes

    def _start_zygote(self) -> Zygote | None:
        ours, theirs = Talk.pair()
        try:
            pid = self._fork(lambda: zygote.live(self._inheritance(), theirs), theirs)
        except OSError as error:
            ours.close()
            logger.error("cannot start a zygote: %s", error.strerror)
            return None
        finally:
            theirs.close()
        found = Zygote(pid, ours, self._generation)
        self._selector.register(ours, selectors.EVENT_READ, found)
        return found

    def _mind_zygote(self, now: float) -> None:
        """There is always one, or one that is importing."""
        if self._config.preload and self._zygote is None and self._next_zygote is None and now >= self._zygote_at:
            self._next_zygote = self._start_zygote()
            if self._next_zygote is None:
                self._zygote_at = now + 1.0

    def _hear_zygote(self, found: Zygote) -> None:
        for message in found.talk.hear():
            if "ready" in message and found is self._next_zygote:
                old, self._zygote, self._next_zygote = self._zygote, found, None
                found.ready, self._zygote_deaths = True, 0
                logger.info("%s is ready", found)
                if old is not None:
                    self._hang_up(old.talk)  # it ends; its workers are ours
                if self._kept is not None:
                    self._renew_all()
            elif "failed" in message:
                found.failure = failure_of(message)
        if found.talk.ended:
            self._hang_up(found.talk)

    def _bury_zygote(self, found: Zygote, code: int) -> None:
        self._hear_zygote_out(found)
        if found is self._zygote:
            self._zygote = None
            if not self._stopping:
                logger.error("the %s %s; starting another, its workers serve on", found, cause_of(code))
            return
        self._next_zygote = None
        if self._stopping:
            return
        what = str(found.failure) if found.failure is not None else f"the {found} {cause_of(code)} before it was ready"
        if not self._booted:
            self._failure = found.failure or ConfigError(what, exit_code=worker.CANNOT_START)
            self._stop(0.0)
        elif self._kept is not None:
            self._reload_failed(what, found.failure)
        else:
            self._zygote_deaths += 1
            self._zygote_at = time.monotonic() + max(backoff(self._zygote_deaths + 1), 1.0)
            logger.error("%s; trying again", what)

    def _hear_zygote_out(self, found: Zygote) -> None:
        if found.talk.fileno() >= 0:
            self._hear_zygote(found)
            self._hang_up(found.talk)

    def _end_zygotes(self) -> None:
        for found in (self._zygote, self._next_zygote):
            if found is not None:
                with contextlib.suppress(OSError):
                    os.kill(found.pid, signal.SIGKILL)
                    os.waitpid(found.pid, 0)
                found.talk.close()
        self._zygote = self._next_zygote = None

    # ------------------------------------------------------------------------------------------------ hanging

    def _judge(self, child: Child, stuck: float, now: float) -> None:
        """A loop that does not answer: told of after 30 s, killed after timeout_worker_healthcheck. An application that
        runs on the loop itself, WSGI without threads, has its timeout_request first."""
        limit = child.config.timeout_worker_healthcheck
        patience = child.config.timeout_request if child.interface == "wsgi" and child.config.threads == 0 else 0.0
        limit = max(limit, patience) if limit else 0.0
        if stuck < min(1.0, limit / 4 or 1.0):
            child.reported, child.stuck_at = False, 0.0
            return
        if not child.stuck_at:
            child.stuck_at, child.cpu_at_stuck = now, watch.cpu_seconds(child.pid) or 0.0
        if not child.reported and stuck >= max(patience, min(STUCK, limit / 2) if limit else STUCK):
            child.reported = True
            logger.warning("%s", self._account(child, stuck, now))
            child.witness.say({"stack": True})  # answered by a thread, unless the GIL is held
        if limit and stuck >= limit and not child.killed_for:
            logger.error("%s; killing it", self._account(child, stuck, now))
            logger.warning("%s: the application's shutdown did not run", child)
            self._send(child, signal.SIGABRT, f"its event loop hung for {stuck:.0f} s")  # faulthandler tells where

    def _account(self, child: Child, stuck: float, now: float) -> str:
        seat = self._board[child.seat]
        used, spent = watch.cpu_seconds(child.pid), now - child.stuck_at
        how = "hanging"
        if used is not None and spent > 0:
            how = "burning CPU" if used - child.cpu_at_stuck > spent / 2 else "sleeping in a call"
        doing = seat.doing()
        what = f" in {doing[0]}" if doing is not None and doing[0] else ""
        what += BlackBox(self._shared, child.seat).stalled_at()
        flights = watch.flights(seat.requests())
        return f"{child}: its event loop has not turned for {stuck:.0f} s, {how}{what}; in flight: {flights}"

    def _send(self, child: Child, number: int, why: str = "") -> None:
        if why and not child.killed_for:
            child.killed_for, child.killed_at = why, time.monotonic()
        with contextlib.suppress(ProcessLookupError):
            os.kill(child.pid, number)

    # ---------------------------------------------------------------------------------------------- death and stop

    def _reap(self) -> None:
        """Bury every child that has died. As process 1, or as a subreaper, also strangers, which are nobody else's."""
        for child in self._children():
            if (code := _waited(child.pid)) is not None:
                self._bury(child, code)
        for found in (self._zygote, self._next_zygote):
            if found is not None and (code := _waited(found.pid)) is not None:
                self._bury_zygote(found, code)
        if self._admin.pid and (code := _waited(self._admin.pid)) is not None:
            self._admin.bury(code)
        if self._successor and (code := _waited(self._successor)) is not None:
            self._successor_ended(code)
        if self._pid == 1 or self._config.preload:
            known = {child.pid for child in self._children()} | {self._successor, self._admin.pid}
            known |= {found.pid for found in (self._zygote, self._next_zygote) if found is not None}
            with contextlib.suppress(ChildProcessError):
                while (found_ := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is not None:
                    if found_.si_pid in known:
                        break  # died this instant: the next turn buries it properly
                    os.waitpid(found_.si_pid, os.WNOHANG)

    def _obey_stops(self) -> None:
        """Ctrl-C goes to the whole process group: a worker that it ends while it boots is no boot that failed."""
        while self._queue and self._queue[0] in (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT):
            self._obey(self._queue.popleft())

    def _bury(self, child: Child, code: int) -> None:
        if code in (-signal.SIGINT, -signal.SIGTERM) and not child.was_ready and not self._stopping:
            time.sleep(0.05)  # if it was sent to the group, ours is on its way
            self._obey_stops()
        if child.talk.fileno() >= 0:
            self._hear(child)
        slot = self._slots[child.slot]
        coming = slot.coming is child
        if slot.current is child:
            slot.current = None
        elif coming:
            slot.coming = None
        elif child in self._leaving:
            self._leaving.remove(child)
        self._hang_up(child.talk)
        self._hang_up(child.witness)
        self._board[child.seat].state = SeatState.DEAD
        self._hooks.call("worker_exit", slot=child.slot, pid=child.pid, code=code)
        cause = cause_of(code, child)
        if child.state in (State.RETIRING, State.STOPPING) or not slot.wanted or self._stopping:
            self._gone(child, code, cause)
        elif coming:
            self._could_not_replace(child, slot, cause)
        elif not child.was_ready and not self._booted:
            self._failure = child.failure or ConfigError(
                f"{child} {cause} before it was ready", exit_code=worker.CANNOT_START
            )
            self._stop(min(5.0, self._config.timeout_graceful_shutdown))
        else:
            self._died(child, slot, cause)

    def _gone(self, child: Child, code: int, cause: str) -> None:
        """One that was told to go."""
        if code == 0 or (code == -signal.SIGTERM and not child.was_ready):
            logger.debug("%s is gone", child)
        elif not child.killed_for and not (self._stopping and (self._forced or self._failure is not None)):
            logger.warning("%s %s while %s", child, cause, child.state.value)
            if code < 0 and child.was_ready:
                self._tell_last(child, cause)
            if self._stopping and child.was_ready and child.state is not State.RETIRING:
                self._forced = True
        if self._booted and not self._stopping:
            self._notifier.status(self._status())

    def _could_not_replace(self, child: Child, slot: Slot, cause: str) -> None:
        what = f"could not start: {child.failure}" if child.failure is not None else f"{cause} before it was ready"
        if child.why == RELOAD and self._kept is not None:
            self._reload_failed(f"{child} {what}", child.failure)
            return
        self._retry_at[slot.index] = time.monotonic() + RETRY
        logger.error("%s, which was to replace another (%s), %s; the old one stays", child, child.why, what)

    def _died(self, child: Child, slot: Slot, cause: str) -> None:
        """Nobody told it to. Another takes its place, the sooner the longer it had lived."""
        self._board.restarted(slot.index)
        now = time.monotonic()
        slot.deaths = 1 if child.was_ready and now - child.started_at >= SETTLED else slot.deaths + 1
        wait = backoff(slot.deaths)
        slot.spawn_at = now + wait
        if child.failure is not None:
            cause = f"could not start: {child.failure}"
            if isinstance(child.failure, ApplicationError) and slot.deaths == 1:
                logger.error("%s", child.failure.details.rstrip())
        elif child.talk.words and slot.deaths == 1:
            logger.error("%s", "\n".join(child.talk.words))
        again = f"another in {wait:.1f} s (death {slot.deaths} in a row)" if wait else "starting another"
        logger.error("%s %s; %s", child, cause, again)
        if child.was_ready:
            self._tell_last(child, cause)

    def _tell_last(self, child: Child, cause: str) -> None:
        """What it was doing."""
        box = BlackBox(self._shared, child.seat)
        logger.error("%s was doing this:\n%s", child, box)
        try:
            if path := box.save(self._shared, f"{child} {cause}"):
                logger.error("it is kept in %s; fastserve blackbox tells more", path)
        except OSError as error:
            logger.warning("what it was doing could not be kept in a file: %s", error)

    def _told_to_stop(self, number: int, name: str) -> None:
        if number == signal.SIGQUIT or self._stopping or self._drained_at:
            where = count(len(self._children()), "worker")
            logger.warning("forced to stop; the application's shutdown did not run in %s", where)
            self._forced = self._stopping = True
            self._listeners_gone()
            self._kill(signal.SIGKILL)
        elif self._config.shutdown_delay > 0 and self._booted:
            delay = self._config.shutdown_delay
            logger.info("%s: serving for another %g s, not ready for new clients", name, delay)
            self._drained_at = time.monotonic() + delay
            self._board.draining = True
            self._notifier.stopping()
            for child in self._children():
                child.talk.say({"drain": True})
        else:
            logger.info("stopping (%s): %s", name, count(len(self._children()), "worker"))
            self._stop(self._config.timeout_graceful_shutdown)

    def _stop(self, seconds: float) -> None:
        """Our listeners first, or new clients would wait at sockets from which nobody accepts."""
        self._stopping = self._board.draining = True
        self._patience = Patience()
        self._notifier.stopping()
        deadline = time.monotonic() + seconds + 1.0  # a moment longer than the workers give themselves
        handing_over = self._somebody_else_serves()
        self._listeners_gone()
        self._end_zygotes()
        for child in self._children():
            if handing_over and child.state in (State.READY, State.RETIRING):
                if child.state is State.READY:
                    child.talk.say({"retire": True})  # clients have somewhere to go: none is cut under a request
                child.state, child.deadline = State.RETIRING, min(child.deadline, deadline)
                continue
            if child.state is not State.RETIRING:
                child.state = State.STOPPING
            child.deadline = min(child.deadline, deadline)
            self._send(child, signal.SIGTERM)

    def _listeners_gone(self) -> None:
        """A Unix socket stays for the server that has it as well."""
        if self._somebody_else_serves():
            self._listeners.disown()
        self._listeners.close()

    def _somebody_else_serves(self) -> bool:
        """Is there another supervisor on the same sockets, after USR2: the one we have started, or who has started us?"""
        return bool(self._successor) or (self._heritage is not None and os.getppid() == self._heritage.predecessor)

    def _kill_the_late(self, now: float) -> None:
        for child in self._children():
            if child.killed_for:
                if now - child.killed_at > STUBBORN:
                    self._send(child, signal.SIGKILL)
            elif now >= child.deadline:
                logger.warning("killing %s: not gone in time, the application's shutdown did not run to its end", child)
                self._forced = self._forced or self._stopping
                self._send(child, signal.SIGKILL, "it was not gone in time")

    def _kill(self, number: int) -> None:
        for child in self._children():
            self._send(child, number, "the server was forced to stop")


def _waited(pid: int) -> int | None:
    """The exit code of a child, if it has ended; minus the signal that killed it."""
    try:
        found, status = os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return 1  # somebody else has waited for it
    return os.waitstatus_to_exitcode(status) if found else None
