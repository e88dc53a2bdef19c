"""The same Connection over TLS: the Wire door, not the HTTP code, knows the difference.

The certificate in tests/data is self-signed, for localhost, and of no other use.
"""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import uvloop
from conformance.apps import MEGABYTE, app

from fastserve.interfaces import make_handler
from fastserve.protocol import Service

DATA = Path(__file__).resolve().parent.parent / "data"


@pytest.fixture(scope="module", params=["uvloop", "asyncio"])
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(DATA / "localhost.crt", DATA / "localhost.key")
    ready: list[int] = []
    started, stop = threading.Event(), asyncio.Event()
    loop = uvloop.new_event_loop() if request.param == "uvloop" else asyncio.new_event_loop()

    async def serve() -> None:
        service = Service(asyncio.get_running_loop(), make_handler(app, "native"))
        server = await asyncio.get_running_loop().create_server(service.connect, "127.0.0.1", 0, ssl=context)
        ready.append(server.sockets[0].getsockname()[1])
        started.set()
        await stop.wait()
        server.close()
        service.shutdown()
        await asyncio.wait_for(service.wait_closed(), 5)
        service.close()

    def body() -> None:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(serve())

    thread = threading.Thread(target=body)
    thread.start()
    assert started.wait(5)
    yield f"https://localhost:{ready[0]}"
    loop.call_soon_threadsafe(stop.set)
    thread.join(10)
    assert not thread.is_alive()


@pytest.fixture
def client() -> Iterator[httpx.Client]:
    with httpx.Client(verify=ssl.create_default_context(cafile=str(DATA / "localhost.crt")), timeout=20) as client:
        yield client


def test_requests_on_one_connection(url, client):
    for _ in range(3):
        assert client.get(url).text == "hello"
    assert client.post(f"{url}/echo", content=b"x" * 300000).content == b"x" * 300000


def test_large_download(url, client):
    assert client.get(f"{url}/megabytes/5").content == MEGABYTE * 5


def test_a_refused_request_is_answered_and_closed(url, client):
    response = client.get(url, headers={"host": "bad host"})
    assert response.status_code == 400
    assert response.headers["connection"] == "close"


def test_the_scheme_is_known(url, client):
    assert client.get(f"{url}/scheme").text == "https"
