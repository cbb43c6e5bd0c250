"""Responses about the latent space, validated directly from the results of explore/."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, BeforeValidator, Field

from simile.core.records import Hit
from simile.explore.attributes.directions import AttributeEntanglement
from simile.explore.latent.inputs import decode_latents
from simile.explore.latent.interpolation import InterpolationMethod, mix_latents
from simile.explore.latent.traversal import offset_dimensions
from simile.images.encoding import encode_png
from simile.images.loading.sandbox import raise_if_cancelled
from simile.search.attributes import shift_by_attributes
from simile.search.queries import QueryImage, SearchParams, SearchQuery, serialize_hit
from simile.search.searcher import Searcher
from simile.service import urls
from simile.service.requests.latents import LatentArithmeticParams
from simile.service.schemas.search import DisplayText, HitResponse
from simile.service.schemas.serializers import make_data_url
from simile.service.state.latent_cache import LatentCache


def _to_list(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray) else value


def _to_data_url(value: Any) -> Any:
    if not isinstance(value, np.ndarray):
        return value
    raise_if_cancelled()  # there may be hundreds
    return make_data_url(encode_png(value), "image/png")


def _to_hit_fields(value: Any) -> Any:
    return serialize_hit(value) | urls.image_urls(value.image_id, False) if isinstance(value, Hit) else value


FloatList = Annotated[list[float], BeforeValidator(_to_list)]  # from an array (n,)
PngDataUrl = Annotated[str, BeforeValidator(_to_data_url)]  # from pixels (h, w, 3)
NearestHit = Annotated[HitResponse, BeforeValidator(_to_hit_fields)]  # from a Hit


class SampleResponse(BaseModel):
    """A decoded latent vector."""

    mu: FloatList
    picture: PngDataUrl


class FrameResponse(SampleResponse):
    """A decoded latent vector, and the nearest indexed image."""

    nearest: NearestHit | None


class AttributeImageResponse(SampleResponse):
    """A latent vector moved along an attribute by one strength, decoded."""

    strength: float


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


class MorphResponse(BaseModel):
    """A morph. `stops`: the frames of the parts. `changes`: root mean square change from each frame to the next."""

    how: InterpolationMethod = Field(validation_alias="interpolation")
    names: list[DisplayText] = Field(validation_alias="input_names")
    stops: list[int] = Field(validation_alias="input_rows")
    changes: FloatList
    frames: list[FrameResponse]


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


class AttributeResponse(BaseModel):
    """A stored attribute. auc, spread: mean and standard deviation over folds, of the directions `raw` and `whitened`.

    Both are empty for an attribute that was made of two texts.

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
    drags: list[AttributeEntanglement]


class AttributeListResponse(BaseModel):
    """The attributes of the active encoder."""

    attributes: list[AttributeResponse]


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
    images: Iterable[tuple[QueryImage, float]] = (),
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
    fields = vars(point) | {"mu": mu, "decoder": encoder.has_decoder, "picture": None, "nearest": []}
    if mu is not point.mu:
        fields["sigma"] = None
    if arithmetic.picture and encoder.has_decoder:
        (fields["picture"],) = decode_latents(searcher, mu[None], point.width, point.height)
    if arithmetic.nearest:
        fields["nearest"] = searcher.search(SearchQuery((mu,), params=SearchParams(limit=arithmetic.nearest))).hits
    return LatentResponse.model_validate(fields)


def zip_fields(**columns: Sequence[Any] | np.ndarray) -> list[dict[str, Any]]:
    """Return the fields of each item of columns that have one value for each item."""
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
