"""State shared by all interfaces of the sandbox: market, account, clock, rate limits and faults."""

from __future__ import annotations

import asyncio

from agent.sandbox.auth import Authenticator
from agent.sandbox.faults import FaultInjector
from agent.sandbox.listed_instruments import Instruments
from agent.sandbox.private_ws import PrivateStreams
from agent.sandbox.rate_limits import RateLimits
from agent.sandbox.replay_market import ReplayMarket
from agent.sandbox.sandbox_options import SandboxOptions
from agent.sandbox.unified_account import UnifiedAccount
from agent.system.clock import WallClock


class SandboxVenue:
    """One exchange and its account."""

    def __init__(self, options: SandboxOptions) -> None:
        self.options = options
        self.faults = FaultInjector(options.seed, options.faults)
        self.limits = RateLimits(options.ip_limit, options.ip_ban_s, options.socket_limit)
        self.auth = Authenticator(options.api_key, options.api_secret, self._valid_times)
        self.market = ReplayMarket(options)
        self.instruments = Instruments(options, self.market)
        self.private = PrivateStreams(self.auth, self.now)
        call_later = asyncio.get_running_loop().call_later
        self.account = UnifiedAccount(
            options, self.instruments, self.market, self.private, self.market.clock.now, call_later
        )
        self.private.account = self.account

    @property
    def order_latency_s(self) -> float:
        """Seconds from the arrival of an order request to its handling."""
        return self.options.order_latency / 1000 / self.options.speed

    def now(self) -> int:
        """Return the venue's time (UTC ms): the market's clock plus the skew of faults."""
        return self.market.clock.now() + self.faults.skew()

    def _valid_times(self) -> tuple[int, int]:
        both = (
            self.market.clock.now(),
            self.market.clock.now() if self.options.speed == 1 else WallClock().now(),
        )
        skew = self.faults.skew()
        return min(both) + skew, max(both) + skew
