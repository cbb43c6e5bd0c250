"""The page at `/jobs`: running and finished indexing jobs."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from simile.core.errors import NothingIndexed, SimileError
from simile.service import urls
from simile.service.dependencies import JobManagerDep
from simile.service.errors import make_problem
from simile.service.schemas.jobs import make_job_response
from simile.service.web.rendering import render_page

MAX_PAGE_JOBS = 20

router = APIRouter(include_in_schema=False)


@router.get(urls.JOBS_PAGE)
async def show_jobs(request: Request, job_manager: JobManagerDep) -> Response:
    """Show the latest indexing jobs and the folders that can be indexed."""
    try:
        jobs = await run_in_threadpool(job_manager.list_latest, MAX_PAGE_JOBS)
    except NothingIndexed:
        jobs = []
    except SimileError as error:
        return render_page(request, "jobs.html", {}, make_problem(error))
    view = {"jobs": [make_job_response(job) for job in jobs], "roots": sorted(job_manager.roots)}
    return render_page(request, "jobs.html", view)
