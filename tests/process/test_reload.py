"""reload: a real server whose files change: replaced without a refused connection, and it survives broken edits."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest
from process.running import Running, alive, get, until

from fastserve.errors import ConfigError
from fastserve.process.config import Config
from fastserve.process.hooks import Hooks
from fastserve.process.reload import FileFilter, Reloader, Watcher
from fastserve.process.sockets import Listeners

APP = """\
import contextlib, os
from fastserve import App

@contextlib.asynccontextmanager
async def lifespan(app):
    os.write(2, b"startup VERSION\\n")
    {startup}
    yield
    os.write(2, b"shutdown VERSION\\n")

app = App(lifespan=lifespan)

@app.get("/")
async def version():
    return "VERSION"

@app.get("/slow")
async def slow():
    import asyncio
    os.write(2, b"slow begins\\n")
    await asyncio.sleep(1.0)
    return "slow VERSION"

@app.get("/endless")
async def endless():
    import asyncio
    os.write(2, b"endless begins\\n")
    await asyncio.sleep(60)

@app.get("/block")
async def block():
    import time
    os.write(2, b"block begins\\n")
    time.sleep(60)

@app.get("/variable")
async def variable():
    return os.environ.get("TEST_VARIABLE", "none")
"""


def write(folder: Path, version: str, startup: str = "pass") -> None:
    """As editors do: the whole new file, renamed into place."""
    beside = folder / ".web.py.new"
    beside.write_text(APP.replace("VERSION", version).replace("{startup}", startup))
    beside.replace(folder / "web.py")


@pytest.fixture(params=["watchfiles", "polling"])
def watching(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    """Environment in which watchfiles is there, or cannot be found."""
    if request.param == "watchfiles":
        return {}
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "sitecustomize.py").write_text(
        "import importlib.util as u\n"
        "find = u.find_spec\n"
        "u.find_spec = lambda name, package=None: None if name == 'watchfiles' else find(name, package)\n"
    )
    return {"PYTHONPATH": str(hidden)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    write(folder, "v1")
    return folder


def start(folder: Path, *arguments: str, **environ: str) -> Running:
    return Running("web:app", "--port", "0", "--reload", *arguments, cwd=folder, **environ)


class Hammer:
    """A thread that connects again and again; what was answered, and what was refused or cut."""

    def __init__(self, port: int) -> None:
        self.answers: list[str] = []
        self.failures: list[str] = []
        self._stop = threading.Event()
        self._port = port
        self._thread = threading.Thread(target=self._body, daemon=True)
        self._thread.start()

    def _body(self) -> None:
        while not self._stop.wait(0.005):
            try:
                self.answers.append(get(self._port))
            except Exception as error:
                self.failures.append(repr(error))

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(15)


def test_a_change_replaces_the_worker_and_no_connection_is_refused(folder: Path, watching: dict[str, str]) -> None:
    with start(folder, **watching) as server:
        server.ready()
        assert ("(polling)" in server.err) is bool(watching)
        hammer = Hammer(server.port)
        for version in ("v2", "v3"):
            write(folder, version)
            until(lambda version=version: version in hammer.answers, f"{version} answers", 20)
            server.wait_for(f"^startup {version}")
        hammer.stop()
        assert not hammer.failures, hammer.failures
        assert server.stop() == 0
        words = [line for line in server.lines if line.startswith(("startup", "shutdown"))]
        assert words == ["startup v1", "shutdown v1", "startup v2", "shutdown v2", "startup v3", "shutdown v3"]
        assert "changed: web.py; reloading" in server.err and "reloaded in" in server.err


def test_two_edits_within_a_second_are_two(folder: Path) -> None:
    """Of the same size, so that Python takes the bytecode of the first for that of the second."""
    second = int(time.time()) * 1_000_000_000

    def edit(version: str, part: int) -> None:
        beside = folder / ".web.py.new"
        beside.write_text(APP.replace("VERSION", version).replace("{startup}", "pass"))
        os.utime(beside, ns=(second + part, second + part))
        beside.replace(folder / "web.py")

    edit("v1", 1)
    with start(folder, PYTHONDONTWRITEBYTECODE="") as server:
        server.ready()
        assert list((folder / "__pycache__").glob("web.*.pyc"))
        edit("v2", 2)
        server.wait_for("^startup v2")
        assert server.stop() == 0


def test_a_request_in_hand_is_finished_by_the_old_code(folder: Path) -> None:
    with start(folder) as server:
        server.ready()
        answer: list[str] = []
        thread = threading.Thread(target=lambda: answer.append(server.get("/slow")))
        thread.start()
        server.wait_for("slow begins")
        write(folder, "v2")
        server.wait_for("^startup v2")
        thread.join(10)
        assert answer == ["slow v1"]
        assert server.get() == "v2"


@pytest.mark.parametrize(
    "broken", ["def broken(:\n", "import nothing_like_this\n", "raise ValueError('no')\n", "app = 5\n"]
)
def test_a_broken_edit_leaves_the_last_good_version_serving(folder: Path, broken: str) -> None:
    with start(folder) as server:
        server.ready()
        (folder / "web.py").write_text(broken)
        server.wait_for("the version before it goes on serving")
        assert server.get() == "v1"
        if "app" not in broken:
            assert server.err.count("Traceback") + server.err.count("SyntaxError: ") // 2 == 1
        write(folder, "v2")
        server.wait_for("^startup v2")
        assert server.get() == "v2"
        assert server.stop() == 0


def test_a_failing_startup_waits_for_the_next_save_and_so_do_clients(folder: Path) -> None:
    with start(folder) as server:
        server.ready()
        port = server.port
        write(folder, "v2", "raise RuntimeError('no database')")
        server.wait_for("the application failed to start: RuntimeError: no database; waiting for a change")
        assert server.err.count("Traceback") == 1 and "shutdown v1" in server.lines
        answer: list[str] = []
        thread = threading.Thread(target=lambda: answer.append(get(port)))
        thread.start()  # connects: the parent holds the socket
        write(folder, "v3")
        thread.join(15)
        assert answer == ["v3"]


def test_broken_from_the_start_waits_too_but_a_wrong_name_does_not(folder: Path) -> None:
    (folder / "web.py").write_text("import nothing_like_this\n")
    with start(folder) as server:
        server.wait_for("No module named 'nothing_like_this'; waiting for a change")
        write(folder, "v1")
        assert server.ready().get() == "v1"
    with Running("wob:app", "--port", "0", "--reload", cwd=folder) as server:
        assert server.wait() == 3
        assert server.lines[-1].startswith('fastserve: error: module "wob" not found') and len(server.lines) == 1


def test_a_worker_that_dies_is_waited_for(folder: Path) -> None:
    with start(folder) as server:
        server.ready()
        os.kill(server.workers[0], signal.SIGKILL)
        server.wait_for("was killed by SIGKILL; waiting for a change")
        write(folder, "v2")
        server.wait_for("^startup v2")
        assert server.get() == "v2"


def test_streams_do_not_hold_the_reload_beyond_the_limit(folder: Path) -> None:
    with start(folder, "--timeout-graceful-shutdown", "0.5") as server:
        server.ready()
        for path in ("/endless", "/block"):
            client = socket.create_connection(("127.0.0.1", server.port))
            client.sendall(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
            server.wait_for(f"{path[1:]} begins")
            write(folder, f"after-{path[1:]}")
            server.wait_for(f"^startup after-{path[1:]}", 20)
            client.close()
        assert "shutdown v1" in server.lines and "its shutdown is cut" in server.err
        assert server.get() == "after-block"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 0), (signal.SIGQUIT, 1)])
def test_signals(folder: Path, number: int, code: int) -> None:
    with start(folder) as server:
        server.ready()
        (worker,) = server.workers
        os.killpg(server.pid, number) if number == signal.SIGINT else server.signal(number)
        assert server.wait() == code
        assert not alive(worker)
        assert ("shutdown v1" in server.lines) is (code == 0)


def test_a_second_signal_forces(folder: Path) -> None:
    with start(folder, "--timeout-graceful-shutdown", "30s") as server:
        server.ready()
        client = socket.create_connection(("127.0.0.1", server.port))
        client.sendall(b"GET /endless HTTP/1.1\r\nHost: a\r\n\r\n")
        server.wait_for("endless begins")
        server.signal(signal.SIGTERM)
        server.wait_for("stopping")
        time.sleep(0.1)
        server.signal(signal.SIGTERM)
        assert server.wait() == 1
        client.close()


def test_hangup_reloads_without_a_change(folder: Path) -> None:
    with start(folder) as server:
        server.ready().signal(signal.SIGHUP)
        server.wait_for("SIGHUP; reloading")
        server.wait_for("^startup v1", count=2)
        assert server.get() == "v1"


def test_the_child_ends_with_its_parent(folder: Path) -> None:
    with start(folder) as server:
        server.ready()
        (worker,) = server.workers
        client = socket.create_connection(("127.0.0.1", server.port))
        client.sendall(b"GET /block HTTP/1.1\r\nHost: a\r\n\r\n")
        server.wait_for("block begins")
        server.signal(signal.SIGKILL)
        until(lambda: not alive(worker), "the child ends", 5)
        client.close()


def test_settings_are_read_again(folder: Path) -> None:
    (folder / "fastserve.toml").write_text('env-file = ".env"\n')
    (folder / ".env").write_text("TEST_VARIABLE=one\n")
    with start(folder, "--header", "X-A: 1") as server:
        assert server.ready().get("/variable") == "one"
        (folder / ".env").write_text("TEST_VARIABLE=number two\n")
        server.wait_for(r"changed: \.env; reloading")
        server.wait_for("^startup v1", count=2)
        assert server.get("/variable") == "number two"
        (folder / "fastserve.toml").write_text("nonsense = 1\n")
        server.wait_for("the options were not read again: fastserve.toml:1: unknown option 'nonsense'")
        server.wait_for("^startup v1", count=3)
        assert server.get("/variable") == "number two"


def test_includes_and_excludes_end_to_end(folder: Path) -> None:
    (folder / "page.html").write_text("1")
    (folder / "notes.txt").write_text("1")
    (folder / "made.py").write_text("1")
    with start(folder, "--reload-include", "*.html", "--reload-exclude", "made.py", "--reload-delay", "50ms") as server:
        server.ready()
        (folder / "notes.txt").write_text("22")
        (folder / "made.py").write_text("22")
        time.sleep(1.0)
        (folder / "page.html").write_text("22")
        server.wait_for("changed: page.html; reloading")
        assert server.err.count("; reloading") == 1


def test_dev_is_the_pleasant_default(folder: Path) -> None:
    with Running("dev", "web:app", "--port", "0", cwd=folder) as server:
        server.ready()
        assert server.get() == "v1"
        assert len(server.workers) == 1
        write(folder, "v2")
        server.wait_for("^startup v2")
        assert server.get() == "v2"
        assert server.stop() == 0
        assert server.out.count('"GET / HTTP/1.1" 200') == 2


def test_run_from_a_program(folder: Path) -> None:
    (folder / "prog.py").write_text(
        "import fastserve\nif __name__ == '__main__':\n    fastserve.run('web:app', port=0, reload=True)\n"
    )
    with Running(cwd=folder, command=[sys.executable, "prog.py"]) as server:
        assert server.ready().get() == "v1"
        write(folder, "v2")
        server.wait_for("^startup v2")
        assert server.get() == "v2"
        assert server.stop() == 0


def test_what_cannot_be_reloaded_is_refused() -> None:
    for options, text in (
        ({}, "reload needs the application by name"),
        ({"app": "a:b", "hooks": lambda: None}, "reload needs options that are text"),
        ({"app": "a:b", "reload_dir": "/no/such"}, "reload-dir: there is no folder '/no/such'"),
    ):
        config = Config(**{"app": object(), "reload": True, **options})
        with pytest.raises(ConfigError, match=text):
            Reloader(config, Hooks(config), lambda *_: None, lambda: Listeners(()))


# -------------------------------------------------------------------------------------------------- which files


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    for name in (
        "a.py",
        "b.html",
        "sub/c.py",
        ".git/d.py",
        "node_modules/e.py",
        "sub/.hidden.py",
        "sub/f.pyc",
        "gen/g.py",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    yield tmp_path


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({}, "a.py gen/g.py sub/c.py"),
        ({"reload_include": ("*.html",)}, "a.py b.html gen/g.py sub/c.py"),
        ({"reload_include": ("*.html",), "reload_exclude": ("*.py",)}, "b.html"),
        ({"reload_exclude": ("gen",)}, "a.py sub/c.py"),
        ({"reload_exclude": ("sub/*.py",)}, "a.py gen/g.py"),
        ({"reload_dir": ("sub",)}, "sub/c.py"),
        ({"reload_dir": ("sub", "gen")}, "gen/g.py sub/c.py"),
        ({"reload_dir": ("sub",), "reload_include": ("gen",)}, "gen/g.py sub/c.py"),
        ({"reload_dir": ("sub", ".")}, "a.py gen/g.py sub/c.py"),
        ({"reload_include": (".*",)}, "a.py gen/g.py sub/.hidden.py sub/c.py"),
    ],
)
def test_which_files_matter(tree: Path, options: dict[str, tuple[str, ...]], names: str) -> None:
    files = FileFilter(Config(app="a:b", **options))
    assert sorted(os.path.relpath(path, tree) for path in files.snapshot()) == names.split()
    assert not files.wants("/elsewhere/x.py")


def test_the_command_in_a_terminal_has_colours(folder: Path) -> None:
    ours, theirs = os.openpty()
    clean = {k: v for k, v in os.environ.items() if k != "NO_COLOR" and not k.startswith("FASTSERVE_")}
    process = subprocess.Popen(
        [sys.executable, "-m", "fastserve", "dev", "web:app", "--port", "0"],
        cwd=folder, env={**clean, "TERM": "xterm"}, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=theirs,
    )  # fmt: skip
    os.close(theirs)
    text = b""
    try:
        while b"Ctrl-C" not in text:
            text += os.read(ours, 4096)
        (folder / "web.py").write_text("def broken(:\n")
        while b"goes on serving" not in text:
            text += os.read(ours, 4096)
        assert b"\x1b[31mERROR\x1b[0m" in text and b"SyntaxError" in text
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
        os.close(ours)


def test_a_watcher_that_cannot_watch_looks_at_the_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """inotify has limits, and watchfiles takes no folder whose name is not UTF-8."""
    watchfiles = pytest.importorskip("watchfiles")

    def watch(*_folders: object, **_options: object) -> NoReturn:
        raise OSError("OS file watch limit reached.")

    monkeypatch.setattr(watchfiles, "watch", watch)
    monkeypatch.setattr(logging.getLogger("fastserve"), "propagate", True)
    files = FileFilter(Config.of("app:app", {"reload_dir": (str(tmp_path),)}))
    changed: list[str] = []
    watcher = Watcher(files, 0.05, changed.extend)
    watcher.start()
    try:
        until(lambda: "watchfiles cannot watch (OS file watch limit reached.)" in caplog.text, "a warning")
        time.sleep(0.3)
        (tmp_path / "new.py").write_text("x = 1\n")
        until(lambda: changed == [str(tmp_path / "new.py")], "a change")
        assert watcher.kind == "polling"
    finally:
        watcher.stop()
