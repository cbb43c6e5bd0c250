"""What goes out as JSON about encoders, and about how things stand."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, Field


class EncoderResponse(BaseModel):
    """One encoder; it has seen `vectors` of `images`. Null: its folder is there, but nobody has used it yet."""

    fingerprint: str
    recipe: str | None
    metric: str | None = None
    dimensions: int | None = Field(None, description="Length of mu.")
    created_at: datetime | None = None
    active: bool
    vectors: int
    images: int
    size: int = Field(description="Bytes of its folder.")


class EncoderListResponse(BaseModel):
    """Every encoder of the home, the oldest first."""

    encoders: list[EncoderResponse]


class EncoderDetailResponse(EncoderResponse):
    """One encoder, with all that its folder says of it: architecture, preprocessing, recipe, training."""

    description: dict[str, Any] | None


class ActivateEncoderResponse(BaseModel):
    """The encoder in use now. `lacking`: pictures it has not seen, which no search finds until indexed again."""

    fingerprint: str
    vectors: int
    lacking: int


class IndexStatusResponse(BaseModel):
    """What is searched. `pending`: rows that are newer than the segment, or gone from it; searches know of them."""

    kind: str | None = Field(description="exact or ivf; null while there is no segment.")
    rows: int
    pending: int
    recall: float | None = Field(description="Share of the 10 nearest that it finds, as measured when it was made.")
    memory_bytes: int | None
    created_at: datetime | None


class ScoreCalibrationResponse(BaseModel):
    """What is known to be usual in this collection, for scores and for `unlike`."""

    status: Literal["ready", "measuring", "unknown"]
    images: int | None = Field(None, description="How many pictures the collection held when it was measured.")
    false_alarm_rate: float | None = None
    false_alarm_among: Literal["new", "own"] | None = Field(None, description="As in the answer to a search.")


class RunResponse(BaseModel):
    """One run of a long command. `failed`: files that it set aside."""

    id: int
    kind: str
    status: str = Field(description="running, finished, failed or interrupted.")
    started_at: datetime
    finished_at: datetime | None
    failed: int


class StatusResponse(BaseModel):
    """How things stand."""

    version: str
    images: int
    encoder: str | None = Field(description="The fingerprint of the encoder in use.")
    index: IndexStatusResponse | None
    gauge: ScoreCalibrationResponse
    runs: list[RunResponse]
