"""lens: a live server that records every request, and an assertion for tests: nothing held the loop for too long.

Room: the top. Called by: tests of applications; pytest_plugin.py. Calls: live.py (the server), lens (what it has recorded).
"""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from fastserve.lens import explain as explaining
from fastserve.lens import findings as found
from fastserve.lens.catalogue import Finding
from fastserve.lens.model import Hold, Model, RequestTrace, build, place
from fastserve.lens.recording import Recording
from fastserve.lens.wording import duration, who
from fastserve.testing.live import LiveServer

__all__ = ["LensServer", "Slice", "lens_server"]

SETTLE = 2.0  # seconds in which requests come to their end, after their clients have the answer
_numbers = itertools.count(1)


@contextlib.contextmanager
def lens_server(app: Any, **options: Any) -> Iterator[LensServer]:
    """A live server (see live_server()) that records every request.

        with lens_server(app) as server:
            httpx.get(server.url + "/report")
        server.assert_no_slice_over(0.05)
        assert [one.path for one in server.requests] == ["/report"]

    What it has recorded can be looked at inside the block and after it.
    """
    server = LensServer(app, options)
    server.start()
    try:
        yield server
    finally:
        server.close()
    server.raise_failure()


@dataclass(frozen=True)
class Slice:
    """One run slice of a task: nothing else on the loop ran meanwhile."""

    request: str  # "GET /report"
    id: str  # "w0-0001"
    task: str  # the name of its coroutine
    seconds: float
    where: str  # "reports.py:88 (render)" as far as it was seen, else between which lines; "" if not at all
    gc: float = 0.0  # seconds of it that were a collection of garbage

    def __str__(self) -> str:
        return f"{self.request} ({self.id}) ran {self.seconds * 1000:.0f} ms" + (
            f", {self.where}" if self.where else ""
        )


class LensServer:
    """A live server and its lens. `url`, and what was recorded: `requests`, `slices`, `findings`, explain()."""

    def __init__(self, app: Any, options: dict[str, Any]) -> None:
        options.setdefault("lens", "full")
        options.setdefault("name", f"test-{os.getpid()}-{next(_numbers)}")
        self._live = LiveServer(app, options)
        self._name = str(options["name"])
        self._kept: Model | None = None  # once the server is gone

    @property
    def url(self) -> str:
        """Such as "http://127.0.0.1:40123"."""
        return self._live.server.url

    def start(self) -> None:
        self._live.start()

    def close(self) -> None:
        """Keep what is recorded, and stop the server."""
        try:
            if self._kept is None and self._live.alive:
                self._kept = self._settled()
        finally:
            self._live.join()

    def raise_failure(self) -> None:
        self._live.raise_failure()

    # ------------------------------------------------------------------------------------------------- what is recorded

    @property
    def model(self) -> Model:
        """All of it (fastserve.lens.model), up to now or to the end of the server."""
        return self._kept if self._kept is not None else self._settled()

    def _settled(self) -> Model:
        """The client may have its answer before the server has written down that it has."""
        deadline = time.monotonic() + SETTLE
        while True:
            model = build(Recording.take(self._name))
            over = all(one.finished and not _runs(one) for one in model.requests if not one.websocket)
            if over or time.monotonic() > deadline:
                return model
            time.sleep(0.01)

    @property
    def requests(self) -> list[RequestTrace]:
        """By the time they began."""
        return self.model.requests

    @property
    def slices(self) -> list[Slice]:
        """Every run slice, the longest first."""
        model = self.model
        slices = []
        for request in model.requests:
            lane = model.lane(request)
            holds = {(hold.task, hold.start): hold for hold in lane.holds} if lane is not None else {}
            for task in request.tasks.values():
                for poll in task.polls:
                    hold = holds.get((task.id, poll.start))
                    where = _where(hold, model) if hold is not None else _before(place(poll.stack))
                    gc = (hold.gc if hold is not None else 0) / 1e9
                    slices.append(Slice(request.name, request.id, task.name, poll.length / 1e9, where, gc))
        return sorted(slices, key=lambda slice_: -slice_.seconds)

    @property
    def findings(self) -> list[Finding]:
        """As `fastserve doctor` has them, the worst first."""
        return found.find(self.model)

    def explain(self, which: str = "slowest") -> str:
        """One request in sentences: "last", "slowest" or an id. LensError if there is none."""
        return explaining.explain(self.model, which)

    def assert_no_slice_over(self, seconds: float) -> None:
        """AssertionError, with the lines, if anything that a request did held the loop for longer. What a collection of
        garbage took is not counted; it may have been anybody's."""
        too_long = [one for one in self.slices if one.seconds - one.gc > seconds]
        if too_long:
            lines = "\n".join(f"  {one}" for one in too_long[:10])
            more = f"\n  and {len(too_long) - 10} more" if len(too_long) > 10 else ""
            limit = duration(round(seconds * 1e9))
            raise AssertionError(f"nothing else could run on the loop for more than {limit}:\n{lines}{more}")


def _runs(request: RequestTrace) -> bool:
    """Does its handler go on after the answer?"""
    return request.root is not None and request.root.ended is None and not request.partial


def _where(hold: Hold, model: Model) -> str:
    """What `who` says, without the request."""
    text = who(hold, model.by_id)
    request = model.by_id.get(hold.request)
    name = f"{request.name} ({request.id})" if request is not None else ""
    return text.removeprefix(name).strip() if text.startswith(name) else text


def _before(where: str) -> str:
    return f"before {where}" if where else ""
