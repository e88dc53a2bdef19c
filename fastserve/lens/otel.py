"""otel: recorded requests as OpenTelemetry spans, sent by a process of its own.

Room: the top. Called by: commands. Calls: recording, model, findings, wording; the OpenTelemetry SDK, an extra.

The worker pays nothing for it: every few seconds this process reads the recording, makes one server span of each
request that has ended since, and hands it to the SDK, which sends batches by OTLP over HTTP. Where to, and as which
service, is told by OpenTelemetry's own variables (OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_SERVICE_NAME, ...). A span
begins when the request's bytes reached this machine, as far as that is known. Its waits are attributes; what was
found wrong with it is an event; a span for each wait is made only when asked for, because many spans say less than
one. A request that came with a W3C traceparent continues that trace. Behind the spans go metrics (otel_metrics).

Names are those of the semantic conventions for HTTP spans. Times of ours are seconds, `fastserve.*_time`. Values of
queries, headers and bodies are not in a recording, so they cannot leave by this door.
"""

from __future__ import annotations

import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

from fastserve.errors import LensError
from fastserve.lens.findings import Finding, find
from fastserve.lens.model import RequestTrace, build, place
from fastserve.lens.otel_metrics import Metrics
from fastserve.lens.recording import Recording
from fastserve.lens.wording import count

__all__ = ["Exporter", "export"]

EVERY = 2.0  # seconds between two looks: a full ring of a busy worker lasts longer when it is sampled
METRICS_EVERY = 10.0  # seconds between two exports of metrics
AWAIT_NS = 1_000_000  # shorter waits make no span of their own
FLUSH_MS = 10_000


class Exporter:
    """Makes spans of recordings: of each request once. `processor` is a span processor of the SDK."""

    def __init__(self, processor: Any, service: str, *, awaits: bool = False) -> None:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.sampling import ALWAYS_ON

        named = Resource.create()
        if str(named.attributes.get("service.name", "")).startswith("unknown_service"):  # no variable gives it one
            named = named.merge(Resource({"service.name": service}))
        # what is recorded has been sampled already, by --lens
        self.provider = TracerProvider(resource=named, sampler=ALWAYS_ON, shutdown_on_exit=False)
        self.provider.add_span_processor(processor)
        self.tracer = self.provider.get_tracer("fastserve")
        self.awaits = awaits
        self.told: dict[tuple[int, int], set[int]] = defaultdict(set)  # (seat, pid) -> requests that were sent
        self.heads: dict[tuple[int, int], int] = {}  # (seat, pid) -> events ever written, at the last look
        self.missed = 0  # events that were overwritten between two looks, or never written
        self.spans = 0

    def take(self, recording: Recording) -> int:
        """Spans of the requests that have ended since the last time; how many."""
        model = build(recording)
        offset = recording.taken_unix_ns - recording.taken_ns
        pids = {lane.seat: lane.pid for lane in model.lanes}
        new = []
        seen: dict[tuple[int, int], set[int]] = defaultdict(set)
        for request in model.requests:
            if not request.finished or request.partial:
                continue
            worker = request.seat, pids.get(request.seat, 0)
            seen[worker].add(request.number)
            if request.number not in self.told[worker]:
                new.append(request)
        findings = _by_request(find(model), new)
        for request in new:
            self._span(request, offset, findings.get(request.id, []))
        self.told = seen  # what has left the ring cannot come again
        for one in recording.workers:
            head, at = one.header["ring_head"] + one.header["dropped"], (one.seat, one.pid)
            self.missed += max(0, head - self.heads.get(at, head) - one.header["ring_capacity"])
            self.heads[at] = head
        self.spans += len(new)
        return len(new)

    def _span(self, request: RequestTrace, offset: int, findings: list[Finding]) -> None:
        from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context

        name = f"{request.method} {request.route}" if request.route else request.method
        start = request.start + offset
        attributes = attributes_of(request)
        parent = context_of(request.traceparent)
        span = self.tracer.start_span(name, parent, kind=SpanKind.SERVER, attributes=attributes, start_time=start)
        for one in findings:
            told = {"fastserve.finding.code": one.code, "fastserve.finding.text": one.text}
            if one.frame is not None:
                told["code.file.path"] = one.frame.file
                told["code.line.number"] = str(one.frame.line)
                told["code.function.name"] = one.frame.function
            span.add_event(f"fastserve.finding {one.title}", told, timestamp=start)
        for mark in request.marks:
            span.add_event(mark.text, timestamp=mark.at + offset)
        if "error.type" in attributes:
            span.set_status(Status(StatusCode.ERROR))
        if self.awaits:
            inside = set_span_in_context(span)
            for task in request.tasks.values():
                for wait in task.awaits:
                    if wait.ready is None or wait.ready - wait.start < AWAIT_NS:
                        continue
                    where = place(wait.stack)
                    what: dict[str, str | int] = {
                        "fastserve.task.id": task.id,
                        "fastserve.wait": wait.wait.name.lower(),
                    }
                    child = self.tracer.start_span(
                        f"await {where or wait.wait.name.lower()}",
                        inside,
                        attributes=what,
                        start_time=wait.start + offset,
                    )
                    child.end(wait.ready + offset)
        span.end(max(request.until, request.start) + offset)

    def close(self) -> None:
        """Send what is waiting."""
        self.provider.force_flush(FLUSH_MS)
        self.provider.shutdown()


