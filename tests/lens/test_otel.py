"""lens/otel.py: recorded requests as OpenTelemetry spans: each once, with its waits, and what was found."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from lens.stories import Story
from lens.test_page import shop
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from fastserve.cli import main
from fastserve.errors import LensError
from fastserve.lens import otel
from fastserve.lens.recording import Recording, Wait


def exported(*stories: Story, awaits: bool = False, now: float = 200) -> list[ReadableSpan]:
    """The spans of a story, or of the same server at several moments."""
    memory = InMemorySpanExporter()
    exporter = otel.Exporter(SimpleSpanProcessor(memory), "shop", awaits=awaits)
    for story in stories:
        exporter.take(story.model(now=now).recording)
    exporter.close()
    return list(memory.get_finished_spans())


def test_a_request_is_one_server_span_with_its_waits() -> None:
    model = shop().model(now=200)
    spans = {str((span.attributes or {})["fastserve.request.id"]): span for span in exported(shop())}
    finished = [request for request in model.requests if request.finished]
    assert set(spans) == {request.id for request in finished} and len(finished) == 4
    offset = model.recording.taken_unix_ns - model.recording.taken_ns
    for request in finished:
        span = spans[request.id]
        given = dict(span.attributes or {})
        assert span.kind == SpanKind.SERVER and span.parent is None
        assert (span.start_time, span.end_time) == (request.start + offset, request.until + offset)
        assert span.name == f"{request.method} {request.route}"
        assert given["http.route"] == request.route and given["url.path"] == request.path
        assert given["http.response.status_code"] == request.status
        assert given["fastserve.busy_time"] == pytest.approx(request.busy / 1e9)
        assert given["fastserve.scheduled_time"] == pytest.approx(request.scheduled / 1e9)
        assert given["fastserve.idle_time"] == pytest.approx(request.idle / 1e9)
        assert given["fastserve.poll_count"] == request.polls
        assert span.resource.attributes["service.name"] == "shop"
    item = next(span for span in spans.values() if (span.attributes or {})["url.path"] == "/items/7")
    given = dict(item.attributes or {})
    assert given["fastserve.kernel_wait"] == pytest.approx(0.002) and given["fastserve.thread_time"] == pytest.approx(
        0.01
    )
    assert given["error.type"] == "500" and item.status.status_code == StatusCode.ERROR
    assert [event.name for event in item.events][-1] == "cache miss"
    assert all("error.type" not in (span.attributes or {}) for span in spans.values() if span is not item)


def test_findings_are_events_with_their_line() -> None:
    (span,) = [one for one in exported(shop()) if one.name == "GET /report"]
    (event, *_) = [event for event in span.events if event.name.startswith("fastserve.finding")]
    given = dict(event.attributes or {})
    assert given["fastserve.finding.code"] == "FS001" and "/report" in str(given["fastserve.finding.text"])
    assert str(given["code.file.path"]).endswith("shop.py") and given["code.line.number"] == "14"


def test_a_request_is_sent_once_however_often_it_is_seen() -> None:
    early, late = Story(), Story()
    for story in (early, late):
        story.request("GET /a", at=0).poll(0, 1).ends(2)
        flying = story.request("GET /b", at=3)
        flying.poll(3, 4, "a.py:1 f", Wait.TIMER)
        if story is early:
            flying.flies()
        else:
            flying.poll(8, 9, by="timer").ends(10)
    assert [span.name for span in exported(early, early, late, late, now=20)] == ["GET", "GET"]


def test_a_worker_that_was_replaced_begins_anew() -> None:
    first, second = Story(), Story()
    for story in (first, second):
        story.request("GET /a", at=0).poll(0, 1).ends(2)
    second.workers[0].pid += 77
    assert len(exported(first, second, now=20)) == 2


def test_waits_are_spans_only_when_asked_for() -> None:
    assert all(span.kind == SpanKind.SERVER for span in exported(shop()))
    spans = exported(shop(), awaits=True)
    by_number = {span.context.span_id: span for span in spans if span.context}
    waits = [span for span in spans if span.kind == SpanKind.INTERNAL]
    assert {span.name for span in waits} >= {"await shop.py:5", "await shop.py:20", "await shop.py:40"}
    for span in waits:
        assert span.parent and span.start_time and span.end_time
        parent = by_number[span.parent.span_id]
        assert parent.start_time and parent.end_time
        assert parent.start_time <= span.start_time < span.end_time <= parent.end_time
        assert span.end_time - span.start_time >= 1_000_000


def test_what_is_half_recorded_or_unknown_is_left_out() -> None:
    story = Story()
    story.request("GET /lost", at=0, root=False).flies()
    gone = story.request("GET /gone", at=1)
    gone.poll(1, 2).ends(3, 200, flags=2)
    spans = exported(story, now=9)
    assert [span.name for span in spans] == ["GET"]
    given = dict(spans[0].attributes or {})
    assert given["error.type"] == "client_left"
    assert not {"http.route", "fastserve.kernel_wait", "fastserve.thread_time"} & set(given)


def test_the_services_name_may_be_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "web")
    assert exported(shop())[0].resource.attributes["service.name"] == "web"


# ------------------------------------------------------------------------------------------------------- over the wire


class Collector(BaseHTTPRequestHandler):
    """Takes OTLP over HTTP."""

    got: list[tuple[str, ExportTraceServiceRequest]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        self.got.append((self.path, ExportTraceServiceRequest.FromString(body)))
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def collector() -> Iterator[tuple[str, list[tuple[str, ExportTraceServiceRequest]]]]:
    handler = type("Handler", (Collector,), {"got": []})
    server = HTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", handler.got  # type: ignore[attr-defined]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_recording_in_a_file_is_exported_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "shop.fsx"
    shop().model(now=200).recording.save(file)
    with collector() as (url, got):
        assert main(["otel", str(file), "--endpoint", url]) == 0
    assert {path for path, _ in got} == {"/v1/traces"}
    spans = [
        span for _, sent in got for part in sent.resource_spans for scope in part.scope_spans for span in scope.spans
    ]
    assert sorted(span.name for span in spans) == ["GET /items/{id}", "GET /items/{id}", "GET /report", "POST /items"]
    assert "4 spans" in capsys.readouterr().err


def test_a_recording_without_requests_exports_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "none.fsx"
    Story().model(now=1).recording.save(file)
    with collector() as (url, got):
        assert main(["otel", str(file), "--endpoint", url]) == 1
    assert got == [] and "0 spans" in capsys.readouterr().err


def test_a_server_is_followed_until_it_ends(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recording = shop().model(now=200).recording
    looks: list[Any] = []

    def take(target: Any) -> Recording:
        looks.append(target)
        if len(looks) > 3:
            raise LensError("no server of that pid")
        if len(looks) == 3:  # since the last look the ring went round more than once
            recording.workers[0].header["ring_head"] += recording.workers[0].header["ring_capacity"] + 14
        return recording

    monkeypatch.setattr(Recording, "take", take)
    with collector() as (url, got):
        assert main(["otel", "shop", "--endpoint", url, "--every", "0"]) == 0
    assert len(got) == 1 and looks == ["shop", recording.pid, recording.pid, recording.pid]
    said = capsys.readouterr().err
    assert "14 events overwritten" in said and "has ended; 4 spans in all" in said


def test_a_server_that_records_nothing_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recording = Story(mode="ready").model(now=1).recording
    looks: list[Any] = []

    def take(target: Any) -> Recording:
        looks.append(target)
        if len(looks) > 1:
            raise KeyboardInterrupt
        return recording

    monkeypatch.setattr(Recording, "take", take)
    with collector() as (url, _):
        assert main(["otel", "--endpoint", url, "--every", "0"]) == 0
    assert "fastserve lens shop sample:100" in capsys.readouterr().err


def test_without_the_sdk_it_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(__import__("sys").modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    assert main(["otel"]) == 2
    said = capsys.readouterr().err
    assert "pip install 'fastserve-http[otel]'" in said and said.count("\n") == 1
