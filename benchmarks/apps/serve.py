"""Starts the servers that have no command line, or none for all of their settings: `python -m benchmarks.apps.serve
NAME PORT [PACKAGE]`. PACKAGE has the applications, `wsgi` and `asgi`: benchmarks.apps if none is named.

Called by ../servers.py. The settings are each project's documented ones: one process, no access log.
"""

import sys
from importlib import import_module
from typing import Any

HOST = "127.0.0.1"


def bjoern(server: Any, port: int, apps: str) -> None:
    server.run(import_module(f"{apps}.wsgi").app, HOST, port)


def fastwsgi(server: Any, port: int, apps: str) -> None:
    server.run(import_module(f"{apps}.wsgi").app, host=HOST, port=port, loglevel=1)


def fastpysgi(server: Any, port: int, apps: str, interface: str) -> None:
    server.server.max_content_length = 32 << 20  # its default refuses the uploads of the arena's profile
    server.run(import_module(f"{apps}.{interface}").app, host=HOST, port=port, loglevel=1)


def socketify(server: Any, port: int, apps: str) -> None:
    server.ASGI(import_module(f"{apps}.asgi").app).listen(port).run()


def picows(server: Any, port: int, apps: str) -> None:
    """An echo as picows's own examples write it: callbacks, no coroutine per connection. No HTTP beside it."""

    class Echo(server.WSListener):  # type: ignore[misc]
        def on_ws_frame(self, transport: Any, frame: Any) -> None:
            transport.send(frame.msg_type, frame.get_payload_as_bytes())

    async def serve() -> None:
        listening = await server.ws_create_server(lambda _: Echo(), HOST, port)
        await listening.serve_forever()

    import_module("uvloop").run(serve())


def main(name: str, port: str, apps: str = "benchmarks.apps") -> None:
    package, _, interface = name.partition("-")
    server = import_module(package)
    starters: dict[str, Any] = {
        "bjoern": bjoern,
        "fastwsgi": fastwsgi,
        "fastpysgi": fastpysgi,
        "picows": picows,
        "socketify": socketify,
    }
    starters[package](server, int(port), apps, *([interface] if interface else []))


if __name__ == "__main__":
    main(*sys.argv[1:])
