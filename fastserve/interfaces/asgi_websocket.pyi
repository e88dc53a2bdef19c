"""Types of asgi_websocket.pyx: nothing of it is for Python."""

__all__: list[str] = []
