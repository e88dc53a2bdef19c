"""lens/learn.py and its lessons: every lesson's claim is shown by a real run; the pages work in a browser, for this machine
alone.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from html import unescape
from pathlib import Path
from typing import Any

import httpx
import pytest
from applications.browser import Page
from lens.stories import Story
from process.running import RUNTIME

from fastserve.errors import LensError
from fastserve.lens import learn
from fastserve.lens.lessons.course import LESSONS, Call, Facts, Lesson
from fastserve.testing import live_server

LIMIT = 30.0
NAMES = [lesson.key for lesson in LESSONS]


@contextmanager
def learning(*options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`fastserve learn`, and its address."""
    process = subprocess.Popen(
        [sys.executable, "-m", "fastserve", "learn", *options],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1", "XDG_RUNTIME_DIR": RUNTIME},
    )
    assert process.stdout is not None and process.stderr is not None
    try:
        line = process.stdout.readline()
        match = re.search(r"http://127\.0\.0\.1:\d+/", line)
        assert match, line + process.stderr.read()
        yield process, match[0]
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with learning() as (process, url):
        yield url
        process.send_signal(signal.SIGTERM)
        assert process.wait(LIMIT) == 0
        assert process.stderr is not None and process.stderr.read() == ""


@pytest.fixture(scope="module")
def unwatched() -> Iterator[str]:
    """The pages without servers to look at."""
    with live_server(learn.Site(None, None).app()) as url:  # type: ignore[arg-type]
        yield url


@pytest.fixture(scope="module")
def browser() -> Iterator[Page]:
    with Page() as page:
        yield page


# ------------------------------------------------------------------------------------------------------------ the course


@pytest.mark.parametrize("lesson", LESSONS, ids=NAMES)
def test_a_lesson_is_whole(lesson: Lesson) -> None:
    assert NAMES.count(lesson.key) == 1 and lesson.title and lesson.question.endswith("?")
    assert 0 <= lesson.answer < len(lesson.options) == 3
    assert 0 <= lesson.select < len(lesson.calls) and lesson.words
    assert len({call.path for call in lesson.calls}) == len(lesson.calls)  # by which a request is known
    assert lesson.calls[0].at == 0
    for option in lesson.options:
        rows = option.rows()
        assert rows and all(name and bars for name, bars in rows)
        assert all(0 <= start < end <= 1.1 for _, bars in rows for _, start, end in bars)
    facts = Facts(*[10**6 if name == "all" else [10**6] * len(lesson.calls) for name in Facts.__dataclass_fields__])
    words = learn._Words(facts)
    for text in lesson.tells:
        assert "{" not in words.fill(text)
    page = unescape(re.sub(r"<[^>]+>", "", learn._lesson_page(lesson)))
    assert lesson.question in page and "def " in page and not re.search(r"@[A-Z]+@", page)
    assert all(f"GET {call.path}" in page for call in lesson.calls)


def test_every_idea_has_its_lesson() -> None:
    assert NAMES == ["wait", "block", "gather", "lock", "thread", "client", "late", "pool", "threads"]
    said = " ".join(text for lesson in LESSONS for words in lesson.words for text in words)
    for word in ("Future::poll", "Poll::Pending", "Waker::wake", "executor", "spawn_blocking", "call_soon", "_ready"):
        assert word in said, word


@pytest.mark.parametrize("lesson", LESSONS, ids=NAMES)
def test_a_real_run_shows_what_the_lesson_says(lesson: Lesson, address: str) -> None:
    """A busy machine may spoil a run: then it says so, and one of the next is good."""
    for _ in range(6):
        told = httpx.post(f"{address}run/{lesson.key}", timeout=LIMIT).raise_for_status().json()
        assert told["answer"] == lesson.answer and len(told["tells"]) == len(lesson.tells)
        if told["held"]:
            break
    assert told["held"], told["tells"]
    page = httpx.get(address.rstrip("/") + told["picture"]).raise_for_status().text
    match = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert match
    data = json.loads(match[1])
    assert {one["path"] for one in data["requests"]} == {call.path for call in lesson.calls}
    assert data["compact"] and data["requests"][[one["id"] for one in data["requests"]].index(data["select"])]
    if lesson.key not in ("client", "threads"):  # a generator stands at its yield, a thread in no task
        assert data["source"], "the lines of the lesson are in its picture"
    assert not any(file.startswith("/") for file in data["files"])
    assert all(one["finished"] for one in data["requests"])


def test_runs_at_the_same_time_are_not_in_each_others_pictures(address: str) -> None:
    async def both() -> list[Any]:
        async with httpx.AsyncClient(timeout=LIMIT) as client:
            return list(await asyncio.gather(*(client.post(f"{address}run/{key}") for key in ("gather", "wait"))))

    pictures = [httpx.get(address.rstrip("/") + answer.json()["picture"]).text for answer in asyncio.run(both())]
    assert "/wait/ada" not in pictures[0] and "/gather" not in pictures[1]


# ------------------------------------------------------------------------------------------------------------- the pages


