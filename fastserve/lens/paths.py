"""paths: files as an export names them.

Room: the top. Called by: page, perfetto. Calls: nothing.

Where code lies says much about a machine and its people. An export can name files without that: the user's own by their
last part, a library's from below site-packages or lib/python3.x, which is the same everywhere.
"""

from __future__ import annotations

import re

__all__ = ["stripped"]

_TOP = re.compile(r".*[/\\](?:site-packages|dist-packages|lib(?:64)?[/\\](?:python|pypy)3(?:\.\d+)?t?)[/\\]", re.DOTALL)


def stripped(file: str) -> str:
    """ "items.py" for the user's own, "asyncio/locks.py" for a library's."""
    inside = _TOP.sub("", file)
    return inside if inside != file else re.split(r"[/\\]", file)[-1]
