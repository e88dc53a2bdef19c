"""lens/model.py: a recording read into requests, tasks, run slices, waits, and who was to blame."""

from __future__ import annotations

import random
import time

import pytest
from lens.stories import BASE, LIBRARY, Story, line, ns

from fastserve.lens.model import Model, RequestTrace, build, place, shown_frame, user_frame
from fastserve.lens.recording import Builder, Frame, Kind, Stack, Wait
from fastserve.lens.wording import who

MS = 1_000_000


def ms(value: int | None) -> float:
    assert value is not None
    return round(value / MS, 6)


def only(model: Model) -> RequestTrace:
    assert len(model.requests) == 1
    return model.requests[0]


# ---------------------------------------------------------------------------------------------------------- one request


def test_a_request_is_busy_scheduled_and_idle_and_nothing_else() -> None:
    story = Story()
    told = story.request("GET /items/7", at=10, route="/items/{id}", kernel=31, parse=0.5, name="items.show")
    told.poll(10.2, 10.4, "items.py:41 show", Wait.POOL).poll(74.7, 74.9, ready=34.4, by="task", by_task=99)
    told.head(74.8).body(74.85, 1200).ends(75)
    one = only(story.model())
    assert (one.id, one.method, one.path, one.route, one.status) == ("w0-0001", "GET", "/items/7", "/items/{id}", 200)
    assert (ms(one.kernel_wait), ms(one.parse), ms(one.total)) == (31, 0.5, 96.5)
    assert one.head - one.first_byte == one.parse and one.first_byte - one.start == one.kernel_wait
    assert one.root is not None and one.root.name == "items.show" and one.root.outcome == "returned"
    assert one.handler_start == one.root.started and one.handler_end == one.root.ended
    for each in (one, one.root):
        assert (ms(each.busy), ms(each.idle)) == (0.4, 24.0)
        assert ms(each.scheduled) == 40.5  # 0.2 before its first slice, 40.3 before its second
        assert each.busy + each.scheduled + each.idle == ns(74.9) - ns(10)
    (wait,) = one.root.awaits
    assert (wait.wait, wait.waker_kind, wait.waker_task) == (Wait.POOL, "task", 99)
    assert (wait.start, wait.ready, wait.end) == (ns(10.4), ns(34.4), ns(74.7))
    assert one.finished and not one.partial and one.polls == 2 and one.body_bytes_out == 1200


def test_the_handlers_time_has_each_moment_once_however_many_tasks_there_are() -> None:
    story = Story()
    told = story.request("GET /gather", at=0)
    told.poll(0, 1, "app.py:19 show", Wait.CHILDREN)
    first, second = told.child(0.5, "fetch"), told.child(0.6, "fetch")
    told.poll(1, 1.1, "app.py:30 fetch", Wait.TIMER, task=first, ready=0.5)
    told.poll(1.1, 1.2, "app.py:30 fetch", Wait.TIMER, task=second, ready=0.6)
    told.poll(30, 40, ready=25, by="timer", task=first)
    told.poll(50, 51, ready=50, by="timer", task=second)
    told.poll(52, 53, ready=51, by="io").ends(53)
    one = only(story.model())
    assert ms(one.busy) == 1 + 0.1 + 0.1 + 10 + 1 + 1
    assert ms(one.scheduled) == 5 + 1  # while only `first` was ready, and while the root was
    assert one.busy + one.scheduled + one.idle == ns(53) - ns(0)
    assert one.polls == 6 and len(one.tasks) == 3
    assert {task.parent for task in one.tasks.values()} == {0, told.task}
    root = one.root
    assert root is not None and root.id == told.task
    assert (ms(root.busy), ms(root.scheduled), ms(root.idle)) == (2, 1, 50)


def test_a_lost_await_is_made_up_from_the_polls_around_it() -> None:
    story = Story()
    told = story.request("GET /", at=0)
    told.poll(0, 1, "app.py:3 f", Wait.QUEUE).poll(9, 10, ready=7, silent=True).ends(10)
    one = only(story.model())
    assert one.root is not None
    (wait,) = one.root.awaits
    assert (ms(one.idle), ms(one.scheduled), wait.wait, wait.waker_kind) == (6, 2, Wait.QUEUE, "unknown")


