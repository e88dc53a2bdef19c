"""Headers, QueryParams, cookies, URL, Address: the values a request is read through."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import parse_qsl

import pytest

from fastserve import App, Request
from fastserve.protocol.headers import URL, Address, Headers, MutableHeaders, QueryParams, cookie_parser

# ------------------------------------------------------------------------------------------- Headers, from Python


def test_names_ignore_case_and_come_back_in_lower_case():
    headers = Headers({"Content-Type": "text/plain", "X-Custom": "a"})
    assert headers["content-type"] == headers["CONTENT-TYPE"] == headers["Content-Type"] == "text/plain"
    assert headers["x-CUSTOM"] == "a"
    assert "X-CUSTOM" in headers and "x-other" not in headers
    assert headers.keys() == ["content-type", "x-custom"]
    assert headers.values() == ["text/plain", "a"]
    assert headers.items() == [("content-type", "text/plain"), ("x-custom", "a")]
    assert headers.raw == [(b"content-type", b"text/plain"), (b"x-custom", b"a")]
    assert list(headers) == ["content-type", "x-custom"] and len(headers) == 2
    assert isinstance(headers, Mapping) and dict(headers) == {"content-type": "text/plain", "x-custom": "a"}


def test_repeated_names_keep_their_order():
    headers = Headers(raw=[(b"A", b"1"), (b"b", b"2"), (b"a", b"3")])
    assert headers["a"] == headers.get("a") == "1"
    assert headers.getlist("A") == ["1", "3"] and headers.getlist("c") == []
    assert headers.keys() == ["a", "b", "a"]
    assert repr(headers) == "Headers(raw=[(b'a', b'1'), (b'b', b'2'), (b'a', b'3')])"
    assert repr(Headers({"a": "1"})) == "Headers({'a': '1'})"


def test_missing_names():
    headers = Headers()
    with pytest.raises(KeyError, match="nope"):
        headers["nope"]
    assert headers.get("nope") is None and headers.get("nope", 5) == 5
    assert len(headers) == 0 and headers.items() == []
    # names that cannot be names are simply not there
    assert "\u20ac" not in headers and headers.get("\u20ac", "x") == "x" and 5 not in headers


def test_values_are_latin_1():
    headers = Headers(raw=[(b"x", b"caf\xe9")])
    assert headers["x"] == "caf\xe9"
    assert Headers({"x": "caf\xe9"}).raw == [(b"x", b"caf\xe9")]


def test_equality_ignores_order_and_other_types():
    assert Headers(raw=[(b"a", b"1"), (b"b", b"2")]) == Headers(raw=[(b"b", b"2"), (b"a", b"1")])
    assert Headers({"a": "1"}) != Headers({"a": "2"})
    assert Headers({"a": "1"}) != {"a": "1"}
    with pytest.raises(TypeError, match="unhashable"):
        hash(Headers())


def test_headers_and_raw_together_are_refused():
    with pytest.raises(TypeError, match="not both"):
        Headers({"a": "1"}, raw=[])


def test_headers_cannot_be_changed_from_outside():
    headers = Headers({"a": "1"})
    headers.raw.append((b"b", b"2"))
    assert headers.raw == [(b"a", b"1")]
    with pytest.raises(TypeError):
        headers["a"] = "2"  # type: ignore[index]


# --------------------------------------------------------------------------------------------- Headers, from bytes

FIELDS = (
    b"Host: example.com\r\nUSER-AGENT:agent/1\r\nX-Unknown:\t one two \t\r\nx-UNKNOWN: three\r\nEmpty:\r\n"
    b"Accept: */*\r\nX-Bytes: caf\xe9\r\n"
)


def ask(memory, head: bytes) -> Request:
    kept = []
    app = App()

    @app.route("/{rest:path}", methods=("GET", "POST", "OPTIONS", "PURGE"), blocking=False)
    def handler(request):
        kept.append(request)

    sent = memory(app).feed(head)
    assert kept, sent
    return kept[0]


def test_a_view_over_the_bytes_of_a_head(memory):
    headers = ask(memory, b"GET / HTTP/1.1\r\n" + FIELDS + b"\r\n").headers
    # looked up before the list of pairs exists
    assert headers["user-agent"] == headers["User-Agent"] == "agent/1"
    assert headers["x-unknown"] == headers["X-Unknown"] == "one two"
    assert headers["empty"] == "" and headers["x-bytes"] == "caf\xe9"
    assert "x-unknow" not in headers and "x-unknownn" not in headers and headers.get("cookie") is None
    # and after
    assert headers.raw == [
        (b"host", b"example.com"),
        (b"user-agent", b"agent/1"),
        (b"x-unknown", b"one two"),
        (b"x-unknown", b"three"),
        (b"empty", b""),
        (b"accept", b"*/*"),
        (b"x-bytes", b"caf\xe9"),
    ]
    assert headers["user-agent"] == "agent/1" and headers.getlist("X-UNKNOWN") == ["one two", "three"]
    assert len(headers) == 7


def test_known_names_are_shared_objects(memory):
    first = ask(memory, b"GET / HTTP/1.1\r\nHost: a\r\nAccept: b\r\n\r\n").headers.raw
    second = ask(memory, b"GET / HTTP/1.1\r\nHOST: a\r\nACCEPT: b\r\n\r\n").headers.raw
    assert first == second
    assert all(a[0] is b[0] for a, b in zip(first, second, strict=True))


def test_the_view_outlives_the_request(memory):
    headers = ask(memory, b"GET / HTTP/1.1\r\nHost: a\r\nX-A: " + b"v" * 3000 + b"\r\n\r\n").headers
    ask(memory, b"GET / HTTP/1.1\r\nHost: b\r\nX-B: " + b"w" * 3000 + b"\r\n\r\n")
    assert headers["x-a"] == "v" * 3000 and headers["host"] == "a"


def test_mutablecopy_of_a_view(memory):
    headers = ask(memory, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").headers
    copy = headers.mutablecopy()
    copy["x"] = "1"
    assert copy.items() == [("host", "a"), ("x", "1")] and headers.items() == [("host", "a")]


# --------------------------------------------------------------------------------------------------- MutableHeaders


def test_setting_replaces_all_of_a_name_in_place():
    headers = MutableHeaders(raw=[(b"a", b"1"), (b"b", b"2"), (b"a", b"3"), (b"c", b"4"), (b"a", b"5")])
    headers["A"] = "x"
    assert headers.raw == [(b"a", b"x"), (b"b", b"2"), (b"c", b"4")]
    headers["d"] = "y"
    assert headers.raw[-1] == (b"d", b"y")
    del headers["B"]
    del headers["not there"]
    assert headers.raw == [(b"a", b"x"), (b"c", b"4"), (b"d", b"y")]


def test_append_setdefault_update_vary_or():
    headers = MutableHeaders({"a": "1"})
    headers.append("A", "2")
    assert headers.getlist("a") == ["1", "2"]
    assert headers.setdefault("a", "3") == "1" and headers.setdefault("B", "3") == "3"
    assert headers.getlist("b") == ["3"]
    headers.update({"b": "4"})
    assert headers["b"] == "4"
    headers.add_vary_header("accept")
    headers.add_vary_header("origin")
    assert headers["vary"] == "accept, origin"
    merged = headers | {"a": "5"}
    assert merged.getlist("a") == ["5"] and headers.getlist("a") == ["1", "2"]
    headers |= {"a": "6"}
    assert headers.getlist("a") == ["6"]
    copy = headers.mutablecopy()
    copy["a"] = "7"
    assert headers["a"] == "6"


@pytest.mark.parametrize("value", ["a\r\nset-cookie: x", "a\nb", "a\rb", "a\0b", "\u20ac"])
def test_values_that_could_split_a_response_are_refused(value):
    headers = MutableHeaders()
    for change in (
        lambda: headers.__setitem__("x", value),
        lambda: headers.append("x", value),
        lambda: headers.setdefault("x", value),
        lambda: headers.update({"x": value}),
        lambda: Headers({"x": value}),
    ):
        with pytest.raises(ValueError, match="header value"):
            change()
    assert headers.raw == []


@pytest.mark.parametrize("name", ["", "a b", "a:", "a\r\nb", "\u20ac", "caf\xe9", "(x)"])
def test_names_that_are_not_tokens_are_refused(name):
    headers = MutableHeaders()
    with pytest.raises(ValueError, match="not a token"):
        headers[name] = "1"
    assert headers.raw == []


def test_every_byte_in_a_name():
    # RFC 9110 section 5.6.2, against the ABNF
    token = set(b"!#$%&'*+-.^_`|~") | set(range(48, 58)) | set(range(65, 91)) | set(range(97, 123))
    for code in range(256):
        headers = MutableHeaders()
        if code in token:
            headers[f"x{chr(code)}"] = "1"
            assert headers.raw == [(f"x{chr(code)}".lower().encode("latin-1"), b"1")]
        else:
            with pytest.raises(ValueError):
                headers[f"x{chr(code)}"] = "1"


def test_wrong_types_are_type_errors():
    with pytest.raises(TypeError, match="header value"):
        MutableHeaders()["a"] = 5
    with pytest.raises(TypeError, match="header name"):
        MutableHeaders()[5] = "a"


# ------------------------------------------------------------------------------------------------------ QueryParams


def test_query_params_take_the_last_and_list_all():
    params = QueryParams("a=1&b=2&a=3&blank=&alone")
    assert params["a"] == params.get("a") == "3" and params.getlist("a") == ["1", "3"]
    assert params["blank"] == params["alone"] == ""
    assert params.multi_items() == [("a", "1"), ("b", "2"), ("a", "3"), ("blank", ""), ("alone", "")]
    assert list(params) == ["a", "b", "blank", "alone"] and len(params) == 4
    assert dict(params.items()) == dict(params) == {"a": "3", "b": "2", "blank": "", "alone": ""}
    assert "a" in params and "c" not in params and params.get("c", "d") == "d" and params.getlist("c") == []
    with pytest.raises(KeyError):
        params["c"]
    assert isinstance(params, Mapping)


QUERIES = [
    "",
    "a",
    "a=",
    "=a",
    "a=b=c",
    "&&a=1&&",
    "a=1;b=2",
    "a=%20+b",
    "%41=%c3%a9",
    "a=%ff",
    "a=%",
    "a=%zz",
    "+=+",
    "a=1&a=1",
    "caf\u00e9=1",
]


@pytest.mark.parametrize("query", QUERIES)
def test_query_params_agree_with_parse_qsl(query):
    assert QueryParams(query).multi_items() == parse_qsl(query, keep_blank_values=True)


def test_query_params_from_other_values():
    assert QueryParams(b"a=%C3%A9").multi_items() == [("a", "\xe9")]
    assert QueryParams({"a": 1}).multi_items() == [("a", "1")]
    assert QueryParams([("a", 1), ("a", 2)]).getlist("a") == ["1", "2"]
    assert QueryParams(QueryParams("a=1")) == QueryParams("a=1") != QueryParams("a=2")
    assert QueryParams("a=1&b=2") == QueryParams("b=2&a=1")
    assert QueryParams("a=1") != {"a": "1"}
    assert str(QueryParams([("a", "b c"), ("\xe9", "&")])) == "a=b+c&%C3%A9=%26"
    assert repr(QueryParams("a=1")) == "QueryParams('a=1')"
    assert QueryParams().multi_items() == []


# ---------------------------------------------------------------------------------------------------------- cookies

COOKIES = [
    # text, what a browser meant by it
    ("a=1; b=2", {"a": "1", "b": "2"}),
    ("a=1;b=2", {"a": "1", "b": "2"}),
    ("a=b=c", {"a": "b=c"}),
    ("a=", {"a": ""}),
    ("=a", {"": "a"}),
    ("alone", {"": "alone"}),
    ("; ;", {}),
    ("a=1; a=2", {"a": "2"}),
    ('a="quoted; not"', {"a": '"quoted', "": 'not"'}),
    ('a="with space"', {"a": "with space"}),
    (r'a="\"\\\054"', {"a": '"\\,'}),
    (r'a="\400"', {"a": "400"}),  # not an octal byte: an escaped 4
    ('a="', {"a": '"'}),
    ('a=""', {"a": ""}),
    (r"a=\054", {"a": r"\054"}),
    ("a = 1 ", {"a": "1"}),
]


@pytest.mark.parametrize(("text", "cookies"), COOKIES)
def test_cookies(text, cookies):
    assert cookie_parser(text) == cookies


def test_a_cookie_of_backslashes_takes_linear_time():
    # CVE-2024-7592: http.cookies needed quadratic time for this; 64 KiB took seconds
    import time

    text = 'a="' + "\\\\" * 30_000 + '"'
    began = time.perf_counter()
    assert cookie_parser(text) == {"a": "\\" * 30_000}
    assert time.perf_counter() - began < 0.5


# -------------------------------------------------------------------------------------------------------------- URL


def test_url_parts():
    url = URL("https://user:secret@example.com:8443/a%20b/c?x=1&y=2#top")
    assert (url.scheme, url.netloc, url.path, url.query, url.fragment) == (
        "https",
        "user:secret@example.com:8443",
        "/a%20b/c",
        "x=1&y=2",
        "top",
    )
    assert (url.hostname, url.port, url.username, url.password) == ("example.com", 8443, "user", "secret")
    assert url.is_secure and not URL("http://a/").is_secure
    assert URL("http://a/").port is None
    assert str(url) == "https://user:secret@example.com:8443/a%20b/c?x=1&y=2#top"
    assert "secret" not in repr(url)
    assert repr(URL("http://a/")) == "URL('http://a/')"
    assert url == str(url) and URL("a") == URL("a") != URL("b") and len({URL("a"), URL("a")}) == 1


@pytest.mark.parametrize(
    ("url", "parts", "result"),
    [
        ("http://a/b?c", {"path": "/d"}, "http://a/d?c"),
        ("http://a/b?c", {"query": ""}, "http://a/b"),
        ("http://a:1/b", {"scheme": "https"}, "https://a:1/b"),
        ("http://a:1/b", {"port": 2}, "http://a:2/b"),
        ("http://a:1/b", {"port": None}, "http://a/b"),
        ("http://a:1/b", {"hostname": "c"}, "http://c:1/b"),
        ("http://a:1/b", {"hostname": "::1"}, "http://[::1]:1/b"),
        ("http://[::1]:1/b", {"port": 2}, "http://[::1]:2/b"),
        ("http://[::1]/b", {"port": 2}, "http://[::1]:2/b"),
        ("http://u:p@a/b", {"hostname": "c"}, "http://u:p@c/b"),
        ("http://a/b", {"username": "u"}, "http://u@a/b"),
    ],
)
def test_url_replace(url, parts, result):
    assert URL(url).replace(**parts) == result


def test_url_include_query_params():
    assert URL("http://a/?x=1&y=2").include_query_params(y=3, z="a b") == "http://a/?x=1&y=3&z=a+b"


def test_address():
    address = Address("::1", 80)
    assert address == ("::1", 80) and address.host == "::1" and address.port == 80
