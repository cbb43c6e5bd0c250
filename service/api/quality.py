"""The quality of the collection: images that are blurred, dark, flat, of an odd size …"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from simile.explore.quality.report import make_quality_report
from simile.service import urls
from simile.service.dependencies import ComputePoolDep, SearcherDep
from simile.service.openapi.install import document_errors
from simile.service.schemas.quality import QualityResponse, make_quality_response

MAX_QUALITY_IMAGES = 1000

router = APIRouter(prefix=f"{urls.API}/quality", tags=["images"])

IssueParam = Annotated[str | None, Query(max_length=100, description="Only this issue, such as `blurred`.")]
CountParam = Annotated[
    int, Query(ge=0, le=MAX_QUALITY_IMAGES, description="Maximum number of images of each issue, and of files.")
]


@router.get("", responses=document_errors(409, 422, 503))
async def show_quality(
    searcher: SearcherDep, pool: ComputePoolDep, issue: IssueParam = None, limit: CountParam = 10
) -> QualityResponse:
    """Count the images with each issue, and list the worst; the limits follow from the collection.

    The filter `where=quality=blurred` finds the images with an issue in searches and lists.
    """

    def report() -> QualityResponse:
        return make_quality_response(make_quality_report(searcher, count=limit, issue=issue), limit)

    return await pool.run(report)
