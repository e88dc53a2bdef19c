"""What a stack waits for, in one of fifteen words: a table of functions that wait, of the standard library and others.

Room: side wing, telemetry. Called by: recorder.pyx, once for each new stack. Calls: reading.

Told from the innermost frame outwards, as long as the frames are a library's: behind the first frame of the user's own
nothing is known that would be his. Locks, events, queues and streams of asyncio and anyio are what others are made of: a
pool that keeps its connections in an `asyncio.Queue` is waited for as a pool. So what they say counts only if no library
between them and the user's frame says more. What no row knows is a future, which everything else waits for in the end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from fastserve.telemetry.lens.reading import Wait, is_library

__all__ = ["Wait", "is_library", "wait_of"]

WAITS: dict[str, dict[str, Wait]] = {
    # --- the standard library ---
    "asyncio/tasks.py": {
        "sleep": Wait.TIMER,
        "__sleep0": Wait.YIELD,
        "wait": Wait.CHILDREN,
        "_wait": Wait.CHILDREN,
        "wait_for": Wait.CHILDREN,
        "_wait_for_one": Wait.CHILDREN,
        "gather": Wait.CHILDREN,
        "_cancel_and_wait": Wait.CHILDREN,
        "_AsCompletedIterator._wait_for_one": Wait.CHILDREN,
    },
    "asyncio/taskgroups.py": {"*": Wait.CHILDREN},
    "asyncio/locks.py": {
        "Event.wait": Wait.EVENT,
        "Condition.wait": Wait.EVENT,
        "Barrier.wait": Wait.EVENT,
        "*": Wait.LOCK,
    },
    "asyncio/queues.py": {"*": Wait.QUEUE},
    "asyncio/threads.py": {"*": Wait.THREAD},
    "asyncio/streams.py": {"*": Wait.IO},
    "asyncio/sslproto.py": {"*": Wait.IO},
    "asyncio/subprocess.py": {"*": Wait.SUBPROCESS},
    "asyncio/base_subprocess.py": {"*": Wait.SUBPROCESS},
    "asyncio/selector_events.py": {"*": Wait.IO},
    "asyncio/base_events.py": {
        "BaseEventLoop.getaddrinfo": Wait.THREAD,
        "BaseEventLoop.getnameinfo": Wait.THREAD,
        "BaseEventLoop.shutdown_default_executor": Wait.THREAD,
        "*": Wait.IO,
    },
    # --- anyio, which Starlette and httpx stand on ---
    "anyio/to_thread.py": {"*": Wait.THREAD},
    "anyio/from_thread.py": {"*": Wait.THREAD},
    "anyio/to_process.py": {"*": Wait.SUBPROCESS},
    "anyio/_core/_eventloop.py": {"sleep": Wait.TIMER, "sleep_until": Wait.TIMER, "sleep_forever": Wait.TIMER},
    "anyio/_core/_synchronization.py": {"Event.wait": Wait.EVENT, "Condition.wait": Wait.EVENT, "*": Wait.LOCK},
    "anyio/streams/memory.py": {"*": Wait.QUEUE},
    "anyio/_core/_sockets.py": {"*": Wait.IO},
    "anyio/_backends/_asyncio.py": {
        "TaskGroup.__aexit__": Wait.CHILDREN,
        "AsyncIOBackend.run_sync_in_worker_thread": Wait.THREAD,
        "AsyncIOBackend.sleep": Wait.TIMER,
        "AsyncIOBackend.checkpoint": Wait.YIELD,
        "AsyncIOBackend.cancel_shielded_checkpoint": Wait.YIELD,
        "CapacityLimiter.acquire_on_behalf_of": Wait.THREAD,
        "CapacityLimiter.acquire": Wait.THREAD,
        "Event.wait": Wait.EVENT,
        "Lock.acquire": Wait.LOCK,
        "Semaphore.acquire": Wait.LOCK,
        "SocketStream.receive": Wait.IO,
        "SocketStream.send": Wait.IO,
        "Process.wait": Wait.SUBPROCESS,
    },
    "asgiref/sync.py": {"*": Wait.THREAD},
    "starlette/concurrency.py": {"*": Wait.THREAD},
    "aiofiles/threadpool/": {"*": Wait.THREAD},
    # --- pools ---
    "asyncpg/pool.py": {
        "Pool._acquire": Wait.POOL,
        "Pool._acquire.<locals>._acquire_impl": Wait.POOL,
        "PoolAcquireContext.__aenter__": Wait.POOL,
        "*": Wait.UPSTREAM,
    },
    "psycopg_pool/": {"*": Wait.POOL},
    "aiopg/pool.py": {"*": Wait.POOL},
    "aiomysql/pool.py": {"*": Wait.POOL},
    "asyncmy/pool.": {"*": Wait.POOL},
    "aioodbc/pool.py": {"*": Wait.POOL},
    "aiosqlitepool/pool.py": {"Pool.acquire": Wait.POOL},
    "redis/asyncio/connection.py": {
        "BlockingConnectionPool.get_connection": Wait.POOL,
        "*": Wait.UPSTREAM,
    },
    "pymongo/asynchronous/pool.py": {"Pool._get_conn": Wait.POOL, "Pool.checkout": Wait.POOL, "*": Wait.UPSTREAM},
    "httpcore/_async/connection_pool.py": {"AsyncPoolRequest.wait_for_connection": Wait.POOL},
    "httpcore/_async/": {"*": Wait.UPSTREAM},
    "aiohttp/connector.py": {"BaseConnector._wait_for_available_connection": Wait.POOL, "*": Wait.UPSTREAM},
    # --- other servers ---
    "aiohttp/": {"*": Wait.UPSTREAM},
    "httpx/": {"*": Wait.UPSTREAM},
    "asyncpg/": {"*": Wait.UPSTREAM},
    "psycopg/": {"*": Wait.UPSTREAM},
    "aiopg/": {"*": Wait.UPSTREAM},
    "aiomysql/": {"*": Wait.UPSTREAM},
    "redis/": {"*": Wait.UPSTREAM},
    "pymongo/": {"*": Wait.UPSTREAM},
    "motor/": {"*": Wait.UPSTREAM},
    "grpc/aio/": {"*": Wait.UPSTREAM},
    "aio_pika/": {"*": Wait.UPSTREAM},
    "aiokafka/": {"*": Wait.UPSTREAM},
    "websockets/": {"*": Wait.UPSTREAM},
    "aiosqlite/": {"*": Wait.THREAD},
    # --- ours, which are compiled and have no frame of their own but a name ---
    "fastserve/interfaces/native": {"_in_pool": Wait.THREAD, "_threaded": Wait.THREAD, "_call_mounted": Wait.CHILDREN},
    "fastserve/interfaces/relay": {"relay": Wait.CHILDREN},
    # --- what answers by tasks of its own ---
    "starlette/middleware/base.py": {
        "BaseHTTPMiddleware.__call__.<locals>.call_next": Wait.CHILDREN,
        "BaseHTTPMiddleware.__call__.<locals>.call_next.<locals>.body_stream": Wait.CHILDREN,
    },
}
"""Part of a file's path -> name of the function, or "*" for all others in it -> what it waits for. The first part that
is found counts: more special ones stand first."""

MADE_OF = ("asyncio/", "anyio/")
"""Rows of what others are made of."""

PARTS = (Wait.LOCK, Wait.EVENT, Wait.QUEUE, Wait.CHILDREN, Wait.IO)
"""And what they say, if it is not the last word."""

BRIDGES = ("sqlalchemy/util/concurrency.py", "sqlalchemy/util/_concurrency_py3k.py")
"""What was called from a greenlet, whose frames nobody sees: a queue without a driver around it is the pool's."""

