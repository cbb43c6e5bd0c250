"""The shapes of what goes in and comes out: JSON as it is, with names for its fields. A test holds them to OpenAPI."""

from __future__ import annotations

from typing import Any, Literal, TypedDict

MetadataJson = dict[str, str | int | float]


class ClientFilterOptions(TypedDict, total=False):
    """Which images may be found; see docs/api.md."""

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


class ClientSearchOptions(ClientFilterOptions, total=False):
    """How much of an answer is wanted."""

    limit: int
    offset: int
    within: float
    include: list[str]
    certainty: Literal["full", "quick"]
    posterior: bool
    plus: list[str]
    minus: list[str]
    strength: float


class QueryTermJson(TypedDict):
    image_id: int | None
    name: str | None


class QueryJson(TypedDict):
    """What was asked, and how far the answer can be trusted."""

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
    positives: list[QueryTermJson]
    negatives: list[QueryTermJson]
    reconstruction: str | None


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


class SearchResponseJson(TypedDict):
    """The query and its hits, the nearest first."""

    query: QueryJson
    hits: list[HitJson]
    score_calibrated: bool


class ImageJson(TypedDict):
    """An indexed image."""

    image_id: int
    path: str
    paths: list[str]
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
    sigma: float | None


class ListedImageJson(ImageJson):
    unlike_distance: float | None


class AddedImageJson(ImageJson, total=False):
    """A picture that was added, or that it is a copy of; the last two only where that was asked for."""

    duplicate_of: int | None
    duplicates: list[dict[str, Any]] | None


class ImagePageJson(TypedDict):
    """Some of the collection; `next` is the `cursor` of what follows."""

    images: list[ListedImageJson]
    total: int
    limit: int
    offset: int
    next: str | None


class DecisionJson(TypedDict):
    """What a person says of two pictures; `same` None takes it back."""

    first: int
    second: int
    same: bool | None
    keep: int | None


class EncoderJson(TypedDict):
    fingerprint: str
    recipe: str | None
    metric: str | None
    dimensions: int | None
    created_at: str | None
    active: bool
    vectors: int
    images: int
    size: int


class EncoderDetailJson(EncoderJson):
    description: dict[str, Any] | None


class ActivationJson(TypedDict):
    fingerprint: str
    vectors: int
    lacking: int


class StatusJson(TypedDict):
    version: str
    images: int
    encoder: str | None
    index: dict[str, Any] | None
    gauge: dict[str, Any]
    runs: list[dict[str, Any]]


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
    result: dict[str, Any] | None
    created_at: str
    finished_at: str | None
    url: str
    events_url: str
    cancel_url: str
    failures_url: str


class JobListJson(TypedDict):
    jobs: list[JobJson]
    roots: list[str]


class FailurePageJson(TypedDict):
    failures: list[dict[str, str]]
    total: int
    limit: int
    offset: int


class MapJson(TypedDict):
    """The collection in a plane."""

    layout: str
    map: str
    layouts: list[str]
    images: int
    newer: int
    missing: int
    method: str
    clusters: list[dict[str, Any]]
    labels: list[dict[str, Any]]
    errors: int
    tiles: int
    tile_side: int
    computing: dict[str, Any] | None
    failed: str | None


class MapPointsJson(TypedDict):
    """Every picture of a map, in columns."""

    ids: list[int]
    x: list[float]
    y: list[float]
    place: list[int | None]
    cluster: list[int | None]
    density: list[float | None]
    error: list[float | None]
    label: list[int | None] | None


class LatentJson(TypedDict):
    """A place in the latent space. `picture`: decoded, a PNG as a data URL."""

    name: str
    mu: list[float]
    sigma: list[float] | None
    width: int
    height: int
    decoder: bool
    picture: str | None
    nearest: list[HitJson]


class MorphJson(TypedDict):
    """A way through the latent space; frames with `mu`, `picture` and the `nearest` image."""

    how: str
    names: list[str]
    stops: list[int]
    changes: list[float]
    frames: list[dict[str, Any]]


class TraversalJson(TypedDict):
    """Single dimensions from low to high."""

    name: str
    steps: list[float]
    dimensions: list[dict[str, Any]]


class AttributeJson(TypedDict):
    """What two sets of pictures differ by, and how well it tells them apart."""

    name: str
    encoder: str
    auc: dict[str, float]
    spread: dict[str, float]
    positives: int
    negatives: int
    contradictory: int
    unreadable: int
    seed: int
    drags: list[dict[str, Any]]


class AppliedAttributeJson(TypedDict):
    """A picture pushed along an attribute; `pictures` with `strength`, `mu` and `picture`."""

    attribute: str
    name: str
    width: int
    height: int
    pictures: list[dict[str, Any]]


class OutlierPageJson(TypedDict):
    """The pictures least like the rest."""

    outliers: list[dict[str, Any]]
    images: int
    neighbour: int
    total: int
    limit: int
    offset: int


class UncertaintyJson(TypedDict):
    """How sure the encoder is of a picture."""

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


class DuplicatePageJson(TypedDict):
    """A page of what `simile dedup` found."""

    run_id: int | None
    encoder: str | None
    threshold: float | None
    calibration: dict[str, Any] | None
    groups: list[dict[str, Any]]
    pairs: list[dict[str, Any]]
    total: int
    limit: int
    offset: int
    hint: str | None
