"""Inserting many rows: SQLAlchemy's statement and types, without its dictionary of parameters for every row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

from sqlalchemy import Connection, Dialect, Table, insert


def insert_rows(connection: Connection, table: Table, rows: Sequence[tuple[Any, ...]]) -> None:
    """Insert `rows`, whose values stand in the order of the table's columns."""
    sql, processors = _statement(table, connection.dialect)
    columns = (
        map(process, column) if process else column
        for process, column in zip(processors, zip(*rows, strict=True), strict=True)
    )
    connection.exec_driver_sql(sql, list(zip(*columns, strict=True)))


@lru_cache(maxsize=64)
def _statement(table: Table, dialect: Dialect) -> tuple[str, Sequence[Callable[[Any], Any] | None]]:
    """The text with positional parameters, and what turns each column's Python value into the driver's."""
    processors = [column.type.dialect_impl(dialect).bind_processor(dialect) for column in table.columns]
    return str(insert(table).compile(dialect=dialect)), processors
