"""Add the host of runs and jobs; for PostgreSQL ids of 64 bits, metadata compared by bytes, uncompressed vectors."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "2026_11_30_several_hosts"
down_revision = "2026_11_30_file_failures"

ID_COLUMNS = {
    "images": ["id"],
    "locations": ["id", "image_id"],
    "metadata": ["location_id"],
    "embeddings": ["image_id"],
    "runs": ["id"],
    "failures": ["id", "run"],
    "segments": ["id"],
    "deletions": ["image_id"],
    "duplicates": ["first", "second", "run"],
    "jobs": ["id", "run"],
    "api_keys": ["id"],
    "uploads": ["location_id", "key_id"],
    "sessions": ["key_id"],
    "state": ["segment_id"],
}
HOST_COLUMNS: dict[str, list[sa.Column[Any]]] = {
    "runs": [sa.Column("host", sa.String(), nullable=True)],
    "jobs": [
        sa.Column("host", sa.String(), nullable=True),
        sa.Column("alive_at", sa.DateTime(timezone=True), nullable=True),
    ],
}


def upgrade() -> None:
    """Add the columns, and change the types."""
    for table, columns in HOST_COLUMNS.items():
        for column in columns:
            op.add_column(table, column)
    if op.get_bind().dialect.name != "postgresql":
        return  # an INTEGER of SQLite has 64 bits
    _set_id_type("BIGINT")
    for name in ("name", "text"):
        op.execute(f'ALTER TABLE metadata ALTER COLUMN {name} TYPE VARCHAR COLLATE "C"')
    for name in ("mu", "log_variance"):  # compression costs time and saves nothing
        op.execute(f"ALTER TABLE embeddings ALTER COLUMN {name} SET STORAGE EXTERNAL")


def downgrade() -> None:
    """Remove the columns, and change the types back."""
    for table, columns in HOST_COLUMNS.items():
        for column in columns:
            op.drop_column(table, column.name)
    if op.get_bind().dialect.name != "postgresql":
        return
    _set_id_type("INTEGER")
    for name in ("name", "text"):
        op.execute(f"ALTER TABLE metadata ALTER COLUMN {name} TYPE VARCHAR")
    for name in ("mu", "log_variance"):
        op.execute(f"ALTER TABLE embeddings ALTER COLUMN {name} SET STORAGE DEFAULT")


def _set_id_type(type_name: str) -> None:
    for table, columns in ID_COLUMNS.items():
        changes = ", ".join(f"ALTER COLUMN {column} TYPE {type_name}" for column in columns)
        op.execute(f"ALTER TABLE {table} {changes}")
    # Sequences keep the type of the column that they were created for.
    for table, columns in ID_COLUMNS.items():
        if columns[0] == "id" and table != "deletions":
            op.execute(f"ALTER SEQUENCE {table}_id_seq AS {type_name}")
