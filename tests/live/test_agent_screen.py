"""The screen of an agent: what it shows, and that it fits the terminal."""

from __future__ import annotations

import io
from decimal import Decimal
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from agent.core.engine import Engine
from agent.core.events import Fill, Order, OrderType, RiskState, Side
from agent.core.sinks import NullSink
from agent.live.agent_screen import AgentScreen, ShownHeadline
from agent.live.interfaces.status import PositionStatus, StorageStatus
from strategies import load_strategy
from tests.support.agent_status import status_of
from tests.support.market import T0, config, flat_bars

SYMBOLS = ("BTCUSDT", "ETHUSDT")


def held(symbol: str, qty: str, entry: str, mark: float, stop: float | None) -> PositionStatus:
    size = Decimal(qty)
    profit = size * (Decimal(str(mark)) - Decimal(entry))
    return PositionStatus(
        *(symbol, size, mark, float(size) * mark, T0, 0, False, 1),
        entry=Decimal(entry),
        open_profit=profit,
        stop=stop,
        take_profit=None,
    )


def screen(*, live: bool = True, positions: Any = None, rows: int = 40, **changes: Any) -> AgentScreen:
    """A screen with many headlines and actions."""
    engine = Engine(config(), load_strategy("sma_cross", {}), NullSink(), run_id="run", equity_block=1)
    for bar in flat_bars([100.0]):
        engine.handle(bar)
    made = AgentScreen("test", live=live)
    if positions is None:
        positions = [
            held("BTCUSDT", "0.5", "90000.10", 92_000.1, 91_000.5),
            held("ETHUSDT", "-2", "2000", 2_100.0, None),
        ]
    made.now, made.status = T0, status_of(engine, positions=positions, equity=10_123.45, **changes)
    made.equity.extend(10_000.0 + number for number in range(48))
    for symbol in SYMBOLS:
        made.add_price(symbol, 80_000.0)
        made.add_price(symbol, 92_000.1)
    made.headlines = [ShownHeadline(T0, f"Headline {number} " + "word " * 30, None) for number in range(rows)]
    made.actions = [(T0, Text(f"action {number}")) for number in range(rows)]
    return made


def drawn(made: AgentScreen, width: int, height: int) -> list[str]:
    console = Console(file=io.StringIO(), width=width, height=height, record=True)
    console.print(made)
    return [line.rstrip() for line in console.export_text().rstrip("\n").split("\n")]


@pytest.mark.parametrize("width", [80, 100, 140, 220])
@pytest.mark.parametrize("height", [24, 40, 70])
def test_it_fills_the_terminal_and_no_more(width: int, height: int) -> None:
    lines = drawn(screen(), width, height)
    assert len(lines) == height
    assert max(map(cell_len, lines)) == width
    text = "\n".join(lines)
    for figure in ("10,123.45", "92,000.10", "+0.5", "91,000.50", "-200.00", "+1,000.00"):
        assert figure in text
    for heading in ("symbol", "mark", "position", "open profit"):
        assert heading in text
    assert "action 39" in text, "the newest are shown"
    assert "Headline 39" in text


def test_a_wide_terminal_shows_more_of_a_position() -> None:
    narrow, wide = ("\n".join(drawn(screen(), width, 40)) for width in (80, 140))
    assert "change" not in narrow
    assert "+15.00%" in wide
    assert "▁█" in wide


def test_without_a_live_terminal_it_shows_eight_headlines_and_actions() -> None:
    text = "\n".join(drawn(screen(live=False), 80, 10))
    assert text.count("Headline ") == text.count("action ") == 8


def test_many_symbols_are_counted_and_those_that_are_held_come_first() -> None:
    flat = [PositionStatus(f"C{number}USDT", Decimal(0), 1.0, 0.0, T0, 0, False, 0) for number in range(30)]
    lines = drawn(screen(positions=[*flat, held("BTCUSDT", "1", "100", 101.0, None)]), 80, 30)
    assert len(lines) == 30
    text = "\n".join(lines)
    assert "BTCUSDT" in text
    assert "25 more: tapewire status" in text


def test_alarms_come_in_words_and_are_bounded() -> None:
    storage = StorageStatus(writable=False, error="disk full")
    made = screen(
        storage=storage,
        unreconciled=True,
        record="5 commits are lost",
        warming_up=True,
        risk=RiskState.HALTED,
        risk_rule="max_drawdown",
        risk_detail="20 % below the peak",
        risk_since=T0,
    )
    lines = drawn(made, 80, 24)
    assert len(lines) == 24
    text = "\n".join(lines)
    assert "HALTED by max_drawdown" in text
    assert "not trading: disk full" in text
    assert "not reconciled with the venue" in text
    assert "2 more: tapewire status" in text


def test_the_stop_that_comes_first_is_shown() -> None:
    """A long with a stop at 98 and a trailing stop at 99: the price meets 99 first."""
    engine = Engine(config(), load_strategy("sma_cross", {}), NullSink(), run_id="run", equity_block=1)
    for bar in flat_bars([100.0]):
        engine.handle(bar)
    (symbol, state), *_ = engine.states.items()
    entry = Fill("f", "o", symbol, T0, T0, Side.BUY, Decimal(1), Decimal("99.5"), Decimal(0))
    engine.portfolio.apply(entry)
    for number, (kind, trigger) in enumerate(
        [(OrderType.STOP, "98"), (OrderType.STOP, "99"), (OrderType.TAKE_PROFIT, "105")]
    ):
        order = Order(
            f"o{number}", symbol, T0, Side.SELL, kind, Decimal(1), trigger=Decimal(trigger), reduce_only=True
        )
        state.book.append(working(order))
    shown = status_of(engine).positions[0]
    assert (shown.entry, shown.open_profit) == (Decimal("99.5"), Decimal("0.5"))
    assert (shown.stop, shown.take_profit) == (99.0, 105.0)


def working(order: Order) -> Any:
    from agent.core.orders import WorkingOrder

    return WorkingOrder(order, 0, closes_position=True)
