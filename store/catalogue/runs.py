"""Runs of long commands with the files that they skipped, and indexing jobs that were started over HTTP.

No search depends on these rows, so their changes do not count as changes of the catalogue.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import Update, func, insert, or_, select, update

from simile.core.errors import JobRunning, NoSuchJob
from simile.core.records import Failure
from simile.store.catalogue.records import JobRecord, RunRecord
from simile.store.database.postgresql import get_host_name
from simile.store.database.tables import FailureRow, JobRow, LocationRow, RunRow, utc_now
from simile.store.database.transactions import Repository

DEAD_SECONDS = 30  # a job on another host that was not seen for so long has died
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
        run |= {"host": get_host_name()}
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

    def get_unreadable_files(self) -> list[Failure]:
        """Return the files that indexing could not read, with the newest reason, by path.

        Files that were read since are left out.
        """
        newest = select(func.max(FailureRow.id)).join(RunRow, RunRow.id == FailureRow.run)
        newest = newest.where(RunRow.kind == "index").group_by(FailureRow.path)
        read = select(LocationRow.path).where(LocationRow.failure.is_(None))
        query = select(FailureRow.path, FailureRow.reason).where(FailureRow.id.in_(newest))
        return self.read_all(Failure, query.where(FailureRow.path.not_in(read)).order_by(FailureRow.path))

    def count_failures(self, run_id: int | None) -> int:
        """Return how many files a run skipped."""
        return self.read_value(select(func.count()).select_from(FailureRow).where(FailureRow.run == run_id))


class JobRepository(Repository):
    """Queries and updates of jobs. Every worker of the service reads them."""

    def add(self, root: str, prune: bool) -> JobRecord:
        """Store that a job starts. The caller must hold this host's lock of jobs.

        Raises JobRunning if a job is running on another host.
        """
        values = {"root": root, "prune": prune, "stage": "looking", "created_at": utc_now(), "host": get_host_name()}
        with self.database.begin_write() as (connection, number_change):
            number_change()  # two hosts can't add a job at the same time
            connection.execute(self._make_interrupt_update())
            running = connection.execute(_JOBS_QUERY.where(JobRow.status == "running")).first()
            if running is not None:
                raise JobRunning(
                    f"Job {running.id} on {running.root!r} is running on {running.host}, and only one job runs at a "
                    "time. Cancel it, or wait for its end."
                )
            job_id = connection.execute(
                insert(JobRow).values(values | {"alive_at": func.now()}).returning(JobRow.id)
            ).scalar_one()
        return self.get(job_id)

    def interrupt_dead(self) -> bool:
        """Mark running jobs as interrupted if their process has died, and return whether there were any.

        The caller must hold this host's lock of jobs. If several hosts share the database, a job has died when it was
        silent for DEAD_SECONDS.
        """
        with self.database.begin_untracked_write() as connection:
            return bool(connection.execute(self._make_interrupt_update()).rowcount)

    def mark_alive(self, job_id: int) -> None:
        """Store that the process of a running job is alive; other hosts need it."""
        if self.database.is_server:
            self.write_untracked(update(JobRow).where(JobRow.id == job_id).values(alive_at=func.now()))

    def _make_interrupt_update(self) -> Update:
        values = {"status": "interrupted", "message": _INTERRUPTED_MESSAGE, "finished_at": utc_now()}
        statement = update(JobRow).where(JobRow.status == "running").values(values | {"version": JobRow.version + 1})
        if self.database.is_server:
            silent = func.now() - JobRow.alive_at > timedelta(seconds=DEAD_SECONDS)
            statement = statement.where(or_(JobRow.alive_at.is_(None), silent))
        return statement

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


def _make_job_update(job_id: int) -> Update:
    """Return an update that changes a job only while it is running."""
    running = update(JobRow).where(JobRow.id == job_id, JobRow.status == "running")
    return running.values(version=JobRow.version + 1)
