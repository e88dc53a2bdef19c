"""TLS: real clients (curl, openssl, ssl, httpx, websockets), certificates that change while connections go on."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from process.running import HERE, Running, until
from websockets.sync.client import connect

from fastserve import App, Request, WebSocket
from fastserve.errors import ConfigError
from fastserve.process.arguments import parse
from fastserve.process.config import Config
from fastserve.process.tls import CERTIFICATE, Certificates
from fastserve.testing import live_server

LOOPS = pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
APP = ("apps:app", "--app-dir", str(HERE), "--port", "0")


def openssl(*words: str | Path, text: str = "") -> str:
    answer = subprocess.run(
        ["openssl", *map(str, words)], input=text, capture_output=True, text=True, timeout=60, check=False
    )
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


class Authority:
    """Makes certificates that this very authority has signed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cert = folder / "ca.pem"
        self.key = folder / "ca.key"
        name = ("-subj", "/CN=an authority for tests", "-days", "30")
        usage = ("-addext", "keyUsage=critical,keyCertSign,cRLSign")  # Python 3.13 checks it, and the key identifiers
        openssl("req", "-x509", *EC, "-nodes", "-keyout", self.key, "-out", self.cert, *name, *usage)

    def make(self, name: str, *names: str, days: int = 30, password: str = "", subject: str = "") -> tuple[str, str]:
        """Paths of a certificate for these names, and its key."""
        cert, key, request = (self.folder / f"{name}.{end}" for end in ("pem", "key", "csr"))
        hidden = ("-passout", f"pass:{password}") if password else ("-nodes",)
        openssl("req", *EC, *hidden, "-keyout", key, "-out", request, "-utf8", "-subj", subject or f"/CN={name}")
        extensions = self.folder / f"{name}.ext"
        alternative = ",".join(f"IP:{n}" if n[0].isdigit() else f"DNS:{n}" for n in names)
        told = f"subjectAltName={alternative}\n" if names else "basicConstraints=CA:FALSE\n"
        extensions.write_text(f"{told}subjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n")
        signing = ("-CA", self.cert, "-CAkey", self.key, "-CAcreateserial", "-days", str(days), "-extfile", extensions)
        openssl("x509", "-req", "-in", request, "-out", cert, *signing)
        return str(cert), str(key)

    def client(self, **more: Any) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.cert))
        for name, value in more.items():
            setattr(context, name, value)
        return context


EC = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def local(authority: Authority) -> dict[str, str]:
    cert, key = authority.make("local", "localhost", "127.0.0.1")
    return {"ssl_certfile": cert, "ssl_keyfile": key}


def make_app() -> App:
    app = App()

    @app.get("/")
    async def index(request: Request) -> str:
        return f"{request.scheme} {request.url.scheme}"

    @app.post("/echo")
    async def echo(request: Request) -> bytes:
        return await request.body()

    @app.get("/large")
    async def large() -> bytes:
        return b"x" * (5 << 20)

    @app.get("/slow")
    async def slow() -> str:
        await asyncio.sleep(0.5)
        return "slow"

    @app.websocket("/ws")
    async def ws(websocket: WebSocket) -> None:
        await websocket.accept()
        async for message in websocket:
            await websocket.send(message)

    return app


