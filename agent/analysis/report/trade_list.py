"""All round trips of a run in compact form, for the page's sortable table, its charts and its CSV file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Final

import msgspec

from agent.analysis.report.report_data import SourceHeadline
from agent.analysis.trades import RoundTrip
from agent.core.events import Side

BUDGET: Final = 450_000
"""Bytes of the list. With more round trips, those with the largest profit or loss are kept."""

COLUMNS: Final = (
    *("symbol", "long", "entry", "duration", "qty", "entry_price", "exit_price", "pnl", "return"),
    *("fees", "funding", "reason", "exit_reason", "headline", "publisher"),
)
_HEADLINE: Final = 160  # characters


class TradeList(msgspec.Struct, frozen=True):
    """Round trips in order of exit, the open ones last. Rows have the values of `columns`.

    Texts are numbers of `texts`. Entry is in UTC ms, duration in ms (None: still open), the return a
    fraction of the value entered, other amounts in quote currency.
    """

    columns: tuple[str, ...]
    texts: list[str]
    rows: list[tuple[float | None, ...]]
    count: int  # of the run, of which the rows may be a part


def list_trades(
    trades: Sequence[RoundTrip], headlines: Mapping[str, Sequence[SourceHeadline]], budget: int = BUDGET
) -> TradeList:
    """Return the list of `trades`, with the first headline of each from `headlines` (by client order id).

    It is cut to about `budget` bytes of JSON.
    """
    kept = list(trades)
    while True:
        found = _listed(kept, headlines, len(trades))
        size = len(msgspec.json.encode(found))
        if size <= budget or len(kept) <= 1:
            return found
        most = max(int(len(kept) * budget / size * 0.97), 1)
        chosen = sorted(range(len(kept)), key=lambda number: -abs(kept[number].pnl))[:most]
        kept = [kept[number] for number in sorted(chosen)]


def _listed(
    trades: Sequence[RoundTrip], headlines: Mapping[str, Sequence[SourceHeadline]], count: int
) -> TradeList:
    texts: dict[str, int] = {"": 0}

    def text(value: str) -> int:
        return texts.setdefault(value, len(texts))

    rows: list[tuple[float | None, ...]] = []
    for trade in trades:
        source = next(iter(headlines.get(trade.entry_order, ())), None)
        rows.append(
            (
                text(trade.symbol),
                int(trade.side is Side.BUY),
                trade.entry_ts,
                trade.holding_time,
                _short(trade.qty),
                _short(trade.entry_price),
                None if trade.exit_price is None else _short(trade.exit_price),
                _short(trade.pnl),
                round(trade.return_on_notional, 6),
                _short(trade.fees),
                _short(trade.funding),
                text(trade.reason),
                text(trade.exit_reason),
                text(source.title[:_HEADLINE] if source else ""),
                text(source.publisher[:_HEADLINE] if source else ""),
            )
        )
    return TradeList(COLUMNS, list(texts), rows, count)


def _short(value: Decimal) -> float:
    """Return the amount with twelve digits; 12 rather than 12.0, which is shorter."""
    short = float(f"{value:.12g}")
    return int(short) if short.is_integer() else short
