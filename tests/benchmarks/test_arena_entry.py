"""The entry for the arena, benchmarks/arena/entry, as far as it can be tried without Docker: its files are what the arena's
rules ask for, and started as the Dockerfile's CMD does it passes the checks of every profile that meta.json names."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
if str(ROOT) not in sys.path:
    sys.path.append(str(ROOT))  # last: it must not hide the installed fastserve

import fastserve  # noqa: E402
from benchmarks import servers  # noqa: E402
from benchmarks.arena import data, validate  # noqa: E402

ENTRY = ROOT / "benchmarks" / "arena" / "entry"
META = json.loads((ENTRY / "meta.json").read_text(encoding="utf-8"))
DOCKERFILE = (ENTRY / "Dockerfile").read_text(encoding="utf-8")

# The profiles of the arena that need no HTTP/2, HTTP/3, gRPC or second program, as its page about meta.json lists them, and
# our checks for each.
KNOWN = {
    **{name: name for name in ("baseline", "pipelined", "limited-conn", "json", "json-comp", "json-tls", "upload")},
    **{name: name for name in ("static", "async-db", "echo-ws")},
    **{"api-4": "api", "api-16": "api", "crud": ""},
}


# -------------------------------------------------------------------------------------------------------------- files


def test_meta_has_the_fields_of_the_rules() -> None:
    strings = ("display_name", "language", "engine", "type", "description", "repo")
    assert set(META) == {*strings, "enabled", "tests", "maintainers"}
    assert all(isinstance(META[name], str) for name in strings)
    assert META["type"] in ("production", "tuned", "engine", "infrastructure")
    assert META["enabled"] is True and isinstance(META["maintainers"], list)
    assert META["tests"] and len(set(META["tests"])) == len(META["tests"])
    assert all(KNOWN.get(name) for name in META["tests"]), "a profile that has no checks here"


def test_the_dockerfile_names_files_that_are_there() -> None:
    instructions = [line.split(None, 1) for line in DOCKERFILE.splitlines() if line and not line.startswith("#")]
    assert instructions[0][0] == "FROM"
    copied = {
        word
        for verb, rest in instructions
        if verb == "COPY" and "--from" not in rest
        for word in rest.split()[:-1]
        if "*" not in word
    }
    assert copied == {"requirements.txt", "app.py", "start.py"}
    assert all((ENTRY / name).is_file() for name in copied)
    (exposed,) = [rest.split() for verb, rest in instructions if verb == "EXPOSE"]
    assert exposed == ["8080", "8081"]  # where the arena asks: HTTP/1.1, and HTTP/1.1 over TLS
    assert [verb for verb, _ in instructions][-1] == "CMD"


def test_the_requirements_are_this_release() -> None:
    lines = (ENTRY / "requirements.txt").read_text(encoding="utf-8").splitlines()
    pinned = dict(re.fullmatch(r"([\w-]+)(?:\[[\w,]+\])?==(\S+)", line).groups() for line in lines)  # type: ignore[union-attr]
    assert pinned["fastserve-http"] == fastserve.__version__
    imported = set(re.findall(r"^\s*(?:import|from) (\w+)", (ENTRY / "app.py").read_text(), re.MULTILINE))
    outside = imported - set(sys.stdlib_module_names)
    assert outside == {"fastserve", "asyncpg"} and "asyncpg" in pinned


# ------------------------------------------------------------------------------------------------------------ started

# The part of asyncpg that the entry uses, over rows made up: the arena's table as its rules describe it.
ASYNCPG = """
import asyncio
import os

class PostgresError(Exception):
    pass

ROWS = [
    {"id": n, "name": f"item {n}", "category": "parts", "price": n % 500, "quantity": n % 7, "active": n % 2 == 0,
     "tags": '["a", "b"]', "rating_score": n % 50, "rating_count": n}
    for n in range(1, 5001)
]

class Pool:
    async def fetch(self, query, low, high, limit):
        assert all(type(value) is int for value in (low, high, limit)), (low, high, limit)
        assert " ".join(query.split()).endswith("FROM items WHERE price BETWEEN $1 AND $2 LIMIT $3")
        await asyncio.sleep(0.001)
        return [row for row in ROWS if low <= row["price"] <= high][:limit]

    async def close(self):
        print("closed", flush=True)

