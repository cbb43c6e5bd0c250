"""The state of the home and its encoders; liveness, readiness and metrics of the service."""

from __future__ import annotations

import json
from importlib.metadata import version
from typing import Annotated, Any, cast

from fastapi import APIRouter, Path
from starlette.requests import Request
from starlette.responses import Response

from simile.core.errors import NoSuchEncoder, NothingIndexed, ObjectsUnavailable
from simile.core.settings import Settings
from simile.indexer.maintenance.encoders import activate_encoder, list_encoders
from simile.models.checkpoints.description import DESCRIPTION_FILE
from simile.search.searcher import Searcher
from simile.service import urls
from simile.service.dependencies import ReadinessDep, SearcherDep
from simile.service.errors import ProblemException
from simile.service.observability.metrics import METRICS_MEDIA_TYPE, ServiceMetrics
from simile.service.openapi.install import document_errors
from simile.service.schemas import encoders as schemas
from simile.store.catalogue.records import RunRecord
from simile.store.index.snapshot import Snapshot
from simile.store.objects import ENCODER_PREFIX

router = APIRouter(prefix=urls.API, tags=["status"])
encoders_router = APIRouter(prefix=f"{urls.API}/encoders", tags=["encoders"])
health_router = APIRouter(tags=["health"])
metrics_router = APIRouter(include_in_schema=False)  # OpenAPI cannot describe the format of Prometheus

FingerprintParam = Annotated[
    str, Path(pattern="^[0-9a-f]{1,64}$", description="The fingerprint of an encoder, or a unique prefix of it.")
]

_MAX_RECENT_RUNS = 5


@router.get("/status", responses=document_errors(409, 503))
def status(searcher: SearcherDep) -> schemas.StatusResponse:
    """Return the state of the home. Cheap: it opens only what searches need."""
    state = searcher.catalogue.get_state()
    try:
        snapshot = searcher.index.get_snapshot()
    except NothingIndexed:
        snapshot = None
    return schemas.StatusResponse(
        version=version("simile"),
        images=searcher.count_images(),
        encoder=state.active_encoder,
        index=None if snapshot is None else _make_index_status(searcher, snapshot),
        gauge=_make_calibration_status(searcher, snapshot),
        runs=[_make_run_response(searcher, run) for run in searcher.catalogue.runs.get_latest(_MAX_RECENT_RUNS)],
    )


@encoders_router.get("", responses=document_errors(409, 503))
def show_encoders(searcher: SearcherDep) -> schemas.EncoderListResponse:
    """List all encoders of the home, oldest first."""
    return schemas.EncoderListResponse.model_validate({"encoders": list_encoders(searcher.settings)})


@encoders_router.get("/{fingerprint}", responses=document_errors(404, 409, 422, 503))
def show_encoder(fingerprint: FingerprintParam, searcher: SearcherDep) -> schemas.EncoderDetailResponse:
    """Return one encoder with its architecture, preprocessing, recipe and training."""
    encoder = _find_encoder(searcher.settings, fingerprint)
    description = _read_description(searcher, encoder["fingerprint"])
    return schemas.EncoderDetailResponse.model_validate(encoder | {"description": description})


@encoders_router.post("/{fingerprint}/activate", responses=document_errors(404, 409, 422, 503))
def activate(fingerprint: FingerprintParam, searcher: SearcherDep) -> schemas.ActivateEncoderResponse:
    """Activate an encoder and the index of its vectors for all searches that start afterwards.

    The response is sent after the switch. 503 `home-busy` while another command uses the home.
    """
    encoder = _find_encoder(searcher.settings, fingerprint)
    return schemas.ActivateEncoderResponse(**activate_encoder(searcher.settings, encoder["fingerprint"]))


@health_router.get("/livez")
async def livez() -> schemas.LivenessResponse:
    """Report that the process responds. It does not check the home: a restart would not repair it."""
    return schemas.LivenessResponse()


@health_router.get("/readyz", responses=document_errors(503))
def readyz(readiness: ReadinessDep) -> schemas.ReadinessResponse:
    """Report whether the service can answer searches; 503 with all reasons if it cannot.

    It is ready when the encoder is loaded, the index is open, the catalogue is readable, the upload queue has room, and
    the process is not shutting down.
    """
    return schemas.ReadinessResponse(**readiness.check())


@metrics_router.get("/metrics")
def metrics(request: Request, readiness: ReadinessDep) -> Response:
    """Return the metrics for Prometheus; docs/serving.md describes them."""
    readiness.update_index_metrics()
    return Response(cast(ServiceMetrics, request.app.state.metrics).render(), media_type=METRICS_MEDIA_TYPE)


def _make_index_status(searcher: Searcher, snapshot: Snapshot) -> schemas.IndexStatusResponse:
    segment = None if snapshot.base_segment_id is None else searcher.catalogue.segments.find(snapshot.base_segment_id)
    details = {} if segment is None else segment.details
    return schemas.IndexStatusResponse(
        kind=None if segment is None else details.get("kind", segment.kind),
        rows=len(snapshot),
        pending=snapshot.pending_count,
        recall=details.get("recall"),
        memory_bytes=details.get("memory_bytes"),
        created_at=None if segment is None else segment.created_at,
    )


def _make_calibration_status(searcher: Searcher, snapshot: Snapshot | None) -> schemas.ScoreCalibrationResponse:
    calibration = None if snapshot is None else searcher.calibrations.get(snapshot)
    if calibration is None:
        is_measuring = snapshot is not None and searcher.calibrations.is_measuring
        return schemas.ScoreCalibrationResponse(status="measuring" if is_measuring else "unknown")
    return schemas.ScoreCalibrationResponse(
        status="ready",
        images=calibration.images,
        false_alarm_rate=calibration.false_alarm_rate,
        false_alarm_among=calibration.population,
    )


def _make_run_response(searcher: Searcher, run: RunRecord) -> schemas.RunResponse:
    # A killed run still has the status `running` in the catalogue, but nothing holds the lock of the home any more.
    was_killed = run.status == "running" and not searcher.home.is_locked()
    fields = vars(run) | {"failed": searcher.catalogue.runs.count_failures(run.id)}
    return schemas.RunResponse.model_validate(fields | ({"status": "interrupted"} if was_killed else {}))


def _find_encoder(settings: Settings, prefix: str) -> dict[str, Any]:
    matches = [encoder for encoder in list_encoders(settings) if encoder["fingerprint"].startswith(prefix)]
    exact = [encoder for encoder in matches if encoder["fingerprint"] == prefix]
    if exact or len(matches) == 1:
        return (exact or matches)[0]
    reason = "is a prefix of several encoders" if matches else "is not an encoder of this home"
    detail = f"{prefix!r} {reason}. {urls.API}/encoders lists them."
    raise ProblemException(404, "no-such-encoder", detail) from NoSuchEncoder(detail)


def _read_description(searcher: Searcher, fingerprint: str) -> dict[str, Any] | None:
    """Read the description in the encoder's folder; None if it cannot be read."""
    try:
        path = searcher.home.objects.fetch(f"{ENCODER_PREFIX}{fingerprint}/{DESCRIPTION_FILE}")
        description = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, ObjectsUnavailable):
        return None
    return description if isinstance(description, dict) else None
