"""Server-sent events of indexing jobs: each listener gets the latest state, never a backlog."""

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
MAX_LISTENERS = 200  # in one process
POLL_SECONDS = 0.5  # one query serves all listeners of a job
HEARTBEAT_SECONDS = 10.0  # keeps the connection open in proxies and detects disconnected clients
MAX_STREAM_SECONDS = 3600.0  # then the client reconnects, and its key is checked again
EVENT_RETRY_MS = 2000  # delay before a browser reconnects


class JobEventBroker:
    """The event streams of one process. A job is queried once in `poll_seconds` for all its listeners."""

    def __init__(
        self, job_manager: JobManager, poll_seconds: float = POLL_SECONDS, heartbeat_seconds: float = HEARTBEAT_SECONDS
    ) -> None:
        self._job_manager, self._poll_seconds, self._heartbeat_seconds = job_manager, poll_seconds, heartbeat_seconds
        self._poll_lock = asyncio.Lock()
        self._recent_jobs: dict[int, tuple[float, JobRecord]] = {}
        self._listener_count = 0

    @property
    def is_full(self) -> bool:
        """Whether no more listeners are accepted."""
        return self._listener_count >= MAX_LISTENERS

    async def stream(self, job_id: int, known_version: int | None) -> AsyncIterator[str]:
        """Yield events until the job ends: `progress` after each change, and a last `end`.

        A stream without an `end` was interrupted; the client reconnects.

        Args:
            job_id: The id of the job.
            known_version: The version of the job that the client knows; None: none.
        """
        self._listener_count += 1
        try:
            yield f"retry: {EVENT_RETRY_MS}\n\n"
            last_sent = time.monotonic()
            deadline = last_sent + MAX_STREAM_SECONDS
            while time.monotonic() < deadline and not self._job_manager.draining.is_set():
                job = await self._poll_job(job_id)
                if job.version != known_version or job.is_over:
                    yield format_event(job)
                    known_version, last_sent = job.version, time.monotonic()
                elif time.monotonic() - last_sent >= self._heartbeat_seconds:
                    yield ": heartbeat\n\n"
                    last_sent = time.monotonic()
                if job.is_over:
                    return
                await asyncio.sleep(self._poll_seconds)
        except SimileError:  # the catalogue is busy, and the response has started: the client reconnects
            return
        finally:
            self._listener_count -= 1

    async def _poll_job(self, job_id: int) -> JobRecord:
        """Return the job, at most `poll_seconds` old."""
        async with self._poll_lock:
            expired = time.monotonic() - self._poll_seconds
            self._recent_jobs = {key: recent for key, recent in self._recent_jobs.items() if recent[0] > expired}
            if job_id not in self._recent_jobs:
                job = await run_in_threadpool(self._job_manager.get, job_id)
                self._recent_jobs[job_id] = time.monotonic(), job
            return self._recent_jobs[job_id][1]


def format_event(job: JobRecord) -> str:
    """Return one server-sent event; its id is the version of the job."""
    name = "end" if job.is_over else "progress"
    return f"event: {name}\nid: {job.version}\ndata: {make_job_response(job).model_dump_json()}\n\n"
