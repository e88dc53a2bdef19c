"""The same bytes through us, httptools (llhttp) and h11: every disagreement is of a named class, and a rule decides it.

Room:    the case book's inputs and mutations of them. Three tables below: what we refuse and both others take, what
         httptools refuses and we take, what h11 refuses and we take. An input outside of them fails the test.
Calls:   fastserve.protocol.core.events(), httptools.HttpRequestParser, h11.Connection.
Rules:   the RFC decides, not the majority. Where nobody refuses, method, target, fields and body are the same.

The seed of the mutations is printed and can be set: FASTSERVE_SEED=7 pytest tests/test_differential.py
"""

from __future__ import annotations

import os
import random
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import h11
import httptools
import pytest
from cases.loader import load_cases

from fastserve.protocol import core

MUTATIONS = 8000
INPUT_BYTES_MAX = 3000  # of the inputs that are mutated
SEED = int(os.environ.get("FASTSERVE_SEED", "1"))

Fields = tuple[tuple[str, str], ...]


@dataclass
class Request:
    method: str
    target: str
    fields: Fields = ()
    body: str | None = None  # None: not complete, or this parser does not tell


@dataclass
class Verdict:
    """What one parser made of an input."""

    requests: list[Request] = field(default_factory=list)  # those whose heads were taken
    complete: int = 0  # so many of them with their bodies
    refused: str | None = None  # the reason, in the parser's own words

    def took(self, refusal: Verdict) -> bool:
        """Did this parser take what that one refused? Not if it stopped before it, or still waits for more of it."""
        in_head = len(refusal.requests) == refusal.complete
        return (len(self.requests) if in_head else self.complete) > refusal.complete


def text(data: bytes) -> str:
    """As `events` writes it."""
    simple = {13: "\\r", 10: "\\n"}
    return "".join(
        simple.get(byte) or (chr(byte) if 32 <= byte < 127 and byte != 92 else f"\\x{byte:02x}") for byte in data
    )


def body_text(data: bytes) -> str:
    return f"{len(data)} bytes" if len(data) > 64 else text(data)


# --- the three parsers --------------------------------------------------------------------------------------------


def ours(data: bytes) -> Verdict:
    verdict = Verdict()
    body = ""
    for line in core.events([data]):
        kind, _, rest = line.partition(" ")
        if kind == "request_head":
            verdict.requests.append(Request(*rest.split()[:2]))
            body = ""
        elif kind == "field":
            name, _, value = rest.partition(":")
            verdict.requests[-1].fields += ((name, value.strip(" ")),)
        elif kind == "body":
            body = rest
        elif kind == "end_of_message":
            verdict.requests[-1].body = body
            verdict.complete += 1
        elif kind == "error":
            verdict.refused = rest.split()[0]
    return verdict


class Callbacks:
    """Collects what httptools calls back."""

    def __init__(self) -> None:
        self.parser = httptools.HttpRequestParser(self)
        self.verdict = Verdict()
        self.on_message_begin()

    def on_message_begin(self) -> None:
        self.target = self.body = b""
        self.fields: list[tuple[str, str]] = []
        self.in_head = True

    def on_url(self, piece: bytes) -> None:
        self.target += piece

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.in_head:  # llhttp reports trailers by the same callback. It leaves white space behind a value.
            self.fields.append((text(name).lower(), text(value.strip(b" \t"))))

    def on_headers_complete(self) -> None:
        self.in_head = False
        self.verdict.requests.append(Request(text(self.parser.get_method()), text(self.target), tuple(self.fields)))

    def on_body(self, piece: bytes) -> None:
        self.body += piece

    def on_message_complete(self) -> None:
        if self.parser.should_upgrade():  # it stops behind such a head, and has not seen the body
            return
        self.verdict.requests[-1].body = body_text(self.body)
        self.verdict.complete += 1


def by_httptools(data: bytes) -> Verdict:
    callbacks = Callbacks()
    try:
        callbacks.parser.feed_data(data)
    except httptools.HttpParserUpgrade:
        pass
    except httptools.HttpParserError as error:
        callbacks.verdict.refused = str(error)
    return callbacks.verdict


def by_h11(data: bytes) -> Verdict:
    verdict = Verdict()
    body = b""
    connection = h11.Connection(h11.SERVER)
    try:
        connection.receive_data(data)
        while True:
            event = connection.next_event()
            if isinstance(event, h11.Request):
                fields = tuple((text(name).lower(), text(value)) for name, value in event.headers)
                verdict.requests.append(Request(text(event.method), text(event.target), fields))
                body = b""
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                verdict.requests[-1].body = body_text(body)
                verdict.complete += 1
                status = 501 if verdict.requests[-1].method == "CONNECT" else 200
                connection.send(h11.Response(status_code=status, headers=[("content-length", "0")]))
                connection.send(h11.EndOfMessage())
                if connection.our_state is h11.MUST_CLOSE:  # it has no keep-alive for HTTP/1.0
                    return verdict
                connection.start_next_cycle()
            else:
                return verdict
    except h11.RemoteProtocolError as error:
        verdict.refused = str(error)
    return verdict


