"""The command: help, banner, and every operator error as one line and a code."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import shlex
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest
from process.running import HERE, RUNTIME, Running, get_unix, until

from fastserve import cli
from fastserve._version import __version__
from fastserve.process.arguments import parse
from fastserve.process.config import OPTIONS

APP = ("apps:app", "--app-dir", str(HERE))


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """The exit code and the one line, in this process: nothing is started."""
    code = cli.main(arguments)
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert len(lines) == 1, captured.err
    assert lines[0].startswith("fastserve: error: ")
    return code, lines[0].removeprefix("fastserve: error: ")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((), "an application is missing: fastserve MODULE:APP (see fastserve --help)"),
        (("a:b", "--port", "http"), "--port: not a whole number: 'http'"),
        (("a:b", "--port", "٣"), "--port: not a whole number"),
        (("a:b", "--port", "70000"), "port must be 0 to 65535, not 70000"),
        (("a:b", "--port"), "--port: expected one argument"),
        (("a:b", "-w", "0"), "workers must be 1 to 1024, not 0"),
        (("a:b", "-w", "two"), "-w/--workers: neither a whole number nor auto: 'two'"),
        (("a:b", "--frobnicate"), "unrecognized arguments: --frobnicate (see fastserve --help)"),
        (("a:b", "--por", "1"), "unrecognized arguments: --por 1; did you mean --port?"),
        (("a:b", "--worker=3"), "unrecognized arguments: --worker=3; did you mean --workers?"),
        (("a:b", "--relaod"), "unrecognized arguments: --relaod; did you mean --reload?"),
        (("a:b", "--config", "/no/such.toml"), "cannot read /no/such.toml: No such file or directory"),
        (("a:b", "--loop", "twisted"), "loop must be one of auto, asyncio, uvloop, or MODULE:FACTORY"),
        (("a:b", "--limit-request-body", "lots"), "--limit-request-body: not a size such as 65536, 64k"),
        (("a:b", "c:d"), "unrecognized arguments: c:d"),
        (("a:b", "--bind", "nonsense"), "bind must be HOST:PORT, [v6]:PORT or unix:PATH, not 'nonsense'"),
        (("a:b", "-b", "h:1", "-b", "h:1"), "h:1 is given twice"),
        (("a:b", "--log-level", "loud"), "--log-level: invalid choice: 'loud'"),
        (("a:b", "--timeout-keep-alive", "long"), "--timeout-keep-alive/--keep-alive: not a duration such as 30"),
        (("a:b", "--timeout-keep-alive", "-1"), "timeout-keep-alive must be seconds, 0 or more, not -1.0"),
        (("a:b", "--uds-permissions", "9"), "--uds-permissions: not an octal mode: '9'"),
        (("a:b", "--uds", ""), "a Unix socket needs a path"),
        (("a:b", "--app-dir", "/no/such/folder"), "app-dir: there is no folder '/no/such/folder'"),
        (("shop/web.py", "--port", "0"), 'an application is MODULE:APP, not a file: try "shop.web"'),
    ],
)
def test_wrong_usage_is_one_line_and_code_2(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], text: str
) -> None:
    code, line = refusal(capsys, *arguments)
    assert (code, line[: len(text)]) == (2, text)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("nosuchmodule:app", "--port", "0"), 'module "nosuchmodule" not found in '),
        (("nosuchmodule", "--port", "0"), 'module "nosuchmodule" not found in '),
        (
            ("apps:ap", "--app-dir", str(HERE), "--port", "0"),
            'module "apps" has no attribute "ap"; did you mean "app"?',
        ),
        (("apps:asyncio", "--app-dir", str(HERE), "--port", "0"), ""),
        (("apps:app", "--app-dir", str(HERE), "--factory", "--port", "0"), ""),
        (("a:b", "--host", "192.0.2.1"), "cannot listen on 192.0.2.1:8000: it is no address of this machine"),
    ],
)
def test_what_cannot_start_is_one_line_and_code_3(tmp_path: Path, arguments: tuple[str, ...], text: str) -> None:
    with Running(*arguments, cwd=tmp_path) as server:
        assert server.wait() == 3
        assert len(server.lines) == 1 and server.lines[0].startswith("fastserve: error: " + text), server.err


def test_factory_is_suggested(tmp_path: Path) -> None:
    with Running("apps:make", "--app-dir", str(HERE), "--port", "0", cwd=tmp_path) as server:
        assert server.wait() == 3
        assert server.lines == [
            "fastserve: error: apps:make takes no arguments: if it makes the application, add --factory"
        ]
    with Running("apps:make", "--app-dir", str(HERE), "--port", "0", "--factory", cwd=tmp_path) as server:
        assert server.ready().get() == "hello"


def test_application_of_another_interface_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "asgi.py").write_text("async def app(scope, receive, send): pass\n")
    for workers in ("1", "2"):
        with Running("asgi", "--port", "0", "-w", workers, "--interface", "native", cwd=tmp_path) as server:
            assert server.wait() in (2, 3)
            assert len(server.lines) == 1 and server.lines[0].startswith("fastserve: error: ")


ASGI_LIFESPAN = """
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.%s", "message": "no database"})
        await receive()
        await send({"type": "lifespan.shutdown.failed", "message": "still busy"})
    else:
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": b"asgi"})
"""


def test_a_startup_that_an_asgi_application_calls_failed_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "asgi.py").write_text(ASGI_LIFESPAN % "failed")
    for workers in ("1", "2"):
        with Running("asgi", "--port", "0", "-w", workers, cwd=tmp_path) as server:
            assert server.wait() == 3
            assert server.lines == ["fastserve: error: the application failed to start: no database"]


def test_a_shutdown_that_an_asgi_application_calls_failed(tmp_path: Path) -> None:
    (tmp_path / "asgi.py").write_text(ASGI_LIFESPAN % "complete")
    with Running("asgi", "--port", "0", cwd=tmp_path) as server:
        assert server.ready().get() == "asgi"
        assert "asgi:app (asgi)" in server.err or "(asgi)" in server.err
        assert server.stop() == 1
        assert "ERROR: the application failed to shut down: still busy" in server.err
        assert "Traceback" not in server.err


def test_failing_import_shows_the_applications_traceback_only(tmp_path: Path) -> None:
    with Running(*APP, "--port", "0", cwd=tmp_path, TEST_IMPORT_FAILS="1") as server:
        assert server.wait() == 3
        assert server.lines == [
            "Traceback (most recent call last):",
            *[line for line in server.lines if line.startswith("  ")],
            "ValueError: no configuration",
            'fastserve: error: cannot import "apps": ValueError: no configuration',
        ]
        assert len(re.findall(r'  File "', server.err)) == 1


# ------------------------------------------------------------------------------------------- check and print


def test_check_config_says_ok_and_opens_nothing(tmp_path: Path) -> None:
    with Running(*APP, "--check-config", "--uds", "s", "--port", "1", "-w", "3", cwd=tmp_path) as server:
        assert server.wait() == 0
        assert server.out == "fastserve: ok: apps:app (native), 3 workers, http://127.0.0.1:1 unix:s\n"
        assert server.lines == [] and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (("a:b", "--port", "http"), 2, "--port: not a whole number: 'http'"),
        (("a:b", "--env-file", "none"), 2, "env-file: cannot read 'none': No such file or directory"),
        (("a:b", "--log-config", "none.json"), 2, "log-config: cannot read 'none.json': No such file or directory"),
        (("nosuch:app",), 3, 'module "nosuch" not found'),
        (("broken:app",), 3, 'cannot import "broken": ValueError: no configuration'),
        (("asyncio:sleep",), 3, "sleep is async, and takes no (scope, receive, send)"),
        ((*APP, "--hooks", "asyncio:sleep"), 3, "hooks: 'asyncio:sleep' has none of when_ready"),
        ((*APP, "--loop", "asyncio:nothing"), 3, 'module "asyncio" has no attribute "nothing"'),
        ((*APP, "--pid", "no/such/folder"), 3, "pid: there is no folder"),
    ],
)
def test_check_config_says_what_is_wrong(tmp_path: Path, arguments: tuple[str, ...], code: int, text: str) -> None:
    (tmp_path / "broken.py").write_text("raise ValueError('no configuration')\n")
    with Running(*arguments, "--check-config", cwd=tmp_path) as server:
        assert server.wait() == code
        assert server.lines[-1].startswith("fastserve: error: " + text) and server.out == ""


def test_print_config_needs_no_application_that_works(tmp_path: Path) -> None:
    (tmp_path / "fastserve.toml").write_text('app = "nosuch:app"\nport = 8001\n')
    with Running("--print-config", "--threads", "5", cwd=tmp_path, FASTSERVE_BACKLOG="9") as server:
        assert server.wait() == 0 and server.lines == []
        for line in ("port = 8001 # fastserve.toml:2", "threads = 5 # --threads", "backlog = 9 # FASTSERVE_BACKLOG",
                     'app = "nosuch:app" # fastserve.toml:1', "half-close = false # default"):  # fmt: skip
            assert line in [" ".join(printed.split()) for printed in server.out.splitlines()]
        assert "# listens on 127.0.0.1:8001" in server.out


def test_misspelt_variables_are_a_warning(tmp_path: Path) -> None:
    with Running(*APP, "--port", "0", cwd=tmp_path, FASTSERVE_WORKER="2") as server:
        server.ready()
        assert server.lines[0] == (
            "fastserve: warning: the environment variable FASTSERVE_WORKER is no option; did you mean FASTSERVE_WORKERS?"
        )


@pytest.mark.parametrize("workers", ["1", "2"])
def test_the_env_file_is_there_before_the_application(tmp_path: Path, workers: str) -> None:
    (tmp_path / "app.py").write_text(
        "import os\nfrom fastserve import App\napp = App()\nseen = os.environ['GREETING'] + os.environ['TEST_REAL']\n"
        "@app.get('/')\ndef x(): return seen\n"
    )
    (tmp_path / ".env").write_text("GREETING='hello '\nTEST_REAL=file\nFASTSERVE_PORT=0\n")
    with Running("app", "--env-file", ".env", "-w", workers, cwd=tmp_path, TEST_REAL="real") as server:
        assert server.ready().get() == "hello real"


def test_workers_auto_says_why(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import os, sys; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); "
               "from fastserve.cli import main; sys.exit(main())"]  # fmt: skip
    with Running(*APP, "--port", "0", "-w", "auto", cwd=tmp_path, command=command) as server:
        server.ready()
        reason = r"1 of \d+ CPUs by affinity|1 CPU of this machine"
        assert re.search(rf"workers      1 \(pids \d+\), pid {server.pid} \(auto: ({reason})\)", server.err)


# -------------------------------------------------------------------------------------------------- help and version


def test_every_option_has_a_flag_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["help"]) == 0
    text = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
    for name, option in OPTIONS.items():
        for flag in ("--" + name.replace("_", "-"), *option.aliases):
            assert re.search(rf"(?<![\w-]){flag}(?![\w-])", text), flag
    for group in {option.group for option in OPTIONS.values()}:
        assert f"\n{group}:\n" in text
    assert max(map(len, text.splitlines())) <= 110
    assert "%%" not in text


@pytest.mark.parametrize(("columns", "longest"), [(80, 80), (200, 110)])
def test_the_help_fits_the_terminal(columns: int, longest: int) -> None:
    for arguments in (["help"], *(["help", name] for name in cli.COMMANDS)):
        text = re.sub(r"\x1b\[[0-9;]*m", "", on_a_terminal(arguments, columns))
        assert "Usage: fastserve" in text
        assert max(map(len, text.splitlines())) <= longest, text


def on_a_terminal(arguments: list[str], columns: int, **environ: str) -> str:
    """What the command writes to a terminal of that width."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, columns))
    environ = {**{name: value for name, value in os.environ.items() if name != "NO_COLOR"}, "TERM": "xterm", **environ}
    process = subprocess.Popen(
        [sys.executable, "-m", "fastserve", *arguments], stdout=theirs, stderr=theirs, stdin=theirs, env=environ
    )
    os.close(theirs)
    shown = b""
    try:
        with contextlib.suppress(OSError):  # EIO: the last one has closed it
            while data := os.read(ours, 65536):
                shown += data
    finally:
        os.close(ours)
        process.wait(10)
    return shown.decode().replace("\r\n", "\n")


