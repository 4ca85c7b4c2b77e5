"""Add trailing stops, take-profit levels and expiry to orders, and the table of the strategy's notices."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision: str = "0012"
down_revision: str | None = "0011"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    """Upgrade to this revision. The new columns are empty in existing rows."""
    op.add_column("orders", sa.Column("trail", sa.Text(), nullable=True))
    op.add_column("orders", sa.Column("take_profits", sa.JSON(), nullable=True))
    op.add_column("orders", sa.Column("expires", sa.BigInteger(), nullable=True))
    op.create_table(
        "notices",
        sa.Column("run_id", sa.Text(), sa.ForeignKey("runs.id"), primary_key=True),
        sa.Column("seq", sa.BigInteger(), primary_key=True, autoincrement=False),
        sa.Column("event_seq", sa.BigInteger(), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("ts", sa.BigInteger(), nullable=False),
        sa.Column("level", sa.Text(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sqlite_with_rowid=False,
    )


def downgrade() -> None:
    """Downgrade to 0011, with which runs that recorded such orders or notices no longer verify."""
    op.drop_table("notices")
    with op.batch_alter_table("orders") as table:
        for column in ("trail", "take_profits", "expires"):
            table.drop_column(column)
