"""The page: one self-contained HTML file that loads nothing from anywhere, escapes all it shows, and runs no foreign script."""

from __future__ import annotations

from base64 import b64encode
from collections import Counter
from collections.abc import Sequence
from functools import cache
from hashlib import sha256
from itertools import accumulate
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from agent.analysis.costs import Costs
from agent.analysis.report import charts, charts_evidence, formats
from agent.analysis.report.assumptions import assumptions
from agent.analysis.report.data import ReportData
from agent.analysis.report.plot import Figure
from agent.analysis.report.readings import readings_of, rule_words
from agent.analysis.report.verdict import verdict_of
from agent.core.durations import format_duration

SHOWN_TRADES: Final = 50
"""Rows of the trades table from each end."""

SHOWN_SYMBOLS: Final = 6
"""Price charts drawn: of the symbols traded most. Each takes about a quarter of a megabyte."""

_PAGE: Final = Path(__file__).with_name("page")


def render(data: ReportData) -> str:
    """The report as HTML, about 5 MB of which plotly.js is nearly all."""
    config, evidence = data.config, data.evidence
    trades_of = Counter(trade.symbol for trade in data.trades)
    drawn = sorted(data.prices, key=lambda symbol: -trades_of[symbol])[:SHOWN_SYMBOLS]
    scripts = [_plotly(), (_PAGE / "report.js").read_text(encoding="utf-8")]
    page = _environment().get_template("report.html.j2")
    return page.render(
        data=data,
        run=data.run,
        metrics=data.metrics,
        evidence=evidence,
        config=config,
        currency=config.account.currency,
        interval=format_duration(data.metrics.interval),
        verdict=verdict_of(data),
        readings=readings_of(evidence),
        rule=rule_words(evidence.regime_rule, evidence.period),
        units=formats.plural(evidence.period),
        assumptions=assumptions(config),
        waterfall=waterfall(evidence.costs),
        months=_months(data),
        first_trades=data.trades[:SHOWN_TRADES] if len(data.trades) > 2 * SHOWN_TRADES else data.trades,
        last_trades=data.trades[-SHOWN_TRADES:] if len(data.trades) > 2 * SHOWN_TRADES else [],
        drawn=[symbol for symbol in data.prices if symbol in drawn],
        marked={symbol: len(charts.marked(data.trades, symbol)) for symbol in drawn},
        trades_of=trades_of,
        style=Markup((_PAGE / "report.css").read_text(encoding="utf-8")),
        scripts=[Markup(script) for script in scripts],
        script_hashes=[_csp_hash(script) for script in scripts],
        figures=_json(_figures(data, drawn)),
    )


def _figures(data: ReportData, drawn: Sequence[str]) -> dict[str, Figure]:
    """The charts by the id of their element."""
    evidence = data.evidence
    figures = {"equity": charts.equity_figure(data)}
    figures |= {f"price-{symbol}": charts.price_figure(data, symbol) for symbol in drawn}
    if evidence.rolling is not None:
        figures["rolling"] = charts.rolling_figure(evidence.rolling)
    figures |= {
        f"reliability-{found.kind}": charts_evidence.reliability_figure(found) for found in evidence.outcomes
    }
    if evidence.event_study is not None:
        figures["event-study"] = charts_evidence.event_figure(evidence.event_study)
    if evidence.decay is not None:
        figures["decay"] = charts_evidence.decay_figure(evidence.decay)
    return figures


class Step(NamedTuple):
    """A row of the waterfall: its amount, and where its bar begins and how long it is, in per cent of the width."""

    label: str
    amount: float
    left: float
    width: float


def waterfall(costs: Costs) -> list[Step]:
    """From the gross to the net result, each bar beginning where the one before it ended."""
    steps = [
        ("Spread", costs.spread),
        ("Slippage", costs.slippage),
        ("Fees", costs.fees),
        ("Funding", costs.funding),
    ]
    levels = list(accumulate((amount for _, amount in steps), initial=costs.gross))
    bars = [("Before costs", costs.gross, 0.0, costs.gross)]
    bars += [(label, amount, levels[at], levels[at + 1]) for at, (label, amount) in enumerate(steps)]
    bars.append(("Net result", costs.net, 0.0, costs.net))
    low, high = min(0.0, costs.net, *levels), max(0.0, costs.net, *levels)
    scale = 100 / (high - low) if high > low else 0.0
    return [
        Step(label, amount, round((min(begin, end) - low) * scale, 2), round(abs(end - begin) * scale, 2))
        for label, amount, begin, end in bars
    ]


def _months(data: ReportData) -> dict[str, list[Any]]:
    """The figures of each month by year, None outside the run."""
    years = sorted({month[:4] for month in data.metrics.months})
    return {
        year: [data.metrics.months.get(f"{year}-{number:02}") for number in range(1, 13)] for year in years
    }


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_PAGE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
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