@pytest.mark.parametrize("columns", [80, 100])
def test_what_check_finds_fits_the_terminal(columns: int) -> None:
    text = re.sub(r"\x1b\[[0-9;]*m", "", on_a_terminal(["check", *APP, "--port", "0"], columns))
    memory = text.partition("memory")[2].partition("descriptors")[0]
    assert "\n                      " in memory and len(text.splitlines()) > 14
    assert max(map(len, text.splitlines())) <= columns, text


@pytest.mark.parametrize(
    ("environ", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)], ids=str
)
def test_the_help_has_colours_where_they_are_wanted(environ: dict[str, str], coloured: bool) -> None:
    assert ("\x1b[" in on_a_terminal(["help", "top"], 80, **environ)) is coloured


def test_help_is_the_same_by_flag(capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["help"])
    by_command = capsys.readouterr().out
    for arguments in (["-h"], ["--help"], ["a:b", "--port", "1", "--help"]):
        assert cli.main(arguments) == 0
        assert capsys.readouterr().out == by_command


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_the_help_of_a_command_is_short(capsys: pytest.CaptureFixture[str], name: str) -> None:
    assert cli.main(["help", name]) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"Usage: fastserve {name}") and len(text.splitlines()) < 25
    if name not in ("help", "version"):
        assert cli.main([name, "--help"]) == 0
        assert capsys.readouterr().out == text


