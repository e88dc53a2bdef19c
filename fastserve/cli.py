"""cli: arguments to Config to run. The command `fastserve MODULE:APP`.

Room: the top. Called by: the console script, __main__.py; nobody imports it. Calls: process (sources, arguments, check,
completion, run); lens (commands).
Every error of the operator is one line on stderr and a non-zero exit code.
"""

from __future__ import annotations

import codecs
import contextlib
import difflib
import json
import logging
import os
import re
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Sequence
from typing import TextIO

from fastserve._version import __version__
from fastserve.errors import ConfigError
from fastserve.process.arguments import Command, command_help, help_text
from fastserve.process.completion import SHELLS, script
from fastserve.process.envfile import real_environment
from fastserve.process.logs import painter, width_of
from fastserve.process.shortage import is_limit, shortage
from fastserve.process.sources import gather, print_config
from fastserve.process.values import count

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 0 stopped gracefully, 1 forced, 2 wrong usage, 3 cannot start."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    code = 1
    prepare_streams()
    try:
        code = COMMANDS[given[0]].run(given[1:]) if given and given[0] in COMMANDS else serve(given)
        sys.stdout.flush()  # here a full disk is an error; in Python's own end it would be a traceback
    except ConfigError as error:
        details = getattr(error, "details", "")  # the traceback of the application, which is not ours to hide
        hint = _hint(given, str(error))
        code = complain(f"{details}fastserve: error: {_one_line(str(error))}{hint}", error.exit_code)
    except KeyboardInterrupt:
        code = 130
    except BrokenPipeError:  # `fastserve check ... | head`: nobody reads any more, which is no fault
        _forget(sys.stdout)
    except OSError as error:
        if logging.getLogger("fastserve").isEnabledFor(logging.DEBUG):
            logging.getLogger("fastserve").debug("where it failed:", exc_info=True)
        code = complain(f"fastserve: error: {_reason(error)}", 3 if is_limit(error) else 1)
        _forget(sys.stdout)
    try:
        sys.stderr.flush()
    except (OSError, ValueError):
        _forget(sys.stderr)  # what cannot be said is no other exit code: Python's own would be 120
    leave_stuck_threads(code)
    return code


# ------------------------------------------------------------------------------------------------------- commands


def serve(arguments: Sequence[str]) -> int:
    """The command without a name: serve an application, or say what would be served."""
    if "-h" in arguments or "--help" in arguments:
        return show_help(())
    if "--version" in arguments:
        return show_version(())
    found = gather(arguments, real_environment())
    if found.print:
        sys.stdout.write(print_config(found.config))
    for note in found.notes:
        complain(f"fastserve: warning: {note}", 0)
    if found.check:
        from fastserve.process.run import check

        print(f"fastserve: ok: {check(found.config)}")
    if found.print or found.check:
        return 0
    from fastserve.process.run import serve as run  # late: --help and --version need no compiled modules

    return run(found.config)


def develop(arguments: Sequence[str]) -> int:
    """fastserve dev: what one wants while writing an application."""
    if "-h" in arguments or "--help" in arguments:
        return show_help(("dev",))
    return serve(["--dev", *arguments])


def examine(arguments: Sequence[str]) -> int:
    """fastserve check: would it serve, and serve well? 0 if nothing is an error, 1 if something is."""
    if "-h" in arguments or "--help" in arguments:
        return show_help(("check",))
    from fastserve.process import check

    as_json = "--json" in arguments
    found: list[check.Finding] = []
    paint, width = painter(sys.stdout), width_of(sys.stdout, 0)  # in a pipe a line is a finding

    def tell(finding: check.Finding) -> None:
        found.append(finding)
        if finding.details:
            complain(finding.details.rstrip(), 0)
        if not as_json:
            advice = f" ({finding.advice})" if finding.advice else ""
            level = paint(CHECK_COLOURS[finding.level], f"{finding.level:<8}")
            said = f"{_one_line(finding.text)}{advice}"
            first, *rest = textwrap.wrap(said, width - CHECK_INDENT, break_on_hyphens=False) if width else [said]
            below = (" " * CHECK_INDENT + line for line in rest)
            print(f"{level} {finding.topic:<12} {first}", *below, sep="\n", flush=True)

    try:
        gathered = gather([word for word in arguments if word != "--json"], real_environment())
        for note in gathered.notes:
            tell(check.Finding("warning", "options", note))
        for finding in check.examine(gathered.config):
            tell(finding)
    except ConfigError as error:
        tell(check.Finding("error", "options", _one_line(str(error))))
    counts = {level: sum(finding.level == level for finding in found) for level in check.LEVELS}
    if as_json:
        entries = [finding.as_json() for finding in found]
        print(json.dumps({"ok": not counts["error"], "counts": counts, "findings": entries}, indent=2))
    else:
        said = (f"{counts['ok']} ok", *(count(counts[level], level) for level in check.LEVELS[1:]))
        print("fastserve: " + ", ".join(said))
    return 1 if counts["error"] else 0


