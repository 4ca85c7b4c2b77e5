"""During the warm-up features and strategies are updated, but no position is opened."""

from __future__ import annotations

from agent.core.events import MINUTE_MS, Command, Event, Fill, Kline, Order, RiskEvent, RiskState
from agent.core.strategy import Market, Strategy
from strategies import load_strategy
from tests.support.market import SYMBOL, T0, bar, config, flat_bars, run


def command(action: str, minute: int) -> Command:
    return Command(action, T0 + minute * MINUTE_MS, T0 + minute * MINUTE_MS)


def with_history(history: list[Kline], live: list[Kline]) -> list[Event]:
    """Return events as the daemon sends them: history within `warm-up` and `warm-up-done`, then live bars."""
    end = len(history)
    return [command("warm-up", 0), *history, command("warm-up-done", end), *live]


class Eager(Strategy):
    """Opens a position after each bar and records the risk states."""

    def __init__(self) -> None:
        super().__init__()
        self.states: list[RiskState] = []
        self.warm: list[bool] = []

    def on_kline(self, kline: Kline, market: Market) -> None:
        self.states.append(market.risk_state)
        self.warm.append(market.features(SYMBOL).warm)
        self.target(SYMBOL, weight=0.5)


def test_history_opens_no_position_and_the_first_live_bar_may() -> None:
    bars = flat_bars([100.0 + i % 3 for i in range(50)])
    strategy = Eager()
    _, sink = run(strategy, with_history(bars[:40], bars[40:]))
    first = next(d for d in sink.decisions if isinstance(d, Order))
    assert first.ts == bars[40].available_at
    assert strategy.warm[39]
    assert strategy.states == [RiskState.REDUCING] * 40 + [RiskState.ACTIVE] * 10


def test_targets_from_history_are_refused_with_one_risk_event() -> None:
    bars = flat_bars([100.0] * 10)
    _, sink = run(Eager(), with_history(bars[:9], bars[9:]))
    refused = [d for d in sink.decisions if isinstance(d, RiskEvent)]
    assert [(d.rule, d.symbol) for d in refused] == [("warm-up", SYMBOL)]


def test_a_position_may_be_closed_while_missed_bars_are_read() -> None:
    class Leaves(Strategy):
        def on_kline(self, kline: Kline, market: Market) -> None:
            self.target(SYMBOL, weight=0.5 if kline.start < T0 + 3 * MINUTE_MS else 0.0)

    bars = [bar(minute, 100, 100, 100, 100) for minute in range(8)]
    events = [*bars[:3], command("warm-up", 3), *bars[3:7], command("warm-up-done", 7), bars[7]]
    engine, sink = run(Leaves(), events)
    assert [d.side for d in sink.decisions if isinstance(d, Fill)] == ["BUY", "SELL"]
    assert engine.market.position(SYMBOL) == 0


def test_buy_and_hold_buys_at_the_first_live_bar() -> None:
    bars = flat_bars([100.0] * 12)
    _, sink = run(load_strategy("buy_and_hold"), with_history(bars[:10], bars[10:]))
    assert [d.ts for d in sink.decisions if isinstance(d, Order)] == [bars[10].available_at]


def test_a_halt_outlives_a_warm_up() -> None:
    bars = flat_bars([100.0] * 6)
    events = [
        bars[0],
        command("halt", 1),
        command("warm-up", 1),
        *bars[1:4],
        command("warm-up-done", 4),
        *bars[4:],
    ]
    engine, sink = run(Eager(), events, config())
    assert engine.risk.state is RiskState.HALTED
    assert sum(isinstance(d, Order) for d in sink.decisions) == 1
