"""What every framework has to show, in its own words: the paths of the small application, and what its maker is given.

GET  /json        {"message": "hello"}
POST /echo        the body as it came
GET  /stream      "0123456789" in ten pieces
GET  /events      three server-sent events, "data: 0" to "data: 2"
POST /upload      {"name": ..., "size": ...} of the file in the form's field "file"
GET  /download    the file `Given.file`
POST /background  202 at once; `Given.background` grows after the answer
GET  /state       what the lifespan put into the state: "ready"
GET  /error       an exception nobody handles
GET  /forever     an endless stream; `Given.left` grows when its client has left
GET  /talk        a WebSocket (ASGI only): what was sent comes back; `Given.left` grows when its client has left
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

CASES = (
    "json",
    "echo",
    "stream",
    "events",
    "upload",
    "download",
    "background",
    "state",
    "error",
    "disconnect",
    "websocket",
)


@dataclass
class Given:
    """What an application and its test share: both run in one process."""

    file: Path
    background: int = 0
    left: int = 0
    shutdowns: int = 0
