"""Price band: a price far from the last one must be confirmed before it may fill a stop or move the account.

Pure: all times come from the bars. A price of an open bar is confirmed by later prices near it, a closed bar
by the venue's history.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from agent.core.events import Kline

MAX_RATIO: Final = 100.0
"""A price that is this many times higher or lower than the last one is never accepted, even from the
history.
"""


class PriceBand:
    """Band of one series around its last accepted price; `width` is a share of that price, 0 turns the band
    off.

    A price outside the band is accepted after it has lasted for `after` ms: each price in between is within
    the band of the one before, and the timestamps of the first and the latest differ by at least `after`.
    `last` is the last known price. Without it, the first price must be confirmed too.
    """

    def __init__(self, width: float, after: int, last: float | None = None) -> None:
        self._width = width
        self._after = after
        self._last = last
        self._low = self._high = last or 0.0  # of the prices accepted since the last closed bar
        self._pending: float | None = None  # latest of the prices that wait for confirmation
        self._pending_since = 0  # ts of the first of them, UTC ms

    @property
    def has_price(self) -> bool:
        """True once there is a price to compare with."""
        return self._last is not None

    def accepts_price(self, state: Kline) -> bool:
        """Check the last price of a bar that is still open."""
        price, last = state.close, self._last
        if not self._width or (last is not None and self._is_near(price, last)):
            self._accept(price)
            return True
        if last is not None and not last / MAX_RATIO <= price <= last * MAX_RATIO:
            return False
        if self._pending is None or not self._is_near(price, self._pending):
            self._pending, self._pending_since = price, state.ts
            return False
        self._pending = price
        if state.ts - self._pending_since < self._after:
            return False
        self._accept(price)
        return True

    def accepts_bar(self, bar: Kline) -> bool:
        """Check a closed bar of the stream against the prices accepted while it was open.

        Without a known price, the bar's own open and close are the reference.
        """
        low, high = self._low, self._high
        if self._last is None:
            low, high = min(bar.open, bar.close), max(bar.open, bar.close)
        fits = low * (1 - self._width) <= bar.low and bar.high <= high * (1 + self._width)
        if self._width and not fits:
            return False
        self._close(bar.close)
        return True

    def confirm_bars(self, bars: Iterable[Kline]) -> list[Kline]:
        """Accept closed bars of the history, in order, and return them without those beyond `MAX_RATIO`."""
        confirmed = []
        for bar in bars:
            last = self._last
            if (
                self._width
                and last is not None
                and (bar.low < last / MAX_RATIO or bar.high > last * MAX_RATIO)
            ):
                continue
            self._close(bar.close)
            confirmed.append(bar)
        return confirmed

    def _is_near(self, price: float, other: float) -> bool:
        return abs(price / other - 1) <= self._width

    def _accept(self, price: float) -> None:
        if self._last is None:
            self._low = self._high = price
        self._last = price
        self._low, self._high = min(self._low, price), max(self._high, price)
        self._pending = None

    def _close(self, price: float) -> None:
        self._last = self._low = self._high = price
        self._pending = None
