"""docs/deploy.md: commands are understood, limits fit together, units are systemd's, probes are answered."""

from __future__ import annotations

import configparser
import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from process.running import HERE, Running, get_unix, until

from fastserve.process.arguments import help_text
from fastserve.process.config import Config
from fastserve.process.sources import gather

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "deploy.md").read_text(encoding="utf-8")


def block(language: str, mark: str) -> str:
    """The block of code that holds `mark`."""
    found = [text for text in re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE) if mark in text]
    assert len(found) == 1, (language, mark)
    return found[0]


SERVICE, SOCKET = block("ini", "[Service]"), block("ini", "[Socket]")
DOCKER, KUBERNETES = block("dockerfile", "CMD"), block("yaml", "kind: Deployment")


def unit(text: str) -> configparser.ConfigParser:
    found = configparser.ConfigParser(interpolation=None)
    found.optionxform = str  # type: ignore[assignment, method-assign]
    found.read_string(text)
    return found


def of_command(words: list[str]) -> Config:
    assert words[0].rpartition("/")[2] == "fastserve"
    return gather(words[1:], {}).config


def args_of_kubernetes() -> list[str]:
    match = re.search(r"args: (\[.*?\])", KUBERNETES, re.DOTALL)
    assert match is not None
    return [str(word) for word in json.loads(match[1])]


def test_commands_are_understood() -> None:
    exec_start = unit(SERVICE)["Service"]["ExecStart"]
    config = of_command(shlex.split(exec_start))
    assert (config.app, config.workers, config.supervised) == ("shop.web:app", 4, True)
    match = re.search(r"^CMD (\[.*\])$", DOCKER, re.MULTILINE)
    assert match is not None
    assert [address.url for address in of_command(json.loads(match[1])).addresses] == ["http://0.0.0.0:8080"]
    config = of_command(args_of_kubernetes())
    assert (config.admin, config.shutdown_delay) == (("0.0.0.0:9400",), 10.0)
    known = help_text()
    for flag in re.findall(r"`(--[a-z-]+)", PAGE):  # those in the prose
        assert flag == "--time" or re.search(rf"(?<![\w-]){flag}\b", known), flag  # the one is docker's


def test_limits_fit_together() -> None:
    """Whoever stops us waits for longer than we take."""
    service = unit(SERVICE)["Service"]
    config = of_command(shlex.split(service["ExecStart"]))
    assert int(service["TimeoutStopSec"]) > config.timeout_graceful_shutdown + config.shutdown_delay + 2
    assert int(service["WatchdogSec"]) > 5  # the supervisor's loop turns once a second
    config = of_command(args_of_kubernetes())
    grace = re.search(r"terminationGracePeriodSeconds: (\d+)", KUBERNETES)
    assert grace is not None
    assert int(grace[1]) > config.timeout_graceful_shutdown + config.shutdown_delay + 2
    assert f"containerPort: {config.addresses[0].port}" in KUBERNETES  # type: ignore[union-attr]
    assert f"containerPort: {config.admin[0].rpartition(':')[2]}" in KUBERNETES


def test_probes_are_answered(tmp_path: Path) -> None:
    """By the very arguments, on other addresses."""
    paths = set(re.findall(r"path: (/\w+)", KUBERNETES))
    assert paths == {"/readyz", "/healthz"}
    arguments = args_of_kubernetes()[2:]
    arguments[arguments.index("--admin") + 1] = f"unix:{tmp_path / 'admin'}"
    arguments[arguments.index("--host") + 1] = "127.0.0.1"
    arguments[arguments.index("--shutdown-delay") + 1] = "1"
    with Running("apps:app", "--app-dir", str(HERE), "--port", "0", *arguments, cwd=tmp_path) as server:
        server.ready()
        until((tmp_path / "admin").exists, "the admin address")
        for path in paths:
            until(lambda path=path: b" 200 " in get_unix(tmp_path / "admin", path).splitlines()[0], path)
        server.signal(signal.SIGTERM)
        until(lambda: b" 503 " in get_unix(tmp_path / "admin", "/readyz").splitlines()[0], "it drains", 1.0)
        assert server.get() == "hello"
        assert server.wait() == 0


def test_units_are_those_of_systemd(tmp_path: Path) -> None:
    """systemd's own opinion where it is installed; everywhere: sections, and the settings that we depend on."""
    service, sock = unit(SERVICE), unit(SOCKET)
    assert set(service) == {"DEFAULT", "Unit", "Service", "Install"} and set(sock) == {"DEFAULT", "Socket", "Install"}
    assert service["Service"]["Type"] == "notify" and service["Unit"]["Requires"] == "shop.socket"
    assert sock["Socket"]["ReusePort"] == "no"
    if verify := shutil.which("systemd-analyze"):
        here = SERVICE.replace("/srv/shop/.venv/bin/fastserve", sys.executable)
        here = here.replace("WorkingDirectory=/srv/shop", f"WorkingDirectory={tmp_path}").replace(
            "User=shop", "User=root"
        )
        (tmp_path / "shop.service").write_text(here)
        (tmp_path / "shop.socket").write_text(SOCKET)
        result = subprocess.run(
            [verify, "verify", str(tmp_path / "shop.service"), str(tmp_path / "shop.socket")],
            capture_output=True,
            text=True,
            timeout=30,
        )
        ours = [line for line in result.stderr.splitlines() if "shop." in line]
        assert result.returncode == 0 and not ours, result.stderr
