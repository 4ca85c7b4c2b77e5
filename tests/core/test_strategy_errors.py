"""An error of the strategy halts a live run, and does so again when the run is verified."""

from __future__ import annotations

from typing import Any

import pytest

from agent.core.engine import Engine
from agent.core.events import (
    Command,
    Decision,
    Event,
    Fill,
    Kline,
    Order,
    OrderStatus,
    OrderUpdate,
    RiskEvent,
    RiskState,
    Signal,
)
from agent.core.risk import STRATEGY
from agent.core.sinks import ListSink
from agent.core.strategy import Market, Strategy
from agent.replay.engine_state import capture, restore
from tests.support.market import SYMBOL, T0, bar, config, run

CALM = (100.0, 101.0, 99.0, 100.0)


class Faulty(Strategy):
    """Buys with a stop on its first bar, and raises on bar number `fails`."""

    fails = 3

    def __init__(self, params: Any = None) -> None:
        super().__init__(params)
        self.bars = 0

    def on_kline(self, kline: Kline, market: Market) -> None:
        self.bars += 1
        if self.bars == 1:
            self.target(SYMBOL, weight=0.5, stop=-0.05)
        if self.bars == self.fails:
            self.target(SYMBOL, weight=1.0)
            self.bars += 1 // 0
        if self.bars > self.fails:
            self.target(SYMBOL, weight=-0.5)


class FailsOnFill(Faulty):
    fails = 99

    def on_fill(self, fill: Fill, market: Market) -> None:
        raise KeyError(f"<object at 0x{id(self):x}>")


class Stranger(Faulty):
    def on_kline(self, kline: Kline, market: Market) -> None:
        self.bars += 1
        if self.bars == 3:
            self.target("NOSUCHUSDT", weight=0.5)


def engine(strategy: Strategy) -> tuple[Engine, ListSink]:
    sink = ListSink()
    return Engine(config(), strategy, sink, run_id="r", equity_block=1, contain_errors=True), sink


def live(
    strategy: Strategy, count: int, start: int = 0, made: tuple[Engine, ListSink] | None = None
) -> tuple[list[Event], Engine, ListSink]:
    """Feed bars as the daemon does: after an error follows a `strategy-error` command."""
    one, sink = made or engine(strategy)
    events: list[Event] = []

    def feed(event: Event) -> None:
        events.append(event)
        one.handle(event)

    for number in range(start, start + count):
        feed(bar(number, *CALM))
        if one.guard is not None and one.guard.failure:
            feed(
                Command(
                    "strategy-error",
                    events[-1].available_at,
                    events[-1].available_at,
                    {"detail": one.guard.failure},
                    "daemon",
                )
            )
    return events, one, sink


def test_an_error_halts_and_keeps_the_stop() -> None:
    events, one, sink = live(Faulty(), 10)

    [halt] = [d for d in sink.decisions if isinstance(d, RiskEvent)]
    assert (halt.state, halt.rule, halt.ts) == (RiskState.HALTED, STRATEGY, T0 + 180_000)
    assert halt.detail.startswith(f"strategy Faulty failed: {__file__}, line ")
    assert halt.detail.endswith("ZeroDivisionError: integer division or modulo by zero")
    assert len([e for e in events if isinstance(e, Command)]) == 1
    orders = [d for d in sink.decisions if isinstance(d, Order)]
    # Neither the target set before the error nor any later one
    assert [order.reason for order in orders] == ["", "stop"]
    assert [w.order.reason for w in one.exchange.books[SYMBOL]] == ["stop"]
    assert float(one.portfolio.positions[SYMBOL].qty) == 50.0


@pytest.mark.parametrize("kind", [Faulty, FailsOnFill, Stranger])
def test_replaying_the_journal_repeats_the_decisions(kind: type[Strategy]) -> None:
    events, _, sink = live(kind(), 10)

    again, second = engine(kind())
    for event in events:
        again.handle(event)

    assert second.decisions == sink.decisions
    assert any(isinstance(d, RiskEvent) and d.rule == STRATEGY for d in sink.decisions)


def test_a_corrected_strategy_stays_halted_until_a_resume() -> None:
    events, _, _ = live(Faulty(), 10)
    corrected = Faulty()
    corrected.fails = 10**9  # type: ignore[misc]

    again, sink = engine(corrected)
    for event in events:
        again.handle(event)
    assert again.risk.halted
    again.handle(Command("resume", events[-1].available_at, events[-1].available_at, {}, "operator"))
    corrected.fails = 0  # type: ignore[misc]
    live(corrected, 2, start=10, made=(again, sink))

    assert again.risk.state is RiskState.ACTIVE
    assert float(again.portfolio.positions[SYMBOL].qty) < 0


