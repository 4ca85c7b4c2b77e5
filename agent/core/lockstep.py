"""Many engines over one stream: what depends on the stream alone is computed once for all of them.

A front engine folds bars, features, headlines, signals and predictions. Each variant has its own strategy,
risk limits, exchange and portfolio, in an engine that reads the front's. Events are handled in the phases of
`Engine.handle`, each phase for all variants before the next one, so that every strategy sees what it would
see alone: an order that fills in a bar is reported before the bar has reached the features.

A variant is left alone for as long as nothing concerns it: it is flat, has no order, and its strategy doesn't
override the callback. Its account is sampled afterwards: the cash and the sizes that it had are noted when
they change, and a block of samples is computed at once, by the same operations in the same order as in
`Engine`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import isfinite, nan
from typing import Any, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from agent.core.bar_history import Bar
from agent.core.engine import EQUITY_BLOCK, Engine
from agent.core.events import DAY_MS, Event, Funding, Gap, Kline, News, Prediction, RiskState, Sentiment, Signal
from agent.core.exchange import MatchingExchange
from agent.core.market import InstrumentState, MarketView
from agent.core.portfolio import Portfolio
from agent.core.risk import RiskManager
from agent.core.settings import CoreConfig
from agent.core.sinks import NullSink
from agent.core.strategy import Market, Strategy
from agent.core.target import Target

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class SampleSink(Protocol):
    """Receives the samples of a variant's account; arguments as `DecisionSink.equity`, as columns."""

    def samples(self, ts: Ints, equity: Floats, cash: Floats, exposure: Floats) -> None:
        """Receive a block of samples."""
        ...


Blames = Callable[[Exception], bool]
"""Returns whether an error is the strategy's own, which ends its variant and no other."""


class _Silent(Strategy):
    """The strategy of a front engine: it does nothing and declares the intervals of the variants."""


class _SilentOnBars(_Silent):
    def on_bar(self, bar: Bar, market: Market) -> None:
        """Nothing; with it the front engine collects the closed bars."""


def front_engine(config: CoreConfig, intervals: Sequence[str], predictor: Any, run_id: str) -> Engine:
    """Return an engine that computes what variants with these declared intervals share."""
    silent = _SilentOnBars() if intervals else _Silent()
    silent.intervals = tuple(intervals)
    return Engine(config, silent, NullSink(), run_id=run_id, predictor=predictor)


