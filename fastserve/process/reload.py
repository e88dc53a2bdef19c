"""reload: development: the worker is replaced when a file changes. A small parent of one child.

Room: floor 3. Called by: run.py. Calls: sockets, sources (reread), hooks; in the child: server, loops, logs.

The parent holds the listening sockets and never imports the application; so no connection is refused while workers
change: it waits in the accept queue. A child is a fresh interpreter, for nothing else forgets what was imported.

    a file changes  ->  a successor is started, and imports the application   (the old one goes on serving)
    it has          ->  the old one retires: it accepts no more, answers what it has, its lifespan.shutdown runs
    that is gone    ->  the successor is told to go: lifespan.startup, then it serves

Import first, because that is where broken edits show: then the old one simply goes on. But startup only after the
other's shutdown, because applications open ports and lock databases. If startup fails, clients wait at the socket until
the next save. Either way the traceback is shown once.

The old one retires as a worker does at HUP, or its end would cross the first request of a connection that it has just
accepted. It waits for an idle client half a second, not five: somebody has just saved a file and looks.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import importlib.util
import json
import logging
import os
import pickle
import re
import selectors
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from types import FrameType
from typing import Any

from fastserve.errors import ConfigError
from fastserve.process import envfile
from fastserve.process.config import Address, Config
from fastserve.process.hooks import Hooks
from fastserve.process.importer import ApplicationError
from fastserve.process.logs import configure_logging
from fastserve.process.loops import close_loop, new_loop
from fastserve.process.patience import AT_ONCE, Patience, stage_of
from fastserve.process.server import Server, load_application
from fastserve.process.sockets import Listeners
from fastserve.process.sources import reread

__all__ = ["FileFilter", "Reloader"]

logger = logging.getLogger("fastserve")

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGCHLD)
SAME_SECONDS = 0.05  # signals this close are one: a wrapper such as timeout(1) sends two
IDLE_SECONDS = 0.5  # that a connection may be silent before the old worker closes it
SPARE_SECONDS = 1.0  # on top of the graceful limit, which the child keeps itself if its loop turns
SETTINGS_SECONDS = 1.0  # how often the few files of settings are looked at
MESSAGE_BYTES_MAX = 1 << 20
CANNOT_START = 3
CHILD = "import sys; sys.path[:] = sys.argv[2:]; from fastserve.process.reload import child; child(int(sys.argv[1]))"


# ------------------------------------------------------------------------------------------------- which files


class FileFilter:
    """Which files matter. Patterns are those of PurePath.match; uvicorn's defaults, and its rule: what is named wins.

    A pattern that is a folder means everything in it: included, it is watched; excluded, it is not looked into.
    """

    INCLUDES = ("*.py",)
    EXCLUDES = (".*", ".py[cod]", ".sw.*", "~*", "*~", "4913")  # the last: what vim makes to see whether it may write
    FOLDERS = frozenset({"__pycache__", "node_modules", "site-packages"})  # and hidden ones

    def __init__(self, config: Config) -> None:
        folders = [Path(text) for text in config.reload_dir] or [Path.cwd(), Path(config.app_dir)]
        folders += [Path(text) for text in config.reload_include if Path(text).is_dir()]
        for folder in folders:
            if not folder.is_dir():
                raise ConfigError(f"reload-dir: there is no folder {str(folder)!r}")
        whole = sorted({folder.resolve() for folder in folders})
        self.folders = [one for one in whole if not any(one != other and other in one.parents for other in whole)]
        self._not_in = [Path(text).resolve() for text in config.reload_exclude if Path(text).is_dir()]
        included = [text for text in config.reload_include if not Path(text).is_dir()]
        excluded = [text for text in config.reload_exclude if not Path(text).is_dir()]
        self._includes = [*included, *(text for text in self.INCLUDES if text not in excluded)]
        self._excludes = [*excluded, *(text for text in self.EXCLUDES if text not in included)]

    def wants(self, path: str | PurePath) -> bool:
        """Does a change of this file, an absolute path, mean a reload?"""
        path = PurePath(path)
        folder = next((one for one in self.folders if one in path.parents), None)
        if folder is None or any(one in path.parents for one in self._not_in):
            return False
        if not all(self.enters(part) for part in path.relative_to(folder).parts[:-1]):
            return False
        return any(map(path.match, self._includes)) and not any(map(path.match, self._excludes))

    def enters(self, name: str) -> bool:
        """Is a folder of this name looked into?"""
        return name not in self.FOLDERS and not name.startswith(".")

    def snapshot(self) -> dict[str, tuple[int, int]]:
        """The files that matter, with what tells a change."""
        found: dict[str, tuple[int, int]] = {}
        for top in self.folders:
            for folder, names, files in os.walk(top):
                names[:] = [name for name in names if self.enters(name)]
                for name in files:
                    path = os.path.join(folder, name)
                    if self.wants(path):
                        with contextlib.suppress(OSError):
                            about = os.stat(path)
                            found[path] = (about.st_mtime_ns, about.st_size)
        return found


class Watcher:
    """A thread that tells of changed files: watchfiles if it is installed, else by looking at each of them.

    `on_change(paths)` is called in that thread.
    """

    def __init__(self, files: FileFilter, delay: float, on_change: Callable[[list[str]], None]) -> None:
        self._files, self._delay, self._on_change = files, delay, on_change
        self._stop = threading.Event()
        self.kind = "watchfiles" if importlib.util.find_spec("watchfiles") is not None else "polling"
        body = self._watch if self.kind == "watchfiles" else self._poll
        self._before = {} if self.kind == "watchfiles" else files.snapshot()
        self._thread = threading.Thread(target=body, name="fastserve-watch", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(2.0)

    def _watch(self) -> None:
        try:
            self._be_told()
        except Exception as error:  # whatever watchfiles raises: of inotify's limits, a folder whose name is no UTF-8
            self.kind = "polling"
            reason = " ".join(str(error).split())
            logger.warning("watchfiles cannot watch (%s): files are looked at again and again instead", reason)
            self._before = self._files.snapshot()
            self._poll()

    def _be_told(self) -> None:
        import watchfiles

        step = max(10, int(self._delay * 1000))
        changes = watchfiles.watch(
            *self._files.folders,
            watch_filter=lambda _change, path: self._files.wants(path),
            step=step,
            debounce=max(4 * step, 400),
            rust_timeout=500,  # so that the end is noticed
            stop_event=self._stop,
            raise_interrupt=False,
        )
        for change in changes:
            self._on_change(sorted({path for _, path in change}))

    def _poll(self) -> None:
        while not self._stop.wait(max(self._delay, 0.2)):
            after = self._files.snapshot()
            if changed := _differences(self._before, after):
                while not self._stop.wait(max(self._delay, 0.05)) and (more := self._files.snapshot()) != after:
                    changed |= _differences(after, more)  # somebody is still writing
                    after = more
                self._before = after
                self._on_change(sorted(changed))


def _differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> set[str]:
    return {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}


def _forget_bytecode(paths: Sequence[str]) -> None:
    """Remove what Python has cached of these sources. It knows a source by its size and the second of its last
    change, so that of two edits within a second the next import might see the first."""
    for path in paths:
        if path.endswith(".py"):
            with contextlib.suppress(OSError):
                os.unlink(importlib.util.cache_from_source(path))


# --------------------------------------------------------------------------------------------------- the parent


@dataclass(eq=False)
class Child:
    """One interpreter with the application: loading, loaded, ready, told to stop."""

    process: subprocess.Popen[bytes]
    channel: socket.socket
    inbox: bytearray = field(default_factory=bytearray)
    started_at: float = field(default_factory=time.monotonic)
    loaded: bool = False
    ready: bool = False
    failed: bool = False  # and has said why
    deadline: float = float("inf")  # told to stop: when it is killed

    @property
    def stopping(self) -> bool:
        return self.deadline != float("inf")

    def tell(self, word: bytes) -> None:
        with contextlib.suppress(OSError):
            self.channel.sendall(word)


class Reloader:
    """The parent. `on_ready(addresses, interface, pids, note)` is called once, when the first child serves; `open_()` opens
    the listeners."""

    def __init__(
        self,
        config: Config,
        hooks: Hooks,
        on_ready: Callable[[list[Address], str, list[int], str], None],
        open_: Callable[[], Listeners],
    ) -> None:
        if not isinstance(config.app, str):
            raise ConfigError('reload needs the application by name, such as "shop.web:app", to import it again')
        if threading.current_thread() is not threading.main_thread():
            raise ConfigError("run() needs the main thread, for its signals; elsewhere use fastserve.Server")
        try:
            pickle.dumps(config)
        except Exception:
            raise ConfigError("reload needs options that are text and numbers: name hooks and log-config") from None
        self._config, self._hooks, self._on_ready, self._open = config, hooks, on_ready, open_
        self._files = FileFilter(config)
        self._current: Child | None = None  # serves, or is on its way there or off
        self._successor: Child | None = None  # imports
        self._queue: deque[int] = deque()
        self._changed: deque[list[str]] = deque()
        self._selector = selectors.DefaultSelector()
        self._announced = False
        self._stopping = self._forced = False
        self._told_at = float("-inf")
        self._failure: ConfigError | None = None
        self._patience = Patience()  # of the first start, then of the stop
        self._listeners: Listeners
        self._watcher: Watcher

    def run(self) -> int:
        """Until told to stop. Returns the exit code; raises ConfigError if there is nothing to wait for."""
        config = self._config
        self._listeners = self._open()
        try:
            with self._signals() as wake:
                self._watcher = Watcher(self._files, config.reload_delay, lambda paths: self._note(paths, wake))
                self._settings = self._settings_now()
                self._watcher.start()
                try:
                    self._successor = self._spawn()
                    while not (self._stopping and self._current is None and self._successor is None):
                        self._turn()
                finally:
                    self._watcher.stop()
                    for child in self._children():
                        child.process.kill()  # only if we leave by an exception
                        child.process.wait()
        finally:
            self._listeners.close()
        if self._failure is not None:
            raise self._failure
        if not self._forced:
            logger.info("stopped")
        return 1 if self._forced else 0

    def _turn(self) -> None:
        """Reap, obey one signal or take in a change, move on, sleep."""
        for child in self._children():
            if (code := child.process.poll()) is not None:
                self._hear(child)
                if child in self._children():  # what it said may have ended it already
                    self._bury(child, code)
        if self._queue:
            self._obey(self._queue.popleft())
        if self._changed and not self._stopping:
            paths = sorted({path for paths in self._changed for path in paths})
            self._changed.clear()
            self._replace(f"changed: {_named(paths)}", paths)
        if (settings := self._settings_now()) != self._settings and not self._stopping:
            changed, self._settings = _differences(self._settings, settings), settings
            self._replace(f"changed: {_named(sorted(changed))}")
        self._advance()
        if not (self._stopping and not self._children()):
            self._sleep()

    def _advance(self) -> None:
        """The successor takes over as soon as it can; who is out of time is killed."""
        now = time.monotonic()
        self._tell_what_takes_long(now)
        for child in self._children():
            if now >= child.deadline:
                logger.warning("killing the worker (pid %d): not gone in time; its shutdown is cut", child.process.pid)
                self._forced = self._forced or self._stopping
                child.deadline = float("inf")
                child.process.kill()
        if self._successor is None or not self._successor.loaded or self._stopping:
            return
        if self._current is None:
            self._current, self._successor = self._successor, None
            self._current.tell(b"g")
        elif not self._current.stopping:
            if self._current.ready:
                self._current.deadline = self._latest()
                self._current.tell(b"r")
            else:
                self._tell_to_stop(self._current)  # it is still starting up, and has no connections

    def _tell_what_takes_long(self, now: float) -> None:
        """The first start, and the stop: reloads say when they begin."""
        children = self._children()
        if (self._announced and not self._stopping) or not children or not (so_far := self._patience.due(now)):
            return
        if self._stopping:
            what = f"still stopping; {AT_ONCE}"
        else:
            what = stage_of(self._config.app, all(child.loaded for child in children))
        logger.info("%s (%s)", what, so_far)

    def _latest(self) -> float:
        return time.monotonic() + self._config.timeout_graceful_shutdown + SPARE_SECONDS

    def _replace(self, why: str, paths: Sequence[str] = ()) -> None:
        logger.info("%s; reloading", why)
        if self._successor is not None:  # it has imported what is stale by now
            self._drop(self._successor)
        _forget_bytecode(paths)
        self._successor = self._spawn()

    def _drop(self, child: Child) -> None:
        child.process.kill()
        self._bury(child, child.process.wait(), expected=True)

    def _tell_to_stop(self, child: Child) -> None:
        child.deadline = min(child.deadline, self._latest())
        child.process.send_signal(signal.SIGTERM)

    def _children(self) -> list[Child]:
        return [child for child in (self._current, self._successor) if child is not None]

    # ---------------------------------------------------------------------------------------------- start and end

    def _spawn(self) -> Child:
        self._refresh()
        self._hooks.call("pre_fork", slot=0)
        ours, theirs = socket.socketpair()
        sockets = self._listeners.slot(0)
        flags: list[str] = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
        with theirs:
            process = subprocess.Popen(
                [sys.executable, *flags, "-c", CHILD, str(theirs.fileno()), *sys.path],
                pass_fds=[theirs.fileno(), *(listener.fileno() for listener in sockets)],
                env=envfile.real_environment(),
            )
        child = Child(process, ours)
        task = (self._config, self._listeners.addresses, [listener.fileno() for listener in sockets], sys.argv)
        child.tell(_packed(task))
        ours.setblocking(False)
        self._selector.register(ours, selectors.EVENT_READ, child)
        return child

    def _refresh(self) -> None:
        """The options as they are now; a mistake in them keeps the old ones."""
        if self._config.arguments is None or not self._announced:
            return
        try:
            fresh = reread(self._config.arguments)
        except ConfigError as error:
            logger.error("the options were not read again: %s", error)
            return
        if fresh.addresses != self._config.addresses:
            logger.warning("other addresses need a restart: still listening on the old ones")
        self._config = fresh

    def _bury(self, child: Child, code: int, *, expected: bool = False) -> None:
        if child is self._current:
            self._current = None
        elif child is self._successor:
            self._successor = None
        self._deaf(child)
        child.channel.close()
        self._hooks.call("worker_exit", slot=0, pid=child.process.pid, code=code)
        if expected or child.failed or child.stopping or self._stopping:
            return
        cause = f"was killed by {_signal_name(-code)}" if code < 0 else f"ended with exit code {code}"
        logger.error("the worker (pid %d) %s; waiting for a change", child.process.pid, cause)

    def _hear(self, child: Child) -> None:
        """What a child says: one JSON object in a line."""
        try:
            while data := child.channel.recv(65536):
                child.inbox += data
                if len(child.inbox) > MESSAGE_BYTES_MAX:
                    child.inbox.clear()
            self._deaf(child)  # its end: SIGCHLD comes
        except BlockingIOError:
            pass
        except OSError:
            self._deaf(child)
        while b"\n" in child.inbox:
            line, _, rest = bytes(child.inbox).partition(b"\n")
            child.inbox[:] = rest
            message = json.loads(line)
            if "loaded" in message:
                child.loaded = True
            elif "ready" in message:
                self._became_ready(child, message["ready"])
            elif "failed" in message:
                self._cannot(child, message)

    def _deaf(self, child: Child) -> None:
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(child.channel)

    def _became_ready(self, child: Child, interface: str) -> None:
        child.ready = True
        if self._announced:
            took = time.monotonic() - child.started_at
            logger.info("reloaded in %.2f s: pid %d", took, child.process.pid)
            return
        self._announced = True
        folders = " ".join(map(str, self._files.folders))
        self._on_ready(
            list(self._listeners.addresses), interface, [child.process.pid], f"{folders} ({self._watcher.kind})"
        )

    def _cannot(self, child: Child, message: Mapping[str, Any]) -> None:
        """The application is broken. A wrong reference ends us, if nothing was ever served: no edit is to be expected."""
        child.failed = True
        if not message["details"] and not self._announced and not self._stopping:
            self._failure = ConfigError(message["failed"], exit_code=message["exit_code"])
            self._stop()
            return
        goes_on = self._current is not None and self._current is not child and not self._current.stopping
        what = "the version before it goes on serving" if goes_on else "waiting for a change"
        logger.error("%s%s; %s", _above(message["details"]), message["failed"], what)

    # ------------------------------------------------------------------------------------------------- signals

    @contextlib.contextmanager
    def _signals(self) -> Iterator[socket.socket]:
        wakeup = socket.socketpair()
        for end in wakeup:
            end.setblocking(False)
        self._wakeup = wakeup[0]
        self._selector.register(wakeup[0], selectors.EVENT_READ)
        fd_before = signal.set_wakeup_fd(wakeup[1].fileno(), warn_on_full_buffer=False)
        before = {number: signal.signal(number, self._enqueue) for number in SIGNALS}
        try:
            yield wakeup[1]
        finally:
            for number, handler in before.items():
                signal.signal(number, signal.SIG_DFL if handler is None else handler)
            signal.set_wakeup_fd(fd_before)
            self._selector.close()
            for end in wakeup:
                end.close()

    def _enqueue(self, number: int, _frame: FrameType | None) -> None:
        if number != signal.SIGCHLD and len(self._queue) < 16:
            now = time.monotonic()
            if number == signal.SIGQUIT or now - self._told_at >= SAME_SECONDS:
                self._queue.append(number)
                self._told_at = now

    def _note(self, paths: list[str], wake: socket.socket) -> None:
        """In the watcher's thread."""
        self._changed.append(paths)
        with contextlib.suppress(OSError):
            wake.send(b"\0")

    def _obey(self, number: int) -> None:
        if number == signal.SIGHUP:
            if not self._stopping:
                self._replace("SIGHUP")
        elif number == signal.SIGQUIT or self._stopping:
            logger.warning("forced to stop; the application's shutdown did not run")
            self._forced = True
            self._stop(kill=True)
        else:
            logger.info("stopping (%s)", signal.Signals(number).name)
            self._stop()

    def _stop(self, *, kill: bool = False) -> None:
        self._stopping = True
        self._patience = Patience()
        if self._successor is not None:
            self._drop(self._successor)
        if self._current is not None:
            if kill:
                self._current.process.kill()
            else:
                self._tell_to_stop(self._current)  # also one that retires: nobody follows it any more
        self._listeners.close()

    def _sleep(self) -> None:
        until = min((child.deadline for child in self._children()), default=float("inf"))
        timeout = max(0.0, min(until - time.monotonic(), SETTINGS_SECONDS))
        for key, _ in self._selector.select(timeout):
            if key.data is not None:
                self._hear(key.data)
            else:
                with contextlib.suppress(BlockingIOError):
                    while self._wakeup.recv(4096):
                        pass

    def _settings_now(self) -> dict[str, tuple[int, int]]:
        """The files that options come from: the command line's TOML file, env file and log configuration."""
        names = ["fastserve.toml", self._config.env_file, self._config.log_config]
        names += [
            match[1] for origin in self._config.origins.values() if (match := re.match(r"(.*\.toml):\d+$", origin))
        ]
        found = {}
        for name in names:
            if isinstance(name, str):
                with contextlib.suppress(OSError):
                    about = os.stat(name)
                    found[os.path.abspath(name)] = (about.st_mtime_ns, about.st_size)
        return found


