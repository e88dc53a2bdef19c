"""Programs that are guilty of something, and innocent ones, told as stories; TABLE says of what."""

from __future__ import annotations

from collections.abc import Callable

from lens.stories import Story, Told, line, ns

from fastserve.lens.recording import Kind, Wait

Program = Callable[[Story], None]

SHOP = """\
import time, sqlite3

async def slow():
    time.sleep(0.2)
    rows = database.execute("select 1").fetchall()
    await asyncio.sleep(0.2)

async def page(user_id, client, db):
    user = await fetch_user(user_id)
    items = await shop.items(user_id)
    stock = await stock_of(user_id)
    return user, items, stock

async def chain(user_id):
    user = await fetch_user(user_id)
    items = await shop.items(user.id)
    stock = await stock_of(items)

async def session(db):
    one = await db.get(1)
    two = await db.get(2)
    three = await db.get(3)

async def effects(user_id):
    await save(user_id)
    await notify(user_id)
    await log(user_id)

async def clients(client):
    one = await client.get("/1")
    two = await client.get("/2")
    three = await client.get("/3")
"""
"""A real file: what FS005 and FS010 read of it."""

SHOP_FILE = "/SHOP"  # in a frame: the file of the fixture


def requests(story: Story, count: int, text: str = "GET /items/{}", every: float = 100, **more: object) -> list[Told]:
    """Some requests, one every 100 ms."""
    return [
        story.request(text.format(at), at=at * every, route=text.replace("{}", "{id}").split()[1], **more)
        for at in range(count)
    ]  # type: ignore[arg-type]


def by_frames(story: Story, *frames: str, length: float = 200, count: int = 1) -> None:
    """A handler that stood still with this stack."""
    for at in range(count):
        told = story.request("GET /report", at=at * 1000, route="/report")
        story.stall(at * 1000, at * 1000 + length, "fastserve/process/worker.py:1 main", *frames, of=told)
        told.poll(at * 1000, at * 1000 + length).ends(at * 1000 + length + 1)


# ----------------------------------------------------------------------------------------------------- FS001, FS012


def holds_once(story: Story) -> None:
    by_frames(story, "reports.py:88 render", length=340)


def holds_three_times(story: Story) -> None:
    by_frames(story, "reports.py:88 render", length=60, count=3)


def holds_and_others_wait(story: Story) -> None:
    victims = [story.request(f"GET /items/{at}", at=at, route="/items/{id}") for at in range(3)]
    for at, victim in enumerate(victims):
        victim.poll(at, at + 0.1, "items.py:41 show", Wait.POOL)
    told = story.request("GET /report", at=10, route="/report")
    for victim in victims:
        victim.wakes(20, "task", told.task)
        victim.last.clear()
    story.stall(10, 350, "reports.py:88 render", of=told)
    told.poll(10, 350).ends(351)
    for at, victim in enumerate(victims):
        victim.poll(351 + at, 351.5 + at, ready=20).ends(352 + at)


def holds_in_no_request(story: Story) -> None:
    requests(story, 1)[0].poll(0, 0.5, "items.py:41 show", Wait.POOL).flies()
    story.stall(1, 400, "jobs.py:7 tick")


def holds_unseen_by_the_watchdog(story: Story) -> None:
    for at in range(3):
        told = story.request("GET /report", at=at * 1000).poll(
            at * 1000, at * 1000 + 1, "reports.py:80 show", Wait.POOL
        )
        told.poll(at * 1000 + 5, at * 1000 + 65, "reports.py:95 show", Wait.POOL, ready=at * 1000 + 5)
        told.poll(at * 1000 + 70, at * 1000 + 70.1, ready=at * 1000 + 70).ends(at * 1000 + 71)


def works_quickly(story: Story) -> None:
    for at, told in enumerate(requests(story, 30)):
        told.poll(at * 100, at * 100 + 3).ends(at * 100 + 4)


def is_slow_once(story: Story) -> None:
    """A cold cache, or a machine that did something else."""
    works_quickly(story)
    story.request("GET /first", at=5000, route="/first").poll(5000, 5060).ends(5061)


def collects_garbage_for_long(story: Story) -> None:
    told = story.request("GET /", at=0)
    story.gc(1, 160, of=told)
    told.poll(0, 162).ends(163)


