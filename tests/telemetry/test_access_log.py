"""AccessLog: one line per request, whatever the request holds."""

from __future__ import annotations

import io
import re

from fastserve import App
from fastserve.interfaces import make_handler
from fastserve.protocol import Service
from fastserve.telemetry import AccessLog

app = App()


@app.get("/{rest:path}")
async def index(rest: str) -> str:
    return "hello"


def lines_of(loop, data: bytes) -> list[str]:
    from conftest import Memory

    stream = io.StringIO()
    memory = Memory(loop, app)
    service = Service(loop, make_handler(app, "native"), observer=AccessLog(stream))
    memory.connection = service.connect()
    memory.transport.protocol = memory.connection
    memory.connection.connection_made(memory.transport)
    memory.receive(data)
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
