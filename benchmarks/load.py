"""The load generator's room: drives the wrk binary, or our own client (run_client), and returns one frozen result, or
refuses.

Called by run.py. wrk is given the exact bytes to send through a Lua script (wrk.format is replaced, so that wrk keeps
its static request and runs no Lua per request; it finds the pipelining depth by parsing the bytes). wrk's own `done`
hook prints its figures as one line of JSON: whole numbers, not the rounded text meant for people.

A result with any error in it is not a result: LoadError.
What wrk does not count, and this room or run.py therefore checks otherwise: an answer below 400 that is not 200, a body
that is not the right one, a server that closes after each answer (wrk reconnects without a word).

wrk 4.1 "corrects" its latencies for what it calls omitted requests: for each answer that took more than twice the mean
interval it adds made-up ones. So the upper percentiles are cautious; and with pipelining, where it takes the interval
of requests for that of batches, they are nonsense. Then there are none (`pipelined=True`).
"""

import json
import os
import resource
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from . import build

PERCENTILES = ("50", "75", "90", "99", "99.9", "99.99")
MARK = "benchmarks-result:"
ERRORS = ("connect", "read", "write", "timeout", "status")
SCRIPT = """\
local raw = "@RAW@"
wrk.format = function() return raw end

local function whole(n)
  if n ~= n or n < 0 then return "0" end
  return string.format("%.0f", n)
end

done = function(summary, latency, requests)
  local percentiles = {}
  for _, p in ipairs({@PERCENTILES@}) do
    percentiles[#percentiles + 1] = string.format('"p%s": %s', p, whole(latency:percentile(tonumber(p))))
  end
  local e = summary.errors
  io.write(string.format(
    '@MARK@{"requests": %s, "duration_us": %s, "bytes": %s, "min": %s, "max": %s, "mean": %s, %s, ' ..
    '"errors": {"connect": %s, "read": %s, "write": %s, "timeout": %s, "status": %s}}\\n',
    whole(summary.requests), whole(summary.duration), whole(summary.bytes),
    whole(latency.min), whole(latency.max), whole(latency.mean), table.concat(percentiles, ", "),
    whole(e.connect), whole(e.read), whole(e.write), whole(e.timeout), whole(e.status)))
end
"""


class LoadError(Exception):
    """The load could not be made, or what came back is not a clean result."""


@dataclass(frozen=True, slots=True)
class Load:
    """What one run of wrk saw; every request in it was answered, below 400, without a socket error."""

    requests: int
    duration_s: float
    bytes_read: int
    latency_us: dict[str, int] | None  # None if pipelined; else min, mean, max, p50, p75, p90, p99, p99.9, p99.99
    wrk_cpu_s: float = 0.0

    @property
    def requests_per_s(self) -> float:
        return self.requests / self.duration_s

    @property
    def transfer_per_s(self) -> float:
        """Bytes of answers per second."""
        return self.bytes_read / self.duration_s

    @property
    def bytes_per_answer(self) -> float:
        return self.bytes_read / self.requests

    @property
    def wrk_busy(self) -> float:
        """The share of one core that wrk used. Near 1, requests/s is wrk's figure and not the server's."""
        return self.wrk_cpu_s / self.duration_s


def find_wrk() -> str:
    path = shutil.which("wrk")
    if path is None:
        raise LoadError("wrk is not on PATH (Debian: apt-get install wrk; macOS: brew install wrk)")
    return path


def version() -> str:
    # wrk has no --version: it prints its name and its usage, and exits with 1.
    shown = subprocess.run([find_wrk(), "-v"], capture_output=True, text=True, timeout=10, check=False)
    first = (shown.stdout + shown.stderr).partition("\n")[0]
    return first.partition(" Copyright")[0].strip()


def lua_string(raw: bytes) -> str:
    """The bytes as the inside of a Lua string literal: three decimal digits for all that is not plain text."""
    return "".join(chr(b) if 0x20 <= b < 0x7F and b not in b'"\\' else f"\\{b:03d}" for b in raw)


def script(raw: bytes) -> str:
    percentiles = ", ".join(f'"{p}"' for p in PERCENTILES)
    return SCRIPT.replace("@PERCENTILES@", percentiles).replace("@MARK@", MARK).replace("@RAW@", lua_string(raw))


