"""What the arena mounts into a contestant: a data set of fifty items, twenty static files, a certificate.

Called by contestants.py and tests. The contents are our own, made from a fixed seed; names, kinds and sizes are those of
the arena's rules, since they are what a profile measures.
"""

from __future__ import annotations

import gzip
import json
import random
import shutil
from pathlib import Path
from typing import Any

from .. import servers

ITEMS = 50
# Name and kilobytes, as the rules of the profile `static` give them.
TEXTS = {
    **{"reset.css": 8, "layout.css": 25, "theme.css": 18, "components.css": 200, "utilities.css": 60},
    **{"analytics.js": 12, "helpers.js": 22, "app.js": 200, "vendor.js": 300, "router.js": 35},
    **{"header.html": 120, "footer.html": 55, "logo.svg": 15, "icon-sprite.svg": 70, "manifest.json": 3},
}
BINARIES = {"regular.woff2": 18, "bold.woff2": 22, "hero.webp": 45, "thumb1.webp": 8, "thumb2.webp": 6}
FILES = (*TEXTS, *BINARIES)
WORDS = (
    *("server", "request", "answer", "header", "body", "chunk", "worker", "socket", "thread", "buffer", "parser"),
    *("event", "timer", "route", "stream", "frame"),
)


def items() -> list[dict[str, Any]]:
    """The data set: each item has every type that JSON has but null."""
    dice = random.Random(50)
    return [
        {
            "id": number,
            "name": f"{dice.choice(WORDS)} {dice.choice(WORDS)}".title(),
            "category": dice.choice(("parts", "paper", "garden", "kitchen", "sound")),
            "price": dice.randrange(1, 500),
            "quantity": dice.randrange(1, 100),
            "active": dice.random() < 0.7,
            "tags": dice.sample(WORDS, dice.randrange(1, 5)),
            "rating": {"score": dice.randrange(1, 51), "count": dice.randrange(1, 400)},
        }
        for number in range(1, ITEMS + 1)
    ]


def text(name: str, kilobytes: int) -> bytes:
    """Words in lines, of exactly that size: it compresses about as source code does."""
    dice = random.Random(name)
    size, found = kilobytes * 1024, bytearray()
    while len(found) < size:
        found += f"{' '.join(dice.choices(WORDS, k=8))} {dice.randrange(10**6)};\n".encode()
    return bytes(found[:size])


def write(folder: Path) -> Path:
    """Make the folder that the arena mounts at /data, and /data/certs, which it mounts at /certs; returns it."""
    static, certs = folder / "static", folder / "certs"
    static.mkdir(parents=True)
    certs.mkdir()
    (folder / "dataset.json").write_text(json.dumps(items(), indent=2), encoding="utf-8")
    for name, kilobytes in TEXTS.items():
        content = text(name, kilobytes)
        (static / name).write_bytes(content)
        (static / f"{name}.gz").write_bytes(gzip.compress(content, 9, mtime=0))
    for name, kilobytes in BINARIES.items():
        (static / name).write_bytes(random.Random(name).randbytes(kilobytes * 1024))
    shutil.copy(servers.CERTIFICATE["cert"], certs / "server.crt")
    shutil.copy(servers.CERTIFICATE["key"], certs / "server.key")
    return folder