def test_threads_of_a_wsgi_application_are_its_handler() -> None:
    story = Story()
    told = story.request("GET /", at=0, flags=32, root=False)
    told.thread(0.1, 5.1, 25.1, "wsgi", "fastserve-wsgi_3").ends(26)
    one = only(story.model())
    assert one.wsgi and one.root is None
    assert (ms(one.thread_queue), ms(one.thread_run)) == (5, 20)
    assert one.handler_start == ns(0.1) and one.handler_end == ns(25.1)
    assert one.busy == one.scheduled == one.idle == 0
    assert one.threads[0].name == "fastserve-wsgi_3"


def test_flags_bodies_marks_timers_and_drains_find_their_request() -> None:
    story = Story()
    story.workers[0].event(Kind.CONN_ACCEPT, ns(-3), task=1)
    told = story.request("POST /up", at=0, flags=1 | 4 | 8 | 16)
    told.event(Kind.BODY, 1, a=400).event(Kind.BODY, 2, a=600, flags=1).event(Kind.RECEIVE, 0.5, 2, task=told.task)
    told.event(Kind.MARK, 3, b=told.worker.text("cache miss"), task=told.task)
    told.event(Kind.TIMER, 4, 6, task=told.task).drains(7, 12).body(6, 70).body(6.5, 30)
    told.ends(13, 499, sent=90, flags=1 | 2 | 4)
    one = only(story.model())
    assert one.first and one.pipelined and one.tls and one.websocket and not one.wsgi
    assert one.accepted == ns(-3)
    assert one.body_bytes_in == 1000 and one.body_complete == ns(2)
    assert one.body_bytes_out == 100 and one.body_messages_out == 2
    assert [(mark.text, mark.at) for mark in one.marks] == [("cache miss", ns(3))]
    assert [(ms(timer.late), timer.due) for timer in one.timers] == [(2, ns(4))]
    assert ms(one.write_wait) == 5 and [ms(span.length) for span in one.receives] == [1.5]
    assert one.cut and one.client_left and one.failed and one.status == 499


# ------------------------------------------------------------------------------------------------------ in flight, halves


def test_what_is_in_flight_lasts_until_the_recording_was_taken() -> None:
    story = Story()
    waiting = story.request("GET /events", at=0)
    waiting.poll(0, 1, "events.py:12 feed", Wait.QUEUE).flies("waiting", 1)
    ready = story.request("GET /items/7", at=2)
    ready.poll(2, 3, "items.py:41 show", Wait.POOL).wakes(10)
    ready.flies("ready", 10)
    model = story.model(now=100)
    one, two = model.requests
    assert (ms(one.total), ms(one.idle), ms(one.busy)) == (100.1, 99, 1) and not one.finished
    assert one.root is not None and one.root.awaits[0].ready is None and one.root.idle == one.idle
    assert (ms(two.scheduled), ms(two.idle)) == (90, 7)
    assert two.root is not None and two.root.scheduled == two.scheduled
    assert one.live is not None and one.live.state == "waiting" and not one.partial


def test_the_slice_that_runs_now_is_told_by_the_header() -> None:
    story = Story()
    told = story.request("GET /report", at=0)
    told.poll(0, 1, "reports.py:80 load", Wait.POOL).wakes(5)
    told.flies("running", 6)
    lens = story.workers[0]
    lens._header |= {"running_request": told.number, "running_task": told.task, "running_since_ns": ns(6)}
    lens._header |= {"stall_since_ns": ns(6), "stall_stack": lens.stack(line("reports.py:88 render"))}
    model = story.model(now=446)
    one = only(model)
    assert one.root is not None and one.root.polls[-1].outcome == "running"
    assert (ms(one.busy), ms(one.scheduled), ms(one.idle)) == (1 + 440, 1, 4)
    (stall,) = one.stalls
    assert ms(stall.length) == 440 and place(stall.stack) == "reports.py:88"


