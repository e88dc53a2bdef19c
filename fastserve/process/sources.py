"""sources: one Config from everywhere options may stand, and for each value where it came from.

Room: floor 3. Called by: cli.py (gather), supervisor.py on HUP (reread), reload.py. Calls: arguments.py, config.py,
envfile.py, errors.py.

The first that names an option decides:

 1. flags
 2. FASTSERVE_NAME in the environment; then WEB_CONCURRENCY and PORT, which platforms set
 3. the same names in the file of --env-file
 4. a TOML file: --config FILE, else ./fastserve.toml, else [tool.fastserve] of ./pyproject.toml
 5. what --dev and --reload imply
 6. the defaults of Config

host, port, bind and uds are decided together: a source that names an address is not mixed with the addresses of those
behind it, save that a host and a port complete each other.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastserve.errors import ConfigError
from fastserve.process import arguments, envfile
from fastserve.process.config import OPTIONS, Config, implied
from fastserve.process.values import CONVERTERS

__all__ = ["Found", "gather", "print_config", "reread"]

FILE_BYTES_MAX = 1 << 20
PREFIX = "FASTSERVE_"
SWITCHES = frozenset({"FASTSERVE_CONFIG", "FASTSERVE_SIMD", "FASTSERVE_WIRE"})  # FASTSERVE_ but no option
PLACES = ("bind", "uds", "fd")  # that name an address by themselves; host and port do so together


@dataclass
class Layer:
    """What one source says."""

    options: dict[str, Any] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, value: Any, origin: str) -> None:
        self.options[name] = value
        self.origins[name] = origin


@dataclass(frozen=True)
class Found:
    """A command line, understood: the Config, what was asked to be done with it, and what looks like a slip."""

    config: Config
    check: bool
    print: bool
    notes: tuple[str, ...]


def gather(argv: Sequence[str], environ: Mapping[str, str]) -> Found:
    """Read every source. ConfigError, in one line that says where the mistake stands.

    argv: the arguments without the command's own name. environ: the real environment, without an env file's variables.
    """
    flags = arguments.parse(argv)
    asked = {name: flags.pop(name, False) for name in ("check_config", "print_config")}
    file = flags.pop("config", None) or environ.get("FASTSERVE_CONFIG") or None
    layers = [
        Layer(flags, {name: _flag_origin(name) for name in flags}),
        _environment(environ, ""),
    ]
    toml = _toml(file)
    env_file = next((layer.options["env_file"] for layer in [*layers, toml] if "env_file" in layer.options), None)
    variables: dict[str, str] = {}
    if env_file is not None:
        variables = {name: value for name, value in envfile.read(env_file).items() if name not in environ}
        layers.append(_environment(variables, f"{env_file}: "))
    layers.append(toml)
    _settle_addresses(layers)
    merged = Layer()
    for layer in layers:
        for name, value in layer.options.items():
            if name not in merged.options:
                merged.add(name, value, layer.origins[name])
    for name, value, why in implied(merged.options):
        merged.add(name, value, why)
    options, origins = merged.options, merged.origins
    app = options.pop("app", None)
    if app is None:
        raise ConfigError("an application is missing: fastserve MODULE:APP (see fastserve --help)")
    note = options.pop("note", "")
    config = Config(app=app, **options, note=note, origins=origins, variables=variables, arguments=tuple(argv))
    return Found(config, asked["check_config"], asked["print_config"], tuple(_slips({**variables, **environ})))


def reread(argv: Sequence[str], environ: Mapping[str, str] | None = None) -> Config:
    """The Config of the same command line with the files as they are now: for HUP.

    argv: `config.arguments`. environ: the real environment; by default that of this process, without what an env file
    has added. ConfigError if something is wrong now; then the old Config goes on.
    """
    return gather(argv, envfile.real_environment() if environ is None else environ).config


def print_config(config: Config) -> str:
    """Every option as TOML would have it, each with where its value came from."""
    lines = [_shown("app", config.app, config.origins.get("app", "argument"))]
    group = ""
    for name, option in OPTIONS.items():
        if option.group != group:
            group = option.group
            lines += ["", f"# {group}"]
            if group == "address":
                lines.append(f"# listens on {' '.join(map(str, config.addresses))}")
        origin = config.origins.get(name, "default")
        if option.kind == "workers" and config.workers_note:
            origin += f" ({config.workers_note})"
        lines.append(_shown(name, getattr(config, name), origin))
    return "\n".join(lines) + "\n"


def _shown(name: str, value: Any, origin: str) -> str:
    key = name.replace("_", "-")
    if value is None:
        return f"{f'# {key} is not set':<44}  # {origin}"
    return f"{f'{key} = {_toml_value(name, value)}':<44}  # {origin}"


def _toml_value(name: str, value: Any) -> str:
    option = OPTIONS.get(name)
    if option is not None and option.secret:
        return '"***"'
    if isinstance(value, bool):
        return "true" if value else "false"
    if option is not None and option.kind == "mode":
        return f'"{value:o}"'
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, tuple):
        return "[" + ", ".join(_toml_text(str(item)) for item in value) + "]"
    return str(value) if isinstance(value, int) else _toml_text(str(value))


def _toml_text(text: str) -> str:
    """A basic string of TOML."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + re.sub(r"[\x00-\x1f\x7f]", lambda match: f"\\u{ord(match[0]):04x}", escaped) + '"'


