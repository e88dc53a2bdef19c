"""arguments: the command line: flags made from OPTIONS, a help that fits people, errors of one line.

Room: floor 3. Called by: sources.py (parse), cli.py (help). Calls: config.py (OPTIONS), values.py, errors.py.
What was not given stays out of the result: the other sources and Config's defaults come after it.
"""

from __future__ import annotations

import argparse
import difflib
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

from fastserve._version import __version__
from fastserve.errors import ConfigError
from fastserve.process.config import OPTIONS, Config, Option
from fastserve.process.peers import ELSEWHERE
from fastserve.process.values import CONVERTERS

__all__ = ["Command", "command_help", "default_text", "flags_of", "help_text", "make_parser", "parse"]

USAGE_ERROR = 2
EPILOG = (
    'MODULE:APP names the application: "shop.web:app". A bare MODULE is tried for "app", then "application".',
    "Every option can also be FASTSERVE_NAME in the environment, or a key in fastserve.toml or [tool.fastserve] of "
    "pyproject.toml; --no-NAME switches off what was switched on there. WEB_CONCURRENCY sets the workers and PORT the "
    "port (on 0.0.0.0), as platforms do.",
    "Seconds may be written 500ms, 30s, 5m, 1h30m; bytes 64k, 10M, 1GiB (a k is 1024).",
    "Signals: TERM and INT (Ctrl-C) stop gracefully, a second one or QUIT at once.",
)
TARGET = "TARGET is the name or pid of a running server, or a recording (.fsx); none: the only one that runs."
WIDTH = 110
COLUMN = 36  # where the explanations begin
SHORT_ELSEWHERE = {"-k": "--worker-class", "-t": "--timeout", "-D": "--daemon", "-e": "--env"}  # as gunicorn has them
COMMAND_COLUMN = 27  # and in the help of one command
Painter = Callable[[str, str], str]

OTHERS: tuple[tuple[str, str, str], ...] = (
    ("--config", "FILE", "read options from this TOML file (default: fastserve.toml, or pyproject.toml)"),
    ("--check-config", "", "check options and application, say ok or what is wrong, and end"),
    ("--print-config", "", "print every option with its value and where that came from, and end"),
    ("--version", "", "print the version and end"),
    ("-h, --help", "", "print this help and end"),
)
"""What is no option of a server: flag, metavar, explanation."""


class Command(NamedTuple):
    """A first word of the command line (the table COMMANDS of cli.py), for whoever runs it, explains it, completes it."""

    run: Callable[[Sequence[str]], int]
    takes: str  # what follows: "MODULE:APP [options]", "FILE", "one|two"
    about: str  # short, for the help
    flags: tuple[tuple[str, str, str], ...] = ()  # its own, as in OTHERS
    more: str = ""  # what its own help says besides

    @property
    def serves(self) -> bool:
        """Does it take an application, and with it every option of the server?"""
        return self.takes.startswith("MODULE:APP")


class Parser(argparse.ArgumentParser):
    """argparse, with errors of one line, suggestions, and our own help."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(message.removeprefix("argument "), exit_code=USAGE_ERROR)

    def format_help(self) -> str:
        return help_text()

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        found, unknown = self.parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}{self._suggestion(unknown)}")
        return found

    def _suggestion(self, unknown: Sequence[str]) -> str:
        for word in unknown:
            flag = word.partition("=")[0]
            if told := ELSEWHERE.get(SHORT_ELSEWHERE.get(flag, flag)):
                return f"; {told}"
            if word.startswith("--"):
                close = difflib.get_close_matches(flag, list(self._option_string_actions), 1)
                return f"; did you mean {close[0]}?" if close else " (see fastserve --help)"
        return ""


def make_parser() -> argparse.ArgumentParser:
    parser = Parser(prog="fastserve", add_help=False, allow_abbrev=False, argument_default=argparse.SUPPRESS)
    parser.add_argument("app", metavar="MODULE:APP", nargs="?")
    for name, option in OPTIONS.items():
        names = flags_of(name, option)
        if option.kind == "flag":  # also those that are off by default: a file may have switched them on
            parser.add_argument(*names, dest=name, action=argparse.BooleanOptionalAction)
        else:
            parser.add_argument(
                *names,
                dest=name,
                action="append" if option.kind == "texts" else "store",
                type=_converter(option),
                choices=option.choices or None,
                metavar=option.metavar,
            )
    parser.add_argument("--config", dest="config", metavar="FILE")
    parser.add_argument("--check-config", dest="check_config", action="store_true")
    parser.add_argument("--print-config", dest="print_config", action="store_true")
    parser.add_argument("--version", action="version", version=f"fastserve {__version__}")
    parser.add_argument("-h", "--help", dest="help", action="store_true")
    return parser


def parse(arguments: Sequence[str]) -> dict[str, Any]:
    """What the arguments say, by names of Config, and `app`, `config`, `check_config`, `print_config`, `help`."""
    found: dict[str, Any] = vars(make_parser().parse_args(list(arguments)))
    return {name: tuple(value) if isinstance(value, list) else value for name, value in found.items()}


def flags_of(name: str, option: Option) -> list[str]:
    """Every spelling: short ones, the name with dashes, other servers' spellings."""
    short = [alias for alias in option.aliases if not alias.startswith("--")]
    long = [alias for alias in option.aliases if alias.startswith("--")]
    return [*short, "--" + name.replace("_", "-"), *long]


