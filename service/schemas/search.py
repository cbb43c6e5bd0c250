"""What goes in and out as JSON."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Annotated, Literal, Self

import numpy as np
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic.json_schema import SkipJsonSchema, WithJsonSchema

from simile.core.filter_parser import make_filter
from simile.core.records import Filter
from simile.search.queries import SearchParams, SearchQuery

MAX_ID = 2**63 - 1  # what SQL calls BIGINT
MAX_LIMIT = 1000
MAX_QUERY_IMAGES = 32  # pictures that one search may be made of
MAX_BATCH_SEARCHES = 100  # in a batch
MAX_SEARCH_OFFSET = 1_000_000  # the index finds offset + limit neighbours to show the last few

ImageIdField = Annotated[int, Field(ge=1, le=MAX_ID, description="The id of an indexed image.")]
# Latents lie around 0 with a spread of 1. The bound keeps squared distances within float32.
VectorValue = Annotated[float, Field(ge=-1e9, le=1e9, allow_inf_nan=False)]


def _wrap_in_list(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _check_bool_text(value: object) -> object:
    if isinstance(value, str) and value not in ("true", "false"):
        raise ValueError("write true or false")
    return value


BoolParam = Annotated[bool, BeforeValidator(_check_bool_text)]  # pydantic would take 1, yes and on as well
TextParam = Annotated[str, Field(max_length=4096)]
TextList = Annotated[list[TextParam], Field(max_length=32)]
TextListParam = Annotated[TextList, BeforeValidator(_wrap_in_list, json_schema_input_type=TextList | TextParam)]
NonNegativeIntParam = Annotated[int | None, Field(ge=0, le=MAX_ID)]
DistanceParam = Annotated[float | None, Field(ge=0, le=1e18, allow_inf_nan=False)]
IncludeItem = Annotated[str, Field(pattern="^(reconstruction|metadata)(,(reconstruction|metadata))*$", max_length=100)]

IncludeList = Annotated[list[IncludeItem], Field(max_length=8)]

# What is said of an image, by name: numbers where a text is one as JSON writes it.
MetadataName = Annotated[str, Field(min_length=1, max_length=200, pattern="^[^!<>=\\s]([^!<>=]*[^!<>=\\s])?$")]
MetadataValue = Annotated[
    Annotated[str, Field(max_length=4096)]
    | Annotated[int, Field(ge=-(2**53), le=2**53)]
    | Annotated[float, Field(allow_inf_nan=False)]
    | None,
    WithJsonSchema({"type": ["string", "number", "null"], "maxLength": 4096}),
]
MetadataResponse = dict[str, str | int | float]


class FilterParams(BaseModel):
    """Which images may be found: those that satisfy everything that is given."""

    where: TextListParam = Field(
        [], description="Conditions on what a manifest says of the file: `class=shirt`, `price<10`. = != < <= > >=."
    )
    under: str | None = Field(None, max_length=4096, description="Files in this folder or archive; its whole path.")
    format: TextListParam = Field([], description="Files of one of these formats: `jpeg`, `png` …")
    min_bytes: NonNegativeIntParam = None
    max_bytes: NonNegativeIntParam = None
    min_width: NonNegativeIntParam = Field(None, description="Pixels, as all of these.")
    max_width: NonNegativeIntParam = None
    min_height: NonNegativeIntParam = None
    max_height: NonNegativeIntParam = None
    since: str | None = Field(None, max_length=64, description="Files modified then or later; ISO 8601.")
    until: str | None = Field(
        None, max_length=64, description="Files modified then or earlier; a bare date counts whole."
    )

    def to_filter(self) -> Filter | None:
        """The filter that is meant. Raises BadSetting."""
        fields = {name: getattr(self, name) for name in FilterParams.model_fields}
        return make_filter(formats=fields.pop("format"), **fields)


class ImageListOptions(FilterParams):
    """Which part of the collection is wanted."""

    sort: Literal["id", "newest", "unlike"] = Field(
        "id", description="`unlike`: the least like the rest first, by the distance to the 10th neighbour."
    )
    limit: int = Field(100, ge=1, le=MAX_LIMIT, description="How many to answer with.")
    offset: int = Field(0, ge=0, le=MAX_ID, description="How many to leave out first, from the cursor on.")
    cursor: str | None = Field(None, max_length=200, description="The `next` of the page before, with the same `sort`.")


class SearchOptions(FilterParams):
    """How much of an answer is wanted, and which images may be in it."""

    within: DistanceParam = Field(None, description="Only images at this distance or nearer; `limit` holds too.")
    distance: DistanceParam = Field(None, description="The same as `within`.")
    limit: int = Field(10, ge=1, le=MAX_LIMIT, description="How many hits.")
    offset: int = Field(0, ge=0, le=MAX_SEARCH_OFFSET, description="How many of the nearest to leave out.")
    include: Annotated[
        IncludeList, BeforeValidator(_wrap_in_list, json_schema_input_type=IncludeList | IncludeItem)
    ] = Field(
        [],
        description="`reconstruction`: what the model saw, of the query and of every hit. `metadata`: what is said of "
        "every hit. Several times, or with commas.",
    )

    @model_validator(mode="after")
    def _check_distance_aliases(self) -> Self:
        if self.within is not None and self.distance is not None and self.within != self.distance:
            raise ValueError("within and distance are two names of one option: give one of them")
        return self

    certainty: Literal["full", "quick"] = Field(
        "full",
        description="`quick`: without a picture's reconstruction error, which takes most of the network's time: "
        "`unlike` goes by distance and σ then.",
    )

    posterior: BoolParam = Field(
        False,
        description="By the distance between whole posteriors (μ and σ), not between means; scores are not calibrated.",
    )
    plus: TextListParam = Field([], description="Attributes that the hits are to have more of than what is asked with.")
    minus: TextListParam = Field([], description="Attributes that they are to have less of.")
    strength: float = Field(
        1.0,
        ge=-100,
        le=100,
        allow_inf_nan=False,
        description="How much; 1: from the average without it to that with it.",
    )

    def get_includes(self) -> frozenset[str]:
        """What else is wanted."""
        return frozenset(name for names in self.include for name in names.split(","))

    def to_search_params(self) -> SearchParams:
        """The same for a Searcher. Raises BadSetting."""
        within = self.distance if self.within is None else self.within
        is_full = self.certainty == "full"
        said = "metadata" in self.get_includes()
        return SearchParams(self.limit, self.offset, self.to_filter(), within, said, is_full, self.posterior)


class SearchRequest(SearchOptions):
    """A search by id, by vector, or by several indexed images. Exactly one of the three."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"oneOf": [{"required": [name]} for name in ("image_id", "vector", "positive")]},
    )

    image_id: ImageIdField | SkipJsonSchema[None] = None
    vector: Annotated[list[VectorValue], Field(min_length=1, max_length=65536)] | SkipJsonSchema[None] = Field(
        None, description="A mu of the active encoder, all of it."
    )
    positive: Annotated[list[ImageIdField], Field(min_length=1, max_length=MAX_QUERY_IMAGES)] | SkipJsonSchema[None] = (
        Field(None, description="Images to be like: by the mean of their mu …")
    )
    negative: list[ImageIdField] = Field(
        [],
        max_length=MAX_QUERY_IMAGES,
        description="… less the mean of these. Only with `positive`; together at most 32.",
    )

    @model_validator(mode="after")
    def _check_one_query(self) -> Self:
        given = self.model_fields_set & {"image_id", "vector", "positive"}
        if len(given) != 1 or getattr(self, min(given)) is None:
            raise ValueError("give exactly one of image_id, vector and positive")
        if self.negative and self.positive is None:
            raise ValueError("negative goes with positive only")
        if len(self.positive or ()) + len(self.negative) > MAX_QUERY_IMAGES:
            raise ValueError(f"positive and negative are more than {MAX_QUERY_IMAGES} images together")
        return self

    def to_query(self) -> SearchQuery:
        """The same for a Searcher. Raises BadSetting."""
        if self.vector is not None:
            return SearchQuery((np.asarray(self.vector, np.float32),), params=self.to_search_params())
        positives = (self.image_id,) if self.image_id is not None else tuple(self.positive or ())
        return SearchQuery(positives, tuple(self.negative), self.to_search_params())