def test_pages_are_for_this_machine_and_load_nothing_from_elsewhere(unwatched: str) -> None:
    with httpx.Client(base_url=unwatched) as client:
        for path in ("/", "/style.css", "/script.js", *(f"/lesson/{key}" for key in NAMES)):
            answer = client.get(path)
            assert answer.status_code == 200 and "default-src 'none'" in answer.headers["content-security-policy"]
            assert not re.search(r"(?:src|href)=\"(?!/|data:,|#)", answer.text), path
            assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", answer.text), path
        for path in ("/lesson/none", "/picture/1", "/run/wait"):
            assert client.get(path).status_code in (404, 405)
        assert client.post("/run/none").status_code == 404


def test_other_names_and_other_pages_are_refused(unwatched: str) -> None:
    host = httpx.URL(unwatched).netloc.decode()
    for headers in (
        {"host": "evil.test"},
        {"host": f"evil.test:{host.rpartition(':')[2]}"},
        {"origin": "http://evil.test"},
    ):
        answer = httpx.post(f"{unwatched}/run/wait", headers=headers)
        assert answer.status_code == 421, headers
    assert httpx.get(unwatched, headers={"host": host.replace("127.0.0.1", "localhost")}).status_code == 200
    assert httpx.get(unwatched, headers={"origin": unwatched}).status_code == 200


def test_predict_run_compare_in_a_browser(address: str, browser: Page) -> None:
    browser.open(f"{address}lesson/lock")
    browser.wait_for("document.querySelector('#predict') && document.readyState === 'complete'")
    assert browser.evaluate("document.querySelector('nav [aria-current]').dataset.key") == "lock"
    browser.click("#predict button")
    browser.wait_for("document.querySelector('#state').textContent.includes('Choose one first')")
    browser.click(".option:nth-of-type(2) input")
    browser.click("#predict button")
    browser.wait_for("!document.querySelector('#result').hidden")
    verdict = browser.evaluate("document.querySelector('#verdict').textContent")
    assert "As you predicted" in verdict or "disturbed" in verdict
    inside = "document.querySelector('#picture').contentDocument"
    browser.wait_for(f"{inside}?.documentElement?.dataset.drawn === 'yes'")
    assert browser.evaluate(f"{inside}.querySelector('#request-title bdi').textContent") == "/lock/cy"
    assert browser.evaluate(f"{inside}.querySelectorAll('#waterfall .slice.idle').length") == 2
    browser.wait_for(f"Math.abs(document.querySelector('#picture').clientHeight - {inside}.body.scrollHeight) < 12")
    told = browser.evaluate("document.querySelector('#tells').textContent")
    assert re.search(r"Ada took [\d.]+ ms, Bob [\d.]+ ms, Cy [\d.]+ ms", told)
    browser.evaluate(f"{inside}.querySelector('#step').click()")
    browser.wait_for(f"{inside}.querySelector('#player').checkVisibility()")
    assert browser.evaluate(f"{inside}.querySelector('#player-source pre') !== null || true")
    assert browser.evaluate("document.querySelector('nav [data-key=lock]').classList.contains('seen')") in (True, False)
    assert browser.faults() == []


def test_a_wrong_prediction_is_told_so(address: str, browser: Page) -> None:
    browser.open(f"{address}lesson/wait")
    browser.click(".option:nth-of-type(1) input")
    browser.click("#predict button")
    browser.wait_for("!document.querySelector('#result').hidden")
    verdict = browser.evaluate("document.querySelector('#verdict').textContent")
    assert verdict.startswith("Not quite: after 100 ms") or "disturbed" in verdict
    assert browser.evaluate("document.querySelectorAll('.option.right').length") == 1
    assert browser.evaluate("document.querySelectorAll('.option.wrong').length") == 2


# ------------------------------------------------------------------------------------------------------------ the servers


def test_the_servers_end_with_the_command_however_it_ends() -> None:
    with learning() as (process, _):
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        assert len(children) == 2
        process.kill()
        process.wait()
        until = time.monotonic() + LIMIT
        while any(_runs(int(child)) for child in children):
            assert time.monotonic() < until, children
            time.sleep(0.02)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_server_that_does_not_start_is_one_line() -> None:
    async def start() -> None:
        async with learn.Subject("fastserve.lens.lessons.nowhere:app"):
            pass

    with pytest.raises(LensError, match="nowhere:app could not be served: its process ended with code"):
        asyncio.run(start())


def test_a_port_that_is_taken_and_words_that_mean_nothing_are_one_line(unwatched: str) -> None:
    port = unwatched.rpartition(":")[2]
    for options, says in (
        (["--port", port], "already in use"),
        (["--port", "x"], "port"),
        (["wait"], "too many arguments"),
    ):
        done = subprocess.run(
            [sys.executable, "-m", "fastserve", "learn", *options], capture_output=True, text=True, timeout=LIMIT
        )
        assert done.returncode != 0 and says in done.stderr and done.stderr.count("\n") == 1, (options, done.stderr)


def test_a_run_the_lens_has_not_seen_is_told() -> None:
    with pytest.raises(LensError, match="has not seen /wait/ada"):
        learn.facts_of(Story().model(now=1), (Call("/wait/ada"),))


def test_code_is_painted_and_stays_the_same_text() -> None:
    for lesson in LESSONS:
        for thing in lesson.shown:
            source = learn._source_of(thing)
            assert unescape(re.sub(r"</?b[^>]*>", "", learn.painted(source))) == source
    assert '<b class="word">async</b>' in learn.painted("async def f():\n    return '<b>'\n")
    assert "&lt;b&gt;" in learn.painted("x = '<b>'")
