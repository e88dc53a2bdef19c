"""envfile: a file of variables for the application, as `docker --env-file` and dotenv know it.

Room: floor 3. Called by: sources.py and config.py (read), run.py and server.py (apply). Calls: errors.py.

A subset on purpose, without a dependency: `NAME=value`, `export NAME=value`, comments, 'single quotes' (taken as they
are, over several lines too), "double quotes" (with \\n \\r \\t \\" \\\\ \\$, over several lines too). A `#` behind a
space begins a comment of an unquoted value. Nothing is expanded: `$` is a dollar sign. What is set in the real
environment stays as it is.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from fastserve.errors import ConfigError

__all__ = ["apply", "parse", "read", "real_environment"]

FILE_BYTES_MAX = 1 << 20  # nobody's environment is larger; a device or a dump is no such file
NAME = re.compile(r"[ \t]*(?:export[ \t]+)?([A-Za-z_][A-Za-z0-9_.]*)[ \t]*=[ \t]*")
SINGLE = re.compile(r"'([^']*)'")
DOUBLE = re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL)
REST = re.compile(r"[ \t]*(?:#[^\n]*)?(?=\n|\Z)")
ESCAPES = {"n": "\n", "r": "\r", "t": "\t", '"': '"', "\\": "\\", "$": "$", "\n": ""}

_applied: dict[str, str] = {}  # what apply() has put into os.environ, so that it can be taken back


def read(path: str) -> dict[str, str]:
    """The variables of a file. ConfigError if it cannot be read, or says something else than variables."""
    try:
        with open(path, "rb") as file:
            data = file.read(FILE_BYTES_MAX + 1)
        text = data.decode("utf-8-sig")
    except OSError as error:
        raise ConfigError(f"env-file: cannot read {path!r}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"env-file: {path!r} is not UTF-8") from None
    if len(data) > FILE_BYTES_MAX:
        raise ConfigError(f"env-file: {path!r} has more than {FILE_BYTES_MAX} bytes")
    return parse(text, path)


def parse(text: str, path: str = "<text>") -> dict[str, str]:
    """The variables, in their order; a later one of the same name wins."""
    text = text.replace("\r\n", "\n")
    found: dict[str, str] = {}
    at = 0
    while at < len(text):
        if (blank := REST.match(text, at)) is not None:
            at = blank.end() + 1
            continue
        line = text.count("\n", 0, at) + 1
        name = NAME.match(text, at)
        if name is None:
            raise ConfigError(f"env-file: {path}:{line}: expected NAME=value")
        at = name.end()
        if text[at : at + 1] in ("'", '"'):
            quoted = (SINGLE if text[at] == "'" else DOUBLE).match(text, at)
            if quoted is None:
                raise ConfigError(f"env-file: {path}:{line}: a quote is not closed")
            value = quoted[1] if text[at] == "'" else re.sub(r"\\(.)", _escape, quoted[1], flags=re.DOTALL)
            rest = REST.match(text, quoted.end())
            if rest is None:
                raise ConfigError(f"env-file: {path}:{line}: something follows the closing quote")
            at = rest.end() + 1
        else:
            end = text.find("\n", at)
            end = len(text) if end < 0 else end
            value = re.sub(r"(?:^|[ \t]+)#.*", "", text[at:end]).strip()
            at = end + 1
        if "\0" in value:
            raise ConfigError(f"env-file: {path}:{line}: NUL in a value")
        found[name[1]] = value
    return found


def apply(variables: Mapping[str, str]) -> None:
    """Put them into os.environ, where they do not override what is there; take back those of an earlier call."""
    for name, value in _applied.items():
        if os.environ.get(name) == value:
            del os.environ[name]
    _applied.clear()
    for name, value in variables.items():
        if name not in os.environ:
            os.environ[name] = _applied[name] = value


def real_environment() -> dict[str, str]:
    """os.environ without what apply() has added."""
    return {name: value for name, value in os.environ.items() if _applied.get(name) != value}


def _escape(match: re.Match[str]) -> str:
    return ESCAPES.get(match[1], match[0])
