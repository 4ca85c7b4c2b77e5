"""The page: one self-contained HTML file that loads nothing from anywhere, escapes all it shows, and runs no foreign script."""

from __future__ import annotations

from base64 import b64encode
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import msgspec
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from agent.analysis.report import charts, formats
from agent.analysis.report.assumptions import assumptions
from agent.analysis.report.data import ReportData
from agent.analysis.report.verdict import verdict_of
from agent.durations import format_duration

SHOWN_TRADES: Final = 50
"""Rows of the trades table from each end."""

_PAGE: Final = Path(__file__).with_name("page")


def render(data: ReportData) -> str:
    """The report as HTML, about 5 MB of which plotly.js is nearly all."""
    config = data.config
    figures = {"equity": charts.equity_figure(data)}
    figures |= {f"price-{symbol}": charts.price_figure(data, symbol) for symbol in data.prices}
    scripts = [_plotly(), (_PAGE / "report.js").read_text(encoding="utf-8")]
    page = _environment().get_template("report.html.j2")
    return page.render(
        data=data,
        run=data.run,
        metrics=data.metrics,
        config=config,
        currency=config.account.currency,
        interval=format_duration(data.metrics.interval),
        verdict=verdict_of(data),
        assumptions=assumptions(config),
        costs=_costs(data),
        years=_years(data),
        first_trades=data.trades[:SHOWN_TRADES] if len(data.trades) > 2 * SHOWN_TRADES else data.trades,
        last_trades=data.trades[-SHOWN_TRADES:] if len(data.trades) > 2 * SHOWN_TRADES else [],
        marked={symbol: len(charts.marked(data.trades, symbol)) for symbol in data.prices},
        trades_of={symbol: sum(trade.symbol == symbol for trade in data.trades) for symbol in data.prices},
        style=Markup((_PAGE / "report.css").read_text(encoding="utf-8")),
        scripts=[Markup(script) for script in scripts],
        script_hashes=[_csp_hash(script) for script in scripts],
        figures=_json(figures),
    )


def _costs(data: ReportData) -> list[tuple[str, float]]:
    """What lay between the gross and the net result, in quote currency."""
    metrics = data.metrics
    net = metrics.final_equity - metrics.initial_equity
    costs = [("Fees", -metrics.fees), ("Funding", metrics.funding), ("Spread and slippage", -metrics.slippage)]
    return [("Before costs", net - sum(amount for _, amount in costs)), *costs, ("Net result", net)]


def _years(data: ReportData) -> dict[str, list[Any]]:
    """The figures of each month by year, None outside the run."""
    years = sorted({month[:4] for month in data.metrics.months})
    return {year: [data.metrics.months.get(f"{year}-{number:02}") for number in range(1, 13)] for year in years}


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_PAGE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    names = ("number", "percent", "money", "price", "duration", "date", "minute")
    environment.filters |= {name: getattr(formats, name) for name in names}
    return environment


@cache
def _plotly() -> str:
    from plotly.offline import get_plotlyjs

    source: str = get_plotlyjs()
    return source


def _csp_hash(script: str) -> str:
    return f"sha256-{b64encode(sha256(script.encode()).digest()).decode()}"


def _json(value: Any) -> Markup:
    """JSON that can stand inside a script element: without `<` it can't end it."""
    return Markup(msgspec.json.encode(value).decode().replace("<", "\\u003c"))
