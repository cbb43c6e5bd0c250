"""Responses of the API about the quality of images."""

from __future__ import annotations

from pydantic import BaseModel, Field

from simile.explore.quality.report import IssueReport, QualityExample, QualityReport
from simile.service import urls
from simile.service.schemas.search import DisplayText


class QualityImageResponse(BaseModel):
    """An image with an issue."""

    image_id: int
    path: DisplayText
    width: int
    height: int
    value: float | str = Field(description="Of the measure of the issue.")
    file_url: str
    thumbnail_url: str


class QualityIssueResponse(BaseModel):
    """The images with an issue, the worst first. Values below `low` or above `high` have it; null: no such limit."""

    issue: str
    description: str
    measure: str
    low: float | None
    high: float | None
    count: int = Field(description="Number of images with the issue.")
    images: list[QualityImageResponse]


class UnreadableFileResponse(BaseModel):
    """A file that could not be indexed."""

    path: DisplayText
    reason: DisplayText


class QualityResponse(BaseModel):
    """The issues of the collection."""

    images: int
    measured: int = Field(description="Images with a known quality; `simile quality --measure` measures the others.")
    issues: list[QualityIssueResponse]
    unreadable: list[UnreadableFileResponse] = Field(description="Files that indexing could not read.")
    unreadable_count: int


def make_quality_response(report: QualityReport, max_files: int) -> QualityResponse:
    """Make the response of a report, with at most so many unreadable files."""
    return QualityResponse(
        images=report.images,
        measured=report.measured,
        issues=[_make_issue(issue) for issue in report.issues],
        unreadable=[UnreadableFileResponse(**vars(failure)) for failure in report.unreadable[:max_files]],
        unreadable_count=len(report.unreadable),
    )


def _make_issue(issue: IssueReport) -> QualityIssueResponse:
    return QualityIssueResponse(**vars(issue), images=[_make_image(example) for example in issue.examples])


def _make_image(example: QualityExample) -> QualityImageResponse:
    return QualityImageResponse(
        **vars(example),
        file_url=urls.file(example.image_id),
        thumbnail_url=urls.thumbnail(example.image_id),
    )
