"""Who the client is, by X-Forwarded-*, Forwarded and the PROXY protocol: all interfaces, trusted and untrusted peers."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import re
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from fastserve import App, Request
from fastserve.errors import ConfigError
from fastserve.process.config import Config
from fastserve.protocol import Trust
from fastserve.testing import live_server

ALL = ("x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-forwarded-port", "x-forwarded-prefix")


def native() -> Any:
    app = App()

    @app.get("/{rest:path}")
    async def tell(request: Request, rest: str) -> dict[str, Any]:
        client = request.client
        return {
            "client": list(client) if client else None,
            "scheme": request.scheme,
            "host": request.headers.get("host"),
            "url": str(request.url),
        }

    return app


async def asgi(scope: Any, receive: Any, send: Any) -> None:
    assert scope["type"] == "http"
    headers = dict(scope["headers"])
    told = {
        "client": list(scope["client"]) if scope["client"] else None,
        "scheme": scope["scheme"],
        "host": headers.get(b"host", b"").decode(),
        "root": scope["root_path"],
        "path": scope["path"],
    }
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": json.dumps(told).encode()})


def wsgi(environ: Any, start_response: Any) -> list[bytes]:
    told = {
        "client": [environ["REMOTE_ADDR"], int(environ.get("REMOTE_PORT") or 0)] if environ["REMOTE_ADDR"] else None,
        "scheme": environ["wsgi.url_scheme"],
        "host": environ["HTTP_HOST"],
        "root": environ["SCRIPT_NAME"],
        "path": environ["SCRIPT_NAME"] + environ["PATH_INFO"],
    }
    start_response("200 OK", [])
    return [json.dumps(told).encode()]


MAKERS = {"native": native, "asgi": lambda: asgi, "wsgi": lambda: wsgi}


@pytest.fixture(params=list(MAKERS))
def maker(request: pytest.FixtureRequest) -> Any:
    return MAKERS[request.param]


@contextlib.contextmanager
def serving(app: Any, **options: Any) -> Iterator[str]:
    lifespan = {"lifespan": "off"} if app is asgi else {}
    with live_server(app, **lifespan, **options) as url:
        yield url


def told(url: str, *headers: tuple[str, str], path: str = "/") -> dict[str, Any]:
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=20)
    with contextlib.closing(connection):
        connection.putrequest("GET", path, skip_host=True, skip_accept_encoding=True)
        for name, value in (("host", "inner"), *headers):
            connection.putheader(name, value)
        connection.endheaders()
        answer = connection.getresponse()
        body = answer.read()
        assert answer.status == 200, body
        return dict(json.loads(body))


# ------------------------------------------------------------------------------------------------ X-Forwarded-For


FOR = [
    # (values of X-Forwarded-For, who the client is; None: the peer). Trusted: 127.0.0.1 and 10.0.0.0/8.
    (["203.0.113.7"], "203.0.113.7"),
    (["203.0.113.7:4711"], "203.0.113.7:4711"),
    (["2001:db8::7"], "2001:db8::7"),
    (["[2001:db8::7]:4711"], "2001:db8::7:4711"),
    (["[2001:db8::7]"], "2001:db8::7"),
    (["198.51.100.1, 203.0.113.7"], "203.0.113.7"),  # what stands before an untrusted address, anybody wrote
    (["198.51.100.1, 203.0.113.7, 10.1.2.3"], "203.0.113.7"),
    (["198.51.100.1,203.0.113.7 ,\t10.1.2.3 , 10.9.9.9"], "203.0.113.7"),
    (["198.51.100.1", "203.0.113.7", "10.1.2.3"], "203.0.113.7"),  # several fields are one list
    (["10.1.1.1, 10.2.2.2"], "10.1.1.1"),  # trusted all: the farthest
    (["::ffff:10.1.1.1, 203.0.113.7, ::ffff:10.2.2.2"], "203.0.113.7"),  # an IPv4 address by its other name
    (["203.0.113.7, unknown"], None),
    (["203.0.113.7, unknown, 10.1.1.1"], "10.1.1.1"),
    (["203.0.113.7, _hidden, 10.1.1.1"], "10.1.1.1"),
    (["203.0.113.7,"], None),
    ([""], None),
    ([","], None),
    (["localhost"], None),
    (["1.2.3.4.5"], None),
    (["203.0.113.7:"], None),
    (["203.0.113.7:70000"], None),
    (["[203.0.113.7]"], None),
    (["203.0.113.07"], None),
    (["<script>"], None),
]


@pytest.mark.parametrize("values, client", FOR, ids=[" | ".join(values) or "empty" for values, _ in FOR])
def test_the_right_most_untrusted_address(
    trusting: dict[str, str], interface: str, values: list[str], client: str | None
) -> None:
    found = told(trusting[interface], *(("x-forwarded-for", value) for value in values))["client"]
    if client is None:
        assert found[0] == "127.0.0.1" and found[1] > 0
        return
    host, _, port = client.rpartition(":") if client.endswith(":4711") else (client, "", "0")
    assert found == [host, int(port)]


@pytest.fixture(scope="module")
def trusting() -> Iterator[dict[str, str]]:
    options: dict[str, Any] = {"forwarded_allow_ips": "127.0.0.1, 10.0.0.0/8", "forwarded_fields": ALL}
    with contextlib.ExitStack() as stack:
        yield {name: stack.enter_context(serving(make(), **options)) for name, make in MAKERS.items()}


@pytest.fixture(params=list(MAKERS))
def interface(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_a_long_list_is_not_walked_for_ever(trusting: dict[str, str], interface: str) -> None:
    found = told(trusting[interface], *(("x-forwarded-for", ",".join(["10.1.1.1"] * 700)) for _ in range(8)))
    assert found["client"] == ["10.1.1.1", 0]


# ------------------------------------------------------------------------------- scheme, host, port and prefix


FIELDS = [
    ({"proto": "https"}, {"scheme": "https", "host": "inner"}),
    ({"proto": "HTTPS"}, {"scheme": "https"}),
    ({"proto": "wss"}, {"scheme": "https"}),
    ({"proto": "http"}, {"scheme": "http"}),
    ({"proto": "javascript"}, {"scheme": "http"}),
    ({"proto": "http, https"}, {"scheme": "https"}),  # the last is our proxy's word
    ({"for": "203.0.113.7, 10.1.1.1", "proto": "https, http"}, {"scheme": "https"}),  # one for each hop: the client's
    ({"host": "shop.example"}, {"host": "shop.example"}),
    ({"host": "shop.example:8443"}, {"host": "shop.example:8443"}),
    ({"host": "evil.example/<script>"}, {"host": "inner"}),
    ({"host": "a b"}, {"host": "inner"}),
    ({"host": ""}, {"host": "inner"}),
    ({"port": "8443", "proto": "https"}, {"host": "inner:8443"}),
    ({"port": "443", "proto": "https"}, {"host": "inner"}),
    ({"port": "443"}, {"host": "inner:443"}),
    ({"host": "shop.example:1", "port": "8080"}, {"host": "shop.example:8080"}),
    ({"host": "[::1]", "port": "8080"}, {"host": "[::1]:8080"}),
    ({"port": "0"}, {"host": "inner"}),
    ({"port": "99999"}, {"host": "inner"}),
    ({"port": "x"}, {"host": "inner"}),
    ({"prefix": "/shop"}, {"root": "/shop", "path": "/shop/a"}),
    ({"prefix": "/shop/"}, {"root": "/shop", "path": "/shop/a"}),
    ({"prefix": "/a/b"}, {"root": "/a/b"}),
    ({"prefix": "//evil.example"}, {"root": "", "path": "/a"}),
    ({"prefix": "shop"}, {"root": ""}),
    ({"prefix": "/a?b"}, {"root": ""}),
    ({"prefix": "/"}, {"root": ""}),
]


@pytest.mark.parametrize("said, wanted", FIELDS, ids=[json.dumps(said) for said, _ in FIELDS])
def test_what_else_a_proxy_says(
    trusting: dict[str, str], interface: str, said: dict[str, str], wanted: dict[str, str]
) -> None:
    found = told(trusting[interface], *((f"x-forwarded-{name}", value) for name, value in said.items()), path="/a")
    assert {name: found[name] for name in wanted if name in found} == {
        name: value for name, value in wanted.items() if name in found
    }
    if "url" in found:
        assert found["url"] == f"{found['scheme']}://{found['host']}/a"


# --------------------------------------------------------------------------------------------------- Forwarded


FORWARDED = [
    (["for=203.0.113.7"], ("203.0.113.7", 0), {}),
    (['for="203.0.113.7:4711"'], ("203.0.113.7", 4711), {}),
    (['For="[2001:db8::7]:4711";proto=https;host=shop.example'], ("2001:db8::7", 4711),
     {"scheme": "https", "host": "shop.example"}),
    (["for=198.51.100.1;proto=http, for=203.0.113.7;proto=https, for=10.1.1.1;proto=http"], ("203.0.113.7", 0),
     {"scheme": "https"}),
    (["for=203.0.113.7;proto=https", "for=10.1.1.1;by=10.2.2.2"], ("203.0.113.7", 0), {"scheme": "https"}),
    (['for="203.0.113.7:_port"'], ("203.0.113.7", 0), {}),
    (["for=unknown"], None, {}),
    (["for=_hidden;proto=https"], None, {"scheme": "https"}),
    (['for="a,b\\"c";proto=https'], None, {"scheme": "https"}),
    (["for=203.0.113.7;for=203.0.113.8"], None, {}),
    (["for=203.0.113.7; proto = https"], None, {"scheme": "http"}),
    (['for="203.0.113.7'], None, {}),
    (["for"], None, {}),
    (["=;;,"], None, {}),
    (["for=203.0.113.7;host=\"a b\""], ("203.0.113.7", 0), {"host": "inner"}),
]  # fmt: skip


@pytest.mark.parametrize("values, client, wanted", FORWARDED, ids=[" | ".join(values) for values, _, _ in FORWARDED])
def test_rfc_7239(
    standard: dict[str, str], interface: str, values: list[str], client: Any, wanted: dict[str, str]
) -> None:
    found = told(standard[interface], ("x-forwarded-for", "9.9.9.9"), *(("forwarded", value) for value in values))
    assert found["client"] == list(client) if client else found["client"][0] == "127.0.0.1"
    assert {name: found[name] for name in wanted} == wanted


@pytest.fixture(scope="module")
def standard() -> Iterator[dict[str, str]]:
    options: dict[str, Any] = {"forwarded_allow_ips": "127.0.0.1,10.0.0.0/8", "forwarded_fields": "forwarded"}
    with contextlib.ExitStack() as stack:
        yield {name: stack.enter_context(serving(make(), **options)) for name, make in MAKERS.items()}


# ------------------------------------------------------------------------------------------------ who is believed


SPOOF = (
    ("x-forwarded-for", "203.0.113.7"),
    ("x-forwarded-proto", "https"),
    ("x-forwarded-host", "evil.example"),
    ("x-forwarded-port", "1"),
    ("x-forwarded-prefix", "/evil"),
    ("forwarded", "for=203.0.113.7;proto=https;host=evil.example"),
)


@pytest.mark.parametrize(
    "options",
    [{"proxy_headers": False}, {"forwarded_allow_ips": "10.0.0.0/8,::1"}, {"forwarded_allow_ips": "unix"},
     {"forwarded_allow_ips": ()}],
    ids=["switched off", "another network", "another family", "nobody"],
)  # fmt: skip
def test_nobody_else_is_believed(maker: Any, options: dict[str, Any]) -> None:
    with serving(maker(), forwarded_fields=ALL, **options) as url:
        found = told(url, *SPOOF)
    assert found["client"][0] == "127.0.0.1" and found["scheme"] == "http" and found["host"] == "inner"
    assert not found.get("root")


def test_by_default_only_what_every_proxy_sets(maker: Any) -> None:
    """A proxy passes on what it does not know: Host, Port, Prefix and Forwarded could be the client's own."""
    with serving(maker()) as url:
        found = told(url, *SPOOF)
    assert found["client"] == ["203.0.113.7", 0] and found["scheme"] == "https"
    assert found["host"] == "inner" and not found.get("root")


