"""learn: `fastserve learn`: lessons in a browser, each a prediction, a run, and the picture of that very run.

Room: the top. Called by: commands. Calls: lessons, page, model, recording, wording; process (config, run, server, lifeline,
loops); fastserve, as an application does.

Three processes of this machine, all on the loopback interface: this one serves the pages; two others are servers like any
user's, with their lens on: lessons/demo.py on an event loop, lessons/threads.py in threads. A run sends the lesson's
requests to one of them, reads its recording from outside, and keeps what began since. So a handler that blocks blocks
itself, and never the page about it. The two end with this process, however it ends: they hold the end of a pipe
(process/lifeline).

Nothing is loaded from anywhere else. Only requests that name this address are answered (a page elsewhere cannot make a
browser's name lookup lead here), and a run is begun by this page alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import html
import inspect
import io
import keyword
import os
import signal
import socket
import subprocess
import sys
import time
import tokenize
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.resources import files
from types import TracebackType
from typing import Any

from fastserve import App, HTMLResponse, HTTPException, Request, Response
from fastserve.errors import LensError
from fastserve.lens import page
from fastserve.lens.lessons.course import LESSONS, Call, Facts, Lesson, Option
from fastserve.lens.model import Model, RequestTrace, build
from fastserve.lens.recording import Recording
from fastserve.lens.wording import duration
from fastserve.process.config import Config
from fastserve.process.loops import new_loop
from fastserve.process.run import serve as run_server
from fastserve.process.server import Server

__all__ = ["Site", "Subject", "run"]

START_LIMIT = 20.0  # seconds for a server to start
RUN_LIMIT = 10.0  # seconds for all requests of a run
WRITTEN_LIMIT = 1.0  # seconds for the last event of a run to be in the recording
PICTURES = 50  # runs that are kept
THREADS = 2  # of the WSGI application: the lesson says so
SLOW_READ, SLOW_PAUSE = 1 << 18, 0.02  # bytes, seconds: how a slow client reads
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "frame-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}


# ------------------------------------------------------------------------------------------------ servers to look at


class Subject:
    """A server of its own process, whose lens records everything. Use it with `async with`."""

    def __init__(self, app: str, **options: Any) -> None:
        self.app = app
        self.options = options
        self.process: subprocess.Popen[bytes] | None = None
        self.port = 0
        self._lock = asyncio.Lock()  # one run at a time, so that runs are not in each other's pictures
        self._pipe = -1

    async def __aenter__(self) -> Subject:
        end, self._pipe = os.pipe()
        os.set_inheritable(self._pipe, False)
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        try:
            self.port = listener.getsockname()[1]
            given = f"{self.app!r}, {self.options!r}, {listener.fileno()}, {end}"
            command = f"from fastserve.lens.learn import child; child({given})"
            self.process = subprocess.Popen(
                [sys.executable, "-c", command],
                pass_fds=(listener.fileno(), end),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                start_new_session=True,  # a Ctrl-C in the terminal is for us, and we tell it
            )
        finally:
            os.close(end)
            listener.close()
        try:
            await self._started()
        except BaseException:
            self._end()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    async def _started(self) -> None:
        until = time.monotonic() + START_LIMIT
        while True:
            assert self.process is not None
            code = self.process.poll()
            if code is not None:
                raise LensError(f"{self.app} could not be served: its process ended with code {code}")
            try:
                if Recording.take(self.process.pid).workers:
                    return
            except LensError as error:
                if time.monotonic() > until:
                    raise LensError(f"{self.app} did not start within {START_LIMIT:g} s: {error}") from None
            await asyncio.sleep(0.02)

    def _end(self) -> None:
        if self._pipe >= 0:
            os.close(self._pipe)  # the other end sees it, and ends at once
            self._pipe = -1
        if self.process is not None:
            self.process.wait()

    async def send(self, calls: tuple[Call, ...]) -> Model:
        """Send them, and what the lens saw of them: only requests that began since."""
        async with self._lock:
            assert self.process is not None
            begun = time.monotonic_ns()
            try:
                async with asyncio.timeout(RUN_LIMIT):
                    await asyncio.gather(*(self._ask(call) for call in calls))
            except (TimeoutError, OSError) as error:
                raise LensError(f"the server for the lessons does not answer: {error or 'it takes too long'}") from None
            until = time.monotonic() + WRITTEN_LIMIT
            while True:
                model = since(Recording.take(self.process.pid), begun)
                over = {request.path for request in model.requests if request.finished}
                if over >= {call.path for call in calls} or time.monotonic() > until:
                    return model
                await asyncio.sleep(0.02)

    async def _ask(self, call: Call) -> None:
        await asyncio.sleep(call.at)
        client = socket.socket()
        if call.slow:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        client.setblocking(False)
        loop = asyncio.get_running_loop()
        with client:
            await loop.sock_connect(client, ("127.0.0.1", self.port))
            head = f"GET {call.path} HTTP/1.1\r\nhost: 127.0.0.1:{self.port}\r\nconnection: close\r\n\r\n"
            await loop.sock_sendall(client, head.encode())
            while await loop.sock_recv(client, SLOW_READ):
                if call.slow:
                    await asyncio.sleep(SLOW_PAUSE)


def since(recording: Recording, begun: int) -> Model:
    """Of all that is recorded, what began after that moment."""
    for worker in recording.workers:
        worker.events = [event for event in worker.events if event.t >= begun]
        worker.lost = 0
    model = build(recording)
    model.requests = [request for request in model.requests if not request.partial]
    model.by_id = {request.id: request for request in model.requests}
    return model


def child(app: str, options: dict[str, Any], listener: int, pipe: int) -> None:
    """What the process of a Subject does."""
    from fastserve.process import lifeline

    lifeline.hold(pipe)
    quiet = {"access_log": False, "log_level": "error", "supervisor": False, "lens": "full"}
    sys.exit(run_server(Config.of(app, {"fd": str(listener), **quiet, **options})))


# -------------------------------------------------------------------------------------------------------------- a run


def facts_of(model: Model, calls: tuple[Call, ...]) -> tuple[Facts, list[RequestTrace]]:
    """The figures of the calls' requests. LensError if one of them was not seen."""
    by_path = {request.path: request for request in model.requests}
    missing = [call.path for call in calls if call.path not in by_path]
    if missing:
        raise LensError(f"the lens has not seen {', '.join(missing)}")
    found = [by_path[call.path] for call in calls]
    whole = max(request.until for request in found) - min(request.start for request in found)
    return Facts(
        all=whole,
        total=[request.total for request in found],
        busy=[request.busy for request in found],
        scheduled=[request.scheduled for request in found],
        idle=[request.idle for request in found],
        late=[request.late for request in found],
        kernel=[request.kernel_wait or 0 for request in found],
        queue=[request.thread_queue for request in found],
        write=[request.write_wait for request in found],
        tasks=[len(request.tasks) for request in found],
    ), found


