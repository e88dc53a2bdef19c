"""testing: a live server for tests, ready when it is entered and gone when it is left.

Room: the top. Called by: tests, ours and other people's. Calls: process (Server).
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from typing import Any

from fastserve.process.loops import new_loop
from fastserve.process.server import Server

__all__ = ["live_server"]


@contextlib.contextmanager
def live_server(app: Any, **options: Any) -> Iterator[str]:
    """Serve `app` in a thread with an event loop of its own and yield the base URL, such as "http://127.0.0.1:40123".

    Options are those of the command line, with underscores; the port is a free one unless given. What the application's
    startup or shutdown raises is raised here.

        with live_server(app) as url:
            assert httpx.get(url).text == "hello"
    """
    if not {"host", "port", "bind", "uds"} & options.keys():
        options["port"] = 0
    options.setdefault("timeout_graceful_shutdown", 5.0)
    name = options.get("loop", "auto")
    server = Server(app, **options)
    loop = new_loop(name)
    stop = asyncio.Event()
    started = threading.Event()
    failures: list[BaseException] = []

    async def serve() -> None:
        async with server:
            started.set()
            await stop.wait()

    def body() -> None:
        try:
            with asyncio.Runner(loop_factory=lambda: loop) as runner:
                runner.run(serve())
        except BaseException as error:
            failures.append(error)
        finally:
            started.set()

    thread = threading.Thread(target=body, name="fastserve-live-server", daemon=True)
    thread.start()
    started.wait()
    try:
        if not failures:
            yield server.url
    finally:
        with contextlib.suppress(RuntimeError):  # it ended by itself
            loop.call_soon_threadsafe(stop.set)
        thread.join(server.config.timeout_graceful_shutdown + 10.0)
        if thread.is_alive():
            raise TimeoutError("the live server did not stop")
    if failures:
        raise failures[0]
