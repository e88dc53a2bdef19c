"""The benchmarks' own arithmetic: what wrk said, what the processor time was, what the report makes of it.

Tests benchmarks/load.py, cpu.py, cases.py, servers.py, run.py and report.py. Real wrk, real processes; the servers are
threads or children of this test that speak just enough HTTP.
"""

import asyncio
import io
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.append(str(ROOT))  # last: it must not hide the installed fastserve

from benchmarks import (  # noqa: E402
    build,
    callgrind,
    cases,
    cpu,
    load,
    memory,
    overload,
    paired,
    report,
    run,
    scaling,
    servers,
    soak,
    targets,
)
from benchmarks.__main__ import main, names  # noqa: E402
from benchmarks.progress import Progress  # noqa: E402
from fastserve.protocol.core import ASSERTIONS  # noqa: E402

needs_wrk = pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not on PATH")
needs_valgrind = pytest.mark.skipif(shutil.which("valgrind") is None, reason="valgrind is not on PATH")
needs_proc = pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="Linux's /proc only")

OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 13\r\n\r\nHello, World!"
REQUEST = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


@contextmanager
def tiny_server(answer: Callable[[bytes], bytes | None]) -> Iterator[tuple[int, list[bytes]]]:
    """Answers what `answer` makes of all the bytes of one read; None closes. Yields its port and what it read first."""
    port: list[int] = []
    read: list[bytes] = []
    started = threading.Event()
    loop = asyncio.new_event_loop()
    stopping = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                if not read:
                    read.append(data)
                reply = answer(data)
                if reply is None:
                    break
                writer.write(reply)
                await writer.drain()
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.transport.abort()

    async def main() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port.append(server.sockets[0].getsockname()[1])
        started.set()
        await stopping.wait()
        server.close()
        for _ in range(10):  # what was accepted gets its transport: a task cancelled before that leaks the socket
            await asyncio.sleep(0)
        mine = asyncio.current_task()
        for task in asyncio.all_tasks() - {mine}:
            task.cancel()
        await asyncio.gather(*(asyncio.all_tasks() - {mine}), return_exceptions=True)
        for _ in range(3):
            await asyncio.sleep(0)  # transports that were aborted close their sockets in the turns that follow

    thread = threading.Thread(target=loop.run_until_complete, args=(main(),), daemon=True)
    thread.start()
    assert started.wait(10)
    try:
        yield port[0], read
    finally:
        loop.call_soon_threadsafe(stopping.set)
        thread.join(10)
        loop.close()


def each(reply: bytes) -> Callable[[bytes], bytes]:
    return lambda data: reply * data.count(b"\r\n\r\n")


# load.py


@needs_wrk
def test_real_wrk_against_a_real_server() -> None:
    with tiny_server(each(OK)) as (port, read):
        seen = load.run(f"http://127.0.0.1:{port}/", REQUEST, connections=4, seconds=1)
    assert read[0] == REQUEST  # the very bytes
    assert seen.requests > 100
    assert 0.9 < seen.duration_s < 3
    assert seen.requests_per_s == pytest.approx(seen.requests / seen.duration_s)
    assert seen.bytes_per_answer == pytest.approx(len(OK), rel=0.01)
    assert seen.transfer_per_s == pytest.approx(seen.requests_per_s * len(OK), rel=0.01)
    assert seen.latency_us is not None
    in_order = [seen.latency_us[key] for key in ("min", "p50", "p75", "p90", "p99", "p99.9", "max")]
    assert in_order == sorted(in_order) and in_order[0] > 0
    assert 0 < seen.wrk_cpu_s < 2 * seen.duration_s


@needs_wrk
def test_pipelining_and_any_byte_go_through() -> None:
    body = bytes(range(256)) * 2
    request = b"POST / HTTP/1.1\r\nHost: a\r\nX-Quote: \"'\\ %s\r\nContent-Length: 512\r\n\r\n" + body
    # bytes(range(256)) holds no CRLF CRLF, so each() counts heads.
    with tiny_server(each(OK)) as (port, read):
        seen = load.run(f"http://127.0.0.1:{port}/", request * 3, connections=1, seconds=1, pipelined=True)
    assert read[0] == request * 3
    assert seen.requests > 10 and seen.latency_us is None


@needs_wrk
@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (each(OK.replace(b"200 OK", b"503 Service Unavailable")), r"errors in \d+ requests: status \d+"),
        (lambda data: b"This is not HTTP\r\n\r\n", "read"),
        (lambda data: None, "not one request was answered|read"),
        (lambda data: b"", "not one request was answered"),
    ],
    ids=["error-status", "no-http", "closes", "hangs"],
)
def test_a_result_with_errors_is_refused(answer: Callable[[bytes], bytes | None], told: str) -> None:
    with tiny_server(answer) as (port, _), pytest.raises(load.LoadError, match=told):
        load.run(f"http://127.0.0.1:{port}/", REQUEST, connections=2, seconds=1)


@needs_wrk
def test_nobody_listens() -> None:
    url = f"http://127.0.0.1:{servers.free_port()}/"
    with pytest.raises(load.LoadError, match="unable to connect"):
        load.run(url, REQUEST, connections=1, seconds=1)


