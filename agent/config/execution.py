"""The configuration of where orders go: the paper exchange, or a venue where no real money is."""

from __future__ import annotations

import re
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field

from agent.core.durations import Duration
from agent.core.exchange import ExchangeFactory
from agent.core.paper import PaperExchange
from agent.core.settings import Section
from agent.core.venue import ForeignPolicy, VenueExchange
from agent.system.backoff import BackoffConfig

VENUES: Final = ("testnet", "demo")
_LOCAL: Final = re.compile(r"http://(localhost|127\.0\.0\.1|\[::1\])(:[0-9]{1,5})?/?")


def _known_venue(value: str) -> str:
    if value not in VENUES and not _LOCAL.fullmatch(value):
        raise ValueError(
            f"orders go to {', '.join(VENUES)} or a sandbox of this machine such as http://127.0.0.1:8600"
        )
    return value


class TestnetConfig(Section):
    """A venue, and how patient its gateway is. Times are real time, also where a sandbox runs a faster market.

    What a person can't change here is where private requests may go: that list is in code (agent/live/gateway/allowlist.py).
    """

    __test__ = False  # for pytest: this is no test

    venue: Annotated[str, AfterValidator(_known_venue)] = "testnet"  # or demo, or http://127.0.0.1:PORT
    # two lines, key and secret, mode 0600; without it TAPEWIRE_API_KEY and TAPEWIRE_API_SECRET
    key_file: Path | None = None
    foreign: ForeignPolicy = "refuse"  # orders and positions that are not this run's
    # of ledger and wallet, account currency; more is an alarm
    wallet_drift: Decimal = Field(Decimal("0.01"), ge=0)
    # an order that could not be sent for so long is closed instead
    expire_after: Duration = Field(30_000, gt=0)
    # how far the venue's views may lag: "not found" proves nothing before
    settle: Duration = Field(3_000, gt=0)
    ask_every: Duration = Field(500, gt=0)  # between two questions after an order whose outcome is unknown
    reconcile_every: Duration = Field(60_000, gt=0)
    poll_every: Duration = Field(2_000, gt=0)  # while the private stream is down
    overlap: Duration = 60_000  # executions of so long before the last one are asked for again
    max_skew: Duration = Field(10_000, gt=0)  # of this machine's clock; less is corrected, more is refused
    start_within: Duration = Field(60_000, gt=0)  # an account that isn't reconciled by then ends the start
    request_timeout: Duration = Field(10_000, gt=0)
    recv_window: Duration = Field(5_000, gt=0)  # how late a request may arrive, in the venue's eyes
    ban_wait: Duration = Field(600_000, gt=0)  # after HTTP 403: the venue asks for ten minutes
    open_timeout: Duration = Field(10_000, gt=0)  # of the private stream
    ping_interval: Duration = Field(20_000, gt=0)
    pong_timeout: Duration = Field(10_000, gt=0)
    reconnect: BackoffConfig = BackoffConfig()
    retry: BackoffConfig = BackoffConfig(first=250, ceiling=5_000)


class ExecutionConfig(Section):
    """Where orders go."""

    mode: Literal["paper", "testnet"] = "paper"
    testnet: TestnetConfig = TestnetConfig()

    def exchange(self) -> ExchangeFactory:
        """The exchange for `Engine`: a real venue's on the testnet, else the paper exchange."""
        if self.mode == "paper":
            return PaperExchange
        return partial(VenueExchange, foreign=self.testnet.foreign, wallet_drift=self.testnet.wallet_drift)
