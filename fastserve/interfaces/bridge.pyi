"""Types of bridge.pyx."""

from typing import Any

from fastserve.interfaces.native import NativeHandler
from fastserve.protocol.service import Service
from fastserve.types import Receive, Scope, Send

__all__ = ["Bridge"]

class Bridge:
    app: Any
    state: dict[str, Any]
    def __init__(self, app: Any) -> None: ...
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None: ...
    def handler(self) -> NativeHandler: ...
    def service(self) -> Service: ...
    async def live(self, scope: Scope, receive: Receive, send: Send) -> None: ...