def test_every_request_of_a_connection_has_its_own_client(maker: Any) -> None:
    with serving(maker()) as url, httpx.Client(base_url=url, headers={"host": "inner"}) as client:
        for n in range(1, 4):
            assert (
                client.get("/", headers={"x-forwarded-for": f"203.0.113.{n}"}).json()["client"][0] == f"203.0.113.{n}"
            )
            assert client.get("/").json()["client"][0] == "127.0.0.1"


def test_a_unix_socket(maker: Any, tmp_path: Path) -> None:
    for allowed, client in (("unix", ["203.0.113.7", 0]), ("127.0.0.1", None)):
        path = tmp_path / allowed
        transport = httpx.HTTPTransport(uds=str(path))
        with (
            serving(maker(), uds=str(path), forwarded_allow_ips=allowed),
            httpx.Client(transport=transport, base_url="http://inner") as unix,
        ):
            assert unix.get("/", headers={"x-forwarded-for": "203.0.113.7"}).json()["client"] == client


def test_the_access_log_names_the_client(maker: Any, capfd: pytest.CaptureFixture[str]) -> None:
    with serving(maker(), access_log=True) as url:
        told(url, ("x-forwarded-for", "203.0.113.7:99"))
        told(url)
    first, second = capfd.readouterr().out.splitlines()
    assert first.startswith('203.0.113.7:99 - "GET / ') and second.startswith("127.0.0.1:")


