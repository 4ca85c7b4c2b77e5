"""Rows of one store that are added to another, such as those that a worker on another machine recorded."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Table, select
from sqlalchemy.dialects import postgresql, sqlite

from agent.store import tables
from agent.store.database import Database

Rows = dict[str, list[tuple[Any, ...]]]
"""Rows by table, with values in the order of the table's columns."""

_SHARED = (tables.studies, tables.prompts, tables.strategy_sources)
"""Tables whose rows are known by their content, so that the other store may have the same ones."""

_SHARE = 5_000  # rows in one transaction


def read_all_rows(database: Database) -> Rows:
    """Return all rows of the store but cached scores; tables without rows are left out."""
    with database.read() as connection:
        found = {
            table.name: [tuple(row) for row in connection.execute(select(table))]
            for table in tables.metadata.sorted_tables
        }
    return {name: rows for name, rows in found.items() if rows}


def add_rows(database: Database, rows: Rows) -> None:
    """Add rows in one transaction; those of studies, prompts and sources that are there stay as they are.

    Raises StoreError, also if a run is there already.
    """
    if not rows:
        return
    with database.write() as connection:
        for table in tables.metadata.sorted_tables:
            own = rows.get(table.name, [])
            if own and table in _SHARED:
                add = (sqlite if database.is_sqlite else postgresql).insert(table).on_conflict_do_nothing()
                connection.execute(add, [_named(table, row) for row in own])
                continue
            for first in range(0, len(own), _SHARE):
                tables.insert_rows(connection, table, own[first : first + _SHARE])


def _named(table: Table, row: tuple[Any, ...]) -> dict[str, Any]:
    return {column.name: value for column, value in zip(table.columns, row, strict=True)}
