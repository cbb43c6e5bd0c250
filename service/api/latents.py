"""Routes of the latent space: arithmetic, morphs, samples, traversals, uncertainty and outliers."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from simile.explore.latent import sampling
from simile.explore.latent.inputs import LatentInput, check_decoder, decode_latents, encode_inputs, get_content_size
from simile.explore.latent.interpolation import draw_morph, make_morph
from simile.explore.latent.traversal import parse_dims, traverse_latents
from simile.explore.latent.uncertainty import measure_image_uncertainty, measure_uncertainty
from simile.images.rendering.sheets import ANIMATION_SIDE
from simile.search.searcher import Searcher
from simile.service import urls
from simile.service.dependencies import ComputePoolDep, LatentCacheDep, LimitParam, OffsetParam, SearcherDep
from simile.service.openapi.install import document_errors, document_json, image_or_json_body
from simile.service.requests import latents as requests
from simile.service.requests.latents import MAX_LATENT_INPUTS, LatentRequestData
from simile.service.requests.search import JSON_MEDIA_TYPE, BodyModel, make_field_error
from simile.service.schemas import latents as schemas
from simile.service.schemas.latents import zip_fields
from simile.service.state.latent_cache import LatentCache

router = APIRouter(prefix=urls.API, tags=["latent space"])

LatentHandler = Callable[[Searcher, LatentCache, LatentRequestData[Any]], BaseModel | Response]

_MORPH_FORMATS = {"image/gif": "gif", "image/webp": "webp", "image/png": "png"}


def _add_latent_route(
    path: str,
    json_model: type[BodyModel],
    form_model: type[BodyModel],
    response_model: type[BaseModel],
    max_files: int = 1,
    **documentation: Any,
) -> Callable[[LatentHandler], LatentHandler]:
    """Add a POST route for the decorated function, which runs in the pool; `documentation`: as in `document_json`."""

    def decorate(compute: LatentHandler) -> LatentHandler:
        async def handle(
            request: Request, searcher: SearcherDep, latent_cache: LatentCacheDep, pool: ComputePoolDep
        ) -> Response:
            async with requests.read_latent_request(request, json_model, form_model, max_files) as data:
                if len(data.uploads) + len(getattr(data.params, "parts", ())) > MAX_LATENT_INPUTS:
                    raise make_field_error("parts", f"files and parts together are more than {MAX_LATENT_INPUTS}")

                def respond() -> Response:
                    result = compute(searcher, latent_cache, data)
                    if isinstance(result, Response):
                        return result
                    return Response(result.model_dump_json().encode(), media_type=JSON_MEDIA_TYPE)

                return await pool.run(respond)

        router.post(
            path,
            name=compute.__name__,
            description=inspect.getdoc(compute),
            response_class=Response,
            responses=document_json(response_model, **documentation)
            | document_errors(400, 404, 408, 409, 413, 415, 422, 503),
            openapi_extra=image_or_json_body(json_model, form_model, max_files),
        )(handle)
        return compute

    return decorate


@_add_latent_route("/latents", requests.LatentRequest, requests.LatentForm, schemas.LatentResponse, MAX_LATENT_INPUTS)
def latents(
    searcher: Searcher, latent_cache: LatentCache, data: LatentRequestData[requests.LatentArithmeticParams]
) -> schemas.LatentResponse:
    """Return the latent vector of an image (multipart field `file`), or compute one from several images.

    Parts are mixed by their weights, moved along attributes and dimensions, and decoded; `nearest` adds the nearest
    indexed images. The files of a form come before its `parts`.
    """
    weights = getattr(data.params, "weights", None) or [1.0] * len(data.uploads)
    if len(weights) != len(data.uploads):
        raise make_field_error("weights", f"give one for each file: {len(data.uploads)}")
    images = zip(data.prepare_images(searcher), weights, strict=True)
    return schemas.compute_latent_response(searcher, latent_cache, data.params, images)


@_add_latent_route(
    "/morphs",
    requests.MorphRequest,
    requests.MorphForm,
    schemas.MorphResponse,
    MAX_LATENT_INPUTS,
    description="The frames. With `Accept: image/gif` or `image/webp`: a loop; with `image/png`: a strip, the "
    "nearest indexed image below each frame.",
    binary_media_types=_MORPH_FORMATS,
)
def morphs(
    searcher: Searcher, _latent_cache: LatentCache, data: LatentRequestData[requests.MorphForm]
) -> schemas.MorphResponse | Response:
    """Interpolate between images, decoded step by step. The frames of the parts are reconstructions.

    The files of a form come before its `parts`.
    """
    frame_count = (len(data.uploads) + len(data.params.parts) - 1) * data.params.steps
    if frame_count > requests.MAX_RENDERED_FRAMES:
        limit = requests.MAX_RENDERED_FRAMES
        raise make_field_error("steps", f"these are {frame_count} frames; give fewer steps or parts, {limit} at most")
    is_animation = any(f"image/{name}" in data.accept for name in ("gif", "webp"))
    requests.check_rendered_pixels(searcher, "steps", frame_count, ANIMATION_SIDE if is_animation else 0)
    parts = [*data.prepare_images(searcher), *(part.to_latent_input() for part in data.params.parts)]
    morph = make_morph(searcher, parts, data.params.steps, data.params.how)
    for media_type, name in _MORPH_FORMATS.items():
        if media_type in data.accept:
            return Response(draw_morph(searcher, morph, name), media_type=media_type)
    frames = zip_fields(mu=morph.latents, picture=morph.frames, nearest=morph.nearest_hits)
    return schemas.MorphResponse.model_validate(vars(morph) | {"frames": frames})


@_add_latent_route("/samples", requests.SampleRequest, requests.SampleParams, schemas.SampleListResponse)
def samples(
    searcher: Searcher, latent_cache: LatentCache, data: LatentRequestData[requests.SampleParams]
) -> schemas.SampleListResponse:
    """Generate new images from the prior, from a mixture fitted to the collection, or around an image.

    Around an indexed image by `source` and `image_id`, around another image in the multipart field `file`.
    """
    params = data.params
    check_decoder(searcher, "no images can be generated")
    requests.check_rendered_pixels(searcher, "count", params.count)
    size = get_content_size(searcher)
    drawing = params.count, params.temperature, params.seed
    centre: LatentInput | None = next(iter(data.prepare_images(searcher)), None)
    if isinstance(params, requests.SampleRequest):
        centre = params.image_id
    if centre is not None:
        (point,) = encode_inputs(searcher, [centre])
        size = point.width, point.height
        mu = sampling.sample_posterior(searcher, point.mu, point.sigma, *drawing)
    elif isinstance(params, requests.SampleRequest) and params.source == "mixture":
        mu = latent_cache.get_mixture(searcher).sample(*drawing)
    else:
        mu = sampling.sample_prior(searcher, *drawing)
    drawn = zip_fields(mu=mu, picture=decode_latents(searcher, mu, *size))
    return schemas.SampleListResponse.model_validate({"seed": params.seed, "samples": drawn})


@_add_latent_route("/traversals", requests.TraversalRequest, requests.TraversalParams, schemas.TraversalResponse)
def traversals(
    searcher: Searcher, latent_cache: LatentCache, data: LatentRequestData[requests.TraversalParams]
) -> schemas.TraversalResponse:
    """Move one dimension at a time from low to high, with all others constant.

    The start is the image in the multipart field `file`, or `start` in JSON; default: the mean of the collection.
    """
    params = data.params
    start: LatentInput | None = next(iter(data.prepare_images(searcher)), None)
    if isinstance(params, requests.TraversalRequest) and params.start is not None:
        start = params.start.to_latent_input()
    latent_range = latent_cache.get_ranges(searcher)
    dim_count = len(parse_dims(params.format_dims(), latent_range))
    requests.check_rendered_pixels(searcher, "steps", dim_count * params.steps)
    traversal = traverse_latents(
        searcher,
        start,
        dims=params.format_dims(),
        span=params.span,
        steps=params.steps,
        latent_range=latent_range,
        with_nearest=params.nearest,
    )
    missing = [None] * params.steps
    frames = [
        zip_fields(mu=mu, picture=images, nearest=hits or missing)
        for mu, images, hits in zip(traversal.latents, traversal.frames, traversal.nearest_hits, strict=True)
    ]
    dimensions = zip_fields(dim=traversal.dims, deviation=latent_range.deviation[traversal.dims], frames=frames)
    return schemas.TraversalResponse.model_validate(vars(traversal) | {"dimensions": dimensions})


@_add_latent_route("/uncertainty", requests.UncertaintyRequest, requests.UncertaintyParams, schemas.UncertaintyResponse)
def estimate_uncertainty(
    searcher: Searcher, _latent_cache: LatentCache, data: LatentRequestData[requests.UncertaintyParams]
) -> schemas.UncertaintyResponse:
    """Measure the uncertainty of the encoder for an image (multipart field `file`) or an indexed image."""
    params = data.params
    requests.check_rendered_pixels(searcher, "samples", params.samples)
    if isinstance(params, requests.UncertaintyRequest):
        uncertainty = measure_uncertainty(searcher, params.image_id, samples=params.samples, seed=params.seed)
    else:
        (image,) = data.prepare_images(searcher)
        uncertainty = measure_image_uncertainty(searcher, image, samples=params.samples, seed=params.seed)
    return schemas.UncertaintyResponse.model_validate(uncertainty, from_attributes=True)


@router.get("/outliers", responses=document_errors(404, 409, 422, 503))
def outliers(
    searcher: SearcherDep, latent_cache: LatentCacheDep, limit: LimitParam = 50, offset: OffsetParam = 0
) -> schemas.OutlierListResponse:
    """List outliers, the images least like the rest: at most 1,000, each with the reason.

    They are measured in the background on the first request, once for all processes: until then 503 `being-computed`.
    """
    listing = latent_cache.get_outliers(searcher)
    has_decoder = searcher.get_encoder().has_decoder
    page = [
        vars(outlier) | urls.image_urls(outlier.image_id, has_decoder)
        for outlier in listing.outliers[offset : offset + limit]
    ]
    counts = {"images": len(listing.ids), "neighbour": listing.neighbour, "total": len(listing.outliers)}
    return schemas.OutlierListResponse.model_validate({"outliers": page, "limit": limit, "offset": offset, **counts})
