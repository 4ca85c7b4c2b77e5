"""The triggers of a run's stop and take-profit orders over time, for its price charts."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Final

from agent.analysis.report.report_data import ProtectiveLevel
from agent.core.events import Order, OrderType, OrderUpdate

MOST: Final = 3_000
"""Levels of a symbol that are kept: the latest ones."""

_KINDS: Final = {OrderType.STOP: "stop", OrderType.TAKE_PROFIT: "take profit"}


@dataclass(slots=True)
class _Level:
    start: int
    price: float
    kind: str
    end: int | None = None


class ProtectiveLevels:
    """Collects the levels by symbol, from decisions in order of time."""

    def __init__(self) -> None:
        self._levels: dict[str, list[_Level]] = {}
        self._counts = Counter[str]()  # of all levels, by symbol
        self._orders: dict[str, _Level] = {}  # by client order id, those that work

    def add(self, order: Order) -> None:
        """Add an order, if it is a stop or a take-profit that doesn't trail."""
        if order.type in _KINDS and order.trigger is not None:
            level = _Level(order.ts, float(order.trigger), _KINDS[order.type])
            self._orders[order.id] = level
            levels = self._levels.setdefault(order.symbol, [])
            levels.append(level)
            self._counts[order.symbol] += 1
            if len(levels) > 2 * MOST:
                del levels[:MOST]

    def update(self, change: OrderUpdate) -> None:
        """End the level of an order whose state is final."""
        if change.status.final and change.order_id in self._orders:
            self._orders.pop(change.order_id).end = change.ts

    def by_symbol(self) -> dict[str, list[ProtectiveLevel]]:
        """Return the levels by symbol, in order of their start."""
        return {
            symbol: [ProtectiveLevel(one.start, one.end, one.price, one.kind) for one in levels[-MOST:]]
            for symbol, levels in self._levels.items()
        }

    def notes(self) -> list[str]:
        """Return a note for each symbol with levels that aren't kept."""
        return [
            f"Of the {count:,} stops and take-profits of {symbol}, the latest {MOST:,} are drawn."
            for symbol, count in self._counts.items()
            if count > MOST
        ]
