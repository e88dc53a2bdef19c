"""lens/explain.py: what is told of a request, word for word (tests/lens/explained/*.txt), and that the sums hold."""

from __future__ import annotations

import os
import random
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from lens.stories import Story, line, ns

from fastserve.errors import LensError
from fastserve.lens.explain import STEPS_MAX, explain, steps
from fastserve.lens.model import Model, build
from fastserve.lens.recording import Builder, Kind, Wait

GOLDEN = Path(__file__).parent / "explained"

# ------------------------------------------------------------------------------------------------------------ stories


def pool() -> tuple[Model, str]:
    """Its bytes lay in the kernel, it waited for a pool, was ready, and the loop was elsewhere."""
    story = Story()
    report = story.request("GET /report", at=-30)
    story.stall(-30, 10.9, "reports.py:88 render", of=report)
    told = story.request("GET /items/7", at=11, route="/items/{id}", kernel=31, name="items.show")
    other = story.request("GET /items/3", at=11.5).poll(11.6, 11.7, "items.py:41 show", Wait.POOL)
    told.poll(11, 11.2, ["items.py:41 show", "site:asyncpg/pool.py:831 acquire"], Wait.POOL)
    again = story.request("GET /report", at=35)
    story.stall(35.3, 75.4, "reports.py:88 render", of=again)
    report.poll(-30, 10.9).ends(11)
    other.poll(35.1, 35.2, ready=35).ends(35.2)
    again.poll(35.3, 75.4).ends(75.45)
    told.poll(75.5, 75.7, ready=35.15, by="task", by_task=other.task)
    told.head(75.6).body(75.65, 1200).ends(75.7)
    return story.model(), told.id


def blocker() -> tuple[Model, str]:
    """It held the loop, and its line and its victims are known."""
    story = Story()
    victim = story.request("GET /items/7", at=0).poll(0, 0.5, "items.py:41 show", Wait.POOL)
    told = story.request("GET /report", at=1, name="reports.show")
    told.poll(1, 1.4, "reports.py:80 show", Wait.POOL)
    victim.wakes(10)
    victim.last.clear()
    story.stall(9, 349, "main.py:3 <module>", "reports.py:84 show", "reports.py:88 render", of=told)
    story.gc(100, 140, of=told)
    told.poll(9, 349, ready=9).head(349.1, 200).body(349.2, 3_400_000).drains(349.3, 2449.3).ends(2449.4)
    victim.poll(349.5, 349.6, ready=10).ends(350)
    return story.model(), told.id


def sleeper() -> tuple[Model, str]:
    """A timer that came late, next to a blocker that no watchdog saw."""
    story = Story()
    told = story.request("GET /sleep", at=0, name="sleep").poll(0, 0.1, "app.py:18 sleep", Wait.TIMER)
    block = story.request("GET /block", at=1).poll(1, 2, "app.py:14 block", Wait.TIMER)
    block.poll(15, 95, "app.py:16 block", Wait.TIMER, ready=15, by="timer")
    told.poll(95.1, 95.2, ready=95.05, by="timer").head(95.15, 204).ends(95.3)
    return story.model(), told.id


def timer() -> tuple[Model, str]:
    """The same, and it is known when it was due."""
    story = Story()
    told = story.request("GET /sleep", at=0, name="sleep").poll(0, 0.1, "app.py:18 sleep", Wait.TIMER)
    block = story.request("GET /block", at=1)
    story.stall(1, 81, "app.py:16 block", of=block)
    block.poll(1, 81).ends(81.1)
    told.event(Kind.TIMER, 20.1, 81.2, task=told.task)
    told.poll(81.3, 81.4, ready=81.2, by="timer").head(81.4, 204).ends(81.5)
    return story.model(), told.id


