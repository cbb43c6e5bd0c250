"""How a job goes, as server-sent events: each listener gets the newest state there is, never a queue of old ones."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

from starlette.concurrency import run_in_threadpool

from simile.core.errors import SimileError
from simile.service.schemas.jobs import job_out
from simile.service.state.job_manager import Jobs
from simile.store.catalogue.records import JobRecord

MEDIA_TYPE = "text/event-stream"
MOST_LISTENERS = 200  # of one process
SECONDS_BETWEEN_LOOKS = 0.5  # one look serves all listeners of a job
HEARTBEAT_SECONDS = 10.0  # so that proxies keep the connection, and who is gone is noticed
LONGEST_SECONDS = 3600.0  # then the client asks again, with whatever key it has by then
RETRY_MS = 2000  # after a stream that was cut off


class JobEvents:
    """The streams of one process. A job is looked at once in `look_seconds`, whoever listens."""

    def __init__(
        self, jobs: Jobs, look_seconds: float = SECONDS_BETWEEN_LOOKS, heartbeat_seconds: float = HEARTBEAT_SECONDS
    ) -> None:
        self._jobs, self._look_seconds, self._heartbeat_seconds = jobs, look_seconds, heartbeat_seconds
        self._looking = asyncio.Lock()
        self._seen: dict[int, tuple[float, JobRecord]] = {}
        self._listeners = 0

    @property
    def is_full(self) -> bool:
        return self._listeners >= MOST_LISTENERS

    async def stream(self, job_id: int, seen: int | None) -> AsyncIterator[str]:
        """Events from now to the job's end: `progress` whenever something is new, and a last `end`.

        seen: the version that the client knows; None: none. A stream without an `end` was cut off: ask again.
        """
        self._listeners += 1
        try:
            yield f"retry: {RETRY_MS}\n\n"
            said, until = time.monotonic(), time.monotonic() + LONGEST_SECONDS
            while time.monotonic() < until and not self._jobs.draining.is_set():
                job = await self._look(job_id)
                if job.version != seen or job.is_over:
                    yield event(job)
                    seen, said = job.version, time.monotonic()
                elif time.monotonic() - said >= self._heartbeat_seconds:
                    yield ": still at it\n\n"
                    said = time.monotonic()
                if job.is_over:
                    return
                await asyncio.sleep(self._look_seconds)
        except SimileError:  # a busy catalogue, after the answer has begun: the client asks again
            return
        finally:
            self._listeners -= 1

    async def _look(self, job_id: int) -> JobRecord:
        """The job, at most so old."""
        async with self._looking:
            looked_at, job = self._seen.get(job_id, (0.0, None))
            if job is None or time.monotonic() - looked_at >= self._look_seconds:
                job = await run_in_threadpool(self._jobs.get, job_id)
                fresh = {
                    other: (when, record)
                    for other, (when, record) in self._seen.items()
                    if time.monotonic() - when < self._look_seconds
                }
                self._seen = fresh | {job_id: (time.monotonic(), job)}
            return job


def event(job: JobRecord) -> str:
    """One event; its id is the version of the job."""
    name = "end" if job.is_over else "progress"
    return f"event: {name}\nid: {job.version}\ndata: {job_out(job).model_dump_json()}\n\n"
