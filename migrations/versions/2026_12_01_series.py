"""Allow the tier `series` of pairs: shots that were taken seconds apart and look alike."""

from __future__ import annotations

from alembic import op

revision = "2026_12_01_series"
down_revision = "2026_12_01_image_quality"

NAME = "ck_duplicates_ck_duplicates_tier"  # the naming convention added a prefix to the name of the migration


def upgrade() -> None:
    """Extend the check of the tier."""
    _replace_check("tier IN ('pixels', 'near', 'series', 'similar')")


def downgrade() -> None:
    """Delete the pairs of series, and restore the check."""
    op.execute("DELETE FROM duplicates WHERE tier = 'series'")
    _replace_check("tier IN ('pixels', 'near', 'similar')")


def _replace_check(condition: str) -> None:
    with op.batch_alter_table("duplicates") as duplicates:
        duplicates.drop_constraint(op.f(NAME), type_="check")
        duplicates.create_check_constraint(op.f(NAME), condition)
