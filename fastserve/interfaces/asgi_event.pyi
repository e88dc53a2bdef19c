"""Types of asgi_event.pyx: nothing of it is for Python."""

__all__: list[str] = []