def runs_for_long(story: Story) -> None:
    story.request("GET /report", at=0, name="show").poll(0, 1200).ends(1201)


def still_runs(story: Story) -> None:
    told = story.request("GET /report", at=0, name="show").flies("running", 0)
    lens = story.workers[0]
    lens._header |= {"running_request": told.number, "running_task": told.task, "running_since_ns": ns(0)}
    story.builder.taken_ns = ns(900)


def runs_for_long_in_a_known_place(story: Story) -> None:
    by_frames(story, "reports.py:88 render", length=700)


def runs_for_long_with_awaits(story: Story) -> None:
    told = story.request("GET /", at=0).poll(0, 400, "a.py:1 f", Wait.YIELD)
    told.poll(401, 800, ready=401).ends(801)


def streams_for_long(story: Story) -> None:
    told = story.request("GET /feed", at=0, root=True).head(1)
    for at in range(20):
        told.body(1 + at * 50, 100)
    told.poll(0, 1200).ends(1201)


# ------------------------------------------------------------------------------------------------ FS002, FS003, FS004


def is_ready_and_waits(story: Story, delay: float = 80, count: int = 1) -> None:
    for at in range(count):
        start = at * 1000
        told = story.request("GET /waits", at=start, route="/waits").poll(
            start, start + 1, "app.py:14 waits", Wait.EVENT
        )
        guilty = story.request("GET /blocks", at=start + 2, route="/blocks")
        told.wakes(start + 4, "task", guilty.task)
        told.last.clear()
        guilty.poll(start + 3, start + 4 + delay, "app.py:16 block", Wait.TIMER)
        told.poll(start + 4 + delay, start + 5 + delay, ready=start + 4).ends(start + 6 + delay)
        guilty.poll(start + 90 + delay, start + 90.1 + delay, ready=start + 90 + delay, by="timer").ends(
            start + 91 + delay
        )


def is_ready_and_waits_often(story: Story) -> None:
    is_ready_and_waits(story, 25, 3)


def is_ready_among_many(story: Story) -> None:
    """No single one holds the loop: there is too much work."""
    for at in range(3):
        told = story.request("GET /waits", at=at * 100, route="/waits")
        told.poll(at * 100, at * 100 + 0.1, "app.py:14 waits", Wait.POOL)
        told.poll(at * 100 + 60, at * 100 + 60.1, ready=at * 100 + 10).ends(at * 100 + 61)
    for at in range(300):
        story.request("GET /", at=at).poll(at, at + 0.9).ends(at + 0.95)


def is_ready_and_runs_soon(story: Story) -> None:
    for at, told in enumerate(requests(story, 20)):
        told.poll(at * 100, at * 100 + 1, "items.py:41 show", Wait.UPSTREAM)
        told.poll(at * 100 + 55, at * 100 + 56, ready=at * 100 + 50).ends(at * 100 + 57)


def is_ready_late_once(story: Story) -> None:
    is_ready_and_waits(story, 25)


def waits_for_long_and_then_runs(story: Story) -> None:
    for at, told in enumerate(requests(story, 5, every=1000)):
        told.poll(at * 1000, at * 1000 + 1, "items.py:41 show", Wait.UPSTREAM)
        told.poll(at * 1000 + 801, at * 1000 + 802, ready=at * 1000 + 801).ends(at * 1000 + 803)


def lies_in_the_kernel(story: Story, kernel: float = 84, count: int = 1) -> None:
    for at in range(count):
        start = at * 1000
        guilty = story.request("GET /report", at=start, route="/report")
        story.stall(start, start + kernel + 2, "reports.py:88 render", of=guilty)
        guilty.poll(start, start + kernel + 2).ends(start + kernel + 3)
        late = story.request("GET /", at=start + kernel + 3, kernel=kernel, parse=0.1)
        late.poll(start + kernel + 3, start + kernel + 4).ends(start + kernel + 5)


def lies_in_the_kernel_often(story: Story) -> None:
    lies_in_the_kernel(story, 30, 3)


def lies_behind_untraced_code(story: Story) -> None:
    story.stall(0, 90, "reports.py:88 tick")
    story.request("GET /", at=91, kernel=84).poll(91, 92).ends(93)


