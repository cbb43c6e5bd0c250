"""What goes in and out as JSON."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from core.conditions import make_filter
from core.records import Filter

MAX_ID = 2**63 - 1  # what SQL calls BIGINT
MAX_LIMIT = 1000
MAX_SEARCH_OFFSET = 1_000_000  # the index finds offset + limit neighbours to show the last few

ImageIdField = Annotated[int, Field(ge=1, le=MAX_ID, description="The id of an indexed image.")]
# Latents lie around 0 with a spread of 1. The bound keeps squared distances within float32.
VectorValue = Annotated[float, Field(ge=-1e9, le=1e9, allow_inf_nan=False)]


def _listed(value: object) -> object:
    return [value] if isinstance(value, str) else value


Texts = Annotated[list[Annotated[str, Field(max_length=4096)]], BeforeValidator(_listed), Field(max_length=32)]
Number = Annotated[int | None, Field(ge=0, le=MAX_ID)]


class Narrowing(BaseModel):
    """Which images may be found: those that satisfy everything that is given."""

    where: Texts = Field(
        [], description="Conditions on what a manifest says of the file: `class=shirt`, `price<10`. = != < <= > >=."
    )
    under: str | None = Field(None, max_length=4096, description="Files in this folder or archive; its whole path.")
    format: Texts = Field([], description="Files of one of these formats: `jpeg`, `png` …")
    min_bytes: Number = None
    max_bytes: Number = None
    min_width: Number = Field(None, description="Pixels, as all of these.")
    max_width: Number = None
    min_height: Number = None
    max_height: Number = None
    since: str | None = Field(None, max_length=64, description="Files modified then or later; ISO 8601.")
    until: str | None = Field(
        None, max_length=64, description="Files modified then or earlier; a bare date counts whole."
    )

    def only(self) -> Filter | None:
        """The filter that is meant. Raises BadSetting."""
        fields = {name: getattr(self, name) for name in Narrowing.model_fields}
        return make_filter(formats=fields.pop("format"), **fields)


class SearchOptions(Narrowing):
    """How much of an answer is wanted, and which images may be in it."""

    within: float | None = Field(
        None,
        ge=0,
        le=1e18,
        allow_inf_nan=False,
        description="Only images at this distance or nearer; `limit` holds too.",
    )
    limit: int = Field(10, ge=1, le=MAX_LIMIT, description="How many hits.")
    offset: int = Field(0, ge=0, le=MAX_SEARCH_OFFSET, description="How many of the nearest to leave out.")
    include: Annotated[list[Literal["reconstruction"]], BeforeValidator(_listed)] = Field(
        [], max_length=8, description="`reconstruction`: what the model saw, of the query and of every hit."
    )


class SearchBody(SearchOptions):
    """A search by id or by vector."""

    model_config = ConfigDict(extra="forbid")

    image_id: ImageIdField | None = None
    vector: list[VectorValue] | None = Field(
        None, min_length=1, max_length=65536, description="A mu of the active encoder, all of it."
    )

    @model_validator(mode="after")
    def _one_question(self) -> SearchBody:
        if (self.image_id is None) == (self.vector is None):
            raise ValueError("give exactly one of image_id and vector")
        return self


class QueryOut(BaseModel):
    """What was asked. A vector has neither name nor size."""

    name: str | None
    image_id: int | None
    width: int | None
    height: int | None
    format: str | None
    reconstruction_error: float | None = Field(
        description="Mean squared error of the reconstruction, values in [0, 1]."
    )
    reconstruction: str | None = Field(
        None, description="What the model saw, a PNG as a data URL; null if not asked for."
    )


class HitOut(BaseModel):
    """One similar image; `distance` is Euclidean between indexed vectors, `score` = 1 / (1 + distance)."""

    image_id: int
    distance: float
    score: float
    path: str = Field(description="The image's first location on the server's disk; with `under`, the first there.")
    width: int
    height: int
    format: str
    file_url: str
    thumbnail_url: str
    reconstruction_url: str | None = None


class SearchOut(BaseModel):
    """The query and its hits, the nearest first."""

    query: QueryOut
    hits: list[HitOut]


class ImageOut(BaseModel):
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
    file_url: str
    thumbnail_url: str
    reconstruction_url: str


class ImagesOut(BaseModel):
    """A page of the collection, by id. `total`: images in the whole of it."""

    images: list[ImageOut]
    total: int
    limit: int
    offset: int


class MatchOut(BaseModel):
    """A picture of the collection that an upload is a copy of."""

    image_id: int
    path: str
    tier: str
    distance: float
    agreement: float | None
    reason: str
    file_url: str
    thumbnail_url: str


class AddedOut(ImageOut):
    """A picture that was added, or that it is a copy of."""

    duplicate_of: int | None = Field(None, description="With `if_duplicate=link`: the picture that stands for it.")
    duplicates: list[MatchOut] | None = Field(None, description="What it is a copy of; only with `if_duplicate`.")


class Liveness(BaseModel):
    """The process answers."""

    status: Literal["alive"] = "alive"


class Readiness(BaseModel):
    """Searches can be answered. `encoder`: the fingerprint of the active encoder."""

    status: Literal["ready"] = "ready"
    encoder: str
    images: int


class ProblemError(BaseModel):
    """One field that was not understood."""

    field: str
    detail: str


class ProblemOut(BaseModel):
    """RFC 9457 problem details; see service/problems.py."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    errors: list[ProblemError] | None = None
    duplicates: list[MatchOut] | None = None
