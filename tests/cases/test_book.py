"""The book is in order, and the loader would notice if it were not."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cases.loader import BookError, c_string, error_table, expand, load_cases

ACCEPTED = """
```http accepted
GET / HTTP/1.0

```

```events accepted
request_head GET / 1.0 none close
end_of_message
closed
```
"""

GOOD = """# A chapter

## a case

RFC 9112 §3: a rule.

```http
GET

```

```events
error request_line 400
```
""" + ACCEPTED  # fmt: skip

# what is changed in GOOD, and a word of the complaint
FAULTS = [
    ("RFC 9112 §3: a rule.", "A rule.", "section"),
    ("error request_line 400", "error request_line 414", "status"),
    ("error request_line 400", "error nonsense 400", "nonsense"),
    ("error request_line 400", "mistake", "malformed event"),
    ("error request_line 400", "end_of_message", "cannot follow"),
    ("error request_line 400", "error request_line 400\nneed_data", "cannot follow"),
    ("error request_line 400", "request_head GET / 1.1 none keep_alive", "cannot end"),
    ("none close\nend_of_message\nclosed", "none close\nend_of_message", "closed"),
    ("none close\nend_of_message\nclosed", "none keep_alive\nend_of_message\nclosed", "closed"),
    ("none close", "none keep_alive upgrade expect", "malformed event"),
    (ACCEPTED, "", "neighbour"),
    ("request_head GET / 1.0 none close\nend_of_message\nclosed", "error method 400", "neighbour is refused"),
    ("```http\n", "```bytes\n", "unknown kind"),
    ("```events\n", "```http\n", "second"),
    ("GET\n", "GET \n", "white space"),
    ("GET\n", "G\\qT\n", "unknown escape"),
    ("GET\n", "G\u00c9T\n", "escape"),
    ("GET\n", "${3*x\n", "repetition"),
    ("GET\n", "{{v}}\n", "variants"),
    ("```http\n", "```limits\nhead_bytes = 3\n```\n\n```http\n", "no limit"),
    ("```http\n", "```variants\nx | y\n```\n\n```http\n", "{{v}}"),
    ("# A chapter\n", "# A chapter\n\n## a case\n\nRFC 9112 §3: x.\n", "no 'http' block"),
]


def test_the_book_is_in_order() -> None:
    cases = load_cases()
    assert len({case.heading for case in cases}) >= 250
    assert len({case.name for case in cases}) == len(cases) == len({case.slug for case in cases})


def test_every_error_of_a_request_is_in_the_book() -> None:
    """All but those that no bytes alone can cause: our own side's, the clock's, the end of the connection's."""
    refused = {case.error for case in load_cases()}
    ours = {name for name, status in error_table().items() if status == 0} | {
        "head_timeout",
        "body_timeout",
        "body_rate",
        "proxy_header",
        "request_timeout",
        "overloaded",
        "no_buffers",
    }
    assert refused - {None} == set(error_table()) - ours


@pytest.mark.parametrize(("old", "new", "complaint"), FAULTS)
def test_faults_of_the_book_are_noticed(tmp_path: Path, old: str, new: str, complaint: str) -> None:
    (tmp_path / "a.md").write_text(GOOD, encoding="utf-8")
    assert len(load_cases(tmp_path)) == 2
    assert old in GOOD
    (tmp_path / "a.md").write_text(GOOD.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(BookError, match=r"^a\.md:\d+: ") as caught:
        load_cases(tmp_path)
    assert complaint in str(caught.value)


def test_bytes_are_written_as_the_readme_says() -> None:
    assert expand("a\nb\\\nc\\") == b"a\r\nbc"
    assert expand("\\r\\n\\t\\0\\x7f\\\\") == b"\r\n\t\0\x7f\\"
    assert expand("${3*ab${2*c}\\n}") == b"abcc\nabcc\nabcc\n"
    assert expand("x{{v}}y", b"\0") == b"x\0y"
    assert c_string(b'a"\\?\x001\r\nb') == '"a\\042\\134\\077\\0001\\015\\012"\n     "b"'
