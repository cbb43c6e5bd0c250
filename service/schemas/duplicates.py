"""What goes in and out as JSON about copies."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from simile.service.schemas.search import MAX_LIMIT, ImageIdField


class DuplicateFileResponse(BaseModel):
    """A file of a group. `distance`, `agreement` (0 to 1), `reason`: how it goes with the one that is kept."""

    image_id: int | None
    path: str
    keep: bool
    keep_reason: str = Field(description="Why it is kept, or why the kept one was preferred to it.")
    distance: float | None
    agreement: float | None
    reason: str
    sha256: str
    size: int
    width: int
    height: int
    format: str
    mtime: datetime = Field(description="When the file was last modified.")
    labels: dict[str, str]
    file_url: str | None
    thumbnail_url: str | None
    difference_url: str | None = Field(description="What differs from the kept one, a PNG.")


class DuplicateGroupResponse(BaseModel):
    """Copies of one tier, the kept one first; each matches it directly. `matched` of `possible` pairs do."""

    id: str
    tier: Literal["bytes", "pixels", "near"]
    keep: str
    keep_reason: str
    members: list[DuplicateFileResponse]
    matched: int
    possible: int
    decided: bool


class SimilarPairResponse(BaseModel):
    """Two pictures that are only similar: nobody says that one is a copy of the other."""

    tier: Literal["similar"] = "similar"
    first: DuplicateFileResponse
    second: DuplicateFileResponse
    distance: float
    agreement: float | None
    reason: str


class CurvePointResponse(BaseModel):
    """Precision and recall of planted copies at this distance."""

    distance: float
    precision: float
    recall: float


class ThresholdCalibrationResponse(BaseModel):
    """How the threshold was found: on planted copies of the collection's own pictures, and on earlier decisions."""

    threshold: float
    precision: float | None
    reached_precision: float | None
    reached_recall: float | None
    copies: int
    decisions: int
    curve: list[CurvePointResponse]


class DuplicateListResponse(BaseModel):
    """A page of what `simile dedup` found. `run_id` null: it has not run yet, only same bytes are known; see `hint`.

    `threshold`: of near pairs, no more than the run's own. `total`: groups, or pairs where similar ones were asked for,
    in the whole of it.
    """

    run_id: int | None
    encoder: str | None
    threshold: float | None
    calibration: ThresholdCalibrationResponse | None
    groups: list[DuplicateGroupResponse]
    pairs: list[SimilarPairResponse]
    total: int
    limit: int
    offset: int
    hint: str | None = None


class DecisionRequest(BaseModel):
    """What a person says of two pictures. `same` null takes it back. `keep`: one of the two; null: by the rules."""

    model_config = ConfigDict(extra="forbid")

    first: ImageIdField
    second: ImageIdField
    same: bool | None
    keep: ImageIdField | None = None

    @model_validator(mode="after")
    def _check_two_images(self) -> DecisionRequest:
        if self.first == self.second:
            raise ValueError("first and second are the same picture")
        if self.keep is not None and self.keep not in (self.first, self.second):
            raise ValueError("keep is neither first nor second")
        return self


class DecisionListRequest(BaseModel):
    """Some decisions. Of one pair the last one counts."""

    model_config = ConfigDict(extra="forbid")

    decisions: list[DecisionRequest] = Field(min_length=1, max_length=MAX_LIMIT)


class DecisionListResponse(BaseModel):
    """How many decisions were stored, and how many taken back."""

    stored: int
    removed: int
