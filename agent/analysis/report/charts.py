"""The charts over time: equity, prices with what was traded and read, and the rolling Sharpe ratio."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from itertools import accumulate
from typing import Final

from agent.analysis.report import formats
from agent.analysis.report.data import Mark, ReportData, Rolling, Series
from agent.analysis.report.plot import Figure, axis, layout, line, markers, quoted
from agent.analysis.trades import Trade
from agent.core.events import RiskState, Side

MARKED_TRADES: Final = 200
"""Round trips drawn a symbol: those with the largest profit or loss. More would hide the price."""


def equity_figure(data: ReportData) -> Figure:
    """Equity and its benchmark, and below on the same axis how far each stood under its peak."""
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
    """The closes of `symbol` with entries and exits; hovering tells why, and the headline where news was the reason."""
    trades = marked(data.trades, symbol)
    entries = [_entry_text(data, trade) for trade in trades]
    size = 10 if len(trades) <= 100 else 6
    closed = [trade for trade in trades if trade.exit_ts is not None and trade.exit_price is not None]
    return {
        "data": [
            line(data.prices[symbol], symbol, "--ink-soft", 1.1),
            *([_headlines(data.marks[symbol])] if data.marks.get(symbol) else []),
            {
                **markers(
                    "Entry",
                    [trade.entry_ts for trade in trades],
                    [float(trade.entry_price) for trade in trades],
                    entries,
                ),
                "marker": {
                    "symbol": [
                        "triangle-up" if trade.side is Side.BUY else "triangle-down" for trade in trades
                    ],
                    "color": "--accent",
                    "size": size,
                    "line": {"width": 0.5, "color": "--paper"},
                },
            },
            {
                **markers(
                    "Exit",
                    [trade.exit_ts or 0 for trade in closed],
                    [float(trade.exit_price or 0) for trade in closed],
                    [_exit_text(data, trade) for trade in closed],
                ),
                "marker": {
                    "symbol": "circle",
                    "color": ["--gain" if trade.pnl > 0 else "--loss" for trade in closed],
                    "size": size - 1,
                    "line": {"width": 0.5, "color": "--paper"},
                },
            },
        ],
        "layout": layout(
            xaxis=axis(type="date", range=[data.metrics.start, data.metrics.end]),
            yaxis=axis(title="Close"),
            hovermode="closest",
        ),
    }


def rolling_figure(rolling: Rolling) -> Figure:
    """The Sharpe ratio of the window that ends at each day."""
    held = [line(rolling.hold, "Buy and hold", "--muted", 1.2)] if rolling.hold.ts else []
    return {
        "data": [*held, line(rolling.own, "Strategy", "--accent", 1.8)],
        "layout": layout(
            xaxis=axis(type="date"),
            yaxis=axis(title="Sharpe", zeroline=True, zerolinecolor="--muted"),
            hovermode="x unified",
        ),
    }


def _headlines(marks: Sequence[Mark]) -> Figure:
    """Headlines at the price known when their score was; which way the model read each is its colour."""
    texts = [
        f"<b>{mark.predicted.capitalize()}, {formats.percent(mark.confidence, 0)} sure</b><br>{formats.minute(mark.ts)}<br>"
        f"{quoted(mark.title)}" + (f"<br>{escape(mark.publisher)}" if mark.publisher else "")
        for mark in marks
    ]
    return {
        **markers("Headline", [mark.ts for mark in marks], [mark.price for mark in marks], texts),
        "marker": {
            "symbol": "line-ns-open",
            "color": ["--gain" if mark.predicted == "bullish" else "--loss" for mark in marks],
            "size": 9,
            "line": {"width": 1.5},
            "opacity": 0.7,
        },
    }


def marked(trades: Sequence[Trade], symbol: str) -> list[Trade]:
    """The round trips of `symbol` that its chart shows, in order of entry."""
    own = (trade for trade in trades if trade.symbol == symbol)
    return sorted(
        sorted(own, key=lambda trade: -abs(trade.pnl))[:MARKED_TRADES], key=lambda trade: trade.entry_ts
    )


def _drawdown(series: Series, name: str, colour: str, *, fill: bool = False) -> Figure:
    peaks = accumulate(series.values, max)
    depth = [value / peak - 1 if peak > 0 else -1.0 for value, peak in zip(series.values, peaks, strict=True)]
    below = line(Series(series.ts, depth), f"{name}: below peak", colour, 1.0)
    return below | {
        "yaxis": "y2",
        "showlegend": False,
        "hovertemplate": "%{y:.1%}",
        "fill": "tozeroy" if fill else "none",
        "fillcolor": f"{colour}-soft",
    }


def _halt_line(ts: int) -> Figure:
    """Where risk halted trading: through both charts."""
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


def _entry_text(data: ReportData, trade: Trade) -> str:
    side = "Bought" if trade.side is Side.BUY else "Sold short"
    head = f"{side} {trade.qty.normalize():f} at {formats.price(float(trade.entry_price))}"
    return _hover(data, head, trade.entry_ts, trade.reason, trade.entry_order)


def _exit_text(data: ReportData, trade: Trade) -> str:
    head = f"Closed at {formats.price(float(trade.exit_price or 0))}: {formats.money(float(trade.pnl), signed=True)}"
    return _hover(data, head, trade.exit_ts or 0, trade.exit_reason, trade.exit_order)


def _hover(data: ReportData, head: str, ts: int, reason: str, order: str) -> str:
    titles = [quoted(headline.title) for headline in data.headlines.get(order, [])[:3]]
    return "<br>".join([f"<b>{head}</b>", formats.minute(ts), *([escape(reason)] if reason else []), *titles])
