"""Indexing jobs that were started over HTTP: one row each, read by every worker of the service."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Update, func, insert, select, update

from simile.core.errors import NoSuchJob
from simile.core.records import Failure
from simile.store.catalogue.records import JobRecord
from simile.store.database.tables import FailureRow, JobRow, utc_now
from simile.store.database.transactions import Repository

_INTERRUPTED_MESSAGE = "Its server ended, or it was killed. What was stored is kept: a new job goes on from there."


class JobRepository(Repository):
    """Verbs on jobs. Nobody's search depends on them, so they don't count as changes."""

    def add(self, root: str, prune: bool) -> JobRecord:
        """Notes a job that begins. The caller holds the lock of jobs, so any other that says it runs has died."""
        values = {"root": root, "prune": prune, "stage": "looking", "created_at": utc_now()}
        with self.database.begin_untracked_write() as connection:
            connection.execute(_make_interrupt_update())
            job_id = connection.execute(insert(JobRow).values(values).returning(JobRow.id)).scalar_one()
        return self.get(job_id)

    def interrupt_running(self) -> None:
        """Marks those that say they run as interrupted. The caller holds the lock of jobs."""
        with self.database.begin_untracked_write() as connection:
            connection.execute(_make_interrupt_update())

    def update(self, job_id: int, **values: Any) -> None:
        """What is new of a job that runs: stage, done, total, per_second, seconds_left, failed, run."""
        with self.database.begin_untracked_write() as connection:
            connection.execute(_make_job_update(job_id).values(values))

    def request_cancellation(self, job_id: int) -> JobRecord:
        """Asks a job that runs to stop; it notes itself when it has. Raises NoSuchJob."""
        with self.database.begin_untracked_write() as connection:
            connection.execute(_make_job_update(job_id).where(JobRow.cancelling.is_(False)).values(cancelling=True))
        return self.get(job_id)

    def finish(self, job_id: int, status: str, message: str | None, result: dict[str, Any] | None) -> None:
        """Notes how a job ended: finished, failed, cancelled or interrupted. What was noted first stays."""
        values = {
            "status": status,
            "message": message,
            "result": result,
            "finished_at": utc_now(),
            "seconds_left": None,
        }
        with self.database.begin_untracked_write() as connection:
            connection.execute(_make_job_update(job_id).values(values))

    def get(self, job_id: int) -> JobRecord:
        """One of them. Raises NoSuchJob."""
        with self.database.begin_read() as connection:
            row = connection.execute(select(JobRow.__table__).where(JobRow.id == job_id)).one_or_none()
        if row is None:
            raise NoSuchJob(job_id)
        return JobRecord(**row._mapping)

    def get_latest(self, limit: int = 20) -> list[JobRecord]:
        """The latest jobs, the newest first."""
        with self.database.begin_read() as connection:
            rows = connection.execute(select(JobRow.__table__).order_by(JobRow.id.desc()).limit(limit))
            return [JobRecord(**row._mapping) for row in rows]

    def find_running(self) -> JobRecord | None:
        """The one that says it runs."""
        query = select(JobRow.__table__).where(JobRow.status == "running").order_by(JobRow.id.desc()).limit(1)
        with self.database.begin_read() as connection:
            row = connection.execute(query).one_or_none()
            return None if row is None else JobRecord(**row._mapping)

    def get_failures(self, job_id: int, limit: int, offset: int) -> tuple[list[Failure], int]:
        """Files that a job set aside, in the order it met them, and how many there are in all. Raises NoSuchJob."""
        run = self.get(job_id).run
        listed = select(FailureRow.path, FailureRow.reason).where(FailureRow.run == run).order_by(FailureRow.id)
        counted = select(func.count()).select_from(FailureRow).where(FailureRow.run == run)
        with self.database.begin_read() as connection:
            found = [Failure(*row) for row in connection.execute(listed.limit(limit).offset(offset))]
            return found, connection.execute(counted).scalar_one()


def _make_interrupt_update() -> Update:
    values = {
        "status": "interrupted",
        "message": _INTERRUPTED_MESSAGE,
        "finished_at": utc_now(),
        "version": JobRow.version + 1,
    }
    return update(JobRow).where(JobRow.status == "running").values(values)


def _make_job_update(job_id: int) -> Update:
    """A change of a job that runs."""
    running = update(JobRow).where(JobRow.id == job_id, JobRow.status == "running")
    return running.values(version=JobRow.version + 1)
