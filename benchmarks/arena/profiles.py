"""The profiles as data: which requests, how many connections, how often a connection is opened anew.

Called by load.py, validate.py and the front door. Requests are in turn from connection to connection, as the arena's load
generator has it; those of `static` from request to request, as its wrk script has it.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from .. import cases
from . import data

HOST = b"localhost:8080"
SUM = b"/baseline11?a=13&b=42"


@dataclass(frozen=True, slots=True)
class Template:
    """One request. `noise`: it is meant to be refused."""

    raw: bytes
    noise: bool = False


@dataclass(frozen=True, slots=True)
class Profile:
    """One workload. `connections` are the fewest that the arena uses."""

    name: str
    title: str
    templates: tuple[Template, ...] = ()
    connections: int = 512
    depth: int = 1
    per_connection: int = 0  # answers after which a connection is opened anew; 0: never
    each_request: bool = False  # the next template with each request, not with each connection
    websocket: bool = False  # the load is a message of text, echoed


def get(target: bytes, fields: bytes = b"") -> Template:
    return Template(cases.head(b"GET", target, HOST, fields))


def post(target: bytes, body: bytes, fields: bytes = b"") -> Template:
    return Template(cases.head(b"POST", target, HOST, fields + b"Content-Length: %d\r\n" % len(body)) + body)


def chunked(target: bytes, body: bytes) -> Template:
    head = cases.head(b"POST", target, HOST, b"Transfer-Encoding: chunked\r\n")
    return Template(head + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body))


def noise(raw: bytes) -> Template:
    return Template(raw, noise=True)


def json_target(count: int, m: int) -> bytes:
    return b"/json/%d?m=%d" % (count, m)


def upload(kilobytes: int) -> Template:
    return post(b"/upload", random.Random(kilobytes).randbytes(kilobytes * 1024))


ADD = (get(SUM), post(SUM, b"20"), chunked(SUM, b"20"))
PAIRS = ((1, 3), (5, 7), (10, 2), (15, 5), (25, 4), (40, 8), (50, 6))
COMPRESSED = ((25, 4), (40, 8), (50, 6))
ENCODINGS = b"Accept-Encoding: gzip, br\r\n"
STATIC_ENCODINGS = b"Accept-Encoding: br;q=1, gzip;q=0.8\r\n"
NOISE = (
    noise(cases.head(b"GET", b"/this/path/does/not/exist", HOST)),
    noise(cases.head(b"POST", b"/baseline11", HOST, b"Content-Length: 999\r\n")),  # and no body
    noise(random.Random(0).randbytes(256)),
)
UPLOADS = (500, 2048, 10240, 20480)  # kilobytes

PROFILES = {
    profile.name: profile
    for profile in (
        Profile("baseline", "GET and POST, with a length and chunked: the sum of numbers", ADD),
        Profile("pipelined", "GET /pipeline, 16 in one write", (get(b"/pipeline"),), depth=16),
        Profile("limited-conn", "the requests of baseline, ten on a connection", ADD, per_connection=10),
        Profile(
            "json",
            "one to fifty items with a total each, encoded for each request",
            tuple(get(json_target(*pair)) for pair in PAIRS),
            connections=4096,
            per_connection=25,
        ),
        Profile(
            "json-comp",
            "the same, 25 to 50 items, compressed for each request",
            tuple(get(json_target(*pair), ENCODINGS) for pair in COMPRESSED),
            per_connection=25,
        ),
        Profile(
            "upload",
            "bodies of 500 KB to 20 MB, counted",
            tuple(map(upload, UPLOADS)),
            connections=32,
            per_connection=5,
        ),
        Profile(
            "static",
            "twenty files of 3 KB to 300 KB",
            tuple(get(b"/static/" + name.encode(), STATIC_ENCODINGS) for name in data.FILES),
            connections=1024,
            each_request=True,
        ),
        Profile("noisy", "two good requests among three that are to be refused", (*ADD[:2], *NOISE)),
        Profile(
            "api",
            "three sums, three of fifty items, two of a database; five on a connection",
            (
                *[get(b"/baseline11?a=1&b=2")] * 3,
                *[get(json_target(50, 1))] * 3,
                *[get(b"/async-db?min=10&max=50&limit=50")] * 2,
            ),
            connections=256,
            per_connection=5,
        ),
        Profile("echo-ws", "a message of five bytes on a WebSocket, there and back", websocket=True),
    )
}
