"""doctor: what is wrong with a server, the one main finding first; and whether a build should fail for it.

Room: floor 3. Called by: commands.py. Calls: findings, model, recording, wording.
"""

from __future__ import annotations

import json
import textwrap
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress

from fastserve.errors import LensError
from fastserve.lens.catalogue import CATALOGUE, Finding, code_of
from fastserve.lens.findings import Ignored, find
from fastserve.lens.model import Model, build
from fastserve.lens.recording import Recording, switch
from fastserve.lens.wording import count, duration

__all__ = ["as_json", "examine", "fails", "parse_codes", "recorded_for", "report"]

WIDTH = 100
COLOURS = {"error": "31;1", "warning": "33", "note": "36"}
SETTLE = 0.6  # seconds: by then a server that was switched records
Paint = Callable[[str, str], str]


def examine(
    recording: Recording, ignored: Sequence[Ignored] = (), dev: bool | None = None
) -> tuple[Model, list[Finding]]:
    """The model, and what is wrong, worst first."""
    model = build(recording)
    return model, find(model, ignored=ignored, dev=dev)


@contextmanager
def switched(target: str | int | None, mode: str) -> Iterator[None]:
    """A running server records by `mode`, and afterwards as before."""
    before = Recording.take(target)
    if before.source == "file":
        raise LensError("a recording in a file cannot be switched on: name a running server")
    switch(before.pid, mode)
    try:
        yield
    finally:
        switch(before.pid, before.mode)


def recorded_for(target: str | int | None, seconds: float, sleep: Callable[[float], None] = time.sleep) -> Recording:
    """Switch recording on, wait, take, and switch it back. An interrupt ends the waiting, not the taking."""
    with switched(target, "full"):
        sleep(SETTLE)
        with suppress(KeyboardInterrupt):
            sleep(seconds)
        return Recording.take(target)


def parse_codes(texts: Iterable[str]) -> set[str]:
    """ "FS001,FS005", names of findings, "any". ConfigError for a code that does not exist."""
    words = [word for text in texts for word in (part.strip() for part in text.split(",")) if word]
    found: set[str] = set()
    for word in words:
        found |= set(CATALOGUE) if word.lower() == "any" else {code_of(word)}
    return found


def fails(found: Sequence[Finding], codes: set[str]) -> list[Finding]:
    """Those for which a build should fail."""
    return [one for one in found if one.code in codes]


def as_json(model: Model, found: Sequence[Finding], failing: Sequence[Finding]) -> str:
    recording = model.recording
    return json.dumps(
        {
            "ok": not failing,
            "server": {"name": recording.name, "pid": recording.pid, "version": recording.version},
            "mode": recording.mode,
            "requests": len(model.requests),
            "seconds": round(_span(model) / 1e9, 3),
            "lost": sum(lane.lost for lane in model.lanes),
            "failing": sorted({one.code for one in failing}),
            "findings": [one.as_json() for one in found],
        },
        indent=2,
    )


def report(model: Model, found: Sequence[Finding], paint: Paint = lambda _code, text: text, width: int = WIDTH) -> str:
    """What to print, in lines of at most `width`."""
    lines = [*_looked_at(model), ""]
    main = [one for one in found if one.level != "note"]
    if not found:
        lines.append(
            "Nothing is wrong in what was recorded." if model.requests else "Nothing can be said without requests."
        )
        return "\n".join(lines) + "\n"
    if main:
        first = main[0]
        lines.append(f"Main finding: {paint(COLOURS[first.level], f'{first.code} {first.title}')}")
        lines += _entry(first, model, "  ", paint, width)
        inside = [one for one in found if one is not first and one.within == first.code and one.at == first.at]
        if inside:
            lines.append(f"  ({', '.join(sorted({one.code for one in inside}))} of the same line is this.)")
        rest = [one for one in found if one is not first and one not in inside]
    else:
        rest = list(found)
    if rest:
        lines += ["", "Also:" if main else "Nothing is wrong. Hints:"]
        for one in rest:
            name = paint(COLOURS[one.level], f"{one.code} {one.title}")
            lines += [f"- {name}", *_entry(one, model, "  ", paint, width)]
    return "\n".join(lines) + "\n"


def _entry(one: Finding, model: Model, indent: str, paint: Paint, width: int) -> list[str]:
    lines = _wrapped(f"{one.text}. [{one.rule.sure}]", indent, width)
    lines += _wrapped(f"To do: {one.fix}.", indent, width)
    see = f"See: {one.link}"
    if one.requests:
        see += f"; fastserve explain {model.recording.name} {one.requests[0]}"
    return [*lines, indent + paint("2", see)]


def _wrapped(text: str, indent: str, width: int) -> list[str]:
    return textwrap.wrap(
        text,
        width,
        initial_indent=indent,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _span(model: Model) -> int:
    """How much time the requests cover."""
    if not model.requests:
        return 0
    return max(one.until for one in model.requests) - min(one.start for one in model.requests)


def _looked_at(model: Model) -> list[str]:
    recording = model.recording
    workers = count(len(model.lanes), "worker")
    text = (
        f"{recording.name} (pid {recording.pid}), {workers}, fastserve {recording.version}, Python {recording.python}."
    )
    lines = [text]
    if model.requests:
        requests = count(len(model.requests), "request")
        lines.append(f"Looked at {requests} within {duration(_span(model))}; the lens is `{recording.mode}`.")
    elif recording.source == "live" and recording.mode in ("off", "ready", "stalls"):
        lines.append(
            f"No request is recorded; the lens is `{recording.mode}`. "
            f"`fastserve doctor {recording.name} --for 30s` records for that long."
        )
    elif recording.source == "live":
        lines.append(f"The lens is `{recording.mode}`, and no request has come since.")
    else:
        lines.append("No request is recorded in this file.")
    if recording.note:
        lines.append(recording.note)
    lost = sum(lane.lost for lane in model.lanes)
    if lost:
        last = duration(recording.taken_ns - max(lane.since_ns for lane in model.lanes))
        lines.append(f"{count(lost, 'older event')} had been overwritten: the last {last} are complete.")
    if any(lane.mechanism == 3 for lane in model.lanes):
        lines.append("The lens of a worker has switched itself off after an error: see the server's log.")
    return lines
