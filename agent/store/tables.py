"""Tables of the store, and bulk inserts into them.

The columns of decisions, headlines and sentiments are derived from the structs in `agent.core.events`, so the
two can't differ. The migrations must produce exactly these tables; a test compares them.

Each row has its run's id and a sequence number, counted per table. Decision tables share one sequence; their
rows also have the number of the event that the decision was made on and its digest in the run's hash chain.

Values are stored in the same way on SQLite and PostgreSQL: times as BIGINT UTC milliseconds, enums and
decimals as text (exact, including a decimal's exponent), NaN as NULL, tuples and mappings as JSON. SQLite
loses the sign of a zero; the digest covers it. Columns that a later version added have an empty value in the
rows of earlier ones.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from enum import Enum
from functools import lru_cache
from math import isfinite, isnan, nan
from types import NoneType
from typing import Any, Final, get_args, get_type_hints

import msgspec
from msgspec import UNSET, UnsetType
from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    Connection,
    Double,
    ForeignKey,
    LargeBinary,
    MetaData,
    Table,
    Text,
    TextClause,
    TypeDecorator,
    false,
    insert,
    text,
)
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeEngine

from agent.core.events import (
    Amend,
    AssetSentiment,
    Cancel,
    CashAdjustment,
    Decision,
    Fill,
    FundingPayment,
    News,
    Notice,
    Order,
    OrderUpdate,
    Plot,
    Prediction,
    Provenance,
    RiskEvent,
    Sentiment,
    Signal,
    StrategyChange,
)
from agent.data.provenance import from_object, to_object
from agent.data.text import storable
from agent.store.runs import JournalArchive, JournalSegment, Run


class DecimalText(TypeDecorator[Decimal]):
    """A `Decimal`, stored as its exact text."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Decimal | None, _: Dialect) -> str | None:
        return None if value is None else str(value)

    def process_result_value(self, value: str | None, _: Dialect) -> Decimal | None:
        return None if value is None else Decimal(value)


class DecimalOrUnset(DecimalText):
    """A `Decimal`, or UNSET, which is stored as NULL."""

    cache_ok = True

    def process_bind_param(self, value: Any, _: Dialect) -> str | None:
        return None if value is None or value is UNSET else str(value)

    def process_result_value(self, value: str | None, _: Dialect) -> Any:
        return UNSET if value is None else Decimal(value)


class IntegerOrUnset(TypeDecorator[Any]):
    """An integer, or UNSET, which is stored as NULL."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: Any, _: Dialect) -> int | None:
        return None if value is UNSET else value

    def process_result_value(self, value: int | None, _: Dialect) -> Any:
        return UNSET if value is None else value


class TextOrUnset(TypeDecorator[Any]):
    """A text, or UNSET, which is stored as NULL."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Any, _: Dialect) -> str | None:
        return None if value is UNSET else value

    def process_result_value(self, value: str | None, _: Dialect) -> Any:
        return UNSET if value is None else value


class LevelsOrUnset(TypeDecorator[Any]):
    """Take-profit levels: a JSON list of [trigger, share] as exact texts. UNSET is stored as NULL."""

    impl = JSON(none_as_null=True)
    cache_ok = True

    def process_bind_param(self, value: Any, _: Dialect) -> Any:
        return None if value is UNSET else [[str(trigger), str(share)] for trigger, share in value]

    def process_result_value(self, value: Any, _: Dialect) -> Any:
        return (
            UNSET if value is None else tuple((Decimal(trigger), Decimal(share)) for trigger, share in value)
        )


class FloatOrNull(TypeDecorator[float]):
    """A 64-bit float. NaN is stored as NULL, since SQLite doesn't store it."""

    impl = Double
    cache_ok = True

    def process_bind_param(self, value: float | None, _: Dialect) -> float | None:
        return None if value is None or isnan(value) else value

    def process_result_value(self, value: float | None, _: Dialect) -> float:
        return nan if value is None else float(value)


