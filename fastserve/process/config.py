"""Config: the only place where options are named, defaulted and checked; addresses as parsed values.

Room: floor 3. Called by: cli.py (flags and help are made from OPTIONS), run.py, server.py, whoever needs a number.
Calls: errors.py. Nothing below this floor ever sees a Config: the data plane is handed the numbers of `limits()`.
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

__all__ = ["OPTIONS", "Address", "Config", "Option", "TcpAddress", "UnixAddress", "environment", "parse_bind"]

HOST = "127.0.0.1"
PORT = 8000
UNIX_PATH_BYTES_MAX = 107 if sys.platform == "linux" else 103  # sun_path, less its closing NUL

Kind = Literal["text", "texts", "whole", "seconds", "flag", "mode"]


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


def parse_bind(text: str) -> Address:
    """HOST:PORT, [v6]:PORT, :PORT (every interface) or unix:PATH."""
    if text.startswith("unix:"):
        return unix_address(text[len("unix:") :].removeprefix("//"))
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.%\w]*)\]|([^:\[\]\s/]*)):([0-9]{1,5})", text)
    if match is None:
        raise ConfigError(f"bind must be HOST:PORT, [v6]:PORT or unix:PATH, not {text!r}")
    bracketed, plain, digits = match.groups()
    if bracketed is not None and ":" not in bracketed:
        raise ConfigError(f"bind: {bracketed!r} is no IPv6 address in {text!r}")
    port = int(digits)
    if port > 65535:
        raise ConfigError(f"bind: port must be 0 to 65535, not {port}")
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
        "HOST:PORT, [v6]:PORT, :PORT (all interfaces) or unix:PATH; may be repeated",
        "-b",
        metavar="ADDRESS",
    )
    uds: str | None = _option(None, "address", "text", "path of a Unix socket", metavar="PATH")
    uds_permissions: int = _option(
        0o600, "address", "mode", "mode of Unix sockets, octal (default 600)", metavar="MODE", least=0, most=0o777
    )
    backlog: int = _option(2048, "address", "whole", "connections that may wait for accept", metavar="N", least=1)

    factory: bool = _option(False, "application", "flag", "MODULE:APP is a function that makes the application")
    app_dir: str = _option(".", "application", "text", "folder that modules are looked for in first", metavar="DIR")
    interface: str = _option(
        "auto", "application", "text", "how the application is called", choices=("auto", "native", "asgi", "wsgi")
    )

    workers: int = _option(1, "processes", "whole", "number of worker processes", "-w", metavar="N", least=1, most=1024)
    threads: int = _option(
        40, "processes", "whole", "threads for handlers that are plain functions", metavar="N", least=1, most=4096
    )
    loop: str = _option("uvloop", "processes", "text", "event loop", choices=("uvloop", "asyncio"))

    log_level: str = _option(
        "info",
        "output",
        "text",
        "least that is told on stderr",
        choices=("critical", "error", "warning", "info", "debug"),
    )
    access_log: bool = _option(True, "output", "flag", "one line per request on stdout")
    server_header: bool = _option(True, "output", "flag", "send the Server field")

    timeout_header: float = _option(
        15.0, "timeouts", "seconds", "for a whole request head, also for a client that says nothing", metavar="S"
    )
    timeout_body: float = _option(
        30.0, "timeouts", "seconds", "without a byte of a body that the handler waits for", metavar="S"
    )
    timeout_write: float = _option(
        30.0, "timeouts", "seconds", "without the client taking a byte of its answer", metavar="S"
    )
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

    limit_request_line: int = _option(8192, "limits", "whole", "bytes of a request line", metavar="BYTES", least=64)
    limit_request_head: int = _option(
        65536, "limits", "whole", "bytes of a request head", metavar="BYTES", least=128, most=2**30
    )
    limit_request_fields: int = _option(
        100, "limits", "whole", "fields of a request head", metavar="N", least=1, most=65535
    )
    limit_request_body: int | None = _option(
        None, "limits", "whole", "bytes of a request body (default: no limit)", metavar="BYTES", least=0, most=2**63 - 1
    )
    half_close: bool = _option(False, "limits", "flag", "a client that has ended its side still gets its answer")

    note: str = ""  # why an address is what it is, for the banner
    addresses: tuple[Address, ...] = field(init=False)

    def __post_init__(self) -> None:
        set_ = object.__setattr__
        if isinstance(self.bind, str):
            set_(self, "bind", (self.bind,))
        elif isinstance(self.bind, Iterable):
            set_(self, "bind", tuple(self.bind))
        for name, option in OPTIONS.items():
            set_(self, name, _checked(name, option, getattr(self, name)))
        if self.limit_request_line > self.limit_request_head:
            raise ConfigError("limit-request-line must not be above limit-request-head")
        set_(self, "addresses", self._addresses())

    def _addresses(self) -> tuple[Address, ...]:
        found: list[Address] = []
        if self.host is not None or self.port is not None or not (self.bind or self.uds is not None):
            host = HOST if self.host is None else self.host
            if host.startswith("[") and host.endswith("]"):
                host = host[1:-1]
            if any(c in "[]/" or c.isspace() for c in host):
                raise ConfigError(f"host must be a name or an address, not {host!r}")
            found.append(TcpAddress(host, PORT if self.port is None else self.port))
        found.extend(parse_bind(text) for text in self.bind)
        if self.uds is not None:
            found.append(unix_address(self.uds))
        for index, address in enumerate(found):
            if address in found[:index] and not (isinstance(address, TcpAddress) and address.port == 0):
                raise ConfigError(f"{address} is given twice")
        return tuple(found)

    @classmethod
    def of(cls, app: Any, options: Mapping[str, Any], **defaults: Any) -> Config:
        """From keywords somebody wrote: an unknown one is a readable error. `defaults` give way to `options`."""
        for name in options:
            if name not in OPTIONS:
                close = difflib.get_close_matches(name, OPTIONS, 1)
                raise ConfigError(f"unknown option {name!r}" + (f"; did you mean {close[0]!r}?" if close else ""))
        return cls(app=app, **{**defaults, **options})

    @classmethod
    def embedded(cls, app: Any, options: Mapping[str, Any]) -> Config:
        """For a server inside somebody else's program: one process, and quiet unless asked."""
        config = cls.of(app, options, access_log=False)
        if config.workers != 1:
            raise ConfigError("an embedded server is one process; fastserve.run(workers=N) starts several")
        return config

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
            "keep_alive_timeout": self.timeout_keep_alive,
            "linger_timeout": self.timeout_linger,
        }


