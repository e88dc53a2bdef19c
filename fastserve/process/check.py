"""check: would it serve, and would it serve well? What `fastserve check MODULE:APP` finds, before there is a server.

Room: floor 3. Called by: cli.py. Calls: server (load_application), sockets, tls, hooks, pidfile, privileges, loops, cpus;
interfaces (make_handler, Lifespan).

One function for each topic, in the order of the table CHECKS; each yields what it finds. An *error* is what would keep the
server from starting; a *warning* is what will hurt under load or in a failure; a *note* is what an operator may want to
know; *ok* says what was looked at. The machine's numbers are read below `root`, so that a test can show another machine.

Sources: listen(2) for somaxconn; Documentation/networking/ip-sysctl.rst and admin-guide/sysctl/{net,vm}.rst of Linux;
Documentation/admin-guide/cgroup-v2.rst for memory.max and pids.max, cgroup-v1/memory.rst.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import platform
import resource
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from fastserve._version import __version__
from fastserve.errors import ConfigError
from fastserve.interfaces import make_handler
from fastserve.interfaces.lifespan import Lifespan
from fastserve.process import cpus, envfile
from fastserve.process.config import Config, TcpAddress, UnixAddress, parse_bind
from fastserve.process.hooks import Hooks
from fastserve.process.importer import ApplicationError
from fastserve.process.logs import load_log_config
from fastserve.process.loops import close_loop, describe, load_factory, new_loop
from fastserve.process.patience import patiently
from fastserve.process.pidfile import PidFile
from fastserve.process.privileges import Identity
from fastserve.process.server import load_application
from fastserve.process.sockets import Listeners
from fastserve.process.tls import Certificates

__all__ = ["LEVELS", "Finding", "examine"]

Level = Literal["ok", "note", "warning", "error"]
LEVELS: tuple[Level, ...] = ("ok", "note", "warning", "error")

LIFESPAN_SECONDS = 60.0  # for startup, and again for shutdown: an application that warms up a model takes its time
SLOW_SECONDS = 10.0  # of an import or a startup: a worker that is replaced takes as long
BALANCER_SECONDS = 60.0  # that nginx (keepalive_timeout) and the usual cloud balancers keep an idle connection
DESCRIPTORS_FEW = 4096  # of a process: below it the limit is met before anything else is
DESCRIPTORS_OWN = 32  # that a worker itself has open: its loop, its siblings' listeners, logs, pipes
PORTS_FEW = 16384  # for outgoing connections; Linux gives 28232
CERTIFICATE_DAYS = 14
UNLIMITED = 1 << 60  # what a control group of version 1 says for "no limit" is near 2**63


@dataclass(frozen=True, slots=True)
class Finding:
    """One line: how bad, about what, what it is, and what to do about it."""

    level: Level
    topic: str
    text: str
    advice: str = ""
    details: str = field(default="", compare=False)  # a traceback of the application

    def as_json(self) -> dict[str, str]:
        return {"level": self.level, "topic": self.topic, "text": self.text, "advice": self.advice}


class Case:
    """What is looked at, and what the earlier looks have found."""

    def __init__(self, config: Config, root: Path) -> None:
        self.config = config
        self.root = root
        self.app: Any = None
        self.interface = ""
        self.can_be_called = False

    def number(self, path: str) -> int | None:
        """A number of the kernel, such as "proc/sys/net/core/somaxconn"; None: it has none, or does not tell us."""
        try:
            return int((self.root / path).read_text(encoding="ascii"))
        except (OSError, ValueError):
            return None

    @property
    def processes(self) -> int:
        """Most at a time: a reload has one worker more than there are slots, and a supervisor stands above."""
        return self.config.workers + 1

    @property
    def seen_from_outside(self) -> bool:
        """Does it listen where other machines can reach it?"""
        return any(not _loopback(one.host) for one in self.config.addresses if isinstance(one, TcpAddress))


def examine(config: Config, root: str | os.PathLike[str] = "/") -> Iterator[Finding]:
    """Everything there is to find, as it is found. Nothing stays open, and nothing is served.

    The application is imported into this process, started and stopped once. What it prints goes to stderr.
    """
    case = Case(config, Path(root))
    for topic, look in CHECKS:
        try:
            yield from look(case)
        except ApplicationError as error:
            yield Finding("error", topic, str(error), details=error.details)
        except ConfigError as error:
            yield Finding("error", topic, " ".join(str(error).splitlines()))


# ------------------------------------------------------------------------------------------------ the application


def python(case: Case) -> Iterator[Finding]:
    config = case.config
    if ":" in config.loop:
        load_factory(config.loop, config.app_dir)
    new_loop(config.loop, config.app_dir).close()
    yield Finding("ok", "python", f"fastserve {__version__}, {platform.python_version()}, {describe(config.loop)}")
    if config.loop == "auto" and describe("auto") == "auto":
        yield Finding("note", "python", "uvloop is not installed: the event loop is asyncio's", "pip install uvloop")


def options(case: Case) -> Iterator[Finding]:
    """Files and objects that options name."""
    config = case.config
    envfile.apply(config.variables)
    if config.log_config is not None:
        load_log_config(config.log_config)
    Hooks.of(config)
    PidFile(config.pid).check()
    Identity.of(config)
    given = sorted(name.replace("_", "-") for name in config.origins if name != "app")
    yield Finding("ok", "options", f"set: {', '.join(given)}" if given else "none set: all defaults")
    if case.seen_from_outside and (config.reload or config.dev):
        yield Finding("warning", "options", "reload is for development, and other machines can reach it")


def application(case: Case) -> Iterator[Finding]:
    began = time.monotonic()
    with contextlib.redirect_stdout(sys.stderr), patiently(_say, f"importing {_name(case.config)}"):
        case.app, case.interface = load_application(case.config)
    took = time.monotonic() - began
    yield Finding("ok", "import", f"{_name(case.config)} in {_seconds(took)}")
    if took > SLOW_SECONDS:
        yield Finding("note", "import", f"it takes {_seconds(took)}, in each worker", "--preload imports it once")


def _say(text: str) -> None:
    sys.stderr.write(f"fastserve: {text}\n")


def interface(case: Case) -> Iterator[Finding]:
    if case.app is None:
        return
    config = case.config
    make_handler(case.app, case.interface, threads=config.threads).close()
    case.can_be_called = True
    how = "found out" if config.interface == "auto" else "as asked for"
    yield Finding("ok", "interface", f"{case.interface}, {how}")
    if case.interface == "wsgi" and config.threads == 0:
        yield Finding("note", "interface", "the WSGI application runs on the event loop: one view that waits holds all")


def lifespan(case: Case) -> Iterator[Finding]:
    """Start the application and stop it, once, on the loop it will have."""
    if not case.can_be_called:
        return
    if case.interface == "wsgi":
        yield Finding("ok", "lifespan", "none: a WSGI application has no such thing")
        return
    found = Lifespan(case.app, case.interface, case.config.lifespan)
    loop = new_loop(case.config.loop, case.config.app_dir)
    try:
        asyncio.set_event_loop(loop)
        with contextlib.redirect_stdout(sys.stderr), patiently(_say, "waiting for the application's lifespan"):
            up = _timed(loop, found.startup, "the application failed to start")
            down = _timed(loop, found.shutdown, "the application failed to shut down") if found.supported else 0.0
    finally:
        asyncio.set_event_loop(None)
        with contextlib.suppress(Exception):
            close_loop(loop)
    if found.supported:
        yield Finding("ok", "lifespan", f"startup in {_seconds(up)}, shutdown in {_seconds(down)}")
    else:
        why = "switched off" if case.config.lifespan == "off" else "the application has none"
        yield Finding("ok", "lifespan", why)
    if up > SLOW_SECONDS:
        yield Finding("note", "lifespan", f"the startup takes {_seconds(up)}: a new worker serves only after that")
    if down > case.config.timeout_graceful_shutdown:
        limit = case.config.timeout_graceful_shutdown
        yield Finding(
            "warning",
            "lifespan",
            f"the shutdown takes {_seconds(down)}, and a stop has {limit:g} s for all",
            "raise --timeout-graceful-shutdown",
        )


def _timed(loop: asyncio.AbstractEventLoop, do: Callable[[], Any], doing: str) -> float:
    began = time.monotonic()
    task = loop.create_task(do())
    try:
        loop.run_until_complete(asyncio.wait({task}, timeout=LIFESPAN_SECONDS))
        if not task.done():  # whoever closes the loop cancels it
            raise ConfigError(f"{doing}: not within {LIFESPAN_SECONDS:g} s", exit_code=3)
        task.result()
    except (ConfigError, KeyboardInterrupt):
        raise
    except BaseException as error:
        if task.done() and not task.cancelled():
            task.exception()  # it is told below; of sys.exit() the loop would tell again
        raise ApplicationError.of(doing, error) from error
    return time.monotonic() - began


# ---------------------------------------------------------------------------------------------------------- addresses


def sockets(case: Case) -> Iterator[Finding]:
    """Can each address be bound? It is, and let go again."""
    config = case.config
    if config.descriptors:
        yield Finding("note", "sockets", "inherited ones are looked at when they are there: at the start")
    for address in config.addresses if not config.descriptors else ():
        yield _tried(address, "sockets", config)
    for text in config.admin:
        yield _tried(parse_bind(text, "admin"), "admin", config)


def _tried(address: TcpAddress | UnixAddress, topic: str, config: Config) -> Finding:
    try:
        Listeners([address], backlog=config.backlog, uds_permissions=config.uds_permissions).close()
    except ConfigError as error:
        advice = "is the server running already? ss -ltnp tells" if "in use" in str(error) else ""
        return Finding("error", topic, str(error), advice)
    any_port = isinstance(address, TcpAddress) and address.port == 0
    return Finding("ok", topic, f"{address} can be bound" + (" (any free port)" if any_port else ""))


def tls(case: Case) -> Iterator[Finding]:
    if not case.config.tls:
        return
    certificates = Certificates(case.config)
    yield Finding("ok", "tls", str(certificates))
    now = datetime.now(UTC)
    for names, until in certificates.facts:
        name = ", ".join(names) or "a certificate"
        if until is not None and until <= now:
            yield Finding(
                "error", "tls", f"{name}: expired on {until:%Y-%m-%d}", "renew it; it is read again by itself"
            )
        elif until is not None and until - now < timedelta(days=CERTIFICATE_DAYS):
            yield Finding(
                "warning", "tls", f"{name}: expires on {until:%Y-%m-%d}", "renew it; it is read again by itself"
            )


def proxies(case: Case) -> Iterator[Finding]:
    config = case.config
    if config.trust is None:
        yield Finding("ok", "proxies", "none is believed")
        return
    trusted = ", ".join(config.forwarded_allow_ips)
    if "*" in config.forwarded_allow_ips and case.seen_from_outside:
        yield Finding(
            "warning",
            "proxies",
            "everyone is believed: whoever reaches this port can say which client it is",
            "name the proxies in --forwarded-allow-ips",
        )
        return
    yield Finding("ok", "proxies", f"believed: {trusted}")
    only_here = all(text == "unix" or _loopback(text) for text in config.forwarded_allow_ips)
    if case.seen_from_outside and only_here and config.proxy_headers:
        yield Finding(
            "note",
            "proxies",
            "a balancer on another machine is not believed: every client will have its address",
            "name it: --forwarded-allow-ips 10.0.0.0/8",
        )


def balancer(case: Case) -> Iterator[Finding]:
    """What a balancer in front and we have to agree on."""
    config = case.config
    keep = config.timeout_keep_alive
    if 0 < keep <= BALANCER_SECONDS:
        yield Finding(
            "warning",
            "balancer",
            f"idle connections are closed after {keep:g} s, a balancer keeps them {BALANCER_SECONDS:g} s: "
            "it will send a request into one that we are closing, and answer 502",
            "--timeout-keep-alive above the balancer's time (default 75)",
        )
    else:
        yield Finding(
            "ok",
            "balancer",
            f"idle connections stay {keep:g} s" if keep else "idle connections stay",
            "longer than its",
        )
    if case.seen_from_outside and not config.reload and config.shutdown_delay == 0:
        yield Finding(
            "note",
            "balancer",
            "a stop refuses new connections at once, and a balancer learns of it by its next probe",
            "--shutdown-delay above the interval of its probes; --admin for /readyz",
        )


# -------------------------------------------------------------------------------------------------------- the machine


def processors(case: Case) -> Iterator[Finding]:
    workers = case.config.workers
    count, why = cpus.available(case.root)
    yield Finding("ok", "cpu", f"{workers} worker{'s' * (workers != 1)}, {why}")
    if workers > 2 * count:
        yield Finding("warning", "cpu", f"{workers} workers take turns on {count}", "--workers auto")
    elif workers < count and not case.config.reload:
        yield Finding("note", "cpu", f"{count - workers} of {count} are left idle", "--workers auto")


def memory(case: Case) -> Iterator[Finding]:
    """Is there room for every worker, and for one more while one is replaced? By what this process has now."""
    limit, where = _memory_limit(case.root)
    mine = _resident()
    if limit is None or not mine:
        return
    most = mine * case.processes
    text = (
        f"{_mebibytes(limit)} {where}; with the application loaded this process has {_mebibytes(mine)}, so "
        f"{case.processes} workers (one more while one is replaced) have about {_mebibytes(most)}, before any request"
    )
    if most > limit * 0.9:
        yield Finding("warning", "memory", text, "fewer --workers, --preload, or a higher limit")
    else:
        yield Finding("ok", "memory", text)
    if case.number("proc/sys/vm/overcommit_memory") == 2:
        yield Finding(
            "note",
            "memory",
            "vm.overcommit_memory is 2: each fork has to be backed by free memory, or a worker cannot be replaced",
        )


def descriptors(case: Case) -> Iterator[Finding]:
    """Every connection is one. The hard limit is what may be asked for without root."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    own = DESCRIPTORS_OWN + len(case.config.addresses) * case.config.workers
    wanted = case.config.limit_connections
    advice = f"ulimit -n {hard if hard > soft else 65536}, LimitNOFILE= of systemd, nofile of the container"
    if soft == resource.RLIM_INFINITY:
        yield Finding("ok", "descriptors", "no limit")
    elif soft <= own:
        yield Finding(
            "error", "descriptors", f"ulimit -n is {soft}: a worker needs {own} before any connection", advice
        )
    elif wanted is not None and wanted + own > soft:
        text = f"ulimit -n is {soft}: --limit-connections {wanted} cannot be reached, {soft - own} can"
        yield Finding("warning", "descriptors", text, advice)
    elif soft < DESCRIPTORS_FEW and wanted is None:
        yield Finding(
            "warning", "descriptors", f"ulimit -n is {soft}: a worker has at most {soft - own} connections", advice
        )
    else:
        yield Finding("ok", "descriptors", f"ulimit -n is {soft}: about {soft - own} connections for each worker")


