"""A recorded run under a change: from one of its events two lives of the engine go on, one as it was and one
with the change.

The changed life takes the state of the other at that event, as a restart does, and its own settings; another
strategy or sleeve comes by the command that an operator would have given. Without a change both lives are the
recorded run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from decimal import Decimal
from itertools import zip_longest
from typing import Any, Final, NamedTuple

import msgspec

from agent.analysis.run_metrics import Metrics, compute
from agent.config import Config
from agent.core.errors import UsageError, did_you_mean
from agent.core.events import (
    AssetSentiment,
    Decision,
    Event,
    Kline,
    News,
    Sentiment,
)
from agent.core.settings import SleeveConfig
from agent.core.sinks import NullSink
from agent.core.sleeve import SleeveTotals
from agent.core.sleeves import SleevedEngine
from agent.core.strategy import Strategy
from agent.core.trading_engine import TradingEngine
from agent.replay.backtest import BacktestSink, Progress
from agent.replay.changed_settings import changed_config
from agent.replay.engine_state import capture, restore, version_part, with_sleeve_settings
from agent.replay.midway_change import MidwayChange
from agent.replay.object_codec import Unencodable
from agent.replay.open_engine import blaming_any
from agent.replay.recorded_inputs import RecordedInputs
from agent.replay.settings_adoption import adopt_settings
from agent.store.chain import DecisionChain
from agent.store.runs import Run, RunStatus

_TICK: Final = 16_384


class Change(NamedTuple):
    """What differs in the changed life. The default changes nothing."""

    settings: Mapping[str, Any] = {}  # dotted keys of the configuration -> texts or values
    strategy: str = ""  # another strategy
    params: Mapping[str, Any] = {}  # parameters of the strategy
    removed: frozenset[str] = frozenset()  # ids of headlines that are neither read nor scored
    flipped: frozenset[str] = frozenset()  # ids of headlines whose bearish and bullish are exchanged
    sleeve: str = ""  # whose strategy or parameters change


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
    """One of the two lives. Of equity it has the first sample of each hour; `sleeves` are results by name."""

    final_equity: Decimal
    metrics: Metrics
    decisions: list[MadeDecision]
    times: list[int]  # UTC ms
    equity: list[float]
    notes: list[str]
    sleeves: dict[str, SleeveTotals] = {}


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


def fold_on(
    source: RecordedInputs, change: Change, *, begins: int = 1, progress: Progress | None = None
) -> WhatIf:
    """Fold both lives of a run; the change holds from event number `begins` on.

    From the first event on it is a run that begins with the change. From a later one on, another strategy or
    other parameters, and a sleeve that is added or removed, come as in a running agent. Raises ConfigError
    for a setting or parameter that doesn't exist or isn't valid, UsageError for an event or a sleeve that the
    run doesn't have, for a change that isn't possible at that event, and for a strategy whose state can't be
    copied.
    """
    run, events = source.run, source.events
    if not 0 < begins <= len(events):
        raise UsageError(f"run {run.id} has events 1 to {len(events):,}, not {begins:,}")
    _check_sleeve(source, change)
    config = changed_config(source.config, change.settings, midway=begins > 1)
    as_it_was = _LifeInProgress(source, source.config)
    changed: _LifeInProgress | None = None
    if begins == 1:
        changed = _begin_changed(source, config, change)
    tick = _TICK
    for number, event in enumerate(events, 1):
        if number == begins and changed is None:
            changed = as_it_was.branch(source, config, change, number)
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


def _check_sleeve(source: RecordedInputs, change: Change) -> None:
    """Raise UsageError unless the change states whose strategy it changes."""
    run, names = source.run, [one.name for one in source.config.sleeves]
    if not names and change.sleeve:
        raise UsageError(f"run {run.id} has one strategy, and no sleeves", hint="leave out --sleeve")
    if names and (change.strategy or change.params) and not change.sleeve:
        raise UsageError(
            f"run {run.id} has several strategies: name the sleeve whose strategy is changed",
            hint=f"--sleeve with one of {', '.join(names)}",
        )
    if change.sleeve and not (change.strategy or change.params):
        raise UsageError(
            f"--sleeve {change.sleeve} alone changes nothing",
            hint=f"add --strategy or --set, or write --change sleeves.{change.sleeve}.share=0.3",
        )


def _begin_changed(source: RecordedInputs, config: Config, change: Change) -> _LifeInProgress:
    """Return a life that begins with the change."""
    run = source.run
    if not config.sleeves:
        params = {**({} if change.strategy else run.params), **change.params}
        return _LifeInProgress(source, config, source.strategy(change.strategy or run.strategy, params))
    params = dict(run.params)
    if change.sleeve:
        one = _configured(config, change.sleeve)
        own = {} if change.strategy else params.get(one.name, one.strategy.params)
        params[one.name] = {**own, **change.params}
        if change.strategy:
            source.versions.allow(change.strategy)
            other = one.strategy.model_copy(update={"name": change.strategy})
            sleeves = [
                sleeve.model_copy(update={"strategy": other}) if sleeve is one else sleeve
                for sleeve in config.sleeves
            ]
            config = config.model_copy(update={"sleeves": tuple(sleeves)})
    return _LifeInProgress(source, config, params=params)


def _configured(config: Config, name: str) -> SleeveConfig:
    """Return the settings of a sleeve. Raises UsageError if the run doesn't begin with it."""
    names = [one.name for one in config.sleeves if one.enabled]
    if name not in names:
        known = f"it begins with {', '.join(names)}; one that was added later is there --from its event on"
        raise UsageError(
            f"the run doesn't begin with a sleeve {name!r}", hint=did_you_mean(name, names, known)
        )
    return next(one for one in config.sleeves if one.name == name)


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
        self,
        source: RecordedInputs,
        config: Config,
        strategy: Strategy | None = None,
        params: Mapping[str, Any] | None = None,
    ) -> None:
        self._config = config
        self._record = _LifeRecord()
        self._after = source.measured_after
        self._sink = _ForwardingSink(BacktestSink(self._record, config, after=self._after))
        self.engine = source.open_engine(self._sink, strategy, config, params)
        self._handle: Callable[[Event], None] = self.engine.handle

    def handle(self, number: int, event: Event) -> None:
        """Handle event `number`. Raises StrategyError if the strategy's own code fails."""
        self._record.event_seq = number
        if event.__class__ is Kline and event.ts > self._after:
            self._sink.inner.benchmark.add(event.symbol, event.ts, event.close)
        with blaming_any(self.engine):
            self._handle(event)

    def branch(self, source: RecordedInputs, config: Config, change: Change, number: int) -> _LifeInProgress:
        """Return a second life that goes on with a change before event `number`.

        Raises UsageError if the state of a strategy can't be copied, or if the change isn't possible now.
        """
        other = _LifeInProgress(source, config)
        before, after = (source.open_engine(NullSink(), config=one) for one in (self._config, config))
        settings = {
            one.name: one.model_dump(mode="json", include={"risk"})
            for one in config.sleeves
            if any(key.startswith(f"sleeves.{one.name}.risk") for key in change.settings)
        }
        try:
            state, version = capture(self.engine), version_part(self.engine)
            if isinstance(self.engine, SleevedEngine):
                _adopt_sleeves(before, self.engine, {})
                _adopt_sleeves(after, self.engine, settings)
                state = with_sleeve_settings(state, settings)
            restore(other.engine, state, version)
        except Unencodable as error:
            name = source.run.strategy
            raise UsageError(f"the state of strategy {name} can't be copied: {error}") from None
        adopt_settings(other.engine, before, after)
        other._record, other._sink.inner = deepcopy((self._record, self._sink.inner))
        other._record.event_seq = number
        midway = MidwayChange(
            other.engine,
            config,
            source.run,
            source.versions,
            source.events[: number - 1],
            source.events[number - 1].available_at,
        )
        with blaming_any(other.engine):
            for one in config.sleeves:
                if f"sleeves.{one.name}.enabled" in change.settings:
                    if one.enabled:
                        midway.enable(one)
                    else:
                        midway.disable(one.name)
            if change.strategy or change.params:
                midway.use_strategy(change.strategy, change.params, change.sleeve)
        return other

    @property
    def chain_head(self) -> str:
        """Head of the chain of its decisions, in hex."""
        return self._record.chain.head

    def finish(self) -> FoldedLife:
        """Close the last bar period and measure."""
        engine = self.engine
        engine.finish()
        sink, record = self._sink.inner, self._record
        sink.close()
        metrics = compute(
            sink.curve,
            sink.trades,
            category=self._config.market.category,
            interval=self._config.market.interval,
            benchmark=sink.benchmark,
        )
        counts = sorted((name, n) for name, n in engine.counts.items() if n)
        return FoldedLife(
            engine.portfolio.exact_equity(),
            metrics,
            record.decisions,
            record.times,
            record.values,
            [f"{name}: {n:,}" for name, n in counts],
            engine.results if isinstance(engine, SleevedEngine) else {},
        )


def _adopt_sleeves(
    fresh: TradingEngine, engine: SleevedEngine, settings: Mapping[str, Mapping[str, Any]]
) -> None:
    """Give a fresh engine the sleeves of `engine`, those in `settings` with other settings."""
    definitions = engine.roster.definitions()
    for item in definitions:
        item["settings"] |= settings.get(item["settings"]["name"], {})
    if isinstance(fresh, SleevedEngine):
        fresh.roster.adopt(definitions)
        fresh.roster.unassigned.transfer(engine.roster.idle - fresh.roster.idle)
