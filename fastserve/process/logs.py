"""logs: where the server's own messages go, and in which colours.

Room: floor 3. Called by: run.py, reload.py, cli.py and lens/ (colour and width of what they print). Calls: importer.py
(theirs), errors.py.
A program that has set up logging of its own keeps it. `--log-config` takes what uvicorn takes, and TOML.
"""

from __future__ import annotations

import json
import logging
import logging.config
import os
import sys
import tomllib
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TextIO

from fastserve.errors import ConfigError
from fastserve.process.config import Config
from fastserve.process.importer import theirs

__all__ = ["Painter", "configure_logging", "load_log_config", "painter", "width_of"]

FORMAT = "%(asctime)s [%(process)d] %(levelname)s: %(message)s"
COLOURS = {"DEBUG": "2", "INFO": "32", "WARNING": "33", "ERROR": "31", "CRITICAL": "1;31"}
Painter = Callable[[str, str], str]


def painter(stream: TextIO, wanted: bool | None = None) -> Painter:
    """`paint(code, text)`. wanted None: colour on a terminal only, and not with NO_COLOR (no-color.org)."""
    colour = wanted
    if colour is None:
        colour = stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return lambda code, text: f"\x1b[{code}m{text}\x1b[0m" if colour else text


def width_of(stream: TextIO, otherwise: int, least: int = 60) -> int:
    """Characters of a line of this terminal; `otherwise` if it is none."""
    try:
        columns = os.get_terminal_size(stream.fileno()).columns
    except (OSError, ValueError):
        return otherwise
    return max(columns, least) if columns else otherwise


class TheirFormatter(logging.Formatter):
    """Tracebacks begin in the application: how we came to call it helps nobody to mend it."""

    def formatException(self, ei: Any) -> str:
        kind, error, trace = ei
        return super().formatException((kind, error, theirs(trace) or trace))


class ColourFormatter(TheirFormatter):
    """The level in its colour."""

    def __init__(self, paint: Painter) -> None:
        super().__init__(FORMAT)
        self._paint = paint

    def format(self, record: logging.LogRecord) -> str:
        plain = record.levelname
        record.levelname = self._paint(COLOURS.get(plain, "0"), plain)
        try:
            return super().format(record)
        finally:
            record.levelname = plain  # other handlers format the same record


class JsonFormatter(TheirFormatter):
    """One JSON object per line, with the names of OpenTelemetry's log data model and semantic conventions."""

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, UTC)
        line: dict[str, Any] = {
            "timestamp": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "severity_text": record.levelname,
            "body": record.getMessage(),
            "logger": record.name,
            "process.pid": record.process,
        }
        if record.exc_info and record.exc_info[0] is not None:
            line["exception.type"] = record.exc_info[0].__qualname__
            line["exception.message"] = str(record.exc_info[1])
            line["exception.stacktrace"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def configure_logging(config: Config) -> None:
    """Set up what log_config says; else a handler on stderr, unless the program has handlers of its own."""
    logger = logging.getLogger("fastserve")
    if config.log_config is not None:
        load_log_config(config.log_config)
        if logger.level == logging.NOTSET:  # the file says nothing about us
            logger.setLevel(config.log_level.upper())
        return
    logger.setLevel(config.log_level.upper())
    if logger.handlers or logging.getLogger().handlers:
        return
    handler = logging.StreamHandler()
    if config.log_format == "json":
        handler.setFormatter(JsonFormatter())
    else:
        handler.setFormatter(ColourFormatter(painter(sys.stderr, config.use_colors)))
    logger.addHandler(handler)
    logger.propagate = False


def load_log_config(source: Any) -> None:
    """A dictionary for logging.config.dictConfig, or a file of one (.json, .yaml, .yml, .toml), or an ini file.

    ConfigError, with the reason in one line, if it cannot be used.
    """
    try:
        if isinstance(source, dict):
            logging.config.dictConfig(source)
            return
        name = os.fspath(source)
        ending = os.path.splitext(name)[1].lower()
        if ending in (".json", ".yaml", ".yml", ".toml"):
            with open(name, "rb") as file:
                data = file.read()
            logging.config.dictConfig(_parsed(data, ending))
        else:
            if not os.path.isfile(name):
                raise FileNotFoundError(2, "No such file or directory")
            logging.config.fileConfig(name, disable_existing_loggers=False)
    except ConfigError:
        raise
    except OSError as error:
        raise ConfigError(f"log-config: cannot read {source!r}: {error.strerror or error}") from None
    except Exception as error:  # logging.config raises whatever its pieces raise
        reason = error.__cause__ or error
        text = " ".join(str(reason).split()) or type(reason).__name__
        where = repr(source) if isinstance(source, str) else "the dictionary"
        raise ConfigError(f"log-config: {where} cannot be used: {text}") from error


def _parsed(data: bytes, ending: str) -> dict[str, Any]:
    if ending == ".json":
        found = json.loads(data)
    elif ending == ".toml":
        found = tomllib.loads(data.decode("utf-8"))
    else:
        try:
            import yaml
        except ImportError:
            raise ConfigError("log-config: a YAML file needs PyYAML (pip install pyyaml)") from None
        found = yaml.safe_load(data)
    if not isinstance(found, dict):
        raise ValueError("it is no table")
    return found
