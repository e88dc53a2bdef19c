"""Types of relay.pyx."""

from fastserve.protocol.exchange import Exchange
from fastserve.types import Send

__all__ = ["relay"]

async def relay(exchange: Exchange, send: Send) -> bool: ...
