"""Static folders over real sockets: `--static` before every kind of application, `app.static` in an App; hostile paths."""

from __future__ import annotations

import asyncio
import ctypes
import errno
import gzip
import os
import shutil
import socket
import ssl
import struct
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from process.running import free_port

from fastserve import App, Request, Response
from fastserve.errors import ConfigError
from fastserve.testing import live_server

ROOT = Path(__file__).resolve().parent.parent.parent
APPLICATION = """
async def app(scope, receive, send):
    assert scope["type"] == "http"
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"the application"})
"""
CSS = b"body { color: red }\n" * 500


@pytest.fixture(autouse=True)
def loop_name() -> str:
    """In place of the one in conftest.py: the fixture `url` goes through both loops by itself."""
    return "auto"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    top = tmp_path_factory.mktemp("static")
    root = top / "root"
    for folder in ("sub/deep", "plain", "with space", ".hidden", ".well-known"):
        (root / folder).mkdir(parents=True)
    (root / "index.html").write_bytes(b"<h1>root</h1>")
    (root / "sub" / "index.html").write_bytes(b"<h1>sub</h1>")
    (root / "sub" / "deep" / "a.txt").write_bytes(b"deep")
    (root / "a.css").write_bytes(CSS)
    (root / "a.css.br").write_bytes(b"as br")
    (root / "a.css.gz").write_bytes(gzip.compress(CSS))
    (root / "b.js").write_bytes(b"b")
    (root / "b.js.zst").write_bytes(b"as zstd")
    (root / "archive.tar.gz").write_bytes(b"gz")
    (root / "with space" / "\xe4 %2F.txt".encode("latin-1").decode("latin-1")).write_bytes(b"odd")
    (root / ".env").write_bytes(b"secret")
    (root / ".hidden" / "x").write_bytes(b"secret")
    (root / ".well-known" / "acme").write_bytes(b"token")
    (root / "a:b").mkdir()
    (root / "a:b" / "index.html").write_bytes(b"colon")
    os.mkfifo(root / "fifo")
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(root / "socket"))
    (root / "back\\slash").write_bytes(b"secret")
    (top / "outside").write_bytes(b"secret")
    (top / "rootbeer").mkdir()
    (top / "rootbeer" / "x").write_bytes(b"secret")
    os.symlink("../outside", root / "link-out")
    os.symlink(str(top / "outside"), root / "link-out-absolute")
    os.symlink("..", root / "link-up")
    os.symlink("sub/deep/a.txt", root / "link-in")
    os.symlink(str(root / "sub"), root / "link-in-absolute")
    os.symlink("loop", root / "loop")
    os.symlink("/dev/zero", root / "zero")
    return root


async def asgi(scope: Any, receive: Any, send: Any) -> None:
    assert scope["type"] == "http"
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"the application"})


def wsgi(environ: Any, start_response: Any) -> list[bytes]:
    start_response("200 OK", [])
    return [b"the application"]


def native(root: Path | None = None, plain: bool = True) -> App:
    app = App()

    @app.get("/{rest:path}")
    async def rest() -> str:
        return "the application"

    return app


def native_static(root: Path, **options: Any) -> App:
    app = App()
    app.static("/s", root, **options)

    @app.get("/")
    async def index() -> str:
        return "the application"

    @app.get("/s/route")
    async def route() -> str:
        return "a route"

    return app


def chained(root: Path, **options: Any) -> App:
    app = native_static(root, **options)

    @app.after_request
    async def mark(request: Request, response: Response) -> None:
        response.headers["x-seen"] = "yes"

    return app


KINDS = ["asgi", "wsgi", "wsgi inline", "native", "app.static", "behind middleware"]


@pytest.fixture(scope="module", params=KINDS)
def url(request: pytest.FixtureRequest, root: Path) -> Iterator[str]:
    flag = {"static": f"/s={root}"}
    app, options = {
        "asgi": (asgi, flag),
        "wsgi": (wsgi, flag),
        "wsgi inline": (wsgi, {**flag, "threads": 0}),
        "native": (native(), flag),
        "app.static": (native_static(root), {}),
        "behind middleware": (chained(root), {}),
    }[request.param]
    with live_server(app, loop="asyncio" if "w" in request.param else "uvloop", **options) as url:
        yield url


