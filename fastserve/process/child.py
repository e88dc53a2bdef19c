"""child: one worker process as its supervisor sees it, and the slot it serves.

Room: floor 3. Called by: supervisor.py, watch.py, zygote.py. Calls: talk, protocol (Board).

A slot is a place with listeners; it stays. Children come and go in it: `current` serves, `coming` is to take over from
it, and who has handed over is retiring, beside the slots. Each living child has a seat of its own on the Board.
"""

from __future__ import annotations

import random
import re
import signal
import time
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from fastserve.errors import ConfigError
from fastserve.process.config import Config
from fastserve.process.importer import ApplicationError
from fastserve.process.talk import Talk

__all__ = ["Child", "Slot", "State", "backoff", "cause_of", "failure_of"]

BACKOFF_MAX = 30.0


class State(Enum):
    BOOTING = "booting"  # forked; imports, starts up. Never hurried: nobody knows how long a model takes to load
    READY = "ready"  # serves
    RETIRING = "retiring"  # has handed over, finishes what it has
    STOPPING = "stopping"  # was told to stop with the whole server


@dataclass(eq=False)
class Child:
    """A worker process, from its fork to its burial."""

    slot: int
    seat: int
    generation: int
    config: Config
    talk: Talk
    witness: Talk  # to the thread that tells where a hung loop is
    why: str = ""  # what it replaces its predecessor for
    pid: int = 0
    state: State = State.BOOTING
    loaded: bool = False  # the application is imported: its startup runs
    interface: str = ""
    failure: ConfigError | None = None  # its own account of why it cannot start
    started_at: float = field(default_factory=time.monotonic)
    ready_at: float = 0.0
    deadline: float = float("inf")  # retiring, stopping: when it is killed
    killed_for: str = ""  # why we have killed it, if we have
    killed_at: float = 0.0
    # recycling: drawn once, so that the workers of one start do not come due together
    requests_max: float = float("inf")
    age_max: float = float("inf")
    # watching a loop that does not answer
    reported: bool = False
    stuck_at: float = 0.0
    cpu_at_stuck: float = 0.0

    def __post_init__(self) -> None:
        config = self.config
        if config.limit_max_requests is not None:
            self.requests_max = config.limit_max_requests + random.randint(0, config.limit_max_requests_jitter)
        if config.workers_lifetime is not None:
            self.age_max = config.workers_lifetime + random.uniform(0, config.workers_lifetime_jitter)

    def __str__(self) -> str:
        return f"worker {self.slot} (pid {self.pid})"

    @property
    def was_ready(self) -> bool:
        return self.ready_at > 0


@dataclass(eq=False)
class Slot:
    """The place of one worker: its listeners stay, its processes come and go."""

    index: int
    wanted: bool = False
    current: Child | None = None
    coming: Child | None = None
    spawn_at: float = 0.0  # not before, after deaths
    deaths: int = 0  # in a row

    @property
    def serves(self) -> bool:
        return self.current is not None and self.current.state is State.READY


def backoff(deaths: int) -> float:
    """At once, then 1, 2, 4 ... s, a little uneven so that workers do not come in step."""
    return 0.0 if deaths <= 1 else min(2.0 ** min(deaths - 2, 10), BACKOFF_MAX) * random.uniform(0.9, 1.1)


def failure_of(message: dict[str, Any]) -> ConfigError:
    """What a worker or a zygote says when it cannot start, as the exception that it was."""
    text, details, code = str(message["failed"]), str(message["details"]), int(message["exit_code"])
    return ApplicationError(text, details) if details else ConfigError(text, exit_code=code)


def cause_of(code: int, child: Child | None = None) -> str:
    """How a process ended, in words: its exit code or signal, and where it was when it crashed."""
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    cause = f"was killed by {name}"
    if child is not None and child.killed_for:
        return f"{cause} ({child.killed_for})"
    words = last_words(child.talk.words) if child is not None else ""
    return f"{cause} ({words})" if words else cause


def last_words(lines: list[str]) -> str:
    """The first line of what faulthandler wrote, and the innermost frame of the thread that crashed."""
    fatal = next((line for line in lines if line.startswith("Fatal Python error:")), "")
    for index, line in enumerate(lines):
        if line.startswith("Current thread"):
            frame = next((found for text in lines[index + 1 : index + 2] if (found := _frame(text))), "")
            return ", ".join(filter(None, (fatal.removeprefix("Fatal Python error: "), frame)))
    return fatal.removeprefix("Fatal Python error: ")


def _frame(text: str) -> str:
    match = re.match(r'\s*File "(.*)", line (\d+) in (.*)', text)
    return f"in {match[3]}, {match[1]}:{match[2]}" if match else ""
