"""Render the report as one HTML file that loads nothing else, escapes all data and runs only its scripts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from agent.analysis.cost_breakdown import CostBreakdown
from agent.analysis.day_bootstrap import FEW_DAYS
from agent.analysis.kind_study import KindStudy
from agent.analysis.report import charts, charts_evidence, formats, trade_charts
from agent.analysis.report.assumptions import assumptions
from agent.analysis.report.candles import FEWEST, fold
from agent.analysis.report.descriptions import describe_regime_rule, descriptions_of
from agent.analysis.report.packing import PackedCandles, pack_candles
from agent.analysis.report.page_parts import render_page, write_page
from agent.analysis.report.plot import Figure
from agent.analysis.report.report_data import ReportData
from agent.analysis.report.trade_list import list_trades
from agent.analysis.report.twin_view import TwinView, view_of
from agent.analysis.report.verdict import verdict_of
from agent.analysis.story_table import StoryTable, table_of
from agent.analysis.trade_groups import Grouping
from agent.analysis.waterfall import Waterfall, lay_out
from agent.core.durations import format_bar_length, format_duration
from agent.data.given_up import CAUSES

PAGE_BYTES: Final = 1_450_000
"""Size of a page. Candles are folded until they fit; a page with much else may be larger."""

SHOWN_TRADES: Final = 50
"""Rows of the table of round trips that are there without a script."""

SHOWN_GROUPS: Final = 15
"""Rows of a table of groups of round trips, those with the highest and the lowest result."""

SHOWN_REVISIONS: Final = 100
"""Newest headlines of another class after their revision."""

SHOWN_SYMBOLS: Final = 6
"""Number of price charts, for the most traded symbols. They share the room for candles."""

SHOWN_TWIN_ORDERS: Final = 20
"""Orders at the venue and on paper in the section of the twin, those with the largest differences."""

SHOWN_STORIES: Final = 15
"""Rows of the table of stories at each end."""

_CANDLE_BYTES: Final = 13
"""A packed candle, at most in the mean."""


def render(data: ReportData, *, twin: TwinView | None = None, stories: StoryTable | None = None) -> str:
    """Return the report as HTML of at most about 1.5 MB.

    `twin` and `stories` stand for those of the data, if only what is to be shown of them is at hand.
    """
    if data.twin is not None:
        twin = view_of(data.twin, orders=SHOWN_TWIN_ORDERS)
    if data.stories is not None:
        stories = table_of(data.stories, SHOWN_STORIES)
    trades_of = Counter(trade.symbol for trade in data.trades)
    traded = sorted(data.prices, key=lambda symbol: -trades_of[symbol])[:SHOWN_SYMBOLS]
    drawn = [symbol for symbol in data.prices if symbol in traded]
    content = _content(data, twin, stories, drawn)
    bare = len(render_page("report.html.j2", **content, candles={}, detail={}).encode())
    candles = _packed(data, drawn, PAGE_BYTES - bare)
    detail = {symbol: f"{format_bar_length(one.interval)}" for symbol, one in candles.items()}
    return render_page("report.html.j2", **content, candles=candles, detail=detail)


def _content(
    data: ReportData,
    twin: TwinView | None,
    stories: StoryTable | None,
    drawn: Sequence[str],
) -> dict[str, Any]:
    config, evidence = data.config, data.evidence
    listed = list_trades(data.trades, data.headlines)
    return {
        "figures": _figures(data, drawn),
        "data_islands": {"trades": listed} if data.trades else {},
        "plots": _plots(data),
        "data": data,
        "run": data.run,
        "metrics": data.metrics,
        "evidence": evidence,
        "config": config,
        "currency": config.account.currency,
        "interval": format_bar_length(data.metrics.interval),
        "verdict": verdict_of(data),
        "descriptions": descriptions_of(evidence),
        "left_out": _left_out(data),
        "kind_horizons": _horizon_names(evidence.kinds),
        "few_days": FEW_DAYS,
        "rule": describe_regime_rule(evidence.regime_rule, evidence.period),
        "units": formats.plural(evidence.period),
        "assumptions": assumptions(config),
        "causes": CAUSES,
        "most_revised": SHOWN_REVISIONS,
        "waterfall": cost_waterfall(evidence.costs),
        "twin": twin,
        "stories": stories,
        "months": _months(data),
        "shown_trades": data.trades[:SHOWN_TRADES],
        "listed_trades": len(listed.rows),
        "shown_groups": SHOWN_GROUPS,
        "samples": format_bar_length(data.samples) if data.samples else "",
        "alike": _alike(data),
        "drawn": drawn,
        "headlines": sum(map(len, data.marks.values())),
    }


def _packed(data: ReportData, drawn: Sequence[str], room: int) -> dict[str, PackedCandles]:
    """Pack the candles of the symbols that are drawn into `room` bytes, each with the same part of it."""
    share = room // max(len(drawn), 1)
    found = {}
    for symbol in drawn:
        if symbol not in data.candles:
            continue
        most = max(share // _CANDLE_BYTES, FEWEST)
        while True:
            found[symbol] = packed = pack_candles(fold(data.candles[symbol], most))
            if len(packed.columns) <= share or most == FEWEST:
                break
            most = max(packed.count - 1, FEWEST)
    return found


def _alike(data: ReportData) -> list[str]:
    """Return by what all closed round trips are one group."""
    if data.analysis is None:
        return []
    names: tuple[Grouping, ...] = ("symbol", "side", "entry reason", "exit reason")
    return [name for name in names if len(data.analysis.groups[name]) == 1]


def _left_out(data: ReportData) -> list[str]:
    """Return the sections that this run has no data for, with the reason, in words."""
    absent = data.evidence.absent
    names = {"rolling": "Rolling Sharpe ratio", "regimes": "By regime"}
    if not data.marks and data.model_drift is None:
        names |= {"event_study": "Price moves around headlines", "decay": "Decay of sentiment"}
    if not data.evidence.outcomes:
        names["outcomes"] = "Predictions and outcomes"
    return [f"{title} ({absent[part]})" for part, title in names.items() if part in absent]


def write_report(data: ReportData, page: Path) -> tuple[Path, Path]:
    """Write `page` and the same data as a .json file beside it; return both paths.

    Raises TapewireError if a file can't be written.
    """
    twin = page.with_suffix(".json")
    bare = msgspec.structs.replace(data, candles={})
    json = msgspec.json.format(msgspec.json.Encoder(decimal_format="number").encode(bare), indent=1)
    return write_page(render(data), page, "--output"), write_page(json.decode(), twin, "--output")


def _figures(data: ReportData, drawn: Sequence[str]) -> dict[str, Figure]:
    """Return the charts over time by the id of their element."""
    figures: dict[str, Figure] = {"equity": charts.equity_figure(data)}
    figures |= {f"price-{symbol}": charts.price_figure(data, symbol) for symbol in drawn}
    if data.sleeves is not None:
        figures["sleeves"] = charts.sleeves_figure(data.sleeves)
    if data.evidence.rolling is not None:
        figures["rolling"] = charts.rolling_figure(data.evidence.rolling)
    return figures


def _plots(data: ReportData) -> dict[str, Any]:
    """Return the charts that are drawn here, and the rows of the tables beside them."""
    evidence, analysis = data.evidence, data.analysis
    plots: dict[str, Any] = {
        f"reliability-{one.kind}": charts_evidence.reliability_chart(one) for one in evidence.outcomes
    }
    if evidence.event_study is not None:
        plots["event-study"] = charts_evidence.event_chart(evidence.event_study)
    if evidence.decay is not None:
        plots["decay"] = charts_evidence.decay_chart(evidence.decay)
    if analysis is not None:
        plots |= {
            "returns": trade_charts.return_chart(analysis),
            "return_rows": trade_charts.return_rows(analysis),
            "durations": trade_charts.duration_chart(analysis),
            "duration_rows": trade_charts.duration_rows(analysis),
            "weekday": trade_charts.group_chart(analysis, "weekday"),
            "hour": trade_charts.group_chart(analysis, "hour"),
        }
    return plots


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
