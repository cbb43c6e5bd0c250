"""What comes in about places in the latent space: as JSON, or beside pictures in a form."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.json_schema import SkipJsonSchema

from explore.morphing import How
from explore.parts import Part
from service.schemas import MAX_ID, ImageIdField, Text, VectorValue

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