# --- why ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Class:
    """A class of disagreement. `says`: our error's name, or a pattern of the other's message. `holds`: can it be?"""

    name: str
    says: str
    holds: Callable[[bytes], bool]
    rule: str
    reason: str


def matches(pattern: bytes) -> Callable[[bytes], bool]:
    compiled = re.compile(pattern, re.IGNORECASE | re.DOTALL)
    return lambda data: compiled.search(data) is not None


def longer_than(size: int) -> Callable[[bytes], bool]:
    return lambda data: len(data) > size


# RFC 9110 section 7.2, as far as a pattern says it: what an IPv6 address looks like inside its brackets is left open.
_HOST = re.compile(rb"(?:\[[0-9A-Fa-f:.]*\]|\[v[^\]]*\]|(?:[\w.~!$&'()*+,;=-]|%[0-9A-Fa-f]{2})+)(?::\d*)?", re.ASCII)
_HOST_LINE = re.compile(rb"\r\nhost:[ \t]*([^\r\n]*?)[ \t]*\r\n", re.IGNORECASE)


def malformed_host(data: bytes) -> bool:
    values = _HOST_LINE.findall(data)
    return any(b"[" in value or re.search(rb":\d{5,}", value) or not _HOST.fullmatch(value) for value in values)


def huge_length(data: bytes) -> bool:
    return any(int(value) >= 2**63 for value in re.findall(rb"content-length:[ \t]*(\d+)", data, re.IGNORECASE))


# llhttp's list.
METHODS = frozenset({
    "GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "COPY", "LOCK", "MKCOL", "MOVE",
    "PROPFIND", "PROPPATCH", "SEARCH", "UNLOCK", "BIND", "REBIND", "UNBIND", "ACL", "REPORT", "MKACTIVITY", "CHECKOUT",
    "MERGE", "M-SEARCH", "NOTIFY", "SUBSCRIBE", "UNSUBSCRIBE", "PURGE", "MKCALENDAR", "LINK", "UNLINK", "QUERY",
})  # fmt: skip


def unlisted_method(data: bytes) -> bool:
    return any(request.method not in METHODS for request in ours(data).requests)


WE_REFUSE = [
    Class("syntax of Host", "host", malformed_host, "RFC 9112 §3.2",
          "a server MUST answer 400 to a Host with an invalid value; the others hand it on as it is"),
    Class("empty Host", "host_empty", matches(rb"\r\nhost:[ \t]*\r\n"), "RFC 9112 §3.2",
          "legal only if the target has no authority; refused where an application would need one"),
    Class("byte of the target", "target", matches(rb" [^\r\n ]*[#\x7f-\xff]"), "RFC 9112 §3.2",
          "a fragment is in no form of target, nor is a byte outside of ASCII"),
    Class("form of the target", "target_form", matches(rb"[^ \r\n] [^/ ][^ \r\n]* HTTP/"), "RFC 9112 §3.2",
          "origin-form begins with a slash, and the asterisk is for OPTIONS"),
    Class("absolute form", "target_uri", matches(rb" [a-z][a-z0-9+.-]*://"), "RFC 9112 §3.2.2",
          "an http or https URI with a host and without userinfo (RFC 9110 §4.2)"),
    Class("authority form", "target_authority", matches(rb"CONNECT "), "RFC 9112 §3.2.3",
          "CONNECT has a host and a port, and nothing else"),
    Class("long target", "target_length", longer_than(8192), "RFC 9112 §3", "a limit of ours: 414"),
    Class("long head", "head_length", longer_than(65536), "RFC 6585 §5", "a limit of ours: 431"),
    Class("many fields", "fields_count", lambda data: data.count(b"\r\n") > 100, "RFC 6585 §5", "a limit of ours: 431"),
    Class("long trailers", "trailers_length", longer_than(16384), "RFC 6585 §5", "a limit of ours: 431"),
    Class("long extensions", "chunk_extension_length", longer_than(16384), "RFC 9112 §7.1.1",
          "a recipient ought to limit the total length of extensions"),
    Class("unknown expectation", "expectation", matches(rb"\nexpect:"), "RFC 9110 §10.1.1",
          "a server may answer 417; the others leave it to the application"),
    Class("huge length", "content_length", huge_length, "RFC 9110 §8.6",
          "a recipient must not overflow; beyond 2^63-1 no body can be counted"),
    Class("many digits of a chunk size", "chunk_size", matches(rb"[0-9a-f]{17,}"), "RFC 9112 §7.1",
          "16 hexadecimal digits say every size there is; more are a way to let a reader overflow"),
    Class("grammar of extensions", "chunk_extension", matches(rb"[0-9a-f][ \t]*;"), "RFC 9112 §7.1.1",
          "what is ignored must still be read by its grammar; the others skip to the line end"),
    Class("coding in HTTP/1.0", "transfer_encoding_version", matches(rb"HTTP/1\.0\r\n.*transfer-encoding:"),
          "RFC 9112 §6.1",
          "an HTTP/1.0 message with Transfer-Encoding MUST be treated as if its framing is faulty"),
    Class("other major version", "version_unsupported", matches(rb" HTTP/[02-9]\."), "RFC 9110 §15.6.6",
          "505; the others take what looks like HTTP/1.1"),
]  # fmt: skip

