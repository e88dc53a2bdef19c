"""Routes: what a path and a handler's signature mean, worked out once, when they are registered.

Room: floor 2, plain Python; nothing here runs while a request is served. Called by: app.py, users;
interfaces/native.pyx reads `Router.routes` and compiles them. Calls: protocol/ (types), errors.py, params.py.
Rules: path syntax and converters are Starlette's; RFC 3986 section 2.2 ("%2F" is data, not a separator): a path is
split at its slashes first and decoded afterwards, so a parameter may hold a slash, and an escaped one separates nothing.
"""

from __future__ import annotations

import copy
import enum
import functools
import inspect
import re
import sys
import types
import typing
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final, Literal, NamedTuple, TypeVar, Union
from urllib.parse import quote

from fastserve.errors import ConfigError
from fastserve.params import marker_of
from fastserve.protocol.request import Request, json_decode
from fastserve.protocol.websocket import WebSocket

try:
    import msgspec
except ImportError:  # pragma: no cover - depends on what is installed
    msgspec = None  # type: ignore[assignment]

__all__ = ["Argument", "Converter", "Route", "Router"]

Handler = TypeVar("Handler", bound=Callable[..., Any])

MISSING: Final = inspect.Parameter.empty

JSON_MISFITS: Final[tuple[type[BaseException], ...]] = (msgspec.ValidationError,) if msgspec is not None else ()
"""What a decoder of Json[T] raises for well-formed JSON that is not a T: 422. Other ValueErrors are 400."""


# ------------------------------------------------------------------------------------------------- converters


class Converter(NamedTuple):
    """What stands behind the colon in `{id:int}`. `convert` raises ValueError for text `pattern` does not match."""

    name: str
    pattern: str  # of the text, for segments that hold more than the parameter
    type: type
    convert: Callable[[str], Any]
    text: Callable[[Any], str]  # the way back, for url_path_for; ValueError for a value that would not match


def _matching(pattern: str, convert: Callable[[str], Any]) -> Callable[[str], Any]:
    match = re.compile(pattern, re.ASCII).fullmatch

    def checked(text: str) -> Any:
        if match(text) is None:
            raise ValueError(text)
        return convert(text)

    return checked


def _str_text(value: Any) -> str:
    text = str(value)
    if not text:
        raise ValueError("must not be empty")
    return quote(text, safe="")


def _int_text(value: Any) -> str:
    if int(value) < 0:
        raise ValueError("must not be negative")
    return str(int(value))


def _float_text(value: Any) -> str:
    value = float(value)
    if not 0 <= value < float("inf"):
        raise ValueError("must be a finite number, not negative")
    # as Starlette: twenty decimals, without the zeros
    return f"{value:0.20f}".rstrip("0").rstrip(".")


def _path_text(value: Any) -> str:
    return quote(str(value), safe="/")


_UUID = "[0-9a-fA-F]{8}-?[0-9a-fA-F]{4}-?[0-9a-fA-F]{4}-?[0-9a-fA-F]{4}-?[0-9a-fA-F]{12}"
_FLOAT = r"[0-9]+(?:\.[0-9]+)?"

CONVERTERS: Final = {
    converter.name: converter
    for converter in (
        Converter("str", "[^/]+", str, str, _str_text),
        Converter("int", "[0-9]+", int, _matching("[0-9]+", int), _int_text),
        Converter("float", _FLOAT, float, _matching(_FLOAT, float), _float_text),
        Converter("uuid", _UUID, uuid.UUID, _matching(_UUID, uuid.UUID), lambda value: str(uuid.UUID(str(value)))),
        Converter("path", ".*", str, str, _path_text),
    )
}
"""By name. Starlette's five, with its patterns."""


# ------------------------------------------------------------------------------------------------------ paths


