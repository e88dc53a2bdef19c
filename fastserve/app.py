"""App: routes, middleware, hooks, error handlers, state and lifespan of one application.

Room: floor 2, plain Python; it only remembers what it was told. Called by: users; interfaces/native.pyx, which
recognises it by `__fastserve_app__` and compiles it; ASGI servers. Calls: routing.py, protocol/ (types). Never
process/, and of interfaces/ only the bridge, when an ASGI server calls. The names are Starlette's and FastAPI's.
"""

from __future__ import annotations

import inspect
import os
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, ClassVar, TypeVar, overload

from fastserve.errors import ConfigError
from fastserve.protocol.request import Namespace, Request
from fastserve.protocol.response import Response
from fastserve.routing import Router, checked_limit, describe
from fastserve.types import Receive, Scope, Send, WSGIApp

__all__ = ["App"]

CallNext = Callable[[Request], Awaitable[Response]]
Middleware = TypeVar("Middleware", bound=Callable[[Request, CallNext], Awaitable[Any]])
Hook = TypeVar("Hook", bound=Callable[..., Any])
Lifespan = Callable[[Any], "AbstractAsyncContextManager[Mapping[str, Any] | None] | AsyncIterator[Any]"]


class App(Router):
    """One application of the native API.

    `state`: mapping that `app.state` is filled with, or an object to use as `app.state`.
    `lifespan`: `lifespan(app)` gives an asynchronous context manager (or is an asynchronous generator function) that is
    entered before the first request and left after the last one; a mapping it yields becomes the contents of every
    `request.state`. `debug`: unexpected exceptions are answered with their traceback; never in production.
    `limit_request_body`: bytes that the body of a request may have, over it 413, where a route says nothing of its own;
    None: as the server has it.
    """

    __fastserve_app__: ClassVar[bool] = True

    def __init__(
        self,
        *,
        state: Any = None,
        lifespan: Lifespan | None = None,
        debug: bool = False,
        limit_request_body: int | None = None,
    ) -> None:
        super().__init__()
        self.state: Any = Namespace(state) if state is None or isinstance(state, Mapping) else state
        self.debug = debug
        self.limit_request_body = checked_limit(limit_request_body, "App")
        self._lifespan = lifespan
        self._middleware: list[Callable[..., Any]] = []
        self._before: list[Callable[..., Any]] = []
        self._after: list[Callable[..., Any]] = []
        self._mounts: list[tuple[str, Any, str]] = []  # path, application, interface
        self._folders: list[tuple[str, str, dict[str, Any]]] = []
        self._bridge: Any = None  # made when an ASGI server calls
        self._exception_handlers: dict[int | type[Exception], Callable[..., Any]] = {}
        # the compiled forms of this app that serve at the moment: marked stale when something is added
        self._compiled: weakref.WeakSet[Any] = weakref.WeakSet()

    def lifespan(self) -> AbstractAsyncContextManager[Mapping[str, Any] | None] | None:
        """A new context of the lifespan given to App, or None. For the server."""
        if self._lifespan is None:
            return None
        if inspect.isasyncgenfunction(self._lifespan):
            return asynccontextmanager(self._lifespan)(self)
        context = self._lifespan(self)
        if not isinstance(context, AbstractAsyncContextManager):
            raise ConfigError(
                f"lifespan {describe(self._lifespan)} gives {type(context).__name__}, not an asynchronous context "
                "manager",
                exit_code=3,
            )
        return context

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """This App as an ASGI 3 application, for other servers. Our own does not call it."""
        if self._bridge is None:
            from fastserve.interfaces.bridge import Bridge

            self._bridge = Bridge(self)
        await self._bridge(scope, receive, send)

    def mount(self, path: str, app: Any) -> None:
        """Give every path below `path` ("" or "/text") that no route of this App matches to an ASGI application.

        It is called with `root_path` grown by `path`, while `path` stays whole, as the ASGI specification has it; its
        `state` is what this App's lifespan yielded. Its own lifespan is not run. Of several mounts the longest takes
        it. Source: starlette.applications.Starlette.mount.
        """
        self._mount(path, app, "asgi")

    def mount_wsgi(self, path: str, app: WSGIApp) -> None:
        """The same for a WSGI application: Flask, Django, anything of PEP 3333.

        It runs in threads of its own, as many as `--threads` says, and is called with `path` as SCRIPT_NAME (behind
        `--root-path`) and the rest as PATH_INFO. Middleware and hooks of this App surround it. Source:
        a2wsgi.WSGIMiddleware, fastapi.middleware.wsgi, with the server's own WSGI in their place.
        """
        self._mount(path, app, "wsgi")

    def _mount(self, path: str, app: Any, interface: str) -> None:
        path = path.removesuffix("/")
        if path and not path.startswith("/"):
            raise ConfigError(f"a mount begins with '/', {path!r} does not", exit_code=3)
        if any(c in path for c in "{}?#"):
            raise ConfigError(f"a mount is plain text, {path!r} is not", exit_code=3)
        if not callable(app):
            raise ConfigError(f"mount {path!r}: {app!r} is not callable", exit_code=3)
        if app is self:
            raise ConfigError(f"mount {path!r}: an App cannot be mounted in itself", exit_code=3)
        if any(path == other for other, *_ in [*self._mounts, *self._folders]):
            raise ConfigError(f"mount {path!r} is registered twice", exit_code=3)
        self._mounts.append((path, app, interface))
        self._changed()

    def static(
        self,
        path: str,
        directory: str | os.PathLike[str],
        *,
        index: str | None = "index.html",
        max_age: float | None = None,
        precompressed: bool = True,
        etag: bool = True,
    ) -> None:
        """Answer what is below `path` ("" or "/text"), and matches no route, with the files of `directory`.

        `index`: name of the file that a folder is answered with; None: none. `max_age`: seconds of Cache-Control; None: no
        such field. `precompressed`: `name.br`, `name.zst` and `name.gz` stand in for `name` where the client takes them.
        `etag`: send one. ConfigError if the directory is none. Source: starlette.staticfiles.StaticFiles, nginx's
        gzip_static.
        """
        path = path.removesuffix("/")
        if any(path == other for other, *_ in [*self._mounts, *self._folders]):
            raise ConfigError(f"static {path!r} is registered twice", exit_code=3)
        # made absolute now: the program may change its folder later
        where = os.path.abspath(os.fsdecode(directory))
        options = {"index": index, "max_age": max_age, "precompressed": precompressed, "etag": etag}
        self._folders.append((path, where, options))
        self._changed()

    # --- around the handlers ---

    @overload
    def middleware(self, function: Middleware) -> Middleware: ...
    @overload
    def middleware(self, function: str) -> Callable[[Middleware], Middleware]: ...
    def middleware(self, function: Any) -> Any:
        """Decorator for `async def (request, call_next) -> Response`; `await call_next(request)` gives a Response.

        It runs around everything, 404 and automatic OPTIONS included. As in Starlette the one added last is the
        outermost. `@app.middleware("http")`, FastAPI's spelling, means the same.
        """
        if isinstance(function, str):
            if function != "http":
                raise ConfigError(f"there is middleware for 'http', not for {function!r}", exit_code=3)
            return self.middleware
        if not callable(function):
            raise ConfigError(f"middleware {function!r} is not callable", exit_code=3)
        target = function if inspect.isroutine(function) else type(function).__call__
        if not inspect.iscoroutinefunction(target):
            raise ConfigError(f"middleware {describe(function)} is not `async def`", exit_code=3)
        self._middleware.append(function)
        self._changed()
        return function

    def before_request(self, hook: Hook) -> Hook:
        """Decorator for `(request) -> Response | None`, async or plain (plain ones run on the event loop and must
        not block). In order of registration, before the handler; the first answer that is not None replaces the
        handler's."""
        self._before.append(_checked_hook(hook))
        self._changed()
        return hook

    def after_request(self, hook: Hook) -> Hook:
        """Decorator for `(request, response) -> None`, async or plain. In order of registration, after the handler,
        also for handled exceptions and 404; not after an unexpected exception. A Response it returns replaces the
        other."""
        self._after.append(_checked_hook(hook))
        self._changed()
        return hook

    def exception_handler(self, exc_class_or_status: int | type[Exception]) -> Callable[[Hook], Hook]:
        """Decorator for `(request, exc) -> answer`, async or plain (plain ones run on the event loop).

        For an HTTPException the one for its status is taken, then the one for the nearest base class; for any other
        exception that of the nearest base class, or else the one for 500. Handlers of Exception and of 500 do not keep
        the traceback out of the log. A plain value it returns is sent with the status of the exception. Source:
        starlette.applications.Starlette.exception_handler.
        """

        def register(handler: Hook) -> Hook:
            self.add_exception_handler(exc_class_or_status, handler)
            return handler

        return register

    def add_exception_handler(self, exc_class_or_status: int | type[Exception], handler: Callable[..., Any]) -> None:
        """The same without a decorator. A second handler for the same class or status replaces the first."""
        key = exc_class_or_status
        if isinstance(key, int):
            if not 400 <= key <= 599:
                raise ConfigError(f"an exception handler is for a status from 400 to 599, not {key}", exit_code=3)
        elif not (isinstance(key, type) and issubclass(key, Exception)):
            raise ConfigError(f"an exception handler is for a status or an exception class, not {key!r}", exit_code=3)
        if not callable(handler):
            raise ConfigError(f"exception handler {handler!r} is not callable", exit_code=3)
        self._exception_handlers[key] = handler
        self._changed()

    def _changed(self) -> None:
        super()._changed()
        for compiled in self._compiled:
            compiled.stale()

    def __repr__(self) -> str:
        return f"<App routes={len(self.routes)}>"


def _checked_hook(hook: Hook) -> Hook:
    if not callable(hook):
        raise ConfigError(f"hook {hook!r} is not callable", exit_code=3)
    return hook
