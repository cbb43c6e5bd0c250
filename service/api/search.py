"""Search by images, ids or a vector, and reconstruct an image."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import TypeVar, cast

from fastapi import APIRouter
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from simile.core.errors import SimileError
from simile.search.queries import SearchQuery, SearchResult
from simile.search.searcher import Searcher
from simile.service import urls
from simile.service.dependencies import (
    BatcherDep,
    ComputePoolDep,
    EncodingPoolDep,
    SearchBatchDep,
    SearcherDep,
    UploadDep,
    get_searcher,
)
from simile.service.errors import make_problem, make_timeout_error
from simile.service.middleware.headers import FILE_POLICY
from simile.service.middleware.limits import Admission
from simile.service.openapi import install as docs
from simile.service.requests.search import JSON_MEDIA_TYPE, SearchInput, read_search
from simile.service.schemas.search import SearchBatchResponse, SearchResponse
from simile.service.schemas.serializers import dump_batch_items, dump_search_json, join_batch_json
from simile.service.security.prices import get_search_price
from simile.service.server.connections import make_disconnect_check
from simile.service.state.batcher import ComputePool, QuerySource, SearchBatcher, is_slow

router = APIRouter(prefix=urls.API, tags=["search"])
Rendered = TypeVar("Rendered")

MAX_PART_HITS, MAX_PART_SEARCHES = 1000, 32  # of a batch that are searched and serialised together
_SEARCH_ERRORS = docs.document_errors(400, 404, 408, 409, 413, 415, 422, 503)


@router.post(
    "/search",
    response_class=Response,
    responses=docs.document_json(SearchResponse) | _SEARCH_ERRORS,
    openapi_extra=docs.search_body(),
)
async def search(request: Request) -> Response:
    """Find the images most similar to an image, an indexed image, a vector, or several images together.

    A form has images in `file`; JSON has `image_id`, `vector`, or `positive` and `negative` ids. The query for several
    images is the mean of their latent vectors minus the mean of the negatives. Images of the query are not hits.
    """
    # Without FastAPI's dependencies, whose resolution costs time on the route with the highest load.
    searcher = await get_searcher(request)
    async with read_search(request) as search_input:
        return await run_search(request, searcher, search_input)


async def run_search(request: Request, searcher: Searcher, search_input: SearchInput) -> Response:
    """Run one search and return its response."""
    return Response(await render_search(request, searcher, search_input, dump_search_json), media_type=JSON_MEDIA_TYPE)


async def render_search(
    request: Request,
    searcher: Searcher,
    search_input: SearchInput,
    render_result: Callable[[Searcher, SearchResult, Collection[str]], Rendered],
) -> Rendered:
    """Run one search and return the rendered result.

    Reconstructions and verifications are made in separate threads, so that others do not wait.

    Args:
        render_result: Called with the searcher, the result and the parts to include.
    """
    state, includes = request.app.state, search_input.body.get_includes()
    make_query, options = partial(search_input.make_query, searcher), search_input.body
    query: QuerySource = make_query if search_input.needs_decoding else make_query()
    price = get_search_price(is_slow=isinstance(query, SearchQuery) and is_slow(query), is_verified=options.verify)

    def render(result: SearchResult) -> Rendered:
        return render_result(searcher, result, includes)

    with cast(Admission, state.admission).hold(request.scope, price):
        if options.verify:
            pool = cast(ComputePool, state.compute_pool)
            return await pool.run(lambda: render(searcher.search(query if isinstance(query, SearchQuery) else query())))
        batcher = cast(SearchBatcher, state.batcher)
        return await batcher.search(request, query, render, heavy="reconstruction" in includes)


@router.post(
    "/search/batch",
    response_class=Response,
    responses=docs.document_json(SearchBatchResponse) | _SEARCH_ERRORS,
    openapi_extra=docs.search_batch_body(),
)
async def search_batch(
    request: Request, searcher: SearcherDep, batcher: BatcherDep, pool: ComputePoolDep, search_inputs: SearchBatchDep
) -> Response:
    """Run several independent searches: one for each `file` of a form, or `searches` in JSON.

    The results are in the order of the searches; a search that failed has a `problem` instead. Hits are not verified.
    """
    deadline = time.monotonic() + batcher.timeout_seconds
    has_client_left = make_disconnect_check(request.scope)
    dumped: list[bytes] = []
    async with AsyncExitStack() as stack:
        for number, part in enumerate(split_batch(search_inputs)):
            if number == 1:  # the batch is large
                await stack.enter_async_context(batcher.hold_large_batch(deadline))
            if has_client_left():
                raise ClientDisconnect
            if time.monotonic() > deadline:
                raise make_timeout_error(batcher.timeout_seconds)
            results = await batcher.search_many(request, [partial(item.make_query, searcher) for item in part])
            items = [make_problem(result) if isinstance(result, SimileError) else result for result in results]
            includes = [search_input.body.get_includes() for search_input in part]
            dumped += await pool.run(partial(dump_batch_items, searcher, items, includes))
        return Response(await pool.run(lambda: join_batch_json(dumped)), media_type=JSON_MEDIA_TYPE)


def split_batch(search_inputs: Sequence[SearchInput]) -> Iterator[list[SearchInput]]:
    """Yield the searches of a batch in parts with few hits: other searches run between them, and memory is bounded."""
    part: list[SearchInput] = []
    hit_count = 0
    for search_input in search_inputs:
        if part and (hit_count + search_input.body.limit > MAX_PART_HITS or len(part) == MAX_PART_SEARCHES):
            yield part
            part, hit_count = [], 0
        part.append(search_input)
        hit_count += search_input.body.limit
    yield part


@router.post(
    "/reconstructions",
    response_class=Response,
    responses=docs.document_image("image/png") | _SEARCH_ERRORS,
    openapi_extra=docs.upload_body(),
)
async def reconstruct(upload: UploadDep, searcher: SearcherDep, pool: EncodingPoolDep) -> Response:
    """Encode an image (multipart field `file`) and return its reconstruction. The image is not stored."""
    data, tag = await pool.run(
        lambda: searcher.reconstruct_query_image(searcher.prepare_query_image(upload.read(), upload.name))
    )
    headers = {"ETag": f'"{tag}"', "Cache-Control": "no-store", "Content-Security-Policy": FILE_POLICY}
    return Response(data, headers=headers, media_type="image/png")
