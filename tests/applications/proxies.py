"""Proxies of Debian as tests run them: all that they write lies in one folder, and they are up when their ports answer.

Called by: test_proxies.py, test_nginx_framing.py, deployments/cluster.py.
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

LIMIT = 20.0
PATH = "/usr/sbin:/usr/bin:/bin"


def nginx_command(folder: Path) -> list[str]:
    return ["nginx", "-e", "stderr", "-p", str(folder), "-c", str(folder / "config")]


def nginx_config(folder: Path, http: str, log: str = "stderr warn") -> str:
    """One process in the foreground, and what stands in `http { }`."""
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    paths = "\n".join(f"  {kind}_temp_path {folder}/{kind};" for kind in kinds)
    return f"""
pid {folder}/pid;
error_log {log};
worker_processes 1;
daemon off;
master_process off;
events {{ worker_connections 512; }}
http {{
  access_log off;
{paths}
{http}
}}
"""


@contextlib.contextmanager
def running(command: list[str], folder: Path, config: str, ports: Iterable[int]) -> Iterator[None]:
    """The proxy `command`, whose configuration is the file `config` in `folder`, until left. AssertionError has its log."""
    (folder / "config").write_text(config)
    assert shutil.which(command[0], path=PATH), f"{command[0]} is not here: apt-get install {command[0]}"
    environment = {"HOME": str(folder), "XDG_DATA_HOME": str(folder), "XDG_CONFIG_HOME": str(folder), "PATH": PATH}
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
        )
    try:
        until = time.monotonic() + LIMIT
        for port in ports:
            while True:
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                    break
                assert process.poll() is None and time.monotonic() < until, (folder / "log").read_text()
                time.sleep(0.02)
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(LIMIT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(LIMIT)
