"""The tables. What a decision or a headline is, `agent.core.events` says: their columns are its fields, so no second list can drift.

Every row carries its run and a running number of its kind. Rows of decisions share one sequence across their tables, and
carry the number of the event that they were taken on and their digest in the run's hash chain. `migrations/` must lead to
exactly these tables; a test compares them.

Times are BIGINT UTC milliseconds, enums and decimals text (a decimal's text is exact, its exponent included), a float
that is not a number NULL, and tuples and mappings JSON: the same on SQLite and PostgreSQL. (SQLite forgets the sign of a
zero; the digest beside it doesn't.)
"""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from enum import Enum
from math import isnan, nan
from types import NoneType
from typing import Any, Final, get_args, get_type_hints

import msgspec
from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Double,
    ForeignKey,
    LargeBinary,
    MetaData,
    Table,
    Text,
    TypeDecorator,
)
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeEngine

from agent.core.events import (
    Amend,
    Cancel,
    CashAdjustment,
    Decision,
    Fill,
    FundingPayment,
    News,
    Order,
    OrderUpdate,
    Prediction,
    RiskEvent,
    Sentiment,
    Signal,
)
from agent.store.runs import Archive, Run


class Exact(TypeDecorator[Decimal]):
    """A `Decimal` as its text."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Decimal | None, _: Dialect) -> str | None:
        return None if value is None else str(value)

    def process_result_value(self, value: str | None, _: Dialect) -> Decimal | None:
        return None if value is None else Decimal(value)


class Real(TypeDecorator[float]):
    """A float of 64 bits; NULL stands for NaN, which SQLite doesn't store."""

    impl = Double
    cache_ok = True

    def process_bind_param(self, value: float | None, _: Dialect) -> float | None:
        return None if value is None or isnan(value) else value

    def process_result_value(self, value: float | None, _: Dialect) -> float:
        return nan if value is None else float(value)


class Plain(TypeDecorator[str]):
    """Text from outside: PostgreSQL stores no NUL and no database a lone surrogate, so both become U+FFFD."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, _: Dialect) -> str | None:
        if value is None:
            return None
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace").replace("\0", "\ufffd")

    def process_result_value(self, value: str | None, _: Dialect) -> str | None:
        return value


class Blob(TypeDecorator[bytes]):
    """Bytes; NULL stands for none."""

    impl = LargeBinary
    cache_ok = True

    def process_bind_param(self, value: bytes | None, _: Dialect) -> bytes | None:
        return value or None

    def process_result_value(self, value: bytes | None, _: Dialect) -> bytes:
        return bytes(value or b"")


class Choice(TypeDecorator[Any]):
    """An enum as the text of its value."""

    impl = Text
    cache_ok = True

    def __init__(self, choices: type[Enum]) -> None:
        super().__init__()
        self.choices = choices

    def process_bind_param(self, value: Any, _: Dialect) -> Any:
        return None if value is None else value.value

    def process_result_value(self, value: Any, _: Dialect) -> Any:
        return None if value is None else self.choices(value)


class Json(TypeDecorator[Any]):
    """A tuple, mapping or struct as JSON, typed again when it is read."""

    impl = JSON
    cache_ok = True

    def __init__(self, hint: Any) -> None:
        super().__init__()
        self.hint = hint

    def process_bind_param(self, value: Any, _: Dialect) -> Any:
        return value

    def process_result_value(self, value: Any, _: Dialect) -> Any:
        return msgspec.convert(value, self.hint)


_PLAIN_TYPES: Final[dict[Any, TypeEngine[Any]]] = {
    str: Text(),
    int: BigInteger(),
    bool: Boolean(),
    float: Real(),
    Decimal: Exact(),
    bytes: Blob(),
}


def _columns(struct: type[msgspec.Struct], text: type[TypeEngine[str]] = Text) -> Iterator[Column[Any]]:
    """One column a field of `struct`; its texts are of type `text`."""
    for name, hint in get_type_hints(struct).items():
        if name not in struct.__struct_fields__:
            continue
        optional = NoneType in get_args(hint)
        if optional:
            (hint,) = (part for part in get_args(hint) if part is not NoneType)
        kind: TypeEngine[Any]
        if hint is str:
            kind = text()
        elif hint in _PLAIN_TYPES:
            kind = _PLAIN_TYPES[hint]
        elif isinstance(hint, type) and issubclass(hint, Enum):
            kind = Choice(hint)
        else:
            kind = Json(hint)
        yield Column(
            name,
            kind,
            nullable=optional or hint in (float, bytes),
            primary_key=struct is Run and name == "id",
        )


metadata = MetaData()

runs = Table("runs", metadata, *_columns(Run))
archives = Table(
    "archives", metadata, Column("run_id", Text, ForeignKey("runs.id"), primary_key=True), *_columns(Archive)
)

segments = Table(
    "segments",
    metadata,
    Column("run_id", Text, ForeignKey("runs.id"), primary_key=True),
    Column("last", BigInteger, primary_key=True, autoincrement=False),
    Column("first", BigInteger, nullable=False),
    Column("path", Text, nullable=False),
    Column("sha256", Text, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("archived_at", BigInteger, nullable=False),
    Column("pruned_at", BigInteger, nullable=True),
)
snapshots = Table(
    "snapshots",
    metadata,
    Column("run_id", Text, ForeignKey("runs.id"), primary_key=True),
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
    """A table of rows (run, running number) -> `columns`."""
    return Table(
        name,
        metadata,
        Column("run_id", Text, ForeignKey("runs.id"), primary_key=True),
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


feed_health = Table(
    "feed_health",
    metadata,
    Column("run_id", Text, ForeignKey("runs.id"), primary_key=True),
    Column("name", Plain, primary_key=True),
    Column("written_at", BigInteger, nullable=False),
    Column("state", Text, nullable=False),
    Column("last_message_at", BigInteger, nullable=False),
    *(
        Column(name, BigInteger, nullable=False)
        for name in ("connects", "reconnects", "messages", "bytes", "gaps", "duplicates", "errors")
    ),
    Column("last_error", Plain, nullable=False),
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
    *_columns(News, Plain),
    Column("symbols", Json(tuple[str, ...]), nullable=False),
    Column("story", Plain, nullable=False),
)
sentiments = _table(
    "sentiments", Column("event_seq", BigInteger, nullable=False), *_columns(Sentiment, Plain)
)
equity = _table(
    "equity",
    Column("ts", BigInteger, nullable=False),
    Column("equity", Real),
    Column("cash", Real),
    Column("exposure", Real),
)

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
}
"""The table of each kind of decision."""
