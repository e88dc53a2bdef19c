"""lens/otel.py: recorded requests as OpenTelemetry spans: each once, with its waits, and what was found."""

from __future__ import annotations

import asyncio
import gzip
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from lens.stories import Story
from lens.test_page import shop
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from fastserve import App
from fastserve.cli import main
from fastserve.errors import LensError
from fastserve.lens import otel
from fastserve.lens.otel_metrics import Metrics
from fastserve.lens.recording import Kind, Recording, Wait
from fastserve.protocol.board import LATENCY_BOUNDS
from fastserve.testing import LensServer, lens_server


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
    metrics: list[ExportMetricsServiceRequest]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        if self.path == "/v1/metrics":
            self.metrics.append(ExportMetricsServiceRequest.FromString(body))
        else:
            self.got.append((self.path, ExportTraceServiceRequest.FromString(body)))
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


class Got(list[tuple[str, ExportTraceServiceRequest]]):
    metrics: list[ExportMetricsServiceRequest]

    @property
    def spans(self) -> list[Any]:
        return [
            span
            for _, sent in self
            for part in sent.resource_spans
            for scope in part.scope_spans
            for span in scope.spans
        ]

    def points(self, name: str) -> list[Any]:
        """Data points of that metric, in the order in which they came."""
        found: list[Any] = []
        for sent in self.metrics:
            for part in sent.resource_metrics:
                for scope in part.scope_metrics:
                    for metric in scope.metrics:
                        if metric.name == name:
                            found += getattr(metric, metric.WhichOneof("data")).data_points
        return found


@contextmanager
def collector() -> Iterator[tuple[str, Got]]:
    got = Got()
    got.metrics = []
    handler = type("Handler", (Collector,), {"got": got, "metrics": got.metrics})
    server = HTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", got
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
    assert got.metrics == []  # of a file there is no now
    assert sorted(span.name for span in got.spans) == [
        "GET /items/{id}",
        "GET /items/{id}",
        "GET /report",
        "POST /items",
    ]
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
    assert got.points("http.server.active_requests")
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
    with collector() as (url, got):
        assert main(["otel", "--endpoint", url, "--every", "0", "--metrics-every", "0"]) == 0
    assert got.metrics == []
    assert "fastserve lens shop sample:100" in capsys.readouterr().err


