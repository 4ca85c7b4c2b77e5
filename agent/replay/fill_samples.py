"""The fills of recorded venue runs, beside the market at their time."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable
from decimal import Decimal
from typing import Final

from agent.analysis.cost_fit import FillSamples, TakerSample
from agent.config import Config
from agent.core.errors import UsageError
from agent.core.events import Fill, FillKind, Kline, Order, OrderStatus, OrderType, OrderUpdate
from agent.core.instruments import instrument_for
from agent.replay.twin_events import recorded_events, run_config
from agent.store.database import Database
from agent.store.runs import Run

FRESH: Final = 5_000
"""Milliseconds after which a streamed price is too old to measure a fill against it."""

STALE_PRICE: Final = "filled without a fresh price"
NO_BAR: Final = "in bars that the run lacks"


def fill_samples(database: Database, runs: Iterable[Run]) -> FillSamples:
    """Measure the fills of venue runs.

    Raises UsageError for a run on paper, or if the runs traded in different categories.
    """
    samples = FillSamples()
    categories: set[str] = set()
    for run in runs:
        config = run_config(run)
        categories.add(config.market.category)
        if len(categories) > 1:
            raise UsageError(
                f"the runs traded in different categories: {', '.join(sorted(categories))}",
                hint="fit the costs of each category on its own",
            )
        _Measured(config).add_to(samples, database, run)
    return samples


class _Measured:
    """The market and the orders of one run."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._prices: dict[str, list[tuple[int, float]]] = defaultdict(list)
        self._bars: dict[tuple[str, int], Kline] = {}  # closed, by symbol and start
        self._orders: dict[str, Order] = {}
        self._arrived: dict[str, int] = {}
        self._fills: dict[str, list[Fill]] = defaultdict(list)

    def add_to(self, samples: FillSamples, database: Database, run: Run) -> None:
        """Fold the run and add its fills."""
        for _, event, decisions in recorded_events(database, run, self._config):
            if isinstance(event, Kline) and event.interval == self._config.market.interval:
                self._prices[event.symbol].append((event.ts, event.close))
                if event.confirm:
                    self._bars.setdefault((event.symbol, event.start), event)
            elif isinstance(event, OrderUpdate) and event.status is not OrderStatus.REJECTED:
                self._arrived.setdefault(event.order_id, event.ts)
            for decision in decisions:
                if isinstance(decision, Order):
                    self._orders[decision.id] = decision
                elif isinstance(decision, Fill) and decision.kind is FillKind.TRADE:
                    self._fills[decision.order_id].append(decision)
        for prices in self._prices.values():
            prices.sort(key=lambda price: price[0])
        for order in self._orders.values():
            if self._fills[order.id]:
                self._add(samples, order, self._fills[order.id])

    def _add(self, samples: FillSamples, order: Order, fills: list[Fill]) -> None:
        fills.sort(key=lambda fill: fill.ts)
        for fill in fills:
            rates = samples.maker_fees if fill.maker else samples.taker_fees
            rates.append((fill.ts, float(fill.fee), float(fill.qty * fill.price)))
        if order.type is OrderType.LIMIT:
            made = sum((fill.qty * fill.price for fill in fills if fill.maker), Decimal(0))
            value = sum((fill.qty * fill.price for fill in fills), Decimal(0))
            samples.limits.append((order.ts, float(made), float(value)))
        if order.type is not OrderType.MARKET:
            return
        first = fills[0].ts
        samples.latencies.append((order.ts, min(self._arrived.get(order.id, first), first) - order.ts))
        self._add_taker(samples, order, [fill for fill in fills if fill.ts == first])

    def _add_taker(self, samples: FillSamples, order: Order, moment: list[Fill]) -> None:
        prices = self._prices[order.symbol]
        at = bisect_right(prices, (moment[0].ts, float("inf"))) - 1
        ts = moment[0].ts
        if at < 0 or ts - prices[at][0] > FRESH:
            samples.leave_out(STALE_PRICE)
            return
        interval = self._config.market.interval
        bar = self._bars.get((order.symbol, ts // interval * interval))
        if bar is None or not bar.volume > 0:
            samples.leave_out(NO_BAR)
            return
        market = prices[at][1]
        qty = sum((fill.qty for fill in moment), Decimal(0))
        average = float(sum((fill.qty * fill.price for fill in moment), Decimal(0)) / qty)
        tick = float(instrument_for(order.symbol, self._config).tick_size)
        samples.takers.append(
            TakerSample(
                ts,
                (average - market) * order.side.sign / market,
                tick / market / 2,
                (bar.high - bar.low) / market,
                min(float(qty) / bar.volume, 1.0),
            )
        )
