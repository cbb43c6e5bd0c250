"""What handlers ask for, named so that their signatures read like sentences."""

from __future__ import annotations

from typing import Annotated, cast

from fastapi import Depends, Path, Query
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from simile.search.searcher import Searcher
from simile.service.requests.search import ImageUpload, Upload, read_image_upload, read_upload
from simile.service.schemas.search import MAX_ID, MAX_LIMIT
from simile.service.state.batcher import SearchBatcher
from simile.service.state.encoding_pool import EncodingPool
from simile.service.state.job_events import JobEventBroker
from simile.service.state.job_manager import JobManager
from simile.service.state.latent_cache import LatentCache
from simile.service.state.map_cache import MapCache
from simile.service.state.readiness import Readiness
from simile.service.state.review_cache import ReviewCache
from simile.service.state.searcher_provider import SearcherProvider


async def get_searcher(request: Request) -> Searcher:
    """The Searcher of the app that got this request."""
    door = cast(SearcherProvider, request.app.state.searcher_provider)
    if door.searcher is None:
        return await run_in_threadpool(door.get_searcher)
    return door.searcher


async def _get_encoding_pool(request: Request) -> EncodingPool:
    return cast(EncodingPool, request.app.state.pool)


async def get_batcher(request: Request) -> SearchBatcher:
    """Where the app that got this request answers questions."""
    return cast(SearchBatcher, request.app.state.batcher)


async def _get_readiness(request: Request) -> Readiness:
    return cast(Readiness, request.app.state.readiness)


async def _get_review_cache(request: Request) -> ReviewCache:
    return cast(ReviewCache, request.app.state.review_cache)


async def _get_job_manager(request: Request) -> JobManager:
    return cast(JobManager, request.app.state.job_manager)


async def _get_map_cache(request: Request) -> MapCache:
    return cast(MapCache, request.app.state.map_cache)


async def _get_job_events(request: Request) -> JobEventBroker:
    return cast(JobEventBroker, request.app.state.event_broker)


async def _get_latent_cache(request: Request) -> LatentCache:
    return cast(LatentCache, request.app.state.latent_cache)


SearcherDep = Annotated[Searcher, Depends(get_searcher)]
EncodingPoolDep = Annotated[EncodingPool, Depends(_get_encoding_pool)]
BatcherDep = Annotated[SearchBatcher, Depends(get_batcher)]
ReadinessDep = Annotated[Readiness, Depends(_get_readiness)]
ReviewCacheDep = Annotated[ReviewCache, Depends(_get_review_cache)]
JobManagerDep = Annotated[JobManager, Depends(_get_job_manager)]
MapCacheDep = Annotated[MapCache, Depends(_get_map_cache)]
LatentCacheDep = Annotated[LatentCache, Depends(_get_latent_cache)]
JobEventsDep = Annotated[JobEventBroker, Depends(_get_job_events)]
JobIdParam = Annotated[int, Path(ge=1, le=MAX_ID, description="The id of an indexing job.")]
ImageIdParam = Annotated[int, Path(ge=1, le=MAX_ID, description="The id of an indexed image.")]
LimitParam = Annotated[int, Query(ge=1, le=MAX_LIMIT, description="How many to answer with.")]
OffsetParam = Annotated[int, Query(ge=0, le=MAX_ID, description="How many to leave out first.")]
UploadDep = Annotated[Upload, Depends(read_upload)]
ImageUploadDep = Annotated[ImageUpload, Depends(read_image_upload)]
