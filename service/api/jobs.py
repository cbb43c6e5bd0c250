"""Indexing jobs: begin one on a folder that the operator named, watch it, cancel it."""

from __future__ import annotations

import json
from typing import Annotated

from fastapi import APIRouter, Header
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from simile.service import urls
from simile.service.dependencies import JobId, Limit, Offset, TheJobEvents, TheJobs
from simile.service.openapi.install import Responses, errors, json_body
from simile.service.requests.search import read_json
from simile.service.schemas.jobs import EXAMPLE, FailureOut, FailuresOut, JobIn, JobOut, JobsOut, job_out
from simile.service.serializers.search import shown
from simile.service.state.job_events import MEDIA_TYPE

router = APIRouter(prefix=f"{urls.API}/jobs", tags=["jobs"])

LastEventId = Annotated[str | None, Header(description="The last event that the client has seen; browsers send it.")]

_STREAM: Responses = {
    200: {
        "description": "Events until the job ends; each one's data is the job as JSON",
        "content": {
            MEDIA_TYPE: {
                "itemSchema": {  # as OpenAPI 3.2 says it
                    "type": "object",
                    "required": ["event", "id", "data"],
                    "properties": {
                        "event": {"enum": ["progress", "end"]},
                        "id": {"type": "string", "pattern": "^[0-9]+$"},
                        "data": {
                            "type": "string",
                            "contentMediaType": "application/json",
                            "contentSchema": {"$ref": "#/components/schemas/JobOut"},
                        },
                    },
                },
                "example": f"event: progress\nid: 7\ndata: {json.dumps(EXAMPLE)}\n\n",
            }
        },
    },
    204: {"description": "The job is over, and the client has seen its end: nothing more will come"},
}
_GONE = errors(404, 409, 422, 503)


@router.get("", responses=errors(409, 422, 503))
def list_jobs(jobs: TheJobs, limit: Limit = 20) -> JobsOut:
    """The latest jobs, the newest first, and the names of the folders that can be indexed (SIMILE_ROOTS)."""
    return JobsOut(jobs=[job_out(one) for one in jobs.latest(limit)], roots=sorted(jobs.roots))


@router.post(
    "",
    status_code=202,
    response_model=JobOut,
    responses=errors(400, 403, 404, 408, 409, 413, 415, 422, 503),
    openapi_extra=json_body(JobIn),
)
async def start_job(request: Request, jobs: TheJobs, response: Response) -> JobOut:
    """Begin to index a folder, by the name that the operator gave it; one job at a time.

    It runs beside the service at low priority, and ends with it; the next one goes on where it stopped. A home without
    an encoder gets one trained first.
    """
    wanted = await read_json(request, JobIn)
    job = await run_in_threadpool(jobs.start, wanted.root, wanted.prune)
    response.headers["Location"] = urls.job(job.id)
    return job_out(job)


@router.get("/{job_id}", responses=_GONE)
def show_job(job_id: JobId, jobs: TheJobs) -> JobOut:
    """How a job stands."""
    return job_out(jobs.get(job_id))


@router.post("/{job_id}/cancel", status_code=202, responses=_GONE | errors(403))
def cancel_job(job_id: JobId, jobs: TheJobs) -> JobOut:
    """Ask a job to stop. It finishes the batch in hand, and what was stored is kept. 409 if it is over."""
    return job_out(jobs.cancel(job_id))


@router.get("/{job_id}/failures", responses=_GONE)
def list_failures(job_id: JobId, jobs: TheJobs, limit: Limit = 100, offset: Offset = 0) -> FailuresOut:
    """Files that a job set aside, with the reasons."""
    found, total = jobs.failures(job_id, limit, offset)
    listed = [FailureOut(path=shown(one.path), reason=shown(one.reason)) for one in found]
    return FailuresOut(failures=listed, total=total, limit=limit, offset=offset)


@router.get("/{job_id}/events", response_class=Response, responses=_STREAM | _GONE)
async def job_events(job_id: JobId, jobs: TheJobs, events: TheJobEvents, last_event_id: LastEventId = None) -> Response:
    """How a job goes, as server-sent events: `progress` when something is new, and a last `end`. Data: the job."""
    job = await run_in_threadpool(jobs.get, job_id)
    seen = _version(last_event_id)
    if job.is_over and seen == job.version:
        return Response(status_code=204)
    if events.is_full:
        raise HTTPException(503, "Too many listen already. Ask for the job itself now and then.", {"Retry-After": "10"})
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}  # the second is for nginx, which would hoard it
    return StreamingResponse(events.stream(job_id, seen), headers=headers, media_type=MEDIA_TYPE)


def _version(last_event_id: str | None) -> int | None:
    """What a browser sends back of `id`; anything else was not ours."""
    given = last_event_id or ""
    return int(given) if given.isascii() and given.isdecimal() and len(given) < 19 else None
