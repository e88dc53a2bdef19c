"""lens/page.py with page.html, page.css and page.js: one file that shows a recording, in a real browser."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from applications.browser import Page
from lens.stories import Story

from fastserve.lens import page as pages
from fastserve.lens.findings import CATALOGUE, Finding
from fastserve.lens.model import Model
from fastserve.lens.recording import Builder, Frame, Kind, Wait

ASSETS = Path(pages.__file__).parent
SHOP = '''\
"""A shop."""


async def show(id):
    async with pool:
        row = await fetch(id)
    price, stock = await gather(price_of(row), stock_of(row))
    return row, price, stock


def render(rows):
    out = []
    for row in rows:
        out.append(str(row) * 1000)
    return "".join(out)
'''


@pytest.fixture(scope="module")
def browser() -> Iterator[Page]:
    with Page() as page:
        yield page


@pytest.fixture
def shown(browser: Page, tmp_path: Path) -> Iterator[Shown]:
    yield Shown(browser, tmp_path)
    assert browser.faults() == []


class Shown:
    """A page in the browser."""

    def __init__(self, browser: Page, home: Path) -> None:
        self.browser = browser
        self.home = home

    def open(self, model: Model, address: str = "", **options: Any) -> None:
        file = self.home / "trace.html"
        file.write_text(pages.render(model, **options), encoding="utf-8")
        self.browser.events.clear()
        self.browser.open("about:blank")  # so that an address which differs by its # alone is loaded too
        self.browser.wait_for("location.href === 'about:blank'")
        self.browser.open(file.as_uri() + address)
        self.browser.wait_for("document.documentElement?.dataset.drawn === 'yes'")

    def value(self, expression: str) -> Any:
        return self.browser.evaluate(expression)

    def text(self, selector: str) -> str:
        return str(self.value(f"document.querySelector({selector!r}).textContent"))

    def texts(self, selector: str) -> list[str]:
        return list(self.value(f"[...document.querySelectorAll({selector!r})].map((one) => one.textContent)"))

    def count(self, selector: str) -> int:
        return int(self.value(f"document.querySelectorAll({selector!r}).length"))

    def key(self, key: str) -> None:
        for kind in ("keyDown", "keyUp"):
            self.browser.call("Input.dispatchKeyEvent", type=kind, key=key, text=key if len(key) == 1 else "")

    def choose(self, selector: str, value: str) -> None:
        self.value(
            f"(one => {{ one.value = {value!r}; one.dispatchEvent(new Event('input', {{bubbles: true}})) }})"
            f"(document.querySelector({selector!r}))"
        )

    def drag(self, selector: str, start: float, end: float) -> None:
        """Across an element, from one share of its width to another."""
        box = self.value(
            f"(r => ({{x: r.x, y: r.y, w: r.width, h: r.height}}))"
            f"(document.querySelector({selector!r}).getBoundingClientRect())"
        )
        y = box["y"] + box["h"] / 2
        for kind, share in (("mousePressed", start), ("mouseMoved", (start + end) / 2), ("mouseMoved", end)):
            x = box["x"] + box["w"] * share
            self.browser.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=1, clickCount=1)
        x = box["x"] + box["w"] * end
        self.browser.call("Input.dispatchMouseEvent", type="mouseReleased", x=x, y=y, button="left", clickCount=1)


def shop(home: str = "/home/me/shop") -> Story:
    """Two requests that meet at a lock, one that holds the loop, one that pays for it in the kernel; children, a thread."""
    story = Story(2)
    file = f"{home}/shop.py"
    report = story.request("GET /report", at=0, route="/report", name="report")
    holder = story.request("GET /items/3", at=5, route="/items/{id}", name="show")
    item = story.request("GET /items/7", at=8, route="/items/{id}", kernel=2, name="show")
    late = story.request("POST /items", at=121, route="/items", kernel=90, name="add")
    report.poll(0.1, 1, f"{file}:40 report", Wait.POOL)
    holder.poll(5.1, 5.4, [f"{file}:6 show", "lib:asyncio/tasks.py:639 sleep"], Wait.TIMER)
    item.poll(8.1, 8.5, [f"{file}:5 show", "lib:asyncio/locks.py:14 x", "lib:asyncio/locks.py:90 acquire"], Wait.LOCK)
    report.poll(20, 120, ready=19, ends="returned")
    story.stall(20, 120, f"{file}:40 report", f"{file}:14 render", of=report)
    report.head(119).body(119.5, 40000).ends(120.1)
    late.poll(121.1, 121.3).head(121.2, 404).ends(121.5, 404)
    holder.poll(122, 122.5, ready=119.8, by="timer").head(122.2).ends(122.6)
    item.poll(124, 124.5, f"{file}:7 show", Wait.CHILDREN, ready=122.4, by="task", by_task=holder.task)
    price, stock = item.child(124.1, "price_of"), item.child(124.2, "stock_of")
    item.poll(124.6, 124.8, f"{file}:20 price_of", Wait.TIMER, task=price, ready=124.1)
    item.poll(124.9, 125, f"{file}:30 stock_of", Wait.THREAD, task=stock, ready=124.2)
    item.thread(124.95, 130, 140, name="asyncio_0")
    item.poll(140.5, 140.7, task=stock, ready=140.1, by="thread")
    item.poll(150, 150.2, task=price, ready=149.9, by="timer", ends="raised")
    item.event(Kind.MARK, 141, b=item.worker.text("cache miss"))
    item.event(Kind.TIMER, 146, 149.9, task=price)
    item.event(Kind.RECEIVE, 8.5, 9.5)
    item.poll(150.6, 151, ready=150.3, by="task", by_task=price).head(150.8, 500).drains(151, 160).ends(
        160, 500, flags=4
    )
    story.gc(170, 180)
    waits = story.request("GET /events", at=181, name="events", worker=1)
    waits.poll(181.1, 181.2, f"{file}:50 events", Wait.QUEUE).flies(since=181.2)
    return story


def finding(code: str, requests: list[str], text: str = "It held the loop.") -> Finding:
    frame = Frame("/home/me/shop/shop.py", 14, "render")
    return Finding(CATALOGUE[code], text, "GET /report", frame, requests=requests, fix="move it to a thread")


def data_of(html: str) -> dict[str, Any]:
    match = re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)
    assert match
    return dict(json.loads(match[1]))


# -------------------------------------------------------------------------------------------------- nothing from outside


def test_the_file_loads_nothing_and_runs_nothing_but_its_own_script(shown: Shown) -> None:
    shown.open(shop().model(now=200))
    asked = shown.browser.seen("Network.requestWillBeSent")
    assert [Path(one["request"]["url"]).name for one in asked if not one["request"]["url"].startswith("about:")] == [
        "trace.html"
    ]
    policy = shown.value("document.querySelector('meta[http-equiv]').content")
    assert policy.startswith("default-src 'none'; script-src 'sha256-") and "unsafe" not in policy
    shown.value("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.pwned = 1\">')")
    shown.value(
        "document.body.append(Object.assign(document.createElement('script'), {textContent: 'window.pwned = 1'}))"
    )
    assert shown.value("window.pwned") is None
    shown.browser.events.clear()  # what the policy refused was written to the console


def test_the_parts_cannot_end_their_elements() -> None:
    style, script = (ASSETS / "page.css").read_text("utf-8"), (ASSETS / "page.js").read_text("utf-8")
    assert "</" not in style and "url(" not in re.sub(r"url\(#[\w-]+\)", "", style) and "@import" not in style
    assert "</script" not in script.lower() and "<!--" not in script and "innerHTML" not in script
    addresses = re.findall(r"https?://[^\s\"']+", style + script + (ASSETS / "page.html").read_text("utf-8"))
    assert addresses == ["http://www.w3.org/2000/svg"]


HOSTILE = [
    "/</script><script>window.pwned = 1</script>",
    "/<!--<script>",
    "/\"><img src=x onerror='window.pwned=1'>",
    "/שלום/\u202eevil",
    "/☕/👩‍👩‍👧/%F0%9F",
    "/\u2028\u2029\x00\x1b[31m",
    "/@DATA@/@SCRIPT@/@CSP@",
    "/{{7*7}}/${window.pwned=1}/&lt;b&gt;&amp;",
    "/" + "long" * 30,
]


def test_what_a_recording_says_is_never_markup(shown: Shown) -> None:
    story = Story()
    for number, path in enumerate(HOSTILE):
        told = story.request(f"GET {path}", at=number * 10, route=path, name=f"<b onclick=x>{number}</b>")
        told.poll(number * 10, number * 10 + 1, [f"/tmp/<i>{number}</i>.py:3 </script>", f"app.py:4 {path}"], Wait.LOCK)
        told.event(Kind.MARK, number * 10 + 2, b=told.worker.text(path))
        told.thread(number * 10 + 2, number * 10 + 3, number * 10 + 4, name=path)
        told.poll(number * 10 + 5, number * 10 + 6, by="thread").ends(number * 10 + 7)
    model = story.model()
    paths = [request.path for request in model.requests]
    found = [finding("FS001", [one.id], f"{one.path} held it") for one in model.requests]
    shown.open(model, title=HOSTILE[0], findings=found, with_source=True)
    shown.value("document.querySelector('#list').style.height = '900px'")
    shown.choose("#sort", "at")
    assert shown.texts(".row bdi") == paths
    for request in model.requests:
        shown.value(f"location.hash = '#{request.id}'")
        shown.browser.wait_for(f"document.querySelector('#request-facts').textContent.startsWith('{request.id}')")
        assert shown.text("#request-title bdi") == request.path
        shown.browser.click("#step")
        shown.key("End")
        shown.browser.click("#step")
    assert shown.text("#title") == HOSTILE[0] and shown.value("document.title") == HOSTILE[0]
    assert shown.value("window.pwned") is None
    assert (
        shown.count("script") == 2
        and shown.count("img, b[onclick], body i:not([class]):not(pre i):not(.bar-line i)") == 0
    )
    html = (shown.home / "trace.html").read_text(encoding="utf-8")
    assert html.count("</script>") == 2 and html.count("<script") == 2


def test_a_path_written_from_the_right_turns_only_itself(shown: Shown) -> None:
    story = Story()
    told = story.request("GET /שלום/\u202eevil", at=0)
    told.poll(0, 60, "app.py:1 x").poll(70, 71).ends(72)
    shown.open(story.model(), "#last&step=1")
    says = shown.text("#player-says")
    assert "\u2068/שלום/\u202eevil\u2069" in says
    assert shown.count("#request-title bdi") == 1


# ----------------------------------------------------------------------------------------------------- what is in it


def test_the_data_is_the_models() -> None:
    model = shop().model(now=200)
    data = data_of(pages.render(model))
    assert len(data["lanes"]) == 2 and len(data["requests"]) == len(model.requests) == 5
    for written, request in zip(data["requests"], model.requests, strict=True):
        assert (written["id"], written["path"], written["status"]) == (request.id, request.path, request.status)
        assert written["n"]["busy"] == request.busy and written["n"]["scheduled"] == request.scheduled
        assert written["n"]["idle"] == request.idle and written["n"]["late"] == request.late
        assert written["until"] == request.total
        assert sum(len(task[5]) for task in written["tasks"]) == request.polls
        for _, _, _, started, ended, polls, awaits in written["tasks"]:
            times = [moment for poll in polls for moment in poll[:3]] + [wait[0] for wait in awaits]
            assert all(started <= moment <= (ended if ended is not None else 10**12) for moment in times)
    assert all(lane["others"] == [] for lane in data["lanes"])


def test_ten_thousand_events_make_a_file_of_sane_size() -> None:
    story = Story()
    for number in range(1100):
        at = number * 2.5
        told = story.request(f"GET /items/{number}", at=at, route="/items/{id}", name="show")
        told.poll(at, at + 0.2, f"shop.py:{number % 40} show", Wait.TIMER)
        told.poll(at + 1, at + 1.2, f"shop.py:{number % 40 + 1} show", Wait.LOCK, by="timer")
        told.poll(at + 2, at + 2.1).head(at + 2).ends(at + 2.2)
    model = story.model()
    events = sum(len(worker.events) for worker in model.recording.workers)
    page = pages.render(model)
    assert events >= 4000  # the ring of a story holds so many
    empty = len(pages.render(Story().model()))
    assert empty < 150_000
    assert (len(page) - empty) / events < 110


def test_source_text_is_there_only_when_asked_for(tmp_path: Path, shown: Shown) -> None:
    home = tmp_path / "shop"
    home.mkdir()
    (home / "shop.py").write_text(SHOP)
    model = shop(str(home)).model(now=200)
    assert "async with pool" not in pages.render(model)
    assert data_of(pages.render(model))["source"] == {}
    item = next(one for one in model.requests if one.path == "/items/7")
    shown.open(model, f"#{item.id}", with_source=True)
    shown.browser.click("#waterfall .slice.idle")
    assert "async with pool" in shown.text("#slice pre .now")


def test_source_is_read_from_python_files_alone(tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("the password\n" * 9)
    broken, folder = tmp_path / "broken.py", tmp_path / "folder.py"
    broken.write_bytes(b"# coding: no-such-codec\nx = 1\n")
    folder.mkdir()
    story = Story()
    told = story.request("GET /", at=0)
    told.poll(0, 1, [f"{file}:2 f" for file in (secret, broken, folder, tmp_path / "gone.py", "/dev/zero")]).ends(9)
    assert data_of(pages.render(story.model(), with_source=True))["source"] == {}


def test_paths_can_be_stripped(shown: Shown) -> None:
    model = shop("/home/me/very/private").model(now=200)
    assert "very/private" in pages.render(model)
    page = pages.render(model, strip_paths=True)
    assert "private" not in page and "/usr/lib" not in page
    files = set(data_of(page)["files"])
    assert {"shop.py", "asyncio/locks.py", "asyncio/tasks.py"} <= files


def test_the_title_may_be_anything() -> None:
    assert "<title>&lt;b&gt; &amp; &quot;x&quot;</title>" in pages.render(Story().model(), title='<b> & "x"')


# ------------------------------------------------------------------------------------------------------- what one sees


def test_the_worst_finding_is_shown_first_and_its_request_chosen(shown: Shown) -> None:
    model = shop().model(now=200)
    report, item = (next(one for one in model.requests if one.path == path) for path in ("/report", "/items/7"))
    shown.open(model, findings=[finding("FS001", [report.id, item.id]), finding("FS010", [item.id])])
    assert "FS001" in shown.text("#main-finding") and "held the loop" in shown.text("#main-finding")
    assert shown.text("#request-facts").startswith(report.id)
    assert shown.texts("#findings .finding .code") == ["FS001", "FS010"]
    shown.browser.click("#findings .finding .link")
    shown.browser.wait_for(f"document.querySelector('#request-facts').textContent.startsWith('{item.id}')")
    shown.browser.wait_for(f"location.hash === '#{item.id}'")


def test_the_list_sorts_and_filters(shown: Shown) -> None:
    model = shop().model(now=200)
    late = next(one for one in model.requests if one.path == "/items")
    shown.open(model, findings=[finding("FS003", [late.id])])
    assert shown.texts(".row bdi") == [request.path for request in model.requests]
    for sort, value in (
        ("total", lambda one: one.total),
        ("busy", lambda one: one.busy),
        ("scheduled", lambda one: one.scheduled),
        ("late", lambda one: one.late),
        ("kernel", lambda one: one.kernel_wait or 0),
    ):
        shown.choose("#sort", sort)
        expected = sorted(model.requests, key=value, reverse=True)
        assert shown.texts(".row bdi") == [request.path for request in expected], sort
    shown.choose("#sort", "findings")
    assert shown.texts(".row bdi")[0] == "/items"
    shown.choose("#route", "GET /items/{id}")
    assert sorted(shown.texts(".row bdi")) == ["/items/3", "/items/7"]
    shown.choose("#status", "s5")
    assert shown.texts(".row bdi") == ["/items/7"] and shown.text("#count") == "1 of 5"
    shown.choose("#route", "")
    shown.choose("#status", "")
    shown.choose("#search", "ITEMS/3")
    assert shown.texts(".row bdi") == ["/items/3"]
    shown.choose("#search", "")
    shown.browser.click("#warned")
    assert shown.texts(".row bdi") == ["/items"]
    shown.choose("#search", "nothing like it")
    assert "No request fits" in shown.text("#list")


def test_the_waterfall_has_a_row_for_each_part_and_the_figures_are_the_models(shown: Shown) -> None:
    model = shop().model(now=200)
    item = next(one for one in model.requests if one.path == "/items/7")
    shown.open(model, f"#{item.id}")
    labels = [text.removesuffix(title) for text, title in zip(
        shown.texts("#waterfall .label"), shown.texts("#waterfall .label title"), strict=True
    )]  # fmt: skip
    assert labels == ["request", "client", "show", "└ price_of", "└ stock_of", "asyncio_0", "loop, others"]
    kinds = "kernel parse handler write receive drain busy scheduled idle thread waits other"
    for kind in kinds.split():
        assert shown.count(f"#waterfall .slice.{kind}"), kind
    assert shown.count("#waterfall .slice.busy") == item.polls
    assert shown.count("#waterfall .slice.raised") == 1
    assert shown.count("#waterfall .wake") >= 3 and shown.count("#waterfall .spawn") == 2
    assert shown.text("#waterfall .flag").startswith("cache miss")
    assert shown.count("#waterfall .due") == 1 and shown.count("#waterfall .answer") == 1
    figures = dict(zip(shown.texts(".figure span"), shown.texts(".figure b"), strict=True))
    assert figures["total"] == "154 ms" and figures["busy"] == f"{item.busy / 1e6:.2f} ms"
    assert figures["kernel"] == "2.00 ms" and figures["slow client"] == "9.00 ms"
    assert f"3 tasks  ·  {item.polls} polls" in shown.text("#request-facts")


def test_a_slice_tells_where_it_waits_who_woke_it_and_what_the_loop_did_meanwhile(shown: Shown) -> None:
    model = shop().model(now=200)
    paths = {request.path: request for request in model.requests}
    shown.open(model, f"#{paths['/items/7'].id}")
    shown.browser.click("#waterfall .slice.idle")
    told = shown.text("#slice")
    assert "Parked" in told and "a lock" in told
    assert f"GET /items/3 ({paths['/items/3'].id})" in told  # who released the lock
    assert shown.text("#slice .chain .main .at") == "shop.py:5" and "2 frames of libraries" in told
    shown.browser.click("#slice .folded .link")
    assert "locks.py:90" in shown.text("#slice .chain")
    shown.browser.click("#waterfall .slice.kernel")
    assert "lay in the socket" in shown.text("#slice") and "measured by the kernel" in shown.text("#slice")
    shown.browser.click("#waterfall .slice.other")
    assert "This is a step of" in shown.text("#slice")
    shown.value(f"location.hash = '#{paths['/items'].id}'")
    shown.browser.wait_for("document.querySelector('#request-title bdi').textContent === '/items'")
    assert "Meanwhile the loop ran" in shown.text("#slice") and "GET /report" in shown.text("#slice .meanwhile")
    assert "shop.py:14 render" in shown.text("#slice .meanwhile")  # the line that the watchdog saw
    shown.browser.click("#slice .meanwhile .link")
    shown.browser.wait_for("document.querySelector('#request-title bdi').textContent === '/report'")
    assert "Nobody else on worker 0 could run for 100 ms" in shown.text("#slice")
    assert "Seen here while it held the loop" in shown.text("#slice") and shown.text("#slice .main .at") == "shop.py:14"


def test_a_neighbour_that_is_not_shown_keeps_its_name(shown: Shown) -> None:
    """Some of the requests were asked for (--route): who held the loop is told all the same."""
    model = shop().model(now=200)
    report = next(one for one in model.requests if one.path == "/report")
    model.requests = [one for one in model.requests if one.route == "/items"]
    shown.open(model)
    assert shown.texts(".row bdi") == ["/items"]
    assert f"GET /report ({report.id})" in shown.text("#slice .meanwhile")
    assert "shop.py:14 render" in shown.text("#slice .meanwhile")
    shown.key("s")
    assert f"The loop was inside GET /report ({report.id})" in shown.text("#player-says")
    assert shown.texts("#box-running .token.foreign b") == [f"GET /report ({report.id})"]


def test_idle_while_others_hold_the_loop_is_marked_as_at_most(shown: Shown) -> None:
    model = shop().model(now=200)
    holder = next(one for one in model.requests if one.path == "/items/3")
    assert holder.late > 90e6
    shown.open(model, f"#{holder.id}")
    wide = shown.value("document.querySelector('#waterfall rect.late').getBBox().width")
    whole = shown.value("document.querySelector('#waterfall .slice.idle .hit').getBBox().width")
    assert 0.8 < wide / whole < 1
    shown.browser.click("#waterfall .slice.idle")
    assert f"late by at most {holder.late / 1e6:.1f} ms".replace(".0 ms", "") in shown.text("#slice").replace(
        ".0 ms", ""
    )


def test_zoom_by_mouse_and_keys(shown: Shown) -> None:
    model = shop().model(now=200)
    item = next(one for one in model.requests if one.path == "/items/7")
    shown.open(model, f"#{item.id}")
    ends = "[...document.querySelectorAll('#waterfall .axis')].map((one) => one.textContent)"
    whole = shown.value(ends)
    shown.browser.evaluate("document.querySelector('#waterfall').scrollIntoView({block: 'center'})")
    shown.drag("#waterfall", 0.75, 0.95)
    zoomed = shown.value(ends)
    assert zoomed != whole and "100 ms" not in zoomed and "120 ms" in zoomed
    shown.value("document.querySelector('#waterfall').focus()")
    shown.key("0")
    assert shown.value(ends) == whole
    for key in "++":
        shown.key(key)
    assert shown.value(ends) != whole
    shown.key("0")
    shown.value("document.querySelector('#lanes').scrollIntoView({block: 'center'})")
    before = shown.value("document.querySelector('#lanes').toDataURL()")
    shown.drag("#lanes", 0.3, 0.5)
    assert shown.value("document.querySelector('#lanes').toDataURL()") != before
    shown.browser.click("#lanes-all")
    assert shown.value("document.querySelector('#lanes').toDataURL()") == before


def test_arrows_go_from_slice_to_slice_and_through_the_list(shown: Shown) -> None:
    model = shop().model(now=200)
    shown.open(model, f"#{model.requests[0].id}")
    shown.value("document.querySelector('#waterfall').focus()")
    names = []
    shown.key("Home")
    for _ in range(4):
        names.append(shown.text("#slice .slice-name b"))
        shown.key("ArrowRight")
    assert names[0] != names[1] and len(names) == 4
    shown.key("ArrowUp")
    assert shown.count("#waterfall .slice.chosen") == 1
    shown.value("document.querySelector('#list').focus()")
    for request in model.requests[1:]:
        shown.key("ArrowDown")
        assert shown.text("#request-facts").startswith(request.id)
    assert shown.value("document.querySelector('#list').getAttribute('aria-activedescendant')") == "row-4"
    assert shown.value("document.querySelector('#row-4').getAttribute('aria-selected')") == "true"


# -------------------------------------------------------------------------------------------------------- step by step


def boxes(shown: Shown) -> dict[str, list[str]]:
    return {name: shown.texts(f"#box-{name} .token b") for name in ("ready", "running", "parked", "done")}


def test_step_plays_a_request_event_by_event(shown: Shown) -> None:
    model = shop().model(now=200)
    item = next(one for one in model.requests if one.path == "/items/7")
    assert item.root
    root = f"show {item.root.id}"
    shown.open(model, f"#{item.id}")
    assert not shown.value("document.querySelector('#player').checkVisibility()")
    shown.browser.click("#step")
    says = [shown.text("#player-says")]
    states = [boxes(shown)]
    total = int(shown.text("#player-number").split("/")[1].split("·")[0])
    for _ in range(total - 1):
        shown.key("ArrowRight")
        says.append(shown.text("#player-says"))
        states.append(boxes(shown))
    told = "\n".join(says)
    for part in (
        "bytes arrive in the kernel",
        "parsed the head: GET /items/7",
        "awaits a lock at shop.py:5",
        "of GET /items/3",
        "the waker, calls call_soon",
        "spawns task",
        "waits 5.05 ms for a free one",
        "runs in asyncio_0 for 10.0 ms",
        "raises: the task is done",
        "does not take the answer",
        "Mark: cache miss",
        "status 500",
        "The request is over",
    ):
        assert part in told, f"{part}\n{told}"
    assert all(len(state["running"]) <= 1 for state in states)
    assert [root] in [state["parked"] for state in states] and root in states[-1]["done"]
    assert len(states[-1]["done"]) == 3 and not states[-1]["ready"] and not states[-1]["parked"]
    assert shown.value("document.querySelector('#playhead').getAttribute('visibility')") == "visible"
    shown.browser.wait_for(f"location.hash === '#{item.id}&step={total}'")
    shown.key("ArrowRight")
    assert shown.text("#player-says") == says[-1]
    shown.key("Home")
    assert shown.text("#player-says") == says[0] and boxes(shown) == states[0]
    shown.key("Escape")
    assert not shown.value("document.querySelector('#player').checkVisibility()")


def test_the_neighbour_that_holds_the_loop_is_seen_in_the_running_box(shown: Shown) -> None:
    model = shop().model(now=200)
    late = next(one for one in model.requests if one.path == "/items")
    shown.open(model, f"#{late.id}&step=1")
    assert "The loop was inside GET /report" in shown.text("#player-says")
    assert shown.texts("#box-running .token.foreign b") == ["GET /report"]
    shown.key("ArrowRight")
    assert shown.count(".token.foreign") == 0


def test_the_events_are_a_list_too(shown: Shown) -> None:
    model = shop().model(now=200)
    shown.open(model, f"#{model.requests[0].id}")
    total = shown.count("#story li")
    assert total > 4 and shown.text("#story-count") == f"{total} events"
    shown.browser.click("#story li:nth-child(3) button")
    assert shown.text("#player-number").startswith(f"3 / {total}")
    assert shown.count('#story li:nth-child(3)[aria-current="step"]') == 1


def test_play_goes_on_by_itself_and_stops_at_the_end(shown: Shown) -> None:
    story = Story()
    story.request("GET /", at=0).poll(0, 1).ends(2)
    shown.open(story.model(), "#last&step=1")
    shown.key(" ")
    shown.browser.wait_for("/^3 .|^4 ./.test(document.querySelector('#player-number').textContent)", 20)
    shown.browser.wait_for("document.querySelector('#player-play').getAttribute('aria-label') === 'Play'", 20)
    assert "over" in shown.text("#player-says")


def random_story(seed: int) -> Story:
    """Requests with tasks that wait, block, spawn and end, on one loop."""
    chance = random.Random(seed)
    story, clock = Story(), 0.0
    live: list[tuple[Any, int, float]] = []
    for _ in range(12):
        told = story.request("GET /r", at=clock)
        live.append((told, told.task, clock))
        for _ in range(chance.randrange(1, 9)):
            one, task, ready = live.pop(chance.randrange(len(live)))
            start = max(clock, ready)
            clock = start + chance.choice([0.1, 1, 30])
            if chance.random() < 0.3 and one.last.get(task, 0) is not None:
                child = one.child(clock - 0.05, "child", parent=task)
                live.append((one, child, clock - 0.05))
            told_of = {"task": task, "ready": min(ready, start)}
            if chance.random() < 0.7:
                wait = chance.choice([Wait.TIMER, Wait.LOCK, Wait.YIELD, Wait.THREAD])
                waker = chance.choice(["timer", "task", "io"])
                one.poll(start, clock, "a.py:1 f", wait, by=waker, by_task=1, **told_of)
                live.append((one, task, clock + chance.choice([0, 0.001, 5])))
            else:
                one.poll(start, clock, ends=chance.choice(["returned", "raised", "cancelled"]), **told_of)
            if not live:
                break
        clock += 0.5
        if chance.random() < 0.8:
            told.ends(clock)
    return story


@pytest.mark.parametrize("seed", range(4))
def test_in_every_step_each_task_is_in_one_box_and_one_runs(shown: Shown, seed: int) -> None:
    model = random_story(seed).model()
    shown.open(model)
    for request in model.requests:
        shown.value(f"location.hash = '#{request.id}&step=1'")
        shown.browser.wait_for(f"document.querySelector('#request-facts').textContent.startsWith('{request.id}')")
        total = int(shown.text("#player-number").split("/")[1].split("·")[0])
        for _ in range(total):
            state = boxes(shown)
            everyone = [name for names in state.values() for name in names]
            assert len(everyone) == len(set(everyone)) and len(state["running"]) <= 1, (request.id, state)
            shown.key("ArrowRight")
        ended = [task for task in request.tasks.values() if task.ended is not None]
        assert len(boxes(shown)["done"]) == len(ended)
        shown.key("Escape")


# --------------------------------------------------------------------------------------------- what need not be there


def test_nothing_recorded_says_how_to_record(shown: Shown) -> None:
    shown.open(Story().model(now=5))
    assert "fastserve lens" in shown.text("#list") and "No request" in shown.text("#request-title")
    shown.key("s")
    shown.key("w")
    assert shown.value("document.querySelector('#words').checkVisibility()")


def test_a_server_without_workers_makes_a_page_too(shown: Shown) -> None:
    from fastserve.lens.model import build

    shown.open(build(Builder("nobody").build()))
    assert "0 workers" in shown.text("#facts")


def test_requests_whose_beginning_is_lost_or_that_are_in_flight_are_told(shown: Shown) -> None:
    story = Story()
    lost = story.request("GET /lost", at=0)
    lost.poll(0, 1, "a.py:1 f").poll(5, 6).ends(7)
    flying = story.request("GET /flies", at=8)
    flying.poll(8, 9, "a.py:2 f", Wait.QUEUE).flies(since=9)
    model = story.model(now=30)
    for worker in model.recording.workers:
        worker.lost = 214
        worker.events = [one for one in worker.events if one.kind != Kind.REQUEST_BEGIN or one.request != 1]
    from fastserve.lens.model import build

    shown.open(build(model.recording))
    assert "214 events lost" in shown.text("#facts")
    facts = {}
    for request in (lost, flying):
        shown.value(f"location.hash = '#{request.id}'")
        shown.browser.wait_for(f"document.querySelector('#request-facts').textContent.startsWith('{request.id}')")
        facts[request.id] = shown.text("#request-facts")
    assert "not in the recording" in facts[lost.id] and "in flight" in facts[flying.id]
    shown.browser.click("#waterfall .slice.idle")
    assert "still parked when the recording was taken" in shown.text("#slice")


def test_a_recording_of_many_slices_is_drawn_quickly_and_thinned(shown: Shown) -> None:
    story = Story()
    told = story.request("GET /socket", at=0)
    for number in range(1500):
        told.poll(number, number + 0.1, "chat.py:9 talk", Wait.MESSAGE)
    told.poll(1500, 1501).ends(1502)
    shown.open(story.model(), "#last")
    assert shown.count("#waterfall .slice") < 3100
    spent = shown.value(
        "(() => { const t = performance.now(); dispatchEvent(new Event('hashchange')); return performance.now() - t })()"
    )
    assert spent < 5000
    assert shown.count("#story li") == 41  # the rest on demand


# ------------------------------------------------------------------------------------------------------- for everybody


def luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_text_is_readable_in_both_themes() -> None:
    """WCAG 2.2, 1.4.3: 4.5 to 1."""
    style = (ASSETS / "page.css").read_text("utf-8")
    themes = [
        dict(re.findall(r"--([\w-]+): (#\w+)", part))
        for part in re.findall(r"color-scheme: \w+;(.*?)\}", style, re.DOTALL)
    ]
    assert len(themes) == 3 and themes[1] == themes[2]  # by the system, and by hand
    pairs = [(ink, ground) for ink in ("text", "soft", "faint") for ground in ("panel", "ground", "raised")]
    pairs += [("error", "error-soft"), ("warning", "warning-soft"), ("note", "note-soft"), ("accent", "panel")]
    pairs += [
        ("busy-text", "busy"),
        ("scheduled-text", "scheduled-ground"),
        ("kernel-text", "kernel"),
        ("on-accent", "accent"),
    ]
    pairs += [("handler-text", "handler"), ("write-text", "write"), ("text", "accent-soft"), ("text", "error-soft")]
    pairs += [(ink, "ground") for ink in ("word", "string", "digit")] + [("late", "panel")]
    wrong = [
        (n, *pair) for n, theme in enumerate(themes) for pair in pairs if contrast(*(theme[x] for x in pair)) < 4.45
    ]
    assert wrong == []


def test_the_theme_is_the_systems_or_ones_own(shown: Shown) -> None:
    shown.open(shop().model(now=200))
    ground = "getComputedStyle(document.body).backgroundColor"
    scheme = {"name": "prefers-color-scheme", "value": "dark"}
    shown.browser.call("Emulation.setEmulatedMedia", features=[scheme])
    dark = shown.value(ground)
    shown.browser.click("#theme")
    light = shown.value(ground)
    assert shown.text("#theme") == "Light" and light != dark
    shown.browser.call("Emulation.setEmulatedMedia", features=[scheme | {"value": "light"}])
    shown.browser.click("#theme")
    assert shown.text("#theme") == "Dark" and shown.value(ground) == dark
    shown.browser.call("Emulation.setEmulatedMedia", features=[])


def test_everything_that_can_be_used_has_a_name_and_a_role(shown: Shown) -> None:
    shown.open(shop().model(now=200))
    shown.browser.click("#step")
    nodes = shown.browser.call("Accessibility.getFullAXTree")["nodes"]
    used = [one for one in nodes if not one.get("ignored") and one["role"]["value"] in (
        "button", "searchbox", "combobox", "checkbox", "slider", "listbox", "option", "image", "link", "group"
    )]  # fmt: skip
    nameless = [one["role"]["value"] for one in used if not one.get("name", {}).get("value", "").strip()]
    assert len(used) > 20 and nameless == []
    lanes = shown.value("document.querySelector('#lanes').getAttribute('aria-label')")
    assert "worker 0" in lanes and "1 stall" in lanes


def test_a_narrow_window_needs_no_scrolling_sideways(shown: Shown) -> None:
    for width in (390, 820, 1280):
        shown.browser.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False
        )
        shown.open(shop().model(now=200), "#slowest&step=2")
        assert shown.value("document.documentElement.scrollWidth") <= width, width
    shown.browser.call("Emulation.clearDeviceMetricsOverride")


def test_words_of_asyncio_stand_beside_those_of_rust(shown: Shown) -> None:
    shown.open(shop().model(now=200))
    shown.browser.click("#words-button")
    table = unescape(shown.text("#words"))
    for word in (
        "asyncio.Task",
        "Future::poll",
        "Waker::wake",
        "call_soon",
        "executor",
        "Poll::Pending",
        "asyncio.Future",
        "ready queue",
    ):
        assert word in table, word