class Segment(NamedTuple):
    """What stands between two slashes of a route's path.

    `kind` "literal": the bytes `text`. "parameter": one parameter, the whole segment. "pattern": parameters and text
    mixed, as in `{name}.{suffix}`. "path": the last one, everything that is left.
    """

    kind: Literal["literal", "parameter", "pattern", "path"]
    text: bytes = b""
    parameters: tuple[tuple[str, Converter], ...] = ()
    pattern: re.Pattern[str] | None = None

    @property
    def shape(self) -> tuple[object, ...]:
        """Equal for segments that match the same texts, whatever their parameters are called."""
        return (
            self.kind,
            self.text,
            self.pattern.pattern if self.pattern else None,
            *(converter.name for _, converter in self.parameters),
        )


_PARAMETER = re.compile(r"\{([a-zA-Z_][a-zA-Z0-9_]*)(?::([^{}]*))?\}")


def parse_path(path: str) -> tuple[Segment, ...]:
    """The segments of a route's path. ConfigError if it cannot be understood."""
    if not path.startswith("/"):
        raise ConfigError(f"a path begins with '/', {path!r} does not", exit_code=3)
    if "?" in path or "#" in path:
        raise ConfigError(f"path {path!r} holds '?' or '#': a route is matched without its query", exit_code=3)
    segments = []
    seen: set[str] = set()
    texts = path[1:].split("/")
    for index, text in enumerate(texts):
        parameters = []
        pattern = ""
        end = 0
        for match in _PARAMETER.finditer(text):
            name, kind = match.group(1), match.group(2)
            converter = CONVERTERS.get("str" if kind is None else kind)
            if converter is None:
                known = ", ".join(CONVERTERS)
                raise ConfigError(f"path {path!r}: unknown converter {kind!r}; there are {known}", exit_code=3)
            if name in seen:
                raise ConfigError(f"path {path!r}: parameter {name!r} stands there twice", exit_code=3)
            seen.add(name)
            parameters.append((name, converter))
            pattern += f"{re.escape(text[end : match.start()])}({converter.pattern})"
            end = match.end()
        if re.search("[{}]", _PARAMETER.sub("", text)):
            raise ConfigError(
                f"path {path!r}: a parameter is written {{name}} or {{name:converter}}, {text!r} is not", exit_code=3
            )
        if not parameters:
            segments.append(Segment("literal", text.encode()))
        elif any(converter.name == "path" for _, converter in parameters):
            if index + 1 != len(texts) or _PARAMETER.fullmatch(text) is None:
                raise ConfigError(
                    f"path {path!r}: a parameter with the converter path is the whole end of it", exit_code=3
                )
            segments.append(Segment("path", b"", tuple(parameters)))
        elif _PARAMETER.fullmatch(text) is not None:
            segments.append(Segment("parameter", b"", tuple(parameters)))
        else:
            pattern += re.escape(text[end:])
            segments.append(Segment("pattern", b"", tuple(parameters), re.compile(pattern, re.ASCII | re.DOTALL)))
    return tuple(segments)


# ------------------------------------------------------------------------------------------------- signatures


class Argument(NamedTuple):
    """How one argument of a handler is got.

    `source`: request, websocket, path, query, header, state, body (bytes) or json.
    """

    name: str
    source: str
    key: str  # name of the path parameter, query value, header or attribute
    convert: Callable[[Any], Any] | None = None  # from str (json: from bytes); ValueError if it cannot be
    many: bool = False  # all values as a list
    default: Any = MISSING
    keyword: bool = False  # passed by name


_BOOLEANS: Final = {
    "true": True,
    "1": True,
    "yes": True,
    "on": True,
    "false": False,
    "0": False,
    "no": False,
    "off": False,
}


def _bool(text: str) -> bool:
    try:
        return _BOOLEANS[text.lower()]
    except KeyError:
        raise ValueError(text) from None


