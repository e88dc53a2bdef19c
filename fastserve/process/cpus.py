"""cpus: how many processors this process may really use, and why that many. What `--workers auto` means.

Room: floor 3. Called by: config.py; check.py, which asks the control groups for other numbers too. Calls: nothing of ours.

Three things bound it: the machine, the affinity mask (taskset, cpuset, `docker --cpuset-cpus`), and the CPU quota of
every control group on the way up to the root (`docker --cpus`, `limits.cpu` of Kubernetes). os.cpu_count() sees the
first only, and in a container it starts as many workers as the host has processors. Sources: sched_getaffinity(2);
Documentation/admin-guide/cgroup-v2.rst of Linux, "cpu.max"; Documentation/scheduler/sched-bwc.rst for version 1.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator
from pathlib import Path

__all__ = ["available", "group_numbers"]

MOUNTED = {"cpu": ["cpu", "cpu,cpuacct"]}  # where version 1 has a controller that shares its mount


def available(root: str | os.PathLike[str] = "/") -> tuple[int, str]:
    """The number, and its reason for people. `root`: where /proc and /sys are; tests have one of their own.

    A quota of one and a half processors is two workers: rounding down would leave a third of what is paid for unused.
    """
    count = os.cpu_count() or 1
    reason = f"{count} CPUs of this machine" if count != 1 else "1 CPU of this machine"
    if hasattr(os, "sched_getaffinity"):  # Linux
        mine = len(os.sched_getaffinity(0))
        if mine < count:
            reason = f"{mine} of {count} CPUs by affinity"
            count = mine
    quota, where = _quota(Path(root))
    if quota is not None and math.ceil(quota) < count:
        count = max(1, math.ceil(quota))
        reason = f"quota of {quota:g} CPUs in {where}"
    return count, reason


def group_numbers(root: str | os.PathLike[str], controller: str, name: str) -> list[int]:
    """The numbers in file `name` of each control group that we are in, and of those above; "max" is none.

    `controller`: whose hierarchy it is in version 1, such as "memory".
    """
    found = []
    for _, folder in _groups(Path(root), controller):
        with contextlib.suppress(OSError, ValueError):
            found.append(int((folder / name).read_text(encoding="ascii")))
    return found


def _groups(root: Path, controller: str) -> Iterator[tuple[int, Path]]:
    """(version, folder) of each control group that we are in, and of those above, where `controller` may have its files."""
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return
    mounts = root / "sys/fs/cgroup"
    for line in lines:  # hierarchy:controllers:path
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if not controllers:
            version, places = 2, [mounts, mounts / "unified"]  # alone, or beside version 1
        elif controller in controllers.split(","):
            version, places = (
                1,
                [mounts / controllers, *(mounts / name for name in MOUNTED.get(controller, [controller]))],
            )
        else:
            continue
        for mount in dict.fromkeys(places):
            for folder in _upwards(mount, path):
                yield version, folder


def _quota(root: Path) -> tuple[float | None, str]:
    """The smallest quota, in processors, of the groups we are in; and the file that says so."""
    least: float | None = None
    where = ""
    for file, quota in _quotas(root):
        if quota is not None and quota > 0 and (least is None or quota < least):
            least, where = quota, "/" + str(file.relative_to(root))
    return least, where


def _quotas(root: Path) -> Iterator[tuple[Path, float | None]]:
    for version, folder in _groups(root, "cpu"):
        if version == 2:
            yield folder / "cpu.max", _of_version_2(folder / "cpu.max")
        else:
            yield folder / "cpu.cfs_quota_us", _of_version_1(folder)


def _upwards(mount: Path, path: str) -> Iterator[Path]:
    """The group's folder and those above it, to the mount. In a container the path may be the host's: only the mount."""
    parts = [part for part in path.split("/") if part not in ("", ".", "..")]
    for end in range(len(parts), -1, -1):
        yield mount.joinpath(*parts[:end])


def _of_version_2(file: Path) -> float | None:
    try:
        quota, period = file.read_text(encoding="ascii").split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None


def _of_version_1(folder: Path) -> float | None:
    try:
        quota = int((folder / "cpu.cfs_quota_us").read_text(encoding="ascii"))
        period = int((folder / "cpu.cfs_period_us").read_text(encoding="ascii"))
        return None if quota < 0 else quota / period
    except (OSError, ValueError, ZeroDivisionError):
        return None
