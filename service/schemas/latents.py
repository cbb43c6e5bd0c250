"""What goes out as JSON about places in the latent space."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.json_schema import SkipJsonSchema

from simile.explore.attributes.directions import Drag
from simile.explore.latent.inputs import Part
from simile.explore.latent.interpolation import How
from simile.search.attributes import Attribute
from simile.service.schemas.search import MAX_ID, HitOut, ImageIdField, Text, VectorValue


class LatentOut(BaseModel):
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
    nearest: list[HitOut]


class FrameOut(BaseModel):
    """One decoded place, and the real picture nearest to it."""

    mu: list[float]
    picture: str
    nearest: HitOut | None


class MorphOut(BaseModel):
    """The frames; `stops`: at which of them the parts stand. `changes`: root mean square from each to the next."""

    how: How
    names: list[str]
    stops: list[int]
    changes: list[float]
    frames: list[FrameOut]


class SampleOut(BaseModel):
    """One of them."""

    mu: list[float]
    picture: str


class SamplesOut(BaseModel):
    """The same for the same `seed`, which was asked for or is 0, by the same encoder and collection."""

    seed: int
    samples: list[SampleOut]


class StepOut(BaseModel):
    """One step of a dimension."""

    mu: list[float]
    picture: str
    nearest: HitOut | None


class DimensionOut(BaseModel):
    """One dimension. `deviation`: of mu over the collection."""

    dim: int
    deviation: float
    frames: list[StepOut]


class TraversalOut(BaseModel):
    """`steps`: where the frames of each dimension stand, in deviations."""

    name: str
    steps: list[float]
    dimensions: list[DimensionOut]


class DragOut(BaseModel):
    """By how much another attribute's score changes when this one is pushed by 1."""

    name: str
    cosine: float
    change: float


class AttributeOut(BaseModel):
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
    drags: list[DragOut]


class AttributesOut(BaseModel):
    attributes: list[AttributeOut]


class AppliedOut(BaseModel):
    """A place pushed along an attribute, once for each strength, decoded."""

    strength: float
    mu: list[float]
    picture: str


class ApplyOut(BaseModel):
    """`name`: of the picture; `pictures` in the order of the strengths, in its aspect."""

    attribute: str
    name: str
    width: int
    height: int
    pictures: list[AppliedOut]


class OutlierOut(BaseModel):
    """A picture little like the rest. `score`: evidence in nats; `ranks`: of each signal, 1 the least like it."""

    image_id: int
    path: str
    score: float
    ranks: dict[str, float]
    reason: str
    thumbnail_url: str
    reconstruction_url: str | None


class OutliersOut(BaseModel):
    """The strangest first. `total`: how many are listed at all; `neighbour`: the k whose distance counts."""

    outliers: list[OutlierOut]
    images: int
    neighbour: int
    total: int
    limit: int
    offset: int


class UncertaintyOut(BaseModel):
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


def attribute_out(attribute: Attribute, drags: list[Drag]) -> AttributeOut:
    """What is known of a stored attribute, but for its directions."""
    about = {name: getattr(attribute, name) for name in AttributeOut.model_fields if name != "drags"}
    return AttributeOut(**about, drags=[DragOut(**vars(drag)) for drag in drags])


MOST_PARTS = 8
MOST_FRAMES = 64
MOST_SAMPLES = 64
MOST_STEPS = 400  # pictures of a traversal
MOST_STRENGTHS = 31
NEAREST = 10  # of an upload

Name = Annotated[str, Field(pattern="^[a-z0-9][a-z0-9_-]{0,63}$", description="Of an attribute, such as `smile`.")]
Strength = Annotated[float, Field(ge=-100, le=100, allow_inf_nan=False)]
Seed = Annotated[int, Field(ge=0, le=2**32 - 1, description="The same for the same seed.")]
Vector = Annotated[list[VectorValue], Field(min_length=1, max_length=65536)]
Weight = Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]