class SearchForm(SearchOptions):
    """What a form says beside its files: `file`, to be like, and `negative`, to be unlike."""

    positive_id: Annotated[list[ImageIdField], Field(max_length=MAX_QUERY_IMAGES)] = Field(
        [], description="Indexed images to be like, beside the files."
    )
    negative_id: Annotated[list[ImageIdField], Field(max_length=MAX_QUERY_IMAGES)] = Field(
        [], description="Indexed images to be unlike."
    )


class SearchBatchRequest(BaseModel):
    """Several searches, each for itself."""

    model_config = ConfigDict(extra="forbid")

    searches: list[SearchRequest] = Field(min_length=1, max_length=MAX_BATCH_SEARCHES)


class QueryImageResponse(BaseModel):
    """One of several pictures that were asked with: an indexed image, or an upload by its name."""

    image_id: int | None
    name: str | None


class QueryResponse(BaseModel):
    """What was asked, and how far the answer can be trusted. A vector has neither name nor size."""

    name: str | None
    image_id: int | None
    width: int | None
    height: int | None
    format: str | None
    reconstruction_error: float | None = Field(
        description="Mean squared error of the reconstruction, values in [0, 1]."
    )
    error_percentile: float | None = Field(
        None, description="Where that stands among the errors of this collection, 0 to 100; null while unknown."
    )
    sigma: float | None = Field(
        None, description="The encoder's mean σ over what is compared: how unsure it is. Null without a variance."
    )
    unlike: bool | None = Field(
        None,
        description="Whether the picture is unlike this collection: by its reconstruction error, the distance of its "
        "nearest neighbour, or its σ. Null while nothing is measured, and for several pictures.",
    )
    unlike_reason: str | None = None
    false_alarm_rate: float | None = Field(
        None, description="The share of pictures that belong here of which `unlike` would be true as well."
    )
    false_alarm_among: Literal["new", "own"] | None = Field(
        None,
        description="What that was measured on: `new`, pictures of this collection that the encoder was not trained "
        "on; `own`, any of them, where fewer than 40 are known to be new: then new ones are flagged more often.",
    )
    positives: list[QueryImageResponse] = Field([], description="With several: what the hits are to be like …")
    negatives: list[QueryImageResponse] = Field([], description="… and unlike.")
    reconstruction: str | None = Field(
        None, description="What the model saw, a PNG as a data URL; null if not asked for."
    )


