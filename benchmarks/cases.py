"""What is asked of a server: one row per case, and the request heads that the micro-benchmarks parse.

Called by run.py (the table CASES) and by micro/ (the heads). A case is bytes: the same bytes go through the first,
checked request and through wrk, so that what is measured is what was checked.
"""

import json
from dataclasses import dataclass

HELLO = b"Hello, World!"
MESSAGE = {"message": "Hello, World!"}
ITEM = json.dumps({"item_id": 42, "q": "shoes"}).encode()  # of a framework's endpoint
TEN_KILOBYTES = b"0123456789abcdef" * 640
ONE_MEGABYTE = b"0123456789abcdef" * 65536
CHUNKS = 10
STREAMED = b"0123456789abcdef" * 64 * CHUNKS
FILE = b"A file of 64 KiB, line by line.\n" * 2048
ONE_KILOBYTE = b"The quick brown fox jumps over the lazy dog 0123456789\r\n=&%\xc3\xa9\x00".ljust(64, b".") * 16

# A browser's GET as Chrome sends it on a page with a few cookies; fifteen fields with Host.
BROWSER_FIELDS = (
    b"Connection: keep-alive\r\n"
    b"Cache-Control: max-age=0\r\n"
    b'sec-ch-ua: "Chromium";v="128", "Not;A=Brand";v="24", "Google Chrome";v="128"\r\n'
    b"sec-ch-ua-mobile: ?0\r\n"
    b'sec-ch-ua-platform: "Linux"\r\n'
    b"Upgrade-Insecure-Requests: 1\r\n"
    b"User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/128.0.0.0 "
    b"Safari/537.36\r\n"
    b"Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8\r\n"
    b"Sec-Fetch-Site: none\r\n"
    b"Sec-Fetch-Mode: navigate\r\n"
    b"Sec-Fetch-Dest: document\r\n"
    b"Accept-Encoding: gzip, deflate, br, zstd\r\n"
    b"Accept-Language: en-GB,en;q=0.9\r\n"
    b"Cookie: session=4f1c9a7be2d03; theme=dark; csrf=Yk3JQm0zV2hqT1pLd0xWbjRhUQ\r\n"
)

# RFC 6455 section 4.1; the key is the one of its section 1.3.
HANDSHAKE = (
    b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)


def head(method: bytes, target: bytes, host: bytes, fields: bytes = b"") -> bytes:
    return b"%b %b HTTP/1.1\r\nHost: %b\r\n%b\r\n" % (method, target, host, fields)


# The inputs of the micro-benchmarks, by name. Their sizes are part of what is compared; tests/test_benchmarks.py holds
# them fast.
HEADS = {
    "tiny": head(b"GET", b"/", b"example.com"),
    "wrk": head(b"GET", b"/", b"127.0.0.1:8000"),
    "browser": head(b"GET", b"/", b"127.0.0.1:8000", BROWSER_FIELDS),
    "50-fields": head(
        b"GET",
        b"/a/longer/path/to/a/resource?with=a&query=string",
        b"www.example.com",
        b"".join(b"X-Custom-Field-%02d: value-%02d-%b\r\n" % (n, n, b"abcdefghijklmnopqrstuvwxyz") for n in range(49)),
    ),
}


@dataclass(frozen=True, slots=True)
class Case:
    """One workload. Where `connections` is None the number given on the command line is used."""

    name: str
    title: str
    target: bytes
    expected: bytes
    method: bytes = b"GET"
    fields: bytes = b""
    body: bytes = b""
    depth: int = 1  # requests sent in one write, before their answers are read
    connections: int | None = None
    keep_alive: bool = True
    expects_json: bool = False  # servers may choose their own white space
    chunks_min: int = 0  # a stream must come in so many chunks at least: gathering it first is not streaming
    tls: bool = False  # over TLS, with the certificate of tests/data
    websocket: bool = False  # `body` is a message, echoed; the request is the handshake

    def request(self, host: str) -> bytes:
        """The bytes of one write of a client: `depth` requests."""
        fields = self.fields
        if self.websocket:
            return head(self.method, self.target, host.encode("ascii"), HANDSHAKE)
        if self.body:
            fields += b"Content-Type: application/octet-stream\r\nContent-Length: %d\r\n" % len(self.body)
        if not self.keep_alive:
            fields += b"Connection: close\r\n"
        return (head(self.method, self.target, host.encode("ascii"), fields) + self.body) * self.depth

    def message(self) -> bytes:
        """The WebSocket message as a client's frame: final, binary, masked (RFC 6455 section 5.2)."""
        mask = b"\x37\xfa\x21\x3d"
        masked = bytes(byte ^ mask[n % 4] for n, byte in enumerate(self.body))
        return b"\x82" + bytes([0x80 | len(self.body)]) + mask + masked

    def reply(self) -> bytes:
        """The same message as a server's frame, which is not masked."""
        return b"\x82" + bytes([len(self.body)]) + self.body

    def is_answered_by(self, body: bytes) -> bool:
        if not self.expects_json:
            return body == self.expected
        try:
            return bool(json.loads(body) == json.loads(self.expected))
        except ValueError:
            return False


CASES = {
    case.name: case
    for case in (
        Case("plaintext", "GET /, keep-alive", b"/", HELLO),
        Case("pipelined", "GET /, 16 requests in one write", b"/", HELLO, depth=16),
        Case("json", "GET /json, encoded per request", b"/json", json.dumps(MESSAGE).encode(), expects_json=True),
        Case("browser", "GET / with a browser's 15 fields, ~700 B", b"/", HELLO, fields=BROWSER_FIELDS),
        Case("echo-1k", "POST /echo, 1 KB there and back", b"/echo", ONE_KILOBYTE, method=b"POST", body=ONE_KILOBYTE),
        Case("10k", "GET /10k, a 10 KB answer", b"/10k", TEN_KILOBYTES),
        Case("close", "GET /, a connection per request", b"/", HELLO, keep_alive=False),
        Case(
            "echo-64k",
            "POST /echo, 64 KB there and back",
            b"/echo",
            ONE_KILOBYTE * 64,
            method=b"POST",
            body=ONE_KILOBYTE * 64,
        ),
        Case("1m", "GET /1m, a 1 MB answer", b"/1m", ONE_MEGABYTE),
        Case("stream", "GET /stream, ten chunks of 1 KB", b"/stream", STREAMED, chunks_min=CHUNKS),
        Case("static", "GET /64k.txt, a file of 64 KB", b"/64k.txt", FILE),
        Case("c1", "GET /, one connection", b"/", HELLO, connections=1),
        Case("c512", "GET /, 512 connections", b"/", HELLO, connections=512),
        Case("tls", "GET / over TLS, keep-alive", b"/", HELLO, tls=True),
        Case("tls-10k", "GET /10k over TLS", b"/10k", TEN_KILOBYTES, tls=True),
        Case("tls-close", "GET / over TLS, a handshake per request", b"/", HELLO, keep_alive=False, tls=True),
        *(
            Case(
                framework.lower(),
                f"GET /items/42?q=shoes, a {framework} endpoint",
                b"/items/42?q=shoes",
                ITEM,
                expects_json=True,
            )
            for framework in ("FastAPI", "Starlette")
        ),
        Case(
            "websocket",
            "a message of 64 B there and back",
            b"/ws",
            ONE_KILOBYTE[:64],
            body=ONE_KILOBYTE[:64],
            websocket=True,
        ),
    )
}
DEFAULT = tuple(CASES)
QUICK = ("plaintext", "pipelined", "json", "browser", "echo-1k", "close", "stream", "fastapi")
