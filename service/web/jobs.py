"""The page at `/jobs`: what is being indexed, and what was."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from simile.core.errors import NothingIndexed, SimileError
from simile.service import urls
from simile.service.dependencies import TheJobs

pass
from collections.abc import Sequence
from dataclasses import dataclass

from simile.service.errors import problem_of
from simile.service.schemas.jobs import JobOut, job_out
from simile.service.state.job_manager import Jobs
from simile.service.web.rendering import render_page

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


SHOWN = 20


@dataclass(frozen=True)
class JobsView:
    """The latest jobs, the newest first, and the folders that can be indexed from here."""

    jobs: Sequence[JobOut] = ()
    roots: Sequence[str] = ()

    @property
    def running(self) -> bool:
        return any(job.status == "running" for job in self.jobs)


def latest(jobs: Jobs) -> JobsView:
    """The latest jobs. Raises what keeps the home from being read."""
    return JobsView([job_out(job) for job in jobs.latest(SHOWN)], sorted(jobs.roots))