# --------------------------------------------------------------------------------------------------- environment


def _environment(environ: Mapping[str, str], where: str) -> Layer:
    """FASTSERVE_NAME, then WEB_CONCURRENCY and PORT. Empty is not set: compose files pass variables on like that."""
    layer = Layer()
    for name in ("app", *OPTIONS):
        variable = PREFIX + name.upper()
        text = environ.get(variable, "")
        # Kubernetes sets FASTSERVE_PORT=tcp://... for a service that is called fastserve; that is not for us.
        if not text.strip() or (name == "port" and re.match(r"(?:tcp|udp|sctp)://", text)):
            continue
        layer.add(name, _of_variable(name, variable, text), where + variable)
    count = environ.get("WEB_CONCURRENCY", "").strip()
    if count and "workers" not in layer.options:
        value = count if count == "auto" else _number("WEB_CONCURRENCY", count, 1, 1024)
        layer.add("workers", value, where + "WEB_CONCURRENCY")
    port = environ.get("PORT", "").strip()
    if port:
        # PORT alone means every IPv4 interface, for it is set where the traffic comes from outside (as in gunicorn).
        layer.options["platform_port"] = _number("PORT", port, 0, 65535)
        layer.origins["platform_port"] = where + "PORT"
    return layer


def _of_variable(name: str, variable: str, text: str) -> Any:
    option = OPTIONS.get(name)
    if option is None:
        return text
    try:
        if option.kind == "texts":
            pieces = re.split(r"[\n]" if option.separator == "\n" else rf"[{re.escape(option.separator)}\s]", text)
            return tuple(piece.strip() for piece in pieces if piece.strip())
        value = CONVERTERS[option.kind](text if option.kind in ("text", "object") else text.strip())
    except ValueError as error:
        raise ConfigError(f"the environment variable {variable}: {error}") from None
    if option.choices and value not in option.choices:
        raise ConfigError(
            f"the environment variable {variable} must be one of {', '.join(option.choices)}, not {value!r}"
        )
    return value


def _number(name: str, text: str, least: int, most: int) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", text) or not least <= int(text) <= most:
        raise ConfigError(f"the environment variable {name} must be {least} to {most}, not {text!r}")
    return int(text)


def _slips(environ: Mapping[str, str]) -> Iterator[str]:
    """Variables that look like a misspelt option. Others that begin like ours may be anybody's."""
    known = {PREFIX + name.upper() for name in ("app", *OPTIONS)} | SWITCHES
    for variable in environ:
        if variable.startswith(PREFIX) and variable not in known:
            close = difflib.get_close_matches(variable, known, 1, 0.85)
            if close:
                yield f"the environment variable {variable} is no option; did you mean {close[0]}?"


# ----------------------------------------------------------------------------------------------------------- TOML


def _toml(file: str | None) -> Layer:
    """Options of the file that was named, or of the first that is there."""
    if file is not None:
        return _toml_layer(Path(file), file, wanted=True)
    if Path("fastserve.toml").is_file():
        return _toml_layer(Path("fastserve.toml"), "fastserve.toml", wanted=True)
    if Path("pyproject.toml").is_file():
        return _toml_layer(Path("pyproject.toml"), "pyproject.toml", wanted=False)
    return Layer()