def test_half_requests_are_told_as_far_as_they_are_known() -> None:
    story = Story(capacity=16)
    old = story.request("GET /old", at=0)
    old.poll(0, 1, "a.py:1 f")
    for at in range(10):
        old.poll(10 + at, 10.5 + at, "a.py:1 f", ready=10 + at)
    old.ends(21, 200)
    other = story.request("GET /new", at=22).poll(22, 23).ends(24)
    model = story.model()
    assert model.lanes[0].lost > 0
    half = model.by_id[old.id]
    assert half.partial and half.finished and half.method == "?"
    assert half.head == ns(0)  # its end says how long it was
    assert half.root is not None and half.root.busy == len(half.root.polls) * MS // 2
    assert not model.by_id[other.id].partial
    assert model.find("slowest") is model.by_id[other.id]  # of what is whole


def test_a_request_without_an_end_that_does_not_fly_is_partial() -> None:
    story = Story()
    told = story.request("GET /", at=0).poll(0, 3, "a.py:1 f")
    one = only(story.model(now=10_000))
    assert one.partial and not one.finished and ms(one.total) == 3.1
    assert one.root is not None and one.root.idle == 0  # nobody knows
    assert one.id == told.id


def test_unknown_kinds_tasks_texts_and_stacks_do_no_harm() -> None:
    builder = Builder()
    lens = builder.worker(started_ns=BASE)
    for kind in Kind:
        for number in (0, 7):
            lens.event(kind, ns(1), 10, request=number, flags=0xFFFF, a=2**64 - 1, task=2**32 - 1, b=2**32 - 1)
    model = build(builder.build())
    assert model.by_id["w0-0007"].path == "?"


@pytest.mark.parametrize("seed", range(40))
def test_random_events_are_read_without_an_exception(seed: int) -> None:
    rng = random.Random(seed)
    builder = Builder(taken_ns=ns(100) if seed % 2 else 0)
    lens = builder.worker(started_ns=BASE, capacity=rng.choice([8, 64, 4096]))
    numbers = [lens.text("GET /x"), lens.stack(("a.py", 1, "f"), wait=Wait.LOCK), 0, 99]
    for _ in range(300):
        lens.event(
            rng.choice(list(Kind)),
            ns(rng.uniform(0, 100)),
            rng.randrange(30 * MS),
            request=rng.randrange(5),
            flags=rng.randrange(6),
            a=rng.choice([ns(rng.uniform(0, 100)), rng.randrange(2**40), 2 << 32]),
            task=rng.randrange(6),
            b=rng.choice(numbers),
        )
    for one in build(builder.build()).requests:
        assert 0 <= one.late <= max(one.idle, 0) or one.idle <= 0
        if one.handler_start is not None and one.root is not None:
            assert min(one.busy, one.scheduled, one.idle) >= 0


# --------------------------------------------------------------------------------------------------- who held the loop


def blocked(by_stall: bool = True) -> tuple[Story, str, dict[str, str]]:
    """One blocks 80 ms; one was ready, one slept, one's bytes lay in the kernel."""
    story = Story()
    ready = story.request("GET /waits", at=0).poll(0, 1, "app.py:14 waits", Wait.EVENT)
    sleeper = story.request("GET /sleeps", at=1).poll(1, 2, "app.py:18 sleeps", Wait.TIMER)
    reader = story.request("GET /far", at=2).poll(2, 2.2, "app.py:22 far", Wait.UPSTREAM)
    guilty = story.request("GET /blocks", at=3)
    ready.wakes(4, "task", guilty.task)
    if by_stall:
        story.stall(3, 83, "lib:asyncio/base_events.py:600 run", "app.py:16 block", of=guilty, in_flight=4)
    guilty.poll(3, 83).ends(83.1)
    story.workers[0]._events.pop()  # its end comes after the slices below
    ready.last[ready.task] = None
    ready.poll(83.2, 83.3, ready=4).ends(83.4)
    sleeper.poll(83.4, 83.5, ready=83.2, by="timer").ends(83.6)
    reader.poll(183.4, 183.5, ready=183.2, by="io").ends(183.6)
    guilty.ends(83.1)
    late = story.request("GET /later", at=83.7, kernel=60, parse=0.01).poll(83.8, 83.9).ends(84)
    names = {"ready": ready, "sleeper": sleeper, "reader": reader, "late": late}
    return story, guilty.id, {name: told.id for name, told in names.items()}


