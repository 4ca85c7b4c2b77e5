"""A variant: an engine that shares its front with others, and the samples of its account."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from agent.core.bar_history import Bar
from agent.core.engine import Engine
from agent.core.events import (
    RiskState,
)
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


class LockstepVariant:
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

    def sync(self, now: int, marks: list[float], fronts: list[InstrumentState]) -> None:
        """Bring the variant up to date after events that did not concern it; lists are by symbol."""
        self.view.now = now
        for number, state in enumerate(self.states):
            state.position.mark = marks[number]
            state.next_start = fronts[number].next_start

    def check(self, ts: int, now: int) -> None:
        """Check the equity at the end of the bar period `ts`, at the time `now`."""
        portfolio, risk = self.portfolio, self.risk
        if not portfolio.open and self.checked == portfolio.version and ts < risk.next_day:
            return  # the same equity as at the last check
        equity = portfolio.cash_float
        for position in portfolio.open:
            equity += position.size * position.mark
        if equity > risk.ceiling or equity <= risk.floor or ts >= risk.next_day:
            self.view.now = now
            self.engine.check_equity(ts, equity)
        self.checked = portfolio.version

    def finish(self, ts: list[int], columns: list[list[float]], period: int, now: int) -> None:
        """Close the bar period `period`, as `Engine.finish` does, and sample the account a last time.

        `ts` and `columns` have the times and marks of the block so far; `period` is 0 before the first bar.
        Raises ReconciliationError.
        """
        self.ended = True
        for stamps in self.matching.held_funding.values():
            for funding in stamps:
                self.matching.on_funding(funding)
        self.matching.held_funding.clear()
        if period:
            self.check(period, now)
            self.note(len(ts))
            ts = [*ts, period]
            columns = [
                [*column, state.position.mark] for column, state in zip(columns, self.states, strict=True)
            ]
        self.sample(np.array(ts, np.int64), [np.array(column) for column in columns])
        self.portfolio.reconcile()

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
        return all(not state.book for state in self.states)

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
