"""deploy/ and the pages about it: commands are understood, limits fit together, each file pleases whoever reads it, and
what the files say is done: probes are answered, a small box serves, nothing is written below a root that is read-only.
"""

from __future__ import annotations

import configparser
import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from applications.proxies import nginx_command, nginx_config, running
from deployments.cluster import changed
from process.running import LIMIT, Running, free_port, get_unix, until

from fastserve.process.arguments import help_text
from fastserve.process.config import Config, TcpAddress
from fastserve.process.sources import gather

ROOT = Path(__file__).resolve().parents[2]
DEPLOY, DOCS = ROOT / "deploy", ROOT / "docs"
APP = DEPLOY / "app"
ADMIN_PORT = 9400


def read(name: str) -> str:
    return (DEPLOY / name).read_text(encoding="utf-8")


def unit(name: str) -> configparser.ConfigParser:
    found = configparser.ConfigParser(interpolation=None)
    found.optionxform = str  # type: ignore[assignment, method-assign]
    found.read_string(read(name))
    return found


SERVICE, SOCKET = unit("shop.service"), unit("shop.socket")
MANIFESTS: dict[str, Any] = {manifest["kind"]: manifest for manifest in yaml.safe_load_all(read("kubernetes.yaml"))}
POD: dict[str, Any] = MANIFESTS["Deployment"]["spec"]["template"]["spec"]
CONTAINER: dict[str, Any] = POD["containers"][0]
COMPOSE: dict[str, Any] = yaml.safe_load(read("docker-compose.yml"))["services"]["shop"]


def variables() -> dict[str, str]:
    """shop.env, as systemd reads it."""
    return dict(line.split("=", 1) for line in read("shop.env").splitlines() if line and not line.startswith("#"))


def of_command(words: list[str], environ: dict[str, str] | None = None) -> Config:
    assert words[0].rpartition("/")[2] == "fastserve"
    return gather(words[1:], environ or {}).config


def of_service() -> list[str]:
    return shlex.split(SERVICE["Service"]["ExecStart"])


def of_image() -> list[str]:
    words = dockerfile()[-1][1]
    assert dockerfile()[-1][0] == "CMD"
    return [str(word) for word in json.loads(words)]


def test_commands_are_understood() -> None:
    for words in (of_service(), of_image(), CONTAINER["args"]):
        config = of_command(words)
        assert config.app == "shop.web:app" and config.supervised
    assert of_command(of_image()).addresses == (TcpAddress("0.0.0.0", 8000),)
    assert of_command(CONTAINER["args"]).shutdown_delay == 10.0
    known = help_text()
    for page in ("deploy.md", "small-box.md"):
        for flag in set(re.findall(r"`(--[a-z-]+)", prose(page))) - {"--time", "--upgrade"}:  # docker's and pip's
            assert re.search(rf"(?<![\w-]){flag}\b", known), f"{page}: {flag}"


def prose(page: str) -> str:
    """Without the files that it shows."""
    text = (DOCS / page).read_text(encoding="utf-8")
    return re.sub(r"^<!-- the file .*?^<!-- end of the file -->", "", text, flags=re.DOTALL | re.MULTILINE)


def test_every_file_is_shown_or_named() -> None:
    pages = "".join((DOCS / page).read_text(encoding="utf-8") for page in ("deploy.md", "small-box.md"))
    for path in DEPLOY.iterdir():
        if path.is_file() and path.suffix != ".dockerignore":
            assert f"<!-- the file deploy/{path.name} -->" in pages, path.name


def test_whoever_stops_us_waits_for_longer_than_we_take() -> None:
    service = SERVICE["Service"]
    config = of_command(of_service(), variables())
    assert int(service["TimeoutStopSec"]) > config.timeout_graceful_shutdown + config.shutdown_delay + 2
    assert int(service["WatchdogSec"]) > 5  # the supervisor's loop turns once a second
    config = of_command(CONTAINER["args"])
    grace = POD["terminationGracePeriodSeconds"]
    assert grace > config.timeout_graceful_shutdown + config.shutdown_delay + 2
    config = of_command(of_image())
    assert int(COMPOSE["stop_grace_period"].removesuffix("s")) > config.timeout_graceful_shutdown + 2


def test_a_draining_server_outlasts_the_checks_of_its_balancers() -> None:
    """HAProxy's two checks, each after an interval and with its own wait; the readiness probe's three."""
    balancer = read("haproxy.cfg")
    check = re.search(r"check port (\d+) inter (\d+)s fall (\d+)", balancer)
    assert check is not None and "timeout check 500ms" in balancer
    assert int(check[2]) * int(check[3]) + 0.5 < of_command(of_service(), variables()).shutdown_delay
    delay = of_command(CONTAINER["args"]).shutdown_delay
    assert CONTAINER["readinessProbe"]["periodSeconds"] < delay  # and its endpoint is removed at once, by the deletion