@pytest.mark.parametrize(
    ("arguments", "code", "end"),
    [
        (("chek", "shop.web:app"), 2, "unrecognized arguments: shop.web:app; did you mean fastserve check?"),
        (("docter",), 3, "or on sys.path; did you mean fastserve doctor?"),
        (("help", "tpo"), 2, "there is no command 'tpo'; did you mean top?"),
        (("version", "1"), 2, "too many arguments: 1"),
    ],
)
def test_a_misspelt_command(tmp_path: Path, arguments: tuple[str, ...], code: int, end: str) -> None:
    result = in_shell(tmp_path, "", *arguments)
    assert (result.returncode, result.stderr.count("\n")) == (code, 1)
    assert result.stderr.startswith("fastserve: error: ") and result.stderr.endswith(end + "\n")


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["version"]) == 0
    assert capsys.readouterr().out == f"fastserve {__version__}\n"
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"fastserve {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "option", "value"),
    [
        (("--no-access-log",), "access_log", False),
        (("--access-log",), "access_log", True),
        (("--no-server-header",), "server_header", False),
        (("--half-close",), "half_close", True),
        (("--use-colors",), "use_colors", True),
        (("--no-use-colors",), "use_colors", False),
        (("-w", "auto"), "workers", "auto"),
        (("-b", "a:1", "--bind", "[::1]:2"), "bind", ("a:1", "[::1]:2")),
        (("-w", "3"), "workers", 3),
        (("--keep-alive", "5"), "timeout_keep_alive", 5.0),
        (("--graceful-timeout", "1.5"), "timeout_graceful_shutdown", 1.5),
        (("--uds-permissions", "660"), "uds_permissions", 0o660),
        (("--limit-request-body", "1000"), "limit_request_body", 1000),
        (("--limit-request-body", "1GiB"), "limit_request_body", 2**30),
        (("--timeout-body", "2m"), "timeout_body", 120.0),
    ],
)
def test_flags_become_options(arguments: tuple[str, ...], option: str, value: object) -> None:
    assert parse(["a:b", *arguments]) == {"app": "a:b", option: value}