def default_text(name: str) -> str:
    """The default as one would write it, or nothing if the help text tells it or there is none."""
    option, default = OPTIONS[name], Config.__dataclass_fields__[name].default
    if "default" in option.help or default is None or default == () or default is False:
        return ""
    if default is True:
        return "on"
    if option.kind == "mode":
        return f"{default:o}"
    if isinstance(default, tuple):
        return ",".join(default)
    return f"{default:g}" if isinstance(default, float) else str(default)


def help_text(
    commands: Mapping[str, Command] | None = None, paint: Painter = lambda _code, text: text, width: int = WIDTH
) -> str:
    """The help. `commands`: the first words to explain. `paint(code, text)` colours; by default nothing is coloured.
    `width`: characters of a line.
    """
    lines = [f"Usage: {paint('1', 'fastserve MODULE:APP [options]')}"]
    if commands:
        lines += [f"       {paint('1', 'fastserve COMMAND ...')} (fastserve help COMMAND tells more)"]
        lines += ["", paint("1;4", "commands:")]
        for name, command in commands.items():
            lines += _entry(name, command.takes, command.about, paint, width)
    groups: dict[str, list[str]] = {}
    for name, option in OPTIONS.items():
        about = option.help
        if default := default_text(name):
            about += f" (default {default})"
        entry = _entry(_spelling(name, option), _metavar(option), about, paint, width)
        groups.setdefault(option.group, []).extend(entry)
    for group, entries in groups.items():
        lines += ["", paint("1;4", f"{group}:"), *entries]
    lines += ["", paint("1;4", "other:")]
    for flag, metavar, about in OTHERS:
        lines += _entry(flag, metavar, about, paint, width)
    for paragraph in EPILOG:
        lines += ["", *textwrap.wrap(paragraph, width, break_on_hyphens=False)]
    return "\n".join(lines) + "\n"


def command_help(name: str, command: Command, paint: Painter = lambda _code, text: text, width: int = WIDTH) -> str:
    """The help of one command, as `help_text` gives that of all."""
    usage = f"fastserve {name} {command.takes}".rstrip()
    lines = [f"Usage: {paint('1', usage)}", "", f"{command.about[0].upper()}{command.about[1:]}."]
    if command.flags:
        lines += ["", paint("1;4", "options:")]
        for flag, metavar, about in command.flags:
            lines += _entry(flag, metavar, about, paint, width, COMMAND_COLUMN)
    for paragraph in filter(None, (command.more, TARGET if "TARGET" in command.takes else "")):
        lines += ["", *textwrap.wrap(paragraph, width, break_on_hyphens=False)]
    return "\n".join(lines) + "\n"


def _entry(flags: str, metavar: str, about: str, paint: Painter, width: int, column: int = COLUMN) -> list[str]:
    plain = f"  {flags} {metavar}".rstrip()
    shown = f"  {paint('36', flags)} {metavar}".rstrip()
    first, *rest = textwrap.wrap(about, width - column, break_on_hyphens=False)
    beside = len(plain) + 2 <= column
    lines = [shown + " " * (column - len(plain)) + first] if beside else [shown, " " * column + first]
    return lines + [" " * column + line for line in rest]


def _spelling(name: str, option: Option) -> str:
    flags = flags_of(name, option)
    if option.kind == "flag" and Config.__dataclass_fields__[name].default is not False:
        flags.append("--no-" + name.replace("_", "-"))
    return ", ".join(flags)


def _metavar(option: Option) -> str:
    if option.kind == "flag":
        return ""
    return "|".join(option.choices) if option.choices else option.metavar or ""


def _converter(option: Option) -> Callable[[str], Any]:
    convert = CONVERTERS[option.kind]

    def checked(text: str) -> Any:
        try:
            return convert(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return checked
