"""The figures, for Prometheus."""

from __future__ import annotations

from typing import cast

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from service.deps import TheFacts
from service.metrics import MEDIA_TYPE, Metrics

router = APIRouter(include_in_schema=False)  # its format is Prometheus's own, which OpenAPI can't describe


@router.get("/metrics")
def metrics(request: Request, facts: TheFacts) -> Response:
    """Histograms of the stages, counts of requests, and facts of the index; docs/serving.md says what each means."""
    facts.note()
    return Response(cast(Metrics, request.app.state.metrics).text(), media_type=MEDIA_TYPE)