def ask(raw: Any, url: str, target: str, method: str = "GET", **fields: str) -> tuple[int, dict[str, str], bytes]:
    time.sleep(0.002)  # what was seen of a file is believed for a millisecond
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items())
    conn = raw(url).send(f"{method} {target} HTTP/1.1\r\nHost: a\r\n{lines}\r\n".encode("latin-1"))
    answer = conn.response(method == "HEAD")
    assert conn.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").response()[2] == b"the application"
    return answer


def test_files(raw: Any, url: str) -> None:
    for _ in range(2):  # opened, and kept open
        status, fields, body = ask(raw, url, "/s/a.css")
        assert (status, body) == (200, CSS)
        assert fields["content-type"] == "text/css; charset=utf-8"
        assert fields["content-length"] == str(len(CSS))
        assert fields["vary"] == "accept-encoding"
        assert "cache-control" not in fields and "content-encoding" not in fields
        assert ask(raw, url, "/s/a.css", "HEAD")[1]["content-length"] == str(len(CSS))
        assert ask(raw, url, "/s/a.css", if_none_match=fields["etag"])[0] == 304
        assert ask(raw, url, "/s/a.css", range="bytes=5-9")[2] == CSS[5:10]
        assert ask(raw, url, "/s/a.css?v=1")[2] == CSS
        assert ask(raw, url, "http://other/s/a.css")[2] == CSS
        assert ask(raw, url, "/s/%61.css")[2] == CSS
        assert ask(raw, url, "/%73/a.css")[2] == CSS
        assert ask(raw, url, "/s/sub/deep/a.txt")[2] == b"deep"
        assert ask(raw, url, "/s/.well-known/acme")[2] == b"token"
        assert ask(raw, url, "/s/link-in")[2] == b"deep"
        assert ask(raw, url, "/s/link-in-absolute/deep/a.txt")[2] == b"deep"
        assert ask(raw, url, "/s/archive.tar.gz")[1]["content-type"] == "application/gzip"
        assert "content-encoding" not in ask(raw, url, "/s/archive.tar.gz")[1]


def test_names_with_odd_characters(raw: Any, url: str) -> None:
    assert ask(raw, url, "/s/link-up/root/a.css")[2] == CSS  # it leaves the root and comes back
    assert ask(raw, url, "/s/with%20space/%C3%A4%20%252F.txt")[2] == b"odd"


def test_index_and_folders(raw: Any, url: str) -> None:
    assert ask(raw, url, "/s/")[2] == b"<h1>root</h1>"
    assert ask(raw, url, "/s/sub/")[1]["content-type"] == "text/html; charset=utf-8"
    for target, location in (
        ("/s", "./s/"),
        ("/s?a=b", "./s/?a=b"),
        ("/s/sub", "./sub/"),
        ("/s/sub?a=//b", "./sub/?a=//b"),
        ("/s/a:b", "./a:b/"),
    ):
        status, fields, _ = ask(raw, url, target)
        assert (status, fields["location"]) == (307, location)
    assert httpx.get(f"{url}/s/sub", follow_redirects=True).text == "<h1>sub</h1>"


def test_a_route_comes_before_a_folder(raw: Any, url: str, request: pytest.FixtureRequest) -> None:
    before = request.node.callspec.params["url"] in ("app.static", "behind middleware")
    assert ask(raw, url, "/s/route")[0] == (200 if before else 404)


def test_middleware_sees_files(raw: Any, url: str, request: pytest.FixtureRequest) -> None:
    seen = "x-seen" in ask(raw, url, "/s/a.css")[1]
    assert seen == (request.node.callspec.params["url"] == "behind middleware")
    assert ("x-seen" in ask(raw, url, "/s/missing")[1]) == seen


