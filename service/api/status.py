"""The state of the home: counts, encoder, index, calibration, and the latest runs."""

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
    """Return the state of the home. Cheap: it opens only what searches need."""
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
        gauge=_make_calibration_status(searcher, snapshot),
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


def _make_calibration_status(searcher: Searcher, snapshot: Snapshot | None) -> ScoreCalibrationResponse:
    calibration = None if snapshot is None else searcher.calibrations.get(snapshot)
    if calibration is None:
        is_measuring = snapshot is not None and searcher.calibrations.is_measuring
        return ScoreCalibrationResponse(status="measuring" if is_measuring else "unknown")
    return ScoreCalibrationResponse(
        status="ready",
        images=calibration.images,
        false_alarm_rate=calibration.false_alarm_rate,
        false_alarm_among=calibration.population,
    )


def _make_run_response(searcher: Searcher, run: RunRecord) -> RunResponse:
    # A killed run still has the status `running` in the catalogue, but nothing holds the lock of the home any more.
    was_killed = run.status == "running" and not searcher.home.is_locked()
    fields = vars(run) | {"failed": searcher.catalogue.runs.count_failures(run.id)}
    return RunResponse.model_validate(fields | ({"status": "interrupted"} if was_killed else {}))
