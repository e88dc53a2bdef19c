"""Response: the value a handler returns, with its kinds; cookies; JSON out.

Room:    floor 1. A Response is a status, a list of fields and a body; it writes nothing. Content-Length, Date,
         Connection and Transfer-Encoding are the business of whoever sends it (Exchange), so they are not among its
         headers; a Content-Length the user sets is a declaration that is held to (RFC 9110 section 8.6).
Called:  by users, the native wing. Calls Headers.
Rules:   RFC 9110 sections 8.3 (Content-Type), 10.2.2 (Location); RFC 6265 section 4.1 (Set-Cookie).
         Names and signatures are starlette.responses's.
"""
from fastserve.protocol.headers cimport MutableHeaders, checked_value, raw_headers

import asyncio
import mimetypes
import os
import re
from datetime import datetime, timezone
from email.utils import format_datetime, formatdate
from http.cookies import SimpleCookie
from collections.abc import Mapping
from time import time
from urllib.parse import quote

__all__ = [
    "EventSourceResponse",
    "FileResponse",
    "HTMLResponse",
    "JSONResponse",
    "PlainTextResponse",
    "RedirectResponse",
    "Response",
    "StreamingResponse",
    "json_encode",
]


cdef object _json_encoder():
    # the same order as json_decode in request.pyx
    try:
        from msgspec.json import Encoder
        return Encoder().encode
    except ImportError:
        pass
    try:
        from orjson import dumps
        return dumps
    except ImportError:
        from json import JSONEncoder
        encode = JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
        return lambda value: encode(value).encode("utf-8")


json_encode = _json_encoder()

cdef dict CONTENT_TYPES = {
    "text/plain": b"text/plain; charset=utf-8",
    "text/html": b"text/html; charset=utf-8",
    "application/json": b"application/json",
}


cdef object _control_character = re.compile(r"[\x00-\x1f\x7f]").search


cdef bytes content_type_of(object media_type):
    found = CONTENT_TYPES.get(media_type)
    if found is not None:
        return <bytes>found
    if media_type.startswith("text/") and "charset=" not in media_type.lower():
        return checked_value(media_type + "; charset=utf-8")
    return checked_value(media_type)


# What the web needs, whatever the tables of the machine say (RFC 9239: text/javascript). Others: mimetypes, which reads
# those tables and knows what the application has added.
cdef dict TYPES = {
    ".avif": "image/avif",
    ".css": "text/css",
    ".gz": "application/gzip",
    ".br": "application/octet-stream",
    ".htm": "text/html",
    ".html": "text/html",
    ".ico": "image/vnd.microsoft.icon",
    ".js": "text/javascript",
    ".json": "application/json",
    ".map": "application/json",
    ".mjs": "text/javascript",
    ".mp4": "video/mp4",
    ".svg": "image/svg+xml",
    ".txt": "text/plain",
    ".wasm": "application/wasm",
    ".webm": "video/webm",
    ".webmanifest": "application/manifest+json",
    ".webp": "image/webp",
    ".woff": "font/woff",
    ".woff2": "font/woff2",
    ".xml": "application/xml",
    ".zst": "application/zstd",
}
cdef dict TYPE_OF_CODING = {
    "bzip2": "application/x-bzip2",
    "compress": "application/x-compress",
    "gzip": "application/gzip",
    "xz": "application/x-xz",
}


cdef bytes type_of_name(object name):
    name = os.fsdecode(name)
    found = TYPES.get(os.path.splitext(name)[1].lower())
    if found is None:
        # A "tar.gz" is one thing to whoever downloads it; called a tar that is coded, it would arrive unpacked.
        found, coding = mimetypes.guess_type("file:" + os.path.basename(name).lower(), strict=False)
        if coding is not None:
            found = TYPE_OF_CODING.get(coding)
    return content_type_of(found or "application/octet-stream")


cdef bytes _bytes_of(object content):
    if type(content) is bytes:
        return <bytes>content
    if content is None:
        return b""
    if isinstance(content, str):
        return (<str>content).encode("utf-8")
    if isinstance(content, (bytes, bytearray, memoryview)):
        return bytes(content)
    raise TypeError(f"the content of a response is bytes or str, not {type(content).__name__}")


