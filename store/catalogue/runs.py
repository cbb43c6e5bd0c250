"""Runs: what long commands did, and the files they set aside."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import func, insert, select, update

from simile.core.records import Failure
from simile.store.catalogue.records import RunRecord
from simile.store.database.tables import FailureRow, RunRow, utc_now
from simile.store.database.transactions import Repository


class RunRepository(Repository):
    """Verbs on runs. Nobody's search depends on them, so they don't count as changes."""

    def start(self, kind: str, settings: dict[str, Any]) -> int:
        """Notes that a run begins and gives its id. The caller holds the home's lock.

        Because it does, any other run that still says it is running has died: it becomes `interrupted`.
        """
        run = {"kind": kind, "started_at": utc_now(), "status": "running", "counts": {}, "settings": settings}
        with self.database.begin_untracked_write() as connection:
            connection.execute(update(RunRow).where(RunRow.status == "running").values(status="interrupted"))
            return connection.execute(insert(RunRow).values(run).returning(RunRow.id)).scalar_one()

    def finish(self, run_id: int, status: str, counts: dict[str, Any]) -> None:
        """Notes how a run ended: `finished`, `failed` or `interrupted`."""
        with self.database.begin_untracked_write() as connection:
            values = {"status": status, "counts": counts, "finished_at": utc_now()}
            connection.execute(update(RunRow).where(RunRow.id == run_id).values(values))

    def add_failures(self, run_id: int, failures: Sequence[Failure]) -> None:
        """Notes files that a run set aside."""
        rows = [{"run": run_id, "path": failure.path, "reason": failure.reason} for failure in failures]
        if rows:
            with self.database.begin_untracked_write() as connection:
                connection.execute(insert(FailureRow), rows)

    def get_latest(self, limit: int = 20) -> list[RunRecord]:
        """The latest runs, the newest first."""
        with self.database.begin_read() as connection:
            rows = connection.execute(select(RunRow.__table__).order_by(RunRow.id.desc()).limit(limit))
            return [RunRecord(**row._mapping) for row in rows]

    def find_last_finished(self, kind: str) -> RunRecord | None:
        """The newest run of this kind that finished, None where none did."""
        query = select(RunRow.__table__).where(RunRow.kind == kind, RunRow.status == "finished")
        with self.database.begin_read() as connection:
            row = connection.execute(query.order_by(RunRow.id.desc()).limit(1)).one_or_none()
            return None if row is None else RunRecord(**row._mapping)

    def get_failures(self, run_id: int, limit: int | None = None) -> list[Failure]:
        """The first `limit` of the files that a run set aside, in the order it met them; all without a limit."""
        query = select(FailureRow.path, FailureRow.reason).where(FailureRow.run == run_id).order_by(FailureRow.id)
        with self.database.begin_read() as connection:
            return [Failure(*row) for row in connection.execute(query.limit(limit))]

    def count_failures(self, run_id: int) -> int:
        """How many files a run set aside."""
        query = select(func.count()).select_from(FailureRow).where(FailureRow.run == run_id)
        with self.database.begin_read() as connection:
            return connection.execute(query).scalar_one()