def command(wrk: str, script_path: str, url: str, connections: int, seconds: int) -> list[str]:
    # One thread: wrk has one core, and a second thread on it would only take turns with the first.
    return [wrk, "-t1", f"-c{connections}", f"-d{seconds}s", "-s", script_path, url]


def parse(output: str) -> Load:
    """The one line that `done` printed, as a Load; LoadError if it is not there or tells of any error."""
    lines = [line for line in output.splitlines() if line.startswith(MARK)]
    if len(lines) != 1:
        raise LoadError(f"wrk printed no result: {output.strip()[-200:] or 'nothing at all'}")
    try:
        figures: dict[str, Any] = json.loads(lines[0].removeprefix(MARK))
        errors = {name: int(figures["errors"][name]) for name in ERRORS}
        latency_us = {key: int(figures[key]) for key in ("min", "mean", "max", *(f"p{p}" for p in PERCENTILES))}
        requests, bytes_read, duration_us = (int(figures[key]) for key in ("requests", "bytes", "duration_us"))
    except (ValueError, KeyError, TypeError) as error:
        raise LoadError(f"wrk's result cannot be read ({error!r}): {lines[0]}") from error
    if any(errors.values()):
        told = ", ".join(f"{name} {count}" for name, count in errors.items() if count)
        raise LoadError(f"errors in {requests} requests: {told}")
    if requests == 0 or duration_us == 0:
        raise LoadError("not one request was answered")
    return Load(requests=requests, duration_s=duration_us / 1e6, bytes_read=bytes_read, latency_us=latency_us)


def run(
    url: str,
    raw: bytes,
    *,
    connections: int,
    seconds: int,
    pipelined: bool = False,
    prepare: Callable[[], None] | None = None,
) -> Load:
    """Send `raw` over `connections` for `seconds`. `prepare` runs in the child before wrk starts (core, priority)."""
    wrk = find_wrk()
    with tempfile.NamedTemporaryFile("w", prefix="benchmarks-", suffix=".lua", encoding="ascii") as file:
        file.write(script(raw))
        file.flush()
        cpu_before_s = _children_cpu_s()
        try:
            done = subprocess.run(
                command(wrk, file.name, url, connections, seconds),
                capture_output=True,
                text=True,
                timeout=seconds + 30,
                check=False,
                preexec_fn=prepare,
                env={**os.environ, "LC_ALL": "C"},
            )
        except subprocess.TimeoutExpired as error:
            raise LoadError(f"wrk did not end {seconds + 30} s after its start") from error
        # Only wrk was waited for in between: the servers are alive, and wrk has no children.
        cpu_s = _children_cpu_s() - cpu_before_s
    if done.returncode != 0:
        told = (done.stderr.strip() or done.stdout.strip() or "nothing said").splitlines()[0]
        raise LoadError(f"wrk ended with {done.returncode}: {told}")
    load = parse(done.stdout)
    return replace(load, latency_us=None if pipelined else load.latency_us, wrk_cpu_s=cpu_s)


def run_client(
    port: int,
    raw: bytes,
    *,
    connections: int,
    answer_size: int,
    requests: int = 0,
    milliseconds: int = 0,
    each: int = 1,
    hello: bytes = b"",
    prepare: Callable[[], None] | None = None,
) -> Load:
    """The load of our own client (peers/client.c): an exact number of requests, or so many milliseconds, or a WebSocket.

    `each` requests are in `raw`, and are answered with `answer_size` bytes each. `hello` is a handshake, sent first.
    """
    try:
        program = str(build.program("client"))
    except build.BuildError as error:
        raise LoadError(f"the load client: {error}") from error
    figures = (port, connections, requests, milliseconds, answer_size * each, each, len(hello))
    timeout_s = 120 + milliseconds / 1000
    cpu_before_s = _children_cpu_s()
    try:
        done = subprocess.run(
            [program, *map(str, figures)],
            input=hello + raw,
            capture_output=True,
            timeout=timeout_s,
            check=False,
            preexec_fn=prepare,
        )
    except subprocess.TimeoutExpired as error:
        raise LoadError(f"the load client did not end in {timeout_s:.0f} s") from error
    cpu_s = _children_cpu_s() - cpu_before_s
    if done.returncode != 0:
        raise LoadError(done.stderr.decode(errors="replace").strip() or f"the load client ended with {done.returncode}")
    load = parse(done.stdout.decode())
    return replace(load, latency_us=None if each > 1 else load.latency_us, wrk_cpu_s=cpu_s)


def _children_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