class HitResponse(BaseModel):
    """One similar image; `distance` is Euclidean between indexed vectors."""

    image_id: int
    distance: float
    score: float = Field(
        description="1 / (1 + E), where E pictures of this collection lie as near to one of its pictures on average: 1 "
        "for what chance never brings, 0.5 for a usual nearest neighbour. 1 / (1 + distance) while not calibrated."
    )
    spread: float | None = Field(
        None, description="The standard deviation of the distance, as unsure as the encoder is of the query."
    )
    path: str = Field(description="The image's first location on the server's disk; with `under`, the first there.")
    width: int
    height: int
    format: str
    file_url: str
    thumbnail_url: str
    reconstruction_url: str | None = None
    metadata: MetadataResponse | None = Field(None, description="What is said of it; null if not asked for.")


class SearchResponse(BaseModel):
    """The query and its hits, the nearest first. `score_calibrated`: whether scores are measured on this collection."""

    query: QueryResponse
    hits: list[HitResponse]
    score_calibrated: bool = False


class ImageResponse(BaseModel):
    """An indexed image. `size` in bytes; `paths`: every place where the same bytes lie."""

    image_id: int
    path: str
    paths: list[str]
    width: int
    height: int
    format: str
    size: int
    sha256: str
    created_at: datetime
    reconstruction_error: float | None = Field(
        description="Mean squared error of the reconstruction; null in lists until it has been measured."
    )
    metadata: MetadataResponse = Field({}, description="What is said of it; of several files, of the first.")
    file_url: str
    thumbnail_url: str
    reconstruction_url: str


class ImageDetailResponse(ImageResponse):
    """An indexed image, and how unsure the encoder is of it."""

    sigma: float | None = Field(None, description="The encoder's mean σ over what is compared; null without one.")


class ImageListItemResponse(ImageResponse):
    """An image in a list."""

    unlike_distance: float | None = Field(
        None, description="With `sort=unlike`: the distance to its 10th neighbour, the farther the less like the rest."
    )


class ImageListResponse(BaseModel):
    """A page of the collection. `total`: images that the filter lets through. `next`: the `cursor` of what follows."""

    images: list[ImageListItemResponse]
    total: int
    limit: int
    offset: int
    next: str | None = None


class MetadataRequest(BaseModel):
    """What to say of an image, in place of all that was said before. Null, or left out: nothing under that name."""

    model_config = ConfigDict(extra="forbid")

    metadata: dict[MetadataName, MetadataValue] = Field(max_length=100)

    def to_texts(self) -> dict[str, str]:
        """As the catalogue keeps it."""
        return {name: format_metadata_value(value) for name, value in self.metadata.items() if value is not None}


def format_metadata_value(value: str | float) -> str:
    """A value as text; a number as JSON writes it."""
    return value if isinstance(value, str) else json.dumps(value)


class DuplicateMatchResponse(BaseModel):
    """A picture of the collection that an upload is a copy of."""

    image_id: int
    path: str
    tier: str
    distance: float
    agreement: float | None
    reason: str
    file_url: str
    thumbnail_url: str


class AddImageResponse(ImageResponse):
    """A picture that was added, or that it is a copy of."""

    duplicate_of: int | None = Field(None, description="With `if_duplicate=link`: the picture that stands for it.")
    duplicates: list[DuplicateMatchResponse] | None = Field(
        None, description="What it is a copy of; only with `if_duplicate`."
    )


class LivenessResponse(BaseModel):
    """The process answers."""

    status: Literal["alive"] = "alive"


class ReadinessResponse(BaseModel):
    """Searches can be answered. `encoder`: the fingerprint of the active encoder."""

    status: Literal["ready"] = "ready"
    encoder: str
    images: int


class ProblemFieldError(BaseModel):
    """One field that was not understood."""

    field: str
    detail: str


class ProblemResponse(BaseModel):
    """RFC 9457 problem details; see service/problems.py."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    errors: list[ProblemFieldError] | None = None
    duplicates: list[DuplicateMatchResponse] | None = None


class SearchBatchProblemResponse(BaseModel):
    """Why one search of a batch has no answer."""

    problem: ProblemResponse


class SearchBatchResponse(BaseModel):
    """The answers to a batch, in the order of its searches."""

    results: list[SearchResponse | SearchBatchProblemResponse]