FRAMING_IN_TRAILERS = matches(rb"\r\n0+[^\r\n]*\r\n.*(?:content-length|transfer-encoding)[ \t]*:")
SPACE_IN_EXTENSION = matches(rb"[0-9a-f][ \t]+;|;[ \t]|[ \t]=|=[ \t]")

HTTPTOOLS_REFUSES = [
    Class("methods", "Invalid method|Expected space after method|Expected SOURCE|Expected CRLF", unlisted_method,
          "RFC 9110 §9.1", "a method is any token; llhttp has a list"),
    Class("minor versions", "Invalid HTTP version", matches(rb" HTTP/1\.[2-9]\r"), "RFC 9110 §2.5",
          "a higher minor version is answered as the highest we know"),
    Class("framing in trailers", "Content-Length|Transfer-Encoding", FRAMING_IN_TRAILERS, "RFC 9110 §6.5.1",
          "a forbidden trailer field is dropped; the message is framed already, and nothing is merged"),
    Class("space in extensions", "Invalid character in chunk|Invalid quoted-pair", SPACE_IN_EXTENSION,
          "RFC 9112 §7.1.1", "bad white space around semicolon and equals sign must be parsed"),
    Class("space behind a coding", "Request has invalid `Transfer-Encoding`",
          matches(rb"transfer-encoding:[^\r]*[ \t]\r\n"), "RFC 9110 §5.5",
          "white space around a value is no part of it"),
]  # fmt: skip

H11_REFUSES = [
    Class("empty lines first", "no request line received|illegal request line", matches(rb"(?:^|\n)\r\n.*HTTP/"),
          "RFC 9112 §2.2", "a server should ignore an empty line before a request line"),
    Class("zeros before a length", "bad Content-Length", matches(rb"content-length:[ \t]*0\d{20,}"), "RFC 9110 §8.6",
          "1*DIGIT; the number counts, not its digits"),
    Class("framing in trailers", "Content-Length|Transfer-Encoding", FRAMING_IN_TRAILERS, "RFC 9110 §6.5.1",
          "a forbidden trailer field is dropped; the message is framed already, and nothing is merged"),
    Class("space in extensions", "illegal chunk header", SPACE_IN_EXTENSION, "RFC 9112 §7.1.1",
          "bad white space around semicolon and equals sign must be parsed"),
]  # fmt: skip


def explained(table: list[Class], said: str, data: bytes) -> str | None:
    exact = table is WE_REFUSE
    for row in table:
        if (row.says == said if exact else re.search(row.says, said)) and row.holds(data):
            return row.name
    return None


# --- inputs -------------------------------------------------------------------------------------------------------

WORDS = [
    b"\r\n", b"\n", b"\r", b" ", b"\t", b"\0", b":", b",", b";", b"/", b"\x7f", b"\x80", b"0", b"a", b"=", b'"',
    b"chunked", b"gzip", b"close", b"HTTP/1.0", b"HTTP/1.1", b"0\r\n\r\n", b"Host: a\r\n", b"Content-Length: 5\r\n",
    b"Transfer-Encoding: chunked\r\n", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
]  # fmt: skip


def mutated(data: bytes, dice: random.Random) -> bytes:
    out = bytearray(data)
    for _ in range(dice.randint(1, 3)):
        at = dice.randrange(len(out) + 1)
        match dice.randrange(7):
            case 0:
                out[at : at + 1] = bytes([dice.randrange(256)])
            case 1:
                out[at:at] = dice.choice(WORDS)
            case 2:
                del out[at : at + dice.randint(1, 4)]
            case 3 if at < len(out):
                out[at] ^= 1 << dice.randrange(8)
            case 4:
                out[at:at] = out[at : at + dice.randint(1, 20)]
            case _:
                out[at : at + 1] = bytes([dice.choice(b"abcdefXYZ0159-_./:;=, ")])
    return bytes(out)