def test_without_the_sdk_it_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(__import__("sys").modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    assert main(["otel"]) == 2
    said = capsys.readouterr().err
    assert "pip install 'fastserve-http[otel]'" in said and said.count("\n") == 1


# ------------------------------------------------------------------------------------------- the trace of the caller

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.mark.parametrize(
    ("traceparent", "continued"),
    [
        (f"00-{TRACE}-{PARENT}-01", True),
        (f"00-{TRACE}-{PARENT}-00", True),  # it is recorded all the same: that has been decided
        (f"cc-{TRACE}-{PARENT}-01", True),
        (f"00-{'0' * 32}-{PARENT}-01", False),
        (f"00-{TRACE}-{'0' * 16}-01", False),
        (f"00-{TRACE.upper()}-{PARENT}-01", False),
        ("", False),
        ("?", False),
    ],
)
def test_a_span_continues_the_trace_of_whoever_called(traceparent: str, continued: bool) -> None:
    story = Story()
    told = story.request("GET /a", at=0)
    if traceparent:
        told.event(Kind.CONTEXT, 0, b=told.worker.text(traceparent))
    told.poll(0, 2, "a.py:1 f", Wait.TIMER).poll(9, 10, by="timer").ends(11)
    spans = exported(story, awaits=True, now=20)
    (server,) = [span for span in spans if span.kind == SpanKind.SERVER]
    assert server.context is not None
    if continued:
        assert server.parent is not None and server.parent.is_remote
        assert (f"{server.context.trace_id:032x}", f"{server.parent.span_id:016x}") == (TRACE, PARENT)
    else:
        assert server.parent is None and f"{server.context.trace_id:032x}" != TRACE
    (wait,) = [span for span in spans if span.kind == SpanKind.INTERNAL]
    assert wait.context is not None and wait.context.trace_id == server.context.trace_id


def ask(server: LensServer, path: str, *fields: str) -> bytes:
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as client:
        client.sendall("\r\n".join([f"GET {path} HTTP/1.1", "host: x", "connection: close", *fields, "", ""]).encode())
        data = b""
        while piece := client.recv(65536):
            data += piece
    return data


def parented(number: int, flags: str = "01") -> str:
    return f"traceparent: 00-{number:032x}-{number:016x}-{flags}"


def app() -> App:
    app = App()

    @app.get("/items/{n}")
    async def item(n: int) -> str:
        await asyncio.sleep(0.005)
        return "item"

    return app


def test_the_callers_trace_comes_from_the_wire_to_the_collector(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "shop.fsx"
    with lens_server(app(), name="otel-wire") as server:
        ask(server, "/items/1", parented(1))
        ask(server, "/items/2", parented(2, "00"))
        ask(server, "/items/3")
        ask(server, "/items/4", parented(4), parented(5))  # two are none
        ask(server, "/items/5", "traceparent: 00-secret-01")
        ask(server, "/items/6", parented(6) + "-more")  # of version 00 there is no more
        ask(server, "/items/7", parented(7).replace(": 00-", ": 01-") + "-more")  # of a later one there may be
        assert len([one for one in server.requests if one.finished]) == 7
        Recording.take("otel-wire").save(file)
    with collector() as (url, got):
        assert main(["otel", str(file), "--endpoint", url]) == 0
    found = {
        next(one.value.string_value for one in span.attributes if one.key == "url.path"): (
            int.from_bytes(span.trace_id, "big"),
            int.from_bytes(span.parent_span_id, "big"),
        )
        for span in got.spans
    }
    assert {path for path, (_, parent) in found.items() if parent} == {"/items/1", "/items/2", "/items/7"}
    assert found["/items/1"] == (1, 1) and found["/items/2"] == (2, 2) and found["/items/7"] == (7, 7)
    assert all(span.name == "GET /items/{n}" for span in got.spans)


def test_in_mode_sample_the_flag_of_a_trusted_peer_decides() -> None:
    with lens_server(app(), lens="sample:1000") as server:
        ask(server, "/items/0")  # the first of a thousand
        for number in range(1, 6):
            ask(server, f"/items/{number}")
        ask(server, "/items/10", parented(10))
        ask(server, "/items/11", parented(11, "00"))
        ask(server, "/items/12", parented(12, "03"))
        ask(server, "/items/13", parented(13, "02"))
        ask(server, "/items/14", "traceparent: nonsense")
        time.sleep(0.05)
    assert [one.path for one in server.requests] == ["/items/0", "/items/10", "/items/12"]
    with lens_server(app(), lens="sample:1") as server:
        ask(server, "/items/1", parented(1, "00"))  # somebody has decided that it is not
        ask(server, "/items/2")
    assert [one.path for one in server.requests] == ["/items/2"]


def test_in_mode_sample_the_flag_of_a_stranger_decides_nothing() -> None:
    with lens_server(app(), lens="sample:1000", forwarded_allow_ips=("192.0.2.1",)) as server:
        ask(server, "/items/0")
        for number in range(1, 6):
            ask(server, f"/items/{number}", parented(number))
        time.sleep(0.05)
    assert [one.path for one in server.requests] == ["/items/0"]


# ------------------------------------------------------------------------------------------------------------- metrics


def test_metrics_of_a_live_server_arrive() -> None:
    with lens_server(app(), name="otel-metrics") as server, collector() as (url, got):
        sender = OTLPMetricExporter(endpoint=url + "/v1/metrics")
        metrics = Metrics(sender, Resource({"service.name": "shop"}))
        for number in range(3):
            ask(server, f"/items/{number}")
        metrics.take(Recording.take("otel-metrics"))
        asking = threading.Thread(target=ask, args=(server, "/items/9"))
        time.sleep(0.3)
        asking.start()
        asking.join()
        until = time.process_time() + 0.1
        while time.process_time() < until:  # the loop's thread is one of this process: it is busy
            pass
        metrics.take(Recording.take("otel-metrics"))
        metrics.close()
    assert got.metrics[0].resource_metrics[0].resource.attributes[0].value.string_value == "shop"
    first, second = got.points("http.server.request.duration")
    assert (first.count, second.count) == (3, 4) and second.sum >= first.sum + 0.004
    assert tuple(first.explicit_bounds) == LATENCY_BOUNDS and len(first.bucket_counts) == len(LATENCY_BOUNDS) + 1
    assert sum(second.bucket_counts) == 4 and first.start_time_unix_nano == second.start_time_unix_nano
    assert first.start_time_unix_nano < first.time_unix_nano < second.time_unix_nano
    assert [point.as_int for point in got.points("http.server.active_requests")] == [0, 0]
    (share,) = got.points("fastserve.eventloop.utilization")  # the first look knows no share
    assert 0 < share.as_double <= 1
    for name in ("p50", "p99", "max"):
        points = got.points(f"fastserve.eventloop.delay.{name}")
        assert points and all(0 < point.as_double < 10 for point in points)
    assert (
        got.points("fastserve.eventloop.delay.p50")[-1].as_double
        <= got.points("fastserve.eventloop.delay.max")[-1].as_double
    )
    assert {point.attributes[0].key for point in got.points("http.server.active_requests")} == {"fastserve.worker.id"}


def test_delays_are_those_since_the_last_look() -> None:
    story = Story()
    worker = story.workers[0]
    metrics = Metrics(None, None)
    seen = []
    for late in ({0: 100, 3: 1}, {0: 200, 3: 1, 1: 100}, {0: 200, 3: 1, 1: 100}):
        worker.delay = [late.get(at, 0) for at in range(16)]
        made = metrics._metrics(story.model(now=10).recording)
        seen.append(
            {
                metric.name.rpartition(".")[2]: metric.data.data_points[0].value
                for metric in made
                if ".delay." in metric.name
            }
        )
    assert seen[0] == {"p50": 0.00025, "p99": 0.00025, "max": 0.002}
    assert seen[1] == {"p50": 0.00025, "p99": 0.0005, "max": 0.0005}
    assert seen[2] == {}  # the loop's heart has not beaten since
