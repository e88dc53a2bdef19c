"""The application that the files of deploy/ serve, until yours takes its place."""

from fastserve import App

app = App()


@app.get("/")
async def index() -> str:
    return "The shop is open.\n"
