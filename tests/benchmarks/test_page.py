"""docs/performance.md is what its result renders to, and the generator puts every figure where it belongs:
benchmarks/page.py, misses.py, syscalls.py, and whose code callgrind.py says an instruction is."""

import io
import json
import os
import re
import shutil
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
if str(ROOT) not in sys.path:
    sys.path.append(str(ROOT))  # last: it must not hide the installed fastserve

from benchmarks import callgrind, misses, page, report, servers, syscalls, targets  # noqa: E402
from benchmarks.__main__ import main  # noqa: E402
from benchmarks.progress import Progress  # noqa: E402
from benchmarks.run import typed  # noqa: E402

PAGE = ROOT / "docs" / "performance.md"
SMALL = Path(__file__).parent / "small" / "result.json"


def small_page(path: Path = SMALL) -> str:
    return page.markdown(report.read(path), path, PAGE)


def lines_of(text: str, heading: str) -> list[str]:
    """The lines below a heading, up to the next one of its level or above."""
    level = heading.partition(" ")[0]
    below = text.split(f"\n{heading}\n")[1]
    return re.split(rf"^#{{1,{len(level)}}} ", below, flags=re.MULTILINE)[0].splitlines()


# ------------------------------------------------------------------------------------------------- the committed page


def test_the_page_is_what_its_result_renders_to() -> None:
    text = PAGE.read_text(encoding="utf-8")
    made_by = re.match(
        r"<!-- Made by `python -m benchmarks report (\S+) --page docs/performance\.md`: do not edit\. -->", text
    )
    assert made_by is not None
    path = ROOT / made_by[1]
    assert page.markdown(report.read(path), path, PAGE) == text, "docs/performance.md is not made from its result"


def test_the_pages_pictures_and_links_are_there() -> None:
    text = PAGE.read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert len(links) > 3
    for link in links:
        assert (PAGE.parent / link).exists(), link
    shown = set(re.findall(r"pictures/performance-[a-z]+\.svg", text))
    assert shown == {f"pictures/{path.name}" for path in (PAGE.parent / "pictures").glob("performance-*.svg")}


# ------------------------------------------------------------------------------------------------------ the generator


def test_the_command_writes_page_and_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    made = tmp_path / "docs" / "speed.md"
    (made.parent / "pictures").mkdir(parents=True)
    (made.parent / "pictures" / "speed-tls.svg").touch()  # of a result that had more
    assert main(["report", str(SMALL), "--out", str(tmp_path), "--page", str(made)]) == 0
    capsys.readouterr()
    text = made.read_text(encoding="utf-8")
    assert str(tmp_path) not in text and str(ROOT) not in text
    pictures = {path.name for path in (made.parent / "pictures").iterdir()}
    assert pictures == {"speed-native.svg", "speed-asgi.svg"}
    assert set(re.findall(r"\]\(pictures/([^)]+)\)", text)) == pictures
    again = tmp_path / "again.md"
    page.write(SMALL, again)
    one, other = ((folder / "pictures").glob("*-asgi.svg") for folder in (made.parent, tmp_path))
    assert next(one).read_bytes() == next(other).read_bytes()  # the same result makes the same picture


def test_aims_are_told_with_what_they_are_missed_by() -> None:
    text = "\n".join(lines_of(small_page(), "## The aims"))
    verdicts = report.judge(report.read(SMALL))
    known = [verdict for verdict in verdicts if verdict.found is not None]
    met = sum(verdict.found <= verdict.target.ratio for verdict in known if verdict.found is not None)
    assert f"**{met} met, {len(known) - met} missed, {len(targets.TARGETS) - len(known)} not measured**" in text
    assert 0 < met < len(known)
    rows = [line.split("|")[1:-1] for line in text.splitlines() if line.startswith("|")][2:]
    assert [[cell.strip() for cell in row[:2]] for row in rows] == [[t.case, t.ours] for t in targets.TARGETS]
    (row,) = [row for row in rows if [cell.strip() for cell in row[:3]] == ["stream", "fastserve", "hyper"]]
    ratio = float(row[4].split()[0])
    assert f"missed by {ratio / 0.5 - 1:.0%}"[:11] == row[5].strip(" *")[:11] and ratio > 0.5


def test_misses_have_their_time_counts_and_an_idea() -> None:
    text = lines_of(small_page(), "## Where the time of the misses goes")
    (first,) = [line for line in text if line.startswith("| stream | fastserve |") and "hyper" in line]
    samples = [s for s in report.read(SMALL)["samples"] if (s["case"], s["server"]) == ("stream", "fastserve")]
    users = sorted(s["user_us_per_request"] for s in samples)
    assert f"| {users[1]:.2f} + " in first
    assert first.endswith(f"| {page.tomllib.loads(page.IDEAS.read_text())['fastserve']['stream']} |")
    assert "Counts that were made up." in text
    assert (
        "| stream | fastserve | 20,950 | 9,000 | 11,000 | 50 | 900 | 0 | `step` 4,000, `gen_send_ex2` 3,000 |" in text
    )
    assert "| stream | hyper | recvfrom 1, sendto 1 |" in text
    assert "| stream | fastserve | recvfrom 1, sendto 1, epoll_wait 0.07 |" in text
    assert "- plaintext, fastserve-asgi: valgrind is not on PATH" in text
    assert "- fastserve, plaintext: not counted" in text