# What must not be found, however it is written; all alike.
HOSTILE = [
    "/s/missing",
    "/s/../outside",
    "/s/sub/../../outside",
    "/s/sub/../a.css",
    "/s/./a.css",
    "/s/.",
    "/s/..",
    "/s/%2e%2e/outside",
    "/s/%2E%2E/outside",
    "/s/.%2e/outside",
    "/s/..%2foutside",
    "/s/..%2Foutside",
    "/s/%2e%2e%2foutside",
    "/s/sub%2fdeep%2fa.txt",
    "/s/..%5coutside",
    "/s/sub%5cdeep",
    "/s/back%5Cslash",
    "/s/back\\slash",
    "/s/..\\outside",
    "/s/%252e%252e/outside",
    "/s/..%c0%afoutside",
    "/s/..%00/outside",
    "/s/a.css%00",
    "/s/a.css%00.txt",
    "/s/%00",
    "/s//a.css",
    "/s//etc/passwd",
    "/s/%2fetc/passwd",
    "/s/%2f/etc/passwd",
    "/s///",
    "/s/sub//",
    "/s/a.css/",
    "/s/a.css/x",
    "/s/a.css/.",
    "/s/plain/",
    "/s/plain",
    "/s/.env",
    "/s/%2eenv",
    "/s/.hidden/x",
    "/s/.hidden/",
    "/s/sub/.well-known",
    "/s/...",
    "/s/link-out",
    "/s/link-out-absolute",
    "/s/link-up/outside",
    "/s/link-up/rootbeer/x",
    "/s/link-up/root/../outside",
    "/s/loop",
    "/s/zero",
    "/s/fifo",
    "/s/socket",
    "/s/proc/self/environ",
    "/s/" + "x" * 300,
    "/s/" + "x/" * 1500,
    "/s/~",
    "/s/*",
    "/s/A.CSS",
    "/s/a.css.gz.gz",
    "/s/a.css;type=x",
    "/s/%61%2ecss%2f",
]


def test_hostile_paths(raw: Any, url: str) -> None:
    alike = set()
    for target in HOSTILE:
        for method in ("GET", "POST"):
            fields = {"content_length": "0"} if method == "POST" else {}
            status, fields, body = ask(raw, url, target, method, **fields)
            assert (status, body) == (404, b"Not Found"), target
            del fields["date"]
            alike.add(tuple(fields.items()))
    assert len(alike) == 1


def test_what_is_not_below_the_prefix(raw: Any, url: str) -> None:
    for target in ("/statical", "/s2/a.css", "/root/a.css", "/%73%2fa.css", "/.s/a.css", "/sa.css"):
        assert ask(raw, url, target)[2] in (b"the application", b"Not Found")


def test_methods(raw: Any, url: str) -> None:
    for method in ("POST", "PUT", "DELETE", "PATCH", "BREW"):
        status, fields, _ = ask(raw, url, "/s/a.css", method, content_length="0")
        assert (status, fields["allow"]) == (405, "GET, HEAD, OPTIONS"), method
    status, fields, _ = ask(raw, url, "/s/a.css", "OPTIONS")
    assert (status, fields["allow"]) == (204, "GET, HEAD, OPTIONS")


# Accept-Encoding, and what a.css (br and gz beside it) and b.js (zst beside it) come as.
CODINGS = [
    ("gzip", "gzip", None),
    ("br", "br", None),
    ("zstd", None, "zstd"),
    ("gzip, deflate, br, zstd", "br", "zstd"),
    ("gzip;q=1, br;q=0.5", "gzip", None),
    ("br;q=0, gzip", "gzip", None),
    ("br;q=0.000, gzip;q=0", None, None),
    ("*", "br", "zstd"),
    ("*;q=0.1, br;q=0", "gzip", "zstd"),
    ("*;q=0", None, None),
    ("identity", None, None),
    ("identity;q=1, gzip;q=0.5", None, None),
    ("identity;q=0.5, gzip;q=1", "gzip", None),
    ("X-GZIP", "gzip", None),
    ("GZip ; q=0.8 , compress", "gzip", None),
    ("gzip;q=nonsense", None, None),
    ("gzip;q=2", None, None),
    ("", None, None),
    (",,;;", None, None),
]


def test_precompressed(raw: Any, url: str) -> None:
    for row in CODINGS:
        check_coding(raw, url, *row)


