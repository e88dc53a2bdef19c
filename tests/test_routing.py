"""Route and Router: what is decided at registration. How requests find a route is in interfaces/test_native.py."""

from __future__ import annotations

import enum
import functools
import inspect
import uuid
from collections.abc import Callable
from typing import Annotated, Any, Literal, NewType, Optional

import msgspec
import pytest

from fastserve import App, Header, Json, Query, Request, Router, State
from fastserve.errors import ConfigError
from fastserve.routing import CONVERTERS, Argument, Route, describe, parse_path, scalar_converter


class Color(enum.Enum):
    RED = "red"
    ONE = 1


class Item(msgspec.Struct):
    name: str


class Model: ...


class Tree(msgspec.Struct):
    children: list[Tree]
    model: Model | None = None


UserId = NewType("UserId", int)


def plan(handler: Callable[..., Any], path: str = "/") -> tuple[Argument, ...]:
    return Route(path, handler).plan


def refused(handler: Callable[..., Any], path: str = "/", **options: Any) -> str:
    with pytest.raises(ConfigError) as info:
        Route(path, handler, **options)
    assert info.value.exit_code == 3
    assert "\n" not in str(info.value)
    return str(info.value)


async def nothing() -> None: ...


# ------------------------------------------------------------------------------------------------------------ paths


@pytest.mark.parametrize(
    ("path", "kinds", "names"),
    [
        ("/", ["literal"], []),
        ("/a/b", ["literal", "literal"], []),
        ("/a/", ["literal", "literal"], []),
        ("/{id}", ["parameter"], ["id"]),
        ("/{id:int}/x/{rest:path}", ["parameter", "literal", "path"], ["id", "rest"]),
        ("/{name}.{ext}", ["pattern"], ["name", "ext"]),
        ("/v{major:int}", ["pattern"], ["major"]),
        ("/caf\xe9", ["literal"], []),
    ],
)
def test_paths(path, kinds, names):
    segments = parse_path(path)
    assert [segment.kind for segment in segments] == kinds
    assert [name for segment in segments for name, _ in segment.parameters] == names


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("", "begins with '/'"),
        ("a", "begins with '/'"),
        ("/a?b", "without its query"),
        ("/a#b", "without its query"),
        ("/{id}/{id}", "parameter 'id' stands there twice"),
        ("/{id:integer}", "unknown converter 'integer'; there are str, int, float, uuid, path"),
        ("/{id:}", "unknown converter ''"),
        ("/{id", "written {name} or {name:converter}, '{id' is not"),
        ("/id}", "written {name}"),
        ("/{}", "written {name}"),
        ("/{1a}", "written {name}"),
        ("/{a b}", "written {name}"),
        ("/{{a}}", "written {name}"),
        ("/{rest:path}/x", "is the whole end"),
        ("/x{rest:path}", "is the whole end"),
        ("/{a:path}{b:path}", "is the whole end"),
    ],
)
def test_paths_that_cannot_be(path, message):
    assert message in refused(nothing, path)


CONVERSIONS = [
    # converter, text, value (None: no match)
    ("str", "abc", "abc"),
    ("int", "0", 0),
    ("int", "007", 7),
    ("int", "-1", None),
    ("int", "+1", None),
    ("int", " 1", None),
    ("int", "1_000", None),
    ("int", "\u0661", None),  # ARABIC-INDIC DIGIT ONE is a digit to int()
    ("int", "", None),
    ("int", "1" * 5000, None),  # more digits than int() takes
    ("float", "1", 1.0),
    ("float", "1.5", 1.5),
    ("float", "1.", None),
    ("float", ".5", None),
    ("float", "1e5", None),
    ("float", "nan", None),
    ("float", "inf", None),
    ("uuid", "12345678-1234-5678-1234-567812345678", uuid.UUID("12345678-1234-5678-1234-567812345678")),
    ("uuid", "12345678123456781234567812345678", uuid.UUID("12345678-1234-5678-1234-567812345678")),
    ("uuid", "{12345678-1234-5678-1234-567812345678}", None),
    ("uuid", "1234", None),
    ("path", "a/b", "a/b"),
    ("path", "", ""),
]


