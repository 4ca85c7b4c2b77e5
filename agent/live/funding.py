"""Funding of perpetuals while the agent runs: the configured rate, at every stamp that has passed.

It is the same assumption as in a backtest without a funding history (docs/assumptions.md).
"""

from __future__ import annotations

from collections.abc import Iterator

from agent.config import Config
from agent.events import Funding
from agent.feeds.history.funding import constant_funding


class FundingSchedule:
    """Stamps are due once the core's time has reached them; a stamp that passed during an absence is due on return."""

    def __init__(self, config: Config) -> None:
        paper = config.execution.mode == "paper"  # a venue books its own
        self._symbols = config.market.symbols if config.market.category == "linear" and paper else ()
        self._rate = float(config.paper.funding_rate)
        self._interval = config.paper.funding_interval
        self._since = 0  # the next stamp is later than this, UTC ms

    def passed(self, now: int) -> None:
        """What is due at `now` (UTC ms) has been handled."""
        self._since = now

    def due(self, now: int) -> Iterator[Funding]:
        """The stamps in (since, now], where `since` is the first or the last time that was asked or told."""
        since, self._since = self._since, max(now, self._since)
        if since and self._rate and self._interval:
            for funding in constant_funding(self._symbols, self._rate, self._interval, since + 1, now + 1):
                yield Funding(funding.symbol, funding.ts, now, funding.rate)
