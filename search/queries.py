"""What is asked of a collection, and what it answers: small frozen records."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from simile.core.records import Filter, FloatArray, Hit
from simile.images.loading.loader import Prepared


@dataclass(frozen=True)
class Asked:
    """How much of an answer is wanted.

    limit None: all, which only makes sense with `within`: none that is farther; 0: the query alone, without a search.
    metadata: what is said of each hit.
    error: how badly a picture is reconstructed; without it the network takes less than half of the time.
    posterior: by the distance between whole posteriors, see posterior.py; scores are not calibrated then.
    """

    limit: int | None = 10
    offset: int = 0
    only: Filter | None = None
    within: float | None = None
    metadata: bool = False
    error: bool = True
    posterior: bool = False


@dataclass(frozen=True, eq=False)
class AskedPicture:
    """A picture that need not be indexed, decoded for one encoder; `data`, its bytes, should another come into use."""

    name: str
    data: bytes
    encoder: str
    prepared: Prepared


Among = Literal["new", "own"]
Part = AskedPicture | int | FloatArray  # a picture, the id of an indexed image, or a mu (d,)


@dataclass(frozen=True, eq=False)
class Question:
    """One search. Several parts: by the mean of `positives` less the mean of `negatives`, both of mu.

    Images that are asked with are no hits. hidden: others that are none either, such as what a vector was made of.
    """

    positives: tuple[Part, ...]
    negatives: tuple[Part, ...] = ()
    asked: Asked = field(default_factory=Asked)
    hidden: frozenset[int] = frozenset()

    @property
    def parts(self) -> tuple[Part, ...]:
        """All of them."""
        return self.positives + self.negatives

    @property
    def ids(self) -> set[int]:
        """The indexed images that are no hits: those that are asked with, and the hidden ones."""
        return {part for part in self.parts if isinstance(part, int)} | self.hidden

    @property
    def picture(self) -> bool:
        """Whether it asks with one picture, as it is: not with a point between several."""
        return len(self.positives) == 1 and not self.negatives


@dataclass(frozen=True)
class Query:
    """What was asked. mu, sigma: (d,) float32; sigma None without a variance. A vector has no name, id or size.

    positives, negatives: what it was made of, where that was more than one picture.
    """

    mu: FloatArray
    sigma: FloatArray | None = None
    name: str | None = None
    image_id: int | None = None
    width: int | None = None
    height: int | None = None
    format: str | None = None
    reconstruction_error: float | None = None
    positives: tuple[Query, ...] = ()
    negatives: tuple[Query, ...] = ()


@dataclass(frozen=True)
class Certainty:
    """How far an answer can be trusted.

    sigma: the query's mean σ over the indexed dimensions. error_percentile: 0 to 100, where its reconstruction error
    stands among those of the collection. unlike: whether it is unlike this collection, and the `reason`;
    false_alarm_rate: the share of pictures that belong there of which the same would be said; `among`: "new" ones, that
    the encoder was not trained on, or the collection's "own", where too few are known to be new. None: unknown.
    """

    sigma: float | None = None
    error_percentile: float | None = None
    unlike: bool | None = None
    reason: str | None = None
    false_alarm_rate: float | None = None
    among: Among | None = None


@dataclass(frozen=True)
class Answer:
    """A query and its hits, the nearest first. `calibrated`: whether scores are measured on this collection.

    encoder: the fingerprint of the encoder that the query's mu is of; None: the one in use.
    """

    query: Query
    hits: list[Hit]
    certainty: Certainty = field(default_factory=Certainty)
    calibrated: bool = False
    encoder: str | None = None