def _named(paths: Sequence[str]) -> str:
    """Some of them, as seen from here."""
    here = os.getcwd() + os.sep
    names = [path.removeprefix(here) for path in paths[:3]]
    return ", ".join(names) + (f" and {len(paths) - 3} more" if len(paths) > 3 else "")


def _above(details: str) -> str:
    return details.rstrip() + "\n" if details else ""


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _packed(task: Any) -> bytes:
    data = pickle.dumps(task)
    return struct.pack("!I", len(data)) + data


# ---------------------------------------------------------------------------------------------------- the child


class Handed(Listeners):
    """The parent's listeners, by their descriptors. The parent removes what is to be removed."""

    def __init__(self, addresses: Sequence[Address], descriptors: Sequence[int]) -> None:
        super().__init__(())
        self.addresses = list(addresses)
        self._sockets = [socket.socket(fileno=descriptor) for descriptor in descriptors]

    def slot(self, index: int) -> list[socket.socket]:
        return self._sockets

    def by_slot(self) -> list[list[socket.socket]]:
        return [self._sockets]

    def close(self) -> None:
        for listener in getattr(self, "_sockets", ()):
            listener.close()


def child(descriptor: int) -> None:
    """The whole life of a child; ends the process."""
    channel = socket.socket(fileno=descriptor)
    config, addresses, descriptors, sys.argv = _received(channel)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to the whole group; the parent tells us
    code = CANNOT_START

    def tell(**message: Any) -> None:
        with contextlib.suppress(OSError):
            channel.sendall(json.dumps(message).encode() + b"\n")

    try:
        configure_logging(config)
        code = _Serving(config, Handed(addresses, descriptors), channel, tell).run()
    except ConfigError as error:
        tell(failed=str(error), details=getattr(error, "details", ""), exit_code=error.exit_code)
    except BaseException as error:
        reason = traceback.format_exception_only(error)[-1].strip()
        tell(failed=f"the worker failed: {reason}", details=traceback.format_exc(), exit_code=CANNOT_START)
    finally:
        try:
            atexit._run_exitfuncs()
            for stream in (sys.stdout, sys.stderr):
                with contextlib.suppress(OSError, ValueError):
                    stream.flush()
        finally:
            os._exit(code)  # threads of the application that never end do not hold us


