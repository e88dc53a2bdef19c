"""Types of lens.pyx."""

import threading

thread: threading.local

class Trace:
    request: int

class Lens:
    def mark(self, text: str) -> None: ...

def mark(text: str) -> None: ...