def _toml_layer(path: Path, name: str, *, wanted: bool) -> Layer:
    """`wanted`: the file is for us. A pyproject.toml may be anybody's, also if it is broken."""
    try:
        with path.open("rb") as file:
            data = file.read(FILE_BYTES_MAX + 1)
        if len(data) > FILE_BYTES_MAX:
            raise ConfigError(f"{name}: more than {FILE_BYTES_MAX} bytes")
        text = data.decode("utf-8")
        table: Any = tomllib.loads(text)
    except OSError as error:
        raise ConfigError(f"cannot read {name}: {error.strerror or error}") from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        if not wanted and b"tool.fastserve" not in data:
            return Layer()
        raise ConfigError(f"{name} is not TOML: {error}") from None
    header = ""
    if path.name == "pyproject.toml":
        header = "tool.fastserve"
        tools = table.get("tool")
        table = tools.get("fastserve", {}) if isinstance(tools, dict) else {}
        if not isinstance(table, dict):
            raise ConfigError(f"{name}: [tool.fastserve] must be a table")
    lines = _lines_of_keys(text, header)
    layer = Layer()
    for key, value in table.items():
        where = f"{name}:{lines[key]}" if key in lines else name
        option = key.replace("-", "_")
        if option not in OPTIONS and option != "app":
            if option == "tool" and not header:
                raise ConfigError(f"{where}: [tool.fastserve] is for pyproject.toml; here options stand at the top")
            close = difflib.get_close_matches(option, ["app", *OPTIONS], 1)
            hint = f"; did you mean {close[0].replace('_', '-')!r}?" if close else ""
            raise ConfigError(f"{where}: unknown option {key!r}{hint}")
        if option in layer.options:
            raise ConfigError(f"{where}: {key!r} stands there twice, once with dashes and once with underscores")
        layer.add(option, _of_toml(option, key, value, where), where)
    return layer


def _of_toml(name: str, key: str, value: Any, where: str) -> Any:
    """The value of a key, its own kind of mistakes said; Config checks what is left."""
    option = OPTIONS.get(name)
    kind = option.kind if option is not None else "text"
    right: tuple[type, ...]
    words: str
    match kind:
        case "flag":
            right, words = (bool,), "true or false"
        case "whole":
            right, words = (int,), "a whole number"
        case "workers":
            right, words = (int, str), 'a whole number or "auto"'
        case "seconds":
            right, words = (int, float, str), 'seconds, or text such as "30s"'
        case "bytes":
            right, words = (int, str), 'bytes, or text such as "64k"'
        case "mode":  # as a number 660 would be something else than it looks
            right, words = (str,), 'octal text such as "660"'
        case "texts":
            right, words = (str, list), "text, or a list of texts"
        case _:
            right, words = (str,), "text"
    if not isinstance(value, right) or (isinstance(value, bool) and kind != "flag"):
        raise ConfigError(f"{where}: {key} must be {words}, not {value!r}")
    try:
        if kind in ("mode", "workers") and isinstance(value, str):
            value = CONVERTERS[kind](value)
        elif kind == "texts":
            value = (value,) if isinstance(value, str) else tuple(value)  # type: ignore[arg-type]
        if name in OPTIONS:
            Config.check(name, value)
    except (ValueError, ConfigError) as error:
        text = str(error) if isinstance(error, ConfigError) else f"{key}: {error}"
        raise ConfigError(f"{where}: {text}") from None
    return value


def _lines_of_keys(text: str, header: str) -> dict[str, int]:
    """In which line a key of a table stands, as far as plain lines tell."""
    found: dict[str, int] = {}
    table = ""
    for number, line in enumerate(text.splitlines(), 1):
        if match := re.match(r"\s*\[([^\[\]]+)\]\s*(?:#.*)?$", line):
            table = match[1].strip()
        elif table == header and (match := re.match(r"\s*[\"']?([\w-]+)[\"']?\s*=", line)):
            found.setdefault(match[1], number)
    return found


# ------------------------------------------------------------------------------------------------------ together


def _flag_origin(name: str) -> str:
    return "argument" if name == "app" else "--" + name.replace("_", "-")


def _settle_addresses(layers: Sequence[Layer]) -> None:
    """Decide which source speaks for the addresses; see the top of this file."""
    hosted = any("host" in layer.options for layer in layers)
    spoken: set[str] = set()
    for layer in layers:
        options = layer.options
        port, origin = options.pop("platform_port", None), layer.origins.pop("platform_port", "")
        if port is not None and not {"port", *PLACES} & (spoken | options.keys()):
            layer.add("port", port, origin)
            layer.add("note", "PORT is set", origin)
            if not hosted:
                layer.add("host", "0.0.0.0", origin)
        if spoken:
            for name in PLACES if {"host", "port"} & spoken else ("host", "port", *PLACES):
                options.pop(name, None)
        spoken |= {"host", "port", *PLACES} & options.keys()