def check_coding(raw: Any, url: str, accept: str, css: str | None, js: str | None) -> None:
    bodies = {"br": b"as br", "zstd": b"as zstd"}
    tags = {ask(raw, url, "/s/a.css")[1]["etag"]}
    for target, coding in (("/s/a.css", css), ("/s/b.js", js)):
        status, fields, body = ask(raw, url, target, accept_encoding=accept)
        assert (status, fields.get("content-encoding"), fields["vary"]) == (200, coding, "accept-encoding")
        assert fields["content-type"] in ("text/css; charset=utf-8", "text/javascript; charset=utf-8")
        if coding == "gzip":
            assert gzip.decompress(body) == CSS
        elif coding is not None:
            assert body == bodies[coding]
        if coding is not None:
            assert fields["etag"] not in tags  # another representation
            assert ask(raw, url, target, accept_encoding=accept, if_none_match=fields["etag"])[0] == 304
            part = ask(raw, url, target, accept_encoding=accept, range="bytes=1-3")
            assert (part[0], part[2], part[1]["content-encoding"]) == (206, body[1:4], coding)
        if target == "/s/a.css" and coding is None:
            assert body == CSS
    assert "vary" not in ask(raw, url, "/s/sub/deep/a.txt", accept_encoding=accept)[1]


# --- changes ---


@pytest.fixture
def living(tmp_path: Path) -> Path:
    root = tmp_path / "living"
    root.mkdir()
    (root / "a.txt").write_bytes(b"first")
    return root


@pytest.fixture(params=["--static", "app.static", "behind middleware"])
def living_url(request: pytest.FixtureRequest, living: Path) -> Iterator[str]:
    flag = {"static": f"/s={living}", "static_max_age": "1h"}
    app = {
        "--static": asgi,
        "app.static": native_static(living, max_age=3600),
        "behind middleware": chained(living, max_age=3600),
    }
    with live_server(app[request.param], **(flag if request.param == "--static" else {})) as url:
        yield url


def test_a_change_is_seen_within_a_millisecond(raw: Any, living: Path, living_url: str) -> None:
    path = living / "a.txt"
    seen = set()

    def body() -> bytes:
        status, fields, body = ask(raw, living_url, "/s/a.txt")
        assert status == 200 and fields["cache-control"] == "public, max-age=3600"
        seen.add(fields["etag"])
        return body

    assert body() == b"first"
    path.write_bytes(b"other")  # the same length, in place
    assert body() == b"other"
    path.write_bytes(b"longer than it was")
    assert body() == b"longer than it was"
    (living / "new").write_bytes(b"replaced")
    os.replace(living / "new", path)
    assert body() == b"replaced"
    assert len(seen) == 4
    path.unlink()
    assert ask(raw, living_url, "/s/a.txt")[0] == 404
    path.mkdir()
    assert ask(raw, living_url, "/s/a.txt")[0] == 404
    path.rmdir()
    os.symlink("/etc/passwd", path)
    assert ask(raw, living_url, "/s/a.txt")[0] == 404
    path.unlink()
    path.write_bytes(b"again")
    assert body() == b"again"


def test_a_folder_that_is_made_anew(raw: Any, living: Path, living_url: str) -> None:
    assert ask(raw, living_url, "/s/a.txt")[2] == b"first"
    shutil.rmtree(living)
    assert ask(raw, living_url, "/s/a.txt")[0] == 404
    living.mkdir()
    (living / "b.txt").write_bytes(b"second")
    assert ask(raw, living_url, "/s/b.txt")[2] == b"second"
    living.rename(living.with_name("old"))
    living.mkdir()
    (living / "b.txt").write_bytes(b"third")
    give_up_at = time.monotonic() + 10
    while ask(raw, living_url, "/s/b.txt")[2] != b"third":
        assert time.monotonic() < give_up_at
        time.sleep(0.05)


def test_siblings_that_come_and_go(raw: Any, living: Path, living_url: str) -> None:
    def coding() -> str | None:
        return ask(raw, living_url, "/s/a.txt", accept_encoding="gzip")[1].get("content-encoding")

    assert coding() is None
    (living / "a.txt.gz").write_bytes(gzip.compress(b"first"))
    give_up_at = time.monotonic() + 10
    while coding() is None:
        assert time.monotonic() < give_up_at
        time.sleep(0.05)
    assert coding() == "gzip"
    (living / "a.txt.gz").unlink()
    assert coding() is None


