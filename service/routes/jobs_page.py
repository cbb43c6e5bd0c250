"""The page at `/jobs`: what is being indexed, and what was."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from core.errors import NothingIndexed, SimileError
from service import urls
from service.deps import TheJobs
from service.job_pages import JobsView, latest
from service.pages import render_page
from service.problems import problem_of

router = APIRouter(include_in_schema=False)


@router.get(urls.JOBS_PAGE)
async def show_jobs(request: Request, jobs: TheJobs) -> Response:
    """The latest indexing jobs, and the folders that can be indexed from here."""
    try:
        return render_page(request, "jobs.html", await run_in_threadpool(latest, jobs))
    except NothingIndexed:
        return render_page(request, "jobs.html", JobsView(roots=sorted(jobs.roots)))
    except SimileError as error:
        return render_page(request, "jobs.html", JobsView(), problem_of(error))