@pytest.mark.parametrize(("name", "text", "value"), CONVERSIONS)
def test_converters(name, text, value):
    convert = CONVERTERS[name].convert
    if value is None:
        with pytest.raises(ValueError):
            convert(text)
    else:
        assert convert(text) == value and type(convert(text)) is CONVERTERS[name].type


# ------------------------------------------------------------------------------------------------------- signatures


def test_no_parameters_no_plan():
    assert plan(nothing) == ()


def test_every_source():
    async def handler(
        request,
        id: int,
        rest,
        q: Query[int],
        user_agent: Header[str],
        db: State[object],
        item: Json[Item],
        page: Query[int] = 1,
        *,
        tag: Query[list[str]] = (),  # type: ignore[assignment]
    ): ...

    arguments = plan(handler, "/{id}/{rest:path}")
    missing = inspect.Parameter.empty
    assert [(a.name, a.source, a.key, a.many, a.default, a.keyword) for a in arguments] == [
        ("request", "request", "request", False, missing, False),
        ("id", "path", "id", False, missing, False),
        ("rest", "path", "rest", False, missing, False),
        ("q", "query", "q", False, missing, False),
        ("user_agent", "header", "user-agent", False, missing, False),
        ("db", "state", "db", False, missing, False),
        ("item", "json", "item", False, missing, False),
        ("page", "query", "page", False, 1, False),
        ("tag", "query", "tag", True, (), True),
    ]
    assert arguments[1].convert("5") == 5 and arguments[2].convert is None
    assert arguments[6].convert(b'{"name":"x"}') == Item("x")


def test_requests_and_bodies():
    def by_type(r: Request, data: bytes): ...

    assert [(a.name, a.source) for a in plan(by_type)] == [("r", "request"), ("data", "body")]


def test_bytes_in_the_path_is_not_the_body():
    def handler(data: bytes): ...

    (argument,) = plan(handler, "/{data}")
    assert argument.source == "path" and argument.convert("h\xe9") == b"h\xc3\xa9"


def test_optional_markers():
    def handler(
        a: Query[int | None] = None,
        b: Query[int] | None = None,
        c: Optional[Query[int]] = None,  # noqa: UP045
        d: Query = "x",
    ): ...

    arguments = plan(handler)
    assert [(a.source, a.default) for a in arguments] == [("query", None)] * 3 + [("query", "x")]
    assert [a.convert("5") for a in arguments[:3]] == [5, 5, 5] and arguments[3].convert is None


def test_annotations_that_are_not_strings():
    namespace: dict[str, Any] = {}
    exec("from fastserve import Query\ndef handler(q: Query[int]): ...", namespace)
    assert plan(namespace["handler"])[0].convert("5") == 5


def test_the_return_annotation_need_not_resolve():
    def handler(q: Query[int]) -> NotThere: ...  # type: ignore[name-defined]  # noqa: F821

    assert plan(handler)[0].source == "query"


def test_wrapped_handlers_are_seen_through():
    def decorate(function):
        @functools.wraps(function)
        async def wrapper(*args, **kwargs):
            return await function(*args, **kwargs)

        return wrapper

    @decorate
    async def handler(id: int, q: Query[int] = 1): ...

    route = Route("/{id}", handler)
    assert [a.source for a in route.plan] == ["path", "query"] and route.kind == "coroutine" and route.name == "handler"


def test_methods_partials_and_callable_objects():
    class Service:
        async def show(self, id: int): ...

        async def __call__(self, q: Query[int]): ...

    async def scaled(factor, id: int): ...

    assert [(a.name, a.source) for a in plan(Service().show, "/{id}")] == [("id", "path")]
    assert [(a.name, a.source) for a in plan(Service())] == [("q", "query")]
    route = Route("/{id}", functools.partial(scaled, 2))
    assert [(a.name, a.source) for a in route.plan] == [("id", "path")] and route.name == "scaled"
    assert Route("/", Service()).kind == "coroutine" and Route("/", Service()).name == "Service"


