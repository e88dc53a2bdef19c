"""What the overload is measured with: a handler that holds its event loop for 5 ms, without a CPU."""

import time

from fastserve import App

app = App()


@app.get("/")
async def index() -> str:
    time.sleep(0.005)
    return "done"
