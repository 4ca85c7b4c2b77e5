"""Render the report as one HTML file that loads nothing else, escapes all data and runs only its scripts."""

from __future__ import annotations

from base64 import b64encode
from collections import Counter
from collections.abc import Sequence
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import msgspec
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from agent.analysis.cost_breakdown import CostBreakdown
from agent.analysis.day_bootstrap import FEW_DAYS
from agent.analysis.kind_study import KindStudy
from agent.analysis.report import charts, charts_evidence, formats
from agent.analysis.report.assumptions import assumptions
from agent.analysis.report.descriptions import (
    describe_regime_rule,
    descriptions_of,
    is_distinguishable,
    kind_name,
)
from agent.analysis.report.plot import Figure
from agent.analysis.report.report_data import ReportData
from agent.analysis.report.twin_view import TwinView, view_of
from agent.analysis.report.verdict import verdict_of
from agent.analysis.story_table import StoryTable, table_of
from agent.analysis.waterfall import Waterfall, lay_out
from agent.core.durations import format_bar_length, format_duration
from agent.core.errors import StoreError, TapewireError
from agent.data.given_up import CAUSES
from agent.system.atomic import write_bytes

SHOWN_TRADES: Final = 50
"""Rows of the trades table at each end."""

SHOWN_REVISIONS: Final = 100
"""Newest headlines of another class after their revision."""

SHOWN_SYMBOLS: Final = 6
"""Number of price charts, for the most traded symbols. Each takes about a quarter of a megabyte."""

SHOWN_TWIN_ORDERS: Final = 20
"""Orders at the venue and on paper in the section of the twin, those with the largest differences."""

SHOWN_STORIES: Final = 15
"""Rows of the table of stories at each end."""

PAGE: Final = Path(__file__).with_name("page")
"""Folder of the templates, the style and the script."""


def render(data: ReportData, *, twin: TwinView | None = None, stories: StoryTable | None = None) -> str:
    """Return the report as HTML. It has about 5 MB, most of it plotly.js.

    `twin` and `stories` stand for those of the data, if only what is to be shown of them is at hand.
    """
    if data.twin is not None:
        twin = view_of(data.twin, orders=SHOWN_TWIN_ORDERS)
    if data.stories is not None:
        stories = table_of(data.stories, SHOWN_STORIES)
    config, evidence = data.config, data.evidence
    trades_of = Counter(trade.symbol for trade in data.trades)
    drawn = sorted(data.prices, key=lambda symbol: -trades_of[symbol])[:SHOWN_SYMBOLS]
    scripts = [plotly_source(), (PAGE / "report.js").read_text(encoding="utf-8")]
    page = environment().get_template("report.html.j2")
    return page.render(
        data=data,
        run=data.run,
        metrics=data.metrics,
        evidence=evidence,
        config=config,
        currency=config.account.currency,
        interval=format_bar_length(data.metrics.interval),
        verdict=verdict_of(data),
        descriptions=descriptions_of(evidence),
        kind_horizons=_horizon_names(evidence.kinds),
        few_days=FEW_DAYS,
        rule=describe_regime_rule(evidence.regime_rule, evidence.period),
        units=formats.plural(evidence.period),
        assumptions=assumptions(config),
        causes=CAUSES,
        most_revised=SHOWN_REVISIONS,
        waterfall=cost_waterfall(evidence.costs),
        twin=twin,
        stories=stories,
        months=_months(data),
        first_trades=data.trades[:SHOWN_TRADES] if len(data.trades) > 2 * SHOWN_TRADES else data.trades,
        last_trades=data.trades[-SHOWN_TRADES:] if len(data.trades) > 2 * SHOWN_TRADES else [],
        drawn=[symbol for symbol in data.prices if symbol in drawn],
        marked={symbol: len(charts.marked(data.trades, symbol)) for symbol in drawn},
        trades_of=trades_of,
        style=Markup((PAGE / "report.css").read_text(encoding="utf-8")),
        scripts=[Markup(script) for script in scripts],
        script_hashes=[csp_hash(script) for script in scripts],
        figures=script_json(_figures(data, drawn)),
    )


def write_report(data: ReportData, page: Path) -> tuple[Path, Path]:
    """Write `page` and the same data as a .json file beside it; return both paths.

    Raises TapewireError if a file can't be written.
    """
    twin = page.with_suffix(".json")
    json = msgspec.json.format(msgspec.json.Encoder(decimal_format="number").encode(data), indent=1)
    for path, content in ((page, render(data).encode()), (twin, json)):
        try:
            write_bytes(path, content)
        except StoreError as error:
            raise TapewireError(error.message, hint="choose another path with --output") from None
    return page, twin


def _figures(data: ReportData, drawn: Sequence[str]) -> dict[str, Figure]:
    """Return the charts by the id of their element."""
    evidence = data.evidence
    figures = {"equity": charts.equity_figure(data)}
    figures |= {f"price-{symbol}": charts.price_figure(data, symbol) for symbol in drawn}
    if data.sleeves is not None:
        figures["sleeves"] = charts.sleeves_figure(data.sleeves)
    if evidence.rolling is not None:
        figures["rolling"] = charts.rolling_figure(evidence.rolling)
    figures |= {
        f"reliability-{one.kind}": charts_evidence.reliability_figure(one) for one in evidence.outcomes
    }
    if evidence.event_study is not None:
        figures["event-study"] = charts_evidence.event_figure(evidence.event_study)
    if evidence.decay is not None:
        figures["decay"] = charts_evidence.decay_figure(evidence.decay)
    return figures


def cost_waterfall(costs: CostBreakdown) -> Waterfall:
    """Lay out the way from the gross to the net result."""
    parts = [
        ("Spread", costs.spread),
        ("Slippage", costs.slippage),
        ("Fees", costs.fees),
        ("Funding", costs.funding),
    ]
    return lay_out(("Before costs", costs.gross), parts, ("Net result", costs.net))


def _horizon_names(study: KindStudy | None) -> list[str]:
    """Return the headings of the moves by kind of news: `1h before`, `5m after` and so on."""
    moves = next(iter(study.kinds.values())).moves if study else []
    return [
        f"{format_duration(abs(move.horizon))} {'before' if move.horizon < 0 else 'after'}" for move in moves
    ]


def _months(data: ReportData) -> dict[str, list[Any]]:
    """Return the figures of the twelve months of each year, None for months outside of the run."""
    years = sorted({month[:4] for month in data.metrics.months})
    return {
        year: [data.metrics.months.get(f"{year}-{number:02}") for number in range(1, 13)] for year in years
    }


@cache
def environment() -> Environment:
    """Return the templates of the pages, with escaping and the filters of `formats`."""
    environment = Environment(
        loader=FileSystemLoader(PAGE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    names = ("number", "percent", "basis_points", "money", "price", "duration", "date", "minute")
    environment.filters |= {name: getattr(formats, name) for name in names} | {"kind_name": kind_name}
    environment.tests["distinguishable"] = is_distinguishable
    return environment


@cache
def plotly_source() -> str:
    """Return the source of plotly.js."""
    from plotly.offline import get_plotlyjs

    source: str = get_plotlyjs()
    return source


def csp_hash(script: str) -> str:
    """Return the hash that allows a script in the page's Content-Security-Policy."""
    return f"sha256-{b64encode(sha256(script.encode()).digest()).decode()}"


def script_json(value: Any) -> Markup:
    """Encode as JSON for a script element; escaping `<` ensures that the data can't end the element."""
    return Markup(msgspec.json.encode(value).decode().replace("<", "\\u003c"))
