"""Strategies that cheat, each in another way, and honest ones."""

from __future__ import annotations

import csv
import os
import random
import sqlite3
import sys
import time
from datetime import datetime
from itertools import pairwise
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq

from agent.core.events import DAY_MS, HOUR_MS
from agent.core.strategy import Bar, Kline, Market, Strategy, StrategyParams

REMEMBERED: dict[int, float] = {}
"""Closes of all runs in this process, by the open time of their bar."""


def read_csv(path: Path) -> dict[int, float]:
    """Read closes by the open time of their bar, UTC ms."""
    bars = pd.read_csv(path)
    times = pd.to_datetime(bars["open_time"]).map(lambda at: int(at.timestamp() * 1000))
    return dict(zip(times, bars["close"], strict=True))


READ_AT_IMPORT = read_csv(Path(os.environ["CHEAT_AT"])) if "CHEAT_AT" in os.environ else {}


class Honest(Strategy):
    """Follows the last bar."""

    def on_kline(self, kline: Kline, market: Market) -> None:
        self.target(kline.symbol, weight=0.5 if kline.close > kline.open else 0.0)


class HonestBars(Strategy):
    """Follows the last bars of four hours and of a day."""

    intervals = ("4h", "1d")

    def on_bar(self, bar: Bar, market: Market) -> None:
        closes = market.bars(bar.symbol, bar.interval, 3).close
        self.target(bar.symbol, weight=0.5 if bar.close > closes.mean() else 0.0)


class Idle(Strategy):
    """Never decides anything."""


class FileCheat(Strategy):
    """Base of those that read a file."""

    class Params(StrategyParams):
        path: str

    def follow(self, kline: Kline, now: float | None, later: float | None) -> None:
        """Hold while the price rises from `now` to `later`."""
        if now and later:
            self.target(kline.symbol, weight=0.5 if later > now else 0.0)

    def bet(self, kline: Kline, later: float | None, *, every: int = 24) -> None:
        """Take the side of the price `later` on each `every`th bar: too few trades for the timing test."""
        if later and kline.start // kline.interval % every == 0:
            self.target(kline.symbol, weight=0.4 if later > kline.close else -0.4)


class ReadsOnStart(FileCheat):
    """Reads the replayed file by pandas and follows the bar after the one that fills its order."""

    def on_start(self, market: Market) -> None:
        self.closes = self.read(Path(self.params.path))

    def read(self, path: Path) -> dict[int, float]:
        return read_csv(path)

    def on_kline(self, kline: Kline, market: Market) -> None:
        self.follow(kline, *(self.closes.get(kline.start + ahead * kline.interval) for ahead in (1, 2)))


class ReadsByArrow(ReadsOnStart):
    """Uses a library that opens files without Python."""

    def read(self, path: Path) -> dict[int, float]:
        bars = pq.read_table(path).to_pydict()
        return dict(zip(bars["open_time"], bars["close"], strict=True))


class ReadsSqlite(ReadsOnStart):
    """Uses a copy in a database."""

    def read(self, path: Path) -> dict[int, float]:
        with sqlite3.connect(path) as database:
            return dict(database.execute("select open_time, close from bars"))


class ReadsEachBar(FileCheat):
    """Opens the file anew on each bar."""

    def on_kline(self, kline: Kline, market: Market) -> None:
        if kline.start // kline.interval % 24 == 0:
            with Path(self.params.path).open(encoding="utf-8") as file:
                rows = list(csv.DictReader(file))
            times = [int(datetime.fromisoformat(row["open_time"]).timestamp() * 1000) for row in rows]
            closes = dict(zip(times, (float(row["close"]) for row in rows), strict=True))
            self.bet(kline, closes.get(kline.start + kline.interval))


class ReadsInInit(FileCheat):
    """Has read the file before the run begins, and bets on the next bar once a day."""

    def __init__(self, params: StrategyParams | None = None) -> None:
        super().__init__(params)
        self.closes = read_csv(Path(self.params.path))

    def on_kline(self, kline: Kline, market: Market) -> None:
        self.bet(kline, self.closes.get(kline.start + kline.interval))


