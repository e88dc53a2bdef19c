"""Which wing answers for an application: native, ASGI or WSGI.

Room: floor 2. Called by: process/server.py. Calls: native.pyx, wsgi.pyx; the ASGI wing is still to come.
The rules of detection are uvicorn's, after the mark that App carries.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from fastserve.errors import ConfigError

if TYPE_CHECKING:
    from fastserve.protocol.hooks import Handler

__all__ = ["detect", "make_handler"]

Interface = Literal["native", "asgi", "wsgi"]


def detect(app: Any) -> Interface:
    """The interface `app` speaks. ConfigError if it is no application.

    An App is known by its mark; a coroutine function, or an object whose __call__ is one, is ASGI 3; a callable of one
    argument (ASGI 2) or of three is ASGI too; any other callable is WSGI.
    """
    if getattr(type(app), "__fastserve_app__", False):
        return "native"
    if not callable(app):
        raise ConfigError(
            f"{type(app).__name__} is not an application: neither an App nor a callable (ASGI, WSGI)", exit_code=3
        )
    function = app
    while isinstance(function, functools.partial):
        function = function.func
    if inspect.isclass(function):
        return "asgi" if hasattr(function, "__await__") or _arity(app) == 1 else "wsgi"
    if not inspect.isroutine(function):
        function = type(function).__call__
    if inspect.iscoroutinefunction(function) or _arity(app) in (1, 3):
        return "asgi"
    return "wsgi"


def _arity(app: Any) -> int | None:
    try:
        parameters = inspect.signature(app).parameters.values()
    except (TypeError, ValueError):
        return None
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    if any(parameter.kind is inspect.Parameter.VAR_POSITIONAL for parameter in parameters):
        return None
    return sum(parameter.kind in positional and parameter.default is parameter.empty for parameter in parameters)


def make_handler(
    app: Any,
    interface: str = "auto",
    *,
    threads: int | None = None,
    state: Mapping[str, Any] | None = None,
    root_path: str = "",
    multiprocess: bool = False,
) -> Handler:
    """The Handler that answers exchanges with `app`; give it back with `.close()`, which joins its threads.

    interface: "auto", "native", "asgi" or "wsgi". threads: size of the pool for `def` handlers and WSGI applications;
    None: min(32, CPUs + 4), as in concurrent.futures; 0, for WSGI: on the event loop. state: what the lifespan yielded;
    it may be filled after this call. root_path: where the application is mounted, SCRIPT_NAME of WSGI. multiprocess:
    other processes serve it too. ConfigError if the app cannot be served.
    """
    if interface == "auto":
        interface = detect(app)
    if interface == "native":
        from fastserve.interfaces.native import NativeHandler

        if detect(app) != "native":
            raise ConfigError(
                f"{type(app).__name__} is not a fastserve.App, which interface 'native' asks for", exit_code=3
            )
        if threads == 0:
            raise ConfigError("threads must be at least 1: only a WSGI application can run on the event loop instead")
        return NativeHandler(app, threads=threads, state=state)
    if interface == "wsgi":
        from fastserve.interfaces.wsgi import WSGIHandler

        if not callable(app) or getattr(type(app), "__fastserve_app__", False):
            raise ConfigError(f"{type(app).__name__} is not a WSGI application: call it natively", exit_code=3)
        return WSGIHandler(app, threads=threads, root_path=root_path, multiprocess=multiprocess)
    if interface == "asgi":
        raise ConfigError(f"{interface.upper()} applications are not supported yet by this version", exit_code=3)
    raise ConfigError(f"unknown interface {interface!r}; there are auto, native, asgi, wsgi")
