"""Server: embedded in a running loop of either kind; over TCP and Unix; starts whole or not at all; stops well."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import uvloop
from process.running import LIMIT

from fastserve import App, Server
from fastserve.errors import ConfigError

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "uvloop": uvloop.new_event_loop,
    "asyncio": asyncio.SelectorEventLoop,
}


@pytest.fixture(params=LOOPS)
def go(request: pytest.FixtureRequest) -> Callable[[Awaitable[Any]], Any]:
    """Run a coroutine on each kind of loop, bounded in time."""

    def body(main: Awaitable[Any]) -> Any:
        async def bounded() -> Any:
            async with asyncio.timeout(LIMIT):
                return await main

        with asyncio.Runner(loop_factory=LOOPS[request.param]) as runner:
            return runner.run(bounded())

    return body


class Probe:
    """An application that notes what happens to it."""

    def __init__(self, startup: Exception | None = None, shutdown: Exception | None = None) -> None:
        self.events: list[str] = []
        self.began = asyncio.Event()

        @contextlib.asynccontextmanager
        async def lifespan(_app: object) -> AsyncIterator[None]:
            self.events.append("startup")
            if startup is not None:
                raise startup
            yield
            self.events.append("shutdown")
            if shutdown is not None:
                raise shutdown

        self.app = App(lifespan=lifespan)

        @self.app.get("/")
        def hello() -> str:
            return "hello"

        @self.app.get("/slow")
        async def slow() -> str:
            self.began.set()
            await asyncio.sleep(0.3)
            self.events.append("answered")
            return "slow"

        @self.app.get("/endless")
        async def endless() -> str:
            self.began.set()
            try:
                await asyncio.sleep(60)
            finally:
                self.events.append("cancelled")
            return "never"

        @self.app.get("/thread")
        def thread() -> str:
            loop.call_soon_threadsafe(self.began.set)
            time.sleep(1.5)
            return "late"

        loop = asyncio.get_running_loop()


async def get(server: Server, path: str = "/") -> bytes:
    """All bytes of the answer; the connection stays open until the server closes it or the body is there."""
    url = server.url
    if url.startswith("unix:"):
        reader, writer = await asyncio.open_unix_connection(url.removeprefix("unix:"))
    else:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
    try:
        head = await reader.readuntil(b"\r\n\r\n")
        size = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        return head + await reader.readexactly(size)
    finally:
        writer.close()


def free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
            probe.listen()
        except OSError:
            return False
        return True


def test_embedded_server_serves_and_says_where(go: Callable[..., Any]) -> None:
    async def main() -> None:
        probe = Probe()
        before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
        async with Server(probe.app, port=0) as server:
            assert server.port > 0
            assert server.url == f"http://127.0.0.1:{server.port}"
            assert [str(address) for address in server.addresses] == [f"127.0.0.1:{server.port}"]
            assert server.interface == "native" and "serving" in repr(server)
            assert (await get(server)).endswith(b"hello")
            assert probe.events == ["startup"]
            assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
        assert probe.events == ["startup", "shutdown"]
        assert free(server.port) and "stopped" in repr(server)

    go(main())


def test_several_servers_in_one_loop(go: Callable[..., Any]) -> None:
    async def main() -> None:
        async with Server(Probe().app, port=0) as one, Server(Probe().app, bind=["127.0.0.1:0", "127.0.0.1:0"]) as two:
            assert len({one.port, *(address.port for address in two.addresses)}) == 3  # type: ignore[union-attr]
            assert (await get(one)).endswith(b"hello") and (await get(two)).endswith(b"hello")

    go(main())


def test_unix_socket(go: Callable[..., Any], tmp_path: Path) -> None:
    path = tmp_path / "s"

    async def main() -> None:
        async with Server(Probe().app, uds=str(path)) as server:
            assert server.url == f"unix:{path}"
            with pytest.raises(RuntimeError, match="no TCP port"):
                _ = server.port
            assert (await get(server)).endswith(b"hello")
        assert not path.exists()

    go(main())


def test_application_by_name(go: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setattr(sys, "path", list(sys.path))

    async def main() -> None:
        for reference, factory in (("apps:app", False), ("apps", False), ("apps:make", True)):
            async with Server(reference, app_dir=str(Path(__file__).parent), port=0, factory=factory) as server:
                assert (await get(server)).endswith(b"hello")

    go(main())


def test_stop_lets_a_request_in_hand_finish(go: Callable[..., Any]) -> None:
    async def main() -> None:
        probe = Probe()
        async with Server(probe.app, port=0) as server:
            answer = asyncio.ensure_future(get(server, "/slow"))
            await probe.began.wait()
            assert server.active == 1 and server.connections == 1
            port = server.port
        assert (await answer).endswith(b"slow")
        assert b"connection: close" in (await answer).lower()
        assert probe.events == ["startup", "answered", "shutdown"] and free(port)

    go(main())


def test_stop_does_not_wait_for_idle_connections(go: Callable[..., Any]) -> None:
    async def main() -> None:
        async with Server(Probe().app, port=0) as server:
            silent = await asyncio.open_connection("127.0.0.1", server.port)
            kept = await asyncio.open_connection("127.0.0.1", server.port)
            kept[1].write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            await kept[0].readuntil(b"hello")
            while server.connections < 2:
                await asyncio.sleep(0.01)
            began = time.monotonic()
        assert time.monotonic() - began < 1.0
        assert await silent[0].read() == b"" and await kept[0].read() == b""
        for _, writer in (silent, kept):
            writer.close()

    go(main())


def test_stop_cuts_what_does_not_end_and_still_runs_the_shutdown(
    go: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        probe = Probe()
        server = Server(probe.app, port=0, timeout_graceful_shutdown=0.5)
        await server.start()
        answer = asyncio.ensure_future(get(server, "/endless"))
        await probe.began.wait()
        began = time.monotonic()
        assert await server.stop() is False
        assert time.monotonic() - began < 1.5
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await answer
        assert probe.events == ["startup", "cancelled", "shutdown"]

    with caplog.at_level(logging.WARNING, "fastserve"):
        go(main())
    assert "cutting 1 connection " in caplog.text


def test_stop_does_not_wait_for_a_stuck_thread(go: Callable[..., Any], caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        probe = Probe()
        server = Server(probe.app, port=0, timeout_graceful_shutdown=0.5)
        await server.start()
        answer = asyncio.ensure_future(get(server, "/thread"))
        await probe.began.wait()
        began = time.monotonic()
        await server.stop()
        assert time.monotonic() - began < 1.4
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await answer
        assert probe.events == ["startup", "shutdown"]

    with caplog.at_level(logging.WARNING, "fastserve"):
        go(main())
    assert "left behind" in caplog.text


def test_startup_that_fails_is_raised_and_leaves_nothing(go: Callable[..., Any], tmp_path: Path) -> None:
    path = tmp_path / "s"

    async def main() -> None:
        probe = Probe(startup=LookupError("no database"))
        with socket.socket() as finder:
            finder.bind(("127.0.0.1", 0))
            port = finder.getsockname()[1]
        server = Server(probe.app, port=port, uds=str(path))
        with pytest.raises(LookupError, match="no database"):
            await server.start()
        assert free(port) and not path.exists()
        assert probe.events == ["startup"]
        assert await server.stop() is True

    go(main())


def test_shutdown_that_fails_is_raised_after_all_is_closed(go: Callable[..., Any]) -> None:
    async def main() -> None:
        with pytest.raises(LookupError, match="no goodbye"):
            async with Server(Probe(shutdown=LookupError("no goodbye")).app, port=0) as server:
                port = server.port
        assert free(port)

    go(main())


def test_shutdown_that_never_ends_is_given_up(go: Callable[..., Any], caplog: pytest.LogCaptureFixture) -> None:
    @contextlib.asynccontextmanager
    async def lifespan(_app: object) -> AsyncIterator[None]:
        yield
        await asyncio.sleep(60)

    async def main() -> None:
        began = time.monotonic()
        async with Server(App(lifespan=lifespan), port=0, timeout_graceful_shutdown=0.5):
            pass
        assert time.monotonic() - began < 2.0

    with caplog.at_level(logging.WARNING, "fastserve"):
        go(main())
    assert "shutdown was given up" in caplog.text


def test_exception_in_the_block_is_the_callers(go: Callable[..., Any]) -> None:
    async def main() -> None:
        probe = Probe()
        with pytest.raises(ZeroDivisionError):
            async with Server(probe.app, port=0):
                raise ZeroDivisionError
        assert probe.events == ["startup", "shutdown"]

    go(main())


def test_server_starts_once(go: Callable[..., Any]) -> None:
    async def main() -> None:
        server = Server(Probe().app, port=0)
        with pytest.raises(RuntimeError, match="has not started"):
            _ = server.url
        async with server:
            with pytest.raises(RuntimeError, match="it starts once"):
                await server.start()
        assert await server.stop() is True
        with pytest.raises(RuntimeError, match="it starts once"):
            await server.start()

    go(main())


def test_port_in_use_is_a_config_error(go: Callable[..., Any]) -> None:
    async def main() -> None:
        async with Server(Probe().app, port=0) as server:
            with pytest.raises(ConfigError, match="in use"):
                await Server(Probe().app, port=server.port).start()

    go(main())


def test_wrong_options_and_wrong_applications() -> None:
    with pytest.raises(ConfigError, match="did you mean 'port'"):
        Server("x:y", prot=1)
    with pytest.raises(ConfigError, match="one process"):
        Server("x:y", workers=2)

    async def main() -> None:
        with pytest.raises(ConfigError):
            await Server(object(), port=0).start()

    asyncio.run(main())
