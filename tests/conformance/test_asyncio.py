"""asyncio, anyio, asgiref and contexts, seen from inside a request: the same here as under uvicorn."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from conformance.asyncio_app import CHECKS
from process.running import Running

HERE = Path(__file__).resolve().parent


@pytest.fixture(scope="module", params=["uvloop", "asyncio"])
def both(request: pytest.FixtureRequest) -> Iterator[tuple[httpx.Client, httpx.Client]]:
    arguments = ("asyncio_app:app", "--port", "0", "--loop", request.param)
    with (
        Running(*arguments, cwd=HERE, command=[sys.executable, "-m", "uvicorn"]) as theirs,
        Running(*arguments, "--no-access-log", cwd=HERE) as ours,
        httpx.Client(base_url=theirs.wait_for(r"running on (http://[\d.]+:\d+)")[1], timeout=20) as there,
        httpx.Client(base_url=f"http://127.0.0.1:{ours.ready().port}", timeout=20) as here,
    ):
        yield here, there


@pytest.mark.parametrize("name", CHECKS)
def test_it_is_as_under_uvicorn(both: tuple[httpx.Client, httpx.Client], name: str) -> None:
    here, there = both
    for path in (
        f"/{name}",
        f"/{name}/later",
        f"/{name}",
    ):  # in the first step, behind a wait, in a task that served before
        wanted = there.get(path).text
        assert not wanted.startswith("raised ")
        assert here.get(path).text == wanted
