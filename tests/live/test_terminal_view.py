"""Terminal views of the running agent."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest
from rich.console import Console

from agent.core.engine import Engine
from agent.core.events import HOUR_MS, Command, Event, News, Sentiment
from agent.core.sinks import NullSink
from agent.live.interfaces.observer import Observer
from agent.live.observers import LiveSink, RecentActivity
from agent.live.terminal_view import LineView, TerminalView, sparkline
from strategies import load_strategy
from tests.support.market import SYMBOL, T0, config, flat_bars

HEADLINE = News("n1", T0, T0 + 30_000, "Bitcoin [bold]soars[/] on record inflows")
SAID = Sentiment("n1", T0, T0 + 31_000, 0.05, 0.05, 0.9)


def shown(observer_of: Callable[[Callable[[], Engine | None]], Observer]) -> Observer:
    """Feed a view three hours of bars and a headline that is traded on."""
    settings = config(strategy={"name": "sentiment", "params": {"position_size": 0.5}})
    sink = LiveSink(NullSink(), 60_000)
    engine = Engine(
        settings, load_strategy("sentiment", {"position_size": 0.5}), sink, run_id="run", equity_block=1
    )
    observer = observer_of(lambda: engine)
    sink.observers = [observer]
    bars = flat_bars([100.0 + i % 5 for i in range(180)])
    events: list[Event] = [bars[0], HEADLINE, SAID, Command("pause", T0, T0, {}, "uid 1"), *bars[1:]]
    for seq, event in enumerate(events, 1):
        observer.event(seq, event)
        sink.event_seq = seq
        engine.handle(event)
    return observer


def test_the_chart_draws_bars_headlines_signals_fills_and_equity() -> None:
    console = Console(file=io.StringIO(), width=100, record=True)
    console.print(shown(lambda engine: TerminalView("demo", engine)))
    text = console.export_text()
    assert "demo · 2025-01-01 03:00 UTC" in text
    assert "bullish 0.90 Bitcoin [bold]soars[/] on record inflows" in text
    for said in (
        f"signal BUY  {SYMBOL} 0.90",
        f"fill   BUY  {SYMBOL} 50",
        "risk   REDUCING command",
        "equity 10,",
        f"fill   SELL {SYMBOL} 50",
        "flat",
        "fills 2",
    ):
        assert said in text
    assert "▁" in text


def test_lines_are_printed_without_a_terminal() -> None:
    console = Console(file=io.StringIO(), width=40, record=True)
    shown(lambda engine: LineView(console, engine))
    lines = console.export_text().splitlines()
    assert lines[:3] == [
        "00:00  bullish 0.90 Bitcoin [bold]soars[/] on record inflows",
        f"00:00  signal BUY {SYMBOL} 0.90",
        "00:01  risk REDUCING command",
    ]
    assert any(line.startswith("00:01  fill BUY") for line in lines)
    assert sum("equity" in line for line in lines) == 3 * HOUR_MS // HOUR_MS


def test_recent_activity_keeps_the_last_entries_without_bars() -> None:
    recent = shown(lambda _: RecentActivity(4))
    assert isinstance(recent, RecentActivity)
    assert len(recent.lines) == 4
    assert not any(line["what"].startswith(("bar", "open bar")) for line in recent.lines)


@pytest.mark.parametrize(
    ("values", "drawn"),
    [([], ""), ([1.0], "▁"), ([2.0, 2.0], "▁▁"), ([1.0, 8.0, 4.5], "▁█▅"), ([3.0, 1.0], "█▁")],
)
def test_sparkline(values: list[float], drawn: str) -> None:
    assert sparkline(values) == drawn
