"""Runs of long commands with the files that they skipped, and indexing jobs that were started over HTTP.

No search depends on these rows, so their changes do not count as changes of the catalogue.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Update, func, insert, select, update

from simile.core.errors import NoSuchJob
from simile.core.records import Failure
from simile.store.catalogue.records import JobRecord, RunRecord
from simile.store.database.tables import FailureRow, JobRow, RunRow, utc_now
from simile.store.database.transactions import Repository

_INTERRUPTED_MESSAGE = "Its server ended or was killed. Everything stored is kept: a new job continues from there."
_RUNS_QUERY = select(RunRow.__table__).order_by(RunRow.id.desc())
_JOBS_QUERY = select(JobRow.__table__).order_by(JobRow.id.desc())


class RunRepository(Repository):
    """Queries and updates of runs."""

    def start(self, kind: str, settings: dict[str, Any]) -> int:
        """Store that a run starts, and return its id. The caller must hold the home's lock.

        Because of the lock, any other run that is marked as running has died: it becomes `interrupted`.
        """
        run = {"kind": kind, "started_at": utc_now(), "status": "running", "counts": {}, "settings": settings}
        with self.database.begin_untracked_write() as connection:
            connection.execute(update(RunRow).where(RunRow.status == "running").values(status="interrupted"))
            return connection.execute(insert(RunRow).values(run).returning(RunRow.id)).scalar_one()

    def finish(self, run_id: int, status: str, counts: dict[str, Any]) -> None:
        """Store how a run ended: `finished`, `failed` or `interrupted`."""
        values = {"status": status, "counts": counts, "finished_at": utc_now()}
        self.write_untracked(update(RunRow).where(RunRow.id == run_id).values(values))

    def add_failures(self, run_id: int, failures: Sequence[Failure]) -> None:
        """Store files that a run skipped."""
        rows = [{"run": run_id, **vars(failure)} for failure in failures]
        if rows:
            with self.database.begin_untracked_write() as connection:
                connection.execute(insert(FailureRow), rows)

    def get_latest(self, limit: int = 20) -> list[RunRecord]:
        """Return the latest runs, newest first."""
        return self.read_all(RunRecord, _RUNS_QUERY.limit(limit))

    def find_last_finished(self, kind: str) -> RunRecord | None:
        """Return the newest finished run of this kind, or None."""
        is_finished = (RunRow.kind == kind) & (RunRow.status == "finished")
        return self.read_first(RunRecord, _RUNS_QUERY.where(is_finished).limit(1))

    def get_failures(self, run_id: int | None, limit: int | None = None, offset: int = 0) -> list[Failure]:
        """Return the files that a run skipped, in the order it met them; `limit` None for all."""
        query = select(FailureRow.path, FailureRow.reason).where(FailureRow.run == run_id).order_by(FailureRow.id)
        return self.read_all(Failure, query.limit(limit).offset(offset))

    def count_failures(self, run_id: int | None) -> int:
        """Return how many files a run skipped."""
        return self.read_value(select(func.count()).select_from(FailureRow).where(FailureRow.run == run_id))


class JobRepository(Repository):
    """Queries and updates of jobs. Every worker of the service reads them."""

    def add(self, root: str, prune: bool) -> JobRecord:
        """Store that a job starts. The caller must hold the lock of jobs, so any other running job has died."""
        values = {"root": root, "prune": prune, "stage": "looking", "created_at": utc_now()}
        with self.database.begin_untracked_write() as connection:
            connection.execute(_make_interrupt_update())
            job_id = connection.execute(insert(JobRow).values(values).returning(JobRow.id)).scalar_one()
        return self.get(job_id)

    def interrupt_running(self) -> None:
        """Mark all running jobs as interrupted. The caller must hold the lock of jobs."""
        self.write_untracked(_make_interrupt_update())

    def update(self, job_id: int, **values: Any) -> None:
        """Update a running job: stage, done, total, per_second, seconds_left, failed, run."""
        self.write_untracked(_make_job_update(job_id).values(values))

    def request_cancellation(self, job_id: int) -> JobRecord:
        """Ask a running job to stop. The job itself stores when it has stopped. Raises NoSuchJob."""
        self.write_untracked(_make_job_update(job_id).where(JobRow.cancelling.is_(False)).values(cancelling=True))
        return self.get(job_id)

    def finish(self, job_id: int, status: str, message: str | None, result: dict[str, Any] | None) -> None:
        """Store how a job ended: finished, failed, cancelled or interrupted. The first call wins."""
        values = {"status": status, "message": message, "result": result, "finished_at": utc_now()}
        self.write_untracked(_make_job_update(job_id).values(values | {"seconds_left": None}))

    def get(self, job_id: int) -> JobRecord:
        """Return a job. Raises NoSuchJob."""
        job = self.read_first(JobRecord, _JOBS_QUERY.where(JobRow.id == job_id))
        if job is None:
            raise NoSuchJob(job_id)
        return job

    def get_latest(self, limit: int = 20) -> list[JobRecord]:
        """Return the latest jobs, newest first."""
        return self.read_all(JobRecord, _JOBS_QUERY.limit(limit))

    def find_running(self) -> JobRecord | None:
        """Return the running job, or None."""
        return self.read_first(JobRecord, _JOBS_QUERY.where(JobRow.status == "running").limit(1))

    def get_failures(self, job_id: int, limit: int, offset: int) -> tuple[list[Failure], int]:
        """Return a page of the files that a job skipped, and how many there are in total. Raises NoSuchJob."""
        run_id, runs = self.get(job_id).run, RunRepository(self.database)
        return runs.get_failures(run_id, limit, offset), runs.count_failures(run_id)


def _make_interrupt_update() -> Update:
    values = {"status": "interrupted", "message": _INTERRUPTED_MESSAGE, "finished_at": utc_now()}
    return update(JobRow).where(JobRow.status == "running").values(values | {"version": JobRow.version + 1})


def _make_job_update(job_id: int) -> Update:
    """Return an update that changes a job only while it is running."""
    running = update(JobRow).where(JobRow.id == job_id, JobRow.status == "running")
    return running.values(version=JobRow.version + 1)