async def asgi(scope: Any, receive: Any, send: Any) -> None:
    assert scope["type"] in ("http", "websocket")
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "text": scope["scheme"]})
        await send({"type": "websocket.close"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": scope["scheme"].encode()})


def wsgi(environ: Any, start_response: Any) -> Any:
    start_response("200 OK", [("Content-Type", "text/plain")])
    if environ["PATH_INFO"] == "/file":
        return environ["wsgi.file_wrapper"](open(__file__, "rb"))
    return [environ["wsgi.url_scheme"].encode()]


@contextlib.contextmanager
def tls(url: str | int, context: ssl.SSLContext, name: str = "localhost") -> Iterator[ssl.SSLSocket]:
    port = url if isinstance(url, int) else int(url.rpartition(":")[2])
    with (
        socket.create_connection(("127.0.0.1", port), 20) as plain,
        context.wrap_socket(plain, server_hostname=name) as sock,
    ):
        yield sock


def names_of(sock: ssl.SSLSocket) -> list[str]:
    about = sock.getpeercert()
    assert about is not None
    return [value for _, value in about["subjectAltName"]]  # type: ignore[misc]


def get(sock: ssl.SSLSocket, path: str = "/") -> bytes:
    """One request on a connection that stays; the response has a length."""
    sock.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    data = b""
    while b"\r\n\r\n" not in data:
        data += sock.recv(65536)
    head, _, body = data.partition(b"\r\n\r\n")
    length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
    while len(body) < length:
        body += sock.recv(65536)
    return body


# --------------------------------------------------------------------------------------------------------- it serves


@LOOPS
def test_https(authority: Authority, local: dict[str, str], loop: str) -> None:
    with live_server(make_app(), loop=loop, **local) as url:
        assert url.startswith("https://127.0.0.1:")
        with httpx.Client(verify=authority.client(), timeout=20, base_url=url) as client:
            for _ in range(3):
                assert client.get("/").text == "https https"
            assert client.post("/echo", content=b"y" * 300_000).content == b"y" * 300_000
            assert client.post("/echo", content=iter([b"a", b"b" * 100_000])).content == b"a" + b"b" * 100_000
            assert len(client.get("/large").content) == 5 << 20
            assert client.get("/", headers={"host": "bad host"}).status_code == 400
        with connect(url.replace("https", "wss") + "/ws", ssl=authority.client()) as websocket:
            for message in ("text", b"x" * 200_000):
                websocket.send(message)
                assert websocket.recv(timeout=20) == message
        curl = ["curl", "-sS", "--cacert", str(authority.cert), "--max-time", "20", url + "/", url + "/"]
        assert subprocess.run(curl, capture_output=True, text=True, check=True).stdout == "https https" * 2
        said = openssl("s_client", "-connect", url.removeprefix("https://"), "-CAfile", authority.cert, "-brief")
        assert said == ""


@LOOPS
def test_asgi_and_wsgi_know_the_scheme(authority: Authority, local: dict[str, str], loop: str) -> None:
    for app in (asgi, wsgi):
        with live_server(app, loop=loop, **local) as url, httpx.Client(verify=authority.client()) as client:
            assert client.get(url).text == "https"
            if app is wsgi:
                assert client.get(url + "/file").content == Path(__file__).read_bytes()
            else:
                with connect(url.replace("https", "wss"), ssl=authority.client()) as websocket:
                    assert websocket.recv(timeout=20) == "wss"


def test_a_unix_socket_is_tls_too(authority: Authority, local: dict[str, str], tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with live_server(make_app(), uds=path, **local):
        transport = httpx.HTTPTransport(uds=path, verify=authority.client())
        with httpx.Client(transport=transport) as client:
            assert client.get("https://localhost/").text == "https https"


def test_versions_and_alpn(authority: Authority, local: dict[str, str]) -> None:
    old = ssl.TLSVersion.TLSv1_2
    with live_server(make_app(), **local) as url:
        context = authority.client(maximum_version=old)
        context.set_alpn_protocols(["h2", "http/1.1"])
        with tls(url, context) as sock:
            assert (sock.version(), sock.selected_alpn_protocol()) == ("TLSv1.2", "http/1.1")
            assert get(sock) == b"https https"
        with tls(url, authority.client()) as sock:
            assert sock.version() == "TLSv1.3"
    for options, refused in (
        ({"ssl_protocol_min": "tls1.3"}, authority.client(maximum_version=old)),
        ({"ssl_version": ssl.PROTOCOL_TLSv1_2}, authority.client(minimum_version=ssl.TLSVersion.TLSv1_3)),
    ):
        with (
            live_server(make_app(), **local, **options) as url,
            pytest.raises((ssl.SSLError, ConnectionError)),
            tls(url, refused) as sock,
        ):
            get(sock)


@LOOPS
def test_client_certificates(authority: Authority, local: dict[str, str], loop: str, tmp_path: Path) -> None:
    known = authority.client()
    known.load_cert_chain(*authority.make("client"))
    stranger = authority.client()
    stranger.load_cert_chain(*Authority(tmp_path).make("stranger"))
    options = {"ssl_ca_certs": str(authority.cert), "loop": loop, **local}
    for requirement, nobody_may in (("required", False), (ssl.CERT_REQUIRED, False), ("optional", True)):
        with live_server(make_app(), ssl_cert_reqs=requirement, **options) as url:
            for context, may in ((known, True), (stranger, False), (authority.client(), nobody_may)):
                with contextlib.ExitStack() as stack:
                    if not may:
                        stack.enter_context(pytest.raises((ssl.SSLError, OSError, IndexError)))
                    sock = stack.enter_context(tls(url, context))
                    sock.settimeout(20)
                    assert (get_or_end(sock)) == b"https https"


def get_or_end(sock: ssl.SSLSocket) -> bytes:
    """As get(), but a connection that ends is an OSError: a TLS 1.3 client hears of its refusal only when it reads."""
    sock.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    data = b""
    while piece := sock.recv(65536):
        data += piece
    if not data:
        raise OSError("it ended")
    return data.partition(b"\r\n\r\n")[2]


async def index(request: Request) -> dict[str, Any]:
    return {"certificate": request.peer_certificate}


def environ_of(environ: Any, start_response: Any) -> Any:
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps({name: value for name, value in environ.items() if name.startswith("SSL_")}).encode()]


@LOOPS
def test_applications_know_the_certificate_of_a_client(
    authority: Authority, local: dict[str, str], loop: str, tmp_path: Path
) -> None:
    known = authority.client()
    cert, key = authority.make("client", subject='/C=DE/O=A, "B" \\+ C/OU=h\u00e4ft/CN=ted ')
    known.load_cert_chain(cert, key)
    options = {"ssl_ca_certs": str(authority.cert), "ssl_cert_reqs": "optional", "loop": loop, **local}
    app = App()
    app.add_route("/", index)
    with live_server(app, **options) as url:
        for _ in range(2):  # the second is a session resumed, perhaps
            with tls(url, known) as sock:
                told = json.loads(get(sock))["certificate"]
                assert [["commonName", "ted "]] in told["subject"] and [["countryName", "DE"]] in told["subject"]
                assert told == json.loads(get(sock))["certificate"]
        with tls(url, authority.client()) as sock:
            assert json.loads(get(sock)) == {"certificate": None}
    with live_server(environ_of, **options) as url:
        with tls(url, known) as sock:
            told = json.loads(get(sock))
            assert told == json.loads(get(sock))
        with tls(url, authority.client()) as sock:
            assert get(sock) == b"{}"
    assert told.pop("SSL_CLIENT_CERT").split() == CERTIFICATE.search(Path(cert).read_text())[0].split()  # type: ignore[index]
    assert told["SSL_CLIENT_VERIFY"] == "SUCCESS" and told["SSL_CLIENT_S_DN_CN"] == "ted "
    text = told["SSL_CLIENT_S_DN"].encode("latin-1").decode()
    assert text == 'CN=ted\\ ,OU=h\u00e4ft,O=A\\, \\"B\\" \\+ C,C=DE'
    assert told["SSL_CLIENT_I_DN"] == "CN=an authority for tests"
    assert told["SSL_CLIENT_V_END"].endswith("GMT") and int(told["SSL_CLIENT_M_SERIAL"], 16)


def test_without_tls_there_is_no_certificate() -> None:
    app = App()
    app.add_route("/", index)
    with live_server(app) as url:
        assert httpx.get(url).json() == {"certificate": None}


# ------------------------------------------------------------------------------- the PROXY protocol before the handshake


V2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c" + bytes((203, 0, 113, 7, 192, 0, 2, 1, 0x12, 0x67, 1, 0xBB))
INTRODUCTIONS = {
    "v1": (b"PROXY TCP4 203.0.113.7 192.0.2.1 4711 443\r\n", "203.0.113.7"),
    "v1 IPv6": (b"PROXY TCP6 2001:db8::7 2001:db8::1 4711 443\r\n", "2001:db8::7"),
    "v1 UNKNOWN": (b"PROXY UNKNOWN\r\n", "127.0.0.1"),
    "v2": (V2, "203.0.113.7"),
    "v2 LOCAL": (V2[:12] + b"\x20\0\0\0", "127.0.0.1"),
}


async def who(request: Request) -> str:
    assert request.client is not None
    return f"{request.client.host} {request.scheme}"


@contextlib.contextmanager
def introduced(url: str, context: ssl.SSLContext, *pieces: bytes) -> Iterator[ssl.SSLSocket]:
    """A client behind a proxy that says these bytes first, each in a packet of its own, and the handshake right behind."""
    with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), 20) as plain:
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for number, piece in enumerate(pieces):
            if number:
                time.sleep(0.002)
            plain.sendall(piece)
        with context.wrap_socket(plain, server_hostname="localhost") as sock:
            yield sock


