"""Guarantees of the engine: no lookahead, prefix invariance, and invalid input is counted and ignored."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.core.errors import ConfigError
from agent.core.events import (
    MINUTE_MS,
    Command,
    Decision,
    Event,
    Fill,
    Funding,
    FundingPayment,
    Gap,
    Kline,
    News,
    Order,
    OrderStatus,
    OrderUpdate,
    RiskEvent,
    RiskState,
    Sentiment,
)
from agent.core.strategy import Market, Signal, Strategy
from agent.data.merge import merge
from strategies.sma_cross import SmaCross
from tests.support.market import SYMBOL, T0, bar, config, flat_bars, run

REAL_COSTS: dict[str, dict[str, Any]] = {
    "paper": {
        "latency": "250ms",
        "half_spread_bps": 0.5,
        "slippage": "square_root",
        "liquidity": "participation",
        "fees": "maker_taker",
    },
    "risk": {
        "max_daily_loss": 0.05,
        "max_drawdown": 0.25,
        "max_leverage": 3,
        "max_position": 3,
        "max_order": 6,
    },
    "account": {"leverage": 5},
    "signals": {"half_life": "5m", "window": "20m"},
}

prices = st.lists(st.floats(-0.03, 0.03), min_size=30, max_size=150).map(
    lambda steps: [round(100 * 1.5 ** sum(steps[: i + 1]), 2) for i in range(len(steps))]
)


class Restless(Strategy):
    """Trades on bars, signals and their expiry, long and short, with stops, limits and take-profits."""

    def on_kline(self, kline: Kline, market: Market) -> None:
        momentum = market.features(SYMBOL).return_5
        if momentum == momentum and kline.start // MINUTE_MS % 3 == 0:
            weight = 1.5 if momentum > 0 else -1.0
            limit = kline.close * (0.999 if weight > 0 else 1.001) if kline.start // MINUTE_MS % 2 else None
            self.target(
                SYMBOL,
                weight=weight,
                limit=limit,
                stop=-0.01 if weight > 0 else 0.01,
                take_profit=0.02 if weight > 0 else -0.02,
            )

    def on_signal(self, signal: Signal, market: Market) -> None:
        if signal.actionable:
            self.target(signal.symbol, weight=signal.score * 2)

    def on_signal_expired(self, signal: Signal, market: Market) -> None:
        self.target(signal.symbol, weight=0.0)


def headlines(count: int, spacing: int) -> list[Event]:
    """News and their sentiment, alternating bullish and bearish."""
    events: list[Event] = []
    for n in range(count):
        at = T0 + n * spacing + 17_000
        up = n % 2 == 0
        events.append(News(f"n{n}", at - 60_000, at, f"Bitcoin headline number {n} about topic {n * n}"))
        events.append(
            Sentiment(f"n{n}", at - 60_000, at + 250, 0.05 if up else 0.9, 0.05, 0.9 if up else 0.05)
        )
    return events


@settings(max_examples=60, deadline=None)
@given(prices, st.data())
def test_decisions_on_a_prefix_are_a_prefix_of_the_decisions(
    closes: list[float], data: st.DataObject
) -> None:
    events = list(merge([flat_bars(closes), headlines(len(closes) // 3, 3 * MINUTE_MS)]))
    cut = data.draw(st.integers(1, len(events)))
    _, whole = run(Restless(), events, config(**REAL_COSTS))
    engine, part = run(Restless(), events[:cut], config(**REAL_COSTS), finish=False)
    assert part.decisions == whole.decisions[: len(part.decisions)]
    later = whole.decisions[len(part.decisions) :]
    # Risk events of a period carry the time at which it ended, and come later
    decided = [d for d in later if not isinstance(d, RiskEvent)]
    assert all(
        getattr(d, "available_at", d.ts) > engine.market.now or d.ts >= engine.market.now for d in decided
    )


class Cheat(Strategy):
    """Buys on each headline and sells a bar later.

    On `news_bars` it wins only if a fill uses a price from before the headline.
    """

    def __init__(self, limit: float | None = None) -> None:
        super().__init__()
        self.limit = limit
        self.bars_held = 0

    def on_signal(self, signal: Signal, market: Market) -> None:
        if signal.actionable:
            self.target(SYMBOL, weight=0.9, limit=self.limit)

    def on_kline(self, kline: Kline, market: Market) -> None:
        self.bars_held = self.bars_held + 1 if market.position(SYMBOL) else 0
        if self.bars_held > 1:
            self.target(SYMBOL, weight=0.0)


def news_bars(events: int) -> list[Event]:
    """Every tenth bar jumps from 100 to 110, and the price returns in the bar after it.

    A bullish headline comes 17 seconds into the jump's bar. That bar's open and low are 100, so an engine
    that fills the headline's order at an earlier price of the bar wins.
    """
    klines, headlines = [], []
    for n in range(events):
        for minute in range(10):
            ohlc = {5: (100.0, 110.0, 100.0, 110.0), 6: (110.0, 110.0, 100.0, 100.0)}.get(
                minute, (100.0, 100.0, 100.0, 100.0)
            )
            klines.append(bar(n * 10 + minute, *ohlc))
        at = T0 + (n * 10 + 5) * MINUTE_MS + 17_000
        headlines.append(Sentiment(f"n{n}", at, at, 0.02, 0.02, 0.96, symbols=(SYMBOL,)))
    return list(merge([klines, headlines]))


@pytest.mark.parametrize("latency", ["0ms", "250ms", "30s", "1m", "90s"])
@pytest.mark.parametrize("limit", [None, 101.0, 109.0])
def test_a_strategy_that_needs_a_leak_to_win_never_wins(latency: str, limit: float | None) -> None:
    engine, sink = run(
        Cheat(limit),
        news_bars(30),
        config(paper={"latency": latency}, signals={"half_life": "1m", "window": "2m"}),
    )
    assert sum(isinstance(d, Fill) for d in sink.decisions) >= 30
    assert engine.portfolio.exact_equity() <= engine.portfolio.initial


def test_the_cheat_wins_if_the_headline_comes_earlier() -> None:
    """The control: the same bars with the same headlines one bar earlier."""
    early = [
        Sentiment(
            e.news_id,
            e.ts - MINUTE_MS,
            e.available_at - MINUTE_MS,
            e.bearish,
            e.neutral,
            e.bullish,
            symbols=e.symbols,
        )
        if isinstance(e, Sentiment)
        else e
        for e in news_bars(30)
    ]
    events = sorted(early, key=lambda e: e.available_at)
    engine, _ = run(Cheat(), events, config(signals={"half_life": "1m", "window": "2m"}))
    assert engine.portfolio.exact_equity() > engine.portfolio.initial


@settings(max_examples=60, deadline=None)
@given(prices)
def test_no_fill_comes_before_its_decision_and_latency(closes: list[float]) -> None:
    events = list(merge([flat_bars(closes), headlines(len(closes) // 2, 2 * MINUTE_MS)]))
    _, sink = run(Restless(), events, config(**REAL_COSTS))
    orders = {d.id: d for d in sink.decisions if isinstance(d, Order)}
    for fill in (d for d in sink.decisions if isinstance(d, Fill)):
        order = orders[fill.order_id]
        if order.reason not in ("liquidation", "stop", "take-profit"):
            assert fill.ts >= order.ts + 250
        assert fill.available_at >= fill.ts


@settings(max_examples=60, deadline=None)
@given(prices, st.sampled_from(["linear", "spot", "equity"]), st.integers(1, 20))
def test_money_is_conserved(closes: list[float], category: str, leverage: int) -> None:
    funding = [Funding(SYMBOL, T0 + n * 7 * MINUTE_MS, T0 + n * 7 * MINUTE_MS, 0.0005) for n in range(1, 10)]
    events = list(merge([flat_bars(closes), headlines(len(closes) // 3, 3 * MINUTE_MS), funding]))
    sections = REAL_COSTS | {"market": {"category": category}, "account": {"leverage": leverage}}
    engine, sink = run(Restless(), events, config(**sections))  # `finish` reconciles
    cash, held = engine.portfolio.initial, Decimal(0)
    for decision in sink.decisions:
        if isinstance(decision, Fill):
            signed = decision.qty * decision.side.sign
            cash -= signed * decision.price + decision.fee
            held += signed
            assert decision.slippage >= 0
        elif isinstance(decision, FundingPayment):
            cash += decision.amount
    assert cash == engine.portfolio.cash
    assert held == engine.portfolio.positions[SYMBOL].qty
    if category != "linear":
        assert held >= 0
        assert cash >= 0


@settings(max_examples=30, deadline=None)
@given(prices)
def test_an_order_is_never_filled_beyond_its_quantity_and_ends_once(closes: list[float]) -> None:
    _, sink = run(Restless(), flat_bars(closes), config(**REAL_COSTS))
    orders = {d.id: d for d in sink.decisions if isinstance(d, Order)}
    assert len(orders) == sum(isinstance(d, Order) for d in sink.decisions), "order ids are unique"
    ended: set[str] = set()
    filled: dict[str, Decimal] = {}
    for d in sink.decisions:
        if isinstance(d, Fill):
            assert d.order_id not in ended
            filled[d.order_id] = filled.get(d.order_id, Decimal(0)) + d.qty
        elif isinstance(d, OrderUpdate) and d.status.final:
            assert d.order_id not in ended
            ended.add(d.order_id)
    for order_id, qty in filled.items():
        if not orders[order_id].oco:  # protective orders close the whole position
            assert qty <= orders[order_id].qty


class Recorder(Strategy):
    """Records the bars that it receives."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[int, float]] = []

    def on_kline(self, kline: Kline, market: Market) -> None:
        self.seen.append((kline.start, market.features(SYMBOL).return_1))


