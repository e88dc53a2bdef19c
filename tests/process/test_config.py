"""Config: addresses parsed, options checked with readable errors."""

from __future__ import annotations

import dataclasses
import re

import pytest

from fastserve.errors import ConfigError
from fastserve.process.config import OPTIONS, Config, TcpAddress, UnixAddress, parse_bind
from fastserve.process.sources import gather


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:80", TcpAddress("127.0.0.1", 80)),
        ("localhost:0", TcpAddress("localhost", 0)),
        ("my-host.example:65535", TcpAddress("my-host.example", 65535)),
        ("[::1]:8000", TcpAddress("::1", 8000)),
        ("[fe80::1%eth0]:8000", TcpAddress("fe80::1%eth0", 8000)),
        (":9000", TcpAddress("", 9000)),
        ("unix:/run/a.sock", UnixAddress("/run/a.sock")),
        ("unix:///run/a.sock", UnixAddress("/run/a.sock")),
        ("unix:a.sock", UnixAddress("a.sock")),
    ],
)
def test_bind_is_parsed(text: str, address: object) -> None:
    assert parse_bind(text) == address


@pytest.mark.parametrize(
    "text",
    ["", "8000", "host", "host:", "host:http", "::1:8000", "[::1]", "[abc]:80", "h:65536", "h:-1", "a b:1", "unix:",
     "unix:" + "x" * 200, "http://a:80", "a/b:80", "host:٣", "unix:a\0b"],
)  # fmt: skip
def test_bind_that_is_none_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_bind(text)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)


def test_addresses_print_and_are_urls() -> None:
    assert str(TcpAddress("::1", 80)) == "[::1]:80"
    assert TcpAddress("::1", 80).url == "http://[::1]:80"
    assert TcpAddress("0.0.0.0", 80).local_url == "http://127.0.0.1:80"
    assert TcpAddress("::", 80).local_url == "http://[::1]:80"
    assert TcpAddress("", 80).local_url == "http://127.0.0.1:80"
    assert UnixAddress("/a").url == UnixAddress("/a").local_url == "unix:/a"


@pytest.mark.parametrize(
    ("options", "addresses"),
    [
        ({}, ["127.0.0.1:8000"]),
        ({"port": 0}, ["127.0.0.1:0"]),
        ({"host": "::1"}, ["[::1]:8000"]),
        ({"host": "[::1]", "port": 1}, ["[::1]:1"]),
        ({"bind": ("a:1", "unix:/b")}, ["a:1", "unix:/b"]),
        ({"bind": "a:1"}, ["a:1"]),
        ({"bind": ["a:1"], "host": "c"}, ["c:8000", "a:1"]),
        ({"uds": "/x"}, ["unix:/x"]),
        ({"uds": "/x", "port": 5}, ["127.0.0.1:5", "unix:/x"]),
        ({"bind": ("a:0", "a:0")}, ["a:0", "a:0"]),
    ],
)
def test_addresses_of_options(options: dict[str, object], addresses: list[str]) -> None:
    assert [str(address) for address in Config.of("x:y", options).addresses] == addresses


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"port": 65536}, "port must be 0 to 65535, not 65536"),
        ({"port": "80"}, "port must be a whole number, not '80'"),
        ({"port": True}, "port must be a whole number, not True"),
        ({"workers": 0}, "workers must be 1 to 1024, not 0"),
        ({"timeout_keep_alive": -1}, "timeout-keep-alive must be seconds, 0 or more, not -1"),
        ({"timeout_keep_alive": float("nan")}, "timeout-keep-alive must be seconds, 0 or more, not nan"),
        ({"timeout_keep_alive": float("inf")}, "timeout-keep-alive must be seconds, 0 or more, not inf"),
        ({"timeout_keep_alive": None}, "timeout-keep-alive must be seconds, 0 or more, not None"),
        ({"log_level": "loud"}, "log-level must be one of critical, error, warning, info, debug, not 'loud'"),
        ({"interface": "cgi"}, "interface must be one of auto, native, asgi, asgi2, asgi3, wsgi, not 'cgi'"),
        ({"access_log": 1}, "access-log must be true or false, not 1"),
        ({"bind": 5}, "bind must be text, or several texts, not 5"),
        ({"bind": [5]}, "bind must be text, or several texts, not (5,)"),
        ({"uds_permissions": 0o1000}, "uds-permissions must be an octal mode from 0 to 777, not 1000"),
        ({"host": "a/b"}, "host must be a name or an address, not 'a/b'"),
        ({"bind": ["a:1", "a:1"]}, "a:1 is given twice"),
        ({"limit_request_line": 1000, "limit_request_head": 999}, "limit-request-line must not be above"),
        ({"limit_request_fields": 0}, "limit-request-fields must be 1 to 65535, not 0"),
        ({"workers": "two"}, "workers must be a whole number, not 'two'"),
        ({"timeout_body": "soon"}, "timeout-body: not a duration such as 30, 30s, 5m or 1h30m: 'soon'"),
        ({"limit_request_body": "lots"}, "limit-request-body: not a size such as 65536, 64k, 10M or 1GiB: 'lots'"),
        ({"limit_request_body": 1.5}, "limit-request-body must be a number of bytes, not 1.5"),
        ({"loop": "twisted"}, "loop must be one of auto, asyncio, uvloop, or MODULE:FACTORY, not 'twisted'"),
        ({"header": "X-A"}, "header must be NAME:VALUE, not 'X-A'"),
        ({"header": "X A: 1"}, "header must be NAME:VALUE, not 'X A: 1'"),
        ({"header": "X-A: 1\r\nX-B: 2"}, "header: the value of 'x-a' has characters that no field may hold"),
        ({"header": "Content-Length: 1"}, "header: 'content-length' is the server's own to send"),
        ({"header": "Date: now"}, "header: 'date' is the server's own to send; --no-date-header leaves it out"),
        ({"env_file": "/no/such/file"}, "env-file: cannot read '/no/such/file': No such file or directory"),
        ({"hooks": ""}, "hooks must not be empty"),
        ({"prot": 80}, "unknown option 'prot'; did you mean 'port'?"),
        ({"zzzz": 80}, "unknown option 'zzzz'"),
    ],
)
def test_wrong_options_are_refused_by_name(options: dict[str, object], text: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(text)) as caught:
        Config.of("x:y", options)
    assert caught.value.exit_code == 2