class _Words:
    """Figures in a sentence: `{total[0]}` becomes "102 ms"."""

    def __init__(self, facts: Facts) -> None:
        values = {name: getattr(facts, name) for name in Facts.__dataclass_fields__}
        self.values: dict[str, Any] = {
            name: [duration(one) for one in value] if isinstance(value, list) else duration(value)
            for name, value in values.items()
        }
        self.values["tasks"] = [str(number) for number in facts.tasks]

    def fill(self, text: str) -> str:
        return text.format_map(self.values)


@dataclass
class Outcome:
    """What the page about a run shows."""

    picture: str  # HTML
    held: bool  # the run shows what the lesson says
    tells: list[str]
    findings: int = 0


async def run_lesson(lesson: Lesson, subject: Subject) -> Outcome:
    model = await subject.send(lesson.calls)
    facts, found = facts_of(model, lesson.calls)
    words = _Words(facts)
    picture = page.render(
        model, with_source=True, strip_paths=True, compact=True, title=lesson.title, select=found[lesson.select].id
    )
    return Outcome(picture, lesson.holds(facts), [words.fill(text) for text in lesson.tells])


# ------------------------------------------------------------------------------------------------------------ the pages


@dataclass
class Site:
    """The application that serves the lessons. `loop` and `threads` are the servers that are looked at."""

    loop: Subject
    threads: Subject
    pictures: dict[int, str] = field(default_factory=dict)
    runs: int = 0

    def app(self) -> App:
        app = App()
        app.get("/")(self.front)
        app.get("/style.css")(self.style)
        app.get("/script.js")(self.script)
        app.get("/lesson/{key}")(self.lesson)
        app.post("/run/{key}")(self.run)
        app.get("/picture/{number:int}")(self.picture)
        app.before_request(_from_here)
        return app

    async def front(self) -> Response:
        return _page("The lens: lessons", _front())

    async def style(self) -> Response:
        return Response(
            _asset("page.css") + _asset("learn.css"), headers={**HEADERS, "content-type": "text/css; charset=utf-8"}
        )

    async def script(self) -> Response:
        return Response(_asset("learn.js"), headers={**HEADERS, "content-type": "text/javascript; charset=utf-8"})

    async def lesson(self, key: str) -> Response:
        lesson = _lesson(key)
        return _page(lesson.title, _lesson_page(lesson))

    async def run(self, key: str) -> dict[str, Any]:
        lesson = _lesson(key)
        try:
            outcome = await run_lesson(lesson, self.threads if lesson.wsgi else self.loop)
        except LensError as error:
            raise HTTPException(503, {"error": str(error)}) from None
        self.runs += 1
        self.pictures[self.runs] = outcome.picture
        self.pictures.pop(self.runs - PICTURES, None)
        return {
            "picture": f"/picture/{self.runs}",
            "held": outcome.held,
            "tells": outcome.tells,
            "answer": lesson.answer,
        }

    async def picture(self, number: int) -> Response:
        if number not in self.pictures:
            raise HTTPException(404, {"error": "this run is no longer kept: run the lesson again"})
        headers = {**HEADERS, "content-security-policy": "frame-ancestors 'self'"}  # the page has its own, and stricter
        return HTMLResponse(self.pictures[number], headers=headers)


