"""What the service counts and times, for Prometheus. docs/serving.md says what each figure means.

One process keeps its figures in a registry of its own. Several (`serve --workers`) keep them in files of one folder,
named by PROMETHEUS_MULTIPROC_DIR, and whoever is asked adds them up.
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

MEDIA_TYPE = CONTENT_TYPE_LATEST
FOLDER = "PROMETHEUS_MULTIPROC_DIR"  # read by prometheus_client as it is imported
STAGES = ("receive", "decode", "encode", "search", "rows", "render", "total")

_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
_SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)


class Metrics:
    """The figures of one app."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        stages = Histogram(
            "simile_stage_seconds",
            "Time of each stage: encode, search and rows once a batch, the others once a request.",
            ["stage"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._stages = {stage: stages.labels(stage) for stage in STAGES}
        self._requests = Counter(
            "simile_requests", "Requests that were answered.", ["route", "method", "status"], registry=registry
        )
        self._answered: dict[tuple[str, str, int], Counter] = {}
        self.batches = Histogram(
            "simile_batch_size", "Searches that were answered together.", buckets=_SIZES, registry=registry
        )
        self._refused = Counter(
            "simile_refused", "Requests that were turned away before any work.", ["reason"], registry=registry
        )
        self.gone = Counter("simile_clients_gone", "Searches dropped because their client had left.", registry=registry)
        self.queue = _gauge("simile_queue_depth", "Requests with pictures in the house.", registry, "livesum")
        self.waiting = _gauge("simile_batch_waiting", "Searches that wait for a batch.", registry, "livesum")
        self._facts = {
            name: _gauge(f"simile_index_{name}", text, registry, "livemax")
            for name, text in (
                ("images", "Images in the catalogue."),
                ("pending", "Rows that are newer than the segment."),
                ("segment_rows", "Rows of the segment in use."),
                ("recall", "Share of the 10 nearest that the index finds, as measured when it was made."),
            )
        }
        self._info = _gauge(
            "simile_index_info", "The encoder and the kind of index in use.", registry, "livemax", "encoder", "kind"
        )
        self._shown: tuple[str, str] | None = None
        build = _gauge("simile_build_info", "Versions.", registry, "livemax", "version", "python")
        build.labels(version("simile"), platform.python_version()).set(1)

    def observe(self, stage: str, seconds: float) -> None:
        """Notes how long a stage took."""
        self._stages[stage].observe(seconds)

    def answered(self, route: str, method: str, status: int) -> None:
        """Counts an answer. `route`: the template of the path, never the path itself."""
        key = route, method, status
        counter = self._answered.get(key)
        if counter is None:  # `labels` takes five times as long as counting
            counter = self._answered[key] = self._requests.labels(route, method, str(status))
        counter.inc()

    def refused(self, reason: str) -> None:
        """Counts a request that was turned away."""
        self._refused.labels(reason).inc()

    def note_index(self, images: int, pending: int, rows: int, recall: float, encoder: str, kind: str) -> None:
        """The facts of the index, as they are now."""
        for name, value in (("images", images), ("pending", pending), ("segment_rows", rows), ("recall", recall)):
            self._facts[name].set(value)
        if self._shown is not None and self._shown != (encoder, kind):
            self._info.labels(*self._shown).set(0)  # labels can't be taken back where several processes count
        self._shown = encoder, kind
        self._info.labels(encoder, kind).set(1)

    def text(self) -> bytes:
        """Everything, as Prometheus reads it."""
        return generate_latest(all_processes() if FOLDER in os.environ else self.registry)


def all_processes() -> CollectorRegistry:
    """The figures of all processes that write into the folder, added up when somebody asks."""
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return registry


def forget_process(pid: int) -> None:
    """A process of several has ended: what it counted stays, what it only showed goes."""
    mark_process_dead(pid)  # type: ignore[no-untyped-call]


@contextmanager
def metrics_listener(settings: Settings, registry: CollectorRegistry) -> Iterator[None]:
    """/metrics at an address of its own, if there is one for it. Raises BadSetting where it can't be had."""
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


def _gauge(name: str, text: str, registry: CollectorRegistry, among_many: str, *labels: str) -> Gauge:
    """`among_many`: how the gauges of several processes become one."""
    return Gauge(name, text, labels, registry=registry, multiprocess_mode=among_many)  # type: ignore[arg-type]