def test_ports_are_the_same_everywhere() -> None:
    ports = {port["name"]: port["containerPort"] for port in CONTAINER["ports"]}
    for words in (CONTAINER["args"], of_image()):
        config = of_command(words)
        assert [address.port for address in config.addresses] == [ports["http"]]  # type: ignore[union-attr]
        assert config.admin == (f"0.0.0.0:{ports['admin']}",)
    assert dict(dockerfile())["EXPOSE"].split() == [str(port) for port in ports.values()]
    assert f"check port {ports['admin']} " in read("haproxy.cfg") and ports["admin"] == ADMIN_PORT
    assert of_command(of_service(), variables()).admin == (f"0.0.0.0:{ADMIN_PORT}",)
    assert SOCKET["Socket"]["ListenStream"].endswith(f":{ports['http']}")
    assert COMPOSE["ports"] == [f"127.0.0.1:{ports['http']}:{ports['http']}"]
    hosts = re.findall(r"server (?:\w+ )?([\d.]+:\d+)", read("haproxy.cfg"))
    assert hosts == re.findall(r"server ([\d.]+:\d+)", read("nginx.conf")) and len(hosts) == 3
    assert {host.partition(":")[2] for host in hosts} == {str(ports["http"])}


# ------------------------------------------------------------------------------------------------------ systemd

KNOWN = {  # systemd.unit(5), systemd.socket(5), systemd.service(5), systemd.exec(5), systemd.kill(5)
    "Unit": "Description Requires After",
    "Install": "WantedBy",
    "Socket": "ListenStream ReusePort",
    "Service": "Type NotifyAccess ExecStart ExecReload WatchdogSec TimeoutStopSec Restart RestartSec KillMode"
    " WorkingDirectory EnvironmentFile User RuntimeDirectory UMask LimitNOFILE CapabilityBoundingSet NoNewPrivileges"
    " LockPersonality RemoveIPC PrivateTmp PrivateDevices ProtectSystem ProtectHome ProtectProc ProtectClock"
    " ProtectHostname ProtectKernelLogs ProtectKernelModules ProtectKernelTunables ProtectControlGroups"
    " RestrictAddressFamilies RestrictNamespaces RestrictRealtime RestrictSUIDSGID SystemCallArchitectures SystemCallFilter"
    " SystemCallErrorNumber",
}


def test_units_hold_what_systemd_knows() -> None:
    for found in (SERVICE, SOCKET):
        for section in found.sections():
            unknown = set(found[section]) - set(KNOWN[section].split())
            assert not unknown, f"[{section}] {unknown}"
    assert SERVICE["Service"]["Type"] == "notify" and SERVICE["Unit"]["Requires"] == "shop.socket"
    assert SOCKET["Socket"]["ReusePort"] == "no"


@pytest.fixture
def systemd_analyze() -> str:
    found = shutil.which("systemd-analyze")
    if found is None:
        pytest.skip("no systemd here")
    return found


def test_systemd_finds_no_fault_with_the_units(tmp_path: Path, systemd_analyze: str) -> None:
    here = read("shop.service")
    for ours, theirs in (
        ("/srv/shop/.venv/bin/fastserve", sys.executable),
        ("=/srv/shop\n", f"={tmp_path}\n"),
        ("User=shop", "User=root"),
    ):
        assert ours in here
        here = here.replace(ours, theirs)
    (tmp_path / "shop.service").write_text(here)
    (tmp_path / "shop.socket").write_text(read("shop.socket"))
    command = [systemd_analyze, "verify", str(tmp_path / "shop.service"), str(tmp_path / "shop.socket")]
    result = subprocess.run(command, capture_output=True, text=True, timeout=30)
    ours = [line for line in result.stderr.splitlines() if "shop." in line]
    assert result.returncode == 0 and not ours, result.stderr


def test_systemd_says_that_little_is_exposed(tmp_path: Path, systemd_analyze: str) -> None:
    """0 is nothing, 10 everything; most services of Debian are above 9."""
    command = [systemd_analyze, "security", "--offline=true", "--threshold=20", str(DEPLOY / "shop.service")]
    result = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert result.returncode == 0, result.stdout[-300:]


# --------------------------------------------------------------------------------------------- Docker, Kubernetes