_SCALARS: Final[dict[Any, Callable[[str], Any] | None]] = {
    str: None,
    Any: None,
    object: None,
    bytes: str.encode,
    # int() and float() alone would take " 1", "1_000", "infinity" and the digits of every script
    int: _matching("[+-]?[0-9]+", int),
    float: _matching(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?", float),
    bool: _bool,
    uuid.UUID: CONVERTERS["uuid"].convert,
}


def _plain(annotation: Any) -> Any:
    """Without NewType, `type X = ...`, and our own marker."""
    while True:
        if hasattr(annotation, "__supertype__"):
            annotation = annotation.__supertype__
        elif type(annotation).__name__ == "TypeAliasType":
            annotation = annotation.__value__
        elif marker_of(annotation) is not None:
            rest = tuple(extra for extra in annotation.__metadata__ if extra is not marker_of(annotation))
            origin = annotation.__origin__
            annotation = typing.Annotated[(origin, *rest)] if rest else origin
        else:
            return annotation


def _choice(table: dict[str, Any]) -> Callable[[str], Any]:
    def pick(text: str) -> Any:
        try:
            return table[text]
        except KeyError:
            raise ValueError(f"not one of {', '.join(table)}") from None

    return pick


def _union(converts: Sequence[Callable[[str], Any] | None]) -> Callable[[str], Any] | None:
    if len(converts) == 1:
        return converts[0]

    def first(text: str) -> Any:
        for convert in converts:
            if convert is None:
                return text
            try:
                return convert(text)
            except ValueError:
                pass
        raise ValueError(text)

    return first


def scalar_converter(annotation: Any) -> Callable[[str], Any] | None:
    """From the text of a path parameter, query value or header to an annotated type; None: the text itself.

    str, bytes (UTF-8), int, float, bool, UUID, Enum (by value), Literal, Optional and unions of these; with msgspec
    installed whatever msgspec.convert makes of a str. TypeError for anything else.
    """
    annotation = _plain(annotation)
    if annotation is MISSING or isinstance(annotation, TypeVar):
        return None
    if typing.get_origin(annotation) in (Union, types.UnionType):
        return _union([scalar_converter(a) for a in typing.get_args(annotation) if a is not type(None)])
    if typing.get_origin(annotation) is Literal:
        return _choice({str(value): value for value in typing.get_args(annotation)})
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return _choice({str(member.value): member for member in annotation})
    try:
        if annotation in _SCALARS:
            return _SCALARS[annotation]
    except TypeError:  # unhashable: certainly none of them
        pass
    if msgspec is not None:
        _check_decodable(annotation)
        return functools.partial(msgspec.convert, type=annotation, strict=False)
    raise TypeError(f"no conversion from text to {_type_name(annotation)} (msgspec, if installed, knows more)")


def _many(annotation: Any) -> Any:
    """The element type of list[T], or MISSING if it is not a list."""
    annotation = _plain(annotation)
    if typing.get_origin(annotation) in (Union, types.UnionType):
        inner = [a for a in typing.get_args(annotation) if a is not type(None)]
        return _many(inner[0]) if len(inner) == 1 else MISSING
    if annotation is list:
        return str
    if typing.get_origin(annotation) is list:
        return typing.get_args(annotation)[0]
    return MISSING


def _json_converter(annotation: Any) -> Callable[[bytes], Any]:
    annotation = _plain(annotation)
    if msgspec is None or annotation is MISSING or isinstance(annotation, TypeVar):
        return json_decode
    _check_decodable(annotation)
    return typing.cast("Callable[[bytes], Any]", msgspec.json.Decoder(annotation).decode)


def _check_decodable(annotation: Any) -> None:
    """TypeError for a type that msgspec does not know, at any depth: it would refuse every value, but too late."""
    waiting: list[Any] = [msgspec.inspect.type_info(annotation)]
    seen: set[int] = set()
    while waiting:
        info = waiting.pop()
        if id(info) in seen or not isinstance(info, (msgspec.inspect.Type, msgspec.inspect.Field, tuple)):
            continue
        seen.add(id(info))
        if isinstance(info, msgspec.inspect.CustomType):
            raise TypeError(f"msgspec cannot make a {_type_name(info.cls)}")
        waiting += info if isinstance(info, tuple) else [getattr(info, name) for name in info.__struct_fields__]


def _type_name(annotation: Any) -> str:
    return annotation.__name__ if isinstance(annotation, type) else str(annotation)


def _function_of(handler: Callable[..., Any]) -> Any:
    """The function whose annotations count: inside partial objects, bound methods and instances with __call__."""
    while True:
        if isinstance(handler, functools.partial):
            handler = handler.func
        elif inspect.ismethod(handler):
            handler = handler.__func__
        elif not inspect.isroutine(handler) and not inspect.isclass(handler):
            return type(handler).__call__
        else:
            return handler


def _annotations_of(handler: Callable[..., Any]) -> dict[str, Any]:
    """The resolved annotations of the parameters; strings (PEP 563) are evaluated. The return type is left alone: it
    need not be resolvable while the program runs."""
    function = inspect.unwrap(_function_of(handler))
    if sys.version_info >= (3, 14):
        import annotationlib

        try:
            raw = annotationlib.get_annotations(function, format=annotationlib.Format.FORWARDREF)
        except TypeError:
            raw = {}
    else:
        raw = dict(getattr(function, "__annotations__", None) or {})
    raw.pop("return", None)

    def holder() -> None: ...

    holder.__annotations__ = raw
    return typing.get_type_hints(holder, globalns=getattr(function, "__globals__", {}), include_extras=True)


def describe(handler: Callable[..., Any]) -> str:
    """`module.name (file:line)`: what a log line or an error calls a handler."""
    function = inspect.unwrap(_function_of(handler))
    name = getattr(function, "__qualname__", None) or repr(handler)
    module = getattr(function, "__module__", None)
    code = getattr(function, "__code__", None)
    where = f" ({code.co_filename}:{code.co_firstlineno})" if code is not None else ""
    return f"{module}.{name}{where}" if module else f"{name}{where}"


def _argument(parameter: inspect.Parameter, annotation: Any, in_path: dict[str, Converter]) -> Argument:
    name = parameter.name
    keyword = parameter.kind is inspect.Parameter.KEYWORD_ONLY
    if parameter.kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD):
        raise TypeError(
            f"parameter '{parameter}' does not say what it wants; a decorator that wraps a handler uses functools.wraps"
        )
    if isinstance(annotation, type) and issubclass(annotation, Request):
        return Argument(name, "request", name, keyword=keyword)
    if isinstance(annotation, type) and issubclass(annotation, WebSocket):
        return Argument(name, "websocket", name, keyword=keyword)

    marker = marker_of(annotation)
    if marker is None and typing.get_origin(annotation) in (Union, types.UnionType):
        # `Query[int] | None = None`
        for inner in typing.get_args(annotation):
            marker = marker or marker_of(inner)
            annotation = inner if marker_of(inner) is not None else annotation
    if marker is not None:
        default = parameter.default
        if marker.source == "state":
            return Argument(name, "state", name, default=default, keyword=keyword)
        if marker.source == "json":
            return Argument(name, "json", name, _json_converter(annotation), keyword=keyword)
        key = name.replace("_", "-").strip("-") if marker.source == "header" else name
        element = _many(annotation)
        if element is not MISSING:
            return Argument(name, marker.source, key, scalar_converter(element), True, default, keyword)
        return Argument(name, marker.source, key, scalar_converter(annotation), False, default, keyword)

    if name in in_path:
        converter = in_path[name]
        if converter.type is str:
            return Argument(name, "path", name, scalar_converter(annotation), keyword=keyword)
        plain = _plain(annotation)
        accepts = typing.get_args(plain) if typing.get_origin(plain) in (Union, types.UnionType) else (plain,)
        if not {converter.type, MISSING, Any, object}.intersection(accepts) and not (
            converter.type is int and float in accepts
        ):
            raise TypeError(
                f"parameter {name!r} is {_type_name(plain)}, but the converter {converter.name} of the path gives "
                f"{converter.type.__name__}"
            )
        return Argument(name, "path", name, keyword=keyword)

    if annotation is bytes:
        return Argument(name, "body", name, keyword=keyword)
    if name == "request" and annotation in (MISSING, Any, object):
        return Argument(name, "request", name, keyword=keyword)
    if name in ("websocket", "ws") and annotation in (MISSING, Any, object):
        return Argument(name, "websocket", name, keyword=keyword)
    hint = f"Query[{_type_name(annotation) if annotation is not MISSING else 'str'}]"
    raise TypeError(
        f"unknown parameter {name!r}: it is not in the path; annotate it as {hint}, Header[...], State[...], "
        "Json[...], bytes (the body) or Request"
    )


