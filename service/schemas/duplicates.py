"""Requests and responses of the API about duplicates."""

from __future__ import annotations

import math
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from simile.dedup.grouping.findings import FilePair
from simile.dedup.records import CurvePoint, DuplicateGroup, ImageFile
from simile.service import urls
from simile.service.schemas.search import MAX_LIMIT, DisplayText, ImageIdField, RequestBody


def _replace_nan(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else value


class DuplicateFileResponse(BaseModel):
    """A file of a group; `distance`, `agreement` and `reason` compare it with the kept file."""

    model_config = ConfigDict(json_schema_serialization_defaults_required=True)

    image_id: int | None
    path: DisplayText
    keep: bool = Field(False, validation_alias="is_kept")
    keep_reason: str = Field("", description="Why it is kept, or why the kept file was preferred.")
    distance: Annotated[float | None, BeforeValidator(_replace_nan)] = 0.0
    agreement: float | None = Field(None, description="The share of the common content that is equal, 0 to 1.")
    reason: str = ""
    sha256: str
    size: int
    width: int
    height: int
    format: str
    mtime: datetime = Field(validation_alias="modified_at", description="When the file was last modified.")
    labels: dict[str, str]
    file_url: str | None = None
    thumbnail_url: str | None = None
    difference_url: str | None = Field(None, description="The difference from the kept file, a PNG.")


class DuplicateGroupResponse(BaseModel):
    """Copies of one tier, or a series of shots; the kept file or best shot first."""

    id: str
    tier: Literal["bytes", "pixels", "near", "series"]
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


class ThresholdCalibrationResponse(BaseModel):
    """How the threshold was calibrated: on synthetic copies of the collection's images and on earlier decisions."""

    threshold: float
    precision: float | None
    reached_precision: float | None
    reached_recall: float | None
    copies: int
    decisions: int
    curve: list[CurvePoint]


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


class DecisionRequest(RequestBody):
    """A decision about two images. `same` null deletes it. `keep` is one of the two; null: decided by the rules."""

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


class DecisionListRequest(RequestBody):
    """Some decisions; the last one about a pair wins."""

    decisions: list[DecisionRequest] = Field(min_length=1, max_length=MAX_LIMIT)


class DecisionListResponse(BaseModel):
    """The number of decisions that were stored and deleted."""

    stored: int
    removed: int


def make_group_response(group: DuplicateGroup) -> DuplicateGroupResponse:
    """Return a group with the URLs of its images."""
    kept = group.kept_member
    members = [_make_file_fields(member.file, kept.file) | vars(member) for member in group.members]
    return DuplicateGroupResponse.model_validate(
        vars(group) | {"keep": kept.file.path, "keep_reason": kept.keep_reason, "members": members}
    )


def make_pair_response(file_pair: FilePair) -> SimilarPairResponse:
    """Return two similar images."""
    first, second = (_make_file_fields(file, file_pair.first) for file in (file_pair.first, file_pair.second))
    return SimilarPairResponse.model_validate(
        file_pair.pair._asdict() | {"tier": "similar", "first": first, "second": second}
    )


def _make_file_fields(file: ImageFile, kept: ImageFile) -> dict[str, Any]:
    """Return the fields of a file that do not depend on its match with the kept file."""
    links = {} if file.image_id is None else urls.image_urls(file.image_id)
    if file.image_id is not None and kept.image_id not in (None, file.image_id):
        links["difference_url"] = urls.difference(kept.image_id, file.image_id)
    return vars(file) | links | {"modified_at": file.modified_at}