def test_who_was_ready_or_slept_or_lay_in_the_kernel_knows_whom_to_blame() -> None:
    story, guilty, ids = blocked()
    model = story.model()
    ready = model.by_id[ids["ready"]]
    assert ready.root is not None
    held = ready.root.polls[-1].held_by
    assert held is not None and held.request == guilty and place(held.stack) == "app.py:16"
    assert ready.root.awaits[0].late == 0  # a task woke it: the loop had turned as far as it must
    sleeper = model.by_id[ids["sleeper"]]
    assert sleeper.root is not None
    wait = sleeper.root.awaits[0]
    assert wait.held_by is held and ms(wait.late) == 80.2 and sleeper.late == wait.late
    late = model.by_id[ids["late"]]
    assert late.kernel_held_by is held


def test_a_wait_that_the_loop_could_have_ended_is_not_late() -> None:
    story, _, ids = blocked()
    reader = story.model().by_id[ids["reader"]]
    assert reader.root is not None
    assert reader.root.awaits[0].late == 0 and reader.late == 0  # blocked in the middle of it, not at its end


def test_a_timer_whose_time_is_known_is_late_by_just_so_much() -> None:
    story = Story()
    told = story.request("GET /sleeps", at=0).poll(0, 0.1, "app.py:18 sleeps", Wait.TIMER)
    other = told.child(0.05, "block")
    told.poll(0.2, 80.1, task=other)  # its own child: no neighbour, but the loop all the same
    told.event(Kind.TIMER, 20.1, 84.1, task=told.task)
    told.poll(84.2, 84.3, ready=84.1, by="timer").ends(85)
    one = only(story.model())
    assert one.root is not None
    wait = one.root.awaits[0]
    assert wait.exact and ms(wait.late) == 64 and wait.held_by is not None and wait.held_by.task == other


def test_a_stall_knows_its_victims_and_the_request_that_caused_it() -> None:
    story, guilty, ids = blocked()
    model = story.model()
    (stall,) = model.lanes[0].stalls
    assert stall.victims == sorted([ids["ready"], ids["sleeper"], ids["late"]])
    assert model.by_id[guilty].stalls == [stall] and stall.request == guilty


def test_without_a_watchdog_the_slice_itself_is_named() -> None:
    story, guilty, ids = blocked(by_stall=False)
    model = story.model()
    ready = model.by_id[ids["ready"]]
    assert ready.root is not None and ready.root.polls[-1].held_by is not None
    assert ready.root.polls[-1].held_by.request == guilty and ready.root.polls[-1].held_by.stack is None
    assert not model.lanes[0].stalls


def test_what_held_the_loop_is_named_where_nothing_is_traced() -> None:
    """In the mode `stalls`: the watchdog writes the text of what ran, by the board, above the number in flight."""
    builder = Builder()
    worker = builder.worker(mode="stalls")
    where = worker.stack(("/srv/app.py", 88, "render"))
    about = worker.request_text("GET /report") << 32 | 15
    worker.event(Kind.STALL, BASE, ns(340), a=about, b=where)
    model = build(builder.build())
    (stall,) = model.lanes[0].stalls
    assert (stall.what, stall.in_flight, stall.request) == ("GET /report", 15, "")
    (hold,) = model.lanes[0].holds
    assert who(hold, {}) == "GET /report at app.py:88 (render)"


def test_a_stall_of_no_request_is_a_hold_of_its_own() -> None:
    story = Story()
    told = story.request("GET /", at=0).poll(0, 0.5, "app.py:2 show", Wait.IO)
    story.stall(2, 90, "jobs.py:7 tick", in_flight=1)
    told.poll(90.1, 90.2, ready=90).ends(91)
    model = story.model()
    (hold,) = model.lanes[0].holds
    assert hold.request == "" and place(hold.stack) == "jobs.py:7"
    one = only(model)
    assert one.root is not None and one.root.awaits[0].held_by is hold and ms(one.late) == 88
    assert model.lanes[0].stalls[0].victims == [told.id]


def test_holds_of_other_workers_are_not_blamed() -> None:
    story = Story(workers=2)
    story.request("GET /block", at=0, worker=1).poll(0, 80).ends(81)
    told = story.request("GET /", at=0).poll(0, 0.5, "app.py:2 show", Wait.TIMER).poll(80, 80.1, by="timer").ends(80.2)
    one = story.model().by_id[told.id]
    assert one.late == 0 and one.worker == 0


