"""Closed round trips in groups (by symbol, side, reason, day, weekday, hour), and their distributions.

All times are UTC. Amounts are in quote currency, net of fees and funding; a return is the profit over the
notional entered (`RoundTrip.return_on_notional`).
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from itertools import pairwise
from typing import Final, Literal

import msgspec
import numpy as np

from agent.analysis.daily import Floats, Ints
from agent.analysis.equity import Drawdown
from agent.analysis.trades import RoundTrip, TradeStats
from agent.core.events import DAY_MS, HOUR_MS, MINUTE_MS, Side

Grouping = Literal["symbol", "side", "entry reason", "exit reason", "day", "weekday", "hour"]

RETURN_EDGES: Final = (-0.1, -0.05, -0.03, -0.02, -0.01, -0.005, 0.0, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1)
"""Edges between the bins of returns, fractions."""

DURATION_EDGES: Final = (
    5 * MINUTE_MS,
    15 * MINUTE_MS,
    HOUR_MS,
    4 * HOUR_MS,
    DAY_MS,
    3 * DAY_MS,
    7 * DAY_MS,
    30 * DAY_MS,
)
"""Edges between the bins of durations, ms."""

WEEKDAYS: Final = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")

_NUMBER: Final = re.compile(r"[+-]?\d[\d.,]*")


class TradeGroup(msgspec.Struct, frozen=True):
    """Figures of the closed round trips with the same label. None if a ratio is undefined."""

    label: str
    trades: int
    wins: int  # pnl > 0
    pnl: Decimal
    fees: Decimal
    funding: Decimal  # negative if paid
    profit_factor: float | None  # gross profit over gross loss
    mean_return: float  # fraction
    mean_duration: float  # ms

    @property
    def win_rate(self) -> float:
        """Share of round trips with a profit."""
        return self.wins / self.trades


class TradeBin(msgspec.Struct, frozen=True):
    """Round trips whose value is in [low, high); None: without a bound."""

    low: float | None
    high: float | None
    trades: int
    pnl: Decimal


class TradeAnalysis(msgspec.Struct, frozen=True):
    """Closed round trips, grouped and counted. Open ones are left out."""

    trades: int
    groups: dict[Grouping, tuple[TradeGroup, ...]]
    returns: tuple[TradeBin, ...]  # by return, fractions
    durations: tuple[TradeBin, ...]  # by time from the first entry to the last exit, ms


def analyse_trades(trades: Iterable[RoundTrip]) -> TradeAnalysis:
    """Group closed round trips.

    A `day` is that of the exit, when the profit was made; `weekday` and `hour` are of the entry. Days,
    weekdays and hours come in their order, other groups by profit, highest first. Reasons that differ only in
    numbers are one group: `expects +0.31%` and `expects +0.52%` are `expects …%`.
    """
    closed = [trade for trade in trades if trade.exit_ts is not None]
    return TradeAnalysis(
        trades=len(closed),
        groups={name: _grouped(closed, label_of, order) for name, (label_of, order) in _GROUPINGS.items()},
        returns=_binned(closed, RETURN_EDGES, lambda trade: trade.return_on_notional),
        durations=_binned(closed, DURATION_EDGES, lambda trade: float(trade.holding_time or 0)),
    )


def reason_group(reason: str) -> str:
    """Return the reason without its numbers; `none given` for an empty one."""
    return _NUMBER.sub("…", reason) or "none given"


def worst_drawdowns(
    ts: Ints, equity: Floats, initial: float, *, start: int, count: int = 5
) -> list[Drawdown]:
    """Return the `count` deepest drawdowns that don't overlap, deepest first.

    `equity` has shape (n,) and belongs to `ts` (UTC ms, ascending); it was `initial` at `start`. A drawdown
    lasts from a peak to the first sample that reaches it again, or to the end.
    """
    times, values = np.concatenate(((start,), ts)), np.concatenate(((initial,), equity))
    peaks = np.maximum.accumulate(values)
    below = np.flatnonzero(values < peaks)
    if not len(below):
        return []
    begins = below[np.flatnonzero(np.diff(below, prepend=below[0] - 2) > 1)]
    ends = below[np.flatnonzero(np.diff(below, append=below[-1] + 2) > 1)]
    found = []
    for begin, end in zip(begins.tolist(), ends.tolist(), strict=True):
        trough = begin + int(values[begin : end + 1].argmin())
        depth = float(values[trough] / peaks[begin] - 1) if peaks[begin] > 0 else -1.0
        recovery = int(times[end + 1]) if end + 1 < len(times) else None
        found.append(Drawdown(depth, int(times[begin - 1]), int(times[trough]), recovery))
    return sorted(found, key=lambda drawdown: drawdown.depth)[:count]


def _day(ts: int) -> str:
    return datetime.fromtimestamp(ts / 1000, UTC).date().isoformat()


def _weekday(ts: int) -> str:
    return WEEKDAYS[datetime.fromtimestamp(ts / 1000, UTC).weekday()]


def _hour(ts: int) -> str:
    return f"{ts % DAY_MS // HOUR_MS:02d}:00"


_GROUPINGS: Final[dict[Grouping, tuple[Callable[[RoundTrip], str], Sequence[str] | None]]] = {
    "symbol": (lambda trade: trade.symbol, None),
    "side": (lambda trade: "long" if trade.side is Side.BUY else "short", None),
    "entry reason": (lambda trade: reason_group(trade.reason), None),
    "exit reason": (lambda trade: reason_group(trade.exit_reason), None),
    "day": (lambda trade: _day(trade.exit_ts or 0), ()),
    "weekday": (lambda trade: _weekday(trade.entry_ts), WEEKDAYS),
    "hour": (lambda trade: _hour(trade.entry_ts), ()),
}
"""Label of a round trip, and the order of the labels: given, `()` for alphabetical, None for by profit."""


def _grouped(
    trades: list[RoundTrip], label_of: Callable[[RoundTrip], str], order: Sequence[str] | None
) -> tuple[TradeGroup, ...]:
    members: dict[str, list[RoundTrip]] = {}
    for trade in trades:
        members.setdefault(label_of(trade), []).append(trade)
    groups = [group_trades(label, members[label]) for label in sorted(members)]
    if order is None:
        groups.sort(key=lambda group: -group.pnl)
    elif order:
        groups.sort(key=lambda group: order.index(group.label))
    return tuple(groups)


def group_trades(label: str, trades: list[RoundTrip]) -> TradeGroup:
    """Return the figures of closed round trips, at least one."""
    stats = TradeStats()
    for trade in trades:
        stats.add(trade)
    return TradeGroup(
        label=label,
        trades=stats.trades,
        wins=stats.wins,
        pnl=stats.gross_profit - stats.gross_loss,
        fees=sum((trade.fees for trade in trades), Decimal(0)),
        funding=sum((trade.funding for trade in trades), Decimal(0)),
        profit_factor=stats.profit_factor,
        mean_return=sum(trade.return_on_notional for trade in trades) / len(trades),
        mean_duration=stats.holding_time / len(trades),
    )


def _binned(
    trades: list[RoundTrip], edges: Sequence[float], value_of: Callable[[RoundTrip], float]
) -> tuple[TradeBin, ...]:
    counts = [0] * (len(edges) + 1)
    sums = [Decimal(0)] * (len(edges) + 1)
    for trade in trades:
        place = bisect_right(edges, value_of(trade))
        counts[place] += 1
        sums[place] += trade.pnl
    bounds = pairwise((None, *edges, None))
    return tuple(
        TradeBin(low, high, count, pnl) for (low, high), count, pnl in zip(bounds, counts, sums, strict=True)
    )
