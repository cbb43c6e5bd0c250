"""Add keys of the service, and sessions."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "2026_11_26_keys"
down_revision = "2026_11_25_duplicates"

timestamp_type = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "api_keys",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("prefix", sa.String(), nullable=False),
        sa.Column("sha256", sa.String(), nullable=False),
        sa.Column("scope", sa.String(), nullable=False),
        sa.Column("rate", sa.Integer(), nullable=True),
        sa.Column("created_at", timestamp_type, nullable=False),
        sa.Column("expires_at", timestamp_type, nullable=True),
        sa.Column("revoked_at", timestamp_type, nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_api_keys"),
        sa.UniqueConstraint("name", name="uq_api_keys_name"),
        sa.UniqueConstraint("prefix", name="uq_api_keys_prefix"),
        sa.CheckConstraint("scope IN ('search', 'write', 'admin')", name="ck_api_keys_scope"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "sessions",
        sa.Column("sha256", sa.String(), nullable=False),
        sa.Column("key_id", sa.Integer(), nullable=False),
        sa.Column("created_at", timestamp_type, nullable=False),
        sa.Column("expires_at", timestamp_type, nullable=False),
        sa.PrimaryKeyConstraint("sha256", name="pk_sessions"),
        sa.ForeignKeyConstraint(["key_id"], ["api_keys.id"], name="fk_sessions_key_id_api_keys", ondelete="CASCADE"),
    )
    op.create_index("ix_sessions_key_id", "sessions", ["key_id"])


def downgrade() -> None:
    op.drop_table("sessions")
    op.drop_table("api_keys")
