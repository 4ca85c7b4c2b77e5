"""Round trips of two runs, matched by symbol, side and time of entry."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from decimal import Decimal

import msgspec

from agent.analysis.trades import RoundTrip
from agent.core.events import Side


class MatchedTrade(msgspec.Struct, frozen=True):
    """A round trip of both runs. `differs` names the fields that differ, in the order of `RoundTrip`."""

    a: RoundTrip
    b: RoundTrip
    differs: tuple[str, ...]

    @property
    def pnl(self) -> Decimal:
        """Net result of a minus that of b, in quote currency."""
        return self.a.pnl - self.b.pnl


class TradeComparison(msgspec.Struct, frozen=True):
    """All round trips of two runs, each in order of entry. Two match if they enter within `tolerance` ms."""

    tolerance: int
    equal: int
    differing: list[MatchedTrade]
    only_a: list[RoundTrip]
    only_b: list[RoundTrip]


_COMPARED = (
    *("entry_ts", "exit_ts", "entry_price", "exit_price", "qty", "pnl", "fees", "funding", "slippage"),
    *("reason", "exit_reason"),
)


def match_trades(a: Sequence[RoundTrip], b: Sequence[RoundTrip], tolerance: int) -> TradeComparison:
    """Match the round trips of two runs.

    Those with equal entry times match first; then the nearest ones whose entries are at most `tolerance` ms
    apart, since fills at a venue come a little later than those of a replay.
    """
    found: list[MatchedTrade] = []
    only_a, only_b = list[RoundTrip](), list[RoundTrip]()
    groups: dict[tuple[str, Side], tuple[list[RoundTrip], list[RoundTrip]]] = defaultdict(lambda: ([], []))
    for side, trades in enumerate((a, b)):
        for trade in trades:
            groups[trade.symbol, trade.side][side].append(trade)
    for first, second in groups.values():
        pairs = _pairs(first, second, tolerance)
        found += [MatchedTrade(one, other, _differs(one, other)) for one, other in pairs]
        used = {id(one) for one, _ in pairs}, {id(other) for _, other in pairs}
        only_a += [trade for trade in first if id(trade) not in used[0]]
        only_b += [trade for trade in second if id(trade) not in used[1]]
    differing = sorted((pair for pair in found if pair.differs), key=lambda pair: _order(pair.a))
    return TradeComparison(
        tolerance,
        len(found) - len(differing),
        differing,
        sorted(only_a, key=_order),
        sorted(only_b, key=_order),
    )


def _pairs(
    first: Sequence[RoundTrip], second: Sequence[RoundTrip], tolerance: int
) -> list[tuple[RoundTrip, RoundTrip]]:
    """Match two lists of one symbol and side: exact entry times, then the nearest, in order."""
    waiting: dict[int, list[RoundTrip]] = defaultdict(list)
    for trade in second:
        waiting[trade.entry_ts].append(trade)
    pairs, rest = [], []
    for trade in sorted(first, key=_order):
        same = waiting[trade.entry_ts]
        if same:
            pairs.append((trade, same.pop(0)))
        else:
            rest.append(trade)
    others = sorted((trade for same in waiting.values() for trade in same), key=_order)
    at = 0
    for trade in rest:
        while at < len(others) and others[at].entry_ts < trade.entry_ts - tolerance:
            at += 1
        while at + 1 < len(others) and _distance(others[at + 1], trade) < _distance(others[at], trade):
            at += 1
        if at < len(others) and _distance(others[at], trade) <= tolerance:
            pairs.append((trade, others[at]))
            at += 1
    return pairs


def _distance(a: RoundTrip, b: RoundTrip) -> int:
    return abs(a.entry_ts - b.entry_ts)


def _differs(a: RoundTrip, b: RoundTrip) -> tuple[str, ...]:
    return tuple(name for name in _COMPARED if getattr(a, name) != getattr(b, name))


def _order(trade: RoundTrip) -> tuple[int, str, str]:
    return trade.entry_ts, trade.symbol, trade.side.value
