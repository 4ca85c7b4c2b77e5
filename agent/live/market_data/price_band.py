"""The price band: a price far from the last one has to be confirmed before it may fill a stop or move the
account.

Pure: it judges prices with their times. A refused price is not lost: a state is confirmed by later states
near it, a closed bar by the venue's history.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from agent.core.events import Kline

ABSURD: Final = 100.0
"""A price so many times higher or lower than the last one is never believed, not even of the history."""


class PriceBand:
    """The band of one series around its last accepted price: `width` is a share of it, 0 turns the band off.

    A price outside the band is accepted once the price has stood there for `after` ms: a later state at least
    so much younger than the first one has to be within the band of the states between. `last` is the last
    price that is known already; without it the first price has to be confirmed too.
    """

    def __init__(self, width: float, after: int, last: float | None = None) -> None:
        self._width = width
        self._after = after
        self._last = last
        self._low = self._high = last or 0.0  # of the accepted prices since the last closed bar
        self._doubted: float | None = None  # newest price of those that wait for confirmation
        self._since = 0  # ts of the first of them, UTC ms

    @property
    def known(self) -> bool:
        """Whether there is a price to compare with."""
        return self._last is not None

    def admits(self, state: Kline) -> bool:
        """Judge the last price of a bar that is still open."""
        price, last = state.close, self._last
        if not self._width or (last is not None and self._near(price, last)):
            self._accept(price)
            return True
        if last is not None and not last / ABSURD <= price <= last * ABSURD:
            return False
        if self._doubted is None or not self._near(price, self._doubted):
            self._doubted, self._since = price, state.ts
            return False
        self._doubted = price
        if state.ts - self._since < self._after:
            return False
        self._accept(price)
        return True

    def admits_bar(self, bar: Kline) -> bool:
        """Judge a closed bar of the stream by the prices that were accepted while it was open; without
        any by its open and close.
        """
        low, high = self._low, self._high
        if self._last is None:
            low, high = min(bar.open, bar.close), max(bar.open, bar.close)
        fits = low * (1 - self._width) <= bar.low and bar.high <= high * (1 + self._width)
        if self._width and not fits:
            return False
        self._close(bar.close)
        return True

    def confirm(self, bars: Iterable[Kline]) -> list[Kline]:
        """Take closed bars of the history, in order: all but absurd ones are true, however far they are."""
        possible = []
        for bar in bars:
            last = self._last
            if self._width and last is not None and (bar.low < last / ABSURD or bar.high > last * ABSURD):
                continue
            self._close(bar.close)
            possible.append(bar)
        return possible

    def _near(self, price: float, other: float) -> bool:
        return abs(price / other - 1) <= self._width

    def _accept(self, price: float) -> None:
        if self._last is None:
            self._low = self._high = price
        self._last = price
        self._low, self._high = min(self._low, price), max(self._high, price)
        self._doubted = None

    def _close(self, price: float) -> None:
        self._last = self._low = self._high = price
        self._doubted = None
