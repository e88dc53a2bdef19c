"""Instructions per request of our own server, counted by valgrind's callgrind: a number that does not depend on who
else is busy.

Called by __main__ (the verb `callgrind`). Calls servers (start under valgrind) and load.run_client (so many requests).
Counted is the server's process in user space, over a real socket with 16 connections; two loads of different length are
counted, and their difference taken, so that what happens once per load (connecting, closing) falls out.

The baseline, baseline.json beside this file, holds the figures of each version of Python, and the functions they are
made of. They belong to one build of Python (the same version from another compiler runs other instructions), to the SIMD
level of that machine, and to a build of ours without debugging: `build()` says which, and stands in the baseline too. On
another one the bound is loose: it finds what costs a third more, not what costs a twentieth more.
"""

import json
import platform
import re
import shutil
import socket
import subprocess
import sysconfig
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import load, report, servers
from .cases import CASES, Case
from .progress import Progress

# A row of the baseline: which server, asked what.
ROWS = {
    "native-plaintext": ("fastserve", "plaintext"),
    "native-browser": ("fastserve", "browser"),
    "native-pipelined": ("fastserve", "pipelined"),
    "native-echo-1k": ("fastserve", "echo-1k"),
    "native-close": ("fastserve", "close"),
    "native-plaintext-off": ("fastserve-off", "plaintext"),
    "native-browser-off": ("fastserve-off", "browser"),
    "native-plaintext-on": ("fastserve-on", "plaintext"),
    "native-browser-on": ("fastserve-on", "browser"),
    "native-plaintext-lens-off": ("fastserve-lens-off", "plaintext"),
    "native-plaintext-lens-stalls": ("fastserve-lens-stalls", "plaintext"),
    "native-plaintext-lens-sample": ("fastserve-lens-sample", "plaintext"),
    "native-plaintext-lens-full": ("fastserve-lens-full", "plaintext"),
    "asgi-plaintext": ("fastserve-asgi", "plaintext"),
    "asgi-browser": ("fastserve-asgi", "browser"),
    "wsgi-plaintext": ("fastserve-wsgi-inline", "plaintext"),
    "wsgi-browser": ("fastserve-wsgi-inline", "browser"),
}
BASELINE = Path(__file__).parent / "baseline.json"
CONNECTIONS = 16
SHORT = 320  # requests of the shorter load
WARM = 800
QUICK, WARM_QUICK = 480, 320
READY_S = 120.0
TOLERANCE = 0.05
LOOSE = 0.30  # of another build of Python than that of the baseline
# What CI counts: the three interfaces, the log and a browser's fields among them.
CHECKED = ("native-plaintext-on", "asgi-browser", "wsgi-plaintext")
SHOWN = 12  # functions in the report
KEPT = 60  # functions in the baseline
# "1,234 (5.6%)  file.c:function [/path/object.so]"; the file may be ???, the object may be missing.
LINE = re.compile(r"^\s*([\d,]+)\s+\([\s\d.]+%\)\s+(.+)$")


class CallgrindError(servers.ServerError):
    """Nothing could be counted."""


@dataclass(frozen=True, slots=True)
class Count:
    """Instructions per request, and by function (those of its own code, not of what it calls)."""

    instructions: float
    functions: dict[str, float]
    owners: dict[str, float] = field(default_factory=dict)  # the same by whose code it is: owner()


def parse(text: str) -> tuple[int, dict[str, int]]:
    """What callgrind_annotate printed: the total, and the functions' own instructions."""
    total: int | None = None
    functions: dict[str, int] = {}
    for line in text.splitlines():
        found = LINE.match(line)
        if not found:
            continue
        count, what = int(found[1].replace(",", "")), found[2]
        if what.startswith("PROGRAM TOTALS"):
            total = count
        elif ":" in what:
            functions[short_name(what)] = functions.get(short_name(what), 0) + count
    if total is None:
        raise CallgrindError("callgrind_annotate printed no total")
    return total, functions


def short_name(what: str) -> str:
    """'path/to/file.c:name [/path/object.so]' as 'name [object.so]': the paths are of one machine only."""
    name, place = bare_name(what), what.partition(" [")[2]
    thing = place.rstrip("]").rpartition("/")[2].split(".cpython")[0]
    return f"{name} [{thing}]" if thing else name


# By the path of the object file that a function is in; the first that fits.
OWNERS = (
    ("fastserve", re.compile(r"/fastserve/")),
    ("uvloop", re.compile(r"/uvloop/")),
    ("CPython", re.compile(r"/libpython[^/]*$|/python3[^/]*$|/lib-dynload/")),
    ("C library", re.compile(r"/(libc|libm|ld-linux[^/]*|ld|libpthread|vgpreload[^/]*)[.-][^/]*$")),
)
# Where callgrind names no object: C's functions of ours, and Cython's, which are ours or uvloop's.
NAMES = (
    ("uvloop", re.compile(r"^__pyx_.*6uvloop|^uv_")),
    ("fastserve", re.compile(r"^__pyx_|^fs_")),
    ("CPython", re.compile(r"^_?Py[A-Z_]|_dealloc$|_alloc$")),
)
OTHER = "other"