cdef class Response:
    """A status, headers and a body.

    `content`: bytes or str (UTF-8). `headers`: mapping or pairs of str; names must be tokens and values free of CR, LF
    and NUL (ValueError). `media_type`: becomes Content-Type unless `headers` has one; text/* gets "; charset=utf-8".
    A subclass may set `media_type` and override `render(content) -> bytes`. Source: starlette.responses.Response.
    """

    def __init__(self, content=b"", status_code=200, headers=None, media_type=None):
        self._begin(status_code, headers, media_type, None)
        self._body = _bytes_of(content) if type(self) is Response else _bytes_of(self.render(content))

    cdef int _begin(self, object status_code, object headers, object media_type, object own_media_type) except -1:
        self.status_code = status_code
        self._raw = raw_headers(headers)
        if media_type is None:
            media_type = own_media_type
            if type(self) not in OURS:
                declared = type(self).media_type
                if isinstance(declared, str):
                    media_type = declared   # a class attribute of a subclass, hiding the slot of this class
        self.media_type = media_type
        if media_type is not None:
            for item in self._raw:
                if (<tuple>item)[0] == b"content-type":
                    return 0
            self._raw.append((b"content-type", content_type_of(media_type)))
        return 0

    cdef list raw_headers_(self):
        return self._raw

    def render(self, content):
        """The body of `content`; bytes and str as they are."""
        return _bytes_of(content)

    @property
    def headers(self):
        """MutableHeaders. Changes are sent."""
        if self._headers is None:
            self._headers = MutableHeaders(raw=self._raw)
        return self._headers

    @property
    def raw_headers(self):
        """list of (bytes, bytes)."""
        return self._raw

    @property
    def body(self):
        """bytes; None for a stream."""
        return self._body

    @body.setter
    def body(self, value):
        self._body = _bytes_of(value)

    def set_cookie(self, key, value="", max_age=None, expires=None, path="/", domain=None, secure=False, httponly=False,
                   samesite="lax", partitioned=False):
        """Add a Set-Cookie field (RFC 6265 section 4.1).

        `max_age`: seconds. `expires`: datetime, text of a date, or seconds from now. `samesite`: "lax", "strict",
        "none" or None. ValueError for anything that cannot stand in a cookie. Source:
        starlette.responses.Response.set_cookie.
        """
        cdef list parts
        if _control_character(str(value)) is not None:   # newer http.cookies refuses them, older escapes them
            raise ValueError(f"cookie {key!r}: there is a control character in its value (RFC 6265 section 4.1.1)")
        cookie = SimpleCookie()
        try:
            cookie[key] = value            # checks the name, quotes the value
        except Exception as error:         # http.cookies.CookieError
            raise ValueError(f"cookie name {key!r} is not a token (RFC 6265 section 4.1.1)") from error
        parts = [f"{key}={cookie[key].coded_value}"]
        if domain is not None:
            parts.append(f"Domain={_attribute('domain', domain)}")
        if expires is not None:
            if isinstance(expires, datetime):
                # a naive one is local time, as everywhere in datetime
                expires = format_datetime(expires.astimezone(timezone.utc), usegmt=True)
            elif isinstance(expires, int):
                expires = formatdate(time() + expires, usegmt=True)
            parts.append(f"Expires={_attribute('expires', expires)}")
        if httponly:
            parts.append("HttpOnly")
        if max_age is not None:
            parts.append(f"Max-Age={int(max_age)}")
        if partitioned:
            parts.append("Partitioned")
        if path is not None:
            parts.append(f"Path={_attribute('path', path)}")
        if samesite is not None:
            if samesite.lower() not in ("lax", "strict", "none"):
                raise ValueError(f"samesite is 'lax', 'strict', 'none' or None, not {samesite!r}")
            parts.append(f"SameSite={samesite}")
        if secure:
            parts.append("Secure")
        self._raw.append((b"set-cookie", checked_value("; ".join(parts))))

    def delete_cookie(self, key, path="/", domain=None, secure=False, httponly=False, samesite="lax",
                      partitioned=False):
        """Tell the client to drop a cookie; path and domain must be those it was set with."""
        self.set_cookie(key, "", 0, 0, path, domain, secure, httponly, samesite, partitioned)

    def __repr__(self):
        return f"<{type(self).__name__} {self.status_code}>"


