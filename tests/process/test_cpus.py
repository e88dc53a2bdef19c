"""cpus: the number that --workers auto means, on a made-up machine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fastserve.process.cpus import available

GROUPS = {
    "version 2": ("0::/a/b", {"sys/fs/cgroup/a/b/cpu.max": "200000 100000"}, 2.0, "/sys/fs/cgroup/a/b/cpu.max"),
    "version 2, a parent": (
        "0::/a/b",
        {"sys/fs/cgroup/a/b/cpu.max": "max 100000", "sys/fs/cgroup/a/cpu.max": "150000 100000"},
        1.5,
        "/sys/fs/cgroup/a/cpu.max",
    ),
    "version 2, the least": (
        "0::/a/b",
        {"sys/fs/cgroup/a/b/cpu.max": "300000 100000", "sys/fs/cgroup/cpu.max": "100000 100000"},
        1.0,
        "/sys/fs/cgroup/cpu.max",
    ),
    "version 2, the host's path": ("0::/host/path", {"sys/fs/cgroup/cpu.max": "50000 100000"}, 0.5,
                                   "/sys/fs/cgroup/cpu.max"),
    "version 2, none": ("0::/", {"sys/fs/cgroup/cpu.max": "max 100000"}, None, ""),
    "version 2, nonsense": ("0::/", {"sys/fs/cgroup/cpu.max": "x"}, None, ""),
    "version 1": (
        "4:cpu,cpuacct:/a\n1:memory:/b",
        {"sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_quota_us": "250000",
         "sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_period_us": "100000"},
        2.5,
        "/sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_quota_us",
    ),
    "version 1, in a container": (
        "4:cpu,cpuacct:/docker/1234",
        {"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "100000", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "50000"},
        2.0,
        "/sys/fs/cgroup/cpu/cpu.cfs_quota_us",
    ),
    "version 1, none": (
        "4:cpu:/",
        {"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000"},
        None,
        "",
    ),
    "no groups": (None, {}, None, ""),
    "nonsense": ("what is this", {}, None, ""),
    "a path that leads out": ("0::/../../etc", {"sys/fs/cgroup/cpu.max": "100000 100000"}, 1.0, "/sys/fs/cgroup/cpu.max"),
}  # fmt: skip


@pytest.mark.parametrize("case", GROUPS)
def test_quota_of_a_control_group(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    groups, files, quota, where = GROUPS[case]
    if groups is not None:
        files = {**files, "proc/self/cgroup": groups + "\n"}
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(8)), raising=False)
    if quota is None:
        assert available(tmp_path) == (8, "8 CPUs of this machine")
    else:
        assert available(tmp_path) == (max(1, -int(-quota // 1)), f"quota of {quota:g} CPUs in {where}")


def test_affinity_bounds_it_and_the_quota_only_if_it_is_less(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {1, 5, 6}, raising=False)
    assert available(tmp_path) == (3, "3 of 8 CPUs by affinity")
    for name, text in (("proc/self/cgroup", "0::/\n"), ("sys/fs/cgroup/cpu.max", "400000 100000\n")):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert available(tmp_path) == (3, "3 of 8 CPUs by affinity")


def test_this_machine_has_some() -> None:
    count, reason = available()
    assert 1 <= count <= (os.cpu_count() or 1) and reason