class Variant:
    """An engine that shares its front with others, and its samples.

    `records` states whether the sink wants the decisions that all variants share.
    """

    def __init__(self, engine: Engine, sink: SampleSink, blames: Blames, *, records: bool) -> None:
        strategy, exchange = engine.strategy, engine.exchange
        if not isinstance(exchange, MatchingExchange):
            raise TypeError("a variant needs an exchange that matches orders")
        self.engine = engine
        self.records = records
        self.ended = False
        self.shared_decisions = 0  # decisions of the front that were the variant's, too
        self.view: MarketView = engine.market
        self.risk: RiskManager = engine.risk
        self.portfolio: Portfolio = engine.portfolio
        self.matching: MatchingExchange = exchange
        self.states: list[InstrumentState] = list(engine.states.values())
        self.targets: list[Target] = strategy.targets
        self.on_klines = strategy.wants("on_kline")
        self.on_bars = strategy.overrides("on_bar")
        self.on_news = strategy.wants("on_news")
        self.on_sentiment = strategy.wants("on_sentiment")
        self.on_signals = strategy.wants("on_signal")
        self.on_expired = strategy.wants("on_signal_expired")
        self.on_predictions = strategy.wants("on_prediction")
        self.strategy = strategy
        self.on_kline: Callable[[Any, Any], None] = engine._call_on_kline
        self.on_bar_closed: Callable[[Any, Any], None] = engine._call_on_bars
        self.awake = True
        self.blames = blames
        self._sink = sink
        self.noted = -1  # version of the ledger whose cash was noted last
        self.checked = -1  # version of the ledger whose equity was checked last
        self._rows: list[int] = []  # samples of the block from which on `_cash` and `_sizes` hold
        self._cash: list[float] = []
        self._sizes: list[list[float]] = []

    def note(self, row: int) -> None:
        """Note the cash and the sizes if they have changed; they hold from sample `row` of the block on."""
        portfolio = self.portfolio
        if portfolio.version == self.noted:
            return
        self.noted = portfolio.version
        sizes = [state.position.size for state in self.states]
        if self._rows and self._rows[-1] == row:
            self._cash[-1] = portfolio.cash_float
            self._sizes[-1] = sizes
        else:
            self._rows.append(row)
            self._cash.append(portfolio.cash_float)
            self._sizes.append(sizes)

    def sleeps(self) -> bool:
        """Return whether nothing in the account depends on the next bar."""
        if self.portfolio.open or self.checked != self.portfolio.version:
            return False
        if self.targets or self.matching.held_funding or self.engine.flattener.pursuits:
            return False
        for state in self.states:
            if state.book:
                return False
        return True

    def refuses_all(self) -> bool:
        """Return whether each target would be refused, as the last one of its symbol was, by the same rule.

        Such targets lead to no decision.
        """
        if self.risk.state is RiskState.ACTIVE or self.risk.killed or self.engine.flattener.pursuits:
            return False
        for target in self.targets:
            state = self.engine.states.get(target.symbol)
            if state is None or state.book or state.position.size:
                return False
            if target.weight and not self.risk.refuses_again(target.symbol):
                return False
        return True

    def sample(self, ts: Ints, marks: list[Floats]) -> None:
        """Compute the samples of a block, which begins with the first of `ts`, and start the next one."""
        count = len(ts)
        if not count:
            return
        rows, cash, sizes = self._rows, self._cash, self._sizes
        if len(rows) == 1:
            lengths = None
            cash_column = np.full(count, cash[0])
        else:
            lengths = np.diff([*rows, count])
            cash_column = np.repeat(np.array(cash), lengths)
        equity, exposure = cash_column.copy(), np.zeros(count)
        for number, column in enumerate(marks):
            held = [size[number] for size in sizes]
            if not any(held):
                continue
            size_column = np.full(count, held[0]) if lengths is None else np.repeat(np.array(held), lengths)
            # Without a position the mark may be NaN
            value = np.where(size_column != 0.0, size_column * column, 0.0)
            equity += value
            exposure += np.abs(value)
        self._rows, self._cash, self._sizes = [0], cash[-1:], sizes[-1:]
        self._sink.samples(ts, equity, cash_column, exposure)


