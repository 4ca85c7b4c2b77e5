"""The charts over time: equity, prices with trades and headlines, and the rolling Sharpe ratio."""

from __future__ import annotations

from itertools import accumulate
from typing import Final

from agent.analysis.report.plot import LineChart, Mark, Pane, PriceChart, changed, line
from agent.analysis.report.plotted_lines import pane_lines
from agent.analysis.report.report_data import Curve, ReportData, Rolling
from agent.analysis.sleeve_study import SleeveStudy
from agent.core.events import RiskState

_COLOURS: Final = ("--accent", "--gain", "--warn", "--loss", "--muted", "--ink-soft")


def equity_figure(data: ReportData) -> LineChart:
    """Draw equity and benchmark, and below them their drawdowns on the same time axis."""
    both = [(data.benchmark, "Buy and hold", "--muted", 1), (data.equity, "Strategy", "--accent", 2)]
    shown = [one for one in both if one[0].ts]
    currency = data.config.account.currency
    return LineChart(
        "Equity of the strategy and of buy-and-hold over time, and their drawdowns",
        [
            Pane(
                [line(curve, name, colour, width) for curve, name, colour, width in shown], "amount", currency
            ),
            Pane(
                [
                    line(drawdown(curve), f"{name}: drawdown", colour, fill=name == "Strategy")
                    for curve, name, colour, _ in shown
                ],
                "percent",
                "Drawdown",
                0.45,
            ),
        ],
        [Mark(event.ts, "halted") for event in data.risk if event.state is RiskState.HALTED],
    )


def price_figure(data: ReportData, symbol: str) -> PriceChart:
    """Draw the candles of `symbol` with its round trips, headlines, stops and the strategy's lines."""
    marks = data.marks.get(symbol, [])
    own_lines = {**data.plots.get("", {}), **data.plots.get(symbol, {})}
    end = data.metrics.end
    return PriceChart(
        f"Price of {symbol} as candles, with the entries and exits of the round trips",
        symbol,
        pane_lines(own_lines, data.prices[symbol]),
        [
            (one.ts // 1_000, one.predicted, round(one.confidence, 2), one.kind, one.title, one.publisher)
            for one in marks
        ],
        [
            (one.start // 1_000, (one.end or end) // 1_000, one.price, one.kind == "stop")
            for one in data.levels.get(symbol, [])
        ],
    )


def sleeves_figure(study: SleeveStudy) -> LineChart:
    """Draw the return of each sleeve on its own capital since it began."""
    lines = []
    for number, one in enumerate(study.sleeves):
        ts, equity = study.curves[one.name]
        curve = Curve(ts, [value / one.capital - 1 if one.capital else 0.0 for value in equity])
        lines.append(line(curve, one.name, _COLOURS[number % len(_COLOURS)], 2))
    return LineChart("Return of each sleeve over time", [Pane(lines, "percent")])


def rolling_figure(rolling: Rolling) -> LineChart:
    """Draw the Sharpe ratio of the window that ends on each day."""
    held = [line(rolling.hold, "Buy and hold", "--muted")] if rolling.hold.ts else []
    own = line(rolling.own, "Strategy", "--accent", 2)
    return LineChart("Rolling Sharpe ratio over time", [Pane([*held, own])])


def drawdown(curve: Curve) -> Curve:
    """Return the distance of a curve from its highest value so far, as fractions <= 0."""
    peaks = accumulate(curve.values, max)
    return changed(
        curve,
        [value / peak - 1 if peak > 0 else -1.0 for value, peak in zip(curve.values, peaks, strict=True)],
    )
