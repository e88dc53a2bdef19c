"""Which wing answers for an application: native, ASGI or WSGI.

Room: floor 2. Called by: process/server.py. Calls: native.pyx, asgi.pyx, wsgi.pyx, static.pyx.
The rules of detection are uvicorn's, after the mark that App carries.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from fastserve.errors import ConfigError

if TYPE_CHECKING:
    from fastserve.protocol.hooks import Handler

__all__ = ["INTERFACES", "detect", "make_handler", "resolve", "with_static"]

Interface = Literal["native", "asgi", "asgi2", "wsgi"]

INTERFACES = ("native", "asgi", "asgi2", "asgi3", "wsgi")
"""What can be asked for by name."""


def detect(app: Any) -> Interface:
    """The interface `app` speaks; "asgi" is ASGI 3. ConfigError if it is no application.

    An App is known by its mark; a coroutine function, an object whose __call__ is one, or a callable of three arguments
    is ASGI 3, a callable of one argument ASGI 2; any other callable is WSGI. A partial is what is left of its function,
    a class is judged by what making an instance takes.
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
    arity = _arity(app)
    if inspect.isclass(function):
        if hasattr(function, "__await__"):
            return "asgi"
        return "asgi2" if arity == 1 else "wsgi"
    if not inspect.isroutine(function):
        function = type(function).__call__
    if inspect.iscoroutinefunction(function):
        if not _takes_three(app):
            name = getattr(app, "__name__", type(app).__name__)
            raise ConfigError(
                f"{name} is async, and takes no (scope, receive, send): it is no ASGI application", exit_code=3
            )
        return "asgi"
    if arity == 3:
        return "asgi"
    return "asgi2" if arity == 1 else "wsgi"


def _takes_three(app: Any) -> bool:
    try:
        inspect.signature(app).bind(None, None, None)
    except TypeError:
        return False
    except ValueError:  # no signature can be had
        pass
    return True


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

    interface: one of INTERFACES, or "auto". threads: size of the pool for `def` handlers and WSGI applications; None:
    min(32, CPUs + 4), as in concurrent.futures; 0, for WSGI: on the event loop. state: what the lifespan yielded; it
    may be filled after this call. root_path: where the application is mounted, SCRIPT_NAME of WSGI. multiprocess: other
    processes serve it too. ConfigError if the app cannot be served.
    """
    interface = resolve(app, interface)
    if interface == "native":
        from fastserve.interfaces.native import NativeHandler

        if detect(app) != "native":
            raise ConfigError(
                f"{type(app).__name__} is not a fastserve.App, which interface 'native' asks for", exit_code=3
            )
        if threads == 0:
            raise ConfigError("threads must be at least 1: only a WSGI application can run on the event loop instead")
        return NativeHandler(app, threads=threads, state=state, root_path=root_path, multiprocess=multiprocess)
    if interface in ("asgi", "asgi2"):
        from fastserve.interfaces.asgi import ASGIHandler

        return ASGIHandler(_asgi3(app, interface), state=state, root_path=root_path)
    from fastserve.interfaces.wsgi import WSGIHandler

    if not callable(app) or getattr(type(app), "__fastserve_app__", False):
        raise ConfigError(f"{type(app).__name__} is not a WSGI application: call it natively", exit_code=3)
    return WSGIHandler(app, threads=threads, root_path=root_path, multiprocess=multiprocess)


def with_static(handler: Handler, folders: Sequence[tuple[str, str]], max_age: float | None = None) -> Handler:
    """`handler`, behind folders of files: pairs of a path and a directory. The same if there are none."""
    if not folders:
        return handler
    from fastserve.interfaces.static import Static, StaticHandler

    return StaticHandler(handler, [Static(path, folder, max_age=max_age) for path, folder in folders])


def resolve(app: Any, interface: str) -> Interface:
    """The interface to call `app` by: what was asked for, or what it speaks. ConfigError if that cannot be.

    "asgi" stands for ASGI 3, or ASGI 2 if the application looks like it; "asgi2" and "asgi3" are taken at their word.
    """
    if interface == "auto":
        return detect(app)
    if interface not in INTERFACES:
        raise ConfigError(f"unknown interface {interface!r}; there are auto, {', '.join(INTERFACES)}")
    if interface.startswith("asgi"):
        if not callable(app):
            raise ConfigError(
                f"{type(app).__name__} is not callable, which interface {interface!r} asks for", exit_code=3
            )
        return "asgi2" if interface == "asgi2" or (interface == "asgi" and detect(app) == "asgi2") else "asgi"
    return "native" if interface == "native" else "wsgi"


def _asgi3(app: Any, interface: str) -> Any:
    from fastserve.interfaces.asgi import asgi3

    return asgi3(app) if interface == "asgi2" else app
