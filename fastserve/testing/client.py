"""client: TestClient, an httpx.Client with a server of its own.

Room: the top. Called by: tests of applications. Calls: live.py (the server), websocket.py, process, httpx.
The names are those of starlette.testclient.TestClient. Unlike there, requests cross a real connection to the real server:
what works here works in production, limits and timeouts included.

Theory of operation. The server listens on a free port of 127.0.0.1; `_Transport` sends every request there, whatever its
URL says, so that Host is "testserver" and cookies are for that. An ASGI application is wrapped: a field of the request's
head, TICKET, which the application does not see, tells `_Calls` which call answers it; it waits for that call's end
(background tasks), has its exception, and what it said with http.response.debug. Of a native or a WSGI application
Server.on_exception tells.
"""

from __future__ import annotations

import asyncio
import itertools
import ssl
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, TypeVar

import httpx

from fastserve.errors import ClientDisconnected, LocalProtocolError
from fastserve.process.config import Config
from fastserve.process.server import load_application
from fastserve.testing.live import LiveServer
from fastserve.testing.websocket import WebSocketSession

__all__ = ["TestClient"]

Self = TypeVar("Self", bound="TestClient")

PATIENCE = 0.2  # seconds between two looks at a thread that is waited for
CALLS_MAX = 1024  # remembered: those that nobody has asked for yet
TICKET = b"fastserve-test-call"  # the client's address would not do: X-Forwarded-For changes it in the scope
DEBUG = "http.response.debug"
STARLETTES = {"template", "context"}  # what its Jinja2Templates say, and its TestClient has as attributes of a response


class TestClient(httpx.Client):
    """A client for tests of `app`: native, ASGI or WSGI, or its name, "module:attribute".

        client = TestClient(app)
        assert client.get("/").text == "hello"

        with TestClient(app) as client:     # runs the lifespan
            with client.websocket_connect("/ws") as websocket:
                websocket.send_text("hello")

    `raise_server_exceptions`: what the application raises is raised by the request that it was to answer. A request to an
    ASGI application returns when the application has: background tasks are over. What one says with `http.response.debug`
    is `response.extensions["http.response.debug"]`; `template` and `context` of it are `response.template` and
    `response.context`. `options` are those of the command line, with underscores; with `ssl_certfile` it is https, and
    `cert` is the client's own certificate: a file, or with that of its key. Other arguments are httpx's; there is no
    timeout unless one is given. Not for several threads at once.
    """

    __test__ = False  # for pytest, which takes it for a class of tests

    def __init__(
        self,
        app: Any,
        base_url: str = "http://testserver",
        raise_server_exceptions: bool = True,
        root_path: str = "",
        *,
        cert: str | tuple[str, str] | None = None,
        headers: Mapping[str, str] | Sequence[tuple[str, str]] | None = None,
        cookies: dict[str, str] | httpx.Cookies | None = None,
        auth: Any = None,
        params: Any = None,
        timeout: Any = None,
        follow_redirects: bool = True,
        event_hooks: Mapping[str, list[Callable[..., Any]]] | None = None,
        default_encoding: str | Callable[[bytes], str] = "utf-8",
        **options: Any,
    ) -> None:
        self._served = _Transport(app, {"root_path": root_path, **options}, raise_server_exceptions, cert)
        if self._served.context is not None and base_url.startswith("http:"):
            base_url = "https:" + base_url.removeprefix("http:")
        fields = httpx.Headers(headers)
        fields.setdefault("user-agent", "testclient")
        super().__init__(
            transport=self._served,
            base_url=base_url,
            headers=fields,
            cookies=cookies,
            auth=auth,
            params=params,
            timeout=timeout,
            follow_redirects=follow_redirects,
            event_hooks=event_hooks,
            default_encoding=default_encoding,
            trust_env=False,
        )

    def __enter__(self: Self) -> Self:
        """Start a server, and the application's lifespan. What its startup raises is raised."""
        self._served.stop()  # one without lifespan, if there was a request before
        self._served.serve(lifespan=True)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        trace: TracebackType | None = None,
    ) -> None:
        """End the lifespan and stop the server. What its shutdown raises is raised. The client may be used again."""
        try:
            self._served.stop()
        except BaseException:
            if error is None:
                raise
        if error is None:
            self._served.calls.raise_any()

    def websocket_connect(
        self, url: httpx.URL | str, subprotocols: Sequence[str] | None = None, **more: Any
    ) -> WebSocketSession:
        """A WebSocket, opened when it is entered; see WebSocketSession. `more`: headers, cookies, params of httpx.

        Raises WebSocketDenialResponse if the application refuses the handshake.
        """
        address = httpx.URL(url) if not isinstance(url, httpx.URL) else url
        if address.scheme in ("ws", "wss"):
            address = address.copy_with(scheme={"ws": "http", "wss": "https"}[address.scheme])
        request = self.build_request("GET", address, **more)
        return WebSocketSession(self._served, request, subprotocols or ())