SCALARS = [
    (str, "x", "x"),
    (Any, "x", "x"),
    (int, "5", 5),
    (int, "-5", -5),
    (int, "1_0", ValueError),
    (int, " 1", ValueError),
    (int, "1.0", ValueError),
    (int, "", ValueError),
    (float, "1.5", 1.5),
    (float, "-1e3", -1000.0),
    (float, "nan", ValueError),
    (float, "infinity", ValueError),
    (bool, "true", True),
    (bool, "0", False),
    (bool, "OFF", False),
    (bool, "2", ValueError),
    (bool, "", ValueError),
    (uuid.UUID, "12345678123456781234567812345678", uuid.UUID("12345678-1234-5678-1234-567812345678")),
    (uuid.UUID, "x", ValueError),
    (Color, "red", Color.RED),
    (Color, "1", Color.ONE),
    (Color, "RED", ValueError),
    (Literal["a", 1], "1", 1),
    (Literal["a", 1], "b", ValueError),
    (UserId, "5", 5),
    (int | None, "5", 5),
    (int | str, "5", 5),
    (int | str, "x", "x"),
    (int | bool, "true", True),
    (int | bool, "x", ValueError),
    (Annotated[int, msgspec.Meta(ge=3)], "5", 5),
    (Annotated[int, msgspec.Meta(ge=3)], "2", ValueError),
]


@pytest.mark.parametrize(("annotation", "text", "value"), SCALARS)
def test_scalars(annotation, text, value):
    convert = scalar_converter(annotation)
    if value is ValueError:
        with pytest.raises(ValueError):
            convert(text)
    else:
        assert (text if convert is None else convert(text)) == value


def test_scalars_without_msgspec(monkeypatch):
    import datetime

    import fastserve.routing as routing

    assert scalar_converter(datetime.date)("2026-01-02") == datetime.date(2026, 1, 2)
    monkeypatch.setattr(routing, "msgspec", None)
    with pytest.raises(TypeError, match="no conversion from text to date"):
        scalar_converter(datetime.date)
    assert scalar_converter(int)("5") == 5

    def handler(item: Json[Item]): ...

    assert plan(handler)[0].convert(b'{"name": 5}') == {"name": 5}


def unknown(q): ...
def unknown_typed(q: int = 1): ...
def two_bodies(a: bytes, b: bytes): ...
def body_and_json(a: bytes, b: Json[Item]): ...
def star(*args): ...
def double_star(**kwargs): ...
def unresolved(q: Query[NotThere]): ...  # type: ignore[name-defined]  # noqa: F821
def unconvertible(q: Query[Model]): ...
def unconvertible_json(q: Json[Model]): ...
def unconvertible_deep(q: Json[list[Tree]]): ...


@pytest.mark.parametrize(
    ("handler", "message"),
    [
        (unknown, "unknown parameter 'q': it is not in the path; annotate it as Query[str]"),
        (unknown_typed, "annotate it as Query[int]"),
        (two_bodies, "only one parameter may take the body, here are 'a' and 'b'"),
        (body_and_json, "only one parameter may take the body"),
        (star, "parameter '*args' does not say what it wants"),
        (double_star, "parameter '**kwargs' does not say what it wants"),
        (unresolved, "an annotation cannot be resolved while the program runs: name 'NotThere' is not defined"),
    ],
)
def test_signatures_that_cannot_be_served(handler, message):
    text = refused(handler, "/x", methods=["POST"])
    assert message in text
    # whose it is, and where
    assert text.startswith(f"POST /x: {describe(handler)}: ") and "test_routing.py:" in text


@pytest.mark.parametrize("handler", [unconvertible, unconvertible_json, unconvertible_deep])
def test_types_that_cannot_be_converted(handler):
    # a class that is no dataclass, Struct, TypedDict or NamedTuple: msgspec would refuse every value of it
    assert "msgspec cannot make a Model" in refused(handler)


@pytest.mark.parametrize(
    ("path", "annotation", "good"),
    [
        ("/{id:int}", int, True),
        ("/{id:int}", Any, True),
        ("/{id:int}", int | None, True),
        ("/{id:int}", float, True),
        ("/{id:int}", UserId, True),
        ("/{id:int}", str, False),
        ("/{id:float}", int, False),
        ("/{id:uuid}", uuid.UUID, True),
        ("/{id:uuid}", str, False),
        ("/{id:path}", str, True),
        ("/{id}", int, True),
        ("/{id}", Color, True),
    ],
)
def test_converter_and_annotation_must_agree(path, annotation, good):
    def handler(id): ...

    handler.__annotations__ = {"id": annotation}
    if good:
        assert plan(handler, path)[0].source == "path"
    else:
        assert "but the converter" in refused(handler, path)


