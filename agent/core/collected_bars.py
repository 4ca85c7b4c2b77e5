"""Bars for a sleeve that is about to be added: those read from the venue, and the run's own since then."""

from __future__ import annotations

from agent.core.bar_history import Row
from agent.core.events import Kline, PastBars
from agent.core.intervals import period_end


class CollectedBars:
    """Keeps closed bars between `begin` and `end`."""

    def __init__(self) -> None:
        self.collecting = False
        # by symbol, interval (ms) and start (UTC ms)
        self._rows: dict[str, dict[int, dict[int, Row]]] = {}

    def begin(self) -> None:
        """Keep bars from now on; forget those that were kept before."""
        self.collecting = True
        self._rows = {}

    def end(self) -> None:
        """Keep no more bars, and forget those that were kept."""
        self.collecting = False
        self._rows = {}

    def add(self, kline: Kline) -> None:
        """Keep a bar of the run if it is closed."""
        if self.collecting and kline.confirm:
            row = (kline.start, kline.open, kline.high, kline.low, kline.close, kline.volume)
            self._of(kline.symbol, kline.interval)[kline.start] = row

    def add_past(self, past: PastBars, last_start: int) -> bool:
        """Keep bars up to the run's last one, which starts at `last_start`; return whether any are kept."""
        if not self.collecting:
            return False
        rows = self._of(past.symbol, past.interval)
        for row in past.bars:
            if row[0] <= last_start:
                rows.setdefault(row[0], row)  # bars that came live are those that the account has seen
        return True

    def klines(self, now: int) -> list[Kline]:
        """Return the bars as events of `now` (UTC ms): first those of longer intervals, then by time."""
        found = [
            Kline(symbol, interval, start, period_end(start, interval), now, opened, high, low, close, volume)
            for symbol, intervals in self._rows.items()
            for interval, rows in intervals.items()
            for start, opened, high, low, close, volume in rows.values()
        ]
        found.sort(key=lambda one: (-one.interval, one.start, one.symbol))
        return found

    def _of(self, symbol: str, interval: int) -> dict[int, Row]:
        return self._rows.setdefault(symbol, {}).setdefault(interval, {})