class Lockstep:
    """Handles events for variants that share the engine `front`, in their total order.

    `front` and the engines of the variants have the same `config`, except for parameters of the strategy.
    """

    def __init__(
        self,
        config: CoreConfig,
        front: Engine,
        variants: Sequence[Variant],
        *,
        equity_block: int = EQUITY_BLOCK,
    ) -> None:
        self._front = front
        self._fronts: list[InstrumentState] = list(front.states.values())
        self._index = {symbol: number for number, symbol in enumerate(front.states)}
        self._marks: list[float] = [nan] * len(self._fronts)
        self._now = 0
        self._period = 0  # available_at of the bars being handled
        self._next_day = 0
        self._margined = config.market.category == "linear"
        self._fills_at_close = config.paper.fill == "close"
        self._most_abstained = config.risk.max_abstain_rate
        self._abstained = False  # whether the model had abstained too often at the last headline
        self._decisions = 0  # that all variants share
        self._equity_block = equity_block
        self._ts: list[int] = []  # of the samples of the block so far
        self._columns: list[list[float]] = [[] for _ in self._fronts]  # marks, by symbol
        self._fields_of: Callable[[Kline], Any] = msgspec.structs.astuple
        self._kline = Kline
        self._variants: list[Variant] = []
        self._awake: list[Variant] = list(variants)
        self._failed = False
        self._listen(list(variants))
        for variant in variants:
            variant.note(0)

    def _listen(self, variants: list[Variant]) -> None:
        """Replace the variants, and note which of them receive what."""
        self._variants = variants
        self._recording = [one for one in variants if one.records]
        self._on_bars = [one for one in variants if one.on_bars and not one.on_klines]
        self._on_news = [one for one in variants if one.on_news]
        self._on_sentiments = [one for one in variants if one.on_sentiment]
        self._on_signals = [one for one in variants if one.on_signals]
        self._on_expired = [one for one in variants if one.on_expired]
        self._on_predictions = [one for one in variants if one.on_predictions]
        self._awake = [one for one in self._awake if not one.ended]

    # -- input --------------------------------------------------------------------------------------------

    def handle(self, event: Event) -> None:
        """Handle one event for all variants."""
        if type(event) is self._kline:
            self._on_kline(event)
        elif isinstance(event, Sentiment):
            self._on_sentiment(event)
        elif isinstance(event, Funding):
            self._on_funding(event)
        elif isinstance(event, News):
            self._on_headline(event)
        elif isinstance(event, Gap):
            self._front.handle(event)
            self._spread_prediction(event.symbol)
        else:
            self._on_other(event)
        if self._failed:
            self._failed = False
            self._listen([one for one in self._variants if not one.ended])

    def finish(self) -> None:
        """Close the last bar period. Raises ReconciliationError if a ledger does not add up."""
        for variant in self._variants:
            self._sync(variant)
            self._end(variant)
        self._listen([])

    def drop(self, variant: Variant) -> None:
        """End a variant early, as if the stream ended here."""
        if not variant.ended:
            self._sync(variant)
            self._end(variant)
            self._listen([one for one in self._variants if not one.ended])

    # -- bars ---------------------------------------------------------------------------------------------

    def _on_kline(self, kline: Kline) -> None:
        number = self._index.get(kline.symbol, -1)
        if number < 0:
            return
        front, shared = self._front, self._fronts[number]
        symbol, interval, start, closed, now, opened, high, low, close, volume, _, confirm = self._fields_of(
            kline
        )
        if start != shared.next_start or interval != shared.interval:
            fits = front._fits(shared, kline)
            self._spread_prediction(symbol)
            if not fits:
                return
        if now > self._period:
            if self._period:
                self._close_period()
            self._period = now
        if now > self._now:
            self._now = now
        if not confirm:
            self._marks[number] = close
            self._on_open_bar(kline, number)
            return
        shared.last_start = start
        shared.next_start = closed
        self._meet_bar(kline, number, now, closed, opened, high, low, close)
        self._marks[number] = close
        shared.tracker.advance(start, high, low, close, volume)
        history = shared.history
        if history is not None:
            history.add(start, closed, opened, high, low, close, volume)
        if now >= front.signals.next_expiry:
            self._expire_signals(now)
        inputs = shared.fusion_inputs
        if inputs is not None and inputs.on_bar(start, high, low, close, volume):
            self._predict(number, now)
        if history is not None and self._on_bars and history.closed:
            for variant in self._on_bars:
                self._call(variant, variant.on_bar_closed, kline, symbol)
        self._settle_bar(kline, symbol)

    def _meet_bar(
        self,
        kline: Kline,
        number: int,
        now: int,
        closed: int,
        opened: float,
        high: float,
        low: float,
        close: float,
    ) -> None:
        """Let the accounts meet a closed bar, which no feature has seen yet."""
        latest = self._now
        for variant in self._awake:
            variant.view.now = latest
            state = variant.states[number]
            state.next_start = closed
            try:
                variant.engine.meet_bar(state, kline, now, opened, high, low, close)
            except Exception as error:
                if not self._ends(variant, error):
                    raise

    def _settle_bar(self, kline: Kline, symbol: str) -> None:
        """Call the strategies that want every bar, and turn targets into orders."""
        row = len(self._ts)
        asleep = False
        for variant in self._awake:
            if variant.ended:
                continue
            if variant.on_klines:
                variant.view.subject = symbol
                try:
                    variant.on_kline(kline, variant.view)
                except Exception as error:
                    if not self._ends(variant, error):
                        raise
                    continue
            if variant.targets:
                self._act(variant)
                if self._fills_at_close:
                    self._fill_at_close(variant, kline)
            if variant.portfolio.version != variant.noted:
                variant.note(row)
            if not variant.on_klines and variant.sleeps():
                variant.awake = False
                asleep = True
        if asleep:
            self._awake = [one for one in self._awake if one.awake]

    def _on_open_bar(self, kline: Kline, number: int) -> None:
        """Handle the update of an open bar, which only orders see."""
        for variant in self._variants:
            self._sync(variant)
            try:
                variant.engine.meet_open_bar(variant.states[number], kline)
            except Exception as error:
                if not self._ends(variant, error):
                    raise
                continue
            self._touch(variant)

    def _close_period(self) -> None:
        """Check and sample the accounts once all bars of one moment are in."""
        ts = self._period
        if ts >= self._next_day:  # all variants have a new day
            self._next_day = ts - ts % DAY_MS + DAY_MS
            for variant in self._variants:
                if not variant.awake:
                    self._sync(variant)
                    self._wake(variant)
        for variant in self._awake:
            self._check(variant, ts)
        self._ts.append(ts)
        for column, mark in zip(self._columns, self._marks, strict=True):
            column.append(mark)
        if len(self._ts) >= self._equity_block:
            self._flush()

    def _check(self, variant: Variant, ts: int) -> None:
        portfolio, risk = variant.portfolio, variant.risk
        if not portfolio.open and variant.checked == portfolio.version and ts < risk.next_day:
            return  # the same equity as at the last check
        equity = portfolio.cash_float
        for position in portfolio.open:
            equity += position.size * position.mark
        if equity > risk.ceiling or equity <= risk.floor or ts >= risk.next_day:
            variant.view.now = self._now  # of an event that may not have concerned the variant
            variant.engine.check_equity(ts, equity)
        variant.checked = portfolio.version

    def _flush(self) -> None:
        ts = np.array(self._ts, np.int64)
        marks = [np.array(column) for column in self._columns]
        for variant in self._variants:
            variant.sample(ts, marks)
        self._ts = []
        self._columns = [[] for _ in self._fronts]

    # -- headlines ----------------------------------------------------------------------------------------

    def _on_headline(self, news: News) -> None:
        self._advance(news.available_at)
        self._front.signals.on_news(news)
        for variant in self._on_news:
            self._call(variant, variant.strategy.on_news, news, "")
        self._act_all()

    def _on_sentiment(self, sentiment: Sentiment) -> None:
        now = sentiment.available_at
        self._advance(now)
        front, signals = self._front, self._front.signals
        if now >= signals.next_expiry:
            self._expire_signals(now)
        affected = signals.affected_symbols(sentiment) if front._predicts else ()
        revises = signals.is_revision(sentiment)
        found = signals.on_sentiment(sentiment)
        if signals.abstained:
            self._check_abstentions(now, signals.abstain_rate)
        for variant in self._on_sentiments:
            self._call(variant, variant.strategy.on_sentiment, sentiment, "")
        for signal in found:
            self._record(signal)
            for variant in self._on_signals:
                self._call(variant, variant.strategy.on_signal, signal, signal.symbol)
        if revises and now >= signals.next_expiry:
            self._expire_signals(now)
        for symbol in affected:
            self._ask_fusion_model(symbol, sentiment)
        self._act_all()

    def _expire_signals(self, now: int) -> None:
        for signal in self._front.signals.pop_expired(now):
            self._record(signal)
            for variant in self._on_expired:
                self._call(variant, variant.strategy.on_signal_expired, signal, signal.symbol)

    def _check_abstentions(self, now: int, rate: float) -> None:
        """Tell the variants how often the model abstains, if that may matter to any."""
        too_often = rate > self._most_abstained
        if too_often or self._abstained:
            for variant in self._variants:
                before = variant.risk.state
                variant.risk.on_abstain_rate(now, rate)
                if variant.risk.state is not before:
                    variant.checked = -1  # another state: the limits apply to the same equity anew
                    self._sync(variant)
                    self._wake(variant)
        self._abstained = too_often

    def _ask_fusion_model(self, symbol: str, sentiment: Sentiment) -> None:
        number = self._index.get(symbol, -1)
        inputs = None if number < 0 else self._fronts[number].fusion_inputs
        if inputs is not None and inputs.on_headline(sentiment, self._now) and inputs.features.warm:
            self._predict(number, self._now)

    def _predict(self, number: int, now: int) -> None:
        shared = self._fronts[number]
        inputs = shared.fusion_inputs
        if inputs is None:
            return
        prediction = inputs.predict(now)
        if not isfinite(prediction.down + prediction.flat + prediction.up + prediction.move):
            return
        shared.prediction = prediction
        self._spread_prediction(prediction.symbol)
        self._record(prediction)
        for variant in self._on_predictions:
            self._call(variant, variant.strategy.on_prediction, prediction, prediction.symbol)

    def _spread_prediction(self, symbol: str) -> None:
        """Pass on the last prediction, or that a gap has ended it."""
        number = self._index.get(symbol, -1)
        if self._front._predicts and number >= 0:
            prediction = self._fronts[number].prediction
            for variant in self._variants:
                variant.states[number].prediction = prediction

    # -- other events -------------------------------------------------------------------------------------

    def _on_funding(self, funding: Funding) -> None:
        number = self._index.get(funding.symbol, -1)
        if not self._margined or number < 0:
            return
        if funding.available_at == funding.ts and self._fronts[number].contains(funding.ts):
            for variant in self._variants:  # the next bar shows what each of them held at the stamp
                variant.matching.held_funding.setdefault(funding.symbol, []).append(funding)
                self._sync(variant)
                self._wake(variant)
            return
        self._advance(funding.available_at)
        row = len(self._ts)
        for variant in self._awake:
            if variant.states[number].position.size:
                self._sync(variant)
                variant.matching.on_funding(funding)
                variant.note(row)

    def _on_other(self, event: Any) -> None:
        """Pass an event to all engines that concerns accounts only."""
        self._advance(event.available_at)
        for variant in self._variants:
            self._sync(variant)
            try:
                variant.engine.handle(event)
            except Exception as error:
                if not self._ends(variant, error):
                    raise
                continue
            self._touch(variant)

    # -- variants -----------------------------------------------------------------------------------------

    def _advance(self, now: int) -> None:
        if now > self._now:
            self._now = now

    def _sync(self, variant: Variant) -> None:
        """Bring a variant up to date after events that did not concern it."""
        variant.view.now = self._now
        fronts, marks = self._fronts, self._marks
        for number, state in enumerate(variant.states):
            state.position.mark = marks[number]
            state.next_start = fronts[number].next_start

    def _wake(self, variant: Variant) -> None:
        """Let a variant meet the bars from now on; it must be up to date."""
        if not variant.awake:
            variant.awake = True
            self._awake.append(variant)

    def _touch(self, variant: Variant) -> None:
        """Note what may have changed in a variant's account, and check its equity again."""
        variant.note(len(self._ts))
        variant.checked = -1
        self._wake(variant)

    def _record(self, decision: Signal | Prediction) -> None:
        """Record a decision of all variants."""
        self._decisions += 1
        for variant in self._recording:
            if not variant.ended:
                variant.engine._decide(decision)

    def _call(
        self, variant: Variant, callback: Callable[[Any, Market], None], argument: Any, subject: str
    ) -> None:
        """Call a strategy."""
        if variant.ended:
            return
        self._sync(variant)
        variant.view.subject = subject
        try:
            callback(argument, variant.view)
        except Exception as error:
            if not self._ends(variant, error):
                raise
            return
        if variant.targets:
            self._wake(variant)

    def _act_all(self) -> None:
        """Turn all targets into orders, also those that are left from a fill at a bar's own close."""
        for variant in self._awake:
            if variant.targets and not variant.ended:
                self._sync(variant)
                self._act(variant)

    def _act(self, variant: Variant) -> None:
        """Turn a variant's targets into orders, except for those that a halt is known to refuse."""
        if variant.refuses_all():
            variant.targets.clear()
            return
        try:
            variant.engine._act()
        except Exception as error:
            if not self._ends(variant, error):
                raise

    def _fill_at_close(self, variant: Variant, kline: Kline) -> None:
        if not variant.ended:
            try:
                variant.matching.at_close(kline)
            except Exception as error:
                if not self._ends(variant, error):
                    raise

    def _ends(self, variant: Variant, error: Exception) -> bool:
        """End a variant if its strategy has raised the error; return whether it has."""
        if not variant.blames(error):
            return False
        self._failed = True
        self._end(variant)
        return True

    def _end(self, variant: Variant) -> None:
        """Close the bar period of a variant, as `Engine.finish` does, and sample it a last time."""
        variant.ended = True
        variant.shared_decisions = self._decisions
        matching = variant.matching
        for stamps in matching.held_funding.values():
            for funding in stamps:
                matching.on_funding(funding)
        matching.held_funding.clear()
        ts, columns = self._ts, self._columns
        if self._period:
            self._check(variant, self._period)
            variant.note(len(ts))
            ts = [*ts, self._period]
            columns = [[*column, 0.0] for column in columns]
            for column, state in zip(columns, variant.states, strict=True):
                column[-1] = state.position.mark
        variant.sample(np.array(ts, np.int64), [np.array(column) for column in columns])
        variant.portfolio.reconcile()
