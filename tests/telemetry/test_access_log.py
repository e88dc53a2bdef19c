"""AccessLog: one line per request, whatever the request holds."""

from __future__ import annotations

import io
import json
import re
import time

import pytest

from fastserve import App, Request, Response
from fastserve.interfaces import make_handler
from fastserve.protocol import Service
from fastserve.telemetry import AccessLog

app = App()


@app.get("/{rest:path}")
async def index(rest: str) -> str:
    return "hello"


@app.get("/slow/{rest:path}")
async def slow(request: Request) -> Response:
    import asyncio

    request.headers["host"]  # the fields move over to an object of their own
    await asyncio.sleep(0)
    return Response("slow", headers={"X-Answer": 'a "b"'})


def lines_of(loop, data: bytes, format: str = "default", exclude: tuple[str, ...] = (), app: App = app) -> list[str]:
    from conftest import Memory

    stream = io.StringIO()
    memory = Memory(loop, app)
    service = Service(loop, make_handler(app, "native"), observer=AccessLog(stream, format, exclude))
    memory.connection = service.connect()
    memory.transport.protocol = memory.connection
    memory.connection.connection_made(memory.transport)
    memory.receive(data)
    memory.turn()
    until = time.monotonic() + 20
    while service.active and time.monotonic() < until:  # a file is looked at in a thread
        memory.turn()
    memory.eof()
    memory.turn()
    service.close()
    return stream.getvalue().splitlines()


def test_a_line(loop):
    (line,) = lines_of(loop, b"GET /a?b=c HTTP/1.1\r\nHost: a\r\n\r\n")
    assert re.fullmatch(r'192\.0\.2\.7:4711 - "GET /a\?b=c HTTP/1\.1" 200 5 \d+\.\d{3}ms', line)


def test_a_head_request_has_no_body_bytes(loop):
    (line,) = lines_of(loop, b"HEAD / HTTP/1.0\r\n\r\n")
    assert '"HEAD / HTTP/1.0" 200 0 ' in line


def test_quotes_and_backslashes_cannot_forge_a_line(loop):
    (line,) = lines_of(loop, b'GET /"\\x" HTTP/1.1\r\nHost: a\r\n\r\n')
    assert r'"GET /\x22\x5cx\x22 HTTP/1.1"' in line


