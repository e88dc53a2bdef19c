"""Config: the only place where options are named, defaulted and checked; addresses as parsed values.

Room: floor 3. Called by: sources.py (which reads flags, environment and files by OPTIONS), run.py, server.py, whoever
needs a number. Calls: values.py (text to value), cpus.py, envfile.py, errors.py. Nothing below this floor ever sees a
Config: the data plane is handed the numbers of `limits()`.
"""

from __future__ import annotations

import difflib
import os
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from fastserve.errors import ConfigError
from fastserve.process import cpus, envfile, values
from fastserve.protocol.forwarded import Trust
from fastserve.telemetry import parse_format
from fastserve.telemetry.lens.modes import LensMode, parse_mode

__all__ = ["OPTIONS", "Address", "Config", "Option", "TcpAddress", "UnixAddress", "implied", "parse_bind"]

HOST = "127.0.0.1"
PORT = 8000
FD = "fd://"  # in bind: an inherited socket, in the spelling of gunicorn and hypercorn
UNIX_PATH_BYTES_MAX = 107 if sys.platform == "linux" else 103  # sun_path, less its closing NUL

Kind = Literal["text", "texts", "whole", "workers", "seconds", "bytes", "flag", "mode", "object"]
"""What an option is. "texts": several. "workers": a number or auto. "seconds" and "bytes": numbers, or text with units.
"object": text that names it; in a program the thing itself."""

