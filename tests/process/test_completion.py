"""`fastserve completion`: the scripts for bash, zsh and fish, each in its own shell, in a folder with applications."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fastserve import cli
from fastserve.process.arguments import make_parser
from fastserve.process.completion import SHELLS, of_options

APPS = {
    "hello.py": "app = 1\n",
    "shop/__init__.py": "",
    "shop/web.py": "import os\napp: object = None\n\ndef create_app():\n    pass\n",
    "shop/settings.py": "application_name = 'shop'\n",
    "shop/api/__init__.py": "async def app(scope, receive, send):\n    pass\n",
    ".venv/lib.py": "app = 1\n",
    "application.py": "def main():\n    app = 1\n",
}
FOUND = {"hello:app", "shop.api:app", "shop.web:app", "shop.web:create_app"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in APPS.items():
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "my options.toml").touch()
    (tmp_path / "script").mkdir()
    return tmp_path


def printed(shell: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert cli.main(["completion", shell]) == 0
    return capsys.readouterr().out


def with_shell(shell: str, script: str, *words: str, cwd: Path) -> str:
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell} here")
    options = {"bash": ["--norc", "--noprofile"], "zsh": ["-f"], "fish": ["--no-config"]}[shell]
    result = subprocess.run(
        [shell, *options, "-c", script, *words],
        cwd=cwd,
        env={**os.environ, "HOME": str(cwd)},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert result.returncode == 0 and not result.stderr, result.stderr
    return result.stdout


def offered_by_bash(script: str, line: str, cwd: Path, breaks: str = " \t\n\"'><=;|&(:") -> set[str]:
    """What the function that `complete -F` names puts into COMPREPLY."""
    (cwd / ".completion").write_text(script)
    ask = (
        "source .completion; COMP_WORDBREAKS=$1; COMP_LINE=$2; COMP_POINT=${#2}\n"
        '[[ $(complete -p fastserve) == "complete -F _fastserve fastserve" ]] || exit 3\n'
        '_fastserve; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    return set(with_shell("bash", ask, "bash", breaks, line, cwd=cwd).splitlines()) - {""}


def offered_by_fish(script: str, line: str, cwd: Path) -> set[str]:
    (cwd / ".completion").write_text(script)
    said = with_shell("fish", "source .completion; complete -C $argv[1]", line, cwd=cwd)
    offered = {found.partition("\t")[0] for found in said.splitlines()}
    word = line.rpartition(" ")[2]  # fish 4.0 also tells of options in which its letters come one after another
    return {text for text in offered if text.startswith(word) or not word.startswith("-")}


LINES: list[tuple[str, set[str]]] = [
    ("fastserve ", {*cli.COMMANDS, *FOUND}),
    ("fastserve he", {"help", "hello:app"}),
    ("fastserve to", {"top"}),
    ("fastserve top --pl", {"--plain"}),
    ("fastserve shop.w", {"shop.web:app", "shop.web:create_app"}),
    ("fastserve check ", FOUND),
    ("fastserve dev shop.a", {"shop.api:app"}),
    ("fastserve check --js", {"--json"}),
    ("fastserve dev --js", set()),
    ("fastserve completion ", set(SHELLS)),
    ("fastserve completion --po", set()),
    ("fastserve help ", set(cli.COMMANDS)),
    ("fastserve help t", {"top", "trace"}),
    ("fastserve hello:app --log-level ", {"critical", "error", "warning", "info", "debug"}),
    ("fastserve hello:app --log-level d", {"debug"}),
    ("fastserve hello:app -w ", {"auto"}),
    ("fastserve hello:app --port ", set()),
    ("fastserve hello:app --relo", {"--reload", "--reload-dir", "--reload-include", "--reload-exclude", "--reload-delay"}),
    ("fastserve hello:app --no-acc", {"--no-access-log"}),
    ("fastserve hello:app --reload --relo", {"--reload", "--reload-dir", "--reload-include", "--reload-exclude",
                                             "--reload-delay"}),
    ("fastserve hello:app --user roo", {"root"}),
]  # fmt: skip


@pytest.mark.parametrize(("line", "expected"), LINES, ids=[line for line, _ in LINES])
@pytest.mark.parametrize(("shell", "ask"), [("bash", offered_by_bash), ("fish", offered_by_fish)])
def test_a_shell_offers_what_may_follow(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    shell: str,
    ask: Callable[[str, str, Path], set[str]],
    line: str,
    expected: set[str],
) -> None:
    assert ask(printed(shell, capsys), line, folder) == expected


@pytest.mark.parametrize(("shell", "ask"), [("bash", offered_by_bash), ("fish", offered_by_fish)])
def test_files_and_folders_where_they_are_meant(
    folder: Path, capsys: pytest.CaptureFixture[str], shell: str, ask: Callable[[str, str, Path], set[str]]
) -> None:
    script = printed(shell, capsys)
    end = "/" if shell == "fish" else ""  # readline adds it itself
    assert ask(script, "fastserve --config my", folder) == {"my options.toml"}
    for command in ("trace", "blackbox"):  # a recording, a black box
        assert ask(script, f"fastserve {command} he", folder) == {"hello.py"}
    assert ask(script, "fastserve trace -o my", folder) == {"my options.toml"}
    assert "--with-source" in ask(script, "fastserve trace --", folder)
    assert {"hello.py", f"shop{end}"} <= ask(script, "fastserve --env-file ", folder)
    assert ask(script, "fastserve --app-dir s", folder) == {f"shop{end}", f"script{end}"}


def test_bash_splits_at_colons_and_equals_signs_or_does_not(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With ":" and "=" among its separators a reply is what follows them, else the whole word."""
    script = printed("bash", capsys)
    assert offered_by_bash(script, "fastserve shop.web:cr", folder) == {"create_app"}
    assert offered_by_bash(script, "fastserve a:b --log-level=d", folder) == {"debug"}
    assert offered_by_bash(script, "fastserve a:b --app-dir=sc", folder) == {"script"}
    assert offered_by_bash(script, "fastserve shop.web:cr", folder, " ") == {"shop.web:create_app"}
    assert offered_by_bash(script, "fastserve a:b --log-level=d", folder, " ") == {"--log-level=debug"}


