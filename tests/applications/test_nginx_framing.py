"""The same bytes to us and to a real nginx: where does each see a request end? Every disagreement is of a named class.

Room:    the case book's inputs and mutations of them, each with one more request behind it, so that whoever reads a
         body longer or shorter sees another request than the other. Two tables below: what we refuse and nginx takes,
         what nginx refuses and we take. An input outside of them fails the test.
Calls:   fastserve.protocol.core.events() (through test_differential.py); Debian's nginx, over sockets.
Rules:   the RFC decides, not the older server. Where nobody refuses, methods and targets are the same, one by one.

The seed of the mutations is printed and can be set: FASTSERVE_SEED=7 pytest tests/applications/test_nginx_framing.py
"""

from __future__ import annotations

import random
import re
import socket
import subprocess
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field

import pytest
from applications.proxies import LIMIT, nginx_command, nginx_config, running
from cases.loader import load_cases
from test_differential import (
    SEED,
    Class,
    Verdict,
    all_explained,
    all_met,
    malformed_host,
    matches,
    mutated,
    ours,
    text,
)  # fmt: skip

MUTATIONS = 2500
INPUT_BYTES_MAX = 3000  # of those that are mutated, and of all that are sent
# Of classes that the dice do not meet with every seed.
MORE = [b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n", b"GET http://a!b/ HTTP/1.1\r\nHost: a\r\n\r\n"]
BEHIND = b"GET /behind HTTP/1.1\r\nHost: a\r\n\r\n"
CLIENTS = 8

HTTP = """
  client_header_buffer_size 64k;
  large_client_header_buffers 4 256k;
  client_max_body_size 0;
  keepalive_requests 1000000;
  underscores_in_headers on;
  merge_slashes off;
  server_tokens off;
  server {{
    listen 127.0.0.1:{port};
    add_header X-Seen "$request_method $request_uri" always;
    location / {{ return 200 "$request_method $request_uri"; }}
  }}
"""


@dataclass
class Told:
    """What nginx made of an input: the requests that it answered, and the status that it refused the next one with."""

    requests: list[tuple[str, str]] = field(default_factory=list)
    refused: int = 0  # 0: nothing was refused


# ------------------------------------------------------------------------------------------------------- nginx


@pytest.fixture(scope="module")
def nginx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Its port."""
    folder = tmp_path_factory.mktemp("nginx")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = nginx_config(folder, HTTP.format(port=port), log="/dev/null")
    with running(nginx_command(folder), folder, config, [port]):
        yield port


def ask(port: int, data: bytes) -> bytes:
    """All that nginx says to these bytes. Our sending side is ended behind them, so it ends too."""
    answer = b""
    with socket.create_connection(("127.0.0.1", port), LIMIT) as client:
        with suppress(ConnectionError):  # a reset, because it has closed before it read all
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)
        with suppress(ConnectionError):
            while piece := client.recv(65536):
                answer += piece
    return answer


def by_nginx(port: int, data: bytes) -> Told:
    """Its answers, taken apart: what it has seen is in a field of each."""
    told = Told()
    rest = ask(port, data)
    while rest:
        if not rest.startswith(b"HTTP/1.1 "):  # as a server of HTTP/0.9 answers: no head, and the end of the connection
            found = re.fullmatch(rb"(\S+) (\S+)", rest)
            if found is not None:
                told.requests.append((text(found[1]), text(found[2])))
            else:
                told.refused = int(re.search(rb"<title>(\d+) ", rest)[1])  # type: ignore[index]
            break
        head, end, rest = rest.partition(b"\r\n\r\n")
        assert end, (data, head)
        status = int(head.split(b" ", 2)[1])
        if status < 200:
            continue
        found = re.search(rb"\r\nX-Seen: (\S*) ([^\r]*)", head)
        length = re.search(rb"\r\nContent-Length: (\d+)", head)
        method = text(found[1]) if found else ""
        if length is not None and method != "HEAD":
            rest = rest[int(length[1]) :]
        if status in (200, 405):  # 405: CONNECT and TRACE, for nginx does not serve them
            assert found is not None, head
            told.requests.append((method, text(found[2])))
        else:
            told.refused = status
            break
    return told


# --------------------------------------------------------------------------------------------------------- why


def other_methods(data: bytes) -> bool:
    return any(not re.fullmatch("[A-Z_-]+", request.method) for request in ours(data).requests)


TRAILERS = matches(rb"\n0+[^\r\n]*\r?\n[^\r\n]")

WE_REFUSE = [
    Class("bare line ends", "line_end", matches(rb"\n"), "RFC 9112 §2.2",
          "a recipient may take a bare LF for a line end; where two readers differ in it a request can hide"),
    Class("names", "field_name", matches(rb"\n[^\r\n:]*[^!#$%&'*+.^_`|~0-9A-Za-z\r\n:-]|\n[^\r\n:]+\r\n"), "RFC 9110 §5.1",
          "a name is a token; nginx leaves out the whole field, and the request goes on without it"),
    Class("control bytes in values", "field_value", matches(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]"), "RFC 9110 §5.5",
          "nginx refuses NUL only; field values with other controls are invalid"),
    Class("syntax of Host", "host", malformed_host, "RFC 9112 §3.2",
          "a server MUST answer 400 to a Host with an invalid value"),
    Class("spaces in the request line", "request_line", matches(rb"[A-Z_-]  +\S"), "RFC 9112 §3",
          "one space between its parts"),
    Class("no version", "request_line", matches(rb"GET [^ \r\n]*\r?\n"), "RFC 9112 §3",
          "HTTP/0.9, which has no version and no fields, is no HTTP/1.1"),
    Class("syntax of the version", "version", matches(rb"  +HTTP/| HTTP/1\.\d(?:\d| +\r?\n)| \r?\n"), "RFC 9112 §2.3",
          "one space before it, one digit on each side of the dot, nothing behind it"),
    Class("byte of the target", "target", matches(rb" [^\r\n ]*[#\x7f-\xff]"), "RFC 9112 §3.2",
          "a fragment is in no form of target, nor is a byte outside of ASCII"),
    Class("absolute form", "target_uri", matches(rb" [a-z][a-z0-9+.-]*://"), "RFC 9112 §3.2.2",
          "an http or https URI with a host and without userinfo (RFC 9110 §4.2)"),
    Class("authority form", "target_authority", matches(rb"CONNECT "), "RFC 9112 §3.2.3",
          "CONNECT has a host and a port, and nothing else; nginx answers 405 whatever there is"),
    Class("unknown expectation", "expectation", matches(rb"\nexpect:"), "RFC 9110 §10.1.1",
          "a server may answer 417; nginx looks for 100-continue and ignores the rest"),
    Class("many fields", "fields_count", lambda data: data.count(b"\r\n") > 100, "RFC 6585 §5", "a limit of ours: 431"),
    Class("many empty lines", "leading_crlf", matches(rb"(?:\r\n){5}"), "RFC 9112 §2.2",
          "at least one is to be ignored; four are, nginx ignores any number"),
    Class("many digits of a chunk size", "chunk_size", matches(rb"[0-9a-f]{17,}"), "RFC 9112 §7.1",
          "16 hexadecimal digits say every size there is; more are a way to let a reader overflow"),
    Class("grammar of extensions", "chunk_extension", matches(rb"[0-9a-f][ \t;]"), "RFC 9112 §7.1.1",
          "what is ignored must still be read by its grammar; nginx skips to the line end, over white space too"),
    Class("end of chunk data", "chunk_end", matches(rb"chunked"), "RFC 9112 §7.1",
          "CRLF; nginx takes LF alone, and CR as the last byte of the data before it"),
    Class("trailers", "field_space|field_name_empty|field_leading_space|field_fold", TRAILERS, "RFC 9112 §7.1.2",
          "trailers are fields, and checked as fields; nginx skips lines until an empty one"),
    Class("close and keep-alive", "", matches(rb"\nconnection:[^\n]*\r\nconnection:"), "RFC 9112 §9.3",
          "close, if it is there, decides; nginx takes the last line"),
    Class("nearly keep-alive", "", matches(rb" HTTP/1\.0\r\n.*connection:[^\n]*keep-alive\w"), "RFC 9110 §7.6.1",
          "a list of tokens; nginx looks for keep-alive anywhere in it"),
]  # fmt: skip

NGINX_REFUSES = [
    Class("methods", "400", other_methods, "RFC 9110 §9.1",
          "a method is any token; to nginx it is capital letters, hyphens and underscores"),
    Class("tabs around values", "400|501", matches(rb":[ ]*\t|\t[ ]*\r\n"), "RFC 9110 §5.5",
          "HTAB is white space around a value as SP is; nginx takes it for a part of the value"),
    Class("escapes in paths", "400", matches(rb" [^\r\n ?]*%(?:00|(?![0-9a-f]{2}))"), "RFC 3986 §2.1",
          "nginx decodes a path to find a file, and can do nothing with these; here they stay as they are sent"),
    Class("forms of target", "400", matches(rb"OPTIONS \*|CONNECT "), "RFC 9112 §3.2",
          "asterisk-form and authority-form are forms for a server; nginx does not know the first, nor of old the second"),
    Class("names of hosts", "400", matches(rb" https?://[^/? \r\n]*[!$&'()*+,;=~%]"), "RFC 3986 §3.2.2",
          "sub-delims and escapes are bytes of a name; nginx does not want them in absolute-form"),
    Class("Expect twice", "400", matches(rb"\nexpect:.*\nexpect:"), "RFC 9110 §5.3",
          "Expect is a list, and may stand on several lines"),
    Class("nearly close", "^0$", matches(rb"\nconnection:[^\r]*close"), "RFC 9110 §7.6.1",
          "a list of tokens; nginx looks for close anywhere in it, and closes"),
    Class("answered and closed", "^0$", matches(rb"TRACE |CONNECT "), "RFC 9110 §9.3.8",
          "nginx answers 405 and closes; newer versions do so to CONNECT, too"),
]  # fmt: skip


NEWER = (1, 27)  # the versions of nginx that were met: 1.22 takes them, 1.30 does not
NEWER_REFUSE_TOO = frozenset({"end of chunk data"})


def why(table: list[Class], said: str, data: bytes) -> str | None:
    for row in table:
        holds = re.fullmatch(row.says, said) if table is WE_REFUSE else re.search(row.says, said)
        if holds and row.holds(data):
            return row.name
    return None


def seen_by_us(verdict: Verdict) -> list[tuple[str, str]]:
    """Methods and targets as nginx writes them: it has taken scheme and authority off, with which CONNECT has no more."""
    found = []
    for request in verdict.requests:
        authority = r"^https?://[^/?]*" if request.method != "CONNECT" else ".*"
        target = re.sub(authority, "", request.target, flags=re.IGNORECASE)
        found.append((request.method, target or "/"))
    return found


def judge(data: bytes, told: Told, seen: Counter[str]) -> str | None:
    """None, or what is wrong. Counts the classes that were met in `seen`."""
    our = ours(data)
    mine = seen_by_us(our)
    for one, other in zip(mine, told.requests, strict=False):
        if one != other:
            return f"nginx reads another request: {one} {other}"
    # A request that we refuse in its body nginx may have answered before it came to that.
    if len(told.requests) > len(mine):
        reason = why(WE_REFUSE, our.refused or "", data)
        if reason is None:
            return f"nginx takes {told.requests[len(mine)]}, and we say {our.refused or 'nothing'}"
        seen[f"we refuse, nginx takes: {reason}"] += 1
    elif len(told.requests) < our.complete:
        reason = why(NGINX_REFUSES, str(told.refused), data)
        if reason is None:
            return f"nginx refuses what we take, with {told.refused}: {mine[len(told.requests)]}"
        seen[f"nginx refuses, we take: {reason}"] += 1
    elif told.refused or our.refused:
        seen["both refuse"] += 1
    else:
        seen["both take all"] += 1
    return None


# ------------------------------------------------------------------------------------------------------ the test


def inputs(seed: int) -> list[bytes]:
    book = [case.data for case in load_cases() if len(case.data) <= INPUT_BYTES_MAX]
    dice = random.Random(seed)
    return [data + BEHIND for data in [*book, *MORE, *(mutated(dice.choice(book), dice) for _ in range(MUTATIONS))]]


@pytest.fixture(scope="module")
def verdicts(nginx: int) -> tuple[list[str], Counter[str]]:
    seen: Counter[str] = Counter()
    every = list(dict.fromkeys(inputs(SEED)))
    with ThreadPoolExecutor(CLIENTS) as pool:
        answers = list(pool.map(lambda data: by_nginx(nginx, data), every))
    wrong = [
        f"{data!r}\n  {what}"
        for data, told in zip(every, answers, strict=True)
        if (what := judge(data, told, seen)) is not None
    ]
    return wrong, seen


def test_every_disagreement_is_explained(verdicts: tuple[list[str], Counter[str]]) -> None:
    all_explained(*verdicts)


def test_no_class_is_idle(verdicts: tuple[list[str], Counter[str]]) -> None:
    said = subprocess.run(["nginx", "-v"], capture_output=True, text=True, check=True).stderr
    version = tuple(map(int, re.findall(r"\d+", said)[:2]))
    idle = NEWER_REFUSE_TOO if version >= NEWER else frozenset()
    all_met([[row for row in WE_REFUSE if row.name not in idle], NGINX_REFUSES], verdicts[1])
    assert verdicts[1]["both take all"] > 500 and verdicts[1]["both refuse"] > 500


def test_nginx_is_read_rightly(nginx: int) -> None:
    """One connection with a bit of everything, and what it makes of it."""
    one = b"POST /a?b HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n"
    head = b"HEAD /h HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\nhello"
    bad = b"GET /\x01 HTTP/1.1\r\nHost: a\r\n\r\n"
    told = by_nginx(nginx, one + head + BEHIND + bad + BEHIND)
    assert told == Told([("POST", "/a?b"), ("HEAD", "/h"), ("GET", "/behind")], 400)
    assert by_nginx(nginx, one[:-1] + BEHIND).requests != by_nginx(nginx, one + BEHIND).requests
