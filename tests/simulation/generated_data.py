"""Generated bars and headlines. Prices are volatile enough for stops, limits and liquidations to occur."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Final

from agent.core.events import MINUTE_MS, Kline

T0: Final = 1_735_689_600_000  # 2025-01-01T00:00Z
SYMBOLS: Final = ("BTCUSDT", "ETHUSDT")
_FIRST: Final = {"BTCUSDT": 60_000.0, "ETHUSDT": 3_000.0}


def utc(at: float) -> int:
    """Return the venue's clock (UTC ms) at loop time `at`."""
    return T0 + round(at * 1000)


def random_walk(
    rng: random.Random, symbol: str, bars: int, *, start: int = T0, volatility: float = 0.004
) -> list[Kline]:
    """Return one-minute bars from `start` (UTC ms). A bar moves by about `volatility`; one in thirty by
    eight times that.
    """
    price = _FIRST[symbol]
    path = []
    for number in range(bars):
        opened = price
        wide = volatility * (8 if rng.random() < 1 / 30 else 1)
        price = round(max(opened * (1 + rng.gauss(0, wide)), 1.0), 1)
        high = round(max(opened, price) * (1 + abs(rng.gauss(0, wide / 3))), 1)
        low = round(min(opened, price) * (1 - abs(rng.gauss(0, wide / 3))), 1)
        volume = round(rng.uniform(0.5, 400), 3)
        opens = start + number * MINUTE_MS
        closes = opens + MINUTE_MS
        path.append(
            Kline(
                symbol,
                MINUTE_MS,
                opens,
                closes,
                closes,
                opened,
                high,
                low,
                price,
                volume,
                round(volume * price, 2),
            )
        )
    return path


def running_bar(bar: Kline, share: float) -> Kline:
    """Return the state of a bar after `share` of its duration, with the price on its way from open to
    close.
    """
    ts = bar.start + round(bar.interval * share)
    close = round(bar.open + (bar.close - bar.open) * share, 1)
    high, low = max(bar.open, close), min(bar.open, close)
    volume, turnover = round(bar.volume * share, 3), round(bar.turnover * share, 2)
    return Kline(
        bar.symbol,
        bar.interval,
        bar.start,
        ts,
        ts,
        bar.open,
        high,
        low,
        close,
        volume,
        turnover,
        confirm=False,
    )


COINS: Final = ("Bitcoin", "Ether", "Bitcoin and Ether", "A bank")
VERBS: Final = ("soars as", "sinks while", "waits for", "ignores", "follows", "leads")
THINGS: Final = (
    "miners",
    "funds",
    "lenders",
    "regulators",
    "harvests",
    "ferries",
    "glaciers",
    "orchards",
    "lighthouses",
)


def headline(rng: random.Random, number: int, coins: Sequence[str] = COINS) -> str:
    """Return a random headline. The number makes it unique."""
    return (
        f"{rng.choice(coins)} {rng.choice(VERBS)} {rng.choice(THINGS)} and {rng.choice(THINGS)}, "
        f"bulletin {number}"
    )
