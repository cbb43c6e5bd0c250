"""Places in the latent space: put together, walked between and along, sampled; and how sure the encoder is of one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from fastapi import APIRouter
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from simile.explore.latent.interpolation import Morph, draw_morph, morph
from simile.explore.latent.traversal import traverse
from simile.explore.latent.uncertainty import uncertainty, uncertainty_of
from simile.service import urls
from simile.service.dependencies import Limit, Offset, TheLatents, ThePool, TheSearcher
from simile.service.openapi.install import Responses, answers, errors, picture_or_json_body
from simile.service.requests.latents import Wanted, read_wanted
from simile.service.requests.search import JSON, refused
from simile.service.schemas.latents import (
    MOST_PARTS,
    Draws,
    LatentForm,
    LatentIn,
    LatentOut,
    MorphForm,
    MorphIn,
    MorphOut,
    OutliersOut,
    SamplesIn,
    SamplesOut,
    Sampling,
    TraversalIn,
    TraversalOut,
    UncertaintyIn,
    UncertaintyOut,
    Walk,
)
from simile.service.serializers.latents import (
    made_place,
    morph_out,
    outliers_out,
    samples_out,
    traversal_out,
    uncertainty_out,
)
from simile.service.state.encoding_pool import EncodingPool

router = APIRouter(prefix=urls.API, tags=["latent space"])

T = TypeVar("T")
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
    openapi_extra=picture_or_json_body(LatentIn, LatentForm, MOST_PARTS),
)
async def latents(request: Request, searcher: TheSearcher, kept: TheLatents, pool: ThePool) -> Response:
    """Where a picture lies (multipart field `file`), or a place that is put together from several; and what is there.

    Parts are mixed by their weights, pushed along attributes, moved along dimensions, decoded, and looked around from.
    Files of a form come before its `parts`.
    """
    async with read_wanted(request, LatentIn, LatentForm, MOST_PARTS) as wanted:
        said = wanted.said
        _check_count(wanted, len(said.parts))
        weights = said.weights if isinstance(said, LatentForm) else []
        if weights and len(weights) != len(wanted.uploads):
            raise refused("weights", f"give one for each file: {len(wanted.uploads)}")

        def place() -> LatentOut:
            pictures = zip(wanted.pictures(searcher), weights or [1.0] * len(wanted.uploads), strict=True)
            return made_place(searcher, kept, said, list(pictures))

        return await _rendered(pool, place)


@router.post(
    "/morphs",
    response_class=Response,
    responses=_MORPH | _ERRORS,
    openapi_extra=picture_or_json_body(MorphIn, MorphForm, MOST_PARTS),
)
async def morphs(request: Request, searcher: TheSearcher, pool: ThePool) -> Response:
    """The way from place to place, decoded step by step. The frames at the parts are reconstructions.

    Files of a form come before its `parts`.
    """
    async with read_wanted(request, MorphIn, MorphForm, MOST_PARTS) as wanted:
        said = wanted.said
        _check_count(wanted, len(said.parts))

        def make() -> Morph:
            parts = [*wanted.pictures(searcher), *(one.part() for one in said.parts)]
            return morph(searcher, parts, said.steps, said.how)

        kind = next((kind for kind in _DRAWN if kind in request.headers.get("accept", "")), None)
        if kind is not None:
            data = await pool.run(lambda: draw_morph(searcher, make(), _DRAWN[kind]))
            return Response(data, media_type=kind)
        return await _rendered(pool, lambda: morph_out(make()))


@router.post(
    "/samples",
    response_class=Response,
    responses=answers(SamplesOut) | _ERRORS,
    openapi_extra=picture_or_json_body(SamplesIn, Draws),
)
async def samples(request: Request, searcher: TheSearcher, kept: TheLatents, pool: ThePool) -> Response:
    """Pictures that were never taken: from the prior, from Gaussians fitted to the collection, or around a picture.

    Around an indexed image by `source` and `image_id`, around another in the multipart field `file`.
    """
    async with read_wanted(request, SamplesIn, Draws) as wanted:
        return await _rendered(pool, lambda: samples_out(searcher, kept, wanted.said, *wanted.pictures(searcher)))


@router.post(
    "/traversals",
    response_class=Response,
    responses=answers(TraversalOut) | _ERRORS,
    openapi_extra=picture_or_json_body(TraversalIn, Walk),
)
async def traversals(request: Request, searcher: TheSearcher, kept: TheLatents, pool: ThePool) -> Response:
    """What single dimensions stand for: one at a time from low to high, all others as they are.

    From the picture in the multipart field `file`, or as JSON from `start`; without it from the collection's mean.
    """
    async with read_wanted(request, TraversalIn, Walk) as wanted:
        said = wanted.said

        def walk() -> TraversalOut:
            reach = kept.reach(searcher)
            start = said.start.part() if isinstance(said, TraversalIn) and said.start is not None else None
            for picture in wanted.pictures(searcher):
                start = picture
            how: dict[str, Any] = {"span": said.span, "steps": said.steps, "nearest": said.nearest}
            return traversal_out(traverse(searcher, start, dims=said.text(), reach=reach, **how), reach.deviation)

        return await _rendered(pool, walk)


@router.post(
    "/uncertainty",
    response_class=Response,
    responses=answers(UncertaintyOut) | _ERRORS,
    openapi_extra=picture_or_json_body(UncertaintyIn, Sampling),
)
async def how_sure(request: Request, searcher: TheSearcher, pool: ThePool) -> Response:
    """How sure the encoder is of a picture (multipart field `file`) or an indexed image: not a bare place."""
    async with read_wanted(request, UncertaintyIn, Sampling) as wanted:
        said = wanted.said

        def look() -> UncertaintyOut:
            if isinstance(said, UncertaintyIn):
                return uncertainty_out(uncertainty(searcher, said.image_id, samples=said.samples, seed=said.seed))
            (picture,) = wanted.pictures(searcher)
            return uncertainty_out(uncertainty_of(searcher, picture, samples=said.samples, seed=said.seed))

        return await _rendered(pool, look)


@router.get("/outliers", responses=errors(404, 409, 422, 503))
def outliers(searcher: TheSearcher, kept: TheLatents, limit: Limit = 50, offset: Offset = 0) -> OutliersOut:
    """The pictures least like the rest, at most 1,000, each with the reason.

    Measured at the first such question, once for all processes of a home: until then 503 `being-computed`.
    """
    return outliers_out(searcher, kept.outliers(searcher), limit, offset)


def _check_count(wanted: Wanted[Any], parts: int) -> None:
    """Raises the 422 for more places than one question may have."""
    if len(wanted.uploads) + parts > MOST_PARTS:
        raise refused("parts", f"files and parts are more than {MOST_PARTS} together")


async def _rendered(pool: EncodingPool, work: Callable[[], BaseModel]) -> Response:
    """The answer as JSON, written in the thread that did the work."""
    return Response(await pool.run(lambda: work().model_dump_json().encode()), media_type=JSON)
