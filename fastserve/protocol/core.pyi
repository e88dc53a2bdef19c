"""Types of core.pyx."""

from collections.abc import Iterable
from typing import TypedDict, type_check_only

__all__ = [
    "ASSERTIONS",
    "bench_head",
    "bench_response",
    "connection_table",
    "date",
    "error_table",
    "events",
    "parse_head",
    "percent_decode",
    "simd",
    "simd_levels",
    "status_reason",
]

ASSERTIONS: bool

@type_check_only
class _Transition(TypedDict):
    happening: str
    reading_from: list[str]
    writing_from: list[str]
    reading_to: str | None
    writing_to: str | None
    why: str

def simd() -> str: ...
def simd_levels() -> list[str]: ...
def events(fragments: Iterable[bytes], **limits: int) -> list[str]: ...
def parse_head(data: bytes) -> tuple[bytes, bytes, int, int]: ...
def bench_head(data: bytes, n: int) -> float: ...
def bench_response(n: int, body: bytes) -> float: ...
def date(seconds: int) -> str: ...
def status_reason(status: int) -> str: ...
def percent_decode(data: bytes) -> bytes: ...
def error_table() -> list[tuple[str, int, str, str]]: ...
def connection_table() -> list[_Transition]: ...