OPTIONS: dict[str, Option] = {f.name: f.metadata["option"] for f in fields(Config) if "option" in f.metadata}


def _checked(name: str, option: Option, value: Any) -> Any:
    """The value in its right type, or a ConfigError that names the option as it is written on the command line."""
    label = name.replace("_", "-")
    if value is None and option.optional:
        return None
    match option.kind:
        case "flag":
            if not isinstance(value, bool):
                raise ConfigError(f"{label} must be true or false, not {value!r}")
        case "whole" | "mode":
            if isinstance(value, bool) or not isinstance(value, int):
                raise ConfigError(f"{label} must be a whole number, not {value!r}")
        case "seconds":
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1e9:
                raise ConfigError(f"{label} must be seconds, 0 or more, not {value!r}")
            return float(value)
        case "text":
            if isinstance(value, os.PathLike):
                value = os.fspath(value)
            if not isinstance(value, str):
                raise ConfigError(f"{label} must be text, not {value!r}")
        case "texts":
            if not isinstance(value, tuple) or not all(isinstance(item, str) for item in value):
                raise ConfigError(f"{label} must be text, or several texts, not {value!r}")
    if option.choices and value not in option.choices:
        raise ConfigError(f"{label} must be one of {', '.join(option.choices)}, not {value!r}")
    if option.kind == "mode" and not 0 <= value <= 0o777:
        raise ConfigError(f"{label} must be an octal mode from 0 to 777, not {value:o}")
    if (option.least is not None and value < option.least) or (option.most is not None and value > option.most):
        span = f"{option.least} to {option.most}" if option.most is not None else f"{option.least} or more"
        raise ConfigError(f"{label} must be {span}, not {value}")
    return value


# --------------------------------------------------------------------------------------------------- environment


def environment(options: Mapping[str, Any], environ: Mapping[str, str]) -> dict[str, Any]:
    """Options the environment adds to those that were given: WEB_CONCURRENCY and PORT, as platforms set them.

    PORT alone means every IPv4 interface, for it is set where the traffic comes from outside (as gunicorn does).
    """
    added: dict[str, Any] = {}
    count = environ.get("WEB_CONCURRENCY", "").strip()
    if count and "workers" not in options:
        added["workers"] = _number("WEB_CONCURRENCY", count, 1, 1024)
    port = environ.get("PORT", "").strip()
    if port and not ({"port", "bind", "uds"} & options.keys()):
        added["port"] = _number("PORT", port, 0, 65535)
        added["note"] = "PORT is set"
        if "host" not in options:
            added["host"] = "0.0.0.0"
    return added


def _number(name: str, text: str, least: int, most: int) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", text) or not least <= int(text) <= most:
        raise ConfigError(f"the environment variable {name} must be {least} to {most}, not {text!r}")
    return int(text)
