"""Pictures, ids or a vector in; similar images out. And what the model sees in a picture."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from simile.core.errors import SimileError
from simile.search.searcher import Answer, Question, Searcher
from simile.service import urls
from simile.service.dependencies import TheDesk, ThePool, TheSearcher, TheUpload, desk_of, searcher_of
from simile.service.errors import Problem, problem_of
from simile.service.middleware.headers import FILE_POLICY
from simile.service.openapi.install import answers, batch_body, errors, pictures, search_body, upload_body
from simile.service.requests.search import JSON, SearchRequest, read_batch, read_search
from simile.service.schemas.search import BatchOut, SearchOut
from simile.service.serializers.search import batch_json, search_json

router = APIRouter(prefix=urls.API, tags=["search"])

_MANY = 100  # hits; to write more takes longer than other answers should wait
_ERRORS = errors(400, 404, 408, 409, 413, 415, 422, 503)


@router.post("/search", response_class=Response, responses=answers(SearchOut) | _ERRORS, openapi_extra=search_body())
async def search(request: Request) -> Response:
    """Find the images most similar to a picture, an indexed image, a vector, or several pictures together.

    A form brings pictures in `file`; JSON has `image_id`, `vector`, or `positive` and `negative` ids. Several are asked
    for by the mean of their latents, less the mean of the negatives'. Indexed images that are asked with are left out.
    """
    # By hand, because this is the route that is under load: FastAPI takes 0.1 ms to find what a signature asks for.
    searcher, desk = await searcher_of(request), await desk_of(request)
    async with read_search(request) as wanted:
        heavy = "reconstruction" in wanted.include or wanted.body.limit > _MANY
        render = partial(search_json, searcher, include=wanted.include)
        data = await desk.ask(request, _question(searcher, wanted), render, heavy=heavy)
    return Response(data, media_type=JSON)


@router.post(
    "/search/batch",
    response_class=Response,
    responses=answers(BatchOut) | _ERRORS,
    openapi_extra=batch_body(),
)
async def search_batch(request: Request, searcher: TheSearcher, desk: TheDesk, pool: ThePool) -> Response:
    """Several searches at once, each for itself: every `file` of a form, or `searches` in JSON.

    The results stand in the order of the searches; one that can't be answered has a `problem` in its place.
    """
    async with read_batch(request) as wanted:
        found = await desk.ask_all(request, [partial(one.question, searcher) for one in wanted])
        includes = [one.include for one in wanted]
    data = await pool.run(lambda: batch_json(searcher, [_or_problem(answer) for answer in found], includes))
    return Response(data, media_type=JSON)


@router.post(
    "/reconstructions",
    response_class=Response,
    responses=pictures("image/png") | _ERRORS,
    openapi_extra=upload_body(),
)
async def reconstruct(upload: TheUpload, searcher: TheSearcher, pool: ThePool) -> Response:
    """What the model sees in a picture (multipart field `file`): its latent, decoded. Nothing of it is kept."""
    data, tag = await pool.run(lambda: searcher.reconstruct_picture(searcher.prepare(upload.read(), upload.name)))
    headers = {"ETag": f'"{tag}"', "Cache-Control": "no-store", "Content-Security-Policy": FILE_POLICY}
    return Response(data, headers=headers, media_type="image/png")


def _question(searcher: Searcher, wanted: SearchRequest) -> Question | Callable[[], Question]:
    """The question, or what makes it where pictures have to be decoded."""
    return partial(wanted.question, searcher) if wanted.decodes else wanted.question(searcher)


def _or_problem(answer: Answer | SimileError) -> Answer | Problem:
    return problem_of(answer) if isinstance(answer, SimileError) else answer