@LOOPS
def test_the_proxy_protocol_before_the_handshake(authority: Authority, local: dict[str, str], loop: str) -> None:
    app = App()
    app.add_route("/", who)
    context = authority.client()
    with live_server(app, proxy_protocol=True, loop=loop, timeout_tls_handshake=2.0, **local) as url:
        port = int(url.rpartition(":")[2])
        for what, (header, client) in INTRODUCTIONS.items():
            for pieces in ([header], [header[:5], header[5:]], [header[i : i + 1] for i in range(len(header))]):
                with introduced(url, context, *pieces) as sock:
                    for _ in range(2):
                        assert get(sock) == f"{client} https".encode(), what
        for wrong in (
            b"",
            b"GET / HTTP/1.1\r\n\r\n",
            b"PROXY TCP4 203.0.113.7\r\n",
            b"PROXY " + b"x" * 200,
            V2[:12] + bytes(4),
        ):
            with socket.create_connection(("127.0.0.1", port), 20) as sock:
                sock.sendall(wrong + b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03" + bytes(1024))  # as a handshake begins
                with contextlib.suppress(ConnectionResetError):
                    assert sock.recv(1) == b"", wrong
        for silent in (b"", b"PROXY TCP4 203", V2[:14], V2[:20]):  # the time for the handshake is the time for both
            with socket.create_connection(("127.0.0.1", port), 20) as sock:
                sock.sendall(silent)
                assert sock.recv(1) == b""
        with introduced(url, context, V2) as sock:  # and it serves on
            assert get(sock) == b"203.0.113.7 https"


@LOOPS
def test_nobody_else_introduces_a_client(authority: Authority, local: dict[str, str], loop: str) -> None:
    app = App()
    app.add_route("/", who)
    context = authority.client()
    with live_server(app, proxy_protocol=True, forwarded_allow_ips="10.0.0.0/8", loop=loop, **local) as url:
        with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), 20) as sock:
            sock.sendall(V2)
            with contextlib.suppress(ConnectionResetError):
                assert sock.recv(1) in (b"", b"\x15")  # the end, perhaps behind an alert: it is no handshake
        with tls(url, context) as sock:
            assert get(sock) == b"127.0.0.1 https"


