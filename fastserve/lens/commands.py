"""commands: `fastserve top`, `trace`, `explain`, `doctor`, `blackbox` and `lens`: their arguments, and what they print.

Room: floor 3. Called by: cli.py, when one of them is typed. Calls: all of lens/; process.arguments, values, logs.

Every command reads a running server (its name, its pid, or nothing if only one runs) or a recording in a file (.fsx). The
exit code: 0 done, 1 there is nothing to tell or `doctor --fail-on` has found it, 2 it cannot be asked so.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from fastserve.errors import ConfigError, LensError
from fastserve.lens import doctor as examination
from fastserve.lens.explain import explain as told
from fastserve.lens.explain import nothing_recorded
from fastserve.lens.findings import find, parse_ignored
from fastserve.lens.model import Model, RequestTrace, build, place
from fastserve.lens.recording import Recording, request_id, running, switch
from fastserve.lens.redact import redacted
from fastserve.lens.top import Top, plain
from fastserve.lens.wording import WAITS_FOR, count, duration
from fastserve.process import lensfile
from fastserve.process.arguments import Command, Parser, command_help
from fastserve.process.logs import painter, width_of
from fastserve.process.patience import patiently
from fastserve.process.values import duration as seconds
from fastserve.telemetry.lens.modes import parse_mode

__all__ = ["run"]

NOTHING, USAGE = 1, 2
SENTENCE = 100  # characters of a line
WHICH = ("last", "slowest")
READING = "reading what is recorded"
LONG = {"explain": READING, "trace": READING, "doctor": READING, "blackbox": READING}
"""Commands that read a whole recording, which may take seconds: what they are at."""


def _port(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or int(text) > 65535:
        raise ValueError(f"{text!r} is no port: 0 to 65535")
    return int(text)


KINDS: dict[str, Callable[[str], Any]] = {"DURATION": seconds, "SECONDS": seconds, "PORT": _port}


def run(name: str, command: Command, arguments: Sequence[str]) -> int:
    """The command `name`; `command` is its row of the table in cli.py, of which its flags and its help are made."""
    if "-h" in arguments or "--help" in arguments:
        sys.stdout.write(command_help(name, command, painter(sys.stdout), min(width_of(sys.stdout, 110), 110)))
        return 0
    given = _parser(name, command).parse_args(list(arguments))
    waits = name in LONG and vars(given).get("for") is None  # with --for one knows how long it takes
    try:
        with patiently(_say, LONG[name]) if waits else contextlib.nullcontext():
            return COMMANDS[name](given)
    except LensError as error:
        sys.stderr.write(f"fastserve: error: {error}\n")
        return USAGE


def _say(text: str) -> None:
    _complain(text, 0)


def _parser(name: str, command: Command) -> Parser:
    parser = Parser(prog=f"fastserve {name}", add_help=False, allow_abbrev=False)
    parser.add_argument("words", nargs="*")
    for spellings, metavar, _ in command.flags:
        names = spellings.split(", ")
        if not metavar:
            parser.add_argument(*names, action="store_true")
        elif metavar in ("CODES", "CODE[:ROUTE]"):
            parser.add_argument(*names, action="append", default=[], metavar=metavar)
        else:
            parser.add_argument(*names, type=_checked(KINDS.get(metavar, str)), metavar=metavar)
    return parser


def _checked(convert: Callable[[str], Any]) -> Callable[[str], Any]:
    def converter(text: str) -> Any:
        try:
            return convert(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return converter


def _words(given: argparse.Namespace, most: int) -> list[str]:
    if len(given.words) > most:
        raise ConfigError(f"too many arguments: {' '.join(given.words[most:])}", exit_code=USAGE)
    return [*given.words, *[""] * (most - len(given.words))]


def _complain(text: str, code: int) -> int:
    sys.stderr.write(f"fastserve: {text}\n")
    return code


# ------------------------------------------------------------------------------------------------------------- top


def top(given: argparse.Namespace) -> int:
    (target,) = _words(given, 1)
    every = 2.0 if given.every is None else max(0.1, given.every)
    look = Top(parse_ignored(given.ignore))
    first = Recording.take(target or None)
    wanted: str | int = target if first.source == "file" else first.pid
    cannot = not sys.stdout.isatty() or os.environ.get("TERM", "dumb") == "dumb"
    if given.once or given.plain or first.source == "file" or cannot:
        return _print_top(look, first, wanted, every, once=given.once or first.source == "file")
    try:
        from fastserve.lens.screen import Screen
    except ImportError:
        _complain("note: the live view needs textual (pip install 'fastserve-http[top]'); this is --plain", 0)
        return _print_top(look, first, wanted, every, once=False)
    Screen(lambda: Recording.take(wanted), every=every, top=look).run()
    return 0


def _print_top(look: Top, first: Recording, target: str | int, every: float, *, once: bool) -> int:
    """Lines of text, for pipes and terminals that can no more. `once`: two looks, so that there are rates."""
    width = width_of(sys.stdout, 140)
    view = look.look(first)
    if first.source == "file":
        sys.stdout.write(plain(view, width))
        return 0
    while True:
        time.sleep(min(every, 1.0) if once else every)
        try:
            view = look.look(Recording.take(target))
        except LensError as error:
            if once:
                raise
            return _complain(str(error), NOTHING)
        sys.stdout.write(plain(view, width) + ("" if once else "\n"))
        sys.stdout.flush()
        if once:
            return 0


def _width() -> int:
    """Of a line of sentences: that of the terminal, and no more than one reads well."""
    return min(width_of(sys.stdout, SENTENCE), SENTENCE)


# ------------------------------------------------------------------------------------------------------- one request


def explain(given: argparse.Namespace) -> int:
    first, second = _words(given, 2)
    if first and not second and (first.lower() in WHICH or _is_id(first)):
        first, second = "", first
    model = _chosen(Recording.take(first or None), given)
    if not model.requests:
        return _complain(_nothing(model, given), NOTHING)
    which = second or "slowest"
    if model.find(which) is None:
        some = ", ".join(one.id for one in model.requests[-3:])
        return _complain(f"no request {which!r} is recorded; there are {some}, `last` and `slowest`", NOTHING)
    source = not (given.no_source or given.redact)
    sys.stdout.write(told(model, which, source=source, paint=painter(sys.stdout), width=_width()))
    return 0


def _is_id(text: str) -> bool:
    worker, dash, number = text.lower().partition("-")
    return bool(dash) and worker[:1] == "w" and worker[1:].isdecimal() and all(c in "0123456789abcdef" for c in number)


def _nothing(model: Model, given: argparse.Namespace) -> str:
    recording = model.recording
    if any((given.route, given.slower, given.last)) and any(worker.events for worker in recording.workers):
        return f"no recorded request of {recording.name} is like that"
    return nothing_recorded(recording)


def _chosen(recording: Recording, given: argparse.Namespace) -> Model:
    """What is asked for of a recording. With --redact it is chosen by its old name, and has a new one."""
    model = _filtered(build(recording), given)
    if not given.redact:
        return model
    ids = {one.id for one in model.requests}
    hidden = build(redacted(recording))
    return replace(hidden, requests=[one for one in hidden.requests if one.id in ids])


def _filtered(model: Model, given: argparse.Namespace) -> Model:
    """Only the requests that --route, --slower and --last let through. Who held the loop is still known by its id."""
    now = model.recording.taken_ns

    def fits(one: RequestTrace) -> bool:
        if given.route and not any(
            fnmatchcase(text, given.route) for text in (one.path, one.route or "", one.route_name)
        ):
            return False
        if given.slower is not None and one.total < given.slower * 1e9:
            return False
        return given.last is None or one.until >= now - given.last * 1e9

    requests = [one for one in model.requests if fits(one)]
    return replace(model, requests=requests)


def trace(given: argparse.Namespace) -> int:
    (target,) = _words(given, 1)
    path = given.output or "trace.html"
    suffix = Path(path).suffix.lower()
    if suffix not in (".html", ".json", ".fsx"):
        raise ConfigError(
            f"-o: {path!r} must end in .html, .json (for Perfetto) or .fsx (to read again)", exit_code=USAGE
        )
    if given.redact and given.with_source:
        raise ConfigError("--redact leaves the source out, which --with-source asks for", exit_code=USAGE)
    recording = Recording.take(target or None)
    if suffix == ".fsx":
        (redacted(recording) if given.redact else recording).save(path)
        what = "redacted; it holds names of functions" if given.redact else "all of it, as it is"
        print(f"{path}: {what}; every command reads it")
        return 0
    model = _chosen(recording, given)
    if not model.requests:
        return _complain(_nothing(model, given), NOTHING)
    if suffix == ".html":
        from fastserve.lens import page

        found = find(model, ignored=parse_ignored(given.ignore))
        text = page.render(
            model, with_source=given.with_source, strip_paths=given.strip_paths or given.redact, findings=found
        )
    else:
        from fastserve.lens import perfetto

        text = perfetto.render(model, strip_paths=given.strip_paths or given.redact)
    _write(path, text)
    if given.redact:
        print("paths of requests are routes or hashes in it, marks are hashes")
    inside = (
        "names of functions"
        if given.strip_paths or given.redact
        else "paths of files and names of functions (--strip-paths leaves paths out)"
    )
    print(f"{path}: {count(len(model.requests), 'request')}; it holds {inside}")
    if lost := sum(lane.lost for lane in model.lanes):
        print(f"{count(lost, 'older event')} had been overwritten")
    return 0


def _write(path: str, text: str) -> None:
    """0600: it tells of paths and lines."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with open(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:  # as JSON escapes
            file.write(text)
    except OSError as error:
        raise LensError(f"cannot write {path!r}: {error.strerror or error}") from None


