"""The README's example: `fastserve examples.hello:app`."""

from fastserve import App

app = App()


@app.get("/")
async def index() -> str:
    return "Hello, World!"


@app.get("/hello/{name}")
async def hello(name: str) -> dict[str, str]:
    return {"hello": name}
