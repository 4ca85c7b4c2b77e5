"""Journals each event, decides on it, and records the decisions, in this order."""

from __future__ import annotations

import asyncio
import random
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from types import TracebackType
from typing import Final, Self, TypeVar

import structlog
from msgspec.structs import replace

from agent.config import Config
from agent.core.errors import StoreError
from agent.core.events import Command, Event, Kline, Sentiment, kind_of
from agent.core.fusion_inputs import Predictor
from agent.core.strategy_version import USE_STRATEGY
from agent.core.trading_engine import TradingEngine
from agent.live.event_queue import OPEN_BAR
from agent.live.funding_stamps import FundingSchedule
from agent.live.interfaces.observer import Observer
from agent.live.interfaces.status import (
    HEADLINE_TO_SENTIMENT,
    SENTIMENT_TO_ORDER,
    SENTIMENT_TO_REVISION,
    STORE_WRITE,
)
from agent.live.observers import LiveSink
from agent.live.resume import ResumePoint
from agent.live.snapshotter import Snapshotter
from agent.live.store_retry import StoreWriter, Write
from agent.live.systemd import ServiceManager
from agent.replay.open_engine import open_engine
from agent.replay.strategy_versions import StrategyVersions
from agent.store.commit_mark import CommitMark, CommitMarkFile
from agent.store.database import Database
from agent.store.journal import Journal, read_journal
from agent.store.recorder import Recorder
from agent.store.runs import Run, RunStatus
from agent.store.state_snapshots import Snapshot, segment_started_at, write_snapshot
from agent.system.latency_histogram import LatencyHistogram

_T = TypeVar("_T")


_EXTEND_EVERY: Final = 20_000
"""Events folded between two requests to the service manager for more time to start."""

_log: Final = structlog.get_logger(__name__)


Urgent = Callable[[], list[tuple[Event, float]]]
"""Takes the events that were put first from the queue, each with the event loop's time of its arrival."""


class JournalBatch:
    """Events to append to the journal at once. Until they are committed, urgent events can be put before
    them.
    """

    def __init__(
        self, journal: Journal, now: int, events: list[Event], committed: Callable[[], None]
    ) -> None:
        self.events = events
        self.waiting: list[Event] = []
        self._journal = journal
        self._committed = committed
        self._now = now  # UTC ms: time of the last event that was handled

    def put_first(self, events: list[Event]) -> None:
        """Put events before the batch at the next attempt. Must not be called during one."""
        self.waiting += events

    def __call__(self, *, again: bool) -> int:
        """Append the events; return the number of the first. Raises StoreError."""
        if again and self.waiting and not self._journal.has_committed(len(self.events)):
            now, ordered = self._now, []
            for event in (*self.waiting, *self.events):
                now = max(now, event.available_at)
                ordered.append(_at(event, now))
            self.events, self.waiting = ordered, []
        first = self._journal.append(self.events, again=again)
        self._committed()
        return first


def _at(event: Event, now: int) -> Event:
    return event if event.available_at == now else replace(event, available_at=now)


