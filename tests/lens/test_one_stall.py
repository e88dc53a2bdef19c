"""docs/one-stall.md is true: on examples/shop.py, served as it says, each command leads to the line that holds the loop."""

from __future__ import annotations

import inspect
import json
import os
import re
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from lens.test_perfetto import check
from process.running import RUNTIME, Running

ROOT = Path(__file__).resolve().parent.parent.parent
if str(ROOT) not in sys.path:
    sys.path.append(str(ROOT))  # last: it must not hide the installed fastserve

from examples import shop  # noqa: E402

LIMIT = 60.0


def fastserve(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "fastserve", *arguments],
        capture_output=True,
        text=True,
        timeout=LIMIT,
        cwd=ROOT,
        env={**os.environ, "XDG_RUNTIME_DIR": RUNTIME, "COLUMNS": "100"},
    )


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The shop's pid, after some items and one report were asked for."""
    with Running("examples.shop:app", "--port", "0", "--lens", "slow:100ms", cwd=ROOT) as running:
        url = f"http://127.0.0.1:{running.ready().port}"

        def get(path: str) -> None:
            with urllib.request.urlopen(url + path, timeout=LIMIT) as answer:
                answer.read()

        def customer(number: int) -> None:
            for _ in range(12):
                get(f"/items/{number}")

        threads = [threading.Thread(target=customer, args=(number,)) for number in range(1, 6)]
        for thread in threads:
            thread.start()
        time.sleep(0.15)
        get("/report")
        for thread in threads:
            thread.join()
        yield str(running.process.pid)
        running.stop()


def guilty_lines() -> range:
    lines, first = inspect.getsourcelines(shop.spelled)
    return range(first, first + len(lines))


def test_doctor_names_the_request_and_the_line(server: str) -> None:
    done = fastserve("doctor", server, "--json", "--fail-on", "FS001")
    assert done.returncode == 1, done.stderr
    main, *_ = json.loads(done.stdout)["findings"]
    assert main["code"] == "FS001" and main["route"] == "GET /report"
    assert main["file"].endswith("examples/shop.py") and main["line"] in guilty_lines()


def test_explain_of_one_that_paid_names_the_neighbour(server: str) -> None:
    done = fastserve("explain", server, "slowest", "--route", "/items/*")
    assert done.returncode == 0, done.stderr
    told = " ".join(done.stdout.split())
    assert told.startswith("GET /items/") and "GET /report" in told
    match = re.search(r"shop\.py:(\d+) \(spelled\)", told)
    assert match and int(match[1]) in guilty_lines(), told


def test_the_page_and_the_trace_show_it(server: str, tmp_path: Path) -> None:
    page, trace = tmp_path / "shop.html", tmp_path / "shop.json"
    for file in (page, trace):
        assert fastserve("trace", server, "-o", str(file), "--with-source").returncode == 0
    match = re.search(r'id="data">(.*?)</script>', page.read_text(encoding="utf-8"), re.DOTALL)
    assert match
    data = json.loads(match[1])
    (stall, *_) = sorted(data["lanes"][0]["stalls"], key=lambda one: one[0] - one[1])
    frame = data["frames"][data["stacks"][stall[2]]["frames"][data["stacks"][stall[2]]["shown"]]]
    assert frame[1] in guilty_lines() and data["names"][frame[2]] == "spelled"
    assert data["source"][str(frame[0])][str(frame[1])].strip() in inspect.getsource(shop.spelled)
    assert data["findings"][0]["code"] == "FS001"
    found = json.loads(trace.read_text())["traceEvents"]
    check(found)
    assert any(one.get("cat") == "stall" and one["name"] == f"shop.py:{frame[1]}" for one in found)