def test_wrk_missing_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(load.LoadError, match="wrk is not on PATH") as raised:
        load.find_wrk()
    assert "\n" not in str(raised.value)


def figures(**changes: Any) -> str:
    line = {
        "requests": 1000, "duration_us": 500_000, "bytes": 90_000, "min": 10, "max": 90, "mean": 20,
        **{f"p{p}": 30 for p in load.PERCENTILES}, "errors": dict.fromkeys(load.ERRORS, 0), **changes,
    }  # fmt: skip
    return f"Running 1s test\n  Requests/sec: 12\n{load.MARK}{json.dumps(line)}\n"


def test_parse_reads_the_marked_line() -> None:
    parsed = load.parse(figures())
    assert (parsed.requests, parsed.duration_s, parsed.requests_per_s) == (1000, 0.5, 2000.0)
    assert parsed.transfer_per_s == 180_000 and parsed.bytes_per_answer == 90
    assert parsed.latency_us is not None and parsed.latency_us["p99.9"] == 30


@pytest.mark.parametrize("name", load.ERRORS)
def test_parse_refuses_a_single_error_of_each_kind(name: str) -> None:
    with pytest.raises(load.LoadError, match=f"{name} 1"):
        load.parse(figures(errors={**dict.fromkeys(load.ERRORS, 0), name: 1}))


@pytest.mark.parametrize(
    "output", ["", "Requests/sec: 12", load.MARK + "{", load.MARK + "{}", figures() * 2, figures(requests=0)]
)
def test_parse_refuses_what_is_no_result(output: str) -> None:
    with pytest.raises(load.LoadError):
        load.parse(output)


# cpu.py


def busy(code: str) -> subprocess.Popen[bytes]:
    """A Python in a session of its own that prints a line once its work is done, then waits for its input to end."""
    code += "\nprint('done', flush=True)\nsys.stdin.read()\n"
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe, start_new_session=True)


BURN = """
import os, sys, threading, time
def burn(seconds):
    until = time.thread_time() + seconds
    while time.thread_time() < until: pass
"""


# What a child does, and the processor seconds to be seen for it.
BUSY = {
    "one-thread": ("burn(0.5)", 0.5),
    "threads-that-ended": (
        "threads = [threading.Thread(target=burn, args=(0.25,)) for _ in range(2)]\n"
        "for thread in threads: thread.start()\n"
        "for thread in threads: thread.join()",
        0.5,
    ),
    "living-child": (
        "if os.fork() == 0:\n    burn(0.4); print('done', flush=True); sys.stdin.read(); os._exit(0)\nburn(0.1)",
        0.5,
    ),
    "child-that-ended": ("pid = os.fork()\nif pid == 0:\n    burn(0.4); os._exit(0)\nos.waitpid(pid, 0)", 0.4),
    "idle": ("time.sleep(0.3)", 0.0),
}


@needs_proc
@pytest.mark.parametrize(("work", "seconds"), BUSY.values(), ids=BUSY)
def test_cpu_of_a_busy_child_is_summed_over_its_tree(work: str, seconds: float) -> None:
    child = busy(BURN + "input()\n" + work)
    assert child.stdin and child.stdout
    try:
        time.sleep(0.2)  # for Python's own start: not to be counted
        before = cpu.snapshot(child.pid)
        assert list(before) == [child.pid]
        child.stdin.write(b"go\n")
        child.stdin.flush()
        for _ in range(work.count("done") + 1):
            assert child.stdout.readline() == b"done\n"
        used = cpu.between(before, cpu.snapshot(child.pid))
        assert seconds - 0.03 <= used.total_ns / 1e9 <= seconds + 0.15
        assert cpu.rss_bytes(child.pid) > 1_000_000
    finally:
        child.communicate()


