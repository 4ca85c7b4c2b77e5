"""Add the columns of the fusion model: a sentiment's embedding and a prediction's size of move."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision: str = "0003"
down_revision: str | None = "0002"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    """Upgrade to this revision."""
    op.add_column("sentiments", sa.Column("embedding", sa.LargeBinary(), nullable=True))
    op.add_column("predictions", sa.Column("move", sa.Double(), nullable=True))


def downgrade() -> None:
    """Downgrade to 0002."""
    with op.batch_alter_table("predictions") as table:
        table.drop_column("move")
    with op.batch_alter_table("sentiments") as table:
        table.drop_column("embedding")
