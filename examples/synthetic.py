"""Generate two years of synthetic daily bars and headlines of a fund called SPY.

The data demonstrates the workflow; results on it prove nothing.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

WORDS = {
    1: (
        "Share buybacks rise as profits beat forecasts",
        "Stocks rally on strong earnings",
        "Factory orders surge past estimates",
    ),
    0: (
        "Index committee publishes its meeting dates",
        "Fund house names a new spokesman",
        "Exchange keeps its trading hours",
    ),
    -1: (
        "Stocks slump as lenders warn of losses",
        "Layoffs spread and profits miss forecasts",
        "Factory orders plunge again",
    ),
}
PLACES = (
    "in the north",
    "in the south",
    "on the coast",
    "abroad",
    "at home",
    "in the valley",
    "at the port",
    "in the capital",
)


def spy(days: int = 500, seed: int = 7) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return (bars by session date, headlines). The same `seed` gives the same data.

    About nine in ten days have a headline at 15:00 UTC. A bullish or bearish headline shifts the return of
    the next day in its direction by a quarter of the daily volatility.
    """
    rng = np.random.default_rng(seed)
    dates = pd.bdate_range("2024-02-01", periods=days, tz="UTC", name="date")
    moods = rng.choice((-1, 0, 1), days, p=(0.35, 0.3, 0.35))
    steps = 0.01 * (rng.standard_normal(days) + 0.25 * np.concatenate(((0,), moods[:-1]))) + 0.0003
    close = 500 * np.exp(np.cumsum(steps))
    opened = np.concatenate(((500.0,), close[:-1])) * np.exp(0.002 * rng.standard_normal(days))
    high = np.maximum(opened, close) * (1 + 0.003 * rng.random(days))
    low = np.minimum(opened, close) * (1 - 0.003 * rng.random(days))
    bars = pd.DataFrame(
        {"open": opened, "high": high, "low": low, "close": close, "volume": 5e7}, index=dates
    ).round(2)
    told = [
        f"{rng.choice(WORDS[mood])} {rng.choice(PLACES)}, survey of {date:%d %B} finds"
        for mood, date in zip(moods, dates, strict=True)
    ]
    news = pd.DataFrame({"published_at": dates + pd.Timedelta(hours=15), "title": told, "currencies": "SPY"})
    return bars, news[rng.random(days) < 0.9]