# -------------------------------------------------------------------------------------------- the id of a request


def ids(kind: str) -> Any:
    """An application that answers with what it finds of the request's id, by interface."""
    if kind == "native":
        app = App()

        @app.get("/")
        async def tell(request: Request) -> list[str]:
            await asyncio.sleep(0)  # the read is over
            return [request.id]

        return app
    if kind == "wsgi":

        def wsgi_ids(environ: Any, start_response: Any) -> list[bytes]:
            start_response("200 OK", [])
            return [json.dumps([value for name, value in environ.items() if "REQUEST_ID" in name]).encode()]

        return wsgi_ids

    async def asgi_ids(scope: Any, receive: Any, send: Any) -> None:
        found = [value.decode() for name, value in scope["headers"] if name.endswith(b"request-id")]
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": json.dumps(found).encode()})

    return asgi_ids


@pytest.fixture(params=list(MAKERS))
def ask_id(request: pytest.FixtureRequest, capfd: pytest.CaptureFixture[str]) -> Any:
    """Ask an application of this interface for the request's id, and the access log too: they are the same."""
    kind = request.param

    def ask(*headers: tuple[str, str], **options: Any) -> str:
        more = {} if kind == "native" else {"request_id": True}
        if kind == "asgi":
            more["lifespan"] = "off"
        form = {"access_log": True, "access_log_format": "%(request_id)s"}
        with live_server(ids(kind), **form, **more, **options) as url:
            found = ask_for(url, *headers)
        (logged,) = capfd.readouterr().out.splitlines()
        assert found == [logged.replace("\\x22", '"')], "one id, and it is the log's"
        return str(found[0])

    return ask


