"""Types of hooks.pyx."""

class Handler:
    def close(self) -> None: ...

class Observer:
    def close(self) -> None: ...