def test_a_restored_engine_keeps_the_strategy_stopped() -> None:
    _, one, _ = live(Faulty(), 10)
    again, sink = engine(Faulty())

    restore(again, capture(one))
    more, _, _ = live(Faulty(), 3, start=10, made=(again, sink))

    assert again.guard is not None
    assert again.guard.stopped
    assert not [e for e in more if isinstance(e, Command)]
    assert not sink.decisions


def test_an_error_in_on_fill_does_not_lose_the_fill() -> None:
    _, one, sink = live(FailsOnFill(), 4)

    kinds = [(type(d), getattr(d, "status", None)) for d in sink.decisions]
    assert (OrderUpdate, OrderStatus.FILLED) in kinds
    assert float(one.portfolio.positions[SYMBOL].qty) == 50.0
    [halt] = [d for d in sink.decisions if isinstance(d, RiskEvent)]
    assert "0x" in halt.detail
    assert f"{id(one.strategy):x}" not in halt.detail  # addresses differ between processes


def test_a_replay_raises_the_error() -> None:
    with pytest.raises(ZeroDivisionError):
        run(Faulty(), [bar(i, *CALM) for i in range(10)])


def test_an_error_does_not_change_a_kill() -> None:
    made = engine(Faulty())
    made[0].handle(Command("kill", T0, T0, {}, "operator"))
    live(made[0].strategy, 10, made=made)

    assert made[0].risk.killed
    events: list[Decision] = [d for d in made[1].decisions if isinstance(d, RiskEvent) and d.rule == STRATEGY]
    assert len(events) == 1
    assert not [d for d in made[1].decisions if isinstance(d, Signal | Fill)]


@pytest.mark.parametrize(
    "wish", [{"weight": 1e24}, {"weight": 1e308}, {"weight": 0.5, "limit": 1e-305}], ids=str
)
@pytest.mark.parametrize("contained", [True, False])
def test_an_absurd_target_is_refused_and_raises_nothing(wish: dict[str, float], contained: bool) -> None:
    """For example a weight that is the inverse of a variance near 0; a risk limit refuses it."""

    class Measureless(Strategy):
        def on_kline(self, kline: Kline, market: Market) -> None:
            self.target(SYMBOL, **wish)

    sink = ListSink()
    running = Engine(
        config(risk={"max_order": 1}), Measureless(), sink, run_id="test", contain_errors=contained
    )
    for minute in range(3):
        running.handle(bar(minute, 100, 100, 100, 100))
    assert not [one for one in sink.decisions if isinstance(one, Order)]
    assert "max_order" in {one.rule for one in sink.decisions if isinstance(one, RiskEvent)}


def test_a_strategy_can_not_move_stops_while_halted() -> None:
    class Loosens(Strategy):
        def on_kline(self, kline: Kline, market: Market) -> None:
            self.target(SYMBOL, weight=0.5, stop=-0.01 if kline.ts < T0 + 180_000 else -0.5)

    halt = Command("halt", T0 + 150_000, T0 + 150_000, {}, "test")
    bars = [bar(minute, 100, 100, 100, 100) for minute in range(6)]
    halted, _ = run(Loosens(), [*bars[:2], halt, *bars[2:]], config())
    assert [float(w.order.trigger or 0) for w in halted.states[SYMBOL].book] == [99.0]
    free, _ = run(Loosens(), bars, config())
    assert [float(w.order.trigger or 0) for w in free.states[SYMBOL].book] == [50.0]


def test_a_stop_moves_even_if_the_order_of_its_target_is_rejected() -> None:
    """A tenth of 40 USDT is 4, below the venue's minimum of 5."""
    rules = {SYMBOL: {"tick_size": "0.01", "qty_step": "0.001", "min_notional": 5}}

    class Trails(Strategy):
        def on_kline(self, kline: Kline, market: Market) -> None:
            late = kline.ts > T0 + 180_000
            self.target(SYMBOL, weight=0.6 if late else 0.5, stop=-0.01 if late else -0.1)

    bars = [bar(minute, 100, 100, 100, 100) for minute in range(6)]
    done, _ = run(Trails(), bars, config(account={"initial_capital": 40}, instruments=rules))
    assert done.exchange.refusals
    assert [float(w.order.trigger or 0) for w in done.states[SYMBOL].book] == [99.0]
