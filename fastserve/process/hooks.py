"""hooks: the operator's own functions, called at the turning points of the server.

Room: floor 3. Called by: run.py (when_ready, on_exit), supervisor.py (pre_fork, post_fork, worker_ready, worker_exit;
run.py for a server of one process), reload.py. Calls: importer.py, errors.py.

`--hooks module:object` names a module's object, or anything with some of these functions as attributes; a bare `module`
is its own object. A function takes, by name, those of its facts that it wants:

    when_ready(config, addresses, pids)      in the parent: every worker serves
    pre_fork(config, slot)                   in the parent: a worker is about to be started
    post_fork(config, slot, pid)             in the new worker, before the application is loaded
    worker_ready(config, slot, pid)          in the worker: it serves
    worker_exit(config, slot, pid, code)     in the parent: a worker is gone; code below 0: the signal that killed it
    on_exit(config, code)                    in the parent: the last thing, with the exit code

Their exceptions are logged and change nothing: a server does not go down because a notification did not go out.
"""

from __future__ import annotations

import difflib
import inspect
import logging
import traceback
from collections.abc import Callable, Mapping
from typing import Any

from fastserve.errors import ConfigError
from fastserve.process.config import Config
from fastserve.process.importer import load, load_module

__all__ = ["FACTS", "Hooks"]

logger = logging.getLogger("fastserve")

FACTS: Mapping[str, tuple[str, ...]] = {
    "when_ready": ("config", "addresses", "pids"),
    "pre_fork": ("config", "slot"),
    "post_fork": ("config", "slot", "pid"),
    "worker_ready": ("config", "slot", "pid"),
    "worker_exit": ("config", "slot", "pid", "code"),
    "on_exit": ("config", "code"),
}
"""The hooks, and what each is told. `slot` counts from 0; `addresses` are Address; `pids` those of the workers."""


class Hooks:
    """The functions that were found, checked. An empty one calls nothing."""

    def __init__(self, config: Config, target: Any = None) -> None:
        self._config = config
        self._functions: dict[str, tuple[Callable[..., Any], tuple[str, ...]]] = {}
        if target is None:
            return
        for name in FACTS:
            function = getattr(target, name, None)
            if function is not None:
                self._functions[name] = (function, _wanted(name, function))
        if not self._functions:
            names = [name for name in dir(target) if not name.startswith("_")]
            close = next((hit[0] for name in FACTS if (hit := difflib.get_close_matches(name, names, 1, 0.75))), None)
            hint = f" (it has {close!r})" if close else ""
            raise ConfigError(f"hooks: {config.hooks!r} has none of {', '.join(FACTS)}{hint}", exit_code=3)

    @classmethod
    def of(cls, config: Config) -> Hooks:
        """What `config.hooks` names, loaded. ConfigError if it cannot be."""
        target = config.hooks
        if isinstance(target, str):
            target = load(target, app_dir=config.app_dir) if ":" in target else load_module(target, config.app_dir)
        return cls(config, target)

    def __bool__(self) -> bool:
        return bool(self._functions)

    def call(self, name: str, **facts: Any) -> None:
        """Call hook `name`, if there is one, with those of the facts that it wants. Never raises an Exception."""
        assert name in FACTS and set(facts) | {"config"} == set(FACTS[name]), (name, facts)
        found = self._functions.get(name)
        if found is None:
            return
        function, wanted = found
        facts["config"] = self._config
        try:
            function(**{fact: facts[fact] for fact in wanted})
        except (Exception, SystemExit):
            logger.error("the hook %s failed\n%s", name, traceback.format_exc().rstrip())


def _wanted(name: str, function: Any) -> tuple[str, ...]:
    """The facts that a function takes. ConfigError if it wants others, or cannot be called as a function."""
    if not callable(function) or inspect.iscoroutinefunction(function):
        raise ConfigError(f"hooks: {name} must be a plain function", exit_code=3)
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return ()
    wanted = []
    for parameter in parameters:
        if parameter.kind is parameter.VAR_KEYWORD:
            return FACTS[name]
        if parameter.kind is parameter.VAR_POSITIONAL or (
            parameter.name not in FACTS[name] and parameter.default is not parameter.empty
        ):
            continue
        if parameter.name not in FACTS[name] or parameter.kind is parameter.POSITIONAL_ONLY:
            raise ConfigError(
                f"hooks: {name} can take {', '.join(FACTS[name])} by name, not {parameter.name!r}", exit_code=3
            )
        wanted.append(parameter.name)
    return tuple(wanted)
