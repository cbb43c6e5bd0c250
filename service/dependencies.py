"""FastAPI dependencies and parameters of the handlers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, Any, cast

from fastapi import Depends, Path, Query
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from simile.search.searcher import Searcher
from simile.service.requests.search import (
    SearchInput,
    Upload,
    read_image_upload,
    read_search_batch,
    read_upload,
)
from simile.service.schemas.search import MAX_ID, MAX_LIMIT
from simile.service.state.batcher import ComputePool, EncodingPool, SearchBatcher
from simile.service.state.job_manager import JobEventBroker, JobManager
from simile.service.state.latent_cache import LatentCache
from simile.service.state.map_cache import MapCache
from simile.service.state.readiness import Readiness, SearcherProvider
from simile.service.state.review_cache import ReviewCache


async def get_searcher(request: Request) -> Searcher:
    """Return the Searcher of the app; a thread opens it on first use."""
    provider = cast(SearcherProvider, request.app.state.searcher_provider)
    return await run_in_threadpool(provider.get_searcher) if provider.searcher is None else provider.searcher


def _from_state(name: str) -> Callable[[Request], Awaitable[Any]]:
    """Return a dependency: this attribute of the app's state."""

    async def get(request: Request) -> Any:
        return getattr(request.app.state, name)

    return get


SearcherDep = Annotated[Searcher, Depends(get_searcher)]
EncodingPoolDep = Annotated[EncodingPool, Depends(_from_state("pool"))]
ComputePoolDep = Annotated[ComputePool, Depends(_from_state("compute_pool"))]
BatcherDep = Annotated[SearchBatcher, Depends(_from_state("batcher"))]
ReadinessDep = Annotated[Readiness, Depends(_from_state("readiness"))]
ReviewCacheDep = Annotated[ReviewCache, Depends(_from_state("review_cache"))]
JobManagerDep = Annotated[JobManager, Depends(_from_state("job_manager"))]
JobEventsDep = Annotated[JobEventBroker, Depends(_from_state("event_broker"))]
MapCacheDep = Annotated[MapCache, Depends(_from_state("map_cache"))]
LatentCacheDep = Annotated[LatentCache, Depends(_from_state("latent_cache"))]
UploadDep = Annotated[Upload, Depends(read_upload)]
ImageUploadDep = Annotated[Upload, Depends(read_image_upload)]
SearchBatchDep = Annotated[list[SearchInput], Depends(read_search_batch)]
JobIdParam = Annotated[int, Path(ge=1, le=MAX_ID, description="The id of an indexing job.")]
ImageIdParam = Annotated[int, Path(ge=1, le=MAX_ID, description="The id of an indexed image.")]
LimitParam = Annotated[int, Query(ge=1, le=MAX_LIMIT, description="Maximum number of results.")]
OffsetParam = Annotated[int, Query(ge=0, le=MAX_ID, description="Number of results to skip.")]