def test_config_is_frozen_and_its_defaults_are_valid() -> None:
    config = Config(app="x:y")
    assert config.workers == 1 and config.access_log and config.timeout_graceful_shutdown == 25.0
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.workers = 2  # type: ignore[misc]


def test_embedded_is_quiet_and_one_process() -> None:
    assert Config.embedded("x:y", {}).access_log is False
    assert Config.embedded("x:y", {"access_log": True}).access_log is True
    with pytest.raises(ConfigError, match="one process"):
        Config.embedded("x:y", {"workers": 2})


def test_every_option_has_help_and_a_group() -> None:
    for name, option in OPTIONS.items():
        assert option.help and option.group, name
        assert option.kind in ("flag",) or option.metavar or option.choices, name


def test_limits_are_what_the_data_plane_takes() -> None:
    from fastserve.protocol import Limits

    numbers = Config.of("x:y", {"limit_request_body": 10, "timeout_header": 1}).limits()
    assert numbers["body_bytes_max"] == 10 and numbers["header_timeout"] == 1.0
    Limits(**numbers)
    Limits(**Config(app="x:y").limits())
    largest = {name: option.most for name, option in OPTIONS.items() if name.startswith("limit_") and option.most}
    Limits(**Config.of("x:y", largest).limits())
    least = {
        name: option.least for name, option in OPTIONS.items() if name.startswith("limit_") and option.least is not None
    }
    Limits(**Config.of("x:y", least).limits())


@pytest.mark.parametrize(
    ("options", "name", "value"),
    [
        ({"timeout_body": "1h30m"}, "timeout_body", 5400.0),
        ({"timeout_body": 2}, "timeout_body", 2.0),
        ({"limit_request_body": "10M"}, "limit_request_body", 10 * 2**20),
        ({"limit_request_head": "64k"}, "limit_request_head", 65536),
        ({"reload": True}, "timeout_graceful_shutdown", 5.0),
        ({"reload": True, "timeout_graceful_shutdown": 9}, "timeout_graceful_shutdown", 9.0),
        ({"dev": True}, "reload", True),
        ({"dev": True}, "log_level", "debug"),
        ({"reload": True, "workers": 3}, "workers", 1),
        ({"use_colors": None}, "use_colors", None),
        ({"loop": "a.b:c"}, "loop", "a.b:c"),
        ({"header": ["X-A: 1", "x-b:2"]}, "response_fields", [(b"x-a", b"1"), (b"x-b", b"2")]),
    ],
)
def test_options_mean_what_they_say(options: dict[str, object], name: str, value: object) -> None:
    assert getattr(Config.of("x:y", options), name) == value


def test_workers_auto_is_a_number_with_a_reason() -> None:
    config = Config.of("x:y", {"workers": "auto"})
    assert 1 <= config.workers <= 1024 and config.workers_note.startswith("auto: ")
    assert Config(app="x:y").workers_note == ""


def test_a_supervisor_is_the_commands_default_and_never_a_programs() -> None:
    command = gather(["a:b"], {}).config
    assert command.supervised and not gather(["a:b", "--no-supervisor"], {}).config.supervised
    assert not Config.of("a:b", {}).supervised and Config.of("a:b", {"supervisor": True}).supervised
    for name, value in (("workers", 2), ("preload", True), ("user", "root"), ("limit_max_requests", 9)):
        assert Config.of("a:b", {name: value}).supervised
        with pytest.raises(ConfigError, match=f"no-supervisor: one process cannot do what {name.replace('_', '-')}"):
            Config.of("a:b", {name: value, "supervisor": False})


def test_inherited_sockets_in_either_spelling() -> None:
    assert Config(app="a:b", bind=("fd://3", "fd://web"), fd="4").descriptors == ("4", "3", "web")
    assert Config(app="a:b", bind="fd://3").addresses == ()
    for options in ({"bind": ("fd://3", "127.0.0.1:80")}, {"fd": "3", "uds": "s"}, {"bind": "fd://"}):
        with pytest.raises(ConfigError, match="inherited socket"):
            Config(app="a:b", **options)  # type: ignore[arg-type]
