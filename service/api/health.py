"""Liveness, readiness and metrics."""

from __future__ import annotations

from typing import cast

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from simile.service.dependencies import ReadinessDep
from simile.service.errors import ProblemException
from simile.service.observability.metrics import METRICS_MEDIA_TYPE, ServiceMetrics
from simile.service.openapi.install import document_errors
from simile.service.schemas.search import LivenessResponse, ReadinessResponse
from simile.service.state.readiness import NotReady

router = APIRouter(tags=["health"])
metrics_router = APIRouter(include_in_schema=False)  # OpenAPI cannot describe the format of Prometheus


@router.get("/livez")
async def livez() -> LivenessResponse:
    """Report that the process responds. It does not check the home: a restart would not repair it."""
    return LivenessResponse()


@router.get("/readyz", responses=document_errors(503))
def readyz(readiness: ReadinessDep) -> ReadinessResponse:
    """Report whether the service can answer searches; 503 with all reasons if it cannot.

    It is ready when the encoder is loaded, the index is open, the catalogue is readable, the upload queue has room, and
    the process is not shutting down.
    """
    try:
        return ReadinessResponse(**readiness.check())
    except NotReady as error:
        raise ProblemException(503, "not-ready", str(error), retry_after=1) from error


@metrics_router.get("/metrics")
def metrics(request: Request, readiness: ReadinessDep) -> Response:
    """Return the metrics for Prometheus; docs/serving.md describes them."""
    readiness.update_index_metrics()
    return Response(cast(ServiceMetrics, request.app.state.metrics).render(), media_type=METRICS_MEDIA_TYPE)
