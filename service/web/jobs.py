"""The page at `/jobs`: running and finished indexing jobs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fastapi import APIRouter
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from simile.core.errors import NothingIndexed, SimileError
from simile.service import urls
from simile.service.dependencies import JobManagerDep
from simile.service.errors import make_problem
from simile.service.schemas.jobs import JobResponse, make_job_response
from simile.service.state.job_manager import JobManager
from simile.service.web.rendering import render_page

pass

router = APIRouter(include_in_schema=False)


@router.get(urls.JOBS_PAGE)
async def show_jobs(request: Request, job_manager: JobManagerDep) -> Response:
    """Show the latest indexing jobs and the folders that can be indexed."""
    try:
        return render_page(request, "jobs.html", await run_in_threadpool(make_job_list_view, job_manager))
    except NothingIndexed:
        return render_page(request, "jobs.html", JobListView(roots=sorted(job_manager.roots)))
    except SimileError as error:
        return render_page(request, "jobs.html", JobListView(), make_problem(error))


MAX_PAGE_JOBS = 20


@dataclass(frozen=True)
class JobListView:
    """The latest jobs, newest first, and the folders that can be indexed."""

    jobs: Sequence[JobResponse] = ()
    roots: Sequence[str] = ()

    @property
    def is_running(self) -> bool:
        return any(job.status == "running" for job in self.jobs)


def make_job_list_view(job_manager: JobManager) -> JobListView:
    """Make the list of the latest jobs. Raises SimileError if the home cannot be read."""
    return JobListView(
        [make_job_response(job) for job in job_manager.list_latest(MAX_PAGE_JOBS)], sorted(job_manager.roots)
    )