def by_owner(text: str) -> dict[str, int]:
    """What callgrind_annotate printed, summed up by whose code it is."""
    found = [(int(line[1].replace(",", "")), line[2]) for line in map(LINE.match, text.splitlines()) if line]
    counts = [(count, what) for count, what in found if ":" in what and not what.startswith("PROGRAM TOTALS")]
    known = {bare_name(what): owner(what) for _, what in counts if " [" in what}
    sums: dict[str, int] = {}
    for count, what in counts:
        whose = known.get(bare_name(what)) or owner(what)
        sums[whose] = sums.get(whose, 0) + count
    return sums


def owner(what: str) -> str:
    """Whose code a function is: fastserve, CPython (which runs the application's Python), uvloop, C library, other."""
    place = what.partition(" [")[2].rstrip("]")
    table, key = (OWNERS, place) if place else (NAMES, bare_name(what))
    return next((name for name, pattern in table if pattern.search(key)), OTHER)


def bare_name(what: str) -> str:
    """'path/to/file.c:name'2 [/path/object.so]' as 'name'; the number is callgrind's mark of recursion."""
    return re.sub(r"'\d+$", "", what.partition(" [")[0].split(":", 1)[1].strip())


def row_s(requests: int) -> float:
    """How long the count of one row takes, about."""
    return 8 + requests / 200


def count_row(name: str, requests: int, warm: int = WARM) -> Count:
    """Count a row of ROWS."""
    server, case = ROWS[name]
    return count(server, case, requests, warm)


def count(name: str, case_name: str, requests: int, warm: int = WARM) -> Count:
    """Start the server under callgrind, warm it with so many requests of the case, and count. CallgrindError, ServerError
    or LoadError say why not.
    """
    server, case = servers.SERVERS[name], CASES[case_name]
    if case.tls:
        raise CallgrindError("the load client does not speak TLS")
    for program in ("valgrind", "callgrind_control", "callgrind_annotate"):
        if shutil.which(program) is None:
            raise CallgrindError(f"{program} is not on PATH (Debian: apt-get install valgrind)")
    with tempfile.TemporaryDirectory(prefix="benchmarks-") as folder:
        out = Path(folder) / "out"
        wrapper = ["valgrind", "--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={out}"]
        running = servers.start(server, wrapper=wrapper, ready_s=READY_S)
        try:
            size = running.check(case, timeout_s=READY_S)
            ask(running, case, size, warm)
            texts = []
            for step, number in enumerate((SHORT, SHORT + requests), 1):
                _control(running.pid, "-i", "on")
                ask(running, case, size, number)
                time.sleep(0.5)  # the closing of the connections belongs to the load it ends
                _control(running.pid, "-i", "off")
                _control(running.pid, "-d")
                texts.append(_annotate(out.with_name(f"out.{step}")))
        finally:
            running.stop()
    (short_total, short_functions), (long_total, long_functions) = map(parse, texts)
    short_owners, long_owners = map(by_owner, texts)
    owners = between(short_owners, long_owners, requests)
    return Count((long_total - short_total) / requests, between(short_functions, long_functions, requests), owners)


def between(short: dict[str, int], long: dict[str, int], requests: int) -> dict[str, float]:
    """Per request, of either load, so that they add up to the difference of the totals."""
    return {key: (long.get(key, 0) - short.get(key, 0)) / requests for key in long | short}


def ask(running: servers.Running, case: Case, size: int, number: int) -> None:
    """Exactly so many requests of the case, over CONNECTIONS connections, or on one each where they close."""
    raw = case.request(running.host)
    if not case.keep_alive:
        one_by_one(running.port, raw, size, number)
        return
    load.run_client(
        running.port,
        case.message() if case.websocket else raw,
        connections=CONNECTIONS,
        answer_size=size,
        requests=number,
        each=case.depth,
        hello=raw if case.websocket else b"",
    )


def one_by_one(port: int, raw: bytes, size: int, number: int) -> None:
    """So many requests, each on a connection of its own that the server closes. LoadError if it answers otherwise."""
    for _ in range(number):
        with socket.create_connection((servers.HOST, port), timeout=READY_S) as client:
            client.sendall(raw)
            got = 0
            while data := client.recv(65536):
                got += len(data)
            if got != size:
                raise load.LoadError(f"{got} bytes came back, not {size}")


def quick_count(name: str) -> Count:
    """The same, in the time that a test has: repeated counts differ by less than 2 %."""
    return count_row(name, QUICK, WARM_QUICK)