def test_cpu_prefers_ticks_when_threads_took_their_time_with_them() -> None:
    s = 1_000_000_000
    before = {1: cpu.ProcessTime(scheduled_ns=s, user_ns=s, system_ns=0, children_ns=0)}
    thread_gone = {1: cpu.ProcessTime(scheduled_ns=s // 2, user_ns=2 * s, system_ns=s, children_ns=0)}
    assert cpu.between(before, thread_gone) == cpu.Used(2 * s, s, s)
    precise = {1: cpu.ProcessTime(scheduled_ns=s + 7_000_123, user_ns=s + 10_000_000, system_ns=0, children_ns=0)}
    assert cpu.between(before, precise).total_ns == 7_000_123


# cases.py and servers.py


def test_the_heads_keep_their_sizes() -> None:
    sizes = {name: (len(head), head.count(b"\r\n") - 2) for name, head in cases.HEADS.items()}
    assert sizes == {"tiny": (37, 1), "wrk": (40, 1), "browser": (684, 15), "50-fields": (2832, 50)}


def test_every_case_has_its_own_bytes() -> None:
    for case in cases.CASES.values():
        raw = case.request("127.0.0.1:8000")
        one = raw[: len(raw) // case.depth]
        assert raw == one * case.depth
        head, _, body = one.partition(b"\r\n\r\n")
        assert body == (b"" if case.websocket else case.body)
        assert (b"\r\nConnection: close" in head) is (not case.keep_alive)
        assert case.is_answered_by(case.expected) and not case.is_answered_by(b"other")
    assert len(cases.ONE_KILOBYTE) == 1024 and len(cases.TEN_KILOBYTES) == 10240 and len(cases.HELLO) == 13


def test_json_is_compared_as_json() -> None:
    assert cases.CASES["json"].is_answered_by(b'{"message":"Hello, World!"}')
    assert not cases.CASES["json"].is_answered_by(b'{"message":"Hello"}')


def test_ask_reads_length_and_chunks() -> None:
    chunked = (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n5\r\nHello\r\n1;x\r\n!\r\n0\r\n\r\n"
    )
    with tiny_server(lambda data: OK + chunked) as (port, _):
        first, second = servers.ask(port, REQUEST * 2, 2)
    assert first == servers.Answer(200, b"Hello, World!", len(OK), closes=False)
    assert second == servers.Answer(200, b"Hello!", len(chunked), closes=True, chunks=2)


@pytest.mark.parametrize("cut", range(len(OK)))
def test_half_an_answer_is_none(cut: int) -> None:
    with pytest.raises(EOFError):
        servers._read_answer(io.BytesIO(OK[:cut]))


def fake(name: str, code: str) -> servers.Server:
    """A row of the table whose tool is this Python, running `code` with the port as its argument."""
    return servers.Server(name, Path(sys.executable).name, ("-c", code, "{port}"), "app")


SERVE = """
import socket, sys
s = socket.create_server(("127.0.0.1", int(sys.argv[1])))
while True:
    c, _ = s.accept()
    body = b"Hello, World!"
    try:
        while c.recv(65536):
            c.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: %d\\r\\n\\r\\n%b" % (len(body), body))
            body = body[:KEPT]
    except OSError:
        pass
"""
HONEST = SERVE.replace("KEPT", "13")
TURNCOAT = SERVE.replace("KEPT", "0")  # right when asked once, empty on the same connection from then on


def test_start_check_stop() -> None:
    running = servers.start(fake("fake", HONEST))
    try:
        assert running.check(cases.CASES["plaintext"]) == 52
        with pytest.raises(servers.ServerError, match="keeps the connection in close"):
            running.check(cases.CASES["close"])
        with pytest.raises(servers.ServerError, match="answered json with 200 b'Hello, World!'"):
            running.check(cases.CASES["json"])
    finally:
        running.stop()
    assert running.process.returncode is not None
    with pytest.raises(ProcessLookupError):
        os.kill(running.pid, 0)


SPIN = """
import socket, sys, threading, time
def spin():
    latest = time.monotonic()
    while True:
        now = time.monotonic()
        if now - latest > 0.2:
            print(f"{now - latest:.3f}", file=open(FILE, "a"))
        latest = now
threading.Thread(target=spin, daemon=True).start()
"""


def spinning(gaps: Path) -> servers.Server:
    """It uses all the processor it gets, and writes down for how long it got none: pauses of more than 0.2 s."""
    return fake("spinning", SPIN.replace("FILE", repr(str(gaps))) + HONEST)


@contextmanager
def started(server: servers.Server) -> Iterator[servers.Running]:
    running = servers.start(server)
    try:
        yield running
    finally:
        running.stop()


@needs_proc
def test_a_frozen_server_costs_nothing_and_goes_on(tmp_path: Path) -> None:
    with started(spinning(tmp_path / "gaps")) as running:
        running.freeze()
        before = cpu.snapshot(running.pid)
        time.sleep(0.5)
        assert cpu.between(before, cpu.snapshot(running.pid)).total_ns == 0
        with pytest.raises(servers.ServerError, match="gave no proper answer to plaintext"):
            running.check(cases.CASES["plaintext"], timeout_s=0.2)
        running.thaw(cases.CASES["plaintext"])
        before = cpu.snapshot(running.pid)
        time.sleep(0.5)
        assert cpu.between(before, cpu.snapshot(running.pid)).total_ns > 0


@needs_proc
def test_a_frozen_server_is_stopped_as_fast_as_another() -> None:
    running = servers.start(fake("fake", HONEST))
    began_at = time.monotonic()
    running.freeze()
    running.stop()
    assert time.monotonic() - began_at < servers.STOP_S / 2
    assert running.process.returncode == -signal.SIGTERM


@needs_proc
def test_a_frozen_server_that_died_is_told() -> None:
    running = servers.start(fake("fake", HONEST))
    try:
        running.freeze()
        os.kill(running.pid, signal.SIGKILL)
        with pytest.raises(servers.ServerError, match="fake ended"):
            running.thaw()
        running.freeze()
    finally:
        running.stop()


@needs_proc
@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        (
            "fastserve",
            (
                *(*servers._LISTEN, "--interface", "wsgi", "--workers", "2", "--no-access-log"),
                *("--lens", "stalls", "--timeout-worker-healthcheck", "1"),
            ),
        ),
        ("gunicorn", (*servers._GUNICORN, "--worker-class", "gthread", "--timeout", "1")),
        ("granian", (*servers._GRANIAN, "wsgi", "--no-ws", "--workers-kill-timeout", "1")),
    ],
)
def test_a_supervisor_keeps_the_workers_it_was_frozen_with(tool: str, arguments: tuple[str, ...]) -> None:
    """Frozen for longer than a worker may be silent."""
    app = "benchmarks.apps.wsgi:app"
    server = servers.Server(tool, tool, arguments, app)
    try:
        server.version()
    except servers.ServerError as error:
        pytest.skip(str(error))
    plaintext = cases.CASES["plaintext"]
    with started(server) as running:
        running.check(plaintext)
        tree = cpu.tree(running.pid)
        assert len(tree) > 1
        running.freeze()
        time.sleep(2.5)
        running.thaw(plaintext)
        time.sleep(1.5)
        running.check(plaintext)
        assert cpu.tree(running.pid) == tree


def test_a_server_that_ends_is_told_with_its_last_words() -> None:
    with pytest.raises(servers.ServerError, match=r"bad ended: .*no such module"):
        servers.start(fake("bad", "raise SystemExit('no such module')"))


def test_a_server_that_is_not_installed_has_a_reason() -> None:
    with pytest.raises(servers.ServerError, match=r"not installed here: .*no_such_server_xyz"):
        servers.Server("none", "no_such_server_xyz", (), "app").version()


def test_the_table_is_whole() -> None:
    for server in servers.SERVERS.values():
        try:
            command = server.command(8123)
        except servers.ServerError:  # a peer that is not installed, or cannot be built, here
            continue
        assert server.config or any("8123" in word for word in command)
        assert not any("{" in word for word in command)
        module = server.app.partition(":")[0].replace(".", "/")
        assert not module or (ROOT / f"{module}.py").exists()
        assert not server.config or (ROOT / "benchmarks" / "peers" / server.config).exists()
        assert any(map(server.can, cases.CASES))


# report.py


def sample(case: str, server: str, number: int, cpu_us: float, others: float = 0.0) -> dict[str, Any]:
    latency = None if case == "pipelined" else {"min": 1, "max": 9, "mean": 5, **{f"p{p}": 5 for p in load.PERCENTILES}}
    return {
        "case": case, "server": server, "round": number, "connections": 64, "requests": 1000,
        "requests_per_s": 1e6 / cpu_us, "bytes_per_answer": 100.0, "transfer_per_s": 1, "connections_opened": 64,
        "latency_us": latency, "cpu_us_per_request": cpu_us, "user_us_per_request": cpu_us / 2,
        "system_us_per_request": cpu_us / 2, "server_busy": 1.0, "wrk_busy": 0.5, "others_busy": others,
        "rss_bytes": 30_000_000,
    }  # fmt: skip


def small_result() -> dict[str, Any]:
    samples = []
    for number, drift in ((1, 1.0), (2, 2.0), (3, 1.5)):
        samples += [
            sample("plaintext", "ours", number, 8.0 * drift),
            sample("plaintext", "granian", number, 20.0 * drift),
            sample("pipelined", "ours", number, 1.0, others=0.9),
        ]
    return {
        "schema": 1, "started_at": "2026-01-01T00:00:00+00:00", "took_s": 1.0,
        "plan": {"cases": ["plaintext", "pipelined"], "servers": ["ours", "granian", "absent"], "rounds": 3,
                 "seconds": 1, "connections": 64, "cores": [0, 1], "warmup_seconds": 1, "nice": 0},
        "machine": {"cpu": "a processor", "cores": 2, "server_core": 0, "load_core": 1, "cores_are_siblings": False,
                    "kernel": "6", "python": "CPython 3", "commit": "none yet"},
        "versions": {"wrk": "wrk 4", "ours": "1", "granian": "2"}, "packages": {"h11": "0"},
        "commands": {"ours": ["ours"], "granian": ["granian"]}, "missing": {"absent": "not installed here"},
        "failures": [{"case": "pipelined", "server": "granian", "round": 0, "reason": "errors in 9 requests: read 1"}],
        "samples": samples,
    }  # fmt: skip


def test_report_has_medians_spread_and_ratios() -> None:
    text = report.markdown(small_result(), "granian")
    assert "| ours | 12.0 (8.00-16.0) | 1.00 (1.00-1.00) † |" in text
    assert "| granian | 30.0 (20.0-40.0) | **fails** |" in text
    # The machine drifted by a factor of two between the rounds; the ratio, made within each, did not.
    assert "| ours | 0.40 (0.40-0.40) | |" in " ".join(text.split(" ")).replace("|  |", "| |")
    assert "**Missing: absent** (not installed here)" in text
    assert "granian, pipelined, before round 1: errors in 9 requests: read 1" in text
    assert "3 of 9 samples were disturbed" in text


def test_disturbed_samples_are_left_out_only_where_others_remain() -> None:
    mixed = [sample("plaintext", "ours", 1, 10.0), sample("plaintext", "ours", 2, 50.0, others=0.5)]
    assert report.spread(mixed, report.CPU.field) == report.Spread(10.0, 10.0, 10.0, 1)
    assert report.spread(mixed[1:], report.CPU.field) == report.Spread(50.0, 50.0, 50.0, 1, disturbed=True)
    assert report.spread([], report.CPU.field) is None


def test_report_names_a_server_that_closes_connections() -> None:
    result = small_result()
    result["samples"][0]["connections_opened"] = 5000
    assert "ours, plaintext, round 1: 5000 connections were opened where 64 were needed" in report.markdown(
        result, "ours"
    )


def test_reference_must_have_been_measured() -> None:
    result = small_result()
    assert report.choose_reference(result, None) == "granian"
    with pytest.raises(report.ReportError, match="no sample of the reference 'absent', only of: ours, granian"):
        report.choose_reference(result, "absent")
    result["samples"] = []
    with pytest.raises(report.ReportError, match="nothing was measured"):
        report.choose_reference(result, None)


def test_report_command_renders_a_kept_result(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    path = report.keep(small_result(), tmp_path)
    assert main(["report", str(path)]) == 0
    assert capsys.readouterr().out.strip() == (tmp_path / "report.md").read_text().strip()
    assert "![Server CPU per request](cpu.svg)" in (tmp_path / "report.md").read_text()
    assert (tmp_path / "cpu.png").read_bytes().startswith(b"\x89PNG")
    assert b"<svg" in (tmp_path / "cpu.svg").read_bytes()


def test_report_command_tells_a_wrong_file_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "other.json").write_text('{"schema": 0}')
    assert main(["report", str(tmp_path / "other.json")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


# run.py and the front door


def test_names_are_checked() -> None:
    split = names(cases.CASES)
    assert split("plaintext, json") == ["plaintext", "json"]
    with pytest.raises(Exception, match="unknown: nope"):
        split("plaintext,nope")


def test_cores_are_two_unless_asked_otherwise() -> None:
    allowed = sorted(os.sched_getaffinity(0))
    assert run.choose_cores(allowed[0], allowed[0]) == (allowed[0], allowed[0])
    if len(allowed) > 1:
        assert run.choose_cores(None, None) == (allowed[0], allowed[1])
        assert run.choose_cores(None, allowed[0]) == (allowed[1], allowed[0])
    with pytest.raises(run.PlanError, match="not both among those we may use"):
        run.choose_cores(100_000, 0)


@needs_wrk
@needs_proc
def test_a_whole_small_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """One good server, one whose answers change under load, one absent: a result, a failure, a missing."""
    absent = servers.Server("absent", "no_such_server_xyz", (), "app")
    rows = [fake("good", HONEST), fake("turncoat", TURNCOAT), absent]
    monkeypatch.setattr(servers, "SERVERS", {row.name: row for row in rows})
    core = min(os.sched_getaffinity(0))
    plan = run.Plan(("c1",), ("good", "turncoat", "absent"), rounds=1, seconds=1, connections=1, cores=(core, core))
    stream = io.StringIO()
    result = run.measure(plan, datetime.now().astimezone(), Progress(stream))
    assert [s["server"] for s in result["samples"]] == ["good"]
    assert result["samples"][0]["cpu_us_per_request"] > 1
    assert [f["server"] for f in result["failures"]] == ["turncoat"]
    assert "not the same" in result["failures"][0]["reason"]
    assert list(result["missing"]) == ["absent"]
    json.dumps(result)
    assert "%  c1, good: round 1 of 1, " in stream.getvalue() and " left\n" in stream.getvalue()
    assert "these figures say nothing about speed" in report.markdown(result, "good")


@needs_wrk
@needs_proc
def test_who_spins_is_frozen_while_others_have_their_turn(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A round of a second each: who spins stands still for the other's start, warm-up and turn; and for its own not."""
    gaps = tmp_path / "gaps"
    rows = [spinning(gaps), fake("good", HONEST)]
    monkeypatch.setattr(servers, "SERVERS", {row.name: row for row in rows})
    core = min(os.sched_getaffinity(0))
    plan = run.Plan(("c1",), ("spinning", "good"), rounds=2, seconds=1, connections=1, cores=(core, core))
    result = run.measure(plan, datetime.now().astimezone(), Progress(io.StringIO()))
    assert not result["failures"]
    assert len(result["samples"]) == 4
    assert sum(float(gap) > 0.9 for gap in gaps.read_text().split()) >= 2  # before round 1, and both turns of the other


# What is built, counted and weighed


def test_a_stream_that_is_gathered_first_is_refused() -> None:
    """One chunk with all of the body is the right body, and no stream."""
    body = cases.STREAMED
    gathered = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    code = HONEST.replace(
        'b"HTTP/1.1 200 OK\\r\\nContent-Length: %d\\r\\n\\r\\n%b" % (len(body), body)', repr(gathered)
    )
    running = servers.start(fake("gatherer", code))
    try:
        with pytest.raises(servers.ServerError, match="gathers the stream: 1 chunks of 10"):
            running.check(cases.CASES["stream"])
    finally:
        running.stop()


@pytest.fixture(scope="module")
def floor() -> Iterator[servers.Running]:
    running = servers.start(servers.SERVERS["epoll"])
    yield running
    running.stop()


@pytest.mark.parametrize("name", [name for name in cases.CASES if servers.SERVERS["epoll"].can(name)])
def test_the_floor_answers_every_case(floor: servers.Running, name: str) -> None:
    assert floor.check(cases.CASES[name]) > 100


def test_the_client_sends_exactly_so_many_requests(floor: servers.Running) -> None:
    case = cases.CASES["pipelined"]
    size = floor.check(case)
    seen = load.run_client(
        floor.port, case.request(floor.host), connections=3, answer_size=size, requests=480, each=case.depth
    )
    assert (seen.requests, seen.bytes_read, seen.latency_us) == (480, 480 * size, None)
    timed = load.run_client(
        floor.port, cases.CASES["plaintext"].request(floor.host), connections=2, answer_size=size, milliseconds=100
    )
    assert 0.1 <= timed.duration_s < 5 and timed.bytes_read == timed.requests * size


def test_the_client_refuses_answers_of_another_size(floor: servers.Running) -> None:
    raw = cases.CASES["plaintext"].request(floor.host)
    with pytest.raises(load.LoadError, match="more came than an answer"):
        load.run_client(floor.port, raw, connections=1, answer_size=50, requests=10)
    with pytest.raises(load.LoadError, match="handshake: refused"):
        load.run_client(floor.port, raw, connections=1, answer_size=50, requests=10, hello=raw)


def test_the_client_speaks_websocket() -> None:
    case = cases.CASES["websocket"]
    accept = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"

    def answer(data: bytes) -> bytes:
        return accept if data.startswith(b"GET ") else case.reply() if data == case.message() else b"?"

    with tiny_server(answer) as (port, _):
        assert servers.ask_websocket(port, case.request("x"), case.message(), case.reply()) == len(case.reply())
        seen = load.run_client(
            port, case.message(), connections=2, answer_size=len(case.reply()), requests=20, hello=case.request("x")
        )
    assert seen.requests == 20
    # RFC 6455 section 5.7: a masked "Hello" and its bare form have these bytes.
    hello = cases.Case("hello", "", b"/ws", b"Hello", body=b"Hello", websocket=True)
    assert hello.message()[2:] == bytes.fromhex("37fa213d 7f9f4d5158") and hello.reply() == b"\x82\x05Hello"


def test_what_cannot_be_built_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CC", "no-such-compiler")
    with pytest.raises(build.BuildError, match="no-such-compiler is not on PATH"):
        build.program("epoll")
    with pytest.raises(servers.ServerError, match="cannot be built here"):
        servers.SERVERS["epoll"].version()
    assert not list(build.cache().iterdir())


ANNOTATED = """
--------------------------------------------------------------------------------
Ir
--------------------------------------------------------------------------------
3,000 (100.0%)  PROGRAM TOTALS

1,800 (60.00%)  ???:step'2 [/somewhere/call.cpython-311-x86_64-linux-gnu.so]
1,000 (33.33%)  /build/objects/dict.c:lookup [/usr/lib/libpython3.11.so.1.0]
  200 ( 6.67%)  ???:step [/somewhere/call.cpython-311-x86_64-linux-gnu.so]
"""


def test_counts_are_read_by_function_without_this_machines_paths() -> None:
    total, functions = callgrind.parse(ANNOTATED)
    assert total == 3000
    assert functions == {"step [call]": 2000, "lookup [libpython3.11.so.1.0]": 1000}
    with pytest.raises(callgrind.CallgrindError, match="no total"):
        callgrind.parse("")


def test_a_regression_names_the_functions_that_grew(tmp_path: Path) -> None:
    path = tmp_path / "baseline.json"
    callgrind.write_baseline("3.11", {"row": callgrind.Count(1000, {"parse": 600.0, "send": 400.0})}, path)
    before = callgrind.read_baseline("3.11", path)["row"]
    assert callgrind.read_baseline("3.12", path) == {}
    assert callgrind.compare(callgrind.Count(1050, {"parse": 650.0, "send": 400.0}), before) is None
    told = callgrind.compare(callgrind.Count(1100, {"parse": 590.0, "send": 430.0, "log": 80.0}), before)
    assert told == "1100 instructions per request, +10.0% over the baseline of 1000; grown: log +80, send +30"


def test_the_bound_is_loose_on_another_build_of_python(tmp_path: Path) -> None:
    path = tmp_path / "baseline.json"
    assert callgrind.tolerance("3.11", path) == callgrind.LOOSE
    callgrind.write_baseline("3.11", {"old": callgrind.Count(900, {})}, path)
    assert callgrind.tolerance("3.11", path) == callgrind.TOLERANCE
    kept = json.loads(path.read_text())
    kept["3.11"]["build"] = kept["3.11"]["build"].replace(platform.python_version(), "3.11.99")
    path.write_text(json.dumps(kept))
    assert callgrind.tolerance("3.11", path) == callgrind.LOOSE
    callgrind.write_baseline("3.11", {"new": callgrind.Count(1000, {})}, path)
    assert callgrind.tolerance("3.11", path) == callgrind.TOLERANCE
    assert set(callgrind.read_baseline("3.11", path)) == {"new"}  # figures of two builds do not stand side by side


@needs_valgrind
def test_a_request_costs_no_more_instructions_than_the_baseline_says() -> None:
    """Of each interface one row, at once; a twentieth more fails, and the functions that grew are named."""
    with ThreadPoolExecutor(len(callgrind.CHECKED)) as pool:
        counts = dict(zip(callgrind.CHECKED, pool.map(callgrind.quick_count, callgrind.CHECKED), strict=True))
    sums = {name: (sum(found.functions.values()), found.instructions) for name, found in counts.items()}
    assert all(0 < functions <= 1.01 * total for functions, total in sums.values()), sums
    python = ".".join(platform.python_version_tuple()[:2])
    # Assertions count too, and nothing is optimised then; and each version of Python has figures of its own.
    baseline = {} if ASSERTIONS else callgrind.read_baseline(python)
    allowed = callgrind.tolerance(python)
    told = {name: callgrind.compare(counts[name], baseline[name], allowed) for name in baseline if name in counts}
    assert not any(told.values()), told


def test_every_row_and_aim_can_be_measured() -> None:
    for server, case in callgrind.ROWS.values():
        assert servers.SERVERS[server].can(case)
    for target in targets.TARGETS:
        assert any(servers.SERVERS[peer].can(target.case) for peer in target.peers)
    assert {target.ours for target in targets.TARGETS} | set(memory.ROWS) <= set(servers.SERVERS)
    assert set(cases.QUICK) <= set(cases.CASES) and set(servers.QUICK) <= set(servers.SERVERS)


@needs_proc
def test_idle_connections_are_weighed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that keeps 20,000 bytes of each connection is seen to do so."""
    keeper = servers.SERVERS["epoll"]
    monkeypatch.setattr(memory, "UNCOUNTED", 20)
    monkeypatch.setattr(memory, "SETTLE_S", 0.1)
    assert memory.weigh(keeper.name, 50) < 20_000
    assert memory.raise_limit(10) == 10


def test_intervals() -> None:
    assert report.interval([1.0]) is None
    low, high = report.interval([1.0, 2.0, 3.0]) or (0, 0)
    assert (round(low, 2), round(high, 2)) == (-0.48, 4.48)  # 2 +- 4.30 * 1 / sqrt(3)
    low, high = report.ratio_interval([0.5, 0.5, 0.5]) or (0, 0)
    assert round(low, 6) == round(high, 6) == 0.5


def aims_result(ours_us: float) -> dict[str, Any]:
    result = small_result()
    result["plan"] |= {
        "servers": ["fastserve", "fastserve-off", "fastserve-on", "hyper", "nginx"],
        "cases": ["plaintext"],
    }
    result["samples"] = [
        sample("plaintext", server, number, cpu_us * drift)
        for number, drift in ((1, 1.0), (2, 2.0), (3, 1.5))
        for server, cpu_us in (
            ("fastserve", ours_us),
            ("hyper", 10.0),
            ("fastserve-off", ours_us),
            ("fastserve-on", ours_us * (1.02 + number / 1000)),
        )
    ]
    return result


def pair_of(on_us: float, off_us: float) -> tuple[run.Sample, run.Sample]:
    return run.Sample(**sample("plaintext", "on", 1, on_us)), run.Sample(**sample("plaintext", "off", 1, off_us))


def test_pairs_are_told_with_their_interval() -> None:
    """A start is one observation, and within it a round that somebody disturbed is none."""
    pairs = paired.Pairs("plaintext", "on", "off")
    assert pairs.above() is None
    # a machine that is slower in one round than in the next, and once in the middle of one
    drifts = [(10.2 * drift, 10.0 * drift) for drift in (1.0, 2.0, 1.5, 1.2, 1.0, 1.1, 1.3, 1.0)]
    pairs.starts.append([pair_of(*us) for us in (*drifts, (10.2, 90.0), (300.0, 10.0))])
    assert pairs.above() is None and "one start says nothing" in str(pairs)
    pairs.starts.append(pairs.starts[0])
    mean, low, high = pairs.above() or (0.0, 0.0, 0.0)
    assert round(mean, 6) == round(low, 6) == round(high, 6) == 0.02
    assert "+2.0%, 95 % interval +2.0% to +2.0%; 2 starts of 10 rounds, +2.0% to +2.0%" in str(pairs)
    pairs.starts.append([pair_of(10.4, 10.0)] * 100)  # a process with better luck: no number of rounds tells that
    mean, low, high = pairs.above() or (0.0, 0.0, 0.0)
    assert 0.026 < mean < 0.027 and low < 0 and high > 0.05


@needs_proc
def test_two_servers_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that works for each answer beside one that does not: it costs more, and the verb fails."""
    work = HONEST.replace("            c.sendall", "            sum(range(5000))\n            c.sendall")
    rows = [fake("working", work), fake("idle", HONEST)]
    monkeypatch.setattr(servers, "SERVERS", {row.name: row for row in rows})
    core = min(os.sched_getaffinity(0))
    plan = run.Plan(
        ("plaintext",), ("working", "idle"), rounds=3, seconds=1, connections=1, cores=(core, core), warmup_seconds=0.05
    )
    stream = io.StringIO()
    assert paired.main(["plaintext"], "working", "idle", 2, 3, 0.1, 0.03, plan, Progress(stream)) == 1
    last = stream.getvalue().splitlines()[-1]
    assert "plaintext: working to idle (" in last and "not shown to be below +3.0%" in last
    assert paired.main(["plaintext"], "idle", "working", 2, 3, 0.1, 0.03, plan, Progress(stream)) == 0, (
        stream.getvalue()
    )


@needs_proc
def test_one_server_whose_lens_is_switched() -> None:
    core = min(os.sched_getaffinity(0))
    plan = run.Plan(
        ("plaintext",), ("fastserve",), rounds=2, seconds=1, connections=1, cores=(core, core), warmup_seconds=0.05
    )
    stream = io.StringIO()
    say = Progress(stream)
    assert paired.main(["plaintext"], "fastserve", "", 2, 2, 0.1, None, plan, say, modes=("full", "ready")) == 0
    assert "plaintext: full to ready (" in stream.getvalue() and "2 starts of 2 rounds" in stream.getvalue()
    with pytest.raises(
        servers.ServerError, match=r"the lens of fastserve was not switched to loud: .*not a mode of the lens"
    ):
        paired.main(["plaintext"], "fastserve", "", 1, 1, 0.1, None, plan, say, modes=("loud", "ready"))


def test_aims_met_and_missed_are_told() -> None:
    text = report.markdown(aims_result(9.0), "hyper")
    assert "| plaintext | fastserve | hyper | 1 | 0.90 (0.90-0.90) | met |" in text
    assert "| close | fastserve | nginx | 1.1 | | not measured |" in text
    text = report.markdown(aims_result(12.0), "hyper")
    assert "| plaintext | fastserve | hyper | 1 | 1.20 (1.20-1.20) | **missed by 20%** |" in text
    assert "| plaintext | +2.2% | +2.0% to +2.4% | 3 | met |" in text


def test_a_run_is_resumed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    result = {**aims_result(9.0), "schema": 2, "runs": {"plaintext": {"commit": "abc", "took_s": 1.0}}}
    path = report.keep(result, tmp_path / "kept")
    report.keep_extra(tmp_path / "kept", "idle", "Memory", ["A note."], [{"server": "ours", "bytes": "778"}])
    assert (
        main(["run", "--resume", "--case", "plaintext", "--out", str(tmp_path / "kept")]) == 0
    )  # nothing is left to do
    assert "| ours | 778 |" in capsys.readouterr().out
    assert path.with_name("cpu.svg").exists()


def test_a_short_soak() -> None:
    """All kinds of clients for a few seconds; growth is for the long one to judge."""
    stream = io.StringIO()
    assert soak.main(6.0, Progress(stream)) == 0, stream.getvalue()
    said = stream.getvalue().splitlines()
    assert said[0] == "0%  soak, 6 s left"
    kinds = {kind: int(count) for count, kind in (part.split() for part in said[-2].split(", "))}
    assert set(kinds) == set(soak.CROWD) and min(kinds.values()) > 0


def test_a_soak_that_finds_an_error_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soak.servers, "_read_answer", lambda stream: servers.Answer(500, b"wrong", 5, False))
    monkeypatch.setattr(soak, "CROWD", {"good": 1})
    stream = io.StringIO()
    assert soak.main(1.0, Progress(stream)) == 1
    assert "was answered 500" in stream.getvalue()


def test_under_twice_its_load_a_worker_that_sheds_goes_on_serving() -> None:
    """The figures of docs/limits.md, roughly: the bounds leave room for a machine that is busy itself."""
    plain = overload.measure(4.0, 2.0)
    shedding = overload.measure(4.0, 2.0, "--shed-after", "0.1")
    assert shedding.shed and not plain.shed
    assert shedding.goodput > 0.5, f"{shedding}; without: {plain}"
    assert shedding.p99 < plain.p99 and shedding.lost < plain.lost / 2, f"{shedding}; without: {plain}"


# scaling.py


def test_more_workers_share_connections_and_memory() -> None:
    cores = run.choose_cores(None, None)
    connections = scaling.CONNECTIONS
    plan = run.Plan(cases=("plaintext",), servers=(), rounds=1, seconds=1, connections=connections, cores=cores)
    row = scaling.row(scaling.loaded(2, {cores[0]}, plan))
    few, many = map(int, row["connections per worker"].split("-"))
    assert 0 < few <= many < connections
    assert float(row["CPU per request, µs"].split()[0]) > 1
    (alone, private), (preloaded, own) = (scaling.memory(2, *flags) for flags in ((), ("--preload",)))
    assert preloaded < alone
    assert own < private
