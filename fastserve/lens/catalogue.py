"""catalogue: the codes FS001 to FS017: what each means, from when on it is told, and what to do.

Room: floor 3. Called by: findings, rules, commands, docs/generate.py. Calls: model, errors.
docs/findings.md has a part for each code; the table there is made from this one.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from fastserve.errors import ConfigError
from fastserve.lens.model import place
from fastserve.lens.recording import Frame

__all__ = ["CATALOGUE", "Finding", "Rule", "code_of"]

MS = 1_000_000
GRAVE = ("FS001", "FS005", "FS006", "FS012", "FS017")


@dataclass(frozen=True)
class Rule:
    """One code: its name, what it means, and what to do."""

    code: str
    name: str
    says: str
    fix: str
    sure: str  # "measured" | "derived" | "at most"
    threshold: str
    hint: bool = False  # it may well be right as it is


CATALOGUE: dict[str, Rule] = {
    rule.code: rule
    for rule in (
        Rule(
            "FS001",
            "blocked-loop",
            "a handler held the event loop, and all others waited",
            "await something that does not block, move the work to a thread (asyncio.to_thread) or a process, "
            "or make it a plain `def` handler, which runs in one",
            "measured",
            "50 ms (20 ms with --dev): three times, or once of twice that",
        ),
        Rule(
            "FS002",
            "late-wake",
            "a task could have run, and waited for the loop",
            "mend what the loop was in; if that is many short slices, there is too much work for this worker: add workers",
            "measured",
            "20 ms (10 ms with --dev)",
        ),
        Rule(
            "FS003",
            "kernel-wait",
            "a request lay in its socket while the loop was busy",
            "mend what the loop was in; this request can do nothing about it",
            "measured",
            "20 ms, most of it in a hold that is known",
        ),
        Rule(
            "FS004",
            "late-timer",
            "a timer fired long after it was due",
            "mend what the loop was in; timers fire only when it turns",
            "measured",
            "20 ms (10 ms with --dev)",
        ),
        Rule(
            "FS005",
            "sync-io-in-async",
            "a call that waits was made on the event loop",
            "use its async counterpart, or await asyncio.to_thread(...)",
            "derived",
            "one stall that the watchdog saw",
        ),
        Rule(
            "FS006",
            "import-in-handler",
            "a handler imported a module, and the loop waited",
            "import it at the top of the module, or once in the lifespan",
            "derived",
            "one stall that the watchdog saw",
        ),
        Rule(
            "FS007",
            "pool-wait",
            "requests wait for a connection of a pool",
            "hold connections for shorter (release before other awaits), or make the pool larger",
            "measured",
            "20 % of the route's time, three waits of 5 ms",
        ),
        Rule(
            "FS008",
            "thread-queue",
            "work waited for a free thread",
            "raise --threads (or anyio's limiter), or make the handler async",
            "measured",
            "20 ms: three times, or once of twice that and 10 % of the route's time",
        ),
        Rule(
            "FS009",
            "lock-convoy",
            "requests queue for one lock",
            "do not await inside the lock what can be awaited outside it, or have a lock per key",
            "measured",
            "three waits of 5 ms, three of them at once, 50 ms in all",
        ),
        Rule(
            "FS010",
            "serial-awaits",
            "independent awaits follow each other",
            "await them together: asyncio.gather() or a TaskGroup",
            "at most",
            "three in a row, 20 ms to save, in three requests or a third of the route's time",
            hint=True,
        ),
        Rule(
            "FS011",
            "self-wake",
            "a task wakes itself again and again",
            "wait for what it polls for: an Event, a Queue or a timer instead of sleep(0)",
            "measured",
            "100 times in one task, half of its waits",
        ),
        Rule(
            "FS012",
            "never-yielded",
            "a task ran to its end without awaiting once",
            "move the work to a thread or a process, or make it a plain `def` handler",
            "measured",
            "500 ms, not of a stream",
        ),
        Rule(
            "FS013",
            "orphan-task",
            "a task of a request outlived its response, or was lost",
            "await it, use a TaskGroup, or give it to the lifespan if it is to live on",
            "measured",
            "3 s after: three such tasks, or one after 30 s; one destroyed while pending; a coroutine never awaited",
        ),
        Rule(
            "FS014",
            "gc-pause",
            "a collection of garbage stopped everything",
            "gc.freeze() when the application has started, and a higher gc.set_threshold(); or fewer objects in circles",
            "measured",
            "one of 50 ms, or three of 20 ms",
        ),
        Rule(
            "FS015",
            "slow-client",
            "most of the request's time was the client's",
            "nothing in the handler; a proxy that buffers spares the worker, and deadlines bound it (docs/limits.md)",
            "measured",
            "1 s and half of the request's time",
            hint=True,
        ),
        Rule(
            "FS016",
            "chatty-response",
            "a body was sent in very many very small messages",
            "gather some kilobytes before each send",
            "measured",
            "100 messages of 512 bytes or less on average, 5 ms apart or less",
            hint=True,
        ),
        Rule(
            "FS017",
            "hung",
            "a request has waited on one line for very long",
            "give the wait a deadline: async with asyncio.timeout(...)",
            "measured",
            "30 s, no response begun, not for the client",
        ),
    )
}


@dataclass(slots=True)
class Finding:
    """One thing that hurts: which rule, where, in numbers."""

    rule: Rule
    text: str  # one sentence with numbers and the line
    route: str  # "GET /items/{id}"; "" if it is no request's
    frame: Frame | None = None
    count: int = 1
    worst_ns: int = 0
    total_ns: int = 0  # by which findings are compared: all that it cost whomever
    requests: list[str] = field(default_factory=list)  # some examples, the worst first
    fix: str = ""  # the rule's, unless a better one is known
    within: str = ""  # the code of a more telling finding of the same line

    def __post_init__(self) -> None:
        self.fix = self.fix or self.rule.fix

    @property
    def code(self) -> str:
        return self.rule.code

    @property
    def at(self) -> str:
        """ "reports.py:88", or ""."""
        return place(self.frame)

    @property
    def title(self) -> str:
        return self.rule.name

    @property
    def level(self) -> str:
        """ "error" if others suffer, "warning", or "note" for a hint."""
        return "note" if self.rule.hint else "error" if self.rule.code in GRAVE else "warning"

    @property
    def link(self) -> str:
        return f"docs/findings.md#{self.rule.code.lower()}-{self.rule.name}"

    def as_json(self) -> dict[str, object]:
        return {
            "code": self.rule.code,
            "name": self.rule.name,
            "text": self.text,
            "route": self.route,
            "file": self.frame.file if self.frame else None,
            "line": self.frame.line if self.frame else None,
            "function": self.frame.function if self.frame else None,
            "count": self.count,
            "worst_ms": round(self.worst_ns / MS, 3),
            "total_ms": round(self.total_ns / MS, 3),
            "requests": self.requests,
            "sure": self.rule.sure,
            "level": self.level,
            "fix": self.fix,
            "within": self.within or None,
            "link": self.link,
        }


def code_of(text: str) -> str:
    """ "FS001" of "fs001" or "blocked-loop". ConfigError if there is no such code."""
    for rule in CATALOGUE.values():
        if text.upper() == rule.code or text.lower() == rule.name:
            return rule.code
    raise ConfigError(f"there is no finding {text!r}: they are FS001 to FS{len(CATALOGUE):03}")