# ------------------------------------------------------------------------------------------------------------ routes


def test_kinds():
    def plain(): ...

    def generator():
        yield b""

    async def asynchronous(): ...

    async def stream():
        yield b""

    assert Route("/", asynchronous).kind == "coroutine"
    assert Route("/", plain).kind == "thread" and Route("/", plain, blocking=True).kind == "thread"
    assert Route("/", plain, blocking=False).kind == "inline"
    assert Route("/", stream).kind == "inline"
    assert Route("/", generator).kind == "inline" and Route("/", generator).blocking is True
    assert Route("/", generator, blocking=False).blocking is False
    assert "blocking=True is for plain functions" in refused(asynchronous, blocking=True)


def test_methods():
    assert Route("/", nothing, methods=["post", "GET", "get"]).methods == ("GET", "POST")
    assert Route("/", nothing, methods="put").methods == ("PUT",)
    assert Route("/", nothing, methods=["PURGE", "M-SEARCH"]).methods == ("M-SEARCH", "PURGE")
    assert "has no methods" in refused(nothing, methods=[])
    assert "is not a token" in refused(nothing, methods=["GET POST"])
    assert "CONNECT" in refused(nothing, methods=["CONNECT"])
    assert "not callable" in refused("text")  # type: ignore[arg-type]


def test_decorators_give_the_handler_back_and_say_the_method():
    router = Router()
    for method in ("get", "post", "put", "patch", "delete", "head", "options"):

        async def handler(): ...

        assert getattr(router, method)(f"/{method}")(handler) is handler
    assert [(route.path, route.methods) for route in router.routes] == [
        ("/get", ("GET",)),
        ("/post", ("POST",)),
        ("/put", ("PUT",)),
        ("/patch", ("PATCH",)),
        ("/delete", ("DELETE",)),
        ("/head", ("HEAD",)),
        ("/options", ("OPTIONS",)),
    ]
    router.route("/any", methods=("GET", "PURGE"), name="n", cancel_on_disconnect=False)(nothing)
    route = router.routes[-1]
    assert route.methods == ("GET", "PURGE") and route.name == "n" and route.cancel_on_disconnect is False
    assert repr(route) == "<Route GET/PURGE /any n>"


@pytest.mark.parametrize(
    ("first", "second", "conflict"),
    [
        ("/a", "/a", True),
        ("/{a}", "/{b}", True),
        ("/{a}", "/{b:str}", True),
        ("/{a:int}", "/{b:int}", True),
        ("/{a}.{b}", "/{c}.{d}", True),
        ("/{a:path}", "/{b:path}", True),
        ("/a", "/a/", False),
        ("/a", "/{a}", False),
        ("/{a:int}", "/{a}", False),
        ("/{a}.{b}", "/{a}-{b}", False),
        ("/x/{a:path}", "/x/{a}", False),
    ],
)
def test_the_same_path_and_method_twice(first, second, conflict):
    app = App()
    app.get(first)(nothing)
    app.post(second)(nothing)
    if not conflict:
        app.get(second)(nothing)
        return
    with pytest.raises(ConfigError, match="registered twice") as info:
        app.get(second)(nothing)
    assert str(info.value).count("test_routing.nothing") == 2
    assert len(app.routes) == 2


def test_routers_and_prefixes():
    users = Router("/users/{user_id}")

    @users.get("/posts/{post_id:int}", name="post")
    async def post(user_id: int, post_id: int): ...

    @users.get("")
    async def user(user_id: int): ...

    api = Router("/api")
    api.include_router(users, prefix="/v1")
    app = App()
    app.include_router(api)
    app.include_router(users)
    late = Router()
    users.include_router(late, prefix="/late")
    late.get("/x")(nothing)  # after it was included
    paths = [
        "/api/v1/users/{user_id}/posts/{post_id:int}",
        "/api/v1/users/{user_id}",
        "/api/v1/users/{user_id}/late/x",
        "/users/{user_id}/posts/{post_id:int}",
        "/users/{user_id}",
        "/users/{user_id}/late/x",
    ]
    assert [route.path for route in app.routes] == paths
    assert repr(app) == "<App routes=6>"