def _attribute(name, value):
    value = str(value)
    # RFC 6265 section 4.1.1: any character except controls and ";", or the attribute could smuggle in others
    if ";" in value or not value.isprintable():
        raise ValueError(f"{name} {value!r} of a cookie holds ';' or a control character")
    return value


cdef class PlainTextResponse(Response):
    """text/plain; charset=utf-8."""

    def __init__(self, content=b"", status_code=200, headers=None, media_type=None):
        self._begin(status_code, headers, media_type, "text/plain")
        self._body = _bytes_of(content) if type(self) is PlainTextResponse else _bytes_of(self.render(content))


cdef class HTMLResponse(Response):
    """text/html; charset=utf-8."""

    def __init__(self, content=b"", status_code=200, headers=None, media_type=None):
        self._begin(status_code, headers, media_type, "text/html")
        self._body = _bytes_of(content) if type(self) is HTMLResponse else _bytes_of(self.render(content))


cdef class JSONResponse(Response):
    """application/json: any `content` that msgspec, orjson or json (whichever is installed) can write. TypeError or
    ValueError if it cannot."""

    def __init__(self, content, status_code=200, headers=None, media_type=None):
        self._begin(status_code, headers, media_type, "application/json")
        self._body = json_encode(content) if type(self) is JSONResponse else _bytes_of(self.render(content))

    def render(self, content):
        return json_encode(content)


cdef class RedirectResponse(Response):
    """A redirect to `url` (str or URL), which is percent-encoded where it needs to be (RFC 9110 section 10.2.2)."""

    def __init__(self, url, status_code=307, headers=None):
        self._begin(status_code, headers, None, None)
        self._body = b""
        (<MutableHeaders>self.headers).put(
            b"location", checked_value(quote(str(url), safe=":/%#?=@[]!$&'()*+,;"))
        )


cdef class StreamingResponse(Response):
    """A body that comes piece by piece: `content` is an iterator, iterable or asynchronous iterator of bytes or str
    (UTF-8).

    Plain iterators run in the thread pool. Without a "content-length" header the body is sent chunked (to an HTTP/1.0
    peer: until the connection closes). Source: starlette.responses.StreamingResponse.
    """

    def __init__(self, content, status_code=200, headers=None, media_type=None):
        self._begin(status_code, headers, media_type, None)
        if not hasattr(content, "__aiter__") and not hasattr(content, "__iter__"):
            raise TypeError(f"a StreamingResponse needs an iterator, not {type(content).__name__}")
        if isinstance(content, (bytes, bytearray, memoryview, str)):
            raise TypeError("a StreamingResponse needs an iterator of pieces; for one piece use Response")
        self.body_iterator = content


cdef class FileResponse(Response):
    """The file at `path` (str, bytes or PathLike), sent by the kernel where that can be.

    Conditional requests, ranges and HEAD are answered from its size and times (RFC 9110 sections 13 and 14), unless
    `status_code` is not 200; ETag and Last-Modified in `headers` take the place of its own. `filename`: becomes
    Content-Disposition, with `content_disposition_type`. `media_type`: guessed from `filename` or `path` if None.
    The file is opened when the response is sent: OSError from there, which exception handlers see, if it cannot be.
    `stat_result` and `method` are taken for Starlette's sake: the open file and the request know better.
    Source: starlette.responses.FileResponse.
    """

    def __init__(self, path, status_code=200, headers=None, media_type=None, *, filename=None,
                 content_disposition_type="attachment", stat_result=None, method=None):
        if not isinstance(path, (str, bytes, os.PathLike)):
            raise TypeError(f"a FileResponse needs the path of a file, not {path!r}")
        self.path = path
        self.filename = filename
        self._begin(status_code, headers, media_type, None)
        if not any([(<tuple>item)[0] == b"content-type" for item in self._raw]):
            self._raw.append((b"content-type", type_of_name(path if filename is None else filename)))
        if filename is not None and not any([(<tuple>item)[0] == b"content-disposition" for item in self._raw]):
            self._raw.append((b"content-disposition", _disposition(content_disposition_type, filename)))


cdef bytes _disposition(object kind, object filename):
    # RFC 6266 section 4.1, RFC 8187: what is not plain is percent-encoded UTF-8
    encoded = quote(filename, safe="")
    if encoded == filename:
        return checked_value(f'{kind}; filename="{filename}"')
    plain = filename.isascii() and filename.isprintable() and not any([c in filename for c in '"\\%'])
    if plain:
        return checked_value(f'{kind}; filename="{filename}"')
    return checked_value(f"{kind}; filename*=utf-8''{encoded}")


