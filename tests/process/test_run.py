"""run: fastserve.run() from a program, its log and its banner."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
import threading
from pathlib import Path

import pytest
from process.running import Running, get_unix, until

import fastserve
from fastserve.errors import ConfigError

PROGRAM = """\
import sys
import fastserve
from fastserve.errors import ConfigError

app = fastserve.App()

@app.get("/")
def hello():
    return "hello"

if __name__ == "__main__":
    try:
        fastserve.run(app, port=0, workers=int(sys.argv[1]), **eval(sys.argv[2]))
        print("returned", file=sys.stderr)
    except SystemExit as error:
        print("SystemExit", error.code, file=sys.stderr)
    except ConfigError as error:
        print("ConfigError", error.exit_code, error, file=sys.stderr)
"""


def program(tmp_path: Path, workers: int, options: str = "{}") -> Running:
    file = tmp_path / "program.py"
    file.write_text(PROGRAM)
    return Running(str(workers), options, cwd=tmp_path, command=[sys.executable, str(file)])


@pytest.mark.parametrize("workers", [1, 2])
def test_run_serves_an_object_and_returns(tmp_path: Path, workers: int) -> None:
    with program(tmp_path, workers) as server:
        server.ready()
        assert "application  an object of type App (native)" in server.err
        assert server.get() == "hello"
        assert ("(this process)" in server.err) is (
            workers == 1
        )  # a program may have threads: it is not forked unasked
        server.signal(signal.SIGINT)
        assert server.wait() == 0
        assert server.lines[-1] == "returned"
        assert server.lines.count("returned") == 1  # the workers never come back into the program


@pytest.mark.parametrize("workers", [1, 2])
def test_run_that_cannot_start_raises(tmp_path: Path, workers: int) -> None:
    with program(tmp_path, workers, "{'uds': '/no/such/folder/s'}") as server:
        assert server.wait() == 0
        assert server.lines == ["ConfigError 3 cannot listen on unix:/no/such/folder/s: there is no such folder"]


def test_run_that_is_forced_raises_system_exit(tmp_path: Path) -> None:
    with program(tmp_path, 2) as server:
        server.ready().signal(signal.SIGQUIT)
        server.wait()
        assert server.lines[-1] == "SystemExit 1"


def listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(str(path)) == 0


@pytest.mark.parametrize("level", ["warning", "error"])
def test_quiet_levels_have_no_banner(tmp_path: Path, level: str) -> None:
    path = tmp_path / "s"
    with program(tmp_path, 1, f"{{'log_level': {level!r}, 'uds': {str(path)!r}}}") as server:
        until(lambda: listens(path), "it listens")
        assert get_unix(path).endswith(b"hello")
        assert server.stop() == 0
        assert [line for line in server.lines if "workers run as root" not in line] == ["returned"]


def test_run_in_a_running_loop_is_refused() -> None:
    async def main() -> None:
        fastserve.run(fastserve.App(), port=0)

    with pytest.raises(ConfigError, match="cannot be called in a running event loop"):
        asyncio.run(main())


@pytest.mark.parametrize("workers", [1, 2])
def test_run_beside_the_main_thread_is_refused(workers: int) -> None:
    caught: list[BaseException] = []

    def body() -> None:
        try:
            fastserve.run(fastserve.App(), port=0, workers=workers, log_level="error")
        except ConfigError as error:
            caught.append(error)

    thread = threading.Thread(target=body)
    thread.start()
    thread.join(10)
    assert "main thread" in str(caught[0])


def test_unknown_option_is_refused() -> None:
    with pytest.raises(ConfigError, match="did you mean 'workers'"):
        fastserve.run(fastserve.App(), worker=2)