def test_a_proxy_is_not_counted_as_one_peer(authority: Authority, local: dict[str, str]) -> None:
    app = App()
    app.add_route("/", who)
    context = authority.client()
    with (
        live_server(app, proxy_protocol=True, limit_connections_per_peer=1, **local) as url,
        introduced(url, context, V2) as first,
        introduced(url, context, V2) as second,
    ):
        assert get(first) == get(second) == b"203.0.113.7 https"


# ------------------------------------------------------------------------------------------------ which certificate


@LOOPS
def test_the_name_chooses_the_certificate(authority: Authority, loop: str) -> None:
    pairs = [
        authority.make("first", "first.example", "www.first.example"),
        authority.make("second", "second.example", "*.second.example"),
        authority.make("only-cn.example"),
    ]
    options = {"ssl_certfile": [cert for cert, _ in pairs], "ssl_keyfile": [key for _, key in pairs]}
    context = authority.client(check_hostname=False)
    with live_server(make_app(), loop=loop, **options) as url:
        for name, expected in (
            ("first.example", "first.example"),
            ("WWW.first.example", "first.example"),
            ("second.example", "second.example"),
            ("a.second.example", "second.example"),
            ("b.a.second.example", "first.example"),
            ("unknown.example", "first.example"),
            (None, "first.example"),
        ):
            with tls(url, context, name) as sock:  # type: ignore[arg-type]
                assert names_of(sock)[0] == expected, name
                assert get(sock) == b"https https"
        with tls(url, context, "only-cn.example") as sock:
            assert "subjectAltName" not in (sock.getpeercert() or {})


# ------------------------------------------------------------------------------------- certificates that are renewed


def replace(target: dict[str, str], pair: tuple[str, str]) -> None:
    """As certbot does: each file is replaced at once, the two one after the other."""
    for path, source in zip((target["ssl_certfile"], target["ssl_keyfile"]), pair, strict=True):
        Path(path + ".new").write_bytes(Path(source).read_bytes())
        os.replace(path + ".new", path)


@pytest.fixture
def files(authority: Authority, tmp_path: Path) -> dict[str, str]:
    found = {"ssl_certfile": str(tmp_path / "live.pem"), "ssl_keyfile": str(tmp_path / "live.key")}
    replace(found, authority.make("old", "localhost", "old.example"))
    return found


def served(port: int | str, authority: Authority) -> str:
    with tls(port, authority.client()) as sock:
        return names_of(sock)[1]


