"""redact: a recording without what identifies somebody, to be shown to others.

Room: the top. Called by: commands. Calls: recording, model, paths; telemetry (the layout of an area).

A path may hold a name, a number or a secret, and what a mark says is the application's; how long it took and on
which line it waited is not. So a request is called by its route, which its application has written down before
anybody came; where none is known, by a keyed hash of its path: equal paths have equal names in one export, and with
the key, which is forgotten, goes all that could be tried. Methods that nobody has registered, marks and files'
folders are treated alike; traceparents and the command line are left out. It is done to the bytes, so that a file
of it holds nothing else either.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from fastserve.lens.model import SPAWN_ROOT
from fastserve.lens.paths import stripped
from fastserve.lens.recording import Kind, Recording, WorkerRecording
from fastserve.telemetry.lens.reading import CODE, ENTRY, EVENT, LIBRARY, TEXT, Area, Event, is_ours

__all__ = ["redacted"]

METHODS = frozenset(["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "QUERY"])
DIGITS = 10  # of a hash, hexadecimal


class _Names:
    """What things are called instead."""

    def __init__(self) -> None:
        self.key = os.urandom(32)

    def hash(self, text: str) -> str:
        return "~" + hmac.new(self.key, text.encode("utf-8", "surrogateescape"), hashlib.sha256).hexdigest()[:DIGITS]

    def request(self, text: str, route: str | None) -> str:
        """ "GET /items/{id}" or "GET /~0f1e2d3c4b" for "GET /items/7"."""
        method, _, path = text.partition(" ")
        if not path:
            return "?"  # it was overwritten
        method = method if method in METHODS else "_OTHER"
        return f"{method} {route if route is not None else '/' + self.hash(path)}"


def redacted(recording: Recording) -> Recording:
    """The same with routes or hashes for paths. It can be looked at, and saved, as any."""
    names = _Names()
    workers: list[WorkerRecording] = []
    seats: list[dict[str, Any]] = []
    for worker, seat in zip(recording.workers, recording._seats, strict=True):
        routes = {event.request: worker.text(event.b) for event in worker.events if event.b and _tells_route(event)}
        area = None if worker.area is None else _area(worker, worker.area, routes, names)
        flights = [
            {**flight, "text": names.request(str(flight["text"]), routes.get(int(flight["request"])))}
            for flight in seat["flights"]
        ]
        workers.append(WorkerRecording.of(area, seat["figures"], flights))
        seats.append({"figures": seat["figures"], "flights": flights})
    return replace(recording, workers=workers, argv=recording.argv[:1] and ["fastserve"], _seats=seats)


def _tells_route(event: Event) -> bool:
    return event.kind == Kind.ROUTE or (event.kind == Kind.TASK_SPAWN and bool(event.flags & SPAWN_ROOT))


def _area(worker: WorkerRecording, area: Area, routes: dict[int, str], names: _Names) -> Area:
    events = [Event._make(fields) for fields in EVENT.iter_unpack(area.ring)]
    marks = {event.b for event in events if event.kind == Kind.MARK}
    kept = {event.b for event in events if _tells_route(event) or event.kind in (Kind.THREAD_RUN, Kind.MARK)}
    kept |= {event.a for event in events if event.kind in (Kind.TASK_SPAWN, Kind.ORPHAN)}
    texts = bytearray()
    most = 0
    for number, kind, body in _entries(area.texts):
        most = max(most, number)
        if kind == TEXT and number not in kept:
            continue  # of what is called otherwise now, or was overwritten
        if kind == TEXT and number in marks:
            body = names.hash(body.decode("utf-8", "surrogateescape")).encode()
        elif kind == CODE:
            file, *rest = body.decode("utf-8", "surrogateescape").split("\0")
            body = "\0".join([_file(file), *rest]).encode("utf-8", "surrogateescape")
        texts += _entry(number, kind, body)
    made: dict[str, int] = {}

    def number_of(text: str) -> int:
        nonlocal most, texts
        if text not in made:
            most += 1
            made[text] = most
            texts += _entry(most, TEXT, text.encode())
        return made[text]

    ring = bytearray()
    for event in events:
        if event.kind == Kind.REQUEST_BEGIN:
            called = names.request(worker.text(event.b), routes.get(event.request))
            event = event._replace(b=number_of(called))
        elif event.kind == Kind.STALL and event.a >> 32:
            called = names.request(worker.text(event.a >> 32), routes.get(event.request))
            event = event._replace(a=event.a & 0xFFFFFFFF | number_of(called) << 32)
        elif event.kind == Kind.CONTEXT:
            event = event._replace(b=0)
        ring += EVENT.pack(*event)
    header = {**area.header, "recent_used": 0, "text_used": len(texts)}
    return Area(area.page, header, bytes(texts), b"", bytes(ring), area.lost)


def _entries(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Of the texts, as far as they make sense."""
    at = 0
    while at + ENTRY.size <= len(data):
        number, kind, length = ENTRY.unpack_from(data, at)
        body = data[at + ENTRY.size : at + ENTRY.size + length]
        if number == 0 or len(body) < length:
            return
        yield number, kind, body
        at += ENTRY.size + (length + 7 & ~7)


def _entry(number: int, kind: int, body: bytes) -> bytes:
    return ENTRY.pack(number, kind, len(body)) + body + bytes(-len(body) % 8)


def _file(file: str) -> str:
    """Without the folders that are this machine's; whose it is can still be seen."""
    if is_ours(file):
        parts = re.split(r"[/\\]", file)
        return "/".join(parts[len(parts) - 1 - parts[::-1].index("fastserve") :]) if "fastserve" in parts else file
    found = LIBRARY.search(file)
    if found is not None:
        return file[found.start() :]
    return stripped(file) if not file.startswith("<") else file
