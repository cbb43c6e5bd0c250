"""Add quotas of keys, and who uploaded a file."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "2026_11_30_quotas"
down_revision = "2026_11_26_jobs"


def upgrade() -> None:
    """Add the column and the table."""
    op.add_column("api_keys", sa.Column("quota", sa.BigInteger(), nullable=True))
    op.create_table(
        "uploads",
        sa.Column("location_id", sa.Integer(), nullable=False),
        sa.Column("key_id", sa.Integer(), nullable=True),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("location_id", name="pk_uploads"),
        sa.ForeignKeyConstraint(
            ["location_id"], ["locations.id"], name="fk_uploads_location_id_locations", ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["key_id"], ["api_keys.id"], name="fk_uploads_key_id_api_keys", ondelete="CASCADE"),
    )


def downgrade() -> None:
    """Remove both."""
    op.drop_table("uploads")
    op.drop_column("api_keys", "quota")