def inputs(seed: int) -> list[bytes]:
    """The book's inputs (those without limits of their own), and mutations, mostly of what we take."""
    book = [case for case in load_cases() if not case.limits]
    small = [case for case in book if len(case.data) <= INPUT_BYTES_MAX]
    taken = [case.data for case in small if case.error is None]
    refused = [case.data for case in small if case.error is not None]
    dice = random.Random(seed)
    changed = [mutated(dice.choice(refused if dice.randrange(5) == 0 else taken), dice) for _ in range(MUTATIONS)]
    return [*(case.data for case in book), *changed]


# --- the test -----------------------------------------------------------------------------------------------------


def same_request(one: Request, other: Request) -> bool:
    bodies = None in (one.body, other.body) or one.body == other.body
    return bodies and (one.method, one.target) == (other.method, other.target) and lower(one) == lower(other)


def lower(request: Request) -> Fields:
    """h11 writes the name of the coding in lower case."""
    return tuple((name, value.lower() if name == "transfer-encoding" else value) for name, value in request.fields)


def judge(data: bytes, seen: Counter[str]) -> str | None:
    """None, or what is wrong. Counts the classes that were met in `seen`."""
    our, by_them = ours(data), {"httptools": by_httptools(data), "h11": by_h11(data)}
    for name, table in (("httptools", HTTPTOOLS_REFUSES), ("h11", H11_REFUSES)):
        their = by_them[name]
        if their.refused is not None and our.took(their):
            why = explained(table, their.refused, data)
            if why is None:
                return f"{name} refuses what we take: {their.refused}"
            seen[f"{name} refuses, we take: {why}"] += 1
        for ours_, theirs in zip(our.requests, their.requests, strict=False):
            if not same_request(ours_, theirs):
                return f"{name} reads another request: {ours_} {theirs}"
    if our.refused is not None and all(their.took(our) for their in by_them.values()):
        why = explained(WE_REFUSE, our.refused, data)
        if why is None:
            return f"we refuse what both take: {our.refused}"
        seen[f"we refuse, both take: {why}"] += 1
    elif our.refused is None and not any(their.refused for their in by_them.values()):
        seen["all agree"] += 1
    elif our.refused is not None and all(their.refused for their in by_them.values()):
        seen["all refuse"] += 1
    return None


@pytest.fixture(scope="module")
def verdicts() -> tuple[list[str], Counter[str]]:
    seen: Counter[str] = Counter()
    wrong = [f"{data!r}\n  {what}" for data in inputs(SEED) if (what := judge(data, seen)) is not None]
    return wrong, seen


def all_explained(wrong: list[str], seen: Counter[str]) -> None:
    print(f"seed {SEED}")
    for what, count in sorted(seen.items()):
        print(f"{count:7}  {what}")
    assert not wrong, f"seed {SEED}, {len(wrong)} inputs:\n" + "\n".join(wrong[:20])


def all_met(tables: list[list[Class]], seen: Counter[str]) -> None:
    """An explanation that explains nothing would hide the next fault."""
    met = {what.partition(": ")[2] for what in seen}
    for row in (row for table in tables for row in table):
        assert row.name in met, row.name
        assert re.fullmatch(r"RFC \d{4} §\d+(\.\d+)*", row.rule) and row.reason


def test_every_disagreement_is_explained(verdicts: tuple[list[str], Counter[str]]) -> None:
    all_explained(*verdicts)


def test_no_class_is_idle(verdicts: tuple[list[str], Counter[str]]) -> None:
    all_met([WE_REFUSE, HTTPTOOLS_REFUSES, H11_REFUSES], verdicts[1])
    assert verdicts[1]["all agree"] > 600 and verdicts[1]["all refuse"] > 600


def test_the_parsers_are_read_rightly() -> None:
    """One request with everything in it, and what each of the three makes of it."""
    head = b"POST /a?b HTTP/1.1\r\nHost: a\r\nX-A:  b \r\nTransfer-Encoding: chunked\r\n\r\n"
    data = head + b"1\r\nx\r\n0\r\nX-T: u\r\n\r\nGET"
    wanted = Request("POST", "/a?b", (("host", "a"), ("x-a", "b"), ("transfer-encoding", "chunked")), "x")
    for parser in (ours, by_httptools, by_h11):
        assert parser(data) == Verdict([wanted], 1)
        assert parser(b"GET / HTTP/1.1\r\nHost : a\r\n\r\n").refused
        assert not parser(b"GET / HTTP/1.1\r\nHost : a\r\n\r\n").requests