def dockerfile() -> list[tuple[str, str]]:
    """Instruction and words, continued lines joined."""
    text = re.sub(r"\\\n\s*", " ", read("Dockerfile"))
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(line.split()[0], line.partition(" ")[2]) for line in lines]


def in_context() -> list[str]:
    """The rules of Dockerfile.dockerignore, in their order."""
    return [line for line in read("Dockerfile.dockerignore").splitlines() if line and not line.startswith("#")]


def test_the_image_is_built_in_known_steps() -> None:
    known = {"ARG", "FROM", "COPY", "RUN", "WORKDIR", "ENV", "USER", "EXPOSE", "STOPSIGNAL", "CMD"}
    found = dockerfile()
    assert {instruction for instruction, _ in found} == known
    stages = {words.split(" AS ")[1] for instruction, words in found if instruction == "FROM" and " AS " in words}
    assert stages == {"app", "build"}
    last = next(index for index, (step, _) in reversed(list(enumerate(found))) if step == "FROM")
    assert not [words for step, words in found[last:] if step == "RUN" and not words.startswith("[")]
    assert ("USER", "65534:65534") in found[last:]
    for instruction, words in found:
        if instruction == "COPY" and words.startswith("--from="):
            assert words.split()[0].removeprefix("--from=") in stages


def test_the_image_is_built_from_what_the_build_reads() -> None:
    """All that setup.py and pyproject.toml name is copied, exists, and is not ignored."""
    copied = [
        source.rstrip("/")
        for instruction, words in dockerfile()
        if instruction == "COPY" and not words.startswith("--from=")
        for source in words.split()[:-1]
    ]
    rules = in_context()
    assert rules[0] == "*"
    for source in copied:
        assert (ROOT / source).exists() and f"!{source}" in rules, source
    assert {rule[1:] for rule in rules if rule.startswith("!")} == set(copied)
    named = set(re.findall(r'(?:Path\("|include_dirs=\["|f")(\w+)', (ROOT / "setup.py").read_text(encoding="utf-8")))
    assert {"csrc", "fastserve"} <= named and {"csrc", "fastserve"} <= set(copied)
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    read_files = re.findall(r'^readme = "(.*)"|^license-files = \["(.*)"\]', project, re.MULTILINE)
    assert {one or other for one, other in read_files} <= set(copied)
    assert [rule for rule in rules if fnmatch("fastserve/protocol/core.cpython-311.so", rule.removeprefix("**/"))]


def test_compose_builds_the_image() -> None:
    build = COMPOSE["build"]
    assert (DEPLOY / build["context"] / build["dockerfile"]).resolve() == DEPLOY / "Dockerfile"
    assert COMPOSE["read_only"] is True and COMPOSE["cap_drop"] == ["ALL"]


@pytest.mark.parametrize("kind", MANIFESTS)
def test_manifests_are_those_of_kubernetes(kind: str) -> None:
    for version in ("1.30", kubernetes_validate.latest_version()):
        kubernetes_validate.validate(MANIFESTS[kind], version, strict=True)


def test_the_schema_notices_a_misspelt_key() -> None:
    wrong = {**MANIFESTS["Service"], "spec": {**MANIFESTS["Service"]["spec"], "selektor": {}}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, kubernetes_validate.latest_version(), strict=True)