def lies_there_for_unknown_reasons(story: Story) -> None:
    """A proxy that sends a head in two parts, or a clock tick: nothing held the loop."""
    for at in range(5):
        story.request("GET /", at=at * 100, kernel=40).poll(at * 100, at * 100 + 1).ends(at * 100 + 2)


def lies_there_briefly(story: Story) -> None:
    lies_in_the_kernel(story, 15, 5)


def lies_there_mostly_for_other_reasons(story: Story) -> None:
    for at in range(4):
        start = at * 1000
        story.request("GET /report", at=start).poll(start, start + 60).ends(start + 61)
        story.request("GET /", at=start + 400, kernel=390).poll(start + 400, start + 401).ends(start + 402)


def sleeps_late(story: Story, late: float = 60, count: int = 1, exact: bool = True) -> None:
    for at in range(count):
        start = at * 1000
        told = story.request("GET /sleeps", at=start, route="/sleeps").poll(
            start, start + 0.1, "app.py:18 sleeps", Wait.TIMER
        )
        guilty = (
            story.request("GET /blocks", at=start + 1, route="/blocks")
            .poll(start + 1, start + 20 + late)
            .ends(start + 21 + late)
        )
        del guilty
        if exact:
            told.event(Kind.TIMER, start + 20.1, start + 20.1 + late, task=told.task)
        told.poll(start + 20.1 + late, start + 20.2 + late, ready=start + 20.1 + late, by="timer").ends(
            start + 21 + late
        )


def sleeps_late_often(story: Story) -> None:
    sleeps_late(story, 25, 3)


def sleeps_at_most_late(story: Story) -> None:
    sleeps_late(story, 60, 1, exact=False)


def sleeps_well(story: Story) -> None:
    for at in range(5):
        told = story.request("GET /sleeps", at=at * 100).poll(at * 100, at * 100 + 0.1, "app.py:18 sleeps", Wait.TIMER)
        told.event(Kind.TIMER, at * 100 + 50, at * 100 + 51, task=told.task)
        told.poll(at * 100 + 51, at * 100 + 52, ready=at * 100 + 51, by="timer").ends(at * 100 + 53)


def sleeps_through_a_stall(story: Story) -> None:
    """The stall was in the middle: the timer was in time."""
    for at in range(4):
        start = at * 1000
        told = story.request("GET /sleeps", at=start).poll(start, start + 0.1, "app.py:18 sleeps", Wait.TIMER)
        story.request("GET /blocks", at=start + 1).poll(start + 1, start + 80).ends(start + 81)
        told.poll(start + 500, start + 501, ready=start + 500, by="timer").ends(start + 502)


def waits_for_a_slow_socket(story: Story) -> None:
    waits_for_long_and_then_runs(story)


# ------------------------------------------------------------------------------------------------------ FS005, FS006


def sleeps_blocking(story: Story) -> None:
    by_frames(story, f"{SHOP_FILE}:4 slow")


def asks_a_library(story: Story) -> None:
    by_frames(
        story, "app.py:9 show", "site:requests/api.py:73 get", "site:urllib3/util/connection.py:60 create_connection"
    )


def asks_a_database(story: Story) -> None:
    by_frames(story, f"{SHOP_FILE}:5 slow")


def waits_for_a_process(story: Story) -> None:
    by_frames(story, "app.py:9 show", "lib:subprocess.py:548 run", "lib:subprocess.py:1209 communicate")


def computes(story: Story) -> None:
    by_frames(story, "reports.py:88 render", length=300)


def computes_in_a_library(story: Story) -> None:
    by_frames(
        story, "reports.py:88 render", "site:jinja2/environment.py:1290 render", "site:pandas/core/frame.py:9 merge"
    )


def awaits_on_that_line(story: Story) -> None:
    by_frames(story, f"{SHOP_FILE}:6 slow", "lib:json/decoder.py:337 decode")


def imports_in_its_handler(story: Story) -> None:
    by_frames(
        story,
        "app.py:12 show",
        "<frozen importlib._bootstrap>:1176 _find_and_load",
        "site:pandas/__init__.py:1 <module>",
    )


def imports_by_name(story: Story) -> None:
    by_frames(story, "app.py:12 show", "lib:importlib/__init__.py:90 import_module", "site:plugin.py:1 <module>")


