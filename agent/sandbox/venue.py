"""What all doors of the exchange share: the market, the account, the clock, limits and faults."""

from __future__ import annotations

import asyncio

from agent.sandbox.account import Account
from agent.sandbox.auth import Authenticator
from agent.sandbox.faults import Faults
from agent.sandbox.limits import RateLimits
from agent.sandbox.listing import Listing
from agent.sandbox.market import Market
from agent.sandbox.options import SandboxOptions
from agent.sandbox.private_ws import PrivateStreams
from agent.system.clock import WallClock


class Venue:
    """One exchange. `now` is what it says the time is: the market's clock, and what a fault adds."""

    def __init__(self, options: SandboxOptions) -> None:
        self.options = options
        self.faults = Faults(options.seed, options.faults)
        self.limits = RateLimits(options.ip_limit, options.ip_ban_s, options.socket_limit)
        self.auth = Authenticator(options.api_key, options.api_secret, self._clocks)
        self.market = Market(options)
        self.listing = Listing(options, self.market)
        self.private = PrivateStreams(self.auth, self.now)
        later = asyncio.get_running_loop().call_later
        self.account = Account(options, self.listing, self.market, self.private, self.market.clock.now, later)
        self.private.account = self.account

    def now(self) -> int:
        """The venue's time, UTC ms."""
        return self.market.clock.now() + self.faults.skew()

    def _clocks(self) -> tuple[int, int]:
        both = (
            self.market.clock.now(),
            self.market.clock.now() if self.options.speed == 1 else WallClock().now(),
        )
        skew = self.faults.skew()
        return min(both) + skew, max(both) + skew
