"""Floor 1: Python objects and one connection. Re-exports for the floors above; see ARCHITECTURE.md."""

from fastserve.protocol.board import Board, SeatState
from fastserve.protocol.connection import Connection
from fastserve.protocol.forwarded import Trust
from fastserve.protocol.headers import Headers, QueryParams
from fastserve.protocol.hooks import Handler, Observer
from fastserve.protocol.limits import Limits
from fastserve.protocol.request import Request
from fastserve.protocol.service import Service

__all__ = [
    "Board",
    "Connection",
    "Handler",
    "Headers",
    "Limits",
    "Observer",
    "QueryParams",
    "Request",
    "SeatState",
    "Service",
    "Trust",
]
