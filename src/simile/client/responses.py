"""Types of the most used requests and responses; a test compares their fields with OpenAPI.

The other responses are plain JSON objects: `Json`. docs/api.md and /docs of the service describe their fields.
"""

from __future__ import annotations

from typing import Any, Literal, TypedDict

Json = dict[str, Any]
MetadataJson = dict[str, str | int | float]


class ClientFilterOptions(TypedDict, total=False):
    """The conditions that an image must satisfy; see docs/api.md."""

    where: list[str]
    under: str
    format: list[str]
    min_bytes: int
    max_bytes: int
    min_width: int
    max_width: int
    min_height: int
    max_height: int
    since: str
    until: str
    taken: str
    camera: str
    rating: str
    keyword: list[str]
    near: str


class ClientSearchOptions(ClientFilterOptions, total=False):
    """The options of a search; see docs/api.md."""

    limit: int
    offset: int
    within: float
    include: list[str]
    certainty: Literal["full", "quick"]
    posterior: bool
    min_score: float
    verify: bool
    distinct: bool
    diversity: float
    group_by: str
    group_size: int
    combine: Literal["mean", "best"]
    box: str
    text: str
    plus: list[str]
    minus: list[str]
    strength: float


class QueryJson(TypedDict):
    """The query, and how reliable the result is."""

    name: str | None
    image_id: int | None
    width: int | None
    height: int | None
    format: str | None
    reconstruction_error: float | None
    error_percentile: float | None
    sigma: float | None
    unlike: bool | None
    unlike_reason: str | None
    false_alarm_rate: float | None
    false_alarm_among: Literal["new", "own"] | None
    positives: list[Json]
    negatives: list[Json]
    reconstruction: str | None
    text: str | None
    words: list[Json]


class HitJson(TypedDict):
    """One similar image."""

    image_id: int
    distance: float
    score: float
    spread: float | None
    path: str
    width: int
    height: int
    format: str
    file_url: str
    thumbnail_url: str
    reconstruction_url: str | None
    metadata: MetadataJson | None
    photo: Json | None
    verified: bool | None
    relation: str | None
    copy_count: int | None
    group: str | None


class SearchResponseJson(TypedDict):
    """The query and its hits, nearest first, group by group; verified hits come before others."""

    query: QueryJson
    hits: list[HitJson]
    groups: list[Json] | None
    score_calibrated: bool


class ImageJson(TypedDict):
    """An indexed image."""

    image_id: int
    path: str
    paths: list[str]
    path_count: int
    width: int
    height: int
    format: str
    size: int
    sha256: str
    created_at: str
    reconstruction_error: float | None
    metadata: MetadataJson
    file_url: str
    thumbnail_url: str
    reconstruction_url: str


class ImageDetailJson(ImageJson):
    """An indexed image with the encoder's uncertainty, the metadata of the photo and the quality of its pixels."""

    sigma: float | None
    photo: Json | None
    partners: list[str]
    quality: Json | None


class ListedImageJson(ImageJson):
    """An image in a list."""

    unlike_distance: float | None


class AddedImageJson(ImageJson, total=False):
    """The added image, or the image of which it is a copy; the fields below only with `if_duplicate`."""

    duplicate_of: int | None
    duplicates: list[Json] | None


class ImagePageJson(TypedDict):
    """A page of the collection; `next` is the `cursor` of the next page."""

    images: list[ListedImageJson]
    total: int
    limit: int
    offset: int
    next: str | None


class DecisionJson(TypedDict):
    """A decision about two images; `same` None deletes it."""

    first: int
    second: int
    same: bool | None
    keep: int | None


class JobJson(TypedDict):
    """An indexing job."""

    id: int
    root: str
    prune: bool
    status: str
    cancelling: bool
    stage: str
    done: int
    total: int | None
    per_second: float | None
    seconds_left: float | None
    failed: int
    message: str | None
    result: Json | None
    created_at: str
    finished_at: str | None
    url: str
    events_url: str
    cancel_url: str
    failures_url: str


class LatentJson(TypedDict):
    """A latent vector; `picture` is the decoded image, a PNG as a data URL."""

    name: str
    mu: list[float]
    sigma: list[float] | None
    width: int
    height: int
    decoder: bool
    picture: str | None
    nearest: list[HitJson]
