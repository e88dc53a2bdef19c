"""cli: arguments to Config to run. The command `fastserve MODULE:APP`.

Room: the top. Called by: the console script, __main__.py; nobody imports it. Calls: process (config, run).
Flags and help are made from config.OPTIONS. Every error of the operator is one line on stderr and a non-zero exit code.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import NoReturn

from fastserve._version import __version__
from fastserve.errors import ConfigError
from fastserve.process.config import OPTIONS, Config, Option, environment

__all__ = ["main"]

USAGE_ERROR = 2
EPILOG = """\
MODULE:APP names the application: "shop.web:app". A bare MODULE is tried for "app", then "application".
WEB_CONCURRENCY sets the workers and PORT the port (on 0.0.0.0), as platforms do, if no flag does.
Signals: TERM and INT (Ctrl-C) stop gracefully, a second one or QUIT at once."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 0 stopped gracefully, 1 forced, 2 wrong usage, 3 cannot start."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    code = 1
    try:
        if given and given[0] in COMMANDS:
            return COMMANDS[given[0]](given[1:])
        code = serve(given)
    except ConfigError as error:
        details = getattr(error, "details", "")  # the traceback of the application, which is not ours to hide
        code = complain(f"{details}fastserve: error: {_one_line(str(error))}", error.exit_code)
    except KeyboardInterrupt:
        code = 130
    leave_stuck_threads(code)
    return code


# ------------------------------------------------------------------------------------------------------- commands


def serve(arguments: Sequence[str]) -> int:
    """The command without a name: serve an application."""
    options = vars(make_parser().parse_args(arguments))
    app = options.pop("app", None)
    if app is None:
        raise ConfigError("an application is missing: fastserve MODULE:APP (see fastserve --help)")
    if "bind" in options:
        options["bind"] = tuple(options["bind"])
    config = Config(app=app, **options, **environment(options, os.environ))
    from fastserve.process.run import serve as run  # late: --help and --version need no compiled modules

    return run(config)


def show_help(_arguments: Sequence[str]) -> int:
    make_parser().print_help()
    return 0


def show_version(_arguments: Sequence[str]) -> int:
    print(f"fastserve {__version__}")
    return 0


COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "help": show_help,
    "version": show_version,
}
"""A first word that stands here is a command; any other is an application (a module of that name: `help:app`)."""


# --------------------------------------------------------------------------------------------------------- parser


class Parser(argparse.ArgumentParser):
    """argparse, with errors of one line."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(message.removeprefix("argument "), exit_code=USAGE_ERROR)


def make_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="fastserve",
        usage="fastserve MODULE:APP [options]",
        description="Serve an application over HTTP/1.1.",
        epilog=EPILOG,
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, max_help_position=34, width=110),
        add_help=False,
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,  # what is not given stays out: Config holds the defaults
    )
    parser.add_argument("app", metavar="MODULE:APP", nargs="?", help=argparse.SUPPRESS)
    groups: dict[str, argparse._ArgumentGroup] = {}
    for name, option in OPTIONS.items():
        if option.group not in groups:
            groups[option.group] = parser.add_argument_group(option.group)
        add_flag(groups[option.group], name, option)
    other = parser.add_argument_group("other")
    other.add_argument(
        "--version", action="version", version=f"fastserve {__version__}", help="print the version and end"
    )
    other.add_argument("-h", "--help", action="help", help="print this help and end")
    return parser


def add_flag(group: argparse._ArgumentGroup, name: str, option: Option) -> None:
    long = "--" + name.replace("_", "-")
    short = [alias for alias in option.aliases if not alias.startswith("--")]
    names = [*short, long, *(alias for alias in option.aliases if alias.startswith("--"))]
    default = Config.__dataclass_fields__[name].default
    text = option.help
    if option.kind == "flag":
        action = argparse.BooleanOptionalAction if default else "store_true"
        group.add_argument(*names, dest=name, action=action, help=text + (" (on by default)" if default else ""))
        return
    if "default" not in text and default is not None and default != ():
        text += f" (default {default:g})" if isinstance(default, float) else f" (default {default})"
    group.add_argument(
        *names,
        dest=name,
        action="append" if option.kind == "texts" else "store",
        type=CONVERTERS[option.kind],
        choices=option.choices or None,
        metavar=None if option.choices else option.metavar,
        help=text,
    )


def whole(text: str) -> int:
    if not (text.isascii() and text.removeprefix("-").isdigit()):
        raise argparse.ArgumentTypeError(f"not a whole number: {text!r}")
    return int(text)


def seconds(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"not a number of seconds: {text!r}") from None


def mode(text: str) -> int:
    try:
        return int(text, 8)
    except ValueError:
        raise argparse.ArgumentTypeError(f"not an octal mode: {text!r}") from None


CONVERTERS: dict[str, Callable[[str], object]] = {
    "text": str,
    "texts": str,
    "whole": whole,
    "seconds": seconds,
    "mode": mode,
}


# ---------------------------------------------------------------------------------------------------------- ending


def complain(text: str, code: int) -> int:
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.write(text + "\n")
        sys.stderr.flush()
    return code


def _one_line(text: str) -> str:
    return " ".join(text.split("\n")) if "\n" in text else text


def leave_stuck_threads(code: int) -> None:
    """This process is ours: a thread of the application that never ends must not keep it from ending."""
    deadline = time.monotonic() + 1.0
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join(max(0.0, deadline - time.monotonic()))
            if thread.is_alive():
                complain(f"fastserve: thread {thread.name!r} is still running; it was left behind", code)
                with contextlib.suppress(OSError, ValueError):
                    sys.stdout.flush()
                os._exit(code)