@LOOPS
def test_new_files_are_used_and_connections_stay(authority: Authority, files: dict[str, str], loop: str) -> None:
    with live_server(make_app(), loop=loop, **files) as url, tls(url, authority.client()) as kept:
        assert get(kept) == b"https https" and served(url, authority) == "old.example"
        replace(files, authority.make("new", "localhost", "new.example"))
        until(lambda: served(url, authority) == "new.example", "the new certificate")
        assert get(kept) == b"https https" and names_of(kept)[1] == "old.example"


def test_files_that_cannot_be_used_change_nothing(
    authority: Authority, files: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    with live_server(make_app(), **files) as url:
        Path(files["ssl_keyfile"]).write_text("half a ke")
        until(lambda: "the old ones stay" in caplog.text, "the message")
        assert served(url, authority) == "old.example"
        replace(files, authority.make("again", "localhost", "again.example"))
        until(lambda: served(url, authority) == "again.example", "the new certificate")
    assert caplog.text.count("the old ones stay") == 1


def arguments(files: dict[str, str]) -> tuple[str, ...]:
    return ("--certfile", files["ssl_certfile"], "--keyfile", files["ssl_keyfile"])


def test_hup_of_a_single_process(authority: Authority, files: dict[str, str], tmp_path: Path) -> None:
    with Running(*APP, *arguments(files), cwd=tmp_path).ready() as running:
        assert "listening    https://127.0.0.1" in running.err
        with tls(running.port, authority.client()) as kept:
            assert get(kept)
            replace(files, authority.make("hup", "localhost", "hup.example"))
            running.signal(signal.SIGHUP)
            until(lambda: served(running.port, authority) == "hup.example", "the new certificate")
            assert get(kept)
        assert running.stop() == 0
        assert "Traceback" not in running.err


@pytest.mark.parametrize("preload", [(), ("--preload",)], ids=["forked", "preload"])
def test_several_workers(authority: Authority, files: dict[str, str], tmp_path: Path, preload: tuple[str, ...]) -> None:
    """A change reaches every worker, none is replaced, no connection ends; HUP replaces them and reads too."""
    with Running(*APP, *arguments(files), "-w", "2", *preload, cwd=tmp_path).ready() as running:
        workers = running.workers

        def each() -> set[str]:
            return {served(running.port, authority) for _ in range(12)}

        assert each() == {"old.example"}
        with tls(running.port, authority.client()) as kept:
            assert get(kept)
            replace(files, authority.make("new", "localhost", "new.example"))
            until(lambda: each() == {"new.example"}, "the new certificate everywhere", 20)
            assert get(kept)
        assert "retiring" not in running.err and all(os.path.exists(f"/proc/{pid}") for pid in workers)
        os.kill(workers[0], signal.SIGKILL)  # its successor has it too
        until(lambda: not os.path.exists(f"/proc/{workers[0]}"), "the end of the worker")
        time.sleep(0.3)
        assert each() == {"new.example"}
        replace(files, authority.make("third", "localhost", "third.example"))
        running.signal(signal.SIGHUP)
        running.wait_for("reloaded, generation 2", 20)
        until(lambda: each() == {"third.example"}, "the last old worker has heard that it retires")
        Path(files["ssl_certfile"]).write_text("nothing")
        running.signal(signal.SIGHUP)
        running.wait_for("the old one stays: ssl-certfile: there is no certificate in")
        assert each() == {"third.example"}
        assert running.stop() == 0
        assert "Traceback" not in running.err


def test_a_worker_that_may_not_read_the_key(authority: Authority, files: dict[str, str]) -> None:
    """It has what was read before it gave up its privileges, and what it is told; it cannot read the files itself."""
    found = Certificates(Config(app=None, **files))
    for path in files.values():
        os.chmod(path, 0o600)
    cert, key = authority.make("told", "localhost", "told.example")
    told = [[Path(cert).read_text(), Path(key).read_text()]]

    def nobody() -> list[object]:
        if os.geteuid() == 0:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
        else:
            os.unlink(files["ssl_keyfile"])
        reread = found.reread()
        before = str(found)
        found.adopt(told)
        return [reread, before.split(",")[0], str(found).split(",")[0], found.context.cert_store_stats()["x509"]]

    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(write, json.dumps(nobody()).encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        said = json.loads(pipe.read())
    os.waitpid(pid, 0)
    assert said == [False, "localhost old.example", "localhost told.example", 0]


def test_sessions_are_resumed_by_any_worker(authority: Authority, files: dict[str, str], tmp_path: Path) -> None:
    """The keys of the tickets are made before the fork."""
    context = authority.client(maximum_version=ssl.TLSVersion.TLSv1_2)
    with Running(*APP, *arguments(files), "-w", "2", cwd=tmp_path).ready() as running:
        session, resumed = None, []
        for _ in range(16):
            with socket.create_connection(("127.0.0.1", running.port), 20) as plain:
                sock = context.wrap_socket(plain, server_hostname="localhost", session=session)
                assert get(sock)
                resumed.append(sock.session_reused)
                session = session or sock.session
                sock.close()
        assert resumed[0] is False and all(resumed[1:])
        assert running.stop() == 0


def test_a_full_handshake_and_a_resumed_one_bring_one_ticket_each(authority: Authority, local: dict[str, str]) -> None:
    context = authority.client(minimum_version=ssl.TLSVersion.TLSv1_3)
    tickets: list[str] = []

    def note(_sock: Any, direction: str, _version: Any, _kind: Any, message: Any, _data: bytes) -> None:
        if getattr(message, "name", "") == "NEWSESSION_TICKET":
            tickets.append(direction)

    context._msg_callback = note  # type: ignore[attr-defined]
    session = None
    with live_server(make_app(), **local) as url:
        for number in (1, 2, 3):
            with (
                socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), 20) as plain,
                context.wrap_socket(plain, server_hostname="localhost", session=session) as sock,
            ):
                assert get(sock)
                assert (tickets, sock.session_reused) == (["read"] * number, number > 1)
                session = sock.session


