"""An application whose worker other processes look at (test_lens_outside.py)."""

from __future__ import annotations

import asyncio
import ctypes
import hashlib
import time

from fastserve import App

PR_SET_PTRACER, ANYBODY = 0x59616D61, ctypes.c_ulong(-1)
app = App()


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
    hashlib.pbkdf2_hmac("sha256", b"x", b"y", 150_000)  # in C, without the GIL
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