CHECK_INDENT = 22  # before the text of a finding
CHECK_COLOURS = {"ok": "32", "note": "36", "warning": "33", "error": "31;1"}


def complete(arguments: Sequence[str]) -> int:
    """fastserve completion: the script that teaches a shell to complete our command lines."""
    if "-h" in arguments or "--help" in arguments:
        return show_help(("completion",))
    if len(arguments) != 1:
        raise ConfigError(f"a shell is missing: fastserve completion {'|'.join(SHELLS)}", exit_code=2)
    sys.stdout.write(script(arguments[0], COMMANDS))
    return 0


def show_help(arguments: Sequence[str]) -> int:
    """fastserve help: of everything, or of one command."""
    names = [word for word in arguments if not word.startswith("-")]
    width = min(width_of(sys.stdout, HELP_WIDTH), HELP_WIDTH)
    if names and names[0] not in COMMANDS:
        close = difflib.get_close_matches(names[0], COMMANDS, 1)
        hint = f"; did you mean {close[0]}?" if close else f": {', '.join(COMMANDS)}"
        raise ConfigError(f"there is no command {names[0]!r}{hint}", exit_code=2)
    if names:
        sys.stdout.write(command_help(names[0], COMMANDS[names[0]], painter(sys.stdout), width))
    else:
        sys.stdout.write(help_text(COMMANDS, painter(sys.stdout), width))
    return 0


HELP_WIDTH = 110  # at most: longer lines are hard to read


def show_version(arguments: Sequence[str]) -> int:
    if any(not word.startswith("-") for word in arguments[:1]):
        raise ConfigError(f"too many arguments: {' '.join(arguments)}", exit_code=2)
    print(f"fastserve {__version__}")
    return 0


def look(name: str) -> Callable[[Sequence[str]], int]:
    """The command of that name that looks at a server through the lens. No server imports lens/: it is loaded here."""

    def command(arguments: Sequence[str]) -> int:
        from fastserve.lens import commands

        return commands.run(name, COMMANDS[name], arguments)

    return command


REDACT = ("--redact", "", "to be shown to others: routes or hashes for paths, hashes for marks, no folders")
IGNORE = ("--ignore", "CODE[:ROUTE]", "leave out a finding, everywhere or for a route: FS010, FS017:/events*")
SOME = (
    ("--route", "PATTERN", "only requests of this route or path: '/items/*'"),
    ("--slower", "DURATION", "only those that took longer: 200ms"),
    ("--last", "DURATION", "only those that ended within so long before now: 30s"),
)
"""Which of the recorded requests."""

COMMANDS: dict[str, Command] = {
    "dev": Command(
        develop,
        "MODULE:APP [options]",
        "serve it while you write it: reload, colours, everything told",
        more="As fastserve MODULE:APP --dev, with every option of the server: fastserve --help.",
    ),
    "check": Command(
        examine,
        "MODULE:APP [options]",
        "say whether it would serve, and serve well on this machine",
        (("--json", "", "say it as JSON"),),
        "With every option of the server, as it will be started: fastserve --help. Exit code 1 if something is an error.",
    ),
    "top": Command(
        look("top"),
        "[TARGET]",
        "what a running server does now: loops, routes, requests in flight",
        (
            ("--plain", "", "print lines of text instead of a live view"),
            ("--once", "", "print one look, and end"),
            ("--every", "SECONDS", "between two looks (default 2)"),
            IGNORE,
        ),
        "The live view needs textual (pip install 'fastserve-http[top]'); without it, in a pipe and on a dumb terminal "
        "this is --plain.",
    ),
    "explain": Command(
        look("explain"),
        "[TARGET] [WHICH]",
        "one request in sentences: where it waited, and for whom",
        (*SOME, ("--no-source", "", "do not show the text of lines"), REDACT),
        "WHICH is the id of a request (w1-0a31), `last` (that ended) or `slowest` (the default).",
    ),
    "trace": Command(
        look("trace"),
        "[TARGET] -o FILE",
        "what is recorded, as a page (.html), for Perfetto (.json), to keep (.fsx)",
        (
            ("-o, --output", "FILE", "where to (default trace.html)"),
            *SOME,
            ("--with-source", "", "put the text of lines into the page"),
            ("--strip-paths", "", "leave out the folders of files"),
            REDACT,
            IGNORE,
        ),
    ),
    "doctor": Command(
        look("doctor"),
        "[TARGET]",
        "what is wrong with a server, the main finding first",
        (
            ("--for", "DURATION", "switch recording on in a running server, for so long, and back"),
            ("--json", "", "say it as JSON"),
            ("--fail-on", "CODES", "exit code 1 if one of these is found: FS001,FS005, any"),
            IGNORE,
        ),
        "The codes are explained in docs/findings.md.",
    ),
    "blackbox": Command(
        look("blackbox"),
        "[FILE]",
        "what a worker was doing when it died",
        (("--list", "", "list what there is, the newest first"),),
        "FILE is a recording or a folder of them; none: those that the servers of this user have left.",
    ),
    "lens": Command(
        look("lens"),
        "[TARGET] [MODE]",
        "what a running server records; with a MODE, switch it",
        more="MODE: ready (nothing), stalls, sample:N (1 request in N), slow:DURATION (those that took longer), full.",
    ),
    "otel": Command(
        look("otel"),
        "[TARGET]",
        "send recorded requests as OpenTelemetry spans, and metrics",
        (
            ("--endpoint", "URL", "of an OTLP/HTTP collector (default: OTEL_EXPORTER_OTLP_ENDPOINT)"),
            ("--every", "SECONDS", "between two looks (default 2)"),
            ("--metrics-every", "SECONDS", "between two exports of metrics (default 10; 0: none)"),
            ("--awaits", "", "a span for each wait as well"),
        ),
    ),
    "learn": Command(
        look("learn"),
        "",
        "lessons in a browser: where a request waits, and why",
        (("--port", "PORT", "of 127.0.0.1 (default: a free one)"), ("--open", "", "open a browser")),
    ),
    "completion": Command(
        complete,
        "|".join(SHELLS),
        "print the script that completes these lines in a shell",
        more='In bash, for now: eval "$(fastserve completion bash)". To keep it, and other shells: docs/install.md.',
    ),
    "help": Command(show_help, "[COMMAND]", "print this help, or that of a command"),
    "version": Command(show_version, "", "print the version"),
}
"""A first word that stands here is a command; any other is an application (a module of that name: `help:app`). The help
and the completion of shells are made from this table."""


