"""How things stand: counts, encoder, index, gauge, and the latest runs."""

from __future__ import annotations

from importlib.metadata import version

from fastapi import APIRouter

from simile.core.errors import NothingIndexed
from simile.search.searcher import Searcher
from simile.service import urls
from simile.service.dependencies import TheSearcher
from simile.service.openapi.install import errors
from simile.service.schemas.encoders import GaugeOut, IndexOut, RunOut, StatusOut
from simile.store.catalogue.records import RunRecord
from simile.store.index.snapshot import Snapshot

router = APIRouter(prefix=urls.API, tags=["status"])

_RUNS = 5


@router.get("/status", responses=errors(409, 503))
def status(searcher: TheSearcher) -> StatusOut:
    """How things stand. Cheap: it opens nothing that searches do not need."""
    state = searcher.catalogue.state()
    try:
        snapshot = searcher.index.current()
    except NothingIndexed:
        snapshot = None
    return StatusOut(
        version=version("simile"),
        images=searcher.count(),
        encoder=state.active_encoder,
        index=None if snapshot is None else _index(searcher, snapshot),
        gauge=GaugeOut(status="unknown", images=None) if snapshot is None else _gauge(searcher, snapshot),
        runs=[_run(searcher, run) for run in searcher.catalogue.runs(_RUNS)],
    )


def _index(searcher: Searcher, snapshot: Snapshot) -> IndexOut:
    segment = None if snapshot.base is None else searcher.catalogue.segment(snapshot.base)
    details = {} if segment is None else segment.details
    return IndexOut(
        kind=None if segment is None else details.get("kind", segment.kind),
        rows=len(snapshot),
        pending=snapshot.pending,
        recall=details.get("recall"),
        memory_bytes=details.get("memory_bytes"),
        created_at=None if segment is None else segment.created_at,
    )


def _gauge(searcher: Searcher, snapshot: Snapshot) -> GaugeOut:
    known = searcher.gauges.current(snapshot)
    if known is not None:
        return GaugeOut(status="ready", images=known.images, false_alarm_rate=known.rate, false_alarm_among=known.among)
    return GaugeOut(status="measuring" if searcher.gauges.is_measuring else "unknown", images=None)


def _run(searcher: Searcher, run: RunRecord) -> RunOut:
    """One that was killed could not say so: nobody holds its lock any more."""
    gone = run.status == "running" and not searcher.home.is_held()
    return RunOut(
        id=run.id,
        kind=run.kind,
        status="interrupted" if gone else run.status,
        started_at=run.started_at,
        finished_at=run.finished_at,
        failed=searcher.catalogue.count_failures(run.id),
    )
