"""The load of a profile: our client in C (peers/arena.c), or peers/client.c for a WebSocket. One result, or LoadError.

Called by measure.py and tests.
"""

from __future__ import annotations

import json
import resource
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, replace

from .. import build, cases, load
from .profiles import HOST, Profile

# "hello" as a client's frame: final, text, masked (RFC 6455 section 5.2); the echo is not masked.
MASK = b"\x37\xfa\x21\x3d"
MESSAGE = b"\x81\x85" + MASK + bytes(byte ^ MASK[n % 4] for n, byte in enumerate(b"hello"))
ECHO_SIZE = 2 + len(b"hello")
HANDSHAKE = cases.head(b"GET", b"/ws", HOST, cases.HANDSHAKE)


@dataclass(frozen=True, slots=True)
class ArenaLoad:
    """What was answered, each with 2xx, and beside it what was refused as it should be."""

    load: load.Load
    refused: int = 0
    opened: int = 0


def run(
    port: int, profile: Profile, connections: int, milliseconds: int, prepare: Callable[[], None] | None = None
) -> ArenaLoad:
    """The load for so long. `prepare` runs in the child before its program starts (core, priority)."""
    if profile.websocket:
        seen = load.run_client(
            port,
            MESSAGE,
            connections=connections,
            answer_size=ECHO_SIZE,
            milliseconds=milliseconds,
            hello=HANDSHAKE,
            prepare=prepare,
        )
        return ArenaLoad(seen, opened=connections)
    try:
        program = str(build.program("arena"))
    except build.BuildError as error:
        raise load.LoadError(f"the arena's client: {error}") from error
    figures = (port, connections, milliseconds, profile.depth, profile.per_connection, int(profile.each_request))
    templates = b"".join(b"%d %d\n%b" % (len(one.raw), one.noise, one.raw) for one in profile.templates)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    try:
        done = subprocess.run(
            [program, *map(str, figures)],
            input=templates,
            capture_output=True,
            timeout=60 + milliseconds / 1000,
            check=False,
            preexec_fn=prepare,
        )
    except subprocess.TimeoutExpired as error:
        raise load.LoadError(f"the arena's client did not end in {60 + milliseconds / 1000:.0f} s") from error
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode != 0:
        raise load.LoadError(done.stderr.decode(errors="replace").strip() or f"the client ended with {done.returncode}")
    text = done.stdout.decode()
    told = json.loads(text.removeprefix(load.MARK)) if text.startswith(load.MARK) else {}
    used_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    seen = replace(load.parse(text), wrk_cpu_s=used_s)
    return ArenaLoad(seen, told.get("refused", 0), told.get("opened", 0))