def imports_below_a_library(story: Story) -> None:
    by_frames(story, "app.py:12 show", "site:anyio/_core/_eventloop.py:2 run", "<frozen importlib._bootstrap>:1 x")


def was_itself_started_by_an_import(story: Story) -> None:
    told = story.request("GET /", at=0)
    story.stall(
        0, 200, "<frozen importlib._bootstrap>:1 x", "lib:asyncio/base_events.py:1 run_forever", "app.py:9 f", of=told
    )
    told.poll(0, 200).ends(201)


# ------------------------------------------------------------------------------------------------------ FS007 to FS009


def waits_for_a_pool(story: Story, wait: float = 40, count: int = 5, at_line: str = "items.py:41 show") -> None:
    for at, told in enumerate(requests(story, count)):
        start = at * 100
        told.poll(start, start + 1, [at_line, "site:asyncpg/pool.py:831 acquire"], Wait.POOL)
        told.poll(start + 1 + wait, start + 2 + wait, "items.py:42 show", Wait.IO, ready=start + 1 + wait)
        told.poll(start + 30 + wait, start + 31 + wait, ready=start + 30 + wait).ends(start + 32 + wait)


def waits_a_little_for_a_pool(story: Story) -> None:
    waits_for_a_pool(story, 2, 30)


def waits_once_for_a_pool(story: Story) -> None:
    waits_for_a_pool(story, 60, 1)


def waits_mostly_for_the_database(story: Story) -> None:
    for at, told in enumerate(requests(story, 10, every=1000)):
        start = at * 1000
        told.poll(start, start + 1, "items.py:41 show", Wait.POOL)
        told.poll(start + 9, start + 10, "items.py:42 show", Wait.IO, ready=start + 9)
        told.poll(start + 800, start + 801, ready=start + 800).ends(start + 802)


def waits_long_for_a_pool(story: Story) -> None:
    waits_for_a_pool(story, 400, 3)


def waits_much_for_a_pool(story: Story) -> None:
    waits_for_a_pool(story, 12, 40)


def queues_for_a_thread(story: Story, queued: float = 45, count: int = 4, kind: str = "wsgi") -> None:
    for at in range(count):
        start = at * 10
        told = story.request(
            "GET /view", at=start, route="/view", flags=32 if kind == "wsgi" else 0, root=kind != "wsgi"
        )
        if kind == "executor":
            told.poll(start, start + 0.1, "auth.py:19 login", Wait.THREAD)
        told.thread(start + 0.2, start + 0.2 + queued, start + queued + 20, kind)
        if kind == "executor":
            told.poll(start + queued + 21, start + queued + 22, ready=start + queued + 21, by="thread")
        told.ends(start + queued + 23)


def queues_for_an_executor(story: Story) -> None:
    queues_for_a_thread(story, kind="executor")


def queues_once_for_long(story: Story) -> None:
    queues_for_a_thread(story, 100, 1, "handler")


def finds_a_thread(story: Story) -> None:
    queues_for_a_thread(story, 1, 20)


def queues_once(story: Story) -> None:
    queues_for_a_thread(story, 25, 1)


def works_long_in_a_thread(story: Story) -> None:
    for at in range(5):
        story.request("GET /", at=at, flags=32, root=False).thread(at + 0.1, at + 0.5, at + 900, "wsgi").ends(at + 901)


def queues_for_a_lock(story: Story, wait: float = 40, count: int = 5, inside: bool = True) -> None:
    """Each holds it for `wait` ms, and awaits something inside."""
    told = [story.request("GET /cached", at=at, route="/cached") for at in range(count)]
    for at, one in enumerate(told):
        if at:
            one.poll(at, at + 0.1, "cache.py:30 get", Wait.LOCK)
    free = 10.0
    for at, one in enumerate(told):
        if at:
            one.poll(
                free,
                free + 0.1,
                "cache.py:33 load" if inside else None,
                Wait.UPSTREAM,
                ready=free,
                by="task",
                by_task=told[at - 1].task,
            )
        else:
            one.poll(free, free + 0.1, "cache.py:33 load", Wait.UPSTREAM)
        if at == 0 or inside:
            one.poll(free + wait, free + wait + 0.1, ready=free + wait).ends(free + wait + 0.2)
            free += wait + 0.2
        else:
            one.ends(free + 0.2)
            free += wait


