"""A small JSON API: typed paths, query, header, JSON body, state, errors. `fastserve examples.json_api:app`

curl -d '{"text":"milk"}' http://127.0.0.1:8000/api/notes
curl 'http://127.0.0.1:8000/api/notes?contains=mi'
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from fastserve import App, Header, HTTPException, Json, Query, Request, Router, State


@dataclass
class Note:
    """What a client sends. With msgspec installed a body that is no Note is answered with 422."""

    text: str
    tags: list[str] = field(default_factory=list)


async def lifespan(app: App) -> AsyncIterator[None]:
    app.state.notes = {}  # opened before the first request
    yield
    app.state.notes.clear()  # closed after the last


app = App(lifespan=lifespan)
api = Router(prefix="/api")

Notes = dict[int, Note]


@api.get("/notes")
async def list_notes(notes: State[Notes], contains: Query[str] = "", limit: Query[int] = 10) -> list[dict[str, Any]]:
    found = [{"id": id, "text": note.text, "tags": note.tags} for id, note in notes.items() if contains in note.text]
    return found[:limit]


@api.post("/notes")
async def add_note(note: Json[Note], notes: State[Notes]) -> tuple[dict[str, int], int, dict[str, str]]:
    if isinstance(note, dict):  # without msgspec nothing checks the type
        note = Note(**note)
    id = max(notes, default=0) + 1
    notes[id] = note
    return {"id": id}, 201, {"location": app.url_path_for("get_note", id=id)}


@api.get("/notes/{id:int}")
async def get_note(id: int, notes: State[Notes]) -> dict[str, Any]:
    if id not in notes:
        raise HTTPException(404, {"error": f"there is no note {id}"})
    return {"id": id, "text": notes[id].text, "tags": notes[id].tags}


@api.delete("/notes/{id:int}")
async def delete_note(id: int, notes: State[Notes], if_match: Header[str] = "*") -> None:
    if if_match != "*":
        raise HTTPException(412)
    if notes.pop(id, None) is None:
        raise HTTPException(404)


@app.exception_handler(KeyError)
async def missing(request: Request, error: KeyError) -> tuple[dict[str, str], int]:
    return {"error": f"missing: {error}"}, 400


app.include_router(api)
