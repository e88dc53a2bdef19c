"""What the soak serves: small answers, uploads, streams, a plain function in a thread, a failure that is expected."""

import asyncio
from collections.abc import AsyncIterator

from fastserve import App, HTTPException, Request, StreamingResponse

app = App()
BIG = b"b" * 1_000_000


@app.get("/")
async def index() -> str:
    return "hello"


@app.get("/thread")
def thread() -> str:
    return "from a thread"


@app.get("/json/{number:int}")
async def json(number: int) -> dict[str, int]:
    return {"number": number}


@app.post("/count")
async def count(request: Request) -> str:
    return str(sum([len(piece) async for piece in request.stream()]))


@app.post("/echo")
async def echo(request: Request) -> bytes:
    return await request.body()


@app.get("/big")
async def big() -> bytes:
    return BIG


@app.get("/ticks")
async def ticks() -> StreamingResponse:
    async def body() -> AsyncIterator[bytes]:
        for _ in range(10):
            yield b"tick\n"
            await asyncio.sleep(0.01)

    return StreamingResponse(body())


@app.get("/wait")
async def wait() -> str:
    await asyncio.sleep(5)
    return "too late"


@app.get("/refused")
async def refused() -> str:
    raise HTTPException(403)