def test_every_miss_has_an_idea() -> None:
    ideas = page.tomllib.loads(page.IDEAS.read_text(encoding="utf-8"))
    assert set(ideas) == {target.ours for target in targets.TARGETS}
    for ours, rows in ideas.items():
        assert "*" in rows
        assert set(rows) - {"*"} <= {target.case for target in targets.TARGETS if target.ours == ours}


def test_the_arithmetic_is_that_of_its_formulas() -> None:
    rows = {}
    for line in lines_of(small_page(), "### Arithmetic for 64 cores"):
        if line.startswith("| ") and "formula" not in line:
            name, formula, value = (cell.strip() for cell in line.strip("|").split("|"))
            rows[name] = (formula, float(value.rstrip("%").replace(",", "")))
    values = {name[1]: value for key, (_, value) in rows.items() if (name := re.match(r"`(\w+)`", key))}
    assert (values["c1"], values["c5"]) == (8.0, 8.8)  # the row of two cores does not count
    assert values["g"] == 0.2 and values["c64"] == 20.6
    worked_out = 0
    for formula, value in rows.values():
        if formula != "measured":
            found = eval(formula.replace("1,000,000", "1000000"), {"max": max}, values)
            assert value == pytest.approx(found if found > 1 or value < 1 else 100 * found, rel=0.02), formula
            worked_out += 1
    assert worked_out == 7
    assert rows["memory of 64 workers with `--preload`, MB"] == ("64 * 20", 1280)


def test_what_is_missing_or_failed_is_named_with_its_reason() -> None:
    text = small_page()
    assert "- nginx: not installed here: nginx is not on PATH" in lines_of(text, "## Not here")
    assert "- uvicorn, stream, round 2: errors in 7 requests: timeout 7" in lines_of(text, "## What failed")
    assert any(line.startswith("- Cases: pipelined, json, ") for line in lines_of(text, "## Not asked for"))
    assert not [line for line in text.splitlines() if line.startswith("| nginx |")]


def test_what_was_not_measured_says_how(tmp_path: Path) -> None:
    path = Path(shutil.copy(SMALL, tmp_path))
    text = small_page(path)
    for verb in ("idle", "scale", "callgrind", "misses", "arena"):
        assert f"`python -m benchmarks {verb}`" in text
    assert "Arithmetic" not in text
    assert "`python -m benchmarks callgrind`" in small_page() and "| fastserve | 778 |" in small_page()


def test_every_server_is_in_one_family() -> None:
    members = [name for _, _, family in page.FAMILIES for name in family]
    assert sorted(members) == sorted(servers.SERVERS)


# ---------------------------------------------------------------------------------------------------------- the counts

ANNOTATED = """\
3,600 (100.0%)  PROGRAM TOTALS
1,800 (50.00%)  ???:__pyx_f_9fastserve_step'2 [/x/site-packages/fastserve/interfaces/call.cpython-311-x86_64-linux-gnu.so]
1,000 (27.78%)  /build/objects/dict.c:lookup [/usr/lib/libpython3.11.so.1.0]
  200 ( 5.56%)  ???:__pyx_f_9fastserve_step [/x/site-packages/fastserve/interfaces/call.cpython-311-x86_64-linux-gnu.so]
  200 ( 5.56%)  ???:lookup
  150 ( 4.17%)  ???:uv__io_poll [/x/site-packages/uvloop/loop.cpython-311-x86_64-linux-gnu.so]
  140 ( 3.89%)  ./string/memcpy.c:memcpy [/usr/lib/x86_64-linux-gnu/libc.so.6]
   60 ( 1.67%)  ???:PyDict_New
   50 ( 1.39%)  ???:mystery [/opt/lib/libmystery.so]
"""


def test_instructions_are_summed_up_by_whose_code_they_are() -> None:
    assert callgrind.by_owner(ANNOTATED) == {
        "fastserve": 2000,
        "CPython": 1260,
        "uvloop": 150,
        "C library": 140,
        "other": 50,
    }
    assert set(page.OWNERS) == {*(name for name, _ in callgrind.OWNERS), callgrind.OTHER}