async def _from_here(request: Request) -> Response | None:
    """Refuse what another page has sent, or a name that somebody else has made to lead here."""
    name = request.headers.get("host", "").rpartition(":")[0]
    origin = request.headers.get("origin")
    if name not in ("127.0.0.1", "localhost") or (
        origin and origin.removeprefix("http://") != request.headers.get("host")
    ):
        return Response("This page answers to http://127.0.0.1 alone.\n", 421)
    return None


def _lesson(key: str) -> Lesson:
    found = next((lesson for lesson in LESSONS if lesson.key == key), None)
    if found is None:
        raise HTTPException(404, {"error": "there is no such lesson"})
    return found


@lru_cache
def _asset(name: str) -> str:
    return files("fastserve.lens").joinpath(name).read_text(encoding="utf-8")


def _page(title: str, content: str) -> Response:
    text = _asset("learn.html")
    for name, value in (("TITLE", html.escape(title)), ("LESSONS", _menu()), ("CONTENT", content)):
        text = text.replace(f"@{name}@", value)
    return HTMLResponse(text, headers=HEADERS)


def _menu() -> str:
    rows = [
        f'<li><a href="/lesson/{lesson.key}" data-key="{lesson.key}"><span>{number}</span>'
        f"{html.escape(lesson.title)}</a></li>"
        for number, lesson in enumerate(LESSONS, 1)
    ]
    return "\n".join(rows)


def _front() -> str:
    cards = [
        f'<a class="card lesson-card" href="/lesson/{lesson.key}"><span class="number">{number}</span>'
        f"<h2>{html.escape(lesson.title)}</h2><p>{html.escape(lesson.idea)}</p></a>"
        for number, lesson in enumerate(LESSONS, 1)
    ]
    return _asset("learn_front.html").replace("@CARDS@", "\n".join(cards))


