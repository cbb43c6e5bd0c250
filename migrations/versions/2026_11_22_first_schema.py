"""Create the first schema."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "2026_11_22_first_schema"
down_revision = None

path_type = sa.String().with_variant(sa.String(collation="C"), "postgresql")
timestamp_type = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "encoders",
        sa.Column("fingerprint", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("recipe", sa.String(), nullable=False),
        sa.Column("dimensions", sa.Integer(), nullable=False),
        sa.Column("index_dims", sa.JSON(), nullable=True),
        sa.Column("metric", sa.String(), nullable=False),
        sa.Column("created_at", timestamp_type, nullable=False),
        sa.PrimaryKeyConstraint("fingerprint", name="pk_encoders"),
        sa.CheckConstraint("metric IN ('l2', 'cosine')", name=op.f("ck_encoders_metric")),
    )
    op.create_table(
        "images",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("sha256", sa.String(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("format", sa.String(), nullable=False),
        sa.Column("width", sa.Integer(), nullable=False),
        sa.Column("height", sa.Integer(), nullable=False),
        sa.Column("created_at", timestamp_type, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_images"),
        sa.UniqueConstraint("sha256", name="uq_images_sha256"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "locations",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("image_id", sa.Integer(), nullable=False),
        sa.Column("path", path_type, nullable=False),
        sa.Column("mtime_ns", sa.BigInteger(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_locations"),
        sa.ForeignKeyConstraint(["image_id"], ["images.id"], name="fk_locations_image_id_images", ondelete="CASCADE"),
        sa.UniqueConstraint("path", name="uq_locations_path"),
    )
    op.create_index("ix_locations_image_id", "locations", ["image_id"])
    op.create_table(
        "embeddings",
        sa.Column("image_id", sa.Integer(), nullable=False),
        sa.Column("encoder", sa.String(), nullable=False),
        sa.Column("mu", sa.LargeBinary(), nullable=False),
        sa.Column("log_variance", sa.LargeBinary(), nullable=True),
        sa.Column("reconstruction_error", sa.Double(), nullable=True),
        sa.Column("runtime", sa.String(), nullable=False),
        sa.Column("change", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("image_id", "encoder", name="pk_embeddings"),
        sa.ForeignKeyConstraint(["image_id"], ["images.id"], name="fk_embeddings_image_id_images", ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["encoder"], ["encoders.fingerprint"], name="fk_embeddings_encoder_encoders"),
    )
    op.create_index("ix_embeddings_change", "embeddings", ["change"])
    op.create_table(
        "runs",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("started_at", timestamp_type, nullable=False),
        sa.Column("finished_at", timestamp_type, nullable=True),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("counts", sa.JSON(), nullable=False),
        sa.Column("settings", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_runs"),
        sa.CheckConstraint("status IN ('running', 'finished', 'failed', 'interrupted')", name=op.f("ck_runs_status")),
    )
    op.create_table(
        "failures",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("run", sa.Integer(), nullable=False),
        sa.Column("path", sa.String(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_failures"),
        sa.ForeignKeyConstraint(["run"], ["runs.id"], name="fk_failures_run_runs", ondelete="CASCADE"),
    )
    op.create_index("ix_failures_run", "failures", ["run"])
    op.create_table(
        "segments",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("encoder", sa.String(), nullable=False),
        sa.Column("file", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("rows", sa.BigInteger(), nullable=False),
        sa.Column("change", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.String(), nullable=False),
        sa.Column("created_at", timestamp_type, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_segments"),
        sa.ForeignKeyConstraint(["encoder"], ["encoders.fingerprint"], name="fk_segments_encoder_encoders"),
    )
    op.create_table(
        "deletions",
        sa.Column("image_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("change", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("image_id", name="pk_deletions"),
    )
    op.create_index("ix_deletions_change", "deletions", ["change"])
    state = op.create_table(
        "state",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("changes", sa.BigInteger(), nullable=False),
        sa.Column("active_encoder", sa.String(), nullable=True),
        sa.Column("segment_id", sa.Integer(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_state"),
        sa.ForeignKeyConstraint(["active_encoder"], ["encoders.fingerprint"], name="fk_state_active_encoder_encoders"),
        sa.ForeignKeyConstraint(["segment_id"], ["segments.id"], name="fk_state_segment_id_segments"),
        sa.CheckConstraint("id = 1", name=op.f("ck_state_single_row")),
    )
    op.bulk_insert(state, [{"id": 1, "changes": 0}])


def downgrade() -> None:
    for table in (
        "state",
        "deletions",
        "segments",
        "failures",
        "runs",
        "embeddings",
        "locations",
        "images",
        "encoders",
    ):
        op.drop_table(table)
