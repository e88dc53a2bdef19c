"""The switch of conftest.py does what it says: a handler runs on the loop of the run."""

from __future__ import annotations

import asyncio
import urllib.request

import pytest

from fastserve import App
from fastserve.testing import live_server


@pytest.mark.parametrize("asked", [None, "asyncio", "uvloop"])
def test_a_handler_runs_on_the_loop_of_the_run(loop_name: str, asked: str | None) -> None:
    app = App()

    @app.get("/")
    async def kind() -> str:
        return type(asyncio.get_running_loop()).__module__

    with live_server(app, **({} if asked is None else {"loop": asked})) as url:
        assert urllib.request.urlopen(url).read().decode().startswith(asked or loop_name)


def test_the_loop_fixture_is_it_too(loop: asyncio.AbstractEventLoop, loop_name: str) -> None:
    assert type(loop).__module__.startswith(loop_name)
