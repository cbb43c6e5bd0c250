"""Places in the latent space: put together, walked between and along, sampled; and how sure the encoder is of one."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from fastapi import APIRouter
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from explore.morphing import draw_morph, morph
from explore.traversal import traverse
from explore.uncertainty import uncertainty, uncertainty_of
from service import urls
from service.bodies import JSON, MULTIPART, form_of, media_type, read_json, upload_in
from service.deps import Limit, Offset, TheLatents, ThePool, TheSearcher
from service.latent_answers import (
    made_place,
    morph_out,
    outliers_out,
    place_of,
    samples_out,
    traversal_out,
    uncertainty_out,
)
from service.latent_schemas import (
    LatentIn,
    LatentOut,
    MorphIn,
    MorphOut,
    OutliersOut,
    SamplesIn,
    SamplesOut,
    TraversalIn,
    TraversalOut,
    UncertaintyIn,
    UncertaintyOut,
)
from service.limits import EncodingPool
from service.openapi import Responses, answers, errors, json_body, picture_or_json_body

router = APIRouter(prefix=urls.API, tags=["latent space"])

T = TypeVar("T")
_NEAREST = 10  # of an upload
_ERRORS = errors(400, 404, 408, 409, 413, 415, 422, 503)
_DRAWN = {"image/gif": "gif", "image/webp": "webp", "image/png": "png"}
_MORPH: Responses = {
    200: {
        "model": MorphOut,
        "description": "The frames. Asked for as `image/gif` or `image/webp`: a loop; as `image/png`: a strip, the "
        "nearest real picture below each frame.",
        "content": {kind: {"schema": {"type": "string", "format": "binary"}} for kind in _DRAWN},
    }
}


@router.post(
    "/latents",
    response_class=Response,
    responses=answers(LatentOut) | _ERRORS,
    openapi_extra=picture_or_json_body(LatentIn),
)
async def latents(request: Request, searcher: TheSearcher, kept: TheLatents, pool: ThePool) -> Response:
    """Where a picture lies (multipart field `file`), or a place that is put together from several; and what is there.

    Parts are mixed by their weights, pushed along attributes, moved along dimensions, decoded, and looked around from.
    """
    if media_type(request) == MULTIPART:
        async with form_of(request) as form:
            upload = upload_in(form)
            return await _rendered(
                pool, lambda: place_of(searcher, searcher.prepare(upload.read(), upload.name), _NEAREST)
            )
    wanted = await read_json(request, LatentIn)
    return await _rendered(pool, lambda: made_place(searcher, kept, wanted))


@router.post("/morphs", response_class=Response, responses=_MORPH | _ERRORS, openapi_extra=json_body(MorphIn))
async def morphs(request: Request, searcher: TheSearcher, pool: ThePool) -> Response:
    """The way from place to place, decoded step by step. The frames at the parts are reconstructions."""
    wanted = await read_json(request, MorphIn)
    make = partial(morph, searcher, [one.part() for one in wanted.parts], wanted.steps, wanted.how)
    kind = next((kind for kind in _DRAWN if kind in request.headers.get("accept", "")), None)
    if kind is not None:
        data = await pool.run(lambda: draw_morph(searcher, make(), _DRAWN[kind]))
        return Response(data, media_type=kind)
    return await _rendered(pool, lambda: morph_out(make()))


@router.post(
    "/samples", response_class=Response, responses=answers(SamplesOut) | _ERRORS, openapi_extra=json_body(SamplesIn)
)
async def samples(request: Request, searcher: TheSearcher, kept: TheLatents, pool: ThePool) -> Response:
    """Pictures that were never taken: from the prior, from Gaussians fitted to the collection, or around an image."""
    wanted = await read_json(request, SamplesIn)
    return await _rendered(pool, lambda: samples_out(searcher, kept, wanted))


@router.post(
    "/traversals",
    response_class=Response,
    responses=answers(TraversalOut) | _ERRORS,
    openapi_extra=json_body(TraversalIn),
)
async def traversals(request: Request, searcher: TheSearcher, kept: TheLatents, pool: ThePool) -> Response:
    """What single dimensions stand for: one at a time from low to high, all others as they are."""
    wanted = await read_json(request, TraversalIn)

    def walk() -> TraversalOut:
        reach = kept.reach(searcher)
        start = None if wanted.start is None else wanted.start.part()
        how: dict[str, Any] = {"span": wanted.span, "steps": wanted.steps, "nearest": wanted.nearest}
        made = traverse(searcher, start, dims=wanted.text(), reach=reach, **how)
        return traversal_out(made, reach.deviation)

    return await _rendered(pool, walk)


@router.post(
    "/uncertainty",
    response_class=Response,
    responses=answers(UncertaintyOut) | _ERRORS,
    openapi_extra=picture_or_json_body(UncertaintyIn),
)
async def how_sure(request: Request, searcher: TheSearcher, pool: ThePool) -> Response:
    """How sure the encoder is of a picture (multipart field `file`) or an indexed image: not a bare place."""
    if media_type(request) == MULTIPART:
        async with form_of(request) as form:
            upload = upload_in(form)
            return await _rendered(
                pool,
                lambda: uncertainty_out(uncertainty_of(searcher, searcher.prepare(upload.read(), upload.name))),
            )
    wanted = await read_json(request, UncertaintyIn)
    return await _rendered(
        pool,
        lambda: uncertainty_out(uncertainty(searcher, wanted.image_id, samples=wanted.samples, seed=wanted.seed)),
    )


@router.get("/outliers", responses=errors(404, 409, 422, 503))
def outliers(searcher: TheSearcher, kept: TheLatents, limit: Limit = 50, offset: Offset = 0) -> OutliersOut:
    """The pictures least like the rest, at most 1,000, each with the reason.

    Measured at the first such question: until then 503 `being-computed`.
    """
    return outliers_out(searcher, kept.outliers(searcher), limit, offset)


async def _rendered(pool: EncodingPool, work: Callable[[], BaseModel]) -> Response:
    """The answer as JSON, written in the thread that did the work."""
    return Response(await pool.run(lambda: work().model_dump_json().encode()), media_type=JSON)