# ------------------------------------------------------------------------------------------------------ the real thing


def test_console_script_serves(tmp_path: Path) -> None:
    script = Path(sys.executable).parent / "fastserve"
    if not script.exists():
        pytest.skip("the package is not installed")
    with Running(*APP, "--port", "0", cwd=tmp_path, command=[str(script)]) as server:
        assert server.ready().get() == "hello"
        assert server.stop() == 0


@pytest.mark.parametrize(
    ("options", "mode"), [(("--dev",), "full"), (("--lens", "slow:200ms"), "slow:200ms"), ((), "")]
)
def test_banner_says_what_is_recorded_and_how_to_look_at_it(
    tmp_path: Path, options: tuple[str, ...], mode: str
) -> None:
    with Running(*APP, "--port", "0", *options, cwd=tmp_path) as server:
        server.ready()
        told = [line for line in server.lines if line.startswith("  lens ")]
        assert told == ([f"  lens         {mode} (look: fastserve top, explain, doctor, trace)"] if mode else [])


def test_banner_says_what_runs_where(tmp_path: Path) -> None:
    path = tmp_path / "s"
    arguments = ("-b", "127.0.0.1:0", "--uds", str(path), "-w", "2")
    with Running(*APP, *arguments, cwd=tmp_path) as server:
        server.ready()
        first, app, workers, *listening, ready = [line for line in server.lines if "workers run as root" not in line]
        assert re.fullmatch(rf"fastserve {re.escape(__version__)}, CPython [\d.]+\S*, uvloop [\d.]+\S*", first)
        assert app == "  application  apps:app (native)"
        assert re.fullmatch(rf"  workers      2 \(pids \d+ \d+\), pid {server.pid}", workers)
        assert listening == [f"  listening    http://127.0.0.1:{server.port}", f"  listening    unix:{path}"]
        assert ready == "  ready        stop with Ctrl-C"
        assert server.get() == "hello" and get_unix(path).endswith(b"hello")


