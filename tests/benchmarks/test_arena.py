"""The arena's profiles made again: benchmarks/arena and its client in C. Real servers, short loads, no figures asserted."""

import io
import json
import os
import socket
import socketserver
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
if str(ROOT) not in sys.path:
    sys.path.append(str(ROOT))  # last: it must not hide the installed fastserve

from benchmarks import cases, report, servers  # noqa: E402
from benchmarks import load as loads  # noqa: E402
from benchmarks.__main__ import main  # noqa: E402
from benchmarks.arena import contestants, data, load, measure, profiles, validate  # noqa: E402
from benchmarks.arena.profiles import PROFILES, Profile, Template  # noqa: E402
from benchmarks.progress import Progress  # noqa: E402

OURS = ("fastserve", "fastserve-asgi", "fastserve-wsgi-inline")
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return data.write(tmp_path_factory.mktemp("arena") / "data")


# ------------------------------------------------------------------------------------------------ data and profiles


def test_the_data_is_what_the_rules_describe(folder: Path, tmp_path: Path) -> None:
    items = json.loads((folder / "dataset.json").read_text())
    assert len(items) == 50 and [item["id"] for item in items] == list(range(1, 51))
    fields = {"id": int, "name": str, "category": str, "price": int, "quantity": int, "active": bool, "tags": list}
    for item in items:
        assert {name: type(value) for name, value in item.items()} == {**fields, "rating": dict}
        assert {name: type(value) for name, value in item["rating"].items()} == {"score": int, "count": int}
    static = folder / "static"
    assert len(data.FILES) == 20
    for name, kilobytes in {**data.TEXTS, **data.BINARIES}.items():
        assert (static / name).stat().st_size == 1024 * kilobytes
        assert (static / f"{name}.gz").exists() == (name in data.TEXTS)
    assert sum((static / f"{name}.gz").stat().st_size for name in data.TEXTS) < 500_000
    again = data.write(tmp_path / "again")
    for path in folder.rglob("*"):
        assert path.is_dir() or path.read_bytes() == (again / path.relative_to(folder)).read_bytes()


def test_every_profile_has_checks_and_a_load() -> None:
    assert set(PROFILES) <= set(validate.CHECKS)
    for profile in PROFILES.values():
        assert bool(profile.templates) != profile.websocket
        for template in profile.templates:
            assert template.noise or template.raw.startswith((b"GET /", b"POST /"))
    assert [len(one.raw.partition(b"\r\n\r\n")[2]) for one in PROFILES["upload"].templates] == [
        *(512_000, 2 << 20, 10 << 20, 20 << 20),
    ]
    noisy = [one.noise for one in PROFILES["noisy"].templates]
    assert (noisy.count(False), noisy.count(True)) == (2, 3)
    api = [one.raw.split()[1].partition(b"?")[0] for one in PROFILES["api"].templates]
    assert api == [b"/baseline11"] * 3 + [b"/json/50"] * 3 + [b"/async-db"] * 2
    assert PROFILES["pipelined"].depth == 16 and PROFILES["limited-conn"].per_connection == 10


def test_every_contestant_is_a_server_of_the_table(folder: Path) -> None:
    rows = contestants.contestants(folder)
    assert set(rows) == set(contestants.NAMES) <= set(servers.SERVERS)
    for server in rows.values():
        assert ("ARENA_DATA", str(folder)) in server.variables
        words = " ".join((*server.arguments, server.app))
        assert "benchmarks.apps.wsgi" not in words and "benchmarks.apps.asgi" not in words
    assert contestants.can("fastserve", "echo-ws") and not contestants.can("bjoern", "echo-ws")


# ------------------------------------------------------------------------------------------- ours, validated and loaded


@pytest.fixture(scope="module", params=OURS)
def running(request: pytest.FixtureRequest, folder: Path) -> Iterator[servers.Running]:
    server = servers.start(contestants.contestants(folder)[request.param])
    yield server
    server.must_live()
    server.stop()


@pytest.mark.parametrize("name", PROFILES)
def test_ours_pass_the_checks_and_bear_the_load(running: servers.Running, folder: Path, name: str) -> None:
    if not contestants.can(running.server.name, name):
        with pytest.raises(validate.Invalid, match="handshake"):
            validate.validate(validate.Contestant(running.port, folder), name)
        return
    validate.validate(validate.Contestant(running.port, folder), name)
    profile = PROFILES[name]
    seen = load.run(running.port, profile, 4 if name == "upload" else 16, 200)
    assert seen.load.requests > 0
    assert (seen.refused > 0) == (name == "noisy")
    assert seen.opened >= 16 or name == "upload"