@pytest.mark.parametrize(
    ("events", "seen", "counts"),
    [
        ([bar(0, 1, 1, 1, 1), bar(0, 1, 1, 1, 1), bar(1, 1, 1, 1, 1)], [0, 1], {"duplicate klines": 1}),
        ([bar(0, 1, 1, 1, 1), bar(1, 1, 1, 1, 1), bar(0, 1, 1, 1, 1)], [0, 1], {"late klines": 1}),
        ([bar(0, 1, 1, 1, 1), bar(3, 1, 1, 1, 1)], [0, 3], {"gaps": 1}),
        (
            [
                bar(0, 1, 1, 1, 1),
                Gap(SYMBOL, MINUTE_MS, T0 + MINUTE_MS, T0 + 3 * MINUTE_MS, T0),
                bar(3, 1, 1, 1, 1),
            ],
            [0, 3],
            {"gaps": 1},
        ),
        ([bar(0, 1, 1, 1, 1), bar(1, 1, 1, 1, 1, symbol="DOGEUSDT")], [0], {"klines of other symbols": 1}),
        (
            [bar(0, 1, 1, 1, 1), Kline(SYMBOL, 300_000, T0 + MINUTE_MS, T0, T0, 1, 1, 1, 1, 1)],
            [0],
            {"klines of other intervals": 1},
        ),
        ([Command("dance", T0, T0)], [], {"unknown commands": 1}),
    ],
    ids=["duplicate", "late", "gap", "announced gap", "other symbol", "other interval", "unknown command"],
)
def test_invalid_input_is_counted_and_ignored(
    events: Sequence[Event], seen: list[int], counts: dict[str, int]
) -> None:
    strategy = Recorder()
    engine, _ = run(strategy, events)
    assert [(start - T0) // MINUTE_MS for start, _ in strategy.seen] == seen
    assert dict(engine.counts) == counts


def test_features_restart_after_a_gap() -> None:
    strategy = Recorder()
    run(strategy, [bar(0, 1, 1, 1, 1), bar(1, 1, 2, 1, 2), bar(5, 2, 3, 2, 3), bar(6, 3, 3, 3, 3)])
    assert [r == r for _, r in strategy.seen] == [False, True, False, True]


def test_an_open_bar_only_moves_the_mark() -> None:
    strategy = Recorder()
    running = Kline(
        SYMBOL,
        MINUTE_MS,
        T0 + MINUTE_MS,
        T0 + MINUTE_MS + 5_000,
        T0 + MINUTE_MS + 5_000,
        1,
        3,
        1,
        3,
        1,
        confirm=False,
    )
    engine, _ = run(strategy, [bar(0, 1, 1, 1, 1), running])
    assert len(strategy.seen) == 1
    assert engine.market.price(SYMBOL) == 3


class Buys(Strategy):
    """Targets a long position after each bar."""

    def on_kline(self, kline: Kline, market: Market) -> None:
        self.target(SYMBOL, weight=0.5)


def statuses(decisions: Sequence[Decision]) -> list[OrderStatus]:
    return [d.status for d in decisions if isinstance(d, OrderUpdate)]


def test_commands_pause_flatten_and_resume() -> None:
    def command(minute: int, action: str, **args: str) -> Command:
        at = T0 + minute * MINUTE_MS + 1
        return Command(action, at, at, args, by="test")

    market = flat_bars([100.0] * 10)
    events = [
        *market[:2],
        command(2, "flatten"),
        command(2, "halt"),
        *market[2:5],
        command(5, "resume"),
        *market[5:],
    ]
    engine, sink = run(Buys(), events)
    fills = [(d.side.value, (d.ts - T0) // MINUTE_MS) for d in sink.decisions if isinstance(d, Fill)]
    assert fills == [
        ("BUY", 1),
        ("SELL", 3),
        ("BUY", 6),
    ]  # inside a bar, it fills at the close
    assert engine.risk.state is RiskState.ACTIVE


def test_a_target_in_an_unknown_symbol_is_an_error() -> None:
    class Lost(Strategy):
        def on_kline(self, kline: Kline, market: Market) -> None:
            self.target("DOGEUSDT", weight=1.0)

    with pytest.raises(ConfigError, match=r"DOGEUSDT.*market\.symbols are BTCUSDT"):
        run(Lost(), [bar(0, 1, 1, 1, 1)])


def test_two_symbols_share_one_account() -> None:
    class Both(Strategy):
        def on_kline(self, kline: Kline, market: Market) -> None:
            if not market.position(kline.symbol):
                self.target(kline.symbol, weight=0.5)

    tape = merge([flat_bars([100.0, 110.0, 120.0]), flat_bars([10.0, 9.0, 8.0], symbol="ETHUSDT")])
    engine, _ = run(Both(), tape, config(market={"symbols": [SYMBOL, "ETHUSDT"]}))
    assert engine.portfolio.positions[SYMBOL].qty == 50
    assert engine.portfolio.positions["ETHUSDT"].qty == 500
    assert engine.portfolio.exact_equity() == 10_000 + 50 * (120 - 100) + 500 * (8 - 10)


def test_order_ids_depend_only_on_run_and_decision() -> None:
    events = flat_bars([100 + (i % 7) * (i % 3) for i in range(200)])
    strategy = lambda: SmaCross(SmaCross.Params(fast=3, slow=8, weight=0.5))  # noqa: E731
    ids = [
        [d.id for d in run(strategy(), events, run_id=name)[1].decisions if isinstance(d, Order)]
        for name in ("a", "a", "b")
    ]
    assert ids[0]
    assert ids[0] == ids[1]
    assert not set(ids[0]) & set(ids[2])
    assert all(len(i) <= 36 for i in ids[0])