def plan_of(handler: Callable[..., Any], in_path: dict[str, Converter]) -> tuple[Argument, ...]:
    """One Argument per parameter, in order. TypeError for a signature that cannot be served."""
    try:
        signature = inspect.signature(handler)
    except ValueError as error:
        raise TypeError(f"its signature cannot be read: {error}") from error
    if not signature.parameters:
        return ()
    try:
        annotations = _annotations_of(handler)
    except NameError as error:
        raise TypeError(f"an annotation cannot be resolved while the program runs: {error}") from error
    plan = tuple(
        _argument(parameter, annotations.get(name, MISSING), in_path)
        for name, parameter in signature.parameters.items()
    )
    if sum(argument.source == "websocket" for argument in plan) > 1:
        raise TypeError("one parameter is enough for the WebSocket")
    consumers = [argument.name for argument in plan if argument.source in ("body", "json")]
    if len(consumers) > 1:
        raise TypeError(f"only one parameter may take the body, here are {' and '.join(map(repr, consumers))}")
    return plan


# ----------------------------------------------------------------------------------------------------- routes


class Route:
    """One path, its methods and its handler. Made by the decorators.

    `kind`: how the handler is called. "coroutine": `async def`. "thread": `def`, in the thread pool. "inline": `def`
    with `blocking=False`, and generator functions, whose call only makes the generator. `methods` of a WebSocket's route
    is ("WEBSOCKET",), for want of a method: no request can name it, `websocket` tells it from a method of that name.
    Raises ConfigError, which names the handler, for a path or signature that cannot be served.
    """

    path: str
    methods: tuple[str, ...]
    handler: Callable[..., Any]
    name: str
    kind: Literal["coroutine", "thread", "inline"]
    blocking: bool
    cancel_on_disconnect: bool
    limit_request_body: int | None
    websocket: bool
    segments: tuple[Segment, ...]
    plan: tuple[Argument, ...]

    def __init__(
        self,
        path: str,
        handler: Callable[..., Any],
        *,
        methods: Iterable[str] = ("GET",),
        name: str | None = None,
        blocking: bool | None = None,
        cancel_on_disconnect: bool = True,
        limit_request_body: int | None = None,
        websocket: bool = False,
    ) -> None:
        if not callable(handler):
            raise ConfigError(f"route {path!r}: the handler {handler!r} is not callable", exit_code=3)
        if isinstance(methods, str):
            methods = (methods,)
        self.websocket = websocket
        self.methods = ("WEBSOCKET",) if websocket else tuple(sorted({method.upper() for method in methods}))
        for method in self.methods:
            if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Z-]+", method):
                raise ConfigError(
                    f"route {path!r}: method {method!r} is not a token (RFC 9110 section 9.1)", exit_code=3
                )
            if method == "CONNECT":
                raise ConfigError(f"route {path!r}: CONNECT has no path and cannot be routed", exit_code=3)
        if not self.methods:
            raise ConfigError(f"route {path!r} has no methods", exit_code=3)
        self.path = path
        self.handler = handler
        self.name = name if name is not None else _name_of(handler)
        self.segments = parse_path(path)
        self.cancel_on_disconnect = cancel_on_disconnect
        self.limit_request_body = checked_limit(limit_request_body, f"route {path!r}")

        function = _function_of(handler)
        asynchronous = inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(function)
        generator = inspect.isasyncgenfunction(function) or inspect.isgeneratorfunction(function)
        self.blocking = not asynchronous and blocking is not False
        if asynchronous:
            self.kind = "coroutine"
        else:
            self.kind = "thread" if self.blocking and not generator else "inline"
        try:
            if blocking and asynchronous:
                raise TypeError("blocking=True is for plain functions, this one is async")
            self.plan = plan_of(handler, dict(self.parameters))
            takes = {argument.source for argument in self.plan}
            if websocket and self.kind != "coroutine":
                raise TypeError("a WebSocket's handler is `async def`")
            if websocket and takes & {"body", "json", "request"}:
                raise TypeError("a WebSocket has neither a Request nor a body: annotate the parameter as WebSocket")
            if not websocket and "websocket" in takes:
                raise TypeError("only the handler of @app.websocket gets a WebSocket")
        except TypeError as error:
            raise ConfigError(f"{'/'.join(self.methods)} {path}: {describe(handler)}: {error}", exit_code=3) from error

    @property
    def parameters(self) -> tuple[tuple[str, Converter], ...]:
        """(name, converter) of the parameters of the path, from left to right."""
        return tuple(parameter for segment in self.segments for parameter in segment.parameters)

    @property
    def shape(self) -> tuple[object, ...]:
        """Equal for routes that match the same paths."""
        return tuple(segment.shape for segment in self.segments)

    def under(self, prefix: str) -> Route:
        """The same route with a longer path."""
        if not prefix:
            return self
        moved = copy.copy(self)
        moved.path = prefix + self.path
        moved.segments = parse_path(moved.path)
        return moved

    def url_path(self, params: dict[str, Any]) -> str:
        """The path with its parameters filled in and percent-encoded. LookupError for a value that does not fit."""
        values = {}
        for name, converter in self.parameters:
            try:
                values[name] = converter.text(params[name])
            except (TypeError, ValueError) as error:
                raise LookupError(
                    f"route {self.name!r}: {name}={params[name]!r} does not fit {self.path}: {error}"
                ) from error
        pieces = _PARAMETER.split(self.path)  # text, name, converter, text, ...
        return "".join(
            quote(piece) if index % 3 == 0 else values[piece] for index, piece in enumerate(pieces) if index % 3 != 2
        )

    def __repr__(self) -> str:
        return f"<Route {'/'.join(self.methods)} {self.path} {self.name}>"


