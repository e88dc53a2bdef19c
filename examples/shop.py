"""A shop with one fault, for the lens to find. `fastserve examples.shop:app --lens full`

Most of it is as it should be: a pool of connections, two waits that overlap, work in a thread. One report is not, and every
other request pays for it. docs/one-stall.md goes from the symptom to the line.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastserve import App, Query

app = App()


class Pool:
    """Stands for a pool of database connections."""

    def __init__(self, size: int) -> None:
        self.free = asyncio.Semaphore(size)

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[None]:
        async with self.free:
            yield


pool = Pool(4)


@app.get("/items/{id:int}")
async def show(id: int) -> dict[str, object]:
    async with pool.connection():
        name = await fetch(id)
    price, left = await asyncio.gather(price_of(id), stock_of(id))
    return {"id": id, "name": name, "price": price, "left": left}


async def fetch(id: int) -> str:
    await asyncio.sleep(0.012)  # the database
    return f"tea number {id}"


async def price_of(id: int) -> float:
    await asyncio.sleep(0.02)  # another service
    return 3.5 + id % 4


async def stock_of(id: int) -> int:
    return await asyncio.to_thread(count, id)


def count(id: int) -> int:
    time.sleep(0.008)  # a file on a slow disk: in a thread, where it may block
    return 40 - id % 40


@app.get("/report")
async def report(rows: Query[int] = 300) -> str:
    sales = await asyncio.gather(*(fetch(day) for day in range(7)))
    return render(sales, rows)


def render(sales: list[str], rows: int) -> str:
    lines = []
    for row in range(rows):
        lines.append(spelled(sales[row % 7], row))
    return "\n".join(lines)


def spelled(sale: str, row: int) -> str:
    """Slow on purpose, as templates, big JSON documents and regular expressions are without one's asking."""
    end = time.perf_counter() + 0.001
    while time.perf_counter() < end:
        sale = sale[1:] + sale[0]
    return f"{row}: {sale}"
