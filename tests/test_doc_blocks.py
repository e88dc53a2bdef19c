"""Every block of code in README.md, CONTRIBUTING.md and docs/ is run, or it says here why not.

Of Python: excerpts of tiny_server.py (test_docs.py), files that a guide names and serves (test_site.py), applications
(test_docs.py); all others here. Of shell: every command of ours is read by its own parser; the tour's experiments and the
quick start's questions are put to a server.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from process.running import Running
from test_docs import DOCS, OURS, ROOT, blocks, name
from test_site import GUIDES

from fastserve import cli
from fastserve.lens import commands as lens_commands
from fastserve.process.arguments import make_parser

# --------------------------------------------------------------------------------------------------------- Python


def run_elsewhere(page: Path, block: str) -> bool:
    """By another file of tests: see the head of this one."""
    return (
        page.name == "follow-one-request.md"
        or re.search(r"^app = ", block, re.MULTILINE) is not None
        or (page.name in GUIDES and re.match(r"# [\w/]+\.py\n", block) is not None)
    )


def serve_script(block: str) -> None:
    """A program that serves until it is told to stop: on a port of ours."""
    assert block.count("port=8000") == 1
    command = [sys.executable, "-c", block.replace("port=8000", "port=0")]
    with Running(cwd=ROOT, command=command) as server:
        assert server.ready().get("/")
        assert server.stop() == 0


def serve_app(block: str) -> None:
    from fastserve.testing import live_server

    space: dict[str, Any] = {"__name__": "documentation"}
    exec(compile(block, "documentation", "exec"), space)
    import urllib.request

    with live_server(space["app"]) as url, urllib.request.urlopen(url, timeout=10) as answer:
        assert answer.read() == b"Hello, World!"


def run_program(block: str, **names: Any) -> dict[str, Any]:
    space = {"__name__": "documentation", **names}
    exec(compile(block, "documentation", "exec"), space)
    return space


def readme(found: list[str], _tmp: Path) -> None:
    script, embedded = found
    serve_script(script)
    asyncio.run(run_program(embedded)["main"]())


def embedding(found: list[str], _tmp: Path) -> None:
    script, program = found
    serve_script(script)
    run_program(program)


def only_app(found: list[str], _tmp: Path) -> None:
    (block,) = found
    serve_app(block)


def hooks(found: list[str], tmp: Path) -> None:
    (block,) = found
    (tmp / "mine.py").write_text(block)
    (tmp / "web.py").write_text("from fastserve import App\napp = App()\n")
    with Running("web", "--port", "0", "--hooks", "mine", cwd=tmp) as server:
        server.ready()
        assert server.stop() == 0
        assert server.out.startswith("serving 127.0.0.1:")


def mark(found: list[str], _tmp: Path) -> None:
    (block,) = found
    run_program(block)


def mended(found: list[str], _tmp: Path) -> None:
    """The handler that replaces the one of examples/shop.py: the same answer."""
    from examples import shop
    from fastserve import App, Query

    (block,) = found
    names = {key: value for key, value in vars(shop).items() if not key.startswith("__")}
    space = run_program(block, **{**names, "asyncio": asyncio, "Query": Query, "app": App()})
    told = [asyncio.run(report(3)).splitlines() for report in (space["report"], shop.report)]
    assert [len(lines) for lines in told] == [3, 3] and told[0][2].startswith("2: ")


def of_testing(found: list[str], tmp: Path) -> None:
    """With the application above them on the page, and the example of deploy/ as shop.web."""
    tests, fixture, session, errors = found
    app = blocks(DOCS / "testing.md", "python")[0]
    shutil.copytree(ROOT / "deploy" / "app" / "shop", tmp / "shop")
    (tmp / "test_client.py").write_text(app + "\n\n" + tests)
    use = "\n\ndef test_url(url):\n    assert urlopen(url).status == 200\n"
    (tmp / "test_fixtures.py").write_text("from urllib.request import urlopen\n" + session + "\n\n" + fixture + use)
    (tmp / "test_errors.py").write_text("def test_it():\n" + "".join(f"    {line}\n" for line in errors.splitlines()))
    plugin = [] if any(one.value == "fastserve.pytest_plugin" for one in entry_points(group="pytest11")) else [
        "-p", "fastserve.pytest_plugin"
    ]  # fmt: skip
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:dash", *plugin]
    result = subprocess.run(command, cwd=tmp, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0 and "5 passed" in result.stdout, result.stdout + result.stderr


RUNS: dict[str, Callable[[list[str], Path], None]] = {
    "README.md": readme,
    "asgi.md": only_app,
    "configuration.md": hooks,
    "embedding.md": embedding,
    "lens.md": mark,
    "one-stall.md": mended,
    "testing.md": of_testing,
    "wsgi.md": only_app,
}


def left(page: Path) -> list[str]:
    return [block for block in blocks(page, "python") if not run_elsewhere(page, block)]


@pytest.mark.parametrize("page", [page for page in OURS if left(page) and page.name != "findings.md"], ids=name)
def test_python_that_no_other_test_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "path", [*sys.path])
    assert page.name in RUNS, f"nobody runs the Python of {name(page)}: {left(page)}"
    RUNS[page.name](left(page), tmp_path)


class World(SimpleNamespace):
    """What the examples of docs/findings.md use and do not show."""

    def __init__(self) -> None:
        async def one(*_arguments: object) -> str:
            return "one"

        async def get(_url: str) -> Any:
            return SimpleNamespace(text="9.90")

        @contextlib.asynccontextmanager
        async def acquire() -> Any:
            async def fetchrow(_query: str, _number: int) -> dict[str, str]:
                return {"name": "milk"}

            yield SimpleNamespace(fetchrow=fetchrow)

        class Table:
            async def __aiter__(self) -> Any:
                for number in range(450):
                    yield SimpleNamespace(name="milk", price=number)

        frame = SimpleNamespace(to_html=lambda: "<table>")
        sys.modules["pandas"] = SimpleNamespace(DataFrame=lambda: frame)  # type: ignore[assignment]
        super().__init__(
            asyncio=asyncio,
            load=one,
            render=lambda rows: f"<{rows}>",
            requests=SimpleNamespace(get=lambda _url: SimpleNamespace(text="9.90")),
            client=SimpleNamespace(get=get),
            pool=SimpleNamespace(acquire=acquire),
            lock=asyncio.Lock(),
            locks=collections.defaultdict(asyncio.Lock),
            cache={},
            profile_of=one,
            orders_of=one,
            advice_for=one,
            notify=one,
            ask=one,
            table=Table(),
        )


ARGUMENTS: dict[str, tuple[object, str]] = {
    "report": (2026, "<one>"),
    "price": ("milk", "9.90"),
    "chart": (None, "b'<table>'"),
    "show": (7, ""),  # two examples, with two answers
    "cached": ("key", "one"),
    "page": (1, "('one', 'one', 'one')"),
    "wait_for": (SimpleNamespace(done=True, finished=SimpleNamespace(wait=lambda: asyncio.sleep(0))), "None"),
    "order": (1, "done"),
    "lifespan": (None, "None"),
    "rows": (None, "".join(f"milk;{number}\n" for number in range(450))),
}
"""Of a function of docs/findings.md: what it is called with, and what comes of it, the wrong way and the right one."""


@pytest.mark.parametrize("block", blocks(DOCS / "findings.md", "python"))
def test_the_examples_of_findings_work(block: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", sys)  # the World's, and gone behind us

    async def call() -> str:
        space = run_program(block, **vars(World()))
        (function,) = re.findall(r"^async def (\w+)", block, re.MULTILINE)
        argument, _ = ARGUMENTS[function]
        made = space[function](*([] if argument is None and function != "lifespan" else [argument]))
        if hasattr(made, "__aiter__"):
            pieces = [piece async for piece in made]
            return "".join(pieces) if pieces != [None] else "None"
        answer = str(await made)
        await asyncio.sleep(0)  # for what it has left behind
        return answer

    try:
        answer = asyncio.run(call())
    finally:
        if "gc.freeze" in block:
            __import__("gc").unfreeze()
    (function,) = re.findall(r"^async def (\w+)", block, re.MULTILINE)
    assert answer == (ARGUMENTS[function][1] or {True: "milk: 9.90", False: "one"}["pool" in block])


# ---------------------------------------------------------------------------------------------------------- shell

NOT_OURS = {
    r"python3 -m venv|(\S+/)?pip install|\.venv/bin/pip install": "test_packaging.py installs in a fresh environment",
    r"apt |adduser |systemctl |cp |nginx -t|sed ": "root's, on a machine of its own: test_deploy.py reads them",
    r"\.venv/bin/python -m pytest|FASTSERVE_\w+=\S+ \.venv/bin/python|\(cd tests": "these very tests",
    r"FASTSERVE_LTO=1 (FASTSERVE_PROFILE=use )?make (pgo|wheel)$": "minutes: test_build.py does it to one module",
    r"python -m benchmarks (report|run) ": "minutes or hours: tests/benchmarks run it with less, and write the page again",
}


def shell_lines() -> list[tuple[Path, str]]:
    return [
        (page, line) for page in OURS for block in blocks(page, "sh") for line in block.splitlines() if line.strip()
    ]


def ours(line: str) -> list[str]:
    """The words behind `fastserve`, if the line starts it."""
    start = re.search(r"(?:^|&& |-- )(?:\S*/)?fastserve (.*)", line)
    return shlex.split(start[1].rstrip("& "), comments=True) if start else []


def understood(words: list[str]) -> None:
    """ConfigError, in one line, if not."""
    command = cli.COMMANDS.get(words[0])
    if words == ["--version"]:
        return
    if command is None or command.serves:
        found = make_parser().parse_args(words[command is not None :])
        assert ":" in (found.app or ":") or "." in found.app, words
    else:
        lens_commands._parser(words[0], command).parse_args(words[1:])


def test_every_command_of_ours_is_understood() -> None:
    found = [words for _, line in shell_lines() if (words := ours(line))]
    assert len(found) > 40
    for words in found:
        understood(words)


def shell(block: str, port: int, cwd: Path) -> str:
    """What bash writes when it is given the block, which speaks to port 8000 or 8001. `python` is this one."""
    text = re.sub(r"127\.0\.0\.1([:/])800[01]", rf"127.0.0.1\g<1>{port}", block)
    bin_ = cwd / "bin"
    bin_.mkdir(exist_ok=True)
    if not (bin_ / "python").exists():
        (bin_ / "python").symlink_to(sys.executable)
    environ = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    result = subprocess.run(["bash", "-c", text], capture_output=True, text=True, timeout=60, cwd=ROOT, env=environ)
    return result.stdout + result.stderr


TOUR: list[str | None] = [
    None,  # the server itself
    r"^HTTP/1.1 408 Request Timeout",
    r"^request_head GET /a%20b\?c=d 1.1(?s:.*)error line_end 400",
    r"^HTTP/1.1 200 OK(?s:.*)HTTP/1.1 200 OK(?s:.*)\nreal\s+0m1",
    r"^at once\nwaited\n(?s:.*)blocked everybody",
    r"^HTTP/1.1 200 OK(?s:.*)transfer-encoding: chunked(?s:.*)HTTP/1.1 200 OK",
    None,  # another server
    r"95\.3\d?M",  # all of it
    r"Re-?using existing (http: )?connection(?s:.*)HTTP/1.1 200 OK",
]
"""What each block of the tour shows."""


def test_the_experiments_of_the_tour_show_what_it_says(tmp_path: Path) -> None:
    found = blocks(DOCS / "follow-one-request.md", "sh")
    assert len(found) == len(TOUR)
    starts = [shlex.split(block)[1:] for block, shows in zip(found, TOUR, strict=True) if shows is None]
    assert [words[0] for words in starts] == ["examples.slow_handler:app", "examples.streaming:app"]
    slow, streams = starts[0], starts[1][:1]
    with Running(*slow, "--port", "0", cwd=ROOT) as first, Running(*streams, "--port", "0", cwd=ROOT) as second:
        first.ready(), second.ready()
        for block, shows in zip(found, TOUR, strict=True):
            if shows is not None:
                port = second.port if "8001" in block else first.port
                said = shell(block, port, tmp_path)
                assert re.search(shows, said), f"{block}\n{said}"
                assert "command not found" not in said


def test_the_questions_of_the_quick_start_are_answered(tmp_path: Path) -> None:
    page = DOCS / "quick-start.md"
    (tmp_path / "hello.py").write_text(blocks(page, "python")[0])
    (questions,) = [block for block in blocks(page, "sh") if block.startswith("curl")]
    with Running("hello:app", "--port", "0", cwd=tmp_path) as server:
        server.ready()
        assert '{"text":"MILK"}' in shell(questions, server.port, tmp_path)
        assert server.get("/notes/2") == '{"text":"bread"}'


def test_every_line_of_shell_is_accounted_for() -> None:
    run_here = {"follow-one-request.md", "quick-start.md"}
    strangers = [
        f"{name(page)}: {line}"
        for page, line in shell_lines()
        if not ours(line) and page.name not in run_here and not any(re.match(one, line) for one in NOT_OURS)
    ]
    known = {"curl"}  # of lens.md, small-box.md: what a guide asks of the server it has just started
    assert not [line for line in strangers if line.partition(": ")[2].split()[0] not in known], strangers
