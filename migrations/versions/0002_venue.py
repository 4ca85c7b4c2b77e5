"""Add the tables of cancels and amendments, which are sent to a venue."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision: str = "0002"
down_revision: str | None = "0001"
branch_labels: str | None = None
depends_on: str | None = None


def _decisions(table: str, *columns: sa.Column[object]) -> None:
    op.create_table(
        table,
        sa.Column("run_id", sa.Text(), sa.ForeignKey("runs.id"), primary_key=True),
        sa.Column("seq", sa.BigInteger(), primary_key=True, autoincrement=False),
        sa.Column("event_seq", sa.BigInteger(), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        *(sa.Column(name, sa.Text(), nullable=False) for name in ("order_id", "symbol", "reason")),
        sa.Column("ts", sa.BigInteger(), nullable=False),
        *columns,
        sqlite_with_rowid=False,
    )


def upgrade() -> None:
    """Upgrade to this revision."""
    _decisions("cancels")
    _decisions("amends", *(sa.Column(name, sa.Text(), nullable=True) for name in ("qty", "price")))


def downgrade() -> None:
    """Downgrade to 0001."""
    op.drop_table("amends")
    op.drop_table("cancels")