def test_garbage_collection_is_taken_out_of_who_is_blamed() -> None:
    story = Story()
    told = story.request("GET /", at=0)
    story.gc(1, 100, of=told)
    told.poll(0, 102).ends(103)
    model = story.model()
    assert ms(model.lanes[0].holds[0].gc) == 99
    assert [ms(gc.length) for gc in only(model).gc] == [99]


def test_an_eager_childs_slice_inside_its_parents_counts_once() -> None:
    story = Story()
    told = story.request("GET /", at=0)
    child = told.child(1, "eager")
    told.poll(1, 4, task=child)
    told.poll(0, 5).ends(6)
    model = story.model()
    assert ms(only(model).busy) == 5 and len(model.lanes[0].holds) == 1


# --------------------------------------------------------------------------------------------------------- the user's line


def stack_of(*lines: str) -> Stack:
    return Stack(tuple(Frame(*line(text)) for text in lines))


@pytest.mark.parametrize(
    "file",
    [
        LIBRARY + "asyncio/locks.py",
        "/usr/lib64/python3/asyncio/locks.py",
        "/opt/uv/cpython-3.14t/lib/python3.14t/asyncio/locks.py",
        "/Library/Frameworks/Python.framework/Versions/3.12/lib/python3.12/queue.py",
        "/srv/venv/lib/python3.12/site-packages/asyncpg/pool.py",
        "/usr/lib/python3/dist-packages/requests/api.py",
        "<frozen importlib._bootstrap>",
        "fastserve/interfaces/call.pyx",
        "/src/fastserve/app.py",
        "/src/fastserve/protocol/exchange.pyx",
        "",
    ],
)
def test_library_files_are_not_the_users_own(file: str) -> None:
    own = Frame("/home/me/shop/items.py", 41, "show")
    foreign = Frame(file, 9, "acquire")
    assert user_frame(Stack((own, foreign))) == own
    assert user_frame(Stack((foreign,))) is None
    assert shown_frame(Stack((foreign,))) == foreign


@pytest.mark.parametrize(
    "file", ["/home/me/fastserve/shop/items.py", "items.py", "/srv/lib/app.py", "C:\\shop\\app.py"]
)
def test_files_of_a_project_are_the_users_own(file: str) -> None:
    frame = Frame(file, 3, "show")
    assert user_frame(Stack((frame,))) == frame


def test_the_deepest_own_frame_is_the_one() -> None:
    found = user_frame(stack_of("main.py:5 show", "db.py:9 query", "site:asyncpg/pool.py:1 acquire"))
    assert found is not None and place(found) == "db.py:9"


def test_a_place_has_its_folder_where_the_name_says_nothing() -> None:
    assert place(stack_of("items.py:41 show")) == "items.py:41"
    assert place(stack_of("items/views.py:41 show")) == "items/views.py:41"
    assert place(stack_of("lib:asyncio/tasks.py:634 sleep")) == "asyncio/tasks.py:634"
    assert place(stack_of("lib:queue.py:9 get")) == "queue.py:9"
    assert place(stack_of("site:anyio/_backends/_asyncio.py:1 f")) == "anyio/_asyncio.py:1"
    assert place(None) == ""


# ----------------------------------------------------------------------------------------------------------- many of them


def test_reading_takes_time_in_proportion_to_the_events() -> None:
    def told(count: int) -> Builder:
        story = Story(capacity=count * 8)
        for at in range(count):
            one = story.request("GET /", at=at).poll(at, at + 0.9, "app.py:2 f", Wait.TIMER)
            if at % 3 == 0:
                story.stall(at + 0.1, at + 0.9, "app.py:2 f", of=one)
            one.poll(at + 5, at + 6.2, ready=at + 4, by="timer").ends(at + 7)
        return story.builder

    def cost(count: int) -> float:
        recording = told(count).build()
        best = 1e9
        for _ in range(3):
            began = time.process_time()
            build(recording)
            best = min(best, time.process_time() - began)
        return best

    assert cost(4000) < 4 * 4 * cost(1000)  # 4 times the events; squared it would be 16 times, and a noisy clock apart