class CleanText(TypeDecorator[str]):
    """Untrusted text. NUL and lone surrogates, which databases refuse, become U+FFFD."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, _: Dialect) -> str | None:
        return None if value is None else storable(value)

    def process_result_value(self, value: str | None, _: Dialect) -> str | None:
        return value


class BytesOrNull(TypeDecorator[bytes]):
    """Bytes. Empty bytes are stored as NULL."""

    impl = LargeBinary
    cache_ok = True

    def process_bind_param(self, value: bytes | None, _: Dialect) -> bytes | None:
        return value or None

    def process_result_value(self, value: bytes | None, _: Dialect) -> bytes:
        return bytes(value or b"")


class EnumText(TypeDecorator[Any]):
    """An enum member, stored as the text of its value."""

    impl = Text
    cache_ok = True

    def __init__(self, choices: type[Enum]) -> None:
        super().__init__()
        self.choices = choices

    def process_bind_param(self, value: Any, _: Dialect) -> Any:
        return None if value is None else value.value

    def process_result_value(self, value: Any, _: Dialect) -> Any:
        return None if value is None else self.choices(value)


class TypedJson(TypeDecorator[Any]):
    """A tuple, mapping or struct, stored as JSON and converted to its type `hint` when read."""

    impl = JSON
    cache_ok = True

    def __init__(self, hint: Any) -> None:
        super().__init__()
        self.hint = hint

    def process_bind_param(self, value: Any, _: Dialect) -> Any:
        return value

    def process_result_value(self, value: Any, _: Dialect) -> Any:
        return msgspec.convert(value, self.hint)


class AssetAnswers(TypeDecorator[tuple[AssetSentiment, ...]]):
    """A sentiment's scores for single assets: a JSON list of [asset, bearish, neutral, bullish, embedding].

    An embedding is in base64, and left out if it is empty. Numbers that JSON lacks are texts such as "nan",
    and an empty tuple is NULL.
    """

    impl = JSON(none_as_null=True)
    cache_ok = True

    def process_bind_param(self, value: tuple[AssetSentiment, ...] | None, _: Dialect) -> Any:
        return [_asset_row(answer) for answer in value or ()] or None

    def process_result_value(self, value: Any, _: Dialect) -> tuple[AssetSentiment, ...]:
        return msgspec.convert(value or (), tuple[AssetSentiment, ...], strict=False)


def _asset_row(answer: AssetSentiment) -> list[str | float]:
    numbers = (answer.bearish, answer.neutral, answer.bullish)
    row = [answer.asset, *(number if isfinite(number) else str(number) for number in numbers)]
    return [*row, b64encode(answer.embedding).decode()] if answer.embedding else row


class ProvenanceJson(TypeDecorator[Provenance]):
    """A `Provenance`, stored as a JSON object with its fields (`agent.data.provenance`); None is NULL."""

    impl = JSON(none_as_null=True)
    cache_ok = True

    def process_bind_param(self, value: Provenance | None, _: Dialect) -> Any:
        return to_object(value)

    def process_result_value(self, value: Any, _: Dialect) -> Provenance | None:
        return from_object(value)


_PLAIN_TYPES: Final[dict[Any, TypeEngine[Any]]] = {
    str: Text(),
    int: BigInteger(),
    bool: Boolean(),
    float: FloatOrNull(),
    Decimal: DecimalText(),
    bytes: BytesOrNull(),
    tuple[AssetSentiment, ...]: AssetAnswers(),
    Provenance: ProvenanceJson(),
}
_UNSET_TYPES: Final[dict[Any, TypeEngine[Any]]] = {
    Decimal: DecimalOrUnset(),
    int: IntegerOrUnset(),
    str: TextOrUnset(),
    tuple[tuple[Decimal, Decimal], ...]: LevelsOrUnset(),
}
"""Types of the fields that may be UNSET."""

_NULLABLE: Final = (float, bytes, tuple[AssetSentiment, ...])
_SERVER_DEFAULTS: Final[dict[str, TextClause | ColumnElement[Any]]] = {
    "kind": text("''"),
    "kind_confidence": text("0"),
    "provisional": false(),
}
"""Values of plain columns in the rows of versions that lacked them."""


def _columns(
    struct: type[msgspec.Struct], of_text: type[TypeEngine[str]] = Text, key: str = ""
) -> Iterator[Column[Any]]:
    """Yield a column for each field of `struct`; strings have the type `of_text`, `key` is a primary key."""
    for name, hint in get_type_hints(struct).items():
        if name not in struct.__struct_fields__:
            continue
        unset = UnsetType in get_args(hint)
        optional = unset or NoneType in get_args(hint)
        if optional:
            (hint,) = (part for part in get_args(hint) if part not in (NoneType, UnsetType))
        kind: TypeEngine[Any]
        if unset:
            kind = _UNSET_TYPES[hint]
        elif hint is str:
            kind = of_text()
        elif hint in _PLAIN_TYPES:
            kind = _PLAIN_TYPES[hint]
        elif isinstance(hint, type) and issubclass(hint, Enum):
            kind = EnumText(hint)
        else:
            kind = TypedJson(hint)
        yield Column(
            name,
            kind,
            nullable=optional or hint in _NULLABLE,
            primary_key=name == key,
            server_default=_SERVER_DEFAULTS.get(name) if hint in _PLAIN_TYPES else None,
        )


metadata = MetaData()

runs = Table("runs", metadata, *_columns(Run, key="id"))


def _run_id() -> Column[Any]:
    return Column("run_id", Text, ForeignKey("runs.id"), primary_key=True)


archives = Table("archives", metadata, _run_id(), *_columns(JournalArchive))
segments = Table("segments", metadata, _run_id(), *_columns(JournalSegment, key="last"))
snapshots = Table(
    "snapshots",
    metadata,
    _run_id(),
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("created_at", BigInteger, nullable=False),
    Column("fingerprint", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("boundary", Boolean, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("digest", Text, nullable=False),
    Column("payload", LargeBinary, nullable=False),
)


def _table(name: str, *columns: Column[Any]) -> Table:
    """Return a table with the primary key (run, sequence number) and `columns`."""
    return Table(
        name,
        metadata,
        _run_id(),
        Column("seq", BigInteger, primary_key=True, autoincrement=False),
        *columns,
        sqlite_with_rowid=False,
    )


def _decision_table(name: str, struct: type[msgspec.Struct]) -> Table:
    return _table(
        name,
        Column("event_seq", BigInteger, nullable=False),
        Column("digest", LargeBinary, nullable=False),
        *_columns(struct),
    )


run_tags = Table(
    "run_tags",
    metadata,
    Column("run_id", Text, primary_key=True),
    Column("tag", CleanText, primary_key=True),
)
"""Tags of runs, and of walk-forwards, which have no row in `runs`."""
run_notes = Table(
    "run_notes",
    metadata,
    Column("run_id", Text, primary_key=True),
    Column("text", CleanText, nullable=False),
    Column("written_at", BigInteger, nullable=False),
)
studies = Table(
    "studies",
    metadata,
    Column("id", Text, primary_key=True),
    Column("symbols", TypedJson(tuple[str, ...]), nullable=False),
    Column("files", TypedJson(tuple[str, ...]), nullable=False),
    Column("start", BigInteger, nullable=False),
    Column("end", BigInteger, nullable=False),
)
"""Market data and windows on which strategies were evaluated."""
tries = Table(
    "tries",
    metadata,
    Column("id", Text, primary_key=True),
    Column("study", Text, ForeignKey("studies.id"), nullable=False, index=True),
    Column("variant", Text, nullable=False),
    Column("recorded_at", BigInteger, nullable=False),
    Column("by", CleanText, nullable=False),
    Column("kind", Text, nullable=False),
    Column("strategy", CleanText, nullable=False),
    Column("params", TypedJson(dict[str, Any]), nullable=False),
    Column("run", Text, nullable=False),  # not run_id: the deletion of a run deletes no try
    Column("period", BigInteger, nullable=False),
    Column("periods", BigInteger, nullable=False),
    Column("sharpe", Double),
    Column("skewness", Double),
    Column("kurtosis", Double),
    Column("total_return", Double),
    Column("held_out", Boolean, nullable=False),
)
"""Evaluations of strategies, one row each; they stay if their run is deleted."""
feed_health = Table(
    "feed_health",
    metadata,
    _run_id(),
    Column("name", CleanText, primary_key=True),
    Column("written_at", BigInteger, nullable=False),
    Column("state", Text, nullable=False),
    Column("last_message_at", BigInteger, nullable=False),
    *(
        Column(name, BigInteger, nullable=False)
        for name in ("connects", "reconnects", "messages", "bytes", "gaps", "duplicates", "errors")
    ),
    Column("last_error", CleanText, nullable=False),
    Column("last_error_at", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)
journal = _table(
    "journal",
    Column("kind", Text, nullable=False),
    Column("available_at", BigInteger, nullable=False),
    Column("payload", LargeBinary, nullable=False),
)
journal_digests = _table("journal_digests", Column("digest", LargeBinary, nullable=False))
news = _table(
    "news",
    Column("event_seq", BigInteger, nullable=False),
    *_columns(News, CleanText),
    Column("symbols", TypedJson(tuple[str, ...]), nullable=False),
    Column("story", CleanText, nullable=False),
)
sentiments = _table(
    "sentiments", Column("event_seq", BigInteger, nullable=False), *_columns(Sentiment, CleanText)
)
prompts = Table(
    "prompts",
    metadata,
    Column("sha256", Text, primary_key=True),
    Column("text", CleanText, nullable=False),
)
"""Prompts of language models, to which the provenance of sentiments refers by hash."""
strategy_sources = Table(
    "strategy_sources",
    metadata,
    Column("sha256", Text, primary_key=True),
    Column("source", LargeBinary, nullable=False),
)
"""Source files of strategies, to which runs and their changes of strategy refer by hash."""
equity = _table(
    "equity",
    Column("ts", BigInteger, nullable=False),
    Column("equity", FloatOrNull),
    Column("cash", FloatOrNull),
    Column("exposure", FloatOrNull),
)
sleeve_equity = _table(
    "sleeve_equity",
    Column("sleeve", Text, nullable=False),
    Column("ts", BigInteger, nullable=False),
    Column("equity", FloatOrNull),
    Column("cash", FloatOrNull),
    Column("exposure", FloatOrNull),
)
"""Samples of the sleeves' virtual accounts, in runs with several strategies."""

