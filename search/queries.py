"""Data classes of the search pipeline: SearchQuery goes in, SearchResult comes out, also as JSON-ready values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from simile.core.errors import SimileError
from simile.core.records import Box, Filter, FloatArray, Hit

if TYPE_CHECKING:  # the command line imports this module at start, and that takes long
    from simile.images.loading.loader import PreparedImage
    from simile.search.words.text import TextTerm
    from simile.search.words.vocabulary import Word

ReferencePopulation = Literal["new", "own"]
Combination = Literal["mean", "best"]
StageObserver = Callable[[str, float], None]  # (name of the stage, seconds)

# The fields of the HTTP API, which adds its URLs.
_QUERY_FIELDS = ("name", "image_id", "width", "height", "format", "reconstruction_error")
_HIT_FIELDS = (
    *("image_id", "distance", "score", "spread", "path", "width", "height", "format", "metadata"),
    *("verified", "relation", "copy_count", "group"),
)


@dataclass(frozen=True, kw_only=True)
class SearchParams:
    """Options of a search."""

    limit: int | None = 10  # the largest number of hits; None: no limit
    offset: int = 0  # number of nearest images to skip
    filter: Filter | None = None  # only images that match it can be hits
    radius: float | None = None  # the largest distance of a hit; None: no bound
    encode_only: bool = False  # only encode the query; do not search
    include_metadata: bool = False  # give each hit its metadata
    # Measure the reconstruction error of a query image. It takes more than half of the encoder time.
    include_error: bool = True
    # Compare posteriors (mu and sigma, see posterior.py) instead of means. Scores are not calibrated.
    use_posterior: bool = False
    min_score: float | None = None  # the smallest score of a hit; None: no bound
    verify: bool = False  # compare the first hits with the query image by their pixels; see ranking/verification.py
    distinct: bool = False  # show one image of each group of known copies or series; see results/copy_groups.py
    diversity: float = 0.0  # 0 to 1: how much hits should differ from each other; see results/diversity.py
    group_by: str | None = None  # a field: hits are in groups that share its value; `limit` is the number of groups
    group_size: int = 3  # the largest number of hits of a group
    # Of several images: search by the mean of their mu, or by each of them; see results/best_match.py.
    combine: Combination = "mean"

    @property
    def is_selective(self) -> bool:
        """Whether hits are selected among more neighbours than `limit`."""
        return self.distinct or self.diversity > 0 or self.group_by is not None


class HitOptions(TypedDict, total=False):
    """Options of a search that choose the hits; see SearchParams."""

    limit: int | None
    offset: int
    filter: Filter | None
    radius: float | None
    min_score: float | None
    verify: bool
    distinct: bool
    diversity: float
    group_by: str | None
    group_size: int
    combine: Combination


@dataclass(frozen=True, eq=False, kw_only=True)
class QueryImage:
    """A query image, decoded for one encoder."""

    name: str  # for display
    data: bytes  # the bytes of the file, to decode it again if another encoder becomes active
    encoder: str  # fingerprint of the encoder that `prepared_image` was decoded for
    prepared_image: PreparedImage  # the decoded image in the encoder's input size
    box: Box | None = None  # the part of the image that is searched for; None: all of it
    image_id: int | None = None  # of an indexed image, if a part of it is searched for


QueryTerm = QueryImage | int | FloatArray  # an image, the id of an indexed image, or a latent vector mu (d,)


@dataclass(frozen=True, eq=False)
class SearchQuery:
    """One search, by images, by a text, or both. Indexed images among its terms are not hits."""

    positives: tuple[QueryTerm, ...] = ()  # terms to search by: the mean of their mu
    negatives: tuple[QueryTerm, ...] = ()  # terms to avoid: the mean of their mu is subtracted
    params: SearchParams = field(default_factory=SearchParams)
    # Strength by attribute name. The query vector is shifted along these attributes.
    attributes: Mapping[str, float] = field(default_factory=dict)
    text: str | None = None  # words that the hits should have; see words/text.py

    @property
    def terms(self) -> tuple[QueryTerm, ...]:
        """The positive terms, then the negative terms."""
        return self.positives + self.negatives

    @property
    def excluded_ids(self) -> set[int]:
        """Ids of the indexed images that are terms of this query: they are not hits."""
        ids = (term.image_id if isinstance(term, QueryImage) else term for term in self.terms)
        return {image_id for image_id in ids if isinstance(image_id, int)}

    @property
    def is_by_best(self) -> bool:
        """Whether each of several images is searched by, instead of their mean."""
        return self.params.combine == "best" and not self.is_single_term and bool(self.positives)

    @property
    def is_single_term(self) -> bool:
        """Whether there is one positive term, no negative term and no text."""
        return len(self.positives) == 1 and not self.negatives and self.text is None


@dataclass(frozen=True, kw_only=True)
class EncodedQuery:
    """A query as the encoder sees it. A vector has no name, id or size."""

    mu: FloatArray  # (d,) float32, the latent vector that is searched for; (0,) for words alone
    has_text: bool = False  # whether mu is that of a text, or of images and a text: the encoder has a text tower
    sigma: FloatArray | None = None  # (d,) float32; None without a variance
    name: str | None = None
    image_id: int | None = None
    width: int | None = None  # of the query image, in pixels, like `height`
    height: int | None = None
    format: str | None = None
    reconstruction_error: float | None = None  # mean squared error over values in [0, 1]; None if it was not measured
    positives: tuple[EncodedQuery, ...] = ()  # the encoded terms, if the query has several
    negatives: tuple[EncodedQuery, ...] = ()


EncodeOutcome = EncodedQuery | SimileError


@dataclass(frozen=True, kw_only=True)
class Confidence:
    """How far the result of a search can be trusted. None: unknown."""

    sigma: float | None = None  # mean sigma of the query over the indexed dimensions
    error_percentile: float | None = None  # share of the collection with a lower reconstruction error, 0 to 100
    unlike: bool | None = None  # whether the query image is an outlier in this collection
    unlike_reason: str | None = None  # why it is an outlier
    false_alarm_rate: float | None = None  # share of usual images that `unlike` would be true for as well
    # "new": the rate was measured on images that were not used in training; "own": too few are known to be new.
    false_alarm_among: ReferencePopulation | None = None


@dataclass(frozen=True)
class HitGroup:
    """Hits with the same value of a field. `count`: number of images with it that match the filter."""

    value: str
    count: int
    image_ids: list[int]


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """An encoded query and its hits."""

    query: EncodedQuery
    hits: list[Hit]  # the nearest first; verified ones before others; group by group
    groups: list[HitGroup] | None = None  # with `group_by`, in the order of the hits
    confidence: Confidence = field(default_factory=Confidence)
    is_calibrated: bool = False  # whether scores were calibrated on this collection
    encoder: str | None = None  # fingerprint of the encoder of the query's mu; None: the active one
    text: str | None = None
    terms: tuple[TextTerm, ...] = ()  # the words of the text


def serialize_result(result: SearchResult) -> dict[str, Any]:
    """Serialise a result: `query`, `hits`, `groups` and `score_calibrated`."""
    hits = [serialize_hit(hit) for hit in result.hits]
    groups = None if result.groups is None else [vars(group) for group in result.groups]
    return {
        "query": serialize_query(result),
        "hits": hits,
        "groups": groups,
        "score_calibrated": result.is_calibrated,
    }


def serialize_query(result: SearchResult) -> dict[str, Any]:
    """Serialise the query of a result and its confidence; the latent vectors are left out."""
    fields = {name: getattr(result.query, name) for name in _QUERY_FIELDS} | vars(result.confidence)
    for side in ("positives", "negatives"):
        fields[side] = [{"image_id": term.image_id, "name": term.name} for term in getattr(result.query, side)]
    return fields | {"text": result.text, "words": [serialize_term(term) for term in result.terms]}


def serialize_term(term: TextTerm) -> dict[str, Any]:
    """Serialise a word of a text, and whether the hits should lack it."""
    return {**serialize_word(term.word), "absent": term.is_absent}


def serialize_word(word: Word) -> dict[str, Any]:
    """Serialise a word: its text, its AUC on held-out images, and the number of images with it."""
    return {"word": word.text, "auc": round(word.auc, 4), "count": word.count}


def serialize_hit(hit: Hit) -> dict[str, Any]:
    """Serialise one hit; `metadata` is None if the search did not include it."""
    return {name: getattr(hit, name) for name in _HIT_FIELDS}
