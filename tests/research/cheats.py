"""Strategies that know what they can't know, each in its own way, and one that doesn't."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq

from agent.core.strategy import Kline, Market, Strategy, StrategyParams

REMEMBERED: dict[int, float] = {}
"""Closes by the start of their bar, from whatever run."""


class Honest(Strategy):
    """Follows the last bar."""

    def on_kline(self, kline: Kline, market: Market) -> None:
        self.target(kline.symbol, weight=0.5 if kline.close > kline.open else 0.0)


class Idle(Strategy):
    """Never decides anything."""


class ReadsTheFile(Strategy):
    """Looks up in the file that is replayed what comes after its order is filled."""

    class Params(StrategyParams):
        """The file."""

        path: str

    def on_start(self, market: Market) -> None:
        self.closes = self.read(Path(self.params.path))

    def read(self, path: Path) -> dict[int, float]:
        """Closes by the open time of their bar."""
        bars = pd.read_csv(path)
        times = pd.to_datetime(bars["open_time"]).map(lambda at: int(at.timestamp() * 1000))
        return dict(zip(times, bars["close"], strict=True))

    def on_kline(self, kline: Kline, market: Market) -> None:
        soon, later = (self.closes.get(kline.start + ahead * kline.interval) for ahead in (1, 2))
        if soon and later:
            self.target(kline.symbol, weight=0.5 if later > soon else 0.0)


class ReadsItUnseen(ReadsTheFile):
    """The same by a library that opens files by itself."""

    def read(self, path: Path) -> dict[int, float]:
        """Closes by the open time of their bar."""
        bars = pq.read_table(path).to_pydict()
        return dict(zip(bars["open_time"], bars["close"], strict=True))


class ReadsItBeforehand(ReadsTheFile):
    """Has read the file before anybody watches, looks one bar ahead, and changes sides now and then only."""

    def __init__(self, params: StrategyParams | None = None) -> None:
        super().__init__(params)
        self.closes = self.read(Path(self.params.path))

    def on_start(self, market: Market) -> None:
        """Nothing to do any more."""

    def on_kline(self, kline: Kline, market: Market) -> None:
        later = self.closes.get(kline.start + kline.interval)
        if later and kline.start // kline.interval % 24 == 0:
            self.target(kline.symbol, weight=0.4 if later > kline.close else -0.4)


class Remembers(Strategy):
    """What one run has seen, the next one knows ahead."""

    def on_kline(self, kline: Kline, market: Market) -> None:
        REMEMBERED[kline.start] = kline.close
        later = REMEMBERED.get(kline.start + kline.interval)
        if later is not None:
            self.target(kline.symbol, weight=0.5 if later > kline.close else 0.0)


class Dices(Strategy):
    """Draws lots."""

    def on_kline(self, kline: Kline, market: Market) -> None:
        self.target(kline.symbol, weight=random.choice((0.0, 0.5)))


class ReadsTheClock(Strategy):
    """Decides by the time of the wall."""

    def on_kline(self, kline: Kline, market: Market) -> None:
        self.target(kline.symbol, weight=0.5 if time.perf_counter_ns() // 1_000 % 2 else 0.0)
