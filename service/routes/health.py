"""Is the process alive, and can it answer searches."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request

from core.errors import SimileError
from service.deps import searcher_of
from service.openapi import errors
from service.schemas import Liveness, Readiness

router = APIRouter(tags=["health"])


@router.get("/livez")
async def livez() -> Liveness:
    """The process answers. Says nothing of the home: a restart would not mend that."""
    return Liveness()


@router.get("/readyz", responses=errors(503))
async def readyz(request: Request) -> Readiness:
    """Searches can be answered; 503 with the reason when they can't, whatever the reason."""
    try:
        searcher = await searcher_of(request)
        found = await run_in_threadpool(searcher.ready)
    except SimileError as error:
        raise HTTPException(503, str(error)) from error
    return Readiness(encoder=found["encoder"], images=found["images"])
