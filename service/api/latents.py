"""Routes of the latent space: arithmetic, morphs, samples, traversals, uncertainty and outliers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from simile.explore.latent.inputs import LatentInput
from simile.explore.latent.interpolation import draw_morph, make_morph
from simile.explore.latent.traversal import traverse_latents
from simile.explore.latent.uncertainty import measure_image_uncertainty, measure_uncertainty
from simile.service import urls
from simile.service.dependencies import EncodingPoolDep, LatentCacheDep, LimitParam, OffsetParam, SearcherDep
from simile.service.openapi.install import ResponseDocs, document_errors, document_json, image_or_json_body
from simile.service.requests.latents import (
    MAX_LATENT_INPUTS,
    LatentForm,
    LatentRequest,
    LatentRequestData,
    MorphForm,
    MorphRequest,
    SampleParams,
    SampleRequest,
    TraversalParams,
    TraversalRequest,
    UncertaintyParams,
    UncertaintyRequest,
    read_latent_request,
)
from simile.service.requests.search import JSON_MEDIA_TYPE, make_field_error
from simile.service.schemas.latents import (
    LatentResponse,
    MorphResponse,
    OutlierListResponse,
    SampleListResponse,
    TraversalResponse,
    UncertaintyResponse,
    compute_latent_response,
    make_morph_response,
    make_outliers_response,
    make_samples_response,
    make_traversal_response,
)
from simile.service.state.encoding_pool import EncodingPool

router = APIRouter(prefix=urls.API, tags=["latent space"])

_LATENT_ERRORS = document_errors(400, 404, 408, 409, 413, 415, 422, 503)
_MORPH_FORMATS = {"image/gif": "gif", "image/webp": "webp", "image/png": "png"}
_MORPH_RESPONSES: ResponseDocs = {
    200: {
        "model": MorphResponse,
        "description": "The frames. With `Accept: image/gif` or `image/webp`: a loop; with `image/png`: a strip, the "
        "nearest indexed image below each frame.",
        "content": {media_type: {"schema": {"type": "string", "format": "binary"}} for media_type in _MORPH_FORMATS},
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
    """Return the latent vector of an image (multipart field `file`), or compute one from several images.

    Parts are mixed by their weights, moved along attributes and dimensions, and decoded; `nearest` adds the nearest
    indexed images. The files of a form come before its `parts`.
    """
    async with read_latent_request(request, LatentRequest, LatentForm, MAX_LATENT_INPUTS) as data:
        params = data.params
        _check_input_count(data, len(params.parts))
        weights = params.weights if isinstance(params, LatentForm) else []
        if weights and len(weights) != len(data.uploads):
            raise make_field_error("weights", f"give one for each file: {len(data.uploads)}")

        def compute() -> LatentResponse:
            images = zip(data.prepare_images(searcher), weights or [1.0] * len(data.uploads), strict=True)
            return compute_latent_response(searcher, latent_cache, params, list(images))

        return await _render_json(pool, compute)


@router.post(
    "/morphs",
    response_class=Response,
    responses=_MORPH_RESPONSES | _LATENT_ERRORS,
    openapi_extra=image_or_json_body(MorphRequest, MorphForm, MAX_LATENT_INPUTS),
)
async def morphs(request: Request, searcher: SearcherDep, pool: EncodingPoolDep) -> Response:
    """Interpolate between images, decoded step by step. The frames of the parts are reconstructions.

    The files of a form come before its `parts`.
    """
    async with read_latent_request(request, MorphRequest, MorphForm, MAX_LATENT_INPUTS) as data:
        params = data.params
        _check_input_count(data, len(params.parts))

        def make() -> bytes:
            parts = [*data.prepare_images(searcher), *(part.to_latent_input() for part in params.parts)]
            morph = make_morph(searcher, parts, params.steps, params.how)
            if media_type in _MORPH_FORMATS:
                return draw_morph(searcher, morph, _MORPH_FORMATS[media_type])
            return make_morph_response(morph).model_dump_json().encode()

        accepted = request.headers.get("accept", "")
        media_type = next((media_type for media_type in _MORPH_FORMATS if media_type in accepted), JSON_MEDIA_TYPE)
        return Response(await pool.run(make), media_type=media_type)


@router.post(
    "/samples",
    response_class=Response,
    responses=document_json(SampleListResponse) | _LATENT_ERRORS,
    openapi_extra=image_or_json_body(SampleRequest, SampleParams),
)
async def samples(
    request: Request, searcher: SearcherDep, latent_cache: LatentCacheDep, pool: EncodingPoolDep
) -> Response:
    """Generate new images from the prior, from a mixture fitted to the collection, or around an image.

    Around an indexed image by `source` and `image_id`, around another image in the multipart field `file`.
    """
    async with read_latent_request(request, SampleRequest, SampleParams) as data:
        return await _render_json(
            pool, lambda: make_samples_response(searcher, latent_cache, data.params, *data.prepare_images(searcher))
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
    """Move one dimension at a time from low to high, with all others constant.

    The start is the image in the multipart field `file`, or `start` in JSON; default: the mean of the collection.
    """
    async with read_latent_request(request, TraversalRequest, TraversalParams) as data:
        params = data.params

        def traverse() -> TraversalResponse:
            start: LatentInput | None = next(iter(data.prepare_images(searcher)), None)
            if isinstance(params, TraversalRequest) and params.start is not None:
                start = params.start.to_latent_input()
            latent_range = latent_cache.get_ranges(searcher)
            traversal = traverse_latents(
                searcher,
                start,
                dims=params.format_dims(),
                span=params.span,
                steps=params.steps,
                latent_range=latent_range,
                with_nearest=params.nearest,
            )
            return make_traversal_response(traversal, latent_range.deviation)

        return await _render_json(pool, traverse)


@router.post(
    "/uncertainty",
    response_class=Response,
    responses=document_json(UncertaintyResponse) | _LATENT_ERRORS,
    openapi_extra=image_or_json_body(UncertaintyRequest, UncertaintyParams),
)
async def estimate_uncertainty(request: Request, searcher: SearcherDep, pool: EncodingPoolDep) -> Response:
    """Measure the uncertainty of the encoder for an image (multipart field `file`) or an indexed image."""
    async with read_latent_request(request, UncertaintyRequest, UncertaintyParams) as data:
        params = data.params

        def measure() -> UncertaintyResponse:
            if isinstance(params, UncertaintyRequest):
                uncertainty = measure_uncertainty(searcher, params.image_id, samples=params.samples, seed=params.seed)
            else:
                (image,) = data.prepare_images(searcher)
                uncertainty = measure_image_uncertainty(searcher, image, samples=params.samples, seed=params.seed)
            return UncertaintyResponse.model_validate(uncertainty, from_attributes=True)

        return await _render_json(pool, measure)


@router.get("/outliers", responses=document_errors(404, 409, 422, 503))
def outliers(
    searcher: SearcherDep, latent_cache: LatentCacheDep, limit: LimitParam = 50, offset: OffsetParam = 0
) -> OutlierListResponse:
    """List outliers, the images least like the rest: at most 1,000, each with the reason.

    They are measured in the background on the first request, once for all processes: until then 503 `being-computed`.
    """
    return make_outliers_response(searcher, latent_cache.get_outliers(searcher), limit, offset)


def _check_input_count(request_data: LatentRequestData[Any], input_count: int) -> None:
    """Raise 422 for more files and parts than a request may have."""
    if len(request_data.uploads) + input_count > MAX_LATENT_INPUTS:
        raise make_field_error("parts", f"files and parts together are more than {MAX_LATENT_INPUTS}")


async def _render_json(pool: EncodingPool, make: Callable[[], BaseModel]) -> Response:
    """Run `make` in the pool and return its result as JSON, serialised in the same thread."""
    return Response(await pool.run(lambda: make().model_dump_json().encode()), media_type=JSON_MEDIA_TYPE)
