"""How a job goes, as server-sent events: each listener gets the newest state there is, never a queue of old ones."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

from starlette.concurrency import run_in_threadpool

from simile.core.errors import SimileError
from simile.service.schemas.jobs import make_job_response
from simile.service.state.job_manager import JobManager
from simile.store.catalogue.records import JobRecord

EVENT_STREAM_MEDIA_TYPE = "text/event-stream"
MAX_LISTENERS = 200  # of one process
POLL_SECONDS = 0.5  # one look serves all listeners of a job
HEARTBEAT_SECONDS = 10.0  # so that proxies keep the connection, and who is gone is noticed
MAX_STREAM_SECONDS = 3600.0  # then the client asks again, with whatever key it has by then
EVENT_RETRY_MS = 2000  # after a stream that was cut off


class JobEventBroker:
    """The streams of one process. A job is looked at once in `look_seconds`, whoever listens."""

    def __init__(
        self, job_manager: JobManager, poll_seconds: float = POLL_SECONDS, heartbeat_seconds: float = HEARTBEAT_SECONDS
    ) -> None:
        self._job_manager, self._poll_seconds, self._heartbeat_seconds = job_manager, poll_seconds, heartbeat_seconds
        self._poll_lock = asyncio.Lock()
        self._recent_jobs: dict[int, tuple[float, JobRecord]] = {}
        self._listener_count = 0

    @property
    def is_full(self) -> bool:
        return self._listener_count >= MAX_LISTENERS

    async def stream(self, job_id: int, known_version: int | None) -> AsyncIterator[str]:
        """Events from now to the job's end: `progress` whenever something is new, and a last `end`.

        seen: the version that the client knows; None: none. A stream without an `end` was cut off: ask again.
        """
        self._listener_count += 1
        try:
            yield f"retry: {EVENT_RETRY_MS}\n\n"
            said, until = time.monotonic(), time.monotonic() + MAX_STREAM_SECONDS
            while time.monotonic() < until and not self._job_manager.draining.is_set():
                job = await self._poll_job(job_id)
                if job.version != known_version or job.is_over:
                    yield format_event(job)
                    known_version, said = job.version, time.monotonic()
                elif time.monotonic() - said >= self._heartbeat_seconds:
                    yield ": still at it\n\n"
                    said = time.monotonic()
                if job.is_over:
                    return
                await asyncio.sleep(self._poll_seconds)
        except SimileError:  # a busy catalogue, after the answer has begun: the client asks again
            return
        finally:
            self._listener_count -= 1

    async def _poll_job(self, job_id: int) -> JobRecord:
        """The job, at most so old."""
        async with self._poll_lock:
            looked_at, job = self._recent_jobs.get(job_id, (0.0, None))
            if job is None or time.monotonic() - looked_at >= self._poll_seconds:
                job = await run_in_threadpool(self._job_manager.get, job_id)
                fresh = {
                    other: (when, record)
                    for other, (when, record) in self._recent_jobs.items()
                    if time.monotonic() - when < self._poll_seconds
                }
                self._recent_jobs = fresh | {job_id: (time.monotonic(), job)}
            return job


def format_event(job: JobRecord) -> str:
    """One event; its id is the version of the job."""
    name = "end" if job.is_over else "progress"
    return f"event: {name}\nid: {job.version}\ndata: {make_job_response(job).model_dump_json()}\n\n"
