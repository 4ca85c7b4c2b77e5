"""A single chart of a report as a page of its own, for notebooks and scripts."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Final

from agent.analysis.report.candles import fold
from agent.analysis.report.charts import equity_figure, price_figure
from agent.analysis.report.packing import pack_candles
from agent.analysis.report.page_parts import render_page, write_page
from agent.analysis.report.plot import Figure
from agent.analysis.report.report_data import ReportData
from agent.analysis.report.trade_list import list_trades
from agent.core.errors import UsageError

_CANDLES: Final = 20_000
_HEIGHT: Final = 560  # pixels of the frame in a notebook


class ChartPage:
    """A chart as one HTML page that loads nothing else. Notebooks show it in a frame."""

    def __init__(self, figure: Figure, html: str) -> None:
        self.figure, self.html = figure, html

    def save(self, path: str | Path) -> Path:
        """Write the page and return its path. Raises TapewireError if it can't be written."""
        return write_page(self.html, Path(path), "save(PATH)")

    def _repr_html_(self) -> str:
        """Return a frame in which the page's scripts run without access to the notebook."""
        return (
            f'<iframe sandbox="allow-scripts" style="width:100%;height:{_HEIGHT}px;border:0" '
            f'srcdoc="{escape(self.html)}"></iframe>'
        )


def chart_page(data: ReportData, symbol: str | None = None) -> ChartPage:
    """Return the chart of equity and drawdown, or that of the prices of `symbol` with its round trips.

    Raises UsageError if the report has no prices of `symbol`.
    """
    title = f"{data.run.strategy}, run {data.run.id}"
    if symbol is None:
        equity = equity_figure(data)
        return ChartPage(
            equity, render_page("chart.html.j2", figures={"equity": equity}, title=title, figure="equity")
        )
    if symbol not in data.candles or symbol not in data.prices:
        known = ", ".join(data.candles) or "none"
        raise UsageError(f"run {data.run.id} has no prices of {symbol}", hint=f"it has those of {known}")
    figure = price_figure(data, symbol)
    html = render_page(
        "chart.html.j2",
        figures={"prices": figure},
        candles={symbol: pack_candles(fold(data.candles[symbol], _CANDLES))},
        data_islands={"trades": list_trades(data.trades, data.headlines)},
        title=title,
        figure="prices",
    )
    return ChartPage(figure, html)