def _control(pid: int, *words: str) -> None:
    done = subprocess.run(
        ["callgrind_control", *words, str(pid)], capture_output=True, text=True, timeout=60, check=False
    )
    if done.returncode != 0 or "OK" not in done.stdout:
        raise CallgrindError(f"callgrind_control {' '.join(words)}: {servers.last_line(done.stdout + done.stderr)}")


def _annotate(path: Path) -> str:
    give_up_at = time.monotonic() + 30
    while not path.exists() and time.monotonic() < give_up_at:
        time.sleep(0.05)
    words = ["callgrind_annotate", "--threshold=100", "--auto=no", str(path)]
    return subprocess.run(words, capture_output=True, text=True, timeout=120, check=False).stdout


def build() -> str:
    """What the figures belong to beside our own code: Python's version and compiler, libc, the SIMD level."""
    from fastserve.protocol.core import simd

    libc = " ".join(platform.libc_ver())
    optimised = "--enable-optimizations" in (sysconfig.get_config_var("CONFIG_ARGS") or "")
    kind = "optimised" if optimised else "plain"
    version = f"{platform.python_implementation()} {platform.python_version()}"
    return f"{version} ({kind}, {platform.python_compiler()}), {libc}, {simd()}"


def compare(now: Count, before: Count, tolerance: float = TOLERANCE) -> str | None:
    """None if `now` is within the tolerance of `before`; else a line that names the functions that grew most."""
    if now.instructions <= before.instructions * (1 + tolerance):
        return None
    grown = {name: now.functions[name] - before.functions.get(name, 0.0) for name in now.functions}
    worst = sorted(grown, key=lambda name: -grown[name])[:5]
    told = ", ".join(f"{name} {grown[name]:+.0f}" for name in worst if grown[name] > 0)
    over = now.instructions / before.instructions - 1
    return (
        f"{now.instructions:.0f} instructions per request, {over:+.1%} over the baseline of {before.instructions:.0f}; "
        f"grown: {told}"
    )


def read_baseline(python: str, path: Path = BASELINE) -> dict[str, Count]:
    """The rows of one version of Python; empty if there are none yet."""
    rows = _read(path).get(python, {}).get("rows", {})
    return {name: Count(row["instructions"], row["functions"]) for name, row in rows.items()}


def tolerance(python: str, path: Path = BASELINE) -> float:
    """By how much the baseline may be exceeded here."""
    return TOLERANCE if _read(path).get(python, {}).get("build") == build() else LOOSE


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return found


def write_baseline(python: str, counts: dict[str, Count], path: Path = BASELINE) -> None:
    """Replace these rows of this version of Python; the others stay, if they are of the same build of it."""
    kept = _read(path)
    if kept.get(python, {}).get("build") != build():
        kept[python] = {"build": build(), "rows": {}}
    for name, found in counts.items():
        largest = sorted(found.functions.items(), key=lambda item: -item[1])[:KEPT]
        kept[python]["rows"][name] = {
            "instructions": round(found.instructions),
            "functions": {function: round(number, 1) for function, number in largest},
        }
    path.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def main(names: list[str], requests: int, write: bool, check: bool, folder: Path | None, say: Progress) -> int:
    """Count the rows; write or hold against the baseline. 1 if a row is over, cannot be counted, or has no
    baseline to check.
    """
    python = ".".join(platform.python_version_tuple()[:2])
    baseline = read_baseline(python)
    allowed = tolerance(python)
    counts: dict[str, Count] = {}
    faults = 0
    each_s = row_s(requests)
    say.plan(each_s * len(names))
    if check and allowed != TOLERANCE:
        say(f"the baseline is not of {build()}: {allowed:.0%} over it are allowed")
    for name in names:
        try:
            with say.step(f"instructions of {name}", each_s):
                counts[name] = found = count_row(name, requests)
        except (servers.ServerError, load.LoadError) as error:
            faults += 1
            say(f"{name}: {error}")
            continue
        say(f"{name:20} {found.instructions:8.0f} instructions per request")
        for function, number in sorted(found.functions.items(), key=lambda item: -item[1])[:SHOWN]:
            say(f"    {number:8.0f}  {function}")
        if check:
            told = compare(found, baseline[name], allowed) if name in baseline else f"no baseline for Python {python}"
            faults += told is not None
            if told:
                say(f"{name}: {told}")
    if write and counts:
        write_baseline(python, counts)
    if folder is not None:
        notes = [
            f"User-space instructions per request of the server's process, CPython {platform.python_version()}, "
            f"by callgrind."
        ]
        rows = []
        for name, found in counts.items():
            largest = sorted(found.functions.items(), key=lambda item: -item[1])[:3]
            told = "; ".join(f"{function} {number:.0f}" for function, number in largest)
            rows.append({"path": name, "instructions": f"{found.instructions:.0f}", "the largest": told})
        report.keep_extra(folder, "instructions", "Instructions per request", notes, rows)
    return 1 if faults else 0
