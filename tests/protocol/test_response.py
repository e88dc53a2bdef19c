"""Response and its kinds as values: what they hold. How they are sent is in tests/interfaces/test_native.py."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from email.utils import parsedate_to_datetime

import pytest

from fastserve import HTMLResponse, JSONResponse, PlainTextResponse, RedirectResponse, Response, StreamingResponse
from fastserve.protocol.headers import URL


@pytest.mark.parametrize(
    ("response", "body", "content_type"),
    [
        (Response(), b"", None),
        (Response(None), b"", None),
        (Response("h\xe9"), b"h\xc3\xa9", None),
        (Response(b"\xff", media_type="image/png"), b"\xff", "image/png"),
        (Response(bytearray(b"a")), b"a", None),
        (Response(memoryview(b"a")), b"a", None),
        (Response("x", media_type="text/css"), b"x", "text/css; charset=utf-8"),
        (Response("x", media_type="text/css; charset=latin-1"), b"x", "text/css; charset=latin-1"),
        (Response("x", headers={"Content-Type": "a/b"}, media_type="text/css"), b"x", "a/b"),
        (PlainTextResponse("a"), b"a", "text/plain; charset=utf-8"),
        (HTMLResponse("<p>"), b"<p>", "text/html; charset=utf-8"),
        (JSONResponse({"a": [1, None, "\xe9"]}), b'{"a":[1,null,"\xc3\xa9"]}', "application/json"),
        (JSONResponse("a"), b'"a"', "application/json"),
        (JSONResponse(None), b"null", "application/json"),
        (JSONResponse({}, media_type="application/problem+json"), b"{}", "application/problem+json"),
    ],
)
def test_body_and_content_type(response, body, content_type):
    assert response.body == body
    assert response.headers.get("content-type") == content_type
    assert len(response.raw_headers) == (content_type is not None)


def test_status_and_headers():
    response = PlainTextResponse("a", 201, {"X-A": "1"})
    assert response.status_code == 201 and response.media_type == "text/plain"
    assert response.raw_headers == [(b"x-a", b"1"), (b"content-type", b"text/plain; charset=utf-8")]
    response.status_code = 202
    response.headers["x-a"] = "2"
    response.headers.append("x-a", "3")
    assert response.raw_headers == [(b"x-a", b"2"), (b"content-type", b"text/plain; charset=utf-8"), (b"x-a", b"3")]
    assert response.headers is response.headers
    response.body = "other"
    assert response.body == b"other"
    assert repr(response) == "<PlainTextResponse 202>"
    assert Response(headers=[("a", "1"), ("a", "2")]).headers.getlist("a") == ["1", "2"]


@pytest.mark.parametrize("kind", [Response, PlainTextResponse, HTMLResponse])
def test_content_must_be_bytes_or_str(kind):
    with pytest.raises(TypeError, match="bytes or str, not int"):
        kind(5)


def test_headers_fail_early():
    with pytest.raises(ValueError, match="CR, LF or NUL"):
        Response(headers={"x": "a\r\nb"})
    with pytest.raises(ValueError, match="not a token"):
        Response(headers={"x y": "a"})
    with pytest.raises(ValueError, match="CR, LF or NUL"):
        Response(media_type="text/plain\r\nx: y")


def test_json_that_cannot_be_written():
    with pytest.raises(TypeError):
        JSONResponse(object())


def test_subclasses_may_set_the_media_type_and_render():
    class Custom(Response):
        media_type = "text/custom"

        def render(self, content):
            return f"<{content}>".encode()

    class Problem(JSONResponse):
        media_type = "application/problem+json"

    assert Custom(5).body == b"<5>" and Custom(5).headers["content-type"] == "text/custom; charset=utf-8"
    assert Custom(5, media_type="a/b").headers["content-type"] == "a/b"
    assert Problem({"a": 1}).body == b'{"a":1}' and Problem({}).headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    ("url", "location"),
    [
        ("/a", "/a"),
        ("/caf\xe9 b?q=\u20ac#f", "/caf%C3%A9%20b?q=%E2%82%AC#f"),
        ("/a%20b", "/a%20b"),
        ("//evil\r\nset-cookie: a", "//evil%0D%0Aset-cookie:%20a"),
        (URL("https://a.example/?x=[1]"), "https://a.example/?x=[1]"),
    ],
)
def test_redirects(url, location):
    response = RedirectResponse(url)
    assert response.status_code == 307 and response.body == b"" and response.headers["location"] == location
    assert RedirectResponse("/", 303).status_code == 303


def test_streams_hold_their_iterator():
    source = iter([b"a"])
    response = StreamingResponse(source, 201, {"x": "y"}, "text/csv")
    assert response.body_iterator is source and response.body is None and response.status_code == 201
    assert response.raw_headers == [(b"x", b"y"), (b"content-type", b"text/csv; charset=utf-8")]
    for wrong in (b"abc", "abc", bytearray(b"abc"), 5):
        with pytest.raises(TypeError, match="StreamingResponse needs an iterator"):
            StreamingResponse(wrong)


# ---------------------------------------------------------------------------------------------------------- cookies


def cookie(**arguments) -> str:
    response = Response()
    response.set_cookie(**arguments)
    return response.headers["set-cookie"]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"key": "a"}, 'a=""; Path=/; SameSite=lax'),
        ({"key": "a", "value": "b"}, "a=b; Path=/; SameSite=lax"),
        ({"key": "a", "value": "b c;"}, 'a="b c\\073"; Path=/; SameSite=lax'),
        ({"key": "a", "value": "b", "path": None, "samesite": None}, "a=b"),
        (
            {
                "key": "a",
                "value": "b",
                "max_age": 10,
                "domain": "example.com",
                "secure": True,
                "httponly": True,
                "samesite": "none",
                "partitioned": True,
                "path": "/x",
            },
            "a=b; Domain=example.com; HttpOnly; Max-Age=10; Partitioned; Path=/x; SameSite=none; Secure",
        ),
        (
            {"key": "a", "expires": datetime(2037, 1, 22, 12, 0, tzinfo=UTC), "path": None, "samesite": None},
            'a=""; Expires=Thu, 22 Jan 2037 12:00:00 GMT',
        ),
        (
            {
                "key": "a",
                "expires": datetime(2037, 1, 22, 12, 0, tzinfo=timezone(timedelta(hours=2))),
                "path": None,
                "samesite": None,
            },
            'a=""; Expires=Thu, 22 Jan 2037 10:00:00 GMT',
        ),
        (
            {"key": "a", "expires": "Thu, 22 Jan 2037 12:00:00 GMT", "path": None, "samesite": None},
            'a=""; Expires=Thu, 22 Jan 2037 12:00:00 GMT',
        ),
    ],
)
def test_set_cookie(arguments, text):
    assert cookie(**arguments) == text


def test_cookies_add_up_and_expire():
    response = Response()
    response.set_cookie("a", "1")
    response.set_cookie("b", "2", expires=60)
    response.delete_cookie("c", path="/p", domain="d.example")
    first, second, third = response.headers.getlist("set-cookie")
    assert first.startswith("a=1;")
    in_a_minute = parsedate_to_datetime(second.split("Expires=")[1].split(";")[0])
    assert 50 < (in_a_minute - datetime.now(UTC)).total_seconds() < 61
    assert third.startswith('c=""; Domain=d.example; Expires=') and "Max-Age=0; Path=/p" in third
    gone = parsedate_to_datetime(third.split("Expires=")[1].split(";")[0])
    assert gone <= datetime.now(UTC)


@pytest.mark.parametrize(
    "arguments",
    [
        {"key": "a b"},
        {"key": "a;b"},
        {"key": ""},
        {"key": "a\r\nb"},
        {"key": "a", "path": "/; Domain=evil"},
        {"key": "a", "path": "/\r\nx: y"},
        {"key": "a", "domain": "a\nb"},
        {"key": "a", "expires": "x; y"},
        {"key": "a", "samesite": "maybe"},
        {"key": "a", "value": "\u20ac"},
        {"key": "a", "value": "b\r\nc"},
        {"key": "a", "value": "b\0c"},
        {"key": "a", "value": "b\x7fc"},
    ],
)
def test_cookies_that_cannot_be(arguments):
    response = Response()
    with pytest.raises(ValueError):
        response.set_cookie(**arguments)
    assert response.raw_headers == []


def test_what_is_wrong_with_a_cookie_is_said():
    with pytest.raises(ValueError, match=r"cookie 'a': there is a control character in its value"):
        Response().set_cookie("a", "b\r\nc")
    with pytest.raises(ValueError, match=r"cookie name 'a\\r\\nb' is not a token"):
        Response().set_cookie("a\r\nb", "c")
