"""otel_metrics: what every worker counts anyway, as OpenTelemetry metrics.

Room: the top. Called by: otel. Calls: recording, top; the OpenTelemetry SDK, an extra.

The board counts all requests in every mode, recorded or not, with the bucket bounds that the semantic conventions
advise for http.server.request.duration; so its histogram is the worker's own, and nothing is measured again. How
late the loop was is the histogram of the watchdog's beats, which a mode from `stalls` on keeps; its quantiles are
upper bounds of buckets, each twice as wide as the one before, and of the time since the last look. The data points
are made by hand, for the SDK has no instrument that takes a histogram that is already one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastserve.lens.recording import Recording, WorkerRecording
from fastserve.lens.top import DELAY_NS, processor_ns, rank
from fastserve.protocol.board import LATENCY_BOUNDS

__all__ = ["Metrics"]

QUANTILES = (("p50", 0.5), ("p99", 0.99), ("max", 1.0))


class Metrics:
    """Makes metrics of recordings, and hands them to `exporter`, a metric exporter of the SDK."""

    def __init__(self, exporter: Any, resource: Any) -> None:
        self.exporter = exporter
        self.resource = resource
        self.before: dict[tuple[int, int], tuple[int, int | None, Sequence[int]]] = {}
        """(seat, pid) -> when it was looked at, its processor's time, its loop's delays."""

    def take(self, recording: Recording) -> None:
        """One look: cumulative figures up to now, and gauges of the time since the last one."""
        from opentelemetry.sdk.metrics.export import MetricsData, ResourceMetrics, ScopeMetrics
        from opentelemetry.sdk.util.instrumentation import InstrumentationScope

        metrics = self._metrics(recording)
        scope = ScopeMetrics(InstrumentationScope("fastserve"), metrics, "")
        self.exporter.export(MetricsData([ResourceMetrics(self.resource, [scope], "")]))

    def _metrics(self, recording: Recording) -> list[Any]:
        from opentelemetry.sdk.metrics.export import AggregationTemporality, Gauge, Histogram, Metric, Sum

        durations, active, utilization = [], [], []
        delays: dict[str, list[Any]] = {name: [] for name, _ in QUANTILES}
        now = recording.taken_unix_ns
        seen: dict[tuple[int, int], tuple[int, int | None, Sequence[int]]] = {}
        for worker in recording.workers:
            if not worker.alive:
                continue
            key = worker.seat, worker.pid
            used = processor_ns(worker.pid) if recording.source == "live" else None
            seen[key] = recording.taken_ns, used, tuple(worker.delay)
            then = self.before.get(key)
            durations.append(_duration(worker, now))
            active.append(_point(worker, now, int(worker.seat_figures.active)))
            for name, ns in _delays(worker.delay, then[2] if then is not None else ()):
                delays[name].append(_point(worker, now, ns / 1e9))
            if then is not None and used is not None and then[1] is not None and recording.taken_ns > then[0]:
                share = (used - then[1]) / (recording.taken_ns - then[0])
                utilization.append(_point(worker, now, min(1.0, max(0.0, share))))
        self.before = seen
        whole = AggregationTemporality.CUMULATIVE
        found: list[tuple[str, str, str, Any]] = [
            ("http.server.request.duration", "Duration of HTTP server requests.", "s", Histogram(durations, whole)),
            ("http.server.active_requests", "Number of active HTTP server requests.", "{request}",
             Sum(active, whole, is_monotonic=False)),
            ("fastserve.eventloop.utilization", "Share of a processor that the worker used.", "1", Gauge(utilization)),
        ]  # fmt: skip
        found += [
            (f"fastserve.eventloop.delay.{name}", "How late the event loop was, at most.", "s", Gauge(points))
            for name, points in delays.items()
        ]
        return [Metric(name, about, unit, data) for name, about, unit, data in found if data.data_points]

    def close(self) -> None:
        self.exporter.shutdown()


def _point(worker: WorkerRecording, now: int, value: int | float) -> Any:
    from opentelemetry.sdk.metrics.export import NumberDataPoint

    return NumberDataPoint(_attributes(worker), worker.started_unix_ns, now, value)


def _duration(worker: WorkerRecording, now: int) -> Any:
    from opentelemetry.sdk.metrics.export import HistogramDataPoint

    figures = worker.seat_figures
    counts = [int(count) for count in figures.latency]
    least: Any = None  # the board does not keep it, nor the most
    return HistogramDataPoint(
        _attributes(worker), worker.started_unix_ns, now, sum(counts), int(figures.latency_ns) / 1e9, counts,
        LATENCY_BOUNDS, least, least,
    )  # fmt: skip


def _attributes(worker: WorkerRecording) -> dict[str, int]:
    return {"fastserve.worker.id": worker.slot}


def _delays(now: Sequence[int], then: Sequence[int]) -> list[tuple[str, int]]:
    """Quantiles of the beats since then, ns; none if there were none."""
    beats = [max(0, a - b) for a, b in zip(now, then or [0] * len(now), strict=True)]
    if not any(beats):
        return []
    return [(name, DELAY_NS << rank(beats, part)) for name, part in QUANTILES]
