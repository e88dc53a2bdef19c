"""What is to be reached, as data: one row per cell of the table of aims. Called by report.py; has no logic but
reading itself.

A row says: the server CPU per request of `ours` is at most `ratio` times that of the peers; of several, the cheapest
one in the
same round counts.
"""

from dataclasses import dataclass

ASGI_PEERS = ("uvicorn", "granian", "gunicorn-asgi", "hypercorn", "fastpysgi-asgi")
FRAMEWORK_PEERS = ("uvicorn", "granian", "gunicorn", "hypercorn")
WSGI_PEERS = ("granian-wsgi", "gunicorn", "bjoern", "fastwsgi", "fastpysgi-wsgi")


@dataclass(frozen=True, slots=True)
class Target:
    case: str
    ours: str
    peers: tuple[str, ...]
    ratio: float


def _rows(ours: str, peers: tuple[str, ...], **ratios: float) -> list[Target]:
    return [Target(name.replace("_", "-"), ours, peers, ratio) for name, ratio in ratios.items()]


TARGETS = (
    *_rows("fastserve", ("hyper",), plaintext=1.0, pipelined=0.9, json=1.3, browser=1.0, echo_1k=1.0),
    *_rows("fastserve", ("hyper",), echo_64k=1.1, **{"10k": 1.1, "1m": 1.1}, close=1.0, stream=0.5),
    *_rows("fastserve", ("nginx",), close=1.1),
    *_rows("fastserve-static", ("nginx",), static=1.2),
    *_rows("fastserve-asgi", ("hyper",), plaintext=1.2, pipelined=2.5),
    *_rows("fastserve-asgi", ("fastpysgi-asgi",), plaintext=0.5),
    *_rows("fastserve-asgi", ("granian",), plaintext=0.4, pipelined=0.2, close=0.8, stream=0.5),
    *_rows("fastserve-asgi", ASGI_PEERS, json=0.5, browser=0.5, echo_1k=0.5, echo_64k=0.5),
    *_rows("fastserve-asgi", ("uvicorn",), plaintext=1 / 3),
    *_rows("fastserve-fastapi", ("uvicorn-fastapi",), fastapi=0.6),
    *_rows("fastserve-fastapi", tuple(f"{name}-fastapi" for name in FRAMEWORK_PEERS), fastapi=1.0),
    *_rows("fastserve-starlette", tuple(f"{name}-starlette" for name in FRAMEWORK_PEERS), starlette=1.0),
    *_rows("fastserve-asgi", ("uvicorn",), websocket=0.5),
    *_rows("fastserve-wsgi-inline", ("fastpysgi-wsgi",), plaintext=0.95, pipelined=0.3),
    *_rows("fastserve-wsgi-inline", ("bjoern", "fastwsgi"), plaintext=1.0),
    *_rows("fastserve-wsgi-inline", WSGI_PEERS, json=0.9, browser=0.9, echo_1k=0.9),
    *_rows("fastserve-wsgi-inline", WSGI_PEERS, echo_64k=1.0, **{"10k": 1.0, "1m": 1.0}),
    *_rows("fastserve-wsgi-inline", ("bjoern",), close=1.0),
)
# What everything switched on may cost over the same server with it off: a bound of the paired differences' interval.
ON, OFF, ON_BOUND = "fastserve-on", "fastserve-off", 0.03
