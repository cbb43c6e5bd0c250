"""Search by images, ids or a vector, and reconstruct an image."""

from __future__ import annotations

from functools import partial
from typing import cast

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from simile.core.errors import SimileError
from simile.search.searcher import Searcher
from simile.service import urls
from simile.service.dependencies import (
    BatcherDep,
    EncodingPoolDep,
    SearchBatchDep,
    SearcherDep,
    UploadDep,
    get_searcher,
)
from simile.service.errors import make_problem
from simile.service.middleware.headers import FILE_POLICY
from simile.service.openapi import install as docs
from simile.service.requests.search import JSON_MEDIA_TYPE, read_search
from simile.service.schemas.search import SearchBatchResponse, SearchOptions, SearchResponse
from simile.service.schemas.serializers import dump_batch_json, dump_search_json
from simile.service.state.batcher import QuerySource, SearchBatcher

router = APIRouter(prefix=urls.API, tags=["search"])

HEAVY_HITS = 100  # that a response has at most if the thread of the searches renders it
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
    searcher, batcher = await get_searcher(request), cast(SearchBatcher, request.app.state.batcher)
    async with read_search(request) as search_input:
        query = partial(search_input.make_query, searcher)
        source = query if search_input.needs_decoding else query()
        return await run_search(request, searcher, batcher, source, search_input.body)


async def run_search(
    request: Request, searcher: Searcher, batcher: SearchBatcher, query: QuerySource, options: SearchOptions
) -> Response:
    """Run one search; reconstructions and many hits are rendered in a separate thread, so that others do not wait."""
    include = options.get_includes()
    heavy = "reconstruction" in include or options.limit > HEAVY_HITS
    render = partial(dump_search_json, searcher, include=include)
    return Response(await batcher.search(request, query, render, heavy=heavy), media_type=JSON_MEDIA_TYPE)


@router.post(
    "/search/batch",
    response_class=Response,
    responses=docs.document_json(SearchBatchResponse) | _SEARCH_ERRORS,
    openapi_extra=docs.search_batch_body(),
)
async def search_batch(
    request: Request, searcher: SearcherDep, batcher: BatcherDep, pool: EncodingPoolDep, search_inputs: SearchBatchDep
) -> Response:
    """Run several independent searches: one for each `file` of a form, or `searches` in JSON.

    The results are in the order of the searches; a search that failed has a `problem` instead.
    """
    queries = [partial(search_input.make_query, searcher) for search_input in search_inputs]
    results = await batcher.search_many(request, queries)
    results_or_problems = [make_problem(result) if isinstance(result, SimileError) else result for result in results]
    includes = [search_input.body.get_includes() for search_input in search_inputs]
    data = await pool.run(lambda: dump_batch_json(searcher, results_or_problems, includes))
    return Response(data, media_type=JSON_MEDIA_TYPE)


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
