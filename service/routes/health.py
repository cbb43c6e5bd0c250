"""Is the process alive, and can it answer searches."""

from __future__ import annotations

from fastapi import APIRouter

from service.deps import TheFacts
from service.facts import NotReady
from service.openapi import errors
from service.problems import Refusal
from service.schemas import Liveness, Readiness

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
