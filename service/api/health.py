"""Is the process alive, and can it answer searches."""

from __future__ import annotations

from typing import cast

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from simile.service.dependencies import TheFacts
from simile.service.errors import Refusal
from simile.service.observability.metrics import MEDIA_TYPE, Metrics
from simile.service.openapi.install import errors
from simile.service.schemas.search import Liveness, Readiness
from simile.service.state.readiness import NotReady

router = APIRouter(tags=["health"])


@router.get("/livez")
async def livez() -> Liveness:
    """The process answers. Says nothing of the home: a restart would not mend that."""
    return Liveness()


@router.get("/readyz", responses=errors(503))
def readyz(facts: TheFacts) -> Readiness:
    """A search sent now would be answered; 503 with every reason why not.

    The encoder is loaded, the index is open, the catalogue can be read, there is room for another picture, and nobody
    has told the process to stop.
    """
    try:
        found = facts.ready()
    except NotReady as error:
        raise Refusal(503, "not-ready", str(error), retry_after=1) from error
    return Readiness(encoder=found["encoder"], images=found["images"])


router = APIRouter(include_in_schema=False)  # its format is Prometheus's own, which OpenAPI can't describe


@router.get("/metrics")
def metrics(request: Request, facts: TheFacts) -> Response:
    """Histograms of the stages, counts of requests, and facts of the index; docs/serving.md says what each means."""
    facts.note()
    return Response(cast(Metrics, request.app.state.metrics).text(), media_type=MEDIA_TYPE)
