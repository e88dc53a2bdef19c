"""lens/redact.py: what identifies somebody is in no export of a redacted recording; what hurts still is."""

from __future__ import annotations

import itertools
import re
import socket
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from lens.programs import holds_and_others_wait
from lens.stories import Story

from fastserve import App, mark
from fastserve.cli import main
from fastserve.lens.findings import find
from fastserve.lens.model import Model, build
from fastserve.lens.recording import Kind, Recording
from fastserve.lens.redact import redacted
from fastserve.testing import lens_server

SECRET = "s3cr3t-t0ken"
HOSTILE = [
    f"/reset/{SECRET}",
    f"/users/alice@example.org/{SECRET}",
    f"/</script><script>{SECRET}</script>",
    f"/%0d%0aset-cookie:%20{SECRET}",
    f"/{SECRET}" + "/x" * 300,
    f"/~{SECRET}",
    f"/{SECRET};a=b",
    f"/%F0%9F%94%91{SECRET}",
    f"/GET%20/{SECRET}",
]


def story() -> Story:
    made = Story()
    holds_and_others_wait(made)  # GET /report and its victims
    for at, path in enumerate(HOSTILE):
        made.request(f"GET {path}", at=2000 + at).poll(2000 + at, 2000.2 + at).ends(2000.4 + at)
    known = made.request(f"POST /items/{SECRET}", at=3000, route="/items/{id}")
    known.event(Kind.MARK, 3000.1, b=known.worker.text(f"user {SECRET}"), task=known.task)
    known.event(Kind.CONTEXT, 3000.1, b=known.worker.text(f"00-{'a' * 32}-{'b' * 16}-01"))
    known.poll(3000, 3000.2).ends(3001)
    made.request(f"X-{SECRET.upper()} /odd", at=3100).poll(3100, 3100.1).ends(3100.2)
    made.request(f"GET /late/{SECRET}", at=3200).flies()
    return made


def bytes_of(recording: Recording, path: Path) -> bytes:
    """All that its file holds, unpacked."""
    recording.save(path)
    data = path.read_bytes()
    length = int.from_bytes(data[4:8], "little")
    head, rest = data[8 : 8 + length], data[8 + length :]
    while rest:
        part = zlib.decompressobj()
        head += part.decompress(rest)
        rest = part.unused_data
    return head


def has_secret(text: str | bytes) -> bool:
    data = text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text
    low = data.lower()
    return any(word in low for word in (b"s3cr3t", b"alice", b"/home/me", b"a" * 32, b"set-cookie"))


def shape(model: Model) -> list[tuple[object, ...]]:
    """All that is not a name."""
    return [
        (one.id, one.total, one.busy, one.scheduled, one.idle, one.status, one.route, len(one.tasks))
        for one in model.requests
    ]


def test_the_secret_is_in_the_recording_itself(tmp_path: Path) -> None:
    assert has_secret(bytes_of(story().model().recording, tmp_path / "open.fsx"))


def test_nothing_of_it_is_in_the_redacted_ones_bytes(tmp_path: Path) -> None:
    assert not has_secret(bytes_of(redacted(story().model().recording), tmp_path / "closed.fsx"))


def test_it_tells_the_same_but_for_names() -> None:
    model = story().model()
    hidden = build(redacted(model.recording))
    assert shape(hidden) == shape(model)
    assert [(one.code, one.at) for one in find(hidden)] == [(one.code, one.at) for one in find(model)]
    assert any(one.code == "FS001" for one in find(hidden))


def test_a_route_stands_for_a_path_and_a_hash_where_there_is_none() -> None:
    hidden = build(redacted(story().model().recording))
    paths = {one.number: one.path for one in hidden.requests}
    called = {one.route: one.name for one in hidden.requests if one.route}
    assert called["/items/{id}"] == "POST /items/{id}" and called["/report"] == "GET /report"
    unknown = [path for number, path in paths.items() if not hidden.requests[number - 1].route]
    assert len(unknown) >= len(HOSTILE) and all(re.fullmatch(r"/~[0-9a-f]{10}", path) for path in unknown)
    assert len(set(unknown)) == len(unknown)
    odd = next(one for one in hidden.requests if one.method not in ("GET", "POST"))
    assert odd.method == "_OTHER"
    (known,) = [one for one in hidden.requests if one.marks]
    assert re.fullmatch(r"~[0-9a-f]{10}", known.marks[0].text) and known.traceparent in ("", "?")


