"""Who is measured with the arena's profiles, and how each is started: ../servers.py with the arena's applications.

Called by measure.py and tests. fastserve's own row is the entry itself, entry/app.py.
"""

from __future__ import annotations

from pathlib import Path

from ..servers import SERVERS, Server

ENTRY = "benchmarks/arena/entry"
PACKAGE = "benchmarks.arena"
ASGI = ("fastserve-asgi", "uvicorn", "granian", "gunicorn-asgi", "hypercorn")
WSGI = ("fastserve-wsgi-inline", "granian-wsgi", "gunicorn")
STARTED = ("fastpysgi-asgi", "fastpysgi-wsgi", "bjoern", "fastwsgi")  # by ../apps/serve.py, which is told the package
NAMES = ("fastserve", *ASGI, *WSGI, *STARTED)


def can(name: str, profile: str) -> bool:
    """Is this contestant to be asked that profile? WSGI has no WebSockets."""
    return profile != "echo-ws" or name in ("fastserve", "fastpysgi-asgi", *ASGI)


def contestants(folder: Path) -> dict[str, Server]:
    """By name; `folder` is what data.write made, the /data of each."""
    variables = (("ARENA_DATA", str(folder)),)
    return {
        "fastserve": SERVERS["fastserve"].with_app("app:app", "--app-dir", ENTRY, variables=variables),
        **{name: SERVERS[name].with_app(f"{PACKAGE}.asgi:app", variables=variables) for name in ASGI},
        **{name: SERVERS[name].with_app(f"{PACKAGE}.wsgi:app", variables=variables) for name in WSGI},
        **{name: SERVERS[name].with_app("", PACKAGE, variables=variables) for name in STARTED},
    }
