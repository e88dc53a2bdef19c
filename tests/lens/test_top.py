"""lens/top.py and screen.py: what is reckoned from two looks at a server, and how it is shown."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from lens.programs import holds_and_others_wait, is_ready_and_waits
from lens.stories import Story, line, ns

from fastserve.errors import LensError
from fastserve.lens import top
from fastserve.lens.recording import Recording, Wait
from fastserve.lens.top import Top, View, plain
from fastserve.protocol.board import LATENCY_BOUNDS


def figures(story: Story, served: int, latency: dict[int, int], by_class5: int = 0, active: int = 3) -> None:
    """Of each worker's seat on the board."""
    for worker in story.workers:
        counts = [0] * (len(LATENCY_BOUNDS) + 1)
        for at, number in latency.items():
            counts[at] = number
        worker.figures = {
            "served": served,
            "latency": tuple(counts),
            "by_class": (0, 0, served - by_class5, 0, 0, by_class5),
            "active": active,
        }


def busy_shop(now: float = 10_000, served: int = 100, mode: str = "full") -> Story:
    story = Story(workers=2, mode=mode)
    holds_and_others_wait(story)
    for at in range(10):
        told = story.request("POST /login", at=1000 + at * 10, route="/login", worker=1, kernel=5)
        told.poll(1000 + at * 10, 1001 + at * 10, "auth.py:19 login", Wait.THREAD)
        told.poll(1060 + at * 10, 1061 + at * 10, ready=1060 + at * 10, by="thread").ends(1062 + at * 10)
    figures(story, served, {1: served // 2, 5: served - served // 2}, by_class5=served // 50)
    story.builder.taken_ns = ns(now)
    return story


def looked(first: Story, second: Story) -> View:
    look = Top()
    look.look(first.builder.build())
    return look.look(second.builder.build())


# ---------------------------------------------------------------------------------------------------------- the figures


def test_rates_come_from_two_looks() -> None:
    view = looked(busy_shop(10_000, 100), busy_shop(12_000, 500))
    assert view.seconds == 2 and view.rate == 2 * 400 / 2
    assert view.errors == 2 * 8 / 2
    assert view.p50_ns is not None and 0.005e9 < view.p50_ns <= 0.01e9
    assert view.p99_ns is not None and 0.075e9 < view.p99_ns <= 0.1e9
    assert view.in_flight == 6


def test_the_first_look_has_no_rates_and_says_none() -> None:
    view = Top().look(busy_shop().builder.build())
    assert view.rate is None and "req/s" not in top.title(view)


def test_a_new_worker_in_a_seat_begins_at_zero() -> None:
    before, after = busy_shop(10_000, 100), busy_shop(11_000, 30)
    for worker in after.workers:
        worker.pid += 100
    view = looked(before, after)
    assert view.rate == 60


@pytest.mark.parametrize(
    ("buckets", "part", "expected"),
    [
        ([10, 0, 0], 0.5, 0.0025e9),
        ([0, 10, 0], 0.5, 0.0075e9),
        ([5, 5, 0], 0.99, 0.0099e9),
        ([0] * len(LATENCY_BOUNDS) + [4], 0.5, LATENCY_BOUNDS[-1] * 1e9),
        ([0, 0], 0.5, None),
        ([], 0.5, None),
    ],
)
def test_quantiles_lie_evenly_in_their_bucket(buckets: list[int], part: float, expected: float | None) -> None:
    found = top._quantile(buckets, part)
    assert found == (None if expected is None else pytest.approx(expected, rel=0.01))


def test_the_lateness_of_the_loop_is_that_between_the_looks() -> None:
    first, second = busy_shop(10_000), busy_shop(12_000)
    first.workers[0].delay[14] = 50  # long ago
    second.workers[0].delay[14] = 50
    second.workers[0].delay[3] = 100
    view = looked(first, second)
    assert view.loops[0].delay_ns == 250_000 << 3 and view.loops[1].delay_ns is None
    assert "delay p99 <2.0 ms" in plain(view)


def test_a_loop_that_stands_still_says_where() -> None:
    story = busy_shop()
    lens = story.workers[0]
    lens._header |= {"stall_since_ns": ns(9_600), "stall_stack": lens.stack(line("reports.py:88 render")), "stalls": 3}
    view = Top().look(story.builder.build())
    assert view.loops[0].stalled_ns == 400_000_000 and view.loops[0].at == "reports.py:88"
    assert "!! stands still for 400 ms at reports.py:88" in plain(view)
    later = busy_shop(12_000)
    later.workers[0]._header |= {"stalls": 5}
    assert "!! blocked 2x" in plain(looked(story, later))


def test_routes_have_their_shares_and_what_they_mostly_wait_for() -> None:
    view = Top().look(busy_shop().builder.build())
    rows = {route.name: route for route in view.routes}
    assert rows["GET /report"].warn == "!!" and rows["GET /report"].waits_on == "(busy) reports.py:88"
    login = rows["POST /login"]
    assert login.waits_on == "a thread auth.py:19" and login.polls == 2 and login.kernel_ns == 5_000_000
    assert login.idle > 0.9 * (login.idle + login.busy + login.scheduled)
    assert view.routes[0].total >= view.routes[-1].total


def test_what_is_long_ago_is_not_of_the_routes() -> None:
    assert Top().look(busy_shop(now=60_000).builder.build()).routes == []


def test_a_sampled_request_stands_for_many() -> None:
    story = busy_shop(mode="sample")
    (login,) = (one for one in Top().look(story.builder.build()).routes if one.name == "POST /login")
    assert login.rate == pytest.approx(10 * 100 / 9, rel=0.01)


def test_requests_in_flight_say_what_they_do_and_who_holds_the_loop() -> None:
    story = Story()
    guilty = story.request("GET /report", at=0).poll(0, 1, "reports.py:80 show", Wait.POOL).wakes(5)
    guilty.flies("running", 6, stack=guilty.stack("reports.py:80 show", wait=Wait.POOL))
    ready = story.request("GET /items/7", at=10).poll(10, 11, "items.py:41 show", Wait.POOL).wakes(29)
    ready.flies("ready", 29, stack=ready.stack("items.py:41 show", wait=Wait.POOL))
    waiting = story.request("GET /events", at=12).poll(12, 13, "events.py:12 feed", Wait.QUEUE)
    waiting.flies("waiting", 13, stack=waiting.stack("events.py:12 feed", wait=Wait.QUEUE))
    story.workers[0].live("GET /untraced", ns(20))
    story.builder.taken_ns = ns(400)
    view = Top().look(story.builder.build())
    assert [flight.text for flight in view.flights] == ["GET /report", "GET /items/7", "GET /events", "GET /untraced"]
    text = plain(view)
    assert "w0-0001" in text and "▶ running" in text and "reports.py:80 show  (holds the loop)" in text
    assert "ready 371 ms ago, waits for the loop" in text
    assert "a queue events.py:12" in text
    assert [flight.id for flight in view.flights][3] == ""


def test_plain_fits_in_its_width_and_cuts_what_people_write() -> None:
    story = busy_shop()
    story.request("GET /" + "x" * 300, at=9000).poll(9000, 9001).ends(9002)
    for width in (80, 120, 200):
        rows = plain(Top().look(story.builder.build()), width).splitlines()
        assert all(len(row) <= width for row in rows[1:])


def test_plain_says_what_to_do_where_nothing_is_recorded() -> None:
    story = Story(mode="ready")
    figures(story, 10, {0: 10})
    assert "`fastserve lens shop full` (or sample:100) switches that on" in plain(Top().look(story.builder.build()))


def test_mode_losses_and_the_cost_of_the_lens_are_shown() -> None:
    first, second = busy_shop(10_000), busy_shop(12_000)
    for worker in second.workers:
        worker._header |= {"cost_ns": 900, "traced": 20_000, "dropped": 7}
    text = top.title(looked(first, second))
    assert "lens full" in text and "lost 14" in text
    assert "the lens costs about 0.9 µs per traced request (0.9 % of a processor)" in text


# ------------------------------------------------------------------------------------------------------ the live view


class Server:
    def __init__(self) -> None:
        self.now = 8_000.0
        self.switched: list[str] = []
        self.gone = False
        self.mode = "full"

    def take(self) -> Recording:
        if self.gone:
            raise LensError("no server called 'shop'; none runs here as this user")
        self.now += 1000
        story = busy_shop(self.now if self.now < 12_500 else 12_500, mode=self.mode)
        is_ready_and_waits(story)
        flight = story.request("GET /events", at=2000).poll(2000, 2001, "events.py:12 feed", Wait.QUEUE)
        flight.flies("waiting", 2001)
        return story.builder.build()

    def switch(self, _pid: int, mode: str) -> None:
        self.switched.append(mode)


def screen_test(act: Callable[[Any, Any], Any], server: Server | None = None) -> None:
    from fastserve.lens.screen import Screen

    async def run() -> None:
        server_ = server or Server()
        app = Screen(server_.take, every=60, switch_to=server_.switch)
        async with app.run_test(size=(160, 50)) as pilot:
            await pilot.pause()
            await act(app, pilot)

    asyncio.run(run())


def text_of(app: Any, which: str) -> str:
    return str(app.query_one(which).render())


def rows_of(app: Any, which: str) -> list[list[str]]:
    table = app.query_one(which)
    return [[str(cell) for cell in table.get_row_at(at)] for at in range(table.row_count)]


def test_the_live_view_shows_loops_routes_and_flights() -> None:
    async def act(app: Any, pilot: Any) -> None:
        assert "shop" in text_of(app, "#title") and "w0" in text_of(app, "#loops")
        assert ["!!", "GET /report"] in [row[:2] for row in rows_of(app, "#routes")]
        (flight,) = rows_of(app, "#flights")
        assert flight[1] == "GET /events" and flight[3:] == ["‖ waiting", "a queue events.py:12"]
        assert "!! FS001 GET /report held the loop" in text_of(app, "#findings")

    screen_test(act)


def test_keys_sort_filter_and_show_only_warnings() -> None:
    async def act(app: Any, pilot: Any) -> None:
        every = rows_of(app, "#routes")
        await pilot.press("w")
        assert all(row[0] for row in rows_of(app, "#routes")) and len(rows_of(app, "#routes")) < len(every)
        await pilot.press("w", "s")
        assert "sorted by p99" in text_of(app, "#message")
        await pilot.press("slash", "l", "o", "g", "i", "n", "enter")
        assert [row[1] for row in rows_of(app, "#routes")] == ["POST /login"] and rows_of(app, "#flights") == []
        await pilot.press("slash", *["backspace"] * 5, "enter")
        assert len(rows_of(app, "#routes")) == len(every)

    screen_test(act)


@pytest.mark.parametrize("key", ["q", "ctrl+c"])
def test_it_is_left_by_the_usual_keys(key: str) -> None:
    """textual's own ctrl+c tells of ctrl+q, which nobody presses in a terminal."""

    async def act(app: Any, pilot: Any) -> None:
        await pilot.press(key)
        assert app._exit

    screen_test(act)


def test_a_row_can_be_explained() -> None:
    async def act(app: Any, pilot: Any) -> None:
        await pilot.press("e")
        assert type(app.screen).__name__ == "Told" and " took " in app.screen.text
        await pilot.press("escape")
        app.query_one("#flights").focus()
        await pilot.press("enter")
        assert app.screen.text.startswith("GET /events has taken ")

    screen_test(act)


def test_recording_is_switched_on_and_off_by_a_key_and_off_at_the_end() -> None:
    server = Server()
    server.mode = "ready"

    async def act(app: Any, pilot: Any) -> None:
        await pilot.press("r")
        assert server.switched == ["full"] and "recording every request for 10 s" in text_of(app, "#message")
        await pilot.press("r")
        assert server.switched == ["full", "ready"]
        await pilot.press("r")

    screen_test(act, server)
    assert server.switched == ["full", "ready", "full", "ready"]


def test_a_server_that_ends_is_said_in_the_view() -> None:
    server = Server()

    async def act(app: Any, pilot: Any) -> None:
        server.gone = True
        await app.look()
        assert "none runs here" in text_of(app, "#message")
        await pilot.press("q")

    screen_test(act, server)
