"""The charts of the trade analysis: distributions of returns and durations, results by weekday and hour."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from markupsafe import Markup

from agent.analysis.report import formats
from agent.analysis.report.svg import ChartBar, bar_chart
from agent.analysis.trade_groups import Grouping, TradeAnalysis, TradeBin, TradeGroup


class BinRow(NamedTuple):
    """A row of the table beside a distribution; `pnl` in quote currency."""

    label: str
    short: str  # its lower bound
    trades: int
    pnl: float


def return_rows(analysis: TradeAnalysis) -> list[BinRow]:
    """Return the distribution of returns, without the empty bins at both ends."""
    return _rows(analysis.returns, _short_percent)


def duration_rows(analysis: TradeAnalysis) -> list[BinRow]:
    """Return the distribution of durations, without the empty bins at both ends."""
    return _rows(analysis.durations, formats.duration)


def return_chart(analysis: TradeAnalysis) -> Markup:
    """Draw how many round trips had which return on the value entered."""
    bins = _used(analysis.returns)
    colours = ["gain" if (one.low if one.low is not None else -1.0) >= 0 else "loss" for one in bins]
    return _histogram("Round trips by return", return_rows(analysis), colours)


def duration_chart(analysis: TradeAnalysis) -> Markup:
    """Draw how many round trips lasted how long."""
    rows = duration_rows(analysis)
    return _histogram("Round trips by duration", rows, ["accent"] * len(rows))


def group_chart(analysis: TradeAnalysis, grouping: Grouping) -> Markup:
    """Draw the net result of the groups of round trips, in their order."""
    groups = analysis.groups[grouping]
    return bar_chart(
        f"Net result by {grouping} of entry",
        "; ".join(f"{one.label}: {formats.money(float(one.pnl), signed=True)}" for one in groups),
        [_bar(one, grouping) for one in groups],
        lambda value: formats.number(value, 0),
    )


def _bar(group: TradeGroup, grouping: Grouping) -> ChartBar:
    text = (
        f"{group.label}: {formats.money(float(group.pnl), signed=True)}, {group.trades:,} round trips, "
        f"{formats.percent(group.win_rate, 0)} of them won"
    )
    label = group.label[:3] if grouping == "weekday" else group.label[:2]
    return ChartBar(label, float(group.pnl), text, "gain" if group.pnl >= 0 else "loss")


def _histogram(title: str, rows: Sequence[BinRow], colours: Sequence[str]) -> Markup:
    texts = [
        f"{row.label}: {row.trades:,} round trips, {formats.money(row.pnl, signed=True)}" for row in rows
    ]
    bars = [
        ChartBar(row.short, row.trades, text, colour)
        for row, text, colour in zip(rows, texts, colours, strict=True)
    ]
    return bar_chart(title, "; ".join(texts), bars, lambda value: formats.number(value, 0))


def _short_percent(value: float) -> str:
    return f"{value * 100:{'+' if value else ''}g}\u00a0%".replace("-", "−")


def _used(bins: Sequence[TradeBin]) -> Sequence[TradeBin]:
    used = [number for number, one in enumerate(bins) if one.trades]
    return bins[used[0] : used[-1] + 1] if used else ()


def _rows(bins: Sequence[TradeBin], show: Callable[[float], str]) -> list[BinRow]:
    return [BinRow(*_labels(one, show), one.trades, float(one.pnl)) for one in _used(bins)]


def _labels(one: TradeBin, show: Callable[[float], str]) -> tuple[str, str]:
    """Return the bounds of a bin, and the one at which it begins."""
    if one.low is None:
        return f"below {show(one.high or 0.0)}", "less"
    if one.high is None:
        return f"{show(one.low)} and more", f"≥ {show(one.low)}"
    return f"{show(one.low)} to {show(one.high)}", show(one.low)
