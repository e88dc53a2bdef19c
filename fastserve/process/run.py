"""run: a whole server from a Config: alone or supervised, with its log and its banner.

Room: floor 3. Called by: cli.py, programs (`fastserve.run`). Calls: worker, supervisor, server.
"""

from __future__ import annotations

import asyncio
import logging
import os
import platform
import sys
from collections.abc import Sequence
from importlib import metadata
from typing import Any, TextIO

from fastserve._version import __version__
from fastserve.errors import ConfigError
from fastserve.process.config import Address, Config
from fastserve.process.server import Server
from fastserve.process.supervisor import Supervisor
from fastserve.process.worker import run_alone

__all__ = ["run", "serve"]


def run(app: Any, **options: Any) -> None:
    """Serve `app`, an application or "module:attribute", until told to stop by TERM or INT.

    Options are the command line's, with underscores. Raises ConfigError if it cannot start, SystemExit if it was forced
    to stop.
    """
    code = serve(Config.of(app, options))
    if code:
        raise SystemExit(code)


def serve(config: Config) -> int:
    """Serve until told to stop. Returns the exit code; raises ConfigError if the server cannot start."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        pass
    else:
        raise ConfigError("run() cannot be called in a running event loop; use fastserve.Server there")
    configure_logging(config.log_level)

    def alone_ready(server: Server) -> None:
        announce(config, server.addresses, server.interface, [])

    def all_ready(addresses: list[Address], interface: str, pids: list[int]) -> None:
        announce(config, addresses, interface, pids)

    if config.workers == 1:
        return run_alone(config, alone_ready)
    return Supervisor(config, all_ready).run()


def configure_logging(level: str) -> None:
    """Give the logger "fastserve" a handler on stderr, unless the program has set up logging of its own."""
    logger = logging.getLogger("fastserve")
    logger.setLevel(level.upper())
    if logger.handlers or logging.getLogger().handlers:
        return
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s [%(process)d] %(levelname)s: %(message)s"))
    logger.addHandler(handler)
    logger.propagate = False


def announce(config: Config, addresses: Sequence[Address], interface: str, pids: Sequence[int]) -> None:
    """The banner. It is written when requests are served, so that "ready" can be waited for."""
    if logging.getLogger("fastserve").getEffectiveLevel() > logging.INFO:
        return
    paint = _painter(sys.stderr)
    name = config.app if isinstance(config.app, str) else f"an object of type {type(config.app).__name__}"
    loop = "asyncio"
    if config.loop == "uvloop":
        loop = f"uvloop {metadata.version('uvloop')}"
    note = f" ({config.note})" if config.note else ""
    workers = f"{len(pids)} (pids {' '.join(map(str, pids))})" if pids else "1 (this process)"
    python = f"{platform.python_implementation()} {platform.python_version()}"
    lines = [
        f"{paint('1', 'fastserve')} {__version__}, {python}, {loop}",
        f"  application  {name} ({interface})",
        f"  workers      {workers}, pid {os.getpid()}",
        *(f"  listening    {paint('36', address.url)}{note}" for address in addresses),
        f"  {paint('32', 'ready')}        stop with Ctrl-C",
    ]
    sys.stderr.write("\n".join(lines) + "\n")
    sys.stderr.flush()


def _painter(stream: TextIO) -> Any:
    """Colour only on a terminal, and not if NO_COLOR is set (no-color.org)."""
    colour = stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return lambda code, text: f"\x1b[{code}m{text}\x1b[0m" if colour else text
