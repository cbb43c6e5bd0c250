"""What is asked of a collection, and what it answers: small frozen records."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from simile.core.records import Filter, FloatArray, Hit
from simile.images.loading.loader import PreparedImage


@dataclass(frozen=True)
class SearchParams:
    """How much of an answer is wanted.

    limit None: all, which only makes sense with `within`: none that is farther; 0: the query alone, without a search.
    metadata: what is said of each hit.
    error: how badly a picture is reconstructed; without it the network takes less than half of the time.
    posterior: by the distance between whole posteriors, see posterior.py; scores are not calibrated then.
    """

    limit: int | None = 10
    offset: int = 0
    filter: Filter | None = None
    radius: float | None = None
    include_metadata: bool = False
    include_error: bool = True
    use_posterior: bool = False


@dataclass(frozen=True, eq=False)
class QueryImage:
    """A picture that need not be indexed, decoded for one encoder; `data`, its bytes, should another come into use."""

    name: str
    data: bytes
    encoder: str
    prepared_image: PreparedImage


ReferencePopulation = Literal["new", "own"]
QueryTerm = QueryImage | int | FloatArray  # a picture, the id of an indexed image, or a mu (d,)


@dataclass(frozen=True, eq=False)
class SearchQuery:
    """One search. Several parts: by the mean of `positives` less the mean of `negatives`, both of mu.

    Images that are asked with are no hits. hidden: others that are none either, such as what a vector was made of.
    """

    positives: tuple[QueryTerm, ...]
    negatives: tuple[QueryTerm, ...] = ()
    params: SearchParams = field(default_factory=SearchParams)
    hidden_ids: frozenset[int] = frozenset()

    @property
    def terms(self) -> tuple[QueryTerm, ...]:
        """All of them."""
        return self.positives + self.negatives

    @property
    def excluded_ids(self) -> set[int]:
        """The indexed images that are no hits: those that are asked with, and the hidden ones."""
        return {part for part in self.terms if isinstance(part, int)} | self.hidden_ids

    @property
    def is_single_image(self) -> bool:
        """Whether it asks with one picture, as it is: not with a point between several."""
        return len(self.positives) == 1 and not self.negatives


@dataclass(frozen=True)
class EncodedQuery:
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
    positives: tuple[EncodedQuery, ...] = ()
    negatives: tuple[EncodedQuery, ...] = ()


@dataclass(frozen=True)
class Confidence:
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
    among: ReferencePopulation | None = None


@dataclass(frozen=True)
class SearchResult:
    """A query and its hits, the nearest first. `calibrated`: whether scores are measured on this collection.

    encoder: the fingerprint of the encoder that the query's mu is of; None: the one in use.
    """

    query: EncodedQuery
    hits: list[Hit]
    confidence: Confidence = field(default_factory=Confidence)
    is_calibrated: bool = False
    encoder: str | None = None