SUITES = ["ECDHE-ECDSA-AES256-GCM-SHA384", "ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-ECDSA-CHACHA20-POLY1305"]


@pytest.mark.parametrize("first", SUITES)
def test_the_client_says_which_cipher_it_prefers(authority: Authority, local: dict[str, str], first: str) -> None:
    """Unless there is a list of ours, which is in the order that we prefer."""
    context = authority.client(maximum_version=ssl.TLSVersion.TLSv1_2)
    context.set_ciphers(":".join([first, *SUITES]))
    with live_server(make_app(), **local) as url, tls(url, context) as sock:
        assert sock.cipher()[0] == first  # type: ignore[index]
    with live_server(make_app(), **local, ssl_ciphers=f"{SUITES[1]}:{SUITES[0]}") as url, tls(url, context) as sock:
        assert sock.cipher()[0] == SUITES[1]  # type: ignore[index]


@pytest.mark.parametrize("suite", ["TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384"])
def test_the_client_says_which_cipher_it_prefers_in_tls_1_3(local: dict[str, str], suite: str) -> None:
    """Its suites are no business of `ssl`: openssl's client is asked."""
    suites = f"{suite}:TLS_AES_256_GCM_SHA384:TLS_AES_128_GCM_SHA256"
    with live_server(make_app(), **local) as url:
        where = url.rpartition("/")[2]
        said = openssl("s_client", "-connect", where, "-tls1_3", "-ciphersuites", suites)
        assert f"Cipher is {suite}" in said


# ----------------------------------------------------------------------------------------------- clients that do ill


@LOOPS
def test_clients_that_do_not_shake_hands(authority: Authority, local: dict[str, str], loop: str) -> None:
    with live_server(make_app(), loop=loop, timeout_tls_handshake=0.4, **local) as url:
        port = int(url.rpartition(":")[2])
        for said in (
            b"",
            b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
            os.urandom(999),
        ):
            with socket.create_connection(("127.0.0.1", port), 20) as sock:
                sock.sendall(said)
                with contextlib.suppress(ConnectionResetError):
                    while data := sock.recv(4096):
                        assert not data.startswith(b"HTTP")
        assert httpx.get(url, verify=authority.client()).status_code == 200


@LOOPS
def test_handshakes_count_as_connections(authority: Authority, local: dict[str, str], loop: str) -> None:
    """Silent clients take the places that --limit-connections has, until their time is up; then others have their turn."""
    options = {"timeout_tls_handshake": 1.0, "limit_connections": 2, **local}
    with live_server(make_app(), loop=loop, **options) as url, contextlib.ExitStack() as stack:
        begin = time.monotonic()
        for _ in range(2):
            stack.enter_context(socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), 20))
        time.sleep(0.1)
        for _ in range(2):
            sock = stack.enter_context(tls(url, authority.client()))
            assert get(sock) == b"https https"
        assert time.monotonic() - begin > 0.8
        assert httpx.get(url, verify=authority.client()).text == "https https"  # an idle one gives way


@LOOPS
def test_the_stop_does_not_wait_for_a_handshake(local: dict[str, str], loop: str) -> None:
    with contextlib.ExitStack() as stack:
        with live_server(make_app(), loop=loop, timeout_tls_handshake=60, **local) as url:
            for _ in range(3):
                stack.enter_context(socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), 20))
            time.sleep(0.2)
            begin = time.monotonic()
        assert time.monotonic() - begin < 4


