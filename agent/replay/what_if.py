"""A recorded run under a change: from one of its events two lives of the engine go on, one as it was and one
with the change.

The changed life takes the state of the other at that event, as a restart does, and its own settings. Without
a change both lives are the recorded run.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from decimal import Decimal
from itertools import zip_longest
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from agent.analysis.run_metrics import Metrics, compute
from agent.config import Config, parse
from agent.core.engine import EQUITY_BLOCK, Engine
from agent.core.errors import ConfigError, UsageError
from agent.core.events import (
    AccountSnapshot,
    AssetSentiment,
    Decision,
    Event,
    Fill,
    FundingSettlement,
    Kline,
    News,
    OrderUpdate,
    Sentiment,
)
from agent.core.exchange import ExchangeFactory
from agent.core.fusion_inputs import Predictor
from agent.core.paper import PaperExchange
from agent.core.sinks import DecisionSink, NullSink
from agent.core.strategy import Strategy
from agent.replay.backtest import BacktestSink, Progress
from agent.replay.engine_state import capture, restore, version_part
from agent.replay.fusion_model import reopen_predictor
from agent.replay.object_codec import Unencodable
from agent.replay.settings_adoption import adopt_settings
from agent.replay.strategy_versions import StrategyVersions
from agent.replay.verify import inputs
from agent.store.chain import DecisionChain
from agent.store.database import Database
from agent.store.runs import Run, RunKind, RunStatus
from strategies import blaming, create_strategy, load_strategy

CHANGEABLE: Final = ("signals", "risk", "paper")
"""Sections of the configuration that a change may set."""

_VENUE_REPORTS: Final = (OrderUpdate, Fill, FundingSettlement, AccountSnapshot)
_TICK: Final = 16_384


class Change(NamedTuple):
    """What differs in the changed life. The default changes nothing."""

    settings: Mapping[str, Any] = {}  # dotted keys of the configuration -> texts or values
    strategy: str = ""  # another strategy, from the first event on
    params: Mapping[str, Any] = {}  # parameters of the strategy
    removed: frozenset[str] = frozenset()  # ids of headlines that are neither read nor scored
    flipped: frozenset[str] = frozenset()  # ids of headlines whose bearish and bullish are exchanged


class MadeDecision(NamedTuple):
    """A decision, the number of its event, and the head of the chain after it."""

    event_seq: int
    decision: Decision
    digest: bytes


class FirstDifference(NamedTuple):
    """The first decision that differs between the lives; None where one makes none."""

    event_seq: int
    event: Event
    as_it_was: Decision | None
    changed: Decision | None


class FoldedLife(NamedTuple):
    """One of the two lives. Of equity it has the first sample of each hour."""

    final_equity: Decimal
    metrics: Metrics
    decisions: list[MadeDecision]
    times: list[int]  # UTC ms
    equity: list[float]
    notes: list[str]


class WhatIf(NamedTuple):
    """Both lives of a run.

    `as_recorded` is True if the unchanged one is the recorded run. It is None for a run that did not
    complete, and for one at a venue, whose lives are both folded on paper.
    """

    run: Run
    begins: int  # number of the event from which the change holds
    begins_at: int  # its `available_at`, UTC ms
    as_it_was: FoldedLife
    changed: FoldedLife
    difference: FirstDifference | None
    as_recorded: bool | None
    on_paper: bool  # False for a run at a venue


class RecordedInputs(NamedTuple):
    """What a run was folded from; `on_paper` is False for a run at a venue."""

    run: Run
    config: Config
    events: list[Event]
    exchange: ExchangeFactory
    predictor: Predictor | None
    versions: StrategyVersions
    on_paper: bool

    @property
    def measured_after(self) -> int:
        """Time (UTC ms) up to which a backtest only reads history; its metrics begin there. 0 without any."""
        window = self.run.config.get("window", {})
        return (window.get("start") or 0) if window.get("warmup") or window.get("warm_up") else 0

    def strategy(self, name: str = "", params: Mapping[str, Any] | None = None) -> Strategy:
        """Create the strategy with which the run began, or another one or with other parameters.

        Raises ConfigError for a name or a parameter that is not valid.
        """
        if name and name != self.run.strategy:
            return load_strategy(name, params)
        if params is None or params == self.run.params:
            return self.versions.first()
        return create_strategy(type(self.versions.first()), params, self.run.strategy)

    def open_engine(
        self, sink: DecisionSink, strategy: Strategy | None = None, config: Config | None = None
    ) -> Engine:
        """Return a fresh engine with the run's strategy and configuration, or with others."""
        strategy = strategy or self.versions.first()
        live = self.run.kind is RunKind.LIVE  # an error of the strategy then stops the strategy
        with blaming(strategy):
            return Engine(
                config or self.config,
                strategy,
                sink,
                run_id=self.run.id,
                exchange=self.exchange,
                predictor=self.predictor,
                equity_block=1 if live else EQUITY_BLOCK,
                contain_errors=live,
                loader=self.versions,
            )

    def headline(self, prefix: str) -> str:
        """Return the id of the headline that begins with `prefix`. Raises UsageError unless one does."""
        found = {event.id for event in self.events if isinstance(event, News) and event.id.startswith(prefix)}
        if len(found) == 1 or prefix in found:
            return prefix if prefix in found else found.pop()
        number = f"{len(found)} headlines" if found else "no headline"
        raise UsageError(
            f"run {self.run.id} has {number} with an id that begins with {prefix!r}",
            hint="tapewire stories shows the ids",
        )

    def event_at(self, at: int) -> int:
        """Return the number of the first event at `at` (UTC ms) or later. Raises UsageError without one."""
        number = next((n for n, event in enumerate(self.events, 1) if event.available_at >= at), None)
        if number is None:
            raise UsageError("the run ends before the time from which the change should hold")
        return number


