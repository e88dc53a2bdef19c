"""One endpoint of FastAPI with a path parameter and a query parameter. Loaded by the servers named NAME-fastapi."""

from typing import Any

from fastapi import FastAPI

app = FastAPI(openapi_url=None)


@app.get("/items/{item_id}")
async def item(item_id: int, q: str | None = None) -> dict[str, Any]:
    return {"item_id": item_id, "q": q}