DECISIONS: Final[dict[type[Decision], Table]] = {
    Signal: _decision_table("signals", Signal),
    Prediction: _decision_table("predictions", Prediction),
    Order: _decision_table("orders", Order),
    Cancel: _decision_table("cancels", Cancel),
    Amend: _decision_table("amends", Amend),
    OrderUpdate: _decision_table("order_updates", OrderUpdate),
    Fill: _decision_table("fills", Fill),
    FundingPayment: _decision_table("funding", FundingPayment),
    CashAdjustment: _decision_table("cash_adjustments", CashAdjustment),
    RiskEvent: _decision_table("risk_events", RiskEvent),
    Plot: _decision_table("plots", Plot),
    Notice: _decision_table("notices", Notice),
    StrategyChange: _decision_table("strategy_changes", StrategyChange),
}
"""The table of each kind of decision."""


def insert_rows(connection: Connection, table: Table, rows: Sequence[tuple[Any, ...]]) -> None:
    """Insert `rows`, whose values are in the order of the table's columns.

    This uses SQLAlchemy's statement and types, but avoids a parameter dictionary for each row.
    """
    sql, values = driver_insert(table, connection.dialect, rows)
    connection.exec_driver_sql(sql, values)


def driver_insert(
    table: Table, dialect: Dialect, rows: Sequence[tuple[Any, ...]]
) -> tuple[str, list[tuple[Any, ...]]]:
    """Return the SQL with positional parameters that inserts `rows`, and their values for the driver."""
    sql, processors = _insert_statement(table, dialect)
    if not any(processors):
        return sql, list(rows)
    columns = (
        map(process, column) if process else column
        for process, column in zip(processors, zip(*rows, strict=True), strict=True)
    )
    return sql, list(zip(*columns, strict=True))


@lru_cache(maxsize=64)
def _insert_statement(table: Table, dialect: Dialect) -> tuple[str, Sequence[Callable[[Any], Any] | None]]:
    """Return the SQL with positional parameters, and for each column the conversion to the driver's value."""
    types = [column.type.dialect_impl(dialect) for column in table.columns]
    # Both drivers take bytes as they are; SQLAlchemy would wrap each value
    processors = [None if isinstance(one, LargeBinary) else one.bind_processor(dialect) for one in types]
    return str(insert(table).compile(dialect=dialect)), processors
