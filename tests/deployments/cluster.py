"""Three hosts and a balancer, each in a network namespace of its own, tied by a bridge: a small cluster on one machine.

A host runs the whole of fastserve, supervisor, workers and admin port, as it would on a machine of its own. The balancer
is Debian's nginx or HAProxy with its file of deploy/, in the namespace where the clients are too. Nothing touches the
machine's own network. Needs root, as namespaces do.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from applications.proxies import nginx_command, nginx_config
from process.running import LIMIT, Running, until

TESTS = Path(__file__).parent.parent
DEPLOY = TESTS.parent / "deploy"
HOSTS = 3
APP_PORT, ADMIN_PORT, FRONT_PORT = 8000, 9400, 8080
CHECK_MS = 100  # between HAProxy's health checks; two that fail, or one that succeeds, decide


def run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (command, done.stderr)


def can_make_namespaces() -> bool:
    """Is there iproute2, and may we? A container without CAP_SYS_ADMIN may not, root or not."""
    if shutil.which("ip") is None:
        return False
    name = f"fs{os.getpid() % 100000}try"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False).returncode == 0
    subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)
    return made


@dataclass
class Host:
    """One machine: its namespace, its address, and the server on it."""

    namespace: str
    address: str
    server: Running | None = None
    stopped: bool = False

    def start(self) -> None:
        self.server = Running(
            "apps:app",
            *("--host", self.address, "--port", str(APP_PORT), "--workers", "2"),
            *("--admin", f"{self.address}:{ADMIN_PORT}", "--shutdown-delay", "1"),
            cwd=TESTS / "process",
            command=["ip", "netns", "exec", self.namespace, sys.executable, "-m", "fastserve"],
        )

    def ready(self) -> None:
        assert self.server is not None
        self.server.ready()

    def stop(self) -> None:
        """As an operator does: it serves on while the balancer takes note, drains, and ends."""
        assert self.server is not None
        with self.server:
            assert self.server.stop() == 0, self.server.err

    def kill(self) -> None:
        """The machine is gone, from one moment to the next."""
        assert self.server is not None
        os.killpg(self.server.pid, signal.SIGKILL)

    def hang(self) -> None:
        """It takes connections, for the kernel does, and answers nothing."""
        assert self.server is not None
        self.stopped = True
        os.killpg(self.server.pid, signal.SIGSTOP)

    def wake(self) -> None:
        assert self.server is not None
        self.stopped = False
        os.killpg(self.server.pid, signal.SIGCONT)

    def close(self) -> None:
        if self.server is not None:
            if self.stopped:
                self.wake()
            with self.server, contextlib.suppress(ProcessLookupError):
                os.killpg(self.server.pid, signal.SIGKILL)


@dataclass
class Loaded:
    counts: dict[str, int] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    pids: dict[str, int] = field(default_factory=dict)
    p99_ms: int | None = None

    @property
    def wrong(self) -> dict[str, int]:
        return {name: count for name, count in self.counts.items() if name != "answered"}

    def whole(self, least: int = 100) -> None:
        assert not self.wrong, (self.wrong, self.faults)
        assert self.counts["answered"] >= least, self.counts


class Cluster:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        mark = f"fs{os.getpid() % 100000}"
        self.front = f"{mark}b"
        self.hosts = [Host(f"{mark}h{number}", f"10.77.0.{10 + number}") for number in range(1, HOSTS + 1)]

    def __enter__(self) -> Cluster:
        try:
            run("ip", "netns", "add", self.front)
            self._in_front("ip", "link", "set", "lo", "up")
            self._in_front("ip", "link", "add", "bridge", "type", "bridge")
            self._in_front("ip", "address", "add", "10.77.0.1/24", "dev", "bridge")
            self._in_front("ip", "link", "set", "bridge", "up")
            for number, host in enumerate(self.hosts):
                run("ip", "netns", "add", host.namespace)
                self._in_front(
                    *("ip", "link", "add", f"port{number}", "type", "veth"),
                    *("peer", "name", "eth0", "netns", host.namespace),
                )
                self._in_front("ip", "link", "set", f"port{number}", "master", "bridge", "up")
                inside = ("ip", "netns", "exec", host.namespace, "ip")
                run(*inside, "link", "set", "lo", "up")
                run(*inside, "address", "add", f"{host.address}/24", "dev", "eth0")
                run(*inside, "link", "set", "eth0", "up")
            for host in self.hosts:
                host.start()
            for host in self.hosts:
                host.ready()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for host in self.hosts:
            host.close()
        for namespace in (self.front, *(host.namespace for host in self.hosts)):
            subprocess.run(["ip", "netns", "delete", namespace], capture_output=True, check=False)

    def _in_front(self, *command: str) -> None:
        run("ip", "netns", "exec", self.front, *command)

    @contextlib.contextmanager
    def behind(self, name: str, retries: bool) -> Iterator[None]:
        """The balancer `name`, "haproxy" or "nginx", with its ordinary retries or with none."""
        text = {"haproxy": haproxy, "nginx": nginx}[name](self.folder, self.hosts, retries)
        (self.folder / "config").write_text(text)
        command = {
            "haproxy": ["haproxy", "-db", "-f", str(self.folder / "config")],
            "nginx": nginx_command(self.folder),
        }[name]
        log = (self.folder / f"{name}.log").open("w+")
        process = subprocess.Popen(
            ["ip", "netns", "exec", self.front, *command], stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
        try:
            until(lambda: self._answers(process, log), f"{name} answers")
            yield
        finally:
            process.terminate()
            process.wait(LIMIT)
            log.close()

    def _answers(self, process: subprocess.Popen[bytes], log: Any) -> bool:
        if process.poll() is not None:
            log.seek(0)
            raise AssertionError(f"the balancer ended: {log.read()}")
        url = f"http://127.0.0.1:{FRONT_PORT}/pid"
        command = ["ip", "netns", "exec", self.front, "curl", "-sf", "--max-time", "2", "-o", "/dev/null", url]
        return subprocess.run(command, check=False).returncode == 0

    @contextlib.contextmanager
    def loaded(self) -> Iterator[Loaded]:
        """Clients of the balancer, until left; then the result is filled in."""
        command = ["ip", "netns", "exec", self.front, sys.executable, "-m", "deployments.client", str(FRONT_PORT)]
        client = subprocess.Popen(command, cwd=TESTS, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        result = Loaded()
        try:
            assert client.stdout is not None
            assert client.stdout.readline() == "loading\n"
            time.sleep(0.3)
            yield result
            time.sleep(0.5)
        except BaseException:
            client.kill()
            raise
        finally:
            out, _ = client.communicate(timeout=6 * LIMIT)
        for name, value in json.loads(out).items():
            setattr(result, name, value)


def changed(name: str, *changes: tuple[str, str]) -> str:
    """A file of deploy/, as it stands but for what this cluster has otherwise: addresses, and waits that are shorter."""
    text = (DEPLOY / name).read_text(encoding="utf-8")
    for pattern, new in changes:
        text, count = re.subn(pattern, new, text, flags=re.MULTILINE)
        assert count, f"deploy/{name} has no {pattern}"
    return text


def haproxy(_folder: Path, hosts: list[Host], retries: bool) -> str:
    """deploy/haproxy.cfg, with its retries or with none."""
    servers = "\n".join(f"  server {host.namespace} {host.address}:{APP_PORT}" for host in hosts)
    without = [] if retries else [(r"^  retries .*\n  option redispatch .*\n  retry-on .*", "  retries 0")]
    return changed(
        "haproxy.cfg",
        (r"^  maxconn .*", "  maxconn 1000"),
        (r"^  timeout server .*", "  timeout server 3s"),
        (r"^  bind .*", f"  bind 127.0.0.1:{FRONT_PORT}"),
        (r" inter 1s ", f" inter {CHECK_MS}ms "),
        (r"(^  server .*\n?)+", servers + "\n"),
        *without,
    )


def nginx(folder: Path, hosts: list[Host], retries: bool) -> str:
    """deploy/nginx.conf, with its retries or with none. The open source nginx has no health checks of its own: it learns
    from requests that failed."""
    servers = "".join(f"  server {host.address}:{APP_PORT} max_fails=1 fail_timeout=2s;\n" for host in hosts)
    without = [] if retries else [(r"proxy_next_upstream .*;", "proxy_next_upstream off;")]
    http = changed(
        "nginx.conf",
        (r"(^  server [\d.]+:\d+ .*;\n)+", servers),
        (r"^  listen 80;", f"  listen 127.0.0.1:{FRONT_PORT + 1};"),
        (r"^  listen 443 ssl;", f"  listen 127.0.0.1:{FRONT_PORT};"),
        (r"^  ssl_certificate.*\n", ""),
        (r"proxy_read_timeout .*;", "proxy_read_timeout 3s;"),
        *without,
    )
    return nginx_config(folder, http)
