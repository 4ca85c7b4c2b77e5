"""The charts over time: equity, prices with trades and headlines, and the rolling Sharpe ratio."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from itertools import accumulate
from typing import Final

from agent.analysis.report import formats
from agent.analysis.report.plot import Figure, axis, layout, line, markers, quoted
from agent.analysis.report.plotted_lines import draw_lines
from agent.analysis.report.report_data import Curve, HeadlineMarker, ReportData, Rolling
from agent.analysis.sleeve_study import SleeveStudy
from agent.analysis.trades import RoundTrip
from agent.core.events import RiskState, Side

MARKED_TRADES: Final = 200
"""Round trips drawn per symbol: those with the largest profit or loss. More would hide the price."""


def equity_figure(data: ReportData) -> Figure:
    """Draw equity and benchmark, and below them their drawdowns on the same time axis."""
    own = [
        line(data.equity, "Strategy", "--accent", 1.8),
        _drawdown(data.equity, "Strategy", "--accent", fill=True),
    ]
    held = [
        line(data.benchmark, "Buy and hold", "--muted", 1.2),
        _drawdown(data.benchmark, "Buy and hold", "--muted"),
    ]
    return {
        "data": (held if data.benchmark.ts else []) + own,
        "layout": layout(
            yaxis=axis(title=f"Equity, {data.config.account.currency}", domain=[0.34, 1]),
            yaxis2=axis(title="Drawdown", domain=[0, 0.27], tickformat=".0%", anchor="x"),
            xaxis=axis(anchor="y2", type="date", range=[data.metrics.start, data.metrics.end]),
            hovermode="x unified",
            shapes=[_halt_line(event.ts) for event in data.risk if event.state is RiskState.HALTED],
        ),
    }


def price_figure(data: ReportData, symbol: str) -> Figure:
    """Draw the closes of `symbol` with entries, exits, headlines and the strategy's lines; hover texts show
    the reasons.
    """
    trades = marked(data.trades, symbol)
    closed = [trade for trade in trades if trade.exit_ts is not None and trade.exit_price is not None]
    size = 10 if len(trades) <= 100 else 6
    outline = {"width": 0.5, "color": "--paper"}
    arrows = ["triangle-up" if trade.side is Side.BUY else "triangle-down" for trade in trades]
    colours = ["--gain" if trade.pnl > 0 else "--loss" for trade in closed]
    entries = markers(
        "Entry",
        [trade.entry_ts for trade in trades],
        [float(trade.entry_price) for trade in trades],
        [_entry_text(data, trade) for trade in trades],
        {"symbol": arrows, "color": "--accent", "size": size, "line": outline},
    )
    exits = markers(
        "Exit",
        [trade.exit_ts or 0 for trade in closed],
        [float(trade.exit_price or 0) for trade in closed],
        [_exit_text(data, trade) for trade in closed],
        {"symbol": "circle", "color": colours, "size": size - 1, "line": outline},
    )
    prices = line(data.prices[symbol], symbol, "--ink-soft", 1.1)
    headlines = [_headlines(data.marks[symbol])] if data.marks.get(symbol) else []
    own_lines = {**data.plots.get("", {}), **data.plots.get(symbol, {})}
    lines, axes = draw_lines(own_lines, data.prices[symbol])
    last = f"y{len(axes)}" if len(axes) > 1 else "y"
    return {
        "data": [prices, *lines, *headlines, entries, exits],
        "layout": layout(
            xaxis=axis(type="date", range=[data.metrics.start, data.metrics.end], anchor=last),
            **axes,
            hovermode="closest",
        ),
    }


def sleeves_figure(study: SleeveStudy) -> Figure:
    """Draw the return of each sleeve on its own capital since it began."""
    colours = ("--accent", "--gain", "--warn", "--loss", "--muted", "--ink-soft")
    lines = []
    for number, one in enumerate(study.sleeves):
        ts, equity = study.curves[one.name]
        curve = Curve(ts, [value / one.capital - 1 if one.capital else 0.0 for value in equity])
        drawn = line(curve, one.name, colours[number % len(colours)], 1.4)
        lines.append(drawn | {"hovertemplate": "%{y:+.2%}"})
    return {
        "data": lines,
        "layout": layout(
            xaxis=axis(type="date"),
            yaxis=axis(title="Return", tickformat="+.0%", zeroline=True, zerolinecolor="--muted"),
            hovermode="x unified",
        ),
    }


def rolling_figure(rolling: Rolling) -> Figure:
    """Draw the Sharpe ratio of the window that ends on each day."""
    held = [line(rolling.hold, "Buy and hold", "--muted", 1.2)] if rolling.hold.ts else []
    return {
        "data": [*held, line(rolling.own, "Strategy", "--accent", 1.8)],
        "layout": layout(
            xaxis=axis(type="date"),
            yaxis=axis(title="Sharpe", zeroline=True, zerolinecolor="--muted"),
            hovermode="x unified",
        ),
    }


def _headlines(marks: Sequence[HeadlineMarker]) -> Figure:
    """Draw headlines at the last price known with their score, coloured by prediction."""
    texts = [
        f"<b>{mark.predicted.capitalize()}, confidence {formats.percent(mark.confidence, 0)}"
        f"{f', {escape(mark.kind)} news' if mark.kind else ''}</b><br>"
        f"{formats.minute(mark.ts)}<br>"
        f"{quoted(mark.title)}" + (f"<br>{escape(mark.publisher)}" if mark.publisher else "")
        for mark in marks
    ]
    colours = ["--gain" if mark.predicted == "bullish" else "--loss" for mark in marks]
    style = {"symbol": "line-ns-open", "color": colours, "size": 9, "line": {"width": 1.5}, "opacity": 0.7}
    return markers("Headline", [mark.ts for mark in marks], [mark.price for mark in marks], texts, style)


def marked(trades: Sequence[RoundTrip], symbol: str) -> list[RoundTrip]:
    """Return the round trips of `symbol` that its chart shows, in order of entry."""
    own = (trade for trade in trades if trade.symbol == symbol)
    return sorted(
        sorted(own, key=lambda trade: -abs(trade.pnl))[:MARKED_TRADES], key=lambda trade: trade.entry_ts
    )


def _drawdown(curve: Curve, name: str, colour: str, *, fill: bool = False) -> Figure:
    peaks = accumulate(curve.values, max)
    depth = [value / peak - 1 if peak > 0 else -1.0 for value, peak in zip(curve.values, peaks, strict=True)]
    drawdown = line(Curve(curve.ts, depth), f"{name}: drawdown", colour, 1.0)
    return drawdown | {
        "yaxis": "y2",
        "showlegend": False,
        "hovertemplate": "%{y:.1%}",
        "fill": "tozeroy" if fill else "none",
        "fillcolor": f"{colour}-soft",
    }


def _halt_line(ts: int) -> Figure:
    """Draw a vertical line through both charts at a halt by risk."""
    return {
        "type": "line",
        "x0": ts,
        "x1": ts,
        "yref": "paper",
        "y0": 0,
        "y1": 1,
        "line": {"color": "--loss", "width": 1, "dash": "dot"},
        "label": {
            "text": "halted",
            "textposition": "end",
            "textangle": 0,
            "xanchor": "left",
            "font": {"size": 11, "color": "--loss"},
        },
    }


def _entry_text(data: ReportData, trade: RoundTrip) -> str:
    side = "Bought" if trade.side is Side.BUY else "Sold short"
    head = f"{side} {trade.qty.normalize():f} at {formats.price(float(trade.entry_price))}"
    return _hover(data, head, trade.entry_ts, trade.reason, trade.entry_order)


def _exit_text(data: ReportData, trade: RoundTrip) -> str:
    result = formats.money(float(trade.pnl), signed=True)
    head = f"Closed at {formats.price(float(trade.exit_price or 0))}: {result}"
    return _hover(data, head, trade.exit_ts or 0, trade.exit_reason, trade.exit_order)


def _hover(data: ReportData, head: str, ts: int, reason: str, order: str) -> str:
    titles = [quoted(headline.title) for headline in data.headlines.get(order, [])[:3]]
    return "<br>".join([f"<b>{head}</b>", formats.minute(ts), *([escape(reason)] if reason else []), *titles])