LOOPS = ("auto", "asyncio", "uvloop")
REFERENCE = re.compile(r"[^\W\d]\w*(?:\.[^\W\d]\w*)*:[^\W\d]\w*(?:\.[^\W\d]\w*)*")  # module:attribute
TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # RFC 9110 section 5.6.2
FIELD_VALUE = re.compile(r"[\t \x21-\x7e\x80-\xff]*")  # RFC 9110 section 5.5, with obs-text
FIELDS_OF_OURS = frozenset(
    {"connection", "content-length", "date", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"}
)
"""Fields that frame a message or belong to one connection: no operator can know them for every response."""


# ----------------------------------------------------------------------------------------------------- addresses


@dataclass(frozen=True, slots=True)
class TcpAddress:
    """A host and a port. An empty host is every interface, IPv4 and IPv6; port 0 lets the kernel choose."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        return f"http://{self}"

    @property
    def local_url(self) -> str:
        """An address that a client on this machine can use: a wildcard is no destination."""
        host = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)
        return TcpAddress(host, self.port).url


@dataclass(frozen=True, slots=True)
class UnixAddress:
    """The path of a Unix socket."""

    path: str

    def __str__(self) -> str:
        return f"unix:{self.path}"

    @property
    def url(self) -> str:
        return str(self)

    local_url = url


Address = TcpAddress | UnixAddress


def parse_bind(text: str, option: str = "bind") -> Address:
    """HOST:PORT, [v6]:PORT, :PORT (every interface) or unix:PATH."""
    if text.startswith("unix:"):
        return unix_address(text[len("unix:") :].removeprefix("//"))
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.%\w]*)\]|([^:\[\]\s/]*)):([0-9]{1,5})", text)
    if match is None:
        raise ConfigError(f"{option} must be HOST:PORT, [v6]:PORT or unix:PATH, not {text!r}")
    bracketed, plain, digits = match.groups()
    if bracketed is not None and ":" not in bracketed:
        raise ConfigError(f"{option}: {bracketed!r} is no IPv6 address in {text!r}")
    port = int(digits)
    if port > 65535:
        raise ConfigError(f"{option}: port must be 0 to 65535, not {port}")
    return TcpAddress(bracketed if bracketed is not None else plain, port)


def unix_address(path: str) -> UnixAddress:
    if not path or "\0" in path:
        raise ConfigError(f"a Unix socket needs a path, not {path!r}")
    size = len(os.fsencode(path))
    if size > UNIX_PATH_BYTES_MAX:
        raise ConfigError(f"the path of a Unix socket has at most {UNIX_PATH_BYTES_MAX} bytes, not {size}: {path}")
    return UnixAddress(path)


# ------------------------------------------------------------------------------------------------------- options


@dataclass(frozen=True, slots=True)
class Option:
    """What the command line and the checks know about one field of Config."""

    group: str
    help: str
    kind: Kind
    aliases: tuple[str, ...] = ()
    metavar: str | None = None
    least: float | None = None
    most: float | None = None
    choices: tuple[str, ...] = ()
    optional: bool = False  # None is a value
    separator: str = ","  # of several texts in one environment variable
    secret: bool = False  # its value is not printed


def _option(default: Any, group: str, kind: Kind, help: str, *aliases: str, **more: Any) -> Any:
    return field(
        default=default, metadata={"option": Option(group, help, kind, aliases, optional=default is None, **more)}
    )


@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything that can be said about a server, checked. Field names are the flags with underscores.

    `app` is an application or its name, "module:attribute". `addresses` are what host, port, bind and uds amount to.
    """

    app: Any = field(repr=False)

    # Options. A new one is one entry here: flag, variable, TOML key, help and reference are made from it.
    host: str | None = _option(None, "address", "text", f"address to listen on (default {HOST})", metavar="HOST")
    port: int | None = _option(
        None,
        "address",
        "whole",
        f"port to listen on; 0: any free one (default {PORT})",
        metavar="PORT",
        least=0,
        most=65535,
    )
    bind: tuple[str, ...] = _option(
        (),
        "address",
        "texts",
        "HOST:PORT, [v6]:PORT, :PORT (all interfaces), unix:PATH, or fd://N as --fd N; may be repeated",
        "-b",
        metavar="ADDRESS",
    )
    uds: str | None = _option(None, "address", "text", "path of a Unix socket", metavar="PATH")
    uds_permissions: int = _option(
        0o600, "address", "mode", "mode of Unix sockets, octal (default 600)", metavar="MODE", least=0, most=0o777
    )
    fd: tuple[str, ...] = _option(
        (),
        "address",
        "texts",
        "inherited listening socket: a number, or its name in LISTEN_FDNAMES; may be repeated",
        metavar="N",
    )
    backlog: int = _option(2048, "address", "whole", "connections that may wait for accept", metavar="N", least=1)

    admin: tuple[str, ...] = _option(
        (),
        "address",
        "texts",
        "HOST:PORT or unix:PATH for probes, metrics and the state of workers (default: none); may be repeated",
        metavar="ADDRESS",
    )

    proxy_headers: bool = _option(
        True, "proxies", "flag", "believe what trusted proxies say of the client in the fields below"
    )
    forwarded_allow_ips: tuple[str, ...] = _option(
        ("127.0.0.1", "::1", "unix"),
        "proxies",
        "texts",
        "address or network of a trusted proxy, unix for Unix sockets, * for everyone; may be repeated",
        metavar="ADDRESS",
    )
    forwarded_fields: tuple[str, ...] = _option(
        ("x-forwarded-for", "x-forwarded-proto"),
        "proxies",
        "texts",
        "field that the proxies always set: x-forwarded-for, -proto, -host, -port, -prefix, or forwarded; may be repeated",
        metavar="NAME",
    )
    request_id_header: str = _option(
        "x-request-id",
        "proxies",
        "text",
        "field in which a trusted proxy says the id of a request; empty: none",
        metavar="NAME",
    )
    request_id: bool = _option(
        False, "proxies", "flag", "give ASGI and WSGI applications the id of each request, in the same field"
    )
    proxy_protocol: bool = _option(
        False, "proxies", "flag", "connections of trusted proxies begin with a PROXY protocol header, version 1 or 2"
    )

    factory: bool = _option(False, "application", "flag", "MODULE:APP is a function that makes the application")
    app_dir: str = _option(".", "application", "text", "folder that modules are looked for in first", metavar="DIR")
    interface: str = _option(
        "auto",
        "application",
        "text",
        "how the application is called",
        choices=("auto", "native", "asgi", "asgi2", "asgi3", "wsgi"),
    )
    lifespan: str = _option(
        "auto",
        "application",
        "text",
        "the application's lifespan: on, off, or auto: if the application knows it",
        choices=("auto", "on", "off"),
    )
    root_path: str = _option(
        "", "application", "text", "the part of the path that a proxy in front cuts off", metavar="PATH"
    )
    env_file: str | None = _option(
        None,
        "application",
        "text",
        "file of NAME=value for the application; does not override the environment",
        metavar="FILE",
    )
    hooks: Any = _option(  # noqa: RUF009
        None,
        "application",
        "object",
        "object whose functions are called when the server is ready, forks, ends",
        metavar="MODULE:OBJECT",
    )

    static: tuple[str, ...] = _option(
        (),
        "files",
        "texts",
        "files below a path, answered before the application: /static=./static; may be repeated",
        metavar="PATH=FOLDER",
    )
    static_max_age: float | None = _option(
        None,
        "files",
        "seconds",
        "that a client may keep such a file without asking again (default: it decides)",
        metavar="S",
    )

    workers: int = _option(
        1,
        "processes",
        "workers",
        "number of worker processes; auto: as many as CPUs may be used",
        "-w",
        metavar="N|auto",
        least=1,
        most=1024,
    )
    threads: int = _option(
        40,
        "processes",
        "whole",
        "threads for plain functions and WSGI applications; 0: WSGI runs on the event loop",
        metavar="N",
        least=0,
        most=4096,
    )
    loop: str = _option(
        "auto", "processes", "text", "event loop: auto, asyncio, uvloop or MODULE:FACTORY", metavar="LOOP"
    )
    pid: str | None = _option(
        None, "processes", "text", "file for the process id, removed at the end", "-p", metavar="FILE"
    )
    preload: bool = _option(
        False, "processes", "flag", "import the application once and fork the workers from that process"
    )
    supervisor: bool | None = _option(
        None,
        "processes",
        "flag",
        "a parent that replaces workers and reloads (default); --no-supervisor: one process that serves",
    )
    limit_max_requests: int | None = _option(
        None,
        "processes",
        "whole",
        "requests after which a worker is replaced (default: never)",
        "--max-requests",
        metavar="N",
        least=1,
    )
    limit_max_requests_jitter: int = _option(
        0,
        "processes",
        "whole",
        "random part added to that, so that workers differ",
        "--max-requests-jitter",
        metavar="N",
        least=0,
    )
    workers_lifetime: float | None = _option(
        None, "processes", "seconds", "age at which a worker is replaced (default: never)", metavar="S"
    )
    workers_lifetime_jitter: float = _option(
        0.0, "processes", "seconds", "random part added to that, so that workers differ", metavar="S"
    )
    workers_max_rss: int | None = _option(
        None,
        "processes",
        "bytes",
        "resident memory above which a worker is replaced (default: never)",
        metavar="BYTES",
        least=1,
    )
    user: str | None = _option(
        None,
        "processes",
        "text",
        "user, by name or number, that workers become after the sockets are open",
        "-u",
        metavar="USER",
    )
    group: str | None = _option(
        None, "processes", "text", "group, by name or number, that workers become", "-g", metavar="GROUP"
    )
    umask: int | None = _option(
        None, "processes", "mode", "file mode mask of workers, octal", "-m", metavar="MODE", least=0, most=0o777
    )

    reload: bool = _option(False, "development", "flag", "replace the worker when a file changes")
    reload_dir: tuple[str, ...] = _option(
        (), "development", "texts", "folder to watch (default: this one); may be repeated", metavar="DIR"
    )
    reload_include: tuple[str, ...] = _option(
        (), "development", "texts", "pattern of files to watch, beside *.py; may be repeated", metavar="GLOB"
    )
    reload_exclude: tuple[str, ...] = _option(
        (), "development", "texts", "pattern of files to leave out; may be repeated", metavar="GLOB"
    )
    reload_delay: float = _option(
        0.25, "development", "seconds", "from a change to the reload, for the changes that follow it", metavar="S"
    )
    dev: bool = _option(False, "development", "flag", "as fastserve dev: reload, a debugging log, and lens full")

    ssl_certfile: tuple[str, ...] = _option(
        (),
        "tls",
        "texts",
        "PEM file of a certificate and its chain; may be repeated, the client's server name chooses",
        "--certfile",
        "--ssl-certificate",
        metavar="FILE",
    )
    ssl_keyfile: tuple[str, ...] = _option(
        (), "tls", "texts", "PEM file of its key (default: in the same file); as often", "--keyfile", metavar="FILE"
    )
    ssl_keyfile_password: str | None = _option(
        None, "tls", "text", "password of the keys", metavar="PASSWORD", secret=True
    )
    ssl_protocol_min: str = _option("tls1.2", "tls", "text", "oldest version of TLS", choices=("tls1.2", "tls1.3"))
    ssl_version: int = _option(
        17, "tls", "whole", "uvicorn's number: 17 and 2 negotiate, 5 is TLS 1.2 alone", metavar="N"
    )
    ssl_cert_reqs: str = _option(
        "none",
        "tls",
        "text",
        "client certificates; 0, 1, 2 mean the same",
        "--cert-reqs",
        choices=("none", "optional", "required", "0", "1", "2"),
    )
    ssl_ca_certs: str | None = _option(
        None,
        "tls",
        "text",
        "PEM file of the authorities that client certificates are from",
        "--ca-certs",
        metavar="FILE",
    )
    ssl_ciphers: str | None = _option(
        None, "tls", "text", "OpenSSL's list of ciphers for TLS 1.2 (default: Python's)", "--ciphers", metavar="LIST"
    )

    name: str | None = _option(
        None,
        "output",
        "text",
        "what this server is called by fastserve top, trace and explain (default: the application's)",
        metavar="NAME",
    )
    lens: str = _option(
        "ready",
        "output",
        "text",
        "what is recorded of requests: off, ready, stalls, sample:N (1 in N), slow:200ms, full",
        metavar="MODE",
    )
    server_timing: bool = _option(
        False, "output", "flag", "tell clients of this machine where a recorded request waited (Server-Timing)"
    )
    log_level: str = _option(
        "info",
        "output",
        "text",
        "least that is told on stderr",
        choices=("critical", "error", "warning", "info", "debug"),
    )
    log_config: Any = _option(  # noqa: RUF009
        None, "output", "object", "file for Python's logging: .json, .yaml, .toml or ini", metavar="FILE"
    )
    use_colors: bool | None = _option(None, "output", "flag", "colour on stderr (default: on a terminal)")
    log_format: str = _option(
        "text", "output", "text", "of what the server itself says, and of the access log", choices=("text", "json")
    )
    access_log: bool = _option(True, "output", "flag", "one line per request")
    access_log_file: str = _option(
        "-",
        "output",
        "text",
        "where: -: stdout; a file, opened again on USR1; syslog, syslog:PATH or syslog:HOST:PORT",
        "--access-logfile",
        metavar="FILE",
    )
    access_log_format: str | None = _option(
        None,
        "output",
        "text",
        "default, common, combined, json, or a text with gunicorn's atoms, %(h)s and the like",
        "--access-logformat",
        "--access-log-fmt",
        metavar="FORMAT",
    )
    access_log_exclude: tuple[str, ...] = _option(
        (),
        "output",
        "texts",
        "path without a line, as of health checks; PREFIX* for all that begin so; may be repeated",
        metavar="PATH",
    )
    server_header: bool = _option(True, "output", "flag", "send the Server field")
    date_header: bool = _option(True, "output", "flag", "send the Date field")
    header: tuple[str, ...] = _option(
        (),
        "output",
        "texts",
        "field of every response that does not set it itself; may be repeated",
        metavar="NAME:VALUE",
        separator="\n",
    )

    timeout_tls_handshake: float = _option(10.0, "timeouts", "seconds", "for a TLS handshake; 0: no limit", metavar="S")
    timeout_header: float = _option(
        15.0, "timeouts", "seconds", "for a whole request head, also for a client that says nothing", metavar="S"
    )
    timeout_body: float = _option(
        30.0, "timeouts", "seconds", "without a byte of a body that the handler waits for", metavar="S"
    )
    timeout_write: float = _option(
        30.0, "timeouts", "seconds", "without the client taking a byte of its answer", metavar="S"
    )
    timeout_request: float = _option(
        0.0,
        "timeouts",
        "seconds",
        "for a whole request, from its head to its answer; over it 503; 0: no limit",
        metavar="S",
    )
    min_rate: int = _option(
        240,
        "timeouts",
        "bytes",
        "bytes a second that a client sends of a body and takes of an answer while it is waited for; 0: no limit",
        metavar="BYTES",
        least=0,
        most=2**31,
    )
    min_rate_grace: float = _option(30.0, "timeouts", "seconds", "over which that rate is averaged", metavar="S")
    timeout_keep_alive: float = _option(
        75.0, "timeouts", "seconds", "for an idle connection between requests", "--keep-alive", metavar="S"
    )
    timeout_linger: float = _option(
        5.0, "timeouts", "seconds", "that a refused client has to read its answer before the close", metavar="S"
    )
    timeout_graceful_shutdown: float = _option(
        25.0,
        "timeouts",
        "seconds",
        "for requests in hand when the server stops; 0: cut them",
        "--graceful-timeout",
        metavar="S",
    )

    timeout_retire_idle: float = _option(
        5.0, "timeouts", "seconds", "that a retiring worker waits for an idle client's last request", metavar="S"
    )
    timeout_worker_healthcheck: float = _option(
        60.0,
        "timeouts",
        "seconds",
        "after which a worker whose event loop hangs is killed and replaced; 0: never",
        metavar="S",
    )
    shutdown_delay: float = _option(
        0.0, "timeouts", "seconds", "to serve on after TERM, not ready, before the stop begins", metavar="S"
    )

    limit_request_line: int = _option(8192, "limits", "bytes", "bytes of a request line", metavar="BYTES", least=64)
    limit_request_head: int = _option(
        65536, "limits", "bytes", "bytes of a request head", metavar="BYTES", least=128, most=2**30
    )
    limit_request_fields: int = _option(
        100, "limits", "whole", "fields of a request head", metavar="N", least=1, most=65535
    )
    limit_request_body: int | None = _option(
        None, "limits", "bytes", "bytes of a request body (default: no limit)", metavar="BYTES", least=0, most=2**63 - 1
    )
    limit_concurrency: int | None = _option(
        None,
        "limits",
        "whole",
        "requests in flight in a worker; more are answered 503 (default: no limit)",
        metavar="N",
        least=1,
        most=2**31,
    )
    limit_connections: int | None = _option(
        None,
        "limits",
        "whole",
        "connections of a worker; idle ones are closed for new ones (default: no limit)",
        metavar="N",
        least=1,
        most=2**31,
    )
    limit_connections_per_peer: int | None = _option(
        None,
        "limits",
        "whole",
        "connections of a worker from one address; more are closed (default: no limit)",
        metavar="N",
        least=1,
        most=2**31,
    )
    limit_buffers: int = _option(
        8388608,
        "limits",
        "bytes",
        "bytes of unfinished heads, unread bodies and pipelined requests in a worker; 0: no limit",
        metavar="BYTES",
        least=0,
        most=2**40,
    )
    shed_after: float = _option(
        0.0,
        "limits",
        "seconds",
        "that a request may have waited before its handler begins; over it 503; 0: no limit",
        metavar="S",
    )
    limit_exempt: tuple[str, ...] = _option(
        (),
        "limits",
        "texts",
        "path that limit-concurrency and shed-after do not apply to; may be repeated",
        metavar="PATH",
    )
    half_close: bool = _option(False, "limits", "flag", "a client that has ended its side still gets its answer")

    ws_max_size: int = _option(
        16777216, "websockets", "bytes", "bytes of a message, decompressed", metavar="BYTES", least=1, most=2**40
    )
    ws_max_queue: int = _option(
        32,
        "websockets",
        "whole",
        "messages that wait for the application before reading pauses",
        metavar="N",
        least=1,
        most=65536,
    )
    ws_ping_interval: float = _option(
        20.0, "websockets", "seconds", "of silence before a client is pinged; 0: never", metavar="S"
    )
    ws_ping_timeout: float = _option(
        20.0, "websockets", "seconds", "for a sign of life after a ping; 0: no limit", metavar="S"
    )
    ws_per_message_deflate: bool = _option(True, "websockets", "flag", "compress for clients that offer it")

    # Facts about the options, none of them an option.
    note: str = ""  # why an address is what it is, for the banner
    workers_note: str = ""  # why there are so many workers, for the banner
    origins: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)  # option: where it came from
    variables: Mapping[str, str] = field(default_factory=dict, repr=False)  # of env_file
    arguments: tuple[str, ...] | None = field(default=None, repr=False, compare=False)  # of the command line; else None
    addresses: tuple[Address, ...] = field(init=False)

    def __post_init__(self) -> None:
        set_ = object.__setattr__
        if isinstance(self.ssl_cert_reqs, int):  # uvicorn's: a number of the module ssl
            set_(self, "ssl_cert_reqs", str(int(self.ssl_cert_reqs)))
        if isinstance(self.ssl_version, int):
            set_(self, "ssl_version", int(self.ssl_version))
        for name, option in OPTIONS.items():
            value = getattr(self, name)
            if option.kind == "texts" and isinstance(value, Iterable):
                value = (value,) if isinstance(value, str) else tuple(value)
            if option.kind == "workers" and value == "auto":
                value, why = cpus.available()
                set_(self, "workers_note", f"auto: {why}")
                value = min(value, int(option.most or value))
            set_(self, name, _checked(name, option, value))
        _ = self.lens_mode
        if self.name is not None and not re.fullmatch(r"[^\s/]{1,100}", self.name):
            raise ConfigError(f"name must be a word of 100 characters at most, without '/', not {self.name!r}")
        if self.limit_request_line > self.limit_request_head:
            raise ConfigError("limit-request-line must not be above limit-request-head")
        if self.loop not in LOOPS and not REFERENCE.fullmatch(self.loop):
            raise ConfigError(f"loop must be one of {', '.join(LOOPS)}, or MODULE:FACTORY, not {self.loop!r}")
        _ = self.response_fields, self.folders
        if self.access_log_format is not None:
            try:
                parse_format(self.access_log_format)
            except ValueError as error:
                raise ConfigError(f"access-log-format: {error}") from None
        for path in self.access_log_exclude:
            if not path.startswith("/"):
                raise ConfigError(f"access-log-exclude must be a path that begins with '/', not {path!r}")
        for name in ("forwarded_allow_ips", "forwarded_fields"):  # several in one, as uvicorn and gunicorn have it
            texts = (text.strip() for texts in getattr(self, name) for text in texts.split(","))
            set_(self, name, tuple(text.lower() for text in texts if text))
        name = self.request_id_header.lower()
        set_(self, "request_id_header", name)
        if name and (not TOKEN.fullmatch(name) or "_" in name or name in FIELDS_OF_OURS or name in ("host", "proxy")):
            raise ConfigError(f"request-id-header must be the name of a field such as x-request-id, not {name!r}")
        if self.request_id and not name:
            raise ConfigError("request-id needs request-id-header: in which field?")
        _ = self.trust
        if self.env_file is not None and not self.variables:
            set_(self, "variables", envfile.read(self.env_file))
        if self.dev:
            set_(self, "reload", True)
        if self.reload and self.workers != 1:
            set_(self, "workers", 1)
            set_(self, "workers_note", "reload serves with one")
        if self.root_path and (not self.root_path.startswith("/") or self.root_path.endswith("/")):
            raise ConfigError(f"root-path begins with '/' and does not end with it, {self.root_path!r} does not fit")
        self._check_tls()
        for text in self.limit_exempt:
            if not re.fullmatch(r"/[\x21\x22\x24-\x3e\x40-\x7e]*", text):
                raise ConfigError(f"limit-exempt is a path as it is sent, without a query, not {text!r}")
        for text in self.admin:
            parse_bind(text, "admin")
        if self.admin and self.reload:
            raise ConfigError("admin and reload cannot be used together: the reloader has no supervisor to ask")
        if self.supervisor is False and (why := self._needs_supervisor):
            raise ConfigError(f"no-supervisor: one process cannot do what {why} asks for")
        set_(self, "addresses", self._addresses())

    def _check_tls(self) -> None:
        if not self.ssl_certfile:
            for name in ("ssl_keyfile", "ssl_ca_certs"):
                if getattr(self, name):
                    raise ConfigError(f"{name.replace('_', '-')} needs ssl-certfile")
        elif self.ssl_keyfile and len(self.ssl_keyfile) != len(self.ssl_certfile):
            raise ConfigError(
                f"ssl-keyfile is given {len(self.ssl_keyfile)} times, ssl-certfile {len(self.ssl_certfile)} times"
            )
        if self.ssl_cert_reqs not in ("none", "0") and self.ssl_ca_certs is None:
            raise ConfigError("ssl-cert-reqs needs ssl-ca-certs: whose client certificates are good?")
        if self.ssl_version not in (2, 5, 17):
            raise ConfigError(f"ssl-version must be 17, 2 or 5, not {self.ssl_version}; see ssl-protocol-min")
        if self.ssl_version == 5 and self.ssl_protocol_min != "tls1.2":
            raise ConfigError("ssl-version 5 is TLS 1.2, and ssl-protocol-min is above it")

    @property
    def tls(self) -> bool:
        """Is it https?"""
        return bool(self.ssl_certfile)

    def url_of(self, address: Address, *, local: bool = False) -> str:
        """Where that is; `local`: for a client on this machine."""
        url = address.local_url if local else address.url
        return "https" + url.removeprefix("http") if self.tls and url.startswith("http:") else url

    def _addresses(self) -> tuple[Address, ...]:
        found: list[Address] = []
        if self.host is not None or self.port is not None or not (self.bind or self.uds is not None):
            host = HOST if self.host is None else self.host
            if host.startswith("[") and host.endswith("]"):
                host = host[1:-1]
            if any(c in "[]/" or c.isspace() for c in host):
                raise ConfigError(f"host must be a name or an address, not {host!r}")
            found.append(TcpAddress(host, PORT if self.port is None else self.port))
        others = [text for text in self.bind if not text.startswith(FD)]
        if self.descriptors and (others or self.uds is not None):
            raise ConfigError("an inherited socket (fd) is served alone, without bind or uds")
        if not all(self.descriptors):
            raise ConfigError("bind: fd:// needs the number or the name of an inherited socket")
        found.extend(parse_bind(text) for text in others)
        if self.uds is not None:
            found.append(unix_address(self.uds))
        for index, address in enumerate(found):
            if address in found[:index] and not (isinstance(address, TcpAddress) and address.port == 0):
                raise ConfigError(f"{address} is given twice")
        return tuple(found)

    @property
    def descriptors(self) -> tuple[str, ...]:
        """Inherited sockets, by number or name: of fd, and of bind as fd://N."""
        return self.fd + tuple(text.removeprefix(FD) for text in self.bind if text.startswith(FD))

    @property
    def supervised(self) -> bool:
        """Does a supervisor stand above the worker? The command has one unless told otherwise; a program that serves its
        own application, and may have threads, forks only if it asks for what needs it."""
        if self._needs_supervisor:
            return True
        return self.arguments is not None if self.supervisor is None else self.supervisor

    @property
    def _needs_supervisor(self) -> str:
        """The option that one process cannot satisfy, as it is written; "" if there is none."""
        if self.workers > 1:
            return f"workers {self.workers}"
        names = ("preload", "admin", "user", "group", "limit_max_requests", "workers_lifetime", "workers_max_rss")
        return next((name.replace("_", "-") for name in names if getattr(self, name)), "")

    @classmethod
    def of(cls, app: Any, options: Mapping[str, Any], **defaults: Any) -> Config:
        """From keywords somebody wrote: an unknown one is a readable error. `defaults` give way to `options`."""
        for name in options:
            if name not in OPTIONS:
                close = difflib.get_close_matches(name, OPTIONS, 1)
                raise ConfigError(f"unknown option {name!r}" + (f"; did you mean {close[0]!r}?" if close else ""))
        given = {**defaults, **options}
        given |= {name: value for name, value, _ in implied(given)}
        return cls(app=app, **given)

    @staticmethod
    def check(name: str, value: Any) -> None:
        """Is it a value of this option? ConfigError, by the option's name, if not."""
        if not (value == "auto" and OPTIONS[name].kind == "workers"):
            _checked(name, OPTIONS[name], value)

    @classmethod
    def embedded(cls, app: Any, options: Mapping[str, Any]) -> Config:
        """For a server inside somebody else's program: one process, and quiet unless asked."""
        config = cls.of(app, options, access_log=False, lens="off")
        if config.admin:
            raise ConfigError("an embedded server has no supervisor, and thus no admin; fastserve.run(admin=...) has")
        if config.workers != 1:
            raise ConfigError("an embedded server is one process; fastserve.run(workers=N) starts several")
        return config

    @property
    def lens_mode(self) -> LensMode:
        """`lens`, as numbers."""
        try:
            return parse_mode(self.lens)
        except ValueError as error:
            raise ConfigError(f"lens: {error}") from None

    @property
    def called(self) -> str:
        """`name`, or what the application is called."""
        return self.name or (self.app if isinstance(self.app, str) else type(self.app).__name__)

    @property
    def response_fields(self) -> list[tuple[bytes, bytes]]:
        """`header`, split: names in lower case."""
        found = []
        for text in self.header:
            name, colon, value = text.partition(":")
            name = name.strip().lower()
            if not colon or not TOKEN.fullmatch(name):
                raise ConfigError(f"header must be NAME:VALUE, not {text!r}")
            if not FIELD_VALUE.fullmatch(value):
                raise ConfigError(f"header: the value of {name!r} has characters that no field may hold")
            if name in FIELDS_OF_OURS:
                hint = "; --no-date-header leaves it out" if name == "date" else ""
                raise ConfigError(f"header: {name!r} is the server's own to send{hint}")
            found.append((name.encode("ascii"), value.strip(" \t").encode("latin-1")))
        return found

    @property
    def trust(self) -> Trust | None:
        """Which peers are proxies, and what of theirs is believed; None: nobody, nothing."""
        if not (self.proxy_headers or self.proxy_protocol):
            return None
        fields = self.forwarded_fields if self.proxy_headers else ()
        try:
            Trust(self.forwarded_allow_ips)
        except ValueError as error:
            raise ConfigError(f"forwarded-allow-ips: {error}") from None
        try:
            return Trust(
                self.forwarded_allow_ips,
                fields,
                proxy_protocol=self.proxy_protocol,
                request_id=(self.request_id_header or None) if self.proxy_headers else None,
            )
        except ValueError as error:
            raise ConfigError(f"forwarded-fields: {error}") from None

    @property
    def folders(self) -> list[tuple[str, str]]:
        """`static`, split: the path, and the absolute path of the folder."""
        found: dict[str, str] = {}
        for text in self.static:
            path, equals, folder = text.partition("=")
            if not equals or not path.startswith("/") or not folder or any(c in path for c in "{}?#%\\\0"):
                raise ConfigError(f"static must be PATH=FOLDER, such as /static=./static, not {text!r}")
            path, folder = path.rstrip("/"), os.path.abspath(folder)
            if path in found:
                raise ConfigError(f"static: {path or '/'} is given twice")
            if not os.path.isdir(folder):
                raise ConfigError(f"static: {folder} is no folder")
            found[path] = folder
        return list(found.items())

    def limits(self) -> dict[str, Any]:
        """The numbers of the data plane, by the names of protocol.Limits."""
        return {
            "request_line_bytes_max": self.limit_request_line,
            "head_bytes_max": self.limit_request_head,
            "fields_max": self.limit_request_fields,
            "body_bytes_max": self.limit_request_body,
            "header_timeout": self.timeout_header,
            "body_timeout": self.timeout_body,
            "write_timeout": self.timeout_write,
            "request_timeout": self.timeout_request,
            "rate_min": self.min_rate,
            "rate_grace": self.min_rate_grace,
            "concurrency_max": self.limit_concurrency or 0,
            "connections_max": self.limit_connections or 0,
            "peer_connections_max": self.limit_connections_per_peer or 0,
            "buffers_max": self.limit_buffers,
            "shed_after": self.shed_after,
            "keep_alive_timeout": self.timeout_keep_alive,
            "linger_timeout": self.timeout_linger,
            "message_bytes_max": self.ws_max_size,
            "message_queue_max": self.ws_max_queue,
            "ping_interval": self.ws_ping_interval,
            "ping_timeout": self.ws_ping_timeout,
            "per_message_deflate": self.ws_per_message_deflate,
        }