def ask_for(url: str, *headers: tuple[str, str]) -> Any:
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=20)
    with contextlib.closing(connection):
        connection.putrequest("GET", "/")
        for name, value in headers:
            connection.putheader(name, value)
        connection.endheaders()
        answer = connection.getresponse()
        assert answer.status == 200
        return json.loads(answer.read())


MADE = re.compile("[0-9a-f]{16}")


def test_the_id_of_a_trusted_proxy(ask_id: Any) -> None:
    for said in ("7", "550e8400-e29b-41d4-a716-446655440000", 'a!"~', "x" * 128):
        assert ask_id(("X-Request-ID", said), ("Cookie", "a=b")) == said


def test_another_field_says_it(ask_id: Any) -> None:
    said = ("My-Request-ID", "of-my-own")
    assert ask_id(said, request_id_header="my-request-id") == "of-my-own"
    assert MADE.fullmatch(ask_id(("My-Request-Ix", "of-my-own"), request_id_header="my-request-id"))


@pytest.mark.parametrize(
    "headers",
    [(), ("",), ("a b",), ("\xe9",), ("a\tb",), ("x" * 129,), ("one", "two"), ("same", "same")],
    ids=["none", "empty", "a space", "beyond ASCII", "a tab", "too long", "two", "twice the same"],
)
def test_what_is_no_id_is_not_taken(ask_id: Any, headers: tuple[str, ...]) -> None:
    assert MADE.fullmatch(ask_id(*(("X-Request-ID", value) for value in headers)))


@pytest.mark.parametrize(
    "options",
    [{"forwarded_allow_ips": "10.0.0.0/8"}, {"proxy_headers": False}],
    ids=["another network", "switched off"],
)
def test_the_id_of_anybody_else_is_not_taken(ask_id: Any, options: dict[str, Any]) -> None:
    assert MADE.fullmatch(ask_id(("X-Request-ID", "evil"), **options))


