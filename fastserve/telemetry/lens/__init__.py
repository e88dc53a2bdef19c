"""The lens, write side: where each request waits, into shared memory. See ARCHITECTURE.md."""

from fastserve.telemetry.lens.memory import Area, LensMemory
from fastserve.telemetry.lens.modes import LensMode, Mode, parse_mode

__all__ = ["Area", "LensMemory", "LensMode", "Mode", "parse_mode"]
