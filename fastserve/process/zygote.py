"""zygote: a process that imports the application once, and forks workers from itself (--preload).

Room: floor 3. Called by: supervisor.py. Calls: worker, server (load_application), privileges, talk.

Workers share the memory of what was imported. HUP renews the zygote first, so new code is loaded; a zygote that cannot
import leaves the old one in service. Workers are children of the supervisor, not of the zygote: it forks twice, the one
between ends, and the kernel gives the worker to the nearest subreaper (prctl(2)), which the supervisor is. So a zygote can
be retired or killed without harm to a worker.

A zygote has one thread and no event loop, for only the forking thread lives on in a child. Threads that the application
starts while it is imported are not in the workers; a warning names them.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import logging
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NoReturn

from fastserve.errors import ConfigError
from fastserve.process import worker
from fastserve.process.importer import ApplicationError
from fastserve.process.server import load_application
from fastserve.process.talk import DETAILS_MAX, Talk

__all__ = ["Zygote", "become_subreaper", "live"]

logger = logging.getLogger("fastserve")

PR_SET_CHILD_SUBREAPER = 36
FORK_SECONDS = 10.0  # that a fork may take, also with gigabytes of page tables


@dataclass(eq=False)
class Zygote:
    """A zygote as its supervisor sees it."""

    pid: int
    talk: Talk
    generation: int
    ready: bool = False
    failure: ConfigError | None = None
    started_at: float = field(default_factory=time.monotonic)

    def __str__(self) -> str:
        return f"zygote (pid {self.pid})"

    def fork(self, place: worker.Place, talk: Talk, witness: Talk) -> int:
        """The pid of a new worker, which holds these ends. OSError if the zygote is gone or cannot fork."""
        if not self.talk.say({"place": place.as_json()}, [talk.fileno(), witness.fileno()]):
            raise OSError(f"the {self} is gone")
        messages, _ = self.talk.wait(FORK_SECONDS)
        for message in messages:
            if "pid" in message:
                return int(message["pid"])
            if "cannot" in message:
                raise OSError(str(message["cannot"]))
        raise OSError(f"the {self} does not answer")


def become_subreaper() -> None:
    """Orphans among our descendants become our children. ConfigError where the kernel has no such thing."""
    done = -1
    with contextlib.suppress(OSError, AttributeError):
        if sys.platform == "linux":
            done = ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    if done != 0:
        raise ConfigError("--preload needs Linux: workers must be the supervisor's own children", exit_code=3)


def live(inheritance: worker.Inheritance, talk: Talk) -> NoReturn:
    """The zygote's whole life, after fork: import, say so, fork on demand until the supervisor hangs up."""
    code = worker.CANNOT_START
    try:
        for name in ("SIGINT", *(f"SIG{name}" for name in worker.SUPERVISORS.split())):
            signal.signal(getattr(signal, name), worker.leave_to_supervisor)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        inheritance.identity.assume()
        worker.die_with(inheritance.supervisor)
        app, interface = load_application(inheritance.config)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        _name_threads()
        gc.collect()
        gc.freeze()  # a collection would write to the shared pages, and copy them
        talk.say({"ready": interface})
        _serve(inheritance, talk, (app, interface))
        code = 0
    except ConfigError as error:
        details = error.details if isinstance(error, ApplicationError) else ""
        talk.say({"failed": str(error), "details": details[-DETAILS_MAX:], "exit_code": error.exit_code})
    except BaseException as error:
        reason = traceback.format_exception_only(error)[-1].strip()
        details = traceback.format_exc()[-DETAILS_MAX:]
        talk.say({"failed": f"the zygote failed: {reason}", "details": details, "exit_code": code})
    finally:
        os._exit(code)


def _serve(inheritance: worker.Inheritance, talk: Talk, loaded: tuple[Any, str]) -> None:
    while not talk.ended:
        messages, descriptors = talk.wait(room=2)
        for message in messages:
            place = worker.Place(**message["place"])
            try:
                talk.say({"pid": _fork_twice(lambda: _become(inheritance, talk, loaded, place, descriptors))})  # noqa: B023
            except OSError as error:
                talk.say({"cannot": f"fork: {error.strerror}"})
        for descriptor in descriptors:
            os.close(descriptor)


def _fork_twice(become: Callable[[], NoReturn]) -> int:
    """The pid of a grandchild that runs `become`; our child, its parent, is gone when we return."""
    read, write = os.pipe()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, OSError, ValueError):
            stream.flush()
    between = os.fork()
    if between == 0:
        try:
            pid = os.fork()
        except OSError:
            os._exit(1)
        if pid == 0:
            os.close(read)
            os.close(write)
            become()
        os.write(write, str(pid).encode())
        os._exit(0)
    os.close(write)
    try:
        text = os.read(read, 32)
    finally:
        os.close(read)
        os.waitpid(between, 0)
    if not text:
        raise OSError(0, "no process could be made")
    return int(text)


def _become(
    inheritance: worker.Inheritance,
    talk: Talk,
    loaded: tuple[Any, str],
    place: worker.Place,
    descriptors: list[int],
) -> NoReturn:
    """In the new worker."""
    talk.close()
    deadline = time.monotonic() + FORK_SECONDS
    while os.getppid() != inheritance.supervisor and time.monotonic() < deadline:
        time.sleep(0.001)  # until the one between us is gone
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    ends = [Talk.of_descriptor(descriptor) for descriptor in descriptors]
    worker.be(inheritance, place, ends[0], ends[1], loaded)


def _name_threads() -> None:
    names = [repr(thread.name) for thread in threading.enumerate() if thread is not threading.main_thread()]
    with contextlib.suppress(OSError):
        unnamed = len(os.listdir("/proc/self/task")) - 1 - len(names)
        if unnamed > 0:
            names.append(f"{unnamed} of a library")
    if names:
        logger.warning(
            "the application started threads while it was imported, which workers will not have with --preload: %s; "
            "start them in its lifespan",
            ", ".join(names),
        )