def test_equal_paths_are_equal_in_one_export_and_others_in_the_next() -> None:
    made = Story()
    for at in range(2):
        made.request("GET /same", at=at).poll(at, at + 0.1).ends(at + 0.2)
    recording = made.model().recording
    first, second = (build(redacted(recording)) for _ in range(2))
    assert len({one.path for one in first.requests}) == len({one.path for one in second.requests}) == 1
    assert first.requests[0].path != second.requests[0].path


def test_what_was_redacted_can_be_redacted_again() -> None:
    once = redacted(story().model().recording)
    assert shape(build(redacted(once))) == shape(build(once))


def test_the_frames_are_still_the_users_or_a_librarys() -> None:
    model, hidden = story().model(), build(redacted(story().model().recording))
    pairs = zip(find(model), find(hidden), strict=True)
    assert all(
        one.frame is None
        or (two.frame is not None and "/home" not in two.frame.file and one.frame.line == two.frame.line)
        for one, two in pairs
    )


@pytest.fixture
def typed(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[..., tuple[int, str]]:
    file = tmp_path / "shop.fsx"
    story().builder.build().save(file)

    def run(command: str, *words: str) -> tuple[int, str]:
        code = main([command, str(file), *words])
        said = capsys.readouterr()
        return code, said.out + said.err

    return run


@pytest.mark.parametrize("suffix", [".html", ".json", ".fsx"])
def test_trace_exports_it(typed: Callable[..., tuple[int, str]], suffix: str, tmp_path: Path) -> None:
    out = tmp_path / f"out{suffix}"
    code, said = typed("trace", "--redact", "-o", str(out))
    assert code == 0 and out.stat().st_mode & 0o777 == 0o600
    assert not has_secret(said.replace(str(tmp_path), ""))
    if suffix == ".fsx":
        assert not has_secret(bytes_of(Recording.load(out), tmp_path / "again.fsx"))
        assert "redacted" in said
    else:
        text = out.read_text()
        assert not has_secret(text) and "/items/{id}" in text and re.search(r"/~[0-9a-f]{10}", text)


def test_explain_tells_it(typed: Callable[..., tuple[int, str]]) -> None:
    ids = [one.id for one in story().model().requests]
    for which in ids:
        code, said = typed("explain", which, "--redact")
        assert code == 0 and not has_secret(said)
    code, said = typed("explain", "slowest", "--redact")
    assert code == 0 and said.startswith("GET /items/{id} took ") and "GET /report" in said


def test_requests_are_chosen_by_what_they_were_called(typed: Callable[..., tuple[int, str]]) -> None:
    code, said = typed("explain", "--route", "/reset/*", "--redact")
    assert code == 0 and re.match(r"GET /~[0-9a-f]{10} took ", said)


def test_source_is_not_put_into_what_is_redacted(typed: Callable[..., tuple[int, str]], tmp_path: Path) -> None:
    code, said = typed("trace", "--redact", "--with-source", "-o", str(tmp_path / "out.html"))
    assert code == 2 and "--with-source" in said and not (tmp_path / "out.html").exists()


def test_a_live_server_with_secrets_in_its_paths(tmp_path: Path) -> None:
    app = App()

    @app.get("/users/{name}")
    async def user(name: str) -> str:
        mark(f"user {name}")
        time.sleep(0.12)
        return "user"

    numbers = itertools.count()
    with lens_server(app, name=f"redact-{time.monotonic_ns()}") as server:
        host, port = server.url.removeprefix("http://").split(":")
        for path in (f"/users/{SECRET}", f"/nowhere/{SECRET}?q={SECRET}"):
            with socket.create_connection((host, int(port)), timeout=10) as client:
                client.sendall(f"GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode())
                while client.recv(65536):
                    pass
        recording = server.model.recording
    assert has_secret(bytes_of(recording, tmp_path / f"{next(numbers)}.fsx"))
    hidden = redacted(recording)
    assert not has_secret(bytes_of(hidden, tmp_path / f"{next(numbers)}.fsx"))
    assert str(Path(__file__).parent).encode() not in bytes_of(hidden, tmp_path / f"{next(numbers)}.fsx")
    model = build(Recording.load(tmp_path / f"{next(numbers) - 1}.fsx"))
    assert model.requests[0].path == "/users/{name}"
    found = {one.code: one for one in find(model, dev=False)}
    assert found["FS001"].at.startswith("test_redact.py:") and found["FS001"].route == "GET /users/{name}"
