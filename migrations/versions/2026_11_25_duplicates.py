"""Add duplicates that were found, and decisions on them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "2026_11_25_duplicates"
down_revision = "2026_11_24_metadata"


def upgrade() -> None:
    op.create_table(
        "duplicates",
        sa.Column("first", sa.Integer(), nullable=False),
        sa.Column("second", sa.Integer(), nullable=False),
        sa.Column("tier", sa.String(), nullable=False),
        sa.Column("distance", sa.Double(), nullable=False),
        sa.Column("agreement", sa.Double(), nullable=True),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("run", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("first", "second", name="pk_duplicates"),
        sa.ForeignKeyConstraint(["first"], ["images.id"], name="fk_duplicates_first_images", ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["second"], ["images.id"], name="fk_duplicates_second_images", ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["run"], ["runs.id"], name="fk_duplicates_run_runs"),
        sa.CheckConstraint("tier IN ('pixels', 'near', 'similar')", name="ck_duplicates_tier"),
        sa.CheckConstraint("first < second", name="ck_duplicates_ordered"),
    )
    op.create_index("ix_duplicates_second", "duplicates", ["second"])
    op.create_index("ix_duplicates_tier", "duplicates", ["tier"])
    op.create_table(
        "decisions",
        sa.Column("first_sha256", sa.String(), nullable=False),
        sa.Column("second_sha256", sa.String(), nullable=False),
        sa.Column("same", sa.Boolean(), nullable=False),
        sa.Column("keep_sha256", sa.String(), nullable=True),
        sa.Column("decided_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("first_sha256", "second_sha256", name="pk_decisions"),
        sa.CheckConstraint("first_sha256 < second_sha256", name="ck_decisions_ordered"),
    )


def downgrade() -> None:
    op.drop_table("decisions")
    op.drop_table("duplicates")
