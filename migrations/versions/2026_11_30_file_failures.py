"""Add the reason why a known file could not be read when it was read last."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "2026_11_30_file_failures"
down_revision = "2026_11_30_quotas"


def upgrade() -> None:
    """Add the column."""
    op.add_column("locations", sa.Column("failure", sa.String(), nullable=True))


def downgrade() -> None:
    """Remove it."""
    op.drop_column("locations", "failure")
