"""The charts, as plotly.js reads them: {"data": [traces], "layout": {…}}.

A colour written `--name` is a CSS variable that the page resolves, so that a chart follows light, dark and paper. Texts from
outside are escaped here: plotly reads HTML-like tags in what it shows.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from itertools import accumulate
from typing import Any, Final

from agent.analysis.report import formats
from agent.analysis.report.data import ReportData, Series
from agent.analysis.trades import Trade
from agent.events import RiskState, Side

MARKED_TRADES: Final = 400
"""Round trips drawn a symbol: those with the largest profit or loss. More would hide the price."""

Figure = dict[str, Any]


def equity_figure(data: ReportData) -> Figure:
    """Equity and its benchmark, and below on the same axis how far each stood under its peak."""
    own = [_line(data.equity, "Strategy", "--accent", 1.8), _drawdown(data.equity, "Strategy", "--accent", fill=True)]
    held = [_line(data.benchmark, "Buy and hold", "--muted", 1.2), _drawdown(data.benchmark, "Buy and hold", "--muted")]
    return {
        "data": (held if data.benchmark.ts else []) + own,
        "layout": _layout(
            yaxis=_axis(title=f"Equity, {data.config.account.currency}", domain=[0.34, 1]),
            yaxis2=_axis(title="Drawdown", domain=[0, 0.27], tickformat=".0%", anchor="x"),
            xaxis=_axis(anchor="y2", type="date", range=[data.metrics.start, data.metrics.end]),
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
            _line(data.prices[symbol], symbol, "--ink-soft", 1.1),
            {
                **_markers(
                    "Entry", [trade.entry_ts for trade in trades], [float(trade.entry_price) for trade in trades], entries
                ),
                "marker": {
                    "symbol": ["triangle-up" if trade.side is Side.BUY else "triangle-down" for trade in trades],
                    "color": "--accent",
                    "size": size,
                    "line": {"width": 0.5, "color": "--paper"},
                },
            },
            {
                **_markers(
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
        "layout": _layout(
            xaxis=_axis(type="date", range=[data.metrics.start, data.metrics.end]),
            yaxis=_axis(title="Close"),
            hovermode="closest",
        ),
    }


def marked(trades: Sequence[Trade], symbol: str) -> list[Trade]:
    """The round trips of `symbol` that its chart shows, in order of entry."""
    own = (trade for trade in trades if trade.symbol == symbol)
    return sorted(sorted(own, key=lambda trade: -abs(trade.pnl))[:MARKED_TRADES], key=lambda trade: trade.entry_ts)


def _line(series: Series, name: str, colour: str, width: float) -> Figure:
    return {
        "type": "scatter",
        "mode": "lines",
        "name": name,
        "x": series.ts,
        "y": [float(f"{value:.7g}") for value in series.values],  # a page of half the size
        "line": {"color": colour, "width": width},
        "hovertemplate": "%{y:,.2f}",
    }


def _drawdown(series: Series, name: str, colour: str, *, fill: bool = False) -> Figure:
    peaks = accumulate(series.values, max)
    depth = [value / peak - 1 if peak > 0 else -1.0 for value, peak in zip(series.values, peaks, strict=True)]
    line = _line(Series(series.ts, depth), f"{name}: below peak", colour, 1.0)
    return line | {"yaxis": "y2", "showlegend": False, "hovertemplate": "%{y:.1%}", "fill": "tozeroy" if fill else "none"}


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


def _markers(name: str, ts: list[int], values: list[float], texts: list[str]) -> Figure:
    return {"type": "scatter", "mode": "markers", "name": name, "x": ts, "y": values, "hovertext": texts, "hoverinfo": "text"}


def _entry_text(data: ReportData, trade: Trade) -> str:
    side = "Bought" if trade.side is Side.BUY else "Sold short"
    head = f"{side} {trade.qty.normalize():f} at {formats.price(float(trade.entry_price))}"
    return _hover(data, head, trade.entry_ts, trade.reason, trade.entry_order)


def _exit_text(data: ReportData, trade: Trade) -> str:
    head = f"Closed at {formats.price(float(trade.exit_price or 0))}: {formats.money(float(trade.pnl), signed=True)}"
    return _hover(data, head, trade.exit_ts or 0, trade.exit_reason, trade.exit_order)


def _hover(data: ReportData, head: str, ts: int, reason: str, order: str) -> str:
    titles = [f"“{_shorten(headline.title)}”" for headline in data.headlines.get(order, [])[:3]]
    return "<br>".join([f"<b>{head}</b>", formats.minute(ts), *(escape(text) for text in (reason, *titles) if text)])


def _shorten(text: str, limit: int = 90) -> str:
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _axis(*, title: str = "", **more: Any) -> Figure:
    return {
        "title": {"text": title, "standoff": 8},
        "gridcolor": "--rule",
        "linecolor": "--rule",
        "zerolinecolor": "--rule",
        "automargin": True,
        **more,
    }


def _layout(**more: Any) -> Figure:
    return {
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": "--font", "size": 12, "color": "--ink-soft"},
        "margin": {"l": 8, "r": 8, "t": 28, "b": 8},
        "legend": {"orientation": "h", "x": 0, "y": 1.0, "yanchor": "bottom"},
        "hoverlabel": {"bgcolor": "--paper", "bordercolor": "--rule", "font": {"color": "--ink"}, "align": "left"},
        **more,
    }
