"""The ledger of tries: every evaluation of a strategy on data, by whom, and what came out.

A *study* is market data and a window: the content of the kline files, their symbols, start and end. A
*variant* is all else that the result depends on. Two studies are on the *same data* if they share a symbol or
a file of bars, and their windows overlap. A variant counts once in a study, however often it is evaluated.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import msgspec
from sqlalchemy import Table, delete, insert, select
from sqlalchemy.dialects import sqlite

from agent.core.errors import UsageError
from agent.store.database import Database
from agent.store.runs import InputFile
from agent.store.tables import studies as studies_table
from agent.store.tables import tries as tries_table

PYTHON: Final = "python"
"""`Try.by` of an evaluation by a script or a notebook."""

_ASSISTANT: Final = "mcp"  # first word of `Try.by`; the name of the client follows
_BATCH: Final = 500  # ids in one query


class Study(msgspec.Struct, frozen=True):
    """Market data and a window on which strategies are evaluated; times in UTC ms.

    `files` are the SHA-256 of the kline files of `symbols`, which are in alphabetical order.
    """

    id: str
    symbols: tuple[str, ...]
    files: tuple[str, ...]
    start: int
    end: int

    def shares_data(self, other: Study) -> bool:
        """Return True if the studies share a symbol or a file of bars, and their windows overlap.

        The symbol counts, because the file of a market changes with each bar that is added to it.
        """
        overlap = self.start < other.end and other.start < self.end
        return overlap and not (
            set(self.symbols).isdisjoint(other.symbols) and set(self.files).isdisjoint(other.files)
        )


class Try(msgspec.Struct, frozen=True):
    """One evaluation of a variant. Ratios are per `period` (ms); None: undefined, or without a result.

    - `by`: cli, python, `api TOKEN` or `mcp CLIENT`.
    - `kind`: backtest, sweep, tune, walkforward or check.
    - `run`: the id of the recorded run or walk-forward, empty without one.
    - `held_out`: whether it judged held-out time.
    """

    study: str
    variant: str
    by: str
    kind: str
    strategy: str
    params: dict[str, Any]
    period: int
    periods: int
    sharpe: float | None
    skewness: float | None
    kurtosis: float | None
    total_return: float | None
    run: str = ""
    held_out: bool = False
    recorded_at: int = 0  # UTC ms, set when it is recorded
    id: str = ""


def study_of(inputs: Iterable[InputFile], start: int, end: int) -> Study:
    """Return the study of a run's input files and window (UTC ms)."""
    klines = sorted((item.symbol, item.sha256) for item in inputs if item.role == "klines")
    described = msgspec.json.encode([klines, start, end])
    return Study(
        hashlib.blake2b(described, digest_size=6).hexdigest(),
        tuple(symbol for symbol, _ in klines),
        tuple(sha256 for _, sha256 in klines),
        start,
        end,
    )


def is_assistant(by: str) -> bool:
    """Return True if `by` names an assistant, and not a person or a program."""
    return by.partition(" ")[0] == _ASSISTANT


def record_tries(
    database: Database, study: Study, tries: Sequence[Try], *, instead_of: str | None = None
) -> list[str]:
    """Add evaluations on `study` to the ledger, `instead_of` the one with this id; return their ids.

    Raises StoreError.
    """
    if not tries:
        return []
    now, mark = time.time_ns(), secrets.token_hex(4)
    known = {"study": study.id, "recorded_at": now // 1_000_000}
    rows = [
        msgspec.structs.asdict(one) | known | {"id": f"{now:019}-{n:05}-{mark}"}
        for n, one in enumerate(tries)
    ]
    add = _insert(database)(studies_table)
    with database.write() as connection:
        connection.execute(add.on_conflict_do_nothing(), [msgspec.structs.asdict(study)])
        if instead_of is not None:
            connection.execute(delete(tries_table).where(tries_table.c.id == instead_of))
        connection.execute(insert(tries_table), rows)
    return [row["id"] for row in rows]


def _insert(database: Database) -> Callable[[Table], Any]:
    """Return the store's own INSERT, which may ignore conflicts."""
    if database.is_sqlite:
        return sqlite.insert
    from sqlalchemy.dialects import postgresql  # takes a while to import

    return postgresql.insert


def read_studies(database: Database) -> list[Study]:
    """Return all studies on which something was evaluated."""
    with database.read() as connection:
        return [Study(**row._mapping) for row in connection.execute(select(studies_table))]


def read_tries(database: Database, studies: Iterable[str] | None = None) -> list[Try]:
    """Return the evaluations on some studies, oldest first; by default on all."""
    query = select(tries_table).order_by(tries_table.c.id)
    with database.read() as connection:
        if studies is None:
            return [Try(**row._mapping) for row in connection.execute(query)]
        wanted, found = list(studies), list[Try]()
        for first in range(0, len(wanted), _BATCH):
            chosen = tries_table.c.study.in_(wanted[first : first + _BATCH])
            found += [Try(**row._mapping) for row in connection.execute(query.where(chosen))]
    return sorted(found, key=lambda one: one.id)


def tries_on(database: Database, study: Study) -> list[Try]:
    """Return the evaluations on the data of `study`, oldest first; also those of overlapping windows."""
    same = [other.id for other in read_studies(database) if other.shares_data(study)]
    return read_tries(database, same)


def distinct(tries: Iterable[Try]) -> list[Try]:
    """Return the first evaluation of each variant in each study; rather one that had a result."""
    found: dict[tuple[str, str], Try] = {}
    for one in tries:
        key = one.study, one.variant
        if key not in found or not found[key].periods:
            found[key] = one
    return list(found.values())


def find_study(database: Database, name: str) -> Study:
    """Return the study whose id begins with `name`. Raises UsageError without one, or with several."""
    found = [study for study in read_studies(database) if name and study.id.startswith(name)]
    if len(found) == 1:
        return found[0]
    several = f"{len(found)} studies begin with {name!r}" if found else f"there is no study {name!r}"
    raise UsageError(several, hint="tapewire tries lists them")


def study_of_run(database: Database, run: str) -> Study | None:
    """Return the study that a recorded run or walk-forward was counted in; None if it was not counted."""
    query = (
        select(studies_table)
        .join(tries_table, tries_table.c.study == studies_table.c.id)
        .where(tries_table.c.run == run)
    )
    with database.read() as connection:
        row = connection.execute(query).first()
    return None if row is None else Study(**row._mapping)