# ------------------------------------------------------------------------------------------------------------- doctor


def doctor(given: argparse.Namespace) -> int:
    (target,) = _words(given, 1)
    codes = examination.parse_codes(given.fail_on)
    ignored = parse_ignored(given.ignore)
    period = vars(given)["for"]
    if period is None:
        recording = Recording.take(target or None)
    else:
        if sys.stderr.isatty():
            sys.stderr.write(f"recording every request for {duration(int(period * 1e9))}; Ctrl-C ends it earlier\n")
        recording = examination.recorded_for(target or None, period)
    model, found = examination.examine(recording, ignored)
    failing = examination.fails(found, codes)
    if given.json:
        print(examination.as_json(model, found, failing))
    else:
        sys.stdout.write(examination.report(model, found, painter(sys.stdout), _width()))
        if failing:
            named = ", ".join(sorted({one.code for one in failing}))
            print(f"\nfastserve: failed: {named}")
    return NOTHING if failing else 0


# --------------------------------------------------------------------------------------------------------- black boxes


def blackbox(given: argparse.Namespace) -> int:
    (where,) = _words(given, 1)
    files = _boxes(where)
    if not files:
        place_ = where or ", ".join(map(str, lensfile.candidates()))
        return _complain(f"no worker has left a black box (looked in {place_})", NOTHING)
    if given.list:
        for file in files:
            recording = Recording.load(file)
            print(f"{_when(recording)}  {recording.name}  {recording.note or 'a recording'}  {file}")
        return 0
    sys.stdout.write(last_words(Recording.load(files[0]), str(files[0])))
    return 0


