"""cli: arguments to Config to run. The command `fastserve MODULE:APP`.

Room: the top. Called by: the console script, __main__.py; nobody imports it. Calls: process (sources, arguments, check,
completion, run); lens (commands).
Every error of the operator is one line on stderr and a non-zero exit code.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence

from fastserve._version import __version__
from fastserve.errors import ConfigError
from fastserve.process.arguments import Command, help_text
from fastserve.process.completion import SHELLS, script
from fastserve.process.envfile import real_environment
from fastserve.process.logs import painter
from fastserve.process.sources import gather, print_config

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 0 stopped gracefully, 1 forced, 2 wrong usage, 3 cannot start."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    code = 1
    try:
        code = COMMANDS[given[0]].run(given[1:]) if given and given[0] in COMMANDS else serve(given)
    except ConfigError as error:
        details = getattr(error, "details", "")  # the traceback of the application, which is not ours to hide
        code = complain(f"{details}fastserve: error: {_one_line(str(error))}", error.exit_code)
    except KeyboardInterrupt:
        code = 130
    except BrokenPipeError:  # `fastserve check ... | head`: nobody reads any more, which is no fault
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    leave_stuck_threads(code)
    return code


# ------------------------------------------------------------------------------------------------------- commands


def serve(arguments: Sequence[str]) -> int:
    """The command without a name: serve an application, or say what would be served."""
    if "-h" in arguments or "--help" in arguments:
        return show_help(arguments)
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
    return serve(["--dev", *arguments])


def examine(arguments: Sequence[str]) -> int:
    """fastserve check: would it serve, and serve well? 0 if nothing is an error, 1 if something is."""
    if "-h" in arguments or "--help" in arguments:
        return show_help(arguments)
    from fastserve.process import check

    as_json = "--json" in arguments
    found: list[check.Finding] = []
    paint = painter(sys.stdout)

    def tell(finding: check.Finding) -> None:
        found.append(finding)
        if finding.details:
            complain(finding.details.rstrip(), 0)
        if not as_json:
            advice = f" ({finding.advice})" if finding.advice else ""
            level = paint(CHECK_COLOURS[finding.level], f"{finding.level:<8}")
            print(f"{level} {finding.topic:<12} {finding.text}{advice}", flush=True)

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
        print("fastserve: " + ", ".join(f"{count} {level}" for level, count in counts.items()))
    return 1 if counts["error"] else 0


CHECK_COLOURS = {"ok": "32", "note": "36", "warning": "33", "error": "31;1"}


def complete(arguments: Sequence[str]) -> int:
    """fastserve completion: the script that teaches a shell to complete our command lines."""
    if "-h" in arguments or "--help" in arguments:
        return show_help(arguments)
    if len(arguments) != 1:
        raise ConfigError(f"a shell is missing: fastserve completion {'|'.join(SHELLS)}", exit_code=2)
    sys.stdout.write(script(arguments[0], COMMANDS))
    return 0


def show_help(_arguments: Sequence[str]) -> int:
    sys.stdout.write(help_text(COMMANDS, painter(sys.stdout)))
    return 0


def show_version(_arguments: Sequence[str]) -> int:
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
    "dev": Command(develop, "MODULE:APP [options]", "serve it while you write it: reload, colours, everything told"),
    "check": Command(
        examine,
        "MODULE:APP [options]",
        "say whether it would serve, and serve well on this machine",
        (("--json", "", "say it as JSON"),),
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
    ),
    "explain": Command(
        look("explain"),
        "[TARGET] [WHICH]",
        "one request in sentences: where it waited, and for whom",
        (*SOME, ("--no-source", "", "do not show the text of lines"), REDACT),
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
    ),
    "blackbox": Command(
        look("blackbox"),
        "[FILE]",
        "what a worker was doing when it died",
        (("--list", "", "list what there is, the newest first"),),
    ),
    "lens": Command(
        look("lens"),
        "[TARGET] [MODE]",
        "what a running server records; with a MODE (see --lens), switch it",
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
    "completion": Command(complete, "|".join(SHELLS), "print the script that completes these lines in a shell"),
    "help": Command(show_help, "", "print this help"),
    "version": Command(show_version, "", "print the version"),
}
"""A first word that stands here is a command; any other is an application (a module of that name: `help:app`). The help
and the completion of shells are made from this table."""


# ---------------------------------------------------------------------------------------------------------- ending


def complain(text: str, code: int) -> int:
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.write(text + "\n")
        sys.stderr.flush()
    return code


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
