"""demo: one route for each idea of the lessons, in fastserve's own API. `fastserve fastserve.lens.lessons.demo:app`

Room: the top. Called by: a server of its own, which learn.py starts. Calls: fastserve, as an application does.
Each function is shown to the reader as it stands here.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

from fastserve import App

app = App()


@app.get("/wait/{name}")
async def wait(name: str) -> str:
    await asyncio.sleep(0.1)  # a timer: in 100 ms
    return f"{name} waited\n"


@app.get("/short/{name}")
async def short(name: str) -> str:
    await asyncio.sleep(0.02)  # a timer: in 20 ms
    return f"{name} waited a little\n"


@app.get("/block/{name}")
async def block(name: str) -> str:
    time.sleep(0.1)  # no await: the loop is in here
    return f"{name} blocked\n"


async def price() -> int:
    await asyncio.sleep(0.05)
    return 12


async def stock() -> int:
    await asyncio.sleep(0.06)
    return 3


@app.get("/serial")
async def serial() -> dict[str, int]:
    return {"price": await price(), "stock": await stock()}


@app.get("/gather")
async def gather() -> dict[str, int]:
    cost, left = await asyncio.gather(price(), stock())
    return {"price": cost, "stock": left}


lock = asyncio.Lock()


@app.get("/lock/{name}")
async def locked(name: str) -> str:
    async with lock:
        await asyncio.sleep(0.04)  # alone in here
    return f"{name} had the lock\n"


def work() -> None:
    time.sleep(0.08)  # blocks a thread, not the loop


@app.get("/thread/{name}")
async def thread(name: str) -> str:
    await asyncio.to_thread(work)
    return f"{name} used a thread\n"


@app.get("/download")
async def download() -> AsyncIterator[bytes]:
    for _ in range(96):
        yield b"x" * 65536  # waits while the client is full


@app.get("/compute")
async def compute() -> str:
    end = time.perf_counter() + 0.06
    number = 0
    while time.perf_counter() < end:
        number += 1
    return f"{number}\n"


class Pool:
    """Connections that are lent: two of them, whoever comes third waits."""

    def __init__(self, size: int) -> None:
        self.free: asyncio.Queue[str] = asyncio.Queue()
        for number in range(size):
            self.free.put_nowait(f"connection {number}")

    async def acquire(self) -> str:
        return await self.free.get()

    def release(self, connection: str) -> None:
        self.free.put_nowait(connection)


pool = Pool(2)


@app.get("/query/{name}")
async def query(name: str) -> str:
    connection = await pool.acquire()
    try:
        await asyncio.sleep(0.05)  # the database thinks
    finally:
        pool.release(connection)
    return f"{name} asked by {connection}\n"