def threads(case: Case) -> Iterator[Finding]:
    """Threads are tasks of the control group and of the user."""
    each = case.config.threads + 6  # those of the pool; the main one, the lifeline, the log, the loop's own
    most = each * case.processes + 2
    for name, limit in (("pids.max", _pids_limit(case.root)), ("ulimit -u", _processes_limit())):
        if limit is not None and most > limit:
            yield Finding(
                "warning",
                "threads",
                f"{name} is {limit}, {case.processes} workers may want {most} threads",
                "fewer --threads or --workers, or a higher limit",
            )
            return
    yield Finding("ok", "threads", f"at most about {most}, all workers together")


def kernel(case: Case) -> Iterator[Finding]:
    backlog = case.config.backlog
    queue = case.number("proc/sys/net/core/somaxconn")
    if queue is not None and queue < backlog:
        yield Finding(
            "warning",
            "kernel",
            f"net.core.somaxconn is {queue}: the queue of --backlog {backlog} is cut to it",
            f"sysctl -w net.core.somaxconn={backlog}, in the container's network namespace",
        )
    elif queue is not None:
        yield Finding("ok", "kernel", f"net.core.somaxconn {queue} holds --backlog {backlog}")
    half_open = case.number("proc/sys/net/ipv4/tcp_max_syn_backlog")
    cookies = case.number("proc/sys/net/ipv4/tcp_syncookies")
    if half_open is not None and half_open < backlog and cookies == 0:
        yield Finding(
            "warning",
            "kernel",
            f"net.ipv4.tcp_max_syn_backlog is {half_open} and SYN cookies are off: a burst of clients is turned away",
            f"sysctl -w net.ipv4.tcp_max_syn_backlog={backlog}, net.ipv4.tcp_syncookies=1",
        )
    if case.number("proc/sys/net/ipv4/tcp_abort_on_overflow") == 1:
        yield Finding(
            "warning",
            "kernel",
            "net.ipv4.tcp_abort_on_overflow is 1: clients are reset when the accept queue is full",
            "sysctl -w net.ipv4.tcp_abort_on_overflow=0: they try again by themselves",
        )
    yield from _ports(case)
    tracked, most = (case.number(f"proc/sys/net/netfilter/nf_conntrack_{name}") for name in ("count", "max"))
    if tracked is not None and most and tracked > 0.8 * most:
        yield Finding(
            "warning",
            "kernel",
            f"{tracked} of {most} connections are tracked: new ones are dropped when the table is full",
            f"sysctl -w net.netfilter.nf_conntrack_max={4 * most}",
        )


