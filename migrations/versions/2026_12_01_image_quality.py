"""Add measures of the quality of images, and the limits beyond which they are an issue."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "2026_12_01_image_quality"
down_revision = "2026_12_01_photo_metadata"

ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Add the tables."""
    op.create_table(
        "image_quality",
        sa.Column("image_id", ID, nullable=False),
        sa.Column("sharpness", sa.Double(), nullable=True),
        sa.Column("brightness", sa.Double(), nullable=False),
        sa.Column("brightness_p5", sa.Double(), nullable=False),
        sa.Column("brightness_p99", sa.Double(), nullable=False),
        sa.Column("contrast", sa.Double(), nullable=False),
        sa.Column("shadows", sa.Double(), nullable=False),
        sa.Column("highlights", sa.Double(), nullable=False),
        sa.Column("profile", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("image_id", name="pk_image_quality"),
        sa.ForeignKeyConstraint(
            ["image_id"], ["images.id"], name="fk_image_quality_image_id_images", ondelete="CASCADE"
        ),
    )
    op.create_index("ix_image_quality_sharpness", "image_quality", ["sharpness"])
    op.create_table(
        "quality_limits",
        sa.Column("issue", sa.String(), nullable=False),
        sa.Column("low", sa.Double(), nullable=True),
        sa.Column("high", sa.Double(), nullable=True),
        sa.PrimaryKeyConstraint("issue", name="pk_quality_limits"),
    )


def downgrade() -> None:
    """Remove them."""
    op.drop_table("quality_limits")
    op.drop_table("image_quality")
