"""lens/findings.py: for each code three guilty programs found, the line exact, and three innocent ones that stay silent."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from lens.programs import (
    LINES,
    SHOP,
    SHOP_FILE,
    TABLE,
    Program,
    asks_a_library,
    awaits_in_a_row,
    by_frames,
    collects_briefly,
    collects_once_for_long,
    drops_a_coroutine_that_never_began,
    ends_its_tasks,
    finds_a_thread,
    forgets_to_await,
    gives_way_now_and_then,
    hangs,
    has_a_slow_client,
    has_slow_clients,
    holds_and_others_wait,
    imports_in_its_handler,
    is_ready_and_runs_soon,
    is_ready_and_waits,
    leaves_a_task,
    lies_in_the_kernel,
    loses_a_pending_task,
    loses_nobodys_coroutine,
    queues_for_a_lock,
    queues_for_an_executor,
    runs_for_long,
    sends_crumbs,
    sends_events,
    sends_large_pieces,
    sleeps_blocking,
    sleeps_late,
    sleeps_well,
    speaks_websocket,
    streams_and_waits,
    takes_turns_at_a_lock,
    waits_a_little_for_a_pool,
    waits_for_a_pool,
    waits_for_a_process,
    waits_for_long_and_then_runs,
    wakes_itself,
    works_quickly,
)
from lens.stories import Story, ns

from fastserve.errors import ConfigError
from fastserve.lens.findings import CATALOGUE, RULES, Finding, find, parse_ignored
from fastserve.lens.model import build
from fastserve.lens.recording import Kind, Wait

DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("shop") / "shop.py"
    file.write_text(SHOP)
    os.utime(file, (1, 1))
    return str(file)


def told_by(program: Program, shop: str, **options: object) -> list[Finding]:
    story = Story(capacity=16_384)
    for worker in story.workers:
        plain = worker.stack
        worker.stack = lambda *frames, wait=Wait.FUTURE, plain=plain: plain(  # type: ignore[method-assign, misc]
            *((shop if file == SHOP_FILE else file, number, function) for file, number, function in frames), wait=wait
        )
    program(story)
    return find(story.model(), **options)  # type: ignore[arg-type]


GUILTY = [(code, program, line) for code, (line, guilty, _) in TABLE.items() for program in guilty]
INNOCENT = [(code, program) for code, (_, _, innocent) in TABLE.items() for program in innocent]


@pytest.mark.parametrize(("code", "program", "line"), GUILTY, ids=lambda value: getattr(value, "__name__", str(value)))
def test_a_guilty_program_is_found_with_its_line(code: str, program: Program, line: str, shop: str) -> None:
    found = [one for one in told_by(program, shop) if one.code == code]
    assert len(found) == 1, found
    line = LINES.get(program.__name__, line)
    if line:
        assert found[0].at == line
        assert line in found[0].text or code in ("FS014",), found[0].text
    assert found[0].count >= 1 and found[0].total_ns > 0 and found[0].worst_ns > 0
    assert re.search(r"\d", found[0].text), "a finding has numbers"
    assert "  " not in found[0].text and not found[0].text.endswith((".", ",", " "))


@pytest.mark.parametrize(("code", "program"), INNOCENT, ids=lambda value: getattr(value, "__name__", str(value)))
def test_an_innocent_program_is_not_accused(code: str, program: Program, shop: str) -> None:
    assert [one.text for one in told_by(program, shop) if one.code == code] == []


@pytest.mark.parametrize(
    "program",
    [
        works_quickly,
        is_ready_and_runs_soon,
        sleeps_well,
        finds_a_thread,
        ends_its_tasks,
        waits_a_little_for_a_pool,
        takes_turns_at_a_lock,
        gives_way_now_and_then,
        sends_large_pieces,
        speaks_websocket,
        streams_and_waits,
        waits_for_long_and_then_runs,
        collects_briefly,
        sends_events,
    ],
    ids=lambda program: program.__name__,
)
def test_a_program_that_is_fine_has_no_finding_at_all(program: Program, shop: str) -> None:
    assert [one.text for one in told_by(program, shop)] == []


def test_every_code_has_three_guilty_and_three_innocent_programs() -> None:
    assert set(TABLE) == set(CATALOGUE) == set(RULES) == {f"FS{number:03}" for number in range(1, 18)}
    assert all(len(guilty) >= 3 and len(innocent) >= 3 for _, guilty, innocent in TABLE.values())


def test_sentences_have_the_numbers_and_whoever_paid(shop: str) -> None:
    (found,) = [one for one in told_by(holds_and_others_wait, shop) if one.code == "FS001"]
    text = "GET /report held the loop 340 ms at reports.py:88 (render); 3 other requests waited 330 ms on average"
    assert found.text == text
    assert found.link == "docs/findings.md#fs001-blocked-loop"
    assert found.frame is not None and found.frame.function == "render"
    said = found.as_json()
    assert (said["code"], said["line"], said["sure"]) == ("FS001", 88, "measured")
    assert found.total_ns > 3 * 330_000_000


@pytest.mark.parametrize(
    ("program", "text"),
    [
        (
            is_ready_and_waits,
            "GET /waits was ready 80.0 ms before it ran at app.py:14 (waits); the loop was in GET "
            "/blocks (w0-0002) before app.py:16",
        ),
        (
            lies_in_the_kernel,
            "GET / lay 84.0 ms in its socket before the server saw it: the loop was in GET /report "
            "(w0-0001) at reports.py:88 (render)",
        ),
        (
            sleeps_late,
            "GET /sleeps: a timer of 20.0 ms at app.py:18 (sleeps) fired 60.0 ms late; the loop was in "
            "GET /blocks (w0-0002) in handler",
        ),
        (asks_a_library, "GET /report called requests at app.py:9 (show) on the event loop, which it held 200 ms"),
        (imports_in_its_handler, "GET /report imported a module at app.py:12 (show), which held the loop 200 ms"),
        (
            waits_for_a_pool,
            "55 % of the time of GET /items/{id} is waiting for a connection of the pool at "
            "items.py:41 (show) (5 waits, 40.0 ms on average)",
        ),
        (
            queues_for_an_executor,
            "GET /view: work for a thread waited 45.0 ms for a thread at auth.py:19 (login) (4 times)",
        ),
        (
            queues_for_a_lock,
            "4 requests queued for the lock at cache.py:30 (get), up to 4 at a time, 108 ms on average; who "
            "has it waits for another service at cache.py:33 meanwhile",
        ),
        (
            awaits_in_a_row,
            "GET /page: 3 awaits in a row at shop.py:9 to 11 do not use each other's results; together "
            "they could save up to 59.6 ms",
        ),
        (wakes_itself, "GET /poll woke itself 900 times at loop.py:7 (poll); it turns in a loop of sleep(0)"),
        (runs_for_long, "GET /report ran 1.2 s without awaiting once, in show()"),
        (
            leaves_a_task,
            "GET /: task notify() still ran 4.0 s after the response, last seen at jobs.py:9 (notify) (3 times)",
        ),
        (loses_a_pending_task, "GET /: task notify() was destroyed while it was pending, at jobs.py:9 (notify)"),
        (forgets_to_await, "GET /: coroutine notify() was never awaited, at app.py:4 (order) (2 times)"),
        (
            drops_a_coroutine_that_never_began,
            "GET /: coroutine notify() was never awaited; it begins at jobs.py:7",
        ),
        (loses_nobodys_coroutine, "coroutine notify() was never awaited; it begins at jobs.py:7"),
        (collects_once_for_long, "a full collection of garbage stopped the worker for 159 ms, during GET /"),
        (has_a_slow_client, "GET /big: the client took 2.1 s to take 3.4 MB"),
        (sends_crumbs, "GET /export sent its body in 400 messages of 90 bytes each, in 13.0 ms"),
        (hangs, "GET /wait has waited 31.0 s for a queue at events.py:12 (feed)"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_a_finding_says(program: Program, text: str, shop: str) -> None:
    assert text in [one.text for one in told_by(program, shop)]


def test_without_recorded_requests_the_board_says_what_was_in_hand(shop: str) -> None:
    story = Story(mode="stalls")
    lens = story.workers[0]
    stack = lens.stack(("/home/me/shop/reports.py", 88, "render"))
    called = lens.text("GET /report")
    lens.event(Kind.STALL, ns(0), 340_000_000, b=stack, a=called << 32 | 3)
    (found,) = find(story.model(now=500))
    assert found.text == "GET /report held the loop 340 ms at reports.py:88 (render)" and found.route == "GET /report"
    assert not find(story.model(), ignored=parse_ignored(["FS001:/report"]))


def test_what_replaces_a_blocking_call_is_told(shop: str) -> None:
    def fix(program: Program) -> str:
        return next(one.fix for one in told_by(program, shop) if one.code == "FS005")

    assert fix(sleeps_blocking) == "use await asyncio.sleep() instead of time.sleep()"
    assert "httpx.AsyncClient" in fix(asks_a_library)
    assert "create_subprocess_exec" in fix(waits_for_a_process)


def test_a_more_telling_finding_of_the_same_line_comes_first(shop: str) -> None:
    first, *rest = told_by(sleeps_blocking, shop)
    assert first.code == "FS005" and [one.within for one in rest if one.code == "FS001"] == ["FS005"]


def test_the_worst_comes_first_and_hints_come_last(shop: str) -> None:
    def program(story: Story) -> None:
        has_a_slow_client(story)
        told = story.request("GET /report", at=9000).poll(9000, 9120).ends(9121)
        story.stall(9000, 9120, "reports.py:88 render", of=told)

    assert [one.code for one in told_by(program, shop)] == ["FS001", "FS015"]


def test_what_makes_others_wait_weighs_more(shop: str) -> None:
    def program(story: Story) -> None:
        waits_for_a_pool(story, 40, 10)  # 400 ms in all
        told = story.request("GET /report", at=9000).poll(9000, 9200).ends(9201)
        story.stall(9000, 9200, "reports.py:88 render", of=told)

    assert [one.code for one in told_by(program, shop)] == ["FS001", "FS007"]


def test_one_lock_in_each_worker_is_one_finding(shop: str) -> None:
    story = Story(workers=2)
    for worker in (0, 1):
        told = [story.request("GET /cached", at=at, route="/cached", worker=worker) for at in range(5)]
        for at, one in enumerate(told):
            one.poll(at, at + 0.1, "cache.py:30 get", Wait.LOCK)
            one.poll(40 * at + 40, 40 * at + 41, ready=40 * at + 40, by="task").ends(40 * at + 42)
    (found,) = [one for one in find(story.model()) if one.code == "FS009"]
    assert found.text.startswith("10 requests queued for the lock at cache.py:30 (get), up to 5 at a time")


def test_development_has_shorter_thresholds(shop: str) -> None:
    def program(story: Story) -> None:
        by_frames(story, "reports.py:88 render", length=45)

    assert told_by(program, shop) == []
    assert [one.code for one in told_by(program, shop, dev=True)] == ["FS001"]


@pytest.mark.parametrize(
    ("argv", "dev"),
    [
        (["/venv/bin/python", "/venv/bin/fastserve", "dev", "app:app"], True),
        (["python", "-m", "fastserve", "dev", "app:app"], True),
        (["python", "-m", "fastserve", "app:app", "--dev"], True),
        (["python", "-m", "fastserve", "app:app", "--env", "dev"], False),
    ],
)
def test_whether_it_is_development_is_seen_by_the_command_line(argv: list[str], dev: bool) -> None:
    story = Story()
    by_frames(story, "reports.py:88 render", length=45)
    recording = story.builder.build()
    recording.argv = argv
    assert bool(find(build(recording))) is dev


def test_codes_can_be_ignored_everywhere_or_for_routes(shop: str) -> None:
    def codes(*ignored: str) -> list[str]:
        return [one.code for one in told_by(has_slow_clients, shop, ignored=parse_ignored(ignored))]

    assert codes() == ["FS015"]
    assert codes("FS015") == codes("fs001,slow-client") == codes("FS015:/big") == codes("FS015:/b*") == []
    assert codes("FS015:GET /big") == []
    assert codes("FS015:/small") == codes("FS001") == ["FS015"]
    with pytest.raises(ConfigError, match=r"^there is no finding 'FS099': they are FS001 to FS017$"):
        parse_ignored(["FS099"])


def test_only_the_codes_asked_for_are_looked_for(shop: str) -> None:
    assert [one.code for one in told_by(sleeps_blocking, shop, codes=["FS001"])] == ["FS001"]


def test_findings_of_many_requests_are_found_in_time() -> None:
    story = Story(capacity=65_536)
    for at in range(5000):
        told = story.request(f"GET /items/{at}", at=at, route="/items/{id}").poll(
            at, at + 0.5, "items.py:41 show", Wait.POOL
        )
        told.poll(at + 60, at + 60.4, ready=at + 59).thread(at, at + 30, at + 50).ends(at + 61)
    codes = [one.code for one in find(story.model())]
    assert codes == ["FS008", "FS007"] or codes == ["FS007", "FS008"]


def test_every_code_has_its_part_in_the_documentation() -> None:
    text = (DOCS / "findings.md").read_text(encoding="utf-8")
    for rule in CATALOGUE.values():
        part = text.partition(f"\n## {rule.code} {rule.name}\n")[2].partition("\n## ")[0]
        assert len(part.split()) > 45 and "**To do.**" in part, rule.code
    assert re.findall(r"^## (FS\d+)", text, re.MULTILINE) == list(CATALOGUE)
    finding = Finding(CATALOGUE["FS005"], "", "")
    assert finding.link == "docs/findings.md#fs005-sync-io-in-async"
    assert f"(#{finding.link.partition('#')[2]})" in text
