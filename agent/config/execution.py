"""Configuration of execution: the paper exchange, or a venue without real money."""

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
from agent.core.sleeve_venue import AccountExchange, MakeAccount
from agent.core.venue import ForeignPolicy, VenueExchange
from agent.system.backoff import BackoffConfig

VENUES: Final = ("testnet", "demo")
_LOCAL: Final = re.compile(r"http://(localhost|127\.0\.0\.1|\[::1\])(:[0-9]{1,5})?/?")


def _known_venue(value: str) -> str:
    if value not in VENUES and not _LOCAL.fullmatch(value):
        known = ", ".join(VENUES)
        raise ValueError(f"orders go to {known} or a sandbox of this machine such as http://127.0.0.1:8600")
    return value


class TestnetConfig(Section):
    """The venue of orders, and the timeouts of its gateway.

    Times are real time, even if a sandbox runs a faster market. The hosts to which private requests may go
    can't be configured: they are in code (agent/live/gateway/allowlist.py).
    """

    __test__ = False  # not a pytest class

    venue: Annotated[str, AfterValidator(_known_venue)] = "testnet"  # or demo, or http://127.0.0.1:PORT
    # two lines, key and secret, mode 0600; if not set, TAPEWIRE_API_KEY and TAPEWIRE_API_SECRET are used
    key_file: Path | None = None
    foreign: ForeignPolicy = "refuse"  # for orders and positions that are not this run's
    # largest tolerated difference of ledger and wallet, in account currency
    wallet_drift: Decimal = Field(Decimal("0.01"), ge=0)
    # an order that could not be sent within this time is closed as rejected
    expire_after: Duration = Field(30_000, gt=0)
    # longest lag of the venue's order lists: a "not found" before it proves nothing
    settle: Duration = Field(3_000, gt=0)
    ask_every: Duration = Field(500, gt=0)  # between two queries for an order with unknown outcome
    reconcile_every: Duration = Field(60_000, gt=0)
    poll_every: Duration = Field(2_000, gt=0)  # while the private stream is down
    overlap: Duration = 60_000  # executions this long before the last one are fetched again
    max_skew: Duration = Field(10_000, gt=0)  # of this machine's clock: less is corrected, more is an error
    start_within: Duration = Field(60_000, gt=0)  # the start fails if the account isn't reconciled by then
    request_timeout: Duration = Field(10_000, gt=0)
    recv_window: Duration = Field(5_000, gt=0)  # the venue refuses requests that arrive later than this
    ban_wait: Duration = Field(600_000, gt=0)  # after HTTP 403: the venue requires ten minutes
    open_timeout: Duration = Field(10_000, gt=0)  # of the private stream
    ping_interval: Duration = Field(20_000, gt=0)
    pong_timeout: Duration = Field(10_000, gt=0)
    reconnect: BackoffConfig = BackoffConfig()
    retry: BackoffConfig = BackoffConfig(first=250, ceiling=5_000)


class ExecutionConfig(Section):
    """The exchange that executes orders."""

    mode: Literal["paper", "testnet"] = "paper"
    testnet: TestnetConfig = TestnetConfig()

    def exchange(self) -> ExchangeFactory:
        """Return the exchange for `Engine`: a venue's in mode testnet, else the paper exchange."""
        if self.mode == "paper":
            return PaperExchange
        return partial(VenueExchange, foreign=self.testnet.foreign, wallet_drift=self.testnet.wallet_drift)

    def account(self) -> MakeAccount | None:
        """Return the account for `SleevedEngine`; None on paper."""
        if self.mode == "paper":
            return None
        return partial(AccountExchange, foreign=self.testnet.foreign, wallet_drift=self.testnet.wallet_drift)
