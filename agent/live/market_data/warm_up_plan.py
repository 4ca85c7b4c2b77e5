"""Which bars a live run reads before its first one: of its own interval, and of higher ones.

Bars of the run's own interval are folded as in a replay, so they are preferred. If an interval needs more
than `MOST_BARS` of them, its bars are read from the venue directly (200 days are one request instead of 288
of minutes), and the run's bars only since its current period began, so that folding continues it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from agent.config.bybit import INTERVALS
from agent.core.intervals import parse_interval, period_start, periods_before

MOST_BARS: Final = 20_000
"""Bars of the run's interval that are read for the warm-up of one symbol, 20 requests."""


class WarmUpPlan:
    """`least` bars of the run's interval, and `needed`, the strategy's bars by interval."""

    def __init__(self, least: int, needed: Mapping[str, int]) -> None:
        self._least = least
        self._needed = {parse_interval(name): bars for name, bars in needed.items()}

    def start(self, now: int, base: int) -> int:
        """Return the start (UTC ms) of the first bar of the run's interval, `base` (ms), to read at `now`."""
        higher = self.higher(now, base)
        begins = [now - self._least * base]
        for interval, bars in self._needed.items():
            begin = period_start(now, interval) if interval in higher else periods_before(now, interval, bars)
            # Months can't be read directly, so theirs may be cut off
            begins.append(begin if interval in higher else max(begin, now - MOST_BARS * base))
        return max(0, min(begins))

    def higher(self, now: int, base: int) -> dict[int, int]:
        """Return the higher intervals (ms) to read directly, and the starts of their first bars (UTC ms)."""
        starts = {
            interval: max(0, periods_before(now, interval, bars))
            for interval, bars in sorted(self._needed.items())
        }
        return {
            interval: start
            for interval, start in starts.items()
            if interval > base and interval in INTERVALS and now - start > MOST_BARS * base
        }