# -------------------------------------------------------------------------------------- what the checks do not let pass

# Name of the profile, what is wrong with the application, what the check says.
LIARS = [
    ("baseline", "arena.baseline = lambda *a: arena.answer(a[2], b'text/plain', b'55')", "body: b'55', not"),
    ("baseline", "arena.TEXT = b'application/json'", "content type: 'application/json', not 'text/plain'"),
    ("pipelined", "arena.pipeline = lambda *a: arena.answer(a[2], b'text/plain', b'OK')", "b'OK', not b'ok'"),
    ("json", "items = arena.first_items; arena.first_items = lambda count, m: items(count, 1)", "not {'items'"),
    ("json", "items = arena.first_items; arena.first_items = lambda count, m: items(5, m)", "not {'items'"),
    ("json-comp", "arena.takes_gzip = lambda accept: False", "not compressed, though the client takes gzip"),
    ("json-comp", "arena.takes_gzip = lambda accept: True", "no coding was asked for: 'gzip', not None"),
    ("upload", "arena.upload = lambda *a: arena.answer(a[2], b'text/plain', b'17')", "an upload of .*b'17', not"),
    ("static", "arena.static_file = lambda name: ('text/css', b'x')", "reset.css, bytes: False, not True"),
    (
        "static",
        "file = arena.static_file; arena.static_file = lambda name: file(name) or ('text/html', b'')",
        "200, not 404",
    ),
    (
        "noisy",
        "arena.static = lambda *a: arena.answer(a[2], b'text/plain', b'55')",
        "unknown path, status: 200, not 404",
    ),
    ("api", "arena.EMPTY['count'] = 1", "count: 1, not 0"),
    ("echo-ws", "arena.websocket = refuse", "the handshake"),
    ("echo-ws", "arena.websocket = shout", r"a text's echo: \(1, b'VALIDATE-"),
]
LIAR = """
from benchmarks.arena import asgi as arena

async def refuse(scope, receive, send):
    await receive()
    await send({{"type": "websocket.close"}})

async def shout(scope, receive, send):
    await receive()
    await send({{"type": "websocket.accept"}})
    while (event := await receive())["type"] == "websocket.receive":
        await send({{"type": "websocket.send", "text": (event.get("text") or "").upper()}})

{}
for path, name in (("/baseline11", "baseline"), ("/pipeline", "pipeline"), ("/upload", "upload")):
    arena.ROUTES[path] = getattr(arena, name)
app = arena.app
"""


@pytest.mark.parametrize(("name", "lie", "told"), LIARS)
def test_a_wrong_answer_is_found(folder: Path, tmp_path: Path, name: str, lie: str, told: str) -> None:
    (tmp_path / "liar.py").write_text(LIAR.format(lie))
    server = servers.SERVERS["fastserve-asgi"].with_app(
        "liar:app", "--app-dir", str(tmp_path), variables=(("ARENA_DATA", str(folder)), ("PYTHONPATH", str(ROOT)))
    )
    running = servers.start(server)
    try:
        with pytest.raises(validate.Invalid, match=told):
            validate.validate(validate.Contestant(running.port, folder), name)
    finally:
        running.stop()


# ----------------------------------------------------------------------------------------------------- the client in C


@contextmanager
def answering(answer: Callable[[bytes, int], bytes], last: int = 0) -> Iterator[tuple[int, list[list[bytes]]]]:
    """A server whose answers, to a whole read on a connection, are made by `answer`; it closes for b"", and after the
    `last` of them. Its port, and what was read on each connection."""
    seen: list[list[bytes]] = []

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            reads: list[bytes] = []
            seen.append(reads)
            try:
                while piece := self.request.recv(1 << 16):
                    reads.append(piece)
                    reply = answer(piece, len(reads))
                    if not reply:
                        break
                    self.request.sendall(reply)
                    if len(reads) == last:
                        break
            except ConnectionError:
                pass

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        request_queue_size = 128

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield server.server_address[1], seen
        server.shutdown()
        thread.join(5)


