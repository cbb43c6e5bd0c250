"""Responses about the latent space, validated directly from the results of explore/."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, BeforeValidator, Field

from simile.core.records import FloatArray, Hit
from simile.explore.attributes.directions import AttributeEntanglement
from simile.explore.attributes.render import render_attribute
from simile.explore.latent.inputs import LatentInput, check_decoder, decode_latents, encode_inputs, get_content_size
from simile.explore.latent.interpolation import InterpolationMethod, LatentMorph, mix_latents
from simile.explore.latent.sampling import sample_posterior, sample_prior
from simile.explore.latent.traversal import LatentTraversal, offset_dimensions
from simile.explore.outliers.cache import OutlierListing
from simile.images.encoding import encode_png
from simile.search.attributes import Attribute, shift_by_attributes
from simile.search.queries import QueryImage, SearchParams, SearchQuery
from simile.search.searcher import Searcher
from simile.service import urls
from simile.service.requests.latents import LatentArithmeticParams, SampleParams, SampleRequest
from simile.service.schemas.search import DisplayText, HitResponse
from simile.service.serializers.search import make_data_url, make_hit_response
from simile.service.state.latent_cache import LatentCache


def _to_list(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray) else value


def _to_data_url(value: Any) -> Any:
    return make_data_url(encode_png(value), "image/png") if isinstance(value, np.ndarray) else value


def _to_hit_response(value: Any) -> Any:
    return make_hit_response(value, with_reconstruction=False) if isinstance(value, Hit) else value


FloatList = Annotated[list[float], BeforeValidator(_to_list)]  # from an array (n,)
PngDataUrl = Annotated[str, BeforeValidator(_to_data_url)]  # from pixels (h, w, 3)
NearestHit = Annotated[HitResponse, BeforeValidator(_to_hit_response)]  # from a Hit


class LatentResponse(BaseModel):
    """A latent vector. `sigma`: only of a single image that was not moved.

    `picture`: the decoded image, a PNG as a data URL; null if not requested, or if there is no `decoder`.
    """

    name: DisplayText
    mu: FloatList
    sigma: FloatList | None
    width: int
    height: int
    decoder: bool
    picture: PngDataUrl | None
    nearest: list[NearestHit]


class FrameResponse(BaseModel):
    """A decoded latent vector, and the nearest indexed image."""

    mu: FloatList
    picture: PngDataUrl
    nearest: NearestHit | None


class MorphResponse(BaseModel):
    """A morph. `stops`: the frames of the parts. `changes`: root mean square change from each frame to the next."""

    how: InterpolationMethod
    names: list[DisplayText]
    stops: list[int]
    changes: FloatList
    frames: list[FrameResponse]


class SampleResponse(BaseModel):
    """A new image, with its latent vector."""

    mu: FloatList
    picture: PngDataUrl


class SampleListResponse(BaseModel):
    """New images: the same for the same `seed` (default 0), encoder and collection."""

    seed: int
    samples: list[SampleResponse]


class TraversalDimensionResponse(BaseModel):
    """One dimension. `deviation`: standard deviation of mu over the collection."""

    dim: int
    deviation: float
    frames: list[FrameResponse]


class TraversalResponse(BaseModel):
    """A traversal. `steps`: offset of each frame, in standard deviations of the collection."""

    name: DisplayText
    steps: FloatList
    dimensions: list[TraversalDimensionResponse]


class AttributeEffectResponse(BaseModel):
    """The change of another attribute's score when this one is increased by 1."""

    name: str
    cosine: float
    change: float


class AttributeResponse(BaseModel):
    """A stored attribute. auc, spread: mean and standard deviation over folds, of the directions `raw` and `whitened`.

    `drags`: how much other attributes move with it.
    """

    name: str
    encoder: str
    auc: dict[str, float]
    spread: dict[str, float]
    positives: int
    negatives: int
    contradictory: int
    unreadable: int
    seed: int
    drags: list[AttributeEffectResponse]


class AttributeListResponse(BaseModel):
    """The attributes of the active encoder."""

    attributes: list[AttributeResponse]


class AttributeImageResponse(BaseModel):
    """A latent vector moved along an attribute by one strength, decoded."""

    strength: float
    mu: FloatList
    picture: PngDataUrl


class ApplyAttributeResponse(BaseModel):
    """`name`: of the image; `pictures`: one for each strength, in the aspect ratio of the image."""

    attribute: str
    name: DisplayText
    width: int
    height: int
    pictures: list[AttributeImageResponse]


class OutlierResponse(BaseModel):
    """An outlier. `score`: evidence in nats; `ranks`: of each signal, 1 for the least like the rest."""

    image_id: int
    path: DisplayText
    score: float
    ranks: dict[str, float]
    reason: str
    thumbnail_url: str
    reconstruction_url: str | None


class OutlierListResponse(BaseModel):
    """Outliers, the highest score first. `total`: of all pages; `neighbour`: the k of the k-th neighbour."""

    outliers: list[OutlierResponse]
    images: int
    neighbour: int
    total: int
    limit: int
    offset: int


class UncertaintyResponse(BaseModel):
    """The uncertainty of the encoder for one image; docs/explore.md explains each value.

    seen, deviation: PNGs as data URLs: the reconstruction, and the deviation over draws (white: `largest`).
    """

    name: DisplayText
    sigma: FloatList
    spread_of_all: FloatList
    samples: int
    mean_deviation: float
    largest: float
    log_likelihood: float | None
    bits_per_value: float | None
    error: float
    error_percentile: float | None
    same_nearest: float | None
    overlap: float | None
    seen: PngDataUrl = Field(validation_alias="reconstruction")
    deviation: PngDataUrl


