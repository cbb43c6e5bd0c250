"""What goes out as JSON about places in the latent space."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.json_schema import SkipJsonSchema

from simile.explore.attributes.directions import AttributeEntanglement
from simile.explore.latent.inputs import LatentInput
from simile.explore.latent.interpolation import InterpolationMethod
from simile.search.attributes import Attribute
from simile.service.schemas.search import MAX_ID, HitResponse, ImageIdField, TextParam, VectorValue


class LatentResponse(BaseModel):
    """A place. `sigma`: of a single picture that was not moved. `picture`: decoded, a PNG as a data URL.

    Null where it was not asked for, or the encoder has no decoder: `decoder` says which.
    """

    name: str
    mu: list[float]
    sigma: list[float] | None
    width: int
    height: int
    decoder: bool
    picture: str | None
    nearest: list[HitResponse]


class FrameResponse(BaseModel):
    """One decoded place, and the real picture nearest to it."""

    mu: list[float]
    picture: str
    nearest: HitResponse | None


class MorphResponse(BaseModel):
    """The frames; `stops`: at which of them the parts stand. `changes`: root mean square from each to the next."""

    how: InterpolationMethod
    names: list[str]
    stops: list[int]
    changes: list[float]
    frames: list[FrameResponse]


class SampleResponse(BaseModel):
    """One of them."""

    mu: list[float]
    picture: str


class SampleListResponse(BaseModel):
    """The same for the same `seed`, which was asked for or is 0, by the same encoder and collection."""

    seed: int
    samples: list[SampleResponse]


class TraversalStepResponse(BaseModel):
    """One step of a dimension."""

    mu: list[float]
    picture: str
    nearest: HitResponse | None


class TraversalDimensionResponse(BaseModel):
    """One dimension. `deviation`: of mu over the collection."""

    dim: int
    deviation: float
    frames: list[TraversalStepResponse]


class TraversalResponse(BaseModel):
    """`steps`: where the frames of each dimension stand, in deviations."""

    name: str
    steps: list[float]
    dimensions: list[TraversalDimensionResponse]


class AttributeEffectResponse(BaseModel):
    """By how much another attribute's score changes when this one is pushed by 1."""

    name: str
    cosine: float
    change: float


class AttributeResponse(BaseModel):
    """A stored attribute. auc, spread: on held-out pictures, of the `raw` direction and of the `whitened` one."""

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
    attributes: list[AttributeResponse]


class AttributeImageResponse(BaseModel):
    """A place pushed along an attribute, once for each strength, decoded."""

    strength: float
    mu: list[float]
    picture: str


class ApplyAttributeResponse(BaseModel):
    """`name`: of the picture; `pictures` in the order of the strengths, in its aspect."""

    attribute: str
    name: str
    width: int
    height: int
    pictures: list[AttributeImageResponse]


class OutlierResponse(BaseModel):
    """A picture little like the rest. `score`: evidence in nats; `ranks`: of each signal, 1 the least like it."""

    image_id: int
    path: str
    score: float
    ranks: dict[str, float]
    reason: str
    thumbnail_url: str
    reconstruction_url: str | None


class OutlierListResponse(BaseModel):
    """The strangest first. `total`: how many are listed at all; `neighbour`: the k whose distance counts."""

    outliers: list[OutlierResponse]
    images: int
    neighbour: int
    total: int
    limit: int
    offset: int


class UncertaintyResponse(BaseModel):
    """How sure the encoder is of a picture; docs/explore.md says what each figure is.

    seen, deviation: PNGs as data URLs: what the model sees, and where draws from the posterior differ (white: by
    `largest`).
    """

    name: str
    sigma: list[float]
    spread_of_all: list[float]
    samples: int
    mean_deviation: float
    largest: float
    log_likelihood: float | None
    bits_per_value: float | None
    error: float
    error_percentile: float | None
    same_nearest: float | None
    overlap: float | None
    seen: str
    deviation: str


