"""Responses of the API about encoders and the state of the home."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, Field


class EncoderResponse(BaseModel):
    """One encoder. Null fields: its folder exists, but no image was indexed with it."""

    fingerprint: str
    recipe: str | None
    metric: str | None = None
    dimensions: int | None = Field(None, description="Length of mu.")
    created_at: datetime | None = None
    active: bool
    vectors: int = Field(description="Number of images that it has encoded.")
    images: int = Field(description="Number of images in the home.")
    size: int = Field(validation_alias="bytes", description="Size of its folder in bytes.")


class EncoderListResponse(BaseModel):
    """All encoders of the home, oldest first."""

    encoders: list[EncoderResponse]


class EncoderDetailResponse(EncoderResponse):
    """One encoder with the description from its folder: architecture, preprocessing, recipe, training."""

    description: dict[str, Any] | None


class ActivateEncoderResponse(BaseModel):
    """The active encoder."""

    fingerprint: str
    vectors: int
    lacking: int = Field(description="Number of images without a vector; searches find them after the next indexing.")


class IndexStatusResponse(BaseModel):
    """The index that searches use."""

    kind: str | None = Field(description="exact or ivf; null without a segment.")
    rows: int
    pending: int = Field(description="Rows added or removed since the segment was built; searches include them.")
    recall: float | None = Field(description="Share of the 10 nearest neighbours that it finds; as of its build.")
    memory_bytes: int | None
    created_at: datetime | None


class ScoreCalibrationResponse(BaseModel):
    """The calibration of scores and of `unlike`."""

    status: Literal["ready", "measuring", "unknown"]
    images: int | None = Field(None, description="Number of images in the collection at the time of calibration.")
    false_alarm_rate: float | None = None
    false_alarm_among: Literal["new", "own"] | None = Field(None, description="As in the response to a search.")


class RunResponse(BaseModel):
    """One run of a long command."""

    id: int
    kind: str
    status: str = Field(description="running, finished, failed or interrupted.")
    started_at: datetime
    finished_at: datetime | None
    failed: int = Field(description="Number of files that could not be read.")


class StatusResponse(BaseModel):
    """The state of the home."""

    version: str
    images: int
    encoder: str | None = Field(description="The fingerprint of the active encoder.")
    index: IndexStatusResponse | None
    gauge: ScoreCalibrationResponse
    runs: list[RunResponse]


class LivenessResponse(BaseModel):
    """The process responds."""

    status: Literal["alive"] = "alive"


class ReadinessResponse(BaseModel):
    """The service can answer searches."""

    status: Literal["ready"] = "ready"
    encoder: str = Field(description="The fingerprint of the active encoder.")
    images: int
