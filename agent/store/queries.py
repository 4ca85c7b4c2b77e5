"""What reports and `verify` read: runs, their decisions as they were taken, and frames for figures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from heapq import merge
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from msgspec import Struct
from sqlalchemy import ColumnElement, Connection, Select, Table, Text, select, type_coerce

from agent.core.errors import StoreError, UsageError
from agent.core.events import Decision, News, Sentiment
from agent.store import tables
from agent.store.database import Database
from agent.store.runs import Run
from agent.store.tables import Choice, Exact, Real

if TYPE_CHECKING:
    import pandas as pd

_S = TypeVar("_S", bound=Struct)

_TABLES: Final[Mapping[Any, Table]] = {**tables.DECISIONS, News: tables.news, Sentiment: tables.sentiments}
_RUNS: Final = select(*(tables.runs.c[name] for name in Run.__struct_fields__))


class Recorded(NamedTuple):
    """A decision as the store has it: its number, the number of its event, its digest in the chain."""

    seq: int
    event_seq: int
    digest: bytes
    decision: Decision


def list_runs(database: Database, limit: int | None = None) -> list[Run]:
    """The runs, newest first."""
    return _runs(
        database, _RUNS.order_by(tables.runs.c.started_at.desc(), tables.runs.c.id.desc()).limit(limit)
    )


def find_run(database: Database, which: str = "latest") -> Run:
    """The run with this id, with an id that begins so, or the `latest`. Raises UsageError where there is none, or several."""
    if which == "latest":
        found = list_runs(database, 1)
    else:
        found = _runs(
            database,
            _RUNS.where(tables.runs.c.id.startswith(which, autoescape=True)).order_by(tables.runs.c.id),
        )
        found = [run for run in found if run.id == which] or found
    if len(found) == 1:
        return found[0]
    if found:
        raise UsageError(f"several runs begin with {which!r}", hint=", ".join(run.id for run in found[:5]))
    newest = ", ".join(run.id for run in list_runs(database, 3))
    hint = f"the newest: {newest}" if newest else "tapewire backtest makes one"
    raise UsageError(f"{database.name}: no run {which!r}", hint=hint)


def read_rows(database: Database, run_id: str, kind: type[_S]) -> Iterator[_S]:
    """A run's decisions of one kind, its headlines (`News`) or its sentiments: exact, in order, streamed."""
    table = _TABLES[kind]
    columns = [table.c[name] for name in kind.__struct_fields__]
    with database.read() as connection:
        for values in _stream(connection, table, run_id, columns):
            yield kind(*values)


def read_decisions(database: Database, run_id: str, from_seq: int = 1) -> Iterator[Recorded]:
    """A run's decisions from number `from_seq` on, in the order in which they were taken, streamed: memory doesn't grow with them."""
    with database.read() as connection:
        streams = (
            _recorded(connection, run_id, kind, table, from_seq) for kind, table in tables.DECISIONS.items()
        )
        yield from merge(*streams, key=attrgetter("seq"))


def frame(database: Database, run_id: str, name: str) -> pd.DataFrame:
    """A run's rows of a table (`fills`, `orders`, `equity`, `news` …) for figures: decimals as floats, enums as text."""
    import pandas as pd

    table = tables.metadata.tables[name]
    columns = [column for column in table.columns if column.name not in ("run_id", "digest")]
    as_text = [
        type_coerce(c, Text).label(c.name) if isinstance(c.type, Exact | Choice) else c for c in columns
    ]
    with database.read() as connection:
        result = pd.DataFrame(
            _stream(connection, table, run_id, as_text), columns=[column.name for column in columns]
        )
    return result.astype({column.name: float for column in columns if isinstance(column.type, Exact | Real)})


def _runs(database: Database, query: Select[Any]) -> list[Run]:
    with database.read() as connection:
        return [Run(*values) for values in _readable(connection, tables.runs, query)]


def _recorded(
    connection: Connection, run_id: str, kind: type[Decision], table: Table, from_seq: int
) -> Iterator[Recorded]:
    columns = [
        table.c.seq,
        table.c.event_seq,
        table.c.digest,
        *(table.c[name] for name in kind.__struct_fields__),
    ]
    for seq, event_seq, digest, *values in _stream(connection, table, run_id, columns, from_seq):
        yield Recorded(seq, event_seq, digest, kind(*values))


def _stream(
    connection: Connection,
    table: Table,
    run_id: str,
    columns: Sequence[ColumnElement[Any]],
    from_seq: int = 1,
) -> Iterator[Sequence[Any]]:
    query = select(*columns).where(table.c.run_id == run_id, table.c.seq >= from_seq).order_by(table.c.seq)
    return _readable(connection, table, query.execution_options(yield_per=1000))


def _readable(connection: Connection, table: Table, query: Select[Any]) -> Iterator[Sequence[Any]]:
    """The result, or StoreError where a value can't be what its column says."""
    try:
        yield from connection.execute(query)
    except (ValueError, ArithmeticError) as error:
        raise StoreError(
            f"a row of {table.name} in {connection.engine.url.render_as_string()} is damaged: {error}",
            hint="restore a backup",
        ) from error
