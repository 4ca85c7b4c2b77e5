"""Add tags and notes of runs and walk-forwards."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision: str = "0015"
down_revision: str | None = "0012"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    """Upgrade to this revision."""
    op.create_table(
        "run_tags",
        sa.Column("run_id", sa.Text(), primary_key=True),
        sa.Column("tag", sa.Text(), primary_key=True),
    )
    op.create_table(
        "run_notes",
        sa.Column("run_id", sa.Text(), primary_key=True),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("written_at", sa.BigInteger(), nullable=False),
    )


def downgrade() -> None:
    """Downgrade to the revision before, which has neither tags nor notes."""
    op.drop_table("run_notes")
    op.drop_table("run_tags")
