"""fastserve: a strict, fast HTTP/1.1 server for Python applications.

Room: the top. Called by: users. Calls: nothing before a name is used. The names: App, Router, Request, Response and its
kin, HTTPException, the argument markers, run and Server. Each is loaded when it is first used, so that importing
fastserve is cheap and the floors stay apart.
"""

from typing import TYPE_CHECKING

from fastserve._layout import ensure_compiled
from fastserve._version import __version__

if TYPE_CHECKING:  # the same names as in _WHERE, for type checkers and editors, which do not run __getattr__
    from fastserve.app import App as App
    from fastserve.errors import ClientDisconnected as ClientDisconnected
    from fastserve.errors import FastserveError as FastserveError
    from fastserve.errors import HTTPException as HTTPException
    from fastserve.errors import WebSocketDisconnect as WebSocketDisconnect
    from fastserve.params import Header as Header
    from fastserve.params import Json as Json
    from fastserve.params import Query as Query
    from fastserve.params import State as State
    from fastserve.process.run import run as run
    from fastserve.process.server import Server as Server
    from fastserve.protocol.headers import Headers as Headers
    from fastserve.protocol.lens import mark as mark
    from fastserve.protocol.request import Request as Request
    from fastserve.protocol.response import EventSourceResponse as EventSourceResponse
    from fastserve.protocol.response import FileResponse as FileResponse
    from fastserve.protocol.response import HTMLResponse as HTMLResponse
    from fastserve.protocol.response import JSONResponse as JSONResponse
    from fastserve.protocol.response import PlainTextResponse as PlainTextResponse
    from fastserve.protocol.response import RedirectResponse as RedirectResponse
    from fastserve.protocol.response import Response as Response
    from fastserve.protocol.response import StreamingResponse as StreamingResponse
    from fastserve.protocol.websocket import WebSocket as WebSocket
    from fastserve.routing import Router as Router

ensure_compiled(__file__)

_WHERE = {
    "App": "fastserve.app",
    "Router": "fastserve.routing",
    "Request": "fastserve.protocol.request",
    "Headers": "fastserve.protocol.headers",
    "Response": "fastserve.protocol.response",
    "PlainTextResponse": "fastserve.protocol.response",
    "HTMLResponse": "fastserve.protocol.response",
    "JSONResponse": "fastserve.protocol.response",
    "RedirectResponse": "fastserve.protocol.response",
    "StreamingResponse": "fastserve.protocol.response",
    "EventSourceResponse": "fastserve.protocol.response",
    "FileResponse": "fastserve.protocol.response",
    "WebSocket": "fastserve.protocol.websocket",
    "mark": "fastserve.protocol.lens",
    "WebSocketDisconnect": "fastserve.errors",
    "Query": "fastserve.params",
    "Header": "fastserve.params",
    "State": "fastserve.params",
    "Json": "fastserve.params",
    "HTTPException": "fastserve.errors",
    "ClientDisconnected": "fastserve.errors",
    "FastserveError": "fastserve.errors",
    "Server": "fastserve.process.server",
    "run": "fastserve.process.run",
}

__all__ = ["__version__", *_WHERE]


if not TYPE_CHECKING:  # a type checker that saw it would believe in any name

    def __getattr__(name: str) -> object:
        from importlib import import_module

        where = _WHERE.get(name)
        if where is None:
            raise AttributeError(f"module 'fastserve' has no attribute {name!r}")
        value = getattr(import_module(where), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_WHERE})
