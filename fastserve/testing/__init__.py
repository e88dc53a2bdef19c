"""testing: what tests of an application need: a live server, one that records, and a client that comes with one.

Room: the top. Called by: tests, ours and other people's; pytest_plugin.py. Calls: process (Server), lens.
TestClient is loaded when it is first used, for it needs httpx, which we do not depend on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastserve.testing.live import live_server

if TYPE_CHECKING:  # the same names as in _WHERE, for type checkers and editors, which do not run __getattr__
    from fastserve.testing.client import TestClient as TestClient
    from fastserve.testing.lens import LensServer as LensServer
    from fastserve.testing.lens import lens_server as lens_server
    from fastserve.testing.websocket import WebSocketDenialResponse as WebSocketDenialResponse
    from fastserve.testing.websocket import WebSocketSession as WebSocketSession

_WHERE = {
    "TestClient": "fastserve.testing.client",
    "LensServer": "fastserve.testing.lens",
    "lens_server": "fastserve.testing.lens",
    "WebSocketDenialResponse": "fastserve.testing.websocket",
    "WebSocketSession": "fastserve.testing.websocket",
}

__all__ = ["LensServer", "TestClient", "WebSocketDenialResponse", "WebSocketSession", "lens_server", "live_server"]

if not TYPE_CHECKING:  # a type checker that saw it would believe in any name

    def __getattr__(name: str) -> object:
        from importlib import import_module

        where = _WHERE.get(name)
        if where is None:
            raise AttributeError(f"module 'fastserve.testing' has no attribute {name!r}")
        if not where.endswith(".lens"):
            try:
                import httpx  # noqa: F401
            except ImportError:
                raise ImportError(f"fastserve.testing.{name} needs httpx: pip install httpx") from None
        value = getattr(import_module(where), name)
        globals()[name] = value
        return value