def test_a_refused_request_is_one_line_too(loop):
    lines = lines_of(loop, b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\nX: \x1b[31m\n\r\n\r\n")
    assert len(lines) == 2
    assert lines[1].startswith('192.0.2.7:4711 - "-" 400 ')


BROWSER = (
    b'GET /a%20b?c=d HTTP/1.1\r\nHost: a\r\nUser-Agent: Mozilla "x"\r\nReferer: http://here/\r\n'
    b"Authorization: Basic dGVkOnNlY3JldA==\r\n\r\n"
)


@pytest.mark.parametrize("path", ["/a%20b", "/slow/a%20b"])
def test_combined(loop, path):
    (line,) = lines_of(loop, BROWSER.replace(b"/a%20b", path.encode()), "combined")
    assert re.fullmatch(
        rf'192\.0\.2\.7 - ted \[\d\d/[A-Z][a-z]{{2}}/\d{{4}}:\d\d:\d\d:\d\d [+-]\d{{4}}\] "GET {path}\?c=d HTTP/1\.1" 200 '
        r'\d "http://here/" "Mozilla \\x22x\\x22"',
        line,
    )


@pytest.mark.parametrize("path", ["/a%20b", "/slow/a%20b"])
def test_json_is_json_with_the_conventional_names(loop, path):
    (line,) = lines_of(loop, BROWSER.replace(b"/a%20b", path.encode()), "json")
    found = json.loads(line)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", found.pop("timestamp"))
    assert 0 <= found.pop("http.server.request.duration") < 60
    assert found.pop("process.pid") > 0
    assert re.fullmatch("[0-9a-f]{16}", found.pop("http.request.id"))
    assert found == {
        "client.address": "192.0.2.7",
        "client.port": 4711,
        "http.request.method": "GET",
        "url.path": path,
        "url.query": "c=d",
        "network.protocol.version": "1.1",
        "http.response.status_code": 200,
        "http.response.body.size": 4 if "slow" in path else 5,
        "user_agent.original": 'Mozilla "x"',
    }


def test_json_of_a_refused_request(loop):
    (line,) = lines_of(loop, b"GET / HTTP/1.1\nHost: a\n\n", "json")
    found = json.loads(line)
    assert found["http.response.status_code"] == 400
    assert found["http.request.method"] is None and found["url.path"] is None and found["user_agent.original"] is None


def test_every_line_has_an_id_of_its_own(loop):
    requests = (
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 3 + b"GET /slow/x HTTP/1.1\r\nHost: a\r\nX-Request-ID: mine\r\n\r\n"
    )
    lines = lines_of(loop, requests + b"not a request\r\n\r\n", "%(request_id)s %(s)s %(request_id)s")
    assert [line.split()[1] for line in lines] == ["200"] * 4 + ["400"]
    ids = [line.split()[0] for line in lines]
    assert len(set(ids)) == 5 and all(
        re.fullmatch("[0-9a-f]{16}", id) for id in ids
    )  # also of one that nobody may name
    assert [line.split()[2] for line in lines] == ids


def test_literals_stand_where_they_are_written(loop):
    request = b"GET /a?b HTTP/1.1\r\nHost: a\r\n\r\n"
    assert lines_of(loop, request, "<<a long literal>>%(m)s%(s)s, %(U)s%(q)s: %(B)s") == [
        "<<a long literal>>GET200, /ab: 5"
    ]
    assert lines_of(loop, request, "nothing but text") == ["nothing but text"]


def test_json_of_bytes_that_are_no_utf_8(loop):
    (line,) = lines_of(loop, b"GET / HTTP/1.1\r\nHost: a\r\nUser-Agent: \xe9\\\r\n\r\n", "json")
    assert json.loads(line)["user_agent.original"] == "\xe9\\"


def test_fields_of_the_request_and_of_the_answer(loop):
    request = b"GET /slow/x HTTP/1.1\r\nHost: a\r\nX-Id: 7\r\n\r\n"
    assert lines_of(loop, request, '%({X-Id}i)s %({x-answer}o)s "%({none}i)s" %({none}o)s 100%%') == [
        r'7 a \x22b\x22 "-" - 100%'
    ]
    assert lines_of(loop, request.replace(b"/slow", b"/"), "%({X-Id}i)s %({content-type}o)s") == [
        "7 text/plain; charset=utf-8"
    ]


def test_fields_of_the_answer_of_a_static_folder(loop, tmp_path):
    (tmp_path / "a.css").write_text("body {}")
    folder = App()
    folder.static("/static", tmp_path)
    request = b"GET /static/a.css HTTP/1.1\r\nHost: a\r\n\r\n"
    (line,) = lines_of(loop, request, "%(s)s %({content-type}o)s %({etag}o)s", app=folder)
    assert re.fullmatch(r"200 text/css; charset=utf-8 \\x22.+\\x22", line)


def test_the_waits_of_a_request_add_up(loop):
    (line,) = lines_of(loop, b"GET /slow/x HTTP/1.1\r\nHost: a\r\n\r\n", "%(queue)s %(handler)s %(send)s %(ms)s")
    queue, handler, send, whole = map(float, line.split())
    assert queue + handler + send == pytest.approx(whole, abs=0.004)


def test_excluded_paths_have_no_line(loop):
    data = b"".join(
        b"GET /%b HTTP/1.1\r\nHost: a\r\n\r\n" % p for p in (b"healthz", b"healthz2", b"live/a", b"x", b"healthz?a")
    )
    found = lines_of(loop, data, "%(U)s", ("/healthz", "/live/*"))
    assert found == ["/healthz2", "/x"]


@pytest.mark.parametrize(
    ("format", "why"),
    [
        ("%(x)s", r"no atom %\(x\)s; there are B D H"),
        ("%h", "%\\(name\\)s expected at '%h'"),
        ("100%", "a percent sign is %%"),
        ("a\nb", "a line is one line"),
        ("%({}i)s", "no atom"),
    ],
)
def test_a_format_that_is_none_is_refused_with_the_reason(format, why):
    with pytest.raises(ValueError, match=why):
        AccessLog(io.StringIO(), format)


def test_a_long_target_in_a_full_batch_is_whole(loop):
    target = b"/" + b'"' * 8000
    lines = lines_of(loop, (b"GET %b HTTP/1.1\r\nHost: a\r\n\r\n" % target) * 20, "%(r)s")
    assert lines == ["GET /" + r"\x22" * 8000 + " HTTP/1.1"] * 20