def gather() -> tuple[Model, str]:
    """Child tasks, one in a thread, and a mark."""
    story = Story()
    told = story.request("GET /gather", at=0, name="gather")
    told.poll(0, 1, "app.py:19 gather", Wait.CHILDREN)
    first, second = told.child(0.5, "fetch"), told.child(0.6, "count")
    told.poll(1, 1.1, "app.py:30 fetch", Wait.UPSTREAM, task=first, ready=0.5)
    told.poll(1.1, 1.2, "app.py:34 count", Wait.THREAD, task=second, ready=0.6)
    told.poll(30, 30.2, ready=30, task=first)
    told.thread(1.2, 1.5, 50, "executor", "pool_0")
    told.event(Kind.MARK, 30.1, b=told.worker.text("cache miss"), task=first)
    told.poll(50.2, 50.3, ready=50.1, by="thread", task=second)
    told.poll(50.4, 50.5, ready=50.3).head(50.45).body(50.46, 90).body(50.47, 90).ends(50.5)
    return story.model(), told.id


def eager() -> tuple[Model, str]:
    """An eager child takes its first step within its parent's slice."""
    story = Story()
    told = story.request("GET /eager", at=0, name="show")
    child = told.child(1, "fetch")
    told.event(Kind.TASK_POLL, 0, 1, task=told.task, a=ns(0), flags=1)
    told.event(Kind.TASK_AWAIT, 1, 1, task=told.task, a=6 << 32)
    told.poll(1, 3, "app.py:30 fetch", Wait.TIMER, task=child)
    told.poll(3, 4, "app.py:19 show", Wait.CHILDREN, ready=1)
    told.poll(30, 31, ready=30, by="timer", task=child)
    told.poll(31.1, 32, ready=31, by="task", by_task=child).head(32).ends(32.1)
    return story.model(), told.id


def thread() -> tuple[Model, str]:
    """A WSGI application in a full pool."""
    story = Story()
    told = story.request("POST /login", at=0, flags=32, root=False, kernel=0)
    told.thread(0.1, 40.1, 62.1, "wsgi", "fastserve-wsgi_0").head(62).body(62.05, 512).ends(62.2, 302)
    return story.model(), told.id


def rows() -> tuple[Model, str]:
    """A loop over 900 rows, which is one thing."""
    story = Story(capacity=8192)
    told = story.request("GET /export", at=0, name="export").poll(0, 0.01, "rows.py:7 export", Wait.YIELD)
    for at in range(1, 900):
        told.poll(at * 0.05, at * 0.05 + 0.01, "rows.py:7 export", Wait.YIELD, ready=at * 0.05 - 0.01, by="self")
    told.poll(50, 50.1, ready=49, by="self").head(50.05).ends(50.2)
    return story.model(), told.id


def flying() -> tuple[Model, str]:
    """In flight: ready, while another holds the loop."""
    story = Story()
    told = story.request("GET /items/7", at=2, name="show").poll(2, 3, "items.py:41 show", Wait.POOL).wakes(10)
    told.flies("ready", 10)
    guilty = story.request("GET /report", at=5, name="report").flies("running", 5)
    lens = story.workers[0]
    lens._header |= {"running_request": guilty.number, "running_task": guilty.task, "running_since_ns": ns(5)}
    lens._header |= {"stall_since_ns": ns(5), "stall_stack": lens.stack(line("reports.py:88 render"))}
    return story.model(now=405), told.id


def waiting() -> tuple[Model, str]:
    """In flight: parked for half a minute."""
    story = Story()
    told = story.request("GET /events", at=0, name="feed").poll(0, 1, "events.py:12 feed", Wait.QUEUE)
    told.flies("waiting", 1)
    return story.model(now=31_020), told.id


def half() -> tuple[Model, str]:
    """Its beginning was overwritten."""
    story = Story(capacity=9)
    told = story.request("GET /old", at=0, name="old").poll(0, 1, "a.py:1 old", Wait.LOCK)
    for at in range(1, 5):
        told.poll(10 * at, 10 * at + 1, "a.py:1 old", Wait.LOCK, ready=10 * at, by="cancel" if at == 4 else "task")
    told.event(Kind.RECEIVE, 41, 45).ends(46, 500, flags=1 | 2)
    return story.model(), told.id