def _ports(case: Case) -> Iterator[Finding]:
    try:
        text = (case.root / "proc/sys/net/ipv4/ip_local_port_range").read_text(encoding="ascii")
        low, high = map(int, text.split())
    except (OSError, ValueError):
        return
    if high - low + 1 < PORTS_FEW:
        yield Finding(
            "note",
            "kernel",
            f"{high - low + 1} ports for outgoing connections (net.ipv4.ip_local_port_range): so many to one database "
            "or upstream address",
            'sysctl -w net.ipv4.ip_local_port_range="1024 65000"',
        )
    taken = [one for one in case.config.addresses if isinstance(one, TcpAddress) and low <= one.port <= high]
    for address in taken:
        yield Finding(
            "note",
            "kernel",
            f"port {address.port} lies among those for outgoing connections ({low} to {high}): one of them may have it "
            "when the server starts",
            f"sysctl -w net.ipv4.ip_local_reserved_ports={address.port}",
        )


def privileges(case: Case) -> Iterator[Finding]:
    if os.geteuid() != 0:
        yield Finding("ok", "user", f"serves as user {os.geteuid()}")
    elif Identity.of(case.config).root:
        yield Finding("warning", "user", "workers run as root", "--user NAME: root binds the ports and gives itself up")
    else:
        yield Finding("ok", "user", f"workers become {case.config.user or case.config.group}")