def test_descriptors_are_bounded(raw: Any, living: Path, living_url: str) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for number in range(400):
        (living / f"{number}.txt").write_bytes(b"%d" % number)
    conn = raw(living_url)
    for number in range(400):
        conn.send(f"GET /s/{number}.txt HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        assert conn.response()[2] == b"%d" % number
    assert len(os.listdir("/proc/self/fd")) <= before + 140


def test_a_large_file(living: Path, living_url: str) -> None:
    data = os.urandom(1 << 20) * 8
    (living / "large").write_bytes(data)
    for _ in range(3):
        with urllib.request.urlopen(f"{living_url}/s/large", timeout=20) as answer:
            assert answer.read() == data


# --- other ways in ---


def test_a_folder_at_the_root(raw: Any, root: Path) -> None:
    with live_server(asgi, static=f"/={root}") as url:
        conn = raw(url)
        assert conn.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").response()[2] == b"<h1>root</h1>"
        assert conn.send(b"GET /a.css HTTP/1.1\r\nHost: a\r\n\r\n").response()[2] == CSS
        assert conn.send(b"GET //etc/passwd HTTP/1.1\r\nHost: a\r\n\r\n").response()[0] == 404
        assert conn.send(b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n").response()[2] == b"the application"


def test_over_a_unix_socket(root: Path, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with live_server(asgi, static=f"/s={root}", uds=str(path)):
        command = ["curl", "-sf", "--unix-socket", str(path), "http://localhost/s/a.css"]
        assert subprocess.run(command, capture_output=True, check=True, timeout=20).stdout == CSS
        command += ["-r", "5-9"]
        assert subprocess.run(command, capture_output=True, check=True, timeout=20).stdout == CSS[5:10]


def test_the_longest_prefix_wins(raw: Any, root: Path, living: Path) -> None:
    inner = App()

    @inner.get("/s/other/{rest:path}")
    async def rest() -> str:
        return "mounted"

    app = native_static(root)
    app.static("/s/living", living)
    app.mount("/s/other", inner)
    with live_server(app) as url:
        assert ask(raw, url, "/s/living/a.txt")[2] == b"first"
        assert ask(raw, url, "/s/a.css")[2] == CSS
        assert ask(raw, url, "/s/living/a.css")[0] == 404
        assert ask(raw, url, "/s/other/x")[0] in (200, 404)
    with live_server(asgi, static=[f"/s={root}", f"/s/living={living}"]) as url:
        assert ask(raw, url, "/s/living/a.txt")[2] == b"first"
        assert ask(raw, url, "/s/a.css")[2] == CSS


def test_exception_handlers_have_the_last_word(raw: Any, root: Path) -> None:
    app = native_static(root)

    @app.exception_handler(404)
    async def lost(request: Request, error: Exception) -> tuple[str, int]:
        return f"no {request.path}", 404

    with live_server(app) as url:
        assert ask(raw, url, "/s/../outside")[::2] == (404, b"no /s/../outside")
        assert ask(raw, url, "/s/a.css")[2] == CSS


def test_over_tls(root: Path, living: Path) -> None:
    """Where the kernel cannot send files they are read."""
    data = os.urandom(1 << 20) * 3
    (living / "large").write_bytes(data)
    from fastserve.interfaces import make_handler, with_static
    from fastserve.protocol import Limits, Service

    here = Path(__file__).resolve().parent.parent / "data"
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_side.load_cert_chain(here / "localhost.crt", here / "localhost.key")
    client_side = ssl.create_default_context(cafile=str(here / "localhost.crt"))

    async def talk() -> None:
        loop = asyncio.get_running_loop()
        handler = with_static(make_handler(asgi), [("/s", str(living))])
        service = Service(loop, handler, Limits())
        server = await loop.create_server(service.connect, "127.0.0.1", 0, ssl=server_side)
        port = server.sockets[0].getsockname()[1]
        async with httpx.AsyncClient(verify=client_side, timeout=20) as client:
            for _ in range(2):
                answer = await client.get(f"https://localhost:{port}/s/large")
                assert answer.content == data
            answer = await client.get(
                f"https://localhost:{port}/s/large", headers={"range": "bytes=5-9,1000000-1000009"}
            )
            assert answer.status_code == 206 and data[5:10] in answer.content
        # one that leaves in the middle
        reader, writer = await asyncio.open_connection("localhost", port, ssl=client_side)
        writer.write(b"GET /s/large HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (await reader.read(100)).startswith(b"HTTP/1.1 200")
        writer.transport.abort()
        server.close()
        service.shutdown()
        service.abort()
        await service.wait_closed()
        handler.close()
        service.close()

    asyncio.run(talk())


@pytest.mark.parametrize(
    "text",
    ["/s", "s=.", "=.", "/s=", "/s=/does/not/exist", "/s=/etc/passwd", "/{x}=.", "/a%20b=."],
)
def test_options_that_cannot_be(text: str) -> None:
    with pytest.raises(ConfigError, match="static"), live_server(asgi, static=text):
        pass


def test_folders_that_cannot_be(tmp_path: Path) -> None:
    for prefix, folder, options in (
        ("s", tmp_path, {}),
        ("/{s}", tmp_path, {}),
        ("/s", tmp_path / "missing", {}),
        ("/s", tmp_path, {"index": "a/b"}),
        ("/s", tmp_path, {"max_age": -1}),
    ):
        app = App()
        app.static(prefix, folder, **options)
        with pytest.raises(ConfigError, match="static"), live_server(app):
            pass
    app.static("/s", tmp_path) if not app._folders else None
    with pytest.raises(ConfigError, match="twice"):
        app.static("/s", tmp_path)
    with pytest.raises(ConfigError, match="twice"):
        app.mount("/s", asgi)


def refuse_openat2(error: int) -> None:
    """In a child: from now on the kernel refuses openat2(2), as an older one or a sandbox does (seccomp(2))."""
    code = (
        struct.pack("HBBI", 0x20, 0, 0, 0)  # load the number of the call
        + struct.pack("HBBI", 0x15, 0, 1, 437)  # if it is openat2:
        + struct.pack("HBBI", 0x06, 0, 0, 0x00050000 | error)  # return this error
        + struct.pack("HBBI", 0x06, 0, 0, 0x7FFF0000)  # otherwise let it go on
    )
    program = ctypes.create_string_buffer(code)
    filter_ = ctypes.create_string_buffer(struct.pack("HxxxxxxP", 4, ctypes.addressof(program)))
    libc = ctypes.CDLL(None)
    assert libc.prctl(38, 1, 0, 0, 0) == 0  # PR_SET_NO_NEW_PRIVS
    assert libc.prctl(22, 2, filter_, 0, 0) == 0  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER


@pytest.mark.parametrize("error", [errno.ENOSYS, errno.EPERM], ids=["older kernel", "sandbox"])
def test_without_openat2(raw: Any, root: Path, error: int, tmp_path: Path) -> None:
    """Links are resolved, and the way to the end is gone without following any."""
    (tmp_path / "module.py").write_text(APPLICATION, encoding="utf-8")
    port = free_port()
    command = [sys.executable, "-m", "fastserve", "module:app", "--app-dir", str(tmp_path), "--port", str(port)]
    command += ["--static", f"/s={root}", "--log-level", "error", "--no-access-log"]
    with subprocess.Popen(command, cwd=ROOT, preexec_fn=lambda: refuse_openat2(error)) as server:
        try:
            url = f"http://127.0.0.1:{port}"
            give_up_at = time.monotonic() + 30
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port), 1).close()
                    break
                except OSError:
                    assert server.poll() is None and time.monotonic() < give_up_at
                    time.sleep(0.05)
            for target in HOSTILE:
                assert ask(raw, url, target)[0] == 404, target
            for target, body in (("a.css", CSS), ("link-in", b"deep"), ("link-in-absolute/deep/a.txt", b"deep")):
                for _ in range(2):
                    assert ask(raw, url, f"/s/{target}")[2] == body
            assert ask(raw, url, "/s/")[2] == b"<h1>root</h1>"
        finally:
            server.terminate()