def failed() -> tuple[Model, str]:
    """A slow upload, then an exception."""
    story = Story()
    told = story.request("POST /up", at=0, name="up").poll(0, 0.2, "up.py:5 up", Wait.RECEIVE)
    told.poll(700, 700.3, ready=700, by="io", ends="raised").head(700.4, 500).ends(700.5, 500, flags=4)
    return story.model(), told.id


STORIES: list[Callable[[], tuple[Model, str]]] = [
    pool,
    blocker,
    sleeper,
    timer,
    gather,
    eager,
    thread,
    rows,
    flying,
    waiting,
    half,
    failed,
]


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.__name__)
def test_a_request_is_told_word_for_word(story: Callable[[], tuple[Model, str]]) -> None:
    model, which = story()
    golden = GOLDEN / f"{story.__name__}.txt"
    told = explain(model, which)
    if os.environ.get("FASTSERVE_WRITE_GOLDEN"):
        golden.write_text(told, encoding="utf-8")
    assert told == golden.read_text(encoding="utf-8")


# ------------------------------------------------------------------------------------------------------------- the rest


def test_which_one_can_be_asked_for_by_word_or_by_id() -> None:
    model, which = pool()
    assert explain(model, "slowest") == explain(model, which) == explain(model, which.upper())
    assert explain(model, "last").startswith("GET /items/7 ")
    with pytest.raises(LensError, match=r"^no request 'w9-0001' is recorded; there are w0-0002, w0-0003 and w0-0004$"):
        explain(model, "w9-0001")


def test_source_lines_are_shown_if_the_file_is_older_than_the_server(tmp_path: Path) -> None:
    file = tmp_path / "items.py"
    file.write_text("async def show():\n    await pool.acquire()\n")
    os.utime(file, (1, 1))
    story = Story()
    told = story.request("GET /", at=0).poll(0, 1, f"{file}:2 show", Wait.POOL).poll(9, 10, ready=9).ends(10)
    model = story.model()
    assert "ran to items.py:2 and had to wait: `await pool.acquire()`." in " ".join(explain(model, told.id).split())
    assert "pool.acquire" not in explain(model, told.id, source=False)
    os.utime(file)  # it was changed since
    assert "pool.acquire" not in explain(model, told.id)


@pytest.mark.parametrize(
    ("mode", "says"),
    [
        ("ready", "`fastserve lens shop full` switches recording on, then send it a request"),
        ("stalls", "`fastserve lens shop full` switches recording on, then send it a request"),
        ("full", "nothing is recorded yet: the lens of shop is `full`, and no request has come since"),
    ],
)
def test_with_nothing_recorded_it_says_so_and_what_to_do(mode: str, says: str) -> None:
    with pytest.raises(LensError) as caught:
        explain(Story(mode=mode).model(now=1))
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_many_steps_are_shortened_and_their_time_is_not_lost() -> None:
    story = Story(capacity=2000)
    told = story.request("GET /", at=0).poll(0, 1, "a.py:1 f", Wait.IO)
    for at in range(1, 200):
        told.poll(at * 2, at * 2 + 1 + at / 1000, f"a.py:{at} f", Wait.IO, ready=at * 2)
    told.poll(500, 501, ready=500).ends(501)
    model = story.model()
    one = model.by_id[told.id]
    found = steps(model, one)
    assert len(found) < 4 * STEPS_MAX
    assert abs(sum(step.ns for step in found) - one.total) < 100_000
    assert "shorter steps, told together" in explain(model)