def test_manifests_mean_the_same_pods() -> None:
    labels = MANIFESTS["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert MANIFESTS["Service"]["spec"]["selector"] == labels
    for chosen in (MANIFESTS["Deployment"], MANIFESTS["PodDisruptionBudget"]):
        assert chosen["spec"]["selector"]["matchLabels"] == labels
    assert POD["topologySpreadConstraints"][0]["labelSelector"]["matchLabels"] == labels
    assert MANIFESTS["PodDisruptionBudget"]["spec"]["maxUnavailable"] < MANIFESTS["Deployment"]["spec"]["replicas"]
    assert {port["targetPort"] for port in MANIFESTS["Service"]["spec"]["ports"]} == {"http"}
    assert {volume["name"] for volume in POD["volumes"]} == {mount["name"] for mount in CONTAINER["volumeMounts"]}
    assert "lifecycle" not in CONTAINER  # --shutdown-delay does what a preStop sleep does elsewhere


def test_probes_are_answered(tmp_path: Path) -> None:
    """By the very arguments, on other addresses."""
    probes = {CONTAINER[name]["httpGet"]["path"] for name in ("startupProbe", "readinessProbe", "livenessProbe")}
    assert probes == {"/readyz", "/healthz"}
    arguments = CONTAINER["args"][1:]
    arguments[arguments.index("--admin") + 1] = f"unix:{tmp_path / 'admin'}"
    arguments[arguments.index("--host") + 1] = "127.0.0.1"
    arguments[arguments.index("--shutdown-delay") + 1] = "1"
    with Running(*arguments, "--port", "0", cwd=APP) as server:
        server.ready()
        until((tmp_path / "admin").exists, "the admin address")
        for path in probes:
            until(lambda path=path: b" 200 " in get_unix(tmp_path / "admin", path).splitlines()[0], path)
        server.signal(signal.SIGTERM)
        until(lambda: b" 503 " in get_unix(tmp_path / "admin", "/readyz").splitlines()[0], "it drains", 1.0)
        assert server.get() == "The shop is open.\n"
        assert server.wait() == 0


READ_ONLY = """
mount -t tmpfs -o size=64m tmp "$1/tmp" || exit 77
for at in $(awk '{print $5}' /proc/self/mountinfo); do
  case $at in "$1/tmp") ;; *) mount -o remount,bind,ro "$at" 2> /dev/null ;; esac
done
for at in /written "$1/written" ./written; do
  if touch "$at" 2> /dev/null; then echo "$at could be written" >&2; exit 77; fi
done
shift
exec "$@"
"""


def may_mount() -> bool:
    command = ["unshare", "--mount", "mount", "--bind", "/", "/mnt"]
    return shutil.which("unshare") is not None and subprocess.run(command, capture_output=True).returncode == 0


@pytest.mark.skipif(not may_mount(), reason="mount namespaces are not allowed here")
def test_a_root_that_is_read_only_is_enough(tmp_path: Path) -> None:
    """As in the container: everything read-only, the image's own arguments; it serves, reloads, and stops with 0."""
    (tmp_path / "tmp").mkdir()
    arguments = of_image()[1:]
    arguments[arguments.index("--host") + 1] = "127.0.0.1"
    arguments[arguments.index("--workers") + 1] = "2"
    arguments[arguments.index("--admin") + 1] = "127.0.0.1:0"
    command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", READ_ONLY, "sh", str(tmp_path)]
    with Running(*arguments, "--port", "0", cwd=APP, command=[*command, sys.executable, "-m", "fastserve"]) as server:
        assert server.ready().get() == "The shop is open.\n"
        server.signal(signal.SIGHUP)
        server.wait_for(r"reloaded, generation")
        assert server.get() == "The shop is open.\n"
        assert server.stop() == 0
    assert not [path for path in tmp_path.iterdir() if path.name != "tmp"]


# ---------------------------------------------------------------------------------------------------- balancers


def test_haproxy_takes_its_file() -> None:
    result = subprocess.run(["haproxy", "-c", "-f", str(DEPLOY / "haproxy.cfg")], capture_output=True, text=True)
    assert result.returncode == 0 and not re.search(r"WARNING|ALERT", result.stderr + result.stdout), result.stderr


@contextlib.contextmanager
def mute_host(heard: list[bytes]) -> Iterator[int]:
    """A host that takes every request and closes without an answer; its port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    client, _ = listener.accept()
                    with client:
                        heard.append(client.recv(65536).partition(b" ")[0])

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield int(listener.getsockname()[1])
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(LIMIT)


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("balancer", ["haproxy", "nginx"])
def test_only_what_may_be_sent_twice_is_sent_again(tmp_path: Path, balancer: str, method: str) -> None:
    heard: list[bytes] = []
    front = free_port()
    with mute_host(heard) as one, mute_host(heard) as two:
        if balancer == "haproxy":
            servers = f"  server one 127.0.0.1:{one}\n  server two 127.0.0.1:{two}\n"
            changes = [(r"(^  server .*\n)+", servers), (r"^  bind .*", f"  bind 127.0.0.1:{front}")]
            config = changed(
                "haproxy.cfg", *changes, (r"^  default-server .*\n", ""), (r"^  maxconn .*", "  maxconn 99")
            )
            command = ["haproxy", "-db", "-f", str(tmp_path / "config")]
        else:
            servers = f"  server 127.0.0.1:{one};\n  server 127.0.0.1:{two};\n"
            changes = [(r"(^  server [\d.]+:.*\n)+", servers), (r"listen 80;", f"listen 127.0.0.1:{free_port()};")]
            config = changed("nginx.conf", *changes, (r"listen 443", f"listen 127.0.0.1:{front}"), (r" ssl;", ";"))
            config = nginx_config(tmp_path, re.sub(r"^  ssl_.*\n", "", config, flags=re.MULTILINE))
            command = nginx_command(tmp_path)
        with (
            running(command, tmp_path, config, [front]),
            socket.create_connection(("127.0.0.1", front), LIMIT) as client,
        ):
            client.sendall(f"{method} / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())
            assert client.recv(4096).startswith(b"HTTP/1.1 502 ")
    assert set(heard) == {method.encode()}
    assert len(heard) == 1 if method == "POST" else len(heard) > 1


def nginx_here(text: str, folder: Path) -> str:
    """deploy/nginx.conf inside `http { }`, with a certificate of the tests."""
    for end in ("crt", "key"):
        old = f"/etc/ssl/shop/shop.{end}"
        assert old in text
        text = text.replace(old, str(ROOT / "tests" / "data" / f"localhost.{end}"))
    return nginx_config(folder, text)


def test_nginx_takes_its_file(tmp_path: Path) -> None:
    (tmp_path / "config").write_text(nginx_here(read("nginx.conf"), tmp_path))
    result = subprocess.run([*nginx_command(tmp_path), "-t"], capture_output=True, text=True)
    assert result.returncode == 0 and "[warn]" not in result.stderr, result.stderr


# ------------------------------------------------------------------------------------------------ the small box


def small_box_commands() -> list[str]:
    text = (DOCS / "small-box.md").read_text(encoding="utf-8")
    return "".join(re.findall(r"^```sh\n(.*?)^```", text, re.DOTALL | re.MULTILINE)).splitlines()


def test_the_small_box_names_what_is_there() -> None:
    commands = "\n".join(small_box_commands())
    for path in re.findall(r"/srv/fastserve/(\S+)", commands):
        assert (ROOT / path).is_file(), path
    assert SERVICE["Service"]["WorkingDirectory"] == "/srv/shop"
    assert of_service()[0] == "/srv/shop/.venv/bin/fastserve"
    assert f"EnvironmentFile=-{re.search(r'/etc/shop.env', read('shop.env'))[0]}" in read("shop.service")  # type: ignore[index]
    checked = re.search(r"fastserve check (.*)", commands)
    assert checked is not None and of_service()[1:] == shlex.split(checked[1])
    assert SOCKET["Socket"]["ListenStream"] in commands


ACTIVATE = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1")
os.execv(sys.executable, [sys.executable, "-m", "fastserve", *sys.argv[2:]])
"""


@contextlib.contextmanager
def activated() -> Iterator[tuple[Running, int]]:
    """The service's own command, with a socket that was open before, as systemd passes it; and its port."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        number = os.dup2(sock.fileno(), 200, inheritable=True)
        words = [str(number), *of_service()[1:]]
        try:
            with Running(*words, cwd=APP, command=[sys.executable, "-c", ACTIVATE], pass_fds=[number]) as server:
                yield server.ready(), sock.getsockname()[1]
        finally:
            os.close(number)


def test_a_small_box_serves(tmp_path: Path) -> None:
    """The page's own changes to nginx.conf, a socket that was open before, TLS in front; and a plain request is sent on."""
    file = tmp_path / "shop.conf"
    shutil.copy(DEPLOY / "nginx.conf", file)
    for command in small_box_commands():
        if command.startswith("sed "):
            subprocess.run(command.replace("/etc/nginx/conf.d/shop.conf", str(file)), shell=True, check=True)
    text = file.read_text()
    assert re.findall(r"^  server [\d.].*", text, re.MULTILINE) == ["  server 127.0.0.1:8000;"]
    plain, secure = free_port(), free_port()
    context = ssl.create_default_context(cafile=str(ROOT / "tests" / "data" / "localhost.crt"))
    with contextlib.ExitStack() as stack:
        server, behind = stack.enter_context(activated())
        for old, new in (
            ("127.0.0.1:8000", f"127.0.0.1:{behind}"),
            ("listen 80;", f"listen 127.0.0.1:{plain};"),
            ("listen 443 ssl;", f"listen 127.0.0.1:{secure} ssl;"),
        ):
            assert old in text
            text = text.replace(old, new)
        stack.enter_context(running(nginx_command(tmp_path), tmp_path, nginx_here(text, tmp_path), (plain, secure)))
        with urllib.request.urlopen(f"https://localhost:{secure}/", timeout=LIMIT, context=context) as answer:
            assert answer.read() == b"The shop is open.\n"
        with socket.create_connection(("127.0.0.1", plain), LIMIT) as client:
            client.sendall(b"GET /a HTTP/1.1\r\nHost: www.my-shop.example\r\nConnection: close\r\n\r\n")
            assert b"\r\nLocation: https://www.my-shop.example/a\r\n" in client.recv(4096)
        assert server.stop() == 0
