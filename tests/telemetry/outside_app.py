"""An application whose worker other processes look at (test_lens_outside.py)."""

from __future__ import annotations

import asyncio
import ctypes
import hashlib
import time

from fastserve import App

PR_SET_PTRACER, ANYBODY = 0x59616D61, ctypes.c_ulong(-1)
app = App()


def rounds_of(seconds: float) -> int:
    """Rounds of the digest that take so long here: processors differ by a factor of six."""
    took = []
    for _ in range(3):
        began = time.perf_counter()
        hashlib.pbkdf2_hmac("sha256", b"x", b"y", 20_000)
        took.append(time.perf_counter() - began)
    return int(20_000 * seconds / min(took))


ROUNDS = rounds_of(0.15)


class Woken:
    event: asyncio.Event | None = None


@app.get("/burns")
async def burns() -> str:
    until = time.perf_counter() + 0.1
    while time.perf_counter() < until:
        pass
    return "burnt"


@app.get("/sleeps")
async def sleeps() -> str:
    time.sleep(0.12)
    return "slept"


@app.get("/digests")
async def digests() -> str:
    hashlib.pbkdf2_hmac("sha256", b"x", b"y", ROUNDS)  # in C, without the GIL
    return "digested"


@app.get("/waits")
async def waits() -> str:
    Woken.event = asyncio.Event()
    await Woken.event.wait()
    return "woken"


def holds() -> None:
    time.sleep(0.12)


@app.get("/wakes")
async def wakes() -> str:
    assert Woken.event is not None
    Woken.event.set()
    holds()
    return "done"


# Where only a parent may look at a process (Yama), this one lets anybody of the same user.
ctypes.CDLL(None).prctl(PR_SET_PTRACER, ANYBODY, 0, 0, 0)
