"""zygote: --preload: one import, workers that are the supervisor's own, a zygote that may die."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

from process.running import HERE, Running, alive, until
from process.test_under_load import children

APP = ("apps:app", "--app-dir", str(HERE), "--port", "0", "--preload")


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def zygote_of(server: Running) -> int:
    """The last one that has become ready."""
    return int(re.findall(r"zygote \(pid (\d+)\) is ready", server.err)[-1])


def test_application_is_imported_once_and_workers_are_the_supervisors(tmp_path: Path) -> None:
    (tmp_path / "counted.py").write_text(
        "import os\nos.write(2, b'imported\\n')\nfrom apps import app\nimport threading\n"
        "threading.Thread(target=threading.Event().wait, name='poller', daemon=True).start()\n"
    )
    with Running("counted:app", *APP[1:], "-w", "3", cwd=tmp_path, PYTHONPATH=str(tmp_path)) as server:
        server.ready()
        assert server.lines.count("imported") == 1
        assert all(parent(pid) == server.pid for pid in server.workers)
        assert "started threads while it was imported" in server.err and "'poller'" in server.err
        assert server.stop() == 0
        assert not any(map(alive, server.workers))


def test_killing_the_zygote_harms_no_worker(tmp_path: Path) -> None:
    with Running(*APP, "-w", "2", cwd=tmp_path) as server:
        server.ready()
        first = zygote_of(server)
        os.kill(first, signal.SIGKILL)
        server.wait_for(rf"zygote \(pid {first}\) was killed by SIGKILL; starting another")
        server.wait_for(r"zygote \(pid \d+\) is ready", count=2)
        assert all(map(alive, server.workers)) and server.get() == "hello"
        os.kill(server.workers[0], signal.SIGKILL)
        new = int(server.wait_for(r"worker 0 \(pid (\d+)\) is ready").group(1))
        assert parent(new) == server.pid
        assert server.stop() == 0


def test_broken_zygote_leaves_the_old_one_also_for_respawns(tmp_path: Path) -> None:
    flag = tmp_path / "broken"
    with Running(*APP, "-w", "2", cwd=tmp_path, TEST_IMPORT_FAILS_IF=str(flag)) as server:
        server.ready()
        flag.touch()
        server.signal(signal.SIGHUP)
        server.wait_for("reload given up, the old workers stay")
        os.kill(server.workers[0], signal.SIGKILL)
        server.wait_for(r"worker 0 \(pid \d+\) is ready")  # the code on disk could not even be imported
        assert server.get() == "hello"
        assert server.stop() == 0


def test_import_failure_ends_the_server(tmp_path: Path) -> None:
    with Running(*APP, "-w", "2", cwd=tmp_path, TEST_IMPORT_FAILS="1") as server:
        assert server.wait() == 3
        assert server.lines[0] == "Traceback (most recent call last):"
        assert server.lines[-1] == 'fastserve: error: cannot import "apps": ValueError: no configuration'
        assert server.err.count("Traceback") == 1


def test_all_are_gone_after_the_supervisor_was_killed(tmp_path: Path) -> None:
    with Running(*APP, "-w", "2", cwd=tmp_path) as server:
        server.ready()
        pids = children(server.pid)
        assert len(pids) == 3
        server.signal(signal.SIGKILL)
        until(lambda: not any(map(alive, pids)), "all are gone", 2.0)
