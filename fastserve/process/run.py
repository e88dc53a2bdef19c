"""run: a whole server from a Config: alone or supervised, with its log and its banner.

Room: floor 3. Called by: cli.py, programs (`fastserve.run`). Calls: worker, supervisor, reload, server; logs, hooks,
pidfile, envfile; interfaces (make_handler, to try an application without serving it).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import platform
import sys
import threading
from collections.abc import Sequence
from typing import Any

from fastserve._version import __version__
from fastserve.errors import ConfigError
from fastserve.interfaces import make_handler
from fastserve.process import envfile, systemd, upgrade
from fastserve.process.config import Address, Config
from fastserve.process.hooks import Hooks
from fastserve.process.logs import configure_logging, load_log_config, painter
from fastserve.process.loops import describe, load_factory
from fastserve.process.pidfile import PidFile
from fastserve.process.privileges import Identity, warn_root
from fastserve.process.server import Server, load_application
from fastserve.process.sockets import Listeners
from fastserve.process.supervisor import Supervisor
from fastserve.process.tls import Certificates
from fastserve.process.worker import run_alone
from fastserve.telemetry.lens import Mode

__all__ = ["check", "run", "serve"]


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
    envfile.apply(config.variables)
    configure_logging(config)
    hooks = Hooks.of(config)

    with PidFile(config.pid, upgrade.predecessor(os.environ)) as pid_file:
        code = 1
        try:
            code = _serve(config, hooks, pid_file)
        except ConfigError as error:
            code = error.exit_code
            raise
        finally:
            hooks.call("on_exit", code=code)
    return code


def _serve(config: Config, hooks: Hooks, pid_file: PidFile) -> int:
    def ready(addresses: list[Address], interface: str, pids: list[int], note: str = "") -> None:
        """Of a supervisor: every worker serves. `pids` is empty if this process is the worker."""
        pid_file.write()
        announce(config, addresses, interface, pids, note)
        warn_root(Identity.of(config))
        hooks.call("when_ready", addresses=addresses, pids=pids or [os.getpid()])

    def alone_ready(server: Server) -> None:
        hooks.call("worker_ready", slot=0, pid=os.getpid())
        ready(server.addresses, server.interface, [])

    if threading.current_thread() is not threading.main_thread():
        raise ConfigError("run() needs the main thread, for its signals; elsewhere use fastserve.Server")
    if config.reload:
        from fastserve.process.reload import Reloader  # late: in production nobody needs it

        return Reloader(config, hooks, ready, lambda: _listeners(config)).run()
    if config.supervised or upgrade.predecessor(os.environ):
        return Supervisor(config, hooks, ready, lambda: _reread(config), pid_file.write).run()
    listeners = _listeners(config)
    Identity.of(config).assume()  # the umask: user and group are for workers
    code = 1
    try:
        code = run_alone(config, listeners, alone_ready)
    finally:
        hooks.call("worker_exit", slot=0, pid=os.getpid(), code=code)
    return code


def _reread(config: Config) -> Config:
    """The configuration from the same sources as they are now. One that a program made does not change."""
    if not config.arguments:
        return config
    from fastserve.process.sources import reread

    found = reread(config.arguments)
    envfile.apply(found.variables)
    return found


def _listeners(config: Config) -> Listeners:
    """Of a single process, or of the reloader: those that were passed to it, or its own."""
    passed = systemd.descriptors(config.descriptors, systemd.listen_fds(os.environ))
    if passed:
        return Listeners.inherited([passed], backlog=config.backlog)
    return Listeners(config.addresses, backlog=config.backlog, uds_permissions=config.uds_permissions)


def announce(config: Config, addresses: Sequence[Address], interface: str, pids: Sequence[int], note: str = "") -> None:
    """The banner. It is written when requests are served, so that "ready" can be waited for. `note`: on its last line."""
    if logging.getLogger("fastserve").getEffectiveLevel() > logging.INFO:
        return
    paint = painter(sys.stderr, config.use_colors)
    name = config.app if isinstance(config.app, str) else f"an object of type {type(config.app).__name__}"
    listening = f" ({config.note})" if config.note else ""
    workers = f"{len(pids)} (pids {' '.join(map(str, pids))})" if pids else "1 (this process)"
    why = f" ({config.workers_note})" if config.workers_note else ""
    python = f"{platform.python_implementation()} {platform.python_version()}"
    lens = " (look: fastserve top, explain, doctor, trace)"
    lines = [
        f"{paint('1', 'fastserve')} {__version__}, {python}, {describe(config.loop)}",
        f"  application  {name} ({interface})",
        f"  workers      {workers}, pid {os.getpid()}{why}",
        *(f"  listening    {paint('36', config.url_of(address))}{listening}" for address in addresses),
        *([f"  reload       {note}"] if note else []),
        *([f"  lens         {config.lens_mode}{lens}"] if config.lens_mode.mode > Mode.READY else []),
        f"  {paint('32', 'ready')}        stop with Ctrl-C",
    ]
    with contextlib.suppress(OSError):  # a full disk: requests are served all the same
        sys.stderr.write("\n".join(lines) + "\n")
        sys.stderr.flush()


def check(config: Config) -> str:
    """Load all that a start would load, and open nothing. What is there, in one line; ConfigError if it would not start."""
    envfile.apply(config.variables)
    if config.log_config is not None:
        load_log_config(config.log_config)
    if ":" in config.loop:
        load_factory(config.loop, config.app_dir)
    Hooks.of(config)
    PidFile(config.pid).check()
    if config.tls:
        Certificates(config)
    app, interface = load_application(config)
    make_handler(app, interface, threads=config.threads).close()
    name = config.app if isinstance(config.app, str) else type(config.app).__name__
    workers = f"{config.workers} worker" + ("s" if config.workers != 1 else "")
    where = [f"fd://{one}" for one in config.descriptors] or list(map(config.url_of, config.addresses))
    return f"{name} ({interface}), {workers}, {' '.join(where)}"
