"""Every test of the wings runs on both event loops: asyncio's and uvloop. The driver, the wire and the timers meet each
of them in their own way, and what a handler sees of asyncio must not depend on it.

FASTSERVE_TEST_LOOP=asyncio or =uvloop runs one of them only.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from interfaces.clients import Peer

import fastserve.testing.live
from fastserve.process.loops import new_loop

LOOPS = [name for name in ("uvloop", "asyncio") if os.environ.get("FASTSERVE_TEST_LOOP", name) == name]


@pytest.fixture(params=LOOPS, autouse=True)
def loop_name(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The loop of this run; live_server() takes it where a test does not ask for one."""
    chosen: str = request.param
    monkeypatch.setattr(
        fastserve.testing.live, "new_loop", lambda name, *more: new_loop(chosen if name == "auto" else name, *more)
    )
    return chosen


@pytest.fixture
def loop(loop_name: str) -> Iterator[asyncio.AbstractEventLoop]:
    """In place of the one in tests/conftest.py."""
    loop = new_loop(loop_name)
    yield loop
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()


@pytest.fixture
def peer() -> Iterator[Callable[..., Peer]]:
    made: list[Peer] = []

    def make(*arguments: Any, **fields: Any) -> Peer:
        made.append(Peer(*arguments, **fields))
        return made[-1]

    yield make
    for item in made:
        item.close()


@pytest.fixture
def errors() -> Iterator[list[logging.LogRecord]]:
    """The records of the error log, as they come."""
    records: list[logging.LogRecord] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = records.append  # type: ignore[method-assign]
    logger = logging.getLogger("fastserve.error")
    logger.addHandler(handler)
    yield records
    logger.removeHandler(handler)
