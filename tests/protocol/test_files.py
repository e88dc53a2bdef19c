"""FileResponse over real sockets: what conditions and ranges get of a file, and what happens when it changes meanwhile."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fastserve import App, FileResponse, Request
from fastserve.testing import live_server

DATA = bytes(range(256)) * 40  # 10240 bytes
STAMP = 1_700_000_000  # Tue, 14 Nov 2023 22:13:20 GMT
DATE = "Tue, 14 Nov 2023 22:13:20 GMT"
EARLIER, LATER = "Tue, 14 Nov 2023 22:13:19 GMT", "Tue, 14 Nov 2023 22:13:21 GMT"
ETAG = f'"{STAMP * 10**9:x}-{len(DATA):x}"'


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    (folder / "data.bin").write_bytes(DATA)
    os.utime(folder / "data.bin", (STAMP, STAMP))
    (folder / "empty").write_bytes(b"")
    (folder / "page.html").write_text("<p>", encoding="utf-8")
    (folder / "big").write_bytes(os.urandom(1 << 20) * 24)
    os.mkfifo(folder / "fifo")
    return folder


@pytest.fixture(scope="module", params=["own wire", "transport"])
def url(request: pytest.FixtureRequest, folder: Path) -> Iterator[str]:
    app = App()

    @app.get("/{name}")
    async def send(name: str) -> FileResponse:
        return FileResponse(folder / name)

    @app.get("/plain/{name}", blocking=False)
    def plain(name: str) -> FileResponse:
        return FileResponse(folder / name, media_type="text/plain", headers={"etag": 'W/"mine"', "x-mine": "1"})

    @app.get("/as/{name}")
    async def named(name: str) -> FileResponse:
        return FileResponse(folder / "data.bin", filename=name)

    @app.get("/gone/404")
    async def gone() -> FileResponse:
        return FileResponse(folder / "page.html", 404)

    @app.post("/data.bin")
    async def post() -> FileResponse:
        return FileResponse(folder / "data.bin")

    @app.exception_handler(FileNotFoundError)
    async def missing(request: Request, error: Exception) -> tuple[str, int]:
        return "no such file", 404

    with pytest.MonkeyPatch.context() as patch:
        if request.param == "transport":
            patch.setenv("FASTSERVE_WIRE", "transport")
        with live_server(app) as url:
            yield url


def get(raw: Any, url: str, path: str, method: str = "GET", **fields: str) -> tuple[int, dict[str, str], bytes]:
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items())
    conn = raw(url).send(f"{method} {path} HTTP/1.1\r\nHost: a\r\n{lines}\r\n".encode())
    answer = conn.response(method == "HEAD")
    # whatever came before, the connection is still in step
    assert conn.send(b"GET /data.bin HTTP/1.1\r\nHost: a\r\n\r\n").response()[2] == DATA
    return answer


def test_a_file(raw: Any, url: str) -> None:
    status, fields, body = get(raw, url, "/data.bin")
    assert (status, body) == (200, DATA)
    assert fields["content-length"] == "10240"
    assert fields["content-type"] == "application/octet-stream"
    assert fields["last-modified"] == DATE
    assert fields["etag"] == ETAG
    assert fields["accept-ranges"] == "bytes"
    status, head, body = get(raw, url, "/data.bin", "HEAD")
    assert (status, body) == (200, b"")
    assert {k: v for k, v in head.items() if k != "date"} == {k: v for k, v in fields.items() if k != "date"}


def test_an_empty_file_and_types(raw: Any, url: str) -> None:
    status, fields, body = get(raw, url, "/empty")
    assert (status, body, fields["content-length"]) == (200, b"", "0")
    assert get(raw, url, "/page.html")[1]["content-type"] == "text/html; charset=utf-8"
    status, fields, body = get(raw, url, "/plain/data.bin")
    assert (fields["content-type"], fields["etag"], fields["x-mine"]) == ("text/plain; charset=utf-8", 'W/"mine"', "1")
    assert body == DATA


def test_a_large_file(url: str, folder: Path) -> None:
    for _ in range(2):
        with urllib.request.urlopen(f"{url}/big", timeout=30) as answer:
            assert answer.read() == (folder / "big").read_bytes()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("plain.txt", 'attachment; filename="plain.txt"'),
        ("two%20words.txt", 'attachment; filename="two words.txt"'),
        ("%C3%A4.txt", "attachment; filename*=utf-8''%C3%A4.txt"),
        ("a%22b.txt", "attachment; filename*=utf-8''a%22b.txt"),
    ],
)
def test_content_disposition(raw: Any, url: str, name: str, expected: str) -> None:
    fields = get(raw, url, f"/as/{name}")[1]
    assert fields["content-disposition"] == expected
    assert fields["content-type"] == "text/plain; charset=utf-8"


def test_what_is_no_file(raw: Any, url: str, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert get(raw, url, "/missing")[::2] == (404, b"no such file")
    for path in ("/fifo", "/."):
        assert get(raw, url, path)[0] == 500
    assert "is not a regular file" in caplog.text


# RFC 9110 section 13.2.2, row by row: what was sent, and the status that it gets.
CONDITIONS = [
    ({"if_none_match": ETAG}, 304),
    ({"if_none_match": f"W/{ETAG}"}, 304),  # compared weakly
    ({"if_none_match": f'"x", {ETAG}'}, 304),
    ({"if_none_match": "*"}, 304),
    ({"if_none_match": '"x"'}, 200),
    ({"if_none_match": "not a tag"}, 200),
    ({"if_modified_since": DATE}, 304),
    ({"if_modified_since": LATER}, 304),
    ({"if_modified_since": EARLIER}, 200),
    ({"if_modified_since": "Tuesday, 14-Nov-23 22:13:20 GMT"}, 304),
    ({"if_modified_since": "Tue Nov 14 22:13:20 2023"}, 304),
    ({"if_modified_since": "yesterday"}, 200),
    ({"if_modified_since": "Tue, 99 Nov 2023 22:13:20 GMT"}, 200),
    ({"if_none_match": '"x"', "if_modified_since": DATE}, 200),  # the date is ignored
    ({"if_match": ETAG}, 200),
    ({"if_match": f"W/{ETAG}"}, 412),  # compared strongly
    ({"if_match": '"x"'}, 412),
    ({"if_match": "*"}, 200),
    ({"if_match": ETAG, "if_unmodified_since": EARLIER}, 200),  # the date is ignored
    ({"if_unmodified_since": EARLIER}, 412),
    ({"if_unmodified_since": DATE}, 200),
    ({"if_unmodified_since": "never"}, 200),
    ({"if_match": ETAG, "if_none_match": ETAG}, 304),
    ({"if_match": '"x"', "if_none_match": ETAG}, 412),
    ({"if_none_match": ETAG, "range": "bytes=0-1"}, 304),
    ({"if_match": '"x"', "range": "bytes=0-1"}, 412),
]


@pytest.mark.parametrize(("fields", "status"), CONDITIONS)
def test_conditions(raw: Any, url: str, fields: dict[str, str], status: int) -> None:
    for method in ("GET", "HEAD"):
        got, answer, body = get(raw, url, "/data.bin", method, **fields)
        assert got == status
        if status == 304:
            assert (answer["etag"], answer["last-modified"]) == (ETAG, DATE)
            assert not {"content-type", "content-length", "accept-ranges"} & answer.keys()
        elif status == 200 and method == "GET":
            assert body == DATA


def test_a_condition_that_holds_for_what_is_not_safe(raw: Any, url: str) -> None:
    assert get(raw, url, "/data.bin", "POST", if_none_match=ETAG, content_length="0")[0] == 412
    assert get(raw, url, "/data.bin", "POST", if_modified_since=DATE, content_length="0")[0] == 200
    assert get(raw, url, "/data.bin", "POST", range="bytes=0-1", content_length="0")[0] == 200


def test_other_statuses_have_no_conditions(raw: Any, url: str) -> None:
    status, fields, body = get(raw, url, "/gone/404", if_none_match="*", range="bytes=0-0")
    assert (status, body) == (404, b"<p>")
    assert "accept-ranges" not in fields


# RFC 9110 section 14: the Range field, and the slice of the file it gets; None: all of it, 416: none.
RANGES: list[tuple[str, tuple[int, int] | int | None]] = [
    ("bytes=0-0", (0, 1)),
    ("bytes=0-499", (0, 500)),
    ("bytes=500-", (500, 10240)),
    ("bytes=-500", (9740, 10240)),
    ("bytes=-99999", (0, 10240)),
    ("bytes=0-99999", (0, 10240)),
    ("bytes=10239-10239", (10239, 10240)),
    ("bytes=10240-", 416),
    ("bytes=10240-,-0", 416),
    ("bytes=-0", 416),
    ("bytes=99999999999999999999999-", 416),
    ("bytes=0-99999999999999999999999", (0, 10240)),
    ("bytes=-99999999999999999999999", (0, 10240)),
    ("bytes=00000000000000000000005-6", (5, 7)),
    ("bytes=10240-,3-4", (3, 5)),  # what cannot be satisfied is left out
    ("bytes=0-9,5-20", (0, 21)),  # overlapping
    ("bytes=0-9, 10-20", (0, 21)),  # adjacent
    ("bytes=0-9,60-70", (0, 71)),  # nearer than the head of a part is long
    ("bytes=5-20,0-9", (0, 21)),
    ("Bytes=1-2", (1, 3)),
    ("bytes=,1-2,,", (1, 3)),
    ("bytes=2-1", None),
    ("bytes=", None),
    ("bytes=-", None),
    ("bytes=a-b", None),
    ("bytes=1", None),
    ("bytes=1-2-3", None),
    ("bytes=+1-2", None),
    ("bytes 1-2", None),
    ("lines=1-2", None),
    ("bytes=" + ",".join(f"{n * 500}-{n * 500}" for n in range(17)), None),  # too many
    ("bytes=" + "," * 1000 + "1-2", None),
]


@pytest.mark.parametrize(("text", "expected"), RANGES)
def test_ranges(raw: Any, url: str, text: str, expected: tuple[int, int] | int | None) -> None:
    status, fields, body = get(raw, url, "/data.bin", range=text)
    if expected is None:
        assert (status, body) == (200, DATA)
    elif expected == 416:
        assert status == 416
        assert fields["content-range"] == "bytes */10240"
    else:
        assert isinstance(expected, tuple)
        first, end = expected
        assert status == 206
        assert fields["content-range"] == f"bytes {first}-{end - 1}/10240"
        assert (fields["etag"], fields["last-modified"]) == (ETAG, DATE)
        assert body == DATA[first:end]
    assert get(raw, url, "/data.bin", "HEAD", range=text)[0] == 200  # a range is for GET


def test_ranges_of_an_empty_file(raw: Any, url: str) -> None:
    assert get(raw, url, "/empty", range="bytes=0-")[0] == 416
    assert get(raw, url, "/empty", range="bytes=-5")[::2] == (200, b"")


def test_several_ranges(raw: Any, url: str) -> None:
    status, fields, body = get(raw, url, "/data.bin", range="bytes=9000-9009,-10,0-9")
    assert status == 206
    assert "content-range" not in fields
    match = re.fullmatch("multipart/byteranges; boundary=([0-9a-f]{32})", fields["content-type"])
    assert match is not None
    mark = match[1].encode()
    parts = body.split(b"--" + mark)
    assert parts[0] == b"" and parts[-1] == b"--\r\n"
    found = []
    for part in parts[1:-1]:
        head, _, rest = part.removeprefix(b"\r\n").partition(b"\r\n\r\n")
        kind, where = head.decode().split("\r\n")
        assert kind == "content-type: application/octet-stream"
        assert rest.endswith(b"\r\n")
        found.append((where, rest[:-2]))
    assert found == [
        ("content-range: bytes 9000-9009/10240", DATA[9000:9010]),
        ("content-range: bytes 10230-10239/10240", DATA[-10:]),
        ("content-range: bytes 0-9/10240", DATA[:10]),
    ]


@pytest.mark.parametrize(
    ("validator", "status"),
    [(ETAG, 206), (DATE, 206), (f"W/{ETAG}", 200), ('"x"', 200), (LATER, 200), (EARLIER, 200), ("nonsense", 200)],
)
def test_if_range(raw: Any, url: str, validator: str, status: int) -> None:
    assert get(raw, url, "/data.bin", range="bytes=1-2", if_range=validator)[0] == status
    if status == 200:
        assert get(raw, url, "/data.bin", range="bytes=99999-", if_range=validator)[0] == 200


def test_a_weak_tag_is_no_validator_for_ranges(raw: Any, url: str) -> None:
    assert get(raw, url, "/plain/data.bin", range="bytes=1-2", if_range='W/"mine"')[0] == 200
    assert get(raw, url, "/plain/data.bin", if_none_match='W/"mine"')[0] == 304
    assert get(raw, url, "/plain/data.bin", if_match='W/"mine"')[0] == 412


def test_a_date_of_this_moment_is_no_strong_validator(raw: Any, url: str, folder: Path) -> None:
    (folder / "fresh").write_bytes(b"0123456789")
    now = time.time()
    os.utime(folder / "fresh", (now, now))
    modified = get(raw, url, "/fresh")[1]["last-modified"]
    status = get(raw, url, "/fresh", range="bytes=1-2", if_range=modified)[0]
    assert status == 200 or time.time() - now >= 2
    os.utime(folder / "fresh", (now - 10, now - 10))
    modified = get(raw, url, "/fresh")[1]["last-modified"]
    assert get(raw, url, "/fresh", range="bytes=1-2", if_range=modified)[0] == 206


def test_pipelined(raw: Any, url: str) -> None:
    conn = raw(url)
    conn.send(b"GET /data.bin HTTP/1.1\r\nHost: a\r\n\r\nGET /big HTTP/1.1\r\nHost: a\r\nRange: bytes=5-9\r\n\r\n" * 3)
    for _ in range(3):
        assert conn.response()[2] == DATA
        assert conn.response()[1]["content-range"].startswith("bytes 5-9/")


def test_http_10(raw: Any, url: str) -> None:
    answer = raw(url).send(b"GET /data.bin HTTP/1.0\r\n\r\n").rest()
    assert answer.endswith(b"\r\n\r\n" + DATA)


def test_curl_goes_on_where_it_stopped(url: str, folder: Path, tmp_path: Path) -> None:
    whole, part = (folder / "big").read_bytes(), tmp_path / "part"
    part.write_bytes(whole[:5_000_000])
    subprocess.run(["curl", "-sfC", "-", "-o", str(part), f"{url}/big"], check=True, timeout=60)
    assert part.read_bytes() == whole


# --- a file that changes while it is sent ---


def begun(url: str, path: str) -> socket.socket:
    """A client that has read the beginning of an answer, and lets the rest wait."""
    host, _, port = url.removeprefix("http://").partition(":")
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    client.settimeout(20)
    client.connect((host, int(port)))
    client.sendall(f"GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
    assert client.recv(1000).startswith(b"HTTP/1.1 200 OK\r\n")
    return client


def rest(client: socket.socket) -> int:
    count = 0
    try:
        while data := client.recv(1 << 20):
            count += len(data)
    except ConnectionResetError:
        pass
    client.close()
    return count + 1000


def append(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)


SIZE = 24 << 20
CHANGES: list[tuple[str, Callable[[Path], object], bool]] = [
    ("shorter", lambda path: os.truncate(path, 5_000_000), False),
    ("longer", lambda path: append(path, b"x" * 5_000_000), True),
    ("gone", lambda path: path.unlink(), True),
    ("another", lambda path: os.replace(path.with_name("page.html"), path), True),
]


@pytest.mark.parametrize(("what", "change", "whole"), CHANGES, ids=[row[0] for row in CHANGES])
def test_a_file_that_changes_while_it_is_sent(
    url: str, folder: Path, caplog: pytest.LogCaptureFixture, what: str, change: Any, whole: bool
) -> None:
    path = folder / f"changing-{what}"
    page = (folder / "page.html").read_bytes()
    path.write_bytes(b"x" * SIZE)
    client = begun(url, f"/{path.name}")
    change(path)
    count = rest(client)
    (folder / "page.html").write_bytes(page)
    assert (count > SIZE) == whole  # with the head
    if not whole:
        assert "a file became shorter while it was sent" in caplog.text


def test_clients_that_leave(url: str, raw: Any) -> None:
    """Descriptors are given back, whatever was left to send."""

    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    before = descriptors()
    clients = [begun(url, "/big") for _ in range(20)]
    for client in clients:
        client.close()
    give_up_at = time.monotonic() + 20
    while descriptors() > before and time.monotonic() < give_up_at:
        time.sleep(0.02)
    assert descriptors() <= before
    assert threading.active_count() < 60


@pytest.fixture(params=["own wire", "transport"])
def impatient(request: pytest.FixtureRequest, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A server whose deadlines are short."""
    app = App()

    @app.get("/big")
    async def big() -> FileResponse:
        return FileResponse(folder / "big")

    if request.param == "transport":
        monkeypatch.setenv("FASTSERVE_WIRE", "transport")
    with live_server(app, timeout_keep_alive=0.3, timeout_write=0.6) as url:
        yield url


def test_a_client_that_reads_slowly_gets_all_of_it(impatient: str, folder: Path) -> None:
    """Neither the deadline of an idle connection nor that of a client that takes nothing is for it."""
    client = begun(impatient, "/big")
    count = 1000
    until = time.monotonic() + 2
    while data := client.recv(1 << 20):
        count += len(data)
        if time.monotonic() < until:
            time.sleep(0.1)
    client.close()
    assert count > (folder / "big").stat().st_size


def test_a_client_that_takes_nothing_is_cut(impatient: str, folder: Path) -> None:
    client = begun(impatient, "/big")
    give_up_at = time.monotonic() + 20
    time.sleep(1.5)
    while rest(client) > (folder / "big").stat().st_size:  # it had all of it in its buffers, or the machine stood still
        assert time.monotonic() < give_up_at
        client = begun(impatient, "/big")
        time.sleep(1.5)
