"""threads: the blocking route of demo.py once more, for WSGI: two threads instead of one loop.

Room: the top. Called by: a server of its own, which learn.py starts. Calls: nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any


def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    time.sleep(0.1)  # blocks this thread; the other one, and the loop, go on
    start_response("200 OK", [("content-type", "text/plain")])
    return [f"{environ['PATH_INFO']} blocked a thread\n".encode()]