class _Call:
    """One call of an ASGI application."""

    def __init__(self) -> None:
        self.ended = threading.Event()
        self.error: BaseException | None = None
        self.debug: Mapping[str, Any] | None = None
        self.started = False

    def sending(self, send: Any) -> Any:
        """The application's `send`, which also takes http.response.debug: once, before the head of the response."""

        async def note(message: Any) -> None:
            info = message.get("info")
            if not isinstance(info, Mapping):
                raise LocalProtocolError(f"'info' of {DEBUG!r} is a dict, not {type(info).__name__}")
            if self.started:
                raise LocalProtocolError(f"{DEBUG!r} was sent after 'http.response.start'")
            if self.debug is not None:
                raise LocalProtocolError(f"{DEBUG!r} was sent a second time")
            self.debug = info

        async def start(message: Any) -> None:
            await send(message)
            self.started = True  # one that is refused is none

        def call(message: Any) -> Any:
            kind = message.get("type") if isinstance(message, Mapping) else None
            if kind == DEBUG:
                return note(message)
            return start(message) if kind == "http.response.start" else send(message)

        return call


class _Calls:
    """Calls of the application by the ticket of their request, and what it raised."""

    def __init__(self, raises: bool) -> None:
        self.raises = raises
        self.of: dict[bytes, _Call] = {}
        self.errors: list[BaseException] = []  # without a call to belong to
        self.alive: Callable[[], bool] = lambda: False
        self._numbers = itertools.count(1)

    def ticket(self) -> tuple[bytes, bytes]:
        """A field for the head of the next request."""
        return TICKET, b"%d" % next(self._numbers)

    def wrapped(self, app: Any, interface: str) -> Any:
        """An ASGI 3 application that remembers its calls here."""

        async def call(scope: Any, receive: Any, send: Any) -> None:
            entry = None
            if scope["type"] in ("http", "websocket"):
                ticket = b"".join(value for name, value in scope["headers"] if name == TICKET)
                scope["headers"] = [pair for pair in scope["headers"] if pair[0] != TICKET]
                entry = _Call()
                while len(self.of) >= CALLS_MAX:
                    del self.of[next(iter(self.of))]
                self.of[ticket] = entry
            if entry is not None and scope["type"] == "http":
                scope["extensions"][DEBUG] = {}
                send = entry.sending(send)
            try:
                if interface == "asgi2":
                    await app(scope)(receive, send)
                else:
                    await app(scope, receive, send)
            except BaseException as error:  # pytest.fail() in the application fails the test
                passing = isinstance(error, asyncio.CancelledError | KeyboardInterrupt) or _is_departure(error)
                if entry is not None and not passing:
                    entry.error = error
                raise
            finally:
                if entry is not None:
                    entry.ended.set()

        return call

    def tell(self, error: BaseException) -> None:
        """Server.on_exception of a native or WSGI application."""
        self.errors.append(error)

    def debug(self, ticket: bytes) -> Mapping[str, Any] | None:
        """What the application said with http.response.debug; the head of the response is here."""
        entry = self.of.get(ticket)
        return None if entry is None else entry.debug

    def over(self, ticket: bytes) -> None:
        """The answer is here, or never will be. Wait for the call, and raise what it raised."""
        entry = self.of.pop(ticket, None)
        if entry is not None:
            while not entry.ended.wait(PATIENCE) and self.alive():
                pass
            error, entry.error = entry.error, None
            if error is not None and self.raises:
                raise error
        self.raise_any()

    def raise_any(self) -> None:
        """What anybody raised that nobody has heard of."""
        for entry in list(self.of.values()):
            if entry.error is not None:
                self.errors.append(entry.error)
                entry.error = None
        if self.errors:
            error = self.errors.pop(0)
            self.errors.clear()
            if self.raises:
                raise error

    def forget(self) -> None:
        self.of.clear()


