"""What hostile clients are sent against ("hostile_app:app"). It hands over one and the same bytes object."""

from __future__ import annotations

from collections.abc import AsyncIterator

from fastserve import App, Request, StreamingResponse

app = App()
PIECE = b"x" * 65536


@app.get("/")
async def index() -> str:
    return "hello"


@app.post("/count")
async def count(request: Request) -> str:
    return str(sum([len(piece) async for piece in request.stream()]))


@app.post("/whole")
async def whole(body: bytes) -> str:
    return str(len(body))


@app.get("/much")
async def much() -> StreamingResponse:
    async def body() -> AsyncIterator[bytes]:
        while True:
            yield PIECE

    return StreamingResponse(body())
