"""Behind the proxies of Debian, as docs/proxies.md sets them up: nginx, HAProxy and Caddy say who the client is, and
clients cannot. Each interface behind each, by X-Forwarded-*, over TCP and Unix sockets; by the PROXY protocol where they
speak it.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from applications.proxies import LIMIT, nginx_command, nginx_config, running
from protocol.test_forwarded import MAKERS, SPOOF, serving
from websockets.sync.client import connect

from fastserve import App, WebSocket

CLIENT = "127.0.0.2"  # not the proxy's, which is 127.0.0.1 and trusted


@dataclass
class Way:
    """One way through a proxy: where it listens, what is behind it, in which mode."""

    interface: str
    mode: str  # fields, unix, proxy-v1, proxy-v2, proxy-tls
    upstream: str  # HOST:PORT, or the path of a Unix socket
    port: int = 0


def give_ports(ways: list[Way]) -> None:
    """Free ones, all different: asked for together, and when every server behind has its own."""
    with contextlib.ExitStack() as stack:
        for way in ways:
            sock = stack.enter_context(socket.socket())
            sock.bind(("127.0.0.1", 0))
            way.port = sock.getsockname()[1]


# ------------------------------------------------------------------------------------------------ the proxies


def nginx(folder: Path, ways: list[Way]) -> tuple[list[str], str]:
    servers = []
    for way in ways:
        upstream = f"unix:{way.upstream}:" if way.mode == "unix" else way.upstream
        servers.append(
            f"""
  server {{
    listen 127.0.0.1:{way.port};
    location / {{
      proxy_pass http://{upstream};
      proxy_http_version 1.1;
      proxy_request_buffering off;
      proxy_set_header Host $host:$server_port;
      proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
      proxy_set_header X-Forwarded-Proto $scheme;
      proxy_set_header X-Forwarded-Host $host:$server_port;
      proxy_set_header X-Forwarded-Port $server_port;
      proxy_set_header X-Forwarded-Prefix "";
      proxy_set_header Forwarded "";
      proxy_set_header Upgrade $http_upgrade;
      proxy_set_header Connection $connection_upgrade;
    }}
  }}"""
        )
    http = f"""
  map $http_upgrade $connection_upgrade {{ default upgrade; '' ''; }}
{"".join(servers)}
"""
    return nginx_command(folder), nginx_config(folder, http)


def haproxy(folder: Path, ways: list[Way]) -> tuple[list[str], str]:
    text = """
global
  maxconn 256
defaults
  timeout connect 10s
  timeout client 30s
  timeout server 30s
  timeout tunnel 30s
"""
    for number, way in enumerate(ways):
        upstream = f"unix@{way.upstream}" if way.mode == "unix" else way.upstream
        text += f"listen way{number}\n  bind 127.0.0.1:{way.port}\n"
        if way.mode.startswith("proxy"):
            version = "" if way.mode == "proxy-v1" else "-v2"
            tls = " ssl verify none" if way.mode == "proxy-tls" else ""  # the header first, and then the handshake
            text += f"  mode tcp\n  server app {upstream} send-proxy{version}{tls}\n"
        else:
            text += f"""  mode http
  http-request del-header X-Forwarded-For
  http-request del-header X-Forwarded-Prefix
  http-request del-header Forwarded
  option forwardfor
  http-request set-header X-Forwarded-Proto http
  http-request set-header X-Forwarded-Host %[req.hdr(host)]
  http-request set-header X-Forwarded-Port %[dst_port]
  server app {upstream}
"""
    return ["haproxy", "-db", "-f", str(folder / "config")], text


def caddy(folder: Path, ways: list[Way]) -> tuple[list[str], str]:
    text = "{\n  admin off\n  auto_https off\n}\n"
    for way in ways:
        upstream = f"unix/{way.upstream}" if way.mode == "unix" else way.upstream
        text += f"""
