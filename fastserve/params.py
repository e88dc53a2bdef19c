"""Markers for handler arguments: Query[int], Header[str], State[Pool], Json[Item].

Room: ground stone, imports nothing of ours. Called by: users, in annotations; routing.py, which reads them once, when a
handler is registered. To a type checker `Query[int]` is `int`: each marker is a generic alias of typing.Annotated.
The idea is axum's (an argument's type says how to get it), the spelling follows FastAPI's Annotated.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, TypeVar

__all__ = ["Header", "Json", "Marker", "Query", "State"]

T = TypeVar("T")


class Marker:
    """What `Annotated` carries. `source`: "query", "header", "state" or "json"."""

    __slots__ = ("source",)

    def __init__(self, source: str) -> None:
        self.source: Final = source

    def __repr__(self) -> str:
        return f"<{self.source} argument>"


Query = Annotated[T, Marker("query")]
"""`q: Query[int] = 1`: one value of the query, found by the argument's name and converted to the type.

The last one counts if the name is repeated; `Query[list[int]]` takes all. Without a default a missing value is answered
with 400; a value that cannot be converted always is.
"""

Header = Annotated[T, Marker("header")]
"""`user_agent: Header[str]`: one header, found by the argument's name with "-" for "_". The first one counts if it is
repeated; `Header[list[str]]` takes all. Missing and unconvertible values as for Query.
"""

State = Annotated[T, Marker("state")]
"""`db: State[Pool]`: the attribute `db` of request.state (what the lifespan yielded, what a middleware set) or else of
app.state. Neither has it: 500, and a line in the log.
"""

Json = Annotated[T, Marker("json")]
"""`item: Json[Item]`: the body as JSON. With msgspec installed it is decoded into the type: malformed JSON is answered
with 400, JSON that does not fit the type with 422. Without msgspec it is json.loads, and the type is not checked.
"""


def marker_of(annotation: Any) -> Marker | None:
    """The Marker of an annotation made by the names above, or None."""
    for extra in getattr(annotation, "__metadata__", ()):
        if isinstance(extra, Marker):
            return extra
    return None
