"""Indexing jobs: start one on a folder that the operator has named, follow it, cancel it."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from simile.service import urls
from simile.service.dependencies import JobEventsDep, JobIdParam, JobManagerDep, LimitParam, OffsetParam
from simile.service.openapi.install import ResponseDocs, document_errors, json_body
from simile.service.requests.search import read_json
from simile.service.schemas import jobs as schemas
from simile.service.state.job_manager import EVENT_STREAM_MEDIA_TYPE

router = APIRouter(prefix=f"{urls.API}/jobs", tags=["jobs"])

LastEventIdHeader = Annotated[str | None, Header(description="The id of the last received event; browsers send it.")]

_STREAM_RESPONSES: ResponseDocs = {
    200: {
        "description": "Events until the job ends; the data of each event is the job as JSON",
        "content": {
            EVENT_STREAM_MEDIA_TYPE: {
                "itemSchema": {  # as in OpenAPI 3.2
                    "type": "object",
                    "required": ["event", "id", "data"],
                    "properties": {
                        "event": {"enum": ["progress", "end"]},
                        "id": {"type": "string", "pattern": "^[0-9]+$"},
                        "data": {
                            "type": "string",
                            "contentMediaType": "application/json",
                            "contentSchema": {"$ref": "#/components/schemas/JobResponse"},
                        },
                    },
                },
                "example": 'event: progress\nid: 7\ndata: {"id": 3, "status": "running", "done": 5120}\n\n',
            }
        },
    },
    204: {"description": "The job has ended, and the client has received its last event"},
}
_JOB_ERRORS = document_errors(404, 409, 422, 503)


@router.get("", responses=document_errors(409, 422, 503))
def list_jobs(job_manager: JobManagerDep, limit: LimitParam = 20) -> schemas.JobListResponse:
    """List the latest jobs, newest first, and the names of the folders that can be indexed (SIMILE_ROOTS)."""
    jobs = [schemas.make_job_response(job) for job in job_manager.list_latest(limit)]
    return schemas.JobListResponse(jobs=jobs, roots=sorted(job_manager.roots))


@router.post(
    "",
    status_code=202,
    response_model=schemas.JobResponse,
    responses=document_errors(400, 403, 404, 408, 409, 413, 415, 422, 503),
    openapi_extra=json_body(schemas.JobRequest),
)
async def start_job(request: Request, job_manager: JobManagerDep, response: Response) -> schemas.JobResponse:
    """Start to index a folder by the name that the operator gave it; one job at a time.

    The job runs next to the service at low priority and ends with it; the next job continues where it stopped. In a
    home without an encoder the job first trains one.
    """
    params = await read_json(request, schemas.JobRequest)
    job = await run_in_threadpool(job_manager.start, params.root, params.prune)
    started = schemas.make_job_response(job)
    response.headers["Location"] = started.url
    return started


@router.get("/{job_id}", responses=_JOB_ERRORS)
def show_job(job_id: JobIdParam, job_manager: JobManagerDep) -> schemas.JobResponse:
    """Return the state of a job."""
    return schemas.make_job_response(job_manager.get(job_id))


@router.post("/{job_id}/cancel", status_code=202, responses=_JOB_ERRORS | document_errors(403))
def cancel_job(job_id: JobIdParam, job_manager: JobManagerDep) -> schemas.JobResponse:
    """Request that a job stops. It finishes the current batch and keeps all stored results. 409 if it has ended."""
    return schemas.make_job_response(job_manager.cancel(job_id))


@router.get("/{job_id}/failures", responses=_JOB_ERRORS)
def list_failures(
    job_id: JobIdParam, job_manager: JobManagerDep, limit: LimitParam = 100, offset: OffsetParam = 0
) -> schemas.FailureListResponse:
    """List the files that a job could not read, with the reasons."""
    failures, total = job_manager.list_failures(job_id, limit, offset)
    page = {"failures": failures, "total": total, "limit": limit, "offset": offset}
    return schemas.FailureListResponse.model_validate(page, from_attributes=True)


@router.get("/{job_id}/events", response_class=Response, responses=_STREAM_RESPONSES | _JOB_ERRORS)
async def job_events(
    job_id: JobIdParam, job_manager: JobManagerDep, event_broker: JobEventsDep, last_event_id: LastEventIdHeader = None
) -> Response:
    """Follow a job by server-sent events: `progress` after each change, and a last `end`. Data: the job."""
    job = await run_in_threadpool(job_manager.get, job_id)
    # A browser sends back the `id` of the last event, the version of the job; other values are ignored.
    text = last_event_id or ""
    known_version = int(text) if text.isascii() and text.isdecimal() and len(text) < 19 else None
    if job.is_over and known_version == job.version:
        return Response(status_code=204)
    if event_broker.is_full:
        detail = "Too many clients follow jobs already. Request the job itself from time to time."
        raise HTTPException(503, detail, {"Retry-After": "10"})
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}  # the second stops nginx from buffering
    return StreamingResponse(
        event_broker.stream(job_id, known_version), headers=headers, media_type=EVENT_STREAM_MEDIA_TYPE
    )
