"""Funding of perpetuals in the live paper exchange: the configured rate at every stamp that the market has
passed.

A backtest without a funding history makes the same assumption (docs/assumptions.md). A stamp is due once a
closed bar proves that the market has reached it, so neither the system clock nor a heartbeat can make the
account pay.
"""

from __future__ import annotations

from collections.abc import Iterator

from agent.config import Config
from agent.core.events import Funding
from agent.data.funding import constant_funding


class FundingSchedule:
    """Emits a stamp after the bar that closes at or after it; stamps missed while offline are due on
    return.
    """

    def __init__(self, config: Config) -> None:
        paper = config.execution.mode == "paper"  # a venue books funding itself
        self._symbols = config.market.symbols if config.market.category == "linear" and paper else ()
        self._rate = float(config.paper.funding_rate)
        self._interval = config.paper.funding_interval
        self._since = 0  # the next stamp is later than this, UTC ms

    def set_handled_until(self, at: int) -> None:
        """Set the time (UTC ms) up to which stamps have been handled."""
        self._since = at

    def start(self, now: int) -> None:
        """Start at `now` (UTC ms), the time of the run's first event; later calls have no effect."""
        self._since = self._since or now

    def due(self, close: int, now: int) -> Iterator[Funding]:
        """Yield the stamps that are due after a bar that closes at `close` and is handled at `now` (UTC
        ms).
        """
        since, self._since = self._since, max(close, self._since)
        if since and self._rate and self._interval:
            for funding in constant_funding(self._symbols, self._rate, self._interval, since + 1, close + 1):
                yield Funding(funding.symbol, funding.ts, now, funding.rate)
