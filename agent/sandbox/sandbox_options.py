"""Configuration of a sandbox."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from agent.core.events import HOUR_MS
from agent.sandbox.faults import Fault


@dataclass(frozen=True, slots=True)
class SandboxOptions:
    """A market from kline files, one account, and the faults to inject."""

    klines: tuple[Path, ...]
    symbols: tuple[str, ...] = ()  # of the files in order, or a selection; default: from the file names
    api_key: str = "sandbox-key"
    api_secret: str = "sandbox-secret"
    host: str = "127.0.0.1"
    port: int = 0  # 0: any free port
    speed: float = 1.0  # 1: real time
    balance: Decimal = Decimal(10_000)  # USDT
    start: int | None = None  # time of the files (UTC ms) that becomes the present
    history_bars: int | None = None  # bars of the first file before the present; default: half, at most 1,000
    steps: int = 0  # price moves per bar, at least 4; 0: about one per second of wall time
    loop: bool = False  # start again at the end of the files
    seed: int = 0
    news: Path | None = None
    feed_items: int = 50
    faults: tuple[Fault, ...] = ()
    partial_fills: int = 2  # executions per fill
    participation: float | None = None  # share of a bar's volume for orders; None: unlimited liquidity
    taker_fee: Decimal | None = None  # fraction of the value; None: the category's
    maker_fee: Decimal | None = None  # the same; a rebate is negative
    half_spread_bps: float = 0.5  # paid by takers, each side
    order_latency: int = 0  # ms of the market's clock from an order request's arrival to its handling
    funding_rate: Decimal = Decimal("0.0001")  # per funding interval
    funding_interval: int = 8 * HOUR_MS  # ms
    ip_limit: int = 600  # requests per IP address in 5 s
    ip_ban_s: float = 600.0
    socket_limit: int = 500  # new WebSockets per IP address in 5 min
    ack_delay_s: float = 0.025
