"""Add the ledger of tries: studies, which are data and windows, and evaluations of strategies on them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision: str = "0016"
down_revision: str | None = "0015"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    """Upgrade to this revision."""
    op.create_table(
        "studies",
        sa.Column("id", sa.Text(), primary_key=True),
        sa.Column("symbols", sa.JSON(), nullable=False),
        sa.Column("files", sa.JSON(), nullable=False),
        sa.Column("start", sa.BigInteger(), nullable=False),
        sa.Column("end", sa.BigInteger(), nullable=False),
    )
    op.create_table(
        "tries",
        sa.Column("id", sa.Text(), primary_key=True),
        sa.Column("study", sa.Text(), sa.ForeignKey("studies.id"), nullable=False),
        sa.Column("variant", sa.Text(), nullable=False),
        sa.Column("recorded_at", sa.BigInteger(), nullable=False),
        sa.Column("by", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("strategy", sa.Text(), nullable=False),
        sa.Column("params", sa.JSON(), nullable=False),
        sa.Column("run", sa.Text(), nullable=False),
        sa.Column("period", sa.BigInteger(), nullable=False),
        sa.Column("periods", sa.BigInteger(), nullable=False),
        sa.Column("sharpe", sa.Double(), nullable=True),
        sa.Column("skewness", sa.Double(), nullable=True),
        sa.Column("kurtosis", sa.Double(), nullable=True),
        sa.Column("total_return", sa.Double(), nullable=True),
        sa.Column("held_out", sa.Boolean(), nullable=False),
    )
    op.create_index("ix_tries_study", "tries", ["study"])


def downgrade() -> None:
    """Downgrade to 0015, which counts no tries: those that were counted are lost."""
    op.drop_table("tries")
    op.drop_table("studies")