# ------------------------------------------------------------------------------------------------- standard streams


def prepare_streams() -> None:
    """stdin, stdout and stderr that can be used, however the command was started.

    A closed one leads nowhere: else the first socket would get its number, and libuv ends a process that closes that. What
    the encoding of stdout does not have is a question mark rather than an exception.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free: this one
            os.set_inheritable(number, True)
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, mode, encoding="utf-8", errors="replace", closefd=False))
    codecs.register_error("fastserve", _nearest)
    if reconfigure := getattr(sys.stdout, "reconfigure", None):
        reconfigure(errors="fastserve")


def _nearest(error: UnicodeError) -> tuple[bytes, int]:
    """A handler of encoding errors: names of files as the bytes they are, other characters as question marks."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    return b"".join(bytes([ord(one) - 0xDC00]) if "\udc80" <= one <= "\udcff" else b"?" for one in text), error.end


def _forget(stream: TextIO) -> None:
    """What is still to be written there is not: Python would try once more at its end, and complain."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _reason(error: OSError) -> str:
    """Why the system refused something that has no message of its own, and what to do."""
    if short := shortage(error):
        return short
    reason = error.strerror or str(error)
    return f"{reason}: {os.fsdecode(error.filename)!r}" if error.filename is not None else reason


# ---------------------------------------------------------------------------------------------------------- ending


def complain(text: str, code: int) -> int:
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.write(text + "\n")
        sys.stderr.flush()
    return code


def _hint(given: Sequence[str], message: str) -> str:
    """What to do, where only the command line knows: who has an address; a first word that is nearly a command."""
    if message.endswith("the address is already in use"):
        return f" (ss {'-lxp' if 'unix:' in message else '-ltnp'} tells who has it)"
    if "did you mean" in message or not re.match(r"module \S+ not found in|unrecognized arguments: [^-]", message):
        return ""
    close = difflib.get_close_matches(given[0], COMMANDS, 1, 0.7) if ":" not in given[0] else []
    return f"; did you mean fastserve {close[0]}?" if close else ""


def _one_line(text: str) -> str:
    return " ".join(text.split("\n")) if "\n" in text else text


def leave_stuck_threads(code: int) -> None:
    """This process is ours: a thread of the application that never ends must not keep it from ending.

    Python ends executors and joins threads by itself, behind us; a thread of our own watches that for a second.
    """

    def watch() -> None:
        deadline = time.monotonic() + 1.0
        for thread in threading.enumerate():
            if thread is threading.main_thread() or thread.daemon:
                continue
            thread.join(max(0.0, deadline - time.monotonic()))
            if thread.is_alive():
                complain(f"fastserve: thread {thread.name!r} is still running; it was left behind", code)
                with contextlib.suppress(OSError, ValueError):
                    sys.stdout.flush()
                os._exit(code)

    if any(not thread.daemon for thread in threading.enumerate() if thread is not threading.main_thread()):
        threading.Thread(target=watch, name="fastserve-exit", daemon=True).start()