def _is_departure(error: BaseException) -> bool:
    """Did the client leave, and the application say so? That is no fault of it."""
    if isinstance(error, BaseExceptionGroup):
        return all(map(_is_departure, error.exceptions))
    while error is not None:
        if isinstance(error, ClientDisconnected):
            return True
        found = error.__cause__ or error.__context__
        if found is None:
            return False
        error = found
    return False


class _Transport(httpx.BaseTransport):
    """Sends every request to a server of ours, and starts that if there is none."""

    def __init__(
        self, app: Any, options: dict[str, Any], raises: bool, cert: str | tuple[str, str] | None = None
    ) -> None:
        self._options = {name: value for name, value in options.items() if not (name == "root_path" and value == "")}
        for name in ("host", "port", "bind", "uds", "fd", "lifespan"):
            if name in options:
                raise TypeError(f"TestClient decides about {name!r} itself")
        config = Config.embedded(app, {**self._options, "port": 0})
        self.context = _client_context(cert) if config.tls else None
        self._app, self._interface = load_application(config)
        self._options.pop("factory", None)
        self.tells_calls = self._interface.startswith("asgi")
        self.calls = _Calls(raises)
        self._live: LiveServer | None = None
        self._inner: httpx.HTTPTransport | None = None
        self._finalizer: Any = None

    def serve(self, *, lifespan: bool) -> None:
        app = self._app
        options = {**self._options, "lifespan": "auto" if lifespan else "off", "interface": self._interface}
        if self.tells_calls:
            app = self.calls.wrapped(app, self._interface)
            options["interface"] = "asgi3"
        live = LiveServer(app, options)
        if not self.tells_calls:
            live.server.on_exception = self.calls.tell
        live.start()
        inner = httpx.HTTPTransport(trust_env=False, verify=self.context or True)
        self._live, self._inner = live, inner
        self.calls.alive = lambda: live.alive
        self._finalizer = weakref.finalize(self, _let_go, live, inner)

    def stop(self) -> None:
        live, self._live = self._live, None
        inner, self._inner = self._inner, None
        if self._finalizer is not None:
            self._finalizer.detach()
        if inner is not None:
            inner.close()  # or the server would wait for them to say something
        if live is not None:
            live.join()
            self.calls.forget()
            live.raise_failure()

    def close(self) -> None:
        self.stop()

    @property
    def address(self) -> tuple[str, int]:
        """Where the server is; it runs now."""
        if self._live is None:
            self.serve(lifespan=False)
        assert self._live is not None
        return "127.0.0.1", self._live.server.port

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        scheme = "http" if self.context is None else "https"
        if request.url.scheme != scheme:
            raise httpx.UnsupportedProtocol(f"TestClient speaks {scheme}, not {request.url.scheme!r}: {request.url}")
        host, port = self.address
        inner = self._inner
        assert inner is not None
        ticket = self.calls.ticket()
        fields = request.headers.raw
        moved = httpx.Request(
            request.method,
            request.url.copy_with(host=host, port=port),
            headers=[*fields, ticket] if self.tells_calls else fields,
            stream=request.stream,
            extensions={"sni_hostname": request.url.host, **request.extensions},
        )
        try:
            response = inner.handle_request(moved)
        except httpx.TransportError:
            self.calls.raise_any()  # which is why there is no answer
            raise
        assert isinstance(response.stream, httpx.SyncByteStream)
        answer = httpx.Response(
            response.status_code,
            headers=response.headers,
            stream=_Stream(response.stream, self.calls, ticket[1]),
            extensions=response.extensions,
        )
        info = self.calls.debug(ticket[1])
        if info is not None:
            answer.extensions[DEBUG] = info
            for name in STARLETTES & info.keys():
                setattr(answer, name, info[name])
        return answer


def _client_context(cert: str | tuple[str, str] | None) -> ssl.SSLContext:
    """For a server of our own, on this machine: whether it is the right one is no question."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if cert is not None:
        context.load_cert_chain(*((cert,) if isinstance(cert, str) else cert))
    return context


class _Stream(httpx.SyncByteStream):
    """The body of a response; behind it the application has its say."""

    def __init__(self, inner: httpx.SyncByteStream, calls: _Calls, ticket: bytes) -> None:
        self._inner = inner
        self._calls = calls
        self._ticket = ticket

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from self._inner
        except httpx.TransportError:
            self._calls.over(self._ticket)  # which is why it was cut short
            raise
        self._calls.over(self._ticket)

    def close(self) -> None:
        self._inner.close()


def _let_go(live: LiveServer, inner: httpx.HTTPTransport) -> None:
    """Of a client that nobody has closed."""
    inner.close()
    live.join()
