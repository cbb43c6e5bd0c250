"""Requests and responses of the API about duplicates."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from simile.service.schemas.search import MAX_LIMIT, DisplayText, ImageIdField


class DuplicateFileResponse(BaseModel):
    """A file of a group; `distance`, `agreement` and `reason` compare it with the kept file."""

    model_config = ConfigDict(json_schema_serialization_defaults_required=True)

    image_id: int | None
    path: DisplayText
    keep: bool = False
    keep_reason: str = Field("", description="Why it is kept, or why the kept file was preferred.")
    distance: float | None
    agreement: float | None = Field(None, description="The share of the common content that is equal, 0 to 1.")
    reason: str = ""
    sha256: str
    size: int
    width: int
    height: int
    format: str
    mtime: datetime = Field(description="When the file was last modified.")
    labels: dict[str, str]
    file_url: str | None = None
    thumbnail_url: str | None = None
    difference_url: str | None = Field(None, description="The difference from the kept file, a PNG.")


class DuplicateGroupResponse(BaseModel):
    """Copies of one tier, the kept file first; each of them matches the kept file."""

    id: str
    tier: Literal["bytes", "pixels", "near"]
    keep: DisplayText
    keep_reason: str
    members: list[DuplicateFileResponse]
    matched: int = Field(description="Number of pairs of the group that match.")
    possible: int = Field(description="Number of pairs of the group.")
    decided: bool


class SimilarPairResponse(BaseModel):
    """Two images that are similar but not copies."""

    tier: Literal["similar"] = "similar"
    first: DuplicateFileResponse
    second: DuplicateFileResponse
    distance: float
    agreement: float | None
    reason: str


class CurvePointResponse(BaseModel):
    """Precision and recall on synthetic copies at this distance."""

    model_config = ConfigDict(from_attributes=True)

    distance: float
    precision: float
    recall: float


class ThresholdCalibrationResponse(BaseModel):
    """How the threshold was calibrated: on synthetic copies of the collection's images and on earlier decisions."""

    model_config = ConfigDict(from_attributes=True)

    threshold: float
    precision: float | None
    reached_precision: float | None
    reached_recall: float | None
    copies: int
    decisions: int
    curve: list[CurvePointResponse]


class DuplicateListResponse(BaseModel):
    """A page of the results of `simile dedup`. `run_id` null: it has not run; only equal bytes are known."""

    run_id: int | None
    encoder: str | None
    threshold: float | None = Field(description="The threshold of near pairs, at most that of the run.")
    calibration: ThresholdCalibrationResponse | None
    groups: list[DuplicateGroupResponse]
    pairs: list[SimilarPairResponse]
    total: int = Field(description="Number of groups, or of pairs for `tier=similar`, on all pages.")
    limit: int
    offset: int
    hint: str | None = None


class DecisionRequest(BaseModel):
    """A decision about two images. `same` null deletes it. `keep` is one of the two; null: decided by the rules."""

    model_config = ConfigDict(extra="forbid")

    first: ImageIdField
    second: ImageIdField
    same: bool | None
    keep: ImageIdField | None = None

    @model_validator(mode="after")
    def _check_two_images(self) -> DecisionRequest:
        if self.first == self.second:
            raise ValueError("first and second are the same image")
        if self.keep is not None and self.keep not in (self.first, self.second):
            raise ValueError("keep is neither first nor second")
        return self


class DecisionListRequest(BaseModel):
    """Some decisions; the last one about a pair wins."""

    model_config = ConfigDict(extra="forbid")

    decisions: list[DecisionRequest] = Field(min_length=1, max_length=MAX_LIMIT)


class DecisionListResponse(BaseModel):
    """The number of decisions that were stored and deleted."""

    stored: int
    removed: int
