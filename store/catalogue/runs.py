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
        with self.database.begin_untracked_write() as connection:
            values = {"status": status, "counts": counts, "finished_at": utc_now()}
            connection.execute(update(RunRow).where(RunRow.id == run_id).values(values))

    def add_failures(self, run_id: int, failures: Sequence[Failure]) -> None:
        """Store files that a run skipped."""
        rows = [{"run": run_id, "path": failure.path, "reason": failure.reason} for failure in failures]
        if rows:
            with self.database.begin_untracked_write() as connection:
                connection.execute(insert(FailureRow), rows)

    def get_latest(self, limit: int = 20) -> list[RunRecord]:
        """Return the latest runs, newest first."""
        with self.database.begin_read() as connection:
            rows = connection.execute(select(RunRow.__table__).order_by(RunRow.id.desc()).limit(limit))
            return [RunRecord(**row._mapping) for row in rows]

    def find_last_finished(self, kind: str) -> RunRecord | None:
        """Return the newest finished run of this kind, or None."""
        query = select(RunRow.__table__).where(RunRow.kind == kind, RunRow.status == "finished")
        with self.database.begin_read() as connection:
            row = connection.execute(query.order_by(RunRow.id.desc()).limit(1)).one_or_none()
            return None if row is None else RunRecord(**row._mapping)

    def get_failures(self, run_id: int | None, limit: int | None = None, offset: int = 0) -> list[Failure]:
        """Return the files that a run skipped, in the order it met them; `limit` None for all."""
        query = select(FailureRow.path, FailureRow.reason).where(FailureRow.run == run_id).order_by(FailureRow.id)
        with self.database.begin_read() as connection:
            return [Failure(*row) for row in connection.execute(query.limit(limit).offset(offset))]

    def count_failures(self, run_id: int | None) -> int:
        """Return how many files a run skipped."""
        query = select(func.count()).select_from(FailureRow).where(FailureRow.run == run_id)
        with self.database.begin_read() as connection:
            return connection.execute(query).scalar_one()


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
        with self.database.begin_untracked_write() as connection:
            connection.execute(_make_interrupt_update())

    def update(self, job_id: int, **values: Any) -> None:
        """Update a running job: stage, done, total, per_second, seconds_left, failed, run."""
        with self.database.begin_untracked_write() as connection:
            connection.execute(_make_job_update(job_id).values(values))

    def request_cancellation(self, job_id: int) -> JobRecord:
        """Ask a running job to stop. The job itself stores when it has stopped. Raises NoSuchJob."""
        with self.database.begin_untracked_write() as connection:
            connection.execute(_make_job_update(job_id).where(JobRow.cancelling.is_(False)).values(cancelling=True))
        return self.get(job_id)

    def finish(self, job_id: int, status: str, message: str | None, result: dict[str, Any] | None) -> None:
        """Store how a job ended: finished, failed, cancelled or interrupted. The first call wins."""
        values = {"status": status, "message": message, "result": result, "finished_at": utc_now()}
        with self.database.begin_untracked_write() as connection:
            connection.execute(_make_job_update(job_id).values(values | {"seconds_left": None}))

    def get(self, job_id: int) -> JobRecord:
        """Return a job. Raises NoSuchJob."""
        with self.database.begin_read() as connection:
            row = connection.execute(select(JobRow.__table__).where(JobRow.id == job_id)).one_or_none()
        if row is None:
            raise NoSuchJob(job_id)
        return JobRecord(**row._mapping)

    def get_latest(self, limit: int = 20) -> list[JobRecord]:
        """Return the latest jobs, newest first."""
        with self.database.begin_read() as connection:
            rows = connection.execute(select(JobRow.__table__).order_by(JobRow.id.desc()).limit(limit))
            return [JobRecord(**row._mapping) for row in rows]

    def find_running(self) -> JobRecord | None:
        """Return the running job, or None."""
        query = select(JobRow.__table__).where(JobRow.status == "running").order_by(JobRow.id.desc()).limit(1)
        with self.database.begin_read() as connection:
            row = connection.execute(query).one_or_none()
            return None if row is None else JobRecord(**row._mapping)

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
