"""A longer market: the sample's 36 hours forward and backward in turn, so that prices don't jump."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Final

import pandas as pd

from tests.conftest import ROOT

SYMBOLS: Final = ("BTCUSDT", "ETHUSDT")


@cache
def _sample(symbol: str) -> pd.DataFrame:
    return pd.read_csv(
        ROOT / f"tests/sample_data/{symbol}-1m.csv", parse_dates=["open_time"], index_col="open_time"
    )


def write_long_sample(folder: Path, minutes: int, passes: int) -> list[Path]:
    """Write a file of bars of `minutes` for each symbol, `passes` times 36 hours long."""
    return [_write(folder / f"{symbol}-{minutes}m.csv", symbol, minutes, passes) for symbol in SYMBOLS]


def _write(path: Path, symbol: str, minutes: int, passes: int) -> Path:
    there = _sample(symbol)
    back = there.iloc[::-1].rename(columns={"open": "close", "close": "open"})[list(there.columns)]
    whole = pd.concat([back if number % 2 else there for number in range(passes)], ignore_index=True)
    whole.index = pd.date_range(there.index[0], periods=len(whole), freq="1min", name="open_time")
    how = {"open": "first", "high": "max", "low": "min", "close": "last", "volume": "sum"}
    folded = whole.resample(f"{minutes}min").agg(how)
    folded.index = folded.index.strftime("%Y-%m-%dT%H:%M:%SZ")
    folded.to_csv(path, index_label="open_time")
    return path