def _boxes(where: str) -> list[Path]:
    """The newest first."""
    if where and not Path(where).is_dir():
        return [Path(where)]
    folders = [Path(where)] if where else lensfile.directories()
    found = {file.resolve(): file for folder in folders if folder.is_dir() for file in folder.glob("*.fsx")}
    return sorted(found.values(), key=lambda file: -file.stat().st_mtime)


def _when(recording: Recording) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(recording.taken_unix_ns / 1e9))


def last_words(recording: Recording, file: str) -> str:
    """What the workers of a recording were doing: for one that a supervisor took of a dead worker."""
    model = build(recording)
    now = recording.taken_ns
    lines = [f"{recording.name}, {_when(recording)}{': ' + recording.note if recording.note else ''}"]
    for worker, lane in zip(recording.workers, model.lanes, strict=True):
        lines.append(
            f"worker {worker.slot} (pid {worker.pid}), lens {worker.mode}, {count(len(worker.live), 'request')} in flight"
        )
        for live in worker.live:
            number = f"{request_id(worker.slot, live.request)}  " if live.request else ""
            doing = {"running": "ran", "ready": "could run", "waiting": "waited"}.get(live.state, "")
            if doing and live.state_since_ns:
                doing += f" for {duration(max(0, now - live.state_since_ns))}"
            if live.state == "waiting" and live.stack is not None:
                doing += f", for {WAITS_FOR[live.stack.wait]}"
            at = f" at {place(live.stack)}" if place(live.stack) else ""
            begun = f"begun {duration(max(0, now - live.since_ns))} before"
            lines.append(f"  {number}{live.text}  {begun}{'; it ' + doing if doing else ''}{at}")
        if lane.stalls:
            stall = lane.stalls[-1]
            at = f" at {place(stall.stack)}" if place(stall.stack) else ""
            what = model.by_id[stall.request].name if stall.request in model.by_id else stall.what
            name = f" in {what}" if what else ""
            over = "until its end" if stall.end >= now else f"which ended {duration(now - stall.end)} before"
            lines.append(f"  its last stall: {duration(stall.length)}{name}{at}, {over}")
    if model.requests:
        lines.append(f"{count(len(model.requests), 'request')} recorded: fastserve explain {file} last")
    return "\n".join(lines) + "\n"


