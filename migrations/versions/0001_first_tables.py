"""Create the first tables: runs, journal, news, sentiments, decisions, equity and cached scores."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision: str = "0001"
down_revision: str | None = None
branch_labels: str | None = None
depends_on: str | None = None


def _needed(kind: type[sa.types.TypeEngine[object]], *names: str) -> list[sa.Column[object]]:
    return [sa.Column(name, kind(), nullable=False) for name in names]


def _optional(kind: type[sa.types.TypeEngine[object]], *names: str) -> list[sa.Column[object]]:
    return [sa.Column(name, kind(), nullable=True) for name in names]


def _rows(table: str, *columns: sa.Column[object]) -> None:
    op.create_table(
        table,
        sa.Column("run_id", sa.Text(), sa.ForeignKey("runs.id"), primary_key=True),
        sa.Column("seq", sa.BigInteger(), primary_key=True, autoincrement=False),
        *columns,
        sqlite_with_rowid=False,
    )


def _decisions(table: str, *columns: sa.Column[object]) -> None:
    _rows(table, *_needed(sa.BigInteger, "event_seq"), *_needed(sa.LargeBinary, "digest"), *columns)


def upgrade() -> None:
    """Upgrade to this revision."""
    op.create_table(
        "runs",
        sa.Column("id", sa.Text(), primary_key=True),
        *_needed(sa.Text, "kind", "strategy", "version", "status", "chain_head", "error"),
        *_needed(sa.JSON, "params", "config", "versions", "inputs", "stamps", "metrics"),
        *_needed(sa.BigInteger, "started_at", "events", "decisions"),
        *_optional(sa.BigInteger, "finished_at", "first_event_at", "last_event_at"),
        *_optional(sa.Text, "final_equity"),
    )
    _rows(
        "journal",
        *_needed(sa.Text, "kind"),
        *_needed(sa.BigInteger, "available_at"),
        *_needed(sa.LargeBinary, "payload"),
    )
    _rows(
        "news",
        *_needed(sa.BigInteger, "event_seq", "ts", "available_at"),
        *_needed(sa.Text, "id", "title", "summary", "publisher", "url", "feed", "published_raw", "story"),
        *_needed(sa.JSON, "currencies", "symbols"),
        *_needed(sa.Boolean, "trusted_time", "actionable"),
    )
    _rows(
        "sentiments",
        *_needed(sa.BigInteger, "event_seq", "ts", "available_at"),
        *_needed(sa.Text, "news_id", "model"),
        *_optional(sa.Double, "bearish", "neutral", "bullish", "latency_ms"),
        *_needed(sa.Boolean, "abstained"),
        *_needed(sa.JSON, "symbols"),
    )
    _rows("equity", *_needed(sa.BigInteger, "ts"), *_optional(sa.Double, "equity", "cash", "exposure"))
    _decisions(
        "signals",
        *_needed(sa.Text, "symbol", "direction"),
        *_needed(sa.BigInteger, "ts"),
        *_optional(sa.Double, "confidence", "bearish", "neutral", "bullish"),
        *_needed(sa.Boolean, "actionable"),
        *_needed(sa.JSON, "sources"),
    )
    _decisions(
        "predictions",
        *_needed(sa.Text, "symbol", "model"),
        *_needed(sa.BigInteger, "ts"),
        *_optional(sa.Double, "down", "flat", "up"),
    )
    _decisions(
        "orders",
        *_needed(sa.Text, "id", "symbol", "side", "type", "qty", "tif", "oco", "reason"),
        *_optional(sa.Text, "price", "trigger", "stop", "take_profit"),
        *_needed(sa.BigInteger, "ts"),
        *_needed(sa.Boolean, "reduce_only"),
    )
    _decisions(
        "order_updates",
        *_needed(sa.Text, "order_id", "symbol", "status", "filled", "reason"),
        *_needed(sa.BigInteger, "ts", "available_at"),
    )
    _decisions(
        "fills",
        *_needed(
            sa.Text, "id", "order_id", "symbol", "side", "qty", "price", "fee", "slippage", "kind", "reason"
        ),
        *_needed(sa.BigInteger, "ts", "available_at"),
        *_needed(sa.Boolean, "maker"),
    )
    _decisions(
        "funding",
        *_needed(sa.Text, "symbol", "rate", "qty", "mark", "amount"),
        *_needed(sa.BigInteger, "ts"),
    )
    _decisions(
        "risk_events",
        *_needed(sa.Text, "state", "rule", "detail", "symbol"),
        *_needed(sa.BigInteger, "ts"),
    )
    op.create_table(
        "scores",  # of models.sentiment.serve.score_cache
        sa.Column("model", sa.String(64), primary_key=True),
        sa.Column("text_hash", sa.LargeBinary(16), primary_key=True),
        *_needed(sa.Float, "bearish", "neutral", "bullish"),
        *_needed(sa.Boolean, "abstained"),
        sa.Column("reason", sa.String(64), nullable=False),
        sa.Column("embedding", sa.LargeBinary()),
    )


def downgrade() -> None:
    """Downgrade to an empty database."""
    decisions = ("risk_events", "funding", "fills", "order_updates", "orders", "predictions", "signals")
    for table in ("scores", *decisions, "equity", "sentiments", "news", "journal", "runs"):
        op.drop_table(table)
