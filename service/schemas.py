"""What goes in and out as JSON."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

MAX_ID = 2**63 - 1  # what SQL calls BIGINT
MAX_LIMIT = 1000
MAX_SEARCH_OFFSET = 1_000_000  # the index finds offset + limit neighbours to show the last few

ImageIdField = Annotated[int, Field(ge=1, le=MAX_ID, description="The id of an indexed image.")]
# Latents lie around 0 with a spread of 1. The bound keeps squared distances within float32.
VectorValue = Annotated[float, Field(ge=-1e9, le=1e9, allow_inf_nan=False)]


def _listed(value: object) -> object:
    return [value] if isinstance(value, str) else value


class SearchOptions(BaseModel):
    """How much of an answer is wanted."""

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
    path: str = Field(description="The image's first location on the server's disk.")
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
    reconstruction_error: float | None
    file_url: str
    thumbnail_url: str
    reconstruction_url: str


class ImagesOut(BaseModel):
    """A page of the collection, by id. `total`: images in the whole of it."""

    images: list[ImageOut]
    total: int
    limit: int
    offset: int


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
