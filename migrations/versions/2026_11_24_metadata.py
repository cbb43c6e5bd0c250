"""Add metadata of files, and details of segments."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "2026_11_24_metadata"
down_revision = "2026_11_22_first_schema"


def upgrade() -> None:
    op.create_table(
        "metadata",
        sa.Column("location_id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("text", sa.String(), nullable=False),
        sa.Column("number", sa.Double(), nullable=True),
        sa.PrimaryKeyConstraint("location_id", "name", name="pk_metadata"),
        sa.ForeignKeyConstraint(
            ["location_id"], ["locations.id"], name="fk_metadata_location_id_locations", ondelete="CASCADE"
        ),
    )
    op.create_index("ix_metadata_name_text", "metadata", ["name", "text"])
    op.create_index("ix_metadata_name_number", "metadata", ["name", "number"])
    op.add_column("segments", sa.Column("details", sa.JSON(), nullable=False, server_default="{}"))


def downgrade() -> None:
    op.drop_column("segments", "details")
    op.drop_table("metadata")