WORDS = {"receive": Wait.RECEIVE, "drain": Wait.DRAIN, "message": Wait.MESSAGE}
"""What awaitables of this server say of themselves (`lens_wait`)."""


def wait_of(frames: Sequence[tuple[str, str]], awaited: object, word: str | None) -> Wait:
    """What a coroutine waits for.

    frames: (file, qualified name) from the outermost. awaited: what the last of them has yielded: a future, another
    object, or None if it was nothing. word: what an awaitable of ours on the way says of itself, or None.
    """
    if word is not None and word in WORDS:
        return WORDS[word]
    part: Wait | None = None
    inner = ""  # the function that says so
    for path, name in reversed(frames):
        file = path.replace("\\", "/")
        row, found = _row(file, name)
        if found is None:
            if part is not None and any("/" + bridge in file for bridge in BRIDGES):
                return Wait.POOL if part == Wait.QUEUE or inner == "wait_for" else part
            if not is_library(path):
                break
        elif not row.startswith(MADE_OF) or (part is None and found not in PARTS):
            return found
        elif part is None:
            part, inner = found, name
    if part is not None:
        return part
    if awaited is None:
        return Wait.YIELD
    if isinstance(awaited, asyncio.Task) or type(awaited).__name__ == "_GatheringFuture":
        return Wait.CHILDREN
    return Wait.FUTURE


def _row(file: str, name: str) -> tuple[str, Wait | None]:
    for part, names in WAITS.items():
        if "/" + part in file or file.startswith(part):
            return part, names.get(name, names.get("*"))
    return "", None
