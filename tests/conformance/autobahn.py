"""Autobahn's WebSocket cases, through kosoku, which runs the original ones on Python 3.

    python -m tests.conformance.autobahn [CASE ...]      all of them against an echo of our own; a summary on stdout

Called by: tests/interfaces/test_websocket.py (the quick ones and SAMPLE), .ci/nightly (all). A case is OK, NON-STRICT or
INFORMATIONAL when the server did what RFC 6455 and RFC 7692 say; anything else is a fault.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from fastserve import App, WebSocket
from fastserve.testing import live_server

FINE = {"OK", "NON-STRICT", "INFORMATIONAL"}

SAMPLE = (*(f"9.{n}.1" for n in range(1, 9)), *(f"12.{n}.1" for n in range(1, 6)), *(f"13.{n}.1" for n in range(1, 8)))
"""One case of each group of those that take minutes: limits, compression, its parameters."""


def run(
    url: str, folder: Path, include: Sequence[str] = (), exclude: Sequence[str] = (), seconds: float = 900
) -> Counter[str]:
    """How many cases behaved how. `url`: http://HOST:PORT of a server that echoes at "/"."""
    arguments = [sys.executable, "-c", "from kosoku._cli import main; main()", "-m", "fuzzingclient"]
    arguments += [url.removeprefix("http://"), "-o", str(folder), "-p", "2"]
    for flag, patterns in (("-i", include), ("-x", exclude)):
        for pattern in patterns:
            arguments += [flag, pattern]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=seconds, check=False)
    index = folder / "index.json"
    assert index.exists(), done.stdout + done.stderr
    (cases,) = json.loads(index.read_text(encoding="utf-8")).values()
    for name, case in cases.items():
        if not {case["behavior"], case["behaviorClose"]} <= FINE:
            print(f"{name}: {case['behavior']}, close: {case['behaviorClose']}", file=sys.stderr)
    return Counter(
        case["behavior"] if case["behaviorClose"] in FINE else case["behaviorClose"] for case in cases.values()
    )


def main(cases: Sequence[str]) -> int:
    app = App()

    @app.websocket("/")
    async def echo(ws: WebSocket) -> None:
        await ws.accept()
        async for message in ws:
            await ws.send(message)

    with live_server(app) as url, tempfile.TemporaryDirectory() as folder:
        behaviours = run(url, Path(folder), include=cases, seconds=3600)
    print(", ".join(f"{count} {behaviour}" for behaviour, count in sorted(behaviours.items())))
    return 0 if set(behaviours) <= FINE else 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
