"""How things stand: counts, encoder, index, gauge, and the latest runs."""

from __future__ import annotations

from importlib.metadata import version

from fastapi import APIRouter

from simile.core.errors import NothingIndexed
from simile.search.searcher import Searcher
from simile.service import urls
from simile.service.dependencies import SearcherDep
from simile.service.openapi.install import document_errors
from simile.service.schemas.encoders import IndexStatusResponse, RunResponse, ScoreCalibrationResponse, StatusResponse
from simile.store.catalogue.records import RunRecord
from simile.store.index.snapshot import Snapshot

router = APIRouter(prefix=urls.API, tags=["status"])

_MAX_RECENT_RUNS = 5


@router.get("/status", responses=document_errors(409, 503))
def status(searcher: SearcherDep) -> StatusResponse:
    """How things stand. Cheap: it opens nothing that searches do not need."""
    state = searcher.catalogue.get_state()
    try:
        snapshot = searcher.index.get_snapshot()
    except NothingIndexed:
        snapshot = None
    return StatusResponse(
        version=version("simile"),
        images=searcher.count_images(),
        encoder=state.active_encoder,
        index=None if snapshot is None else _make_index_status(searcher, snapshot),
        gauge=ScoreCalibrationResponse(status="unknown", images=None)
        if snapshot is None
        else _make_calibration_status(searcher, snapshot),
        runs=[_make_run_response(searcher, run) for run in searcher.catalogue.runs.get_latest(_MAX_RECENT_RUNS)],
    )


def _make_index_status(searcher: Searcher, snapshot: Snapshot) -> IndexStatusResponse:
    segment = None if snapshot.base_segment_id is None else searcher.catalogue.segments.find(snapshot.base_segment_id)
    details = {} if segment is None else segment.details
    return IndexStatusResponse(
        kind=None if segment is None else details.get("kind", segment.kind),
        rows=len(snapshot),
        pending=snapshot.pending_count,
        recall=details.get("recall"),
        memory_bytes=details.get("memory_bytes"),
        created_at=None if segment is None else segment.created_at,
    )


def _make_calibration_status(searcher: Searcher, snapshot: Snapshot) -> ScoreCalibrationResponse:
    known = searcher.calibrations.get(snapshot)
    if known is not None:
        return ScoreCalibrationResponse(
            status="ready", images=known.images, false_alarm_rate=known.false_alarm_rate, false_alarm_among=known.among
        )
    return ScoreCalibrationResponse(
        status="measuring" if searcher.calibrations.is_measuring else "unknown", images=None
    )


def _make_run_response(searcher: Searcher, run: RunRecord) -> RunResponse:
    """One that was killed could not say so: nobody holds its lock any more."""
    gone = run.status == "running" and not searcher.home.is_locked()
    return RunResponse(
        id=run.id,
        kind=run.kind,
        status="interrupted" if gone else run.status,
        started_at=run.started_at,
        finished_at=run.finished_at,
        failed=searcher.catalogue.runs.count_failures(run.id),
    )
