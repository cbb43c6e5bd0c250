"""Is the process alive, and can it answer searches."""

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


@router.get("/livez")
async def livez() -> LivenessResponse:
    """The process answers. Says nothing of the home: a restart would not mend that."""
    return LivenessResponse()


@router.get("/readyz", responses=document_errors(503))
def readyz(readiness: ReadinessDep) -> ReadinessResponse:
    """A search sent now would be answered; 503 with every reason why not.

    The encoder is loaded, the index is open, the catalogue can be read, there is room for another picture, and nobody
    has told the process to stop.
    """
    try:
        found = readiness.check()
    except NotReady as error:
        raise ProblemException(503, "not-ready", str(error), retry_after=1) from error
    return ReadinessResponse(encoder=found["encoder"], images=found["images"])


metrics_router = APIRouter(include_in_schema=False)  # its format is Prometheus's own, which OpenAPI can't describe


@metrics_router.get("/metrics")
def metrics(request: Request, readiness: ReadinessDep) -> Response:
    """Histograms of the stages, counts of requests, and facts of the index; docs/serving.md says what each means."""
    readiness.update_index_metrics()
    return Response(cast(ServiceMetrics, request.app.state.metrics).render(), media_type=METRICS_MEDIA_TYPE)
