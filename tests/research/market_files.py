"""Files of hourly bars and of scored headlines for tests, generated from a seed."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from agent.core.events import DAY_MS, HOUR_MS
from agent.system.clock import iso

START = 1_704_067_200_000  # 2024-01-01


def write_klines(
    path: Path,
    *,
    days: int,
    seed: int = 1,
    drift: float = 0.0,
    news: dict[int, int] | None = None,
    volatility: float = 0.005,
) -> Path:
    """Write hourly bars of a random walk. `news` maps an hour to the next hour's move: +1 or -1 per cent."""
    random = np.random.default_rng(seed)
    hours = 24 * days
    steps = random.normal(drift, volatility, hours)
    for hour, sign in (news or {}).items():
        if hour + 1 < hours:
            steps[hour + 1] += 0.01 * sign
    closes = 100 * np.exp(np.cumsum(steps))
    opens = np.concatenate(((100.0,), closes[:-1]))
    highs = np.maximum(opens, closes) * 1.001
    lows = np.minimum(opens, closes) * 0.999
    rows = [
        f"{iso(START + hour * HOUR_MS)},{opens[hour]!r},{highs[hour]!r},{lows[hour]!r},{closes[hour]!r},1000"
        for hour in range(hours)
    ]
    path.write_text(
        "\n".join(["open_time,open,high,low,close,volume", *rows]).replace("np.float64(", "").replace(")", "")
        + "\n"
    )
    return path


def headlines(*, days: int, seed: int = 1, every: int = 12) -> dict[int, int]:
    """Return hours with a headline and its sign, +1 for good news or -1 for bad news."""
    random = np.random.default_rng(seed + 100)
    hours = sorted(random.choice(24 * days - 2, 24 * days // every, replace=False).tolist())
    return {hour: int(random.choice((-1, 1))) for hour in hours}


def write_scores(path: Path, signs: dict[int, int], symbol: str = "BTCUSDT") -> Path:
    """Write scored headlines, each published two minutes before its hour ends."""
    rows = []
    for number, (hour, sign) in enumerate(signs.items()):
        known = iso(START + (hour + 1) * HOUR_MS - 120_000)
        up, down = (0.96, 0.02) if sign > 0 else (0.02, 0.96)
        rows.append(f"{known},item {number} of the wire,{symbol},{down},0.02,{up}")
    path.write_text("\n".join(["published_at,title,symbols,bearish,neutral,bullish", *rows]) + "\n")
    return path


def day(number: int) -> str:
    """Return the date of a day of the market, as YYYY-MM-DD."""
    return iso(START + number * DAY_MS)[:10]
