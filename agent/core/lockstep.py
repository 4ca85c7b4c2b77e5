"""Many engines over one stream: what depends on the stream alone is computed once for all of them.

A front engine folds bars, features, headlines, signals and predictions. Each variant has its own strategy,
risk limits, exchange and portfolio, in an engine that reads the front's. Events are handled in the phases of
`Engine.handle`, each phase for all variants before the next one, so that every strategy sees what it would
see alone: an order that fills in a bar is reported before the bar has reached the features.

A variant sleeps for as long as it is flat, has no order, and its strategy wants no callback. The accounts are
sampled afterwards, a block at once: cash and sizes are noted when they change, and the same operations in the
same order as in `Engine` give the same equity.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import isfinite, nan
from typing import Any

import msgspec
import numpy as np

from agent.core.engine import EQUITY_BLOCK, Engine
from agent.core.events import DAY_MS, Event, Funding, Gap, Kline, News, Prediction, Sentiment, Signal
from agent.core.lockstep_variant import LockstepVariant
from agent.core.market import InstrumentState
from agent.core.settings import CoreConfig
from agent.core.strategy import Market


class Lockstep:
    """Handles events for variants that share the engine `front`, in their total order.

    `front` and the engines of the variants have the same `config`, except for parameters of the strategy.
    """

    def __init__(
        self,
        config: CoreConfig,
        front: Engine,
        variants: Sequence[LockstepVariant],
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
        self._variants: list[LockstepVariant] = []
        self._awake: list[LockstepVariant] = list(variants)
        self._failed = False
        self._listen(list(variants))
        for variant in variants:
            variant.note(0)

    def _listen(self, variants: list[LockstepVariant]) -> None:
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
                self._act(variant, kline if self._fills_at_close else None)
            if variant.portfolio.version != variant.noted:
                variant.note(row)
            if not variant.on_klines and variant.sleeps():
                variant.awake = False
                asleep = True
        if asleep:
            self._awake = [one for one in self._awake if one.awake]

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
            variant.check(ts, self._now)
        self._ts.append(ts)
        for column, mark in zip(self._columns, self._marks, strict=True):
            column.append(mark)
        if len(self._ts) < self._equity_block:
            return
        block = np.array(self._ts, np.int64)
        marks = [np.array(column) for column in self._columns]
        for variant in self._variants:
            variant.sample(block, marks)
        self._ts = []
        self._columns = [[] for _ in self._fronts]

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
        self._check_abstentions(now, signals.abstain_rate if signals.abstained else 0.0)
        for variant in self._on_sentiments:
            self._call(variant, variant.strategy.on_sentiment, sentiment, "")
        for signal in found:
            self._record(signal)
            for variant in self._on_signals:
                self._call(variant, variant.strategy.on_signal, signal, signal.symbol)
        if revises and now >= signals.next_expiry:
            self._expire_signals(now)
        for number in [self._index[symbol] for symbol in affected if symbol in self._index]:
            inputs = self._fronts[number].fusion_inputs
            if inputs is not None and inputs.on_headline(sentiment, self._now) and inputs.features.warm:
                self._predict(number, self._now)
        self._act_all()

    def _expire_signals(self, now: int) -> None:
        for signal in self._front.signals.pop_expired(now):
            self._record(signal)
            for variant in self._on_expired:
                self._call(variant, variant.strategy.on_signal_expired, signal, signal.symbol)

    def _check_abstentions(self, now: int, rate: float) -> None:
        """Inform the variants how often the model abstains, if that may matter to any."""
        too_often = rate > self._most_abstained
        if too_often or self._abstained:
            for variant in self._variants:
                if variant.ended:
                    continue
                before = variant.risk.state
                variant.risk.on_abstain_rate(now, rate)
                if variant.risk.state is not before:
                    variant.checked = -1  # another state: the limits apply to the same equity anew
                    self._sync(variant)
                    self._wake(variant)
        self._abstained = too_often

    def _predict(self, number: int, now: int) -> None:
        inputs = self._fronts[number].fusion_inputs
        prediction = None if inputs is None else inputs.predict(now)
        if prediction is None or not isfinite(
            prediction.down + prediction.flat + prediction.up + prediction.move
        ):
            return
        self._fronts[number].prediction = prediction
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

    def _on_open_bar(self, kline: Kline, number: int) -> None:
        self._pass_on(lambda one: one.engine.meet_open_bar(one.states[number], kline))

    def _on_other(self, event: Any) -> None:
        self._advance(event.available_at)
        self._pass_on(lambda one: one.engine.handle(event))

    def _pass_on(self, handle: Callable[[LockstepVariant], None]) -> None:
        """Call `handle` with each variant for an event that concerns its account alone."""
        for variant in self._variants:
            self._sync(variant)
            try:
                handle(variant)
            except Exception as error:
                if not self._ends(variant, error):
                    raise
                continue
            variant.note(len(self._ts))
            variant.checked = -1
            self._wake(variant)

    def _advance(self, now: int) -> None:
        if now > self._now:
            self._now = now

    def _sync(self, variant: LockstepVariant) -> None:
        variant.sync(self._now, self._marks, self._fronts)

    def _wake(self, variant: LockstepVariant) -> None:
        """Let a variant meet the bars from now on; it must be up to date."""
        if not variant.awake:
            variant.awake = True
            self._awake.append(variant)

    def _record(self, decision: Signal | Prediction) -> None:
        """Record a decision of all variants."""
        self._decisions += 1
        for variant in self._recording:
            if not variant.ended:
                variant.engine._decide(decision)

    def _call(
        self, variant: LockstepVariant, callback: Callable[[Any, Market], None], argument: Any, subject: str
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

    def _act(self, variant: LockstepVariant, kline: Kline | None = None) -> None:
        """Turn a variant's targets into orders, which meet the close of `kline`.

        Targets that the risk state is known to refuse are dropped: they lead to no decision.
        """
        try:
            if variant.refuses_all():
                variant.targets.clear()
            else:
                variant.engine._act()
            if kline is not None:
                variant.matching.at_close(kline)
        except Exception as error:
            if not self._ends(variant, error):
                raise

    def _ends(self, variant: LockstepVariant, error: Exception) -> bool:
        """End a variant if its strategy has raised the error; return whether it has."""
        if not variant.blames(error):
            return False
        self._failed = True
        self._end(variant)
        return True

    def _end(self, variant: LockstepVariant) -> None:
        variant.shared_decisions = self._decisions
        variant.finish(self._ts, self._columns, self._period, self._now)
