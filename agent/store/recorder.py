"""The one writer of a run: takes what the engine tells, and keeps it in short batches."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from decimal import Decimal
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

from msgspec.structs import asdict, astuple, replace
from sqlalchemy import Connection, Table, func, insert, select, update

from agent.core.errors import StoreError, TapewireError
from agent.core.events import Decision, News, Sentiment
from agent.core.masking import mask
from agent.data.text import one_line
from agent.store import tables
from agent.store.bulk import insert_rows
from agent.store.chain import DecisionChain
from agent.store.database import Database
from agent.store.queries import Recorded, read_decisions
from agent.store.runs import Run, RunStatus
from agent.system.clock import Clock, WallClock

BATCH = 5_000
"""Rows of a backtest kept in memory before they are committed."""

_LONGEST: Final = 1_000  # characters of an error


class Position(NamedTuple):
    """How far a recorder has come: the chain's head, the decisions in it, and the rows of the other tables by their names."""

    digest: bytes
    decisions: int
    rows: dict[str, int]


class Recorder:
    """A `DecisionSink` that records `run`, from its row in `runs` on.

    Use it as a context: a run that leaves without `finish` is marked failed (after an exception) or interrupted, and one whose
    process dies stays `running`; none of them looks complete. Set `event_seq` to the number of the event before the engine
    handles it. Every method may raise StoreError, after which the last commit is what is recorded.

    With `resume` the run's row is there already, and its events are told again from the first on: what was recorded before is
    not written twice, but held against what is decided now, and where that ended recording goes on. With `batch` None nothing is
    committed but by `flush`.
    """

    def __init__(
        self,
        database: Database,
        run: Run,
        *,
        resume: bool = False,
        clock: Clock | None = None,
        batch: int | None = BATCH,
    ) -> None:
        self.run = run
        self.event_seq = 0
        self._database = database
        self._clock = clock or WallClock()
        self._batch = batch
        self._chain = DecisionChain()
        self._counts: defaultdict[Table, int] = defaultdict(int)
        self._rows: defaultdict[Table, list[tuple[Any, ...]]] = defaultdict(list)
        self._waiting = 0
        self._before: dict[Table, int] = {}  # rows that are there already
        self._recorded: Iterator[Recorded] = iter(())
        if resume:
            self.run = self._reopen(run)
        else:
            with database.write() as connection:
                connection.execute(insert(tables.runs), asdict(run))
        self._expected = next(self._recorded, None)

    @property
    def decisions(self) -> int:
        """How many were taken so far."""
        return self._chain.count

    @property
    def head(self) -> str:
        """The digest of the last decision, in hex."""
        return self._chain.head

    @property
    def position(self) -> Position:
        """Where it is now."""
        rows = {
            str(table.name): self._counts[table] for table in (tables.news, tables.sentiments, tables.equity)
        }
        return Position(self._chain.digest, self._chain.count, rows)

    def go_on(self, position: Position) -> None:
        """As if all up to `position` had been told again. Raises StoreError if the record doesn't lead there."""
        recorded = read_decisions(self._database, self.run.id, max(position.decisions, 1))
        last = next(recorded, None) if position.decisions else None
        if position.decisions and (
            last is None or (last.seq, last.digest) != (position.decisions, position.digest)
        ):
            raise StoreError(
                f"run {self.run.id} has no decision {position.decisions} with the digest {position.digest.hex()}"
            )
        self._forget()
        self._chain.digest, self._chain.count = position.digest, position.decisions
        for table in (tables.news, tables.sentiments, tables.equity):
            self._counts[table] = position.rows[table.name]
        self._recorded = recorded
        self._expected = next(recorded, None)

    def decision(self, decision: Decision) -> None:
        """One row in the table of its kind, chained to the decision before."""
        digest = self._chain.add(decision, self.event_seq)
        if self._expected is not None:
            self._recognise(digest, decision)
            return
        self._add(
            tables.DECISIONS[type(decision)], self._chain.count, self.event_seq, digest, *astuple(decision)
        )

    def equity(
        self, ts: Sequence[int], equity: Sequence[float], cash: Sequence[float], exposure: Sequence[float]
    ) -> None:
        """A row in `equity` for each sample."""
        for sample in zip(ts, equity, cash, exposure, strict=True):
            self._add(tables.equity, self._next(tables.equity), *sample)

    def news(self, news: News, symbols: tuple[str, ...], story: str) -> None:
        """One row in `news`."""
        self._add(tables.news, self._next(tables.news), self.event_seq, *astuple(news), symbols, story)

    def sentiment(self, sentiment: Sentiment) -> None:
        """One row in `sentiments`."""
        self._add(tables.sentiments, self._next(tables.sentiments), self.event_seq, *astuple(sentiment))

    def flush(self, *, again: bool = False) -> None:
        """Commit what waits. A live run does so after each event, before its orders are sent.

        With `again` it was tried before, and the answer may have been lost: what is there is not written twice.
        """
        if self._waiting:
            if again and self._is_written():
                self._database.confirm(self.run.id)
            else:
                with self._database.write() as connection:
                    self._insert(connection)
            self._forget()

    def _is_written(self) -> bool:
        """What waits goes in as one, so one of its rows tells of all."""
        table, rows = next((table, rows) for table, rows in self._rows.items() if rows)
        with self._database.read() as connection:
            last = connection.scalar(select(func.max(table.c.seq)).where(table.c.run_id == self.run.id))
        return (last or 0) >= int(rows[-1][1])

    def finish(
        self,
        *,
        first_event_at: int | None,
        last_event_at: int | None,
        final_equity: Decimal,
        metrics: dict[str, Any],
        status: RunStatus = RunStatus.COMPLETE,
    ) -> Run:
        """Commit what waits and the run's end as one; returns the row of the run, complete unless `status` says otherwise."""
        return self._end(
            status,
            first_event_at=first_event_at,
            last_event_at=last_event_at,
            final_equity=final_equity,
            metrics=metrics,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _: type[BaseException] | None, error: BaseException | None, __: TracebackType | None
    ) -> None:
        if self.run.status is not RunStatus.RUNNING:
            return
        status = RunStatus.FAILED if isinstance(error, Exception) else RunStatus.INTERRUPTED
        with suppress(StoreError):
            try:
                self._end(status, error=_sentence(error))  # with what waits: the evidence of a failed run
            except StoreError:  # it can't be written: the status may be
                self._forget()
                self._end(status, error=_sentence(error))

    def _reopen(self, run: Run) -> Run:
        again = replace(run, status=RunStatus.RUNNING, finished_at=None, error="")
        with self._database.write() as connection:
            for table in (tables.news, tables.sentiments, tables.equity):
                last = connection.scalar(select(func.max(table.c.seq)).where(table.c.run_id == run.id))
                self._before[table] = last or 0
            connection.execute(update(tables.runs).where(tables.runs.c.id == run.id), asdict(again))
        self._recorded = read_decisions(self._database, run.id)
        return again

    def _recognise(self, digest: bytes, decision: Decision) -> None:
        expected = self._expected
        if expected is None or expected.digest != digest:
            raise StoreError(
                f"run {self.run.id} can't be resumed: on event {self.event_seq} its decision {self._chain.count} was "
                f"{expected.decision if expected else None}, and would be {decision} now",
                hint="the program or a strategy has changed since; begin a new run with --new",
            )
        self._expected = next(self._recorded, None)

    def _next(self, table: Table) -> int:
        self._counts[table] += 1
        return self._counts[table]

    def _add(self, table: Table, seq: int, *values: Any) -> None:
        if seq <= self._before.get(table, 0):
            return
        self._rows[table].append((self.run.id, seq, *values))
        self._waiting += 1
        if self._batch is not None and self._waiting >= self._batch:
            self.flush()

    def _insert(self, connection: Connection) -> None:
        for table, rows in self._rows.items():
            insert_rows(connection, table, rows)

    def _forget(self) -> None:
        self._rows.clear()
        self._waiting = 0

    def _end(self, status: RunStatus, **values: Any) -> Run:
        end = {
            "status": status,
            "finished_at": self._clock.now(),
            "events": self.event_seq,
            "decisions": self._chain.count,
            "chain_head": self._chain.head,
            **values,
        }
        with self._database.write() as connection:
            self._insert(connection)
            connection.execute(update(tables.runs).where(tables.runs.c.id == self.run.id), end)
        self._forget()
        self.run = replace(self.run, **end)
        return self.run


def _sentence(error: BaseException | None) -> str:
    if error is None or isinstance(error, TapewireError):
        return str(error or "")
    return f"{type(error).__name__}: {mask(one_line(str(error), _LONGEST))}"
