"""Bodies that come and go piece by piece, in bounded memory. `fastserve examples.streaming:app`

curl -N http://127.0.0.1:8000/ticks                  down: a line now and then
curl -T README.md http://127.0.0.1:8000/hash         up: never held whole
curl -N -T README.md http://127.0.0.1:8000/upper     both at once
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterator

from fastserve import App, Query, Request, StreamingResponse

app = App()


@app.get("/ticks")
async def ticks(count: Query[int] = 5, interval: Query[float] = 1.0) -> StreamingResponse:
    async def lines() -> AsyncIterator[str]:
        for number in range(count):
            if number:
                await asyncio.sleep(interval)
            yield f"tick {number}\n"  # each piece is on its way before the next is asked for

    return StreamingResponse(lines(), media_type="text/plain")


@app.route("/hash", methods=["PUT", "POST"])
async def hash_of(request: Request) -> dict[str, str | int]:
    digest, size = hashlib.sha256(), 0
    async for piece in request.stream():  # reading from the client pauses while a piece is worked on
        digest.update(piece)
        size += len(piece)
    return {"sha256": digest.hexdigest(), "bytes": size}


@app.route("/upper", methods=["PUT", "POST"])
async def upper(request: Request) -> AsyncIterator[bytes]:
    async for piece in request.stream():
        yield piece.upper()


@app.get("/zeros/{count:int}")
def zeros(count: int) -> Iterator[bytes]:  # a plain generator: iterated in the thread pool
    piece = bytes(65536)
    while count > 0:
        yield piece[:count]
        count -= len(piece)