# ------------------------------------------------------------------------------------------------------------- switching


def lens(given: argparse.Namespace) -> int:
    target, mode = _words(given, 2)
    if target and not mode and _is_mode(target):
        target, mode = "", target
    if not mode:
        return _list_servers(target)
    before = Recording.take(target or None)
    if before.source == "file":
        raise LensError("a recording in a file cannot be switched: name a running server")
    switch(before.pid, mode)
    print(f"{before.name} (pid {before.pid}): the lens is `{parse_mode(mode)}`, it was `{before.mode}`")
    return 0


def _is_mode(text: str) -> bool:
    try:
        parse_mode(text)
    except ValueError:
        return False
    return True


def _list_servers(target: str) -> int:
    found = running()
    if target:
        wanted = Recording.take(target)
        found = [one for one in found if one.pid == wanted.pid]
    if not found:
        return _complain("no server with a lens runs here as this user", NOTHING)
    for one in found:
        where = " ".join(one.addresses)
        print(f"{one.name}  pid {one.pid}  {count(one.workers, 'worker')}  lens {one.mode}  {where}".rstrip())
    return 0


# ------------------------------------------------------------------------------------------------------------ otel


def otel(given: argparse.Namespace) -> int:
    (target,) = _words(given, 1)
    from fastserve.lens import otel as exporter  # late: an extra

    every = exporter.EVERY if given.every is None else max(0.1, given.every)
    metrics = exporter.METRICS_EVERY if given.metrics_every is None else max(0.0, given.metrics_every)
    return exporter.export(
        target, endpoint=given.endpoint or "", every=every, awaits=given.awaits, say=_say, metrics_every=metrics
    )


# ----------------------------------------------------------------------------------------------------------- learn


def learn(given: argparse.Namespace) -> int:
    _words(given, 0)
    from fastserve.lens.learn import run as lessons  # late: it needs a server, which the others only read

    return lessons(0 if given.port is None else given.port, given.open)


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "top": top,
    "trace": trace,
    "explain": explain,
    "doctor": doctor,
    "blackbox": blackbox,
    "lens": lens,
    "learn": learn,
    "otel": otel,
}
