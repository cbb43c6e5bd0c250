"""Data classes of the search pipeline: SearchQuery goes in, SearchResult comes out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from simile.core.errors import SimileError
from simile.core.records import Filter, FloatArray, Hit
from simile.images.loading.loader import PreparedImage

ReferencePopulation = Literal["new", "own"]
StageObserver = Callable[[str, float], None]  # (name of the stage, seconds)


@dataclass(frozen=True, kw_only=True)
class SearchParams:
    """Options of a search.

    Attributes:
        limit: The largest number of hits; None: no limit.
        offset: Number of nearest images to skip.
        filter: Only images that match it can be hits.
        radius: The largest distance of a hit; None: no bound.
        encode_only: Only encode the query; do not search.
        include_metadata: Give each hit its metadata.
        include_error: Measure the reconstruction error of a query image. It takes more than half of the encoder time.
        use_posterior: Compare posteriors (mu and sigma, see posterior.py) instead of means. Scores are not calibrated.
    """

    limit: int | None = 10
    offset: int = 0
    filter: Filter | None = None
    radius: float | None = None
    encode_only: bool = False
    include_metadata: bool = False
    include_error: bool = True
    use_posterior: bool = False


@dataclass(frozen=True, eq=False)
class QueryImage:
    """A query image, decoded for one encoder.

    Attributes:
        name: For display.
        data: The bytes of the file, to decode it again if another encoder becomes active.
        encoder: Fingerprint of the encoder that `prepared_image` was decoded for.
        prepared_image: The decoded image in the encoder's input size.
    """

    name: str
    data: bytes
    encoder: str
    prepared_image: PreparedImage


QueryTerm = QueryImage | int | FloatArray  # an image, the id of an indexed image, or a latent vector mu (d,)


@dataclass(frozen=True, eq=False)
class SearchQuery:
    """One search. Indexed images among its terms are not hits.

    Attributes:
        positives: Terms to search by: the mean of their mu.
        negatives: Terms to avoid: the mean of their mu is subtracted.
        params: Options of the search.
        attributes: Strength by attribute name. The query vector is shifted along these attributes.
    """

    positives: tuple[QueryTerm, ...]
    negatives: tuple[QueryTerm, ...] = ()
    params: SearchParams = field(default_factory=SearchParams)
    attributes: Mapping[str, float] = field(default_factory=dict)

    @property
    def terms(self) -> tuple[QueryTerm, ...]:
        """The positive terms, then the negative terms."""
        return self.positives + self.negatives

    @property
    def excluded_ids(self) -> set[int]:
        """Ids of the indexed images that are terms of this query: they are not hits."""
        return {term for term in self.terms if isinstance(term, int)}

    @property
    def is_single_term(self) -> bool:
        """Whether there is one positive term and no negative term."""
        return len(self.positives) == 1 and not self.negatives


@dataclass(frozen=True, kw_only=True)
class EncodedQuery:
    """A query as the encoder sees it. A vector has no name, id or size.

    Attributes:
        mu: (d,) float32, the latent vector that is searched for.
        sigma: (d,) float32; None without a variance.
        width: Of the query image, in pixels, like `height`.
        reconstruction_error: Mean squared error over values in [0, 1]; None if it was not measured.
        positives: The encoded terms, if the query has several.
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


EncodeOutcome = EncodedQuery | SimileError


@dataclass(frozen=True, kw_only=True)
class Confidence:
    """How far the result of a search can be trusted. None: unknown.

    Attributes:
        sigma: Mean sigma of the query over the indexed dimensions.
        error_percentile: Share of the collection with a lower reconstruction error, 0 to 100.
        unlike: Whether the query image is an outlier in this collection.
        unlike_reason: Why it is an outlier.
        false_alarm_rate: Share of usual images that `unlike` would be true for as well.
        false_alarm_among: The images that this rate was measured on: "new" (not used in training) or "own" (any image
            of the collection, if too few are known to be new).
    """

    sigma: float | None = None
    error_percentile: float | None = None
    unlike: bool | None = None
    unlike_reason: str | None = None
    false_alarm_rate: float | None = None
    false_alarm_among: ReferencePopulation | None = None


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """An encoded query and its hits.

    Attributes:
        hits: The nearest first.
        is_calibrated: Whether scores were calibrated on this collection.
        encoder: Fingerprint of the encoder of the query's mu; None: the active one.
    """

    query: EncodedQuery
    hits: list[Hit]
    confidence: Confidence = field(default_factory=Confidence)
    is_calibrated: bool = False
    encoder: str | None = None
