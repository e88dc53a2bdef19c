"""live: a server in a thread with an event loop of its own, ready when it is entered and gone when it is left.

Room: the top. Called by: tests; client.py. Calls: process (Server, new_loop).
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from typing import Any

from fastserve.process.loops import new_loop
from fastserve.process.server import Server

__all__ = ["LiveServer", "live_server"]


@contextlib.contextmanager
def live_server(app: Any, **options: Any) -> Iterator[str]:
    """Serve `app` in a thread with an event loop of its own and yield the base URL, such as "http://127.0.0.1:40123".

    Options are those of the command line, with underscores; the port is a free one unless given. What the application's
    startup or shutdown raises is raised here.

        with live_server(app) as url:
            assert httpx.get(url).text == "hello"
    """
    live = LiveServer(app, options)
    live.start()
    try:
        yield live.server.url
    finally:
        live.join()
    live.raise_failure()


class LiveServer:
    """The same in steps. Options as in live_server()."""

    def __init__(self, app: Any, options: dict[str, Any]) -> None:
        options = dict(options)
        if not {"host", "port", "bind", "uds"} & options.keys():
            options["port"] = 0
        options.setdefault("timeout_graceful_shutdown", 5.0)
        self.server = Server(app, **options)
        self._loop = new_loop(options.get("loop", "auto"))
        self._stop = asyncio.Event()
        self._started = threading.Event()
        self._failures: list[BaseException] = []
        self._thread = threading.Thread(target=self._run, name="fastserve-live-server", daemon=True)

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def start(self) -> None:
        """Returns when it serves; raises what keeps it from that."""
        self._thread.start()
        self._started.wait()
        if self._failures:
            self.join()
            self.raise_failure()

    def tell_to_stop(self) -> None:
        """From any thread; does not wait."""
        with contextlib.suppress(RuntimeError):  # it ended by itself
            self._loop.call_soon_threadsafe(self._stop.set)

    def join(self) -> None:
        """Stop it, and wait for the end. TimeoutError if that does not come."""
        self.tell_to_stop()
        if threading.current_thread() is self._thread:  # the collector of garbage may run anywhere
            return
        self._thread.join(self.server.config.timeout_graceful_shutdown + 10.0)
        if self._thread.is_alive():
            raise TimeoutError("the live server did not stop")

    def raise_failure(self) -> None:
        """What its startup or shutdown raised, once."""
        if self._failures:
            raise self._failures.pop()

    async def _serve(self) -> None:
        async with self.server:
            self._started.set()
            await self._stop.wait()

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
                runner.run(self._serve())
        except BaseException as error:
            self._failures.append(error)
        finally:
            self._started.set()
