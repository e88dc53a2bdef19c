"""blocking: calls that are known to wait inside, and what an async handler uses instead. For FS005 and FS006.

Room: floor 3. Called by: findings.py. Calls: model.

A stack that was taken while the loop stood still ends in Python code. If that is of a library that waits, the file says
so; a call into C has no frame, there the text of the user's own line has to tell.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from fastserve.lens.model import is_ours, user_frame
from fastserve.lens.recording import Frame, Stack

__all__ = ["Blocking", "imports", "known"]


@dataclass(frozen=True)
class Blocking:
    """What is called, and what to call instead."""

    what: str
    instead: str


THREAD = "await asyncio.to_thread(...)"
SUBPROCESS = Blocking("subprocess", "asyncio.create_subprocess_exec()")
SOCKET = Blocking("a blocking socket", "asyncio.open_connection()")
FILE = Blocking("a file", f"anyio.Path, or {THREAD}")
LOCK = Blocking("a lock or event of threading", f"asyncio's, or {THREAD}")
CLIENT = "httpx.AsyncClient or aiohttp"

BY_FILE: tuple[tuple[str, Blocking], ...] = (
    (r"-packages/requests/", Blocking("requests", CLIENT)),
    (r"-packages/httpx/_client\.py$", Blocking("httpx.Client", "httpx.AsyncClient")),
    (r"-packages/psycopg2/", Blocking("psycopg2", "asyncpg, or psycopg's AsyncConnection")),
    (r"-packages/psycopg/(?!.*async)", Blocking("psycopg.Connection", "psycopg's AsyncConnection")),
    (r"-packages/(?:pymysql|MySQLdb|mysql/connector(?!/aio))/", Blocking("a MySQL driver", "aiomysql or asyncmy")),
    (r"/sqlite3/", Blocking("sqlite3", f"aiosqlite, or {THREAD}")),
    (r"-packages/redis/(?!.*asyncio)", Blocking("redis.Redis", "redis.asyncio.Redis")),
    (r"-packages/pymongo/(?!.*async)", Blocking("pymongo", "pymongo.AsyncMongoClient")),
    (r"-packages/botocore/(?!.*aio)", Blocking("boto3", "aioboto3")),
    (r"-packages/paramiko/", Blocking("paramiko", "asyncssh")),
    (r"/smtplib\.py$", Blocking("smtplib", "aiosmtplib")),
    (r"/ftplib\.py$|/imaplib\.py$|/poplib\.py$", Blocking("a mail or FTP client", THREAD)),
    (r"/urllib/request\.py$|-packages/urllib3/", Blocking("urllib", CLIENT)),
    (r"/http/client\.py$", Blocking("http.client", CLIENT)),
    (r"/subprocess\.py$", SUBPROCESS),
    (r"/socket\.py$|/ssl\.py$", SOCKET),
    (r"/concurrent/futures/_base\.py$", Blocking("Future.result()", "await asyncio.wrap_future(...)")),
    (r"(?<!asyncio)/queue\.py$", Blocking("queue.Queue", "asyncio.Queue")),
    (r"/threading\.py$", LOCK),
    (r"/pathlib(?:\.py|/.*\.py)$|/shutil\.py$|/tempfile\.py$", FILE),
)
"""Files below the user's own frame, the most telling library first."""

BY_LINE: tuple[tuple[str, Blocking], ...] = (
    (r"\btime\.sleep\(|(?<![\w.])sleep\(", Blocking("time.sleep()", "await asyncio.sleep()")),
    (r"\bsubprocess\.(?:run|call|check_\w+|Popen)\(|\bos\.system\(", SUBPROCESS),
    (
        r"\bsqlite3\.|\.execute(?:many|script)?\(|\.fetch(?:one|all|many)\(|\.commit\(",
        Blocking("a database driver", THREAD),
    ),
    (r"\.(?:recv|recv_into|accept|connect|sendall)\(|\bsocket\.|\bselect\.", SOCKET),
    (r"(?<![\w.])open\(|\.(?:read|write|read_text|read_bytes|write_text)\(|\bos\.(?:read|write|fsync)\(", FILE),
    (r"(?<![\w.])input\(", Blocking("input()", THREAD)),
    (r"\.acquire\(|\.join\(\s*(?:timeout\s*=\s*)?\d*\.?\d*\s*\)", LOCK),
)
"""The text of the user's line, where the call went into C. Lines with `await` are not looked at."""

_FILES = [(re.compile(pattern), found) for pattern, found in BY_FILE]
_LINES = [(re.compile(pattern), found) for pattern, found in BY_LINE]


def _deeper(stack: Stack) -> list[Frame]:
    """The frames below the user's own, outermost first."""
    own = user_frame(stack)
    if own is None:
        return list(stack.frames)
    at = max(at for at, frame in enumerate(stack.frames) if frame == own)
    return list(stack.frames[at + 1 :])


def known(stack: Stack | None, line: str) -> Blocking | None:
    """The blocking call that this stack stands in; None: it is none that we know. `line`: the text of the user's line."""
    if stack is None or imports(stack):
        return None
    files = ["/" + frame.file.replace("\\", "/") for frame in _deeper(stack)]
    for pattern, found in _FILES:
        if any(pattern.search(file) for file in files):
            return found
    if files or "await " in line:
        return None
    return next((found for pattern, found in _LINES if pattern.search(line)), None)


def imports(stack: Stack | None) -> bool:
    """Was a module being imported, by the user's code or below it?"""
    if stack is None:
        return False
    frames = stack.frames[_handler(stack) :]
    return any(frame.file.startswith("<frozen importlib") or "/importlib/" in frame.file for frame in frames)


def _handler(stack: Stack) -> int:
    """Where the application's part of the stack begins: behind the last frame of the server or of the loop. What is before
    may be an import itself: `python -m`."""
    at = 0
    for index, frame in enumerate(stack.frames):
        if frame.function.rpartition(".")[2] in ("run_forever", "_run_once", "_run") or is_ours(frame.file):
            at = index + 1
    return at
