"""What `market.position` tells a strategy, the messages that it sends, and flattening at the drawdown."""

from __future__ import annotations

from decimal import Decimal
from math import isnan
from typing import Any

import pytest

from agent.core.engine import Engine
from agent.core.events import MINUTE_MS, Command, Fill, Notice, Order, RiskState
from agent.core.sinks import ListSink
from agent.core.strategy import Kline, Market, PositionView, Strategy
from agent.replay.engine_state import capture, restore
from tests.support.market import SYMBOL, T0, Plan, bar, config, run

D = Decimal
FLAT = (100, 100, 100, 100)


def market_after(targets: dict[int, dict[str, Any]], *prices: tuple[float, ...]) -> Market:
    engine, _ = run(Plan(targets), [bar(n, *one) for n, one in enumerate(prices)])
    return engine.market


def test_a_position_is_its_quantity_and_tells_more() -> None:
    target = {"qty": 2, "stop": -0.05, "trail": -0.03, "take_profit": [(0.1, 0.5), (0.2, 0.5)]}
    held = market_after({0: target}, FLAT, FLAT, (100, 104, 100, 103)).position(SYMBOL)

    assert isinstance(held, float)
    assert held == 2.0
    assert held * 2 == 4.0
    assert (held.qty, held.entry_price) == (D(2), 100.0)
    assert (held.opened_at, held.age) == (T0 + MINUTE_MS, 2 * MINUTE_MS)
    assert held.open_profit == 6.0
    assert (held.stop, held.trail, held.take_profits) == (95.0, 101.0, (110.0, 120.0))


def test_a_short_position_has_its_nearest_take_profit_first() -> None:
    target = {"qty": -1, "take_profit": [(-0.2, 0.5), (-0.1, 0.5)]}
    held = market_after({0: target}, FLAT, FLAT).position(SYMBOL)

    assert held == -1.0
    assert held.take_profits == (90.0, 80.0)
    assert (held.stop, held.trail) == (None, None)


def test_no_position_has_no_price_and_no_protection() -> None:
    held = market_after({}, FLAT).position(SYMBOL)

    assert held == 0.0
    assert not held
    assert isnan(held.entry_price)
    assert (held.qty, held.opened_at, held.age, held.open_profit) == (D(0), 0, 0, 0.0)
    assert (held.stop, held.trail, held.take_profits) == (None, None, ())


class Keeping(Strategy):
    """Keeps what it was told of its position."""

    def __init__(self) -> None:
        super().__init__()
        self.held: PositionView | None = None

    def on_kline(self, kline: Kline, market: Market) -> None:
        self.target(SYMBOL, qty=1, trail=-0.02)
        self.held = market.position(SYMBOL)


def test_a_kept_position_and_a_trailing_stop_survive_a_restart() -> None:
    prices = [FLAT, FLAT, (100, 105, 100, 105), (105, 105, 103.5, 104), (104, 104, 102, 102)]
    events = [bar(n, *one) for n, one in enumerate(prices)]
    whole, sink = run(Keeping(), events)

    first, _ = run(Keeping(), events[:3], finish=False)
    again = ListSink()
    second = Engine(config(), Keeping(), again, run_id="test")
    restore(second, capture(first))
    assert isinstance(second.strategy, Keeping)
    assert second.strategy.held is not None
    assert (second.strategy.held, second.strategy.held.trail) == (1.0, 103.0)
    for event in events[3:]:
        second.handle(event)
    second.finish()

    assert again.decisions == sink.decisions[-len(again.decisions) :]
    assert [f.price for f in again.decisions if isinstance(f, Fill) and f.reason] == [D("103.00")]
    assert capture(second) == capture(whole)


class Notifying(Strategy):
    """Sends a message on each bar."""

    def __init__(self, text: str, level: str = "info") -> None:
        super().__init__()
        self.text, self.level = text, level

    def on_kline(self, kline: Kline, market: Market) -> None:
        self.notify(self.text, self.level)


def test_a_message_is_one_line_of_bounded_length() -> None:
    _, sink = run(Notifying("spread\nwide " + "x" * 2_000, "warning"), [bar(0, *FLAT)])

    [notice] = sink.decisions
    assert isinstance(notice, Notice)
    assert (notice.ts, notice.level) == (T0 + MINUTE_MS, "warning")
    assert notice.text.startswith("spread wide xxx")
    assert len(notice.text) == 500


def test_an_unknown_level_is_refused() -> None:
    with pytest.raises(ValueError, match="'loud' is not one of info, warning, error"):
        run(Notifying("x", "loud"), [bar(0, *FLAT)])


def test_messages_about_history_are_counted_and_not_sent() -> None:
    warm = [Command("warm-up", T0, T0), bar(0, *FLAT), Command("warm-up-done", T0 + 60_000, T0 + 60_000)]
    engine, sink = run(Notifying("old"), [*warm, bar(1, *FLAT)])

    assert len([n for n in sink.decisions if isinstance(n, Notice)]) == 1
    assert engine.counts["notices of the strategy about history"] == 1


@pytest.mark.parametrize(("option", "held"), [("halt", "50"), ("flatten", "0")])
def test_a_drawdown_keeps_or_closes_positions(option: str, held: str) -> None:
    # Half of 10,000 is bought at 100: 60 is 2,000 or 20 % below. The strategy then wants it again, in vain
    again = {"weight": 0.5}
    prices = [FLAT, FLAT, (60, 60, 60, 60), (60, 60, 60, 60), (60, 60, 60, 60), (60, 60, 60, 60)]
    settings = config(risk={"max_drawdown": 0.15, "on_max_drawdown": option})
    events = [bar(n, *one) for n, one in enumerate(prices)]
    engine, sink = run(Plan({0: again, 4: again}), events, settings)

    assert engine.risk.state is RiskState.HALTED
    assert engine.risk.rule == "max_drawdown"
    assert engine.portfolio.positions[SYMBOL].qty == D(held)
    closing = [o for o in sink.decisions if isinstance(o, Order) and o.reason == "max_drawdown"]
    assert [(o.side.value, o.qty, o.reduce_only) for o in closing] == [("SELL", D(50), True)] * (held == "0")
