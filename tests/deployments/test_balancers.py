"""Behind the balancers that people run: hosts are restarted, killed and hang, and clients do not notice.

The client's requests are GETs, which a balancer may send again. `retries` are the balancer's ordinary ones: HAProxy's
`retry-on conn-failure empty-response response-timeout`, nginx's default `proxy_next_upstream error timeout`. What is
planned needs none of them. Each scenario runs behind one balancer here, and behind both in .ci/nightly
(FASTSERVE_DEPLOYMENTS=full).
"""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from deployments.cluster import Cluster, Loaded, can_make_namespaces
from process.running import until

FULL = os.environ.get("FASTSERVE_DEPLOYMENTS") == "full"


def behind(usual: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("balancer", ("haproxy", "nginx") if FULL else (usual,))


pytestmark = pytest.mark.skipif(not can_make_namespaces(), reason="network namespaces are not allowed here")


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(tmp_path) as started:
        yield started


def published(what: str, balancer: str, retries: bool, loaded: Loaded) -> None:
    """One row of the table in docs/scale.md; `pytest -s` shows it."""
    counts = loaded.counts
    wrong = ", ".join(f"{counts.get(name, 0)} {name}" for name in ("failed", "cut", "lost", "raced"))
    how = "ordinary" if retries else "none"
    print(f"\n| {what} | {balancer} | {how} | {counts.get('answered', 0)} answered, {wrong} | {loaded.p99_ms} ms |")


@behind("nginx")
def test_all_hosts_are_restarted_one_after_the_other(cluster: Cluster, balancer: str) -> None:
    with cluster.behind(balancer, retries=True), cluster.loaded() as loaded:
        for host in cluster.hosts:
            host.stop()
            host.start()
            host.ready()
            time.sleep(0.5)
    published("rolling restart", balancer, True, loaded)
    loaded.whole()


def test_a_planned_restart_needs_no_retry_where_health_is_checked(cluster: Cluster) -> None:
    with cluster.behind("haproxy", retries=False), cluster.loaded() as loaded:
        for host in cluster.hosts:
            host.stop()
            host.start()
            host.ready()
            time.sleep(0.5)
    published("rolling restart", "haproxy", False, loaded)
    loaded.whole()


@behind("nginx")
def test_a_reload_of_all_hosts_needs_no_retry(cluster: Cluster, balancer: str) -> None:
    with cluster.behind(balancer, retries=False), cluster.loaded() as loaded:
        for host in cluster.hosts:
            assert host.server is not None
            host.server.signal(signal.SIGHUP)
            host.server.wait_for(r"reloaded, generation", limit=20)
        time.sleep(2)  # the old workers go
    published("reload (HUP)", balancer, False, loaded)
    # What may remain is a request that crosses the end of an idle connection (RFC 9112 section 9.5): one retry is due.
    assert loaded.wrong.get("failed", 0) <= 1, (loaded.counts, loaded.faults)
    assert not {name for name in loaded.wrong if name != "failed"}, loaded.wrong


@behind("haproxy")
def test_a_host_is_killed(cluster: Cluster, balancer: str) -> None:
    with cluster.behind(balancer, retries=True), cluster.loaded() as loaded:
        cluster.hosts[0].kill()
        time.sleep(2)
    published("a host is killed", balancer, True, loaded)
    loaded.whole()


@behind("nginx")
def test_a_worker_is_killed(cluster: Cluster, balancer: str) -> None:
    server = cluster.hosts[0].server
    assert server is not None
    with cluster.behind(balancer, retries=True), cluster.loaded() as loaded:
        os.kill(server.workers[0], signal.SIGKILL)
        until(lambda: re.search(r"worker .*(killed|SIGKILL|signal 9)", server.err), "the supervisor notices")
        time.sleep(1)
    published("a worker is killed", balancer, True, loaded)
    loaded.whole()


@behind("haproxy")
def test_a_host_hangs(cluster: Cluster, balancer: str) -> None:
    with cluster.behind(balancer, retries=True), cluster.loaded() as loaded:
        cluster.hosts[0].hang()
        time.sleep(5)
        cluster.hosts[0].wake()
    published("a host hangs", balancer, True, loaded)
    loaded.whole()
