"""lens/commands.py: what is typed, what is printed, and the exit code. Recordings are files here."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from lens.programs import holds_and_others_wait
from lens.stories import Story, line, ns

from fastserve import cli
from fastserve.lens import commands
from fastserve.lens.recording import Recording, Wait

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """A command line of ours, in an empty folder, where no server runs: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("fastserve.process.lensfile.directories", lambda: [tmp_path / "run"])
    monkeypatch.setattr("fastserve.process.lensfile.candidates", lambda: [tmp_path / "run"])

    def typed(*words: str) -> tuple[int, str, str]:
        code = cli.main([*words])
        said = capsys.readouterr()
        return code, said.out, said.err

    return typed


@pytest.fixture
def shop(tmp_path: Path) -> str:
    """A recording: one that blocks, and its victims."""
    story = Story()
    holds_and_others_wait(story)
    path = tmp_path / "shop.fsx"
    story.builder.build().save(path)
    return str(path)


@pytest.fixture
def empty(tmp_path: Path) -> str:
    path = tmp_path / "empty.fsx"
    Story(mode="ready").builder.build().save(path)
    return str(path)


# ------------------------------------------------------------------------------------------------------------- usage


@pytest.mark.parametrize("name", sorted(commands.COMMANDS))
def test_every_command_has_a_help_of_its_own(run: Run, name: str) -> None:
    code, out, err = run(name, "--help")
    assert code == 0 and err == ""
    assert out.startswith(f"Usage: fastserve {name}")
    assert all(flag.split(", ")[-1] in out for flag, _, _ in cli.COMMANDS[name].flags)
    assert all(len(row) <= 124 for row in out.splitlines())


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("top", "a", "b"), "too many arguments: b"),
        (("explain", "a", "b", "c"), "too many arguments: c"),
        (("doctor", "--fail-on", "FS099"), "there is no finding 'FS099': they are FS001 to FS017"),
        (("doctor", "--ignore", "nothing:/x"), "there is no finding 'nothing': they are FS001 to FS017"),
        (("doctor", "--for", "soon"), "--for: not a duration such as 30, 30s, 5m or 1h30m: 'soon'"),
        (("doctor", "--jsno"), "unrecognized arguments: --jsno; did you mean --json?"),
        (("trace", "-o", "x.png"), "-o: 'x.png' must end in .html, .json (for Perfetto) or .fsx (to read again)"),
        (("explain", "none.fsx"), "cannot read 'none.fsx': No such file or directory"),
        (("explain", "shop"), "no server called 'shop'; none runs here as this user"),
        (("lens", "shop", "full"), "no server called 'shop'; none runs here as this user"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_code_2(run: Run, words: tuple[str, ...], text: str) -> None:
    code, out, err = run(*words)
    assert (code, out, err) == (2, "", f"fastserve: error: {text}\n")


def test_without_a_server_that_is_said_in_one_line(run: Run) -> None:
    for words in (("top",), ("explain",), ("trace",), ("doctor",)):
        code, out, err = run(*words)
        assert (
            code == 2
            and out == ""
            and err.startswith("fastserve: error: no server of fastserve runs here as this user")
        )
        assert err.count("\n") == 1
    assert run("lens") == (1, "", "fastserve: no server with a lens runs here as this user\n")


def test_a_server_does_not_load_any_of_it() -> None:
    code = "import sys, fastserve.cli, fastserve.process.run, fastserve.process.server; "
    code += "print([name for name in sys.modules if name.startswith('fastserve.lens')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


# ------------------------------------------------------------------------------------------------------------- explain


def test_explain_tells_the_slowest_the_last_or_one_by_its_id(run: Run, shop: str) -> None:
    code, slowest, err = run("explain", shop)
    assert code == 0 and err == "" and slowest.startswith("GET /items/0 took 352 ms on worker 0 (w0-0001).")
    assert run("explain", shop, "slowest") == (0, slowest, "")
    assert run("explain", shop, "W0-0001") == (0, slowest, "")
    code, last, _ = run("explain", shop, "last")
    assert code == 0 and "(w0-0003)" in last


def test_explain_can_choose_among_routes_and_durations(run: Run, shop: str) -> None:
    assert "GET /report took" in run("explain", shop, "--route", "/report")[1]
    assert "GET /items/0 took" in run("explain", shop, "--route", "/items/*")[1]
    assert "GET /items/0 took" in run("explain", shop, "--route", "GET /items/{id}")[1]
    assert "GET /items/2 took" in run("explain", shop, "last", "--slower", "345ms")[1]
    assert run("explain", shop, "--slower", "10s") == (1, "", "fastserve: no recorded request of shop is like that\n")
    assert run("explain", shop, "--route", "/none")[0] == 1
    code, _, err = run("explain", shop, "w0-0099")
    assert code == 1 and err.startswith("fastserve: no request 'w0-0099' is recorded; there are w0-000")


def test_explain_and_trace_with_nothing_recorded_say_so(run: Run, empty: str) -> None:
    for words in (("explain", empty), ("trace", empty)):
        assert run(*words) == (1, "", "fastserve: shop: no request is recorded in this file\n")


def test_last_takes_only_what_has_just_ended(run: Run, tmp_path: Path) -> None:
    story = Story()
    story.request("GET /old", at=0).poll(0, 50).ends(51)
    story.request("GET /new", at=60_000).poll(60_000, 60_010).ends(60_011)
    story.builder.taken_ns = ns(61_000)
    story.builder.build().save(tmp_path / "a.fsx")
    assert "GET /old took" in run("explain", "./a.fsx")[1]
    assert "GET /new took" in run("explain", "./a.fsx", "--last", "5s")[1]


# --------------------------------------------------------------------------------------------------------------- trace


def test_trace_keeps_a_recording_that_every_command_reads(run: Run, shop: str, tmp_path: Path) -> None:
    code, out, _ = run("trace", shop, "-o", "kept.fsx")
    assert code == 0 and out.startswith("kept.fsx: ")
    assert stat.S_IMODE(os.stat(tmp_path / "kept.fsx").st_mode) == 0o600
    assert run("explain", "kept.fsx", "last") == run("explain", shop, "last")


def test_trace_writes_a_page_and_a_file_for_perfetto(run: Run, shop: str, tmp_path: Path) -> None:
    code, out, err = run("trace", shop, "-o", "shop.html")
    assert code == 0 and err == ""
    assert out.startswith("shop.html: 4 requests; it holds paths of files and names of functions")
    page = (tmp_path / "shop.html").read_text(encoding="utf-8")
    assert "/home/me/shop/reports.py" in page and "FS001" in page
    assert stat.S_IMODE(os.stat(tmp_path / "shop.html").st_mode) == 0o600
    code, out, _ = run("trace", shop, "-o", "shop.json", "--route", "/report", "--strip-paths")
    assert code == 0 and out == "shop.json: 1 request; it holds names of functions\n"
    text = (tmp_path / "shop.json").read_text(encoding="utf-8")
    assert "reports.py" in text and "/home/me" not in text and json.loads(text)
    assert run("trace", shop)[1].startswith("trace.html: ")


def test_what_is_ignored_is_not_in_the_page(run: Run, shop: str, tmp_path: Path) -> None:
    run("trace", shop, "-o", "shop.html", "--ignore", "FS001")
    assert (
        "blocked-loop"
        not in (tmp_path / "shop.html").read_text(encoding="utf-8").partition('type="application/json"')[2]
    )


def test_a_trace_that_cannot_be_written_is_one_line(run: Run, shop: str) -> None:
    code, _, err = run("trace", shop, "-o", "no/such/folder.fsx")
    assert code == 2 and err.startswith("fastserve: error: cannot write 'no/such/folder.fsx'") and err.count("\n") == 1


# -------------------------------------------------------------------------------------------------------------- doctor


def test_doctor_fails_only_for_what_it_is_asked_to(run: Run, shop: str) -> None:
    code, out, err = run("doctor", shop)
    assert code == 0 and err == ""
    assert "Main finding: FS001 blocked-loop" in out
    code, out, _ = run("doctor", shop, "--fail-on", "FS005,FS001")
    assert code == 1 and out.endswith("fastserve: failed: FS001\n")
    assert run("doctor", shop, "--fail-on", "FS005")[0] == 0
    assert run("doctor", shop, "--fail-on", "any")[0] == 1
    assert run("doctor", shop, "--fail-on", "blocked-loop", "--ignore", "FS001:/report")[0] == 0


def test_doctor_says_it_as_json(run: Run, shop: str) -> None:
    code, out, _ = run("doctor", shop, "--json", "--fail-on", "FS001")
    said = json.loads(out)
    assert code == 1 and not said["ok"] and said["failing"] == ["FS001"]
    first = said["findings"][0]
    assert (first["code"], first["line"], first["level"]) == ("FS001", 88, "error")
    assert first["file"].endswith("/reports.py") and first["link"] == "docs/findings.md#fs001-blocked-loop"


def test_doctor_records_only_in_a_running_server(run: Run, shop: str) -> None:
    code, _, err = run("doctor", shop, "--for", "1s")
    assert code == 2 and err == "fastserve: error: a recording in a file cannot be switched on: name a running server\n"


# ----------------------------------------------------------------------------------------------------------------- top


def test_top_of_a_file_is_one_look(run: Run, shop: str) -> None:
    code, out, err = run("top", shop)
    assert code == 0 and err == ""
    assert "GET /items/{id}" in out and "!!" in out and "FS001" in out


# ------------------------------------------------------------------------------------------------------------ black box


@pytest.fixture
def box(tmp_path: Path) -> Path:
    story = Story()
    told = story.request("GET /report", at=0, name="report").poll(0, 1, "reports.py:80 load", Wait.POOL).wakes(5)
    told.flies("running", 6)
    story.request("GET /items/7", at=2).poll(2, 3, "items.py:41 show", Wait.POOL).flies("waiting", 3)
    story.workers[0].live("GET /plain", ns(1))
    lens = story.workers[0]
    lens._header |= {"running_request": told.number, "running_task": told.task, "running_since_ns": ns(6)}
    lens._header |= {"stall_since_ns": ns(6), "stall_stack": lens.stack(line("reports.py:88 render"))}
    story.builder.taken_ns = ns(446)
    recording = story.builder.build()
    recording.note = "worker 0 (pid 1001) was killed by signal 9"
    (tmp_path / "run").mkdir()
    path = tmp_path / "run" / "worker.fsx"
    recording.save(path)
    return path


def test_a_black_box_tells_what_the_worker_was_doing(run: Run, box: Path) -> None:
    code, out, err = run("blackbox")
    assert code == 0 and err == ""
    lines = out.splitlines()
    assert lines[0].endswith(": worker 0 (pid 1001) was killed by signal 9")
    assert lines[1] == "worker 0 (pid 1001), lens full, 3 requests in flight"
    assert lines[2].startswith("  w0-0001  GET /report  begun 446 ms before; it ran for 440 ms")
    assert "  GET /plain  begun 445 ms before" in lines
    assert any("w0-0002  GET /items/7" in row and "it waited for 443 ms" in row for row in lines)
    assert "  its last stall: 440 ms in GET /report at reports.py:88, until its end" in lines
    assert run("blackbox", str(box)) == run("blackbox", str(box.parent)) == (0, out, "")
    assert lines[-1].endswith(f"fastserve explain {box} last")


def test_black_boxes_are_listed_the_newest_first(run: Run, box: Path) -> None:
    Recording.load(box).save(box.with_name("older.fsx"))
    os.utime(box.with_name("older.fsx"), (1, 1))
    code, out, _ = run("blackbox", "--list")
    assert code == 0 and [row.split()[-1] for row in out.splitlines()] == [str(box), str(box.with_name("older.fsx"))]


def test_without_black_boxes_that_is_said(run: Run, tmp_path: Path) -> None:
    code, out, err = run("blackbox")
    assert (code, out) == (1, "") and err.startswith("fastserve: no worker has left a black box")
    assert run("blackbox", "none.fsx")[0] == 2
    (tmp_path / "broken.fsx").write_bytes(b"FSX1????")
    code, _, err = run("blackbox", "broken.fsx")
    assert code == 2 and err.startswith("fastserve: error: 'broken.fsx'") and err.count("\n") == 1


@pytest.mark.parametrize("columns", [80, 100, 300])
@pytest.mark.parametrize("command", ["explain", "doctor"])
def test_sentences_fit_the_terminal(
    run: Run, shop: str, monkeypatch: pytest.MonkeyPatch, command: str, columns: int
) -> None:
    monkeypatch.setattr(commands, "width_of", lambda _stream, _otherwise: columns)
    _, out, _ = run(command, shop)
    lines = [line for line in out.splitlines() if "See: " not in line]  # a command and an address are in one piece
    assert len(lines) > 3
    assert max(map(len, lines)) <= min(columns, 100), out


def test_what_takes_long_says_what_it_is_at(run: Run, shop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = commands.COMMANDS["explain"]

    def slow(given: object) -> int:
        time.sleep(2.2)
        return real(given)  # type: ignore[arg-type]

    monkeypatch.setitem(commands.COMMANDS, "explain", slow)
    code, out, err = run("explain", shop)
    assert code == 0 and out.startswith("GET ")
    assert err == "fastserve: reading what is recorded (2 s so far)\n"