def checked_limit(value: int | None, of: str) -> int | None:
    """A limit for bodies, or a ConfigError. `of`: whose it is."""
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**63):
        raise ConfigError(f"{of}: limit_request_body is bytes, 0 or more, not {value!r}", exit_code=3)
    return value


def _name_of(handler: Callable[..., Any]) -> str:
    while isinstance(handler, functools.partial):
        handler = handler.func
    return getattr(handler, "__name__", None) or type(handler).__name__


class Router:
    """Routes that belong together, below one `prefix` ("" or "/text", which may hold parameters).

    The decorators give the handler back unchanged. Options of each of them:
    `name`: for url_path_for, the function's name if None. `blocking`: for `def` handlers, False runs them on the event
    loop itself instead of in the thread pool. `cancel_on_disconnect`: False lets an `async def` handler finish although
    the client has left. `limit_request_body`: bytes that the body of a request may have, over it 413; None: as the App has
    it, or the server. Source of the shape: fastapi.APIRouter.
    """

    def __init__(self, prefix: str = "") -> None:
        self.prefix = _checked_prefix(prefix)
        self._entries: list[Route | tuple[str, Router]] = []
        self._taken: dict[tuple[object, str], Route] = {}
        self._parents: list[Router] = []

    # --- registering ---

    def add_route(
        self,
        path: str,
        handler: Callable[..., Any],
        *,
        methods: Iterable[str] = ("GET",),
        name: str | None = None,
        blocking: bool | None = None,
        cancel_on_disconnect: bool = True,
        limit_request_body: int | None = None,
    ) -> Route:
        """Register `handler` without a decorator. ConfigError for a bad path or signature, or a taken method."""
        route = Route(
            self.prefix + path,
            handler,
            methods=methods,
            name=name,
            blocking=blocking,
            cancel_on_disconnect=cancel_on_disconnect,
            limit_request_body=limit_request_body,
        )
        _take(self._taken, [route])
        self._entries.append(route)
        self._changed()
        return route

    def include_router(self, router: Router, *, prefix: str = "") -> None:
        """Serve the routes of `router`, those it gets later too, below `prefix`."""
        prefix = self.prefix + _checked_prefix(prefix)
        if router is self or self in router._descendants():
            raise ConfigError("a router cannot be included in itself", exit_code=3)
        _take(self._taken, [route.under(prefix) for route in router.routes])
        self._entries.append((prefix, router))
        router._parents.append(self)
        self._changed()

    def route(
        self,
        path: str,
        *,
        methods: Iterable[str] = ("GET",),
        name: str | None = None,
        blocking: bool | None = None,
        cancel_on_disconnect: bool = True,
        limit_request_body: int | None = None,
    ) -> Callable[[Handler], Handler]:
        """Decorator for any methods; a handler of GET also answers HEAD, and OPTIONS is answered for every route."""

        def register(handler: Handler) -> Handler:
            self.add_route(
                path,
                handler,
                methods=methods,
                name=name,
                blocking=blocking,
                cancel_on_disconnect=cancel_on_disconnect,
                limit_request_body=limit_request_body,
            )
            return handler

        return register

    def get(
        self,
        path: str,
        *,
        name: str | None = None,
        blocking: bool | None = None,
        cancel_on_disconnect: bool = True,
        limit_request_body: int | None = None,
    ) -> Callable[[Handler], Handler]:
        return self.route(
            path,
            methods=("GET",),
            name=name,
            blocking=blocking,
            cancel_on_disconnect=cancel_on_disconnect,
            limit_request_body=limit_request_body,
        )

    def post(
        self,
        path: str,
        *,
        name: str | None = None,
        blocking: bool | None = None,
        cancel_on_disconnect: bool = True,
        limit_request_body: int | None = None,
    ) -> Callable[[Handler], Handler]:
        return self.route(
            path,
            methods=("POST",),
            name=name,
            blocking=blocking,
            cancel_on_disconnect=cancel_on_disconnect,
            limit_request_body=limit_request_body,
        )

    def put(
        self,
        path: str,
        *,
        name: str | None = None,
        blocking: bool | None = None,
        cancel_on_disconnect: bool = True,
        limit_request_body: int | None = None,
    ) -> Callable[[Handler], Handler]:
        return self.route(
            path,
            methods=("PUT",),
            name=name,
            blocking=blocking,
            cancel_on_disconnect=cancel_on_disconnect,
            limit_request_body=limit_request_body,
        )

    def patch(
        self,
        path: str,
        *,
        name: str | None = None,
        blocking: bool | None = None,
        cancel_on_disconnect: bool = True,
        limit_request_body: int | None = None,
    ) -> Callable[[Handler], Handler]:
        return self.route(
            path,
            methods=("PATCH",),
            name=name,
            blocking=blocking,
            cancel_on_disconnect=cancel_on_disconnect,
            limit_request_body=limit_request_body,
        )

    def delete(
        self,
        path: str,
        *,
        name: str | None = None,
        blocking: bool | None = None,
        cancel_on_disconnect: bool = True,
        limit_request_body: int | None = None,
    ) -> Callable[[Handler], Handler]:
        return self.route(
            path,
            methods=("DELETE",),
            name=name,
            blocking=blocking,
            cancel_on_disconnect=cancel_on_disconnect,
            limit_request_body=limit_request_body,
        )

    def head(
        self,
        path: str,
        *,
        name: str | None = None,
        blocking: bool | None = None,
        cancel_on_disconnect: bool = True,
        limit_request_body: int | None = None,
    ) -> Callable[[Handler], Handler]:
        """Instead of the automatic answer, which runs the handler of GET and drops its body."""
        return self.route(
            path,
            methods=("HEAD",),
            name=name,
            blocking=blocking,
            cancel_on_disconnect=cancel_on_disconnect,
            limit_request_body=limit_request_body,
        )

    def options(
        self,
        path: str,
        *,
        name: str | None = None,
        blocking: bool | None = None,
        cancel_on_disconnect: bool = True,
        limit_request_body: int | None = None,
    ) -> Callable[[Handler], Handler]:
        """Instead of the automatic answer, which is 204 with Allow."""
        return self.route(
            path,
            methods=("OPTIONS",),
            name=name,
            blocking=blocking,
            cancel_on_disconnect=cancel_on_disconnect,
            limit_request_body=limit_request_body,
        )

    def add_websocket_route(
        self, path: str, handler: Callable[..., Any], *, name: str | None = None, cancel_on_disconnect: bool = False
    ) -> Route:
        """Register `handler` for WebSockets without a decorator."""
        route = Route(self.prefix + path, handler, name=name, cancel_on_disconnect=cancel_on_disconnect, websocket=True)
        _take(self._taken, [route])
        self._entries.append(route)
        self._changed()
        return route

    def websocket(
        self, path: str, *, name: str | None = None, cancel_on_disconnect: bool = False
    ) -> Callable[[Handler], Handler]:
        """Decorator for an `async def` that talks to a WebSocket; it may stand beside a GET route of the same path.

        A client that leaves ends `receive` and `send` with WebSocketDisconnect; with `cancel_on_disconnect=True` it cancels
        the handler, whatever it waits for. Middleware and hooks are for requests: they do not run.
        """

        def register(handler: Handler) -> Handler:
            self.add_websocket_route(path, handler, name=name, cancel_on_disconnect=cancel_on_disconnect)
            return handler

        return register

    # --- reading ---

    @property
    def routes(self) -> list[Route]:
        """All routes in order of registration, with their full paths, those of included routers too."""
        return list(self._walk())

    def url_path_for(self, name: str, /, **params: Any) -> str:
        """The path of the first route of that name with exactly these parameters. LookupError if there is none.

        Source: starlette.routing.Router.url_path_for (whose NoMatchFound is our LookupError).
        """
        for route in self._walk():
            if route.name == name and {key for key, _ in route.parameters} == params.keys():
                return route.url_path(params)
        wanted = ", ".join(params) or "none"
        raise LookupError(f"there is no route {name!r} with these parameters: {wanted}")

    def check(self) -> None:
        """ConfigError if two routes answer the same path and method (included routers may have grown)."""
        _take({}, self._walk())

    def _walk(self) -> Iterator[Route]:
        for entry in self._entries:
            if isinstance(entry, Route):
                yield entry
            else:
                prefix, router = entry
                for route in router._walk():
                    yield route.under(prefix)

    def _descendants(self) -> list[Router]:
        found = [entry[1] for entry in self._entries if isinstance(entry, tuple)]
        return found + [router for child in found for router in child._descendants()]

    def _changed(self) -> None:
        """A route was added here or below."""
        for parent in self._parents:
            parent._changed()


def _take(taken: dict[tuple[object, str], Route], routes: Iterable[Route]) -> None:
    fresh: dict[tuple[object, str], Route] = {}
    for route in routes:
        shape = route.shape
        for method in route.methods:
            method = "a WebSocket" if route.websocket else method
            other = taken.get((shape, method)) or fresh.get((shape, method))
            if other is not None:
                raise ConfigError(
                    f"{method} {route.path} is registered twice: {describe(other.handler)} and "
                    f"{describe(route.handler)}",
                    exit_code=3,
                )
            fresh[shape, method] = route
    taken.update(fresh)


def _checked_prefix(prefix: str) -> str:
    if prefix and (not prefix.startswith("/") or prefix.endswith("/")):
        raise ConfigError(f"a prefix begins with '/' and does not end with it, {prefix!r} does not fit", exit_code=3)
    return prefix