class Pipeline:
    """A run's journal, engine and recorder, as a context manager; leaving it without `end` marks the run as
    failed or interrupted.

    With `resume` the journal is folded first, and `memory` then has the point from which each source
    continues. `observers` receive what comes after the fold, `run_observers` the fold as well. `latest`
    returns the UTC ms that the core's time must not pass now, or None while the time is not confirmed: then
    only bars advance it. While the store can't be written (`storage`), nothing is handled. All methods raise
    StoreError.
    """

    def __init__(
        self,
        config: Config,
        database: Database,
        run: Run,
        *,
        resume: bool,
        observers: Iterable[Observer] = (),
        run_observers: Iterable[Observer] = (),
        rng: random.Random | None = None,
        predictor: Predictor | None = None,
        latest: Callable[[], int | None] = lambda: sys.maxsize,
        mark: CommitMarkFile | None = None,
    ) -> None:
        self.memory = ResumePoint()
        self.latencies: defaultdict[str, LatencyHistogram] = defaultdict(LatencyHistogram)
        """Time from arrival in the queue to handled and recorded, in ms, by kind of event."""
        self.spans: defaultdict[str, LatencyHistogram] = defaultdict(LatencyHistogram)
        """Durations in ms of the stages in `agent.live.interfaces.status`."""
        self._run_observers: list[Observer] = list(run_observers)
        self.observers: list[Observer] = [*observers, *self._run_observers]
        self._database = database
        # batch=None: a write that fails must not raise inside the engine
        self._recorder = Recorder(database, run, resume=resume, batch=None)
        self.journal = Journal(database, run.id)
        self.mark = mark
        self._sink = LiveSink(self._recorder, config.market.interval)
        self.versions = StrategyVersions(database, run, config.live.folder, own=True)
        self._make_engine: Callable[[], TradingEngine] = partial(
            open_engine,
            config,
            self._sink,
            run_id=run.id,
            versions=self.versions,
            predictor=predictor,
            live=True,
        )
        self.engine = self._make_engine()
        self._latest = latest
        self.snapshots = Snapshotter(config, database, run.id, self.engine)
        self._keep = config.store.snapshots
        self._funding = FundingSchedule(config)
        self.storage = StoreWriter(config.store, rng or random.Random())

    @property
    def run(self) -> Run:
        """The run's row as last written."""
        return self._recorder.run

    @property
    def decisions(self) -> int:
        """Number of decisions so far."""
        return self._recorder.decisions

    def __enter__(self) -> Self:
        self._recorder.__enter__()
        try:
            self._fold()
        except StoreError as error:
            self.__exit__(type(error), error, None)
            raise
        self._sink.observers = self.observers
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.storage.close()
        if self.mark is not None:
            self.mark.close()
        self._recorder.__exit__(kind, error, trace)

    def _fold(self) -> None:
        """Restore the state at the end of the journal."""
        self._sink.observers = self._run_observers
        manager = ServiceManager()
        start = self._resume() if self.journal.last_seq else 0
        for seq, event in read_journal(self._database, self.run.id, start + 1):
            for observer in self._run_observers:
                observer.event(seq, event)
            self._handle(seq, event)
            if seq % _EXTEND_EVERY == 0:
                manager.notify(EXTEND_TIMEOUT_USEC="60000000")
            if not start:
                self.snapshots.check_fold(seq, self.engine, self._recorder)
        self._recorder.event_seq = self._sink.event_seq = self.journal.last_seq
        self.snapshots.start_segment(segment_started_at(self._database, self.run.id))
        if self.journal.last_seq:
            self._funding.set_handled_until(max(self.memory.closed_at, self.memory.first_at or 0))
            self._recorder.flush()
            _log.info(
                "journal folded", events=self.journal.last_seq - start, unscored=len(self.memory.unscored)
            )

    def _resume(self) -> int:
        """Load the newest usable snapshot; return the number of its event, 0 without one."""
        last = self.journal.last_seq
        start, self.engine = self.snapshots.resume(
            self.engine, self._make_engine, self._recorder, self._sink, self.memory, self._run_observers, last
        )
        return start

    def _snapshot(self, now: float, *, boundary: bool = False) -> Snapshot | None:
        seq = self._recorder.event_seq  # the journal may be ahead of what was handled
        return self.snapshots.take(
            now,
            seq,
            self.engine,
            self._recorder,
            self._sink,
            self.memory,
            self._run_observers,
            boundary=boundary,
        )

    async def feed(self, taken: Sequence[tuple[Event, float]], urgent: Urgent | None = None) -> list[Event]:
        """Journal events and decide on them; each comes with the event loop's time of its arrival.

        `urgent` is called while the store can't be written; its events are handled before `taken`. Returns
        the events as they were handled: in order, with `available_at` never decreasing, and with the funding
        that was due.
        """
        loop = asyncio.get_running_loop()
        events: list[Event] = []
        now, latest = self.memory.now, self._latest()
        for event, _ in taken:
            limit = (now or event.available_at) if latest is None else latest
            if isinstance(event, Kline):
                limit = max(limit, event.ts)
            now = max(now, min(event.available_at, limit))
            events.append(_at(event, now))
            self._funding.start(now)
            if isinstance(event, Kline) and event.confirm:
                events += self._funding.due(event.ts, now)
        history = self.engine.risk.warming_up
        batch = JournalBatch(self.journal, self.memory.now, events, self._write_mark)
        first = await self._write(
            batch, None if urgent is None else lambda: batch.put_first([one for one, _ in urgent()])
        )
        events = batch.events
        traded: set[str] = set()  # headlines whose sentiment led to an order
        revised: set[tuple[str, str]] = set()  # headline and model of revisions
        for seq, event in enumerate(events, first):
            for observer in self.observers:
                observer.event(seq, event)
            orders = self._sink.orders
            if isinstance(event, Sentiment) and self.engine.signals.is_revision(event):
                revised.add((event.news_id, event.model))
            self._handle(seq, event)
            if self._sink.orders > orders and isinstance(event, Sentiment):
                traded.add(event.news_id)
        if self._recorder.pending:  # most batches decide nothing, and need no further commit
            await self._write(self._record)
        if batch.waiting:  # the batch had been committed, only the reply was lost
            events += await self.feed([(event, loop.time()) for event in batch.waiting], urgent)
        done = loop.time()
        for event, since in () if history else taken:  # bulk history has no meaningful latency
            kind = OPEN_BAR if isinstance(event, Kline) and not event.confirm else kind_of(event)
            self.latencies[kind].add((done - since) * 1000)
            if isinstance(event, Sentiment):
                revises = (event.news_id, event.model) in revised
                span = SENTIMENT_TO_REVISION if revises else HEADLINE_TO_SENTIMENT
                self.spans[span].add(event.latency_ms)
                if event.news_id in traded:
                    self.spans[SENTIMENT_TO_ORDER].add((done - since) * 1000)
        await self._save(done)
        return events

    def _record(self, *, again: bool = False) -> None:
        """Commit the decisions, then write the commit mark."""
        self._recorder.flush(again=again)
        self._write_mark()

    def _write_mark(self) -> None:
        """Write the commit mark outside of the store: the events in the journal, and the decisions so far."""
        if self.mark is not None:
            journal = self.journal
            decided = self._recorder.decisions, self._recorder.head
            self.mark.write(CommitMark(self.run.id, journal.last_seq, journal.digest.hex(), *decided))

    async def _save(self, now: float) -> None:
        """Take a snapshot if one is due or a segment of the journal ends here."""
        boundary = self.snapshots.ends_segment(self.memory.now)
        if not boundary and not self.snapshots.is_due(now, self.journal.last_seq):
            return
        snapshot = self._snapshot(now, boundary=boundary)
        if snapshot is not None:
            write = partial(write_snapshot, self._database, self.run.id, snapshot, self._keep)
            self.snapshots.note_written(await self._write(write))
            if boundary:
                self.snapshots.start_segment(self.memory.now)

    async def _write(self, work: Write[_T], again: Callable[[], None] | None = None) -> _T:
        """Write to the store, with retries, and measure the time."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        result = await self.storage.write(work, again)
        self.spans[STORE_WRITE].add((loop.time() - began) * 1000)
        return result

    def _handle(self, seq: int, event: Event) -> None:
        self._recorder.event_seq = self._sink.event_seq = seq
        self.memory.update(event)
        self.engine.handle(event)
        if isinstance(event, Command) and event.action == USE_STRATEGY:
            self.snapshots.strategy_changed()

    def end(self, *, complete: bool) -> Run:
        """Record the end: a complete run is closed, any other can be resumed."""
        self.storage.close()
        if complete:
            self.engine.finish()
        else:
            self._last_snapshot()
        self.journal.seal()
        return self._recorder.finish(
            first_event_at=self.memory.first_at,
            last_event_at=self.memory.now or None,
            final_equity=self.engine.portfolio.exact_equity(),
            metrics={},
            status=RunStatus.COMPLETE if complete else RunStatus.INTERRUPTED,
        )

    def _last_snapshot(self) -> None:
        """Take a snapshot at an orderly end, so that the next life folds less."""
        try:
            self._recorder.flush()
            if not self._recorder.event_seq or not self.snapshots.enabled:
                return
            if (snapshot := self._snapshot(0.0)) is not None:
                write_snapshot(self._database, self.run.id, snapshot, self._keep)
        except StoreError as error:
            _log.warning("no last snapshot", reason=error.message)