@pytest.mark.parametrize(("shell", "ask"), [("bash", offered_by_bash), ("fish", offered_by_fish)])
def test_every_spelling_of_every_option_is_offered(
    folder: Path, capsys: pytest.CaptureFixture[str], shell: str, ask: Callable[[str, str, Path], set[str]]
) -> None:
    known = {flag for flag in make_parser()._option_string_actions if flag.startswith("--")}
    offered = ask(printed(shell, capsys), "fastserve a:b --", folder)
    assert offered == {flag.text for flag in of_options() if flag.text.startswith("--")}
    assert offered <= known and {flag for flag in known if not flag.startswith("--no-")} <= offered


# ---------------------------------------------------------------------------------------------- zsh, typed into


class Terminal:
    """A shell that believes somebody sits in front of it."""

    def __init__(self, *command: str, cwd: Path) -> None:
        self.pid, self.number = pty.fork()
        if not self.pid:
            os.chdir(cwd)
            os.execvpe(command[0], command, {**os.environ, "HOME": str(cwd), "TERM": "dumb", "PS1": "> "})
        self.text = ""

    def type(self, keys: str) -> None:
        os.write(self.number, keys.encode())

    def wait_for(self, pattern: str, seconds: float = 20.0) -> str:
        until = time.monotonic() + seconds
        while not (found := re.search(pattern, self.text)):
            ready, _, _ = select.select([self.number], [], [], max(0.0, until - time.monotonic()))
            assert ready, f"{pattern} is not in {self.text!r}"
            self.text += os.read(self.number, 4096).decode(errors="replace")
        self.text = self.text[found.end() :]
        return found[0]

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        os.close(self.number)
        os.waitpid(self.pid, 0)


@pytest.mark.parametrize("way", ["evaluated", "in fpath"])
def test_zsh_completes_what_is_typed(folder: Path, capsys: pytest.CaptureFixture[str], way: str) -> None:
    if shutil.which("zsh") is None:
        pytest.skip("no zsh here")
    (folder / ".functions").mkdir()
    (folder / ".functions" / "_fastserve").write_text(printed("zsh", capsys))
    load = 'eval "$(<.functions/_fastserve)"' if way == "evaluated" else "true"
    before = "fpath=(.functions $fpath); " if way == "in fpath" else ""
    terminal = Terminal("zsh", "-f", "-i", cwd=folder)
    try:
        terminal.wait_for("> ")
        terminal.type("unsetopt beep; fastserve() { print -r -- \"<$*>\"; }; PS1='$ '; " + before)
        terminal.type(f"autoload -U compinit; compinit -u -D; {load}; print read'y'\n")
        terminal.wait_for("ready")
        for typed, whole in (
            ("fastserve comp\tz\t", "completion zsh"),
            ("fastserve shop.ap\t", "shop.api:app"),
            ("fastserve check hell\t--js\t", "check hello:app --json"),
            ("fastserve dev shop.api:app --log-level d\t", "dev shop.api:app --log-level debug"),
            ("fastserve a:b --log-level=d\t", "a:b --log-level=debug"),
            ("fastserve a:b --no-acc\t", "a:b --no-access-log"),
            ("fastserve doctor hello.\t", "doctor hello.py"),
            ("fastserve a:b -w a\t", "a:b -w auto"),
            ("fastserve a:b --conf\tmy\t", "a:b --config=my options.toml"),
            ("fastserve --app-dir scr\t", "--app-dir script"),
        ):
            terminal.type(typed + "\n")
            assert terminal.wait_for(r"<[^>]*>").strip("<>").strip() == whole
    finally:
        terminal.close()


@pytest.mark.parametrize("shell", SHELLS)
def test_scripts_are_in_the_language_of_their_shell(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], shell: str
) -> None:
    (tmp_path / "script").write_text(printed(shell, capsys))
    assert with_shell(shell, "exit 0", cwd=tmp_path) == ""
    result = subprocess.run([shell, "-n", str(tmp_path / "script")], capture_output=True, text=True)
    assert result.returncode == 0 and not result.stderr


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((), "a shell is missing: fastserve completion bash|zsh|fish"),
        (("tcsh",), "completion must be for one of bash, zsh, fish, not 'tcsh'"),
    ],
)
def test_no_shell_is_one_line(capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], text: str) -> None:
    assert cli.main(["completion", *arguments]) == 2
    assert capsys.readouterr().err == f"fastserve: error: {text}\n"


def test_the_help_tells_of_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["help"])
    listed = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out).partition("commands:\n")[2].partition("\n\n")[0]
    lines = listed.splitlines()
    assert len(lines) == len(cli.COMMANDS)
    for line, (name, command) in zip(lines, cli.COMMANDS.items(), strict=True):
        assert line.split() == [name, *command.takes.split(), *command.about.split()]
