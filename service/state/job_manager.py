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
from simile.core.index_roots import parse_roots
from simile.core.records import Failure
from simile.core.settings import Settings
from simile.indexer.pipeline.job_process import order_of
from simile.store.catalogue.catalogue import Catalogue
from simile.store.catalogue.records import JobRecord
from simile.store.database import schema
from simile.store.home import Home, writing

log = logging.getLogger(__name__)

CLOSING_SECONDS = 10.0  # the process itself takes half of it to stop in good order
LOCK_SECONDS = 2.0  # for a job that is just ending
LOG_BYTES = 4000  # of what a job that died had to say
# -c and not -m: the module that was started (a script of the user's) must not run again.
_CHILD = "import sys; sys.path[:] = {path!r}; from simile.indexer.pipeline.job_process import main; main()"


class Jobs:
    """The jobs of one home. Safe to share between threads; every verb may block on the disk."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.roots = parse_roots(settings.roots)
        self.draining = threading.Event()  # set: streams of events end, and nothing is begun
        self._home = Home(settings.home, settings.database_url)
        self._opened: Catalogue | None = None
        self._opening = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None
        self._waiting: threading.Thread | None = None

    def start(self, root: str, prune: bool) -> JobRecord:
        """Begins to index the folder of that name; makes the home if there is none.

        Raises NoSuchRoot, JobRunning, HomeBusy (it is shutting down), HomeOutdated, HomeNotWritable.
        """
        if root not in self.roots:
            raise NoSuchRoot(root, sorted(self.roots))
        if schema.revision(self._home) is None:
            schema.upgrade(self._home)
        catalogue = self._catalogue()
        with self._lock(catalogue, LOCK_SECONDS) as lock:
            if self.draining.is_set():
                raise HomeBusy("The service is shutting down. Ask again when it is back.")
            job = catalogue.add_job(root, prune)
            try:
                self._spawn(job, lock)
            except OSError as error:
                catalogue.finish_job(job.id, "failed", f"Its process can't be started: {error.strerror}.", None)
                raise
        return job

    def latest(self, limit: int) -> list[JobRecord]:
        """The latest, the newest first; none where there is no home yet."""
        if self._opened is None and schema.revision(self._home) is None:
            return []
        found = self._catalogue().jobs(limit)
        return self._catalogue().jobs(limit) if self._lose_dead(found) else found

    def get(self, job_id: int) -> JobRecord:
        """As it stands now. Raises NoSuchJob."""
        if self._opened is None and schema.revision(self._home) is None:
            raise NoSuchJob(job_id)
        found = self._catalogue().job(job_id)
        return self._catalogue().job(job_id) if self._lose_dead([found]) else found

    def cancel(self, job_id: int) -> JobRecord:
        """Asks it to stop: it finishes the batch in hand. Raises NoSuchJob, and JobOver where it has ended."""
        job = self.get(job_id)
        if not job.is_over:
            job = self._catalogue().cancel_job(job_id)
        if job.is_over:
            raise JobOver(f"Job {job_id} is over: {job.status}. There is nothing left to cancel.")
        return job

    def failures(self, job_id: int, limit: int, offset: int) -> tuple[list[Failure], int]:
        """Files that it set aside, and how many in all. Raises NoSuchJob."""
        self.get(job_id)
        return self._catalogue().job_failures(job_id, limit, offset)

    def drain(self) -> None:
        """The service is about to end: streams end, a job that was started here is told to stop. Waits for nothing."""
        self.draining.set()
        child = self._child
        if child is not None and child.stdin is not None:
            with suppress(OSError):
                child.stdin.close()

    def close(self) -> None:
        """Ends the job that was started here, if one runs: in good order if it hurries, else by force."""
        self.drain()
        if self._waiting is not None and self._child is not None:
            self._waiting.join(CLOSING_SECONDS)
            self._child.kill()
            self._waiting.join()
        if self._opened is not None:
            self._opened.close()

    def _catalogue(self) -> Catalogue:
        """Raises NothingIndexed where there is none, HomeOutdated, HomeTooNew."""
        with self._opening:
            if self._opened is None:
                schema.check(self._home)
                self._opened = Catalogue(self._home)
            return self._opened

    def _lose_dead(self, jobs: list[JobRecord]) -> bool:
        """Whether one of them said that it runs, but had died; it is marked now."""
        if all(job.is_over for job in jobs):
            return False
        if self._waiting is not None and self._waiting.is_alive():  # it knows more of how its job ended
            return False
        try:
            with self._lock(self._catalogue(), 0):
                self._catalogue().lose_jobs()
        except JobRunning:
            return False
        return True

    @contextmanager
    def _lock(self, catalogue: Catalogue, seconds: float) -> Iterator[IO[bytes]]:
        """The lock of jobs. Raises JobRunning, at once where a job says that it runs."""
        path = self._home.root / "jobs.lock"
        with writing(path):
            file = path.open("ab")
        deadline = time.monotonic() + seconds
        with file:  # closed, never unlocked: a job that was given the descriptor holds the lock on
            while not _taken(file):
                running = catalogue.job_running()
                if running is not None or time.monotonic() >= deadline:
                    name = f"Job {running.id} on {running.root!r}" if running else "Another job"
                    raise JobRunning(f"{name} is under way, and one runs at a time. Cancel it, or wait for its end.")
                time.sleep(0.02)
            yield file

    def _spawn(self, job: JobRecord, lock: IO[bytes]) -> None:
        said = tempfile.TemporaryFile()  # noqa: SIM115  # closed by the thread that waits
        try:
            child = subprocess.Popen(
                [sys.executable, "-c", _CHILD.format(path=sys.path)],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=said,
                pass_fds=[lock.fileno()],
                start_new_session=True,  # Ctrl-C in the terminal reaches the service alone, which tells it
            )
        except OSError:
            said.close()
            raise
        order = order_of(job.id, self.roots[job.root], job.prune, lock.fileno(), self.settings)
        with suppress(BrokenPipeError):  # it has died already: the thread says so
            assert child.stdin is not None  # as asked for
            child.stdin.write(order.to_line())
            child.stdin.flush()
        self._child = child
        self._waiting = threading.Thread(target=self._wait, args=(child, job.id, said), name=f"job {job.id}")
        self._waiting.start()

    def _wait(self, child: subprocess.Popen[bytes], job_id: int, said: IO[bytes]) -> None:
        """Notes how a job ended that could not do so itself."""
        code = child.wait()
        with said, suppress(SimileError):
            job = self._catalogue().job(job_id)
            if not job.is_over:
                status = "cancelled" if job.cancelling else "interrupted" if self.draining.is_set() else "failed"
                how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
                log.error("job %d ended with %s; it said: %s", job_id, how, _tail(said))
                message = f"Its process ended with {how}. What was stored is kept: a new job goes on from there."
                self._catalogue().finish_job(job_id, status, message, None)
        if child.stdin is not None:
            with suppress(OSError):
                child.stdin.close()


def _taken(file: IO[bytes]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _tail(said: IO[bytes]) -> str:
    size = said.seek(0, os.SEEK_END)
    said.seek(max(0, size - LOG_BYTES))
    return said.read().decode("utf-8", "replace").strip()
