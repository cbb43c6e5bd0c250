"""Indexing jobs as JSON."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from simile.service import urls
from simile.service.serializers.search import replace_surrogates
from simile.store.catalogue.records import JobRecord

JobStatus = Literal["running", "finished", "failed", "cancelled", "interrupted"]
JobStage = Literal["looking", "training", "indexing", "publishing"]
CountField = Annotated[int, Field(ge=0)]

JOB_EXAMPLE: dict[str, Any] = {
    "id": 3,
    "root": "photos",
    "prune": False,
    "status": "running",
    "cancelling": False,
    "stage": "indexing",
    "done": 5120,
    "total": 20000,
    "per_second": 410.5,
    "seconds_left": 36.2,
    "failed": 2,
    "message": None,
    "result": None,
    "created_at": "2026-11-26T09:30:00Z",
    "finished_at": None,
    "url": "/v1/jobs/3",
    "events_url": "/v1/jobs/3/events",
    "cancel_url": "/v1/jobs/3/cancel",
    "failures_url": "/v1/jobs/3/failures",
}


class JobRequest(BaseModel):
    """What to index."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"root": "photos", "prune": False}]})

    root: str = Field(min_length=1, max_length=64, description="A name that `GET /v1/jobs` lists under `roots`.")
    prune: bool = Field(False, description="Forget known files of that folder that are gone.")


class JobResultResponse(BaseModel):
    """What a finished job did, in files; as `simile index --json` says it."""

    new: CountField
    changed: CountField
    unchanged: CountField
    moved: CountField
    copied: CountField
    removed: CountField
    missing: CountField
    duplicates: CountField
    ignored: CountField
    embedded: CountField
    done: CountField
    lacking: CountField
    failed: CountField
    seconds: float
    images_per_second: float


class JobResponse(BaseModel):
    """An indexing job. `done` of `total`: files while indexing, steps while training. `failed`: files set aside."""

    model_config = ConfigDict(json_schema_extra={"examples": [JOB_EXAMPLE]})

    id: int
    root: str
    prune: bool
    status: JobStatus = Field(description="cancelled: somebody asked for it. interrupted: its server ended.")
    cancelling: bool = Field(description="It was asked to stop, and finishes what it has in hand.")
    stage: JobStage
    done: CountField
    total: CountField | None
    per_second: float | None = Field(description="Pictures a second.")
    seconds_left: float | None
    failed: CountField
    message: str | None = Field(description="Why it did not finish, and what to do.")
    result: JobResultResponse | None
    created_at: datetime
    finished_at: datetime | None
    url: str
    events_url: str
    cancel_url: str
    failures_url: str


class JobListResponse(BaseModel):
    """The latest jobs, the newest first, and the names of the folders that can be indexed."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"jobs": [JOB_EXAMPLE], "roots": ["photos", "scans"]}]})

    jobs: list[JobResponse]
    roots: list[str]


class FileFailureResponse(BaseModel):
    """A file that was set aside."""

    path: str
    reason: str


class FailureListResponse(BaseModel):
    """Some of the files that a job set aside, in the order it met them. `total`: all of them."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "failures": [{"path": "/pictures/broken.jpg", "reason": "the file ends too early"}],
                    "total": 1,
                    "limit": 100,
                    "offset": 0,
                }
            ]
        }
    )

    failures: list[FileFailureResponse]
    total: int
    limit: int
    offset: int


def make_job_response(job: JobRecord) -> JobResponse:
    """A job as it goes over the wire."""
    same = JobResponse.model_fields.keys() & vars(job).keys()
    given = {name: getattr(job, name) for name in same}
    given["cancelling"] = job.cancelling and not job.is_over
    given["message"] = job.message and replace_surrogates(job.message)
    return JobResponse(
        **given,
        url=urls.job(job.id),
        events_url=urls.job_events(job.id),
        cancel_url=urls.job_cancel(job.id),
        failures_url=urls.job_failures(job.id),
    )