def profile(*templates: Template, **more: object) -> Profile:
    return Profile("made-up", "", templates, **more)  # type: ignore[arg-type]


A, B = (Template(cases.head(b"GET", target, b"localhost")) for target in (b"/a", b"/b"))
BAD = Template(b"nonsense\r\n\r\n", noise=True)


def test_a_connection_keeps_to_its_template_and_a_new_one_takes_the_next() -> None:
    with answering(lambda data, number: OK) as (port, seen):
        found = load.run(port, profile(A, B, per_connection=3), 1, 300)
    assert len(seen) > 2 and len(seen) <= found.opened <= len(seen) + 1  # as below
    for number, reads in enumerate(seen[:-1]):
        assert reads == [(A, B)[number % 2].raw] * 3
    assert found.load.requests >= 3 * (found.opened - 1)


def test_or_each_request_takes_the_next() -> None:
    with answering(lambda data, number: OK) as (port, seen):
        load.run(port, profile(A, B, each_request=True), 1, 200)
    (reads,) = seen
    assert reads[:4] == [A.raw, B.raw, A.raw, B.raw]


def test_a_batch_is_one_write_and_all_its_answers_count() -> None:
    with answering(lambda data, number: OK * data.count(b"\r\n\r\n")) as (port, seen):
        found = load.run(port, profile(A, depth=16), 1, 200)
    assert seen[0][0] == A.raw * 16
    assert found.load.requests % 16 == 0 and found.load.requests >= 16 * (len(seen[0]) - 1)


@pytest.mark.parametrize(
    "reply",
    [
        OK,
        b"HTTP/1.1 200 OK\r\ntransfer-ENCODING: chunked\r\n\r\n2;x=y\r\nok\r\n3\r\nand\r\n0\r\nT: 1\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" + OK,
        b"HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\n" + b"x" * 200_000,
    ],
    ids=["length", "chunked", "none", "interim", "long"],
)
def test_answers_of_every_framing_are_read(reply: bytes) -> None:
    with answering(lambda data, number: reply) as (port, seen):
        found = load.run(port, profile(A), 2, 200)
    assert found.load.requests > 2 and found.opened == len(seen) == 2


@pytest.mark.parametrize("size", [1, 7])
def test_answers_in_pieces_are_read(size: int) -> None:
    reply = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"

    class Dribble(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            try:
                while self.request.recv(4096):
                    for start in range(0, len(reply), size):
                        self.request.sendall(reply[start : start + size])
            except ConnectionError:
                pass

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Dribble) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        found = load.run(server.server_address[1], profile(A), 1, 200)
        server.shutdown()
        thread.join(5)
    assert found.load.requests > 1 and found.opened == 1


def test_noise_is_refused_and_never_counted_as_answered() -> None:
    def answer(data: bytes, number: int) -> bytes:
        return OK if data == A.raw else b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"

    with answering(answer) as (port, _):
        found = load.run(port, profile(BAD, A), 2, 300)
        closing = load.run(port, profile(A, BAD), 1, 50)
    assert found.refused > 0 and found.load.requests > 0
    assert found.opened >= found.refused  # a connection is opened anew after each
    assert closing.refused == 0
    with answering(lambda data, number: OK if data == A.raw else b"") as (port, _):
        found = load.run(port, profile(BAD, A), 2, 200)
    assert found.refused > 0  # the end of the connection is a refusal too


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (lambda data, number: b"HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n", r"errors in \d+ requests: status \d+"),
        (lambda data, number: OK[:-1] if number == 5 else OK, "read"),
        (lambda data, number: b"", "read|not one request"),
        (lambda data, number: OK + OK, "more answers than requests"),
    ],
    ids=["status", "cut", "closes", "too-many"],
)
def test_a_load_with_errors_is_refused(answer: Callable[[bytes, int], bytes], told: str) -> None:
    with answering(answer, last=5) as (port, _), pytest.raises(loads.LoadError, match=told):
        load.run(port, profile(A), 1, 200)


def test_a_server_that_closes_between_two_requests_is_asked_again() -> None:
    with answering(lambda data, number: OK, last=3) as (port, seen):
        found = load.run(port, profile(A), 1, 200)
    assert len(seen) <= found.opened <= len(seen) + 1  # the last one may not have been taken when time was up
    assert len(seen) > 1 and found.load.requests > 3