def _received(channel: socket.socket) -> Any:
    with channel.makefile("rb", buffering=0) as file:

        def exactly(size: int) -> bytes:
            data = b""
            while len(data) < size:
                piece = file.read(size - len(data))
                if not piece:
                    os._exit(1)  # the parent is gone
                data += piece
            return data

        return pickle.loads(exactly(*struct.unpack("!I", exactly(4))))


class _Serving:
    """The child between import and end."""

    def __init__(self, config: Config, listeners: Handed, channel: socket.socket, tell: Callable[..., None]) -> None:
        self._config, self._listeners, self._channel, self._tell = config, listeners, channel, tell
        self._go = threading.Event()
        self._stop, self._retire = asyncio.Event(), asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    def run(self) -> int:
        threading.Thread(target=self._listen_to_parent, name="fastserve-parent", daemon=True).start()
        envfile.apply(self._config.variables)
        hooks = Hooks.of(self._config)
        hooks.call("post_fork", slot=0, pid=os.getpid())
        app, interface = load_application(self._config)
        self._tell(loaded=interface)
        self._go.wait()  # TERM still has its plain meaning: there is nothing to shut down
        loop = new_loop(self._config.loop, self._config.app_dir)
        try:
            return loop.run_until_complete(self._serve(app, interface, hooks))
        finally:
            with contextlib.suppress(Exception):
                close_loop(loop)

    async def _serve(self, app: Any, interface: str, hooks: Hooks) -> int:
        loop = self._loop = asyncio.get_running_loop()
        signal.signal(signal.SIGTERM, lambda _number, _frame: loop.call_soon_threadsafe(self._stop.set))
        server = Server.of(self._config, app, interface, self._listeners)
        starting, stopping = loop.create_task(server.start()), loop.create_task(self._stop.wait())
        await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            starting.cancel()
            await asyncio.wait({starting}, timeout=self._config.timeout_graceful_shutdown)
            return 0
        try:
            starting.result()
        except ConfigError:
            raise
        except (Exception, SystemExit, asyncio.CancelledError) as error:
            raise ApplicationError.of("the application failed to start", error) from error
        self._tell(ready=interface)
        hooks.call("worker_ready", slot=0, pid=os.getpid())
        retiring = loop.create_task(self._retire.wait())
        await asyncio.wait({stopping, retiring}, return_when=asyncio.FIRST_COMPLETED)
        left = None
        if not stopping.done():
            left = await server.hand_over(min(IDLE_SECONDS, self._config.timeout_retire_idle), stopping)
        try:
            await server.stop(left)
        except Exception as error:
            failure = ApplicationError.of("the application's shutdown failed", error)
            logger.error("%s\n%s", failure, failure.details.rstrip())
            return 1
        return 0

    def _listen_to_parent(self) -> None:
        """A thread of its own: also while the loop is blocked, we end with our parent."""
        with contextlib.suppress(OSError):
            while words := self._channel.recv(64):
                if b"g" in words:
                    self._go.set()
                if b"r" in words and self._loop is not None:  # said to those that serve only
                    with contextlib.suppress(RuntimeError):  # the loop has just ended
                        self._loop.call_soon_threadsafe(self._retire.set)
        os._exit(1)
