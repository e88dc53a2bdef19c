"""FS007 with the pools that people use, on a real server: a pool of one connection is found, with the line of the handler;
one that has a connection for everybody is not.

They are SQLAlchemy's, of HTTP connections, of Redis and of SQLite: what needs no database server.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from urllib.request import urlopen

import aiohttp
import aiosqlite
import aiosqlitepool
import httpx
import pytest
import redis.asyncio
import sqlalchemy
from sqlalchemy.ext.asyncio import create_async_engine

from fastserve import App
from fastserve.lens.catalogue import Finding
from fastserve.lens.findings import find
from fastserve.testing import LensServer, lens_server, live_server

HERE = Path(__file__).name
CLIENTS = 6
HOLD = 0.05  # seconds that each keeps its connection

Handler = Callable[[], Awaitable[str]]
Made = Callable[[int, Path], AbstractAsyncContextManager[Handler]]


async def slow() -> str:
    await asyncio.sleep(HOLD)
    return "slow"


@asynccontextmanager
async def with_sqlalchemy(size: int, folder: Path) -> AsyncIterator[Handler]:
    engine = create_async_engine(f"sqlite+aiosqlite:///{folder}/shop.db", pool_size=size, max_overflow=0)

    async def show() -> str:
        async with engine.connect() as connection:  # waits
            await connection.execute(sqlalchemy.text("select 1"))
            await asyncio.sleep(HOLD)
        return "shown"

    yield show
    await engine.dispose()


@asynccontextmanager
async def with_aiosqlitepool(size: int, folder: Path) -> AsyncIterator[Handler]:
    async def connect() -> aiosqlite.Connection:
        return await aiosqlite.connect(folder / "shop.db")

    async with aiosqlitepool.SQLiteConnectionPool(connect, pool_size=size) as pool:

        async def show() -> str:
            async with pool.connection() as connection:  # waits
                await connection.execute("select 1")
                await asyncio.sleep(HOLD)
            return "shown"

        yield show


@asynccontextmanager
async def with_redis(size: int, folder: Path) -> AsyncIterator[Handler]:
    """Against a server that knows the protocol, and no more: each GET takes its time."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            words = []
            for _ in range(int(line[1:])):
                length = int((await reader.readline())[1:])
                words.append((await reader.readexactly(length + 2))[:-2].upper())
            if words[0] == b"GET":
                await asyncio.sleep(HOLD)
            writer.write(b"%0\r\n" if words[0] == b"HELLO" else b"+OK\r\n")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    pool = redis.asyncio.BlockingConnectionPool(host="127.0.0.1", port=port, max_connections=size, timeout=10)
    client = redis.asyncio.Redis(connection_pool=pool)

    async def show() -> str:
        return str(await client.get("shop"))  # waits

    yield show
    await client.aclose()
    await pool.aclose()
    server.close()


@asynccontextmanager
async def with_httpx(size: int, folder: Path) -> AsyncIterator[Handler]:
    app = App()
    app.get("/")(slow)
    with live_server(app) as upstream:
        async with httpx.AsyncClient(limits=httpx.Limits(max_connections=size), trust_env=False) as client:

            async def show() -> str:
                return (await client.get(upstream)).text  # waits

            yield show


@asynccontextmanager
async def with_aiohttp(size: int, folder: Path) -> AsyncIterator[Handler]:
    app = App()
    app.get("/")(slow)
    with live_server(app) as upstream:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=size)) as client:

            async def show() -> str:
                async with client.get(upstream) as response:  # waits
                    return await response.text()

            yield show


POOLS = [with_sqlalchemy, with_aiosqlitepool, with_redis, with_httpx, with_aiohttp]


def look(made: Made, size: int, folder: Path) -> tuple[LensServer, list[Finding]]:
    """Some clients at once, each twice: what is found of the pool."""
    handler: Handler | None = None

    async def lifespan(app: App) -> AsyncIterator[None]:
        nonlocal handler
        async with AsyncExitStack() as stack:
            handler = await stack.enter_async_context(made(size, folder))
            for _ in range(2):  # what is imported and connected at the first time is not what is asked for
                await asyncio.gather(*(handler() for _ in range(size)))
            yield

    app = App(lifespan=lifespan)

    @app.get("/items")
    async def items() -> str:
        assert handler is not None
        return await handler()

    def ask(_: int) -> None:
        with urlopen(server.url + "/items", timeout=30) as response:
            response.read()

    with lens_server(app) as server, ThreadPoolExecutor(CLIENTS) as clients:
        list(clients.map(ask, range(2 * CLIENTS)))
    return server, [one for one in find(server.model, dev=False) if one.code == "FS007"]


@pytest.mark.parametrize("made", POOLS, ids=lambda made: made.__name__.removeprefix("with_"))
def test_a_pool_of_one_connection_is_what_everybody_waits_for(made: Made, tmp_path: Path) -> None:
    server, found = look(made, 1, tmp_path)
    assert len(found) == 1, ([one.text for one in found], server.explain())
    lines, first = inspect.getsourcelines(made)
    (line,) = [number for number, text in enumerate(lines, first) if "# waits" in text]
    assert found[0].at == f"{HERE}:{line}" and found[0].route == "GET /items"
    assert found[0].total_ns > CLIENTS * HOLD * 1e9 and found[0].count >= CLIENTS  # httpx waits in turns of its own
    assert "waited for a connection of a pool" in " ".join(server.explain("slowest").split())


@pytest.mark.parametrize("made", POOLS, ids=lambda made: made.__name__.removeprefix("with_"))
def test_a_pool_with_a_connection_for_everybody_is_innocent(made: Made, tmp_path: Path) -> None:
    for left in (2, 1, 0):  # a busy machine may take one's connection away for longer than it should
        server, found = look(made, CLIENTS, tmp_path)
        assert len(server.requests) == 2 * CLIENTS and all(one.status == 200 for one in server.requests)
        if not found or not left:
            break
        time.sleep(0.1)
    assert [one.text for one in found] == []
