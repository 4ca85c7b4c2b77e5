"""Add the tables of changes of the strategy, and of the sources of strategies."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision: str = "0014"
down_revision: str | None = "0013"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    """Upgrade to this revision."""
    op.create_table(
        "strategy_changes",
        sa.Column("run_id", sa.Text(), sa.ForeignKey("runs.id"), primary_key=True),
        sa.Column("seq", sa.BigInteger(), primary_key=True, autoincrement=False),
        sa.Column("event_seq", sa.BigInteger(), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("ts", sa.BigInteger(), nullable=False),
        sa.Column("strategy", sa.Text(), nullable=False),
        sa.Column("class_name", sa.Text(), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("params", sa.Text(), nullable=False),
        sa.Column("flatten", sa.Boolean(), nullable=False),
        sa.Column("by", sa.Text(), nullable=False),
        sa.Column("sleeve", sa.Text(), nullable=True),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "strategy_sources",
        sa.Column("sha256", sa.Text(), primary_key=True),
        sa.Column("source", sa.LargeBinary(), nullable=False),
    )


def downgrade() -> None:
    """Downgrade to 0013, with which runs whose strategy was changed no longer verify."""
    op.drop_table("strategy_sources")
    op.drop_table("strategy_changes")