http://127.0.0.1:{way.port} {{
  bind 127.0.0.1
  reverse_proxy {upstream} {{
    header_up X-Forwarded-Port {way.port}
    header_up -X-Forwarded-Prefix
    header_up -Forwarded
  }}
}}
"""
    return ["caddy", "run", "--adapter", "caddyfile", "--config", str(folder / "config")], text


PROXIES: dict[str, tuple[Callable[[Path, list[Way]], tuple[list[str], str]], tuple[str, ...]]] = {
    "nginx": (nginx, ("fields", "unix")),
    "haproxy": (haproxy, ("fields", "unix", "proxy-v1", "proxy-v2", "proxy-tls")),
    "caddy": (caddy, ("fields", "unix")),  # the PROXY protocol from 2.7 on
}


def echo() -> App:
    app = App()

    @app.websocket("/talk")
    async def talk(ws: WebSocket) -> None:
        assert ws.client is not None
        await ws.accept()
        await ws.send(f"{ws.client[0]} {ws.scheme}")
        async for message in ws:
            await ws.send(message)

    return app


OPTIONS: dict[str, Any] = {
    "forwarded_allow_ips": "127.0.0.1,unix",
    "forwarded_fields": "x-forwarded-for,x-forwarded-proto,x-forwarded-host,x-forwarded-port,x-forwarded-prefix",
}


DATA = Path(__file__).resolve().parents[1] / "data"
TLS = {"ssl_certfile": str(DATA / "localhost.crt"), "ssl_keyfile": str(DATA / "localhost.key")}


@pytest.fixture(scope="module", params=list(PROXIES))
def ways(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Way]]:
    folder = tmp_path_factory.mktemp("proxies")
    apps = {**MAKERS, "websocket": echo}
    found = []
    with contextlib.ExitStack() as stack:
        for mode in PROXIES[request.param][1]:
            for interface, make in apps.items():
                options = {**OPTIONS, "proxy_protocol": mode.startswith("proxy")}
                if mode == "unix":
                    upstream = str(folder / interface)
                    options["uds"] = upstream
                    stack.enter_context(serving(make(), **options))
                else:
                    if mode == "proxy-tls":
                        options |= TLS
                    upstream = stack.enter_context(serving(make(), **options)).partition("://")[2]
                found.append(Way(interface, mode, upstream))
        for attempt in range(3):  # between our look and the proxy's bind, a port may be somebody else's
            give_ports(found)
            try:
                place = folder / f"proxy{attempt}"
                place.mkdir()
                command, config = PROXIES[request.param][0](place, found)
                stack.enter_context(running(command, place, config, [way.port for way in found]))
                break
            except AssertionError:
                if attempt == 2:
                    raise
        yield found


def test_the_client_is_known_and_cannot_be_another(ways: list[Way]) -> None:
    for way in ways:
        if way.interface == "websocket":
            continue
        transport = httpx.HTTPTransport(local_address=CLIENT)
        with httpx.Client(transport=transport, base_url=f"http://127.0.0.1:{way.port}", timeout=LIMIT) as client:
            for headers in ((), SPOOF, (*SPOOF, ("x-forwarded-for", "127.0.0.1"))):
                answer = client.get("/a", headers=list(headers))
                assert answer.status_code == 200, (way, answer.text)
                found = answer.json()
                assert found["client"][0] == CLIENT, (way, headers, found)
                if not way.mode.startswith("proxy") or way.interface == "asgi":
                    assert found["host"] == f"127.0.0.1:{way.port}", (way, headers, found)
                scheme = "https" if way.mode == "proxy-tls" else "http"
                assert found["scheme"] == scheme and not found.get("root"), (way, headers, found)


def test_the_pages_say_what_is_tried(tmp_path: Path) -> None:
    """Each line of the settings in docs/proxies.md stands in those that the tests run with, but for addresses."""
    page = (Path(__file__).resolve().parents[2] / "docs" / "proxies.md").read_text(encoding="utf-8")
    for name in PROXIES:
        _, text = PROXIES[name][0](tmp_path, [Way("native", "fields", "127.0.0.1:8000", 1)])
        ours = {line.strip() for line in text.replace("Port 1\n", "Port {server_port}\n").splitlines()}
        block = page.split(f"```{name}\n")[1].split("```")[0]
        lines = [line.strip() for line in block.splitlines()]
        assert len(lines) > 3 and [line for line in lines[1:] if line not in ours] == [], name


def test_websockets_pass(ways: list[Way]) -> None:
    for way in ways:
        if way.interface != "websocket":
            continue
        sock = socket.create_connection(("127.0.0.1", way.port), LIMIT, source_address=(CLIENT, 0))
        with connect(f"ws://127.0.0.1:{way.port}/talk", sock=sock, additional_headers=list(SPOOF)) as client:
            assert client.recv(timeout=LIMIT) == f"{CLIENT} {'wss' if way.mode == 'proxy-tls' else 'ws'}", way
            for message in ("häßlich", b"x" * 100_000):
                client.send(message)
                assert client.recv(timeout=LIMIT) == message
