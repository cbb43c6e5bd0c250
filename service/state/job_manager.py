"""Run indexing jobs of the service as child processes; every worker can read and cancel them, and streams their events.

The job lock (`jobs.lock` in the home) is held while a job is started, then by the job's own process. If the lock is
free, a job with the status `running` has died.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from typing import IO

from starlette.concurrency import run_in_threadpool

from simile.core.errors import HomeBusy, JobOver, JobRunning, NoSuchJob, NoSuchRoot, SimileError
from simile.core.hosts import parse_roots
from simile.core.records import Failure
from simile.core.settings import Settings
from simile.indexer.pipeline.job_process import make_index_job_spec
from simile.service.schemas.jobs import make_job_response
from simile.store.catalogue.catalogue import Catalogue
from simile.store.catalogue.records import JobRecord
from simile.store.database import schema
from simile.store.database.transactions import SERVICE_REPEAT_SECONDS
from simile.store.home import Home, translate_write_errors

log = logging.getLogger(__name__)

JOB_STOP_SECONDS = 10.0  # the process itself needs half of it for an orderly stop
JOB_LOCK_SECONDS = 2.0  # wait for a job that is just ending
MAX_STDERR_BYTES = 4000  # logged from the end of a failed job's output
EVENT_STREAM_MEDIA_TYPE = "text/event-stream"
MAX_LISTENERS = 200  # in one process
POLL_SECONDS = 0.5  # one query serves all listeners of a job
HEARTBEAT_SECONDS = 10.0  # keeps the connection open in proxies and detects disconnected clients
MAX_STREAM_SECONDS = 3600.0  # then the client reconnects, and its key is checked again
EVENT_RETRY_MS = 2000  # delay before a browser reconnects
# -c instead of -m: the main module, which may be a user's script, must not run again.
_JOB_COMMAND = "import sys; sys.path[:] = {path!r}; from simile.indexer.pipeline.job_process import main; main()"


class JobManager:
    """The jobs of one home. Safe to share between threads; every method may block on the disk."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.roots = parse_roots(settings.roots)
        self.draining = threading.Event()  # set: event streams end, and no job starts
        self._home = Home.from_settings(settings)
        self._cached_catalogue: Catalogue | None = None
        self._catalogue_lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._wait_thread: threading.Thread | None = None

    def start(self, root: str, prune: bool) -> JobRecord:
        """Start to index the folder with this name; creates the home if there is none.

        Raises NoSuchRoot, JobRunning, HomeBusy (it is shutting down), HomeOutdated, HomeNotWritable.
        """
        if root not in self.roots:
            raise NoSuchRoot(root, sorted(self.roots))
        if schema.read_revision(self._home) is None:
            schema.upgrade_schema(self._home)
        catalogue = self._get_catalogue()
        with self._acquire_lock(catalogue, JOB_LOCK_SECONDS) as lock:
            if self.draining.is_set():
                raise HomeBusy("The service is shutting down. Try again after its restart.")
            job = catalogue.jobs.add(root, prune)
            try:
                self._spawn(job, lock)
            except OSError as error:
                catalogue.jobs.finish(job.id, "failed", f"Its process cannot be started: {error.strerror}.", None)
                raise
        return job

    def list_latest(self, limit: int) -> list[JobRecord]:
        """List the latest jobs, newest first; none without a home."""
        if not self._has_home():
            return []
        jobs = self._get_catalogue().jobs.get_latest(limit)
        return self._get_catalogue().jobs.get_latest(limit) if self._mark_dead_jobs(jobs) else jobs

    def get(self, job_id: int) -> JobRecord:
        """Return the current state of a job. Raises NoSuchJob."""
        if not self._has_home():
            raise NoSuchJob(job_id)
        job = self._get_catalogue().jobs.get(job_id)
        return self._get_catalogue().jobs.get(job_id) if self._mark_dead_jobs([job]) else job

    def cancel(self, job_id: int) -> JobRecord:
        """Request that a job stops after its current batch. Raises NoSuchJob, JobOver."""
        job = self.get(job_id)
        if not job.is_over:
            job = self._get_catalogue().jobs.request_cancellation(job_id)
        if job.is_over:
            raise JobOver(f"Job {job_id} is over: {job.status}. It cannot be cancelled any more.")
        return job

    def list_failures(self, job_id: int, limit: int, offset: int) -> tuple[list[Failure], int]:
        """Return a page of the files that a job could not read, and their total number. Raises NoSuchJob."""
        self.get(job_id)
        return self._get_catalogue().jobs.get_failures(job_id, limit, offset)

    def drain(self) -> None:
        """End the event streams and tell a job of this process to stop, without waiting."""
        self.draining.set()
        if self._process is not None and self._process.stdin is not None:
            with suppress(OSError):
                self._process.stdin.close()

    def close(self) -> None:
        """End a job of this process: it has JOB_STOP_SECONDS for an orderly stop, then it is killed."""
        self.drain()
        if self._wait_thread is not None and self._process is not None:
            self._wait_thread.join(JOB_STOP_SECONDS)
            self._process.kill()
            self._wait_thread.join()
        if self._cached_catalogue is not None:
            self._cached_catalogue.close()

    def _has_home(self) -> bool:
        return self._cached_catalogue is not None or schema.read_revision(self._home) is not None

    def _get_catalogue(self) -> Catalogue:
        """Open the catalogue. Raises NothingIndexed if there is none, HomeOutdated, HomeTooNew."""
        with self._catalogue_lock:
            if self._cached_catalogue is None:
                schema.check_schema(self._home)
                self._cached_catalogue = Catalogue(self._home, SERVICE_REPEAT_SECONDS)
            return self._cached_catalogue

    def _mark_dead_jobs(self, jobs: list[JobRecord]) -> bool:
        """Mark running jobs whose process has died as interrupted, and return whether there may be any."""
        if all(job.is_over for job in jobs):
            return False
        if self._wait_thread is not None and self._wait_thread.is_alive():  # it will record how its job ended
            return False
        try:
            with self._acquire_lock(self._get_catalogue(), 0):
                return self._get_catalogue().jobs.interrupt_dead()
        except JobRunning:
            return False

    @contextmanager
    def _acquire_lock(self, catalogue: Catalogue, seconds: float) -> Iterator[IO[bytes]]:
        """Hold the job lock. Raises JobRunning: at once if a job is running, else after `seconds`."""
        path = self._home.root / "jobs.lock"
        with translate_write_errors(path):
            file = path.open("ab")
        deadline = time.monotonic() + seconds
        with file:  # closed, never unlocked: a job that inherited the descriptor keeps the lock
            while not _try_lock(file):
                running = catalogue.jobs.find_running()
                if running is not None or time.monotonic() >= deadline:
                    name = f"Job {running.id} on {running.root!r}" if running else "Another job"
                    raise JobRunning(
                        f"{name} is running, and only one job runs at a time. Cancel it, or wait for its end."
                    )
                time.sleep(0.02)
            yield file

    def _spawn(self, job: JobRecord, lock: IO[bytes]) -> None:
        stderr = tempfile.TemporaryFile()  # noqa: SIM115  # closed by the thread that waits
        try:
            process = subprocess.Popen(
                [sys.executable, "-c", _JOB_COMMAND.format(path=sys.path)],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                pass_fds=[lock.fileno()],
                start_new_session=True,  # Ctrl-C in the terminal reaches only the service, which stops the job
            )
        except OSError:
            stderr.close()
            raise
        spec = make_index_job_spec(job.id, self.roots[job.root], job.prune, lock.fileno(), self.settings)
        with suppress(BrokenPipeError):  # it has died already: the thread records that
            assert process.stdin is not None  # a pipe
            process.stdin.write(spec.to_line())
            process.stdin.flush()
        self._process = process
        self._wait_thread = threading.Thread(
            target=self._wait_for_exit, args=(process, job.id, stderr), name=f"job {job.id}"
        )
        self._wait_thread.start()

    def _wait_for_exit(self, process: subprocess.Popen[bytes], job_id: int, stderr_file: IO[bytes]) -> None:
        """Record how a job ended if its process could not do so itself."""
        code = process.wait()
        with stderr_file, suppress(SimileError):
            job = self._get_catalogue().jobs.get(job_id)
            if not job.is_over:
                status = "cancelled" if job.cancelling else "interrupted" if self.draining.is_set() else "failed"
                cause = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
                log.error("job %d ended with %s; stderr: %s", job_id, cause, _read_tail(stderr_file))
                message = f"Its process ended with {cause}. Stored results are kept: a new job continues from there."
                self._get_catalogue().jobs.finish(job_id, status, message, None)
        if process.stdin is not None:
            with suppress(OSError):
                process.stdin.close()


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

        A stream without an `end` was interrupted; the client reconnects. `known_version`: of the job that it knows.
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


def _try_lock(file: IO[bytes]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read_tail(file: IO[bytes]) -> str:
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - MAX_STDERR_BYTES))
    return file.read().decode("utf-8", "replace").strip()
