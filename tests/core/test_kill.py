"""A kill in the core: nothing works any more, nothing is opened, and only a confirmed word ends it."""

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


def word(minute: int, action: str, **args: str) -> Command:
    at = T0 + minute * MINUTE_MS + 1
    return Command(action, at, at, args, by="test")


def live(*words: Command, bars: int = 12) -> tuple[Engine, ListSink]:
    events: list[Event] = [*flat_bars([100.0] * bars), *words]
    return run(Guarded(), sorted(events, key=lambda event: event.available_at))


def working(engine: Engine) -> int:
    return sum(len(tape.book) for tape in engine.states.values())


def risk_events(sink: ListSink) -> list[tuple[RiskState, str]]:
    return [(d.state, d.rule) for d in sink.decisions if isinstance(d, RiskEvent) and not d.symbol]


def test_a_kill_cancels_everything_that_works_stops_too_and_leaves_the_position() -> None:
    before, _ = live()
    assert working(before) == 2
    engine, sink = live(word(4, "kill", reason="fire"))
    assert working(engine) == 0
    assert engine.risk.state is HALTED
    assert (engine.risk.rule, engine.risk.detail) == (KILL, "test: fire")
    assert engine.portfolio.positions[SYMBOL].qty == 50
    cancelled = [
        d for d in sink.decisions if isinstance(d, OrderUpdate) and d.status is OrderStatus.CANCELLED
    ]
    assert [d.reason for d in cancelled][-2:] == ["killed", "killed"]
    assert not [d for d in sink.decisions if isinstance(d, Order) and d.ts > T0 + 4 * MINUTE_MS]


def test_a_kill_may_flatten_and_a_person_may_flatten_later() -> None:
    for words in ([word(4, "kill", flatten="true")], [word(4, "kill"), word(6, "flatten")]):
        engine, sink = live(*words)
        assert engine.portfolio.positions[SYMBOL].qty == 0
        assert engine.risk.state is HALTED
        last = [d for d in sink.decisions if isinstance(d, Fill)][-1]
        assert (last.side.value, last.reason) == ("SELL", "flatten")
        assert working(engine) == 0


@pytest.mark.parametrize(
    ("words", "state", "rule"),
    [
        ([word(4, "kill"), word(5, "resume")], HALTED, KILL),
        ([word(4, "kill"), word(5, "resume", confirm="yes")], HALTED, KILL),
        ([word(4, "kill"), word(5, "resume", **CONFIRMED)], RiskState.ACTIVE, "command"),
        ([word(4, "kill"), word(5, "pause"), word(5, "resume")], HALTED, KILL),
        ([word(4, "kill"), word(5, "halt"), word(5, "resume")], HALTED, KILL),
        ([word(4, "halt"), word(5, "kill"), word(5, "resume")], HALTED, KILL),
        ([word(4, "halt"), word(5, "pause")], HALTED, "command"),
        ([word(4, "halt"), word(5, "resume")], RiskState.ACTIVE, "command"),
        ([word(4, "kill"), word(5, "kill"), word(6, "resume", **CONFIRMED)], RiskState.ACTIVE, "command"),
    ],
    ids=[
        "not without a confirmation", "not with another one", "with it", "a pause does not loosen it", "a halt does not weaken it",
        "it strengthens a halt", "a pause does not loosen a halt", "a halt needs no confirmation", "killed twice, resumed once",
    ],
)  # fmt: skip
def test_what_ends_a_kill(words: Sequence[Command], state: RiskState, rule: str) -> None:
    engine, _ = live(*words)
    assert (engine.risk.state, engine.risk.rule) == (state, rule)


def test_a_refused_resumption_is_recorded() -> None:
    _, sink = live(word(4, "kill"), word(5, "resume"))
    assert risk_events(sink) == [(HALTED, KILL), (HALTED, KILL)]
    assert [d.detail for d in sink.decisions if isinstance(d, RiskEvent)][
        -1
    ] == "resume by test without its confirmation"


def test_after_the_confirmed_resumption_the_strategy_trades_again() -> None:
    engine, sink = live(word(4, "kill", flatten="true"), word(8, "resume", **CONFIRMED))
    assert engine.portfolio.positions[SYMBOL].qty == 50
    assert [d.side.value for d in sink.decisions if isinstance(d, Fill)] == ["BUY", "SELL", "BUY"]
