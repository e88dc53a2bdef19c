"""The arena's endpoints in fastserve's own interface. Started by start.py as `fastserve app:app`.

ARENA_DATA is the folder that the arena mounts at /data; DATABASE_URL and DATABASE_MAX_CONN are the arena's.
"""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from fastserve import App, Query, Request, WebSocket
from fastserve.middleware import Compress

DATA = Path(os.environ.get("ARENA_DATA", "/data"))
QUERY = (
    "SELECT id, name, category, price, quantity, active, tags, rating_score, rating_count "
    "FROM items WHERE price BETWEEN $1 AND $2 LIMIT $3"
)
EMPTY: dict[str, Any] = {"items": [], "count": 0}


async def lifespan(app: App) -> AsyncIterator[None]:
    app.state.items = json.loads((DATA / "dataset.json").read_bytes())
    app.state.database = None
    app.state.connecting = asyncio.Lock()
    await database()
    yield
    if app.state.database is not None:
        await app.state.database.close()


app = App(lifespan=lifespan)
items = App()
items.middleware(Compress())
app.mount("/json", items)
if (DATA / "static").is_dir():
    app.static("/static", DATA / "static")


@app.get("/baseline11")
async def add(a: Query[int], b: Query[int]) -> str:
    return str(a + b)


@app.post("/baseline11")
async def add_body(a: Query[int], b: Query[int], body: bytes) -> str:
    return str(a + b + int(body))


@app.get("/pipeline")
async def pipeline() -> str:
    return "ok"


@items.get("/{count:int}")
async def first_items(count: int, m: Query[int] = 1) -> dict[str, Any]:
    chosen = [item | {"total": item["price"] * item["quantity"] * m} for item in app.state.items[:count]]
    return {"items": chosen, "count": len(chosen)}


@app.post("/upload")
async def upload(request: Request) -> str:
    size = 0
    async for piece in request.stream():
        size += len(piece)
    return str(size)


@app.websocket("/ws")
async def echo(ws: WebSocket) -> None:
    await ws.accept()
    async for message in ws:
        await ws.send(message)


# `min` and `max` are what the arena calls them.
@app.get("/async-db")
async def rows(min: Query[int] = 10, max: Query[int] = 50, limit: Query[int] = 50) -> dict[str, Any]:
    pool = await database()
    if pool is None:
        return EMPTY
    found = [shaped(row) for row in await pool.fetch(QUERY, min, max, sorted((1, limit, 50))[1])]
    return {"items": found, "count": len(found)}


def shaped(row: Any) -> dict[str, Any]:
    """A row of the table as the arena wants it."""
    item = {name: row[name] for name in ("id", "name", "category", "price", "quantity", "active")}
    tags = row["tags"]
    item["tags"] = json.loads(tags) if isinstance(tags, str) else tags
    item["rating"] = {"score": row["rating_score"], "count": row["rating_count"]}
    return item


async def database() -> Any:
    """The pool of this worker, made when it is first asked for; None while there is no database."""
    url = os.environ.get("DATABASE_URL")
    if app.state.database is None and url:
        import asyncpg

        workers = len(os.sched_getaffinity(0))
        size = max(1, int(os.environ.get("DATABASE_MAX_CONN", "64")) // workers)
        async with app.state.connecting:
            if app.state.database is None:
                try:
                    app.state.database = await asyncpg.create_pool(url, min_size=1, max_size=size)
                except (OSError, asyncpg.PostgresError):  # it is not there yet: the next request tries again
                    return None
    return app.state.database
