"""The load that a build is optimised for (`make pgo`): every case of our own servers, for as many requests as fit.

Called by __main__ (the verb `train`), after a build that counts: FASTSERVE_PROFILE=make, see setup.py. Calls servers (each
in turn, as apps/trained.py) and callgrind.ask (so many requests). TLS is left out: the load client does not speak it.
"""

import sys
from dataclasses import replace
from pathlib import Path

from . import callgrind, servers
from .cases import CASES
from .progress import Progress

PROFILES = servers.ROOT / "build" / "profile"
NAMES = (
    *("fastserve", "fastserve-on", "fastserve-asgi", "fastserve-wsgi", "fastserve-wsgi-inline", "fastserve-transport"),
    "fastserve-static",
)
REQUESTS = 3000
BYTES = 50_000_000  # of answers: fewer requests where they are large
EACH_S = 0.3  # about: a server and a case


class TrainError(servers.ServerError):
    """Nothing was counted."""


def cases_of(server: servers.Server) -> list[str]:
    return [name for name, case in CASES.items() if server.can(name) and not case.tls]


def train(name: str, case_names: list[str], requests: int, say: Progress) -> None:
    """Ask one server all of them, and let it end by itself."""
    server = servers.SERVERS[name]
    words = ("-m", "benchmarks.apps.trained", *server.arguments)
    running = servers.start(replace(server, tool=Path(sys.executable).name, arguments=words))
    try:
        for case_name in case_names:
            case = CASES[case_name]
            with say.step(f"{name}: {case_name}", EACH_S):
                size = running.check(case)
                number = max(1, min(requests, BYTES // size) // case.depth) * case.depth
                callgrind.ask(running, case, size, number)
    finally:
        running.stop()
    if running.process.returncode != 0:
        raise TrainError(f"{name} did not end by itself ({running.process.returncode}): what it counted is lost")


def main(names: list[str], requests: int, say: Progress, profiles: Path = PROFILES) -> int:
    """All of them; then there must be something in `profiles`."""
    plan = {name: cases_of(servers.SERVERS[name]) for name in names}
    say.plan(sum(map(len, plan.values())) * EACH_S)
    for name, case_names in plan.items():
        train(name, case_names, requests, say)
    found = len(list(profiles.glob("*.gcda")))
    if not found:
        raise TrainError("nothing was counted: FASTSERVE_PROFILE=make builds what counts (`make pgo` does it all)")
    say(f"{found} files were counted")
    return 0
