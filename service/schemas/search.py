"""Requests and responses of the API about searches, images and the state of the service."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Annotated, Literal, Self

import numpy as np
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue, model_validator
from pydantic.json_schema import SkipJsonSchema, WithJsonSchema

from simile.core.filters.parser import make_filter
from simile.core.records import Filter
from simile.search.attributes import make_attribute_strengths
from simile.search.queries import Combination, QueryTerm, SearchParams, SearchQuery

MAX_ID = 2**63 - 1  # BIGINT of SQL
MAX_LIMIT = 1000
MAX_QUERY_IMAGES = 32  # images in one query
MAX_BATCH_SEARCHES = 100
MAX_SEARCH_OFFSET = 1_000_000  # the index finds offset + limit neighbours to return the last few


def replace_surrogates(text: str) -> str:
    """Replace lone surrogates, which JSON cannot encode; file names on disk may be invalid Unicode."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _clean_text(value: object) -> object:
    return replace_surrogates(value) if isinstance(value, str) else value


def _wrap_in_list(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _check_bool_text(value: object) -> object:
    if isinstance(value, str) and value not in ("true", "false"):
        raise ValueError("write true or false")
    return value


DisplayText = Annotated[str, BeforeValidator(_clean_text)]  # text from the file system that goes into JSON
ImageIdField = Annotated[int, Field(ge=1, le=MAX_ID, description="The id of an indexed image.")]
ImageIdList = Annotated[list[ImageIdField], Field(max_length=MAX_QUERY_IMAGES)]
# Latent vectors lie around 0 with a spread of 1. The bound keeps squared distances within float32.
VectorValue = Annotated[float, Field(ge=-1e9, le=1e9, allow_inf_nan=False)]
VectorField = Annotated[
    list[VectorValue],
    Field(min_length=1, max_length=65536, description="A complete latent vector mu of the active encoder."),
]
BoolParam = Annotated[bool, BeforeValidator(_check_bool_text)]  # pydantic alone also accepts 1, yes and on
TextParam = Annotated[str, Field(max_length=4096)]
TextList = Annotated[list[TextParam], Field(max_length=32)]
TextListParam = Annotated[TextList, BeforeValidator(_wrap_in_list, json_schema_input_type=TextList | TextParam)]
NonNegativeIntParam = Annotated[int | None, Field(ge=0, le=MAX_ID)]
DistanceParam = Annotated[float | None, Field(ge=0, le=1e18, allow_inf_nan=False)]
ScoreParam = Annotated[float | None, Field(ge=0, le=1, allow_inf_nan=False)]
BoxParam = Annotated[str | None, Field(max_length=100)]
IncludeItem = Annotated[
    str, Field(pattern="^(reconstruction|metadata|photo)(,(reconstruction|metadata|photo))*$", max_length=100)
]
IncludeList = Annotated[list[IncludeItem], Field(max_length=8)]
IncludeParam = Annotated[IncludeList, BeforeValidator(_wrap_in_list, json_schema_input_type=IncludeList | IncludeItem)]
MetadataName = Annotated[str, Field(min_length=1, max_length=200, pattern="^[^!<>=\\s]([^!<>=]*[^!<>=\\s])?$")]
MetadataValue = Annotated[
    Annotated[str, Field(max_length=4096)]
    | Annotated[int, Field(ge=-(2**53), le=2**53)]
    | Annotated[float, Field(allow_inf_nan=False)]
    | None,
    WithJsonSchema({"type": ["string", "number", "null"], "maxLength": 4096}),
]
MeanSigma = Annotated[
    float | None, Field(description="Mean σ of the encoder over the indexed dimensions; null without a variance.")
]
MetadataResponse = dict[DisplayText, DisplayText | int | float]


class RequestBody(BaseModel):
    """A body in which an unknown field is an error."""

    model_config = ConfigDict(extra="forbid")


def check_single_field(body: BaseModel, *names: str) -> None:
    """Check that a body has exactly one of these fields. Raises ValueError."""
    given = body.model_fields_set & set(names)
    if len(given) != 1 or getattr(body, min(given)) is None:
        raise ValueError(f"give exactly one of {', '.join(names[:-1])} and {names[-1]}")


class FilterParams(BaseModel):
    """The conditions that an image must satisfy; all of them hold together."""

    where: TextListParam = Field(
        [],
        description="Conditions on metadata: `class=shirt`, `price<10 or not exists price`. = != < <= > >= contains in "
        "exists; and, or, not, parentheses.",
    )
    under: str | None = Field(None, max_length=4096, description="Files in this folder or archive; its full path.")
    format: TextListParam = Field([], description="Files of one of these formats: `jpeg`, `png` …")
    min_bytes: NonNegativeIntParam = Field(None, description="Minimum file size in bytes.")
    max_bytes: NonNegativeIntParam = Field(None, description="Maximum file size in bytes.")
    min_width: NonNegativeIntParam = Field(None, description="Minimum width in pixels.")
    max_width: NonNegativeIntParam = Field(None, description="Maximum width in pixels.")
    min_height: NonNegativeIntParam = Field(None, description="Minimum height in pixels.")
    max_height: NonNegativeIntParam = Field(None, description="Maximum height in pixels.")
    since: str | None = Field(None, max_length=64, description="Files modified at this time or later; ISO 8601.")
    until: str | None = Field(None, max_length=64, description="Files modified at this time or day, or earlier.")
    taken: str | None = Field(None, max_length=64, description="Photos taken then: `2024-05`, `2024-05..2024-06`.")
    camera: str | None = Field(None, max_length=200, description="Photos of a camera with this in its name.")
    rating: str | None = Field(None, max_length=10, description="Photos with this rating: `5`, `>=3`.")
    keyword: TextListParam = Field([], description="Photos with all of these keywords.")
    near: str | None = Field(None, max_length=100, description="Photos taken near a place: `52.5,13.4,10km`.")

    def to_filter(self) -> Filter | None:
        """Return the filter, None without conditions. Raises BadSetting."""
        fields = {name: getattr(self, name) for name in FilterParams.model_fields}
        return make_filter(formats=fields.pop("format"), **fields)


class ImageListOptions(FilterParams):
    """Which page of the collection to return."""

    sort: Literal["id", "newest", "taken", "unlike"] = Field(
        "id",
        description="`taken`: newest photo first, those without a date last. `unlike`: by distance to the 10th "
        "neighbour.",
    )
    limit: int = Field(100, ge=1, le=MAX_LIMIT, description="Maximum number of images.")
    offset: int = Field(0, ge=0, le=MAX_ID, description="Number of images to skip, counted from the cursor.")
    cursor: str | None = Field(None, max_length=200, description="`next` of the previous page, with the same `sort`.")


class SearchOptions(FilterParams):
    """The options of a search."""

    within: DistanceParam = Field(None, description="Only images at this distance or nearer; `limit` applies too.")
    distance: DistanceParam = Field(None, description="The same as `within`.")
    limit: int = Field(10, ge=1, le=MAX_LIMIT, description="Maximum number of hits.")
    offset: int = Field(0, ge=0, le=MAX_SEARCH_OFFSET, description="Number of nearest hits to skip.")
    include: IncludeParam = Field(
        [],
        description="`reconstruction`: reconstructions of the query and of each hit. `metadata`: the metadata of each "
        "hit. `photo`: its EXIF, XMP and IPTC metadata. Repeat the option or separate the names by commas.",
    )
    certainty: Literal["full", "quick"] = Field(
        "full",
        description="`quick`: skip the reconstruction error, which takes most of the network's time; `unlike` then "
        "depends on distance and σ only.",
    )
    posterior: BoolParam = Field(False, description="Rank by the distance of posteriors (μ and σ); not calibrated.")
    min_score: ScoreParam = Field(None, description="Only images with this `score` or a higher one.")
    verify: BoolParam = Field(
        False,
        description="Compare the 20 nearest images with the query image by their pixels; those that show the same come "
        "first. Only for one image or `image_id`, and not in a batch.",
    )
    distinct: BoolParam = Field(
        False,
        description="Only the nearest image of known copies or a series is a hit; `copy_count` is the number of the "
        "others. They are known from `simile dedup` and decisions.",
    )
    diversity: float = Field(
        0.0,
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="How much hits should differ from each other, by maximal marginal relevance among the 500 nearest; "
        "0: not at all.",
    )
    group_by: str | None = Field(
        None,
        min_length=1,
        max_length=200,
        description="Hits in groups that share a value of metadata or of `camera`, `month` …: `limit` is then the "
        "number of groups, `offset` skips groups, and images without a value are no hits.",
    )
    group_size: int = Field(3, ge=1, le=100, description="With `group_by`: maximum number of hits of a group.")
    combine: Combination = Field(
        "mean",
        description="Of several images: `mean` searches by the mean of their latent vectors minus the mean of the "
        "negatives, `best` by each of them: `distance` is that to the nearest, and images nearer to a negative are "
        "left out.",
    )
    box: BoxParam = Field(
        None,
        description="Search by a part of one image, an upload or `image_id`: x, y, width and height as shares of the "
        "upright image, `0.25,0,0.5,1`.",
    )
    text: Annotated[str, Field(min_length=1, max_length=1000)] | SkipJsonSchema[None] = Field(
        None,
        description="Words that the hits should have, alone or with images: `red dress`; `-striped`: without it. The "
        "`score` is then the probability of all words, times that of the images, and `distance` is -ln(score). "
        "GET /v1/words lists the known words. An encoder with a text tower takes any text, without calibrated scores.",
    )
    plus: TextListParam = Field([], description="Attributes that the hits should have more of than the query.")
    minus: TextListParam = Field([], description="Attributes that the hits should have less of than the query.")
    strength: float = Field(
        1.0,
        ge=-100,
        le=100,
        allow_inf_nan=False,
        description="Strength of `plus` and `minus`; 1 is the step from the mean without to the mean with it.",
    )

    @model_validator(mode="after")
    def _check_distance_aliases(self) -> Self:
        if self.within is not None and self.distance is not None and self.within != self.distance:
            raise ValueError("within and distance are two names of one option: give one of them")
        return self

    def get_includes(self) -> frozenset[str]:
        """Return the parts to include: `reconstruction`, `metadata`, `photo`."""
        return frozenset(name for names in self.include for name in names.split(","))

    def to_search_params(self) -> SearchParams:
        """Return the parameters for a Searcher. Raises BadSetting."""
        return SearchParams(
            limit=self.limit,
            offset=self.offset,
            filter=self.to_filter(),
            radius=self.distance if self.within is None else self.within,
            include_metadata="metadata" in self.get_includes(),
            include_error=self.certainty == "full",
            use_posterior=self.posterior,
            min_score=self.min_score,
            verify=self.verify,
            distinct=self.distinct,
            diversity=self.diversity,
            group_by=self.group_by,
            group_size=self.group_size,
            combine=self.combine,
        )

    def to_attribute_strengths(self) -> dict[str, float]:
        """Return the signed strength of each attribute. Raises BadSetting for a name on both sides."""
        return make_attribute_strengths(self.plus, self.minus, self.strength)


_TERM_FIELDS = ("image_id", "vector", "positive")
_REQUIRES_TERM: list[JsonValue] = [{"required": [name]} for name in _TERM_FIELDS]
_REQUIRES_TEXT_ALONE: JsonValue = {"required": ["text"], "not": {"anyOf": _REQUIRES_TERM}}


class SearchRequest(SearchOptions):
    """A search by id, by vector, or by several indexed images; exactly one of the three, or a text without them."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"oneOf": [*_REQUIRES_TERM, _REQUIRES_TEXT_ALONE]},
    )

    image_id: ImageIdField | SkipJsonSchema[None] = None
    vector: VectorField | SkipJsonSchema[None] = None
    positive: Annotated[ImageIdList, Field(min_length=1)] | SkipJsonSchema[None] = Field(
        None, description="Images that the hits should resemble, by the mean of their mu."
    )
    negative: ImageIdList = Field(
        [],
        description="Images that the hits should not resemble; the mean of their mu is subtracted. Only with "
        "`positive`; at most 32 images together.",
    )

    @model_validator(mode="after")
    def _check_one_query(self) -> Self:
        if self.text is None or self.model_fields_set & set(_TERM_FIELDS):
            check_single_field(self, *_TERM_FIELDS)
        if self.negative and self.positive is None:
            raise ValueError("negative goes with positive only")
        if len(self.positive or ()) + len(self.negative) > MAX_QUERY_IMAGES:
            raise ValueError(f"positive and negative are more than {MAX_QUERY_IMAGES} images together")
        return self

    def to_query(self) -> SearchQuery:
        """Return the query for a Searcher. Raises BadSetting."""
        positives: tuple[QueryTerm, ...] = tuple(self.positive or ())
        if self.vector is not None:
            positives = (np.asarray(self.vector, np.float32),)
        elif self.image_id is not None:
            positives = (self.image_id,)
        return SearchQuery(
            positives, tuple(self.negative), self.to_search_params(), self.to_attribute_strengths(), self.text
        )


class SearchForm(SearchOptions):
    """The fields of a search form other than its files `file` and `negative`."""

    positive_id: ImageIdList = Field([], description="Indexed images that the hits should resemble as well.")
    negative_id: ImageIdList = Field([], description="Indexed images that the hits should not resemble.")


class SearchBatchRequest(RequestBody):
    """Several independent searches."""

    searches: list[SearchRequest] = Field(min_length=1, max_length=MAX_BATCH_SEARCHES)


class QueryImageResponse(BaseModel):
    """One of several images of a query: an indexed image or an upload."""

    image_id: int | None
    name: str | None


class WordResponse(BaseModel):
    """A word that `text` may have."""

    word: DisplayText
    auc: float = Field(description="How well it separates images that it was not learned from: 0.5 chance, 1 always.")
    count: int = Field(description="Number of images with this word.")


class TextTermResponse(WordResponse):
    """A word of a text. `absent`: it had a minus."""

    absent: bool


class WordListResponse(BaseModel):
    """Known words, those that begin as requested first, then the most frequent."""

    words: list[WordResponse]
    total: int = Field(description="Number of known words.")
    any_text: bool = Field(False, description="Whether a text may be anything: the encoder has a text tower.")


class QueryResponse(BaseModel):
    """The query, and how reliable the result is. A vector has no name and no size."""

    name: str | None
    image_id: int | None
    width: int | None
    height: int | None
    format: str | None
    reconstruction_error: float | None = Field(description="Mean squared error, for values in [0, 1].")
    error_percentile: float | None = Field(None, description="Percentile of the error in this collection, 0 to 100.")
    sigma: MeanSigma = None
    unlike: bool | None = Field(
        None,
        description="Whether the image is an outlier of this collection, by its reconstruction error, the distance to "
        "its nearest neighbour, or its σ. Null until measured, and for several images.",
    )
    unlike_reason: str | None = Field(None, description="Why `unlike` is true.")
    false_alarm_rate: float | None = Field(None, description="Share of usual images for which `unlike` is true too.")
    false_alarm_among: Literal["new", "own"] | None = Field(
        None,
        description="The images that the rate was measured on. `new`: images of this collection that the encoder was "
        "not trained on. `own`: any images of it, if fewer than 40 are known to be new; new images then raise more "
        "false alarms.",
    )
    positives: list[QueryImageResponse] = Field([], description="For several images: those to resemble.")
    negatives: list[QueryImageResponse] = Field([], description="For several images: those not to resemble.")
    reconstruction: str | None = Field(None, description="A PNG as a data URL; null if not included.")
    text: DisplayText | None = Field(None, description="The text of the search.")
    words: list[TextTermResponse] = Field([], description="The words of the text, each with its reliability.")


class HitResponse(BaseModel):
    """One similar image; `distance` is the Euclidean distance between indexed vectors."""

    image_id: int
    distance: float
    score: float = Field(
        description="1 / (1 + E), where E is the expected number of images of this collection at this distance from "
        "one of its images: near 1 for a match that does not happen by chance, 0.5 for a usual nearest neighbour. "
        "1 / (1 + distance) until calibrated."
    )
    spread: float | None = Field(None, description="Standard deviation of the distance, from the encoder's σ.")
    path: DisplayText = Field(description="The first path of the image on the server; with `under`, the first there.")
    width: int
    height: int
    format: str
    file_url: str
    thumbnail_url: str
    reconstruction_url: str | None = None
    metadata: MetadataResponse | None = Field(None, description="The metadata of the image; null if not included.")
    photo: PhotoResponse | None = Field(None, description="EXIF, XMP and IPTC; null if not included, or without any.")
    verified: bool | None = Field(
        None,
        description="With `verify`: whether it shows the same as the query image, by their pixels. Null if they were "
        "not compared: the image is not among the 20 nearest, or its file can't be read.",
    )
    relation: str | None = Field(
        None, description="How a verified image and the query image differ: `mirrored`, `cropped to 42%`."
    )
    copy_count: int | None = Field(None, description="With `distinct`: number of images left out as its copies.")
    group: DisplayText | None = Field(None, description="With `group_by`: the value of its group.")


class HitGroupResponse(BaseModel):
    """Hits that share a value. `count`: number of images with it that match the filter."""

    value: DisplayText
    count: int
    image_ids: list[int]


class SearchResponse(BaseModel):
    """The query and its hits, nearest first, group by group; verified hits come before others."""

    query: QueryResponse
    hits: list[HitResponse]
    groups: list[HitGroupResponse] | None = Field(None, description="With `group_by`: the group of the nearest first.")
    score_calibrated: bool = Field(False, description="Whether scores are calibrated on this collection.")


class ImageResponse(BaseModel):
    """An indexed image. `size` is in bytes; `paths` are the first 100 of `path_count` files with the same bytes."""

    image_id: int
    path: DisplayText
    paths: list[DisplayText]
    path_count: int
    width: int
    height: int
    format: str
    size: int
    sha256: str
    created_at: datetime
    reconstruction_error: float | None = Field(description="Mean squared error; null in lists until measured.")
    metadata: MetadataResponse = Field({}, description="The metadata of the first file of the image.")
    file_url: str
    thumbnail_url: str
    reconstruction_url: str


class PhotoResponse(BaseModel):
    """The EXIF, XMP and IPTC metadata of a photo, also of XMP sidecars. Null: missing, or impossible."""

    model_config = ConfigDict(from_attributes=True)

    taken: str | None = Field(
        validation_alias="taken_text", description="Local time, with its offset from UTC if the photo tells; ISO 8601."
    )
    camera: str | None
    lens: str | None
    exposure_time: float | None = Field(description="In seconds.")
    aperture: float | None = Field(description="The f-number.")
    iso: int | None
    focal_length: float | None = Field(description="In millimetres, of the lens itself.")
    latitude: float | None = Field(description="Degrees, positive in the north.")
    longitude: float | None = Field(description="Degrees, positive in the east.")
    rating: int | None = Field(description="0 (none) to 5 stars; -1: rejected.")
    keywords: list[str]
    title: str | None
    description: str | None
    copyright: str | None


class QualityMeasuresResponse(BaseModel):
    """The quality of an image: measures of its pixels, and the names of its issues."""

    model_config = ConfigDict(from_attributes=True)

    issues: list[str] = Field([], description="Names of its issues, which are values of the filter `quality`.")
    sharpness: float | None = Field(description="0.55 to 1 for sharp photos; null without details.")
    brightness: float = Field(description="Mean, 0 to 1.")
    contrast: float = Field(description="Standard deviation of the channel that varies most, 0 to 0.5.")
    shadows: float = Field(description="Share of the pixels that are black, 0 to 1.")
    highlights: float = Field(description="Share of the pixels that are white, 0 to 1.")
    profile: str = Field(description="`other`: a colour profile that is not sRGB; `unusable`: a damaged one.")


class ImageDetailResponse(ImageResponse):
    """An indexed image with the encoder's uncertainty, the photo's metadata and the quality of its pixels."""

    sigma: MeanSigma = None
    photo: PhotoResponse | None = Field(None, description="Of the first file of the image that has any.")
    partners: list[DisplayText] = Field([], description="Its raw file, and the film of a Live Photo, in its folder.")
    quality: QualityMeasuresResponse | None = Field(None, description="Null if the image was not measured.")


class ImageListItemResponse(ImageResponse):
    """An image in a list."""

    unlike_distance: float | None = Field(None, description="With `sort=unlike`: the distance to the 10th neighbour.")


class ImageListResponse(BaseModel):
    """A page of the collection."""

    images: list[ImageListItemResponse]
    total: int = Field(description="Number of images that match the filter.")
    limit: int
    offset: int
    next: str | None = Field(None, description="The `cursor` of the next page; null on the last page.")


class MetadataRequest(RequestBody):
    """New metadata of an image. It replaces the old metadata; a name with null is removed."""

    metadata: dict[MetadataName, MetadataValue] = Field(max_length=100)

    def to_texts(self) -> dict[str, str]:
        """Return the metadata as text, as the catalogue stores it; numbers as in JSON."""
        return {
            name: value if isinstance(value, str) else json.dumps(value)
            for name, value in self.metadata.items()
            if value is not None
        }


class DuplicateMatchResponse(BaseModel):
    """An image of the collection of which an upload is a copy."""

    image_id: int
    path: DisplayText
    tier: str
    distance: float
    agreement: float | None
    reason: str
    file_url: str
    thumbnail_url: str


class AddImageResponse(ImageResponse):
    """The added image, or the image of which the upload is a copy."""

    duplicate_of: int | None = Field(None, description="With `if_duplicate=link`: the id of the existing copy.")
    duplicates: list[DuplicateMatchResponse] | None = Field(None, description="Existing copies, with `if_duplicate`.")


class ProblemFieldError(BaseModel):
    """One invalid field of a request."""

    field: str
    detail: str


class ProblemResponse(BaseModel):
    """Problem details as in RFC 9457; docs/api.md lists the types."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    errors: list[ProblemFieldError] | None = None
    duplicates: list[DuplicateMatchResponse] | None = None


class SearchBatchProblemResponse(BaseModel):
    """Why one search of a batch failed."""

    problem: ProblemResponse


class SearchBatchResponse(BaseModel):
    """The results of a batch, in the order of its searches."""

    results: list[SearchResponse | SearchBatchProblemResponse]