def test_conflicts_through_routers():
    router = Router()
    router.get("/a")(nothing)
    app = App()
    app.get("/x/a")(nothing)
    with pytest.raises(ConfigError, match="GET /x/a is registered twice"):
        app.include_router(router, prefix="/x")
    assert len(app.routes) == 1
    app.include_router(router, prefix="/y")
    with pytest.raises(ConfigError, match="registered twice"):
        app.include_router(router, prefix="/y")
    app.get("/y/b")(nothing)
    router.get("/b")(nothing)  # not seen here, but before it is served
    with pytest.raises(ConfigError, match="GET /y/b is registered twice"):
        app.check()


def test_router_mistakes():
    for prefix in ("a", "/", "/a/"):
        with pytest.raises(ConfigError, match="a prefix begins with '/'"):
            Router(prefix)
        with pytest.raises(ConfigError, match="a prefix begins with '/'"):
            App().include_router(Router(), prefix=prefix)
    with pytest.raises(ConfigError, match="begins with '/'"):
        App().get("b")(nothing)
    a, b = Router(), Router()
    a.include_router(b)
    for outer, inner in ((a, a), (b, a)):
        with pytest.raises(ConfigError, match="included in itself"):
            outer.include_router(inner)
    with pytest.raises(ConfigError, match="parameter 'id' stands there twice"):
        router = Router("/{id}")
        router.get("/x")(nothing)
        App().include_router(router, prefix="/{id}")


# ------------------------------------------------------------------------------------------------------ url_path_for


def test_url_path_for():
    app = App()
    key = uuid.UUID("12345678-1234-5678-1234-567812345678")
    for path, name in [
        ("/", "home"),
        ("/users/{id:int}", "user"),
        ("/users/{id:int}/{tab}", "user"),
        ("/f/{rest:path}", "file"),
        ("/{a}.{b}", "mixed"),
        ("/k/{key:uuid}/{n:float}", "key"),
        ("/caf\xe9/{x}", "caf\xe9"),
    ]:
        app.add_route(path, nothing, name=name)
    assert app.url_path_for("home") == "/"
    assert app.url_path_for("user", id=5) == "/users/5"
    assert app.url_path_for("user", id="5", tab="a b/c\xe9") == "/users/5/a%20b%2Fc%C3%A9"
    assert app.url_path_for("file", rest="a/b c") == "/f/a/b%20c"
    assert app.url_path_for("mixed", a="x", b="y") == "/x.y"
    assert app.url_path_for("key", key=key, n=1.5) == f"/k/{key}/1.5"
    assert app.url_path_for("key", key=str(key), n=2) == f"/k/{key}/2"
    assert app.url_path_for("caf\xe9", x="y") == "/caf%C3%A9/y"


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        ("nope", {}, "no route 'nope' with these parameters: none"),
        ("user", {}, "no route 'user'"),
        ("user", {"id": 1, "x": 2}, "no route 'user' with these parameters: id, x"),
        ("user", {"id": "x"}, "does not fit"),
        ("user", {"id": -1}, "must not be negative"),
        ("text", {"t": ""}, "must not be empty"),
        ("number", {"n": float("inf")}, "finite"),
        ("key", {"k": "x"}, "does not fit"),
    ],
)
def test_url_path_for_what_is_not_there(name, params, message):
    app = App()
    app.add_route("/users/{id:int}", nothing, name="user")
    app.add_route("/text/{t}", nothing, name="text")
    app.add_route("/number/{n:float}", nothing, name="number")
    app.add_route("/key/{k:uuid}", nothing, name="key")
    with pytest.raises(LookupError) as info:
        app.url_path_for(name, **params)
    assert message in str(info.value)


def test_names_are_those_of_functions():
    app = App()

    @app.get("/a/{id}")
    async def show(id: int): ...

    assert app.url_path_for("show", id=1) == "/a/1"