def test_bare_module(tmp_path: Path) -> None:
    with Running("apps", "--app-dir", str(HERE), "--port", "0", cwd=tmp_path) as server:
        assert server.ready().get() == "hello"


def test_current_directory_comes_first(tmp_path: Path) -> None:
    """Also before a module of the standard library, and in the workers."""
    (tmp_path / "this.py").write_text("from fastserve import App\napp = App()\n@app.get('/')\ndef x(): return 'mine'\n")
    for workers in ("1", "2"):
        with Running("this:app", "--port", "0", "-w", workers, cwd=tmp_path) as server:
            assert server.ready().get() == "mine"


def test_web_concurrency_and_port_are_honoured(tmp_path: Path) -> None:
    with Running(*APP, cwd=tmp_path, WEB_CONCURRENCY="2", PORT="0") as server:
        server.ready()
        assert len(server.workers) == 2
        assert re.search(r"listening    http://0\.0\.0\.0:\d+ \(PORT is set\)", server.err)
        assert server.get() == "hello"
    with Running(*APP, cwd=tmp_path, PORT="web") as server:
        assert server.wait() == 2
        assert server.lines == ["fastserve: error: the environment variable PORT must be 0 to 65535, not 'web'"]


def test_access_log_goes_to_stdout_or_nowhere(tmp_path: Path) -> None:
    with Running(*APP, "--port", "0", cwd=tmp_path) as server:
        server.ready().get()
        assert server.stop() == 0
        assert server.out.count("\n") == 1 and '"GET / HTTP/1.1" 200' in server.out
    with Running(*APP, "--port", "0", "--no-access-log", cwd=tmp_path) as server:
        server.ready().get()
        assert server.stop() == 0
        assert server.out == ""


@pytest.mark.parametrize("workers", ["1", "2"])
def test_the_access_log_in_a_file_survives_logrotate(tmp_path: Path, workers: str) -> None:
    log, old = tmp_path / "access.log", tmp_path / "access.log.1"
    options = ("--access-log-file", str(log), "--access-log-format", "%(m)s %(U)s %(s)s", "--access-log-exclude", "/no")
    with Running(*APP, "--port", "0", "-w", workers, *options, cwd=tmp_path) as server:
        server.ready().get()
        until(lambda: log.read_text() == "GET / 200\n", "the line is written")
        log.rename(old)
        server.signal(signal.SIGUSR1)
        until(lambda: log.exists(), "the file is opened anew")

        def asked() -> bool:
            server.get()
            time.sleep(0.2)
            return "GET / 200" in log.read_text()

        until(asked, "the new file is written to")
        assert server.stop() == 0
        assert server.out == ""
    assert set((old.read_text() + log.read_text()).splitlines()) == {"GET / 200"}


def test_logs_as_json(tmp_path: Path) -> None:
    with Running(*APP, "--port", "0", "--log-format", "json", "--log-level", "debug", cwd=tmp_path) as server:
        server.ready().get()
        assert server.stop() == 0
        (line,) = server.out.splitlines()
        assert json.loads(line)["url.path"] == "/"
        told = [json.loads(text) for text in server.lines if text.startswith("{")]
        assert told and all(entry["logger"] == "fastserve" and entry["severity_text"] for entry in told)