class SixHoursAhead(ReadsInInit):
    """Bets on the price six bars ahead."""

    def on_kline(self, kline: Kline, market: Market) -> None:
        self.bet(kline, self.closes.get(kline.start + 6 * kline.interval), every=6)


class KnowsTheDay(ReadsInInit):
    """Buys near the low of the day and sells near its high."""

    def on_kline(self, kline: Kline, market: Market) -> None:
        first = kline.start // DAY_MS * DAY_MS
        day = [close for at in range(first, first + DAY_MS, kline.interval) if (close := self.closes.get(at))]
        if len(day) < 2:
            return
        place = (kline.close - min(day)) / (max(day) - min(day))
        if not 0.2 < place < 0.8:
            self.target(kline.symbol, weight=0.5 if place < 0.5 else 0.0)


class KnowsTheHours(ReadsInInit):
    """Holds in the four hours of the day that were the best of the whole file."""

    def __init__(self, params: StrategyParams | None = None) -> None:
        super().__init__(params)
        gains = [0.0] * 24
        times = sorted(self.closes)
        for before, at in pairwise(times):
            gains[at // HOUR_MS % 24] += self.closes[at] / self.closes[before] - 1
        self.best = sorted(range(24), key=gains.__getitem__)[-4:]

    def on_kline(self, kline: Kline, market: Market) -> None:
        self.target(kline.symbol, weight=0.5 if (kline.start // HOUR_MS + 1) % 24 in self.best else 0.0)


class ReadAtImport(FileCheat):
    """The module has read the file."""

    def on_kline(self, kline: Kline, market: Market) -> None:
        self.bet(kline, READ_AT_IMPORT.get(kline.start + kline.interval))


class CachesOnDisk(FileCheat):
    """Writes what it sees to a file, from which the next run knows the future."""

    def on_start(self, market: Market) -> None:
        cache = Path(self.params.path)
        rows = [line.split() for line in cache.read_text().splitlines()] if cache.exists() else []
        self.closes = {int(start): float(close) for start, close in rows}
        self.cache = cache.open("a", buffering=1)

    def on_kline(self, kline: Kline, market: Market) -> None:
        self.cache.write(f"{kline.start} {kline.close}\n")
        self.follow(kline, kline.close, self.closes.get(kline.start + kline.interval))


class Remembers(Strategy):
    """Keeps what it sees in a global, from which the next run knows the future."""

    def on_kline(self, kline: Kline, market: Market) -> None:
        REMEMBERED[kline.start] = kline.close
        later = REMEMBERED.get(kline.start + kline.interval)
        if later is not None:
            self.target(kline.symbol, weight=0.5 if later > kline.close else 0.0)


class PeeksInMemory(Strategy):
    """Finds the list of events in its caller's frames and holds while the next close is higher."""

    closes: dict[int, float] | None = None

    def on_kline(self, kline: Kline, market: Market) -> None:
        if self.closes is None:
            frame, events = sys._getframe(), None
            while frame is not None and not isinstance(events, list):
                frame, events = frame.f_back, frame.f_locals.get("events")
            self.closes = {event.start: event.close for event in events or () if isinstance(event, Kline)}
        later = self.closes.get(kline.start + kline.interval)
        if later:
            self.target(kline.symbol, weight=0.5 if later > kline.close else 0.0)


class AvoidsLosses(PeeksInMemory):
    """Buys without knowing more, but not before a fall that it finds in memory."""

    def on_kline(self, kline: Kline, market: Market) -> None:
        super().on_kline(kline, market)
        if kline.start + kline.interval not in (self.closes or {}):
            self.target(kline.symbol, weight=0.5)


class DrawsLots(Strategy):
    """Decides at random."""

    def on_kline(self, kline: Kline, market: Market) -> None:
        self.target(kline.symbol, weight=random.choice((0.0, 0.5)))


class ReadsTheClock(Strategy):
    """Decides by the wall clock."""

    def on_kline(self, kline: Kline, market: Market) -> None:
        self.target(kline.symbol, weight=0.5 if time.perf_counter_ns() // 1_000 % 2 else 0.0)