class PartIn(BaseModel):
    """An indexed image, or a mu."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"oneOf": [{"required": [name]} for name in ("image_id", "vector")]}
    )

    image_id: ImageIdField | SkipJsonSchema[None] = None
    vector: Vector | SkipJsonSchema[None] = Field(None, description="A mu of the active encoder, all of it.")

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        given = self.model_fields_set & {"image_id", "vector"}
        if len(given) != 1 or getattr(self, min(given)) is None:
            raise ValueError("give exactly one of image_id and vector")
        return self

    def part(self) -> Part:
        """The same for explore/."""
        if self.image_id is not None:
            return self.image_id
        return np.asarray(self.vector, np.float32)


class WeighedIn(PartIn):
    """An indexed image, or a mu, and how much of it."""

    weight: Weight = 1.0


class Moves(BaseModel):
    """How a place is put together: parts mixed, then attributes pushed, then single dimensions moved."""

    model_config = ConfigDict(extra="forbid")

    how: How = Field("linear", description="`spherical`: of two parts; the direction turns, the length grows evenly.")
    attributes: dict[Name, Strength] = Field(
        {}, max_length=50, description="By name how far each is pushed; 1: from the average without it to that with it."
    )
    dims: dict[Annotated[str, Field(pattern="^[0-9]{1,5}$")], Strength] = Field(
        {}, max_length=500, description="By dimension how far it is moved, in deviations of the collection."
    )
    nearest: int = Field(0, ge=0, le=100, description="So many of the real pictures nearest to it.")
    picture: bool = Field(True, description="Whether it is to be decoded.")
    parts: Sequence[WeighedIn] = ()


class LatentIn(Moves):
    """A place put together from indexed images and mus."""

    parts: list[WeighedIn] = Field(min_length=1, max_length=MOST_PARTS, description="Mixed by their weights.")


class LatentForm(Moves):
    """The same from pictures, and from others behind them."""

    parts: list[WeighedIn] = Field([], max_length=MOST_PARTS - 1, description="To be mixed with the files.")
    weights: list[Weight] = Field([], max_length=MOST_PARTS, description="Of the files, in order; left out: 1 each.")
    nearest: int = Field(NEAREST, ge=0, le=100, description="So many of the real pictures nearest to it.")


class Way(BaseModel):
    """How a morph goes."""

    model_config = ConfigDict(extra="forbid")

    steps: int = Field(16, ge=2, le=MOST_FRAMES, description="Frames from each to the next, both included.")
    how: How = "linear"
    parts: Sequence[PartIn] = ()


class MorphIn(Way):
    """A way through two places or more."""

    parts: list[PartIn] = Field(min_length=2, max_length=MOST_PARTS)


class MorphForm(Way):
    """The same through pictures, and through others behind them."""

    parts: list[PartIn] = Field([], max_length=MOST_PARTS - 1, description="Where it leads after the files.")


class Draws(BaseModel):
    """How many pictures that were never taken, and how unusual."""

    model_config = ConfigDict(extra="forbid")

    count: int = Field(16, ge=1, le=MOST_SAMPLES)
    temperature: float = Field(1.0, ge=0, le=100, allow_inf_nan=False, description="Below 1: more usual pictures.")
    seed: Seed = 0


class SamplesIn(Draws):
    """Pictures that were never taken."""

    source: Literal["prior", "mixture", "image"] = Field(
        "prior", description="`mixture`: Gaussians fitted to the collection. `image`: around `image_id`."
    )
    image_id: ImageIdField | SkipJsonSchema[None] = None

    @model_validator(mode="after")
    def _image_or_not(self) -> Self:
        given = "image_id" in self.model_fields_set
        if (self.source == "image") != given or (given and self.image_id is None):
            raise ValueError("give image_id with the source image, and only then")
        return self


class Walk(BaseModel):
    """Single dimensions from low to high."""

    model_config = ConfigDict(extra="forbid")

    dims: int | list[Annotated[int, Field(ge=0, le=65535)]] = Field(
        8, description="How many, the most active ones first; or which."
    )
    span: float = Field(3.0, gt=0, le=100, description="To either side, in deviations of the collection.")
    steps: int = Field(9, ge=2, le=100)
    nearest: bool = True

    @model_validator(mode="after")
    def _not_too_many(self) -> Self:
        count = self.dims if isinstance(self.dims, int) else len(self.dims)
        if not 1 <= count <= 1000 or count * self.steps > MOST_STEPS:
            raise ValueError(f"at least one dimension, and dimensions times steps at most {MOST_STEPS}")
        return self

    def text(self) -> str:
        """dims as explore/ reads them."""
        return str(self.dims) if isinstance(self.dims, int) else ",".join(map(str, self.dims)) + ","


class TraversalIn(Walk):
    """The same, and where it starts."""

    start: PartIn | None = Field(None, description="Left out: the mean of the collection.")


class LearnIn(BaseModel):
    """What an attribute is to be learned from: images with and without it, or a condition on what is said of them."""

    model_config = ConfigDict(extra="forbid")

    name: Name
    positive: list[ImageIdField] = Field([], max_length=100_000)
    negative: list[ImageIdField] = Field([], max_length=100_000)
    where: list[Text] = Field([], max_length=32, description="Images that satisfy these, against all others.")
    seed: Seed = 0

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if bool(self.where) == bool(self.positive or self.negative) or bool(self.positive) != bool(self.negative):
            raise ValueError("give both positive and negative, or where alone")
        return self


class Strengths(BaseModel):
    """How far an attribute is pushed."""

    model_config = ConfigDict(extra="forbid")

    strengths: list[Strength] = Field(
        [1.0],
        min_length=1,
        max_length=MOST_STRENGTHS,
        description="A picture for each; 1: from the average without it to that with it; below 0: less of it.",
    )


class ApplyIn(Strengths, PartIn):
    """Of which place, and how far an attribute is pushed from there."""


class Sampling(BaseModel):
    """How an encoder's doubt is measured."""

    model_config = ConfigDict(extra="forbid")

    samples: int = Field(32, ge=2, le=256)
    seed: Seed = 0


class UncertaintyIn(Sampling):
    """Of which indexed image."""

    image_id: int = Field(ge=1, le=MAX_ID)