@pytest.mark.parametrize("seed", range(20))
def test_random_requests_of_one_task_are_told_to_the_tenth_of_a_millisecond(seed: int) -> None:
    rng = random.Random(seed)
    story = Story()
    told = story.request("GET /", at=0)
    at, ready = 0.0, 0.0
    for _ in range(rng.randrange(1, 15)):
        start = ready + rng.choice([0, 0.05, 5])
        end = start + rng.uniform(0, 3)
        by = rng.choice(["io", "task"])
        told.poll(start, end, f"a.py:{rng.randrange(3)} f", rng.choice(list(Wait)), ready=ready, by=by)
        at, ready = end, end + rng.uniform(0, 9)
    told.poll(ready, ready + 1, ready=ready).head(ready + 1).ends(ready + 1)
    model = story.model()
    one = model.by_id[told.id]
    untold = one.scheduled - sum(p.delay for p in one.tasks[told.task].polls if p.delay >= 100_000)
    assert sum(step.ns for step in steps(model, one)) == one.total - untold
    assert at <= ready


@pytest.mark.parametrize("seed", range(30))
def test_anything_that_can_be_read_can_be_told(seed: int) -> None:
    rng = random.Random(seed)
    builder = Builder(taken_ns=ns(100) if seed % 2 else 0)
    lens = builder.worker(started_ns=ns(0), capacity=rng.choice([8, 64, 4096]))
    numbers = [lens.text("GET /x"), lens.stack(("a.py", 1, "f"), wait=Wait.LOCK), 0, 99]
    for _ in range(300):
        lens.event(
            rng.choice(list(Kind)),
            ns(rng.uniform(0, 100)),
            rng.randrange(30_000_000),
            request=rng.randrange(5),
            flags=rng.randrange(6),
            a=rng.choice([ns(rng.uniform(0, 100)), rng.randrange(2**40), 2 << 32]),
            task=rng.randrange(6),
            b=rng.choice(numbers),
        )
    model = build(builder.build())
    for one in model.requests:
        text = explain(model, one.id)
        assert text.endswith("\n") and all(len(row) <= 120 for row in text.splitlines())


def test_every_number_of_a_step_belongs_to_somebody() -> None:
    for story in STORIES:
        model, which = story()
        told = explain(model, which, paint=lambda code, text: text)
        shown = re.findall(r"^ +(\d+)\. +([\d.]+) ms", told, re.MULTILINE)
        numbers = {int(number) for number, ms in shown if float(ms)}
        belongs = " ".join(told.partition("Belongs ")[2].split())
        assert numbers <= {int(found) for found in re.findall(r"\b\d+\b(?=[,:; ])", belongs)}, story.__name__


def test_a_child_that_came_late_is_the_neighbours_not_the_resources() -> None:
    """Its parent waits for children: what the loop cost the last of them is not a resource's, however deep it lies."""
    story = Story()
    report = story.request("GET /report", at=20)
    told = story.request("GET /items/7", at=0, name="show").poll(0, 1, "app.py:19 show", Wait.CHILDREN)
    child = told.child(0.5, "price")
    told.poll(1, 2, "app.py:30 price", Wait.CHILDREN, task=child, ready=0.5)
    inner = told.child(1.5, "ask", parent=child)
    told.poll(2, 2.1, "app.py:40 ask", Wait.TIMER, task=inner, ready=1.5)
    quick = told.child(0.6, "stock")
    told.poll(2.2, 2.3, "app.py:50 stock", Wait.TIMER, task=quick, ready=0.6).poll(10, 10.1, task=quick, by="timer")
    report.poll(20, 420).ends(420.1)
    story.stall(20, 420, "reports.py:88 render", of=report)
    told.poll(420.2, 420.3, task=inner, ready=420.15, by="timer")
    told.poll(420.5, 420.6, task=child, ready=420.4, by="task", by_task=inner)
    told.poll(420.8, 421, ready=420.7, by="task", by_task=child).ends(422)
    model = story.model()
    (wait,) = [step for step in steps(model, model.by_id[told.id]) if step.word == "WAIT"]
    assert 399e6 < wait.late < 402e6 and not wait.exact
    assert f"task {inner} could not go on" in wait.details[-1] and "reports.py:88 (render)" in wait.details[-1]
    text = " ".join(explain(model, told.id).split())
    assert re.search(r"your neighbours: .*part of 3 \(.* at most 400 ms more\)", text), text
