"""What the arena's ASGI and WSGI applications have in common. ARENA_DATA is the folder that the arena mounts at /data."""

import json
import os
from pathlib import Path
from typing import Any

DATA = Path(os.environ.get("ARENA_DATA", "/data"))
ITEMS: list[dict[str, Any]] = json.loads((DATA / "dataset.json").read_bytes())
EMPTY: dict[str, Any] = {"items": [], "count": 0}
GZIP_LEVEL = 5
KINDS = {
    ".css": "text/css",
    ".js": "text/javascript",
    ".html": "text/html",
    ".json": "application/json",
    ".svg": "image/svg+xml",
    ".webp": "image/webp",
    ".woff2": "font/woff2",
}


def first_items(count: int, m: int) -> dict[str, Any]:
    """The first items of the data set, each with its total."""
    chosen = [item | {"total": item["price"] * item["quantity"] * m} for item in ITEMS[:count]]
    return {"items": chosen, "count": len(chosen)}


def takes_gzip(accept_encoding: str) -> bool:
    return "gzip" in accept_encoding


def static_file(name: str) -> tuple[str, bytes] | None:
    """Content type and content, read anew each time; None if there is no such file."""
    path = DATA / "static" / name
    kind = KINDS.get(path.suffix)
    if kind is None or "/" in name or not path.is_file():
        return None
    return kind, path.read_bytes()
