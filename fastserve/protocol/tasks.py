"""tasks: which task runs on a loop, as asyncio itself keeps it.

Room:    floor 1, beside the hot path: asked once, when a module is loaded.
Called:  by interfaces/call.pyx and telemetry/lens/recorder.pyx.
Rules:   private to asyncio up to 3.13, and not there any more in 3.14: believed only if it is seen to work.
"""

from __future__ import annotations

from asyncio import tasks
from typing import Any

__all__ = ["tasks_by_loop"]


def tasks_by_loop() -> dict[Any, Any] | None:
    """The dict of running loops and their current tasks, which costs less to read and write than a call does; or None."""

    class Probe:
        pass

    found = getattr(tasks, "_current_tasks", None)
    loop: Any = Probe()
    task: Any = Probe()
    if type(found) is not dict:
        return None
    try:
        tasks._enter_task(loop, task)
        works = found.get(loop) is task
        tasks._leave_task(loop, task)
    except Exception:
        return None
    return found if works and loop not in found else None
