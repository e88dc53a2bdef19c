"""The chapter on responses in the case book: what leaves for a given request and a given answer, byte for byte."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from cases.loader import expand

from fastserve import App, Response, StreamingResponse

CHAPTER = Path(__file__).resolve().parent.parent / "cases" / "responses.md"


def cases() -> list[tuple[str, str, dict[str, str]]]:
    found = []
    for section in CHAPTER.read_text(encoding="utf-8").split("\n## ")[1:]:
        heading, _, rest = section.partition("\n")
        blocks = dict(re.findall(r"```(\w+)\n(.*?)```", rest, re.DOTALL))
        found.append((heading, rest.partition("```")[0], blocks))
    return found


def fields_of(text: str) -> list[tuple[bytes, bytes]]:
    # one space behind the colon is notation; what more there is belongs to the value, and the server drops it
    pairs = [expand(line[6:]).split(b":", 1) for line in text.splitlines() if line.startswith("field ")]
    return [(name, value.removeprefix(b" ")) for name, value in pairs]


def answer_of(text: str) -> Response:
    words = dict(line.split(" ", 1) if " " in line else (line, "") for line in text.splitlines())
    if "stream" in words:
        pieces = [expand(piece.strip()) for piece in words["stream"].split("|")]

        async def stream() -> Any:
            for piece in pieces:
                yield piece

        response: Response = StreamingResponse(stream(), status_code=int(words["status"]))
        response.raw_headers.clear()
    else:
        response = Response(expand(words.get("body", "")), status_code=int(words["status"]))
        response.raw_headers.clear()
    response.raw_headers.extend(fields_of(text))
    return response


@pytest.mark.parametrize(("heading", "prose", "blocks"), cases(), ids=lambda value: value if type(value) is str else "")
def test_case(memory: Any, heading: str, prose: str, blocks: dict[str, str]) -> None:
    assert re.search(r"RFC \d{4} §\d", prose), f"{heading}: no rule"
    assert set(blocks) == {"http", "answer", "wire"}, heading
    app = App()

    async def handler() -> Response:
        return answer_of(blocks["answer"])

    app.add_route("/", handler, methods=("GET", "HEAD"))
    conn = memory(app)
    sent = conn.feed(expand(blocks["http"])) + conn.turn(12)
    sent = re.sub(rb"date: \w{3}, \d\d \w{3} 20\d\d \d\d:\d\d:\d\d GMT\r\n", b"date: *\r\n", sent)
    assert len(re.findall(rb"(?m)^date: ", sent)) == 1, "one Date"
    wanted = expand(blocks["wire"])
    for mark, ends in ((b"(closed)", True), (b"(cut)", True), (b"", False)):
        if wanted.endswith(mark):
            assert sent == wanted.removesuffix(mark)
            assert (conn.transport.closed or conn.transport.eof) == ends
            break


def test_the_chapter_is_whole() -> None:
    headings = [heading for heading, _, _ in cases()]
    assert len(headings) == len(set(headings)) >= 30
