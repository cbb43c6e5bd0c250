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
from simile.service.dependencies import JobEventsDep, JobIdParam, JobManagerDep, LimitParam, OffsetParam
from simile.service.openapi.install import ResponseDocs, document_errors, json_body
from simile.service.requests.search import read_json
from simile.service.schemas.jobs import (
    JOB_EXAMPLE,
    FailureListResponse,
    FileFailureResponse,
    JobListResponse,
    JobRequest,
    JobResponse,
    make_job_response,
)
from simile.service.serializers.search import replace_surrogates
from simile.service.state.job_events import EVENT_STREAM_MEDIA_TYPE

router = APIRouter(prefix=f"{urls.API}/jobs", tags=["jobs"])

LastEventIdHeader = Annotated[
    str | None, Header(description="The last event that the client has seen; browsers send it.")
]

_STREAM_RESPONSES: ResponseDocs = {
    200: {
        "description": "Events until the job ends; each one's data is the job as JSON",
        "content": {
            EVENT_STREAM_MEDIA_TYPE: {
                "itemSchema": {  # as OpenAPI 3.2 says it
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
                "example": f"event: progress\nid: 7\ndata: {json.dumps(JOB_EXAMPLE)}\n\n",
            }
        },
    },
    204: {"description": "The job is over, and the client has seen its end: nothing more will come"},
}
_JOB_ERRORS = document_errors(404, 409, 422, 503)


@router.get("", responses=document_errors(409, 422, 503))
def list_jobs(job_manager: JobManagerDep, limit: LimitParam = 20) -> JobListResponse:
    """The latest jobs, the newest first, and the names of the folders that can be indexed (SIMILE_ROOTS)."""
    return JobListResponse(
        jobs=[make_job_response(one) for one in job_manager.list_latest(limit)], roots=sorted(job_manager.roots)
    )


@router.post(
    "",
    status_code=202,
    response_model=JobResponse,
    responses=document_errors(400, 403, 404, 408, 409, 413, 415, 422, 503),
    openapi_extra=json_body(JobRequest),
)
async def start_job(request: Request, job_manager: JobManagerDep, response: Response) -> JobResponse:
    """Begin to index a folder, by the name that the operator gave it; one job at a time.

    It runs beside the service at low priority, and ends with it; the next one goes on where it stopped. A home without
    an encoder gets one trained first.
    """
    wanted = await read_json(request, JobRequest)
    job = await run_in_threadpool(job_manager.start, wanted.root, wanted.prune)
    response.headers["Location"] = urls.job(job.id)
    return make_job_response(job)


@router.get("/{job_id}", responses=_JOB_ERRORS)
def show_job(job_id: JobIdParam, job_manager: JobManagerDep) -> JobResponse:
    """How a job stands."""
    return make_job_response(job_manager.get(job_id))


@router.post("/{job_id}/cancel", status_code=202, responses=_JOB_ERRORS | document_errors(403))
def cancel_job(job_id: JobIdParam, job_manager: JobManagerDep) -> JobResponse:
    """Ask a job to stop. It finishes the batch in hand, and what was stored is kept. 409 if it is over."""
    return make_job_response(job_manager.cancel(job_id))


@router.get("/{job_id}/failures", responses=_JOB_ERRORS)
def list_failures(
    job_id: JobIdParam, job_manager: JobManagerDep, limit: LimitParam = 100, offset: OffsetParam = 0
) -> FailureListResponse:
    """Files that a job set aside, with the reasons."""
    found, total = job_manager.list_failures(job_id, limit, offset)
    listed = [
        FileFailureResponse(path=replace_surrogates(one.path), reason=replace_surrogates(one.reason)) for one in found
    ]
    return FailureListResponse(failures=listed, total=total, limit=limit, offset=offset)


@router.get("/{job_id}/events", response_class=Response, responses=_STREAM_RESPONSES | _JOB_ERRORS)
async def job_events(
    job_id: JobIdParam, job_manager: JobManagerDep, event_broker: JobEventsDep, last_event_id: LastEventIdHeader = None
) -> Response:
    """How a job goes, as server-sent events: `progress` when something is new, and a last `end`. Data: the job."""
    job = await run_in_threadpool(job_manager.get, job_id)
    seen = _parse_version(last_event_id)
    if job.is_over and seen == job.version:
        return Response(status_code=204)
    if event_broker.is_full:
        raise HTTPException(503, "Too many listen already. Ask for the job itself now and then.", {"Retry-After": "10"})
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}  # the second is for nginx, which would hoard it
    return StreamingResponse(event_broker.stream(job_id, seen), headers=headers, media_type=EVENT_STREAM_MEDIA_TYPE)


def _parse_version(last_event_id: str | None) -> int | None:
    """What a browser sends back of `id`; anything else was not ours."""
    given = last_event_id or ""
    return int(given) if given.isascii() and given.isdecimal() and len(given) < 19 else None
