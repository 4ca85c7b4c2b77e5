"""Add the sleeve to decisions, and the table of the sleeves' equity."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision: str = "0013"
down_revision: str | None = "0012"
branch_labels: str | None = None
depends_on: str | None = None

_DECISIONS = (
    *("signals", "predictions", "orders", "cancels", "amends", "order_updates", "fills", "funding"),
    *("cash_adjustments", "risk_events", "plots", "notices"),
)


def upgrade() -> None:
    """Upgrade to this revision. The new columns are empty in existing rows."""
    for table in _DECISIONS:
        op.add_column(table, sa.Column("sleeve", sa.Text(), nullable=True))
    op.create_table(
        "sleeve_equity",
        sa.Column("run_id", sa.Text(), sa.ForeignKey("runs.id"), primary_key=True),
        sa.Column("seq", sa.BigInteger(), primary_key=True, autoincrement=False),
        sa.Column("sleeve", sa.Text(), nullable=False),
        sa.Column("ts", sa.BigInteger(), nullable=False),
        sa.Column("equity", sa.Double()),
        sa.Column("cash", sa.Double()),
        sa.Column("exposure", sa.Double()),
        sqlite_with_rowid=False,
    )


def downgrade() -> None:
    """Downgrade to 0012, with which runs with sleeves no longer verify."""
    op.drop_table("sleeve_equity")
    for name in _DECISIONS:
        with op.batch_alter_table(name) as table:
            table.drop_column("sleeve")
