"""The exception tree: whose fault, and which status answers it.

Room: ground stone, imported by every floor, imports nothing of ours. As in h11, the class name says who broke the rule.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = [
    "ClientDisconnected",
    "ConfigError",
    "FastserveError",
    "HTTPException",
    "LensError",
    "LocalProtocolError",
    "ProtocolError",
    "RemoteProtocolError",
    "WebSocketDisconnect",
]


class FastserveError(Exception):
    """Base of everything this package raises on purpose."""


class ConfigError(FastserveError):
    """An option, an address or an application reference cannot be used. The text is one readable line for an operator.

    `exit_code`: what the command line ends with; 2 for wrong usage, 3 for an application that cannot start. `details`:
    lines to print above that one, such as the application's own traceback; "" if there are none.
    """

    details: str = ""

    def __init__(self, message: str, *, exit_code: int = 2) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class LensError(FastserveError):
    """What the lens was asked for is not there: no such server, nothing recorded, a broken file. One readable line."""


class ProtocolError(FastserveError):
    """Somebody broke a rule of HTTP/1.1."""


class LocalProtocolError(ProtocolError):
    """Our own side broke it: the application answered twice, wrote more than it declared, put CR LF into a header."""


class RemoteProtocolError(ProtocolError):
    """The peer broke it. `status` is what it was answered with (0: nothing)."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


class ClientDisconnected(RemoteProtocolError, OSError):
    """The peer left before the request was read or the response was taken whole."""

    def __init__(self, message: str = "client disconnected") -> None:
        super().__init__(message, 0)


class HTTPException(FastserveError):
    """Raise it in a handler to answer with `status_code`.

    `detail`: text of the answer; the registered reason phrase if None. `headers`: added to the answer.
    """

    def __init__(self, status_code: int, detail: Any = None, headers: Mapping[str, str] | None = None) -> None:
        if detail is None:
            from http import HTTPStatus

            try:
                detail = HTTPStatus(status_code).phrase
            except ValueError:
                detail = "Error"
        super().__init__(f"{status_code}: {detail}")
        self.status_code = status_code
        self.detail = detail
        self.headers = dict(headers) if headers is not None else None


class WebSocketDisconnect(FastserveError):
    """A WebSocket has ended; there is nothing more to receive, and nobody to send to.

    `code`: of the close frame (RFC 6455 section 7.4); 1005 if it named none, 1006 if the connection ended without one, and
    what we told the peer if it was us (1002, 1007, 1009: it broke a rule; 1011: no pong; 1012: the server restarts).
    """

    def __init__(self, code: int = 1000, reason: str | None = None) -> None:
        super().__init__(f"{code}: {reason}" if reason else str(code))
        self.code = code
        self.reason = reason or ""
