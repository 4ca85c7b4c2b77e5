"""Words for a comparison, shared by the terminal and the page. Texts are not escaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from enum import Enum
from typing import Any, Final, NamedTuple

import msgspec

from agent.analysis.comparison.comparison_data import MetricRow, RunComparison
from agent.analysis.comparison.matched_trades import MatchedTrade
from agent.analysis.comparison.paired_returns import PairedReturns
from agent.analysis.comparison.setting_differences import SettingDifference
from agent.analysis.cost_breakdown import CostBreakdown
from agent.analysis.report import formats
from agent.analysis.trades import RoundTrip
from agent.core.events import Decision, Event, Side, kind_of
from agent.data.text import one_line
from agent.system.clock import iso

_LONGEST: Final = 100  # characters of a value
_LEFT_OUT: Final = (
    *("ts", "available_at", "id", "order_id", "oco", "embedding", "provenance"),
    *("model", "latency_ms", "start", "interval", "confirm"),
)


class CostRow(NamedTuple):
    """A component of the costs of both runs, and a minus b, in quote currency."""

    label: str
    a: float
    b: float
    difference: float


def headline(found: RunComparison) -> str:
    """State in one sentence how the runs relate."""
    changed = differing_settings(found.settings)
    equal = f"{found.decisions.equal:,} decisions"
    if found.identical:
        return f"identical: the same settings, inputs and {equal}"
    if found.same_decisions:
        inputs = "the same inputs" if found.inputs.same else "inputs that may differ"
        return f"the same {equal} on {inputs}; {changed}"
    if found.inputs.same is False:
        return f"the runs had different inputs; {changed}"
    first = found.first_decision
    when = f" ({iso(first.ts)}, event {first.difference.event_seq:,})" if first else ""
    return f"the runs decide differently from decision {found.decisions.equal + 1:,} on{when}; {changed}"


def differing_settings(settings: Sequence[SettingDifference]) -> str:
    """State how many settings differ."""
    count = len(settings)
    if not count:
        return "all settings are the same"
    return f"{count:,} settings differ" if count > 1 else "1 setting differs"


def first_decision_lines(found: RunComparison) -> list[str]:
    """Describe the first differing decision: its event, what each run decided, and the fields that differ."""
    first = found.first_decision
    if first is None:
        return []
    difference = first.difference
    lines = [f"decision {difference.number:,}, on event {difference.event_seq:,} at {iso(first.ts)}"]
    if first.event is not None:
        lines.append(f"event: {describe(first.event)}")
    for name, decision in (("a", difference.a), ("b", difference.b)):
        lines.append(f"{name}: {describe(decision) if decision is not None else 'no decision on this event'}")
    if difference.fields:
        shown = (f"{one.name} {shown_value(one.a)} / {shown_value(one.b)}" for one in difference.fields)
        lines.append(f"differs in: {', '.join(shown)}")
    return lines


def describe(message: Event | Decision) -> str:
    """Return kind and fields of a message on one line; times, ids and empty fields are left out."""
    parts = [kind_of(message)]
    for name in message.__struct_fields__:
        value = getattr(message, name)
        if name in _LEFT_OUT or value is msgspec.UNSET or value is None or value in ("", (), {}, False):
            continue
        if isinstance(value, float) and value != value:
            continue
        parts.append(shown_value(value) if name == "symbol" else f"{name}={shown_value(value)}")
    return " ".join(parts)


def shown_value(value: Any) -> str:
    """Return a value on one line of bounded length; a dash for None."""
    if value is None:
        return formats.MISSING
    if isinstance(value, Enum):
        return str(value.value)
    if isinstance(value, Decimal):
        return f"{value:f}"
    if isinstance(value, float):
        return f"{value:.10g}"
    if isinstance(value, (list, tuple)):
        return one_line(f"[{', '.join(shown_value(one) for one in value)}]", _LONGEST)
    if isinstance(value, msgspec.Struct):
        value = {
            name: one for name, one in msgspec.structs.asdict(value).items() if not isinstance(one, bytes)
        }
    if isinstance(value, Mapping):
        return one_line(" ".join(f"{key}={shown_value(one)}" for key, one in value.items()), _LONGEST)
    return one_line(str(value), _LONGEST)


def format_metric(row: MetricRow, value: float | None, *, signed: bool = False) -> str:
    """Format a value of a metric; `signed` for a difference."""
    match row.unit:
        case "percent":
            return formats.percent(value, 2, signed=signed)
        case "money":
            return formats.money(value, signed=signed)
        case "count":
            return formats.number(value, 0, signed=signed)
        case "duration":
            sign = "" if value is None or not signed or not value else "+" if value > 0 else "−"
            return sign + formats.duration(None if value is None else abs(value))
    return formats.number(value, 2, signed=signed)


def paired_lines(paired: PairedReturns) -> list[str]:
    """State the difference of the returns with its interval, and how it is computed."""
    if not paired.periods:
        return [f"Not compared: {paired.absent}."]
    window = f"{iso(paired.start)[:16]} to {iso(paired.end)[:16]}"
    one, other = (
        formats.percent(value, 2, signed=True) for value in (paired.total_return_a, paired.total_return_b)
    )
    lines = [f"Over the common time, {window}, a returns {one} and b {other}."]
    if paired.difference is None:
        return [*lines, f"No interval: {paired.absent}."]
    lead, ratio = paired.difference.total_return, paired.difference.sharpe
    value, low, high = (formats.percent(bound, 2, signed=True) for bound in (lead.value, lead.low, lead.high))
    zero = "" if lead.excludes(0.0) else ", not distinguishable from zero"
    lines.append(f"a minus b is {value} ({low} to {high}{zero}).")
    value, low, high = (
        formats.number(bound, 2, signed=True) for bound in (ratio.value, ratio.low, ratio.high)
    )
    zero = "" if ratio.excludes(0.0) else ", not distinguishable from zero"
    lines.append(f"The Sharpe ratio of a minus that of b is {value} ({low} to {high}{zero}).")
    if paired.correlation is not None:
        lines.append(f"The returns have a correlation of {formats.number(paired.correlation)}.")
    return [*lines, paired.method]


def cost_rows(a: CostBreakdown, b: CostBreakdown) -> list[CostRow]:
    """Return the components of the costs side by side, from the gross to the net result."""
    names = {
        "gross": "Before costs",
        "spread": "Spread",
        "slippage": "Slippage",
        "fees": "Fees",
        "funding": "Funding",
        "net": "Net result",
    }
    rows = []
    for name, label in names.items():
        one, other = float(getattr(a, name)), float(getattr(b, name))
        rows.append(CostRow(label, one, other, one - other))
    return rows


def trade_line(trade: RoundTrip) -> str:
    """Describe a round trip on one line."""
    side = "long" if trade.side is Side.BUY else "short"
    ends = "open" if trade.exit_ts is None else iso(trade.exit_ts)[:19]
    prices = formats.price(float(trade.entry_price))
    if trade.exit_price is not None:
        prices += f" → {formats.price(float(trade.exit_price))}"
    result = formats.money(float(trade.pnl), signed=True)
    why = f"; {one_line(trade.reason, _LONGEST)}" if trade.reason else ""
    start = iso(trade.entry_ts)[:19]
    return f"{trade.symbol} {side} {start} – {ends}: {trade.qty.normalize():f} at {prices}, net {result}{why}"


def matched_line(pair: MatchedTrade) -> str:
    """Describe a round trip of both runs, and the fields that differ."""
    fields = ", ".join(
        f"{name} {_trade_value(name, getattr(pair.a, name))} / {_trade_value(name, getattr(pair.b, name))}"
        for name in pair.differs
    )
    side = "long" if pair.a.side is Side.BUY else "short"
    return f"{pair.a.symbol} {side} {iso(pair.a.entry_ts)[:19]}: {fields}"


def _trade_value(name: str, value: Any) -> str:
    if name in ("entry_ts", "exit_ts"):
        return formats.MISSING if value is None else iso(value)[:19]
    if name in ("entry_price", "exit_price") and value is not None:
        return formats.price(float(value))
    if name in ("pnl", "fees", "funding", "slippage"):
        return formats.money(float(value))
    return shown_value(value)