def _lesson_page(lesson: Lesson) -> str:
    number = LESSONS.index(lesson) + 1
    following = LESSONS[number] if number < len(LESSONS) else None
    source = "\n\n\n".join(_source_of(one) for one in lesson.shown)
    sends = "".join(
        f"<li><code>GET {html.escape(call.path)}</code>"
        + (f" after {call.at * 1000:g} ms" if call.at else " at once")
        + (", reading slowly" if call.slow else "")
        + "</li>"
        for call in lesson.calls
    )
    options = "".join(
        f'<label class="option"><input type="radio" name="option" value="{index}"><span>{html.escape(option.text)}</span>'
        f"{_sketch(option)}</label>"
        for index, option in enumerate(lesson.options)
    )
    words = "".join(
        f"<tr><td><code>{html.escape(python)}</code></td><td><code>{html.escape(rust)}</code></td><td>{html.escape(text)}</td></tr>"
        for python, rust, text in lesson.words
    )
    further = (
        f'<a class="next" href="/lesson/{following.key}">Next: {html.escape(following.title)} →</a>'
        if following
        else '<a class="next" href="/">All lessons</a>'
    )
    values = {
        "KEY": lesson.key,
        "NUMBER": str(number),
        "TITLE": html.escape(lesson.title),
        "IDEA": html.escape(lesson.idea),
        "SOURCE": painted(source),
        "SENDS": sends,
        "QUESTION": html.escape(lesson.question),
        "OPTIONS": options,
        "WORDS": words,
        "NEXT": further,
    }
    text = _asset("learn_lesson.html")
    for name, value in values.items():
        text = text.replace(f"@{name}@", value)
    return text


def _sketch(option: Option) -> str:
    """The picture of a prediction."""
    rows = option.rows()
    height = 20 * len(rows) + 4
    parts = [f'<svg class="sketch" viewBox="0 0 330 {height}" width="330" height="{height}" aria-hidden="true">']
    for row, (name, bars) in enumerate(rows):
        y = 20 * row + 12
        parts.append(f'<text x="0" y="{y}">{html.escape(name)}</text>')
        for kind, start, end in bars:
            x, width = 62 + start * 260, (end - start) * 260
            if kind in ("idle", "wait"):
                parts.append(f'<line class="{kind}" x1="{x:.1f}" x2="{x + width:.1f}" y1="{y}" y2="{y}"/>')
            else:
                parts.append(f'<rect class="{kind}" x="{x:.1f}" y="{y - 6}" width="{width:.1f}" height="12" rx="2"/>')
    return "".join([*parts, "</svg>"])


def _source_of(thing: Any) -> str:
    return inspect.getsource(thing).rstrip()


def painted(source: str) -> str:
    """Python as HTML, with its words, strings, numbers and comments marked."""
    lines = source.splitlines(keepends=True)
    out: list[str] = []
    at = (1, 0)

    def upto(end: tuple[int, int]) -> str:
        nonlocal at
        (row, column), at = at, end
        if row == end[0]:
            return lines[row - 1][column : end[1]] if row <= len(lines) else ""
        middle = "".join(lines[row : end[0] - 1])
        return lines[row - 1][column:] + middle + (lines[end[0] - 1][: end[1]] if end[0] <= len(lines) else "")

    kinds = {tokenize.STRING: "string", tokenize.NUMBER: "digit", tokenize.COMMENT: "comment"}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        out.append(html.escape(upto(token.start)))
        kind = kinds.get(token.type) or (
            "word" if token.type == tokenize.NAME and keyword.iskeyword(token.string) else ""
        )
        text = html.escape(upto(token.end))
        out.append(f'<b class="{kind}">{text}</b>' if kind and text else text)
    return "".join(out)


# ------------------------------------------------------------------------------------------------------------- the command


@contextlib.asynccontextmanager
async def serving(port: int = 0) -> AsyncIterator[str]:
    """The lessons, at this address while it is entered. ConfigError or LensError if they cannot be served."""
    async with (
        Subject("fastserve.lens.lessons.demo:app", name="learn") as loop,
        Subject(
            "fastserve.lens.lessons.threads:app", name="learn-threads", interface="wsgi", threads=THREADS
        ) as threads,
    ):
        site = Site(loop, threads)
        async with Server(site.app(), host="127.0.0.1", port=port, lens="off") as server:
            yield server.url


def run(port: int = 0, browser: bool = False) -> int:
    """Serve the lessons until told to stop."""

    async def serve() -> None:
        stop = asyncio.Event()
        running = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            running.add_signal_handler(number, stop.set)
        async with serving(port) as url:
            print(f"fastserve: lessons at {url}/ (Ctrl-C ends them)", flush=True)
            if browser:
                import webbrowser

                await asyncio.to_thread(webbrowser.open, url + "/")
            await stop.wait()

    with asyncio.Runner(loop_factory=lambda: new_loop("auto")) as runner:
        runner.run(serve())
    return 0
