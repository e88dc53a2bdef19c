"""importer: "module:attribute" to the application, with kind errors.

Room: floor 3. Called by: worker.py, server.py, logs.py (theirs). Calls: errors.py.
A mistake in the reference is one line. An exception of the application itself is an ApplicationError: it carries the
application's own traceback, without our frames and without importlib's.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import os
import sys
import traceback
from types import ModuleType, TracebackType
from typing import Any

from fastserve.errors import ConfigError

__all__ = ["ApplicationError", "add_app_dir", "load", "load_module", "theirs"]

USUAL_NAMES = ("app", "application")


class ApplicationError(ConfigError):
    """The application's own code raised while it was loaded or started.

    `details`: its traceback, ready to be printed above the one line that is the message.
    """

    def __init__(self, message: str, details: str) -> None:
        super().__init__(message, exit_code=3)
        self.details = details

    @classmethod
    def of(cls, doing: str, error: BaseException) -> ApplicationError:
        """`doing`: what failed, such as 'cannot import "shop.web"'."""
        reason = traceback.format_exception_only(error)[-1].strip()
        if isinstance(error, SystemExit):
            reason = f"it called sys.exit({error.code!r})"
        error.__traceback__ = theirs(error.__traceback__)
        details = "".join(traceback.format_exception(error))
        found = cls(f"{doing}: {reason}", details)
        found.__cause__ = error
        return found


def load(reference: Any, *, factory: bool = False, app_dir: str = ".") -> Any:
    """The application that `reference` names, or `reference` itself if it is not text; called first if `factory`."""
    if isinstance(reference, str):
        add_app_dir(app_dir)
        name, colon, path = reference.partition(":")
        _check_reference(reference, name, colon, path)
        module = _import(name, reference, app_dir)
        app = _attribute(module, path) if colon else _usual(module)
        label = reference
    else:
        app = reference
        label = getattr(reference, "__name__", type(reference).__name__)
    return _call(app, label) if factory else app


def load_module(name: str, app_dir: str = ".") -> ModuleType:
    """The module `name`, with the same errors as an application."""
    add_app_dir(app_dir)
    _check_reference(name, name, "", "")
    return _import(name, name, app_dir)


def add_app_dir(app_dir: str) -> None:
    """Put the folder first on sys.path, as an absolute path. Packages already imported (ours) keep their __path__."""
    folder = os.path.abspath(app_dir)
    if not os.path.isdir(folder):
        raise ConfigError(f"app-dir: there is no folder {app_dir!r}")
    if not (sys.path and sys.path[0] and os.path.abspath(sys.path[0]) == folder):
        sys.path.insert(0, folder)
        importlib.invalidate_caches()


def takes_nothing(app: Any) -> bool:
    """Is it a function without parameters? Then it is no ASGI or WSGI application, but perhaps makes one."""
    if not inspect.isroutine(app):
        return False
    try:
        return not inspect.signature(app).parameters
    except (TypeError, ValueError):
        return False


def _check_reference(reference: str, name: str, colon: str, path: str) -> None:
    if "/" in name or "\\" in name or (name.endswith(".py") and not _exists(name)):
        module = os.path.normpath(name).removesuffix(".py").replace(os.sep, ".").strip(".")
        raise ConfigError(f'an application is MODULE:APP, not a file: try "{module}{colon}{path}"')
    if not all(part.isidentifier() for part in name.split(".")):
        raise ConfigError(f'an application is MODULE:APP, such as "examples.hello:app", not "{reference}"')
    if colon and not all(part.isidentifier() for part in path.split(".")):
        raise ConfigError(f'an application is MODULE:APP, such as "examples.hello:app", not "{reference}"')


def _exists(name: str) -> bool:
    """Is `x.py` really a package x with a module py? Rare, but then it is no mistake."""
    return os.path.isdir(name.removesuffix(".py").replace(".", os.sep)) and not os.path.isfile(name)


def _import(name: str, reference: str, app_dir: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if (name == missing or name.startswith(missing + ".")) and theirs(error.__traceback__) is None:
            raise ConfigError(_not_found(name, missing, reference, app_dir, error), exit_code=3) from None
        raise ApplicationError.of(f'cannot import "{name}"', error) from error
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # SystemExit too: a script without a main guard must not end the server with code 0
        raise ApplicationError.of(f'cannot import "{name}"', error) from error


def _not_found(name: str, missing: str, reference: str, app_dir: str, error: ModuleNotFoundError) -> str:
    if str(error).endswith("is not a package"):
        return f'module "{name}" not found: "{missing.rpartition(".")[0]}" is a module, not a package'
    text = f'module "{missing}" not found'
    if missing != name:
        text += f' (in "{name}")'
    folder = os.path.abspath(app_dir)
    if "." in missing:
        parent = sys.modules.get(missing.rpartition(".")[0])
        places = list(getattr(parent, "__path__", []))
    else:
        places = [folder]
        text += f" in {folder} or on sys.path"
    close = difflib.get_close_matches(missing.rpartition(".")[2], _modules_in(places), 1)
    if close:
        return text + f'; did you mean "{".".join([*missing.split(".")[:-1], close[0]])}"?'
    first = name.partition(".")[0]
    for below in ("src", "app", "backend"):
        if first in _modules_in([os.path.join(folder, below)]):
            return text + f"; did you mean --app-dir {os.path.join(app_dir, below)}?"
    return text


def _modules_in(folders: list[str]) -> list[str]:
    found = []
    for folder in folders:
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    stem = entry.name.removesuffix(".py")
                    if stem.isidentifier() and (stem != entry.name or entry.is_dir()):
                        found.append(stem)
        except OSError:
            pass
    return found


def _attribute(module: ModuleType, path: str) -> Any:
    found: Any = module
    walked = f'module "{module.__name__}"'
    for part in path.split("."):
        try:
            found = getattr(found, part)
        except AttributeError as error:
            raiser = theirs(error.__traceback__)
            if getattr(error, "name", part) != part or not (raiser is None or _is_hook_of(raiser, found)):
                raise ApplicationError.of(f'cannot read "{part}" of {walked}', error) from error
            names = [name for name in dir(found) if not name.startswith("_")]
            close = difflib.get_close_matches(part, names, 1) or [name for name in USUAL_NAMES if name in names][:1]
            hint = f'; did you mean "{close[0]}"?' if close else ""
            raise ConfigError(f'{walked} has no attribute "{part}"{hint}', exit_code=3) from None
        except Exception as error:
            raise ApplicationError.of(f'cannot read "{part}" of {walked}', error) from error
        walked = f'"{part}" of {walked}'
    return found


def _is_hook_of(trace: TracebackType, found: Any) -> bool:
    """Was it raised by the module's own __getattr__ (PEP 562), which so says that there is no such name?"""
    hook = vars(found).get("__getattr__") if isinstance(found, ModuleType) else None
    return trace.tb_next is None and trace.tb_frame.f_code is getattr(hook, "__code__", None)