def queues_for_a_lock_that_computes(story: Story) -> None:
    queues_for_a_lock(story, inside=False)


def queues_long_for_a_lock(story: Story) -> None:
    queues_for_a_lock(story, 400, 4)


def takes_turns_at_a_lock(story: Story) -> None:
    queues_for_a_lock(story, 1, 4)


def waits_alone_for_a_lock(story: Story) -> None:
    for at, told in enumerate(requests(story, 5)):
        told.poll(at * 100, at * 100 + 0.1, "cache.py:30 get", Wait.LOCK)
        told.poll(at * 100 + 30, at * 100 + 31, ready=at * 100 + 30, by="task").ends(at * 100 + 32)


def waits_for_events(story: Story) -> None:
    for at in range(8):
        told = story.request("GET /", at=at).poll(at, at + 0.1, "a.py:1 f", Wait.EVENT)
        told.poll(90 + at, 91 + at, ready=90 + at).ends(92 + at)


# ------------------------------------------------------------------------------------------------------ FS010, FS011


def awaits_in_a_row(
    story: Story, lines: tuple[int, ...] = (9, 10, 11), wait: Wait = Wait.IO, function: str = "page"
) -> None:
    for each in range(4):
        start = each * 1000.0
        told = story.request("GET /page", at=start, route="/page")
        for number in lines:
            told.poll(start, start + 0.2, [f"{SHOP_FILE}:{number} {function}", "db.py:7 query"], wait, ready=start)
            start += 30
        told.poll(start, start + 0.2, ready=start).ends(start + 1)


def asks_a_service_in_a_row(story: Story) -> None:
    awaits_in_a_row(story, (30, 31, 32), Wait.UPSTREAM, "clients")


def awaits_in_a_row_below_a_middleware(story: Story) -> None:
    for each in range(4):
        start = each * 1000.0
        told = story.request("GET /page", at=start, route="/page")
        for number in (9, 10, 11):
            told.poll(
                start, start + 0.2, ["middleware.py:5 wrap", f"{SHOP_FILE}:{number} page"], Wait.POOL, ready=start
            )
            start += 40
        told.poll(start, start + 0.2, ready=start).ends(start + 1)


def awaits_what_needs_the_other(story: Story) -> None:
    awaits_in_a_row(story, (15, 16, 17), function="chain")


def awaits_on_one_session(story: Story) -> None:
    awaits_in_a_row(story, (20, 21, 22), function="session")


def awaits_for_effects(story: Story) -> None:
    awaits_in_a_row(story, (25, 26, 27), function="effects")


def wakes_itself(story: Story, count: int = 900, wait: Wait = Wait.YIELD, by: str = "self") -> None:
    told = story.request("GET /poll", at=0, route="/poll").poll(0, 0.01, "loop.py:7 poll", wait)
    for at in range(1, count):
        told.poll(at * 0.1, at * 0.1 + 0.01, "loop.py:7 poll", wait, ready=at * 0.1 - 0.05, by=by)
    told.poll(count * 0.1, count * 0.1 + 0.1, ready=count * 0.1, by=by).ends(count * 0.1 + 1)


def wakes_itself_by_a_future(story: Story) -> None:
    wakes_itself(story, 150, Wait.FUTURE)


def gives_way_unnoticed(story: Story) -> None:
    wakes_itself(story, 120, Wait.YIELD, "unknown")


def gives_way_now_and_then(story: Story) -> None:
    wakes_itself(story, 20)


def gives_way_between_reads(story: Story) -> None:
    told = story.request("GET /", at=0).poll(0, 0.01, "a.py:1 f", Wait.IO)
    for at in range(1, 400):
        wait = Wait.YIELD if at % 3 == 0 else Wait.IO
        told.poll(at, at + 0.1, "a.py:1 f", wait, ready=at - 0.1, by="io")
    told.poll(400, 401, ready=400).ends(401)


def reads_very_often(story: Story) -> None:
    wakes_itself(story, 500, Wait.IO, "io")


# ------------------------------------------------------------------------------------------------------ FS013 to FS017


