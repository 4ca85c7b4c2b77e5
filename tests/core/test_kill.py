"""A kill cancels all orders and opens nothing until an operator resumes with a confirmation."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from agent.core.engine import Engine
from agent.core.events import (
    MINUTE_MS,
    Command,
    Event,
    Fill,
    Kline,
    Order,
    OrderStatus,
    OrderUpdate,
    RiskEvent,
    RiskState,
)
from agent.core.risk import KILL, RESUME_FROM_KILL
from agent.core.sinks import ListSink
from agent.core.strategy import Market, Strategy
from tests.support.market import SYMBOL, T0, flat_bars, run

HALTED = RiskState.HALTED
CONFIRMED = {"confirm": RESUME_FROM_KILL}


class Guarded(Strategy):
    """Long with a stop after the first bar, then a resting order that never fills."""

    def on_kline(self, kline: Kline, market: Market) -> None:
        if not market.position(SYMBOL):
            self.target(SYMBOL, weight=0.5, stop=-0.5)
        else:
            self.target(SYMBOL, weight=0.9, limit=60.0)


def command(minute: int, action: str, **args: str) -> Command:
    at = T0 + minute * MINUTE_MS + 1
    return Command(action, at, at, args, by="test")


def live(*commands: Command, bars: int = 12) -> tuple[Engine, ListSink]:
    events: list[Event] = [*flat_bars([100.0] * bars), *commands]
    return run(Guarded(), sorted(events, key=lambda event: event.available_at))


def working(engine: Engine) -> int:
    return sum(len(state.book) for state in engine.states.values())


def risk_events(sink: ListSink) -> list[tuple[RiskState, str]]:
    return [(d.state, d.rule) for d in sink.decisions if isinstance(d, RiskEvent) and not d.symbol]


def test_a_kill_cancels_all_working_orders_and_keeps_the_position() -> None:
    before, _ = live()
    assert working(before) == 2
    engine, sink = live(command(4, "kill", reason="fire"))
    assert working(engine) == 0
    assert engine.risk.state is HALTED
    assert (engine.risk.rule, engine.risk.detail) == (KILL, "test: fire")
    assert engine.portfolio.positions[SYMBOL].qty == 50
    cancelled = [
        d for d in sink.decisions if isinstance(d, OrderUpdate) and d.status is OrderStatus.CANCELLED
    ]
    assert [d.reason for d in cancelled][-2:] == ["killed", "killed"]
    assert not [d for d in sink.decisions if isinstance(d, Order) and d.ts > T0 + 4 * MINUTE_MS]


def test_a_kill_can_flatten_at_once_or_later() -> None:
    for commands in ([command(4, "kill", flatten="true")], [command(4, "kill"), command(6, "flatten")]):
        engine, sink = live(*commands)
        assert engine.portfolio.positions[SYMBOL].qty == 0
        assert engine.risk.state is HALTED
        last = [d for d in sink.decisions if isinstance(d, Fill)][-1]
        assert (last.side.value, last.reason) == ("SELL", "flatten")
        assert working(engine) == 0


@pytest.mark.parametrize(
    ("commands", "state", "rule"),
    [
        ([command(4, "kill"), command(5, "resume")], HALTED, KILL),
        ([command(4, "kill"), command(5, "resume", confirm="yes")], HALTED, KILL),
        ([command(4, "kill"), command(5, "resume", **CONFIRMED)], RiskState.ACTIVE, "command"),
        ([command(4, "kill"), command(5, "pause"), command(5, "resume")], HALTED, KILL),
        ([command(4, "kill"), command(5, "halt"), command(5, "resume")], HALTED, KILL),
        ([command(4, "halt"), command(5, "kill"), command(5, "resume")], HALTED, KILL),
        ([command(4, "halt"), command(5, "pause")], HALTED, "command"),
        ([command(4, "halt"), command(5, "resume")], RiskState.ACTIVE, "command"),
        (
            [command(4, "kill"), command(5, "kill"), command(6, "resume", **CONFIRMED)],
            RiskState.ACTIVE,
            "command",
        ),
    ],
    ids=[
        "no confirmation",
        "wrong confirmation",
        "confirmation",
        "a pause does not loosen a kill",
        "a halt does not loosen a kill",
        "a kill replaces a halt",
        "a pause does not loosen a halt",
        "a halt needs no confirmation",
        "killed twice, resumed once",
    ],
)
def test_only_a_confirmed_resume_ends_a_kill(
    commands: Sequence[Command], state: RiskState, rule: str
) -> None:
    engine, _ = live(*commands)
    assert (engine.risk.state, engine.risk.rule) == (state, rule)


def test_a_refused_resume_is_recorded() -> None:
    _, sink = live(command(4, "kill"), command(5, "resume"))
    assert risk_events(sink) == [(HALTED, KILL), (HALTED, KILL)]
    assert [d.detail for d in sink.decisions if isinstance(d, RiskEvent)][
        -1
    ] == "resume by test without its confirmation"


def test_the_strategy_trades_again_after_a_confirmed_resume() -> None:
    engine, sink = live(command(4, "kill", flatten="true"), command(8, "resume", **CONFIRMED))
    assert engine.portfolio.positions[SYMBOL].qty == 50
    assert [d.side.value for d in sink.decisions if isinstance(d, Fill)] == ["BUY", "SELL", "BUY"]