@LOOPS
def test_the_stop_does_not_wait_for_idle_clients(authority: Authority, local: dict[str, str], loop: str) -> None:
    """They are told (close_notify), and need not answer."""
    with contextlib.ExitStack() as stack:
        with live_server(make_app(), loop=loop, **local) as url:
            idle = [stack.enter_context(tls(url, authority.client(), "localhost")) for _ in range(3)]
            assert all(get(sock) for sock in idle)
            begin = time.monotonic()
        assert time.monotonic() - begin < 3
        for sock in idle:
            sock.settimeout(20)
            sock.suppress_ragged_eofs = False  # an end without close_notify would be an error
            assert sock.recv(100) == b""


@LOOPS
def test_a_slow_reader_gets_all_of_a_last_answer(authority: Authority, local: dict[str, str], loop: str) -> None:
    """The deadline for the end of TLS does not run while the answer is on its way."""
    with (
        live_server(make_app(), loop=loop, timeout_linger=0.3, **local) as url,
        tls(url, authority.client()) as sock,
    ):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
        sock.sendall(b"GET /large HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        data, begin = b"", time.monotonic()
        while piece := sock.recv(65536):
            data += piece
            if time.monotonic() - begin < 1.5:
                time.sleep(0.02)
        assert len(data.partition(b"\r\n\r\n")[2]) == 5 << 20


@LOOPS
def test_a_client_that_does_not_end_is_cut(authority: Authority, local: dict[str, str], loop: str) -> None:
    with (
        live_server(make_app(), loop=loop, timeout_linger=0.3, **local) as url,
        tls(url, authority.client()) as sock,
    ):
        sock.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        with socket.socket(fileno=os.dup(sock.fileno())) as plain:  # the bytes, and no answer to close_notify
            plain.settimeout(20)
            with contextlib.suppress(ConnectionResetError):
                while plain.recv(65536):
                    pass


@LOOPS
def test_a_request_in_hand_is_finished_by_the_stop(authority: Authority, local: dict[str, str], loop: str) -> None:
    with contextlib.ExitStack() as stack:
        with live_server(make_app(), loop=loop, **local) as url:
            sock = stack.enter_context(tls(url, authority.client()))
            assert get(sock)
            sock.sendall(b"GET /slow HTTP/1.1\r\nHost: localhost\r\n\r\n")
            time.sleep(0.1)
        answer = b""
        while piece := sock.recv(4096):
            answer += piece
        assert b"connection: close" in answer and answer.endswith(b"slow")


# ---------------------------------------------------------------------------------------------------------- mistakes


def mistakes(authority: Authority, local: dict[str, str], folder: Path) -> list[tuple[dict[str, Any], str]]:
    cert, key = local["ssl_certfile"], local["ssl_keyfile"]
    other = authority.make("other", "other.example")
    hidden = authority.make("hidden", "localhost", password="secret")
    nothing = folder / "nothing.pem"
    nothing.write_text("nothing")
    broken = folder / "broken.key"
    broken.write_text("-----BEGIN PRIVATE KEY-----\nbm9uc2Vuc2U=\n-----END PRIVATE KEY-----\n")
    nowhere = str(folder / "nowhere.pem")
    both = {"ssl_certfile": cert, "ssl_keyfile": key}
    encrypted = {"ssl_certfile": hidden[0], "ssl_keyfile": hidden[1]}
    return [
        ({"ssl_certfile": nowhere}, f"ssl-certfile: cannot read {nowhere}: No such file or directory"),
        (
            {"ssl_certfile": cert, "ssl_keyfile": nowhere},
            f"ssl-keyfile: cannot read {nowhere}: No such file or directory",
        ),
        ({"ssl_certfile": str(folder)}, f"ssl-certfile: cannot read {folder}: Is a directory"),
        ({"ssl_certfile": str(nothing)}, f"ssl-certfile: there is no certificate in {nothing} (it should be PEM)"),
        ({"ssl_certfile": cert}, f"ssl-keyfile: there is no private key in {cert}: give --ssl-keyfile"),
        ({"ssl_certfile": cert, "ssl_keyfile": str(nothing)}, f"ssl-keyfile: there is no private key in {nothing}"),
        ({"ssl_certfile": cert, "ssl_keyfile": other[1]}, f"ssl-keyfile: {other[1]} is not the key of {cert}"),
        ({"ssl_certfile": cert, "ssl_keyfile": str(broken)}, f"ssl-certfile: {cert} and {broken} cannot be used"),
        (encrypted, f"ssl-keyfile: {hidden[1]} is encrypted: give --ssl-keyfile-password"),
        ({**encrypted, "ssl_keyfile_password": "x"}, f"ssl-keyfile-password: it does not open {hidden[1]}"),
        ({**both, "ssl_ciphers": "NONSENSE"}, "ssl-ciphers: OpenSSL knows no cipher of 'NONSENSE'"),
        ({**both, "ssl_ca_certs": str(nothing)}, f"ssl-ca-certs: no certificates in {nothing}"),
        (
            {**both, "ssl_cert_reqs": "required"},
            "ssl-cert-reqs needs ssl-ca-certs: whose client certificates are good?",
        ),
        ({"ssl_keyfile": key}, "ssl-keyfile needs ssl-certfile"),
        ({"ssl_ca_certs": cert}, "ssl-ca-certs needs ssl-certfile"),
        ({"ssl_certfile": [cert, cert], "ssl_keyfile": key}, "ssl-keyfile is given 1 times, ssl-certfile 2 times"),
        ({**both, "ssl_version": 3}, "ssl-version must be 17, 2 or 5, not 3; see ssl-protocol-min"),
        ({**both, "ssl_version": 5, "ssl_protocol_min": "tls1.3"}, "ssl-version 5 is TLS 1.2"),
        ({**both, "ssl_protocol_min": "tls1.1"}, "ssl-protocol-min must be one of tls1.2, tls1.3"),
    ]


def test_mistakes_are_one_line(authority: Authority, local: dict[str, str], tmp_path: Path) -> None:
    for options, expected in mistakes(authority, local, tmp_path):
        with pytest.raises(ConfigError) as found:
            Certificates(Config(app=None, **options))
        assert str(found.value).startswith(expected), str(found.value)
        assert "\n" not in str(found.value)


@pytest.mark.parametrize("more", [(), ("-w", "2"), ("--check-config",)], ids=["alone", "workers", "check"])
def test_a_start_with_a_bad_key_fails_in_one_line(
    authority: Authority, local: dict[str, str], tmp_path: Path, more: tuple[str, ...]
) -> None:
    _, key = authority.make("other", "other.example")
    running = Running(*APP, "--certfile", local["ssl_certfile"], "--keyfile", key, *more, cwd=tmp_path)
    with running:
        assert running.wait() == 3
    assert running.err == f"fastserve: error: ssl-keyfile: {key} is not the key of {local['ssl_certfile']}"


def test_an_encrypted_key_and_one_file_for_both(authority: Authority, tmp_path: Path) -> None:
    cert, key = authority.make("hidden", "localhost", password="secret")
    both = tmp_path / "both.pem"
    both.write_text(Path(cert).read_text() + Path(key).read_text())
    for options in ({"ssl_certfile": cert, "ssl_keyfile": key}, {"ssl_certfile": str(both)}):
        with live_server(make_app(), ssl_keyfile_password="secret", **options) as url:
            local_url = url.replace("127.0.0.1", "localhost")
            assert httpx.get(local_url, verify=authority.client()).text == "https https"


def test_a_certificate_that_ends_is_warned_of(
    authority: Authority, local: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    cert, key = authority.make("brief", "brief.example", days=3)
    found = Certificates(
        Config(app=None, ssl_certfile=[cert, local["ssl_certfile"]], ssl_keyfile=[key, local["ssl_keyfile"]])
    )
    (message,) = [record.getMessage() for record in caplog.records]
    assert message.startswith("the certificate of brief.example ends on 20")
    assert str(found).startswith("brief.example, until 20") and "; localhost, until 20" in str(found)


def test_spellings_of_others() -> None:
    """uvicorn's, and gunicorn's and granian's aliases."""
    words = ["--certfile", "a", "--keyfile", "b", "--ca-certs", "c", "--cert-reqs", "2", "--ciphers", "d"]
    others = [word if len(word) == 1 else f"--ssl-{word.removeprefix('--')}" for word in words]
    assert parse(words) == parse(others)
    assert parse(["--ssl-certificate", "a", "--ssl-certfile", "b"])["ssl_certfile"] == ("a", "b")
    config = Config(app=None, **{k: v for k, v in parse(others).items() if k.startswith("ssl_")})
    assert (config.tls, config.ssl_cert_reqs, config.ssl_version) == (True, "2", 17)
