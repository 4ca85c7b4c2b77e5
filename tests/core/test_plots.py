"""What a strategy plots is recorded with its symbol, up to a limit, and not during the warm-up."""

from __future__ import annotations

from math import inf, nan
from typing import Any

import pytest

from agent.analysis.report.plotted_lines import LINES, PlottedLines, pane_lines
from agent.analysis.report.report_data import Curve
from agent.core import plots
from agent.core.errors import StrategyError
from agent.core.events import MINUTE_MS, Command, Event, Kline, News, Plot
from agent.core.strategy import Market, Signal, Strategy
from agent.dashboard.dashboard_state import NO_VERSION, DashboardState
from agent.dashboard.page_rows import run_header
from agent.data.merge import merge
from agent.store.runs import Run, RunKind
from tests.support.market import SYMBOL, T0, config, flat_bars, run

BOTH = config(market={"symbols": [SYMBOL, "ETHUSDT"]})


class Plots(Strategy):
    """Plots each close."""

    def on_kline(self, kline: Kline, market: Market) -> None:
        self.plot("close", kline.close)

    def on_news(self, news: News, market: Market) -> None:
        self.plot("headlines", 1)

    def on_signal(self, signal: Signal, market: Market) -> None:
        self.plot("score", signal.score, symbol="ETHUSDT")


def plotted(strategy: Strategy, events: list[Event]) -> list[Plot]:
    _, sink = run(strategy, events, BOTH)
    return [one for one in sink.decisions if isinstance(one, Plot)]


def test_a_value_belongs_to_the_symbol_and_the_time_of_the_event_being_handled() -> None:
    bars = merge([flat_bars([100, 101]), flat_bars([10, 11], "ETHUSDT")])
    news = News("n", T0, T0 + 90_000, "Markets are calm")
    found = plotted(Plots(), list(merge([list(bars), [news]])))
    one, two = T0 + MINUTE_MS, T0 + 2 * MINUTE_MS
    assert found == [
        Plot(SYMBOL, one, "close", 100),
        Plot("ETHUSDT", one, "close", 10),
        Plot("", T0 + 90_000, "headlines", 1),
        Plot(SYMBOL, two, "close", 101),
        Plot("ETHUSDT", two, "close", 11),
    ]


def test_nothing_is_recorded_during_the_warm_up() -> None:
    bars = flat_bars([100, 101, 102])
    begin, end = (Command(action, T0, T0) for action in ("warm-up", "warm-up-done"))
    assert [one.value for one in plotted(Plots(), [begin, *bars[:2], end, bars[2]])] == [102]


def test_values_beyond_the_limit_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plots, "MOST_VALUES", 3)
    engine, sink = run(Plots(), flat_bars([100.0] * 10))
    assert len(sink.decisions) == 3
    assert engine.counts == {"plotted values beyond the first 3, not recorded": 7}


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        (("", 1), ValueError, "not a name"),
        (("x" * 61, 1), ValueError, "not a name"),
        (("a\0b", 1), ValueError, "not a name"),
        ((3, 1), ValueError, "not a name"),
        (("x", inf), ValueError, "value=inf is not finite"),
        (("x", "1"), TypeError, "value='1' is not a number"),
    ],
)
def test_what_can_not_be_drawn_is_refused(
    arguments: tuple[Any, Any], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        Strategy().plot(*arguments)


def test_nan_is_left_out_and_an_unknown_symbol_refused() -> None:
    class Odd(Strategy):
        def on_kline(self, kline: Kline, market: Market) -> None:
            self.plot("nothing", nan)
            self.plot("something", 1, symbol="BTCUSD")

    with pytest.raises(StrategyError, match="plots something for BTCUSD, which is not traded"):
        run(Odd(), flat_bars([1.0]))


def test_a_line_near_the_prices_is_drawn_over_them_and_others_in_panes_below() -> None:
    prices = Curve([1, 2, 3], [100.0, 110.0, 105.0])
    lines = {
        "ema": Curve([1, 2], [99.0, 108.0]),
        "rsi": Curve([1, 2], [30.0, 70.0]),
        "<b>macd": Curve([1, 2], [-1.0, 2.0]),
    }
    over, *below = pane_lines(lines, prices)
    assert [one.name for one in over.lines] == ["ema"]
    assert [pane.title for pane in below] == ["rsi", "<b>macd"]
    assert [[one.name for one in pane.lines] for pane in below] == [["rsi"], ["<b>macd"]]
    assert all(0 < pane.share < 1 for pane in below)


def test_the_report_draws_the_first_lines_of_a_symbol_and_names_the_others() -> None:
    lines = PlottedLines()
    for number in range(LINES + 2):
        lines.add(Plot(SYMBOL, T0, f"line {number}", number))
    assert list(lines.curves()[SYMBOL]) == [f"line {number}" for number in range(LINES)]
    assert lines.notes() == [
        "Of the lines that the strategy plots, 8 a symbol are drawn; left out are line 8, line 9."
    ]


def test_the_dashboard_has_the_last_value_of_each_line_in_each_bar() -> None:
    header = run_header(Run("r", RunKind.LIVE, T0, "plots"), BOTH)
    state = DashboardState(header, BOTH)
    for seq, (ts, name, value, symbol) in enumerate(
        [
            (T0 + MINUTE_MS, "ema", 1.0, SYMBOL),
            (T0 + MINUTE_MS + 1, "ema", 2.0, SYMBOL),
            (T0 + 2 * MINUTE_MS, "ema", 3.0, SYMBOL),
            (T0 + 2 * MINUTE_MS, "mood", 0.5, ""),
        ]
    ):
        state.decision(seq, Plot(symbol, ts, name, value))
    page = state.changes(NO_VERSION, SYMBOL)
    assert page["plots"] == {
        "symbol": SYMBOL,
        "all": True,
        "rows": [(T0, "ema", 1.0), (T0 + MINUTE_MS, "ema", 3.0), (T0 + MINUTE_MS, "mood", 0.5)],
    }
    assert state.changes(NO_VERSION, "ETHUSDT")["plots"]["rows"] == [(T0 + MINUTE_MS, "mood", 0.5)]
    version = state.version
    state.decision(9, Plot(SYMBOL, T0 + 3 * MINUTE_MS, "ema", 4.0))
    assert state.changes(version, SYMBOL, version)["plots"]["rows"] == [(T0 + 2 * MINUTE_MS, "ema", 4.0)]
    assert state.copy().changes(NO_VERSION, SYMBOL) == state.changes(NO_VERSION, SYMBOL)