def make_attribute_response(attribute: Attribute, drags: list[AttributeEntanglement]) -> AttributeResponse:
    """What is known of a stored attribute, but for its directions."""
    about = {name: getattr(attribute, name) for name in AttributeResponse.model_fields if name != "drags"}
    return AttributeResponse(**about, drags=[AttributeEffectResponse(**vars(drag)) for drag in drags])


MAX_LATENT_INPUTS = 8
MAX_MORPH_FRAMES = 64
MAX_LATENT_SAMPLES = 64
MAX_TRAVERSAL_FRAMES = 400  # pictures of a traversal
MAX_STRENGTHS = 31
DEFAULT_NEAREST_COUNT = 10  # of an upload

AttributeNameField = Annotated[
    str, Field(pattern="^[a-z0-9][a-z0-9_-]{0,63}$", description="Of an attribute, such as `smile`.")
]
StrengthField = Annotated[float, Field(ge=-100, le=100, allow_inf_nan=False)]
SeedField = Annotated[int, Field(ge=0, le=2**32 - 1, description="The same for the same seed.")]
VectorField = Annotated[list[VectorValue], Field(min_length=1, max_length=65536)]
WeightField = Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]


class LatentInputRequest(BaseModel):
    """An indexed image, or a mu."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"oneOf": [{"required": [name]} for name in ("image_id", "vector")]}
    )

    image_id: ImageIdField | SkipJsonSchema[None] = None
    vector: VectorField | SkipJsonSchema[None] = Field(None, description="A mu of the active encoder, all of it.")

    @model_validator(mode="after")
    def _check_one_input(self) -> Self:
        given = self.model_fields_set & {"image_id", "vector"}
        if len(given) != 1 or getattr(self, min(given)) is None:
            raise ValueError("give exactly one of image_id and vector")
        return self

    def to_latent_input(self) -> LatentInput:
        """The same for explore/."""
        if self.image_id is not None:
            return self.image_id
        return np.asarray(self.vector, np.float32)


class WeightedInputRequest(LatentInputRequest):
    """An indexed image, or a mu, and how much of it."""

    weight: WeightField = 1.0


class LatentArithmeticParams(BaseModel):
    """How a place is put together: parts mixed, then attributes pushed, then single dimensions moved."""

    model_config = ConfigDict(extra="forbid")

    how: InterpolationMethod = Field(
        "linear", description="`spherical`: of two parts; the direction turns, the length grows evenly."
    )
    attributes: dict[AttributeNameField, StrengthField] = Field(
        {}, max_length=50, description="By name how far each is pushed; 1: from the average without it to that with it."
    )
    dims: dict[Annotated[str, Field(pattern="^[0-9]{1,5}$")], StrengthField] = Field(
        {}, max_length=500, description="By dimension how far it is moved, in deviations of the collection."
    )
    nearest: int = Field(0, ge=0, le=100, description="So many of the real pictures nearest to it.")
    picture: bool = Field(True, description="Whether it is to be decoded.")
    parts: Sequence[WeightedInputRequest] = ()


class LatentRequest(LatentArithmeticParams):
    """A place put together from indexed images and mus."""

    parts: list[WeightedInputRequest] = Field(
        min_length=1, max_length=MAX_LATENT_INPUTS, description="Mixed by their weights."
    )


class LatentForm(LatentArithmeticParams):
    """The same from pictures, and from others behind them."""

    parts: list[WeightedInputRequest] = Field(
        [], max_length=MAX_LATENT_INPUTS - 1, description="To be mixed with the files."
    )
    weights: list[WeightField] = Field(
        [], max_length=MAX_LATENT_INPUTS, description="Of the files, in order; left out: 1 each."
    )
    nearest: int = Field(DEFAULT_NEAREST_COUNT, ge=0, le=100, description="So many of the real pictures nearest to it.")


class MorphParams(BaseModel):
    """How a morph goes."""

    model_config = ConfigDict(extra="forbid")

    steps: int = Field(16, ge=2, le=MAX_MORPH_FRAMES, description="Frames from each to the next, both included.")
    how: InterpolationMethod = "linear"
    parts: Sequence[LatentInputRequest] = ()


class MorphRequest(MorphParams):
    """A way through two places or more."""

    parts: list[LatentInputRequest] = Field(min_length=2, max_length=MAX_LATENT_INPUTS)


class MorphForm(MorphParams):
    """The same through pictures, and through others behind them."""

    parts: list[LatentInputRequest] = Field(
        [], max_length=MAX_LATENT_INPUTS - 1, description="Where it leads after the files."
    )


class SampleParams(BaseModel):
    """How many pictures that were never taken, and how unusual."""

    model_config = ConfigDict(extra="forbid")

    count: int = Field(16, ge=1, le=MAX_LATENT_SAMPLES)
    temperature: float = Field(1.0, ge=0, le=100, allow_inf_nan=False, description="Below 1: more usual pictures.")
    seed: SeedField = 0


class SampleRequest(SampleParams):
    """Pictures that were never taken."""

    source: Literal["prior", "mixture", "image"] = Field(
        "prior", description="`mixture`: Gaussians fitted to the collection. `image`: around `image_id`."
    )
    image_id: ImageIdField | SkipJsonSchema[None] = None

    @model_validator(mode="after")
    def _check_image_id(self) -> Self:
        given = "image_id" in self.model_fields_set
        if (self.source == "image") != given or (given and self.image_id is None):
            raise ValueError("give image_id with the source image, and only then")
        return self


class TraversalParams(BaseModel):
    """Single dimensions from low to high."""

    model_config = ConfigDict(extra="forbid")

    dims: int | list[Annotated[int, Field(ge=0, le=65535)]] = Field(
        8, description="How many, the most active ones first; or which."
    )
    span: float = Field(3.0, gt=0, le=100, description="To either side, in deviations of the collection.")
    steps: int = Field(9, ge=2, le=100)
    nearest: bool = True

    @model_validator(mode="after")
    def _check_frame_count(self) -> Self:
        count = self.dims if isinstance(self.dims, int) else len(self.dims)
        if not 1 <= count <= 1000 or count * self.steps > MAX_TRAVERSAL_FRAMES:
            raise ValueError(f"at least one dimension, and dimensions times steps at most {MAX_TRAVERSAL_FRAMES}")
        return self

    def format_dims(self) -> str:
        """dims as explore/ reads them."""
        return str(self.dims) if isinstance(self.dims, int) else ",".join(map(str, self.dims)) + ","


class TraversalRequest(TraversalParams):
    """The same, and where it starts."""

    start: LatentInputRequest | None = Field(None, description="Left out: the mean of the collection.")


class LearnAttributeRequest(BaseModel):
    """What an attribute is to be learned from: images with and without it, or a condition on what is said of them."""

    model_config = ConfigDict(extra="forbid")

    name: AttributeNameField
    positive: list[ImageIdField] = Field([], max_length=100_000)
    negative: list[ImageIdField] = Field([], max_length=100_000)
    where: list[TextParam] = Field([], max_length=32, description="Images that satisfy these, against all others.")
    seed: SeedField = 0

    @model_validator(mode="after")
    def _check_one_source(self) -> Self:
        if bool(self.where) == bool(self.positive or self.negative) or bool(self.positive) != bool(self.negative):
            raise ValueError("give both positive and negative, or where alone")
        return self


class StrengthParams(BaseModel):
    """How far an attribute is pushed."""

    model_config = ConfigDict(extra="forbid")

    strengths: list[StrengthField] = Field(
        [1.0],
        min_length=1,
        max_length=MAX_STRENGTHS,
        description="A picture for each; 1: from the average without it to that with it; below 0: less of it.",
    )


class ApplyAttributeRequest(StrengthParams, LatentInputRequest):
    """Of which place, and how far an attribute is pushed from there."""


class UncertaintyParams(BaseModel):
    """How an encoder's doubt is measured."""

    model_config = ConfigDict(extra="forbid")

    samples: int = Field(32, ge=2, le=256)
    seed: SeedField = 0


class UncertaintyRequest(UncertaintyParams):
    """Of which indexed image."""

    image_id: int = Field(ge=1, le=MAX_ID)