def test_system_calls_are_read_from_straces_table() -> None:
    table = """\
% time     seconds  usecs/call     calls    errors syscall
------ ----------- ----------- --------- --------- ----------------
 61.02    0.001000           3       320           sendto
 30.51    0.000500           1       321         1 recvfrom
  8.47    0.000139           6        21           epoll_wait
------ ----------- ----------- --------- --------- ----------------
100.00    0.001639           2       662         1 total
"""
    assert syscalls.parse(table) == {"sendto": 320, "recvfrom": 321, "epoll_wait": 21}


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not on PATH")
def test_a_request_of_the_floor_is_one_read_and_one_write() -> None:
    try:
        found = syscalls.count("epoll", "plaintext", 64)
    except syscalls.SyscallsError as error:
        pytest.skip(f"strace may not trace here: {error}")
    assert sum(found[name] for name in ("read", "recvfrom") if name in found) == pytest.approx(1, abs=0.1)
    assert sum(found[name] for name in ("write", "sendto", "writev", "sendmsg") if name in found) == pytest.approx(
        1, abs=0.1
    )


def test_each_missed_aim_is_counted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(SMALL, tmp_path)
    counted = []

    def count(name: str, case: str, requests: int, warm: int) -> callgrind.Count:
        counted.append((name, case))
        if case == "stream":
            raise callgrind.CallgrindError("no valgrind today")
        return callgrind.Count(
            30.0, {"parse [connection]": 16.0, "parse": 4.0, "lookup": 10.0}, {"fastserve": 20.0, "CPython": 10.0}
        )

    monkeypatch.setattr(callgrind, "count", count)
    monkeypatch.setattr(syscalls, "count", lambda name, case, requests: {"recvfrom": 1.0})
    stream = io.StringIO()
    assert misses.main(tmp_path, Progress(stream)) == 1  # something could not be counted
    missed = misses.missed(report.read(SMALL))
    assert counted == list(dict.fromkeys((verdict.target.ours, verdict.target.case) for verdict in missed))
    kept = json.loads((tmp_path / "extra-misses.json").read_text())
    by_key = {(found["ours"], found["case"]): found for found in kept["data"]}
    assert by_key["fastserve", "stream"]["faults"] == ["fastserve: no valgrind today"]
    assert by_key["fastserve", "stream"]["syscalls"] == {"fastserve": {"recvfrom": 1.0}, "hyper": {"recvfrom": 1.0}}
    assert by_key["fastserve-asgi", "plaintext"]["instructions"] == {"fastserve": 20, "CPython": 10}
    assert by_key["fastserve-asgi", "plaintext"]["largest"] == [["parse", 20], ["lookup", 10]]
    assert "100%" not in stream.getvalue().splitlines()[0] and "system calls of hyper, stream" in stream.getvalue()


# ------------------------------------------------------------------------------------------------- one command for all


def test_one_command_measures_everything_and_writes_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Real servers for a second each; the parts beside the load are told to be there, each with its plan."""
    pytest.importorskip("matplotlib")
    if shutil.which("wrk") is None:
        pytest.skip("wrk is not on PATH")
    begun = []
    parts = {
        "memory": "idle",
        "callgrind": "instructions",
        "scaling": "scale",
        "misses": "misses",
        "arena.measure": "arena",
    }
    for module, name in parts.items():
        told = sys.modules[f"benchmarks.{module}"]
        monkeypatch.setattr(told, "main", lambda *given, name=name: begun.append(name) or 0)
    core = str(min(os.sched_getaffinity(0)))
    words = ["report", "--run", "--case", "c1", "--servers", "fastserve,epoll", "--rounds", "1", "--seconds", "1"]
    words += ["--server-core", core, "--load-core", core, "--out", str(tmp_path), "--page", str(tmp_path / "page.md")]
    assert main(words) == 0
    assert begun == ["idle", "instructions", "scale", "misses", "arena"]
    text = (tmp_path / "page.md").read_text()
    assert "| epoll | " in text and "these figures say nothing about speed" in text
    told = capsys.readouterr().err
    assert re.search(r"^\d+%  c1, epoll: round 1 of 1, \d+ min left$", told, re.MULTILINE), told  # the parts are ahead
    begun.clear()
    report.keep_extra(tmp_path, "idle", "Memory", [], [])
    assert main([*words, "--resume"]) == 0
    assert begun == ["instructions", "scale", "misses", "arena"]
    capsys.readouterr()


def test_a_report_needs_a_result_or_a_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report"]) == 2
    assert "--run" in capsys.readouterr().err


def test_no_folder_of_a_machine_is_told() -> None:
    told = [*(ROOT / "benchmarks" / "results").glob("*/report.md"), ROOT / "docs" / "performance.md"]
    assert len(told) > 2
    for one in told:
        assert not re.search(r"[ `](/tmp|/root|/home|/work|/Users)/", one.read_text()), one
    for name in ("fastserve-tls", "fastserve-asgi-tls"):
        words = typed(servers.SERVERS[name].command(0))
        assert not any(word.startswith("/") for word in words), words
        assert "tests/data/localhost.crt" in words