@pytest.mark.parametrize(
    ("options", "code", "line"),
    [
        (("--access-log-format", "%(zz)s"), 2, "access-log-format: no atom %(zz)s; there are"),
        (
            ("--access-log-exclude", "healthz"),
            2,
            "access-log-exclude must be a path that begins with '/', not 'healthz'",
        ),
        (
            ("--access-log-file", "/no/such/folder/log"),
            3,
            "cannot open '/no/such/folder/log': No such file or directory",
        ),
        (("--access-log-file", "syslog:/no/socket"), 3, "cannot open 'syslog:/no/socket'"),
    ],
)
def test_an_access_log_that_cannot_be_is_one_line(
    tmp_path: Path, options: tuple[str, ...], code: int, line: str
) -> None:
    with Running(*APP, "--port", "0", *options, cwd=tmp_path) as server:
        assert server.wait() == code
        assert len(server.lines) == 1 and line in server.lines[0]


@pytest.mark.parametrize(("environ", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)])
def test_colour_only_on_a_terminal_and_not_with_no_color(
    tmp_path: Path, environ: dict[str, str], coloured: bool
) -> None:
    ours, theirs = pty.openpty()
    clean = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "PORT", "WEB_CONCURRENCY")}
    process = subprocess.Popen(
        [sys.executable, "-m", "fastserve", *APP, "--port", "0"],
        cwd=tmp_path, env={**clean, "TERM": "xterm", **environ}, stderr=theirs, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        os.close(theirs)
        text = b""
        while b"Ctrl-C" not in text:
            text += os.read(ours, 4096)
        assert (b"\x1b[" in text) is coloured
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
        os.close(ours)


def test_stdout_that_is_gone_does_not_stop_the_server(tmp_path: Path) -> None:
    with Running(*APP, "--port", "0", cwd=tmp_path) as server:
        server.ready()
        assert server.get() == "hello"
        assert server.stop() == 0
        assert "Traceback" not in server.err


# ------------------------------------------------------------------------------------------------- standard streams

PRINTING = [
    ("help",),
    ("--version",),
    ("top", "--help"),
    ("completion", "bash"),
    ("--print-config", *APP),
    ("--check-config", *APP),
    ("check", *APP, "--port", "0"),
]


def in_shell(tmp_path: Path, redirections: str, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """The command, as a shell starts it with these redirections."""
    command = shlex.join([sys.executable, "-m", "fastserve", *arguments])
    return subprocess.run(
        ["sh", "-c", f"{command} {redirections}"],
        cwd=tmp_path,
        env={**os.environ, **environ},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
    )


@pytest.mark.parametrize("arguments", PRINTING, ids=" ".join)
def test_a_full_disk_is_one_line(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    result = in_shell(tmp_path, ">/dev/full", *arguments)
    assert (result.returncode, result.stderr) == (1, "fastserve: error: cannot write: No space left on device\n")


@pytest.mark.parametrize("arguments", PRINTING, ids=" ".join)
def test_a_closed_stdout_is_nothing_to_complain_of(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    result = in_shell(tmp_path, ">&-", *arguments)
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize("redirections", [">&-", ">/dev/full", "2>/dev/full", ">&- 2>&- <&-"])
def test_it_serves_whatever_its_standard_streams_are(tmp_path: Path, redirections: str) -> None:
    """libuv ends a process that closes a socket numbered 0 to 2; a banner that cannot be written is no reason to end."""
    command = ["sh", "-c", f'unset PYTHONUNBUFFERED; exec "$0" -m fastserve "$@" {redirections}', sys.executable]

    def answer() -> bytes:
        with contextlib.suppress(FileNotFoundError, ConnectionRefusedError):
            return get_unix(tmp_path / "s")
        return b""

    with Running(*APP, "--uds", "s", "--no-supervisor", cwd=tmp_path, command=command) as server:
        until(lambda: b"hello" in answer() or server.process.poll() is not None, "an answer")
        assert server.stop() == 0


def test_a_line_that_could_not_be_written_is_no_exit_code(tmp_path: Path) -> None:
    (tmp_path / "murmurs.py").write_text(
        "import sys\nfrom fastserve import App\napp = App()\nsys.stderr.buffer.write(b'no end')\n"
    )
    command = ["sh", "-c", 'unset PYTHONUNBUFFERED; exec "$0" -m fastserve "$@" 2>/dev/full', sys.executable]
    with Running("murmurs:app", "--uds", "s", "--no-supervisor", cwd=tmp_path, command=command) as server:
        until(lambda: (tmp_path / "s").exists() or server.process.poll() is not None, "a socket")
        assert server.stop() == 0


def test_an_access_log_that_cannot_be_written_is_told_once(tmp_path: Path) -> None:
    command = ["sh", "-c", 'exec "$0" -m fastserve "$@" >/dev/full', sys.executable]
    with Running(*APP, "--port", "0", cwd=tmp_path, command=command) as server:
        server.ready()
        for _ in range(4):
            assert server.get() == "hello"
            time.sleep(0.3)  # lines are handed over in batches
        server.wait_for("WARNING: the access log cannot be written: No space left on device; lines are dropped")
        assert server.stop() == 0
        assert server.err.count("the access log cannot be written") == 1


def test_too_few_descriptors_is_one_line_with_what_to_do(tmp_path: Path) -> None:
    command = ["sh", "-c", 'ulimit -n 20; exec "$0" -m fastserve "$@"', sys.executable]
    with Running(*APP, "--port", "0", cwd=tmp_path, command=command) as server:
        assert server.wait() == 3
        assert len(server.lines) == 1
        assert re.match(
            r"fastserve: error: Too many open files: ulimit -n is 20 \(ulimit -n \d+, LimitNOFILE=", server.err
        )


def test_characters_that_a_terminal_lacks_are_question_marks(tmp_path: Path) -> None:
    """In an ASCII locale; the name of a folder is the bytes that it is."""
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "XDG_RUNTIME_DIR": RUNTIME}
    folder = tmp_path / "Büro"
    folder.mkdir()
    with Running(*APP, "--uds", "s", "--lens", "full", "--name", "ascii", cwd=tmp_path) as server:
        server.ready()
        result = in_shell(folder, "", "top", str(server.pid), "--once", **ascii_only)
        assert result.returncode == 0 and "?????" in result.stdout and result.stderr == ""
        get_unix(tmp_path / "s")
        result = in_shell(folder, "", "trace", str(server.pid), "-o", f"{folder}/x.html", **ascii_only)
        assert result.returncode == 0 and result.stdout.startswith(f"{folder}/x.html: "), result.stderr


# ----------------------------------------------------------------------------------------- habits from other servers


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--http", "h11"), "--http h11; --http of uvicorn: leave it out (there is one parser)"),
        (("-k", "gevent"), "-k gevent; --worker-class of gunicorn is --interface here (found out by itself."),
        (("--blocking-threads=1",), "--blocking-threads=1; --blocking-threads of granian is --threads here"),
        (("--ssl-crl", "x"), "--ssl-crl x; --ssl-crl of granian: there is no such thing here"),
    ],
)
def test_an_option_of_another_server_is_explained(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], text: str
) -> None:
    code, line = refusal(capsys, "help_desk:app", *arguments)
    assert code == 2 and line.startswith("unrecognized arguments: " + text) and "did you mean" not in line


@pytest.mark.parametrize(("socket_", "tool"), [(("--port", "PORT"), "-ltnp"), (("--uds", "s"), "-lxp")])
def test_a_busy_address_says_how_to_find_who_has_it(tmp_path: Path, socket_: tuple[str, str], tool: str) -> None:
    with Running(*APP, "--port", "0", "--uds", "s", cwd=tmp_path) as server:
        server.ready()
        option = [word.replace("PORT", str(server.port)) for word in socket_]
        result = in_shell(tmp_path, "", *APP, *option)
        assert result.returncode == 3
        assert result.stderr.endswith(f": the address is already in use (ss {tool} tells who has it)\n")


def test_check_tells_a_reason_of_several_lines_in_one(tmp_path: Path) -> None:
    (tmp_path / "boom.py").write_text("raise RuntimeError('the database\\nis down')\n")
    result = in_shell(tmp_path, "", "check", "boom:app", "--port", "0")
    assert result.returncode == 1
    assert 'error    import       cannot import "boom": RuntimeError: the database is down\n' in result.stdout
