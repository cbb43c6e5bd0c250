"""From places in the latent space to what goes over the wire."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

from simile.core.records import FloatArray, Hit
from simile.explore.attributes.render import render_attribute
from simile.explore.latent.inputs import (
    LatentInput,
    LatentPoint,
    check_decoder,
    decode_latents,
    encode_inputs,
    get_content_size,
)
from simile.explore.latent.interpolation import LatentMorph, mix_latents
from simile.explore.latent.sampling import sample_posterior, sample_prior
from simile.explore.latent.traversal import LatentTraversal, offset_dimensions
from simile.explore.latent.uncertainty import EncodingUncertainty
from simile.explore.outliers.cache import OutlierListing
from simile.images.encoding import encode_png
from simile.images.formats import Pixels
from simile.search.attributes import Attribute, shift_by_attributes
from simile.search.queries import QueryImage, SearchParams, SearchQuery
from simile.search.searcher import Searcher
from simile.service import urls
from simile.service.schemas.latents import (
    ApplyAttributeResponse,
    AttributeImageResponse,
    FrameResponse,
    LatentArithmeticParams,
    LatentResponse,
    MorphResponse,
    OutlierListResponse,
    OutlierResponse,
    SampleListResponse,
    SampleParams,
    SampleRequest,
    SampleResponse,
    TraversalDimensionResponse,
    TraversalResponse,
    TraversalStepResponse,
    UncertaintyResponse,
)
from simile.service.schemas.search import HitResponse, replace_surrogates
from simile.service.serializers.search import make_hit_response
from simile.service.state.latent_cache import LatentCache


def compute_latent_response(
    searcher: Searcher,
    latent_cache: LatentCache,
    arithmetic: LatentArithmeticParams,
    images: Sequence[tuple[QueryImage, float]] = (),
) -> LatentResponse:
    """The place that is wanted, decoded where that can be; pictures, each with its weight, come before its parts.

    Raises as explore/mixing.py does.
    """
    parts = [*images, *((one.to_latent_input(), one.weight) for one in arithmetic.parts)]
    place = mix_latents(searcher, [part for part, _ in parts], [weight for _, weight in parts], arithmetic.how)
    encoder = searcher.get_encoder().fingerprint
    mu = shift_by_attributes(searcher.home, encoder, place.mu, arithmetic.attributes)
    if arithmetic.dims:
        mu = offset_dimensions(
            mu, {int(dim): steps for dim, steps in arithmetic.dims.items()}, latent_cache.get_ranges(searcher)
        )
    kept = place.sigma if mu is place.mu else None
    return make_latent_response(
        searcher,
        LatentPoint(place.name, mu, kept, place.width, place.height),
        arithmetic.nearest,
        decode_image=arithmetic.picture,
    )


def make_latent_response(
    searcher: Searcher, latent: LatentPoint, nearest: int, *, decode_image: bool
) -> LatentResponse:
    """A place, decoded where that is asked for and can be."""
    has_decoder = searcher.get_encoder().has_decoder
    picture = (
        decode_latents(searcher, latent.mu[None], latent.width, latent.height)[0]
        if decode_image and has_decoder
        else None
    )
    hits = searcher.search(SearchQuery((latent.mu,), params=SearchParams(limit=nearest))).hits if nearest else []
    return LatentResponse(
        name=replace_surrogates(latent.name),
        mu=latent.mu.tolist(),
        sigma=None if latent.sigma is None else latent.sigma.tolist(),
        width=latent.width,
        height=latent.height,
        decoder=has_decoder,
        picture=None if picture is None else make_png_data_url(picture),
        nearest=[make_hit_response(hit, with_reconstruction=False) for hit in hits],
    )


def make_morph_response(result: LatentMorph) -> MorphResponse:
    """A morph, its frames as pictures."""
    frames = [
        FrameResponse(mu=mu.tolist(), picture=make_png_data_url(frame), nearest=_make_optional_hit(hit))
        for mu, frame, hit in zip(result.latents, result.frames, result.nearest_hits, strict=True)
    ]
    names = [replace_surrogates(name) for name in result.input_names]
    return MorphResponse(
        how=result.interpolation, names=names, stops=result.input_rows, changes=result.changes.tolist(), frames=frames
    )


def make_samples_response(
    searcher: Searcher, latent_cache: LatentCache, params: SampleParams, image: QueryImage | None = None
) -> SampleListResponse:
    """Pictures that were never taken, around a picture where there is one, or from where `wanted` says.

    Raises NoDecoder, NoVariance, TooFewPictures, NoSuchImage.
    """
    check_decoder(searcher, "nothing can be generated")
    size = get_content_size(searcher)
    mu: FloatArray
    drawn = params.count, params.temperature, params.seed
    middle: LatentInput | None = image or (params.image_id if isinstance(params, SampleRequest) else None)
    if middle is not None:
        (place,) = encode_inputs(searcher, [middle])
        mu, size = sample_posterior(searcher, place.mu, place.sigma, *drawn), (place.width, place.height)
    elif isinstance(params, SampleRequest) and params.source == "mixture":
        mu = latent_cache.get_mixture(searcher).sample(*drawn)
    else:
        mu = sample_prior(searcher, *drawn)
    pictures = decode_latents(searcher, mu, *size)
    found = [
        SampleResponse(mu=one.tolist(), picture=make_png_data_url(seen)) for one, seen in zip(mu, pictures, strict=True)
    ]
    return SampleListResponse(seed=params.seed, samples=found)


def make_apply_response(
    searcher: Searcher, attribute: Attribute, latent_input: LatentInput, strengths: Sequence[float]
) -> ApplyAttributeResponse:
    """A picture pushed along an attribute. Raises NoDecoder, and as places_of."""
    (place,) = encode_inputs(searcher, [latent_input])
    seen = render_attribute(searcher, attribute, place, strengths)
    made = [
        AttributeImageResponse(
            strength=strength, mu=attribute.shift(place.mu, strength).tolist(), picture=make_png_data_url(pixels)
        )
        for strength, pixels in zip(strengths, seen, strict=True)
    ]
    return ApplyAttributeResponse(
        attribute=attribute.name,
        name=replace_surrogates(place.name),
        width=place.width,
        height=place.height,
        pictures=made,
    )


def make_traversal_response(traversal: LatentTraversal, deviation: FloatArray) -> TraversalResponse:
    """A traversal; deviation: (d,), of the collection."""
    rows = []
    for row, dim in enumerate(traversal.dims):
        hits = traversal.nearest_hits[row] or [None] * len(traversal.steps)
        frames = [
            TraversalStepResponse(mu=mu.tolist(), picture=make_png_data_url(frame), nearest=_make_optional_hit(hit))
            for mu, frame, hit in zip(traversal.latents[row], traversal.frames[row], hits, strict=True)
        ]
        rows.append(TraversalDimensionResponse(dim=dim, deviation=float(deviation[dim]), frames=frames))
    return TraversalResponse(name=replace_surrogates(traversal.name), steps=traversal.steps.tolist(), dimensions=rows)


def make_outliers_response(searcher: Searcher, listing: OutlierListing, limit: int, offset: int) -> OutlierListResponse:
    """A page of the outliers."""
    shows = searcher.get_encoder().has_decoder
    page = [
        OutlierResponse(
            **{**vars(one), "path": replace_surrogates(one.path)},
            thumbnail_url=urls.thumbnail(one.image_id),
            reconstruction_url=urls.reconstruction(one.image_id) if shows else None,
        )
        for one in listing.outliers[offset : offset + limit]
    ]
    counts: dict[str, Any] = {
        "images": len(listing.ids),
        "neighbour": listing.neighbour,
        "total": len(listing.outliers),
    }
    return OutlierListResponse(outliers=page, limit=limit, offset=offset, **counts)


def make_uncertainty_response(uncertainty: EncodingUncertainty) -> UncertaintyResponse:
    """How sure the encoder is, with its two pictures."""
    pictures = {name: make_png_data_url(getattr(uncertainty, name)) for name in ("reconstruction", "deviation")}
    pictures["seen"] = pictures.pop("reconstruction")
    arrays = {name: getattr(uncertainty, name).tolist() for name in ("sigma", "spread_of_all")}
    rest = UncertaintyResponse.model_fields.keys() - pictures.keys() - arrays.keys()
    known = {name: getattr(uncertainty, name) for name in rest} | {"name": replace_surrogates(uncertainty.name)}
    return UncertaintyResponse(**known, **arrays, **pictures)


def make_png_data_url(pixels: Pixels) -> str:
    """A picture (h, w, 3) inside a document."""
    return f"data:image/png;base64,{base64.b64encode(encode_png(pixels)).decode()}"


def _make_optional_hit(hit: Hit | None) -> HitResponse | None:
    return None if hit is None else make_hit_response(hit, with_reconstruction=False)
