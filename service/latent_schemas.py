"""What goes out as JSON about places in the latent space."""

from __future__ import annotations

from pydantic import BaseModel

from explore.attributes import Attribute, Drag
from explore.morphing import How
from service.schemas import HitOut


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
