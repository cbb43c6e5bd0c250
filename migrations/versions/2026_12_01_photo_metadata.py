"""Add the metadata of photos: EXIF, XMP and IPTC as typed columns, and keywords."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "2026_12_01_photo_metadata"
down_revision = "2026_11_30_several_hosts"

ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
BYTEWISE = sa.String().with_variant(sa.String(collation="C"), "postgresql")


def upgrade() -> None:
    """Add the tables."""
    op.create_table(
        "photo_metadata",
        sa.Column("location_id", ID, nullable=False),
        sa.Column("taken", sa.DateTime(), nullable=True),
        sa.Column("taken_offset", sa.Integer(), nullable=True),
        sa.Column("camera", BYTEWISE, nullable=True),
        sa.Column("lens", BYTEWISE, nullable=True),
        sa.Column("exposure_time", sa.Double(), nullable=True),
        sa.Column("aperture", sa.Double(), nullable=True),
        sa.Column("iso", sa.Integer(), nullable=True),
        sa.Column("focal_length", sa.Double(), nullable=True),
        sa.Column("latitude", sa.Double(), nullable=True),
        sa.Column("longitude", sa.Double(), nullable=True),
        sa.Column("rating", sa.Integer(), nullable=True),
        sa.Column("title", sa.String(), nullable=True),
        sa.Column("description", sa.String(), nullable=True),
        sa.Column("copyright", sa.String(), nullable=True),
        sa.PrimaryKeyConstraint("location_id", name="pk_photo_metadata"),
        sa.ForeignKeyConstraint(
            ["location_id"], ["locations.id"], name="fk_photo_metadata_location_id_locations", ondelete="CASCADE"
        ),
    )
    for column in ("taken", "camera", "latitude", "rating"):
        op.create_index(f"ix_photo_metadata_{column}", "photo_metadata", [column])
    op.create_table(
        "photo_keywords",
        sa.Column("location_id", ID, nullable=False),
        sa.Column("keyword", BYTEWISE, nullable=False),
        sa.PrimaryKeyConstraint("location_id", "keyword", name="pk_photo_keywords"),
        sa.ForeignKeyConstraint(
            ["location_id"],
            ["photo_metadata.location_id"],
            name="fk_photo_keywords_location_id_photo_metadata",
            ondelete="CASCADE",
        ),
    )
    op.create_index("ix_photo_keywords_keyword", "photo_keywords", ["keyword"])


def downgrade() -> None:
    """Remove them."""
    op.drop_table("photo_keywords")
    op.drop_table("photo_metadata")
