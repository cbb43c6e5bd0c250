"""Add indexing jobs that are started over HTTP."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "2026_11_26_jobs"
down_revision = "2026_11_26_keys"


def upgrade() -> None:
    op.create_table(
        "jobs",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("root", sa.String(), nullable=False),
        sa.Column("prune", sa.Boolean(), nullable=False),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("cancelling", sa.Boolean(), nullable=False),
        sa.Column("stage", sa.String(), nullable=False),
        sa.Column("done", sa.BigInteger(), nullable=False),
        sa.Column("total", sa.BigInteger(), nullable=True),
        sa.Column("per_second", sa.Double(), nullable=True),
        sa.Column("seconds_left", sa.Double(), nullable=True),
        sa.Column("failed", sa.BigInteger(), nullable=False),
        sa.Column("message", sa.String(), nullable=True),
        sa.Column("result", sa.JSON(), nullable=True),
        sa.Column("run", sa.Integer(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_jobs"),
        sa.ForeignKeyConstraint(["run"], ["runs.id"], name="fk_jobs_run_runs", ondelete="SET NULL"),
        sa.CheckConstraint(
            "status IN ('running', 'finished', 'failed', 'cancelled', 'interrupted')", name="ck_jobs_status"
        ),
        sqlite_autoincrement=True,
    )


def downgrade() -> None:
    op.drop_table("jobs")
