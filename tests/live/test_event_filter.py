"""The event filter drops open-bar states without changing any order, fill or risk limit."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator, Sequence
from decimal import Decimal
from itertools import groupby
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.config import Config
from agent.core.engine import Engine
from agent.core.events import (
    MINUTE_MS,
    Decision,
    Event,
    Fill,
    Kline,
    Order,
    OrderUpdate,
    RiskEvent,
    RiskState,
    Sentiment,
    Side,
)
from agent.core.sinks import ListSink
from agent.core.strategy import Market, Strategy, StrategyParams
from agent.live.event_filter import EventFilter, OpenBarSampler
from agent.live.resume import ResumePoint
from tests.support.market import SYMBOL, T0, config, flat_bars

SYMBOLS = (SYMBOL, "ETHUSDT")


def seconds(
    dice: random.Random, minutes: int, symbols: Sequence[str] = SYMBOLS, step: float = 0.0004
) -> Iterator[Kline]:
    """Yield one open-bar state of each symbol per second, then the close."""
    prices = dict.fromkeys(symbols, 100.0)
    for minute in range(minutes):
        start = T0 + minute * MINUTE_MS
        bars = {symbol: (price, price, price) for symbol, price in prices.items()}  # open, high, low
        for second in range(1, 61):
            for number, symbol in enumerate(symbols):
                at = start + second * 1000 - (500 - 300 * number if second < 60 else 0)
                price = prices[symbol] = round(prices[symbol] * (1 + dice.gauss(0, step)), 2)
                opened, high, low = bars[symbol]
                high, low = max(high, price), min(low, price)
                bars[symbol] = (opened, high, low)
                yield Kline(
                    symbol,
                    MINUTE_MS,
                    start,
                    at,
                    at,
                    opened,
                    high,
                    low,
                    price,
                    10.0 * second,
                    confirm=second == 60,
                )


class Wild(Strategy):
    """Every few bars a new target, market or limit, with stop and take-profit; a small one on a score."""

    class Params(StrategyParams):
        seed: int = 0

    def on_start(self, market: Market) -> None:
        self.dice = random.Random(self.params.seed)

    def on_kline(self, kline: Kline, market: Market) -> None:
        if self.dice.random() < 0.4:
            weight = self.dice.choice((0.3, -0.3, 0.0, 0.15))
            limit = kline.close * (1 - 0.001 * weight / 0.3) if weight and self.dice.random() < 0.5 else None
            stop = self.dice.choice((0.001, 0.03)) * (-1 if weight > 0 else 1)
            self.target(kline.symbol, weight=weight, limit=limit, stop=stop, take_profit=-2 * stop)

    def on_sentiment(self, sentiment: Sentiment, market: Market) -> None:
        self.target(SYMBOL, weight=0.1, stop=-0.002)


class Trailing(Wild):
    """Like `Wild`, with trailing stops, take-profit levels, stop entries and entries that expire."""

    def on_kline(self, kline: Kline, market: Market) -> None:
        if self.dice.random() < 0.3:
            side = self.dice.choice((1, -1))
            entry: dict[str, Any] = self.dice.choice(
                (
                    {},
                    {"limit": kline.close * (1 - side * 0.001), "expire": "70s"},
                    {"stop_entry": kline.close * (1 + side * 0.0005), "expire": "3m"},
                )
            )
            levels = [(side * 0.001, 0.3), (side * 0.002, 0.4)] if self.dice.random() < 0.5 else None
            trail = -side * self.dice.choice((0.0008, 0.002))
            self.target(kline.symbol, weight=side * 0.3, trail=trail, take_profit=levels, **entry)


class Holder(Strategy):
    """Long in both symbols, without a stop."""

    def on_kline(self, kline: Kline, market: Market) -> None:
        self.target(kline.symbol, weight=0.6)


SCARCE = {
    "liquidity": "participation",
    "max_participation": 0.02,
    "slippage": "square_root",
    "limit_fill": "touch",
}


def a_config(paper: dict[str, Any] | None = None, risk: dict[str, Any] | None = None) -> Config:
    return config(market={"symbols": list(SYMBOLS)}, risk=risk or {}, paper={"latency": 250} | (paper or {}))


class Timed(ListSink):
    """Records the event at which each decision was made."""

    def __init__(self) -> None:
        super().__init__()
        self.handled_at: list[int] = []


def live(
    settings: Config, events: Sequence[Event], every: int, seed: int = 0, strategy: Strategy | None = None
) -> tuple[list[Event], list[Decision], list[int]]:
    """Return journalled events, decisions and their times; each event is handled before the next arrives."""
    sink = Timed()
    engine = Engine(
        settings,
        strategy or Wild(Wild.Params(seed=seed)),
        sink,
        run_id="run",
        exchange=settings.execution.exchange(),
        equity_block=1,
    )
    sampler = OpenBarSampler(engine, every)
    journal: list[Event] = []
    for event in events:
        passed = sampler.on_bar(event) if isinstance(event, Kline) else (*sampler.release(), event)
        for one in passed:
            journal.append(one)
            before = len(sink.decisions)
            engine.handle(one)
            sink.handled_at += [event.available_at] * (len(sink.decisions) - before)
    assert len(journal) + sampler.left_out + len(sampler._held) == len(events)
    return journal, sink.decisions, sink.handled_at


def with_scores(dice: random.Random, bars: Iterator[Kline]) -> list[Event]:
    events: list[Event] = []
    for bar in bars:
        events.append(bar)
        if dice.random() < 0.002:
            events.append(Sentiment(f"n{len(events)}", bar.ts, bar.ts, 0.1, 0.1, 0.8))
    return events


@pytest.mark.slow
@given(seed=st.integers(0, 10_000), scarce=st.booleans())
@settings(max_examples=20, deadline=None)
def test_orders_and_fills_equal_those_of_all_states(seed: int, scarce: bool) -> None:
    dice = random.Random(seed)
    events = with_scores(dice, seconds(dice, 20))
    paper = SCARCE if scarce else {}
    everything, decided, _ = live(a_config(paper), events, 0, seed)
    sampled, again, _ = live(a_config(paper), events, 15_000, seed)
    assert everything == events
    assert scarce or len(sampled) < len(events) / 3  # an order that waits for volume receives all states
    assert again == decided
    closed = [one for one in events if not isinstance(one, Kline) or one.confirm]
    assert [one for one in sampled if not isinstance(one, Kline) or one.confirm] == closed


@given(seed=st.integers(0, 10_000))
@settings(max_examples=20, deadline=None)
def test_trailing_stops_levels_and_expiries_equal_those_of_all_states(seed: int) -> None:
    dice = random.Random(seed)
    events = with_scores(dice, seconds(dice, 20))
    _, decided, _ = live(a_config(), events, 0, strategy=Trailing(Wild.Params(seed=seed)))
    sampled, again, _ = live(a_config(), events, 15_000, strategy=Trailing(Wild.Params(seed=seed)))
    assert again == decided
    assert len(sampled) < len(events)


def test_stops_limits_and_take_profits_trigger_between_two_samples() -> None:
    reasons: set[str] = set()
    for seed in range(10):
        dice = random.Random(seed)
        _, decided, _ = live(a_config(), with_scores(dice, seconds(dice, 20)), 15_000, seed)
        reasons |= {one.reason for one in decided if isinstance(one, Fill) and one.ts % MINUTE_MS % 15_000}
        assert [type(one) for one in decided if isinstance(one, Order | Fill | OrderUpdate)]
    assert {"stop", "take-profit"} <= reasons


@pytest.mark.parametrize("limit", ["max_daily_loss", "max_drawdown"])
def test_a_risk_limit_triggers_at_the_same_second(limit: str) -> None:
    bitten = 0
    for seed in range(12):
        dice = random.Random(seed)
        events = list(seconds(dice, 40, step=0.002))
        moves = []
        for every in (0, 3_600_000):  # the sample alone contains almost no open-bar states
            _, decided, when = live(a_config(risk={limit: 0.01}), events, every, strategy=Holder())
            halts = (
                (one.ts, at)
                for one, at in zip(decided, when, strict=True)
                if isinstance(one, RiskEvent) and one.state is not RiskState.ACTIVE
            )
            moves.append(next(halts, None))
        (everything, sampled) = moves
        if limit == "max_daily_loss":  # from the day's first risk check, which both have
            assert (everything is None) is (sampled is None)
            if everything and sampled:
                assert sampled[0] == everything[0]
                assert sampled[1] <= everything[1] + 1_000  # at the next state, not at the next sample
        elif everything and sampled:  # from the peak, of which the sample contains only the closes
            assert sampled >= everything
        bitten += sampled is not None
    assert bitten > 3


def test_the_sample_has_one_state_of_each_symbol_per_interval() -> None:
    events = list(seconds(random.Random(1), 10))
    engine = Engine(a_config(), Strategy(), ListSink(), run_id="run")
    sampler = OpenBarSampler(engine, 15_000)
    passed = [one for event in events for one in sampler.on_bar(event)]
    for _, states in groupby((one for one in passed if one.symbol == SYMBOL), key=lambda one: one.start):
        times = [one.ts % MINUTE_MS for one in states]
        assert len(times) in (4, 5)
    assert sampler.left_out > 1000


def test_an_interval_of_zero_passes_all_states() -> None:
    events = list(seconds(random.Random(1), 2))
    engine = Engine(a_config(), Strategy(), ListSink(), run_id="run")
    sampler = OpenBarSampler(engine, 0)
    assert [one for event in events for one in sampler.on_bar(event)] == events


# -- orders at a venue --------------------------------------------------------------------------------------


def state(second: float, price: float, symbol: str = SYMBOL) -> Kline:
    """A state of the second bar."""
    start = T0 + MINUTE_MS
    at = start + round(second * 1000)
    return Kline(symbol, MINUTE_MS, start, at, at, 100.0, 110.0, 90.0, price, 10.0, confirm=False)


class OnceAtAVenue(Strategy):
    """One order at the close of the first bar."""

    def __init__(self, **target: Any) -> None:
        super().__init__()
        self.wanted = target

    def on_kline(self, kline: Kline, market: Market) -> None:
        if kline.confirm and kline.start == T0:
            self.target(kline.symbol, **self.wanted)


def sampled_at_venue(states: Sequence[Kline], **target: Any) -> list[int]:
    """Return the seconds of the states that are journalled while an order works at a venue."""
    settings = config(execution={"mode": "testnet"}, market={"symbols": SYMBOLS})
    engine = Engine(
        settings, OnceAtAVenue(**target), ListSink(), run_id="run", exchange=settings.execution.exchange()
    )
    engine.risk.set_reconciled(True)
    engine.handle(flat_bars([100.0])[0])
    assert engine.states[SYMBOL].book
    sampler = OpenBarSampler(engine, 15_000)
    kept = []
    for one in states:
        for passed in sampler.on_bar(one):
            kept.append((passed.ts - T0 - MINUTE_MS) // 1000)
            engine.handle(passed)
    return kept


@pytest.mark.parametrize(
    ("what", "target", "prices", "expected"),
    [
        ("every price while a market order works", {"weight": 0.1}, [100.0] * 9, list(range(1, 10))),
        (
            "the first five seconds, the limit, and the samples",
            {"weight": 0.1, "limit": 95.0},
            [100.0] * 8 + [94.0, 96.0] + [100.0] * 20,
            [1, 2, 3, 4, 5, 9, 24],
        ),
        (
            "a stop entry's trigger",
            {"weight": 0.1, "stop_entry": 105.0},
            [100.0] * 7 + [106.0, 100.0],
            [1, 2, 3, 4, 5, 8],
        ),
    ],
)
def test_states_that_an_order_at_a_venue_may_have_met_are_journalled(
    what: str, target: dict[str, Any], prices: list[float], expected: list[int]
) -> None:
    states = [state(second, price) for second, price in enumerate(prices, 1)]
    assert sampled_at_venue(states, **target) == expected, what


async def test_the_last_state_is_journalled_before_a_fill() -> None:
    settings = config(execution={"mode": "testnet"}, market={"symbols": SYMBOLS})
    engine = Engine(settings, Strategy(), ListSink(), run_id="run", exchange=settings.execution.exchange())
    passed: list[Event] = []

    async def keep(event: Event) -> None:
        passed.append(event)

    writable = asyncio.Event()
    writable.set()
    filter = EventFilter(OpenBarSampler(engine, 15_000), ResumePoint(), keep, writable)
    for second in (1, 2, 3):
        await filter(state(second, 100.0))
    fill = Fill("f", "o", SYMBOL, T0, T0, Side.BUY, Decimal(1), Decimal(100), Decimal(0))
    await filter(fill)
    assert passed == [state(1, 100.0), state(3, 100.0), fill]
