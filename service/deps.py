"""What handlers ask for, named so that their signatures read like sentences."""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import Annotated, cast

from fastapi import Depends, Path, Query
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request

from core.errors import SimileError
from core.settings import Settings
from search.searcher import Searcher
from service.bodies import SearchRequest, Upload, read_search, read_upload
from service.limits import EncodingPool
from service.reviews import Reviews
from service.schemas import MAX_ID, MAX_LIMIT


class Door:
    """The one Searcher of the process, opened by the first request that finds a home to search.

    So a service may start before the first `simile index`: until then its answers say what is missing.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.searcher: Searcher | None = None
        self._opening = threading.Lock()

    def open(self) -> Searcher:
        """The Searcher. Raises NothingIndexed where there is no catalogue yet, HomeOutdated, HomeTooNew."""
        with self._opening:
            self.searcher = self.searcher or Searcher(self.settings)
            return self.searcher

    def prepare(self) -> None:
        """Loads the encoder and its fast runtime. Where something is missing, the first request will say what."""
        with suppress(SimileError):
            self.open().encoder().prepare()

    def close(self) -> None:
        """Closes it, if it was ever opened."""
        if self.searcher is not None:
            self.searcher.close()


async def searcher_of(request: Request) -> Searcher:
    """The Searcher of the app that got this request."""
    door = cast(Door, request.app.state.door)
    if door.searcher is None:
        return await run_in_threadpool(door.open)
    return door.searcher


async def refuse_cross_site(request: Request) -> None:
    """Nothing is added or deleted because somebody visits another site: browsers say where a request comes from."""
    if request.method not in ("GET", "HEAD") and request.headers.get("sec-fetch-site") == "cross-site":
        raise HTTPException(403, "The page of another site sent this. Only this service's own page may.")


def _pool(request: Request) -> EncodingPool:
    return cast(EncodingPool, request.app.state.pool)


def _reviews(request: Request) -> Reviews:
    return cast(Reviews, request.app.state.reviews)


TheSearcher = Annotated[Searcher, Depends(searcher_of)]
ThePool = Annotated[EncodingPool, Depends(_pool)]
TheReviews = Annotated[Reviews, Depends(_reviews)]
ImageId = Annotated[int, Path(ge=1, le=MAX_ID, description="The id of an indexed image.")]
Limit = Annotated[int, Query(ge=1, le=MAX_LIMIT, description="How many to answer with.")]
Offset = Annotated[int, Query(ge=0, le=MAX_ID, description="How many to leave out first.")]
TheUpload = Annotated[Upload, Depends(read_upload)]
TheSearch = Annotated[SearchRequest, Depends(read_search)]