def leaves_a_task(story: Story, after: float = 4000, count: int = 3, name: str = "notify") -> None:
    for at in range(count):
        start = at * 100
        told = story.request("GET /", at=start, route="/")
        child = told.child(start + 0.1, name)
        told.poll(start, start + 1).ends(start + 2)
        told.poll(start + 1, start + 1.5, "jobs.py:7 notify", Wait.UPSTREAM, task=child)
        told.poll(start + after, start + after + 1, "jobs.py:9 notify", Wait.TIMER, task=child, ready=start + after)


def leaves_one_for_long(story: Story) -> None:
    leaves_a_task(story, 40_000, 1)


def leaves_many(story: Story) -> None:
    leaves_a_task(story, 3100, 10)


def loses(story: Story, what: int, *at: str, count: int = 1, task: bool = False) -> None:
    for number in range(count):
        start = number * 100
        told = story.request("GET /", at=start, route="/")
        told.poll(start, start + 1).ends(start + 2)
        fields = {"task": told.child(start + 0.1, "notify")} if task else {"task": told.task}
        told.event(Kind.ORPHAN, start + 0.5, a=told.worker.text("notify"), b=told.stack(*at), flags=what, **fields)


def loses_a_pending_task(story: Story) -> None:
    loses(story, 1, "jobs.py:9 notify", task=True)


def forgets_to_await(story: Story) -> None:
    loses(story, 2, "app.py:4 order", count=2)


def drops_a_coroutine_that_never_began(story: Story) -> None:
    loses(story, 2 | 4, "jobs.py:7 notify")


def loses_nobodys_coroutine(story: Story) -> None:
    """The collector found it: whose it was is not known."""
    worker = story.workers[0]
    code = worker.stack(line("jobs.py:7 notify"))
    worker.event(Kind.ORPHAN, ns(5), a=worker.text("notify"), b=code, flags=2 | 4)


def ends_its_tasks(story: Story) -> None:
    for at, told in enumerate(requests(story, 5)):
        child = told.child(at * 100 + 0.1, "fetch")
        told.poll(at * 100, at * 100 + 1, "a.py:1 f", Wait.CHILDREN)
        told.poll(at * 100 + 1, at * 100 + 1.5, "a.py:9 g", Wait.IO, task=child)
        told.poll(at * 100 + 50, at * 100 + 51, ready=at * 100 + 50, task=child)
        told.poll(at * 100 + 52, at * 100 + 53, ready=at * 100 + 52).ends(at * 100 + 54)


def leaves_one_for_a_moment(story: Story) -> None:
    leaves_a_task(story, 4000, 1)


def leaves_one_that_nobody_saw_again(story: Story) -> None:
    for at, told in enumerate(requests(story, 5)):
        child = told.child(at * 100 + 0.1, "feed")
        told.poll(at * 100, at * 100 + 1).ends(at * 100 + 2)
        told.poll(at * 100 + 1, at * 100 + 1.5, "a.py:1 f", Wait.QUEUE, task=child)
    story.builder.taken_ns = ns(60_000)


def collects_once_for_long(story: Story) -> None:
    collects_garbage_for_long(story)


def collects_often(story: Story) -> None:
    for at in range(4):
        told = story.request("GET /", at=at * 1000)
        story.gc(at * 1000 + 1, at * 1000 + 26, of=told)
        story.stall(at * 1000, at * 1000 + 28, "app.py:7 grow", of=told)
        told.poll(at * 1000, at * 1000 + 28).ends(at * 1000 + 29)


def collects_between_requests(story: Story) -> None:
    story.gc(1, 80)
    requests(story, 1)[0].poll(0, 0.5).ends(0.6)


def collects_briefly(story: Story) -> None:
    for at in range(20):
        story.gc(at * 100, at * 100 + 5)


def collects_rather_long_once(story: Story) -> None:
    story.gc(0, 40)


def has_a_slow_client(story: Story) -> None:
    story.request("GET /big", at=0, route="/big").poll(0, 1).head(0.5).body(0.9, 3_400_000).drains(1, 2101).ends(2102)


def has_a_slow_uploader(story: Story) -> None:
    told = story.request("POST /up", at=0, route="/up").poll(0, 1, "up.py:5 up", Wait.RECEIVE)
    told.event(Kind.RECEIVE, 1, 1600, task=told.task).event(Kind.BODY, 1600, a=3_000_000, flags=1)
    told.poll(1600, 1601, ready=1600).ends(1602)


