"""Requests and responses of the API about indexing jobs."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, Field

from simile.service import urls
from simile.service.schemas.search import DisplayText, RequestBody
from simile.store.catalogue.records import JobRecord

JobStatus = Literal["running", "finished", "failed", "cancelled", "interrupted"]
JobStage = Literal["looking", "training", "indexing", "publishing"]
CountField = Annotated[int, Field(ge=0)]


class JobRequest(RequestBody):
    """The folder to index."""

    root: str = Field(min_length=1, max_length=64, description="A name that `GET /v1/jobs` lists under `roots`.")
    prune: bool = Field(False, description="Forget known files of that folder that are missing.")


class JobResultResponse(BaseModel):
    """Numbers of files of a finished job, as in `simile index --json`."""

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
    """An indexing job."""

    id: int
    root: str
    prune: bool
    status: JobStatus = Field(description="cancelled: on request. interrupted: its server ended.")
    cancelling: bool = Field(description="Cancellation was requested; the current batch is being finished.")
    stage: JobStage
    done: CountField = Field(description="Files while indexing, steps while training.")
    total: CountField | None
    per_second: float | None = Field(description="Images per second.")
    seconds_left: float | None
    failed: CountField = Field(description="Number of files that could not be read.")
    message: DisplayText | None = Field(description="Why the job did not finish, and what to do.")
    result: JobResultResponse | None
    created_at: datetime
    finished_at: datetime | None
    url: str
    events_url: str
    cancel_url: str
    failures_url: str


class JobListResponse(BaseModel):
    """The latest jobs, newest first, and the names of the folders that can be indexed."""

    jobs: list[JobResponse]
    roots: list[str]


class FileFailureResponse(BaseModel):
    """A file that could not be read."""

    path: DisplayText
    reason: DisplayText


class FailureListResponse(BaseModel):
    """A page of the files that a job could not read, in the order of reading."""

    failures: list[FileFailureResponse]
    total: int
    limit: int
    offset: int


def make_job_response(job: JobRecord) -> JobResponse:
    """Return a job with its URLs."""
    cancelling = job.cancelling and not job.is_over
    return JobResponse.model_validate(vars(job) | {"cancelling": cancelling} | urls.job_urls(job.id))
