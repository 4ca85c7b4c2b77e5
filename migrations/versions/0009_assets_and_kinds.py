"""Add answers for single assets, and the kind of news, to sentiments, cached scores and signals."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision: str = "0009"
down_revision: str | None = "0008"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    """Upgrade to this revision. The new columns are empty in existing rows."""
    empty, zero = sa.text("''"), sa.text("0")
    for table in ("sentiments", "scores"):
        op.add_column(table, sa.Column("assets", sa.JSON(), nullable=True))
    for table in ("sentiments", "scores", "signals"):
        op.add_column(table, sa.Column("kind", sa.Text(), nullable=False, server_default=empty))
    op.add_column("sentiments", sa.Column("kind_confidence", sa.Double(), nullable=True, server_default=zero))
    op.add_column("scores", sa.Column("kind_confidence", sa.Float(), nullable=False, server_default=zero))
    op.add_column("scores", sa.Column("unknown", sa.Float(), nullable=True))


def downgrade() -> None:
    """Downgrade to 0008, which lacks the answers of models that read single assets.

    Their cached scores, which 0008 can't read, are removed.
    """
    op.execute("DELETE FROM scores WHERE kind <> ''")
    with op.batch_alter_table("signals") as table:
        table.drop_column("kind")
    for name, columns in (("sentiments", ()), ("scores", ("unknown",))):
        with op.batch_alter_table(name) as table:
            for column in ("assets", "kind", "kind_confidence", *columns):
                table.drop_column(column)