def load_inputs(
    database: Database, run: Run, folder: Path | None = None, *, trust_strategy: bool = False
) -> RecordedInputs:
    """Read all inputs of a run; `folder` is `live.folder`. Raises as `verify`, and UsageError for sleeves.

    Reports of a venue are left out, since other orders would have had other fills. The database stays in use.
    """
    versions = StrategyVersions(database, run, folder, trust=trust_strategy)
    config, events = inputs(database, run)
    if config.sleeves:
        raise UsageError(f"run {run.id} has sleeves, and only runs of one strategy can be changed")
    versions.first()
    on_paper = config.execution.mode == "paper"
    return RecordedInputs(
        run,
        config,
        [event for event in events if on_paper or not isinstance(event, _VENUE_REPORTS)],
        config.execution.exchange() if on_paper else PaperExchange,
        reopen_predictor(config, run),
        versions,
        on_paper,
    )


def fold_on(
    source: RecordedInputs, change: Change, *, begins: int = 1, progress: Progress | None = None
) -> WhatIf:
    """Fold both lives of a run; the change holds from event number `begins` on.

    Raises ConfigError for a setting or parameter that doesn't exist or isn't valid, UsageError for an event
    that the run doesn't have, for another strategy after the first event, and for a strategy whose state
    can't be copied.
    """
    run, events = source.run, source.events
    if not 0 < begins <= len(events):
        raise UsageError(f"run {run.id} has events 1 to {len(events):,}, not {begins:,}")
    if change.strategy and begins > 1:
        raise UsageError("another strategy can only decide from the beginning", hint="leave out --from")
    config = changed_config(source.config, change.settings)
    params = {**({} if change.strategy else run.params), **change.params}
    as_it_was = _LifeInProgress(source, source.config, run.strategy, run.params)
    changed: _LifeInProgress | None = None
    if begins == 1:
        changed = _LifeInProgress(source, config, change.strategy or run.strategy, params)
    tick = _TICK
    for number, event in enumerate(events, 1):
        if number == begins and changed is None:
            changed = as_it_was.branch(source, config, params)
        as_it_was.handle(number, event)
        if changed is not None and (other := changed_event(event, change)) is not None:
            changed.handle(number, other)
        if progress and number >= tick:
            tick += _TICK
            progress(event.available_at)
    if changed is None:
        raise AssertionError("begins is the number of an event")
    lives = as_it_was.finish(), changed.finish()
    comparable = source.on_paper and run.status is RunStatus.COMPLETE
    return WhatIf(
        run,
        begins,
        events[begins - 1].available_at,
        *lives,
        _first_difference(*lives, events),
        as_it_was.chain_head == run.chain_head if comparable else None,
        source.on_paper,
    )


def changed_config(config: Config, settings: Mapping[str, Any]) -> Config:
    """Return `config` with other values of dotted keys; texts are read as TOML if they can be.

    Raises ConfigError for an unknown key, an invalid value, and a section that no change may set.
    """
    raw = config.persisted()
    for key, value in settings.items():
        section, *inner = key.split(".")
        if section not in CHANGEABLE or not inner:
            raise ConfigError(
                f"{key} can't be changed in a recorded run", hint=f"keys of {', '.join(CHANGEABLE)} can"
            )
        place = raw.setdefault(section, {})
        for name in inner[:-1]:
            place = place.setdefault(name, {})
        place[inner[-1]] = _value(value)
    return parse(raw, where="the change") if settings else config


