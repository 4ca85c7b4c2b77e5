"""Add the provenance of language models' answers to sentiments and cached scores, and their prompts."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision: str = "0010"
down_revision: str | None = "0009"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    """Upgrade to this revision. The sentiments of existing rows are final and of local models."""
    op.add_column(
        "sentiments", sa.Column("provisional", sa.Boolean(), nullable=False, server_default=sa.false())
    )
    for table in ("sentiments", "scores"):
        op.add_column(table, sa.Column("provenance", sa.JSON(), nullable=True))
    op.create_table(
        "prompts",
        sa.Column("sha256", sa.Text(), primary_key=True),
        sa.Column("text", sa.Text(), nullable=False),
    )


def downgrade() -> None:
    """Downgrade to 0009, which knows no language models. Their cached scores are removed."""
    op.drop_table("prompts")
    op.execute("DELETE FROM scores WHERE provenance IS NOT NULL")
    for name, columns in (("sentiments", ("provisional", "provenance")), ("scores", ("provenance",))):
        with op.batch_alter_table(name) as table:
            for column in columns:
                table.drop_column(column)
