"""Queries for reports and `verify`: runs, their decisions in order, and tables as data frames."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from heapq import merge
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from msgspec import Struct
from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Connection,
    Select,
    Table,
    Text,
    select,
    type_coerce,
)

from agent.core.errors import StoreError, UsageError
from agent.core.events import Decision, News, Sentiment
from agent.store import tables
from agent.store.database import Database
from agent.store.runs import Run
from agent.store.tables import (
    DecimalText,
    EnumText,
    FloatOrNull,
    IntegerOrUnset,
    LevelsOrUnset,
    TextOrUnset,
)

if TYPE_CHECKING:
    import pandas as pd

_S = TypeVar("_S", bound=Struct)

_TABLES: Final[Mapping[Any, Table]] = {**tables.DECISIONS, News: tables.news, Sentiment: tables.sentiments}
_RUNS: Final = select(*(tables.runs.c[name] for name in Run.__struct_fields__))


class RecordedDecision(NamedTuple):
    """A decision in the store, with its number, its event's number and its digest in the chain."""

    seq: int
    event_seq: int
    digest: bytes
    decision: Decision


def list_runs(database: Database, limit: int | None = None) -> list[Run]:
    """List the runs, newest first."""
    runs = tables.runs.c
    return _read_runs(database, _RUNS.order_by(runs.started_at.desc(), runs.id.desc()).limit(limit))


def find_run(database: Database, which: str = "latest") -> Run:
    """Find a run by its id, a prefix of it, or as `latest`. Raises UsageError unless exactly one matches."""
    if which == "latest":
        found = list_runs(database, 1)
    else:
        prefix = tables.runs.c.id.startswith(which, autoescape=True)
        found = _read_runs(database, _RUNS.where(prefix).order_by(tables.runs.c.id))
        found = [run for run in found if run.id == which] or found
    if len(found) == 1:
        return found[0]
    if found:
        raise UsageError(f"several runs begin with {which!r}", hint=", ".join(run.id for run in found[:5]))
    newest = ", ".join(run.id for run in list_runs(database, 3))
    hint = f"the newest: {newest}" if newest else "tapewire backtest makes one"
    raise UsageError(f"{database.name}: no run {which!r}", hint=hint)


def read_rows(database: Database, run_id: str, kind: type[_S]) -> Iterator[_S]:
    """Stream a run's decisions of one kind, its headlines or its sentiments, in order and exact."""
    table = _TABLES[kind]
    columns = [table.c[name] for name in kind.__struct_fields__]
    with database.read() as connection:
        for values in _stream(connection, table, run_id, columns):
            yield kind(*values)


def read_decisions(database: Database, run_id: str, from_seq: int = 1) -> Iterator[RecordedDecision]:
    """Stream a run's decisions from number `from_seq` on, in the order in which they were made."""
    yield from read_numbered(database, run_id, tuple(tables.DECISIONS), from_seq)


def read_numbered(
    database: Database, run_id: str, kinds: Sequence[type[Decision]], from_seq: int = 1
) -> Iterator[RecordedDecision]:
    """Stream a run's decisions of some kinds from number `from_seq` on, in the order of the decisions."""
    with database.read() as connection:
        streams = (
            _stream_decisions(connection, run_id, kind, tables.DECISIONS[kind], from_seq) for kind in kinds
        )
        yield from merge(*streams, key=attrgetter("seq"))


def read_slice(
    database: Database,
    run_id: str,
    name: str,
    columns: Sequence[str],
    *,
    after: int = 0,
    from_event: int = 0,
    time: str = "ts",
    since: int | None = None,
    until: int | None = None,
    equal: Mapping[str, str] | None = None,
) -> Iterator[tuple[Any, ...]]:
    """Stream `columns` of a run's rows of the table `name`, in order: those with a number beyond `after`,
    of events from number `from_event` on.

    `since` <= the column `time` < `until` (UTC ms); `equal` has values that columns must have.
    """
    table = tables.metadata.tables[name]
    conditions = [table.c.run_id == run_id, table.c.seq > after]
    conditions += [table.c.event_seq >= from_event] if from_event else []
    conditions += [table.c[time] >= since] if since is not None else []
    conditions += [table.c[time] < until] if until is not None else []
    conditions += [table.c[column] == value for column, value in (equal or {}).items()]
    query = select(*(table.c[column] for column in columns)).where(*conditions).order_by(table.c.seq)
    with database.read() as connection:
        for row in _execute(connection, table, query.execution_options(yield_per=1000)):
            yield tuple(row)


def read_frame(database: Database, run_id: str, name: str) -> pd.DataFrame:
    """Read a run's rows of the table `name`, with decimals as floats and enums as text."""
    import pandas as pd

    table = tables.metadata.tables[name]
    columns = [column for column in table.columns if column.name not in ("run_id", "digest")]
    selected = [_as_plain(column) for column in columns]
    with database.read() as connection:
        rows = _stream(connection, table, run_id, selected)
        result = pd.DataFrame(rows, columns=[column.name for column in columns])
    numbers = [column.name for column in columns if isinstance(column.type, DecimalText | FloatOrNull)]
    return result.astype(dict.fromkeys(numbers, float))


def _as_plain(column: Column[Any]) -> ColumnElement[Any]:
    """Return the column for a data frame: texts and numbers as they are stored."""
    if isinstance(column.type, DecimalText | EnumText | LevelsOrUnset | TextOrUnset):
        return type_coerce(column, Text).label(column.name)
    return (
        type_coerce(column, BigInteger).label(column.name)
        if isinstance(column.type, IntegerOrUnset)
        else column
    )


def _read_runs(database: Database, query: Select[Any]) -> list[Run]:
    with database.read() as connection:
        return [Run(*values) for values in _execute(connection, tables.runs, query)]


def _stream_decisions(
    connection: Connection, run_id: str, kind: type[Decision], table: Table, from_seq: int
) -> Iterator[RecordedDecision]:
    columns = [table.c[name] for name in ("seq", "event_seq", "digest", *kind.__struct_fields__)]
    for seq, event_seq, digest, *values in _stream(connection, table, run_id, columns, from_seq):
        yield RecordedDecision(seq, event_seq, digest, kind(*values))


def _stream(
    connection: Connection,
    table: Table,
    run_id: str,
    columns: Sequence[ColumnElement[Any]],
    from_seq: int = 1,
) -> Iterator[Sequence[Any]]:
    query = select(*columns).where(table.c.run_id == run_id, table.c.seq >= from_seq).order_by(table.c.seq)
    return _execute(connection, table, query.execution_options(yield_per=1000))


def _execute(connection: Connection, table: Table, query: Select[Any]) -> Iterator[Sequence[Any]]:
    """Yield the result's rows. Raises StoreError if a value can't be converted to its column's type."""
    try:
        yield from connection.execute(query)
    except (ValueError, ArithmeticError) as error:
        store = connection.engine.url.render_as_string()
        raise StoreError(
            f"a row of {table.name} in {store} is damaged: {error}", hint="restore a backup"
        ) from error
