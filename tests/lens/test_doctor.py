"""lens/doctor.py: the main finding first, what it costs a build, and a server that records as before afterwards."""

from __future__ import annotations

from typing import Any

import pytest
from lens.programs import has_a_slow_client, holds_once, is_ready_and_waits, sleeps_well
from lens.stories import Story

from fastserve.errors import ConfigError, LensError
from fastserve.lens import doctor
from fastserve.lens.catalogue import CATALOGUE
from fastserve.lens.recording import Recording


def reported(*programs: Any, mode: str = "full", capacity: int = 4096) -> str:
    story = Story(mode=mode, capacity=capacity)
    for program in programs:
        program(story)
    return doctor.report(*doctor.examine(story.builder.build()))


def test_there_is_one_main_finding_and_what_to_do_about_it() -> None:
    text = reported(holds_once)
    assert text == (
        "shop (pid 1000), 1 worker, fastserve 0, Python 3.\n"
        "Looked at 1 request within 341 ms; the lens is `full`.\n"
        "\n"
        "Main finding: FS001 blocked-loop\n"
        "  GET /report held the loop 340 ms at reports.py:88 (render). [measured]\n"
        "  To do: await something that does not block, move the work to a thread (asyncio.to_thread) or a\n"
        "  process, or make it a plain `def` handler, which runs in one.\n"
        "  See: docs/findings.md#fs001-blocked-loop; fastserve explain shop w0-0001\n"
    )


def test_the_rest_follows_and_hints_are_no_main_finding() -> None:
    text = reported(is_ready_and_waits, has_a_slow_client)
    main, _, rest = text.partition("\nAlso:\n")
    assert "Main finding: FS002 late-wake" in main
    assert "- FS015 slow-client" in rest
    text = reported(has_a_slow_client)
    assert "Main finding" not in text and "Nothing is wrong. Hints:\n- FS015 slow-client" in text


def test_where_nothing_is_wrong_that_is_said() -> None:
    assert reported(sleeps_well).endswith("Nothing is wrong in what was recorded.\n")


def test_without_requests_it_says_how_to_have_some() -> None:
    text = reported(mode="ready")
    assert (
        "No request is recorded; the lens is `ready`. `fastserve doctor shop --for 30s` records for that long." in text
    )


def test_what_was_lost_is_said() -> None:
    text = reported(sleeps_well, capacity=16)
    assert "older events had been overwritten: the last " in text


def test_codes_to_fail_on_are_codes_names_or_any() -> None:
    assert doctor.parse_codes(["FS001,fs005", "gc-pause"]) == {"FS001", "FS005", "FS014"}
    assert doctor.parse_codes(["any"]) == set(CATALOGUE)
    assert doctor.parse_codes([]) == set()
    with pytest.raises(ConfigError, match="there is no finding 'FS1'"):
        doctor.parse_codes(["FS1"])


class Server:
    """A running server that records what it is switched to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, mode: str = "ready", source: str = "live") -> None:
        self.mode = mode
        self.switched: list[str] = []
        self.source = source
        monkeypatch.setattr(Recording, "take", lambda _target=None: self.take())
        monkeypatch.setattr(doctor, "switch", self.switch)

    def take(self) -> Recording:
        story = Story(mode=self.mode)
        if self.mode == "full":
            holds_once(story)
        recording = story.builder.build()
        recording.source = self.source
        return recording

    def switch(self, _pid: int, mode: str) -> None:
        self.switched.append(mode)
        self.mode = mode


def test_recording_is_switched_on_for_a_time_and_back(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server(monkeypatch)
    slept: list[float] = []
    recording = doctor.recorded_for("shop", 30, slept.append)
    assert recording.workers[0].events and sum(slept) >= 30
    assert server.switched == ["full", "ready"]


def test_an_interrupt_ends_the_waiting_and_the_rest_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server(monkeypatch)

    def sleep(seconds: float) -> None:
        if seconds == 30:
            raise KeyboardInterrupt

    assert doctor.recorded_for("shop", 30, sleep).workers[0].events
    assert server.switched == ["full", "ready"]


def test_it_is_switched_back_if_the_server_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server(monkeypatch)

    def sleep(_seconds: float) -> None:
        raise LensError("gone")

    with pytest.raises(LensError, match="gone"):
        doctor.recorded_for("shop", 30, sleep)
    assert server.switched == ["full", "ready"]


def test_a_file_cannot_be_switched_on(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server(monkeypatch, source="file")
    with pytest.raises(LensError, match="name a running server"):
        doctor.recorded_for("shop.fsx", 30)
    assert server.switched == []
