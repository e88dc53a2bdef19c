"""What an installed wheel has to do, in an environment that has nothing else: `python tests/installed.py [PYTHON]`.

Called by: cibuildwheel for every wheel it builds, .ci/wheels, .ci/arm64, test_packaging. It needs no pytest, no clone and
no compiler: it serves a native, an ASGI and a WSGI application, with one worker and with two, from a folder of its own,
asks each for a page, and stops it. One line each; exit code 1 if one of them was not served.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

APPS = {
    "native": """
from fastserve import App
app = App()
@app.get("/")
async def index() -> str:
    return "native"
""",
    "asgi": """
async def app(scope, receive, send):
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"4")]})
        await send({"type": "http.response.body", "body": b"asgi"})
""",
    "wsgi": """
def app(environ, start_response):
    start_response("200 OK", [("Content-Length", "4")])
    return [b"wsgi"]
""",
}
SECONDS = 30


def served(python: str, name: str, workers: int, folder: Path) -> str:
    """What the application answered; RuntimeError says what went wrong."""
    ours = ("FASTSERVE_", "PYTHONPATH", "PORT", "WEB_CONCURRENCY")
    command = [python, "-m", "fastserve", f"{name}_app:app", "--port", "0", "--workers", str(workers)]
    process = subprocess.Popen(
        command,
        cwd=folder,
        env={key: value for key, value in os.environ.items() if not key.startswith(ours)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    said = ""
    try:
        for line in process.stderr:
            said += line
            if line.split()[:1] == ["ready"]:
                break
        address = re.search(r"http://127\.0\.0\.1:\d+", said)
        if address is None:
            raise RuntimeError(said)
        with urllib.request.urlopen(address[0], timeout=SECONDS) as answer:
            text = str(answer.read(), "ascii")
        process.send_signal(signal.SIGTERM)
        said += process.communicate(timeout=SECONDS)[1]
        if process.returncode != 0:
            raise RuntimeError(f"exit code {process.returncode}\n{said}")
        return text
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def main(python: str = sys.executable) -> int:
    wrong = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for app, text in APPS.items():
            (folder / f"{app}_app.py").write_text(text, encoding="utf-8")
            for workers in (1, 2):
                try:
                    answer = served(python, app, workers, folder)
                    fault = "" if answer == app else f"answered {answer!r}"
                except (OSError, RuntimeError, subprocess.TimeoutExpired) as error:
                    fault = str(error)
                wrong += bool(fault)
                print(f"{app}, {workers} worker{'s' * (workers > 1)}: {fault or 'served'}", flush=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