OPTIONS: dict[str, Option] = {f.name: f.metadata["option"] for f in fields(Config) if "option" in f.metadata}


IMPLIED: tuple[tuple[str, str, Any], ...] = (
    ("dev", "reload", True),
    ("dev", "log_level", "debug"),
    ("dev", "lens", "full"),
    ("reload", "timeout_graceful_shutdown", 5.0),  # whoever has just saved a file waits for it
)
"""A switch, and what it means for an option that nobody has set."""


def implied(options: Mapping[str, Any]) -> list[tuple[str, Any, str]]:
    """What switches among these options add to them: name, value, and why."""
    found: dict[str, tuple[str, Any, str]] = {}
    for switch, name, value in IMPLIED:
        on = options.get(switch) is True or (switch in found and found[switch][1] is True)
        if on and name not in options:
            found[name] = (name, value, f"implied by --{switch.replace('_', '-')}")
    return list(found.values())


def _checked(name: str, option: Option, value: Any) -> Any:
    """The value in its right type, or a ConfigError that names the option as it is written on the command line."""
    label = name.replace("_", "-")
    if value is None and option.optional:
        return None
    match option.kind:
        case "flag":
            if not isinstance(value, bool):
                raise ConfigError(f"{label} must be true or false, not {value!r}")
        case "whole" | "mode" | "workers":
            if isinstance(value, bool) or not isinstance(value, int):
                raise ConfigError(f"{label} must be a whole number, not {value!r}")
        case "bytes":
            value = _of_text(label, option, value)
            if isinstance(value, bool) or not isinstance(value, int):
                raise ConfigError(f"{label} must be a number of bytes, not {value!r}")
        case "seconds":
            value = _of_text(label, option, value)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1e9:
                raise ConfigError(f"{label} must be seconds, 0 or more, not {value!r}")
            return float(value)
        case "text":
            if isinstance(value, os.PathLike):
                value = os.fspath(value)
            if not isinstance(value, str):
                raise ConfigError(f"{label} must be text, not {value!r}")
        case "texts":
            if not isinstance(value, tuple) or not all(isinstance(item, (str, os.PathLike)) for item in value):
                raise ConfigError(f"{label} must be text, or several texts, not {value!r}")
            value = tuple(os.fspath(item) for item in value)
        case "object":
            if value == "":
                raise ConfigError(f"{label} must not be empty")
    if option.choices and value not in option.choices:
        raise ConfigError(f"{label} must be one of {', '.join(option.choices)}, not {value!r}")
    if option.kind == "mode" and not 0 <= value <= 0o777:
        raise ConfigError(f"{label} must be an octal mode from 0 to 777, not {value:o}")
    if (option.least is not None and value < option.least) or (option.most is not None and value > option.most):
        span = f"{option.least} to {option.most}" if option.most is not None else f"{option.least} or more"
        raise ConfigError(f"{label} must be {span}, not {value}")
    return value


def _of_text(label: str, option: Option, value: Any) -> Any:
    """Text of a unit-bearing kind as its number; anything else as it is."""
    if not isinstance(value, str):
        return value
    try:
        return values.CONVERTERS[option.kind](value)
    except ValueError as error:
        raise ConfigError(f"{label}: {error}") from None