def _by_request(findings: Iterable[Finding], requests: list[RequestTrace]) -> dict[str, list[Finding]]:
    wanted = {request.id for request in requests}
    found: dict[str, list[Finding]] = defaultdict(list)
    for finding in findings:
        for id in finding.requests:
            if id in wanted:
                found[id].append(finding)
    return found


TRACEPARENT = re.compile(r"[0-9a-f]{2}-(?P<trace>[0-9a-f]{32})-(?P<parent>[0-9a-f]{16})-(?P<flags>[0-9a-f]{2})")


def context_of(traceparent: str) -> Any:
    """The context of the caller's span (W3C Trace Context, 3.2); None if there is none, or none that can be meant."""
    from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context

    found = TRACEPARENT.fullmatch(traceparent)
    if found is None:
        return None
    trace, parent, flags = (int(found[part], 16) for part in ("trace", "parent", "flags"))
    context = SpanContext(trace, parent, is_remote=True, trace_flags=TraceFlags(flags & TraceFlags.SAMPLED))
    return set_span_in_context(NonRecordingSpan(context)) if context.is_valid else None


def attributes_of(request: RequestTrace) -> dict[str, str | int | float | bool]:
    """The attributes of its span. Absent is what is not known."""
    found: dict[str, str | int | float | bool] = {
        "http.request.method": request.method,
        "url.path": request.path,
        "url.scheme": "https" if request.tls else "http",
        "fastserve.request.id": request.id,
        "fastserve.worker.id": request.worker,
        "fastserve.busy_time": request.busy / 1e9,
        "fastserve.scheduled_time": request.scheduled / 1e9,
        "fastserve.idle_time": request.idle / 1e9,
        "fastserve.late_time": request.late / 1e9,
        "fastserve.poll_count": request.polls,
        "fastserve.task_count": len(request.tasks),
        "http.request.body.size": request.body_bytes_in,
        "http.response.body.size": request.body_bytes_out,
    }
    if request.route:
        found["http.route"] = request.route
    if request.status is not None:
        found["http.response.status_code"] = request.status
    if request.kernel_wait is not None:
        found["fastserve.kernel_wait"] = request.kernel_wait / 1e9
    if request.threads:
        found["fastserve.thread_queue_time"] = request.thread_queue / 1e9
        found["fastserve.thread_time"] = request.thread_run / 1e9
    if request.write_wait:
        found["fastserve.write_wait_time"] = request.write_wait / 1e9
    if request.failed or (request.status or 0) >= 500:
        found["error.type"] = str(request.status or 500)
    elif request.client_left:
        found["error.type"] = "client_left"
    elif request.cut:
        found["error.type"] = "response_cut_short"
    return found


def export(
    target: str,
    *,
    endpoint: str,
    every: float,
    awaits: bool,
    say: Callable[[str], None],
    metrics_every: float = METRICS_EVERY,
) -> int:
    """Export until the server is gone or we are interrupted; of a file: once. LensError if it cannot begin.

    `metrics_every`: seconds between two exports of metrics, of a server that runs; 0: none.
    Returns the exit code: 1 if a file had nothing to tell.
    """
    try:
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        raise LensError("otel needs OpenTelemetry's SDK and exporter: pip install 'fastserve-http[otel]'") from None
    recording = Recording.take(target or None)
    nothing = _records_nothing(recording)
    if nothing:
        say(nothing)
    sender = OTLPSpanExporter(endpoint=endpoint.rstrip("/") + "/v1/traces") if endpoint else OTLPSpanExporter()
    exporter = Exporter(BatchSpanProcessor(sender), recording.name, awaits=awaits)
    metrics: Metrics | None = None
    if metrics_every > 0 and recording.source == "live":
        where = endpoint.rstrip("/") + "/v1/metrics" if endpoint else None  # None: as the variables say
        metrics = Metrics(OTLPMetricExporter(endpoint=where), exporter.provider.resource)
    missed, due = 0, 0.0
    try:
        if recording.source == "file":
            found = exporter.take(recording)
            say(f"{count(found, 'span')} of {recording.name}")
            return 0 if found else 1
        say(f"spans of {recording.name} (pid {recording.pid}) every {every:g} s; Ctrl-C ends it")
        while True:
            exporter.take(recording)
            if metrics is not None and time.monotonic() >= due:
                metrics.take(recording)
                due = time.monotonic() + metrics_every
            if exporter.missed > missed:
                missed, new = exporter.missed, exporter.missed - missed
                say(f"{count(new, 'event')} overwritten between two looks: look more often, or record less (sample:N)")
            last = recording
            time.sleep(every)
            try:
                recording = Recording.take(recording.pid)
            except LensError:
                if metrics is not None:
                    metrics.take(last)
                say(f"{recording.name} has ended; {count(exporter.spans, 'span')} in all")
                return 0
    except KeyboardInterrupt:
        say(f"{count(exporter.spans, 'span')} in all")
        return 0
    finally:
        exporter.close()
        if metrics is not None:
            metrics.close()


def _records_nothing(recording: Recording) -> str:
    """Why there will be no spans; "" if there may be."""
    modes = {worker.mode.partition(":")[0] for worker in recording.workers}
    if recording.source == "file" or not modes or modes & {"sample", "slow", "full"}:
        return ""
    return (
        f"note: {recording.name} records no requests now; `fastserve lens {recording.name} sample:100` switches it on"
    )
