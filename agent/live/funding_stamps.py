"""Funding of perpetuals while the agent runs: the configured rate, at every stamp that the market has passed.

It is the same assumption as in a backtest without a funding history (docs/assumptions.md). A stamp is due once a closed bar proves that
the market has reached it: neither the system clock nor a heartbeat can make the account pay.
"""

from __future__ import annotations

from collections.abc import Iterator

from agent.config import Config
from agent.core.events import Funding
from agent.data.funding import constant_funding


class FundingSchedule:
    """Stamps are due after the bar that closes at or after them; a stamp that passed during an absence is due on return."""

    def __init__(self, config: Config) -> None:
        paper = config.execution.mode == "paper"  # a venue books its own
        self._symbols = config.market.symbols if config.market.category == "linear" and paper else ()
        self._rate = float(config.paper.funding_rate)
        self._interval = config.paper.funding_interval
        self._since = 0  # the next stamp is later than this, UTC ms

    def passed(self, at: int) -> None:
        """What is due up to the stamp `at` (UTC ms) has been handled."""
        self._since = at

    def begin(self, now: int) -> None:
        """An event is handled at `now` (UTC ms): with the first one of a run its stamps begin."""
        self._since = self._since or now

    def due(self, close: int, now: int) -> Iterator[Funding]:
        """The stamps that are due after a bar that closes at `close` (UTC ms) and is handled at `now`."""
        since, self._since = self._since, max(close, self._since)
        if since and self._rate and self._interval:
            for funding in constant_funding(self._symbols, self._rate, self._interval, since + 1, close + 1):
                yield Funding(funding.symbol, funding.ts, now, funding.rate)