def compute_latent_response(
    searcher: Searcher,
    latent_cache: LatentCache,
    arithmetic: LatentArithmeticParams,
    images: Sequence[tuple[QueryImage, float]] = (),
) -> LatentResponse:
    """Compute a latent vector, decode it if there is a decoder, and find the nearest indexed images.

    Args:
        images: Uploads with their weights, before the parts of `arithmetic`.

    Raises:
        BadSetting. And as `encode_inputs`.
    """
    weighted = [*images, *((part.to_latent_input(), part.weight) for part in arithmetic.parts)]
    latent_inputs, weights = zip(*weighted, strict=True)
    point = mix_latents(searcher, latent_inputs, weights, arithmetic.how)
    encoder = searcher.get_encoder()
    mu = shift_by_attributes(searcher.home, encoder.fingerprint, point.mu, arithmetic.attributes)
    if arithmetic.dims:
        dims = {int(dim): steps for dim, steps in arithmetic.dims.items()}
        mu = offset_dimensions(mu, dims, latent_cache.get_ranges(searcher))
    has_decoder, nearest = encoder.has_decoder, arithmetic.nearest
    fields = {
        "mu": mu,
        "sigma": point.sigma if mu is point.mu else None,
        "decoder": has_decoder,
        "picture": decode_latents(searcher, mu[None], point.width, point.height)[0]
        if arithmetic.picture and has_decoder
        else None,
        "nearest": searcher.search(SearchQuery((mu,), params=SearchParams(limit=nearest))).hits if nearest else [],
    }
    return LatentResponse.model_validate(vars(point) | fields)


def make_morph_response(morph: LatentMorph) -> MorphResponse:
    """Make the response of a morph."""
    frames = _zip_frames(morph.latents, morph.frames, morph.nearest_hits)
    return MorphResponse.model_validate(
        {
            "how": morph.interpolation,
            "names": morph.input_names,
            "stops": morph.input_rows,
            "changes": morph.changes,
            "frames": frames,
        }
    )


def make_samples_response(
    searcher: Searcher, latent_cache: LatentCache, params: SampleParams, image: QueryImage | None = None
) -> SampleListResponse:
    """Generate new images.

    Args:
        image: An upload; the new images are around it.

    Raises:
        NoDecoder, NoVariance, TooFewPictures, NoSuchImage.
    """
    check_decoder(searcher, "no images can be generated")
    size = get_content_size(searcher)
    latents: FloatArray
    drawing = params.count, params.temperature, params.seed
    centre: LatentInput | None = image or (params.image_id if isinstance(params, SampleRequest) else None)
    if centre is not None:
        (point,) = encode_inputs(searcher, [centre])
        latents, size = sample_posterior(searcher, point.mu, point.sigma, *drawing), (point.width, point.height)
    elif isinstance(params, SampleRequest) and params.source == "mixture":
        latents = latent_cache.get_mixture(searcher).sample(*drawing)
    else:
        latents = sample_prior(searcher, *drawing)
    decoded = zip(latents, decode_latents(searcher, latents, *size), strict=True)
    samples = [{"mu": mu, "picture": pixels} for mu, pixels in decoded]
    return SampleListResponse.model_validate({"seed": params.seed, "samples": samples})


def make_apply_response(
    searcher: Searcher, attribute: Attribute, latent_input: LatentInput, strengths: Sequence[float]
) -> ApplyAttributeResponse:
    """Move an image along an attribute. Raises NoDecoder, and as `encode_inputs`."""
    (point,) = encode_inputs(searcher, [latent_input])
    images = zip(strengths, render_attribute(searcher, attribute, point, strengths), strict=True)
    pictures = [
        {"strength": strength, "mu": attribute.shift(point.mu, strength), "picture": pixels}
        for strength, pixels in images
    ]
    return ApplyAttributeResponse.model_validate(vars(point) | {"attribute": attribute.name, "pictures": pictures})


def make_attribute_response(attribute: Attribute, entangled: Sequence[AttributeEntanglement]) -> AttributeResponse:
    """Make the response of a stored attribute, without its directions."""
    return AttributeResponse.model_validate(vars(attribute) | {"drags": [vars(other) for other in entangled]})


def make_traversal_response(traversal: LatentTraversal, deviation: FloatArray) -> TraversalResponse:
    """Make the response of a traversal; deviation (d,): of the collection."""
    dimensions = []
    for row, dim in enumerate(traversal.dims):
        hits = traversal.nearest_hits[row] or [None] * len(traversal.steps)
        frames = _zip_frames(traversal.latents[row], traversal.frames[row], hits)
        dimensions.append({"dim": dim, "deviation": float(deviation[dim]), "frames": frames})
    return TraversalResponse.model_validate(
        {"name": traversal.name, "steps": traversal.steps, "dimensions": dimensions}
    )


def make_outliers_response(searcher: Searcher, listing: OutlierListing, limit: int, offset: int) -> OutlierListResponse:
    """Make one page of the outliers."""
    has_decoder = searcher.get_encoder().has_decoder
    page = []
    for outlier in listing.outliers[offset : offset + limit]:
        links = urls.image_urls(outlier.image_id) | ({} if has_decoder else {"reconstruction_url": None})
        page.append(vars(outlier) | links)
    counts = {"images": len(listing.ids), "neighbour": listing.neighbour, "total": len(listing.outliers)}
    return OutlierListResponse.model_validate({"outliers": page, "limit": limit, "offset": offset, **counts})


def _zip_frames(latents: FloatArray, images: np.ndarray, hits: Sequence[Hit | None]) -> list[dict[str, Any]]:
    """Return the fields of a FrameResponse for each frame."""
    return [
        {"mu": mu, "picture": pixels, "nearest": hit} for mu, pixels, hit in zip(latents, images, hits, strict=True)
    ]
