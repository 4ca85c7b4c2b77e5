"""Recorder of a run: writes the engine's decisions, headlines and equity samples to the store in batches."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from decimal import Decimal
from functools import partial
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

from msgspec.structs import asdict, astuple, replace
from sqlalchemy import Table, func, insert, select, update

from agent.core.errors import StoreError, TapewireError
from agent.core.events import Decision, News, Sentiment
from agent.core.masking import mask
from agent.data.text import one_line
from agent.store import tables
from agent.store.chain import DecisionChain
from agent.store.database import Database, Insert
from agent.store.queries import RecordedDecision, read_decisions
from agent.store.runs import Run, RunStatus
from agent.store.tables import insert_rows
from agent.system.clock import Clock, WallClock

BATCH = 5_000
"""Number of rows that a backtest keeps in memory before it commits them."""

_MAX_ERROR: Final = 1_000  # characters
_NUMBERED_TABLES: Final = (tables.news, tables.sentiments, tables.equity, tables.sleeve_equity)


class RecorderPosition(NamedTuple):
    """Position of a recorder: chain head, number of decisions, and row counts of the other tables."""

    digest: bytes
    decisions: int
    rows: dict[str, int]


class Recorder:
    """A `DecisionSink` that records `run`, beginning with its row in `runs`.

    Use it as a context manager. If the context ends without `finish`, the run is marked as failed (after an
    exception) or interrupted; if the process dies, it stays `running`. Set `event_seq` to the event's number
    before the engine handles it. Every method may raise StoreError; the record then ends at the last commit.

    With `resume`, the run's row exists and its events are replayed from the first one. Decisions that are
    already recorded are compared with the replayed ones instead of being written again; new ones are
    appended. If `batch` is None, only `flush` commits.
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
        self._buffered = 0
        self._existing: dict[Table, int] = {}  # rows that an earlier process wrote
        self._recorded: Iterator[RecordedDecision] = iter(())
        if resume:
            self.run = self._reopen(run)
        else:
            with database.write() as connection:
                connection.execute(insert(tables.runs), asdict(run))
        self._expected = next(self._recorded, None)

    @property
    def decisions(self) -> int:
        """Number of decisions so far."""
        return self._chain.count

    @property
    def pending(self) -> bool:
        """True if rows wait for `flush`."""
        return self._buffered > 0

    @property
    def head(self) -> str:
        """The digest of the last decision, in hex."""
        return self._chain.head

    @property
    def position(self) -> RecorderPosition:
        """The current position, for `seek`."""
        rows = {str(table.name): self._counts[table] for table in _NUMBERED_TABLES}
        return RecorderPosition(self._chain.digest, self._chain.count, rows)

    def seek(self, position: RecorderPosition) -> None:
        """Continue after `position`. Raises StoreError if the record doesn't contain it."""
        recorded = read_decisions(self._database, self.run.id, max(position.decisions, 1))
        last = next(recorded, None) if position.decisions else None
        found = (last.seq, last.digest) if last is not None else None
        if position.decisions and found != (position.decisions, position.digest):
            which = f"decision {position.decisions} with the digest {position.digest.hex()}"
            raise StoreError(f"run {self.run.id} has no {which}")
        self._clear_buffer()
        self._chain.digest, self._chain.count = position.digest, position.decisions
        for table in _NUMBERED_TABLES:
            self._counts[table] = position.rows.get(table.name, 0)
        self._recorded = recorded
        self._expected = next(recorded, None)

    def decision(self, decision: Decision) -> None:
        """Add a row to the table of the decision's kind, chained to the previous decision."""
        digest = self._chain.add(decision, self.event_seq)
        if self._expected is not None:
            self._check_recorded(digest, decision)
            return
        table = tables.DECISIONS[type(decision)]
        self._add(table, self._chain.count, self.event_seq, digest, *astuple(decision))

    def equity(
        self, ts: Sequence[int], equity: Sequence[float], cash: Sequence[float], exposure: Sequence[float]
    ) -> None:
        """Add a row to `equity` for each sample."""
        for sample in zip(ts, equity, cash, exposure, strict=True):
            self._add(tables.equity, self._next(tables.equity), *sample)

    def sleeve_equity(
        self,
        sleeve: str,
        ts: Sequence[int],
        equity: Sequence[float],
        cash: Sequence[float],
        exposure: Sequence[float],
    ) -> None:
        """Add a row to `sleeve_equity` for each sample."""
        for sample in zip(ts, equity, cash, exposure, strict=True):
            self._add(tables.sleeve_equity, self._next(tables.sleeve_equity), sleeve, *sample)

    def news(self, news: News, symbols: tuple[str, ...], story: str) -> None:
        """Add a row to `news`."""
        self._add(tables.news, self._next(tables.news), self.event_seq, *astuple(news), symbols, story)

    def sentiment(self, sentiment: Sentiment) -> None:
        """Add a row to `sentiments`."""
        self._add(tables.sentiments, self._next(tables.sentiments), self.event_seq, *astuple(sentiment))

    def flush(self, *, again: bool = False) -> None:
        """Commit the buffered rows. A live run does so after each event, before its orders are sent.

        With `again` this is a retry: the earlier attempt may have succeeded without a confirmation, and rows
        that are already in the store are not written twice.
        """
        if self._buffered:
            if again and self._is_written():
                self._database.commit_again(self.run.id)
            else:
                with self._database.batch() as insert:
                    self._insert(insert)
            self._clear_buffer()

    def _is_written(self) -> bool:
        """Return whether the buffered rows are in the store.

        They are committed together, so one of them is enough.
        """
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
        """Commit the buffered rows and the end of the run in one transaction; return the run's final row."""
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
                self._end(
                    status, error=_error_text(error)
                )  # including the buffered rows, the evidence of a failed run
            except StoreError:  # without the rows, at least the status may be written
                self._clear_buffer()
                self._end(status, error=_error_text(error))

    def _reopen(self, run: Run) -> Run:
        again = replace(run, status=RunStatus.RUNNING, finished_at=None, error="")
        with self._database.write() as connection:
            for table in _NUMBERED_TABLES:
                last = connection.scalar(select(func.max(table.c.seq)).where(table.c.run_id == run.id))
                self._existing[table] = last or 0
            connection.execute(update(tables.runs).where(tables.runs.c.id == run.id), asdict(again))
        self._recorded = read_decisions(self._database, run.id)
        return again

    def _check_recorded(self, digest: bytes, decision: Decision) -> None:
        expected = self._expected
        if expected is None or expected.digest != digest:
            which = f"decision {self._chain.count} on event {self.event_seq}"
            change = f"{which} was {expected.decision if expected else None}, but would now be {decision}"
            hint = "the program or a strategy has changed since; start a new run with --new"
            raise StoreError(f"run {self.run.id} can't be resumed: {change}", hint=hint)
        self._expected = next(self._recorded, None)

    def _next(self, table: Table) -> int:
        self._counts[table] += 1
        return self._counts[table]

    def _add(self, table: Table, seq: int, *values: Any) -> None:
        if seq <= self._existing.get(table, 0):
            return
        self._rows[table].append((self.run.id, seq, *values))
        self._buffered += 1
        if self._batch is not None and self._buffered >= self._batch:
            self.flush()

    def _insert(self, insert: Insert) -> None:
        for table, rows in self._rows.items():
            insert(table, rows)

    def _clear_buffer(self) -> None:
        self._rows.clear()
        self._buffered = 0

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
            self._insert(partial(insert_rows, connection))
            connection.execute(update(tables.runs).where(tables.runs.c.id == self.run.id), end)
        self._clear_buffer()
        self.run = replace(self.run, **end)
        return self.run


def _error_text(error: BaseException | None) -> str:
    if error is None or isinstance(error, TapewireError):
        return str(error or "")
    return f"{type(error).__name__}: {mask(one_line(str(error), _MAX_ERROR))}"
