"""What handlers ask for, named so that their signatures read like sentences."""

from __future__ import annotations

from typing import Annotated, cast

from fastapi import Depends, Path, Query
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from simile.search.searcher import Searcher
from simile.service.requests.search import Addition, Upload, read_addition, read_upload
from simile.service.schemas.search import MAX_ID, MAX_LIMIT
from simile.service.state.batcher import Desk
from simile.service.state.encoding_pool import EncodingPool
from simile.service.state.job_events import JobEvents
from simile.service.state.job_manager import Jobs
from simile.service.state.latent_cache import Latents
from simile.service.state.map_cache import Maps
from simile.service.state.readiness import Facts
from simile.service.state.review_cache import Reviews
from simile.service.state.searcher_provider import Door


async def searcher_of(request: Request) -> Searcher:
    """The Searcher of the app that got this request."""
    door = cast(Door, request.app.state.door)
    if door.searcher is None:
        return await run_in_threadpool(door.open)
    return door.searcher


async def _pool(request: Request) -> EncodingPool:
    return cast(EncodingPool, request.app.state.pool)


async def desk_of(request: Request) -> Desk:
    """Where the app that got this request answers questions."""
    return cast(Desk, request.app.state.desk)


async def _facts(request: Request) -> Facts:
    return cast(Facts, request.app.state.facts)


async def _reviews(request: Request) -> Reviews:
    return cast(Reviews, request.app.state.reviews)


async def _jobs(request: Request) -> Jobs:
    return cast(Jobs, request.app.state.jobs)


async def _maps(request: Request) -> Maps:
    return cast(Maps, request.app.state.maps)


async def _job_events(request: Request) -> JobEvents:
    return cast(JobEvents, request.app.state.job_events)


async def _latents(request: Request) -> Latents:
    return cast(Latents, request.app.state.latents)


TheSearcher = Annotated[Searcher, Depends(searcher_of)]
ThePool = Annotated[EncodingPool, Depends(_pool)]
TheDesk = Annotated[Desk, Depends(desk_of)]
TheFacts = Annotated[Facts, Depends(_facts)]
TheReviews = Annotated[Reviews, Depends(_reviews)]
TheJobs = Annotated[Jobs, Depends(_jobs)]
TheMaps = Annotated[Maps, Depends(_maps)]
TheLatents = Annotated[Latents, Depends(_latents)]
TheJobEvents = Annotated[JobEvents, Depends(_job_events)]
JobId = Annotated[int, Path(ge=1, le=MAX_ID, description="The id of an indexing job.")]
ImageId = Annotated[int, Path(ge=1, le=MAX_ID, description="The id of an indexed image.")]
Limit = Annotated[int, Query(ge=1, le=MAX_LIMIT, description="How many to answer with.")]
Offset = Annotated[int, Query(ge=0, le=MAX_ID, description="How many to leave out first.")]
TheUpload = Annotated[Upload, Depends(read_upload)]
TheAddition = Annotated[Addition, Depends(read_addition)]
