"""The page at `/quality`; it works without JavaScript."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from simile.explore.quality.report import make_quality_report
from simile.search.searcher import Searcher
from simile.service import urls
from simile.service.dependencies import EncodingPoolDep
from simile.service.schemas.quality import make_quality_response
from simile.service.web.rendering import View, show_page

ISSUE_PAGE_IMAGES = 12  # of each issue: fills rows of 2, 3, 4 and 6
MAX_PAGE_FILES = 50

router = APIRouter(include_in_schema=False)


@router.get(urls.QUALITY_PAGE)
async def show_quality_page(request: Request, pool: EncodingPoolDep) -> Response:
    """Show the images with each issue, the worst first."""
    return await show_page(
        request, "quality.html", lambda _: None, lambda searcher, _: make_quality_view(searcher), pool=pool
    )


def make_quality_view(searcher: Searcher) -> View:
    """Make the page: the issues with images, and the names of the others."""
    report = make_quality_report(searcher, count=ISSUE_PAGE_IMAGES)
    response = make_quality_response(report, MAX_PAGE_FILES)
    found = [issue for issue in response.issues if issue.count]
    return {
        "report": response,
        "found": found,
        "absent": [issue.issue for issue in response.issues if not issue.count],
        "limits": {issue.issue: issue.describe_limits() for issue in report.issues},
    }