def _value(text: Any) -> Any:
    if not isinstance(text, str):
        return text
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def changed_event(event: Event, change: Change) -> Event | None:
    """Return the event as the changed life sees it; None if it doesn't."""
    if not isinstance(event, News | Sentiment):
        return event
    headline = event.id if isinstance(event, News) else event.news_id
    if headline in change.removed:
        return None
    if headline in change.flipped and isinstance(event, Sentiment):
        assets = tuple(_flipped(answer) for answer in event.assets)
        return msgspec.structs.replace(event, bearish=event.bullish, bullish=event.bearish, assets=assets)
    return event


def _flipped(answer: AssetSentiment) -> AssetSentiment:
    return msgspec.structs.replace(answer, bearish=answer.bullish, bullish=answer.bearish)


def _first_difference(one: FoldedLife, other: FoldedLife, events: Sequence[Event]) -> FirstDifference | None:
    for a, b in zip_longest(one.decisions, other.decisions):
        if a is None or b is None or a.digest != b.digest:
            number = min(made.event_seq for made in (a, b) if made is not None)
            here = [made.decision if made and made.event_seq == number else None for made in (a, b)]
            return FirstDifference(number, events[number - 1], *here)
    return None


class _LifeRecord(NullSink):
    """Keeps the decisions of one life and its equity by hour."""

    def __init__(self) -> None:
        self.event_seq = 0
        self.decisions: list[MadeDecision] = []
        self.times: list[int] = []
        self.values: list[float] = []
        self.chain = DecisionChain()

    def decision(self, decision: Decision) -> None:
        digest = self.chain.add(decision, self.event_seq)
        self.decisions.append(MadeDecision(self.event_seq, decision, digest))

    def equity(
        self, ts: Sequence[int], equity: Sequence[float], cash: Sequence[float], exposure: Sequence[float]
    ) -> None:
        self.times += ts
        self.values += equity


class _ForwardingSink(NullSink):
    """Forwards decisions and equity to a sink that can be replaced."""

    def __init__(self, inner: BacktestSink) -> None:
        self.inner = inner

    def decision(self, decision: Decision) -> None:
        self.inner.decision(decision)

    def equity(
        self, ts: Sequence[int], equity: Sequence[float], cash: Sequence[float], exposure: Sequence[float]
    ) -> None:
        self.inner.equity(ts, equity, cash, exposure)


class _LifeInProgress:
    """One life in progress."""

    def __init__(
        self, source: RecordedInputs, config: Config, strategy: str, params: Mapping[str, Any]
    ) -> None:
        self._config = config
        self._record = _LifeRecord()
        self._after = source.measured_after
        self._sink = _ForwardingSink(BacktestSink(self._record, config, after=self._after))
        self.engine = source.open_engine(self._sink, source.strategy(strategy, params), config)
        self._handle: Callable[[Event], None] = self.engine.handle

    def handle(self, number: int, event: Event) -> None:
        """Handle event `number`. Raises StrategyError if the strategy's own code fails."""
        self._record.event_seq = number
        if event.__class__ is Kline and event.ts > self._after:
            self._sink.inner.benchmark.add(event.symbol, event.ts, event.close)
        with blaming(self.engine.strategy):
            self._handle(event)

    def branch(self, source: RecordedInputs, config: Config, params: Mapping[str, Any]) -> _LifeInProgress:
        """Return a second life that goes on from here with other settings and parameters.

        The strategy keeps its state. Raises UsageError if that can't be copied.
        """
        name = source.run.strategy
        other = _LifeInProgress(source, config, name, params)
        try:
            restore(other.engine, capture(self.engine), version_part(self.engine))
        except Unencodable as error:
            raise UsageError(f"the state of strategy {name} can't be copied: {error}") from None
        before = _LifeInProgress(source, self._config, name, source.run.params).engine
        adopt_settings(other.engine, before, _LifeInProgress(source, config, name, params).engine)
        other._record, other._sink.inner = deepcopy((self._record, self._sink.inner))
        return other

    @property
    def chain_head(self) -> str:
        """Head of the chain of its decisions, in hex."""
        return self._record.chain.head

    def finish(self) -> FoldedLife:
        """Close the last bar period and measure."""
        self.engine.finish()
        sink, record = self._sink.inner, self._record
        metrics = compute(
            sink.curve,
            sink.trades,
            category=self._config.market.category,
            interval=self._config.market.interval,
            benchmark=sink.benchmark,
        )
        counts = sorted((name, n) for name, n in self.engine.counts.items() if n)
        return FoldedLife(
            self.engine.portfolio.exact_equity(),
            metrics,
            record.decisions,
            record.times,
            record.values,
            [f"{name}: {n:,}" for name, n in counts],
        )
