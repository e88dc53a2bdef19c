"""loops: an event loop by name, and its end, without touching anybody's event loop policy.

Room: floor 3. Called by: worker.py, reload.py, check.py, testing.py; run.py for the banner. Calls: importer.py, errors.py.
"""

from __future__ import annotations

import asyncio
import importlib.util
from importlib import metadata
from typing import Any

from fastserve.errors import ConfigError
from fastserve.process.importer import ApplicationError, load

__all__ = ["close_loop", "describe", "load_factory", "new_loop"]


def new_loop(name: str = "auto", app_dir: str = ".") -> asyncio.AbstractEventLoop:
    """`auto`: uvloop if it is installed, else asyncio's. `module:factory`: what that callable returns.

    ConfigError if there is no such loop.
    """
    if name == "auto":
        name = "uvloop" if importlib.util.find_spec("uvloop") is not None else "asyncio"
    if name == "asyncio":
        return asyncio.SelectorEventLoop()
    if name == "uvloop":
        try:
            import uvloop
        except ImportError:
            raise ConfigError("loop: uvloop is not installed", exit_code=3) from None
        return uvloop.new_event_loop()
    try:
        loop = load_factory(name, app_dir)()
    except ConfigError:
        raise
    except Exception as error:
        raise ApplicationError.of(f'the loop factory "{name}" failed', error) from error
    if not isinstance(loop, asyncio.AbstractEventLoop):
        raise ConfigError(f'the loop factory "{name}" made no event loop, but {type(loop).__name__}', exit_code=3)
    return loop


def close_loop(loop: asyncio.AbstractEventLoop) -> None:
    """Cancel what the application has left running, give it a second, close. Stuck threads are not waited for."""
    try:
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task.cancel()
        if tasks:
            loop.run_until_complete(asyncio.wait(tasks, timeout=1.0))
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        loop.close()


def load_factory(name: str, app_dir: str = ".") -> Any:
    """The callable of "module:factory". ConfigError if there is none."""
    factory = load(name, app_dir=app_dir)
    if not callable(factory):
        raise ConfigError(f'loop: "{name}" cannot be called', exit_code=3)
    return factory


def describe(name: str) -> str:
    """For the banner: the loop that `name` gives, with its version."""
    if name == "auto":
        name = "uvloop" if importlib.util.find_spec("uvloop") is not None else "asyncio"
    return f"uvloop {metadata.version('uvloop')}" if name == "uvloop" else name