def _usual(module: ModuleType) -> Any:
    for name in USUAL_NAMES:
        if hasattr(module, name):
            return getattr(module, name)
    raise ConfigError(
        f'module "{module.__name__}" has neither "app" nor "application"; name it: {module.__name__}:NAME', exit_code=3
    )


def _call(factory: Any, label: str) -> Any:
    if not callable(factory):
        raise ConfigError(f'"{label}" cannot be called, so it is no factory: leave --factory out', exit_code=3)
    try:
        app = factory()
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        if isinstance(error, TypeError) and theirs(error.__traceback__) is None:
            raise ConfigError(
                f'the factory "{label}" cannot be called without arguments: {error}', exit_code=3
            ) from None
        raise ApplicationError.of(f'the factory "{label}" failed', error) from error
    if inspect.iscoroutine(app):
        app.close()
        raise ConfigError(f'the factory "{label}" is an async function; it must be a plain one', exit_code=3)
    return app


def theirs(trace: TracebackType | None) -> TracebackType | None:
    """The traceback from its first frame that is neither ours nor importlib's."""
    ours = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if not (
            file.startswith(("<frozen importlib", ours))
            or file == importlib.__file__
            or trace.tb_frame.f_globals.get("__name__", "").partition(".")[0] == "fastserve"
        ):
            break
        trace = trace.tb_next
    return trace
