"""live_server: ready when entered, gone when left, and honest about errors."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import threading
import urllib.request
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import pytest

from fastserve import App
from fastserve.errors import ConfigError
from fastserve.testing import live_server


def make(startup: Exception | None = None, shutdown: Exception | None = None) -> App:
    @contextlib.asynccontextmanager
    async def lifespan(_app: object) -> AsyncIterator[None]:
        if startup is not None:
            raise startup
        yield
        if shutdown is not None:
            raise shutdown

    app = App(lifespan=lifespan)

    @app.get("/")
    async def hello() -> str:
        return type(asyncio.get_running_loop()).__module__

    return app


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("fastserve")]


@pytest.mark.parametrize(("loop", "module"), [("uvloop", "uvloop"), ("asyncio", "asyncio")])
def test_serves_on_a_free_port_with_a_loop_of_its_own(loop: str, module: str) -> None:
    with live_server(make(), loop=loop) as url:
        assert url.startswith("http://127.0.0.1:") and not url.endswith((":0", "/"))
        with urllib.request.urlopen(url, timeout=5) as response:
            assert response.read().decode().startswith(module)
    assert not threads()
    with pytest.raises(OSError):
        urllib.request.urlopen(url, timeout=5)


def test_several_at_once_and_from_inside_a_loop() -> None:
    async def main() -> None:
        with live_server(make()) as one, live_server(make()) as two:
            assert one != two
            for url in (one, two):
                response = await asyncio.to_thread(urllib.request.urlopen, url, timeout=5)
                with response:
                    assert response.status == 200

    asyncio.run(main())


def test_kept_connection_does_not_hold_the_exit() -> None:
    with live_server(make()) as url:
        connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=5)
        connection.request("GET", "/")
        connection.getresponse().read()
    connection.close()
    assert not threads()


def test_startup_error_is_raised() -> None:
    with pytest.raises(LookupError, match="no database"), live_server(make(startup=LookupError("no database"))):
        pytest.fail("the block must not run")
    assert not threads()


def test_shutdown_error_is_raised() -> None:
    with pytest.raises(LookupError, match="no goodbye"), live_server(make(shutdown=LookupError("no goodbye"))):
        pass
    assert not threads()


def test_error_in_the_block_is_its_own() -> None:
    with pytest.raises(ZeroDivisionError), live_server(make()):
        raise ZeroDivisionError
    assert not threads()


def test_wrong_option_is_raised() -> None:
    with pytest.raises(ConfigError, match="did you mean 'port'"), live_server(make(), prot=1):
        pytest.fail("the block must not run")
