"""Verification of a recorded run: replay of its inputs, and comparison of the hash chains."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from agent.config import Config, parse
from agent.core.engine import CORE, CORE_REVISION
from agent.core.errors import DataError, StoreError, UsageError
from agent.core.events import Event, Sentiment
from agent.core.instruments import with_first_rules
from agent.core.sleeves import engines_of
from agent.core.trading_engine import TradingEngine
from agent.data.block_stream import BarSlice
from agent.data.columns import content_hash
from agent.data.merge import merge
from agent.replay.backtest import Progress
from agent.replay.engine_state import capture, fingerprint, state_digest
from agent.replay.event_feed import EventFeed, NumberingSink, by_block
from agent.replay.fusion_model import reopen_predictor
from agent.replay.history import History, Plan
from agent.replay.open_engine import blaming_any, reopen_engine
from agent.replay.strategy_versions import StrategyVersions
from agent.store.comparison_sink import ComparisonSink, Divergence
from agent.store.database import Database
from agent.store.integrity import find_lost_commits, mark_path
from agent.store.journal import read_journal
from agent.store.queries import read_rows
from agent.store.runs import InputFile, Run, RunKind
from agent.store.state_snapshots import list_snapshots

_TICK = 16_384


class Verification(msgspec.Struct, frozen=True):
    """Result of replaying a run; `divergence` is None if every decision is identical."""

    run: str
    events: int
    decisions: int
    chain_head: str
    divergence: Divergence | None
    event: Event | None  # of the divergence
    snapshots: int = 0  # of a live run, compared with the replayed state
    differing: tuple[int, ...] = ()  # events after which a snapshot differs from the replayed state
    hint: str = ""  # a possible explanation of a difference

    @property
    def identical(self) -> bool:
        """True if every decision is the same, bit for bit, and every snapshot equals the replayed state."""
        return self.divergence is None and not self.differing


def verify(
    database: Database,
    run: Run,
    progress: Progress | None = None,
    *,
    trust_strategy: bool = False,
    folder: Path | None = None,
    in_blocks: bool = False,
) -> Verification:
    """Replay `run` and compare its decisions.

    Each bar is an event, as in a live run, although a backtest of one strategy handles bars in blocks: both
    must decide the same. `in_blocks` handles the bars as that backtest did, which takes less time.

    Raises UsageError if an input file is missing, or if the run didn't handle bars in blocks, DataError if a
    file has changed, StoreError if the record contradicts itself, and SafetyError if a strategy of the run is
    neither built in nor the unchanged file of the run, nor a stored source of which `folder` (live.folder)
    has a copy; with `trust_strategy` it is imported anyway.
    """
    versions = StrategyVersions(database, run, folder, trust=trust_strategy)
    config, sources = _sources(database, run)
    if in_blocks and (run.kind is RunKind.LIVE or config.sleeves):
        kind = "a live run" if run.kind is RunKind.LIVE else "a run of several strategies"
        hint = "verify it without --blocks (in_blocks)"
        raise UsageError(f"run {run.id} handled each bar as an event, as {kind} does", hint=hint)
    predictor = reopen_predictor(config, run)
    sink = ComparisonSink(database, run)
    numbers = NumberingSink(sink)
    engine = reopen_engine(config, numbers, run, versions, predictor=predictor)
    feed = EventFeed(engine, numbers, by_block(engine, sources) if in_blocks else _merged(run, sources))
    snapshots = _SnapshotComparison(database, run, config, engine, sink)
    tick = _TICK
    with blaming_any(engine):
        for part in feed:
            # checked before the next event, since the decisions of `finish` belong to the last event
            if sink.diverged():
                break
            snapshots.compare(feed.events)
            if progress and feed.events >= tick:
                tick = feed.events + _TICK
                progress(int(part.block.end[part.first]) if isinstance(part, BarSlice) else part.available_at)
        else:
            snapshots.compare(feed.events)
            feed.finish()
    divergence = sink.finish()
    if divergence is None and run.kind is RunKind.LIVE:
        gap = find_lost_commits(database, mark_path(database), run.id)
        if gap is not None:
            raise StoreError(
                f"the recorded decisions are identical, but {gap.message}", hint="restore a backup"
            )
    return Verification(
        run.id,
        divergence.event_seq if divergence else feed.events,
        sink.decisions,
        run.chain_head,
        divergence,
        feed.event(divergence.event_seq) if divergence else None,
        snapshots.compared,
        tuple(snapshots.differing),
        _explain(run) if divergence or snapshots.differing else "",
    )


def _explain(run: Run) -> str:
    recorded = run.versions.get(CORE, "1")
    if recorded == CORE_REVISION:
        return ""
    versions = (
        f"the run was made by revision {recorded} of the core, this program has revision {CORE_REVISION}"
    )
    return f"{versions}: corrections of the core (docs/changelog.md) can be the reason"


class _SnapshotComparison:
    """Compares the snapshots of a live run that this version of the program made with the replayed state."""

    def __init__(
        self, database: Database, run: Run, config: Config, engine: TradingEngine, sink: ComparisonSink
    ) -> None:
        self._engine, self._sink = engine, sink
        self._digests: dict[int, str] = {}  # by the number of the event after which it was made
        if run.kind is RunKind.LIVE:
            own = fingerprint(config, *(one.strategy for one in engines_of(engine).values()))
            snapshots = list_snapshots(database, run.id)
            self._digests = {info.seq: info.state for info in snapshots if info.fingerprint == own}
        self.compared = 0
        self.differing: list[int] = []

    def compare(self, number: int) -> None:
        """Compare the snapshot after event `number`, if there is one."""
        if number not in self._digests:
            return
        self.compared += 1
        state = state_digest(capture(self._engine), self._sink.digest, self._sink.decisions)
        if state != self._digests[number]:
            self.differing.append(number)


def inputs(database: Database, run: Run) -> tuple[Config, Iterator[Event]]:
    """Return the configuration and the events of `run`, numbered from 1. Raises as `verify`."""
    config, sources = _sources(database, run)
    return config, _merged(run, sources)


def _sources(database: Database, run: Run) -> tuple[Config, Sequence[Iterable[Event]]]:
    """Return the configuration of `run`, and the sources of its events: its journal, or its files."""
    settings = dict(run.config)
    window = settings.pop("window", {})
    config = parse(settings, where=f"run {run.id}")
    if CORE not in run.versions:
        config = with_first_rules(config)
    if run.kind is RunKind.LIVE:
        return config, [_recorded_events(database, run)]
    return config, _history_sources(database, run, config, window)


def _merged(run: Run, sources: Sequence[Iterable[Event]]) -> Iterator[Event]:
    """Return the events in total order; a journal has the order in which its run handled them."""
    return iter(sources[0]) if run.kind is RunKind.LIVE else merge(sources)


def _recorded_events(database: Database, run: Run) -> Iterator[Event]:
    for _, event in read_journal(database, run.id):
        yield event


def _history_sources(
    database: Database, run: Run, config: Config, window: dict[str, Any]
) -> Sequence[Iterable[Event]]:
    def only(role: str) -> Path | None:
        return next((Path(item.path) for item in run.inputs if item.role == role), None)

    for item in run.inputs:
        check_unchanged(item)
    klines = tuple((Path(item.path), item.symbol) for item in run.inputs if item.role == "klines")
    plan = Plan(klines, only("news"), only("sentiment"), only("funding"), **window)
    history = History(plan, config, recorded=True)
    # recorded scores are inputs, so verifying needs no model
    sentiments = read_rows(database, run.id, Sentiment) if plan.news is not None else ()
    return history.sources(sentiments=sentiments)


def check_unchanged(item: InputFile) -> None:
    """Raise UsageError if an input of a run is missing, and DataError if it has changed since the run."""
    path = Path(item.path)
    if not path.is_file():
        missing = f"{path}, an input of this run, does not exist"
        raise UsageError(missing, hint="put it back: the run is decided again from its inputs")
    if content_hash(path) != item.sha256:
        hint = f"the run needs the file with SHA-256 {item.sha256}"
        raise DataError(f"{path} has changed since the run", hint=hint)
