"""Last known health of each feed, stored per run so that it can be read after the agent has ended."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
from sqlalchemy import delete, insert, select

from agent.live.interfaces.producer import Health
from agent.store import tables
from agent.store.database import Database


class FeedRecord(msgspec.Struct, frozen=True):
    """Health of one feed. Times are UTC ms, 0 for never; counts begin at the agent's last start."""

    name: str
    written_at: int
    state: str
    last_message_at: int
    connects: int
    reconnects: int
    messages: int
    bytes: int
    gaps: int
    duplicates: int
    errors: int
    last_error: str
    last_error_at: int


_COPIED = [field for field in FeedRecord.__struct_fields__ if field != "written_at"]


def write_feed_health(
    database: Database,
    run_id: str,
    feeds: Iterable[Health],
    now: int,
    *,
    again: bool = False,  # noqa: ARG001 see Storage.write
) -> None:
    """Replace the run's rows. A retry (`again`) writes the same rows. Raises StoreError."""
    row = {"run_id": run_id, "written_at": now}
    rows = [row | {field: getattr(one, field) for field in _COPIED} for one in feeds]
    with database.write() as connection:
        connection.execute(delete(tables.feed_health).where(tables.feed_health.c.run_id == run_id))
        if rows:
            connection.execute(insert(tables.feed_health), rows)


def read_feed_health(database: Database, run_id: str) -> list[FeedRecord]:
    """Read a run's feeds in the order of their names. Raises StoreError."""
    table = tables.feed_health
    with database.read() as connection:
        rows = connection.execute(
            select(table).where(table.c.run_id == run_id).order_by(table.c.name)
        ).mappings()
        return [FeedRecord(**{field: row[field] for field in FeedRecord.__struct_fields__}) for row in rows]