async def create_pool(url, *, min_size, max_size):
    if not os.path.exists(os.environ["UP"]):
        raise PostgresError("the database system is starting up")
    assert url == "postgres://bench:bench@localhost:5432/benchmark" and 1 <= min_size <= max_size <= 64
    return Pool()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return data.write(tmp_path_factory.mktemp("arena") / "data")


@contextmanager
def started(folder: Path, tmp_path: Path, **more: str) -> Iterator[tuple[validate.Contestant, subprocess.Popen[str]]]:
    """As CMD says, in a folder with what the Dockerfile copies; the ports are ours."""
    words = json.loads(re.findall(r"^CMD (\[.*\])$", DOCKERFILE, re.MULTILINE)[0])
    app = tmp_path / "app"
    app.mkdir()
    for name in ("app.py", "start.py"):
        (app / name).write_bytes((ENTRY / name).read_bytes())
    port, tls_port = servers.free_port(), servers.free_port()
    environment = {
        **{name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        **{"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "ARENA_DATA": str(folder)},
        **{"PORT": str(port), "TLS_PORT": str(tls_port), "CERTS": str(folder / "certs")},
        **more,
    }
    process = subprocess.Popen(
        words,
        cwd=app,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        for one in (port, tls_port):
            until = time.monotonic() + 30
            while time.monotonic() < until and process.poll() is None:
                try:
                    socket.create_connection((servers.HOST, one), timeout=1).close()
                    break
                except OSError:
                    time.sleep(0.05)
        yield validate.Contestant(port, folder, tls_port, database="DATABASE_URL" in more), process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=30)
        print(out)


@pytest.fixture(scope="module")
def entry(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[validate.Contestant]:
    with started(folder, tmp_path_factory.mktemp("entry")) as (contestant, _):
        yield contestant


@pytest.mark.parametrize("name", META["tests"])
def test_it_passes_the_checks_of_what_it_takes_part_in(entry: validate.Contestant, name: str) -> None:
    validate.validate(entry, KNOWN[name])


def test_it_survives_noise(entry: validate.Contestant) -> None:
    validate.validate(entry, "noisy")


def test_files_are_sent_compressed_from_their_siblings(entry: validate.Contestant) -> None:
    reply = entry.ask("/static/app.js", fields={"Accept-Encoding": "br;q=1, gzip;q=0.8"})
    assert reply.fields["content-encoding"] == "gzip"
    assert reply.body == (entry.data / "static" / "app.js.gz").read_bytes()


def test_with_a_database(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "fakes").mkdir()
    (tmp_path / "fakes" / "asyncpg.py").write_text(ASYNCPG)
    more = {
        "PYTHONPATH": str(tmp_path / "fakes"),
        "DATABASE_URL": "postgres://bench:bench@localhost:5432/benchmark",
        "DATABASE_MAX_CONN": "64",
        "UP": str(tmp_path / "up"),
    }
    with started(folder, tmp_path, **more) as (contestant, process):
        assert json.loads(contestant.ask("/async-db").body) == {"items": [], "count": 0}
        (tmp_path / "up").touch()  # a database that comes later is found by the next request
        validate.validate(contestant, "api")
        first = json.loads(contestant.ask("/async-db?min=3&max=4&limit=1").body)
        assert first == {
            "items": [
                {"id": 3, "name": "item 3", "category": "parts", "price": 3, "quantity": 3, "active": False}
                | {"tags": ["a", "b"], "rating": {"score": 3, "count": 3}}
            ],
            "count": 1,
        }
        assert (
            len(json.loads(contestant.ask("/async-db").body)["items"]) == 50
        )  # what is missing has the rules' defaults
        assert json.loads(contestant.ask("/async-db?limit=99").body)["count"] == 50
        assert json.loads(contestant.ask("/async-db?limit=0").body)["count"] == 1
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=30)
    assert process.returncode == 0, out
    assert "closed" in out and "Traceback" not in out


def test_when_one_server_ends_so_does_the_other(folder: Path, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind((servers.HOST, 0))
        taken.listen()
        with started(folder, tmp_path, TLS_PORT=str(taken.getsockname()[1])) as (_, process):
            out, _ = process.communicate(timeout=30)
    assert process.returncode != 0, out
