"""A chat room over WebSockets: `fastserve examples.websocket_chat:app`, then http://127.0.0.1:8000 in two windows."""

import asyncio
import contextlib

from fastserve import App, HTMLResponse, WebSocket, WebSocketDisconnect

app = App()

PAGE = """<!doctype html><title>chat</title><ul id=said></ul><form id=form><input id=text autofocus></form><script>
const name = Math.random().toString(36).slice(2, 6);
const socket = new WebSocket(location.href.replace("http", "ws") + "rooms/1?name=" + name);
socket.onmessage = (event) => said.append(Object.assign(document.createElement("li"), {textContent: event.data}));
form.onsubmit = (event) => { event.preventDefault(); socket.send(text.value); text.value = ""; };
</script>"""


class Room:
    """Who is in a room. A guest that reads slowly is waited for by nobody: its queue is short, and then it has to go."""

    def __init__(self) -> None:
        self.queues: set[asyncio.Queue[str]] = set()

    def say(self, text: str) -> None:
        for queue in list(self.queues):
            try:
                queue.put_nowait(text)
            except asyncio.QueueFull:
                self.queues.discard(queue)


rooms: dict[int, Room] = {}


@app.get("/")
async def index() -> HTMLResponse:
    return HTMLResponse(PAGE)


@app.websocket("/rooms/{id:int}")
async def chat(ws: WebSocket, id: int) -> None:
    name = ws.query_params.get("name", "somebody")
    room = rooms.setdefault(id, Room())
    queue: asyncio.Queue[str] = asyncio.Queue(100)
    await ws.accept()

    async def deliver() -> None:
        with contextlib.suppress(WebSocketDisconnect):
            while queue in room.queues or not queue.empty():
                await ws.send_text(await queue.get())
            await ws.close(1008, "too slow")

    room.queues.add(queue)
    room.say(f"{name} came in")
    delivering = asyncio.create_task(deliver())
    try:
        async for message in ws:
            room.say(f"{name}: {message!s}")
    finally:
        room.queues.discard(queue)
        room.say(f"{name} left")
        delivering.cancel()