def has_slow_clients(story: Story) -> None:
    for at in range(3):
        story.request("GET /big", at=at * 10, route="/big").poll(at * 10, at * 10 + 1).drains(
            at * 10 + 2, at * 10 + 1500
        ).ends(at * 10 + 1501)


def has_a_client_that_pauses(story: Story) -> None:
    story.request("GET /", at=0).poll(0, 1).drains(1, 300).ends(301)


def has_a_client_that_is_the_least(story: Story) -> None:
    told = story.request("GET /", at=0).poll(0, 1, "a.py:1 f", Wait.UPSTREAM)
    told.poll(5000, 5001, ready=5000).drains(5002, 6100).ends(6200)


def speaks_websocket(story: Story) -> None:
    told = story.request("GET /ws", at=0, flags=16).poll(0, 1, "ws.py:3 talk", Wait.MESSAGE)
    told.event(Kind.RECEIVE, 1, 60_000, task=told.task)
    for at in range(300):
        told.body(2 + at / 100, 20)
    told.flies()
    story.builder.taken_ns = ns(60_000)


def sends_crumbs(story: Story, count: int = 400, size: int = 90, gap: float = 0.03) -> None:
    told = story.request("GET /export", at=0, route="/export").head(1)
    for at in range(count):
        told.body(1 + at * gap, size)
    told.poll(0, 0.5, "export.py:9 rows", Wait.QUEUE)
    told.poll(1 + count * gap, 2 + count * gap, ready=1 + count * gap).ends(2 + count * gap, sent=0)


def sends_many_crumbs(story: Story) -> None:
    sends_crumbs(story, 3000, 10, 0.01)


def sends_crumbs_rather_slowly(story: Story) -> None:
    sends_crumbs(story, 120, 500, 4)


def sends_large_pieces(story: Story) -> None:
    sends_crumbs(story, 400, 16_384)


def sends_few_crumbs(story: Story) -> None:
    sends_crumbs(story, 30, 20)


def sends_events(story: Story) -> None:
    sends_crumbs(story, 200, 60, 250)


def hangs(story: Story, wait: Wait = Wait.QUEUE, after: float = 31_000, **more: object) -> None:
    told = story.request("GET /wait", at=0, route="/wait", **more).poll(0, 1, "events.py:12 feed", wait)  # type: ignore[arg-type]
    told.flies("waiting", 1)
    story.builder.taken_ns = ns(after)


def hangs_on_a_lock(story: Story) -> None:
    hangs(story, Wait.LOCK, 90_000)


def hangs_in_a_child(story: Story) -> None:
    told = story.request("GET /wait", at=0, route="/wait")
    child = told.child(0.5, "fetch")
    told.poll(0, 1, "app.py:3 show", Wait.CHILDREN)
    told.poll(1, 2, "events.py:12 feed", Wait.UPSTREAM, task=child)
    told.flies("waiting", 1)
    story.builder.taken_ns = ns(40_000)


def waits_for_the_client(story: Story) -> None:
    hangs(story, Wait.RECEIVE)


def sleeps_on_purpose(story: Story) -> None:
    hangs(story, Wait.TIMER, 100_000)


def streams_and_waits(story: Story) -> None:
    told = story.request("GET /events", at=0).head(0.5).poll(0, 1, "events.py:12 feed", Wait.QUEUE)
    told.flies("waiting", 1)
    story.builder.taken_ns = ns(500_000)


