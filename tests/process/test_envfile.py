"""envfile: what a file of variables may say, and what it does to the environment."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fastserve.errors import ConfigError
from fastserve.process import envfile


@pytest.mark.parametrize(
    ("text", "variables"),
    [
        ("", {}),
        ("A=1", {"A": "1"}),
        ("A=1\nB=2\n", {"A": "1", "B": "2"}),
        ("A=1\r\nB=2\r\n", {"A": "1", "B": "2"}),
        ("  export A = 1  ", {"A": "1"}),
        ("# a comment\n\n   # another\nA=1 # behind\n", {"A": "1"}),
        ("A=", {"A": ""}),
        ("A= # nothing\nB=2", {"A": "", "B": "2"}),
        ("A=a#b", {"A": "a#b"}),
        ("A=a b  c", {"A": "a b  c"}),
        ("A='it # is $HOME \\n'", {"A": "it # is $HOME \\n"}),
        ('A="a\\n\\"b\\" \\\\ \\$x # y" # c', {"A": 'a\n"b" \\ $x # y'}),
        ("A='two\nlines'\nB=2", {"A": "two\nlines", "B": "2"}),
        ('A="two\nlines"\nB=2', {"A": "two\nlines", "B": "2"}),
        ('A="joined\\\nline"', {"A": "joinedline"}),
        ('A="\\d"', {"A": "\\d"}),
        ("A=postgres://u:p=w@h/db?x=1", {"A": "postgres://u:p=w@h/db?x=1"}),
        ("A=$B", {"A": "$B"}),
        ("A=1\nA=2", {"A": "2"}),
        ("ä=1".replace("ä", "A_9"), {"A_9": "1"}),
        ("A=grüße", {"A": "grüße"}),
    ],
)
def test_parse(text: str, variables: dict[str, str]) -> None:
    assert envfile.parse(text) == variables


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("A", "f:1: expected NAME=value"),
        ("A=1\n\nB C=2", "f:3: expected NAME=value"),
        ("1A=2", "f:1: expected NAME=value"),
        ("=2", "f:1: expected NAME=value"),
        ("A='x", "f:1: a quote is not closed"),
        ('A=1\nB="x\\"', "f:2: a quote is not closed"),
        ("A='x' y", "f:1: something follows the closing quote"),
        ("A=x\0y", "f:1: NUL in a value"),
    ],
)
def test_mistakes_have_a_line(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        envfile.parse(text, "f")
    assert str(caught.value) == f"env-file: {message}"


def test_files_that_are_none(tmp_path: Path) -> None:
    for name, content, message in (
        ("binary", b"\xff\xfe", "is not UTF-8"),
        ("huge", b"# " + b"x" * (1 << 20), "has more than 1048576 bytes"),
        ("bom", b"\xef\xbb\xbfA=1", ""),
    ):
        (tmp_path / name).write_bytes(content)
        if message:
            with pytest.raises(ConfigError, match=message):
                envfile.read(str(tmp_path / name))
        else:
            assert envfile.read(str(tmp_path / name)) == {"A": "1"}
    with pytest.raises(ConfigError, match=r"cannot read .*: Is a directory"):
        envfile.read(str(tmp_path))


def test_apply_overrides_nothing_and_takes_back_what_it_gave(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_MINE", "real")
    monkeypatch.delenv("TEST_FILE", raising=False)
    before = dict(os.environ)
    try:
        envfile.apply({"TEST_MINE": "file", "TEST_FILE": "1"})
        assert os.environ["TEST_MINE"] == "real" and os.environ["TEST_FILE"] == "1"
        assert envfile.real_environment() == before
        envfile.apply({"TEST_FILE": "2"})
        assert os.environ["TEST_FILE"] == "2"
        os.environ["TEST_FILE"] = "the application's own"
        envfile.apply({})
        assert os.environ["TEST_FILE"] == "the application's own"
        del os.environ["TEST_FILE"]
        assert dict(os.environ) == before
    finally:
        envfile.apply({})
