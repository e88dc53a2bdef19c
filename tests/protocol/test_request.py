"""Request and its body, as a handler sees them. The peer is a transport in memory: every cut of the bytes is ours."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import re
import time
import weakref

import pytest

from fastserve import App, ClientDisconnected, HTTPException, Request
from fastserve.protocol.request import Namespace

METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "PURGE")


class Asked:
    """An app whose only handler runs `script(request)` and remembers what came of it."""

    def __init__(self, script=None) -> None:
        self.app = App()
        self.requests: list[Request] = []
        self.outcomes: list[object] = []
        self.script = script
        self.app.add_route("/{rest:path}", self.handle, methods=METHODS)
        self.app.middleware(self.around)

    async def around(self, request, call_next):
        # takes `OPTIONS *` too, which no route does
        self.requests.append(request)
        return await call_next(request)

    async def handle(self, request: Request):
        if self.script is None:
            return "ok"
        try:
            outcome = await self.script(request)
        except BaseException as error:
            self.outcomes.append(error)
            raise
        self.outcomes.append(outcome)
        return "ok"


def ask(memory, head: bytes) -> Request:
    asked = Asked()
    sent = memory(asked.app).feed(head)
    assert len(asked.requests) == 1, sent
    return asked.requests[0]


def get(memory, target: str, fields: str = "Host: h.example\r\n", version: str = "1.1") -> Request:
    return ask(memory, f"GET {target} HTTP/{version}\r\n{fields}\r\n".encode())


# ------------------------------------------------------------------------------------------------- the request line


@pytest.mark.parametrize("method", METHODS)
def test_method(memory, method):
    request = ask(memory, f"{method} / HTTP/1.1\r\nHost: a\r\n\r\n".encode())
    assert request.method == method and repr(request) == f"<Request {method} />"


TARGETS = [
    # target, path, raw_path, query_string
    ("/", "/", b"/", b""),
    ("/?", "/", b"/", b""),
    ("/a/b?c=d&e", "/a/b", b"/a/b", b"c=d&e"),
    ("/a?b?c", "/a", b"/a", b"b?c"),
    ("/a%20b", "/a b", b"/a%20b", b""),
    ("/caf%C3%A9?%C3%A9", "/caf\xe9", b"/caf%C3%A9", b"%C3%A9"),
    ("/%e2%82%ac", "/\u20ac", b"/%e2%82%ac", b""),
    ("/%ff/x", "/\ufffd/x", b"/%ff/x", b""),
    ("/a%2Fb", "/a/b", b"/a%2Fb", b""),
    ("/100%", "/100%", b"/100%", b""),
    ("/%zz%4", "/%zz%4", b"/%zz%4", b""),
    ("/%00", "/\0", b"/%00", b""),
    ("/a+b", "/a+b", b"/a+b", b""),
    ("//x", "//x", b"//x", b""),
    ("/a/../b", "/a/../b", b"/a/../b", b""),
    ("http://other.example:81/x%20y?q", "/x y", b"/x%20y", b"q"),
    ("http://other.example", "/", b"/", b""),
    ("http://other.example?q=1", "/", b"/", b"q=1"),
]


@pytest.mark.parametrize(("target", "path", "raw_path", "query"), TARGETS)
def test_target(memory, target, path, raw_path, query):
    request = get(memory, target)
    assert (request.path, request.raw_path, request.query_string) == (path, raw_path, query)
    assert (request.path, request.raw_path, request.query_string) == (path, raw_path, query)  # from the cache


URLS = [
    ("/", "http://h.example/"),
    ("/a%20b?c=%20", "http://h.example/a%20b?c=%20"),
    ("/a?", "http://h.example/a"),
    ("http://other.example:81/x?q", "http://other.example:81/x?q"),
    ("http://other.example", "http://other.example/"),
    # the scheme is that of the connection, whatever a client claims
    ("https://other.example/x", "http://other.example/x"),
]


@pytest.mark.parametrize(("target", "url"), URLS)
def test_url(memory, target, url):
    request = get(memory, target)
    assert str(request.url) == url and request.url is request.url and request.scheme == "http"


def test_asterisk_form(memory):
    # RFC 9112 section 3.3: its path and query are empty in the URL
    request = ask(memory, b"OPTIONS * HTTP/1.1\r\nHost: h.example\r\n\r\n")
    assert request.path == "*" and request.raw_path == b"*" and str(request.url) == "http://h.example"


def test_authority_form(memory):
    request = ask(memory, b"CONNECT b.example:443 HTTP/1.1\r\nHost: a.example\r\n\r\n")
    assert request.method == "CONNECT" and request.raw_path == b"" and request.headers["host"] == "b.example:443"


def test_url_without_a_host(memory):
    # HTTP/1.0 need not send one; the address the connection came in at stands for it
    assert str(get(memory, "/a", "", "1.0").url) == "http://192.0.2.1:80/a"


@pytest.mark.parametrize(("sent", "seen"), [("1.1", "1.1"), ("1.0", "1.0"), ("1.2", "1.1"), ("1.9", "1.1")])
def test_http_version(memory, sent, seen):
    assert get(memory, "/", version=sent).http_version == seen


# ------------------------------------------------------------------------------------------------------- the fields


@pytest.mark.parametrize("target", ["http://target.example:8080/x", "http://target.example:8080"])
def test_the_authority_of_the_target_replaces_host(memory, target):
    # RFC 9112 section 3.2.2
    request = get(memory, target, "Accept: x\r\nHost: field.example\r\nX-A: b\r\n")
    assert request.headers["host"] == "target.example:8080" and request.url.netloc == "target.example:8080"
    assert request.headers.raw == [(b"accept", b"x"), (b"host", b"target.example:8080"), (b"x-a", b"b")]


def test_the_authority_of_the_target_when_there_is_no_host(memory):
    request = get(memory, "http://target.example/x", "Accept: x\r\n", "1.0")
    assert request.headers.get("host") == "target.example"
    assert request.headers.raw == [(b"accept", b"x"), (b"host", b"target.example")]


def test_origin_form_keeps_host(memory):
    request = get(memory, "/x?http://evil.example/", "Host: field.example\r\n")
    assert request.headers.raw == [(b"host", b"field.example")]


def test_cookies(memory):
    assert get(memory, "/").cookies == {}
    request = get(memory, "/", 'Host: a\r\nCookie: a=1; b="x y"\r\nCookie: c=3\r\n')
    assert request.cookies == {"a": "1", "b": "x y", "c": "3"} and request.cookies is request.cookies


def test_query_params(memory):
    request = get(memory, "/?a=1&a=2&b=%20&c")
    assert request.query_params.multi_items() == [("a", "1"), ("a", "2"), ("b", " "), ("c", "")]
    assert request.query_params is request.query_params and get(memory, "/").query_params.multi_items() == []


# ---------------------------------------------------------------------------------------------------- who and where


def test_client_server_and_the_rest(memory):
    asked = Asked()
    memory(asked.app).feed(b"GET /a HTTP/1.1\r\nHost: h\r\n\r\nGET /b HTTP/1.1\r\nHost: h\r\n\r\n")
    first, second = asked.requests
    assert first.client == ("192.0.2.7", 4711) and first.client.host == "192.0.2.7" and first.client.port == 4711
    assert first.server == ("192.0.2.1", 80) and first.app is asked.app
    assert first.path_params == {"rest": "a"} and second.path_params == {"rest": "b"}
    assert re.fullmatch("[0-9a-f]{16}", first.id) and first.id == first.id != second.id
    first.state.user = "x"
    assert first.state.user == "x" and not hasattr(second.state, "user")


def test_a_forked_process_counts_its_ids_from_elsewhere(memory):
    asked = Asked()
    memory(asked.app).feed(b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n")
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(writing, asked.requests[0].id.encode())
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        theirs = pipe.read()
    assert len(theirs) == 16 and theirs != asked.requests[0].id  # the same next number would have made the same id


def test_no_addresses_on_a_unix_socket(memory):
    asked = Asked()
    peer = memory(asked.app)
    peer.transport.get_extra_info = lambda name, default=None: {"peername": "", "sockname": "/run/x"}.get(name, default)
    peer.feed(b"GET / HTTP/1.0\r\n\r\n")
    assert asked.requests[0].client is None and asked.requests[0].server is None
    assert str(asked.requests[0].url) == "http:///"


def test_scheme_of_tls(memory):
    asked = Asked()
    peer = memory(asked.app)
    peer.transport.get_extra_info = lambda name, default=None: {"ssl_object": object()}.get(name, default)
    peer.feed(b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n")
    assert asked.requests[0].scheme == "https" and str(asked.requests[0].url) == "https://h/a"


def test_requests_are_not_made_by_hand():
    with pytest.raises(TypeError, match="made by the server"):
        Request()


def test_namespace():
    names = Namespace({"a": 1})
    names.b = 2
    assert names.a == names["a"] == 1 and names["b"] == 2 and "b" in names and list(names) == ["a", "b"]
    assert len(names) == 2 and repr(names) == "Namespace({'a': 1, 'b': 2})"
    names["c"] = 3
    del names.a, names["b"]
    assert list(names) == ["c"]
    with pytest.raises(AttributeError, match="no attribute 'a'"):
        names.a  # noqa: B018
    with pytest.raises(AttributeError, match="no attribute 'a'"):
        del names.a


def test_a_request_that_is_kept_keeps_nothing_else(memory):
    # no cycle between request and exchange: nothing waits for the garbage collector
    asked = Asked()
    gc.collect()
    gc.disable()
    try:
        memory(asked.app).feed(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        request = asked.requests.pop()
        request.state.probe = probe = type("Probe", (), {})()
        died = weakref.ref(probe)
        del probe, request
        assert died() is None
    finally:
        gc.enable()


# --------------------------------------------------------------------------------------------------------- the body

HEAD = b"POST /x HTTP/1.1\r\nHost: h\r\n"


def length(body: bytes) -> bytes:
    return HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body


def chunked(*pieces: bytes, trailers: bytes = b"") -> bytes:
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
    return HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n" + trailers + b"\r\n"


async def read_body(request):
    return await request.body()


async def read_stream(request):
    return b"".join([piece async for piece in request.stream()])


MESSAGES = [
    (HEAD + b"\r\n", b""),
    (length(b""), b""),
    (length(b"hello"), b"hello"),
    (length(b"x" * 5000), b"x" * 5000),
    (chunked(), b""),
    (chunked(b"a", b"bc", b"d" * 300), b"abc" + b"d" * 300),
]


@pytest.mark.parametrize("read", [read_body, read_stream])
@pytest.mark.parametrize(("message", "body"), MESSAGES)
@pytest.mark.parametrize("step", [10**9, 1, 7, 1000])
def test_a_body_however_it_is_cut(memory, read, message, body, step):
    asked = Asked(read)
    peer = memory(asked.app)
    for start in range(0, len(message), step):
        peer.feed(message[start : start + step])
        if step > 1:
            peer.turn(1)
    peer.turn()
    assert asked.outcomes == [body]


@pytest.mark.parametrize("read", [read_body, read_stream])
def test_a_body_that_is_cut_short_is_never_whole(memory, read):
    # RFC 9112 section 8
    for message, part in ((length(b"x" * 100), 150), (chunked(b"abc", b"def"), 5)):
        whole = len(message) - part if part < len(message) else len(message) - 50
        asked = Asked(read)
        peer = memory(asked.app)
        peer.feed(message[:whole])
        peer.turn()
        assert asked.outcomes == []
        peer.connection.connection_lost(None)
        peer.transport.closed = True
        peer.turn()
        assert len(asked.outcomes) == 1 and isinstance(asked.outcomes[0], ClientDisconnected | asyncio.CancelledError)


def test_the_pieces_before_the_cut_are_given(memory):
    pieces = []

    async def script(request):
        async for piece in request.stream():
            pieces.append(piece)

    asked = Asked(script)
    peer = memory(asked.app)
    peer.feed(length(b"x" * 100)[:-50])
    peer.turn()
    assert b"".join(pieces) == b"x" * 50 and asked.outcomes == []


def test_body_is_kept_and_stream_gives_it_again(memory):
    async def script(request):
        first = await request.body()
        second = await request.body()
        streamed = [piece async for piece in request.stream()]
        again = [piece async for piece in request.stream()]
        return first is second, streamed, again, await request.text(), await request.json()

    asked = Asked(script)
    memory(asked.app).feed(length(b"[1]"))
    asked_body = asked.outcomes
    peer = memory(asked.app)
    peer.turn()
    assert asked_body == [(True, [b"[1]"], [b"[1]"], "[1]", [1])]


def test_a_stream_is_read_once(memory):
    errors = []

    async def script(request):
        streamed = [piece async for piece in request.stream()]
        for again in (request.body, request.stream().__anext__, request.json):
            with pytest.raises(RuntimeError, match=r"consumed by stream\(\)") as info:
                await again()
            errors.append(info.value)
        return streamed

    asked = Asked(script)
    peer = memory(asked.app)
    peer.feed(length(b"abc"))
    peer.turn()
    assert asked.outcomes == [[b"abc"]] and len(errors) == 3


def test_a_stream_left_in_the_middle_cannot_become_a_body(memory):
    async def script(request):
        async for _ in request.stream():
            break
        with pytest.raises(RuntimeError, match="consumed"):
            await request.body()
        return "seen"

    asked = Asked(script)
    peer = memory(asked.app)
    peer.feed(chunked(b"abc", b"def"))
    peer.turn()
    assert asked.outcomes == ["seen"]


def test_a_body_that_is_here_does_not_suspend(memory):
    steps = []

    async def script(request):
        await asyncio.sleep(0)  # meanwhile the body has come
        waiting = request.body()
        try:
            waiting.send(None)
        except StopIteration as stop:
            steps.append(stop.value)
        else:
            waiting.close()
            steps.append("suspended")

    asked = Asked(script)
    peer = memory(asked.app)
    peer.feed(length(b"abc"))
    peer.turn()
    assert steps == [b"abc"]


def test_a_cancelled_read_loses_nothing(memory):
    async def script(request):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await request.body()
        return await request.body()

    asked = Asked(script)
    peer = memory(asked.app)
    message = length(b"x" * 100)
    peer.feed(message[:-50])
    peer.loop.run_until_complete(asyncio.sleep(0.05))
    assert asked.outcomes == []
    peer.feed(message[-50:])
    peer.turn()
    assert asked.outcomes == [b"x" * 100]


def test_two_readers_at_once_are_an_error(memory):
    async def script(request):
        reader = asyncio.create_task(request.body())
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="already being read"):
            await request.body()
        return await reader

    asked = Asked(script)
    peer = memory(asked.app)
    message = length(b"abc")
    peer.feed(message[:-1])
    peer.turn()
    peer.feed(message[-1:])
    peer.turn(6)
    assert asked.outcomes == [b"abc"]


def test_reading_pauses_for_a_stream_that_is_not_read_but_not_for_a_body(memory):
    gate = asyncio.Event()

    async def slow(request):
        await gate.wait()
        return sum([len(piece) async for piece in request.stream()])

    asked = Asked(slow)
    peer = memory(asked.app)
    message = length(b"x" * 1_000_000)
    for start in range(0, len(message), 50_000):
        if not peer.transport.reading:
            break
        peer.feed(message[start : start + 50_000])
        peer.turn(1)
    else:
        pytest.fail("reading was never paused")
    assert start < 600_000
    gate.set()
    rest = message[start:]
    while rest:
        peer.turn()
        assert peer.transport.reading, "reading does not go on"
        peer.feed(rest[:50_000])
        rest = rest[50_000:]
    peer.turn()
    assert asked.outcomes == [1_000_000]

    asked = Asked(read_body)
    peer = memory(asked.app)
    for start in range(0, len(message), 50_000):
        assert peer.transport.reading
        peer.feed(message[start : start + 50_000])
        peer.turn(1)
    peer.turn()
    assert asked.outcomes == [b"x" * 1_000_000]


def test_trailers(memory):
    async def script(request):
        before = request.trailers.items()
        body = await request.body()
        return before, body, request.trailers.items(), "x-t" in request.headers

    asked = Asked(script)
    peer = memory(asked.app)
    message = chunked(b"abc", trailers=b"X-T: 1\r\nHost: evil\r\n")
    peer.feed(message[:-5])
    peer.turn()
    peer.feed(message[-5:])
    peer.turn()
    # RFC 9110 section 6.5: kept apart from the headers, and only what may be sent there
    assert asked.outcomes == [([], b"abc", [("x-t", "1")], False)]


@pytest.mark.parametrize(
    ("content_type", "body", "text"),
    [
        ("", b"h\xc3\xa9", "h\xe9"),
        ("text/plain", b"h\xc3\xa9", "h\xe9"),
        ("text/plain; charset=latin-1", b"h\xe9", "h\xe9"),
        ('text/plain; CHARSET="iso-8859-1"', b"h\xe9", "h\xe9"),
        ('text/plain; note="; charset=ascii \\" x"; charset=latin-1', b"h\xe9", "h\xe9"),
        ("text/plain; charset; q; charset = latin-1 ; charset=ascii", b"h\xe9", "h\xe9"),
        ('text/plain; charset="latin-1', b"h\xe9", "h\xe9"),
        ("text/plain; notcharset=ascii", b"h\xc3\xa9", "h\xe9"),
        ("text/plain", b"\xff", 400),
        ("text/plain; charset=", b"a", 400),
        ("text/plain; charset=punycode", b"a-", 400),  # no charset of a text, and slow
        ("text/plain; charset=rot13", b"a", 400),
        ("text/plain; charset=nonsense", b"a", 400),
    ],
)
def test_text(memory, content_type, body, text):
    async def script(request):
        try:
            return await request.text()
        except HTTPException as error:
            return error.status_code

    asked = Asked(script)
    peer = memory(asked.app)
    field = f"Content-Type: {content_type}\r\n".encode() if content_type else b""
    peer.feed(HEAD + field + b"Content-Length: %d\r\n\r\n" % len(body) + body)
    peer.turn()
    assert asked.outcomes == [text]


def test_parameters_of_a_content_type_take_linear_time(memory):
    """email.message needs seconds for this: it counts the quotes anew at each semicolon."""

    async def script(request):
        began = time.perf_counter()
        text = await request.text()
        return text, time.perf_counter() - began

    for value in (
        b'text/plain; a="' + b";" * 60_000 + b'"; charset=latin-1',
        b"text/plain" + b";=" * 30_000 + b";charset=latin-1",
    ):
        asked = Asked(script)
        peer = memory(asked.app)
        peer.feed(HEAD + b"Content-Type: " + value + b"\r\nContent-Length: 2\r\n\r\nh\xe9")
        peer.turn()
        ((text, seconds),) = asked.outcomes
        assert text == "h\xe9" and seconds < 0.5


@pytest.mark.parametrize("body", [b'{"a": [1, 2.5, null, "\xc3\xa9"]}', b"1", b' "x" '])
def test_json(memory, body):
    async def script(request):
        return await request.json()

    asked = Asked(script)
    peer = memory(asked.app)
    peer.feed(length(body))
    peer.turn()
    assert asked.outcomes == [json.loads(body)]


@pytest.mark.parametrize("body", [b"", b"{", b"{'a': 1}", b"\xff", b"[1] x", b"[" * 100_000])
def test_malformed_json(memory, body):
    async def script(request):
        return await request.json()

    asked = Asked(script)
    peer = memory(asked.app)
    sent = peer.feed(length(body)) + peer.turn()
    (error,) = asked.outcomes
    assert isinstance(error, HTTPException) and error.status_code == 400 and error.detail.startswith("Malformed JSON")
    assert sent.startswith(b"HTTP/1.1 400 ")


def test_a_chunk_that_breaks_the_rules_reaches_the_reader(memory):
    from fastserve.errors import RemoteProtocolError

    asked = Asked(read_body)
    peer = memory(asked.app)
    assert peer.feed(HEAD + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n") + peer.turn() == b""
    sent = peer.feed(b"zz\r\n") + peer.turn()
    (error,) = asked.outcomes
    assert isinstance(error, RemoteProtocolError | asyncio.CancelledError), error
    assert sent.startswith(b"HTTP/1.1 400 ") and sent.count(b"HTTP/1.1") == 1


def test_is_disconnected(memory):
    seen = []
    gate = asyncio.Event()

    async def script(request):
        seen.append(await request.is_disconnected())
        try:
            await gate.wait()
        finally:
            seen.append(await request.is_disconnected())

    asked = Asked(script)
    peer = memory(asked.app)
    peer.feed(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
    peer.turn()
    assert seen == [False]
    peer.transport.closed = True
    peer.connection.connection_lost(None)
    peer.turn()
    assert seen == [False, True]


def test_100_continue_comes_when_the_body_is_first_read(memory):
    gate = asyncio.Event()

    async def script(request):
        await gate.wait()
        return await request.body()

    asked = Asked(script)
    peer = memory(asked.app)
    assert peer.feed(HEAD + b"Expect: 100-continue\r\nContent-Length: 3\r\n\r\n") + peer.turn() == b""
    gate.set()
    assert peer.turn() == b"HTTP/1.1 100 Continue\r\n\r\n"
    sent = peer.feed(b"abc") + peer.turn()
    assert asked.outcomes == [b"abc"] and sent.startswith(b"HTTP/1.1 200 OK\r\n")