def test_nobody_there_is_one_line() -> None:
    with pytest.raises(loads.LoadError, match="takes no connection"):
        load.run(servers.free_port(), profile(A), 1, 100)


# --------------------------------------------------------------------------------------------------------- the command


def test_the_command_validates_measures_and_keeps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One good contestant, one that lies, one absent."""
    made = contestants.contestants

    def rows(folder: Path) -> dict[str, servers.Server]:
        (tmp_path / "liar.py").write_text(LIAR.format(LIARS[0][1]))
        found = made(folder)
        found["uvicorn"] = servers.SERVERS["fastserve-asgi"].with_app(
            "liar:app", "--app-dir", str(tmp_path), variables=(*found["uvicorn"].variables, ("PYTHONPATH", str(ROOT)))
        )
        found["bjoern"] = servers.Server("bjoern", "no_such_server_xyz", ())
        return found

    monkeypatch.setattr(measure, "contestants", rows)
    core = str(min(os.sched_getaffinity(0)))
    words = ["arena", "--servers", "fastserve,uvicorn,bjoern", "--profiles", "baseline,noisy", "--rounds", "1"]
    words += ["--seconds", "0.3", "-c", "8", "--server-core", core, "--load-core", core, "--out", str(tmp_path)]
    assert main(words) == 0  # ours did not fail
    told = capsys.readouterr()
    assert "baseline, uvicorn: fails: " in told.err and "missing: bjoern: " in told.err
    assert "baseline, fastserve: round 1 of 1, " in told.err
    kept = json.loads((tmp_path / "extra-arena.json").read_text())
    rows_kept = {row["server"]: row for row in kept["rows"]}
    assert set(rows_kept) == {"fastserve", "uvicorn"}
    assert rows_kept["uvicorn"]["baseline"] == "**fails**"
    assert float(rows_kept["fastserve"]["noisy"].split()[0]) > 0
    assert any(note.startswith("- uvicorn, baseline: ") for note in kept["notes"])
    assert any(note.startswith("- bjoern: ") for note in kept["notes"])
    assert [found["profile"] for found in kept["data"]] == ["baseline", "noisy"]
    assert (tmp_path / "extra-arena-rate.json").exists()


DYING = """
import os

calls = []

async def dying(scope, receive, send):
    calls.append(1)
    if len(calls) > 100:
        print("goodbye", flush=True)
        os._exit(3)
    await arena.answer(send, b"text/plain", b"ok")

arena.pipeline = dying
"""


def test_a_contestant_that_ends_under_load_is_told_with_its_last_words(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "liar.py").write_text(LIAR.format(DYING))
    variables = (("ARENA_DATA", str(folder)), ("PYTHONPATH", str(ROOT)))
    row = servers.SERVERS["fastserve-asgi"].with_app("liar:app", "--app-dir", str(tmp_path), variables=variables)
    monkeypatch.setattr(measure, "contestants", lambda folder: {"uvicorn": row})
    core = min(os.sched_getaffinity(0))
    plan = measure.Plan(("pipelined",), ("uvicorn",), rounds=1, seconds=0.2, connections=4, cores=(core, core))
    stream = io.StringIO()
    result = measure.measure(plan, Progress(stream))
    assert result.faults == {("pipelined", "uvicorn"): "fastserve-asgi ended: goodbye"}
    assert measure.table(result, plan.names, plan.profiles, report.CPU) == [
        {"server": "uvicorn", "pipelined": "**fails**"}
    ]


def test_the_plans_time_is_that_of_what_is_asked() -> None:
    plan = measure.Plan(profiles=("echo-ws",), names=("fastserve", "bjoern"), rounds=2, seconds=1.0)
    assert measure.estimate_s(plan) == measure.VALIDATE_S + 2 * (1 + measure.run.AROUND_S)


def test_hello_is_a_masked_frame() -> None:
    mask, payload = load.MESSAGE[2:6], load.MESSAGE[6:]
    assert (
        load.MESSAGE[:2] == b"\x81\x85" and bytes(a ^ b for a, b in zip(payload, mask + mask, strict=False)) == b"hello"
    )
    assert profiles.HOST in load.HANDSHAKE and io.BytesIO(load.HANDSHAKE).readline() == b"GET /ws HTTP/1.1\r\n"
