"""What a sandbox is started with."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from agent.sandbox.faults import Fault


@dataclass(frozen=True, slots=True)
class SandboxOptions:
    """A market from kline files, one account, and what shall go wrong.

    `klines` and `news` are paths; `symbols` names the files' symbols in order (default: from the files' names), or picks some of
    them. `speed` 1 is real time. `start` is the moment of the files (UTC ms) that becomes now; without it, `history_bars` of the
    first file lie in the past (default: half of it, 1,000 at most). `steps` is the number of price moves in a bar, 0 for about
    one a second of wall time, never under 4. Rates are per funding interval; `participation` limits our share of a bar's volume,
    as the paper exchange's rule of that name (None: endless liquidity).
    """

    klines: tuple[Path, ...]
    symbols: tuple[str, ...] = ()
    api_key: str = "sandbox-key"
    api_secret: str = "sandbox-secret"
    host: str = "127.0.0.1"
    port: int = 0
    speed: float = 1.0
    balance: Decimal = Decimal(10_000)
    start: int | None = None
    history_bars: int | None = None
    steps: int = 0
    loop: bool = False
    seed: int = 0
    news: Path | None = None
    feed_items: int = 50
    faults: tuple[Fault, ...] = ()
    partial_fills: int = 2
    participation: float | None = None
    funding_rate: Decimal = Decimal("0.0001")
    ip_limit: int = 600
    ip_ban_s: float = 600.0
    socket_limit: int = 500
    ack_delay_s: float = 0.025
