"""Metrics of the service for Prometheus; docs/serving.md explains each of them.

A single process uses its own registry. Several processes (`serve --workers`) write files into the folder named by
PROMETHEUS_MULTIPROC_DIR, and the process that serves `/metrics` adds them up.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, start_http_server
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from simile.core.errors import BadSetting
from simile.core.settings import Settings

METRICS_MEDIA_TYPE = CONTENT_TYPE_LATEST
MULTIPROC_DIR_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"  # prometheus_client reads it on import
REQUEST_STAGES = ("receive", "decode", "encode", "search", "rows", "verify", "render", "total")

_SECONDS_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
_BATCH_SIZE_BUCKETS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
_INDEX_GAUGES = {
    "images": "Images in the catalogue.",
    "pending": "Rows that are newer than the segment.",
    "segment_rows": "Rows of the segment in use.",
    "recall": "Share of the 10 nearest that the index finds, as measured when it was made.",
}


class ServiceMetrics:
    """The metrics of one application."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        stages = Histogram(
            "simile_stage_seconds",
            "Time of each stage: encode, search and rows once a batch, the others once a request.",
            ["stage"],
            buckets=_SECONDS_BUCKETS,
            registry=registry,
        )
        self._stages = {stage: stages.labels(stage) for stage in REQUEST_STAGES}
        self._requests = Counter(
            "simile_requests", "Requests that were answered.", ["route", "method", "status"], registry=registry
        )
        self._request_counters: dict[tuple[str, str, int], Counter] = {}
        self.batch_size = Histogram(
            "simile_batch_size", "Searches that were answered together.", buckets=_BATCH_SIZE_BUCKETS, registry=registry
        )
        self._refusals = Counter(
            "simile_refused", "Requests that were turned away before any work.", ["reason"], registry=registry
        )
        self.client_disconnects = Counter(
            "simile_clients_gone", "Searches dropped because their client had left.", registry=registry
        )
        self.queue_depth = _make_gauge(
            "simile_queue_depth", "Requests with pictures in the house.", registry, "livesum"
        )
        self.batch_waiting = _make_gauge("simile_batch_waiting", "Searches that wait for a batch.", registry, "livesum")
        self._index_gauges = {
            name: _make_gauge(f"simile_index_{name}", text, registry, "livemax") for name, text in _INDEX_GAUGES.items()
        }
        self._index_info = _make_gauge(
            "simile_index_info", "The encoder and the kind of index in use.", registry, "livemax", "encoder", "kind"
        )
        self._index_labels: tuple[str, str] | None = None
        build = _make_gauge("simile_build_info", "Versions.", registry, "livemax", "version", "python")
        build.labels(version("simile"), platform.python_version()).set(1)

    def observe_stage(self, stage: str, seconds: float) -> None:
        """Record the duration of a stage, in seconds."""
        self._stages[stage].observe(seconds)

    def count_response(self, route: str, method: str, status: int) -> None:
        """Count a response. `route`: the template of the path, never the path itself."""
        key = route, method, status
        counter = self._request_counters.get(key)
        if counter is None:  # `labels` takes five times as long as counting
            counter = self._request_counters[key] = self._requests.labels(route, method, str(status))
        counter.inc()

    def count_refusal(self, reason: str) -> None:
        """Count a refused request."""
        self._refusals.labels(reason).inc()

    def set_index_metrics(self, images: int, pending: int, rows: int, recall: float, encoder: str, kind: str) -> None:
        """Set the metrics of the index to its current state."""
        for name, value in (("images", images), ("pending", pending), ("segment_rows", rows), ("recall", recall)):
            self._index_gauges[name].set(value)
        if self._index_labels is not None and self._index_labels != (encoder, kind):
            self._index_info.labels(*self._index_labels).set(0)  # with several processes, labels cannot be removed
        self._index_labels = encoder, kind
        self._index_info.labels(encoder, kind).set(1)

    def render(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(make_multiprocess_registry() if MULTIPROC_DIR_VARIABLE in os.environ else self.registry)


def make_multiprocess_registry() -> CollectorRegistry:
    """Return a registry that adds up the metrics of all processes at each scrape."""
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return registry


def mark_worker_dead(pid: int) -> None:
    """Drop the gauges of a worker that has ended; its counters stay."""
    mark_process_dead(pid)  # type: ignore[no-untyped-call]


@contextmanager
def serve_metrics(settings: Settings, registry: CollectorRegistry) -> Iterator[None]:
    """Serve /metrics on a separate port if one is set. Raises BadSetting if the port cannot be used."""
    if not settings.metrics_port:
        yield
        return
    try:
        server, thread = start_http_server(settings.metrics_port, settings.metrics_host, registry)
    except OSError as error:
        raise BadSetting(
            f"Can't listen on {settings.metrics_host} port {settings.metrics_port} for /metrics: "
            f"{error.strerror or error}. Choose another SIMILE_METRICS_PORT."
        ) from None
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _make_gauge(name: str, text: str, registry: CollectorRegistry, multiprocess_mode: str, *labels: str) -> Gauge:
    """Make a gauge. `multiprocess_mode`: how the values of several processes are combined."""
    return Gauge(name, text, labels, registry=registry, multiprocess_mode=multiprocess_mode)  # type: ignore[arg-type]
