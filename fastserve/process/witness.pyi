"""Types of witness.pyx."""

from fastserve.process.talk import Talk

__all__ = ["testify"]

def testify(talk: Talk) -> None: ...
