"""Funding, liquidation, triggers, limits and time through `Engine.handle`, with amounts computed by hand."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from math import isnan
from typing import Any

import pytest
from msgspec.structs import replace

from agent.core.events import (
    DAY_MS,
    MINUTE_MS,
    Command,
    Fill,
    FillKind,
    Funding,
    FundingPayment,
    Gap,
    Kline,
    OrderStatus,
    OrderType,
    OrderUpdate,
    RiskEvent,
    RiskState,
)
from agent.core.strategy import Market, Strategy
from tests.support.market import SYMBOL, T0, bar, config, run


class Once(Strategy):
    """Sets one target on the first bar."""

    def __init__(self, weight: float, **more: Any) -> None:
        super().__init__()
        self._wanted: tuple[float, dict[str, Any]] | None = (weight, more)

    def on_kline(self, kline: Kline, market: Market) -> None:
        if self._wanted is not None:
            weight, more = self._wanted
            self.target(SYMBOL, weight=weight, **more)
            self._wanted = None


def entered(*prices: Sequence[float]) -> list[Kline]:
    """Two bars at 100, so that an order of the first fills at 100, then `prices` (open, high, low, close)."""
    return [
        bar(0, 100, 100, 100, 100),
        bar(1, 100, 100, 100, 100),
        *(bar(2 + n, *four) for n, four in enumerate(prices)),
    ]


@pytest.mark.parametrize(
    ("weight", "rate", "paid"),
    [
        # weight 0.5 of 10,000 at 100 is 50 coins, worth 5,000 at the stamp; 0.1 % of that is 5
        (0.5, 0.001, "-5"),
        (-0.5, 0.001, "5"),
        (0.5, -0.001, "5"),
        (-0.5, -0.001, "-5"),
    ],
    ids=["long pays", "short receives", "long receives", "short pays"],
)
def test_a_positive_funding_rate_is_paid_by_longs_to_shorts(weight: float, rate: float, paid: str) -> None:
    stamp = T0 + 2 * MINUTE_MS
    events = [*entered(), Funding(SYMBOL, stamp, stamp, rate)]
    engine, sink = run(Once(weight), events)
    (payment,) = [one for one in sink.decisions if isinstance(one, FundingPayment)]
    assert payment.amount == Decimal(paid)
    assert engine.portfolio.exact_equity() == Decimal(10_000) + Decimal(paid)


@pytest.mark.parametrize(
    ("weight", "beyond", "short_of", "price"),
    [
        # 400 coins at 100 against 10,000: equity 10,000 + 400 (p - 100) meets 0.5 % of 400 p at p = 30,000 /
        # 398 = 75.377
        (4.0, (100, 100, 75.0, 99), (100, 100, 75.5, 99), 75.37),
        # short: 10,000 + 400 (100 - p) meets 0.5 % of 400 p at p = 50,000 / 402 = 124.378
        (-4.0, (100, 124.5, 100, 101), (100, 124.3, 100, 101), 124.38),
    ],
    ids=["long", "short"],
)
def test_a_position_is_liquidated_at_the_worst_price_of_a_bar_that_recovers(
    weight: float, beyond: Sequence[float], short_of: Sequence[float], price: float
) -> None:
    settings = config(account={"leverage": 5, "initial_capital": 10_000}, paper={"liquidation_fee": 0})
    engine, _ = run(Once(weight), entered(short_of), settings)
    assert len(engine.portfolio.open) == 1
    engine, sink = run(Once(weight), entered(beyond), settings)
    assert not engine.portfolio.open
    (fill,) = [one for one in sink.decisions if isinstance(one, Fill) and one.kind is FillKind.LIQUIDATION]
    assert float(fill.price) == pytest.approx(price, abs=0.01)


@pytest.mark.parametrize(
    ("weight", "touched", "short_of", "kind"),
    [
        (0.5, (100, 100, 95.0, 99), (100, 100, 95.01, 99), OrderType.STOP),
        (0.5, (100, 110.0, 100, 101), (100, 109.99, 100, 101), OrderType.TAKE_PROFIT),
        (-0.5, (100, 105.0, 100, 101), (100, 104.99, 100, 101), OrderType.STOP),
        (-0.5, (100, 100, 90.0, 99), (100, 100, 90.01, 99), OrderType.TAKE_PROFIT),
    ],
    ids=["long stop", "long take-profit", "short stop", "short take-profit"],
)
def test_a_trigger_that_the_extreme_of_a_bar_just_touches_closes_the_position(
    weight: float, touched: Sequence[float], short_of: Sequence[float], kind: OrderType
) -> None:
    sign = 1 if weight > 0 else -1
    # Triggers are at 95 and 110 for a long position, at 105 and 90 for a short one
    wants = {"stop": -0.05 * sign, "take_profit": 0.10 * sign}
    engine, _ = run(Once(weight, **wants), entered(short_of))
    assert len(engine.portfolio.open) == 1
    engine, sink = run(Once(weight, **wants), entered(touched))
    assert not engine.portfolio.open
    assert [one.reason for one in sink.decisions if isinstance(one, Fill)][-1] == kind.value.lower().replace(
        "_", "-"
    )


def closes(*prices: float, first_minute: int = 2) -> list[Kline]:
    return [bar(first_minute + n, price, price, price, price) for n, price in enumerate(prices)]


def states(sink: Any) -> list[RiskState]:
    return [
        one.state for one in sink.decisions if isinstance(one, RiskEvent) and one.rule == "max_daily_loss"
    ]


LOSS = {"max_daily_loss": 0.05}


def test_the_daily_loss_counts_from_the_equity_at_the_start_of_the_day_not_from_its_high() -> None:
    # weight 1 of 10,000 at 100: equity is 100 times the price. 104 is 5.5 % below the high of 110, and 4 %
    # above the start
    engine, sink = run(Once(1.0), [*entered(), *closes(110, 104, 95.01)], config(risk=LOSS))
    assert states(sink) == []
    assert engine.risk.state is RiskState.ACTIVE
    # 9,500 is 5 % below 10,000
    engine, sink = run(Once(1.0), [*entered(), *closes(110, 104, 95)], config(risk=LOSS))
    assert states(sink) == [RiskState.REDUCING]


def test_the_daily_loss_restarts_at_midnight_utc() -> None:
    # T0 is midnight; the last bar of its day closes at 120, so that the second day's limit is 5 % below
    # 12,000: 11,400
    day = DAY_MS // MINUTE_MS
    before = [*entered(), *closes(*[120.0] * (day - 2))]
    _, sink = run(Once(1.0), [*before, *closes(130, 115, first_minute=day)], config(risk=LOSS))
    assert states(sink) == []
    _, sink = run(Once(1.0), [*before, *closes(130, 113.9, first_minute=day)], config(risk=LOSS))
    assert states(sink) == [RiskState.REDUCING]


def test_a_halt_cancels_resting_entries_at_once() -> None:
    resting = [bar(0, 100, 100, 100, 100), bar(1, 100, 100, 100, 100)]
    halt = Command("halt", T0 + 2 * MINUTE_MS, T0 + 2 * MINUTE_MS, {}, "test")
    # Before the next bar closes
    engine, sink = run(Once(0.5, limit=90.0), [*resting, halt], finish=False)
    (update,) = [one for one in sink.decisions if isinstance(one, OrderUpdate) and one.status.final]
    assert (update.status, update.reason) == (OrderStatus.CANCELLED, "halted")
    assert not engine.states[SYMBOL].book


@pytest.mark.parametrize("weight", [0.5, -0.5], ids=["long", "short"])
def test_exposure_is_the_absolute_value_of_the_position(weight: float) -> None:
    _, sink = run(Once(weight), [*entered(), *closes(110)])
    # 50 coins, long or short
    assert [sample.exposure for sample in sink.samples][-1] == pytest.approx(50 * 110)


class Steps(Strategy):
    """Sets one target per bar."""

    def __init__(self, *weights: float) -> None:
        super().__init__()
        self._weights = list(weights)

    def on_kline(self, kline: Kline, market: Market) -> None:
        if self._weights:
            self.target(SYMBOL, weight=self._weights.pop(0))


@pytest.mark.parametrize(
    ("second", "held"), [(0.8, "80"), (-0.8, "-80"), (1.2, "60")], ids=["more", "turned", "too much"]
)
def test_the_leverage_limit_applies_to_the_position_after_the_order(second: float, held: str) -> None:
    # 0.6 of 10,000 at 100 is 60 coins; 0.6 + 0.8 would be more than the limit of 1, but the new position
    # replaces the old one
    engine, _ = run(Steps(0.6, second), [*entered(), *closes(100, 100)], config(risk={"max_leverage": 1}))
    assert engine.portfolio.positions[SYMBOL].qty == Decimal(held)


class Counting(Strategy):
    """Records the closes and returns of its bars."""

    def __init__(self) -> None:
        super().__init__()
        self.closes: list[float] = []
        self.returns: list[float] = []

    def on_kline(self, kline: Kline, market: Market) -> None:
        self.closes.append(kline.close)
        self.returns.append(market.features(SYMBOL).return_1)


def test_the_time_of_the_core_does_not_run_backwards() -> None:
    pause = Command("pause", T0, T0, {}, "test")  # arrives after the second bar has closed
    engine, sink = run(Counting(), [*entered(), pause], finish=False)
    assert engine.market.now == T0 + 2 * MINUTE_MS
    assert [one.ts for one in sink.decisions if isinstance(one, RiskEvent)] == [T0 + 2 * MINUTE_MS]


def test_an_open_bar_moves_the_mark_and_reaches_no_strategy() -> None:
    strategy = Counting()
    running = replace(bar(2, 100, 103, 100, 103), confirm=False)
    engine, _ = run(strategy, [*entered(), running], finish=False)
    assert strategy.closes == [100, 100]
    assert engine.portfolio.positions[SYMBOL].mark == 103


def test_features_restart_after_missing_bars() -> None:
    strategy = Counting()
    gap = Gap(SYMBOL, MINUTE_MS, T0 + 2 * MINUTE_MS, T0 + 5 * MINUTE_MS, T0 + 5 * MINUTE_MS)
    run(strategy, [*entered(), gap, *closes(110, 121, first_minute=5)])
    first, second, after, later = strategy.returns
    assert isnan(first)
    assert second == 0.0
    assert isnan(after), "the return from a close before the gap is no return of one bar"
    assert later == pytest.approx(0.1)  # 121 / 110 - 1


def test_a_filled_stop_cancels_the_take_profit() -> None:
    both = (100, 111, 94, 100)  # the bar reaches 95 and 110: the worse one counts
    engine, sink = run(Once(0.5, stop=-0.05, take_profit=0.10), entered(both))
    assert [one.reason for one in sink.decisions if isinstance(one, Fill)][1:] == ["stop"]
    (taken_back,) = [
        one for one in sink.decisions if isinstance(one, OrderUpdate) and one.status is OrderStatus.CANCELLED
    ]
    assert taken_back.reason == "the other side was filled"
    assert not engine.portfolio.open


def test_all_updates_of_a_bar_share_its_volume() -> None:
    # a tenth of a bar's volume of 100 is 10 coins, however often the running bar is updated; 50 are wanted
    settings = config(paper={"liquidity": "participation", "max_participation": 0.1})
    running = [
        replace(bar(1, 100, 100, 100, 100, volume=100.0), confirm=False, ts=T0 + (61 + n) * 1000)
        for n in range(3)
    ]
    engine, _ = run(Once(0.5), [bar(0, 100, 100, 100, 100), *running], settings, finish=False)
    assert engine.portfolio.positions[SYMBOL].qty == 10
    engine, _ = run(
        Once(0.5), [bar(0, 100, 100, 100, 100), *running, bar(1, 100, 100, 100, 100, volume=100.0)], settings
    )
    assert engine.portfolio.positions[SYMBOL].qty == 10


OTHER = "ETHUSDT"


class Both(Strategy):
    """Sets one target in each of two symbols."""

    def __init__(self, **weights: float) -> None:
        super().__init__()
        self._weights = weights

    def on_kline(self, kline: Kline, market: Market) -> None:
        if kline.symbol in self._weights:
            self.target(kline.symbol, weight=self._weights.pop(kline.symbol))


def of_both(*minutes: Sequence[float]) -> list[Kline]:
    """Bars of both symbols; those of the second are all at 100."""
    rows = [(n, symbol, four) for n, four in enumerate(minutes) for symbol in (SYMBOL, OTHER)]
    flat = (100, 100, 100, 100)
    return [bar(n, *(four if symbol == SYMBOL else flat), symbol=symbol) for n, symbol, four in rows]


def test_other_positions_reduce_what_is_affordable() -> None:
    # without leverage, 80 coins at 100 leave 2,000 of 10,000 for the other symbol: 20 coins, though 80 were
    # wanted
    settings = config(market={"symbols": [SYMBOL, OTHER]}, account={"leverage": 1})
    flat = (100, 100, 100, 100)
    engine, _ = run(Both(BTCUSDT=0.8, ETHUSDT=0.8), of_both(flat, flat, flat), settings)
    assert sorted(float(position.qty) for position in engine.portfolio.positions.values()) == [20, 80]


@pytest.mark.parametrize(("low", "liquidated"), [(60.8, False), (60.5, True)])
def test_other_positions_margin_affects_the_liquidation_price(low: float, liquidated: bool) -> None:
    # 10,000 + 250 (p - 100) = 0.5 % of (250 p + 200 * 100) at p = 15,100 / 248.75 = 60.70; the other one
    # alone would be at 60.30
    settings = config(
        market={"symbols": [SYMBOL, OTHER]}, account={"leverage": 5}, paper={"liquidation_fee": 0}
    )
    flat = (100, 100, 100, 100)
    engine, _ = run(Both(BTCUSDT=2.5, ETHUSDT=2.0), of_both(flat, flat, (100, 100, low, 100)), settings)
    assert (not engine.portfolio.positions[SYMBOL].qty) is liquidated