# --- server-sent events (WHATWG HTML, section 9.2) ---


cdef bytes _one_line(str name, object value):
    text = str(value)
    if "\n" in text or "\r" in text or "\0" in text:
        raise ValueError(f"{name} {value!r} of an event must be one line, without NUL")
    return f"{name}: {text}\n".encode()


cdef bytes _event(object event):
    """The block of one event: str is data, a mapping has data, event, id, retry or comment, bytes go out as they are."""
    cdef list lines = []
    if isinstance(event, (bytes, bytearray, memoryview)):
        return bytes(event)
    if not isinstance(event, Mapping):
        event = {"data": event}
    for name, value in event.items():
        if value is None:
            continue
        if name == "data":
            text = value if isinstance(value, str) else json_encode(value).decode()
            # The format ends a line at CRLF, CR or LF, whichever comes: each becomes a data line of its own.
            for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n"):
                lines.append(f"data: {line}\n".encode())
        elif name == "retry":
            if type(value) is not int or value < 0:
                raise ValueError(f"retry of an event is whole milliseconds, not {value!r}")
            lines.append(b"retry: %d\n" % value)
        elif name == "comment":
            lines.append(_one_line("", value))
        elif name == "event" or name == "id":
            lines.append(_one_line(name, value))
        else:
            raise ValueError(f"an event has data, event, id, retry and comment, not {name!r}")
    lines.append(b"\n")
    return b"".join(lines)


async def _pump(object source, object queue):
    # In a task of its own from its first step to its last: what the generator enters (timeouts, contexts) stays in one task.
    error = None
    try:
        async for event in source:
            await queue.put((True, event))
    except Exception as raised:
        error = raised
    finally:
        close = getattr(source, "aclose", None)
        if close is not None:
            await close()
    await queue.put((False, error))


async def _events(object source, object ping):
    queue = asyncio.Queue(1)   # the source is at most one event ahead of a client that does not take them
    task = asyncio.create_task(_pump(source, queue))
    try:
        while True:
            try:
                going, event = queue.get_nowait()
            except asyncio.QueueEmpty:
                try:
                    going, event = await asyncio.wait_for(queue.get(), ping)
                except asyncio.TimeoutError:
                    yield b": ping\n\n"
                    continue
            if not going:
                if event is not None:
                    raise event
                return
            yield _event(event)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _plain_events(source):
    for event in source:
        yield _event(event)


cdef class EventSourceResponse(StreamingResponse):
    """Server-sent events: `content` is an iterator or asynchronous iterator of events.

    An event is a str (its data), a mapping with any of data (str, or anything JSON can say), event, id, retry (milliseconds)
    and comment, or bytes that are sent as they are. `ping`: seconds of silence after which a comment is sent, so that
    proxies keep the connection and a client that has gone is noticed; None: never. Plain iterators run in the thread pool
    and have no ping. Source: WHATWG HTML, section 9.2.
    """

    def __init__(self, content, status_code=200, headers=None, media_type=None, *, ping=15):
        if ping is not None and not ping > 0:
            raise ValueError(f"ping is seconds above 0, or None, not {ping!r}")
        if hasattr(content, "__aiter__"):
            content = _events(content.__aiter__(), ping)
        elif hasattr(content, "__iter__") and not isinstance(content, (bytes, bytearray, memoryview, str, Mapping)):
            content = _plain_events(content)
        else:
            raise TypeError(f"an EventSourceResponse needs an iterator of events, not {type(content).__name__}")
        StreamingResponse.__init__(self, content, status_code, headers, media_type or "text/event-stream")
        names = {(<tuple>item)[0] for item in self._raw}
        if b"cache-control" not in names:
            self._raw.append((b"cache-control", b"no-store"))
        if b"x-accel-buffering" not in names:
            self._raw.append((b"x-accel-buffering", b"no"))   # nginx would hold events back otherwise


cdef frozenset OURS = frozenset(
    (
        Response, PlainTextResponse, HTMLResponse, JSONResponse, RedirectResponse, StreamingResponse, EventSourceResponse,
        FileResponse,
    )
)