def test_applications_are_told_only_if_asked() -> None:
    with live_server(ids("wsgi")) as url:
        assert ask_for(url) == [] and ask_for(url, ("X-Request-ID", "as sent")) == ["as sent"]


def test_a_mounted_application_has_the_id_too(capfd: pytest.CaptureFixture[str]) -> None:
    for behind_middleware in (False, True):
        app = App()
        app.mount("/asgi", ids("asgi"))
        app.mount_wsgi("/wsgi", ids("wsgi"))
        if behind_middleware:

            @app.middleware
            async def through(request: Request, call_next: Any) -> Any:
                return await call_next(request)

        with live_server(app, request_id=True, access_log=True, access_log_format="%(request_id)s") as url:
            told = [httpx.get(f"{url}/{kind}/", headers={"x-request-id": said}).json() for kind, said in
                    (("asgi", "a b"), ("asgi", "mine"), ("wsgi", "a b"), ("wsgi", "mine"))]  # fmt: skip
        assert told == [[line] for line in capfd.readouterr().out.splitlines()]
        assert told[1] == told[3] == ["mine"]


def test_trust() -> None:
    trust = Trust(["10.0.0.0/8", "2001:db8::/32", "192.0.2.1"])
    for host in ("10.0.0.1", "10.255.255.255", "2001:db8::1", "192.0.2.1", "::ffff:10.0.0.1", "2001:db8::1%eth0"):
        assert trust.trusts((host, 1)) and trust.trusts((host, 1)), host
    for host in ("11.0.0.1", "9.255.255.255", "2001:db9::1", "192.0.2.2", "::1", "127.0.0.1"):
        assert not trust.trusts((host, 1)) and not trust.trusts((host, 1)), host
    assert not trust.trusts("") and not trust.trusts(None)
    assert Trust(["unix"]).trusts("") and Trust(["unix"]).trusts("/run/x") and not Trust(["unix"]).trusts(("::1", 1))
    assert Trust(["*"]).trusts("") and Trust(["*"]).trusts(("1.2.3.4", 1)) and Trust(["*"]).trusts(None)


