"""Places in the latent space: put together, walked between and along, sampled; and how sure the encoder is of one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from fastapi import APIRouter
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from simile.explore.latent.interpolation import LatentMorph, draw_morph, make_morph
from simile.explore.latent.traversal import traverse_latents
from simile.explore.latent.uncertainty import measure_image_uncertainty, measure_uncertainty
from simile.service import urls
from simile.service.dependencies import EncodingPoolDep, LatentCacheDep, LimitParam, OffsetParam, SearcherDep
from simile.service.openapi.install import ResponseDocs, document_errors, document_json, image_or_json_body
from simile.service.requests.latents import LatentRequestData, read_latent_request
from simile.service.requests.search import JSON_MEDIA_TYPE, make_field_error
from simile.service.schemas.latents import (
    MAX_LATENT_INPUTS,
    LatentForm,
    LatentRequest,
    LatentResponse,
    MorphForm,
    MorphRequest,
    MorphResponse,
    OutlierListResponse,
    SampleListResponse,
    SampleParams,
    SampleRequest,
    TraversalParams,
    TraversalRequest,
    TraversalResponse,
    UncertaintyParams,
    UncertaintyRequest,
    UncertaintyResponse,
)
from simile.service.serializers.latents import (
    compute_latent_response,
    make_morph_response,
    make_outliers_response,
    make_samples_response,
    make_traversal_response,
    make_uncertainty_response,
)
from simile.service.state.encoding_pool import EncodingPool

router = APIRouter(prefix=urls.API, tags=["latent space"])

T = TypeVar("T")
_LATENT_ERRORS = document_errors(400, 404, 408, 409, 413, 415, 422, 503)
_MORPH_FORMATS = {"image/gif": "gif", "image/webp": "webp", "image/png": "png"}
_MORPH_RESPONSES: ResponseDocs = {
    200: {
        "model": MorphResponse,
        "description": "The frames. Asked for as `image/gif` or `image/webp`: a loop; as `image/png`: a strip, the "
        "nearest real picture below each frame.",
        "content": {kind: {"schema": {"type": "string", "format": "binary"}} for kind in _MORPH_FORMATS},
    }
}


@router.post(
    "/latents",
    response_class=Response,
    responses=document_json(LatentResponse) | _LATENT_ERRORS,
    openapi_extra=image_or_json_body(LatentRequest, LatentForm, MAX_LATENT_INPUTS),
)
async def latents(
    request: Request, searcher: SearcherDep, latent_cache: LatentCacheDep, pool: EncodingPoolDep
) -> Response:
    """Where a picture lies (multipart field `file`), or a place that is put together from several; and what is there.

    Parts are mixed by their weights, pushed along attributes, moved along dimensions, decoded, and looked around from.
    Files of a form come before its `parts`.
    """
    async with read_latent_request(request, LatentRequest, LatentForm, MAX_LATENT_INPUTS) as wanted:
        said = wanted.params
        _check_input_count(wanted, len(said.parts))
        weights = said.weights if isinstance(said, LatentForm) else []
        if weights and len(weights) != len(wanted.uploads):
            raise make_field_error("weights", f"give one for each file: {len(wanted.uploads)}")

        def place() -> LatentResponse:
            pictures = zip(wanted.prepare_images(searcher), weights or [1.0] * len(wanted.uploads), strict=True)
            return compute_latent_response(searcher, latent_cache, said, list(pictures))

        return await _render_json(pool, place)


@router.post(
    "/morphs",
    response_class=Response,
    responses=_MORPH_RESPONSES | _LATENT_ERRORS,
    openapi_extra=image_or_json_body(MorphRequest, MorphForm, MAX_LATENT_INPUTS),
)
async def morphs(request: Request, searcher: SearcherDep, pool: EncodingPoolDep) -> Response:
    """The way from place to place, decoded step by step. The frames at the parts are reconstructions.

    Files of a form come before its `parts`.
    """
    async with read_latent_request(request, MorphRequest, MorphForm, MAX_LATENT_INPUTS) as wanted:
        said = wanted.params
        _check_input_count(wanted, len(said.parts))

        def make() -> LatentMorph:
            parts = [*wanted.prepare_images(searcher), *(one.to_latent_input() for one in said.parts)]
            return make_morph(searcher, parts, said.steps, said.how)

        kind = next((kind for kind in _MORPH_FORMATS if kind in request.headers.get("accept", "")), None)
        if kind is not None:
            data = await pool.run(lambda: draw_morph(searcher, make(), _MORPH_FORMATS[kind]))
            return Response(data, media_type=kind)
        return await _render_json(pool, lambda: make_morph_response(make()))


@router.post(
    "/samples",
    response_class=Response,
    responses=document_json(SampleListResponse) | _LATENT_ERRORS,
    openapi_extra=image_or_json_body(SampleRequest, SampleParams),
)
async def samples(
    request: Request, searcher: SearcherDep, latent_cache: LatentCacheDep, pool: EncodingPoolDep
) -> Response:
    """Pictures that were never taken: from the prior, from Gaussians fitted to the collection, or around a picture.

    Around an indexed image by `source` and `image_id`, around another in the multipart field `file`.
    """
    async with read_latent_request(request, SampleRequest, SampleParams) as wanted:
        return await _render_json(
            pool, lambda: make_samples_response(searcher, latent_cache, wanted.params, *wanted.prepare_images(searcher))
        )


@router.post(
    "/traversals",
    response_class=Response,
    responses=document_json(TraversalResponse) | _LATENT_ERRORS,
    openapi_extra=image_or_json_body(TraversalRequest, TraversalParams),
)
async def traversals(
    request: Request, searcher: SearcherDep, latent_cache: LatentCacheDep, pool: EncodingPoolDep
) -> Response:
    """What single dimensions stand for: one at a time from low to high, all others as they are.

    From the picture in the multipart field `file`, or as JSON from `start`; without it from the collection's mean.
    """
    async with read_latent_request(request, TraversalRequest, TraversalParams) as wanted:
        said = wanted.params

        def walk() -> TraversalResponse:
            reach = latent_cache.get_ranges(searcher)
            start = (
                said.start.to_latent_input() if isinstance(said, TraversalRequest) and said.start is not None else None
            )
            for picture in wanted.prepare_images(searcher):
                start = picture
            how: dict[str, Any] = {"span": said.span, "steps": said.steps, "nearest": said.nearest}
            return make_traversal_response(
                traverse_latents(searcher, start, dims=said.format_dims(), latent_range=reach, **how), reach.deviation
            )

        return await _render_json(pool, walk)


@router.post(
    "/uncertainty",
    response_class=Response,
    responses=document_json(UncertaintyResponse) | _LATENT_ERRORS,
    openapi_extra=image_or_json_body(UncertaintyRequest, UncertaintyParams),
)
async def estimate_uncertainty(request: Request, searcher: SearcherDep, pool: EncodingPoolDep) -> Response:
    """How sure the encoder is of a picture (multipart field `file`) or an indexed image: not a bare place."""
    async with read_latent_request(request, UncertaintyRequest, UncertaintyParams) as wanted:
        said = wanted.params

        def look() -> UncertaintyResponse:
            if isinstance(said, UncertaintyRequest):
                return make_uncertainty_response(
                    measure_uncertainty(searcher, said.image_id, samples=said.samples, seed=said.seed)
                )
            (picture,) = wanted.prepare_images(searcher)
            return make_uncertainty_response(
                measure_image_uncertainty(searcher, picture, samples=said.samples, seed=said.seed)
            )

        return await _render_json(pool, look)


@router.get("/outliers", responses=document_errors(404, 409, 422, 503))
def outliers(
    searcher: SearcherDep, latent_cache: LatentCacheDep, limit: LimitParam = 50, offset: OffsetParam = 0
) -> OutlierListResponse:
    """The pictures least like the rest, at most 1,000, each with the reason.

    Measured at the first such question, once for all processes of a home: until then 503 `being-computed`.
    """
    return make_outliers_response(searcher, latent_cache.get_outliers(searcher), limit, offset)


def _check_input_count(request_data: LatentRequestData[Any], input_count: int) -> None:
    """Raises the 422 for more places than one question may have."""
    if len(request_data.uploads) + input_count > MAX_LATENT_INPUTS:
        raise make_field_error("parts", f"files and parts are more than {MAX_LATENT_INPUTS} together")


async def _render_json(pool: EncodingPool, work: Callable[[], BaseModel]) -> Response:
    """The answer as JSON, written in the thread that did the work."""
    return Response(await pool.run(lambda: work().model_dump_json().encode()), media_type=JSON_MEDIA_TYPE)