TABLE: dict[str, tuple[str, list[Program], list[Program]]] = {
    # code: (the line that must be named, guilty, innocent)
    "FS001": (
        "reports.py:88",
        [holds_once, holds_three_times, holds_and_others_wait],
        [works_quickly, is_slow_once, collects_garbage_for_long],
    ),
    "FS002": (
        "app.py:14",
        [is_ready_and_waits, is_ready_and_waits_often, is_ready_among_many],
        [is_ready_and_runs_soon, is_ready_late_once, waits_for_long_and_then_runs],
    ),
    "FS003": (
        "reports.py:88",
        [lies_in_the_kernel, lies_in_the_kernel_often, lies_behind_untraced_code],
        [lies_there_for_unknown_reasons, lies_there_briefly, lies_there_mostly_for_other_reasons],
    ),
    "FS004": (
        "app.py:18",
        [sleeps_late, sleeps_late_often, sleeps_at_most_late],
        [sleeps_well, sleeps_through_a_stall, waits_for_a_slow_socket],
    ),
    "FS005": (
        "",
        [sleeps_blocking, asks_a_library, asks_a_database, waits_for_a_process],
        [computes, computes_in_a_library, awaits_on_that_line],
    ),
    "FS006": (
        "app.py:12",
        [imports_in_its_handler, imports_by_name, imports_below_a_library],
        [computes, was_itself_started_by_an_import, asks_a_library],
    ),
    "FS007": (
        "items.py:41",
        [waits_for_a_pool, waits_long_for_a_pool, waits_much_for_a_pool],
        [waits_a_little_for_a_pool, waits_once_for_a_pool, waits_mostly_for_the_database],
    ),
    "FS008": (
        "",
        [queues_for_a_thread, queues_for_an_executor, queues_once_for_long],
        [finds_a_thread, queues_once, works_long_in_a_thread],
    ),
    "FS009": (
        "cache.py:30",
        [queues_for_a_lock, queues_for_a_lock_that_computes, queues_long_for_a_lock],
        [takes_turns_at_a_lock, waits_alone_for_a_lock, waits_for_events],
    ),
    "FS010": (
        "",
        [awaits_in_a_row, asks_a_service_in_a_row, awaits_in_a_row_below_a_middleware],
        [awaits_what_needs_the_other, awaits_on_one_session, awaits_for_effects],
    ),
    "FS011": (
        "loop.py:7",
        [wakes_itself, wakes_itself_by_a_future, gives_way_unnoticed],
        [gives_way_now_and_then, gives_way_between_reads, reads_very_often],
    ),
    "FS012": (
        "",
        [runs_for_long, still_runs, runs_for_long_in_a_known_place],
        [runs_for_long_with_awaits, streams_for_long, holds_once],
    ),
    "FS013": (
        "",
        [
            leaves_a_task,
            leaves_one_for_long,
            leaves_many,
            loses_a_pending_task,
            forgets_to_await,
            drops_a_coroutine_that_never_began,
            loses_nobodys_coroutine,
        ],
        [ends_its_tasks, leaves_one_for_a_moment, leaves_one_that_nobody_saw_again],
    ),
    "FS014": (
        "",
        [collects_once_for_long, collects_often, collects_between_requests],
        [collects_briefly, collects_rather_long_once, works_quickly],
    ),
    "FS015": (
        "",
        [has_a_slow_client, has_a_slow_uploader, has_slow_clients],
        [has_a_client_that_pauses, has_a_client_that_is_the_least, speaks_websocket],
    ),
    "FS016": (
        "",
        [sends_crumbs, sends_many_crumbs, sends_crumbs_rather_slowly],
        [sends_large_pieces, sends_few_crumbs, sends_events, speaks_websocket],
    ),
    "FS017": (
        "events.py:12",
        [hangs, hangs_on_a_lock, hangs_in_a_child],
        [waits_for_the_client, sleeps_on_purpose, streams_and_waits, speaks_websocket],
    ),
}

LINES: dict[str, str] = {
    "sleeps_blocking": "shop.py:4",
    "asks_a_library": "app.py:9",
    "asks_a_database": "shop.py:5",
    "waits_for_a_process": "app.py:9",
    "queues_for_an_executor": "auth.py:19",
    "awaits_in_a_row": "shop.py:9",
    "asks_a_service_in_a_row": "shop.py:30",
    "awaits_in_a_row_below_a_middleware": "shop.py:9",
    "runs_for_long_in_a_known_place": "reports.py:88",
    "leaves_a_task": "jobs.py:9",
    "leaves_one_for_long": "jobs.py:9",
    "leaves_many": "jobs.py:9",
    "loses_a_pending_task": "jobs.py:9",
    "forgets_to_await": "app.py:4",
    "drops_a_coroutine_that_never_began": "jobs.py:7",
    "loses_nobodys_coroutine": "jobs.py:7",
    "collects_often": "app.py:7",
}
"""The line that is named, where it is not the one of the table."""