@pytest.mark.parametrize(
    "options, complaint",
    [
        ({"forwarded_allow_ips": "10.0.0.0/33"}, "forwarded-allow-ips: an address"),
        ({"forwarded_allow_ips": "localhost"}, "forwarded-allow-ips: an address"),
        ({"request_id_header": "X Request"}, "request-id-header must be the name of a field"),
        ({"request_id_header": "Host"}, "request-id-header must be the name of a field"),
        ({"request_id_header": "x_request_id"}, "request-id-header must be the name of a field"),
        ({"request_id_header": "", "request_id": True}, "request-id needs request-id-header"),
        ({"forwarded_fields": "x-real-ip"}, "forwarded-fields: not one of"),
        ({"forwarded_fields": "forwarded,x-forwarded-for"}, "forwarded-fields: either forwarded, or"),
    ],
)
def test_what_is_no_configuration(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        Config(app="a:b", **options)


# ------------------------------------------------------------------------------------------------- PROXY protocol


V1 = b"PROXY TCP4 203.0.113.7 192.0.2.1 4711 443\r\n"
V1_V6 = b"PROXY TCP6 2001:db8::7 2001:db8::1 4711 443\r\n"
V1_UNKNOWN = b"PROXY UNKNOWN\r\n"
SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"


def v2(command: int, family: int, body: bytes) -> bytes:
    return SIGNATURE + struct.pack(">BBH", command, family, len(body)) + body


FOUR = socket.inet_aton("203.0.113.7") + socket.inet_aton("192.0.2.1") + struct.pack(">HH", 4711, 443)
V2 = v2(0x21, 0x11, FOUR + b"\x03\x00\x04abcd")
V2_LOCAL = v2(0x20, 0, b"")
GET = b"GET / HTTP/1.1\r\nHost: inner\r\n%s\r\n"


def talk(url: str, *pieces: bytes, answers: int = 1) -> list[tuple[int, Any]]:
    host, port = url.removeprefix("http://").split(":")
    found = []
    with socket.create_connection((host, int(port)), timeout=10) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for piece in pieces:
            sock.sendall(piece)
        file = sock.makefile("rb")
        for _ in range(answers):
            status = int(file.readline().split()[1])
            length = 0
            while (line := file.readline().strip()) != b"":
                if line.lower().startswith(b"content-length:"):
                    length = int(line.split(b":")[1])
                chunked = line.lower() == b"transfer-encoding: chunked"
                if chunked:
                    length = -1
            if length < 0:
                body = b""
                while size := int(file.readline(), 16):
                    body += file.read(size)
                    file.readline()
                file.readline()
            else:
                body = file.read(length)
            found.append((status, json.loads(body) if body.startswith(b"{") else body))
    return found


@pytest.fixture(scope="module")
def proxied() -> Iterator[dict[str, str]]:
    with contextlib.ExitStack() as stack:
        yield {name: stack.enter_context(serving(make(), proxy_protocol=True)) for name, make in MAKERS.items()}


@pytest.mark.parametrize(
    "header, client",
    [(V1, ["203.0.113.7", 4711]), (V1_V6, ["2001:db8::7", 4711]), (V2, ["203.0.113.7", 4711]), (V1_UNKNOWN, None),
     (V2_LOCAL, None)],
    ids=["v1", "v1 IPv6", "v2", "v1 UNKNOWN", "v2 LOCAL"],
)  # fmt: skip
def test_the_proxy_protocol(proxied: dict[str, str], interface: str, header: bytes, client: Any) -> None:
    whole = header + GET % b""
    fragments = ([whole], [header, GET % b""], [whole[i : i + 1] for i in range(len(whole))], [whole + GET % b""])
    for pieces in fragments:
        answers = talk(proxied[interface], *pieces, answers=b"".join(pieces).count(b"GET"))
        for status, found in answers:
            assert status == 200
            assert found["client"] == client or (client is None and found["client"][0] == "127.0.0.1")


def test_without_its_header_a_trusted_proxy_is_refused(proxied: dict[str, str], interface: str) -> None:
    for data in (GET % b"", b"PROXY TCP4 1.2.3.4\r\n" + GET % b"", SIGNATURE[:-1] + b"x" * 20, b"\x16\x03\x01"):
        ((status, text),) = talk(proxied[interface], data)
        assert status == 400 and b"PROXY protocol" in text


def test_only_one_header_is_taken(proxied: dict[str, str], interface: str) -> None:
    ((status, _),) = talk(proxied[interface], V1 + V1 + GET % b"")
    assert status == 400


def test_an_untrusted_peer_cannot_say_it(maker: Any) -> None:
    """It is served as if there were no such protocol: its header is no request."""
    with serving(maker(), proxy_protocol=True, forwarded_allow_ips="10.0.0.0/8") as url:
        ((status, _),) = talk(url, V1 + GET % b"")
        assert status == 400
        ((status, _),) = talk(url, V2 + GET % b"")
        assert status == 400
        ((status, found),) = talk(url, GET % b"")
        assert status == 200 and found["client"][0] == "127.0.0.1"


def test_fields_behind_it_are_believed_if_the_client_is_a_proxy_too(maker: Any) -> None:
    with serving(maker(), proxy_protocol=True, forwarded_allow_ips="127.0.0.1,10.0.0.0/8") as url:
        ((_, found),) = talk(url, V1 + GET % b"X-Forwarded-For: 198.51.100.9\r\n")
        assert found["client"] == ["203.0.113.7", 4711]
        ((_, found),) = talk(
            url, b"PROXY TCP4 10.1.1.1 192.0.2.1 4711 443\r\n" + GET % b"X-Forwarded-For: 198.51.100.9\r\n"
        )
        assert found["client"] == ["198.51.100.9", 0]


def test_a_silent_proxy_meets_the_deadline_of_heads() -> None:
    with serving(asgi, proxy_protocol=True, timeout_header=0.3) as url:
        host, port = url.removeprefix("http://").split(":")
        for begun in (b"", b"PROXY TCP4 "):
            with socket.create_connection((host, int(port)), timeout=10) as sock:
                sock.sendall(begun)
                assert sock.recv(1000) == b""


def test_the_proxy_protocol_on_a_transport(monkeypatch: pytest.MonkeyPatch, maker: Any) -> None:
    monkeypatch.setenv("FASTSERVE_WIRE", "transport")
    with serving(maker(), proxy_protocol=True) as url:
        whole = V2 + GET % b""
        for pieces in ([whole], [whole[i : i + 1] for i in range(len(whole))]):
            ((status, found),) = talk(url, *pieces)
            assert status == 200 and found["client"] == ["203.0.113.7", 4711]
