"""Pictures, ids or a vector in; similar images out. And what the model sees in a picture."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from simile.core.errors import SimileError
from simile.search.searcher import Searcher, SearchQuery, SearchResult
from simile.service import urls
from simile.service.dependencies import BatcherDep, EncodingPoolDep, SearcherDep, UploadDep, get_batcher, get_searcher
from simile.service.errors import ProblemDetails, make_problem
from simile.service.middleware.headers import FILE_POLICY
from simile.service.openapi.install import (
    document_errors,
    document_image,
    document_json,
    search_batch_body,
    search_body,
    upload_body,
)
from simile.service.requests.search import JSON_MEDIA_TYPE, SearchInput, read_search, read_search_batch
from simile.service.schemas.search import SearchBatchResponse, SearchResponse
from simile.service.serializers.search import dump_batch_json, dump_search_json

router = APIRouter(prefix=urls.API, tags=["search"])

_HEAVY_HITS = 100  # hits; to write more takes longer than other answers should wait
_SEARCH_ERRORS = document_errors(400, 404, 408, 409, 413, 415, 422, 503)


@router.post(
    "/search",
    response_class=Response,
    responses=document_json(SearchResponse) | _SEARCH_ERRORS,
    openapi_extra=search_body(),
)
async def search(request: Request) -> Response:
    """Find the images most similar to a picture, an indexed image, a vector, or several pictures together.

    A form brings pictures in `file`; JSON has `image_id`, `vector`, or `positive` and `negative` ids. Several are asked
    for by the mean of their latents, less the mean of the negatives'. Indexed images that are asked with are left out.
    """
    # By hand, because this is the route that is under load: FastAPI takes 0.1 ms to find what a signature asks for.
    searcher, desk = await get_searcher(request), await get_batcher(request)
    async with read_search(request) as wanted:
        heavy = "reconstruction" in wanted.include or wanted.body.limit > _HEAVY_HITS
        render = partial(dump_search_json, searcher, include=wanted.include)
        data = await desk.search(request, _make_query(searcher, wanted), render, heavy=heavy)
    return Response(data, media_type=JSON_MEDIA_TYPE)


@router.post(
    "/search/batch",
    response_class=Response,
    responses=document_json(SearchBatchResponse) | _SEARCH_ERRORS,
    openapi_extra=search_batch_body(),
)
async def search_batch(request: Request, searcher: SearcherDep, batcher: BatcherDep, pool: EncodingPoolDep) -> Response:
    """Several searches at once, each for itself: every `file` of a form, or `searches` in JSON.

    The results stand in the order of the searches; one that can't be answered has a `problem` in its place.
    """
    async with read_search_batch(request) as wanted:
        found = await batcher.search_many(request, [partial(one.make_query, searcher) for one in wanted])
        includes = [one.include for one in wanted]
    data = await pool.run(lambda: dump_batch_json(searcher, [_convert_error(answer) for answer in found], includes))
    return Response(data, media_type=JSON_MEDIA_TYPE)


@router.post(
    "/reconstructions",
    response_class=Response,
    responses=document_image("image/png") | _SEARCH_ERRORS,
    openapi_extra=upload_body(),
)
async def reconstruct(upload: UploadDep, searcher: SearcherDep, pool: EncodingPoolDep) -> Response:
    """What the model sees in a picture (multipart field `file`): its latent, decoded. Nothing of it is kept."""
    data, tag = await pool.run(
        lambda: searcher.reconstruct_query_image(searcher.prepare_query_image(upload.read(), upload.name))
    )
    headers = {"ETag": f'"{tag}"', "Cache-Control": "no-store", "Content-Security-Policy": FILE_POLICY}
    return Response(data, headers=headers, media_type="image/png")


def _make_query(searcher: Searcher, search_input: SearchInput) -> SearchQuery | Callable[[], SearchQuery]:
    """The question, or what makes it where pictures have to be decoded."""
    return (
        partial(search_input.make_query, searcher) if search_input.needs_decoding else search_input.make_query(searcher)
    )


def _convert_error(result: SearchResult | SimileError) -> SearchResult | ProblemDetails:
    return make_problem(result) if isinstance(result, SimileError) else result