CHECKS: tuple[tuple[str, Callable[[Case], Iterator[Finding]]], ...] = (
    ("python", python),
    ("options", options),
    ("import", application),
    ("interface", interface),
    ("lifespan", lifespan),
    ("sockets", sockets),
    ("tls", tls),
    ("proxies", proxies),
    ("balancer", balancer),
    ("cpu", processors),
    ("memory", memory),
    ("descriptors", descriptors),
    ("threads", threads),
    ("kernel", kernel),
    ("user", privileges),
)


# -------------------------------------------------------------------------------------------------------- small things


def _name(config: Config) -> str:
    return config.app if isinstance(config.app, str) else type(config.app).__name__


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_network(host, strict=False).is_loopback
    except ValueError:
        return host == "localhost"


def _seconds(value: float) -> str:
    return f"{value * 1000:.0f} ms" if value < 1 else f"{value:.1f} s"


def _mebibytes(value: int) -> str:
    return f"{value / (1 << 20):.0f} MiB" if value < 10 << 30 else f"{value / (1 << 30):.0f} GiB"


def _resident() -> int:
    """Bytes of this process in memory; 0 where /proc does not tell."""
    try:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0


def _memory_limit(root: Path) -> tuple[int | None, str]:
    """The smallest limit of our control groups, or what the machine has to give."""
    found = [
        *cpus.group_numbers(root, "memory", "memory.max"),
        *cpus.group_numbers(root, "memory", "memory.limit_in_bytes"),
    ]
    limits = [number for number in found if number < UNLIMITED]
    if limits:
        return min(limits), "by the control group"
    try:
        lines = (root / "proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None, ""
    for line in lines:
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024, "available on this machine"
    return None, ""


def _pids_limit(root: Path) -> int | None:
    return min(cpus.group_numbers(root, "pids", "pids.max"), default=None)


def _processes_limit() -> int | None:
    soft = resource.getrlimit(resource.RLIMIT_NPROC)[0]
    return None if soft == resource.RLIM_INFINITY or os.geteuid() == 0 else soft  # root is not held by it
