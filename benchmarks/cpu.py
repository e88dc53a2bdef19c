"""Processor time of a server: its whole process tree, all threads, from /proc. Linux only.

Called by run.py before and after each sample. Two sources, because neither is enough alone:
  /proc/PID/task/TID/schedstat   nanoseconds, but a thread that ended takes its time with it
  /proc/PID/stat                 utime + stime in ticks of 10 ms, threads that ended included; and the user/system split
The first is used unless the second shows more than it can explain by its ticks, that is, unless threads came and went.
"""

import os
from dataclasses import dataclass
from pathlib import Path

TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class ProcessTime:
    """One process at one moment. `children_ns` is the time of children it has already waited for."""

    scheduled_ns: int
    user_ns: int
    system_ns: int
    children_ns: int


@dataclass(frozen=True, slots=True)
class Used:
    """Processor time between two snapshots. user_ns + system_ns has ticks of 10 ms; total_ns is the figure to use."""

    total_ns: int
    user_ns: int
    system_ns: int


Snapshot = dict[int, ProcessTime]


def tree(root: int) -> list[int]:
    """The pids of `root`, its descendants, and whoever else is in the session that `root` leads."""
    parents: dict[int, int] = {}
    members = {root}
    for entry in PROC.iterdir():
        if not entry.name.isdigit():
            continue
        fields = _stat_fields(int(entry.name))
        if fields is not None:
            parents[int(entry.name)] = int(fields[1])
            if int(fields[3]) == root:
                members.add(int(entry.name))
    grown = True
    while grown:
        found = {pid for pid, parent in parents.items() if parent in members} - members
        members |= found
        grown = bool(found)
    return sorted(pid for pid in members if pid in parents)


def state(pid: int) -> str:
    """The letter of /proc/PID/stat: R, S, T (stopped), Z ...; X for one that is gone."""
    fields = _stat_fields(pid)
    return fields[0] if fields is not None else "X"


def snapshot(root: int) -> Snapshot:
    """The times of every living process of the tree. A process that ends while we look is left out."""
    times = {pid: _read(pid) for pid in tree(root)}
    return {pid: time for pid, time in times.items() if time is not None}


def between(before: Snapshot, after: Snapshot) -> Used:
    """The time used from one snapshot to the next by all processes of the later one.

    A process that ended in between is seen through its parent's children_ns, if the parent waited for it.
    """
    nothing = ProcessTime(0, 0, 0, 0)
    total = user = system = children = 0
    for pid, later in after.items():
        earlier = before.get(pid, nothing)
        scheduled_ns = later.scheduled_ns - earlier.scheduled_ns
        user_ns, system_ns = later.user_ns - earlier.user_ns, later.system_ns - earlier.system_ns
        ticked_ns = user_ns + system_ns
        # Each of the four ticked readings may be off by one tick.
        total += scheduled_ns if ticked_ns - scheduled_ns <= 4 * TICK_NS else ticked_ns
        children += later.children_ns - earlier.children_ns
        user += user_ns
        system += system_ns
    # What the ended ones had used before the first snapshot is inside children_ns too, and is not ours to count.
    ended = sum(time.user_ns + time.system_ns for pid, time in before.items() if pid not in after)
    return Used(total + max(0, children - ended), user, system)


def rss_bytes(root: int) -> int:
    """Resident memory of the tree; pages shared between its processes count once for each."""
    total = 0
    for pid in tree(root):
        try:
            total += int((PROC / str(pid) / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        except (OSError, IndexError):
            continue
    return total


def machine_busy_ns() -> int:
    """Time all cores together were not idle since boot, time stolen by the hypervisor included."""
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, (PROC / "stat").read_text().split()[1:9])
    return (user + nice + system + irq + softirq + steal) * TICK_NS


def _read(pid: int) -> ProcessTime | None:
    fields = _stat_fields(pid)
    if fields is None:
        return None
    scheduled_ns = 0
    try:
        for task in (PROC / str(pid) / "task").iterdir():
            try:
                scheduled_ns += int((task / "schedstat").read_text().split()[0])
            except (OSError, IndexError):  # the thread ended, or a kernel without schedstat
                continue
    except OSError:
        return None
    utime, stime, cutime, cstime = (int(field) * TICK_NS for field in fields[11:15])
    return ProcessTime(scheduled_ns, utime, stime, cutime + cstime)


def _stat_fields(pid: int) -> list[str] | None:
    """/proc/PID/stat after the name, which stands in brackets and may hold anything: fields[0] is the state."""
    try:
        return (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
