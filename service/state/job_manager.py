"""Indexing jobs of the service: started here as child processes, seen and cancelled from every worker.

The lock of jobs (`jobs.lock` in the home) is held by whoever starts a job, then by the job's own process alone: who
can take it knows that a job that says it runs has died.
"""

from __future__ import annotations

import fcntl
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO

from simile.core.errors import HomeBusy, JobOver, JobRunning, NoSuchJob, NoSuchRoot, SimileError
from simile.core.hosts import parse_roots
from simile.core.records import Failure
from simile.core.settings import Settings
from simile.indexer.pipeline.job_process import make_index_job_spec
from simile.store.catalogue.catalogue import Catalogue
from simile.store.catalogue.records import JobRecord
from simile.store.database import schema
from simile.store.home import Home, translate_write_errors

log = logging.getLogger(__name__)

JOB_STOP_SECONDS = 10.0  # the process itself takes half of it to stop in good order
JOB_LOCK_SECONDS = 2.0  # for a job that is just ending
MAX_STDERR_BYTES = 4000  # of what a job that died had to say
# -c and not -m: the module that was started (a script of the user's) must not run again.
_JOB_COMMAND = "import sys; sys.path[:] = {path!r}; from simile.indexer.pipeline.job_process import main; main()"


class JobManager:
    """The jobs of one home. Safe to share between threads; every verb may block on the disk."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.roots = parse_roots(settings.roots)
        self.draining = threading.Event()  # set: streams of events end, and nothing is begun
        self._home = Home(settings.home, settings.database_url)
        self._cached_catalogue: Catalogue | None = None
        self._catalogue_lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._wait_thread: threading.Thread | None = None

    def start(self, root: str, prune: bool) -> JobRecord:
        """Begins to index the folder of that name; makes the home if there is none.

        Raises NoSuchRoot, JobRunning, HomeBusy (it is shutting down), HomeOutdated, HomeNotWritable.
        """
        if root not in self.roots:
            raise NoSuchRoot(root, sorted(self.roots))
        if schema.read_revision(self._home) is None:
            schema.upgrade_schema(self._home)
        catalogue = self._get_catalogue()
        with self._acquire_lock(catalogue, JOB_LOCK_SECONDS) as lock:
            if self.draining.is_set():
                raise HomeBusy("The service is shutting down. Ask again when it is back.")
            job = catalogue.jobs.add(root, prune)
            try:
                self._spawn(job, lock)
            except OSError as error:
                catalogue.jobs.finish(job.id, "failed", f"Its process can't be started: {error.strerror}.", None)
                raise
        return job

    def list_latest(self, limit: int) -> list[JobRecord]:
        """The latest, the newest first; none where there is no home yet."""
        if self._cached_catalogue is None and schema.read_revision(self._home) is None:
            return []
        found = self._get_catalogue().jobs.get_latest(limit)
        return self._get_catalogue().jobs.get_latest(limit) if self._mark_dead_jobs(found) else found

    def get(self, job_id: int) -> JobRecord:
        """As it stands now. Raises NoSuchJob."""
        if self._cached_catalogue is None and schema.read_revision(self._home) is None:
            raise NoSuchJob(job_id)
        found = self._get_catalogue().jobs.get(job_id)
        return self._get_catalogue().jobs.get(job_id) if self._mark_dead_jobs([found]) else found

    def cancel(self, job_id: int) -> JobRecord:
        """Asks it to stop: it finishes the batch in hand. Raises NoSuchJob, and JobOver where it has ended."""
        job = self.get(job_id)
        if not job.is_over:
            job = self._get_catalogue().jobs.request_cancellation(job_id)
        if job.is_over:
            raise JobOver(f"Job {job_id} is over: {job.status}. There is nothing left to cancel.")
        return job

    def list_failures(self, job_id: int, limit: int, offset: int) -> tuple[list[Failure], int]:
        """Files that it set aside, and how many in all. Raises NoSuchJob."""
        self.get(job_id)
        return self._get_catalogue().jobs.get_failures(job_id, limit, offset)

    def drain(self) -> None:
        """The service is about to end: streams end, a job that was started here is told to stop. Waits for nothing."""
        self.draining.set()
        child = self._process
        if child is not None and child.stdin is not None:
            with suppress(OSError):
                child.stdin.close()

    def close(self) -> None:
        """Ends the job that was started here, if one runs: in good order if it hurries, else by force."""
        self.drain()
        if self._wait_thread is not None and self._process is not None:
            self._wait_thread.join(JOB_STOP_SECONDS)
            self._process.kill()
            self._wait_thread.join()
        if self._cached_catalogue is not None:
            self._cached_catalogue.close()

    def _get_catalogue(self) -> Catalogue:
        """Raises NothingIndexed where there is none, HomeOutdated, HomeTooNew."""
        with self._catalogue_lock:
            if self._cached_catalogue is None:
                schema.check_schema(self._home)
                self._cached_catalogue = Catalogue(self._home)
            return self._cached_catalogue

    def _mark_dead_jobs(self, jobs: list[JobRecord]) -> bool:
        """Whether one of them said that it runs, but had died; it is marked now."""
        if all(job.is_over for job in jobs):
            return False
        if self._wait_thread is not None and self._wait_thread.is_alive():  # it knows more of how its job ended
            return False
        try:
            with self._acquire_lock(self._get_catalogue(), 0):
                self._get_catalogue().jobs.interrupt_running()
        except JobRunning:
            return False
        return True

    @contextmanager
    def _acquire_lock(self, catalogue: Catalogue, seconds: float) -> Iterator[IO[bytes]]:
        """The lock of jobs. Raises JobRunning, at once where a job says that it runs."""
        path = self._home.root / "jobs.lock"
        with translate_write_errors(path):
            file = path.open("ab")
        deadline = time.monotonic() + seconds
        with file:  # closed, never unlocked: a job that was given the descriptor holds the lock on
            while not _try_lock(file):
                running = catalogue.jobs.find_running()
                if running is not None or time.monotonic() >= deadline:
                    name = f"Job {running.id} on {running.root!r}" if running else "Another job"
                    raise JobRunning(f"{name} is under way, and one runs at a time. Cancel it, or wait for its end.")
                time.sleep(0.02)
            yield file

    def _spawn(self, job: JobRecord, lock: IO[bytes]) -> None:
        said = tempfile.TemporaryFile()  # noqa: SIM115  # closed by the thread that waits
        try:
            child = subprocess.Popen(
                [sys.executable, "-c", _JOB_COMMAND.format(path=sys.path)],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=said,
                pass_fds=[lock.fileno()],
                start_new_session=True,  # Ctrl-C in the terminal reaches the service alone, which tells it
            )
        except OSError:
            said.close()
            raise
        order = make_index_job_spec(job.id, self.roots[job.root], job.prune, lock.fileno(), self.settings)
        with suppress(BrokenPipeError):  # it has died already: the thread says so
            assert child.stdin is not None  # as asked for
            child.stdin.write(order.to_line())
            child.stdin.flush()
        self._process = child
        self._wait_thread = threading.Thread(
            target=self._wait_for_exit, args=(child, job.id, said), name=f"job {job.id}"
        )
        self._wait_thread.start()

    def _wait_for_exit(self, process: subprocess.Popen[bytes], job_id: int, stderr_file: IO[bytes]) -> None:
        """Notes how a job ended that could not do so itself."""
        code = process.wait()
        with stderr_file, suppress(SimileError):
            job = self._get_catalogue().jobs.get(job_id)
            if not job.is_over:
                status = "cancelled" if job.cancelling else "interrupted" if self.draining.is_set() else "failed"
                how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
                log.error("job %d ended with %s; it said: %s", job_id, how, _read_tail(stderr_file))
                message = f"Its process ended with {how}. What was stored is kept: a new job goes on from there."
                self._get_catalogue().jobs.finish(job_id, status, message, None)
        if process.stdin is not None:
            with suppress(OSError):
                process.stdin.close()


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
